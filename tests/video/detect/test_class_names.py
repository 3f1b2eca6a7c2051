"""Names of classes are read from every usual key, and people's are found in many languages."""

from __future__ import annotations

import pytest

from seqpar_deploy.errors import DetectorError
from seqpar_deploy.video.detect.class_names import choose, people_among, read_names
from seqpar_deploy.video.detect.layout import COCO_80, COCO_91, Layout, Numbering


@pytest.mark.parametrize(
    "name",
    [
        *(
            " Person ",
            "PERSON",
            "people",
            "Pedestrians",
            "humans",
            "0: person",
            "pedestrian/person",
            "person (walking)",
        ),
        *("personne", "Piéton", "persona", "Person", "Mensch", "Fußgänger", "FUSSGÄNGER", "persoon", "pessoa", "Osoba"),
        *("人", "行人", "歩行者", "사람", "человек", "Пешеход", "kişi", "İnsan", "شخص", "άνθρωπος", "người"),
    ],
)
def test_people_are_named_in_many_ways(name: str) -> None:
    assert people_among({0: "car", 1: name, 2: "head"}) == [1]


def test_several_clear_names_are_all_people_and_unclear_ones_are_asked_for() -> None:
    assert people_among({0: "pedestrian", 1: "people", 2: "bicycle"}) == [0, 1]
    assert people_among({0: "person", 1: "rider", 2: "car"}) == [0]
    assert people_among({0: "helmet", 1: "man", 2: "woman"}) == [1, 2]
    assert people_among({0: "item"}) == [0]
    for names in ({0: "person_with_helmet", 1: "person_without_helmet"}, {0: "car"}, {0: "dog", 1: "head"}):
        with pytest.raises(DetectorError, match="--person-class") as caught:
            people_among(names)
        assert names[0] in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("names", "{0: 'car', 1: 'Person'}"),
        ("names", "['car', 'Person']"),
        ("names", '{"0": "car", "1": "Person"}'),
        ("labels", '["car", "Person"]'),
        ("classes", "car, Person"),
        ("class_labels", "0:car\n1:Person"),
        ("class_names", "('car', 'Person')"),
        ("id2label", '{"0": "car", "1": "Person"}'),
        ("label2id", '{"car": 0, "Person": 1}'),
        ("Categories", '[{"id": 0, "name": "car"}, {"id": 1, "name": "Person"}]'),
        ("config", '{"model": {"id2label": {"0": "car", "1": "Person"}}}'),
    ],
)
def test_names_are_read_from_every_usual_key(key: str, value: str) -> None:
    assert read_names({"stride": "32", "date": "2024", key: value}) == {0: "car", 1: "Person"}


def test_names_that_say_nothing_are_none() -> None:
    assert read_names({"names": str({number: f"class{number}" for number in range(80)})}) == {}
    assert read_names({"names": "[[" * 5000, "labels": "2", "classes": "None"}) == {}


def test_the_caller_names_classes_by_name_or_index() -> None:
    names = {0: "car", 1: " Fußgänger ", 2: "rider"}
    assert choose("1", names) == choose(1, names) == choose("fussgänger", names) == [1]
    assert choose("rider, Fußgänger", names) == choose("1,2", names) == [1, 2]
    for wanted in ("bus", "3", "-1", ""):
        with pytest.raises(DetectorError, match=r"--person-class"):
            choose(wanted, names)
    with pytest.raises(DetectorError, match=r"--person-class .* no class names"):
        choose("person", {})


def layout_of(classes: int | None, numbering: Numbering | None = COCO_80) -> Layout:
    return Layout(
        name="x", fit="letterbox", decode=lambda _: pytest.fail("unused"), classes=classes, numbering=numbering
    )


@pytest.mark.parametrize(
    ("names", "layout", "people"),
    [
        ({1: "person", 2: "car"}, layout_of(2), [0]),  # COCO's categories begin with 1
        ({0: "person", 1: "car"}, layout_of(None, COCO_91), [1]),  # torchvision's classes begin with the background
        ({0: "background", 1: "person", 2: "car"}, layout_of(2), [0]),
        ({0: "background", 1: "person"}, layout_of(1), [0]),
        ({0: "background", 1: "person", 2: "car"}, layout_of(3), [1]),
        ({0: "car", 1: "person"}, layout_of(80), [1]),
        (dict(enumerate(["person", *"abc"])), layout_of(1), [0]),  # one class, and names of the model it came from
    ],
)
def test_a_name_is_the_same_class_whether_it_is_chosen_or_found(
    names: dict[int, str], layout: Layout, people: list[int]
) -> None:
    assert layout.people(names, None) == people
    assert layout.people(names, "person") == people


@pytest.mark.parametrize(("names", "classes"), [(["car", "person", "dog", "cat"], 2), (["car", "person"], 1)])
def test_names_of_other_classes_are_refused_unless_the_index_is_named(names: list[str], classes: int) -> None:
    with pytest.raises(DetectorError, match=rf"{classes} classes.*set --person-class"):
        layout_of(classes).people(dict(enumerate(names)), None)
    assert layout_of(classes).people(dict(enumerate(names)), 0) == [0]
