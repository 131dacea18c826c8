from __future__ import annotations

import pytest
import yaml
from training.plan_recipes import two_stages

from embedworks.errors import NotFoundError, SettingsError, UnknownNameError
from embedworks.training import RECIPES, PlanSettings, diff_plans, load_plan
from embedworks.training.sources import SourceSettings, read_source

PAPERS = [name for name in RECIPES if RECIPES[name].kind == "plan"]


def recipe(**stage):
    source = {"name": "docs", "documents": "docs"}
    return {"name": "p", "stages": [{"name": "one", "data": [source], "steps": 3, **stage}]}


def test_the_papers_are_there():
    assert PAPERS == [
        "2dmse", "gistembed", "kalm-v2", "lg-anna", "llama-embed-nemotron", "nv-embed", "peg",
        "qzhou", "rzenembed", "self-positioning", "simcse", "starbucks", "text2token",
    ]  # fmt: skip


@pytest.mark.parametrize("scale", ["full", "mini"])
@pytest.mark.parametrize("name", PAPERS)
def test_every_recipe_is_valid_and_comes_back_exactly(name, scale, tmp_path):
    plan = load_plan(name, scale=scale)
    assert plan.name == name
    assert plan.paper
    plan.to_yaml(tmp_path / "plan.yaml")
    assert PlanSettings.from_yaml(tmp_path / "plan.yaml") == plan
    text = yaml.safe_load(plan.to_yaml_text())
    assert PlanSettings.from_dict(text) == plan
    if scale == "mini":
        assert plan.model.base in ("minilm", "static")
        needed = [s for stage in plan.stages for s in stage.data if s.documents != "stdlib"]
        assert not needed
        assert all(stage.precision == "fp32" for stage in plan.stages)


@pytest.mark.parametrize("name", PAPERS)
def test_mini_keeps_the_published_objectives(name):
    full, mini = load_plan(name, scale="full"), load_plan(name, scale="mini")
    assert [s.name for s in full.stages] == [s.name for s in mini.stages]
    for a, b in zip(full.stages, mini.stages, strict=True):
        assert a.objective.candidates == b.objective.candidates
        assert a.objective.temperature == b.objective.temperature


def test_published_values_of_some_recipes():
    nemotron = load_plan("llama-embed-nemotron")
    assert [s.steps for s in nemotron.stages] == [5773, 33668]
    assert [s.batches.batch_size for s in nemotron.stages] == [2048, 128]
    assert [s.negatives.mine.count for s in nemotron.stages] == [1, 4]
    assert [s.learning_rate for s in nemotron.stages] == [1e-5, 2e-6]
    assert nemotron.stages[0].objective.candidates == ("own_negatives",)
    qzhou = load_plan("qzhou").stages[1]
    assert qzhou.batches.groups["retrieval"].share == 0.72
    assert qzhou.losses["pairs"].batch_size == 768
    rzen = load_plan("rzenembed")
    assert rzen.model.lora.rank == 64
    assert rzen.stages[0].objective.masks.similar_to_positive == 0.95
    assert load_plan("gistembed").stages[0].objective.temperature.value == 0.01
    peg = load_plan("peg").stages[0]
    assert peg.batches.batch_size * (1 + peg.negatives.mine.count) >= 80_000


def test_every_misspelt_key_is_named_with_a_hint():
    wrong = two_stages("minilm")
    wrong["modle"] = {}
    wrong["stages"][1]["leraning_rate"] = 1.0
    wrong["stages"][0]["data"][0]["documetns"] = "x"
    wrong["stages"][0]["negatives"]["mine"]["coutn"] = 2
    wrong["stages"][1]["losses"]["order"]["cosnet"] = 1
    wrong["stages"][1]["objective"] = {"preset": "gist", "temperatrue": 0.1}
    with pytest.raises(SettingsError) as error:
        load_plan(wrong)
    for line in (
        "modle: not a setting here. Did you mean 'model'?",
        "stages.second.leraning_rate: not a setting here. Did you mean 'learning_rate'?",
        "stages.first.data.pairs.documetns: not a setting here. Did you mean 'documents'?",
        "stages.first.negatives.mine.coutn: not a setting here. Did you mean 'count'?",
        "stages.second.losses.order.cosnet: not a setting here. Did you mean 'cosent'?",
        "stages.second.objective.temperatrue: not a setting here. Did you mean 'temperature'?",
    ):
        assert line in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": {"temperature": 0}}, "temperature"),
        ({"objective": {"preset": "gist"}}, "guide model goes with"),
        ({"guide": "minilm"}, "guide model goes with"),
        ({"steps": None}, "either steps or epochs"),
        ({"epochs": 1}, "either steps or epochs"),
        ({"learning_rate": 0}, "learning_rate"),
        ({"frozen": ["("]}, "not a regular expression"),
        ({"clusters": 4}, "clusters goes with"),
        ({"teacher": "minilm"}, "no objective has a teacher"),
        ({"negatives": {"queue": 8}}, "candidate 'queue'"),
        ({"cache_gradients": True}, "cache_gradients needs"),
        ({"losses": {"x": {"sources": ["dosc"], "cosent": 0.1}}}, "Did you mean 'docs'"),
        ({"losses": {"x": {"sources": ["docs"]}}}, "either an objective or cosent"),
        ({"warmup": 2.5}, "number of steps"),
        ({"matryoshka": {"dims": [8, 4], "weights": [1]}}, "as many weights"),
        ({"nested": {}, "matryoshka": {"dims": [8]}}, "leave out matryoshka"),
        ({"nested": {"sampler": "ladder", "dims": [8]}}, "dims goes with the sampler 'random'"),
        ({"nested": {"sampler": "laddr"}}, "nested.sampler"),
        ({"nested": {"teacher": "start", "align": "pca"}}, "teaches through align"),
        ({"reset_optimizer": False}, "no optimiser state"),
        ({"data": []}, "data is empty"),
        ({"data": [{"name": "a"}]}, "give one of rows, file and documents"),
        ({"data": [{"name": "a", "file": "x.csv"}]}, "needs a converter"),
        ({"batches": {"losses": {"docs": "x"}}}, "leave it out"),
    ],
)
def test_what_does_not_fit_together_is_refused(changes, message):
    with pytest.raises(SettingsError, match=message):
        load_plan(recipe(**changes))


