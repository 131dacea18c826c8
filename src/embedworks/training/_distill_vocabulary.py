"""The static model's vocabulary: MiniLM's word pieces for English, plus frequent whole words.

Knows tokenizers and counts; knows nothing about vectors. WordPiece takes the longest piece it
knows, so a word that is added to the vocabulary becomes one token without any other change.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from embedworks.training.static_table import RaggedIds

__all__ = ["UNKNOWN", "count_words", "english_tokenizer", "token_text", "tokenize"]

UNKNOWN = "[UNK]"
_KEPT = re.compile(
    r"(##)?[\u0021-\u007e\u00a1-\u024f\u0370-\u03ff\u2010-\u2027\u2030-\u205e\u20a0-\u20bf"
    r"\u2100-\u214f\u2190-\u22ff]+"
)
_SPECIAL = re.compile(r"\[(unused\d+|PAD|CLS|SEP|MASK|UNK)\]")
_WORD = re.compile(r"[a-z]{3,24}")


def token_text(token: str) -> str:
    """Return the text a token stands for.

    Example:
        >>> token_text("##ing")
        'ing'
    """
    return token.removeprefix("##") if len(token) > 2 else token


def count_words(groups: Mapping[str, Iterable[str]]) -> dict[str, float]:
    """Score words by how often they occur, with no group of texts dominating.

    A word's score is the sum over groups of the square root of its count there, so a word that is
    used in many kinds of text comes before one that a single kind repeats.

    Args:
        groups: Name -> texts.

    Example:
        >>> scores = count_words({"a": ["tensor tensor tensor tensor word"], "b": ["word"]})
        >>> scores["tensor"], scores["word"]
        (2.0, 2.0)
    """
    scores: defaultdict[str, float] = defaultdict(float)
    for texts in groups.values():
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(_WORD.findall(text.lower()))
        for word, count in counts.items():
            scores[word] += count**0.5
    return dict(scores)


def english_tokenizer(
    base: Tokenizer, scores: Mapping[str, float], *, added_words: int
) -> Tokenizer:
    """Return a WordPiece tokenizer for English made from ``base``.

    Kept are the pieces of Latin and Greek letters, digits, punctuation and common symbols; the
    reserved and the other scripts' pieces go. Then the ``added_words`` best words that ``base``
    splits are added. Truncation, padding and special tokens are off.

    Args:
        base: A WordPiece tokenizer.
        scores: Word -> score, see `count_words`.
        added_words: How many whole words to add.
    """
    spec: dict[str, Any] = json.loads(base.to_str())
    old: dict[str, int] = spec["model"]["vocab"]
    kept = [
        token
        for token in sorted(old, key=old.__getitem__)
        if _KEPT.fullmatch(token) and not _SPECIAL.fullmatch(token)
    ]
    known = set(kept)
    split = [word for word in scores if word not in known]
    best = sorted(split, key=lambda word: (-scores[word], word))[:added_words]
    tokens = [UNKNOWN, *kept, *sorted(best)]
    spec["model"]["vocab"] = {token: index for index, token in enumerate(tokens)}
    spec["model"]["unk_token"] = UNKNOWN
    spec["added_tokens"] = [
        {
            "id": 0,
            "content": UNKNOWN,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
    ]
    spec["post_processor"] = None
    spec["truncation"] = None
    spec["padding"] = None
    return Tokenizer.from_str(json.dumps(spec, ensure_ascii=False))


def tokenize(tokenizer: Tokenizer, texts: Iterable[str]) -> RaggedIds:
    """Return the token ids of texts, without special tokens."""
    encodings = tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
    offsets = np.zeros(len(encodings) + 1, dtype=np.int64)
    np.cumsum([len(encoding.ids) for encoding in encodings], out=offsets[1:])
    flat = np.fromiter((i for encoding in encodings for i in encoding.ids), np.int32, offsets[-1])
    return RaggedIds(flat, offsets)
