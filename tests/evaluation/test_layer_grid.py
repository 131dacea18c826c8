"""The grid of layers and dimensions against models that are cut one by one."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("sentence_transformers")

import embedworks as ew
from embedworks.errors import (
    EmptyInputError,
    FormatError,
    InputError,
    UnknownNameError,
)
from embedworks.evaluation import (
    LayerDimGrid,
    RetrievalTask,
    StsTask,
    evaluate_grid,
    spearman,
)
from embedworks.models import truncate_model

PAIRS = [
    ("read a file", "open a file", 4.0), ("heap", "binary tree", 2.5), ("gzip", "zip", 3.0),
    ("copy a tree", "a tree in the wood", 1.0), ("sort a list", "order a list", 5.0),
]  # fmt: skip


@pytest.fixture(scope="module")
def tasks():
    corpus = {str(n): b for n, (_, b, _) in enumerate(PAIRS)}
    queries = {str(n): a for n, (a, _, _) in enumerate(PAIRS)}
    return [
        RetrievalTask("search", queries, corpus, {q: {q: 1} for q in queries}),
        StsTask("sts", PAIRS),
    ]


@pytest.fixture(scope="module")
def grid(transformer_folder, tasks):
    model = ew.load(transformer_folder)
    return evaluate_grid(model, tasks, layers=[1], dims=[8, 16], name="tiny", repeats=2)


def test_every_cell_is_what_a_cut_model_scores(grid, transformer_folder):
    model = ew.load(transformer_folder)
    assert [(c.layers, c.dim) for c in grid.cells] == [
        (n, d) for n in (1, 2) for d in (8, 16, 32)
    ]  # the whole model is among them
    for cell in grid.cells:
        cut = truncate_model(model, cell.layers, cell.dim)
        left, right = (cut.encode([pair[side] for pair in PAIRS]) for side in (0, 1))
        cosines = np.einsum("nd,nd->n", left, right, dtype=np.float64)
        expected = spearman(cosines, [score for _, _, score in PAIRS])
        assert cell.quality["sts"] == pytest.approx(expected, abs=1e-6)
        assert cell.vector_bytes == 4 * cell.dim
        assert cell.texts_per_second > 0
    assert grid.cell(1, 8).parameters < grid.cell(2, 8).parameters
    assert grid.full == (2, 32)
    assert grid.metrics["sts"] == "spearman"


def test_shares_tables_and_pictures(grid, tmp_path):
    cell, whole = grid.cell(1, 8), grid.cell(2, 32)
    assert grid.kept("sts", 1, 8) == cell.quality["sts"] / whole.quality["sts"]
    assert grid.kept("sts", 2, 32) == 1
    assert grid.speedup(2) == 1
    assert grid.mean("search") == pytest.approx(
        sum(c.quality["search"] for c in grid.cells) / len(grid.cells)
    )
    lines = grid.markdown().splitlines()
    assert len(lines) == 2 + len(grid.cells)
    assert all(line.count("|") == lines[0].count("|") for line in lines)
    drawn = grid.heat_map("sts", tmp_path / "map.svg")
    assert drawn.count("<rect") == len(grid.cells)
    assert f"{cell.quality['sts']:.3f}" in drawn
    import xml.etree.ElementTree as ElementTree

    root = ElementTree.fromstring((tmp_path / "map.svg").read_text())
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert LayerDimGrid.from_dict(json.loads(json.dumps(grid.to_dict()))) == grid


def test_bad_input_is_named(grid, transformer_folder, tasks):
    model = ew.load(transformer_folder)
    with pytest.raises(EmptyInputError):
        evaluate_grid(model, tasks, layers=[], dims=[8])
    with pytest.raises(InputError, match="dims must be 1 to 32"):
        evaluate_grid(model, tasks, layers=[1], dims=[64])
    with pytest.raises(InputError, match="layers must be 1 to 2"):
        evaluate_grid(model, tasks, layers=[3], dims=[8])
    with pytest.raises(InputError, match="3x8 is not in the grid; it has 1x8"):
        grid.cell(3, 8)
    with pytest.raises(InputError, match="5 layers are not"):
        grid.speedup(5)
    with pytest.raises(UnknownNameError, match="task 'stss'"):
        grid.kept("stss", 1, 8)
    with pytest.raises(FormatError):
        LayerDimGrid.from_dict({"name": "x"})
