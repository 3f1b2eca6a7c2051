from __future__ import annotations

from pathlib import Path

import pytest
from fakes.archives import picture

from seqpar_deploy.resources import load_label_set
from seqpar_deploy.serving.archive.schema import ResultMetadata


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Seven pictures in two folders."""
    for number in range(7):
        picture(tmp_path / "crops" / ("a" if number < 4 else "b") / f"{number}.png", 20 * number)
    return tmp_path / "crops"


@pytest.fixture(scope="session")
def metadata() -> ResultMetadata:
    return ResultMetadata(bundle="b" * 64, label_set=load_label_set("pa100k"), plan="p" * 64)


@pytest.fixture
def parquet_of_pictures(tmp_path: Path, pictures: Path) -> Path:
    """A Parquet file with the seven pictures, a camera and a time, in groups of three rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = sorted(pictures.rglob("*.png"))
    table = pa.table(
        {
            "image": [{"bytes": file.read_bytes(), "path": file.name} for file in files],
            "camera": [f"gate-{number}" for number in range(len(files))],
            "captured_at": ["2026-05-01T10:00:00+02:00"] * len(files),
        }
    )
    pq.write_table(table, tmp_path / "people.parquet", row_group_size=3)
    return tmp_path / "people.parquet"
