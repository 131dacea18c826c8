"""Training text of the bundled static model: what is read, from which file, under which licence.

Knows the data files and nothing about models. Every loader turns one file (or the running
interpreter's standard library) into named lists of texts and named lists of text pairs. Evaluation
rows never leave this module: the splits are filtered here, and `Decontaminator` drops any text
that equals an evaluation text.
"""

from __future__ import annotations

import ast
import re
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from embedworks._core.registry import did_you_mean
from embedworks.errors import NotFoundError, SettingsError
from embedworks.training._distill_text import passages, sentences, squeeze

__all__ = [
    "SOURCES",
    "Decontaminator",
    "SourceData",
    "load_sources",
    "python_code",
]

Pair = tuple[str, str]
Row = Mapping[str, object]


@dataclass
class SourceData:
    """Texts and pairs of one source, by kind (``"title"``, ``"title_abstract"``)."""

    texts: dict[str, list[str]] = field(default_factory=dict)
    pairs: dict[str, list[Pair]] = field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    """One training source.

    Attributes:
        load: Reads the file's rows and returns the texts and pairs.
        file: Parquet file name under the data root, or None for the standard library.
        columns: Columns to read.
        licence: Licence of the rows used.
        credit: Where the data comes from.
    """

    load: Callable[[list[Row]], SourceData]
    file: str | None
    columns: tuple[str, ...]
    licence: str
    credit: str


_MARKUP = re.compile(r"\s*\{[a-z]+\}\s*")


def _text(row: Row, column: str) -> str:
    return squeeze(str(row[column] or ""))


def _items(row: Row, column: str) -> list[str]:
    value = row[column]
    return [squeeze(str(item)) for item in value] if isinstance(value, list) else []


def _acl_abstracts(rows: list[Row]) -> SourceData:
    kept = [
        row
        for row in rows
        if int(str(row["year"])) >= 2016 and row["split"] == "train" and row["language"] == "eng"
    ]
    data = SourceData()
    titles = [_text(row, "title") for row in kept]
    abstracts = [_text(row, "abstract") for row in kept]
    data.texts["title"] = titles
    data.texts["sentence"] = [s for abstract in abstracts for s in sentences(abstract)]
    data.texts["passage"] = [p for abstract in abstracts for p in passages(abstract)[:1]]
    data.pairs["title_abstract"] = list(zip(titles, abstracts))
    halves: list[Pair] = []
    for abstract in abstracts:
        parts = sentences(abstract)
        if len(parts) >= 4:
            halves.append((parts[-1], " ".join(parts[:-1])))
    data.pairs["last_sentence_rest"] = halves
    return data


def _acl_titles(rows: list[Row]) -> SourceData:
    titles = [
        _text(row, "title")
        for row in rows
        if int(str(row["year"])) >= 2016 and row["language"] == "eng"
    ]
    return SourceData(texts={"title": titles})


def _wordnet(rows: list[Row]) -> SourceData:
    data = SourceData(
        texts={"definition": [], "example": [], "lemma": [], "entry": []},
        pairs={"lemma_definition": [], "synonyms": [], "lemma_hypernym": [], "example_entry": []},
    )
    first_lemma = {
        str(row["synset_id"]): _items(row, "lemmas")[0] for row in rows if _items(row, "lemmas")
    }
    for row in rows:
        definition, lemmas = _text(row, "definition"), _items(row, "lemmas")
        examples = [e for e in _items(row, "examples") if len(e.split()) >= 4]
        if not lemmas or not definition:
            continue
        data.texts["definition"].append(definition)
        data.texts["lemma"].extend(lemmas)
        data.texts["example"].extend(examples)
        data.texts["entry"].append(f"{lemmas[0]}: {definition}")
        data.pairs["lemma_definition"].extend((lemma, definition) for lemma in lemmas[:3])
        if len(lemmas) > 1:
            data.pairs["synonyms"].append((lemmas[0], lemmas[1]))
        data.pairs["lemma_hypernym"].extend(
            (lemmas[0], first_lemma[parent])
            for parent in _items(row, "hypernyms")[:1]
            if parent in first_lemma
        )
        data.pairs["example_entry"].extend((e, f"{lemmas[0]}: {definition}") for e in examples[:1])
    return data


