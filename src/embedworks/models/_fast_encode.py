"""Compiled tokenisation and summing for BERT-like WordPiece tokenizers.

The bulk of a static model's time is tokenisation. These kernels do it on the UTF-8 bytes: split
into words, lower-case, longest match first against a hash table of the vocabulary, then add up
table rows. Only what is written in ASCII is handled here. A stretch between two ASCII white
spaces that holds any other byte, or an added token such as ``[CLS]``, is handed to the
`tokenizers` library, each different one once. White space separates words in every tokenizer
accepted here, so the ids are the library's own, exactly.

What a tokenizer does with each ASCII character is not assumed but asked of it: see
`_ascii_classes`. Importing this module loads numba and the compiled kernels (about a second, and
some seconds on the first run on a machine, after which they come from numba's cache).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from tokenizers import Tokenizer

from embedworks._core.devices import cpu_count
from embedworks.models._ragged import SUM_BLOCK

__all__ = ["FastTokenizer", "sum_rows_fast"]

_LETTER, _SPACE, _PUNCTUATION, _REMOVED = 0, 1, 2, 3
_KIND_MASK, _ADDED_START = 3, 4

# Normalizers that treat each character alone, or together with combining marks only: cutting at
# ASCII white space changes nothing.
_LOCAL_NORMALIZERS = {
    "BertNormalizer", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "StripAccents", "Sequence",
}  # fmt: skip
_MAX_WORD = 1_000
_MAX_BYTES = 1 << 30

_PRIME = np.uint64(0x100000001B3)
_MIX = np.uint64(0x9E3779B97F4A7C15)
_CONTINUING = np.uint64(0xD6E8FEB86659FD93)


class Vocabulary(NamedTuple):
    """The ASCII pieces of a vocabulary as an open-addressing hash table (numba reads it)."""

    slot_hash: np.ndarray  # uint64 (S,), 0 where free; S is a power of two
    slot_piece: np.ndarray  # int32 (S,)
    piece_start: np.ndarray  # int64 (P + 1,)
    piece_bytes: np.ndarray  # uint8
    piece_id: np.ndarray  # int32 (P,)
    piece_continuing: np.ndarray  # bool (P,)
    powers: np.ndarray  # uint64 (_MAX_WORD + 1,)
    classes: np.ndarray  # uint8 (128,)
    mapped: np.ndarray  # uint8 (128,)
    added_start: np.ndarray  # int64 (A + 1,)
    added_bytes: np.ndarray  # uint8
    max_word: int
    max_piece: int
    unknown: int


def _compile(function: Callable) -> Callable:
    """Compile without the GIL, cached on disk where there is a place for it."""
    try:
        return njit(nogil=True, cache=True)(function)
    except RuntimeError:  # numba finds no writable place for its cache
        return njit(nogil=True)(function)


@_compile
def _slot_of(value, mask):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    return np.int64(((value ^ (value >> np.uint64(29))) * _MIX) >> np.uint64(32)) & mask


@_compile
def _fill(slot_hash, slot_piece, piece_start, piece_bytes, piece_continuing):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Insert every piece into the (empty) hash table."""
    mask = np.int64(len(slot_hash) - 1)
    for piece in range(len(piece_continuing)):
        value = np.uint64(0)
        for position in range(piece_start[piece], piece_start[piece + 1]):
            value = value * _PRIME + np.uint64(piece_bytes[position] + 1)
        if piece_continuing[piece]:
            value ^= _CONTINUING
        slot = _slot_of(value, mask)
        while slot_hash[slot] != np.uint64(0):
            slot = (slot + 1) & mask
        slot_hash[slot] = value
        slot_piece[slot] = piece


