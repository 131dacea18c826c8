"""Token vectors of a model that is not trained, kept on disk, for late interaction."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embedworks._core.files import atomic_path, sha256_of_text
from embedworks._core.progress import track
from embedworks._core.seeding import generator
from embedworks._core.validation import check_texts
from embedworks.errors import FormatError, InputError
from embedworks.evaluation import DataFolder
from embedworks.models import load, model_fingerprint

if TYPE_CHECKING:
    from embedworks.index import TokenMatrix

__all__ = ["FrozenTokens", "chosen_axes", "vaswani_tokens"]

_BLOCK = 512


class FrozenTokens:
    """A model's vector of every token, [CLS] and [SEP] too, of unit length, in float16.

    Args:
        model: Name for `embedworks.load` of a sentence-transformers model, or such a model.
        cache: Folder for the vectors, one file per list of texts; None keeps none.
        device: Torch device of the model, chosen by itself when None.

    Raises:
        InputError: When the model gives no token vectors.
    """

    def __init__(
        self, model: str | Any = "minilm", *, cache: Path | None = None, device: str | None = None
    ) -> None:
        self.model: Any = load(model, device=device) if isinstance(model, str) else model
        if not hasattr(self.model, "tokenize"):
            raise InputError(f"{type(self.model).__name__} gives no token vectors.")
        self._folder: Path | None = None
        if cache is not None:
            self._folder = Path(cache) / f"tokens-{model_fingerprint(self.model)[:16]}"

    def path(self, texts: Sequence[str]) -> Path | None:
        """Return where the vectors of these texts are kept."""
        name = sha256_of_text(*check_texts(texts))[:20]
        return None if self._folder is None else self._folder / f"{name}.safetensors"

    def __call__(self, texts: Sequence[str]) -> TokenMatrix:
        """Return one document of token vectors per text, float16."""
        from safetensors.numpy import save_file

        from embedworks.index import TokenMatrix

        path = self.path(texts)
        if path is not None and path.is_file():
            return _read(path, len(texts))
        parts: list[np.ndarray] = []
        for start in track(range(0, len(texts), _BLOCK), "Encoding tokens"):
            found = self.model.encode(
                list(texts[start : start + _BLOCK]),
                output_value="token_embeddings",
                show_progress_bar=False,
            )
            parts += [one.cpu().numpy() for one in found]
        whole = TokenMatrix.from_documents(parts).normalized()
        matrix = TokenMatrix(whole.tokens.astype(np.float16), whole.offsets)
        if path is not None:
            with atomic_path(path) as temporary:
                save_file({"tokens": matrix.tokens, "offsets": matrix.offsets}, temporary)
        return matrix


def _read(path: Path, count: int) -> TokenMatrix:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    from embedworks.index import TokenMatrix

    try:
        tensors = load_file(path)
        matrix = TokenMatrix(tensors["tokens"], tensors["offsets"])
    except (SafetensorError, KeyError, InputError) as error:
        raise FormatError(f"{path} is damaged ({error}): delete it and run again.") from error
    if len(matrix) != count:
        raise FormatError(f"{path} does not hold one document per text: delete it.")
    return matrix


def chosen_axes(tokens: np.ndarray, kind: str, dims: int, *, seed: int) -> np.ndarray:
    """Return ``dims`` orthonormal directions to keep, (D, dims).

    Args:
        tokens: Token vectors (T, D); a tenth of them decides where the principal axes lie.
        kind: ``"principal"``, ``"first"`` (the first coordinates) or ``"random"``.
        dims: How many.
        seed: Seed of the random axes and of the sample.

    Example:
        >>> chosen_axes(np.eye(3), "first", 2, seed=0).tolist()
        [[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]
    """
    width = tokens.shape[1]
    if kind == "first":
        return np.eye(width)[:, :dims]
    rng = generator(seed, "axes")
    if kind == "random":
        return np.linalg.qr(rng.normal(size=(width, dims)))[0]
    rows = rng.permutation(len(tokens))[: max(1000, len(tokens) // 10)]
    sample = tokens[rows].astype(np.float64)
    return np.linalg.eigh(sample.T @ sample)[1][:, ::-1][:, :dims]


def vaswani_tokens(
    model: str, documents: int, *, cache: Path, seed: int
) -> tuple[TokenMatrix, list[str], list[np.ndarray], dict[str, dict[str, int]]]:
    """Return token vectors of Vaswani's documents, their ids, its queries', and the judgements.

    Args:
        model: Name of a transformer.
        documents: How many, but at least all judged ones; which others, the seed decides.
        cache: Folder for vectors.
        seed: Seed of the sample.

    Raises:
        NotFoundError: When the data folder is not there.
    """
    from embedworks.index import TokenMatrix

    data = DataFolder()
    corpus = data.records("ir_vaswani_corpus.parquet", ["doc_id", "text"])
    asked = data.records("ir_vaswani_queries.parquet", ["query_id", "text"])
    qrels: dict[str, dict[str, int]] = {}
    for row in data.records("ir_vaswani_qrels.parquet", ["query_id", "doc_id", "relevance"]):
        qrels.setdefault(str(row["query_id"]), {})[str(row["doc_id"])] = int(row["relevance"])
    frozen = FrozenTokens(model, cache=cache, device="cpu")
    queries = frozen([row["text"] for row in asked])
    judged = {name for own in qrels.values() for name in own}
    order = generator(seed, "vaswani").permutation(len(corpus)).tolist()
    # Every judged document is there and encoded once; which others are, the seed decides.
    order.sort(key=lambda row: str(corpus[row]["doc_id"]) not in judged)
    always = sorted(order[: len(judged)])
    others = sorted(order[len(judged) : documents])
    parts: list[np.ndarray] = []
    for rows in filter(None, (always, others)):
        found = frozen([corpus[row]["text"] for row in rows])
        parts += [found.document(number) for number in range(len(found))]
    kept = TokenMatrix.from_documents(parts)
    names = [str(corpus[row]["doc_id"]) for row in always + others]
    vectors = [queries.document(row).astype(np.float32) for row in range(len(queries))]
    return (
        kept,
        names,
        vectors,
        {str(row["query_id"]): qrels[str(row["query_id"])] for row in asked},
    )
