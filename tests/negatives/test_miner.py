from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedworks.data import Row, RowSet
from embedworks.errors import (
    DataWarning,
    DuplicateIdError,
    EmptyInputError,
    InputError,
    NonFiniteError,
    SettingsError,
    ShapeError,
    UnknownNameError,
)
from embedworks.negatives import (
    Corpus,
    DenseRetriever,
    Miner,
    MinerSettings,
    NegativeRule,
    Rescorer,
    SearchRetriever,
    positive_ranks,
)

pytestmark = pytest.mark.filterwarnings("ignore::embedworks.errors.DataWarning")


class Named:
    """An encoder that knows the vector of every text, and counts what it is asked."""

    def __init__(self, vectors: dict[str, np.ndarray]) -> None:
        self.vectors = vectors
        self.asked: list[str] = []

    def encode(self, texts):
        self.asked.extend(texts)
        return np.array([self.vectors[text] for text in texts], dtype=np.float32)


class Listed:
    """An index over a list of texts with given scores per query, best first."""

    def __init__(self, scores: dict[str, dict]) -> None:
        self.scores = scores

    def search(self, queries, k):
        result = []
        for query in queries:
            best = sorted(self.scores[query].items(), key=lambda item: -item[1])[:k]
            result.append(([name for name, _ in best], [score for _, score in best]))
        return result


def grid_world(rng, rows: int, documents: int, dim: int = 3):
    """Rows over a corpus whose scores are exact in float32: multiples of 1/64."""

    def grid(count):
        return rng.integers(-4, 5, (count, dim)).astype(np.float32) / 8

    names = [f"d{i}" for i in range(documents)]
    vectors = dict(zip(names, grid(documents), strict=True))
    anchors = [f"q{i}" for i in range(max(1, rows - 1))]  # the last two rows may share one
    vectors |= dict(zip(anchors, grid(len(anchors)), strict=True))
    made = [
        Row(
            anchors[min(i, len(anchors) - 1)],
            names[rng.integers(documents)],
            source=str(rng.choice(["a", "b"])),
            label=str(rng.choice(["x", "y"])) if rng.random() < 0.3 else None,
            positive_id=f"d{rng.integers(documents)}" if rng.random() < 0.3 else None,
        )
        for i in range(rows)
    ]
    return RowSet(made), names, vectors


def slow_mine(rows, names, vectors, groups, rules, count, window):
    """One row at a time with dictionaries: returns the negatives' names."""
    result = []
    for row in rows:
        score = {d: float(vectors[row.anchor] @ vectors[d]) for d in names}
        positives = {r.positive for r in rows if r.anchor == row.anchor}
        ids = {r.positive_id for r in rows if r.anchor == row.anchor} - {None}
        never = set(positives) | ids
        for other in rows:
            same_class = row.label is not None and (other.source, other.label) == (
                row.source,
                row.label,
            )
            # A row gives its positive another name: documents of one name go together.
            if same_class or (other.positive_id in ids):
                never.add(other.positive)
        held = {groups[d] for d in positives} - {None}
        never |= {d for d in names if groups[d] in held}
        # Names of the positives themselves, given by any row.
        never |= {o.positive for o in rows if o.positive_id in positives}
        ranked = sorted((d for d in names if d not in never), key=lambda d: (-score[d], int(d[1:])))
        candidates = ranked[window[0] - 1 : window[1]]
        lowest = min(score[p] for p in positives)
        spread = np.std([score[d] for d in candidates]) if candidates else 0.0
        kept = []
        for d in candidates:
            near = max(float(vectors[p] @ vectors[d]) for p in positives)
            good = True
            for kind, value in rules:
                good &= bool(
                    {
                        "absolute": score[d] < lowest - value,
                        "relative": score[d] < lowest - abs(lowest) * value,
                        "adaptive": score[d] < lowest - value * spread,
                        "document": near < value,
                        "max-score": score[d] <= value,
                    }[kind]
                )
            if good:
                kept.append(d)
        result.append(kept[:count])
    return result


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 100_000))
def test_equals_the_slow_loop(seed):
    rng = np.random.default_rng(seed)
    rows, names, vectors = grid_world(rng, int(rng.integers(1, 6)), int(rng.integers(2, 12)))
    groups = {d: str(rng.choice(["g", "h"])) if rng.random() < 0.3 else None for d in names}
    kinds = ["absolute", "relative", "document", "max-score"]
    rules = [(str(rng.choice(kinds)), float(rng.choice([0.0, 0.25, 0.5])))]
    count, first = int(rng.integers(1, 4)), int(rng.integers(1, 3))
    window = (first, first + int(rng.integers(0, 12)))
    expected = slow_mine(rows, names, vectors, groups, rules, count, window)
    miner = Miner(
        [DenseRetriever(Named(vectors), similarity="dot")],
        rules=[NegativeRule(kind, value) for kind, value in rules],
        count=count,
        window=window,
    )
    corpus = Corpus(names, ids=names, groups=[groups[d] for d in names])
    if not any(expected):
        with pytest.raises(EmptyInputError, match="none of"):
            miner.mine(rows, corpus)
        return
    mined = miner.mine(rows, corpus)
    assert mined.kept.tolist() == [i for i, names in enumerate(expected) if names]
    assert [list(row.negatives) for row in mined.rows] == [e for e in expected if e]
    assert mined.report.negatives == sum(map(len, expected))
    assert mined.report.rows_dropped == sum(not e for e in expected)


