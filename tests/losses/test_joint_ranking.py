"""One model that embeds and ranks: pairs as plain loops join them, both sides learn, it saves."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import embedworks as ew
from embedworks.errors import InputError, ShapeError
from embedworks.index import Reranker, rerank_scores
from embedworks.losses import ContrastiveLoss, JointRankingLoss
from embedworks.models import JointReranker, joint_model, new_model, train_tokenizer
from embedworks.modules import join_pairs

WORDS = ["tea", "rye", "oat", "fig", "yam", "nut", "egg", "ham"]
QUERIES = [f"what is {word}" for word in WORDS]
DOCUMENTS = [f"the {word} is food" for word in WORDS]


def fresh(architecture="bert"):
    tokenizer = train_tokenizer([*QUERIES, *DOCUMENTS] * 2, 330, max_tokens=48)
    body = new_model(architecture, tokenizer, dim=32, layers=2, heads=2, max_tokens=48)
    return joint_model(body)


def first_places(model):
    reranker = JointReranker(model)
    found = [rerank_scores(reranker, [(q, d) for d in DOCUMENTS]).argmax() for q in QUERIES]
    ranked = np.mean(np.array(found) == np.arange(len(WORDS)))
    near = (model.encode(QUERIES) @ model.encode(DOCUMENTS).T).argmax(axis=1)
    return float(np.mean(near == np.arange(len(WORDS)))), float(ranked)


def test_both_sides_learn_and_it_saves(tmp_path):
    model = fresh()
    loss = JointRankingLoss(model, ContrastiveLoss(model, temperature=0.05), others=7)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    parts = []
    for _ in range(90):
        loss([model.preprocess(QUERIES), model.preprocess(DOCUMENTS)]).backward()
        optimizer.step()
        optimizer.zero_grad()
        parts.append(loss.last)
    model.eval()
    for name in ("base", "ranking"):
        assert parts[-1][name] < 0.5 * parts[0][name], name
    assert min(first_places(model)) >= 0.75
    model.save_pretrained(str(tmp_path / "m"))
    again = ew.load(tmp_path / "m", device="cpu")
    assert isinstance(JointReranker(again), Reranker)
    np.testing.assert_allclose(again.encode(QUERIES), model.encode(QUERIES), atol=1e-6)
    pairs = list(zip(QUERIES, DOCUMENTS, strict=True))
    np.testing.assert_allclose(
        JointReranker(again, batch_size=3).predict(pairs), JointReranker(model).predict(pairs),
        atol=1e-5,
    )  # fmt: skip


@pytest.mark.parametrize("architecture", ["bert", "qwen3"])
def test_the_loss_is_that_of_single_pairs(architecture):
    model = fresh(architecture)
    model.eval()
    base = ContrastiveLoss(model)
    loss = JointRankingLoss(model, base, weight=0.25, others=2)
    wrong = DOCUMENTS[3:] + DOCUMENTS[:3]
    columns = [model.preprocess(texts) for texts in (QUERIES, DOCUMENTS, wrong)]
    value = float(loss([dict(column) for column in columns]).detach())
    alone = float(base([dict(column) for column in columns], None).detach())
    reranker, losses = JointReranker(model, batch_size=1), []
    for place, query in enumerate(QUERIES):
        others = [DOCUMENTS[(place + shift) % len(WORDS)] for shift in (1, 2)]
        texts = [DOCUMENTS[place], wrong[place], *others]
        scores = reranker.predict([(query, text) for text in texts]).astype(np.float64)
        losses.append(np.log(np.exp(scores).sum()) - scores[0])
    assert loss.last["ranking"] == pytest.approx(np.mean(losses), abs=1e-4)
    assert value == pytest.approx(0.75 * alone + 0.25 * np.mean(losses), abs=1e-4)


def test_equal_documents_are_not_wrong():
    model = fresh()
    loss = JointRankingLoss(model, ContrastiveLoss(model), others=1)
    columns = [model.preprocess(["what", "who"]), model.preprocess(["the tea", "the tea"])]
    assert float(loss.ranking(columns).detach()) == 0.0


def test_vectors_are_those_of_the_model_without_a_head():
    tokenizer = train_tokenizer(DOCUMENTS * 2, 300)
    body = new_model("bert", tokenizer, dim=16, layers=1, heads=2)
    joint = joint_model(body)
    np.testing.assert_array_equal(joint.encode(QUERIES), body.encode(QUERIES))
    with pytest.raises(InputError, match="already"):
        joint_model(joint)
    with pytest.raises(InputError, match="no RankingHead"):
        JointReranker(body)
    with pytest.raises(InputError, match="no transformer"):
        joint_model(ew.load("static"))
    with pytest.raises(InputError, match="ranked among others"):
        JointRankingLoss(joint, ContrastiveLoss(joint), others=0).ranking(
            [joint.preprocess(QUERIES), joint.preprocess(DOCUMENTS)]
        )


def test_pairs_are_joined_and_cut():
    def features(*rows):
        width = max(map(len, rows))
        ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])
        return {"input_ids": ids, "attention_mask": (ids > 0).long(), "token_type_ids": ids * 0}

    queries, documents = features([1, 5, 2], [1, 6, 6, 6, 6, 2]), features([1, 7, 8, 9, 2], [1, 2])
    found = join_pairs(queries, documents, limit=6, start=1)
    assert found["input_ids"].tolist() == [[1, 5, 2, 7, 8, 9], [1, 6, 6, 6, 6, 2]]
    assert found["attention_mask"].sum(dim=1).tolist() == [6, 6]
    assert found["token_type_ids"].tolist()[0] == [0, 0, 0, 1, 1, 1]
    apart = join_pairs(features([5, 2]), features([5, 7, 2]), start=1)
    assert apart["input_ids"].tolist() == [[5, 2, 5, 7, 2]]
    with pytest.raises(ShapeError, match="one document for each query"):
        join_pairs(queries, features([1, 2]))


@pytest.mark.parametrize("limit", [None, 2, 5, 9])
@pytest.mark.parametrize("side", ["left", "right"])
def test_pairs_are_joined_as_a_loop_joins_them(limit, side):
    rng = np.random.default_rng(limit)

    def column():
        rows = [
            [*([1] * int(rng.integers(2))), *rng.integers(2, 9, size=rng.integers(0, 7)).tolist()]
            for _ in range(40)
        ]
        width = max(map(len, rows))
        padded = [
            [*[0] * (width - len(row)), *row]
            if side == "left"
            else [*row, *[0] * (width - len(row))]
            for row in rows
        ]
        ids = torch.tensor(padded)
        return rows, {"input_ids": ids, "attention_mask": (ids > 0).long(), "token_type_ids": ids}

    (queries, first), (documents, second) = column(), column()
    found = join_pairs(first, second, limit=limit, start=1)
    for place, (query, document) in enumerate(zip(queries, documents, strict=True)):
        rest = document[1:] if document[:1] == [1] else document
        if limit is not None and len(query) + len(rest) > limit:
            query = query[: max(limit // 2, limit - len(rest))]
            rest = rest[: limit - len(query)]
        real = found["attention_mask"][place].bool()
        assert found["input_ids"][place][real].tolist() == query + rest
        assert found["token_type_ids"][place][real].tolist() == [0] * len(query) + [1] * len(rest)
        assert not found["input_ids"][place][~real].any()
