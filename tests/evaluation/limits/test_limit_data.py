"""Generated collections: who likes what, the patterns, and the published densities."""

from __future__ import annotations

import itertools
import re
from collections import Counter

import pytest
import snowballstemmer
from hypothesis import given, settings
from hypothesis import strategies as st

from embedworks.errors import DuplicateIdError, EmptyInputError, InputError, UnknownNameError
from embedworks.evaluation import SUITES, DataFolder, LexicalSystem, Resampling
from embedworks.evaluation.limits import (
    LIMIT_PATTERNS,
    _words,
    average_query_strength,
    limit_attributes,
    load_limit,
    load_limit_qrels,
    make_limit,
    make_limit_patterns,
    qrel_graph_density,
)

HOW = Resampling(n_resamples=100)


def items(text):
    body = re.fullmatch(r"\S+ \S+ likes (.*)\.", text).group(1)
    return body.replace(" and ", ", ").split(", ")


def holders(task):
    return {doc: set(items(text)) for doc, text in task.corpus.items()}


def check(task, min_items):
    liked = holders(task)
    for query, text in task.queries.items():
        thing = re.fullmatch(r"Who likes (.*)\?", text).group(1)
        assert {doc for doc, own in liked.items() if thing in own} == set(task.qrels[query])
    for doc, text in task.corpus.items():
        assert len(items(text)) == len(liked[doc]) >= min_items
        assert text.startswith(doc)


def test_words_are_different_and_share_no_stem():
    attributes = limit_attributes()
    assert len(attributes) == len(set(attributes)) >= 2000
    stem = snowballstemmer.stemmer("english").stemWord
    lists = (_words.SINGLES, _words.STYLES, _words.HEADS, _words.FIRST_NAMES, _words.LAST_NAMES)
    stems = Counter(stem(word.lower()) for words in lists for word in words)
    assert [s for s, count in stems.items() if count > 1] == []
    assert all(word.isalpha() for words in lists for word in words)
    assert len(_words.FIRST_NAMES) * len(_words.LAST_NAMES) >= 50_000


@settings(deadline=None, max_examples=25)
@given(st.sampled_from(list(LIMIT_PATTERNS)), st.integers(1, 3), st.integers(0, 5), st.data())
def test_only_the_relevant_like_what_is_asked_for(pattern, k, seed, data):
    n_queries = data.draw(st.integers(4, 20))
    task = make_limit(60, n_queries, k=k, pattern=pattern, min_items=12, seed=seed)
    assert len(task.corpus) == 60
    assert len(task.queries) == n_queries
    assert {len(docs) for docs in task.qrels.values()} == {k}
    assert len({frozenset(docs) for docs in task.qrels.values()}) == n_queries
    check(task, 12)


def test_dense_is_every_pair_of_the_fewest_documents():
    task = make_limit(30, 45, min_items=10)
    sets = {frozenset(docs) for docs in task.qrels.values()}
    documents = set().union(*sets)
    assert len(documents) == 10
    assert sets == {frozenset(pair) for pair in itertools.combinations(documents, 2)}


def test_disjoint_and_cycle_are_what_they_say():
    disjoint = make_limit(40, 20, pattern="disjoint", min_items=5)
    assert set(Counter(d for docs in disjoint.qrels.values() for d in docs).values()) == {1}
    assert qrel_graph_density(disjoint.qrels) == 0
    cycle = make_limit(40, 20, pattern="cycle", min_items=5)
    assert set(Counter(d for docs in cycle.qrels.values() for d in docs).values()) == {2}
    assert qrel_graph_density(cycle.qrels) == pytest.approx(2 / 19)


def test_patterns_share_their_texts():
    tasks = make_limit_patterns(60, 30, min_items=20, seed=2)
    corpora = [task.corpus for task in tasks.values()]
    assert all(corpus == corpora[0] for corpus in corpora)
    asked = [text for task in tasks.values() for text in task.queries.values()]
    assert len(asked) == len(set(asked)) == 120
    for task in tasks.values():
        check(task, 20)
    density = {name: qrel_graph_density(task.qrels) for name, task in tasks.items()}
    assert density["dense"] > density["cycle"] > density["disjoint"] == 0


def test_seeds_repeat_and_differ():
    assert make_limit(10, 20, seed=4) == make_limit(10, 20, seed=4)
    assert make_limit(10, 20, seed=4).corpus != make_limit(10, 20, seed=5).corpus


def test_the_lexical_baseline_finds_everything():
    for task in make_limit_patterns(80, 40, min_items=15).values():
        result = task.run(LexicalSystem(), HOW)
        assert result.main.interval.mean == 1.0, task.name
        assert result.metric == "recall@2"


