from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from embedworks.errors import (
    EmptyInputError,
    FormatError,
    InputError,
    NonFiniteError,
    NotFoundError,
    ShapeError,
)
from embedworks.training.static_table import (
    BatchOrder,
    ContrastiveObjective,
    RaggedIds,
    StaticTableTrainer,
    StaticTrainingSettings,
    TableView,
)


def _ragged(rng: np.random.Generator, count: int, *, low: int, high: int) -> RaggedIds:
    return RaggedIds.from_lists(
        [rng.integers(low, high, rng.integers(2, 7)).tolist() for _ in range(count)]
    )


@pytest.fixture
def task() -> tuple[np.ndarray, RaggedIds, RaggedIds]:
    rng = np.random.default_rng(0)
    table = rng.normal(size=(120, 16)).astype(np.float32)
    return table, _ragged(rng, 60, low=0, high=50), _ragged(rng, 60, low=50, high=100)


@given(st.lists(st.lists(st.integers(0, 9), max_size=5), min_size=1, max_size=8), st.data())
@settings(max_examples=50, deadline=None)
def test_take_equals_list_indexing(lists: list[list[int]], data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.integers(0, len(lists) - 1), max_size=6))
    taken = RaggedIds.from_lists(lists).take(np.array(rows, dtype=np.int64))
    expected = RaggedIds.from_lists([lists[row] for row in rows])
    np.testing.assert_array_equal(taken.ids, expected.ids)
    np.testing.assert_array_equal(taken.offsets, expected.offsets)


@given(st.lists(st.lists(st.integers(0, 3), max_size=3), min_size=1, max_size=10))
@settings(max_examples=50, deadline=None)
def test_text_keys_are_equal_exactly_for_equal_texts(lists: list[list[int]]) -> None:
    keys = RaggedIds.from_lists(lists).text_keys()
    for i, first in enumerate(lists):
        for j, second in enumerate(lists):
            assert (keys[i] == keys[j]) == (first == second)


def test_ragged_ids_refuse_offsets_that_do_not_fit() -> None:
    with pytest.raises(ShapeError, match="end at 2"):
        RaggedIds(np.array([1, 2]), np.array([0, 3]))
    with pytest.raises(ShapeError, match="not decrease"):
        RaggedIds(np.array([1, 2]), np.array([0, 3, 1, 2]))


@given(st.integers(1, 40), st.integers(2, 16), st.integers(0, 3), st.booleans())
@settings(max_examples=40, deadline=None)
def test_batches_of_an_epoch_do_not_overlap(
    count: int, size: int, seed: int, clustered: bool
) -> None:
    clusters = np.arange(count) % 3 * 2 if clustered else None
    order = BatchOrder(count, size, name="x", clusters=clusters, block=3)
    per_epoch = count // min(size, count)
    rows = [order.rows(s, seed=seed) for s in range(per_epoch)]
    flat = np.concatenate(rows)
    assert len(set(flat.tolist())) == len(flat) == per_epoch * min(size, count)
    fresh = BatchOrder(count, size, name="x", clusters=clusters, block=3)
    fresh.rows(per_epoch, seed=seed)
    np.testing.assert_array_equal(fresh.rows(per_epoch - 1, seed=seed), rows[-1])


def test_clustered_batches_hold_relatives() -> None:
    clusters = np.arange(1000) % 10
    for labels, expected in ((None, 0.1), (clusters, 0.9)):
        order = BatchOrder(1000, 20, name="x", clusters=labels, block=20)
        same = [clusters[order.rows(s, seed=0)] for s in range(10)]
        share = np.mean([(row[:, None] == row).mean() for row in same])
        assert share == pytest.approx(expected, abs=0.12)
    with pytest.raises(ShapeError, match="clusters"):
        BatchOrder(3, 2, name="x", clusters=np.zeros(2))


def test_pool_is_the_sum_of_rows() -> None:
    rows = torch.randn(4, 3)
    view = TableView(rows, np.array([-1, 2, 0, 3, 1]))
    pooled = view.pool(RaggedIds.from_lists([[1, 1, 3], [], [4]]))
    expected = torch.stack([2 * rows[2] + rows[3], torch.zeros(3), rows[1]])
    torch.testing.assert_close(pooled, expected)


