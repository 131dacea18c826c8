"""LoRA adapters as peft writes them: checked, and added to a base tensor by tensor.

An adapter's tensors are small; what it makes of the base's is computed when it is read, for the
rows asked for, and never kept.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from embedworks._core.files import read_json, sha256_of_file
from embedworks.errors import FormatError, InputError, NotFoundError
from embedworks.merging._model_folders import ModelFolder
from embedworks.merging._planning import limited
from embedworks.merging._tensor_files import (
    ADAPTER,
    INTEGERS,
    Entry,
    TensorSource,
    encode,
)

__all__ = ["ADAPTER_WEIGHTS", "AdapterFolder", "LowRank", "changed_names"]

ADAPTER_WEIGHTS = "adapter_model.safetensors"
#: What peft puts before the path of a layer.
PREFIX = "base_model.model."

#: Settings that change what an adapter computes, and why a plain sum would not be the same.
_REFUSED = {
    "alora_invocation_tokens": "it acts only after certain tokens",
    "arrow_config": "it chooses among adapters for each token",
    "kasa_config": "it changes the base's weights",
    "layer_replication": "it needs layers that the base does not have",
    "lora_bias": "it adds biases",
    "modules_to_save": "it replaces whole modules beside the low-rank updates",
    "monteclora_config": "its weights are random variables",
    "target_parameters": "it changes parameters that are no weights of layers",
    "trainable_token_indices": "it replaces rows of the embeddings",
    "use_bdlora": "its matrices are block-diagonal",
    "use_dora": "it rescales the weights after the update (DoRA)",
    "use_qalora": "it pools the inputs first (QALoRA)",
}
#: Settings that are read, that concern training only, or that say where the adapter comes from.
_HARMLESS = {
    "alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias", "corda_config",
    "ensure_weight_tying", "eva_config", "exclude_modules", "fan_in_fan_out", "inference_mode",
    "init_lora_weights", "layers_pattern", "layers_to_transform", "loftq_config", "lora_alpha",
    "lora_dropout", "lora_ga_config", "megatron_config", "megatron_core", "peft_type",
    "peft_version", "qalora_group_size", "r", "rank_pattern", "revision", "runtime_config",
    "target_modules", "task_type", "use_rslora", "velora_config",
}  # fmt: skip
#: Ways to start training that leave the base as it is; others take a part out of it.
_KIND_STARTS = (None, True, False, "eva", "gaussian", "orthogonal")
#: How the names of A and B end: for layers, for embeddings.
_ENDS = ((".lora_A.weight", ".lora_B.weight"), (".lora_embedding_A", ".lora_embedding_B"))


@dataclass(frozen=True)
class LowRank:
    """The update ``scale * B A`` of one layer, or its transpose.

    Attributes:
        a: Entry of shape (r, in).
        b: Entry of shape (out, r).
        scale: alpha / r, or alpha / sqrt(r).
        turned: Whether the layer's weight is (in, out): the update is then ``scale * (B A)^T``.
    """

    a: Entry
    b: Entry
    scale: float
    turned: bool

    @property
    def ends(self) -> tuple[str, str]:
        """What peft puts after the path of the layer for A and for B."""
        embeds = self.a.name.endswith(_ENDS[1][0])
        return _ENDS[embeds]

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the weight it belongs to."""
        shape = (self.b.shape[0], self.a.shape[1])
        return shape[::-1] if self.turned else shape

    def rows(self, start: int, stop: int, dtype: np.dtype) -> np.ndarray:
        """Return rows ``start`` to ``stop`` of the update."""
        a, b = self.a.read().astype(dtype), self.b.read().astype(dtype)
        left, right = (a.T, b.T) if self.turned else (b, a)
        return np.asarray((left[start:stop] * dtype.type(self.scale)) @ right)


