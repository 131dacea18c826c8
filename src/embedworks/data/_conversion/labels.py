"""Converters of classified texts: examples of a class, names of a class, one of two labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from embedworks._core.registry import did_you_mean
from embedworks._core.seeding import generator
from embedworks.data._conversion.classes import (
    GuidedSampling,
    Members,
    draw_evenly,
    draw_guided,
)
from embedworks.data._conversion.records import Collector, Converted, RecordSource
from embedworks.data.rows import Row, content_key
from embedworks.errors import InputError

__all__ = ["binary_labels", "class_examples", "class_names"]


def class_examples(
    records: RecordSource,
    *,
    text: str = "text",
    label: str = "label",
    source: str = "default",
    source_column: str | None = None,
    num_negatives: int = 7,
    fewer: str = "keep",
    guide: GuidedSampling | None = None,
    seed: int = 0,
) -> Converted:
    """Pair every text with another one of its class; texts of other classes are negatives.

    Teaches clusters, and fits classes whose names say little; see `class_names` for the other
    form. Classes are told apart within a source. Rows keep their label, so that an objective
    can leave texts of the same class out of the negatives.

    Args:
        records: Where the records come from.
        text: Column of the text.
        label: Column of the class.
        source: Source name of the rows.
        source_column: Column that names each record's source instead.
        num_negatives: Negatives per row, drawn without repeats.
        fewer: "keep", "repeat" or "drop" a row for which there are not that many.
        guide: Draw by similarity; None draws evenly.
        seed: Seed of the draws.

    Raises:
        EmptyInputError: When no class has two members.
        InputError: When a source has one class only and negatives are wanted.

    Paper: Lee et al. 2024, arXiv 2405.17428 (example-based multi-class labels).

    Example:
        >>> records = [{"text": t, "label": t[0]} for t in ("a1", "a2", "b1", "b2", "c1")]
        >>> rows, report = class_examples(records, num_negatives=1)
        >>> rows[0].positive, rows[0].label, report.skipped
        ('a2', 'a', {'class has one member': 1})
    """
    found = Collector(
        "class_examples", records, [text, label], source=source, source_column=source_column
    )
    for name, numbers in _labelled(found, text, label).items():
        numbers = _without_single(found, numbers)
        if not numbers:
            continue
        classes = sorted({c for _, c in numbers})
        if len(classes) == 1 and num_negatives > 0:
            raise InputError(
                f"source {name!r} has one usable class only ({classes[0]!r}), so there are no "
                "negatives: add texts of another class or set num_negatives=0."
            )
        place_of = {c: i for i, c in enumerate(classes)}
        numbers.sort(key=lambda item: (place_of[item[1]], item[0]))
        places = np.array([n for n, _ in numbers])
        texts = [found.records[n][text] for n in places]
        members = Members.of(np.array([place_of[c] for _, c in numbers]))
        rng = generator(seed, "conversion", "class_examples", name)
        if guide is None:
            positives, negatives = draw_evenly(members, num_negatives, rng)
        else:
            vectors = guide.vectors_of(texts, places, len(found.records))
            positives, negatives = draw_guided(members, vectors, guide, num_negatives, rng)
        for here in np.argsort(places):
            row = Row(
                anchor=texts[here],
                positive=texts[positives[here]],
                negatives=tuple(texts[n] for n in negatives[here]),
                source=name,
                label=numbers[here][1],
            )
            found.add(int(places[here]), row)
    return found.finish(num_negatives=num_negatives, fewer=fewer, seed=seed)


def _labelled(found: Collector, text: str, label: str) -> dict[str, list[tuple[int, str]]]:
    """Return usable ``(record, label)`` by source: distinct texts with exactly one label."""
    labels: dict[tuple[str, int], set[str]] = {}
    usable: list[tuple[int, str, int, str]] = []
    for number in range(len(found.records)):
        value, name = found.input(number, text), found.source_of(number)
        of_class = found.label(number, label)
        if value is None or of_class is None:
            continue
        key = content_key(value)
        known = labels.setdefault((name, key), set())
        if of_class in known:
            found.skip(number, "duplicate")
            continue
        known.add(of_class)
        usable.append((number, name, key, of_class))
    groups: dict[str, list[tuple[int, str]]] = {}
    for number, name, key, of_class in usable:
        if len(labels[name, key]) > 1:
            found.skip(number, "text has several labels")
        else:
            groups.setdefault(name, []).append((number, of_class))
    return groups


def _without_single(found: Collector, numbers: list[tuple[int, str]]) -> list[tuple[int, str]]:
    counts: dict[str, int] = {}
    for _, of_class in numbers:
        counts[of_class] = counts.get(of_class, 0) + 1
    for number, of_class in numbers:
        if counts[of_class] == 1:
            found.skip(number, "class has one member")
    return [item for item in numbers if counts[item[1]] > 1]


def class_names(
    records: RecordSource,
    *,
    text: str = "text",
    label: str = "label",
    names: Mapping[Any, str] | None = None,
    source: str = "default",
    source_column: str | None = None,
    num_negatives: int | None = 7,
    fewer: str = "keep",
    seed: int = 0,
) -> Converted:
    """Pair every text with the name of its class; names of other classes are negatives.

    Teaches what classes mean, and mixes well with generated rows, which bring misleading names
    of their own. See `class_examples` for the other form.

    Args:
        records: Where the records come from.
        text: Column of the text.
        label: Column of the class.
        names: Label -> name; None takes the labels themselves, which must then be words.
        source: Source name of the rows.
        source_column: Column that names each record's source instead.
        num_negatives: Wrong names per row; None takes all of them.
        fewer: "keep", "repeat" or "drop" a row for which there are not that many.
        seed: Seed of the draws.

    Raises:
        InputError: When a source has fewer than two class names, two labels share a name, a
            label has no name, or labels are numbers without names.

    Paper: Babakhin et al. 2025, arXiv 2511.07025 (label names as positives).

    Example:
        >>> records = [{"text": "where is my card", "label": 0}, {"text": "hi", "label": 1}]
        >>> rows, report = class_names(records, names={0: "lost card", 1: "greeting"})
        >>> rows[0].positive, rows[0].negatives
        ('lost card', ('greeting',))
    """
    found = Collector(
        "class_names", records, [text, label], source=source, source_column=source_column
    )
    return _by_name(found, text, label, names, num_negatives=num_negatives, fewer=fewer, seed=seed)


def binary_labels(
    records: RecordSource,
    *,
    text: str = "text",
    label: str = "label",
    names: Mapping[Any, str] | None = None,
    source: str = "default",
) -> Converted:
    """Pair every text with the right one of two label texts; the other one is the negative.

    Args:
        records: Where the records come from.
        text: Column of the text.
        label: Column of the label.
        names: Label -> text, for example ``{0: "not toxic", 1: "toxic"}``; None takes the
            labels themselves, which must then be words.
        source: Source name of the rows.

    Raises:
        InputError: When there are not exactly two labels, or labels are numbers without names.

    Paper: Lee et al. 2024, arXiv 2405.17428 (binary classification).

    Example:
        >>> records = [{"text": "fine", "label": 1}, {"text": "awful", "label": 0}]
        >>> rows, _ = binary_labels(records, names={0: "negative", 1: "positive"})
        >>> rows[1].positive, rows[1].negatives
        ('negative', ('positive',))
    """
    found = Collector("binary_labels", records, [text, label], source=source)
    return _by_name(found, text, label, names, num_negatives=1, exactly=2)


def _by_name(
    found: Collector,
    text: str,
    label: str,
    names: Mapping[Any, str] | None,
    *,
    num_negatives: int | None,
    fewer: str = "keep",
    seed: int = 0,
    exactly: int | None = None,
) -> Converted:
    groups = _labelled(found, text, label)
    spelled = None if names is None else {str(key): name for key, name in names.items()}
    for name, numbers in groups.items():
        present = sorted({of_class for _, of_class in numbers})
        table = _name_table(present, spelled, name)
        if len(table) < 2 or (exactly is not None and len(table) != exactly):
            raise InputError(
                f"source {name!r} needs {'two' if exactly else 'at least two'} labels, "
                f"got {len(table)}: {list(table)[:5]}. Wrong labels are the negatives."
            )
        rng = generator(seed, "conversion", found.converter, name)
        every = list(table.values())
        for number, of_class in numbers:
            wrong = [other for other in every if other != table[of_class]]
            if num_negatives is not None and 0 <= num_negatives < len(wrong):
                chosen = rng.choice(len(wrong), size=num_negatives, replace=False)
                wrong = [wrong[i] for i in chosen]
            row = Row(
                anchor=found.records[number][text],
                positive=table[of_class],
                negatives=tuple(wrong),
                source=name,
                label=of_class,
            )
            found.add(number, row)
    return found.finish(num_negatives=num_negatives, fewer=fewer, seed=seed)


def _name_table(
    present: Sequence[str], names: Mapping[str, str] | None, source: str
) -> dict[str, str]:
    """Return label -> name for all labels of a source; names of absent labels are negatives too."""
    if names is None:
        if all(_is_number(p) for p in present):
            raise InputError(
                f"the labels of source {source!r} are numbers ({', '.join(present[:5])}), which "
                "say nothing: give their names, for example names={'0': 'negative', ...}."
            )
        return {p: p for p in present}
    for of_class in present:
        if not names.get(of_class, "").strip():
            raise InputError(
                f"label {of_class!r} has no name. {did_you_mean(of_class, list(names))}"
            )
    if len(set(names.values())) != len(names):
        raise InputError(f"two labels have the same name: {dict(names)!r:.200}.")
    return dict(names)


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True
