"""Documents in, chunks and training pairs out: reading, chunking, splitting, pair making.

Knows text and its structure; knows nothing of models, tokenizers or vectors. A token limit is
kept through a counting function given by the caller.
"""

from embedworks._core.lazy import attach as _attach

__getattr__, __dir__, __all__ = _attach(
    __name__,
    {
        "Chunk": "chunking",
        "ChunkSet": "chunking",
        "Document": "documents",
        "DocumentSet": "documents",
        "FileContent": "readers",
        "PAIR_SOURCES": "pairs",
        "PairCorpus": "pairs",
        "PairSet": "pairs",
        "PairSource": "pairs",
        "READERS": "readers",
        "RawPair": "pairs",
        "ReadReport": "documents",
        "Reader": "readers",
        "Row": "rows",
        "RowSet": "rows",
        "SkipFileError": "readers",
        "Table": "tables",
        "TrainingPair": "pairs",
        "chunk_documents": "chunking",
        "content_key": "rows",
        "estimate_tokens": "chunking",
        "holdout_pairs": "pairs",
        "make_pairs": "pairs",
        "read_documents": "documents",
        "sentences": "_sentences",
        "split_documents": "splits",
    },
)
