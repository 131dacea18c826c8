"""Files of word vectors as word2vec, fastText and GloVe write them.

=============  =========================  ====================================================
form           first line                 then, for each word
=============  =========================  ====================================================
``"text"``     ``V D``                    a line: the word, D numbers in decimals
``"binary"``   ``V D``                    the word, a space, D float32, maybe a line feed
``"glove"``    is a word's already        a line as in ``"text"``
=============  =========================  ====================================================

Nothing a file says is believed before it is there: memory grows with what has been read, and every
error says in which line (or, in a binary file, at which word).
"""

from __future__ import annotations

import gzip
import re
import warnings
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count as count_from
from itertools import islice
from pathlib import Path
from typing import IO, Literal, NamedTuple, cast

import numpy as np

from embedworks._core.files import atomic_path
from embedworks._core.progress import track
from embedworks._core.validation import (
    check_choice,
    check_in_range,
    check_texts,
    check_unique,
    check_vectors,
)
from embedworks.errors import (
    DataWarning,
    EmptyInputError,
    FormatError,
    InputError,
    NotFoundError,
    ShapeError,
)
from embedworks.models.static import StaticModel
from embedworks.models.words.corpus import split_words
from embedworks.models.words.methods import word_model

__all__ = ["WordVectors", "load_word_vectors", "read_word_vectors", "write_word_vectors"]

FileForm = Literal["text", "binary", "glove"]

_FORMS = ("text", "binary", "glove")
_MAX_DIM = 65_536
_MAX_WORD = 4_096  # bytes
_MAX_LINE = 32 * _MAX_DIM
_ROWS = 4_096  # rows put together at a time
_BLOCK = 1 << 20
_HEADER = re.compile(rb"\s*([0-9]{1,18})[ \t]+([0-9]{1,18})\s*")


class WordVectors(NamedTuple):
    """Words of a file and their vectors."""

    words: list[str]
    """V different words, in the file's order: most frequent first, as a rule."""
    vectors: np.ndarray
    """float32 (V, D), not normalised."""


def read_word_vectors(
    path: str | Path,
    *,
    form: FileForm | Literal["auto"] = "auto",
    max_words: int | None = None,
    show_progress: bool | None = None,
) -> WordVectors:
    """Read a file of word vectors; one whose name ends in ``.gz`` is unpacked on the way.

    A word that comes again is left out and counted in a `DataWarning`, as are words that are not
    valid UTF-8, whose bad bytes become U+FFFD.

    Args:
        path: The file.
        form: How it is written; ``"auto"`` looks at its beginning.
        max_words: Read only so many words from the top; None reads all.
        show_progress: True or False to force a bar; by default there is one on a terminal.

    Raises:
        NotFoundError: When there is no such file.
        FormatError: When it is damaged: cut short, longer than its header says, or with a line
            that is not a word and D finite numbers.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "toy.txt"
        >>> _ = write_word_vectors(file, ["red", "sky"], np.eye(2), form="glove")
        >>> read_word_vectors(file).words
        ['red', 'sky']
    """
    path = Path(path)
    check_choice(form, ("auto", *_FORMS), name="form")
    if max_words is not None:
        check_in_range(max_words, name="max_words", low=1)
    if not path.is_file():
        raise NotFoundError(f"There is no file {path}.")
    kind = _form_of(path) if form == "auto" else form
    try:
        with _opened(path) as stream:
            count, dim = (None, None) if kind == "glove" else _read_header(stream)
            if kind == "binary":
                found = _binary_rows(stream, cast(int, dim))
            else:
                found = _text_rows(stream, dim, lines_before=0 if dim is None else 1)
            wanted = islice(_counted(found, count), max_words)
            words, vectors = _collect(track(wanted, "Reading", enabled=show_progress))
    except (FormatError, ValueError, EOFError, OSError, zlib.error) as error:
        raise FormatError(
            f"{path} cannot be read as {kind}: {error}. Is it damaged, or of another form?"
        ) from error
    return _different(words, vectors, path)


