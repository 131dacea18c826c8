"""Encoders small enough to know what they must score."""

from __future__ import annotations

import re

import numpy as np

from embedworks.evaluation import EncoderSystem


class VectorTable:
    """Vectors by text."""

    def __init__(self, table):
        self.table = {text: np.asarray(vector, dtype=np.float32) for text, vector in table.items()}

    def encode(self, texts, **_):
        return np.stack([self.table[text] for text in texts])


class BagOfWords:
    """A random unit vector per word, summed."""

    def __init__(self, dim=256, seed=0):
        self.dim, self.seed, self.words = dim, seed, {}

    def encode(self, texts, **_):
        return np.stack([self._vector(text) for text in texts]).astype(np.float32)

    def _vector(self, text):
        total = np.zeros(self.dim)
        for word in sorted(re.findall(r"\w+", text.lower())):
            if word not in self.words:
                key = [self.seed, *word.encode()]
                drawn = np.random.default_rng(key).normal(size=self.dim)
                self.words[word] = drawn / np.linalg.norm(drawn)
            total += self.words[word]
        return total


class RandomVectors:
    """A random vector per text, which tells nothing of it."""

    def __init__(self, dim=32, seed=0):
        self.dim, self.seed = dim, seed

    def encode(self, texts, **_):
        keys = [[self.seed, *text.encode()] for text in texts]
        return np.stack([np.random.default_rng(k).normal(size=self.dim) for k in keys]).astype(
            np.float32
        )


def system_of(model, name="toy"):
    """Return a system without a cache."""
    return EncoderSystem(model, name=name, fingerprint=name)
