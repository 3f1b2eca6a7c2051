"""Reads the class names in a detector's metadata, and chooses the classes of people.

Ultralytics writes `names`, a Python dict. Others write JSON, lists or plain text under other keys: `class_names`
(Deepness), `class_labels` as "0:person" lines, `id2label` (Hugging Face), `labels`, COCO's `categories`.
"""

from __future__ import annotations

import ast
import json
import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any

from seqpar_deploy.errors import DetectorError

_KEYS = (
    *("names", "classnames", "classlabels", "id2label", "idtolabel", "idx2label", "id2name", "labelnames", "labels"),
    *("classes", "classlist", "labelmap", "classmap", "categories", "label2id", "class2id", "class2idx", "classtoidx"),
)
_WORDS = """
    person persons people pedestrian pedestrians human humans humanbeing walker walkers body fullbody wholebody
    personne personnes pieton pietons pietonne humain humains gens individu individus
    persona personas persone peaton peatones humano humanos gente pessoa pessoas pedestre pedestres
    pedone pedoni umano umani persoana persoane pietoni oameni vianant vianants
    personen mensch menschen fussganger fussgangerin fussgaenger fußgänger leute passant passanten
    persoon voetganger voetgangers mens mensen
    personer manniska manniskor menneske mennesker fotgangare fotgjenger fotgjengere fodgænger fodgængere
    henkilo henkilot ihminen ihmiset jalankulkija jalankulkijat inimene inimesed isik jalakäija
    osoba osoby człowiek czlowiek ludzie pieszy piesi clovek lide ludia chodec chodci covjek čovjek ljudi pješak pesak
    személy ember emberek gyalogos žmogus asmuo cilvēks
    insan insanlar kişi kişiler yaya yayalar orang manusia pejalankaki người ngườiđibộ
    человек люди пешеход пешеходы персона людина пішохід особа човек хора пешеходец пешак
    άνθρωπος άνθρωποι άτομο πεζός πεζοί
    人 行人 人物 人员 人員 人类 人類 路人 人体 人間 歩行者 ヒト ひと 사람 사람들 보행자 행인 인간
    شخص أشخاص إنسان انسان ناس مشاة نفر عابرپیاده אדם אנשים הולךרגל
    व्यक्ति इंसान लोग मनुष्य पैदलयात्री คน บุคคล คนเดินเท้า
"""  # noqa: RUF001
# People, if no class is one of the words above.
_KINDS = "man men woman women boy boys girl girls child children kid kids adult adults"
_PLACEHOLDER = re.compile(r"(?:class|label|object|category|obj|item|target|cls)?[ _-]*\d*", re.IGNORECASE)


def _plain(text: str) -> str:
    """Return a name without case, accents, spaces and a number before it: "Fußgänger" is "fussganger"."""
    text = re.sub(r"^\s*\d+\s*[:.)_ -]\s*", "", text)
    letters = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", text).casefold())
    return "".join(letter for letter in letters if letter.isalnum())


_PEOPLE = frozenset(map(_plain, _WORDS.split()))
_PEOPLE_BY_KIND = frozenset(_KINDS.split())


def read_names(metadata: Mapping[str, str]) -> dict[int, str]:
    """Return the class names in a file's metadata by index. Empty if there are none, or only "class0", "class1"."""
    values: list[tuple[int, Any]] = []
    _collect({key: _parse(value) for key, value in metadata.items()}, values, depth=3)
    for _rank, value in sorted(values, key=lambda pair: pair[0]):
        names = _by_index(value)
        if names and (len(names) == 1 or not all(_PLACEHOLDER.fullmatch(name.strip()) for name in names.values())):
            return names
    return {}


def people_among(names: Mapping[int, str]) -> list[int]:
    """Return the classes of people. Raises DetectorError if none or an unclear one is."""
    if len(names) == 1 and all(_PLACEHOLDER.fullmatch(name.strip()) for name in names.values()):
        return list(names)  # Ultralytics names the only class "item" if it was trained with single_cls
    found = [index for index, name in names.items() if any(_is(one, _PEOPLE) for one in _alternatives(name))]
    found = found or [
        index for index, name in names.items() if any(_is(one, _PEOPLE_BY_KIND) for one in _alternatives(name))
    ]
    if not found:
        near = [name for name in names.values() if any(_is(word, _PEOPLE) for word in re.split(r"[\W_]+", name))]
        reason = "must include one named person" if near else "must include person"
        raise DetectorError(
            f"its classes {reason}, got {_listed(near or names.values())}; choose with --person-class, by name or index"
        )
    return found


