"""Train, validation and test parts of a corpus, by document."""

from __future__ import annotations

from collections.abc import Iterable

from embedworks._core.seeding import derive_seed
from embedworks._core.validation import check_in_range
from embedworks.errors import EmptyInputError, InputError

__all__ = ["split_documents"]

_PARTS = ("train", "validation", "test")


def split_documents(
    doc_ids: Iterable[str],
    *,
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1),
    seed: int = 0,
) -> dict[str, str]:
    """Assign each document to "train", "validation" or "test".

    The part depends on a hash of the seed and the id alone, so adding or removing documents
    moves no other one. The one exception keeps small collections usable: with three documents
    or more, a part that stayed empty although its fraction is above 0 takes the document whose
    hash lies closest to its range from the largest part. A single document is train.

    For a collection of one long document, pass chunk ids in place of document ids.

    Args:
        doc_ids: Ids; repeated ones count once.
        fractions: Expected shares of train, validation and test; they sum to 1.
        seed: Another seed gives another split.

    Returns:
        Id -> part, in the order of first appearance.

    Raises:
        EmptyInputError: When there is no document.
        InputError: When the fractions are negative or do not sum to 1.

    Example:
        >>> parts = split_documents([f"doc-{i}" for i in range(100)])
        >>> sorted(set(parts.values()))
        ['test', 'train', 'validation']
    """
    for name, fraction in zip(_PARTS, fractions, strict=True):
        check_in_range(fraction, name=f"fraction of {name}", low=0.0, high=1.0)
    if abs(sum(fractions) - 1.0) > 1e-6:
        raise InputError(f"fractions must sum to 1, got {fractions}: sum {sum(fractions):g}.")
    position = {d: derive_seed(seed, "split", d) / 2**63 for d in dict.fromkeys(doc_ids)}
    if not position:
        raise EmptyInputError("There is no document to split.")
    edges = (0.0, fractions[0], fractions[0] + fractions[1], 1.0)
    if len(position) == 1:
        return dict.fromkeys(position, "train")
    result = {
        d: "train" if u < edges[1] else "validation" if u < edges[2] else "test"
        for d, u in position.items()
    }
    # The last part with any share takes what rounding leaves at the upper end.
    if fractions[2] == 0:
        last = "validation" if fractions[1] > 0 else "train"
        result = {d: last if part == "test" else part for d, part in result.items()}
    if len(position) >= 3:
        for index, part in enumerate(_PARTS):
            if fractions[index] > 0 and part not in result.values():
                _fill(part, edges[index], edges[index + 1], position, result)
    return result


def _fill(
    part: str, low: float, high: float, position: dict[str, float], result: dict[str, str]
) -> None:
    counts = {p: sum(value == p for value in result.values()) for p in _PARTS}
    largest = max(_PARTS, key=lambda p: counts[p])
    middle = (low + high) / 2
    donor = min(
        (d for d in position if result[d] == largest), key=lambda d: (abs(position[d] - middle), d)
    )
    result[donor] = part
