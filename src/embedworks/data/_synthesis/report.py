"""What synthesis did and what it cost: counts by step, by reason and by generator."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple

__all__ = ["Price", "StepReport", "SynthesisReport"]


class Price(NamedTuple):
    """Price of a model in any currency, per million tokens read and written."""

    prompt: float = 0.0
    completion: float = 0.0


@dataclass(slots=True)
class StepReport:
    """Counts of one step.

    Attributes:
        asked: Items asked for, equal ones once.
        accepted: Answers that passed every check.
        from_ledger: Items answered by the ledger, without a call.
        dropped: Items without an answer, by reason.
        skipped: Inputs the step does not apply to, by reason.
        seconds: Wall clock of the step, this time.
    """

    asked: int = 0
    accepted: int = 0
    from_ledger: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "asked": self.asked,
            "accepted": self.accepted,
            "from_ledger": self.from_ledger,
            "dropped": dict(sorted(self.dropped.items())),
            "skipped": dict(sorted(self.skipped.items())),
            "seconds": round(self.seconds, 3),
        }


@dataclass(slots=True)
class GeneratorReport:
    """Counts of one generator; tokens and cost include answers taken from the ledger."""

    items: int = 0
    calls: int = 0
    calls_now: int = 0
    corrections: int = 0
    retries: int = 0
    dropped: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0

    def add(self, record: dict[str, Any], *, now: bool) -> None:
        """Count one ledger record."""
        self.items += 1
        self.calls += record["calls"]
        self.calls_now += record["calls"] if now else 0
        self.corrections += max(0, record["calls"] - 1)
        self.retries += record["retries"]
        self.dropped += record["answer"] is None
        self.prompt_tokens += record["prompt_tokens"]
        self.completion_tokens += record["completion_tokens"]
        self.seconds += record["seconds"]

    def cost(self, price: Price) -> float:
        """Return what the tokens cost."""
        return (self.prompt_tokens * price.prompt + self.completion_tokens * price.completion) / 1e6


@dataclass(slots=True)
class SynthesisReport:
    """What a `Synthesizer` did so far.

    Attributes:
        steps: Counts by step, in the order of their first use.
        generators: Calls, tokens and cost by generator.
        prices: Price by generator.
        repaired: Bytes of a half-written line that were cut off the ledger.
    """

    steps: dict[str, StepReport] = field(default_factory=dict)
    generators: dict[str, GeneratorReport] = field(default_factory=dict)
    prices: dict[str, Price] = field(default_factory=dict)
    repaired: int = 0

    def step(self, name: str) -> StepReport:
        """Return the counts of a step, new ones at its first use."""
        return self.steps.setdefault(name, StepReport())

    def generator(self, name: str) -> GeneratorReport:
        """Return the counts of a generator, new ones at its first use."""
        return self.generators.setdefault(name, GeneratorReport())

    @property
    def cost(self) -> float:
        """What all tokens cost, those of answers from the ledger included."""
        return sum(g.cost(self.prices.get(n, Price())) for n, g in self.generators.items())

    @property
    def calls_now(self) -> int:
        """Calls made by this process; the ledger's answers need none."""
        return sum(g.calls_now for g in self.generators.values())

    @property
    def dropped(self) -> dict[str, int]:
        """Items without an answer, by reason, over all steps."""
        total: Counter[str] = Counter()
        for step in self.steps.values():
            total.update(step.dropped)
        return dict(total.most_common())

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        generators = {}
        for name, g in self.generators.items():
            generators[name] = {
                "items": g.items,
                "calls": g.calls,
                "calls_now": g.calls_now,
                "corrections": g.corrections,
                "retries": g.retries,
                "dropped": g.dropped,
                "prompt_tokens": g.prompt_tokens,
                "completion_tokens": g.completion_tokens,
                "seconds": round(g.seconds, 3),
                "cost": round(g.cost(self.prices.get(name, Price())), 6),
            }
        return {
            "steps": {name: step.to_dict() for name, step in self.steps.items()},
            "generators": generators,
            "cost": round(self.cost, 6),
            "calls_now": self.calls_now,
            "ledger_bytes_repaired": self.repaired,
        }

    def summary(self) -> str:
        """Return a few lines of text for people."""
        lines = []
        for name, step in self.steps.items():
            line = f"{name}: {step.accepted:,} of {step.asked:,} accepted"
            for label, counts in (("dropped", step.dropped), ("skipped", step.skipped)):
                if counts:
                    reasons = ", ".join(f"{reason} {n:,}" for reason, n in counts.most_common())
                    line += f"; {label}: {reasons}"
            lines.append(f"{line}.")
        for name, g in self.generators.items():
            cost = g.cost(self.prices.get(name, Price()))
            lines.append(
                f"{name}: {g.calls:,} calls ({g.calls_now:,} now, {g.corrections:,} corrections, "
                f"{g.retries:,} retries), {g.prompt_tokens:,} tokens read and "
                f"{g.completion_tokens:,} written" + (f", cost {cost:.4f}." if cost else ".")
            )
        return "\n".join(lines)
