"""Attributes of documents: which values are kept, under which names, of which type.

An attribute becomes a column that can be filtered on, so its name must be an identifier, its
value a scalar, and its type the same in every document.
"""

from __future__ import annotations

import datetime as dt
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any, TypeAlias

from embedworks.data._words import word_list

Scalar: TypeAlias = str | int | float | bool

#: Names that rows of a collection use themselves; an attribute of that name gets a "_" after it.
RESERVED = word_list(
    """
    chunk_id doc_id title text path start_line end_line kind vector score
    """
)

_NOT_IDENTIFIER = re.compile(r"\W+", re.ASCII)
_UNSAFE = re.compile("[\x00\ud800-\udfff]")
_INT64 = 2**63


def clean_text(text: str) -> str:
    """Replace what cannot be stored as UTF-8 text: NUL by a space, lone surrogates by U+FFFD."""
    if _UNSAFE.search(text) is None:
        return text
    return _UNSAFE.sub(lambda m: " " if m.group() == "\x00" else "\ufffd", text)


def attribute_name(name: str) -> str:
    """Turn a column or front-matter key into an identifier that no row field uses.

    Example:
        >>> attribute_name("Publication date"), attribute_name("kind")
        ('Publication_date', 'kind_')
    """
    cleaned = _NOT_IDENTIFIER.sub("_", name).strip("_") or "column"
    if cleaned[0].isdigit():
        cleaned = "_" + cleaned
    return cleaned + "_" if cleaned.lower() in RESERVED else cleaned


def attribute_value(value: Any) -> Scalar | None:
    """Turn a value into a scalar, or None when it cannot be kept.

    Text, whole numbers, finite floats and booleans stay; dates become ISO text; lists of
    scalars are joined with ", ".
    """
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if -_INT64 <= value < _INT64 else str(value)
    if isinstance(value, (float, Decimal)):
        number = float(value)
        return number if math.isfinite(number) else None
    if isinstance(value, (dt.date, dt.time)):
        return value.isoformat()
    if isinstance(value, (list, tuple)):
        parts = [attribute_value(v) for v in value if not isinstance(v, (list, tuple, dict))]
        kept = [str(p) for p in parts if p is not None]
        return ", ".join(kept) if kept and len(kept) == len(value) else None
    return None


def collect_attributes(fields: Mapping[Any, Any], dropped: Counter[str]) -> dict[str, Scalar]:
    """Keep what can be kept of ``fields``; count in ``dropped`` what cannot, by name.

    Missing values (None, NaN, empty lists) are left out and not counted.
    """
    kept: dict[str, Scalar] = {}
    for key, value in fields.items():
        if value is None or value == [] or (isinstance(value, float) and math.isnan(value)):
            continue
        name = attribute_name(str(key))
        scalar = attribute_value(value)
        if scalar is None or name in kept:
            dropped[str(key)] += 1
        else:
            kept[name] = scalar
    return kept


def unify_types(all_attributes: Iterable[dict[str, Scalar]]) -> None:
    """Give each attribute one type over all documents, in place.

    Whole numbers beside floats become floats; any other mixture becomes text.
    """
    items = list(all_attributes)
    types: dict[str, set[type]] = {}
    for attributes in items:
        for name, value in attributes.items():
            types.setdefault(name, set()).add(type(value))
    for name, found in types.items():
        if len(found) == 1:
            continue
        target: type = float if found == {int, float} else str
        for attributes in items:
            if name in attributes:
                attributes[name] = target(attributes[name])
