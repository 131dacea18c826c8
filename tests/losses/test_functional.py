from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from embedworks.errors import InputError, ShapeError
from embedworks.losses import info_nce


def slow_info_nce(query, document, negatives, temperature, mask, negatives_mask, weights):
    """The formula, one number at a time, in float64."""

    def cosine(a, b):
        dot = sum(float(x) * float(y) for x, y in zip(a, b, strict=True))
        norms = [max(math.sqrt(sum(float(x) ** 2 for x in v)), 1e-12) for v in (a, b)]
        return dot / norms[0] / norms[1]

    total = weight_sum = 0.0
    for i in range(len(query)):
        own = cosine(query[i], document[i]) / temperature
        terms = [own]
        for j in range(len(document)):
            if j != i and (mask is None or mask[i, j]):
                terms.append(cosine(query[i], document[j]) / temperature)
        for k in range(0 if negatives is None else negatives.shape[1]):
            if negatives_mask is None or negatives_mask[i, k]:
                terms.append(cosine(query[i], negatives[i, k]) / temperature)
        top = max(terms)
        loss = top + math.log(sum(math.exp(t - top) for t in terms)) - own
        weight = 1.0 if weights is None else float(weights[i])
        total += weight * loss
        weight_sum += weight
    return total / weight_sum


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_equals_the_slow_loop(data):
    batch = data.draw(st.integers(1, 6), label="B")
    dim = data.draw(st.integers(1, 5), label="D")
    count = data.draw(st.integers(0, 3), label="K")
    torch.manual_seed(data.draw(st.integers(0, 1000), label="seed"))
    query, document = torch.randn(2, batch, dim, dtype=torch.float64)
    if data.draw(st.booleans(), label="ties"):
        document = document[:1].repeat(batch, 1)
    negatives = torch.randn(batch, count, dim, dtype=torch.float64) if count else None
    mask = torch.rand(batch, batch) > 0.5 if data.draw(st.booleans(), label="mask") else None
    hard_mask = None
    if negatives is not None and data.draw(st.booleans(), label="negatives mask"):
        hard_mask = torch.rand(batch, count) > 0.5
    weights = None
    if data.draw(st.booleans(), label="weights"):
        weights = torch.rand(batch, dtype=torch.float64) + 0.1
    temperature = data.draw(st.sampled_from([0.02, 0.1, 1.0]), label="temperature")
    fast = info_nce(
        query,
        document,
        negatives,
        temperature=temperature,
        mask=mask,
        negatives_mask=hard_mask,
        weights=weights,
    )
    slow = slow_info_nce(query, document, negatives, temperature, mask, hard_mask, weights)
    assert float(fast) == pytest.approx(slow, rel=1e-9, abs=1e-12)


def test_gradient_is_right():
    torch.manual_seed(0)
    query, document = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True).unbind(0)
    negatives = torch.randn(3, 2, 4, dtype=torch.float64, requires_grad=True)
    inputs = tuple(t.detach().requires_grad_() for t in (query, document, negatives))
    assert torch.autograd.gradcheck(lambda *x: info_nce(*x, temperature=0.5), inputs)


def test_everything_masked_leaves_nothing_to_tell_apart():
    query, document = torch.randn(2, 4, 3)
    nothing = torch.zeros(4, 4, dtype=torch.bool)
    assert float(info_nce(query, document, temperature=0.1, mask=nothing)) == 0.0


def test_bad_input_is_explained():
    x = torch.randn(3, 2)
    with pytest.raises(InputError, match="temperature must be above 0"):
        info_nce(x, x, temperature=0.0)
    with pytest.raises(ShapeError, match=r"both be \(B, D\)"):
        info_nce(x, x[:2], temperature=0.1)
    with pytest.raises(ShapeError, match="mask must be"):
        info_nce(x, x, temperature=0.1, mask=torch.ones(2, 2, dtype=torch.bool))
    with pytest.raises(ShapeError, match="negatives must be"):
        info_nce(x, x, x, temperature=0.1)
    with pytest.raises(ShapeError, match="negatives_mask must be"):
        info_nce(
            x, x, x[:, None], temperature=0.1, negatives_mask=torch.ones(3, 2, dtype=torch.bool)
        )
    with pytest.raises(ShapeError, match="weights must be"):
        info_nce(x, x, temperature=0.1, weights=torch.ones(2))