def circle(*degrees):
    return np.array([[np.cos(a), np.sin(a)] for a in np.deg2rad(degrees)])


@pytest.fixture
def angles():
    """A query at 0 degrees, its positive at 20, documents around them."""
    named = {"q": 0, "pos": 20, "near": 5, "close": 22, "mid": 40, "far": 80, "other": 120}
    return dict(zip(named, circle(*named.values()), strict=True))


def world(angles):
    rows = RowSet([Row("q", "pos", source="s")])
    names = [name for name in angles if name != "q"]
    return rows, Corpus(names, ids=names)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (None, ["near", "close", "mid", "far", "other"]),
        (NegativeRule("relative", 0.05), ["mid", "far", "other"]),
        (NegativeRule("absolute", 0.5), ["far", "other"]),
        (NegativeRule("absolute", 0.5, sources={"s": 0.0}), ["close", "mid", "far", "other"]),
        (NegativeRule("adaptive", 1.0), ["far", "other"]),
        (NegativeRule("document", 0.95), ["mid", "far", "other"]),
        (NegativeRule("min-score", 0.0), ["near", "close", "mid", "far"]),
        (NegativeRule("max-score", 0.5), ["far", "other"]),
    ],
)
def test_each_rule_on_a_circle(angles, rule, expected):
    rows, corpus = world(angles)
    mined = Miner([Named(angles)], rules=[rule] if rule else []).mine(rows, corpus)
    assert list(mined.rows[0].negatives) == expected
    history = json.loads(mined.rows[0].provenance)["mined"]
    assert [name for name, _ in history] == ["dense"] * len(expected)
    ranking = ["near", "close", "mid", "far", "other"]
    assert [rank for _, rank in history] == [ranking.index(name) + 1 for name in expected]


def test_searching_with_the_document_finds_its_neighbours(angles):
    """From the positive at 20 degrees the pair's own score is cos 20: 22 and 5 degrees beat it."""
    rows, corpus = world(angles)
    retriever = DenseRetriever(Named(angles), side="document")
    mined = Miner([retriever], rules=[]).mine(rows, corpus)
    assert mined.rows[0].negatives == ("close", "near", "mid", "far", "other")
    mined = Miner([retriever], rules=[NegativeRule("absolute", 0.0)]).mine(rows, corpus)
    assert mined.rows[0].negatives == ("far", "other")  # "mid" is as near as the query itself


def test_the_lowest_of_several_positives_sets_the_limit(angles):
    rows = RowSet([Row("q", "near"), Row("q", "mid")])
    _, corpus = world(angles)
    mined = Miner([Named(angles)]).mine(rows, corpus)
    for row in mined.rows:
        assert row.negatives == ("far", "other")


