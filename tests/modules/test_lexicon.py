"""Groups of tokens as dimensions: single groups are lexical vectors, like tokens share one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import embedworks as ew
from embedworks.errors import InputError, ShapeError
from embedworks.models import (
    group_tokens,
    lexicon_model,
    new_model,
    train_tokenizer,
    usable_tokens,
    vocabulary_matrix,
)
from embedworks.modules import LexiconPooling

TEXTS = ["a file in a folder", "File and Folder", "the folder of files"]


@pytest.fixture(scope="module")
def model():
    tokenizer = train_tokenizer(TEXTS * 3, 290, max_tokens=32)
    return new_model("bert", tokenizer, dim=16, layers=1, heads=2, max_tokens=32)


def test_the_pooling_is_the_maximum_of_plain_loops():
    torch.manual_seed(0)
    head, bias, states = torch.randn(7, 4), torch.randn(7), torch.randn(3, 5, 4)
    groups, mask = [0, 2, 1, -1, 0, 2, 2], torch.ones(3, 5)
    mask[1, 3:] = 0
    pooling = LexiconPooling(4, groups=3, vocabulary=7)
    pooling.set_groups(head, groups, bias)
    found = pooling({"token_embeddings": states, "attention_mask": mask})["sentence_embedding"]
    for row in range(3):
        for group in range(3):
            best = 0.0
            for place in range(5):
                for token in range(7):
                    if mask[row, place] and groups[token] == group:
                        score = float(head[token] @ states[row, place] + bias[token])
                        best = max(best, float(np.log1p(max(score, 0.0))))
            assert float(found[row, group].detach()) == pytest.approx(best, abs=1e-5)


def test_a_group_per_token_is_the_lexical_vector(model):
    usable = usable_tokens(model.tokenizer)
    whole = lexicon_model(model, int(usable.sum()))
    states = model.encode(TEXTS, output_value="token_embeddings")
    head = vocabulary_matrix(model)[: len(usable)][usable]
    for vector, state in zip(whole.encode(TEXTS), states, strict=True):
        scores = (state.numpy() @ head.T).max(axis=0)
        np.testing.assert_allclose(vector, np.log1p(np.maximum(scores, 0)), atol=1e-5)


def test_spellings_of_one_word_share_a_dimension(model):
    names = model.tokenizer.convert_ids_to_tokens(range(len(model.tokenizer)))
    file, capital = names.index("Ġf"), names.index("F")
    table = model[0].auto_model.get_input_embeddings().weight
    kept = table[capital].detach().clone()
    with torch.no_grad():
        table[capital] = 2 * table[file]
    try:
        groups = group_tokens(lexicon_model(model, 40))
    finally:
        with torch.no_grad():
            table[capital] = kept
    assert [group for group in groups if "F" in group] == [
        group for group in groups if "Ġf" in group
    ]
    assert sum(map(len, groups)) == usable_tokens(model.tokenizer).sum()


def test_it_saves_loads_and_learns(model, tmp_path):
    made = lexicon_model(model, 12, seed=1)
    made.save_pretrained(str(tmp_path / "m"))
    again = ew.load(tmp_path / "m", device="cpu")
    np.testing.assert_allclose(again.encode(TEXTS), made.encode(TEXTS), atol=1e-6)
    assert group_tokens(again) == group_tokens(made)
    assert again.get_embedding_dimension() == 12
    made.train()
    made(made.preprocess(TEXTS))["sentence_embedding"].sum().backward()
    assert made[1].head.grad.abs().sum() > 0


def test_what_is_refused(model):
    with pytest.raises(InputError, match="groups"):
        lexicon_model(model, 10_000)
    with pytest.raises(InputError, match="no tokenizer"):
        lexicon_model(object())
    with pytest.raises(InputError, match="no groups of tokens"):
        group_tokens(model)
    pooling = LexiconPooling(4, groups=3, vocabulary=7)
    with pytest.raises(ShapeError, match="expected a head"):
        pooling.set_groups(torch.zeros(7, 5), [0] * 7)
    with pytest.raises(InputError, match="needs a token"):
        pooling.set_groups(torch.zeros(7, 4), [0] * 7)
