"""The loss in models, trainers, wrappers and on several devices."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from embedworks.errors import DataWarning, InputError, ShapeError, UnknownNameError
from embedworks.losses import (
    OBJECTIVES,
    BatchInfo,
    ColumnEmbedder,
    ContrastiveLoss,
    ObjectiveSettings,
    SourceLosses,
    objective,
)

pytest.importorskip("sentence_transformers")

ANCHORS = ["copy a file", "parse arguments of a command line program", "mean", "zip", "wrap text"]
POSITIVES = [
    "shutil copies files and whole directory trees, with or without their metadata",
    "argparse reads options",
    "statistics computes the mean and the median of numbers that are given as an iterable",
    "gzip compresses",
    "textwrap breaks paragraphs of text into lines of at most a given width",
]
NEGATIVES = ["tarfile reads archives", "configparser", "heapq keeps a heap", "csv", "calendar"]


@pytest.fixture
def model(transformer_folder):
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(transformer_folder), device="cpu").train()


def features_of(model, *columns):
    return [dict(model.preprocess(list(column))) for column in columns]


def gradients(model):
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def exact(model):
    """Return the model in float64 and without dropout: what is equal stays equal on any machine."""
    model = model.double()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    for layer in model[0].auto_model.encoder.layer:
        layer.attention.self.dropout_prob = 0.0
    return model


LIMITS = [
    {"mini_batch_tokens": 20},
    {"mini_batch_size": 2},
    {"mini_batch_size": 3, "cache_gradients": True},
    {"mini_batch_tokens": 20, "cache_gradients": True},
    {"mini_batch_tokens": 1, "cache_gradients": True},
]


@pytest.mark.parametrize("limits", LIMITS, ids=str)
@pytest.mark.parametrize("name", ["infonce", "gte", "nemotron", "kalm", "peg"])
def test_packs_and_cached_gradients_change_nothing(model, limits, name):
    model = exact(model)
    features = features_of(model, ANCHORS, POSITIVES, NEGATIVES)
    results = []
    for options in ({}, limits):
        loss = ContrastiveLoss(model, name, **options)
        loss.set_progress(0.5)
        model.zero_grad()
        value = loss(copy.deepcopy(features))
        (2.0 * value).backward()
        results.append((value.detach(), gradients(model)))
    torch.testing.assert_close(results[0][0], results[1][0], atol=1e-9, rtol=1e-7)
    assert results[0][1].keys() == results[1][1].keys()
    for key, gradient in results[0][1].items():
        torch.testing.assert_close(gradient, results[1][1][key], atol=1e-9, rtol=1e-7)


def test_cached_gradients_are_exact_under_dropout(model):
    """The second pass draws the masks of the first: its gradient is that of the same function."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.3
    model = model.double()
    features = features_of(model, ANCHORS, POSITIVES)
    results = []
    for cached in (False, True):
        torch.manual_seed(7)
        loss = ContrastiveLoss(model, mini_batch_size=2, cache_gradients=cached)
        model.zero_grad()
        value = loss(copy.deepcopy(features))
        value.backward()
        results.append((value.detach(), gradients(model)))
    torch.testing.assert_close(results[0][0], results[1][0])
    for key, gradient in results[0][1].items():
        torch.testing.assert_close(gradient, results[1][1][key], atol=1e-9, rtol=1e-7)


def test_packing_wastes_little(model):
    seen = []

    def forward(features):
        seen.append(features["attention_mask"].numel())
        return model(features)

    features = features_of(model, ANCHORS, POSITIVES, NEGATIVES)
    real = sum(int(f["attention_mask"].sum()) for f in features)
    with torch.no_grad():
        ColumnEmbedder(forward).embed(features)
        plain = sum(seen)
        seen.clear()
        ColumnEmbedder(forward, mini_batch_tokens=24).embed(features)
    assert sum(seen) < 1.2 * real < plain
    assert max(seen) <= 24 or max(seen) <= max(f["attention_mask"].shape[1] for f in features)


