"""Product quantisation: a vector as one byte per subspace."""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass

import numpy as np

from embedworks._core.validation import check_choice, check_vectors
from embedworks.errors import DataWarning, FormatError, InputError, ShapeError

__all__ = ["ROTATIONS", "ProductQuantizer"]

ROTATIONS = ("none", "opq")
CODEWORDS = 256

_BLOCK = 65_536  # vectors encoded at a time
_ENOUGH = 39 * CODEWORDS  # vectors faiss wants for 256 codewords
_MOST = 65_536  # vectors learned from
_MOST_TURNED = 16_384  # vectors a rotation is learned from, which takes most of the time


@dataclass(frozen=True, eq=False)
class ProductQuantizer:
    """A rotation, and 256 codewords in each of S subspaces.

    Args:
        rotation: Float32 (D, D); vectors are multiplied by it first, ``x @ rotation``.
        codebooks: Float32 (S, 256, D / S).

    Raises:
        ShapeError: When the shapes do not fit.
        NonFiniteError: When a value is NaN or infinite.

    Example:
        >>> words = np.random.default_rng(0).normal(size=(2, 256, 4)).astype(np.float32)
        >>> quantizer = ProductQuantizer(np.eye(8, dtype=np.float32), words)
        >>> codes = quantizer.encode(np.concatenate([words[0, 5:7], words[1, 8:10]], axis=1))
        >>> codes.tolist()
        [[5, 8], [6, 9]]
    """

    rotation: np.ndarray
    codebooks: np.ndarray

    def __post_init__(self) -> None:
        rotation, books = self.rotation, self.codebooks
        dim = rotation.shape[0] if rotation.ndim == 2 else -1
        if books.ndim != 3 or rotation.shape != (dim, dim) or books.shape[1] != CODEWORDS:
            raise ShapeError(
                f"rotation {rotation.shape} and codebooks {books.shape} must have shapes (D, D) "
                "and (S, 256, D / S)."
            )
        if books.shape[0] * books.shape[2] != dim:
            raise ShapeError(
                f"{books.shape[0]} subspaces of {books.shape[2]} dimensions do not make {dim}."
            )
        check_vectors(rotation, name="rotation")
        check_vectors(books.reshape(-1, books.shape[2]), name="codebooks")

    @classmethod
    def fit(
        cls,
        vectors: np.ndarray,
        subspaces: int,
        *,
        rotation: str = "none",
        iterations: int = 20,
        seed: int = 0,
    ) -> ProductQuantizer:
        """Learn codewords that reconstruct vectors (N, D) well, with faiss.

        Args:
            vectors: What to learn from; of more than 65,536 an even sample is taken (16,384 for
                the rotation).
            subspaces: Bytes per code, S; D must be a multiple of it.
            rotation: ``"none"``, or ``"opq"``, which turns the space so that the parts can be
                coded apart with little loss.
            iterations: Rounds of OPQ.
            seed: Seed of k-means; OPQ starts from faiss's own rotation.

        Raises:
            InputError: When D is not a multiple of ``subspaces``, or there are fewer than 256
                vectors.
            ShapeError, EmptyInputError, NonFiniteError: For unusable vectors.

        Paper: Jegou et al. 2011 (PQ); Ge et al. 2013 (OPQ).
        """
        import faiss

        check_choice(rotation, ROTATIONS, name="rotation")
        vectors = check_vectors(vectors)
        dim = check_subspaces(vectors.shape[1], subspaces)
        if len(vectors) < CODEWORDS:
            raise InputError(
                f"{CODEWORDS} codewords need at least as many vectors, got {len(vectors)}: search "
                "so few exactly, with ExactIndex."
            )
        if len(vectors) < _ENOUGH:
            warnings.warn(
                f"{len(vectors)} vectors are few for {CODEWORDS} codewords: {_ENOUGH} or more "
                "give better codes.",
                DataWarning,
                stacklevel=2,
            )
        sample = _evenly(vectors, _MOST)
        turn = np.eye(dim, dtype=np.float32)
        if rotation == "opq":
            opq = faiss.OPQMatrix(dim, subspaces)
            inner = faiss.ProductQuantizer(dim, subspaces, 8)
            inner.cp.seed = seed
            inner.cp.min_points_per_centroid = 1  # we have warned; faiss would, thousands of times
            opq.niter, opq.pq = iterations, inner
            opq.train(_evenly(sample, _MOST_TURNED))
            turn = faiss.vector_to_array(opq.A).reshape(dim, dim).T.copy()
            sample = np.ascontiguousarray(sample @ turn)
        coder = faiss.ProductQuantizer(dim, subspaces, 8)
        coder.cp.seed = seed
        coder.cp.min_points_per_centroid = 1
        coder.train(sample)
        books = faiss.vector_to_array(coder.centroids).reshape(subspaces, CODEWORDS, -1)
        return cls(np.ascontiguousarray(turn, dtype=np.float32), books.copy())

    @property
    def dim(self) -> int:
        """Dimensions of a vector, D."""
        return self.rotation.shape[0]

    @property
    def subspaces(self) -> int:
        """Bytes of a code, S."""
        return self.codebooks.shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes of rotation and codebooks."""
        return self.rotation.nbytes + self.codebooks.nbytes

    def encode(self, vectors: np.ndarray) -> np.ndarray:
        """Return the nearest codewords of vectors (N, D), uint8 (N, S)."""
        codes = np.empty((len(vectors), self.subspaces), dtype=np.uint8)
        width = self.codebooks.shape[2]
        halves = (self.codebooks.astype(np.float64) ** 2).sum(axis=2).astype(np.float32) / 2
        for start in range(0, len(vectors), _BLOCK):
            part = check_vectors(vectors[start : start + _BLOCK], dim=self.dim)
            turned = part @ self.rotation
            for subspace in range(self.subspaces):
                piece = turned[:, subspace * width : (subspace + 1) * width]
                near = piece @ self.codebooks[subspace].T - halves[subspace]
                codes[start : start + _BLOCK, subspace] = near.argmax(axis=1)
        return codes

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Return the vectors that codes (N, S) stand for, float32 (N, D)."""
        words = self.codebooks[np.arange(self.subspaces), codes]
        return np.asarray(words.reshape(len(codes), -1) @ self.rotation.T)

    def tables(self, queries: np.ndarray) -> np.ndarray:
        """Return every query's product with every codeword, float32 (Q, S, 256)."""
        turned = check_vectors(queries, name="queries", dim=self.dim, allow_empty=True)
        pieces = (turned @ self.rotation).reshape(len(turned), self.subspaces, -1)
        return np.ascontiguousarray(np.einsum("qsw,scw->qsc", pieces, self.codebooks))

    def fingerprint(self) -> str:
        """Return a hash of rotation and codebooks; codes mean nothing with any others."""
        digest = hashlib.sha256(repr(self.codebooks.shape).encode())
        for part in (self.rotation, self.codebooks):
            digest.update(np.ascontiguousarray(part, dtype="<f4").tobytes())
        return digest.hexdigest()[:16]

    def check_codes(self, codes: np.ndarray, fingerprint: str) -> None:
        """Raise `FormatError` unless codes (N, S) were made by this quantizer."""
        if codes.dtype != np.uint8 or codes.ndim != 2 or codes.shape[1] != self.subspaces:
            raise FormatError(
                f"Codes must be uint8 of shape (N, {self.subspaces}), got {codes.dtype} of shape "
                f"{codes.shape}."
            )
        if fingerprint != self.fingerprint():
            raise FormatError("The codes were made with other codebooks: encode the vectors again.")


def _evenly(vectors: np.ndarray, most: int) -> np.ndarray:
    """Return at most so many vectors, from first to last in even steps."""
    return vectors[np.linspace(0, len(vectors) - 1, min(len(vectors), most)).astype(int)]


def check_subspaces(dim: int, subspaces: int) -> int:
    """Return ``dim`` if it is a multiple of ``subspaces``."""
    if isinstance(subspaces, bool) or not isinstance(subspaces, int) or subspaces < 1:
        raise InputError(f"subspaces must be an integer of at least 1, got {subspaces!r}.")
    if dim % subspaces:
        fitting = [count for count in range(1, dim + 1) if dim % count == 0]
        raise InputError(
            f"{dim} dimensions cannot be cut into {subspaces} equal subspaces; these can: "
            f"{', '.join(map(str, fitting))}."
        )
    return dim
