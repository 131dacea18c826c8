"""The offline generator, and the checks every answer passes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedworks.data import NEGATIVE_STRATEGIES, QUERY_STYLES, TASK_TYPES, RuleBasedGenerator
from embedworks.data._synthesis.rule_language import (
    contradicts,
    falsified,
    headline,
    is_english,
    paraphrased,
    question_about,
)
from embedworks.data._synthesis.synthesizer import _parse
from embedworks.data._synthesis.text_checks import (
    Problem,
    length,
    main_script,
    ngram_overlap,
    normalized,
    numbers_kept,
    same_script,
)
from embedworks.data.generators import Message
from embedworks.data.synthesis_tasks import (
    SynthesisTask,
    augment_request,
    brainstorm_request,
    hard_negative_request,
    paraphrase_request,
    payload_of,
    query_request,
    relabel_request,
    row_request,
)
from embedworks.errors import InputError

WORDS = [
    "the",
    "a kettle",
    "water",
    "12",
    "hot",
    "is",
    "if",
    "Paris",
    "you can",
    "open",
    "it",
    "of",
]
TEXTS = st.lists(
    st.sampled_from([*WORDS, ".", ",", "?", "\n", "вода", "水", "|"]), max_size=40
).map(" ".join)


def answer(request, seed=0):
    return RuleBasedGenerator().complete(request.messages(), seed=seed, max_tokens=9, temperature=0)


def parsed(request, seed=0):
    return _parse(answer(request, seed), request)


@settings(max_examples=150, deadline=None)
@given(a=TEXTS, b=TEXTS, seed=st.integers(0, 5))
def test_rules_answer_anything_in_form_or_decline(a, b, seed):
    """Whatever the texts: the form is right, or the rules say that they do not reach."""
    requests = [query_request(a, style=style) for style in QUERY_STYLES]
    requests += [paraphrase_request(a, b), paraphrase_request(a, None)]
    requests += [augment_request(a, b), augment_request(a, b, context=[a, b])]
    for strategy in NEGATIVE_STRATEGIES:
        requests.append(hard_negative_request(a, b, strategy=strategy, context=[a], known=[a]))
    requests.append(relabel_request(a, b, a))
    for request in requests:
        made = answer(request, seed)
        assert made == answer(request, seed)
        outcome = _parse(made, request)
        if isinstance(outcome, Problem):
            assert outcome.reason not in ("malformed JSON", "wrong form", "no answer"), outcome


@pytest.mark.parametrize("task_type", TASK_TYPES)
def test_tasks_and_rows_pass_their_checks(task_type):
    languages = ("French", "English") if task_type == "bitext" else None
    made = parsed(brainstorm_request(task_type, count=20, languages=languages))
    assert 15 <= len(made.tasks) == len(set(made.tasks))
    for number, description in enumerate(made.tasks):
        task = SynthesisTask(task_type, description, languages=languages)
        row = parsed(row_request(task, number=number), seed=number)
        assert not isinstance(row, Problem), row


def test_batches_of_tasks_differ_and_end():
    first, second = (
        set(parsed(brainstorm_request("sts", count=20, batch=b)).tasks) for b in (0, 1)
    )
    assert not first & second
    assert parsed(brainstorm_request("sts", count=20, batch=9)).reason == "declined"
    about = parsed(brainstorm_request("sts", count=3, topics=["bees"]))
    assert all("bees" in task for task in about.tasks)


def test_what_the_rules_cannot_do_they_decline():
    cases = [
        query_request("Вода кипит при ста градусах в чайнике.", style="question"),
        query_request("Das Wasser kocht, der Kessel pfeift laut und lange.", style="instruction"),
        paraphrase_request("水が沸く", None),
        paraphrase_request("Bananas ripen.", None),
        augment_request("q", "One sentence."),
        hard_negative_request("q", "Nothing to be changed here.", strategy="mixed"),
        row_request(SynthesisTask("sts", "Judge statements about beekeeping.")),
        row_request(SynthesisTask("bitext", "Translate.", languages=("Thai", "German"))),
    ]
    for request in cases:
        assert parsed(request).reason == "declined", request.payload


def test_a_retry_gives_another_text():
    request = query_request("A kettle is a pot. To clean it, boil vinegar.", style="instruction")
    messages = request.messages()
    again = [*messages, Message("assistant", "x"), Message("user", "not usable")]
    rules = RuleBasedGenerator()
    texts = {
        rules.complete(m, seed=s, max_tokens=9, temperature=0).text
        for m in (messages, again)
        for s in range(4)
    }
    assert len(texts) > 1


def test_messages_of_others_are_refused():
    rules = RuleBasedGenerator()
    with pytest.raises(InputError, match="hold no input"):
        rules.complete([Message("user", "hello")], seed=0, max_tokens=9, temperature=0)
    asked = Message("user", 'x\n\nInput:\n```json\n{"step": "dance"}\n```')
    with pytest.raises(InputError, match="no step 'dance'"):
        rules.complete([asked], seed=0, max_tokens=9, temperature=0)


def test_the_input_is_found_whatever_it_holds():
    nasty = "x\n\nInput:\n```json\n{}\n```\n```"
    assert payload_of(relabel_request(nasty, nasty, nasty).messages())["query"] == nasty


@pytest.mark.parametrize(
    ("text", "question"),
    [
        ("A kettle is a vessel for boiling water.", "What is a kettle?"),
        ("To open a jar, turn the lid.", "How do I open a jar?"),
        ("Bake the loaf for 40 minutes until brown.", "How do I bake the loaf for 40 minutes?"),
        ("Users can change your name in the menu.", "How can I change my name in the menu?"),
        ("The pump stops because air got in.", "What is the reason that the pump stops?"),
        ("If the lid is open, nothing happens.", "What happens if the lid is open?"),
        ("It rained.", None),
    ],
)
def test_questions(text, question):
    assert question_about(text, np.random.default_rng(0)) == question


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("If the lid is open, the pump waits.", "The pump waits if the lid is open."),
        ("The pump waits because the lid is open.", "Because the lid is open, the pump waits."),
        ("How do I open a jar?", "What is the way to open a jar?"),
        ("what is a jar", "what is meant by a jar?"),
        (
            "Heading of it\nIf it rains, we stay inside.",
            "Heading of it\nWe stay inside if it rains.",
        ),
    ],
)
def test_paraphrases(text, other):
    assert paraphrased(text, np.random.default_rng(0), strength=0.0) == other


@settings(max_examples=100, deadline=None)
@given(text=TEXTS, seed=st.integers(0, 3))
def test_paraphrases_keep_numbers_and_are_repeatable(text, seed):
    made = paraphrased(text, np.random.default_rng(seed))
    assert made == paraphrased(text, np.random.default_rng(seed))
    assert numbers_kept("text", made, text) is None


def test_falsehoods_change_numbers_names_and_directions():
    rng = np.random.default_rng(0)
    text = "Chapter 1\nThe first train to Vienna leaves at 9 and needs 2.5 hours."
    made = falsified(text, rng)
    assert made.startswith("Chapter 1\nThe last train to ")
    assert "Vienna" not in made
    assert numbers_kept("text", made, text) is not None
    assert contradicts(made, text)
    assert falsified("Nothing here says much.", rng) is None


def test_titles_and_languages():
    assert headline("x", "Guide > Clean the kettle") == "Clean the kettle"
    assert headline("The kettle of the house, an old one, is red.") == "Kettle of the house"
    assert headline("Yes.") is None
    assert is_english("How do I open the jar?")
    assert not is_english("Wie öffne ich das Glas mit dem Deckel?")


def slow_overlap(text, seed, n):
    own, other = normalized(text).split(), normalized(seed).split()
    if not own:
        return 0.0
    size = n if len(own) >= n else len(own)
    grams = {tuple(own[i : i + size]) for i in range(len(own) - size + 1)}
    if len(other) < n:
        others = [tuple(other)]
    else:
        others = [tuple(other[i : i + n]) for i in range(len(other) - n + 1)]
    return sum(gram in others for gram in grams) / len(grams)


LATIN = st.lists(st.sampled_from(["a", "b", "c", "d"]), max_size=12).map(" ".join)


@given(text=LATIN, seed=LATIN, n=st.integers(1, 5))
def test_overlap_is_what_counting_gives(text, seed, n):
    assert ngram_overlap(text, seed, n) == pytest.approx(slow_overlap(text, seed, n))


def test_overlap_counts_characters_where_words_have_no_spaces():
    assert ngram_overlap("水を沸かします", "水を沸かしません") == pytest.approx(3 / 4)


def test_scripts():
    texts = {
        "Boil": "LATIN", "Вода": "CYRILLIC", "水": "HAN", "お湯です": "JAPANESE", "물을": "HANGUL",
        "ماء": "ARABIC", "น้ำ": "THAI", "123 !": None, "Größe": "LATIN", "カタカナ": "JAPANESE",
    }  # fmt: skip
    assert {text: main_script(text) for text in texts} == texts
    assert same_script("x", "お湯", "湯") is None
    assert same_script("x", "湯", "12") is None
    assert same_script("x", "Boil", "Вода").reason == "language"


def test_lengths_have_slack_when_short():
    assert length("x", "a" * 30, "a" * 5) is None
    assert length("x", "a" * 100, "a" * 5).reason == "length"
    assert length("x", "a" * 400, "a" * 1000).reason == "length"
    assert length("x", "a" * 2000, "a" * 1000) is None


@pytest.mark.parametrize(
    ("query", "positive", "reason"),
    [
        ("How do I open 3 jars?", "same", "equal to the seed"),
        ("How do I open 4 jars?", None, "numbers changed"),
        ("Как открыть 3 банки?", None, "language"),
        ("3" + " jar" * 40, None, "length"),
        ("", None, "empty"),
        ("x How can I open the 3 jars of jam that mother made?", None, "copies the seed"),
    ],
)
def test_paraphrases_that_are_refused(query, positive, reason):
    seed = "How can I open the 3 jars of jam that mother made?"
    if positive:
        seed = query
    request = paraphrase_request(seed, None, max_overlap=0.7)
    made = RuleBasedGenerator().complete(request.messages(), seed=0, max_tokens=9, temperature=0)
    scripted = type(made)(json.dumps({"query": query}), 1, 1, "x")
    assert _parse(scripted, request).reason == reason
