"""Batch plans against slow, obvious checks, over random sources and every strategy."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections import Counter
from itertools import combinations, islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedworks.data import BATCH_STRATEGIES, BatchPlan, BatchSettings, Row, RowSet
from embedworks.errors import (
    DataWarning,
    EmptyInputError,
    InputError,
    SettingsError,
    ShapeError,
    UnknownNameError,
)

OPTIONS = {"semi_homogeneous": {"ratio": 0.5}, "interleaved": {"sub_batch_size": 2}}
PURE = {"one_source", "clustered"}
quick = settings(max_examples=60, deadline=None)
#: Random rows share keys without measure; the warnings have their own tests.
pytestmark = pytest.mark.filterwarnings("ignore::embedworks.errors.DataWarning")


class Case:
    """A random set of sources with keys, and settings that fit it."""

    def __init__(self, draw, weighted, no_duplicates=None):
        sizes = draw(st.lists(st.integers(1, 25), min_size=1, max_size=5))
        self.sources = [f"s{i}" for i, n in enumerate(sizes) for _ in range(n)]
        rng = np.random.default_rng(draw(st.integers(0, 1000)))
        rng.shuffle(self.sources)
        self.strategy = draw(st.sampled_from(BATCH_STRATEGIES.names()))
        many = draw(st.integers(2, 60))
        self.keys = rng.integers(-1, many, size=(len(self.sources), 2))
        self.clusters = rng.integers(0, 3, size=len(self.sources))
        self.seed = draw(st.integers(0, 99))
        self.world = draw(st.sampled_from([1, 2]))
        if no_duplicates is None:
            no_duplicates = draw(st.booleans())
        values = {
            "strategy": self.strategy,
            "batch_size": draw(st.sampled_from([2, 4, 8])),
            "no_duplicates": no_duplicates,
            "drop_last": draw(st.booleans()),
            **OPTIONS.get(self.strategy, {}),
        }
        if draw(st.booleans()) and len(sizes) > 1:
            values["losses"] = {"s0": "cosent", "*": "infonce"}
            values["batch_sizes"] = {"cosent": 6}
        if weighted:
            values["alpha"] = draw(st.sampled_from([0.0, 0.5]))
            if draw(st.booleans()):
                values["batches_per_epoch"] = draw(st.integers(1, 12))
        self.settings = BatchSettings.from_dict(values)
        self.losses = values.get("losses", {})

    def plan(self, **changes):
        plan = BatchPlan.from_sources(
            self.sources,
            self.settings,
            keys=self.keys if self.settings.no_duplicates else None,
            seed=self.seed,
            clusters=self.clusters if self.strategy == "clustered" else None,
            **{"world_size": self.world, **changes},
        )
        plan.epoch(0)
        return plan

    def loss(self, row):
        return self.losses.get(self.sources[row], self.losses.get("*"))

    def unit(self, row):
        if self.strategy == "clustered":
            return (self.loss(row), self.clusters[row])
        return self.sources[row]

    def check_batch(self, batch):
        assert len(set(batch)) == len(batch)
        assert len({self.loss(row) for row in batch}) == 1
        full = 6 if self.loss(batch[0]) == "cosent" else self.settings.batch_size
        assert len(batch) <= full
        if self.strategy in PURE:
            assert len({self.unit(row) for row in batch}) == 1
        if self.settings.no_duplicates:
            for one, two in combinations(batch, 2):
                shared = (set(self.keys[one]) & set(self.keys[two])) - {-1}
                assert not shared, (one, two)


def whole_batches(plan, epoch):
    batches = plan._all(epoch)
    return [
        batches.rows[a:b].tolist()
        for a, b in zip(batches.starts[:-1], batches.starts[1:], strict=True)
    ]


@st.composite
def exact_cases(draw):
    return Case(draw, weighted=False)


@st.composite
def weighted_cases(draw):
    return Case(draw, weighted=True)


@st.composite
def all_cases(draw):
    return Case(draw, weighted=draw(st.booleans()))


def made(case, **changes):
    """The plan, or None where the case cannot make a batch, which must be said."""
    with contextlib.suppress(InputError):
        return case.plan(**changes)
    with pytest.raises(InputError, match="batch"):
        case.plan(**changes)
    return None


@quick
@given(exact_cases())
def test_without_weights_an_epoch_sees_every_row_once(case):
    plan = made(case)
    if plan is None:
        assert case.settings.drop_last or case.world > 1
        return
    for epoch in range(3):
        batches = whole_batches(plan, epoch)
        assert len(batches) == len(plan)
        for batch in batches:
            case.check_batch(batch)
        seen = Counter(row for batch in batches for row in batch)
        assert max(seen.values()) == 1
        left_out = dict(plan._all(epoch).left_out)
        uneven = left_out.pop("so that every process has equally many", 0)
        assert uneven == sum(len(batch) % case.world for batch in batches)
        assert len(seen) + sum(left_out.values()) == len(case.sources)
        if not case.settings.drop_last and case.world == 1:
            assert not left_out


@quick
@given(weighted_cases())
def test_with_weights_shares_are_kept_and_no_row_comes_twice_too_early(case):
    plan = made(case)
    if plan is None:
        return
    total, times = 3, Counter()
    for epoch in range(total):
        batches = whole_batches(plan, epoch)
        assert len(batches) == len(plan)
        for batch in batches:
            case.check_batch(batch)
        times.update(row for batch in batches for row in batch)
        if case.strategy in PURE and not plan._all(epoch).left_out:
            drawn = Counter(case.unit(batch[0]) for batch in batches)
            for name, share in zip(plan.units.names, plan.shares, strict=True):
                if case.strategy == "one_source":
                    assert abs(drawn[name] - share * len(batches)) <= 2  # one per level of drawing
    clean = {"so that every process has equally many"}
    if (
        all(set(plan._all(e).left_out) <= clean for e in range(total))
        and not case.settings.drop_last
        and case.world == 1
    ):
        for unit in set(plan.units.of_row.tolist()):
            counts = [times[r] for r in np.flatnonzero(plan.units.of_row == unit)]
            assert max(counts) - min(counts) <= 1


@quick
@given(all_cases(), st.integers(0, 40))
def test_a_run_can_start_at_any_step(case, start):
    plan = made(case)
    if plan is None:
        return
    fresh = islice(plan.batches(), start, start + 5)
    resumed = islice(case.plan().batches(start_step=start), 5)
    for one, two in zip(fresh, resumed, strict=True):
        assert one.dtype == np.int64
        np.testing.assert_array_equal(one, two)


@quick
@given(all_cases())
def test_processes_share_every_batch(case):
    case.world = 1
    one = made(case, world_size=2)
    if one is None:
        return
    two = case.plan(world_size=2, rank=1)
    wholes = whole_batches(one, 1)
    for whole, left, right in zip(wholes, one.epoch(1), two.epoch(1), strict=True):
        assert len(left) == len(right) > 0
        assert [row for pair in zip(left, right, strict=True) for row in pair] == whole[
            : len(whole) // 2 * 2
        ]


def test_every_seed_is_the_same_in_another_process():
    code = (
        "from tests_plan import plan\n"
        "print([b.tolist() for e in (0, 2) for b in plan().epoch(e)])\n"
    )
    made = (
        "import numpy as np\n"
        "from embedworks.data import BatchPlan, BatchSettings\n"
        "keys = np.arange(300)[:, None] % 97\n"
        "def plan():\n"
        "    s = BatchSettings(strategy='interleaved', sub_batch_size=2, batch_size=8,\n"
        "        no_duplicates=True, alpha=0.5)\n"
        "    return BatchPlan.from_sources([f's{i % 7}' for i in range(300)], s, keys=keys)\n"
    )
    space: dict = {}
    exec(made, space)
    here = [b.tolist() for e in (0, 2) for b in space["plan"]().epoch(e)]
    result = subprocess.run(
        [sys.executable, "-c", made + code.replace("from tests_plan import plan\n", "")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip() == str(here)


def sizes_to_sources(**sizes):
    return [name for name, count in sizes.items() for _ in range(count)]


def test_semi_homogeneous_keeps_its_share_and_mixes_the_rest():
    sources = sizes_to_sources(a=800, b=800, c=13)
    for ratio in (0.0, 0.25, 1.0):
        plan = BatchPlan.from_sources(
            sources, BatchSettings(strategy="semi_homogeneous", batch_size=16, ratio=ratio)
        )
        kept = round(16 * ratio)
        pure = mixed = 0
        for batch in plan.epoch(0):
            names = [sources[row] for row in batch]
            if len(batch) == 16:
                pure += len(set(names[:kept])) <= 1
            mixed += len(set(names)) > 1
        assert pure >= 100
        assert mixed <= 1 if ratio == 1.0 else mixed > 90


def test_sub_batches_have_one_source_each():
    sources = sizes_to_sources(a=640, b=320, c=63)
    for extra in ({}, {"alpha": 0.5}):
        plan = BatchPlan.from_sources(
            sources,
            BatchSettings(strategy="interleaved", batch_size=32, sub_batch_size=8, **extra),
        )
        several = 0
        for batch in plan.epoch(0):
            names = np.array([sources[row] for row in batch])
            several += len(set(names)) > 1
            if len(batch) == 32 and not extra:
                blocks = [set(block) for block in names.reshape(-1, 8)]
                assert sum(len(block) > 1 for block in blocks) <= 1  # left-overs share a block
        assert several > len(plan) / 2


def test_fixed_shares_hold_between_groups_and_alpha_inside():
    sources = sizes_to_sources(r1=900, r2=100, x=400, y=100)
    plan = BatchPlan.from_sources(
        sources,
        BatchSettings.from_dict(
            {
                "strategy": "one_source",
                "batch_size": 8,
                "alpha": 0.5,
                "groups": {
                    "retrieval": {"share": 0.72, "sources": ["r1", "r2"]},
                    "other": {"share": 0.28, "sources": ["*"]},
                },
                "batches_per_epoch": 1000,
            }
        ),
    )
    drawn = {s.name: s for s in plan.summary().sources}
    expected = {"r1": 0.72 * 0.75, "r2": 0.72 * 0.25, "x": 0.28 * 2 / 3, "y": 0.28 / 3}
    for name, share in expected.items():
        assert drawn[name].expected == pytest.approx(share)
        assert drawn[name].drawn == pytest.approx(share, abs=0.002)


def test_weights_act_on_rows_where_batches_are_mixed():
    sources = sizes_to_sources(big=5000, small=50)
    plan = BatchPlan.from_sources(
        sources, BatchSettings(batch_size=50, weights={"big": 3.0, "small": 1.0})
    )
    summary = plan.summary()
    assert summary.share_of == "rows"
    assert [s.drawn for s in summary.sources] == pytest.approx([0.75, 0.25], abs=0.001)
    assert summary.sources[1].seen == 50
    assert summary.sources[1].repeated > 1000
    assert not summary.left_out


def test_losses_have_their_own_batch_sizes():
    sources = sizes_to_sources(sts=2000, nli=1000, qa=2000)
    plan = BatchPlan.from_sources(
        sources,
        BatchSettings(
            strategy="one_source",
            losses={"qa": "infonce", "*": "cosent"},
            batch_sizes={"cosent": 768, "infonce": 256},
        ),
    )
    sizes = Counter()
    for batch in plan.epoch(0):
        loss = plan.loss_of(batch)
        assert loss == ("infonce" if sources[batch[0]] == "qa" else "cosent")
        sizes[loss, len(batch)] += 1
    assert sizes["cosent", 768] == 3
    assert sizes["infonce", 256] == 7


def test_merged_sources_are_one():
    sources = sizes_to_sources(emotion=6, banking=6, qa=12)
    plan = BatchPlan.from_sources(
        sources,
        BatchSettings(
            strategy="one_source", batch_size=12, merge={"classes": ("emotion", "banking")}
        ),
    )
    assert plan.units.names == ("classes", "qa")
    kinds = {frozenset(sources[row] for row in batch) for batch in plan.epoch(0)}
    assert kinds == {frozenset({"emotion", "banking"}), frozenset({"qa"})}


def test_rows_give_their_keys_themselves():
    rows = RowSet(
        [Row(f"q{i}", "the same answer", source="a") for i in range(3)]
        + [Row(f"r{i}", f"s{i}", positive_id="doc", source="a") for i in range(3)]
        + [Row("q0", "x", source="a"), Row("x", "y", source="a"), Row({"text": "x"}, "z")]
    )
    plan = BatchPlan(rows, BatchSettings(batch_size=3, no_duplicates=True), seed=4)
    for epoch in range(5):
        for batch in plan.epoch(epoch):
            members = [rows[i] for i in batch]
            texts = [t for r in members for t in {str(r.anchor), str(r.positive)}]
            assert len(set(texts)) == len(texts)
            ids = [r.positive_id for r in members if r.positive_id]
            assert len(set(ids)) == len(ids)
        assert sorted(np.concatenate(list(plan.epoch(epoch))).tolist()) == list(range(9))


def test_a_key_on_very_many_rows_is_reported_and_lost_only_with_drop_last():
    keys = np.where(np.arange(1000) < 300, 0, np.arange(1000))[:, None]
    setting = BatchSettings(batch_size=50, no_duplicates=True)
    plan = BatchPlan.from_sources(["a"] * 1000, setting, keys=keys)
    with pytest.warns(DataWarning, match="no_duplicates makes 300 batches"):
        assert len(plan) == 300
    assert sorted(plan._all(1).rows.tolist()) == list(range(1000))
    plan = BatchPlan.from_sources(["a"] * 1000, setting.replace(drop_last=True), keys=keys)
    with pytest.warns(DataWarning):
        summary = plan.summary()
    assert summary.batch_rows == (50, 50.0, 50)
    assert len(plan) >= 13
    assert sum(summary.left_out.values()) == 1000 - 50 * len(plan)


def test_clusters_are_units():
    sources = sizes_to_sources(a=30, b=30)
    clusters = np.arange(60) % 4
    plan = BatchPlan.from_sources(
        sources, BatchSettings(strategy="clustered", batch_size=5), clusters=clusters
    )
    assert len(plan) == 12
    for batch in plan.epoch(0):
        assert len(set(clusters[batch])) == 1


def test_the_summary_counts_and_prints():
    sources = sizes_to_sources(a=10, b=5, tiny=2)
    with pytest.warns(DataWarning, match=r"1 of 3 .* 2 rows.*'tiny' \(2 rows\)"):
        plan = BatchPlan.from_sources(
            sources, BatchSettings(strategy="one_source", batch_size=4, drop_last=True)
        )
    summary = plan.summary()
    assert summary.never_seen == ("tiny",)
    assert summary.batches == 3
    assert summary.pure == 1.0
    assert sum(summary.left_out.values()) == 17 - 12
    assert summary.to_dict()["sources"][2]["seen"] == 0
    text = str(summary)
    assert "never seen, too small for a batch: tiny" in text
    assert "left out: 5 rows" in text


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"strategy": "semi_homogeneous"}, "needs ratio"),
        ({"ratio": 0.5}, "means nothing"),
        ({"weights": {"a": 1.0}, "alpha": 0.5}, "give one"),
        ({"weights": {"a": 0.0}}, "greater than 0"),
        ({"alpha": float("nan")}, "alpha"),
        ({"groups": {"g": {"share": 0.7, "sources": ["a"]}}}, "sum to 0.7"),
        ({"batches_per_epoch": 3}, "needs weights"),
        ({"strategy": "clustered", "weights": {"a": 1.0}}, "draws clusters"),
        ({"strategy": "interleaved", "sub_batch_size": 3, "batch_size": 64}, "divisor"),
        ({"batchsize": 3}, "Did you mean 'batch_size'"),
    ],
)
def test_settings_that_disagree_are_refused(values, message):
    with pytest.raises(SettingsError, match=message):
        BatchSettings.from_dict(values)


def test_settings_survive_a_recipe():
    setting = BatchSettings.from_dict(
        {
            "strategy": "interleaved",
            "sub_batch_size": 8,
            "groups": {"g": {"share": 1.0, "sources": ["*"]}},
            "merge": {"m": ["a", "b"]},
            "losses": {"*": "infonce"},
        }
    )
    assert BatchSettings.from_dict(setting.to_dict()) == setting
    with pytest.raises(UnknownNameError, match="Did you mean 'one_source'"):
        BatchSettings(strategy="one_sorce")


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"weights": {"news": 1.0, "qaa": 1.0}}, UnknownNameError, "Did you mean 'qa'"),
        ({"weights": {"news": 1.0}}, SettingsError, "must name every source.*'qa'"),
        ({"losses": {"qa": "x"}}, SettingsError, "'news'"),
        ({"losses": {"q": "x"}}, UnknownNameError, "Did you mean"),
        ({"batch_sizes": {"nws": 4}}, UnknownNameError, "Did you mean 'news'"),
        ({"batch_sizes": {"news": 4}}, InputError, "need one size"),
        ({"merge": {"m": ["qa", "nws"]}}, UnknownNameError, "Did you mean 'news'"),
        ({"merge": {"m": ["qa"], "n": ["qa"]}}, SettingsError, "twice"),
        ({"merge": {"qa": ["news"]}}, SettingsError, "already have"),
        (
            {"merge": {"m": ["qa", "news"]}, "losses": {"qa": "x", "news": "y"}},
            SettingsError,
            "different losses",
        ),
        (
            {"groups": {"g": {"share": 1.0, "sources": ["qa"]}}},
            SettingsError,
            "no group has.*'news'",
        ),
        (
            {"groups": {"g": {"share": 1.0, "sources": ["qa", "news", "*"]}}},
            SettingsError,
            "left over",
        ),
        ({"groups": {"g": {"share": 1.0, "sources": ["qa", "qa", "*"]}}}, SettingsError, "twice"),
        (
            {"strategy": "one_source", "batch_size": 100, "drop_last": True},
            InputError,
            "2 of 2.*never seen",
        ),
        ({"strategy": "clustered"}, InputError, "needs clusters"),
        ({"no_duplicates": True}, InputError, "needs the keys"),
    ],
)
def test_settings_that_do_not_fit_the_rows_are_refused(values, error, message):
    with pytest.raises(error, match=message):
        BatchPlan.from_sources(["qa", "qa", "news"], BatchSettings.from_dict(values))


def test_unusable_arguments_are_refused():
    with pytest.raises(EmptyInputError):
        BatchPlan([], BatchSettings())
    with pytest.raises(InputError, match="2 processes"):
        BatchPlan.from_sources(["a"] * 9, BatchSettings(batch_size=3), world_size=2)
    with pytest.raises(InputError, match="rank"):
        BatchPlan.from_sources(["a"], rank=1)
    with pytest.raises(ShapeError, match="clusters"):
        BatchPlan.from_sources(
            ["a"] * 3, BatchSettings(strategy="clustered"), clusters=np.zeros(2, int)
        )
    with pytest.raises(InputError, match="at least 0"):
        BatchPlan.from_sources(
            ["a"] * 3, BatchSettings(strategy="clustered"), clusters=np.array([0, -1, 0])
        )
    with pytest.raises(ShapeError, match="keys"):
        BatchPlan.from_sources(["a"], BatchSettings(no_duplicates=True), keys=np.zeros((2, 1), int))
    plan = BatchPlan.from_sources(["a"] * 3)
    with pytest.raises(InputError, match="start_step"):
        next(plan.batches(-1))
    with pytest.raises(InputError, match="no batch can be made"):
        len(BatchPlan.from_sources(["a"], BatchSettings(batch_size=2, drop_last=True)))
