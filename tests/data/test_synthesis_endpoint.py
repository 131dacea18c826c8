"""Synthesis against a real local server that speaks the chat completions protocol."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from embedworks.data import (
    Message,
    OpenAIGenerator,
    RequestRefusedError,
    RuleBasedGenerator,
    SynthesisSettings,
    Synthesizer,
    query_passages,
    relabel,
    run_synthesis,
)
from embedworks.data.rows import Row
from embedworks.data.synthesis_tasks import query_request
from embedworks.errors import EndpointError, InputError

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])

KEY = "sk-secret-0123456789"
KETTLE = "A kettle is a vessel for boiling water. It has a lid, a handle and a spout."
PASSAGES = [
    KETTLE,
    "To bake bread, mix flour with water. Then wait 12 hours and heat the oven to 230 degrees.",
    "A tidal bore is a wave that runs up a river. It is seen at spring tides in some estuaries.",
    "You can mend a tube with a patch. Remove the wheel, find the hole and press the patch on.",
]


class ChatServer(ThreadingHTTPServer):
    """Answers by rules, unless `plan` (request number, body -> reply or None) does it."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.plan = lambda number, body: None
        self.bodies, self.headers_seen = [], []
        self.lock = threading.Lock()
        self.busy = self.most_busy = 0

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def prompts(self):
        return Counter(json.dumps(body["messages"]) for body in self.bodies)

    def handle_error(self, *_):
        """A client that went away is part of the tests."""


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            number = len(server.bodies)
            server.bodies.append(body)
            server.headers_seen.append(dict(self.headers))
            server.busy += 1
            server.most_busy = max(server.most_busy, server.busy)
        try:
            reply = server.plan(number, body)
        finally:
            # Before the answer is sent: the next request may come at once.
            with server.lock:
                server.busy -= 1
        if callable(reply):
            reply(self)
        else:
            send(self, 200, reply or completion(by_rules(body)))


def by_rules(body):
    messages = [Message(m["role"], m["content"]) for m in body["messages"]]
    made = RuleBasedGenerator().complete(messages, seed=body["seed"], max_tokens=9, temperature=0)
    return made.text


def completion(text, finish="stop"):
    return {
        "model": "tiny-1",
        "choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": finish}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 10},
    }


def send(handler, status, value, headers=(), *, raw=None):
    data = raw if raw is not None else json.dumps(value).encode()
    handler.send_response(status)
    for name, content in headers:
        handler.send_header(name, content)
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data)


def failing(status, headers=(), message="no"):
    return lambda handler: send(handler, status, {"error": {"message": message}}, headers)


