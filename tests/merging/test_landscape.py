"""Surfaces of losses: values are those of the merges they stand for, the drawing is whole."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

pytest.importorskip("sentence_transformers")

import embedworks as ew
from embedworks.data import Row, RowSet
from embedworks.errors import InputError
from embedworks.merging import (
    CoefficientSearch,
    Landscape,
    Probe,
    TaskVectors,
    draw_landscape,
    loss_landscape,
    search_coefficients,
)
from embedworks.models import load_trainable

ROWS = RowSet(
    [
        *(Row(f"open file {n}", f"read file {n}", source="pairs") for n in range(12)),
        *(Row(f"sort {n}", f"order {n}", source="graded", score=n % 4) for n in range(12)),
    ]
)


@pytest.fixture
def parts(transformer_folder, varied):
    folders = [transformer_folder, *(varied(transformer_folder, f"m{n}", n) for n in range(3))]
    named = [dict(load_trainable(f, device="cpu").named_parameters()) for f in folders]
    model = load_trainable(transformer_folder, device="cpu").train()  # dropout must not count
    return TaskVectors(named[0], named[1:]), model, Probe(model, ROWS, batch_size=4)


def test_the_surface_passes_through_the_models(parts):
    vectors, model, probe = parts
    settings = CoefficientSearch(by="all", steps=1, batch_size=4)
    known = search_coefficients(vectors, model, probe, settings).tasks
    found = loss_landscape(vectors, model, probe, axes=(0, 2), span=(0.0, 1.0), steps=3)
    assert found.x == found.y == (0.0, 0.5, 1.0)
    assert found.rest == {1: 0.0}
    for task in ("pairs", "graded"):
        own = found.losses[task]
        assert own.shape == (3, 3)
        assert own[0, 0] == pytest.approx(known["base"][task], rel=1e-5)
        assert own[0, 2] == pytest.approx(known["model 1"][task], rel=1e-5)
        assert own[2, 0] == pytest.approx(known["model 3"][task], rel=1e-5)
    assert found.relative.min() >= 1.0
    assert ("model 3", 0.0, 1.0) in found.marks
    assert model.training


def test_unusable_surfaces(parts):
    vectors, model, probe = parts
    for axes in ((0, 0), (0, 3), (-1, 0)):
        with pytest.raises(InputError, match="axes must be two of the 3 models"):
            loss_landscape(vectors, model, probe, axes=axes)
    with pytest.raises(InputError, match="steps must be in"):
        loss_landscape(vectors, model, probe, steps=1)
    with pytest.raises(InputError, match="span must ascend"):
        loss_landscape(vectors, model, probe, span=(1.0, 0.0))


def test_the_drawing_is_one_whole_svg():
    values = np.array([[2.0, 1.0], [3.0, 4.0]])
    found = Landscape(
        (0.0, 1.0), (0.0, 1.0), {"a < b": values, "flat": np.ones((2, 2))}, (0, 1), {},
        (("base", 0.0, 0.0), ("found", 0.4, 0.6), ("far", 9.0, 9.0)),
    )  # fmt: skip
    text = draw_landscape(found, ["one & only", "two"])
    root = ElementTree.fromstring(text)
    shown = [node.text for node in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"a < b", "flat", "one & only", "two", "base", "found"} <= set(shown)
    assert "far" not in shown
    assert "1.000 (dark) to 4.000" in shown
    assert len(list(root.iter("{http://www.w3.org/2000/svg}rect"))) == 1 + 3 * 4


def test_a_searched_merge_draws_its_surface(tmp_path, transformer_folder, varied):
    models = [varied(transformer_folder, f"m{n}", n) for n in range(2)]
    report = ew.merge(
        models, tmp_path / "out", "self_positioning", base=transformer_folder, rows=ROWS,
        options={"steps": 1, "batch_size": 4, "surface": 3},
    )  # fmt: skip
    text = (tmp_path / "out" / "landscape.svg").read_text()
    ElementTree.fromstring(text)
    assert ">m0<" in text
    assert len(report.data["landscape"]["losses"]["pairs"]) == 3
