"""Golden vectors: a saved model carries a few texts with their vectors, and must reproduce them.

``golden.safetensors`` holds the vectors, ``golden.json`` the texts, the tolerance and the
versions that made them. They catch what no checksum can: another tokenizer version, a swapped
table, tied weights after an export, a wrong pooling.
"""

from __future__ import annotations

import platform
import warnings
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file
from safetensors.numpy import save as to_bytes

from embedworks import __version__
from embedworks._core.files import atomic_directory, atomic_path, read_json, write_json
from embedworks._core.validation import check_vectors, normalize_rows
from embedworks.errors import (
    DataWarning,
    EmptyInputError,
    FormatError,
    InputError,
    NotFoundError,
    ParityError,
)
from embedworks.models._kinds import is_kind_folder
from embedworks.models.protocols import Encoder
from embedworks.models.static import StaticModel

__all__ = ["GOLDEN_TEXTS", "check_golden", "has_golden", "save", "write_golden"]

GOLDEN_FORMAT = 1
TEXT_FILE = "golden.json"
VECTOR_FILE = "golden.safetensors"

#: Eight texts that exercise case, digits, punctuation, code, scripts, emoji and length.
GOLDEN_TEXTS: tuple[str, ...] = (
    "How do I open a file and read it line by line?",
    "Kitchen",
    "The 3rd flight (BA-2041) leaves at 07:45; don't be late, e-mail us!",
    "def mean(values: list[float]) -> float:\n    return sum(values) / len(values)",
    "Zürich, São Paulo und Kraków liegen nicht am Meer.",
    "東京の天気は晴れです。 Погода хорошая. مرحبا بالعالم",
    "Café naïve 😀 — “quoted” … ½ ﬁne 10 µm\t tabs\u00a0and\u200bzero widths",
    " ".join(
        f"Section {number} describes how part {number * 7} of the machine is cleaned, oiled and "
        f"measured before shift {number % 3}."
        for number in range(40)
    ),
)


