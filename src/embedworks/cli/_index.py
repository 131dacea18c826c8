"""``embedworks index``: make an index of documents, change it, look into it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from embedworks._core.registry import did_you_mean
from embedworks.cli._output import JsonFlag, console, emit_json, show_table
from embedworks.errors import InputError, NotFoundError

if TYPE_CHECKING:
    from embedworks.index import Collection

__all__ = ["register"]

Target = Annotated[Path, typer.Argument(help="A run, or the folder of a collection.")]
Run = Annotated[Path, typer.Argument(help="Run folder, made by `adapt` or `index build`.")]
Exclude = Annotated[
    list[str] | None, typer.Option(help="Glob of relative paths to leave out; may be repeated.")
]
Ids = Annotated[list[str] | None, typer.Option("--id", help="A row's chunk_id; may be repeated.")]
Documents = Annotated[
    list[str] | None, typer.Option("--doc", help="A document's doc_id; may be repeated.")
]
Where = Annotated[
    str | None, typer.Option(help="Filter, such as \"path LIKE 'http%' AND year < 2020\".")
]
Wait = Annotated[
    float, typer.Option(help="Seconds to wait while another process writes to the collection.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only tell how many rows it would be.")]


class _Group(TyperGroup):
    """The group; a folder in the place of a command gets a hint."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        found = super().get_command(ctx, cmd_name)
        if found is None:
            self.suggest_commands = False  # the hint below says more
            hint = did_you_mean(cmd_name, self.list_commands(ctx))
            ctx.fail(
                f"There is no command {cmd_name!r}. {hint} To index documents: "
                f"embedworks index build {cmd_name} --out RUN"
            )
        return found


group = typer.Typer(
    cls=_Group,
    help="Index documents, change what is indexed, and look into it.",
    no_args_is_help=True,
)


def register(app: typer.Typer) -> None:
    """Add the group of commands."""
    app.add_typer(group, name="index")


