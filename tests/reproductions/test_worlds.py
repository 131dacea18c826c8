"""Worlds keep their promises: sizes, rates, planted truth, and nothing evaluated in training."""

from __future__ import annotations

import numpy as np
import pytest

from embedworks.data import content_key
from embedworks.errors import EmbedworksError, InputError, NotFoundError, UnknownNameError
from embedworks.reproductions import (
    acl_retrieval,
    cosqa_task,
    data_file,
    graded_spans,
    module_classes,
    near_copy,
    paraphrase,
    raises_task,
    stdlib_retrieval,
    stsb_graded,
    text_classes,
    with_mismatches,
)


def documents_of(task):
    return set(task.corpus.values())


@pytest.mark.parametrize(("siblings", "copies"), [(0.0, 1), (0.4, 1), (0.6, 2)])
def test_planted_siblings_have_the_rate_asked_for(siblings, copies):
    world = stdlib_retrieval(300, siblings=siblings, copies=copies, seed=1)
    assert len(world.train) == 300
    families = [world.family(row) for row in world.train]
    shared = sum(families.count(family) > 1 for family in families) / 300
    assert shared == pytest.approx(siblings, abs=0.02)
    rows = list(world.train)
    truth = world.answers(rows, [row.positive for row in rows])
    assert truth.diagonal().all()
    assert (truth.sum(axis=1) == [families.count(family) for family in families]).all()
    assert len({row.positive for row in rows}) == 300  # near-copies, no copies
    assert len({row.positive_id for row in rows}) == 300  # training cannot tell


def test_nothing_evaluated_is_trained_on():
    world = stdlib_retrieval(2000, siblings=0.2, negatives=2, seed=0)
    trained = {t for row in world.train for t in (row.positive, *row.negatives)}
    for task in (world.validation, world.test):
        assert not trained & documents_of(task)
        assert not {row.anchor for row in world.train} & set(task.queries.values())
    assert not documents_of(world.validation) & documents_of(world.test)
    modules = {row.positive_id.split(":")[0] for row in world.train}
    assert not modules & {query.split(":")[0] for query in world.test.queries}
    assert set(world.texts()) >= trained


def test_the_same_questions_under_every_seed_other_rows():
    first, second = (stdlib_retrieval(200, queries=60, seed=seed) for seed in (0, 1))
    assert first.test.queries == second.test.queries
    assert set(first.train) != set(second.train)
    again = stdlib_retrieval(200, queries=60, seed=0)
    assert again.train.fingerprint() == first.train.fingerprint()
    relevant = [len(docs) for docs in first.test.qrels.values()]
    assert set(relevant) == {1, 2}
    assert np.mean(relevant) - 1 == pytest.approx(0.3, abs=0.15)


def test_hard_negatives_are_of_the_same_module_and_wrong():
    world = stdlib_retrieval(300, siblings=0.4, negatives=3, seed=0)
    for row in world.train:
        if row.negatives:
            assert not world.answers([row], list(row.negatives)).any()
    assert world.train.max_negatives == 3


def test_mismatched_rows_are_known_and_keep_their_texts():
    world = stdlib_retrieval(200, seed=0)
    spoilt = with_mismatches(world, 0.2, seed=0)
    rows = list(spoilt.train)
    truth = spoilt.answers(rows, [row.positive for row in rows]).diagonal()
    assert (~truth).sum() == 40
    before = {row.positive for row in world.train}
    assert {row.positive for row in rows} == before
    assert [row.anchor for row in rows] == [row.anchor for row in world.train]
    assert with_mismatches(world, 0.0, seed=0).train.fingerprint() == world.train.fingerprint()
    with pytest.raises(InputError):
        with_mismatches(world, 1.5, seed=0)
    direct = stdlib_retrieval(200, mismatched=0.2, seed=0)
    assert direct.train.fingerprint() == spoilt.train.fingerprint()


@pytest.mark.parametrize("classes", [5, 20])
def test_module_classes_are_balanced_and_apart(classes):
    world = module_classes(classes, per_class=40, seed=0)
    assert len(world.labels) == classes
    assert world.collision_rate() == pytest.approx(1 / classes, rel=0.15)
    parts = [{text for text, _ in part} for part in (world.train, world.validation, world.test)]
    assert not parts[0] & parts[1]
    assert not parts[0] & parts[2]
    assert not parts[1] & parts[2]
    assert module_classes(classes, per_class=40, seed=5).test == world.test
    rows = world.rows(100, negatives=2, seed=0)
    label_of = dict((*world.train,))
    for row in rows:
        assert label_of[row.positive] == row.label
        assert row.positive != row.anchor
        assert all(label_of[text] != row.label for text in row.negatives)
    named = world.rows(50, positives="labels", negatives=2, seed=0)
    assert all(row.positive == world.label_texts[row.label] for row in named)
    with pytest.raises(InputError, match="'examples' or 'labels'"):
        world.rows(5, positives="both", seed=0)


