"""Filters in other databases' languages, and the databases themselves where they are installed."""

from __future__ import annotations

import numpy as np
import pytest

from embedworks.errors import InputError
from embedworks.evaluation.filtered.contestants import FILTERED_METHODS
from embedworks.evaluation.filtered.peer_methods import peer_expression
from embedworks.evaluation.filtered.worlds import synthetic_filtered_data
from embedworks.index import evaluate, parse_where

WHERES = (
    "kind = 'a'",
    "kind != 'a' AND number < 300",
    "number BETWEEN 100 AND 250 OR kind IN ('b', 'c')",
    "tags CONTAINS '0.5-0' AND NOT (along > 0.0 OR cluster >= 50)",
)


@pytest.mark.parametrize("name", ["hnswlib", "usearch, then filter", "LanceDB", "Milvus Lite"])
def test_only_rows_that_pass_come_back(name):
    method = FILTERED_METHODS[name]
    if method.missing():
        pytest.skip(method.missing())
    data = synthetic_filtered_data(400, 8, 2)
    built = method.build(data)
    answer = method.answer(built, data)
    assert built.nbytes > data.vectors.nbytes / 8
    for text in WHERES:
        where = parse_where(text)
        assert method.refuses(built, where) == ""
        passing = evaluate(where, data.table)
        found = answer(data.queries[0], 400, where, method.ladder[-1])
        found = found[found >= 0]
        assert len(found) > 0
        assert passing[found].all(), text
        assert len(np.unique(found)) == len(found)
    built.close()


def test_what_is_not_translated_is_refused():
    def written(text):
        return peer_expression(parse_where(text), equals="=", contains="array_has")

    assert written("a = 'it''s' AND b = TRUE") == "((a = 'it''s') AND (b = true))"
    for text in ("a LIKE 'x%'", "a IS NULL", '"a b" = 1', "a = 'back\\slash'"):
        with pytest.raises(InputError, match="not translated"):
            written(text)
    milvus = FILTERED_METHODS["Milvus Lite"]
    assert "quote" in milvus.refuses(None, parse_where("a = 'it''s'"))
    assert "not translated" in FILTERED_METHODS["LanceDB"].refuses(None, parse_where("a IS NULL"))
