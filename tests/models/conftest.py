"""Fixtures of the models room."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from bert_like import bert_like_tokenizer, table_for
from tokenizers import Tokenizer

from embedworks.models import StaticModel
from embedworks.models.loading import MINILM_PACKAGE


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return bert_like_tokenizer()


@pytest.fixture(scope="session")
def model(tokenizer) -> StaticModel:
    return StaticModel(tokenizer, table_for(tokenizer), name="tiny", metadata={"seed": 0})


@pytest.fixture(scope="session")
def minilm_package_folder() -> Path:
    """The folder of the offline MiniLM package; skips without it."""
    spec = importlib.util.find_spec(MINILM_PACKAGE)
    if spec is None or spec.origin is None:
        pytest.skip("the offline MiniLM package is not installed (extra `minilm`)")
    return Path(spec.origin).parent / "model"
