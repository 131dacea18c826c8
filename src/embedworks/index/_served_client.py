"""Talk to a Milvus server: connect, describe a collection's fields, turn failures into errors."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from embedworks._core.extras import require_extra
from embedworks.errors import EndpointError
from embedworks.index._milvus import LONGEST_TEXT, ServedColumn

__all__ = ["TERMS", "VECTOR", "WORDS", "connect", "indexes", "schema", "served"]

#: Fields beside the columns: the vector, the text that BM25 reads, and its terms.
VECTOR, WORDS, TERMS = "vector", "words_", "words_terms_"


def connect(uri: str, token: str, timeout: float) -> Any:
    """Return a client.

    Raises:
        MissingExtraError: When the client library is not installed.
        EndpointError: When the server cannot be reached or refuses.
    """
    library = require_extra("pymilvus", extra="milvus", purpose="reach a served collection")
    for name in ("pymilvus", "grpc._server"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # errors are raised, not only logged
    with served(uri):
        return library.MilvusClient(uri, token=token, timeout=timeout)


@contextmanager
def served(target: str) -> Iterator[None]:
    """Turn the client library's failures into one error."""
    errors = require_extra("pymilvus.exceptions", extra="milvus", purpose="reach a collection")
    try:
        yield
    except errors.MilvusException as error:
        raise EndpointError(
            f"The vector database refused or could not be reached ({target}): {error}"
        ) from error


def schema(client: Any, columns: Sequence[ServedColumn], dim: int) -> Any:
    """Describe the fields of a collection."""
    milvus = require_extra("pymilvus", extra="milvus", purpose="reach a served collection")
    kinds = {
        "text": (milvus.DataType.VARCHAR, {"max_length": LONGEST_TEXT}),
        "integer": (milvus.DataType.INT64, {}),
        "real": (milvus.DataType.DOUBLE, {}),
        "truth": (milvus.DataType.BOOL, {}),
        "moment": (milvus.DataType.INT64, {}),
        "moment_utc": (milvus.DataType.INT64, {}),
    }
    made = client.create_schema(auto_id=False, enable_dynamic_field=False)
    for column in columns:
        kind, options = kinds[column.kind]
        key = {"is_primary": True} if column.name == "chunk_id" else {"nullable": True}
        made.add_field(column.field, kind, **options, **key)
    made.add_field(VECTOR, milvus.DataType.FLOAT_VECTOR, dim=dim)
    made.add_field(WORDS, milvus.DataType.VARCHAR, max_length=LONGEST_TEXT, enable_analyzer=True)
    made.add_field(TERMS, milvus.DataType.SPARSE_FLOAT_VECTOR)
    made.add_function(
        milvus.Function(
            name="words_to_terms",
            input_field_names=[WORDS],
            output_field_names=[TERMS],
            function_type=milvus.FunctionType.BM25,
        )
    )
    return made


def indexes(client: Any, dense: Mapping[str, Any]) -> Any:
    """Describe its indexes: the dense one as given, an inverted one for words."""
    made = client.prepare_index_params()
    made.add_index(VECTOR, metric_type="COSINE", **dense)
    made.add_index(TERMS, index_type="SPARSE_INVERTED_INDEX", metric_type="BM25")
    return made
