"""Pair sources: what they find, what they refuse, and that anchors are not copied."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from embedworks.data import (
    PAIR_SOURCES,
    Chunk,
    Document,
    PairCorpus,
    PairSource,
    chunk_documents,
    holdout_pairs,
    make_pairs,
    read_documents,
)
from embedworks.data.pairs import RawPair
from embedworks.errors import EmptyInputError, InputError, UnknownNameError

BODY = (
    "Boil fresh water in a kettle. Warm the pot with a little of it. Then add one spoon of "
    "leaves for each cup. Pour the water over them and wait three minutes."
)
CODE = '''\
def set_tunnel(self, host):
    """Set up :func:`host` for HTTP CONNECT tunnelling.

    Longer text.
    """
    if self.sock:
        raise RuntimeError("already connected")
    self._tunnel_host = host'''


def chunk(
    text: str, title: str = "", *, doc: str = "d", kind: str = "prose", part: int = 0
) -> Chunk:
    span = None
    if '"""' in text:
        start = text.rindex("\n", 0, text.index('"""')) + 1
        span = (start, text.index("\n", text.rindex('"""')) + 1)
    return Chunk(f"{doc}#0", doc, text, title, kind=kind, docstring_span=span, part=part)


def only(source: str, *chunks: Chunk) -> list[tuple[str, str]]:
    return [(p.anchor, p.positive) for p in make_pairs(chunks, sources={source: 1.0})]


def test_title_of_prose() -> None:
    assert only("title", chunk(BODY, "Kitchen > Making black tea")) == [("Making black tea", BODY)]
    assert only("title", chunk(BODY, "Kitchen > Usage")) == [("Kitchen Usage", BODY)]
    assert only("title", chunk(BODY, "Making tea", part=1)) == []
    assert only("title", chunk(BODY)) == []


def test_title_repeated_at_the_start_of_a_row_is_removed() -> None:
    row = chunk(f"making tea at home . {BODY}", "Making tea at home .")
    assert only("title", row) == [("Making tea at home .", BODY)]


def test_title_of_code_is_split_into_words() -> None:
    code = chunk(CODE, "http.client.HTTPConnection.set_tunnel", kind="code")
    ((anchor, positive),) = only("title", code)
    assert anchor == "http connection set tunnel"
    assert positive == CODE
    special = chunk(CODE, "http.client.HTTPConnection.__init__", kind="code")
    assert only("title", special) == []


def test_docstring_is_taken_out_of_the_code() -> None:
    ((anchor, positive),) = only("docstring", chunk(CODE, "m.set_tunnel", kind="code"))
    assert anchor == "Set up host for HTTP CONNECT tunnelling."
    assert positive.startswith("m.set_tunnel\ndef set_tunnel(self, host):\n    if self.sock")
    assert "Longer text" not in positive


def test_question_headings() -> None:
    for title in ("FAQ > Is it safe?", "How to make good tea", "FAQ > Wozu?"):
        ((anchor, positive),) = only("question_heading", chunk(BODY, title))
        assert (anchor, positive) == (title.split(" > ")[-1], BODY)
    for title in ("Making tea", "whatever.module", "What's new", "Island life and more"):
        assert only("question_heading", chunk(BODY, title)) == []


def test_first_sentence_keeps_the_title_unless_it_gives_the_anchor_away() -> None:
    ((anchor, positive),) = only("first_sentence", chunk(BODY, "Tea"))
    assert anchor == "Boil fresh water in a kettle."
    assert positive.startswith("Tea\nWarm the pot")
    ((_, positive),) = only("first_sentence", chunk(BODY, "Boil fresh water"))
    assert positive.startswith("Warm the pot")


VASWANI = (
    "electronic coordinate transformer circuit details are given for the construction of an "
    "electronic calculating unit which enables the polar coordinates of a vector modulus"
)


def test_texts_without_punctuation_give_crops_and_keywords_only() -> None:
    chunks = [chunk(VASWANI, doc="a"), chunk("printed resistors " + VASWANI[40:], doc="b")]
    counts = make_pairs(chunks).counts
    assert set(counts) <= {"crop", "keywords", "related_terms"}
    assert counts["crop"] == counts["keywords"] == 2


