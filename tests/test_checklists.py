"""The checklists of the surveys: every row once, and every name in them is really there."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"
ROOMS = (
    "", "data", "evaluation", "index", "losses", "merging", "models", "modules", "negatives",
    "reproductions", "training",
)  # fmt: skip
STATES = {"ours", "wrapped", "open", "out"}
PAGES = sorted((DOCS / "explanation").glob("survey-checklist*.md"))
_ROW = re.compile(r"^\| ([A-Z]\d\d) \| (.+?) \| (\w+) \| (.+) \|$", re.MULTILINE)

#: Page -> the first letter of its rows and their numbers.
EXPECTED = {
    "survey-checklist-general.md": {
        "G": {*range(1, 17), *range(20, 34), *range(40, 47), *range(50, 54), *range(60, 66),
              *range(70, 86)},
        "T": {*range(1, 8), *range(10, 19), *range(20, 24), *range(30, 34), *range(40, 54),
              *range(60, 66)},
    },
    "survey-checklist-llm.md": {
        "L": {*range(1, 16), *range(20, 31), *range(40, 46), *range(50, 55), *range(60, 66)},
    },
    "survey-checklist-words.md": {"W": {*range(1, 65)}},
}  # fmt: skip


def _public_names() -> set[str]:
    names: set[str] = set()
    for room in ROOMS:
        module = importlib.import_module(f"embedworks.{room}".rstrip("."))
        names.update(module.__all__)
    return names


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_rows_are_complete_and_their_states_known(page):
    rows = _ROW.findall(page.read_text(encoding="utf-8"))
    ids = [row for row, _, _, _ in rows]
    assert len(ids) == len(set(ids)), "a row stands twice"
    assert {state for _, _, state, _ in rows} <= STATES
    if page.name in EXPECTED:
        expected = {f"{a}{n:02}" for a, numbers in EXPECTED[page.name].items() for n in numbers}
        assert set(ids) == expected


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_names_in_rows_exist(page):
    public = _public_names()
    missing = {
        (row, name)
        for row, _, state, where in _ROW.findall(page.read_text(encoding="utf-8"))
        if state in ("ours", "wrapped")
        for name in re.findall(r"`([A-Za-z_]+)`", where)
        if name not in public and name != "privacy"
    }
    assert not missing
