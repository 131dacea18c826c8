from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedworks.errors import DataWarning, InputError, ShapeError

torch = pytest.importorskip("torch")

from embedworks.negatives import NegativeMixer, mix_listwise, mix_pairwise  # noqa: E402


def unit(*shape, seed=0, dtype=torch.float64):
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return torch.nn.functional.normalize(values, dim=-1)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_functions_equal_the_slow_loop(seed):
    rng = np.random.default_rng(seed)
    batch, count, made, dim = (int(n) for n in rng.integers(1, 6, 4))
    negatives, query = unit(batch, count, dim, seed=seed), unit(batch, dim, seed=seed + 1)
    present = torch.from_numpy(rng.random((batch, count)) < 0.7)
    first, second = (torch.from_numpy(rng.integers(0, count, (batch, made))) for _ in range(2))
    share = torch.from_numpy(rng.random((batch, made)))
    pairs = mix_pairwise(negatives, present, first, second, share)
    lists = mix_listwise(negatives, present, query, temperature=0.3)
    for i in range(batch):
        for j in range(made):
            a, b, t = int(first[i, j]), int(second[i, j]), float(share[i, j])
            good = a != b and bool(present[i, a]) and bool(present[i, b])
            mixed = t * negatives[i, a].numpy() + (1 - t) * negatives[i, b].numpy()
            good = good and np.linalg.norm(mixed) > 1e-4
            assert bool(pairs.usable[i, j]) == good
            expected = mixed / np.linalg.norm(mixed) if good else np.zeros(dim)
            np.testing.assert_allclose(pairs.vectors[i, j], expected, atol=1e-12)
        members = [k for k in range(count) if present[i, k]]
        weights = np.array([np.exp(float(query[i] @ negatives[i, k]) / 0.3) for k in members])
        mixed = sum(
            (w * negatives[i, k].numpy() for w, k in zip(weights / weights.sum(), members)),
            start=np.zeros(dim),
        )
        good = len(members) >= 2 and np.linalg.norm(mixed) > 1e-4
        assert bool(lists.usable[i, 0]) == good
        expected = mixed / np.linalg.norm(mixed) if good else np.zeros(dim)
        np.testing.assert_allclose(lists.vectors[i, 0], expected, atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), margin=st.sampled_from([0.0, 0.1]))
def test_a_usable_mixture_is_unit_and_never_outranks_the_positive(seed, margin):
    negatives, query = unit(6, 4, 3, seed=seed), unit(6, 3, seed=seed + 1)
    positive = unit(6, 3, seed=seed + 2)
    present = torch.rand(6, 4, generator=seeded(seed)) < 0.8
    mixer = NegativeMixer(pairwise=3, cap_margin=margin)
    vectors, usable = mixer(negatives, query, positive, present, generator=seeded(seed))
    assert vectors.shape == (6, mixer.size, 3)
    scores = torch.einsum("bd,bmd->bm", query, vectors)
    limit = (query * positive).sum(-1, keepdim=True) - margin
    assert bool((scores < limit)[usable].all())
    np.testing.assert_allclose(vectors.norm(dim=-1)[usable], 1.0, atol=1e-12)
    assert bool((vectors[~usable] == 0).all())
    free = NegativeMixer(pairwise=3, cap=None)
    everything = free(negatives, query, positive, present, generator=seeded(seed))
    assert mixer.made == free.made == int(everything.usable.sum())
    assert mixer.capped == int((everything.usable & ~usable).sum())
    assert bool((everything.usable.any(1) == (present.sum(1) >= 2)).all())


def test_dissimilar_parents_rise_above_both():
    """Equal shares, parents at 0.6 to the query and orthogonal: 0.6 / sqrt(1/2) = 0.85."""
    query = torch.tensor([[1.0, 0.0, 0.0]])
    parents = torch.tensor([[[0.6, 0.8, 0.0], [0.6, -0.45, 0.6614378]]])
    assert abs(float(parents[0, 0] @ parents[0, 1])) < 1e-4
    mixed = mix_listwise(parents, torch.ones(1, 2, dtype=torch.bool), query, temperature=1.0)
    score = float(query[0] @ mixed.vectors[0, 0])
    assert score == pytest.approx(0.6 / 0.5**0.5, abs=1e-4)
    positive = torch.tensor([[0.8, 0.6, 0.0]])
    mixer = NegativeMixer()
    assert not mixer(parents, query, positive, generator=seeded()).usable[0, 1]
    assert mixer.stats()["capped"] >= 1