def test_crop_removes_what_it_takes() -> None:
    for seed in range(20):
        pairs = make_pairs([chunk(BODY, "Tea")], sources={"crop": 1.0}, seed=seed)
        ((anchor, positive),) = [(p.anchor, p.positive) for p in pairs]
        rest = positive.removeprefix("Tea\n")
        assert sorted((anchor + " " + rest).split()) == sorted(BODY.split())
        assert not BODY.startswith(anchor)


def test_keywords_are_specific_words_of_the_passage() -> None:
    others = [
        chunk(f"common words here and number {i} of them again", doc=f"o{i}") for i in range(9)
    ]
    text = "common words here about zeppelin gondola and helium again and again"
    pairs = make_pairs([chunk(text, doc="z"), *others], sources={"keywords": 1.0})
    anchor = next(p.anchor for p in pairs if p.doc_id == "z").split()
    assert len(set(anchor) & {"zeppelin", "gondola", "helium"}) >= 2
    assert not {"and", "about"} & set(anchor)


def test_related_terms_join_different_documents() -> None:
    first = "The zeppelin gondola holds helium valves for the airship crew at night."
    second = "An airship crew opens helium valves so that the zeppelin gondola sinks slowly."
    chunks = [
        chunk(first, "Flying at night", doc="a"),
        chunk(second, "How to descend safely", doc="b"),
        *(chunk(f"Completely other text on topic{i} and thing{i}.", doc=f"o{i}") for i in range(5)),
    ]
    found = make_pairs(chunks, sources={"related_terms": 0.25})
    assert {(p.anchor, p.doc_id, p.weight) for p in found} == {
        ("Flying at night", "b", 0.25),
        ("How to descend safely", "a", 0.25),
    }
    same = [chunk(first, "Flying at night"), chunk(second, "How to descend safely")]
    assert len(make_pairs(same, sources={"related_terms": 1.0})) == 0


def test_anchors_that_fit_many_passages_are_dropped_and_counted() -> None:
    chunks = [chunk(f"{BODY} Number {i}.", "Usage notes here", doc=f"d{i}") for i in range(5)]
    pairs = make_pairs(chunks, sources={"title": 1.0})
    assert len(pairs) == 0
    assert pairs.dropped["anchor fits many passages"] == 5
    assert "anchor fits many passages 5" in pairs.summary()


def test_copied_anchors_are_dropped_and_counted() -> None:
    pairs = make_pairs([chunk(f"So, making  TEA well: {BODY}", "Making tea well")])
    assert "title" not in pairs.counts
    assert pairs.dropped["anchor repeated in the positive"] >= 1


def test_limit_per_chunk_keeps_the_heaviest() -> None:
    pairs = make_pairs([chunk(BODY, "Why warm the pot")], max_pairs_per_chunk=1)
    assert pairs.counts == {"question_heading": 1}
    assert pairs.dropped["over the limit per chunk"] > 0
    weights = {"title": 0.1, "first_sentence": 2.0}
    pairs = make_pairs([chunk(BODY, "Warm pot why")], sources=weights, max_pairs_per_chunk=1)
    assert [(p.source, p.weight) for p in pairs] == [("first_sentence", 2.0)]


def test_sources_are_checked() -> None:
    chunks = [chunk(BODY, "Tea at home")]
    with pytest.raises(UnknownNameError, match="Did you mean 'title'"):
        make_pairs(chunks, sources={"titel": 1.0})
    with pytest.raises(InputError, match="weight of pair source 'title'"):
        make_pairs(chunks, sources={"title": -1.0})
    with pytest.raises(EmptyInputError, match="switched off"):
        make_pairs(chunks, sources={"title": 0.0})
    with pytest.raises(EmptyInputError):
        make_pairs([])
    with pytest.raises(EmptyInputError):
        holdout_pairs([])


