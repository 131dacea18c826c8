"""Last stages of an adaptation: measure on the test split, index, write the report."""

from __future__ import annotations

import platform
import time
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from embedworks._core.files import atomic_directory, read_json, write_json
from embedworks.evaluation import (
    Comparison,
    Curve,
    FailedQuery,
    PointMap,
    ReportData,
    StageTime,
    compare_runs,
    paired_difference,
    verdict_sentence,
    worst_queries,
    write_report,
)
from embedworks.index import SEARCH_MODES, BM25Index, Collection, ExactIndex
from embedworks.index.modes import Queries, Searchable
from embedworks.models import load, model_fingerprint, save
from embedworks.training._adapt_job import save_vectors
from embedworks.training._adapt_merge import DEPTH, named_rankings
from embedworks.training._search import SYSTEM_LABELS

if TYPE_CHECKING:
    from embedworks.training._adapt_job import Job

__all__ = ["evaluate_stage", "index_only_stage", "index_stage", "report_stage"]

OWN = "hybrid"


def evaluate_stage(job: Job) -> dict[str, Any]:
    """Measure every system on the test questions; leaves ``vectors.npy`` and ``results.json``."""
    settings = job.settings.evaluation
    final = load(str(job.run.part("model")))
    texts = job.chunks["search_text"].to_pylist()
    start = time.perf_counter()
    kept_base = job.run.info("merge")["weight"] == 0.0
    base_vectors = np.load(job.run.work / "base_vectors.npy", allow_pickle=False)
    vectors = base_vectors if kept_base else job.encode(final, texts)
    encode_seconds = time.perf_counter() - start
    save_vectors(job.run.work / "vectors.npy", vectors)

    questions = job.holdout("test")
    wanted = questions["chunk_id"].to_pylist()
    if not wanted:
        write_json(job.run.part("results.json"), {"questions": 0})
        return {"questions": 0, "comparison": None}
    queries = questions["anchor"].to_pylist()
    shown = questions["positive"].to_pylist()
    rows = np.array([job.positions[name] for name in wanted])
    for row, text in zip(rows, shown, strict=True):
        texts[row] = text
    lexical = BM25Index.build(texts)
    runs: dict[str, dict[str, dict[str, float]]] = {}
    seconds: dict[str, float] = {}
    for name, model, stored in (("base", job.base, base_vectors), ("adapted", final, vectors)):
        held_out = np.array(stored)
        held_out[rows] = job.encode(model, shown)
        searchable = Searchable(
            ExactIndex(held_out), lexical, job.base_hybrid if name == "base" else job.hybrid
        )
        asked = Queries(queries, job.encode(model, queries))
        modes = {"base": ("bm25", "dense", "hybrid"), "adapted": ("dense", "hybrid")}[name]
        for mode in modes:
            system = {
                ("base", "dense"): "base",
                ("base", "hybrid"): "base_hybrid",
                ("adapted", "dense"): "adapted",
            }.get((name, mode), mode)
            begin = time.perf_counter()
            ranked = SEARCH_MODES[mode].run(searchable, asked, DEPTH, None)
            seconds[system] = (time.perf_counter() - begin) / len(queries)
            runs[system] = named_rankings(ranked, job.chunks["chunk_id"].to_pylist())
    qrels = {str(i): {name: 1} for i, name in enumerate(wanted)}
    comparison = compare_runs(
        {name: runs[name] for name in SYSTEM_LABELS},
        qrels,
        baseline=["base", "bm25"],
        metrics=[*dict.fromkeys([*settings.metrics, "success@1"])],
        confidence=settings.confidence,
        n_resamples=settings.resamples,
        seed=job.settings.seed,
    )
    titles = dict(
        zip(job.chunks["chunk_id"].to_pylist(), job.chunks["title"].to_pylist(), strict=True)
    )
    failures = worst_queries(
        runs[OWN],
        qrels,
        {str(i): text for i, text in enumerate(queries)},
        baseline=runs["base"],
        k=settings.failures,
        titles={name: title or name for name, title in titles.items()},
    )
    results = {
        "questions": len(queries),
        "corpus": len(texts),
        "systems": SYSTEM_LABELS,
        "comparison": comparison.to_dict(),
        "failures": [failure.to_dict() for failure in failures],
        "milliseconds_per_query": {name: round(1e3 * s, 3) for name, s in seconds.items()},
        "encode_seconds": round(encode_seconds, 3),
        "peak_memory_mb": _peak_memory_mb(),
    }
    write_json(job.run.part("results.json"), results)
    return {"questions": len(queries), "verdict": verdict(comparison)}


def verdict(comparison: Comparison) -> str:
    """Say in words what the adaptation gained, and when the model alone does better."""
    sentence = verdict_sentence(
        comparison, system=OWN, against=["base", "bm25"], labels=SYSTEM_LABELS
    )
    alone, own = (comparison.results[name].values["success@1"] for name in ("adapted", OWN))
    if paired_difference(alone, own, seed=0).low > 0:
        sentence += (
            f" The adapted model alone finds it first in {np.mean(alone):.0%}: try --mode dense."
        )
    return sentence


def index_stage(job: Job) -> dict[str, Any]:
    """Write the collection: rows, attributes, vectors and BM25."""
    vectors = np.load(job.run.work / "vectors.npy", allow_pickle=False)
    return _build_collection(job, vectors, load(str(job.run.part("model"))))


def index_only_stage(job: Job, *, index: str = "auto") -> dict[str, Any]:
    """Copy the model into the run and index the chunks with it."""
    vectors = job.encode(job.base, job.chunks["search_text"].to_pylist())
    with atomic_directory(job.run.part("model")) as folder:
        save(job.base, folder)
    job.settings.to_yaml(job.run.part("recipe.yaml"))
    return _build_collection(job, vectors, job.base, index=index)


