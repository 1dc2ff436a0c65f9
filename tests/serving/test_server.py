"""A real server in processes of its own: answers under load, streams, what is refused, and how it ends."""

import asyncio
import http.client
import json
import os
import signal
import socket
import subprocess
import threading
import time

import pytest
from serving_client import RunningServer, load

import lightning_prefix as lp
from lightning_prefix.serving.server import serve_prefixes
from lightning_prefix.serving.settings import ServerSettings

KEY = {"Authorization": "Bearer secret"}
TEXTS = ["the good film", "a bad plot", "good", "review : the film the plot a good film", "a the"]


def close(one, other) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(close(one[key], other[key]) for key in one)
    return one == pytest.approx(other, abs=1e-4)


def test_concurrent_answers_are_those_of_each_prefix_alone(server, folders):
    names = [name for name in folders.by_name if name != "talker"]
    alone = {name: lp.Predictor.from_pretrained(folders.by_name[name]) for name in names}
    expected = {name: dict(zip(TEXTS, alone[name](TEXTS), strict=True)) for name in names}
    asked = [(names[i % len(names)], TEXTS[i % len(TEXTS)]) for i in range(300)]
    bodies = [{"prefix": name, "input": text} for name, text in asked]
    answers, _ = asyncio.run(load(server.port, bodies, 100, "secret"))
    for (name, text), answer in zip(asked, answers, strict=True):
        assert answer is not None
        assert answer[0] == 200, answer
        assert close(answer[1]["output"], expected[name][text]), (name, text, answer, expected[name][text])
    _, text, _ = server.ask("/metrics", **KEY)
    numbers = dict(line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
    assert float(numbers['lightning_prefix_rows_total{prefix="mood"}']) >= 50
    rows = sum(float(n) for name, n in numbers.items() if name.startswith("lightning_prefix_rows_total"))
    assert float(numbers["lightning_prefix_passes_total"]) < rows / 2
    assert float(numbers['lightning_prefix_requests_total{route="/predict",status="200"}']) >= 300
    assert float(numbers["lightning_prefix_requests_in_flight"]) == 0


def test_several_inputs_of_one_request(server):
    status, body, _ = server.ask("/predict", {"prefix": "stars", "inputs": TEXTS}, **KEY)
    assert status == 200
    alone = [server.ask("/predict", {"prefix": "stars", "input": text}, **KEY)[1]["output"] for text in TEXTS]
    assert all(map(close, body["outputs"], alone))


def test_streams(server):
    body = {"prefix": "writer", "input": "the good film"}
    _, whole, _ = server.ask("/predict", body, **KEY)
    *pieces, last = server.events("/predict", {**body, "stream": True}, **KEY)
    assert last["output"] == whole["output"]
    assert "".join(piece["text"] for piece in pieces) == whole["output"]["generated_text"]
    assert len(pieces) > 3
    assert last["usage"] == {"prompt_tokens": 3, "completion_tokens": 20, "total_tokens": 23}


def test_chats_as_openai_does(server, folders):
    messages = [{"role": "user", "content": "good film"}]
    body = {"model": "talker", "messages": messages}
    _, whole, _ = server.ask("/v1/chat/completions", body, **KEY)
    assert whole["object"] == "chat.completion"
    (choice,) = whole["choices"]
    expected = lp.Predictor.from_pretrained(folders.by_name["talker"])([messages])[0]["generated_text"]
    assert choice["message"] == {"role": "assistant", "content": expected}
    assert choice["finish_reason"] == "length"
    assert whole["usage"]["completion_tokens"] == 12
    first, *chunks, last = server.events("/v1/chat/completions", {**body, "stream": True}, **KEY)
    assert {chunk["object"] for chunk in (first, *chunks, last)} == {"chat.completion.chunk"}
    assert first["choices"][0]["delta"]["role"] == "assistant"
    assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks) == expected
    assert last["choices"][0]["finish_reason"] == "length"
    status, models, _ = server.ask("/v1/models", **KEY)
    assert status == 200
    assert [model["id"] for model in models["data"]] == list(folders.by_name)


def test_open_routes(server):
    assert server.ask("/health")[:2] == (200, {"status": "ok"})
    status, page, headers = server.ask("/")
    assert status == 200
    assert headers["content-type"].startswith("text/html")
    assert "<select" in page


@pytest.mark.parametrize("route", ["/predict", "/v1/chat/completions", "/v1/models", "/metrics"])
@pytest.mark.parametrize("key", [{}, {"Authorization": "Bearer wrong"}, {"X_API_Key": "wrong"}, {"X_API_Key": "é"}])
def test_no_route_without_the_key(server, route, key):
    body = None if route in ("/v1/models", "/metrics") else {"prefix": "mood", "input": "good"}
    status, answer, headers = server.ask(route, body, **key)
    assert status == 401
    assert answer["error"]["type"] == "authentication_error"
    assert headers["www-authenticate"] == "Bearer"


