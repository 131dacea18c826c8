"""`core`: a few minutes that tell whether a text model is any good.

Sets are cut to fixed samples, so that a small transformer on two cores is done in minutes: the
whole suite is about 1.6 million tokens of a BERT tokenizer. The bundled static model was distilled
on some of these texts (`xquad-en` whole, training parts of others): its figures there are those of
a model that has seen the answers. Two tasks are made from the standard library of the Python
that runs them and need no data: their figures of different Python versions are not to be compared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeVar

from embedworks._core.seeding import generator
from embedworks.evaluation.kinds.label_tasks import ClassificationTask, ClusteringTask
from embedworks.evaluation.kinds.pair_tasks import PairClassificationTask
from embedworks.evaluation.kinds.retrieval import RetrievalTask
from embedworks.evaluation.kinds.sts import StsTask
from embedworks.evaluation.sets._stdlib_functions import StdlibFunction, stdlib_functions
from embedworks.evaluation.sets.public_data import DataFolder
from embedworks.evaluation.suites import SUITES, Suite, TaskSource
from embedworks.evaluation.tasks import Task

__all__ = [
    "acl_titles",
    "code_answers",
    "code_search",
    "domain_clusters",
    "entailment_pairs",
    "few_shot",
    "function_name",
    "intent_clusters",
    "judged_collection",
    "library_functions",
    "library_search",
    "library_siblings",
    "questions",
    "sample",
    "source",
    "sts_benchmark",
]

T = TypeVar("T")

_LABELLED = "text_classification.parquet"
#: Functions read of the standard library; reading all of it would take ten seconds.
_FUNCTIONS = 1200


def sample(rows: Sequence[T], count: int, *names: str | int) -> list[T]:
    """Return ``count`` rows in their order, always the same for these names; all if there are few.

    Example:
        >>> sample("abcdef", 3, "letters") == sample("abcdef", 3, "letters")
        True
    """
    if len(rows) <= count:
        return list(rows)
    picks = generator(0, "suite sample", *names).choice(len(rows), size=count, replace=False)
    return [rows[row] for row in sorted(picks.tolist())]


def source(name: str, build: Callable[..., Task], /, *files: str, **options: object) -> TaskSource:
    """Return how a task is made by ``build(data, **options)`` from files of the data folder."""
    return TaskSource(name, lambda data: build(data, **options), files)


def judged_collection(data: DataFolder, name: str) -> RetrievalTask:
    """Return a judged collection of the data folder: ``cranfield`` or ``vaswani``."""
    corpus = data.records(f"ir_{name}_corpus.parquet", ["doc_id", "title", "text"])
    queries = data.records(f"ir_{name}_queries.parquet", ["query_id", "text"])
    judgements = data.records(f"ir_{name}_qrels.parquet", ["query_id", "doc_id", "relevance"])
    qrels: dict[str, dict[str, int]] = {}
    for row in judgements:
        qrels.setdefault(str(row["query_id"]), {})[str(row["doc_id"])] = int(row["relevance"])
    texts = {
        str(row["doc_id"]): f"{row['title'] or ''} {row['text'] or ''}".strip() for row in corpus
    }
    return RetrievalTask(
        name,
        {str(row["query_id"]): row["text"] for row in queries},
        texts,
        qrels,
    )


def sts_benchmark(
    data: DataFolder, language: str = "en", split: str = "dev", pairs: int | None = None
) -> StsTask:
    """Return a part of the STS benchmark in one language, or a sample of its pairs.

    The sample has the same pairs in every language.
    """
    rows = data.records(
        "stsb_multi.parquet",
        ["idx", "sentence1", "sentence2", "score"],
        where={"lang": language, "split": split},
    )
    rows.sort(key=lambda row: row["idx"])
    if pairs is not None:
        rows = sample(rows, pairs, "stsb", split)
    scored = [(row["sentence1"], row["sentence2"], float(row["score"])) for row in rows]
    return StsTask(f"stsb-{language}-{split}", scored)


def questions(
    data: DataFolder,
    language: str = "en",
    *,
    passages: str = "en",
    count: int | None = None,
    within_article: bool = False,
) -> RetrievalTask:
    """Return XQuAD's questions in one language, asked of its 240 passages in another.

    Args:
        data: The data folder.
        language: Language of the questions.
        passages: Language of the passages.
        count: Questions to sample; all by default.
        within_article: Whether only the passages of the question's own article are ranked, which
            are all about its subject.
    """
    columns = ["article", "passage_id", "context", "question_id", "question"]
    asked = data.records("xquad.parquet", columns, where={"lang": language})
    shown = data.records("xquad.parquet", columns, where={"lang": passages})
    if count is not None:
        asked = sample(asked, count, "xquad")
    corpus = {str(row["passage_id"]): row["context"] for row in shown}
    of_article: dict[int, dict[str, None]] = {}
    for row in shown:
        of_article.setdefault(row["article"], {})[str(row["passage_id"])] = None
    name = f"xquad-{language}" if language == passages else f"xquad-{language}-{passages}"
    return RetrievalTask(
        f"{name}-article" if within_article else name,
        {row["question_id"]: row["question"] for row in asked},
        corpus,
        {row["question_id"]: {str(row["passage_id"]): 1} for row in asked},
        metrics=("mrr@10", "success@1") if within_article else ("ndcg@10", "recall@10", "mrr@10"),
        candidates=(
            {row["question_id"]: list(of_article[row["article"]]) for row in asked}
            if within_article
            else None
        ),
    )


def code_search(data: DataFolder, *, functions: int = 1500) -> RetrievalTask:
    """Return CoSQA's 500 web queries, asked of the functions they want and a sample of others."""
    queries = data.records("code_cosqa_queries.parquet", ["query_id", "text", "doc_id"])
    corpus = data.records("code_cosqa_corpus.parquet", ["doc_id", "code"])
    wanted = {str(row["doc_id"]) for row in queries}
    others = [row for row in corpus if str(row["doc_id"]) not in wanted]
    kept = {
        str(row["doc_id"]) for row in sample(others, max(0, functions - len(wanted)), "cosqa")
    } | wanted
    return RetrievalTask(
        "cosqa",
        {row["query_id"]: row["text"] for row in queries},
        {str(row["doc_id"]): row["code"] for row in corpus if str(row["doc_id"]) in kept},
        {row["query_id"]: {str(row["doc_id"]): 1} for row in queries},
    )


