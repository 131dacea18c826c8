"""The contrastive objective as slow, obvious loops over Python floats in double precision."""

from __future__ import annotations

import math

import torch

from embedworks.losses import ContrastInputs


def cosine(a, b):
    return float(a @ b / max(float(a.norm()) * float(b.norm()), 1e-12))


def dot(a, b):
    return float(a @ b)


def maxsim(a, b, a_mask=None, b_mask=None):
    best = []
    for t, query in enumerate(a):
        if a_mask is not None and not a_mask[t]:
            continue
        rest = [cosine(query, d) for u, d in enumerate(b) if b_mask is None or b_mask[u]]
        best.append(max(rest, default=0.0))
    return sum(best) / max(len(best), 1)


class Candidate:
    """One entry of a row's denominator."""

    def __init__(self, score, *, positive=0.0, weighed=None, known=None):
        self.score = score  # similarity to its anchor
        self.positive = positive  # target
        self.weighed = weighed  # "hard", "batch" or None
        self.known = known or {}


def same(a, b):
    return a is not None and b is not None and int(a) == int(b) and int(a) >= 0


def slow_contrast(query, document, negatives, settings, info, inputs=None):
    """Return the loss as a float."""
    total = 0.0
    for direction in settings.directions:
        if direction == "query_to_document":
            part, taught = one_way(query, document, negatives, settings, info, inputs)
            total += settings.teacher.weight * taught
        else:
            targets = settings.targets.to_dict()
            targets["kind"] = "one" if targets["kind"] == "graded" else targets["kind"]
            turned = settings.replace(
                candidates=("documents",), targets=targets, teacher={}, contrastive_weight=1.0,
                directions=("query_to_document",),
            )  # fmt: skip
            same_place = ContrastInputs(progress=0.0 if inputs is None else inputs.progress)
            if inputs is not None:
                same_place.inverse_temperature = inputs.inverse_temperature
            part, _ = one_way(document, query, None, turned, info.swapped(), same_place)
        total += settings.contrastive_weight * part / len(settings.directions)
    return total


