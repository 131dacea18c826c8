"""The room's public face."""

from __future__ import annotations

import subprocess
import sys

from embedworks import evaluation


def test_all_names_resolve_and_are_sorted():
    assert evaluation.__all__ == sorted(evaluation.__all__)
    for name in evaluation.__all__:
        assert getattr(evaluation, name) is not None


def test_import_is_light():
    code = (
        "import sys, embedworks.evaluation as e; e.evaluate_run; e.write_report; "
        "heavy = {'torch', 'numba', 'pyarrow', 'faiss', 'lancedb'} & set(sys.modules); "
        "sys.exit(', '.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
