"""Merging models with different vocabularies by the texts of their tokens."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

import embedworks as ew
from embedworks.errors import InputError, UnknownNameError
from embedworks.merging import multi_slerp
from embedworks.models import StaticModel, check_golden


def static(folder, words, seed):
    """Write a static model of whole words and return its rows by token."""
    tokens = ["[UNK]", *words]
    tokenizer = Tokenizer(models.WordPiece({t: i for i, t in enumerate(tokens)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    table = np.random.default_rng(seed).normal(size=(len(tokens), 6)).astype(np.float32)
    StaticModel(tokenizer, table).save_pretrained(folder, dtype="float32")
    return dict(zip(tokens, table))


@pytest.fixture
def pair(tmp_path):
    rows = [
        static(tmp_path / "a", ["open", "file", "read"], 0),
        static(tmp_path / "b", ["zip", "read", "file", "heap"], 1),
    ]
    return [tmp_path / "a", tmp_path / "b"], rows


def table_of(folder):
    tokens = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    (table,) = load_file(folder / "model.safetensors").values()
    assert len(table) == len(tokens)
    return {token: table[place] for token, place in tokens.items()}


@pytest.mark.parametrize("weights", [None, [3.0, 1.0], [1.0, 0.0]])
def test_rows_are_merged_by_the_text_of_their_token(tmp_path, pair, weights):
    folders, (a, b) = pair
    report = ew.merge(folders, tmp_path / "out", weights=weights, tokenizer="union")
    merged = table_of(tmp_path / "out")
    assert list(merged) == ["[UNK]", "open", "file", "read", "zip", "heap"]
    share = np.array(weights or [1, 1]) / sum(weights or [1, 1])
    for token, row in merged.items():
        if token in a and token in b:
            expected = share[0] * a[token] + share[1] * b[token]
        else:  # whatever its weight, only one model knows it
            expected = a.get(token, b.get(token))
        np.testing.assert_allclose(row, expected, atol=1e-6, err_msg=token)
    model = ew.load(tmp_path / "out")
    check_golden(tmp_path / "out", model)
    np.testing.assert_allclose(model.encode(["heap"])[0], b["heap"] / np.linalg.norm(b["heap"]),
                               atol=1e-6)  # fmt: skip
    assert report.data == {
        "tokenizer": "union", "tokens": 6, "tokens_of_all": 3, "tokens_of": [4, 5],
    }  # fmt: skip
    assert "with the tokens of all models" in (tmp_path / "out" / "README.md").read_text()


def test_both_libraries_read_the_result(tmp_path, pair):
    library = pytest.importorskip("sentence_transformers")
    ew.merge(pair[0], tmp_path / "out", tokenizer="union")
    plain = library.SentenceTransformer(str(tmp_path / "out"), device="cpu")
    texts = ["open a heap", "read zip file"]
    np.testing.assert_allclose(
        plain.encode(texts), ew.load(tmp_path / "out").encode(texts), atol=1e-5
    )


def test_three_models_and_another_method(tmp_path, pair):
    folders, (a, b) = pair
    c = static(tmp_path / "c", ["heap", "tree", "open"], 2)
    ew.merge([*folders, tmp_path / "c"], tmp_path / "out", "multi_slerp", tokenizer="union")
    merged = table_of(tmp_path / "out")
    known = [a, b, c]
    full = []
    for rows in known:
        full.append(
            [
                rows[t] if t in rows else np.mean([o[t] for o in known if t in o], axis=0)
                for t in merged
            ]
        )
    expected = multi_slerp([np.array(rows) for rows in full])
    np.testing.assert_allclose(np.array(list(merged.values())), expected, atol=1e-5)


def test_models_that_agree_merge_as_ever(tmp_path, pair):
    folders, _ = pair
    same = [ew.merge([folders[0]] * 2, tmp_path / t, tokenizer=t) for t in ("same", "union")]
    assert same[0].files == same[1].files
    for name in ("tokenizer.json", "config.json", "golden.json"):
        both = [json.loads((tmp_path / t / name).read_text()) for t in ("same", "union")]
        for value in both if name == "config.json" else ():
            value.pop("name"), value.pop("metadata")
        assert both[0] == both[1], name


def test_transformers_keep_their_special_tokens(tmp_path, transformer_folder, varied):
    torch = pytest.importorskip("torch")
    from sentence_transformers import SentenceTransformer

    other = varied(transformer_folder, "other", 1)
    stored = json.loads((other / "tokenizer.json").read_text())
    vocabulary = stored["model"]["vocab"]
    added = {token["content"]: token["id"] for token in stored["added_tokens"]}
    order = sorted({**vocabulary, **added}, key={**vocabulary, **added}.get)
    lost = [t for t in order if t.isalpha() and len(t) > 4][:40]
    kept = [t for t in reversed(order) if t not in lost] + ["quantumfoam"]  # ids all differ
    ids = {token: place for place, token in enumerate(kept)}
    stored["model"]["vocab"] = ids
    for token in stored["added_tokens"]:
        token["id"] = ids[token["content"]]
    for token in stored["post_processor"]["special_tokens"].values():
        token["ids"] = [ids[text] for text in token["tokens"]]
    (other / "tokenizer.json").write_text(json.dumps(stored))
    config = json.loads((other / "config.json").read_text())
    config |= {"vocab_size": len(kept), "pad_token_id": ids["[PAD]"]}
    (other / "config.json").write_text(json.dumps(config))
    first = json.loads((transformer_folder / "config.json").read_text())
    first["pad_token_id"] = added["[PAD]"]
    mine = varied(transformer_folder, "mine", 2)
    (mine / "config.json").write_text(json.dumps(first))
    tensors = load_file(other / "model.safetensors")
    table = tensors["embeddings.word_embeddings.weight"]
    known = {token: table[place] for place, token in enumerate(order)}
    known["quantumfoam"] = np.full(32, 0.5, np.float32)
    tensors["embeddings.word_embeddings.weight"] = np.stack([known[t] for t in kept])
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(InputError, match="tokenizer='union'"):
        ew.merge([mine, other], tmp_path / "x")
    ew.merge([mine, other], tmp_path / "out", tokenizer="union")
    merged = SentenceTransformer(str(tmp_path / "out"), device="cpu")
    encoded = merged.tokenizer("quantumfoam")["input_ids"]
    assert merged.tokenizer.convert_ids_to_tokens(encoded) == ["[CLS]", "quantumfoam", "[SEP]"]
    weight = merged[0].model.embeddings.word_embeddings.weight.detach()
    assert len(weight) == len(order) + 1 == merged[0].model.config.vocab_size
    assert torch.allclose(weight[encoded[1]], torch.full((32,), 0.5))
    check_golden(tmp_path / "out", ew.load(tmp_path / "out", device="cpu"))
    # A text of tokens that both know is cut as before.
    alone = SentenceTransformer(str(mine), device="cpu")
    text = "open a file"
    assert merged.tokenizer(text)["input_ids"] == alone.tokenizer(text)["input_ids"]


def test_what_cannot_be_united(tmp_path, pair, static_folder):
    folders, _ = pair

    def message(models=folders, kind=InputError, **options):
        with pytest.raises(kind) as caught:
            ew.merge(models, tmp_path / "x", **{"tokenizer": "union", **options})
        assert not (tmp_path / "x").exists()
        return str(caught.value)

    assert "Did you mean 'union'" in message(tokenizer="unio", kind=UnknownNameError)
    assert "without a base" in message(method="ties", base=folders[0])
    assert "has shape" in message([folders[0], static_folder])  # 6 dimensions and 48
    path = folders[1] / "tokenizer.json"
    whole = json.loads(path.read_text())

    def changed(**model):
        path.write_text(json.dumps({**whole, "model": {**whole["model"], **model}}))

    changed(type="BPE")
    assert "kind BPE" in message()
    changed(vocab={**whole["model"]["vocab"], "heap": 9})
    assert "have holes" in message()
    changed(vocab={**whole["model"]["vocab"], "more": 5})
    assert "no table with a row for each of its 6 tokens" in message()
    changed(max_input_chars_per_word=7)
    assert "another 'model'" in message()
    path.write_text(json.dumps({**whole, "normalizer": None}))
    assert "another 'normalizer'" in message()
    path.unlink()
    assert "one tokenizer.json" in message()
