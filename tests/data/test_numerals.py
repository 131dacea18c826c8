"""Numbers in one form: equal values are spelt equally, twice is once, the rest of a text stays."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedworks.data import normalize_numbers
from embedworks.errors import UnknownNameError

FORMS = ("plain", "scientific", "digits")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "spellings",
    [
        ("1,200", "1200", "1200.0", "1.2e3", "1.200E+3", "+1200"),
        ("-0.050", "-5e-2", "\u22120.05"),
        ("0", "0.0", "-0", "0e9"),
        ("12,345,678.50", "12345678.5"),
        ("1e40", "10e39", "1" + "0" * 40),
    ],
)
def test_equal_numbers_are_spelt_equally(form, spellings):
    written = {normalize_numbers(f"about {number}, he said.", form=form) for number in spellings}
    assert len(written) == 1
    assert written != {normalize_numbers("about 77, he said.", form=form)}


def test_forms_as_written():
    assert normalize_numbers("1,234.50 or 0.00012") == "1234.5 or 0.00012"
    assert normalize_numbers("1,234.50 or 0.00012", form="scientific") == "1.2345e3 or 1.2e-4"
    assert normalize_numbers("1,234.50", form="digits") == "1 2 3 4 . 5"
    assert normalize_numbers("5 km, 2.5h and 3,000 kB, 7 miles", units=True) == (
        "5000 m, 9000 s and 3000000 B, 7 miles"
    )
    assert normalize_numbers("1,500kg") == "1500kg"
    with pytest.raises(UnknownNameError, match="plain"):
        normalize_numbers("1", form="plane")


@pytest.mark.parametrize(
    "text",
    [
        "3D", "x2", "007", "v1.2.3", "1.2.3", "2024-11-07", "10:30", "1/2", "5-10", "1,2,3",
        "1,20", "12,3456", "a_1", "\u0663", "utf8", "4th", "0,5", "192.168.0.1", "1.200,50",
    ],
)  # fmt: skip
@pytest.mark.parametrize("form", FORMS)
def test_what_only_looks_like_a_number_stays(form, text):
    assert normalize_numbers(f"see {text} here", form=form, units=True) == f"see {text} here"


@given(
    st.lists(
        st.one_of(
            st.decimals(allow_nan=False, allow_infinity=False, places=3).map(str),
            st.integers().map(lambda n: f"{n:,}"),
            st.text(alphabet="0123456789.,-+eE kmgsBin:/", max_size=12),
        ),
        max_size=5,
    ).map(" ".join),
    st.sampled_from(FORMS),
    st.booleans(),
)
def test_twice_is_once(text, form, units):
    once = normalize_numbers(text, form=form, units=units)
    assert normalize_numbers(once, form=form, units=units) == once


@given(st.decimals(min_value=-(10**9), max_value=10**9, places=4))
def test_values_are_kept_exactly(value):
    for form in ("plain", "scientific"):
        assert Decimal(normalize_numbers(f"{value:,f}", form=form)) == value
