import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedworks.data import conversion
from embedworks.data.conversion import (
    CONVERTERS,
    GuidedSampling,
    binary_labels,
    claim_evidence,
    class_examples,
    class_names,
    convert,
    graded_pairs,
    multiple_choice,
    nli,
    question_answer,
    read_records,
    title_body,
)
from embedworks.errors import (
    DataWarning,
    EmptyInputError,
    FormatError,
    InputError,
    NotFoundError,
    SettingsError,
    ShapeError,
    UnknownNameError,
)


def texts(labels, column="label"):
    return [{"text": f"text {i} of {c}", column: c} for i, c in enumerate(labels)]


def balanced(report):
    return report.converted + sum(report.skipped.values()) == report.records


# --- reading


def test_records_are_read_alike_from_every_kind_of_source(tmp_path):
    records = [{"a": "x", "b": "1", "c": "p"}, {"a": "y", "b": "2", "c": "q"}]
    table = pa.Table.from_pylist(records)
    pq.write_table(table, tmp_path / "r.parquet")
    (tmp_path / "r.jsonl").write_text("\n".join(json.dumps(r) for r in records))
    (tmp_path / "r.csv").write_text("a,b,c\nx,one,p\ny,two,q\n")
    for source in (records, table, tmp_path / "r.parquet", str(tmp_path / "r.jsonl")):
        assert read_records(source, columns=["a", "b"], where={"c": "q"}) == [{"a": "y", "b": "2"}]
    assert read_records(tmp_path / "r.csv", columns=["b"], where={"a": ["x", "z"]}) == [
        {"b": "one"}
    ]
    assert read_records(records) == records


def test_damaged_records_are_counted(tmp_path):
    (tmp_path / "r.jsonl").write_text('{"a": 1}\n{"a": \n')
    with pytest.warns(DataWarning, match="1 damaged records were left out, the first in row 2"):
        assert read_records(tmp_path / "r.jsonl") == [{"a": 1}]


def test_unreadable_records_are_named(tmp_path):
    (tmp_path / "r.parquet").write_bytes(b"PAR1 half")
    (tmp_path / "r.doc").write_text("x")
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "good.parquet")
    for source, error, message in [
        (tmp_path / "none.parquet", NotFoundError, "does not exist"),
        (tmp_path / "r.parquet", FormatError, "not a readable Parquet"),
        (tmp_path / "r.doc", FormatError, "is not a .parquet"),
        (tmp_path / "good.parquet", InputError, "no column 'txet'. Did you mean 'text'"),
        ([{"text": "a"}], InputError, "no column 'txet'. Did you mean 'text'"),
        (pa.table({"text": ["a"]}), InputError, "no column 'txet'"),
        ([], EmptyInputError, "no records"),
        ([["a"]], InputError, "record 0 must be a dict"),
        ({"txet": "a"}, InputError, "list of dicts"),
    ]:
        with pytest.raises(error, match=message):
            read_records(source, columns=["txet"])
    with pytest.raises(EmptyInputError, match="where="):
        read_records([{"a": 1}], where={"a": 2})


def test_converters_are_chosen_by_name_and_their_options_checked():
    rows, _ = convert(texts("aabb"), "class_examples", num_negatives=1)
    assert len(rows) == 4
    with pytest.raises(UnknownNameError, match="Did you mean 'class_names'"):
        convert([], "class_nmes")
    with pytest.raises(SettingsError, match="Did you mean 'label'"):
        convert(texts("ab"), "class_examples", labl="x")
    for name in CONVERTERS:
        assert CONVERTERS[name] is getattr(conversion, name)


# --- classes


