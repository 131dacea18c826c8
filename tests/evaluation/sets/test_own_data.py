"""Own files become tasks, or an error that says what was found."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedworks.errors import (
    DataWarning,
    DuplicateIdError,
    EmbedworksError,
    EmptyInputError,
    FormatError,
    InputError,
    NotFoundError,
    UnknownNameError,
)
from embedworks.evaluation import LexicalSystem, Resampling
from embedworks.evaluation.sets.own_data import load_collection, load_tasks


def jsonl(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def parquet(path, records):
    pq.write_table(pa.Table.from_pylist(records), path)
    return path


@pytest.fixture
def beir(tmp_path):
    folder = tmp_path / "tea"
    documents = [
        {"_id": "007", "title": "Tea", "text": "Boil the water.", "metadata": {}},
        {"_id": "8", "title": "", "text": "Trains leave at nine.", "metadata": {}},
    ]
    jsonl(folder / "corpus.jsonl", documents)
    jsonl(
        folder / "queries.jsonl",
        [{"_id": "a", "text": "how to make tea"}, {"_id": "b", "text": "trains"}],
    )
    (folder / "qrels").mkdir()
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\na\t007\t1\nb\t8\t2\n")
    (folder / "qrels" / "dev.tsv").write_text("query-id\tcorpus-id\tscore\na\t007\t1\n")
    return folder


def test_beir_folder(beir):
    (task,) = load_tasks(beir)
    assert (task.name, task.kind) == ("tea", "retrieval")
    assert task.corpus == {"007": "Tea Boil the water.", "8": "Trains leave at nine."}
    assert task.qrels == {"a": {"007": 1}, "b": {"8": 2}}
    assert task.run(LexicalSystem(), Resampling()).main.interval.mean == 1.0
    (dev,) = load_tasks(beir, split="dev", name="mine", instruction="Find it.")
    assert (dev.name, dev.judged_queries, dev.instruction) == ("mine", ("a",), "Find it.")
    with pytest.raises(InputError, match=r"'dev', 'test' and not for 'train'.*--split dev"):
        load_tasks(beir, split="train")


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_three_files_of_each_format(tmp_path, suffix):
    tables = {
        "corpus": [{"doc_id": "007", "text": "A cat."}, {"doc_id": "2", "text": "A dog, or two."}],
        "queries": [{"query_id": "01", "text": "cat"}],
        "qrels": [{"query_id": "01", "doc_id": "007", "relevance": 1}],
    }
    for name, records in tables.items():
        path = tmp_path / f"{name}.{suffix}"
        if suffix == "jsonl":
            jsonl(path, records)
        elif suffix == "parquet":
            parquet(path, records)
        else:
            mark = "," if suffix == "csv" else "\t"
            lines = [mark.join(records[0])]
            lines += [mark.join(f'"{value}"' for value in record.values()) for record in records]
            path.write_text("\n".join(lines) + "\n")
    (task,) = load_tasks(tmp_path, name="x")
    assert task.queries == {"01": "cat"}
    assert task.corpus == {"007": "A cat.", "2": "A dog, or two."}
    assert task.qrels == {"01": {"007": 1}}
    files = [tmp_path / f"{name}.{suffix}" for name in tables]
    assert load_collection(*files, name="x") == task


def test_collection_mistakes(beir):
    corpus = (beir / "corpus.jsonl").read_text()
    (beir / "corpus.jsonl").write_text(corpus + corpus)
    with pytest.raises(DuplicateIdError, match="'007' occurs again in row 3"):
        load_tasks(beir)
    (beir / "corpus.jsonl").write_text(corpus + '{"_id": "9", "text": " "}\n')
    with pytest.warns(DataWarning, match="1 of 3 documents have no text"):
        assert len(load_tasks(beir)[0].corpus) == 3
    (beir / "corpus.jsonl").write_text('{"_id": "9", "words": "x"}\n')
    with pytest.raises(InputError, match=r"needs a text in a column named text.*'words'"):
        load_tasks(beir)
    (beir / "corpus.jsonl").write_text("")
    with pytest.raises(EmptyInputError, match="no rows"):
        load_tasks(beir)
    (beir / "corpus.jsonl").unlink()
    with pytest.raises(InputError, match=r"has no corpus.*qrels, queries\.jsonl"):
        load_tasks(beir)


def test_pairs_make_a_search_of_all_documents(tmp_path):
    path = tmp_path / "faq.csv"
    path.write_text(
        "query,document\nlost key,Ask the porter.\nopen,At nine.\nopen,Not on Sunday.\n"
    )
    (task,) = load_tasks(path)
    assert task.kind == "retrieval"
    assert task.qrels == {"q1": {"d1": 1}, "q2": {"d2": 1, "d3": 1}}
    path.write_text("query,document\nlost key,Ask.\nlost key,Ask.\n,At nine.\n")
    with pytest.warns(DataWarning) as caught:
        (task,) = load_tasks(path)
    said = " ".join(str(warning.message) for warning in caught)
    assert "1 pairs occur again" in said
    assert "1 with empty query" in said
    assert task.queries == {"q1": "lost key"}


def test_wrong_documents_make_a_reranking(tmp_path):
    records = [
        {"anchor": "a", "positive": "A", "negative_1": "X", "negative_2": "Y"},
        {"anchor": "b", "positive": "B", "negative_1": "A", "negative_2": ""},
    ]
    (task,) = load_tasks(jsonl(tmp_path / "t.jsonl", records))
    assert task.kind == "reranking"
    assert task.corpus == {"d1": "A", "d2": "X", "d3": "Y", "d4": "B"}
    assert task.candidates == {"q1": ["d1", "d2", "d3"], "q2": ["d4", "d1"]}
    (task,) = load_tasks(tmp_path / "t.jsonl", kind="retrieval")
    assert task.candidates is None
    listed = [{"anchor": "a", "positive": "A", "negatives": ["X", "Y"]}]
    (task,) = load_tasks(jsonl(tmp_path / "l.jsonl", listed))
    assert task.candidates == {"q1": ["d1", "d2", "d3"]}
    graded = [
        {"query": "a", "document": "A", "relevance": 2},
        {"query": "a", "document": "B", "relevance": 0},
    ]
    (task,) = load_tasks(jsonl(tmp_path / "g.jsonl", graded))
    assert (task.kind, task.qrels) == ("reranking", {"q1": {"d1": 2, "d2": 0}})
    with pytest.raises(InputError, match="right documents only"):
        load_tasks(jsonl(tmp_path / "p.jsonl", graded[:1]), kind="reranking")
    graded[1]["relevance"] = -1
    with pytest.raises(InputError, match="row 2 must be a whole number of at least 0"):
        load_tasks(jsonl(tmp_path / "g.jsonl", graded))


def test_scored_and_labelled_pairs(tmp_path):
    path = tmp_path / "s.tsv"
    path.write_text("sentence1\tsentence2\tscore\n1\tb\t0.5\nc\td\t3\ne\tf\t\n")
    with pytest.warns(DataWarning, match="1 with no score"):
        (task,) = load_tasks(path)
    assert (task.kind, task.pairs) == ("sts", [("1", "b", 0.5), ("c", "d", 3.0)])
    path.write_text("sentence1\tsentence2\tscore\na\tb\thigh\nc\td\tlow\n")
    with pytest.raises(InputError, match="score in row 1 must be a number, got str 'high'"):
        load_tasks(path)
    path.write_text("sentence1\tsentence2\tlabel\na\tb\ttrue\nc\td\t0\n")
    (task,) = load_tasks(path)
    assert (task.kind, task.pairs) == ("pair-classification", [("a", "b", 1), ("c", "d", 0)])
    path.write_text("sentence1\tsentence2\tlabel\tscore\na\tb\t1\t3\nc\td\t0\t1\n")
    with pytest.raises(InputError, match=r"could be several things \(sts: .*--kind sts"):
        load_tasks(path)
    assert load_tasks(path, kind="sts")[0].kind == "sts"


def test_labelled_texts(tmp_path):
    rows = [(f"text {i}", "ab"[i % 2], "train" if i < 6 else "test") for i in range(12)]
    path = tmp_path / "mail.csv"
    path.write_text("text,label,split\n" + "".join(",".join(row) + "\n" for row in rows))
    classification, clustering = load_tasks(path)
    assert (classification.name, clustering.name) == ("mail-classification", "mail-clustering")
    assert len(classification.train) == len(classification.test) == 6
    assert len(clustering.texts()) == 6
    (only,) = load_tasks(path, kind="classification")
    assert only.name == "mail"
    path.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label, _ in rows))
    halves = load_tasks(path)[0]
    assert not set(halves.train) & set(halves.test)
    assert sorted(label for _, label in halves.test) == ["a"] * 3 + ["b"] * 3
    path.write_text("text,label\nx,a\ny,a\n")
    with pytest.raises(InputError, match="label"):
        load_tasks(path)


def test_train_and_test_files(tmp_path):
    for part, count in (("train", 8), ("test", 4)):
        records = [{"text": f"{part} {i}", "label": "ab"[i % 2]} for i in range(count)]
        jsonl(tmp_path / "mail" / f"{part}.jsonl", records)
    task = load_tasks(tmp_path / "mail")[0]
    assert (task.name, len(task.train), len(task.test)) == ("mail-classification", 8, 4)


def test_multiple_choice(tmp_path):
    records = [
        {"question": "2 + 2?", "choices": ["3", "4", "5"], "answer": "4"},
        {"question": "1 + 4?", "choices": ["3", "4", "5"], "answer": 2},
        {"question": "1 + 2?", "choices": '["3", "4", "5"]', "answer": "A"},
    ]
    full, own = load_tasks(jsonl(tmp_path / "sums.jsonl", records))
    assert (full.name, full.kind, own.name, own.kind) == (
        "sums", "retrieval", "sums-own", "reranking",
    )  # fmt: skip
    right = [full.corpus[next(iter(full.qrels[query]))] for query in full.judged_queries]
    assert right == ["4", "5", "3"]
    records[0]["answer"] = "seven"
    with pytest.raises(InputError, match="answer in row 1 must be a choice"):
        load_tasks(jsonl(tmp_path / "sums.jsonl", records))


def test_saved_data_sets(tmp_path):
    datasets = pytest.importorskip("datasets")
    labels = datasets.ClassLabel(names=["spam", "mail"])
    features = datasets.Features({"text": datasets.Value("string"), "label": labels})
    rows = {"text": [f"t{i}" for i in range(8)], "label": [0, 1] * 4}
    part = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict({"train": part, "test": part}).save_to_disk(tmp_path / "mail")
    task = load_tasks(tmp_path / "mail")[0]
    assert (len(task.train), task.test[0]) == (8, ("t0", "spam"))
    pairs = datasets.Dataset.from_dict({"query": ["a"], "document": ["A"]})
    pairs.save_to_disk(tmp_path / "pairs")
    assert load_tasks(tmp_path / "pairs")[0].corpus == {"d1": "A"}
    (tmp_path / "pairs" / "dataset_info.json").write_text("{")
    with pytest.raises(FormatError, match="not a readable data set"):
        load_tasks(tmp_path / "pairs")


def test_a_folder_of_several(beir, tmp_path):
    (tmp_path / "similar.csv").write_text("sentence1,sentence2,score\na,b,1\nc,d,2\n")
    (tmp_path / "notes.md").write_text("Nothing to see.")
    assert [task.name for task in load_tasks(tmp_path)] == ["similar", "tea"]
    assert [task.name for task in load_tasks(tmp_path, name="my")] == ["my-similar", "my-tea"]


def test_own_column_names(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("ask,reply\n1,one\n2,two\n")
    with pytest.raises(InputError, match=r"'ask', 'reply', which fit no kind.*--column"):
        load_tasks(path)
    with pytest.raises(InputError, match=r"cannot be read as retrieval.*no query and no document"):
        load_tasks(path, kind="retrieval")
    (task,) = load_tasks(path, columns={"query": "ask", "document": "reply"})
    assert task.queries == {"q1": "1", "q2": "2"}
    with pytest.raises(InputError, match=r"no column 'aks'.*'ask'"):
        load_tasks(path, columns={"query": "aks"})
    with pytest.raises(UnknownNameError, match="'query'"):
        load_tasks(path, columns={"querry": "ask"})
    with pytest.raises(UnknownNameError, match="'retrieval'"):
        load_tasks(path, kind="retreival")


def test_nothing_there(tmp_path):
    with pytest.raises(NotFoundError, match="does not exist"):
        load_tasks(tmp_path / "none")
    with pytest.raises(InputError, match=r"holds no data set: it is empty.*--generate"):
        load_tasks(tmp_path)
    (tmp_path / "a.md").write_text("x")
    with pytest.raises(InputError, match=r"must end in one of"):
        load_tasks(tmp_path / "a.md")
    (tmp_path / "train.csv").write_text("query,document\n")
    (tmp_path / "train.tsv").write_text("query\tdocument\n")
    with pytest.raises(InputError, match=r"train\.csv and train\.tsv"):
        load_tasks(tmp_path)
    (tmp_path / "b.parquet").write_bytes(b"PAR1 nonsense")
    with pytest.raises(EmbedworksError):
        load_tasks(tmp_path / "b.parquet")
