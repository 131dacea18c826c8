"""Synthesis of hard negatives, and judgement of negatives there are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from embedworks._core.seeding import derive_seed
from embedworks._core.validation import check_choice, check_in_range
from embedworks.data._synthesis.rows import Passage, Siblings, extended, is_text, nonempty
from embedworks.data._synthesis.synthesizer import Answered, Synthesizer
from embedworks.data.chunking import Chunk
from embedworks.data.rows import Row, RowSet
from embedworks.data.synthesis_tasks import (
    NEGATIVE_STRATEGIES,
    SynthesisRequest,
    hard_negative_request,
    relabel_request,
)

__all__ = ["Decision", "Relabelled", "make_hard_negatives", "relabel"]


@dataclass(frozen=True, slots=True)
class Decision:
    """What became of one negative in `relabel`.

    Attributes:
        row: Position of the row.
        negative: Position of the negative in it.
        decision: ``kept``, ``dropped``, ``converted`` or ``unjudged``.
        reason: The judge's reason.
        generator: The judge, or "" for unjudged.
    """

    row: int
    negative: int
    decision: str
    reason: str
    generator: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Relabelled:
    """What `relabel` returns.

    Attributes:
        rows: The rows without false negatives.
        decisions: One for every negative that is a text.
    """

    rows: RowSet
    decisions: tuple[Decision, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Number of decisions of each kind."""
        return dict(Counter(d.decision for d in self.decisions).most_common())


def make_hard_negatives(
    rows: Sequence[Row],
    synthesizer: Synthesizer,
    *,
    count: int = 1,
    share: float = 1.0,
    strategies: Sequence[str] = tuple(NEGATIVE_STRATEGIES),
    passages: Sequence[str | Passage | Chunk] = (),
    generators: Sequence[str] | None = None,
) -> RowSet:
    """Have hard negatives written; returns all rows, in their order, with what was won.

    New negatives go behind those a row has. Teacher scores of a row that gains one are dropped,
    because they no longer fit.

    Args:
        rows: The rows.
        synthesizer: Whom to ask.
        count: Rows are filled up to this many negatives; those that have them are left alone.
        share: Share of the rows lacking negatives that are worked on, drawn from the seed.
        strategies: Which of `NEGATIVE_STRATEGIES`; a row begins with one drawn for it and takes
            the next for its next negative.
        passages: Where other facets may come from, as in `augment`.
        generators: Names of the generators to ask; None asks all.

    Raises:
        UnknownNameError: When a strategy is not known.
        EndpointError: When an endpoint cannot be reached.

    Example:
        >>> from embedworks.data import RuleBasedGenerator
        >>> row = Row("How hot is the oven?", "Heat the oven to 220 degrees before baking.")
        >>> made = make_hard_negatives([row], Synthesizer(RuleBasedGenerator()))
        >>> "220" in made[0].negatives[0]
        False
    """
    check_in_range(count, name="count", low=1)
    check_in_range(share, name="share", low=0.0, high=1.0)
    for name in nonempty(strategies, "strategies"):
        check_choice(name, NEGATIVE_STRATEGIES, name="negative strategy")
    siblings = Siblings(passages, rows, synthesizer.seed)
    current = list(rows)
    lacking = [place for place, row in enumerate(rows) if len(row.negatives) < count]
    synthesizer.skip("hard-negatives", "has negatives already", len(rows) - len(lacking))
    texts = [p for p in lacking if is_text(rows[p]) and rows[p].label is None]
    synthesizer.skip("hard-negatives", "not a pair of plain texts", len(lacking) - len(texts))
    chosen = [p for p in texts if _drawn(rows[p], "share", synthesizer.seed) < share]
    synthesizer.skip("hard-negatives", "not drawn", len(texts) - len(chosen))
    first = {
        p: int(_drawn(rows[p], "strategy", synthesizer.seed) * len(strategies)) for p in chosen
    }
    for turn in range(count):
        asked = [p for p in chosen if len(current[p].negatives) < count]
        requests = [
            _negative_request(
                current[p], strategies[(first[p] + turn) % len(strategies)], siblings, turn
            )
            for p in asked
        ]
        answers = synthesizer.ask(requests, generators=generators)
        for place, answered in zip(asked, answers, strict=True):
            if answered is not None:
                row = current[place]
                current[place] = replace(
                    row,
                    negatives=(*row.negatives, answered.answer.hard_negative.strip()),
                    teacher_scores=None,
                    provenance=extended(row, "hard-negatives", answered),
                )
    return RowSet(current)


