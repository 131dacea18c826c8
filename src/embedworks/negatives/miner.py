"""The miner: candidates from retrievers, rules over their scores, negatives into rows.

Knows nothing about losses or batches. `mine_hard_negatives` is the same search over ready vectors
with one rule, for callers that have no rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from embedworks._core.progress import progress
from embedworks._core.registry import did_you_mean
from embedworks.data import RowSet
from embedworks.errors import (
    DuplicateIdError,
    EmptyInputError,
    InputError,
    ShapeError,
    UnknownNameError,
)
from embedworks.negatives._run import ROWS, Run
from embedworks.negatives.audit import MiningResult
from embedworks.negatives.corpus import Corpus, Problem
from embedworks.negatives.retrievers import (
    DenseRetriever,
    Rescorer,
    Retriever,
    SearchRetriever,
)
from embedworks.negatives.rules import NegativeRule
from embedworks.negatives.settings import MinerSettings

__all__ = ["Miner", "positive_ranks"]


class Miner:
    """Hard negatives for training rows from any encoders and indexes.

    Every query's candidates are the documents at ranks ``window`` of each retriever, joined. A
    document with the id, the text, the group or the class of one of the query's positives, or the
    query's own text, is never a candidate; rows with equal anchors share their positives. Rules
    then turn down what may be an unmarked positive, each retriever judging with its own scores.
    The same rows, corpus, models, settings and seed give the same negatives.

    Args:
        retrievers: `DenseRetriever`, `SearchRetriever`, or plain encoders and indexes.
        rules: See `NEGATIVE_RULES`. The default keeps what scores under 95 % of the positive.
        count: Negatives per row.
        window: First and last rank looked at, counted from 1.
        sampling: ``"top"`` or ``"random"`` among what the rules leave.
        min_keep: Fewest negatives a row may have.
        on_empty: What happens to rows with fewer: ``"drop_row"``, ``"relax"`` or ``"random"``;
            see `MinerSettings`.
        rescorer: A `Rescorer` or a cross-encoder: scores what the retrievers' rules left, is
            judged by the rules too, and decides the order.
        teacher: Name of the scorer whose scores become the rows' ``teacher_scores``.
        seed: Seed of everything random.
        cache: Folder for vectors, candidates and pair scores, each named after the content it was
            made from. A run that was killed continues there; another model or another text never
            meets old results.
        show_progress: True or False to force bars; by default there are some on a terminal.

    Raises:
        SettingsError: When an option is not valid.
        UnknownNameError: When a rule or ``teacher`` names a scorer that is not there.

    Paper: de Souza Moreira et al. 2024, arXiv 2407.15831 (margins relative to the positive).
    Adaptive margin: a multiple of the candidates' spread, our reading of Choi et al. 2025,
    arXiv 2506.07438, which names no formula.

    Example:
        >>> class Words:
        ...     def encode(self, texts):
        ...         known = ["red", "blue", "wine", "sky"]
        ...         return np.array([[w in t for w in known] + [1] for t in texts], dtype=float)
        >>> from embedworks.data import Row
        >>> rows = RowSet([Row("red drink", "red wine"), Row("blue above", "blue sky")])
        >>> corpus = Corpus(["red wine", "blue sky", "red", "wine red"])
        >>> mined = Miner([Words()], count=1).mine(rows, corpus)
        >>> mined.rows[0].negatives  # "red" scores above the positive and is turned down
        ('blue sky',)
    """

    def __init__(
        self,
        retrievers: Sequence[Any],
        *,
        rules: Sequence[NegativeRule] = (NegativeRule("relative", 0.05),),
        count: int = 7,
        window: tuple[int, int] = (1, 100),
        sampling: Literal["top", "random"] = "top",
        min_keep: int = 1,
        on_empty: Literal["drop_row", "relax", "random"] = "drop_row",
        rescorer: Any = None,
        teacher: str | None = None,
        seed: int = 0,
        cache: str | Path | None = None,
        show_progress: bool | None = None,
    ) -> None:
        self.settings = MinerSettings.from_dict(
            {
                "count": count,
                "window": window,
                "sampling": sampling,
                "rules": tuple(rules),
                "min_keep": min_keep,
                "on_empty": on_empty,
                "teacher": teacher,
                "seed": seed,
            }
        )
        self.retrievers = _named(retrievers)
        self.rescorer = Rescorer(rescorer) if hasattr(rescorer, "predict") else rescorer
        self.cache = None if cache is None else Path(cache)
        self.show_progress = show_progress
        names = [r.name for r in self.retrievers]
        names += [] if self.rescorer is None else [self.rescorer.name]
        if len(set(names)) != len(names):
            raise DuplicateIdError(f"retrievers and rescorer need different names, got {names}.")
        for what, name in [("teacher", teacher), *(("a rule", rule.scorer) for rule in rules)]:
            if name is not None and name not in names:
                raise UnknownNameError(
                    f"{what} names the scorer {name!r}. {did_you_mean(name, names)}"
                )

    @classmethod
    def from_settings(
        cls,
        retrievers: Sequence[Any],
        settings: MinerSettings,
        *,
        rescorer: Any = None,
        cache: str | Path | None = None,
        show_progress: bool | None = None,
    ) -> Miner:
        """Build a miner from what a recipe holds."""
        values = {name: getattr(settings, name) for name in MinerSettings.model_fields}
        return cls(
            retrievers, rescorer=rescorer, cache=cache, show_progress=show_progress, **values
        )

    def mine(
        self,
        rows: RowSet,
        corpus: Corpus | None = None,
        *,
        truth: Sequence[Collection[str]] | None = None,
    ) -> MiningResult:
        """Give every row negatives.

        Args:
            rows: What to mine for. Negatives they already have are replaced, and counted.
            corpus: Where negatives come from; by default the rows' own positives.
            truth: For an audit, per row the ids of documents known to be relevant although they
                are not marked as positives. They are not told to the rules. The report then has
                ``precision`` (share of what was turned down that is relevant), ``recall`` (share
                of the relevant candidates turned down), ``false_share`` (share of relevant
                documents among the negatives chosen) and ``naive_share`` (the same without any
                rule).

        Raises:
            EmptyInputError: When there are no rows, or none is left.
            InputError: When a document rule has no dense retriever to judge it.
            ShapeError: When ``truth`` has not one entry per row.
        """
        if not len(rows):
            raise EmptyInputError("there are no rows to mine negatives for.")
        if truth is not None and len(truth) != len(rows):
            raise ShapeError(f"truth has {len(truth)} entries for {len(rows)} rows.")
        for rule in self.settings.rules:
            rule.check_sources(list(rows.sources))
        problem = Problem(rows, Corpus.from_rows(rows) if corpus is None else corpus)
        if self.settings.window[0] > problem.size:
            raise InputError(
                f"the window starts at rank {self.settings.window[0]}, but the corpus has only "
                f"{problem.size} documents: use a window that starts earlier, or a larger corpus."
            )
        run = Run(
            self.settings,
            self.retrievers,
            self.rescorer,
            problem,
            truth,
            self.cache,
            self.show_progress,
        )
        with progress("Mining", len(rows), enabled=self.show_progress) as bar:
            for low in range(0, len(rows), ROWS):
                high = min(low + ROWS, len(rows))
                run.block(low, high)
                bar.advance(high - low)
        return run.finish()


def positive_ranks(
    rows: RowSet,
    retriever: Any,
    corpus: Corpus | None = None,
    *,
    depth: int = 100,
    cache: str | Path | None = None,
    show_progress: bool | None = None,
) -> np.ndarray:
    """Return the rank of each row's positive for its anchor, for `rank_consistency_filter`.

    Other positives of the anchor, copies of the positive and the anchor itself do not count.

    Args:
        rows: N rows.
        retriever: An encoder, an index, or one of the retrievers.
        corpus: What is searched; by default the rows' positives.
        depth: How far an index is asked; a positive beyond gets rank ``depth + 1``. Dense
            retrievers always give the exact rank.
        cache: As for `Miner`.
        show_progress: As for `Miner`.

    Returns:
        int64 (N,), counted from 1.

    Example:
        >>> class Lengths:
        ...     def encode(self, texts):
        ...         return np.array([[len(text), 1.0] for text in texts])
        >>> rows = RowSet.from_columns(["aaa", "a"], ["bbb", "bb"])
        >>> positive_ranks(rows, Lengths())
        array([1, 1])
    """
    problem = Problem(rows, Corpus.from_rows(rows) if corpus is None else corpus)
    session = _named([retriever])[0].open(
        problem, None if cache is None else Path(cache), show_progress
    )
    parts = [
        session.find(low, min(low + ROWS, len(rows)), min(depth, problem.size))["ranks"]
        for low in range(0, len(rows), ROWS)
    ]
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)


def _named(retrievers: Sequence[Any]) -> list[Retriever]:
    """Wrap plain encoders and indexes, and give them names that differ."""
    if not isinstance(retrievers, Sequence) or not retrievers:
        raise EmptyInputError("a miner needs a list of at least one retriever.")
    result: list[Retriever] = []
    used: Counter[str] = Counter()
    for item in retrievers:
        if hasattr(item, "open") and hasattr(item, "name"):
            result.append(item)
            continue
        kind: Any = DenseRetriever if hasattr(item, "encode") else SearchRetriever
        if kind is SearchRetriever and not hasattr(item, "search"):
            raise InputError(
                f"a {type(item).__name__} has neither encode nor search: give an encoder, an "
                "index, a DenseRetriever or a SearchRetriever."
            )
        name = "dense" if kind is DenseRetriever else "search"
        used[name] += 1
        result.append(kind(item, name=name if used[name] == 1 else f"{name}-{used[name]}"))
    return result
