"""Codes learned for retrieval: contrastive quantisation over frozen vectors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from embedworks._core.extras import require_extra
from embedworks._core.progress import track
from embedworks._core.seeding import derive_seed, generator
from embedworks._core.validation import check_in_range, check_vectors
from embedworks.errors import InputError, NonFiniteError, ShapeError
from embedworks.index.quantized.product import ProductQuantizer

if TYPE_CHECKING:
    import torch

    PlanStep: TypeAlias = tuple[torch.Tensor, torch.Tensor, torch.Tensor]

__all__ = [
    "Plan",
    "check_positives",
    "contrastive_loss",
    "descend",
    "learn_quantizer",
    "quantize_through",
]


class Plan:
    """The batches of a training run: rows of each, what is contrasted, and the learning rate.

    Args:
        positives: One relevant document of each query, int (Q,).
        batches: Triples (query, positive, negative), a negative of -1 for none; None draws
            random batches of ``batch_size``, new ones every epoch.
        documents: How many documents there are.
        epochs: Passes over the batches.
        batch_size: Queries per random batch.
        seed: Seed of random batches.
        learning_rate: At the first step; falls to 0 in a line.

    Raises:
        ShapeError: When a batch does not hold triples of integers.
        InputError: When an argument or a number in a batch is out of range, or there is nothing
            to train on.
    """

    def __init__(
        self,
        positives: np.ndarray,
        batches: Iterable[np.ndarray] | None,
        *,
        documents: int,
        epochs: int,
        batch_size: int,
        seed: int,
        learning_rate: float,
    ) -> None:
        check_in_range(epochs, name="epochs", low=1)
        check_in_range(batch_size, name="batch_size", low=2)
        check_in_range(learning_rate, name="learning_rate", low=0, open_low=True)
        given = None if batches is None else _checked(batches, len(positives), documents)
        self.batches = [
            batch
            for epoch in range(epochs)
            for batch in (
                _random_batches(positives, batch_size, seed=seed, epoch=epoch)
                if given is None
                else given
            )
        ]
        if not self.batches:
            raise InputError("There is no batch to train on: two queries are needed at least.")
        self.positives, self.learning_rate = positives, learning_rate

    def steps(self, optimizer: torch.optim.Optimizer, title: str) -> Iterator[PlanStep]:
        """Yield ``(query rows, document rows, known)`` per batch, after setting the rate.

        ``known`` is a bool tensor (B, N): which documents are the own positive of a query. The
        first B documents are the queries' positives.
        """
        torch = _torch()
        for step, batch in enumerate(track(self.batches, title)):
            for group in optimizer.param_groups:
                group["lr"] = self.learning_rate * (1 - step / len(self.batches))
            numbers = torch.from_numpy(np.ascontiguousarray(batch[:, 1:].T.reshape(-1)))
            numbers = numbers[numbers >= 0]
            rows = torch.from_numpy(batch[:, 0].copy())
            known = torch.from_numpy(self.positives[batch[:, 0]])[:, None] == numbers[None]
            yield rows, numbers, known


def descend(optimizer: torch.optim.Optimizer, loss: Any) -> None:
    """Take one step down a loss.

    Raises:
        NonFiniteError: When the loss is NaN or infinite.
    """
    if not _torch().isfinite(loss):
        raise NonFiniteError(f"The loss is {loss.item()}: lower learning_rate.")
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def quantize_through(
    vectors: torch.Tensor, codebooks: torch.Tensor, *, temperature: float = 1.0
) -> torch.Tensor:
    """Replace each piece of a vector by its nearest codeword, and let gradients through.

    ``p = softmax(-|z - c|^2 / temperature)`` over the codewords of a subspace; the value is the
    codeword of the largest p, the gradient that of ``(onehot - stop(p) + p) @ codewords``. So it
    reaches the chosen codeword directly, and vector and codebook through p.

    Args:
        vectors: Turned vectors, float (B, D).
        codebooks: Float (S, P, D / S).
        temperature: Above 0; smaller makes p sharper.

    Returns:
        Float (B, D), made of codewords.

    Paper: Xiao et al. 2022 (BiDR), arXiv 2201.05409, section 3.2. As in its code, the nearest
    codeword by distance is taken; the paper takes the largest inner product. Distances come from
    one matrix product per subspace and the (B, S, P, D / S) differences are never made.

    Example:
        >>> import torch
        >>> books = torch.tensor([[[0.0], [1.0]], [[0.0], [2.0]]])
        >>> quantize_through(torch.tensor([[0.9, 0.2]]), books)
        tensor([[1., 0.]])
    """
    torch = _torch()
    subspaces, _, width = codebooks.shape
    pieces = vectors.reshape(len(vectors), subspaces, width).transpose(0, 1)  # (S, B, width)
    logits = 2 * pieces @ codebooks.transpose(1, 2) - (codebooks**2).sum(-1)[:, None]
    shares = torch.softmax(logits / temperature, dim=-1)  # the |z|^2 of all codewords is the same
    hard = torch.zeros_like(shares).scatter_(-1, logits.argmax(-1, keepdim=True), 1.0)
    words = (hard - shares.detach() + shares) @ codebooks
    return words.transpose(0, 1).reshape(len(vectors), subspaces * width)


def contrastive_loss(
    queries: torch.Tensor,
    documents: torch.Tensor,
    *,
    temperature: float,
    ignored: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the mean of ``-log softmax(<q_i, d> / temperature)[i]`` over the queries.

    Args:
        queries: Float (B, D).
        documents: Float (N, D), N >= B; the first B are the queries' positives.
        temperature: Above 0.
        ignored: Bool (B, N); True leaves a document out, as a known positive must be. The own
            positive is never left out.

    Example:
        >>> import torch
        >>> contrastive_loss(torch.eye(2), torch.eye(2), temperature=1.0).item()
        0.31326...
    """
    torch = _torch()
    scores = queries @ documents.T / temperature
    own = torch.arange(len(queries))
    if ignored is not None:
        ignored = ignored.clone()
        ignored[own, own] = False
        scores = scores.masked_fill(ignored, float("-inf"))
    return torch.nn.functional.cross_entropy(scores, own)


