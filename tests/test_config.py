"""Files become typed values, or one line that names the file, the key and what is expected there."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
import pytest

from seqpar_deploy.config import Positive, PositiveNumber, Text, parse_json, parse_toml, typed, without_format
from seqpar_deploy.errors import RecipeError, VideoError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wheel:
    size: Positive
    kind: Literal["front", "rear"] = "front"

    def __post_init__(self) -> None:
        if self.size > 99:
            raise ValueError(f"size must be at most 99 on this {self.kind} wheel")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bicycle:
    name: Text
    wheels: tuple[Wheel, ...] = ()
    parts: Mapping[str, Wheel] = dataclasses.field(default_factory=dict)
    colour: tuple[int, int, int] | None = None
    weight: PositiveNumber | None = None
    anything: Any = None


def read(values: object, **options: Any) -> Bicycle:
    return typed(values, Bicycle, source="bike.toml", error=RecipeError, hint="see bikes", **options)


def test_plain_values_become_typed() -> None:
    content = (
        b'name = "a"\nwheels = [{size = 3}]\nparts.spare = {size = 4, kind = "rear"}\ncolour = [1, 2, 3]\nweight = 9'
    )
    values = parse_toml(content, source="bike.toml", error=RecipeError)
    assert read(values) == Bicycle(
        name="a", wheels=(Wheel(size=3),), parts={"spare": Wheel(size=4, kind="rear")}, colour=(1, 2, 3), weight=9.0
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "name is missing"),
        ({"name": " "}, "name must be text that is not empty, got ' '"),
        ({"name": "a", "wheels": {}}, "wheels must be a list, got {}"),
        ({"name": "a", "wheels": [{"size": 1}, {}]}, "wheels[1].size is missing"),
        ({"name": "a", "wheels": [{"size": 0}]}, "wheels[0].size must be an integer >= 1, got 0"),
        ({"name": "a", "wheels": [{"size": True}]}, "wheels[0].size must be an integer, got True"),
        ({"name": "a", "wheels": [{"size": 100}]}, "wheels[0]: size must be at most 99 on this front wheel"),
        ({"name": "a", "parts": {"bell": 3}}, "parts.bell must be a table, got 3"),
        (
            {"name": "a", "parts": {"bell": {"size": 1, "kind": "x"}}},
            "parts.bell.kind must be one of 'front', 'rear', got 'x'",
        ),
        ({"name": "a", "colour": [1, 2]}, "colour must be a list of length 3, got [1, 2]"),
        ({"name": "a", "colour": [1, "2", 3]}, "colour[1] must be an integer, got '2'"),
        ({"name": "a", "weight": float("nan")}, "weight must be a number > 0, got nan"),
        ([], "the file must be a table, got []"),
        ({"name": ["x" * 500]}, f"name must be text that is not empty, got ['{'x' * 75}..."),
    ],
    ids=str,
)
def test_what_is_wrong_is_named_by_file_and_key(values: object, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        read(values)
    assert str(caught.value) == f"bike.toml: {message}; see bikes"


def test_unknown_keys_are_refused_in_files_people_write() -> None:
    values = {"name": "a", "bell": 1, "anything": {"bell": 1}, "parts": {"spare": {"size": 1, "spokes": 3}}}
    assert read(values).anything == {"bell": 1}
    with pytest.raises(RecipeError, match=r"bike\.toml: bell is an unknown key, .*name, wheels, parts"):
        read(values, known_keys_only=True)
    del values["bell"]
    with pytest.raises(RecipeError, match=r"parts\.spare\.spokes is an unknown key, .*size, kind"):
        read(values, known_keys_only=True)
    with pytest.raises(RecipeError, match=r"bike\.toml: bike\.parts\.spare\.spokes is"):
        read(values, known_keys_only=True, path="bike")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff", b'{"a": NaN}', b"[" * 100_000])
def test_json_that_is_no_object(content: bytes) -> None:
    with pytest.raises(RecipeError, match=r"^x\.json .*JSON[^\n]*$"):
        parse_json(content, source="x.json", error=RecipeError)


@pytest.mark.parametrize("content", [b"a =", b"\xff", b"a = 1\na = 2", b"a = " + b"[" * 100_000])
def test_toml_that_is_none(content: bytes) -> None:
    with pytest.raises(RecipeError, match=r"^x\.toml .*TOML[^\n]*$"):
        parse_toml(content, source="x.toml", error=RecipeError)


def test_formats() -> None:
    assert without_format({"format": 1, "a": 2}, 1, source="x", error=RecipeError, hint="y") == {"a": 2}
    with pytest.raises(RecipeError, match=r"^x: format must be 1, got True; y$"):
        without_format({"format": True}, 1, source="x", error=RecipeError, hint="y")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rate:
    fps: Annotated[float, msgspec.Meta(ge=0.01, le=1000.0)]


def test_a_byte_order_mark_is_ignored_and_limits_are_whole() -> None:
    values = parse_toml(b"\xef\xbb\xbffps = 0.001", source="f", error=VideoError)
    with pytest.raises(VideoError, match=r"fps must be a number >= 0\.01, got 0\.001"):
        typed(values, Rate, source="f", error=VideoError)
