"""The two papers on language models: their parts, and a very small run of each."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from embedworks.evaluation import RetrievalTask
from embedworks.models import TokenTargets, text_token_targets, train_tokenizer
from embedworks.reproductions import (
    ClassWorld,
    Comparison,
    ReproductionResult,
    language_models,
    reproduce,
)
from embedworks.reproductions.papers import survey_llm_embedders, text2token
from embedworks.reproductions.papers.survey_llm_embedders import PromptStudent, trained_folder
from embedworks.reproductions.papers.text2token import built_targets, shuffled_targets

#: Many words, so that none of them is in a tenth of the texts.
# fmt: off
WORDS = [a + b for a in ("tea", "rye", "oat", "fig", "yam", "nut", "egg") for b in
         ("bread", "milk", "cake", "pot", "shop", "seed", "field", "plate", "cup", "box")]
# fmt: on

SMALL = {
    "architecture": "qwen3", "vocabulary": 700, "dim": 32, "layers": 2, "heads": 2,
    "characters": 1000, "tokenizer_texts": 100,
    "lm": {"steps": 4, "batch_size": 4, "length": 32, "learning_rate": 3e-3},
    "mntp": {"steps": 2, "learning_rate": 1e-3}, "max_tokens": 256, "text_characters": 60,
    "pairs": 20, "queries": 4, "documents": 8, "train_characters": 400, "prior_texts": 4,
    "batch": 4, "steps": 2, "fit_characters": 300,
}  # fmt: skip


def sentences(count, seed):
    rng = np.random.default_rng(seed)
    return [f"the {a} is with {b} and {c} of {d}" for a, b, c, d in
            (rng.permutation(WORDS)[:4] for _ in range(count))]  # fmt: skip


@pytest.fixture(autouse=True)
def toys(monkeypatch):
    firsts, seconds = sentences(20, 1), sentences(20, 2)
    pairs = tuple(
        (a, b, float(n % 7)) for n, (a, b) in enumerate(zip(firsts, seconds, strict=True))
    )
    corpus = {f"d{n}": text for n, text in enumerate(sentences(8, 3))}
    queries = {f"q{n}": " ".join(corpus[f"d{n}"].split()[1:4]) for n in range(4)}
    task = RetrievalTask("toy", queries, corpus, {f"q{n}": {f"d{n}": 1} for n in range(4)})
    scored = {"validation": pairs, "test": pairs, "sick": pairs, "acl": task}
    classes = [(text, str(n % 2)) for n, text in enumerate(sentences(12, 4))]
    world = ClassWorld("toy", tuple(classes), tuple(classes), tuple(classes), {})
    for module in (survey_llm_embedders, text2token):
        monkeypatch.setattr(module, "scored_texts", lambda settings: scored)
    for module in (survey_llm_embedders, text2token, language_models):
        monkeypatch.setattr(
            module, "english_texts", lambda characters, *, exclude, seed: sentences(60, seed)
        )
    monkeypatch.setattr(text2token, "text_classes", lambda *_, **__: world)


def small(entry, arms, **changes):
    wanted = tuple(entry.arm(name) for name in arms)
    decisive = Comparison.between(arms[1], arms[0], "sts")
    return replace(
        entry, arms=wanted, decisive=decisive, conditions=(), secondary=(), seeds=2,
        scales={"mini": SMALL}, **changes,
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*do not fit into the prompt")
def test_a_very_small_run_of_prompts(tmp_path):
    (entry,) = survey_llm_embedders.ENTRIES
    arms = [
        "mean",
        "prompteol",
        "promptreps both",
        "untrained",
        "both ways",
        "both ways, MNTP",
        "mean, centred",
    ]
    result = reproduce(small(entry, arms, tuning=None), out=tmp_path, device="cpu")
    assert ReproductionResult.load(tmp_path / f"{entry.slug}-mini.json") == result
    means = {arm.name: {k: v.mean for k, v in arm.metrics.items()} for arm in result.arms}
    assert means["prompteol"]["tokens per text"] > means["mean"]["tokens per text"] + 5
    assert means["untrained"]["lm loss"] > means["mean"]["lm loss"]
    assert len({round(found["sts"], 6) for found in means.values()}) == len(arms)
    folders = list((tmp_path / "cache").glob("lm-*"))
    assert len(folders) == 2 * 3  # causal, untrained and masked, for each seed


def test_a_model_is_trained_once_and_sparse_vectors_are_unit(tmp_path):
    from embedworks.reproductions import Context

    context = Context("mini", "test", {}, "cpu", tmp_path)
    folder = trained_folder("causal", 0, SMALL, context, [])
    written = (folder / "model.safetensors").stat().st_mtime_ns
    assert trained_folder("causal", 0, SMALL, context, []) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
    assert trained_folder("causal", 1, SMALL, context, []) != folder
    (entry,) = survey_llm_embedders.ENTRIES
    for name in ("promptreps sparse", "promptreps both", "promptreps"):
        student = PromptStudent(folder, entry.arm(name), depth=0.5, settings=SMALL, device="cpu")
        vectors = student.vectors(sentences(3, 5))
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_a_very_small_run_of_token_targets(tmp_path):
    (entry,) = text2token.ENTRIES
    arms = ["start", "key tokens", "all tokens", "key, then model", "shuffled", "simcse", "tf-idf"]
    result = reproduce(small(entry, arms, tuning=None), out=tmp_path, device="cpu")
    values = {arm.name: {k: v.mean for k, v in arm.metrics.items()} for arm in result.arms}
    assert len({round(found["sts"], 6) for found in values.values()}) == len(arms)
    assert "hit@10" not in values["tf-idf"]
    assert 0 <= values["key tokens"]["hit@10"] <= 1


def test_targets_of_each_kind(tmp_path):
    from embedworks.reproductions import Context

    context = Context("mini", "test", {}, "cpu", tmp_path)
    folder = trained_folder("causal", 0, SMALL, context, [])
    texts = sentences(30, 6)
    kinds = {k: built_targets(k, texts, folder, SMALL, "cpu") for k in ("key", "all", "model")}
    for targets in kinds.values():
        assert len(targets) == 30
    key, everything = kinds["key"].dense(), kinds["all"].dense()
    assert ((key > 0) <= (everything > 0)).all()
    assert (everything > 0).sum() > (key > 0).sum()
    told = kinds["model"].dense()
    rows = key.sum(axis=1) > 0
    assert (told[rows] >= 0.5 * key[rows] - 1e-6).all()


def test_shuffled_targets_are_those_of_other_texts():
    texts = sentences(30, 7)
    tokenizer = train_tokenizer(texts, vocab_size=700)
    targets = text_token_targets(texts, tokenizer, max_share=1.0)
    other = shuffled_targets(targets, 0)
    assert isinstance(other, TokenTargets)
    assert sorted(map(tuple, other.dense().round(6))) == sorted(
        map(tuple, targets.dense().round(6))
    )
    assert (other.dense() != targets.dense()).any(axis=1).mean() > 0.8
