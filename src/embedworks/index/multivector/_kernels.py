"""Numba kernels for MaxSim over a ragged token matrix.

Loops run over the query's tokens innermost: these are independent sums, so the compiler may use
vector instructions without changing the order in which anything is added.
"""

from __future__ import annotations

import numpy as np
from numba import types

from embedworks._core.kernels import compile_kernel

__all__ = [
    "LANES",
    "add_centroid_scores",
    "add_residual_scores",
    "gather_cells",
    "mark_best_rows",
    "mark_documents",
    "maxsim_of_block",
    "maxsim_of_document",
]

#: Query tokens that the compressed kernels score at a time: one wide vector register.
LANES = 16

_i64s = types.Array(types.int64, 1, "C", readonly=True)
_f32s2 = types.Array(types.float32, 2, "C", readonly=True)
_f64s2 = types.Array(types.float64, 2, "C", readonly=True)
_i32s = types.Array(types.int32, 1, "C", readonly=True)
_codes = types.Array(types.uint8, 2, "C", readonly=True)
_u16s = types.Array(types.uint16, 1, "C", readonly=True)


@compile_kernel(types.void, _f32s2, _i64s, _i64s, types.float32[:, ::1])
def maxsim_of_block(
    similarities: np.ndarray, offsets: np.ndarray, edges: np.ndarray, scores: np.ndarray
) -> None:
    """Turn token similarities into MaxSim scores, for many documents and many queries.

    Args:
        similarities: Float32 (T, U): every document token with every query token.
        offsets: The tokens of document m are ``offsets[m]`` to ``offsets[m + 1]``, (M + 1,).
        edges: The same for the queries' tokens, (Q + 1,).
        scores: Gets the scores, float32 (Q, M).
    """
    width = similarities.shape[1]
    best = np.empty(width, dtype=np.float32)
    for document in range(len(offsets) - 1):
        best[:] = -np.inf
        for token in range(offsets[document], offsets[document + 1]):
            for column in range(width):
                best[column] = max(best[column], similarities[token, column])
        for query in range(len(edges) - 1):
            total = 0.0
            for column in range(edges[query], edges[query + 1]):
                total += best[column]
            scores[query, document] = total


@compile_kernel(types.float64, _f32s2, _f64s2)
def maxsim_of_document(tokens: np.ndarray, query: np.ndarray) -> float:
    """Return MaxSim of one document (T, D) and one query, given transposed as (D, U).

    Products are summed in float64 in the order of the dimensions.
    """
    width = query.shape[1]
    best = np.full(width, -np.inf)
    sums = np.empty(width)
    for token in range(len(tokens)):
        sums[:] = 0.0
        for dim in range(tokens.shape[1]):
            value = np.float64(tokens[token, dim])
            for column in range(width):
                sums[column] += value * query[dim, column]
        for column in range(width):
            best[column] = max(best[column], sums[column])
    total = 0.0
    for column in range(width):
        total += best[column]
    return total


@compile_kernel(
    types.void, types.float32[:, ::1], _u16s, _i64s, _i64s, types.int64, types.float64[::1]
)
def add_centroid_scores(
    similarities: np.ndarray,
    nearest: np.ndarray,
    offsets: np.ndarray,
    documents: np.ndarray,
    used: int,
    scores: np.ndarray,
) -> None:
    """Add MaxSim of documents whose tokens are taken for their centroids, for 16 query tokens.

    Args:
        similarities: Float32 (C, 16): every centroid with every query token.
        nearest: Centroid of every token, (T,).
        offsets: Where documents' tokens begin, (M + 1,).
        documents: Which documents to score.
        used: How many of the 16 query tokens there are.
        scores: What to add to, float64 (len(documents),).
    """
    best = np.empty(LANES, dtype=np.float32)
    for place in range(len(documents)):
        document = documents[place]
        best[:] = -np.inf
        for token in range(offsets[document], offsets[document + 1]):
            row = nearest[token]
            for lane in range(LANES):
                best[lane] = max(best[lane], similarities[row, lane])
        for lane in range(used):
            scores[place] += best[lane]


