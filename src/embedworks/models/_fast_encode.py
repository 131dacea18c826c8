"""Compiled tokenisation for BERT-like WordPiece tokenizers.

The bulk of a static model's time is tokenisation. Here it is done on the UTF-8 bytes: split into
words, lower-case, longest match first against a hash table of the vocabulary. Only what is
written in ASCII is handled. A stretch between two ASCII white spaces that holds any other byte,
or an added token such as ``[CLS]``, is handed to the `tokenizers` library, each different one
once. White space separates words in every tokenizer accepted here, so the ids are the library's
own, exactly.

What a tokenizer does with each ASCII character is not assumed but asked of it: see
`_ascii_rules`. Importing this module loads numba and the kernels.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from tokenizers import Tokenizer

from embedworks._core.devices import cpu_count
from embedworks.models import _kernels as kernels

__all__ = ["FastTokenizer", "sum_rows_fast"]

# Normalizers that treat each character alone, or together with combining marks only: cutting at
# ASCII white space changes nothing.
_LOCAL_NORMALIZERS = {
    "BertNormalizer", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "StripAccents", "Sequence",
}  # fmt: skip
_SPLITTERS = {"BertPreTokenizer", "WhitespaceSplit"}
_LONGEST_WORD = 1_000
_MARKS_PER_SLOT = 4
_MAX_BYTES = 1 << 30


class Vocabulary(NamedTuple):
    """A WordPiece vocabulary and its rules, laid out for the kernels.

    Attributes:
        slots: int64 (S, 4), an open-addressing hash table: hash of the piece, its id (-1 where
            free), its start in ``text``, twice its length plus one if it continues a word.
        marks: uint8 (M,), 1 where the hash of some piece falls: most parts of words that are no
            piece are refused by one look at this small table.
        text: uint8, the bytes of pieces and added tokens one after the other.
        added: int64 (A, 2): start and length in ``text`` of the added tokens.
        rules: uint8 (2, 256): kind and normalised byte of each byte.
        limits: int64 (3,): longest word, longest piece, id of the unknown token.
    """

    slots: np.ndarray
    marks: np.ndarray
    text: np.ndarray
    added: np.ndarray
    rules: np.ndarray
    limits: np.ndarray


def _in_threads(work: Callable[[int, int], Any], edges: np.ndarray) -> None:
    """Run ``work(first, last)`` on equal shares; ``edges`` is the cumulated load (N + 1,)."""
    shares = np.linspace(edges[0], edges[-1], cpu_count() + 1)[1:-1]
    bounds = [0, *np.searchsorted(edges, shares).tolist(), len(edges) - 1]
    ranges = [(low, high) for low, high in pairwise(bounds) if high > low]
    if len(ranges) < 2:
        for low, high in ranges:
            work(low, high)
        return
    with ThreadPoolExecutor(len(ranges)) as pool:
        for running in [pool.submit(work, low, high) for low, high in ranges]:
            running.result()


def sum_rows_fast(table: np.ndarray, ids: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """`sum_rows`, compiled and in threads: the same sums to the last bit, float32 (N, D)."""
    sums = np.empty((len(offsets) - 1, table.shape[1]), dtype=np.float32)
    _in_threads(lambda low, high: kernels.add_ranges(table, ids, offsets, low, high, sums), offsets)
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
        vocabulary = _vocabulary_of(tokenizer, json.loads(tokenizer.to_str()))
        return None if vocabulary is None else cls(tokenizer, vocabulary)

    def __call__(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray] | None:
        """Return ids int32 (T,) and offsets int64 (N + 1,); None for more than 1 GB of text."""
        encoded = [text.encode("utf-8") for text in texts]
        starts = _cumulated(map(len, encoded), len(encoded))
        if starts[-1] > _MAX_BYTES:
            return None
        joined = b"".join(encoded)
        data = np.frombuffer(joined, dtype=np.uint8)
        cells = np.empty(len(data), dtype=np.int32)
        used, hard = np.zeros((2, len(encoded)), dtype=np.int64)
        _in_threads(
            lambda low, high: kernels.scan(
                data, starts, low, high, cells, used, hard, *self._vocabulary
            ),
            starts,
        )
        if not hard.any():
            offsets = _cumulated(used, len(used))
            ids = np.empty(offsets[-1], dtype=np.int32)
            kernels.compact(starts, cells, used, offsets, ids)
            return ids, offsets
        return self._with_hard(joined, starts, cells, used, hard)

    def _with_hard(
        self,
        joined: bytes,
        starts: np.ndarray,
        cells: np.ndarray,
        used: np.ndarray,
        hard: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Ask the library about each different hard stretch once, and put its ids in place."""
        found = np.empty((hard.sum(), 4), dtype=np.int64)
        kernels.collect(starts, cells, used, hard, found)
        known: dict[bytes, int] = {}
        stretches = [joined[low:high] for low, high in found[:, :2].tolist()]
        which = np.array([known.setdefault(s, len(known)) for s in stretches], dtype=np.int64)
        encodings = self._tokenizer.encode_batch_fast(
            [stretch.decode("utf-8") for stretch in known], add_special_tokens=False
        )
        lists = [encoding.ids for encoding in encodings]
        edges = _cumulated(map(len, lists), len(lists))
        resolved = np.fromiter((i for ids in lists for i in ids), np.int32, edges[-1])
        cells[found[:, 2]] = -which - 1
        counts = used.copy()
        np.add.at(counts, found[:, 3], np.diff(edges)[which] - 2)
        offsets = _cumulated(counts, len(counts))
        ids = np.empty(offsets[-1], dtype=np.int32)
        kernels.expand(starts, cells, used, resolved, edges, offsets, ids)
        return ids, offsets


