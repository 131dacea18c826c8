"""The main job end to end, on real modules of the standard library and a tiny model."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("lancedb")

import embedworks as ew
from embedworks.errors import (
    BudgetError,
    EmptyInputError,
    FormatError,
    InputError,
    SettingsError,
    UnknownNameError,
)
from embedworks.training import AdaptSettings, RunFolder, index_documents, load_recipe, open_run


@pytest.fixture(scope="module")
def settings(static_folder) -> AdaptSettings:
    return AdaptSettings.from_dict(
        {
            "base": str(static_folder),
            "budget": "10m",
            "split": {"validation": 0.2, "test": 0.2},
            "static": {"epochs": 6, "batch_size": 64, "learning_rate": 0.02},
            "evaluation": {"resamples": 200},
        }
    )


@pytest.fixture(scope="module")
def finished(documents, settings, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "whole"
    plans = []
    result = ew.adapt(documents, out=out, recipe=settings, on_plan=plans.append)
    return result, plans


def test_a_run_has_every_part_and_says_what_was_gained(finished):
    result, plans = finished
    assert [step.name for step in plans[0].steps] == [
        "encode and mine", "train", "merge", "evaluate", "index and report",
    ]  # fmt: skip
    names = {path.name for path in result.path.iterdir()}
    assert names == {
        "run.json", "run.jsonl", "recipe.yaml", "model", "collection", "results.json",
        "report.html",
    }  # fmt: skip
    assert result.documents == 17
    assert result.pairs > 100
    assert result.results["questions"] > 20
    assert set(result.results["systems"]) == {"bm25", "base", "base_hybrid", "adapted", "hybrid"}
    assert "adapted + BM25" in result.table
    assert "held-out questions" in result.verdict
    json.dumps(result.to_dict(), allow_nan=False)


def test_training_helps_a_random_table(finished):
    result, _ = finished
    means = {
        name: system["intervals"]["ndcg@10"]["mean"]
        for name, system in result.results["comparison"]["results"].items()
    }
    assert result.weight > 0
    assert means["adapted"] > means["base"]


def test_the_report_needs_nothing_from_outside(finished):
    page = finished[0].report.read_text(encoding="utf-8")
    assert len(page) < 3_000_000
    assert "<svg" in page
    for attribute in ('src="http', 'href="http', "@import", "url(http"):
        assert attribute not in page


def test_the_model_loads_here_and_in_sentence_transformers(finished):
    st = pytest.importorskip("sentence_transformers")
    texts = ["read a zip archive", "Wrap text, please."]
    ours = ew.load(finished[0].model).encode(texts)
    theirs = st.SentenceTransformer(str(finished[0].model), device="cpu").encode(texts)
    np.testing.assert_allclose(ours, theirs, atol=2e-3)


def test_a_run_is_searched_in_every_mode(finished):
    path = finished[0].path
    for mode in ("hybrid", "dense", "bm25"):
        hits = ew.search(path, "extract a member of a tar archive", k=5, mode=mode)
        assert len(hits) == 5
        assert any("tarfile" in hit.path for hit in hits), mode
        assert [hit.score for hit in hits] == sorted((h.score for h in hits), reverse=True)
    only = ew.search(path, "open a file", k=100, where="folder = 'first' AND kind = 'code'")
    assert {hit.attributes["folder"] for hit in only} == {"first"}
    searcher = open_run(path)
    total = searcher.collection.count()
    assert len(searcher.search("file", k=10 * total)) == total
    assert "hybrid search" in str(searcher.explain("file"))


def test_bad_queries_are_explained(finished):
    path = finished[0].path
    with pytest.raises(InputError, match="empty"):
        ew.search(path, "   ")
    with pytest.raises(InputError, match="k must be"):
        ew.search(path, "a", k=0)
    with pytest.raises(InputError, match="Did you mean 'path'"):
        ew.search(path, "a", where="pathh = 'x'")
    with pytest.raises(UnknownNameError, match="Did you mean 'dense'"):
        ew.search(path, "a", mode="dens")


def test_a_collection_beside_a_foreign_model_is_refused(finished, static_folder, tmp_path):
    import shutil

    shutil.copytree(finished[0].path, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "model")
    shutil.copytree(static_folder, tmp_path / "run" / "model")
    with pytest.raises(FormatError, match="not made with the model beside it"):
        ew.search(tmp_path / "run", "text")


def test_the_same_seed_gives_the_same_model(finished, documents, settings, tmp_path):
    again = ew.adapt(documents, out=tmp_path / "again", recipe=settings)
    assert _fingerprint(again.path) == _fingerprint(finished[0].path)


def test_a_killed_run_resumes_to_the_same_result(finished, documents, settings, tmp_path):
    """kill -9 of a real process at random moments, then resume, until it is done."""
    kills = _kill_and_resume(documents, settings, tmp_path, seed=1, most=3)
    assert kills >= 1
    assert _fingerprint(tmp_path / "run") == _fingerprint(finished[0].path)


@pytest.mark.slow
def test_many_kills_still_give_the_same_result(finished, documents, settings, tmp_path):
    kills = attempt = 0
    while kills < 20:
        (tmp_path / str(attempt)).mkdir()
        kills += _kill_and_resume(
            documents, settings, tmp_path / str(attempt), seed=attempt, most=8
        )
        assert _fingerprint(tmp_path / str(attempt) / "run") == _fingerprint(finished[0].path)
        attempt += 1


def _kill_and_resume(documents, settings, folder, *, seed, most) -> int:
    settings.to_yaml(folder / "recipe.yaml")
    code = (
        "import sys, embedworks as ew\n"
        "docs, out, recipe, resume = sys.argv[1:]\n"
        "ew.adapt(docs, out=out, recipe=recipe, resume=resume == 'yes')\n"
    )
    rng = random.Random(seed)
    kills = 0
    while True:
        started = RunFolder.exists(folder / "run")
        command = [sys.executable, "-c", code, str(documents), str(folder / "run")]
        command += [str(folder / "recipe.yaml"), "yes" if started else "no"]
        child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        stages = _stages(folder / "run")
        limit = rng.uniform(0.0, 1.5)
        while child.poll() is None and kills < most:
            # Let it finish one stage more than before, then kill it a random moment later.
            if _stages(folder / "run") > stages:
                time.sleep(limit)
                break
            time.sleep(0.02)
        if child.poll() is None and kills < most:
            os.kill(child.pid, signal.SIGKILL)
            child.communicate()
            kills += 1
            continue
        _, errors = child.communicate()
        assert child.returncode == 0, errors
        return kills


def _stages(run) -> int:
    try:
        return len(json.loads((run / "work" / "state.json").read_text())["stages"])
    except FileNotFoundError:
        return 0


def _fingerprint(run) -> dict[str, str]:
    """Short digests, so that a difference is readable."""
    collection = open_run(run).collection
    ids = "\n".join(collection.rows["chunk_id"].to_pylist())
    return {
        "model": ew.load(str(run / "model")).content_hash,
        "vectors": hashlib.sha256(collection.vectors.tobytes()).hexdigest(),
        "rows": hashlib.sha256(ids.encode()).hexdigest(),
        "merge": json.dumps(RunFolder.open(run).info("merge")),
    }


def test_a_harmful_training_keeps_the_base(documents, settings, static_folder, tmp_path):
    """A shuffled table stands for a training gone wrong: no share of it may be taken."""
    from embedworks.training._adapt_job import Job
    from embedworks.training._adapt_merge import merge_stage
    from embedworks.training._adapt_read import read_stage

    base = ew.load(str(static_folder))
    run = RunFolder.create(tmp_path / "run", settings=settings.to_dict(), source=str(documents))
    job = Job(run, settings, str(documents))
    run.finish_stage("read", 1.0, read_stage(job))
    shuffled = np.random.default_rng(0).permutation(base.table) * 3
    base.with_table(shuffled).save_pretrained(run.work / "adapted", dtype="float32")
    decision = merge_stage(job)
    assert decision["weight"] == 0.0
    assert "base kept" in decision["verdict"]
    assert [point["weight"] for point in decision["curve"]] == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert ew.load(str(run.part("model"))).content_hash == base.content_hash


def test_overwriting_and_resuming_need_to_be_asked_for(finished, documents, settings):
    path = finished[0].path
    with pytest.raises(InputError, match="--overwrite"):
        ew.adapt(documents, out=path, recipe=settings)
    assert ew.adapt(documents, out=path, recipe=settings, resume=True).pairs == finished[0].pairs
    with pytest.raises(SettingsError, match="other values of seed"):
        ew.adapt(documents, out=path, recipe=settings, seed=5, resume=True)


def test_documents_that_give_nothing_are_explained(tmp_path, settings):
    (tmp_path / "empty").mkdir()
    with pytest.raises(EmptyInputError):
        ew.adapt(tmp_path / "empty", out=tmp_path / "a", recipe=settings)
    (tmp_path / "words").mkdir()
    for word in ("one", "two", "three", "four"):
        (tmp_path / "words" / f"{word}.txt").write_text(word)
    with pytest.raises(EmptyInputError, match="embedworks index"):
        ew.adapt(tmp_path / "words", out=tmp_path / "b", recipe=settings)
    found = index_documents(tmp_path / "words", out=tmp_path / "c", model=settings.base)
    assert found["chunks"] == 4
    assert ew.search(tmp_path / "c", "three", k=9)[0].text == "three"


def test_one_long_file_is_split_by_chunks(tmp_path, settings, documents):
    (tmp_path / "docs").mkdir()
    source = next(documents.rglob("argparse.py"))
    (tmp_path / "docs" / "argparse.py").write_bytes(source.read_bytes())
    result = ew.adapt(tmp_path / "docs", out=tmp_path / "run", recipe=settings)
    assert result.documents == 1
    assert result.results["questions"] > 0


def test_a_budget_too_small_to_train_is_refused_before_training(documents, settings, tmp_path):
    with pytest.raises(BudgetError, match="Raise --budget"):
        ew.adapt(documents, out=tmp_path / "run", recipe=settings, budget="1s")


def test_transformers_are_adapted_too(documents, transformer_folder, tmp_path, settings):
    few = settings.replace(
        base=str(transformer_folder),
        chunking={"max_tokens": 64},
        transformer={"epochs": 0.05, "batch_size": 16, "max_tokens": 32, "learning_rate": 1e-3},
        merge={"transformer_weights": [1.0], "max_corpus": 200},
        evaluation={"resamples": 200, "max_queries": 50},
    )
    result = ew.adapt(documents, out=tmp_path / "run", recipe=few)
    assert result.results["questions"] > 10
    assert len(ew.search(result.path, "tar archive", k=3)) == 3


def test_tables_are_adapted_and_judged(tmp_path, settings):
    """A Parquet table in, judged queries out, by document id."""
    pa = pytest.importorskip("pyarrow")
    import inspect
    import textwrap

    import pyarrow.parquet as pq

    from embedworks.training import evaluate_run_folder

    modules = ["textwrap", "heapq", "csv", "shutil", "statistics", "random", "bisect", "copy"]
    rows = []
    for name in modules:
        module = __import__(name)
        for label, thing in inspect.getmembers(module, callable):
            text = inspect.getdoc(thing)
            if text and not label.startswith("_"):
                rows.append({"doc_id": f"{name}.{label}", "title": label, "text": text})
    unique = {textwrap.shorten(row["text"], 200): row for row in rows}
    pq.write_table(pa.Table.from_pylist(list(unique.values())), tmp_path / "corpus.parquet")
    result = ew.adapt(tmp_path / "corpus.parquet", out=tmp_path / "run", recipe=settings)
    comparison, milliseconds = evaluate_run_folder(
        result.path,
        {"q1": "wrap paragraph to width of lines", "q2": "median of numeric data"},
        {"q1": {"textwrap.wrap": 1, "textwrap.fill": 1}, "q2": {"statistics.median": 2}},
    )
    assert set(comparison.systems) == {"bm25", "base", "base_hybrid", "adapted", "hybrid"}
    assert comparison.results["bm25"].intervals["ndcg@10"].mean > 0.3
    assert milliseconds["hybrid"] > 0


def test_recipes_that_come_with_the_package_are_valid():
    assert load_recipe("adapt", AdaptSettings) == AdaptSettings()
    with pytest.raises(UnknownNameError, match="Did you mean"):
        load_recipe("adpt", AdaptSettings)
    with pytest.raises(SettingsError, match="static-en"):
        load_recipe("static-en", AdaptSettings)


def test_settings_of_a_run_are_kept_as_a_recipe(finished, settings):
    assert AdaptSettings.from_yaml(finished[0].path / "recipe.yaml") == settings
    assert RunFolder.open(finished[0].path).state["settings"] == settings.to_dict()
