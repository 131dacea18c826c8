"""What negatives are taken from, and what may never be a negative of which query.

Knows inputs by content key; nothing of models or scores.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from embedworks._core.validation import check_unique
from embedworks.data import RowSet, content_key
from embedworks.data.rows import RowInput
from embedworks.errors import EmptyInputError, InputError, ShapeError

__all__ = ["Corpus", "Problem"]


class Corpus:
    """Documents with ids, from which negatives are mined.

    Args:
        inputs: M texts or dicts of modalities.
        ids: M unique ids. By default each document's content key in hexadecimal.
        groups: M group names or None: documents of one group (same file, same product) are
            never negatives for a query whose positive is in the group.

    Raises:
        EmptyInputError: When there is no document.
        InputError: When a document is empty.
        ShapeError: When ids or groups do not match the documents in number.
        DuplicateIdError: When an id occurs twice.

    Example:
        >>> corpus = Corpus(["Paris is in France.", "Rome is in Italy."], ids=["paris", "rome"])
        >>> len(corpus), corpus.ids
        (2, ('paris', 'rome'))
    """

    def __init__(
        self,
        inputs: Sequence[RowInput],
        ids: Sequence[str] | None = None,
        groups: Sequence[str | None] | None = None,
    ) -> None:
        self.inputs = tuple(inputs)
        if isinstance(inputs, str) or not self.inputs:
            raise EmptyInputError("a corpus needs a list of at least one document.")
        for place, item in enumerate(self.inputs):
            if not item or (isinstance(item, str) and not item.strip()):
                raise InputError(f"document {place} of the corpus is empty: leave it out.")
        self.keys = np.array([content_key(item) for item in self.inputs], dtype=np.int64)
        if ids is None:
            _, first = np.unique(self.keys, return_index=True)
            repeated = np.ones(len(self.keys), dtype=bool)
            repeated[first] = False
            self.ids = tuple(
                f"{key:016x}" + (f"#{place}" if again else "")
                for place, (key, again) in enumerate(zip(self.keys, repeated, strict=True))
            )
        else:
            self.ids = tuple(ids)
            check_unique(self.ids, name="corpus ids")
        self.groups = (None,) * len(self) if groups is None else tuple(groups)
        for name, values in (("ids", self.ids), ("groups", self.groups)):
            if len(values) != len(self):
                raise ShapeError(f"{len(self)} documents need {len(self)} {name}: {len(values)}.")

    def __len__(self) -> int:
        return len(self.inputs)

    @classmethod
    def from_rows(cls, rows: RowSet) -> Corpus:
        """Return the distinct positives of ``rows``.

        A document's id is its ``positive_id`` where it has one. Distinct texts with one
        ``positive_id`` form a group.
        """
        inputs: list[RowInput] = []
        ids: list[str] = []
        groups: list[str | None] = []
        seen: set[int] = set()
        taken: dict[str, int] = defaultdict(int)
        for row in rows:
            key = content_key(row.positive)
            if key in seen:
                continue
            seen.add(key)
            name = row.positive_id if row.positive_id is not None else f"{key:016x}"
            taken[name] += 1
            inputs.append(row.positive)
            groups.append(row.positive_id)
            ids.append(name if taken[name] == 1 else f"{name}#{taken[name]}-{key:016x}")
        return cls(inputs, ids, groups)

    @cached_property
    def positions(self) -> dict[str, int]:
        """Position of each id."""
        return {name: place for place, name in enumerate(self.ids)}


@dataclass(frozen=True, eq=False)
class Ragged:
    """Lists of numbers of different length, one after the other."""

    values: np.ndarray
    starts: np.ndarray

    @classmethod
    def of(cls, lists: Iterable[Sequence[int] | np.ndarray]) -> Ragged:
        parts = [np.asarray(item, dtype=np.int64) for item in lists]
        starts = np.zeros(len(parts) + 1, dtype=np.int64)
        np.cumsum([len(part) for part in parts], out=starts[1:])
        return cls(np.concatenate(parts) if parts else np.zeros(0, np.int64), starts)

    def __getitem__(self, row: int) -> np.ndarray:
        return self.values[self.starts[row] : self.starts[row + 1]]

    def padded(self, low: int, high: int) -> np.ndarray:
        """Return rows ``low`` to ``high`` as an array (rows, longest), filled up with -1."""
        lengths = np.diff(self.starts[low : high + 1])
        result = np.full((high - low, int(lengths.max(initial=0))), -1, dtype=np.int64)
        row = np.repeat(np.arange(high - low), lengths)
        column = np.arange(len(row)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        result[row, column] = self.values[self.starts[low] : self.starts[high]]
        return result


class Problem:
    """Rows and a corpus with everything that relates them; what retrievers work on.

    Documents are numbered: first the corpus (0 to M - 1), then positives that are not in it.

    Attributes:
        anchors: N anchors.
        anchor_keys: int64 (N,).
        sources: N source names.
        documents: The corpus and the further positives.
        document_keys: int64, one per document.
        size: M, the number of documents that may be negatives.
        own: int64 (N,), the document each row has as its positive.
        positives: The documents that are positives of each row's anchor in any row.
        canonical: int64 (M,), the first document of the corpus with the same content.
    """

    def __init__(self, rows: RowSet, corpus: Corpus) -> None:
        self.rows = rows
        self.corpus = corpus
        self.anchors = [row.anchor for row in rows]
        self.anchor_keys = np.array([content_key(a) for a in self.anchors], dtype=np.int64)
        self.sources = [row.source for row in rows]
        self.size = len(corpus)
        documents: list[RowInput] = list(corpus.inputs)
        keys = corpus.keys.tolist()
        first: dict[int, int] = {}
        for place, key in enumerate(keys):
            first.setdefault(key, place)
        own = np.empty(len(rows), dtype=np.int64)
        for place, row in enumerate(rows):
            key = content_key(row.positive)
            if key not in first:
                first[key] = len(documents)
                documents.append(row.positive)
                keys.append(key)
            own[place] = first[key]
        self.documents = documents
        self.document_keys = np.array(keys, dtype=np.int64)
        self.own = own
        _, first_of, number = np.unique(corpus.keys, return_index=True, return_inverse=True)
        self.canonical = first_of[number].astype(np.int64)
        self._relate()

    def __len__(self) -> int:
        return len(self.anchors)

    def _relate(self) -> None:
        corpus, own = self.corpus, self.own.tolist()
        anchor_keys = self.anchor_keys.tolist()
        by_key: dict[int, list[int]] = defaultdict(list)
        by_group: dict[str, list[int]] = defaultdict(list)
        by_id: dict[str, set[int]] = defaultdict(set)

        def with_copies(found: set[int]) -> list[int]:
            copies: set[int] = set()
            for document in found:
                copies.update(by_key[int(corpus.keys[document])])
            return sorted(copies)

        classes: dict[tuple[str, str], int] = {}
        members: list[set[int]] = []
        for place, key in enumerate(corpus.keys.tolist()):
            by_key[key].append(place)
            by_id[corpus.ids[place]].add(place)
            group = corpus.groups[place]
            if group is not None:
                by_group[group].append(place)
        of_anchor: dict[int, dict[int, None]] = defaultdict(dict)
        ids_of_anchor: dict[int, set[str]] = defaultdict(set)
        class_of = np.full(len(self), -1, dtype=np.int64)
        for place, row in enumerate(self.rows):
            document = own[place]
            of_anchor[anchor_keys[place]][document] = None
            if row.positive_id is not None:
                ids_of_anchor[anchor_keys[place]].add(row.positive_id)
                if document < self.size:
                    by_id[row.positive_id].add(document)
            if row.label is not None:
                number = classes.setdefault((row.source, row.label), len(members))
                if number == len(members):
                    members.append(set())
                class_of[place] = number
                if document < self.size:
                    members[number].add(document)
        never: dict[int, np.ndarray] = {}
        for anchor, positives in of_anchor.items():
            found = set(by_key.get(anchor, ()))  # a query is no negative of itself
            names = set(ids_of_anchor[anchor])
            for document in positives:
                found.update(by_key.get(int(self.document_keys[document]), ()))
                if document < self.size:
                    names.add(corpus.ids[document])
                    group = corpus.groups[document]
                    if group is not None:
                        found.update(by_group[group])
            for name in names:
                found.update(by_id.get(name, ()))
            never[anchor] = np.array(with_copies(found), dtype=np.int64)
        self.positives = Ragged.of([list(of_anchor[key]) for key in anchor_keys])
        self._never = Ragged.of([never[key] for key in anchor_keys])
        self._class_of = class_of
        self._members = Ragged.of([with_copies(m) for m in members])

    def excluded(self, row: int) -> np.ndarray:
        """Return the corpus positions that can never be a negative of ``row``; may repeat."""
        number = self._class_of[row]
        if number < 0:
            return self._never[row]
        return np.concatenate([self._never[row], self._members[int(number)]])

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the anchors, the documents and how they are related."""
        digest = hashlib.sha256(f"{len(self)} {self.size} {len(self.documents)}".encode())
        for array in (
            self.anchor_keys,
            self.document_keys,
            self.own,
            self.positives.values,
            self.positives.starts,
            self._never.values,
            self._never.starts,
            self._class_of,
            self._members.values,
            self._members.starts,
        ):
            digest.update(array.tobytes())
        return digest.hexdigest()
