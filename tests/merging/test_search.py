"""Coefficients of merges: the maths by hand, gradients against differences, and whole searches."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("sentence_transformers")

import torch
from safetensors.numpy import load_file

import embedworks as ew
from embedworks.data import Row, RowSet
from embedworks.errors import (
    EmptyInputError,
    FormatError,
    InputError,
    NonFiniteError,
    SettingsError,
    ShapeError,
    UnknownNameError,
)
from embedworks.merging import (
    FORMS,
    CoefficientSearch,
    Probe,
    TaskVectors,
    chain_coefficients,
    combined,
    make_position,
    search_coefficients,
    simplex_grid,
    slerp,
)
from embedworks.models import check_golden, load_trainable

WORDS = [
    "archive",
    "median",
    "wrap",
    "gzip",
    "heap",
    "copy",
    "format",
    "parse",
    "read",
    "write",
    "sort",
    "merge",
]


def rows_of(task: str, count: int, seed: int = 0) -> list[Row]:
    rng = np.random.default_rng(seed)
    rows = []
    for place in range(count):
        first = " ".join(rng.choice(WORDS, 4))
        second = " ".join(rng.choice(WORDS, 4))
        more = {"score": float(place % 5)} if task == "graded" else {}
        more |= {"label": WORDS[place % 3]} if task == "classes" else {}
        rows.append(Row(f"{first} {place}", f"{second} {first.split()[0]}", source=task, **more))
    return rows


ROWS = RowSet([*rows_of("pairs", 16), *rows_of("graded", 12), *rows_of("classes", 12)])


# -- positions ------------------------------------------------------------------------------


def slow_chain(vectors, weights):
    """SLERP one vector after the other, in float64, on the vectors themselves."""
    merged = vectors[0]
    for n in range(1, len(vectors)):
        share = weights[n] / (np.mean(weights[:n]) + weights[n])
        merged = slerp([merged, vectors[n]], [1 - share, share])
    return merged


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_a_chain_is_slerp_after_slerp(seed, count):
    rng = np.random.default_rng(seed)
    vectors, weights = rng.normal(size=(count, 7)), rng.uniform(0.1, 3, count)
    gram = torch.from_numpy(vectors @ vectors.T)
    factors = chain_coefficients(gram, torch.from_numpy(weights)).numpy()
    np.testing.assert_allclose(factors @ vectors, slow_chain(vectors, weights), atol=1e-12)


def test_a_chain_where_angles_vanish():
    same = torch.ones(2, 2).double()
    assert chain_coefficients(same, torch.tensor([1.0, 3.0]).double()).tolist() == [0.25, 0.75]
    zero = torch.tensor([[0.0, 0.0], [0.0, 1.0]]).double()
    assert chain_coefficients(zero, torch.ones(2).double()).tolist() == [0.5, 0.5]
    with pytest.raises(ShapeError, match=r"gram must be \(N, N\)"):
        chain_coefficients(torch.eye(2), torch.ones(3))


@pytest.mark.parametrize("form", FORMS)
def test_positions_start_even_and_have_right_gradients(form):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(3, 6))
    gram = torch.from_numpy(vectors @ vectors.T)
    position = make_position(form, gram, 2, length=0.8)
    start = position().detach()
    assert start.shape == (3, 2)
    if form == "slerp":
        expected = 0.8 * chain_coefficients(gram, torch.ones(3).double())
        torch.testing.assert_close(start, expected[:, None].expand(3, 2))
        assert float(position.length().detach()) == 0.8
    else:
        torch.testing.assert_close(start, torch.full((3, 2), 0.8 / 3, dtype=torch.float64))
        assert float(position.length().detach()) == pytest.approx(0.8)
    pull = torch.from_numpy(rng.normal(size=(3, 2)))
    (position() * pull).sum().backward()
    for parameter in position.parameters():
        flat, gradient = parameter.data.view(-1), parameter.grad.view(-1)
        for place in range(len(flat)):
            values = []
            for step in (1e-6, -2e-6):
                flat[place] += step
                values.append(float((position() * pull).sum().detach()))
            flat[place] += 1e-6
            slope = (values[0] - values[1]) / 2e-6
            assert gradient[place] == pytest.approx(slope, abs=1e-6)


def test_unusable_positions():
    with pytest.raises(UnknownNameError, match="form 'slurp'"):
        make_position("slurp", torch.eye(2), 1)
    with pytest.raises(InputError, match="length must be finite"):
        make_position("free", torch.eye(2), 1, length=float("nan"))


def test_goals_by_hand():
    assert combined([1.0, 3.0], "mean", []) == (2.0, [0.5, 0.5])
    value, shares = combined([2.0, 5.0], "worst", [[1.0, 5.0], [3.0, 9.0]])
    assert value == pytest.approx(1.0, abs=1e-6)  # the first task is twice its best model's loss
    assert shares == pytest.approx([1.0, 0.0], abs=1e-6)
    for goal in ("mean", "relative", "worst"):
        singles = [[1.0, 2.0, 4.0], [2.0, 1.5, 8.0]]
        at = np.array([1.1, 1.6, 4.2])
        _, shares = combined(at, goal, singles)
        for place in range(3):
            ends = []
            for step in (1e-6, -1e-6):
                moved = at.copy()
                moved[place] += step
                ends.append(combined(moved, goal, singles)[0])
            assert shares[place] == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-4)


def test_the_grid_has_every_point_once():
    points = [tuple(point) for point in simplex_grid(3, parts=4, lengths=[1.0, 2.0])]
    assert len(points) == len(set(points)) == 2 * 15
    assert {round(sum(point), 9) for point in points} == {1.0, 2.0}
    assert min(map(min, points)) == 0.0


# -- task vectors -----------------------------------------------------------------------------


@pytest.fixture
def models(transformer_folder, varied):
    """A base and two models that moved from it."""
    return transformer_folder, [varied(transformer_folder, f"model{n}", n) for n in range(2)]


def vectors_of(models, by="all"):
    base, others = models
    named = [dict(load_trainable(f, device="cpu").named_parameters()) for f in (base, *others)]
    return TaskVectors(named[0], named[1:], by=by)


def test_products_and_merges_of_task_vectors(models):
    vectors = vectors_of(models, by="module")
    base, others = models
    tensors = [load_file(f / "model.safetensors") for f in (base, *others)]
    flat = [
        np.concatenate([(t[name] - tensors[0][name]).ravel() for name in tensors[0]])
        for t in tensors[1:]
    ]
    products = np.array([[a.astype(np.float64) @ b for b in flat] for a in flat])
    np.testing.assert_allclose(vectors.gram.sum(0).numpy(), products, rtol=1e-4)
    np.testing.assert_allclose(vectors.norms.numpy(), np.sqrt(np.diag(products)), rtol=1e-4)
    assert float(vectors.cosines[0, 0]) == pytest.approx(1.0)
    assert {"embeddings", "layer 0 attention", "layer 1 feed-forward", "head"} <= set(
        vectors.groups
    )
    only = torch.zeros(2, len(vectors.groups))
    only[1, vectors.groups.index("head")] = 1.0
    merged = vectors.merged(only)
    for name in vectors.names:
        own = name.removeprefix("0.model.")
        expected = tensors[2 if "pooler" in own else 0][own]
        np.testing.assert_allclose(merged[name].numpy(), expected, atol=1e-6, err_msg=name)


def test_what_a_model_did_not_change_is_left_alone(models):
    base = dict(load_trainable(models[0], device="cpu").named_parameters())
    tuned = {name: tensor.detach().clone() for name, tensor in base.items()}
    changed = "0.model.encoder.layer.0.output.dense.weight"
    tuned[changed] += 1
    vectors = TaskVectors(base, [tuned], by="layer")
    assert vectors.names == (changed,)
    assert vectors.groups == ("layer 0",)


def test_unusable_task_vectors():
    base = {"a": torch.zeros(2), "b": torch.zeros(1)}
    one = {"a": torch.ones(2), "b": torch.ones(1)}
    with pytest.raises(InputError, match="Model 2 is the base itself"):
        TaskVectors(base, [one, base])
    with pytest.raises(InputError, match="'b' is in the base and not in model 1"):
        TaskVectors(base, [{"a": torch.ones(2)}])
    with pytest.raises(ShapeError, match=r"'a' has shape \(3,\) in model 1"):
        TaskVectors(base, [{**one, "a": torch.ones(3)}])
    with pytest.raises(NonFiniteError, match="'b' of model 1"):
        TaskVectors(base, [{**one, "b": torch.full((1,), torch.nan)}])
    with pytest.raises(InputError, match="only floats"):
        TaskVectors({"a": torch.ones(2, dtype=torch.int64)}, [one])
    with pytest.raises(InputError, match="no models"):
        TaskVectors(base, [])
    with pytest.raises(ShapeError, match=r"expected one per model and group: \(1, 1\)"):
        TaskVectors(base, [one]).merged(torch.ones(2, 2))


# -- probes and searches ------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["rows", "entropy"])
def test_the_gradient_is_that_of_a_functional_call_and_of_differences(models, loss):
    vectors = vectors_of(models, by="layer")
    model = load_trainable(models[0], device="cpu").double().eval()
    at = torch.full((2, len(vectors.groups)), 0.4, dtype=torch.float64)

    def value(coefficients, task):
        vectors.put(model, coefficients)
        probe = Probe(model, ROWS, loss=loss, batch_size=8, held_out=0.0)
        return probe.loss(task)

    for task in ("pairs", "graded", "classes"):
        model.zero_grad()
        value(at, task).backward()
        pulled = vectors.pull(model)
        free = at.clone().requires_grad_()
        place = {name: vectors.groups.index(ew.merging.part_of(name)) for name in vectors.names}
        merged = {
            f"model.{name}": vectors.base[name].double()
            + sum(
                free[n, place[name]] * own[name].double() for n, own in enumerate(vectors.vectors)
            )
            for name in vectors.names
        }
        probe = Probe(model, ROWS, loss=loss, batch_size=8, held_out=0.0)
        holder = probe._losses[task]
        columns, scores = probe._collator.columns(next(probe._order[task]))
        found = torch.func.functional_call(holder, merged, (list(columns.values()), scores))
        (gradient,) = torch.autograd.grad(found, free)
        torch.testing.assert_close(pulled, gradient, atol=2e-5, rtol=1e-3)
        step = torch.zeros_like(at)
        step[1, 1] = 1e-3
        with torch.no_grad():
            slope = (value(at + step, task) - value(at - step, task)) / 2e-3
        assert float(pulled[1, 1]) == pytest.approx(float(slope), abs=1e-3)


def test_a_probe_keeps_rows_apart_and_repeats_itself(models):
    model = load_trainable(models[0], device="cpu").eval()
    probe = Probe(model, ROWS, batch_size=4, held_out=0.25, seed=3)
    assert probe.tasks == ("pairs", "graded", "classes")
    assert probe.counts == {"pairs": (12, 4), "graded": (9, 3), "classes": (9, 3)}
    for task in probe.tasks:
        assert not set(probe._used[task]) & set(probe._held_out[task])
    again = Probe(model, ROWS, batch_size=4, held_out=0.25, seed=3)
    assert probe.held_out_losses() == again.held_out_losses()
    assert [probe.loss("pairs").item() for _ in range(4)] == [
        again.loss("pairs").item() for _ in range(4)
    ]
    with pytest.raises(UnknownNameError, match="No task 'pears'"):
        probe.loss("pears")


def test_probe_rows_from_a_file(models, tmp_path):
    model = load_trainable(models[0], device="cpu")
    lines = [
        {"anchor": row.anchor, "positive": row.positive, "source": row.source, "score": row.score}
        for row in ROWS
        if row.source != "classes"
    ]
    path = tmp_path / "probe.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    assert Probe(model, path).counts == {"pairs": (12, 4), "graded": (9, 3)}
    path.write_text('{"anchor": "a", "positive": ""}\n')
    with pytest.raises(FormatError, match="positive is empty"):
        Probe(model, path)
    path.write_text('{"anchor": "a"}\n')
    with pytest.raises(FormatError, match="no 'positive'"):
        Probe(model, path)
    path.write_text("{")
    with pytest.raises(FormatError, match="line 1 is not valid JSON"):
        Probe(model, path)


def test_unusable_probes(models):
    model = load_trainable(models[0], device="cpu")
    with pytest.raises(EmptyInputError, match="no probe rows"):
        Probe(model, RowSet([]))
    with pytest.raises(InputError, match="'pairs' has 3 probe rows, of which 1 are held out"):
        Probe(model, RowSet(rows_of("pairs", 3)))
    mixed = RowSet([*rows_of("pairs", 8), *(r for r in rows_of("graded", 8))]).with_source("both")
    with pytest.raises(InputError, match="8 of 16 probe rows of 'both' have scores"):
        Probe(model, mixed)


def planted(models):
    """A probe whose best merge is known: vectors of the second model are the targets."""
    base, others = models
    model = load_trainable(base, device="cpu")
    return model, vectors_of((base, others))


def test_a_search_finds_what_the_rows_want(models):
    """Rows on which one model is much better pull the merge to that model."""
    model, vectors = planted(models)
    good = load_trainable(models[1][1], device="cpu")
    texts = [" ".join(np.random.default_rng(n).choice(WORDS, 3)) for n in range(40)]
    with torch.no_grad():
        seen = torch.nn.functional.normalize(good.encode(texts, convert_to_tensor=True), dim=1)
    order = (seen @ seen.T).fill_diagonal_(-1).argsort(dim=1, descending=True)
    rows = [
        Row(texts[a], texts[int(order[a, rank])], source="order", score=float(seen[a] @ seen[b]))
        for a in range(40)
        for rank in (0, 20, 38)
        for b in [int(order[a, rank])]
    ]
    probe = Probe(model, RowSet(rows), batch_size=24)
    settings = CoefficientSearch(
        form="free", by="all", goal="mean", steps=40, learning_rate=0.1, check_every=5, patience=8
    )
    found = search_coefficients(vectors, model, probe, settings)
    one, two = found.coefficients[:, 0]
    assert two > 0.7
    assert two > one + 0.3
    assert found.tasks["found"]["order"] < found.tasks["start"]["order"]
    assert found.tasks["model 2"]["order"] < found.tasks["model 1"]["order"]
    # the model is left as it was found, and trains on
    torch.testing.assert_close(
        dict(model.named_parameters())[vectors.names[3]],
        vectors.merged(torch.from_numpy(found.coefficients))[vectors.names[3]],
    )
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(("form", "goal"), zip(FORMS, ["mean", "relative", "worst"]))
def test_every_form_and_goal_runs_and_repeats(models, form, goal):
    settings = CoefficientSearch(
        form=form, by="all", goal=goal, steps=3, batch_size=4, check_every=2, mu=0.01
    )
    found = []
    for _ in range(2):
        model, vectors = planted(models)
        found.append(search_coefficients(vectors, model, Probe.of(model, ROWS, settings), settings))
    np.testing.assert_array_equal(found[0].coefficients, found[1].coefficients)
    assert [entry["step"] for entry in found[0].history] == [0, 2, 3]
    values = [entry["value"] for entry in found[0].history]
    assert found[0].step == [0, 2, 3][int(np.argmin(values))]
    json.dumps(found[0].to_dict(), allow_nan=False)


def test_it_stops_when_nothing_is_gained(models):
    model, vectors = planted(models)
    settings = CoefficientSearch(
        by="all", steps=50, batch_size=4, check_every=1, patience=2, learning_rate=5.0
    )
    found = search_coefficients(vectors, model, Probe.of(model, ROWS, settings), settings)
    assert found.steps < 50
    assert found.steps == found.step + 2


def test_the_penalty_shortens(models):
    lengths = []
    for mu in (0.0, 30.0):
        model, vectors = planted(models)
        settings = CoefficientSearch(
            form="simplex", by="all", steps=6, batch_size=4, check_every=6, mu=mu, optimizer="sgd",
            learning_rate=0.005, goal="mean",
        )  # fmt: skip
        found = search_coefficients(vectors, model, Probe.of(model, ROWS, settings), settings)
        lengths.append(found.history[-1]["length"])
    assert lengths[1] < lengths[0] - 0.3


def test_unusable_searches(models):
    model, vectors = planted(models)
    probe = Probe(model, ROWS, batch_size=4)
    with pytest.raises(InputError, match="'slerp' has one length for the whole model"):
        search_coefficients(
            vectors_of(models, by="layer"), model, probe, CoefficientSearch(form="slerp")
        )
    with pytest.raises(InputError, match="one number per model"):
        search_coefficients(vectors, model, probe, grid=[[1.0, 2.0, 3.0]])
    with pytest.raises(NonFiniteError, match="ran away"):
        search_coefficients(
            vectors, model, probe,
            CoefficientSearch(by="all", optimizer="sgd", learning_rate=1e9, steps=3),
        )  # fmt: skip
    with pytest.raises(SettingsError, match="goal"):
        CoefficientSearch.from_dict({"goal": "best"})


# -- whole models ---------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["searched", "self_positioning", "adamerging", "grid"])
def test_a_searched_merge_is_a_whole_model(models, tmp_path, method):
    base, others = models
    options = {"steps": 2, "batch_size": 4, "check_every": 1}
    if method == "grid":
        options |= {"parts": 2, "lengths": [0.5, 1.0]}
    out = tmp_path / "out"
    report = ew.merge(others, out, method, base=base, rows=ROWS, options=options)
    check_golden(out, ew.load(out, device="cpu"))
    weights = report.data["search"]["weights"]
    assert report.method == method
    assert report.parts == {part: tuple(own) for part, own in weights.items()}
    again = ew.merge(others, tmp_path / "again", "task_arithmetic", base=base, weights=weights)
    assert again.files == report.files
    stored = json.loads((out / "merge.json").read_text())
    assert stored["data"]["search"]["losses"].keys() == {
        "base", "model 1", "model 2", "start", "found",
    }  # fmt: skip
    card = (out / "README.md").read_text()
    assert "## Search" in card
    assert "| searched merge |" in card
    # in memory and in files the same
    vectors = vectors_of(models, by=report.options["by"])
    table = torch.tensor([weights[g] for g in vectors.groups]).T
    merged = load_file(out / "model.safetensors")
    for name, tensor in vectors.merged(table).items():
        own = name.removeprefix("0.model.")
        np.testing.assert_allclose(merged[own], tensor.numpy(), atol=1e-6, err_msg=name)


def test_static_models_are_searched_too(tmp_path, static_folder, varied):
    models = [varied(static_folder, f"static{n}", n, size=0.3) for n in range(2)]
    report = ew.merge(
        models, tmp_path / "out", "self_positioning", base=static_folder, rows=ROWS,
        options={"steps": 2, "batch_size": 4},
    )  # fmt: skip
    assert list(report.parts) == ["*"]
    assert ew.load(tmp_path / "out").encode(["gzip"]).shape == (1, 48)


def test_what_a_search_needs_is_told_first(models, tmp_path):
    base, others = models
    out = tmp_path / "out"
    with pytest.raises(InputError, match="give `rows`"):
        ew.merge(others, out, "searched", base=base)
    with pytest.raises(InputError, match="give `base`"):
        ew.merge(others, out, "searched", rows=ROWS)
    with pytest.raises(InputError, match="looks at no data.*self_positioning"):
        ew.merge(others, out, "ties", base=base, rows=ROWS)
    with pytest.raises(InputError, match="no use for weights"):
        ew.merge(others, out, "searched", base=base, rows=ROWS, weights=[1, 2])
    with pytest.raises(InputError, match="no weights by part"):
        ew.merge(others, out, "searched", base=base, rows=ROWS, weights={"*": [1, 2]})
    with pytest.raises(SettingsError, match="Did you mean 'steps'"):
        ew.merge(others, out, "searched", base=base, rows=ROWS, options={"stepps": 1})
    with pytest.raises(SettingsError, match="by"):
        ew.merge(others, out, "grid", base=base, rows=ROWS, options={"by": "layer"})
    with pytest.raises(InputError, match="Model 2 is the base itself"):
        ew.merge([others[0], base], out, "searched", base=base, rows=ROWS)
    with pytest.raises(InputError, match="one set of rows"):
        ew.merging.merge_with_data(others, out, "searched", base=base, rows=[ROWS, ROWS[:20]])
    assert not out.exists()
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]
