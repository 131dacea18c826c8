"""A JSON service on this machine: what is sent, what is tried again, what is refused."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from embedworks._core.endpoint import JsonEndpoint, RequestRefusedError, TryAgainError
from embedworks.errors import EndpointError, InputError

KEY = "sk-secret-0123456789"


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append((self.path, body, self.headers.get("Authorization")))
        status, headers, value = self.server.plan(len(self.server.seen))
        data = json.dumps(value).encode()
        self.send_response(status)
        for name, content in headers.items():
            self.send_header(name, content)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.daemon_threads = True
        running.seen, running.plan = [], lambda number: (200, {}, {"number": number})
        running.url = f"http://127.0.0.1:{running.server_address[1]}/v1"
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def endpoint(server, **options):
    return JsonEndpoint(
        server.url, "things", model="small", **{"backoff": 0.01, "timeout": 5.0, **options}
    )


@pytest.mark.allow_hosts(["127.0.0.1"])
class TestPost:
    def test_what_is_sent_and_given_back(self, server):
        found = endpoint(server).post({"model": "small", "seed": None}, lambda v: v["number"])
        assert found == (1, 0)
        assert server.seen == [("/v1/things", {"model": "small"}, f"Bearer {KEY}")]

    def test_answers_out_of_protocol_are_tried_again(self, server):
        def third(value):
            if value["number"] < 3:
                raise TryAgainError("not yet")
            return value["number"]

        assert endpoint(server).post({}, third) == (3, 2)
        with pytest.raises(EndpointError, match=r"in 2 tries, the last ended with: never"):
            endpoint(server, max_retries=1).post({}, never)

    def test_waiting_is_as_long_as_asked_and_can_be_ended(self, server):
        server.plan = lambda number: (429, {"Retry-After": "0.2"} if number == 1 else {}, {})
        started = time.monotonic()
        with pytest.raises(EndpointError, match="HTTP 429"):
            endpoint(server, max_retries=1).post({}, never)
        assert time.monotonic() - started >= 0.2
        server.plan = lambda number: (503, {"Retry-After": "60"}, {})
        one = endpoint(server)
        threading.Timer(0.2, one.cancel).start()
        started = time.monotonic()
        with pytest.raises(EndpointError, match="in 1 tries"):
            one.post({}, never)
        assert time.monotonic() - started < 10

    @pytest.mark.parametrize(
        ("status", "kind", "said"),
        [
            (400, RequestRefusedError, "refuses the request with 400"),
            (401, EndpointError, r"OPENAI_API_KEY was not accepted.*\[key\]"),
            (404, EndpointError, "no things below this base_url, or no model 'small'"),
            (302, EndpointError, "redirects to http://elsewhere"),
        ],
    )
    def test_refusals(self, server, status, kind, said):
        server.plan = lambda number: (status, {"Location": "http://elsewhere"}, {"error": KEY})
        with pytest.raises(kind, match=said) as caught:
            endpoint(server).post({}, never)
        assert KEY not in str(caught.value)
        assert len(server.seen) == 1

    def test_long_answers_are_not_read(self, server):
        server.plan = lambda number: (200, {}, "x" * 1000)
        with pytest.raises(RequestRefusedError, match="ask for less or raise the limit"):
            endpoint(server, max_response_bytes=100).post({}, never)


def never(value):
    raise TryAgainError("never")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("file:///etc", "must begin with http"),
        ("http://me:secret@host/v1", "must not hold a password"),
        ("http://host/v1?key=1", "must end before"),
        ("http://[host/v1", "is not an address"),
    ],
)
def test_addresses(url, said):
    with pytest.raises(InputError, match=said):
        JsonEndpoint(url, "things", model="small")
    assert JsonEndpoint("http://h/v1/things", "things", model="m").url == "http://h/v1/things"
