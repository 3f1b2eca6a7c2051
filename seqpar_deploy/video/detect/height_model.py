"""Learns the height of people at each position in a fixed camera's image."""

from __future__ import annotations

import collections

import numpy as np

ENOUGH = 40  # observations before the first fit
RECENT = 600  # observations to keep
EVERY = 20  # observations between two fits


class HeightModel:
    """A line from the position of the feet to the height, both in pixels, fitted by least absolute deviations.

    The line is exact on flat ground, for a camera without roll.
    """

    def __init__(self) -> None:
        self._observations: collections.deque[tuple[float, float]] = collections.deque(maxlen=RECENT)
        self._new = 0
        self._slope = 0.0
        self._offset: float | None = None

    @property
    def known(self) -> bool:
        return self._offset is not None

    def add(self, bottom: float, height: float) -> None:
        """Record a person whose feet are at `bottom` and whose box is `height` tall."""
        self._observations.append((bottom, height))
        self._new += 1
        if len(self._observations) >= ENOUGH and self._new >= EVERY:
            self._fit()
            self._new = 0

    def of_feet(self, bottom: float) -> float:
        """Return the height of a person whose feet are at `bottom`. Valid if `known`."""
        return max(1.0, self._slope * bottom + (self._offset or 0.0))

    def of_head(self, top: float) -> float:
        """Return the height of a person whose head is at `top`. Valid if `known`."""
        return max(1.0, (self._slope * top + (self._offset or 0.0)) / max(0.3, 1 - self._slope))

    def _fit(self) -> None:
        bottoms, heights = np.array(self._observations).T
        if np.ptp(bottoms) < np.median(heights):  # all at one distance: the slope is unknown
            self._slope, self._offset = 0.0, float(np.median(heights))
            return
        weights = np.ones(len(heights))
        for _ in range(5):
            slope, offset = np.polyfit(bottoms, heights, 1, w=np.sqrt(weights))
            away = np.abs(heights - slope * bottoms - offset)
            weights = 1 / np.maximum(away, 0.05 * heights)
        self._slope, self._offset = float(slope), float(offset)