def write_word_vectors(
    path: str | Path, words: Sequence[str], vectors: np.ndarray, *, form: FileForm = "text"
) -> Path:
    """Write a file of word vectors that word2vec's and GloVe's readers take, ours included.

    Reading it gives the same float32 numbers back, to the last bit. A name that ends in ``.gz``
    is packed.

    Args:
        path: Target; replaced in one step.
        words: V different words, without white space.
        vectors: float array (V, D).
        form: How to write.

    Raises:
        InputError: When a word is empty, has white space in it, or comes twice.
        ShapeError: When there is not one vector per word.
        StorageError: When the disk is full or not writable.
    """
    check_choice(form, _FORMS, name="form")
    items = check_texts(words, name="words")
    check_unique(items, name="words")
    rows = np.ascontiguousarray(check_vectors(vectors), dtype="<f4")
    if len(rows) != len(items):
        raise ShapeError(f"{len(items)} words need as many vectors, got {len(rows)}.")
    bad = [word for word in items if len(word.split()) != 1 or word.strip() != word]
    if bad:
        raise InputError(
            f"{len(bad)} of {len(items)} words are empty or have white space in them, which these "
            f"files cannot hold; the first is {bad[0]!r}."
        )
    path = Path(path)
    with atomic_path(path) as target, _opened(target, "wb", packed=path.suffix == ".gz") as out:
        if form != "glove":
            out.write(f"{len(items)} {rows.shape[1]}\n".encode())
        for word, row in zip(items, rows, strict=True):
            if form == "binary":
                out.write(word.encode() + b" " + row.tobytes() + b"\n")
            else:
                out.write(f"{word} {' '.join(map(str, row))}\n".encode())
    return path


def load_word_vectors(
    path: str | Path,
    *,
    form: FileForm | Literal["auto"] = "auto",
    max_words: int | None = None,
    show_progress: bool | None = None,
) -> StaticModel:
    """Read a file of word vectors as a model: a text is the mean of its words' vectors.

    The model splits texts as `train_word_vectors` does: runs of letters and digits, lower-cased.
    So of ``The`` and ``the`` the one higher up in the file is kept, and words with signs in them
    (``new_york`` is fine, ``don't`` is not) are left out; both are counted in a `DataWarning`.
    Take `read_word_vectors` to have the words as they are.

    Args:
        path: The file.
        form: How it is written; ``"auto"`` looks at its beginning.
        max_words: Read only so many words from the top; None reads all.
        show_progress: True or False to force a bar; by default there is one on a terminal.

    Raises:
        NotFoundError: When there is no such file.
        FormatError: When it is damaged.
        EmptyInputError: When no word is left.
    """
    words, vectors = read_word_vectors(
        path, form=form, max_words=max_words, show_progress=show_progress
    )
    places: dict[str, int] = {}
    unsplit = 0
    for place, word in enumerate(words):
        lowered = word.lower()
        if split_words(word) != [lowered]:
            unsplit += 1
        else:
            places.setdefault(lowered, place)
    if not places:
        raise EmptyInputError(f"None of the {len(words)} words of {path} is a run of letters.")
    again = len(words) - unsplit - len(places)
    if unsplit or again:
        warnings.warn(
            f"Of the {len(words)} words of {path}, {unsplit} are no run of letters and digits and "
            f"{again} are written like one before but for capitals: they were left out.",
            DataWarning,
            stacklevel=2,
        )
    record = {"file": Path(path).name, "words": len(words), "left_out": unsplit + again}
    kept = vectors[list(places.values())]
    return word_model(list(places), kept, name=Path(path).name, metadata=record)


@contextmanager
def _opened(path: Path, mode: str = "rb", *, packed: bool | None = None) -> Iterator[IO[bytes]]:
    if path.suffix == ".gz" if packed is None else packed:
        with gzip.open(path, mode) as stream:
            yield cast("IO[bytes]", stream)
    else:
        with path.open(mode) as stream:
            yield cast("IO[bytes]", stream)


def _form_of(path: Path) -> FileForm:
    """Guess by the first bytes: a header or none, then text or not."""
    try:
        with _opened(path) as stream:
            first, second = stream.readline(_MAX_LINE), stream.readline(_MAX_LINE)
    except (EOFError, OSError, zlib.error) as error:
        raise FormatError(f"{path} cannot be unpacked ({error}): fetch it again.") from error
    header = _HEADER.fullmatch(first)
    if not header:
        return "glove"
    fields = second.split()
    try:
        _ = [float(field) for field in fields[1:]]
    except ValueError:
        return "binary"
    return "text" if len(fields) == int(header[2]) + 1 else "binary"


