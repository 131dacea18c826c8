"""New tokens for the words of a domain, so that they are read whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from embedworks._core.validation import check_in_range, check_texts
from embedworks.errors import EmptyInputError, InputError

__all__ = ["add_tokens", "frequent_split_words"]


def frequent_split_words(
    texts: Sequence[str], tokenizer: Any, count: int, *, min_count: int = 5, min_pieces: int = 2
) -> list[str]:
    """Return the words that would save most if they were one token.

    A word counts for its occurrences times the pieces it would save. Words are what the tokenizer
    itself reads as words, after its own normalisation.

    Args:
        texts: Texts of the domain.
        tokenizer: A fast tokenizer of transformers.
        count: How many words, at most.
        min_count: Occurrences that a word needs.
        min_pieces: Pieces that a word is cut into now, at least 2.

    Raises:
        EmptyInputError: When there are no texts.
        InputError: When a number is out of range, or the tokenizer is not a fast one.

    Example:
        >>> from embedworks.models import train_tokenizer
        >>> tokenizer = train_tokenizer(["a file", "a folder"], vocab_size=270)
        >>> frequent_split_words(["a zebra", "my zebra"], tokenizer, 3, min_count=2)
        ['zebra']
    """
    items = check_texts(texts)
    check_in_range(count, name="count", low=1)
    check_in_range(min_count, name="min_count", low=1)
    check_in_range(min_pieces, name="min_pieces", low=2)
    if not items:
        raise EmptyInputError("there are no texts to look for words in.")
    backend = _backend(tokenizer)
    found: Counter[str] = Counter()
    for text in items:
        plain = backend.normalizer.normalize_str(text) if backend.normalizer else text
        words = _words(plain, backend)
        found.update(word for word in words if word.isalnum() and not word.isdecimal())
    gains: dict[str, int] = {}
    known = tokenizer.get_vocab()
    for word, times in found.items():
        if times >= min_count and word not in known:
            pieces = len(_pieces(tokenizer, word))
            if pieces >= min_pieces:
                gains[word] = times * (pieces - 1)
    return sorted(gains, key=lambda word: (-gains[word], word))[:count]


def add_tokens(model: Any, words: Sequence[str]) -> tuple[str, ...]:
    """Give words a token of their own, which starts as the mean of their pieces' vectors.

    The tokenizer and the tables of tokens (input, and output where there is one) grow; texts
    without the words have the vectors they had. Model and tokenizer are changed, and saved as any
    other. Where pieces carry their spaces, a new token takes the space before it in, and decoding
    leaves that space out. Train on texts of the domain afterwards, for example with ``pretrain``
    in a recipe.

    Args:
        model: A ``SentenceTransformer`` over a transformer with a fast tokenizer.
        words: Words without white space; those that are one token already, or a
            piece of the vocabulary, are left out.

    Returns:
        The words that were added, in order.

    Raises:
        EmptyInputError: When there are no words.
        InputError: When a word is empty, has white space or occurs twice, or the model is not of
            this kind.

    Example:
        >>> from embedworks.models import new_model, train_tokenizer
        >>> tokenizer = train_tokenizer(["a file", "a folder"], vocab_size=270)
        >>> model = new_model("bert", tokenizer, dim=16, layers=1, heads=2)
        >>> before = model.encode("a file")
        >>> add_tokens(model, ["zebra"]), len(model.tokenizer.tokenize("a zebra"))
        (('zebra',), 2)
        >>> bool((model.encode("a file") == before).all())
        True
    """
    import torch
    from tokenizers import AddedToken

    asked = check_texts(list(words), name="words")
    if not asked:
        raise EmptyInputError("there are no words to add.")
    for word in asked:
        if not word or any(letter.isspace() for letter in word):
            raise InputError(f"{word!r} is not a word: give words without white space.")
    if len(set(asked)) < len(asked):
        twice = next(word for word, times in Counter(asked).items() if times > 1)
        raise InputError(f"the word {twice!r} is given twice.")
    try:
        tokenizer, body = model.tokenizer, model[0].auto_model
        body.get_input_embeddings()
    except (AttributeError, TypeError, KeyError, IndexError, NotImplementedError) as error:
        raise InputError(
            f"a {type(model).__name__} has no table of tokens that can grow: expected a "
            "SentenceTransformer over a transformer."
        ) from error
    _backend(tokenizer)
    pieces = {word: _pieces(tokenizer, word) for word in asked}
    known = tokenizer.get_vocab()
    new = [word for word in asked if len(pieces[word]) > 1 and word not in known]
    if not new:
        return ()
    # The space before a word is part of it where pieces carry their spaces.
    spaced = _keeps_spaces(tokenizer)
    start = len(tokenizer)
    tokenizer.add_tokens([AddedToken(word, single_word=True, lstrip=spaced) for word in new])
    if len(tokenizer) != start + len(new):
        raise InputError(f"the tokenizer took {len(tokenizer) - start} of {len(new)} words.")
    tables = [body.get_input_embeddings(), body.get_output_embeddings()]
    held = [None if table is None else table.weight.detach().clone() for table in tables]
    biases = getattr(tables[1], "bias", None)
    held_bias = None if biases is None else biases.detach().clone()
    if len(tokenizer) > len(tables[0].weight):
        body.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    tables = [body.get_input_embeddings(), body.get_output_embeddings()]
    with torch.no_grad():
        for table, before in zip(tables, held, strict=True):
            if table is None or before is None:
                continue
            for place, word in enumerate(new, start=start):
                table.weight[place] = before[pieces[word]].mean(dim=0)
        if held_bias is not None and tables[1].bias is not None:
            for place, word in enumerate(new, start=start):
                tables[1].bias[place] = held_bias[pieces[word]].mean()
    return tuple(new)


def _backend(tokenizer: Any) -> Any:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise InputError(
            f"a {type(tokenizer).__name__} is not a fast tokenizer: new words need one."
        )
    return backend


def _words(text: str, backend: Any) -> list[str]:
    """Return the words of a text as the tokenizer cuts it, without spaces around."""
    if backend.pre_tokenizer is None:
        return text.split()
    spans = (span for _, span in backend.pre_tokenizer.pre_tokenize_str(text))
    return [word for start, end in spans if (word := text[start:end].strip())]


def _keeps_spaces(tokenizer: Any) -> bool:
    """Say whether a space is part of the word behind it."""
    names: list[str] = tokenizer.tokenize("a a")
    return any(name.startswith(("Ġ", "▁")) for name in names)


def _pieces(tokenizer: Any, word: str) -> list[int]:
    """Return the tokens of a word in the middle of a text."""
    lead: list[int] = tokenizer("a", add_special_tokens=False)["input_ids"]
    both: list[int] = tokenizer(f"a {word}", add_special_tokens=False)["input_ids"]
    return both[len(lead) :]
