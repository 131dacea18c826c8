"""One class over the ways to keep a vector in fewer bytes and search it there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from embedworks._core.validation import (
    check_choice,
    check_in_range,
    check_k,
    check_vectors,
    normalize_rows,
)
from embedworks.errors import FormatError, InputError, ShapeError
from embedworks.index._saved_arrays import load_arrays, save_arrays
from embedworks.index.exact import SIMILARITIES, matching_rows
from embedworks.index.quantized._kernels import add_lookups, hamming
from embedworks.index.quantized.product import ProductQuantizer

__all__ = ["ARRAYS", "CODES", "QuantizedIndex"]

ARRAYS = ("codes", "scales", "rotation", "codebooks")
CODES = ("int8", "binary", "product", "opq")

_ALL = np.empty(0, dtype=np.int64)
_BLOCK = 16_384  # int8 rows scored at a time


class QuantizedIndex:
    """Vectors kept as codes and scored from the codes alone.

    - ``"int8"``: one byte per dimension and a scale per vector, D + 4 bytes.
    - ``"binary"``: the signs, D / 8 bytes. Hamming distance picks ``oversample * k`` rows, which
      are then ranked by the product of the query's own values with the signs.
    - ``"product"``, ``"opq"``: ``subspaces`` bytes, see `ProductQuantizer`.

    Scores are approximate; to have exact ones, put it below a `TwoTierIndex`.

    Args:
        vectors: Array (M, D).
        codes: How vectors are kept, one of the above.
        similarity: ``"cosine"`` or ``"dot"``. Signs know no length, so ``"binary"`` under
            ``"dot"`` is an error.
        subspaces: Bytes per vector of product codes; None takes D / 8. Not for the others.
        quantizer: A fitted quantizer for product codes, such as a learned one, in place of
            fitting one here.
        seed: Seed of k-means.

    Raises:
        ShapeError, EmptyInputError, NonFiniteError: For unusable vectors.
        InputError: On zero vectors under cosine, and on arguments that do not fit.

    Example:
        >>> vectors = np.random.default_rng(0).normal(size=(300, 64))
        >>> index = QuantizedIndex(vectors, codes="binary")
        >>> index.search(vectors[:2], 1)[0].tolist(), index.memory()
        ([[0], [1]], {'codes': 2400})
    """

    def __init__(
        self,
        vectors: np.ndarray,
        *,
        codes: str = "int8",
        similarity: str = "cosine",
        subspaces: int | None = None,
        quantizer: ProductQuantizer | None = None,
        seed: int = 0,
    ) -> None:
        self.codes = check_choice(codes, CODES, name="codes")
        self.similarity = check_choice(similarity, SIMILARITIES, name="similarity")
        product = codes in ("product", "opq")
        if (subspaces is not None or quantizer is not None) and not product:
            raise InputError(f"codes={codes!r} take no subspaces and no quantizer.")
        if codes == "binary" and similarity == "dot":
            raise InputError("codes='binary' keep no lengths: use similarity='cosine'.")
        vectors = check_vectors(vectors)
        if similarity == "cosine":
            vectors = _unit(vectors, "vectors")
        self.dim = vectors.shape[1]
        self._scales, self.quantizer = np.empty(0, dtype=np.float32), quantizer
        if codes == "int8":
            largest = np.abs(vectors).max(axis=1) / np.float32(127)
            self._scales = largest
            steps = vectors / np.where(largest > 0, largest, 1)[:, None]
            self._codes = np.rint(steps).astype(np.int8)
        elif codes == "binary":
            self._codes = _signs(vectors)
        else:
            if quantizer is None:
                self.quantizer = quantizer = ProductQuantizer.fit(
                    vectors, max(1, self.dim // 8) if subspaces is None else subspaces,
                    rotation="opq" if codes == "opq" else "none", seed=seed,
                )  # fmt: skip
            elif quantizer.dim != self.dim or subspaces not in (None, quantizer.subspaces):
                raise ShapeError(
                    f"The quantizer is for {quantizer.dim} dimensions and {quantizer.subspaces} "
                    f"subspaces, not for {self.dim} and {subspaces}."
                )
            self._codes = quantizer.encode(vectors)

    def __len__(self) -> int:
        return len(self._codes)

    def memory(self) -> dict[str, int]:
        """Return the bytes held, by part."""
        parts = {"codes": self._codes.nbytes, "scales": self._scales.nbytes}
        parts["quantizer"] = 0 if self.quantizer is None else self.quantizer.nbytes
        return {name: size for name, size in parts.items() if size}

    def search(
        self, queries: np.ndarray, k: int, *, mask: np.ndarray | None = None, oversample: int = 4
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the best ``min(k, matching)`` rows of every query by the codes' scores.

        Args:
            queries: Array (Q, D).
            k: Number of results wanted.
            mask: Boolean array (M,); only rows where it is True can be returned.
            oversample: Rows that Hamming distance picks, per result; for binary codes.

        Returns:
            ``(ids, scores)``, int64 and float32 (Q, k'), best first, equal scores by ascending
            row. Scores approximate the similarity; those of binary codes are cosines with the
            vectors of signs.

        Raises:
            ShapeError, NonFiniteError: For unusable queries or masks.
            InputError: When k < 1, or on a zero query under cosine.
        """
        k = check_k(k)
        check_in_range(oversample, name="oversample", low=1)
        asked = check_vectors(queries, name="queries", dim=self.dim, allow_empty=True)
        if self.similarity == "cosine":
            asked = _unit(asked, "queries")
        chosen = matching_rows(mask, len(self))
        rows = np.arange(len(self)) if chosen is None else chosen
        wanted = min(k, len(rows))
        ids = np.empty((len(asked), wanted), dtype=np.int64)
        scores = np.empty((len(asked), wanted), dtype=np.float32)
        for number, query in enumerate(asked if wanted else ()):
            found, values = rows, None
            if self.codes == "binary" and wanted * oversample < len(rows):
                found = self._near_in_bits(query, rows, wanted * oversample)
            values = self._scores(query, found)
            if len(found) > 2 * wanted:
                limit = np.partition(values, len(values) - wanted)[-wanted]
                keep = values >= limit
                found, values = found[keep], values[keep]
            order = np.lexsort((found, -values))[:wanted]
            ids[number], scores[number] = found[order], values[order]
        return ids, scores

    def _near_in_bits(self, query: np.ndarray, rows: np.ndarray, count: int) -> np.ndarray:
        distances = np.empty(len(rows), dtype=np.int32)
        hamming(_signs(query[None])[0], self._codes, self._few(rows), distances)
        limit = np.partition(distances, count - 1)[count - 1]
        return rows[distances <= limit]  # with all ties, so that order decides nothing

    def _scores(self, query: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return approximate similarities of a prepared query, float32 (len(rows),)."""
        scores = np.empty(len(rows), dtype=np.float32)
        if self.quantizer is not None:
            table = self.quantizer.tables(query[None])[0]
            add_lookups(table, self._codes, self._few(rows), scores)
            return scores
        for start in range(0, len(rows), _BLOCK):
            part = rows[start : start + _BLOCK]
            if self.codes == "int8":
                scores[start : start + _BLOCK] = self._codes[part].astype(np.float32) @ query
            else:
                bits = np.unpackbits(
                    self._codes[part].view(np.uint8), axis=1, count=self.dim, bitorder="little"
                )
                plus = bits.astype(np.float32) @ query
                scores[start : start + _BLOCK] = (2 * plus - query.sum()) / np.sqrt(self.dim)
        return scores * self._scales[rows] if self.codes == "int8" else scores

    def _few(self, rows: np.ndarray) -> np.ndarray:
        return _ALL if len(rows) == len(self) else rows

    def save(self, folder: Path) -> None:
        """Write the index as a folder; an older one stays complete until the new one is.

        Raises:
            StorageError: When the disk is full or not writable.
        """
        save_arrays(folder, "quantized", *self.parts())

    def parts(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return the settings and arrays that make up the index, for saving."""
        settings = {"codes": self.codes, "similarity": self.similarity, "dim": self.dim}
        quantizer = self.quantizer
        empty = np.empty(0, dtype=np.float32)
        parts = (empty, empty) if quantizer is None else (quantizer.rotation, quantizer.codebooks)
        settings["fingerprint"] = "" if quantizer is None else quantizer.fingerprint()
        return settings, dict(zip(ARRAYS, (self._codes, self._scales, *parts)))

    @classmethod
    def load(cls, folder: Path) -> QuantizedIndex:
        """Open a saved index.

        Raises:
            NotFoundError: When there is none.
            FormatError: When it is damaged, of another kind or of a newer version, or the codes
                belong to other codebooks.
        """
        return cls.from_parts(*load_arrays(folder, "quantized", ARRAYS), folder)

    @classmethod
    def from_parts(
        cls, settings: dict[str, Any], arrays: dict[str, np.ndarray], folder: Path
    ) -> QuantizedIndex:
        """Put an index together from its `parts`; ``folder`` is where they come from.

        Raises:
            FormatError: When they do not fit together.
        """
        index = cls.__new__(cls)
        index._codes, index._scales, *parts = (arrays[name] for name in ARRAYS)
        index.codes, index.similarity = settings.get("codes", ""), settings.get("similarity", "")
        index.dim, index.quantizer = settings.get("dim", 0), None
        total = len(index._codes)
        problem = f"The arrays in {folder} do not fit together. Build the index again."
        if index.codes in ("product", "opq"):
            try:
                index.quantizer = ProductQuantizer(*parts)
            except InputError as error:
                raise FormatError(f"{problem} ({error})") from error
            index.quantizer.check_codes(index._codes, settings.get("fingerprint", ""))
        words = -(-index.dim // 64) if isinstance(index.dim, int) else 0
        expected = {
            "int8": ((total, index.dim), "int8", (total,)),
            "binary": ((total, words), "uint64", (0,)),
        }.get(index.codes, (index._codes.shape, "uint8", (0,)))
        found = (index._codes.shape, str(index._codes.dtype), index._scales.shape)
        if index.codes not in CODES or index.similarity not in SIMILARITIES or found != expected:
            raise FormatError(problem)
        return index


def _unit(vectors: np.ndarray, name: str) -> np.ndarray:
    """Return vectors of unit length; a zero vector is an error."""
    zero = np.flatnonzero(~vectors.any(axis=1))
    if len(zero):
        raise InputError(
            f"{len(zero)} of {len(vectors)} {name} are zero vectors, the first is row {zero[0]}: "
            "cosine similarity is not defined for them."
        )
    return normalize_rows(vectors)


def _signs(vectors: np.ndarray) -> np.ndarray:
    """Return the signs of vectors (N, D) as bits, uint64 (N, ceil(D / 64)); positive is 1."""
    words = -(-vectors.shape[1] // 64)
    packed = np.zeros((len(vectors), words * 8), dtype=np.uint8)
    bits = np.packbits(vectors > 0, axis=1, bitorder="little")
    packed[:, : bits.shape[1]] = bits
    return packed.view(np.uint64)
