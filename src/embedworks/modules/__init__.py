"""Parts of sentence-transformers models: poolings, the bidirectional switch, layers to cut.

Each part is a sentence-transformers module that saves and loads inside an ordinary model folder.
Knows no models by name, no losses, no data.
"""

from embedworks._core.lazy import attach as _attach

__getattr__, __dir__, __all__ = _attach(
    __name__,
    {
        "LayerStack": "layers",
        "check_layers": "layers",
        "layer_stack": "layers",
        "pooled_layers": "layers",
    },
)
