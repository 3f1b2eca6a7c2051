"""Zones as a file has them, and what is wrong with some."""

from __future__ import annotations

import pytest

from seqpar_deploy.config import parse_toml, typed
from seqpar_deploy.errors import VideoError
from seqpar_deploy.video.zones.settings import LineSettings, SceneSettings

GOOD = """
[zones.hall]
points = [[0.1, 0.4], [0.5, 0.4], [0.5, 1]]
dwell = 30
interval = 900
[lines.door]
points = [[10, 20], [300, 20]]
margin = 0
[masks.screen]
points = [[0, 0], [1, 0], [1, 1]]
"""


def read(text: str) -> SceneSettings:
    values = parse_toml(text.encode(), source="cameras.toml", error=VideoError)
    return typed(values, SceneSettings, source="cameras.toml", error=VideoError, known_keys_only=True)


def test_a_scene_is_read() -> None:
    scene = read(GOOD)
    assert scene.zones["hall"].points == ((0.1, 0.4), (0.5, 0.4), (0.5, 1.0))
    assert (scene.zones["hall"].dwell, scene.zones["hall"].interval, scene.zones["hall"].margin) == (30, 900, 0.1)
    assert (scene.lines["door"].interval, scene.lines["door"].margin) == (3600, 0)
    assert list(scene.masks) == ["screen"]
    assert scene
    assert not read("")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[zones.hall]", ("zones.hall.points", "missing")),
        ("[zones.hall]\npoints = [[0, 0], [1, 1]]", ("zones.hall", "3 to 64")),
        ("[zones.hall]\npoints = [[0, 0], [0.5, 0.5], [1, 1]]", ("zones.hall", "area")),
        ("[zones.hall]\npoints = [[0, 0], [1], [1, 1]]", ("zones.hall.points[1]",)),
        ("[zones.hall]\npoints = [[0, 0], [-1, 0], [1, 1]]", ("zones.hall", "-1")),
        ("[zones.hall]\npoints = [[0, 0], [nan, 0], [1, 1]]", ("zones.hall", "nan")),
        ("[zones.hall]\npoints = [[0, 0], [1, 0], [1, 1]]\ndwell = 0", ("zones.hall.dwell", "> 0")),
        ("[zones.hall]\npoints = [[0, 0], [1, 0], [1, 1]]\ndwel = 1", ("zones.hall.dwel", "unknown key")),
        ("[lines.door]\npoints = [[0, 0], [1, 0], [1, 1]]", ("lines.door", "two different")),
        ("[lines.door]\npoints = [[0, 1], [0, 1]]", ("lines.door", "two different")),
        ("[lines.door]\npoints = [[0, 0], [1, 1]]\ninterval = 0.5", ("lines.door.interval", "1")),
        ("[lines.door]\npoints = [[0, 0], [1, 1]]\nmargin = 2", ("lines.door.margin", "1")),
        ("[lines.'']\npoints = [[0, 0], [1, 1]]", ("name", "1 to 40")),
        ("[lines.a]\npoints = [[0, 0], [1, 1]]\n[zones.a]\npoints = [[0, 0], [1, 0], [1, 1]]", ("differ", "'a'")),
    ],
)
def test_what_is_wrong_is_told_with_its_key(text: str, words: tuple[str, ...]) -> None:
    with pytest.raises(VideoError) as caught:
        read(text)
    assert "\n" not in str(caught.value)
    assert [word for word in words if word not in str(caught.value)] == []


@pytest.mark.parametrize("points", [((0.0, 0.6), (1.01, 0.6)), ((0.0, 1.5), (0.5, 0.2)), ((1.0, 1.0), (1.9, 0.0))])
def test_shares_above_1_are_refused(points: tuple[tuple[float, float], ...]) -> None:
    with pytest.raises(ValueError, match=r"must be shares of the frame, 0 to 1, or pixels, got .*, whose largest"):
        LineSettings(points=points)
