"""English text from the public data sets, to train small language models on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from embedworks._core.seeding import generator
from embedworks._core.validation import check_in_range
from embedworks.data import content_key
from embedworks.reproductions.real_data import read_records

__all__ = ["english_texts"]


def english_texts(characters: int, *, exclude: Iterable[str] = (), seed: int) -> list[str]:
    """Return abstracts, glosses, captions, speeches, questions and code comments, shuffled.

    Every source gives its share, so that a small amount is a mixture too. Abstracts are those of
    the training part only.

    Args:
        characters: About how many in all.
        exclude: Texts that must not occur, such as those to be scored; compared without case,
            punctuation and spaces.
        seed: Of the choice and the order.

    Raises:
        NotFoundError: When a file of the data folder is not there.
    """
    check_in_range(characters, name="characters", low=1)
    refused = {content_key(text) for text in exclude}
    kept: dict[str, str] = {}
    sources = [list(read()) for read in _SOURCES]
    whole = sum(len(text) for texts in sources for text in texts)
    for number, texts in enumerate(sources):
        own = sum(map(len, texts))
        room = own * min(1.0, characters / whole)
        for place in generator(seed, "english texts", number).permutation(len(texts)).tolist():
            if room <= 0:
                break
            key = content_key(texts[place])
            if key not in refused and key not in kept:
                kept[key] = texts[place]
                room -= len(texts[place])
    found = list(kept.values())
    order = generator(seed, "order of english texts").permutation(len(found))
    return [found[int(place)] for place in order]


def _abstracts() -> Iterator[str]:
    columns = ("title", "abstract", "language", "split", "year")
    for record in read_records("acl_abstracts.parquet", columns):
        if record["language"] == "eng" and record["split"] == "train" and record["year"] >= 2016:
            yield f"{record['title']}. {record['abstract']}"


def _glosses() -> Iterator[str]:
    for record in read_records("wordnet_synsets.parquet", ("lemmas", "definition", "examples")):
        shown = [f"{', '.join(record['lemmas'])}: {record['definition']}.", *record["examples"]]
        yield " ".join(shown)


def _captions() -> Iterator[str]:
    for record in read_records("multi30k_captions.parquet", ("en_captions", "en")):
        yield from record["en_captions"] or [record["en"]]


def _sentences() -> Iterator[str]:
    seen = (record["eng"] for record in read_records("tatoeba_bitext.parquet", ("eng",)))
    yield from dict.fromkeys(seen)


def _questions() -> Iterator[str]:
    for record in read_records("gsm8k.parquet", ("question", "answer")):
        yield f"{record['question']} {record['answer']}"
    for record in read_records("xquad.parquet", ("lang", "context", "question")):
        if record["lang"] == "en":
            yield f"{record['question']} {record['context']}"


def _speeches() -> Iterator[str]:
    columns = ("lang", "text")
    for record in read_records("long_docs_public_domain.parquet", columns):
        if record["lang"] == "en":
            text = record["text"]
            yield from (text[start : start + 2000] for start in range(0, len(text), 2000))


def _short_texts() -> Iterator[str]:
    columns: Mapping[str, tuple[str, ...]] = {
        "text_classification.parquet": ("text",),
        "code_text_pairs.parquet": ("text",),
        "ir_vaswani_corpus.parquet": ("text",),
    }
    for name, wanted in columns.items():
        for record in read_records(name, wanted):
            yield str(record["text"])


_SOURCES: tuple[Callable[[], Iterator[str]], ...] = (
    _abstracts, _glosses, _captions, _sentences, _questions, _speeches, _short_texts,
)  # fmt: skip
