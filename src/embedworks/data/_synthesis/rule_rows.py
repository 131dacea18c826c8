"""Tasks and rows from tables: small worlds of things, facts, classes and phrases.

Every text is put together from templates written for this purpose. Knows nothing of requests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

__all__ = ["PHRASE_LANGUAGES", "make_row", "make_tasks"]

#: Domain -> things in it.
_DOMAINS: dict[str, tuple[str, ...]] = {
    "cooking": ("sourdough bread", "lentil soup", "apple cake", "fried rice", "tomato sauce"),
    "gardening": ("roses", "tomatoes", "a hedge", "an apple tree", "a lawn"),
    "travel": ("a night train", "a city pass", "a mountain hut", "a ferry", "a rental car"),
    "personal finance": ("a savings plan", "a car loan", "a tax return", "a pension", "a budget"),
    "health": ("a sprained ankle", "a blood test", "a flu shot", "sleep problems", "back pain"),
    "software": ("a database backup", "a web server", "a unit test", "a log file", "a release"),
    "home repair": ("a dripping tap", "a wooden floor", "a door lock", "a radiator", "a window"),
    "education": ("a term paper", "an entrance exam", "a language course", "a thesis"),
    "law": ("a rental contract", "a will", "a trademark", "a fine", "a notice of termination"),
    "science": ("a telescope", "a soil sample", "a weather balloon", "a microscope"),
    "sports": ("a marathon", "a rowing boat", "a climbing rope", "a swimming lesson"),
    "music": ("a violin", "a choir rehearsal", "a home studio", "a concert ticket"),
    "work": ("a job interview", "a business trip", "a team meeting", "a sick note"),
    "energy": ("a heat pump", "a solar roof", "a wood stove", "an electric car"),
}

#: Facet -> short query, long passage, opening of another facet; {thing}, {n}, {m}, {place}.
_FACETS: dict[str, tuple[str, str]] = {
    "duration": (
        "how long does {thing} take",
        "Plan about {n} days for {thing}. The first {m} are needed to get everything ready, and "
        "the rest goes by almost without work. People who hurry usually have to begin again.",
    ),
    "cost": (
        "what does {thing} cost",
        "Expect to pay around {n} dollars for {thing}. Prices in {place} are some {m} dollars "
        "above the average, and offers differ more in service than in quality.",
    ),
    "risks": (
        "what can go wrong with {thing}",
        "The usual trouble with {thing} comes from haste: {n} of {m} complaints in {place} name "
        "a step that was left out. Damage shows late, so look closely in the first weeks.",
    ),
    "upkeep": (
        "how to take care of {thing}",
        "Look after {thing} every {n} weeks. Begin with the parts that wear out first, note what "
        "you find, and ask an expert in {place} once in {m} months.",
    ),
    "origin": (
        "where does {thing} come from",
        "The way we know {thing} today goes back {n} years to workshops in {place}. It spread "
        "within {m} years, mostly by word of mouth, and has changed little since.",
    ),
    "choice": (
        "how to choose {thing}",
        "When you choose {thing}, compare at least {n} offers and put your needs in order first. "
        "Buyers in {place} who tested for {m} days were the most content.",
    ),
}
_PLACES = ("Lisbon", "Oslo", "Kyoto", "Quito", "Nairobi", "Perth", "Riga", "Halifax", "Graz")

_TASKS: dict[str, tuple[str, ...]] = {
    "short-long": (
        "Given a question about {domain}, find the passage that answers it.",
        "Given search words on {domain}, find an article that covers them.",
        "Given a beginner's question on {domain}, find an expert's explanation.",
        "Given a short problem from {domain}, find instructions that solve it.",
    ),
    "long-short": (
        "Given an article on {domain}, find the question it answers.",
        "Given a customer's letter about {domain}, find its subject line.",
        "Given a passage about {domain}, find the title that fits it.",
        "Given a report from the field of {domain}, find its summary in one sentence.",
    ),
    "short-short": (
        "Given a question about {domain}, find one that asks the same.",
        "Given a headline on {domain}, find another about the same matter.",
        "Given search words on {domain}, find the matching entry of a list.",
        "Given a term from {domain}, find the sentence that uses it in the same sense.",
    ),
    "classification": (
        "Sort a remark about {domain} by mood.",
        "Sort a message about {domain} by what its writer wants.",
        "Sort a note about {domain} by how urgent it is.",
        "Sort a statement about {domain} by whether it is a fact or an opinion.",
    ),
    "sts": (
        "Judge how close two statements about {domain} are in meaning.",
        "Judge whether two tips about {domain} give the same advice.",
        "Judge whether two notes on {domain} report the same event.",
    ),
    "bitext": (
        "Find the {second} translation of a {first} sentence from everyday {domain}.",
        "Given a {first} sentence about {domain}, find the same in {second}.",
    ),
}

#: Criterion, told by a word of the task -> class -> sentences of that class.
_CLASSES: dict[str, dict[str, tuple[str, ...]]] = {
    "mood": {
        "content": (
            "I could not be happier with {thing}, it went well from the first of {n} days.",
            "After {n} tries {thing} finally works and I enjoy every minute.",
        ),
        "disappointed": (
            "I waited {n} weeks and {thing} was not worth it.",
            "We had hoped for more: {thing} let us down {n} times.",
        ),
        "neutral": (
            "There were {n} questions about {thing} this month, as in the month before.",
            "The meeting on {thing} lasted {n} minutes.",
        ),
    },
    "wants": {
        "asks for information": (
            "Could you tell me within {n} days what I must know about {thing}?",
            "I read {n} pages on {thing} and still wonder where to begin.",
        ),
        "wants to cancel": (
            "Please take me off the list for {thing}, my number is {n}.",
            "I no longer need {thing} and ask you to end the contract in {n} days.",
        ),
        "reports a fault": (
            "Since {n} o'clock {thing} makes a strange noise and nothing else.",
            "The {n} screws for {thing} do not fit, one is broken.",
        ),
    },
    "urgent": {
        "at once": (
            "Drop everything, {thing} cannot wait another {n} minutes!",
            "Someone will get hurt by {thing} unless we act within {n} minutes.",
        ),
        "this week": (
            "Please look at {thing} in the next {n} days.",
            "By Friday we need {n} pictures of {thing}.",
        ),
        "some day": (
            "When there is time, we could think about {thing} for {n} minutes.",
            "No hurry with {thing}, {n} months from now is fine.",
        ),
    },
    "opinion": {
        "fact": (
            "In our list {thing} is entry number {n}.",
            "The handbook gives {n} pages to {thing}.",
        ),
        "opinion": (
            "Nobody really needs {thing}, and {n} of them are a joke.",
            "To my mind {thing} is the best idea in {n} years.",
        ),
    },
}

#: Statement, the same in other words, something else with the same words.
_STATEMENTS = (
    (
        "{Thing} needs {n} hours of work each week.",
        "Every week you must spend {n} hours on {thing}.",
        "{Thing} needs {n} weeks of work each year.",
    ),
    (
        "Most people in {place} learn about {thing} from friends.",
        "Friends are how the majority in {place} hears of {thing}.",
        "Few people in {place} talk about {thing} with friends.",
    ),
    (
        "You should not start with {thing} before you have read {n} guides.",
        "Read {n} guides first and begin with {thing} afterwards.",
        "You should start with {thing} before you read the {n} guides.",
    ),
    (
        "{Thing} has become cheaper by {n} percent since spring.",
        "Since spring the price of {thing} has fallen by {n} percent.",
        "{Thing} has become dearer by {n} percent since spring.",
    ),
)

#: Everyday sentences in four languages, line by line the same.
_PHRASES: dict[str, tuple[str, ...]] = {
    "English": (
        "The train leaves at {n} o'clock.", "I need {n} stamps for these letters.",
        "The museum is closed on Monday.", "Room {n} is on the third floor.",
        "Please turn off the light in room {n}.", "We waited {n} minutes for the bus.",
        "The soup has been too salty for {n} days.", "My brother bought {n} books.",
        "Can you show me the way to house number {n}?", "The meeting was moved to {n} o'clock.",
    ),
    "German": (
        "Der Zug fährt um {n} Uhr ab.", "Ich brauche {n} Briefmarken für diese Briefe.",
        "Das Museum ist am Montag geschlossen.", "Zimmer {n} liegt im dritten Stock.",
        "Bitte machen Sie das Licht in Zimmer {n} aus.",
        "Wir haben {n} Minuten auf den Bus gewartet.",
        "Die Suppe ist seit {n} Tagen zu salzig.", "Mein Bruder hat {n} Bücher gekauft.",
        "Können Sie mir den Weg zu Hausnummer {n} zeigen?",
        "Die Besprechung wurde auf {n} Uhr verlegt.",
    ),
    "French": (
        "Le train part à {n} heures.", "J'ai besoin de {n} timbres pour ces lettres.",
        "Le musée est fermé le lundi.", "La chambre {n} est au troisième étage.",
        "Veuillez éteindre la lumière dans la chambre {n}.",
        "Nous avons attendu le bus pendant {n} minutes.",
        "La soupe est trop salée depuis {n} jours.", "Mon frère a acheté {n} livres.",
        "Pouvez-vous m'indiquer le chemin du numéro {n} ?",
        "La réunion a été déplacée à {n} heures.",
    ),
    "Spanish": (
        "El tren sale a las {n}.", "Necesito {n} sellos para estas cartas.",
        "El museo está cerrado los lunes.", "La habitación {n} está en el tercer piso.",
        "Por favor, apague la luz de la habitación {n}.", "Esperamos el autobús {n} minutos.",
        "La sopa lleva {n} días demasiado salada.", "Mi hermano compró {n} libros.",
        "¿Puede mostrarme el camino al número {n}?", "La reunión se trasladó a las {n}.",
    ),
}  # fmt: skip

#: Languages of the phrase book.
PHRASE_LANGUAGES = tuple(sorted(_PHRASES))


def make_tasks(
    task_type: str,
    count: int,
    batch: int,
    rng: np.random.Generator,
    *,
    topics: Sequence[str] = (),
    languages: Sequence[str] = ("", ""),
) -> list[str]:
    """Return up to ``count`` different tasks; fewer when the tables are used up."""
    domains = list(topics) or list(_DOMAINS)
    every = [
        form.format(domain=domain, first=languages[0], second=languages[1])
        for form in _TASKS[task_type]
        for domain in domains
    ]
    order = np.random.default_rng(len(every)).permutation(len(every))
    first = batch * count  # batches take different parts of one order
    chosen = [every[i] for i in order[first : first + count]]
    return [chosen[i] for i in rng.permutation(len(chosen))]


def make_row(
    task_type: str, task: str, rng: np.random.Generator, *, languages: Sequence[str] = ()
) -> dict[str, str] | str:
    """Return the fields of one row, or why there is none."""
    makers: dict[str, Callable[[dict[str, str], str, np.random.Generator], dict[str, str]]] = {
        "short-long": _short_long,
        "long-short": _long_short,
        "short-short": _short_short,
        "classification": _class,
        "sts": _statement,
    }
    if task_type == "bitext":
        return _bitext(languages, rng)
    domain = next((name for name in _DOMAINS if name in task), None)
    if domain is None:
        return f"the task names none of the domains {', '.join(_DOMAINS)}"
    return makers[task_type](_words(_DOMAINS[domain], rng), task, rng)


def _words(things: Sequence[str], rng: np.random.Generator) -> dict[str, str]:
    """Draw what fills the templates."""
    first, second = rng.permutation(len(things))[:2]
    here, there = rng.permutation(len(_PLACES))[:2]
    n, m, other = (int(x) for x in rng.permutation(np.arange(2, 60))[:3])
    return {
        "thing": things[first],
        "Thing": things[first].capitalize(),
        "other_thing": things[second],
        "place": _PLACES[here],
        "other_place": _PLACES[there],
        "n": str(n),
        "m": str(m),
        "k": str(other),
    }


def _facets(rng: np.random.Generator) -> tuple[str, str]:
    names = list(_FACETS)
    first, second = rng.permutation(len(names))[:2]
    return names[first], names[second]


def _other(words: dict[str, str]) -> dict[str, str]:
    return {**words, "thing": words["other_thing"], "place": words["other_place"], "n": words["k"]}


def _short_long(words: dict[str, str], _: str, rng: np.random.Generator) -> dict[str, str]:
    facet, another = _facets(rng)
    query, passage = _FACETS[facet]
    # The same side of another thing, or another side of the same thing.
    wrong = passage.format(**_other(words))
    if rng.random() < 0.5:
        wrong = _FACETS[another][1].format(**words)
    return {
        "query": query.format(**words),
        "positive": passage.format(**words),
        "hard_negative": wrong,
    }


def _long_short(words: dict[str, str], _: str, rng: np.random.Generator) -> dict[str, str]:
    facet, another = _facets(rng)
    query, passage = _FACETS[facet]
    wrong = query.format(**_other(words))
    if rng.random() < 0.5:
        wrong = _FACETS[another][0].format(**words)
    return {
        "query": passage.format(**words),
        "positive": query.format(**words),
        "hard_negative": wrong,
    }


def _short_short(words: dict[str, str], _: str, rng: np.random.Generator) -> dict[str, str]:
    facet, another = _facets(rng)
    sides = {
        "duration": "time needed for {thing}", "cost": "price of {thing}",
        "risks": "common trouble with {thing}", "upkeep": "looking after {thing}",
        "origin": "history of {thing}", "choice": "what to look for in {thing}",
    }  # fmt: skip
    return {
        "query": _FACETS[facet][0].format(**words),
        "positive": sides[facet].format(**words),
        "hard_negative": sides[another].format(**words),
    }


def _class(words: dict[str, str], task: str, rng: np.random.Generator) -> dict[str, str]:
    criterion = next((name for name in _CLASSES if name in task), "mood")
    classes = _CLASSES[criterion]
    names = list(classes)
    right, wrong = rng.permutation(len(names))[:2]
    forms = classes[names[right]]
    text = forms[int(rng.integers(len(forms)))].format(**words)
    return {"text": text, "label": names[right], "misleading_label": names[wrong]}


def _statement(words: dict[str, str], _: str, rng: np.random.Generator) -> dict[str, str]:
    same, again, other = _STATEMENTS[int(rng.integers(len(_STATEMENTS)))]
    return {
        "query": same.format(**words),
        "positive": again.format(**words),
        "hard_negative": other.format(**words),
    }


def _bitext(languages: Sequence[str], rng: np.random.Generator) -> dict[str, str] | str:
    unknown = [name for name in languages if name not in _PHRASES]
    if unknown:
        known = ", ".join(PHRASE_LANGUAGES)
        return f"the phrase book has no {unknown[0]}, only {known}"
    source, target = (_PHRASES[name] for name in languages)
    right, wrong = rng.permutation(len(source))[:2]
    number = int(rng.integers(2, 24))
    return {
        "query": source[right].format(n=number),
        "positive": target[right].format(n=number),
        "hard_negative": target[wrong].format(n=number),
    }
