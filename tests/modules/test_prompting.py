from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

import embedworks as ew
from embedworks.errors import DataWarning, EmptyInputError, InputError, UnknownNameError
from embedworks.models import (
    new_language_model,
    new_model,
    next_token_vectors,
    prompted_model,
    train_tokenizer,
)
from embedworks.modules import PROMPT_TEMPLATES, PromptTemplate, make_bidirectional

TEXTS = [
    "a file means data in a row",
    "a folder that holds files and says what is in them",
    "the cat",
    'They said "no" in one word',
]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS * 3, vocab_size=320)


@pytest.fixture(scope="module")
def lms(tokenizer):
    sizes = {"dim": 32, "layers": 4, "heads": 4, "max_tokens": 240}
    return {name: new_language_model(name, tokenizer, **sizes) for name in ("gpt2", "qwen3")}


@pytest.fixture
def make(lms, tokenizer):
    def made(template="prompteol", architecture="qwen3", **options):
        return prompted_model(lms[architecture], tokenizer, template=template, **options)

    return made


def unpadded(model, text):
    """Compute the vector of one text the obvious way: no batch, no padding, no module."""
    first = model[0]
    tokens = first.tokenizer
    template = first.template
    vectors = []
    for prompt in template.prompts:
        before, _, after = prompt.rpartition("{text}")
        before = before.replace("{text}", text)
        after = after.replace("{eos}", tokens.eos_token)
        whole = tokens(before + text + after, add_special_tokens=False)["input_ids"]
        front = len(tokens(before.rstrip(), add_special_tokens=False)["input_ids"])
        back = len(tokens(after, add_special_tokens=False)["input_ids"])
        ids = [tokens.cls_token_id, *whole]
        with torch.no_grad():
            states = first.model.base_model(torch.tensor([ids])).last_hidden_state[0].double()
        span = states[1 + front : len(ids) - back]
        if template.pooling == "last-token":
            vectors.append(states[-1])
        elif template.pooling == "mean":
            vectors.append(span.mean(dim=0))
        else:
            weights = torch.arange(1, len(span) + 1).double()
            vectors.append((span * weights[:, None]).sum(dim=0) / weights.sum())
    mean = torch.stack(vectors).mean(dim=0)
    return (mean / mean.norm()).numpy()


PLAIN = [n for n in PROMPT_TEMPLATES if n not in ("token-prepending", "contrastive")]


@pytest.mark.parametrize("name", PLAIN)
def test_templates_give_what_a_plain_forward_pass_gives(name, make):
    model = make(name, "gpt2")
    text = "the cat means data"
    shown = text + "." if model[0].template.sentence else text
    np.testing.assert_allclose(model.encode([text])[0], unpadded(model, shown), atol=2e-5)


@pytest.mark.parametrize("architecture", ["gpt2", "qwen3"])
@pytest.mark.parametrize("name", PROMPT_TEMPLATES.names())
def test_neither_batch_nor_padding_nor_the_kernel_shows(name, architecture, make):
    model = make(name, architecture)
    together = model.encode(TEXTS)
    alone = np.stack([model.encode([text])[0] for text in TEXTS])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    for attention in ("sdpa", "eager"):
        model[0].model.set_attn_implementation(attention)
        for side in ("left", "right"):
            model[0].tokenizer.padding_side = side
            np.testing.assert_allclose(model.encode(TEXTS, batch_size=3), alone, atol=1e-5)
    assert np.unique(together.round(4), axis=0).shape == together.shape


@pytest.mark.filterwarnings("ignore:.*do not fit into the prompt")
@pytest.mark.parametrize("name", ["metaeol", "token-prepending", "contrastive", "echo"])
def test_a_saved_model_comes_back(name, make, tmp_path):
    model = make(name, layer=2)
    ew.models.save(model, tmp_path / "model")
    loaded = ew.load(str(tmp_path / "model"), device="cpu")
    assert loaded[0].template == model[0].template
    assert loaded[0].get_config_dict() == model[0].get_config_dict()
    np.testing.assert_allclose(loaded.encode(TEXTS), model.encode(TEXTS), atol=1e-6)


