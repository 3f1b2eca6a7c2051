"""Measure a Triton server under load, client and server on this machine, against a Recognizer in this process.

    .venv/bin/python benchmarks/triton_load.py --python ENVIRONMENT/bin/python [--bundle FOLDER] [--seconds 60]

ENVIRONMENT has seqpar-deploy, NumPy below 2 and Triton, see docs/how-to/serve-with-triton.md. Each client sends batches
of crops of one size as pixels and waits for the answer. The Recognizer predicts the same batches one by one. Both take
turns, and the share is the median of the rounds. The server's own statistics tell where the time of a request goes.
Processor time is that of client and server together. It can be compared with the Recognizer's even if the machine has
other work. Memory is that of Triton and the processes of the model, after each round.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import itertools
import json
import os
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from demo_bundle import ROOT, export_demo
from PIL import Image

from seqpar_deploy import Bundle, Recognizer
from seqpar_deploy.cli.console import stage
from seqpar_deploy.files import write_whole
from seqpar_deploy.machine import describe_machine
from seqpar_deploy.preprocess import Crop
from seqpar_deploy.serving.triton.config import ModelOptions
from seqpar_deploy.serving.triton.repository import write_version
from seqpar_deploy.synth.render import render_person

RESULT = ROOT / "benchmarks" / "results" / "triton.json"
BATCHES = 24  # different ones, which clients repeat
ROUNDS = 6
OUTPUTS = ("tokens", "scores", "probabilities", "states", "steps")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", type=Path, required=True, help="Python of the environment that runs the server")
    parser.add_argument("--bundle", type=Path, help="bundle folder; default: export the demo model")
    parser.add_argument("--name", default="demo", help="key of the result in the file; default: demo")
    parser.add_argument("--clients", type=int, default=8, help="clients at a time; default: 8")
    parser.add_argument("--batch", type=int, default=8, help="crops per request; default: 8")
    parser.add_argument("--seconds", type=float, default=60, help="seconds under load; default: 60")
    parser.add_argument("--instances", type=int, default=1, help="processes of the model; default: 1")
    parser.add_argument("--protocol", choices=("http", "grpc"), default="http", help="default: http")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "triton", help="folder for the bundle")
    parser.add_argument("--out", type=Path, default=RESULT, help=f"JSON file; default: {RESULT.relative_to(ROOT)}")
    options = parser.parse_args()
    bundle = Bundle.open(options.bundle or export_demo(options.work / "demo", progress=stage).path)
    batches = [batch_of(number, options.batch) for number in range(BATCHES)]
    with (
        tempfile.TemporaryDirectory() as folder,
        Recognizer.from_bundle(bundle.path) as recognizer,
    ):
        repository = Path(folder) / "models"
        write_version(bundle, repository, options=ModelOptions(instances=options.instances))
        with served(options.python, repository, Path(folder) / "log") as server, stage("under load") as progress:
            load = Load(server, batches, options.clients, options.protocol)
            seconds = options.seconds / ROUNDS
            load.run(3)  # warm-up, as is the first batch of each width in this process
            for batch in batches:
                recognizer.predict(batch)
            rounds: list[Round] = []
            for done in range(ROUNDS):
                alone = in_process(recognizer, batches, seconds / 2)
                rounds.append(Round(alone=alone, load=load.run(seconds), megabytes=server.megabytes()))
                progress(done + 1, ROUNDS)
    found = {
        "clients": options.clients,
        "crops per request": options.batch,
        "seconds": options.seconds,
        "instances": options.instances,
        "protocol": options.protocol,
        **summary(rounds, options.batch),
        "date": datetime.date.today().isoformat(),
        "machine": describe_machine(),
    }
    result = json.loads(options.out.read_text()) if options.out.exists() else {}
    write_whole(options.out, (json.dumps(result | {options.name: found}, indent=2) + "\n").encode())
    print(json.dumps(found, indent=2))


def batch_of(number: int, size: int) -> list[Crop]:
    """Render a batch of people, and scale them to the size of the first."""
    people = [render_person(seed=9000, index=number * size + place)[0] for place in range(size)]
    height, width = people[0].shape[:2]
    return [np.asarray(Image.fromarray(person).resize((width, height))) for person in people]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rate:
    """Crops per second, and processor milliseconds per crop."""

    crops: float
    processor: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loaded:
    """One turn of the clients: their rate, the seconds of each request, and the server's nanoseconds per part."""

    rate: Rate
    taken: list[float]
    parts: dict[str, int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Round:
    alone: Rate
    load: Loaded
    megabytes: float


def summary(rounds: Sequence[Round], batch: int) -> dict[str, Any]:
    milliseconds = 1000 * np.concatenate([one.load.taken for one in rounds])
    parts = {part: sum(one.load.parts[part] for one in rounds) for part in rounds[0].load.parts}
    requests = parts.pop("count")

    def median(values: Iterable[float]) -> float:
        return float(np.median(list(values)))

    return {
        "crops per second in process": round(median(one.alone.crops for one in rounds), 1),
        "crops per second served": round(median(one.load.rate.crops for one in rounds), 1),
        "share": round(median(one.load.rate.crops / one.alone.crops for one in rounds), 3),
        "share of each round": [round(one.load.rate.crops / one.alone.crops, 2) for one in rounds],
        "processor milliseconds per crop": {
            "in process": round(median(one.alone.processor for one in rounds), 2),
            "served": round(median(one.load.rate.processor for one in rounds), 2),
        },
        "requests": len(milliseconds),
        "milliseconds per request": {
            "median": round(median(milliseconds), 1),
            "p99": round(float(np.quantile(milliseconds, 0.99)), 1),
        },
        "milliseconds per request in the server": {part: round(t / requests / 1e6, 2) for part, t in parts.items()},
        "megabytes after each round": [round(one.megabytes) for one in rounds],
    }


def in_process(recognizer: Recognizer, batches: Sequence[list[Crop]], seconds: float) -> Rate:
    """Predict batches one by one in this process."""
    done, start, processor = 0, time.perf_counter(), time.process_time()
    for batch in itertools.cycle(batches):
        done += len(recognizer.predict(batch))
        if (taken := time.perf_counter() - start) > seconds:
            return Rate(crops=done / taken, processor=1000 * (time.process_time() - processor) / done)
    raise AssertionError("unreachable: the loop returns")


class Served:
    """A server under `seqpar serve`."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.process, self.port = process, port

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as response:
            content = response.read()
        return json.loads(content) if content else {}

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(OSError):
                self.get("/v2/models/seqpar/ready")
                return
            time.sleep(0.2)
        raise SystemExit("the server is not ready; see its log")

    def processes(self) -> list[int]:
        """Triton and the processes of the model."""
        (server, *_) = children_of(self.process.pid)
        return [server, *children_of(server)]

    def megabytes(self) -> float:
        return sum(resident(pid) for pid in self.processes())

    def statistics(self) -> dict[str, int]:
        found = self.get("/v2/models/seqpar/stats")["model_stats"][0]["inference_stats"]
        parts = {name: found[name]["ns"] for name in ("queue", "compute_input", "compute_infer", "compute_output")}
        return {**parts, "count": found["success"]["count"]}


class Load:
    """Clients that send batches at the same time, each waiting for its answer."""

    def __init__(self, server: Served, batches: Sequence[list[Crop]], clients: int, protocol: str) -> None:
        self._server, self._batches, self._clients, self._protocol = server, batches, clients, protocol

    def run(self, seconds: float) -> Loaded:
        stop, taken = threading.Event(), list[float]()
        address = f"127.0.0.1:{self._server.port + (self._protocol == 'grpc')}"
        threads = [
            threading.Thread(
                target=ask, args=(address, self._batches[n:] + self._batches[:n], stop, taken, self._protocol)
            )
            for n in range(self._clients)
        ]
        earlier, start, processor = self._server.statistics(), time.perf_counter(), self._processor_seconds()
        for thread in threads:
            thread.start()
        time.sleep(seconds)
        stop.set()
        for thread in threads:
            thread.join()
        measured = time.perf_counter() - start
        later, processor = self._server.statistics(), self._processor_seconds() - processor
        crops = len(taken) * len(self._batches[0])
        return Loaded(
            rate=Rate(crops=crops / measured, processor=1000 * processor / crops),
            taken=taken,
            parts={part: later[part] - earlier[part] for part in later},
        )

    def _processor_seconds(self) -> float:
        return time.process_time() + sum(map(processor_seconds, self._server.processes()))


@contextlib.contextmanager
def served(python: Path, repository: Path, log: Path) -> Iterator[Served]:
    port = free_port()
    command = [str(python), "-m", "seqpar_deploy", "serve", str(repository), "--verbose"]
    for name, number in (("http", port), ("grpc", port + 1), ("metrics", port + 2)):
        command += [f"--{name}-port", str(number)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    with log.open("wb") as file:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=file, stderr=file)
    try:
        server = Served(process, port)
        with stage("starting the server"):
            server.wait_until_ready()
        yield server
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=90)


def ask(address: str, batches: Sequence[list[Crop]], stop: threading.Event, taken: list[float], protocol: str) -> None:
    """Send batches until `stop` is set, and note the seconds of each request."""
    if protocol == "http":
        import tritonclient.http as client
    else:
        import tritonclient.grpc as client
    names = [client.InferRequestedOutput(name) for name in OUTPUTS]
    with client.InferenceServerClient(address) as connection:
        for batch in itertools.cycle(batches):
            if stop.is_set():
                return
            start = time.perf_counter()
            stack = np.stack(batch)
            tensor = client.InferInput("crop", stack.shape, "UINT8")
            tensor.set_data_from_numpy(stack)
            answer = connection.infer("seqpar", [tensor], outputs=names)
            assert len(answer.as_numpy("tokens")) == len(batch)
            taken.append(time.perf_counter() - start)


def free_port() -> int:
    """Return a port that is free, and so are the two after it."""
    for port in range(18100, 19000, 3):
        with contextlib.ExitStack() as opened:
            try:
                for number in range(port, port + 3):
                    opened.enter_context(socket.socket()).bind(("127.0.0.1", number))
            except OSError:
                continue
            return port
    raise SystemExit("no free ports from 18100 to 19000")


def children_of(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def processor_seconds(pid: int) -> float:
    """Return the processor time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident(pid: int) -> float:
    """Return the resident memory of a process in MB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    main()
