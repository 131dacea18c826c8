"""Names to numbers: which unit, loss, batch size, share and keys every row has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from embedworks._core.registry import did_you_mean
from embedworks.data._batching.layout import stable_order
from embedworks.data.batch_settings import BatchSettings
from embedworks.data.rows import Row, RowInput, content_key
from embedworks.errors import InputError, SettingsError, ShapeError, UnknownNameError

__all__ = ["Units", "clusters_to_units", "group_members", "resolve_units", "row_keys"]


@dataclass(frozen=True)
class Units:
    """What batches are drawn from: sources, or clusters.

    Attributes:
        names: Name of each unit.
        of_row: int64 array (N,): the unit of each row.
        losses: Name of the loss of each unit, or None.
        sizes: int64 array (U,): rows of a full batch.
        counts: int64 array (U,): rows of the unit.
    """

    names: tuple[str, ...]
    of_row: np.ndarray
    losses: tuple[str | None, ...]
    sizes: np.ndarray
    counts: np.ndarray

    def rows(self) -> list[np.ndarray]:
        """Return the rows of each unit, ascending."""
        return np.split(stable_order(self.of_row), np.cumsum(self.counts)[:-1])


def row_keys(rows: Iterable[Row]) -> np.ndarray:
    """Return (N, 3) numbers of anchor, positive and positive id; -1 where there is no id.

    Equal inputs have equal numbers, in whichever of the first two columns they stand.
    """
    numbers: dict[object, int] = {}

    def number(value: RowInput) -> int:
        key: object = value if isinstance(value, str) else content_key(value)
        return numbers.setdefault(key, len(numbers))

    flat = [
        (
            number(row.anchor),
            number(row.positive),
            -1
            if row.positive_id is None
            else numbers.setdefault(("id", row.positive_id), len(numbers)),
        )
        for row in rows
    ]
    return np.array(flat, dtype=np.int64).reshape(-1, 3)


def _check_names(given: Iterable[str], known: Sequence[str], setting: str) -> None:
    for name in given:
        if name not in known:
            raise UnknownNameError(
                f"{setting} names {name!r}, which is not a source of the rows. "
                f"{did_you_mean(name, list(known))}"
            )


def _merged(names: Sequence[str], settings: BatchSettings) -> dict[str, str]:
    """Return source -> name of the unit it belongs to."""
    unit_of = {name: name for name in names}
    for new, members in settings.merge.items():
        _check_names(members, names, f"merge[{new!r}]")
        if new in names and new not in members:
            raise SettingsError(
                f"merge makes a source {new!r}, but the rows already have one of that name: "
                "choose another name, or list it among the merged sources."
            )
        for member in members:
            if unit_of[member] != member or (member in settings.merge and member != new):
                raise SettingsError(f"merge names the source {member!r} twice: name it once.")
            unit_of[member] = new
    return unit_of


def _losses(
    names: Sequence[str], unit_of: Mapping[str, str], settings: BatchSettings
) -> dict[str, str | None]:
    """Return the loss of each unit."""
    losses = settings.losses
    units = list(dict.fromkeys(unit_of.values()))
    _check_names((n for n in losses if n != "*"), [*names, *units], "losses")
    found: dict[str, str | None] = {}
    for name in names:
        unit = unit_of[name]
        loss = losses.get(name, losses.get(unit, losses.get("*")))
        if loss is None and losses:
            raise SettingsError(
                f"losses does not say which loss the source {name!r} has: add it, or a '*'."
            )
        if found.setdefault(unit, loss) != loss:
            raise SettingsError(
                f"the sources merged into {unit!r} have different losses ({found[unit]!r} and "
                f"{loss!r}): merge only sources of one loss."
            )
    return found


def resolve_units(names: Sequence[str], codes: np.ndarray, settings: BatchSettings) -> Units:
    """Return the units of rows whose sources are ``names[codes]``."""
    unit_of = _merged(names, settings)
    losses = _losses(names, unit_of, settings)
    units = list(dict.fromkeys(unit_of.values()))
    _check_names(settings.weights, units, "weights")
    if settings.weights and (missing := [u for u in units if u not in settings.weights]):
        raise SettingsError(
            f"weights must name every source, but not {missing[:5]}: add them, or leave their "
            "rows out."
        )
    number = {unit: place for place, unit in enumerate(units)}
    to_unit = np.array([number[unit_of[name]] for name in names], dtype=np.int64)
    of_row = to_unit[codes]
    known = {*units, *(loss for loss in losses.values() if loss)}
    _check_names(settings.batch_sizes, sorted(known), "batch_sizes")
    sizes = [
        settings.batch_sizes.get(
            unit, settings.batch_sizes.get(losses[unit] or "", settings.batch_size)
        )
        for unit in units
    ]
    return Units(
        tuple(units),
        of_row,
        tuple(losses[unit] for unit in units),
        np.array(sizes, dtype=np.int64),
        np.bincount(of_row, minlength=len(units)),
    )


def clusters_to_units(sources: Units, clusters: np.ndarray) -> Units:
    """Return one unit per cluster, and per loss where the rows have several.

    Raises:
        ShapeError: When there is not one cluster per row.
        InputError: When clusters are not integers of at least 0, or batch sizes differ.
    """
    clusters = np.asarray(clusters)
    if clusters.shape != sources.of_row.shape:
        raise ShapeError(
            f"clusters must hold one number per row, shape {sources.of_row.shape}, got "
            f"{clusters.shape}."
        )
    if not np.issubdtype(clusters.dtype, np.integer) or (clusters < 0).any():
        raise InputError("clusters must be integers of at least 0: leave rows without one out.")
    losses = list(dict.fromkeys(sources.losses))
    loss = np.array([losses.index(name) for name in sources.losses])[sources.of_row]
    for name in losses:
        sizes = {int(s) for s, n in zip(sources.sizes, sources.losses) if n == name}
        if len(sizes) > 1:
            raise SettingsError(
                f"the sources of loss {name!r} have batches of {sorted(sizes)} rows, but a "
                "cluster may hold several of them: give one size per loss."
            )
    width = int(clusters.max()) + 1
    values, of_row = np.unique(loss * width + clusters, return_inverse=True)
    pairs = np.stack(np.divmod(values, width))
    size_of_loss = {n: int(s) for s, n in zip(sources.sizes, sources.losses)}
    names = [
        f"cluster {cluster}" if len(losses) == 1 else f"cluster {cluster} ({losses[which]})"
        for which, cluster in pairs.T
    ]
    unit_losses = tuple(losses[which] for which in pairs[0])
    return Units(
        tuple(names),
        of_row.reshape(-1).astype(np.int64),
        unit_losses,
        np.array([size_of_loss[name] for name in unit_losses], dtype=np.int64),
        np.bincount(of_row, minlength=len(names)),
    )


def group_members(units: Units, settings: BatchSettings) -> list[tuple[float, np.ndarray]]:
    """Return (share, numbers of units) per group.

    Raises:
        SettingsError: When a source is in no group or in two, or two groups take the rest.
    """
    named = [name for group in settings.groups.values() for name in group.sources if name != "*"]
    _check_names(named, units.names, "groups")
    if len(set(named)) < len(named):
        twice = next(name for name in named if named.count(name) > 1)
        raise SettingsError(f"groups name the source {twice!r} twice: a source has one group.")
    rest = [unit for unit in units.names if unit not in set(named)]
    takers = [name for name, group in settings.groups.items() if "*" in group.sources]
    if rest and not takers:
        raise SettingsError(
            f"no group has the sources {rest[:5]}: add them, or give one group the source '*'."
        )
    if len(takers) > 1 or (takers and not rest):
        raise SettingsError(
            f"'*' in groups {takers} must stand for the sources that no group names, once; "
            f"left over are {rest[:5]}."
        )
    number = {name: place for place, name in enumerate(units.names)}
    members = []
    for name, group in settings.groups.items():
        sources = [s for s in group.sources if s != "*"] + (rest if name in takers else [])
        if not sources:
            raise SettingsError(f"the group {name!r} has no sources: name some or remove it.")
        members.append((group.share, np.array([number[s] for s in sources])))
    return members
