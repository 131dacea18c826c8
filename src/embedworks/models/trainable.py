"""Any loaded model as a sentence-transformers module whose parameters can be trained."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from embedworks._core.extras import require_extra
from embedworks.models.loading import load
from embedworks.models.static import StaticModel

__all__ = ["load_trainable"]


def load_trainable(
    name: str | Path, *, device: str | None = None, check_golden: bool = True
) -> Any:
    """Return a fresh sentence-transformers model; static ones are converted to one in float32.

    Args:
        name: Name or folder of a model.
        device: Torch device; by default the best there is, and the CPU for static models.
        check_golden: Whether the folder's golden vectors, if it has any, must be reproduced.

    Raises:
        MissingExtraError: When sentence-transformers is not installed.
    """
    library = require_extra("sentence_transformers", extra="train", purpose="train a model")
    model: Any = load(name, device=device, check_golden=check_golden)
    if not isinstance(model, StaticModel):
        return model
    with tempfile.TemporaryDirectory() as scratch:
        folder = model.save_pretrained(Path(scratch) / "static", dtype="float32")
        return library.SentenceTransformer(
            str(folder), device=device or "cpu", local_files_only=True
        )