def one_way(query, document, negatives, settings, info, inputs):
    count = len(query)
    many = 0 if negatives is None else negatives.shape[1]
    similarity = {"cosine": cosine, "dot": dot}.get(settings.similarity)
    guide = settings.masks.guide

    def get(field, *place):
        value = getattr(info, field)
        return None if value is None else value[place]

    def score(i, a_side, j, b_side, k=None):
        sides = {"query": query, "document": document, "negatives": negatives}
        if inputs is not None:
            sides |= {"queue": inputs.queue, "mixed": inputs.mixed}
        b = sides[b_side][j] if k is None else sides[b_side][j, k]
        a = sides[a_side][i]
        if settings.similarity != "maxsim":
            return similarity(a, b)
        masks = {"query": info.query_mask, "document": info.document_mask}
        a_mask = None if masks[a_side] is None else masks[a_side][i]
        b_mask = info.negatives_mask if b_side == "negatives" else masks[b_side]
        b_mask = None if b_mask is None else (b_mask[j] if k is None else b_mask[j, k])
        if a_side == "document":
            return maxsim(b, a, b_mask, a_mask)
        return maxsim(a, b, a_mask, b_mask)

    def guided(i, a_side, j, b_side, k=None):
        a = get(f"guide_{a_side}", i)
        b = get(f"guide_{b_side}", j) if k is None else get(f"guide_{b_side}", j, k)
        return cosine(a, b)

    def keys(side, j, k=None):
        """What a candidate is: its own text, and the texts it belongs to."""
        if side == "negatives":
            return {
                "text": [get("negative_keys", j, k)],
                "id": get("negative_ids", j, k),
                "class": get("negative_classes", j, k),
            }
        if side == "queue":
            key = None if inputs.queue_keys is None else inputs.queue_keys[j]
            return {"text": [key], "id": None, "class": None}
        return {
            "text": [get(f"{side}_keys", j)],
            "query": get("query_keys", j),
            "document": get("document_keys", j),
            "id": get("positive_ids", j),
            "class": get("classes", j),
        }

    def struck(i, a_side, j, side, value, positive, k=None):
        masks, known = settings.masks, keys(side, j, k)
        present = info.negatives_present
        if side == "negatives" and present is not None and not present[j, k]:
            return True
        if masks.duplicates:
            mine = [get("query_keys", i), get("document_keys", i)]
            if any(same(a, b) for a in mine for b in known["text"]):
                return True
            if side in ("query", "document"):
                for kind in ("query", "document"):
                    if same(get(f"{kind}_keys", i), known[kind]):
                        return True
        if masks.same_id and same(get("positive_ids", i), known["id"]):
            return True
        if masks.same_class and same(get("classes", i), known["class"]):
            return True
        if masks.above_positive is not None and value > positive + masks.above_positive:
            return True
        if guide is not None and side != "queue":
            t = guided(i, "query", i, "document")
            t -= guide.margin * (abs(t) if guide.kind == "relative" else 1)
            if guided(i, a_side, j, side, k) > t + (1e-6 if guide.margin == 0 else 0):
                return True
        if masks.similar_to_positive is not None and side != "query":
            table = {"document": document, "negatives": negatives}
            if inputs is not None:
                table["queue"] = inputs.queue
            b = table[side][j] if k is None else table[side][j, k]
            if cosine(document[i], b) > masks.similar_to_positive:
                return True
        return False

    def row(i):
        found = []
        positive = score(i, "query", i, "document")
        grades = get("grades", i) if settings.targets.kind == "graded" else None
        target = 1.0 if grades is None else float(grades[0] / grades.sum())
        found.append(Candidate(positive, positive=target))
        own_teacher = [("document", i, None)]
        if "own_negatives" in settings.candidates:
            for k in range(many):
                value = score(i, "query", i, "negatives", k)
                target = 0.0 if grades is None else float(grades[1 + k] / grades.sum())
                if target == 0 and struck(i, "query", i, "negatives", value, positive, k):
                    continue
                found.append(Candidate(value, positive=target, weighed="hard"))
                own_teacher.append(("negatives", i, k))
        if inputs is not None and inputs.mixed is not None:
            for m in range(inputs.mixed.shape[1]):
                if inputs.mixed_usable is None or inputs.mixed_usable[i, m]:
                    found.append(
                        Candidate(similarity(query[i], inputs.mixed[i, m]), weighed="hard")
                    )
        batch_teacher = []
        for name in settings.candidates:
            if name == "own_negatives":
                continue
            anchor = "document" if name.startswith("document_") else "query"
            side = {
                "documents": "document", "other_negatives": "negatives", "queue": "queue",
                "queries": "query", "document_documents": "document",
                "document_negatives": "negatives", "document_queries": "query",
            }[name]  # fmt: skip
            if side == "negatives" and not many:
                continue
            if side == "queue" and (inputs is None or inputs.queue is None):
                continue
            size = len(inputs.queue) if side == "queue" else count
            for j in range(size):
                for k in range(many) if side == "negatives" else [None]:
                    value = score(i, anchor, j, side, k)
                    if side != "queue" and j == i:
                        if name == "document_queries":
                            found.append(Candidate(value))
                        continue
                    field = {"id": "positive_ids", "class": "classes"}[settings.targets.by]
                    if (
                        name == "documents"
                        and settings.targets.kind == "several"
                        and same(get(field, i), get(field, j))
                    ):
                        found.append(Candidate(value, positive=1.0))
                        continue
                    if struck(i, anchor, j, side, value, positive, k):
                        continue
                    weighed = "batch" if anchor == "query" and side != "query" else None
                    found.append(Candidate(value, weighed=weighed))
                    if name in ("documents", "other_negatives"):
                        batch_teacher.append((side, j, k))
        if settings.targets.kind == "several":
            positives = sum(c.positive for c in found)
            for c in found:
                c.positive /= positives
        return found, own_teacher, batch_teacher

    progress = 0.0 if inputs is None else inputs.progress
    strength = settings.negative_weights.strength.at(progress)
    scope = settings.negative_weights.scope
    weighs = {"all_negatives": ("hard", "batch"), "hard_negatives": ("hard",)}.get(
        scope, ("batch",)
    )
    losses, weights, divergences = [], [], []
    for i in range(count):
        inverse = 1 / settings.temperature.value
        if inputs is not None and inputs.inverse_temperature is not None:
            inverse = float(inputs.inverse_temperature[i])
        found, own_teacher, batch_teacher = row(i)
        chosen = [c for c in found if c.weighed in weighs and c.positive == 0]
        if settings.negative_weights.kind == "none" or strength == 0:
            chosen = []
        spread = sum(math.exp(strength * c.score) for c in chosen)
        total = drawn = held = 0.0
        for c in found:
            weight = 1.0
            if c in chosen:
                weight = math.exp(strength * c.score)
                if settings.negative_weights.kind == "progressive":
                    weight *= len(chosen) / spread
            total += weight * math.exp(c.score * inverse)
            drawn += c.positive * c.score * inverse
            held += math.exp(c.score * inverse) if c.positive > 0 else 0.0
        losses.append(math.log(total) - drawn)
        w = 1.0
        exponent = settings.sample_weights.exponent.at(progress)
        if settings.sample_weights.kind == "focal" and exponent != 0:
            w = max(1 - held / total, torch.finfo(torch.float64).tiny) ** exponent
        given = 1.0 if info.weights is None else float(info.weights[i])
        weights.append((w * given, given))
        divergences.append(
            given
            * divergence(i, found, own_teacher, batch_teacher, settings, info, inverse, score, many)
        )
    by = (
        sum(w for w, _ in weights)
        if settings.sample_weights.normalize
        else sum(g for _, g in weights)
    )
    loss = sum(x * w for x, (w, _) in zip(losses, weights, strict=True)) / by
    return loss, sum(divergences) / sum(g for _, g in weights)


