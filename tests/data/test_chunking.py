"""Chunks: limits, spans, titles, joining, and that nothing is lost."""

from __future__ import annotations

import os
import re
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedworks.data import (
    Chunk,
    Document,
    chunk_documents,
    estimate_tokens,
    read_documents,
)
from embedworks.errors import DuplicateIdError, EmptyInputError, InputError


def squeezed(text: str) -> str:
    return re.sub(r"\s+", "", text)


def assert_lines_hold_the_text(document: Document, chunk: Chunk) -> None:
    """Each line of the chunk is found in the document's lines, in order, inside the span."""
    lines = document.text.split("\n")[chunk.start_line - 1 : chunk.end_line]
    rest = iter(lines)
    for line in chunk.text.split("\n"):
        wanted = squeezed(line)
        assert not wanted or any(wanted in squeezed(candidate) for candidate in rest), (
            chunk.chunk_id,
            line,
        )


MARKDOWN = """---
title: Tea
---
Some words before any heading.

# Making tea

Boil the water. Warm the pot.

## How long should it steep?

Three minutes for black tea, and two minutes for green tea.

```python
# not a heading
steep(minutes=3)
```

Setext title
------------

More text under the setext title, with a [link](http://example.org).

## Empty section

# Milk
"""


def markdown(text: str = MARKDOWN, **options: int) -> list[Chunk]:
    document = Document("tea.md", text, "Tea", "tea.md", "markdown", {"folder": "."})
    chunks = list(chunk_documents([document], **options))
    for chunk in chunks:
        assert_lines_hold_the_text(document, chunk)
    return chunks


def test_markdown_sections_keep_breadcrumb_lines_and_attributes() -> None:
    chunks = markdown(min_tokens=0)
    assert [(c.title, c.start_line, c.end_line) for c in chunks] == [
        ("Tea", 4, 4),
        ("Tea > Making tea", 8, 8),
        ("Tea > Making tea > How long should it steep?", 12, 17),
        ("Tea > Making tea > Setext title", 22, 22),
        ("Tea > Making tea > Empty section", 24, 24),
        ("Tea > Milk", 26, 26),
    ]
    assert chunks[2].text.startswith("Three minutes")
    assert chunks[2].text.endswith("```")
    assert [c.text for c in chunks[-2:]] == ["Empty section", "Milk"]
    assert all(c.attributes == {"folder": "."} and c.path == "tea.md" for c in chunks)
    assert [c.chunk_id for c in chunks] == [f"tea.md#{i}" for i in range(6)]


def test_small_neighbours_are_joined_under_their_common_title() -> None:
    document = Document(
        "a", "# A\n\nOne.\n\n## B\n\nTwo.\n\n## C\n\nThree.\n", "A", kind="markdown"
    )
    found = chunk_documents([document])
    assert [(c.title, c.text) for c in found] == [("A", "One.\nB\nTwo.\nC\nThree.")]
    assert (found[0].start_line, found[0].end_line) == (3, 11)
    assert found.counts["merged"] == 3
    assert_lines_hold_the_text(document, found[0])


def test_embedding_text_shows_the_title_once() -> None:
    assert Chunk("a#0", "a", "Body.", "Title").embedding_text == "Title\nBody."
    assert Chunk("a#0", "a", "title of it. Body.", "Title of it.").embedding_text == (
        "title of it. Body."
    )
    assert Chunk("a#0", "a", "Body.").embedding_text == "Body."


def test_rows_that_fit_are_one_chunk() -> None:
    rows = [Document(str(i), f"\n text of row {i}\nmore\n", "Row", kind="row") for i in range(3)]
    found = chunk_documents(rows)
    assert [c.text for c in found] == [f"text of row {i}\nmore" for i in range(3)]
    assert {(c.start_line, c.end_line) for c in found} == {(2, 3)}