def hang_up(handler):
    """Announce more bytes than are sent."""
    handler.send_response(200)
    handler.send_header("Content-Length", "5000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [{"mess')


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with ChatServer() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def generator(server, **options):
    return OpenAIGenerator(server.url, "tiny", **{"backoff": 0.01, "timeout": 5.0, **options})


def ask(server, **options):
    request = query_request(KETTLE, style="question")
    return generator(server, **options).complete(
        request.messages(), seed=7, max_tokens=50, temperature=0.5,
        response_schema=request.schema.model_json_schema(),
    )  # fmt: skip


def once(reply):
    return lambda number, body: reply if number == 0 else None


def test_a_request_is_spoken_as_the_protocol_says(server):
    got = ask(server, extra_body={"top_p": 0.9, "max_tokens": None, "max_completion_tokens": 60})
    assert json.loads(got.text) == {"query": "What is a kettle?"}
    assert (got.prompt_tokens, got.completion_tokens, got.model) == (100, 10, "tiny-1")
    body, headers = server.bodies[0], server.headers_seen[0]
    assert headers["Authorization"] == f"Bearer {KEY}"
    assert (body["model"], body["seed"], body["temperature"], body["top_p"]) == (
        "tiny",
        7,
        0.5,
        0.9,
    )
    assert body["max_completion_tokens"] == 60
    assert "max_tokens" not in body
    schema = body["response_format"]["json_schema"]
    assert schema["strict"] is True
    assert schema["schema"]["additionalProperties"] is False
    assert [m["role"] for m in body["messages"]] == ["system", "user"]
    ask(server, json_mode="object")
    assert server.bodies[1]["response_format"] == {"type": "json_object"}
    ask(server, json_mode="off")
    assert "response_format" not in server.bodies[2]


def test_without_a_key_none_is_sent(server, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    ask(server)
    assert "Authorization" not in server.headers_seen[0]


def test_retry_after_is_honoured(server):
    server.plan = once(failing(429, [("Retry-After", "0.3")]))
    started = time.perf_counter()
    assert ask(server).retries == 1
    assert time.perf_counter() - started >= 0.3
    server.bodies.clear()
    server.plan = once(failing(429, [("Retry-After", "Wed, 21 Oct 2015 07:28:00 GMT")]))
    assert ask(server).retries == 1  # a date that has passed: at once


@pytest.mark.parametrize("status", [408, 500, 502, 503])
def test_failures_of_the_server_are_tried_again(server, status):
    server.plan = lambda number, body: failing(status) if number < 2 else None
    assert ask(server).retries == 2


@pytest.mark.parametrize(
    "reply",
    [
        hang_up,
        lambda handler: handler.connection.shutdown(socket.SHUT_RDWR),
        lambda handler: send(handler, 200, None, raw=b"<html>busy</html>"),
        lambda handler: send(handler, 200, {"error": {"message": "overloaded"}}),
        lambda handler: time.sleep(0.6),
    ],
    ids=["half an answer", "connection closed", "not JSON", "no completion", "slow"],
)
def test_broken_answers_are_tried_again(server, reply):
    server.plan = once(reply)
    assert ask(server, timeout=0.4).retries == 1


def test_a_trickle_does_not_outlive_the_timeout(server):
    def trickle(handler):
        handler.send_response(200)
        handler.end_headers()
        for _ in range(40):
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.05)

    server.plan = lambda number, body: trickle
    started = time.perf_counter()
    with pytest.raises(EndpointError, match="within 0.3 seconds"):
        ask(server, timeout=0.3, max_retries=0)
    assert time.perf_counter() - started < 1.5


def test_errors_tell_what_to_do_and_never_the_key(server, monkeypatch):
    server.plan = lambda number, body: failing(401, message=f"bad key {KEY}")
    with pytest.raises(EndpointError, match="OPENAI_API_KEY was not accepted") as caught:
        ask(server)
    assert KEY not in str(caught.value)
    assert "[key]" in str(caught.value)
    assert KEY not in repr(generator(server))
    assert len(server.bodies) == 1  # a wrong key is not tried again
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(EndpointError, match="OPENAI_API_KEY is not set"):
        ask(server)
    server.plan = lambda number, body: failing(404)
    with pytest.raises(EndpointError, match=r"no model 'tiny'.*ends in /v1"):
        ask(server)
    server.plan = lambda number, body: failing(400, message="response_format is unknown")
    with pytest.raises(RequestRefusedError, match="response_format is unknown"):
        ask(server)
    server.plan = lambda number, body: failing(503)
    with pytest.raises(EndpointError, match=r"no answer in 3 tries.*HTTP 503"):
        ask(server, max_retries=2)


def test_redirects_do_not_carry_the_key_away(server):
    server.plan = lambda number, body: failing(307, [("Location", "http://127.0.0.1:1/v1")])
    with pytest.raises(EndpointError, match="redirects to http://127.0.0.1:1/v1"):
        ask(server)
    assert len(server.bodies) == 1


def test_long_answers_are_not_read(server):
    server.plan = lambda number, body: completion("x" * 100_000)
    with pytest.raises(RequestRefusedError, match="max_response_bytes=50,000"):
        ask(server, max_response_bytes=50_000)


def test_an_unreachable_endpoint_is_named():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    gone = OpenAIGenerator(f"http://127.0.0.1:{port}/v1", "tiny", max_retries=1, backoff=0.01)
    with pytest.raises(EndpointError, match=rf"127.0.0.1:{port}/v1 gave no answer in 2 tries"):
        gone.complete([Message("user", "x")], seed=0, max_tokens=1, temperature=0)


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "ftp://host/v1", "localhost:8000", "http://", "http://a:b@host/v1",
     "http://host/v1?key=1", "http://host:99999/v1"],
)  # fmt: skip
def test_only_web_addresses_are_taken(url):
    with pytest.raises(InputError, match="base_url"):
        OpenAIGenerator(url, "tiny")


# The synthesizer on top of an endpoint.


