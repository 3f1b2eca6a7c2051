"""The language of `seqpar search`: `backpack and not hat and female>0.8`, parsed to a small tree.

    expression  = conjunction {"or" conjunction}
    conjunction = negation {"and" negation}
    negation    = "not" negation | "(" expression ")" | test
    test        = name [("<" | "<=" | ">" | ">=") probability | "=" state]
    name        = word | "'" text "'" | '"' text '"'
    probability = number from 0 to 1 | number "%"
    state       = "yes" | "no" | "unknown"

A name alone is true if the state is yes, false if it is no, and unknown if it is unknown. `not`, `and` and `or` follow
Kleene's logic, as in SQL. A person matches if the whole is true. So neither `hat` nor `not hat` matches a person whose
hat is unknown. `hat=unknown` does: a test with `=` is true or false.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterator, Sequence
from typing import Literal, NoReturn, get_args

from seqpar_deploy.calibration.thresholds import State
from seqpar_deploy.errors import SearchError

Operator = Literal["<", "<=", ">", ">="]

_DEEPEST = 100  # parentheses and `not` within each other; Python's own stack ends at 1,000 calls
_LISTED = 12  # names in an error without a similar name
_STATES: tuple[str, ...] = get_args(State)
_WORDS = ("and", "or", "not")
_TOKEN = re.compile(
    r"""(?P<space>\s+)|(?P<symbol><=|>=|[()<>=])|"(?P<double>[^"]*)"|'(?P<single>[^']*)'|(?P<word>[^\s()<>=!"']+)"""
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Has:
    """An attribute: true if its state is yes, false if no, and unknown if unknown."""

    attribute: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class StateIs:
    """A test of an attribute's state, which is true or false."""

    attribute: str
    state: State


@dataclasses.dataclass(frozen=True, kw_only=True)
class Probability:
    """A comparison of an attribute's probability with a value from 0 to 1."""

    attribute: str
    operator: Operator
    value: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Not:
    """The negation of an expression. That of unknown is unknown."""

    operand: Expression


