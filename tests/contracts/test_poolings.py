"""Checks that run over every pooling, alone and inside a saved model."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sentence_transformers")

from sentence_transformers import SentenceTransformer  # noqa: E402
from sentence_transformers.sentence_transformer.modules import Normalize  # noqa: E402

import embedworks as ew  # noqa: E402
from embedworks.errors import EmptyInputError, ShapeError  # noqa: E402
from embedworks.modules import MODULE_CLASSES, POOLINGS  # noqa: E402

TEXTS = [
    "How do I read a file line by line?",
    "gzip",
    "A heap is a binary tree in which every parent is smaller than its children.",
]
NAMES = POOLINGS.names()


def make(name, dim=32):
    torch.manual_seed(0)
    pooling = POOLINGS[name](dim)
    for parameter in pooling.parameters():  # zeros and ones at the start would hide mistakes
        torch.nn.init.normal_(parameter, std=0.3)
    return pooling.eval()


def features(lengths=(5, 2, 9), *, side="right", extra=0, dtype=torch.float32):
    """Random states; padding holds other random numbers, which must not matter."""
    width = max(lengths) + extra
    tokens = torch.randn(len(lengths), width, 32, generator=torch.Generator().manual_seed(9))
    mask = torch.zeros(len(lengths), width, dtype=torch.int64)
    for row, length in enumerate(lengths):
        at = slice(0, length) if side == "right" else slice(width - length, width)
        content = torch.randn(length, 32, generator=torch.Generator().manual_seed(row))
        tokens[row, at], mask[row, at] = content, 1
    return {"token_embeddings": tokens.to(dtype), "attention_mask": mask}


def vectors(pooling, given):
    with torch.no_grad():
        return pooling(dict(given))["sentence_embedding"]


@pytest.mark.parametrize("name", NAMES)
def test_padding_does_not_show_on_either_side(name):
    pooling = make(name)
    plain = vectors(pooling, features())
    for changed in (features(extra=7), features(side="left"), features(side="left", extra=3)):
        torch.testing.assert_close(vectors(pooling, changed), plain, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_rows_do_not_depend_on_their_batch(name):
    pooling = make(name)
    given = features()
    plain = vectors(pooling, given)
    for row in range(3):
        alone = {key: value[row : row + 1] for key, value in given.items()}
        torch.testing.assert_close(vectors(pooling, alone)[0], plain[row], atol=1e-5, rtol=1e-4)
    turned = {key: value.flip(0) for key, value in given.items()}
    torch.testing.assert_close(vectors(pooling, turned).flip(0), plain, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_masked_tokens_are_not_in_the_vector(name):
    """All poolings leave masked tokens out; self-attention may still look at them."""
    pooling = make(name)
    given = features()
    given["pooling_mask"] = given["attention_mask"].clone()
    given["pooling_mask"][:, 0] = 0
    masked = vectors(pooling, given)
    if name == "self-attention":
        assert not torch.allclose(masked, vectors(pooling, features()))
        return
    shorter = {key: value[:, 1:] for key, value in given.items()}
    torch.testing.assert_close(masked, vectors(pooling, shorter), atol=1e-5, rtol=1e-4)
    given["token_embeddings"][:, 0] = 100.0
    torch.testing.assert_close(vectors(pooling, given), masked, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_features_are_not_changed_and_gradients_are_finite(name):
    pooling = make(name)
    given = features()
    before = {key: value.clone() for key, value in given.items()}
    given["token_embeddings"].requires_grad_()
    pooling(dict(given))["sentence_embedding"].square().sum().backward()
    for key, value in before.items():
        assert torch.equal(given[key].detach(), value)
    gradient = given["token_embeddings"].grad
    assert bool(torch.isfinite(gradient).all())
    assert not gradient[given["attention_mask"] == 0].any()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in pooling.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_is_close(name):
    pooling = make(name)
    plain = vectors(pooling, features())
    half = vectors(pooling.bfloat16(), features(dtype=torch.bfloat16))
    assert half.dtype == torch.bfloat16
    cosine = torch.nn.functional.cosine_similarity(half.float(), plain)
    assert float(cosine.min()) > 0.99


@pytest.mark.parametrize("name", NAMES)
def test_nothing_to_pool_and_wrong_shapes_are_named(name):
    pooling = make(name)
    with pytest.raises(EmptyInputError, match="first is row 1"):
        pooling(features((3, 0, 2)))
    given = features()
    given["pooling_mask"] = given["attention_mask"] * 0
    with pytest.raises(EmptyInputError, match="3 of 3 texts"):
        pooling(given)
    with pytest.raises(ShapeError, match="expects states"):
        pooling({"token_embeddings": torch.zeros(1, 2, 31)})
    with pytest.raises(ShapeError, match="pooling_mask has shape"):
        pooling({**features(), "pooling_mask": torch.ones(3, 2)})


@pytest.mark.parametrize("name", NAMES)
def test_it_saves_and_loads_inside_a_model(name, transformer_folder, tmp_path):
    body = ew.load(transformer_folder)[0]
    model = SentenceTransformer(modules=[body, make(name), Normalize()], device="cpu")
    expected = model.encode(TEXTS)
    assert expected.shape == (3, model.get_embedding_dimension())
    ew.models.save(model, tmp_path / "model")
    ours = ew.load(tmp_path / "model")
    np.testing.assert_allclose(ours.encode(TEXTS), expected, atol=1e-6)
    assert ours[1].get_config_dict() == model[1].get_config_dict()
    # Plain sentence-transformers: embedworks installed, and trust for classes not its own.
    plain = SentenceTransformer(str(tmp_path / "model"), device="cpu", trust_remote_code=True)
    np.testing.assert_allclose(plain.encode(TEXTS, batch_size=1), expected, atol=1e-5)
    with pytest.raises(ValueError, match="trust_remote_code"):
        SentenceTransformer(str(tmp_path / "model"), device="cpu")


def test_every_pooling_can_be_found_again():
    assert {cls.__name__ for cls in map(POOLINGS.__getitem__, NAMES)} <= set(MODULE_CLASSES)
