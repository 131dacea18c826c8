"""The mask by pooling grid: its parts, and a run at a very small scale."""

from __future__ import annotations

import pytest
from reproductions.tiny_entries import run_tiny

torch = pytest.importorskip("torch")
pytest.importorskip("sentence_transformers")

from embedworks.models import new_model, train_tokenizer  # noqa: E402
from embedworks.reproductions.papers.nv_embed_pooling import (  # noqa: E402
    ENTRIES,
    _pooling,
    _pretrain,
    _streams,
)

TEXTS = ["a man reads a book", "a dog runs on the grass", "two people play music"] * 20


def test_the_control_has_as_many_weights_as_latent_attention():
    counts = {arm["pooling"]: 0 for arm in ENTRIES[0].arms}
    for name in counts:
        counts[name] = sum(p.numel() for p in _pooling(name).parameters())
    assert counts["mean"] == counts["last"] == 0
    assert counts["mlp"] == pytest.approx(counts["latent"], rel=0.01)


def test_streams_and_pretraining_are_deterministic():
    tokenizer = train_tokenizer(TEXTS, vocab_size=300)
    first, again = ([b.tolist() for b in _streams(tokenizer, TEXTS, steps=3)] for _ in range(2))
    assert first == again
    assert [len(batch) for batch in first] == [32, 32, 32]
    flat = [i for batch in first for row in batch for i in row]
    assert tokenizer.cls_token_id in flat
    losses = []
    for steps in (2, 12):
        model = new_model("llama", tokenizer, dim=16, layers=1, heads=2, max_tokens=48)
        _pretrain(model, TEXTS, {"lr": 1e-2, "steps": steps})
        body = model[0].auto_model
        ids = torch.tensor(first[0][:4])
        with torch.no_grad():
            logits = body(input_ids=ids).last_hidden_state[:, :-1] @ body.embed_tokens.weight.T
        found = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        losses.append(found.item())
    assert losses[1] < losses[0] - 0.3


@pytest.mark.slow
def test_the_entry_runs(data_root, tmp_path):
    tiny = {
        "rows": 40, "documents": 20, "steps": 2, "batch": 8, "lr": 1e-3,
        "lm": {"rows": 60, "vocabulary": 300, "lr": 1e-3, "steps": 2},
    }  # fmt: skip
    assert run_tiny(ENTRIES[0], tiny, tmp_path).seeds == (0, 1)
