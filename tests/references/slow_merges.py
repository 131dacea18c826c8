"""The merge methods as slow, obvious loops over Python floats.

Tensors are lists of flat lists, and ``base`` is a flat list or None.
"""

from __future__ import annotations

import math

from embedworks._core.seeding import generator


def mean_weights(weights):
    return [w / sum(weights) for w in weights]


def changes(tensors, base):
    return [[x - (base[p] if base else 0.0) for p, x in enumerate(t)] for t in tensors]


def add_base(vector, base):
    return [x + (base[p] if base else 0.0) for p, x in enumerate(vector)]


def weighted(vectors, weights):
    return [math.fsum(w * v[p] for w, v in zip(weights, vectors)) for p in range(len(vectors[0]))]


def norm(vector):
    return math.sqrt(math.fsum(x * x for x in vector))


def unit(vector):
    return [x / norm(vector) for x in vector]


def cosine(a, b):
    if norm(a) == 0 or norm(b) == 0:
        return 0.0
    return max(-1.0, min(1.0, math.fsum(x * y for x, y in zip(unit(a), unit(b)))))


def linear(tensors, weights):
    return weighted(tensors, mean_weights(weights))


def task_arithmetic(tensors, weights, base, scale):
    step = weighted(changes(tensors, base), weights)
    return add_base([scale * x for x in step], base)


def slerp(tensors, weights, base):
    a, b = changes(tensors, base)
    s, t = mean_weights(weights)
    if norm(a) == 0 or norm(b) == 0 or abs(cosine(a, b)) > 0.9995:
        return add_base(weighted([a, b], [s, t]), base)
    angle = math.acos(cosine(a, b))
    factors = [math.sin(s * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)]
    return add_base(weighted([a, b], factors), base)


def nuslerp(tensors, weights, base):
    a, b = changes(tensors, base)
    s, t = mean_weights(weights)
    angle = math.acos(cosine(a, b))
    if norm(a) == 0 or norm(b) == 0 or abs(cosine(a, b)) >= 1 - 1e-8:
        return add_base(weighted([a, b], [s, t]), base)
    factors = [math.sin(s * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)]
    direction = weighted([unit(a), unit(b)], factors)
    length = s * norm(a) + t * norm(b)
    return add_base([length * x for x in direction], base)


def by_rows(method, tensors, weights, base, width):
    """Merge each row by itself."""
    merged = []
    for start in range(0, len(tensors[0]), width):
        row = slice(start, start + width)
        merged += method([t[row] for t in tensors], weights, base[row] if base else None)
    return merged


def sphere_start(vectors, weights):
    units = [(w, unit(v)) for w, v in zip(weights, vectors) if norm(v) > 0]
    total = weighted([u for _, u in units], [w for w, _ in units]) if units else [0.0]
    return units, total


def multi_slerp(tensors, weights, base):
    vectors, weights = changes(tensors, base), mean_weights(weights)
    _, total = sphere_start(vectors, weights)
    if norm(total) <= 1e-6:
        return add_base(weighted(vectors, weights), base)
    length = sum(w * norm(v) for w, v in zip(weights, vectors))
    return add_base([length * x for x in unit(total)], base)


def karcher(tensors, weights, base, steps):
    vectors, weights = changes(tensors, base), mean_weights(weights)
    units, total = sphere_start(vectors, weights)
    if norm(total) <= 1e-6:
        return add_base(weighted(vectors, weights), base)
    point = unit(total)
    share = sum(w for w, _ in units)
    for _ in range(steps):
        logs = []
        for w, u in units:
            near = max(-1.0, min(1.0, math.fsum(x * y for x, y in zip(point, u))))
            angle = math.acos(near)
            factor = angle / math.sin(angle) if abs(near) < 1 - 1e-8 else 1.0
            logs.append([w / share * factor * (x - near * y) for x, y in zip(u, point)])
        step = weighted(logs, [1.0] * len(logs))
        length = norm(step)
        if length < 1e-12:
            break
        point = [math.cos(length) * p + math.sin(length) / length * x for p, x in zip(point, step)]
        point = unit(point)
    length = sum(w * norm(v) for w, v in zip(weights, vectors))
    return add_base([length * x for x in point], base)


def model_stock(tensors, weights, base):
    vectors = changes(tensors, base)
    count = len(vectors)
    pairs = [cosine(vectors[i], vectors[j]) for i in range(count) for j in range(i)]
    c = max(0.0, sum(pairs) / len(pairs))
    t = count * c / (1 + (count - 1) * c)
    mean = weighted(tensors, [1 / count] * count)
    return [t * m + (1 - t) * b for m, b in zip(mean, base)]


def kept_count(density, size):
    return max(1, math.floor(density * size + 0.5))


def trim(vector, density):
    if not vector:
        return vector
    limit = sorted((abs(x) for x in vector), reverse=True)[kept_count(density, len(vector)) - 1]
    return [x if abs(x) >= limit else 0.0 for x in vector]


def elect(vectors, weights, majority="sum"):
    merged = []
    for p in range(len(vectors[0])):
        votes = 0.0
        for w, v in zip(weights, vectors):
            votes += w * v[p] if majority == "sum" else float((w * v[p] > 0) - (w * v[p] < 0))
        total = share = 0.0
        for w, v in zip(weights, vectors):
            if (v[p] > 0 and votes >= 0) or (v[p] < 0 and votes < 0):
                total += w * v[p]
                share += w
        merged.append(total / share if share > 0 else 0.0)
    return merged