def _xquad(rows: list[Row]) -> SourceData:
    english = [row for row in rows if row["lang"] == "en"]
    contexts = list(dict.fromkeys(_text(row, "context") for row in english))
    return SourceData(
        texts={
            "question": [_text(row, "question") for row in english],
            "passage": contexts,
            "sentence": [s for context in contexts for s in sentences(context)],
        },
        pairs={
            "question_context": [(_text(row, "question"), _text(row, "context")) for row in english]
        },
    )


def _classification(rows: list[Row]) -> SourceData:
    data = SourceData()
    for name in ("clinc150", "banking77", "subjectivity", "sentence_polarity", "pros_cons"):
        data.texts[name] = [
            _text(row, "text")
            for row in rows
            if row["dataset"] == name and row["split"] == "train" and row["label"] != "oos"
        ]
    data.pairs["label_intent"] = [
        (_text(row, "text"), str(row["label"]).replace("_", " "))
        for row in rows
        if row["dataset"] in ("clinc150", "banking77")
        and row["split"] == "train"
        and row["label"] != "oos"
    ]
    return data


def _gsm8k(rows: list[Row]) -> SourceData:
    kept = [row for row in rows if row["split"] == "train"]
    answers = [squeeze(re.sub(r"<<[^>]*>>", "", str(row["answer"]))) for row in kept]
    answers = [answer.split("####")[0].strip() for answer in answers]
    questions = [_text(row, "question") for row in kept]
    return SourceData(
        texts={"question": questions, "answer": answers},
        pairs={"question_answer": list(zip(questions, answers))},
    )


def _code_text(rows: list[Row]) -> SourceData:
    data = SourceData()
    for name in ("nl2bash", "conala"):
        kept = [row for row in rows if row["dataset"] == name and row["split"] == "train"]
        data.texts[f"{name}_text"] = [_text(row, "text") for row in kept]
        data.texts[f"{name}_code"] = [_text(row, "code") for row in kept]
        data.pairs[f"{name}_text_code"] = [(_text(r, "text"), _text(r, "code")) for r in kept]
    return data


def _tatoeba(rows: list[Row]) -> SourceData:
    return SourceData(texts={"sentence": [_text(row, "eng") for row in rows]})


def _long_docs(rows: list[Row]) -> SourceData:
    english = [str(row["text"]) for row in rows if row["lang"] == "en"]
    chunks = [p for text in english for p in passages(text)]
    neighbours: list[Pair] = []
    for text in english:
        parts = passages(text)
        neighbours.extend(pairwise(parts))
    return SourceData(
        texts={"sentence": [s for text in english for s in sentences(text)], "passage": chunks},
        pairs={"neighbours": neighbours},
    )


def _qmsum(rows: list[Row]) -> SourceData:
    data = SourceData(texts={"turn": [], "query": [], "answer": []}, pairs={"query_answer": []})
    for row in rows:
        if row["split"] != "train":
            continue
        turns = (_MARKUP.sub(" ", turn) for turn in _items(row, "turns"))
        spoken = [squeeze(turn.split(":", 1)[-1]) for turn in turns]
        data.texts["turn"].extend(turn for turn in spoken if len(turn.split()) >= 8)
        queries = row["queries"]
        for query in queries if isinstance(queries, list) else []:
            if query["kind"] == "specific":
                question, answer = squeeze(query["query"]), squeeze(query["answer"])
                data.texts["query"].append(question)
                data.texts["answer"].append(answer)
                data.pairs["query_answer"].append((question, answer))
    return data


def _emoji(rows: list[Row]) -> SourceData:
    names = {_text(row, "name_en"): row for row in rows if not row["has_skin_tone"]}
    keywords = {name: ", ".join(_items(row, "keywords_en")) for name, row in names.items()}
    return SourceData(
        texts={"name": list(names), "keywords": list(keywords.values())},
        pairs={"name_keywords": [(name, words) for name, words in keywords.items() if words]},
    )


def _icons(rows: list[Row]) -> SourceData:
    pairs = [(_text(row, "label"), ", ".join(_items(row, "terms"))) for row in rows]
    pairs = list(dict.fromkeys(pair for pair in pairs if pair[0] and pair[1]))
    return SourceData(
        texts={"name": [name for name, _ in pairs], "keywords": [words for _, words in pairs]},
        pairs={"name_keywords": pairs},
    )


def _books(rows: list[Row]) -> SourceData:
    return SourceData(texts={"title": [_text(row, "title") for row in rows]})


