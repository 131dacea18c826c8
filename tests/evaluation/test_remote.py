"""An embeddings endpoint on this machine, good and bad, and files of finished vectors."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

from embedworks.errors import (
    DuplicateIdError,
    EndpointError,
    FormatError,
    InputError,
    NonFiniteError,
    NotFoundError,
    ShapeError,
)
from embedworks.evaluation import Resampling, RetrievalTask, evaluate_systems
from embedworks.evaluation.remote import (
    EndpointEncoder,
    VectorTable,
    open_endpoint,
    open_vectors,
)

KEY = "sk-secret-0123456789"


def vector(text):
    return [float(len(text)), float(text.count("a")), 1.0]


class Server(ThreadingHTTPServer):
    """Gives the vectors of `vector`, last text first, unless ``plan`` does something else."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.bodies, self.headers_seen = [], []
        self.plan = lambda number, body: None
        self.lock = threading.Lock()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, *_):
        """A client that went away is part of the tests."""


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            number = len(self.server.bodies)
            self.server.bodies.append(body)
            self.server.headers_seen.append(dict(self.headers))
        status, value = self.server.plan(number, body) or (200, answer(body))
        if self.path != "/v1/embeddings":
            status, value = 404, {"error": "no such path"}
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def answer(body, change=lambda data: data):
    data = [
        {"object": "embedding", "index": place, "embedding": vector(text)}
        for place, text in enumerate(body["input"])
    ]
    return {"object": "list", "data": change(data[::-1]), "model": body["model"]}


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def encoder(server, **options):
    return EndpointEncoder(server.url, "small", **{"backoff": 0.01, "timeout": 5.0, **options})


@pytest.mark.allow_hosts(["127.0.0.1"])
class TestEndpoint:
    def test_vectors_come_in_the_order_of_the_texts(self, server):
        texts = [f"{'a' * place} text" for place in range(7)]
        vectors = encoder(server, batch_size=3, extra_body={"dimensions": 3}).encode(texts)
        assert vectors.dtype == np.float32
        assert np.array_equal(vectors, [vector(text) for text in texts])
        assert [len(body["input"]) for body in server.bodies] == [3, 3, 1]
        assert server.bodies[0]["model"] == "small"
        assert server.bodies[0]["dimensions"] == 3
        assert server.headers_seen[0]["Authorization"] == f"Bearer {KEY}"
        assert encoder(server).encode([]).shape == (0, 3)

    def test_passing_failures_are_tried_again(self, server):
        server.plan = lambda number, body: (503, {"error": "busy"}) if number < 2 else None
        assert encoder(server).encode(["a"]).shape == (1, 3)
        assert len(server.bodies) == 3
        server.plan = lambda number, body: (429, {})
        with pytest.raises(EndpointError, match="gave no answer in 2 tries"):
            encoder(server, retries=1).encode(["a"])
        server.plan = lambda number, body: (200, {"error": "model is loading"})
        with pytest.raises(EndpointError, match=r"no list of embeddings: .*model is loading"):
            encoder(server, retries=1).encode(["a"])

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (lambda data: data[1:], "gave 2 vectors for 3 texts"),
            (lambda data: [data[0]] * 3, "each once; it gave the indices"),
            (lambda data: [{"embedding": d["embedding"]} for d in data], "each once"),
            (lambda data: [{**d, "embedding": [float("nan")] * 3} for d in data], "NaN"),
            (lambda data: [{**d, "embedding": [None, 1.0, 1.0]} for d in data], "NaN"),
            (lambda data: [{**d, "embedding": ["x", 1, 1]} for d in data], "something else"),
            (lambda data: [{**d, "embedding": "AAAA"} for d in data], "not a list"),
            (lambda data: [{**d, "embedding": [1] * (1 + d["index"])} for d in data], "one length"),
        ],
    )
    def test_answers_that_do_not_fit(self, server, change, said):
        server.plan = lambda number, body: (200, answer(body, change))
        with pytest.raises(EndpointError, match=said):
            encoder(server).encode(["a", "bb", "ccc"])
        assert len(server.bodies) == 1

    def test_a_changing_dimension(self, server):
        wider = [{"index": 0, "embedding": [1.0] * 4}]
        server.plan = lambda number, body: (200, {"data": wider}) if number == 1 else None
        with pytest.raises(EndpointError, match="of 3 and now of 4 dimensions"):
            encoder(server, batch_size=1).encode(["a", "b"])

    def test_refusals_say_what_to_do(self, server, monkeypatch):
        server.plan = lambda number, body: (400, {"error": "input is empty"})
        with pytest.raises(EndpointError, match=r"input is empty.*1 of them empty"):
            encoder(server).encode(["a", ""])
        server.plan = lambda number, body: (401, {"error": f"bad key {KEY}"})
        with pytest.raises(EndpointError, match="OPENAI_API_KEY was not accepted") as caught:
            encoder(server).encode(["a"])
        assert KEY not in str(caught.value)
        server.plan = lambda number, body: None
        with pytest.raises(EndpointError, match="no embeddings below this base_url"):
            EndpointEncoder(f"{server.url}/more", "small").encode(["a"])
        with pytest.raises(InputError, match="batch_size must be in"):
            encoder(server, batch_size=0)

    def test_as_a_system_with_a_cache(self, server, tmp_path):
        task = RetrievalTask(
            "toy",
            {"q": "aaaa b"},
            {"x": "aaaa c", "y": "b b b b b b b b"},
            {"q": {"x": 1}},
        )
        first = open_endpoint(f"{server.url}#small", cache=tmp_path)
        (result,) = evaluate_systems([first], [task], resampling=Resampling(n_resamples=100))
        assert result.name == "small"
        assert result.about["url"] == server.url
        assert result.about["dimension"] == 3
        assert result.tasks["toy"].main.interval.mean == 1.0
        sent = len(server.bodies)
        second = open_endpoint(f"{server.url}#small", cache=tmp_path)
        (again,) = evaluate_systems([second], [task])
        assert again.tasks["toy"].cost.cached == 3
        assert all(len(b["input"]) > 3 or "dimension" in b["input"] for b in server.bodies[sent:])
        with pytest.raises(InputError, match="Name the model after '#'"):
            open_endpoint(server.url)


