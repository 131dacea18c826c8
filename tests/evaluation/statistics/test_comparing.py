"""Comparing systems: corrections against loops, calibrated p-values, means, ranks, sentences."""

from __future__ import annotations

import json
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedworks.errors import FormatError, InputError, NonFiniteError, UnknownNameError
from embedworks.evaluation import (
    Resampling,
    Score,
    SystemComparison,
    SystemResult,
    TaskResult,
    compare_systems,
)
from embedworks.evaluation.statistics._significance import corrected, mean_ranks, normal_tail

stats = pytest.importorskip("scipy.stats")

QUICK = Resampling(n_resamples=200)


def outcome(task, values, *, kind="retrieval", better="higher", how=QUICK):
    score = Score.of_values(values, how)
    items = tuple(str(i) for i in range(len(values)))
    return TaskResult(task, kind, "m", {"m": score}, items=items, better=better)


def statistic(task, values, *, kind="sts", better="higher", how=QUICK):
    array = np.asarray(values)
    score = Score.of_statistic(len(array), lambda rows: float(np.median(array[rows])), how)
    return TaskResult(task, kind, "median", {"median": score}, better=better)


def system(name, *outcomes, how=QUICK):
    return SystemResult(name, {}, {one.task: one for one in outcomes}, resampling=how)


def slow_holm(p):
    out = [0.0] * len(p)
    order = sorted(range(len(p)), key=lambda i: p[i])
    largest = 0.0
    for step, place in enumerate(order):
        largest = max(largest, min(1.0, (len(p) - step) * p[place]))
        out[place] = largest
    return out


def slow_benjamini_hochberg(p):
    out = [0.0] * len(p)
    for place, value in enumerate(p):
        later = sorted(x for x in p if x >= value)
        ranks = [sum(y <= x for y in p) for x in later]
        out[place] = min(1.0, min(x * len(p) / rank for x, rank in zip(later, ranks)))
    return out


P = st.lists(st.floats(0, 1) | st.sampled_from([0.0, 0.01, 0.05, 1.0]), min_size=1, max_size=20)


@given(P)
def test_corrections_equal_slow_loops(p):
    np.testing.assert_allclose(corrected(p, "holm"), slow_holm(p), atol=1e-15)
    np.testing.assert_allclose(
        corrected(p, "benjamini-hochberg"), slow_benjamini_hochberg(p), atol=1e-12
    )
    assert corrected(p, "none").tolist() == p


@given(P)
def test_corrections_never_help(p):
    holm, hochberg = corrected(p, "holm"), corrected(p, "benjamini-hochberg")
    assert (holm >= hochberg - 1e-15).all()
    assert (hochberg >= np.array(p) - 1e-15).all()
    np.testing.assert_allclose(hochberg, stats.false_discovery_control(p), atol=1e-12)


def test_bad_p_values():
    with pytest.raises(NonFiniteError):
        corrected([0.5, float("nan")], "holm")
    with pytest.raises(NonFiniteError):
        corrected([1.5], "none")
    assert corrected([], "holm").tolist() == []


@pytest.mark.parametrize("kind", ["mean", "statistic"])
def test_p_values_are_uniform_without_a_difference(kind):
    rng = np.random.default_rng(0)
    how = Resampling(n_resamples=200)
    found = []
    for _ in range(250):
        first, second = rng.normal(size=(2, 60))
        if kind == "mean":
            gap = Score.of_values(first, how).minus(Score.of_values(second, how), how)
        else:  # the mean as any statistic is resampled
            sides = [
                Score.of_statistic(60, lambda rows, v=v: float(v[rows].mean()), how)
                for v in (first, second)
            ]
            gap = sides[0].minus(sides[1], how)
        found.append(gap.p_value)
    assert stats.kstest(found, "uniform").pvalue > 0.01
    assert 0.01 < np.mean(np.array(found) <= 0.05) < 0.11


