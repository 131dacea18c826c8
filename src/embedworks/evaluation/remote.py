"""Systems whose vectors are made elsewhere: an embeddings endpoint, or a file of finished vectors.

Knows the embeddings protocol that OpenAI's API and most servers speak, and files of texts with
vectors; what is sent over the network are the texts of the tasks, to the given address only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from embedworks._core.endpoint import JsonEndpoint, RequestRefusedError, TryAgainError
from embedworks._core.files import atomic_path
from embedworks._core.validation import check_in_range, check_texts, check_vectors
from embedworks.data import content_key, read_records
from embedworks.data.templates import InstructionTemplate
from embedworks.errors import (
    DuplicateIdError,
    EndpointError,
    FormatError,
    InputError,
    NotFoundError,
    ShapeError,
)
from embedworks.evaluation.outcomes import shorten
from embedworks.evaluation.systems import EncoderSystem

__all__ = ["EndpointEncoder", "VectorTable", "open_endpoint", "open_vectors"]

_MAX_DIMENSIONS = 16_384
_BYTES_PER_NUMBER = 26  # a float as JSON text, with its comma
_SHOWN_CHARS = 200


class EndpointEncoder:
    """A model behind an OpenAI-compatible ``/v1/embeddings`` endpoint.

    Such endpoints are served by OpenAI, vLLM, text-embeddings-inference, llama.cpp, Ollama and
    others. The texts are sent to ``url`` and nowhere else; see
    `embedworks.data.OpenAIGenerator` for how keys, redirects and proxies are treated.

    Args:
        url: Address up to the version, such as ``http://localhost:8080/v1``.
        model: Name of the model there.
        api_key_env: Environment variable with the key; without it no key is sent.
        batch_size: Texts in one request.
        timeout: Seconds one try may take.
        retries: Tries after the first, on 429, 5xx, timeouts and broken connections.
        backoff: Seconds before the first retry; doubled each time.
        extra_body: Fields added to every request, such as ``{"dimensions": 256}``.

    Raises:
        InputError: When the address is not http(s), or a number is out of range.

    Example:
        >>> EndpointEncoder("http://localhost:8080/v1", "small")
        EndpointEncoder('http://localhost:8080/v1', 'small')
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        api_key_env: str = "OPENAI_API_KEY",
        batch_size: int = 32,
        timeout: float = 60.0,
        retries: int = 5,
        backoff: float = 1.0,
        extra_body: Mapping[str, Any] | None = None,
    ) -> None:
        self.batch_size = int(check_in_range(batch_size, name="batch_size", low=1))
        self.extra_body = dict(extra_body or {})
        self._endpoint = JsonEndpoint(
            url,
            "embeddings",
            model=model,
            api_key_env=api_key_env,
            timeout=timeout,
            max_retries=retries,
            backoff=backoff,
            max_response_bytes=1_000_000 + self.batch_size * _MAX_DIMENSIONS * _BYTES_PER_NUMBER,
            shorten="lower batch_size",
        )
        self.url = self._endpoint.base_url
        self.model = model
        self._dimension: int | None = None

    def __repr__(self) -> str:
        return f"EndpointEncoder({self.url!r}, {self.model!r})"

    def get_embedding_dimension(self) -> int:
        """Return D; asks the endpoint when nothing was encoded yet."""
        if self._dimension is None:
            self.encode(["dimension"])
        return int(self._dimension or 0)

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Return vectors of N texts, float32 (N, D), in the order of the texts.

        Raises:
            RequestRefusedError: When the endpoint refuses a request, for example because of a
                text that is empty or too long for the model.
            EndpointError: When it cannot be reached, or its answers do not fit the texts: another
                number of vectors, repeated or missing positions, NaN, a changing dimension.
        """
        items = check_texts(texts)
        if not items:
            return np.zeros((0, self.get_embedding_dimension()), dtype=np.float32)
        blocks = []
        for start in range(0, len(items), self.batch_size):
            part = items[start : start + self.batch_size]
            body = {"model": self.model, "input": part, "encoding_format": "float"}
            try:
                block, _ = self._endpoint.post(
                    {**body, **self.extra_body}, partial(self._read, count=len(part))
                )
            except RequestRefusedError as error:
                raise RequestRefusedError(f"{error} {_about(part, start)}") from error
            blocks.append(block)
        return np.concatenate(blocks)

    def _read(self, value: Any, count: int) -> np.ndarray:
        """Check an answer and return its vectors in the order of the request."""
        data = value.get("data") if isinstance(value, dict) else None
        if not isinstance(data, list) or not all(isinstance(item, dict) for item in data):
            shown = json.dumps(value)[:_SHOWN_CHARS]
            raise TryAgainError(f"the answer is no list of embeddings: {shown}")
        where = f"{self.url} (model {self.model!r})"
        if len(data) != count:
            raise EndpointError(f"{where} gave {len(data)} vectors for {count} texts.")
        places = [item.get("index") for item in data]
        if sorted(p for p in places if isinstance(p, int)) != list(range(count)):
            raise EndpointError(
                f"{where} must number its vectors from 0 to {count - 1}, each once; it gave the "
                f"indices {places[:8]}: which vector belongs to which text is not known."
            )
        lists = {item["index"]: item.get("embedding") for item in data}
        lengths = {len(x) if isinstance(x, list) else -1 for x in lists.values()}
        if len(lengths) > 1 or not 0 < next(iter(lengths)) <= _MAX_DIMENSIONS:
            raise EndpointError(
                f"{where} gave embeddings that are no lists of numbers of one length up to "
                f"{_MAX_DIMENSIONS}; lengths seen: {sorted(lengths)[:4]} (-1: not a list)."
            )
        try:
            vectors = np.array([lists[place] for place in range(count)], dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise EndpointError(
                f"{where} gave an embedding with something else in it than numbers ({error})."
            ) from error
        if not np.isfinite(vectors).all():
            bad = int((~np.isfinite(vectors).all(axis=1)).sum())
            raise EndpointError(f"{where} gave NaN or infinity in {bad} of {count} vectors.")
        if self._dimension not in (None, vectors.shape[1]):
            raise EndpointError(
                f"{where} gave vectors of {self._dimension} and now of {vectors.shape[1]} "
                "dimensions: does the address lead to several models?"
            )
        self._dimension = vectors.shape[1]
        return vectors

    def describe(self) -> dict[str, Any]:
        """Return facts for reports as JSON values."""
        return {"kind": "endpoint", "model": self.model, "url": self.url}


def _about(texts: Sequence[str], start: int) -> str:
    """Say what may be wrong with the texts of a refused request."""
    empty = sum(not text.strip() for text in texts)
    longest = max(map(len, texts))
    return (
        f"The request held texts {start} to {start + len(texts) - 1}: {empty} of them empty, the "
        f"longest of {longest:,} characters."
    )


class VectorTable:
    """Vectors that were computed before, found by the content of their texts.

    Args:
        texts: N texts; one that occurs again must have the same vector.
        vectors: float (N, D).
        name: Where they come from, for messages.

    Raises:
        ShapeError: When the numbers of texts and vectors differ.
        DuplicateIdError: When a text has two different vectors.
        NonFiniteError: When a value is NaN or infinite.

    Example:
        >>> table = VectorTable(["a", "b"], np.eye(2))
        >>> table.encode(["b"])
        array([[0., 1.]], dtype=float32)
        >>> table.encode(["b", "c", "d"])
        Traceback (most recent call last):
        ...
        embedworks.errors.NotFoundError: 2 of 3 texts have no vector in the table, the first is
        'c'. Compute the vectors of exactly the texts that the tasks use.
    """

    def __init__(
        self, texts: Sequence[str], vectors: np.ndarray, *, name: str = "the table"
    ) -> None:
        items = check_texts(texts)
        array = check_vectors(vectors, name=f"vectors of {name}")
        if len(items) != len(array):
            raise ShapeError(f"{name} has {len(items)} texts and {len(array)} vectors.")
        keys = np.array([content_key(text) for text in items], dtype=np.int64)
        unique, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
        kept = first[inverse]
        differ = np.flatnonzero((array != array[kept]).any(axis=1))
        if len(differ):
            raise DuplicateIdError(
                f"{name}: {len(differ)} texts occur again with another vector, the first is "
                f"{shorten(items[differ[0]], 60)!r}. Keep one vector for each text."
            )
        self.name = name
        self.texts = [items[row] for row in first.tolist()]
        self.vectors = array[first]
        self._keys = unique

    def __len__(self) -> int:
        return len(self._keys)

    def __repr__(self) -> str:
        return f"VectorTable({len(self)} texts, {self.vectors.shape[1]} dimensions)"

    @property
    def fingerprint(self) -> str:
        """Hash of texts and vectors."""
        digest = hashlib.sha256(self._keys.tobytes())
        digest.update(np.ascontiguousarray(self.vectors).tobytes())
        return digest.hexdigest()[:16]

    def get_embedding_dimension(self) -> int:
        """Return D."""
        return int(self.vectors.shape[1])

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Return the vectors of N texts, float32 (N, D).

        Raises:
            NotFoundError: When texts have no vector; says how many.
        """
        items = check_texts(texts)
        keys = np.array([content_key(text) for text in items], dtype=np.int64)
        place = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        missing = np.flatnonzero(self._keys[place] != keys)
        if len(missing):
            raise NotFoundError(
                f"{len(missing)} of {len(items)} texts have no vector in {self.name}, the first "
                f"is {shorten(items[missing[0]], 60)!r}. Compute the vectors of exactly the texts "
                "that the tasks use."
            )
        return self.vectors[place]

    def describe(self) -> dict[str, Any]:
        """Return facts for reports as JSON values."""
        return {"kind": "vectors", "model": self.name, "texts": len(self)}

    def save(self, path: str | Path) -> Path:
        """Write a Parquet file with the columns ``text, vector``, atomically."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        target = Path(path)
        if target.suffix != ".parquet":
            raise InputError(f"The name must end in .parquet, got {target}.")
        flat = pa.array(self.vectors.reshape(-1), pa.float32())
        column = pa.FixedSizeListArray.from_arrays(flat, self.vectors.shape[1])
        with atomic_path(target) as temporary:
            pq.write_table(pa.table({"text": pa.array(self.texts), "vector": column}), temporary)
        return target

    @classmethod
    def load(
        cls, path: str | Path, *, text_column: str = "text", vector_column: str = "vector"
    ) -> VectorTable:
        """Read texts with their vectors.

        A ``.parquet`` file has a column of texts and one of lists of numbers. For ``.npy`` and
        ``.safetensors`` (one array in the file, (N, D)), the texts are beside it under the same
        name: ``.jsonl`` with one JSON string, or object with a text, a line, or ``.txt`` with one
        text a line.

        Raises:
            NotFoundError: When a file does not exist.
            FormatError: When a file cannot be read.
            InputError: When a column is missing or the suffix is not known.
        """
        source = Path(path)
        if not source.is_file():
            raise NotFoundError(f"{source} does not exist or is not a file.")
        suffix = source.suffix.lower()
        if suffix == ".parquet":
            texts, vectors = _read_table(source, text_column, vector_column)
        elif suffix in (".npy", ".safetensors"):
            vectors = _read_npy(source) if suffix == ".npy" else _read_safetensors(source)
            texts = _texts_beside(source, text_column)
        else:
            raise InputError(f"{source} must end in .parquet, .npy or .safetensors.")
        return cls(texts, vectors, name=source.name)


def _read_table(path: Path, text: str, vector: str) -> tuple[list[str], np.ndarray]:
    records = read_records(path, columns=[text, vector])
    try:
        vectors = np.array([record[vector] for record in records], dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise FormatError(
            f"{path}: column {vector!r} must hold lists of numbers of one length ({error})."
        ) from error
    return [record[text] for record in records], vectors


def _read_npy(path: Path) -> np.ndarray:
    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        raise FormatError(f"{path} is not a readable .npy file of numbers ({error}).") from error


def _read_safetensors(path: Path) -> np.ndarray:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        arrays = load_file(path)
    except (SafetensorError, OSError) as error:
        raise FormatError(f"{path} is not a readable safetensors file ({error}).") from error
    if len(arrays) != 1:
        raise FormatError(f"{path} must hold one array, it holds {sorted(arrays)}.")
    return next(iter(arrays.values()))


def _texts_beside(path: Path, column: str) -> list[str]:
    lines_file, plain = path.with_suffix(".jsonl"), path.with_suffix(".txt")
    if not lines_file.is_file() and not plain.is_file():
        raise NotFoundError(
            f"{path.name} has vectors only: put their texts beside it, in {lines_file.name} or, "
            f"one a line, in {plain.name}."
        )
    source = lines_file if lines_file.is_file() else plain
    try:
        lines = source.read_text(encoding="utf-8").split("\n")
        lines = lines[:-1] if lines[-1] == "" else lines
        if source is plain:
            return lines
        values = [json.loads(line) for line in lines]
        return [value[column] if isinstance(value, dict) else value for value in values]
    except (UnicodeDecodeError, ValueError, KeyError) as error:
        raise FormatError(
            f"{source} must be UTF-8 with one JSON string, or object with {column!r}, a line "
            f"({type(error).__name__}: {error})."
        ) from error


class _Elsewhere(EncoderSystem):
    """A system that lets its model say where vectors come from."""

    def describe(self) -> dict[str, Any]:
        return {
            **self.model.describe(),
            "fingerprint": self.fingerprint,
            "dimension": self.model.get_embedding_dimension(),
            "parameters": None,
            "max_tokens": None,
            "similarity": self.similarity,
            "prompts": {},
            "template": self.template.to_dict(),
        }


def open_endpoint(
    url: str,
    *,
    name: str | None = None,
    cache: str | Path | None = None,
    template: str | InstructionTemplate = "plain",
    similarity: str = "cosine",
    **options: Any,
) -> EncoderSystem:
    """Return an embeddings endpoint as a system; a few texts are sent to fingerprint it.

    The fingerprint is made of the vectors of these texts, so a cache is not read any more when
    the endpoint runs another model under the same name.

    Args:
        url: Address with the model's name after ``#``: ``http://localhost:8080/v1#model``.
        name: Name in tables; by default the model's.
        cache: Folder of vectors by content, so that nothing is sent twice.
        template: How an instruction is put before a query.
        similarity: ``"cosine"`` or ``"dot"``.
        **options: Of `EndpointEncoder`: ``api_key_env``, ``batch_size``, ``timeout``, ...

    Raises:
        InputError: When no model is named.
        EndpointError: When the endpoint cannot be used.

    Example:
        >>> open_endpoint("http://localhost:8080/v1")
        Traceback (most recent call last):
        ...
        embedworks.errors.InputError: Name the model after '#', as in
        http://localhost:8080/v1#model.
    """
    address, _, model = url.partition("#")
    if not model:
        raise InputError(f"Name the model after '#', as in {address}#model.")
    encoder = EndpointEncoder(address, model, **options)
    return _Elsewhere(
        encoder, name=name or model, cache=cache, template=template, similarity=similarity
    )


def open_vectors(
    path: str | Path,
    *,
    name: str | None = None,
    template: str | InstructionTemplate = "plain",
    similarity: str = "cosine",
    text_column: str = "text",
    vector_column: str = "vector",
) -> EncoderSystem:
    """Return a file of finished vectors as a system.

    It needs the vector of every text of a task, spelled as the task spells it; with a template
    that includes the instruction before queries.

    Args:
        path: File, see `VectorTable.load`.
        name: Name in tables; by default the file's.
        template: How an instruction is put before a query.
        similarity: ``"cosine"`` or ``"dot"``.
        text_column: Column of texts.
        vector_column: Column of vectors.

    Raises:
        NotFoundError: When the file does not exist.
        FormatError: When it cannot be read.

    Example:
        >>> import tempfile
        >>> path = VectorTable(["a", "b"], np.eye(2)).save(tempfile.mkdtemp() + "/v.parquet")
        >>> open_vectors(path).search({"q": "a"}, {"d1": "a", "d2": "b"}, k=1)
        {'q': {'d1': 1.0}}
    """
    table = VectorTable.load(path, text_column=text_column, vector_column=vector_column)
    return _Elsewhere(
        table,
        name=name or Path(path).stem,
        template=template,
        similarity=similarity,
        fingerprint=table.fingerprint,
    )
