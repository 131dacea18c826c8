"""Models: load by name, the numpy static model, golden vectors, batched encoding."""

from embedworks._core.lazy import attach as _attach

__getattr__, __dir__, __all__ = _attach(
    __name__,
    {
        "CountModel": "words.counts",
        "Encoder": "protocols",
        "EncodingStats": "encoding",
        "GOLDEN_TEXTS": "golden",
        "MODELS": "loading",
        "StaticModel": "static",
        "TransformedModel": "words.transformed",
        "VectorTransform": "words.transforms",
        "check_golden": "golden",
        "encode_batched": "encoding",
        "fit_component_removal": "words.transforms",
        "fit_hard_debiasing": "words.transforms",
        "fit_leace": "words.transforms",
        "fit_procrustes": "words.transforms",
        "fit_whitening": "words.transforms",
        "is_static_folder": "loading",
        "load": "loading",
        "model_fingerprint": "encoding",
        "save": "golden",
        "write_golden": "golden",
    },
)
