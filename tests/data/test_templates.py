import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedworks.data.rows import Row
from embedworks.data.templates import (
    TEMPLATES,
    Example,
    FewShotLimits,
    FewShotTemplate,
    InstructionTemplate,
    TaskPrompt,
    TaskPrompts,
    draw_examples,
)
from embedworks.errors import BudgetError, InputError, SettingsError, UnknownNameError


def count(text):
    return len(text.split())


def cut(text, tokens):
    return " ".join(text.split()[:tokens])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("nv-embed", "Instruct: do it\nQuery: text"),
        ("nemotron", "Instruct: do it\nQuery: text"),
        ("lg-anna", "Instruct: do it\nQuery: text"),
        ("kalm", "Instruct: do it \n Query: text"),
        ("qzhou", "Instruct: do it\nQuery:text"),
        ("plain", "text"),
    ],
)
def test_published_spellings(name, expected):
    template = TEMPLATES[name]
    formatted = template.format("text", "do it")
    assert formatted.text == expected
    assert formatted.text[formatted.prefix[1] :] == "text"
    assert template.format("text", "do it", side="document").text == "text"
    assert not template.symmetric


@given(text=st.text(), instruction=st.text(min_size=1).filter(str.strip))
def test_texts_are_taken_as_they_are(text, instruction):
    formatted = InstructionTemplate(symmetric=True).format(text, instruction, "document")
    start, stop = formatted.prefix
    assert (start, formatted.text[stop:]) == (0, text)
    assert formatted.text[:stop] == f"Instruct: {instruction}\nQuery: "


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"query": "no text"}, "must end with its only"),
        ({"query": "{text} after"}, "must end with its only"),
        ({"document": "{text}{text}"}, "must end with its only"),
        ({"query": "{task} {text}"}, "{task} means nothing"),
        ({"qeury": "{text}"}, "Did you mean 'query'"),
    ],
)
def test_unusable_templates_are_refused(values, message):
    with pytest.raises(SettingsError, match=message):
        InstructionTemplate.from_dict(values)


def test_a_missing_instruction_is_noticed_early():
    with pytest.raises(InputError, match="needs an instruction"):
        TaskPrompt(" ")
    with pytest.raises(UnknownNameError, match="Did you mean 'qzhou'"):
        TaskPrompt("x", "qzhu")
    with pytest.raises(UnknownNameError, match="side"):
        TaskPrompt("x").format("y", "documents")


EXAMPLES = (Example("one", "first"), Example("two", "second"), Example("three", "third"))
SHOTS = FewShotTemplate("Name it", examples=EXAMPLES, limits=FewShotLimits(2, 2, 40, 8))


def test_examples_come_before_the_instruction():
    formatted = SHOTS.format_query("four", count_tokens=count)
    assert formatted.text == (
        "Instruct: Name it\nQuery: one\nResponse: first\n\n"
        "Instruct: Name it\nQuery: two\nResponse: second\n\n"
        "Instruct: Name it\nQuery: three\nResponse: third\n\n"
        "Instruct: Name it\nQuery: four"
    )
    assert formatted.text[formatted.prefix[1] :] == "four"
    assert (formatted.truncated, formatted.examples_left_out) == (False, 0)
    two = FewShotTemplate("Name it", examples=EXAMPLES, k=1).format_query("x", count_tokens=count)
    assert two.text.count("Response") == 1
    none = SHOTS.format_query("four", count_tokens=count, examples=())
    assert none.text == "Instruct: Name it\nQuery: four"


@settings(max_examples=100, deadline=None)
@given(
    words=st.integers(1, 60), lengths=st.lists(st.integers(1, 12), max_size=5),
    total=st.integers(24, 80), least=st.integers(1, 8),
)  # fmt: skip
def test_the_budget_is_kept(words, lengths, total, least):
    examples = tuple(Example(f"e{i} " * n, f"r{i} " * n) for i, n in enumerate(lengths))
    limits = FewShotLimits(query=4, response=3, total=total, min_query_tokens=least)
    prompt = FewShotTemplate("do", examples=examples, limits=limits)
    query = " ".join(f"w{i}" for i in range(words))
    formatted = prompt.format_query(query, count_tokens=count, truncate=cut)
    assert count(formatted.text) <= total
    shown = formatted.text[formatted.prefix[1] :]
    assert query.startswith(shown)
    assert count(shown) >= min(words, least)
    assert formatted.truncated == (shown != query)
    used = formatted.text.count("Response:")
    assert used + formatted.examples_left_out == len(lengths)
    longest = max([min(n, 4) + min(n, 3) for n in lengths], default=0)
    if formatted.examples_left_out:  # one more would not have fitted
        assert count(formatted.text[: formatted.prefix[1]]) + 4 + longest > total - least
    assert "e0 e0 e0 e0 e0" not in formatted.text


def test_budgets_that_cannot_be_kept_name_the_tokens():
    tight = FewShotTemplate("Name it", examples=EXAMPLES, limits=FewShotLimits(2, 2, 12, 8))
    with pytest.raises(BudgetError, match=r"takes 4 tokens and with the first example 11.*is 4 "):
        tight.format_query("x", count_tokens=count)
    long = FewShotTemplate("a " * 30, limits=FewShotLimits(2, 2, 20, 8))
    with pytest.raises(BudgetError, match="takes 32 tokens, the budget of a prefix is 12"):
        long.format_query("x", count_tokens=count)
    with pytest.raises(BudgetError, match="13 tokens too many: 49, and 36 are left"):
        SHOTS.format_query("x " * 49, count_tokens=count, examples=())
    with pytest.raises(BudgetError, match="example's query has 3 tokens, 2 are allowed"):
        SHOTS.format_query("x", count_tokens=count, examples=[Example("a b c", "d")])
    with pytest.raises(InputError, match="leaves no room"):
        FewShotLimits(total=100, min_query_tokens=100)