@dataclass(frozen=True)
class AdaptedEntry(Entry):
    """A tensor of the base with an adapter's update added; float32 or wider when it is read."""

    update: LowRank | None = None

    def read(self, start: int = 0, count: int | None = None) -> np.ndarray:
        """Return the tensor, or the numbers in some of its bytes, flat."""
        assert self.update is not None
        held = _plain(self).read(start, count)
        work = np.result_type(np.float32, held.dtype)
        width = max(1, self.shape[1])
        item = max(1, self.size // max(1, self.values))
        first = start // item
        last = first + held.size
        rows = first // width, -(-last // width)
        update = self.update.rows(rows[0], rows[1], np.dtype(work)).reshape(-1)
        update = update[first - rows[0] * width : last - rows[0] * width]
        return np.asarray(held.astype(work) + update.reshape(held.shape))

    def bytes(self, start: int = 0, count: int | None = None) -> np.ndarray:
        """Return some of the bytes the tensor would have in the base's type."""
        return encode(self.read(start, count), self.dtype).reshape(-1).view(np.uint8)


def _plain(entry: Entry) -> Entry:
    """Return the base's own tensor."""
    return Entry(entry.name, entry.dtype, entry.shape, entry.path, entry.offset, entry.size)


@dataclass(frozen=True)
class AdapterFolder:
    """An adapter: its settings and the two matrices of every layer it changes.

    Attributes:
        root: The folder.
        config: What ``adapter_config.json`` says.
        source: The tensors.
        updates: By path of the layer, such as ``encoder.layer.0.attention.self.query``.
    """

    root: Path
    config: dict[str, Any]
    source: TensorSource
    updates: dict[str, LowRank]

    @classmethod
    def open(cls, root: Path) -> AdapterFolder:
        """Open a folder that peft, transformers or sentence-transformers wrote.

        Raises:
            NotFoundError: When it is not there or holds no adapter.
            InputError: When it is no LoRA adapter, or one that is more than a sum.
            FormatError: When a file is damaged.
        """
        if not (root / ADAPTER).is_file():
            raise NotFoundError(
                f"{root} holds no {ADAPTER}: expected the folder of a LoRA adapter as peft writes "
                "it."
            )
        config = read_json(root / ADAPTER)
        if not isinstance(config, dict):
            raise FormatError(f"{root / ADAPTER} must hold a JSON object.")
        _check_config(root, config)
        if not (root / ADAPTER_WEIGHTS).is_file():
            pickled = (root / "adapter_model.bin").is_file()
            raise InputError(
                f"{root} has no {ADAPTER_WEIGHTS}"
                + (
                    ", only adapter_model.bin, a format that can run code when it is opened and is "
                    "not read: load the adapter and save it again as safetensors."
                    if pickled
                    else ": is it half copied?"
                )
            )
        source = TensorSource.open(root / ADAPTER_WEIGHTS)
        return cls(root, config, source, _updates(root, config, source))

    def check_other_weights(self, base: ModelFolder) -> None:
        """Raise `InputError` when the folder has weights that the base does not have."""
        for path in sorted(self.root.rglob("*.safetensors")):
            name = path.relative_to(self.root)
            if name.name in (ADAPTER_WEIGHTS, "golden.safetensors") or "checkpoint-" in str(name):
                continue
            twin = base.root / name
            if not twin.is_file() or sha256_of_file(twin) != sha256_of_file(path):
                raise InputError(
                    f"{self.root} has weights beside the adapter that are not those of the base "
                    f"({name}), and they would be lost. Merge with peft, or save the base with "
                    "these weights first."
                )

    def on(self, stem: str, base: ModelFolder) -> TensorSource:
        """Return the base's tensors of a stem as they are with this adapter.

        Raises:
            InputError: When a layer is not there, not once, or of another shape.
        """
        source = base.weights[stem]
        if stem != _first_stem(base):
            return replace(source, path=self.root, files=(), stamps={})
        entries = dict(source.entries)
        problems = []
        for layer, update in self.updates.items():
            found = _longest_match(f"{layer}.weight", entries)
            if len(found) != 1:
                what = "is not in the base" if not found else f"could be {' or '.join(found[:3])}"
                problems.append(f"{layer!r} {what}")
                continue
            entry = source.entries[found[0]]
            if entry.shape != update.shape:
                problems.append(
                    f"{found[0]!r} has shape {entry.shape} in the base, the update {update.shape}"
                )
            elif entry.dtype in INTEGERS:
                problems.append(f"{found[0]!r} is quantised ({entry.dtype}) in the base")
            else:
                about = (entry.name, entry.dtype, entry.shape, entry.path, entry.offset, entry.size)
                entries[found[0]] = AdaptedEntry(*about, update=update)
        if problems:
            raise InputError(
                "\n- ".join(
                    [f"The adapter {self.root} does not fit {base.root}:", *limited(problems)]
                )
            )
        stamps = {**source.stamps, **self.source.stamps}
        return replace(
            source, path=self.root, files=self.source.files, entries=entries, stamps=stamps
        )


def changed_names(source: TensorSource) -> set[str]:
    """Return the names of the tensors that an adapter changes."""
    return {name for name, entry in source.entries.items() if isinstance(entry, AdaptedEntry)}


def _first_stem(base: ModelFolder) -> str:
    """Return the stem of the weights of the first module, the transformer."""
    modules = base.modules()
    place = Path(modules[0][1]) if modules else Path()
    for stem in base.weights:
        if Path(stem).parent == place:
            return stem
    raise InputError(f"{base.root}: the first module has no weights that an adapter could change.")


def _longest_match(name: str, entries: Mapping[str, Entry]) -> list[str]:
    """Return the tensors that a name means: equal, or but for a prefix on either side."""
    if name in entries:
        return [name]
    return [held for held in entries if held.endswith("." + name) or name.endswith("." + held)]


def _check_config(root: Path, config: Mapping[str, Any]) -> None:
    kind = str(config.get("peft_type", "")).upper()
    if kind != "LORA":
        raise InputError(
            f"{root} is a {kind or 'nameless'} adapter: only LoRA is a sum that can be merged here."
        )
    reasons = [f"{key}: {why}" for key, why in _REFUSED.items() if config.get(key)]
    if config.get("bias", "none") != "none":
        reasons.append(f"bias={config['bias']!r}: it changes biases of the base")
    start = config.get("init_lora_weights")
    if start not in _KIND_STARTS:
        reasons.append(
            f"init_lora_weights={start!r}: its training began by taking a part out of the base's "
            "weights, so that the update belongs to a base that is no longer there"
        )
    unknown = [k for k in config if k not in _REFUSED and k not in _HARMLESS and config[k]]
    reasons += [f"{key}={config[key]!r:.60}: a setting not known here" for key in unknown]
    if reasons:
        raise InputError(
            "\n- ".join([f"The adapter {root} is more than a sum of low-rank updates:", *reasons])
            + "\nMerge it with `merge_and_unload()` in peft, and save the model."
        )


def _updates(root: Path, config: Mapping[str, Any], source: TensorSource) -> dict[str, LowRank]:
    """Pair the matrices of each layer and work out their scales."""
    parts: dict[str, dict[str, Entry]] = {}
    strange = []
    for name, entry in source.entries.items():
        end = next((end for pair in _ENDS for end in pair if name.endswith(end)), None)
        if end is None or len(entry.shape) != 2 or entry.dtype in INTEGERS:
            strange.append(f"{name} {entry.shape}")
            continue
        parts.setdefault(name.removesuffix(end).removeprefix(PREFIX), {})[end] = entry
    if strange:
        raise InputError(
            f"{root} has tensors that are no low-rank updates of matrices, such as {strange[0]}: "
            "merge it with `merge_and_unload()` in peft, and save the model."
        )
    found = {}
    for layer, held in parts.items():
        pair = _ENDS[_ENDS[1][0] in held]
        if set(held) != set(pair):
            raise FormatError(
                f"{root}: the layer {layer!r} has only {sorted(held)}: is it damaged?"
            )
        a, b = held[pair[0]], held[pair[1]]
        rank = int(_value_for(layer, config, "rank_pattern", "r"))
        if not a.shape[0] == b.shape[1] == rank > 0:
            raise FormatError(
                f"{root}: the matrices of {layer!r} have shapes {a.shape} and {b.shape}, which is "
                f"not the rank {rank} that {ADAPTER} tells."
            )
        alpha = _value_for(layer, config, "alpha_pattern", "lora_alpha")
        scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
        turned = pair is _ENDS[1] or bool(config.get("fan_in_fan_out"))
        found[layer] = LowRank(a, b, scale, turned)
    return found


def _value_for(layer: str, config: Mapping[str, Any], pattern: str, default: str) -> float:
    """Return a layer's own value, or the value of all; patterns are matched as peft does."""
    try:
        for key, value in (config.get(pattern) or {}).items():
            if re.match(rf"(.*\.)?({key})$", layer):
                return float(value)
        return float(config[default])
    except (KeyError, TypeError, ValueError, AttributeError, re.error) as error:
        raise FormatError(
            f"{ADAPTER}: {pattern} or {default} is not usable ({error!r})."
        ) from error