@settings(max_examples=60, deadline=None)
@given(
    labels=st.lists(st.sampled_from("abcd"), min_size=2, max_size=40),
    count=st.integers(0, 6),
    seed=st.integers(0, 5),
    guided=st.sampled_from([None, "uniform", "least_similar", "softmax"]),
)
def test_class_examples_keep_to_their_classes(labels, count, seed, guided):
    records = texts(labels)
    sizes = {c: labels.count(c) for c in labels}
    usable = [c for c in sizes if sizes[c] > 1]
    guide = None
    if guided:
        vectors = np.random.default_rng(0).normal(size=(len(labels), 3))
        guide = GuidedSampling(vectors, positive_topk=2, negatives=guided, negative_topk=3)

    def run():
        return class_examples(records, num_negatives=count, seed=seed, guide=guide)

    if not usable:
        with pytest.raises(EmptyInputError, match="class has one member"):
            run()
        return
    if len(usable) == 1 and count:
        with pytest.raises(InputError, match="one usable class"):
            run()
        return
    rows, report = run()
    kept = [i for i, c in enumerate(labels) if sizes[c] > 1]
    assert [row.anchor for row in rows] == [records[i]["text"] for i in kept]
    of = {r["text"]: r["label"] for r in records}
    for row in rows:
        assert of[row.positive] == row.label == of[row.anchor]
        assert row.positive != row.anchor
        assert all(of[n] != row.label for n in row.negatives)
        assert len(set(row.negatives)) == len(row.negatives)
        others = sum(sizes[c] for c in usable if c != row.label)
        pool = min(others, 3) if guided == "least_similar" else others
        assert len(row.negatives) == min(count, pool)
    assert balanced(report)
    assert report.skipped.get("class has one member", 0) == len(labels) - len(kept)
    assert run()[0].fingerprint() == rows.fingerprint()


def test_class_examples_draw_every_partner():
    records = texts("aaab" * 2)
    seen = set()
    for seed in range(40):
        rows, _ = class_examples(records, num_negatives=1, seed=seed)
        seen |= {(rows[0].positive, rows[0].negatives[0])}
    assert len(seen) == 5 * 2


def test_texts_that_are_repeated_or_have_two_labels_are_counted():
    records = [*texts("aabb"), texts("a")[0], {"text": "both", "label": "a"}]
    records += [{"text": "both", "label": "b"}, {"text": " ", "label": "a"}]
    records += [{"text": "x", "label": None}, {"text": "y", "label": float("nan")}]
    rows, report = class_examples(records, num_negatives=9, fewer="keep")
    assert len(rows) == 4
    assert report.skipped == {
        "duplicate": 1, "text has several labels": 2, "empty text": 1, "no label": 2,
    }  # fmt: skip
    assert report.first == {
        "duplicate": 4, "text has several labels": 5, "empty text": 7, "no label": 8,
    }  # fmt: skip
    assert balanced(report)
    assert report.to_dict()["sources"] == {"default": 4}
    assert rows[0].provenance == "class_examples:0"


def test_sources_do_not_mix():
    records = [
        {"text": f"{s}{c}{i}", "label": c, "set": s} for s in "xy" for c in "ab" for i in "12"
    ]
    rows, report = class_examples(records, source_column="set", num_negatives=2)
    assert report.sources == {"x": 4, "y": 4}
    assert all(t[0] == r.source for r in rows for t in (r.anchor, r.positive, *r.negatives))
    with pytest.raises(InputError, match="record 0 has no source"):
        class_examples([{"text": "a", "label": "b", "set": None}], source_column="set")


def test_guided_sampling_prefers_near_positives_and_far_negatives():
    angles = np.deg2rad([0, 5, 60, 100, 180, 90])
    vectors = np.c_[np.cos(angles), np.sin(angles)]
    guide = GuidedSampling(vectors, negatives="least_similar", negative_topk=1)
    rows, _ = class_examples(texts("aaabbb"), num_negatives=1, guide=guide)
    assert rows[0].positive == "text 1 of a"
    assert rows[0].negatives == ("text 4 of b",)
    asked = []

    def encode(given):
        asked.extend(given)
        return vectors[: len(given)]

    class_examples(texts("aaabbb"), num_negatives=1, guide=GuidedSampling(encode))
    assert asked == [r["text"] for r in texts("aaabbb")]
    with pytest.raises(ShapeError, match="one vector per record: 6"):
        class_examples(texts("aaabbb"), guide=GuidedSampling(vectors[:4]))
    with pytest.raises(InputError, match="vectors are zero"):
        class_examples(texts("aaabbb"), guide=GuidedSampling(vectors * 0))