def _negative_request(row: Row, strategy: str, siblings: Siblings, turn: int) -> SynthesisRequest:
    return hard_negative_request(
        str(row.anchor),
        str(row.positive),
        strategy=strategy,
        context=siblings.of(row, "hard-negatives", turn),
        known=[text for text in row.negatives if isinstance(text, str)],
    )


def relabel(
    rows: Sequence[Row],
    synthesizer: Synthesizer,
    *,
    action: str = "drop",
    generators: Sequence[str] | None = None,
) -> Relabelled:
    """Have every negative judged, and take out those that answer the query after all.

    Args:
        rows: The rows.
        synthesizer: Whom to ask.
        action: ``"drop"`` removes a false negative; ``"convert"`` also adds a row in which it is
            the positive, behind the row it comes from.
        generators: Names of the judges, in turn; None asks all.

    Raises:
        UnknownNameError: When the action is not known.
        EndpointError: When an endpoint cannot be reached.

    Example:
        >>> from embedworks.data import RuleBasedGenerator
        >>> row = Row("opening time", "The shop opens at 9 on weekdays.",
        ...           ("On weekdays the shop opens at 9.", "The shop opens at 10 on weekdays."))
        >>> done = relabel([row], Synthesizer(RuleBasedGenerator()))
        >>> done.rows[0].negatives, done.counts
        (('The shop opens at 10 on weekdays.',), {'dropped': 1, 'kept': 1})
    """
    check_choice(action, ("drop", "convert"), name="action")
    asked = [
        (place, at)
        for place, row in enumerate(rows)
        if is_text(row) and row.label is None
        for at, negative in enumerate(row.negatives)
        if isinstance(negative, str)
    ]
    total = sum(len(row.negatives) for row in rows)
    synthesizer.skip("relabel", "not a pair of plain texts", total - len(asked))
    requests = [
        relabel_request(str(rows[p].anchor), str(rows[p].positive), str(rows[p].negatives[at]))
        for p, at in asked
    ]
    decisions = []
    false: dict[int, dict[int, Answered]] = {}
    for (place, at), answered in zip(
        asked, synthesizer.ask(requests, generators=generators), strict=True
    ):
        if answered is None:
            decisions.append(Decision(place, at, "unjudged", "no usable verdict", ""))
            continue
        word = "kept"
        if answered.answer.verdict == "relevant":
            word = "dropped" if action == "drop" else "converted"
            false.setdefault(place, {})[at] = answered
        reason = answered.answer.reason
        decisions.append(Decision(place, at, word, reason, answered.generator))
    made: list[Row] = []
    for place, row in enumerate(rows):
        made += _without_false(row, false.get(place, {}), convert=action == "convert")
    return Relabelled(RowSet(made), tuple(decisions))


def _without_false(row: Row, false: Mapping[int, Answered], *, convert: bool) -> list[Row]:
    """Return a row without its false negatives, and the rows these become."""
    if not false:
        return [row]
    keep = [at for at in range(len(row.negatives)) if at not in false]
    scores = row.teacher_scores
    kept = replace(
        row,
        negatives=tuple(row.negatives[at] for at in keep),
        teacher_scores=scores and (scores[0], *(scores[1 + at] for at in keep)),
        provenance=extended(row, "relabel", next(iter(false.values()))),
    )
    if not convert:
        return [kept]
    return [
        kept,
        *(
            replace(
                kept,
                positive=row.negatives[at],
                positive_id=None,
                teacher_scores=scores and (scores[1 + at], *(scores[1 + k] for k in keep)),
                provenance=extended(row, "relabel", answered, converted=str(at)),
            )
            for at, answered in false.items()
        ),
    ]


def _drawn(row: Row, what: str, seed: int) -> float:
    """Return a number in [0, 1) that depends on the row, the purpose and the seed alone."""
    return derive_seed(seed, what, str(row.anchor), str(row.positive)) / 2**63
