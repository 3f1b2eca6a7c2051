"""Token ids <-> attributes, and the label set that names them.

Ids follow the published code: `<bos>` 0, `<eos>` 1, `<pad>` 2, attribute *i* of the data set is 3 + *i*.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

from seqpar_deploy.config import Text, typed, without_format
from seqpar_deploy.errors import LabelSetError
from seqpar_deploy.preprocess import Preprocessing

BOS, EOS, PAD = 0, 1, 2
SPECIAL_TOKENS = {"bos": BOS, "eos": EOS, "pad": PAD}
FIRST_ATTRIBUTE = 3

FORMAT = 1  # of a label set's TOML or JSON


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attribute:
    """One attribute: its name in the data set, the phrase given to the text tower, the group it belongs to."""

    name: Text
    phrase: Text
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

    name: Text
    attributes: tuple[Attribute, ...]
    groups: Mapping[str, Group]
    preprocessing: Preprocessing = Preprocessing()
    title: str = ""
    homepage: str = ""
    paper: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        if not self.attributes:
            raise ValueError("attributes must be one or more, got none")
        for field in ("name", "phrase"):
            texts = [getattr(attribute, field) for attribute in self.attributes]
            if repeated := sorted({text for text in texts if texts.count(text) > 1}):
                raise ValueError(f"attributes must have different {field}s, got {repeated[0]!r} twice")
        if undeclared := sorted({attribute.group for attribute in self.attributes} - set(self.groups)):
            raise ValueError(f"every group must be declared under [groups], {undeclared[0]!r} is not")

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
    def from_dict(
        cls, values: Mapping[str, Any], *, source: str, sentences: bool = False, known_keys_only: bool = False
    ) -> LabelSet:
        """Read a label set from plain values, as a TOML file or `to_dict` gives them.

        Args:
            values: The values, `format` among them.
            source: Names the file in errors.
            sentences: Take the set's full sentences as phrases, for models whose text tower was given those.
            known_keys_only: Refuse unknown keys, for files that people write.

        Raises:
            LabelSetError: the values are no label set, or it has no sentences.
        """
        where: dict[str, Any] = {"source": source, "error": LabelSetError, "hint": "see models/peta.toml for the form"}
        values = without_format(values, FORMAT, **where)
        texts = typed(values.pop("sentences", []), tuple[Text, ...], path="sentences", **where)
        made = typed(values, cls, known_keys_only=known_keys_only, **where)
        if not sentences:
            return made
        if len(texts) != len(made):
            raise LabelSetError(
                f"{source}: sentences must be {len(made)} texts, one per attribute, got {len(texts)}; "
                "leave out --sentences to use the short phrases"
            )
        pairs = zip(made.attributes, texts, strict=True)
        return dataclasses.replace(made, attributes=tuple(dataclasses.replace(a, phrase=text) for a, text in pairs))
