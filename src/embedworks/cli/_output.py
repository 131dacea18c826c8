"""What every command shares: JSON on request, tables for people, errors in plain words."""

from __future__ import annotations

import json
import logging
import sys
import warnings
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from embedworks.errors import EmbedworksError

__all__ = ["JsonFlag", "console", "emit_json", "fail", "prepare_process", "show_table"]

#: Tables and answers go to standard output; progress, warnings and errors to standard error.
console = Console(highlight=False, soft_wrap=True)
_stderr = Console(stderr=True, highlight=False, soft_wrap=True)

JsonFlag = Annotated[
    bool, typer.Option("--json", help="Print one JSON object instead of text for people.")
]


def emit_json(value: Any) -> None:
    """Print ``value`` as JSON on standard output."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def show_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a table; numbers are right-aligned, and brackets are no markup."""
    rows = [list(row) for row in rows]
    head = Text(title) if title else None
    table = Table(title=head, title_justify="left", title_style="bold", box=None)
    for place, name in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[place], (int, float)) for row in rows)
        table.add_column(Text(name), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(f"{cell:,}" if isinstance(cell, int) else str(cell)) for cell in row))
    console.print(table)


def fail(error: EmbedworksError, *, as_json: bool) -> int:
    """Report an error and return the exit code 2."""
    if as_json:
        emit_json({"error": {"kind": type(error).__name__, "message": str(error)}})
    else:
        _stderr.print(f"[bold red]{type(error).__name__}[/]: ", end="")
        _stderr.print(str(error), markup=False)
    return 2


def prepare_process() -> None:
    """Show warnings as one line each, and keep other libraries' log lines away."""

    def show(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        _stderr.print(f"[yellow]{category.__name__}[/]: ", end="")
        _stderr.print(str(message), markup=False)

    warnings.showwarning = show
    for name in ("transformers", "datasets", "sentence_transformers"):
        logging.getLogger(name).setLevel(logging.ERROR)
