"""Splits are by document, stable under additions, and never leave a part empty needlessly."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedworks.data import split_documents
from embedworks.errors import EmptyInputError, InputError

IDS = [f"doc-{i}" for i in range(1000)]


def test_shares_are_about_right_and_depend_on_the_seed() -> None:
    counts = Counter(split_documents(IDS).values())
    assert abs(counts["train"] - 800) < 60
    assert abs(counts["validation"] - 100) < 45
    assert split_documents(IDS) == split_documents(IDS)
    assert split_documents(IDS) != split_documents(IDS, seed=1)


def test_adding_documents_moves_no_other() -> None:
    small, large = split_documents(IDS[:200]), split_documents(IDS)
    assert all(large[doc_id] == part for doc_id, part in small.items())
    assert split_documents(reversed(IDS)) == large


@given(st.sets(st.text(max_size=8), min_size=3, max_size=12), st.integers(0, 5))
def test_three_documents_fill_three_parts(ids: set[str], seed: int) -> None:
    parts = split_documents(sorted(ids), seed=seed)
    assert set(parts) == ids
    assert set(parts.values()) == {"train", "validation", "test"}


def test_fractions_of_zero_leave_a_part_empty() -> None:
    assert set(split_documents(IDS, fractions=(0.9, 0.1, 0.0)).values()) == {"train", "validation"}
    assert set(split_documents(IDS, fractions=(1.0, 0.0, 0.0)).values()) == {"train"}
    assert set(split_documents(IDS[:3], fractions=(0.5, 0.0, 0.5)).values()) == {"train", "test"}


def test_one_document_is_train_and_none_is_an_error() -> None:
    assert split_documents(["a", "a"]) == {"a": "train"}
    with pytest.raises(EmptyInputError):
        split_documents([])
    with pytest.raises(InputError, match="must sum to 1"):
        split_documents(["a"], fractions=(0.5, 0.1, 0.1))
    with pytest.raises(InputError, match="fraction of test"):
        split_documents(["a"], fractions=(0.9, 0.3, -0.2))