def test_synonyms_take_the_words_away():
    synonyms = {thing: f"xx{place}" for place, thing in enumerate(limit_attributes())}
    task = make_limit(20, 30, synonyms=synonyms, min_items=8)
    assert task.name.endswith("synonyms")
    liked = holders(task)
    for query, text in task.queries.items():
        thing = text[len("Who likes ") : -1]
        assert {d for d, own in liked.items() if synonyms[thing] in own} == set(task.qrels[query])
        assert not any(thing in own for own in liked.values())
    with pytest.raises(InputError, match="no synonym; the first is"):
        make_limit(20, 30, synonyms={"apples": "pommes"})


def test_own_attributes_and_names():
    attributes = [f"thing{i}" for i in range(30)]
    names = [f"Person {chr(65 + i)}" for i in range(5)]
    task = make_limit(5, 10, attributes=attributes, names=names, min_items=6)
    assert set(task.corpus) == set(names)
    check(task, 6)


def test_what_cannot_be_made_is_refused():
    with pytest.raises(InputError, match="45 sets of 2, not 46"):
        make_limit(10, 46)
    with pytest.raises(InputError, match="need 20 documents"):
        make_limit(19, 10, pattern="disjoint")
    with pytest.raises(InputError, match="needs 10 documents"):
        make_limit(9, 10, pattern="cycle")
    with pytest.raises(InputError, match="k must be"):
        make_limit(2, 1, k=2)
    with pytest.raises(UnknownNameError, match="dense"):
        make_limit(10, 5, pattern="dens")
    with pytest.raises(InputError, match="10 questions need as many attributes"):
        make_limit(5, 10, attributes=["a", "b"])
    with pytest.raises(InputError, match="leave 2 beside"):
        make_limit(5, 10, attributes=[f"t{i}" for i in range(12)])
    with pytest.raises(DuplicateIdError):
        make_limit(5, 1, attributes=["a", "a", "b"])
    with pytest.raises(DuplicateIdError):
        make_limit(3, 1, names=["A", "A", "B"])
    with pytest.raises(InputError, match="as many names"):
        make_limit(3, 1, names=["A"])
    with pytest.raises(InputError, match="names for 60,000"):
        make_limit(60_000, 1)
    with pytest.raises(EmptyInputError):
        make_limit_patterns(10, 5, patterns=())


def slow_density(qrels):
    sets = [{d for d, r in docs.items() if r > 0} for docs in qrels.values()]
    sets = [s for s in sets if s]
    pairs = list(itertools.combinations(sets, 2))
    joined = sum(bool(a & b) for a, b in pairs) / len(pairs)
    strength = sum(2 * len(a & b) / len(a | b) for a, b in pairs) / len(sets)
    return joined, strength


@given(
    st.lists(
        st.dictionaries(st.sampled_from("abcdefg"), st.integers(0, 2), max_size=5),
        min_size=2, max_size=12,
    )
)  # fmt: skip
def test_densities_against_loops(judged):
    qrels = {f"q{i}": docs for i, docs in enumerate(judged)}
    if sum(any(r > 0 for r in docs.values()) for docs in judged) < 2:
        with pytest.raises(EmptyInputError, match="several questions"):
            qrel_graph_density(qrels)
        return
    joined, strength = slow_density(qrels)
    assert qrel_graph_density(qrels) == pytest.approx(joined)
    assert average_query_strength(qrels) == pytest.approx(strength)


def test_generated_and_published_sets_have_the_published_density(data_root):
    folder = DataFolder(data_root)
    if not folder.has("limit_small_qrels.parquet", "limit_full_qrels.parquet"):
        pytest.skip("the LIMIT files are not in the data folder")
    for qrels in (
        make_limit(46, 1000).qrels, load_limit_qrels(folder), load_limit_qrels(folder, "small"),
    ):  # fmt: skip
        assert qrel_graph_density(qrels) == pytest.approx(0.0855, abs=5e-5)
        assert average_query_strength(qrels) == pytest.approx(28.47, abs=5e-3)
    task = load_limit(folder)
    assert (len(task.corpus), len(task.queries)) == (46, 1000)
    # Published for BM25: 97.8.
    assert task.run(LexicalSystem(), HOW).main.interval.mean == pytest.approx(0.978, abs=0.02)


def test_the_suite_runs_without_the_data_folder(tmp_path):
    made, skipped = SUITES["limits"].tasks(DataFolder(tmp_path))
    assert [task.name for task in made] == [
        "limit-dense-46-1000", *(f"limit-{pattern}-182-91" for pattern in LIMIT_PATTERNS),
    ]  # fmt: skip
    assert list(skipped) == ["limit-small"]
    assert made[-1].run(LexicalSystem(), HOW).main.interval.mean == 1.0
