"""Lexical vectors of a dense size: tokens grouped by their output vectors."""

from __future__ import annotations

from typing import Any

import numpy as np

from embedworks._core.extras import require_extra
from embedworks._core.validation import check_in_range, normalize_rows
from embedworks.errors import InputError
from embedworks.models.vocabulary import usable_tokens, vocabulary_matrix

__all__ = ["group_tokens", "lexicon_model"]


def lexicon_model(model: Any, groups: int = 4000, *, seed: int = 0) -> Any:
    """Return a model whose dimensions are groups of tokens, over the same transformer.

    Tokens are grouped by the direction of their vectors in the output layer (the input table where
    there is none), so that spellings of one word share a dimension. Train it as any other model:
    an encoder that was not trained to say tokens says little before.

    Args:
        model: A ``SentenceTransformer`` over a transformer; its weights are shared.
        groups: Dimensions; as many as there are usable tokens gives each its own.
        seed: Of the clustering.

    Raises:
        InputError: When the model has no table of tokens of its states' width, or ``groups`` is
            more than its usable tokens.

    Example:
        >>> from embedworks.models import new_model, train_tokenizer
        >>> tokenizer = train_tokenizer(["a file", "a folder"], vocab_size=275)
        >>> model = new_model("bert", tokenizer, dim=16, layers=1, heads=2)
        >>> lexicon_model(model, 5).encode("a file").shape
        (5,)
    """
    library = require_extra("sentence_transformers", extra="train", purpose="make a model")
    import torch

    from embedworks.data import kmeans
    from embedworks.modules import LexiconPooling

    tokenizer = getattr(model, "tokenizer", None)
    if tokenizer is None or not hasattr(model, "__getitem__"):
        raise InputError(
            f"a {type(model).__name__} has no tokenizer: expected a SentenceTransformer."
        )
    size = len(tokenizer)
    head = vocabulary_matrix(model)[:size]
    usable = usable_tokens(tokenizer)
    check_in_range(groups, name="groups", low=1, high=int(usable.sum()))
    width = model[0].get_embedding_dimension()
    if head.shape != (size, width):
        raise InputError(
            f"the table of tokens is {head.shape} for states of {width} dimensions: they do not "
            "fit."
        )
    if groups == usable.sum():
        of_token = np.arange(groups)
    else:
        of_token = kmeans(normalize_rows(head[usable]), groups, seed=seed).of_row
    places = np.full(size, -1, dtype=np.int64)
    places[usable] = of_token
    pooling = LexiconPooling(width, groups=groups, vocabulary=size)
    pooling.set_groups(torch.from_numpy(head), torch.from_numpy(places))
    made = library.SentenceTransformer(modules=[model[0], pooling], device=str(model.device))
    made.eval()
    return made


def group_tokens(model: Any) -> list[list[str]]:
    """Return the tokens of each dimension of a `lexicon_model`: what a vector is about.

    Raises:
        InputError: When the model is of another kind.
    """
    from embedworks.modules import LexiconPooling

    pooling = next((part for part in model if isinstance(part, LexiconPooling)), None)
    if pooling is None:
        raise InputError("the model has no groups of tokens: make one with lexicon_model.")
    found: list[list[str]] = [[] for _ in range(pooling.groups)]
    for token, place in enumerate(pooling.group_of.tolist()):
        if place >= 0:
            found[place].append(str(model.tokenizer.convert_ids_to_tokens(token)))
    return found
