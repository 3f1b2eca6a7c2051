"""Energy counters, on folders made to look like the system's."""

from __future__ import annotations

from pathlib import Path

import pytest

from seqpar_deploy.bench.energy import open_meter


def zone(powercap: Path, folder: str, name: str, microjoules: int) -> Path:
    made = powercap / folder
    made.mkdir(parents=True)
    (made / "name").write_text(f"{name}\n")
    (made / "max_energy_range_uj").write_text("999999\n")
    (made / "energy_uj").write_text(f"{microjoules}\n")
    return made / "energy_uj"


def test_packages_are_added_and_counters_that_begin_anew_are_seen(tmp_path: Path) -> None:
    first = zone(tmp_path, "intel-rapl:0", "package-0", 900_000)
    second = zone(tmp_path, "intel-rapl:1", "package-1", 0)
    part = zone(tmp_path, "intel-rapl:0:0", "core", 0)  # of package-0: it would count twice
    meter = open_meter("cpu", powercap=tmp_path)
    assert meter is not None
    part.write_text("500000")
    second.write_text("250000")
    assert meter() == pytest.approx(0.25)
    first.write_text("100000")  # 200,000 further, past 999,999
    assert meter() == pytest.approx(0.45)


def test_where_the_machine_does_not_tell_there_is_none(tmp_path: Path) -> None:
    assert open_meter("cpu", powercap=tmp_path / "absent") is None
    zone(tmp_path, "intel-rapl:0", "package-0", 1).unlink()  # as good as one that only root may read
    assert open_meter("cpu", powercap=tmp_path) is None