def synthesizer(server, **options):
    options = {"workers": 2, **options}
    return Synthesizer({"llm": generator(server)}, **options)


@pytest.mark.parametrize(
    "text",
    [
        '```json\n{"query": "What is a kettle?"}\n```',
        'Here you are:\n```\n{"query": "What is a kettle?"}\n```\nAnything else?',
        'Sure. {"query": "What is a kettle?"} Bye.',
        '<think>{"query": "no"}</think>\n{"query": "What is a kettle?"}',
    ],
)
def test_json_among_words_is_found(server, text):
    server.plan = lambda number, body: completion(text)
    with synthesizer(server) as s:
        assert query_passages([KETTLE], s, styles=["question"])[0].anchor == "What is a kettle?"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("I cannot do that.", "not one JSON object"),
        ('{"query": "What is', "not one JSON object"),
        ("[" * 100_000, "not one JSON object"),
        ('{"question": "What is a kettle?"}', "query: Field required"),
        ('{"query": 3}', "valid string"),
        ('{"query": "\\ud800"}', "query"),
        ('{"query": " "}', "query is empty"),
        ('{"query": "Что такое чайник?"}', "language"),
        (json.dumps({"query": KETTLE}), "must differ from the passage"),
        ('{"query": "has a lid, a handle"}', "word for word"),
        ("", "empty"),
    ],
)
def test_a_bad_answer_goes_back_with_the_reason(server, text, told):
    server.plan = lambda number, body: completion(text) if number == 0 else None
    with synthesizer(server) as s:
        rows = query_passages([KETTLE], s, styles=["question"])
    assert rows[0].anchor == "What is a kettle?"
    again = server.bodies[1]["messages"]
    assert [m["role"] for m in again] == ["system", "user", "assistant", "user"]
    assert told in again[3]["content"]
    assert s.report.generators["llm"].corrections == 1


def test_what_stays_bad_is_dropped_and_counted(server):
    def plan(number, body):
        if KETTLE in json.dumps(body):
            return completion('{"query": 3}')
        if "bake" in json.dumps(body):
            return completion('{"query": "cut off he', finish="length")
        return completion("no JSON") if "tidal" in json.dumps(body) else None

    server.plan = plan
    with Synthesizer({"llm": generator(server)}, max_attempts=2, prices={"llm": (3.0, 10.0)}) as s:
        rows = query_passages(PASSAGES, s, styles=["question"])
    assert len(rows) == 1
    assert s.report.dropped == {"wrong form": 1, "cut off": 1, "malformed JSON": 1}
    about = s.report.to_dict()["generators"]["llm"]
    assert (about["calls"], about["corrections"], about["dropped"]) == (7, 3, 3)
    assert about["prompt_tokens"] == 700
    assert about["cost"] == pytest.approx((700 * 3 + 70 * 10) / 1e6)
    assert "malformed JSON 1" in s.report.summary()


def test_no_more_requests_than_workers_at_once(server):
    server.plan = lambda number, body: time.sleep(0.03)
    with synthesizer(server, workers=3) as s:
        query_passages(PASSAGES, s, per_passage=4)
    assert 2 <= server.most_busy <= 3


def test_one_refusal_drops_one_item_and_many_stop(server):
    server.plan = lambda number, body: failing(400) if KETTLE in json.dumps(body) else None
    with synthesizer(server, workers=1) as s:
        assert len(query_passages(PASSAGES, s, styles=["keywords"])) == 3
    assert s.report.dropped == {"refused by the endpoint": 1}
    server.plan = lambda number, body: failing(400, message="unknown field seed")
    with (
        synthesizer(server, workers=1) as s,
        pytest.raises(EndpointError, match=r"5 requests in a row.*field seed.*extra_body"),
    ):
        query_passages(PASSAGES, s, per_passage=3)


def test_judges_are_asked_without_randomness(server):
    rows = [Row("a b", "The shop opens at 9.", ("The shop opens at 10.",))]
    with synthesizer(server) as s:
        assert relabel(rows, s).counts == {"kept": 1}
    assert server.bodies[0]["temperature"] == 0


# Runs: interruption and going on.


