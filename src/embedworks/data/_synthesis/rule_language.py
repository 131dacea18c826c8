"""English by rules: rewriting, questioning and falsifying a text without a model.

Knows word tables and sentence patterns; nothing of requests or answers. Every function draws
from a given random stream only.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from embedworks.data._sentences import sentences
from embedworks.data._synthesis.text_checks import main_script
from embedworks.data._terms import STOP_WORDS
from embedworks.data._words import word_list, words_of

__all__ = [
    "contradicts",
    "falsified",
    "headline",
    "is_english",
    "is_keywords",
    "key_terms",
    "mid_sentence_names",
    "opening_of",
    "paraphrased",
    "question_about",
    "sentence_list",
    "split_title",
]

_MAX_TITLE_CHARS = 120
_STOPS = (".", "!", "?", ":", ";", ",", "。")
_FUNCTION_WORDS = word_list(
    "the of and to in is a for that with on as it by are be this from or an at not you can if how "
    "what why when where which who do does i my we will should"
)

#: Groups of words that may stand for each other; each keeps its grammatical form.
_SYNONYMS = (
    "begin start", "begins starts", "big large", "build construct", "builds constructs",
    "buy purchase", "change alter modify", "changes alters modifies", "check verify",
    "checks verifies", "choose select pick", "chooses selects picks", "common frequent",
    "complete finish", "contain hold", "contains holds", "create make produce",
    "creates makes produces", "delete remove", "deletes removes", "describe explain",
    "describes explains", "different distinct", "difficult hard", "easy simple", "end finish",
    "ensure guarantee", "ensures guarantees", "error mistake", "errors mistakes", "fast quick",
    "fix repair", "fixes repairs", "get obtain", "gets obtains", "give provide",
    "gives provides", "happen occur", "happens occurs", "help assist", "helps assists",
    "important essential", "increase raise", "increases raises", "keep retain", "keeps retains",
    "large big", "later afterwards", "let allow", "maybe perhaps",
    "need require", "needs requires", "often frequently", "only just",
    "part piece", "parts pieces", "problem issue", "problems issues", "quickly rapidly",
    "reduce lower", "reduces lowers", "request ask", "result outcome", "results outcomes",
    "send transmit", "sends transmits", "show display", "shows displays", "slow sluggish",
    "small little", "small tiny", "sometimes occasionally", "stop halt", "stops halts",
    "store save keep", "stores saves keeps", "sufficient enough", "try attempt",
    "tries attempts", "typical usual", "use employ", "uses employs", "used employed",
    "usually normally generally", "whole entire", "wrong incorrect", "also too",
    "therefore hence thus", "nearly almost", "about roughly", "must has-to", "should ought-to",
)  # fmt: skip

#: Fixed phrases and what may replace them.
_PHRASES = (
    ("in order to", "to"),
    ("such as", "like"),
    ("because of", "owing to"),
    ("as well as", "and also"),
    ("a number of", "several"),
    ("it is possible to", "you can"),
    ("you can", "it is possible to"),
    ("make sure that", "see to it that"),
    ("make sure", "see to it"),
    ("for example", "for instance"),
    ("at the same time", "simultaneously"),
    ("in addition", "moreover"),
    ("is able to", "can"),
    ("are able to", "can"),
    ("has to", "must"),
    ("have to", "must"),
    ("instead of", "in place of"),
    ("at least", "no fewer than"),
    ("each of the", "every one of the"),
    ("as soon as", "the moment"),
)

#: Pairs that turn a statement into its opposite.
_OPPOSITES = (
    ("increase", "decrease"), ("increases", "decreases"), ("before", "after"),
    ("first", "last"), ("always", "never"), ("enable", "disable"), ("enables", "disables"),
    ("enabled", "disabled"), ("more", "less"), ("above", "below"), ("open", "close"),
    ("opens", "closes"), ("true", "false"), ("minimum", "maximum"), ("start", "end"),
    ("allow", "forbid"), ("allows", "forbids"), ("required", "optional"), ("hot", "cold"),
    ("early", "late"), ("add", "remove"), ("adds", "removes"), ("fast", "slow"),
    ("cheap", "expensive"), ("left", "right"), ("north", "south"), ("east", "west"),
    ("read", "write"), ("reads", "writes"), ("local", "remote"), ("old", "new"),
    ("summer", "winter"), ("morning", "evening"), ("raise", "lower"), ("raises", "lowers"),
    ("best", "worst"), ("high", "low"), ("shorter", "longer"),
    ("public", "private"), ("inside", "outside"), ("upper", "lower"), ("push", "pull"),
)  # fmt: skip

_NAMES = (
    "Ardenne", "Belmora", "Castrel", "Dunwick", "Elsbach", "Fenmoor", "Galvan", "Harrowby",
    "Istrell", "Jorvale", "Kestrin", "Lomarra", "Merrin", "Nordahl", "Ostrava", "Pellham",
)  # fmt: skip

_CONJUNCTIONS = "if when because although while after before once unless since until whenever"
_LEADING = re.compile(
    rf"(?P<word>{'|'.join(c.capitalize() for c in _CONJUNCTIONS.split())}) "
    r"(?P<first>[^,;:()|]{8,}), (?P<rest>[^;:()]{8,}?)(?P<end>[.!])\Z"
)
_TRAILING = re.compile(
    rf"(?P<rest>[A-Z][^,;:()]{{8,}}?),? (?P<word>{'|'.join(_CONJUNCTIONS.split())}) "
    r"(?P<first>[^,;:()|]{8,}?)(?P<end>[.!])\Z"
)
_TWO_PARTS = re.compile(r"(?P<a>[A-Z][^;]{12,}?)(?:; |, and )(?P<b>[^;]{12,}?)(?P<end>[.!])\Z")
_PURPOSE = re.compile(r"To (?P<first>[a-z][^,;:()]{6,}), (?P<rest>[^;:()]{6,}?)(?P<end>[.!])\Z")
_QUERY_REWRITES = (
    (r"how (?:do|can) (?:i|you|we) (.+?)\??", "what is the way to {}?"),
    (r"how to (.+?)\??", "what is the way to {}?"),
    (r"what is the way to (.+?)\??", "how can I {}?"),
    (r"what (?:is|are) (.+?) (?:used )?for\??", "what purpose does {} have?"),
    (r"what (?:is|are) (.+?)\??", "what is meant by {}?"),
    (r"what is meant by (.+?)\??", "what is {}?"),
    (r"why (?:is|are|does|do) (.+?)\??", "for what reason {verb} {}?"),
    (r"where can (?:i|you|we) (.+?)\??", "in which place is it possible to {}?"),
    (r"when should (?:i|you|we) (.+?)\??", "what is the right time to {}?"),
    (r"what happens (if|when) (.+?)\??", "what follows {word} {}?"),
    (r"what is said about (.+?)\??", "what should I know about {}?"),
    (r"what should i know about (.+?)\??", "what is said about {}?"),
    (r"look for a text on (.+?)\.?", "find something written about {}."),
    (r"show me what is written about (.+?)\.?", "look for a text on {}."),
    (r"find (.+?)\.?", "search for {}."),
    (r"search for (.+?)\.?", "find {}."),
)
_DEFINITION = re.compile(
    r"(?P<subject>(?:(?:An?|The) )?[A-Z]?[\w'-]+(?: [\w'-]+){0,4}?) (?P<verb>is|are|was|were) "
    r"(?:an?|the|any|one|used|how|what)\b"
)
_MODAL = re.compile(
    r"\b(?:[Yy]ou|[Ww]e|[Oo]ne|[Uu]sers?) (?:can|may|must|should) (?P<act>[a-z][^,;:.()|]{4,70})"
)
_CONDITION = re.compile(r"\b(?P<word>[Ii]f|[Ww]hen) (?P<what>[^,;:.()|]{8,80}),")
_REASON = re.compile(r"(?P<what>[A-Z][^,;:.()|]{8,80}?),? because\b")
_PURPOSE_START = re.compile(r"To (?P<act>[a-z][^,;:.()|]{4,70}),")
_IMPERATIVES = word_list(
    """
    add apply ask bake boil build call check choose clean click close combine compare copy
    create cut define delete download enter export fill find follow format grind heat import
    insert install join keep load make measure merge mix move open paste place plant pour
    press print put read remove rename repeat replace restart rinse run save select send set
    show sort split start stir stop store test turn type unpack update use wait wash water
    wipe write
    """
)
_PRONOUNS = word_list(
    "it this that these those they he she there here we you i which what each every some all"
)
_WORD = re.compile(r"[A-Za-z]+(?:'[a-z]+)?")
_NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?![\w])")
_NAME = re.compile(r"(?<=[a-z,] )[A-Z][a-z]{2,}(?: [A-Z][a-z]{2,})*")


def _table() -> dict[str, list[str]]:
    table: dict[str, list[str]] = {}
    for group in _SYNONYMS:
        words = [word.replace("-", " ") for word in group.split()]
        for word in words:
            known = table.setdefault(word, [])
            known += [other for other in words if other != word and other not in known]
    return table


_SYNONYM_TABLE = _table()
_OPPOSITE_TABLE = {a: b for pair in _OPPOSITES for a, b in (pair, pair[::-1])}


def is_english(text: str) -> bool:
    """Whether English sentence patterns may fit: Latin letters and common English words."""
    words = words_of(text)
    known = sum(word in _FUNCTION_WORDS for word in words)
    return main_script(text) == "LATIN" and known * 12 >= len(words)


def is_keywords(text: str) -> bool:
    """Whether a text is a list of search words: no function words, marks or capitals."""
    words = text.split()
    return text == text.lower() and all(w.isalnum() and w not in STOP_WORDS for w in words)


def split_title(text: str) -> tuple[str, str]:
    r"""Split a heading, a short first line without a full stop, from the text below it.

    Example:
        >>> split_title("Kettles > Care\nBoil vinegar.")
        ('Kettles > Care\n', 'Boil vinegar.')
    """
    first, _, rest = text.partition("\n")
    if rest.strip() and len(first) <= _MAX_TITLE_CHARS and not first.rstrip().endswith(_STOPS):
        return f"{first}\n", rest
    return "", text


def sentence_list(text: str) -> list[str]:
    """Return the sentences of a text, white space joined."""
    return [" ".join(text[a:b].split()) for a, b in sentences(text)]


def key_terms(text: str, count: int) -> list[str]:
    """Return the words that a text is about: frequent, long, early; in order of appearance."""
    words = [w for w in words_of(text) if len(w) > 2 and w not in STOP_WORDS and not w.isdigit()]
    counts = Counter(words)
    first = {word: place for place, word in reversed(list(enumerate(words)))}
    weight = {
        w: (1 + np.log(n)) * min(len(w), 9) / (1 + first[w]) ** 0.2 for w, n in counts.items()
    }
    best = sorted(counts, key=lambda w: (-weight[w], first[w]))[:count]
    return sorted(best, key=first.__getitem__)


def paraphrased(text: str, rng: np.random.Generator, *, strength: float = 0.8) -> str:
    """Return a text with clauses moved and words replaced, sentence by sentence.

    Layout between sentences is kept; the result may equal the text when no rule fits.
    """
    title, text = split_title(text)
    parts, end = [title], 0
    for start, stop in sentences(text):
        parts.append(text[end:start])
        parts.append(_reworded(_moved(text[start:stop], rng), rng, strength))
        end = stop
    return "".join([*parts, text[end:]])


def _moved(sentence: str, rng: np.random.Generator) -> str:
    """Move a clause of a sentence, or turn a question."""
    for pattern, form in _QUERY_REWRITES:
        if found := re.fullmatch(pattern, sentence, re.IGNORECASE):
            turned = form.format(
                found[found.lastindex or 0],
                verb=sentence.split()[1].lower() if "{verb}" in form else "",
                word=found[1].lower() if "{word}" in form else "",
            )
            return turned[0].upper() + turned[1:] if sentence[0].isupper() else turned
    if found := _LEADING.match(sentence):
        main, clause = _upper(found["rest"]), _lower(found["first"])
        return f"{main} {found['word'].lower()} {clause}{found['end']}"
    if found := _PURPOSE.match(sentence):
        return f"{_upper(found['rest'])} to {found['first']}{found['end']}"
    if found := _TRAILING.match(sentence):
        return (
            f"{found['word'].capitalize()} {found['first']}, {_lower(found['rest'])}{found['end']}"
        )
    if (found := _TWO_PARTS.match(sentence)) and rng.random() < 0.3:
        return f"{_upper(found['b'])}; {_lower(found['a'])}{found['end']}"
    return sentence


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def _lower(text: str) -> str:
    """Make the first letter small, unless the first word is a name or an abbreviation."""
    first = text.split(" ", 1)[0]
    known = first.lower() in STOP_WORDS or first.lower() in _IMPERATIVES
    return text[:1].lower() + text[1:] if known and first != "I" else text


def _reworded(sentence: str, rng: np.random.Generator, strength: float) -> str:
    for phrase, other in _PHRASES:
        found = re.search(rf"\b{phrase}\b", sentence, re.IGNORECASE)
        if found and rng.random() < strength:
            new = _upper(other) if found[0][0].isupper() else other
            sentence = sentence[: found.start()] + new + sentence[found.end() :]
            break  # one phrase a sentence: two could undo each other

    def swap(found: re.Match[str]) -> str:
        choices = _SYNONYM_TABLE.get(found[0].lower())
        if not choices or (found[0][0].isupper() and found.start() > 0) or found[0].isupper():
            return found[0]
        if rng.random() > strength:
            return found[0]
        chosen = choices[int(rng.integers(len(choices)))]
        return _upper(chosen) if found[0][0].isupper() else chosen

    return _WORD.sub(swap, sentence)


def question_about(text: str, rng: np.random.Generator) -> str | None:
    """Return a question that some sentence of a text answers, or None when no pattern fits."""
    found = []
    for sentence in sentence_list(text):
        found += _questions(sentence)
    if not found:
        return None
    # Earlier sentences say more about what a text is about.
    place = int(len(found) * rng.random() ** 2)
    return found[place]


def _questions(sentence: str) -> list[str]:
    made = []
    definition = _DEFINITION.match(sentence)
    if definition and definition["subject"].split()[0].lower() not in _PRONOUNS:
        subject = _lower(definition["subject"])
        made.append(f"What {definition['verb']} {subject}?")
    if found := _PURPOSE_START.match(sentence):
        made.append(f"How do I {found['act']}?")
    if found := _MODAL.search(sentence):
        made.append(f"How can I {_mine(found['act'])}?")
    if found := _REASON.match(sentence):
        made.append(f"What is the reason that {_lower(found['what'])}?")
    if found := _CONDITION.search(sentence):
        made.append(f"What happens {found['word'].lower()} {found['what']}?")
    first, _, rest = sentence.partition(" ")
    if first.lower() in _IMPERATIVES and first[0].isupper() and rest:
        act = re.split(r"[,;:.()]| until | because | so that ", rest, maxsplit=1)[0]
        if 1 <= act.count(" ") <= 12:
            made.append(f"How do I {first.lower()} {_mine(act)}?")
    return made


def _mine(text: str) -> str:
    return re.sub(r"\byour\b", "my", text.strip())


def headline(text: str, title: str = "") -> str | None:
    """Return a title for a text: its own, or the subject of its first sentence."""
    leaf = title.rsplit(" > ", 1)[-1].strip()
    if leaf.count(" ") >= 1:
        return leaf
    opening = sentence_list(text)[:1]
    if not opening:
        return None
    words = opening[0].rstrip(".!?").split()
    words = re.split(r"[,;:(]", " ".join(words), maxsplit=1)[0].split()[:9]
    while words and words[-1].lower() in STOP_WORDS:
        words.pop()
    while len(words) > 3 and words[0].lower() in STOP_WORDS:
        words.pop(0)
    return _upper(" ".join(words)) if len(words) >= 2 else None


def falsified(text: str, rng: np.random.Generator, *, names: Sequence[str] = ()) -> str | None:
    """Return a text with numbers, names and directions changed, or None when it has none.

    A heading stays as it is. ``names`` take the place of the text's own.
    """
    title, text = split_title(text)
    changes = 0
    known = [name for name in names if name not in text] or list(_NAMES)
    renamed: dict[str, str] = {}

    def number(found: re.Match[str]) -> str:
        nonlocal changes
        changes += 1
        whole, dot, part = found[0].partition(".")
        value = int(whole)
        shift = int(rng.integers(1, max(3, value // 2 + 2)))
        other = value - shift if value > shift and rng.random() < 0.5 else value + shift
        return f"{other}{dot}{part}"

    def name(found: re.Match[str]) -> str:
        nonlocal changes
        if found[0].split()[0].lower() in _IMPERATIVES | STOP_WORDS:
            return found[0]
        changes += 1
        if found[0] not in renamed:
            renamed[found[0]] = known[int(rng.integers(len(known)))]
        return renamed[found[0]]

    def opposite(found: re.Match[str]) -> str:
        nonlocal changes
        other = _OPPOSITE_TABLE.get(found[0].lower())
        if other is None or found[0].isupper():
            return found[0]
        changes += 1
        return _upper(other) if found[0][0].isupper() else other

    new = _WORD.sub(opposite, _NAME.sub(name, _NUMBER.sub(number, text)))
    # Swapping "first" and "last" where both occur changes too little to be sure of.
    return title + new if changes and set(words_of(new)) != set(words_of(text)) else None


def mid_sentence_names(text: str) -> set[str]:
    """Return the words of names that stand inside sentences, in lower case."""
    return {word.lower() for name in _NAME.findall(split_title(text)[1]) for word in name.split()}


def opening_of(text: str, size: int) -> str:
    """Return the beginning of a text, whole sentences of about ``size`` characters at most."""
    end = 0
    for _, stop in sentences(text):
        if end and stop > size:
            break
        end = stop
    return text[:end]


def contradicts(text: str, other: str) -> bool:
    """Whether one of two texts has a word in whose place the other has its opposite."""
    own, its = Counter(words_of(text)), Counter(words_of(other))
    return any(
        own[word] > its[word] and own[against] < its[against]
        for word in own
        if (against := _OPPOSITE_TABLE.get(word)) is not None
    )