def test_learned_temperatures_get_their_gradient_in_every_mode(model):
    model = exact(model)
    found = []
    for options in ({}, {"mini_batch_size": 2, "cache_gradients": True}):
        settings = objective("rzen", masks={})  # untrained vectors are all alike
        loss = ContrastiveLoss(model, settings, sources=["a", "b"], **options)
        features = features_of(model, ANCHORS, POSITIVES)
        features[0]["row_source"] = torch.tensor([0, 1, 1, 0, 1])
        loss(features).backward()
        found.append(loss.log_temperature.grad.clone())
        assert set(loss.temperatures) == {"a", "b"}
    assert found[0].abs().min() > 0
    torch.testing.assert_close(*found, atol=1e-9, rtol=1e-7)
    with torch.no_grad():
        loss.log_temperature.fill_(-100.0)
    loss.contrast(torch.eye(3), torch.eye(3), None, BatchInfo(sources=torch.tensor([0, 1, 1])))
    assert all(abs(t - 0.005) < 1e-6 for t in loss.temperatures.values())


@pytest.mark.parametrize("cached", [False, True])
def test_under_matryoshka(model, cached):
    from sentence_transformers.sentence_transformer.losses import (
        CachedMultipleNegativesRankingLoss,
        MatryoshkaLoss,
        MultipleNegativesRankingLoss,
    )

    model = exact(model)
    features = features_of(model, ANCHORS, POSITIVES, NEGATIVES)
    ours = ContrastiveLoss(model, scale=20.0, mini_batch_size=2, cache_gradients=cached)
    peer = (
        CachedMultipleNegativesRankingLoss(model, mini_batch_size=2)
        if cached
        else MultipleNegativesRankingLoss(model)
    )
    results = []
    for loss in (ours, peer):
        model.zero_grad()
        value = MatryoshkaLoss(model, loss, [32, 16, 8])(copy.deepcopy(features), None)
        value.backward()
        results.append((value.detach(), gradients(model)))
    torch.testing.assert_close(results[0][0], results[1][0], atol=1e-9, rtol=1e-7)
    for key, gradient in results[0][1].items():
        torch.testing.assert_close(gradient, results[1][1][key], atol=1e-9, rtol=1e-7)


def test_in_the_trainer_with_adapters(model, tmp_path):
    """A learned temperature, an adapter and a label column, in sentence-transformers' trainer."""
    peft = pytest.importorskip("peft")
    import datasets
    from sentence_transformers import (
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )

    model.add_adapter(peft.LoraConfig(r=2, lora_alpha=4, target_modules=["query", "value"]))
    rows = {"anchor": ANCHORS * 4, "positive": POSITIVES * 4, "label": [0, 1, 2, 3, 4] * 4}
    settings = ObjectiveSettings(
        temperature={"value": 0.05, "learned": True}, masks={"same_class": True}
    )
    loss = ContrastiveLoss(model, settings, labels="class", mini_batch_tokens=64)
    before = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    start = float(loss.log_temperature.detach())
    arguments = SentenceTransformerTrainingArguments(
        str(tmp_path), max_steps=4, per_device_train_batch_size=5, learning_rate=1e-2,
        report_to=[], disable_tqdm=True, save_strategy="no", dataloader_pin_memory=False,
    )  # fmt: skip
    trainer = SentenceTransformerTrainer(
        model=model, args=arguments, train_dataset=datasets.Dataset.from_dict(rows), loss=loss
    )
    trainer.train()
    assert all("lora" in name for name in before)
    assert any(not torch.equal(p, before[n]) for n, p in model.named_parameters() if n in before)
    assert float(loss.log_temperature.detach()) != start
    assert 0 < loss.statistics["probability"] <= 1


def test_static_models_have_no_rows_to_pack(static_folder):
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(static_folder), device="cpu")
    features = features_of(model, ANCHORS, POSITIVES)
    loss = ContrastiveLoss(model, mini_batch_size=2, cache_gradients=True)
    value = loss(features)
    value.backward()
    assert torch.isfinite(value)
    assert next(model.parameters()).grad is not None


