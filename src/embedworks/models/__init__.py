"""Models: load by name, the numpy static model, golden vectors, batched encoding."""

from embedworks._core.lazy import attach as _attach

__getattr__, __dir__, __all__ = _attach(
    __name__,
    {
        "ARCHITECTURES": "backbones",
        "AlignmentReport": "vocabulary",
        "Encoder": "protocols",
        "EncodingStats": "encoding",
        "GOLDEN_TEXTS": "golden",
        "MODELS": "loading",
        "StaticModel": "static",
        "TOKEN_WEIGHTINGS": "token_targets",
        "TokenTargets": "token_targets",
        "VocabLens": "vocabulary",
        "canonical_tokens": "token_targets",
        "check_golden": "golden",
        "encode_batched": "encoding",
        "is_static_folder": "loading",
        "load": "loading",
        "load_reranker": "reranking",
        "load_trainable": "trainable",
        "mix_token_targets": "token_targets",
        "model_fingerprint": "encoding",
        "model_token_targets": "token_targets",
        "new_model": "backbones",
        "save": "golden",
        "text_token_targets": "token_targets",
        "train_tokenizer": "backbones",
        "truncate_model": "truncation",
        "usable_tokens": "vocabulary",
        "vocabulary_matrix": "vocabulary",
        "write_golden": "golden",
    },
)
