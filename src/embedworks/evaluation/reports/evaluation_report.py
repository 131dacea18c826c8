"""The report of an evaluation: which system is best at what, at what cost, and where each fails.

One HTML page that needs nothing but a browser, and the same tables as Markdown.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from embedworks._core.files import write_text
from embedworks._core.validation import check_unique
from embedworks.errors import EmptyInputError
from embedworks.evaluation.reports._evaluation_markdown import markdown
from embedworks.evaluation.reports._evaluation_sections import body
from embedworks.evaluation.reports._page import page
from embedworks.evaluation.runner import SystemResult
from embedworks.evaluation.statistics.comparing import SystemComparison, compare_systems

__all__ = ["evaluation_markdown", "render_evaluation_report", "write_evaluation_report"]


def render_evaluation_report(
    results: Sequence[SystemResult],
    *,
    title: str = "Evaluation",
    baseline: str | None = None,
    correction: str = "holm",
) -> str:
    """Return the report as one HTML page without any outside resource.

    Texts are escaped and cut, and long lists end with a count of what is left out, so the page
    stays below 3 MB whatever the results. It reads without its script, which only sorts tables
    and filters failures.

    Args:
        results: What `embedworks.evaluation.evaluate_systems` returned.
        title: Heading of the page.
        baseline: Compare all systems with this one; by default all pairs are compared.
        correction: As in `embedworks.evaluation.compare_systems`.

    Raises:
        EmptyInputError: When there are no results.
        InputError: As `embedworks.evaluation.compare_systems`.

    Example:
        >>> from embedworks.evaluation import LexicalSystem, RetrievalTask, evaluate_systems
        >>> task = RetrievalTask("<toy>", {"q": "cats"}, {"d": "A cat."}, {"q": {"d": 1}})
        >>> html = render_evaluation_report(evaluate_systems([LexicalSystem()], [task]))
        >>> "&lt;toy&gt;" in html
        True
    """
    return page(title, body(results, _compared(results, baseline, correction), title))


def evaluation_markdown(
    results: Sequence[SystemResult],
    *,
    title: str = "Evaluation",
    baseline: str | None = None,
    correction: str = "holm",
) -> str:
    """Return the report's tables as Markdown, with the worst failure of each system and task.

    Arguments and errors as in `render_evaluation_report`.

    Example:
        >>> from embedworks.evaluation import LexicalSystem, RetrievalTask, evaluate_systems
        >>> task = RetrievalTask("toy", {"q": "cats"}, {"d": "A cat."}, {"q": {"d": 1}})
        >>> text = evaluation_markdown(evaluate_systems([LexicalSystem()], [task]))
        >>> text.splitlines()[0]
        '# Evaluation'
    """
    return markdown(results, _compared(results, baseline, correction), title)


def write_evaluation_report(
    results: Sequence[SystemResult],
    path: str | Path,
    *,
    title: str = "Evaluation",
    baseline: str | None = None,
    correction: str = "holm",
) -> tuple[Path, Path]:
    """Write the page and the Markdown beside it; return both paths.

    Args:
        results: What `embedworks.evaluation.evaluate_systems` returned.
        path: Where the page goes; its suffix is replaced by ``.html`` and ``.md``.
        title: Heading of both.
        baseline: Compare all systems with this one; by default all pairs are compared.
        correction: As in `embedworks.evaluation.compare_systems`.

    Raises:
        EmptyInputError: When there are no results.
        StorageError: When a file cannot be written.
    """
    comparison = _compared(results, baseline, correction)
    target = Path(path)
    stem = target.with_suffix("") if target.suffix in (".html", ".md") else target
    html, text = (stem.with_name(stem.name + suffix) for suffix in (".html", ".md"))
    write_text(html, page(title, body(results, comparison, title)))
    write_text(text, markdown(results, comparison, title))
    return html, text


def _compared(
    results: Sequence[SystemResult], baseline: str | None, correction: str
) -> SystemComparison | None:
    """Return the comparison, or None when no two systems share a task."""
    if not results:
        raise EmptyInputError("A report needs the results of at least one system, got none.")
    check_unique([result.name for result in results], name="system names")
    ran = [n for result in results for n, one in result.tasks.items() if one.better != "neither"]
    if len(set(ran)) == len(ran):
        return None
    return compare_systems(results, baseline=baseline, correction=correction)
