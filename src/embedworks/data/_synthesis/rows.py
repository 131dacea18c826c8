"""What the steps of synthesis share: passages and their siblings, provenance, distinct rows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from embedworks._core.seeding import generator
from embedworks.data._synthesis.synthesizer import Answered, Synthesizer
from embedworks.data._synthesis.text_checks import normalized
from embedworks.data.chunking import Chunk, with_title
from embedworks.data.rows import Row, RowSet
from embedworks.errors import InputError

__all__ = [
    "Passage",
    "Siblings",
    "as_passage",
    "distinct_rows",
    "extended",
    "is_text",
    "nonempty",
    "provenance_of",
    "texts_only",
]

_CONTEXT_TEXTS = 3


@dataclass(frozen=True, slots=True)
class Passage:
    """A text that queries are written for.

    Attributes:
        text: The passage.
        title: Its title, if it has one.
        passage_id: Becomes ``positive_id`` of its rows.
        group: Passages of one group, such as a document, are siblings of each other.
    """

    text: str
    title: str = ""
    passage_id: str | None = None
    group: str | None = None

    @property
    def titled(self) -> str:
        """Title and text, the title only once."""
        return with_title(self.title, self.text)


def provenance_of(row: Row) -> list[dict[str, Any]]:
    """Return what happened to a row, first to last, as synthesis wrote it down.

    Each entry has ``step``, ``generator``, ``model`` and ``key`` (of the answer in the ledger);
    a provenance that synthesis did not write is one entry ``{"origin": ...}``.

    Example:
        >>> provenance_of(Row("a", "b", provenance="file.csv"))
        [{'origin': 'file.csv'}]
    """
    if row.provenance is None:
        return []
    try:
        value = json.loads(row.provenance)
    except ValueError:
        value = None
    if isinstance(value, list) and all(isinstance(entry, dict) for entry in value):
        return value
    return [{"origin": row.provenance}]


def extended(seed: Row | None, step: str, answered: Answered, **more: str) -> str:
    """Return a provenance with one more entry."""
    entry = {"step": step, "generator": answered.generator, "model": answered.model}
    entries = [] if seed is None else provenance_of(seed)
    return json.dumps([*entries, {**entry, "key": answered.key, **more}], ensure_ascii=False)


class Siblings:
    """Finds texts of the same group as a row's positive."""

    def __init__(
        self, passages: Sequence[str | Passage | Chunk], rows: Sequence[Row], seed: int
    ) -> None:
        known = [as_passage(p) for p in passages] or list(_positives(rows))
        self._seed = seed
        self._group_of = {p.passage_id: p.group for p in known if p.passage_id and p.group}
        self._groups: dict[str, list[Passage]] = {}
        for p in known:
            if p.group is not None:
                self._groups.setdefault(p.group, []).append(p)
        self._ids = {form: p.passage_id for p in known for form in (p.text, p.titled)}
        self._bare = {p.text for p in known}

    def id_of(self, text: str) -> str | None:
        """Return the id of a passage that is this very text."""
        return self._ids.get(text)

    def of(self, row: Row, step: str, turn: int) -> list[str]:
        """Return some siblings of the row's positive; none when its group is not known.

        They have their titles when the positive has: else a title would tell them apart.
        """
        group = self._groups.get(self._group_of.get(row.positive_id or "") or "", [])
        others = [p for p in group if p.passage_id != row.positive_id]
        bare = row.positive in self._bare
        texts = list(dict.fromkeys(p.text if bare else p.titled for p in others))
        texts = [text for text in texts if text != row.positive]
        if len(texts) <= _CONTEXT_TEXTS:
            return texts
        rng = generator(self._seed, "siblings", step, turn, str(row.anchor))
        return [texts[i] for i in rng.permutation(len(texts))[:_CONTEXT_TEXTS]]


def _positives(rows: Iterable[Row]) -> Iterable[Passage]:
    """Give the rows' own positives as passages: ids of chunks tell their document."""
    seen = set()
    for row in rows:
        if row.positive_id and "#" in row.positive_id and row.positive_id not in seen:
            seen.add(row.positive_id)
            group = row.positive_id.rsplit("#", 1)[0]
            yield Passage(str(row.positive), "", row.positive_id, group)


def as_passage(passage: str | Passage | Chunk) -> Passage:
    if isinstance(passage, Passage):
        return passage
    if isinstance(passage, Chunk):
        return Passage(passage.text, passage.title, passage.chunk_id, passage.doc_id)
    if isinstance(passage, str):
        return Passage(passage)
    raise InputError(f"a passage must be a text, Passage or Chunk, got {type(passage).__name__}.")


def is_text(row: Row) -> bool:
    return isinstance(row.anchor, str) and isinstance(row.positive, str)


def texts_only(rows: Sequence[Row], synthesizer: Synthesizer, step: str) -> list[Row]:
    usable = [row for row in rows if is_text(row)]
    synthesizer.skip(step, "not a text", len(rows) - len(usable))
    return usable


def nonempty(names: Sequence[str], what: str) -> Sequence[str]:
    if isinstance(names, str) or not names:
        raise InputError(f"{what} must be a list with at least one name, got {names!r}.")
    return names


def distinct_rows(
    made: Sequence[Row], seeds: Sequence[Row], synthesizer: Synthesizer, step: str
) -> RowSet:
    """Return new rows without those that repeat another or a seed; the repeats are counted."""
    seen = {_pair_key(row) for row in seeds}
    kept = []
    for row in made:
        key = _pair_key(row)
        if key in seen:
            synthesizer.skip(step, "duplicate row")
        else:
            seen.add(key)
            kept.append(row)
    return RowSet(kept)


def _pair_key(row: Row) -> tuple[str, str]:
    return tuple(
        normalized(value) if isinstance(value, str) else repr(value)
        for value in (row.anchor, row.positive)
    )  # type: ignore[return-value]
