"""One call for every way of merging models, by its name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedworks._core.registry import did_you_mean
from embedworks.data import RowSet
from embedworks.errors import InputError, UnknownNameError
from embedworks.merging.adapters import merge_adapters
from embedworks.merging.by_place import PLACE_MERGE_METHODS
from embedworks.merging.methods import MERGE_METHODS
from embedworks.merging.models import merge_models
from embedworks.merging.streaming import MergeReport
from embedworks.merging.with_data import DATA_MERGE_METHODS, merge_with_data

if TYPE_CHECKING:
    from embedworks.merging._planning import Weights

__all__ = ["check_merge", "merge"]


def merge(
    models: Sequence[str | Path],
    out: str | Path,
    method: str | None = None,
    *,
    weights: Weights | None = None,
    base: str | Path | None = None,
    rows: RowSet | str | Path | None = None,
    options: Mapping[str, Any] | None = None,
    tokenizer: str = "same",
    overwrite: bool = False,
    workers: int | None = None,
    show_progress: bool | None = None,
) -> MergeReport:
    """Merge models of one structure into a new one, also under the name ``ew.merge``.

    The functions that do the work check and raise what they say: `merge_models` (methods in
    `MERGE_METHODS`), `merge_with_data` (`DATA_MERGE_METHODS`), `ema`, `swa` and `lines`
    (`PLACE_MERGE_METHODS`); `merge_adapters` when every model is a folder with a LoRA adapter.

    Args:
        models: Folders, or short names of models that have a folder (``"static"``); or folders of
            adapters.
        out: Folder for the result.
        method: A name; None is ``linear``, with rows ``searched``, and ``task_arithmetic`` for
            adapters.
        weights: One number per model, or such numbers by part of the model (see `part_of`); by
            default the method's own. Not for methods that find them.
        base: What the models were trained from, for methods that look at the change.
        rows: Probe rows, or a JSONL or Parquet file of them, for methods that look at data.
        options: The method's options by name.
        tokenizer: ``"union"`` joins different vocabularies by token text; see `merge_models`.
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
    adapted = _are_adapters(models)
    if method is None:
        plain = "task_arithmetic" if adapted else "linear"
        method = plain if rows is None else "searched"
    check_merge(
        method, len(models), weights, base is not None or adapted, rows is not None, options
    )
    common: dict[str, Any] = {
        "overwrite": overwrite,
        "workers": workers,
        "show_progress": show_progress,
    }
    if tokenizer != "same" and (adapted or method not in MERGE_METHODS):
        raise InputError(
            f"tokenizer={tokenizer!r} goes with methods without data, got {method!r}"
            f"{' for adapters' * adapted}."
        )
    if isinstance(weights, Mapping):
        if adapted or method not in MERGE_METHODS:
            raise InputError(
                f"{method} takes no weights by part: give one number per model, or none."
            )
        return merge_models(
            models, out, method, weights=weights, base=base, options=options,
            tokenizer=tokenizer, **common,
        )  # fmt: skip
    if adapted:
        if base is None:
            raise InputError("These are adapters: give the `base` that they were trained on.")
        return merge_adapters(base, models, out, method, weights=weights, options=options, **common)
    common["base"] = base
    if method in MERGE_METHODS:
        return merge_models(
            models, out, method, weights=weights, options=options, tokenizer=tokenizer, **common
        )
    if method in PLACE_MERGE_METHODS:
        run = PLACE_MERGE_METHODS[method]
        return run(models, out, weights=weights, options=options, **common)
    assert rows is not None  # which was checked
    probe = rows if isinstance(rows, RowSet) else RowSet.load(rows)
    return merge_with_data(
        models, out, method, rows=probe, weights=weights, **common, **(options or {})
    )


def check_merge(
    method: str,
    count: int,
    weights: Weights | None,
    has_base: bool,
    has_rows: bool,
    options: Mapping[str, Any] | None,
) -> None:
    """Raise what can be told of a merge before any model is looked at.

    Raises:
        InputError: When rows or a base are missing or of no use, or the weights do not fit.
        SettingsError: When an option is unknown or out of range.
        UnknownNameError: When no method has this name.
    """
    if method not in DATA_MERGE_METHODS and has_rows:
        raise InputError(
            f"{method} looks at no data, but rows were given. Leave them out, or choose a "
            f"method that uses them: {', '.join(DATA_MERGE_METHODS)}."
        )
    if method in MERGE_METHODS:
        every = list(weights.values()) if isinstance(weights, Mapping) else [weights]
        for own in every:
            MERGE_METHODS[method].check(count, own, has_base=has_base, **(options or {}))
    elif method in PLACE_MERGE_METHODS:
        PLACE_MERGE_METHODS[method].check(
            has_base=has_base, has_weights=weights is not None, options=options
        )
    elif method in DATA_MERGE_METHODS:
        chosen = DATA_MERGE_METHODS[method]
        chosen.settings.from_dict(options or {})
        if chosen.needs_base and not has_base:
            raise InputError(
                f"{method} works on what each model changed, so it needs the base the models "
                "were trained from: give `base`."
            )
        if not has_rows:
            raise InputError(
                f"{method} looks at probe rows: give `rows`, a JSONL or Parquet file with the "
                "columns anchor and positive, and source, score or label where there are any."
            )
    else:
        known = [*MERGE_METHODS, *PLACE_MERGE_METHODS, *DATA_MERGE_METHODS]
        raise UnknownNameError(f"No merge method {method!r}. {did_you_mean(method, known)}")


def _are_adapters(models: Sequence[str | Path]) -> bool:
    if isinstance(models, (str, Path)):
        raise InputError(f"models must be a list of folders, got one: {str(models)!r:.80}.")
    return bool(models) and all(
        isinstance(model, (str, Path)) and (Path(model) / "adapter_config.json").is_file()
        for model in models
    )