def test_gradients_reach_the_parents():
    negatives, query, positive = unit(3, 4, 5), unit(3, 5, seed=1), unit(3, 5, seed=2)
    raw = (negatives * 1.7).requires_grad_()
    raw_query = query.clone().requires_grad_()
    present = torch.tensor([[True] * 4, [True, False, True, False], [True, False, False, False]])
    mixer = NegativeMixer(pairwise=2, cap=None)

    def mix(raw, raw_query):
        return mixer(
            torch.nn.functional.normalize(raw, dim=-1),
            torch.nn.functional.normalize(raw_query, dim=-1),
            positive,
            present,
            generator=seeded(),
        ).vectors

    assert torch.autograd.gradcheck(mix, (raw, raw_query))
    mix(raw, raw_query).sum().backward()
    assert bool((raw.grad[2] == 0).all())  # one negative alone is not mixed
    assert bool((raw.grad[1, [1, 3]] == 0).all())
    still = NegativeMixer(stop_gradient=True, cap=None)
    mixed = still(negatives.requires_grad_(), query, positive, generator=seeded())
    assert not mixed.vectors.requires_grad


def test_rows_without_negatives_and_opposite_parents_have_no_nan():
    negatives = torch.zeros(2, 2, 3, dtype=torch.float64)
    negatives[1] = torch.tensor([[1.0, 0, 0], [-1.0, 0, 0]])
    negatives.requires_grad_()
    present = torch.tensor([[False, False], [True, True]])
    query = unit(2, 3)
    halves = torch.full((2, 1), 0.5, dtype=torch.float64)
    zero = torch.zeros(2, 1, dtype=torch.int64)
    for mixed in (
        mix_pairwise(negatives, present, zero, zero + 1, halves),
        mix_listwise(negatives, present, query * 0, temperature=1.0),
    ):
        assert not mixed.usable.any()
        (gradient,) = torch.autograd.grad(mixed.vectors.sum(), negatives)
        assert bool((gradient == 0).all())


def test_equal_generators_give_equal_mixtures():
    data = (unit(4, 5, 6), unit(4, 6, seed=1), unit(4, 6, seed=2))
    mixer = NegativeMixer(pairwise=4, cap=None)
    first, again, other = (mixer(*data, generator=seeded(s)).vectors for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    running = seeded(0)
    assert not torch.equal(*(mixer(*data, generator=running).vectors for _ in range(2)))


def test_shares_follow_beta():
    """Parents at right angles: the share can be read off each mixture."""
    negatives = torch.eye(2).expand(4000, 2, 2)
    query = torch.tensor([[1.0, 0.0]]).expand(4000, 2)
    mixer = NegativeMixer(listwise=0, beta=2.0, cap=None)
    vectors = mixer(negatives, query, query, generator=seeded()).vectors[:, 0]
    shares = vectors[:, 0] / vectors.sum(dim=1)
    assert float(shares.mean()) == pytest.approx(0.5, abs=0.02)
    assert float(shares.var()) == pytest.approx(1 / 20, abs=0.005)


def test_one_negative_disables_mixing_with_one_warning():
    mixer = NegativeMixer()
    data = (unit(2, 1, 3), unit(2, 3), unit(2, 3))
    with pytest.warns(DataWarning, match="at least two"):
        assert not mixer(*data, generator=seeded()).usable.any()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mixer(*data, generator=seeded())


def test_bad_input_is_explained():
    mixer, q = NegativeMixer(), unit(2, 3)
    with pytest.raises(InputError, match="no hard negatives"):
        mixer(unit(2, 1, 3)[:, :0], q, q, generator=seeded())
    with pytest.raises(InputError, match="negatives must be unit vectors: 2 are not"):
        mixer(unit(2, 4, 3) * torch.tensor([1.0, 1, 2, 1])[:, None], q, q, generator=seeded())
    with pytest.raises(InputError, match="positive must be unit"):
        mixer(unit(2, 4, 3), q, q * float("nan"), generator=seeded())
    with pytest.raises(ShapeError, match="present"):
        mixer(unit(2, 4, 3), q, q, torch.ones(2, 4), generator=seeded())
    with pytest.raises(ShapeError, match=r"\(B, K, D\)"):
        mixer(unit(2, 4, 3), unit(3, 3), q, generator=seeded())
    with pytest.raises(InputError, match="listwise"):
        NegativeMixer(listwise=2)
    with pytest.raises(InputError, match="listwise"):
        NegativeMixer(0, 0)
    with pytest.raises(InputError, match="beta"):
        NegativeMixer(beta=0)
    with pytest.raises(InputError, match="list_temperature"):
        NegativeMixer(list_temperature=0)
    absent = torch.tensor([[True, True, False, True]] * 2)
    padded = unit(2, 4, 3) * absent[..., None]
    assert mixer(padded, q, q, absent, generator=seeded()).usable.shape == (2, 2)
