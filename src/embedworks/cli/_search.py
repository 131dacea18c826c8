"""``embedworks search``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from embedworks.cli._output import JsonFlag, console, emit_json

if TYPE_CHECKING:
    from embedworks.index import Hit

__all__ = ["register", "show_hits"]

RunArgument = Annotated[Path, typer.Argument(help="Run folder, made by `adapt` or `index build`.")]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(search)


def search(
    run: RunArgument,
    query: Annotated[str, typer.Argument(help="What you look for.")],
    k: Annotated[int, typer.Option("-k", help="Number of results.")] = 10,
    where: Annotated[
        str | None, typer.Option(help="Filter, such as \"path LIKE 'http%' AND kind = 'code'\".")
    ] = None,
    mode: Annotated[str, typer.Option(help="hybrid, dense or bm25.")] = "hybrid",
    rerank: Annotated[
        str | None,
        typer.Option(
            help="Cross-encoder that reads the first results again: a folder or hub name."
        ),
    ] = None,
    rerank_depth: Annotated[int, typer.Option(help="How many results it reads.")] = 50,
    version: Annotated[
        int | None, typer.Option(help="Search an older version, see `index versions`.")
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Say how the search was carried out.")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Search a run: title, place, score and the passage that matches."""
    from embedworks.training import open_run

    searcher = open_run(run, version=version)
    options: dict[str, Any] = {"k": k, "where": where, "mode": mode}
    if rerank is not None:
        from embedworks.models import load_reranker

        options |= {"rerank": load_reranker(rerank), "rerank_depth": rerank_depth}
    hits = searcher.search(query, **options)
    plan = searcher.explain(query, **options) if explain else None
    if json:
        value = {"query": query, "mode": mode, "where": where, "hits": [h.to_dict() for h in hits]}
        emit_json({**value, "plan": str(plan)} if plan else value)
        return
    if not hits:
        console.print("Nothing matches." if where is None else "Nothing matches the filter.")
    show_hits(hits)
    if plan:
        console.print(f"\n{plan}", style="dim", markup=False)


def show_hits(hits: Sequence[Hit], *, passages: bool = True) -> None:
    """Print hits for people; matching words stand out."""
    for hit in hits:
        place = hit.path
        if hit.start_line is not None:
            place += f":{hit.start_line}-{hit.end_line}"
        head = Text(f"{hit.rank:>2}. ", style="dim")
        head.append(hit.title or hit.path, style="bold")
        head.append(f"  {hit.score:.3f}", style="green")
        if hit.first_score is not None:
            head.append(f"  (before reranking {hit.first_score:.3f})", style="dim")
        console.print(head)
        console.print(Text(f"    {place}", style="cyan"))
        if passages:
            passage = Text(hit.passage)
            for start, end in hit.highlights:
                passage.stylize("bold yellow", start, end)
            for line in passage.split("\n"):
                console.print(Text("    ").append_text(line))
