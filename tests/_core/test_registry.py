from __future__ import annotations

import pytest

from embedworks._core.registry import Registry
from embedworks.errors import EmbedworksError, InputError, UnknownNameError


def test_names_are_sorted_and_objects_come_back():
    registry = Registry[int]("numbers")
    registry.add("two", 2, summary="After one.")
    registry.add("one", 1)
    assert registry.names() == ["one", "two"] == list(registry)
    assert registry["two"] == 2
    assert registry.summary("two") == "After one."
    assert "two" in registry
    assert "three" not in registry


def test_a_name_is_taken_once():
    registry = Registry[int]("numbers")
    registry.add("one", 1)
    with pytest.raises(InputError, match="'one' is already registered"):
        registry.add("one", 2)
    assert registry["one"] == 1


def test_unknown_names_get_a_hint_and_are_key_errors():
    registry = Registry[int]("numbers")
    registry.add("three", 3)
    with pytest.raises(UnknownNameError, match="Did you mean 'three'") as caught:
        registry["thre"]
    assert isinstance(caught.value, KeyError)
    assert isinstance(caught.value, EmbedworksError)
    assert not str(caught.value).startswith('"')


def test_entry_points_of_other_packages_are_found(tmp_path, monkeypatch):
    info = tmp_path / "thirdparty-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: thirdparty\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[embedworks.gadgets]\nlength = builtins:len\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    registry = Registry("gadgets")
    assert registry["length"] is len
    assert "builtins" in registry.summary("length")
