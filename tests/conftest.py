"""Fixtures shared by all rooms: small real models and small real documents, made on the spot."""

from __future__ import annotations

import os
import re
import shutil
import sysconfig
import warnings
from pathlib import Path

import hypothesis
import numpy as np
import pytest

# The same examples on every machine; HYPOTHESIS_PROFILE=search looks for new ones.
hypothesis.settings.register_profile("same", derandomize=True)
hypothesis.settings.register_profile("search", derandomize=False)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

#: Modules of the standard library whose documentation the tests read.
STDLIB_FILES = (
    "argparse.py", "base64.py", "calendar.py", "configparser.py", "contextlib.py", "csv.py",
    "difflib.py", "fileinput.py", "fractions.py", "gzip.py", "heapq.py", "shelve.py",
    "shutil.py", "statistics.py", "tarfile.py", "tempfile.py", "textwrap.py",
)  # fmt: skip


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder with the optional public data sets; tests that ask for it are skipped without."""
    folder = Path(os.environ.get("EMBEDWORKS_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("the optional data folder is not here (set EMBEDWORKS_DATA)")
    return folder


@pytest.fixture(scope="session")
def documents(tmp_path_factory) -> Path:
    """A folder with some modules of the standard library, in two sub-folders."""
    folder = tmp_path_factory.mktemp("documents")
    library = Path(sysconfig.get_path("stdlib"))
    for place, name in enumerate(STDLIB_FILES):
        target = folder / ("first" if place % 2 else "second")
        target.mkdir(exist_ok=True)
        shutil.copy(library / name, target / name)
    return folder


@pytest.fixture(scope="session")
def static_folder(tmp_path_factory, documents) -> Path:
    """A static model: one random row per frequent word of the documents, pieces for the rest."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    from embedworks.models import StaticModel

    words: dict[str, int] = {}
    for path in sorted(documents.rglob("*.py")):
        for word in re.findall(r"[a-z]+", path.read_text(encoding="utf-8").lower()):
            words[word] = words.get(word, 0) + 1
    letters = [chr(c) for c in range(33, 127) if not chr(c).isupper()]
    pieces = ["[UNK]", *letters, *(f"##{letter}" for letter in letters)]
    frequent = sorted(w for w, n in words.items() if n >= 2 and len(w) > 1)
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys([*pieces, *frequent]))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    table = np.random.default_rng(0).normal(size=(len(vocabulary), 48)).astype(np.float32)
    table[: len(pieces)] *= 0.1  # letters and punctuation say little
    folder = tmp_path_factory.mktemp("models") / "static"
    StaticModel(tokenizer, table, name="tiny").save_pretrained(folder, dtype="float32")
    return folder


@pytest.fixture(scope="session")
def transformer_folder(tmp_path_factory, static_folder) -> Path:
    """A two-layer BERT with random weights as a sentence-transformers model."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("sentence_transformers")
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from tokenizers import Tokenizer
    from tokenizers.processors import TemplateProcessing
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    tokenizer = Tokenizer.from_file(str(static_folder / "tokenizer.json"))
    special = ["[CLS]", "[SEP]", "[PAD]", "[MASK]"]
    tokenizer.add_special_tokens(special)
    ids = {name: tokenizer.token_to_id(name) for name in special}
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(n, ids[n]) for n in ("[CLS]", "[SEP]")]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        pad_token="[PAD]", mask_token="[MASK]", model_max_length=64,
    )  # fmt: skip
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(fast), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=64,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("models") / "bert"
    BertModel(config).save_pretrained(folder / "raw")
    fast.save_pretrained(folder / "raw")
    body = Transformer(str(folder / "raw"), max_seq_length=64)
    model = SentenceTransformer(modules=[body, Pooling(32, "mean"), Normalize()], device="cpu")
    model.save_pretrained(str(folder / "st"))
    return folder / "st"


@pytest.fixture
def call(capsys, monkeypatch):
    """Run the program; return (exit code, standard output, standard error)."""
    from embedworks.cli.app import run

    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # the program sets it

    def _call(*arguments):
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            run([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return caught.value.code or 0, printed.out, printed.err

    return _call
