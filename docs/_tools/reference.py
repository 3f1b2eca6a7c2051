"""Reference pages that the code itself provides: a page per command, a page per public package, and llms.txt.

mkdocs runs this through `hooks.py`. The tests use it to list the pages that a site must have.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

COMMANDS = "reference/commands"
API = "reference/api"
PACKAGES = {  # package: heading of its page
    "seqpar_deploy": "Bundles and recognition",
    "seqpar_deploy.decoding": "Decoding strategies",
    "seqpar_deploy.backends": "Backends",
    "seqpar_deploy.video": "Video",
    "seqpar_deploy.video.sinks": "Video sinks",
    "seqpar_deploy.video.gstreamer": "GStreamer",
    "seqpar_deploy.serving": "Serving",
    "seqpar_deploy.datasets": "Datasets",
    "seqpar_deploy.synth": "Synthetic people",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class CommandPage:
    """One command: its words after the program, for example `("export", "engine")`, its page, and its own commands."""

    words: tuple[str, ...]
    path: str
    command: Any
    context: Any
    children: tuple[CommandPage, ...] = ()

    @property
    def title(self) -> str:
        """The command as typed."""
        return " ".join(("seqpar", *self.words))

    @property
    def summary(self) -> str:
        """First line of the command's help."""
        return str(self.command.help or "").strip().partition("\n")[0]

    def walk(self) -> Iterator[CommandPage]:
        """This command and all below it."""
        yield self
        for child in self.children:
            yield from child.walk()


def command_pages() -> CommandPage:
    """Return the tree of commands of `seqpar`."""
    from typer.main import get_command

    from seqpar_deploy.cli.main import app

    return _page(get_command(app), (), None)


def _page(command: Any, words: tuple[str, ...], parent: Any) -> CommandPage:
    context = command.context_class(command, info_name=words[-1] if words else "seqpar", parent=parent)
    names = command.list_commands(context) if hasattr(command, "list_commands") else ()
    folder = "/".join((COMMANDS, *words))
    return CommandPage(
        words=words,
        path=f"{folder}/index.md" if names else f"{folder}.md",
        command=command,
        context=context,
        children=tuple(_page(command.get_command(context, name), (*words, name), context) for name in names),
    )


def command_markdown(page: CommandPage) -> str:
    """Return a command's page: usage, description, examples, arguments, options, and the commands of a group."""
    text, _, examples = str(page.command.help or "").replace("\b", "").partition("\nExamples:\n")
    examples = examples or str(page.command.epilog or "")
    usage = " ".join((page.title, *page.command.collect_usage_pieces(page.context)))
    blocks = [f"# {page.title}", _prose(text), f"```text title='Usage'\n{usage}\n```"]
    if examples.strip():
        blocks += ["## Examples", f"```bash\n{inspect.cleandoc(examples)}\n```"]
    arguments, options = _records(page)
    for heading, records in (("Arguments", arguments), ("Options", options)):
        if records:
            blocks += [f"## {heading}", _definitions(records)]
    if page.children:
        here = page.path.rpartition("/")[0]
        rows = [
            f"- [`{child.title}`]({child.path.removeprefix(here + '/')}): {child.summary}" for child in page.children
        ]
        blocks += ["## Commands", "\n".join(rows)]
    return "\n\n".join(blocks) + "\n"


def _records(page: CommandPage) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """(as typed, help) of the arguments and of the options, as `--help` prints them."""
    parameters = page.command.get_params(page.context)
    found: tuple[list[tuple[str, str]], list[tuple[str, str]]] = ([], [])
    for parameter in parameters:
        record = parameter.get_help_record(page.context)
        if record:
            name, text = record
            if "Required." in text:
                text = text.removesuffix("[required]")
            found[parameter.param_type_name == "option"].append((name, text))
    return found


def _definitions(records: list[tuple[str, str]]) -> str:
    """A definition list: long types and texts need the whole width."""
    return "\n\n".join(f"`{' '.join(name.split())}`\n:   {_prose(text)}" for name, text in records)


def _prose(text: str) -> str:
    for character in "<>*_":  # a file pattern is no emphasis, a placeholder no tag
        text = text.replace(character, f"\\{character}")
    return text.strip()


def api_path(package: str) -> str:
    """Return the page of a public package."""
    return f"{API}/{package}.md"


def public_names(package: str) -> list[str]:
    """Return the names of a package's `__all__`."""
    return list(importlib.import_module(package).__all__)


def api_markdown(package: str) -> str:
    """Return a package's page: every name of its `__all__`, of which mkdocstrings makes the text.

    A name that another package makes public too is described there, and linked.
    """
    blocks = [f"# {PACKAGES[package]}", f"Import these from `{package}`."]
    homes = _homes()
    for name in public_names(package):
        home, value = homes[package, name], getattr(importlib.import_module(package), name)
        if isinstance(value, int | str):  # a constant, which may be one of several in an assignment
            blocks.append(f"## {name} {{ #{package}.{name} }}\n\n`{name} = {value!r}`")
        elif home == package:
            blocks.append(f"::: {package}.{name}")
        else:
            blocks.append(f"## {name} {{ #{package}.{name} }}\n\nThe same as [`{home}.{name}`][{home}.{name}].")
    return "\n\n".join(blocks) + "\n"


def _homes() -> Mapping[tuple[str, str], str]:
    """The package that describes each (package, name): the first of PACKAGES that has the object."""
    homes, first = {}, {}
    for package in PACKAGES:
        for name in public_names(package):
            thing = getattr(importlib.import_module(package), name)
            key = (name, id(thing))
            homes[package, name] = first.setdefault(key, package)
    return homes


def api_index() -> str:
    """Return the page that lists the packages."""
    rows = [
        f"- [`{package}`]({package}.md): {PACKAGES[package].lower()} ({len(public_names(package))} names)"
        for package in PACKAGES
    ]
    return (
        "# Python API\n\nThese names are public: a release that changes one has a line in the changelog. "
        "Other modules may change at any time.\n\n" + "\n".join(rows) + "\n"
    )


def generated_pages() -> dict[str, str]:
    """Return all generated pages: path in the docs folder -> Markdown."""
    pages = {page.path: command_markdown(page) for page in command_pages().walk()}
    pages[f"{API}/index.md"] = api_index()
    return pages | {api_path(package): api_markdown(package) for package in PACKAGES}


def commands_nav() -> list[Any]:
    """Return the navigation of the commands; the first entry of a group is its own page."""

    def entry(page: CommandPage) -> dict[str, Any]:
        name = page.words[-1]
        return {name: [page.path, *map(entry, page.children)]} if page.children else {name: page.path}

    root = command_pages()
    return [root.path, *map(entry, root.children)]


def api_nav() -> list[Any]:
    """Return the navigation of the API."""
    return [f"{API}/index.md", *({package: api_path(package)} for package in PACKAGES)]
