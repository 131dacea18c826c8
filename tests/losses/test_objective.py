"""The objective against slow loops, its gradients against finite differences."""

from __future__ import annotations

import pydantic
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from references.slow_objective import slow_contrast

from embedworks.errors import InputError, NonFiniteError, SettingsError, ShapeError
from embedworks.losses import BatchInfo, ContrastInputs, ObjectiveSettings, contrast

QUICK = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow],
    derandomize=True,
)  # fmt: skip


@st.composite
def compositions(draw):
    """Settings that are valid together, from every part."""
    similarity = draw(st.sampled_from(["cosine", "cosine", "dot", "maxsim"]))
    names = ["documents", "own_negatives", "other_negatives", "queries", "document_documents",
             "document_negatives", "document_queries", "queue"]  # fmt: skip
    values = {
        "similarity": similarity,
        "candidates": draw(st.lists(st.sampled_from(names), min_size=1, unique=True)),
        "directions": draw(
            st.sampled_from([["query_to_document"], ["query_to_document", "document_to_query"]])
        ),
        "temperature": draw(st.sampled_from([0.1, 0.5, 1.0])),
        "masks": {
            "duplicates": draw(st.booleans()),
            "same_id": draw(st.booleans()),
            "same_class": draw(st.booleans()),
            "guide": draw(
                st.sampled_from(
                    [None, {"margin": 0.0}, {"margin": 0.1}, {"margin": 0.2, "kind": "relative"}]
                )
            ),
            "similar_to_positive": draw(st.sampled_from([None, None, 0.3])),
            "above_positive": draw(st.sampled_from([None, None, 0.1])),
        },
        "negative_weights": {
            "kind": draw(st.sampled_from(["none", "hardness", "progressive"])),
            "strength": draw(st.sampled_from([0.0, 1.5, 4.0])),
            "scope": draw(
                st.sampled_from(["all_negatives", "in_batch_negatives", "hard_negatives"])
            ),
            "detach": draw(st.booleans()),
        },
        "sample_weights": {
            "kind": draw(st.sampled_from(["none", "focal"])),
            "exponent": draw(st.sampled_from([0.0, 0.5, 2.0])),
            "normalize": draw(st.booleans()),
        },
        "targets": {
            "kind": draw(st.sampled_from(["one", "one", "several", "graded"])),
            "by": draw(st.sampled_from(["id", "class"])),
        },
        "teacher": {
            "weight": draw(st.sampled_from([0.0, 0.0, 0.7])),
            "scope": draw(st.sampled_from(["own", "in_batch"])),
            "normalize": draw(st.sampled_from(["none", "minmax", "zscore", "sigmoid"])),
            "temperature": 0.3,
            "student_temperature": draw(st.sampled_from([None, 0.4])),
        },
        "contrastive_weight": draw(st.sampled_from([1.0, 0.5])),
    }
    try:
        return ObjectiveSettings(**values)
    except pydantic.ValidationError:
        # Parts that exclude each other: keep the plain half of the draw.
        values |= {"targets": {"kind": "one"}, "teacher": {"weight": 0.0}}
        values["masks"] |= {"similar_to_positive": None}
        if similarity == "maxsim":
            values["candidates"] = ["documents", "own_negatives"]
        if "documents" not in values["candidates"]:
            values["directions"] = ["query_to_document"]
        return ObjectiveSettings(**values)