def test_pages_of_a_pdf() -> None:
    text = "\n\f\n".join(["First page. " * 30, "", "Third page. " * 30])
    document = Document("a.pdf", text, "A", "a.pdf", "pdf", {"pages": 3})
    found = chunk_documents([document])
    assert [(c.attributes["page"], c.start_line) for c in found] == [(1, 1), (3, 5)]


def test_html() -> None:
    page = """<html><head><title>Shop &amp; co</title><style>p {}</style></head>
<body><nav>Home | About</nav>
<h1>Shop</h1>
<p>We sell <b>tea</b>
and milk.</p>
<script>alert("no")</script>
<h2>Prices</h2>
<table><tr><th>Tea</th><td>3</td></tr>
<tr><th>Milk</th><td>1</td></tr></table>
<ul><li>cash<li>card</ul>
<pre>
def pay():
    return 3
</pre>
<footer>Imprint</footer>
</body></html>"""
    document = Document("a.html", page, "Shop & co", kind="html")
    found = chunk_documents([document], min_tokens=0)
    assert [c.title for c in found] == ["Shop & co > Shop", "Shop & co > Shop > Prices"]
    assert found[0].text == "We sell tea\nand milk."
    assert (found[0].start_line, found[0].end_line) == (4, 5)
    lines = [line for line in found[1].text.split("\n") if line]
    assert lines == ["Tea 3", "Milk 1", "- cash", "- card", "def pay():", "    return 3"]
    assert (found[1].start_line, found[1].end_line) == (8, 13)


def test_unclosed_and_odd_html_keeps_its_text() -> None:
    page = "<p>one<p>two <nav>menu <div>x</nav> three <unknown>four</p></p></div> &lt;five&gt; <"
    found = chunk_documents([Document("a", page, "", kind="html")])
    words = found[0].text.split()
    assert [w for w in words if w != "<"] == ["one", "two", "three", "four", "<five>"]


def test_html_without_visible_text_is_counted() -> None:
    documents = [
        Document("a", "<script>x()</script>", "", kind="html"),
        Document("b", "words"),
    ]
    found = chunk_documents(documents)
    assert found.without_text == ("a",)
    assert "1 documents have no text" in found.summary()
    with pytest.raises(EmptyInputError, match="None of the 1 documents has text"):
        chunk_documents(documents[:1])


RST = """\
.. _target:

=========
 Threads
=========

.. module:: threading
   :synopsis: Threads.

.. index:: single: thread

This module builds on :mod:`_thread`; see :class:`~threading.Thread` and ``lock``.

.. note::

   Take *care* with `the guide <http://x.y>`_.

.. versionadded:: 3.2
   The timeout argument.

Locks
-----

.. function:: acquire(blocking=True)

   Acquire the lock::

      with lock:
          work()

.. A comment that goes
   over two lines.

.. image:: picture.png
   :alt: picture

Text after.
"""


def test_rst() -> None:
    document = Document("a.rst", RST, "Threads", kind="rst")
    found = chunk_documents([document], min_tokens=0)
    assert [c.title for c in found] == ["Threads", "Threads > Locks"]
    first, second = found[0].text, found[1].text
    assert "This module builds on _thread; see threading.Thread and lock." in first
    assert "Take *care* with the guide." in first
    assert "The timeout argument." in first
    assert not re.search(r"synopsis|index|target|::\s*$|note::", first)
    assert second.startswith("acquire(blocking=True)")
    assert "    work()" in second
    assert "comment" not in second
    assert "picture" not in second
    assert second.endswith("Text after.")
    assert (found[1].start_line, found[1].end_line) == (24, 37)


PYTHON = '''\
"""Module docs.

More about it.
"""
import os

LIMIT = 3


# Why this exists.
@decorated
def top(a, b=2):
    """Add two numbers.

    Long story.
    """
    return a + b


class Pot(object):
    """A tea pot."""

    size = 1

    def __init__(self, size):
        self.size = size

    async def pour(self, cup):
        """Pour into the cup."""
        def inner():
            return cup
        return inner()

    class Lid:
        """Lid of the pot."""


if LIMIT:
    def conditional():
        """Only sometimes."""
        return 1
'''


