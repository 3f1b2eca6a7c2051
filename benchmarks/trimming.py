"""Compare ways to compute less on the padding of crops, with a model that was trained with all of it.

    .venv/bin/python benchmarks/trimming.py --people PEOPLE.csv [--street runs/vtest/people.csv]
    .venv/bin/python benchmarks/trimming.py --only time [--blocks 24]

Ways: the demo model, in eager PyTorch and FP32, leaves away patch columns, keeps some padding, merges the padding into
weighted tokens (the logarithm of their number is added to the attention's scores), or freezes the keys and values of
padding to their mean over other crops. The script counts the sequences that change, compares F1 with the unchanged
model (interval over people or groups, paired), and counts the encoder's FLOPs. The last columns are what `seqpar tune`
would find: the crops whose closest choice lies within the measured shift have to be run again with all tokens, and the
sequences that still change if only as many crops run again as the saved FLOPs pay for.

Time: the encoder in ONNX Runtime and OpenVINO at each width, in FP32, interleaved. With --blocks also of a ViT-L/14
of random weights and so many blocks. All 24 take 10 minutes and 6 GB.

Results of a part that is not run are kept in the file.
"""

from __future__ import annotations

import argparse
import datetime
import json
from pathlib import Path
from typing import Any

from seqpar_deploy.cli.console import stage
from seqpar_deploy.files import write_whole
from seqpar_deploy.machine import describe_machine

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "trimming.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=ROOT / "models" / "demo" / "demo.safetensors")
    parser.add_argument("--people", type=Path, help="table of real people, of which the split test counts")
    parser.add_argument("--street", type=Path, help="table of street crops, of which the split held_out counts")
    parser.add_argument("--most", type=int, default=500, help="crops per set; default: 500")
    parser.add_argument("--only", choices=("ways", "time"), help="measure one part; default: both")
    parser.add_argument("--blocks", type=int, default=0, help="also time a ViT-L/14 of so many blocks; default: none")
    parser.add_argument("--rounds", type=int, default=7, help="timed rounds; default: 7")
    parser.add_argument("--out", type=Path, default=RESULT, help=f"JSON file; default: {RESULT.relative_to(ROOT)}")
    options = parser.parse_args()
    values: dict[str, Any] = json.loads(options.out.read_text()) if options.out.exists() else {}
    head = {"date": datetime.date.today().isoformat(), "machine": describe_machine()}
    if options.only != "time":
        import trimming_ways

        def keep(found: dict[str, Any]) -> None:
            values["ways"] = head | found
            write_whole(options.out, (json.dumps(values, indent=2) + "\n").encode())

        sets = trimming_ways.test_sets(options.people, options.street, options.most)
        trimming_ways.measure(options.checkpoint, sets, stage, keep)
        print(trimming_ways.table(values["ways"]))
    if options.only != "ways":
        import trimming_time

        values["time"] = head | trimming_time.measure(options.checkpoint, options.blocks, options.rounds, stage)
        write_whole(options.out, (json.dumps(values, indent=2) + "\n").encode())
        print(trimming_time.table(values["time"]))


if __name__ == "__main__":
    main()