def learn_quantizer(
    start: ProductQuantizer,
    queries: np.ndarray,
    documents: np.ndarray,
    batches: Iterable[np.ndarray] | None = None,
    *,
    positives: np.ndarray,
    epochs: int = 5,
    batch_size: int = 256,
    learning_rate: float = 3e-3,
    temperature: float = 0.05,
    assign_temperature: float = 0.1,
    contrast: float = 1.0,
    reconstruction: float = 0.1,
    train_rotation: bool = False,
    seed: int = 0,
) -> ProductQuantizer:
    """Train a quantizer so that queries find their documents by the codes.

    Queries stay as they are, documents are quantised; the loss contrasts a query's own document
    with those of the other queries of the batch (and the batch's negatives), plus a little
    reconstruction. The rotation stays as it is; where it is trained it stays orthogonal, as
    ``start.rotation`` times the exponential of a skew matrix.

    Args:
        start: Where to start from, such as ``ProductQuantizer.fit(documents, 24,
            rotation="opq")``.
        queries: Unit vectors of training queries, (Q, D).
        documents: Unit vectors of the documents, (M, D).
        batches: Triples (query, positive, negative) to use in place of random batches, such as
            `locality_batches` gives; ``epochs`` then repeats them.
        positives: One relevant document of each query, int (Q,).
        epochs: Passes over the queries.
        batch_size: Queries per random batch.
        learning_rate: Of Adam, falling to 0 in a line.
        temperature: Of the contrast.
        assign_temperature: Of the codewords' softmax, see `quantize_through`.
        contrast: Weight of the contrast; 0 trains on reconstruction alone.
        reconstruction: Weight of the mean squared distance between vector and codewords.
        train_rotation: Whether to train the rotation too, at a much lower learning rate: on
            frozen MiniLM vectors that was slower and no better.
        seed: Seed of the batches.

    Returns:
        A new quantizer of the same shape.

    Raises:
        ShapeError: When dimensions or positives do not fit.
        InputError: When an argument is out of range or a positive is no document.
        NonFiniteError: When training diverges.
        MissingExtraError: When torch is not installed.

    Paper: Xiao et al. 2022 (BiDR), arXiv 2201.05409, section 3.2, for encoders that are not
    trained. Differences: a temperature, as vectors have unit length;
    documents are shared by all queries of a batch that are not known to want them.
    """
    torch = _torch()
    queries = check_vectors(queries, name="queries", dim=start.dim)
    documents = check_vectors(documents, name="documents", dim=start.dim)
    check_positives(positives, len(queries), len(documents))
    for name, value in (("temperature", temperature), ("assign_temperature", assign_temperature)):
        check_in_range(value, name=name, low=0, open_low=True)
    for name, value in (("contrast", contrast), ("reconstruction", reconstruction)):
        check_in_range(value, name=name, low=0)
    plan = Plan(
        positives, batches, documents=len(documents), epochs=epochs, batch_size=batch_size,
        seed=seed, learning_rate=learning_rate,
    )  # fmt: skip
    first = torch.from_numpy(start.rotation.copy())
    codebooks = torch.nn.Parameter(torch.from_numpy(start.codebooks.copy()))
    skew = torch.nn.Parameter(torch.zeros(start.dim, start.dim), requires_grad=train_rotation)
    optimizer = torch.optim.Adam([codebooks, skew] if train_rotation else [codebooks])
    asked, wanted = torch.from_numpy(queries), torch.from_numpy(documents)
    for rows, numbers, known in plan.steps(optimizer, "Learning codes"):
        rotation = first @ torch.matrix_exp(skew - skew.T) if train_rotation else first
        turned = wanted[numbers] @ rotation
        coded = quantize_through(turned, codebooks, temperature=assign_temperature)
        loss = contrast * contrastive_loss(
            asked[rows] @ rotation, coded, temperature=temperature, ignored=known
        )
        descend(optimizer, loss + reconstruction * ((turned - coded) ** 2).sum(-1).mean())
    with torch.no_grad():
        rotation = first @ torch.matrix_exp(skew - skew.T) if train_rotation else first
    return ProductQuantizer(
        np.ascontiguousarray(rotation.numpy()), codebooks.detach().numpy().copy()
    )


