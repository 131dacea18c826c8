"""Train a static token table: rows of numbers, one per token, summed over a text.

A small deterministic torch loop, shared by domain adaptation and by the recipe of the bundled
model. Knows token ids and vectors; knows nothing about text, tokenisers, files of documents or
where pairs come from.

A text's vector is the direction of the sum of its tokens' rows, so a row's length is the token's
weight and needs no parameter of its own. Only the tokens that occur in the training data are
touched: the table is compacted to them, which keeps the optimiser's step small.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from embedworks._core.files import atomic_path, sha256_of_text
from embedworks._core.validation import check_vectors
from embedworks.errors import (
    EmptyInputError,
    FormatError,
    InputError,
    NonFiniteError,
    NotFoundError,
    ShapeError,
)
from embedworks.losses import (
    BatchInfo,
    ObjectiveSettings,
    TeacherSettings,
    TemperatureSettings,
    contrast,
)
from embedworks.training._static_batches import BatchOrder, RaggedIds, StaticTrainingSettings

__all__ = [
    "BatchOrder",
    "ContrastiveObjective",
    "Objective",
    "RaggedIds",
    "StaticTableTrainer",
    "StaticTrainingSettings",
    "TableView",
    "TrainingLog",
]

CHECKPOINT_NAME = "static-table-{step:08d}.safetensors"
_FORMAT = "1"


class TableView:
    """The trainable rows, and how to turn texts into vectors with them.

    Args:
        rows: float tensor (A, D), the active tokens' rows.
        slots: int64 array (V,), token id -> row, -1 for tokens that are not active.
        weights: float tensor (A,), a fixed factor per row; None for 1.
    """

    def __init__(self, rows: Tensor, slots: np.ndarray, weights: Tensor | None = None) -> None:
        self.rows = rows
        self._slots = slots
        self._weights = torch.ones(len(rows)) if weights is None else weights

    def pool(self, texts: RaggedIds) -> Tensor:
        """Return the weighted sum of each text's rows, float (B, D), not normalised."""
        places = torch.from_numpy(self._slots[texts.ids])
        return F.embedding_bag(
            places,
            self.rows,
            torch.from_numpy(texts.offsets[:-1]),
            mode="sum",
            per_sample_weights=self._weights[places],
        )


class Objective(Protocol):
    """Something that gives a loss for a step. Must depend on its arguments only."""

    def tokens(self) -> np.ndarray:
        """Return the distinct token ids its texts use."""

    def loss(self, view: TableView, step: int, settings: StaticTrainingSettings) -> Tensor:
        """Return the scalar loss of this step's batch."""


