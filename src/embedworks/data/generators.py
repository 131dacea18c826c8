"""Generators: what writes synthetic text, a language model behind HTTP or a set of rules.

Knows messages, completions and the chat completions protocol; knows nothing of what is asked
for, of rows or of how answers are checked.
"""

from __future__ import annotations

import email.utils
import http.client
import json
import os
import random
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import Event
from typing import Any, Literal, NoReturn, Protocol

from embedworks._core.validation import check_choice, check_in_range
from embedworks.data.chunking import estimate_tokens
from embedworks.errors import EndpointError, InputError

__all__ = ["Completion", "Generator", "Message", "OpenAIGenerator", "RequestRefusedError"]

_READ_BYTES = 65_536
_ERROR_CHARS = 300
_MAX_WAIT_SECONDS = 120.0


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


class RequestRefusedError(EndpointError):
    """One request was refused; others may be answered."""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Redirects are reported, not followed: they would carry the key to another host."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


class _TryAgainError(Exception):
    """A failure that may pass; ``wait`` is what the service asked for, in seconds."""

    def __init__(self, message: str, wait: float | None = None) -> None:
        super().__init__(message)
        self.wait = wait


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
        self.base_url = _checked_url(base_url)
        if not model.strip():
            raise InputError("model is empty: name the model that the endpoint should run.")
        self.model = model
        self.api_key_env = api_key_env
        self.timeout = check_in_range(timeout, name="timeout", low=0, open_low=True)
        self.max_retries = int(check_in_range(max_retries, name="max_retries", low=0))
        self.backoff = check_in_range(backoff, name="backoff", low=0)
        self.json_mode = check_choice(json_mode, ("schema", "object", "off"), name="json_mode")
        self.extra_body = dict(extra_body or {})
        self.max_response_bytes = int(
            check_in_range(max_response_bytes, name="max_response_bytes", low=1)
        )
        self._stop = Event()
        self._opener = urllib.request.build_opener(_NoRedirects, *_proxies(self.base_url))
        self._jitter = random.Random()  # noqa: S311 - spreads retries, decides no result

    def __repr__(self) -> str:
        return f"OpenAIGenerator({self.base_url!r}, {self.model!r})"

    @property
    def identity(self) -> str:
        """Model and extra fields; the address may change between sessions."""
        extra = json.dumps(self.extra_body, sort_keys=True) if self.extra_body else ""
        return f"openai {self.model} {extra}".rstrip()

    def cancel(self) -> None:
        """Let requests on the way finish their present try, and make no further ones."""
        stopped, self._stop = self._stop, Event()
        stopped.set()

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
        stop = self._stop
        body = self._body(messages, seed, max_tokens, temperature, response_schema)
        for retries in range(self.max_retries + 1):
            try:
                value = self._post(body)
                return _completion(value, messages, self.model, retries)
            except _TryAgainError as error:
                if retries == self.max_retries or stop.wait(self._wait(retries, error.wait)):
                    raise EndpointError(
                        f"{self.base_url} gave no answer in {retries + 1} tries, the last "
                        f"ended with: {error}. Check that the service runs and is not "
                        "overloaded."
                    ) from error
        raise AssertionError("unreachable")

    def _wait(self, retries: int, asked: float | None) -> float:
        if asked is not None:
            return min(asked, _MAX_WAIT_SECONDS)
        most = min(self.backoff * 2**retries, _MAX_WAIT_SECONDS)
        return most * (0.5 + 0.5 * self._jitter.random())

    def _body(
        self,
        messages: Sequence[Message],
        seed: int,
        max_tokens: int,
        temperature: float,
        schema: Mapping[str, Any] | None,
    ) -> bytes:
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
        body.update(self.extra_body)
        return json.dumps({k: v for k, v in body.items() if v is not None}).encode()

    def _post(self, body: bytes) -> Any:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if key := os.environ.get(self.api_key_env, ""):
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(  # noqa: S310 - the scheme was checked
            f"{self.base_url}/chat/completions", data=body, headers=headers, method="POST"
        )
        try:
            with self._opener.open(request, timeout=self.timeout) as response:
                return self._read(response)
        except EndpointError:  # is an OSError too
            raise
        except urllib.error.HTTPError as error:
            with error:
                self._fail(error, key)
        except urllib.error.URLError as error:
            raise _TryAgainError(f"{error.reason}") from error
        except TimeoutError as error:
            raise _TryAgainError(f"no answer within {self.timeout:g} seconds") from error
        except (OSError, http.client.HTTPException) as error:
            raise _TryAgainError(f"{type(error).__name__}: {error}") from error

    def _read(self, response: http.client.HTTPResponse) -> Any:
        deadline = time.monotonic() + self.timeout
        parts: list[bytes] = []
        size = 0
        while part := response.read1(_READ_BYTES):
            parts.append(part)
            size += len(part)
            if size > self.max_response_bytes:
                raise RequestRefusedError(
                    f"the answer of {self.base_url} is longer than max_response_bytes="
                    f"{self.max_response_bytes:,}: lower max_tokens or raise the limit."
                )
            if time.monotonic() > deadline:
                raise TimeoutError
        announced = response.headers.get("Content-Length", "")
        if announced.isdigit() and size < int(announced):
            raise _TryAgainError(f"the connection closed after {size} of {announced} bytes")
        try:
            return json.loads(b"".join(parts))
        except (ValueError, RecursionError) as error:
            raise _TryAgainError(f"the response is not JSON ({error})") from error

    def _fail(self, error: urllib.error.HTTPError, key: str) -> NoReturn:
        """Turn an HTTP status into the error that tells what to do."""
        try:
            said = error.read(_READ_BYTES).decode("utf-8", "replace")
        except (OSError, http.client.HTTPException):
            said = ""
        said = " ".join(said.split())[:_READ_BYTES]
        if key:
            said = said.replace(key, "[key]")
        said = f" It says: {said[:_ERROR_CHARS]}" if said else ""
        code, where = error.code, self.base_url
        if code == 429 or code == 408 or code >= 500:
            wait = _seconds(error.headers.get("Retry-After") if error.headers else None)
            raise _TryAgainError(f"HTTP {code}.{said}", wait)
        if code in (401, 403):
            state = "was not accepted" if key else "is not set"
            raise EndpointError(
                f"{where} answers {code}: the key in the environment variable "
                f"{self.api_key_env} {state}.{said}"
            )
        if code in (404, 405):
            raise EndpointError(
                f"{where} answers {code}: there is no chat/completions below this base_url, or "
                f"no model {self.model!r}. base_url usually ends in /v1.{said}"
            )
        if 300 <= code < 400:
            target = error.headers.get("Location", "elsewhere") if error.headers else "elsewhere"
            raise EndpointError(
                f"{where} redirects to {target}: redirects are not followed, set base_url to "
                "the final address."
            )
        raise RequestRefusedError(f"{where} refuses the request with {code}.{said}")


