"""Sweeps: one system cut or quantised in steps, one task shortened in steps.

A sweep is a list of ordinary systems or tasks for `embedworks.evaluation.evaluate_systems`. Their
names tell what they are, and reports draw them as one curve: ``minilm[:64]`` is ``minilm`` with
64 dimensions, ``minilm[int8]`` is quantised, ``minilm[:3 layers]`` has three layers,
``cranfield[:50 words]`` has documents of 50 words.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

import numpy as np

from embedworks._core.validation import check_choice, check_unique, normalize_rows
from embedworks.errors import EmptyInputError, InputError
from embedworks.evaluation.kinds.retrieval import RetrievalTask
from embedworks.evaluation.kinds.sts import StsTask
from embedworks.evaluation.systems import EncoderSystem
from embedworks.models import truncate_model

__all__ = [
    "QUANTISATIONS",
    "Step",
    "dimension_sweep",
    "layer_sweep",
    "length_sweep",
    "quantisation_sweep",
    "step_of",
]

_NAME = re.compile(r"(?P<base>.+)\[(?::(?P<value>\d+)(?: (?P<unit>\w+))?|(?P<kind>[a-z]\w*))\]")

AnyTask = TypeVar("AnyTask", RetrievalTask, StsTask)


class Step(NamedTuple):
    """What a name says of a place in a sweep."""

    base: str
    """Name of what was changed."""
    unit: str
    """What was changed: ``"dimensions"``, ``"layers"``, ``"words"``, or ``"numbers"``."""
    value: int | str
    """The step: a count, or a kind of numbers such as ``"int8"``."""


def step_of(name: str) -> Step | None:
    """Read the name of a step, or return None for other names.

    Example:
        >>> step_of("minilm[:64]")
        Step(base='minilm', unit='dimensions', value=64)
        >>> step_of("minilm[:64][int8]").base, step_of("cranfield[:50 words]").unit
        ('minilm[:64]', 'words')
        >>> step_of("minilm") is None
        True
    """
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    if found["kind"]:
        return Step(found["base"], "numbers", found["kind"])
    return Step(found["base"], found["unit"] or "dimensions", int(found["value"]))


def dimension_sweep(system: EncoderSystem, dims: Sequence[int]) -> list[EncoderSystem]:
    """Return the system with its vectors cut to their first dimensions and normalised again.

    Args:
        system: The whole system; run it too, to see what a cut costs.
        dims: How many dimensions to keep, each below the system's own.

    Raises:
        EmptyInputError: When there are no steps.
        DuplicateIdError: When a step occurs twice.
        InputError: When a step is below 1 or not below the system's dimension.

    Example:
        >>> from embedworks.models import load
        >>> whole = EncoderSystem(load("static"), name="static")
        >>> [(s.name, s.encode(["cats"]).shape[1]) for s in dimension_sweep(whole, [32, 64])]
        [('static[:32]', 32), ('static[:64]', 64)]
    """
    steps = _steps(dims, "dims")
    width = system.encode(["dimension"]).shape[1]
    if max(steps) >= width:
        raise InputError(f"{system.name} has {width} dimensions: it cannot be cut to {max(steps)}.")

    def cut(keep: int) -> Callable[[np.ndarray], np.ndarray]:
        return lambda vectors: normalize_rows(vectors[:, :keep])

    return [system.derived(f"{system.name}[:{keep}]", cut(keep)) for keep in steps]


def quantisation_sweep(
    system: EncoderSystem, kinds: Sequence[str] = ("float16", "int8", "binary")
) -> list[EncoderSystem]:
    """Return the system with its vectors rounded as they would be stored.

    ``int8`` scales each vector by its largest value, ``binary`` keeps the signs; both need no
    calibration data. Queries are rounded like documents.

    Args:
        system: The whole system; run it too, to see what rounding costs.
        kinds: Names in `QUANTISATIONS`.

    Raises:
        EmptyInputError: When there are no kinds.
        UnknownNameError: When a kind is not known.

    Example:
        >>> from embedworks.models import load
        >>> systems = quantisation_sweep(EncoderSystem(load("static"), name="static"))
        >>> [system.name for system in systems]
        ['static[float16]', 'static[int8]', 'static[binary]']
    """
    if not kinds:
        raise EmptyInputError("kinds is empty: name at least one, such as 'int8'.")
    check_unique(list(kinds), name="kinds")
    for kind in kinds:
        check_choice(kind, QUANTISATIONS, name="kind of quantisation")
    return [system.derived(f"{system.name}[{kind}]", QUANTISATIONS[kind]) for kind in kinds]


def layer_sweep(system: EncoderSystem, layers: Sequence[int]) -> list[EncoderSystem]:
    """Return the system with only its first layers, for sentence-transformers models.

    Everything after the transformer, such as pooling, is applied to the last layer kept.

    Args:
        system: A transformer whose vectors are not changed otherwise.
        layers: How many layers to keep, each below the model's own number.

    Raises:
        EmptyInputError: When there are no steps.
        DuplicateIdError: When a step occurs twice.
        InputError: When the model has no list of layers, or a step is out of range.
    """
    steps = _steps(layers, "layers")
    count = _layer_count(system)
    if max(steps) >= count:
        raise InputError(f"{system.name} has {count} layers: it cannot be cut to {max(steps)}.")
    return [
        EncoderSystem(
            truncate_model(system.model, keep),
            name=f"{system.name}[:{keep} layers]",
            template=system.template,
            similarity=system.similarity,
            show_progress=system.show_progress,
            fingerprint=f"{system.fingerprint}-{keep}-layers",
            cache=system.cache,
        )
        for keep in steps
    ]


def length_sweep(task: AnyTask, lengths: Sequence[int]) -> list[AnyTask]:
    """Return the task with its documents, or the texts of its pairs, cut to their first words.

    Args:
        task: A `RetrievalTask` or `StsTask`; run it too, to see what a cut costs.
        lengths: How many words to keep. Words are what white space separates.

    Raises:
        EmptyInputError: When there are no steps.
        DuplicateIdError: When a step occurs twice.
        InputError: When a step is below 1, or the task has only the ids of its documents.

    Example:
        >>> task = RetrievalTask("toy", {"q": "cats"}, {"d": "All about cats."}, {"q": {"d": 1}})
        >>> shorter = length_sweep(task, [2])[0]
        >>> shorter.name, shorter.corpus
        ('toy[:2 words]', {'d': 'All about'})
    """
    made: list[Any] = []
    for words in _steps(lengths, "lengths"):
        name = f"{task.name}[:{words} words]"
        if isinstance(task, StsTask):
            pairs = [(_head(a, words), _head(b, words), score) for a, b, score in task.pairs]
            made.append(StsTask(name, pairs, instruction=task.instruction))
            continue
        if not hasattr(task.corpus, "items"):
            raise InputError(f"Task {task.name!r} has no texts of its documents, only their ids.")
        corpus = {doc: _head(text, words) for doc, text in task.corpus.items()}
        made.append(replace(task, name=name, corpus=corpus))
    return made


def _head(text: str, words: int) -> str:
    return " ".join(text.split(maxsplit=words)[:words])


def _steps(values: Sequence[int], name: str) -> list[int]:
    """Return the steps in ascending order."""
    if not len(values):
        raise EmptyInputError(f"{name} is empty: a sweep needs at least one step.")
    steps = sorted(int(value) for value in values)
    check_unique([str(step) for step in steps], name=name)
    if steps[0] < 1:
        raise InputError(f"{name} must be 1 or greater, got {steps[0]}.")
    return steps


def _layer_count(system: EncoderSystem) -> int:
    try:
        layers = importlib.import_module("embedworks.modules.layers")  # imports torch
        return len(layers.check_layers(system.model))
    except (InputError, ImportError) as error:
        raise InputError(
            f"{system.name} has no list of layers that could be cut: {error}"
        ) from error


def _to_float16(vectors: np.ndarray) -> np.ndarray:
    return vectors.astype(np.float16).astype(np.float32)


def _to_int8(vectors: np.ndarray) -> np.ndarray:
    scale = np.abs(vectors).max(axis=1, keepdims=True) / 127
    rounded = np.rint(vectors / np.where(scale > 0, scale, 1.0))
    return np.asarray(rounded * scale, dtype=np.float32)


def _to_signs(vectors: np.ndarray) -> np.ndarray:
    signs = np.where(vectors >= 0, 1.0, -1.0)
    signs[~vectors.any(axis=1)] = 0.0
    return normalize_rows(signs)


#: Kind -> what it does to vectors (N, D): the values as they come back from storage.
QUANTISATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "float16": _to_float16,
    "int8": _to_int8,
    "binary": _to_signs,
}