def test_the_key_in_either_header(server):
    body = {"prefix": "mood", "input": "good"}
    assert server.ask("/predict", body, X_API_Key="secret")[0] == 200
    assert server.ask("/predict", body, Authorization="bearer secret")[0] == 200


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"{", 400, "the body is no JSON"),
        (b"\xff", 400, "the body is no JSON"),
        ([], 400, "send an object"),
        ({"prefix": "other", "input": "a"}, 404, "there is no prefix"),
        ({"prefix": "mood", "input": "a" * 2001}, 413, "2001 characters are given; at most 2000"),
        ({"prefix": "mood", "input": "a" * 3000}, 413, "longer than 3000 bytes"),
        ({"prefix": "mood", "inputs": ["a"] * 21}, 413, "at most 20"),
        ({"prefix": "mood", "input": {"x": "y"}}, 422, "it lacks text"),
        ({"prefix": "mood", "input": "a", "stream": True}, 422, "writes no text"),
        ({"prefix": "writer", "input": ["a", "b"], "stream": True}, 422, "reads text per input"),
    ],
)
def test_what_is_refused(server, body, status, words):
    found, answer, _ = server.ask("/predict", body, **KEY)
    assert found == status, answer
    assert words in answer["error"]["message"]
    assert answer["error"]["code"] == status


def test_other_routes_and_methods(server):
    assert server.ask("/nothing")[:2][0] == 404
    status, answer, _ = server.ask("/predict", **KEY)
    assert status == 405
    assert answer["error"]["message"] == "/predict takes no GET."


def test_a_body_without_a_length_is_cut_off_at_the_limit(server):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    parts = iter([b"x" * 1000] * 5)
    connection.request("POST", "/predict", body=parts, headers=KEY, encode_chunked=True)
    response = connection.getresponse()
    assert response.status == 413
    assert b"longer than 3000 bytes" in response.read()


def test_a_client_that_leaves_harms_nobody(server):
    data = json.dumps({"prefix": "writer", "input": "the good film", "stream": True}).encode()
    head = f"POST /predict HTTP/1.1\r\nHost: a\r\nX-API-Key: secret\r\nContent-Length: {len(data)}\r\n\r\n".encode()
    for cut in (len(data), len(data) // 2):
        with socket.create_connection(("127.0.0.1", server.port)) as left:
            left.sendall(head + data[:cut])
            if cut == len(data):
                left.recv(10)
    assert server.ask("/predict", {"prefix": "writer", "input": "good"}, **KEY)[0] == 200
    until = time.monotonic() + 10
    while "requests_in_flight 0\n" not in server.ask("/metrics", **KEY)[1]:
        assert time.monotonic() < until
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("number", "whole_group"),
    [
        (signal.SIGTERM, False),
        pytest.param(signal.SIGTERM, True, marks=pytest.mark.slow),  # as service managers do
        pytest.param(signal.SIGINT, True, marks=pytest.mark.slow),  # as terminals do
    ],
)
def test_a_signal_ends_the_server_after_the_last_answer(folders, tmp_path, number, whole_group):
    words = ["--prefix", folders.by_name["mood"], "--batch_timeout", "1.5"]
    server = RunningServer(*words, log=tmp_path / "log")
    answers, body = [], {"prefix": "mood", "input": "good"}
    asking = [threading.Thread(target=lambda: answers.append(server.ask("/predict", body))) for _ in range(5)]
    for thread in asking:
        thread.start()
    time.sleep(0.5)
    (os.killpg if whole_group else os.kill)(server.process.pid, number)
    time.sleep(0.2)
    status, refused, headers = server.ask("/predict", body)
    assert status == 503
    assert "the server is stopping" in refused["error"]["message"]
    assert headers["retry-after"] == "1"
    assert server.ask("/health")[:2] == (503, {"status": "stopping"})
    for thread in asking:
        thread.join()
    assert [status for status, *_ in answers] == [200] * 5
    assert server.process.wait(30) == 0
    log = server.log.read_text()
    assert "Traceback" not in log
    assert "leaked" not in log
    until = time.monotonic() + 10
    while server.is_anybody_left():
        assert time.monotonic() < until
        time.sleep(0.1)


@pytest.mark.slow
def test_a_server_whose_worker_dies_ends_too(folders, tmp_path):
    server = RunningServer("--prefix", folders.by_name["mood"], log=tmp_path / "log")
    found = subprocess.run(["pgrep", "-f", "-g", str(server.process.pid), "spawn_main"], stdout=subprocess.PIPE)  # noqa: S607
    for pid in map(int, found.stdout.split()):
        os.kill(pid, signal.SIGKILL)
    assert server.process.wait(60) == 1
    assert "Traceback" not in server.log.read_text()
    assert "the process that held the backbone ended" in server.log.read_text()


def test_a_port_that_is_taken(server, folders):
    with pytest.raises(lp.InputError, match=rf"port {server.port} of 127.0.0.1 cannot be had .*; give another"):
        serve_prefixes([folders.by_name["mood"]], ServerSettings(port=server.port))
