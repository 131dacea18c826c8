"""Inverted lists: rows and their places, and the scan of the codes of some rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from embedworks.index.filtered._kernels import scan_codes
from embedworks.index.filtered.lists import InvertedLists, quantize


def test_rows_and_places_lead_to_each_other():
    vectors = np.random.default_rng(0).standard_normal((700, 8)).astype(np.float32)
    lists = InvertedLists.build(vectors, similarity="cosine")
    np.testing.assert_array_equal(lists.places[lists.order], np.arange(len(lists.order)))
    assert lists.places.dtype == np.int32
    fresh = replace(lists)
    before = fresh.nbytes()
    assert fresh.nbytes() == before
    assert fresh.places.nbytes == fresh.nbytes() - before


@pytest.mark.parametrize("passing", [0, 1, 30, 401, 402, 700, 803])
def test_scans_of_codes_find_the_best_whether_they_read_in_turn_or_not(passing):
    rng = np.random.default_rng(passing)
    vectors = rng.standard_normal((803, 32)).astype(np.float32)
    vectors[400:420] = vectors[0]
    lists = InvertedLists.build(vectors, similarity="dot")
    chosen = np.sort(rng.permutation(803)[:passing]).astype(np.int32)
    query = vectors[0] + rng.standard_normal(32).astype(np.float32)
    heap = np.empty(min(20, passing), dtype=np.int32), np.empty(min(20, passing), dtype=np.float32)
    count = scan_codes(lists.codes, lists.scales, lists.order, lists.places, query, chosen, *heap)
    code = quantize(query[None])[0][0].astype(np.int32)
    codes, scales = quantize(vectors)
    scores = (codes[chosen].astype(np.int32) @ code).astype(np.float32) * scales[chosen]
    best = np.lexsort((chosen, -scores))[:20]  # of equal scores the smaller row
    assert count == len(best)
    assert sorted(heap[0]) == sorted(chosen[best])
    assert sorted(heap[1]) == sorted(scores[best])
