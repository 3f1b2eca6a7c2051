"""The hash of fitting data, by which a calibration names the people it was fitted on."""

from __future__ import annotations

import hashlib
from pathlib import Path

from seqpar_deploy.datasets import Dataset
from seqpar_deploy.errors import DatasetError
from seqpar_deploy.files import sha256_of


def hash_of_data(dataset: Dataset) -> str:
    """Return the SHA-256 of everything that a fit reads: pictures, boxes, labels, groups and names of attributes.

    The order of the people does not count, and neither do the paths of their pictures. A person is the SHA-256 of the
    picture's file, the box, the labels and the group. The people's hashes are sorted and hashed together.

    Args:
        dataset: The people. Their pictures are read.

    Returns:
        The hash in hexadecimal.

    Raises:
        DatasetError: A picture cannot be read.
    """
    pictures: dict[Path, str] = {}
    people = []
    for row, path in enumerate(dataset.images):
        if path not in pictures:
            try:
                pictures[path] = sha256_of(path)
            except OSError as error:
                raise DatasetError(f"{path} cannot be read: {error.strerror}; check the disk") from None
        box = [] if dataset.boxes is None else dataset.boxes[row].tolist()
        group = "" if dataset.groups is None else dataset.groups[row]
        person = repr((pictures[path], box, dataset.labels[row].tolist(), group))
        people.append(hashlib.sha256(person.encode("utf-8", "surrogatepass")).digest())
    names = repr([attribute.name for attribute in dataset.label_set.attributes])
    return hashlib.sha256(names.encode() + b"".join(sorted(people))).hexdigest()


def groups_of(dataset: Dataset) -> list[str]:
    """Return a group per person: that of the data, or one of their own if the data has none."""
    return [f"{row}" for row in range(len(dataset))] if dataset.groups is None else list(dataset.groups)
