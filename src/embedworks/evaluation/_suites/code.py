"""`code`: words to code, code to code, and code told from code with a mistake."""

from __future__ import annotations

from typing import Any

from embedworks._core.seeding import generator
from embedworks.evaluation._suites.reasoning import generated
from embedworks.evaluation.kinds.reasoning import ReasoningTask, questions_to_solutions
from embedworks.evaluation.sets._stdlib_functions import stdlib_functions
from embedworks.evaluation.sets.public_data import DataFolder
from embedworks.evaluation.suites import SUITES, Suite, TaskSource

__all__ = ["cosqa", "docstrings", "java_to_csharp"]

_QUERIES = 300
_DOCUMENTS = 2000


def docstrings() -> ReasoningTask:
    """Return docstring summaries of the standard library that search for their functions."""
    functions = stdlib_functions("test", max_chars=900, limit=800)
    return questions_to_solutions(
        "stdlib-docstrings",
        [(function.summary, function.code) for function in functions[:_QUERIES]],
        instruction="Given a description, find the function that does it.",
        distractors=[function.code for function in functions[_QUERIES:]],
        facts={"generated": True},
    )


def cosqa(data: DataFolder) -> ReasoningTask:
    """Return web queries that search for a function, among a sample of the functions."""
    corpus = data.records("code_cosqa_corpus.parquet", ["doc_id", "code"])
    queries = data.records("code_cosqa_queries.parquet", ["query_id", "text", "doc_id"])
    chosen = _sample(queries, _QUERIES, "cosqa queries")
    wanted = {str(row["doc_id"]) for row in chosen}
    others = [row for row in corpus if str(row["doc_id"]) not in wanted]
    drawn = _sample(others, _DOCUMENTS - len(wanted), "cosqa corpus")
    kept = wanted | {str(row["doc_id"]) for row in drawn}
    return ReasoningTask(
        "cosqa",
        {str(row["query_id"]): row["text"] for row in chosen},
        {str(row["doc_id"]): row["code"] for row in corpus if str(row["doc_id"]) in kept},
        {str(row["query_id"]): {str(row["doc_id"]): 1} for row in chosen},
        metrics=("ndcg@10", "recall@10", "mrr@10"),
        instruction="Given a question, find the function that answers it.",
        facts={"sampled": [len(chosen), len(queries)], "documents_of": len(corpus)},
    )


def java_to_csharp(data: DataFolder) -> ReasoningTask:
    """Return Java methods that search for the same method in C#."""
    rows = data.records("code_java_csharp.parquet", ["java", "csharp"], where={"split": "dev"})
    return questions_to_solutions(
        "java-csharp",
        [(row["java"], row["csharp"]) for row in rows],
        instruction="Given a method in Java, find the same method in C#.",
    )


def _sample(rows: list[dict[str, Any]], count: int, name: str) -> list[dict[str, Any]]:
    order = generator(0, name).permutation(len(rows))[:count]
    return [rows[i] for i in sorted(order.tolist())]


SUITES.add(
    "code",
    Suite(
        "code",
        (
            TaskSource("stdlib-docstrings", lambda data: docstrings()),
            TaskSource(
                "code-mutants-generated-choice", lambda data: generated("code-mutants", "own")
            ),
            TaskSource("cosqa", cosqa, ("code_cosqa_corpus.parquet", "code_cosqa_queries.parquet")),
            TaskSource("java-csharp", java_to_csharp, ("code_java_csharp.parquet",)),
        ),
    ),
    summary="Minutes: words to code, Java to C#, functions among their mutants.",
)