@group.command()
def build(
    documents: Annotated[str, typer.Argument(help="Folder, file or table of documents.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the run.")],
    model: Annotated[
        str, typer.Option(help="Model to use as it is: static, minilm, a folder or a hub name.")
    ] = "static",
    index: Annotated[
        str,
        typer.Option(
            help="Dense search: exact scans, planned builds a graph too, auto does so when large."
        ),
    ] = "auto",
    exclude: Exclude = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a run that is there.")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Index documents with a model as it is, without training."""
    from embedworks.training import index_documents

    info = index_documents(
        documents, out=out, model=model, index=index, exclude=exclude, overwrite=overwrite
    )
    if json:
        emit_json(info)
        return
    console.print(
        f"{info['chunks']:,} chunks of {info['documents']:,} documents indexed in "
        f'{info["seconds"]:.1f} s. Search them: embedworks search {out} "..."'
    )


@group.command()
def add(
    run: Run,
    documents: Annotated[str, typer.Argument(help="Folder, file or table of documents.")],
    replace: Annotated[
        bool,
        typer.Option("--replace", help="Put documents that are there already in their place."),
    ] = False,
    exclude: Exclude = None,
    wait: Wait = 60.0,
    json: JsonFlag = False,
) -> None:
    """Add documents to a run's collection, with the run's own model, in one commit.

    A document is known by its path below the folder that is read, or by the id column of a table.
    """
    from embedworks.training import add_documents

    info = add_documents(
        run, documents, exclude=exclude, replace=replace, lock_timeout=wait,
        show_progress=False if json else None,
    )  # fmt: skip
    if json:
        emit_json(info)
        return
    console.print(
        f"{info['chunks']:,} chunks of {info['documents']:,} documents added in "
        f"{info['seconds']:.1f} s: {info['rows']:,} rows, version {info['version']}."
    )


@group.command()
def remove(
    run: Target,
    ids: Ids = None,
    documents: Documents = None,
    where: Where = None,
    dry_run: DryRun = False,
    wait: Wait = 60.0,
    json: JsonFlag = False,
) -> None:
    """Remove rows by id, by document or by a filter, in one commit.

    They can be brought back while the version before is kept: see `index versions`.
    """
    collection = _open(run, wait=wait)
    chosen = _chosen(collection, ids, documents, where)
    count = _count(collection, chosen) if dry_run else collection.remove(**chosen)
    _tell(collection, f"{count:,} rows {'would be ' if dry_run else ''}removed", count, json)


@group.command()
def update(
    run: Target,
    settings: Annotated[
        list[str],
        typer.Option("--set", help="column=value, such as year=2024 or kind=null; repeatable."),
    ],
    ids: Ids = None,
    documents: Documents = None,
    where: Where = None,
    dry_run: DryRun = False,
    wait: Wait = 60.0,
    json: JsonFlag = False,
) -> None:
    """Set attributes of rows, by id, by document or by a filter, in one commit.

    Texts are changed by `index add --replace`, because their vectors change with them.
    """
    from embedworks._core.settings import read_assignments

    collection = _open(run, wait=wait)
    chosen = _chosen(collection, ids, documents, where)
    values = read_assignments(settings, example="year=2024")
    count = _count(collection, chosen) if dry_run else collection.update(values, **chosen)
    _tell(collection, f"{count:,} rows {'would be ' if dry_run else ''}updated", count, json)


@group.command()
def compact(
    run: Target,
    keep: Annotated[int, typer.Option(help="How many versions can be opened afterwards.")] = 8,
    wait: Wait = 60.0,
    json: JsonFlag = False,
) -> None:
    """Merge small files and drop old versions; changes do it themselves now and then.

    Builds a large collection's graph again when a tenth of its rows have changed.
    """
    collection = _open(run, wait=wait)
    table = collection.path / "rows.lance"
    before = _bytes(table)
    collection.compact(keep=keep, show_progress=False if json else None)
    after = _bytes(table)
    if json:
        emit_json({"version": collection.version, "bytes_before": before, "bytes": after})
        return
    console.print(f"{before / 1e6:,.1f} MB before, {after / 1e6:,.1f} MB now.")


@group.command()
def explain(
    run: Run,
    query: Annotated[str, typer.Argument(help="What you look for.")],
    k: Annotated[int, typer.Option("-k", help="Number of results.")] = 10,
    where: Where = None,
    mode: Annotated[str, typer.Option(help="hybrid, dense or bm25.")] = "hybrid",
    rerank: Annotated[
        str | None, typer.Option(help="Cross-encoder that reads the first results: a folder.")
    ] = None,
    version: Annotated[int | None, typer.Option(help="An older version, if it is kept.")] = None,
    json: JsonFlag = False,
) -> None:
    """Carry out a search and say how: the filter, the plan, the time of each step."""
    from embedworks.training import open_run

    told = open_run(run, version=version).explain(
        query, k=k, where=where, mode=mode, rerank=_reranker(rerank)
    )
    if json:
        emit_json(told.to_dict())
        return
    console.print(str(told), markup=False)


@group.command()
def check(
    run: Target,
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Remove damaged and old caches and make them again."),
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Read every row and every cache, compare them, and say what to do.

    The exit code is 1 when something is damaged, 0 otherwise.
    """
    from embedworks.index import check_collection

    report = check_collection(_path(run), repair=repair)
    if json:
        emit_json(report.to_dict())
    else:
        show_table("", ["part", "state", "what"], [
            [finding.part, finding.state, f"{finding.message}. {finding.remedy}".strip()]
            for finding in report.findings
        ])  # fmt: skip
    if not report.is_sound:
        raise typer.Exit(1)


@group.command()
def versions(
    run: Target,
    restore: Annotated[
        int | None, typer.Option(help="Make this version's content the newest again.")
    ] = None,
    wait: Wait = 60.0,
    json: JsonFlag = False,
) -> None:
    """List the versions that can be opened, or go back to one, in one commit."""
    collection = _open(run, wait=wait)
    if restore is not None:
        collection.restore(restore)
    kept = [
        {"version": v.number, "time": v.time.isoformat(timespec="seconds"), "rows": v.rows}
        for v in collection.versions()
    ]
    if json:
        emit_json({"versions": kept, "newest": collection.version, "restored": restore})
        return
    show_table("", ["version", "time", "rows"], [list(entry.values()) for entry in kept])
    if restore is not None:
        console.print(f"Version {collection.version} has the content of version {restore}.")


def _path(target: Path) -> Path:
    """Return the collection's folder of a run or a collection."""
    if (target / "run.json").is_file() or (target / "work" / "state.json").is_file():
        from embedworks.training import RunFolder

        return RunFolder.open(target).part("collection")
    if (target / "collection.json").is_file():
        return target
    raise NotFoundError(f"{target} is neither a run nor a collection.")


def _open(target: Path, *, wait: float) -> Collection:
    from embedworks.index import Collection

    return Collection.open(_path(target), lock_timeout=wait)


def _chosen(
    collection: Collection,
    ids: list[str] | None,
    documents: list[str] | None,
    where: str | None,
) -> dict[str, Any]:
    """Return the rows that are meant, as arguments of `remove` and `update`."""
    if sum(bool(given) for given in (ids, documents, where)) != 1:
        raise InputError("Say which rows: by --id, by --doc or by --where, and by one of them.")
    if documents:
        from embedworks.index import In

        chosen = In("doc_id", tuple(documents))
        if not collection.count(chosen):
            raise InputError(f"No row belongs to a document {documents[0]!r}: see `info`.")
        return {"where": chosen}
    return {"where": where} if where else {"chunk_ids": ids}


def _count(collection: Collection, chosen: dict[str, Any]) -> int:
    from embedworks.index import In

    where = chosen.get("where") or In("chunk_id", tuple(chosen["chunk_ids"]))
    return collection.count(where)


def _tell(collection: Collection, text: str, count: int, json: bool) -> None:
    if json:
        facts = {"rows": len(collection), "version": collection.version}
        emit_json({"changed": count, **facts})
        return
    console.print(f"{text}; {len(collection):,} rows, version {collection.version}.")


def _reranker(name: str | None) -> Any:
    if name is None:
        return None
    from embedworks.models import load_reranker

    return load_reranker(name)


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
