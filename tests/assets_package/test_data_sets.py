import io
import json
import os
import pickle

import pytest

from lightning_prefix.assets import chinese_news, chitchat, evals_samples, ui_strings
from lightning_prefix.errors import InputError

PO = """\
# a comment
msgid ""
msgstr "Language: pt\\n"

#: a.py:1
#, python-format
msgid "The cast "
"is  \\"great\\" today.\\n"
msgstr ""
"O elenco "
"é \\"ótimo\\" hoje.\\n"

#, fuzzy
#| msgid "before"
msgid "It still drags on here."
msgstr "Arrasta-se ainda aqui."

msgctxt "menu"
msgid "Another text with a context."
msgstr "Outro texto com um contexto."

msgid "One day of the week"
msgid_plural "%d days of the week"
msgstr[0] "Um dia da semana"
msgstr[1] "%d dias da semana"

#~ msgid "An obsolete text of old."
#~ msgstr "Um texto obsoleto de outrora."
"""


@pytest.fixture
def unpacked(tmp_path):
    folder = tmp_path / "unpacked"
    folder.mkdir()
    return folder


@pytest.fixture
def target(tmp_path):
    folder = tmp_path / "target"
    folder.mkdir()
    return folder


def rows(target):
    assert {path.name for path in target.iterdir()} == {"train.jsonl", "validation.jsonl", "test.jsonl"}
    return [json.loads(line) for path in target.iterdir() for line in path.read_text("utf-8").splitlines()]


def test_po_entries_are_joined_and_unescaped_without_fuzzy_obsolete_and_plural():
    assert list(ui_strings.parse(PO)) == [
        ("", "Language: pt"),
        ('The cast is "great" today.', 'O elenco é "ótimo" hoje.'),
        ("Another text with a context.", "Outro texto com um contexto."),
    ]


def test_ui_strings_are_long_plain_and_translated_once(unpacked, target):
    def entries(*pairs):
        return "\n\n".join(f'msgid "{english}"\nmsgstr "{translation}"' for english, translation in pairs)

    plain = "The cast is really great."
    (unpacked / "a.po").write_text(
        entries(
            (plain, "Primeira."),
            ("Only four words here.", "Quatro."),
            ("This one has no translation.", ""),
            ("This one is the same.", "This one is the same."),
            ("The cast is %s and great.", "%s"),
            ("The cast is <b>really</b> great.", "b"),
            ("Read all of it at http://example.com", "Leia"),
        ),
        "utf-8",
    )
    (unpacked / "b.po").write_text(entries((plain, "Segunda.")), "utf-8")
    ui_strings.write_pairs(unpacked, target)
    assert rows(target) == [{"en": plain, "pt": "Primeira."}]


def turns(*texts):
    return [[{"sender": sender, "text": text} for text in said] for sender, said in texts]


def test_conversation_joins_a_speaker_skips_blanks_and_ends_with_an_answer():
    messages = chitchat.conversation(
        turns(("b", ["Hi ", "You there?"]), ("a", ["Yes"]), ("b", [" "]), ("a", ["And you?"]), ("b", ["Bye"]))
    )
    assert messages == [
        {"role": "user", "content": "Hi\nYou there?"},
        {"role": "assistant", "content": "Yes\nAnd you?"},
    ]


def test_conversations_without_an_answer_are_left_out(unpacked, target):
    dialogues = {"x": turns(("a", ["Hi"]), ("b", ["Hello"])), "y": turns(("a", ["Anyone?"]))}
    content = {key: {"messages": dialogue, "ratings": {}} for key, dialogue in dialogues.items()}
    (unpacked / "dataset.json").write_text(json.dumps(content))
    chitchat.write_conversations(unpacked, target)
    assert rows(target) == [
        {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}
    ]


