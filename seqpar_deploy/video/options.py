"""Options of the video pipeline. All are frozen; durations are in seconds of the stream's time."""

from __future__ import annotations

import dataclasses

from seqpar_deploy.errors import VideoError
from seqpar_deploy.video.quality import MARGIN


def _check_least(options: SelectionOptions | FusionOptions | LifetimeOptions, least: dict[str, float]) -> None:
    """Raise VideoError if a field is below its least value, 0 unless given, or NaN."""
    for name, value in dataclasses.asdict(options).items():
        if not value >= least.get(name, 0):
            raise VideoError(f"{name} must be {least.get(name, 0):g} or more, got {value}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SelectionOptions:
    """Which crops are recognised, and how many.

    Args:
        max_crops_per_second: Average number of crops to recognise, over all streams. First answers may exceed it for a
            while; later crops make up for that. Default: 10.
        max_latency: Seconds after which a new person is recognised from the best crop so far, if no good one came.
            Default: 0.5.
        good_quality: Quality, 0 to 1, from which a first crop is recognised at once. Default: 0.3.
        min_interval: Seconds between the first two crops of a person. The interval then grows up to twofold each time,
            the more certain the attributes, the faster. Default: 1.
        max_interval: Seconds the interval grows to at most. Default: 30.
        margin: Margin around a box to cut out, as a share of its width and height. Default: 0.08.
        max_waiting: Number of crops that may wait to be recognised. Default: 256.

    Raises:
        VideoError: An option is out of range.
    """

    max_crops_per_second: float = 10.0
    max_latency: float = 0.5
    good_quality: float = 0.3
    min_interval: float = 1.0
    max_interval: float = 30.0
    margin: float = MARGIN
    max_waiting: int = 256

    def __post_init__(self) -> None:
        _check_least(self, {"min_interval": 1e-3, "max_interval": 1e-3})


@dataclasses.dataclass(frozen=True, kw_only=True)
class FusionOptions:
    """How the predictions of a track's crops are aggregated.

    An attribute's probability is the mean over the track's crops, weighted by crop quality and model confidence. Its
    state becomes "yes" at the probability `sure` and "no" at `1 - sure`. It stays so until the probability crosses
    `keep` (or `1 - keep`), so that labels do not flicker.

    Args:
        absent: Probability a crop contributes for an attribute the model did not emit. Default: 0.05.
        absent_weight: Weight of such a crop relative to one with the attribute: often the attribute is only not
            visible. Default: 0.4.
        prior_weight: Weight of the prior probability 0.5. Few or poor crops leave attributes unknown. Default: 0.1.
        memory: Total weight earlier crops have at most, so that newer ones can still change a state. Default: 10.
        moment: Seconds for which the latest crop decides momentary attributes, for example the view. Default: 2.
        sure: Probability from which an attribute is "yes", 0.5 to 1. Default: 0.6.
        keep: Probability above which an attribute stays "yes", at most `sure`. Default: 0.5.

    Raises:
        VideoError: An option is out of range.
    """

    absent: float = 0.05
    absent_weight: float = 0.4
    prior_weight: float = 0.1
    memory: float = 10.0
    moment: float = 2.0
    sure: float = 0.6
    keep: float = 0.5

    def __post_init__(self) -> None:
        _check_least(self, {})
        if not self.prior_weight:
            raise VideoError("prior_weight must be above 0, got 0; without a prior nothing would be unknown")
        if not max(0.5, self.keep) <= self.sure <= 1:
            raise VideoError(f"sure must be 0.5 to 1 and keep at most sure, got sure {self.sure} and keep {self.keep}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LifetimeOptions:
    """How long a track lives after its last sighting.

    Args:
        leave_after: Seconds without a sighting after which a person has left and their track ends. Default: 2.
        give_up_after: Seconds without a sighting after which a person who was never recognised is given up.
            Default: 30.

    Raises:
        VideoError: An option is out of range.
    """

    leave_after: float = 2.0
    give_up_after: float = 30.0

    def __post_init__(self) -> None:
        _check_least(self, {})


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoOptions:
    """Options of `watch` and `Follower`.

    Args:
        selection: Which crops are recognised.
        fusion: How their predictions are aggregated.
        lifetime: When a track ends.
        batch_size: Crops per inference at most. Default: 16.

    Raises:
        VideoError: An option is out of range.

    Example:
        VideoOptions(selection=SelectionOptions(max_crops_per_second=4), lifetime=LifetimeOptions(leave_after=5))
    """

    selection: SelectionOptions = SelectionOptions()
    fusion: FusionOptions = FusionOptions()
    lifetime: LifetimeOptions = LifetimeOptions()
    batch_size: int = 16

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise VideoError(f"batch_size must be 1 or more, got {self.batch_size}")
