"""LayerDimLoss against models that are really cut, one loss after the other."""

from __future__ import annotations

import copy
import math
import random

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sentence_transformers")

from sentence_transformers.sentence_transformer.losses import (  # noqa: E402
    CachedMultipleNegativesRankingLoss,
    CoSENTLoss,
    MatryoshkaLoss,
    MultipleNegativesRankingLoss,
)

from embedworks.errors import EmptyInputError, InputError  # noqa: E402
from embedworks.losses import (  # noqa: E402
    AllLayers,
    ContrastiveLoss,
    FixedPairs,
    LayerDimLoss,
    PCACompress,
    RandomLayerDim,
    ScoreKL,
    VectorKL,
    starbucks_pairs,
)
from embedworks.losses.alignment import (  # noqa: E402
    principal_targets,
    score_divergence,
    vector_divergence,
)
from embedworks.losses.views import layer_weight  # noqa: E402
from embedworks.models import load, truncate_model  # noqa: E402
from embedworks.negatives import EmbeddingQueue  # noqa: E402

QUERIES = ["read a file line by line", "heap", "compress data with gzip now", "copy a tree"]
DOCUMENTS = ["open() and a for loop", "a heap is a binary tree", "gzip.open", "shutil.copytree()"]


@pytest.fixture
def model(transformer_folder):
    return load(transformer_folder).eval()  # no dropout: views must agree exactly


def batch(model):
    return [model.preprocess(QUERIES), model.preprocess(DOCUMENTS)]


def gradients(model):
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def by_hand(model, views, align):
    """Cut the model for every view and take its loss; the aligner gets what it is promised."""

    def encode(layer, dim=None):
        cut = truncate_model(model, layer)
        columns = []
        for column in batch(model):
            features = dict(column)
            for module in list(cut)[:-1]:  # without Normalize
                features = module(features)
            columns.append(features["sentence_embedding"].double()[:, :dim])
        return columns

    total = 0.0
    for layer, dim, weight in views:
        mine, own, last = encode(layer, dim), encode(layer), encode(2)
        base = ContrastiveLoss(None, temperature=0.1).compute_loss_from_embeddings(mine)
        if align is not None and (dim < 32 if align.full_view else (layer, dim) != (2, 32)):
            base = base + align(mine, own, last)
        total += weight * float(base)
    return total


@pytest.mark.parametrize(
    ("sampler", "align"),
    [
        (RandomLayerDim((8,)), VectorKL(temperature=0.7)),
        (FixedPairs([(1, 8), (2, 16)]), ScoreKL(weight=0.5)),
        (AllLayers(8), PCACompress(mse=0.3)),
        (FixedPairs([(1, 4)]), None),
    ],
)
def test_the_loss_is_the_sum_over_models_that_are_cut(model, sampler, align):
    loss = LayerDimLoss(
        model, ContrastiveLoss(model, temperature=0.1), sampler=sampler, align=align
    )
    views = sampler.draw(2, 32, random.Random(1))
    with torch.no_grad():
        found = float(loss(batch(model)))
        assert found == pytest.approx(by_hand(model, views, align), rel=1e-4)
    assert set(loss.statistics) == {f"{v.layer}x{v.dim}" for v in views} | {"align"}


@pytest.mark.parametrize("align", [None, VectorKL(), ScoreKL(), PCACompress()])
def test_packing_and_cached_gradients_change_nothing(model, align):
    options = {"sampler": RandomLayerDim((8, 16)), "align": align, "layer_weighting": "log"}
    plain = LayerDimLoss(model, ContrastiveLoss(model), **options)
    value = plain(batch(model))
    value.backward()
    expected = gradients(model)
    for inner in (
        {"mini_batch_tokens": 24},
        {"mini_batch_size": 3, "cache_gradients": True},
    ):
        model.zero_grad(set_to_none=True)
        again = LayerDimLoss(model, ContrastiveLoss(model, **inner), **options)
        found = again(batch(model))
        found.backward()
        assert found.item() == pytest.approx(value.item(), rel=1e-5)
        for name, gradient in gradients(model).items():
            torch.testing.assert_close(gradient, expected[name], atol=2e-6, rtol=1e-4)


def test_cached_gradients_replay_dropout(model):
    model.train()
    loss = LayerDimLoss(
        model, ContrastiveLoss(model, mini_batch_size=2, cache_gradients=True),
        sampler=FixedPairs([(1, 8)]), align=ScoreKL(),
    )  # fmt: skip
    torch.manual_seed(3)
    loss(batch(model)).backward()
    first = gradients(model)
    model.zero_grad()
    torch.manual_seed(3)
    loss(batch(model)).backward()
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, first[name])
    assert int(loss.views_drawn) == 2


