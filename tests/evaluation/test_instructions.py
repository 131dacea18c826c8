"""The instruction gap: three runs alike but for what stands before the query."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedworks.data import TEMPLATES, InstructionTemplate
from embedworks.errors import EmptyInputError, InputError
from embedworks.evaluation import (
    EncoderSystem,
    LexicalSystem,
    Resampling,
    StsTask,
    instruction_gap,
    random_prefix,
    reasoning_set,
)

QUICK = Resampling(n_resamples=100)


class Obedient:
    """Finds the answer only where the text begins with the magic word."""

    def __init__(self, examples):
        texts = list(dict.fromkeys(text for x in examples for text in x.options))
        self.rows = {text: row for row, text in enumerate(texts)}
        self.answer = {x.question: x.right[0] for x in examples}
        self.seen = []

    def encode(self, texts, **options):
        self.seen += texts
        vectors = np.full((len(texts), len(self.rows)), 0.01, dtype=np.float32)
        for row, text in enumerate(texts):
            if text in self.rows:
                vectors[row, self.rows[text]] = 1
            elif text.startswith("Magic: "):
                vectors[row, self.rows[self.answer[text.removeprefix("Magic: ").strip()]]] = 1
        return vectors


@pytest.fixture(scope="module")
def made():
    return reasoning_set("coreference", train=1, test=40, seed=2)


@pytest.mark.parametrize("pool", ["all", "own"])
def test_what_only_the_instruction_does_is_found(made, pool):
    model = Obedient((*made.train, *made.test))
    system = EncoderSystem(model, name="obedient")
    task = made.task(pool)
    gap = instruction_gap(task, system, instruction="Magic:", template="prepend", resampling=QUICK)
    assert gap.with_instruction.interval.mean == 1.0
    assert gap.effect.mean == gap.over_random.mean > 0.3
    assert gap.effect.low > 0
    assert gap.shift.mean == 0.0
    assert len(gap.random) == 3
    assert "helps" in gap.sentence()
    assert json.loads(json.dumps(gap.to_dict()))["effect"]["mean"] == gap.effect.mean
    assert task.instruction == made.instruction
    assert system.template == TEMPLATES["plain"]
    assert {text for text in model.seen if text.startswith("Magic: ")} == {
        f"Magic: {x.question}" for x in made.test
    }


def test_similarity_tasks_are_paired_by_resample(static_folder):
    from embedworks.models import StaticModel

    model = StaticModel.from_pretrained(static_folder)
    pairs = [("read the file", "read a file", 5.0), ("read the file", "sum of numbers", 0.0),
             ("a list of words", "a list of files", 3.0), ("sum", "a sum", 4.0)]  # fmt: skip
    system = EncoderSystem(model, name="static", template="prepend")
    gap = instruction_gap(
        StsTask("pairs", pairs, instruction="Find a file."), system, draws=2, resampling=QUICK
    )
    assert gap.metric == "spearman"
    assert gap.effect.mean == pytest.approx(
        gap.with_instruction.interval.mean - gap.without.interval.mean
    )
    assert gap.with_random.replicates


def test_seeds_decide_the_random_words():
    text = "Given a question, find the answer."
    assert random_prefix(text, seed=1) == random_prefix(text, seed=1)
    assert len({random_prefix(text, seed=seed) for seed in range(5)}) == 5


@given(st.lists(st.sampled_from(["Given", "the", "question,", "(find", "answer).", "it", "--"]),
                min_size=1, max_size=9), st.integers(0, 99))  # fmt: skip
def test_random_words_are_as_many_and_as_long(words, seed):
    drawn = random_prefix(" ".join(words), seed=seed).split()
    assert len(drawn) == len(words)
    for old, new in zip(words, drawn):
        assert abs(len(new) - len(old)) <= 1
        core = old.strip(",().-")
        assert not core or new.strip(",().-").casefold() != core.casefold()


def test_what_cannot_be_told_is_refused(made):
    system = EncoderSystem(Obedient(made.test), name="x")
    with pytest.raises(InputError, match="leaves instructions out"):
        instruction_gap(made.task(), system)
    with pytest.raises(InputError, match="leaves instructions out"):
        instruction_gap(made.task(), system, template=InstructionTemplate("query: {text}"))
    with pytest.raises(InputError, match="puts no instructions"):
        instruction_gap(made.task(), LexicalSystem(), template="prepend")
    with pytest.raises(InputError, match="has no instruction"):
        instruction_gap(StsTask("x", [("a", "b", 1), ("a", "c", 0)]), system, template="prepend")
    with pytest.raises(InputError, match="draws"):
        instruction_gap(made.task(), system, template="prepend", draws=0)
    with pytest.raises(EmptyInputError):
        random_prefix("  ")


def test_new_spellings():
    spelled = {name: TEMPLATES[name].format("text", "do it").text for name in TEMPLATES}
    assert spelled["prepend"] == "do it text"
    assert spelled["bge"] == "do ittext"
    assert spelled["e5-instruct"] == "Instruct: do it\nQuery: text"
