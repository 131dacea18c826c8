"""`load_reranker`: a cross-encoder by folder or hub name."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from embedworks._core.devices import pick_device
from embedworks._core.extras import require_extra
from embedworks.errors import FormatError, NotFoundError, OfflineError

__all__ = ["load_reranker"]


def load_reranker(
    name: str | Path, *, device: str | None = None, local_files_only: bool = False
) -> Any:
    """Load a sentence-transformers ``CrossEncoder``.

    A folder is never looked for on a hub, and a hub is asked only for what the local cache does
    not have. Code that comes with a model is never run.

    Args:
        name: Folder or hub name.
        device: Torch device, chosen by itself when None.
        local_files_only: Never use the network.

    Raises:
        NotFoundError: When a path was given and there is nothing.
        FormatError: When the folder is not a cross-encoder, or damaged.
        OfflineError: When the model must come from a hub that cannot be used.
        MissingExtraError: When torch or sentence-transformers is not installed.
    """
    text = os.fspath(name)
    folder = Path(text).expanduser()
    is_path = isinstance(name, Path) or folder.is_absolute() or text.startswith((".", "~"))
    if is_path and not folder.is_dir():
        raise NotFoundError(f"There is no cross-encoder folder {folder}.")
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise FormatError(f"{folder} is a folder, but not a cross-encoder: no config.json.")
    library = require_extra("sentence_transformers", extra="train", purpose="load a reranker")
    options = {"device": pick_device(device), "trust_remote_code": False}
    failures = (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError)
    if folder.is_dir():
        try:
            return library.CrossEncoder(str(folder), local_files_only=True, **options)
        except failures as error:
            raise FormatError(
                f"{folder} could not be loaded as a cross-encoder ({error}). Is it one, and whole?"
            ) from error
    try:
        return library.CrossEncoder(text, local_files_only=True, **options)
    except failures as error:
        if (
            local_files_only
            or importlib.import_module("huggingface_hub.constants").is_offline_mode()
        ):
            raise _offline(text, error) from error
    try:
        return library.CrossEncoder(text, local_files_only=False, **options)
    except failures as error:
        raise _offline(text, error) from error


def _offline(name: str, error: Exception) -> OfflineError:
    short = str(error).strip().split("\n")[0][:200]
    return OfflineError(
        f"The reranker {name!r} is neither a folder here nor in the local cache, and no hub could "
        f"be used ({type(error).__name__}: {short}). Give the folder of a cross-encoder."
    )