def combined(vectors, weights, base, combine, scale, majority="sum"):
    if combine == "ties":
        step = elect(vectors, mean_weights(weights), majority)
    else:
        step = weighted(vectors, weights)
    return add_base([scale * x for x in step], base)


def ties(tensors, weights, base, density, scale, majority):
    vectors = [trim(v, density) for v in changes(tensors, base)]
    return combined(vectors, weights, base, "ties", scale, majority)


def breadcrumbs(tensors, weights, base, density, gamma, combine):
    vectors = []
    for vector in changes(tensors, base):
        sizes = sorted((abs(x) for x in vector), reverse=True)
        if sizes:
            top = min(math.floor(gamma * len(sizes) + 0.5), len(sizes) - 1)
            last = min(top + kept_count(density, len(sizes)), len(sizes)) - 1
            vector = [x if sizes[last] <= abs(x) <= sizes[top] else 0.0 for x in vector]
        vectors.append(vector)
    return combined(vectors, weights, base, combine, 1.0)


def randomly(tensors, weights, base, chances_of, rescale, combine, seed, key):
    """DARE and DELLA: ``chances_of(vector)`` is the probability to keep each entry."""
    vectors = []
    for number, vector in enumerate(changes(tensors, base)):
        draws = generator(seed, key, number).random(len(vector), "float32").tolist()
        chances = chances_of(vector)
        kept = [x if d < c else 0.0 for x, d, c in zip(vector, draws, chances)]
        if rescale == "expected":
            kept = [x / c for x, c in zip(kept, chances)]
        if rescale == "l1" and any(kept):
            factor = sum(map(abs, vector)) / sum(map(abs, kept))
            kept = [x * factor for x in kept]
        vectors.append(kept)
    return combined(vectors, weights, base, combine, 1.0)


def ranked_chances(vector, width, density, epsilon):
    chances = []
    for start in range(0, len(vector), width):
        row = vector[start : start + width]
        order = sorted(range(len(row)), key=lambda p: (abs(row[p]), p))
        for p in range(len(row)):
            rise = 2 * order.index(p) / (width - 1) - 1 if width > 1 else 0.0
            chances.append(density + epsilon * rise)
    return chances


def sce(tensors, base, topk):
    vectors = changes(tensors, base)
    if not vectors[0]:
        return []
    count, size = len(vectors), len(vectors[0])
    variances = []
    for p in range(size):
        mean = sum(v[p] for v in vectors) / count
        variances.append(sum((v[p] - mean) ** 2 for v in vectors) / count)
    limit = sorted(variances, reverse=True)[kept_count(topk, size) - 1]
    vectors = [[x if variances[p] >= limit else 0.0 for p, x in enumerate(v)] for v in vectors]
    energies = [sum(x * x for x in v) for v in vectors]
    shares = [e / sum(energies) for e in energies] if sum(energies) else [1 / count] * count
    merged = []
    for p in range(size):
        positive = sum(v[p] for v in vectors) >= 0
        agree = [
            (c, v[p])
            for c, v in zip(shares, vectors)
            if (v[p] > 0 and positive) or (v[p] < 0 and not positive)
        ]
        share = sum(c for c, _ in agree)
        merged.append(sum(c * x for c, x in agree) / share if share else 0.0)
    return add_base(merged, base)


def ram(tensors, weights, base, eps):
    merged = []
    for p in range(len(base)):
        found = [(w, t[p] - base[p]) for w, t in zip(weights, tensors)]
        found = [(w, d) for w, d in found if abs(d) > eps]
        share = sum(w for w, _ in found)
        merged.append(base[p] + (sum(w * d for w, d in found) / share if share else 0.0))
    return merged


def fisher(tensors, fishers, weights, eps):
    merged = []
    for p in range(len(tensors[0])):
        shares = [w * (f[p] + eps) for w, f in zip(weights, fishers)]
        merged.append(math.fsum(s * t[p] for s, t in zip(shares, tensors)) / math.fsum(shares))
    return merged


def regmean(tensors, inputs, weights, alpha):
    """Solve for each output alone, by Gauss-Jordan; tensors are lists of rows (out, in)."""
    wide = len(tensors[0][0])
    total = [[0.0] * wide for _ in range(wide)]
    mixed = [[0.0] * wide for _ in tensors[0]]
    for rows, x, w in zip(tensors, inputs, weights):
        for i in range(wide):
            for j in range(wide):
                g = w * math.fsum(line[i] * line[j] for line in x) * (1.0 if i == j else alpha)
                total[i][j] += g
                for o, row in enumerate(rows):
                    mixed[o][j] += row[i] * g
    return [_solve(total, line) for line in mixed]


def _solve(matrix, right):
    lines = [[*row, value] for row, value in zip(matrix, right)]
    for i in range(len(lines)):
        best = max(range(i, len(lines)), key=lambda r: abs(lines[r][i]))
        lines[i], lines[best] = lines[best], lines[i]
        lines[i] = [x / lines[i][i] for x in lines[i]]
        for r in range(len(lines)):
            if r != i:
                lines[r] = [x - lines[r][i] * y for x, y in zip(lines[r], lines[i])]
    return [line[-1] for line in lines]
