"""The Parquet schema of the results of an archive: one row per crop of a picture, or per person of a video.

A file has the bundle's digest, the label set and the plan's hash in its metadata, and no wall-clock time, so that two
runs of one plan write the same bytes.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from seqpar_deploy.errors import ArchiveError
from seqpar_deploy.serving.archive.sdk import import_pyarrow
from seqpar_deploy.vocab import LabelSet

FORMAT = "1"

_FORMAT, _BUNDLE, _LABEL_SET, _PLAN = b"seqpar.format", b"seqpar.bundle", b"seqpar.label_set", b"seqpar.plan"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResultMetadata:
    """Hold what a file of results says of all its rows.

    Attributes:
        bundle: Digest of the bundle that recognised the crops.
        label_set: The attributes, which name the fields of `states` and `probabilities`.
        plan: Hash of the plan of the job.
    """

    bundle: str
    label_set: LabelSet
    plan: str

    def to_parquet(self) -> dict[bytes, bytes]:
        """Return the key-value metadata of a Parquet file."""
        label_set = json.dumps(self.label_set.to_dict(), ensure_ascii=False, separators=(",", ":"))
        return {
            _FORMAT: FORMAT.encode(),
            _BUNDLE: self.bundle.encode(),
            _LABEL_SET: label_set.encode(),
            _PLAN: self.plan.encode(),
        }

    @classmethod
    def from_parquet(cls, metadata: Mapping[bytes, bytes] | None, *, source: str) -> ResultMetadata:
        """Read the key-value metadata of a Parquet file.

        Args:
            metadata: The metadata, as `pyarrow.Schema.metadata` returns it.
            source: The file's name in errors.

        Returns:
            The metadata.

        Raises:
            ArchiveError: The file is no result of an archive, or of a newer version.
            LabelSetError: The label set is malformed.
        """
        values = metadata or {}
        if not {_FORMAT, _BUNDLE, _LABEL_SET, _PLAN} <= set(values):
            raise ArchiveError(f"{source} must be a result of seqpar archive, got another Parquet file; check the path")
        if (number := values[_FORMAT].decode(errors="replace")) != FORMAT:
            raise ArchiveError(f"{source}: format must be {FORMAT}, got {number}; update seqpar-deploy")
        try:
            label_set: dict[str, Any] = json.loads(values[_LABEL_SET])
        except ValueError:
            raise ArchiveError(f"{source}: label set must be JSON, got damaged text; run the archive again") from None
        return cls(
            bundle=values[_BUNDLE].decode(errors="replace"),
            label_set=LabelSet.from_dict(label_set, source=source),
            plan=values[_PLAN].decode(errors="replace"),
        )


def result_schema(metadata: ResultMetadata) -> Any:
    """Return the `pyarrow.Schema` of a file of results, metadata included.

    | column | type | content |
    |---|---|---|
    | `id` | string | identifies the row: source, entry, and of a video the track |
    | `source` | string | file, archive, table or video that holds it, or its address |
    | `entry` | string | tar member, Parquet row, or box that a table gives. Null for whole pictures and videos |
    | `camera` | string | null if unknown |
    | `captured_at` | timestamp (us, UTC) | of the crop, for a video of the person's best crop. Null if unknown |
    | `frame` | int64 | of a video: frame of the best crop, from 0 |
    | `timestamp`, `ended` | float64 | of a video: seconds from its start to the best crop, and to the last sighting |
    | `track_id` | int64 | of a video: number of the person, from 1 |
    | `box` | list of float32 | left, top, right, bottom in pixels. Null if the picture is one crop |
    | `crops` | int32 | crops that were recognised: 1 for a picture, 0 for a row with an error |
    | `states` | struct of strings | `yes`, `no` or `unknown` per attribute. Null in a row with an error |
    | `probabilities` | struct of float32 | per attribute, 0 to 1. Null in a row with an error |
    | `tokens` | list of int32 | of a picture. Null for a person of a video and in a row with an error |
    | `bundle` | string | digest of the bundle |
    | `error` | string | why there is no result, in one line. Null if there is one |

    Args:
        metadata: The metadata of the file. Its label set names the attributes.

    Raises:
        BackendUnavailableError: pyarrow is not installed.
    """
    pa = import_pyarrow()
    names = [attribute.name for attribute in metadata.label_set.attributes]
    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("source", pa.string(), nullable=False),
            pa.field("entry", pa.string()),
            pa.field("camera", pa.string()),
            pa.field("captured_at", pa.timestamp("us", tz="UTC")),
            pa.field("frame", pa.int64()),
            pa.field("timestamp", pa.float64()),
            pa.field("ended", pa.float64()),
            pa.field("track_id", pa.int64()),
            pa.field("box", pa.list_(pa.float32())),
            pa.field("crops", pa.int32(), nullable=False),
            pa.field("states", pa.struct([pa.field(name, pa.string()) for name in names])),
            pa.field("probabilities", pa.struct([pa.field(name, pa.float32()) for name in names])),
            pa.field("tokens", pa.list_(pa.int32())),
            pa.field("bundle", pa.string(), nullable=False),
            pa.field("error", pa.string()),
        ],
        metadata=metadata.to_parquet(),
    )
