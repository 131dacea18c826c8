"""What single poolings compute, against loops in float64."""

from __future__ import annotations

import json
import math

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sentence_transformers")

from sentence_transformers import SentenceTransformer  # noqa: E402
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling  # noqa: E402

import embedworks as ew  # noqa: E402
from embedworks.errors import FormatError, InputError, ShapeError  # noqa: E402
from embedworks.modules import (  # noqa: E402
    LastTokenPooling,
    LatentAttentionPooling,
    LayerMixing,
    LearnedQueryPooling,
    MLPPooling,
    PowerMeanPooling,
    SelfAttentionPooling,
)


def layer_norm(row, norm):
    mean = sum(row) / len(row)
    variance = sum((x - mean) ** 2 for x in row) / len(row)
    scale, shift = norm.weight.tolist(), norm.bias.tolist()
    return [
        (x - mean) / math.sqrt(variance + norm.eps) * w + b for x, w, b in zip(row, scale, shift)
    ]


def linear(row, layer):
    bias = [0.0] * layer.out_features if layer.bias is None else layer.bias.tolist()
    return [
        sum(w * x for w, x in zip(weights, row)) + b
        for weights, b in zip(layer.weight.tolist(), bias)
    ]


def gelu(x):
    return x * 0.5 * (1 + math.erf(x / math.sqrt(2)))


def feed_forward(row, block):
    inner = linear(layer_norm(row, block.norm), block.rise)
    if block.gated:
        half = len(inner) // 2
        inner = [a * gelu(b) for a, b in zip(inner[:half], inner[half:])]
    else:
        inner = [gelu(x) for x in inner]
    return linear(inner, block.fall)


def attend(query, keys, values, heads):
    width = len(query) // heads
    found = []
    for head in range(heads):
        at = slice(head * width, (head + 1) * width)
        scores = [sum(q * k for q, k in zip(query[at], key[at])) / math.sqrt(width) for key in keys]
        weights = [math.exp(s - max(scores)) for s in scores]
        weights = [w / sum(weights) for w in weights]
        found += [sum(w * value[at][i] for w, value in zip(weights, values)) for i in range(width)]
    return found


@pytest.mark.parametrize("dim_head", [None, 6])
@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("residual", [True, False])
def test_latent_attention_equals_loops(dim_head, gated, residual):
    torch.manual_seed(1)
    pooling = LatentAttentionPooling(
        8, num_latents=3, num_heads=2, dim_head=dim_head, ff_mult=1.5, gated=gated,
        residual=residual,
    ).double()  # fmt: skip
    tokens = torch.randn(1, 4, 8, dtype=torch.float64)
    mask = torch.tensor([[0, 1, 1, 1]])
    found = pooling({"token_embeddings": tokens, "attention_mask": mask})["sentence_embedding"]
    pairs = [
        linear(layer_norm(z, pooling.latent_norm), pooling.to_key_value)
        for z in pooling.latents.tolist()
    ]
    inner = len(pairs[0]) // 2
    keys, values = [p[:inner] for p in pairs], [p[inner:] for p in pairs]
    rows = []
    for state in tokens[0, 1:].tolist():
        query = linear(layer_norm(state, pooling.norm), pooling.to_query)
        out = linear(attend(query, keys, values, 2), pooling.to_out)
        first = [a + b for a, b in zip(state, out)] if residual else out
        changed = feed_forward(first, pooling.feed_forward)
        rows.append([a + b for a, b in zip(first, changed)] if residual else changed)
    expected = [sum(column) / 3 for column in zip(*rows)]
    assert found[0].tolist() == pytest.approx(expected, rel=1e-9)


def test_self_attention_equals_loops():
    torch.manual_seed(1)
    pooling = SelfAttentionPooling(8, num_heads=2, ff_mult=1).double()
    tokens = torch.randn(1, 4, 8, dtype=torch.float64)
    given = {
        "token_embeddings": tokens, "attention_mask": torch.tensor([[1, 1, 1, 0]]),
        "pooling_mask": torch.tensor([[0, 1, 1, 0]]),
    }  # fmt: skip
    found = pooling(given)["sentence_embedding"]
    states = tokens[0, :3].tolist()
    parts = [linear(layer_norm(s, pooling.norm), pooling.to_query_key_value) for s in states]
    rows = []
    for state, part in zip(states[1:], parts[1:]):
        read = attend(part[:8], [p[8:16] for p in parts], [p[16:] for p in parts], 2)
        first = [a + b for a, b in zip(state, linear(read, pooling.to_out))]
        rows.append([a + b for a, b in zip(first, feed_forward(first, pooling.feed_forward))])
    expected = [sum(column) / 2 for column in zip(*rows)]
    assert found[0].tolist() == pytest.approx(expected, rel=1e-9)


def test_published_sizes_are_nv_embeds():
    with torch.device("meta"):
        pooling = LatentAttentionPooling.published(4096, dim_head=4096)
    millions = sum(p.numel() for p in pooling.parameters()) / 1e6
    assert millions == pytest.approx(740, rel=0.01)  # 7.85 billion less the backbone's 7.11
    assert pooling.to_query.out_features == 8 * 4096


