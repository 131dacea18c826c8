"""The folder of public data sets, where there is one on this machine; never downloaded.

Check the terms of each set before training anything that is to be given away.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from embedworks.data import read_records
from embedworks.errors import NotFoundError

__all__ = ["DataFolder"]


class DataFolder:
    """A folder of Parquet files.

    Args:
        root: The folder; None takes the environment variable ``EMBEDWORKS_DATA``, or
            ``../shared/data``. It need not exist until something is read.

    Example:
        >>> DataFolder().path("no_such_file.parquet")
        Traceback (most recent call last):
        ...
        embedworks.errors.NotFoundError: no_such_file.parquet is needed and is not in ...
    """

    def __init__(self, root: str | Path | None = None) -> None:
        given = root or os.environ.get("EMBEDWORKS_DATA")
        self.root = Path(given) if given else Path("..", "shared", "data")

    def has(self, *names: str) -> bool:
        """Tell whether all these files are there."""
        return all((self.root / name).is_file() for name in names)

    def path(self, name: str) -> Path:
        """Return the path of a file.

        Raises:
            NotFoundError: When it is not there; says where it was looked for and how to point
                elsewhere.
        """
        path = self.root / name
        if not path.is_file():
            raise NotFoundError(
                f"{name} is needed and is not in {self.root.resolve()}. Set the environment "
                "variable EMBEDWORKS_DATA to the folder that holds it."
            )
        return path

    def records(
        self, name: str, columns: Sequence[str], *, where: Mapping[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        """Return the records of a file, with the given columns.

        Args:
            name: File name.
            columns: Columns to read.
            where: Column -> value, or list of values, that a record must have.

        Raises:
            NotFoundError: When the file is not there.
            FormatError: When it cannot be read.
        """
        return read_records(self.path(name), columns=list(columns), where=where)
