"""The command `limits`, through the real program entry."""

from __future__ import annotations

import json

QUICK = ("static", "--documents", "8", "--questions", "20", "--no-free", "--dim", "8")


def test_a_table_and_a_sentence(call):
    code, out, _ = call("limits", *QUICK)
    assert code == 0
    for part in ("first 8", "all 256", "BM25", "chance", "critical n", "no bound", "float16"):
        assert part in out


def test_json_and_file_say_the_same(call, tmp_path):
    target = tmp_path / "limits.json"
    code, out, _ = call("limits", *QUICK, "--json", "--out", target)
    assert code == 0
    found = json.loads(out)
    assert found == json.loads(target.read_text())
    assert [row["dimension"] for row in found["dimensions"]] == [8, 256]
    assert found["sets"] == 28
    assert found["qrels"] is None


def test_own_judgements_are_described(call, tmp_path):
    qrels = tmp_path / "qrels.csv"
    qrels.write_text("query_id,doc_id,relevance\na,1,1\na,2,1\nb,2,1\nb,3,1\n")
    code, out, _ = call("limits", *QUICK, "--qrels", qrels)
    assert code == 0
    assert "2 questions on 3 documents, at most 2" in out


def test_mistakes_are_named(call, tmp_path):
    assert call("limits", *QUICK, "--out", tmp_path / "x.txt")[0] == 2
    code, _, err = call("limits", "static", "--dim", "300", "--no-free")
    assert code == 2
    assert "dims must be in [1, 256]" in err
    code, _, err = call("limits", "static", "--documents", "8", "--questions", "30", "--no-free")
    assert code == 2
    assert "28 sets of 2, not 30" in err
