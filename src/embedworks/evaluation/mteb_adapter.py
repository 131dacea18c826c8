"""Both ways between this package and mteb: our systems in its tasks, its tasks for our systems.

`to_mteb` gives a system the protocol that mteb (2.x) calls, so that all of its tasks run, by its
own rules. `from_mteb` makes a task here of the data of one of its tasks: the figures then come
with intervals, failures and cost. Its data comes from a hub.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from embedworks._core.extras import require_extra
from embedworks._core.validation import normalize_rows
from embedworks.errors import InputError, OfflineError, ShapeError, UnknownNameError
from embedworks.evaluation.kinds.retrieval import DEFAULT_METRICS, RetrievalTask
from embedworks.evaluation.kinds.sts import StsTask
from embedworks.evaluation.runner import file_name
from embedworks.evaluation.statistics.metrics import parse_metric
from embedworks.evaluation.systems import Ranks, System

if TYPE_CHECKING:
    from embedworks.evaluation.tasks import Task
    from embedworks.models.vectors import Role

__all__ = ["from_mteb", "to_mteb"]

_RETRIEVAL_TYPES = ("Retrieval", "Reranking")


def to_mteb(system: Ranks) -> Any:
    """Return a system as a model that mteb evaluates.

    Systems that encode follow mteb's encoder protocol: a query or document is encoded in that
    role, and the task's prompt is the instruction, spelled by the system's template. Systems that
    only rank (BM25) follow its search protocol and run retrieval and reranking tasks.

    Args:
        system: Any system.

    Returns:
        An object for ``mteb.evaluate(model, tasks)``.

    Raises:
        MissingExtraError: When mteb is not installed.

    Example:
        >>> from embedworks.evaluation import LexicalSystem
        >>> import importlib.util
        >>> if importlib.util.find_spec("mteb") is not None:
        ...     assert to_mteb(LexicalSystem()).mteb_model_meta.name == "embedworks/bm25"
    """
    require_extra("mteb", extra="eval", purpose="evaluate a system with mteb")
    return _Encoder(system) if isinstance(system, System) else _Searcher(system)


def from_mteb(
    task: Any, *, split: str | None = None, subset: str | None = None, name: str | None = None
) -> Task:
    """Return one of mteb's tasks as a task here, on the same data.

    Retrieval and reranking, STS, pair classification and classification of texts are taken over.
    Retrieval figures equal mteb's; classification uses its number of texts of each label and of
    draws, but draws others. Other kinds run through mteb itself: see `to_mteb`.

    Args:
        task: Name of the task, such as ``"SciFact"``, or the task itself.
        split: Which split; by default the first one that mteb evaluates.
        subset: Which subset, such as a language; needed where there are several.
        name: Name here; by default mteb's, with the subset.

    Raises:
        MissingExtraError: When mteb is not installed.
        UnknownNameError: When mteb has no such task.
        OfflineError: When its data cannot be had: it comes from a hub.
        InputError: When it has no such split or subset, or is of a kind that is not taken over.
    """
    mteb = require_extra("mteb", extra="eval", purpose="read a task of mteb")
    if isinstance(task, str):
        try:
            task = mteb.get_task(task)
        except (KeyError, ValueError) as error:
            raise UnknownNameError(f"mteb has no task {task!r}. {error.args[0]}") from error
    about = task.metadata
    if list(about.modalities) != ["text"]:
        raise InputError(f"{about.name} is not of texts alone, but of {list(about.modalities)}.")
    make = _MAKERS.get(about.type)
    if make is None:
        raise InputError(
            f"{about.name} is of the type {about.type}; taken over are {', '.join(_MAKERS)}. Run "
            "it by mteb's own rules: mteb.evaluate(to_mteb(system), task)."
        )
    _load(task)
    chosen = _subset(task, subset)
    wanted = split or next(iter(about.eval_splits))
    parts = task.dataset.get(chosen, task.dataset) if chosen == "default" else task.dataset[chosen]
    if wanted not in parts:
        raise InputError(
            f"{about.name} has no split {wanted!r}. It has {', '.join(map(repr, parts))}."
        )
    own = name or (about.name if chosen == "default" else f"{about.name}-{chosen}")
    return make(task, parts, wanted, own)


class _Model:
    """What mteb asks of every model."""

    def __init__(self, system: Ranks) -> None:
        self.system = system

    @property
    def mteb_model_meta(self) -> Any:
        """Metadata under which mteb keeps results."""
        meta = require_extra("mteb.models", extra="eval", purpose="describe a model").ModelMeta
        facts = {
            "name": f"embedworks/{file_name(self.system.name)}",
            "revision": self.system.fingerprint,
            "modalities": ["text"],
        }
        return meta.create_empty(overwrites=facts)


class _Encoder(_Model):
    """A system that encodes, in mteb's encoder protocol."""

    system: System

    def encode(
        self,
        inputs: Iterable[Mapping[str, Any]],
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: Any = None,
        **_: Any,
    ) -> np.ndarray:
        """Return vectors of the texts of all batches, float32 (N, D)."""
        texts: list[str] = []
        for batch in inputs:
            if "text" not in batch:
                raise InputError(
                    f"{self.system.name} encodes texts; {task_metadata.name} gives "
                    f"{', '.join(batch)}."
                )
            texts.extend(batch["text"])
        side = getattr(prompt_type, "value", prompt_type)
        role: Role | None = side if side in ("query", "document") else None
        instruction = _prompt(task_metadata, side)
        return self.system.encode(texts, role=role, instruction=instruction)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Return the similarity of every vector with every other, a tensor (N, M)."""
        one, two = self._vectors(embeddings1), self._vectors(embeddings2)
        return _tensor(one @ two.T)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Return the similarity of vectors at the same place, a tensor (N,)."""
        one, two = self._vectors(embeddings1), self._vectors(embeddings2)
        if len(one) != len(two):
            raise ShapeError(f"{len(one)} and {len(two)} vectors cannot be compared in pairs.")
        return _tensor(np.einsum("nd,nd->n", one, two))

    def _vectors(self, values: Any) -> np.ndarray:
        array = np.atleast_2d(np.asarray(values, dtype=np.float32))
        if getattr(self.system, "similarity", "cosine") == "dot":
            return array
        return normalize_rows(array)


