"""Every exception of the package.

    SeqparError
    ├── CheckpointError            a checkpoint cannot be read, or does not fit what it is used with
    ├── LabelSetError              a label set cannot be found, read or matched
    ├── RecipeError                an export recipe cannot be found or read
    ├── ImageError                 a picture cannot be used as a person crop
    ├── DatasetError               a data set cannot be found or read, or disagrees with its label set
    ├── VideoError                 a video cannot be read or written
    ├── TrainingError              a training run cannot be started, resumed or gone on with
    ├── DetectorError              a detector of people cannot be opened or run, or what it says cannot be read
    ├── StrategyError              a decoding option is out of range
    ├── SinkError                  a sink of the video pipeline cannot be opened, or cannot go on
    │   └── ReaderGoneError        who read a sink's output went away
    ├── BundleError                a bundle cannot be opened
    │   ├── BundleFormatError      its manifest is missing, malformed or newer than this package
    │   └── BundleIntegrityError   its files are not the ones the manifest vouches for
    ├── BackendError               a backend cannot run this bundle
    │   ├── BackendUnavailableError    the SDK it needs is not installed, or finds no device
    │   └── EngineError            an engine is missing, cannot be built, or is not for this bundle, runtime and GPU
    └── ExportError                an export cannot be completed
        └── ParityError            the exported bundle does not reproduce the checkpoint

Messages are one line that says what was got, what was wanted, and how to mend it.
"""

from __future__ import annotations


class SeqparError(Exception):
    """Base of every error that is the user's to mend; commands print it in one line and exit with code 2."""


class CheckpointError(SeqparError):
    """A checkpoint cannot be read, or does not fit what it is used with."""


class LabelSetError(SeqparError):
    """A label set cannot be found, read or matched."""


class RecipeError(SeqparError):
    """An export recipe cannot be found or read."""


class ImageError(SeqparError):
    """A picture cannot be used as a person crop."""


class DatasetError(SeqparError):
    """A data set cannot be found or read, or disagrees with its label set."""


class VideoError(SeqparError):
    """A video cannot be read or written."""


class TrainingError(SeqparError):
    """A training run cannot be started, resumed or gone on with."""


class DetectorError(SeqparError):
    """A detector of people cannot be opened or run, or what it says cannot be read."""


class StrategyError(SeqparError):
    """A decoding option is out of range."""


class SinkError(SeqparError):
    """A sink of the video pipeline cannot be opened, or cannot go on."""


class ReaderGoneError(SinkError):
    """Who read a sink's output went away, as `| head` does."""


class BundleError(SeqparError):
    """A bundle cannot be opened."""


class BundleFormatError(BundleError):
    """The manifest is missing, malformed or newer than this package."""


class BundleIntegrityError(BundleError):
    """The bundle's files are not the ones the manifest vouches for."""


class BackendError(SeqparError):
    """A backend cannot run this bundle."""


class BackendUnavailableError(BackendError):
    """The SDK a backend needs is not installed, or finds no device."""


class EngineError(BackendError):
    """An engine is missing, cannot be built, or is not for this bundle, runtime and GPU."""


class ExportError(SeqparError):
    """An export cannot be completed."""


class ParityError(ExportError):
    """The exported bundle does not reproduce the checkpoint."""
