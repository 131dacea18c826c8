"""The documentation is true: its code runs, its reference is current, its links lead somewhere.

Markers in a page, each an HTML comment on a line of its own:

- ``skip: reason`` before a block: the block is not executed.
- ``needs: module`` before a block: the block is executed where the module is installed.
- ``uses: runs/docs`` anywhere: the page finds a finished run in ``runs/docs``.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import warnings
from dataclasses import dataclass
from pathlib import Path

import pytest

from embedworks._core.registry import REGISTRIES

pytest.importorskip("lancedb")
pytest.importorskip("torch")

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", *DOCS.rglob("*.md")])
LINKED = sorted([*PAGES, *ROOT.glob("*.md"), *ROOT.glob("decisions/*.md")])

#: Modules of the standard library that every page finds in the folder ``docs``.
DOCUMENTS = {"files": ("filecmp", "fileinput"), "text": ("csv", "textwrap")}

_BLOCK = re.compile(
    r"(?:^<!-- (?P<marker>skip|needs): (?P<value>[^\n]+?) -->\n)?"
    r"^```(?P<language>python|bash|sh|console)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_FENCED = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """One piece of code in a page."""

    page: Path
    line: int
    language: str
    code: str
    marker: str | None
    value: str | None

    @property
    def is_run(self) -> bool:
        if self.marker == "skip":
            return False
        if self.marker == "needs" and importlib.util.find_spec(self.value) is None:
            return False
        return self.language == "python" or self.code.startswith("embedworks ")


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            page,
            text.count("\n", 0, found.start("language")) + 1,
            found["language"],
            found["code"],
            found["marker"],
            found["value"],
        )
        for found in _BLOCK.finditer(text)
    ]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture(autouse=True)
def _registries_as_before():
    """Take back what a page registered, such as its own reader."""
    registries = [
        getattr(importlib.import_module(module), name) for module, name in REGISTRIES.values()
    ]
    before = [(dict(r._items), dict(r._summaries)) for r in registries]
    yield
    for registry, (items, summaries) in zip(registries, before, strict=True):
        registry._items, registry._summaries = items, summaries


@pytest.fixture(scope="module")
def document_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("documentation") / "docs"
    library = Path(sysconfig.get_path("stdlib"))
    for topic, modules in DOCUMENTS.items():
        (folder / topic).mkdir(parents=True)
        for module in modules:
            shutil.copy(library / f"{module}.py", folder / topic)
    return folder


@pytest.fixture(scope="module")
def finished_run(document_folder) -> Path:
    """A run to search: nothing on the pages that use it depends on training."""
    from embedworks.training import index_documents

    out = document_folder.parent / "run"
    index_documents(document_folder, out=out, model="static")
    return out


@pytest.mark.parametrize(
    "page", [p for p in PAGES if any(b.is_run for b in blocks(p))], ids=name_of
)
def test_code_runs(page, document_folder, tmp_path, monkeypatch, request):
    """Blocks of a page share a name space and a folder, and run in order."""
    shutil.copytree(document_folder, tmp_path / "docs")
    if "<!-- uses: runs/docs -->" in page.read_text(encoding="utf-8"):
        shutil.copytree(request.getfixturevalue("finished_run"), tmp_path / "runs" / "docs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # the program sets it
    space = {"__name__": "__main__"}
    for block in blocks(page):
        if not block.is_run:
            continue
        if block.language == "python":
            padded = "\n" * block.line + block.code
            exec(compile(padded, str(page), "exec"), space)
        else:
            for line in block.code.replace("\\\n", " ").splitlines():
                call(line, f"{name_of(page)}, line {block.line}")


def call(line: str, where: str) -> None:
    """Run one command line of the program."""
    from embedworks.cli.app import run

    program, *arguments = shlex.split(line, comments=True) or [""]
    if not program:
        return
    assert program == "embedworks", f"{where}: {line!r} is not a call of the program"
    with pytest.raises(SystemExit) as ended:
        run(arguments)
    assert not ended.value.code, f"{where}: {line!r} ended with {ended.value.code}"


def test_few_blocks_are_skipped():
    everything = [block for page in PAGES for block in blocks(page) if block.language == "python"]
    skipped = [block for block in everything if block.marker == "skip"]
    assert len(skipped) <= len(everything) // 10, [f"{b.page}:{b.line}" for b in skipped]


def test_the_generated_reference_is_current():
    made = subprocess.run(
        [sys.executable, str(DOCS / "make_reference.py"), "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    stale = [
        name
        for name, text in json.loads(made.stdout).items()
        if not (DOCS / "reference" / name).is_file()
        or (DOCS / "reference" / name).read_text(encoding="utf-8") != text
    ]
    assert not stale, f"{stale} are out of date. Write them again: python docs/make_reference.py"


def test_every_page_is_in_the_navigation():
    listed = set(re.findall(r"[\w./-]+\.md", (ROOT / "mkdocs.yml").read_text(encoding="utf-8")))
    assert {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")} == listed


def test_every_room_has_a_reference_page():
    rooms = {
        path.parent.name
        for path in (ROOT / "src" / "embedworks").glob("*/__init__.py")
        if not path.parent.name.startswith("_")
    }
    pages = {path.stem for path in (DOCS / "reference").glob("*.md")}
    for room in rooms:
        assert ("cli" if room == "cli" else f"embedworks.{room}") in pages


@pytest.mark.parametrize("page", LINKED, ids=name_of)
def test_links_lead_somewhere(page):
    text = _FENCED.sub("", page.read_text(encoding="utf-8"))
    for link in _LINK.findall(text):
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        found = page if not target else (page.parent / target).resolve()
        assert found.exists(), f"{name_of(page)} links to {link}, which does not exist"
        if anchor and found.suffix == ".md":
            assert anchor in anchors(found), f"{name_of(page)} links to {link}: no such heading"


def anchors(page: Path) -> set[str]:
    """Return what a link into a page may name: headings, and objects of the reference."""
    text = page.read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (.+)$", _FENCED.sub("", text), re.MULTILINE)
    slugs = {re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", h).strip().lower()) for h in headings}
    return slugs | set(re.findall(r"^::: ([\w.]+)$", text, re.MULTILINE))
