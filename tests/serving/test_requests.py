"""Bodies of requests: what is read, and what is refused with which status and words."""

import pytest

from lightning_prefix.errors import InputError
from lightning_prefix.serving.jobs import Job, RequestError
from lightning_prefix.serving.prefixes import ServedPrefix
from lightning_prefix.serving.requests import chat_job, predict_jobs, read_json
from lightning_prefix.serving.settings import KEY_VARIABLE, ServerSettings


def prefix(name: str, task: str, *, writes=False, streams=False, chats=False) -> ServedPrefix:
    return ServedPrefix(name, "folder", task, ("text",), writes, streams, chats)


PREFIXES = {
    "mood": prefix("mood", "TextClassification"),
    "writer": prefix("writer", "TextGeneration", writes=True, streams=True),
    "beams": prefix("beams", "TextGeneration", writes=True),
    "talker": prefix("talker", "Dialogue", writes=True, streams=True, chats=True),
}
SETTINGS = ServerSettings(max_characters=50, max_inputs=3)
USER = {"role": "user", "content": "Hi."}


def refused(function, *values) -> tuple[int, str]:
    with pytest.raises(RequestError) as caught:
        function(*values)
    return caught.value.status, caught.value.message


def test_inputs_become_jobs():
    jobs, is_streamed = predict_jobs({"prefix": "mood", "inputs": ["a", ["b", "c"], {"text": "d"}]}, PREFIXES, SETTINGS)
    assert jobs == [Job("mood", "a"), Job("mood", ["b", "c"]), Job("mood", {"text": "d"})]
    assert not is_streamed
    body = {"prefix": "writer", "input": "a", "stream": True, "max_tokens": 3, "stop": "x", "temperature": 0}
    job = Job("writer", "a", True, 3, ("x",), {"do_sample": False})
    assert predict_jobs(body, PREFIXES, SETTINGS) == ([job], True)


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({}, 422, "`prefix` is missing; give the name of a prefix: mood, writer, beams, talker."),
        ({"prefix": "other", "input": "a"}, 404, "there is no prefix"),
        ({"prefix": "mood"}, 422, "give either `input`"),
        ({"prefix": "mood", "input": "a", "inputs": ["a"]}, 422, "give either `input`"),
        ({"prefix": "mood", "inputs": []}, 422, "at least one input"),
        ({"prefix": "mood", "inputs": "a"}, 422, '`inputs` is "a"; give a list'),
        ({"prefix": "mood", "input": 3}, 422, "an input is 3"),
        ({"prefix": "mood", "inputs": ["a"] * 4}, 413, "4 inputs are given; at most 3"),
        ({"prefix": "mood", "inputs": ["a" * 30, {"text": "b" * 21}]}, 413, "51 characters are given; at most 50"),
        ({"prefix": "mood", "input": "a", "text": "b"}, 422, "'text' is given; what is read is prefix, input"),
        ({"prefix": "mood", "input": "a", "stream": True}, 422, "writes no text; leave out stream"),
        ({"prefix": "mood", "input": "a", "max_tokens": 2}, 422, "writes no text; leave out stream"),
        ({"prefix": "beams", "input": "a", "temperature": 1}, 422, "writes several texts at a time (num_beams)"),
        ({"prefix": "writer", "input": "a", "stream": "yes"}, 422, '`stream` is "yes"; give true or false'),
        ({"prefix": "writer", "inputs": ["a", "b"], "stream": True}, 422, "stream one at a time"),
        ({"prefix": "writer", "input": "a", "max_tokens": True}, 422, "`max_tokens` is true"),
        ({"prefix": "writer", "input": "a", "max_tokens": 0}, 422, "`max_tokens` is 0"),
        ({"prefix": "writer", "input": "a", "temperature": 3}, 422, "a number from 0 to 2"),
        ({"prefix": "writer", "input": "a", "top_p": 0}, 422, "`top_p` is 0"),
        ({"prefix": "writer", "input": "a", "stop": ["a"] * 5}, 422, "a list of up to 4"),
        ({"prefix": "writer", "input": "a", "stop": [""]}, 422, "`stop` is"),
    ],
)
def test_what_predict_refuses(body, status, words):
    found, message = refused(predict_jobs, body, PREFIXES, SETTINGS)
    assert found == status
    assert words in message


def test_chats_become_jobs():
    parts = [{"type": "text", "text": "H"}, {"type": "text", "text": "i."}]
    body = {"model": "talker", "messages": [{"role": "user", "content": parts}], "user": "me", "max_tokens": None}
    assert chat_job(body, PREFIXES, SETTINGS) == Job("talker", [USER])
    body = {"model": "talker", "messages": [USER], "max_completion_tokens": 4, "top_p": 0.5}
    assert chat_job(body, PREFIXES, SETTINGS) == Job("talker", [USER], False, 4, (), {"do_sample": True, "top_p": 0.5})


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"messages": [USER]}, 422, "`model` is missing"),
        ({"model": "gpt", "messages": [USER]}, 404, "there is no prefix"),
        ({"model": "writer", "messages": [USER]}, 422, "to chat it must be a Dialogue. Use /predict."),
        ({"model": "talker"}, 422, "`messages` is missing"),
        ({"model": "talker", "messages": ["Hi."]}, 422, "a list of objects with role and content"),
        ({"model": "talker", "messages": [USER, {"role": "assistant", "content": "Yes."}]}, 422, "the last message"),
        ({"model": "talker", "messages": [{"role": "user", "content": [{"type": "image"}]}]}, 422, "type text"),
        ({"model": "talker", "messages": [{"role": "user", "content": "a" * 60}]}, 413, "characters"),
        ({"model": "talker", "messages": [USER], "n": 2}, 422, "'n' is given"),
    ],
)
def test_what_chats_refuse(body, status, words):
    found, message = refused(chat_job, body, PREFIXES, SETTINGS)
    assert found == status
    assert words in message


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"[1]", b'"a"', b"[" * 100_000])
def test_bodies_that_are_no_object(body):
    assert refused(read_json, body)[0] == 400


def test_settings(monkeypatch):
    for wrong in ({"port": 80}, {"host": "example"}, {"batch_size": 0}, {"timeout": 0}, {"max_new_tokens": 0}):
        with pytest.raises(InputError, match=r"is given|are given"):
            ServerSettings(**wrong)
    assert ServerSettings().key is None
    monkeypatch.setenv(KEY_VARIABLE, "from outside")
    assert ServerSettings().key == "from outside"
    assert ServerSettings(api_key="given").key == "given"
    assert ServerSettings(api_key="").key is None
