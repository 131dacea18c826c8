"""The entries of BiDR: what they score against slow loops, and both at a very small scale."""

from __future__ import annotations

import numpy as np
import pytest
from reproductions.tiny_entries import run_tiny

from embedworks.reproductions import Context
from embedworks.reproductions.papers import bidr, bidr_locality
from embedworks.reproductions.papers._compressed import (
    Pairs,
    Questions,
    outcome_of,
    title_vectors,
)

_TINY = {"model": "static", "rows": 400, "queries": 60, "epochs": 1, "batch": 64}


def test_scores_equal_slow_ones():
    rng = np.random.default_rng(0)
    found = np.stack([rng.permutation(30)[:20] for _ in range(40)])
    wanted = rng.integers(0, 30, 40)
    names = [f"q{number}" for number in range(40)]
    items = outcome_of(found, Questions(names, np.empty((40, 2)), wanted), (1, 5, 20))
    for number, name in enumerate(names):
        listed = found[number].tolist()
        rank = listed.index(wanted[number]) + 1 if wanted[number] in listed else 10**9
        for cut in (1, 5, 20):
            assert items[f"recall@{cut}"][name] == float(rank <= cut)
        assert items["mrr@10"][name] == (1 / rank if rank <= 10 else 0.0)


@pytest.mark.parametrize("kind", ["random", "snowball", "random walk", "shuffled"])
def test_all_arms_see_every_query_once_with_a_negative(kind):
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(50, 4))
    pairs = Pairs(vectors, vectors[:30], np.arange(30), {})
    listed = np.stack([rng.permutation(50)[:10] for _ in range(30)])
    triples = np.concatenate(bidr_locality._batches(kind, listed, pairs, 8, 0))
    assert sorted(triples[:, 0]) == list(range(30))
    assert (triples[:, 1] == triples[:, 0]).all()
    assert (triples[:, 2] != triples[:, 1]).all()
    assert 0 <= triples[:, 2].min() <= triples[:, 2].max() < 50


def test_held_out_titles_join_the_test_and_are_not_trained_on(data_root, tmp_path):
    def pairs(**more):
        context = Context("mini", "test", {}, "cpu", tmp_path, {})
        return title_vectors(_TINY | {"rows": 50, **more}, context, seed=0)

    plain, longer = pairs(), pairs(held_out=30)
    test, before = longer.questions["test"], plain.questions["test"]
    assert len(test.ids) == len(set(test.ids)) == len(before.ids) + 30
    assert test.ids[: len(before.ids)] == before.ids
    assert len(longer.documents) == len(plain.documents) + 30
    assert len(longer.positives) == len(plain.positives) == 40
    assert not set(longer.positives.tolist()) & set(test.positives.tolist())
    own = (test.vectors * longer.documents[test.positives]).sum(axis=1)
    others = (test.vectors * longer.documents[np.roll(test.positives, 1)]).sum(axis=1)
    assert (own > others).mean() > 0.9  # a title is near its own abstract


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*are few for:embedworks.errors.DataWarning")
def test_codes_run(data_root, tmp_path):
    assert run_tiny(bidr.ENTRIES[0], _TINY, tmp_path).seeds == (0, 1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*are few for:embedworks.errors.DataWarning")
def test_locality_runs(data_root, tmp_path):
    tiny = _TINY | {"bytes": 16, "candidates": 20}
    assert run_tiny(bidr_locality.ENTRIES[0], tiny, tmp_path).seeds == (0, 1)
