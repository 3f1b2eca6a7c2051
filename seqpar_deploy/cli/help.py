"""Layout of `--help`: usage, arguments, options with their choices, default and limits, and examples at the end."""

from __future__ import annotations

import copy
import inspect
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from typer.core import TyperCommand, TyperGroup
from typer.models import ArgumentInfo, OptionInfo

from seqpar_deploy.cli.console import print_and_exit

_METAVARS: dict[Any, str] = {int: "N", float: "NUMBER", Path: "PATH", str: "TEXT"}
_WIDEST_NAME = 30  # columns of names in a table; a longer one has a line of its own


def split_examples(text: str) -> tuple[str, str]:
    """Split a help text into its paragraphs and the lines of its last block, which begins with `Examples:`."""
    paragraphs, _, examples = inspect.cleandoc(text).partition("\nExamples:\n")
    return paragraphs.strip(), inspect.cleandoc(examples)


def complete(parameter: inspect.Parameter) -> inspect.Parameter:
    """Return a command's parameter with choices, default and limits written at the end of its help text.

    `show_default="..."` describes a default that is found at run time. A parameter without help is returned as it is.
    """
    kind, *metadata = get_args(parameter.annotation) if get_origin(parameter.annotation) is Annotated else [None]
    info = next((each for each in metadata if isinstance(each, (OptionInfo, ArgumentInfo))), None)
    if info is None or not info.help:
        return parameter
    value_type, choices = _value_type(kind)
    default = parameter.default
    text = str(info.help)
    info = copy.copy(info)
    added = {
        "Choices: ": ", ".join(choices),
        "Default: ": _default(parameter.name, default, info),
        "": _limits(info.min, info.max),
        "Required": "" if default is not inspect.Parameter.empty else ".",
    }
    info.help = " ".join([text, *(f"{title}{value}".rstrip(".") + "." for title, value in added.items() if value)])
    info.show_default = False
    if value_type is not bool:
        info.metavar = info.metavar or ("NAME" if choices else _METAVARS[value_type])
    return parameter.replace(annotation=Annotated[kind, info])


def _value_type(annotation: Any) -> tuple[Any, tuple[Any, ...]]:
    """The type of one value and, of a Literal, its choices: `int | None` and `list[int]` are int."""
    if get_origin(annotation) is Literal:
        return str, get_args(annotation)
    inner = [each for each in get_args(annotation) if each is not type(None)]
    return _value_type(inner[0]) if inner else (annotation, ())


def _default(name: str, default: Any, info: Any) -> str:
    if isinstance(info.show_default, str):
        return info.show_default
    if default is None or default is inspect.Parameter.empty:
        return ""
    if isinstance(default, bool):  # typer adds a --no-... to a flag that declares no name; other flags are off
        declared = isinstance(info.default, str)  # typer's first name in an Annotated
        return "" if declared else f"--{'' if default else 'no-'}{name.replace('_', '-')}"
    return f"{default:g}" if isinstance(default, float) else str(default)


def _limits(least: float | None, most: float | None) -> str:
    if least is None or most is None:
        return "" if least is None else f"Minimum: {least:g}"
    return f"Range: {least:g} to {most:g}"


def _print_help(ctx: Any, _parameter: Any, given: bool) -> None:
    if given and not ctx.resilient_parsing:
        print_and_exit(ctx.get_help())


class _Layout:
    """The parts of a help page that commands and groups share."""

    help: str | None
    epilog: str | None

    def get_help_option(self, ctx: Any) -> Any:
        """Return the option --help, with a callback that copes with a full standard output."""
        option = super().get_help_option(ctx)  # type: ignore[misc]
        option.callback = _print_help
        return option

    def format_help_text(self, ctx: Any, formatter: Any) -> None:
        """Write the summary and the paragraphs."""
        for paragraph in (self.help or "").split("\n\n"):
            formatter.write_paragraph()
            for line in _wrapped(paragraph, formatter.width - 2):
                formatter.write(f"  {line}\n")

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the examples as they are: a wrapped command cannot be copied."""
        if self.epilog:
            with formatter.section("Examples"):
                formatter.write("".join(f"  {line}\n" for line in self.epilog.splitlines()))


class HelpCommand(_Layout, TyperCommand):
    """A command whose help has the layout of this module."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the words of the usage line: arguments in capitals, optional ones in brackets."""
        words = ["[OPTIONS]"]
        for parameter in self.get_params(ctx):
            if parameter.param_type_name == "argument":
                word = parameter.metavar if parameter.required else f"[{parameter.metavar}]"
                words.append(f"{word}..." if parameter.nargs == -1 else str(word))
        return words

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the tables of arguments and options."""
        _write_parameters(formatter, self.get_params(ctx))


class HelpGroup(_Layout, TyperGroup):
    """A group of commands whose help has the layout of this module."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the tables of commands and options."""
        self.format_commands(ctx, formatter)
        _write_parameters(formatter, self.get_params(ctx))


def write_table(formatter: Any, title: str, rows: Sequence[tuple[str, str]]) -> None:
    """Write a titled table of names and texts. Names with a hyphen are never broken, unlike in click's own tables."""
    column = min(max((len(name) for name, _ in rows), default=0), _WIDEST_NAME) + 2
    with formatter.section(title):
        indent = " " * formatter.current_indent
        for name, text in rows:
            lines = _wrapped(text, formatter.width - len(indent) - column)
            if len(name) + 2 > column:
                formatter.write(f"{indent}{name}\n")
                name = ""
            for number, line in enumerate(lines):
                formatter.write(f"{indent}{name if number == 0 else '':{column}}{line}\n")


def _write_parameters(formatter: Any, parameters: Iterable[Any]) -> None:
    tables: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
    for parameter in parameters:
        if parameter.hidden:
            continue
        if parameter.param_type_name == "argument":
            tables["Arguments"].append((str(parameter.metavar), parameter.help or ""))
            continue
        pairs = (sorted(names, key=len) for names in (parameter.opts, parameter.secondary_opts) if names)
        names = " / ".join(map(", ".join, pairs))
        value = f" {parameter.metavar}" if parameter.metavar and not parameter.is_flag else ""
        tables["Options"].append((f"{names}{value}", parameter.help or ""))
    for title, rows in tables.items():
        if rows:
            write_table(formatter, title, rows)


def _wrapped(text: str, width: int) -> list[str]:
    text = " ".join(text.split())
    return textwrap.wrap(text, max(width, 20), break_on_hyphens=False, break_long_words=False) or [""]