@dataclass
class ContrastiveObjective:
    """In-batch InfoNCE over (anchor, positive) pairs, with optional hard negatives.

    Candidates equal to the row's own positive, or whose anchor equals the row's anchor, are not
    used as negatives.

    Attributes:
        anchors: N texts.
        positives: N texts.
        negatives: N * K texts, row i's are ``i * K`` to ``(i + 1) * K - 1``; an empty text means
            "no such negative". None for in-batch negatives only.
        weights: (N,) weight per pair, 0 or greater, or None.
        teacher_scores: (N, 1 + K) cosines by a teacher for the positive and the hard negatives;
            adds the KL divergence from the teacher's distribution over them. None for none.
        scale: Factor on the loss when several objectives are summed.
        batch_size: Overrides the settings' value when given.
        name: Names the random stream, so that objectives are shuffled independently.
        clusters: (N,) cluster of each pair, to fill batches with related pairs; see `BatchOrder`.
    """

    anchors: RaggedIds
    positives: RaggedIds
    negatives: RaggedIds | None = None
    weights: np.ndarray | None = None
    teacher_scores: np.ndarray | None = None
    scale: float = 1.0
    batch_size: int | None = None
    name: str = "pairs"
    clusters: np.ndarray | None = None
    _keys: tuple[np.ndarray, np.ndarray] = field(init=False, repr=False)
    _per_row: int = field(init=False, repr=False, default=0)
    _order: BatchOrder | None = field(init=False, repr=False, default=None)

    def __post_init__(self) -> None:
        count = len(self.anchors)
        if count != len(self.positives):
            raise ShapeError(f"{count} anchors but {len(self.positives)} positives.")
        if count < 2:
            raise EmptyInputError(f"{count} training pairs: at least 2 are needed.")
        for side, texts in (("anchor", self.anchors), ("positive", self.positives)):
            empty = np.flatnonzero(texts.lengths == 0)
            if len(empty):
                raise EmptyInputError(
                    f"{len(empty)} of {count} {side}s have no tokens, the first is row {empty[0]}: "
                    "drop these pairs first."
                )
        if self.negatives is not None:
            if len(self.negatives) == 0 or len(self.negatives) % count:
                raise ShapeError(
                    f"{len(self.negatives)} negatives for {count} pairs: the same number for each "
                    "pair is needed (an empty text stands for none)."
                )
            self._per_row = len(self.negatives) // count
        if self.weights is not None:
            self.weights = np.asarray(self.weights, dtype=np.float32)
            if self.weights.shape != (count,):
                raise ShapeError(f"weights must be ({count},), got {self.weights.shape}.")
            if not np.isfinite(self.weights).all() or (self.weights < 0).any():
                raise InputError("weights must be finite and 0 or greater.")
        if self.teacher_scores is not None:
            self.teacher_scores = np.asarray(self.teacher_scores, dtype=np.float32)
            if not self._per_row or self.teacher_scores.shape != (count, 1 + self._per_row):
                raise ShapeError(
                    f"teacher_scores must be ({count}, 1 + {self._per_row} negatives), got "
                    f"{self.teacher_scores.shape}."
                )
        both = RaggedIds.concatenate(
            [self.anchors, self.positives, *([self.negatives] if self.negatives else [])]
        ).text_keys()
        self._keys = (both[:count], both[count:])

    def tokens(self) -> np.ndarray:
        """Return the distinct token ids its texts use."""
        parts = [self.anchors.ids, self.positives.ids]
        if self.negatives is not None:
            parts.append(self.negatives.ids)
        return np.unique(np.concatenate(parts))

    def loss(self, view: TableView, step: int, settings: StaticTrainingSettings) -> Tensor:
        """Return the scalar loss of this step's batch."""
        if self._order is None:
            size = self.batch_size or settings.batch_size
            self._order = BatchOrder(
                len(self.anchors), size, name=self.name, clusters=self.clusters
            )
        rows = self._order.rows(step, seed=settings.seed)
        anchor_keys, other_keys = self._keys
        weights = None
        if self.weights is not None:
            if not self.weights[rows].any():
                return view.rows.sum() * 0.0
            weights = torch.from_numpy(self.weights[rows])
        info = BatchInfo(
            query_keys=torch.from_numpy(anchor_keys[rows]),
            document_keys=torch.from_numpy(other_keys[rows]),
            weights=weights,
        )
        query = view.pool(self.anchors.take(rows))
        document = view.pool(self.positives.take(rows))
        hard: Tensor | None = None
        if self.negatives is not None:
            places = (rows[:, None] * self._per_row + np.arange(self._per_row)).ravel()
            texts = self.negatives.take(places)
            hard = view.pool(texts).view(len(rows), self._per_row, -1)
            keys = other_keys[len(self.anchors) :][places].reshape(len(rows), -1)
            present = (texts.lengths > 0).reshape(len(rows), -1)
            info = replace(
                info,
                negative_keys=torch.from_numpy(keys),
                negatives_present=torch.from_numpy(present),
            )
        if self.teacher_scores is not None:
            info = replace(info, teacher_scores=torch.from_numpy(self.teacher_scores[rows]))
        loss = contrast(query, document, hard, settings=self._composed(settings), info=info)
        return self.scale * loss

    def _composed(self, settings: StaticTrainingSettings) -> ObjectiveSettings:
        """Return the objective: the row's own hard negatives, and the batch both ways."""
        teacher = TeacherSettings()
        if self.teacher_scores is not None:
            teacher = TeacherSettings(weight=1.0, temperature=settings.temperature)
        return ObjectiveSettings(
            candidates=("documents", "own_negatives"),
            directions=("query_to_document", "document_to_query")
            if settings.symmetric
            else ("query_to_document",),
            temperature=TemperatureSettings(value=settings.temperature),
            teacher=teacher,
        )


@dataclass(frozen=True)
class TrainingLog:
    """What a training run did.

    Attributes:
        first_step: Step it started from; above 0 after a resume.
        losses: Loss of every step, in order.
        seconds: Wall clock.
        active_tokens: Tokens that occur in the training data.
    """

    first_step: int
    losses: tuple[float, ...]
    seconds: float
    active_tokens: int