def test_two_encoders_both_have_a_veto(angles):
    """Each judges what the other found, with its own scores."""
    rows, corpus = world(angles)
    second = dict(angles, far=angles["pos"])
    a, b = DenseRetriever(Named(angles), name="a"), DenseRetriever(Named(second), name="b")
    mined = Miner([a, b], teacher="b").mine(rows, corpus)
    assert mined.rows[0].negatives == ("mid", "other")
    scores = [float(second["q"] @ second[name]) for name in ("pos", "mid", "other")]
    np.testing.assert_allclose(mined.rows[0].teacher_scores, scores, atol=1e-6)
    only_a = [NegativeRule("relative", 0.05, scorer="a")]
    assert Miner([a, b], rules=only_a).mine(rows, corpus).rows[0].negatives[-1] == "other"
    assert "far" in Miner([a, b], rules=only_a).mine(rows, corpus).rows[0].negatives


def test_an_index_proposes_and_an_encoder_judges(angles):
    rows, corpus = world(angles)
    index = Listed({"q": {"pos": 9.0, "other": 8.0, "near": 7.0, "far": 6.0}})
    search = SearchRetriever(index, name="words")
    mined = Miner([search], rules=[]).mine(rows, corpus)
    assert mined.rows[0].negatives == ("other", "near", "far")
    both = Miner([search, Named(angles)], rules=[NegativeRule("relative", 0.05, scorer="dense")])
    mined = both.mine(rows, corpus)
    # Rank by rank: "other" leads the first list; "near" and "close" are turned down by the second.
    assert mined.rows[0].negatives == ("other", "far", "mid")
    assert mined.report.found_by == {"words": 2, "dense": 1}
    # Positions are as good as ids, and arrays as good as lists.
    places = {name: place for place, name in enumerate(corpus.ids)}

    class Arrays:
        def search(self, queries, k):
            ids = [places[name] for name in ("pos", "other", "near", "far")] + [-1]
            return np.array([ids] * len(queries)), np.array([[9.0, 8, 7, 6, -np.inf]])

    again = Miner([Arrays()], rules=[]).mine(rows, corpus)
    assert again.rows[0].negatives == ("other", "near", "far")


def test_a_positive_the_index_did_not_return_lets_nothing_pass(angles):
    rows, corpus = world(angles)
    index = Listed({"q": {"other": 8.0, "far": 6.0}})
    with pytest.raises(EmptyInputError, match="relative 0.05"):
        Miner([index]).mine(rows, corpus)
    assert positive_ranks(rows, index, corpus, depth=2).tolist() == [3]


def test_a_cross_encoder_decides_order_and_can_turn_down(angles):
    rows, corpus = world(angles)
    calls = []

    scores = {"pos": 5.0, "mid": 1.0, "far": 4.99, "other": 2.0}

    class Cross:
        def predict(self, pairs):
            calls.extend(pairs)
            return [scores[document] for _, document in pairs]

    mined = Miner([Named(angles)], rescorer=Cross(), teacher="rescorer").mine(rows, corpus)
    assert mined.rows[0].negatives == ("other", "mid")
    assert mined.rows[0].teacher_scores == (5.0, 2.0, 1.0)
    assert len(calls) == len(set(calls)) == 4  # what the encoder turned down is not scored


def test_copies_classes_groups_and_the_anchor_are_never_negatives():
    vectors = {f"t{i}": v for i, v in enumerate(circle(*range(0, 60, 10)))}
    rows = RowSet([Row("t0", "t1", label="c"), Row("t5", "t2", label="c")])
    corpus = Corpus(["t0", "t1", "t1", "t2", "t3", "t4"], groups=[None, "g", None, None, "g", None])
    mined = Miner([Named(vectors)], rules=[]).mine(rows, corpus)
    assert [row.negatives for row in mined.rows] == [("t4",), ("t4", "t3", "t0")]