@_compile
def _find(word, start, end, value, continuing, vocabulary):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Return the token id of ``word[start:end]``, whose hash is ``value``, or -1."""
    mask = np.int64(len(vocabulary.slot_hash) - 1)
    slot = _slot_of(value, mask)
    while vocabulary.slot_hash[slot] != np.uint64(0):
        if vocabulary.slot_hash[slot] == value:
            piece = vocabulary.slot_piece[slot]
            first = vocabulary.piece_start[piece]
            same = (
                vocabulary.piece_start[piece + 1] - first == end - start
                and vocabulary.piece_continuing[piece] == continuing
            )
            position = 0
            while same and position < end - start:
                same = vocabulary.piece_bytes[first + position] == word[start + position]
                position += 1
            if same:
                return vocabulary.piece_id[piece]
        slot = (slot + 1) & mask
    return np.int32(-1)


@_compile
def _add_word(word, prefix, length, vocabulary, out, write):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Write the pieces of one word, longest match first; return the next free place."""
    if length > vocabulary.max_word:
        out[write] = vocabulary.unknown
        return write + 1
    begin = write
    start = 0
    while start < length:
        end = min(length, start + vocabulary.max_piece)
        found = np.int32(-1)
        while end > start:
            value = prefix[end] - prefix[start] * vocabulary.powers[end - start]
            if start > 0:
                value ^= _CONTINUING
            found = _find(word, start, end, value, start > 0, vocabulary)
            if found >= 0:
                break
            end -= 1
        if found < 0:
            out[begin] = vocabulary.unknown
            return begin + 1
        out[write] = found
        write += 1
        start = end
    return write


@_compile
def _starts_added(data, position, end, vocabulary):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Say whether an added token begins at ``position``."""
    for token in range(len(vocabulary.added_start) - 1):
        first, last = vocabulary.added_start[token], vocabulary.added_start[token + 1]
        if last - first > end - position:
            continue
        same = True
        for step in range(last - first):
            if data[position + step] != vocabulary.added_bytes[first + step]:
                same = False
                break
        if same:
            return True
    return False


@_compile
def _scan(data, starts, first, last, vocabulary, cells, used, hard):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Tokenise texts ``first`` to ``last``, each into the cells that begin where its bytes do.

    A stretch for the library takes two cells: minus its start in the text minus one, and its end.
    ``used`` gets the number of cells of each text, ``hard`` the number of such stretches.
    """
    word = np.empty(vocabulary.max_word + 1, dtype=np.uint8)
    prefix = np.zeros(vocabulary.max_word + 2, dtype=np.uint64)
    for text in range(first, last):
        begin, end = starts[text], starts[text + 1]
        write = begin
        position = begin
        stretches = 0
        while position < end:
            byte = data[position]
            if byte < 128 and vocabulary.classes[byte] & _KIND_MASK == _SPACE:
                position += 1
                continue
            stretch, stretch_write = position, write
            length = 0
            difficult = False
            while position < end:
                byte = data[position]
                if byte >= 128:
                    difficult = True
                    break
                mark = vocabulary.classes[byte]
                if mark & _ADDED_START and _starts_added(data, position, end, vocabulary):
                    difficult = True
                    break
                kind = mark & _KIND_MASK
                if kind == _LETTER:
                    if length < vocabulary.max_word:
                        letter = vocabulary.mapped[byte]
                        word[length] = letter
                        prefix[length + 1] = prefix[length] * _PRIME + np.uint64(letter + 1)
                    length += 1
                elif kind != _REMOVED:
                    if length > 0:
                        write = _add_word(word, prefix, length, vocabulary, cells, write)
                        length = 0
                    if kind == _SPACE:
                        break
                    word[0] = vocabulary.mapped[byte]
                    prefix[1] = np.uint64(word[0] + 1)
                    write = _add_word(word, prefix, 1, vocabulary, cells, write)
                position += 1
            if difficult:
                while position < end and (
                    data[position] >= 128
                    or vocabulary.classes[data[position]] & _KIND_MASK != _SPACE
                ):
                    position += 1
                cells[stretch_write] = -(stretch - begin) - 1
                cells[stretch_write + 1] = position - begin
                write = stretch_write + 2
                stretches += 1
            elif length > 0:
                write = _add_word(word, prefix, length, vocabulary, cells, write)
        used[text] = write - begin
        hard[text] = stretches


