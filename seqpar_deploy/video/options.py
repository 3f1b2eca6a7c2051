"""Options of the video pipeline. All are frozen; durations are in seconds of the stream's time."""

from __future__ import annotations

import dataclasses

from seqpar_deploy.errors import VideoError
from seqpar_deploy.video.privacy.blur import Blur
from seqpar_deploy.video.quality import MARGIN


def _check_least(options: SelectionOptions | FusionOptions | LifetimeOptions, least: dict[str, float]) -> None:
    """Raise VideoError if a field is NaN or below its minimum, which is 0 unless `least` has another."""
    for name, value in dataclasses.asdict(options).items():
        if not value >= least.get(name, 0):
            raise VideoError(f"{name} must be {least.get(name, 0):g} or more, got {value}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SelectionOptions:
    """Options of crop selection: the crops to recognise, and their number.

    Attributes:
        max_crops_per_second: Crops to recognise per second on average, over all streams. The first crops of new people
            may exceed it for up to 10 s of this budget. Later crops make up for it. Default: 10.
        max_latency: Seconds after which a new person is recognised from the best crop so far, if none was good.
            Default: 0.5.
        good_quality: Quality, 0 to 1, from which the first crop of a person is recognised at once. Default: 0.3.
        min_interval: Seconds between the first two crops of a person. The interval then grows with each crop, up to
            twofold if the attributes are certain. Default: 1.
        max_interval: Longest interval in seconds. Default: 30.
        margin: Margin to add on each side of a box, as a share of its width or height. Default: 0.08.
        max_waiting: Maximum number of crops in the queue for recognition. Default: 256.

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
    """Options of attribute fusion, which aggregates the predictions of a track's crops.

    An attribute's log-odds are the mean over the track's crops, weighted by crop quality. More crops make them more
    certain, but less so the more the crops of one track resemble each other. The state becomes "yes" at the probability
    `sure` and "no" at `1 - sure`. It stays so until the probability crosses `keep` (or `1 - keep`), so that labels do
    not flicker. If the Recognizer has thresholds, they replace `keep` and `1 - keep`. A new state then needs log-odds
    beyond its threshold, by the difference of `sure` and `keep` in log-odds.

    Attributes:
        correlation: Correlation between crops of one track, 0 to 1. N crops of full quality count as
            N / (1 + (N - 1) * correlation) independent ones. Default: 0.25.
        base_rate: Share of the people who have an attribute, above 0 and below 1. Each crop's probability contains it,
            but it counts only once per track. Default: 0.2.
        crop_limit: Greatest probability that one crop contributes, above 0.5 and below 1. The least is
            `1 - crop_limit`. It is below 1 because an attribute may be hidden in a crop. Default: 0.95.
        prior_weight: Weight of the probability 0.5. With a higher weight, few or poor crops leave more attributes
            unknown. Default: 0.1.
        memory: Maximum total weight of earlier crops, so that new crops can still change a state. Default: 10.
        moment: Seconds for which the latest crop decides momentary attributes, for example the view. Default: 2.
        sure: Probability from which an attribute is "yes", 0.5 to 1. Default: 0.6.
        keep: Probability above which an attribute stays "yes", at most `sure`. Default: 0.5.

    Raises:
        VideoError: An option is out of range.
    """

    correlation: float = 0.25  # that of the train tracks of samples/vtest, see benchmarks/video_ablation.py
    base_rate: float = 0.2  # 0.22 of the labels of the demo model's test people are yes
    crop_limit: float = 0.95
    prior_weight: float = 0.1
    memory: float = 10.0
    moment: float = 2.0
    sure: float = 0.6
    keep: float = 0.5

    def __post_init__(self) -> None:
        _check_least(self, {})
        if not self.prior_weight:
            raise VideoError("prior_weight must be above 0, got 0; use a small value, for example 0.01")
        if self.correlation > 1:
            raise VideoError(f"correlation must be 0 to 1, got {self.correlation:g}")
        for name, value, least in (("base_rate", self.base_rate, 0.0), ("crop_limit", self.crop_limit, 0.5)):
            if not least < value < 1:
                raise VideoError(f"{name} must be above {least:g} and below 1, got {value:g}")
        if not max(0.5, self.keep) <= self.sure <= 1:
            raise VideoError(
                f"sure must be 0.5 to 1 and keep at most sure, got sure {self.sure:g} and keep {self.keep:g}"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class LifetimeOptions:
    """Options that set when a track ends.

    Attributes:
        leave_after: Seconds without a sighting after which a track ends. Default: 2.
        give_up_after: Seconds without a sighting after which a track without any recognised crop is discarded.
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

    Attributes:
        selection: Options of crop selection. Default: `SelectionOptions()`.
        fusion: Options of attribute fusion. Default: `FusionOptions()`.
        lifetime: Options that set when a track ends. Default: `LifetimeOptions()`.
        batch_size: Maximum number of crops per inference. Default: 16.
        blur: Blur `heads` or whole `people` in the frames and crops that are passed on, once their pixels were
            recognised. Everything that the detector finds is blurred, before it is known who or what it is, and the
            whole frame until the detector is ready. Default: nothing is blurred.

    Raises:
        VideoError: An option is out of range.

    Example:
        VideoOptions(selection=SelectionOptions(max_crops_per_second=4), lifetime=LifetimeOptions(leave_after=5))
    """

    selection: SelectionOptions = SelectionOptions()
    fusion: FusionOptions = FusionOptions()
    lifetime: LifetimeOptions = LifetimeOptions()
    batch_size: int = 16
    blur: Blur | None = None

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise VideoError(f"batch_size must be 1 or more, got {self.batch_size}")
