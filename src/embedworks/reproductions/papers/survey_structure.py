"""Survey on general-purpose embeddings, structure: do links between documents help?"""

from __future__ import annotations

import ast
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from embedworks import load
from embedworks.index import smooth_over_links
from embedworks.reproductions import Arm, Comparison, Context, Outcome, Reproduction, Tuning

__all__ = ["ENTRIES", "LinkedModules", "stdlib_modules"]

_TEXT, _LINKED, _SHUFFLED, _LINKS = "text", "text and links", "shuffled links", "links alone"


@dataclass(frozen=True)
class LinkedModules:
    """Modules with a text each, and which of them import which.

    Attributes:
        names: N dotted names.
        texts: N texts: the names of what a module defines, and its docstrings, without imports.
        links: int (L, 2), rows of an importing and an imported module, each pair once.
    """

    names: tuple[str, ...]
    texts: tuple[str, ...]
    links: np.ndarray


def stdlib_modules(most: int = 2000) -> LinkedModules:
    """Read the modules of this Python's standard library that say something about themselves.

    A module's text is its docstring and the names and docstrings of its functions and classes, cut
    at ``most`` characters. Import statements are not in it, and names of imported modules are
    taken out of it: a link must not be readable.
    """
    root = Path(sysconfig.get_path("stdlib"))
    trees: dict[str, ast.Module] = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if any(p.startswith("_") or p in ("test", "tests", "site-packages") for p in parts[:-1]):
            continue
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if not name or (parts[-1].startswith("_") and parts[-1] != "__init__"):
            continue
        try:
            trees[name] = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError, ValueError):
            continue
    imported = {name: _imports(name, tree, trees) for name, tree in trees.items()}
    texts = {}
    for name, tree in trees.items():
        hidden = {part for other in imported[name] for part in other.split(".")}
        words = [word for word in _said(tree).split() if word.strip("`.,:()'\"") not in hidden]
        if len(words) >= 20:
            texts[name] = " ".join(words)[:most]
    names = tuple(sorted(texts))
    place = {name: i for i, name in enumerate(names)}
    links = {
        tuple(sorted((place[name], place[other])))
        for name in names
        for other in imported[name]
        if other in place and other != name
    }
    return LinkedModules(names, tuple(texts[n] for n in names), np.array(sorted(links)))


def _imports(name: str, tree: ast.Module, known: Mapping[str, ast.Module]) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = name.split(".")[: len(name.split(".")) - node.level] if node.level else []
            whole = ".".join([*above, *([node.module] if node.module else [])])
            found.add(whole)
            found.update(f"{whole}.{alias.name}" for alias in node.names)
    return {other for other in found if other in known and other != name}


def _said(tree: ast.Module) -> str:
    said = [ast.get_docstring(tree) or ""]
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            said.append(f"{node.name.replace('_', ' ')}: {ast.get_docstring(node) or ''}")
    return " ".join(" ".join(said).split())


@dataclass(frozen=True)
class _Split:
    known: np.ndarray
    hidden: np.ndarray


def _split(links: np.ndarray, seed: int, part: str, share: float) -> _Split:
    """Hide a share of the links; for validation another share of what is left."""
    order = np.random.default_rng([seed, 11]).permutation(len(links))
    count = round(share * len(links))
    test, rest = order[:count], order[count:]
    if part == "test":
        return _Split(links[rest], links[test])
    return _Split(links[rest[count:]], links[rest[:count]])


def _ranks(vectors: np.ndarray, split: _Split, names: tuple[str, ...]) -> dict[str, float]:
    """Return for each end of a hidden link the reciprocal rank of the other end.

    Ranked are all modules that the end is not known to be linked with.
    """
    scores = vectors @ vectors.T
    np.fill_diagonal(scores, -np.inf)
    scores[split.known[:, 0], split.known[:, 1]] = -np.inf
    scores[split.known[:, 1], split.known[:, 0]] = -np.inf
    found = {}
    for one, two in [*split.hidden.tolist(), *split.hidden[:, ::-1].tolist()]:
        better = int((scores[one] > scores[one, two]).sum())
        equal = int((scores[one] == scores[one, two]).sum()) - 1
        found[f"{names[one]} {names[two]}"] = 1.0 / (1 + better + equal / 2)
    return found


