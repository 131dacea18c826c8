"""Search a finished run: its model and its collection together."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from embedworks.data.chunking import with_title
from embedworks.errors import FormatError
from embedworks.evaluation import Comparison, chunk_run_to_doc_run, compare_runs
from embedworks.index import Collection, Explanation, Hit, HybridSettings, Reranker
from embedworks.models import encode_batched, load, model_fingerprint
from embedworks.training.run_folder import RunFolder

__all__ = [
    "SYSTEM_LABELS",
    "RunSearcher",
    "evaluate_run_folder",
    "open_run",
    "rank_judged_queries",
    "search",
]

#: Systems a run is measured with -> what tables call them.
SYSTEM_LABELS = {
    "bm25": "BM25",
    "base": "base",
    "base_hybrid": "base + BM25",
    "adapted": "adapted",
    "hybrid": "adapted + BM25",
}

_DEPTH = 1000  # chunks ranked per query before they are gathered into documents


class RunSearcher:
    """The model and the collection of a finished run, opened once for many searches.

    Use `open_run`.
    """

    def __init__(
        self, run: RunFolder, *, version: int | None = None, lock_timeout: float = 60.0
    ) -> None:
        self.run = run
        self.collection = Collection.open(
            run.part("collection"), version=version, lock_timeout=lock_timeout
        )

    @cached_property
    def model(self) -> Any:
        """The run's model, loaded when a query must be encoded.

        Raises:
            FormatError: When the collection was made with another model.
        """
        model = load(str(self.run.part("model")))
        made_with = self.collection.metadata.get("model")
        if made_with != model_fingerprint(model):
            raise FormatError(
                f"The collection in {self.run.path} was not made with the model beside it: was "
                "the folder changed by hand? Make the run again with --overwrite."
            )
        return model

    def search(
        self,
        query: str,
        *,
        k: int = 10,
        where: str | None = None,
        mode: str = "hybrid",
        rerank: Reranker | None = None,
        rerank_depth: int = 50,
    ) -> list[Hit]:
        """Return the ``k`` best chunks for a query.

        Args:
            query: What is looked for; at least one character that is not white space.
            k: Number of results; fewer come back only when fewer match.
            where: Filter such as ``"path LIKE 'http%' AND start_line < 100"``.
            mode: ``"hybrid"``, ``"dense"`` or ``"bm25"``.
            rerank: A model such as `load_reranker` gives, to read the first results again.
            rerank_depth: How many of them.

        Raises:
            InputError: When the query is empty or ``k`` is below 1.
            QuerySyntaxError: When the filter cannot be understood.
            UnknownNameError: When the mode is unknown.
        """
        return self.collection.search(
            query,
            k=k,
            where=where,
            mode=mode,
            encoder=self._encoder(mode),
            rerank=rerank,
            rerank_depth=rerank_depth,
        )

    def explain(
        self,
        query: str,
        *,
        k: int = 10,
        where: str | None = None,
        mode: str = "hybrid",
        rerank: Reranker | None = None,
        rerank_depth: int = 50,
    ) -> Explanation:
        """Carry out a search and say how, with the time of each step; see `search`."""
        return self.collection.explain(
            query,
            k=k,
            where=where,
            mode=mode,
            encoder=self._encoder(mode),
            rerank=rerank,
            rerank_depth=rerank_depth,
        )

    def _encoder(self, mode: str) -> Any:
        return None if mode == "bm25" else self.model


def open_run(
    run: str | Path, *, version: int | None = None, lock_timeout: float = 60.0
) -> RunSearcher:
    """Open a finished run for searching.

    Args:
        run: Its folder.
        version: A version of its collection that is still kept; None for the newest.
        lock_timeout: Seconds that changes of the collection wait for another writer.

    Raises:
        NotFoundError: When there is no run, or not that version.
        FormatError: When it is unfinished or of another format version.
    """
    return RunSearcher(RunFolder.open(run), version=version, lock_timeout=lock_timeout)


def search(
    run: str | Path,
    query: str,
    *,
    k: int = 10,
    where: str | None = None,
    mode: str = "hybrid",
    rerank: Reranker | None = None,
    rerank_depth: int = 50,
) -> list[Hit]:
    """Search a run once; use `open_run` for many queries. See `RunSearcher.search`."""
    return open_run(run).search(
        query, k=k, where=where, mode=mode, rerank=rerank, rerank_depth=rerank_depth
    )


def rank_judged_queries(
    run: str | Path, queries: Mapping[str, str], *, with_base: bool = True
) -> tuple[dict[str, dict[str, dict[str, float]]], dict[str, float]]:
    """Rank a run's documents for queries with every system.

    Args:
        run: A finished run.
        queries: Query id -> text.
        with_base: Also encode the collection with the base model, and search with it alone and
            together with BM25.

    Returns:
        Per system of `SYSTEM_LABELS` a ranking (query id -> document id -> score, the best
        chunk's), and the milliseconds a query took.
    """
    searcher = open_run(run)
    ids = sorted(queries)
    texts = [queries[name] for name in ids]
    runs: dict[str, dict[str, dict[str, float]]] = {}
    milliseconds: dict[str, float] = {}

    def add(
        system: str,
        collection: Collection,
        mode: str,
        model: Any,
        hybrid: HybridSettings | None = None,
    ) -> None:
        start = time.perf_counter()
        found = collection.search_many(texts, k=_DEPTH, mode=mode, encoder=model, hybrid=hybrid)
        milliseconds[system] = 1e3 * (time.perf_counter() - start) / len(texts)
        chunks = {
            name: dict(zip(chunk_ids, map(float, scores), strict=True))
            for name, chunk_ids, scores in zip(ids, found.chunk_ids, found.scores, strict=True)
        }
        owner = {
            chunk: doc
            for chunk_ids, doc_ids in zip(found.chunk_ids, found.doc_ids, strict=True)
            for chunk, doc in zip(chunk_ids, doc_ids, strict=True)
        }
        runs[system] = chunk_run_to_doc_run(chunks, owner)

    add("bm25", searcher.collection, "bm25", None)
    if with_base:
        base = load(searcher.run.state["settings"]["base"])
        rows = searcher.collection.rows
        shown = [
            with_title(title, text)
            for title, text in zip(rows["title"].to_pylist(), rows["text"].to_pylist(), strict=True)
        ]
        before = searcher.collection.with_vectors(encode_batched(base, shown)[0])
        add("base", before, "dense", base)
        merge = searcher.run.state["stages"].get("merge", {"info": {}})["info"]
        hybrid = HybridSettings.from_dict(searcher.collection.metadata["hybrid"])
        if "base_bm25_weight" in merge:
            hybrid = replace(hybrid, bm25_weight=merge["base_bm25_weight"])
        add("base_hybrid", before, "hybrid", base, hybrid)
    add("adapted", searcher.collection, "dense", searcher.model)
    add("hybrid", searcher.collection, "hybrid", searcher.model)
    return runs, milliseconds


def evaluate_run_folder(
    run: str | Path,
    queries: Mapping[str, str],
    qrels: Mapping[str, Mapping[str, int]],
    *,
    metrics: Sequence[str] = ("ndcg@10", "recall@10", "mrr@10"),
    with_base: bool = True,
    seed: int = 0,
) -> tuple[Comparison, dict[str, float]]:
    """Score a run on judged queries whose relevant documents are in its collection.

    Args:
        run: A finished run.
        queries: Query id -> text.
        qrels: Query id -> document id -> relevance.
        metrics: Metric labels.
        with_base: Also score the base model alone and with BM25. Costs one encoding of the
            collection.
        seed: Seed of the intervals.

    Returns:
        The comparison of the systems, and the milliseconds a query took with each.

    Raises:
        InputError: When queries and judgements do not fit the collection.
    """
    runs, milliseconds = rank_judged_queries(run, queries, with_base=with_base)
    baselines = ["bm25", "base", "base_hybrid"] if with_base else ["bm25"]
    comparison = compare_runs(runs, qrels, baseline=baselines, metrics=metrics, seed=seed)
    return comparison, milliseconds
