"""The sections of the report, each a function from `ReportData` to HTML ("" when empty)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from embedworks.evaluation.reports._html import (
    MAX_ROWS,
    clip,
    data_table,
    esc,
    facts_list,
    key_figures,
    number,
    seconds,
)
from embedworks.evaluation.reports._page import frame
from embedworks.evaluation.reports._plots import (
    MAP_GROUPS,
    curve_plot,
    dot_plot,
    map_groups,
    mark,
    scatter_plot,
    thin_curve,
)
from embedworks.evaluation.reports.tables import distinct_differences, p_text
from embedworks.evaluation.statistics.intervals import Difference, Interval
from embedworks.evaluation.statistics.metrics import METRICS, parse_metric

if TYPE_CHECKING:
    from embedworks.evaluation.kinds.failures import FailedQuery
    from embedworks.evaluation.kinds.retrieval import Comparison
    from embedworks.evaluation.reports.report import Curve, ReportData, StageTime

__all__ = ["body"]

_FAILURES = 20
_TEXT = 400
_RECIPE = 60_000


def body(data: ReportData) -> str:
    """Return the content of the page."""
    sections = {
        "Result": ("result", _result(data)),
        "Worst queries": ("failures", _failures(data)),
        "Map": ("map", _map(data)),
        "Training": ("training", _training(data)),
        "What was read": ("read", _read(data)),
        "Time": ("time", _time(data)),
        "How to repeat it": ("repeat", _repeat(data)),
    }
    return frame(_head(data), sections)


def _head(data: ReportData) -> str:
    kicker = f'<p class="kicker">{esc(clip(data.kicker, 200))}</p>' if data.kicker else ""
    notes = "".join(f"<li>{esc(clip(note, 600))}</li>" for note in data.notes[:MAX_ROWS])
    return (
        f"{kicker}<h1>{esc(clip(data.title, 200))}</h1>"
        f'<p class="verdict">{esc(clip(data.verdict, 1000))}</p>'
        + key_figures(data.key_figures)
        + (f'<ul class="notes">{notes}</ul>' if notes else "")
    )


def _result(data: ReportData) -> str:
    if data.comparison is None:
        return ""
    table = data.comparison
    names = {name: clip(data.labels.get(name, name), 60) for name in table.systems}
    level = f"{table.confidence:.0%}"
    queries = "1 question" if table.n == 1 else f"{table.n:,} questions"
    wide = "" if len(table.metrics) % 3 == 0 else " wide"
    panels = "".join(
        "<figure>"
        + dot_plot(
            [(names[s], result.intervals[metric]) for s, result in table.results.items()],
            title=metric,
            x_label=f"mean over {queries}, {level} interval",
            own=[s == data.own for s in table.systems],
            width=440.0 if wide else 340.0,
        )
        + "</figure>"
        for metric in table.metrics
    )
    return (
        f'<div class="panels{wide}">{panels}</div>'
        + _score_table(data, table, names, f"{queries}; brackets are {level} intervals")
        + _difference_table(data, table, names, level)
        + _glossary(table)
        + _counts(table)
    )


def _score_table(
    data: ReportData, table: Comparison, names: Mapping[str, str], caption: str
) -> str:
    cost_columns = list(dict.fromkeys(c for row in data.costs.values() for c in row))
    header = ["System", *map(esc, table.metrics), *(esc(clip(c, 40)) for c in cost_columns)]
    rows = [
        [
            esc(names[system]),
            *(_interval(result.intervals[metric]) for metric in table.metrics),
            *(esc(clip(data.costs.get(system, {}).get(c, "–"), 40)) for c in cost_columns),
        ]
        for system, result in table.results.items()
    ]
    own = [system == data.own for system in table.systems]
    return data_table(header, rows, caption=f"Scores on {caption}.", sortable=True, marked=own)


def _difference_table(
    data: ReportData, table: Comparison, names: Mapping[str, str], level: str
) -> str:
    rows, own = [], []
    for system, baseline, row in distinct_differences(table):
        pair = f"{esc(names[system])} − {esc(names[baseline])}"
        rows.append([pair, *(_difference(row[m]) for m in table.metrics)])
        own.append(system == data.own)
    if not rows:
        return ""
    caption = (
        f"Paired differences on the same questions, with {level} interval and p-value of a "
        "randomisation test. ▲ better, ▼ worse, ≈ not clear of noise."
    )
    return data_table(["Difference", *map(esc, table.metrics)], rows, caption=caption, marked=own)


def _interval(value: Interval) -> str:
    if value.n == 1:
        return f"{value.mean:.3f}<small>one question, no interval</small>"
    return f"{value.mean:.3f}<small>[{value.low:.3f}, {value.high:.3f}]</small>"


def _difference(gap: Difference) -> str:
    kind, sign = "same", "≈"
    if gap.is_clear:
        kind, sign = ("up", "▲") if gap.mean > 0 else ("down", "▼")
    span = "one question" if gap.n == 1 else f"[{gap.low:+.3f}, {gap.high:+.3f}]"
    return (
        f'<span class="{kind}">{sign} {gap.mean:+.3f}</span>'
        f"<small>{span}</small><small>{esc(p_text(gap.p_value))}</small>"
    )


def _glossary(table: Comparison) -> str:
    """Explain the metrics in words, as registered."""
    items = [f"<b>{esc(m)}</b> {esc(METRICS.summary(parse_metric(m).name))}" for m in table.metrics]
    return f'<p class="note">{" ".join(items)}</p>'


def _counts(table: Comparison) -> str:
    first = next(iter(table.results.values()))
    parts = []
    if first.skipped:
        plural = "question" if first.skipped == 1 else "questions"
        verb = "is" if first.skipped == 1 else "are"
        parts.append(
            f"{first.skipped:,} {plural} without a relevant document {verb} left out of the scores."
        )
    silent = {name: r.without_results for name, r in table.results.items() if r.without_results}
    parts += [
        f"{esc(clip(name, 60))} returned nothing for {count:,} of {table.n:,} questions; "
        "they score 0."
        for name, count in silent.items()
    ]
    return f'<p class="note">{" ".join(parts)}</p>' if parts else ""


def _failures(data: ReportData) -> str:
    if not data.failures:
        return ""
    baseline = clip(data.failure_baseline, 60) or "baseline"
    items = "".join(
        _failure(item, data.failure_metric, baseline) for item in data.failures[:_FAILURES]
    )
    compared = any(item.baseline_score is not None for item in data.failures)
    order = f"largest loss against {baseline} first" if compared else "lowest score first"
    intro = f"By {data.failure_metric}, {order}."
    return f'<p class="note">{esc(intro)}</p><ol class="failures">{items}</ol>'


def _failure(item: FailedQuery, metric: str, baseline: str) -> str:
    score = f"{metric} {item.score:.2f}"
    if item.baseline_score is not None:
        score += f", {baseline} {item.baseline_score:.2f}"
    expected = "".join(
        f"<li><span>{'rank ' + str(doc.rank) if doc.rank else 'missed'}</span>"
        f"<b>{esc(clip(doc.title, 160))}</b><span></span></li>"
        for doc in item.expected[:10]
    )
    found = "".join(
        f"<li><span>rank {doc.rank}</span>"
        + (
            f"<b>{esc(clip(doc.title, 160))}</b>"
            if doc.relevance > 0
            else f"<div>{esc(clip(doc.title, 160))}</div>"
        )
        + f"<span>{doc.score:.3f}</span></li>"
        for doc in item.found[:10]
    )
    found = found or "<li><span></span><div>nothing</div></li>"
    return (
        f'<li><h3><span dir="auto">{esc(clip(item.text, _TEXT))}</span></h3>'
        f'<p class="note">{esc(score)}</p><div class="two">'
        f"<div><h4>Expected</h4><ul>{expected}</ul></div>"
        f"<div><h4>Found, with score</h4><ul>{found}</ul></div></div></li>"
    )


def _map(data: ReportData) -> str:
    shown = data.point_map
    if shown is None:
        return ""
    named = map_groups(shown.groups)
    others = len(shown.groups) - sum(count for _, count in named)
    entries = [(slot, name, count) for slot, (name, count) in enumerate(named)]
    if others:
        entries.append((MAP_GROUPS, "other", others))
    legend = "".join(
        f'<li><button type="button" aria-pressed="false" data-group="{slot}">{mark(slot)}'
        f"{esc(clip(name, 48))} <span>{count:,}</span></button></li>"
        for slot, name, count in entries
    )
    sample = (
        f"{len(shown.points):,} of {shown.total:,} texts"
        if (len(shown.points) < shown.total)
        else f"all {shown.total:,} texts"
    )
    plot = scatter_plot(
        shown.points,
        shown.groups,
        shown.titles,
        x_label="map direction 1 (no unit)",
        y_label="map direction 2 (no unit)",
    )
    caption = (
        f"{sample.capitalize()}. Texts that mean similar things lie close together; large "
        "distances and directions carry no meaning. Hover for titles, press a group to single "
        "it out."
    )
    return (
        f'<ul class="legend" aria-label="Groups of the map">{legend}</ul>'
        f"<figure>{plot}<figcaption>{esc(caption)}</figcaption></figure>"
    )


def _training(data: ReportData) -> str:
    plots = [
        _curve(curve, title)
        for curve, title in (
            (data.merge_curve, "Validation score over the merge weight"),
            (data.loss_curve, "Training loss"),
        )
        if curve is not None
    ]
    html = f'<div class="panels wide">{"".join(plots)}</div>' if plots else ""
    if data.pair_sources:
        columns = list(data.pair_sources[0])
        rows = [[esc(number(row.get(c, "–"))) for c in columns] for row in data.pair_sources]
        caption = "Where the training pairs came from."
        html += data_table(
            [esc(clip(c, 60)) for c in columns],
            rows,
            caption=caption,
            sortable=True,
            numeric=[not isinstance(value, str) for value in data.pair_sources[0].values()],
        )
    return html


def _curve(curve: Curve, title: str) -> str:
    x, y, size = thin_curve(curve.x, curve.y)
    caption = curve.caption
    if size > 1:
        caption += f" Each point is the mean of {size:,} values."
    plot = curve_plot(
        x,
        y,
        title=title,
        x_label=clip(curve.x_label, 60),
        y_label=clip(curve.y_label, 40),
        chosen=curve.chosen,
        dots=len(x) <= 30,
    )
    note = f"<figcaption>{esc(clip(caption, 400))}</figcaption>" if caption.strip() else ""
    return f"<figure>{plot}{note}</figure>"


def _read(data: ReportData) -> str:
    tables = ""
    if data.read:
        rows = [[esc(clip(label, 100)), f"{count:,}"] for label, count in data.read.items()]
        tables += data_table(["Read", "Count"], rows, caption="What went in.")
    if data.skipped:
        rows = [[esc(clip(reason, 200)), f"{count:,}"] for reason, count in data.skipped.items()]
        tables += data_table(["Skipped because", "Count"], rows, caption="What was left out.")
    html = f'<div class="panels wide">{tables}</div>' if tables else ""
    if data.skipped_examples:
        shown = [[esc(clip(p, 200)), esc(clip(why, 200))] for p, why in data.skipped_examples]
        caption = "Files left out."
        table = data_table(["File", "Reason"], shown, caption=caption, numeric=[False, False])
        html += f"<details><summary>Files left out ({len(shown):,})</summary>{table}</details>"
    return html


def _time(data: ReportData) -> str:
    if not data.timings:
        return ""
    longest = max(max(t.planned or 0.0, t.actual) for t in data.timings) or 1.0
    rows = [
        [esc(clip(t.name, 80)), seconds(t.planned), seconds(t.actual), _bars(t, longest)]
        for t in data.timings
    ]
    planned = sum(t.planned or 0.0 for t in data.timings)
    actual = sum(t.actual for t in data.timings)
    rows.append(["<b>Total</b>", seconds(planned) if planned else "–", seconds(actual), ""])
    return data_table(
        ["Stage", "Planned", "Actual", "Planned (grey) and actual"],
        rows,
        caption="Wall-clock time of each stage.",
        numeric=[False, True, True, False],
    )


def _bars(stage: StageTime, longest: float) -> str:
    plan = 200 * (stage.planned or 0.0) / longest
    real = 200 * stage.actual / longest
    return (
        '<svg class="bars" viewBox="0 0 200 22" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="plan" x="0" y="3" width="{plan:.1f}" height="7" rx="2"/>'
        f'<rect class="real" x="0" y="12" width="{real:.1f}" height="7" rx="2"/></svg>'
    )


def _repeat(data: ReportData) -> str:
    html = facts_list(data.provenance)
    if data.prompts:
        html += "<h3>Prompts</h3>" + facts_list(
            {name: repr(text) if text else "none" for name, text in data.prompts.items()}
        )
    if data.recipe:
        text = data.recipe[:_RECIPE]
        cut = (
            "" if len(data.recipe) <= _RECIPE else "\n… cut: the whole recipe is in the run folder"
        )
        html += f"<details><summary>Recipe</summary><pre>{esc(text + cut)}</pre></details>"
    return html
