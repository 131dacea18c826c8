"""Folders of static models: every form, parity with sentence-transformers, damaged files."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import embedworks as ew
from embedworks.errors import (
    DataWarning,
    FormatError,
    InputError,
    NotFoundError,
    StorageError,
    UnknownNameError,
)
from embedworks.models import StaticModel, is_static_folder

TEXTS = ["the cat sat", "How do I open a file? [SEP]", "café — “line”", "unbelievable " * 60]


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float32", 0), ("float16", 2e-3), ("int8", 2e-2)]
)
def test_round_trip(model, tmp_path, dtype, tolerance):
    folder = model.save_pretrained(tmp_path / "m", dtype=dtype)
    assert is_static_folder(folder)
    again = StaticModel.from_pretrained(folder)
    assert (again.name, again.metadata, again.normalize) == (model.name, {"seed": 0}, True)
    assert again.table.dtype == np.float32
    np.testing.assert_allclose(again.table, model.table, atol=tolerance)
    assert ((again.encode(TEXTS) * model.encode(TEXTS)).sum(axis=1) > 0.999).all()
    # Saving what was loaded changes nothing any more.
    second = StaticModel.from_pretrained(again.save_pretrained(tmp_path / "again", dtype=dtype))
    np.testing.assert_allclose(second.table, again.table, atol=1e-6)


def test_int8_rows_use_the_whole_range(model, tmp_path):
    table = model.table.copy()
    table[0] = 0
    table[1] *= 1e4
    tensors = load_file(
        model.with_table(table).save_pretrained(tmp_path / "m", dtype="int8") / "model.safetensors"
    )
    weight, scale = tensors["embedding.weight"], tensors["embedding.scale"]
    assert (weight.dtype, scale.dtype) == (np.int8, np.float16)
    assert not weight[0].any()
    largest = np.abs(weight.astype(int)).max(axis=1)[1:]
    assert largest.min() >= 126
    error = np.abs(weight.astype(np.float32) * scale.astype(np.float32)[:, None] - table)
    assert (error <= 0.51 * scale.astype(np.float32)[:, None]).all()


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_plain_sentence_transformers_reads_it_and_agrees(
    tmp_path, tokenizer, table_for, normalize, dtype
):
    library = pytest.importorskip("sentence_transformers")
    ours = StaticModel(tokenizer, table_for(tokenizer), normalize=normalize)
    folder = ours.save_pretrained(tmp_path / "m", dtype=dtype)
    ours = StaticModel.from_pretrained(folder)
    theirs = library.SentenceTransformer(str(folder), device="cpu").float()
    tolerance = 1e-6 if normalize else 5e-6  # torch adds up hundreds of rows less exactly
    np.testing.assert_allclose(ours.encode(TEXTS), theirs.encode(TEXTS), atol=tolerance)
    np.testing.assert_allclose(ours.encode_query(TEXTS), theirs.encode_query(TEXTS), atol=tolerance)
    assert len(theirs) == 1 + normalize


def test_folders_that_sentence_transformers_wrote_are_read(tmp_path, bert_like_tokenizer, model):
    library = pytest.importorskip("sentence_transformers")
    from sentence_transformers.sentence_transformer.modules import Normalize, StaticEmbedding

    embedding = StaticEmbedding(bert_like_tokenizer(), embedding_weights=model.table.copy())
    for modules in ([embedding, Normalize()], [embedding]):
        theirs = library.SentenceTransformer(modules=modules, device="cpu")
        theirs.save_pretrained(str(tmp_path / "theirs"))
        ours = StaticModel.from_pretrained(tmp_path / "theirs")
        np.testing.assert_allclose(ours.encode(TEXTS), theirs.encode(TEXTS), atol=5e-6)
        # The module names we write are the ones this version writes.
        written = json.loads((tmp_path / "theirs" / "modules.json").read_text())
        ours.save_pretrained(tmp_path / "ours")
        assert json.loads((tmp_path / "ours" / "modules.json").read_text()) == written


def test_truncation_in_the_folder_is_kept_and_told(tmp_path, model, tokenizer):
    library = pytest.importorskip("sentence_transformers")
    short = StaticModel(tokenizer, model.table, max_tokens=4)
    folder = short.save_pretrained(tmp_path / "m")
    again = StaticModel.from_pretrained(folder)
    assert again.max_tokens == 4
    with pytest.warns(DataWarning, match="longer than this model's 4 tokens"):
        vectors = again.encode(TEXTS)
    theirs = library.SentenceTransformer(str(folder), device="cpu")
    np.testing.assert_allclose(vectors, theirs.encode(TEXTS), atol=1e-6)


def model2vec_folder(folder, tokenizer, tensors, **config):
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps({"model_type": "model2vec", **config}))
    return folder


def test_model2vec_folders_are_read(tmp_path, tokenizer, model):
    plain = model2vec_folder(tmp_path / "a", tokenizer, {"embeddings": model.table}, normalize=True)
    assert is_static_folder(plain)
    np.testing.assert_array_equal(
        StaticModel.from_pretrained(plain).encode(TEXTS), model.encode(TEXTS)
    )
    mapping = np.arange(len(model.table))[::-1].astype(np.int32).copy()
    weights = np.linspace(0.5, 1.5, len(mapping))
    folded = model2vec_folder(
        tmp_path / "b",
        tokenizer,
        {"embeddings": model.table, "mapping": mapping, "weights": weights},
    )
    loaded = StaticModel.from_pretrained(folded)
    assert not loaded.normalize
    np.testing.assert_allclose(
        loaded.table, model.table[::-1] * weights[:, None], rtol=1e-5, atol=1e-6
    )
    outside = {"embeddings": model.table, "mapping": mapping + 1}
    with pytest.raises(FormatError, match="points outside"):
        StaticModel.from_pretrained(model2vec_folder(tmp_path / "c", tokenizer, outside))


def test_real_model2vec_reads_back(tmp_path, tokenizer, model):
    model2vec = pytest.importorskip("model2vec")
    theirs = model2vec.StaticModel(model.table, tokenizer, normalize=True, max_length=None)
    theirs.save_pretrained(tmp_path / "m")
    known = ["the cat sat", "How do I open a file?"]
    ours = StaticModel.from_pretrained(tmp_path / "m")
    np.testing.assert_allclose(ours.encode(known), theirs.encode(known), atol=1e-6)


def test_half_written_files_are_format_errors(model, tmp_path):
    folder = model.save_pretrained(tmp_path / "m")
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    header = struct.unpack("<Q", whole[:8])[0]
    for length in (0, 7, 8 + header // 2, len(whole) // 2, len(whole) - 1):
        weights.write_bytes(whole[:length])
        with pytest.raises(FormatError, match="half written"):
            StaticModel.from_pretrained(folder)
    weights.write_bytes(whole)
    for name in ("tokenizer.json", "modules.json", "config.json"):
        text = (folder / name).read_text(encoding="utf-8")
        (folder / name).write_text(text[: len(text) // 2], encoding="utf-8")
        with pytest.raises(FormatError, match="half written"):
            StaticModel.from_pretrained(folder)
        (folder / name).write_text(text, encoding="utf-8")
    StaticModel.from_pretrained(folder)
    weights.unlink()
    with pytest.raises(NotFoundError, match=r"model\.safetensors does not exist"):
        StaticModel.from_pretrained(folder)
    with pytest.raises(NotFoundError, match="There is no model folder"):
        StaticModel.from_pretrained(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"other": np.ones((3, 2), np.float32)}, "this is not a static model"),
        ({"embedding.weight": np.ones((60, 2), np.int8)}, "need 'embedding.scale'"),
        (
            {"embedding.weight": np.ones((3, 2), np.int8), "embedding.scale": np.ones(2)},
            r"has shape \(2,\)",
        ),
        ({"embedding.weight": np.ones((3, 2), np.int32)}, "expected float32 or float16"),
        ({"embedding.weight": np.ones(3, np.float32)}, r"expected \(V, D\)"),
        ({"embeddings": np.ones((3, 2)), "weights": np.ones(2)}, "'weights' has shape"),
    ],
)
def test_wrong_tensors_are_format_errors(model, tmp_path, tensors, message):
    folder = model.save_pretrained(tmp_path / "m")
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(FormatError, match=message):
        StaticModel.from_pretrained(folder)


def test_other_formats_are_refused(model, tmp_path):
    folder = model.save_pretrained(tmp_path / "m")
    stored = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**stored, "embedworks_format": 99}))
    with pytest.raises(FormatError, match="of format 99"):
        StaticModel.from_pretrained(folder)
    (folder / "config.json").write_text("[]")
    with pytest.raises(FormatError, match="must hold a JSON object"):
        StaticModel.from_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(stored))
    for modules, message in (
        ([{"idx": 0, "type": "x.Transformer"}], "is not a static model"),
        ([{"type": "x"}], "not a list of modules"),
    ):
        (folder / "modules.json").write_text(json.dumps(modules))
        with pytest.raises(FormatError, match=message):
            StaticModel.from_pretrained(folder)


def test_saving_keeps_cards_and_licences_and_drops_old_golden_vectors(model, tmp_path):
    folder = model.save_pretrained(tmp_path / "m")
    assert "# tiny" in (folder / "README.md").read_text()
    (folder / "README.md").write_text("my card")
    (folder / "LICENSE").write_text("free")
    (folder / "notes").mkdir()
    (folder / "notes" / "a.txt").write_text("note")
    (folder / "golden.json").write_text("{}")
    model.save_pretrained(folder, dtype="int8")
    assert (folder / "README.md").read_text() == "my card"
    assert (folder / "LICENSE").read_text() == "free"
    assert (folder / "notes" / "a.txt").read_text() == "note"
    assert not (folder / "golden.json").exists()
    assert not (folder / "modules.json").exists()  # int8 is for embedworks only
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_saving_never_replaces_what_is_not_a_model(model, tmp_path):
    (tmp_path / "photo.jpg").write_text("x")
    with pytest.raises(InputError, match="holds no model"):
        model.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="is a file"):
        model.save_pretrained(tmp_path / "photo.jpg")
    with pytest.raises(UnknownNameError, match="float16"):
        model.save_pretrained(tmp_path / "new", dtype="float61")
    huge = model.with_table(model.table * 1e9)
    for dtype in ("float16", "int8"):
        with pytest.raises(InputError, match="use float32"):
            huge.save_pretrained(tmp_path / "new", dtype=dtype)
    assert not (tmp_path / "new").exists()


def test_a_failed_save_leaves_the_old_model(model, tmp_path, monkeypatch):
    folder = model.save_pretrained(tmp_path / "m")
    before = model.encode(TEXTS)

    def full(*_arguments, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("embedworks.models._static_files.save", full)
    with pytest.raises(StorageError, match="disk is full"):
        model.with_table(2 * model.table).save_pretrained(folder)
    np.testing.assert_array_equal(StaticModel.from_pretrained(folder).encode(TEXTS), before)
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_what_is_not_a_static_folder(tmp_path, model):
    assert not is_static_folder(tmp_path)
    folder = model.save_pretrained(tmp_path / "m")
    (folder / "modules.json").unlink()
    assert is_static_folder(folder)  # config.json still says so
    (folder / "config.json").unlink()
    assert not is_static_folder(folder)


def test_static_folders_with_prompts_are_left_to_sentence_transformers(tmp_path, model):
    pytest.importorskip("sentence_transformers")
    folder = model.save_pretrained(tmp_path / "m")
    path = folder / "config_sentence_transformers.json"
    stored = json.loads(path.read_text())
    path.write_text(json.dumps({**stored, "prompts": {"query": "the cat ", "document": ""}}))
    assert not is_static_folder(folder)
    loaded = ew.load(folder, device="cpu")
    np.testing.assert_allclose(
        loaded.encode_query(["sat"]), model.encode(["the cat sat"]), atol=1e-6
    )
