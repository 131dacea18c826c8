"""Seeds, devices, extras, progress and lazy exports: one small test file for small modules."""

from __future__ import annotations

import io
import sys

import pytest

from embedworks._core.devices import cpu_count, pick_device
from embedworks._core.extras import require_extra
from embedworks._core.lazy import attach
from embedworks._core.progress import progress, track
from embedworks._core.seeding import derive_seed, generator
from embedworks.errors import InputError, MissingExtraError, SettingsError


def test_streams_are_stable_and_apart():
    assert derive_seed(0, "split") == 1169998417628118707
    assert generator(0, "a").random() == generator(0, "a").random()
    assert generator(0, "a").random() != generator(0, "b").random()
    assert derive_seed(0, "a", 1) != derive_seed(0, "a1")
    with pytest.raises(InputError, match="0 or greater"):
        derive_seed(-1, "a")


def test_thread_count_can_be_set_and_is_checked(monkeypatch):
    monkeypatch.setenv("EMBEDWORKS_THREADS", "3")
    assert cpu_count() == 3
    monkeypatch.setenv("EMBEDWORKS_THREADS", "none")
    with pytest.raises(SettingsError, match="positive integer"):
        cpu_count()


def test_a_device_that_is_not_there_is_refused():
    torch = pytest.importorskip("torch")
    assert pick_device("cpu") == "cpu"
    assert pick_device() in ("cpu", "cuda", "mps")
    if not torch.cuda.is_available():
        with pytest.raises(SettingsError, match="no CUDA GPU"):
            pick_device("cuda:0")


def test_a_missing_extra_names_the_install_line():
    with pytest.raises(MissingExtraError, match=r"pip install 'embedworks\[store\]'") as caught:
        require_extra("no_such_module_here", extra="store", purpose="keep rows")
    assert isinstance(caught.value, ImportError)


def test_progress_is_silent_off_a_terminal(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    assert list(track(range(3), "Counting")) == [0, 1, 2]
    assert stream.getvalue() == ""


def test_progress_can_be_forced_and_changed(capsys):
    with progress("Work", total=None, enabled=True) as bar:
        bar.update(total=2, description="More")
        bar.advance(2)
    assert list(track(iter([1]), "Counting", enabled=False)) == [1]
    capsys.readouterr()


def test_lazy_exports_refuse_unknown_names():
    getattr_, dir_, names = attach("embedworks._core", {"registry": "registry"})
    assert getattr_("registry").__name__ == "embedworks._core.registry"
    assert dir_() == names == ["registry"]
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        getattr_("nothing")
