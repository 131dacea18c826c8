"""Rows that do not fit in memory: sources read as they come, shuffled in a buffer, and mixed.

The state of a stream is counts and positions, never rows: it is small JSON, and resuming reads
the rows again from where they came.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from embedworks._core.registry import did_you_mean
from embedworks._core.seeding import derive_seed
from embedworks.data._row_files import jsonl_rows, parquet_rows
from embedworks.data.rows import Row
from embedworks.errors import (
    DuplicateIdError,
    EmptyInputError,
    FormatError,
    InputError,
    NotFoundError,
    UnknownNameError,
)

__all__ = ["StreamMixture", "StreamSource"]

_STATE_FORMAT = 1


@dataclass(frozen=True)
class StreamSource:
    """A named source of rows that can be read again from any position.

    Attributes:
        name: Name of the source; the rows that come out carry it.
        open: Returns the rows from a position on; the same rows in the same order every time.

    Example:
        >>> def read(start):
        ...     return (Row(f"question {i}", f"answer {i}") for i in range(start, 3))
        >>> source = StreamSource("qa", read)
        >>> [row.anchor for row in source.open(1)]
        ['question 1', 'question 2']
    """

    name: str
    open: Callable[[int], Iterator[Row]]

    @classmethod
    def from_iterator(cls, name: str, open: Callable[[], Iterator[Row]]) -> StreamSource:
        """Wrap a function that can only read from the start; a position is reached by reading."""
        return cls(name, lambda start: islice(open(), start, None))

    @classmethod
    def from_file(cls, path: str | Path, *, name: str | None = None) -> StreamSource:
        """Read a Parquet file, row group by row group, or a JSONL file, line by line.

        The columns or keys are those of `RowSet.load`: ``anchor``, ``positive`` and what else a
        `Row` has. The whole file is one source, under its own name or ``name``.

        Raises:
            NotFoundError: When there is no such file; also later, when it has vanished.
            InputError: When the file's ending is not known.
        """
        path = Path(path)
        readers = {".parquet": parquet_rows, ".jsonl": jsonl_rows, ".ndjson": jsonl_rows}
        if path.suffix.lower() not in readers:
            raise InputError(f"{path} cannot be streamed: use one of {', '.join(sorted(readers))}.")
        if not path.is_file():
            raise NotFoundError(f"{path} does not exist: give a file of training rows.")
        reader = readers[path.suffix.lower()]
        return cls(name or path.stem, lambda start: reader(path, start))


class _Shuffled:
    """Endless passes over a source through a shuffle buffer, with a state of plain numbers."""

    def __init__(self, source: StreamSource, buffer: int, seed: int) -> None:
        self._source = source
        self._size = buffer
        self._seed = seed
        self.passes = 0
        self._begin()

    def _begin(self) -> None:
        self._rows: list[Row] = []
        self._places: list[int] = []
        self._read = 0
        self._given = 0
        self._stream: Iterator[Row] | None = None
        self._ended = False
        self._random = self._pass_generator(0)

    def _pass_generator(self, drawn: int) -> np.random.Generator:
        bits = np.random.PCG64(derive_seed(self._seed, "stream", self._source.name, self.passes))
        return np.random.Generator(bits.advance(drawn) if drawn else bits)

    def _pull(self) -> Row | None:
        if self._ended:
            return None
        if self._stream is None:
            self._stream = iter(self._source.open(self._read))
        row = next(self._stream, None)
        if row is None:
            self._ended = True
            if self._read == 0:
                raise EmptyInputError(
                    f"the source {self._source.name!r} has no rows: remove it, or check its file."
                )
            return None
        if problem := row.problem():
            raise InputError(
                f"source {self._source.name!r}, row {self._read}: {problem}. Fix or drop the row."
            )
        self._read += 1
        return row if row.source == self._source.name else replace(row, source=self._source.name)

    def next(self) -> Row:
        """Return the next row, opening the source again when it is used up."""
        while len(self._rows) < self._size and (row := self._pull()) is not None:
            self._rows.append(row)
            self._places.append(self._read - 1)
        if not self._rows:
            self.passes += 1
            self._begin()
            return self.next()
        index = int(self._random.random() * len(self._rows))
        row, self._rows[index] = self._rows[index], self._rows[-1]
        self._places[index] = self._places[-1]
        self._rows.pop()
        self._places.pop()
        self._given += 1
        return row

    def state(self) -> dict[str, Any]:
        return {
            "passes": self.passes,
            "given": self._given,
            "read": self._read,
            "buffer": list(self._places),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        places = [int(p) for p in state["buffer"]]
        self.passes = int(state["passes"])
        self._begin()
        self._read, self._given = int(state["read"]), int(state["given"])
        if self._given + len(places) != self._read or any(not 0 <= p < self._read for p in places):
            raise FormatError(f"the state of the source {self._source.name!r} contradicts itself.")
        self._random = self._pass_generator(self._given)
        found = self._rows_at(set(places))
        self._places = places
        self._rows = [found[p] for p in places]

    def _rows_at(self, places: set[int]) -> dict[int, Row]:
        """Read the rows at ``places`` again, and leave the stream at the position it had."""
        if not places:
            return {}
        found: dict[int, Row] = {}
        start, wanted = min(places), self._read
        self._stream, self._read = None, start
        while self._read < wanted:
            row = self._pull()
            if row is None:
                raise FormatError(
                    f"the source {self._source.name!r} had at least {wanted} rows when the state "
                    f"was saved and has {self._read} now: restore its file, or start again."
                )
            if self._read - 1 in places:
                found[self._read - 1] = row
        return found


class StreamMixture:
    """Batches of rows from weighted streams, without end and without holding the sources.

    Each step draws ``batch_size / sub_batch_size`` sources by weight and takes
    ``sub_batch_size`` rows of each: 1 mixes row by row, ``batch_size`` gives batches of one
    source. A source that is used up is opened again and shuffled anew. Shuffling is within a
    buffer, so put a file in random order first if its neighbours are alike.

    Args:
        sources: The streams; names must differ.
        batch_size: Rows of one step, over all processes together.
        weights: Source -> relative weight, for every source; all alike by default.
        sub_batch_size: Rows of one source side by side.
        buffer: Rows per source that are held for shuffling.
        seed: Seed of the draws.
        rank: This process.
        world_size: Number of processes. Each reads every row and keeps its part of a batch:
            rows rank, rank + world_size, ...

    Raises:
        InputError: When a weight is not above 0, or sizes do not divide.
        UnknownNameError: When a weight names no source.

    Example:
        >>> source = StreamSource("qa", lambda start: (Row(f"q{i}", "a") for i in range(start, 9)))
        >>> mixture = StreamMixture([source], batch_size=4, seed=1)
        >>> first = next(mixture)
        >>> state = mixture.state_dict()
        >>> second = next(mixture)
        >>> again = StreamMixture([source], batch_size=4, seed=1)
        >>> again.load_state_dict(state)
        >>> next(again) == second
        True
    """

    def __init__(
        self,
        sources: Sequence[StreamSource],
        *,
        batch_size: int,
        weights: Mapping[str, float] | None = None,
        sub_batch_size: int = 1,
        buffer: int = 10_000,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        names = [source.name for source in sources]
        if not names:
            raise EmptyInputError("there are no streams to mix.")
        if len(set(names)) < len(names):
            raise DuplicateIdError(f"the streams must have different names, got {names}.")
        for label, value in (
            ("batch_size", batch_size),
            ("sub_batch_size", sub_batch_size),
            ("buffer", buffer),
            ("world_size", world_size),
        ):
            if value < 1:
                raise InputError(f"{label} must be at least 1, got {value}.")
        if batch_size % sub_batch_size or batch_size % world_size:
            raise InputError(
                f"batch_size {batch_size} must be a multiple of sub_batch_size {sub_batch_size} "
                f"and of world_size {world_size}."
            )
        if not 0 <= rank < world_size:
            raise InputError(f"rank must be in [0, {world_size - 1}], got {rank}.")
        shares = _weights(names, weights)
        self._edges = np.cumsum(shares / shares.sum())
        self._names = names
        self._batch_size, self._run, self._seed = batch_size, sub_batch_size, seed
        self._rank, self._world = rank, world_size
        self._buffer = buffer
        self._streams = [_Shuffled(source, buffer, seed) for source in sources]
        self._drawn = 0
        self._random = self._generator()

    def _generator(self) -> np.random.Generator:
        bits = np.random.PCG64(derive_seed(self._seed, "stream mixture"))
        return np.random.Generator(bits.advance(self._drawn) if self._drawn else bits)

    def __iter__(self) -> Iterator[list[Row]]:
        return self

    def __next__(self) -> list[Row]:
        batch: list[Row] = []
        for _ in range(self._batch_size // self._run):
            place = int(np.searchsorted(self._edges, self._random.random(), "right"))
            self._drawn += 1
            stream = self._streams[min(place, len(self._streams) - 1)]
            batch += [stream.next() for _ in range(self._run)]
        return batch[self._rank :: self._world]

    @property
    def passes(self) -> dict[str, int]:
        """How often each source was used up."""
        return {name: stream.passes for name, stream in zip(self._names, self._streams)}

    def _setup(self) -> dict[str, Any]:
        return {
            "names": self._names,
            "edges": [float(edge) for edge in self._edges],
            "batch_size": self._batch_size,
            "sub_batch_size": self._run,
            "buffer": self._buffer,
            "seed": self._seed,
        }

    def state_dict(self) -> dict[str, Any]:
        """Return where the mixture stands, as plain JSON values; it is the same on every rank."""
        return {
            "format": _STATE_FORMAT,
            "setup": self._setup(),
            "drawn": self._drawn,
            "streams": [stream.state() for stream in self._streams],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to where ``state`` was taken; the next batch is the one that followed it.

        Raises:
            FormatError: When the state is damaged, of another mixture, or a source has shrunk.
            NotFoundError: When a file has vanished.
        """
        if state.get("format") != _STATE_FORMAT or not isinstance(state.get("setup"), Mapping):
            raise FormatError("this is not the state of a stream mixture of this version.")
        for key, value in self._setup().items():
            if state["setup"].get(key) != value:
                raise FormatError(
                    f"the state is of a mixture with {key} {state['setup'].get(key)!r}, but this "
                    f"one has {value!r}: make it with the same settings."
                )
        try:
            self._drawn = int(state["drawn"])
            for stream, saved in zip(self._streams, state["streams"], strict=True):
                stream.restore(saved)
        except (KeyError, TypeError) as error:
            raise FormatError(f"the state of the stream mixture is damaged: {error}") from error
        self._random = self._generator()


def _weights(names: Sequence[str], weights: Mapping[str, float] | None) -> np.ndarray:
    if weights is None:
        return np.ones(len(names))
    for name in weights:
        if name not in names:
            raise UnknownNameError(
                f"weights names {name!r}, which is not a stream. {did_you_mean(name, list(names))}"
            )
    if missing := [name for name in names if name not in weights]:
        raise InputError(f"weights must name every stream, but not {missing}.")
    for name in names:
        if not (np.isfinite(weights[name]) and weights[name] > 0):
            raise InputError(
                f"the weight of the stream {name!r} is {weights[name]}: give a number above 0, or "
                "leave the stream out."
            )
    return np.array([weights[name] for name in names], dtype=float)
