"""The steps of synthesis, offline: rows, provenance, counts, resuming, settings."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from embedworks.data import (
    Passage,
    Row,
    RowSet,
    RuleBasedGenerator,
    SynthesisSettings,
    SynthesisTask,
    Synthesizer,
    augment,
    brainstorm_tasks,
    chunk_documents,
    make_hard_negatives,
    paraphrase,
    provenance_of,
    query_passages,
    read_documents,
    relabel,
    run_synthesis,
    synthesize_rows,
)
from embedworks.data.generators import Completion
from embedworks.data.synthesis_tasks import TASK_TYPES, payload_of
from embedworks.errors import (
    EmptyInputError,
    FormatError,
    InputError,
    SettingsError,
    UnknownNameError,
)

CYRILLIC = "Вода кипит при ста градусах, а чайник её нагревает до этого."
PAGES = {
    "kettle": "# Kettles\n\nA kettle is a vessel for boiling water. Electric kettles switch off "
    "at 100 degrees.\n\n## Descaling\n\nTo descale a kettle, fill it with 500 ml of vinegar and "
    "wait 20 minutes. If the water is hard, repeat this every 3 months.\n\n## Safety\n\nNever "
    "open the lid while the water boils, because the steam is hot. Keep the cord away from heat.\n",
    "bread": "# Sourdough\n\nSourdough is bread raised by wild yeast. The starter needs flour and "
    "water every 12 hours.\n\n## Baking\n\nHeat the oven to 230 degrees. Bake the loaf for 40 "
    "minutes until the crust is brown.\n",
    "tyre": "# Tyres\n\nA tyre loses pressure over time because air passes through the tube. "
    "Check the pressure every 2 weeks.\n",
}


@pytest.fixture
def folder(tmp_path):
    target = tmp_path / "pages"
    target.mkdir()
    for name, text in PAGES.items():
        (target / f"{name}.md").write_text(text, encoding="utf-8")
    return target


@pytest.fixture
def chunks(folder):
    return list(chunk_documents(read_documents(folder), max_tokens=60, min_tokens=0))


def rules(**options):
    return Synthesizer({"rules": RuleBasedGenerator()}, **options)


class Scripted:
    """Answers with whatever a function of the input gives; counts its calls."""

    identity = "scripted"

    def __init__(self, answer):
        self.answer, self.payloads, self.messages = answer, [], []

    def complete(self, messages, *, seed, max_tokens, temperature, response_schema=None):
        self.payloads.append(payload_of(messages))
        self.messages.append(messages)
        value = self.answer(self.payloads[-1])
        return Completion(json.dumps(value), 10, 5, "scripted-model")


def test_queries_have_their_passage_and_where_they_come_from(chunks):
    with rules(seed=3) as s:
        rows = query_passages(chunks, s, per_passage=4)
    by_id = {chunk.chunk_id: chunk for chunk in chunks}
    styles = Counter()
    for row in rows:
        (entry,) = provenance_of(row)
        assert entry["step"] == "queries"
        assert (entry["generator"], entry["model"]) == ("rules", "rule-based-1")
        chunk = by_id[row.positive_id]
        title_style = entry["style"] == "title"
        assert row.positive == (chunk.text if title_style else chunk.embedding_text)
        styles[entry["style"]] += 1
    assert set(styles) == {"question", "keywords", "instruction", "title"}
    step = s.report.steps["queries"]
    assert step.asked == 4 * len(chunks)
    assert step.accepted == len(rows) + step.skipped["duplicate row"]


def test_equal_seeds_give_equal_rows_whatever_the_workers(chunks):
    made = []
    for seed, workers in ((0, 1), (0, 7), (1, 1)):
        with rules(seed=seed, workers=workers) as s:
            rows = query_passages(chunks, s, per_passage=2)
            made.append(make_hard_negatives(rows, s, passages=chunks).fingerprint())
    assert made[0] == made[1] != made[2]


def test_a_count_asks_for_no_more(chunks):
    with rules() as s:
        assert len(query_passages(chunks, s, count=3)) == 3
    assert s.report.steps["queries"].asked == 3
    with rules() as s, pytest.raises(EmptyInputError, match="none of 1 passages has 8 words"):
        query_passages(["too short"], s)
    assert s.report.steps["queries"].skipped == {"passage too short": 1}


def test_paraphrases_keep_what_must_stay(chunks):
    rows = [
        Row("How do I bake a loaf?", PAGES["bread"], ("no",), source="qa", positive_id="b#1"),
        Row("If it rains, the shop is closed.", "closing", source="class", label="closing"),
        Row({"text": "a", "image": "b.png"}, "c"),
        Row("Вода кипит при 100 градусах.", "Чайник нагревает воду до 100 градусов."),
    ]
    with rules() as s:
        made = paraphrase(rows, s)
    assert [row.source for row in made] == ["qa", "class"]
    first, second = made
    assert first.anchor == "What is the way to bake a loaf?"
    assert (first.positive_id, first.negatives) == ("b#1", ("no",))
    assert first.positive != rows[0].positive
    assert (second.label, second.positive) == ("closing", "closing")
    assert second.anchor == "The shop is closed if it rains."
    step = s.report.steps["paraphrase"]
    assert step.skipped == {"not a text": 1}
    assert step.dropped == {"declined": 1}


def test_augmentation_takes_a_sibling_and_leaves_labels_alone(chunks):
    with rules() as s:
        rows = query_passages([c for c in chunks if "bread" in c.doc_id], s, styles=["keywords"])
        labelled = Row("a", "b", label="x")
        made = augment([*rows, labelled], s, passages=chunks)
    assert made
    known = {chunk.chunk_id: chunk.doc_id for chunk in chunks}
    for row, seed in zip(made, rows, strict=False):
        assert row.positive_id != seed.positive_id
        assert known[row.positive_id] == known[seed.positive_id]
        assert [entry["step"] for entry in provenance_of(row)] == ["queries", "augment"]
    assert s.report.steps["augment"].skipped["row has a label or score"] == 1


def test_hard_negatives_fill_up_and_differ(chunks):
    with rules() as s:
        rows = query_passages(chunks, s, per_passage=2)
        full = Row("a", "b", ("c", "d"), teacher_scores=(3.0, 2.0, 1.0))
        made = make_hard_negatives([*rows, full], s, count=2, passages=chunks)
    assert len(made) == len(rows) + 1
    assert made[-1] == full
    for before, after in zip(rows, made, strict=False):
        assert (after.anchor, after.positive) == (before.anchor, before.positive)
        assert len({after.anchor, after.positive, *after.negatives}) == 2 + len(after.negatives)
    assert sum(len(row.negatives) == 2 for row in made) > len(rows) // 2
    # A heading must not tell negatives from positives.
    with_heading = [row for row in made if row.positive.startswith("Kettles > ")]
    assert with_heading
    assert all(n.startswith("Kettles") for row in with_heading for n in row.negatives)


def test_the_share_is_drawn_by_row(chunks):
    rows = [Row(f"question {i}", f"The answer is {i} and no other.") for i in range(200)]
    with rules() as s:
        some = make_hard_negatives(rows, s, share=0.3)
        fewer = make_hard_negatives(rows[::-1], s, share=0.3)
    assert 35 <= sum(bool(row.negatives) for row in some) <= 85
    assert [r.negatives for r in some] == [r.negatives for r in fewer[::-1]]


PLANTED = Row(
    "When does the shop open?",
    "The shop in Graz opens at 9 on weekdays, before the market.",
    (
        "On weekdays, before the market, the shop in Graz opens at 9.",
        "The shop in Graz opens at 10 on weekdays, before the market.",
        "The shop in Linz opens at 9 on weekdays, before the market.",
        "The shop in Graz opens at 9 on weekdays, after the market.",
    ),
    teacher_scores=(0.9, 0.8, 0.3, 0.2, 0.1),
)


@pytest.mark.parametrize("action", ["drop", "convert"])
def test_planted_false_negatives_are_found(action):
    with rules() as s:
        done = relabel([Row("x", "y"), PLANTED, Row("x", "z", label="l")], s, action=action)
    word = {"drop": "dropped", "convert": "converted"}[action]
    assert [d.decision for d in done.decisions] == [word, "kept", "kept", "kept"]
    assert done.counts == {"kept": 3, word: 1}
    kept = done.rows[1]
    assert kept.negatives == PLANTED.negatives[1:]
    assert kept.teacher_scores == (0.9, 0.3, 0.2, 0.1)
    assert len(done.rows) == (3 if action == "drop" else 4)
    if action == "convert":
        new = done.rows[2]
        assert (new.anchor, new.positive) == (PLANTED.anchor, PLANTED.negatives[0])
        assert new.negatives == kept.negatives
        assert new.teacher_scores == (0.8, 0.3, 0.2, 0.1)
        assert provenance_of(new)[-1]["converted"] == "0"


def test_what_cannot_be_judged_is_kept():
    judge = Scripted(lambda payload: {"declined": "no idea"})
    with Synthesizer(judge) as s:
        done = relabel([PLANTED], s)
    assert done.rows[0] == PLANTED
    assert done.counts == {"unjudged": 4}
    assert len(judge.payloads) == 4  # declined items are not tried again


@pytest.mark.parametrize("task_type", TASK_TYPES)
def test_tasks_become_rows_of_every_type(task_type):
    languages = ("Spanish", "German") if task_type == "bitext" else None
    with rules() as s:
        tasks = brainstorm_tasks(task_type, s, count=25, languages=languages)
        rows = synthesize_rows(tasks, s, rows_per_task=2)
    assert len({task.description for task in tasks}) == len(tasks) >= (20 if not languages else 15)
    assert len(rows) > len(tasks)
    assert rows.sources == {f"synthetic-{task_type}": len(rows)}
    for row in rows:
        assert len({row.anchor, row.positive, *row.negatives}) == 3
        entry = provenance_of(row)[0]
        assert entry["task"] in {task.description for task in tasks}
        assert entry["task_generator"] == "rules"
        assert (row.label == row.positive) == (task_type == "classification")


def test_tasks_and_rows_may_have_different_generators():
    thinker = Scripted(lambda payload: {"tasks": [f"Find a dish, {payload['batch']}.", "Again."]})
    writer = Scripted(
        lambda p: {"query": f"q {p['number']}", "positive": "Long text.", "hard_negative": "Else."}
    )
    with Synthesizer({"thinker": thinker, "writer": writer}, personas=["A cook."]) as s:
        tasks = brainstorm_tasks("short-long", s, count=40, generators=["thinker"])
        rows = synthesize_rows(tasks, s, rows_per_task=2, generators=["writer"])
    assert [t.description for t in tasks] == ["Find a dish, 0.", "Again.", "Find a dish, 1."]
    assert s.report.steps["brainstorm"].skipped == {"duplicate task": 1}
    assert {p["step"] for p in thinker.payloads} == {"brainstorm"}
    assert {p["step"] for p in writer.payloads} == {"rows"}
    assert "Write as this person: A cook." in writer.messages[0][0].content
    assert {provenance_of(row)[0]["generator"] for row in rows} == {"writer"}
    with Synthesizer(thinker) as s, pytest.raises(UnknownNameError, match="Did you mean"):
        brainstorm_tasks("short-long", s, generators=["scriptd"])


def test_a_mixture_gives_every_generator_the_same_share():
    names = ["a", "b", "c"]
    made = {n: Scripted(lambda p: {"query": f"what about {p['passage'][:2]}"}) for n in names}
    passages = [
        f"{i:02d} is a number that has two digits, a first one and a last." for i in range(30)
    ]
    with Synthesizer(made) as s:
        query_passages(passages, s, styles=["question"])
    assert [len(made[n].payloads) for n in names] == [10, 10, 10]


def test_nothing_is_asked_twice(tmp_path, chunks):
    first = Scripted(lambda p: {"query": "what is said of " + " ".join(p["passage"].split()[:3])})
    with Synthesizer(first, ledger=tmp_path / "ledger.jsonl") as s:
        rows = query_passages([*chunks, chunks[0]], s, styles=["question"])
    assert len(first.payloads) == len(chunks)
    assert len(rows) == len(chunks)
    second = Scripted(first.answer)
    with Synthesizer(second, ledger=tmp_path / "ledger.jsonl") as s:
        again = query_passages([*chunks, chunks[0]], s, styles=["question"])
        assert s.report.calls_now == 0
        assert s.report.steps["queries"].from_ledger == len(chunks)
        query_passages(chunks, s, styles=["title"])
    assert again.fingerprint() == rows.fingerprint()
    assert {p["style"] for p in second.payloads} == {"title"}
    with Synthesizer(Scripted(first.answer), ledger=tmp_path / "ledger.jsonl", seed=1) as s:
        query_passages(chunks, s, styles=["question"])
        assert s.report.calls_now == len(chunks)  # another seed, other answers


def test_dropped_items_are_asked_again_only_with_more_attempts(tmp_path):
    path, passage = tmp_path / "ledger.jsonl", "A passage of eight words or more, as asked for."
    for attempts, calls in ((2, 2), (2, 0), (3, 3)):
        bad = Scripted(lambda payload: {"query": passage})
        with Synthesizer(bad, ledger=path, max_attempts=attempts) as s:
            assert len(query_passages([passage], s, styles=["question"])) == 0
        assert s.report.dropped == {"equal to the seed": 1}
        assert len(bad.payloads) == calls


def test_damaged_ledgers(tmp_path):
    path = tmp_path / "ledger.jsonl"
    passage = "A passage of eight words or more, as asked for."
    with rules(ledger=path) as s:
        query_passages([passage], s)
        with pytest.raises(InputError, match="another process"):
            rules(ledger=path)
    whole = path.read_bytes()
    for size in range(0, len(whole), 7):
        path.write_bytes(whole[:size])
        with rules(ledger=path) as s:
            query_passages([passage], s)
        assert s.report.calls_now == 1
        assert s.report.repaired == (0 if whole[:size].endswith(b"\n") else len(whole[:size]) - (
            whole[:size].rfind(b"\n") + 1))  # fmt: skip
        assert len(path.read_bytes().splitlines()) == 2
    header, line, _ = whole.split(b"\n")
    path.write_bytes(b"\n".join([header, line[:50], line, b""]))
    with pytest.raises(FormatError, match="line 2 is damaged"):
        rules(ledger=path)
    path.write_text('{"some": "other file"}\n')
    with pytest.raises(FormatError, match="not a ledger"):
        rules(ledger=path)


def test_mistakes_are_named():
    with pytest.raises(InputError, match="no generator"):
        Synthesizer({})
    with pytest.raises(InputError, match="persona is empty"):
        rules(personas=[" "])
    with pytest.raises(InputError, match="workers"):
        rules(workers=0)
    with pytest.raises(UnknownNameError, match="Did you mean 'rules'"):
        rules(prices={"rule": (1, 1)})
    with pytest.raises(InputError, match="two different languages"):
        SynthesisTask("bitext", "x", languages=("German", "German"))
    with pytest.raises(UnknownNameError, match="short-long"):
        SynthesisTask("short-lon", "x")
    with rules() as s:
        with pytest.raises(UnknownNameError, match="'question'"):
            query_passages(["a b"], s, styles=["questions"])
        with pytest.raises(InputError, match="styles must be a list"):
            query_passages(["a b"], s, styles="question")
        with pytest.raises(InputError, match="a passage must be"):
            query_passages([3], s)
        with pytest.raises(EmptyInputError, match="no tasks"):
            synthesize_rows([], s)
        with pytest.raises(UnknownNameError, match="action"):
            relabel([PLANTED], s, action="delete")


def test_a_pipeline_writes_its_folder_and_runs_again_for_nothing(folder, tmp_path):
    settings = SynthesisSettings.from_dict(
        {
            "documents": str(folder),
            "max_passage_tokens": 60,
            "steps": [
                {"step": "queries", "per_passage": 4},
                {"step": "tasks", "task_types": ["sts", "classification"], "tasks_per_type": 4},
                {"step": "paraphrase"},
                {"step": "augment"},
                {"step": "hard-negatives", "count": 2},
                {"step": "relabel", "action": "convert"},
            ],
        }
    )
    assert SynthesisSettings.from_dict(settings.to_dict()) == settings
    result = run_synthesis(settings, tmp_path / "out")
    rows = RowSet.load(tmp_path / "out" / "rows.parquet")
    assert list(rows) == list(result.rows)
    assert {"synthetic-queries", "synthetic-sts", "synthetic-classification"} == set(rows.sources)
    assert SynthesisSettings.from_yaml(tmp_path / "out" / "settings.yaml") == settings
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["rows"] == len(rows)
    assert report["fingerprint"] == rows.fingerprint()
    assert report["reading"]["documents"] == 3
    steps = ["queries", "brainstorm", "rows", "paraphrase", "augment", "hard-negatives", "relabel"]
    assert list(report["steps"]) == steps
    decisions = (tmp_path / "out" / "decisions.jsonl").read_text().splitlines()
    assert len(decisions) == len(result.decisions) > 0
    assert {"row", "negative", "decision", "reason", "generator"} == json.loads(decisions[0]).keys()
    again = run_synthesis(settings, tmp_path / "out", resume=True)
    assert again.rows.fingerprint() == rows.fingerprint()
    assert again.report.calls_now == 0
    with pytest.raises(InputError, match="earlier run"):
        run_synthesis(settings, tmp_path / "out")


def test_a_pipeline_over_rows(tmp_path):
    seeds = RowSet([Row("How do I open a valve?", "If the valve sticks, you can use some oil.")])
    seeds.save(tmp_path / "seeds.parquet")
    settings = SynthesisSettings.from_dict(
        {"rows": str(tmp_path / "seeds.parquet"),
         "steps": [{"step": "paraphrase"}, {"step": "queries", "styles": ["question"]}]}
    )  # fmt: skip
    result = run_synthesis(settings, tmp_path / "out")
    assert result.rows[0] == seeds[0]
    assert result.rows.sources == {"default": 2, "synthetic-queries": 2}
    own = Scripted(lambda payload: {"declined": "no"})
    result = run_synthesis(settings, tmp_path / "own", generators={"rules": own})
    assert list(result.rows) == list(seeds)
    with pytest.raises(UnknownNameError, match="'rules'"):
        run_synthesis(settings, tmp_path / "other", generators={"rulez": own})


def test_an_empty_result_says_why(tmp_path):
    (tmp_path / "a.md").write_text(CYRILLIC, encoding="utf-8")
    settings = SynthesisSettings.from_dict(
        {
            "documents": str(tmp_path / "a.md"),
            "steps": [{"step": "queries", "styles": ["question"]}],
        }
    )
    with pytest.raises(EmptyInputError, match=r"(?s)no row.*declined 1.*ledger\.jsonl"):
        run_synthesis(settings, tmp_path / "out")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": [{"step": "querys"}]}, "Did you mean 'queries'"),
        ({"steps": [{"step": "queries", "per_pasage": 2}]}, "Did you mean 'per_passage'"),
        ({"steps": [{"step": "queries", "styles": ["titel"]}]}, "Did you mean 'title'"),
        ({"steps": [{"per_passage": 2}]}, "key 'step'"),
        ({"steps": []}, "at least 1"),
        ({"steps": [{"step": "relabel", "action": "keep"}]}, "'drop' or 'convert'"),
        ({"generators": {"a": {"kind": "openai"}}}, "base_url and model"),
        ({"generators": {"a": {"base_ur": "x"}}}, "Did you mean 'base_url'"),
        ({"generators": {"a": {"model": "x"}}}, "belong to kind openai"),
        ({"steps": [{"step": "queries", "generators": ["rulez"]}]}, "Did you mean 'rules'"),
        ({"documents": None}, "no source"),
        ({"steps": [{"step": "paraphrase"}]}, "'queries', which is missing"),
        ({"workerz": 3}, "Did you mean 'workers'"),
        ({"steps": [{"step": "tasks", "task_types": ["bitext"]}]}, "two different languages"),
    ],
)
def test_misspelt_settings_get_a_hint(values, message):
    with pytest.raises(SettingsError, match=message):
        SynthesisSettings.from_dict({"documents": "docs", **values})


def test_the_order_of_passages_depends_on_the_seed():
    passages = [Passage(f"Passage {i} speaks of thing number {i} at length.") for i in range(20)]
    made = []
    for seed in (0, 1):
        with rules(seed=seed) as s:
            made.append([row.positive for row in query_passages(passages, s, count=10)])
    assert made[0] != made[1]
    assert len(set(made[0])) == len(made[0]) > 5
