"""Read a stream whose server is killed again and again, with damaged packets and changes of resolution all along, and
time how long after the server's return the pictures are back. Writes `benchmarks/results/streams.json`.

    .venv/bin/python benchmarks/streams.py [--kills 20] [--seed 0]
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

from seqpar_deploy.files import write_whole
from seqpar_deploy.machine import describe_machine
from seqpar_deploy.video.places import expand_sources
from seqpar_deploy.video.source import Source

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from video.clips import make_clip  # noqa: E402
from video.stream_server import StreamServer  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "streams.json"
STREET = ROOT / "samples" / "vtest" / "street.mp4"
DAMAGE = 0.01  # share of transport packets


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    rounds = []
    with tempfile.TemporaryDirectory() as folder, StreamServer() as server:
        small = make_clip(Path(folder) / "small.ts", size=(384, 288))
        url = server.url(clips=[STREET, small], damage=DAMAGE)
        with Source(expand_sources([url])[0], report=lambda line: print(line, flush=True)) as source:
            frames = iter(source.start())
            shapes, last = set(), -1.0
            for kill in range(options.kills + 1):
                # The first connection lasts long enough to see the resolution change, the others are random.
                ends = time.monotonic() + (16 if kill == 0 else rng.uniform(1, 4))
                while time.monotonic() < ends:
                    frame = next(frames)
                    assert frame.seconds > last
                    last = frame.seconds
                    shapes.add(frame.image.shape)
                if kill == options.kills:
                    break
                server.kill()
                away = rng.uniform(0.2, 6)
                time.sleep(away)
                known = source.stats.reconnects
                server.start()
                returned = time.monotonic()
                while source.stats.reconnects == known:
                    time.sleep(0.005)
                rounds.append((away, time.monotonic() - returned))
            stats = source.stats
    recovered = [recovery for _, recovery in rounds]
    result = {
        "kills": options.kills,
        "damaged_transport_packets": DAMAGE,
        "shapes": sorted(shapes),
        "seconds_away": [round(away, 2) for away, _ in rounds],
        "seconds_from_return_to_picture": [round(recovery, 2) for recovery in recovered],
        "median": round(statistics.median(recovered), 2),
        "worst": round(max(recovered), 2),
        "frames": stats.frames,
        "dropped": stats.dropped,
        "decode_errors": stats.decode_errors,
        "reconnects": stats.reconnects,
        "machine": describe_machine(),
    }
    write_whole(RESULTS, (json.dumps(result, indent=2) + "\n").encode())
    print(f"back within {max(recovered):.2f} s at worst, {statistics.median(recovered):.2f} s as a rule")


if __name__ == "__main__":
    main()
