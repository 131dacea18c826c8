"""The contrastive objective as a loss for trainers."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from embedworks.errors import DataWarning, InputError, ShapeError
from embedworks.losses._contrast import ContrastInputs, contrast
from embedworks.losses._features import split_features, with_labels
from embedworks.losses._gather import first_row, gather_info, gather_vectors, is_distributed
from embedworks.losses.batch_info import BatchInfo
from embedworks.losses.packing import ColumnEmbedder, Columns
from embedworks.losses.presets import objective as named_objective
from embedworks.losses.settings import ObjectiveSettings

__all__ = ["ContrastiveLoss", "GuideVectors", "Mixer", "Queue"]


class GuideVectors(Protocol):
    """A guide model's vectors by content key, such as `embedworks.negatives.CachedGuide`."""

    def lookup(self, keys: Tensor) -> Tensor:
        """Return float (N, D) vectors for int64 (N,) keys."""


class Mixer(Protocol):
    """Makes further negatives, such as `embedworks.negatives.NegativeMixer`."""

    def __call__(
        self,
        negatives: Tensor,
        query: Tensor,
        positive: Tensor,
        present: Tensor | None = None,
        *,
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor]:
        """Return (B, J, D) unit vectors and bool (B, J), which of them to use."""


class Queue(Protocol):
    """Keeps documents of earlier batches, such as `embedworks.negatives.EmbeddingQueue`."""

    @property
    def vectors(self) -> Tensor:
        """Float (M, D)."""

    @property
    def keys(self) -> Tensor:
        """int64 (M,)."""

    def enqueue(self, vectors: Tensor, keys: Tensor) -> None:
        """Add a batch's documents."""