class StaticTableTrainer:
    """Trains a token table with Adam over the rows that occur in the data.

    Each row is split into its starting length, which stays fixed as a factor, and a vector of
    length 1, which is trained. Adam moves every number by about the learning rate; without the
    split, that same step would drown the short rows of frequent words and hardly move the long
    rows of rare ones.

    Args:
        table: (V, D) float32 token table; not changed.
        settings: See `StaticTrainingSettings`.

    Raises:
        ShapeError, NonFiniteError: When the table is not a finite matrix.

    Example:
        >>> table = np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32)
        >>> trainer = StaticTableTrainer(table, StaticTrainingSettings(learning_rate=0.05))
        >>> anchors = RaggedIds.from_lists([[i] for i in range(20)])
        >>> positives = RaggedIds.from_lists([[i + 20] for i in range(20)])
        >>> log = trainer.fit_contrastive(anchors, positives, steps=30)
        >>> log.losses[-1] < log.losses[0], trainer.table.shape
        (True, (50, 8))
    """

    def __init__(self, table: np.ndarray, settings: StaticTrainingSettings | None = None) -> None:
        base = check_vectors(table, name="table")
        self.settings = settings or StaticTrainingSettings()
        lengths = np.linalg.norm(base, axis=1)
        used = lengths[lengths > 0]
        if not len(used):
            raise InputError("every row of the table is zero: there is nothing to train from.")
        lengths = np.where(lengths > 0, lengths, used.min())
        self._lengths = (lengths / np.median(used)).astype(np.float32)
        self._scale = np.float32(np.median(used))
        self._base = base / lengths[:, None].astype(np.float32)
        self._current = self._base.copy()
        self._state: dict[str, Tensor] = {}

    @property
    def table(self) -> np.ndarray:
        """The table as trained so far, (V, D) float32, a copy."""
        return self._current * (self._lengths * self._scale)[:, None]

    def fit_contrastive(
        self,
        anchors: RaggedIds,
        positives: RaggedIds,
        *,
        steps: int,
        negatives: RaggedIds | None = None,
        weights: np.ndarray | None = None,
        teacher_scores: np.ndarray | None = None,
        start_step: int = 0,
        on_step: Callable[[int, float], None] | None = None,
        checkpoint_every: int | None = None,
        checkpoint_dir: Path | None = None,
    ) -> TrainingLog:
        """Train on (anchor, positive) pairs; see `ContrastiveObjective` and `fit`."""
        objective = ContrastiveObjective(
            anchors, positives, negatives, weights=weights, teacher_scores=teacher_scores
        )
        return self.fit(
            [objective],
            steps=steps,
            start_step=start_step,
            on_step=on_step,
            checkpoint_every=checkpoint_every,
            checkpoint_dir=checkpoint_dir,
        )

    def fit(
        self,
        objectives: Sequence[Objective],
        *,
        steps: int,
        start_step: int = 0,
        on_step: Callable[[int, float], None] | None = None,
        checkpoint_every: int | None = None,
        checkpoint_dir: Path | None = None,
    ) -> TrainingLog:
        """Minimise the sum of objectives.

        Args:
            objectives: One or more; their losses are added in each step.
            steps: Length of the whole schedule, counted from step 0.
            start_step: 0 for a fresh run, else the value `resume` returned.
            on_step: Called with (step, loss) after each step. An exception from it ends the
                training; the table keeps the steps done so far.
            checkpoint_every: Save a checkpoint after every so many steps.
            checkpoint_dir: Where to save them.

        Raises:
            InputError: When the steps do not make sense.
            FormatError: When the resumed checkpoint was made from other data.
            NonFiniteError: When the loss is NaN or infinite.
        """
        if not objectives:
            raise EmptyInputError("fit needs at least one objective.")
        if steps < 1 or not 0 <= start_step <= steps:
            raise InputError(f"need 0 <= start_step <= steps, got {start_step} and {steps}.")
        if (checkpoint_every is None) != (checkpoint_dir is None):
            raise InputError("give both checkpoint_every and checkpoint_dir, or neither.")
        active = np.unique(np.concatenate([objective.tokens() for objective in objectives]))
        if len(active) and (active[0] < 0 or active[-1] >= len(self._base)):
            raise InputError(
                f"token ids must be in [0, {len(self._base) - 1}], got {active[0]} to {active[-1]}."
            )
        threads_before = torch.get_num_threads()
        torch.set_num_threads(self.settings.threads)
        view, optimiser = self._begin(active, resumed=start_step > 0)
        base = torch.from_numpy(self._base[active])
        losses: list[float] = []
        started = time.perf_counter()
        try:
            for step in range(start_step, steps):
                rate = self.settings.rate(step, steps)
                losses.append(self._step(objectives, view, optimiser, base, step, rate))
                done = step + 1
                if checkpoint_every and checkpoint_dir and done % checkpoint_every == 0:
                    self._end(active, view, optimiser)
                    self.save_checkpoint(checkpoint_dir, done)
                if on_step is not None:
                    on_step(step, losses[-1])
        finally:
            torch.set_num_threads(threads_before)
            self._end(active, view, optimiser)
        seconds = time.perf_counter() - started
        return TrainingLog(start_step, tuple(losses), seconds, len(active))

    def _step(
        self,
        objectives: Sequence[Objective],
        view: TableView,
        optimiser: torch.optim.Optimizer,
        base: Tensor,
        step: int,
        rate: float,
    ) -> float:
        optimiser.param_groups[0]["lr"] = rate
        optimiser.zero_grad(set_to_none=True)
        loss = torch.stack([o.loss(view, step, self.settings) for o in objectives]).sum()
        value = float(loss.detach())
        if not np.isfinite(value):
            raise NonFiniteError(
                f"the loss is {value} at step {step}: lower learning_rate "
                f"(now {self.settings.learning_rate:g}) or raise temperature."
            )
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        if self.settings.anchor_strength:
            with torch.no_grad():
                view.rows.lerp_(base, min(1.0, rate * self.settings.anchor_strength))
        return value

    def _begin(self, active: np.ndarray, *, resumed: bool) -> tuple[TableView, torch.optim.Adam]:
        rows = torch.from_numpy(self._current[active]).requires_grad_()
        optimiser = torch.optim.Adam([rows], lr=1.0, betas=(0.9, 0.99), fused=True)
        if resumed:
            known = self._state.get("active")
            if known is None or not np.array_equal(known.numpy(), active):
                raise FormatError(
                    "the checkpoint was made from other training data (its tokens differ): "
                    "start again, or resume with the data of the first run."
                )
            optimiser.state[rows] = {
                name: self._state[name].clone() for name in ("step", "exp_avg", "exp_avg_sq")
            }
        slots = np.full(len(self._base), -1, dtype=np.int64)
        slots[active] = np.arange(len(active))
        return TableView(rows, slots, torch.from_numpy(self._lengths[active])), optimiser

    def _end(self, active: np.ndarray, view: TableView, optimiser: torch.optim.Adam) -> None:
        self._current[active] = view.rows.detach().numpy()
        kept = {name: tensor.clone() for name, tensor in optimiser.state[view.rows].items()}
        self._state = {"active": torch.from_numpy(active.astype(np.int64)), **kept}

    def _fingerprint(self) -> str:
        first = np.ascontiguousarray(self._base[:64]).tobytes().hex()
        return sha256_of_text(repr(asdict(self.settings)), repr(self._base.shape), first)

    def save_checkpoint(self, folder: Path, step: int) -> Path:
        """Write the table and the optimiser's state after ``step`` steps; return the file.

        The file appears complete or not at all. Older checkpoints in the folder are removed
        afterwards.
        """
        folder = Path(folder)
        target = folder / CHECKPOINT_NAME.format(step=step)
        tensors = {"current": torch.from_numpy(self._current), **self._state}
        metadata = {"format": _FORMAT, "step": str(step), "made_for": self._fingerprint()}
        with atomic_path(target) as temporary:
            save_file({k: v.contiguous() for k, v in tensors.items()}, temporary, metadata)
        for older in sorted(folder.glob(CHECKPOINT_NAME.format(step=0).replace("0" * 8, "*"))):
            if older != target:
                older.unlink(missing_ok=True)
        return target

    def resume(self, folder: Path) -> int:
        """Load the newest checkpoint of a folder and return the step to continue from.

        Raises:
            NotFoundError: When the folder has no checkpoint.
            FormatError: When the file is damaged, or was made with another table or settings.
        """
        pattern = CHECKPOINT_NAME.format(step=0).replace("0" * 8, "*")
        found = sorted(Path(folder).glob(pattern))
        if not found:
            raise NotFoundError(f"{folder} has no checkpoint ({pattern}) to resume from.")
        try:
            with safe_open(found[-1], framework="pt") as handle:
                metadata = handle.metadata() or {}
                tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise FormatError(
                f"{found[-1]} cannot be read ({error}): delete it and start again."
            ) from error
        expected = {"format": _FORMAT, "made_for": self._fingerprint()}
        if {name: metadata.get(name) for name in expected} != expected:
            raise FormatError(
                f"{found[-1]} was made with another table, other settings or another version: "
                "resume with the values of the first run, or start again."
            )
        self._current = tensors.pop("current").numpy()
        self._state = tensors
        return int(metadata["step"])
