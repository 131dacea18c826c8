"""Golden vectors: written with a model, checked when it is loaded."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import embedworks as ew
from embedworks.errors import (
    EmptyInputError,
    FormatError,
    InputError,
    NotFoundError,
    ParityError,
    StorageError,
)
from embedworks.models import GOLDEN_TEXTS, check_golden, save, write_golden


@pytest.fixture
def folder(model, tmp_path):
    return save(model, tmp_path / "m")


def test_saved_models_reproduce_their_golden_vectors(model, folder):
    cosine, difference = check_golden(folder, ew.load(folder))
    assert cosine == pytest.approx(1, abs=1e-6)
    assert difference < 1e-6
    stored = load_file(folder / "golden.safetensors")["vectors"]
    np.testing.assert_array_equal(stored, model.encode(GOLDEN_TEXTS))
    described = json.loads((folder / "golden.json").read_text(encoding="utf-8"))
    assert described["texts"] == list(GOLDEN_TEXTS)
    assert {"embedworks", "numpy", "tokenizers", "python"} == set(described["versions"])


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_compact_forms_carry_the_vectors_of_what_was_saved(model, tmp_path, dtype):
    folder = model.save_pretrained(tmp_path / "m", dtype=dtype)
    write_golden(folder, ew.load(folder))
    cosine, difference = check_golden(folder, ew.load(folder))
    assert (round(cosine, 6), difference) == (1.0, 0.0)
    with pytest.raises(ParityError):
        check_golden(folder, model)  # the model before it was rounded


def test_one_corrupted_row_is_found(model, folder):
    used, _ = model.tokenize(GOLDEN_TEXTS[:1])
    tensors = load_file(folder / "model.safetensors")
    tensors["embedding.weight"][used[1]] *= -1
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ParityError, match=r"lowest cosine 0\.\d+ .*largest difference .*made with"):
        ew.load(folder)
    ew.load(folder, check_golden=False)


def test_another_vocabulary_order_is_found(folder):
    path = folder / "tokenizer.json"
    rules = json.loads(path.read_text(encoding="utf-8"))
    vocabulary = rules["model"]["vocab"]
    vocabulary["file"], vocabulary["line"] = vocabulary["line"], vocabulary["file"]
    path.write_text(json.dumps(rules), encoding="utf-8")
    with pytest.raises(ParityError, match="worst for 'How do I open a file"):
        ew.load(folder)


def test_another_dimension_is_found(model, folder):
    with pytest.raises(ParityError, match="do not belong together"):
        check_golden(folder, model.with_table(model.table[:, :7]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 7}, "not of format 1"),
        ({"texts": []}, "lacks texts or tolerance"),
        ({"texts": [3]}, "lacks texts or tolerance"),
        ({"tolerance": {"cosine": 1}}, "lacks texts or tolerance"),
        ({"texts": ["one"]}, "8 vectors for 1 texts"),
    ],
)
def test_wrong_descriptions_are_format_errors(folder, change, message):
    path = folder / "golden.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | change))
    with pytest.raises(FormatError, match=message):
        ew.load(folder)


def test_half_written_vectors_are_format_errors(folder):
    path = folder / "golden.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(FormatError, match="half written"):
        ew.load(folder)
    path.unlink()
    with pytest.raises(FormatError, match="is missing beside"):
        ew.load(folder)
    (folder / "golden.json").unlink()
    ew.load(folder)  # a folder without golden vectors is simply loaded


def test_golden_vectors_need_a_folder_and_texts(model, folder, tmp_path):
    with pytest.raises(NotFoundError):
        write_golden(tmp_path / "nowhere", model)
    with pytest.raises(EmptyInputError):
        write_golden(folder, model, texts=[])
    with pytest.raises(NotFoundError, match=r"golden\.json does not exist"):
        check_golden(tmp_path, model)


def test_sentence_transformers_are_saved_with_golden_vectors(transformer_folder, tmp_path):
    loaded = ew.load(transformer_folder, device="cpu")
    folder = save(loaded, tmp_path / "bert")
    again = ew.load(folder, device="cpu")
    cosine, difference = check_golden(folder, again)
    assert cosine > 0.9999
    assert difference < 1e-4
    words = again[0].auto_model.get_input_embeddings().weight
    words.data = words.data.flip(0)
    with pytest.raises(ParityError):
        check_golden(folder, again)
    save(again, folder)  # replaces the model and its vectors together
    ew.load(folder, device="cpu")
    assert [p.name for p in tmp_path.iterdir()] == ["bert"]


def test_save_refuses_what_it_cannot_save(model, tmp_path):
    with pytest.raises(InputError, match="has no save_pretrained"):
        save(object(), tmp_path / "m")
    (tmp_path / "photo.jpg").write_text("x")

    class Saves:
        def save_pretrained(self, path):
            raise OSError(28, "No space left on device")

    for thing in (model, Saves()):
        with pytest.raises(InputError, match="holds"):
            save(thing, tmp_path)
    with pytest.raises(StorageError, match="disk is full"):
        save(Saves(), tmp_path / "m")
    assert [p.name for p in tmp_path.iterdir()] == ["photo.jpg"]