@_compile
def _collect(starts, cells, used, hard, found_start, found_end, found_cell, found_text):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """List every stretch for the library: its bytes, its cell, its text."""
    count = 0
    for text in range(len(used)):
        if hard[text] == 0:
            continue
        cell = starts[text]
        while cell < starts[text] + used[text]:
            if cells[cell] < 0:
                found_start[count] = starts[text] - cells[cell] - 1
                found_end[count] = starts[text] + cells[cell + 1]
                found_cell[count] = cell
                found_text[count] = text
                count += 1
                cell += 1
            cell += 1


@_compile
def _compact(starts, cells, used, hard, resolved, resolved_start, offsets, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Copy the cells of all texts together, stretches replaced by what the library said."""
    for text in range(len(used)):
        write = offsets[text]
        begin = starts[text]
        if hard[text] == 0:
            for step in range(used[text]):
                out[write + step] = cells[begin + step]
            continue
        cell = begin
        while cell < begin + used[text]:
            value = cells[cell]
            if value >= 0:
                out[write] = value
                write += 1
            else:
                stretch = -np.int64(value) - 1
                for step in range(resolved_start[stretch], resolved_start[stretch + 1]):
                    out[write] = resolved[step]
                    write += 1
                cell += 1
            cell += 1


@_compile
def _sum_range(table, ids, offsets, first, last, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Add table rows as `sum_rows` does: float32 inside a block, float64 across blocks."""
    dim = table.shape[1]
    block = np.empty(dim, dtype=np.float32)
    total = np.empty(dim, dtype=np.float64)
    for text in range(first, last):
        begin, end = offsets[text], offsets[text + 1]
        if begin == end:
            out[text, :] = 0
            continue
        whole = end - begin <= SUM_BLOCK
        total[:] = 0
        position = begin
        while position < end:
            stop = min(position + SUM_BLOCK, end)
            row = table[ids[position]]
            for column in range(dim):
                block[column] = row[column]
            for token in range(position + 1, stop):
                row = table[ids[token]]
                for column in range(dim):
                    block[column] += row[column]
            if not whole:
                for column in range(dim):
                    total[column] += block[column]
            position = stop
        if whole:
            out[text, :] = block
        else:
            for column in range(dim):
                out[text, column] = np.float32(total[column])


def _in_threads(work: Callable[[int, int], Any], edges: np.ndarray) -> None:
    """Run ``work(first, last)`` on about equal shares; ``edges`` is the cumulated load (N + 1,)."""
    threads = cpu_count()
    shares = np.searchsorted(edges, np.linspace(edges[0], edges[-1], threads + 1)[1:-1])
    bounds = [0, *(int(share) for share in shares), len(edges) - 1]
    ranges = [(low, high) for low, high in zip(bounds, bounds[1:]) if high > low]
    if len(ranges) < 2:
        for low, high in ranges:
            work(low, high)
        return
    with ThreadPoolExecutor(len(ranges)) as pool:
        for running in [pool.submit(work, low, high) for low, high in ranges]:
            running.result()


def sum_rows_fast(table: np.ndarray, ids: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """`sum_rows`, compiled: the same sums to the last bit, float32 (N, D)."""
    sums = np.empty((len(offsets) - 1, table.shape[1]), dtype=np.float32)
    _in_threads(lambda low, high: _sum_range(table, ids, offsets, low, high, sums), offsets)
    return sums


class FastTokenizer:
    """Flat token ids from BERT-like tokenizers, many times faster than the library.

    Use `build`, which returns None for a tokenizer whose rules are not among those handled here.
    """

    def __init__(self, tokenizer: Tokenizer, vocabulary: Vocabulary) -> None:
        self._tokenizer = tokenizer
        self._vocabulary = vocabulary

    @classmethod
    def build(cls, tokenizer: Tokenizer) -> FastTokenizer | None:
        """Return the fast form of ``tokenizer``, or None when it works by other rules."""
        rules = json.loads(tokenizer.to_str())
        vocabulary = _vocabulary_of(tokenizer, rules)
        return None if vocabulary is None else cls(tokenizer, vocabulary)

    def __call__(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray] | None:
        """Return ids int32 (T,) and offsets int64 (N + 1,); None for a text above 1 GB."""
        encoded = [text.encode("utf-8") for text in texts]
        starts = np.zeros(len(encoded) + 1, dtype=np.int64)
        np.cumsum([len(data) for data in encoded], out=starts[1:])
        if starts[-1] > _MAX_BYTES:
            return None
        joined = b"".join(encoded)
        data = np.frombuffer(joined, dtype=np.uint8)
        cells = np.empty(len(data), dtype=np.int32)
        used = np.zeros(len(encoded), dtype=np.int64)
        hard = np.zeros(len(encoded), dtype=np.int64)
        _in_threads(
            lambda low, high: _scan(data, starts, low, high, self._vocabulary, cells, used, hard),
            starts,
        )
        resolved, resolved_start = np.zeros(0, np.int32), np.zeros(1, np.int64)
        counts = used.copy()
        if hard.any():
            resolved, resolved_start = self._resolve(joined, starts, cells, used, hard, counts)
        offsets = np.zeros(len(encoded) + 1, dtype=np.int64)
        np.cumsum(counts, out=offsets[1:])
        ids = np.empty(offsets[-1], dtype=np.int32)
        _compact(starts, cells, used, hard, resolved, resolved_start, offsets, ids)
        return ids, offsets

    def _resolve(
        self,
        joined: bytes,
        starts: np.ndarray,
        cells: np.ndarray,
        used: np.ndarray,
        hard: np.ndarray,
        counts: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Ask the library about each different stretch once; number them in ``cells``."""
        first, last, cell, text = (np.empty(hard.sum(), dtype=np.int64) for _ in range(4))
        _collect(starts, cells, used, hard, first, last, cell, text)
        known: dict[bytes, int] = {}
        which = np.fromiter(
            (
                known.setdefault(joined[low:high], len(known))
                for low, high in zip(first.tolist(), last.tolist())
            ),
            dtype=np.int64,
            count=len(first),
        )
        encodings = self._tokenizer.encode_batch_fast(
            [stretch.decode("utf-8") for stretch in known], add_special_tokens=False
        )
        lists = [encoding.ids for encoding in encodings]
        resolved_start = np.zeros(len(lists) + 1, dtype=np.int64)
        np.cumsum([len(ids) for ids in lists], out=resolved_start[1:])
        resolved = np.fromiter((i for ids in lists for i in ids), np.int32, resolved_start[-1])
        cells[cell] = -which - 1
        np.add.at(counts, text, np.diff(resolved_start)[which] - 2)
        return resolved, resolved_start


def _vocabulary_of(tokenizer: Tokenizer, rules: dict[str, Any]) -> Vocabulary | None:
    model, splitter = rules["model"], rules.get("pre_tokenizer") or {}
    added = [token["content"] for token in rules.get("added_tokens", [])]
    understood = (
        model.get("type") == "WordPiece"
        and splitter.get("type") in {"BertPreTokenizer", "Whitespace", "WhitespaceSplit"}
        and _normalizers(rules.get("normalizer")) <= _LOCAL_NORMALIZERS
        and 0 < model["max_input_chars_per_word"] <= _MAX_WORD
        and all(_is_plain_added(token) for token in rules.get("added_tokens", []))
    )
    classes = _ascii_classes(tokenizer) if understood else None
    unknown = tokenizer.token_to_id(model.get("unk_token", ""))
    if classes is None or unknown is None:
        return None
    kinds, mapped = classes
    for content in added:
        kinds[ord(content[0])] |= _ADDED_START
    pieces, ids, continuing = _ascii_pieces(model["vocab"], model["continuing_subword_prefix"])
    slots = 1 << max(8, (2 * len(pieces)).bit_length())
    slot_hash, slot_piece = np.zeros(slots, np.uint64), np.zeros(slots, np.int32)
    piece_start, piece_bytes = _flat_bytes(pieces)
    with np.errstate(over="ignore"):
        powers = np.cumprod(np.append(np.uint64(1), np.full(_MAX_WORD, _PRIME, np.uint64)))
    _fill(slot_hash, slot_piece, piece_start, piece_bytes, continuing)
    added_start, added_bytes = _flat_bytes([content.encode() for content in added])
    return Vocabulary(
        slot_hash, slot_piece, piece_start, piece_bytes, ids, continuing, powers.astype(np.uint64),
        kinds, mapped, added_start, added_bytes,
        max_word=int(model["max_input_chars_per_word"]),
        max_piece=max(map(len, pieces), default=1),
        unknown=int(unknown),
    )  # fmt: skip


def _normalizers(rules: dict[str, Any] | None) -> set[str]:
    if rules is None:
        return set()
    inner = [_normalizers(part) for part in rules.get("normalizers", [])]
    return {rules["type"]}.union(*inner)


def _is_plain_added(token: dict[str, Any]) -> bool:
    """Say whether an added token is matched literally, wherever its characters stand."""
    content = token["content"]
    return (
        len(content) > 1
        and content.isascii()
        and content.isprintable()
        and " " not in content
        and not any(token[flag] for flag in ("single_word", "lstrip", "rstrip", "normalized"))
    )


def _ascii_classes(tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray] | None:
    """Ask the tokenizer what it does with each ASCII character between two letters.

    Returns:
        Kind and normalised byte of the 128 characters, or None when one behaves in another way
        than the four handled here (letter, separator, word of its own, removed).
    """
    kinds, mapped = np.zeros(128, np.uint8), np.zeros(128, np.uint8)
    for code in range(128):
        character = chr(code)
        text = f"a{character}b"
        normal = text if tokenizer.normalizer is None else tokenizer.normalizer.normalize_str(text)
        words = [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normal)]
        if words == ["ab"]:
            kinds[code] = _REMOVED
        elif words == ["a", "b"]:
            kinds[code] = _SPACE
        elif len(words) == 3 and words[::2] == ["a", "b"] and _one_ascii(words[1]):
            kinds[code], mapped[code] = _PUNCTUATION, ord(words[1])
        elif len(words) == 1 and words[0][0] + words[0][-1] == "ab" and _one_ascii(words[0][1:-1]):
            kinds[code], mapped[code] = _LETTER, ord(words[0][1])
        else:
            return None
    return kinds, mapped


def _one_ascii(text: str) -> bool:
    return len(text) == 1 and text.isascii()


def _ascii_pieces(
    vocab: dict[str, int], prefix: str
) -> tuple[list[bytes], np.ndarray, np.ndarray]:
    """Return the ASCII pieces, their ids, and whether they continue a word."""
    pieces: list[bytes] = []
    ids: list[int] = []
    continuing: list[bool] = []
    for piece, number in vocab.items():
        if not piece.isascii() or len(piece) == 0:
            continue
        pieces.append(piece.encode())
        ids.append(number)
        continuing.append(False)
        if piece.startswith(prefix) and len(piece) > len(prefix):
            pieces.append(piece[len(prefix) :].encode())
            ids.append(number)
            continuing.append(True)
    return pieces, np.array(ids, dtype=np.int32), np.array(continuing, dtype=bool)


def _flat_bytes(parts: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
    starts = np.zeros(len(parts) + 1, dtype=np.int64)
    np.cumsum([len(part) for part in parts], out=starts[1:])
    return starts, np.frombuffer(b"".join(parts) or b"\0", dtype=np.uint8)