def test_unknown_names_come_with_a_hint():
    with pytest.raises(UnknownNameError, match="Did you mean 'gist'"):
        load_plan(recipe(objective="gits"))
    with pytest.raises(UnknownNameError, match="gistembed"):
        load_plan("gistembd")
    with pytest.raises(NotFoundError, match="does not exist"):
        load_plan("nothing.yaml")
    with pytest.raises(SettingsError, match="Did you mean 'mini'"):
        load_plan("gistembed", scale="minni")
    with pytest.raises(SettingsError, match="kind 'adapt'"):
        load_plan("adapt")
    data = [{"name": "a", "file": "x.csv", "converter": "nli", "options": {"frm": "scores"}}]
    with pytest.raises(SettingsError, match="Did you mean 'form'"):
        load_plan(recipe(data=data))
    with pytest.raises(SettingsError, match="no stage has a source 'dcos'"):
        load_plan({**recipe(), "evaluation": {"documents": "docs", "source": "dcos"}})


def test_changes_by_dotted_path():
    plan = load_plan(
        two_stages("minilm"),
        changes=["stages.*.steps=2", "stages.second.learning_rate=0.5", "stages.0.warmup=0",
                 "stages.1.objective.temperature.value=0.3", "model.lora.rank=4", "seed=7"],
    )  # fmt: skip
    assert [s.steps for s in plan.stages] == [2, 2]
    assert (plan.stages[1].learning_rate, plan.stages[0].warmup) == (0.5, 0)
    assert plan.stages[1].objective.temperature.value == 0.3
    assert plan.stages[1].objective.masks.similar_to_positive == 0.95
    assert (plan.model.lora.rank, plan.seed) == (4, 7)
    with pytest.raises(SettingsError, match="Did you mean 'second'"):
        load_plan(two_stages("minilm"), changes=["stages.secnd.steps=2"])
    with pytest.raises(SettingsError, match="Did you mean 'seed'"):
        load_plan(two_stages("minilm"), changes=["sede=2"])
    with pytest.raises(SettingsError, match="name=value"):
        load_plan(two_stages("minilm"), changes=["seed"])
    with pytest.raises(SettingsError, match="has nothing named"):
        load_plan(two_stages("minilm"), changes=["stages.0.name.x.y=2"])


def test_scales_are_laid_over_the_values():
    values = {**recipe(), "scales": {"mini": {"stages": {"one": {"steps": 1}}, "holdout": 0.5}}}
    assert load_plan(values).stages[0].steps == 3
    assert load_plan(values, scale="full") == load_plan(values)
    small = load_plan(values, scale="mini")
    assert (small.stages[0].steps, small.holdout) == (1, 0.5)


def test_two_recipes_are_compared_by_name():
    a = load_plan(two_stages("minilm"))
    b = load_plan(two_stages("static"), changes=["stages.second.data.graded.limit=9", "seed=1"])
    assert [str(change) for change in diff_plans(a, b)] == [
        "seed: 0 -> 1",
        "model.base: 'minilm' -> 'static'",
        "stages.second.data.graded.limit: 60 -> 9",
    ]
    assert diff_plans(a, a) == []


def test_prompts_become_task_prompts():
    prompts = {"docs": {"instruction": "find it", "template": "qzhou", "symmetric": True}}
    plan = load_plan({**recipe(), "model": {"prompts": prompts}})
    prompt = plan.model.task_prompts()["docs"]
    assert prompt.format("x", "document").text == "Instruct: find it\nQuery:x"
    assert plan.model.task_prompts()["other"].format("x").text == "x"
    with pytest.raises(SettingsError, match="examples or drawn_examples"):
        load_plan(
            {**recipe(), "model": {"prompts": {"docs": {
                "instruction": "i", "examples": [["a", "b"]], "drawn_examples": 1}}}}
        )  # fmt: skip


def test_passages_as_their_own_positives(tmp_path):
    (tmp_path / "docs").mkdir()
    for name in ("a", "b"):
        (tmp_path / "docs" / f"{name}.txt").write_text(f"A text about the letter {name}. " * 20)
    given = {"name": "views", "documents": "docs", "form": "same"}
    rows = read_source(SourceSettings(**given), data_root=tmp_path)
    assert len(rows) >= 2
    assert all(row.anchor == row.positive for row in rows)
    assert len({row.anchor for row in rows}) == len(rows)
    simcse = load_plan("simcse").stages[0]
    assert (simcse.batches.batch_size, simcse.learning_rate) == (64, 3e-5)
    assert simcse.objective.temperature.value == 0.05