def choose(wanted: int | str, names: Mapping[int, str]) -> list[int]:
    """Return the classes that a caller names: an index, a name, or several with commas. Raises DetectorError."""
    by_name: dict[str, list[int]] = {}
    for index, name in names.items():
        by_name.setdefault(_plain(name), []).append(index)
    if isinstance(wanted, str) and _plain(wanted) in by_name and not wanted.strip().isdecimal():
        return by_name[_plain(wanted)]  # a name may hold a comma
    chosen = []
    for part in [wanted] if isinstance(wanted, int) else [part.strip() for part in wanted.split(",")]:
        if isinstance(part, int) or re.fullmatch(r"-?\d+", part):
            chosen.append(int(part))
        elif _plain(part) and _plain(part) in by_name:
            chosen += by_name[_plain(part)]
        else:
            known = f"one of {_listed(names.values())}" if names else "an index, because the file has no class names"
            raise DetectorError(f"--person-class must be {known}, got {part!r}; use a name or an index from 0")
    if min(chosen) < 0:
        raise DetectorError(f"--person-class must be 0 or more, got {min(chosen)}; use a name or an index from 0")
    if names and max(chosen) > max(names):
        raise DetectorError(
            f"--person-class must be at most {max(names)}, the last of its classes, got {max(chosen)}; "
            f"its classes are {_listed(names.values())}"
        )
    return sorted(set(chosen))


def _is(name: str, words: frozenset[str]) -> bool:
    return _plain(name) in words


def _alternatives(name: str) -> list[str]:
    """Return a name and its synonyms: "pedestrian/person", "person (walking)", "person, individual"."""
    return [name, *re.split(r"[,/|;()\[\]]", name)]


def _listed(names: Iterable[str]) -> str:
    shown = [name.strip()[:40] for name in names]
    return ", ".join(shown[:12]) + (f" and {len(shown) - 12} more" if len(shown) > 12 else "")


def _collect(value: Any, found: list[tuple[int, Any]], *, depth: int) -> None:
    """Collect the values under a key of class names, and how early the key is in `_KEYS`."""
    if not isinstance(value, dict) or depth == 0:
        return
    for key, inner in value.items():
        plain = _plain(str(key))
        if plain in _KEYS:
            found.append((_KEYS.index(plain), inner))
        _collect(inner, found, depth=depth - 1)


def _parse(text: str) -> Any:
    """Return the value of a text: JSON, a Python literal, or the text itself."""
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(text.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
            continue
    return text


def _by_index(value: Any) -> dict[int, str]:
    """Return names by index from a list, either direction of a dict, COCO's categories, or lines of text."""
    try:
        if isinstance(value, str):
            if value.lstrip()[:1] in ("[", "{", "("):
                return {}  # a list or dict that cannot be parsed
            parts = [part.strip() for part in re.split(r"[\n;]" if re.search(r"[\n;]", value) else ",", value)]
            parts = [part for part in parts if part]
            numbered = [re.fullmatch(r"(\d+)\s*[:=]\s*(.+)", part) for part in parts]
            if parts and all(numbered):
                return {int(match[1]): match[2] for match in numbered if match}
            return dict(enumerate(parts))
        if isinstance(value, dict):
            if all(isinstance(index, (int, float)) for index in value.values()):  # label2id
                return {int(index): str(name) for name, index in value.items()}
            return {int(index): _name(name, int(index))[1] for index, name in value.items()}
        if isinstance(value, (list, tuple)):
            return dict(_name(name, index) for index, name in enumerate(value))
    except (ValueError, TypeError, KeyError, OverflowError):
        pass
    return {}


def _name(value: Any, index: int) -> tuple[int, str]:
    """Return index and name of an entry, which is a name, or a dict as of COCO's categories."""
    if isinstance(value, dict):
        return int(value.get("id", index)), str(value["name"])
    if not isinstance(value, (str, int, float)):
        raise TypeError("no name")
    return index, str(value)
