"""Load a sentence-transformers folder that names module classes of ours, by public API only.

Plain sentence-transformers imports a foreign class only under ``trust_remote_code=True``, which
would also run code of the folder. So the modules are loaded one by one, from classes that are
already known, and put together as anyone puts a model together: ``SentenceTransformer(modules=)``.
"""

from __future__ import annotations

import importlib
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from embedworks._core.files import read_json
from embedworks.errors import FormatError

__all__ = ["assemble"]

_LIBRARY = "sentence_transformers."
#: What a model's own file says that its constructor takes.
_OPTIONS = ("prompts", "default_prompt_name", "similarity_fn_name", "truncate_dim")


def assemble(folder: Path, own: Mapping[str, type[Any]], *, device: str) -> Any:
    """Return the ``SentenceTransformer`` in ``folder``.

    Args:
        folder: Folder with ``modules.json``.
        own: Reference in ``modules.json`` -> class, for classes that are not the library's.
        device: Torch device.

    Raises:
        FormatError: When a module is neither the library's nor in ``own``, the installed library
            does not have it, or a file is damaged.
    """
    library = importlib.import_module("sentence_transformers")
    modules: OrderedDict[str, Any] = OrderedDict()
    arguments: dict[str, Any] = {}
    for entry in read_json(folder / "modules.json"):
        kind = _module_class(str(entry["type"]), own, folder)
        name = str(entry.get("name", entry.get("idx", len(modules))))
        place = str(entry.get("path", ""))
        if not (folder / place).resolve().is_relative_to(folder.resolve()):
            raise FormatError(f"{folder}/modules.json names {place!r}, outside of the folder.")
        modules[name] = kind.load(
            str(folder), subfolder=place, local_files_only=True, trust_remote_code=False
        )
        arguments[name] = entry.get("kwargs", [])
    if not modules:
        raise FormatError(f"{folder}/modules.json names no module.")
    options = {}
    if (folder / "config_sentence_transformers.json").is_file():
        saved = read_json(folder / "config_sentence_transformers.json")
        options = {name: saved[name] for name in _OPTIONS if saved.get(name) is not None}
    model = library.SentenceTransformer(modules=modules, device=device, **options)
    model.module_kwargs = arguments
    return model


def _module_class(reference: str, own: Mapping[str, type[Any]], folder: Path) -> type[Any]:
    if reference in own:
        return own[reference]
    if not reference.startswith(_LIBRARY):
        raise FormatError(
            f"{folder}/modules.json names the module {reference!r}, which is neither "
            "sentence-transformers' nor ours: code that comes with a model is never run."
        )
    home, _, name = reference.rpartition(".")
    try:
        with warnings.catch_warnings():  # old folders name old places
            warnings.simplefilter("ignore", DeprecationWarning)
            found = getattr(importlib.import_module(home), name)
    except (ImportError, AttributeError) as error:
        version = importlib.import_module("sentence_transformers").__version__
        raise FormatError(
            f"{folder}/modules.json names the module {reference!r}, which sentence-transformers "
            f"{version} does not have ({error}). Was the model saved by a newer version?"
        ) from error
    if not (isinstance(found, type) and hasattr(found, "load")):
        raise FormatError(f"{folder}/modules.json names {reference!r}, which is not a module.")
    return found
