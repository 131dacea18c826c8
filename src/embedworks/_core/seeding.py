"""Seeds: one number from the user, independent streams for every part."""

from __future__ import annotations

import hashlib

import numpy as np

from embedworks.errors import InputError

__all__ = ["derive_seed", "generator"]


def derive_seed(seed: int, *names: str | int) -> int:
    """Derive a seed for a named part, so that parts do not share a random stream.

    Args:
        seed: The user's seed, 0 or greater.
        names: What the stream is for, for example ``"split"`` or ``("batch", 17)``.

    Returns:
        An integer in ``[0, 2**63)``, the same on every machine and Python version.

    Example:
        >>> derive_seed(0, "split") == derive_seed(0, "split")
        True
        >>> derive_seed(0, "split") == derive_seed(1, "split")
        False
    """
    if seed < 0:
        raise InputError(f"seed must be 0 or greater, got {seed}.")
    text = "\x1f".join([str(seed), *(str(name) for name in names)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(seed: int, *names: str | int) -> np.random.Generator:
    """Return a numpy generator for the named stream (see `derive_seed`)."""
    return np.random.default_rng(derive_seed(seed, *names))
