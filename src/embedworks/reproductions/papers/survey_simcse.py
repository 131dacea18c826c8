"""SimCSE on an encoder that has only seen masked tokens: do two dropout views help it?"""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from embedworks.data import Row
from embedworks.models import encode_batched, new_language_model, new_model, train_tokenizer
from embedworks.reproductions import (
    Arm,
    Comparison,
    Context,
    Outcome,
    Reproduction,
    Tuning,
    english_texts,
    graded_items,
    read_records,
    stsb_graded,
)
from embedworks.reproductions.papers._steps import train_model

__all__ = ["ENTRIES", "encoder_of", "sentences_of"]

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


class _Encoder:
    """A model as what reproductions score."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def vectors(self, texts: Sequence[str]) -> np.ndarray:
        """Return unit vectors (N, D)."""
        return encode_batched(self.model, list(texts), show_progress=False)[0]


def sentences_of(texts: Iterable[str]) -> list[str]:
    """Return the distinct sentences of 4 to 40 words in texts, in their order.

    Example:
        >>> sentences_of(["One two three four. Five!", "One two three four."])
        ['One two three four.']
    """
    found = (one.strip() for text in texts for one in _SENTENCE_END.split(text))
    return list(dict.fromkeys(one for one in found if 4 <= len(one.split()) <= 40))


def _sick_pairs(limit: int) -> list[tuple[str, str, float]]:
    records = read_records("sts_sick.parquet", ("dataset", "sentence1", "sentence2", "score"))
    found = [
        (record["sentence1"], record["sentence2"], float(record["score"]))
        for record in records
        if record["dataset"] == "sick2014"
    ]
    drawn = np.random.default_rng(0).permutation(len(found))[:limit]
    return [found[place] for place in drawn.tolist()]


@lru_cache(maxsize=2)
def _texts(characters: int, pairs: int) -> tuple[list[str], list[str], dict[str, list[Any]]]:
    """Return texts to pre-train on, sentences for the views, and pairs, which are kept out."""
    world = stsb_graded()
    scored: dict[str, list[Any]] = {
        part: list(world.part(part))[:pairs] for part in ("validation", "test")
    }
    scored["sick"] = _sick_pairs(pairs)
    exclude = {text for part in scored.values() for a, b, _ in part for text in (a, b)}
    texts = english_texts(characters, exclude=exclude, seed=0)
    own = [str(text) for row in world.train for text in (row.anchor, row.positive)]
    sentences = [one for one in sentences_of([*own, *texts]) if one not in exclude]
    return texts, sentences, scored


def _data(settings: Mapping[str, Any], seed: int, context: Context) -> dict[str, Any]:
    """Return the encoder and its tokenizer, a seed's sentences, and the pairs."""
    texts, sentences, scored = _texts(settings["characters"], settings["pairs"])
    drawn = np.random.default_rng(seed).permutation(len(sentences))[: settings["sentences"]]
    found = _pretrained(texts, settings, context)
    return {**found, "sentences": [sentences[n] for n in drawn.tolist()], "pairs": scored}


def _sizes(settings: Mapping[str, Any]) -> dict[str, int]:
    return {name: settings[name] for name in ("dim", "layers", "heads")}


def _dropout(share: float) -> dict[str, float]:
    """Return the configuration of a dropout everywhere: BERT's, by ModernBERT's names."""
    return dict.fromkeys(("embedding_dropout", "attention_dropout", "mlp_dropout"), share)


def _language_model(data: Mapping[str, Any], settings: Mapping[str, Any], seed: int) -> Any:
    return new_language_model(
        "modernbert", data["tokenizer"], masked=True, max_tokens=128, seed=seed,
        **_dropout(0.1), **_sizes(settings),
    )  # fmt: skip