def test_many_classes_come_from_modules():
    assert len(module_classes(100, unit="module", per_class=10, seed=0).labels) == 100
    with pytest.raises(InputError, match="classes are wanted"):
        module_classes(5000, seed=0)


def test_the_raising_task_does_not_give_itself_away():
    world = raises_task(60, seed=0)
    for text in world.texts():
        assert "raise" not in text.lower()
        assert "error" not in text.lower()


def test_graded_spans_share_what_their_grade_says():
    world = graded_spans(80, words=20, seed=0)
    for row in world.train:
        a, b = row.anchor.split(), row.positive.split()
        if row.score > 1:
            common = round((row.score - 1) / 4 * 20)
            assert a[20 - common :] == b[:common]
    assert {0.0, 1.0} < {row.score for row in world.train}
    trained = {text for row in world.train for text in (row.anchor, row.positive)}
    assert not trained & {text for a, b, _ in world.test for text in (a, b)}


def test_rewrites_differ_and_are_reproducible():
    world = stdlib_retrieval(100, seed=0)
    for place, row in enumerate(world.train):
        copy = near_copy(row.positive, np.random.default_rng(place))
        assert copy != row.positive
        assert copy == near_copy(row.positive, np.random.default_rng(place))
        query = paraphrase(row.anchor, np.random.default_rng(place))
        assert query.casefold() != row.anchor.casefold()
    code = "def f(a, b):\n    # note\n    x = a + 1\n    y = b + 2\n    return self.x + x * y"
    copy = near_copy(code, np.random.default_rng(0))
    assert "# note" not in copy
    assert "self.x" in copy
    assert len(copy.splitlines()) == 4
    for rewrite in (near_copy, paraphrase):
        with pytest.raises(EmbedworksError):
            rewrite("  ", np.random.default_rng(0))


def test_bad_shares_are_refused():
    with pytest.raises(InputError, match="siblings"):
        stdlib_retrieval(100, siblings=1.2, seed=0)
    with pytest.raises(InputError, match="copies"):
        stdlib_retrieval(100, copies=0, seed=0)


def test_missing_data_says_where_to_put_it(tmp_path, monkeypatch):
    monkeypatch.setenv("EMBEDWORKS_DATA", str(tmp_path))
    for load in (
        lambda: acl_retrieval(seed=0), cosqa_task, stsb_graded,
        lambda: text_classes("banking77", seed=0), lambda: data_file("x.parquet"),
    ):  # fmt: skip
        with pytest.raises(NotFoundError, match=rf"\.parquet.*{tmp_path}.*EMBEDWORKS_DATA"):
            load()
    monkeypatch.delenv("EMBEDWORKS_DATA")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NotFoundError, match="shared"):
        data_file("x.parquet")


def test_real_data(data_root, monkeypatch):
    monkeypatch.setenv("EMBEDWORKS_DATA", str(data_root))
    acl = acl_retrieval(300, queries=50, seed=0)
    assert (len(acl.train), len(acl.test.queries)) == (300, 50)
    assert not {row.positive for row in acl.train} & documents_of(acl.test)
    assert acl.answers(list(acl.train), [row.positive for row in acl.train]).sum() == 300
    tuned, tested = cosqa_task("validation"), cosqa_task("test")
    assert len(tuned.queries) + len(tested.queries) == 500
    assert not set(tuned.queries) & set(tested.queries)
    banking = text_classes("banking77", classes=10, per_class=20, seed=0)
    assert len(banking.train) == 120
    with pytest.raises(UnknownNameError, match="Did you mean 'banking77'"):
        text_classes("banking", seed=0)
    graded = stsb_graded()
    trained = {(row.anchor, row.positive) for row in graded.train}
    assert not trained & {(a, b) for a, b, _ in graded.test}
    with pytest.raises(UnknownNameError, match="language"):
        stsb_graded("xx")


def test_keys_tell_the_planted_truth_of_any_text():
    world = stdlib_retrieval(50, negatives=1, seed=0)
    for row in world.train:
        assert content_key(row.anchor) in world.family_of_query
        for text in (row.positive, *row.negatives):
            assert content_key(text) in world.family_of_document