def test_no_server():
    with pytest.raises(InputError, match="must begin with http"):
        open_endpoint("ftp://somewhere#small")


TEXTS = ["a cat", "two\nlines", ""]
VECTORS = np.array([[1, 0], [0, 1], [1, 1]], dtype=np.float32)


@pytest.mark.parametrize("form", ["parquet", "npy", "npy-txt", "safetensors"])
def test_files_of_vectors(tmp_path, form):
    texts = TEXTS if form != "npy-txt" else ["a cat", "one line", ""]
    path = tmp_path / f"v.{form.removesuffix('-txt')}"
    if form == "parquet":
        VectorTable(texts, VECTORS).save(path)
    elif form == "safetensors":
        save_file({"vectors": VECTORS.astype(np.float16)}, path)
    else:
        np.save(path, VECTORS)
    if form == "npy-txt":
        (tmp_path / "v.txt").write_text("\n".join(texts) + "\n")
    elif form != "parquet":
        lines = [json.dumps(texts[0]), *(json.dumps({"text": text}) for text in texts[1:])]
        (tmp_path / "v.jsonl").write_text("\n".join(lines) + "\n")
    table = VectorTable.load(path)
    assert len(table) == 3
    order = [2, 0, 1, 0]
    assert np.array_equal(table.encode([texts[place] for place in order]), VECTORS[order])


def test_vectors_as_a_system(tmp_path):
    path = VectorTable(["q", "x", "y"], [[1, 0], [2, 0], [0, 1]]).save(tmp_path / "mine.parquet")
    system = open_vectors(path)
    fine = RetrievalTask("fine", {"1": "q"}, {"x": "x", "y": "y"}, {"1": {"x": 1}})
    lacking = RetrievalTask("lacking", {"1": "q"}, {"x": "x", "z": "z"}, {"1": {"x": 1}})
    with pytest.warns(UserWarning, match="mine failed on lacking"):
        (result,) = evaluate_systems([system], [fine, lacking])
    assert result.about["kind"] == "vectors"
    assert result.about["dimension"] == 2
    assert result.tasks["fine"].main.interval.mean == 1.0
    assert (
        "1 of 2 texts have no vector in mine.parquet, the first is 'z'" in result.errors["lacking"]
    )
    assert open_vectors(path).fingerprint == system.fingerprint
    other = VectorTable(["q", "x", "y"], [[1, 0], [2, 0], [0, 2]])
    assert other.fingerprint != system.fingerprint


def test_tables_that_cannot_be_used(tmp_path):
    with pytest.raises(ShapeError, match="2 texts and 1 vectors"):
        VectorTable(["a", "b"], [[1.0]])
    with pytest.raises(DuplicateIdError, match="1 texts occur again with another vector.*'a'"):
        VectorTable(["a", "b", "a"], [[1.0], [2.0], [3.0]])
    assert len(VectorTable(["a", "a"], [[1.0], [1.0]])) == 1
    with pytest.raises(NonFiniteError):
        VectorTable(["a"], [[np.nan]])
    with pytest.raises(NotFoundError, match="does not exist"):
        VectorTable.load(tmp_path / "none.parquet")
    np.save(tmp_path / "v.npy", VECTORS)
    with pytest.raises(NotFoundError, match=r"v\.jsonl or, one a line, in v\.txt"):
        VectorTable.load(tmp_path / "v.npy")
    (tmp_path / "v.jsonl").write_text("nonsense\n")
    with pytest.raises(FormatError, match="one JSON string"):
        VectorTable.load(tmp_path / "v.npy")
    np.save(tmp_path / "o.npy", np.array([{}], dtype=object))
    with pytest.raises(FormatError, match="not a readable"):
        VectorTable.load(tmp_path / "o.npy")
    (tmp_path / "s.safetensors").write_bytes(b"half")
    with pytest.raises(FormatError, match="not a readable safetensors"):
        VectorTable.load(tmp_path / "s.safetensors")
    save_file({"a": VECTORS, "b": VECTORS}, tmp_path / "s.safetensors")
    with pytest.raises(FormatError, match="must hold one array"):
        VectorTable.load(tmp_path / "s.safetensors")
    pq.write_table(
        pa.table({"text": ["a", "b"], "vector": [[1.0], [1.0, 2.0]]}), tmp_path / "r.parquet"
    )
    with pytest.raises(FormatError, match="lists of numbers of one length"):
        VectorTable.load(tmp_path / "r.parquet")
    with pytest.raises(InputError, match="no column 'vectr'"):
        VectorTable.load(tmp_path / "r.parquet", vector_column="vectr")
    (tmp_path / "v.pkl").write_bytes(b"")
    with pytest.raises(InputError, match=r"must end in \.parquet"):
        VectorTable.load(tmp_path / "v.pkl")
