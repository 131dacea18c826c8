"""Take a graph over from one version's rows to the next one's, without building it again."""

from __future__ import annotations

import numpy as np

from embedworks.errors import FormatError
from embedworks.index.filtered.graph import Graph

__all__ = ["check_graph", "renumber_graph"]


def renumber_graph(graph: Graph, kept: np.ndarray) -> Graph:
    """Return the graph over the rows that are kept, under their new numbers.

    A link to a row that is gone leads to the first of that row's own neighbours that stays, so
    that what was reached through it still is; links that lead nowhere are left out.

    Args:
        graph: Graph over M rows.
        kept: Old numbers of the rows that stay, int64 (N,), each once and N >= 1; the row
            ``kept[i]`` becomes row i.

    Example:
        >>> links = np.array([[1, -1], [0, 2], [1, -1]], dtype=np.int32)
        >>> nothing = np.empty((0, 0, 1), dtype=np.int32)
        >>> chain = Graph(links, np.full(3, -1, dtype=np.int32), nothing, 1)
        >>> renumber_graph(chain, np.array([0, 2])).links.tolist()
        [[-1, -1], [0, -1]]
    """
    number = np.full(len(graph.links), -1, dtype=np.int32)
    number[kept] = np.arange(len(kept), dtype=np.int32)
    links = _relink(graph.links, np.arange(len(graph.links)), number, kept)
    tall = kept[graph.upper_place[kept] >= 0]
    owners = np.full(len(graph.upper_links), -1, dtype=np.int64)
    there = np.flatnonzero(graph.upper_place >= 0)
    owners[graph.upper_place[there]] = there
    levels = [
        _relink(graph.upper_links[:, level], owners, number, tall)
        for level in range(graph.upper_links.shape[1])
    ]
    shape = (len(tall), graph.upper_links.shape[1], graph.upper_links.shape[2])
    upper = np.stack(levels, axis=1) if levels else np.empty(shape, dtype=np.int32)
    place = np.full(len(kept), -1, dtype=np.int32)
    place[number[tall]] = np.arange(len(tall), dtype=np.int32)
    entry = int(number[graph.entry])
    if entry < 0:  # the row with links on the highest level takes over
        heights = (upper >= 0).any(axis=2).sum(axis=1) if len(tall) else np.empty(0)
        entry = int(number[tall[int(heights.argmax())]]) if len(tall) else 0
    return Graph(links, place, np.ascontiguousarray(upper), entry)


def _relink(
    links: np.ndarray, owners: np.ndarray, number: np.ndarray, kept: np.ndarray
) -> np.ndarray:
    """Return the links of the kept rows on one level, renumbered.

    Args:
        links: Old links, int32 (U, L), filled up with -1.
        owners: The row each line of ``links`` belongs to, (U,).
        number: Old row -> new row, or -1, int32 (M,).
        kept: Old numbers of the rows whose links are wanted.
    """
    line = np.full(len(number), -1, dtype=np.int64)
    line[owners] = np.arange(len(owners))
    old = links[line[kept]]
    new = np.where(old >= 0, number[old], -1).astype(np.int32)
    broken = np.flatnonzero(((old >= 0) & (new < 0)).any(axis=1))
    if not len(broken):
        return np.ascontiguousarray(new)
    # For each row that is gone: the first of its neighbours that stays.
    instead = np.full(len(number), -1, dtype=np.int32)
    gone = owners[number[owners] < 0]
    onward = links[line[gone]]
    onward = np.where(onward >= 0, number[onward], -1)
    first = (onward >= 0).argmax(axis=1) if onward.shape[1] else np.zeros(len(gone), np.int64)
    instead[gone] = onward[np.arange(len(gone)), first]
    part, was = new[broken], old[broken]
    part = np.where((was >= 0) & (part < 0), instead[was], part)
    part[part == number[kept[broken]][:, None]] = -1  # back to where it came from
    order = np.argsort(part < 0, axis=1, kind="stable")  # a walk stops at the first -1
    new[broken] = np.take_along_axis(part, order, axis=1)
    return np.ascontiguousarray(new)


def check_graph(graph: Graph) -> None:
    """Raise `FormatError` unless every number in the graph names one of its rows.

    A walk follows the numbers without looking, so those that came from a file are checked.
    """
    rows, upper = len(graph.links), graph.upper_links
    bounds = (
        (graph.links, rows),
        (upper, rows),
        (graph.upper_place, len(upper)),
        (np.array([graph.entry]), rows),
    )
    shapes = (graph.links.ndim, upper.ndim, graph.upper_place.shape) == (2, 3, (rows,))
    kinds = all(a.dtype == np.int32 for a in (graph.links, upper, graph.upper_place))
    inside = all(
        array.min(initial=0) >= -1 and array.max(initial=-1) < end for array, end in bounds
    )
    if not (shapes and kinds and inside and rows and graph.entry >= 0):
        raise FormatError("The graph names rows that are not there, or has another shape.")
