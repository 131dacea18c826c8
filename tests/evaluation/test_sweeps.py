"""Sweeps: names that read back, cuts and rounding against plain loops, and the ordinary runner."""

from __future__ import annotations

import numpy as np
import pytest

from embedworks.errors import DuplicateIdError, EmptyInputError, InputError, UnknownNameError
from embedworks.evaluation import EncoderSystem, RetrievalTask, StsTask, evaluate_systems
from embedworks.evaluation.sweeps import (
    dimension_sweep,
    layer_sweep,
    length_sweep,
    quantisation_sweep,
    step_of,
)

TEXTS = ["a tar archive", "compress a file", "parse arguments", "the median of numbers"]


class Numbers:
    """Vectors from the letters of a text; the empty text has none."""

    def encode(self, texts):
        rows = np.zeros((len(texts), 8), dtype=np.float32)
        for row, text in enumerate(texts):
            for place, letter in enumerate(text):
                rows[row, ord(letter) % 8] += (-1) ** place * (1 + place % 3)
        return rows


@pytest.fixture
def system():
    return EncoderSystem(Numbers(), name="letters")


@pytest.fixture
def task():
    return RetrievalTask(
        "toy",
        {"q1": "tar", "q2": "median"},
        {f"d{i}": text for i, text in enumerate(TEXTS)},
        {"q1": {"d0": 1}, "q2": {"d3": 1}},
    )


def test_names_read_back(system):
    for one in dimension_sweep(system, [4, 2]):
        assert step_of(one.name) == ("letters", "dimensions", one.encode(["x"]).shape[1])
    assert [step_of(s.name).value for s in quantisation_sweep(system)] == [
        "float16", "int8", "binary",
    ]  # fmt: skip
    assert step_of("a[b]c") is None
    assert step_of("plain") is None
    assert step_of("[:3]") is None


def test_dimensions_are_cut_and_normalised(system):
    whole = system.encode(TEXTS)
    for one in dimension_sweep(system, [2, 5]):
        keep = step_of(one.name).value
        for row, vector in zip(whole, one.encode(TEXTS)):
            expected = row[:keep] / (np.sqrt((row[:keep] ** 2).sum()) or 1.0)
            np.testing.assert_allclose(vector, expected, rtol=1e-6)


def test_quantised_vectors(system):
    texts = [*TEXTS, ""]
    whole = system.encode(texts)
    half, eighth, bit = (one.encode(texts) for one in quantisation_sweep(system))
    np.testing.assert_array_equal(half, whole.astype(np.float16))
    for row, vector in zip(whole, eighth):
        step = np.abs(row).max() / 127
        assert np.abs(vector - row).max() <= step / 2 + 1e-6
        levels = vector / step if step else vector
        np.testing.assert_allclose(levels, np.rint(levels), atol=1e-4)
    for row, vector in zip(whole, bit):
        if row.any():
            np.testing.assert_array_equal(np.sign(vector), np.where(row >= 0, 1, -1))
            assert np.linalg.norm(vector) == pytest.approx(1)
        else:
            assert not vector.any()


def test_rounding_does_not_depend_on_the_other_texts(system):
    for one in quantisation_sweep(system):
        together = one.encode(TEXTS)
        for row, text in zip(together, TEXTS):
            np.testing.assert_array_equal(one.encode([text])[0], row)


def test_sweeps_combine_and_run(system, task, tmp_path):
    cut = dimension_sweep(system, [4])[0]
    both = quantisation_sweep(cut, ["binary"])[0]
    assert both.name == "letters[:4][binary]"
    assert both.encode(["tar"]).shape == (1, 4)
    results = evaluate_systems([system, cut, both], [task, *length_sweep(task, [2])])
    assert [result.name for result in results] == [system.name, cut.name, both.name]
    assert all(set(r.tasks) == {"toy", "toy[:2 words]"} and not r.errors for r in results)
    assert [result.about["dimension"] for result in results] == [8, 4, 4]


def test_a_sweep_encodes_once_with_a_cache(task, tmp_path):
    system = EncoderSystem(Numbers(), name="letters", cache=tmp_path)
    results = evaluate_systems([system, *dimension_sweep(system, [2, 4])], [task])
    first, *others = [result.tasks["toy"].cost for result in results]
    assert first.cached == 0
    assert all(cost.cached == cost.texts for cost in others)


def test_lengths(task):
    two = length_sweep(task, [2])[0]
    assert two.corpus["d3"] == "the median"
    assert two.queries == task.queries
    pairs = StsTask("pairs", [("one two three", "four five", 1.0), ("a", "b c d", 0.0)])
    shorter = length_sweep(pairs, [1, 2])
    assert [one.name for one in shorter] == ["pairs[:1 words]", "pairs[:2 words]"]
    assert shorter[0].pairs == [("one", "four", 1.0), ("a", "b", 0.0)]
    ids_only = RetrievalTask("ids", {"q": "x"}, ["d"], {"q": {"d": 1}})
    with pytest.raises(InputError, match="only their ids"):
        length_sweep(ids_only, [2])


def test_layers_are_cut(transformer_folder):
    torch = pytest.importorskip("torch")
    from embedworks.models import load

    whole = EncoderSystem(load(str(transformer_folder)), name="bert")
    before = whole.encode(TEXTS)
    (one,) = layer_sweep(whole, [1])
    assert one.name == "bert[:1 layers]"
    assert step_of(one.name).unit == "layers"
    assert one.fingerprint != whole.fingerprint
    model = whole.model
    features = model.tokenize(TEXTS) if hasattr(model, "tokenize") else model.preprocess(TEXTS)
    with torch.no_grad():
        states = (
            model[0]
            .auto_model(
                input_ids=features["input_ids"],
                attention_mask=features["attention_mask"],
                output_hidden_states=True,
            )
            .hidden_states[1]
        )
    mask = features["attention_mask"][:, :, None]
    pooled = (states * mask).sum(1) / mask.sum(1)
    expected = torch.nn.functional.normalize(pooled, dim=1).numpy()
    np.testing.assert_allclose(one.encode(TEXTS), expected, atol=1e-5)
    np.testing.assert_array_equal(whole.encode(TEXTS), before)
    with pytest.raises(InputError, match="2 layers"):
        layer_sweep(whole, [2])


def test_bad_steps(system, task):
    with pytest.raises(EmptyInputError):
        dimension_sweep(system, [])
    with pytest.raises(InputError, match="1 or greater"):
        dimension_sweep(system, [0])
    with pytest.raises(InputError, match="8 dimensions"):
        dimension_sweep(system, [8])
    with pytest.raises(DuplicateIdError):
        dimension_sweep(system, [2, 2])
    with pytest.raises(UnknownNameError, match="int8"):
        quantisation_sweep(system, ["int9"])
    with pytest.raises(EmptyInputError):
        quantisation_sweep(system, [])
    with pytest.raises(InputError, match="no list of layers"):
        layer_sweep(system, [1])
    with pytest.raises(EmptyInputError):
        length_sweep(task, [])