def test_class_names_are_positives_and_wrong_names_negatives():
    rows, report = class_names(texts("abca"), num_negatives=None)
    assert (rows[0].positive, set(rows[0].negatives)) == ("a", {"b", "c"})
    assert {r.label for r in rows} == {"a", "b", "c"}
    assert balanced(report)
    rows, _ = class_names(texts([0, 1]), names={0: "no", 1: "yes", 2: "maybe"}, num_negatives=1)
    assert rows[0].positive == "no"
    assert len(rows[0].negatives) == 1


@pytest.mark.parametrize(
    ("labels", "names", "message"),
    [
        ("aa", None, "at least two labels, got 1"),
        ([1, 2], None, "are numbers"),
        ([1, 2], {1: "x"}, "label '2' has no name"),
        ([1, 2], {1: "x", 2: "x"}, "same name"),
    ],
)
def test_unusable_class_names_are_refused(labels, names, message):
    with pytest.raises(InputError, match=message):
        class_names(texts(labels), names=names)


def test_binary_labels_need_two():
    rows, _ = binary_labels(texts([True, False]), names={True: "toxic", False: "fine"})
    assert [(r.positive, r.negatives) for r in rows] == [
        ("toxic", ("fine",)), ("fine", ("toxic",)),
    ]  # fmt: skip
    with pytest.raises(InputError, match="two labels, got 3"):
        binary_labels(texts("abc"))


# --- judged pairs

NLI = [
    {"premise": p, "hypothesis": h, "label": label}
    for p, h, label in [
        ("p", "yes", "entailment"), ("p", "also", "Entailment"), ("p", "no", "contradiction"),
        ("p", "maybe", "neutral"), ("q", "never", "contradiction"), ("q", "x", "-"),
        ("r", "so", "entailment"), ("p", "no", "contradiction"), ("s", "s", "entailment"),
        ("", "t", "neutral"), ("u", "v", None),
    ]
]  # fmt: skip


def test_nli_triplets_join_the_hypotheses_of_a_premise():
    rows, report = nli(NLI)
    assert [(r.anchor, r.positive, r.negatives) for r in rows] == [
        ("p", "yes", ("no",)), ("p", "also", ("no",)), ("r", "so", ()),
    ]  # fmt: skip
    assert report.converted == 4
    assert report.skipped == {
        "neutral": 1, "contradiction without positive": 1, "no label": 2, "duplicate": 1,
        "positive equals anchor": 1, "empty premise": 1,
    }  # fmt: skip
    assert balanced(report)
    assert len(nli(NLI, num_negatives=1, fewer="drop")[0]) == 2


def test_nli_scores_follow_the_labels():
    rows, report = nli(NLI, form="scores")
    assert [r.score for r in rows] == [2, 2, 0, 1, 0, 2, 2]
    assert balanced(report)
    assert len(nli(NLI, form="scores", symmetric=True)[0]) == 13  # "s", "s" has one order
    numbers = [{"premise": "a", "hypothesis": "b", "label": 0}, {**NLI[0], "label": -1}]
    with pytest.raises(InputError, match="record 0: label '0' is not one of"):
        nli(numbers)
    rows, report = nli(numbers, labels={0: "entailment", 1: "neutral"}, form="scores")
    assert rows[0].score == 2
    assert report.skipped == {"no label": 1}
    with pytest.raises(InputError, match="direction"):
        nli(NLI, symmetric=True)
    with pytest.raises(InputError, match="no negatives"):
        nli(NLI, form="scores", num_negatives=1)
    with pytest.raises(UnknownNameError, match="form 'score'"):
        nli(NLI, form="score")


def pair(a, b, score):
    return {"sentence1": a, "sentence2": b, "score": score}