def world(seed, rows, many, dim=3, tokens=None, duplicates=True):
    """Vectors and facts with repeats of every kind."""
    g = torch.Generator().manual_seed(seed)

    def vectors(*shape):
        return torch.randn(*shape, dim, generator=g, dtype=torch.float64)

    def keys(*shape, high=None):
        high = high or max(2, rows)
        return torch.randint(-1, high, shape, generator=g)

    t = () if tokens is None else (tokens,)
    some = torch.rand(rows, many, generator=g) < 0.8
    info = BatchInfo(
        query_keys=keys(rows) if duplicates else None,
        document_keys=keys(rows) + 100 if duplicates else None,
        negative_keys=keys(rows, many) + 100 if many and duplicates else None,
        negatives_present=some if many else None,
        positive_ids=keys(rows),
        negative_ids=keys(rows, many) if many else None,
        classes=keys(rows, high=3),
        negative_classes=keys(rows, many, high=3) if many else None,
        weights=torch.rand(rows, generator=g, dtype=torch.float64) + 0.1,
        grades=torch.randint(0, 3, (rows, 1 + many), generator=g).double()
        + torch.tensor([1.0] + [0.0] * many, dtype=torch.float64),
        teacher_scores=torch.randn(rows, 1 + many, generator=g, dtype=torch.float64),
        teacher_query=vectors(rows),
        teacher_document=vectors(rows),
        teacher_negatives=vectors(rows, many) if many else None,
        guide_query=vectors(rows),
        guide_document=vectors(rows),
        guide_negatives=vectors(rows, many) if many else None,
        query_mask=torch.rand(rows, tokens, generator=g) < 0.8 if tokens else None,
        document_mask=torch.rand(rows, tokens, generator=g) < 0.8 if tokens else None,
        negatives_mask=torch.rand(rows, many, tokens, generator=g) < 0.8
        if tokens and many
        else None,
    )
    query, document = vectors(rows, *t), vectors(rows, *t)
    negatives = vectors(rows, many, *t) if many else None
    inputs = ContrastInputs(progress=0.5)
    if tokens is None:
        inputs.queue, inputs.queue_keys = vectors(3), keys(3) + 100
        if many:
            inputs.mixed = vectors(rows, 2)
            inputs.mixed_usable = torch.rand(rows, 2, generator=g) < 0.7
    return query, document, negatives, info, inputs


def usable(objective, many):
    """Whether a batch has anything the composition can contrast with, or refuses."""
    if objective.teacher.weight and objective.teacher.scope == "own" and not many:
        return False
    candidates = set(objective.candidates)
    if not many:
        candidates -= {"own_negatives", "other_negatives", "document_negatives"}
    return bool(candidates)


@QUICK
@given(
    objective=compositions(),
    rows=st.integers(1, 6),
    many=st.integers(0, 2),
    seed=st.integers(0, 10**6),
    held=st.sampled_from([1, 7, None]),
)
def test_any_composition_equals_slow_loops(objective, rows, many, seed, held):
    tokens = 2 if objective.similarity == "maxsim" else None
    query, document, negatives, info, inputs = world(seed, rows, many, tokens=tokens)
    inputs.scores_held = held
    if not usable(objective, many) and inputs.mixed is None:
        with pytest.raises(InputError, match="nothing to contrast with|no hard negatives"):
            contrast(query, document, negatives, settings=objective, info=info, inputs=inputs)
        return
    fast = contrast(query, document, negatives, settings=objective, info=info, inputs=inputs)
    slow = slow_contrast(query, document, negatives, objective, info, inputs)
    assert float(fast) == pytest.approx(slow, abs=1e-9)


