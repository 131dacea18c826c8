"""The rows of a stage: read, decontaminated, given negatives and teacher scores."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embedworks._core.validation import normalize_rows
from embedworks.data import Row, RowSet, content_key
from embedworks.errors import DataWarning, EmptyInputError
from embedworks.training.sources import existing, read_source

if TYPE_CHECKING:
    from embedworks.training.plan import PlanSettings
    from embedworks.training.plan_stage import StageSettings
    from embedworks.training.sources import DecontaminationSettings

__all__ = ["prepare_rows"]


def prepare_rows(
    plan: PlanSettings,
    stage: StageSettings,
    *,
    model: Callable[[], Any],
    load: Callable[[str], Any],
    data_root: Path,
    held_out: Sequence[str] = (),
    cache: Path | None = None,
    mine: bool = True,
) -> tuple[RowSet, dict[str, Any]]:
    """Return the rows a stage trains on, and what happened to them.

    Args:
        plan: The plan.
        stage: The stage.
        model: Gives the model that the stage starts from.
        load: Gives a model by name.
        data_root: Folder that paths are relative to.
        held_out: Texts of the evaluation, which are never trained on.
        cache: Folder for vectors and candidates of the miner.
        mine: Whether to mine and score, which needs models.

    Raises:
        EmptyInputError: When nothing is left of a source.
    """
    parts, report = [], {}
    for source in stage.data:
        rows = read_source(source, data_root=data_root, holdout=plan.holdout, seed=plan.seed)
        report[source.name] = {"read": len(rows)}
        parts.append(rows)
    rows = RowSet(row for part in parts for row in part)
    for texts, wanted in _test_texts(stage, held_out, data_root):
        rows = _decontaminated(rows, texts, wanted, report)
    if mine and stage.negatives.mine is not None:
        rows = _mined(rows, stage, plan, model, load, cache, report)
    if mine and stage.teacher is not None and _wants_own_scores(stage):
        rows = _scored(rows, load(stage.teacher))
    for source in stage.data:
        left = rows.sources.get(source.name, 0)
        report[source.name]["rows"] = left
        if not left:
            raise EmptyInputError(
                f"stage {stage.name!r}: no row of source {source.name!r} is left of "
                f"{report[source.name]['read']}: {report[source.name]}. Loosen the filters, or "
                "leave the source out."
            )
    return rows, report


def _test_texts(
    stage: StageSettings, held_out: Sequence[str], data_root: Path
) -> list[tuple[list[str], DecontaminationSettings | None]]:
    from embedworks.data.conversion import read_records

    found: list[tuple[list[str], DecontaminationSettings | None]] = []
    if held_out:
        found.append((list(held_out), None))
    if stage.decontaminate is not None:
        texts: list[str] = []
        for file, columns in stage.decontaminate.files.items():
            for record in read_records(existing(data_root / file), columns=columns):
                texts += [str(value) for value in record.values() if value]
        if texts:
            found.append((texts, stage.decontaminate))
    return found


def _decontaminated(
    rows: RowSet,
    texts: list[str],
    wanted: DecontaminationSettings | None,
    report: dict[str, Any],
) -> RowSet:
    from embedworks.data.decontamination import decontaminate
    from embedworks.index import BM25Index

    options: dict[str, Any] = {"method": "exact", "parts": ("anchor",)}
    if wanted is not None:
        options = {"method": wanted.method, "ngram": wanted.ngram, "threshold": wanted.threshold}
        if wanted.method == "bm25":
            options["search"] = BM25Index.build(texts).search
    kept, found = decontaminate(rows, texts, **options)
    for source, counts in found.sources.items():
        if source in report and counts["removed"]:
            before = report[source].get("decontaminated", 0)
            report[source]["decontaminated"] = before + counts["removed"]
    return kept


def _mined(
    rows: RowSet,
    stage: StageSettings,
    plan: PlanSettings,
    model: Callable[[], Any],
    load: Callable[[str], Any],
    cache: Path | None,
    report: dict[str, Any],
) -> RowSet:
    from embedworks.index import BM25Index
    from embedworks.negatives import (
        Corpus,
        DenseRetriever,
        Miner,
        SearchRetriever,
        rank_consistency_filter,
    )

    wanted = set(stage.negatives.sources) or {
        row.source for row in rows if row.label is None and row.score is None
    }
    settings = stage.negatives.mine
    assert settings is not None
    done: dict[str, RowSet] = {}
    for source in rows.sources:
        own = RowSet(row for row in rows if row.source == source)
        if source not in wanted:
            done[source] = own
            continue
        corpus = Corpus.from_rows(own)
        retrievers: list[Any] = []
        for name in stage.negatives.miners:
            if name == "bm25":
                texts = [_text(item) for item in corpus.inputs]
                retrievers.append(SearchRetriever(BM25Index.build(texts), name="bm25"))
            else:
                searcher = model() if name == "stage" else load(name)
                retrievers.append(DenseRetriever(searcher, name=name))
        rules = [r for r in settings.rules if not r.sources or source in r.sources]
        mined = Miner.from_settings(
            retrievers,
            settings.replace(rules=rules, seed=settings.seed or plan.seed),
            cache=cache,
            show_progress=False,
        ).mine(own, corpus)
        kept = mined.rows
        if stage.negatives.consistency_rank is not None:
            ranks = mined.positive_ranks[retrievers[0].name][mined.kept]
            kept, _ = rank_consistency_filter(kept, ranks, stage.negatives.consistency_rank)
            report[source]["inconsistent"] = len(mined.rows) - len(kept)
        report[source]["without_negatives"] = len(own) - len(mined.rows)
        done[source] = kept
    return RowSet(row for part in done.values() for row in part)


def encode_inputs(model: Any, inputs: Sequence[Any]) -> np.ndarray:
    """Return float32 (N, D) vectors of texts or dicts; what is cut or empty was counted before."""
    from embedworks.models import vectors

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DataWarning)
        return vectors.encode_inputs(model, inputs, None)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else str(value.get("text") or "")


def _wants_own_scores(stage: StageSettings) -> bool:
    return any(
        o.teacher.weight > 0 and o.teacher.scope == "own" for o in stage.objectives().values()
    )


def _scored(rows: RowSet, teacher: Any) -> RowSet:
    """Give every row with negatives the teacher's cosines, where it has no scores yet."""
    inputs: dict[int, Any] = {}
    for row in rows:
        if row.teacher_scores is None:
            for value in (row.anchor, row.positive, *row.negatives):
                inputs.setdefault(content_key(value), value)
    if not inputs:
        return rows
    place = {key: number for number, key in enumerate(inputs)}
    vectors = normalize_rows(encode_inputs(teacher, list(inputs.values())))

    def scored(row: Row) -> Row:
        if row.teacher_scores is not None or row.score is not None:
            return row
        anchor = vectors[place[content_key(row.anchor)]]
        candidates = [place[content_key(value)] for value in (row.positive, *row.negatives)]
        return replace(row, teacher_scores=tuple(float(s) for s in vectors[candidates] @ anchor))

    return RowSet(scored(row) for row in rows)
