"""Models with different vocabularies, put on one: the tokens of all, tables by token text.

Every folder is given the joint tokenizer, and its token tables a row for every token of it, so
that the rest of a merge compares and merges the folders as if they had always agreed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from embedworks.errors import InputError
from embedworks.merging._model_folders import ModelFolder
from embedworks.merging._planning import MergeCall
from embedworks.merging._tensor_files import INTEGERS, Entry, TensorSource, encode

__all__ = ["TOKENIZERS", "Union", "unite"]

#: What may be asked for where tokenizers differ.
TOKENIZERS = ("same", "union")
#: Kinds whose pieces are looked up by their text alone. In others a token needs merges or scores.
_BY_TEXT = ("WordLevel", "WordPiece")


@dataclass(frozen=True)
class Union:
    """Folders that agree on one vocabulary.

    Attributes:
        folders: The folders, with joint tokenizers and tables.
        tokens: How many tokens the joint vocabulary has.
        held: bool array (models, tokens), True where a model had the token.
        tables: By stem, the names of the tensors that have a row per token.
    """

    folders: tuple[ModelFolder, ...]
    tokens: int
    held: np.ndarray
    tables: dict[str, frozenset[str]]

    def call(self, call: MergeCall, stem: str) -> MergeCall:
        """Return what merges the weights of a stem."""
        return UnionCall(
            call.method,
            call.weights,
            call.options,
            held=self.held,
            tables=self.tables.get(stem, frozenset()),
        )

    def story(self) -> dict[str, Any]:
        """Say what became of the vocabularies."""
        return {
            "tokenizer": "union",
            "tokens": self.tokens,
            "tokens_of_all": int(self.held.all(axis=0).sum()),
            "tokens_of": [int(row.sum()) for row in self.held],
        }


@dataclass(frozen=True)
class UnionEntry(Entry):
    """A token table with its rows in the order of the joint vocabulary, zeros where it has none.

    Attributes:
        rows: int64 (tokens,), the row of each token in the file, -1 where it has none.
        file_rows: Rows in the file.
    """

    rows: np.ndarray | None = None
    file_rows: int = 0

    def read(self, start: int = 0, count: int | None = None) -> np.ndarray:
        """Return the table, or the numbers in some of its bytes, flat."""
        assert self.rows is not None
        tail = self.shape[1:]
        shape = (self.file_rows, *tail)
        width = self.size // max(1, len(self.rows))
        own = Entry(self.name, self.dtype, shape, self.path, self.offset, width * self.file_rows)
        held = own.read()
        full = held[np.maximum(self.rows, 0)]
        full[self.rows < 0] = 0
        if start == 0 and (count is None or count >= self.size):
            return full
        item = self.size // max(1, self.values)
        first = start // item
        last = None if count is None else first + count // item
        return full.reshape(-1)[first:last]

    def bytes(self, start: int = 0, count: int | None = None) -> np.ndarray:
        """Return some of the bytes of the table."""
        return encode(self.read(start, count), self.dtype).reshape(-1).view(np.uint8)


@dataclass(frozen=True)
class UnionCall(MergeCall):
    """A merge whose token tables are filled up first.

    A row that a model lacks becomes the mean, by weight, of the rows of the models that have it;
    so a weighted mean of all is the mean of those.
    """

    held: np.ndarray | None = None
    tables: frozenset[str] = frozenset()

    @property
    def elementwise(self) -> bool:
        """Tables are read whole, so nothing is gained by pieces."""
        return super().elementwise and not self.tables

    def __call__(
        self, tensors: Sequence[np.ndarray], base: np.ndarray | None, key: str
    ) -> np.ndarray:
        """Merge one tensor."""
        if key in self.tables and self.held is not None:
            tensors = _filled(tensors, self.held, self.weights)
        return super().__call__(tensors, base, key)


def unite(folders: Sequence[ModelFolder], scratch: Path) -> Union:
    """Put folders on one vocabulary: the first one's tokens, then those of the others.

    Args:
        folders: The models.
        scratch: A folder for the joint tokenizers' files, needed until the merge is done.

    Raises:
        InputError: When a tokenizer is not of a kind whose tokens are found by their text, when
            ids have holes, or a model has no table to extend.
    """
    names = {n for f in folders for n in f.others if Path(n).name == "tokenizer.json"}
    if len(names) != 1 or any(names - f.others.keys() for f in folders):
        raise InputError(
            "a union of tokenizers needs one tokenizer.json at the same place in every model, got "
            f"{sorted(names) or 'none'}: load each model and save it again."
        )
    (name,) = names
    own = [_tokens(folder, name) for folder in folders]
    joint = {token: place for place, token in enumerate(dict.fromkeys(t for v in own for t in v))}
    held = np.array([[token in set_ for token in joint] for set_ in map(set, own)])
    united, tables = [], []
    for place, (folder, tokens) in enumerate(zip(folders, own)):
        rows = np.full(len(joint), -1, np.int64)
        rows[[joint[token] for token in tokens]] = np.arange(len(tokens))
        files = _joint_files(folder, name, tokens, joint, scratch / str(place))
        weights, found = _joint_weights(folder, len(tokens), rows)
        united.append(replace(folder, weights=weights, others={**folder.others, **files}))
        tables.append(found)
    if any(found != tables[0] for found in tables):
        raise InputError(
            "the models do not have their token tables in the same tensors: "
            + "; ".join(f"{f.root.name}: {_listed(t)}" for f, t in zip(folders, tables))
            + "."
        )
    return Union(tuple(united), len(joint), held, tables[0])


def _listed(tables: dict[str, frozenset[str]]) -> str:
    return ", ".join(sorted(name for names in tables.values() for name in names)) or "none"


def _tokens(folder: ModelFolder, name: str) -> list[str]:
    """Return a model's tokens in the order of their ids."""
    stored = folder.json(name)
    model = stored.get("model")
    kind = model.get("type") if isinstance(model, dict) else None
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if kind not in _BY_TEXT or not isinstance(vocabulary, dict):
        raise InputError(
            f"the tokenizer of {folder.root} is of the kind {kind}: only {' and '.join(_BY_TEXT)} "
            "vocabularies can be joined by token text. Other kinds split words by merges or scores "
            "that belong to one vocabulary; train one model with the other's tokenizer instead."
        )
    ids = dict(vocabulary)
    for added in stored.get("added_tokens") or []:
        ids.setdefault(added["content"], added["id"])
    ordered = sorted(ids, key=lambda token: ids[token])
    if [ids[token] for token in ordered] != list(range(len(ordered))):
        raise InputError(
            f"the token ids of {folder.root} have holes or repeats: {len(ordered):,} tokens with "
            f"ids up to {max(ids.values()):,}. They cannot be joined."
        )
    return ordered


