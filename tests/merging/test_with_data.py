"""Merging model folders by what the models do on data."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import embedworks as ew
from embedworks.data import Row, RowSet
from embedworks.errors import (
    DataWarning,
    InputError,
    NonFiniteError,
    SettingsError,
    UnknownNameError,
)
from embedworks.merging import (
    DATA_MERGE_METHODS,
    cocktail_weights,
    fisher,
    greedy_soup,
    linear,
    merge_models,
    merge_with_data,
    pair_score,
    regmean,
)
from embedworks.models import check_golden

TEXTS = ["open a tar archive", "median of numbers", "wrap long lines"]
ROWS = RowSet(
    [
        Row("open a tar archive", "read files out of a tar archive"),
        Row("median of numbers", "the middle value of the data"),
        Row("wrap long lines", "fill a paragraph of text to a width"),
        Row("gzip a file", "compress data with gzip"),
        Row("smallest items", "a heap gives its smallest item first"),
        Row("copy a directory tree", "copy all files of a folder"),
    ]
)


def contrastive(model):
    from embedworks.losses import ContrastiveLoss

    return ContrastiveLoss(model)


def weights_of(folder):
    return load_file(folder / "model.safetensors")


def is_clean(folder) -> bool:
    return not [path for path in folder.iterdir() if path.name.startswith(".")]


@pytest.fixture
def transformers(varied, transformer_folder):
    pytest.importorskip("torch")
    return [varied(transformer_folder, f"model{n}", n) for n in range(2)]


@pytest.fixture
def statics(varied, static_folder):
    return [varied(static_folder, f"static{n}", n, size=0.3) for n in range(3)]


def load_plain(folder):
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu")


def check_whole_model(out, report, method):
    ours = ew.load(out, device="cpu")
    check_golden(out, ours)
    np.testing.assert_allclose(load_plain(out).encode(TEXTS), ours.encode(TEXTS), atol=1e-5)
    stored = json.loads((out / "merge.json").read_text())
    assert stored["method"] == report.method == method
    assert stored["data"] == report.data
    assert stored["data"]["rows_sha256"] == [ROWS.fingerprint()]
    assert stored["files"]["model.safetensors"] == report.files["model.safetensors"]
    assert f"`{method}`" in (out / "README.md").read_text()
    assert is_clean(out.parent)


def test_a_fisher_merge_is_the_pure_function_over_what_is_collected(tmp_path, transformers):
    from embedworks.merging import collect_fisher

    report = merge_with_data(
        transformers, tmp_path / "out", "fisher", rows=ROWS, loss=contrastive, weights=[2, 1],
        batch_size=3,
    )  # fmt: skip
    check_whole_model(tmp_path / "out", report, "fisher")
    assert report.options == {"per": "row", "batch_size": 3, "eps": 1e-8, "normalize": True}
    assert [item.weight for item in report.inputs] == [2, 1]
    measured = []
    for folder in transformers:
        found = collect_fisher(load_plain(folder), ROWS, contrastive, batch_size=3)
        mean = np.concatenate([value.ravel() for value in found.values()]).mean()
        measured.append({name: value / mean for name, value in found.items()})
    held, merged = [weights_of(f) for f in transformers], weights_of(tmp_path / "out")
    moved = 0
    for name, value in merged.items():
        one = [m[f"0.model.{name}"] for m in measured]
        expected = fisher([tensors[name] for tensors in held], one, [2, 1])
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-6, err_msg=name)
        moved += not np.allclose(value, linear([t[name] for t in held], [2, 1]), atol=1e-4)
    assert moved > 20


def test_a_regmean_merge_is_the_pure_function_and_averages_the_rest(tmp_path, transformers):
    from embedworks.merging import collect_grams

    report = merge_with_data(transformers, tmp_path / "out", "regmean", rows=ROWS, alpha=0.5)
    check_whole_model(tmp_path / "out", report, "regmean")
    texts = [text for row in ROWS for text in (row.anchor, row.positive)]
    grams = [collect_grams(load_plain(folder), texts) for folder in transformers]
    held, merged = [weights_of(f) for f in transformers], weights_of(tmp_path / "out")
    for name, value in merged.items():
        both = [tensors[name] for tensors in held]
        full = f"0.model.{name}"
        if full in grams[0]:
            expected = regmean(both, [g[full] for g in grams], alpha=0.5)
            assert not np.allclose(expected, linear(both), atol=1e-4)
        else:
            expected = linear(both)
        np.testing.assert_allclose(value, expected, atol=1e-5, err_msg=name)


def test_each_model_can_have_rows_of_its_own(tmp_path, transformers):
    sets = [ROWS[:3], ROWS[3:]]
    reports = [
        merge_with_data(models, tmp_path / f"out{n}", "fisher", rows=rows, loss=contrastive)
        for n, (models, rows) in enumerate(
            [(transformers, sets), (transformers[::-1], sets[::-1]), (transformers, sets[::-1])]
        )
    ]
    assert reports[0].data["rows"] == [3, 3]
    one, turned, swapped = [weights_of(tmp_path / f"out{n}") for n in range(3)]
    for name in one:
        np.testing.assert_allclose(one[name], turned[name], atol=1e-6)
    assert any(not np.allclose(one[name], swapped[name], atol=1e-5) for name in one)


def test_tensors_that_are_no_parameters_are_averaged_with_a_warning(tmp_path, transformers):
    for place, folder in enumerate(transformers):
        tensors = weights_of(folder)
        extra = np.full((3, 3), place, np.float32)
        save_file({**tensors, "unused.head": extra}, folder / "model.safetensors")
    with pytest.warns(DataWarning, match="1 of 40 tensors of 'model' are no parameters.*unused"):
        merge_with_data(transformers, tmp_path / "out", "fisher", rows=ROWS, loss=contrastive)
    np.testing.assert_allclose(weights_of(tmp_path / "out")["unused.head"], 0.5)


def test_static_models_merge_by_fisher_and_not_by_regmean(tmp_path, statics):
    pytest.importorskip("sentence_transformers")
    report = merge_with_data(statics[:2], tmp_path / "out", "fisher", rows=ROWS, loss=contrastive)
    check_whole_model(tmp_path / "out", report, "fisher")
    with pytest.raises(InputError, match="linear layers, and these models have none"):
        merge_with_data(statics, tmp_path / "x", "regmean", rows=ROWS)
    assert not (tmp_path / "x").exists()
    assert is_clean(tmp_path)


def test_a_greedy_soup_leaves_out_the_model_that_hurts(tmp_path, static_folder, varied):
    good = [varied(static_folder, f"good{n}", n, size=0.01) for n in range(2)]
    bad = varied(static_folder, "bad")
    tensors = weights_of(bad)  # the same vector for every text
    save_file({k: np.full_like(v, 30.0) for k, v in tensors.items()}, bad / "model.safetensors")
    report = merge_with_data([bad, *good], tmp_path / "out", "greedy_soup", rows=ROWS)
    check_whole_model(tmp_path / "out", report, "greedy_soup")
    assert sorted(item.path.name for item in report.inputs) == ["good0", "good1"]
    assert ["bad", False] in [[name, stays] for name, _, stays in report.data["steps"]]
    scores = dict(report.data["scores"])
    assert scores["bad"] < scores["good0"]
    assert report.data["score"] == pair_score(ROWS)(ew.load(tmp_path / "out"))
    names = [item.path for item in report.inputs]
    same = merge_models(names, tmp_path / "same")
    assert same.files == report.files  # exactly the mean of what was chosen


def test_a_greedy_soup_by_ones_own_score(tmp_path, statics):
    seen = []

    def score(model):
        seen.append(model.encode(["open"])[0, 0])
        return -len(seen)  # every later one is worse

    report = merge_with_data(statics, tmp_path / "out", "greedy_soup", score=score)
    assert len(seen) == 5  # three alone, two trials
    assert [item.path for item in report.inputs] == [statics[0]]
    assert "rows" not in report.data
    with pytest.raises(NonFiniteError, match="score of model 1 is nan"):
        merge_with_data(statics, tmp_path / "x", "greedy_soup", score=lambda m: float("nan"))
    assert is_clean(tmp_path)


def test_greedy_soup_by_hand():
    table = {(0,): 0.5, (1,): 0.7, (2,): 0.7, (1, 2): 0.7, (1, 2, 0): 0.69}
    found = greedy_soup(3, lambda which: table[tuple(which)])
    assert found.chosen == (1, 2)  # a tie keeps the order; equal is not a fall
    assert found.score == 0.7
    assert found.steps == ((2, 0.7, True), (0, 0.69, False))


def test_a_cocktail_weighs_models_by_their_loss(tmp_path, transformers):
    report = merge_with_data(
        transformers, tmp_path / "out", "cocktail", rows=ROWS, loss=contrastive, tau=0.5
    )
    check_whole_model(tmp_path / "out", report, "cocktail")
    weights = [item.weight for item in report.inputs]
    assert weights == cocktail_weights(report.data["losses"], 0.5)
    held, merged = [weights_of(f) for f in transformers], weights_of(tmp_path / "out")
    for name, value in merged.items():
        np.testing.assert_allclose(value, linear([t[name] for t in held], weights), atol=1e-6)


def test_cocktail_weights():
    np.testing.assert_allclose(cocktail_weights([1.0, 1.0 + np.log(3)]), [0.75, 0.25])
    np.testing.assert_allclose(cocktail_weights([5e4, 4e4], tau=0.01), [0, 1])
    np.testing.assert_allclose(cocktail_weights([3, 1, 2], tau=1e9), [1 / 3] * 3)
    with pytest.raises(InputError, match="tau must be in"):
        cocktail_weights([1.0], 0.0)
    with pytest.raises(NonFiniteError, match="losses must be finite"):
        cocktail_weights([1.0, float("inf")])
    with pytest.raises(InputError, match="one number per model"):
        cocktail_weights([])


class Fixed:
    """A model with vectors by text."""

    def __init__(self, vectors):
        self.vectors = vectors

    def encode(self, texts):
        return np.array([self.vectors[text] for text in texts], np.float32)


def test_the_score_of_pairs_by_hand():
    rows = RowSet([Row("a", "1", ("3",)), Row("a", "2"), Row("b", "3")])
    vectors = {"a": [1, 0], "b": [0, 1], "1": [1, 0.1], "2": [1, 0.6], "3": [1, 0.5]}
    # a -> 1: first; a -> 2: behind 3, not behind 1, which is a positive as well; b -> 3: behind 2
    assert pair_score(rows)(Fixed(vectors)) == pytest.approx((1 + 1 / 2 + 1 / 2) / 3)
    same = dict.fromkeys(vectors, (1, 1))
    assert pair_score(rows)(Fixed(same)) == pytest.approx((1 / 2 + 1 / 2 + 1 / 3) / 3)
    for bad in (rows[:1], RowSet([Row({"text": "x"}, "1"), Row("a", "2")])):
        with pytest.raises(InputError, match="at least two rows of texts"):
            pair_score(bad)


@pytest.mark.parametrize("name", DATA_MERGE_METHODS.names())
def test_what_is_missing_or_of_no_use_is_told_before_anything_is_read(tmp_path, name):
    method = DATA_MERGE_METHODS[name]
    nothing = [tmp_path / "a", tmp_path / "b"]
    given = {"rows": ROWS, **({"base": tmp_path / "c"} if method.needs_base else {})}
    for missing in given:
        rest = {key: value for key, value in given.items() if key != missing}
        with pytest.raises(InputError, match=f"{name}: it (needs|works on)"):
            merge_with_data(nothing, tmp_path / "x", name, **rest)
    useless = {}
    if not method.needs_base:
        useless["base"] = tmp_path / "c"
    if not method.needs_loss:
        useless["loss"] = contrastive
    if not method.takes_weights:
        useless["weights"] = [1, 2]
    if not method.takes_score:
        useless["score"] = len
    for key, value in useless.items():
        with pytest.raises(InputError, match="no use for"):
            merge_with_data(nothing, tmp_path / "x", name, **given, **{key: value})
    if method.takes_weights:
        with pytest.raises(InputError, match="sum to zero"):
            merge_with_data(nothing, tmp_path / "x", name, **given, weights=[1, -1])
    with pytest.raises(SettingsError, match="nosuch"):
        merge_with_data(nothing, tmp_path / "x", name, **given, nosuch=1)
    with pytest.raises(InputError, match="must be a list"):
        merge_with_data("a", tmp_path / "x", name, **given)
    with pytest.raises(InputError, match="at least 1 model"):
        merge_with_data([], tmp_path / "x", name, **given)
    with pytest.raises(InputError, match="one set, or one for each of 2 models"):
        merge_with_data(nothing, tmp_path / "x", name, **{**given, "rows": [ROWS] * 3})
    with pytest.raises(InputError, match=r"must be an embedworks\.data\.RowSet"):
        merge_with_data(nothing, tmp_path / "x", name, **{**given, "rows": ["a", "b"]})
    assert list(tmp_path.iterdir()) == []


def arguments(name):
    return {"rows": ROWS, **({"loss": contrastive} if DATA_MERGE_METHODS[name].needs_loss else {})}


@pytest.mark.parametrize("name", DATA_MERGE_METHODS.names())
def test_every_method_keeps_its_promises(tmp_path, transformers, transformer_folder, name):
    """A model merged with itself is itself; order, types and repetition do not matter."""
    given = arguments(name)
    one, two = transformers
    if DATA_MERGE_METHODS[name].needs_base:  # a search may well go beyond the models
        base = tmp_path / "base"
        shutil.copytree(transformer_folder, base)
        given |= {"base": base, "batch_size": 2, "held_out": 0.0, "steps": 2}
    else:
        merge_with_data([one, one], tmp_path / "self", name, **given)
        before, same = weights_of(one), weights_of(tmp_path / "self")
        for key, value in before.items():
            np.testing.assert_allclose(same[key], value, atol=1e-5, err_msg=key)
    report = merge_with_data([one, two], tmp_path / "out", name, **given, workers=1)
    again = merge_with_data([one, two], tmp_path / "again", name, **given, workers=3)
    assert report.files == again.files
    merge_with_data([two, one], tmp_path / "turned", name, **given)
    merged, turned = weights_of(tmp_path / "out"), weights_of(tmp_path / "turned")
    for key, value in merged.items():
        np.testing.assert_allclose(turned[key], value, atol=1e-5, err_msg=key)
    for folder in (*transformers, *filter(None, [given.get("base")])):
        half = {key: value.astype(np.float16) for key, value in weights_of(folder).items()}
        save_file(half, folder / "model.safetensors", metadata={"format": "pt"})
    merge_with_data([one, two], tmp_path / "half", name, **given)
    for key, value in weights_of(tmp_path / "half").items():
        assert value.dtype == np.float16
        np.testing.assert_allclose(value.astype(np.float32), merged[key], atol=0.02, err_msg=key)


def test_damage_and_unknown_names(tmp_path, transformers):
    with pytest.raises(UnknownNameError, match="Did you mean 'fisher'"):
        merge_with_data(transformers, tmp_path / "x", "fischer", rows=ROWS)
    with pytest.raises(InputError, match="no gradient on these rows"):
        merge_with_data(
            transformers, tmp_path / "x", "fisher", rows=ROWS[:1],
            loss=Silent,
        )  # fmt: skip
    tensors = weights_of(transformers[1])
    tensors["pooler.dense.bias"][3] = np.nan  # not used by the loss
    save_file(tensors, transformers[1] / "model.safetensors")
    with pytest.raises(NonFiniteError, match=r"'pooler\.dense\.bias' of .*model1"):
        merge_with_data(transformers, tmp_path / "x", "fisher", rows=ROWS, loss=contrastive)
    (transformers[1] / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match="merge_adapters"):
        merge_with_data(transformers, tmp_path / "x", "regmean", rows=ROWS)
    assert not (tmp_path / "x").exists()
    assert is_clean(tmp_path)


def Silent(model):
    import torch

    class _Silent(torch.nn.Module):
        def forward(self, features, labels):
            return sum(model(dict(f))["sentence_embedding"].sum() for f in features) * 0.0

    return _Silent()
