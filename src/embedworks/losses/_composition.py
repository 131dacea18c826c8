"""Which candidates a row is contrasted with, and which of them are left out.

A composition turns settings and facts about a batch into blocks of candidates, and strikes out
entries of a block's scores for a range of rows. It never holds more than such a range.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from embedworks.losses.batch_info import BatchInfo
from embedworks.losses.functional import guide_threshold
from embedworks.losses.settings import ObjectiveSettings

#: Columns handled at a time inside a range of rows, by kind of device: on a CPU their vectors stay
#: in the cache, on a GPU each chunk is a kernel that should be large.
_COLUMNS_AT_A_TIME = {"cpu": 1024, "cuda": 1 << 16}
NEGATIVE_INFINITY = float("-inf")


def chunks_of(columns: Tensor) -> Iterator[slice]:
    """Yield the ranges of columns (M, ...) that are handled at a time."""
    step = _COLUMNS_AT_A_TIME.get(columns.device.type, _COLUMNS_AT_A_TIME["cuda"])
    for start in range(0, len(columns), step):
        yield slice(start, min(start + step, len(columns)))


class Vectors:
    """One side's vectors, brought to unit length a chunk at a time.

    Args:
        raw: float tensor (M, D).
        unit: Whether to divide by the length; a zero vector stays zero.
    """

    def __init__(self, raw: Tensor, *, unit: bool) -> None:
        self.raw = raw
        self.dtype = torch.promote_types(raw.dtype, torch.float32)
        self._inverse: Tensor | None = None
        if unit:
            lengths = torch.linalg.vector_norm(raw, dim=1, dtype=self.dtype)
            self._inverse = lengths.clamp_(min=1e-12).reciprocal_()

    def __len__(self) -> int:
        return len(self.raw)

    def __getitem__(self, rows: slice) -> Tensor:
        part = self.raw[rows].to(self.dtype)
        return part if self._inverse is None else part * self._inverse[rows, None]

    def finish_gradient_(self, gradient: Tensor, factor: float | Tensor) -> Tensor:
        """Turn a gradient with respect to unit vectors into one for the raw vectors, in place."""
        for rows in chunks_of(self.raw):
            part = gradient[rows]
            if self._inverse is not None:
                unit = self[rows]
                part -= (part * unit).sum(dim=1, keepdim=True) * unit
                part *= self._inverse[rows, None]
            part *= factor
        return gradient.to(self.raw.dtype)


class KeyMatch:
    """Finds the (row, column) pairs with equal keys without comparing all of them.

    Args:
        row_keys: int64 (N,), indexed by global row.
        column_keys: int64 (M,). Negative keys match nothing.
    """

    def __init__(self, row_keys: Tensor, column_keys: Tensor) -> None:
        self.row_keys = row_keys
        self.column_keys = column_keys
        self._sorted, self._order = torch.sort(column_keys)

    def pairs(self, rows: slice) -> tuple[Tensor, Tensor]:
        """Return (row within the range, column) of every match, both int64 (P,)."""
        keys = self.row_keys[rows].contiguous()
        low, counts = self._range(keys)
        total = int(counts.sum())
        row = torch.repeat_interleave(torch.arange(len(keys), device=keys.device), counts)
        first = torch.cumsum(counts, 0) - counts
        within = torch.arange(total, device=keys.device) - first[row]
        return row, self._order[low[row] + within]

    def strike_(self, x: Tensor, rows: slice) -> None:
        """Set matching entries of ``x`` (R, M) to minus infinity."""
        keys = self.row_keys[rows].contiguous()
        _, counts = self._range(keys)
        if int(counts.sum()) * 16 > x.numel():
            equal = keys[:, None] == self.column_keys[None, :]
            x.masked_fill_(equal & (keys >= 0)[:, None], NEGATIVE_INFINITY)
        else:
            x[self.pairs(rows)] = NEGATIVE_INFINITY

    def _range(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        low = torch.searchsorted(self._sorted, keys)
        high = torch.searchsorted(self._sorted, keys, right=True)
        return low, torch.where(keys >= 0, high - low, torch.zeros_like(low))


@dataclass
class Block:
    """Candidates that every row of the batch is scored against.

    Attributes:
        name: Which of `CANDIDATES`.
        anchor: ``query`` or ``document``: what the candidates are compared with.
        side: ``query``, ``document``, ``negatives`` or ``queue``: what the candidates are.
        own: ``removed`` strikes a row's own columns, ``kept`` protects its own column from masks,
            ``none`` means there are none.
        per_row: Columns per row, 1 or K.
        matches: Keys whose equality strikes an entry.
        positives: Keys whose equality makes an entry a positive instead.
    """

    name: str
    anchor: str
    side: str
    own: str
    per_row: int = 1
    matches: list[KeyMatch] = field(default_factory=list)
    positives: KeyMatch | None = None


_BLOCKS = {
    "documents": ("query", "document", "removed"),
    "other_negatives": ("query", "negatives", "removed"),
    "queue": ("query", "queue", "none"),
    "queries": ("query", "query", "removed"),
    "document_documents": ("document", "document", "removed"),
    "document_negatives": ("document", "negatives", "removed"),
    "document_queries": ("document", "query", "kept"),
}
#: Blocks that negative weights apply to.
WEIGHTED = frozenset({"documents", "other_negatives", "queue"})


class Composition:
    """The blocks of an objective for one batch.

    Args:
        settings: The objective.
        info: Facts about all rows (of all devices).
        negatives: K.
        queue_keys: int64 (M,) content keys of queued documents, or None.
        similar: Unit vectors by side, needed for ``similar_to_positive`` only.
    """

    def __init__(
        self,
        settings: ObjectiveSettings,
        info: BatchInfo,
        *,
        negatives: int,
        queue_keys: Tensor | None = None,
        similar: dict[str, Vectors] | None = None,
    ) -> None:
        self.masks = settings.masks
        self.info = info
        self.negatives = negatives
        self.similar = similar if settings.masks.similar_to_positive is not None else None
        self._queue_keys = queue_keys
        self._keys: dict[str, dict[str, Tensor]] = self._collect_keys(settings)
        self._guides = self._collect_guides()
        usable = {"document", "query"}
        usable |= {"negatives"} if negatives else set()
        usable |= {"queue"} if queue_keys is not None else set()
        self.blocks = [
            self._block(name, settings)
            for name in settings.candidates
            if name in _BLOCKS and _BLOCKS[name][1] in usable
        ]
        self.has_paired = "own_negatives" in settings.candidates and negatives > 0

    def _collect_keys(self, settings: ObjectiveSettings) -> dict[str, dict[str, Tensor]]:
        """Return, by kind of key, the keys of each side, flat."""
        info, masks = self.info, settings.masks
        found: dict[str, dict[str, Tensor]] = {}
        if masks.duplicates and info.query_keys is not None and info.document_keys is not None:
            texts = {"query": info.query_keys, "document": info.document_keys}
            if info.negative_keys is not None:
                texts["negatives"] = info.negative_keys.reshape(-1)
            if self._queue_keys is not None:
                texts["queue"] = self._queue_keys
            found["text"] = texts
        by_id = settings.targets.kind == "several" and settings.targets.by == "id"
        if masks.same_id or by_id:
            ids = info.require("positive_ids", "same_id" if masks.same_id else "targets by id")
            found["id"] = {"query": ids, "document": ids}
            if info.negative_ids is not None:
                found["id"]["negatives"] = info.negative_ids.reshape(-1)
        by_class = settings.targets.kind == "several" and settings.targets.by == "class"
        if masks.same_class or by_class:
            why = "same_class" if masks.same_class else "targets by class"
            classes = info.require("classes", why)
            found["class"] = {"query": classes, "document": classes}
            if info.negative_classes is not None:
                found["class"]["negatives"] = info.negative_classes.reshape(-1)
        return found

    def _collect_guides(self) -> dict[str, Vectors]:
        if self.masks.guide is None:
            return {}
        why = "the guide mask"
        found = {
            "query": Vectors(self.info.require("guide_query", why), unit=True),
            "document": Vectors(self.info.require("guide_document", why), unit=True),
        }
        if self.negatives:
            flat = self.info.require("guide_negatives", why).flatten(0, 1)
            found["negatives"] = Vectors(flat, unit=True)
        return found

    def _block(self, name: str, settings: ObjectiveSettings) -> Block:
        anchor, side, own = _BLOCKS[name]
        block = Block(name, anchor, side, own, self.negatives if side == "negatives" else 1)
        texts = self._keys.get("text", {})
        if side in texts:
            # A candidate that equals the row's query or positive is no negative of it, nor is
            # one that belongs to a row with the same query or the same positive.
            block.matches += [
                KeyMatch(texts["query"], texts[side]),
                KeyMatch(texts["document"], texts[side]),
            ]
            if side == "document":
                block.matches.append(KeyMatch(texts["query"], texts["query"]))
            elif side == "query":
                block.matches.append(KeyMatch(texts["document"], texts["document"]))
        for kind, wanted in (("id", self.masks.same_id), ("class", self.masks.same_class)):
            keys = self._keys.get(kind, {})
            if wanted and side in keys:
                block.matches.append(KeyMatch(keys["query"], keys[side]))
        if name == "documents" and settings.targets.kind == "several":
            keys = self._keys[settings.targets.by]
            block.positives = KeyMatch(keys["query"], keys["document"])
        return block

    def strike_(
        self, block: Block, x: Tensor, rows: slice, limit: Tensor | None, anchors: Tensor
    ) -> None:
        """Set the entries of a block's scores that may not be negatives to minus infinity.

        Args:
            block: The block.
            x: float tensor (R, M), scores of the rows; changed in place.
            rows: Global rows.
            limit: (R,) score above which an entry is struck, for ``above_positive``; or None.
            anchors: int64 (R,) global row numbers.
        """
        own: Tensor | None = None
        place = torch.arange(len(x), device=x.device)
        if block.own == "kept":
            own = x[place, anchors].clone()
        for match in block.matches:
            match.strike_(x, rows)
        if limit is not None:
            x.masked_fill_(x > limit[:, None], NEGATIVE_INFINITY)
        if self._guides:
            self._strike_guided_(block, x, rows)
        if self.similar is not None and block.side != "query":
            self._strike_similar_(block, x, rows)
        if block.side == "negatives" and self.info.negatives_present is not None:
            x.masked_fill_(~self.info.negatives_present.reshape(1, -1), NEGATIVE_INFINITY)
        if block.own == "removed":
            columns = anchors[:, None] * block.per_row + torch.arange(
                block.per_row, device=x.device
            )
            x[place[:, None], columns] = NEGATIVE_INFINITY
        elif own is not None:
            x[place, anchors] = own

    def _strike_guided_(self, block: Block, x: Tensor, rows: slice) -> None:
        threshold = self.guide_limits(rows)
        if block.side not in self._guides or threshold is None:
            return
        anchors, columns = self._guides[block.anchor][rows], self._guides[block.side]
        for part in chunks_of(columns.raw):
            struck = anchors @ columns[part].T > threshold[:, None]
            x[:, part].masked_fill_(struck, NEGATIVE_INFINITY)

    def _strike_similar_(self, block: Block, x: Tensor, rows: slice) -> None:
        similar, bound = self.similar, self.masks.similar_to_positive
        if similar is None or bound is None:
            return
        positives, columns = similar["document"][rows], similar[block.side]
        for part in chunks_of(columns.raw):
            x[:, part].masked_fill_(positives @ columns[part].T > bound, NEGATIVE_INFINITY)

    def guide_limits(self, rows: slice) -> Tensor | None:
        """Return the guide score (R,) above which a candidate is struck, or None."""
        settings = self.masks.guide
        if settings is None:
            return None
        own = (self._guides["query"][rows] * self._guides["document"][rows]).sum(dim=1)
        # The pair's own score comes out of another summation order than the table's, so an equal
        # text could seem to beat the positive by a rounding error.
        slack = 1e-6 if settings.margin == 0 else 0.0
        return guide_threshold(own, margin=settings.margin, kind=settings.kind) + slack

    def struck_pairs(self, rows: slice, scores: Tensor, positive: Tensor) -> Tensor:
        """Return bool (R, K), True where a row's own hard negative is not used.

        Args:
            rows: Global rows.
            scores: (R, K) similarities of the query and its hard negatives.
            positive: (R,) similarity of the pair.
        """
        struck = torch.zeros_like(scores, dtype=torch.bool)
        info, many = self.info, scores.shape[1]
        if info.negatives_present is not None:
            struck |= ~info.negatives_present[rows]
        for kind, wanted in (("text", True), ("id", self.masks.same_id),
                             ("class", self.masks.same_class)):  # fmt: skip
            keys = self._keys.get(kind, {})
            if not wanted or "negatives" not in keys:
                continue
            own = keys["negatives"].view(-1, many)[rows]
            for side in ("query", "document") if kind == "text" else ("query",):
                row_keys = keys[side][rows][:, None]
                struck |= (own == row_keys) & (row_keys >= 0)
        if self.masks.above_positive is not None:
            struck |= scores > (positive + self.masks.above_positive)[:, None]
        flat = slice(rows.start * many, rows.stop * many)
        limits = self.guide_limits(rows)
        if limits is not None:
            vectors = self._guides["negatives"][flat].view(len(scores), many, -1)
            struck |= (
                torch.einsum("rd,rkd->rk", self._guides["query"][rows], vectors) > limits[:, None]
            )
        if self.similar is not None and self.masks.similar_to_positive is not None:
            vectors = self.similar["negatives"][flat].view(len(scores), many, -1)
            similarity = torch.einsum("rd,rkd->rk", self.similar["document"][rows], vectors)
            struck |= similarity > self.masks.similar_to_positive
        return struck