def _shuffled(links: np.ndarray, seed: int) -> np.ndarray:
    """Give every link another end; how often a module is an end stays as it is."""
    rng = np.random.default_rng([seed, 13])
    return np.stack([links[:, 0], rng.permutation(links[:, 1])], axis=1)


def _run(arm: Arm, seed: int, settings: Mapping[str, Any], context: Context) -> Outcome:
    modules = context.once(("modules",), stdlib_modules)
    split = _split(modules.links, seed, context.part, settings["hidden"])
    own = context.once(
        ("vectors", settings["model"]),
        lambda: np.asarray(load(settings["model"]).encode(list(modules.texts)), dtype=np.float64),
    )
    vectors, links = own - own.mean(axis=0), split.known
    if arm["text"] == "none":
        vectors = np.random.default_rng([seed, 17]).normal(size=own.shape)
    if arm["links"] == "shuffled":
        links = _shuffled(links, seed)
    share = context.setting("share", 0.3) if arm["links"] != "none" else 0.0
    moved = smooth_over_links(vectors, links, share=share, steps=int(context.setting("steps", 2)))
    return Outcome(
        {"modules": len(modules.names), "links": len(modules.links)},
        {"mrr": _ranks(moved.astype(np.float64), split, modules.names)},
    )


ENTRIES = (
    Reproduction(
        slug="survey-gpte-structure",
        paper="On the Role of Pretrained Language Models in General-Purpose Text Embeddings: A "
        "Survey",
        arxiv="2507.20783",
        claim="Text vectors that are smoothed over known links find unknown links better than the "
        "text alone.",
        falsifier="The reciprocal rank of hidden links is not higher with smoothing, or links that "
        "were dealt out anew help as much.",
        arms=(
            Arm(_TEXT, "vectors of the texts", {"text": "own", "links": "none"}, _LINKED),
            Arm(_LINKED, "smoothed over the known links", {"text": "own", "links": "own"}),
            Arm(
                _SHUFFLED, "smoothed over as many links to other modules",
                {"text": "own", "links": "shuffled"},
            ),
            Arm(
                _LINKS, "random vectors, smoothed over the known links",
                {"text": "none", "links": "own"},
            ),
        ),
        decisive=Comparison.between(_LINKED, _TEXT, "mrr", margin=0.01),
        conditions=(
            Comparison.between(_TEXT, _SHUFFLED, "mrr", claim="not_worse", margin=0.01),
        ),
        secondary=(
            Comparison.between(_LINKED, _LINKS, "mrr", name="text adds to links"),
            Comparison.between(_LINKS, _TEXT, "mrr", name="links alone against text alone"),
        ),
        run=_run,
        seeds=5,
        tuning=Tuning(
            {"share": (0.1, 0.3, 0.5, 0.7, 0.9), "steps": (1, 2, 4)}, metric="mrr", seeds=(1000,)
        ),
        scales={"mini": {"model": "static", "hidden": 0.2}},
        setup="Modules of the standard library, linked where one imports another. A module's text "
        "is what it says of itself: docstrings and names of functions and classes, without the "
        "names of the modules it imports. A fifth of the links is hidden; each end of a hidden "
        "link ranks all modules that it is not known to be linked with, and the reciprocal rank "
        "of the other end counts. Vectors are those of the bundled static model, centred. Share "
        "and steps of every arm that is smoothed are tuned on another fifth of the links.",
        limits="Imports are one kind of link, and popular modules are ends of many: links alone "
        "show how far that goes. The graph is small, and everything in it is of one kind.",
    ),
)  # fmt: skip
