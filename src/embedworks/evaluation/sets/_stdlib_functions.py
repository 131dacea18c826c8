"""Functions of the standard library with their docstrings, and mutants with one operator changed.

Every text is written anew from the syntax tree, the original too, so that spelling and comments
do not tell a mutant from its original. Functions are read from this Python's own files: figures
of different Python versions are not to be compared.
"""

from __future__ import annotations

import ast
import copy
import inspect
import sysconfig
import warnings
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from embedworks._core.files import sha256_of_text
from embedworks._core.seeding import generator

__all__ = ["StdlibFunction", "operator_mutants", "stdlib_functions"]

_SKIPPED = {"test", "tests", "idlelib", "lib2to3", "site-packages", "turtledemo", "__pycache__",
            "encodings", "pydoc_data", "ensurepip", "dist-packages"}  # fmt: skip

#: Operators that take each other's place.
_FAMILIES: tuple[tuple[type[ast.AST], ...], ...] = (
    (ast.Add, ast.Sub, ast.Mult, ast.FloorDiv, ast.Mod),
    (ast.Lt, ast.LtE, ast.Gt, ast.GtE),
    (ast.Eq, ast.NotEq),
    (ast.Is, ast.IsNot),
    (ast.In, ast.NotIn),
    (ast.And, ast.Or),
)
_FAMILY = {kind: family for family in _FAMILIES for kind in family}


class StdlibFunction(NamedTuple):
    """A function."""

    module: str
    summary: str
    """First sentence of its docstring."""
    code: str
    """Its code without the docstring."""


@lru_cache(maxsize=8)
def stdlib_functions(
    part: str = "all", *, max_chars: int = 900, limit: int | None = None
) -> tuple[StdlibFunction, ...]:
    """Return functions that have a docstring, in a fixed order that mixes the modules.

    Args:
        part: ``"test"`` for a third of the modules, ``"train"`` for the others, ``"all"``.
        max_chars: Longer functions are left out.
        limit: Modules are read, in a fixed order, until there are so many; None reads all.

    Example:
        >>> first = stdlib_functions("test", max_chars=300, limit=20)[0]
        >>> first.code.startswith(("def ", "async def ", "@")), len(first.code) <= 300
        (True, True)
    """
    found: list[StdlibFunction] = []
    summaries: set[str] = set()
    codes: set[str] = set()
    for module, path in _modules():
        test = int(sha256_of_text(module)[:8], 16) % 3 == 0
        if part != "all" and test != (part == "test"):
            continue
        if limit is not None and len(found) >= limit:
            break
        for function in _functions(module, path, max_chars):
            key = function.summary.casefold()
            if key not in summaries and function.code not in codes:
                summaries.add(key)
                codes.add(function.code)
                found.append(function)
    return tuple(sorted(found, key=lambda function: sha256_of_text(function.code))[:limit])


def operator_mutants(code: str, count: int, *, seed: int) -> list[str]:
    r"""Return up to ``count`` distinct versions of a function with one operator changed.

    An arithmetic operator, an order, an equality, a membership or a junction becomes another of
    its family. Fewer come back where there are fewer places.

    Example:
        >>> operator_mutants("def f(a, b):\n    return a and b", 3, seed=0)
        ['def f(a, b):\n    return a or b']
    """
    tree = ast.parse(code)
    places = [
        (number, slot, kind)
        for number, node in enumerate(ast.walk(tree))
        for slot, operator in _operators(node)
        for kind in _FAMILY[type(operator)]
        if kind is not type(operator)
    ]
    rng = generator(seed, "mutants", code)
    mutants: dict[str, None] = {}
    for pick in rng.permutation(len(places)).tolist():
        if len(mutants) == count:
            break
        number, slot, kind = places[pick]
        twin = copy.deepcopy(tree)
        node = next(node for place, node in enumerate(ast.walk(twin)) if place == number)
        if isinstance(node, ast.Compare):
            node.ops[slot] = kind()
        else:
            node.op = kind()  # type: ignore[attr-defined]
        text = ast.unparse(twin)
        if text != code:
            mutants[text] = None
    return list(mutants)


def _operators(node: ast.AST) -> Iterator[tuple[int, ast.AST]]:
    if isinstance(node, ast.Compare):
        yield from ((slot, op) for slot, op in enumerate(node.ops) if type(op) in _FAMILY)
    elif isinstance(node, ast.BoolOp):
        yield 0, node.op
    elif isinstance(node, ast.BinOp) and type(node.op) in _FAMILY:
        # "text % values" and "text + text" mean something else.
        texts = (ast.Constant, ast.JoinedStr)
        if not any(
            isinstance(side, texts) and not isinstance(getattr(side, "value", ""), (int, float))
            for side in (node.left, node.right)
        ):
            yield 0, node.op


@lru_cache(maxsize=1)
def _modules() -> tuple[tuple[str, Path], ...]:
    root = Path(sysconfig.get_path("stdlib"))
    found = []
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).parts
        if not any(part in _SKIPPED or part.startswith("_sysconfig") for part in parts):
            found.append((".".join(parts).removesuffix(".py").removesuffix(".__init__"), path))
    return tuple(sorted(found, key=lambda pair: sha256_of_text("order", pair[0])))


def _functions(module: str, path: Path, max_chars: int) -> Iterator[StdlibFunction]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError):  # test data of the library itself, not modules
        return
    for node in ast.walk(tree):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        docstring = ast.get_docstring(node)
        if not docstring or len(node.body) < 2:
            continue
        summary = " ".join(inspect.cleandoc(docstring).split("\n\n")[0].split())
        if not 4 <= len(summary.split()) <= 40 or not summary.isascii():
            continue
        node.body = node.body[1:]
        code = ast.unparse(node)
        if 60 <= len(code) <= max_chars:
            yield StdlibFunction(module, summary, code)
