"""Which module classes of ours a saved model may name, and how they are found again.

A model folder names its modules' classes in ``modules.json``. Plain sentence-transformers imports
only its own without ``trust_remote_code=True``. `embedworks.load` knows ours by name and needs no
trust: nothing is imported that a folder asks for.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

from embedworks._core.registry import did_you_mean
from embedworks.errors import FormatError

__all__ = ["MODULE_CLASSES", "own_module_classes"]

#: Class name -> the file of this room that has it. Class names are part of the file format.
MODULE_CLASSES: dict[str, str] = {
    "InstructedTransformer": "instructions",
    "LMEmbedder": "prompting.lm_embedder",
    "LastTokenPooling": "poolings",
    "LatentAttentionPooling": "poolings",
    "LayerMixing": "layer_mixing",
    "LearnedQueryPooling": "poolings",
    "LexiconPooling": "lexicon",
    "MLPPooling": "poolings",
    "MaskedMeanPooling": "poolings",
    "PowerMeanPooling": "poolings",
    "RankingHead": "ranking",
    "SelfAttentionPooling": "poolings",
    "WeightedMeanPooling": "poolings",
}


def own_module_classes(folder: Path) -> dict[str, type[Any]]:
    """Return ours among the classes that a model folder names: reference -> class.

    Raises:
        FormatError: When ``modules.json`` cannot be read, or names a class of ours that this
            version does not have.
    """
    path = folder / "modules.json"
    if not path.is_file():
        return {}
    try:
        references = [str(entry["type"]) for entry in json.loads(path.read_text("utf-8"))]
    except (json.JSONDecodeError, UnicodeDecodeError, TypeError, KeyError) as error:
        raise FormatError(f"{path} is damaged ({error}): expected a list of modules.") from error
    found: dict[str, type[Any]] = {}
    for reference in references:
        if not reference.startswith("embedworks."):
            continue
        name = reference.rpartition(".")[2]
        if name not in MODULE_CLASSES:
            raise FormatError(
                f"{path} names the module {reference!r}, which this version of embedworks does not "
                f"have. {did_you_mean(name, list(MODULE_CLASSES))} Update embedworks?"
            )
        module = importlib.import_module(f"embedworks.modules.{MODULE_CLASSES[name]}")
        found[reference] = getattr(module, name)
    return found
