"""What the threads of the stress test do with a backend, and the tokens that must come of it."""

from __future__ import annotations

import collections
import dataclasses
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from fakes.cuda import FakeCuda
from fakes.device import make_device
from fakes.drafts import Drafted, draw_draft
from fakes.graphs import RowByRow
from fakes.pictures import prepared, resized
from fakes.schedule import Schedule
from fakes.tensorrt import FakeTensorRt

from seqpar_deploy import Bundle
from seqpar_deploy.backends import open_backend
from seqpar_deploy.bundle import BatchProfile
from seqpar_deploy.decoding import Beam, Greedy, Speculative, Strategy
from seqpar_deploy.errors import BackendError
from seqpar_deploy.images import read_image
from seqpar_deploy.preprocess import Crop
from seqpar_deploy.resources import sample_crops
from seqpar_deploy.vocab import BOS

RUNTIMES = ("tensorrt", "tensorrt_rtx", "onnxruntime-cuda")
PROFILES = (
    ((1, 1, 2), (1, 4, 6)),
    ((1, 2, 6),),
    ((1, 1, 1), (1, 2, 3), (1, 4, 6)),
    ((3, 4, 6),),  # smaller batches are padded
    ((1, 1, 2), (1, 8, 10)),  # as are 9 rows
)
STEPS = (2, 5, 9)
STRATEGIES: tuple[Any, ...] = (Greedy(), Greedy(), Beam(width=2), Beam(width=3), Speculative(), Drafted(), Drafted())
_SHAPES = ((120, 40), (120, 60), (120, 120))  # heights and widths of crops, one per width of the bundle
_CROPS = 4  # of each
_LEAST_MARGIN = 0.02  # of a crop's closest choice: FP16 sums differ by less between batches
_POOLED_TOLERANCE = 0.02  # the graph's is FP16, with sums in another order


class Interrupted(Exception):
    """Raised in the middle of a job, on purpose."""


class Material:
    """What schedules share: bundles with engines, crops of all widths, and what the host backend says of them.

    Attributes:
        crops: Prepared crops (H, W, 3). Those of one width can form a batch.
        of_width: The numbers of the crops of each width.
    """

    def __init__(self, bundle_dir: Path, folder: Path) -> None:
        """Copies of the bundle, one for each runtime and choice of profiles, are put into `folder`.

        The bundle reads trimmed crops.
        """
        self.devices: dict[tuple[str, int], tuple[Bundle, Path]] = {}
        for runtime in RUNTIMES[:2]:
            for number, sizes in enumerate(PROFILES):
                made = make_device(
                    bundle_dir,
                    folder / f"{runtime}-{number}",
                    rtx=runtime == "tensorrt_rtx",
                    batches=[BatchProfile(min=least, opt=usual, max=most) for least, usual, most in sizes],
                )
                self.devices[runtime, number] = made.bundle, made.folder
        self.bundle = Bundle.open(bundle_dir)
        self.run_graph = RowByRow()
        self._host = open_backend(self.bundle, "onnxruntime")
        self._tokens: dict[tuple[Strategy, int, int], tuple[int, ...]] = {}
        self.crops: list[Any] = []
        self.of_width: dict[int, list[int]] = {}
        pictures = [read_image(path) for path in sample_crops()]
        for shape in _SHAPES:
            self._choose([resized(picture, shape) for picture in pictures])
        self.pooled = [self._host.encode(crop[None]).pooled[0] for crop in self.crops]  # type: ignore[index]

    def _choose(self, pictures: list[Crop]) -> None:
        """Take the first pictures of one shape whose tokens leave no doubt."""
        host, found = self._host, []
        for crop in prepared(self.bundle, pictures):
            margin = Greedy().generate(host, host.encode(crop[None]), max_steps=max(STEPS))[0].margin
            if margin >= _LEAST_MARGIN and len(found) < _CROPS:
                found.append(len(self.crops))
                self.crops.append(crop)
        self.of_width[self.crops[-1].shape[1]] = found

    def batch(self, crops: list[int]) -> Any:
        """Prepared crops (B, H, W, 3) of one width."""
        return np.stack([self.crops[crop] for crop in crops])

    def tokens(self, strategy: Strategy, steps: int, crop: int) -> tuple[int, ...]:
        """What the host backend says of a crop. Drafts change nothing of it."""
        key = (Greedy() if isinstance(strategy, Drafted) else strategy, steps, crop)
        if key not in self._tokens:
            host = self._host
            said = key[0].generate(host, host.encode(self.crops[crop][None]), max_steps=steps)
            self._tokens[key] = said[0].tokens
        return self._tokens[key]