def test_python() -> None:
    document = Document("m.py", PYTHON, "pkg.m", "m.py", "python")
    found = chunk_documents([document], min_tokens=0)
    assert [(c.title, c.kind, c.start_line, c.end_line) for c in found] == [
        ("pkg.m", "prose", 1, 3),
        ("pkg.m", "code", 5, 7),
        ("pkg.m.top", "code", 10, 17),
        ("pkg.m.Pot", "code", 20, 34),
        ("pkg.m.Pot.__init__", "code", 25, 26),
        ("pkg.m.Pot.pour", "code", 28, 32),
        ("pkg.m.Pot.Lid", "code", 34, 35),
        ("pkg.m", "code", 38, 38),
        ("pkg.m.conditional", "code", 39, 41),
    ]
    by_title = {c.title: c for c in found}
    assert found[0].text == "Module docs.\n\nMore about it."
    top = by_title["pkg.m.top"]
    assert top.text.startswith("# Why this exists.\n@decorated\ndef top")
    assert top.docstring_span is not None
    start, end = top.docstring_span
    assert top.text[:start] + top.text[end:] == (
        "# Why this exists.\n@decorated\ndef top(a, b=2):\n    return a + b"
    )
    pot = by_title["pkg.m.Pot"].text
    assert "def __init__(self, size):" in pot
    assert "async def pour(self, cup):" in pot
    assert "self.size = size" not in pot
    for chunk in found:
        assert_lines_hold_the_text(document, chunk)


def test_python_that_does_not_parse_is_cut_as_text_and_counted() -> None:
    document = Document("old.py", 'print "hello"\n', "old", kind="python")
    found = chunk_documents([document])
    assert found.unparsed == ("old.py",)
    assert (found[0].kind, found[0].text) == ("code", 'print "hello"')


def test_ten_megabytes_on_one_line_are_cut_in_linear_time() -> None:
    for text in ("x" * 10_000_000, "word " * 200_000, "Tea is good. " * 80_000):
        begin = time.process_time()
        found = chunk_documents([Document("a", text)])
        assert time.process_time() - begin < 10
        assert squeezed("".join(c.text for c in found)) == squeezed(text)
        assert found.longest <= 256
        assert found.counts["split"] == 1
        assert {(c.start_line, c.end_line) for c in found} == {(1, 1)}