def _checked_url(base_url: str) -> str:
    try:
        parts = urllib.parse.urlsplit(base_url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise InputError(f"base_url is not an address ({error}), got {base_url!r}.") from error
    if parts.scheme not in ("http", "https") or not host:
        raise InputError(
            f"base_url must begin with http:// or https:// and name a host, got {base_url!r}."
        )
    if parts.username is not None or parts.password is not None:
        raise InputError("base_url must not hold a password: use api_key_env instead.")
    if parts.query or parts.fragment:
        raise InputError(f"base_url must end before '?' and '#', got {base_url!r}.")
    return base_url.rstrip("/").removesuffix("/chat/completions")


def _proxies(base_url: str) -> list[urllib.request.BaseHandler]:
    """Return a handler that switches proxies off for addresses of this machine."""
    host = urllib.parse.urlsplit(base_url).hostname or ""
    local = host in ("localhost", "::1") or re.fullmatch(r"127(\.\d+){3}", host)
    return [urllib.request.ProxyHandler({})] if local else []


def _seconds(header: str | None) -> float | None:
    """Read a Retry-After header: seconds or a date."""
    if not header:
        return None
    try:
        return max(0.0, float(header)) if float(header) < float("inf") else None
    except ValueError:
        pass
    try:
        moment = email.utils.parsedate_to_datetime(header)
        return max(0.0, moment.timestamp() - time.time())
    except ValueError:
        return None


def _completion(value: Any, messages: Sequence[Message], model: str, retries: int) -> Completion:
    try:
        choice = value["choices"][0]
        text = choice["message"]["content"] or ""
        if not isinstance(text, str):
            raise TypeError(f"content is a {type(text).__name__}")
    except (LookupError, TypeError) as error:
        raise _TryAgainError(
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
        retries=retries,
        truncated=choice.get("finish_reason") == "length",
    )