def _pretrained(
    texts: Sequence[str], settings: Mapping[str, Any], context: Context
) -> dict[str, Any]:
    """Return the encoder that all arms and seeds start from; it is kept in the cache."""
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    from embedworks.training import LanguageModelSettings, train_language_model

    names = ("vocabulary", "dim", "layers", "heads", "characters", "tokenizer_texts",
             "pretraining", "pairs")  # fmt: skip
    key = hashlib.sha256(json.dumps([settings[name] for name in names]).encode()).hexdigest()
    folder = context.cache / f"mlm-{key[:16]}"
    if not (folder / "loss.json").is_file():
        tokenizer = train_tokenizer(
            texts[: settings["tokenizer_texts"]], settings["vocabulary"], max_tokens=128
        )
        model = _language_model({"tokenizer": tokenizer}, settings, seed=0)
        wanted = LanguageModelSettings.from_dict({**settings["pretraining"], "objective": "mlm"})
        done = train_language_model(model, tokenizer, texts, wanted, device=context.device)
        folder.mkdir(parents=True, exist_ok=True)
        model.to("cpu").save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        (folder / "loss.json").write_text(json.dumps(float(np.mean(done.losses[-3:]))))
    return {
        "tokenizer": AutoTokenizer.from_pretrained(folder),
        "model": AutoModelForMaskedLM.from_pretrained(folder).eval(),
        "masked loss": json.loads((folder / "loss.json").read_text()),
    }


def encoder_of(
    language_model: Any, data: Mapping[str, Any], settings: Mapping[str, Any], *, dropout: float,
    device: str,
) -> Any:  # fmt: skip
    """Return a mean-pooled embedding model with the language model's weights.

    Args:
        language_model: A masked one.
        data: Its tokenizer.
        settings: Of the scale.
        dropout: Share of values dropped in training, of states and of attention alike.
        device: Torch device.
    """
    model = new_model(
        "modernbert", data["tokenizer"], max_tokens=128, device=device,
        **_dropout(dropout), **_sizes(settings),
    )  # fmt: skip
    model.max_seq_length = settings["max_tokens"]
    model[0].auto_model.load_state_dict(language_model.base_model.state_dict())
    return model


def _more_masks(
    start: Any, data: Mapping[str, Any], settings: Mapping[str, Any], context: Context, seed: int
) -> Any:
    """Return the language model after as many steps more, on the sentences."""
    from embedworks.training import LanguageModelSettings, train_language_model

    model = copy.deepcopy(start)
    wanted = LanguageModelSettings.from_dict(
        {
            **settings["pretraining"], "objective": "mlm", "seed": seed,
            "steps": settings["steps"], "learning_rate": context.tuned["lr"],
        }
    )  # fmt: skip
    train_language_model(model, data["tokenizer"], data["sentences"], wanted, device=context.device)
    return model.to("cpu").eval()


def _run(arm: Arm, seed: int, settings: Mapping[str, Any], context: Context) -> Outcome:
    from embedworks.losses import ContrastiveLoss

    data = context.once(("data", seed), lambda: _data(settings, seed, context))
    start = data["model"]
    kind = arm["kind"]
    if kind == "random":
        start = _language_model(data, settings, seed)
    elif kind == "masks":
        start = _more_masks(start, data, settings, context, seed)
    model = encoder_of(start, data, settings, dropout=arm["dropout"], device=context.device)
    if kind == "views":
        cuda = context.device.startswith("cuda")
        train_model(
            model, ContrastiveLoss(model, temperature=0.05),
            [Row(text, text) for text in data["sentences"]],
            steps=settings["steps"], batch=settings["batch"], lr=context.tuned["lr"], seed=seed,
            bf16=cuda,
        )  # fmt: skip
    student = _Encoder(model)
    scored = data["pairs"][context.part]
    items = {"sts": graded_items(student, scored)}
    if context.part == "test":
        items["sick"] = graded_items(student, data["pairs"]["sick"])
    return Outcome(items=items) | Outcome(
        {"masked loss": data["masked loss"], "mean cosine": _mean_cosine(student, scored)}
    )


def _mean_cosine(student: _Encoder, pairs: Sequence[tuple[str, str, float]]) -> float:
    """Return the mean cosine of texts that have nothing to do with each other."""
    vectors = student.vectors([a for a, _, _ in pairs])
    total = vectors.sum(axis=0, dtype=np.float64)
    count = len(vectors)
    return float((total @ total - count) / (count * (count - 1)))


def _arm(name: str, summary: str, kind: str, dropout: float = 0.1, tune_as: str = "") -> Arm:
    return Arm(name, summary, {"kind": kind, "dropout": dropout}, tune_as=tune_as)