@dataclasses.dataclass
class Rig:
    """One schedule's backend, and what stands around it."""

    material: Material
    choose: random.Random
    schedule: Schedule
    cuda: FakeCuda
    trt: FakeTensorRt
    runtime: str
    backend: Any = None
    reasons: list[str] = dataclasses.field(default_factory=list)
    counts: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    closing: bool = False
    size: int | None = None  # of most batches: what comes again is captured

    def excused(self, error: BackendError) -> bool:
        """Whether this error had to be expected."""
        if self.closing and "is closed" in str(error):
            return True
        return bool(self.cuda.memory < 1 << 30 or self.cuda.injected or self.cuda.sticky)


Job = Callable[[Rig, random.Random], None]


def plan(rig: Rig) -> list[Job]:
    """Draw the jobs of a thread."""
    jobs: list[Job] = [_generate, _encode_ahead, _interrupted, _step_directly, _encode_and_drop]
    return rig.choose.choices(jobs, weights=(5, 3, 1, 2, 1), k=rig.choose.randrange(1, 8))


def work(rig: Rig, plan: list[Job]) -> None:
    """Do the jobs of a thread, and note what is wrong with what comes of them."""
    choose = random.Random(rig.choose.random())
    if rig.cuda.devices > 1 and choose.random() < 0.5:
        rig.cuda.cudaSetDevice(1)  # as torch.cuda.set_device would
    for job in plan:
        rig.counts[job.__name__.strip("_")] += 1
        try:
            job(rig, choose)
        except BackendError as error:
            rig.counts["errors"] += 1
            if not rig.excused(error):
                rig.reasons.append(f"error: {job.__name__} raised {error}")
        except Exception as error:
            rig.reasons.append(f"error: {job.__name__} raised {type(error).__name__}: {error}")


def _draw(rig: Rig, choose: random.Random, strategy: Strategy) -> list[int]:
    """Crops of a batch, of one width, as many as fit."""
    width = choose.choice(sorted(rig.material.of_width))
    most = rig.backend.max_rows // strategy.rows_per_crop()
    size = rig.size if rig.size is not None and choose.random() < 0.8 else choose.randint(1, most)
    return choose.choices(rig.material.of_width[width], k=min(size, most))


def _generated(rig: Rig, choose: random.Random, strategy: Strategy, steps: int, crops: list[int], state: Any) -> None:
    """Decode with drafts of any kind, and look at the tokens; in some cases at the pooled features before."""
    if choose.random() < 0.3:
        _check_pooled(rig, crops, state)
    drafts = [draw_draft(rig.material.tokens(Greedy(), steps, crop), choose) for crop in crops]
    said = strategy.generate(rig.backend, state, max_steps=steps, drafts=drafts)
    _check(rig, strategy, steps, crops, said)


def _check_pooled(rig: Rig, crops: list[int], state: Any) -> None:
    """They are those of each row's crop, and of no other."""
    wanted, got = np.stack([rig.material.pooled[crop] for crop in crops]), state.pooled
    rig.counts["pooled"] += len(crops)
    if got.shape != wanted.shape or not np.allclose(got, wanted, atol=_POOLED_TOLERANCE):
        rig.reasons.append(f"pooled: of {len(crops)} rows differ: {np.abs(got - wanted).max(axis=-1).round(3)}")


def _check(rig: Rig, strategy: Strategy, steps: int, crops: list[int], said: list[Any]) -> None:
    for place, (crop, generation) in enumerate(zip(crops, said, strict=True)):
        wanted = rig.material.tokens(strategy, steps, crop)
        if generation.tokens != wanted:
            text = f"row {place} of {len(crops)} with {type(strategy).__name__}"
            rig.reasons.append(f"tokens: {text}: expected {wanted}, got {generation.tokens}")
    rig.counts["crops"] += len(crops)


def _generate(rig: Rig, choose: random.Random) -> None:
    strategy, steps = choose.choice(STRATEGIES), choose.choice(STEPS)
    crops = _draw(rig, choose, strategy)
    state = rig.backend.encode(rig.material.batch(crops))
    _generated(rig, choose, strategy, steps, crops, state)


