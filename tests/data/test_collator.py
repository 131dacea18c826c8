from __future__ import annotations

import json

import pytest

pytest.importorskip("sentence_transformers")

import torch

from embedworks.data import Row, RowCollator, RowSet, content_key
from embedworks.data.templates import FewShotTemplate, TaskPrompt, TaskPrompts
from embedworks.errors import InputError, UnknownNameError
from embedworks.training import ModelSettings

ROWS = RowSet(
    [
        Row("q0", "d0", ("n0", "n1"), source="qa", positive_id="x", teacher_scores=(3, 2, 1)),
        Row("q1", "d1", ("n2",), source="qa", positive_id="y", teacher_scores=(5, 4)),
        Row("c0", "c1", ("c2",), source="cls", label="a"),
        Row("c2", "c3", ("c0", "new"), source="cls", label="b"),
        Row("s0", "s1", source="sts", score=0.5),
        Row("s2", "s3", source="sts", score=1.0),
    ]
)


class Recorder:
    """Keeps the texts of every call; ids are character codes, padded to the longest."""

    def __init__(self):
        self.calls = []

    def __call__(self, inputs, **options):
        self.calls.append((list(inputs), options))
        texts = [i if isinstance(i, str) else i["text"] for i in inputs]
        width = max(map(len, texts))
        ids = torch.tensor([[ord(c) for c in t] + [0] * (width - len(t)) for t in texts])
        return {"input_ids": ids, "attention_mask": (ids > 0).long()}


def collate(places, **options):
    recorder = Recorder()
    collator = RowCollator(ROWS, recorder, **options)
    return collator, collator([{"row": place} for place in places]), recorder


def test_columns_and_facts():
    collator, batch, recorder = collate([0, 1, 3])
    assert collator.sources == ("qa", "cls", "sts")
    assert [inputs for inputs, _ in recorder.calls] == [
        ["q0", "q1", "c2"], ["d0", "d1", "c3"], ["n0", "n2", "c0"], ["n1", "q1", "new"],
    ]  # fmt: skip
    assert batch["anchor_row_source"].tolist() == [0, 0, 1]
    assert batch["anchor_row_id"].tolist() == [0, 1, -1]
    assert batch["anchor_row_class"].tolist() == [-1, -1, 1]
    assert batch["negative_1_row_present"].tolist() == [True] * 3
    assert batch["negative_2_row_present"].tolist() == [True, False, True]
    # "c0" stands in a row of class a; "new" stands nowhere else.
    assert batch["negative_1_row_negative_class"].tolist() == [-1, -1, 0]
    assert batch["negative_2_row_negative_class"].tolist() == [-1, -1, -1]
    keys = [content_key(text) for text in ("n1", "q1", "new")]
    assert batch["negative_2_row_key"].tolist() == keys
    assert "anchor_row_teacher_scores" not in batch
    assert "label" not in batch


def test_missing_negatives_are_masked_or_repeated():
    _, batch, _ = collate([0, 1])
    assert batch["anchor_row_teacher_scores"].tolist() == [[3, 2, 1], [5, 4, 4]]
    _, batch, recorder = collate([0, 1], missing="resample", negatives=3)
    assert [inputs for inputs, _ in recorder.calls[2:]] == [
        ["n0", "n2"], ["n1", "n2"], ["n0", "n2"]
    ]  # fmt: skip
    assert all(batch[f"negative_{n}_row_present"].all() for n in (1, 2, 3))
    _, batch, recorder = collate([0], negatives=1)
    assert len(recorder.calls) == 3


def test_groups_have_numbers_of_negatives_of_their_own():
    groups = {"qa": "a", "cls": "a", "sts": "order"}
    collator, batch, recorder = collate([4, 5], groups=groups)
    assert collator.counts == {"a": 2, "order": 0}
    assert len(recorder.calls) == 2
    assert batch["label"].tolist() == [0.5, 1.0]


def test_asking_for_negatives_that_are_not_there():
    groups = {"qa": "a", "cls": "a", "sts": "order"}
    with pytest.raises(InputError, match="no row of 'order' has any"):
        collate([4], groups=groups, negatives={"order": 2})
    with pytest.raises(UnknownNameError, match="Did you mean 'order'"):
        collate([4], groups=groups, negatives={"oder": 2})
    with pytest.raises(InputError, match="0 or greater"):
        collate([0], negatives=-1)
    with pytest.raises(UnknownNameError, match="missing"):
        collate([0], missing="msk")


def test_every_row_gets_the_prompt_of_its_own_source():
    prompts = TaskPrompts(
        {"qa": TaskPrompt("ask"), "cls": TaskPrompt("sort", symmetric=True)},
        TaskPrompt(template="plain"),
    )
    _, batch, recorder = collate([0, 2, 4], prompts=prompts)
    anchors, positives = recorder.calls[0][0], recorder.calls[1][0]
    assert anchors == ["Instruct: ask\nQuery: q0", "Instruct: sort\nQuery: c0", "s0"]
    assert positives == ["d0", "Instruct: sort\nQuery: c1", "s1"]
    # Keys are those of the texts themselves, with or without a prompt.
    assert batch["anchor_row_key"].tolist() == [content_key(t) for t in ("q0", "c0", "s0")]
    with pytest.raises(UnknownNameError, match="has no prompt"):
        collate([0], prompts=TaskPrompts({"qa": TaskPrompt("ask")}))