@dataclasses.dataclass(frozen=True, kw_only=True)
class And:
    """The conjunction of expressions. That of none is true."""

    operands: tuple[Expression, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Or:
    """The disjunction of two expressions or more."""

    operands: tuple[Expression, ...]


Expression = Has | StateIs | Probability | Not | And | Or


def parse_expression(text: str, names: Sequence[str]) -> Expression:
    """Parse a search expression.

    Args:
        text: The expression. An empty one matches everybody.
        names: The attributes that may be named. A name is found whatever its case, and without quotes also by its
            first letters if only one attribute begins with them.

    Returns:
        The tree of the expression, with names as in `names`.

    Raises:
        SearchError: The text is not an expression, or names no attribute. The message has the column.

    Examples:
        >>> parse_expression("hat", ["Female", "Hat"])
        Has(attribute='Hat')
    """
    tokens = list(_tokens(text))
    return _Parser(text, tokens, names).parse() if tokens else And(operands=())


def each_test(expression: Expression) -> Iterator[Has | StateIs | Probability]:
    """Yield the tests in an expression, from left to right."""
    if isinstance(expression, Not):
        yield from each_test(expression.operand)
    elif isinstance(expression, (And, Or)):
        for operand in expression.operands:
            yield from each_test(operand)
    else:
        yield expression


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Token:
    """A word, a symbol or a quoted name, and its first column from 1."""

    text: str
    column: int
    quoted: bool = False

    @property
    def key(self) -> str:
        """The text for comparisons with words of the language, which a quoted name never is."""
        return "" if self.quoted else self.text.casefold()


def _tokens(text: str) -> Iterator[_Token]:
    place = 0
    while place < len(text):
        found = _TOKEN.match(text, place)
        if found is None:
            _fail_at_letter(text, place)
        place = found.end()
        if found.lastgroup != "space":
            quoted = found.lastgroup in ("double", "single")
            yield _Token(text=found[found.lastgroup or 0], column=found.start() + 1, quoted=quoted)


def _fail_at_letter(text: str, place: int) -> NoReturn:
    if text[place] == "!":
        _fail(place + 1, "a name, and, or, or a comparison", "'!'", "write not NAME or not NAME=STATE")
    _fail(place + 1, "a name in quotes", f"{text[place]} without its second one", "add it")


class _Parser:
    """A recursive-descent parser: a method per rule of the grammar."""

    def __init__(self, text: str, tokens: Sequence[_Token], names: Sequence[str]) -> None:
        self._tokens = [*tokens, _Token(text="", column=len(text) + 1)]  # the last one is the end
        self._place = 0
        self._depth = 0
        self._names = names

    @property
    def _next(self) -> _Token:
        return self._tokens[self._place]

    def _taken(self, *keys: str) -> str | None:
        """Return the next token and move on if it is one of these."""
        key = self._next.key
        if not key or key not in keys:
            return None
        self._place += 1
        return key

    def _fail(self, expected: str, fix: str) -> NoReturn:
        at_end = self._place == len(self._tokens) - 1
        _fail(self._next.column, expected, "the end" if at_end else repr(self._next.text), fix)

    def parse(self) -> Expression:
        found = self._disjunction()
        if self._place < len(self._tokens) - 1:
            fix = (
                "remove it"
                if self._next.key == ")"
                else "write 'and' or 'or' between tests; quote a name that has spaces"
            )
            self._fail("and, or, or the end", fix)
        return found

    def _disjunction(self) -> Expression:
        operands = [self._conjunction()]
        while self._taken("or"):
            operands.append(self._conjunction())
        return operands[0] if len(operands) == 1 else Or(operands=tuple(operands))

    def _conjunction(self) -> Expression:
        operands = [self._negation()]
        while self._taken("and"):
            operands.append(self._negation())
        return operands[0] if len(operands) == 1 else And(operands=tuple(operands))

    def _negation(self) -> Expression:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise SearchError(
                f"parentheses and not must be at most {_DEEPEST} deep, got more at column {self._next.column} of the "
                "expression; remove some"
            )
        if self._taken("not"):
            found: Expression = Not(operand=self._negation())
        elif self._taken("("):
            found = self._disjunction()
            if not self._taken(")"):
                self._fail("')'", "close the parenthesis, or write 'and' or 'or' between tests")
        else:
            found = self._test()
        self._depth -= 1
        return found

    def _test(self) -> Expression:
        name = self._next
        if not name.quoted and (not name.text or name.key in (*_WORDS, *"()<>=", "<=", ">=")):
            self._fail("the name of an attribute", "for example backpack, or a name in quotes")
        self._place += 1
        attribute = _attribute(name, self._names)
        operator = self._taken("<", "<=", ">", ">=", "=")
        if operator is None:
            return Has(attribute=attribute)
        return self._state_is(attribute) if operator == "=" else self._probability(attribute, operator)

    def _state_is(self, attribute: str) -> Expression:
        state = self._taken(*_STATES)
        if state is None:
            self._fail(f"a state ({', '.join(_STATES)})", "compare a probability with <, <=, > or >=")
        return StateIs(attribute=attribute, state=state)  # type: ignore[arg-type]

    def _probability(self, attribute: str, operator: str) -> Expression:
        text = self._next.key
        try:
            value = float(text[:-1]) / 100 if text.endswith("%") else float(text)
        except ValueError:
            value = -1.0
        if not 0 <= value <= 1:  # neither is NaN
            self._fail("a probability from 0 to 1", f"for example {attribute}>0.8")
        self._place += 1
        return Probability(attribute=attribute, operator=operator, value=value)  # type: ignore[arg-type]


def _attribute(name: _Token, names: Sequence[str]) -> str:
    """Return the attribute that a token names: as it is, whatever its case, or by its first letters."""
    if name.text in names:
        return name.text
    key = name.text.casefold()
    same = [each for each in names if each.casefold() == key]
    if not same and not name.quoted:
        same = [each for each in names if each.casefold().startswith(key)]
    if len(same) > 1:
        _fail(name.column, "the name of one attribute", repr(name.text), f"{_listed(same)} begin so")
    return same[0] if same else _fail_at_name(name, names)


def _fail_at_name(name: _Token, names: Sequence[str]) -> NoReturn:
    key = name.text.casefold()
    by_key = {each.casefold(): each for each in names}
    close = difflib.get_close_matches(key, by_key, n=3, cutoff=0.6) or [each for each in by_key if key and key in each]
    fix = f"did you mean {' or '.join(by_key[each] for each in close[:3])}?" if close else f"choose of {_listed(names)}"
    _fail(name.column, "the name of an attribute", repr(name.text), fix)


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {more} more" if more > 0 else "")


def _fail(column: int, expected: str, got: str, fix: str) -> NoReturn:
    raise SearchError(f"column {column} of the expression must be {expected}, got {got}; {fix}")