def test_an_example_that_is_the_query_is_a_leak():
    with pytest.raises(InputError, match="example 1 is the query itself"):
        SHOTS.format_query(" TWO ", count_tokens=count)
    with pytest.raises(InputError, match="needs a query and a response"):
        Example("a", " ")
    with pytest.raises(InputError, match="between 0 and 3"):
        FewShotTemplate("x", examples=EXAMPLES, k=4)


def test_examples_are_drawn_from_the_other_rows_of_a_source():
    rows = [Row(f"q{i}", f"a{i}", source="xy"[i % 2]) for i in range(16)]
    rows += [Row("Q0", "other"), Row({"image": "i"}, "b", source="x")]
    counts = Counter()
    for step in range(300):
        drawn = draw_examples(rows, seed=1, step=step)
        counts[len(drawn[0])] += 1
        for row, examples in zip(rows, drawn, strict=True):
            queries = [e.query for e in examples]
            assert len(set(queries)) == len(queries) <= 5
            assert row.anchor not in queries
            for example in examples:
                assert Row(example.query, example.response, source=row.source) in rows
    assert set(counts) == {0, 1, 2, 3, 4, 5}
    assert min(counts.values()) > 25
    assert draw_examples(rows, seed=1, step=2) == draw_examples(rows, seed=1, step=2)
    assert draw_examples(rows, seed=1, step=2) != draw_examples(rows, seed=2, step=2)
    assert draw_examples(rows, max_examples=0) == [()] * len(rows)


def test_examples_do_not_give_the_answer_away():
    rows = [Row("why", "x"), Row(" WHY", "x"), Row("how", "d", positive_id="1")]
    rows.append(Row("where", "d", positive_id="1"))
    for step in range(50):
        first, _, third, _ = draw_examples(rows, step=step)
        assert {e.query for e in first} <= {"how", "where"}
        assert {e.query for e in third} <= {"why", " WHY"}
        assert len({e.query.strip().lower() for e in third}) == len(third)


PROMPTS = TaskPrompts(
    {
        "qa": TaskPrompt("Find it", "qzhou"),
        "sts": TaskPrompt("Similar", symmetric=True),
        "shots": SHOTS,
    }
)


def test_every_source_has_its_prompt():
    row = Row("a", {"text": "b", "image": "i"}, ("c", {"image": "j"}), source="qa", score=1.0)
    done = PROMPTS.apply_with_spans(row)
    assert done.row.anchor == "Instruct: Find it\nQuery:a"
    assert done.row.positive == row.positive
    assert done.row.negatives == row.negatives
    assert done.row.score == 1.0
    assert done.anchor_prefix == (0, len("Instruct: Find it\nQuery:"))
    assert done.positive_prefix == (0, 0)
    both = PROMPTS.apply(Row({"text": "a"}, "b", ("c",), source="sts"))
    assert both.anchor == {"text": "Instruct: Similar\nQuery: a"}
    assert (both.positive, both.negatives[0]) == (
        "Instruct: Similar\nQuery: b", "Instruct: Similar\nQuery: c",
    )  # fmt: skip
    shots = PROMPTS.apply_with_spans(Row("four", "b", source="shots"), count_tokens=count)
    assert shots.row.anchor[shots.anchor_prefix[1] :] == "four"
    assert shots.row.positive == "b"
    with pytest.raises(InputError, match="needs count_tokens"):
        PROMPTS.apply(Row("a", "b", source="shots"))
    with pytest.raises(InputError, match="takes no examples"):
        PROMPTS.apply(row, examples=EXAMPLES)
    with pytest.raises(UnknownNameError, match="source 'stss' has no prompt. Did you mean 'sts'"):
        PROMPTS.apply(Row("a", "b", source="stss"))


def test_prompts_survive_json():
    again = TaskPrompts.from_dict(json.loads(json.dumps(PROMPTS.to_dict())))
    assert again.to_dict() == PROMPTS.to_dict()
    row = Row("four", "b", source="shots")
    for source in ("qa", "sts", "shots"):
        row = Row("four", "b", source=source)
        assert again.apply(row, count_tokens=count) == PROMPTS.apply(row, count_tokens=count)
    named = TaskPrompts.from_dict(
        {"prompts": {}, "default": {"instruction": "x", "template": "kalm"}}
    )
    assert named.apply(Row("a", "b")).anchor == "Instruct: x \n Query: a"
    for values, message in [
        ({"prompts": {"a": {"instrution": "x"}}}, "Did you mean 'instruction'"),
        ({"prompt": {}}, "Did you mean 'prompts'"),
        ({}, "'prompts'"),
        ({"prompts": {"a": "x"}}, "needs a mapping"),
        ({"prompts": {"a": {"instruction": "x", "examples": [{"q": "a"}]}}}, "Example: 'q'"),
    ]:
        with pytest.raises(SettingsError, match=message):
            TaskPrompts.from_dict(values)
