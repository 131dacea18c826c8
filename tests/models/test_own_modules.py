"""Folders with module classes of ours: loaded by public API, and as plain ST loads them."""

from __future__ import annotations

import json

import numpy as np
import pytest

import embedworks as ew
from embedworks.errors import FormatError

TEXTS = ["the cat sat", "a table of numbers and words"]


@pytest.fixture
def folder(transformer_folder, tmp_path):
    from sentence_transformers import SentenceTransformer

    from embedworks.modules import SelfAttentionPooling

    body = SentenceTransformer(str(transformer_folder), device="cpu", local_files_only=True)[0]
    width = body.get_embedding_dimension()
    model = SentenceTransformer(
        modules=[body, SelfAttentionPooling(width)], device="cpu", similarity_fn_name="dot",
        prompts={"query": "find: ", "document": ""}, default_prompt_name="query",
    )  # fmt: skip
    model.truncate_dim = 16
    model.save_pretrained(str(tmp_path / "own"))
    return tmp_path / "own"


def test_it_is_what_plain_sentence_transformers_loads(folder, tmp_path):
    from sentence_transformers import SentenceTransformer

    theirs = SentenceTransformer(str(folder), device="cpu", trust_remote_code=True)
    ours = ew.load(folder, device="cpu")
    assert [type(module) for module in ours] == [type(module) for module in theirs]
    assert list(ours._modules) == list(theirs._modules)
    for name in ("prompts", "default_prompt_name", "similarity_fn_name", "truncate_dim"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert ours.module_kwargs == theirs.module_kwargs
    np.testing.assert_array_equal(ours.encode(TEXTS), theirs.encode(TEXTS))
    assert ours.encode(TEXTS).shape == (2, 16)
    ours.save_pretrained(str(tmp_path / "again"))
    again = ew.load(tmp_path / "again", device="cpu")
    np.testing.assert_array_equal(again.encode(TEXTS), theirs.encode(TEXTS))


@pytest.mark.parametrize(
    ("place", "key", "value", "message"),
    [
        (0, "type", "other_package.Code", "neither sentence-transformers' nor ours"),
        (0, "type", "sentence_transformers.models.NoSuchThing", "does not have"),
        (0, "type", "sentence_transformers.util.batch_to_device", "not a module"),
        (1, "path", "../elsewhere", "outside of the folder"),
    ],
)
def test_what_a_folder_may_not_name(folder, place, key, value, message):
    path = folder / "modules.json"
    entries = json.loads(path.read_text())
    entries[place][key] = value
    path.write_text(json.dumps(entries))
    with pytest.raises(FormatError, match=message):
        ew.load(folder, device="cpu")
