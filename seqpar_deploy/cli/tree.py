"""The tree of commands. A command is imported when it runs, and all share the logging options."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer
from typer.main import get_command, get_group

from seqpar_deploy import __version__
from seqpar_deploy.cli import logs
from seqpar_deploy.cli.console import print_and_exit
from seqpar_deploy.cli.help import HelpCommand, HelpGroup, complete, split_examples, write_table
from seqpar_deploy.cli.parameters import GIVEN

_LOGGING = "seqpar_deploy.logging"  # key in the context of the options given so far, outermost group first


@dataclasses.dataclass(frozen=True)
class Command:
    """A command that is not imported yet.

    Attributes:
        place: `module:function` in this package.
        summary: The first line of the function's docstring, for the list of commands.
    """

    place: str
    summary: str

    def load(self, name: str) -> Any:
        """Import the function and return its click command."""
        module, _, function = self.place.partition(":")
        command = getattr(importlib.import_module(f"{__package__}.{module}"), function)
        app = typer.Typer(add_completion=False, rich_markup_mode=None)
        text, examples = split_examples(command.__doc__ or "")
        app.command(name, help=text, epilog=examples, cls=HelpCommand)(_with_common_options(command))
        return get_command(app)


def new_app(
    help_text: str, commands: Mapping[str, Command | typer.Typer], *, default: str | None = None
) -> typer.Typer:
    """Return a group of commands and of other groups.

    Args:
        help_text: Summary, paragraphs, and a last block that begins with `Examples:`.
        commands: The commands and groups by name.
        default: Command to run if the first argument is not the name of one. Default: none.
    """
    text, examples = split_examples(help_text)

    class Group(_LazyGroup):
        entries = commands
        default_name = default

    app = typer.Typer(
        cls=Group,
        help=text,
        epilog=examples,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    app.callback()(_with_common_options(lambda: None))
    return app


class _LazyGroup(HelpGroup):
    """Lists its commands without importing them."""

    entries: Mapping[str, Command | typer.Typer] = {}
    default_name: str | None = None

    def __init__(self, **attrs: Any) -> None:
        super().__init__(**attrs)
        self.commands: Any = dict(self.entries)  # their names, for help, completion and "did you mean"

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        entry = self.entries.get(cmd_name)
        if isinstance(entry, typer.Typer):
            return get_group(entry)
        return entry.load(cmd_name) if entry else None

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        write_table(formatter, "Commands", [(name, _summary(entry)) for name, entry in self.entries.items()])

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        own = {option for parameter in self.get_params(ctx) for option in parameter.opts}
        first = next((place for place, argument in enumerate(args) if argument not in own), None)
        if self.default_name and first is not None and args[first] not in self.entries:
            args = [*args[:first], self.default_name, *args[first:]]
        rest: list[str] = super().parse_args(ctx, args)
        return rest


def _summary(entry: Command | typer.Typer) -> str:
    return entry.summary if isinstance(entry, Command) else str(entry.info.help).partition("\n")[0]


def _print_version(given: bool) -> None:
    if given:
        print_and_exit(f"seqpar-deploy {__version__}")


def _common_options(
    *,
    ctx: typer.Context,
    verbose: Annotated[
        bool,
        typer.Option("--verbose", "-v", help="Also log debug messages and tracebacks."),
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Log only warnings and errors, no progress.")] = False,
    log_json: Annotated[bool, typer.Option("--log-json", help="Write the log as JSON, one object per line.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """The options of every command and group. An option given to a group also holds for its commands."""
    given: dict[str, bool] = ctx.meta.setdefault(_LOGGING, {})
    for name, value in (("verbose", verbose), ("quiet", quiet), ("log_json", log_json)):
        given[name] = given.get(name, False) or value
    if given["verbose"] and given["quiet"]:
        raise typer.BadParameter("--verbose and --quiet exclude each other; omit one of them")
    logs.configure(**given)


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _with_common_options(function: Callable[..., None]) -> Callable[..., None]:
    own = inspect.signature(function, eval_str=True).parameters
    common = inspect.signature(_common_options, eval_str=True).parameters

    @functools.wraps(function)
    def command(**values: Any) -> None:
        context: typer.Context = values["ctx"]
        GIVEN.set(frozenset(name for name in own if _is_given(context, name)))
        _common_options(**{name: values.pop(name) for name in common})
        function(**values)

    command.__signature__ = inspect.Signature([complete(each) for each in (*own.values(), *common.values())])  # type: ignore[attr-defined]
    return command
