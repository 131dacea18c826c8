"""Averages of a run's checkpoints: exponential moving averages and uniform windows."""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from embedworks._core.validation import check_in_range, check_k
from embedworks.errors import DataWarning, InputError, NotFoundError
from embedworks.merging._planning import MergeCall
from embedworks.merging.models import OpenedModels, model_count
from embedworks.merging.streaming import MergeReport, merge_files

__all__ = ["ema", "ema_weights", "find_checkpoints", "swa"]

_CHECKPOINT = re.compile(r"checkpoint-(\d+)")


def ema_weights(count: int, decay: float) -> list[float]:
    """Return the weights of an exponential moving average over ``count`` models, oldest first.

    The average ``m_1 = W_1``, ``m_t = decay * m_(t-1) + (1 - decay) * W_t`` written out: the
    first has ``decay^(n-1)``, model t has ``(1 - decay) * decay^(n-t)``.

    Args:
        count: At least 1.
        decay: 0 or greater and below 1; 0 is the last model.

    Returns:
        Weights that sum to 1.

    Raises:
        InputError: When a value is out of range.

    Example:
        >>> ema_weights(3, 0.5)
        [0.25, 0.25, 0.5]
    """
    check_k(count)
    check_in_range(decay, name="decay", low=0.0, high=1.0)
    if decay == 1:
        raise InputError("decay must be below 1: with 1 the average never leaves the first model.")
    later = [(1 - decay) * decay ** (count - place) for place in range(2, count + 1)]
    return [decay ** (count - 1), *later]


def find_checkpoints(run: str | Path) -> list[Path]:
    """Return the checkpoints in a run's folder, oldest first.

    Where some carry the mark that they were written to their end (``complete.json``), those
    without it are left out with a `DataWarning`.

    Args:
        run: A folder that has folders ``checkpoint-STEP``.

    Raises:
        NotFoundError: When there are none.
    """
    folder = Path(run).expanduser()
    found = {}
    for path in folder.iterdir() if folder.is_dir() else ():
        match = _CHECKPOINT.fullmatch(path.name)
        if match and path.is_dir():
            found[int(match[1])] = path
    if not found:
        raise NotFoundError(
            f"{folder} has no folders checkpoint-STEP: give the output folder of a training run, "
            "or a list of model folders, oldest first."
        )
    ordered = [found[step] for step in sorted(found)]
    whole = [path for path in ordered if (path / "complete.json").is_file()]
    if whole and len(whole) < len(ordered):
        cut = [path.name for path in ordered if path not in whole]
        warnings.warn(
            f"{len(cut)} of {len(ordered)} checkpoints in {folder} were cut short and are left "
            f"out: {', '.join(cut[:5])}.",
            DataWarning,
            stacklevel=2,
        )
    return whole or ordered


def ema(
    checkpoints: Sequence[str | Path] | str | Path,
    out: str | Path,
    *,
    decay: float = 0.9,
    overwrite: bool = False,
    workers: int | None = None,
    show_progress: bool | None = None,
) -> MergeReport:
    """Merge checkpoints into their exponential moving average.

    Smooths the noise of the last steps; the newest counts most. It is one ordered, weighted mean
    (`ema_weights`), read and written tensor by tensor like every merge. To average every step of a
    training, not only what was saved, use `EmaCallback`.

    Args:
        checkpoints: Folders of models, or safetensors files, oldest first; or the output folder
            of a run (`find_checkpoints`).
        out: Folder, or file, for the result.
        decay: Share of the average that is kept at each checkpoint, 0 or greater and below 1.
        overwrite: Whether a model in ``out`` is replaced; it stays whole until then.
        workers: Threads; by default up to 4.
        show_progress: True or False to force a bar; by default on a terminal.

    Raises:
        InputError: When decay is out of range, and as in `merge_models`.
        NotFoundError: When there are no checkpoints.
    """
    found = _listed(checkpoints)
    told = {"method": "ema", "options": {"decay": decay}}
    weights = ema_weights(len(found), decay)
    return _average(found, out, weights, told, overwrite, workers, show_progress)


def swa(
    checkpoints: Sequence[str | Path] | str | Path,
    out: str | Path,
    *,
    window: int | None = None,
    overwrite: bool = False,
    workers: int | None = None,
    show_progress: bool | None = None,
) -> MergeReport:
    """Merge the last checkpoints into their plain mean: stochastic weight averaging.

    Args:
        checkpoints: Folders of models, or safetensors files, oldest first; or the output folder
            of a run (`find_checkpoints`).
        out: Folder, or file, for the result.
        window: How many of the last are averaged; None for all.
        overwrite: Whether a model in ``out`` is replaced; it stays whole until then.
        workers: Threads; by default up to 4.
        show_progress: True or False to force a bar; by default on a terminal.

    Raises:
        InputError: When there are fewer checkpoints than ``window``, and as in `merge_models`.
        NotFoundError: When there are no checkpoints.

    Paper: Izmailov et al. 2018, arXiv 1803.05407; there the learning rate is kept high, or
    cycles, while checkpoints are taken.
    """
    found = _listed(checkpoints)
    size = len(found) if window is None else check_k(window)
    if size > len(found):
        raise InputError(f"window is {size}, but there are only {len(found)} checkpoints.")
    told = {"method": "swa", "options": {"window": size}}
    weights = [1 / size] * size
    return _average(found[-size:], out, weights, told, overwrite, workers, show_progress)


def _listed(checkpoints: Sequence[str | Path] | str | Path) -> list[Path]:
    if isinstance(checkpoints, (str, Path)):
        return find_checkpoints(checkpoints)
    if not model_count(checkpoints):
        raise InputError("There is nothing to average: give at least one checkpoint.")
    return [Path(path).expanduser() for path in checkpoints]


def _average(
    found: Sequence[Path],
    out: str | Path,
    weights: Sequence[float],
    told: Mapping[str, Any],
    overwrite: bool,
    workers: int | None,
    show_progress: bool | None,
) -> MergeReport:
    if all(path.is_file() for path in found):
        report = merge_files(
            found, out, weights=weights, overwrite=overwrite, workers=workers,
            show_progress=show_progress,
        )  # fmt: skip
        return replace(report, **told)
    started = time.perf_counter()
    opened = OpenedModels.open(found, None, out, overwrite=overwrite)
    call = MergeCall("linear", tuple(weights))
    report = opened.write(
        lambda stem: call, workers=workers, show_progress=show_progress, told=told
    )
    return replace(report, seconds=time.perf_counter() - started)
