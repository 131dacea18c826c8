"""Why are two texts similar? Which words carry the cosine, by leaving out or by gradient.

Three answers, from the one that works for every model to the one that needs to see inside it:
`leave_one_out` encodes the text without each word; `integrated_gradients` follows the gradient of
the cosine through a transformer; `token_contributions` splits the cosine of mean-pooled vectors
exactly into pairs of tokens.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from embedworks._core.validation import check_in_range, check_texts, check_vectors, normalize_rows
from embedworks.errors import EmptyInputError, InputError, ShapeError

__all__ = ["Attribution", "integrated_gradients", "leave_one_out", "token_contributions"]

_WORD = re.compile(r"\w+(?:['’.,-]\w+)*")
_BAR = 20
_BATCH = 32


@dataclass(frozen=True, eq=False)
class Attribution:
    """How much each piece of a text adds to its cosine with another.

    Attributes:
        pieces: W words or tokens, in the order of the text.
        spans: Where each stands in the text, ``(start, end)`` in characters.
        scores: float64 (W,): what the cosine owes to the piece; negative when it pulls them apart.
        similarity: The cosine of the two texts.
        baseline: The cosine when nothing of the text is left; 0 where that has no vector. For
            integrated gradients the scores add up to ``similarity - baseline``.
        method: ``"leave one out"`` or ``"integrated gradients"``.

    ``str()`` of it draws a bar for each piece.
    """

    pieces: tuple[str, ...]
    spans: tuple[tuple[int, int], ...]
    scores: np.ndarray
    similarity: float
    baseline: float
    method: str

    def top(self, k: int = 5) -> list[tuple[str, float]]:
        """Return the ``k`` pieces that carry most, highest first."""
        order = np.argsort(-self.scores, kind="stable")[:k]
        return [(self.pieces[i], float(self.scores[i])) for i in order]

    def __str__(self) -> str:
        longest = max(float(np.abs(self.scores).max(initial=0.0)), 1e-12)
        width = max((len(piece) for piece in self.pieces), default=0)
        lines = [f"cosine {self.similarity:.3f}, by {self.method}"]
        for piece, score in zip(self.pieces, self.scores, strict=True):
            bar = ("█" if score > 0 else "░") * round(_BAR * abs(score) / longest)
            lines.append(f"{piece:<{width}}  {score:+.3f}  {bar}".rstrip())
        return "\n".join(lines)


def leave_one_out(model: Any, text: str, other: str) -> Attribution:
    """Say what each word of a text adds to its cosine with another, by leaving it out.

    The score of a word is the cosine with it minus the cosine without it. Works for every model
    with ``encode``; costs one vector per word. Words that stand for each other each look
    unimportant, for leaving out one of two changes little.

    Args:
        model: Anything with ``encode``.
        text: The text to explain.
        other: The text it is compared with.

    Raises:
        EmptyInputError: When the text has no word.
        InputError: When one of the two texts has a zero vector.

    Example:
        >>> import embedworks as ew
        >>> found = leave_one_out(ew.load("static"), "the red car stopped", "a crimson vehicle")
        >>> found.top(2)[0][0] in ("red", "car")
        True
    """
    text, other = check_texts([text, other])
    matches = list(_WORD.finditer(text))
    if not matches:
        raise EmptyInputError(f"The text has no word to leave out: {text!r}.")
    without = [f"{text[: match.start()]}{text[match.end() :]}".strip() for match in matches]
    texts = [text, other, *(left for left in without if left)]
    vectors = normalize_rows(check_vectors(np.asarray(model.encode(texts), dtype=np.float64)))
    for name, vector in zip(("text", "other"), vectors, strict=False):
        if not vector.any():
            raise InputError(f"{name} has a zero vector: the model knows none of its words.")
    cosines = iter((vectors[[0, *range(2, len(texts))]] @ vectors[1]).tolist())
    similarity = next(cosines)
    rest = np.array([next(cosines) if left else 0.0 for left in without])
    return Attribution(
        tuple(match.group() for match in matches),
        tuple(match.span() for match in matches),
        similarity - rest,
        similarity,
        0.0,
        "leave one out",
    )


def integrated_gradients(model: Any, text: str, other: str, *, steps: int = 50) -> Attribution:
    """Say what each token of a text adds to its cosine with another, by integrated gradients.

    The gradient of the cosine with respect to the token vectors, averaged on the straight line
    from a baseline of padding tokens to the text, times the difference between the two. Special
    tokens stay as they are and get no score. The scores add up to the cosine minus that of the
    baseline, up to the error of ``steps`` midpoints.

    Args:
        model: A ``SentenceTransformer`` over a transformer.
        text: The text to explain; what the model would cut off is not explained.
        other: The text it is compared with.
        steps: Points on the line, 1 or more.

    Raises:
        InputError: When the model has no table of tokens, or its tokenizer no offsets.
        EmptyInputError: When the text has no token of its own.

    Paper: Sundararajan et al. 2017, arXiv 1703.01365, equation 3; for the cosine of two encoders
    compare Möller et al. 2023, arXiv 2310.05703, which splits both sides at once.
    """
    import torch

    text, other = check_texts([text, other])
    check_in_range(steps, name="steps", low=1)
    try:
        table = model[0].auto_model.get_input_embeddings()
        tokenizer = model.tokenizer
        found = tokenizer(text, truncation=True, return_offsets_mapping=True)
    except (TypeError, AttributeError, IndexError, KeyError, NotImplementedError) as error:
        raise InputError(
            f"a {type(model).__name__} cannot be followed by gradients ({error}): expected a "
            "SentenceTransformer over a transformer with a fast tokenizer. leave_one_out works "
            "for every model."
        ) from error
    features = {
        name: value.to(model.device) for name, value in model.preprocess([text]).items()
        if isinstance(value, torch.Tensor)
    }  # fmt: skip
    spans = [tuple(span) for span in found["offset_mapping"]]
    if len(spans) != features["input_ids"].shape[1]:
        raise InputError(
            "The model's own tokens differ from its tokenizer's (a prompt or a prefix?): the "
            "places in the text are not known. leave_one_out works for every model."
        )
    own = [place for place, (start, end) in enumerate(spans) if end > start]
    if not own:
        raise EmptyInputError(f"The text has no token of its own: {text!r}.")
    pad = tokenizer.pad_token_id
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            target = torch.as_tensor(model.encode([other])[0], device=model.device)
            target = torch.nn.functional.normalize(target.float(), dim=0)
            tokens = table(features["input_ids"])[0].float()
            empty = tokens.clone()
            empty[own] = table(torch.tensor(pad, device=tokens.device)).float() if pad else 0.0
        total = torch.zeros_like(tokens)
        shares = torch.tensor((np.arange(steps) + 0.5) / steps, dtype=torch.float32)
        for some in torch.split(shares, _BATCH):
            line = _line(empty, tokens, some).requires_grad_(True)
            cosines = _cosines_at(model, table, features, line, target)
            total += torch.autograd.grad(cosines.sum(), line)[0].sum(dim=0)
        with torch.no_grad():
            line = _line(empty, tokens, torch.tensor([0.0, 1.0]))
            ends = _cosines_at(model, table, features, line, target).tolist()
    finally:
        model.train(was_training)
    scores = ((tokens - empty) * total / steps).sum(dim=1).double().cpu().numpy()
    return Attribution(
        tuple(text[spans[place][0] : spans[place][1]] for place in own),
        tuple((int(spans[place][0]), int(spans[place][1])) for place in own),
        scores[own],
        ends[1],
        ends[0],
        "integrated gradients",
    )


def _line(empty: Any, tokens: Any, shares: Any) -> Any:
    """Return the token vectors so far on the way from empty to whole, (B, T, D)."""
    return empty + shares.to(tokens.device)[:, None, None] * (tokens - empty)


def _cosines_at(model: Any, table: Any, features: Any, tokens: Any, target: Any) -> Any:
    """Return B cosines when the table of tokens gives ``tokens`` (B, T, D) for the one text."""
    import torch

    repeated = {name: value.repeat(len(tokens), 1) for name, value in features.items()}
    handle = table.register_forward_hook(lambda *_: tokens.to(table.weight.dtype))
    try:
        vectors = model(repeated)["sentence_embedding"].float()
    finally:
        handle.remove()
    return torch.nn.functional.normalize(vectors, dim=1) @ target


def token_contributions(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Split the cosine of two mean-pooled texts into pairs of tokens; they add up to it exactly.

    ``C_ij = <x_i, y_j> / (|sum x| |sum y|)``.

    Args:
        first: float (T, D), the token vectors of one text.
        second: float (U, D), those of the other.

    Returns:
        float64 (T, U), whose sum is the cosine.

    Raises:
        ShapeError: When they differ in D.
        InputError: When the tokens of a text add up to zero.

    Example:
        >>> pairs = token_contributions(np.eye(2), np.array([[3.0, 0.0], [0.0, 3.0]]))
        >>> pairs.round(6).tolist(), round(float(pairs.sum()), 6)
        ([[0.5, 0.0], [0.0, 0.5]], 1.0)
    """
    check_vectors(first, name="first")
    check_vectors(second, name="second")
    sides = [np.asarray(side, dtype=np.float64) for side in (first, second)]
    if sides[0].shape[1] != sides[1].shape[1]:
        raise ShapeError(
            f"first has {sides[0].shape[1]} dimensions and second {sides[1].shape[1]}: token "
            "vectors of one model are needed."
        )
    lengths = [float(np.linalg.norm(side.sum(axis=0))) for side in sides]
    if min(lengths) == 0:
        raise InputError("The tokens of a text add up to zero: there is no cosine to split.")
    return np.asarray(sides[0] @ sides[1].T / (lengths[0] * lengths[1]))
