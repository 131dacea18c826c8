"""``embedworks words``: word vectors trained on your own texts."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from embedworks.cli._output import JsonFlag, console, emit_json, show_table

__all__ = ["register"]

_SHOWN_WORDS = 5


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(words)


def words(
    source: Annotated[
        str, typer.Argument(help="Folder, file, or table with a text column, to learn from.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the model.")],
    method: Annotated[
        str,
        typer.Option(help="skipgram, cbow, fasttext, glove or ppmi: embedworks list word-methods."),
    ] = "skipgram",
    dim: Annotated[int, typer.Option(help="Number of dimensions.")] = 100,
    window: Annotated[int, typer.Option(help="Words to each side that are company.")] = 5,
    min_count: Annotated[int, typer.Option(help="Leave out words that occur less often.")] = 5,
    max_words: Annotated[
        int | None, typer.Option(help="Keep so many of the most frequent words.")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Passes over the texts; by default the method's own.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed; one thread repeats exactly.")] = 0,
    threads: Annotated[int, typer.Option(help="More are faster and do not repeat exactly.")] = 1,
    options: Annotated[
        list[str] | None,
        typer.Option("--set", help="Setting of the method, such as negatives=10; repeatable."),
    ] = None,
    text_column: Annotated[str, typer.Option(help="Column of tables with the text.")] = "text",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a model that is there.")
    ] = False,
    json: JsonFlag = False,
) -> None:  # fmt: skip
    """Train word vectors on documents; the folder is a model for every other command."""
    from embedworks._core.settings import read_assignments
    from embedworks.data import read_documents
    from embedworks.errors import InputError
    from embedworks.models import save, train_word_vectors
    from embedworks.models.words.training import method_settings

    if out.exists() and not overwrite:
        raise InputError(f"{out} is there already: choose another folder, or give --overwrite.")
    chosen = method_settings(method, read_assignments(options or (), example="negatives=10"))
    show = False if json else None
    documents = read_documents(source, text_column=text_column, show_progress=show)
    texts = (f"{document.title} {document.text}".strip() for document in documents)
    started = time.perf_counter()
    model = train_word_vectors(
        texts, chosen, dim=dim, window=window, min_count=min_count, max_words=max_words,
        epochs=epochs, seed=seed, threads=threads, show_progress=show,
    )  # fmt: skip
    seconds = time.perf_counter() - started
    save(model, out)
    known = _words_of(model)
    record = dict(model.metadata)
    found = {
        "model": str(out),
        "different_words": len(known),
        "seconds": round(seconds, 3),
        "training": record,
    }
    if json:
        emit_json(found)
        return
    console.print(
        f"{record['words']:,} words of {len(known):,} different ones, in {record['texts']:,} "
        f"documents, {seconds:.1f} s."
    )
    vectors = model.encode(known)
    scores = vectors[:_SHOWN_WORDS] @ vectors.T
    rows = []
    for word, own in zip(known, scores):
        near = [known[i] for i in (-own).argsort(kind="stable")[:8] if known[i] != word]
        rows.append([word, ", ".join(near[:_SHOWN_WORDS])])
    show_table("The most frequent words", ["word", "nearest"], rows)
    console.print(f"\nModel: {out}", markup=False)


def _words_of(model: object) -> list[str]:
    """Return a trained model's words, most frequent first."""
    from embedworks.models import StaticModel, SubwordModel

    if isinstance(model, SubwordModel):
        return model.words
    assert isinstance(model, StaticModel)
    numbers = model.tokenizer.get_vocab()
    return sorted(numbers, key=numbers.__getitem__)[1:]
