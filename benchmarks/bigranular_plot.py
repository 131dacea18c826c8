"""Draw ``results/bigranular_search*.json``: recall against memory, and against pages read.

python benchmarks/bigranular_plot.py [RESULT.json]
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from _common import RESULTS

from embedworks._core.svg import AXIS, COLOURS, GREY, INK, svg_document, svg_line, svg_text

LOW = 0.55  # recall at the foot of the panels
WIDTH, TOP, BOTTOM = 860.0, 76.0, 360.0
Place = Callable[[float], float]


def draw(result: Mapping[str, Any]) -> str:
    """Return the drawing: a colour for each index, a dot for each number of candidates."""
    rows, settings = result["rows"], result["settings"]
    lines: dict[str, list[tuple[int, Mapping[str, Any]]]] = {}
    for title, row in rows.items():
        name, _, effort = title.partition(", ")
        if name.startswith("embedworks"):
            lines.setdefault(name.removeprefix("embedworks "), []).append(
                (int(effort.split()[0]), row)
            )
    least = max(row["recall@100"] for row in rows.values()) - 0.01
    budget = settings["float32 bytes per document"] * settings["documents"] / 2**20 / 16
    whole = rows["faiss exact"]["resident MB"]

    def y(recall: float) -> float:
        return BOTTOM - (recall - LOW) / (1 - LOW) * (BOTTOM - TOP)

    def megabytes(value: float) -> float:
        return 60 + math.log(value / 2) / math.log(200 / 2) * 340

    def pages(value: float) -> float:
        return 480 + math.log(value / 90) / math.log(1200 / 90) * 250

    title = f"Recall@100 of {settings['documents']:,} MiniLM vectors, ranked from disk"
    parts = [svg_text(16, 26, title, size=15, weight="600")]
    parts += _panel("resident memory, MB", (2, 5, 10, 20, 50, 100, 200), megabytes, y, least)
    parts += _panel("pages of 4 KiB read for a query", (100, 200, 500, 1000), pages, y, least)
    parts.append(svg_line(megabytes(budget), TOP, megabytes(budget), BOTTOM, AXIS, dash="3 3"))
    parts.append(svg_text(megabytes(budget), TOP - 6, "1/16 of float32", GREY, "middle", size=11))
    parts.append(_dot(megabytes(whole), y(1.0), INK))
    parts.append(svg_text(megabytes(whole), y(1.0) + 20, "float32", INK, "middle", size=12))
    ends = []
    for colour, (name, points) in zip(COLOURS, lines.items(), strict=False):
        points.sort(key=lambda point: point[0])
        path = [(pages(row["pages read per query"]), y(row["recall@100"])) for _, row in points]
        drawn = " ".join(f"{a:.1f},{b:.1f}" for a, b in path)
        parts.append(f'<polyline points="{drawn}" fill="none" stroke="{colour}"/>')
        parts += [_dot(*place, colour) for place in path]
        x = megabytes(points[0][1]["resident MB"])
        heights = [y(row["recall@100"]) for _, row in points]
        parts.append(svg_line(x, min(heights), x, max(heights), colour))
        parts += [_dot(x, height, colour) for height in heights]
        ends.append((colour, name))
    for number, (colour, name) in enumerate(ends):
        height = BOTTOM - 14 - 20 * (len(ends) - 1 - number)
        parts += [_dot(764, height - 4, colour), svg_text(774, height, name, size=12)]
    notes = (
        f"{settings['queries']} titles as queries; dots of one colour: 100, 150, 200, 300, 500 and "
        "1,000 candidates (int8: 100).",
        "Dashed across: one point below exact search. Resident: what opening and searching adds to "
        "a process.",
    )
    parts += [svg_text(16, BOTTOM + 56 + 17 * n, t, GREY, size=12) for n, t in enumerate(notes)]
    return svg_document(WIDTH, BOTTOM + 88, title, parts)


def _panel(label: str, ticks: tuple[float, ...], x: Place, y: Place, least: float) -> list[str]:
    left, right = x(ticks[0]), x(ticks[-1])
    parts = [svg_text((left + right) / 2, BOTTOM + 36, label, GREY, "middle", size=12)]
    for tick in ticks:
        parts.append(svg_line(x(tick), TOP, x(tick), BOTTOM))
        parts.append(svg_text(x(tick), BOTTOM + 17, f"{tick:,g}", GREY, "middle", size=11))
    for recall in (0.6, 0.7, 0.8, 0.9, 1.0):
        parts.append(svg_line(left, y(recall), right, y(recall)))
        parts.append(svg_text(left - 6, y(recall) + 4, f"{recall:g}", GREY, "end", size=11))
    parts.append(svg_line(left, y(least), right, y(least), AXIS, dash="3 3"))
    return parts


def _dot(x: float, y: float, colour: str) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.6" fill="{colour}"/>'


def main() -> None:
    """Draw one result beside its file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("result", type=Path, nargs="?", default=RESULTS / "bigranular_search.json")
    path = parser.parse_args().result
    drawing = draw(json.loads(path.read_text(encoding="utf-8")))
    path.with_suffix(".svg").write_text(drawing, encoding="utf-8")


if __name__ == "__main__":
    main()
