"""Two processes with half a batch each against one process with all of it."""

from __future__ import annotations

import os
import subprocess
import sys

import torch

SCRIPT = """
import sys, torch, torch.distributed as dist
from torch import nn
from embedworks.losses import ContrastiveLoss, ObjectiveSettings

rank, world, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
torch.set_num_threads(1)
if world > 1:
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Sequential(nn.Embedding(50, 8), nn.Flatten(), nn.Linear(24, 6))
    def forward(self, features):
        return {"sentence_embedding": self.table(features["input_ids"])}

def run(cached, normalize):
    torch.manual_seed(0)
    model = Model()
    if world > 1:
        model = nn.parallel.DistributedDataParallel(model)
    g = torch.Generator().manual_seed(1)
    columns = [torch.randint(0, 50, (8, 3), generator=g) for _ in range(4)]
    columns[1][6] = columns[1][1]      # a duplicate on the other device
    weights = torch.rand(8, generator=g)
    mine = slice(rank * (8 // world), (rank + 1) * (8 // world))
    features = [
        {"input_ids": c[mine], "attention_mask": torch.ones_like(c[mine])} for c in columns]
    features[0]["row_weight"] = weights[mine]
    settings = ObjectiveSettings(temperature={"value": 0.2, "learned": True},
        candidates=("documents", "own_negatives", "other_negatives", "queries",
                    "document_queries"),
        directions=("query_to_document", "document_to_query"),
        sample_weights={"kind": "focal", "normalize": normalize})
    loss = ContrastiveLoss(model, settings, gather_across_devices=True,
        **({"mini_batch_size": 3, "cache_gradients": True} if cached else {}))
    value = loss(features)
    value.backward()
    found = {n.removeprefix("module."): p.grad for n, p in model.named_parameters()}
    tau = loss.log_temperature.grad.clone()
    value = value.detach().clone()
    if world > 1:
        dist.all_reduce(value); value /= world
        dist.all_reduce(tau); tau /= world
    return {"loss": value, "tau": tau, **found}

results = {f"{c}-{n}": run(c, n) for c in (False, True) for n in (False, True)}
if rank == 0:
    torch.save(results, f"{folder}/result{world}.pt")
"""


def test_two_processes_equal_one(tmp_path):
    """Plain and cached gradients, plain and normalised sample weights."""
    script = tmp_path / "worker.py"
    script.write_text(SCRIPT)
    workers = [
        subprocess.Popen(
            [sys.executable, str(script), str(rank), str(world), str(tmp_path)],
            stderr=subprocess.PIPE,
            env={**os.environ, "GLOO_SOCKET_IFNAME": "lo"},
        )
        for rank, world in ((0, 1), (0, 2), (1, 2))
    ]
    for worker in workers:
        _, errors = worker.communicate(timeout=120)
        assert worker.returncode == 0, errors.decode()
    one = torch.load(tmp_path / "result1.pt", weights_only=True)
    two = torch.load(tmp_path / "result2.pt", weights_only=True)
    assert len(one) == 4
    for mode, tensors in one.items():
        assert tensors.keys() == two[mode].keys()
        for key, value in tensors.items():
            torch.testing.assert_close(
                two[mode][key], value, atol=1e-6, rtol=1e-4, msg=f"{mode} {key}"
            )
