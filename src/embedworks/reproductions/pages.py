"""Pages made from records: one per reproduction, and the index that is the ledger."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from embedworks._core.files import read_json, write_text
from embedworks.errors import EmptyInputError, InputError
from embedworks.reproductions.plots import render_plot
from embedworks.reproductions.results import ComparisonResult, ReproductionResult

__all__ = ["render_index", "render_page", "write_pages"]

_CLAIMS = {
    "greater": "above 0",
    "less": "below 0",
    "equal": "within ±{margin:g}",
    "not_worse": "above -{margin:g}",
}


def write_pages(folder: str | Path) -> list[Path]:
    """Write a page and plots for every record in a folder, and the index over them.

    Args:
        folder: Folder with ``<slug>-<scale>.json`` records; pages are written beside them.

    Returns:
        The files written.

    Raises:
        EmptyInputError: When there is no record.
        FormatError: When a record is damaged or contradicts itself.
    """
    folder = Path(folder)
    paths = [path for path in sorted(folder.glob("*.json")) if _is_record(path)]
    results = [ReproductionResult.load(path) for path in paths]
    if not results:
        raise EmptyInputError(f"{folder} holds no record of a reproduction (no .json file).")
    written = []

    def write(name: str, text: str) -> None:
        write_text(folder / name, text)
        written.append(folder / name)

    for slug in sorted({result.slug for result in results}):
        own = _by_scale(result for result in results if result.slug == slug)
        write(f"{slug}.md", render_page(own))
        for result in own:
            write(f"{slug}-{result.scale}.svg", render_plot(result))
    write("index.md", render_index(results))
    return written


def render_index(results: Sequence[ReproductionResult]) -> str:
    """Return the ledger: every claim that was tested, with its effect and verdict.

    Args:
        results: The records, in any order.
    """
    rows = []
    for result in sorted(results, key=lambda r: (r.slug, r.scale != "mini", r.scale)):
        rows.append(
            f"| [{_cell(result.slug)}]({result.slug}.md) | {_cell(_paper(result))} | "
            f"{_cell(result.claim)} | "
            f"{_cell(result.decisive.metric)}: {result.decisive.describe()} | "
            f"**{result.verdict}** | {result.scale} |"
        )
    counts = {v: sum(r.verdict == v for r in results) for v in ("holds", "fails", "inconclusive")}
    told = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    return (
        "\n\n".join(
            [
                "# Reproductions",
                "Claims of papers, tested with this library on small data. Each entry fixes in "
                "advance what is compared, what else must be true, and what would falsify the "
                "claim; the verdict follows from the numbers by a rule. A claim that fails here "
                "may hold elsewhere: every page says what was different from the paper.",
                f"So far: {told}. Run one yourself with `embedworks reproduce SLUG`.",
                "\n".join(
                    [
                        "| entry | paper | claim | effect [95 % interval] | verdict | scale |",
                        "|---|---|---|---|---|---|",
                        *rows,
                    ]
                ),
                "**holds**: the interval of the decisive difference excludes zero on the claimed "
                "side, and all conditions are met. **fails**: the falsifier is met, that is, the "
                "difference is clearly smaller than what counts, or a control does as well. "
                "**inconclusive**: neither.",
            ]
        )
        + "\n"
    )


def render_page(results: Sequence[ReproductionResult]) -> str:
    """Return the page of one reproduction, with a section per scale.

    Args:
        results: Records of one slug, one per scale.

    Raises:
        InputError: When the records are of different reproductions.
    """
    if not results or len({result.slug for result in results}) != 1:
        raise InputError("A page needs records of one reproduction.")
    own = _by_scale(results)
    first = own[0]
    parts = [
        f"# {first.slug}",
        f"Paper: {_paper(first)}.",
        f"**Claim.** {first.claim}",
        f"**Falsifier.** {first.falsifier}",
    ]
    if first.setup:
        parts += ["## How it was tested", first.setup.strip()]
    for result in own:
        parts += _scale_section(result)
    if first.limits:
        parts += ["## What this does not show", first.limits.strip()]
    parts += [
        "## How the verdict is made",
        "Arms take turns under each seed. An interval resamples the items, an item together with "
        "itself under every seed, and the seeds, whose part is widened as Student's t asks for "
        "with so few. [All reproductions](index.md)",
    ]
    return "\n\n".join(parts) + "\n"


def _scale_section(result: ReproductionResult) -> list[str]:
    decisive = result.decisive
    plot = f"{result.slug}-{result.scale}.svg"
    parts = [
        f"## Result at scale {result.scale}",
        f"**{result.verdict.capitalize()}**: {result.reason}. Effect on {decisive.metric} "
        f"({decisive.name}): {decisive.describe()}, {len(result.seeds)} seeds"
        + (f", {decisive.items} items." if decisive.items else "."),
        f"![Arms and differences with intervals]({plot})",
        _comparison_table(result),
        f"### Arms ({result.scale})",
        _arm_table(result),
    ]
    if result.tuning:
        parts += [f"### Tuning ({result.scale})", _tuning_text(result)]
    parts += [f"### Run ({result.scale})", _run_text(result)]
    return parts


def _comparison_table(result: ReproductionResult) -> str:
    rows = []
    kinds = [("decisive", [result.decisive])]
    kinds += [("condition", list(result.conditions)), ("secondary", list(result.secondary))]
    for kind, comparisons in kinds:
        for one in comparisons:
            rows.append(
                f"| {kind} | {_cell(one.name)} | {_cell(one.metric)} | {_expected(one)} | "
                f"{one.describe()} | {one.finding} |"
            )
    head = "| kind | comparison | metric | expected | difference [95 % interval] | finding |"
    return "\n".join([head, "|---|---|---|---|---|---|", *rows])


def _expected(one: ComparisonResult) -> str:
    text = _CLAIMS[one.claim].format(margin=one.margin)
    if one.claim in ("greater", "less") and one.margin:
        text += f", {one.margin:g} counts"
    return f"{text} (minus {one.null:g})" if one.null else text


def _arm_table(result: ReproductionResult) -> str:
    metrics = list(dict.fromkeys(name for arm in result.arms for name in arm.metrics))
    head = ["arm", "what it does", *map(_cell, metrics), "seconds"]
    rows = []
    for arm in result.arms:
        cells = [_cell(arm.name), _cell(arm.summary)]
        for name in metrics:
            found = arm.metrics.get(name)
            cells.append(f"{found.mean:.3f} [{found.low:.3f}, {found.high:.3f}]" if found else "")
        rows.append("| " + " | ".join([*cells, f"{arm.seconds:.1f}"]) + " |")
    return "\n".join(["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *rows])


def _tuning_text(result: ReproductionResult) -> str:
    points = result.tuning[0].points
    head = ["arm", *(_point(point) for point in points), "chosen"]
    rows = []
    for one in result.tuning:
        values = [f"{value:.3f}" for value in one.values]
        mark = _point(one.chosen) + (" (end of the grid)" if one.at_edge else "")
        rows.append("| " + " | ".join([_cell(one.arm), *values, mark]) + " |")
    text = (
        f"Every arm had the same grid; chosen by {result.tuning_metric} on validation data, "
        "under seeds that are not used above."
    )
    if any(one.at_edge for one in result.tuning):
        text += (
            " A value at the end of the grid may not be the best there is: read the effect with "
            "that in mind."
        )
    table = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *rows]
    return text + "\n\n" + "\n".join(table)


def _point(point: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in point.items())


def _run_text(result: ReproductionResult) -> str:
    machine = result.environment
    versions = ", ".join(f"{name} {v}" for name, v in machine.get("versions", {}).items())
    settings = ", ".join(f"{name} {_short(value)}" for name, value in result.settings.items())
    lines = [
        f"- Seeds {', '.join(map(str, result.seeds))}; {result.seconds:.0f} s in all; "
        f"{result.date}.",
        f"- {machine.get('cores')} cores, device {machine.get('device')}, "
        f"Python {machine.get('python')}; {versions}.",
        f"- Settings: {settings or 'none'}; fingerprint `{result.fingerprint[:12]}`.",
        f"- Again: `embedworks reproduce {result.slug} --scale {result.scale}`.",
    ]
    return "\n".join(lines)


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _paper(result: ReproductionResult) -> str:
    if not result.arxiv:
        return result.paper
    return f"{result.paper} (arXiv {result.arxiv})"


def _is_record(path: Path) -> bool:
    """Whether a JSON file claims to be a record; other files in the folder are left alone."""
    values = read_json(path)
    return isinstance(values, dict) and {"slug", "verdict"} <= values.keys()


def _by_scale(results: Iterable[ReproductionResult]) -> list[ReproductionResult]:
    return sorted(results, key=lambda result: (result.scale != "mini", result.scale))


def _cell(text: str) -> str:
    """Return text that cannot break a table."""
    return " ".join(text.split()).replace("|", "\\|")
