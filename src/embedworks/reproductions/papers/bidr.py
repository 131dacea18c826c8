"""BiDR, first half: are codes learned for retrieval better than codes that reconstruct?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from embedworks.reproductions import Arm, Comparison, Context, Outcome, Reproduction, Tuning
from embedworks.reproductions.papers._compressed import Pairs, outcome_of, title_vectors

if TYPE_CHECKING:
    from embedworks.index import ProductQuantizer, VectorHead

__all__ = ["ENTRIES"]

_CUTS = (10, 50, 100)
_TUNED = "contrastive 16"


def _run(arm: Arm, seed: int, settings: Mapping[str, Any], context: Context) -> Outcome:
    from embedworks.index import ExactIndex, QuantizedIndex

    pairs: Pairs = context.once(("pairs",), lambda: title_vectors(settings, context, seed=seed))
    questions = pairs.questions[context.part]
    size, kind = arm["bytes"], arm["codes"]
    if kind == "none":
        found, _ = ExactIndex(pairs.documents).search(questions.vectors, max(_CUTS))
        return Outcome(items=outcome_of(found, questions, _CUTS))
    quantizer = _quantizer(kind, size, pairs, seed, settings, context)
    index = QuantizedIndex(pairs.documents, codes="opq", quantizer=quantizer)
    asked = questions.vectors
    if arm["head"]:
        asked = _head(quantizer, pairs, seed, settings)(asked)
    found, _ = index.search(asked, max(_CUTS))
    memory = {"bytes per document": index.memory()["codes"] / len(index)}
    return Outcome(memory, outcome_of(found, questions, _CUTS))


def _quantizer(
    kind: str, size: int, pairs: Pairs, seed: int, settings: Mapping[str, Any], context: Context
) -> ProductQuantizer:
    from embedworks.index import ProductQuantizer, learn_quantizer

    fitted = "none" if kind == "pq" else "opq"
    start: ProductQuantizer = context.once(
        ("fitted", fitted, size),
        lambda: ProductQuantizer.fit(pairs.documents, size, rotation=fitted, seed=seed),
    )
    if kind in ("pq", "opq"):
        return start
    rate, temperature = context.setting("lr", 3e-3), context.setting("temperature", 0.05)
    contrast = kind == "contrastive"

    def learned() -> ProductQuantizer:
        return learn_quantizer(
            start,
            pairs.queries,
            pairs.documents,
            positives=pairs.positives,
            epochs=settings["epochs"],
            batch_size=settings["batch"],
            learning_rate=rate,
            temperature=temperature,
            contrast=1.0 if contrast else 0.0,
            reconstruction=0.1 if contrast else 1.0,
            seed=seed,
        )

    return context.once(("learned", kind, size, rate, temperature if contrast else 0), learned)


def _head(
    quantizer: ProductQuantizer, pairs: Pairs, seed: int, settings: Mapping[str, Any]
) -> VectorHead:
    from embedworks.index import learn_heads

    coded = quantizer.decode(quantizer.encode(pairs.documents))
    return learn_heads(
        pairs.queries, coded, positives=pairs.positives, document_side=False,
        epochs=settings["epochs"], batch_size=settings["batch"], learning_rate=3e-4, seed=seed,
    )[0]  # fmt: skip


def _arm(kind: str, size: int, summary: str, *, head: bool = False) -> Arm:
    name = f"{kind} {size}{' + head' if head else ''}"
    own = name in (_TUNED, "reconstruction 16")
    tuned = "" if own else f"{kind} 16" if kind == "reconstruction" else _TUNED
    return Arm(name, summary, {"codes": kind, "bytes": size, "head": head}, tune_as=tuned)


_SIZES = (8, 16)

ENTRIES = (
    Reproduction(
        slug="bidr",
        paper="Progressively Optimized Bi-Granular Document Representation for Scalable "
        "Embedding Based Retrieval (BiDR)",
        arxiv="2201.05409",
        claim="Codes trained by the retrieval loss through the quantiser find more of the "
        "answers than OPQ codes of the same size.",
        falsifier="At 16 bytes a document contrastive codes do not have a recall@100 above OPQ's, "
        "or training the same codes as long on reconstruction alone does as well.",
        arms=(
            Arm("float32", "1,536 bytes, searched exactly",
                {"codes": "none", "bytes": 1536, "head": False}, tune_as=_TUNED),
            *(_arm("pq", size, "product codes, no rotation") for size in _SIZES),
            *(_arm("opq", size, "product codes, learned rotation") for size in _SIZES),
            *(_arm("reconstruction", size, "OPQ trained on without queries") for size in _SIZES),
            *(_arm("contrastive", size, "OPQ trained on by the contrast") for size in _SIZES),
            *(_arm("opq", size, "and a linear query head", head=True) for size in _SIZES),
            *(_arm("contrastive", size, "and a linear query head", head=True) for size in _SIZES),
        ),
        decisive=Comparison.between("contrastive 16", "opq 16", "recall@100"),
        conditions=(
            Comparison.between("contrastive 16", "reconstruction 16", "recall@100"),
            Comparison.between("contrastive 8", "opq 8", "recall@100", falsifies=False),
        ),
        secondary=(
            *(Comparison.between(f"opq {size}", f"pq {size}", "recall@100") for size in _SIZES),
            *(
                Comparison.between(f"contrastive {size}", f"opq {size}", metric)
                for size in _SIZES for metric in ("recall@10", "recall@50", "mrr@10")
            ),
            *(
                Comparison.between(f"{kind} {size} + head", f"{kind} {size}", "recall@100")
                for size in _SIZES for kind in ("opq", "contrastive")
            ),
            Comparison.between("contrastive 16 + head", "opq 16 + head", "recall@100"),
            Comparison(
                "the gain is larger in fewer bytes", "recall@100",
                {"contrastive 8": 1, "opq 8": -1, "contrastive 16": -1, "opq 16": 1},
            ),
        ),
        run=_run,
        tuning=Tuning(
            {"lr": (1e-3, 3e-3, 1e-2), "temperature": (0.03, 0.05)}, metric="recall@100"
        ),
        scales={
            "mini": {"model": "minilm", "rows": 8000, "queries": 2000, "epochs": 5, "batch": 256},
            "gpu": {"model": "minilm", "rows": 20000, "queries": 2000, "held_out": 8000,
                    "epochs": 5, "batch": 256},
        },
        setup="Titles of papers as queries, abstracts as documents (ACL Anthology, English, from "
        "2016). MiniLM is frozen; its vectors have 384 dimensions, 1,536 bytes. Validation and "
        "test titles search all abstracts, those of training pairs included, by the codes alone; "
        "their own pairs are never trained on. Each seed draws 80 % of the training pairs, and "
        "its own start of k-means and order of batches. `gpu` takes 20,000 papers in place "
        "of 8,000, and as further test questions the titles of 8,000 that are not trained on.\n\n"
        "PQ and OPQ are fitted on all abstracts. Both trained arms start from OPQ and take the "
        "same steps over the same pairs with tuned settings; the rotation is fixed, as in the "
        "paper. One learns by the contrast with a tenth of reconstruction, one by reconstruction "
        "alone. A query head is a linear map trained on the finished codes.",
        limits="The paper trains the encoders together with the codes, on millions of labelled "
        "queries; here only codes (and a query head) learn, from titles. Batches are random, as "
        "in the paper's first stage; no BM25 negatives. Seeds share documents and questions. "
        "The grid was chosen on other vectors, of title and abstract together.",
    ),
)  # fmt: skip