def test_a_detached_teacher_gets_no_gradient_from_the_alignment(model):
    def last_layer_gradient(*, detach):
        model.zero_grad(set_to_none=True)
        loss = LayerDimLoss(
            model, ContrastiveLoss(model), sampler=FixedPairs([(1, 32)]), align=VectorKL(),
            detach_teacher=detach, last_weight=0.0,
        )  # fmt: skip
        loss(batch(model)).backward()
        weight = model[0].auto_model.encoder.layer[1].output.dense.weight
        return 0.0 if weight.grad is None else float(weight.grad.abs().max())

    assert last_layer_gradient(detach=True) == 0
    assert last_layer_gradient(detach=False) > 0


def test_random_draws_follow_the_seed_and_go_on_after_loading(model):
    def views(loss, steps):
        loss.train()
        found = []
        for _ in range(steps):
            loss(batch(model))
            found.append(loss.views)
        return found

    def fresh():
        return LayerDimLoss(model, ContrastiveLoss(model), sampler=RandomLayerDim((4, 8, 16)))

    whole = views(fresh(), 6)
    assert len({tuple(v) for v in whole}) > 1
    assert views(fresh(), 6) == whole
    first = fresh()
    views(first, 4)
    later = fresh()
    later.load_state_dict(first.state_dict())
    assert views(later, 2) == whole[4:]


def test_it_wraps_sentence_transformers_losses_too(model):
    sampler = FixedPairs([(1, 8)])
    ours = LayerDimLoss(model, ContrastiveLoss(model, scale=20), sampler=sampler)
    theirs = LayerDimLoss(model, MultipleNegativesRankingLoss(model, scale=20), sampler=sampler)
    assert ours(batch(model)).item() == pytest.approx(theirs(batch(model)).item(), rel=1e-5)
    graded = LayerDimLoss(model, CoSENTLoss(model), sampler=sampler, align=VectorKL())
    assert math.isfinite(graded(batch(model), torch.tensor([0.0, 0.3, 0.6, 1.0])).item())


def test_what_cannot_be_cut_is_refused_with_a_reason(model, static_folder):
    sampler = FixedPairs([(1, 8)])

    def make(loss, sampler=sampler):
        return LayerDimLoss(model, loss, sampler=sampler)

    with pytest.raises(InputError, match="caches gradients"):
        make(CachedMultipleNegativesRankingLoss(model))
    with pytest.raises(InputError, match="nests sizes itself"):
        make(MatryoshkaLoss(model, MultipleNegativesRankingLoss(model), [32, 8]))
    with pytest.raises(InputError, match="queue"):
        make(
            ContrastiveLoss(
                model, {"candidates": ["documents", "queue"]}, queue=EmbeddingQueue(4, 32)
            )
        )
    with pytest.raises(InputError, match="maxsim"):
        make(ContrastiveLoss(model, {"similarity": "maxsim"}))
    with pytest.raises(InputError, match="compute_loss_from_embeddings"):
        make(torch.nn.Linear(1, 1))
    with pytest.raises(InputError, match="2 layers and 32 dimensions"):
        make(ContrastiveLoss(model), FixedPairs([(3, 8)]))
    with pytest.raises(InputError, match="dims must be 1 to 31"):
        make(ContrastiveLoss(model), RandomLayerDim((64,)))
    with pytest.raises(InputError, match="layer_weighting"):
        LayerDimLoss(model, ContrastiveLoss(model), sampler=sampler, layer_weighting="cubic")
    with pytest.raises(EmptyInputError):
        make(ContrastiveLoss(model))([])
    with pytest.raises(InputError, match="without a transformer"):
        LayerDimLoss(load(static_folder), ContrastiveLoss(None), sampler=sampler)


@pytest.mark.parametrize("pairs", [[(2, 8), (1, 16)], [(1, 8), (1, 8)], [(1, 16), (2, 8)]])
def test_a_ladder_must_grow(pairs):
    with pytest.raises(InputError, match="must grow"):
        FixedPairs(pairs)


def test_samplers_refuse_nonsense():
    with pytest.raises(EmptyInputError):
        FixedPairs([])
    with pytest.raises(InputError, match="twice"):
        RandomLayerDim((8, 8))
    with pytest.raises(InputError, match="1 or more"):
        RandomLayerDim(n_layers_per_step=0)
    with pytest.raises(InputError, match="rungs"):
        starbucks_pairs(6, 384, 7)
    with pytest.raises(InputError, match="cannot be halved"):
        starbucks_pairs(12, 16, 12)
    with pytest.raises(InputError, match="temperature"):
        VectorKL(temperature=0)
    assert layer_weight(4, "linear") == 0.25


# --- the maths, against slow loops in float64 ---------------------------------------------------


def softmax(row):
    top = max(row)
    parts = [math.exp(x - top) for x in row]
    return [p / sum(parts) for p in parts]


