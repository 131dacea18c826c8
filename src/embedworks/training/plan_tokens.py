"""Stages that learn from tokens: pre-training, and the key tokens of texts (Text2Token).

Settings, and how they are carried out on a plan's rows.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import pydantic
from pydantic import Field

from embedworks._core.seeding import derive_seed
from embedworks._core.settings import Settings
from embedworks.errors import InputError

if TYPE_CHECKING:
    from embedworks.data import RowSet
    from embedworks.training.plan_stage import StageSettings

__all__ = [
    "GenerateSettings",
    "PretrainSettings",
    "TokenTargetSettings",
    "pretrain_stage",
    "row_texts",
    "target_loss",
]

Share = Annotated[float, Field(gt=0.0, le=1.0)]
Count = Annotated[int, Field(ge=1)]


class PretrainSettings(Settings):
    """A stage that trains the transformer as a language model on the texts of its rows.

    Steps, batch size, rate, warm-up and precision are the stage's. The output layer is the model's
    own where it has one, else one that is tied to its token vectors and thrown away after the
    stage. See `LanguageModelSettings`.
    """

    objective: Literal["causal", "mlm", "mntp", "smae"] = "mlm"
    length: Annotated[int, Field(ge=8)] = 128
    """Tokens of a row; texts are put one after another."""
    mask_share: Share = 0.2
    decoder_mask_share: Share = 0.4
    whole_words: bool = False
    pairs: tuple[tuple[Count, Count], ...] = ()
    """Sizes (layers, dimensions) of SMAE."""
    new_tokens: Annotated[int, Field(ge=0)] = 0
    """Give so many frequent words of the texts a token of their own first; see `add_tokens`."""

    @pydantic.model_validator(mode="after")
    def _usable(self) -> Self:
        if self.pairs and self.objective != "smae":
            raise ValueError("pairs go with the objective smae")
        if self.objective == "smae" and self.decoder_mask_share < self.mask_share:
            raise ValueError("the decoder hides at least what the encoder hides")
        return self


class GenerateSettings(Settings):
    """A stage that keeps a decoder a language model beside its objective; see `GenerationLoss`."""

    weight: Annotated[float, Field(gt=0.0)] = 1.0
    """Of the next-token loss of the documents, added to the stage's loss. Raise it where the
    language model matters more than the vectors."""


class RankSettings(Settings):
    """A stage that trains scores of pairs beside its objective; see `JointRankingLoss`.

    The model gets a `RankingHead` where it has none.
    """

    weight: Share = 0.5
    """Share of the ranking in the sum with the stage's loss."""
    others: Annotated[int, Field(ge=0)] = 3
    """Other documents of the batch that each document is ranked with."""


class TokenTargetSettings(Settings):
    """A stage that pulls vectors toward their texts' tokens; see `TokenTargetLoss`."""

    weighting: Literal["uniform", "tf", "tfidf", "sif"] = "tfidf"
    max_share: Share = 0.1
    """Tokens that occur in a larger share of the texts are left out."""
    top_k: Count = 64
    temperature: Annotated[float, Field(gt=0.0)] = 0.05


def row_texts(rows: RowSet) -> list[str]:
    """Return every text of the rows once: anchors and positives.

    Raises:
        InputError: When an input is not a text.
    """
    found: dict[str, None] = {}
    for row in rows:
        for text in (row.anchor, row.positive):
            if not isinstance(text, str):
                raise InputError(
                    f"tokens are learned from texts; a row of {row.source!r} has a "
                    f"{type(text).__name__}."
                )
            found[text] = None
    return list(found)


def target_loss(model: Any, rows: RowSet, stage: StageSettings, mini_batch_tokens: Any) -> Any:
    """Return the loss of a stage with token targets: the mean over anchors and positives.

    Raises:
        InputError: When no text has a target.
    """
    import torch

    from embedworks.data import content_key
    from embedworks.losses import TokenTargetLoss
    from embedworks.models import text_token_targets

    class RowTargetLoss(TokenTargetLoss):
        """Token targets of texts that are told apart by their content keys."""

        def forward(self, sentence_features: Any, labels: Any = None) -> Any:
            columns = list(sentence_features)[:2]
            told = []
            for column in columns:
                places = torch.searchsorted(self.keys, column["row_key"].to(self.keys.device))
                told.append(super().forward([column], self.order[places]))
            return torch.stack(told).mean()

    wanted = stage.token_targets
    assert wanted is not None
    texts = row_texts(rows)
    targets = text_token_targets(
        texts, model.tokenizer, weighting=wanted.weighting, max_share=wanted.max_share,
        top_k=wanted.top_k,
    )  # fmt: skip
    loss: Any = RowTargetLoss(
        model, targets, temperature=wanted.temperature, mini_batch_tokens=mini_batch_tokens
    )
    keys = torch.tensor([content_key(text) for text in texts])
    order = torch.argsort(keys)
    loss.register_buffer("keys", keys[order].to(model.device), persistent=False)
    loss.register_buffer("order", order.to(model.device), persistent=False)
    return loss


