import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedworks.data._near_pairs import Bands, ShingleSets, signatures
from embedworks.data.near_duplicates import find_near_duplicates, remove_near_duplicates
from embedworks.data.rows import Row, RowSet
from embedworks.errors import EmptyInputError, InputError, UnknownNameError


def shingles(text, size):
    words = text.split()
    if len(words) < size:
        return {(len(words), *words)}
    return {tuple(words[i : i + size]) for i in range(len(words) - size + 1)}


def similarity(a, b, size):
    a, b = shingles(a, size), shingles(b, size)
    return len(a & b) / len(a | b)


def slow_leaders(texts, threshold, size):
    kept, leaders = [], []
    for i, text in enumerate(texts):
        near = [j for j in kept if similarity(text, texts[j], size) >= threshold - 1e-12]
        leaders.append(near[0] if near else i)
        if not near:
            kept.append(i)
    return leaders


SENTENCE = st.lists(st.sampled_from("abcd"), min_size=1, max_size=9).map(" ".join)


@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(SENTENCE, min_size=1, max_size=14), size=st.integers(1, 3),
    threshold=st.sampled_from([0.5, 0.75, 0.8, 1.0]), seed=st.integers(0, 3),
)  # fmt: skip
def test_what_is_removed_was_verified(texts, size, threshold, seed):
    leaders = find_near_duplicates(texts, threshold=threshold, shingle=size, seed=seed)
    for i, j in enumerate(leaders):
        assert j <= i
        assert leaders[j] == j
        assert i == j or similarity(texts[i], texts[j], size) >= threshold - 1e-12
    again = find_near_duplicates(texts, threshold=threshold, shingle=size, seed=seed)
    np.testing.assert_array_equal(leaders, again)


@pytest.mark.parametrize("small_bucket", [64, 1])
def test_all_near_duplicates_are_found_as_by_comparing_all_pairs(monkeypatch, small_bucket):
    monkeypatch.setattr("embedworks.data._near_pairs._SMALL_BUCKET", small_bucket)
    rng = np.random.default_rng(0)
    texts = []
    for _ in range(60):
        words = [f"w{i}" for i in rng.integers(0, 50, size=rng.integers(5, 30))]
        for _ in range(rng.integers(1, 5)):
            texts.append(" ".join(words))
            words[rng.integers(len(words))] = f"x{rng.integers(1000)}"
    leaders = find_near_duplicates(texts, threshold=0.6, recall=0.999999, shingle=2)
    assert leaders.tolist() == slow_leaders(texts, 0.6, 2)
    assert len(set(leaders)) < len(texts)


def test_chains_do_not_remove_what_differs_from_all_that_is_kept():
    words = [f"w{i}" for i in range(40)]
    texts = [" ".join(words[i : i + 24]) for i in (0, 2, 4)]
    assert similarity(texts[0], texts[1], 3) >= 0.8 > similarity(texts[0], texts[2], 3)
    kept, report = remove_near_duplicates(texts)
    assert kept == [texts[0], texts[2]]
    assert report.removed == {1: 0}
    assert report.cluster_sizes == {2: 1}


def test_the_report_counts_and_shows():
    texts = ["Tea is hot.", "tea IS hot", "rye bread", "tea is hot!", "one two three four five"]
    kept, report = remove_near_duplicates(texts, max_examples=1)
    assert kept == [texts[0], texts[2], texts[4]]
    assert (report.items, report.kept, report.equal) == (5, 3, 2)
    assert report.cluster_sizes == {3: 1}
    assert report.examples[0]["similarity"] == 1.0
    assert len(report.examples) == 1
    values = json.loads(json.dumps(report.to_dict()))
    assert values["removed"] == [[1, 0], [3, 0]]
    assert values["detection"] > 0.999


def test_rows_are_compared_by_part():
    passage = "the kettle boils water for the tea of the whole house every day"
    rows = RowSet(
        [
            Row("who boils the water now", passage, source="x"),
            Row("where is the tea kept then", passage, source="x"),
            Row("Who boils the water, now?", passage + ".", source="y"),
            Row("who boils the water now", "nobody does any more in this house", source="y"),
        ]
    )
    kept, report = remove_near_duplicates(rows)
    assert list(kept) == [rows[0], rows[1], rows[3]]
    assert report.sources == {"x": {"rows": 2, "removed": 0}, "y": {"rows": 2, "removed": 1}}
    assert list(remove_near_duplicates(rows, part="anchor")[1].removed) == [2, 3]
    assert list(remove_near_duplicates(rows, part="positive")[1].removed) == [1, 2]
    with pytest.raises(InputError, match="row 0 has no text in its anchor"):
        remove_near_duplicates(RowSet([Row({"image": "i"}, "b")]))


def test_signatures_agree_as_often_as_sets_overlap():
    words = [f"w{i}" for i in range(60)]
    sets = ShingleSets.of([words[:45], words[15:]], 1)
    table = signatures(sets, np.arange(2), 4096, np.random.default_rng(0))
    assert sets.jaccard(np.array([0]), np.array([1]))[0] == 0.5
    assert abs((table[0] == table[1]).mean() - 0.5) < 5 * np.sqrt(0.25 / 4096)


def test_bands_reach_the_recall_with_the_fewest_candidates():
    bands = Bands.choose(0.8, 128, 0.999)
    assert bands.detection(0.8) >= 0.999
    longer = Bands(128 // (bands.rows + 1), bands.rows + 1, 0.8)
    assert longer.detection(0.8) < 0.999
    assert bands.detection(0.8) == pytest.approx(1 - (1 - 0.8**bands.rows) ** bands.count)
    with pytest.raises(InputError, match="raise permutations"):
        Bands.choose(0.1, 4, 0.999)


def test_unusable_input_is_refused():
    with pytest.raises(InputError, match=r"texts\[1\] is empty"):
        remove_near_duplicates(["a", " "])
    with pytest.raises(EmptyInputError, match="nothing"):
        remove_near_duplicates([])
    with pytest.raises(UnknownNameError, match="Did you mean 'anchor'"):
        remove_near_duplicates(RowSet([Row("a", "b")]), part="anchr")
    with pytest.raises(InputError, match="threshold must be in"):
        remove_near_duplicates(["a"], threshold=0)


def test_real_texts_take_seconds(data_root):
    import pyarrow.parquet as pq

    path = data_root / "text_classification.parquet"
    if not path.is_file():
        pytest.skip("text_classification.parquet is not in the optional data folder")
    texts = pq.read_table(path, columns=["text"])["text"].to_pylist()[:20_000]
    kept, report = remove_near_duplicates(texts)
    assert len(kept) == report.kept == len(texts) - len(report.removed)
    assert min(e["similarity"] for e in report.examples) >= 0.8