class ContrastiveLoss(nn.Module):
    """One contrastive objective for every paper's variant, exact at any batch size.

    Runs in sentence-transformers' trainer, under its ``MatryoshkaLoss``, with adapters and with
    dict inputs; the columns of a batch are anchor, positive, then any number of negatives.

    Args:
        model: The model, or None to work on vectors through `contrast` alone.
        settings: `ObjectiveSettings`, the name of one of `OBJECTIVES`, or None for InfoNCE.
        temperature: Overrides the settings' value; keyword. Not together with ``scale``.
        scale: 1 / temperature, as sentence-transformers names it.
        mini_batch_size: Texts embedded at a time.
        mini_batch_tokens: Tokens embedded at a time, padding included; texts of all columns are
            sorted by length first. With either limit, less is spent on padding.
        cache_gradients: Embed each pack twice, so that only one pack's activations are alive at a
            time (GradCache, arXiv 2101.06983). Needs a limit.
        gather_across_devices: Contrast with the documents of all devices.
        labels: What a data set's label column means: ``ignore``, ``class``, ``teacher_scores``
            or ``grades``.
        sources: Names of the data sets, in the order of ``BatchInfo.sources``, for temperatures
            per source.
        guide: Vectors of a guide model, or a sentence-transformers model that tokenises like
            ``model``.
        mixer: Makes further negatives out of the hard ones.
        queue: Documents of earlier batches; updated after each training step.
        seed: Of the mixer's random choices.

    Attributes:
        statistics: Of the last call: means over rows of ``loss`` and of the positive's
            ``probability``, the share of rows left ``alone`` without a negative, and the mean
            ``temperature``.
        progress: Share of the training done, for schedules; set it with `set_progress`.

    Raises:
        UnknownNameError: When there is no objective of that name.
        InputError: When options do not fit together.

    Example:
        >>> loss = ContrastiveLoss(None, "nemotron")
        >>> q, d, n = torch.eye(2), torch.eye(2), torch.eye(2).flip(0)[:, None]
        >>> round(float(loss.contrast(q, d, n)), 4)
        0.0
    """

    batches_drawn: Tensor

    def __init__(
        self,
        model: Any = None,
        settings: ObjectiveSettings | str | None = None,
        *,
        temperature: float | None = None,
        scale: float | None = None,
        mini_batch_size: int | None = None,
        mini_batch_tokens: int | None = None,
        cache_gradients: bool = False,
        gather_across_devices: bool = False,
        labels: Literal["ignore", "class", "teacher_scores", "grades"] = "ignore",
        sources: Sequence[str] = (),
        guide: GuideVectors | nn.Module | None = None,
        mixer: Mixer | None = None,
        queue: Queue | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.model = model
        self.settings = _resolve(settings, temperature, scale)
        self.mini_batch_size = mini_batch_size
        self.mini_batch_tokens = mini_batch_tokens
        self.cache_gradients = cache_gradients
        self.gather_across_devices = gather_across_devices
        self.labels = labels
        self.sources = tuple(sources)
        self.mixer = mixer
        self.queue = queue
        self.seed = seed
        self.register_buffer("batches_drawn", torch.zeros((), dtype=torch.int64))
        # Held in a tuple so that a guide model is not trained, moved or saved with the loss.
        self._guide = (guide,)
        self.progress: float | None = None
        self.statistics: dict[str, float] = {}
        self._info = BatchInfo()
        self._warned_alone = False
        self._check_options(guide)
        self._make_temperatures()

    def _check_options(self, guide: GuideVectors | nn.Module | None) -> None:
        wants = self.settings
        if self.cache_gradients and self.mini_batch_size is None and self.mini_batch_tokens is None:
            raise InputError(
                "cache_gradients needs mini_batch_size or mini_batch_tokens: how much is embedded "
                "at a time."
            )
        if self.labels not in ("ignore", "class", "teacher_scores", "grades"):
            raise InputError(
                f"labels must be ignore, class, teacher_scores or grades, got {self.labels!r}."
            )
        if guide is not None and guide is self.model:
            raise InputError("the guide is the model being trained: use another, frozen model.")
        if guide is not None and wants.masks.guide is None:
            raise InputError("a guide was given, but settings.masks.guide is not set.")
        if self.mixer is not None and "own_negatives" not in wants.candidates:
            raise InputError("a mixer mixes hard negatives: add 'own_negatives' to candidates.")
        if self.mixer is not None and wants.similarity == "maxsim":
            raise InputError("a mixer mixes single vectors: not with maxsim.")
        if (self.queue is not None) != ("queue" in wants.candidates):
            raise InputError(
                "a queue was given, but 'queue' is not among the candidates."
                if self.queue is not None
                else "'queue' is among the candidates: give the loss a queue (EmbeddingQueue)."
            )
        if wants.temperature.per_source and self.sources:
            unknown = set(wants.temperature.sources) - set(self.sources)
            if unknown:
                raise InputError(
                    f"temperatures are given for unknown sources {sorted(unknown)}; the sources "
                    f"are {list(self.sources)}."
                )

    def _make_temperatures(self) -> None:
        options = self.settings.temperature
        names = self.sources if options.per_source else ()
        values = [options.sources.get(name, options.value) for name in names] or [options.value]
        logarithms = torch.tensor([math.log(value) for value in values])
        if options.learned:
            self.log_temperature: Tensor = nn.Parameter(logarithms)
        else:
            self.register_buffer("log_temperature", logarithms, persistent=False)

    @property
    def temperatures(self) -> dict[str, float]:
        """The temperature of each source, or under ``""`` that of all."""
        names = self.sources if self.settings.temperature.per_source else ()
        values = self.log_temperature.detach().exp().tolist()
        return dict(zip(names or ("",), values, strict=True))

    @property
    def uses_gradient_cache(self) -> bool:
        """Whether gradients are cached; sentence-transformers' wrappers ask for it."""
        return self.cache_gradients

    def set_progress(self, progress: float) -> None:
        """Say how much of the training is done, 0 to 1.

        Raises:
            InputError: When it is outside that range.
        """
        if not 0 <= progress <= 1:
            raise InputError(f"progress must be between 0 and 1, got {progress}.")
        self.progress = progress

    def forward(
        self, sentence_features: Iterable[dict[str, Any]], labels: Tensor | None = None
    ) -> Tensor:
        """Return the loss of a batch.

        Args:
            sentence_features: Features of anchor, positive and negatives, as a trainer's collator
                makes them. Facts about the rows may travel in them; see `RowCollator`.
            labels: The label column, if any.

        Raises:
            InputError: When there are fewer than two columns, or facts are missing.
        """
        plain = self.read_batch(sentence_features, labels)
        embedder = ColumnEmbedder(
            self.model,
            mini_batch_size=self.mini_batch_size,
            mini_batch_tokens=self.mini_batch_tokens,
            tokens=self.settings.similarity == "maxsim",
        )
        if not (self.cache_gradients and torch.is_grad_enabled()):
            return self._loss_of(embedder.embed(plain))
        found, replay = embedder.embed_detached(plain)
        self._add_masks(found)
        loss = self.calculate_loss([[x] for x in found.vectors], labels, with_backward=True)
        loss = loss.detach().requires_grad_()
        no_sync: Callable[[], Any] | None = getattr(self.model, "no_sync", None)
        loss.register_hook(lambda gradient: replay(gradient, no_sync))  # type: ignore[no-untyped-call]
        return loss

    def read_batch(
        self, sentence_features: Iterable[dict[str, Any]], labels: Tensor | None = None
    ) -> list[dict[str, Any]]:
        """Take a batch's facts for the next loss, and return what the model reads.

        For wrappers that embed the columns themselves and then call `calculate_loss`.

        Raises:
            InputError: When there are fewer than two columns, or facts are missing.
        """
        if self.model is None:
            raise InputError("this loss was made without a model: use contrast on vectors.")
        columns = list(sentence_features)
        if len(columns) < 2:
            raise InputError(
                f"the batch has {len(columns)} columns: an anchor and a positive are needed."
            )
        plain, info = split_features(columns)
        info = with_labels(info, labels, self.labels)
        self._info = self._with_guide(info, plain)
        return list(plain)

    def calculate_loss(
        self,
        reps: list[list[Tensor]],
        labels: Tensor | None = None,
        *,
        with_backward: bool = False,
    ) -> Tensor:
        """Return the loss of embedded columns; sentence-transformers' caching protocol.

        Args:
            reps: Per column, parts whose rows make up the column.
            labels: Not used; facts were taken when the batch came in.
            with_backward: Also compute gradients, and return the loss without a graph.
        """
        loss = self._contrast_columns([torch.cat(parts) for parts in reps])
        if with_backward:
            loss.backward()  # type: ignore[no-untyped-call]
            loss = loss.detach()
        return loss

    def compute_loss_from_embeddings(
        self, embeddings: Sequence[Tensor], labels: Tensor | None = None
    ) -> Tensor:
        """Return the loss of vectors by column: anchor, positive, negatives; each (B, D)."""
        self._info = with_labels(BatchInfo(), labels, self.labels)
        return self._contrast_columns(list(embeddings))

    def contrast(
        self,
        query: Tensor,
        document: Tensor,
        negatives: Tensor | None = None,
        info: BatchInfo | None = None,
    ) -> Tensor:
        """Return the loss of vectors.

        Args:
            query: float tensor (B, D), or (B, T, D) for maxsim.
            document: float tensor (B, D) or (B, U, D).
            negatives: float tensor (B, K, D) or (B, K, U, D), or None.
            info: Facts about the rows.
        """
        info = info or BatchInfo()
        inputs = ContrastInputs(progress=self._progress())
        if self.mixer is not None and negatives is not None:
            unit = [nn.functional.normalize(x, dim=-1) for x in (negatives, query, document)]
            inputs.mixed, inputs.mixed_usable = self.mixer(
                unit[0], unit[1], unit[2], info.negatives_present,
                generator=self._draw(query.device),
            )  # fmt: skip
        inputs.inverse_temperature = self._inverse_temperature(info, len(query), query)
        new_documents, new_keys = document.detach(), info.document_keys
        if self.gather_across_devices and is_distributed():
            inputs.rows, inputs.offset = len(query), first_row(len(query))
            query, document = gather_vectors(query), gather_vectors(document)
            negatives = None if negatives is None else _gather_negatives(negatives)
            info = gather_info(info)
        if self.queue is not None and len(self.queue.vectors):
            inputs.queue, inputs.queue_keys = self.queue.vectors, self.queue.keys
        loss = contrast(
            query, document, negatives, settings=self.settings, info=info, inputs=inputs
        )
        if self.queue is not None and self.training and torch.is_grad_enabled():
            missing = torch.full((len(new_documents),), -1, device=document.device)
            self.queue.enqueue(new_documents, missing if new_keys is None else new_keys)
        self._note(inputs)
        return loss

    def _draw(self, device: torch.device) -> torch.Generator:
        """Return this batch's random stream; it goes on where a saved state left off."""
        generator = torch.Generator(device=device)
        generator.manual_seed(self.seed * 1_000_003 + int(self.batches_drawn))
        if self.training and torch.is_grad_enabled():
            self.batches_drawn += 1
        return generator

    def _loss_of(self, found: Columns) -> Tensor:
        self._add_masks(found)
        return self._contrast_columns(found.vectors)

    def _add_masks(self, found: Columns) -> None:
        if found.masks[0] is None:
            return
        masks = [m for m in found.masks if m is not None]
        negatives = None
        if len(masks) > 2:
            width = max(m.shape[1] for m in masks[2:])
            wide = [nn.functional.pad(m, [0, width - m.shape[1]]) for m in masks[2:]]
            negatives = torch.stack(wide, dim=1)
        self._info = replace(
            self._info, query_mask=masks[0], document_mask=masks[1], negatives_mask=negatives
        )

    def _contrast_columns(self, columns: list[Tensor]) -> Tensor:
        counts = [len(column) for column in columns]
        if len(set(counts)) > 1:
            raise ShapeError(f"columns have {counts} rows: every row needs one input per column.")
        negatives = None
        if len(columns) > 2:
            rest = columns[2:]
            if rest[0].ndim == 3:
                width = max(x.shape[1] for x in rest)
                rest = [nn.functional.pad(x, [0, 0, 0, width - x.shape[1]]) for x in rest]
            negatives = torch.stack(rest, dim=1)
        return self.contrast(columns[0], columns[1], negatives, self._info)

    def _progress(self) -> float:
        varies = any(
            schedule.kind != "constant"
            for schedule in (
                self.settings.negative_weights.strength, self.settings.sample_weights.exponent
            )
        )  # fmt: skip
        if self.progress is None and varies:
            warnings.warn(
                "this objective has a schedule, but was not told how far the training is: call "
                "set_progress, or add ObjectiveCallback to the trainer. It stays at the start.",
                DataWarning,
                stacklevel=2,
            )
            self.progress = 0.0
        return self.progress or 0.0

    def _inverse_temperature(self, info: BatchInfo, rows: int, like: Tensor) -> Tensor:
        options = self.settings.temperature
        if options.learned:
            with torch.no_grad():
                self.log_temperature.clamp_(math.log(options.lowest), math.log(options.highest))
        inverse = (-self.log_temperature).exp()
        dtype = torch.promote_types(like.dtype, torch.float32)
        inverse = inverse.to(device=like.device, dtype=dtype)
        if len(inverse) == 1:
            return inverse.expand(rows)
        sources = info.require("sources", "a temperature per source")
        if int(sources.max()) >= len(inverse) or int(sources.min()) < 0:
            raise InputError(
                f"a row is of source {int(sources.max())}, but there are {len(inverse)} "
                f"temperatures, for {list(self.sources)}."
            )
        return inverse[sources]

    def _with_guide(self, info: BatchInfo, plain: Sequence[dict[str, Any]]) -> BatchInfo:
        (guide,) = self._guide
        if self.settings.masks.guide is None:
            return info
        if guide is None:
            raise InputError(
                "settings.masks.guide is set, but the loss has no guide: give it a CachedGuide, "
                "or a model that tokenises like the one being trained."
            )
        if isinstance(guide, nn.Module):
            vectors = self._run_guide(guide, plain)
        else:
            keys = [info.require("query_keys", "a guide"), info.require("document_keys", "a guide")]
            if len(plain) > 2:
                keys += list(info.require("negative_keys", "a guide").unbind(dim=1))
            joined = guide.lookup(torch.cat(keys)).to(keys[0].device)
            vectors = list(torch.split(joined, [len(k) for k in keys]))
        rest = torch.stack(vectors[2:], dim=1) if len(vectors) > 2 else None
        return replace(
            info, guide_query=vectors[0], guide_document=vectors[1], guide_negatives=rest
        )

    def _run_guide(self, guide: nn.Module, plain: Sequence[dict[str, Any]]) -> list[Tensor]:
        ours, theirs = (getattr(m, "tokenizer", None) for m in (self.model, guide))
        if ours is not None and theirs is not None and ours.get_vocab() != theirs.get_vocab():
            raise InputError(
                "the guide has another vocabulary than the model: build a CachedGuide from the "
                "texts instead, which tokenises them with the guide's own tokenizer."
            )
        guide.eval()
        device = next(guide.parameters()).device
        with torch.no_grad():
            return [
                guide({k: v.to(device) if isinstance(v, Tensor) else v for k, v in f.items()})[
                    "sentence_embedding"
                ]
                for f in plain
            ]

    def _note(self, inputs: ContrastInputs) -> None:
        self.statistics = {k: float(v.detach()) for k, v in inputs.statistics.items()}
        self.statistics["temperature"] = float(self.log_temperature.detach().exp().mean())
        if self.statistics.get("alone", 0.0) > 0.5 and not self._warned_alone:
            self._warned_alone = True
            warnings.warn(
                f"{self.statistics['alone']:.0%} of the rows in a batch have nothing to be "
                "contrasted with: the masks are too strict, or the batch repeats the same texts.",
                DataWarning,
                stacklevel=2,
            )

    def get_config_dict(self) -> dict[str, Any]:
        """Return what the model card says about the loss."""
        return {
            **self.settings.to_dict(),
            "mini_batch_size": self.mini_batch_size,
            "mini_batch_tokens": self.mini_batch_tokens,
            "cache_gradients": self.cache_gradients,
            "gather_across_devices": self.gather_across_devices,
        }


def _resolve(
    settings: ObjectiveSettings | str | Mapping[str, Any] | None,
    temperature: float | None,
    scale: float | None,
) -> ObjectiveSettings:
    if isinstance(settings, str):
        settings = named_objective(settings)
    elif settings is None:
        settings = ObjectiveSettings()
    elif isinstance(settings, Mapping):
        settings = ObjectiveSettings.from_dict(settings)
    if temperature is not None and scale is not None:
        raise InputError("give temperature or scale (1 / temperature), not both.")
    if scale is not None:
        if not scale > 0:
            raise InputError(f"scale must be above 0, got {scale}.")
        temperature = 1 / scale
    if temperature is None:
        return settings
    changed = {**settings.temperature.to_dict(), "value": temperature}
    return settings.replace(temperature=changed)


def _gather_negatives(negatives: Tensor) -> Tensor:
    if negatives.ndim == 3:
        return gather_vectors(negatives)
    flat = gather_vectors(negatives.flatten(0, 1))
    return flat.view(-1, negatives.shape[1], *flat.shape[1:])
