"""Read TOML and JSON files into typed dataclasses with msgspec. An error is one line with the file and the key path.

    mine.toml: parity.tie_margin must be a number > 0, got -1; see export/fp32.toml for an example

Ranges of one field are in its annotation (`Positive`). Rules on several fields are in `__post_init__`, as a ValueError.
"""

from __future__ import annotations

import codecs
import dataclasses
import re
import sys
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, TypeVar, Union

import msgspec

from seqpar_deploy.errors import SeqparError

T = TypeVar("T")

_WORDS = {  # msgspec's names of types, in plain words
    "int": "an integer",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "object": "a table",
    "array": "a list",
    "null": "nothing",
}

Positive = Annotated[int, msgspec.Meta(ge=1)]
NotNegative = Annotated[int, msgspec.Meta(ge=0)]
Crops = Annotated[int, msgspec.Meta(ge=0, le=2000)]  # to render in one export, at 10 ms each
PositiveNumber = Annotated[float, msgspec.Meta(gt=0, le=sys.float_info.max)]  # neither NaN nor infinite
NotNegativeNumber = Annotated[float, msgspec.Meta(ge=0, le=sys.float_info.max)]
Text = Annotated[str, msgspec.Meta(pattern=r"\S")]  # not empty


def parse_toml(content: bytes, *, source: str, error: type[SeqparError]) -> dict[str, Any]:
    """Parse a TOML file to plain values. `source` names the file in errors. Raises `error`."""
    try:
        return dict(msgspec.toml.decode(content.removeprefix(codecs.BOM_UTF8)))  # Windows' editors write it
    except (ValueError, RecursionError) as problem:  # msgspec's errors, and UnicodeDecodeError
        raise error(f"{source} must be TOML: {_one_line(problem)}") from None


def parse_json(content: bytes, *, source: str, error: type[SeqparError]) -> dict[str, Any]:
    """Parse a JSON file that holds an object to plain values. `source` names the file in errors. Raises `error`."""
    try:
        return dict(msgspec.json.decode(content, type=dict[str, Any]))
    except (ValueError, RecursionError) as problem:
        raise error(f"{source} must be a JSON object: {_one_line(problem)}") from None


def typed(
    values: object,
    kind: type[T],
    *,
    source: str,
    error: type[SeqparError],
    hint: str = "",
    known_keys_only: bool = False,
    path: str = "",
) -> T:
    """Convert plain values, as `parse_toml` and `parse_json` return them, to a dataclass.

    Args:
        values: The values to convert.
        kind: The dataclass. Its fields' annotations define the expected types.
        source: The file's name in errors.
        error: The exception type to raise.
        hint: The fix, appended to the error. Default: none.
        known_keys_only: Reject keys that are not fields, for files that people write. Default: False, since files that
            this package writes may have keys of later versions.
        path: The key path of `values` in the file, for example `label_set`. Default: the top level.

    Returns:
        An instance of `kind`.

    Raises:
        SeqparError: A value has the wrong type or is out of range. Its type is `error`.
    """
    end = f"; {hint}" if hint else ""
    if known_keys_only and (unknown := _unknown_key(values, kind, path)):
        raise error(f"{source}: {unknown}{end}")
    try:
        return msgspec.convert(values, kind)
    except (msgspec.ValidationError, RecursionError):
        raise error(f"{source}: {_complaint(values, kind, path)}{end}") from None


def without_format(
    values: Mapping[str, Any], expected: int, *, source: str, error: type[SeqparError], hint: str
) -> dict[str, Any]:
    """Return the values of a file without its key `format`. Raises `error` if the format is not `expected`."""
    rest = dict(values)
    if (got := rest.pop("format", None)) != expected or isinstance(got, bool):
        raise error(f"{source}: format must be {expected}, got {got!r}; {hint}")
    return rest


def _complaint(value: object, kind: Any, path: str) -> str:
    """Describe the first invalid value, the innermost one."""
    for key, inner, inner_kind in _children(value, kind, path):
        if _problem(inner, inner_kind):
            return _complaint(inner, inner_kind, key)
    problem = _problem(value, kind) or "is malformed"
    if missing := re.match(r"Object missing required field `(.+?)`", problem):
        return f"{_join(path, missing[1])} is missing"
    if not (expected := _expected(problem, kind)):
        return f"{path}: {problem}" if path else problem  # from a __post_init__
    return f"{path or 'the file'} must be {expected}, got {_short(value)}"


def _expected(problem: str, kind: Any) -> str:
    """Return the expected type in words. Empty if the error is from a `__post_init__`."""
    bare = _bare(kind)
    if typing.get_origin(bare) is Literal:
        choices = [repr(choice) for choice in typing.get_args(bare)]
        return f"one of {', '.join(choices)}" if len(choices) > 1 else choices[0]
    for meta in getattr(_without_none(kind), "__metadata__", ()):
        if bare is int and None not in (meta.ge, meta.le):
            return f"an integer from {meta.ge} to {meta.le}"
        if meta.pattern:
            return "text that is not empty"
    match = re.match(r"Expected (.+?)(, got .*)?$", problem)
    expected = re.sub(r"\b0\.0\b", "0", match[1].replace("`", "")) if match else ""
    words = re.sub(r"[a-z]+", lambda word: _WORDS.get(word[0], word[0]), expected)
    return words.removesuffix(" | nothing")  # a key that may be absent


def _problem(value: object, kind: Any) -> str | None:
    """Return msgspec's error for a value, without the path that it appends. None if the value is valid."""
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as problem:
        return re.sub(r" - at `\$.*`$", "", str(problem))
    return None


def _unknown_key(value: object, kind: Any, path: str) -> str | None:
    if isinstance(value, Mapping) and dataclasses.is_dataclass(_bare(kind)):
        known = [field.name for field in dataclasses.fields(_bare(kind))]
        for key in value:
            if key not in known:
                return f"{_join(path, key)} is an unknown key, expected one of {', '.join(known)}"
    found = (_unknown_key(inner, inner_kind, key) for key, inner, inner_kind in _children(value, kind, path))
    return next((problem for problem in found if problem), None)


def _children(value: object, kind: Any, path: str) -> Iterator[tuple[str, object, Any]]:
    """Yield (key path, value, type) of each direct child of a value."""
    kind = _bare(kind)
    arguments = typing.get_args(kind)
    if isinstance(value, Mapping) and dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind, include_extras=True)
        yield from ((_join(path, key), value[key], hint) for key, hint in hints.items() if key in value)
    elif isinstance(value, Mapping) and typing.get_origin(kind) in (dict, Mapping):
        yield from ((_join(path, key), inner, arguments[1]) for key, inner in value.items())
    elif isinstance(value, (list, tuple)) and typing.get_origin(kind) in (tuple, list):
        kinds = arguments if arguments[-1] is not ... and len(arguments) > 1 else arguments[:1] * len(value)
        yield from ((f"{path}[{i}]", inner, hint) for i, (inner, hint) in enumerate(zip(value, kinds, strict=False)))


def _bare(kind: Any) -> Any:
    """Strip `Annotated`, and `| None` beside one other type."""
    kind = _without_none(kind)
    return typing.get_args(kind)[0] if typing.get_origin(kind) is Annotated else kind


def _without_none(kind: Any) -> Any:
    if typing.get_origin(kind) in (Union, types.UnionType):
        rest = [argument for argument in typing.get_args(kind) if argument is not type(None)]
        return rest[0] if len(rest) == 1 else kind
    return kind


def _join(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _one_line(problem: BaseException) -> str:
    return " ".join(str(problem).split())