def _joint_files(
    folder: ModelFolder, name: str, tokens: Sequence[str], joint: dict[str, int], place: Path
) -> dict[str, Path]:
    """Write the joint tokenizer's files in a model's own style; its special tokens keep theirs."""
    stored = folder.json(name)
    stored["model"] = {**stored["model"], "vocab": joint}
    for added in stored.get("added_tokens") or []:
        added["id"] = joint[added["content"]]
    processor = stored.get("post_processor")
    if isinstance(processor, dict):
        _move_special(processor, joint)
    padding = stored.get("padding")
    if isinstance(padding, dict) and padding.get("pad_token") in joint:
        padding["pad_id"] = joint[padding["pad_token"]]
    written = {name: json.dumps(stored, ensure_ascii=False)}
    for file in folder.others:
        if Path(file).name == "vocab.txt" and Path(file).parent == Path(name).parent:
            written[file] = "".join(f"{token}\n" for token in joint)
        elif Path(file).name == "config.json" and "vocab_size" in folder.json(file):
            config = folder.json(file)
            config["vocab_size"] = len(joint)
            for key, value in config.items():
                if key.endswith("_token_id") and isinstance(value, int) and value < len(tokens):
                    config[key] = joint[tokens[value]]
            written[file] = json.dumps(config, indent=2, ensure_ascii=False)
    found = {}
    for file, text in written.items():
        found[file] = place / file
        found[file].parent.mkdir(parents=True, exist_ok=True)
        found[file].write_text(text + "\n" * file.endswith(".json"), encoding="utf-8")
    return found


def _move_special(processor: dict[str, Any], joint: dict[str, int]) -> None:
    """Give the special tokens of a post-processor their joint ids."""
    for inner in processor.get("processors") or []:
        _move_special(inner, joint)
    special = processor.get("special_tokens")
    for token in special.values() if isinstance(special, dict) else ():
        token["ids"] = [joint[text] for text in token["tokens"]]
    for side in ("sep", "cls"):
        if isinstance(processor.get(side), list):
            processor[side] = [processor[side][0], joint[processor[side][0]]]


def _joint_weights(
    folder: ModelFolder, tokens: int, rows: np.ndarray
) -> tuple[dict[str, TensorSource], dict[str, frozenset[str]]]:
    """Give every tensor with a row per token the rows of the joint vocabulary."""
    sizes = {tokens}
    for file in folder.others:
        if Path(file).name == "config.json":
            size = folder.json(file).get("vocab_size")
            sizes |= {size} if isinstance(size, int) and size >= tokens else set()
    weights: dict[str, TensorSource] = {}
    tables: dict[str, frozenset[str]] = {}
    for stem, source in folder.weights.items():
        entries = dict(source.entries)
        for name, entry in source.entries.items():
            if not entry.shape or entry.shape[0] not in sizes:
                continue
            if entry.dtype in INTEGERS:
                raise InputError(
                    f"{folder.root} keeps {name!r} ({entry.dtype}) for each token, which cannot be "
                    "joined: load the model and save it again in float32."
                )
            size = entry.size // entry.shape[0] * len(rows)
            shape = (len(rows), *entry.shape[1:])
            about = (entry.name, entry.dtype, shape, entry.path, entry.offset, size)
            entries[name] = UnionEntry(*about, rows=rows, file_rows=entry.shape[0])
        weights[stem] = replace(source, entries=entries)
        found = frozenset(n for n, entry in entries.items() if isinstance(entry, UnionEntry))
        tables |= {stem: found} if found else {}
    if not any(len(source.entries[n].shape) == 2 for stem, source in weights.items()
               for n in tables.get(stem, ())):  # fmt: skip
        raise InputError(
            f"{folder.root} has no table with a row for each of its {tokens:,} tokens."
        )
    return weights, tables


def _filled(
    tensors: Sequence[np.ndarray], held: np.ndarray, weights: Sequence[float] | None
) -> list[np.ndarray]:
    """Return the tables with the rows that a model lacks taken from the others."""
    shares = np.ones(len(tensors)) if weights is None else np.asarray(weights, np.float64)
    totals = shares @ held
    usable = np.abs(totals) > 1e-12 * (np.abs(shares) @ held)
    factors = np.where(usable, shares[:, None] * held, held)  # weights that cancel: plain means
    factors = factors / factors.sum(axis=0)
    some = ~held.all(axis=0)
    mean = sum(
        factor[some].reshape(-1, *[1] * (tensor.ndim - 1)) * tensor[some]
        for factor, tensor in zip(factors, tensors)
    )
    filled = []
    for tensor, own in zip(tensors, held):
        copy = tensor.copy()
        copy[some & ~own] = np.asarray(mean, tensor.dtype)[~own[some]]
        filled.append(copy)
    return filled
