import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedworks.data.decontamination import decontaminate
from embedworks.data.rows import Row, RowSet
from embedworks.errors import EmptyInputError, InputError, UnknownNameError
from embedworks.index import BM25Index


def rows_of(*anchors):
    return RowSet(Row(a, f"answer number {i} of them all") for i, a in enumerate(anchors))


def removed(anchors, tests, **options):
    return list(decontaminate(rows_of(*anchors), tests, **options)[1].removed)


def test_equal_texts_are_found_whatever_their_case_and_punctuation():
    anchors = ["What is tea?", "what is TEA", "What is tea made of?", "！茶は何ですか？", "?!"]
    tests = ["what   is\ttea!", "茶は何ですか", "", "?!"]
    kept, report = decontaminate(rows_of(*anchors), tests)
    assert [r.anchor for r in kept] == ["What is tea made of?"]
    assert report.removed == (0, 1, 3, 4)
    assert (report.test_texts, report.blank_test_texts) == (3, 1)
    assert report.rules == {"exact": 4}
    hit = report.examples[1]
    assert (hit.row, hit.part, hit.test_index, hit.test_text) == (1, "anchor", 0, tests[0])
    assert json.loads(json.dumps(report.to_dict()))["sources"] == {
        "default": {"rows": 5, "removed": 4}
    }


def slow_ngram(text, tests, n, least):
    words = text.split()
    for test in (t.split() for t in tests):
        if words == test:
            return True
        length = min(n, len(words), len(test))
        if length < n and length < least:
            continue
        for i in range(len(words) - length + 1):
            if any(
                words[i : i + length] == test[j : j + length] for j in range(len(test) - length + 1)
            ):
                return True
    return False


SENTENCE = st.lists(st.sampled_from("abc"), min_size=1, max_size=12).map(" ".join)


@settings(max_examples=150, deadline=None)
@given(
    texts=st.lists(SENTENCE, min_size=1, max_size=6),
    tests=st.lists(SENTENCE, min_size=1, max_size=4),
    n=st.integers(2, 6), least=st.integers(1, 6),
)  # fmt: skip
def test_shared_sequences_equal_a_slow_search(texts, tests, n, least):
    expected = [i for i, t in enumerate(texts) if slow_ngram(t, tests, n, min(least, n))]
    assert removed(texts, tests, method="ngram", ngram=n, min_words=least) == expected


def test_thirteen_words_in_a_row_are_a_leak():
    words = [f"w{i}" for i in range(40)]
    test = " ".join(words)
    anchors = [
        "before " + " ".join(words[5:18]) + " after",
        "before " + " ".join(words[5:17]) + " after",
        " ".join(words[20:26]),
        " ".join(words[20:24]),
    ]
    _, report = decontaminate(rows_of(*anchors), [test], method="ngram")
    assert report.removed == (0, 2)
    assert report.rules == {"ngram": 1, "contained": 1}
    assert report.settings == {"parts": ["anchor", "positive"], "ngram": 13, "min_words": 5}


def test_parts_sources_and_inputs_without_text_are_counted():
    rows = RowSet(
        [
            Row("a", "leak one", source="x"),
            Row("b", "c", ("leak one",), source="x"),
            Row({"image": "i"}, {"text": "Leak one", "image": "j"}, source="y"),
            Row("d", "e", source="y"),
        ]
    )
    kept, report = decontaminate(rows, ["leak one"], max_examples=0)
    assert (len(kept), report.unchecked, report.parts) == (2, 1, {"positive": 2})
    assert report.sources == {"x": {"rows": 2, "removed": 1}, "y": {"rows": 2, "removed": 1}}
    assert report.examples == ()
    assert decontaminate(rows, ["leak one"], parts=["negatives"])[1].removed == (1,)


TESTS = [
    "How do enzymes break down proteins in the stomach?",
    "Which rivers flow through the capital of Hungary?",
    "Why is the sky blue during the day?",
]


def test_bm25_finds_reordered_and_inflected_leaks():
    search = BM25Index.build(TESTS).search
    anchors = [
        "In the stomach, how do enzymes break proteins down?",
        "Which river flows through Hungary's capital?",
        "Why is grass green?",
        "How tall is the tower?",
    ]
    _, report = decontaminate(rows_of(*anchors), TESTS, method="bm25", search=search)
    assert report.removed == (0, 1)
    assert [hit.test_index for hit in report.examples] == [0, 1]
    assert all(0.8 <= hit.score <= 1 for hit in report.examples)
    _, strict = decontaminate(rows_of(*TESTS), TESTS, method="bm25", search=search, threshold=1.0)
    assert strict.removed == (0, 1, 2)


def test_bm25_with_many_equal_and_blank_test_texts():
    tests = ["tea is hot"] * 15 + ["", "rye is cold"]
    search = BM25Index.build(tests).search
    assert removed(["rye is cold", "oats"], tests, method="bm25", search=search) == [0]


def test_a_search_over_other_texts_is_noticed():
    with pytest.raises(InputError, match="does not find test text 0"):
        removed(["a"], TESTS, method="bm25", search=BM25Index.build(TESTS[::-1]).search)
    with pytest.raises(InputError, match="returned id 3 for 2"):
        removed(
            ["a"], ["x", "y"], method="bm25",
            search=lambda queries, k: [(np.array([3]), np.array([1.0]))] * len(queries),
        )  # fmt: skip


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"method": "bm25"}, InputError, "needs `search`"),
        ({"search": lambda q, k: []}, InputError, "by method 'bm25' only"),
        ({"method": "ngrams"}, UnknownNameError, "Did you mean 'ngram'"),
        ({"parts": ["anchr"]}, UnknownNameError, "Did you mean 'anchor'"),
        ({"method": "ngram", "ngram": 1}, InputError, "ngram must be in"),
        ({"threshold": 0.0}, InputError, "threshold must be in"),
    ],
)
def test_unusable_settings_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        decontaminate(rows_of("a"), ["b"], **options)


def test_nothing_to_compare_is_an_error():
    with pytest.raises(EmptyInputError, match="no test texts"):
        decontaminate(rows_of("a"), [" "])
    with pytest.raises(EmptyInputError, match="no rows"):
        decontaminate(RowSet([]), ["a"])
