import json

import datasets
import pytest

from lightning_prefix.data.formats.squad import is_squad
from lightning_prefix.data.sources import load_splits
from lightning_prefix.errors import InputError

CONTEXT = "Zoë ran 5½ miles 🏃 to Bonn; then she ran home."


def document(*questions, **extra) -> dict:
    paragraphs = [{"context": CONTEXT, "qas": list(questions)}]
    return {"version": "v2.0", "data": [{"title": "Runs", "paragraphs": paragraphs}], **extra}


def question(*answers, name="q1", **extra) -> dict:
    answers = [{"text": text, "answer_start": start} for text, start in answers]
    return {"id": name, "question": "Where to?", "answers": answers, **extra}


BONN = ("Bonn", CONTEXT.index("Bonn"))
UNANSWERABLE = question(name="q0", is_impossible=True, plausible_answers=[{"text": "home", "answer_start": 0}])


def read(path):
    return load_splits(str(path))["train"]


def failure(path) -> str:
    with pytest.raises(InputError) as caught:
        read(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("sort_keys", [False, True])
def test_one_row_a_question_as_on_the_hub(write, indent, sort_keys):
    both = question(BONN, ("home", CONTEXT.index("home")), is_impossible=False)
    content = json.dumps(document(UNANSWERABLE, both), indent=indent, sort_keys=sort_keys, ensure_ascii=False)
    rows = read(write("a.json", b"\xef\xbb\xbf" + content.encode()))
    start = {"title": "Runs", "context": CONTEXT, "question": "Where to?"}
    starts = [BONN[1], CONTEXT.index("home")]
    assert rows.to_list() == [
        {"id": "q0", **start, "answers": {"text": [], "answer_start": []}},
        {"id": "q1", **start, "answers": {"text": ["Bonn", "home"], "answer_start": starts}},
    ]
    assert rows.column_names == ["id", "title", "context", "question", "answers"]


def test_types_do_not_depend_on_the_rows(write):
    answered, unanswerable = (
        read(write(f"{number}.json", json.dumps(document(row))))
        for number, row in enumerate([question(BONN), UNANSWERABLE])
    )
    assert answered.features == unanswerable.features
    text = datasets.Value("string")
    answers = {"text": datasets.List(text), "answer_start": datasets.List(datasets.Value("int32"))}
    assert answered.features == datasets.Features(
        {"id": text, "title": text, "context": text, "question": text, "answers": answers}
    )


def test_version_1_without_title_and_with_a_number_as_id(write):
    content = document(question(BONN, name=17), note="made by hand")
    del content["version"], content["data"][0]["title"]
    assert read(write("a.json", json.dumps(content))).select_columns(["id", "title"]).to_list() == [
        {"id": "17", "title": None}
    ]


def test_impossible_question_without_answers(write):
    content = question(is_impossible=True)
    del content["answers"]
    assert read(write("a.json", json.dumps(document(content))))["answers"][0] == {"text": [], "answer_start": []}


@pytest.mark.parametrize(
    "content",
    [
        '{"data": [1, 2], "label": "x"}\n{"data": [3], "label": "y"}\n',
        '{"version": 1, "text": "a"}\n',
        '[{"version": "1", "data": [{"paragraphs": []}]}]',
        '{"data": [{"title": "a"}], "text": "b"}\n',
    ],
)
def test_other_json_stays_rows(write, content):
    path = write("a.json", content)
    assert not is_squad(path)
    assert "answers" not in read(path).column_names


def test_jsonl_is_never_squad(write):
    assert read(write("a.jsonl", [document(question(BONN))])).column_names == ["version", "data"]


@pytest.mark.parametrize(
    ("answer", "there"),
    [
        (("Bonn", len(CONTEXT[: BONN[1]].encode())), CONTEXT[27:31]),  # counts bytes
        (("Bonn", -24), ""),
        (("Bonn", 1000), ""),
    ],
)
def test_answer_elsewhere(write, answer, there):
    message = failure(write("a.json", json.dumps(document(UNANSWERABLE, question(answer, name="q7")))))
    assert "question 'q7' (question 2 of paragraph 1 of article 1 of" in message
    assert f"'Bonn' should stand at character {answer[1]} of the context, where {there!r} stands" in message
    assert "counts characters from 0, not bytes" in message
    assert f"The nearest is at {BONN[1]}." in message


def test_answer_that_is_not_in_the_context(write):
    assert "does not contain it" in failure(write("a.json", json.dumps(document(question(("Köln", 3))))))


def test_empty_answer(write):
    assert 'Write "answers": []' in failure(write("a.json", json.dumps(document(question(("", 0))))))


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        (["data", 1], "x", "article 2 of"),
        (["data", 0, "paragraphs"], {}, "article 1 of"),
        (["data", 0, "paragraphs"], {}, "'paragraphs' is dict; it must be a list"),
        (["data", 0, "paragraphs", 0, "context"], None, "paragraph 1 of article 1 of"),
        (["data", 0, "paragraphs", 0, "context"], None, "there is no 'context'; it must be a text"),
        (["data", 0, "paragraphs", 0, "qas", 0], [], "there is no 'id'"),
        (["data", 0, "paragraphs", 0, "qas", 0, "id"], True, "'id' is bool"),
        (["data", 0, "paragraphs", 0, "qas", 0, "question"], ["x"], "question 1 of paragraph 1 of article 1 of"),
        (["data", 0, "paragraphs", 0, "qas", 0, "answers"], None, "question 'q1' (question 1 of"),
        (["data", 0, "paragraphs", 0, "qas", 0, "answers", 0, "answer_start"], "24", "'answer_start' is str"),
    ],
)
def test_malformed_nesting(write, path, value, expected):
    content = document(question(BONN))
    content["data"].append({"paragraphs": []})
    *owners, last = path
    owner = content
    for key in owners:
        owner = owner[key]
    owner[last] = value
    assert expected in failure(write("a.json", json.dumps(content)))


def test_truncated_file(write):
    message = failure(write("a.json", json.dumps(document(question(BONN)))[:-4]))
    assert "is not JSON" in message
    assert "at line 1" in message


def test_no_question(write):
    assert "is empty" in failure(write("a.json", json.dumps(document())))
    assert "is empty" in failure(write("b.json", '{"version": "1.1", "data": []}'))
