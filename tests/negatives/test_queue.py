from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedworks.errors import InputError, NonFiniteError, ShapeError

torch = pytest.importorskip("torch")

from embedworks.negatives import EmbeddingQueue  # noqa: E402


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 7), st.lists(st.integers(0, 10), max_size=8))
def test_equals_a_deque(size, batches):
    queue = EmbeddingQueue(size, 2)
    slow: deque = deque(maxlen=size)
    made = 0
    for batch in batches:
        keys = torch.arange(made, made + batch)
        made += batch
        queue.enqueue(torch.stack([keys, -keys], dim=1).float(), keys)
        slow.extend(keys.tolist())
        assert queue.keys.tolist() == list(slow)
        assert queue.vectors.tolist() == [[float(k), -float(k)] for k in slow]
        assert len(queue) == len(slow)


def test_a_saved_queue_resumes_exactly():
    torch.manual_seed(0)
    queue, other = EmbeddingQueue(5, 3), EmbeddingQueue(5, 3)
    queue.enqueue(torch.randn(4, 3), torch.arange(4))
    queue.enqueue(torch.randn(3, 3), torch.arange(4, 7))
    other.load_state_dict(queue.state_dict())
    more = torch.randn(2, 3)
    for one in (queue, other):
        one.enqueue(more, torch.tensor([8, 9]))
    assert torch.equal(queue.keys, other.keys)
    assert torch.equal(queue.vectors, other.vectors)
    assert queue.keys.tolist() == [4, 5, 6, 8, 9]
    queue.clear()
    assert len(queue) == 0
    assert queue.vectors.shape == (0, 3)


def test_vectors_are_copies_without_gradient():
    queue = EmbeddingQueue(4, 2)
    vectors = torch.ones(2, 2, requires_grad=True)
    queue.enqueue(vectors.bfloat16(), torch.tensor([1, 2]))
    kept = queue.vectors
    assert not kept.requires_grad
    assert kept.dtype == torch.float32
    kept.zero_()
    assert queue.vectors.sum() == 4


def test_bad_input_is_explained_and_changes_nothing():
    queue = EmbeddingQueue(4, 2)
    keys = torch.tensor([1, 2])
    with pytest.raises(ShapeError, match=r"\(n, 2\)"):
        queue.enqueue(torch.ones(2, 3), keys)
    with pytest.raises(ShapeError, match="need keys"):
        queue.enqueue(torch.ones(3, 2), keys)
    with pytest.raises(InputError, match="int64"):
        queue.enqueue(torch.ones(2, 2), keys.int())
    with pytest.raises(InputError, match="int64"):
        queue.enqueue(torch.ones(2, 2, dtype=torch.int32), keys)
    with pytest.raises(NonFiniteError, match="1 of 2 vectors"):
        queue.enqueue(torch.tensor([[1.0, 1], [1, float("nan")]]), keys)
    assert len(queue) == 0
    with pytest.raises(InputError):
        EmbeddingQueue(0, 2)
    with pytest.raises(InputError, match="floats"):
        EmbeddingQueue(2, 2, dtype=torch.int64)