@QUICK
@given(
    objective=compositions(),
    rows=st.integers(1, 4),
    many=st.integers(0, 2),
    seed=st.integers(0, 10**6),
)
def test_gradients_of_any_composition_do_not_depend_on_how_they_are_computed(
    objective, rows, many, seed
):
    """Written-out gradients equal those of automatic differentiation through the whole matrix."""
    from embedworks.losses import _contrast as module

    tokens = 2 if objective.similarity == "maxsim" else None
    if not usable(objective, many):
        return
    results = []
    for needs in (module._needs_autograd, lambda _: True):
        query, document, negatives, info, inputs = world(seed, rows, many, tokens=tokens)
        inputs.scores_held = 5 if needs is module._needs_autograd else None
        tau = torch.linspace(1.0, 3.0, rows, dtype=torch.float64)
        leaves = [query, document, tau, negatives, inputs.mixed]
        leaves = [x.requires_grad_() for x in leaves if x is not None]
        inputs.inverse_temperature = tau
        original, module._needs_autograd = module._needs_autograd, needs
        try:
            loss = contrast(
                query, document, negatives, settings=objective, info=info, inputs=inputs
            )
        finally:
            module._needs_autograd = original
        loss.backward()
        results.append([loss.detach(), *(x.grad for x in leaves)])
    for ours, theirs in zip(*results, strict=True):
        if ours is None or theirs is None:
            assert ours is None or not ours.any()
            assert theirs is None or not theirs.any()
        else:
            torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=1e-7)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"candidates": ["documents", "own_negatives", "other_negatives", "queries",
                        "document_documents", "document_negatives", "document_queries"]},
        {"directions": ["query_to_document", "document_to_query"]},
        {"sample_weights": {"kind": "focal", "exponent": 1.5, "detach": False}},
        {"negative_weights": {"kind": "hardness", "strength": 2.0, "detach": False}},
        {"negative_weights": {"kind": "progressive", "strength": 2.0, "detach": False}},
        {"similarity": "dot"},
        {"targets": {"kind": "several", "by": "class"}},
        {"targets": {"kind": "graded"}},
        {"teacher": {"weight": 1.0, "scope": "in_batch"}},
        {"teacher": {"weight": 1.0, "normalize": "minmax"}},
    ],
    ids=str,
)  # fmt: skip
def test_gradients_against_finite_differences(changes):
    query, document, negatives, info, _ = world(3, 4, 2)
    objective = ObjectiveSettings(temperature=0.5, **changes)
    tau = torch.tensor([1.0, 1.5, 2.0, 1.2], dtype=torch.float64)

    def loss(query, document, negatives, tau):
        inputs = ContrastInputs(inverse_temperature=tau, scores_held=9)
        return contrast(query, document, negatives, settings=objective, info=info, inputs=inputs)

    leaves = [x.clone().requires_grad_() for x in (query, document, negatives, tau)]
    value = loss(*leaves)
    (3.0 * value).backward()
    for leaf in leaves:
        numeric = torch.zeros_like(leaf)
        for place in range(leaf.numel()):
            ends = []
            for step in (1e-6, -1e-6):
                moved = [x.detach().clone() if x is leaf else x.detach() for x in leaves]
                next(m for m, x in zip(moved, leaves, strict=True) if x is leaf).view(-1)[
                    place
                ] += step
                ends.append(float(loss(*moved)))
            numeric.view(-1)[place] = 3.0 * (ends[0] - ends[1]) / 2e-6
        torch.testing.assert_close(leaf.grad, numeric, atol=1e-6, rtol=1e-5)
    if not changes:
        with pytest.raises(RuntimeError, match="second time"):
            value.backward()


def test_a_row_left_alone_gives_nothing():
    x = torch.randn(3, 4, requires_grad=True)
    info = BatchInfo(query_keys=torch.zeros(3).long(), document_keys=torch.zeros(3).long())
    inputs = ContrastInputs()
    loss = contrast(x, x.detach(), info=info, inputs=inputs)
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert not x.grad.any()
    assert float(inputs.statistics["alone"]) == 1.0


def test_low_precision_is_computed_in_full():
    x, y = torch.randn(64, 16), torch.randn(64, 16)
    full = contrast(x.bfloat16().float(), y.bfloat16().float())
    low = x.bfloat16().requires_grad_()
    loss = contrast(low, y.bfloat16())
    loss.backward()
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.detach(), full)
    assert low.grad.dtype == torch.bfloat16


def test_large_scores_do_not_overflow():
    x = torch.nn.functional.normalize(torch.randn(8, 4), dim=1)
    loss = contrast(x, -x, settings=ObjectiveSettings(temperature=0.001))
    assert torch.isfinite(loss)
    assert float(loss) > 100