def test_graded_pairs_keep_scores_or_become_positives():
    records = [pair("a", "b", 4.0), pair("c", "d", 3.9), pair("e", "e", 5), pair("b", "a", 4.0)]
    rows, report = graded_pairs(records)
    assert [(r.anchor, r.positive, r.score) for r in rows] == [
        ("a", "b", 4.0), ("b", "a", 4.0), ("c", "d", 3.9), ("d", "c", 3.9), ("e", "e", 5.0),
    ]  # fmt: skip
    assert report.skipped == {"duplicate": 1}
    rows, report = graded_pairs(records, threshold=4)
    assert [(r.anchor, r.positive, r.score) for r in rows] == [("a", "b", None), ("b", "a", None)]
    assert report.skipped == {
        "score below threshold": 1, "positive equals anchor": 1, "duplicate": 1,
    }  # fmt: skip
    assert balanced(report)
    assert len(graded_pairs(records[:2], symmetric=False)[0]) == 2


def test_unusable_scores_are_named():
    with pytest.raises(InputError, match=r"record 1: score 70 is outside"):
        graded_pairs([pair("a", "b", 3), pair("c", "d", 70)], score_range=(0, 5))
    with pytest.raises(InputError, match="record 0: score must be a number"):
        graded_pairs([pair("a", "b", "high")])
    with pytest.raises(EmptyInputError, match="2 x no score"):
        graded_pairs([pair("a", "b", None), pair("c", "d", float("nan"))])


def test_claims_take_refuting_evidence_as_negatives():
    records = [
        {"claim": "c", "evidence": e, "label": label}
        for e, label in [("for", "SUPPORTS"), ("no", "REFUTES"), ("?", "NOT ENOUGH INFO")]
    ] + [{"claim": "d", "evidence": "no", "label": "CONTRADICT"}]
    rows, report = claim_evidence(records)
    assert [(r.positive, r.negatives) for r in rows] == [("for", ("no",))]
    assert report.skipped == {"neutral": 1, "refute without positive": 1}
    rows, report = claim_evidence(records, num_negatives=0)
    assert report.skipped["more refute than wanted"] == 1
    assert balanced(report)


# --- questions


def test_multiple_choice_reads_every_form_of_answer():
    for answer in (1, [1], "B", "b", "two"):
        rows, _ = multiple_choice(
            [{"question": "q", "choices": ["one", "two", "three"], "answer": answer}]
        )
        assert (rows[0].positive, rows[0].negatives) == ("two", ("one", "three"))
    rows, report = multiple_choice(
        [{"question": "q", "choices": ["x", "y", "x", "", "z"], "answer": [0, 4]}]
    )
    assert [(r.positive, r.negatives) for r in rows] == [("x", ("y",)), ("z", ("y",))]
    assert report.notes == {"wrong answers that are repeated or equal a right one": 1}


@pytest.mark.parametrize("answer", [2, -1, "C", "none of it", True, 0.5])
def test_answers_outside_the_choices_are_named(answer):
    with pytest.raises(InputError, match="record 0: answer"):
        multiple_choice([{"question": "q", "choices": ["x", "y"], "answer": answer}])


def test_negatives_are_filled_up_trimmed_or_the_row_dropped():
    records = [
        {"question": "q", "choices": list("abcd"), "answer": 0},
        {"question": "r", "choices": list("ab"), "answer": 1},
    ]

    def counts(**options):
        rows, report = multiple_choice(records, num_negatives=2, **options)
        assert balanced(report)
        return [len(r.negatives) for r in rows]

    assert counts() == [2, 1]
    assert counts(fewer="repeat") == [2, 2]
    assert counts(fewer="drop") == [2]
    drawn = {multiple_choice(records, num_negatives=1, seed=s)[0][0].negatives for s in range(20)}
    assert drawn == {("b",), ("c",), ("d",)}
    with pytest.raises(InputError, match="needs num_negatives"):
        multiple_choice(records, fewer="drop")
    with pytest.raises(InputError, match="0 or greater"):
        multiple_choice(records, num_negatives=-1)
    with pytest.raises(UnknownNameError, match="'keep'"):
        multiple_choice(records, fewer="kep")


