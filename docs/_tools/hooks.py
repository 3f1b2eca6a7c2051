"""mkdocs calls these while it builds: they add the generated pages, links into the repository, and llms.txt.

The README is the first page.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

import reference
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[2]
SOURCE = "source"  # folder of the site that holds the files of the repository to which pages link
_HOME = "---\nhide: [navigation]\n---\n\n"  # the first page has no pages beside it
_FENCE = re.compile(r"(^ *```.*?^ *```$)", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<=\]\()([^()\s#]+)(?=(?:#[^()\s]*)?\))")
_NAV = {"COMMANDS": reference.commands_nav, "API": reference.api_nav}

_written: dict[str, str] = {}  # page in the docs folder -> its Markdown
_listed: list[str] = []  # pages in the order of the navigation


def on_config(config: Any) -> Any:
    """Fill the generated parts of the navigation."""
    for section in config.nav:
        for entries in section.values():
            for entry in entries if isinstance(entries, list) else ():
                for title, value in entry.items():
                    if isinstance(value, str) and value in _NAV:
                        entry[title] = _NAV[value]()
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages, and the files outside the docs folder to which pages link."""
    _written.clear()
    _listed[:] = _paths(config.nav)
    home = _HOME + (ROOT / "README.md").read_text(encoding="utf-8")
    for path, content in {"index.md": home, **reference.generated_pages()}.items():
        files.append(File.generated(config, path, content=content))
    waiting = [file for file in files if file.is_documentation_page()]
    while waiting:
        page = waiting.pop()
        for target in _LINK.findall(_without_code(page.content_string)):
            path = _in_repository(target, page.src_uri)
            place = _in_site(path) if path else ""
            if place.startswith(f"{SOURCE}/") and files.get_file_from_path(place) is None:
                added = File.generated(config, place, content=(ROOT / str(path)).read_bytes())
                files.append(added)
                if added.is_documentation_page():
                    waiting.append(added)
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Lead links that leave the docs folder to the copies in the site."""

    def replaced(match: re.Match[str]) -> str:
        path = _in_repository(match.group(), page.file.src_uri)
        if path is None:
            return match.group()
        return posixpath.relpath(_in_site(path), posixpath.dirname(page.file.src_uri) or ".")

    parts = _FENCE.split(markdown)
    text = "".join(part if place % 2 else _LINK.sub(replaced, part) for place, part in enumerate(parts))
    _written[page.file.src_uri] = text
    return text


def on_post_build(config: Any) -> None:
    """Write llms.txt, and beside each page its Markdown, which programs read more easily than HTML."""
    site = Path(config.site_dir)
    for path, text in _written.items():
        if not _is_rendered(text):
            (site / path).parent.mkdir(parents=True, exist_ok=True)
            (site / path).write_text(text, encoding="utf-8")
    (site / "llms.txt").write_text("\n".join(_llms(config)) + "\n", encoding="utf-8")


def _llms(config: Any) -> list[str]:
    lines = [f"# {config.site_name}", "", f"> {config.site_description}."]
    for section in config.nav:
        for title, entries in section.items():
            lines += [""] if isinstance(entries, str) else ["", f"## {title}", ""]
            lines += [_llms_line(path) for path in _paths(entries)]
    return lines


def _llms_line(path: str) -> str:
    text = _written[path]
    title = next(line.removeprefix("# ") for line in text.splitlines() if line.startswith("# "))
    address = path if not _is_rendered(text) else path.removesuffix(".md") + ".html"
    plain = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", _without_code(text)).replace("\\", "")
    blocks = (" ".join(block.split()) for block in plain.split("\n\n"))
    about = next((block for block in blocks if block and block[0].isalnum()), "").partition(". ")[0].rstrip(".:")
    return f"- [{title}]({address}): {about}." if about else f"- [{title}]({address})"


def _paths(entries: Any) -> list[str]:
    if isinstance(entries, str):
        return [entries]
    values = entries.values() if isinstance(entries, dict) else entries
    return [path for value in values for path in _paths(value)]


def _is_rendered(text: str) -> bool:
    """Whether mkdocstrings makes the text, so that the Markdown alone holds nothing."""
    return "\n::: " in text


def _without_code(text: str) -> str:
    return _FENCE.sub("", text)


def _in_repository(target: str, page: str) -> str | None:
    """The file or folder in the repository that a link of a page means; None for a link that mkdocs resolves itself."""
    if re.match(r"[a-z]+:|/", target):
        return None
    home = "README.md" if page == "index.md" else page.removeprefix(f"{SOURCE}/")
    outside = home == "README.md" or page != home
    path = posixpath.normpath(posixpath.join(posixpath.dirname(home if outside else f"docs/{page}"), target))
    if path.startswith("docs/") and (ROOT / path).is_dir():
        return path
    return path if (outside or not path.startswith("docs/")) and (ROOT / path).is_file() else None


def _in_site(path: str) -> str:
    """The place in the site of a file in the repository; of a folder, the first page of it in the navigation."""
    if path == "README.md":
        return "index.md"
    if not path.startswith("docs/"):
        return f"{SOURCE}/{path}"
    place = path.removeprefix("docs/")
    return next((page for page in _listed if page.startswith(f"{place}/")), place)
