"""Instruction masks come from the offsets of the joint text, wherever padding stands."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sentence_transformers")

from sentence_transformers import SentenceTransformer  # noqa: E402
from sentence_transformers.sentence_transformer.modules import Normalize  # noqa: E402

import embedworks as ew  # noqa: E402
from embedworks.errors import EmptyInputError  # noqa: E402
from embedworks.models import new_model, train_tokenizer  # noqa: E402
from embedworks.modules import InstructedTransformer, MaskedMeanPooling  # noqa: E402

PROMPT = "Represent the file:\n"
TEXTS = ["read a file line by line", "gzip", "heaps and trees"]


def instructed(folder):
    first = InstructedTransformer.load(str(folder), local_files_only=True)
    modules = [first, MaskedMeanPooling(32), Normalize()]
    return SentenceTransformer(modules=modules, prompts={"query": PROMPT}, device="cpu").eval()


@pytest.fixture(scope="module")
def decoder_folder(tmp_path_factory):
    """A bidirectional decoder, whose positions are relative: padding may be on either side."""
    tokenizer = train_tokenizer([PROMPT + text for text in TEXTS] * 4, vocab_size=300)
    model = new_model("llama", tokenizer, dim=32, layers=2, heads=4, bidirectional=True)
    folder = tmp_path_factory.mktemp("decoder")
    model.save_pretrained(str(folder))
    return folder


def by_hand(model, text):
    """Pool the states of the tokens behind the prompt, found in the token strings themselves."""
    features = model.preprocess([PROMPT + text])
    with torch.no_grad():
        states = model[0](features)["token_embeddings"][0]
    own = len(model.tokenizer(text, add_special_tokens=False)["input_ids"])
    kept = states[-(own + 1) :]  # the text and [SEP]
    return torch.nn.functional.normalize(kept.mean(dim=0), dim=0).numpy()


@pytest.mark.parametrize("kind", ["encoder", "decoder", "decoder, padded left"])
def test_the_prompt_is_read_but_not_pooled(kind, transformer_folder, decoder_folder, tmp_path):
    folder = transformer_folder if kind == "encoder" else decoder_folder
    model = instructed(folder)
    expected = np.stack([by_hand(model, text) for text in TEXTS])
    if kind.endswith("left"):
        model.tokenizer.padding_side = "left"
    np.testing.assert_allclose(model.encode(TEXTS, prompt=PROMPT), expected, atol=2e-6)
    np.testing.assert_allclose(model.encode_query(TEXTS), expected, atol=2e-6)
    assert abs(model.encode(TEXTS) - expected).max() > 1e-3  # attention does read the prompt
    model.save_pretrained(str(tmp_path))
    np.testing.assert_allclose(ew.load(tmp_path).encode_query(TEXTS), expected, atol=2e-6)


def test_a_token_that_straddles_the_end_belongs_to_the_text(transformer_folder):
    model = instructed(transformer_folder)
    features = model.preprocess(["gzip"], prompt="un")  # tokenised together: "ungzip"
    offsets = model.tokenizer(["ungzip"], return_offsets_mapping=True)["offset_mapping"][0]
    kept = [int(end) > 2 or end == 0 for _, end in offsets]
    kept[0] = False  # [CLS] goes with the prompt
    assert features["pooling_mask"][0].tolist() == [int(x) for x in kept]
    assert "pooling_mask" not in model.preprocess(["gzip"])


def test_a_prompt_that_fills_all_tokens_is_named(transformer_folder):
    model = instructed(transformer_folder)
    model.max_seq_length = 4
    # [SEP] alone would be left: it stays, so the row is not empty; without it there is nothing.
    features = model.preprocess(TEXTS, prompt="one two three four five six: ")
    assert features["pooling_mask"].sum(dim=1).tolist() == [1, 1, 1]
    features["pooling_mask"][1] = 0
    with pytest.raises(EmptyInputError, match="an instruction fills all of its tokens"):
        model(features)


def test_it_trains_with_packs(transformer_folder):
    from embedworks.losses import ContrastiveLoss

    model = instructed(transformer_folder)
    columns = [model.preprocess(TEXTS, prompt=PROMPT), model.preprocess(TEXTS, prompt="Text: ")]
    whole = ContrastiveLoss(model)(columns)
    packed = ContrastiveLoss(model, mini_batch_size=2, cache_gradients=True)(columns)
    assert packed.item() == pytest.approx(whole.item(), rel=1e-5)
