"""Bodies of requests to jobs, checked."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from lightning_prefix.serving.jobs import Job, RequestError
from lightning_prefix.serving.prefixes import ServedPrefix
from lightning_prefix.serving.settings import ServerSettings

__all__ = ["chat_job", "predict_jobs", "read_json"]

_PREDICT = ("prefix", "input", "inputs", "stream", "max_tokens", "stop", "temperature", "top_p")
_CHAT = ("model", "messages", "stream", "max_tokens", "max_completion_tokens", "stop", "temperature", "top_p")
_CHAT_WITHOUT_EFFECT = ("user", "metadata", "stream_options", "store")
_MAX_STOPS = 4


def read_json(body: bytes) -> dict[str, Any]:
    """The object in a body.

    Raises:
        RequestError: 400 if there is none.
    """
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:  # ValueError also of bytes that are no UTF-8
        raise RequestError(400, f"the body is no JSON ({error}); send an object as UTF-8.") from error
    if not isinstance(value, dict):
        raise RequestError(400, f"the body is a JSON {type(value).__name__}; send an object.")
    return value


def predict_jobs(
    body: Mapping[str, Any], prefixes: Mapping[str, ServedPrefix], settings: ServerSettings
) -> tuple[list[Job], bool]:
    """Jobs of a request to `/predict`, and whether it is streamed.

    Raises:
        RequestError: 404 for a prefix that is not there, 413 for too much text, 422 for what else cannot be used.
    """
    _check_names(body, _PREDICT)
    prefix = _prefix(body, "prefix", prefixes)
    if ("input" in body) == ("inputs" in body):
        raise RequestError(422, "give either `input`, for one, or `inputs`, a list.")
    inputs = body["inputs"] if "inputs" in body else [body["input"]]
    if not isinstance(inputs, list) or not inputs:
        raise RequestError(422, f"`inputs` is {_shown(inputs)}; give a list with at least one input.")
    if len(inputs) > settings.max_inputs:
        raise RequestError(413, f"{len(inputs)} inputs are given; at most {settings.max_inputs} are taken at a time.")
    for given in inputs:
        if not isinstance(given, str | list | dict):
            raise RequestError(422, f"an input is {_shown(given)}; give a text, a list, or an object with columns.")
    _check_characters(inputs, settings)
    is_streamed = _boolean(body, "stream")
    options = _writing(body, "max_tokens")
    _check_writing(prefix, is_streamed, options)
    if is_streamed and len(inputs) > 1:
        raise RequestError(422, f"{len(inputs)} inputs are to be streamed; stream one at a time.")
    return [Job(prefix.name, given, is_streamed, **options) for given in inputs], is_streamed


def chat_job(body: Mapping[str, Any], prefixes: Mapping[str, ServedPrefix], settings: ServerSettings) -> Job:
    """The job of a request to `/v1/chat/completions`; `model` names the prefix.

    Raises:
        RequestError: 404 for a prefix that is not there, 413 for too much text, 422 for what else cannot be used.
    """
    _check_names({name: v for name, v in body.items() if name not in _CHAT_WITHOUT_EFFECT and v is not None}, _CHAT)
    prefix = _prefix(body, "model", prefixes)
    if not prefix.chats:
        raise RequestError(422, f"{prefix.name!r} is a {prefix.task}; to chat it must be a Dialogue. Use /predict.")
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(m, dict) for m in messages):
        raise RequestError(422, f"`messages` is {_shown(messages)}; give a list of objects with role and content.")
    messages = [{"role": message.get("role"), "content": _content(message)} for message in messages]
    _check_characters(messages, settings)
    if messages[-1]["role"] != "user":
        raise RequestError(422, f"the last message is of the {messages[-1]['role']!r}; it must be of the 'user'.")
    limit = "max_tokens" if body.get("max_completion_tokens") is None else "max_completion_tokens"
    is_streamed, options = _boolean(body, "stream"), _writing(body, limit)
    _check_writing(prefix, is_streamed, options)
    return Job(prefix.name, messages, is_streamed, **options)


def _check_names(body: Mapping[str, Any], known: Sequence[str]) -> None:
    if unknown := [name for name in body if name not in known]:
        raise RequestError(422, f"{unknown[0]!r} is given; what is read is {', '.join(known)}. Leave it out.")


def _prefix(body: Mapping[str, Any], key: str, prefixes: Mapping[str, ServedPrefix]) -> ServedPrefix:
    name = body.get(key)
    if not isinstance(name, str):
        raise RequestError(422, f"`{key}` is {_shown(name)}; give the name of a prefix: {', '.join(prefixes)}.")
    if name not in prefixes:
        raise RequestError(404, f"there is no prefix {_shown(name)}; there are {', '.join(prefixes)}.")
    return prefixes[name]


def _boolean(body: Mapping[str, Any], key: str) -> bool:
    value = body.get(key)
    if value is not None and not isinstance(value, bool):
        raise RequestError(422, f"`{key}` is {_shown(value)}; give true or false.")
    return bool(value)


def _writing(body: Mapping[str, Any], limit: str) -> dict[str, Any]:
    """Options of a job for texts."""
    max_tokens = body.get(limit)
    if max_tokens is not None and (type(max_tokens) is not int or max_tokens < 1):
        raise RequestError(422, f"`{limit}` is {_shown(max_tokens)}; give a number of tokens, >= 1.")
    stop = body.get("stop")
    stops = [] if stop is None else [stop] if isinstance(stop, str) else stop
    if not isinstance(stops, list) or len(stops) > _MAX_STOPS or not all(isinstance(s, str) and s for s in stops):
        raise RequestError(422, f"`stop` is {_shown(stop)}; give a text, or a list of up to {_MAX_STOPS}.")
    temperature, top_p = _number(body, "temperature", 0, 2), _number(body, "top_p", 0, 1)
    generation: dict[str, Any] = {}
    if temperature is not None:
        generation = {"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}
    if top_p is not None and generation.get("do_sample", True):
        if not top_p:
            raise RequestError(422, "`top_p` is 0; give more than 0, or temperature 0 for the likeliest tokens.")
        generation |= {"do_sample": True, "top_p": top_p}
    return {"max_tokens": max_tokens, "stop": tuple(stops), "generation": generation}


def _check_writing(prefix: ServedPrefix, is_streamed: bool, options: Mapping[str, Any]) -> None:
    if not prefix.streams and (is_streamed or any(options.values())):
        what = "writes several texts at a time (num_beams)" if prefix.writes else "writes no text"
        raise RequestError(
            422,
            f"{prefix.name!r} is a {prefix.task} that {what}; leave out stream, max_tokens, stop, temperature and "
            "top_p.",
        )


def _number(body: Mapping[str, Any], key: str, low: float, high: float) -> float | None:
    value = body.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise RequestError(422, f"`{key}` is {_shown(value)}; give a number from {low} to {high}.")
    return float(value)


def _content(message: Mapping[str, Any]) -> Any:
    """The text of a message; clients may send it in parts."""
    content = message.get("content")
    if not isinstance(content, list):
        return content
    if not all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        raise RequestError(422, f"a message holds {_shown(content)}; only parts of the type text are read.")
    return "".join(str(part.get("text", "")) for part in content)


def _check_characters(value: Any, settings: ServerSettings) -> None:
    count = _characters(value)
    if count > settings.max_characters:
        raise RequestError(413, f"{count} characters are given; at most {settings.max_characters} are read. Shorten.")


def _characters(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(map(_characters, value.values()))
    return sum(map(_characters, value)) if isinstance(value, list) else 0


def _shown(value: Any) -> str:
    """Short, for a message."""
    text = "missing" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."
