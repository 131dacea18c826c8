"""Rows to the features of a batch, for sentence-transformers' trainer.

Each row gets the prompt of its own source, a fixed number of negatives, and the facts that
objectives ask about: source, class, ids, content keys, scores.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from embedworks._core.registry import did_you_mean
from embedworks._core.validation import check_choice
from embedworks.data.rows import Row, RowInput, RowSet, content_key
from embedworks.data.templates import Example, TaskPrompts, draw_examples
from embedworks.errors import BudgetError, InputError, UnknownNameError

__all__ = ["RowCollator"]

#: What stands for "not known" among keys and classes.
_UNKNOWN = -1


class RowCollator:
    """Turn row numbers into the columns of a batch: anchor, positive and K negatives.

    Made for a data set that holds row numbers in one column, ``row``, and for
    sentence-transformers' trainer: give it as ``data_collator``. The features of a column are
    named ``anchor_input_ids``, ``negative_1_attention_mask`` and so on; what is known about the
    rows travels among them, for `ContrastiveLoss`.

    Args:
        rows: All rows.
        preprocess: ``model.preprocess``: inputs to a dict of tensors. Inputs that are dicts are
            passed on as they are.
        prompts: Instruction by source; None for none.
        negatives: Negatives per row (K). A mapping gives one number per group of ``groups``. None
            takes the most that any row (of the group) has.
        groups: Source -> name of its group; sources of one group may share a batch. None puts
            all into one.
        missing: A row with fewer than K negatives: ``"mask"`` fills up with places that do not
            count, ``"resample"`` repeats its own. A row with none is masked either way.
        max_query_tokens: Longest anchor; None for the model's limit.
        drawn_examples: Source -> most few-shot examples drawn from the rest of the batch.
        count_tokens: Number of tokens of a text, special ones and any limit left out; few-shot
            prompts need it to keep their budget.
        seed: Seed of what is drawn.

    Attributes:
        sources: Names of the sources, in the order of ``row_source``.
        counts: Negatives per row, by group.
        without_examples: Rows shown so far without the examples drawn for them: none would fit.

    Raises:
        InputError: When K is smaller than 0, or a group that needs negatives has none at all.
        UnknownNameError: When a source has no prompt.

    Example:
        >>> rows = RowSet([Row("a", "b", ("c",)), Row("d", "e")])
        >>> def preprocess(inputs, **options):
        ...     return {"input_ids": torch.tensor([[ord(text)] for text in inputs])}
        >>> batch = RowCollator(rows, preprocess)([{"row": 0}, {"row": 1}])
        >>> sorted(key for key in batch if key.startswith("negative_1"))
        ['negative_1_input_ids', 'negative_1_row_key', 'negative_1_row_present']
        >>> batch["negative_1_row_present"]
        tensor([ True, False])
    """

    valid_label_columns = ("label",)

    def __init__(
        self,
        rows: RowSet,
        preprocess: Callable[..., Mapping[str, Any]],
        *,
        prompts: TaskPrompts | None = None,
        negatives: int | Mapping[str, int] | None = None,
        groups: Mapping[str, str] | None = None,
        missing: Literal["mask", "resample"] = "mask",
        max_query_tokens: int | None = None,
        drawn_examples: Mapping[str, int] | None = None,
        count_tokens: Callable[[str], int] | None = None,
        seed: int = 0,
    ) -> None:
        self.rows = rows
        self.preprocess = preprocess
        self.prompts = prompts
        self.missing = check_choice(missing, ("mask", "resample"), name="missing")
        self.max_query_tokens = max_query_tokens
        self.drawn_examples = dict(drawn_examples or {})
        self.count_tokens = count_tokens
        self.seed = seed
        self.sources = tuple(rows.sources)
        self._source_number = {name: place for place, name in enumerate(self.sources)}
        self._groups = dict(groups or {})
        self.counts = self._count(negatives)
        self.without_examples = 0
        self._keys: dict[int, tuple[int, ...]] = {}
        self._number_facts()
        if prompts is not None:
            for source in self.sources:
                prompts[source]  # an unknown source is an error now, not in the middle of a run

    def _count(self, negatives: int | Mapping[str, int] | None) -> dict[str, int]:
        most: dict[str, int] = {}
        for row in self.rows:
            group = self._groups.get(row.source, "")
            most[group] = max(most.get(group, 0), len(row.negatives))
        if negatives is None:
            return most
        wanted = negatives if isinstance(negatives, Mapping) else dict.fromkeys(most, negatives)
        for group, count in wanted.items():
            if group not in most:
                raise UnknownNameError(
                    f"negatives are given for the group {group!r}, which has no row. "
                    f"{did_you_mean(group, list(most))}"
                )
            if count < 0:
                raise InputError(f"negatives must be 0 or greater, got {count}.")
            if count and not most[group]:
                raise InputError(
                    f"{count} negatives per row were asked for, but no row "
                    f"{f'of {group!r} ' if group else ''}has any: mine some, or set 0."
                )
        return {group: wanted.get(group, count) for group, count in most.items()}

    def _number_facts(self) -> None:
        """Give classes and positive ids numbers; -1 stands for none."""
        classes: dict[tuple[str, str], int] = {}
        ids: dict[str, int] = {}
        self._class_of: list[int] = []
        self._id_of: list[int] = []
        #: Class of a text that stands in a labelled row of the source.
        self._known_class: dict[tuple[str, int], int] = {}
        for place, row in enumerate(self.rows):
            number = _UNKNOWN
            if row.label is not None:
                number = classes.setdefault((row.source, row.label), len(classes))
                for key in self._row_keys(place)[:2]:
                    self._known_class[row.source, key] = number
            self._class_of.append(number)
            self._id_of.append(
                _UNKNOWN if row.positive_id is None else ids.setdefault(row.positive_id, len(ids))
            )
        self.has_classes, self.has_ids = bool(classes), bool(ids)

    def _row_keys(self, place: int) -> tuple[int, ...]:
        """Return the content keys of a row's inputs; they are kept, as rows come again."""
        if place not in self._keys:
            row = self.rows[place]
            self._keys[place] = tuple(
                content_key(value) for value in (row.anchor, row.positive, *row.negatives)
            )
        return self._keys[place]

    def __call__(self, features: Sequence[Mapping[str, int]]) -> dict[str, Any]:
        """Return the features of a batch in one dict, as the trainer wants them.

        Args:
            features: ``{"row": number}`` for each row.
        """
        columns, label = self.columns([int(feature["row"]) for feature in features])
        batch = {
            f"{name}_{key}": value
            for name, column in columns.items()
            for key, value in column.items()
        }
        return batch if label is None else {**batch, "label": label}

    def columns(self, places: Sequence[int]) -> tuple[dict[str, dict[str, Any]], Tensor | None]:
        """Return the features of a batch by column, as a loss is called with them.

        Args:
            places: Numbers of the rows; all of one group.

        Returns:
            ``anchor``, ``positive``, ``negative_1``, ... with the features of each; and the rows'
            scores (B,), or None where a row has none.
        """
        rows = [self.rows[place] for place in places]
        count = self.counts[self._groups.get(rows[0].source, "")]
        chosen = [self._choose(place, count) for place in places]
        shown = self._prompted(rows, places)
        inputs: dict[str, list[RowInput]] = {
            "anchor": [row.anchor for row in shown],
            "positive": [row.positive for row in shown],
        }
        keys = {
            "anchor": [self._row_keys(place)[0] for place in places],
            "positive": [self._row_keys(place)[1] for place in places],
        }
        facts: dict[str, dict[str, Tensor]] = {}
        for number in range(count):
            name = f"negative_{number + 1}"
            picked = [picks[number] for picks in chosen]
            inputs[name] = [
                _filler(row) if pick is None else row.negatives[pick]
                for row, pick in zip(shown, picked, strict=True)
            ]
            keys[name] = [
                self._row_keys(place)[_filler_place(row) if pick is None else 2 + pick]
                for row, place, pick in zip(shown, places, picked, strict=True)
            ]
            facts[name] = {"row_present": torch.tensor([pick is not None for pick in picked])}
            if self.has_classes:
                facts[name]["row_negative_class"] = torch.tensor(
                    [self._negative_class(p, pick) for p, pick in zip(places, picked, strict=True)]
                )
        facts["anchor"] = self._row_facts(rows, places, chosen)
        found = {}
        for name, texts in inputs.items():
            options: dict[str, Any] = {}
            if name == "anchor" and self.max_query_tokens is not None:
                options["max_length"] = self.max_query_tokens
            found[name] = {
                **self.preprocess(texts, **options),
                "row_key": torch.tensor(keys[name], dtype=torch.int64),
                **facts.get(name, {}),
            }
        scores = [row.score for row in rows if row.score is not None]
        label = torch.tensor(scores, dtype=torch.float32) if len(scores) == len(rows) else None
        return found, label

    def _negative_class(self, place: int, pick: int | None) -> int:
        if pick is None:
            return _UNKNOWN
        key = (self.rows[place].source, self._row_keys(place)[2 + pick])
        return self._known_class.get(key, _UNKNOWN)

    def _choose(self, place: int, count: int) -> list[int | None]:
        """Return which of a row's negatives are used; None for a place that does not count."""
        available = len(self.rows[place].negatives)
        picks: list[int | None] = list(range(min(available, count)))
        if self.missing == "resample" and available:
            picks += [number % available for number in range(available, count)]
        return picks + [None] * (count - len(picks))

    def _prompted(self, rows: Sequence[Row], places: Sequence[int]) -> list[Row]:
        if self.prompts is None:
            return list(rows)
        most = max((self.drawn_examples.get(row.source, 0) for row in rows), default=0)
        drawn: list[tuple[Example, ...]] = [()] * len(rows)
        if most:
            # A function of the batch alone, so that a resumed training draws the same.
            step = hash(tuple(places)) & 0x7FFFFFFF
            drawn = draw_examples(rows, max_examples=most, seed=self.seed, step=step)
        shown = []
        for row, examples in zip(rows, drawn, strict=True):
            limit = self.drawn_examples.get(row.source)
            try:
                shown.append(self._shown(row, None if limit is None else examples[:limit]))
            except BudgetError:
                if not limit or not examples:
                    raise
                # Not even one of the drawn examples fits beside the query.
                shown.append(self._shown(row, ()))
                self.without_examples += 1
        return shown

    def _shown(self, row: Row, examples: Sequence[Example] | None) -> Row:
        assert self.prompts is not None  # else nothing is put before a text
        return self.prompts.apply(
            row,
            count_tokens=self.count_tokens,
            truncate=None if self.count_tokens is None else self._truncate,
            examples=examples,
        )

    def _truncate(self, text: str, tokens: int) -> str:
        """Return the longest beginning of at most that many tokens."""
        assert self.count_tokens is not None  # else nothing is shortened
        low, high = 0, len(text)
        while low < high:
            middle = (low + high + 1) // 2
            if self.count_tokens(text[:middle]) <= tokens:
                low = middle
            else:
                high = middle - 1
        return text[:low]

    def _row_facts(
        self,
        rows: Sequence[Row],
        places: Sequence[int],
        chosen: Sequence[Sequence[int | None]],
    ) -> dict[str, Tensor]:
        facts = {"row_source": torch.tensor([self._source_number[r.source] for r in rows])}
        if self.has_classes:
            facts["row_class"] = torch.tensor([self._class_of[p] for p in places])
        if self.has_ids:
            facts["row_id"] = torch.tensor([self._id_of[p] for p in places])
        if all(row.teacher_scores is not None for row in rows):
            facts["row_teacher_scores"] = _teacher_scores(rows, chosen)
        return facts


def _filler_place(row: Row) -> int:
    """Return which input stands where there is no negative: the anchor, if it is a text.

    It is as short as any, and a guide knows it; masks see to it that it does not count.
    """
    return 0 if isinstance(row.anchor, str) and isinstance(row.positive, str) else 1


def _filler(row: Row) -> RowInput:
    return row.anchor if _filler_place(row) == 0 else row.positive


def _teacher_scores(rows: Sequence[Row], chosen: Sequence[Sequence[int | None]]) -> Tensor:
    """Return float (B, 1 + K); places that do not count hold the row's lowest score."""
    lines = []
    for row, picks in zip(rows, chosen, strict=True):
        scores = row.teacher_scores
        assert scores is not None  # the caller has looked
        lowest = min(scores)
        lines.append([scores[0], *(lowest if pick is None else scores[1 + pick] for pick in picks)])
    return torch.tensor(lines, dtype=torch.float32)