def _stsb(rows: list[Row]) -> SourceData:
    kept = [
        row
        for row in rows
        if row["lang"] == "en" and row["split"] == "train" and row["origin"] == "other"
    ]
    return SourceData(
        texts={
            "sentence": [_text(row, side) for row in kept for side in ("sentence1", "sentence2")]
        }
    )


def _udhr(rows: list[Row]) -> SourceData:
    return SourceData(texts={"paragraph": [_text(r, "text") for r in rows if r["lang"] == "eng"]})


def _python_files(root: Path) -> Iterator[Path]:
    skipped = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
    for path in sorted(root.rglob("*.py")):
        if not skipped.intersection(path.relative_to(root).parts):
            yield path


def _stdlib(_: list[Row]) -> SourceData:
    return python_code(Path(sysconfig.get_path("stdlib")))


def python_code(root: Path) -> SourceData:
    """Read the documented functions and classes under a folder of Python files.

    Code is given without its docstring, and names without underscores. Folders of tests and of
    installed packages are left out, and so are files that do not parse.
    """
    data = SourceData(
        texts={"summary": [], "docstring": [], "code": []},
        pairs={"summary_code": [], "docstring_code": [], "name_summary": []},
    )
    definition = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    for path in _python_files(root):
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue  # a few files are bad on purpose: they test the parser
        for node in ast.walk(tree):
            if not isinstance(node, definition):
                continue
            docstring = ast.get_docstring(node)
            if not docstring or len(docstring) < 20:
                continue
            summary = squeeze(docstring.split("\n\n")[0])
            body = _without_docstring(node)
            code = squeeze(ast.unparse(body))
            name = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", node.name.strip("_")).replace("_", " ")
            data.texts["summary"].append(summary)
            data.texts["docstring"].append(squeeze(docstring))
            data.texts["code"].append(code)
            data.pairs["summary_code"].append((summary, code))
            data.pairs["docstring_code"].append((squeeze(docstring), code))
            if len(name) >= 4:
                data.pairs["name_summary"].append((name, summary))
    return data


def _without_docstring(node: ast.AST) -> ast.AST:
    """Return a definition without its docstring (``pass`` where nothing else was there)."""
    body = list(getattr(node, "body", []))[1:] or [ast.Pass()]
    fields = {name: getattr(node, name) for name in node._fields if hasattr(node, name)}
    fields["body"] = body
    return ast.copy_location(type(node)(**fields), node)


SOURCES: dict[str, Source] = {
    "acl": Source(
        _acl_abstracts,
        "acl_abstracts.parquet",
        ("title", "abstract", "year", "split", "language"),
        "CC BY 4.0 (material of 2016 and later only)",
        "ACL Anthology abstracts",
    ),
    "acl_titles": Source(
        _acl_titles,
        "acl_titles_only.parquet",
        ("title", "year", "language"),
        "CC BY 4.0 (material of 2016 and later only)",
        "ACL Anthology titles",
    ),
    "wordnet": Source(
        _wordnet,
        "wordnet_synsets.parquet",
        ("synset_id", "lemmas", "definition", "examples", "hypernyms"),
        "CC BY 4.0 (Princeton WordNet licence for the base)",
        "Open English WordNet",
    ),
    "xquad": Source(
        _xquad,
        "xquad.parquet",
        ("lang", "context", "question"),
        "CC BY-SA 4.0",
        "XQuAD, English part",
    ),
    "classification": Source(
        _classification,
        "text_classification.parquet",
        ("dataset", "split", "text", "label"),
        "CC BY 3.0 (clinc150), CC BY 4.0 (banking77, subjectivity, sentence_polarity, pros_cons)",
        "CLINC150, Banking77, subjectivity, sentence polarity, pros and cons; training rows",
    ),
    "gsm8k": Source(
        _gsm8k, "gsm8k.parquet", ("split", "question", "answer"), "MIT", "GSM8K training part"
    ),
    "code_text": Source(
        _code_text,
        "code_text_pairs.parquet",
        ("dataset", "split", "text", "code"),
        "MIT",
        "NL2Bash and CoNaLa training parts",
    ),
    "tatoeba": Source(
        _tatoeba, "tatoeba_bitext.parquet", ("eng",), "CC BY 2.0 FR", "Tatoeba, English sentences"
    ),
    "long_docs": Source(
        _long_docs,
        "long_docs_public_domain.parquet",
        ("lang", "text"),
        "public domain",
        "Inaugural and State of the Union addresses, Shakespeare, Genesis",
    ),
    "qmsum": Source(
        _qmsum, "qmsum_long.parquet", ("split", "turns", "queries"), "MIT", "QMSum training part"
    ),
    "emoji": Source(
        _emoji,
        "emoji_images.parquet",
        ("name_en", "keywords_en", "has_skin_tone"),
        "Unicode License v3",
        "CLDR emoji names and keywords",
    ),
    "icons": Source(
        _icons, "icon_images.parquet", ("label", "terms"), "CC BY 4.0", "Font Awesome Free names"
    ),
    "books": Source(_books, "goodbooks_items.parquet", ("title",), "CC BY-SA 4.0", "goodbooks-10k"),
    "stsb": Source(
        _stsb,
        "stsb_multi.parquet",
        ("lang", "split", "origin", "sentence1", "sentence2"),
        "CC BY-SA 4.0 (training rows, without the Microsoft corpora; scores not used)",
        "STS benchmark training sentences",
    ),
    "udhr": Source(
        _udhr,
        "udhr_paragraphs.parquet",
        ("lang", "text"),
        "public domain",
        "Universal Declaration of Human Rights, English",
    ),
    "stdlib": Source(
        _stdlib,
        None,
        (),
        "Python Software Foundation License",
        "docstrings and functions of the running Python's standard library",
    ),
}


