"""Parts of sentence-transformers models: poolings, the bidirectional switch, layers to cut.

Each part is a sentence-transformers module that saves and loads inside an ordinary model folder.
Knows no models by name, no losses, no data.
"""

from embedworks._core.lazy import attach as _attach

__getattr__, __dir__, __all__ = _attach(
    __name__,
    {
        "BIDIRECTIONAL_FAMILIES": "bidirectional",
        "InstructedTransformer": "instructions",
        "LMEmbedder": "prompting.lm_embedder",
        "LastTokenPooling": "poolings",
        "LatentAttentionPooling": "poolings",
        "LayerMixing": "layer_mixing",
        "LayerStack": "layers",
        "LearnedQueryPooling": "poolings",
        "LexiconPooling": "lexicon",
        "MLPPooling": "poolings",
        "MODULE_CLASSES": "registry",
        "MaskedMeanPooling": "poolings",
        "POOLINGS": "poolings",
        "PROMPT_TEMPLATES": "prompting.templates",
        "PowerMeanPooling": "poolings",
        "PromptTemplate": "prompting.templates",
        "RankingHead": "ranking",
        "SelfAttentionPooling": "poolings",
        "TokenPooling": "poolings",
        "WeightedMeanPooling": "poolings",
        "attends_both_ways": "bidirectional",
        "causal_attention": "bidirectional",
        "check_bidirectional": "bidirectional",
        "check_generates": "bidirectional",
        "check_layers": "layers",
        "instruction_mask": "instructions",
        "join_pairs": "ranking",
        "layer_stack": "layers",
        "make_bidirectional": "bidirectional",
        "pooled_layers": "layers",
    },
)