@pytest.mark.parametrize("temperature", [0.05, 1.0, 2.5])
def test_divergences_equal_loops(temperature):
    rng = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 3, 5, generator=rng, dtype=torch.float64)
    expected = 0.0
    for s, t in zip(student.tolist(), teacher.tolist()):
        p = softmax([x / temperature for x in t])
        q = softmax([x / temperature for x in s])
        expected += sum(a * math.log(a / b) for a, b in zip(p, q) if a > 0) / 3
    found = score_divergence(student, teacher, temperature=temperature)
    assert found.item() == pytest.approx(expected, rel=1e-9)
    scaled = vector_divergence(student, teacher, temperature=temperature)
    assert float(scaled) == pytest.approx(temperature**2 * expected, rel=1e-9)
    assert torch.autograd.gradcheck(
        lambda s: vector_divergence(s, teacher, temperature=temperature),
        student.clone().requires_grad_(),
    )


def test_shapes_must_fit():
    with pytest.raises(InputError, match=r"student is \(2, 3\), teacher \(2, 4\)"):
        vector_divergence(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(InputError, match="student is"):
        score_divergence(torch.zeros(2, 3), torch.zeros(3, 3))
    with pytest.raises(InputError, match="keep must be 1 to 3"):
        principal_targets(torch.zeros(2, 3), 4)


def test_principal_targets_keep_distances_of_a_batch():
    """With all directions kept, M U S has the inner products of M A A^T M^T."""
    vectors = torch.randn(6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mixed = torch.softmax(vectors.T @ vectors / 5**0.5, dim=-1)
    target = principal_targets(vectors.float(), 5).double()
    expected = vectors @ mixed @ mixed.T @ vectors.T
    torch.testing.assert_close(target @ target.T, expected, atol=1e-4, rtol=1e-4)
    smaller = principal_targets(vectors.float(), 2)
    torch.testing.assert_close(smaller, target[:, :2].float(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(principal_targets(vectors.float(), 2), smaller)


def test_it_trains_in_sentence_transformers_trainer(transformer_folder, tmp_path):
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )

    model = load(transformer_folder)
    untouched = copy.deepcopy(model)
    loss = LayerDimLoss(
        model, ContrastiveLoss(model), sampler=FixedPairs([(1, 8)]), align=ScoreKL()
    )
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(tmp_path), max_steps=3, per_device_train_batch_size=4, learning_rate=1e-3,
        report_to="none", save_strategy="no", disable_tqdm=True, use_cpu=True,
    )  # fmt: skip
    data = Dataset.from_dict({"anchor": QUERIES, "positive": DOCUMENTS})
    SentenceTransformerTrainer(model=model, args=arguments, train_dataset=data, loss=loss).train()
    model.save_pretrained(str(tmp_path / "saved"))
    again = SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    assert abs(again.encode(QUERIES) - untouched.encode(QUERIES)).max() > 1e-3
    assert model[0].auto_model.config.output_hidden_states is False


@pytest.mark.parametrize("inner", [{}, {"mini_batch_size": 3, "cache_gradients": True}])
def test_a_frozen_teacher_stands_in_for_the_last_layer(model, inner):
    teacher = copy.deepcopy(model)
    with torch.no_grad():  # the teacher is another model by now
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    align = ScoreKL(weight=0.5)
    loss = LayerDimLoss(
        model, ContrastiveLoss(model, temperature=0.1, **inner),
        sampler=FixedPairs([(1, 8), (2, 32)]), align=align, teacher=teacher,
    )  # fmt: skip
    value = loss(batch(model))
    value.backward()
    with torch.no_grad():
        taught = [teacher(dict(column))["sentence_embedding"] for column in batch(model)]
        expected = 0.0
        for layer, dim in ((1, 8), (2, 32)):  # the whole model is aligned too
            cut = truncate_model(model, layer)
            mine = [cut(dict(column))["sentence_embedding"][:, :dim] for column in batch(model)]
            unit = [torch.nn.functional.normalize(column, dim=-1) for column in mine]
            base = ContrastiveLoss(None, temperature=0.1).compute_loss_from_embeddings(unit)
            expected += float(base + align(mine, mine, taught))
    assert value.item() == pytest.approx(expected, rel=1e-4)
    assert not any(parameter.grad is not None for parameter in teacher.parameters())
    assert not any("teacher" in name for name in loss.state_dict())
    assert loss.get_config_dict()["teacher"] == "frozen model"


def test_teachers_that_cannot_teach_are_refused(model, static_folder):
    options = {"sampler": FixedPairs([(1, 8)])}
    teacher = copy.deepcopy(model)
    for align in (None, PCACompress()):
        with pytest.raises(InputError, match="through align"):
            LayerDimLoss(model, ContrastiveLoss(model), align=align, teacher=teacher, **options)
    with pytest.raises(InputError, match="a copy, frozen"):
        LayerDimLoss(model, ContrastiveLoss(model), align=ScoreKL(), teacher=model, **options)
    with pytest.raises(InputError, match="tokenises unlike"):
        LayerDimLoss(
            model, ContrastiveLoss(model), align=ScoreKL(), teacher=torch.nn.Linear(2, 2), **options
        )
