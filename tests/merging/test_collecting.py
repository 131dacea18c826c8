"""What is measured on a model: gradients of each row's own loss, inputs of linear layers."""

from __future__ import annotations

import numpy as np
import pytest

from embedworks.data import Row, RowSet
from embedworks.errors import EmptyInputError, InputError, NonFiniteError, UnknownNameError

torch = pytest.importorskip("torch")
library = pytest.importorskip("sentence_transformers")

from embedworks.losses import ContrastiveLoss  # noqa: E402
from embedworks.merging import collect_fisher, collect_grams  # noqa: E402
from embedworks.merging._model_folders import ModelFolder  # noqa: E402
from embedworks.merging._parameter_names import tensor_parameters  # noqa: E402
from embedworks.merging.collecting import mean_loss  # noqa: E402

ROWS = RowSet(
    [
        Row("open a tar archive", "read files out of a tar archive", ("median of numbers",)),
        Row("median of numbers", "the middle value of the data", ("wrap lines", "two")),
        Row("wrap long lines", "fill a paragraph of text to a width", ("open a file",)),
        Row("gzip a file", "compress data with gzip", ("a heap",)),
        Row("smallest items", "a heap gives its smallest item first", ("calendar",)),
    ]
)


@pytest.fixture
def model(transformer_folder):
    return library.SentenceTransformer(str(transformer_folder), device="cpu")


def slow_gradients(model, rows, temperature):
    """Return, per row, the gradient of its InfoNCE with the rest of ``rows`` as context."""
    model.eval()
    columns = [[r.anchor for r in rows], [r.positive for r in rows], [r.negatives[0] for r in rows]]
    q, d, n = (model(model.preprocess(column))["sentence_embedding"] for column in columns)
    found = []
    for i in range(len(rows)):
        scores = torch.cat([q[i] @ d.T, q[i : i + 1] @ n[i]]) / temperature
        loss = -scores[i] + torch.logsumexp(scores, 0)
        parameters = dict(model.named_parameters())
        gradients = torch.autograd.grad(
            loss, list(parameters.values()), retain_graph=True, allow_unused=True
        )
        found.append(
            {
                name: np.zeros(p.shape) if g is None else g.double().numpy()
                for (name, p), g in zip(parameters.items(), gradients)
            }
        )
    return found


def objective(model):
    from embedworks.losses import ObjectiveSettings

    return ContrastiveLoss(
        model, ObjectiveSettings(candidates=("documents", "own_negatives"), temperature=0.1)
    )


def test_fisher_is_the_mean_square_of_each_rows_gradient(model):
    found = collect_fisher(model, ROWS, objective, batch_size=3)
    batches = [ROWS[:3], ROWS[3:]]
    gradients = [g for batch in batches for g in slow_gradients(model, list(batch), 0.1)]
    assert found.keys() == gradients[0].keys()
    for name, value in found.items():
        expected = np.mean([g[name] ** 2 for g in gradients], axis=0)
        np.testing.assert_allclose(value, expected, rtol=1e-3, atol=1e-9, err_msg=name)
        assert value.dtype == np.float32
    assert sum(value.sum() for value in found.values()) > 0


def test_a_batchs_fisher_is_the_square_of_its_mean_gradient(model):
    found = collect_fisher(model, ROWS, objective, per="batch", batch_size=3)
    batches = [slow_gradients(model, list(batch), 0.1) for batch in (ROWS[:3], ROWS[3:])]
    for name, value in found.items():
        means = [np.mean([g[name] for g in batch], axis=0) for batch in batches]
        expected = np.mean([mean**2 for mean in means], axis=0)
        np.testing.assert_allclose(value, expected, rtol=1e-3, atol=1e-9, err_msg=name)


def test_losses_of_the_library_work_by_batch_and_are_refused_by_row(model):
    from sentence_transformers.sentence_transformer.losses import (
        CosineSimilarityLoss,
        MultipleNegativesRankingLoss,
    )

    with pytest.raises(InputError, match="takes no weights of rows"):
        collect_fisher(model, ROWS, MultipleNegativesRankingLoss)
    batch = collect_fisher(model, ROWS, MultipleNegativesRankingLoss, per="batch")
    assert sum(value.sum() for value in batch.values()) > 0
    graded = RowSet(Row(r.anchor, r.positive, score=n / 4) for n, r in enumerate(ROWS))
    alone = collect_fisher(model, graded, CosineSimilarityLoss, per="batch", batch_size=1)
    assert sum(value.sum() for value in alone.values()) > 0


