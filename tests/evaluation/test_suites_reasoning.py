"""The suites `reasoning`, `code` and `long`, and the tasks of long documents they are made of."""

from __future__ import annotations

import numpy as np
import pytest

from embedworks.errors import EmptyInputError, InputError
from embedworks.evaluation import (
    RANKING_KINDS,
    SUITES,
    DataFolder,
    EncoderSystem,
    LengthTask,
    LexicalSystem,
    Resampling,
    Task,
    evaluate_systems,
    needle_task,
    passkey_task,
    reasoning_set,
    split_by_depth,
)

QUICK = Resampling(n_resamples=100)
NO_DATA = "no-such-folder"


@pytest.mark.parametrize("suite", ["reasoning", "code", "long"])
def test_there_is_something_to_run_without_data(suite):
    generated = {
        "reasoning": ["sums-generated", "sums-generated-choice", "coreference-generated"],
        "code": [],
        "long": ["passkey", "needle"],
    }[suite]
    tasks, skipped = SUITES[suite].tasks(DataFolder(NO_DATA), only=generated or ("cosqa",))
    assert sorted(task.name for task in tasks) == sorted(generated)
    assert all(isinstance(task, Task) and task.kind in RANKING_KINDS for task in tasks)
    assert list(skipped) == ([] if generated else ["cosqa"])
    sources = SUITES[suite].sources
    assert any(not source.files for source in sources)
    assert len({source.name for source in sources}) == len(sources)


@pytest.mark.parametrize(
    ("suite", "only"),
    [
        ("reasoning", ["winogrande", "winogrande-choice", "gsm8k"]),
        ("code", ["java-csharp", "cosqa"]),
        ("long", ["hidden-passages"]),
    ],
)
def test_public_data(data_root, suite, only):
    tasks, skipped = SUITES[suite].tasks(DataFolder(data_root), only=only)
    assert sorted(task.name for task in tasks) == sorted(only)
    assert not skipped
    (result,) = evaluate_systems([LexicalSystem()], tasks[:1], resampling=QUICK)
    assert not result.errors
    details = next(iter(result.tasks.values())).details
    assert {"truncated_texts", "chance"} <= details.keys()


def test_meetings(data_root):
    (task,), _ = SUITES["long"].tasks(DataFolder(data_root), only=["qmsum"])
    assert len(task.corpus) == 100
    assert np.median([len(text.split()) for text in task.corpus.values()]) > 3000


class Reader:
    """Reads the first words only: finds a key there and nowhere else."""

    max_seq_length = 100

    def __init__(self, words):
        self.words = words

    def encode(self, texts, **options):
        rows = []
        for text in texts:
            words = text.split()[: self.words]
            row = np.zeros(512, dtype=np.float32)
            for word in words:
                row[hash_of(word.strip(".?:"))] += 1 if word[:1].isupper() else 0.01
            rows.append(row)
        return np.stack(rows)


def hash_of(word):
    return sum(ord(c) * 31**i for i, c in enumerate(word)) % 512


def test_a_short_reader_fails_where_it_does_not_read():
    task = passkey_task((64, 256), queries=10, documents=20, seed=1)
    system = EncoderSystem(Reader(96), name="short")
    result = task.run(system, QUICK)
    assert result.details["by_length"]["64"]["success@1"]["mean"] == 1.0
    assert result.details["by_length"]["256"]["success@1"]["mean"] < 1.0
    assert result.main.interval.mean == pytest.approx(
        np.mean([v["success@1"]["mean"] for v in result.details["by_length"].values()])
    )
    assert result.details["by_length"]["64"]["chance"]["success@1"] == pytest.approx(1 / 20)
    assert len(result.items) == 20
    assert result.failures
    whole = task.run(EncoderSystem(Reader(10_000), name="whole"), QUICK)
    assert whole.main.interval.mean == 1.0
    assert sum(group["n"] for group in whole.details["by_depth"].values()) == 20


def test_documents_differ_in_the_statement_alone():
    part = passkey_task((128,), queries=5, documents=12).parts[128]
    for query in part.queries:
        (doc,) = part.qrels[query]
        name = part.queries[query].removeprefix("What is the pass key of ").rstrip("?")
        assert name in part.corpus[doc]
        assert sum(name in text for text in part.corpus.values()) == 1
        assert len(part.corpus[doc].split()) == 96
        assert 0 <= part.depths[query] <= 1
    assert passkey_task((128,), queries=5, documents=12) == passkey_task(
        (128,), queries=5, documents=12
    )


def test_needles_are_facts_in_prose():
    task = needle_task(["Nothing to see here at all.", "More of it. "], (64, 128), queries=4,
                       documents=30)  # fmt: skip
    result = task.run(LexicalSystem(), QUICK)
    assert result.main.interval.mean > 0.5
    assert isinstance(task, LengthTask)
    assert task.metric == "success@1"


def test_bad_lengths_are_refused():
    with pytest.raises(InputError, match="no room"):
        passkey_task((16,), queries=2, documents=4)
    with pytest.raises(InputError, match="queries"):
        passkey_task((128,), queries=9, documents=4)
    with pytest.raises(EmptyInputError):
        passkey_task(())
    with pytest.raises(EmptyInputError, match="no words"):
        needle_task([" "], (64,))
    with pytest.raises(InputError, match="documents"):
        needle_task(["a b"], (64,), documents=500)
    with pytest.raises(EmptyInputError):
        LengthTask("x", {})
    one = passkey_task((64,), queries=2, documents=4).parts[64]
    two = passkey_task((64,), queries=3, documents=4).parts[64]
    with pytest.raises(InputError, match="as many queries"):
        LengthTask("x", {64: one, 65: two})


def test_depths_without_values_are_left_out():
    assert split_by_depth({"a": 1.0}, {}) == {}
    assert split_by_depth({"a": 1.0}, {"a": 1.0}) == {"80-100%": {"mean": 1.0, "n": 1}}


def test_generated_parts_are_told_in_the_details():
    task = reasoning_set("sums", train=2, test=2).task()
    assert (task.facts["generated"], task.facts["part"]) == (True, "test")
