"""Classes and graded pairs from the standard library: tasks beside retrieval."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from embedworks._core.seeding import generator
from embedworks._core.validation import check_choice, check_in_range
from embedworks.data import Chunk, Row, RowSet
from embedworks.errors import InputError
from embedworks.reproductions.worlds import ClassWorld, GradedWorld, stdlib_chunks

__all__ = ["class_world", "graded_spans", "module_classes", "raises_task"]

_RAISE = re.compile(r"^\s*raise\b.*(?:\n\s{8,}.*['\")]\)?$)?", re.MULTILINE)
_RAISE_WORDS = re.compile(r"\brais\w*|\bexception\w*|\berror\w*|\b\w+Error\b", re.IGNORECASE)


def module_classes(
    classes: int = 20, *, per_class: int = 60, unit: str = "package", seed: int
) -> ClassWorld:
    """Make a task out of where code comes from: which module, out of ``classes``.

    The largest modules are taken, so their number decides how often two rows of a batch are of
    one class: ``1 / classes``.

    Args:
        classes: Number of classes.
        per_class: Most texts per class; 60 % train, 15 % validation, 25 % test.
        unit: ``"package"`` (asyncio) or ``"module"`` (asyncio.tasks), of which there are more.
        seed: Seed of the sample.

    Raises:
        InputError: When there are not so many modules with enough texts.

    Example:
        >>> world = module_classes(5, per_class=20, seed=0)
        >>> len(world.labels), len(world.train), round(world.collision_rate(), 2)
        (5, 60, 0.2)
    """
    check_choice(unit, ("package", "module"), name="unit")
    texts: dict[str, list[str]] = {}
    for chunk in _functions():
        path = chunk.doc_id.removesuffix(".py").removesuffix("/__init__")
        label = path.split("/")[0] if unit == "package" else path.replace("/", ".")
        texts.setdefault(label, []).append(chunk.text)
    return class_world(
        f"{classes} modules",
        texts,
        classes=classes,
        per_class=per_class,
        label_texts={label: f"code of the module {label}" for label in texts},
        seed=seed,
    )


def raises_task(per_class: int = 400, *, seed: int) -> ClassWorld:
    """Make a task of two classes: whether a function raises an exception.

    The statements that raise, and words that give it away, are cut out of all texts.

    Example:
        >>> world = raises_task(20, seed=0)
        >>> world.labels, any("raise" in text for text in world.texts()[:40])
        (['raises', 'returns'], False)
    """
    texts: dict[str, list[str]] = {"raises": [], "returns": []}
    for chunk in _functions():
        label = "raises" if re.search(r"^\s*raise\b", chunk.text, re.MULTILINE) else "returns"
        text = _RAISE_WORDS.sub(" ", _RAISE.sub("", chunk.text))
        if len(text.split()) >= 12:
            texts[label].append(text)
    return class_world(
        "raises or not",
        texts,
        classes=2,
        per_class=per_class,
        label_texts={"raises": "may stop with a failure", "returns": "always comes back"},
        seed=seed,
    )


def class_world(
    name: str,
    texts: dict[str, list[str]],
    *,
    classes: int | None,
    per_class: int,
    label_texts: dict[str, str],
    seed: int,
) -> ClassWorld:
    """Sample a balanced world of the largest classes; a text is in one part only.

    Raises:
        InputError: When there are fewer classes, or too few texts in one.
    """
    check_in_range(per_class, name="per_class", low=8)
    owners = Counter(text for own in texts.values() for text in dict.fromkeys(own))
    distinct = {
        label: [text for text in dict.fromkeys(own) if owners[text] == 1]
        for label, own in texts.items()
    }
    ranked = sorted(distinct, key=lambda label: (-len(distinct[label]), label))
    usable = [label for label in ranked if len(distinct[label]) >= 8]
    wanted = len(usable) if classes is None else classes
    if wanted < 2 or len(usable) < wanted:
        raise InputError(f"{name}: {wanted} classes are wanted, {len(usable)} have 8 texts.")
    parts: dict[str, list[tuple[str, str]]] = {"train": [], "validation": [], "test": []}
    for label in usable[:wanted]:
        # What is tested does not depend on the seed: its texts are set apart first.
        pool = generator(0, "class split", name, label).permutation(len(distinct[label]))
        chosen = [distinct[label][int(i)] for i in pool]
        size = min(per_class, len(chosen))
        ends = round(0.25 * size), round(0.4 * size)
        parts["test"] += [(text, label) for text in chosen[: ends[0]]]
        parts["validation"] += [(text, label) for text in chosen[ends[0] : ends[1]]]
        rest = chosen[ends[1] :]
        drawn = generator(seed, "class sample", name, label).permutation(len(rest))
        parts["train"] += [(rest[int(i)], label) for i in drawn[: size - ends[1]]]
    return ClassWorld(
        name,
        tuple(parts["train"]),
        tuple(parts["validation"]),
        tuple(parts["test"]),
        {label: label_texts[label] for label in usable[:wanted]},
    )


def graded_spans(count: int = 2000, *, words: int = 30, seed: int) -> GradedWorld:
    """Make pairs whose similarity is known: spans of one text that share part of their words.

    A pair from two modules has grade 0, from one module 1; two spans of one text have 1 plus
    four times the share of words in common.

    Args:
        count: Training pairs; a quarter as many for validation, and as many again for the test.
        words: Length of a span in words.
        seed: Seed of the training pairs; those for evaluation are always the same.

    Raises:
        InputError: When ``words`` or ``count`` is too small.

    Example:
        >>> world = graded_spans(40, seed=0)
        >>> min(row.score for row in world.train), len(world.test)
        (0.0, 10)
    """
    check_in_range(count, name="count", low=8)
    check_in_range(words, name="words", low=4)
    texts: dict[str, list[list[str]]] = {}
    for chunk in _functions():
        found = chunk.text.split()
        if len(found) >= 2 * words:
            texts.setdefault(chunk.doc_id, []).append(found)
    modules = sorted(module for module in texts if len(texts[module]) >= 4)
    shuffled = [modules[int(i)] for i in generator(0, "graded split").permutation(len(modules))]
    ends = round(0.15 * len(shuffled)), round(0.4 * len(shuffled))
    quarter = count // 4
    test = _graded(shuffled[: ends[0]], texts, quarter, words, 0)
    validation = _graded(shuffled[ends[0] : ends[1]], texts, quarter, words, 1)
    train = _graded(shuffled[ends[1] :], texts, count, words, 2 + seed)
    rows = RowSet(Row(a, b, source="spans", score=score) for a, b, score in train)
    return GradedWorld("overlapping spans", rows, tuple(validation), tuple(test))


def _graded(
    modules: Sequence[str], texts: dict[str, list[list[str]]], count: int, words: int, stream: int
) -> list[tuple[str, str, float]]:
    rng = generator(stream, "graded spans")

    def span(source: list[str], start: int) -> str:
        return " ".join(source[start : start + words])

    pairs = []
    for place in range(count):
        module = modules[int(rng.integers(len(modules)))]
        own = texts[module]
        first = own[int(rng.integers(len(own)))]
        start = int(rng.integers(len(first) - 2 * words + 1))
        kind = place % 4
        if kind == 0:
            far = texts[modules[(modules.index(module) + 1) % len(modules)]]
            other, shift, grade = far[int(rng.integers(len(far)))], 0, 0.0
        elif kind == 1:
            near = [text for text in own if text is not first]
            other, shift, grade = near[int(rng.integers(len(near)))], 0, 1.0
        else:
            common = int(rng.integers(1, words))
            other, shift, grade = first, start + words - common, 1.0 + 4.0 * common / words
        pairs.append((span(first, start), span(other, shift), grade))
    return pairs


def _functions() -> Iterable[Chunk]:
    """Yield first passages of functions and classes that are worth reading."""
    for chunk in stdlib_chunks():
        if chunk.kind == "code" and chunk.part == 0 and len(chunk.text.split()) >= 12:
            yield chunk
