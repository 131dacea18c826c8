from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from embedworks.errors import EmptyInputError, InputError, SettingsError, ShapeError
from embedworks.models import new_language_model, prompted_model, train_tokenizer
from embedworks.modules import attends_both_ways
from embedworks.training import (
    LanguageModelSettings,
    SMAEObjective,
    TokenCollator,
    pack_tokens,
    train_language_model,
)
from embedworks.training.language_models.masking import masked_rows, nested_masks, word_starts

TEXTS = [f"the {a} is a {b} in the {c}" for a in ("cat", "file") for b in ("row", "folder")
         for c in ("house", "archive", "language")]  # fmt: skip
SIZES = {"dim": 32, "layers": 2, "heads": 2, "max_tokens": 64}


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS * 5, vocab_size=330)


def test_packed_rows_are_the_texts_one_after_another(tokenizer):
    rows = pack_tokens([*TEXTS, "", "  "], tokenizer, 16)
    stream = [token for text in TEXTS for token in tokenizer(text)["input_ids"]]
    assert rows.dtype == np.int32
    assert rows.ravel().tolist() == stream[: len(stream) // 16 * 16]
    begun = pack_tokens(TEXTS, tokenizer, 16, begin=True)
    assert (begun[:, 0] == tokenizer.cls_token_id).all()
    assert begun[:, 1:].ravel().tolist() == stream[: len(stream) // 15 * 15]
    with pytest.raises(EmptyInputError, match="do not fill a row"):
        pack_tokens(["a"], tokenizer, 64)


def slow_words(ids, starts, special):
    """Return the words of a row as lists of places."""
    words, open_word = [], False
    for place, token in enumerate(ids):
        if token in special:
            open_word = False
        elif starts[token] or not open_word:
            words.append([place])
            open_word = True
        else:
            words[-1].append(place)
    return words


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10_000),
    st.floats(0.0, 1.0),
    st.floats(0.0, 1.0),
)
def test_masks_are_whole_words_nested_and_near_their_shares(seed, a, b):
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, 20, (4, int(rng.integers(1, 30))))
    starts = rng.random(20) < 0.5
    special, shares = [0, 1], (min(a, b), max(a, b))
    small, large = nested_masks(ids, starts=starts, special=special, shares=shares, rng=rng)
    assert not (small & ~large).any()
    for row in range(4):
        words = slow_words(ids[row], starts, special)
        count = sum(map(len, words))
        for mask, share in ((small, shares[0]), (large, shares[1])):
            assert not mask[row, np.isin(ids[row], special)].any()
            for word in words:
                assert len(set(mask[row, word])) == 1
            longest = max(map(len, words), default=0)
            assert abs(mask[row].sum() - share * count) <= longest


def test_hidden_tokens_have_their_shares_and_labels():
    rng = np.random.default_rng(0)
    ids = rng.integers(10, 1000, (100, 200))
    chosen = rng.random(ids.shape) < 0.3
    read, labels = masked_rows(ids, chosen, mask_token=4, vocabulary=1000, rng=rng)
    np.testing.assert_array_equal(labels, np.where(chosen, ids, -100))
    np.testing.assert_array_equal(read[~chosen], ids[~chosen])
    hidden = (read[chosen] == 4).mean()
    kept = (read[chosen] == ids[chosen]).mean()
    assert abs(hidden - 0.8) < 0.02
    assert abs(kept - 0.1) < 0.02
    with pytest.raises(ShapeError):
        masked_rows(ids, chosen[:1], mask_token=4, vocabulary=9, rng=rng)


def test_words_start_where_a_space_was(tokenizer):
    starts = word_starts(tokenizer)
    ids = tokenizer("the archive, then", add_special_tokens=False)["input_ids"]
    words = slow_words(ids, starts, set())
    assert ["".join(tokenizer.decode([ids[n] for n in w])) for w in words] == [
        "the", " archive", ",", " then",
    ]  # fmt: skip


@pytest.mark.parametrize("objective", ["causal", "mlm", "mntp", "smae"])
def test_the_loss_falls(objective, tokenizer):
    masked = objective in ("mlm", "smae")
    model = new_language_model("bert" if masked else "qwen3", tokenizer, masked=masked, **SIZES)
    before = copy.deepcopy(model.state_dict())
    wanted = LanguageModelSettings(
        objective=objective, steps=60, batch_size=8, length=24, learning_rate=5e-3,
        pairs=((1, 16), (2, 32)) if objective == "smae" else (),
    )  # fmt: skip
    done = train_language_model(model, tokenizer, TEXTS * 20, wanted)
    assert done.steps == 60
    assert done.tokens == 60 * 8 * 24
    assert done.losses[-1] < 0.6 * done.losses[0]
    assert done.losses[0] == pytest.approx(np.log(len(tokenizer)), rel=0.2)
    assert any(not torch.equal(before[k], v) for k, v in model.state_dict().items())
    if not masked:
        assert attends_both_ways(model) == (objective == "mntp")
        assert prompted_model(model, tokenizer, template="mean").encode(["a cat"]).shape == (1, 32)


