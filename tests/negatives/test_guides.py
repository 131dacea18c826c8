from __future__ import annotations

import numpy as np
import pytest

from embedworks.data import Row, RowSet, content_key
from embedworks.errors import EmptyInputError, InputError, NonFiniteError, NotFoundError
from embedworks.negatives import CachedGuide

torch = pytest.importorskip("torch")


class Letters:
    """Counts letters; asks are logged."""

    def __init__(self):
        self.encoded = 0

    def encode(self, texts):
        self.encoded += len(texts)
        return np.array([[t.count(c) for c in "abcd"] for t in texts], dtype=np.float32)


def keys_of(*texts):
    return np.array([content_key(text) for text in texts], dtype=np.int64)


@pytest.mark.parametrize("on_disk", [False, True])
def test_lookup_gives_unit_vectors_of_any_shape(tmp_path, on_disk):
    texts = ["a", "ab", "aab", "dd", "ab"]
    model = Letters()
    guide = CachedGuide.build(texts, model, tmp_path if on_disk else None, fingerprint="letters")
    assert len(guide) == model.encoded == 4
    found = guide.lookup(keys_of(*texts))
    expected = Letters().encode(texts)
    np.testing.assert_allclose(
        found, expected / np.linalg.norm(expected, axis=1, keepdims=True), rtol=1e-6
    )
    assert found.dtype == np.float32
    square = torch.from_numpy(keys_of("a", "dd", "a", "ab")).reshape(2, 2)
    tensor = guide.lookup(square)
    assert tensor.shape == (2, 2, guide.dim)
    np.testing.assert_array_equal(tensor[1, 1], guide.lookup(keys_of("ab"))[0])


def test_a_folder_is_read_again_and_grows(tmp_path):
    first, second = Letters(), Letters()
    CachedGuide.build(["a", "b"], first, tmp_path, fingerprint="letters")
    guide = CachedGuide.build(["b", "c"], second, tmp_path, fingerprint="letters")
    assert second.encoded == 1
    np.testing.assert_array_equal(guide.lookup(keys_of("a", "c")), np.eye(4)[[0, 2]])
    # Another guide has a place of its own.
    third = Letters()
    CachedGuide.build(["a"], third, tmp_path, fingerprint="others")
    assert third.encoded == 1


def test_rows_give_all_their_texts():
    rows = RowSet([Row("a", "b", ("c",)), Row("a", "d")])
    assert len(CachedGuide.build(rows, Letters())) == 4


def test_missing_keys_are_counted():
    guide = CachedGuide.build(["a", "b"], Letters())
    with pytest.raises(NotFoundError, match="no vector for 2 of 3 inputs"):
        guide.lookup(keys_of("a", "nope", "nope", "neither"))
    with pytest.raises(InputError, match="int64"):
        guide.lookup(np.array([1.0]))


def test_useless_guides_are_refused():
    with pytest.raises(EmptyInputError):
        CachedGuide.build([], Letters())
    with pytest.raises(InputError, match="1 of 2 inputs a vector of zeros"):
        CachedGuide.build(["a", "xyz"], Letters())

    class Broken:
        def encode(self, texts):
            return np.full((len(texts), 2), np.inf)

    with pytest.raises(NonFiniteError, match="NaN or infinity"):
        CachedGuide.build(["a"], Broken())


def test_the_student_is_no_guide():
    class Model(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def encode(self, texts):
            return np.ones((len(texts), 2))

    layer = torch.nn.Linear(2, 2)
    student = Model(layer)
    with pytest.raises(InputError, match="cannot be its own guide"):
        CachedGuide.build(["a"], student, student=student)
    with pytest.raises(InputError, match="separate frozen copy"):
        CachedGuide.build(["a"], Model(layer), student=student)
    CachedGuide.build(["a"], Model(torch.nn.Linear(2, 2)), student=student)