def test_the_normal_tail_is_used_below_the_resolution_only():
    rng = np.random.default_rng(1)
    base = rng.normal(size=80)
    for shift in (0.0, 0.05, 0.6):
        gaps = rng.normal(shift, 0.3, size=80)
        first, second = Score.of_values(base + gaps, QUICK), Score.of_values(base, QUICK)
        raw = first.minus(second, QUICK)
        fine = normal_tail(raw, first, second, QUICK)
        if raw.p_value > 1 / 201:
            assert fine == raw
        else:
            expected = stats.ttest_rel(base + gaps, base).pvalue
            assert fine.p_value < 1 / 201
            # Bounded differences have a lighter tail than t says: the same order is enough.
            assert fine.p_value < 1e-6
            assert expected < 1e-6


def test_many_comparisons_can_still_be_clear():
    rng = np.random.default_rng(2)
    weak = system("weak", *(outcome(f"t{i}", rng.random(100)) for i in range(60)))
    good = system(
        "good",
        *(outcome(t, np.array(r.main.values) + rng.normal(0.3, 0.1, 100))
          for t, r in weak.tasks.items()),
    )  # fmt: skip
    found = compare_systems([good, weak])
    assert all(gap.finding == "better" for gap in found.gaps)


def test_differences_means_and_ranks_against_loops():
    rng = np.random.default_rng(3)
    names, tasks = ["a", "b", "c"], ["t0", "t1", "t2", "t3"]
    kinds = {"t0": "retrieval", "t1": "retrieval", "t2": "retrieval", "t3": "sts"}
    values = {n: {t: rng.random(30 + 5 * i) for i, t in enumerate(tasks)} for n in names}
    values["b"]["t0"] = values["a"]["t0"].copy()
    results = [system(n, *(outcome(t, values[n][t], kind=kinds[t]) for t in tasks)) for n in names]
    found = compare_systems(results)
    assert found.tasks == tuple(tasks)
    assert [(g.system, g.other) for g in found.overall] == list(combinations(names, 2))
    for gap in found.gaps:
        expected = (values[gap.system][gap.task] - values[gap.other][gap.task]).mean()
        assert gap.difference.mean == pytest.approx(expected)
    raw = [gap.difference.p_value for gap in found.gaps]
    assert [gap.corrected_p for gap in found.gaps] == pytest.approx(slow_holm(raw))
    for name in names:
        means = [values[name][t].mean() for t in tasks]
        average = found.averages[name]
        assert average.tasks.mean == pytest.approx(np.mean(means))
        assert average.kinds.mean == pytest.approx((np.mean(means[:3]) + means[3]) / 2)
        assert average.tasks.low < average.tasks.mean < average.tasks.high
        assert average.other_tasks.n == 4
        borda, ranks = 0.0, []
        for task in tasks:
            mine = values[name][task].mean()
            rest = [values[other][task].mean() for other in names if other != name]
            borda += sum(1.0 if mine > x else 0.5 if mine == x else 0.0 for x in rest)
            ranks.append(1 + sum(x > mine for x in rest) + sum(x == mine for x in rest) / 2)
        assert found.standings[name].borda == pytest.approx(borda)
        assert found.standings[name].mean_rank == pytest.approx(np.mean(ranks))
    counted = [found.standings[n] for n in names]
    assert sum(s.wins for s in counted) == sum(s.losses for s in counted)
    assert sum(s.wins + s.ties + s.losses for s in counted) == 2 * len(found.gaps)


def test_the_interval_of_the_mean_covers():
    """The items of every task are drawn anew; the true mean of means is 0.5."""
    rng = np.random.default_rng(4)
    inside = 0
    for _ in range(100):
        tasks = [outcome(f"t{i}", rng.random(40)) for i in range(3)]
        other = system("other", *tasks)
        mean = compare_systems([system("a", *tasks), other]).averages["a"].tasks
        inside += mean.low <= 0.5 <= mean.high
    assert inside >= 87


