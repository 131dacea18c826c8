"""What tokens a text should point at: targets for training through the vocabulary (Text2Token).

Two builders: from the text's own tokens, and from what a language model would say next. Targets
are sparse, and are built once, before training.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from embedworks._core.validation import check_choice, check_in_range, check_k, check_texts
from embedworks.errors import EmptyInputError, InputError, ShapeError
from embedworks.models.vocabulary import usable_tokens

__all__ = [
    "TOKEN_WEIGHTINGS",
    "TokenTargets",
    "canonical_tokens",
    "mix_token_targets",
    "model_token_targets",
    "text_token_targets",
    "tokenizer_fingerprint",
]

#: Ways to weigh a text's tokens.
TOKEN_WEIGHTINGS = ("uniform", "tf", "tfidf", "sif")


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """Return a hash of a tokenizer's vocabulary, to tell that targets belong to it."""
    names = "\n".join(str(n) for n in tokenizer.convert_ids_to_tokens(range(len(tokenizer))))
    return hashlib.sha256(names.encode("utf-8", "surrogatepass")).hexdigest()[:16]


@dataclass(frozen=True)
class TokenTargets:
    """Distributions over a vocabulary, one per text, the largest shares of each.

    Attributes:
        ids: int32 (N, K), tokens; 0 where a row has fewer.
        shares: float32 (N, K), what each gets; rows sum to 1, or to 0 where a text has no usable
            token.
        tokenizer: Fingerprint of the tokenizer.
        vocabulary: V.

    Raises:
        ShapeError: When the arrays do not fit.
        InputError: When a token is not of the vocabulary, or a row sums to something else.
    """

    ids: np.ndarray
    shares: np.ndarray
    tokenizer: str
    vocabulary: int

    def __post_init__(self) -> None:
        if self.ids.ndim != 2 or self.ids.shape != self.shares.shape:
            raise ShapeError(f"ids are {self.ids.shape} and shares {self.shares.shape}.")
        if self.ids.size and not 0 <= int(self.ids.min()) <= int(self.ids.max()) < self.vocabulary:
            raise InputError(f"tokens must be 0 to {self.vocabulary - 1}.")
        sums = self.shares.sum(axis=1)
        if not np.all((np.abs(sums - 1) < 1e-3) | (sums == 0)):
            raise InputError("every row's shares must sum to 1, or to 0 for no target.")

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def empty(self) -> int:
        """How many texts have no target."""
        return int((self.shares.sum(axis=1) == 0).sum())

    def dense(self) -> np.ndarray:
        """Return float32 (N, V), for tests and small vocabularies."""
        found = np.zeros((len(self), self.vocabulary), dtype=np.float32)
        np.add.at(found, (np.arange(len(self))[:, None], self.ids), self.shares)
        return found


def canonical_tokens(tokenizer: Any) -> np.ndarray:
    """Return for each token the one that stands for it, int64 (V,).

    Tokens that differ in case or in a space before them are one: the lowest usable id among them.
    """
    usable = usable_tokens(tokenizer)
    found = np.arange(len(usable))
    first: dict[str, int] = {}
    for place, name in enumerate(tokenizer.convert_ids_to_tokens(range(len(usable)))):
        if usable[place]:
            found[place] = first.setdefault(str(name).lstrip("Ġ▁").casefold(), place)
    return found


def text_token_targets(
    texts: Sequence[str],
    tokenizer: Any,
    *,
    weighting: str = "tfidf",
    max_share: float = 0.1,
    top_k: int = 64,
    reference: Sequence[str] | None = None,
) -> TokenTargets:
    """Build targets from the texts' own tokens.

    ``tfidf`` weighs token v of text x by ``(1 + ln tf) ln((N + 1) / (df + 1))``, ``sif`` by
    ``a / (a + p(v))`` with a = 1e-4. Spellings that differ in case or in a space share one token,
    see `canonical_tokens`.

    Args:
        texts: N texts.
        tokenizer: A tokenizer of transformers, that of the model to be trained.
        weighting: One of `TOKEN_WEIGHTINGS`.
        max_share: Tokens that occur in a larger share of the reference texts are left out: they
            are in the text without being what it is about.
        top_k: Most tokens kept per text.
        reference: Texts that frequencies are counted on; None takes ``texts``. Give the training
            texts when targets of others are built.

    Raises:
        EmptyInputError: When there are no texts.
        UnknownNameError: When there is no such weighting.

    Paper: An et al. 2025, arXiv 2510.10224. It says that the text's tokens are filtered and
        weighed; the formulas are ours.
    """
    check_choice(weighting, TOKEN_WEIGHTINGS, name="weighting")
    check_in_range(max_share, name="max_share", low=0.0, high=1.0, open_low=True)
    check_k(top_k)
    items = check_texts(texts)
    if not items:
        raise EmptyInputError("there are no texts to build targets of.")
    canonical, usable = canonical_tokens(tokenizer), usable_tokens(tokenizer)
    counts = _counts(items, tokenizer, canonical, usable)
    known = counts if reference is None else _counts(
        check_texts(reference), tokenizer, canonical, usable
    )  # fmt: skip
    documents: Counter[int] = Counter(token for row in known for token in row)
    totals: Counter[int] = Counter()
    for row in known:
        totals.update(row)
    size, every = len(known), max(1, totals.total())
    rows = []
    for row in counts:
        weights = {
            token: _weight(weighting, count, documents[token], totals[token] / every, size)
            for token, count in row.items()
            if documents[token] <= max_share * size
        }
        rows.append(sorted(((w, -t) for t, w in weights.items() if w > 0), reverse=True)[:top_k])
    return _pack([[(-t, w) for w, t in row] for row in rows], top_k, tokenizer)


