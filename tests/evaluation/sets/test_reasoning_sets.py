"""Generated reasoning sets: exact answers, and parts that share nothing."""

from __future__ import annotations

import ast
import calendar
import re

import pytest

from embedworks.errors import InputError, UnknownNameError
from embedworks.evaluation import REASONING_SETS, reasoning_set
from embedworks.evaluation.sets._stdlib_functions import operator_mutants, stdlib_functions
from embedworks.evaluation.sets.reasoning_sets import _Maker, _take

TEMPLATES = [name for name in REASONING_SETS if name != "code-mutants"]
MONTHS = calendar.month_name[1:]
NUMBERS = ["two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven"]


@pytest.fixture(scope="module")
def code():
    return reasoning_set("code-mutants", train=5, test=20, seed=1)


@pytest.mark.parametrize("name", TEMPLATES)
def test_parts_share_no_question_and_repeat_exactly(name):
    made = reasoning_set(name, train=80, test=60, seed=3)
    again = reasoning_set(name, train=80, test=60, seed=3)
    assert made == again
    assert made != reasoning_set(name, train=80, test=60, seed=4)
    questions = [x.question.casefold() for x in (*made.train, *made.test)]
    assert len(set(questions)) == 140
    assert all(len(x.answers) == 1 and len(set(x.options)) == len(x.options) for x in made.test)
    assert reasoning_set(name, train=0, test=60, seed=3).test == made.test
    places = {x.answers[0] for x in made.test}
    assert len(places) > 1
    assert made.task("all").corpus.keys() >= made.task("own").corpus.keys()
    assert made.task("own", part="train").candidates.keys() == {x.id for x in made.train}


def test_months_are_right():
    for x in reasoning_set("months", train=1, test=100, seed=0).test:
        count = re.search(r"(\w+) months", x.question)[1]
        month, year = re.search(rf"({'|'.join(MONTHS)}) (\d+)", x.question).groups()
        step = NUMBERS.index(count) + 2 if count in NUMBERS else int(count)
        forward = "after" in x.question or "later" in x.question
        total = 12 * int(year) + MONTHS.index(month) + (step if forward else -step)
        assert x.right == (f"{MONTHS[total % 12]} {total // 12}",)


def test_places_are_right():
    for x in reasoning_set("spatial", train=1, test=100, seed=0).test:
        *told, asked = re.split(r"\. ", x.question)
        after = {}
        for sentence in told:
            left, right = re.split(r" is just (?:left|right) of ", sentence.lower())
            if " right of " in sentence:
                left, right = right, left
            after[left] = right
        first = next(iter(set(after) - set(after.values())))
        row = [first]
        while row[-1] in after:
            row.append(after[row[-1]])
        named = [thing for thing in row if thing in asked.lower()]
        if "furthest" in asked:
            want = row[0] if "left" in asked else row[-1]
        elif "just left" in asked:
            want = row[row.index(named[0]) - 1]
        else:
            want = row[row.index(named[0]) + 2]
        assert x.right == (want,)


def test_sums_are_right():
    for x in reasoning_set("sums", train=1, test=100, seed=0).test:
        a, b, *c = map(int, re.findall(r"\d+", x.question))
        if "boxes" in x.question:
            want = a + b * c[0]
        elif "shares" in x.question:
            want = a // b + c[0]
        elif "together" in x.question:
            want = 2 * a - b
        else:
            want = a - b - c[0]
        assert x.right == (str(want),)


def test_a_gap_belongs_to_one_of_two_in_the_sentence():
    for x in reasoning_set("coreference", train=1, test=60, seed=0).test:
        assert len(x.options) == 2
        assert "_" in x.question
        assert all(option in x.question for option in x.options)


def test_functions_and_mutants_differ_in_one_operator(code):
    for x in code.test:
        (right,) = x.right
        for option in x.options:
            ast.parse(option)
            assert option == ast.unparse(ast.parse(option))
        trees = [ast.dump(ast.parse(option)) for option in x.options if option != right]
        own = ast.dump(ast.parse(right))
        for tree in trees:
            words, other = re.findall(r"\w+", own), re.findall(r"\w+", tree)
            assert sum(a != b for a, b in zip(words, other, strict=True)) == 1
    assert not {x.question for x in code.train} & {x.question for x in code.test}
    assert code.instruction


def test_modules_of_the_parts_differ():
    test = stdlib_functions("test", max_chars=700, limit=30)
    train = stdlib_functions("train", max_chars=700, limit=30)
    assert not {f.module for f in test} & {f.module for f in train}
    assert not {f.code for f in test} & {f.code for f in train}


def test_mutants_of_texts_are_left_alone():
    assert operator_mutants("def f(a):\n    return '%s' % a", 3, seed=0) == []
    found = operator_mutants("def f(a, b):\n    return a < b + 1", 9, seed=0)
    assert len(found) == len(set(found)) == 7


def test_bad_requests():
    with pytest.raises(UnknownNameError, match="Did you mean 'months'"):
        reasoning_set("month")
    with pytest.raises(InputError, match="train"):
        reasoning_set("months", train=-1)
    few = _Maker("Find it.", lambda part, seed, count: iter([("q", "a", ["b"]), ("q", "a", [])]))
    with pytest.raises(InputError, match="1 different questions .* 2 were asked for"):
        _take("few", few, "test", 2, 0, set())
    with pytest.raises(UnknownNameError, match="part"):
        reasoning_set("sums", train=1, test=1).task(part="dev")