def test_means_mix_both_kinds_of_scores():
    rng = np.random.default_rng(5)
    results = [
        system(n, outcome("t", rng.random(50) + s), statistic("u", rng.normal(s, 1, 50)))
        for n, s in (("a", 0.5), ("b", 0.0))
    ]
    found = compare_systems(results)
    first, second = found.averages["a"].tasks, found.averages["b"].tasks
    assert found.overall[0].difference.mean == pytest.approx(first.mean - second.mean)
    assert found.overall[0].finding == "better"


@given(st.lists(st.sampled_from([0.1, 0.5, 0.5, 0.9]), min_size=1, max_size=6))
def test_ranks_share_ties(figures):
    array = np.array(figures)[:, None]
    np.testing.assert_allclose(mean_ranks(array)[:, 0], stats.rankdata(-array[:, 0]))


def test_less_is_better_is_turned_and_kept_out_of_means():
    fair = system("fair", outcome("bias", [0.1, 0.2] * 20, kind="bias", better="lower"),
                  outcome("r", [0.5] * 40))  # fmt: skip
    unfair = system("unfair", outcome("bias", [0.6, 0.9] * 20, kind="bias", better="lower"),
                    outcome("r", [0.5] * 40))  # fmt: skip
    found = compare_systems([fair, unfair])
    gap = next(g for g in found.gaps if g.task == "bias")
    assert gap.difference.mean == pytest.approx(0.6)
    assert gap.finding == "better"
    assert found.leaders["bias"] == ("fair",)
    assert found.left_out["bias"] == "not in the means: less is better"
    assert found.averages["fair"].tasks.mean == 0.5
    assert found.standings["fair"].borda == 1.5
    only = compare_systems([system(r.name, r.tasks["bias"]) for r in (fair, unfair)])
    assert only.averages == {}
    assert only.sentence().startswith("fair is better than unfair on bias by 0.600")


def test_mere_descriptions_are_not_compared():
    results = [
        system(n, outcome("t", [0.5] * 9), outcome("shape", [v] * 9, better="neither"))
        for n, v in (("a", 0.1), ("b", 0.9))
    ]
    found = compare_systems(results)
    assert [gap.task for gap in found.gaps] == ["t"]
    assert found.left_out == {"shape": "neither more nor less is better"}
    assert found.averages["b"].tasks.mean == 0.5
    assert set(found.leaders) == {"t"}


def test_zero_is_best_compares_distances_to_zero():
    rng = np.random.default_rng(6)
    noise = rng.normal(0, 0.1, 200)
    left = system("left", statistic("weat", noise - 0.2, kind="bias", better="zero"))
    right = system("right", statistic("weat", noise + 0.9, kind="bias", better="zero"))
    gap = compare_systems([left, right]).gaps[0]
    expected = abs(np.median(noise + 0.9)) - abs(np.median(noise - 0.2))
    assert gap.difference.mean == pytest.approx(expected)
    assert gap.finding == "better"


def test_tasks_that_one_did_not_run():
    a = system("a", outcome("t", [0.9] * 30), outcome("u", [0.4] * 30))
    b = system("b", outcome("t", [0.1] * 30))
    found = compare_systems([a, b])
    assert found.tasks == ("t",)
    assert found.left_out == {"u": "not run by b"}
    assert found.averages["a"].tasks.mean == pytest.approx(0.9)
    assert found.leaders == {"t": ("a",), "u": ("a",)}
    with pytest.raises(InputError, match="No task"):
        compare_systems([system("a", outcome("t", [1.0])), system("b", outcome("u", [1.0]))])


def test_baseline_compares_with_it_only_and_leaders_are_found_all_the_same():
    rng = np.random.default_rng(7)
    base = rng.random(60)
    results = [system(n, outcome("t", base + s)) for n, s in (("a", 0.0), ("b", 0.5), ("c", 0.001))]
    found = compare_systems(results, baseline="a")
    assert [(g.system, g.other) for g in found.gaps] == [("b", "a"), ("c", "a")]
    assert found.leaders["t"] == ("b",)
    with pytest.raises(UnknownNameError, match="baseline"):
        compare_systems(results, baseline="z")
    with pytest.raises(UnknownNameError, match="correction"):
        compare_systems(results, correction="bonferoni")


