"""The command ``lowbit``: every file of this folder that has a function ``run`` is a command of that name."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import pkgutil
import sys
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from lowbit import catalog
from lowbit.errors import LowbitError

FOLDER = Path(__file__).parent


def commands() -> dict[str, Callable[..., Any]]:
    """Command name -> its ``run``. A file that cannot be imported, or that has no ``run``, is an error."""
    found = {}
    for module in pkgutil.iter_modules([str(FOLDER)]):
        if module.name == "main":
            continue
        command = importlib.import_module(f"lowbit.cli.{module.name}")
        if not callable(getattr(command, "run", None)):
            raise TypeError(f"lowbit/cli/{module.name}.py has no function run; every file of that folder is a command")
        found[module.name.replace("_", "-")] = command.run
    return found


def _version(wanted: bool) -> None:
    if wanted:
        try:
            own = importlib.metadata.version("lowbit")
        except importlib.metadata.PackageNotFoundError:
            own = f"(not installed, read from {FOLDER.parent})"
        print(f"lowbit {own}, torch {torch.__version__}")
        raise typer.Exit


def _options(
    plugin: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="A Python file to run first: what it registers can be named. May be repeated.")
    ] = None,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")] = False,
) -> None:
    """Low-precision neural networks: number formats, quantization, packed checkpoints.

    Names are printed by `lowbit list`; spec strings such as "int4 g64" are explained by `lowbit show SPEC`.
    """
    for file in plugin or ():
        catalog.load_file(file)


@lru_cache(maxsize=1)
def application() -> typer.Typer:
    """The typer application with every command of the folder."""
    app = typer.Typer(
        name="lowbit", add_completion=False, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )  # fmt: skip
    app.callback()(_options)
    for name, command in commands().items():
        app.command(name)(command)
    return app


def run(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave with its exit code.

    0 done; 1 a check failed; 2 something in the input is wrong, named in one message on standard error; 130 interrupted.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    try:
        try:
            application()(args=None if arguments is None else list(arguments), prog_name="lowbit")
        finally:
            sys.stdout.flush()
    except LowbitError as error:
        _leave(2, "; ".join([str(error), *_notes(error)]))
    except KeyboardInterrupt as error:
        _leave(130, "; ".join(["interrupted", *_notes(error)]))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # whoever read the output has gone: say nothing more
        sys.exit(1)
    except SystemExit as stop:
        if stop.code == 130:
            _leave(130, "; ".join(["interrupted", *_notes(stop)]))
        raise


def _notes(error: BaseException | None) -> list[str]:
    """What was noted on an exception, or on those that it was raised for: what stays of the work, for instance."""
    found: list[str] = []
    while error is not None:
        found += getattr(error, "__notes__", ())
        error = error.__cause__ or error.__context__
    return found


def _leave(code: int, message: str) -> None:
    print(f"lowbit: {message}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    run()
