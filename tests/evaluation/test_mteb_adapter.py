"""Our systems in mteb and its tasks here, against mteb itself where it is installed."""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace

import numpy as np
import pytest

from embedworks.errors import InputError, MissingExtraError, OfflineError, UnknownNameError
from embedworks.evaluation import EncoderSystem, LexicalSystem, Resampling
from embedworks.evaluation.mteb_adapter import from_mteb, to_mteb
from embedworks.evaluation.tasks import Task

DOCUMENTS = {
    "a": ("Tea", "Boil the water first."),
    "b": ("", "Trains leave at nine."),
    "c": ("Cats", "A cat sleeps all day."),
    "d": ("Dogs", "A dog barks at the trains."),
}
QUERIES = {"1": "when do trains leave", "2": "how to make tea", "3": "does a cat bark"}
QRELS = {"1": {"b": 2, "d": 1}, "2": {"a": 1}, "3": {"c": 1, "d": 1}}


class Letters:
    """Counts of letters."""

    def encode(self, texts):
        letters = "abcdefghijklmnopqrstuvwxyz"
        return np.array([[1 + text.lower().count(x) for x in letters] for text in texts])


@pytest.fixture
def system():
    return EncoderSystem(Letters(), name="letters")


@pytest.fixture
def mocks():
    pytest.importorskip("mteb")
    return pytest.importorskip("mteb.mocks.mock_tasks")


def retrieval(mocks, kind="MockRetrievalTask"):
    from datasets import Dataset

    task = getattr(mocks, kind)()
    task.load_data()
    corpus = [{"id": i, "title": title, "text": text} for i, (title, text) in DOCUMENTS.items()]
    data = {
        "corpus": Dataset.from_list(corpus),
        "queries": Dataset.from_list([{"id": i, "text": text} for i, text in QUERIES.items()]),
        "relevant_docs": QRELS,
        "top_ranked": None,
    }
    if "Rerank" in kind:
        data["top_ranked"] = {query: ["a", "b", "c", "d"] for query in QUERIES}
    task.dataset = {"default": {split: dict(data) for split in ("train", "val", "test")}}
    return task


def by_mteb(model, task, **options):
    import mteb

    return mteb.evaluate(
        model, task, cache=None, show_progress_bar=False, co2_tracker=False, **options
    )[0].scores["test"][0]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["MockRetrievalTask", "MockRerankingTask"])
def test_retrieval_figures_are_those_of_mteb(mocks, system, kind):
    own = from_mteb(retrieval(mocks, kind), split="test", name="mine")
    assert isinstance(own, Task)
    assert own.corpus["a"] == "Tea Boil the water first."
    assert (own.name, own.kind == "reranking") == ("mine", "Rerank" in kind)
    for one in (system, LexicalSystem()):
        result = own.run(one, Resampling(n_resamples=100))
        theirs = by_mteb(to_mteb(one), retrieval(mocks, kind))
        for label in ("ndcg@10", "recall@10"):
            assert result.scores[label].interval.mean == pytest.approx(
                theirs[label.replace("@", "_at_")], abs=1e-4
            )


@pytest.mark.filterwarnings("ignore")
def test_pairs_are_those_of_mteb(mocks, system):
    from datasets import Dataset, DatasetDict

    left = ["a cat", "a dog", "trains leave", "boil water"]
    right = ["one cat", "the sea", "a train left", "bark"]
    columns = {"sentence1": left, "sentence2": right, "score": [5.0, 1.0, 4.0, 0.5]}
    similar = mocks.MockSTSTask()
    similar.load_data()
    similar.dataset = DatasetDict({"test": Dataset.from_dict(columns)})
    ours = from_mteb(similar).run(system, Resampling(n_resamples=100)).main.interval.mean
    assert ours == pytest.approx(by_mteb(to_mteb(system), similar)["cosine_spearman"], abs=1e-4)
    pairs = mocks.MockPairClassificationTask()
    pairs.load_data()
    columns = {"sentence1": left, "sentence2": right, "labels": [1, 0, 1, 0]}
    pairs.dataset = DatasetDict({"test": Dataset.from_dict(columns)})
    ours = from_mteb(pairs).run(system, Resampling(n_resamples=100)).main.interval.mean
    assert ours == pytest.approx(by_mteb(to_mteb(system), pairs)["similarity_ap"], abs=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_classes_are_taken_over(mocks, system):
    task = mocks.MockClassificationTask()
    task.load_data()
    own = from_mteb(task)
    assert (own.kind, own.per_class) == ("classification", task.samples_per_label)
    assert 0 <= by_mteb(to_mteb(system), task)["accuracy"] <= 1


@pytest.mark.filterwarnings("ignore")
def test_what_is_not_there(mocks, system):
    with pytest.raises(InputError, match="no split 'dev'"):
        from_mteb(retrieval(mocks), split="dev")
    with pytest.raises(InputError, match=r"needs a subset. It has"):
        from_mteb(mocks.MockMultilingualSTSTask())
    with pytest.raises(InputError, match="taken over are Retrieval"):
        from_mteb(mocks.MockBitextMiningTask())
    with pytest.raises(UnknownNameError, match="no task 'STSBenchmrk'"):
        from_mteb("STSBenchmrk")
    with pytest.raises(OfflineError, match="could not be had from the hub"):
        from_mteb("STSBenchmark")
    strict = retrieval(mocks)
    strict.ignore_identical_ids = True
    with pytest.raises(InputError, match="ignore_identical_ids"):
        from_mteb(strict)


def test_roles_prompts_and_batches(mocks):
    seen = []

    class Both(Letters):
        def encode_query(self, texts):
            seen.append(("query", list(texts)))
            return self.encode(texts)

        def encode_document(self, texts):
            seen.append(("document", list(texts)))
            return self.encode(texts)

    model = to_mteb(EncoderSystem(Both(), name="org/both", template="e5-instruct"))
    about = SimpleNamespace(name="toy", prompt={"query": "Find it."})
    batches = [{"text": ["a", "b"]}, {"text": ["c"]}]
    where = {"task_metadata": about, "hf_split": "test", "hf_subset": "default"}
    vectors = model.encode(batches, prompt_type="query", batch_size=2, **where)
    assert vectors.shape == (3, 26)
    model.encode(batches, prompt_type="document", **where)
    assert seen[0][0] == "query"
    assert all("Find it." in text for text in seen[0][1])
    assert seen[1] == ("document", ["a", "b", "c"])
    with pytest.raises(InputError, match="encodes texts; toy gives image"):
        model.encode([{"image": [1]}], **where)
    assert model.mteb_model_meta.name.startswith("embedworks/org-both")
    one, two = np.eye(2, dtype=np.float32), np.ones((2, 2), dtype=np.float32)
    assert np.allclose(model.similarity(one, two).numpy(), 0.5**0.5)
    assert model.similarity_pairwise(one, two).shape == (2,)


@pytest.mark.skipif(importlib.util.find_spec("mteb") is not None, reason="mteb is installed")
def test_without_mteb_the_install_line_is_named(system):
    for call in (lambda: to_mteb(system), lambda: from_mteb("SciFact")):
        with pytest.raises(MissingExtraError, match=r"embedworks\[eval\]"):
            call()
