"""Plans inside PyTorch's loaders, accelerate's sharding and sentence-transformers' trainer."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from embedworks.data import BatchPlan, BatchSettings, PlanSampler
from embedworks.errors import InputError

SETTINGS = BatchSettings(strategy="one_source", batch_size=4)
SOURCES = [f"s{i % 3}" for i in range(30)]


def plan(**options):
    return BatchPlan.from_sources(SOURCES, SETTINGS, seed=3, **options)


def lists(batches):
    return [batch.tolist() for batch in batches]


def test_an_epoch_is_the_plans():
    sampler = PlanSampler(plan())
    for epoch in (0, 2, 1):
        sampler.set_epoch(epoch)
        assert list(sampler) == lists(plan().epoch(epoch))
        assert len(sampler) == len(list(sampler))


def test_torch_is_not_imported():
    code = (
        "import sys; from embedworks.data import BatchPlan, PlanSampler\n"
        "s = PlanSampler(BatchPlan.from_sources(['a'] * 9)); list(s(range(9)))\n"
        "print([m for m in ('torch', 'pyarrow', 'faiss', 'numba') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr


def test_each_process_gets_its_part_of_the_same_batch():
    data_loader = pytest.importorskip("accelerate.data_loader")
    pytest.importorskip("torch")
    from torch.utils.data import DataLoader

    for rank in range(2):
        sampler = PlanSampler(plan(world_size=2))
        loader = DataLoader(range(30), batch_sampler=sampler, collate_fn=list)
        shard = data_loader.prepare_data_loader(
            loader, num_processes=2, process_index=rank, put_on_device=False, even_batches=False
        )
        for epoch in range(2):
            sampler.set_epoch(epoch)
            mine = lists(plan(world_size=2, rank=rank).epoch(epoch))
            assert list(shard.batch_sampler) == mine
            assert len(shard) == len(mine)


def test_skipping_batches_is_resuming():
    data_loader = pytest.importorskip("accelerate.data_loader")
    from torch.utils.data import DataLoader

    loader = DataLoader(range(30), batch_sampler=PlanSampler(plan()), collate_fn=list)
    rest = data_loader.skip_first_batches(loader, 3)
    assert list(rest) == lists(plan().epoch(0)[3:])


def test_other_data_is_refused_at_first_and_read_in_order_later():
    sampler = PlanSampler(plan())
    with pytest.raises(InputError, match="30 rows, but the data set has 7"):
        sampler(range(7))
    assert sampler(range(30), batch_size=8, drop_last=False, generator=None, seed=1) is sampler
    assert sampler(range(7), batch_size=3) == [[0, 1, 2], [3, 4, 5], [6]]


def test_the_trainer_of_sentence_transformers_follows_and_resumes_the_plan(tmp_path):
    pytest.importorskip("sentence_transformers")
    import torch
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = [f"w{i}" for i in range(30)]
    vocabulary = {word: place for place, word in enumerate(["[UNK]", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    data = Dataset.from_dict({"anchor": words, "positive": words[::-1]})
    seen: list[list[int]] = []

    class Recorder(MultipleNegativesRankingLoss):
        def forward(self, features, labels):
            seen.append([int(i) - 1 for i in features[0]["input_ids"]])
            return super().forward(features, labels)

    def train(resume, **options):
        torch.manual_seed(0)
        seen.clear()
        model = SentenceTransformer(
            modules=[StaticEmbedding(tokenizer, embedding_dim=4)], device="cpu"
        )
        args = SentenceTransformerTrainingArguments(
            output_dir=str(tmp_path),
            batch_sampler=PlanSampler(plan()),
            num_train_epochs=3,
            report_to=[],
            logging_strategy="no",
            disable_tqdm=True,
            dataloader_pin_memory=False,
            use_cpu=True,
            **options,
        )
        trainer = SentenceTransformerTrainer(
            model=model, args=args, train_dataset=data, loss=Recorder(model)
        )
        trainer.train(resume_from_checkpoint=resume)
        return [list(batch) for batch in seen]

    whole = train(False, save_strategy="steps", save_steps=13)
    expected = [batch for epoch in range(3) for batch in lists(plan().epoch(epoch))]
    assert whole == expected
    assert len(whole) == 3 * 9
    step = 13  # in the middle of the second epoch
    rest = train(str(tmp_path / f"checkpoint-{step}"), save_strategy="no")
    assert rest == expected[step:]
    assert np.concatenate(whole[:9]).shape == (30,)