def test_the_model_is_left_as_it_was(model):
    model.train()
    first = next(model.parameters())
    first.requires_grad_(False)
    first.grad = torch.ones_like(first)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    collect_fisher(model, ROWS, objective)
    collect_grams(model, ["a text"])
    mean_loss(model, ROWS, objective)
    assert model.training
    assert not first.requires_grad
    assert (first.grad == 1).all()
    assert not any(layer._forward_pre_hooks for layer in model.modules())
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name])
        assert parameter.requires_grad == (parameter is not first)


def test_static_models_have_a_fisher_too(static_folder):
    model = library.SentenceTransformer(str(static_folder), device="cpu")
    (value,) = collect_fisher(model, ROWS, ContrastiveLoss).values()
    read = model.tokenizer.encode("archive").ids
    assert (value[read] > 0).any()
    unread = model.tokenizer.encode("zulu").ids[-1]
    assert value[unread].sum() == 0 or unread in model.tokenizer.encode("open").ids
    assert collect_grams(model, ["a text"]) == {}


def test_grams_do_not_see_padding(model):
    texts = ["open", "open a tar archive and read all its files", "median of numbers"]
    together = collect_grams(model, texts)
    alone = [collect_grams(model, [text]) for text in texts]
    inputs = []
    model.eval()
    layer = model[0].model.encoder.layer[1].output.dense
    handle = layer.register_forward_pre_hook(lambda _, given: inputs.append(given[0][0]))
    with torch.no_grad():
        for text in texts:
            model(model.preprocess([text]))
    handle.remove()
    stacked = torch.cat(inputs).double().numpy()
    name = "0.model.encoder.layer.1.output.dense.weight"
    np.testing.assert_allclose(together[name], stacked.T @ stacked / 3, rtol=1e-4, atol=1e-6)
    for name, gram in together.items():
        np.testing.assert_allclose(gram, sum(g[name] for g in alone) / 3, rtol=1e-4, atol=1e-6)
    assert len([n for n in together if "layer.0" in n]) == 6


def test_every_tensor_of_a_folder_finds_its_parameter(model, transformer_folder):
    from sentence_transformers.sentence_transformer.modules import Dense

    folder = ModelFolder.open(transformer_folder)
    (found,) = tensor_parameters(model, folder).values()
    assert found.keys() == folder.weights["model"].entries.keys()
    assert sorted(found.values()) == sorted(name for name, _ in model.named_parameters())
    assert found["encoder.layer.1.output.dense.bias"].endswith("encoder.layer.1.output.dense.bias")
    with torch.no_grad():
        model[0].model.embeddings.LayerNorm.bias += 1  # no longer what the file holds
    model.add_module("3", Dense(32, 8))
    (found,) = tensor_parameters(model, folder).values()
    assert "embeddings.LayerNorm.bias" not in found


def test_bad_probes_are_refused(model):
    with pytest.raises(EmptyInputError, match="no rows"):
        collect_fisher(model, RowSet([]), objective)
    with pytest.raises(EmptyInputError, match="probe texts"):
        collect_grams(model, [])
    with pytest.raises(InputError, match="list of strings"):
        collect_grams(model, "one text")
    with pytest.raises(UnknownNameError, match="Did you mean 'row'"):
        collect_fisher(model, ROWS, objective, per="rows")
    with pytest.raises(InputError, match="integer of at least 1"):
        collect_fisher(model, ROWS, objective, batch_size=0)
    with torch.no_grad():
        next(model.parameters())[:] = float("nan")
    with pytest.raises(NonFiniteError):
        collect_fisher(model, ROWS, objective, per="batch")
    with pytest.raises(NonFiniteError):
        collect_grams(model, ["open"])


def test_mean_loss_counts_rows(model):
    values = [mean_loss(model, rows, objective, batch_size=8) for rows in (ROWS[:3], ROWS[3:])]
    both = mean_loss(model, ROWS, objective, batch_size=3)
    assert both == pytest.approx((3 * values[0] + 2 * values[1]) / 5, rel=1e-5)
