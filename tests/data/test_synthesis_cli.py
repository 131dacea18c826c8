"""``embedworks synthesize`` as a new user meets it."""

from __future__ import annotations

import json

import pytest

from embedworks.data import Row, RowSet

PAGES = {
    "kettle.md": "# Kettles\n\nA kettle is a vessel for boiling water. It has a lid and a spout.\n",
    "bread.md": "# Bread\n\nHeat the oven to 230 degrees. Bake the loaf for 40 minutes.\n",
    "tyre.md": "# Tyres\n\nA tyre loses pressure over time. Check the pressure every 2 weeks.\n",
}


@pytest.fixture
def folder(tmp_path):
    for name, text in PAGES.items():
        (tmp_path / "docs").mkdir(exist_ok=True)
        (tmp_path / "docs" / name).write_text(text)
    return tmp_path / "docs"


def test_documents_become_rows(call, folder, tmp_path):
    code, out, _ = call("synthesize", folder, "--out", tmp_path / "out")
    assert code == 0
    assert "3 documents" in out
    assert "rows.parquet" in out
    rows = RowSet.load(tmp_path / "out" / "rows.parquet")
    assert len(rows) >= 3
    code, out, err = call("synthesize", folder, "--out", tmp_path / "out")
    assert (code, out) == (2, "")
    assert "--resume" in err
    code, out, _ = call("synthesize", folder, "--out", tmp_path / "out", "--resume", "--json")
    value = json.loads(out)
    assert (code, value["calls_now"], value["rows"]) == (0, 0, len(rows))
    assert value["fingerprint"] == rows.fingerprint()


def test_settings_rows_and_steps(call, folder, tmp_path):
    (tmp_path / "plan.yaml").write_text(
        f"documents: {folder}\nsteps:\n- step: queries\n  styles: [question]\n- step: paraphrase\n"
    )
    code, out, _ = call("synthesize", tmp_path / "plan.yaml", "-o", tmp_path / "a", "--json")
    assert code == 0
    assert list(json.loads(out)["steps"]) == ["queries", "paraphrase"]
    RowSet([Row("What is a jar?", "If it has a lid, you can call it a jar.")]).save(
        tmp_path / "rows.parquet"
    )
    code, out, _ = call(
        "synthesize", tmp_path / "rows.parquet", "-o", tmp_path / "b", "--step", "paraphrase",
        "--seed", "3", "--json",
    )  # fmt: skip
    assert code == 0
    assert json.loads(out)["sources"] == {"default": 2}


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (("/no/such/folder",), "NotFoundError", "no/such/folder"),
        (("no.yaml",), "NotFoundError", "does not exist"),
        (("{docs}", "--base-url", "http://x/v1"), "SettingsError", "belong together"),
        (("{docs}", "--base-url", "x", "--model", "m"), "InputError", "http:// or https://"),
        (("{docs}", "--step", "query"), "SettingsError", "Did you mean 'queries'"),
    ],
)
def test_mistakes(call, folder, tmp_path, arguments, kind, message):
    filled = [a.format(docs=folder) for a in arguments]
    code, out, err = call("synthesize", *filled, "--out", tmp_path / "out")
    assert (code, out) == (2, "")
    assert kind in err
    assert message in " ".join(err.split())
    assert not (tmp_path / "out" / "rows.parquet").exists()