def _read_header(stream: IO[bytes]) -> tuple[int, int]:
    line = stream.readline(64)
    found = _HEADER.fullmatch(line)
    if not found:
        raise FormatError(f"line 1 must be two numbers, words and dimensions, but is {line!r:.60}")
    count, dim = int(found[1]), int(found[2])
    if count < 1 or not 1 <= dim <= _MAX_DIM:
        raise FormatError(
            f"line 1 says {count} words of {dim} dimensions; at least one word of 1 to {_MAX_DIM} "
            "is expected"
        )
    return count, dim


def _text_rows(
    stream: IO[bytes], dim: int | None, *, lines_before: int
) -> Iterator[tuple[bytes, np.ndarray]]:
    for number in count_from(lines_before + 1):
        line = stream.readline(_MAX_LINE)
        if not line:
            return
        if dim is None:
            dim = len(line.split()) - 1
            if not 1 <= dim <= _MAX_DIM:
                raise FormatError(f"line {number} is no word with numbers behind it: {line!r:.60}")
        fields = line.strip().rsplit(None, dim)  # GloVe has words with spaces in them
        try:
            with np.errstate(over="ignore"):  # what is too large becomes infinite, see below
                row = np.array([float(field) for field in fields[1:]], dtype=np.float32)
        except ValueError as error:
            raise FormatError(f"line {number} has a field that is no number ({error})") from error
        if len(row) != dim:
            raise FormatError(f"line {number} has {len(row)} numbers after the word, not {dim}")
        if not np.isfinite(row).all():
            raise FormatError(f"line {number} holds NaN, infinity or more than float32 can hold")
        yield fields[0], row


def _binary_rows(stream: IO[bytes], dim: int) -> Iterator[tuple[bytes, np.ndarray]]:
    held, start = b"", 0
    for number in count_from(1):
        while held.find(b" ", start, start + _MAX_WORD) < 0 or len(held) - start < _MAX_WORD:
            more = stream.read(_BLOCK)
            if not more:
                break
            held, start = held[start:] + more, 0
        end = held.find(b" ", start, start + _MAX_WORD)
        if end < 0:
            if held[start:].strip():
                raise FormatError(f"no end of the word in place {number} within {_MAX_WORD} bytes")
            return
        while len(held) < end + 1 + 4 * dim:
            more = stream.read(max(_BLOCK, 4 * dim))
            if not more:
                raise FormatError(f"the file ends inside the vector of word {number}")
            held += more
        row = np.frombuffer(held, dtype="<f4", count=dim, offset=end + 1).astype(np.float32)
        if not np.isfinite(row).all():
            raise FormatError(f"the vector of word {number} holds NaN or infinity")
        yield held[start:end].lstrip(b"\n"), row
        start = end + 1 + 4 * dim


def _counted(
    rows: Iterator[tuple[bytes, np.ndarray]], count: int | None
) -> Iterator[tuple[bytes, np.ndarray]]:
    """Pass rows on, and see that there are as many as the header says."""
    seen = 0
    for item in rows:
        if seen == count:
            raise FormatError(f"line 1 says {count} words, but there are more")
        seen += 1
        yield item
    if count is not None and seen < count:
        raise FormatError(f"line 1 says {count} words, but the file ends after {seen}")


def _collect(rows: Iterable[tuple[bytes, np.ndarray]]) -> tuple[list[bytes], np.ndarray]:
    words: list[bytes] = []
    parts: list[np.ndarray] = []
    block: list[np.ndarray] = []
    for word, row in rows:
        words.append(word)
        block.append(row)
        if len(block) == _ROWS:
            parts.append(np.stack(block))
            block = []
    if block:
        parts.append(np.stack(block))
    if not parts:
        raise FormatError("it is empty")
    return words, np.concatenate(parts)


def _different(words: list[bytes], vectors: np.ndarray, path: Path) -> WordVectors:
    places: dict[str, int] = {}
    damaged = 0
    for place, raw in enumerate(words):
        word = raw.decode("utf-8", "replace")
        damaged += "\ufffd" in word and word.encode() != raw
        places.setdefault(word, place)
    if damaged or len(places) < len(words):
        warnings.warn(
            f"{path}: {damaged} of {len(words)} words are not valid UTF-8 (their bad bytes were "
            f"replaced), and {len(words) - len(places)} came again and were left out.",
            DataWarning,
            stacklevel=3,
        )
        if len(places) < len(words):
            vectors = vectors[list(places.values())]
    return WordVectors(list(places), vectors)
