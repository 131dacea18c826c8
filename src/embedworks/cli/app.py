"""The ``embedworks`` program: its commands, and one place where errors become messages."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

import embedworks
from embedworks.cli import (
    _adapt,
    _bench,
    _compare,
    _evaluate,
    _index,
    _inspect,
    _limits,
    _merge,
    _reproduce,
    _search,
    _synthesize,
    _train,
    _words,
)
from embedworks.cli._output import fail, prepare_process
from embedworks.errors import EmbedworksError, InputError

__all__ = ["app", "run"]

#: What typer raises for wrong arguments; it has no public name of its own.
_UsageError: type[Any] = typer.BadParameter.__bases__[0]

app = typer.Typer(
    name="embedworks",
    help="Everything you do to an embedding model, from documents to a measured search.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for module in (
    _adapt,
    _index,
    _search,
    _evaluate,
    _compare,
    _train,
    _words,
    _merge,
    _synthesize,
    _reproduce,
    _limits,
    _bench,
    _inspect,
):
    module.register(app)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"embedworks {embedworks.__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Everything you do to an embedding model, from documents to a measured search."""


def run(arguments: list[str] | None = None) -> None:
    """Run the program; ends the process with 0, or 2 for an error the user can mend.

    With ``--json``, mistakes in the arguments are JSON too.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    as_json = "--json" in arguments
    prepare_process()
    try:
        sys.exit(app(arguments, standalone_mode=not as_json))
    except _UsageError as error:
        message = f"{error.format_message()} See embedworks {' '.join(arguments[:1])} --help."
        sys.exit(fail(InputError(message), as_json=True))
    except EmbedworksError as error:
        sys.exit(fail(error, as_json=as_json))
    except (KeyboardInterrupt, typer.Abort):
        typer.echo("Stopped. An interrupted run goes on with --resume.", err=True)
        sys.exit(130)
