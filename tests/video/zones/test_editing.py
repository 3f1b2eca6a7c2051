"""Changes of the zones in a config file: what is drawn is there, and all else stays."""

from __future__ import annotations

import pytest

from seqpar_deploy.errors import VideoError
from seqpar_deploy.video.zone_page.editing import Drawn, with_scene

pytest.importorskip("tomlkit")

FILE = """\
# our cameras
bundle = "bundle"  # the demo

[cameras.gate]  # at the street
address = "rtsp://${USER}@gate/1"

# counted for the council
[cameras.gate.lines.door]  # the only one
interval = 900   # a quarter of an hour
points = [[0.1, 0.2], [0.3, 0.4]] # drawn by Ann

# do not enter
[cameras.gate.zones."front yard"]
points = [
  [0, 0],
  [1, 0],  # [right]
  [1, 1],
]

# the yard, behind the house
[cameras.yard]
address = "yard.mp4"
"""
DOOR = Drawn(kind="lines", name="door", was="door")
YARD = Drawn(kind="zones", name="front yard", was="front yard")
SQUARE = ((0.1, 0.1), (0.5, 0.1), (0.5, 0.5))


def changed(*drawn: Drawn, content: str = FILE, camera: str = "gate") -> tuple[list[str], list[str]]:
    """The lines that went and the lines that came."""
    before, after = content.splitlines(), with_scene(content, camera, drawn).splitlines()
    return [one for one in before if one not in after], [one for one in after if one not in before]


def test_nothing_drawn_changes_nothing() -> None:
    assert with_scene(FILE, "gate", [DOOR, YARD]) == FILE


def test_points_change_and_the_comment_beside_them_stays() -> None:
    moved = Drawn(kind="lines", name="door", was="door", points=((0.15, 0.25), (0.3, 0.4)))
    gone, came = changed(moved, YARD)
    assert gone == ["points = [[0.1, 0.2], [0.3, 0.4]] # drawn by Ann"]
    assert came == ["points = [[0.15, 0.25], [0.3, 0.4]] # drawn by Ann"]


def test_a_new_one_stands_below_those_of_its_kind() -> None:
    new = Drawn(kind="lines", name="side door", points=((0.1, 0.1), (0.5, 0.5)))
    after = with_scene(FILE, "gate", [DOOR, YARD, new])
    assert [line for line in FILE.splitlines() if line not in after.splitlines()] == []
    assert after.index("# counted") < after.index('[cameras.gate.lines."side door"]') < after.index("# do not enter")


def test_a_new_kind_stands_at_the_end_of_the_camera() -> None:
    after = with_scene(FILE, "gate", [DOOR, YARD, Drawn(kind="masks", name="screen", points=SQUARE)])
    assert after.index("[1, 1],") < after.index("[cameras.gate.masks.screen]") < after.index("# the yard, behind")
    last = with_scene(FILE, "yard", [Drawn(kind="zones", name="lawn", points=SQUARE)])
    assert last == FILE + "\n[cameras.yard.zones.lawn]\npoints = [[0.1, 0.1], [0.5, 0.1], [0.5, 0.5]]\n"


def test_a_removed_one_takes_its_lines_only() -> None:
    gone, came = changed(DOOR)
    assert came == []
    assert gone == [
        '[cameras.gate.zones."front yard"]',
        "points = [",
        "  [0, 0],",
        "  [1, 0],  # [right]",
        "  [1, 1],",
        "]",
    ]
    gone, came = changed(YARD)
    assert came == []
    assert [one for one in gone if one.startswith("#")] == []


def test_a_new_name_keeps_its_place_and_keys() -> None:
    gone, came = changed(Drawn(kind="lines", name="gate 3", was="door"), YARD)
    assert gone == ["[cameras.gate.lines.door]  # the only one"]
    assert came == ['[cameras.gate.lines."gate 3"]  # the only one']


def test_names_can_be_exchanged() -> None:
    two = FILE + "\n[cameras.yard.zones.a]\npoints = [[0, 0], [1, 0], [1, 1]]\ndwell = 1\n"
    two += "[cameras.yard.zones.b]\npoints = [[0, 0], [1, 0], [1, 1]]\ndwell = 2\n"
    after = with_scene(two, "yard", [Drawn(kind="zones", name="b", was="a"), Drawn(kind="zones", name="a", was="b")])
    assert after.index("zones.b]") < after.index("dwell = 1") < after.index("zones.a]") < after.index("dwell = 2")


def test_a_form_that_cannot_be_changed_is_told() -> None:
    content = '[cameras.gate]\naddress = "1"\nlines.door.points = [[0.1, 0.2], [0.3, 0.4]]  # dotted\n'
    moved = Drawn(kind="lines", name="door", was="door", points=((0.5, 0.5), (0.6, 0.6)))
    assert "lines.door.points = [[0.5, 0.5], [0.6, 0.6]]  # dotted" in with_scene(content, "gate", [moved])
    with pytest.raises(VideoError, match="tables of their own"):
        with_scene(content, "gate", [Drawn(kind="lines", name="exit", was="door")])


@pytest.mark.parametrize(
    "scene",
    [
        "lines = {door = {points = [[0.1, 0.2], [0.3, 0.4]]}}",
        "[cameras.gate.lines]\ndoor = {points = [[0.1, 0.2], [0.3, 0.4]]}",
    ],
)
def test_other_ways_to_write_it(scene: str) -> None:
    content = f'# ours\n[cameras.gate]\naddress = "1"  # usb\n{scene}\n\n# other\n[cameras.yard]\naddress = "2"\n'
    moved = Drawn(kind="lines", name="door", was="door", points=((0.5, 0.5), (0.6, 0.6)))
    renamed = Drawn(kind="lines", name="exit", was="door")
    new = Drawn(kind="lines", name="new", points=((0.5, 0.5), (0.6, 0.6)))
    for drawn in ([moved], [renamed], [], [DOOR, new], [Drawn(kind="masks", name="screen", points=SQUARE)]):
        after = with_scene(content, "gate", drawn)
        for comment in ("# ours", "# usb", "# other"):
            assert comment in after


def test_a_file_without_an_end_of_line_and_with_windows_ends() -> None:
    new = Drawn(kind="zones", name="lawn", points=SQUARE)
    assert "[cameras.yard.zones.lawn]" in with_scene(FILE.rstrip("\n"), "yard", [new])
    windows = FILE.replace("\n", "\r\n")
    after = with_scene(windows, "gate", [DOOR])
    assert "front yard" not in after
    assert "# the yard, behind the house\r\n" in after


def test_an_unknown_camera_is_told_with_those_there_are() -> None:
    with pytest.raises(VideoError, match="gate, yard"):
        with_scene(FILE, "roof", [])