def _build_collection(
    job: Job, vectors: np.ndarray, model: Any, *, index: str = "auto"
) -> dict[str, Any]:
    inner = ("search_text", "split")
    rows = job.chunks.select([name for name in job.chunks.column_names if name not in inner])
    collection = Collection.create(
        job.run.part("collection"),
        rows,
        vectors,
        metadata={
            "model": model_fingerprint(model),
            "base": job.settings.base,
            "hybrid": job.hybrid.to_dict(),
        },
        index=index,
        overwrite=True,
        show_progress=job.show_progress,
    )
    return {"rows": len(rows), "columns": list(collection.columns), "memory": collection.memory()}


def report_stage(job: Job) -> dict[str, Any]:
    """Write ``report.html`` and ``recipe.yaml``."""
    run, settings = job.run, job.settings
    settings.to_yaml(run.part("recipe.yaml"))
    results = read_json(run.part("results.json"))
    read, plan = run.info("read"), run.info("plan")
    reading = read["reading"]
    merge = run.info("merge")
    measured = "comparison" in results
    comparison = Comparison.from_dict(results["comparison"]) if measured else None
    vectors = np.load(run.work / "vectors.npy", allow_pickle=False)
    titles = job.chunks["title"].to_pylist()
    paths = job.chunks["path"].to_pylist()
    groups = job.chunks["folder"].to_pylist() if "folder" in job.chunks.column_names else paths
    planned = {step["name"]: step["seconds"] for step in plan["plan"]["steps"]}
    stage_of = {
        "prepare": "encode and mine",
        "train": "train",
        "merge": "merge",
        "evaluate": "evaluate",
        "index": "index and report",
    }
    notes = [] if merge["weight"] > 0 else [merge["verdict"]]
    if comparison is None:
        notes.append("No test questions could be made, so nothing was measured.")
    data = ReportData(
        title=f"Adapted search for {run.state['source']}",
        kicker=f"embedworks adapt, {run.state['started']}",
        verdict=verdict(comparison) if comparison else notes[-1],
        key_figures={
            "documents": f"{read['documents']:,}",
            "chunks": f"{read['chunks']:,}",
            "training pairs": f"{run.info('prepare')['pairs_kept']:,}",
            "test questions": f"{results['questions']:,}",
            "merge weight": f"{merge['weight']:g}",
            "minutes": f"{run.stage_seconds / 60:.1f}",
        },
        notes=notes,
        comparison=comparison,
        own=OWN if comparison else "",
        labels=SYSTEM_LABELS if comparison else {},
        costs={
            name: {"per query, without encoding it": f"{value:.2f} ms"}
            for name, value in results.get("milliseconds_per_query", {}).items()
        },
        failures=[FailedQuery.from_dict(item) for item in results.get("failures", [])],
        failure_baseline=SYSTEM_LABELS["base"],
        point_map=PointMap.from_vectors(
            vectors,
            [g or "." for g in groups],
            [t or p for t, p in zip(titles, paths)],
            seed=settings.seed,
        ),
        merge_curve=_merge_curve(job),
        loss_curve=_loss_curve(job),
        pair_sources=_pair_rows(job),
        read={
            "files": reading["files"],
            "documents": reading["documents"],
            "duplicates left out": len(reading["duplicates"]),
        },
        skipped=reading["skipped_by_reason"],
        skipped_examples=[(item["path"], item["reason"]) for item in reading["skipped"][:20]],
        timings=[
            StageTime(name, planned.get(stage_of.get(name, "")), stage["seconds"])
            for name, stage in run.state["stages"].items()
        ],
        provenance=_provenance(job, results),
        prompts=dict(getattr(job.base, "prompts", None) or {}),
        recipe=yaml.safe_dump(settings.to_dict(), sort_keys=False),
    )
    write_report(data, run.part("report.html"))
    return {"verdict": data.verdict}


def _merge_curve(job: Job) -> Curve | None:
    merge = job.run.info("merge")
    if not merge["curve"]:
        return None
    return Curve(
        [point["weight"] for point in merge["curve"]],
        [point["mean"] for point in merge["curve"]],
        "weight of the adapted model",
        f"{merge['metric']} on validation",
        chosen=merge["weight"],
        caption=merge["verdict"],
    )


def _loss_curve(job: Job) -> Curve | None:
    losses = job.run.info("train")["losses"]
    if not losses:
        return None
    return Curve(
        [point["step"] for point in losses],
        [point["loss"] for point in losses],
        "step",
        "training loss",
        caption=f"{job.run.info('plan')['batch']} pairs a step, one batch a point.",
    )


def _pair_rows(job: Job) -> list[dict[str, str | int | float]]:
    made = job.run.info("read")["pairs_by_source"]
    dropped = job.run.info("prepare")["dropped_by_source"]
    asked = job.run.info("read")["questions_by_source"]
    return [
        {
            "source": name,
            "training pairs": count,
            "dropped by the round trip": dropped.get(name, 0),
            "test questions": asked.get(name, 0),
        }
        for name, count in made.items()
    ]


def _provenance(job: Job, results: dict[str, Any]) -> dict[str, str]:
    names = ("embedworks", "numpy", "torch", "sentence-transformers", "lancedb")
    versions = {}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "base model": job.settings.base,
        "model fingerprint": model_fingerprint(load(str(job.run.part("model"))))[:16],
        "seed": str(job.settings.seed),
        "Python": platform.python_version(),
        **versions,
        "peak memory": f"{results.get('peak_memory_mb', 0):,} MB",
    }


def _peak_memory_mb() -> int:
    """Peak resident memory of this process so far; 0 where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if platform.system() == "Darwin" else 2**10))
