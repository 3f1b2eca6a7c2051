"""The plan of a job: what to do, listed once into shards of a stable size. `plan.json`, and the entries beside it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from seqpar_deploy.backends import BackendName, ComputePrecision
from seqpar_deploy.config import NotNegative, Positive, parse_json, typed
from seqpar_deploy.errors import ArchiveError
from seqpar_deploy.files import replacing, why_not_written, write_whole
from seqpar_deploy.serving.archive.entries import Entry
from seqpar_deploy.serving.archive.sdk import import_parquet, import_pyarrow

FORMAT = 1
PLAN, ENTRIES = "plan.json", "entries"

_ROWS = 65_536  # entries in memory at a time
_LOOK_EVERY = 1000  # entries between two calls of progress


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What decides the results of a job. A folder holds results of equal settings only.

    Attributes:
        bundle: Digest of the bundle.
        calibration: Hash of the calibration and thresholds that give probabilities and states.
        backend: Backend that runs the bundle, or `auto`.
        compute_precision: Precision of the computation. None for the backend's default.
        fallback_margin: Margin below which a crop is re-run in native precision. None for no fallback.
        camera: As of `Naming`.
        captured_at: As of `Naming`.
        time_zone: As of `Naming`.
        shard_size: Pictures per shard.
        batch: Pictures per call of a worker. Crops of one call form the batches of the model.
        attributes: The attributes of the results, if some of the bundle's are kept out. Empty for all.
    """

    bundle: str
    calibration: str
    backend: BackendName = "auto"
    compute_precision: ComputePrecision | None = None
    fallback_margin: float | None = None
    camera: str | None = None
    captured_at: str | None = None
    time_zone: str = "UTC"
    shard_size: Positive = 1024
    batch: Positive = 64
    attributes: tuple[str, ...] = ()

    @property
    def hash(self) -> str:
        """SHA-256 of the settings, in hexadecimal."""
        values = {"format": FORMAT, **dataclasses.asdict(self)}
        if not self.attributes:
            del values["attributes"]  # plans of before have the hash without it
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """The entries of one listing, in a file of their own: pictures first, then videos.

    Attributes:
        file: Name of the file in the folder of entries.
        first_shard: Number of the first shard.
        pictures: Number of pictures. They fill shards of the plan's size.
        videos: Number of videos. Each is a shard of its own.
    """

    file: str
    first_shard: NotNegative
    pictures: NotNegative
    videos: NotNegative


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shard:
    """A share of the work, and one file of results.

    Attributes:
        number: Number of the shard in the plan.
        file: File of its entries.
        start: Its first row there.
        count: Number of its entries.
        video: Whether it is a video.
    """

    number: int
    file: str
    start: int
    count: int
    video: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """A plan. `extended` adds inputs: new shards, while those before stay as they are.

    Attributes:
        settings: What decides the results.
        inputs: Names of the inputs listed so far, as absolute paths, globs or addresses.
        parts: The listings so far.
    """

    settings: Settings
    inputs: tuple[str, ...] = ()
    parts: tuple[Part, ...] = ()

    @property
    def entries(self) -> int:
        """Number of pictures and videos."""
        return sum(part.pictures + part.videos for part in self.parts)

    def shards(self) -> Iterator[Shard]:
        """Yield all shards, by number."""
        size = self.settings.shard_size
        for part in self.parts:
            number = part.first_shard
            for start in range(0, part.pictures, size):
                count = min(size, part.pictures - start)
                yield Shard(number=number, file=part.file, start=start, count=count, video=False)
                number += 1
            for place in range(part.videos):
                yield Shard(number=number + place, file=part.file, start=part.pictures + place, count=1, video=True)

    @classmethod
    def load(cls, folder: Path) -> Plan | None:
        """Read the plan of a job, None if the folder has none. Raises ArchiveError."""
        file = folder / PLAN
        try:
            content = file.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ArchiveError(f"{file} cannot be read: {error.strerror}; check the path") from None
        values = parse_json(content, source=str(file), error=ArchiveError)
        number = values.pop("format", None)
        if number != FORMAT:
            raise ArchiveError(f"{file}: format must be {FORMAT}, got {number!r}; update seqpar-deploy")
        given = values.pop("hash", None)
        plan = typed(values, cls, source=str(file), error=ArchiveError, hint="start a job in a new folder")
        if given != plan.settings.hash:
            raise ArchiveError(f"{file}: settings must have hash {str(given)[:8]}, got others; do not edit the plan")
        return plan

    def save(self, folder: Path) -> None:
        """Write `plan.json`. Raises SeqparError."""
        values = {"format": FORMAT, "hash": self.settings.hash, **dataclasses.asdict(self)}
        write_whole(folder / PLAN, (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode())

    def check_same(self, wanted: Settings, folder: Path) -> None:
        """Raise ArchiveError if a job of other settings is to run in the folder of this plan."""
        ours, theirs = dataclasses.asdict(self.settings), dataclasses.asdict(wanted)
        for name, planned in ours.items():
            if (got := theirs[name]) != planned:
                raise ArchiveError(
                    f"{name} of the job in {folder} must be {_short(planned)}, got {_short(got)}; choose another "
                    "folder, or run the job as it was planned"
                )

    def extended(
        self, folder: Path, inputs: Iterable[str], entries: Iterable[Entry], on_progress: Callable[[int], None]
    ) -> Plan:
        """Add the entries that the plan does not have, and write entries and plan.

        Memory: 110 bytes per entry of the plan, for the hashes of their IDs, and 65,536 entries.

        Args:
            folder: Folder of the job.
            inputs: Names of the inputs.
            entries: Their entries. Those that the plan has, and repeated ones, are left out.
            on_progress: Called with the number of entries so far, after each 1,000.

        Returns:
            The new plan.

        Raises:
            ArchiveError: An input or a file of the plan cannot be read, or not be written.
        """
        file = f"{len(self.parts):06d}.parquet"
        known = {_hash(entry.id) for part in self.parts for entry in _read(folder / ENTRIES / part.file)}
        before, pictures, videos = len(known), 0, list[Entry]()

        def new_pictures() -> Iterator[Entry]:
            nonlocal pictures
            for entry in entries:
                if (mark := _hash(entry.id)) in known:
                    continue
                known.add(mark)
                if (len(known) - before) % _LOOK_EVERY == 0:
                    on_progress(len(known) - before)
                if entry.kind == "video":
                    videos.append(entry)
                else:
                    pictures += 1
                    yield entry

        _write(folder / ENTRIES / file, new_pictures(), videos)
        last = self.parts[-1] if self.parts else None
        first = 0 if last is None else last.first_shard + -(-last.pictures // self.settings.shard_size) + last.videos
        part = Part(file=file, first_shard=first, pictures=pictures, videos=len(videos))
        if not pictures and not videos:
            (folder / ENTRIES / file).unlink()
        plan = Plan(
            settings=self.settings,
            inputs=tuple(dict.fromkeys((*self.inputs, *inputs))),
            parts=(*self.parts, part) if pictures or videos else self.parts,
        )
        plan.save(folder)
        return plan


class EntryReader:
    """Reads the entries of shards. It keeps one group of 65,536 rows, as shards are read in order."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / ENTRIES
        self._group: tuple[str, int] | None = None
        self._rows: Any = None

    def read(self, shard: Shard) -> list[Entry]:
        """Return the entries of a shard. Raises ArchiveError."""
        found: list[Entry] = []
        place, end = shard.start, shard.start + shard.count
        while place < end:
            group, offset = divmod(place, _ROWS)
            if self._group != (shard.file, group):
                self._rows, self._group = _read_group(self._folder / shard.file, group), (shard.file, group)
            count = min(end - place, _ROWS - offset)
            some = self._rows.slice(offset, count).to_pylist()
            if len(some) < count:
                raise ArchiveError(f"{self._folder / shard.file} must have {end} rows, got fewer; start a new job")
            found += map(_entry, some)
            place += count
        return found


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).digest()


def _short(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "all"
    return "none" if value is None else str(value)[:12] if isinstance(value, str) and len(value) == 64 else str(value)


def _schema() -> Any:
    pa = import_pyarrow()
    return pa.schema(
        {
            "kind": pa.string(),
            "source": pa.string(),
            "entry": pa.string(),
            "offset": pa.int64(),
            "size": pa.int64(),
            "camera": pa.string(),
            "captured_at": pa.int64(),
            "box": pa.list_(pa.int32()),
        }
    )


def _write(file: Path, pictures: Iterator[Entry], videos: list[Entry]) -> None:
    """Write entries in groups of 65,536. `videos` is complete when `pictures` has ended."""
    pa, parquet, schema = import_pyarrow(), import_parquet(), _schema()
    waiting: list[dict[str, Any]] = []
    try:
        with replacing(file) as staging, parquet.ParquetWriter(staging, schema, compression="zstd") as writer:

            def flush() -> None:
                if waiting:
                    writer.write_table(pa.Table.from_pylist(waiting, schema=schema), row_group_size=_ROWS)
                    waiting.clear()

            for some in (pictures, videos):
                for entry in some:
                    waiting.append(_columns(entry))
                    if len(waiting) == _ROWS:
                        flush()
            flush()
    except OSError as error:
        raise ArchiveError(f"{file} cannot be written: {why_not_written(error, file) or error.strerror}") from None


def _columns(entry: Entry) -> dict[str, Any]:
    return {name: getattr(entry, name) for name in entry.__struct_fields__}


def _entry(row: dict[str, Any]) -> Entry:
    box = row.pop("box")
    return Entry(**row, box=None if box is None else tuple(box))


def _read(file: Path) -> Iterator[Entry]:
    for group in range(_opened(file).num_row_groups):
        yield from map(_entry, _read_group(file, group).to_pylist())


def _read_group(file: Path, group: int) -> Any:
    return _opened(file).read_row_group(group)


def _opened(file: Path) -> Any:
    try:
        return import_parquet().ParquetFile(file)
    except (OSError, ValueError):
        raise ArchiveError(f"{file} must be the entries of a job, got none or damaged ones; start a new job") from None