def test_the_first_copy_lets_early_tokens_know_the_end(make):
    """Echo: a state of the second copy depends on the last token; a plain one does not."""
    for name, expected in (("mean", False), ("echo", True)):
        model = make(name, normalize=False)
        rows = []
        for text in ("the cat in a row", "the cat in a file"):
            features = model[0].preprocess([text])
            states = model[0](dict(features))["token_embeddings"]
            rows.append(states[0][features["pooling_mask"][0].bool()][0])
        assert (not torch.allclose(rows[0], rows[1], atol=1e-6)) == expected


def test_prepending_writes_the_last_state_before_the_text(make):
    model = make("token-prepending", normalize=False, prepend_layers=(1, 3))
    features = model[0].preprocess(["the cat"])
    seen = {}
    layers = model[0].body.layers
    # Inside the layers, where what was written before them shows.
    handles = [
        layers[n].input_layernorm.register_forward_pre_hook(
            lambda _, args, n=n: seen.setdefault(n, args[0])
        )
        for n in range(4)
    ]
    model[0](dict(features))
    for handle in handles:
        handle.remove()
    at = int(features["prepend_mask"][0].argmax())
    assert int(features["prepend_mask"].sum()) == 1
    for n in range(4):
        assert torch.equal(seen[n][0, at], seen[n][0, -1]) == (n in (1, 2))


def test_steering_of_no_strength_is_prompteol_and_more_moves_away(make):
    plain = make("prompteol").encode(TEXTS)
    none = make("contrastive", steer_strength=0.0).encode(TEXTS)
    np.testing.assert_array_equal(plain, none)
    some = make("contrastive", steer_strength=0.5).encode(TEXTS)
    assert np.abs(plain - some).max() > 1e-4


def test_steering_adds_the_difference_to_the_last_state_alone():
    from embedworks.modules.prompting.steering import steer_last

    rng = torch.Generator().manual_seed(0)
    states, away = torch.randn(3, 5, 4, generator=rng), torch.randn(3, 4, generator=rng)
    mask = torch.tensor([[1, 1, 1, 0, 0], [0, 0, 1, 1, 1], [1] * 5]).bool()
    found = steer_last(states, mask, away, 0.7)
    for row, last in enumerate((2, 4, 4)):
        for token in range(5):
            old = states[row, token]
            new = old + 0.7 * (old - away[row]) if token == last else old
            torch.testing.assert_close(found[row, token], new)


def test_layers_are_the_models_own(make, lms, tokenizer):
    for layer in range(-5, 5):
        model = make("last", normalize=False, layer=layer)
        ids = torch.tensor([[tokenizer.cls_token_id, *tokenizer("the cat")["input_ids"][1:-1]]])
        with torch.no_grad():
            states = lms["qwen3"](ids, output_hidden_states=True).hidden_states[layer][0, -1]
        np.testing.assert_allclose(model.encode(["the cat"])[0], states.numpy(), atol=1e-5)


