from __future__ import annotations

import pytest

from embedworks._core.settings import Settings
from embedworks.errors import NotFoundError, SettingsError


class Inner(Settings):
    count: int = 4


class Outer(Settings):
    inner: Inner = Inner()
    name: str = "a"


def test_round_trip_through_yaml_is_exact(tmp_path):
    settings = Outer(inner=Inner(count=2), name="é: [x]")
    settings.to_yaml(tmp_path / "r.yaml")
    assert Outer.from_yaml(tmp_path / "r.yaml") == settings
    assert Outer.from_dict(settings.to_dict()) == settings


def test_every_problem_is_named_at_once_with_a_hint():
    with pytest.raises(SettingsError) as caught:
        Outer.from_dict({"inner": {"cuont": 1}, "nmae": "b", "name": 3})
    message = str(caught.value)
    assert "inner.cuont" in message
    assert "Did you mean 'count'" in message
    assert "Did you mean 'name'" in message
    assert "valid string" in message


def test_settings_are_frozen_and_replaced_with_validation():
    settings = Inner()
    with pytest.raises(ValueError, match="frozen"):
        settings.count = 3
    assert settings.replace(count=3).count == 3
    with pytest.raises(SettingsError, match="count"):
        settings.replace(count="many")


@pytest.mark.parametrize(("text", "message"), [("- 1", "mapping"), ("a: [", "not valid YAML")])
def test_files_that_are_no_recipe_are_refused(tmp_path, text, message):
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(SettingsError, match=message):
        Outer.from_yaml(tmp_path / "r.yaml")


def test_missing_and_huge_files_are_refused(tmp_path):
    with pytest.raises(NotFoundError):
        Outer.from_yaml(tmp_path / "none.yaml")
    (tmp_path / "big.yaml").write_text("#" * 1_000_001)
    with pytest.raises(SettingsError, match="larger than 1 MB"):
        Outer.from_yaml(tmp_path / "big.yaml")


def test_yaml_cannot_make_objects(tmp_path):
    (tmp_path / "r.yaml").write_text("name: !!python/object/apply:os.getcwd []")
    with pytest.raises(SettingsError, match="not valid YAML"):
        Outer.from_yaml(tmp_path / "r.yaml")