def pretrain_stage(
    model: Any, rows: RowSet, stage: StageSettings, *, seed: int, show_progress: bool | None = None
) -> dict[str, Any]:
    """Train the transformer of a model in place as a language model.

    Returns:
        ``losses`` (step and loss), ``seconds``, ``steps``.

    Raises:
        InputError: When the model has no transformer, or not one that the objective can train.
    """
    import torch
    import transformers

    from embedworks._core.bars import no_bars
    from embedworks.modules import make_bidirectional
    from embedworks.training.language_models.train import (
        LanguageModelSettings,
        train_language_model,
    )

    wanted = stage.pretrain
    assert wanted is not None
    assert stage.steps is not None
    body = getattr(model[0], "auto_model", None)
    if body is None:
        raise InputError(
            f"stage {stage.name!r} pre-trains a transformer, and the model has none: take another "
            "base."
        )
    causal = wanted.objective in ("causal", "mntp")
    kind = transformers.AutoModelForCausalLM if causal else transformers.AutoModelForMaskedLM
    told = {name: value for name, value in wanted.to_dict().items() if name != "new_tokens"}
    settings = LanguageModelSettings(
        **told, steps=stage.steps, batch_size=stage.batches.batch_size,
        learning_rate=stage.learning_rate, warmup=_share(stage), weight_decay=stage.weight_decay,
        precision="fp32" if stage.precision == "fp32" else "bf16", seed=seed,
    )  # fmt: skip
    added = _with_new_tokens(model, rows, wanted.new_tokens)
    with tempfile.TemporaryDirectory() as folder, no_bars():
        body.save_pretrained(folder)
        try:
            with _quiet(transformers.logging), torch.random.fork_rng(devices=[]):
                torch.manual_seed(derive_seed(seed, "output layer", stage.name))
                tied = {} if body.get_output_embeddings() else {"tie_word_embeddings": True}
                whole = kind.from_pretrained(folder, **tied)
        except ValueError as error:
            raise InputError(
                f"stage {stage.name!r}: a {type(body).__name__} cannot be trained by "
                f"{wanted.objective!r}, it has no such output layer."
            ) from error
        if getattr(body.config, "is_decoder", None) is False and causal:
            raise InputError(
                f"stage {stage.name!r}: a {type(body).__name__} is an encoder, but "
                f"{wanted.objective!r} trains decoders: take mlm or smae."
            )
        done = train_language_model(
            whole, model.tokenizer, row_texts(rows), settings, device=str(model.device),
            show_progress=show_progress,
        )  # fmt: skip
    trained = whole if type(whole) is type(body) else whole.base_model
    # A pooler that masked language models leave out is the only thing that may be missing.
    missing, extra = body.load_state_dict(trained.state_dict(), strict=False)
    assert not extra, extra
    assert all("pooler" in name for name in missing), missing
    if wanted.objective == "mntp":
        make_bidirectional(model)
    every = max(1, settings.steps // 50)
    losses = [{"step": (n + 1) * every, "loss": loss} for n, loss in enumerate(done.losses)]
    found = {"steps": done.steps, "seconds": round(done.seconds, 3), "losses": losses}
    return found | ({"new_tokens": list(added)} if wanted.new_tokens else {})


def _with_new_tokens(model: Any, rows: RowSet, count: int) -> Sequence[str]:
    """Add the words that save most, if any; return them."""
    from embedworks.models import add_tokens, frequent_split_words

    if not count:
        return ()
    words = frequent_split_words(row_texts(rows), model.tokenizer, count)
    return add_tokens(model, words) if words else ()


@contextmanager
def _quiet(log: Any) -> Iterator[None]:
    """Leave out what transformers reports of an output layer that starts anew, as it should."""
    level = log.get_verbosity()
    log.set_verbosity_error()
    try:
        yield
    finally:
        log.set_verbosity(level)


def _share(stage: StageSettings) -> float:
    """Return the warm-up as a share of the steps."""
    assert stage.steps is not None
    return min(1.0, stage.warmup if stage.warmup < 1 else stage.warmup / stage.steps)


def token_problems(stage: StageSettings) -> Sequence[str]:
    """Return what does not fit together in a stage that learns from tokens."""
    found = []
    if stage.pretrain is not None:
        if stage.steps is None:
            found.append("pretrain takes steps, not epochs")
        if stage.precision == "fp16":
            found.append("pretrain computes in fp32 or bf16")
    named = [n for n in ("pretrain", "token_targets") if getattr(stage, n) is not None]
    if len(named) > 1:
        found.append("give pretrain or token_targets, not both: make two stages")
    if named:
        others = {
            "losses": bool(stage.losses), "nested": stage.nested is not None,
            "matryoshka": stage.matryoshka is not None, "guide": stage.guide is not None,
            "teacher": stage.teacher is not None, "negatives.mine": bool(stage.negatives.mine),
            "cache_gradients": stage.cache_gradients, "generate": stage.generate is not None,
            "rank": stage.rank is not None,
        }  # fmt: skip
        found += [f"{named[0]} reads texts alone: leave {n} out" for n, on in others.items() if on]
    return found
