"""Fixtures of the models room: a small BERT-like tokenizer with the awkward parts of a real one."""

from __future__ import annotations

import importlib.util
import string
from pathlib import Path

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing

from embedworks.models import StaticModel
from embedworks.models.loading import MINILM_PACKAGE

WORDS = (
    *("the", "cat", "sat", "on", "mat", "and", "open", "file", "read", "line", "by", "how", "do"),
    *("i", "a", "is", "of", "in", "to", "un", "believ", "able", "ing", "section", "part", "def"),
    *("machine", "mean", "values", "sum", "len", "return", "café", "straße", "東", "京", "天"),
    *("погода", "don", "##t", "42"),
)


def _bert_like_tokenizer(**normalizer_options) -> Tokenizer:
    """WordPiece over a few words, all lower-case letters but q, digits and punctuation."""
    letters = [c for c in string.ascii_lowercase + string.digits if c != "q"]
    punctuation = [*string.punctuation.replace("~", ""), "“", "—"]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters, *punctuation, *WORDS]
    pieces += [f"##{piece}" for piece in (*letters, "ing", "able", "é", "ß", "京")]
    vocabulary = {piece: place for place, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(**normalizer_options)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tokenizer.add_special_tokens([AddedToken(name, normalized=False) for name in special])
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


def _table_for(tokenizer: Tokenizer, dim: int = 32, seed: int = 0) -> np.ndarray:
    rows = max(tokenizer.get_vocab().values()) + 1
    return np.random.default_rng(seed).normal(size=(rows, dim)).astype(np.float32)


@pytest.fixture(scope="session")
def bert_like_tokenizer():
    """The function that makes such a tokenizer, with the normalizer's settings as arguments."""
    return _bert_like_tokenizer


@pytest.fixture(scope="session")
def table_for():
    """The function that makes a random table for a tokenizer."""
    return _table_for


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return _bert_like_tokenizer()


@pytest.fixture(scope="session")
def model(tokenizer) -> StaticModel:
    return StaticModel(tokenizer, _table_for(tokenizer), name="tiny", metadata={"seed": 0})


@pytest.fixture(scope="session")
def minilm_package_folder() -> Path:
    """The folder of the offline MiniLM package; skips without it."""
    spec = importlib.util.find_spec(MINILM_PACKAGE)
    if spec is None or spec.origin is None:
        pytest.skip("the offline MiniLM package is not installed (extra `minilm`)")
    return Path(spec.origin).parent / "model"