def test_mntp_tells_a_masked_token_from_the_state_before_it(tokenizer):
    model = new_language_model("qwen3", tokenizer, **SIZES)
    wanted = LanguageModelSettings(objective="mntp", steps=1, length=24)
    rows = pack_tokens(TEXTS, tokenizer, 24)[:3]
    batch = TokenCollator(tokenizer, wanted)([{"input_ids": row} for row in rows])
    chosen = batch["labels"] != -100
    assert (batch["input_ids"][chosen] == tokenizer.mask_token_id).all()
    model.config.is_causal = False
    with torch.no_grad():
        found = model(**batch)
        logits = model(batch["input_ids"]).logits.double()
    losses = [
        F.cross_entropy(logits[row, place - 1], batch["labels"][row, place])
        for row, place in chosen.nonzero().tolist()
        if place > 0
    ]
    assert found.loss.item() == pytest.approx(torch.stack(losses).mean().item(), rel=1e-4)


def test_smae_is_the_mean_over_sizes_of_both_losses(tokenizer):
    model = new_language_model("bert", tokenizer, masked=True, **SIZES)
    objective = SMAEObjective(model, [(1, 8), (2, 32)]).eval()
    wanted = LanguageModelSettings(objective="smae", steps=1, length=24)
    rows = pack_tokens(TEXTS, tokenizer, 24, begin=True)[:3]
    batch = TokenCollator(tokenizer, wanted)([{"input_ids": row} for row in rows])
    hidden, more = batch["labels"] != -100, batch["decoder_labels"] != -100
    assert not (hidden & ~more).any()
    assert more.sum() > hidden.sum()
    head = model.cls.predictions
    total = []
    with torch.no_grad():
        states = model.bert(batch["input_ids"], output_hidden_states=True).hidden_states
        embedded = model.bert.embeddings(batch["decoder_input_ids"])
        for layer, width in ((1, 8), (2, 32)):
            padded = torch.zeros_like(states[layer])
            padded[..., :width] = states[layer][..., :width]
            made = head.transform(padded)
            read = embedded.clone()
            read[:, 0] = made[:, 0]
            for scores, labels in (
                (head.decoder(made), batch["labels"]),
                (head(objective.decoder(read)), batch["decoder_labels"]),
            ):
                each = [
                    F.cross_entropy(scores[r, t], labels[r, t])
                    for r in range(3)
                    for t in range(24)
                    if labels[r, t] != -100
                ]
                total.append(torch.stack(each).mean())
        expected = torch.stack(total).mean()
        assert objective(**batch)["loss"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_saved_smae_model_is_a_plain_bert(tokenizer, tmp_path):
    from transformers import AutoModel

    model = new_language_model("bert", tokenizer, masked=True, **SIZES)
    wanted = LanguageModelSettings(objective="smae", steps=2, batch_size=4, length=24)
    train_language_model(model, tokenizer, TEXTS * 5, wanted)
    model.save_pretrained(tmp_path)
    plain = AutoModel.from_pretrained(tmp_path)
    assert plain.config.num_hidden_layers == 2
    assert not [name for name in plain.state_dict() if "decoder" in name]


def test_training_follows_its_seed_and_stops_in_time(tokenizer):
    def trained(seed):
        model = new_language_model("qwen3", tokenizer, **SIZES)
        wanted = LanguageModelSettings(steps=5, batch_size=4, length=24, seed=seed)
        return train_language_model(model, tokenizer, TEXTS * 5, wanted).losses

    assert trained(0) == trained(0)
    assert trained(0) != trained(1)
    model = new_language_model("qwen3", tokenizer, **SIZES)
    wanted = LanguageModelSettings(steps=10_000, batch_size=4, length=24, max_seconds=0.1)
    assert train_language_model(model, tokenizer, TEXTS * 5, wanted).steps < 10_000


def test_what_does_not_fit_is_refused(tokenizer):
    causal = new_language_model("qwen3", tokenizer, **SIZES)
    with pytest.raises(InputError, match=r"'mlm'.*needs a masked language model"):
        train_language_model(causal, tokenizer, TEXTS, LanguageModelSettings(objective="mlm"))
    bert = new_language_model("bert", tokenizer, masked=True, **SIZES)
    with pytest.raises(InputError, match=r"'mntp'.*needs a causal language model"):
        train_language_model(bert, tokenizer, TEXTS, LanguageModelSettings(objective="mntp"))
    for pairs in ([(1, 8)], [(2, 8), (1, 32)], [(1, 32), (2, 32)], []):
        with pytest.raises(InputError, match="must grow"):
            SMAEObjective(bert, pairs)
    with pytest.raises(InputError, match="head of BERT"):
        SMAEObjective(causal, [(2, 32)])
    with pytest.raises(SettingsError, match="pairs go with"):
        LanguageModelSettings.from_dict({"pairs": [[1, 2]]})
    with pytest.raises(SettingsError, match="at least what the encoder hides"):
        LanguageModelSettings.from_dict({"objective": "smae", "mask_share": 0.5})
