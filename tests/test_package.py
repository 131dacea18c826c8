"""Promises about the package as a whole: what is public, what importing costs, who knows whom."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import embedworks

SOURCE = Path(embedworks.__file__).parent
ROOMS = sorted(
    p.name for p in SOURCE.iterdir() if (p / "__init__.py").is_file() and p.name != "_core"
)
PUBLIC = ["embedworks", *(f"embedworks.{room}" for room in ROOMS)]

#: Room -> floor. A room may import from floors below its own; equal floors only where listed.
FLOORS = {
    "errors": 0, "_core": 1, "data": 2, "modules": 3, "models": 4, "losses": 5,
    "negatives": 5, "merging": 6, "index": 6, "evaluation": 7, "training": 8, "reproductions": 9,
    "cli": 10,
}  # fmt: skip

HEAVY = (
    "torch", "sentence_transformers", "transformers", "numba", "pyarrow", "faiss", "lancedb",
    "pydantic", "numpy",
)  # fmt: skip


@pytest.mark.parametrize("name", PUBLIC)
def test_all_equals_what_can_be_imported(name):
    module = importlib.import_module(name)
    assert list(module.__all__) == sorted(module.__all__)
    for public in module.__all__:
        assert getattr(module, public) is not None
        assert public in dir(module)
    with pytest.raises(AttributeError):
        module.no_such_name  # noqa: B018


@pytest.mark.parametrize("name", PUBLIC)
def test_public_things_are_documented(name):
    module = importlib.import_module(name)
    assert module.__doc__
    for public in module.__all__:
        thing = getattr(module, public)
        if callable(thing) and getattr(thing, "__module__", "").startswith("embedworks"):
            assert thing.__doc__, f"{name}.{public} has no docstring"


def test_importing_is_light():
    code = "import sys, embedworks; print(' '.join(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert not set(loaded.stdout.split()) & set(HEAVY)


def test_the_static_model_needs_no_torch():
    code = (
        "import sys, embedworks as ew; ew.load('static').encode(['one text']);"
        "print(' '.join(sys.modules))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert not set(loaded.stdout.split()) & {"torch", "sentence_transformers", "transformers"}


def test_imports_go_downwards():
    wrong = []
    for path in SOURCE.rglob("*.py"):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        if parts[0] not in FLOORS:
            assert parts in (("__init__",), ("__main__",)), f"{path} is in no room with a floor"
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                target = (name or "").split(".")
                if target[0] == "embedworks" and len(target) > 1:
                    room, own = target[1], parts[0]
                    if room != own and FLOORS[room] >= FLOORS[own]:
                        wrong.append(f"{'/'.join(parts)} imports {name}")
    assert not wrong


def test_no_file_grows_out_of_hand():
    long = {
        str(path.relative_to(SOURCE)): lines
        for path in SOURCE.rglob("*.py")
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > 700
    }
    assert not long


def test_every_module_says_what_it_is():
    for info in pkgutil.walk_packages(embedworks.__path__, "embedworks."):
        path = SOURCE.joinpath(*info.name.split(".")[1:])
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        assert ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))), info.name


def test_errors_form_one_tree():
    from embedworks import errors

    for name in errors.__all__:
        thing = getattr(errors, name)
        root = UserWarning if name.endswith("Warning") else errors.EmbedworksError
        assert issubclass(thing, root)
        assert name in errors.__doc__ or name.endswith("Warning")
