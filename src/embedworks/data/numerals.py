"""Numbers in texts, brought to one form before a tokenizer cuts them."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Literal

from embedworks._core.validation import check_choice

__all__ = ["UNITS", "normalize_numbers"]

#: Unit -> the unit it is counted in, and how many of them it is.
UNITS: dict[str, tuple[str, Decimal]] = {
    unit: (base, Decimal(factor))
    for base, units in {
        "m": {"m": "1", "km": "1000", "cm": "0.01", "mm": "0.001"},
        "g": {"g": "1", "kg": "1000", "mg": "0.001"},
        "s": {"s": "1", "ms": "0.001", "min": "60", "h": "3600"},
        "B": {"B": "1", "kB": "1e3", "MB": "1e6", "GB": "1e9", "TB": "1e12"},
    }.items()
    for unit, factor in units.items()
}

_UNIT = "|".join(sorted(UNITS, key=len, reverse=True))
_NUMBER = re.compile(
    r"(?<![\w.,])(?<![0-9][-/:])(?:(?<![^\s([{<=])[-+\u2212])?"
    r"(?:[1-9][0-9]{0,2}(?:,[0-9]{3})+|0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]{1,3})?"
    rf"(?![-/:.,][0-9])(?:(?P<gap> ?)(?P<unit>{_UNIT})(?!\w)|(?!\w))"
)
_PLAIN_DIGITS = 21  # beyond so many places, and for very small numbers, the exponent is shorter


def normalize_numbers(
    text: str, *, form: Literal["plain", "scientific", "digits"] = "plain", units: bool = False
) -> str:
    """Write equal numbers equally: ``1,200``, ``1200.0`` and ``1.2e3`` are one number.

    A tokenizer cuts a number by its spelling, so spellings of one value have different vectors.
    Doing it twice changes nothing. Commas separate thousands and a point the decimals, as in
    English. What only looks like a number stays as it is: parts of words (``3D``), leading zeros
    (``007``), and numbers glued to others, as in dates, times, versions and ranges.

    Args:
        text: Any text.
        form: ``"plain"``: ``1200``; ``"scientific"``: ``1.2e3``, which shows the magnitude first;
            ``"digits"``: ``1 2 0 0``, one token a digit (Wallace et al. 2019, arXiv 1909.07940,
            find that models which see characters know numbers better).
        units: Also count units of `UNITS` in one: ``5 km`` becomes ``5000 m``.

    Raises:
        UnknownNameError: When there is no such form.

    Example:
        >>> normalize_numbers("1,200 of 2.50e3, on 2024-11-07")
        '1200 of 2500, on 2024-11-07'
        >>> normalize_numbers("a walk of 5km", form="scientific", units=True)
        'a walk of 5e3 m'
    """
    check_choice(form, ("plain", "scientific", "digits"), name="form")

    def write(found: re.Match[str]) -> str:
        unit, gap = found["unit"], found["gap"] or ""
        spelt = found[0][: -len(gap + unit)] if unit else found[0]
        value = Decimal(spelt.replace(",", "").replace("\u2212", "-"))
        if unit and units:
            gap, (unit, factor) = " ", UNITS[unit]
            value *= factor
        number = _scientific(value) if form == "scientific" else _plain(value)
        return (" ".join(number) if form == "digits" else number) + gap + (unit or "")

    return _NUMBER.sub(write, text)


def _plain(value: Decimal) -> str:
    if value == 0:
        return "0"
    if not -7 <= value.adjusted() < _PLAIN_DIGITS:
        return _scientific(value)
    spelt = f"{value:f}"
    return spelt.rstrip("0").rstrip(".") if "." in spelt else spelt


def _scientific(value: Decimal) -> str:
    if value == 0:
        return "0e0"
    sign, digits, _ = value.as_tuple()
    spelt = "".join(map(str, digits)).strip("0")
    mantissa = spelt[0] + ("." + spelt[1:] if spelt[1:] else "")
    return f"{'-' if sign else ''}{mantissa}e{value.adjusted()}"