def test_loss_equals_a_slow_loop_with_masks_negatives_and_weights() -> None:
    rng = np.random.default_rng(3)
    table = rng.normal(size=(30, 8)).astype(np.float32)
    anchors = [[1, 2], [3], [1, 2], [5, 6, 7]]
    positives = [[10], [11, 12], [13], [10]]
    negatives = [[14], [15], [], [11], [13], [16], [10], [17]]
    weights = np.array([1.0, 2.0, 0.5, 1.0], dtype=np.float32)
    objective = ContrastiveObjective(
        RaggedIds.from_lists(anchors),
        RaggedIds.from_lists(positives),
        RaggedIds.from_lists(negatives),
        weights=weights,
    )
    options = StaticTrainingSettings(batch_size=4, temperature=0.2, symmetric=False)
    view = TableView(torch.from_numpy(table), np.arange(30))

    def unit(ids: list[int]) -> np.ndarray:
        vector = table[ids].astype(np.float64).sum(0)
        return vector / np.linalg.norm(vector)

    losses = []
    for i in range(4):
        own = float(unit(anchors[i]) @ unit(positives[i])) / 0.2
        scores = [own]
        for j in range(4):
            if j != i and positives[j] != positives[i] and anchors[j] != anchors[i]:
                scores.append(float(unit(anchors[i]) @ unit(positives[j])) / 0.2)
        for text in negatives[2 * i : 2 * i + 2]:
            if text and text != positives[i]:
                scores.append(float(unit(anchors[i]) @ unit(text)) / 0.2)
        losses.append(np.log(np.exp(scores).sum()) - own)
    expected = (np.array(losses) * weights).sum() / weights.sum()
    assert float(objective.loss(view, 0, options)) == pytest.approx(expected, rel=1e-5)


def test_symmetric_loss_is_the_mean_of_both_directions() -> None:
    rng = np.random.default_rng(4)
    view = TableView(torch.randn(20, 8), np.arange(20))
    first, second = _ragged(rng, 6, low=0, high=10), _ragged(rng, 6, low=10, high=20)

    def value(a: RaggedIds, b: RaggedIds, *, symmetric: bool) -> float:
        options = StaticTrainingSettings(batch_size=6, symmetric=symmetric)
        return float(ContrastiveObjective(a, b).loss(view, 0, options))

    both = (value(first, second, symmetric=False) + value(second, first, symmetric=False)) / 2
    assert value(first, second, symmetric=True) == pytest.approx(both, rel=1e-5)


def test_teacher_scores_pull_the_ranking_of_negatives(task: tuple) -> None:
    table, anchors, positives = task
    negatives = RaggedIds.from_lists([[100 + i % 20] for i in range(120)])
    scores = np.tile(np.array([0.2, 0.9, 0.1], dtype=np.float32), (60, 1))
    trainer = StaticTableTrainer(table, StaticTrainingSettings(batch_size=30, learning_rate=0.01))
    objective = ContrastiveObjective(anchors, positives, negatives, teacher_scores=scores)
    view = TableView(torch.from_numpy(table), np.arange(120))
    plain = ContrastiveObjective(anchors, positives, negatives)
    gap = float(objective.loss(view, 0, trainer.settings) - plain.loss(view, 0, trainer.settings))
    assert gap > 0
    trainer.fit([objective], steps=50)
    rows = trainer.table
    pooled = [
        F.normalize(TableView(torch.from_numpy(rows), np.arange(120)).pool(text), dim=1)
        for text in (anchors, positives)
    ]
    assert torch.isfinite(torch.stack(pooled)).all()


def test_training_lowers_the_loss_and_leaves_unused_rows_alone(task: tuple) -> None:
    table, anchors, positives = task
    before = table.copy()
    trainer = StaticTableTrainer(table, StaticTrainingSettings(batch_size=20, learning_rate=0.02))
    log = trainer.fit_contrastive(anchors, positives, steps=120)
    assert np.mean(log.losses[-10:]) < 0.3 * np.mean(log.losses[:3])
    np.testing.assert_array_equal(table, before)
    np.testing.assert_allclose(trainer.table[100:], table[100:], rtol=1e-6)
    assert log.active_tokens == len(np.unique(np.concatenate([anchors.ids, positives.ids])))


def test_anchor_strength_keeps_the_table_near_its_start(task: tuple) -> None:
    table, anchors, positives = task
    moved = []
    for strength in (0.0, 20.0):
        options = StaticTrainingSettings(
            batch_size=20, learning_rate=0.02, anchor_strength=strength
        )
        trainer = StaticTableTrainer(table, options)
        trainer.fit_contrastive(anchors, positives, steps=60)
        moved.append(np.linalg.norm(trainer.table - table))
    assert moved[1] < 0.7 * moved[0]


