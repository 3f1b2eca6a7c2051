"""Changes of a config file by request: comments and order stay."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("tomlkit")
from seqpar_deploy.cli.video.config import parse_config
from seqpar_deploy.errors import VideoError
from seqpar_deploy.video.cameras.editing import change_of
from seqpar_deploy.video.cameras.settings import example

TWO = """# mine
max_latency = 1.0  # seconds

[cameras.gate]  # the gate
address = "0"

# the yard
[cameras.yard]
address = "1"
"""


def cameras(content: str) -> dict[str, str]:
    return {name: one.address for name, one in parse_config(content.encode(), Path("c.toml")).cameras.items()}


def test_a_camera_is_added_at_the_end_and_everything_else_stays() -> None:
    after = change_of("door", b'address = "rtsp://door/1"\ndetector = "motion"\n')(TWO)
    assert after.startswith(TWO)
    assert cameras(after) == {"gate": "0", "yard": "1", "door": "rtsp://door/1"}


def test_a_camera_is_changed_in_its_place() -> None:
    after = change_of("gate", b'address = "7"')(TWO)
    assert cameras(after) == {"gate": "7", "yard": "1"}
    assert "# the yard" in after
    assert "# mine" in after


def test_a_camera_is_removed() -> None:
    after = change_of("gate/remove", b"")(TWO)
    assert cameras(after) == {"yard": "1"}
    assert "# mine" in after
    assert "# the yard" in after
    nested = TWO.replace("# the yard", "[cameras.gate.zones.door]\npolygon = [[0, 0], [1, 0], [1, 1]]\n\n# the yard")
    assert change_of("gate/remove", b"")(nested) == after
    inline = 'cameras = { gate = { address = "0" }, yard = { address = "1" } }\n'
    assert cameras(change_of("gate/remove", b"")(inline)) == {"yard": "1"}
    assert cameras(change_of("yard/remove", b"")(after)) == {}


@pytest.mark.parametrize(
    "form",
    [
        '[cameras."hall.1"]  # quoted\naddress = "2"\n',
        "[cameras.'hall.1']\naddress = \"2\"\n[cameras.'hall.1'.zones.door]\npoints = [[0, 0], [1, 0], [1, 1]]\n",
        '[cameras]\n"hall.1".address = "2"\n[cameras."hall.1".zones.door]\npoints = [[0, 0], [1, 0], [1, 1]]\n',
        'cameras."hall.1".address = "2"\n',
    ],
)
def test_a_camera_is_removed_however_it_is_written(form: str) -> None:
    rest = '# the yard\n[cameras.yard]\naddress = "1"\n'
    before = form + rest
    assert cameras(before) == {"hall.1": "2", "yard": "1"}
    after = change_of("hall.1/remove", b"")(before)
    assert cameras(after) == {"yard": "1"}
    assert after.endswith(rest)


def test_the_first_camera_of_a_file_is_added() -> None:
    assert cameras(change_of("gate", b'address = "0"')("max_latency = 1.0\n")) == {"gate": "0"}
    assert cameras(change_of("yard", b'address = "0"')(example())).keys() == {"gate", "yard"}


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("", b'address = "0"', "name"),
        ("a/b", b'address = "0"', "a/b"),
        ("door/remove", b"", "gate, yard"),
        ("door", b"address = ", "TOML"),
        ("door", b"", "address"),
        ("door", b"\xff\xfe", "TOML"),
    ],
)
def test_what_is_no_change_is_refused(path: str, body: bytes, words: str) -> None:
    with pytest.raises(VideoError, match=words):
        change_of(path, body)(TWO)
