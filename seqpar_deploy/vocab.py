"""Map token ids to attributes, with the label set that names them.

Ids follow the published code: `<bos>` 0, `<eos>` 1, `<pad>` 2, attribute *i* of the dataset is 3 + *i*.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import functools
from collections.abc import Iterable, Mapping
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
    """Describe one attribute.

    Attributes:
        name: The name in the dataset.
        phrase: The input of the text tower.
        group: The name of its group.
    """

    name: Text
    phrase: Text
    group: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Group:
    """Describe a group of related attributes.

    Attributes:
        exclusive: Whether at most one of them can be true of a person. Default: False.
        momentary: Whether they change while a person is tracked, for example the visible side. Default: False.
    """

    exclusive: bool = False
    momentary: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelSet:
    """Describe the attributes of a model in token order, and the preprocessing of its crops.

    Attributes:
        name: Short name, for example `peta`.
        attributes: The attributes. Attribute *i* has token id 3 + *i*.
        groups: The groups by name. Every attribute's group is declared here.
        preprocessing: How crops are prepared. Default: as published.
        title: Display name. Default: empty.
        homepage: Web page of the dataset. Default: empty.
        paper: SequencePAR's published scores in per cent: accuracy, precision, recall, f1. Default: None.
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
            raise ValueError("attributes must have one entry or more, got none")
        for field in ("name", "phrase"):
            texts = [getattr(attribute, field) for attribute in self.attributes]
            if repeated := sorted({text for text in texts if texts.count(text) > 1}):
                raise ValueError(f"attributes must have different {field}s, got {repeated[0]!r} twice")
        if undeclared := sorted({attribute.group for attribute in self.attributes} - set(self.groups)):
            raise ValueError(
                f"every attribute's group must be declared under [groups], got undeclared {undeclared[0]!r}"
            )

    def __len__(self) -> int:
        return len(self.attributes)

    @property
    def vocabulary_size(self) -> int:
        """V: the number of attributes and special tokens."""
        return FIRST_ATTRIBUTE + len(self.attributes)

    @property
    def phrases(self) -> tuple[str, ...]:
        """The phrase of each attribute, in token order."""
        return tuple(attribute.phrase for attribute in self.attributes)

    @property
    def exclusive(self) -> tuple[tuple[int, ...], ...]:
        """The attributes of each exclusive group, as indices from 0."""
        named = enumerate(attribute.group for attribute in self.attributes)
        places: dict[str, list[int]] = {name: [] for name, group in self.groups.items() if group.exclusive}
        for place, group in named:
            if group in places:
                places[group].append(place)
        return tuple(tuple(some) for some in places.values() if len(some) > 1)

    @functools.cached_property
    def _token_of_name(self) -> dict[str, int]:
        return {attribute.name: FIRST_ATTRIBUTE + i for i, attribute in enumerate(self.attributes)}

    def token(self, name: str) -> int:
        """Return the token id of an attribute's name. Raises LabelSetError if the name is not in the set."""
        try:
            return self._token_of_name[name]
        except KeyError:
            raise LabelSetError(
                f"attribute must be in label set {self.name}, got {name!r}; check the name or the label set"
            ) from None

    def attribute(self, token: int) -> Attribute | None:
        """Return the attribute of a token id, or None for a special token."""
        return self.attributes[token - FIRST_ATTRIBUTE] if token >= FIRST_ATTRIBUTE else None

    def matching(self, patterns: Iterable[str]) -> tuple[str, ...]:
        """Return the names that match patterns, in token order. Case does not count.

        Args:
            patterns: Names, or patterns with `*`, `?` and `[...]`, for example `age*`.

        Returns:
            The names.

        Raises:
            LabelSetError: A pattern matches no name.
        """
        found: set[str] = set()
        for pattern in patterns:
            wanted = pattern.casefold()
            names = {one.name for one in self.attributes if one.name.casefold() == wanted}  # also with a bracket in it
            names = names or {one.name for one in self.attributes if fnmatch.fnmatchcase(one.name.casefold(), wanted)}
            if not names:
                raise LabelSetError(
                    f"attributes must be of label set {self.name}, got {pattern!r}; choose from "
                    f"{', '.join(one.name for one in self.attributes)}"
                )
            found |= names
        return tuple(one.name for one in self.attributes if one.name in found)

    def without(self, names: Iterable[str]) -> LabelSet:
        """Return the label set without some attributes, and without the groups that have no others.

        Args:
            names: Names of attributes.

        Returns:
            The label set. Token ids are those of its own order.

        Raises:
            LabelSetError: No attribute would be left.
        """
        removed = set(names)
        left = tuple(one for one in self.attributes if one.name not in removed)
        if not left:
            raise LabelSetError(
                f"one attribute or more of label set {self.name} must be left, got all {len(self)} removed; name fewer"
            )
        groups = {name: group for name, group in self.groups.items() if any(one.group == name for one in left)}
        return dataclasses.replace(self, attributes=left, groups=groups)

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain values for a manifest. `from_dict` reads them."""
        values = {"format": FORMAT, **dataclasses.asdict(self)}
        values["attributes"] = list(values["attributes"])
        return values

    @classmethod
    def from_dict(
        cls, values: Mapping[str, Any], *, source: str, sentences: bool = False, known_keys_only: bool = False
    ) -> LabelSet:
        """Read a label set from plain values, as a TOML file or `to_dict` provides them.

        Args:
            values: The values, including `format`.
            source: The file's name in errors.
            sentences: Use the set's full sentences as phrases, for models trained on those. Default: False.
            known_keys_only: Reject unknown keys, for files that people write. Default: False.

        Returns:
            The label set.

        Raises:
            LabelSetError: The values are not a label set, or it has no sentences.
        """
        context: dict[str, Any] = {
            "source": source,
            "error": LabelSetError,
            "hint": "see models/peta.toml for an example",
        }
        values = without_format(values, FORMAT, **context)
        texts = typed(values.pop("sentences", []), tuple[Text, ...], path="sentences", **context)
        made = typed(values, cls, known_keys_only=known_keys_only, **context)
        if not sentences:
            return made
        if len(texts) != len(made):
            raise LabelSetError(
                f"{source}: sentences must have {len(made)} texts, one per attribute, got {len(texts)}; "
                "leave out --sentences to use the short phrases"
            )
        pairs = zip(made.attributes, texts, strict=True)
        return dataclasses.replace(made, attributes=tuple(dataclasses.replace(a, phrase=text) for a, text in pairs))