def test_matches_sentence_transformers():
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    g = torch.Generator().manual_seed(0)
    x = [torch.nn.functional.normalize(torch.randn(9, 5, generator=g), dim=1) for _ in range(4)]
    ours = {
        ("query_to_doc",): {},
        ("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc"): {
            "candidates": ["documents", "own_negatives", "other_negatives", "queries",
                           "document_documents", "document_negatives", "document_queries"]
        },
    }  # fmt: skip
    for directions, changes in ours.items():
        for mode, strength in ((None, 0.0), ("all_negatives", 5.0), ("in_batch_negatives", 9.0)):
            if mode and len(directions) > 1:
                continue
            peer = MultipleNegativesRankingLoss(
                None, scale=20.0, directions=directions, hardness_mode=mode,
                hardness_strength=strength,
            )  # fmt: skip
            kind = {"kind": "hardness" if mode else "none", "strength": strength}
            objective = ObjectiveSettings(
                temperature=0.05,
                negative_weights=kind | ({"scope": mode} if mode else {}),
                **changes,
            )
            # ST counts other rows' hard negatives as in-batch negatives too.
            mine = contrast(x[0], x[1], torch.stack(x[2:], dim=1), settings=objective)
            features = [{"sentence_embedding": v} for v in x]
            peer.model = lambda f: f
            theirs = peer(features, None)
            torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)


def test_bad_input_is_named():
    x = torch.randn(4, 3)
    broken = x.clone()
    broken[2, 0] = float("nan")
    with pytest.raises(NonFiniteError, match="document vectors.*row 2"):
        contrast(x, broken)
    with pytest.raises(ShapeError, match="one row per pair"):
        contrast(x, x[:3])
    with pytest.raises(ShapeError, match="batch is empty"):
        contrast(x[:0], x[:0])
    with pytest.raises(ShapeError, match="negatives must be"):
        contrast(x, x, x)
    with pytest.raises(ShapeError, match="queue holds 2-d"):
        contrast(x, x, inputs=ContrastInputs(queue=torch.ones(2, 2)))
    own = ObjectiveSettings(candidates=("own_negatives",))
    with pytest.raises(InputError, match="0 hard negatives per row"):
        contrast(x, x, settings=own)
    classed = ObjectiveSettings(masks={"same_class": True})
    with pytest.raises(InputError, match=r"same_class needs BatchInfo\.classes"):
        contrast(x, x, settings=classed)
    with pytest.raises(ShapeError, match=r"classes has shape \(3,\).*4 rows"):
        contrast(x, x, settings=classed, info=BatchInfo(classes=torch.zeros(3).long()))
    with pytest.raises(NonFiniteError, match="weights is not finite in row 1"):
        contrast(x, x, info=BatchInfo(weights=torch.tensor([1.0, float("nan"), 1.0, 1.0])))
    with pytest.raises(InputError, match="every row weight is 0"):
        contrast(x, x, info=BatchInfo(weights=torch.zeros(4)))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": 0}, "temperature"),
        ({"candidates": []}, "candidates is empty"),
        ({"candidates": ["documents", "documents"]}, "twice"),
        ({"candidates": ["queries"], "directions": ["document_to_query"]}, "add 'documents'"),
        ({"similarity": "maxsim", "candidates": ["queue"]}, "queue of token vectors"),
        ({"similarity": "dot", "masks": {"similar_to_positive": 0.9}}, "threshold on cosines"),
        ({"targets": {"kind": "several"}, "masks": {"same_id": True}}, "both positives and"),
        ({"targets": {"kind": "graded"}, "candidates": ["documents"]}, "add 'own_negatives'"),
        ({"contrastive_weight": 0}, "nothing to learn from"),
        ({"sample_weights": {"normalize": True, "detach": False}}, "must be detached"),
        ({"temperature": {"value": 1.0, "learned": True}}, "between lowest"),
        ({"temprature": 0.1}, "Did you mean 'temperature'"),
    ],
)
def test_parts_that_exclude_each_other_say_why(values, message):
    with pytest.raises(SettingsError, match=message):
        ObjectiveSettings.from_dict(values)
