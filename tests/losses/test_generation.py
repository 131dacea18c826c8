"""One decoder, two losses: each is what it is alone, both fall, and neither pass sees the other."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import embedworks as ew
from embedworks.errors import InputError
from embedworks.losses import ContrastiveLoss, GenerationLoss, next_token_loss
from embedworks.models import causal_language_model, new_model, train_tokenizer
from embedworks.modules import attends_both_ways, causal_attention

WORDS = ["tea", "rye", "oat", "fig", "yam", "nut", "egg", "ham"]
QUERIES = [f"what is {word}" for word in WORDS]
DOCUMENTS = [f"the {word} is a plant, and {word} is food" for word in WORDS]


@pytest.fixture
def tokenizer():
    return train_tokenizer([*QUERIES, *DOCUMENTS] * 2, 330, max_tokens=48)


def decoder(tokenizer, architecture="qwen3", bidirectional=True, **options):
    return new_model(
        architecture, tokenizer, dim=32, layers=2, heads=2, max_tokens=48,
        bidirectional=bidirectional, **{"tie_word_embeddings": True, **options},
    )  # fmt: skip


def test_the_token_loss_is_that_of_plain_loops():
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.normal(size=(3, 5, 7)))
    ids = torch.from_numpy(rng.integers(0, 7, (3, 5)))
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 1, 1, 1]])
    losses = []
    for row in range(3):
        for place in range(4):
            if mask[row, place] and mask[row, place + 1]:
                scores = logits[row, place].double()
                losses.append(float(scores.logsumexp(0) - scores[ids[row, place + 1]]))
    found = next_token_loss(logits, ids, mask)
    assert float(found) == pytest.approx(np.mean(losses), rel=1e-6)
    assert float(next_token_loss(logits[:, :1], ids[:, :1], mask[:, :1])) == 0.0


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gpt2", "gemma"])
def test_both_parts_are_what_they_are_alone(tokenizer, architecture):
    model = decoder(tokenizer, architecture)
    base = ContrastiveLoss(model)
    loss = GenerationLoss(model, base, weight=0.3)
    features = [model.preprocess(QUERIES), model.preprocess(DOCUMENTS)]
    value = float(loss([dict(column) for column in features]).detach())
    alone = float(base([dict(column) for column in features], None).detach())
    lm = causal_language_model(model)
    ids, mask = features[1]["input_ids"], features[1]["attention_mask"]
    labels = ids.masked_fill(mask == 0, -100)
    theirs = float(lm(input_ids=ids, attention_mask=mask, labels=labels).loss.detach())
    assert loss.last["base"] == pytest.approx(alone, abs=1e-5)
    assert loss.last["generation"] == pytest.approx(theirs, abs=1e-4)
    assert value == pytest.approx(alone + 0.3 * theirs, abs=1e-4)


def test_neither_pass_leaks(tokenizer):
    model = decoder(tokenizer)
    loss = GenerationLoss(model, ContrastiveLoss(model))
    before = model.encode(DOCUMENTS)
    ids = model.preprocess(["the tea is a plant"])["input_ids"]
    table = model[0].auto_model.get_input_embeddings()
    states = table(ids).detach().requires_grad_()
    with causal_attention(model):
        out = model[0].auto_model(inputs_embeds=states).last_hidden_state
    out[0, 2].sum().backward()
    reached = states.grad[0].abs().sum(dim=1) > 0
    assert reached.tolist() == [True] * 3 + [False] * (ids.shape[1] - 3)
    loss([model.preprocess(QUERIES), model.preprocess(DOCUMENTS)])
    assert attends_both_ways(model)
    np.testing.assert_array_equal(model.encode(DOCUMENTS), before)
    with pytest.raises(RuntimeError, match="stop"), causal_attention(model):
        raise RuntimeError("stop")
    assert attends_both_ways(model)


def test_both_fall_and_it_saves_as_both(tokenizer, tmp_path):
    from sentence_transformers import SentenceTransformer
    from transformers import AutoModelForCausalLM

    model = decoder(tokenizer)
    loss = GenerationLoss(model, ContrastiveLoss(model, temperature=0.05))
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    parts = []
    for _ in range(40):
        loss([model.preprocess(QUERIES), model.preprocess(DOCUMENTS)]).backward()
        optimizer.step()
        optimizer.zero_grad()
        parts.append(loss.last)
    for name in ("base", "generation"):
        assert parts[-1][name] < 0.6 * parts[0][name], name
    model.eval()
    model.save_pretrained(str(tmp_path / "st"))
    plain = SentenceTransformer(str(tmp_path / "st"), device="cpu", local_files_only=True)
    np.testing.assert_allclose(plain.encode(DOCUMENTS), model.encode(DOCUMENTS), atol=1e-6)
    assert attends_both_ways(ew.load(tmp_path / "st", device="cpu"))
    causal_language_model(plain).save_pretrained(tmp_path / "lm")
    lm = AutoModelForCausalLM.from_pretrained(tmp_path / "lm")
    assert not attends_both_ways(lm)
    ids = model.preprocess(DOCUMENTS)
    found = next_token_loss(lm(input_ids=ids["input_ids"]).logits, ids["input_ids"],
                            ids["attention_mask"])  # fmt: skip
    with torch.no_grad():
        ours = loss.generation(ids["input_ids"], ids["attention_mask"])
    assert float(found.detach()) == pytest.approx(float(ours), abs=1e-3)


def test_what_is_refused(tokenizer):
    encoder = new_model("bert", tokenizer, dim=16, layers=1, heads=2)
    with pytest.raises(InputError, match="no decoder"):
        GenerationLoss(encoder, ContrastiveLoss(encoder))
    untied = decoder(tokenizer, tie_word_embeddings=False)
    with pytest.raises(InputError, match="tie_word_embeddings"):
        GenerationLoss(untied, ContrastiveLoss(untied))
    with pytest.raises(InputError, match="tie_word_embeddings"):
        causal_language_model(untied)
    model = decoder(tokenizer)
    with pytest.raises(InputError, match="two columns"):
        GenerationLoss(model, ContrastiveLoss(model))([model.preprocess(QUERIES)])
    with pytest.raises(InputError, match="no transformer"):
        causal_language_model(ew.load("static"))
