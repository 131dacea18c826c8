"""The model card of a static model made by a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from embedworks.training._distill_corpus import SOURCES
from embedworks.training._distill_settings import DistillSettings

__all__ = ["model_card"]


def model_card(
    settings: DistillSettings,
    metadata: Mapping[str, Any],
    rows: Mapping[str, int],
    *,
    dropped: int,
    vocabulary: int,
) -> str:
    """Return the card in Markdown: what the model is, what it was trained on, its limits.

    Args:
        settings: The recipe.
        metadata: What is stored in the model's ``config.json``.
        rows: Training rows by ``source.kind``; pairs are marked ``(pairs)``.
        dropped: Rows kept out of training because they equal an evaluation text.
        vocabulary: Number of tokens.
    """
    lines = [
        "---",
        "language: en",
        "license: apache-2.0",
        "base_model: sentence-transformers/all-MiniLM-L6-v2",
        "tags: [static-embeddings, sentence-embeddings, retrieval]",
        "---",
        "",
        f"# {settings.name}",
        "",
        f"A static English text embedding: {vocabulary:,} tokens with {settings.student.dim} "
        "numbers each, stored as int8 with one scale per token. A text's vector is the "
        "normalised mean of its tokens' rows; a row's length is the token's weight. No "
        "transformer runs, so encoding costs little more than tokenisation. Word order is not "
        "seen.",
        "",
        "## How it was made",
        "",
        f"Recipe `{settings.name}` (SHA-256 `{str(metadata['recipe_sha256'])[:16]}`), seed "
        f"{metadata['seed']}. The table starts from all-MiniLM-L6-v2 (Apache-2.0) applied to "
        "every token, reduced by PCA and weighted by rarity, and is then trained for "
        f"{settings.steps:,} steps on two things at once: the teacher's vectors and similarities "
        f"of {metadata['teacher_texts']:,} texts, and natural pairs such as title and abstract.",
        "",
        "## Training text",
        "",
        "Nothing else was used by this recipe. The teacher was itself trained by its authors on "
        "about a billion pairs, see its own card. Texts equal to a text of the evaluation files "
        f"({', '.join(settings.decontaminate) or 'none'}) were dropped: {dropped:,} rows.",
        "",
        "| source | licence | available rows |",
        "|---|---|---|",
    ]
    for name, source in SOURCES.items():
        used = {key.split(".")[1]: n for key, n in rows.items() if key.split(".")[0] == name}
        if used:
            counts = ", ".join(f"{kind} {number:,}" for kind, number in used.items())
            lines.append(f"| {source.credit} | {source.licence} | {counts} |")
    lines += [
        "",
        f"The teacher encoded the {metadata['teacher_texts']:,} of these texts with the smallest "
        f"hashes, cut to {settings.teacher.max_words} words, and every token of the vocabulary. "
        "The pairs use no teacher. The words added to the vocabulary were counted over the same "
        "sources. No scores or labels of similarity data were used.",
        "",
        "## Limits",
        "",
        "- English only. Other scripts map to the unknown token.",
        '- Word order and negation are invisible: "dog bites man" equals "man bites dog".',
        "- Long texts average out; cut them into passages first.",
        "- The training text leans to language technology, dictionaries and everyday sentences.",
        "- Associations of the teacher, social stereotypes included, are inherited.",
        "",
    ]
    return "\n".join(lines)
