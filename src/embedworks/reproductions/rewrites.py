"""Rule-based rewriting: the same content in other words, for planted duplicates.

No rule changes what a text is about; each changes how it looks. Nothing here understands code:
the results need not run, they only have to read as near-copies do.
"""

from __future__ import annotations

import re

import numpy as np

from embedworks.errors import EmptyInputError

__all__ = ["near_copy", "paraphrase"]

#: Words with a stand-in that fits wherever summaries of functions use them.
_WORDS = {
    "return": "give back", "returns": "gives back", "create": "make", "creates": "makes",
    "get": "fetch", "set": "assign", "remove": "delete", "delete": "remove",
    "convert": "turn", "check": "test", "given": "specified", "specified": "given",
    "list": "sequence", "string": "text", "dictionary": "mapping", "dict": "mapping",
    "function": "routine", "object": "thing", "number": "count", "read": "load",
    "write": "store", "call": "invoke", "start": "begin", "end": "finish", "send": "transmit",
    "find": "locate", "name": "label", "value": "content", "new": "fresh", "file": "document",
    "parse": "analyse", "print": "display", "show": "display", "all": "every", "raise": "throw",
    "add": "append", "initialize": "set up", "run": "execute", "execute": "run", "make": "build",
    "method": "operation", "whether": "if", "contains": "holds", "current": "present",
}  # fmt: skip
_FRAMES = ("how to {}", "{} in Python", "I want to {}", "code to {}", "{}, please", "way to {}")
_NAMES = (
    "value", "item", "entry", "data", "result", "current", "target", "source", "found", "thing",
    "other", "piece", "record", "holder", "state", "extra", "local", "given", "inner", "outer",
)  # fmt: skip
_WORD = re.compile(r"[A-Za-z]+")
_PARAMETERS = re.compile(r"\bdef\s+\w+\(([^()]*)\)")
_ASSIGNED = re.compile(r"^\s*([a-z_]\w*)\s*=(?!=)", re.MULTILINE)
_LOOPED = re.compile(r"\bfor\s+([a-z_]\w*)\s+in\b")
_SIMPLE = re.compile(r"(\s*)([A-Za-z_][\w.]*)\s*=\s*([^=\n(\[{]+)")


def paraphrase(text: str, rng: np.random.Generator) -> str:
    """Return a query with other words for the same thing, never equal to the given one.

    Args:
        text: A short text, such as the summary of a docstring.
        rng: Decides which words are replaced and which frame is used.

    Raises:
        EmptyInputError: When the text is blank.

    Example:
        >>> paraphrase("Return the current file name.", np.random.default_rng(1))
        'give back the current document name in Python'
    """
    words = text.strip().rstrip(".").split()
    if not words:
        raise EmptyInputError("An empty text cannot be paraphrased.")
    words[0] = words[0][:1].lower() + words[0][1:]
    changed = [
        _WORDS[word.lower()] if word.lower() in _WORDS and rng.random() < 0.8 else word
        for word in words
    ]
    return _FRAMES[int(rng.integers(len(_FRAMES)))].format(" ".join(changed))


def near_copy(code: str, rng: np.random.Generator) -> str:
    r"""Return code with local names changed, independent statements swapped, comments gone.

    Args:
        code: Source text of a function or class; a heading above it is kept as it is.
        rng: Decides the names and which statements change places.

    Returns:
        A text that differs from ``code``; where no rule applies, a line is added.

    Raises:
        EmptyInputError: When the text is blank.

    Example:
        >>> near_copy("def area(w, h):\n    # simple\n    return w * h", np.random.default_rng(0))
        'def area(...):\n    return ... * ...'
    """
    if not code.strip():
        raise EmptyInputError("An empty text cannot be copied.")
    lines = [line for line in code.split("\n") if not line.lstrip().startswith("#")]
    text = "\n".join(_swapped(lines, rng)) or code
    names = sorted(_local_names(text))
    fresh = [str(name) for name in rng.permutation(_NAMES) if str(name) not in names]
    chosen = dict(zip(names, (*fresh, *(f"{name}_{n}" for n, name in enumerate(names)))))
    if chosen:
        pattern = re.compile(r"(?<![\w.])(" + "|".join(map(re.escape, chosen)) + r")\b")
        text = pattern.sub(lambda match: chosen[match[1]], text)
    return text if text != code else f"{text}\n    pass"


def _local_names(text: str) -> set[str]:
    """Return parameters, assigned names and loop variables, without self and cls."""
    names = set(_ASSIGNED.findall(text)) | set(_LOOPED.findall(text))
    for parameters in _PARAMETERS.findall(text):
        for part in parameters.split(","):
            found = _WORD.match(part.strip())
            name = re.split(r"[=:\s]", part.strip().lstrip("*"), maxsplit=1)[0]
            if found and name.isidentifier():
                names.add(name)
    return names - {"self", "cls", "_"}


def _swapped(lines: list[str], rng: np.random.Generator) -> list[str]:
    """Swap neighbouring plain assignments of which neither uses the other's name."""
    lines = list(lines)
    place = 0
    while place + 1 < len(lines):
        first, second = (_SIMPLE.fullmatch(lines[place + n]) for n in (0, 1))
        if (
            first
            and second
            and first[1] == second[1]
            and first[2] not in second[3]
            and second[2] not in first[3]
            and first[2] != second[2]
            and rng.random() < 0.8
        ):
            lines[place], lines[place + 1] = lines[place + 1], lines[place]
            place += 1
        place += 1
    return lines
