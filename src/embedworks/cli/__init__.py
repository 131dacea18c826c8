"""The command line: a thin skin over the Python API. Knows arguments and tables, no maths."""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Run the ``embedworks`` command."""
    from embedworks.cli.app import run

    run()
