"""Self Positioning: one model for tasks that disagree, by joint training or by merging."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from embedworks.data import RowSet
from embedworks.errors import DataWarning
from embedworks.merging import MERGE_METHODS
from embedworks.reproductions import (
    TASKS,
    Arm,
    Comparison,
    Conflict,
    Context,
    Outcome,
    Reproduction,
    TransformerStudent,
    Tuning,
    conflict_batches,
    real_conflict,
    train_student,
)

if TYPE_CHECKING:
    import torch

    from embedworks.merging import TaskVectors

__all__ = ["ENTRIES"]

_LENGTHS = (0.4, 0.6, 0.8, 1.0, 1.2, 1.5)
_TEMPERATURE = 0.05


class _TaskObjective:
    """The loss that a batch's task asks for; the same as a probe's."""

    def __init__(self) -> None:
        from embedworks.losses import ContrastiveLoss, objective

        self._plain = ContrastiveLoss(None, "infonce", temperature=_TEMPERATURE)
        masked = objective("infonce", masks={"same_class": True})
        self._classes = ContrastiveLoss(None, masked, temperature=_TEMPERATURE)

    def __call__(self, query: Any, document: Any, negatives: Any, info: Any) -> torch.Tensor:
        import torch

        if info.grades is not None:
            cosines = (query * document).sum(1) / _TEMPERATURE
            grades = info.grades[:, 0]
            differences = (cosines[:, None] - cosines[None, :])[grades[:, None] < grades[None, :]]
            zero = differences.new_zeros(1)
            found: torch.Tensor = torch.logsumexp(torch.cat([zero, differences]), dim=0)
            return found
        loss = self._plain if info.classes is None else self._classes
        return loss.contrast(query, document, None, info)


def _steps(settings: Mapping[str, Any]) -> dict[str, int]:
    """Return steps by task; joint training makes as many as the single models together."""
    per_step = settings["batch"]
    return {
        task: max(1, round(settings["epochs"] * size / per_step))
        for task, size in settings["sizes"].items()
    }


def _world(settings: Mapping[str, Any], seed: int, context: Context) -> Conflict:
    def make() -> Conflict:
        return real_conflict(
            sizes=settings["sizes"],
            probe=settings["probe"],
            questions=settings["questions"],
            documents=settings["documents"],
            seed=seed,
        )

    return context.once(("conflict", seed), make)


def _student(settings: Mapping[str, Any], context: Context) -> TransformerStudent:
    return TransformerStudent(
        settings["base"], max_length=settings["tokens"], device=context.device, dropout=False
    )


def _trained(
    task: str, settings: Mapping[str, Any], seed: int, context: Context
) -> TransformerStudent:
    """Return a student trained on one task, or on all; merges and singles share them."""

    def make() -> TransformerStudent:
        world = _world(settings, seed, context)
        student = _student(settings, context)
        steps = _steps(settings)
        count = steps[task] if task in TASKS else sum(steps.values())
        batches = conflict_batches(
            world,
            task,
            steps=count,
            batch_size=settings["batch"],
            seed=seed,
            with_probe=task not in TASKS,
        )
        train_student(
            student, batches, _TaskObjective(), steps=count, lr=context.tuned["lr"], seed=seed
        )
        return student

    key = ("trained", task, seed, context.tuned["lr"], settings["epochs"])
    return context.once(key, make)


def _parameters(student: TransformerStudent) -> dict[str, Any]:
    return dict(student.model.named_parameters())


def _vectors(by: str, settings: Mapping[str, Any], seed: int, context: Context) -> TaskVectors:
    from embedworks.merging import TaskVectors

    def make() -> TaskVectors:
        models = [_parameters(_trained(task, settings, seed, context)) for task in TASKS]
        return TaskVectors(_parameters(_student(settings, context)), models, by=by)

    return context.once(("vectors", by, seed, context.tuned["lr"]), make)


def _static(name: str, vectors: TaskVectors, student: TransformerStudent, **options: Any) -> None:
    """Put a merge by a method without data into the student, tensor by tensor."""
    import torch

    method = MERGE_METHODS[name]
    parameters = _parameters(student)
    with warnings.catch_warnings(), torch.no_grad():
        # Model Stock says of each tensor whose task vectors point apart that the base is kept.
        warnings.simplefilter("ignore", DataWarning)
        for key in vectors.names:
            base = vectors.base[key].numpy()
            tensors = [base + own[key].numpy() for own in vectors.vectors]
            given = base if method.takes_base else None
            merged = method(tensors, base=given, key=key, **options)
            parameters[key].copy_(torch.from_numpy(np.ascontiguousarray(merged)))


def _along(name: str, vectors: TaskVectors, settings: Mapping[str, Any]) -> list[list[float]]:
    """Return the coefficients that a search tries: one direction at several lengths, or a grid."""
    from embedworks.merging import chain_coefficients, simplex_grid

    count = len(vectors)
    if name == "grid":
        return list(simplex_grid(count, parts=settings["grid"], lengths=(0.6, 1.0, 1.4)))
    direction = [1 / count] * count
    if name == "slerp":
        import torch

        direction = chain_coefficients(vectors.gram.sum(0), torch.ones(count).double()).tolist()
    return [[length * one for one in direction] for length in _LENGTHS]


def _merged(
    arm: Arm, settings: Mapping[str, Any], seed: int, context: Context
) -> tuple[TransformerStudent, dict[str, float]]:
    """Return the merged student, and what a search says of itself."""
    from embedworks.merging import CoefficientSearch, Probe, search_coefficients

    student = _student(settings, context)
    rows = _world(settings, seed, context).probe
    if "probe" in arm.settings:
        rows = RowSet(row for row in rows if row.source == arm["probe"])
    search = arm.settings.get("search", {})
    vectors = _vectors(search.get("by", "all"), settings, seed, context)
    if arm["kind"] == "static":
        _static(arm["method"], vectors, student, **arm.settings.get("options", {}))
        return student, {}
    chosen = CoefficientSearch.from_dict(
        {**settings["search"], **search, "max_tokens": settings["tokens"], "seed": seed}
    )
    probe = Probe(
        student.model,
        rows,
        batch_size=chosen.batch_size,
        held_out=chosen.held_out,
        temperature=_TEMPERATURE,
        max_tokens=settings["tokens"],
        seed=seed,
    )
    grid = _along(arm["along"], vectors, settings) if "along" in arm.settings else None
    found = search_coefficients(
        vectors, student.model, probe, chosen, grid=grid, show_progress=False
    )
    length = float(found.coefficients.sum(0).mean())
    return student, {"length": length, "search seconds": found.seconds}


def _run(arm: Arm, seed: int, settings: Mapping[str, Any], context: Context) -> Outcome:
    world = _world(settings, seed, context)
    more: dict[str, float] = {}
    if arm["kind"] == "base":
        student = _student(settings, context)
    elif arm["kind"] == "train":
        student = _trained(arm["task"], settings, seed, context)
    else:
        student, more = _merged(arm, settings, seed, context)
    found = world.outcome(student, context.part)
    return found | Outcome({"worst task": _worst(found, settings, seed, context), **more})


def _worst(found: Outcome, settings: Mapping[str, Any], seed: int, context: Context) -> float:
    """Return the task farthest behind the single model of that task, as a difference."""

    def single(task: str) -> float:
        def make() -> float:
            world = _world(settings, seed, context)
            student = _trained(task, settings, seed, context)
            return world.outcome(student, context.part).metrics[task]

        key = ("single", task, seed, context.part, context.tuned["lr"])
        return context.once(key, make)

    return min(found.metrics[task] - single(task) for task in TASKS)


_AS = {"tune_as": "soup"}
_OURS = {"form": "free", "by": "layer", "goal": "relative", "mu": 0.0}
_PUBLISHED = {"form": "slerp", "by": "all", "goal": "mean", "mu": 0.01}

ENTRIES = (
    Reproduction(
        slug="self-positioning",
        paper="Improving General Text Embedding Model: Tackling Task Conflict and Data Imbalance "
        "through Model Merging",
        arxiv="2410.15035",
        claim="Where tasks disagree and their data are of different size, merging the models of "
        "single tasks with coefficients that are searched on a small probe set is better than "
        "joint training, and than a merge with even weights.",
        falsifier="Searched weights (Self Positioning) are not better on the average of the tasks "
        "than even weights whose length is searched on the same rows, or than joint training.",
        arms=(
            Arm("base", "MiniLM as it is", {"kind": "base"}, **_AS),
            *(
                Arm(f"single {task}", f"trained on {task} alone", {"kind": "train", "task": task},
                    **_AS)
                for task in TASKS
            ),
            Arm("joint", "trained on all rows, batches by size",
                {"kind": "train", "task": "joint"}),
            Arm("resampled", "trained on all, as many batches of each task",
                {"kind": "train", "task": "even"}),
            Arm("soup", "mean of the three", {"kind": "static", "method": "linear"}),
            Arm("ties", "TIES, density 0.2", {"kind": "static", "method": "ties"}, **_AS),
            Arm("karcher", "mean on the sphere of task vectors",
                {"kind": "static", "method": "karcher"}, **_AS),
            Arm("model stock", "as near to the base as the angles say",
                {"kind": "static", "method": "model_stock"}, **_AS),
            Arm("task arithmetic", "even weights, length from the probe",
                {"kind": "search", "along": "even"}, **_AS),
            Arm("even slerp", "a chain of SLERPs with even weights, length from the probe",
                {"kind": "search", "along": "slerp"}, **_AS),
            Arm("grid", "weights and length from a grid", {"kind": "search", "along": "grid"},
                **_AS),
            Arm("self positioning", "one weight per model and one length, by gradient",
                {"kind": "search", "search": _PUBLISHED}, **_AS),
            Arm("no penalty", "Self Positioning without the penalty on length",
                {"kind": "search", "search": {**_PUBLISHED, "mu": 0.0}}, **_AS),
            Arm("one task's probe", "Self Positioning that sees probe rows of similarity alone",
                {"kind": "search", "search": _PUBLISHED, "probe": "similarity"}, **_AS),
            Arm("layers", "a coefficient per model and layer, tasks' losses made comparable",
                {"kind": "search", "search": _OURS}, **_AS),
            Arm("layers, worst", "the same for the task that lags most",
                {"kind": "search", "search": {**_OURS, "goal": "worst"}}, **_AS),
        ),
        decisive=Comparison.between(
            "self positioning", "even slerp", "average", name="searched over even weights"
        ),
        conditions=(
            Comparison.between("self positioning", "joint", "average", name="merging over joint"),
            Comparison.between(
                "self positioning", "resampled", "average", name="merging over resampling"
            ),
        ),
        secondary=(
            Comparison.between("joint", "base", "average", name="joint training pays"),
            *(
                Comparison.between(
                    "joint", f"single {task}", task, name=f"conflict in {task}", claim="less"
                )
                for task in TASKS
            ),
            Comparison.between("self positioning", "soup", "average"),
            Comparison.between("self positioning", "grid", "average"),
            Comparison.between("self positioning", "no penalty", "average"),
            Comparison.between("self positioning", "one task's probe", "average"),
            *(
                Comparison.between("layers", other, "average")
                for other in (
                    "soup", "ties", "karcher", "model stock", "task arithmetic", "even slerp",
                    "grid", "self positioning", "joint", "resampled",
                )
            ),
            *(
                Comparison.between(ours, other, "worst task")
                for ours in ("layers", "layers, worst")
                for other in ("self positioning", "soup", "joint", "resampled")
            ),
        ),
        run=_run,
        seeds=3,
        tuning=Tuning({"lr": (3e-5, 1e-4)}, metric="average"),
        scales={
            "mini": {
                "base": "minilm",
                "sizes": {"retrieval": 2400, "similarity": 800, "classes": 240},
                "probe": 128,
                "questions": 200,
                "documents": 400,
                "tokens": 32,
                "batch": 32,
                "epochs": 1.0,
                "grid": 4,
                "search": {
                    "steps": 60, "batch_size": 16, "learning_rate": 0.05, "held_out": 0.25,
                    "check_every": 10, "patience": 3,
                },
            },
            "gpu": {
                "base": "minilm",
                "sizes": {"retrieval": 32000, "similarity": 4000, "classes": 1000},
                "probe": 512,
                "questions": 500,
                "documents": 2000,
                "tokens": 64,
                "batch": 64,
                "epochs": 2.0,
                "grid": 6,
                "search": {
                    "steps": 200, "batch_size": 32, "learning_rate": 0.02, "held_out": 0.25,
                    "check_every": 10, "patience": 5,
                },
            },
        },
        setup="Three tasks for all-MiniLM-L6-v2: find the words of a definition (WordNet, "
        "nDCG@10), similarity of sentences (STS benchmark, Spearman) and praise against blame "
        "(5-NN accuracy), ten times as many rows of the first as of the last. Sentences that "
        "praise and blame one thing are near for the second task and must be far for the third: "
        "the planted conflict.\n\n"
        "The single models start from MiniLM and see each row of their task once; joint training "
        "sees all rows once in as many steps as the three together, each batch of one task. "
        "InfoNCE (rows of one class are no negatives of one another) and CoSENT at temperature "
        "0.05, AdamW, all weights trained, no dropout, the learning rate the better of two on "
        "validation for joint, resampled and merged models each. 128 probe rows of each task are "
        "kept from the single models; searches use three quarters of them and stop by the rest; "
        "joint training trains on them as on any others.",
        limits="The public figures are on MTEB with larger models and far more data; neither "
        "their backbones nor their tables could be found. The learning rate and the stopping "
        "rule of the search are ours. `worst task` is the smallest difference to the single "
        "model of a task. Spearman's items take the ranks as given when they are resampled.",
    ),
)  # fmt: skip
