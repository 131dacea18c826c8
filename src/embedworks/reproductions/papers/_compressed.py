"""What the entries of BiDR share: frozen vectors of titles and abstracts, and the first search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from embedworks.reproductions import Context, FrozenVectors, RetrievalWorld, acl_retrieval

__all__ = ["Pairs", "Questions", "outcome_of", "title_vectors"]


@dataclass(frozen=True)
class Questions:
    """Questions to score: their ids, unit vectors (Q, D) and one document number each."""

    ids: Sequence[str]
    vectors: np.ndarray
    positives: np.ndarray


@dataclass(frozen=True)
class Pairs:
    """Documents that are searched, the pairs one seed trains on, and the questions."""

    documents: np.ndarray
    queries: np.ndarray
    positives: np.ndarray
    questions: Mapping[str, Questions]


def title_vectors(settings: Mapping[str, Any], context: Context, *, seed: int) -> Pairs:
    """Return titles as queries and all abstracts as documents; a seed draws its own 80 %.

    Validation and test have questions of their own and search the same documents. With a setting
    ``held_out``, so many further pairs are never trained on; their titles join the test.
    """
    held_out = settings.get("held_out", 0)
    world: RetrievalWorld = acl_retrieval(
        settings["rows"] + held_out, queries=settings["queries"], seed=0
    )
    rows = list(world.train)
    trained = len(rows) - held_out
    texts = [str(row.positive) for row in rows]
    tasks = {"validation": world.validation, "test": world.test}
    place: dict[str, int] = {}
    for task in tasks.values():
        assert isinstance(task.corpus, Mapping)
        for name, text in task.corpus.items():
            place[name] = len(texts)
            texts.append(text)
    frozen = context.once(
        ("frozen",),
        lambda: FrozenVectors(settings["model"], cache=context.cache, device=context.device),
    )
    titles = [str(row.anchor) for row in rows]
    asked = [list(task.queries.values()) for task in tasks.values()]
    every = frozen([*texts, *titles, *asked[0], *asked[1]])
    parts = np.split(every, np.cumsum([len(texts), len(titles), len(asked[0])]))
    drawn = np.random.default_rng([seed, 1]).permutation(trained)[: trained * 4 // 5]
    questions = {
        name: Questions(
            list(task.queries), vectors, np.array([place[query] for query in task.queries])
        )
        for (name, task), vectors in zip(tasks.items(), parts[2:])
    }
    if held_out:
        test = questions["test"]
        questions["test"] = Questions(
            [*test.ids, *(str(row.positive_id) for row in rows[trained:])],
            np.concatenate([test.vectors, parts[1][trained:]]),
            np.concatenate([test.positives, np.arange(trained, len(rows))]),
        )
    return Pairs(
        documents=parts[0],
        queries=parts[1][drawn],
        positives=drawn.astype(np.int64),
        questions=questions,
    )


def outcome_of(
    found: np.ndarray, questions: Questions, cuts: Sequence[int]
) -> dict[str, dict[str, float]]:
    """Return recall at every cut and the reciprocal rank within ten, one item per question.

    Args:
        found: Documents of each question, best first, int (Q, K).
        questions: Whose positives count.
        cuts: At which ranks.
    """
    hit = found == questions.positives[:, None]
    items = {f"recall@{cut}": hit[:, :cut].any(axis=1).astype(float) for cut in cuts}
    first = hit[:, :10].argmax(axis=1)
    items["mrr@10"] = np.where(hit[:, :10].any(axis=1), 1 / (1 + first), 0.0)
    return {
        name: dict(zip(questions.ids, values.tolist(), strict=True))
        for name, values in items.items()
    }
