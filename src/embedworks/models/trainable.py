"""Any loaded model as a sentence-transformers module whose parameters can be trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from embedworks._core.extras import require_extra
from embedworks.models.loading import load
from embedworks.models.static import StaticModel

__all__ = ["load_trainable"]


def load_trainable(name: str | Path, scratch: str | Path, *, device: str | None = None) -> Any:
    """Return a fresh sentence-transformers model; a static one is written out and read by it.

    Args:
        name: Name or folder of a model.
        scratch: Folder for the form that sentence-transformers reads.
        device: Torch device; by default the best there is, and the CPU for static models.

    Raises:
        MissingExtraError: When sentence-transformers is not installed.
    """
    library = require_extra("sentence_transformers", extra="train", purpose="train a model")
    model = load(name, device=device)
    if not isinstance(model, StaticModel):
        return model
    folder = Path(scratch) / "static"
    if not folder.is_dir():
        model.save_pretrained(folder, dtype="float32")
    return library.SentenceTransformer(str(folder), device=device or "cpu", local_files_only=True)