def settings(server, folder, **changes):
    values = {
        "documents": str(folder),
        "max_passage_tokens": 40,
        "steps": [{"step": "queries", "per_passage": 3}, {"step": "hard-negatives"}],
        "generators": {
            "llm": {"kind": "openai", "base_url": server.url, "model": "tiny", "max_retries": 0}
        },
        "workers": 2,
    }
    return SynthesisSettings.from_dict({**values, **changes})


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "documents"
    folder.mkdir()
    for place, text in enumerate(PASSAGES):
        (folder / f"{place}.md").write_text(f"# Page {place}\n\n{text}\n", encoding="utf-8")
    return folder


def test_an_endpoint_that_goes_away_leaves_what_came(server, folder, tmp_path):
    whole = run_synthesis(settings(server, folder), tmp_path / "whole")
    calls = len(server.bodies)
    server.bodies.clear()
    server.plan = lambda number, body: failing(503) if number >= 6 else None
    with pytest.raises(EndpointError, match=r"6 answers are kept in .*ledger.jsonl.*--resume"):
        run_synthesis(settings(server, folder, workers=1), tmp_path / "part")
    assert not (tmp_path / "part" / "rows.parquet").exists()
    server.plan = lambda number, body: None
    server.bodies.clear()
    with pytest.raises(InputError, match="--resume"):
        run_synthesis(settings(server, folder), tmp_path / "part")
    again = run_synthesis(settings(server, folder), tmp_path / "part", resume=True)
    assert again.rows.fingerprint() == whole.rows.fingerprint()
    assert len(server.bodies) == calls - 6
    assert again.report.cost == whole.report.cost
    report = json.loads((tmp_path / "part" / "report.json").read_text())
    assert report["calls_now"] == calls - 6
    assert report["generators"]["llm"]["calls"] == calls


def test_a_run_without_any_answer_needs_no_resume(server, folder, tmp_path):
    server.plan = lambda number, body: failing(503)
    with pytest.raises(EndpointError, match="0 answers are kept"):
        run_synthesis(settings(server, folder), tmp_path / "out")
    server.plan = lambda number, body: None
    assert len(run_synthesis(settings(server, folder), tmp_path / "out").rows) > 0


CHILD = """
import sys
from embedworks.data import SynthesisSettings, run_synthesis
run_synthesis(SynthesisSettings.from_yaml(sys.argv[1]), sys.argv[2])
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no kill -9 here")
def test_a_killed_run_goes_on_with_identical_rows(server, folder, tmp_path):
    plan = settings(server, folder)
    whole = run_synthesis(plan, tmp_path / "whole")
    needed = server.prompts()
    server.bodies.clear()
    server.plan = lambda number, body: time.sleep(0.05)
    plan.to_yaml(tmp_path / "plan.yaml")
    out, ledger = tmp_path / "out", tmp_path / "out" / "ledger.jsonl"
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path / "plan.yaml"), str(out)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        deadline = time.monotonic() + 60
        while not (ledger.exists() and ledger.read_bytes().count(b"\n") >= 8):
            assert child.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.005)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    kept = ledger.read_bytes().count(b"\n") - 1
    assert 7 <= kept < len(needed)
    with open(ledger, "ab") as file:
        file.write(b'{"key": "half a li')
    time.sleep(0.1)  # requests of the dead child end
    before = len(server.bodies)
    server.plan = lambda number, body: None
    again = run_synthesis(plan, out, resume=True)
    assert again.rows.fingerprint() == whole.rows.fingerprint()
    assert list(again.rows) == list(whole.rows)
    assert len(server.bodies) - before == len(needed) - kept
    assert again.report.repaired == len(b'{"key": "half a li')
    lines = [json.loads(line) for line in ledger.read_text().splitlines()[1:]]
    assert len(lines) == len({line["key"] for line in lines}) == len(needed)


def test_the_mixture_is_equal_and_told(server, folder, tmp_path):
    mixed = settings(server, folder, steps=[{"step": "queries", "per_passage": 4}])
    both = {**mixed.to_dict()["generators"], "rules": {"kind": "rule-based"}}
    result = run_synthesis(mixed.replace(generators=both), tmp_path / "out")
    items = {name: g.items for name, g in result.report.generators.items()}
    assert items == {"llm": 8, "rules": 8}
    names = Counter(json.loads(row.provenance)[0]["generator"] for row in result.rows)
    assert set(names) == {"llm", "rules"}