def _encode_ahead(rig: Rig, choose: random.Random) -> None:
    """Encode the next batch before this one is decoded; then decode it, or drop it where only a collection finds it."""
    strategy, steps = choose.choice(STRATEGIES), choose.choice(STEPS)
    first, second = _draw(rig, choose, strategy), _draw(rig, choose, strategy)
    state, ahead = rig.backend.encode(rig.material.batch(first)), rig.backend.encode(rig.material.batch(second))
    _generated(rig, choose, strategy, steps, first, state)
    if choose.random() < 0.5:
        _put_in_cycle(ahead)
    else:
        _generated(rig, choose, strategy, steps, second, ahead)


def _encode_and_drop(rig: Rig, choose: random.Random) -> None:
    """Leave the device at work for nobody."""
    for _ in range(choose.randrange(1, 3)):
        state = rig.backend.encode(rig.material.batch(_draw(rig, choose, Greedy())))
        if choose.random() < 0.5:
            _put_in_cycle(state)


def _interrupted(rig: Rig, choose: random.Random) -> None:
    """An exception in the middle of a search. Its traceback holds the state, in a cycle."""
    strategy = choose.choice(STRATEGIES)
    crops = _draw(rig, choose, strategy)
    try:
        state = rig.backend.encode(rig.material.batch(crops))
        strategy.generate(_Interrupting(rig.backend, choose.randrange(4)), state, max_steps=max(STEPS))
    except Interrupted as error:
        _put_in_cycle(error)


def _step_directly(rig: Rig, choose: random.Random) -> None:
    """Feed what the host backend said, in pieces of any size, while rows are taken back, dropped and repeated."""
    backend, wanted = (
        rig.backend,
        [rig.material.tokens(Greedy(), max(STEPS), i) for i in range(len(rig.material.crops))],
    )
    crops = _draw(rig, choose, Greedy())
    state = backend.encode(rig.material.batch(crops))
    for _ in range(choose.randrange(1, 5)):
        fed = state.lengths
        room = max(STEPS) - int(fed.max())
        if room > 0:
            count = choose.randint(1, min(3, room))
            rows = [[BOS, *wanted[crop]][start : start + count] for crop, start in zip(crops, fed, strict=True)]
            expected = [list(wanted[crop][start : start + count]) for crop, start in zip(crops, fed, strict=True)]
            if min(map(len, expected)) < count:
                break  # some crop's sequence has ended
            said = backend.step(state, np.array(rows, dtype=np.int64)).next_token
            if said.tolist() != expected:
                rig.reasons.append(f"tokens: stepped directly: expected {expected}, got {said.tolist()}")
        if choose.random() < 0.5:
            state.truncate(np.array([choose.randint(0, int(length)) for length in state.lengths], dtype=np.int64))
        if choose.random() < 0.6:
            places = [choose.randrange(len(crops)) for _ in range(choose.randint(1, backend.max_rows))]
            state.reorder(np.array(places, dtype=np.int64))
            crops = [crops[place] for place in places]
        if choose.random() < 0.3:
            _check_pooled(rig, crops, state)


def go_on(rig: Rig) -> None:
    """Once nothing fails any more and there is memory, the backend works as if nothing had been."""
    rig.cuda.fail_no_more()
    rig.cuda.memory = 1 << 34
    try:
        _generate(rig, rig.choose)
    except Exception as error:
        if rig.cuda.sticky:  # lost just now
            return
        rig.reasons.append(f"recovery: {type(error).__name__}: {error}")


def close(rig: Rig, choose: random.Random) -> None:
    rig.closing = True
    rig.backend.close()


class _Interrupting:
    """A backend that raises after so many steps. It hides `greedy`, so that decoding comes by here."""

    def __init__(self, backend: Any, steps: int) -> None:
        self._backend, self._steps = backend, steps

    def step(self, state: Any, tokens: Any) -> Any:
        if self._steps == 0:
            raise Interrupted
        self._steps -= 1
        return self._backend.step(state, tokens)


class _Cycle:
    held: Any
    itself: Any


def _put_in_cycle(thing: Any) -> None:
    cycle = _Cycle()
    cycle.held, cycle.itself = thing, cycle
