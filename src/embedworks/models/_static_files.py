"""The folders of static models: read three forms, write two.

=================  ======================  ==================================================
form               tensors                 settings
=================  ======================  ==================================================
plain              ``embedding.weight``    ``modules.json`` as sentence-transformers writes it
int8 (ours)        ``embedding.weight``    ``config.json``; row i is
                   ``embedding.scale``     ``weight[i] * scale[i]``
model2vec (read)   ``embeddings``          ``config.json``; ``weights`` and ``mapping`` are
                                           folded into one row per token id
=================  ======================  ==================================================
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save
from tokenizers import Tokenizer

from embedworks._core.files import atomic_directory, read_json
from embedworks._core.validation import check_choice
from embedworks.errors import FormatError, InputError, NotFoundError

__all__ = ["StaticSettings", "is_static_folder", "read_static", "write_static"]

STATIC_MODULE = (
    "sentence_transformers.sentence_transformer.modules.static_embedding.StaticEmbedding"
)
NORMALIZE_MODULE = "sentence_transformers.base.modules.normalize.Normalize"
SETTINGS_FILE = "config.json"
FORMAT_VERSION = 1
MODEL_FILES = {
    "1_Normalize",
    "config.json",
    "config_sentence_transformers.json",
    "golden.json",
    "golden.safetensors",
    "model.safetensors",
    "modules.json",
    "tokenizer.json",
}


@dataclass
class StaticSettings:
    """What a static folder says beside its table and tokenizer."""

    name: str = "static"
    normalize: bool = True
    max_tokens: int | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


def is_static_folder(folder: str | Path) -> bool:
    """Say whether ``folder`` holds a static model that `StaticModel` can read.

    Example:
        >>> is_static_folder("/no/such/folder")
        False
    """
    folder = Path(folder)
    weights, tokenizer = folder / "model.safetensors", folder / "tokenizer.json"
    if not (weights.is_file() and tokenizer.is_file()):
        return False
    modules = folder / "modules.json"
    if modules.is_file():
        kinds = _module_kinds(modules)
        plain = kinds[:1] == ["StaticEmbedding"] and set(kinds[1:]) <= {"Normalize"}
        return plain and not _has_prompts(folder / "config_sentence_transformers.json")
    settings = _settings_of(folder)
    return settings.get("model_type") == "model2vec" or "embedworks_format" in settings


def read_static(folder: Path) -> tuple[Tokenizer, np.ndarray, StaticSettings]:
    """Read tokenizer, float32 table (V, D) and settings of any of the three forms."""
    if not folder.is_dir():
        raise NotFoundError(f"There is no model folder {folder}.")
    tokenizer = _read_tokenizer(folder / "tokenizer.json")
    table = _read_table(folder / "model.safetensors")
    stored = _settings_of(folder)
    modules = folder / "modules.json"
    if modules.is_file():
        kinds = _module_kinds(modules)
        if kinds[:1] != ["StaticEmbedding"] or set(kinds[1:]) - {"Normalize"}:
            raise FormatError(
                f"{folder} is not a static model: its modules are {kinds}, expected "
                "StaticEmbedding and perhaps Normalize. Use embedworks.load for other models."
            )
        normalize = "Normalize" in kinds
    else:
        normalize = bool(stored.get("normalize", stored.get("model_type") != "model2vec"))
    version = stored.get("embedworks_format", FORMAT_VERSION)
    if version != FORMAT_VERSION:
        raise FormatError(
            f"{folder / SETTINGS_FILE} is of format {version!r}, this embedworks reads "
            f"{FORMAT_VERSION}: update embedworks or save the model again."
        )
    truncation = tokenizer.truncation
    settings = StaticSettings(
        name=str(stored.get("name") or folder.name),
        normalize=normalize,
        max_tokens=None if truncation is None else int(truncation["max_length"]),
        metadata=dict(stored.get("metadata") or {}),
    )
    return tokenizer, table, settings


def write_static(
    folder: Path,
    *,
    tokenizer: Tokenizer,
    table: np.ndarray,
    settings: StaticSettings,
    dtype: str,
) -> Path:
    """Write a static folder in one step; a card or licence that is already there is kept."""
    check_choice(dtype, ["float32", "float16", "int8"], name="dtype")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file: choose a folder to save the model in.")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "model.safetensors").exists():
        raise InputError(
            f"{folder} is not empty and holds no model: choose a new folder, so that nothing "
            "of yours is replaced."
        )
    tokenizer = Tokenizer.from_str(tokenizer.to_str())
    if settings.max_tokens is not None:
        tokenizer.enable_truncation(settings.max_tokens)
    with atomic_directory(folder) as target:
        if folder.is_dir():
            _keep_other_files(folder, target)
        (target / "model.safetensors").write_bytes(save(_tensors(table, dtype)))
        tokenizer.save(str(target / "tokenizer.json"))
        if not (target / "README.md").exists():
            card = _model_card(settings, table)
            (target / "README.md").write_text(card, encoding="utf-8")
        stored: dict[str, Any] = {
            "embedworks_format": FORMAT_VERSION,
            "name": settings.name,
            "normalize": settings.normalize,
            "metadata": settings.metadata,
        }
        _write_json(target / SETTINGS_FILE, stored)
        if dtype != "int8":
            _write_plain_form(target, normalize=settings.normalize)
    return folder


def _keep_other_files(old: Path, new: Path) -> None:
    """Carry over what is not part of the model itself: its card, licences, notes."""
    for entry in old.iterdir():
        if entry.name in MODEL_FILES:
            continue
        if entry.is_dir():
            shutil.copytree(entry, new / entry.name, symlinks=True)
        else:
            shutil.copy2(entry, new / entry.name, follow_symlinks=False)


def _tensors(table: np.ndarray, dtype: str) -> dict[str, np.ndarray]:
    if dtype != "int8":
        with np.errstate(over="ignore"):
            weight = np.ascontiguousarray(table, dtype=dtype)
        if not np.isfinite(weight).all():
            raise InputError(
                "table has values above 65504, which float16 cannot hold: use float32."
            )
        return {"embedding.weight": weight}
    largest = np.abs(table).max(axis=1)
    with np.errstate(over="ignore"):
        scale = (largest / 127).astype(np.float16)
        # Round the scale up, so that no value leaves -127..127.
        too_small = scale.astype(np.float32) * 127 < largest
        scale[too_small] = np.nextafter(scale[too_small], np.float16(np.inf))
    if not np.isfinite(scale).all():
        raise InputError("table has values too large for a float16 scale: use float32.")
    divisor = np.where(scale > 0, scale, np.float16(1)).astype(np.float32)
    weight = np.rint(table / divisor[:, None]).clip(-127, 127).astype(np.int8)
    return {"embedding.weight": weight, "embedding.scale": scale}


def _read_table(path: Path) -> np.ndarray:
    if not path.is_file():
        raise NotFoundError(f"{path} does not exist.")
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise FormatError(
            f"{path} cannot be read as safetensors with float32, float16 or int8 tensors "
            f"({error}): is it half written? Copy or save the model again."
        ) from error
    if "embedding.weight" in tensors:
        table = _dequantize(tensors["embedding.weight"], tensors.get("embedding.scale"), path)
    elif "embeddings" in tensors:
        table = tensors["embeddings"]
        if "mapping" in tensors:
            mapping = tensors["mapping"].astype(np.int64)
            inside = (mapping >= 0) & (mapping < len(table))
            if mapping.ndim != 1 or not inside.all():
                raise FormatError(f"{path}: 'mapping' points outside the {len(table)} rows.")
            table = table[mapping]
        table = table.astype(np.float32)
        if "weights" in tensors:
            if tensors["weights"].shape != table.shape[:1]:
                raise FormatError(
                    f"{path}: 'weights' has shape {tensors['weights'].shape}, "
                    f"expected {table.shape[:1]}."
                )
            table = table * tensors["weights"].astype(np.float32)[:, None]
    else:
        raise FormatError(
            f"{path} has the tensors {sorted(tensors)}, expected 'embedding.weight' "
            "(or 'embeddings' of model2vec): this is not a static model."
        )
    if table.ndim != 2:
        raise FormatError(f"{path}: the table has shape {table.shape}, expected (V, D).")
    return np.ascontiguousarray(table, dtype=np.float32)


def _dequantize(weight: np.ndarray, scale: np.ndarray | None, path: Path) -> np.ndarray:
    if weight.dtype != np.int8:
        if scale is not None or not np.issubdtype(weight.dtype, np.floating):
            raise FormatError(
                f"{path}: 'embedding.weight' is {weight.dtype}"
                f"{' with a scale' if scale is not None else ''}; expected float32 or float16, or "
                "int8 with 'embedding.scale'."
            )
        return np.asarray(weight, dtype=np.float32)
    if scale is None or scale.shape != weight.shape[:1]:
        found = "is missing" if scale is None else f"has shape {scale.shape}"
        raise FormatError(
            f"{path}: int8 rows need 'embedding.scale' of shape {weight.shape[:1]}, but it {found}."
        )
    return weight.astype(np.float32) * scale.astype(np.float32)[:, None]


def _read_tokenizer(path: Path) -> Tokenizer:
    if not path.is_file():
        raise NotFoundError(f"{path} does not exist.")
    try:
        return Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except Exception as error:  # the library raises bare Exception for every kind of bad JSON
        raise FormatError(f"{path} is not a tokenizer ({error}): is it half written?") from error


def _settings_of(folder: Path) -> dict[str, Any]:
    path = folder / SETTINGS_FILE
    if not path.is_file():
        return {}
    stored = read_json(path)
    if not isinstance(stored, dict):
        raise FormatError(f"{path} must hold a JSON object, got {type(stored).__name__}.")
    return stored


def _has_prompts(path: Path) -> bool:
    """Say whether texts get a prefix, which `StaticModel` does not add."""
    stored = read_json(path) if path.is_file() else {}
    prompts = stored.get("prompts") if isinstance(stored, dict) else None
    return isinstance(prompts, dict) and any(prompts.values())


def _module_kinds(path: Path) -> list[str]:
    modules = read_json(path)
    try:
        ordered = sorted(modules, key=lambda module: int(module["idx"]))
        return [str(module["type"]).rsplit(".", 1)[-1] for module in ordered]
    except (TypeError, KeyError, ValueError) as error:
        raise FormatError(f"{path} is not a list of modules ({error!r}).") from error


def _write_plain_form(target: Path, *, normalize: bool) -> None:
    modules = [{"idx": 0, "name": "0", "path": "", "type": STATIC_MODULE}]
    if normalize:
        modules.append({"idx": 1, "name": "1", "path": "1_Normalize", "type": NORMALIZE_MODULE})
        (target / "1_Normalize").mkdir()
        key = "sentence_embedding"
        _write_json(
            target / "1_Normalize" / "config.json",
            {"module_input_name": key, "module_output_name": key},
        )
    _write_json(target / "modules.json", modules)
    _write_json(
        target / "config_sentence_transformers.json",
        {
            "default_prompt_name": None,
            "model_type": "SentenceTransformer",
            "prompts": {"document": "", "query": ""},
            "similarity_fn_name": "cosine",
        },
    )


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _model_card(settings: StaticSettings, table: np.ndarray) -> str:
    lines = [
        "---",
        "library_name: sentence-transformers",
        "pipeline_tag: sentence-similarity",
        "tags: [sentence-transformers, static-embedding, embedworks]",
        "---",
        "",
        f"# {settings.name}",
        "",
        f"A static embedding model: {len(table)} tokens, {table.shape[1]} dimensions. A text's "
        "vector is the mean of its tokens' rows"
        + (", L2-normalised." if settings.normalize else "."),
        "",
        "```python",
        "import embedworks as ew",
        "",
        'model = ew.load("path/to/this/folder")',
        'vectors = model.encode(["a text", "another text"])',
        "```",
        "",
    ]
    if settings.metadata:
        lines += [
            "## How it was made",
            "",
            "```json",
            json.dumps(settings.metadata, indent=2, ensure_ascii=False),
            "```",
            "",
        ]
    return "\n".join(lines)
