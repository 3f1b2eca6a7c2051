"""All exceptions of the package.

    SeqparError
    ├── CheckpointError            a checkpoint cannot be read or does not match the label set or recipe
    ├── LabelSetError              a label set cannot be found, read or matched
    ├── RecipeError                an export or training recipe cannot be found or read
    ├── ImageError                 an image cannot be used as a person crop
    ├── CalibrationError           a calibration or thresholds cannot be fitted, read or applied
    ├── DatasetError               a dataset cannot be found or read, or does not match its label set
    ├── VideoError                 a video cannot be read or written
    ├── TrainingError              a training run cannot start, resume or continue
    ├── DetectorError              a person detector cannot be opened or run, or its outputs cannot be parsed
    ├── StrategyError              a decoding option is out of range
    ├── SearchError                a search expression or filter is malformed, or results cannot be read
    ├── SinkError                  a sink of the video pipeline cannot be opened or cannot continue
    │   └── ReaderGoneError        the reader of a sink's output closed its end
    ├── ServerError                a server refuses a request, or its answer cannot be used
    │   └── ServerUnavailableError     it cannot be reached, is not ready, or its answer broke off
    ├── TritonError                a model repository cannot be written, or a server cannot run its model
    ├── ArchiveError               an archive cannot be planned, resumed or read
    ├── BundleError                a bundle cannot be opened or written
    │   ├── BundleFormatError      its manifest is missing, malformed or newer than this package
    │   └── BundleIntegrityError   its files do not match the manifest
    ├── BackendError               a backend cannot run this bundle
    │   ├── BackendUnavailableError    the backend's SDK is not installed, or it finds no device
    │   └── EngineError            an engine is missing, does not build, or does not match the bundle, runtime or GPU
    └── ExportError                an export cannot be completed
        └── ParityError            the exported bundle does not reproduce the checkpoint

A message is one line: `<thing> must be <expected>, got <actual>; <fix>`. It names the file, if there is one.
"""

from __future__ import annotations


class SeqparError(Exception):
    """Base class of all errors that a user can fix. Commands print it as one line and exit with code 2.

    Examples:
        >>> try:
        ...     Bundle.open("bundles/peta")
        ... except SeqparError as error:
        ...     print(error)
        bundles/peta does not exist; make a bundle with seqpar-export
    """


class CheckpointError(SeqparError):
    """Raised if a checkpoint cannot be read or does not match the label set or recipe."""


class LabelSetError(SeqparError):
    """Raised if a label set cannot be found, read or matched."""


class RecipeError(SeqparError):
    """Raised if an export or training recipe cannot be found or read."""


class ImageError(SeqparError):
    """Raised if an image cannot be used as a person crop."""


class CalibrationError(SeqparError):
    """Raised if a calibration or thresholds cannot be fitted, read or applied."""


class DatasetError(SeqparError):
    """Raised if a dataset cannot be found or read, or does not match its label set."""


class VideoError(SeqparError):
    """Raised if a video cannot be read or written."""


class TrainingError(SeqparError):
    """Raised if a training run cannot start, resume or continue."""


class DetectorError(SeqparError):
    """Raised if a person detector cannot be opened or run, or its outputs cannot be parsed."""


class StrategyError(SeqparError):
    """Raised if a decoding option is out of range, for example a beam width of 0."""


class SearchError(SeqparError):
    """Raised if a search expression or filter is malformed, or results of an archive job cannot be read."""


class SinkError(SeqparError):
    """Raised if a sink of the video pipeline cannot be opened or cannot continue."""


class ReaderGoneError(SinkError):
    """Raised if the reader of a sink's output closed its end, for example `| head`."""


class ServerError(SeqparError):
    """Raised if a recognition server refuses a request, or its answer cannot be used."""


class ServerUnavailableError(ServerError):
    """Raised if a server cannot be reached, is not ready, or its answer broke off. The request may be sent again."""


class TritonError(SeqparError):
    """Raised if a model repository cannot be written, or a server cannot run its model."""


class ArchiveError(SeqparError):
    """Raised if an archive cannot be planned, resumed or read."""


class BundleError(SeqparError):
    """Raised if a bundle cannot be opened or written."""


class BundleFormatError(BundleError):
    """Raised if a bundle's manifest is missing, malformed or newer than this package."""


class BundleIntegrityError(BundleError):
    """Raised if a bundle's files do not match the sizes and hashes in its manifest."""


class BackendError(SeqparError):
    """Raised if a backend cannot run a bundle."""


class BackendUnavailableError(BackendError):
    """Raised if a backend's SDK is not installed, or it finds no device."""


class EngineError(BackendError):
    """Raised if an engine is missing, does not build, or does not match the bundle, runtime or GPU."""


class ExportError(SeqparError):
    """Raised if an export cannot be completed."""


class ParityError(ExportError):
    """Raised if an exported bundle does not reproduce its checkpoint."""