def test_drawn_examples_depend_on_the_batch_alone():
    prompts = TaskPrompts({"qa": FewShotTemplate("ask")}, TaskPrompt(template="plain"))
    rows = RowSet(Row(f"question {i}", f"answer {i}", source="qa") for i in range(12))

    def shown(places, seed=0):
        recorder = Recorder()
        collator = RowCollator(
            rows,
            recorder,
            prompts=prompts,
            drawn_examples={"qa": 2},
            count_tokens=lambda text: len(text.split()),
            seed=seed,
        )
        collator([{"row": place} for place in places])
        return recorder.calls[0][0]

    texts = shown(range(8))
    assert texts == shown(range(8))
    assert texts != shown(range(8), seed=1)
    assert any("Response: answer" in text for text in texts)
    for place, text in enumerate(texts):
        assert text.endswith(f"Query: question {place}")
        assert f"answer {place}\n" not in text


def test_a_query_is_never_lost_behind_its_examples():
    """Examples are shortened to the room there is; the query stays."""
    settings = ModelSettings(
        max_query_tokens=26, prompts={"qa": {"instruction": "ask", "drawn_examples": 3}}
    )
    rows = RowSet(
        Row(f"query {i} " + "word " * 40, f"answer {i} " + "text " * 60, source="qa")
        for i in range(8)
    )
    recorder = Recorder()
    collator = RowCollator(
        rows,
        recorder,
        prompts=settings.task_prompts(),
        drawn_examples={"qa": 3},
        count_tokens=lambda text: len(text.split()),
    )
    collator([{"row": place} for place in range(8)])
    for place, text in enumerate(recorder.calls[0][0]):
        assert len(text.split()) <= 24
        assert f"query {place}" in text.rsplit("Query: ", 1)[1]
    assert any("Response:" in text for text in recorder.calls[0][0])


def test_dict_inputs_are_passed_on_as_they_are():
    rows = RowSet(
        [
            Row({"text": "a", "image": "1.png"}, {"text": "b"}, ({"text": "c"},)),
            Row({"text": "d"}, {"text": "e"}),
        ]
    )
    recorder = Recorder()
    batch = RowCollator(rows, recorder)([{"row": 0}, {"row": 1}])
    assert recorder.calls[0][0] == [{"text": "a", "image": "1.png"}, {"text": "d"}]
    assert recorder.calls[2][0] == [{"text": "c"}, {"text": "e"}]
    assert batch["negative_1_row_present"].tolist() == [True, False]


def test_anchors_may_have_a_limit_of_their_own():
    _, _, recorder = collate([0], max_query_tokens=5)
    assert [options for _, options in recorder.calls] == [{"max_length": 5}, {}, {}, {}]


def test_it_works_in_the_plain_trainer(transformer_folder, tmp_path):
    """The floor: our loss, batches and collator inside sentence-transformers' own trainer."""
    import datasets
    from sentence_transformers import (
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )

    from embedworks.data import BatchPlan, BatchSettings, PlanSampler
    from embedworks.losses import ContrastiveLoss
    from embedworks.models import load
    from embedworks.training import JournalCallback, ObjectiveCallback

    rows = RowSet(
        Row(f"read file {i}", f"open archive {i}", (f"close {i}",) * (i % 2)) for i in range(24)
    )
    model = load(transformer_folder)
    loss = ContrastiveLoss(model, "peg", mini_batch_tokens=64)
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(tmp_path),
        max_steps=6,
        learning_rate=1e-3,
        batch_sampler=PlanSampler(BatchPlan(rows, BatchSettings(batch_size=8))),
        report_to=[],
        save_strategy="no",
        logging_steps=3,
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    trainer = SentenceTransformerTrainer(
        model=model,
        args=arguments,
        train_dataset=datasets.Dataset.from_dict({"row": range(len(rows))}),
        loss=loss,
        data_collator=RowCollator(rows, model.preprocess),
        callbacks=[ObjectiveCallback(loss), JournalCallback(tmp_path / "log.jsonl")],
    )
    trainer.train()
    logged = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert {"probability", "alone", "temperature"} <= set(logged[0])
    assert loss.progress == pytest.approx(5 / 6)


def test_drawn_examples_that_cannot_fit_are_left_out_and_counted():
    settings = ModelSettings(
        max_query_tokens=26,
        prompts={"qa": {"instruction": "ask " * 12, "drawn_examples": 2}},
    )
    rows = RowSet(Row(f"query {i}", f"answer {i} " + "text " * 9, source="qa") for i in range(4))
    recorder = Recorder()
    collator = RowCollator(
        rows,
        recorder,
        prompts=settings.task_prompts(),
        drawn_examples={"qa": 2},
        count_tokens=lambda text: len(text.split()),
    )
    collator([{"row": place} for place in range(4)])
    assert 0 < collator.without_examples <= 4  # some rows may have drawn none
    assert all("Response:" not in text for text in recorder.calls[0][0])
