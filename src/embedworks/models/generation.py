"""The side of an embedding model that generates: its transformer as a causal language model."""

from __future__ import annotations

import tempfile
from typing import Any

from embedworks._core.bars import no_bars
from embedworks._core.extras import require_extra

__all__ = ["causal_language_model"]


def causal_language_model(model: Any) -> Any:
    """Return a copy of an embedding model's decoder as a causal language model of transformers.

    The causal mask is on, also after saving, and the output layer is the table of tokens. For
    models that were trained with `embedworks.losses.GenerationLoss`, or ``generate`` in a recipe.

    Args:
        model: A ``SentenceTransformer`` over a decoder with tied output layer.

    Returns:
        A transformers model with ``generate`` and ``save_pretrained``; the tokenizer is
        ``model.tokenizer``.

    Raises:
        InputError: When the model has no decoder, or its output layer is not tied.

    Example:
        >>> from embedworks.models import new_model, train_tokenizer
        >>> tokenizer = train_tokenizer(["a file", "a folder"], vocab_size=270)
        >>> model = new_model("llama", tokenizer, dim=16, layers=1, heads=2, bidirectional=True,
        ...                   tie_word_embeddings=True)
        >>> type(causal_language_model(model)).__name__
        'LlamaForCausalLM'
    """
    transformers = require_extra("transformers", extra="train", purpose="make a language model")
    from embedworks.modules.bidirectional import check_generates

    check_generates(model)
    body = model[0].auto_model
    with tempfile.TemporaryDirectory() as folder, no_bars():
        body.save_pretrained(folder)
        made = transformers.AutoModelForCausalLM.from_pretrained(folder)
    made.config.is_causal = True
    made.to(body.device).eval()
    return made
