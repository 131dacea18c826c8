"""The pair sources that come with the library; see `pairs` for what a source is."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

import numpy as np

from embedworks.data._sections import SEPARATOR
from embedworks.data._sentences import sentences
from embedworks.data._words import name_words, word_list
from embedworks.data.chunking import Chunk, with_title
from embedworks.data.pairs import PairCorpus, RawPair

__all__ = [
    "crop",
    "docstring",
    "first_sentence",
    "keywords",
    "question_heading",
    "related_terms",
    "title",
]

_QUESTION = re.compile(
    r"(?:how|what|why|when|where|which|who|whose|can|could|should|does|do|did|is|are|will)\b"
    r"(?!\s*['’]s\s+new\b)",
    re.IGNORECASE,
)
_GENERIC = word_list(
    """
    abstract acknowledgements api appendix arguments attributes background basics changelog
    classes conclusion configuration contents credits data description details discussion
    documentation example examples faq features functions general getting help index info
    installation install introduction license links main methods misc module more notes
    options other overview parameters params reference references remarks requirements
    results return returns see setup start summary syntax tests todo tutorial usage values
    version
    """
)
_QUOTES = re.compile(r"""^[ \t]*[rRuU]{0,2}(?P<q>\"{3}|'{3}|"|')(?P<body>.*?)(?P=q)\s*$""", re.S)
_MARKUP = re.compile(r":[a-zA-Z][\w:]*:(?=`)|[`*]+|\s+$")
_FIELD = re.compile(r"^\s*(?:@|:(?:param|returns?|raises|type|rtype)\b|>>>|Args:|Returns:)", re.M)

_MIN_WORDS = 4
_MAX_WORDS = 48


def _is_name(text: str) -> bool:
    return " " not in text and ("." in text or "_" in text or text[:1].islower())


def title(corpus: PairCorpus) -> Iterator[RawPair]:
    """Heading -> the section's text; dotted name in words -> the code; title -> the row."""
    for index, chunk in enumerate(corpus.chunks):
        if chunk.title and chunk.part == 0:
            anchor = _title_query(chunk)
            if anchor:
                yield RawPair(index, anchor, _without_start(chunk.text, chunk.title))


def question_heading(corpus: PairCorpus) -> Iterator[RawPair]:
    """A heading that asks -> the section's text."""
    for index, chunk in enumerate(corpus.chunks):
        leaf = chunk.title.rsplit(SEPARATOR, 1)[-1]
        asks = leaf.endswith("?") or (_QUESTION.match(leaf) and leaf.count(" ") >= 2)
        if asks and chunk.part == 0 and not _is_name(leaf):
            yield RawPair(index, leaf, _without_start(chunk.text, leaf))


def docstring(corpus: PairCorpus) -> Iterator[RawPair]:
    """Summary line of a docstring -> the code without its docstring."""
    for index, chunk in enumerate(corpus.chunks):
        if chunk.docstring_span is None:
            continue
        start, end = chunk.docstring_span
        match = _QUOTES.match(chunk.text[start:end])
        if match is None:
            continue
        summary = _summary(inspect.cleandoc(match["body"]))
        code = (chunk.text[:start] + chunk.text[end:]).strip("\n")
        if 2 <= summary.count(" ") < _MAX_WORDS:
            yield RawPair(index, summary, with_title(chunk.title, code))


def first_sentence(corpus: PairCorpus) -> Iterator[RawPair]:
    """First sentence of a passage -> the rest of it."""
    for index, chunk in enumerate(corpus.chunks):
        spans = corpus.sentences[index]
        if len(spans) < 2 or chunk.part > 0:
            continue
        (start, end), text = spans[0], chunk.text
        first = text[start:end]
        if _MIN_WORDS <= len(first.split()) <= _MAX_WORDS and re.search(r"[^\W\d]{3}", first):
            rest = text[end:].strip()
            yield RawPair(index, first, _titled(chunk, first, rest))


def crop(corpus: PairCorpus) -> Iterator[RawPair]:
    """One or two sentences, or a run of words -> the passage without them.

    In a text without sentence ends every second crop is taken from the beginning, where
    abstracts have their title.
    """
    rng = corpus.rng("crop")
    for index, chunk in enumerate(corpus.chunks):
        draw = rng.random(3)
        if chunk.kind != "prose":
            continue
        spans = corpus.sentences[index]
        place = _crop_sentences(spans, draw) if len(spans) >= 3 else None
        if place is None:
            place = _crop_words(chunk.text, draw, whole=len(spans) < 2)
        if place is None:
            continue
        start, end = place
        anchor = chunk.text[start:end]
        if len(anchor.split()) >= _MIN_WORDS:
            rest = f"{chunk.text[:start].rstrip()} {chunk.text[end:].lstrip()}".strip()
            yield RawPair(index, anchor, _titled(chunk, anchor, rest))


def keywords(corpus: PairCorpus) -> Iterator[RawPair]:
    """Some of the passage's most specific words, as a short query -> the passage."""
    rng = corpus.rng("keywords")
    for index, chunk in enumerate(corpus.chunks):
        count = int(rng.integers(3, 9))
        chosen = corpus.terms.pick(index, count, rng)
        if len(chosen) < 3:
            continue
        text = chunk.embedding_text
        folded = text.lower()
        chosen.sort(key=lambda word: (folded.find(word), word))
        yield RawPair(index, " ".join(chosen), text)


def related_terms(corpus: PairCorpus) -> Iterator[RawPair]:
    """What one passage is called -> a passage of another document with the same rare terms."""
    taken: set[int] = set()
    for first, second, _ in corpus.terms.related():
        a, b = corpus.chunks[first], corpus.chunks[second]
        if a.doc_id == b.doc_id:
            continue
        for index, other, chunk in ((second, a, b), (first, b, a)):
            if index in taken:
                continue
            anchor = _title_query(other) if other.part == 0 else ""
            if anchor.count(" ") < 2:
                anchor = _opening(other)
            if anchor:
                taken.add(index)
                yield RawPair(index, anchor, chunk.embedding_text)


def _title_query(chunk: Chunk) -> str:
    """Words somebody might type for a title: names split, generic headings with their parent."""
    parts = chunk.title.split(SEPARATOR)
    if chunk.kind == "code" or (len(parts) == 1 and _is_name(parts[0]) and "." in parts[0]):
        names = chunk.title.split(".")
        if re.fullmatch(r"__\w+__", names[-1]):
            return ""  # special methods are named alike everywhere
        words = name_words(".".join(names[-2:]))
        return " ".join(w for i, w in enumerate(words) if w not in words[:i])
    leaf = parts[-1]
    words = [w for w in re.findall(r"\w+", leaf.lower()) if w not in _GENERIC]
    if len(words) < 2 and len(parts) > 1:
        return f"{parts[-2]} {leaf}"
    return leaf


def _without_start(text: str, title: str) -> str:
    """Remove a title repeated at the beginning of a text."""
    body = text.lstrip()
    known = title.rstrip(" .")
    if known and body[: len(known)].casefold() == known.casefold():
        return body[len(known) :].lstrip(" .:\n-")
    return text


def _titled(chunk: Chunk, anchor: str, rest: str) -> str:
    """Put the title before a passage as in a search, unless it gives the anchor away."""
    known = " ".join(chunk.title.casefold().split())
    same = " ".join(anchor.casefold().split())
    return rest if known in same or same in known else with_title(chunk.title, rest)


def _summary(text: str) -> str:
    """First sentence of a docstring's first paragraph, without markup."""
    paragraph = text.strip().split("\n\n", 1)[0]
    field = _FIELD.search(paragraph)
    if field:
        paragraph = paragraph[: field.start()]
    paragraph = _MARKUP.sub("", paragraph)
    spans = sentences(paragraph)
    return " ".join(paragraph[spans[0][0] : spans[0][1]].split()) if spans else ""


def _opening(chunk: Chunk) -> str:
    if chunk.kind == "code":
        return ""
    spans = sentences(chunk.text)
    words = chunk.text[spans[0][0] : spans[0][1]].split() if spans else []
    return " ".join(words[:12]) if len(words) >= _MIN_WORDS else ""


def _crop_sentences(spans: list[tuple[int, int]], draw: np.ndarray) -> tuple[int, int] | None:
    """One or two neighbouring sentences, not the first, leaving at least one other."""
    count = 2 if draw[0] < 0.3 and len(spans) >= 4 else 1
    first = 1 + int(draw[1] * (len(spans) - count))
    last = min(first + count, len(spans)) - 1
    return spans[first][0], spans[last][1]


def _crop_words(text: str, draw: np.ndarray, *, whole: bool) -> tuple[int, int] | None:
    """A run of 4 to 32 words, at most two fifths of the text."""
    words = [m.span() for m in re.finditer(r"\S+", text)]
    most = min(32, len(words) * 2 // 5)
    if most < _MIN_WORDS:
        return None
    count = _MIN_WORDS + int(draw[0] * (most - _MIN_WORDS + 1))
    free = len(words) - count
    at = 0 if whole and draw[2] < 0.5 else int(draw[1] * (free + 1))
    return words[at][0], words[at + count - 1][1]