def load_sources(names: Iterable[str], data_root: Path) -> dict[str, SourceData]:
    """Read the named sources.

    Raises:
        SettingsError: For a name that is not a source.
        NotFoundError: Listing every file that is missing, not only the first.
    """
    import pyarrow.parquet as pq

    wanted = list(names)
    for name in wanted:
        if name not in SOURCES:
            raise SettingsError(f"no training source {name!r}. {did_you_mean(name, list(SOURCES))}")
    files = {name: SOURCES[name].file for name in wanted}
    missing = [f for f in files.values() if f is not None and not (data_root / f).is_file()]
    if missing:
        raise NotFoundError(
            f"{len(missing)} of the recipe's data files are not in {data_root}: "
            f"{', '.join(missing)}. Put them there, or remove their sources from the recipe."
        )
    loaded: dict[str, SourceData] = {}
    for name, file in files.items():
        source = SOURCES[name]
        rows: list[Row] = []
        if file is not None:
            rows = pq.read_table(data_root / file, columns=list(source.columns)).to_pylist()
        loaded[name] = source.load(rows)
    return loaded


class Decontaminator:
    """Recognises texts that equal an evaluation text after case and punctuation are removed.

    Args:
        texts: Evaluation texts.

    Example:
        >>> known = Decontaminator(["A man is playing a guitar."])
        >>> known.has("a man is playing a guitar")
        True
        >>> known.has("a guitar")
        False
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._keys = {self._key(text) for text in texts}
        self._keys.discard("")

    @staticmethod
    def _key(text: str) -> str:
        return "".join(re.findall(r"[a-z0-9]+", text.lower()))

    def has(self, text: str) -> bool:
        """Return whether ``text`` is one of the evaluation texts."""
        return self._key(text) in self._keys

    @classmethod
    def from_files(cls, files: Mapping[str, Sequence[str]], data_root: Path) -> Decontaminator:
        """Read evaluation texts from Parquet files.

        Args:
            files: File name -> text columns. Rows with a ``split`` of ``train`` in a file that is
                also a training source are not evaluation rows and are skipped.
            data_root: Folder of the files.

        Raises:
            NotFoundError: Listing the files that are missing.
        """
        import pyarrow.parquet as pq

        missing = [name for name in files if not (data_root / name).is_file()]
        if missing:
            raise NotFoundError(
                f"evaluation files to keep out of training are not in {data_root}: "
                f"{', '.join(missing)}. Put them there, or remove them from `decontaminate`."
            )
        trained_on = {source.file for source in SOURCES.values()}
        texts: list[str] = []
        for name, columns in files.items():
            for row in pq.read_table(data_root / name).to_pylist():
                if name in trained_on and row.get("split") == "train":
                    continue
                texts.extend(str(row[column] or "") for column in columns)
        return cls(texts)
