"""The parameters of a command from a dataclass, so that each option is declared once."""

from __future__ import annotations

import contextvars
import dataclasses
import functools
import inspect
import typing
from collections.abc import Callable
from typing import Any, TypeVar

Request = TypeVar("Request")

GIVEN = contextvars.ContextVar[frozenset[str]]("GIVEN", default=frozenset())  # parameters that the command line has


def takes(request: type[Request]) -> Callable[[Callable[[Request], None]], Callable[..., None]]:
    """Return a decorator that gives a command one parameter per field of a dataclass, and passes the dataclass to it.

    Fields need an annotation of `typer.Option` or `typer.Argument`. Others are no parameters and keep their default,
    but `given` is the set of parameters that the command line has.
    """
    hints = typing.get_type_hints(request, include_extras=True)
    fields = [field for field in dataclasses.fields(request) if hasattr(hints[field.name], "__metadata__")]  # type: ignore[arg-type]
    fields.sort(key=lambda field: field.name not in request.__annotations__)  # inherited ones last
    has_given = any(field.name == "given" for field in dataclasses.fields(request))  # type: ignore[arg-type]
    parameters = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default,
            annotation=hints[field.name],
        )
        for field in fields
    ]

    def decorate(command: Callable[[Request], None]) -> Callable[..., None]:
        @functools.wraps(command)
        def called(**values: Any) -> None:
            if has_given:
                values["given"] = GIVEN.get()
            command(request(**values))

        called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return called

    return decorate