def test_equal_texts_of_a_corpus_are_one_candidate(angles):
    rows, _ = world(angles)
    corpus = Corpus(["far", "other", "far", "far"])
    mined = Miner([Named(angles)], count=4).mine(rows, corpus)
    assert mined.rows[0].negatives == ("far", "other")
    mined = Miner(
        [Named(angles)],
        rules=[NegativeRule("max-score", -0.9)],
        count=4,
        min_keep=1,
        on_empty="relax",
    ).mine(rows, corpus)
    assert mined.rows[0].negatives == ("other",)
    assert mined.report.relaxed == 1


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000))
def test_random_fill_never_draws_a_positive_or_a_repeat(seed):
    rng = np.random.default_rng(seed)
    rows, names, vectors = grid_world(rng, 4, 9)
    texts = [*names, names[0], names[3]]
    miner = Miner(
        [DenseRetriever(Named(vectors), similarity="dot")],
        window=(1, 4),
        count=3,
        min_keep=3,
        on_empty="random",
        seed=seed,
    )
    try:
        mined = miner.mine(rows, Corpus(texts))
    except EmptyInputError:
        return
    for place, row in zip(mined.kept, mined.rows, strict=True):
        positives = {r.positive for r in rows if r.anchor == row.anchor}
        assert len(row.negatives) == len(set(row.negatives)) == 3
        assert not positives & set(row.negatives)
        label = rows[int(place)].label
        if label is not None:
            same = {r.positive for r in rows if (r.source, r.label) == (row.source, label)}
            assert not same & set(row.negatives)
    assert mined.rows.fingerprint() == miner.mine(rows, Corpus(texts)).rows.fingerprint()


def test_relaxing_takes_the_lowest_of_what_was_turned_down(angles):
    rows, corpus = world(angles)
    strict = [NegativeRule("max-score", 0.0)]
    mined = Miner([Named(angles)], rules=strict, count=3, min_keep=3, on_empty="relax").mine(
        rows, corpus
    )
    assert mined.rows[0].negatives == ("other", "far", "mid")
    assert [kind for kind, _ in json.loads(mined.rows[0].provenance)["mined"]] == [
        "dense", "relaxed", "relaxed",
    ]  # fmt: skip
    assert mined.report.suspects[0].negative == "mid"


def test_random_sampling_depends_on_the_seed_and_on_nothing_else():
    rng = np.random.default_rng(0)
    vectors = {f"{kind}{i}": v for kind in "qd" for i, v in enumerate(rng.normal(size=(300, 8)))}
    rows = RowSet.from_columns([f"q{i}" for i in range(40)], [f"d{i}" for i in range(40)])
    corpus = Corpus([f"d{i}" for i in range(300)])

    def mined(seed, some=rows):
        miner = Miner(
            [Named(vectors)], rules=[], window=(50, 100), sampling="random", count=5, seed=seed
        )
        return miner.mine(some, corpus).rows

    first = mined(0)
    assert first.fingerprint() == mined(0).fingerprint() != mined(1).fingerprint()
    assert mined(0, rows[10:20])[3].negatives == first[13].negatives
    ranks = [rank for row in first for _, rank in json.loads(row.provenance)["mined"]]
    assert min(ranks) >= 50
    assert max(ranks) <= 100
    assert len(set(ranks)) > 40
    for row in first:
        chosen = [rank for _, rank in json.loads(row.provenance)["mined"]]
        assert chosen == sorted(chosen)


def test_dict_inputs_reach_the_model_as_they_are():
    def page(i):
        return {"text": f"page {i}", "image": np.full((2, 2, 3), i, dtype=np.uint8)}

    class Pages:
        def encode(self, inputs):
            assert all(isinstance(item, dict) for item in inputs)
            return circle(*[float(item["image"].mean()) for item in inputs])

    rows = RowSet([Row(page(0), page(10)), Row(page(60), page(70))])
    corpus = Corpus([page(i) for i in (10, 20, 70, 120)])
    mined = Miner([Pages()], count=2).mine(rows, corpus)
    assert [n["text"] for n in mined.rows[0].negatives] == ["page 70", "page 120"]
    assert mined.report.suspects[0].negative.startswith("{text: page")


def test_what_a_row_had_stays_but_its_negatives(angles):
    rows = RowSet([Row("q", "pos", ("near",), source="s", score=0.5, provenance="file 3")])
    mined = Miner([Named(angles)]).mine(rows, world(angles)[1])
    row = mined.rows[0]
    assert replace(row, negatives=(), provenance=None) == replace(
        rows[0], negatives=(), provenance=None
    )
    assert json.loads(row.provenance)["from"] == "file 3"
    assert mined.report.replaced == 1


