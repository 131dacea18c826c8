"""One call for every way of merging models, by its name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedworks._core.registry import did_you_mean
from embedworks.errors import InputError, UnknownNameError
from embedworks.merging.methods import MERGE_METHODS
from embedworks.merging.models import merge_models
from embedworks.merging.streaming import MergeReport

if TYPE_CHECKING:
    from embedworks.data import RowSet
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

    Methods without data (`MERGE_METHODS`) are carried out by `merge_models`; those that search
    their coefficients on rows (`SEARCH_METHODS`) by `merge_searched`. See there for what each
    checks and raises.

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
        "options": options,
        "overwrite": overwrite,
        "workers": workers,
        "show_progress": show_progress,
    }
    if method in MERGE_METHODS:
        if rows is not None:
            raise InputError(
                f"{method} looks at no data, but rows were given. Leave them out, or choose a "
                f"method that searches: {', '.join(_searches())}."
            )
        return merge_models(models, out, method, weights=weights, **common)
    if method not in _searches():
        known = [*MERGE_METHODS, *_searches()]
        raise UnknownNameError(f"No merge method {method!r}. {did_you_mean(method, known)}")
    if weights is not None:
        raise InputError(f"{method} finds the weights and takes none, got {weights!r:.80}.")
    if rows is None:
        raise InputError(
            f"{method} searches on probe rows: give `rows`, a JSONL or Parquet file with the "
            "columns anchor and positive, and source, score or label where there are any."
        )
    from embedworks.merging.searched import merge_searched

    return merge_searched(models, out, method, rows=rows, **common)


def _searches() -> list[str]:
    from embedworks.merging.searched import SEARCH_METHODS

    return list(SEARCH_METHODS)
