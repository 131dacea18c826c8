"""The model card of a staged training: how to use it, what it scored, how it was made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from embedworks.training.stages import metric_table

if TYPE_CHECKING:
    from embedworks.training.plan import PlanSettings

__all__ = ["plan_card"]


def plan_card(plan: PlanSettings, metrics: Mapping[str, Any]) -> str:
    """Return the card in Markdown, with the resolved recipe in it."""
    lines = [
        "---",
        "library_name: sentence-transformers",
        "pipeline_tag: sentence-similarity",
        "tags: [sentence-transformers, embedworks]",
        "---",
        "",
        f"# {plan.name}",
        "",
        f"`{plan.model.base}`, trained in {len(plan.stages)} stage(s) with embedworks"
        + (f" after the recipe of {plan.paper}." if plan.paper else "."),
        "",
        "```python",
        "import embedworks as ew",
        "",
        'model = ew.load("path/to/this/folder")',
        'vectors = model.encode(["a text"])',
        "```",
        "",
    ]
    if plan.model.prompts:
        lines += [
            "It was trained with an instruction per task. `task_prompts.json` has them by the name "
            "of the training source; put the query template in front of queries:",
            "",
        ]
        for name, prompt in plan.model.prompts.items():
            shown = prompt.build().format("...", "query").text.replace("\n", "\\n")
            lines.append(f"- `{name}`: `{shown}`")
        lines.append("")
    table = metric_table(metrics)
    columns = list(dict.fromkeys(key for line in table for key in line))
    if len(columns) > 1:
        lines += ["## Measured on what was held out", ""]
        lines += ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
        for line in table:
            cells = [_cell(line.get(column, "")) for column in columns]
            lines.append("| " + " | ".join(cells) + " |")
        lines += ["", "Gains are paired differences to the base, with their interval.", ""]
    lines += ["## Recipe", "", "```yaml", plan.to_yaml_text().rstrip(), "```", ""]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if isinstance(value, list):
        mean, low, high = value
        return f"{mean:+.4f} [{low:+.4f}, {high:+.4f}]"
    return str(value)
