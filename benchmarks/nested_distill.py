"""Train MiniLM to be cut, from its own vectors of unlabelled text.

    python benchmarks/nested_distill.py --device cuda --save M
    python benchmarks/nested_sizes.py ladder --model M --name distilled

Every size of a ladder learns the vectors of the untrained model (turned so that the first
coordinates hold most) and which texts of a batch it finds similar. Half of each batch are near
neighbours of the other half in the untrained model's eyes, so that similarities are not all about
0. Texts that are scored, and all captions of photos that are, do not occur. ``--layers 0,2,5``
trains a model of these three layers at the target size alone, for comparison.

Texts are tokenised once, and nothing is scored here. The last step comes after ``--steps`` or
``--seconds``, whichever is first; the learning rate has reached 0 by then. Weights are saved in
half precision. Needs the optional data folder; some of its texts are for research only, so nothing
made here ships.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from nested_sizes import LADDER, TARGET
from sentence_transformers.sentence_transformer.modules import Dense
from torch import Tensor

import embedworks as ew
from embedworks._core.progress import progress
from embedworks.data import Row, RowSet, decontaminate
from embedworks.evaluation import DataFolder
from embedworks.losses.alignment import score_divergence
from embedworks.modules.layers import layer_stack, pooled_layers
from embedworks.reproductions import pair_retrieval, stsb_graded

TOKENS = 48
#: Ranks that neighbours are drawn from, near ones oftener.
NEIGHBOURS = 32
#: Of the squared differences of similarities, which are about a fiftieth of the other terms.
SQUARES = 40.0
#: Of the softmax over similarities.
TEMPERATURE = 0.05
#: Parts of a batch, by length, so that short texts are not padded to the longest.
PARTS = 4


def scored_texts() -> list[str]:
    """Return every text that a benchmark scores, of validation and test."""
    found = [text for part in ("validation", "test") for a, b, _ in stsb_graded().part(part)
             for text in (a, b)]  # fmt: skip
    for record in DataFolder().records(
        "stsb_multi.parquet", ("lang", "split", "sentence1", "sentence2")
    ):
        if record["lang"] == "en" and record["split"] == "dev":
            found += [record["sentence1"], record["sentence2"]]
    world = pair_retrieval("captions", 2, documents=500, queries=500, seed=0)
    for part in ("validation", "test"):
        task = world.task(part)
        found += [*task.queries.values(), *dict(task.corpus).values()]
    return list(dict.fromkeys(found))


def _sentences(text: str) -> Iterator[str]:
    for sentence in re.split(r"(?<=[.!?])\s+", text):
        if 3 <= len(sentence.split()) <= 25:
            yield sentence


def _sources(scored: set[str]) -> Iterator[str]:
    read = DataFolder().records
    for record in read("multi30k_captions.parquet", ("en", "en_captions")):
        captions = [text for text in (record["en"], *(record["en_captions"] or ())) if text]
        if not scored & set(captions):
            yield from captions
    for record in read("stsb_multi.parquet", ("lang", "split", "sentence1", "sentence2")):
        if record["lang"] == "en" and record["split"] == "train":
            yield from (record["sentence1"], record["sentence2"])
    for record in read("sts_sick.parquet", ("sentence1", "sentence2")):
        yield from (record["sentence1"], record["sentence2"])
    for record in read("tatoeba_bitext.parquet", ("eng",)):
        yield record["eng"]
    for record in read("wordnet_synsets.parquet", ("definition", "examples")):
        yield from (record["definition"], *record["examples"])
    for record in read("text_classification.parquet", ("text",)):
        yield from _sentences(record["text"])
    for record in read("xquad.parquet", ("lang", "question", "context")):
        if record["lang"] == "en":
            yield record["question"]
            yield from _sentences(record["context"])
    for record in read("gsm8k.parquet", ("question",)):
        yield from _sentences(record["question"])
    for record in read("acl_abstracts.parquet", ("title", "abstract", "language")):
        if record["language"] == "eng":
            yield record["title"]
            yield from _sentences(record["abstract"])
    for record in read("long_docs_public_domain.parquet", ("lang", "text")):
        if record["lang"] == "en":
            yield from _sentences(" ".join(record["text"].split()))


def unlabelled_texts(count: int, seed: int) -> tuple[list[str], int]:
    """Return distinct texts in random order, and how many were dropped as too close to a test."""
    scored = scored_texts()
    distinct = list(dict.fromkeys(text for text in _sources(set(scored)) if text and text.strip()))
    order = np.random.default_rng(seed).permutation(len(distinct))[:count]
    rows = RowSet(Row(distinct[int(i)], distinct[int(i)], source="texts") for i in order)
    kept, report = decontaminate(rows, scored, method="ngram", ngram=8, parts=("anchor",))
    return [str(row.anchor) for row in kept], len(report.removed)


class Tokenised:
    """Token ids of all texts on the device, padded once.

    Args:
        model: Whose tokenizer reads them.
        texts: N texts, cut to 48 tokens.
        device: Torch device.
    """

    def __init__(self, model: Any, texts: Sequence[str], device: str) -> None:
        read = model.tokenizer(list(texts), truncation=True, max_length=TOKENS)["input_ids"]
        self.lengths = np.array([len(ids) for ids in read])
        table = np.zeros((len(read), TOKENS), dtype=np.int64)
        table[np.arange(TOKENS) < self.lengths[:, None]] = np.concatenate(read)
        self.ids = torch.from_numpy(table).to(device)

    def features(self, places: np.ndarray) -> dict[str, Tensor]:
        """Return ids and mask of some texts, as wide as the longest of them."""
        width = int(self.lengths[places].max())
        ids = self.ids[torch.from_numpy(places).to(self.ids.device), :width]
        return {"input_ids": ids, "attention_mask": (ids != 0).long()}


def teacher_vectors(model: Any, read: Tokenised, *, batch: int) -> Tensor:
    """Return unit vectors (N, D) of all texts."""
    order = np.argsort(read.lengths, kind="stable")
    found = torch.empty(len(order), 384, device=read.ids.device)
    model.eval()
    with torch.no_grad(), progress("Teacher", len(order)) as bar:
        for start in range(0, len(order), batch):
            places = order[start : start + batch]
            vectors = model(read.features(places))["sentence_embedding"]
            found[torch.from_numpy(places).to(found.device)] = F.normalize(vectors.float(), dim=1)
            bar.advance(len(places))
    return found


def principal_axes(vectors: Tensor) -> Tensor:
    """Return the directions (D, D) by how much of unit vectors they hold, most first."""
    sample = vectors.double()
    _, axes = torch.linalg.eigh(sample.T @ sample)
    return axes.flip(1).T.contiguous().float()


def nearest(vectors: Tensor, *, count: int, rows: int = 2048) -> Tensor:
    """Return the ``count`` nearest other texts of each, int32 (N, count)."""
    low = vectors.to(torch.bfloat16 if vectors.is_cuda else torch.float32)
    found = torch.empty(len(low), count, dtype=torch.int32, device=low.device)
    for start in range(0, len(low), rows):
        scores = low[start : start + rows] @ low.T
        found[start : start + rows] = scores.topk(count + 1, dim=1).indices[:, 1:].int()
    return found


def _others(square: Tensor) -> Tensor:
    """Return a square matrix (B, B) without its diagonal, (B, B - 1)."""
    size = len(square)
    return square.flatten()[1:].view(size - 1, size + 1)[:, :-1].reshape(size, size - 1)


def distance(vectors: Tensor, taught: Tensor) -> Tensor:
    """Return how far a size is from the untrained model: directions, order, similarities.

    Args:
        vectors: (B, d) of the size.
        taught: (B, D) unit vectors of the untrained model, turned to its principal axes.
    """
    unit = F.normalize(vectors.float(), dim=1)
    goal = F.normalize(taught[:, : unit.shape[1]], dim=1)
    mine, theirs = _others(unit @ unit.T), _others(taught @ taught.T)
    return (
        1.0
        - (unit * goal).sum(1).mean()
        + score_divergence(mine, theirs, temperature=TEMPERATURE)
        + SQUARES * F.mse_loss(mine, theirs)
    )


def student(axes: Tensor, layers: Sequence[int] | None, device: str) -> Any:
    """Return MiniLM, its vectors turned to the axes; with ``layers``, of these layers alone."""
    model: Any = ew.load("minilm", device=device)
    model.max_seq_length = TOKENS
    width = len(axes)
    turn = Dense(width, width, bias=False, activation_function=torch.nn.Identity(),
                 init_weight=axes.cpu())  # fmt: skip
    parts = list(model.named_children())
    del model._modules[parts[-1][0]]
    model.add_module("turn", turn.to(device))
    model.add_module("normalize", parts[-1][1])
    if layers is not None:
        body = model[0].auto_model
        stack = layer_stack(body)
        setattr(stack.owner, stack.name, torch.nn.ModuleList(stack.layers[n] for n in layers))
        body.config.num_hidden_layers = len(layers)
    return model


def train(
    model: Any,
    sizes: Sequence[tuple[int, int]],
    read: Tokenised,
    taught: Tensor,
    near: Tensor,
    options: argparse.Namespace,
) -> dict[str, float]:
    """Train the model in place; return steps, seconds and the mean of the last losses."""
    weights = [p for p in model.parameters() if p.requires_grad]
    cuda = options.device == "cuda"
    optimizer = torch.optim.AdamW(weights, lr=options.lr, weight_decay=0.01, fused=True)
    rng = np.random.default_rng(options.seed)
    neighbours = near.cpu().numpy()
    layers = sorted({layer for layer, _ in sizes})
    total = torch.zeros((), device=taught.device)
    # Without dropout: the goals are exact, and there is more text than a model of this size learns.
    model.eval()
    started, step, losses = time.perf_counter(), 0, []
    with progress("Training", options.steps) as bar:
        while True:
            gone = time.perf_counter() - started
            share = max(step / options.steps, gone / options.seconds)
            if share >= 1:
                break
            for group in optimizer.param_groups:
                group["lr"] = options.lr * min(1.0, 20 * (share + 1e-3), (1 - share) / 0.95)
            anchors = rng.choice(len(taught), options.batch // 2, replace=False)
            rank = np.floor((NEIGHBOURS + 1) ** rng.random(len(anchors))).astype(int) - 1
            places = np.unique(np.concatenate([anchors, neighbours[anchors, rank]]))
            places = places[np.argsort(read.lengths[places], kind="stable")]
            parts = []
            with torch.autocast(options.device, dtype=torch.bfloat16):
                for part in np.array_split(places, PARTS):
                    parts.append(pooled_layers(model, read.features(part), layers))
            joined = dict(zip(layers, map(torch.cat, zip(*parts, strict=True)), strict=True))
            goal = taught[torch.from_numpy(places).to(taught.device)]
            loss = sum((distance(joined[n][:, :d], goal) for n, d in sizes), start=total)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            losses.append(loss.detach())
            step += 1
            if cuda and step % 20 == 0:
                # The clock must not run ahead of the device.
                torch.cuda.synchronize()
            bar.advance()
    tail = torch.stack(losses[-max(1, len(losses) // 20) :]).mean()
    return {
        "steps": step,
        "seconds": round(time.perf_counter() - started, 1),
        "loss": round(float(tail) / len(sizes), 4),
    }


def main() -> None:
    """Train and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--save", type=Path, required=True, help="folder of the trained model")
    parser.add_argument("--steps", type=int, default=12_000)
    parser.add_argument("--seconds", type=float, default=240.0, help="most seconds of training")
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--texts", type=int, default=1_000_000, help="most texts")
    parser.add_argument("--layers", help="numbers of MiniLM's layers, from 0: these alone")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    clock = time.perf_counter()
    seconds: dict[str, float] = {}

    def lap(name: str) -> None:
        nonlocal clock
        seconds[name] = round(time.perf_counter() - clock, 1)
        print(f"{name}: {seconds[name]} s", flush=True)
        clock = time.perf_counter()

    texts, removed = unlabelled_texts(options.texts, options.seed)
    lap("reading")
    teacher: Any = ew.load("minilm", device=options.device)
    read = Tokenised(teacher, texts, options.device)
    lap("tokenising")
    vectors = teacher_vectors(teacher, read, batch=4096 if options.device == "cuda" else 64)
    axes = principal_axes(vectors)
    lap("teacher")
    near = nearest(vectors, count=NEIGHBOURS)
    lap("neighbours")
    layers = [int(n) for n in options.layers.split(",")] if options.layers else None
    sizes = LADDER if layers is None else ((len(layers), TARGET[1]),)
    model = student(axes, layers, options.device)
    done = train(model, sizes, read, vectors @ axes.T, near, options)
    lap("training")
    model.to("cpu").half().save_pretrained(str(options.save), create_model_card=False)
    record = {
        "texts": len(texts),
        "removed_as_close_to_scored_texts": removed,
        "tokens_per_text": round(float(read.lengths.mean()), 1),
        "sizes": [list(size) for size in sizes],
        "settings": {k: v for k, v in vars(options).items() if k != "save"},
        "seconds_of_parts": seconds,
        **done,
    }
    (options.save / "training.json").write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
