"""A small transformer that reads question and answer together or apart, and how it is tuned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from embedworks._core.extras import require_extra
from embedworks._core.seeding import derive_seed, generator
from embedworks.evaluation import MultipleChoice
from embedworks.models import StaticModel, load

__all__ = ["PairModel", "TunablePairs", "candidate_lists", "tune_pairs"]


class TunablePairs(Protocol):
    """What `tune_pairs` trains: scores of pairs with gradient, and what may change."""

    def parameters(self) -> list[Any]:
        """Return what is trained."""
        ...

    def scores(self, questions: Sequence[str], answers: Sequence[str]) -> Any:
        """Return scores of N pairs as a tensor (N,) with gradient."""
        ...


#: Parts question from answer.
_PART = np.array([1])


class PairModel:
    """A small transformer that scores a question with an answer, together or apart.

    Together (a cross-encoder) it reads both as one sequence, pools it and maps it to a number.
    Apart (a bi-encoder) it reads each alone, pools each, and the number is their scaled cosine.
    Either is added to the weighted cosine of the bundled static model, whose vectors stay as they
    are there, so that no way of reading has to learn from nothing that equal words are alike.
    Weights at the start, layers, tokens and lengths are the same; only the interaction differs,
    beside the last map: it has one weight for each dimension.

    Args:
        texts: Every text that may be read, for the vocabulary.
        together: Whether question and answer are read as one sequence.
        dim: Width.
        layers: Transformer layers.
        max_tokens: Tokens read of a question and of an answer, each.
        seed: Seed of the weights.
        device: Torch device.

    Raises:
        MissingExtraError: When torch is not installed.

    Example:
        >>> model = PairModel(["a red cat", "a dog"], together=True, dim=16, seed=0)
        >>> model.predict([("a red cat", "a dog")]).shape
        (1,)
    """

    def __init__(
        self,
        texts: Sequence[str],
        *,
        together: bool,
        dim: int = 64,
        layers: int = 2,
        max_tokens: int = 64,
        seed: int,
        device: str = "cpu",
    ) -> None:
        torch = require_extra("torch", extra="train", purpose="train a student")
        self.together = together
        self.device = device
        self.fingerprint = f"pair-{together}-{dim}-{layers}-{seed}"
        static = load("static")
        assert isinstance(static, StaticModel)
        distinct = list(dict.fromkeys(texts))
        ids, offsets = static.tokenize(distinct)
        used = np.unique(ids)
        # Row 0 pads, row 1 parts question from answer, row 2 stands for what is not known.
        place = np.full(len(static.table), 2, dtype=np.int64)
        place[used] = np.arange(3, len(used) + 3)
        self._tokens = {
            text: place[ids[offsets[i] : offsets[i + 1]]][:max_tokens]
            if offsets[i + 1] > offsets[i]
            else np.array([2])
            for i, text in enumerate(distinct)
        }
        table = np.zeros((len(used) + 3, static.dim), dtype=np.float32)
        table[3:] = static.table[used]
        torch.manual_seed(derive_seed(seed, "pair model"))
        self.tokens = torch.nn.Embedding.from_pretrained(torch.from_numpy(table), freeze=False)
        self._first = torch.from_numpy(table.copy()).to(device)
        self.narrow = torch.nn.Linear(static.dim, dim)
        self.places = torch.nn.Embedding(2 * max_tokens + 1, dim)
        self.sides = torch.nn.Embedding(2, dim)
        layer = torch.nn.TransformerEncoderLayer(
            dim, 4, 2 * dim, dropout=0.0, batch_first=True, norm_first=True
        )
        self.body = torch.nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        with torch.no_grad():
            for part in self.body.layers:
                # Queries and keys start alike, so that equal words find each other from the start.
                weight = part.self_attn.in_proj_weight
                weight[dim : 2 * dim] = weight[:dim]
            for learned in (self.places, self.sides):
                learned.weight.mul_(0.3)
        self.score = torch.nn.Linear(dim, 1)
        self.scale = torch.nn.Parameter(torch.tensor(5.0, device=device))
        self.weight = torch.nn.Parameter(torch.tensor(5.0, device=device))
        for module in (self.tokens, self.narrow, self.places, self.sides, self.body, self.score):
            module.to(device)

    def parameters(self) -> list[Any]:
        """Return what is trained: all that this way of reading uses."""
        shared = (self.tokens, self.narrow, self.places, self.sides, self.body)
        found = [parameter for part in shared for parameter in part.parameters()]
        own = self.score.parameters() if self.together else [self.scale]
        return [*found, self.weight, *own]

    def scores(self, questions: Sequence[str], answers: Sequence[str]) -> Any:
        """Return scores of N pairs as a tensor (N,) with gradient."""
        asked = [self._tokens[text] for text in questions]
        told = [self._tokens[text] for text in answers]
        start = self.weight * (self._means(asked) * self._means(told)).sum(-1)
        if self.together:
            rows = [np.concatenate([q, _PART, a]) for q, a in zip(asked, told, strict=True)]
            first = np.array([len(q) + 1 for q in asked])
            return start + self.score(self._pooled(rows, first)).squeeze(-1)
        apart = self._alone(questions, 0) * self._alone(answers, 1)
        return start + self.scale * apart.sum(-1)

    def _means(self, rows: Sequence[np.ndarray]) -> Any:
        """Return the unit mean of the static model's token vectors, (N, D)."""
        import torch

        flat = torch.from_numpy(np.concatenate(rows)).to(self.device)
        starts = torch.from_numpy(np.cumsum([0, *map(len, rows[:-1])])).to(self.device)
        means = torch.nn.functional.embedding_bag(flat, self._first, starts, mode="mean")
        return torch.nn.functional.normalize(means, dim=-1)

    def _alone(self, texts: Sequence[str], side: int) -> Any:
        """Return unit vectors of texts that are read alone, each distinct one once, (N, D)."""
        import torch

        distinct = list(dict.fromkeys(texts))
        where = {text: i for i, text in enumerate(distinct)}
        rows = [self._tokens[text] for text in distinct]
        lengths = np.array([len(row) for row in rows])
        unit = torch.nn.functional.normalize(
            self._pooled(rows, lengths if side == 0 else np.zeros_like(lengths)), dim=-1
        )
        return unit[torch.tensor([where[text] for text in texts], device=self.device)]

    def _pooled(self, rows: Sequence[np.ndarray], first: np.ndarray) -> Any:
        """Return the mean of the last layer, (N, D); the ``first`` tokens are of side 0."""
        import torch

        lengths = np.array([len(row) for row in rows])
        width = int(lengths.max())
        place = np.arange(width)
        table = np.zeros((len(rows), width), dtype=np.int64)
        table[place < lengths[:, None]] = np.concatenate(rows)
        second = (place >= first[:, None]) & (place < lengths[:, None])
        ids = torch.from_numpy(table).to(self.device)
        which = torch.from_numpy(second.astype(np.int64)).to(self.device)
        padded = ids == 0
        places = self.places(torch.arange(width, device=self.device))
        x = self.narrow(self.tokens(ids)) + places + self.sides(which)
        x = self.body(x, src_key_padding_mask=padded)
        kept = (~padded).unsqueeze(-1)
        return (x * kept).sum(1) / kept.sum(1)

    def predict(self, pairs: Sequence[tuple[str, str]], /) -> np.ndarray:
        """Return scores of N pairs, float32 (N,), without gradient."""
        import torch

        parts = []
        with torch.inference_mode():
            for start in range(0, len(pairs), 256):
                questions, answers = zip(*pairs[start : start + 256], strict=True)
                parts.append(self.scores(questions, answers).float().cpu().numpy())
        return np.concatenate(parts)