def clumsy_count(texts: list[str]) -> list[int]:
    """Counts that do not add up: two special tokens, and characters by threes."""
    return [2 + -(-len(t) // 3) for t in texts]


TEXTS = st.text(alphabet=st.sampled_from("aB1 .\n\t-#!é漢🙂"), min_size=1, max_size=600).filter(
    str.strip
)


@settings(max_examples=150, deadline=None)
@given(
    text=TEXTS,
    title=st.sampled_from(["", "Tea", "A title of many words " * 12, "x" * 400]),
    max_tokens=st.sampled_from([16, 40]),
    clumsy=st.booleans(),
    kind=st.sampled_from(["text", "row"]),
)
def test_no_word_is_lost_and_no_limit_broken(
    text: str, title: str, max_tokens: int, clumsy: bool, kind: str
) -> None:
    count = clumsy_count if clumsy else estimate_tokens
    document = Document("a", text, " ".join(title.split()), kind=kind)
    found = chunk_documents([document], max_tokens=max_tokens, min_tokens=0, count_tokens=count)
    assert squeezed("".join(c.text for c in found)) == squeezed(text)
    sizes = count([c.embedding_text for c in found])
    assert list(sizes) == [c.n_tokens for c in found]
    assert max(sizes) <= max_tokens
    lines = text.split("\n")
    for chunk in found:
        span = lines[chunk.start_line - 1 : chunk.end_line]
        assert chunk.text in "\n".join(span)
        assert span[0].strip()
        assert span[-1].strip()


@settings(max_examples=100, deadline=None)
@given(
    lines=st.lists(
        st.sampled_from(
            [
                "# A",
                "## B b",
                "### C",
                "text one.",
                "two",
                "",
                "```",
                "===",
                "---",
                "- item",
                "    x",
            ]
        ),
        min_size=1,
        max_size=40,
    ),
    min_tokens=st.sampled_from([0, 8, 16]),
)
def test_markdown_keeps_every_word(lines: list[str], min_tokens: int) -> None:
    text = "\n".join(lines)
    document = Document("a", text, "Doc", kind="markdown")
    try:
        found = chunk_documents([document], max_tokens=16, min_tokens=min_tokens)
    except EmptyInputError:
        return
    seen = " ".join(f"{c.title} {c.text}" for c in found)
    for word in re.findall(r"\w+", text):
        assert re.search(rf"\b{word}\b", seen), word
    for chunk in found:
        assert chunk.n_tokens <= 16
        assert_lines_hold_the_text(document, chunk)


def test_long_titles_are_shortened_and_counted() -> None:
    title = "Outer heading of many words here > " + "inner " * 40
    document = Document("a", "Body text.", " ".join(title.split()))
    found = chunk_documents([document], max_tokens=16, min_tokens=0)
    assert found.counts["titles_shortened"] == 1
    assert found[0].title.startswith("inner inner")
    assert "1 titles were too long" in found.summary()


def test_parts_are_about_equal() -> None:
    text = "\n\n".join("One sentence of seven words stands here." for _ in range(40))
    found = chunk_documents([Document("a", text)], max_tokens=100, min_tokens=0)
    sizes = [c.n_tokens for c in found]
    assert min(sizes) > 60
    assert [c.part for c in found] == list(range(len(found)))


def test_bad_arguments() -> None:
    document = Document("a", "text")
    with pytest.raises(InputError, match="max_tokens must be in"):
        chunk_documents([document], max_tokens=4)
    with pytest.raises(InputError, match="min_tokens must be in"):
        chunk_documents([document], max_tokens=32, min_tokens=64)
    with pytest.raises(EmptyInputError):
        chunk_documents([])
    with pytest.raises(DuplicateIdError):
        chunk_documents([document, document])


def test_a_model_tokenizer_counts(tmp_path: Path) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordPiece
    from tokenizers.pre_tokenizers import BertPreTokenizer
    from tokenizers.processors import TemplateProcessing

    vocabulary = {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "tea": 3, "##s": 4, ".": 5}
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )

    def count(texts: list[str]) -> list[int]:
        return [len(e.ids) for e in tokenizer.encode_batch(texts)]

    text = "teas tea. " * 200 + "y" * 5000
    found = chunk_documents([Document("a", text, "tea")], max_tokens=32, count_tokens=count)
    assert squeezed("".join(c.text for c in found)) == squeezed(text)
    assert max(count([c.embedding_text for c in found])) <= 32
    assert max(len(c.text) for c in found) <= 32 * 16


def test_the_standard_library_in_seconds() -> None:
    folder = Path(os.__file__).parent
    names = ["json", "email", "http", "asyncio", "urllib"]
    documents = read_documents(
        folder, include=[f"{n}/*.py" for n in names], exclude=["test", "site-packages"]
    )
    begin = time.process_time()
    found = chunk_documents(documents)
    assert time.process_time() - begin < 10
    by_id = {d.doc_id: d for d in documents}
    for chunk in found:
        assert_lines_hold_the_text(by_id[chunk.doc_id], chunk)
    titles = {c.title for c in found}
    assert {"json.dumps", "http.client.HTTPConnection.request", "asyncio.Queue"} & titles
    assert "json.decoder.JSONDecoder" in titles
    assert sys.version_info >= (3, 11)
