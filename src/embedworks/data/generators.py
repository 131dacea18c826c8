"""Generators: what writes synthetic text, a language model behind HTTP or a set of rules.

Knows messages, completions and the chat completions protocol; knows nothing of what is asked
for, of rows or of how answers are checked.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

from embedworks._core.endpoint import JsonEndpoint, RequestRefusedError, TryAgainError
from embedworks._core.validation import check_choice
from embedworks.data.chunking import estimate_tokens

__all__ = ["Completion", "Generator", "Message", "OpenAIGenerator", "RequestRefusedError"]

_ERROR_CHARS = 300


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation.

    Attributes:
        role: Who speaks.
        content: What is said.
    """

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class Completion:
    """What a generator answered.

    Attributes:
        text: The answer.
        prompt_tokens: Tokens read; estimated where the service does not say.
        completion_tokens: Tokens written; estimated likewise.
        model: The model that answered, as it calls itself.
        retries: How many tries failed before this one.
        truncated: Whether the answer was cut at ``max_tokens``.
    """

    text: str
    prompt_tokens: int
    completion_tokens: int
    model: str
    retries: int = 0
    truncated: bool = False


class Generator(Protocol):
    """Anything that continues a conversation with JSON.

    ``identity`` names what decides the answer (kind, model): kept answers are found again under
    it. `complete` is called from several threads at once. A generator that cannot do what is
    asked may answer ``{"declined": "why"}``, which drops the item without a retry. One that
    waits between tries should have a method ``cancel()`` that ends the waiting.
    """

    @property
    def identity(self) -> str:
        """Name of everything besides the messages that decides the answer."""
        ...

    def complete(
        self,
        messages: Sequence[Message],
        *,
        seed: int,
        max_tokens: int,
        temperature: float,
        response_schema: Mapping[str, Any] | None = None,
    ) -> Completion:
        """Answer the conversation; ``response_schema`` is the JSON schema of the answer.

        Raises:
            RequestRefusedError: When this one request is refused and others may work.
            EndpointError: When no request can work.
        """
        ...


class OpenAIGenerator:
    """A language model behind any OpenAI-compatible chat completions endpoint.

    Only the standard library is used. The key is read from the environment for every request,
    sent to ``base_url`` and nowhere else (redirects are not followed), and never shown. Proxies
    are taken from the environment as usual, but not for this machine's own addresses.

    Args:
        base_url: Address up to the version, such as ``https://api.openai.com/v1`` or
            ``http://localhost:8000/v1``; a key sent over http can be read on the way.
        model: Name of the model there.
        api_key_env: Environment variable with the key; without it no key is sent, as local
            servers expect.
        timeout: Seconds one try may take in all.
        max_retries: Tries after the first, on 429, 5xx, timeouts and broken connections.
        backoff: Seconds before the first retry; doubled each time, with jitter. A
            ``Retry-After`` header is honoured up to two minutes.
        json_mode: ``"schema"`` asks for the exact JSON schema, ``"object"`` for any JSON
            object, ``"off"`` for neither; answers are checked in every mode.
        extra_body: Fields added to every request, such as ``{"top_p": 0.9}``; None removes a
            field, for services that refuse ``seed`` or ``max_tokens``.
        max_response_bytes: Longer answers are not read.

    Raises:
        InputError: When the address is not http(s) or a number is out of range.

    Example:
        >>> OpenAIGenerator("http://localhost:8000/v1", "small").identity
        'openai small'
        >>> OpenAIGenerator("file:///etc", "small")
        Traceback (most recent call last):
        ...
        embedworks.errors.InputError: base_url must begin with http:// or https:// and name a
        host, got 'file:///etc'.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        api_key_env: str = "OPENAI_API_KEY",
        timeout: float = 120.0,
        max_retries: int = 5,
        backoff: float = 1.0,
        json_mode: str = "schema",
        extra_body: Mapping[str, Any] | None = None,
        max_response_bytes: int = 4_000_000,
    ) -> None:
        self._endpoint = JsonEndpoint(
            base_url,
            "chat/completions",
            model=model,
            api_key_env=api_key_env,
            timeout=timeout,
            max_retries=max_retries,
            backoff=backoff,
            max_response_bytes=max_response_bytes,
            shorten="lower max_tokens",
        )
        self.base_url = self._endpoint.base_url
        self.model = model
        self.json_mode = check_choice(json_mode, ("schema", "object", "off"), name="json_mode")
        self.extra_body = dict(extra_body or {})

    def __repr__(self) -> str:
        return f"OpenAIGenerator({self.base_url!r}, {self.model!r})"

    @property
    def identity(self) -> str:
        """Model and extra fields; the address may change between sessions."""
        extra = json.dumps(self.extra_body, sort_keys=True) if self.extra_body else ""
        return f"openai {self.model} {extra}".rstrip()

    def cancel(self) -> None:
        """Let requests on the way finish their present try, and make no further ones."""
        self._endpoint.cancel()

    def complete(
        self,
        messages: Sequence[Message],
        *,
        seed: int,
        max_tokens: int,
        temperature: float,
        response_schema: Mapping[str, Any] | None = None,
    ) -> Completion:
        """Send one request, again after failures that may pass.

        Raises:
            RequestRefusedError: On 400, 413 and 422, or an answer over the size limit.
            EndpointError: On a wrong key or address, or when every retry failed.
        """
        body = self._body(messages, seed, max_tokens, temperature, response_schema)
        found, retries = self._endpoint.post(body, lambda v: _completion(v, messages, self.model))
        return replace(found, retries=retries)

    def _body(
        self,
        messages: Sequence[Message],
        seed: int,
        max_tokens: int,
        temperature: float,
        schema: Mapping[str, Any] | None,
    ) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": m.role, "content": m.content} for m in messages],
            "seed": seed,
            "max_tokens": max_tokens,
            "temperature": temperature,
        }
        if schema is not None and self.json_mode == "schema":
            name = str(schema.get("title", "answer"))
            body["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": name, "strict": True, "schema": dict(schema)},
            }
        elif schema is not None and self.json_mode == "object":
            body["response_format"] = {"type": "json_object"}
        return {**body, **self.extra_body}


def _completion(value: Any, messages: Sequence[Message], model: str) -> Completion:
    try:
        choice = value["choices"][0]
        text = choice["message"]["content"] or ""
        if not isinstance(text, str):
            raise TypeError(f"content is a {type(text).__name__}")
    except (LookupError, TypeError) as error:
        raise TryAgainError(
            f"the response is not a chat completion: {json.dumps(value)[:_ERROR_CHARS]}"
        ) from error
    usage = value.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    read, written = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if not (isinstance(read, int) and isinstance(written, int) and min(read, written) >= 0):
        read, written = (
            sum(estimate_tokens([m.content for m in messages])),
            estimate_tokens([text])[0],
        )
    return Completion(
        text=text,
        prompt_tokens=read,
        completion_tokens=written,
        model=str(value.get("model") or model),
        truncated=choice.get("finish_reason") == "length",
    )
