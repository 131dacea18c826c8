"""Attribution of a cosine to words: completeness, planted words, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

import embedworks as ew
from embedworks.errors import EmptyInputError, InputError, ShapeError
from embedworks.evaluation import integrated_gradients, leave_one_out, token_contributions


class Letters:
    """Counts three letters: the cosine of two texts can be worked out by hand."""

    def encode(self, texts):
        return np.array([[text.count(letter) for letter in "abc"] for text in texts], dtype=float)


@pytest.fixture(scope="module")
def transformer(transformer_folder):
    return ew.load(str(transformer_folder))


def test_leave_one_out_is_the_difference_of_two_cosines():
    found = leave_one_out(Letters(), "a b, b", "a")
    assert found.pieces == ("a", "b", "b")
    assert found.spans == ((0, 1), (2, 3), (5, 6))
    whole = 1 / np.sqrt(5)
    np.testing.assert_allclose(found.scores, [whole, *[whole - 1 / np.sqrt(2)] * 2], atol=1e-7)
    assert found.similarity == pytest.approx(whole)
    assert found.top(1) == [("a", pytest.approx(whole))]


def test_the_only_word_carries_all_of_the_cosine():
    found = leave_one_out(Letters(), "ab", "a")
    np.testing.assert_allclose(found.scores, [found.similarity])


def test_words_unknown_to_the_model_and_texts_without_words_are_refused():
    with pytest.raises(InputError, match="other has a zero vector"):
        leave_one_out(Letters(), "a", "xyz")
    with pytest.raises(EmptyInputError, match="no word"):
        leave_one_out(Letters(), "...", "a")


def test_str_draws_negative_words_apart():
    drawn = str(leave_one_out(Letters(), "a bbbb", "a")).splitlines()
    assert drawn[0].startswith("cosine 0.243")
    assert "█" in drawn[1]
    assert "░" in drawn[2]


def test_integrated_gradients_add_up_to_the_change_of_the_cosine(transformer):
    pytest.importorskip("torch")
    found = integrated_gradients(transformer, "read a file of lines", "open the path", steps=100)
    change = found.similarity - found.baseline
    assert found.scores.sum() == pytest.approx(change, abs=max(0.02 * abs(change), 2e-3))
    vectors = transformer.encode(["read a file of lines", "open the path"])
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    assert found.similarity == pytest.approx(float(unit[0] @ unit[1]), abs=1e-4)
    text = "read a file of lines"
    assert [text[start:end] for start, end in found.spans] == list(found.pieces)


def test_gradients_are_those_of_differences(transformer):
    """One midpoint is the plain gradient there: compare with moving each token a little."""
    torch = pytest.importorskip("torch")
    from embedworks.evaluation.attribution import _cosines_at

    text, other = "read a file", "open the path"
    table = transformer[0].auto_model.get_input_embeddings()
    features = {
        name: value for name, value in transformer.preprocess([text]).items()
        if isinstance(value, torch.Tensor)
    }  # fmt: skip
    transformer.eval()
    with torch.no_grad():
        target = torch.nn.functional.normalize(torch.tensor(transformer.encode([other])[0]), dim=0)
        tokens = table(features["input_ids"])[0]
        empty = tokens.clone()
        own = range(1, len(tokens) - 1)
        empty[list(own)] = table(torch.tensor(transformer.tokenizer.pad_token_id))
        middle = (tokens + empty) / 2
        expected = []
        for place in own:
            step = torch.zeros_like(tokens)
            step[place] = (tokens - empty)[place]
            sides = [
                float(
                    _cosines_at(
                        transformer, table, features, (middle + sign * 0.01 * step)[None], target
                    )
                )
                for sign in (1, -1)
            ]
            expected.append((sides[0] - sides[1]) / 0.02)
    found = integrated_gradients(transformer, text, other, steps=1)
    np.testing.assert_allclose(found.scores, expected, atol=2e-4)


def test_explaining_leaves_the_model_as_it_was(transformer):
    before = transformer.encode(["a file"])
    transformer.train()
    integrated_gradients(transformer, "a file", "a path", steps=2)
    assert transformer.training
    transformer.eval()
    np.testing.assert_array_equal(transformer.encode(["a file"]), before)


def test_models_without_tokens_are_refused(static_folder):
    with pytest.raises(InputError, match="leave_one_out works"):
        integrated_gradients(Letters(), "a", "b")


def test_token_pairs_add_up_to_the_cosine_of_means():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(5, 8)), rng.normal(size=(3, 8))
    left, right = first.mean(axis=0), second.mean(axis=0)
    cosine = left @ right / np.linalg.norm(left) / np.linalg.norm(right)
    pairs = token_contributions(first, second)
    assert pairs.shape == (5, 3)
    assert pairs.sum() == pytest.approx(cosine, abs=1e-12)


def test_token_pairs_of_other_widths_or_no_length_are_refused():
    with pytest.raises(ShapeError, match="of one model"):
        token_contributions(np.ones((2, 3)), np.ones((2, 4)))
    with pytest.raises(InputError, match="add up to zero"):
        token_contributions(np.array([[1.0, 0.0], [-1.0, 0.0]]), np.ones((1, 2)))