def test_result_does_not_depend_on_the_scale_of_the_table(task: tuple) -> None:
    table, anchors, positives = task
    results = []
    for factor in (1.0, 64.0):
        trainer = StaticTableTrainer(table * np.float32(factor), StaticTrainingSettings())
        trainer.fit_contrastive(anchors, positives, steps=5)
        results.append(trainer.table / factor)
    np.testing.assert_allclose(results[0], results[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("stop", [10, 17, 30])
def test_a_resumed_run_ends_bit_identical(task: tuple, tmp_path, stop: int) -> None:
    table, anchors, positives = task
    options = StaticTrainingSettings(batch_size=16, learning_rate=0.01, anchor_strength=1.0)
    whole = StaticTableTrainer(table, options)
    whole.fit_contrastive(anchors, positives, steps=40)

    class Killed(Exception):
        pass

    def kill(step: int, loss: float) -> None:
        if step + 1 == stop:
            raise Killed

    first = StaticTableTrainer(table, options)
    with pytest.raises(Killed):
        first.fit_contrastive(
            anchors, positives, steps=40, on_step=kill, checkpoint_every=5, checkpoint_dir=tmp_path
        )
    assert len(list(tmp_path.iterdir())) == 1
    second = StaticTableTrainer(table, options)
    start = second.resume(tmp_path)
    assert start == stop // 5 * 5
    log = second.fit_contrastive(anchors, positives, steps=40, start_step=start)
    assert log.first_step == start
    assert len(log.losses) == 40 - start
    assert second.table.tobytes() == whole.table.tobytes()


def test_resume_refuses_what_does_not_belong(task: tuple, tmp_path) -> None:
    table, anchors, positives = task
    trainer = StaticTableTrainer(table)
    with pytest.raises(NotFoundError, match="no checkpoint"):
        trainer.resume(tmp_path)
    trainer.fit_contrastive(anchors, positives, steps=4)
    path = trainer.save_checkpoint(tmp_path, 4)
    other = StaticTableTrainer(table, StaticTrainingSettings(temperature=0.1))
    with pytest.raises(FormatError, match="other settings"):
        other.resume(tmp_path)
    again = StaticTableTrainer(table)
    start = again.resume(tmp_path)
    with pytest.raises(FormatError, match="other training data"):
        again.fit_contrastive(positives, positives, steps=8, start_step=start)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(FormatError, match="cannot be read"):
        StaticTableTrainer(table).resume(tmp_path)


def test_bad_input_is_refused(task: tuple) -> None:
    table, anchors, positives = task
    one = RaggedIds.from_lists([[1]])
    with pytest.raises(ShapeError, match="60 anchors but 1"):
        ContrastiveObjective(anchors, one)
    with pytest.raises(EmptyInputError, match="at least 2"):
        ContrastiveObjective(one, one)
    with pytest.raises(EmptyInputError, match="positives have no tokens, the first is row 1"):
        ContrastiveObjective(RaggedIds.from_lists([[1], [2]]), RaggedIds.from_lists([[1], []]))
    with pytest.raises(ShapeError, match="same number"):
        ContrastiveObjective(anchors, positives, one)
    with pytest.raises(ShapeError, match="weights must be"):
        ContrastiveObjective(anchors, positives, weights=np.ones(3))
    with pytest.raises(InputError, match="0 or greater"):
        ContrastiveObjective(anchors, positives, weights=-np.ones(60))
    with pytest.raises(ShapeError, match="teacher_scores"):
        ContrastiveObjective(anchors, positives, teacher_scores=np.ones((60, 1)))
    with pytest.raises(InputError, match="token ids must be in"):
        StaticTableTrainer(table[:60]).fit_contrastive(anchors, positives, steps=1)
    with pytest.raises(InputError, match="start_step"):
        StaticTableTrainer(table).fit_contrastive(anchors, positives, steps=3, start_step=4)
    with pytest.raises(InputError, match="or neither"):
        StaticTableTrainer(table).fit_contrastive(anchors, positives, steps=3, checkpoint_every=2)
    with pytest.raises(EmptyInputError, match="objective"):
        StaticTableTrainer(table).fit([], steps=3)
    with pytest.raises(NonFiniteError, match="NaN or infinity"):
        StaticTableTrainer(np.full((3, 2), np.nan))
    with pytest.raises(InputError, match="every row"):
        StaticTableTrainer(np.zeros((3, 2)))
    with pytest.raises(InputError, match="learning_rate"):
        StaticTrainingSettings(learning_rate=0)
