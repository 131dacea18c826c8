"""One run of a miner: finding, judging, choosing and counting, block by block."""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from embedworks._core.files import sha256_of_text
from embedworks.data import Row, RowSet
from embedworks.errors import DataWarning, EmptyInputError, InputError
from embedworks.negatives._selection import Block, choose, fill, pool
from embedworks.negatives.audit import Histogram, MiningReport, MiningResult, Suspect, shorten
from embedworks.negatives.corpus import Problem
from embedworks.negatives.retrievers import (
    Found,
    Retriever,
    Session,
    read_arrays,
    write_arrays,
)
from embedworks.negatives.rules import Candidates
from embedworks.negatives.settings import MinerSettings

__all__ = ["ROWS", "Run"]

ROWS = 1024  # rows mined at a time; part of what cached candidates are keyed by
_SUSPECTS = 20


class Run:
    """One call of `Miner.mine`: its sessions, and what has been gathered so far."""

    def __init__(
        self,
        settings: MinerSettings,
        retrievers: Sequence[Retriever],
        rescorer: Retriever | None,
        problem: Problem,
        truth: Sequence[Collection[str]] | None,
        cache: Path | None,
        show_progress: bool | None,
    ) -> None:
        self.settings = settings
        self.cache = cache
        self.problem = problem
        self.truth = truth
        self.sessions = [r.open(problem, cache, show_progress) for r in retrievers]
        self.rescorer: Session | None = None
        if rescorer is not None:
            self.rescorer = rescorer.open(problem, cache, show_progress)
        self.scorers = [*self.sessions, *([self.rescorer] if self.rescorer else [])]
        for rule in self.settings.rules:
            if rule.needs_similarity and not any(
                s.compares_documents for s in self.scorers if rule.scorer in (None, s.name)
            ):
                raise InputError(
                    f"rule {rule.label!r} compares documents with the positive: that takes a dense "
                    "retriever."
                )
        self.teacher = next((s for s in self.scorers if s.name == self.settings.teacher), None)
        if self.teacher is not None and not self.teacher.scores_pairs:
            raise InputError(
                f"teacher {self.teacher.name!r} returns lists and cannot score every negative: "
                "name a dense retriever or a rescorer."
            )
        self.report = MiningReport(rows=len(problem))
        self.report.replaced = sum(len(row.negatives) for row in problem.rows)
        self.rows: list[Row] = []
        self.kept: list[int] = []
        self.ranks: dict[str, list[np.ndarray]] = {s.name: [] for s in self.sessions}
        self.truth_counts: Counter[str] = Counter()

    def block(self, low: int, high: int) -> None:
        """Mine rows ``low`` to ``high``."""
        found = [self._find(session, low, high) for session in self.sessions]
        for session, one in zip(self.sessions, found, strict=True):
            self.ranks[session.name].append(one["ranks"])
        block = Block(
            self.problem, low, high, pool(found, self.settings.window, self.problem.canonical)
        )
        judge = self._judge(block, found)
        chosen = choose(block, self.settings)
        fill(chosen, block, self.settings)
        self._audit(block, chosen, judge)
        self._emit(block, chosen)

    def _find(self, session: Session, low: int, high: int) -> Found:
        depth = min(self.settings.window[1], self.problem.size)
        if self.cache is None or session.identity is None:
            return session.find(low, high, depth)
        name = sha256_of_text(
            f"candidates 1 {low} {high} {depth}", session.identity, self.problem.fingerprint
        )
        path = self.cache / "candidates" / f"{name[:32]}.safetensors"
        count = high - low
        shapes = {
            "positions": (count, depth),
            "scores": (count, depth),
            "positive": (count,),
            "ranks": (count,),
        }
        stored = read_arrays(path, shapes)
        if stored is None:
            stored = session.find(low, high, depth)
            write_arrays(path, dict(stored))
        return Found(stored)

    def _judge(self, block: Block, found: list[Found]) -> tuple[Session, Candidates] | None:
        """Apply every rule; return the scorer whose scores decide the order and the audit."""
        first: tuple[Session, Candidates] | None = None
        everything: list[tuple[Session, Candidates]] = []
        for session, one in zip(self.sessions, found, strict=True):
            seen = self._seen(session, one, block, alone=len(found) == 1)
            self._apply(session, seen, block)
            everything.append((session, seen))
            if first is None and session.scores_pairs:
                first = (session, seen)
        if first is not None:
            block.doubt = np.where(first[1].known, first[1].scores, -np.inf)
        if self.rescorer is not None:
            left = np.where(block.keep, block.pool.positions, -1)
            scores = self.rescorer.score(block.rows, left)
            positives = self.rescorer.score(block.rows, block.positives)
            lowest = np.where(block.positives >= 0, positives, np.inf).min(axis=1)
            first = (self.rescorer, Candidates(scores, lowest, left >= 0))
            self._apply(*first, block)
            everything.append(first)
            block.order = -scores
        for session, seen in everything:
            self.report.histograms.setdefault(session.name, Histogram()).add(
                seen.positive,
                seen.scores[seen.known & block.keep],
                seen.scores[seen.known & ~block.keep],
            )
        return first

    def _seen(self, session: Session, one: Found, block: Block, *, alone: bool) -> Candidates:
        positions = block.pool.positions
        if alone:
            first = self.settings.window[0] - 1
            scores = one["scores"][:, first : first + positions.shape[1]]
        elif session.scores_pairs:
            scores = session.score(block.rows, positions)
        else:
            scores = block.pool.looked_up(one, self.problem.size)
        known = (positions >= 0) & (scores > -np.inf)
        similarity = None
        if session.compares_documents and any(
            rule.needs_similarity and rule.scorer in (None, session.name)
            for rule in self.settings.rules
        ):
            similarity = session.similarity(block.rows, positions)
        return Candidates(scores, one["positive"], known, similarity)

    def _apply(self, session: Session, seen: Candidates, block: Block) -> None:
        for rule in self.settings.rules:
            if rule.scorer not in (None, session.name):
                continue
            if rule.needs_similarity and seen.similarity is None:
                continue
            passed = rule.keep(seen, block.sources)
            block.keep &= passed
            self.report.count_rule(rule, session.name, seen.known, passed, block.sources)

    def _audit(
        self, block: Block, chosen: np.ndarray, judge: tuple[Session, Candidates] | None
    ) -> None:
        report = self.report
        present = block.pool.positions >= 0
        report.candidates += int(present.sum())
        report.turned_down += int((present & ~block.keep).sum())
        if self.truth is not None:
            self._count_truth(block, chosen)
        if judge is None:
            return
        session, seen = judge
        columns = np.where(block.columns >= 0, block.columns, 0)
        scores = np.take_along_axis(seen.scores, columns, axis=1)
        known = (block.columns >= 0) & np.take_along_axis(seen.known, columns, axis=1)
        gaps = np.where(known, scores - seen.positive[:, None], -np.inf)
        gaps[~np.isfinite(gaps)] = -np.inf
        for flat in np.argsort(-gaps, axis=None, kind="stable")[:_SUSPECTS]:
            row, column = divmod(int(flat), gaps.shape[1])
            if gaps[row, column] == -np.inf:
                break
            original = self.problem.rows[block.low + row]
            position = int(chosen[row, column])
            report.suspects.append(
                Suspect(
                    block.low + row,
                    original.source,
                    shorten(original.anchor),
                    shorten(original.positive),
                    shorten(self.problem.documents[position]),
                    self.problem.corpus.ids[position],
                    float(scores[row, column]),
                    float(seen.positive[row]),
                    session.name,
                )
            )
        report.suspects.sort(key=lambda s: s.positive_score - s.score)
        once: dict[tuple[str, str], Suspect] = {}
        for suspect in report.suspects:
            once.setdefault((suspect.anchor, suspect.negative), suspect)
        report.suspects = list(once.values())[:_SUSPECTS]

    def _count_truth(self, block: Block, chosen: np.ndarray) -> None:
        assert self.truth is not None
        where = self.problem.corpus.positions
        counts = self.truth_counts
        for place in range(len(block.rows)):
            names = self.truth[block.low + place]
            unknown = [name for name in names if name not in where]
            if unknown:
                raise InputError(f"truth names {unknown[0]!r}, which is not an id of the corpus.")
            relevant = self.problem.canonical[[where[name] for name in names]]
            candidates = block.pool.positions[place]
            present = candidates >= 0
            planted = np.isin(candidates, relevant) & present
            naive = planted[present][: self.settings.count]
            mine = chosen[place][chosen[place] >= 0]
            down = present & ~block.keep[place]
            counts["relevant"] += int(planted.sum())
            counts["relevant_down"] += int((planted & down).sum())
            counts["down"] += int(down.sum())
            counts["chosen"] += len(mine)
            counts["relevant_chosen"] += int(np.isin(mine, relevant).sum())
            counts["naive"] += len(naive)
            counts["relevant_naive"] += int(naive.sum())

    def _emit(self, block: Block, chosen: np.ndarray) -> None:
        problem, report = self.problem, self.report
        enough = (chosen >= 0).sum(axis=1) >= self.settings.min_keep
        scores = None
        if self.teacher is not None:
            wanted = np.concatenate([problem.own[block.rows, None], chosen], axis=1)
            wanted[~enough] = -1
            scores = self.teacher.score(block.rows, wanted)
        names = [session.name for session in self.sessions]
        for place in range(len(block.rows)):
            row = problem.rows[block.low + place]
            if not enough[place]:
                report.dropped_by_source[row.source] += 1
                continue
            there = np.flatnonzero(chosen[place] >= 0)
            origins: list[list[Any]] = []
            for column in there.tolist():
                kind, rank = block.origin(place, column, names)
                origins.append([kind, rank])
                report.relaxed += kind == "relaxed"
                report.random += kind == "random"
                if kind in names:
                    report.found_by[kind] += 1
            teacher = None
            if scores is not None:
                teacher = tuple(float(scores[place, c]) for c in (0, *(there + 1).tolist()))
            history: dict[str, Any] = {"mined": origins}
            if row.provenance is not None:
                history["from"] = row.provenance
            self.rows.append(
                replace(
                    row,
                    negatives=tuple(problem.documents[i] for i in chosen[place, there].tolist()),
                    teacher_scores=teacher,
                    provenance=json.dumps(history, ensure_ascii=False),
                )
            )
            self.kept.append(block.low + place)
            report.negatives += len(there)

    def finish(self) -> MiningResult:
        """Close the report and return what was mined."""
        report = self.report
        report.rows_kept = len(self.rows)
        ranks = {name: np.concatenate(parts) for name, parts in self.ranks.items()}
        for name, values in ranks.items():
            report.positive_ranks[name] = {
                "median": float(np.median(values)),
                "p90": float(np.quantile(values, 0.9)),
                "beyond_window": float((values > self.settings.window[1]).mean()),
            }
        if self.truth is not None:
            c = self.truth_counts
            report.truth = {
                "relevant_candidates": float(c["relevant"]),
                "precision": c["relevant_down"] / max(1, c["down"]),
                "recall": c["relevant_down"] / max(1, c["relevant"]),
                "false_share": c["relevant_chosen"] / max(1, c["chosen"]),
                "naive_share": c["relevant_naive"] / max(1, c["naive"]),
            }
        if not self.rows:
            rates = ", ".join(f"{r.rule} ({r.scorer}) kept {r.keep_rate:.1%}" for r in report.rules)
            raise EmptyInputError(
                f"none of {report.rows} rows got {self.settings.min_keep} negatives out of "
                f"{report.candidates} candidates; {rates or 'no rule was set'}. Use milder rules, "
                "a wider window, a larger corpus or on_empty='random'."
            )
        if report.rows_dropped:
            warnings.warn(
                f"{report.rows_dropped} of {report.rows} rows were dropped: fewer than "
                f"{self.settings.min_keep} negatives were left for them. Use milder rules, a "
                "wider window, or on_empty='relax' or 'random'.",
                DataWarning,
                stacklevel=3,
            )
        return MiningResult(RowSet(self.rows), np.array(self.kept, np.int64), ranks, report)