def candidate_lists(
    examples: Sequence[MultipleChoice], *, width: int, batch: int, steps: int, seed: int
) -> list[list[tuple[str, list[str]]]]:
    """Return batches of questions with candidates: a right answer, own options, then others'.

    The same lists serve both ways of reading. The right answer is first.

    Example:
        >>> examples = [MultipleChoice("a?", ("x", "y"), (1,))]
        >>> candidate_lists(examples, width=2, batch=1, steps=1, seed=0)
        [[('a?', ['y', 'x'])]]
    """
    rng = generator(seed, "candidate lists")
    pool = list(dict.fromkeys(text for x in examples for text in x.options))
    batches: list[list[tuple[str, list[str]]]] = []
    order: list[int] = []
    for _ in range(steps):
        while len(order) < batch:
            order += rng.permutation(len(examples)).tolist()
        chosen, order = order[:batch], order[batch:]
        rows = []
        for place in chosen:
            x = examples[place]
            own = [text for text in dict.fromkeys(x.options) if text not in x.right]
            listed = [x.right[0], *own][:width]
            for other in rng.permutation(len(pool))[: 4 * width].tolist():
                if len(listed) < width and pool[other] not in (*listed, *x.right):
                    listed.append(pool[other])
            rows.append((x.question, listed))
        batches.append(rows)
    return batches


def tune_pairs(
    model: TunablePairs, batches: Sequence[Sequence[tuple[str, list[str]]]], *, lr: float
) -> list[float]:
    """Train with a softmax over each question's candidates; return the loss of every step."""
    import torch

    torch.set_num_threads(1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01)
    rise = max(1, len(batches) // 10)
    losses = []
    for step, rows in enumerate(batches):
        share = min((step + 1) / rise, (len(batches) - step) / max(1, len(batches) - rise))
        for group in optimizer.param_groups:
            group["lr"] = lr * share
        questions = [question for question, listed in rows for _ in listed]
        answers = [text for _, listed in rows for text in listed]
        flat = model.scores(questions, answers)
        sizes = [len(listed) for _, listed in rows]
        parts = torch.nn.utils.rnn.pad_sequence(
            list(torch.split(flat, sizes)), batch_first=True, padding_value=-torch.inf
        )
        loss = (torch.logsumexp(parts, 1) - parts[:, 0]).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.detach())
    return [float(loss) for loss in losses]