def _cumulated(lengths: Any, count: int) -> np.ndarray:
    edges = np.zeros(count + 1, dtype=np.int64)
    np.cumsum(np.fromiter(lengths, dtype=np.int64, count=count), out=edges[1:])
    return edges


def _vocabulary_of(tokenizer: Tokenizer, rules: dict[str, Any]) -> Vocabulary | None:
    model, added = rules["model"], rules.get("added_tokens") or []
    understood = (
        model.get("type") == "WordPiece"
        and (rules.get("pre_tokenizer") or {}).get("type") in _SPLITTERS
        and _normalizers(rules.get("normalizer")) <= _LOCAL_NORMALIZERS
        and 0 < model["max_input_chars_per_word"] <= _LONGEST_WORD
        and model["unk_token"] in model["vocab"]
        and model["unk_token"].isascii()
        and all(_is_literal(token) for token in added)
    )
    character_rules = _ascii_rules(tokenizer) if understood else None
    if character_rules is None:
        return None
    for token in added:
        character_rules[0, ord(token["content"][0])] |= kernels.ADDED_START
    contents, described = _ascii_pieces(model["vocab"], model["continuing_subword_prefix"])
    count = len(contents)
    contents += [token["content"].encode() for token in added]
    edges = _cumulated(map(len, contents), len(contents))
    placed = np.column_stack([edges[:-1], np.diff(edges)])
    text = np.frombuffer(b"".join(contents), dtype=np.uint8)
    size = 1 << max(8, (2 * count).bit_length())
    slots = np.full((size, 4), -1, dtype=np.int64)
    marks = np.zeros(_MARKS_PER_SLOT * size, dtype=np.uint8)
    kernels.fill(slots, marks, np.hstack([placed[:count], described]), text)
    longest = int(placed[:count, 1].max())
    limits = [model["max_input_chars_per_word"], longest, model["vocab"][model["unk_token"]]]
    return Vocabulary(
        slots, marks, text, placed[count:].copy(), character_rules, np.array(limits, np.int64)
    )


def _normalizers(rules: dict[str, Any] | None) -> set[str]:
    if rules is None:
        return set()
    return {rules["type"]}.union(*(_normalizers(part) for part in rules.get("normalizers", [])))


def _is_literal(token: dict[str, Any]) -> bool:
    """Say whether an added token is matched as it stands, wherever its characters are."""
    content = token["content"]
    return (
        len(content) > 1
        and content.isascii()
        and content.isprintable()
        and " " not in content
        and not any(token[flag] for flag in ("single_word", "lstrip", "rstrip", "normalized"))
    )


def _ascii_rules(tokenizer: Tokenizer) -> np.ndarray | None:
    """Ask the tokenizer what it does with each ASCII character between two letters.

    Returns:
        Kind and normalised byte, uint8 (2, 256), or None when a character is treated in another
        way than the four the kernels know: letter, separator, word of its own, removed.
    """
    rules = np.zeros((2, 256), dtype=np.uint8)
    rules[0, 128:] = kernels.HARD
    for code in range(128):
        normal = f"a{chr(code)}b"
        if tokenizer.normalizer is not None:
            normal = tokenizer.normalizer.normalize_str(normal)
        words = [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normal)]
        if words == ["ab"]:
            rules[0, code] = kernels.REMOVED
        elif words == ["a", "b"]:
            rules[0, code] = kernels.SPACE
        elif len(words) == 3 and words[::2] == ["a", "b"] and _one_ascii(words[1]):
            rules[:, code] = kernels.PUNCTUATION, ord(words[1])
        elif len(words) == 1 and words[0][::2] == "ab" and _one_ascii(words[0][1:-1]):
            rules[:, code] = kernels.LETTER, ord(words[0][1])
        else:
            return None
    return rules


def _one_ascii(text: str) -> bool:
    return len(text) == 1 and text.isascii()


def _ascii_pieces(vocab: dict[str, int], prefix: str) -> tuple[list[bytes], np.ndarray]:
    """Return the ASCII pieces, and int64 (P, 2): their ids, and whether they continue a word."""
    entries = [(piece, number) for piece, number in vocab.items() if piece and piece.isascii()]
    cut = len(prefix)
    follow = [(p[cut:], number) for p, number in entries if p.startswith(prefix) and len(p) > cut]
    described = np.zeros((len(entries) + len(follow), 2), dtype=np.int64)
    described[:, 0] = [number for _, number in entries + follow]
    described[len(entries) :, 1] = 1
    return [piece.encode() for piece, _ in entries + follow], described