class _Searcher(_Model):
    """A system that only ranks, in mteb's search protocol."""

    def index(self, corpus: Iterable[Mapping[str, Any]], **_: Any) -> None:
        """Keep the documents."""
        self._corpus = {str(row["id"]): _document(row) for row in corpus}

    def search(
        self,
        queries: Iterable[Mapping[str, Any]],
        *,
        top_k: int,
        top_ranked: Mapping[str, Sequence[str]] | None = None,
        **_: Any,
    ) -> dict[str, dict[str, float]]:
        """Return query id -> document id -> score."""
        asked = {str(row["id"]): _query(row) for row in queries}
        return self.system.search(asked, self._corpus, k=top_k, candidates=top_ranked)


def _tensor(values: np.ndarray) -> Any:
    torch = require_extra("torch", extra="train", purpose="compare vectors for mteb")
    return torch.from_numpy(np.ascontiguousarray(values))


def _prompt(metadata: Any, side: Any) -> str | None:
    """Return the task's prompt for a side; one without sides is for all but documents."""
    prompt = metadata.prompt
    if isinstance(prompt, Mapping):
        return prompt.get(side)
    return None if side == "document" else prompt


def _load(task: Any) -> None:
    if task.data_loaded:
        return
    failures: list[type[Exception]] = [OSError, RuntimeError, ValueError]
    if importlib.util.find_spec("httpx") is not None:  # newer hub libraries raise its errors
        failures.append(importlib.import_module("httpx").HTTPError)
    try:
        task.load_data()
    except tuple(failures) as error:
        short = str(error).strip().split("\n")[0][:200]
        raise OfflineError(
            f"The data of {task.metadata.name} is not in the local cache and could not be had from "
            f"the hub ({type(error).__name__}: {short}). Go online once, point HF_HOME to a cache "
            "that has it, or use a suite, which needs no hub: embedworks list suites."
        ) from error