def test_answers_bring_negatives_and_documents():
    records = [
        {"question": "q", "answer": ["a", "b"], "bad": ["c", "a", None], "doc": 3},
        {"question": "r", "answer": [], "bad": None, "doc": None},
        {"question": "s", "answer": {"text": "t", "image": "i.png"}, "bad": "u", "doc": "x"},
    ]
    rows, report = question_answer(records, negatives="bad", positive_id="doc")
    assert [(r.positive, r.negatives, r.positive_id) for r in rows] == [
        ("a", ("c",), "3"), ("b", ("c", "a"), "3"), (records[2]["answer"], ("u",), "x"),
    ]  # fmt: skip
    assert report.skipped == {"empty answer": 1}
    assert report.notes == {"negatives equal to anchor or positive": 1}
    with pytest.raises(InputError, match="record 0: answer must be a text or a dict"):
        question_answer([{"question": "q", "answer": 3}])


def test_titles_leave_their_bodies():
    records = [
        {"title": "Tea", "body": "Tea.\nA hot drink made of leaves"},
        {"title": "Teapot", "body": "Teapots hold tea"},
        {"title": "Cup", "body": "Cup"},
        {"title": "Spoon", "body": None},
    ]
    rows, report = title_body(records, max_chars=12)
    assert [r.positive for r in rows] == ["A hot drink", "Teapots hold"]
    assert report.skipped == {"body is the title": 1, "empty body": 1}
    assert report.notes == {"bodies that began with the title": 2, "bodies shortened": 2}
    with pytest.raises(InputError, match="must be texts"):
        title_body([{"title": "a", "body": {"text": "b"}}])


# --- real data


@pytest.mark.parametrize(
    ("file", "name", "where", "options", "lost"),
    [
        (
            "text_classification", "class_examples", {"dataset": ["banking77", "trec_qc"]},
            {"source_column": "dataset"},
            {"duplicate", "text has several labels", "class has one member"},
        ),
        (
            "text_classification", "class_names", {"dataset": "clinc150"},
            {"num_negatives": 4},
            {"duplicate", "text has several labels", "positive equals anchor"},
        ),
        (
            "sts_sick", "graded_pairs", None,
            {"source_column": "dataset", "score_range": (0, 5)}, {"duplicate"},
        ),
        (
            "sts_sick", "nli", {"dataset": "sick2014"},
            {"premise": "sentence1", "hypothesis": "sentence2", "label": "entailment",
             "form": "scores"}, {"duplicate"},
        ),
        (
            "stsb_multi", "graded_pairs", {"lang": ["en", "zh"]},
            {"threshold": 4.0, "source_column": "lang"},
            {"duplicate", "score below threshold", "positive equals anchor"},
        ),
        (
            "reasoning_mcr", "multiple_choice", None,
            {"question": "query", "answer": "labels", "source_column": "dataset"}, {"duplicate"},
        ),
        (
            "xquad", "question_answer", None,
            {"answer": "context", "positive_id": "passage_id", "source_column": "lang"},
            {"duplicate"},
        ),
        ("gsm8k", "question_answer", None, {}, {"duplicate"}),
    ],
)  # fmt: skip
def test_public_data_sets_are_accounted_for(data_root, file, name, where, options, lost):
    path = data_root / f"{file}.parquet"
    if not path.is_file():
        pytest.skip(f"{file}.parquet is not in the optional data folder")
    rows, report = convert(path, name, where=where, **options)
    assert balanced(report)
    assert set(report.skipped) <= lost
    assert sum(report.sources.values()) == len(rows) == report.rows
    assert report.records == len(read_records(path, where=where))
    if "threshold" not in options:  # what is lost are the repeats the files really have
        assert report.converted >= 0.97 * report.records