ENTRIES = (
    Reproduction(
        slug="survey-simcse",
        paper="From Word Vectors to Multimodal Embeddings",
        arxiv="2411.05036",
        claim="An encoder trained on masked tokens alone becomes a better one for sentences when "
        "each sentence is its own positive under another dropout (SimCSE), and dropout is what "
        "does it.",
        falsifier="With a learning rate chosen for each, SimCSE adds less than 0.05 to Spearman's "
        "correlation on STS-B over the mean of the encoder's states, or as many steps more of "
        "masked tokens come as near; or the same training without dropout gains more than 0.01.",
        arms=(
            _arm("mean pooling", "masked tokens; vectors are means", "none", tune_as="simcse"),
            _arm("simcse", "then sentences as their own positives, dropout 0.1", "views"),
            _arm("no dropout", "the same with dropout 0", "views", 0.0),
            _arm("more masks", "as many steps more of masked tokens, on the sentences", "masks"),
            _arm("random weights", "not trained at all; vectors are means", "random",
                 tune_as="simcse"),
        ),
        decisive=Comparison.between("simcse", "mean pooling", "sts", margin=0.05),
        conditions=(
            Comparison.between("mean pooling", "no dropout", "sts",
                               name="no gain without dropout", claim="not_worse", margin=0.01),
            Comparison.between("simcse", "more masks", "sts", margin=0.05),
        ),
        secondary=(
            Comparison.between("simcse", "no dropout", "sts"),
            Comparison.between("more masks", "mean pooling", "sts"),
            Comparison.between("mean pooling", "random weights", "sts"),
            Comparison.between("simcse", "mean pooling", "sick", margin=0.05),
            Comparison.between("no dropout", "mean pooling", "sick"),
            Comparison.between("simcse", "no dropout", "mean cosine", claim="less"),
        ),
        run=_run,
        seeds=3,
        tuning=Tuning({"lr": (3e-5, 1e-4, 3e-4)}, metric="sts"),
        scales={
            "mini": {
                "vocabulary": 4096, "dim": 128, "layers": 3, "heads": 4,
                "characters": 4_000_000, "tokenizer_texts": 20_000, "sentences": 20_000,
                "pretraining": {"steps": 1000, "batch_size": 16, "length": 64,
                                "learning_rate": 2e-3},
                "pairs": 1000, "max_tokens": 32, "batch": 64, "steps": 60,
            },
            "gpu": {
                "vocabulary": 8192, "dim": 384, "layers": 6, "heads": 6,
                "characters": 25_000_000, "tokenizer_texts": 20_000, "sentences": 40_000,
                "pretraining": {"steps": 1500, "batch_size": 64, "length": 64,
                                "learning_rate": 7e-4, "precision": "bf16",
                                "max_seconds": 180.0},
                "pairs": 1000, "max_tokens": 32, "batch": 64, "steps": 150,
            },
        },
        setup="An encoder (ModernBERT's architecture) with a tokenizer of its own is trained from "
        "scratch on masked tokens of English text: abstracts, glosses, captions, sentences, "
        "questions, speeches and code comments. Nothing else has ever trained it, so the mean of "
        "its states is the untrained mean pooling that SimCSE has to beat. As in the paper all "
        "arms and seeds start from this one encoder. Then each arm takes as many steps on the same "
        "sentences of 4 to 40 words, drawn anew for each seed, those of the STS benchmark's "
        "training part without "
        "their grades among them. SimCSE is the recipe's: mean pooling, InfoNCE at temperature "
        "0.05, 64 sentences, each read twice. Without dropout both readings are equal, and only "
        "pushing other sentences away is left. Learning rates are the best of three on validation "
        "pairs, for each arm. Texts that are scored are kept out of everything.\n\n"
        "Scores are Spearman's correlations of cosines with people's grades: on the freely usable "
        "test pairs of the STS benchmark, and on SICK. The mean cosine is that of texts that have "
        "nothing to do with each other.",
        limits="The paper starts from BERT-base and a million sentences of Wikipedia; ours is "
        "small and has read some millions of words; BERT's own architecture did not learn from as "
        "few. It is one encoder: another might gain more or less. The paper's pools the first "
        "token, through a layer that is then thrown away; ours the mean.",
    ),
)  # fmt: skip