def divergence(i, found, own, batch, settings, info, inverse, score, many):
    options = settings.teacher
    if options.weight == 0:
        return 0.0
    if options.scope == "own":
        present = [0] + [
            1 + k
            for k in range(many)
            if info.negatives_present is None or bool(info.negatives_present[i, k])
        ]
        raw = [float(info.teacher_scores[i, p]) for p in present]
        if options.normalize == "sigmoid":
            raw = [1 / (1 + math.exp(-x)) for x in raw]
        elif options.normalize == "minmax":
            span = max(raw) - min(raw)
            raw = [(x - min(raw)) / span if span else 0.0 for x in raw]
        elif options.normalize == "zscore":
            mean = sum(raw) / len(raw)
            sd = math.sqrt(sum((x - mean) ** 2 for x in raw) / len(raw))
            raw = [(x - mean) / sd if sd else 0.0 for x in raw]
        places = [("document", i, None)] + [("negatives", i, p - 1) for p in present[1:]]
    else:
        places = [*own, *batch]
        raw = []
        for side, j, k in places:
            b = getattr(info, f"teacher_{side}")
            raw.append(cosine(info.teacher_query[i], b[j] if k is None else b[j, k]))
    heat = 1 / options.student_temperature if options.student_temperature else inverse
    student = [score(i, "query", j, side, k) * heat for side, j, k in places]
    teacher = [x / options.temperature for x in raw]
    s = [x - math.log(sum(math.exp(y) for y in student)) for x in student]
    t = [x - math.log(sum(math.exp(y) for y in teacher)) for x in teacher]
    return max(0.0, sum(math.exp(b) * (b - a) for a, b in zip(s, t, strict=True)))