def _counts(
    texts: Sequence[str], tokenizer: Any, canonical: np.ndarray, usable: np.ndarray
) -> list[Counter[int]]:
    if not texts:
        return []
    rows = tokenizer(list(texts), add_special_tokens=False, truncation=True)["input_ids"]
    return [Counter(int(canonical[i]) for i in row if usable[i]) for row in rows]


def _weight(kind: str, count: int, documents: int, frequency: float, size: int) -> float:
    if kind == "tf":
        return float(count)
    if kind == "tfidf":
        return float((1 + np.log(count)) * np.log((size + 1) / (documents + 1)))
    if kind == "sif":
        return 1e-4 / (1e-4 + frequency)
    return 1.0


def model_token_targets(
    texts: Sequence[str],
    log_probabilities: Callable[[list[str]], np.ndarray],
    tokenizer: Any,
    *,
    prior_texts: Sequence[str],
    beta: float = 0.5,
    top_k: int = 32,
    min_probability: float = 1e-4,
    batch_size: int = 32,
) -> TokenTargets:
    """Build targets from what a language model says of each text.

    ``softmax(l(v | x) - beta mean over prior texts of l(v | x'))`` over the usable tokens with
    ``l >= ln(min_probability)``. Subtracting the prior takes off what the model always says.

    Args:
        texts: N texts.
        log_probabilities: Texts to float (B, V): log-probabilities of the next token after a
            prompt, or of a masked one.
        tokenizer: That of the model to be trained, whose vocabulary the columns are.
        prior_texts: Random texts that tell the prior.
        beta: How much of the prior is subtracted; 0 leaves it.
        top_k: Most tokens kept per text.
        min_probability: What a token must have at least.
        batch_size: Texts asked about at a time.

    Raises:
        EmptyInputError: When there are no texts or no prior texts.
        ShapeError: When the columns are not the vocabulary.

    Paper: An et al. 2025, arXiv 2510.10224; the formula is ours.
    """
    check_in_range(beta, name="beta", low=0.0)
    check_in_range(min_probability, name="min_probability", low=0.0, high=1.0)
    items, prior = check_texts(texts), check_texts(prior_texts, name="prior_texts")
    if not items or not prior:
        raise EmptyInputError(f"{len(items)} texts and {len(prior)} prior texts: both are needed.")
    usable = usable_tokens(tokenizer)

    def asked(some: list[str]) -> np.ndarray:
        found = np.asarray(log_probabilities(some), dtype=np.float64)
        if found.shape[0] != len(some) or found.shape[1] < len(usable):
            raise ShapeError(
                f"log-probabilities have shape {found.shape} for {len(some)} texts and "
                f"{len(usable)} tokens."
            )
        return found[:, : len(usable)]

    common = np.zeros(len(usable))
    for start in range(0, len(prior), batch_size):
        common += asked(prior[start : start + batch_size]).sum(axis=0) / len(prior)
    rows = []
    floor = np.log(min_probability) if min_probability else -np.inf
    for start in range(0, len(items), batch_size):
        for row in asked(items[start : start + batch_size]):
            score = np.where(usable & (row >= floor), row - beta * common, -np.inf)
            order = np.argsort(-score, kind="stable")[:top_k]
            order = order[np.isfinite(score[order])]
            top = score[order[0]] if len(order) else 0.0
            rows.append([(int(i), float(np.exp(score[i] - top))) for i in order])
    return _pack(rows, check_k(top_k), tokenizer)


def mix_token_targets(first: TokenTargets, second: TokenTargets, alpha: float) -> TokenTargets:
    """Return ``(1 - alpha) first + alpha second``; a row that is empty in one is the other's.

    Raises:
        InputError: When they are of different tokenizers or numbers of texts.
    """
    check_in_range(alpha, name="alpha", low=0.0, high=1.0)
    if (first.tokenizer, len(first)) != (second.tokenizer, len(second)):
        raise InputError("targets to mix must be of the same texts and tokenizer.")
    rows = []
    for place in range(len(first)):
        mixed: dict[int, float] = {}
        for targets, weight in ((first, 1 - alpha), (second, alpha)):
            for token, share in zip(targets.ids[place], targets.shares[place], strict=True):
                if share > 0 and weight > 0:
                    mixed[int(token)] = mixed.get(int(token), 0.0) + float(share) * weight
        rows.append(sorted(mixed.items(), key=lambda pair: (-pair[1], pair[0])))
    width = max([1, *(len(row) for row in rows)])
    return _packed(rows, width, first.tokenizer, first.vocabulary)


def _pack(rows: list[list[tuple[int, float]]], top_k: int, tokenizer: Any) -> TokenTargets:
    width = max(1, min(top_k, max(len(row) for row in rows)))
    return _packed(rows, width, tokenizer_fingerprint(tokenizer), len(tokenizer))


def _packed(
    rows: Sequence[Sequence[tuple[int, float]]], width: int, fingerprint: str, vocabulary: int
) -> TokenTargets:
    ids = np.zeros((len(rows), width), dtype=np.int32)
    shares = np.zeros((len(rows), width), dtype=np.float32)
    for place, row in enumerate(rows):
        total = sum(weight for _, weight in row)
        for column, (token, weight) in enumerate(row):
            ids[place, column], shares[place, column] = token, weight / total
    return TokenTargets(ids, shares, fingerprint, vocabulary)
