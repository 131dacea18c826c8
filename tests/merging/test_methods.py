from __future__ import annotations

import inspect

import numpy as np
import pytest

import embedworks.merging as merging
from embedworks._core.settings import Settings
from embedworks.errors import InputError, NonFiniteError, SettingsError, ShapeError
from embedworks.merging import MERGE_METHODS, MergeMethod


@pytest.mark.parametrize("name", MERGE_METHODS.names())
def test_options_are_those_of_the_function(name):
    """Settings, defaults and declarations cannot drift from the function they describe."""
    method = MERGE_METHODS[name]
    assert isinstance(method, MergeMethod)
    assert method.name == name
    assert method.function is getattr(merging, name)
    parameters = inspect.signature(method.function).parameters
    options = {
        key: parameter.default
        for key, parameter in parameters.items()
        if key not in ("tensors", "weights", "base", "key")
    }
    assert issubclass(method.settings, Settings)
    assert method.settings().to_dict() == options
    assert method.takes_base == ("base" in parameters)
    needs = method.takes_base and parameters["base"].default is inspect.Parameter.empty
    assert method.needs_base == needs
    assert method.random == ("seed" in options)
    for part in ("Returns:", "Raises:", "Example:"):
        assert part in (method.function.__doc__ or "")


def test_a_call_is_the_function_with_checked_options():
    rng = np.random.default_rng(0)
    base, a, b = rng.normal(size=(3, 4, 5))
    found = MERGE_METHODS["dare"]([a, b], [1, 2], base=base, key="x", density=0.7, seed=2)
    expected = merging.dare([a, b], [1, 2], base=base, key="x", density=0.7, seed=2)
    np.testing.assert_array_equal(found, expected)


def test_errors_name_the_tensor():
    ties, a = MERGE_METHODS["ties"], np.ones(3)
    with pytest.raises(NonFiniteError, match="^layer.0.weight: tensor 1 contains NaN"):
        ties([a, a * np.nan], base=a, key="layer.0.weight")
    with pytest.raises(ShapeError, match="^layer.0.weight: the base's tensor has shape"):
        ties([a, a], base=np.ones(2), key="layer.0.weight")
    with pytest.raises(NonFiniteError, match="^tensor 1 contains NaN"):
        ties([a, a * np.nan], base=a)


def test_options_are_validated():
    with pytest.raises(SettingsError, match="Did you mean 'density'"):
        MERGE_METHODS["ties"]([np.ones(2)], base=np.ones(2), densty=0.5)
    with pytest.raises(SettingsError, match="density: .* less than or equal to 1, got 2"):
        MERGE_METHODS["ties"]([np.ones(2)], base=np.ones(2), density=2)
    with pytest.raises(SettingsError, match="per: .*'row'"):
        MERGE_METHODS["model_stock"]([np.ones(2)] * 2, base=np.ones(2), per="column")


def test_a_base_without_use_is_refused():
    with pytest.raises(InputError, match=r"linear has no use for a base.*: .*slerp, .*ties"):
        MERGE_METHODS["linear"]([np.ones(2)], base=np.ones(2))


def test_check_raises_before_anything_is_read():
    for name in MERGE_METHODS:
        method = MERGE_METHODS[name]
        method.check(method.least, has_base=method.needs_base)
        with pytest.raises(InputError):
            method.check(method.least, [1.0] * (method.least + 1), has_base=method.needs_base)
    with pytest.raises(InputError, match="exactly 2 models, got 1"):
        MERGE_METHODS["slerp"].check(1)
    with pytest.raises(InputError, match="give `base`"):
        MERGE_METHODS["ties"].check(2)
    with pytest.raises(InputError, match="sum to zero"):
        MERGE_METHODS["linear"].check(2, [1, -1])
    with pytest.raises(InputError, match="density - epsilon"):
        MERGE_METHODS["della"].check(2, has_base=True, density=0.1)
    with pytest.raises(SettingsError, match="scale"):
        MERGE_METHODS["ties"].check(2, has_base=True, scale=float("nan"))
