"""`robustness`: minimal changes of meaning, linear probes, and the shape of the vectors."""

from __future__ import annotations

from embedworks.evaluation.kinds.geometry import GeometryTask
from embedworks.evaluation.kinds.probing import PROBED_PROPERTIES, generated_probe
from embedworks.evaluation.kinds.robustness import ROBUSTNESS_CHANGES, generated_robustness
from embedworks.evaluation.sets._generated_texts import labelled_texts
from embedworks.evaluation.sets.public_data import DataFolder
from embedworks.evaluation.suites import SUITES, Suite, TaskSource

__all__ = ["generated_geometry", "sts_geometry"]


def generated_geometry() -> GeometryTask:
    """Return the shape of 500 generated sentences."""
    rows = labelled_texts("length", 500, seed=0)
    return GeometryTask("geometry-generated", [row.text for row in rows])


def sts_geometry(data: DataFolder) -> GeometryTask:
    """Return the shape of the English STS sentences; pairs of score 4 or more belong together."""
    rows = data.records(
        "stsb_multi.parquet",
        ["sentence1", "sentence2", "score"],
        where={"lang": "en", "split": "dev"},
    )
    texts = [text for row in rows for text in (row["sentence1"], row["sentence2"])]
    pairs = [(2 * i, 2 * i + 1) for i, row in enumerate(rows) if float(row["score"]) >= 4]
    return GeometryTask("geometry-sts", texts, pairs=pairs)


SUITES.add(
    "robustness",
    Suite(
        "robustness",
        (
            *(
                TaskSource(
                    f"robust-{change.replace('_', '-')}",
                    lambda data, change=change: generated_robustness(change),  # type: ignore[misc]
                )
                for change in ROBUSTNESS_CHANGES
            ),
            *(
                TaskSource(
                    f"probe-{name.replace('_', '-')}",
                    lambda data, name=name: generated_probe(name),  # type: ignore[misc]
                )
                for name in PROBED_PROPERTIES
            ),
            TaskSource("geometry-generated", lambda data: generated_geometry()),
            TaskSource("geometry-sts", sts_geometry, ("stsb_multi.parquet",)),
        ),
    ),
    summary="Minimal changes of meaning, linear probes, isotropy and hubs.",
)
