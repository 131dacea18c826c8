"""Links must not be readable in the texts, ranks are those of a slow loop, and a very small run."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from embedworks.reproductions import ReproductionResult, Tuning, reproduce
from embedworks.reproductions.papers import survey_structure
from embedworks.reproductions.papers.survey_structure import ENTRIES, LinkedModules, stdlib_modules

(ENTRY,) = ENTRIES


def test_modules_do_not_name_what_they_import():
    modules = stdlib_modules()
    assert len(modules.names) > 100
    place = modules.names.index("shutil")
    linked = {
        modules.names[int(other)]
        for pair in modules.links.tolist()
        if place in pair
        for other in pair
        if other != place
    }
    assert {"fnmatch", "stat"} <= linked
    words = {word.strip("`.,:()'\"") for word in modules.texts[place].split()}
    assert not words & {"fnmatch", "stat", "zlib"}
    assert (modules.links[:, 0] < modules.links[:, 1]).all()
    assert len(np.unique(modules.links, axis=0)) == len(modules.links)


def test_hidden_links_are_ranked_among_what_is_not_known():
    vectors = np.array([[1.0, 0.0], [0.9, 0.1], [0.8, 0.6], [0.0, 1.0]])
    split = survey_structure._Split(np.array([[0, 1]]), np.array([[0, 3]]))
    names = ("a", "b", "c", "d")
    ranks = survey_structure._ranks(vectors, split, names)
    assert ranks == {"a d": 1 / 2, "d a": 1 / 3}  # b is known to a, so only c is before d


def test_links_of_validation_and_test_never_meet():
    links = np.array([[i, i + 1] for i in range(50)])
    test = survey_structure._split(links, 3, "test", 0.2)
    tuning = survey_structure._split(links, 3, "validation", 0.2)
    hidden = {tuple(pair) for pair in test.hidden.tolist()}
    assert len(hidden) == 10
    assert not hidden & {tuple(pair) for pair in tuning.hidden.tolist()}
    assert not hidden & {tuple(pair) for pair in tuning.known.tolist()}
    assert len(test.known) + len(test.hidden) == 50


def test_a_very_small_run(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    kinds = ["bread flour oven yeast", "ship sail harbour wind", "violin piano opera song"]
    words = [kinds[i % 3].split() for i in range(36)]
    texts = tuple(" ".join(rng.permutation(w)[:2].tolist()) for w in words)
    links = np.array([(i, j) for j in range(36) for i in range(j) if i % 3 == j % 3])
    links = links[rng.random(len(links)) < 0.6]
    monkeypatch.setattr(
        survey_structure,
        "stdlib_modules",
        lambda: LinkedModules(tuple(f"m{i}" for i in range(36)), texts, links),
    )
    small = replace(
        ENTRY, seeds=2, tuning=Tuning({"share": (0.5,), "steps": (2,)}, metric="mrr", seeds=(9,))
    )
    result = reproduce(small, out=tmp_path, device="cpu")
    assert ReproductionResult.load(tmp_path / "survey-gpte-structure-mini.json") == result
    means = {arm.name: arm.metrics["mrr"].mean for arm in result.arms}
    assert means["text and links"] > means["shuffled links"]
