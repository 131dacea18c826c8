"""Changes of stored vectors that make them tell less, and what each costs in use."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from embedworks._core.extras import require_extra
from embedworks._core.seeding import derive_seed
from embedworks._core.validation import check_in_range, check_unique, check_vectors, normalize_rows
from embedworks.errors import InputError
from embedworks.evaluation.outcomes import Resampling, Score

if TYPE_CHECKING:
    from embedworks.evaluation.systems import EncoderSystem
    from embedworks.evaluation.tasks import Task

__all__ = [
    "PrivacyTransform",
    "TradeOff",
    "binary_vectors",
    "gaussian_epsilon",
    "gaussian_noise",
    "int8_vectors",
    "leakage_curve",
    "rounded_vectors",
]


@dataclass(frozen=True)
class PrivacyTransform:
    """A change of vectors with a name; call it with vectors (N, D).

    Vectors are scaled to unit length first; zero vectors stay zero.
    """

    name: str
    """Name for tables."""
    change: Callable[[np.ndarray], np.ndarray]
    """Unit vectors (N, D) to vectors (N, D)."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """What there is to know, as JSON values: epsilon, delta, bits."""

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        """Return the changed vectors, float32 (N, D)."""
        unit = normalize_rows(check_vectors(vectors))
        there = np.asarray(unit.any(axis=1))
        return np.asarray(np.where(there[:, None], self.change(unit), 0.0), dtype=np.float32)

    def of(self, system: EncoderSystem) -> EncoderSystem:
        """Return a system with changed vectors, queries and documents alike.

        Example:
            >>> from embedworks import load
            >>> from embedworks.evaluation import EncoderSystem
            >>> binary_vectors().of(EncoderSystem(load("static"), name="static")).name
            'static, binary'
        """
        return system.derived(f"{system.name}, {self.name}", self)


def gaussian_epsilon(sigma: float, *, delta: float = 1e-5, sensitivity: float = 2.0) -> float:
    """Return the epsilon for which Gaussian noise is (epsilon, delta)-differentially private.

    Exact, by the analytic Gaussian mechanism, so it holds for any epsilon, where the classical
    bound ``sqrt(2 ln(1.25/delta)) * sensitivity / sigma`` holds below 1 only. It speaks of one
    release of one vector. An epsilon above about 10 promises next to nothing, and noise that
    leaves a search usable has one in the hundreds: read it as a unit, not as a promise.

    Args:
        sigma: Standard deviation of the noise per dimension.
        delta: Allowed probability of failure, in (0, 1).
        sensitivity: Largest distance of two vectors: 2 for unit vectors.

    Raises:
        InputError: When an argument is out of range.

    Paper: Balle and Wang 2018, arXiv 1805.06530, theorem 8.

    Example:
        >>> round(gaussian_epsilon(10.0), 3)
        0.726
    """
    check_in_range(sigma, name="sigma", low=0.0, open_low=True)
    check_in_range(delta, name="delta", low=0.0, high=1.0, open_low=True)
    check_in_range(sensitivity, name="sensitivity", low=0.0, open_low=True)
    special = require_extra("scipy.special", extra="train", purpose="compute an epsilon")
    half, whole = sensitivity / (2 * sigma), sigma / sensitivity

    def excess(epsilon: float) -> float:
        first = math.exp(special.log_ndtr(half - epsilon * whole))
        second = math.exp(epsilon + special.log_ndtr(-half - epsilon * whole))
        return first - second - delta

    low, high = 0.0, 1.0
    if excess(low) <= 0:
        return 0.0
    while excess(high) > 0:
        low, high = high, 2 * high
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    return high


def gaussian_noise(
    scale: float, *, dimension: int, delta: float = 1e-5, seed: int = 0
) -> PrivacyTransform:
    """Add Gaussian noise of about the length ``scale`` to unit vectors.

    ``v + scale * g / sqrt(D)`` with g standard normal. The noise of a vector depends on the
    vector and the seed alone: texts that are equal get the same, in any order of calls, as in a
    store that noises each text once. Keep the seed secret where this is used in earnest.

    Args:
        scale: Length of the noise; 1 is as long as the vector.
        dimension: D, on which epsilon depends.
        delta: See `gaussian_epsilon`.
        seed: Seed of the noise.

    Raises:
        InputError: When ``scale`` is not above 0, or vectors have another dimension.

    Example:
        >>> gaussian_noise(0.5, dimension=256).name
        'noise 0.5 (epsilon 2.32e+03, delta 1e-05)'
    """
    check_in_range(scale, name="scale", low=0.0, open_low=True)
    check_in_range(dimension, name="dimension", low=1)
    sigma = scale / math.sqrt(dimension)
    epsilon = gaussian_epsilon(sigma, delta=delta)
    key = derive_seed(seed, "vector noise").to_bytes(8, "big")

    def change(vectors: np.ndarray) -> np.ndarray:
        if vectors.shape[1] != dimension:
            raise InputError(
                f"The noise was made for {dimension} dimensions, the vectors have "
                f"{vectors.shape[1]}: its epsilon would be another one."
            )
        noise = np.empty_like(vectors)
        for row, vector in enumerate(np.ascontiguousarray(vectors)):
            digest = hashlib.blake2b(vector.tobytes(), digest_size=16, key=key).digest()
            rng = np.random.Generator(np.random.PCG64(int.from_bytes(digest, "big")))
            noise[row] = rng.standard_normal(dimension, dtype=np.float32)
        return vectors + np.float32(sigma) * noise

    return PrivacyTransform(
        f"noise {scale:g} (epsilon {epsilon:.3g}, delta {delta:g})",
        change,
        {"scale": scale, "sigma": sigma, "epsilon": epsilon, "delta": delta},
    )


def rounded_vectors(decimals: int) -> PrivacyTransform:
    """Round the values of unit vectors.

    Args:
        decimals: Digits after the point, 0 or more.

    Example:
        >>> rounded_vectors(1)(np.array([[0.6, 0.8], [0.61, 0.79]])).tolist()[1]
        [0.60000..., 0.80000...]
    """
    check_in_range(decimals, name="decimals", low=0)
    return PrivacyTransform(
        f"rounded to {decimals}",
        lambda vectors: np.round(vectors, decimals),
        {"decimals": decimals},
    )


def int8_vectors() -> PrivacyTransform:
    """Keep 8 bits per value, scaled to the largest of each vector.

    Example:
        >>> int8_vectors()(np.array([[1.0, 0.0]])).tolist()
        [[1.0, 0.0]]
    """

    def change(vectors: np.ndarray) -> np.ndarray:
        top = np.maximum(np.abs(vectors).max(axis=1, keepdims=True), np.finfo(np.float32).tiny)
        return np.asarray(np.round(vectors / top * 127) * (top / 127))

    return PrivacyTransform("int8", change, {"bits": 8})


def binary_vectors() -> PrivacyTransform:
    """Keep the sign of every value.

    Example:
        >>> binary_vectors()(np.array([[0.6, -0.8]])).tolist()
        [[1.0, -1.0]]
    """
    return PrivacyTransform("binary", lambda vectors: np.where(vectors > 0, 1.0, -1.0), {"bits": 1})


@dataclass(frozen=True)
class TradeOff:
    """What a transform leaves of leakage and of use."""

    name: str
    """The transform; ``"as they are"`` for none."""
    about: Mapping[str, Any]
    """What the transform says of itself."""
    leakage: Score
    """Main score of the leakage task."""
    utility: Score
    """Main score of the utility task."""
    leakage_share: float
    """Leakage as a share of that without a transform; NaN where that is 0."""
    utility_share: float
    """Utility as a share of that without a transform; NaN where that is 0."""

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary that JSON can hold; intervals without their resamples."""
        shares = {"leakage_share": self.leakage_share, "utility_share": self.utility_share}
        return {
            "name": self.name,
            "about": dict(self.about),
            "leakage": self.leakage.interval.to_dict(),
            "utility": self.utility.interval.to_dict(),
            **{key: value if math.isfinite(value) else None for key, value in shares.items()},
        }