def test_a_source_can_be_added(monkeypatch: pytest.MonkeyPatch) -> None:
    def shout(corpus: PairCorpus) -> Iterator[RawPair]:
        for index, item in enumerate(corpus.chunks):
            yield RawPair(index, f"{item.title.upper()} PLEASE", item.text)

    source = PairSource(shout, weight=1.0, natural=True, summary="Loud.")
    monkeypatch.setitem(PAIR_SOURCES._items, "shout", source)
    pairs = make_pairs([chunk(BODY, "tea")], sources={"shout": 3.0})
    assert [(p.anchor, p.weight) for p in pairs] == [("TEA PLEASE", 3.0)]


def test_same_seed_same_pairs() -> None:
    chunks = [chunk(BODY, f"Tea number {i}", doc=f"d{i}") for i in range(30)]
    assert list(make_pairs(chunks, seed=3)) == list(make_pairs(chunks, seed=3))
    assert list(make_pairs(chunks, seed=3)) != list(make_pairs(chunks, seed=4))


def test_holdout_prefers_what_people_would_ask() -> None:
    chunks = [
        chunk(BODY, "Why warm the pot", doc="q"),
        chunk(CODE, "http.client.HTTPConnection.set_tunnel", doc="c", kind="code"),
        chunk(BODY + " Yes.", "Kitchen > Making black tea", doc="t"),
        chunk(BODY + " No.", doc="s"),
        chunk(VASWANI, doc="v"),
    ]
    found = holdout_pairs(chunks)
    assert {p.doc_id: p.source for p in found} == {
        "q": "question_heading",
        "c": "docstring",
        "t": "title",
        "s": "first_sentence",
    }
    assert {p.source for p in holdout_pairs(chunks[-1:])} == {"crop"}


def test_on_the_standard_library_no_anchor_is_copied_and_it_is_fast() -> None:
    names = ["json", "email", "http", "asyncio", "urllib", "logging", "unittest"]
    documents = read_documents(
        Path(os.__file__).parent,
        include=[f"{n}/*.py" for n in names],
        exclude=["test", "site-packages"],
    )
    chunks = chunk_documents(documents)
    begin = time.process_time()
    pairs = make_pairs(chunks)
    assert time.process_time() - begin < 5
    assert {"title", "docstring", "first_sentence", "keywords"} <= set(pairs.counts)
    by_id = {c.chunk_id: c for c in chunks}
    per_chunk: dict[str, int] = {}
    for pair in (*pairs, *holdout_pairs(chunks)):
        anchor = " ".join(pair.anchor.casefold().split())
        assert anchor not in " ".join(pair.positive.casefold().split())
        assert by_id[pair.chunk_id].doc_id == pair.doc_id
        per_chunk[pair.chunk_id] = per_chunk.get(pair.chunk_id, 0) + 1
    assert max(per_chunk.values()) <= 5


def data_folder() -> Path:
    default = Path(__file__).resolve().parents[3] / "shared" / "data"
    return Path(os.environ.get("EMBEDWORKS_DATA", default))


@pytest.mark.parametrize(
    ("name", "expected"),
    [("cranfield", {"title", "first_sentence", "crop", "keywords"}), ("vaswani", {"crop"})],
)
def test_on_classic_collections(name: str, expected: set[str]) -> None:
    path = data_folder() / f"ir_{name}_corpus.parquet"
    if not path.exists():
        pytest.skip(f"{path.name} is not in the data folder")
    chunks = chunk_documents(list(read_documents(path))[:500])
    counts = make_pairs(chunks).counts
    assert expected <= set(counts)
    assert all(counts[source] > 300 for source in expected)


def test_documents_to_pairs_end_to_end() -> None:
    text = f"# Making tea at home\n\n{BODY}\n\n## How long should it steep?\n\n{BODY} Enough."
    chunks = chunk_documents([Document("a", text, "Making tea at home", kind="markdown")])
    pairs = make_pairs(chunks, sources={"title": 1.0, "question_heading": 1.0})
    assert {p.anchor for p in pairs} == {"Making tea at home", "How long should it steep?"}
    assert pairs.to_dict()["by_source"] == pairs.counts
