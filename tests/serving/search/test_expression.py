"""The language of `seqpar search`: what it means, and where an error is."""

from __future__ import annotations

import pytest

from seqpar_deploy.errors import SearchError
from seqpar_deploy.serving.search.expression import (
    And,
    Expression,
    Has,
    Not,
    Or,
    Probability,
    StateIs,
    each_test,
    parse_expression,
)

NAMES = ("Female", "Hat", "HandBag", "Backpack", "Age18-60", "Skirt&Dress", "Long hair", "Long sleeves", "not", "boots")
FEMALE, HAT, PACK = Has(attribute="Female"), Has(attribute="Hat"), Has(attribute="Backpack")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", And(operands=())),
        ("  \n", And(operands=())),
        ("hat", HAT),
        ("hat or female and backpack", Or(operands=(HAT, And(operands=(FEMALE, PACK))))),
        ("(hat or female) and backpack", And(operands=(Or(operands=(HAT, FEMALE)), PACK))),
        ("not hat and female", And(operands=(Not(operand=HAT), FEMALE))),
        ("NOT (hat AND female)", Not(operand=And(operands=(HAT, FEMALE)))),
        ("not not hat", Not(operand=Not(operand=HAT))),
        ("hat and female and backpack", And(operands=(HAT, FEMALE, PACK))),
        ("female>0.8", Probability(attribute="Female", operator=">", value=0.8)),
        ("female <= 80%", Probability(attribute="Female", operator="<=", value=0.8)),
        ("female>=1e-3", Probability(attribute="Female", operator=">=", value=0.001)),
        ("hat=Unknown", StateIs(attribute="Hat", state="unknown")),
        ("not hat = no", Not(operand=StateIs(attribute="Hat", state="no"))),
    ],
)
def test_expressions_bind_as_in_other_languages(text: str, expected: Expression) -> None:
    assert parse_expression(text, NAMES) == expected


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("HAT", "Hat"),
        ("fem", "Female"),
        ("age18-60", "Age18-60"),
        ("skirt&d", "Skirt&Dress"),
        ("'long hair'", "Long hair"),
        ('"LONG SLEEVES"', "Long sleeves"),
        ("'not'", "not"),
    ],
)
def test_names_have_any_case_quotes_and_first_letters(text: str, name: str) -> None:
    assert parse_expression(text, NAMES) == Has(attribute=name)
    assert parse_expression(f"{text}>0.5", NAMES) == Probability(attribute=name, operator=">", value=0.5)


def test_a_whole_name_wins_over_a_longer_one_and_its_case_over_another() -> None:
    assert parse_expression("hat", ["Hat", "HatBand"]) == Has(attribute="Hat")
    assert parse_expression("hat", ["Hat", "hat"]) == Has(attribute="hat")
    with pytest.raises(SearchError, match="Hat, hat"):
        parse_expression("HAT", ["Hat", "hat"])


@pytest.mark.parametrize(
    ("text", "column", "facts"),
    [
        ("hta", 1, ("'hta'", "Hat")),
        ("female and bag", 12, ("'bag'", "HandBag")),
        ("hat and long", 9, ("'long'", "Long hair", "Long sleeves")),
        ("'ha'", 1, ("'ha'",)),
        ("zzz", 1, ("Female", "boots")),
        ("''", 1, ("name",)),
        ("hat female", 5, ("'female'",)),
        ("hat and", 8, ("the end",)),
        ("and hat", 1, ("'and'",)),
        ("hat or or female", 8, ("'or'",)),
        ("not", 4, ("the end",)),
        ("(hat", 5, ("')'",)),
        ("hat)", 4, ("')'",)),
        ("()", 2, ("')'",)),
        ("female>1.5", 8, ("'1.5'",)),
        ("female>-0.1", 8, ("'-0.1'",)),
        ("female>nan", 8, ("'nan'",)),
        ("female>", 8, ("the end",)),
        ("female>120%", 8, ("'120%'",)),
        ("female>hat", 8, ("'hat'",)),
        ("0.8<female", 1, ("'0.8'",)),
        ("female=maybe", 8, ("'maybe'", "unknown")),
        ("hat=0.8", 5, ("'0.8'",)),
        ("female==yes", 8, ("'='",)),
        ("!hat", 1, ("'!'", "not")),
        ("hat!=yes", 4, ("'!'", "not")),
        ("hat and 'long hair", 9, ("'",)),
        ('"hat', 1, ('"',)),
    ],
)
def test_an_error_has_its_column_and_a_fix(text: str, column: int, facts: tuple[str, ...]) -> None:
    with pytest.raises(SearchError) as caught:
        parse_expression(text, NAMES)
    message = str(caught.value)
    assert f"column {column} " in message
    assert "; " in message
    assert "\n" not in message
    for fact in facts:
        assert fact in message.partition(f"column {column} ")[2]


@pytest.mark.parametrize("text", ["(" * 101 + "hat" + ")" * 101, "not " * 5000 + "hat"], ids=["parentheses", "not"])
def test_deep_expressions_are_refused(text: str) -> None:
    with pytest.raises(SearchError, match="100 deep"):
        parse_expression(text, NAMES)


@pytest.mark.parametrize("text", ["(" * 99 + "hat" + ")" * 99, " and ".join(["hat"] * 5000)], ids=["deep", "long"])
def test_long_ones_are_not(text: str) -> None:
    assert {test.attribute for test in each_test(parse_expression(text, NAMES))} == {"Hat"}


def test_tests_are_listed_in_order() -> None:
    found = each_test(parse_expression("hat and not (female>0.5 or backpack=no)", NAMES))
    assert [(type(test), test.attribute) for test in found] == [
        (Has, "Hat"),
        (Probability, "Female"),
        (StateIs, "Backpack"),
    ]
