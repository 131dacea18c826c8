"""Python source to sections: module docstring, classes, functions, and the code between them."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator, Sequence

from embedworks.data._sections import Section, line_starts

__all__ = ["python_sections"]

_IMPORT_OR_COMMENT = re.compile(r"\s*(?:#.*)?$|\s*(?:import|from)\s")
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def python_sections(text: str, module: str) -> list[Section] | None:
    """Cut Python source into sections, or return None when it does not parse.

    Each function or method is one section (decorators, signature, docstring, code, and the
    comment right above). A class is one section: its header, docstring, attributes and the
    first line of every method. What is left of the module is code under the module's name.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return _Cutter(text, module).cut(tree)


class _Cutter:
    def __init__(self, text: str, module: str) -> None:
        self.module = module
        self.lines = text.split("\n")
        self.sections: list[Section] = []

    def cut(self, tree: ast.Module) -> list[Section]:
        taken = [False] * (len(self.lines) + 2)
        docstring = _docstring_node(tree)
        if docstring is not None:
            first, last = docstring.lineno, docstring.end_lineno or docstring.lineno
            taken[first : last + 1] = [True] * (last + 1 - first)
            body = str(docstring.value).strip("\n")
            source = "\n".join(self.lines[first - 1 : last])
            if body.strip():
                # Leading quotes are left out when the text is found as it stands in the file.
                at = source.find(body)
                start = first + source.count("\n", 0, at) if at >= 0 else first
                self.sections.append(
                    Section(self.module, body if at >= 0 else source, start, heading=None)
                )
        for node in _definitions(tree.body):
            first, last = self._extent(node)
            taken[first : last + 1] = [True] * (last + 1 - first)
            self._definition(node, self.module)
        self._rest(taken)
        self.sections.sort(key=lambda s: s.start_line)
        return self.sections

    def _extent(self, node: ast.AST) -> tuple[int, int]:
        """First and last line of a definition with its decorators and the comment above."""
        decorators = getattr(node, "decorator_list", [])
        first = min([node.lineno, *(d.lineno for d in decorators)])  # type: ignore[attr-defined]
        last = node.end_lineno  # type: ignore[attr-defined]
        indent = node.col_offset  # type: ignore[attr-defined]
        while first > 1:
            above = self.lines[first - 2]
            if not above[indent:].startswith("#") or above[:indent].strip():
                break
            first -= 1
        return first, last

    def _definition(self, node: ast.AST, owner: str) -> None:
        if isinstance(node, ast.ClassDef):
            self._class(node, owner)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            first, last = self._extent(node)
            self._add(node, f"{owner}.{node.name}", owner, range(first, last + 1))

    def _class(self, node: ast.ClassDef, owner: str) -> None:
        title = f"{owner}.{node.name}"
        first, last = self._extent(node)
        inner = list(_definitions(node.body))
        hidden: set[int] = set()
        shown: set[int] = set()
        for child in inner:
            begin, end = self._extent(child)
            hidden.update(range(begin, end + 1))
            if isinstance(child, _DEFINITIONS):
                shown.add(child.lineno)
        keep = [
            n
            for n in range(first, last + 1)
            if n in shown or (n not in hidden and self.lines[n - 1].strip())
        ]
        self._add(node, title, owner, keep)
        for child in inner:
            self._definition(child, title)

    def _add(self, node: ast.AST, title: str, owner: str, numbers: Sequence[int]) -> None:
        indent = node.col_offset  # type: ignore[attr-defined]
        lines = [_dedent(self.lines[n - 1], indent) for n in numbers]
        text = "\n".join(lines)
        span = None
        docstring = _docstring_node(node)
        if docstring is not None and str(docstring.value).strip():
            span = self._span_of(docstring, numbers, text)
        contiguous = numbers[-1] - numbers[0] + 1 == len(numbers)
        self.sections.append(
            Section(
                title=title,
                text=text,
                start_line=numbers[0],
                kind="code",
                lines=None if contiguous else tuple(numbers),
                docstring=span,
                parent=owner if span is None and isinstance(node, _DEFINITIONS[:2]) else "",
            )
        )

    def _span_of(
        self, docstring: ast.Constant, numbers: Sequence[int], text: str
    ) -> tuple[int, int] | None:
        """Character span of the docstring literal's lines inside the section text."""
        first, last = docstring.lineno, docstring.end_lineno or docstring.lineno
        own = [i for i, n in enumerate(numbers) if first <= n <= last]
        head = self.lines[first - 1][: docstring.col_offset]
        if not own or head.strip(" \t\frRuU"):
            return None  # on the same line as the definition
        starts = line_starts(text)
        end = starts[own[-1] + 1] if own[-1] + 1 < len(starts) else len(text)
        return starts[own[0]], end

    def _rest(self, taken: list[bool]) -> None:
        """Sections of module-level code: runs of lines between definitions, imports left out."""
        run: list[int] = []
        for number in range(1, len(self.lines) + 2):
            if number <= len(self.lines) and not taken[number]:
                run.append(number)
                continue
            while run and not self.lines[run[0] - 1].strip():
                run.pop(0)
            while run and not self.lines[run[-1] - 1].strip():
                run.pop()
            if any(not _IMPORT_OR_COMMENT.match(self.lines[n - 1]) for n in run):
                self.sections.append(
                    Section(
                        title=self.module,
                        text="\n".join(self.lines[n - 1] for n in run),
                        start_line=run[0],
                        kind="code",
                        parent=self.module,
                    )
                )
            run = []


def _definitions(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield functions and classes, also those inside if, try and with blocks."""
    for node in body:
        if isinstance(node, _DEFINITIONS):
            yield node
        elif isinstance(node, (ast.If, ast.Try, ast.With)):
            yield from _definitions(node.body)
            if isinstance(node, (ast.If, ast.Try)):
                yield from _definitions(node.orelse)
            if isinstance(node, ast.Try):
                for handler in node.handlers:
                    yield from _definitions(handler.body)
                yield from _definitions(node.finalbody)


def _docstring_node(node: ast.AST) -> ast.Constant | None:
    body = getattr(node, "body", [])
    if body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
        return body[0].value if isinstance(body[0].value.value, str) else None
    return None


def _dedent(line: str, indent: int) -> str:
    """Remove up to ``indent`` leading white-space characters."""
    width = len(line) - len(line.lstrip())
    return line[min(indent, width) :]