def test_a_learned_query_starts_as_the_mean():
    tokens = torch.randn(2, 5, 16)
    found = LearnedQueryPooling(16)({"token_embeddings": tokens})["sentence_embedding"]
    torch.testing.assert_close(found, tokens.mean(dim=1))


@pytest.mark.parametrize("power", [3, 5])
def test_power_means_equal_loops(power):
    tokens = torch.randn(1, 6, 4, dtype=torch.float64) * 50
    found = PowerMeanPooling(4, [power])({"token_embeddings": tokens})["sentence_embedding"]
    for column, value in zip(tokens[0].T.tolist(), found[0].tolist()):
        mean = sum(x**power for x in column) / len(column)
        assert value == pytest.approx(math.copysign(abs(mean) ** (1 / power), mean), rel=1e-5)


def test_a_matched_mlp_has_as_many_weights():
    for other in (LatentAttentionPooling(48), SelfAttentionPooling(48, ff_mult=2)):
        wanted = sum(p.numel() for p in other.parameters())
        for gated in (True, False):
            found = sum(p.numel() for p in MLPPooling.matched(other, gated=gated).parameters())
            assert abs(found - wanted) <= 48 * 3


def test_the_last_token_must_be_eos():
    pooling = LastTokenPooling(2, eos_token_id=7)
    ids = torch.tensor([[5, 7, 0], [5, 6, 7], [5, 6, 6]])
    given = {
        "token_embeddings": torch.randn(3, 3, 2), "input_ids": ids,
        "attention_mask": (ids > 0).long(),
    }  # fmt: skip
    with pytest.raises(InputError, match=r"1 of 3 texts .* first is row 2 with 6"):
        pooling(dict(given))
    good = {key: value[:2] for key, value in given.items()}
    found = pooling(dict(good))["sentence_embedding"]
    torch.testing.assert_close(found, given["token_embeddings"][[0, 1], [1, 2]])


def test_nonsense_is_refused():
    with pytest.raises(InputError, match="cannot be shared by 5 heads"):
        LatentAttentionPooling(16, num_heads=5)
    with pytest.raises(InputError, match="num_latents"):
        LatentAttentionPooling(16, num_latents=0)
    with pytest.raises(InputError, match="ff_mult"):
        SelfAttentionPooling(16, ff_mult=0)
    with pytest.raises(InputError, match="dim_head"):
        SelfAttentionPooling(16, dim_head=0)
    for powers in ([2], [], [1, 1], ["mean"], [1.5]):
        with pytest.raises(InputError, match="powers must be"):
            PowerMeanPooling(4, powers)
    with pytest.raises(InputError, match="embedding_dimension"):
        MLPPooling(0)


def mixed(folder):
    body = ew.load(folder)[0]
    return SentenceTransformer(
        modules=[body, LayerMixing(32, 2, last=0.5), Pooling(32, "mean"), Normalize()], device="cpu"
    )


def test_layers_are_mixed_also_after_loading(transformer_folder, tmp_path):
    model = mixed(transformer_folder)
    expected = model.encode(["a heap is a tree"])
    features = model.preprocess(["a heap is a tree"])
    with torch.no_grad():
        states = model[0](features)["all_layer_embeddings"]
        shares = torch.tensor([0.0, 0.0, 0.5]).softmax(dim=0)
        by_hand = sum(s * state for s, state in zip(shares, states)).mean(dim=1)[0]
    torch.testing.assert_close(
        torch.from_numpy(expected[0]), torch.nn.functional.normalize(by_hand, dim=0)
    )
    model.save_pretrained(str(tmp_path / "model"))
    again = ew.load(tmp_path / "model")
    assert abs(again.encode(["a heap is a tree"]) - expected).max() < 1e-6


def test_layer_mixing_does_not_pass_silently(transformer_folder):
    model = mixed(transformer_folder)
    features = model.preprocess(["a"])
    model[0].auto_model.config.output_hidden_states = False
    with pytest.raises(InputError, match="gave its last one alone"):
        model(features)
    with pytest.raises(ShapeError, match="made for 5 layers"):
        LayerMixing(2, 5)({"all_layer_embeddings": (torch.zeros(1, 1, 2),) * 3})
    with pytest.raises(InputError, match="num_layers"):
        LayerMixing(2, 0)


def test_unknown_and_damaged_modules_are_named(transformer_folder, tmp_path):
    mixed(transformer_folder).save_pretrained(str(tmp_path / "model"))
    path = tmp_path / "model" / "modules.json"
    good = path.read_text()
    path.write_text(good.replace("LayerMixing", "LayerMixer"))
    with pytest.raises(FormatError, match=r"does not have. Did you mean 'LayerMixing'"):
        ew.load(tmp_path / "model")
    path.write_text(json.dumps([{"idx": 0}]))
    with pytest.raises(FormatError, match="damaged"):
        ew.load(tmp_path / "model")
