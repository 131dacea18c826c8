"""The steps of synthesis: tasks, rows, queries, paraphrases, new pairs, negatives, verdicts.

Every step takes texts or rows and a `Synthesizer`, and gives training rows whose provenance says
which generator wrote them in which step. Knows nothing of files, models or vectors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from embedworks._core.seeding import generator
from embedworks._core.validation import check_choice, check_in_range
from embedworks.data._synthesis.negatives import (
    Decision,
    Relabelled,
    make_hard_negatives,
    relabel,
)
from embedworks.data._synthesis.rows import (
    Passage,
    Siblings,
    as_passage,
    distinct_rows,
    extended,
    nonempty,
    provenance_of,
    texts_only,
)
from embedworks.data._synthesis.synthesizer import Synthesizer
from embedworks.data._synthesis.text_checks import normalized
from embedworks.data.chunking import Chunk
from embedworks.data.rows import Row, RowSet
from embedworks.data.synthesis_tasks import (
    QUERY_STYLES,
    SynthesisTask,
    augment_request,
    brainstorm_request,
    paraphrase_request,
    query_request,
    row_request,
)
from embedworks.errors import EmptyInputError

__all__ = [
    "Decision",
    "Passage",
    "Relabelled",
    "Synthesizer",
    "augment",
    "brainstorm_tasks",
    "make_hard_negatives",
    "paraphrase",
    "provenance_of",
    "query_passages",
    "relabel",
    "synthesize_rows",
]

_TASKS_PER_CALL = 20


def brainstorm_tasks(
    task_type: str,
    synthesizer: Synthesizer,
    *,
    count: int = 20,
    topics: Sequence[str] = (),
    languages: tuple[str, str] | None = None,
    generators: Sequence[str] | None = None,
) -> tuple[SynthesisTask, ...]:
    """Have tasks of one type thought up, the first of two steps from nothing to rows.

    Args:
        task_type: One of `TASK_TYPES`.
        synthesizer: Whom to ask.
        count: Most tasks; equal ones are counted and left out, so there may be fewer.
        topics: Subjects to stay with; empty for any.
        languages: For bitext: the language of the anchor and of the positive.
        generators: Names of the generators to ask; None asks all.

    Raises:
        UnknownNameError: When the type or a generator is not known.
        InputError: When bitext has no languages.
        EndpointError: When an endpoint cannot be reached.

    Example:
        >>> from embedworks.data import RuleBasedGenerator
        >>> synthesizer = Synthesizer(RuleBasedGenerator())
        >>> tasks = brainstorm_tasks("short-long", synthesizer, count=3)
        >>> len(tasks), tasks[0].task_type
        (3, 'short-long')
    """
    check_in_range(count, name="count", low=1)
    SynthesisTask(task_type, "any", languages=languages)
    sizes = [min(_TASKS_PER_CALL, count - at) for at in range(0, count, _TASKS_PER_CALL)]
    requests = [
        brainstorm_request(task_type, count=size, batch=batch, topics=topics, languages=languages)
        for batch, size in enumerate(sizes)
    ]
    found: dict[str, SynthesisTask] = {}
    for answered in synthesizer.ask(requests, generators=generators):
        if answered is None:
            continue
        for text in answered.answer.tasks:
            task = SynthesisTask(task_type, text.strip(), answered.generator, languages)
            if found.setdefault(normalized(text), task) is not task:
                synthesizer.skip("brainstorm", "duplicate task")
    return tuple(list(found.values())[:count])


def synthesize_rows(
    tasks: Sequence[SynthesisTask],
    synthesizer: Synthesizer,
    *,
    rows_per_task: int = 1,
    source: str = "synthetic",
    generators: Sequence[str] | None = None,
) -> RowSet:
    """Have rows written for tasks: anchor, positive and one hard negative each.

    Classification rows have the class as positive and label, and a tempting wrong class as
    negative. The task's description is kept in the provenance, entry ``task``.

    Args:
        tasks: What `brainstorm_tasks` returned, or your own.
        synthesizer: Whom to ask.
        rows_per_task: Rows asked for per task.
        source: Rows are of source ``{source}-{task type}``.
        generators: Names of the generators to ask, which need not be those that thought of the
            tasks; None asks all.

    Raises:
        EmptyInputError: When there are no tasks.
        EndpointError: When an endpoint cannot be reached.

    Example:
        >>> from embedworks.data import RuleBasedGenerator
        >>> task = SynthesisTask("bitext", "Find the translation.", languages=("English", "German"))
        >>> rows = synthesize_rows([task], Synthesizer(RuleBasedGenerator()), rows_per_task=2)
        >>> rows.sources, rows.max_negatives
        ({'synthetic-bitext': 2}, 1)
    """
    check_in_range(rows_per_task, name="rows_per_task", low=1)
    if not tasks:
        raise EmptyInputError("there are no tasks to write rows for.")
    asked = [(task, number) for number in range(rows_per_task) for task in tasks]
    requests = [row_request(task, number=number) for task, number in asked]
    rows = []
    for (task, _), answered in zip(
        asked, synthesizer.ask(requests, generators=generators), strict=True
    ):
        if answered is None:
            continue
        fields = _row_fields(answered.answer.model_dump())
        more = {"task": task.description}
        if task.generator:
            more["task_generator"] = task.generator
        origin = extended(None, "rows", answered, **more)
        rows.append(Row(**fields, source=f"{source}-{task.task_type}", provenance=origin))
    return distinct_rows(rows, (), synthesizer, "rows")


def _row_fields(answer: Mapping[str, str]) -> dict[str, Any]:
    if "label" in answer:
        return {
            "anchor": answer["text"],
            "positive": answer["label"],
            "negatives": (answer["misleading_label"],),
            "label": answer["label"],
        }
    return {
        "anchor": answer["query"],
        "positive": answer["positive"],
        "negatives": (answer["hard_negative"],),
    }


def query_passages(
    passages: Sequence[str | Passage | Chunk],
    synthesizer: Synthesizer,
    *,
    styles: Sequence[str] = tuple(QUERY_STYLES),
    per_passage: int = 1,
    count: int | None = None,
    min_words: int = 8,
    source: str = "synthetic-queries",
    generators: Sequence[str] | None = None,
) -> RowSet:
    """Have queries written that given passages answer.

    Passages are visited in an order drawn from the seed, the styles in turn. The positive of a
    chunk is its title and text; for the style ``title`` it is the text alone.

    Args:
        passages: Texts, `Passage` objects or chunks of `chunk_documents`.
        synthesizer: Whom to ask.
        styles: Which of `QUERY_STYLES`.
        per_passage: Queries asked for per passage.
        count: Most queries asked for in all; None for no limit.
        min_words: Passages with fewer words are skipped and counted.
        source: Source of the rows.
        generators: Names of the generators to ask; None asks all.

    Raises:
        EmptyInputError: When there is no passage, or none is long enough.
        UnknownNameError: When a style is not known.
        EndpointError: When an endpoint cannot be reached.

    Example:
        >>> from embedworks.data import RuleBasedGenerator
        >>> text = "A tidal bore is a wave that runs up a river against the stream."
        >>> rows = query_passages([text], Synthesizer(RuleBasedGenerator()), styles=["question"])
        >>> rows[0].anchor
        'What is a tidal bore?'
    """
    check_in_range(per_passage, name="per_passage", low=1)
    if count is not None:
        check_in_range(count, name="count", low=1)
    for style in nonempty(styles, "styles"):
        check_choice(style, QUERY_STYLES, name="query style")
    every = [as_passage(passage) for passage in passages]
    long = [p for p in every if len(p.text.split()) >= min_words or len(p.text) >= 8 * min_words]
    synthesizer.skip("queries", "passage too short", len(every) - len(long))
    if not long:
        raise EmptyInputError(
            f"none of {len(every)} passages has {min_words} words: there is nothing to ask about."
        )
    order = generator(synthesizer.seed, "synthesis", "passages").permutation(len(long))
    total = len(long) * per_passage if count is None else min(count, len(long) * per_passage)
    asked = []
    for at in range(total):
        turn, place = divmod(at, len(long))
        # Every passage gets the styles in turn, beginning with another one than its neighbour.
        style = styles[(place + turn) % len(styles)]
        asked.append((long[order[place]], style, turn // len(styles)))
    requests = [
        query_request(p.text, style=style, title=p.title, number=number)
        for p, style, number in asked
    ]
    rows = []
    for (passage, style, _), answered in zip(
        asked, synthesizer.ask(requests, generators=generators), strict=True
    ):
        if answered is not None:
            row = Row(
                anchor=answered.answer.query.strip(),
                positive=passage.text if style == "title" else passage.titled,
                source=source,
                positive_id=passage.passage_id,
                provenance=extended(None, "queries", answered, style=style),
            )
            rows.append(row)
    return distinct_rows(rows, (), synthesizer, "queries")


def paraphrase(
    rows: Sequence[Row],
    synthesizer: Synthesizer,
    *,
    per_row: int = 1,
    max_overlap: float = 0.8,
    generators: Sequence[str] | None = None,
) -> RowSet:
    """Have rows written in other words; returns the new rows only.

    Anchor and positive are both rewritten; of rows with a label or a score only the anchor, and
    label or score are kept. Negatives, source and ``positive_id`` are kept too.

    Args:
        rows: The seeds; rows with inputs that are no texts are skipped and counted.
        synthesizer: Whom to ask.
        per_row: Versions asked for per row.
        max_overlap: Largest share of 4-word sequences a version may have in common with its
            seed, 0 to 1.
        generators: Names of the generators to ask; None asks all.

    Raises:
        EndpointError: When an endpoint cannot be reached.

    Example:
        >>> from embedworks.data import RuleBasedGenerator
        >>> row = Row("How do I open a valve?", "If the valve sticks, you can use some oil.")
        >>> paraphrase([row], Synthesizer(RuleBasedGenerator()))[0].anchor
        'What is the way to open a valve?'
    """
    check_in_range(per_row, name="per_row", low=1)
    check_in_range(max_overlap, name="max_overlap", low=0.0, high=1.0)
    usable = texts_only(rows, synthesizer, "paraphrase")
    asked = [(row, number) for number in range(per_row) for row in usable]
    requests = []
    for row, number in asked:
        fixed = row.label is not None or row.score is not None
        positive = None if fixed else str(row.positive)
        requests.append(
            paraphrase_request(str(row.anchor), positive, max_overlap=max_overlap, number=number)
        )
    made = []
    for (row, _), answered in zip(
        asked, synthesizer.ask(requests, generators=generators), strict=True
    ):
        if answered is not None:
            made.append(
                replace(
                    row,
                    anchor=answered.answer.query.strip(),
                    positive=getattr(answered.answer, "positive", row.positive),
                    teacher_scores=None,
                    provenance=extended(row, "paraphrase", answered),
                )
            )
    return distinct_rows(made, rows, synthesizer, "paraphrase")


def augment(
    rows: Sequence[Row],
    synthesizer: Synthesizer,
    *,
    passages: Sequence[str | Passage | Chunk] = (),
    per_row: int = 1,
    generators: Sequence[str] | None = None,
) -> RowSet:
    """Have new pairs written in the domain of given ones; returns the new rows only.

    Labels and graded scores would blur: rows that have one are skipped and counted.

    Args:
        rows: The seeds.
        synthesizer: Whom to ask.
        passages: Where the new pairs may take their facts: siblings (same group) of the row's
            ``positive_id``. None given, other rows' positives of the same document serve.
        per_row: New pairs asked for per row.
        generators: Names of the generators to ask; None asks all.

    Raises:
        EndpointError: When an endpoint cannot be reached.

    Example:
        >>> from embedworks.data import RuleBasedGenerator
        >>> seed = Row("What is a kettle?", "A kettle is a vessel with a lid and a spout.",
        ...            positive_id="a#0")
        >>> other = Passage("To descale the kettle, boil some vinegar in it.", "", "a#1", "a")
        >>> first = Passage(seed.positive, "", "a#0", "a")
        >>> made = augment([seed], Synthesizer(RuleBasedGenerator()), passages=[first, other])
        >>> made[0].positive
        'To descale the kettle, boil some vinegar in it.'
    """
    check_in_range(per_row, name="per_row", low=1)
    plain = [row for row in rows if row.label is None and row.score is None]
    synthesizer.skip("augment", "row has a label or score", len(rows) - len(plain))
    usable = texts_only(plain, synthesizer, "augment")
    siblings = Siblings(passages, rows, synthesizer.seed)
    asked = [(row, number) for number in range(per_row) for row in usable]
    requests = [
        augment_request(
            str(row.anchor),
            str(row.positive),
            context=siblings.of(row, "augment", number),
            number=number,
        )
        for row, number in asked
    ]
    made = []
    for (row, _), answered in zip(
        asked, synthesizer.ask(requests, generators=generators), strict=True
    ):
        if answered is not None:
            positive = answered.answer.positive.strip()
            new = Row(
                anchor=answered.answer.query.strip(),
                positive=positive,
                source=row.source,
                positive_id=siblings.id_of(positive),
                provenance=extended(row, "augment", answered),
            )
            made.append(new)
    return distinct_rows(made, rows, synthesizer, "augment")