def test_settings_make_the_same_miner(angles):
    rows, corpus = world(angles)
    chosen = MinerSettings.from_dict(
        {"count": 2, "rules": [{"kind": "absolute", "value": 0.5}], "teacher": "dense"}
    )
    assert MinerSettings.from_dict(chosen.to_dict()) == chosen
    from_settings = Miner.from_settings([Named(angles)], chosen).mine(rows, corpus)
    direct = Miner(
        [Named(angles)], count=2, rules=[NegativeRule("absolute", 0.5)], teacher="dense"
    ).mine(rows, corpus)
    assert from_settings.rows.fingerprint() == direct.rows.fingerprint()
    with pytest.raises(SettingsError, match="rules.0.knd: not a setting here"):
        MinerSettings.from_dict({"rules": [{"knd": "absolute", "value": 0.5}]})


def test_the_default_corpus_is_the_rows_own_positives(angles):
    rows = RowSet([Row("q", "pos", positive_id="A"), Row("near", "far", positive_id="A"),
                   Row("mid", "other")])  # fmt: skip
    mined = Miner([Named(angles)], rules=[]).mine(rows)
    assert [row.negatives for row in mined.rows] == [("other",), ("other",), ("pos", "far")]


def test_bad_input_is_explained(angles):
    rows, corpus = world(angles)
    good = Named(angles)
    with pytest.raises(EmptyInputError, match="at least one retriever"):
        Miner([])
    with pytest.raises(InputError, match="neither encode nor search"):
        Miner([object()])
    with pytest.raises(SettingsError, match="count"):
        Miner([good], count=0)
    with pytest.raises(SettingsError, match="min_keep 3 is more"):
        Miner([good], count=2, min_keep=3)
    with pytest.raises(UnknownNameError, match="Did you mean 'dense'"):
        Miner([good], teacher="dnse")
    with pytest.raises(DuplicateIdError, match="different names"):
        Miner([DenseRetriever(good), DenseRetriever(good)])
    with pytest.raises(EmptyInputError, match="no rows"):
        Miner([good]).mine(RowSet([]))
    with pytest.raises(UnknownNameError, match="'s'"):
        Miner([good], rules=[NegativeRule("absolute", 0.1, sources={"x": 1})]).mine(rows, corpus)
    with pytest.raises(InputError, match="only 6"):
        Miner([good], window=(50, 100)).mine(rows, corpus)
    with pytest.raises(ShapeError, match="truth"):
        Miner([good]).mine(rows, corpus, truth=[])
    with pytest.raises(InputError, match="not an id"):
        Miner([good]).mine(rows, corpus, truth=[["nowhere"]])
    index = Listed({"q": {"other": 1.0}})
    with pytest.raises(InputError, match="cannot score every negative"):
        Miner([index], teacher="search", rules=[]).mine(rows, corpus)
    with pytest.raises(InputError, match="dense retriever"):
        Miner([index], rules=[NegativeRule("document", 0.9)]).mine(rows, corpus)
    with pytest.raises(InputError, match="not an id of the corpus"):
        Miner([Listed({"q": {"elsewhere": 1.0}})], rules=[]).mine(rows, corpus)
    with pytest.raises(InputError, match="another corpus"):
        Miner([Listed({"q": {99: 1.0}})], rules=[]).mine(rows, corpus)
    with pytest.raises(NonFiniteError, match="NaN"):
        Miner([Named(dict(angles, far=np.full(2, np.nan)))]).mine(rows, corpus)
    with pytest.raises(InputError, match="zeros"):
        Miner([Named(dict(angles, far=np.zeros(2)))]).mine(rows, corpus)

    class Cross:
        def predict(self, pairs):
            return [float("nan")] * len(pairs)

    with pytest.raises(NonFiniteError, match="'rescorer' gave NaN"):
        Miner([good], rescorer=Rescorer(Cross())).mine(rows, corpus)
    with pytest.raises(DuplicateIdError):
        Corpus(["a", "b"], ids=["1", "1"])
    with pytest.raises(InputError, match="document 1 of the corpus is empty"):
        Corpus(["a", " "])


@pytest.mark.filterwarnings("error")
def test_dropped_rows_are_counted_in_a_warning(angles):
    rows = RowSet([Row("q", "pos"), Row("other", "near", source="hard")])
    with pytest.warns(DataWarning, match="1 of 2 rows were dropped"):
        mined = Miner([Named(angles)]).mine(rows, world(angles)[1])
    assert mined.report.dropped_by_source == {"hard": 1}
    assert mined.kept.tolist() == [0]
