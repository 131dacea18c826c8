"""The offline generator: rules and tables behind the interface of a language model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from embedworks.data._synthesis.rule_language import (
    contradicts,
    falsified,
    headline,
    is_english,
    is_keywords,
    key_terms,
    mid_sentence_names,
    opening_of,
    paraphrased,
    question_about,
    sentence_list,
    split_title,
)
from embedworks.data._synthesis.rule_rows import make_row, make_tasks
from embedworks.data._synthesis.text_checks import normalized, numbers_of
from embedworks.data._terms import STOP_WORDS
from embedworks.data._words import words_of
from embedworks.data.chunking import estimate_tokens
from embedworks.data.generators import Completion, Message
from embedworks.data.synthesis_tasks import payload_of
from embedworks.errors import InputError

__all__ = ["RuleBasedGenerator"]

_SEARCH_FORMS = (
    "Find the passage that explains {}.",
    "Look for a text on {}.",
    "Show me what is written about {}.",
    "Search for the section that deals with {}.",
)
_FALLBACK_QUESTIONS = ("What should I know about {}?", "What is said about {}?")


class _Declined(Exception):  # noqa: N818 - an outcome, not an error
    """The rules do not reach; carries the reason."""


class RuleBasedGenerator:
    """Writes synthetic text by rules: offline, at once, the same for the same seed.

    It reads the JSON input of a request and answers in the form asked for, so every step runs
    without a language model. It stands in for one in tests and demonstrations, serves as the
    floor a language model should beat, and gives usable rows from your own documents where
    none may leave the house.

    What it does: questions, keywords, requests and titles from sentence patterns; paraphrases
    by moving clauses and exchanging words of a small table; new pairs from a sibling passage
    or another sentence; hard negatives by changing numbers, names and directions, or from a
    sibling passage; tasks and rows from templates over fourteen domains; verdicts by shared
    words. What it is not: it understands nothing. Its patterns are English, and it declines
    other languages except for keywords, titles and the fixed phrases of bitext (English,
    German, French, Spanish); its rows from scratch are monotonous; its paraphrases may sound
    odd; personas and sampling temperature change nothing. Of what it declines nothing is made
    up: the item is dropped and counted.

    Example:
        >>> from embedworks.data.synthesis_tasks import query_request
        >>> asked = query_request("To bake bread, mix flour and water.", style="question")
        >>> rules = RuleBasedGenerator()
        >>> rules.complete(asked.messages(), seed=0, max_tokens=100, temperature=0).text
        '{"query": "How do I bake bread?"}'
    """

    @property
    def identity(self) -> str:
        """Name and version of the rules."""
        return "rule-based-1"

    def complete(
        self,
        messages: Sequence[Message],
        *,
        seed: int,
        max_tokens: int,
        temperature: float,
        response_schema: Mapping[str, Any] | None = None,
    ) -> Completion:
        """Answer the request that the messages hold.

        Raises:
            InputError: When they hold none, or one of an unknown step.
        """
        payload = payload_of(messages)
        attempt = sum(m.role == "assistant" for m in messages)
        rng = np.random.default_rng([seed, attempt])
        step = payload.get("step")
        makers = {
            "brainstorm": _brainstorm,
            "rows": _row,
            "queries": _query,
            "paraphrase": _paraphrase,
            "augment": _augment,
            "hard-negatives": _negative,
            "relabel": _verdict,
        }
        if step not in makers:
            raise InputError(f"the rules know no step {step!r}, only {', '.join(makers)}.")
        try:
            answer = makers[step](payload, rng)
        except _Declined as reason:
            answer = {"declined": str(reason)}
        text = json.dumps(answer, ensure_ascii=False)
        read, written = sum(estimate_tokens([m.content for m in messages])), estimate_tokens([text])
        return Completion(text, read, written[0], self.identity)


def _brainstorm(payload: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    tasks = make_tasks(
        payload["task_type"],
        payload["count"],
        payload["batch"],
        rng,
        topics=payload["topics"],
        languages=payload.get("languages", ("", "")),
    )
    if not tasks:
        raise _Declined("the tables hold no further tasks")
    return {"tasks": tasks}


def _row(payload: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    row = make_row(
        payload["task_type"], payload["task"], rng, languages=payload.get("languages", ())
    )
    if isinstance(row, str):
        raise _Declined(row)
    return dict(row)


def _query(payload: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    return {"query": _query_for(payload["passage"], payload["title"], payload["style"], rng)}


def _query_for(passage: str, title: str, style: str, rng: np.random.Generator) -> str:
    if style == "keywords":
        terms = key_terms(passage, int(rng.integers(3, 7)))
        if len(terms) < 3:
            raise _Declined("too few words for a keyword query")
        return " ".join(terms)
    if style == "title":
        name = headline(passage, title)
        if name is None or normalized(name) == normalized(passage):
            raise _Declined("no title can be made")
        return name
    if not is_english(passage):
        raise _Declined("the patterns are English")
    subject = headline("", title) or " and ".join(key_terms(passage, 2))
    if not subject:
        raise _Declined("too few words for a question")
    if style == "question":
        asked = question_about(passage, rng)
        return asked or _FALLBACK_QUESTIONS[int(rng.integers(2))].format(subject)
    return _SEARCH_FORMS[int(rng.integers(len(_SEARCH_FORMS)))].format(subject)


def _paraphrase(payload: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    fields = [name for name in ("query", "positive") if name in payload]
    if not is_english(" ".join(payload[name] for name in fields)):
        raise _Declined("the patterns are English")
    made: dict[str, Any] = {name: paraphrased(payload[name], rng, strength=0.9) for name in fields}
    query = payload["query"].split()
    if made["query"] == payload["query"] and len(query) >= 3 and is_keywords(payload["query"]):
        turn = int(rng.integers(1, len(query)))
        made["query"] = " ".join(query[turn:] + query[:turn])
    for name in fields:
        if normalized(made[name]) == normalized(payload[name]):
            raise _Declined(f"no rule fits the {name}")
    return made


def _augment(payload: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    query, positive = payload["query"], payload["positive"]
    siblings = [text for text in payload["context"] if normalized(text) != normalized(positive)]
    if siblings:
        text = siblings[int(rng.integers(len(siblings)))]
    else:
        text = _another_part(query, positive)
    if not is_english(text):
        raise _Declined("the patterns are English")
    styles = ("question", "keywords", "instruction")
    return {
        "query": _query_for(split_title(text)[1], "", styles[int(rng.integers(len(styles)))], rng),
        "positive": text,
    }


def _another_part(query: str, positive: str) -> str:
    """Return the half of a passage that has less to do with the query."""
    title, body = split_title(positive)
    parts = sentence_list(body)
    if len(parts) < 4:
        raise _Declined("no sibling passage, and the passage is too short to be divided")
    half = len(parts) // 2
    asked = set(words_of(query))
    halves = [title + " ".join(parts[:half]), title + " ".join(parts[half:])]
    return min(halves, key=lambda text: len(asked & set(words_of(text))))


def _negative(payload: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    strategy = payload["strategy"]
    order = [strategy, *(s for s in ("other-facet", "off-target", "mixed") if s != strategy)]
    taken = {normalized(text) for text in (*payload["known"], payload["positive"])}
    for name in order:
        text = _negative_by(name, payload, rng)
        if text and normalized(text) not in taken:
            return {"hard_negative": text}
    raise _Declined("no number, name or direction to change, and no sibling passage")


def _negative_by(strategy: str, payload: dict[str, Any], rng: np.random.Generator) -> str | None:
    positive, context = payload["positive"], payload["context"]
    if strategy == "off-target":
        return falsified(positive, rng)
    if not context:
        return None
    title, body = split_title(context[int(rng.integers(len(context)))])
    if strategy == "other-facet":
        return _fitted(title, body, len(positive))
    title, own = split_title(positive)
    # The opening of a passage often answers: it stays only when it can be falsified.
    changed = falsified(opening_of(own, 1), rng)
    return _fitted(title, f"{changed} {body}", len(positive)) if changed else None


def _fitted(title: str, text: str, size: int) -> str | None:
    """Return whole sentences of about a length, or None when they stay far from it."""
    made = title + opening_of(text, int(1.5 * size) - len(title))
    return made if 0.5 * size <= len(made) <= 2 * size else None


def _verdict(payload: dict[str, Any], _: np.random.Generator) -> dict[str, Any]:
    """Judge by shared words: the same numbers and names, and most words of positive or query."""
    positive, candidate = payload["positive"], payload["candidate"]
    if set(numbers_of(positive)) != set(numbers_of(candidate)):
        return {"verdict": "irrelevant", "reason": "The numbers differ."}
    if contradicts(positive, candidate):
        return {"verdict": "irrelevant", "reason": "It says the opposite."}
    words, its_words = set(words_of(positive)), set(words_of(candidate))
    if not (mid_sentence_names(positive) <= its_words and mid_sentence_names(candidate) <= words):
        return {"verdict": "irrelevant", "reason": "The names differ."}
    terms, others = words - STOP_WORDS, its_words - STOP_WORDS
    asked = set(words_of(payload["query"])) & terms
    shared = len(terms & others) / max(1, len(terms | others))
    relevant = asked <= others and shared >= 0.6
    reason = f"It shares {shared:.0%} of the words with the positive."
    return {"verdict": "relevant" if relevant else "irrelevant", "reason": reason}