def leakage_curve(
    system: EncoderSystem,
    transforms: Sequence[PrivacyTransform],
    leakage: Task,
    utility: Task,
    resampling: Resampling | None = None,
) -> list[TradeOff]:
    """Measure leakage against use for every transform, the vectors as they are first.

    The attacker is trained on transformed vectors, so it adapts to the defence.

    Args:
        system: Whose vectors are changed.
        transforms: The defences; names must differ.
        leakage: A task whose higher scores are more leakage, such as `InversionTask`.
        utility: A task whose higher scores are better, such as a retrieval.
        resampling: How intervals are made.

    Raises:
        DuplicateIdError: When two transforms have one name.
        EmbedworksError: When a task cannot be run on the vectors.

    Example:
        >>> from embedworks import load
        >>> from embedworks.evaluation import EncoderSystem, StsTask, generated_probe
        >>> system = EncoderSystem(load("static"), name="static")
        >>> use = StsTask("toy", [("a cat", "a dog", 3.0), ("a cat", "tax law", 0.0)])
        >>> curve = leakage_curve(system, [binary_vectors()], generated_probe("tense"), use)
        >>> [point.name for point in curve]
        ['as they are', 'binary']
    """
    check_unique([transform.name for transform in transforms], name="names of transforms")
    how = resampling or Resampling()
    points: list[TradeOff] = []
    for transform in (None, *transforms):
        changed = system if transform is None else transform.of(system)
        told, used = (task.run(changed, how).main for task in (leakage, utility))
        base = points[0] if points else None
        points.append(
            TradeOff(
                "as they are" if transform is None else transform.name,
                {} if transform is None else transform.about,
                told,
                used,
                _share(told, base.leakage if base else told),
                _share(used, base.utility if base else used),
            )
        )
    return points


def _share(part: Score, whole: Score) -> float:
    return part.interval.mean / whole.interval.mean if whole.interval.mean else math.nan
