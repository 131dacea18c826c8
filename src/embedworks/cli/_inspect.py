"""``embedworks encode``, ``info`` and ``list``."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from embedworks._core.registry import REGISTRIES
from embedworks._core.validation import check_choice
from embedworks.cli._output import JsonFlag, console, emit_json, show_table
from embedworks.errors import EmptyInputError, InputError, NotFoundError

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(encode)
    app.command()(info)
    app.command(name="list")(list_kind)


def encode(
    texts: Annotated[
        list[str] | None, typer.Argument(help="Texts; without any, lines of standard input.")
    ] = None,
    model: Annotated[str, typer.Option(help="static, minilm, a folder or a hub name.")] = "static",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write the vectors to this .npy file.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Turn texts into vectors."""
    import numpy as np

    import embedworks as ew
    from embedworks._core.files import atomic_path

    items = texts or [line.rstrip("\n") for line in sys.stdin]
    if not items:
        raise EmptyInputError("Nothing to encode: give texts, or pipe one per line.")
    if out is not None and out.suffix != ".npy":
        raise InputError(f"--out must end in .npy, got {out}.")
    vectors = np.asarray(ew.load(model).encode(items), dtype=np.float32)
    if out is not None:
        with atomic_path(out) as temporary, open(temporary, "wb") as handle:
            np.save(handle, vectors)
    if json:
        value: dict[str, Any] = {"model": model, "shape": list(vectors.shape)}
        value |= {"out": str(out)} if out else {"vectors": vectors.tolist()}
        emit_json(value)
    elif out is not None:
        console.print(f"{vectors.shape[0]:,} vectors of {vectors.shape[1]} dimensions in {out}")
    else:
        for item, vector in zip(items, vectors, strict=True):
            head = " ".join(f"{x:+.4f}" for x in vector[:6])
            console.print(f"{item[:60]}\t{head} ... ({len(vector)} dimensions)", markup=False)


def info(
    target: Annotated[str, typer.Argument(help="A run folder, or a model name or folder.")],
    json: JsonFlag = False,
) -> None:
    """Tell what a run or a model is."""
    folder = Path(target)
    if (folder / "run.json").is_file() or (folder / "work" / "state.json").is_file():
        values = _run_info(folder)
    elif (folder / "collection.json").is_file():
        from embedworks.index import Collection

        values = _collection_info(Collection.open(folder))
    elif folder.is_dir() and not any(folder.glob("*.json")):
        raise NotFoundError(f"{folder} holds neither a run, nor a collection, nor a model.")
    else:
        values = _model_info(target)
    if json:
        emit_json(values)
        return
    show_table("", ["", ""], [[name, _plain(value)] for name, value in values.items()])


def list_kind(
    kind: Annotated[str | None, typer.Argument(help="What to list; without it, the kinds.")] = None,
    json: JsonFlag = False,
) -> None:
    """List what is registered: models, recipes, metrics and more."""
    if kind is None:
        if json:
            emit_json(sorted(REGISTRIES))
        else:
            for name in sorted(REGISTRIES):
                console.print(name)
        return
    module, attribute = REGISTRIES[check_choice(kind, REGISTRIES, name="kind")]
    registry = getattr(importlib.import_module(module), attribute)
    rows = [(name, registry.summary(name)) for name in registry]
    if json:
        emit_json([{"name": name, "summary": summary} for name, summary in rows])
    else:
        show_table("", ["name", "what it is"], rows)


def _run_info(folder: Path) -> dict[str, Any]:
    from embedworks.training import open_run

    searcher = open_run(folder)
    state = searcher.run.state
    stages = state["stages"]
    adapted = {}
    if "merge" in stages:
        adapted = {
            "merge": stages["merge"]["info"]["verdict"],
            "BM25 share": stages["merge"]["info"]["bm25_weight"],
            "verdict": stages["report"]["info"]["verdict"],
        }
    return {
        "kind": "run",
        "path": str(folder),
        "source": state["source"],
        "base": state["settings"]["base"],
        "started": state["started"],
        "seconds": round(searcher.run.stage_seconds, 1),
        "stages": list(stages),
        **adapted,
        **{k: v for k, v in _collection_info(searcher.collection).items() if k != "kind"},
    }


def _collection_info(collection: Any) -> dict[str, Any]:
    return {
        "kind": "collection",
        "rows": len(collection),
        "dimensions": collection.dim,
        "version": collection.version,
        "columns": dict(collection.columns),
        "bytes": collection.memory(),
    }


def _model_info(name: str) -> dict[str, Any]:
    import embedworks as ew
    from embedworks.models import StaticModel, model_fingerprint

    model = ew.load(name)
    limited = hasattr(model, "max_seq_length")
    kind = "sentence-transformers model" if limited else type(model).__name__
    return {
        "kind": "static model" if isinstance(model, StaticModel) else kind,
        "name": name,
        "dimensions": model.get_embedding_dimension(),
        "longest text": f"{model.max_seq_length} tokens" if limited else "any",
        "fingerprint": model_fingerprint(model),
    }


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(
            f"{k}: {v:,}" if isinstance(v, int) else f"{k}: {v}" for k, v in value.items()
        )
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) else str(value)
