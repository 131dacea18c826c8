"""What the stages of one adaptation share: the run folder, the settings, the base model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from embedworks._core.files import atomic_path
from embedworks.data import estimate_tokens
from embedworks.errors import InputError
from embedworks.index import HybridSettings
from embedworks.models import StaticModel, encode_batched, load
from embedworks.training.run_folder import RunFolder
from embedworks.training.settings import AdaptSettings

__all__ = ["Job", "save_vectors"]

# The weaker the model, the more BM25 counts; both optima are flat.
_BM25_WEIGHT_STATIC = 0.5
_BM25_WEIGHT_TRANSFORMER = 0.35


def save_vectors(path: Any, vectors: np.ndarray) -> None:
    """Write an array as .npy, atomically."""
    with atomic_path(path) as temporary, open(temporary, "wb") as handle:
        np.save(handle, vectors)


@dataclass
class Job:
    """One adaptation while it runs.

    Attributes:
        run: The run folder.
        settings: Resolved settings.
        source: Where the documents are.
        show_progress: True or False to force progress bars; None shows them on a terminal.
        encoded_tokens: Tokens encoded so far per model role, for the report.
    """

    run: RunFolder
    settings: AdaptSettings
    source: str
    show_progress: bool | None = None
    encoded_tokens: dict[str, int] = field(default_factory=dict)

    @cached_property
    def base(self) -> Any:
        """The base model, loaded once."""
        return load(self.settings.base)

    @property
    def is_static(self) -> bool:
        """Whether the base is a static model, trained on its table alone."""
        return isinstance(self.base, StaticModel)

    def check_trainable(self) -> None:
        """Raise where the base is a model that can be used but not trained.

        Raises:
            InputError: When it is neither a static model nor sentence-transformers'.
        """
        if not (self.is_static or hasattr(self.base, "max_seq_length")):
            raise InputError(
                f"{self.settings.base} is a {type(self.base).__name__}, which cannot be adapted: "
                "take a static model or a sentence-transformers model as base, or index with it "
                "as it is (embedworks index build --model)."
            )

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Count the base model's tokens, special tokens left out; estimate where it has none."""
        if self.is_static:
            _, offsets = self.base.tokenize(list(texts))
            return [int(n) for n in np.diff(offsets)]
        if not hasattr(self.base, "tokenizer"):
            return estimate_tokens(texts)
        encoded = self.base.tokenizer(
            list(texts), add_special_tokens=False, truncation=False, verbose=False
        )
        return [len(ids) for ids in encoded["input_ids"]]

    @property
    def merge_weights(self) -> tuple[float, ...]:
        """Candidate weights of the adapted model, 0 left out."""
        merge = self.settings.merge
        return merge.weights if self.is_static else merge.transformer_weights

    @property
    def default_bm25_weight(self) -> float:
        """Share of BM25 in hybrid search before validation has its say."""
        weight = self.settings.search.bm25_weight
        if weight is not None:
            return weight
        return _BM25_WEIGHT_STATIC if self.is_static else _BM25_WEIGHT_TRANSFORMER

    @property
    def hybrid(self) -> HybridSettings:
        """How hybrid search combines BM25 and the final model."""
        return self._hybrid("bm25_weight")

    @property
    def base_hybrid(self) -> HybridSettings:
        """How hybrid search combines BM25 and the base, tuned in the same way."""
        return self._hybrid("base_bm25_weight")

    def _hybrid(self, name: str) -> HybridSettings:
        weight = self.default_bm25_weight
        if self.run.is_done("merge"):
            weight = self.run.info("merge")[name]
        return HybridSettings(bm25_weight=weight, feedback_rows=self.settings.search.feedback_rows)

    @property
    def token_limit(self) -> int:
        """How many tokens of a text the base model reads, its special tokens left out."""
        if not getattr(self.base, "max_seq_length", None):  # reads texts of any length
            return 2**31
        special = self.base.tokenizer.num_special_tokens_to_add(pair=False)
        return int(self.base.max_seq_length) - int(special)

    def encode(self, model: Any, texts: Sequence[str]) -> np.ndarray:
        """Encode texts, in batches of equal work; float32 (N, D), normalised."""
        vectors, _ = encode_batched(model, list(texts), show_progress=self.show_progress)
        return vectors

    @cached_property
    def chunks(self) -> pa.Table:
        """All chunks, in order."""
        return pq.read_table(self.run.work / "chunks.parquet")

    @cached_property
    def positions(self) -> dict[str, int]:
        """Chunk id -> row of `chunks`."""
        return {name: i for i, name in enumerate(self.chunks["chunk_id"].to_pylist())}

    def holdout(self, split: str) -> pa.Table:
        """Return held-out questions of ``"validation"`` or ``"test"``."""
        table = pq.read_table(self.run.work / "holdout.parquet")
        return table.filter(pa.compute.equal(table["split"], split))
