"""Pages and plots: what they say, and that hostile text cannot break them."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest

from embedworks.errors import EmbedworksError, InputError
from embedworks.reproductions import (
    Comparison,
    render_index,
    render_page,
    render_plot,
    reproduce,
    write_pages,
)

SVG = "{http://www.w3.org/2000/svg}"


def table_rows(text):
    return [re.split(r"(?<!\\)\|", line) for line in text.splitlines() if line.startswith("|")]


def test_the_page_has_the_claim_the_verdict_and_every_comparison(make, tmp_path):
    result = reproduce(make(), out=tmp_path, device="cpu")
    page = (tmp_path / "toy.md").read_text(encoding="utf-8")
    for text in (
        "# toy", result.claim, result.falsifier, "Random numbers.", "Anything about the world.",
        "**Holds**", "toy-mini.svg", "arXiv 0000.00000", result.decisive.describe(),
        "within ±0.05", "above 0, 0.05 counts", "embedworks reproduce toy --scale mini",
        result.fingerprint[:12],
    ):  # fmt: skip
        assert text in page, text
    for name in ("treatment", "control", "placebo", "placebo is nothing"):
        assert name in page
    assert page == render_page([result])
    assert {len(row) for row in table_rows(page)} == {8, 7}


def test_the_index_is_the_ledger(make, tmp_path):
    reproduce(make(), out=tmp_path, device="cpu")
    reproduce(make(slug="other", treatment=0.0), out=tmp_path, device="cpu")
    index = (tmp_path / "index.md").read_text(encoding="utf-8")
    assert "1 holds, 1 fails" in index
    rows = table_rows(index)
    assert len({len(row) for row in rows}) == 1  # the bar in the claim does not make a cell
    assert [row[1].strip() for row in rows[2:]] == ["[other](other.md)", "[toy](toy.md)"]


def test_two_scales_share_a_page(make, tmp_path):
    entry = make(scales={"mini": {"steps": 10}, "gpu": {"steps": 20}})
    reproduce(entry, scale="gpu", out=tmp_path, device="cpu")
    reproduce(entry, scale="mini", out=tmp_path, device="cpu")
    page = (tmp_path / "toy.md").read_text(encoding="utf-8")
    assert page.index("Result at scale mini") < page.index("Result at scale gpu")
    assert {p.name for p in tmp_path.glob("*.svg")} == {"toy-mini.svg", "toy-gpu.svg"}


def test_other_json_files_are_left_alone(make, tmp_path):
    (tmp_path / "package.json").write_text('{"name": "x"}', encoding="utf-8")
    reproduce(make(), out=tmp_path, device="cpu")
    assert (tmp_path / "toy.md").is_file()


def test_the_plot_is_valid_and_complete(make, tmp_path):
    result = reproduce(
        make(
            decisive=Comparison.between(
                "treatment", "control", "score", name='<b>&"odd" name</b>', margin=0.05
            ),
        ),
        out=tmp_path,
        device="cpu",
    )
    tree = ET.fromstring(render_plot(result))
    dots = tree.findall(f"{SVG}circle")
    assert len(dots) == 3 + 3  # arms, comparisons
    texts = ["".join(text.itertext()) for text in tree.findall(f"{SVG}text")]
    assert '<b>&"odd" name</b>' in texts
    width, height = map(float, tree.get("viewBox").split()[2:])
    for dot in dots:
        assert 0 < float(dot.get("cx")) < width
        assert 0 < float(dot.get("cy")) < height
    # A dot lies in the middle of the span its axis gives: larger values further right.
    places = {name: float(dot.get("cx")) for name, dot in zip("tcp", dots)}
    assert places["t"] > places["c"]
    assert "script" not in render_plot(result)


def test_constant_values_can_be_drawn(make, tmp_path):
    result = reproduce(make(run=lambda *_: {"score": 1.0}), out=tmp_path, device="cpu")
    assert result.verdict == "fails"
    ET.fromstring((tmp_path / "toy-mini.svg").read_text(encoding="utf-8"))


def test_pages_need_records(make, tmp_path):
    with pytest.raises(EmbedworksError, match="no record"):
        write_pages(tmp_path)
    first = reproduce(make(), out=tmp_path, device="cpu")
    second = reproduce(make(slug="other"), out=tmp_path, device="cpu")
    with pytest.raises(InputError, match="one reproduction"):
        render_page([first, second])
    assert "So far: 2 holds" in render_index([first, second])
