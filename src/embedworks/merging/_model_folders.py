"""What a model folder holds beside its weights, and whether folders belong together."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from embedworks._core.files import read_json, sha256_of_file
from embedworks.errors import FormatError, InputError, NotFoundError
from embedworks.merging._planning import limited
from embedworks.merging._tensor_files import ADAPTER, INDEX_SUFFIX, INTEGERS, TensorSource

__all__ = ["ModelFolder", "check_folders"]

#: Made anew for the result, so never taken over.
_REMADE = {"README.md", "golden.json", "golden.safetensors", "merge.json"}
#: The first model in other forms, and what its training left behind: true of that model only.
_OTHER_FORMS = {
    ".bin", ".ckpt", ".gguf", ".h5", ".mlmodel", ".msgpack", ".onnx", ".onnx_data", ".ot", ".pkl",
    ".pt", ".pth", ".tflite", ".xml",
}  # fmt: skip
_PICKLED = {".bin", ".ckpt", ".pkl", ".pt", ".pth"}
_OTHER_FOLDERS = {"eval", "onnx", "openvino", "runs"}
_TRAINING_FILES = {
    "all_results.json", "complete.json", "data_config.json", "eval_results.json",
    "objective.safetensors", "trainer_state.json",
}  # fmt: skip
#: Keys that say how a model was made or trained, not what it computes. Trainers copy the ids of
#: special tokens from the tokenizer, which is compared by itself.
_IDLE_KEYS = {
    "__version__", "_attn_implementation", "_name_or_path", "architectures", "bos_token_id",
    "dtype", "eos_token_id", "gradient_checkpointing", "initializer_range", "metadata", "name",
    "pad_token_id", "torch_dtype", "transformers_version", "use_cache",
}  # fmt: skip
_TOKENIZER_KEYS = {
    "bos_token", "cls_token", "do_lower_case", "eos_token", "mask_token", "model_max_length",
    "pad_token", "padding_side", "sep_token", "truncation_side", "unk_token",
}  # fmt: skip
_VOCABULARIES = {"merges.txt", "sentencepiece.bpe.model", "spiece.model", "tokenizer.model",
                 "vocab.json", "vocab.txt"}  # fmt: skip


@dataclass(frozen=True)
class ModelFolder:
    """A model's files: weights opened, the rest by path relative to the folder.

    Attributes:
        root: The folder.
        weights: Tensors by ``folder/stem`` of their file, such as ``model`` or ``2_Dense/model``.
        others: Everything that is taken over or compared.
        left_out: What is neither, in the order of its names.
    """

    root: Path
    weights: dict[str, TensorSource]
    others: dict[str, Path]
    left_out: tuple[str, ...] = field(default=())

    @classmethod
    def open(cls, root: Path) -> ModelFolder:
        """Open a folder.

        Raises:
            NotFoundError: When it is not there or holds no weights.
            InputError: When it holds an adapter, pickled or quantised weights only.
            FormatError: When a file is damaged.
        """
        if not root.is_dir():
            raise NotFoundError(
                f"There is no model folder {root}. Save a model of a hub to a folder first: "
                "embedworks.models.save(embedworks.load(name), folder)."
            )
        others, left_out = _files_of(root)
        adapters = [
            name for name in others if Path(name).name in (ADAPTER, "adapter_model.safetensors")
        ]
        if adapters:
            raise InputError(
                f"{root} holds an adapter that was not merged into its model ({adapters[0]}): "
                "do that first with embedworks.merging.merge_adapters(base, [adapter], out), or "
                "with `merge_and_unload()` in peft."
            )
        weights = _open_weights(others)
        held = {Path(stem).parent for stem in weights}
        for name in left_out:
            if Path(name).suffix in _PICKLED and Path(name).parent not in held:
                raise InputError(
                    f"{root} has weights in {name}, a format that can run code when it is opened "
                    "and is not read: load the model and save it again as safetensors."
                )
        if not weights:
            raise NotFoundError(f"{root} holds no safetensors weights: is it a model?")
        folder = cls(root, weights, others, left_out)
        config = folder.json("config.json")
        scaled = any(
            source.entries["embedding.weight"].dtype in INTEGERS
            for source in weights.values()
            if "embedding.weight" in source.entries
        )
        if scaled or "quantization_config" in config:
            raise InputError(
                f"{root} is quantised, and codes cannot be averaged: merge the models before they "
                "are quantised, and quantise the result."
            )
        return folder

    def json(self, name: str) -> dict[str, Any]:
        """Return a JSON object of the folder, empty when there is no such file."""
        if name not in self.others:
            return {}
        stored = read_json(self.others[name])
        if not isinstance(stored, dict):
            raise FormatError(
                f"{self.others[name]} must hold a JSON object, not a {type(stored).__name__}."
            )
        return stored

    def modules(self) -> list[tuple[str, str]]:
        """Return (kind, path) of each module, empty for a folder without ``modules.json``."""
        if "modules.json" not in self.others:
            return []
        try:
            ordered = sorted(read_json(self.others["modules.json"]), key=lambda m: int(m["idx"]))
            found = [(str(m["type"]).rsplit(".", 1)[-1], str(m["path"])) for m in ordered]
        except (TypeError, KeyError, ValueError) as error:
            if isinstance(error, FormatError):
                raise
            raise FormatError(
                f"{self.others['modules.json']} is not a list of modules ({error!r})."
            ) from error
        for kind, path in found:
            if not (self.root / path).resolve().is_relative_to(self.root.resolve()):
                raise FormatError(
                    f"{self.others['modules.json']} puts {kind} into {path!r:.80}, outside the "
                    "folder. Do not trust this model."
                )
        return found

    def taken_over(self) -> dict[str, Path]:
        """Return the files that go into the result as they are."""
        own = {path for source in self.weights.values() for path in source.files}
        return {
            name: path
            for name, path in self.others.items()
            if path not in own and name not in _REMADE and not name.endswith(INDEX_SUFFIX)
        }


def check_folders(models: Sequence[ModelFolder], base: ModelFolder | None) -> None:
    """Raise `InputError` with what differs between the first model, the others and the base.

    The base may lack modules and prompts, but not weights or the tokenizer; of its configuration
    the keys that the first model has too are compared, as it may be of an older library version.
    """
    first, problems = models[0], []
    compared = [(f"model {n}", model, False) for n, model in enumerate(models[1:], start=2)]
    if base is not None:
        compared.append(("the base", base, True))
    for label, other, is_base in compared:
        if not is_base and other.modules() != first.modules():
            problems.append(
                f"the modules are {_chain(first)} in model 1, {_chain(other)} in {label}"
            )
            continue
        names = [name for name in first.others | other.others if _is_config(name)]
        if is_base:
            shared = first.others.keys() & other.others.keys()
            names = [n for n in names if n in shared and n != "config_sentence_transformers.json"]
        for name in sorted(names):
            mine, theirs = _settings(first, name), _settings(other, name)
            keys = mine.keys() | theirs.keys()
            if is_base:
                keys = (mine.keys() & theirs.keys()) - {"model_max_length"}
            for key in sorted(keys):
                if mine.get(key) != theirs.get(key):
                    problems.append(
                        f"{name}: {key} is {mine.get(key)!r:.60} in model 1, "
                        f"{theirs.get(key)!r:.60} in {label}"
                    )
        problems += [f"{text} ({label})" for text in _tokenizer_differences(first, other)]
        for name in sorted(first.weights.keys() ^ other.weights.keys()):
            has, lacks = ("model 1", label) if name in first.weights else (label, "model 1")
            problems.append(f"the weights {name!r} are in {has} and not in {lacks}")
    if problems:
        paths = ", ".join(str(model.root) for model in [*models, *([base] if base else [])])
        raise InputError(
            "\n- ".join([f"These models cannot be merged ({paths}):", *limited(problems)])
            + "\nWhere only the form differs, load each and save it with the same library version."
        )


def _files_of(root: Path) -> tuple[dict[str, Path], tuple[str, ...]]:
    kept, left_out = {}, []
    for place, folders, files in os.walk(root):
        here = Path(place).relative_to(root)
        for name in sorted(folders):
            if name.startswith((".", "checkpoint-")) or name in _OTHER_FOLDERS:
                folders.remove(name)
                left_out.append((here / name).as_posix() + "/")
        for name in sorted(files):
            relative = (here / name).as_posix()
            stale = Path(name).suffix in _OTHER_FORMS or name in _TRAINING_FILES
            if stale or name.startswith("."):
                left_out.append(relative)
            else:
                kept[relative] = Path(place) / name
    return dict(sorted(kept.items())), tuple(sorted(left_out))


def _open_weights(others: dict[str, Path]) -> dict[str, TensorSource]:
    found: dict[str, TensorSource] = {}
    claimed: set[Path] = set()
    indexes = [name for name in others if name.endswith(INDEX_SUFFIX)]
    singles = [n for n in others if n.endswith(".safetensors") and Path(n).name not in _REMADE]
    for name in [*indexes, *singles]:
        path = others[name]
        if path in claimed:
            continue
        stem = name.removesuffix(INDEX_SUFFIX).removesuffix(".safetensors")
        if stem in found:
            raise InputError(
                f"{path.parent} has the weights {stem!r} in one file and in shards: remove the "
                "ones that are not meant."
            )
        found[stem] = TensorSource.open(path)
        claimed.update(found[stem].files)
    return found


def _chain(model: ModelFolder) -> str:
    return " > ".join(kind for kind, _ in model.modules()) or "not told (no modules.json)"


def _is_config(name: str) -> bool:
    file = Path(name).name
    return file != "generation_config.json" and (
        file.endswith("config.json") or file == "config_sentence_transformers.json"
    )


def _settings(model: ModelFolder, name: str) -> dict[str, Any]:
    """Return what a configuration says about the computation; empty values are as if not there."""
    stored = read_json(model.others[name]) if name in model.others else {}
    if not isinstance(stored, dict):
        return {"content": stored}
    if Path(name).name == "tokenizer_config.json":
        stored = {key: value for key, value in stored.items() if key in _TOKENIZER_KEYS}
        for side in ("padding_side", "truncation_side"):
            if stored.get(side) == "right":
                del stored[side]  # the default, which some versions write out
    if isinstance(stored.get("prompts"), dict):
        stored = {**stored, "prompts": {k: v for k, v in stored["prompts"].items() if v} or None}
    return {
        key: value
        for key, value in stored.items()
        if value is not None and key not in _IDLE_KEYS and "dropout" not in key
    }


def _tokenizer_differences(first: ModelFolder, other: ModelFolder) -> list[str]:
    problems = []
    names = {n for n in first.others | other.others if Path(n).name == "tokenizer.json"}
    for name in sorted(names):
        if name not in first.others or name not in other.others:
            problems.append(f"{name} is in one model only")
            continue
        problems += _tokenizer_problems(name, first, other)
    if names:
        return problems
    for name in sorted(first.others | other.others):
        if Path(name).name in _VOCABULARIES:
            pair = [model.others.get(name) for model in (first, other)]
            if None in pair or len({sha256_of_file(path) for path in pair if path}) > 1:
                problems.append(f"the tokenizers differ: {name} is not the same")
    return problems


def _tokenizer_problems(name: str, first: ModelFolder, other: ModelFolder) -> list[str]:
    mine, theirs = first.json(name), other.json(name)
    if mine == theirs:
        return []
    problems = []
    one, two = _vocabulary(mine), _vocabulary(theirs)
    if one != two:
        moved = sorted(str(t) for t in one.keys() | two.keys() if one.get(t) != two.get(t))
        problems.append(
            f"the tokenizers differ: {name} has {len(one):,} and {len(two):,} tokens, "
            f"{len(moved):,} of them elsewhere, such as {', '.join(map(repr, moved[:3]))} "
            "(tokenizer='union' merges by the tokens' texts)"
        )
        return problems
    # Cutting and padding are part of a static model; others set them anew when they are loaded.
    static = [kind for kind, _ in first.modules()[:1]] in ([], ["StaticEmbedding"])
    for key in sorted(mine.keys() | theirs.keys()):
        if mine.get(key) != theirs.get(key) and (static or key not in ("truncation", "padding")):
            problems.append(f"the tokenizers differ: {name} has another {key!r}")
    return problems


def _vocabulary(tokenizer: dict[str, Any]) -> dict[str, Any]:
    """Return token -> id (or what the kind of tokenizer keeps in its place)."""
    model = tokenizer.get("model")
    held = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(held, list):  # unigram: [token, score] in the order of ids
        return {str(pair[0]) if isinstance(pair, list) and pair else str(place): [place, pair]
                for place, pair in enumerate(held)}  # fmt: skip
    return held if isinstance(held, dict) else {}
