"""One model that embeds and ranks: a score for pairs beside the vectors, on one transformer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from embedworks._core.extras import require_extra
from embedworks._core.progress import progress
from embedworks._core.seeding import derive_seed
from embedworks._core.validation import check_in_range, check_texts
from embedworks.errors import InputError

__all__ = ["JointReranker", "joint_model"]


def joint_model(model: Any, *, seed: int = 0) -> Any:
    """Return the model with a `RankingHead` behind it; vectors stay as they are.

    Train it with `embedworks.losses.JointRankingLoss`, or with ``rank`` in a stage of a recipe.

    Args:
        model: A ``SentenceTransformer`` over a transformer; its parts are shared.
        seed: Of the head's weights.

    Raises:
        InputError: When the model has no transformer, or has a head already.

    Example:
        >>> from embedworks.models import new_model, train_tokenizer
        >>> tokenizer = train_tokenizer(["a file", "a folder"], vocab_size=270)
        >>> model = joint_model(new_model("bert", tokenizer, dim=16, layers=1, heads=2))
        >>> model.encode(["a file"]).shape, JointReranker(model).predict([("file", "a file")]).shape
        ((1, 16), (1,))
    """
    library = require_extra("sentence_transformers", extra="train", purpose="make a model")
    import torch

    from embedworks.modules import RankingHead

    try:
        config = model[0].auto_model.config
    except (TypeError, KeyError, IndexError, AttributeError) as error:
        raise InputError(
            f"a {type(model).__name__} has no transformer that reads pairs: expected a "
            "SentenceTransformer over one."
        ) from error
    if any(isinstance(part, RankingHead) for part in model):
        raise InputError("the model has a RankingHead already.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "ranking head"))
        head = RankingHead(config.hidden_size)
    made = library.SentenceTransformer(
        modules=[*model, head], device=str(model.device), prompts=model.prompts,
        default_prompt_name=model.default_prompt_name, truncate_dim=model.truncate_dim,
        similarity_fn_name=model.similarity_fn_name,
    )  # fmt: skip
    made.eval()
    return made


class JointReranker:
    """The side of a joint model that ranks: a `Reranker` for searches and evaluation.

    Args:
        model: Of `joint_model`.
        batch_size: Pairs read at a time; long ones are read together.

    Raises:
        InputError: When the model has no head.
    """

    def __init__(self, model: Any, *, batch_size: int = 32) -> None:
        from embedworks.modules.ranking import ranking_head

        check_in_range(batch_size, name="batch_size", low=1)
        self.model = model
        self.head = ranking_head(model)
        self.batch_size = batch_size
        tokenizer = model.tokenizer
        starts = (tokenizer.cls_token_id, tokenizer.bos_token_id)
        self._start = next((token for token in starts if token is not None), None)

    def parameters(self) -> Any:
        """Return the weights, which tell one reranker from another."""
        return self.model.parameters()

    def predict(
        self, pairs: Sequence[tuple[str, str]], *, show_progress: bool | None = False
    ) -> np.ndarray:
        """Return the score of each pair of query and document, float32 (N,); higher is better."""
        import torch

        queries = check_texts([query for query, _ in pairs], name="queries")
        documents = check_texts([document for _, document in pairs], name="documents")
        lengths = [len(a) + len(b) for a, b in zip(queries, documents, strict=True)]
        order = np.argsort(lengths, kind="stable")[::-1]
        found = np.empty(len(order), dtype=np.float32)
        was_training = self.model.training
        self.model.eval()
        try:
            with progress("Ranking", len(order), enabled=show_progress) as bar, torch.no_grad():
                for start in range(0, len(order), self.batch_size):
                    part = order[start : start + self.batch_size]
                    columns = [
                        self.model.preprocess([texts[int(place)] for place in part])
                        for texts in (queries, documents)
                    ]
                    found[part] = self.score(*columns).float().cpu().numpy()
                    bar.advance(len(part))
        finally:
            self.model.train(was_training)
        return found

    def score(self, queries: Any, documents: Any) -> Any:
        """Return the scores of pairs, float tensor (B,), from their features, with a graph."""
        from embedworks.modules.ranking import join_pairs

        limit = self.model.max_seq_length
        features = join_pairs(
            {k: queries[k].to(self.model.device) for k in _NAMES if k in queries},
            {k: documents[k].to(self.model.device) for k in _NAMES if k in documents},
            limit=None if limit is None else int(limit),
            start=self._start,
            pad=self.model.tokenizer.pad_token_id or 0,
        )
        mask = features["attention_mask"]
        return self.head.score(self.model[0](features)["token_embeddings"], mask)


_NAMES = ("input_ids", "attention_mask", "token_type_ids")