def _subset(task: Any, subset: str | None) -> str:
    known = [str(name) for name in task.hf_subsets or task.metadata.hf_subsets]
    if subset is None and len(known) == 1:
        return known[0]
    if subset not in known:
        asked = "needs a subset" if subset is None else f"has no subset {subset!r}"
        raise InputError(f"{task.metadata.name} {asked}. It has {', '.join(map(repr, known))}.")
    return str(subset)


def _retrieval(task: Any, parts: Mapping[str, Any], split: str, name: str) -> Task:
    for flag in ("ignore_identical_ids", "skip_first_result"):
        if getattr(task, flag, False):
            raise InputError(
                f"{name} is scored with {flag}, which only mteb does: "
                "mteb.evaluate(to_mteb(system), task)."
            )
    data = parts[split]
    main = task.metadata.main_score.replace("_at_", "@")
    try:
        labels = dict.fromkeys([parse_metric(main).label, *DEFAULT_METRICS])
    except InputError:
        labels = dict.fromkeys(DEFAULT_METRICS)
    ranked = data.get("top_ranked")
    return RetrievalTask(
        name,
        {str(row["id"]): _query(row) for row in data["queries"]},
        {str(row["id"]): _document(row) for row in data["corpus"]},
        {
            str(query): {str(document): int(value) for document, value in judged.items()}
            for query, judged in data["relevant_docs"].items()
        },
        metrics=tuple(labels),
        instruction=_prompt(task.metadata, "query"),
        candidates=None if ranked is None else {str(q): list(own) for q, own in ranked.items()},
    )


def _query(row: Mapping[str, Any]) -> str:
    if not isinstance(row["text"], str):
        raise InputError(f"Query {row['id']!r} is a conversation, not a text.")
    return " ".join(part for part in (row["text"], row.get("instruction")) if part)


def _document(row: Mapping[str, Any]) -> str:
    return " ".join(part for part in (row.get("title"), row.get("text")) if part).strip()


def _sts(task: Any, parts: Mapping[str, Any], split: str, name: str) -> Task:
    one, two = task.column_names
    rows = parts[split]
    pairs = list(zip(rows[one], rows[two], map(float, rows["score"]), strict=True))
    return StsTask(name, pairs, instruction=_prompt(task.metadata, None))


def _pairs(task: Any, parts: Mapping[str, Any], split: str, name: str) -> Task:
    from embedworks.evaluation.kinds.pair_tasks import PairClassificationTask

    names = task.input1_column_name, task.input2_column_name, task.label_column_name
    one, two, label = (list(parts[split][column]) for column in names)
    if len(one) == 1 and isinstance(one[0], list):  # the older form: all pairs in one row
        one, two, label = one[0], two[0], label[0]
    pairs = list(zip(one, two, map(int, label), strict=True))
    return PairClassificationTask(name, pairs, instruction=_prompt(task.metadata, None))


def _classes(task: Any, parts: Mapping[str, Any], split: str, name: str) -> Task:
    from embedworks.evaluation.kinds.label_tasks import ClassificationTask

    if task.is_cross_validation:
        raise InputError(f"{name} is cross-validated, which only mteb does.")
    train, test = (
        [
            (str(text), str(label))
            for text, label in zip(
                rows[task.input_column_name], rows[task.label_column_name], strict=True
            )
        ]
        for rows in (parts[task.train_split], parts[split])
    )
    return ClassificationTask(
        name,
        train,
        test,
        per_class=task.samples_per_label,
        draws=task.n_experiments,
        instruction=_prompt(task.metadata, None),
    )


#: mteb's type -> what makes a task here of it.
_MAKERS = {
    **dict.fromkeys(_RETRIEVAL_TYPES, _retrieval),
    "STS": _sts,
    "PairClassification": _pairs,
    "Classification": _classes,
}
