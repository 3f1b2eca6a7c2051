"""Thresholds that turn probabilities into states, and their TOML file, which people may edit.

format = 1
default = 0.5                              # attributes that are not named: yes from 0.5, else no
[attributes]
Female = {no = 0.1, yes = 0.9}             # yes from 0.9, no below 0.1, else unknown
"Age18-60" = 0.62                          # yes from 0.62, else no
Hat = {no = 0.04}                          # no below 0.04, else unknown: never yes
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from seqpar_deploy.calibration.maps import Float64Array, Floats, log_odds
from seqpar_deploy.config import parse_toml, typed, without_format
from seqpar_deploy.errors import CalibrationError
from seqpar_deploy.vocab import LabelSet

FORMAT = 1

State = Literal["yes", "no", "unknown"]
"""Whether a person has an attribute. `unknown` if the probability lies between the thresholds."""

_Probability = Annotated[float, msgspec.Meta(ge=0, le=1)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """Hold the thresholds of one attribute.

    Attributes:
        yes: The state is `yes` from this probability on, 0 to 1. Default: None, never.
        no: The state is `no` below this probability, 0 to 1, at most `yes`. Default: None, never.
    """

    yes: _Probability | None = None
    no: _Probability | None = None

    def __post_init__(self) -> None:
        if self.yes is not None and self.no is not None and self.no > self.yes:
            raise ValueError(f"no must be at most yes, got no {self.no:g} and yes {self.yes:g}")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Thresholds:
    """Hold the thresholds of all attributes of a label set.

    Attributes:
        yes: The state is `yes` from these probabilities on, float64 (n,). Infinite where it never is.
        no: The state is `no` below these, float64 (n,), at most `yes`. 0 or less where it never is.
        exclusive: Attributes of each exclusive group, as indices. At most one of a group is `yes`.
    """

    yes: Float64Array
    no: Float64Array
    exclusive: tuple[tuple[int, ...], ...] = ()

    @classmethod
    def from_limits(cls, label_set: LabelSet, limits: Mapping[str, Limits], default: Limits) -> Thresholds:
        """Make thresholds from those of each attribute by name. `default` holds for attributes without an entry."""
        chosen = [limits.get(attribute.name, default) for attribute in label_set.attributes]
        return cls(
            yes=np.array([np.inf if one.yes is None else one.yes for one in chosen]),
            no=np.array([-np.inf if one.no is None else one.no for one in chosen]),
            exclusive=label_set.exclusive,
        )

    def limits(self, label_set: LabelSet) -> dict[str, Limits]:
        """Return the thresholds of each attribute by name. `from_limits` reads them."""
        names = [attribute.name for attribute in label_set.attributes]
        return {
            name: Limits(yes=yes if np.isfinite(yes) else None, no=no if np.isfinite(no) else None)
            for name, yes, no in zip(names, self.yes.tolist(), self.no.tolist(), strict=True)
        }

    def codes(self, probabilities: Floats) -> npt.NDArray[np.int8]:
        """Return the states of probabilities (M, n) as labels, int8 (M, n): 1 yes, 0 no, -1 unknown."""
        codes = np.full(np.shape(probabilities), -1, dtype=np.int8)
        codes[probabilities < self.no] = 0
        codes[probabilities >= self.yes] = 1
        for places in self.exclusive:
            group = np.array(places)
            claims = codes[:, group] == 1
            best = np.where(claims, self._leads(probabilities[:, group], group), -np.inf).argmax(axis=1)
            others = claims & (np.arange(len(group)) != best[:, None])
            codes[:, group] = np.where(others, 0, codes[:, group])
        return codes

    def states(self, probabilities: Floats) -> tuple[State, ...]:
        """Return the state of each attribute of one person, given its probabilities (n,).

        Of several attributes of an exclusive group that reach their thresholds, the one that exceeds its threshold the
        most, in log-odds, is `yes` and the others are `no`.
        """
        # As `codes`, in plain Python: for one person, 5 us in place of 75.
        found = np.asarray(probabilities).tolist()
        limits = zip(found, self.yes.tolist(), self.no.tolist(), strict=True)
        states: list[State] = ["yes" if p >= yes else "no" if p < no else "unknown" for p, yes, no in limits]
        for places in self.exclusive:
            claims = [place for place in places if states[place] == "yes"]
            if len(claims) > 1:
                leads = self._leads(np.asarray(probabilities)[claims], np.array(claims))
                best = claims[int(leads.argmax())]
                for place in claims:
                    states[place] = "yes" if place == best else "no"
        return tuple(states)

    def margin(self, probabilities: Floats, slopes: Float64Array) -> float:
        """Return the smallest change of the decoder's log-odds that can change a state, given probabilities (n,).

        `slopes` (n,) are those of the calibration's maps, or ones. Changes of two attributes of an exclusive group are
        compared with half the difference of their leads over their thresholds.
        """
        odds = log_odds(probabilities)
        ends = [np.abs(odds - log_odds(limit))[np.isfinite(limit)] / slopes[np.isfinite(limit)] for limit in self._ends]
        distances = np.concatenate(ends)
        for places in self.exclusive:
            claims = [place for place in places if probabilities[place] >= self.yes[place]]
            if len(claims) > 1:
                second, best = np.sort(self._leads(np.asarray(probabilities)[claims], np.array(claims)))[-2:]
                distances = np.append(distances, (best - second) / (2 * slopes[claims].max()))
        return float(distances.min(initial=np.inf))

    def _leads(self, probabilities: Floats, places: npt.NDArray[np.integer[Any]]) -> Float64Array:
        """Return by how much probabilities (..., k) of the attributes `places` exceed their thresholds, in log-odds."""
        return log_odds(probabilities) - log_odds(self.yes[places])

    @property
    def _ends(self) -> Sequence[Float64Array]:
        return self.yes, self.no


_HINT = "see docs/reference/thresholds.md for an example"


@dataclasses.dataclass(frozen=True, kw_only=True)
class _File:
    attributes: Mapping[str, float | Limits] = dataclasses.field(default_factory=dict)
    default: float | Limits = 0.5


def read_thresholds(path: Path, label_set: LabelSet) -> Thresholds:
    """Read a thresholds file.

    Args:
        path: The TOML file.
        label_set: The label set whose attributes it names.

    Returns:
        The thresholds.

    Raises:
        CalibrationError: The file cannot be read, a threshold is out of range, or an attribute is not in the label set.
    """
    context: dict[str, Any] = {"source": str(path), "error": CalibrationError, "hint": _HINT}
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CalibrationError(f"{path} cannot be read: {error.strerror}; name a thresholds file (TOML)") from None
    parsed = parse_toml(content, source=str(path), error=CalibrationError)
    values = without_format(parsed, FORMAT, **context)
    attributes = values.get("attributes")
    given = {f"attributes.{name}": one for name, one in attributes.items()} if isinstance(attributes, dict) else {}
    for key, one in {**given, "default": values.get("default")}.items():
        if isinstance(one, dict):  # the keys of a union's table are not checked with those of the file
            typed(one, Limits, known_keys_only=True, path=key, **context)
    file = typed(values, _File, known_keys_only=True, **context)
    names = {attribute.name for attribute in label_set.attributes}
    if unknown := [name for name in file.attributes if name not in names]:
        raise CalibrationError(
            f"{path}: attributes must be names of label set {label_set.name!r}, got {unknown[0]!r}; "
            "seqpar info prints the names"
        )
    limits = {name: _limits(value, f"attributes.{name}", path) for name, value in file.attributes.items()}
    return Thresholds.from_limits(label_set, limits, _limits(file.default, "default", path))


def thresholds_to_toml(thresholds: Thresholds, label_set: LabelSet) -> str:
    """Return a thresholds file with the threshold of every attribute. `read_thresholds` reads it.

    Args:
        thresholds: The thresholds.
        label_set: The label set whose attributes the file names.

    Returns:
        The text of the TOML file, with comments that explain it.
    """
    lines = [_HEADER.format(label_set=label_set.name.encode("unicode_escape").decode(), format=FORMAT)]
    lines += [f"{_key(name)} = {_value(limits)}" for name, limits in thresholds.limits(label_set).items()]
    return "\n".join(lines) + "\n"


_HEADER = """\
# Thresholds of label set {label_set}: probabilities, 0 to 1, that turn a probability into a state.
#   Hat = 0.62                    yes from 0.62 on, else no
#   Hat = {{no = 0.1, yes = 0.9}}   yes from 0.9 on, no below 0.1, else unknown
#   Hat = {{no = 0.04}}             no below 0.04, else unknown: never yes
#   Hat = {{}}                      always unknown
# Attributes that you delete are yes from the default on, else no.
format = {format}
default = 0.5

[attributes]"""


def _key(name: str) -> str:
    """Quote a name: JSON's escapes are those of TOML, which also escapes DEL."""
    return json.dumps(name, ensure_ascii=False).replace("\x7f", "\\u007F")


def _value(limits: Limits) -> str:
    if limits.yes is not None and limits.yes == limits.no:
        return repr(float(limits.yes))
    named = {"no": limits.no, "yes": limits.yes}
    return "{" + ", ".join(f"{key} = {float(at)!r}" for key, at in named.items() if at is not None) + "}"


def _limits(value: float | Limits, key: str, path: Path) -> Limits:
    if isinstance(value, Limits):
        return value
    if not 0 <= value <= 1:
        raise CalibrationError(f"{path}: {key} must be a probability, 0 to 1, got {value:g}")
    return Limits(yes=value, no=value)