def write_golden(
    folder: str | Path, model: Encoder, texts: Sequence[str] = GOLDEN_TEXTS
) -> tuple[Path, Path]:
    """Encode ``texts`` with ``model`` and keep the vectors beside the model in ``folder``.

    Returns:
        The paths of the vectors and of the description.

    Raises:
        NotFoundError: When ``folder`` does not exist.
        EmptyInputError: When no text is given.
        NonFiniteError: When the model gives NaN.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise NotFoundError(f"There is no model folder {folder} to write golden vectors to.")
    if not texts:
        raise EmptyInputError("Golden vectors need at least one text.")
    vectors = check_vectors(_encode(model, list(texts)), name="golden vectors")
    static = isinstance(model, StaticModel)
    # Transformers differ a little between devices and library versions, static models do not.
    tolerance = (
        {"cosine": 0.99999, "max_abs": 1e-5} if static else {"cosine": 0.999, "max_abs": 0.02}
    )
    with atomic_path(folder / VECTOR_FILE) as temporary:
        temporary.write_bytes(to_bytes({"vectors": vectors}))
    write_json(
        folder / TEXT_FILE,
        {
            "format": GOLDEN_FORMAT,
            "dim": int(vectors.shape[1]),
            "tolerance": tolerance,
            "versions": _versions(static=static),
            "texts": list(texts),
        },
    )
    return folder / VECTOR_FILE, folder / TEXT_FILE


def has_golden(folder: str | Path) -> bool:
    """Say whether ``folder`` carries golden vectors."""
    return (Path(folder) / TEXT_FILE).is_file()


def check_golden(folder: str | Path, model: Encoder) -> tuple[float, float]:
    """Check that ``model`` reproduces the golden vectors in ``folder``.

    Returns:
        The lowest cosine and the largest absolute difference measured.

    Raises:
        ParityError: With both figures and the text that differs most.
        NotFoundError: When the folder has no golden vectors.
        FormatError: When they are damaged or of another version.
    """
    folder = Path(folder)
    texts, stored, tolerance = _read_golden(folder)
    vectors = check_vectors(_encode(model, texts), name="vectors")
    if vectors.shape != stored.shape:
        raise ParityError(
            f"The model in {folder} gives vectors of shape {vectors.shape}, its golden vectors "
            f"are {stored.shape}: the files do not belong together. Save the model again."
        )
    cosines = (normalize_rows(vectors) * normalize_rows(stored)).sum(axis=1)
    zero = ~(vectors.any(axis=1) | stored.any(axis=1))
    cosines[zero] = 1.0
    worst = int(cosines.argmin())
    cosine, difference = float(cosines[worst]), float(np.abs(vectors - stored).max())
    if cosine < tolerance["cosine"] or difference > tolerance["max_abs"]:
        made = read_json(folder / TEXT_FILE).get("versions", {})
        raise ParityError(
            f"The model in {folder} does not reproduce its golden vectors: lowest cosine "
            f"{cosine:.6f} (at least {tolerance['cosine']} expected), largest difference "
            f"{difference:.2e} (at most {tolerance['max_abs']:.0e}), worst for "
            f"{texts[worst]!r:.60}. Weights or tokenizer changed, or a library computes "
            f"otherwise; made with {made}. Get the model again, or load it with "
            "check_golden=False if the change is wanted, and save it anew."
        )
    return cosine, difference


def save(model: Any, folder: str | Path) -> Path:
    """Save a model with its golden vectors; `load` will check them.

    Takes a `StaticModel` or a ``SentenceTransformer``. For other forms of a static model see
    `StaticModel.save_pretrained`.

    Raises:
        InputError: When the model cannot save itself, or ``folder`` holds something else.
        StorageError: When the disk is full or not writable; what was there stays.
    """
    folder = Path(folder)
    if isinstance(model, StaticModel):
        model.save_pretrained(folder)
        write_golden(folder, model)
        return folder
    if not hasattr(model, "save_pretrained"):
        raise InputError(
            f"A {type(model).__name__} has no save_pretrained method: expected a StaticModel or a "
            "SentenceTransformer."
        )
    if folder.exists() and (not folder.is_dir() or _is_foreign(folder)):
        raise InputError(
            f"{folder} is not an empty folder and holds no model: choose a new folder, so that "
            "nothing of yours is replaced."
        )
    with atomic_directory(folder) as target:
        model.save_pretrained(str(target))
        write_golden(target, model)
    return folder


def _is_foreign(folder: Path) -> bool:
    known = (folder / "modules.json").exists() or is_kind_folder(folder)
    return any(folder.iterdir()) and not known


def _encode(model: Encoder, texts: list[str]) -> np.ndarray:
    with warnings.catch_warnings():
        # A model of few words may know none of a golden text: nobody asked for those vectors.
        warnings.simplefilter("ignore", DataWarning)
        return np.asarray(model.encode(texts), dtype=np.float32)


def _read_golden(folder: Path) -> tuple[list[str], np.ndarray, dict[str, float]]:
    described = read_json(folder / TEXT_FILE)
    vector_file = folder / VECTOR_FILE
    if not isinstance(described, dict) or described.get("format") != GOLDEN_FORMAT:
        raise FormatError(
            f"{folder / TEXT_FILE} is not of format {GOLDEN_FORMAT}: update embedworks or save "
            "the model again."
        )
    texts, tolerance = described.get("texts"), described.get("tolerance")
    if not (
        isinstance(texts, list)
        and len(texts) > 0
        and all(isinstance(text, str) for text in texts)
        and isinstance(tolerance, dict)
        and all(isinstance(tolerance.get(key), (int, float)) for key in ("cosine", "max_abs"))
    ):
        raise FormatError(f"{folder / TEXT_FILE} lacks texts or tolerance: save the model again.")
    if not vector_file.is_file():
        raise FormatError(f"{vector_file} is missing beside {TEXT_FILE}: save the model again.")
    try:
        vectors = load_file(vector_file)["vectors"]
    except (SafetensorError, KeyError, OSError, ValueError) as error:
        raise FormatError(
            f"{vector_file} cannot be read ({error}): is it half written? Save the model again."
        ) from error
    stored = check_vectors(vectors, name=str(vector_file))
    if len(stored) != len(texts):
        raise FormatError(
            f"{vector_file} has {len(stored)} vectors for {len(texts)} texts: save the model again."
        )
    return texts, stored, {key: float(tolerance[key]) for key in ("cosine", "max_abs")}


def _versions(*, static: bool) -> dict[str, str]:
    packages = ["numpy", "tokenizers"]
    if not static:
        packages += ["torch", "transformers", "sentence-transformers"]
    made = {"embedworks": __version__, "python": platform.python_version()}
    return made | {package: metadata.version(package) for package in packages}
