"""Commands that are loaded when they are called."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

import bessemer


class LazyCommand(TyperCommand):
    """Stands for the function `command` of a module of this package, until it is called."""

    def __init__(self, name: str, module: str, summary: str) -> None:
        super().__init__(name, help=summary)
        self.module = module

    def make_context(self, info_name: Any, args: Any, parent: Any = None, **extra: Any) -> Any:
        """The context of the real command: from here on it is the one that runs."""
        return self.load().make_context(info_name, args, parent, **extra)

    def load(self) -> Any:
        """The real command; importing its module may take a second."""
        module = importlib.import_module(f"bessemer.frontends.cli.{self.module}")
        app = typer.Typer(add_completion=False)
        app.command(self.name, help=_paragraphs(module.command))(module.command)
        return typer.main.get_command(app)


def _paragraphs(function: object) -> str:
    """A docstring whose lines do not end where the source's do."""
    paragraphs = (inspect.getdoc(function) or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def command_group(name: str, commands: Sequence[LazyCommand], epilogue: str) -> TyperGroup:
    """A command whose subcommands these are."""
    app = typer.Typer(
        name=name, no_args_is_help=True, epilog=epilogue, pretty_exceptions_enable=False
    )
    app.callback()(_start)
    group = typer.main.get_group(app)
    for command in commands:
        group.add_command(command)
    return group


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"bessemer {bessemer.__version__}")
        raise typer.Exit


def _start(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", is_eager=True, callback=_show_version),
    ] = False,
    traceback: Annotated[
        bool,
        typer.Option(
            "--traceback", help="Print the traceback of an error; works anywhere on the line."
        ),
    ] = False,
) -> None:
    """Bessemer compiles neural networks to native code."""