def test_long_texts_are_cut_counted_and_the_prompt_stays(make, tokenizer):
    model = make("prompteol", max_tokens=60)
    long = "the cat in a row " * 50
    with pytest.warns(DataWarning, match="1 of 2 texts do not fit"):
        features = model[0].preprocess([long, "the cat"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.encode([long, long])
    assert model[0].truncated_texts == 3
    row = features["input_ids"][0][features["attention_mask"][0].bool()].tolist()
    assert 50 <= len(row) <= 60
    assert tokenizer.decode(row).endswith('" means in one word:"')
    echo = make("echo", max_tokens=60)
    with pytest.warns(DataWarning):
        features = echo[0].preprocess([long])
    text = tokenizer.decode(features["input_ids"][0])
    first, second = text.split("Say this again:")[1].split("\nAgain:")
    assert first.strip() == second.strip()
    assert len(second) > 20


def test_demonstrations_go_before_the_text(make):
    shown = PROMPT_TEMPLATES["prompteol"].demonstrated((("It rains", "weather"),))
    assert shown.prompts[0].startswith('This sentence : "It rains." means in one word:"weather". ')
    assert make(shown).encode(TEXTS).shape == (4, 32)
    with pytest.raises(InputError, match="open quote"):
        PROMPT_TEMPLATES["echo"].demonstrated((("It rains", "weather"),))
    assert PROMPT_TEMPLATES["echo"].demonstrated(()) == PROMPT_TEMPLATES["echo"]


def test_next_tokens_are_the_language_models_own(make, lms):
    model = make("promptreps")
    found = next_token_vectors(model, TEXTS, top_k=400).toarray()
    plain = next_token_vectors(model, TEXTS, top_k=5)
    assert (np.diff(plain.indptr) <= 5).all()
    tokens = model[0].tokenizer
    features = model[0].preprocess(["the cat"])
    with torch.no_grad():
        logits = lms["qwen3"](features["input_ids"]).logits[0, -1]
    from embedworks.models import usable_tokens

    expected = np.log1p(np.maximum(logits.numpy(), 0)) * usable_tokens(tokens)
    np.testing.assert_allclose(found[2], expected, atol=1e-4)
    own = next_token_vectors(model, ["the cat"], own_tokens=True)
    allowed = set(tokens("the cat")["input_ids"]) | set(tokens(" the cat")["input_ids"])
    assert set(own.indices) <= allowed


def test_what_does_not_fit_is_refused(make, lms, tokenizer, tmp_path):
    with pytest.raises(InputError, match=r"has no \{text\}"):
        PromptTemplate(("In one word:",))
    with pytest.raises(InputError, match="slot {txt}.*text"):
        PromptTemplate(("{txt}",))
    with pytest.raises(InputError, match="no 'pool'.*pooling"):
        PromptTemplate.from_dict({"prompts": ["{text}"], "pool": "mean"})
    with pytest.raises(UnknownNameError, match="prompteol"):
        make("promptol")
    with pytest.raises(InputError, match="nothing is left for a text"):
        make("prompteol", max_tokens=20)
    with pytest.raises(InputError, match="layer must be"):
        make(layer=5)
    with pytest.raises(InputError, match="first < end"):
        make("token-prepending", prepend_layers=(3, 3))
    with pytest.raises(InputError, match="goes with a template"):
        make("prompteol", prepend_layers=(1, 2))
    with pytest.raises(InputError, match="auxiliary"):
        make("prompteol", steer_layer=1)
    with pytest.raises(InputError, match="weights to train"):
        make(pooling="mlp")
    with pytest.raises(InputError, match="needs its tokenizer"):
        prompted_model(lms["gpt2"])
    with pytest.raises(InputError, match="input 0 is a int"):
        make("last")[0].preprocess([3])
    with pytest.raises(EmptyInputError, match="left to pool"):
        make("mean").encode([""])
    encoder = new_language_model("bert", tokenizer, masked=True, dim=16, layers=1, heads=2)
    encoder.save_pretrained(tmp_path / "bert")
    tokenizer.save_pretrained(tmp_path / "bert")
    with pytest.raises(InputError, match="reads both ways"):
        prompted_model(tmp_path / "bert")
    with pytest.raises(InputError, match="without a prompted language model"):
        next_token_vectors(new_model("gpt2", tokenizer, dim=16, layers=1, heads=2), ["a"])
    with pytest.raises(InputError, match="one prompt's last state"):
        next_token_vectors(make("metaeol"), ["a"])


def test_a_body_without_its_head_embeds_but_says_no_next_token(tokenizer, tmp_path):
    lm = new_language_model(
        "llama", tokenizer, dim=16, layers=1, heads=2, max_tokens=96, tie_word_embeddings=False
    )
    lm.base_model.save_pretrained(tmp_path / "body")
    tokenizer.save_pretrained(tmp_path / "body")
    model = prompted_model(tmp_path / "body")
    assert model.encode(["the cat"]).shape == (1, 16)
    with pytest.raises(InputError, match="no output layer"):
        next_token_vectors(model, ["the cat"])


def test_a_bidirectional_language_model_may_be_prompted(tokenizer, tmp_path):
    lm = new_language_model("llama", tokenizer, dim=16, layers=2, heads=2, max_tokens=96)
    causal = prompted_model(lm, tokenizer, template="mean").encode(TEXTS)
    make_bidirectional(lm)
    model = prompted_model(lm, tokenizer, template="mean")
    assert np.abs(model.encode(TEXTS) - causal).max() > 1e-4
    model.save_pretrained(str(tmp_path / "model"))
    loaded = ew.load(str(tmp_path / "model"), device="cpu")
    np.testing.assert_allclose(loaded.encode(TEXTS), model.encode(TEXTS), atol=1e-6)


def test_gradients_reach_the_model(make):
    model = make("prompteol")
    features = model[0].preprocess(TEXTS)
    model[0](features)["sentence_embedding"].square().sum().backward()
    assert model[0].body.embed_tokens.weight.grad.abs().sum() > 0
