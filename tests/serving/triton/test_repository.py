"""Model repositories, and the command that writes them."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli.run import run
from fakes.calibrations import calibrated_on
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from seqpar_deploy import Bundle, TritonError
from seqpar_deploy.bundle import CALIBRATION, MANIFEST
from seqpar_deploy.calibration.sidecar import save_calibration
from seqpar_deploy.preprocess import columns_read
from seqpar_deploy.serving.triton.config import ModelOptions
from seqpar_deploy.serving.triton.repository import models, served_version, versions, write_version
from seqpar_deploy.vocab import LabelSet


def config_of(folder: Path) -> Any:
    return text_format.Parse((folder / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())


@pytest.fixture
def bundle(bundle_dir: Path, tmp_path: Path) -> Bundle:
    return Bundle.open(shutil.copytree(bundle_dir, tmp_path / "bundle"))


def test_a_repository_is_what_triton_reads(bundle: Bundle, tmp_path: Path) -> None:
    written = write_version(bundle, tmp_path / "models")
    assert (written.model, written.version, written.replaced) == (tmp_path / "models" / "seqpar", 1, None)
    config, n = config_of(written.model), len(bundle.label_set)
    assert (config.name, config.backend, config.max_batch_size) == ("seqpar", "python", bundle.max_batch)
    assert {one.name: (list(one.dims), one.optional, one.allow_ragged_batch) for one in config.input} == {
        "image": ([1], True, True),
        "crop": ([-1, -1, 3], True, True),
        "draft": ([-1], True, True),
    }
    assert {one.name: list(one.dims) for one in config.output} == {
        "tokens": [n + 1],
        "scores": [n],
        "probabilities": [n],
        "states": [n],
        "steps": [1],
        "json": [1],
    }
    assert list(config.version_policy.specific.versions) == [1]
    assert list(config.dynamic_batching.preferred_batch_size) == [8]
    opened = Bundle.open(written.model / "1" / "bundle")
    assert opened.digest == bundle.digest
    assert "seqpar_deploy.serving.triton.model" in (written.model / "1" / "model.py").read_text()
    assert models(tmp_path / "models") == ["seqpar"]


def test_parameters_are_all_that_a_client_needs(bundle: Bundle, tmp_path: Path) -> None:
    labels = bundle.label_set
    save_calibration(bundle, calibrated_on(np.full((4, len(labels)), 0.5), labels))
    written = write_version(bundle, tmp_path / "models")
    parameters = {key: value.string_value for key, value in config_of(written.model).parameters.items()}
    assert parameters["bundle"] == bundle.digest
    assert LabelSet.from_dict(json.loads(parameters["label_set"]), source="config.pbtxt") == labels
    limits = json.loads(parameters["thresholds"])
    assert limits["Female"] == {"yes": 0.5, "no": 0.5}
    assert (written.model / "1" / "bundle" / CALIBRATION).is_file()


def test_attributes_that_are_kept_out_are_nowhere_in_the_configuration(bundle: Bundle, tmp_path: Path) -> None:
    labels = bundle.label_set
    save_calibration(bundle, calibrated_on(np.full((4, len(labels)), 0.5), labels))
    written = write_version(bundle, tmp_path / "models", without=["female", "age*"])
    left = [one.name for one in labels.attributes if one.name != "Female" and not one.name.startswith("Age")]
    assert 0 < len(left) < len(labels) - 2
    config = config_of(written.model)
    assert [one["name"] for one in json.loads(config.parameters["label_set"].string_value)["attributes"]] == left
    assert set(json.loads(config.parameters["thresholds"].string_value)) == set(left)
    dims = {one.name: one.dims[0] for one in config.output}
    assert (dims["tokens"], dims["states"]) == (len(left) + 1, len(left))
    assert "Female" not in (written.model / "config.pbtxt").read_text()
    again = write_version(bundle, tmp_path / "models", without=["age*", "Female"])
    assert again.version == 2
    with pytest.raises(TritonError, match="attributes of"):  # clients would misread the others
        write_version(bundle, tmp_path / "models")


def test_without_calibration_there_are_no_thresholds(bundle: Bundle, tmp_path: Path) -> None:
    written = write_version(bundle, tmp_path / "models")
    assert json.loads(config_of(written.model).parameters["thresholds"].string_value) is None


def test_names_with_quotes_and_accents_survive(bundle: Bundle, tmp_path: Path) -> None:
    labels = bundle.label_set
    odd = (dataclasses.replace(labels.attributes[0], name='Fe"mal\\é'), *labels.attributes[1:])
    changed = dataclasses.replace(bundle, label_set=dataclasses.replace(labels, attributes=odd))
    written = write_version(changed, tmp_path / "models")
    text = config_of(written.model).parameters["label_set"].string_value
    assert json.loads(text)["attributes"][0]["name"] == 'Fe"mal\\é'


@pytest.mark.parametrize(
    ("options", "kind", "count"),
    [(ModelOptions(), "KIND_CPU", 1), (ModelOptions(instances=3, gpu=True, queue_delay_ms=0.5), "KIND_GPU", 3)],
)
def test_options(options: ModelOptions, kind: str, count: int, bundle: Bundle, tmp_path: Path) -> None:
    config = config_of(write_version(bundle, tmp_path / "models", options=options).model)
    (group,) = config.instance_group
    assert (model_config_pb2.ModelInstanceGroup.Kind.Name(group.kind), group.count) == (kind, count)
    assert config.dynamic_batching.max_queue_delay_microseconds == 1000 * options.queue_delay_ms
    assert list(config.dynamic_batching.preferred_batch_size) == ([8, bundle.max_batch] if options.gpu else [8])


def test_warm_up_has_a_crop_of_each_width(bundle: Bundle, tmp_path: Path) -> None:
    written = write_version(bundle, tmp_path / "models")
    widths, batches = set(), set()
    for sample in config_of(written.model).model_warmup:
        shape = tuple(sample.inputs["crop"].dims)
        content = (written.model / "warmup" / sample.inputs["crop"].input_data_file).read_bytes()
        crop = np.frombuffer(content, np.uint8).reshape(shape)
        widths.add(columns_read(crop, bundle.trimming, bundle.preprocessing))
        batches.add(sample.batch_size)
    assert widths == set(bundle.columns or (0,))
    assert batches == {1, 8}


def test_files_are_copied_and_a_temporary_repository_links_to_the_folder(bundle: Bundle, tmp_path: Path) -> None:
    copied = write_version(bundle, tmp_path / "models").model / "1" / "bundle"
    linked = write_version(bundle, tmp_path / "other", link=True).model / "1" / "bundle"
    assert not copied.is_symlink()
    for name in (MANIFEST, *bundle.manifest["files"]):
        assert (copied / name).read_bytes() == (bundle.path / name).read_bytes()
        assert not os.path.samefile(copied / name, bundle.path / name)
        assert (copied / name).stat().st_nlink == 1  # or the onnx package refuses the weights
    assert linked.resolve() == bundle.path.resolve()


def test_the_next_version_replaces_the_configuration_and_rolls_back(bundle: Bundle, tmp_path: Path) -> None:
    model = write_version(bundle, tmp_path / "models").model
    before = (model / "config.pbtxt").read_bytes()
    written = write_version(bundle, tmp_path / "models", options=ModelOptions(instances=2))
    assert (written.version, written.replaced) == (2, 1)
    assert versions(model) == [1, 2]
    assert list(config_of(model).version_policy.specific.versions) == [2]
    assert (model / "1" / "config.pbtxt").read_bytes() == before
    (model / "config.pbtxt").write_bytes(before)
    assert served_version(model) == 1
    assert write_version(bundle, tmp_path / "models").replaced == 1
    assert versions(model) == [1, 2, 3]
    assert [entry for entry in tmp_path.iterdir() if entry.name.startswith(".")] == []


@pytest.mark.parametrize("earlier", [0, 1])
def test_a_failure_leaves_what_was_there(
    earlier: int, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(earlier):
        write_version(bundle, tmp_path / "models")
    before = sorted(tmp_path.rglob("*"))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("seqpar_deploy.serving.triton.repository.shutil.copyfile", full)
    with pytest.raises(TritonError, match="No space left"):
        write_version(bundle, tmp_path / "models")
    assert [path for path in sorted(tmp_path.rglob("*")) if path.name != "models"] == [
        path for path in before if path.name != "models"
    ]


def test_another_label_set_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    write_version(bundle, tmp_path / "models")
    labels = bundle.label_set
    turned = dataclasses.replace(labels, attributes=labels.attributes[::-1])
    with pytest.raises(TritonError, match="--name"):
        write_version(dataclasses.replace(bundle, label_set=turned), tmp_path / "models")
    fewer = dataclasses.replace(labels, attributes=labels.attributes[1:])
    with pytest.raises(TritonError, match=f"{len(labels)} attributes"):
        write_version(dataclasses.replace(bundle, label_set=fewer), tmp_path / "models")
    assert versions(tmp_path / "models" / "seqpar") == [1]


@pytest.mark.parametrize("name", ["", "../up", ".hidden", "a/b", "a b"])
def test_names_that_are_no_folder_are_refused(name: str, bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(TritonError, match="name must be"):
        write_version(bundle, tmp_path / "models", name=name)


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(TritonError, match="instances must be 1"):
        ModelOptions(instances=0)
    with pytest.raises(TritonError, match="queue delay"):
        ModelOptions(queue_delay_ms=-1)


def test_the_command(bundle_dir: Path, tmp_path: Path) -> None:
    words = ("export", "triton", bundle_dir, tmp_path / "models", "--name", "people", "--instances", 2)
    done = json.loads(run("seqpar", *words, "--json").stdout)
    assert (done["version"], done["replaced"]) == (1, None)
    assert config_of(tmp_path / "models" / "people").instance_group[0].count == 2
    assert "version 2, in place of version 1" in run("seqpar", *words).stdout
    assert "bundle" in run("seqpar", "export", "triton", tmp_path / "missing", tmp_path / "models", code=2).error
