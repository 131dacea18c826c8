"""Pruned vocabularies: the same vectors for texts of kept tokens, in every kind of tokenizer."""

from __future__ import annotations

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from embedworks.errors import EmptyInputError, InputError
from embedworks.models import StaticModel, load, prune_vocabulary, word_model

RNG = np.random.default_rng(0)
SYLLABLES = ["ba", "ko", "mi", "tu", "ra", "ne", "so", "li"]
WORDS = ["".join(RNG.choice(SYLLABLES, RNG.integers(1, 5))) for _ in range(300)]
TEXTS = [" ".join(RNG.choice(WORDS, 8)) for _ in range(120)]
TRAINERS = {
    "WordLevel": (models.WordLevel(unk_token="[UNK]"), trainers.WordLevelTrainer, {}),
    "WordPiece": (models.WordPiece(unk_token="[UNK]"), trainers.WordPieceTrainer, {}),
    "Unigram": (models.Unigram(), trainers.UnigramTrainer, {"unk_token": "[UNK]"}),
    "BPE": (models.BPE(), trainers.BpeTrainer, {}),
}


def trained(kind: str) -> StaticModel:
    model, trainer, options = TRAINERS[kind]
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = (
        pre_tokenizers.ByteLevel() if kind == "BPE" else pre_tokenizers.Whitespace()
    )
    special = ["[UNK]", "[CLS]", "[SEP]"]
    tokenizer.train_from_iterator(
        TEXTS,
        trainer(
            vocab_size=400 if kind == "WordLevel" else 160,
            special_tokens=special,
            show_progress=False,
            **options,
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    table = RNG.standard_normal((tokenizer.get_vocab_size(), 6)).astype(np.float32)
    return StaticModel(tokenizer, table, name=kind, max_tokens=20)


@pytest.mark.parametrize("kind", TRAINERS)
def test_texts_of_kept_tokens_have_the_same_vectors_to_the_last_bit(kind, tmp_path):
    model = trained(kind)
    sample = TEXTS[:6]
    small = prune_vocabulary(model, sample, letters=kind == "BPE")
    assert len(small.table) < 0.8 * len(model.table)
    known = set(small.tokenizer.get_vocab())
    apart = [
        text
        for text in [*TEXTS, *WORDS]
        if {*model.tokenizer.encode(text, add_special_tokens=False).tokens} <= known - {"[UNK]"}
    ]
    assert {*sample} <= {*apart}
    assert len(apart) > 10
    assert (small.encode(apart) == model.encode(apart)).all()
    again = load(small.save_pretrained(tmp_path / "small"))
    assert (again.encode(apart) == model.encode(apart)).all()
    assert again.metadata["pruned"]["tokens_before"] == len(model.table)
    assert small.max_tokens == 20


def test_letters_spell_unseen_words_and_counts_decide():
    model = trained("WordPiece")
    unseen = next(w for w in WORDS if all(w not in text for text in TEXTS[:2]) and len(w) > 4)
    spelt = prune_vocabulary(model, TEXTS[:2])
    assert "[UNK]" not in spelt.tokenizer.encode(unseen, add_special_tokens=False).tokens
    bare = prune_vocabulary(model, TEXTS[:2], letters=False)
    often = prune_vocabulary(model, TEXTS[:2], letters=False, min_count=2)
    assert len(often.table) < len(bare.table) < len(spelt.table)


def test_a_word_model_and_the_bundled_model_get_smaller():
    words = word_model(["red", "sky", "sea", "a"], np.eye(4), name="toy")
    small = prune_vocabulary(words, ["The RED sea"])
    assert sorted(small.tokenizer.get_vocab()) == ["[UNK]", "red", "sea"]
    assert (small.encode(["red sea"]) == words.encode(["red sea"])).all()
    bundled = load("static")
    texts = ["How do I read a file?", "Sort a list of names"]
    cut = prune_vocabulary(bundled, texts)
    assert len(cut.table) < len(bundled.table) / 4
    assert (cut.encode(texts) == bundled.encode(texts)).all()


def test_nothing_to_keep_is_refused():
    words = word_model(["red", "sky"], np.eye(2), name="toy")
    with pytest.raises(EmptyInputError, match="occurs 5 times"):
        prune_vocabulary(words, ["red"], min_count=5)
    with pytest.raises(InputError, match="min_count"):
        prune_vocabulary(words, ["red"], min_count=0)