def test_late_interaction_model(model):
    """A model that gives token vectors, plain and with cached gradients."""
    body = exact(model)[0]

    class TokenVectors(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = body

        def forward(self, features):
            return self.body(dict(features))

    tokens = TokenVectors()
    features = features_of(model, ANCHORS, POSITIVES, NEGATIVES)
    results = []
    for options in ({}, {"mini_batch_size": 2, "cache_gradients": True}):
        tokens.zero_grad()
        value = ContrastiveLoss(tokens, "colbert", **options)(copy.deepcopy(features))
        value.backward()
        results.append((value.detach(), gradients(tokens)))
    torch.testing.assert_close(results[0][0], results[1][0], atol=1e-9, rtol=1e-7)
    for key, gradient in results[0][1].items():
        torch.testing.assert_close(gradient, results[1][1][key], atol=1e-9, rtol=1e-7)


def test_equal_texts_are_found_from_tokens(model, static_folder):
    from sentence_transformers import SentenceTransformer

    for each in (model, SentenceTransformer(str(static_folder), device="cpu")):
        columns = (["a file", "b", "a file"], ["some text", "other", "more"])
        loss = ContrastiveLoss(each, ObjectiveSettings(candidates=("documents",)))
        loss(features_of(each, *columns))
        keys = loss._info.query_keys
        assert keys[0] == keys[2] != keys[1]
        loss(features_of(each, ["x", "y", "x y"], ["some text", "some text", "z"]))
        assert loss._info.document_keys[0] == loss._info.document_keys[1]


def test_a_guide_by_model_and_by_keys(model, transformer_folder):
    from sentence_transformers import SentenceTransformer

    guide = SentenceTransformer(str(transformer_folder), device="cpu")
    features = features_of(model, ANCHORS, POSITIVES, NEGATIVES)
    by_model = ContrastiveLoss(model, "gist", guide=guide)
    model.eval()
    first = by_model(copy.deepcopy(features))
    assert not any(p.requires_grad and p.grad is not None for p in guide.parameters())
    assert not any("guide" in name for name, _ in by_model.named_parameters())

    texts = [*ANCHORS, *POSITIVES, *NEGATIVES]
    vectors = torch.from_numpy(guide.encode(texts))
    for place, column in enumerate(features):
        column["row_key"] = torch.arange(place * 5, place * 5 + 5)

    class Table:
        def lookup(self, keys):
            return vectors[keys]

    second = ContrastiveLoss(model, "gist", guide=Table())(features)
    torch.testing.assert_close(first, second, atol=1e-5, rtol=1e-5)
    with pytest.raises(InputError, match="is the model being trained"):
        ContrastiveLoss(model, "gist", guide=model)
    with pytest.raises(InputError, match="has no guide"):
        ContrastiveLoss(model, "gist")(features_of(model, ANCHORS, POSITIVES))


def test_dict_inputs_stay_whole_when_rows_are_not_the_batch():
    """Flattened pixels have one row per patch: such columns are embedded in one piece."""
    seen = []

    def forward(features):
        seen.append(features["pixel_values"].shape)
        sums = torch.segment_reduce(
            features["pixel_values"], "sum", lengths=features["image_grid_thw"].prod(1), axis=0
        )
        return {"sentence_embedding": sums + features["input_ids"].float().mean(1, keepdim=True)}

    column = {
        "input_ids": torch.ones(2, 3, dtype=torch.long),
        "attention_mask": torch.ones(2, 3, dtype=torch.long),
        "pixel_values": torch.randn(5, 4),
        "image_grid_thw": torch.tensor([[1, 2, 1], [1, 3, 1]]),
    }
    found = ColumnEmbedder(forward, mini_batch_size=1).embed([column, dict(column)])
    assert seen == [(5, 4), (5, 4)]
    assert [x.shape for x in found.vectors] == [(2, 4), (2, 4)]


def test_losses_by_source(model):
    class Marker(nn.Module):
        def __init__(self, value):
            super().__init__()
            self.value, self.model = value, model

        def forward(self, features, labels=None):
            return torch.tensor(self.value)

    both = SourceLosses(
        {"one": Marker(1.0), "two": Marker(2.0)}, {"b": "two"}, sources=["a", "b"], default="one"
    )
    assert float(both([{"row_source": torch.tensor([0, 0])}])) == 1.0
    assert float(both([{"row_source": torch.tensor([1, 1])}])) == 2.0
    with pytest.raises(InputError, match="mixes rows"):
        both([{"row_source": torch.tensor([0, 1])}])
    with pytest.raises(InputError, match="needs the rows' sources"):
        both([{}])
    with pytest.raises(InputError, match="no loss 'tow'.*two"):
        SourceLosses({"two": Marker(0.0)}, {"a": "tow"}, sources=["a"], default="two")
    both.model = None
    assert all(part.model is None for part in both.parts().values())


@pytest.mark.parametrize("name", OBJECTIVES.names())
def test_every_preset_runs_and_round_trips(name):
    settings = objective(name)
    assert ObjectiveSettings.from_dict(settings.to_dict()) == settings
    g = torch.Generator().manual_seed(0)
    shape = (6, 3, 8) if settings.similarity == "maxsim" else (6, 8)
    query, document = (torch.randn(shape, generator=g, requires_grad=True) for _ in range(2))
    negatives = torch.randn(6, 2, *shape[1:], generator=g)
    info = BatchInfo(
        classes=torch.arange(6) % 3, sources=torch.zeros(6).long(),
        guide_query=torch.randn(6, 4, generator=g), guide_document=torch.randn(6, 4, generator=g),
        guide_negatives=torch.randn(6, 2, 4, generator=g),
        teacher_scores=torch.randn(6, 3, generator=g),
        teacher_query=torch.randn(6, 4, generator=g),
        teacher_document=torch.randn(6, 4, generator=g),
        teacher_negatives=torch.randn(6, 2, 4, generator=g),
    )  # fmt: skip
    loss = ContrastiveLoss(None, name)
    loss.set_progress(0.5)
    value = loss.contrast(query, document, negatives, info)
    value.backward()
    assert torch.isfinite(value)
    assert query.grad.any()
    assert document.grad.any()


def test_options_that_do_not_fit_say_why(model):
    with pytest.raises(UnknownNameError, match="gist"):
        ContrastiveLoss(None, "gits")
    with pytest.raises(InputError, match="not both"):
        ContrastiveLoss(None, temperature=0.1, scale=10)
    with pytest.raises(InputError, match="needs mini_batch_size"):
        ContrastiveLoss(None, cache_gradients=True)
    with pytest.raises(InputError, match="give the loss a queue"):
        ContrastiveLoss(None, ObjectiveSettings(candidates=("documents", "queue")))
    with pytest.raises(InputError, match=r"unknown sources \['c'\]"):
        options = {"per_source": True, "sources": {"c": 0.1}}
        ContrastiveLoss(None, ObjectiveSettings(temperature=options), sources=["a"])
    with pytest.raises(InputError, match="without a model"):
        ContrastiveLoss(None)([{}, {}])
    with pytest.raises(InputError, match="1 columns"):
        ContrastiveLoss(model)(features_of(model, ANCHORS))
    with pytest.raises(InputError, match="no label column"):
        ContrastiveLoss(model, labels="class")(features_of(model, ANCHORS, POSITIVES))
    with pytest.raises(ShapeError, match=r"\[5, 4\] rows"):
        ContrastiveLoss(model)(features_of(model, ANCHORS, POSITIVES[:4]))
    with pytest.raises(InputError, match="between 0 and 1"):
        ContrastiveLoss(None).set_progress(3)


def test_schedules_and_lone_rows_warn():
    with pytest.warns(DataWarning, match="has a schedule"):
        ContrastiveLoss(None, "peg").contrast(torch.eye(3), torch.eye(3))
    same = BatchInfo(query_keys=torch.zeros(3).long(), document_keys=torch.zeros(3).long())
    with pytest.warns(DataWarning, match="100% of the rows"):
        ContrastiveLoss(None).contrast(torch.eye(3), torch.eye(3), info=same)


def test_with_mixer_and_queue_from_the_negatives_room(model):
    """Mixtures are drawn again alike after a saved state; documents pile up in the queue."""
    from embedworks.negatives import EmbeddingQueue, NegativeMixer

    g = torch.Generator().manual_seed(0)
    query, document = torch.randn(4, 8, generator=g), torch.randn(4, 8, generator=g)
    negatives = torch.randn(4, 3, 8, generator=g)

    def build():
        settings = ObjectiveSettings(candidates=("documents", "own_negatives", "queue"))
        return ContrastiveLoss(
            None, settings, mixer=NegativeMixer(cap=None), queue=EmbeddingQueue(6, 8), seed=3
        )

    loss = build()
    values = [float(loss.contrast(query, document, negatives)) for _ in range(3)]
    assert len(loss.queue.vectors) == 6
    assert len({round(v, 6) for v in values}) == 3
    first = build()
    assert float(first.contrast(query, document, negatives)) == pytest.approx(values[0])
    again = build()
    again.load_state_dict(first.state_dict())
    assert float(again.contrast(query, document, negatives)) == pytest.approx(values[1])
    plain = ContrastiveLoss(None, ObjectiveSettings(candidates=("documents", "own_negatives")))
    assert values[0] > float(plain.contrast(query, document, negatives))


def test_scale_is_the_inverse_of_temperature():
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(5, 4, generator=g), torch.randn(5, 4, generator=g)
    a = ContrastiveLoss(None, scale=20.0).contrast(x, y)
    b = ContrastiveLoss(None, temperature=0.05).contrast(x, y)
    torch.testing.assert_close(a, b)
