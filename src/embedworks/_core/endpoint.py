"""Services that answer JSON with JSON over HTTP: retries, limits, and errors that say what to do.

Knows addresses, keys, statuses and time; knows nothing of what is asked or answered.
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
from collections.abc import Callable, Mapping
from threading import Event
from typing import Any, NoReturn, TypeVar

from embedworks._core.validation import check_in_range
from embedworks.errors import EndpointError, InputError

__all__ = ["JsonEndpoint", "RequestRefusedError", "TryAgainError"]

_READ_BYTES = 65_536
_ERROR_CHARS = 300
_MAX_WAIT_SECONDS = 120.0

T = TypeVar("T")


class RequestRefusedError(EndpointError):
    """One request was refused; others may be answered."""


class TryAgainError(Exception):
    """A failure that may pass; ``wait`` is what the service asked for, in seconds."""

    def __init__(self, message: str, wait: float | None = None) -> None:
        super().__init__(message)
        self.wait = wait


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Redirects are reported, not followed: they would carry the key to another host."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


class JsonEndpoint:
    """One address of a service that is posted JSON and answers with JSON.

    Only the standard library is used. The key is read from the environment for every request,
    sent to ``base_url`` and nowhere else (redirects are not followed), and never shown. Proxies
    are taken from the environment as usual, but not for this machine's own addresses. It may be
    used from several threads at once.

    Args:
        base_url: Address up to the version, such as ``http://localhost:8000/v1``.
        path: What is added to it, such as ``"embeddings"``.
        model: Name of the model there, for messages.
        api_key_env: Environment variable with the key; without it no key is sent.
        timeout: Seconds one try may take in all.
        max_retries: Tries after the first, on 429, 5xx, timeouts and broken connections.
        backoff: Seconds before the first retry; doubled each time, with jitter. A
            ``Retry-After`` header is honoured up to two minutes.
        max_response_bytes: Longer answers are not read.
        shorten: What makes answers shorter, for the message about one that is too long.

    Raises:
        InputError: When the address is not http(s) or a number is out of range.

    Example:
        >>> JsonEndpoint("http://localhost:8000/v1/", "embeddings", model="small").url
        'http://localhost:8000/v1/embeddings'
    """

    def __init__(
        self,
        base_url: str,
        path: str,
        *,
        model: str,
        api_key_env: str = "OPENAI_API_KEY",
        timeout: float = 120.0,
        max_retries: int = 5,
        backoff: float = 1.0,
        max_response_bytes: int = 4_000_000,
        shorten: str = "ask for less",
    ) -> None:
        self.base_url = _checked_url(base_url, path)
        self.path = path
        if not model.strip():
            raise InputError("model is empty: name the model that the endpoint should run.")
        self.model = model
        self.api_key_env = api_key_env
        self.timeout = check_in_range(timeout, name="timeout", low=0, open_low=True)
        self.max_retries = int(check_in_range(max_retries, name="max_retries", low=0))
        self.backoff = check_in_range(backoff, name="backoff", low=0)
        self.max_response_bytes = int(
            check_in_range(max_response_bytes, name="max_response_bytes", low=1)
        )
        self._shorten = shorten
        self._stop = Event()
        self._opener = urllib.request.build_opener(_NoRedirects, *_proxies(self.base_url))
        self._jitter = random.Random()  # noqa: S311 - spreads retries, decides no result

    @property
    def url(self) -> str:
        """The whole address."""
        return f"{self.base_url}/{self.path}"

    def cancel(self) -> None:
        """Let requests on the way finish their present try, and make no further ones."""
        stopped, self._stop = self._stop, Event()
        stopped.set()

    def post(self, body: Mapping[str, Any], read: Callable[[Any], T]) -> tuple[T, int]:
        """Send one request, again after failures that may pass.

        Args:
            body: The request; fields that are None are left out.
            read: Makes the result of the answer; raises `TryAgainError` when it is out of
                protocol.

        Returns:
            The result and how many tries failed before.

        Raises:
            RequestRefusedError: On 400, 413 and 422, or an answer over the size limit.
            EndpointError: On a wrong key or address, or when every retry failed.
        """
        stop = self._stop
        data = json.dumps({k: v for k, v in body.items() if v is not None}).encode()
        for retries in range(self.max_retries + 1):
            try:
                return read(self._post(data)), retries
            except TryAgainError as error:
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

    def _post(self, body: bytes) -> Any:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if key := os.environ.get(self.api_key_env, ""):
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(  # noqa: S310 - the scheme was checked
            self.url, data=body, headers=headers, method="POST"
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
            raise TryAgainError(f"{error.reason}") from error
        except TimeoutError as error:
            raise TryAgainError(f"no answer within {self.timeout:g} seconds") from error
        except (OSError, http.client.HTTPException) as error:
            raise TryAgainError(f"{type(error).__name__}: {error}") from error

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
                    f"{self.max_response_bytes:,}: {self._shorten} or raise the limit."
                )
            if time.monotonic() > deadline:
                raise TimeoutError
        announced = response.headers.get("Content-Length", "")
        if announced.isdigit() and size < int(announced):
            raise TryAgainError(f"the connection closed after {size} of {announced} bytes")
        try:
            return json.loads(b"".join(parts))
        except (ValueError, RecursionError) as error:
            raise TryAgainError(f"the response is not JSON ({error})") from error

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
            raise TryAgainError(f"HTTP {code}.{said}", wait)
        if code in (401, 403):
            state = "was not accepted" if key else "is not set"
            raise EndpointError(
                f"{where} answers {code}: the key in the environment variable "
                f"{self.api_key_env} {state}.{said}"
            )
        if code in (404, 405):
            raise EndpointError(
                f"{where} answers {code}: there is no {self.path} below this base_url, or "
                f"no model {self.model!r}. base_url usually ends in /v1.{said}"
            )
        if 300 <= code < 400:
            target = error.headers.get("Location", "elsewhere") if error.headers else "elsewhere"
            raise EndpointError(
                f"{where} redirects to {target}: redirects are not followed, set base_url to "
                "the final address."
            )
        raise RequestRefusedError(f"{where} refuses the request with {code}.{said}")


def _checked_url(base_url: str, path: str) -> str:
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
    return base_url.rstrip("/").removesuffix(f"/{path}")


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
