"""Token ids <-> attributes, and the label set that names them.

Ids follow the published code: `<bos>` 0, `<eos>` 1, `<pad>` 2, attribute *i* of the data set is 3 + *i*.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

from seqpar_deploy.errors import LabelSetError
from seqpar_deploy.preprocess import Preprocessing

BOS, EOS, PAD = 0, 1, 2
SPECIAL_TOKENS = {"bos": BOS, "eos": EOS, "pad": PAD}
FIRST_ATTRIBUTE = 3

FORMAT = 1  # of a label set's TOML or JSON


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attribute:
    """One attribute: its name in the data set, the phrase given to the text tower, the group it belongs to."""

    name: str
    phrase: str
    group: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Group:
    """Attributes that belong together; `exclusive` when at most one of them can be true of one person, `momentary` when
    they are true of a person for a while only, such as the side they are seen from."""

    exclusive: bool = False
    momentary: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelSet:
    """The attributes a model speaks of, in token order, and how its pictures were prepared.

    `paper` holds SequencePAR's published scores in per cent (accuracy, precision, recall, f1), where there are any.
    """

    name: str
    attributes: tuple[Attribute, ...]
    groups: Mapping[str, Group]
    preprocessing: Preprocessing = Preprocessing()
    title: str = ""
    homepage: str = ""
    paper: Mapping[str, float] | None = None

    def __len__(self) -> int:
        return len(self.attributes)

    @property
    def vocabulary_size(self) -> int:
        """V: the attributes and the three special tokens."""
        return FIRST_ATTRIBUTE + len(self.attributes)

    @property
    def phrases(self) -> tuple[str, ...]:
        return tuple(attribute.phrase for attribute in self.attributes)

    @functools.cached_property
    def _token_of_name(self) -> dict[str, int]:
        return {attribute.name: FIRST_ATTRIBUTE + i for i, attribute in enumerate(self.attributes)}

    def token(self, name: str) -> int:
        """The token id of an attribute's name; raises LabelSetError for a name that is not in the set."""
        try:
            return self._token_of_name[name]
        except KeyError:
            raise LabelSetError(f"{name!r} is no attribute of label set {self.name}") from None

    def attribute(self, token: int) -> Attribute | None:
        """The attribute of a token id; None for a special token."""
        return self.attributes[token - FIRST_ATTRIBUTE] if token >= FIRST_ATTRIBUTE else None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a manifest; `from_dict` reads them back."""
        values = {"format": FORMAT, **dataclasses.asdict(self)}
        values["attributes"] = list(values["attributes"])
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, source: str, sentences: bool = False) -> LabelSet:
        """Read from a TOML or JSON mapping; `source` names it in errors. Raises LabelSetError.

        `sentences` takes the set's full sentences as phrases, for models whose text tower was given those.
        """
        if sentences and not values.get("sentences"):
            raise LabelSetError(f"label set {source} has no sentences, only short phrases; leave out --sentences")
        try:
            if sentences:
                pairs = zip(values["attributes"], values["sentences"], strict=True)
                values = {**values, "attributes": [{**a, "phrase": sentence} for a, sentence in pairs]}
            return cls._from_dict(values)
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            what = f"misses key {error}" if isinstance(error, KeyError) else str(error)
            raise LabelSetError(f"{source} is not a label set: {what}; see models/peta.toml for the form") from None

    @classmethod
    def _from_dict(cls, values: Mapping[str, Any]) -> LabelSet:
        if values["format"] != FORMAT:
            raise ValueError(f"format is {values['format']!r}, wanted {FORMAT}")
        attributes = tuple(Attribute(**attribute) for attribute in values["attributes"])
        groups = {name: Group(**group) for name, group in values["groups"].items()}
        if not attributes:
            raise ValueError("it has no attributes")
        for field in ("name", "phrase"):
            texts = [getattr(attribute, field) for attribute in attributes]
            if not all(isinstance(text, str) and text.strip() for text in texts):
                raise ValueError(f"an attribute's {field} is empty or no text")
            if repeated := sorted({text for text in texts if texts.count(text) > 1}):
                raise ValueError(f"attribute {field} {repeated[0]!r} stands twice")
        if undeclared := sorted({attribute.group for attribute in attributes} - set(groups)):
            raise ValueError(f"group {undeclared[0]!r} is used but not declared under [groups]")
        return cls(
            name=str(values["name"]),
            attributes=attributes,
            groups=groups,
            preprocessing=Preprocessing.from_dict(dict(values.get("preprocessing", {}))),
            title=str(values.get("title", "")),
            homepage=str(values.get("homepage", "")),
            paper=dict(values["paper"]) if values.get("paper") else None,
        )
