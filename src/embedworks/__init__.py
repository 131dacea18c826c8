"""embedworks: everything you do to an embedding model, as parts that compose.

``import embedworks as ew`` is cheap: torch and the other heavy libraries are imported by the
functions that need them.
"""

from embedworks._core.lazy import attach as _attach

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = _attach(
    __name__,
    {
        "Collection": "index",
        "StaticModel": "models",
        "adapt": "training",
        "data": "data",
        "errors": "errors",
        "evaluation": "evaluation",
        "index": "index",
        "load": "models",
        "losses": "losses",
        "merge": "merging",
        "merging": "merging",
        "models": "models",
        "negatives": "negatives",
        "reproductions": "reproductions",
        "search": "training",
        "training": "training",
    },
)
