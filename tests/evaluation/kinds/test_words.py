"""Word tasks: hand-made vectors with exact scores, slow loops, unknown words."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from embedworks.errors import (
    DuplicateIdError,
    EmptyInputError,
    InputError,
    NonFiniteError,
)
from embedworks.evaluation import (
    AnalogyTask,
    EncoderSystem,
    Resampling,
    TaskResult,
    WordCategoryTask,
    WordSimilarityTask,
    spearman,
)
from embedworks.models import StaticModel

FEW = Resampling(n_resamples=100)


class Table:
    """Vectors of words; others have the zero vector."""

    def __init__(self, vectors):
        self.vectors = {word: np.asarray(vector, dtype=float) for word, vector in vectors.items()}

    def encode(self, texts):
        zero = np.zeros_like(next(iter(self.vectors.values())))
        return np.array([self.vectors.get(text, zero) for text in texts])


def system(vectors):
    return EncoderSystem(Table(vectors), name="table", fingerprint="table")


def saved(result):
    return TaskResult.from_dict(json.loads(json.dumps(result.to_dict()))) == result


# king - man + woman = queen, exactly.
ROYAL = {
    "man": [1, 0, 0], "woman": [0, 1, 0], "king": [1, 0, 1], "queen": [0, 1, 1],
    "boy": [1, 0, -0.5], "girl": [0, 1, -0.5],
}  # fmt: skip


def test_similarity_is_spearman_of_cosine():
    rng = np.random.default_rng(0)
    vectors = {f"w{i}": rng.normal(size=4) for i in range(40)}
    pairs = [(f"w{i}", f"w{i + 20}", float(rng.integers(0, 5))) for i in range(20)]
    result = WordSimilarityTask("toy", pairs).run(system(vectors), FEW)
    cosine = [
        vectors[a] @ vectors[b] / np.linalg.norm(vectors[a]) / np.linalg.norm(vectors[b])
        for a, b, _ in pairs
    ]
    expected = spearman(cosine, [score for *_, score in pairs])
    assert result.main.interval.mean == pytest.approx(expected, abs=1e-9)
    assert result.scores["spearman-all"].interval.mean == pytest.approx(expected, abs=1e-9)
    assert result.excluded == {}
    assert result.details["coverage"] == 1.0
    assert result.main.interval.low < expected < result.main.interval.high
    assert len(result.failures) == 10
    assert saved(result)


def test_pairs_with_unknown_words_are_left_out_and_counted():
    pairs = [("man", "king", 3.0), ("man", "queen", 1.0), ("man", "boy", 2.0), ("man", "x", 9.0)]
    result = WordSimilarityTask("toy", pairs).run(system(ROYAL), FEW)
    assert result.excluded == {"pairs with an unknown word": 1}
    assert result.main.interval.n == 3
    assert result.scores["spearman-all"].interval.n == 4
    assert result.main.interval.mean > result.scores["spearman-all"].interval.mean
    assert result.details["coverage"] == pytest.approx(4 / 5)
    assert result.details["unknown_examples"] == ["x"]


def static_model():
    tokens = ["[UNK]", "cat", "dog", "##s", "fish"]
    tokenizer = Tokenizer(models.WordPiece({t: i for i, t in enumerate(tokens)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    table = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    return StaticModel(tokenizer, table, name="tiny")


def test_words_a_static_model_does_not_know_are_counted():
    """The unknown token has a vector of its own, so it takes the tokenizer to tell."""
    pairs = [("cat", "dog", 3.0), ("cats", "fish", 1.0), ("cat", "zebra", 2.0), ("dog", "", 1.0)]
    result = WordSimilarityTask("toy", pairs).run(EncoderSystem(static_model(), name="tiny"), FEW)
    assert result.excluded == {"pairs with an unknown word": 2}
    assert result.details["words_in_pieces"] == 1
    assert sorted(result.details["unknown_examples"]) == ["", "zebra"]


def test_bad_similarity_data_and_systems():
    with pytest.raises(EmptyInputError):
        WordSimilarityTask("toy", [])
    with pytest.raises(InputError, match="all its scores are 1"):
        WordSimilarityTask("toy", [("a", "b", 1), ("a", "c", 1)])
    with pytest.raises(NonFiniteError, match=r"scores\[1\] is nan"):
        WordSimilarityTask("toy", [("a", "b", 1), ("a", "c", float("nan"))])
    with pytest.raises(InputError, match="texts of 'toy'"):
        WordSimilarityTask("toy", [("a", 3, 1)])
    task = WordSimilarityTask("toy", [("x", "y", 1), ("man", "king", 2)])
    with pytest.raises(InputError, match="table knows both words of 1 of the 2 pairs"):
        task.run(system(ROYAL), FEW)


def test_royal_analogies_are_exact():
    questions = [("man", "king", "woman", "queen"), ("king", "man", "queen", "woman")]
    result = AnalogyTask("toy", questions, vocabulary=["boy"]).run(system(ROYAL), FEW)
    assert result.main.values == (1.0, 1.0)
    assert result.scores["3cosmul"].values == (1.0, 1.0)
    assert result.details["chance"] == pytest.approx(1 / 2)
    assert saved(result)


def slow_answer(vectors, a, b, c, *, multiply):
    def cosine(x, y):
        x, y = vectors[x], vectors[y]
        return x @ y / np.linalg.norm(x) / np.linalg.norm(y)

    best, answer = -np.inf, None
    for word in vectors:
        if word in (a, b, c):
            continue
        if multiply:
            near = [(1 + cosine(word, other)) / 2 for other in (b, c, a)]
            score = near[0] * near[1] / (near[2] + 0.001)
        else:
            score = cosine(word, b) - cosine(word, a) + cosine(word, c)
        if score > best:
            best, answer = score, word
    return answer


@pytest.mark.parametrize("block", [1, 50, 4_000_000])
def test_analogies_equal_slow_loops(monkeypatch, block):
    from embedworks.evaluation.kinds import words

    monkeypatch.setattr(words, "_BLOCK", block)
    rng = np.random.default_rng(1)
    vectors = {f"w{i}": rng.normal(size=3) for i in range(12)}
    questions = [tuple(f"w{i}" for i in rng.choice(12, 4, replace=False)) for _ in range(60)]
    result = AnalogyTask("toy", questions, vocabulary=list(vectors)).run(system(vectors), FEW)
    for name, multiply in (("3cosadd", False), ("3cosmul", True)):
        expected = [
            float(slow_answer(vectors, a, b, c, multiply=multiply) == d) for a, b, c, d in questions
        ]
        assert list(result.scores[name].values) == expected
        assert 0 < sum(expected) < 60


def test_words_of_the_question_are_never_the_answer():
    vectors = {"a": [1, 0], "b": [1, 0.1], "c": [0.9, 0.1], "d": [-1, 0.3], "e": [-1, -0.3]}
    result = AnalogyTask("toy", [("a", "b", "c", "d")], vocabulary=["e"]).run(system(vectors), FEW)
    assert set(result.main.values) <= {0.0, 1.0}
    for failure in result.failures:
        assert not {"a", "b", "c"} & set(failure.found)
    assert AnalogyTask("toy", [("a", "b", "c", "d")]).run(system(vectors), FEW).main.values == (
        1.0,
    )  # the only word left


def test_unanswerable_questions_are_counted():
    questions = [
        ("man", "king", "woman", "queen"),
        ("man", "king", "woman", "woman"),
        ("man", "king", "x", "queen"),
    ]
    result = AnalogyTask("toy", questions, categories=["f", "f", "g"]).run(system(ROYAL), FEW)
    assert result.excluded == {
        "questions answered by one of their own words": 1,
        "questions with unknown words": 1,
    }
    assert result.main.interval.n == 1
    assert result.scores["3cosadd-all"].values == (1.0, 0.0)
    assert result.details["of_category"] == {"f": {"questions": 1, "3cosadd": 1.0}}


def test_unknown_words_are_never_answers():
    questions = [("man", "king", "woman", "queen")]
    result = AnalogyTask("toy", questions, vocabulary=["x", "y"]).run(system(ROYAL), FEW)
    assert result.main.values == (1.0,)
    assert result.details["known_words"] == 4


def test_bad_analogies():
    with pytest.raises(EmptyInputError, match="0 questions"):
        AnalogyTask("toy", [])
    with pytest.raises(EmptyInputError, match="1 questions, none"):
        AnalogyTask("toy", [("a", "b", "c", "c")])
    with pytest.raises(InputError, match="1 questions and 2 categories"):
        AnalogyTask("toy", [("a", "b", "c", "d")], categories=["x", "y"])
    with pytest.raises(InputError, match="table knows all four words of none"):
        AnalogyTask("toy", [("x", "y", "z", "w")]).run(system(ROYAL), FEW)


def groups(noise, count=12):
    rng = np.random.default_rng(0)
    vectors, members = {}, {}
    for row, category in enumerate(("animal", "metal", "tool")):
        members[category] = [f"{category} {i}" for i in range(count)]
        for word in members[category]:
            vectors[word] = np.eye(3)[row] + noise * rng.normal(size=3)
    return vectors, members


def test_categories_are_found():
    vectors, members = groups(0.1)
    result = WordCategoryTask("toy", members).run(system(vectors), FEW)
    assert result.metric == "purity"
    assert result.main.interval.mean == 1.0
    assert result.scores["v-measure"].interval.mean == 1.0
    assert result.details["categories"] == 3
    assert saved(result)


def test_words_that_cannot_be_clustered_are_counted():
    vectors, members = groups(0.1)
    members["animal"] = [*members["animal"], "metal 0", "unseen"]
    members["lonely"] = ["man"]
    vectors["man"] = np.ones(3)
    result = WordCategoryTask("toy", members).run(system(vectors), FEW)
    assert result.excluded == {
        "words of several categories": 1,
        "unknown words": 1,
        "words alone in their category": 1,
    }
    assert result.details["clustered_words"] == 35


def test_bad_categories():
    with pytest.raises(EmptyInputError, match="0 words"):
        WordCategoryTask("toy", {})
    with pytest.raises(DuplicateIdError, match="'b' occurs"):
        WordCategoryTask("toy", {"a": ["b", "b"]})
    with pytest.raises(InputError, match="fewer than two of its 2"):
        WordCategoryTask("toy", {"a": ["b", "c"], "d": ["e"]})
    vectors, members = groups(0.1)
    for word in members["metal"] + members["tool"]:
        del vectors[word]
    with pytest.raises(InputError, match="table knows 12 of the 36 words"):
        WordCategoryTask("toy", members).run(system(vectors), FEW)
    same = {word: [1.0, 0.0] for words in members.values() for word in words}
    with pytest.raises(InputError, match="1 different vectors"):
        WordCategoryTask("toy", members).run(system(same), FEW)