def acl_titles(data: DataFolder, *, papers: int = 1500, titles: int = 500) -> RetrievalTask:
    """Return titles of computational linguistics papers, asked of English abstracts."""
    rows = data.records(
        "acl_abstracts.parquet",
        ["paper_id", "title", "abstract"],
        where={"split": ["dev", "test"], "language": "eng"},
    )
    corpus = sample(rows, papers, "acl papers")
    asked = sample(corpus, titles, "acl titles")
    return RetrievalTask(
        "acl-titles",
        {row["paper_id"]: row["title"] for row in asked},
        {row["paper_id"]: row["abstract"] for row in corpus},
        {row["paper_id"]: {row["paper_id"]: 1} for row in asked},
    )


def few_shot(
    data: DataFolder,
    name: str,
    *,
    label: str = "label",
    per_class: int = 8,
    draws: int = 3,
    tests: int = 1000,
) -> ClassificationTask:
    """Return a labelled set of the data folder, learnt from a few texts of each label.

    Where the set has no test part, a quarter of it, at random, becomes one. Training texts that
    are test texts too are left out.
    """
    rows = data.records(_LABELLED, ["split", "text", label], where={"dataset": name})
    parts: dict[str, list[tuple[str, str]]] = {"train": [], "test": []}
    for row in rows:
        parts.setdefault(row["split"], []).append((row["text"], row[label]))
    train, test = parts["train"], parts["test"]
    if not test:
        held_out = set(sample(range(len(train)), len(train) // 4, name, "test part"))
        test = [pair for row, pair in enumerate(train) if row in held_out]
        train = [pair for row, pair in enumerate(train) if row not in held_out]
    tested = {text for text, _ in test}
    return ClassificationTask(
        name.replace("_", "-"),
        [pair for pair in train if pair[0] not in tested],
        sample(test, tests, name, "test"),
        per_class=per_class,
        draws=draws,
    )


def domain_clusters(data: DataFolder, *, texts: int = 1500) -> ClusteringTask:
    """Return requests to an assistant, to be clustered by their ten domains (CLINC150)."""
    rows = data.records(
        _LABELLED, ["text", "label_group"], where={"dataset": "clinc150", "split": "train"}
    )
    kept = sample([row for row in rows if row["label_group"] != "oos"], texts, "clinc150")
    return ClusteringTask(
        "clinc-domains", [row["text"] for row in kept], [row["label_group"] for row in kept]
    )


def intent_clusters(data: DataFolder, *, texts: int = 1500) -> ClusteringTask:
    """Return questions to a bank, to be clustered by their 77 intents (banking77)."""
    rows = data.records(_LABELLED, ["text", "label"], where={"dataset": "banking77"})
    kept = sample(rows, texts, "banking77")
    return ClusteringTask(
        "banking77-intents", [row["text"] for row in kept], [row["label"] for row in kept]
    )


def entailment_pairs(data: DataFolder) -> PairClassificationTask:
    """Return SICK's development pairs: does the first sentence entail the second?"""
    rows = data.records(
        "sts_sick.parquet",
        ["sentence1", "sentence2", "entailment"],
        where={"dataset": "sick2014", "split": "dev"},
    )
    return PairClassificationTask(
        "sick-entailment",
        [(r["sentence1"], r["sentence2"], int(r["entailment"] == "entailment")) for r in rows],
    )


def code_answers(data: DataFolder) -> PairClassificationTask:
    """Return CoSQA's development pairs: does the function answer the web query?"""
    rows = data.records(
        "code_text_pairs.parquet", ["text", "code", "label"], where={"dataset": "cosqa_qa"}
    )
    return PairClassificationTask(
        "cosqa-answers", [(row["text"], row["code"], int(row["label"])) for row in rows]
    )


def library_functions(count: int) -> list[StdlibFunction]:
    """Return functions of the standard library whose docstring does not name them."""
    found = [
        function
        for function in stdlib_functions("all", max_chars=600, limit=_FUNCTIONS)
        if function_name(function) not in function.summary
    ]
    return found[:count]


def function_name(function: StdlibFunction) -> str:
    r"""Return the name a function is defined by.

    Example:
        >>> function_name(StdlibFunction("m", "Add two.", "@cache\nasync def add(a, b): ..."))
        'add'
    """
    return function.code.split("def ", 1)[1].split("(", 1)[0].strip()


def library_search(data: DataFolder, *, functions: int = 500) -> RetrievalTask:
    """Return first sentences of docstrings, asked of the functions' code without docstrings."""
    found = library_functions(functions)
    return RetrievalTask(
        "library-docstrings",
        {f"q{row}": function.summary for row, function in enumerate(found)},
        {f"f{row}": function.code for row, function in enumerate(found)},
        {f"q{row}": {f"f{row}": 1} for row in range(len(found))},
    )


def library_siblings(
    data: DataFolder, *, packages: int = 20, functions: int = 800
) -> ClusteringTask:
    """Return docstrings of the standard library, to be clustered by the package they are in."""
    found = stdlib_functions("all", max_chars=600, limit=_FUNCTIONS)
    package = [function.module.split(".")[0] for function in found]
    largest = {name for name, _ in Counter(package).most_common(packages)}
    rows = [row for row, name in enumerate(package) if name in largest]
    kept = sample(rows, functions, "library siblings")
    return ClusteringTask(
        "library-packages", [found[row].summary for row in kept], [package[row] for row in kept]
    )


SUITES.add(
    "core",
    Suite(
        "core",
        (
            source("stsb-en-dev", sts_benchmark, "stsb_multi.parquet"),
            *(
                source(
                    name,
                    judged_collection,
                    *(f"ir_{name}_{part}.parquet" for part in ("corpus", "queries", "qrels")),
                    name=name,
                )
                for name in ("cranfield", "vaswani")
            ),
            source("cosqa", code_search, "code_cosqa_queries.parquet", "code_cosqa_corpus.parquet"),
            source("xquad-en", questions, "xquad.parquet"),
            source("xquad-en-article", questions, "xquad.parquet", within_article=True),
            source("acl-titles", acl_titles, "acl_abstracts.parquet"),
            source("banking77", few_shot, _LABELLED, name="banking77"),
            source(
                "trec-qc", few_shot, _LABELLED, name="trec_qc", label="label_group", per_class=32
            ),
            source(
                "sentence-polarity", few_shot, _LABELLED, name="sentence_polarity", per_class=32
            ),
            source("clinc-domains", domain_clusters, _LABELLED),
            source("banking77-intents", intent_clusters, _LABELLED),
            source("sick-entailment", entailment_pairs, "sts_sick.parquet"),
            source("cosqa-answers", code_answers, "code_text_pairs.parquet"),
            source("library-docstrings", library_search),
            source("library-packages", library_siblings),
        ),
    ),
    summary="Minutes: similarity, retrieval, reranking, classification, clustering, pairs.",
)
