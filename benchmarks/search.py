"""Measure `seqpar search` on the results of 1,000,000 people: the whole command, from its start to its last line.

    .venv/bin/python benchmarks/search.py [--people 1000000] [--runs 9]

The results are random, with PA-100K's attributes, 500 cameras and 30 days, written as `seqpar archive` writes them, in
files of several sizes. Each command runs once as warm-up, so that the files are in the page cache, and then in turns.
The median and the slowest run are given. DuckDB runs the same query in a new process too, and must find as many people.
"""

from __future__ import annotations

import argparse
import datetime
import json
import random
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from seqpar_deploy.cli.console import stage
from seqpar_deploy.files import write_whole
from seqpar_deploy.machine import describe_machine
from seqpar_deploy.resources import load_label_set
from seqpar_deploy.serving.archive.schema import ResultMetadata, result_schema
from seqpar_deploy.vocab import LabelSet

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "search.json"
EXPRESSION = "backpack and not hat and female>0.8"
FILTERS = ("--since", "2026-11-22", "--camera", "gate-3")
START = np.datetime64("2026-11-01T00:00:00", "us")
CAMERAS, DAYS = 500, 30
SQL = """
SELECT count(*) FROM read_parquet('{files}')
WHERE states.Backpack = 'yes' AND states.Hat = 'no' AND probabilities.Female > 0.8{filters}
"""
SQL_FILTERS = " AND captured_at >= '2026-11-22T00:00:00Z' AND camera = 'gate-3'"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=1_000_000, help="default: 1000000")
    parser.add_argument("--rows", default="1024,10240", help="rows per file; default: 1024,10240")
    parser.add_argument("--runs", type=int, default=9, help="runs of each command; default: 9")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "search", help="folder for the results")
    parser.add_argument("--out", type=Path, default=RESULT, help=f"JSON file; default: {RESULT.relative_to(ROOT)}")
    options = parser.parse_args()
    found = []
    for rows in map(int, options.rows.split(",")):
        folder = options.work / f"{rows}"
        with stage(f"writing files of {rows} rows"):
            write_people(folder, options.people, rows)
        with stage(f"searching files of {rows} rows"):
            found.append({"rows_per_file": rows, **measure(folder, options.runs)})
        shutil.rmtree(folder)
    result = {
        "what": "seconds of a whole command, files in the page cache",
        "people": options.people,
        "expression": EXPRESSION,
        "filters": " ".join(FILTERS),
        "runs": options.runs,
        "date": datetime.date.today().isoformat(),
        "machine": describe_machine(),
        "files": found,
    }
    write_whole(options.out, (json.dumps(result, indent=2) + "\n").encode())
    print(json.dumps(found, indent=2))


def write_people(folder: Path, people: int, rows: int) -> None:
    """Write files of `rows` people each."""
    import pyarrow.parquet as pq

    label_set = load_label_set("pa100k")
    metadata = ResultMetadata(bundle="b" * 64, label_set=label_set, plan="p" * 64)
    draw = np.random.default_rng(0)
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "shards").mkdir(parents=True)
    for number, start in enumerate(range(0, people, rows)):
        table = people_table(label_set, metadata, draw, start, min(rows, people - start))
        pq.write_table(table, folder / "shards" / f"{number:06d}.parquet", compression="zstd")


def people_table(
    label_set: LabelSet, metadata: ResultMetadata, draw: np.random.Generator, start: int, count: int
) -> Any:
    """Return a table of random people."""
    import pyarrow as pa

    schema = result_schema(metadata)
    rates = np.random.default_rng(1).uniform(0.02, 0.6, len(label_set))  # how frequent each attribute is
    logits = np.log(rates / (1 - rates)) + 2.5 * draw.standard_normal((count, len(label_set)))
    probabilities = (1 / (1 + np.exp(-logits))).astype(np.float32)
    states = np.where(probabilities >= 0.6, "yes", np.where(probabilities < 0.4, "no", "unknown"))
    names = [attribute.name for attribute in label_set.attributes]
    ids = [f"crops/2026-11/{number:09d}.jpg" for number in range(start, start + count)]
    times = np.sort(START + draw.integers(0, DAYS * 86_400_000_000, count))
    values = {
        "id": pa.array(ids),
        "source": pa.array(ids),
        "camera": pa.array([f"gate-{number}" for number in draw.integers(0, CAMERAS, count)]),
        "captured_at": pa.array(times).cast(schema.field("captured_at").type),
        "crops": pa.array(np.ones(count, np.int32)),
        "states": pa.StructArray.from_arrays([pa.array(states[:, i]) for i in range(len(names))], names),
        "probabilities": pa.StructArray.from_arrays([pa.array(probabilities[:, i]) for i in range(len(names))], names),
        "tokens": pa.array([(3 + np.flatnonzero(row == "yes")).tolist() for row in states], pa.list_(pa.int32())),
        "bundle": pa.array(["b" * 64] * count),
    }
    columns = [values.get(field.name, pa.nulls(count, field.type)) for field in schema]
    return pa.Table.from_arrays([column.cast(f.type) for column, f in zip(columns, schema, strict=True)], schema=schema)


def measure(folder: Path, runs: int) -> dict[str, Any]:
    """Run each command in turns, and return the median and the slowest of each, with the people it found."""
    files = f"{folder}/shards/*.parquet"
    search = [sys.executable, "-m", "seqpar_deploy", "search", str(folder)]
    duckdb = [sys.executable, "-c", "import duckdb, sys; print(duckdb.sql(sys.argv[1]).fetchall()[0][0], 'match')"]
    commands = {
        "table": [*search, EXPRESSION],
        "table, filters": [*search, EXPRESSION, *FILTERS],
        "JSON, filters": [*search, EXPRESSION, *FILTERS, "--json"],
        "DuckDB, count": [*duckdb, SQL.format(files=files, filters="")],
        "DuckDB, count, filters": [*duckdb, SQL.format(files=files, filters=SQL_FILTERS)],
    }
    taken: dict[str, list[float]] = {name: [] for name in commands}
    matches: dict[str, int] = {}
    for run in range(runs + 1):
        for name in random.sample(list(commands), len(commands)):
            begun = time.perf_counter()
            done = subprocess.run(commands[name], capture_output=True, text=True, check=True)
            if run:
                taken[name].append(time.perf_counter() - begun)
            said = next(line for line in (done.stdout + done.stderr).splitlines() if " match" in line)
            matches[name] = int(said.split()[0].replace(",", ""))
    if (
        len({count for name, count in matches.items() if "filters" in name}) > 1
        or matches["table"] != matches["DuckDB, count"]
    ):
        raise SystemExit(f"all commands must find as many people, got {matches}")
    return {
        "files": len(list(folder.glob("shards/*"))),
        "megabytes": round(sum(path.stat().st_size for path in folder.glob("shards/*")) / 1e6, 1),
        "commands": {
            name: {"median": round(statistics.median(times), 3), "most": round(max(times), 3), "found": matches[name]}
            for name, times in taken.items()
        },
    }


if __name__ == "__main__":
    main()
