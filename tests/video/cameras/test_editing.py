"""Changes of a config file by request: comments and order stay."""

from __future__ import annotations

import re
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


SHAPE = "points = [[0, 0], [1, 0], [1, 1]]\n"
FORMS = {
    "tables": f"""# top
[cameras.gate]  # g
address = "0"  # a
fps = 5

# the hall
[cameras.gate.zones.hall]  # h
{SHAPE}
# the yard
[cameras.yard]
address = "1"
# end""",
    "zones above": f"""[cameras.gate.zones.hall]
{SHAPE}# g
[cameras.gate]
address = "0"

# the yard
[cameras.yard]
address = "1"
""",
    "inline": '# top\ncameras.gate = { address = "0" }\n# the yard\n[cameras.yard]\naddress = "1"\n',
    "dotted": '# top\ncameras.gate.address = "0"\n# the yard\ncameras.yard.address = "1"\n',
    "one table": '# top\n[cameras]\ngate.address = "0"\n# the yard\nyard.address = "1"\n',
    "Windows": '# top\r\n[cameras.gate]\r\naddress = "0"\r\n\r\n# the yard\r\n[cameras.yard]\r\naddress = "1"\r\n',
}
SETTINGS = {
    "address": 'address = "7"\n',
    "new key": 'address = "0"\nmax_fps = 3\n',
    "more": f"""address = "0"
fps = 5
[zones.hall]
{SHAPE}[zones.room]
{SHAPE}[lines.door]
points = [[0, 0], [1, 1]]
""",
    "other": f'address = "0"\n[zones.room]\n{SHAPE}',
}


@pytest.mark.parametrize("name", ["gate", "new", "hall.1"])
@pytest.mark.parametrize("body", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("content", FORMS.values(), ids=FORMS)
def test_every_form_is_changed_and_its_comments_stay(content: str, body: str, name: str) -> None:
    tomlkit = pytest.importorskip("tomlkit")
    after = change_of(name, body.encode())(content)
    expected = tomlkit.parse(content).unwrap()
    expected["cameras"][name] = tomlkit.parse(body).unwrap()
    assert tomlkit.parse(after).unwrap() == expected
    parse_config(after.encode(), Path("c.toml"))
    comments = set(re.findall("# [a-z ]+", content))
    if "zones.hall" not in body and name == "gate":
        comments -= {"# h"}  # beside a table that is gone
    assert comments <= set(re.findall("# [a-z ]+", after))
    assert after.index("# the yard") < after.index("yard", after.index("# the yard") + 10)


def test_what_stays_is_not_rewritten() -> None:
    after = change_of("gate", SETTINGS["more"].encode())(FORMS["tables"])
    assert after.startswith(FORMS["tables"].split("\n\n# the yard")[0])


def test_a_form_that_takes_no_new_camera_is_refused_in_one_line() -> None:
    with pytest.raises(VideoError, match=r"\[cameras\.new\], got another form; change the file") as caught:
        change_of("new", b'address = "7"')('cameras = { gate = { address = "0" } }\n')
    assert "\n" not in str(caught.value)


def test_a_byte_order_mark_is_read() -> None:
    assert cameras(change_of("gate", b'\xef\xbb\xbfaddress = "7"')(TWO)) == {"gate": "7", "yard": "1"}
    config = parse_config(b"\xef\xbb\xbf" + TWO.encode(), Path("c.toml"))
    assert set(config.cameras) == {"gate", "yard"}