def check_positives(positives: np.ndarray, queries: int, documents: int) -> None:
    """Raise unless there is one document number per query."""
    if positives.shape != (queries,) or positives.dtype.kind not in "iu":
        raise ShapeError(
            f"positives must be integers of shape ({queries},), one document per query, got "
            f"{positives.dtype} of shape {positives.shape}."
        )
    if queries and not 0 <= positives.min() <= positives.max() < documents:
        raise InputError(
            f"positives must be from 0 to {documents - 1}, got {positives.min()} to "
            f"{positives.max()}."
        )


def _checked(batches: Iterable[np.ndarray], queries: int, documents: int) -> list[np.ndarray]:
    """Return given batches as a list, or raise when one has what there is not."""
    given = [np.asarray(batch) for batch in batches]
    for place, batch in enumerate(given):
        if batch.ndim != 2 or batch.shape[1] != 3 or batch.dtype.kind not in "iu" or not len(batch):
            raise ShapeError(
                f"A batch must be integers of shape (B, 3), (query, positive, negative); batch "
                f"{place} is {batch.dtype} of shape {batch.shape}."
            )
        low, high = batch.min(axis=0), batch.max(axis=0)
        if (low < [0, 0, -1]).any() or (high >= [queries, documents, documents]).any():
            raise InputError(
                f"Batch {place} has numbers from {low.tolist()} to {high.tolist()}, for "
                f"{queries} queries, {documents} documents and {documents} negatives (or -1)."
            )
    return given


def _random_batches(
    positives: np.ndarray, batch_size: int, *, seed: int, epoch: int
) -> list[np.ndarray]:
    """Return batches of (query, positive, -1) in random order; a last single query is left out."""
    order = generator(derive_seed(seed, epoch), "batches").permutation(len(positives))
    triples = np.stack([order, positives[order], np.full(len(order), -1)], axis=1)
    parts = [triples[at : at + batch_size] for at in range(0, len(triples), batch_size)]
    return [part.astype(np.int64) for part in parts if len(part) > 1]


def _torch() -> Any:
    return require_extra("torch", extra="train", purpose="learn codes")