def test_news_keep_their_splits_with_labels_as_text(unpacked, target):
    for name in ("train", "dev", "test"):
        content = ([name, name], [" 一\\n二\n"] * 2, [1, 1])
        (unpacked / f"{name}.pkl").write_bytes(pickle.dumps(content))
    chinese_news.write_news(unpacked, target)
    for split, title in [("train", "train"), ("validation", "dev"), ("test", "test")]:
        (line,) = (target / f"{split}.jsonl").read_text("utf-8").splitlines()
        assert json.loads(line) == {"title": title, "text": "一\n二", "label": "1"}


def test_news_pickle_that_names_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    with pytest.raises(InputError, match=r"names \w+\.mkdir; .*nothing was run"):
        chinese_news.read_rows(io.BytesIO(pickle.dumps(([Evil()], [""], [0]))))
    assert not (tmp_path / "ran").exists()


def write_samples(unpacked, *samples):
    lines = [
        json.dumps(
            {"input": [{"role": "system", "content": "Task"}, {"role": "user", "content": text}], "ideal": ideal}
        )
        for text, ideal in samples
    ]
    (unpacked / "samples.jsonl").write_text("\n".join(lines) + "\n")


def test_choice_splits_situation_question_and_options():
    text = "Ann fell. Did it hurt? Yes. What's next? A: a; or b; B: get up. Really; C: eat."
    assert evals_samples.choice(text, "B") == {
        "context": "Ann fell. Did it hurt? Yes.",
        "question": "What's next?",
        "options": ["a; or b", "get up. Really", "eat"],
        "answer": "get up. Really",
    }


def test_social_iqa(unpacked, target):
    sample = ("Ann fell. What will Ann do next? A: sing; B: get up; C: eat.", "C")
    write_samples(unpacked, sample, sample)
    evals_samples.write_social_iqa(unpacked, target)
    (row,) = rows(target)
    assert (row["context"], row["answer"]) == ("Ann fell.", "eat")


def test_clinical_spans_are_where_they_say(unpacked, target):
    abstract = " On trials.\n\nMEN: 40 men's hearts (P&lt;.01) and 3 dogs; 40 men's hearts."
    write_samples(
        unpacked,
        (abstract, "spans: '40 men's hearts (P&lt;.01) ', '3 dogs', '3 dogs'"),
        ("3 dogs\nran", "spans: '3 dogs'"),
    )
    evals_samples.write_clinical_spans(unpacked, target)
    first, second = sorted(rows(target), key=lambda row: row["id"])
    assert first["title"] == "On trials."
    assert first["context"] == "On trials.\n\nMEN: 40 men's hearts (P<.01) and 3 dogs; 40 men's hearts."
    assert first["answers"] == {"text": ["40 men's hearts (P<.01)", "3 dogs"], "answer_start": [17, 45]}
    assert second == {
        "id": "2",
        "title": None,
        "context": "3 dogs\nran",
        "question": first["question"],
        "answers": {"text": ["3 dogs"], "answer_start": [0]},
    }


def test_clinical_span_that_is_not_in_the_abstract_is_an_error():
    with pytest.raises(ValueError, match="substring not found"):
        evals_samples.spans("40 women ran.", "spans: '41 women'")


def test_tags_follow_the_order_of_the_sentence():
    row = evals_samples.tagged(
        "Bank of Ann , Bank - A and Ann", "[Bank of Ann - ORGANIZATION, Bank - A - LOCATION, Ann - PERSON]"
    )
    assert row["tags"] == ["B-ORG", "I-ORG", "I-ORG", "O", "B-LOC", "I-LOC", "I-LOC", "O", "B-PER"]


def test_finance_entities(unpacked, target):
    write_samples(unpacked, ("< PAGE >", "No entities found"), ("Ann pays", "[Ann - PERSON]"))
    evals_samples.write_finance_entities(unpacked, target)
    assert sorted(map(json.dumps, rows(target))) == [
        '{"tokens": ["<", "PAGE", ">"], "tags": ["O", "O", "O"]}',
        '{"tokens": ["Ann", "pays"], "tags": ["B-PER", "O"]}',
    ]