@compile_kernel(
    types.void,
    types.float32[:, ::1],
    types.float32[:, :, ::1],
    _u16s,
    _codes,
    _u16s,
    types.float32,
    _i64s,
    _i64s,
    types.int64,
    types.float64[::1],
)
def add_residual_scores(
    similarities: np.ndarray,
    tables: np.ndarray,
    nearest: np.ndarray,
    codes: np.ndarray,
    scales: np.ndarray,
    unit: float,
    offsets: np.ndarray,
    documents: np.ndarray,
    used: int,
    scores: np.ndarray,
) -> None:
    """Add MaxSim of documents with decoded tokens, for 16 query tokens; none is written out.

    Eight bytes are added up at a time: the sums, which a loop must write and read again, are then
    touched an eighth as often.

    Args:
        similarities: Float32 (C, 16): every centroid with every query token.
        tables: Float32 (P, 256, 16), see `ResidualCodec.tables`; with P below the number of code
            bytes only the first P of every code are read.
        nearest: Centroid of every token, (T,).
        codes: Codes of every token, (T, code bytes).
        scales: What to multiply every token with, (T,), in units of ``unit``.
        unit: Unit of the scales.
        offsets: Where documents' tokens begin, (M + 1,).
        documents: Which documents to score.
        used: How many of the 16 query tokens there are.
        scores: What to add to, float64 (len(documents),).
    """
    best = np.empty(LANES, dtype=np.float32)
    sums = np.empty(LANES, dtype=np.float32)
    eights = len(tables) - len(tables) % 8
    for place in range(len(documents)):
        document = documents[place]
        best[:] = -np.inf
        for token in range(offsets[document], offsets[document + 1]):
            row = nearest[token]
            scale = np.float32(scales[token]) * unit
            for lane in range(LANES):
                sums[lane] = similarities[row, lane]
            for byte in range(0, eights, 8):
                a, b, c, d = byte, byte + 1, byte + 2, byte + 3
                e, f, g, h = byte + 4, byte + 5, byte + 6, byte + 7
                code_a, code_b = codes[token, a], codes[token, b]
                code_c, code_d = codes[token, c], codes[token, d]
                code_e, code_f = codes[token, e], codes[token, f]
                code_g, code_h = codes[token, g], codes[token, h]
                for lane in range(LANES):
                    sums[lane] += (
                        (tables[a, code_a, lane] + tables[b, code_b, lane])
                        + (tables[c, code_c, lane] + tables[d, code_d, lane])
                    ) + (
                        (tables[e, code_e, lane] + tables[f, code_f, lane])
                        + (tables[g, code_g, lane] + tables[h, code_h, lane])
                    )
            for byte in range(eights, len(tables)):
                code = codes[token, byte]
                for lane in range(LANES):
                    sums[lane] += tables[byte, code, lane]
            for lane in range(LANES):
                best[lane] = max(best[lane], sums[lane] * scale)
        for lane in range(used):
            scores[place] += best[lane]


@compile_kernel(types.int64, types.float32[:, ::1], types.int64, types.int64, types.uint8[::1])
def mark_best_rows(similarities: np.ndarray, used: int, count: int, marks: np.ndarray) -> int:
    """Mark the ``count`` rows of largest similarity in each of the ``used`` columns.

    Args:
        similarities: Float32 (C, 16).
        used: Columns to look at.
        count: Rows to mark per column.
        marks: Gets 1 where a row is among the best of a column, (C,).
    """
    values = np.empty(count, dtype=np.float32)
    places = np.empty(count, dtype=np.int64)
    for column in range(used):
        filled = 0
        for row in range(len(similarities)):
            value = similarities[row, column]
            if filled == count and value <= values[count - 1]:
                continue
            # Keep the best so far in order; equal values stay in the order of their rows.
            place = filled if filled < count else count - 1
            while place > 0 and values[place - 1] < value:
                values[place] = values[place - 1]
                places[place] = places[place - 1]
                place -= 1
            values[place] = value
            places[place] = row
            filled = min(filled + 1, count)
        for place in range(filled):
            marks[places[place]] = 1
    return used


@compile_kernel(types.int64, types.uint8[::1], _i64s, _i32s, types.uint8[::1])
def mark_documents(
    marks: np.ndarray, starts: np.ndarray, lists: np.ndarray, found: np.ndarray
) -> int:
    """Mark the documents in the lists of the marked centroids; return how many are new.

    Args:
        marks: Which centroids, uint8 (C,).
        starts: Where the centroids' lists begin, (C + 1,).
        lists: Documents of every centroid, int32.
        found: Where a document is marked: 1 from 0; other values stay. uint8 (M,).
    """
    count = 0
    for centroid in range(len(marks)):
        if marks[centroid]:
            for place in range(starts[centroid], starts[centroid + 1]):
                document = lists[place]
                if found[document] == 0:
                    found[document] = 1
                    count += 1
    return count


@compile_kernel(types.void, _f32s2, _i64s, _i64s, types.boolean, types.float32[:, :, ::1])
def gather_cells(
    tokens: np.ndarray, cells: np.ndarray, offsets: np.ndarray, mean: bool, blocks: np.ndarray
) -> None:
    """Add up each document's tokens by cell, or average them and fill the empty cells.

    Args:
        tokens: Float32 (T, d).
        cells: Cell of every token, (T,).
        offsets: Where documents' tokens begin, (M + 1,).
        mean: True averages; an empty cell then gets the first of the tokens whose cells differ
            from it in the fewest bits. False adds up and leaves empty cells 0.
        blocks: Gets the result, float32 (M, cells, d).
    """
    counts = np.empty(blocks.shape[1], dtype=np.int64)
    for document in range(len(offsets) - 1):
        block = blocks[document]
        block[:] = 0.0
        counts[:] = 0
        for token in range(offsets[document], offsets[document + 1]):
            counts[cells[token]] += 1
            for dim in range(tokens.shape[1]):
                block[cells[token], dim] += tokens[token, dim]
        if not mean:
            continue
        for cell in range(len(counts)):
            if counts[cell] > 0:
                for dim in range(tokens.shape[1]):
                    block[cell, dim] /= counts[cell]
                continue
            nearest, fewest = offsets[document], np.int64(64)
            for token in range(offsets[document], offsets[document + 1]):
                differing, differ = cells[token] ^ cell, np.int64(0)
                while differing > 0:
                    differ += differing & 1
                    differing >>= 1
                if differ < fewest:
                    nearest, fewest = token, differ
            for dim in range(tokens.shape[1]):
                block[cell, dim] = tokens[nearest, dim]
