"""Leave out the tokens of a static model that a kind of text never uses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from embedworks._core.validation import check_in_range
from embedworks.errors import EmptyInputError, InputError
from embedworks.models.static import StaticModel

__all__ = ["prune_vocabulary"]

_KINDS = ("WordLevel", "WordPiece", "Unigram", "BPE")


def prune_vocabulary(
    model: StaticModel, texts: Sequence[str], *, min_count: int = 1, letters: bool = True
) -> StaticModel:
    """Return a model with only the tokens that ``texts`` use, and the same vectors for them.

    A table is mostly rows that one's own texts never touch. Whatever text has only kept tokens is
    cut as before and has the same vector, to the last bit; others are spelt with smaller kept
    pieces, or with the unknown token. Added and unknown tokens stay, and so do the pieces that a
    kept BPE token is put together from.

    Args:
        model: A static model or a word model; not changed.
        texts: What the model will be used for, or a fair sample of it.
        min_count: Leave out tokens that occur less often.
        letters: Whether to keep pieces of one letter, so that unseen words can still be spelt. It
            makes no difference to a word model, which spells nothing.

    Raises:
        EmptyInputError: When no token occurs often enough.
        InputError: When the tokenizer is of a kind that cannot be pruned.

    Example:
        >>> from embedworks.models import word_model
        >>> small = prune_vocabulary(word_model(["red", "sky"], np.eye(2), name="toy"), ["Red."])
        >>> sorted(small.tokenizer.get_vocab()), small.encode(["red"]).tolist()
        (['[UNK]', 'red'], [[1.0, 0.0]])
    """
    check_in_range(min_count, name="min_count", low=1)
    stored = json.loads(model.tokenizer.to_str())
    parts = stored["model"]
    kind = parts.get("type")
    if kind not in _KINDS:
        raise InputError(f"A tokenizer of kind {kind!r} cannot be pruned; only {_KINDS} can.")
    ids, _ = model.tokenize(texts)
    used = np.flatnonzero(np.bincount(ids, minlength=len(model.table)) >= min_count)
    if not len(used):
        raise EmptyInputError(
            f"No token occurs {min_count} times in {len(texts)} texts: nothing would be left."
        )
    by_id = {number: token for token, number in model.tokenizer.get_vocab().items()}
    kept = {by_id[int(number)] for number in used}
    kept |= {token["content"] for token in stored["added_tokens"]}
    kept |= _always(parts, kind, by_id, letters)
    if kind == "BPE":
        _keep_merges(parts, kept)
    old = [number for number, token in sorted(by_id.items()) if token in kept]
    new = {by_id[number]: place for place, number in enumerate(old)}
    if kind == "Unigram":
        parts["unk_id"] = None if parts["unk_id"] is None else new[by_id[parts["unk_id"]]]
        parts["vocab"] = [piece for piece in parts["vocab"] if piece[0] in new]
    else:
        parts["vocab"] = {token: new[token] for token in parts["vocab"] if token in new}
    for token in stored["added_tokens"]:
        token["id"] = new[token["content"]]
    # Static models add no special tokens; what would add them holds old numbers.
    stored |= {"post_processor": None, "truncation": None, "padding": None}
    record = {"tokens_before": len(by_id), "tokens": len(old), "min_count": min_count}
    return StaticModel(
        Tokenizer.from_str(json.dumps(stored)),
        model.table[old],
        name=model.name,
        normalize=model.normalize,
        metadata={**model.metadata, "pruned": record},
        max_tokens=model.max_tokens,
    )


def _always(parts: dict[str, Any], kind: str, by_id: dict[int, str], letters: bool) -> set[str]:
    """Return tokens that stay whether they occur or not."""
    kept = {by_id[parts["unk_id"]]} if kind == "Unigram" and parts["unk_id"] is not None else set()
    if kind != "Unigram" and parts.get("unk_token") in by_id.values():
        kept.add(parts["unk_token"])
    if parts.get("byte_fallback"):
        kept |= {token for token in by_id.values() if token.startswith("<0x")}
    if letters and kind != "WordLevel":
        prefix = parts.get("continuing_subword_prefix") or ""
        kept |= {token for token in by_id.values() if len(token.removeprefix(prefix)) == 1}
    return kept


def _keep_merges(parts: dict[str, Any], kept: set[str]) -> None:
    """Add to ``kept`` what its tokens are merged from, and leave the other merges out."""
    prefix = parts.get("continuing_subword_prefix") or ""
    pairs = [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in parts["merges"]]
    made: dict[str, list[tuple[str, ...]]] = {}
    for left, right in pairs:
        made.setdefault(left + right.removeprefix(prefix), []).append((left, right))
    waiting = list(kept)
    while waiting:
        for piece in {piece for pair in made.get(waiting.pop(), []) for piece in pair} - kept:
            kept.add(piece)
            waiting.append(piece)
    parts["merges"] = [
        list(pair) for pair in pairs if pair[0] + pair[1].removeprefix(prefix) in kept
    ]
