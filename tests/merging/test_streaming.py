"""Merging files: the same as in memory, safe under kills and damage, small in memory."""

from __future__ import annotations

import json
import os
import random
import signal
import struct
import subprocess
import sys
import time
import tracemalloc
import warnings

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from embedworks.errors import (
    DataWarning,
    EmbedworksError,
    EmptyInputError,
    FormatError,
    InputError,
    NonFiniteError,
    NotFoundError,
    SettingsError,
    StorageError,
    UnknownNameError,
)
from embedworks.merging import MERGE_METHODS, merge_files, streaming
from embedworks.merging._tensor_files import TensorSource, decode, encode

SHAPES = {"table": (30, 8), "a.weight": (8, 8), "b.weight": (8, 8), "b.bias": (8,), "scalar": ()}


def tensors_of(seed: int, dtype=np.float32, shapes=None) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = SHAPES if shapes is None else shapes
    return {name: rng.normal(size=shape).astype(dtype) for name, shape in shapes.items()}


def save(folder, tensors, *, shards: int = 1, metadata=None):
    """Write a model folder as one file or in shards."""
    folder.mkdir(parents=True)
    tensors = {name: np.ascontiguousarray(t).reshape(t.shape) for name, t in tensors.items()}
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata=metadata)
        return folder
    names = list(tensors)
    where = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        mine = names[shard::shards]
        save_file({n: tensors[n] for n in mine}, folder / file, metadata=metadata)
        where |= dict.fromkeys(mine, file)
    total = sum(t.nbytes for t in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def load(folder) -> dict[str, np.ndarray]:
    """Read a model with the ordinary library."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return load_file(folder / "model.safetensors")
    where = json.loads(index.read_text())["weight_map"]
    held = {file: load_file(folder / file) for file in set(where.values())}
    assert sum(map(len, held.values())) == len(where)
    return {name: held[file][name] for name, file in where.items()}


@pytest.fixture
def pair(tmp_path):
    return [save(tmp_path / name, tensors_of(seed)) for seed, name in enumerate(("one", "two"))]


def refuse(kind, inputs, out, method="linear", **options) -> str:
    """Merge, expect an error and nothing written; return its message."""
    with pytest.raises(kind) as caught:
        merge_files(inputs, out, method, **options)
    assert not out.exists()
    assert not [p for p in out.parent.iterdir() if p.name.startswith(".")]
    return str(caught.value)


@pytest.mark.parametrize("name", MERGE_METHODS.names())
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_streaming_equals_in_memory(tmp_path, name, dtype):
    method = MERGE_METHODS[name]
    count = min(max(method.least, 3), method.most or 3)
    models = [tensors_of(seed, dtype) for seed in range(count)]
    base = tensors_of(99, dtype) if method.takes_base else None
    folders = [save(tmp_path / str(n), model) for n, model in enumerate(models)]
    shards = [save(tmp_path / f"s{n}", model, shards=2) for n, model in enumerate(models)]
    origin = None if base is None else save(tmp_path / "base", base)
    merge_files(folders, tmp_path / "out", name, base=origin, workers=1)
    merge_files(shards, tmp_path / "sharded", name, base=origin, workers=3)
    merged, sharded = load(tmp_path / "out"), load(tmp_path / "sharded")
    for key in SHAPES:
        expected = method(
            [model[key] for model in models], base=None if base is None else base[key], key=key
        )
        assert merged[key].dtype == dtype
        np.testing.assert_array_equal(merged[key], expected)
        np.testing.assert_array_equal(sharded[key], expected)


@pytest.mark.parametrize("name", [n for n in MERGE_METHODS if MERGE_METHODS[n].elementwise])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
def test_merging_in_pieces_changes_nothing(tmp_path, monkeypatch, name, dtype):
    monkeypatch.setattr(streaming, "_PIECE", 64)  # bytes: 8 to 32 numbers
    models = [tensors_of(seed, dtype) for seed in range(4)]
    models[0]["n"] = models[1]["n"] = models[2]["n"] = models[3]["n"] = np.arange(100)
    folders = [save(tmp_path / str(n), model) for n, model in enumerate(models)]
    base = models[3] if MERGE_METHODS[name].needs_base else None
    weights = [0.5, 0.3, 0.2]
    merge_files(
        folders[:3], tmp_path / "out", name, weights=weights, base=folders[3] if base else None
    )
    found = load(tmp_path / "out")
    for key in SHAPES:
        expected = MERGE_METHODS[name](
            [model[key] for model in models[:3]], weights, base=base and base[key]
        )
        np.testing.assert_array_equal(found[key], expected)
    np.testing.assert_array_equal(found["n"], models[0]["n"])


def test_layout_metadata_and_report_are_kept(tmp_path):
    models = [
        save(tmp_path / str(n), tensors_of(n), shards=3, metadata={"format": "pt"}) for n in (0, 1)
    ]
    report = merge_files(models, tmp_path / "out", weights=[3, 1])
    names = {path.name for path in models[0].iterdir()}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    old, new = (
        {p.name: p.stat().st_size for p in f.iterdir()} for f in (models[0], tmp_path / "out")
    )
    old.pop("model.safetensors.index.json"), new.pop("model.safetensors.index.json")
    assert old == new
    source = TensorSource.open(tmp_path / "out")
    assert all(found == {"format": "pt"} for found in source.metadata.values())
    assert source.checksums() == report.files
    assert [item.files for item in report.inputs] == [
        TensorSource.open(m).checksums() for m in models
    ]
    assert [item.weight for item in report.inputs] == [3, 1]
    assert (report.tensors, report.parameters) == (5, sum(np.prod(s) for s in SHAPES.values()))
    assert report.size == sum(new.values())
    assert json.loads(json.dumps(report.to_dict()))["inputs"][0]["name"] == "0"


def test_files_indexes_and_folders_are_taken(tmp_path, pair):
    sharded = save(tmp_path / "sharded", load(pair[1]), shards=2)
    file = tmp_path / "deep" / "out.safetensors"
    index = sharded / "model.safetensors.index.json"
    report = merge_files([pair[0] / "model.safetensors", index], file)
    merge_files([sharded, pair[0]], tmp_path / "one.safetensors")
    merge_files(pair, tmp_path / "folder")
    expected = load(tmp_path / "folder")
    assert list(report.files) == ["out.safetensors"]
    for found in (load_file(file), load_file(tmp_path / "one.safetensors")):
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            np.testing.assert_allclose(found[name], tensor, rtol=1e-6)


def test_a_model_with_itself_is_the_same_file(tmp_path, pair):
    report = merge_files([pair[0], pair[0]], tmp_path / "out")
    assert report.files == report.inputs[0].files
    fast = merge_files([pair[0], pair[0]], tmp_path / "fast.safetensors", checksums=False)
    assert (fast.files, fast.inputs[0].files) == ({}, {})
    assert (tmp_path / "fast.safetensors").read_bytes() == (
        pair[0] / "model.safetensors"
    ).read_bytes()


def test_bfloat16_is_widened_and_rounded_to_nearest(tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file as load_torch
    from safetensors.torch import save_file as save_torch

    torch.manual_seed(0)
    models = [{"w": torch.randn(64, 33).bfloat16(), "n": torch.arange(3)} for _ in range(3)]
    for number, model in enumerate(models):
        save_torch(model, tmp_path / f"{number}.safetensors")
    paths = [tmp_path / f"{number}.safetensors" for number in range(3)]
    report = merge_files(paths, tmp_path / "out.safetensors")
    merged = load_torch(tmp_path / "out.safetensors")
    wide = [model["w"].float().numpy() for model in models]
    expected = torch.from_numpy(MERGE_METHODS["linear"](wide)).bfloat16()
    assert torch.equal(merged["w"], expected)
    assert torch.equal(merged["n"], models[0]["n"])
    assert report.copied == ("n",)
    halves = torch.tensor([1.00390625, 1.01171875, -3.0e38, 0.0])
    wanted = halves.bfloat16().view(torch.int16).numpy()
    np.testing.assert_array_equal(encode(halves.numpy().copy(), "BF16").view(np.int16), wanted)
    np.testing.assert_array_equal(
        decode(wanted.view(np.uint8), "BF16", (4,)), halves.bfloat16().float().numpy()
    )


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_results_too_large_for_the_type_are_refused(tmp_path, dtype):
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file as save_torch

    largest = torch.full((4,), torch.finfo(getattr(torch, dtype)).max, dtype=getattr(torch, dtype))
    save_torch({"w": largest}, tmp_path / "a.safetensors")
    message = refuse(
        NonFiniteError, [tmp_path / "a.safetensors"], tmp_path / "out.safetensors",
        weights=[1.01], options={"normalize": False},
    )  # fmt: skip
    assert "w" in message
    assert "too large" in message


def test_empty_tensors_and_odd_names(tmp_path):
    model = {"none": np.zeros((0, 4), np.float32), 'ä "quoted"\n': np.ones(3, np.float64)}
    folder = save(tmp_path / "one", model)
    merge_files([folder, folder], tmp_path / "out")
    found = load(tmp_path / "out")
    assert found.keys() == model.keys()
    assert found["none"].shape == (0, 4)


def test_tied_tensors_stay_tied_under_random_methods(tmp_path):
    base, *models = ({**tensors_of(seed)} for seed in range(3))
    for model in (base, *models):
        model["head"] = model["table"].copy()
    folders = [save(tmp_path / str(n), model) for n, model in enumerate((base, *models))]
    report = merge_files(folders[1:], tmp_path / "out", "dare", base=folders[0])
    found = load(tmp_path / "out")
    np.testing.assert_array_equal(found["head"], found["table"])
    assert sorted(report.tied[0]) == ["head", "table"]


def test_one_model_may_store_a_tied_tensor_twice_and_another_once(tmp_path):
    once, twice = tensors_of(0), tensors_of(1)
    twice["head"] = twice["table"].copy()
    folders = [save(tmp_path / "once", once), save(tmp_path / "twice", twice)]
    merge_files(folders, tmp_path / "out")
    merge_files(folders[::-1], tmp_path / "reverse")
    assert load(tmp_path / "out").keys() == once.keys()
    found = load(tmp_path / "reverse")
    assert found.keys() == twice.keys()
    np.testing.assert_array_equal(found["head"], found["table"])
    np.testing.assert_allclose(found["table"], (once["table"] + twice["table"]) / 2, rtol=1e-6)
    twice["head"] += 1
    untied = save(tmp_path / "untied", twice)
    assert "'head'" in refuse(InputError, [folders[0], untied], tmp_path / "x")


def test_all_differences_are_told_at_once(tmp_path, pair):
    other = tensors_of(5)
    other["a.weight"] = other["a.weight"][:4]
    other["b.weight"] = other["b.weight"].astype(np.float16)
    other["b2.bias"] = other.pop("b.bias")
    message = refuse(InputError, [pair[0], save(tmp_path / "x", other)], tmp_path / "out")
    for part in (
        "'a.weight' has shape (8, 8) in model 1, (4, 8) in model 2",
        "'b.weight' is F32 in model 1, F16 in model 2",
        "'b.bias' is in model 1 and not in model 2",
        "'b2.bias' is in model 2 and not in model 1",
        str(tmp_path / "x"),
    ):
        assert part in message
    message = refuse(
        InputError, [pair[0]], tmp_path / "out", "task_arithmetic", base=tmp_path / "x"
    )
    assert "the base" in message
    many = {f"n{i}": np.ones(1, np.float32) for i in range(50)}
    message = refuse(InputError, [pair[0], save(tmp_path / "y", many)], tmp_path / "out")
    assert message.count("\n- ") == 11
    assert "and 45 more" in message


def test_integers_are_copied_when_equal_and_else_refused(tmp_path):
    model = {"w": np.ones(4, np.float32), "positions": np.arange(8), "flag": np.array([True])}
    one, two = (save(tmp_path / name, model) for name in "ab")
    assert sorted(merge_files([one, two], tmp_path / "out").copied) == ["flag", "positions"]
    model["positions"] = np.arange(8)[::-1]
    message = refuse(InputError, [one, save(tmp_path / "c", model)], tmp_path / "x")
    assert "'positions' holds integers (I64) that differ" in message
    only = save(tmp_path / "d", {"i": np.arange(3)})
    assert "integers only" in refuse(InputError, [only, only], tmp_path / "x")


def test_nan_names_tensor_and_model(tmp_path, pair):
    broken = tensors_of(7)
    broken["a.weight"][3, 2] = np.nan
    folder = save(tmp_path / "broken", broken)
    message = refuse(NonFiniteError, [pair[0], folder], tmp_path / "x")
    assert f"'a.weight' of {folder}" in message
    assert "1 of 64" in message
    message = refuse(NonFiniteError, pair, tmp_path / "x", "task_arithmetic", base=folder)
    assert str(folder) in message


def test_quantised_and_complex_types_are_refused(tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file as save_torch

    save_torch({"w": torch.ones(4).to(torch.float8_e4m3fn)}, tmp_path / "f8.safetensors")
    message = refuse(InputError, [tmp_path / "f8.safetensors"], tmp_path / "x")
    assert "'w' is of type F8_E4M3" in message


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        (UnknownNameError, {"method": "linaer"}),
        (SettingsError, {"options": {"density": 0.1}}),
        (InputError, {"weights": [1]}),
        (InputError, {"weights": "ab"}),
        (InputError, {"weights": 3}),
        (InputError, {"weights": [1, -1]}),
        (NonFiniteError, {"weights": [1, np.nan]}),
        (InputError, {"method": "ties"}),
        (InputError, {"base": "{base}"}),
        (NotFoundError, {"method": "ties", "base": "/no/such/model"}),
        (InputError, {"workers": 0}),
    ],
)
def test_wrong_calls_write_nothing(tmp_path, pair, kind, arguments):
    given = {k: str(pair[0]) if v == "{base}" else v for k, v in arguments.items()}
    refuse(kind, pair, tmp_path / "x", **given)


def test_inputs_that_are_no_models(tmp_path, pair):
    assert "at least one" in refuse(EmptyInputError, [], tmp_path / "x")
    refuse(NotFoundError, [pair[0], tmp_path / "nothing"], tmp_path / "x")
    (tmp_path / "bare").mkdir()
    refuse(NotFoundError, [pair[0], tmp_path / "bare"], tmp_path / "x")
    (tmp_path / "bare" / "pytorch_model.bin").write_bytes(b"x")
    assert "run code" in refuse(InputError, [pair[0], tmp_path / "bare"], tmp_path / "x")
    (tmp_path / "bare" / "adapter_config.json").write_text("{}")
    assert "adapter" in refuse(InputError, [pair[0], tmp_path / "bare"], tmp_path / "x")
    (tmp_path / "w.pt").write_bytes(b"x")
    assert "run code" in refuse(InputError, [tmp_path / "w.pt"], tmp_path / "x")
    save_file(tensors_of(1), pair[0] / "other.safetensors")
    merge_files(pair, tmp_path / "named")  # model.safetensors is the one that counts
    os.rename(pair[0] / "model.safetensors", pair[0] / "third.safetensors")
    assert "several sets" in refuse(InputError, pair, tmp_path / "x")


def test_out_is_never_an_input_nor_something_else(tmp_path, pair):
    before = load(pair[0])
    for out in (pair[0], pair[0] / "inside", tmp_path, pair[0] / "model.safetensors"):
        with pytest.raises(InputError, match="lie in one another"):
            merge_files(pair, out, overwrite=True)
    sharded = save(tmp_path / "sharded", before, shards=2)
    index, shard = sorted(sharded.iterdir(), key=lambda path: path.suffix)[:2]
    with pytest.raises(InputError, match="lie in one another"):
        merge_files([index, pair[1]], shard, overwrite=True)
    with pytest.raises(InputError, match="list of paths"):
        merge_files(str(pair[0]), tmp_path / "x")
    link = tmp_path / "link"
    link.symlink_to(pair[1], target_is_directory=True)
    with pytest.raises(InputError, match="lie in one another"):
        merge_files(pair, link, overwrite=True)
    merge_files(pair, tmp_path / "out")
    first = load(tmp_path / "out")
    with pytest.raises(InputError, match="overwrite"):
        merge_files(pair, tmp_path / "out", weights=[1, 0])
    np.testing.assert_array_equal(load(tmp_path / "out")["table"], first["table"])
    merge_files(pair, tmp_path / "out", weights=[1, 0], overwrite=True)
    np.testing.assert_array_equal(load(tmp_path / "out")["table"], before["table"])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(InputError, match="nothing of yours"):
        merge_files(pair, tmp_path / "mine", overwrite=True)


def broken_index(folder, change):
    index = folder / "model.safetensors.index.json"
    value = json.loads(index.read_text())
    value = change(value) or value
    index.write_text(value if isinstance(value, str) else json.dumps(value))


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        (FormatError, lambda v: v["weight_map"].update({"table": "../one/model.safetensors"})),
        (FormatError, lambda v: v["weight_map"].update({"table": "/etc/passwd"})),
        (FormatError, lambda v: v["weight_map"].update({"table": "C:\\x.safetensors"})),
        (FormatError, lambda v: v["weight_map"].update({"table": "sub/x.safetensors"})),
        (FormatError, lambda v: v["weight_map"].update({"table": ".."})),
        (FormatError, lambda v: v["weight_map"].update({"table": 3})),
        (FormatError, lambda v: v["weight_map"].update({"ghost": v["weight_map"]["table"]})),
        (FormatError, lambda v: v["weight_map"].pop("table") and None),
        (NotFoundError, lambda v: v["weight_map"].update({"table": "model-9.safetensors"})),
        (FormatError, lambda v: v.update({"weight_map": {}})),
        (FormatError, lambda v: v.update({"metadata": {"total_size": "many"}})),
        (FormatError, lambda v: v.update({"metadata": []})),
        (FormatError, lambda v: json.dumps(v)[:-20]),
        (FormatError, lambda _: "[1]"),
    ],
)
def test_damaged_and_malicious_indexes(tmp_path, pair, kind, change):
    folder = save(tmp_path / "sharded", tensors_of(1), shards=2)
    broken_index(folder, change)
    refuse(kind, [folder, pair[0]], tmp_path / "out")


def test_an_index_with_another_total_is_a_warning(tmp_path, pair):
    folder = save(tmp_path / "sharded", tensors_of(1), shards=2)
    broken_index(folder, lambda v: v["metadata"].update({"total_size": 7}))
    with pytest.warns(DataWarning, match="7 bytes"):
        merge_files([folder, pair[0]], tmp_path / "out")
    written = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    held = sum(t.nbytes for t in tensors_of(1).values())
    assert written["metadata"]["total_size"] == held


def header_bytes(header: dict, data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x08\0\0",
        struct.pack("<Q", 1 << 60) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        header_bytes({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}, b"\0" * 8),
        header_bytes({"w": {"dtype": "F32", "shape": [9], "data_offsets": [0, 16]}}, b"\0" * 16),
        header_bytes({"w": {"dtype": "F32", "shape": [4], "data_offsets": [-16, 0]}}, b"\0" * 16),
        header_bytes({"w": {"dtype": "F99", "shape": [4], "data_offsets": [0, 16]}}, b"\0" * 16),
        header_bytes({"w": {"dtype": "F32", "shape": [1], "data_offsets": [8, 12]}}, b"\0" * 12),
    ],
)
def test_damaged_files(tmp_path, pair, content):
    (tmp_path / "bad.safetensors").write_bytes(content)
    message = refuse(FormatError, [tmp_path / "bad.safetensors", pair[0]], tmp_path / "out")
    assert "bad.safetensors" in message


def test_half_written_shard(tmp_path, pair):
    folder = save(tmp_path / "sharded", tensors_of(1), shards=2)
    shard = next(folder.glob("*00001-of*"))
    shard.write_bytes(shard.read_bytes()[:-5])
    assert shard.name in refuse(FormatError, [folder, pair[0]], tmp_path / "out")


def test_an_input_changed_meanwhile_is_noticed(tmp_path, pair):
    source = TensorSource.open(pair[0])
    source.check_unchanged()
    save_file(tensors_of(3), pair[0] / "new.safetensors")
    os.replace(pair[0] / "new.safetensors", pair[0] / "model.safetensors")
    with pytest.raises(FormatError, match="changed while"):
        source.check_unchanged()
    (pair[0] / "model.safetensors").write_bytes(b"short")
    with pytest.raises(FormatError, match="ended inside"):
        source.entries["table"].read()


@pytest.mark.parametrize(("method", "limit"), [("linear", 1.25), ("ties", 2.0)])
def test_memory_is_about_the_largest_tensor_of_each_input(tmp_path, method, limit):
    # 6 tensors of 4 MB: models of 24 MB, of which three are read.
    tensors = {f"layer.{i}": np.full((1024, 1024), i, np.float32) for i in range(6)}
    folders = [save(tmp_path / str(n), tensors, shards=3) for n in range(3)]
    base = folders[2] if method == "ties" else None
    inputs = folders[:2] if base else folders
    del tensors
    tracemalloc.start()
    try:
        merge_files(inputs, tmp_path / "out", method, base=base, workers=2)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < limit * 3 * 4 * 2**20


CHILD = """
import sys
from embedworks.merging import merge_files
inputs, out, weight = sys.argv[1:3], sys.argv[3], float(sys.argv[4])
print("ready", flush=True)
sys.stdin.readline()
while True:
    weight = 1 - weight
    merge_files(inputs, out, weights=[1 - weight, weight], overwrite=True, workers=2)
"""


def test_a_kill_never_leaves_half_a_model(tmp_path):
    """A child merges to and fro over an older model and is killed, a dozen times."""
    shapes = {f"layer.{i}": (64, 256) for i in range(40)}
    models = [tensors_of(seed, shapes=shapes) for seed in range(2)]
    folders = [save(tmp_path / f"in{n}", model, shards=2) for n, model in enumerate(models)]
    out = tmp_path / "result" / "out"
    merge_files(folders, out, weights=[1, 0])
    chance = random.Random(0)
    command = [sys.executable, "-c", CHILD, *map(str, folders), str(out), "0"]
    children = []
    for _ in range(12):
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        children.append(child)
        if len(children) < 2:
            continue  # the next one starts up, and waits, while this one is under test
        _kill_and_check(children.pop(0), chance, out, models)
    _kill_and_check(children.pop(), chance, out, models)


def _kill_and_check(child, chance, out, models):
    with child.stdin, child.stdout:
        assert child.stdout.readline() == "ready\n"
        child.stdin.write("go\n")
        child.stdin.flush()
        time.sleep(chance.uniform(0.0, 0.12))
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
    found = load(out)
    which = models[0] if np.array_equal(found["layer.0"], models[0]["layer.0"]) else models[1]
    assert found.keys() == which.keys()
    for name, tensor in which.items():
        np.testing.assert_array_equal(found[name], tensor)


def test_a_failed_write_leaves_the_older_model(tmp_path, pair):
    merge_files(pair, tmp_path / "out")
    before = load(tmp_path / "out")
    broken = tensors_of(7)
    broken["table"][0] = np.inf
    bad = save(tmp_path / "broken", broken)
    with pytest.raises(EmbedworksError):
        merge_files([pair[0], bad], tmp_path / "out", overwrite=True)
    after = load(tmp_path / "out")
    for name, tensor in before.items():
        np.testing.assert_array_equal(after[name], tensor)
    with pytest.raises(EmbedworksError):
        merge_files([pair[0], bad], tmp_path / "file.safetensors")
    assert not [p.name for p in tmp_path.iterdir() if p.name.startswith((".", "file"))]


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits of processes")
def test_a_disk_that_takes_no_more_is_told_and_changes_nothing(tmp_path, pair):
    import resource

    merge_files(pair, tmp_path / "out")
    before = load(tmp_path / "out")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (700, limits[1]))
    try:
        for out in (tmp_path / "out", tmp_path / "file.safetensors"):
            with pytest.raises(StorageError, match="Nothing there was changed"):
                merge_files(pair, out, weights=[1, 0], overwrite=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    np.testing.assert_array_equal(load(tmp_path / "out")["table"], before["table"])
    assert not [p.name for p in tmp_path.iterdir() if p.name.startswith((".", "file"))]


def test_tensors_are_warned_of_once(tmp_path):
    base = {f"layer.{n}": np.zeros(4, np.float32) for n in range(5)}
    for name, sign in (("a", 1), ("b", -1)):  # task vectors that point apart: the base is kept
        save_file(
            {key: value + sign for key, value in base.items()}, tmp_path / f"{name}.safetensors"
        )
    save_file(base, tmp_path / "base.safetensors")
    files = [tmp_path / f"{name}.safetensors" for name in "ab"]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        merge_files(
            files, tmp_path / "out.safetensors", "model_stock", base=tmp_path / "base.safetensors"
        )
    told = [str(item.message) for item in caught if item.category is DataWarning]
    assert len(told) == 1
    assert told[0].startswith("5 of 5 tensors were warned of; the first: model_stock of layer.")
