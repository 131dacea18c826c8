"""Reading folders, files and tables: what is kept, what is counted, what is an error."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path, PurePosixPath

import pytest

from embedworks.data import DocumentSet, documents, read_documents
from embedworks.data.readers import READERS, FileContent, Reader
from embedworks.errors import (
    DuplicateIdError,
    EmbedworksError,
    EmptyInputError,
    InputError,
    NotFoundError,
)


def write(folder: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        data = content.encode() if isinstance(content, str) else content
        path.write_bytes(data)
    return folder


def reasons(found: DocumentSet) -> dict[str, str]:
    return {item.path: item.reason for item in found.report.skipped}


def test_reads_a_folder_recursively_in_sorted_order(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "b.txt": "text of b",
            "a/z.md": "# Zed\n\nText.",
            "a/b/page.html": "<title>Page</title><p>Hello",
            "guide.rst": "Guide\n=====\n\nText.",
            "pkg/__init__.py": "'''Package docs.'''",
            "pkg/mod.py": "x = 1",
        },
    )
    found = read_documents(tmp_path)
    assert [d.doc_id for d in found] == [
        "a/b/page.html",
        "a/z.md",
        "b.txt",
        "guide.rst",
        "pkg/__init__.py",
        "pkg/mod.py",
    ]
    assert [d.title for d in found] == ["Page", "Zed", "b", "Guide", "pkg", "pkg.mod"]
    assert [d.kind for d in found] == ["html", "markdown", "text", "rst", "python", "python"]
    assert found[0].attributes == {"folder": "a", "suffix": ".html"}
    assert found[2].attributes == {"folder": ".", "suffix": ".txt"}
    assert found.report.n_documents == found.report.n_files == 6
    assert found.report.skipped == []
    assert list(found) == list(read_documents(tmp_path))


def test_readme_and_index_without_a_heading_are_called_after_their_folder(tmp_path: Path) -> None:
    write(tmp_path, {"tea_shop/README.md": "No heading.", "tea_shop/index.html": "<p>Hi"})
    assert [d.title for d in read_documents(tmp_path)] == ["tea shop", "tea shop"]


def test_a_package_folder_gives_full_module_names(tmp_path: Path) -> None:
    folder = write(tmp_path / "shop", {"__init__.py": "'''Shop.'''", "cart.py": "y = 2"})
    assert [d.title for d in read_documents(folder)] == ["shop", "shop.cart"]


def test_bad_files_are_listed_and_never_fatal(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "good.txt": "fine",
            "bom.txt": b"\xef\xbb\xbfwith byte-order mark",
            "empty.txt": "",
            "blank.md": " \n\t\n",
            "nul.txt": b"abc\x00def",
            "control.txt": bytes(range(1, 8)) * 20 + b"text",
            "latin1.txt": "caf\xe9".encode("latin-1"),
            "utf16.txt": "hello".encode("utf-16"),
            "big.txt": b"x" * 2000,
            "broken.pdf": b"%PDF-1.4 nonsense",
            "broken.parquet": b"PAR1 nonsense",
            "photo.png": b"\x89PNG",
            "Makefile": "all:",
            "plain.csv": "a,b\n1,2\n",
        },
    )
    found = read_documents(tmp_path, max_file_bytes=1000)
    assert {d.doc_id: d.text for d in found} == {
        "good.txt": "fine",
        "bom.txt": "with byte-order mark",
    }
    assert reasons(found) == {
        "empty.txt": "empty",
        "blank.md": "empty",
        "nul.txt": "binary",
        "control.txt": "binary",
        "latin1.txt": "not UTF-8",
        "utf16.txt": "not UTF-8",
        "big.txt": "too large",
        "broken.pdf": "damaged",
        "broken.parquet": "damaged",
        "plain.csv": "missing column",
    }
    assert dict(found.report.ignored) == {".png": 1, "": 1}
    summary = found.report.summary()
    assert "Skipped 2: empty, first blank.md" in summary
    assert "no suffix 1" in summary
    plain = json.loads(json.dumps(found.report.to_dict()))
    assert plain["skipped_by_reason"]["not UTF-8"] == 2
    assert plain["ignored"] == {".png": 1, "": 1}


def test_python_coding_lines_are_honoured(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "old.py": "# -*- coding: latin-1 -*-\nname = 'caf\xe9'\n".encode("latin-1"),
            "wrong.py": b"# -*- coding: nonsense -*-\nx = 1\n",
            "bad.py": b"x = '\xe9'\n",
        },
    )
    found = read_documents(tmp_path)
    assert [d.doc_id for d in found] == ["old.py"]
    assert "caf\xe9" in found[0].text
    assert reasons(found) == {"wrong.py": "not UTF-8", "bad.py": "not UTF-8"}


def test_hidden_and_pruned_folders_and_patterns(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            name: f"text {name}"
            for name in (
                ".hidden/a.txt",
                ".b.txt",
                "__pycache__/c.txt",
                "node_modules/d.txt",
                "test/e.txt",
                "docs/f.txt",
                "docs/g.md",
                "docs/deep/h.txt",
            )
        },
    )

    def ids(**options: object) -> list[str]:
        return [d.doc_id for d in read_documents(tmp_path, **options)]

    assert ids() == ["docs/deep/h.txt", "docs/f.txt", "docs/g.md", "test/e.txt"]
    assert ids(exclude=["test"]) == ["docs/deep/h.txt", "docs/f.txt", "docs/g.md"]
    assert ids(include=["*.md"]) == ["docs/g.md"]
    assert ids(include=["docs/*"], exclude=["docs/deep"]) == ["docs/f.txt", "docs/g.md"]
    with pytest.raises(InputError, match="include must be a list"):
        ids(include="*.md")


def test_symbolic_links(tmp_path: Path) -> None:
    outside = write(tmp_path / "outside", {"o.txt": "outside"})
    root = write(tmp_path / "root", {"a.txt": "inside", "sub/b.txt": "below"})
    (root / "loop").symlink_to(root)
    (root / "sub" / "up").symlink_to("..")
    (root / "self").symlink_to("self")
    (root / "ext").symlink_to(outside)
    (root / "link.txt").symlink_to(outside / "o.txt")
    (root / "dangling.txt").symlink_to(root / "gone.txt")
    found = read_documents(root)
    assert [d.doc_id for d in found] == ["a.txt", "sub/b.txt"]
    assert set(reasons(found).values()) == {"symbolic link"}
    assert len(found.report.skipped) == 6
    followed = read_documents(root, follow_links=True)
    assert [d.doc_id for d in followed] == ["a.txt", "ext/o.txt", "sub/b.txt"]
    assert reasons(followed)["dangling.txt"] == "vanished"
    assert {d.path: d.same_as for d in followed.report.duplicates} == {"link.txt": "ext/o.txt"}


def test_a_file_that_vanishes_while_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, {"a.txt": "one", "b.txt": "two", "c.txt": "three"})
    walk = documents._walk

    def walk_then_remove(*args: object) -> object:
        listed = list(walk(*args))  # type: ignore[arg-type]
        (tmp_path / "b.txt").unlink()
        return iter(listed)

    monkeypatch.setattr(documents, "_walk", walk_then_remove)
    found = read_documents(tmp_path)
    assert [d.doc_id for d in found] == ["a.txt", "c.txt"]
    assert reasons(found) == {"b.txt": "vanished"}


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads anything")
def test_unreadable_files_and_folders(tmp_path: Path) -> None:
    write(tmp_path, {"a.txt": "one", "b.txt": "two", "locked/c.txt": "three"})
    (tmp_path / "b.txt").chmod(0)
    (tmp_path / "locked").chmod(0)
    try:
        assert reasons(read_documents(tmp_path)) == {"b.txt": "unreadable", "locked": "unreadable"}
    finally:
        (tmp_path / "locked").chmod(0o755)


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX file names and pipes")
def test_pipes_and_names_that_are_not_utf8(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    with open(os.fsencode(tmp_path) + b"/caf\xe9.txt", "wb") as handle:
        handle.write(b"text")
    found = read_documents(tmp_path)
    assert [d.doc_id for d in found] == ["caf\ufffd.txt"]
    assert reasons(found) == {"pipe.txt": "not a regular file"}
    found[0].path.encode()


@pytest.mark.skipif(sys.platform == "win32", reason="path length limits")
def test_folders_nested_deeper_than_python_recurses(tmp_path: Path) -> None:
    paths = [tmp_path / "d"]
    for _ in range(1100):
        paths[-1].mkdir()
        paths.append(paths[-1] / "d")
    bottom = paths.pop()
    (bottom.parent / "a.txt").write_text("deep down")
    try:
        assert read_documents(tmp_path)[0].path == "d/" * 1100 + "a.txt"
    finally:  # pytest removes folders recursively, so make them shallow again
        (bottom.parent / "a.txt").unlink()
        for path in reversed(paths):
            path.rmdir()


def test_duplicates_are_removed_and_counted(tmp_path: Path) -> None:
    write(tmp_path, {"a.txt": "same  text\n", "b.txt": "same text", "c.txt": "other"})
    found = read_documents(tmp_path)
    assert [d.doc_id for d in found] == ["a.txt", "c.txt"]
    assert found.report.duplicates == [("b.txt", "a.txt")]
    assert "Removed 1 duplicates" in found.report.summary()
    assert len(read_documents(tmp_path, keep_duplicates=True)) == 3


def test_nothing_to_read_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(EmptyInputError, match=r"\.md.*\.pdf"):
        read_documents(tmp_path)
    write(tmp_path, {"a.png": b"x", "b.txt": ""})
    with pytest.raises(EmptyInputError, match=r"Skipped 1: empty.*\n?.*\.png 1"):
        read_documents(tmp_path)
    with pytest.raises(NotFoundError, match="does not exist"):
        read_documents(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"No reader|no reader.*"):
        read_documents(tmp_path / "a.png")


def test_one_file_and_one_word(tmp_path: Path) -> None:
    write(tmp_path, {"a.txt": "word"})
    assert [d.text for d in read_documents(tmp_path)] == ["word"]
    assert [d.doc_id for d in read_documents(tmp_path / "a.txt")] == ["a.txt"]


def test_front_matter_becomes_attributes(tmp_path: Path) -> None:
    text = (
        "---\ntitle: The guide\ndate: 2024-05-01\ntags: [a, b]\nnested: {x: 1}\nkind: how-to\n"
        "draft: false\n---\n# First heading\n\nText.\n"
    )
    write(tmp_path, {"a.md": text, "b.md": "---\n: : not yaml\n---\nText of b.\n"})
    found = read_documents(tmp_path)
    assert found[0].title == "The guide"
    assert found[0].attributes == {
        "date": "2024-05-01",
        "tags": "a, b",
        "kind_": "how-to",
        "draft": False,
        "folder": ".",
        "suffix": ".md",
    }
    assert dict(found.report.dropped_values) == {"nested": 1}
    assert found[1].title == "b"


def test_attribute_types_are_unified(tmp_path: Path) -> None:
    rows = [
        {"text": "a", "year": 1999, "score": 1, "flag": True, "big": 2**70},
        {"text": "b", "year": "unknown", "score": 0.5, "flag": None, "list": [1, "x"]},
        {"text": "c", "year": 2000, "score": float("nan"), "when day": "x"},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    found = read_documents(path)
    assert [d.attributes for d in found] == [
        {"year": "1999", "score_": 1.0, "flag": True, "big": str(2**70)},
        {"year": "unknown", "score_": 0.5, "list": "1, x"},
        {"year": "2000", "when_day": "x"},
    ]


TABLE = [
    {"doc_id": "007", "title": "Bond", "text": "A spy.", "year": 1962, "path": "films/bond"},
    {"doc_id": "8", "title": "", "text": "Line one\nline two, with comma.", "year": 1963},
    {"doc_id": "9", "title": "Only a title", "text": "", "year": 1964},
    {"doc_id": "10", "title": "", "text": "   ", "year": 1965},
    {"doc_id": "11", "title": "Copy", "text": "A spy.", "year": 1966},
]


@pytest.mark.parametrize("suffix", ["jsonl", "parquet", "csv", "tsv"])
def test_tables(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"films.{suffix}"
    if suffix == "jsonl":
        path.write_text("\n".join(json.dumps(row) for row in TABLE) + "\n\n")
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if suffix == "parquet":
            pq.write_table(pa.Table.from_pylist(TABLE), path)
        else:
            import csv

            with open(path, "w", newline="", encoding="utf-8") as handle:
                dialect = "excel-tab" if suffix == "tsv" else "excel"
                writer = csv.DictWriter(handle, list(TABLE[0]), dialect=dialect)
                writer.writeheader()
                writer.writerows(TABLE)
    found = read_documents(path)
    assert [(d.doc_id, d.title, d.text, d.path) for d in found] == [
        ("007", "Bond", "A spy.", "films/bond"),
        ("8", "", "Line one\nline two, with comma.", path.name),
        ("9", "", "Only a title", path.name),
        ("11", "Copy", "A spy.", path.name),
    ]
    assert all(d.kind == "row" for d in found)
    assert [d.attributes["year"] for d in found] == [1962, 1963, 1964, 1966]
    assert [tuple(s) for s in found.report.skipped] == [
        (path.name, "rows without text", "1 rows: 4")
    ]


def test_table_columns_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"body": "words", "key": "k"}\n{"body": "more", "key": "k"}\n')
    with pytest.raises(InputError, match=r"no column 'text'; its columns are 'body', 'key'"):
        read_documents(path)
    with pytest.raises(InputError, match=r"Did you mean 'body'\? Set text_column"):
        read_documents(path, text_column="bodi")
    with pytest.raises(InputError, match=r"Did you mean 'key'\? Set id_column"):
        read_documents(path, text_column="body", id_column="keys")
    with pytest.raises(InputError, match="Set title_column"):
        read_documents(path, text_column="body", title_column="headline")
    with pytest.raises(DuplicateIdError, match="'k' occurs more than once in t.jsonl"):
        read_documents(path, text_column="body", id_column="key")
    assert [d.doc_id for d in read_documents(path, text_column="body")] == [
        "t.jsonl#1",
        "t.jsonl#2",
    ]


def test_tables_inside_a_folder_have_their_path_in_the_id(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"id": 1, "text": f"text of {name}"}))
    assert [d.doc_id for d in read_documents(tmp_path)] == ["a.jsonl#1", "b.jsonl#1"]


def test_damaged_rows_and_odd_values(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    lines = [
        '{"id": "a", "text": "good"}',
        "{broken",
        "[1, 2]",
        '{"id": "", "text": "no id"}',
        '{"id": "b", "text": 12}',
        '{"id": "c", "text": "half \\ud800 pair and \\u0000 nul"}',
        '{"id": "d"}',
        "[" * 100_000,
    ]
    path.write_text("\n".join(lines))
    found = read_documents(path)
    assert [(d.doc_id, d.text) for d in found] == [
        ("a", "good"),
        ("b", "12"),
        ("c", "half \ufffd pair and   nul"),
    ]
    assert {s.reason: s.detail for s in found.report.skipped} == {
        "rows without text": "1 rows: 7",
        "rows without id": "1 rows: 4",
        "damaged rows": "3 rows: 2, 3, 8",
    }


def test_a_csv_row_with_too_many_fields_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("id,text\n1,one\n2,two,three\n3," + "long " * 100_000 + "\n")
    found = read_documents(path)
    assert [d.doc_id for d in found] == ["1", "3"]
    assert [s.reason for s in found.report.skipped] == ["damaged rows"]


def test_a_table_that_is_no_table_is_an_error_when_it_is_the_source(tmp_path: Path) -> None:
    for name, data in (
        ("a.csv", b"caf\xe9,text\n"),
        ("b.csv", b"text,text\n1,2\n"),
        ("c.csv", b""),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(EmbedworksError):
            read_documents(tmp_path / name)


def test_pdf(tmp_path: Path) -> None:
    pytest.importorskip("pypdf")
    write(tmp_path, {"two pages.pdf": tiny_pdf(["Hello first page", "Second page here"])})
    (document,) = read_documents(tmp_path)
    assert (document.kind, document.title) == ("pdf", "two pages")
    assert document.text.split("\n\f\n") == ["Hello first page", "Second page here"]
    assert document.attributes["pages"] == 2


def test_pdf_without_the_extra_is_counted_with_the_install_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pypdf", None)
    write(tmp_path, {"a.pdf": tiny_pdf(["Hello"]), "b.txt": "text"})
    found = read_documents(tmp_path)
    assert reasons(found) == {"a.pdf": "missing extra"}
    assert "pip install 'embedworks[pdf]'" in found.report.summary()


def test_a_reader_can_be_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(path: PurePosixPath, data: bytes) -> FileContent:
        return FileContent(data.decode()[::-1], path.stem, "text")

    monkeypatch.setitem(READERS._items, ".rev", Reader(read_file=read))
    write(tmp_path, {"a.rev": "cba"})
    assert read_documents(tmp_path)[0].text == "abc"


def tiny_pdf(pages: list[str]) -> bytes:
    """A minimal PDF with one line of text per page."""
    objects = ["<< /Type /Catalog /Pages 2 0 R >>"]
    kids = " ".join(f"{4 + 2 * i} 0 R" for i in range(len(pages)))
    objects.append(f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>")
    objects.append("<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>")
    for i, text in enumerate(pages):
        stream = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET"
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {5 + 2 * i} 0 R "
            "/Resources << /Font << /F1 3 0 R >> >> >>"
        )
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
    out = b"%PDF-1.4\n"
    offsets = []
    for number, body in enumerate(objects, 1):
        offsets.append(len(out))
        out += f"{number} 0 obj\n{body}\nendobj\n".encode()
    start = len(out)
    out += f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n".encode()
    out += b"".join(f"{o:010d} 00000 n \n".encode() for o in offsets)
    out += f"trailer << /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{start}\n%%EOF".encode()
    return out