def test_leaders_agree_with_the_gaps():
    rng = np.random.default_rng(8)
    results = [
        system(f"s{i}", *(outcome(f"t{j}", rng.random(40) + 0.1 * i) for j in range(3)))
        for i in range(4)
    ]
    found = compare_systems(results)
    for gap in found.gaps:
        best = found.leaders[gap.task][0]
        if best in (gap.system, gap.other):
            rival = gap.other if gap.system == best else gap.system
            assert (rival in found.leaders[gap.task]) == (gap.finding == "unclear")


def test_what_cannot_be_paired_is_refused():
    with pytest.raises(InputError, match="two systems"):
        compare_systems([system("a", outcome("t", [1.0]))])
    other_items = TaskResult(
        "t", "retrieval", "m", {"m": Score.of_values([1.0, 0.0], QUICK)}, items=("x", "y")
    )
    with pytest.raises(FormatError, match="items"):
        compare_systems([system("a", outcome("t", [1.0, 0.0])), system("b", other_items)])
    seeds = [
        system(n, statistic("t", [1.0, 2.0, 3.0], how=how), how=how)
        for n, how in (("a", QUICK), ("b", Resampling(n_resamples=200, seed=1)))
    ]
    with pytest.raises(FormatError, match="same seed"):
        compare_systems(seeds)


def test_json_round_trip_is_exact():
    rng = np.random.default_rng(9)
    results = [
        system(n, outcome("t", rng.random(20)), statistic("u", rng.random(20))) for n in "abc"
    ]
    found = compare_systems(results, correction="benjamini-hochberg")
    assert SystemComparison.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    with pytest.raises(FormatError, match="lacks"):
        SystemComparison.from_dict({"systems": []})


def test_sentences():
    rng = np.random.default_rng(10)
    base = [rng.random(80) for _ in range(3)]

    def made(name, shifts):
        return system(
            name, *(outcome(f"t{i}", v + s) for i, (v, s) in enumerate(zip(base, shifts)))
        )

    good, weak = made("good", [0.2, 0.2, 0.0]), made("weak", [0, 0, 0])
    text = compare_systems([weak, good]).sentence()
    assert text.startswith("good is better than weak on the mean over tasks by 0.133 (")
    assert text.endswith("good is better than weak on 2, worse on 0, and not clear of noise on 1.")
    three = compare_systems([weak, good, made("near", [0.2, 0.2, 0.0001])])
    assert three.sentence().startswith("near has the highest mean over 3 tasks, ")
    assert "clearly better than" in three.sentence()
    assert (
        compare_systems([good, made("same", [0.2, 0.2, 0.0])])
        .sentence()
        .startswith("good and same are equal on the mean over tasks.")
    )
    noisy = system("noisy", outcome("t0", rng.permutation(base[0])))
    single = compare_systems([noisy, system("weak", weak.tasks["t0"])]).sentence()
    assert "are equal" in single or "not clear of noise" in single


def test_identical_systems_are_equal_everywhere():
    values = np.random.default_rng(11).random(30)
    found = compare_systems([system(n, outcome("t", values)) for n in "ab"])
    assert found.gaps[0].difference.p_value == 1.0
    assert found.gaps[0].finding == "unclear"
    assert found.standings["a"] == found.standings["b"]


def test_a_system_without_results_does_not_spoil_the_means():
    values = np.random.default_rng(3).random(20)
    a, b = system("a", outcome("t", values)), system("b", outcome("t", values / 2))
    broken = system("broken")
    found = compare_systems([a, broken, b])
    assert found.systems == ("a", "b")
    assert found.averages == compare_systems([a, b]).averages
    with pytest.raises(InputError, match="broken has none"):
        compare_systems([a, broken])
