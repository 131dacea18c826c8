"""One call for every way of merging models, by its name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedworks._core.registry import did_you_mean
from embedworks.data import RowSet
from embedworks.errors import InputError, UnknownNameError
from embedworks.merging.methods import MERGE_METHODS
from embedworks.merging.models import merge_models
from embedworks.merging.streaming import MergeReport
from embedworks.merging.with_data import DATA_MERGE_METHODS, merge_with_data

if TYPE_CHECKING:
    from embedworks.merging._planning import Weights

__all__ = ["merge"]


def merge(
    models: Sequence[str | Path],
    out: str | Path,
    method: str = "linear",
    *,
    weights: Weights | None = None,
    base: str | Path | None = None,
    rows: RowSet | str | Path | None = None,
    options: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    workers: int | None = None,
    show_progress: bool | None = None,
) -> MergeReport:
    """Merge models of one structure into a new one, also under the name ``ew.merge``.

    Methods without data (`MERGE_METHODS`) are carried out by `merge_models`; those that look at
    rows (`DATA_MERGE_METHODS`) by `merge_with_data`. See there for what each checks and raises.

    Args:
        models: Folders, or short names of models that have a folder (``"static"``).
        out: Folder for the result.
        method: ``linear`` is the first to try; ``searched`` and ``self_positioning`` need rows.
        weights: One number per model, or such numbers by part of the model (see `part_of`); by
            default the method's own. Not for methods that find them.
        base: What the models were trained from, for methods that look at the change.
        rows: Probe rows, or a JSONL or Parquet file of them, for methods that look at data.
        options: The method's options by name.
        overwrite: Whether a model in ``out`` is replaced; it stays whole until then.
        workers: Threads; by default up to 4. The result does not depend on it.
        show_progress: True or False to force a bar; by default on a terminal.

    Raises:
        InputError: When rows are missing, or given to a method that has no use for them.
        UnknownNameError: When no method has this name.

    Example:
        >>> merge(["a", "b"], "c", "self_positionin")
        Traceback (most recent call last):
        ...
        embedworks.errors.UnknownNameError: No merge method 'self_positionin'. Did you mean
        'self_positioning'?
    """
    common: dict[str, Any] = {
        "base": base,
        "overwrite": overwrite,
        "workers": workers,
        "show_progress": show_progress,
    }
    if method in MERGE_METHODS:
        if rows is not None:
            raise InputError(
                f"{method} looks at no data, but rows were given. Leave them out, or choose a "
                f"method that uses them: {', '.join(DATA_MERGE_METHODS)}."
            )
        return merge_models(models, out, method, weights=weights, options=options, **common)
    if method not in DATA_MERGE_METHODS:
        known = [*MERGE_METHODS, *DATA_MERGE_METHODS]
        raise UnknownNameError(f"No merge method {method!r}. {did_you_mean(method, known)}")
    if rows is None:
        raise InputError(
            f"{method} looks at probe rows: give `rows`, a JSONL or Parquet file with the columns "
            "anchor and positive, and source, score or label where there are any."
        )
    if isinstance(weights, Mapping):
        raise InputError(f"{method} takes no weights by part: give one number per model, or none.")
    probe = rows if isinstance(rows, RowSet) else RowSet.load(rows)
    return merge_with_data(
        models, out, method, rows=probe, weights=weights, **common, **(options or {})
    )
