"""The room as a whole: what importing costs, and that it uses only what is public."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

from embedworks import reproductions

ROOM = Path(reproductions.__file__).parent


def test_listing_the_entries_is_light():
    code = (
        "import sys; from embedworks.reproductions import REPRODUCTIONS; list(REPRODUCTIONS); "
        "heavy = {'torch', 'sentence_transformers', 'numba', 'pyarrow', 'sklearn', 'lancedb'}; "
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_only_public_names_of_other_rooms_are_used():
    """Entries are held to the public names of this room too; the framework may use _core."""
    wrong = []
    for path in ROOM.rglob("*.py"):
        entry = path.parent.name == "papers"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                wrong += [
                    f"{path.name}: import {a.name}"
                    for a in node.names
                    if a.name.startswith("embedworks.")
                ]
            if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith(
                "embedworks"
            ):
                continue
            parts = node.module.split(".")
            own = parts[:2] == ["embedworks", "reproductions"]
            core = parts[:2] == ["embedworks", "_core"]
            if not entry and (own or core):
                continue
            module = importlib.import_module(node.module)
            public = set(getattr(module, "__all__", ()))
            too_deep = len(parts) > 2
            if entry and parts[2:3] == ["papers"]:
                continue  # entries of one paper share their worlds
            for alias in node.names:
                if core or too_deep or alias.name not in public:
                    wrong.append(f"{path.name}: from {node.module} import {alias.name}")
    assert not wrong
