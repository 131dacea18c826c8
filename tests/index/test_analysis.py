"""Text to terms."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedworks.errors import FormatError, UnknownNameError
from embedworks.index import analysis
from embedworks.index.analysis import Analyzer


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("", []),
        ("... !", []),
        ("Running runners RUN", ["run", "runner", "run"]),
        ("os.path.joinPath", ["os", "path", "join", "path", "os.path.joinpath"]),
        ("max_value", ["max", "valu", "max_value"]),
        ("__init__", ["init"]),
        ("parseHTTPHeader2", ["pars", "http", "header", "2", "parsehttpheader2"]),
        ("Python 3.11", ["python", "3", "11", "3.11"]),
        ("Crème brûlée", ["creme", "brule"]),
        ("the user's files", ["user", "file"]),
        ("the user’s files", ["user", "file"]),
        ("shouldn't", ["shouldnt"]),
        ("end. Next", ["end", "next"]),
        ("Straße", ["strass"]),
        ("数据 索引", ["数据", "索引"]),
    ],
)
def test_terms(text, terms):
    assert Analyzer().terms(text) == terms


def test_function_words_count_only_alone():
    analyzer = Analyzer()
    assert analyzer.terms("to be or not to be") == ["'to", "'be", "'or", "'not", "'to", "'be"]
    assert analyzer.terms("is not None") == ["none"]
    assert Analyzer(stop_words=False).terms("is not") == ["is", "not"]


def test_long_words_are_cut():
    assert [len(t) for t in Analyzer(stemmer="none").terms("x" * 10_000)] == [64]


def test_spans_point_at_words():
    text = "The big os.path file"
    found = [(text[a:b], terms) for a, b, terms in Analyzer().spans(text)]
    assert found[2] == ("os.path", ("os", "path", "os.path"))


def test_settings_round_trip():
    analyzer = Analyzer(stemmer="none", stop_words=False)
    assert Analyzer.from_dict(analyzer.to_dict()) == analyzer
    assert pickle.loads(pickle.dumps(analyzer)) == analyzer
    with pytest.raises(UnknownNameError, match="english"):
        Analyzer(stemmer="englisch")
    with pytest.raises(FormatError, match="stemmer"):
        Analyzer.from_dict({"stemer": "none"})


def test_cache_is_bounded(monkeypatch):
    monkeypatch.setattr(analysis, "_CACHE_LIMIT", 10)
    analyzer = Analyzer()
    analyzer.terms(" ".join(f"word{n}" for n in range(100)))
    assert len(analyzer._cache) <= 10


@given(st.text(max_size=60))
def test_terms_are_lower_case_and_stable(text):
    analyzer = Analyzer()
    terms = analyzer.terms(text)
    assert terms == Analyzer().terms(text)
    assert all(term and term == term.casefold() and "\n" not in term for term in terms)
    assert terms == [t for w in analyzer.spans(text) for t in w[2] if t in terms]
