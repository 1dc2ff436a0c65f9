"""Chats: what is kept of earlier turns changes no reply; the command."""

import functools
import re

import pytest
import torch
from tiny_files import write_language_model

import lightning_prefix as lp
from lightning_prefix.chat import Chat
from lightning_prefix.cli import main

TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}a {% endif %}{% for message in messages %}"
    "{{ {'system': 'a', 'user': 'review :', 'assistant': 'label :'}[message['role']] }} {{ message['content'] }} "
    "{% if message['role'] == 'assistant' %}[SEP] {% endif %}{% endfor %}"
    "{% if add_generation_prompt %}label :{% endif %}"
)
SAID = ["good film", "bad", "the plot", "a good plot", "film", "the bad film"]
REPLY_LENGTH = 6
SPECIAL = [0, 1, 2]


@pytest.fixture(scope="session")
def language_model(tmp_path_factory):
    @functools.cache
    def make(family: str) -> str:
        torch.manual_seed(0)
        return write_language_model(tmp_path_factory.mktemp(family), family)

    return make


@pytest.fixture
def predictor(language_model):
    def make(family: str = "llama", generation=None, **options) -> lp.Predictor:
        task = lp.Dialogue(
            language_model(family),
            lp.FlatPrefixConfig(length=3),
            generation={"max_new_tokens": REPLY_LENGTH, **(generation or {})},
        )
        data = lp.DialogueDataModule(
            chat_template=TEMPLATE, **{"max_length": 56, "max_target_length": REPLY_LENGTH, **options}
        )
        made = lp.Predictor(task, data)
        for parameter in task.model.prefix.parameters():
            torch.nn.init.normal_(parameter)
        return made

    return make


@pytest.fixture
def folder(predictor, tmp_path):
    made = predictor()
    made.task.save_pretrained(tmp_path / "prefix", made.data.description())
    return str(tmp_path / "prefix")


def from_scratch(predictor, messages) -> str:
    """The greedy reply without any cache, one token after the other."""
    (row,) = predictor.data.encode_inputs([messages])
    ids = list(row["input_ids"])
    with torch.no_grad():
        while len(ids) < len(row["input_ids"]) + REPLY_LENGTH and ids[-1] != 3:
            scores = predictor.task.model(torch.tensor([ids]), use_cache=False).logits[0, -1]
            scores[predictor.task.generation.get("suppress_tokens", [])] = float("-inf")
            ids.append(int(scores.argmax()))
    return predictor.task.tokenizer.decode(ids[len(row["input_ids"]) :], skip_special_tokens=True).strip()


@pytest.mark.parametrize("suppressed", [[], SPECIAL])  # special tokens are not read again as they were written
@pytest.mark.parametrize("family", ["gpt2", "llama", "mistral_window", "gemma3", "qwen3_next"])
def test_replies_are_those_without_a_cache(family, suppressed, predictor):
    made = predictor(
        family, {"suppress_tokens": suppressed} if suppressed else None, max_length=40, system="the review"
    )
    chat, kept = Chat(made), []
    for said in SAID:
        asked = [*chat.messages, {"role": "user", "content": said}]
        reply = chat.reply(said)
        assert reply == from_scratch(made, asked)
        assert chat.messages == [*asked, {"role": "assistant", "content": reply or "..."}]
        kept.append(chat.computed_tokens)
    assert kept[0] == 0
    if family in ("gpt2", "llama"):
        assert min(kept[1:]) > 0
    if suppressed:
        assert kept[-1] < kept[2]  # old turns fell out of the row
        assert min(kept[1:3]) > 8  # also where windows, or states, cannot be cut back


@pytest.mark.parametrize(
    "generation",
    [
        {"num_beams": 3},
        {"num_beams": 3, "num_return_sequences": 2},
        {"cache_implementation": "static"},
        {"use_cache": False},
    ],
)
def test_nothing_is_kept_of_other_ways_to_write(generation, predictor):
    made = predictor(generation=generation)
    chat = Chat(made)
    for said in SAID[:3]:
        fresh = Chat(made)
        fresh.messages = list(chat.messages)
        assert chat.reply(said) == fresh.reply(said)
        assert chat.computed_tokens == 0


def test_beams_in_between_do_no_harm(predictor):
    made = predictor()
    chat = Chat(made)
    chat.reply(SAID[0])
    chat.reply(SAID[1], num_beams=3)
    for said in SAID[2:4]:
        asked = [*chat.messages, {"role": "user", "content": said}]
        assert chat.reply(said) == from_scratch(made, asked)
    assert chat.computed_tokens > 0


def test_an_interrupted_reply_does_no_harm(predictor):
    class Interrupt:
        def put(self, tokens):
            if tokens.dim() == 1:  # after the prompt
                raise KeyboardInterrupt

    made = predictor()
    chat = Chat(made)
    chat.reply(SAID[0])
    before, chat.messages = chat.messages, []
    with pytest.raises(KeyboardInterrupt):
        chat.reply(SAID[1], streamer=Interrupt())
    assert chat.messages == []
    chat.messages = before
    assert chat.reply(SAID[2]) == from_scratch(made, [*before, {"role": "user", "content": SAID[2]}])


def test_a_message_can_be_said_again(predictor):
    chat = Chat(predictor())
    chat.reply(SAID[0])
    before = chat.messages
    reply = chat.reply(SAID[1])
    chat.messages = before
    assert chat.reply(SAID[1]) == reply
    assert chat.computed_tokens > 0


def test_an_encoder_decoder_chats(predictor):
    chat = Chat(predictor("t5"))
    replies = [chat.reply(said) for said in SAID[:3]]
    asked = [*chat.messages[:4], {"role": "user", "content": SAID[2]}]
    assert chat.task.answers(chat.data.collator()(chat.data.encode_inputs([asked]))) == [{"generated_text": replies[2]}]
    assert chat.computed_tokens == 0


def test_a_reset_forgets(predictor):
    chat = Chat(predictor(system="the review"))
    first = [chat.reply(said) for said in SAID[:2]]
    chat.reset()
    assert chat.messages == []
    assert [chat.reply(said) for said in SAID[:2]] == first
    with pytest.raises(lp.InputError, match="the message is blank"):
        chat.reply(" ")


def test_messages_are_preprocessed_as_in_training(predictor):
    made = predictor(preprocess=lp.Preprocessing(whitespace=True))
    assert Chat(made).reply("good \n film") == Chat(made).reply("good film")


def test_other_tasks_do_not_chat(bert_folder):
    task = lp.TextClassification(bert_folder, labels=["a", "b"])
    predictor = lp.Predictor(task, lp.TextClassificationDataModule())
    with pytest.raises(lp.InputError, match="was trained as TextClassification with TextClassificationDataModule; to"):
        Chat(predictor)


@pytest.fixture
def say(monkeypatch):
    """Types lines, then ends."""

    def type_lines(*lines) -> None:
        left = iter(lines)

        def read(shown):
            print(shown, end="")
            line = next(left, EOFError())
            if isinstance(line, BaseException):
                raise line
            return line

        monkeypatch.setattr("builtins.input", read)

    return type_lines


@pytest.mark.parametrize("beams", [1, 2])
def test_command(beams, folder, say, capsys, monkeypatch):
    chat = Chat(lp.Predictor.from_pretrained(folder))
    chat.data.system = "the review"
    replies = [chat.reply(said, num_beams=beams) for said in SAID[:2]]
    chat.reset()
    replies.append(chat.reply(SAID[2], num_beams=beams))
    say(SAID[0], "", SAID[1], "/what", "/reset", SAID[2])
    assert main(["chat", "--prefix", folder, "--system", "the review", "--generation.num_beams", str(beams)]) is None
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    help_line = "Type a message; /reset begins a new conversation, /quit ends."
    bots = [f"bot> {reply}".strip() for reply in replies]
    assert [line.removeprefix("you> ") for line in lines] == [
        help_line,
        f"{bots[0]}",
        f"you> {bots[1]}",
        help_line,
        f"you> {bots[2]}",
        "you>",
    ]


@pytest.mark.parametrize("end", ["/quit", KeyboardInterrupt()])
def test_ends_of_the_command(end, folder, say, capsys):
    say(end, "good")
    main(["chat", "--prefix", folder])
    assert "bot>" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prefix", "nowhere"], "error: there is no folder nowhere; give one that `fit` or save_pretrained wrote"),
        (["--prefix", "FOLDER", "--generation", "{num_beam: 2}"], "has 'num_beam', .* did you mean num_beams"),
    ],
)
def test_bad_arguments(arguments, message, folder, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["chat", *(folder if word == "FOLDER" else word for word in arguments)])
    assert ended.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert re.search(message, line)


def test_help_shows_the_options(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["chat", "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert "Talk to a trained Dialogue prefix in the terminal" in shown
    for option in ("--prefix", "--backbone", "--device", "--system", "--generation", "--seed"):
        assert option in shown
    assert "folder that `fit` or `save_pretrained` wrote" in shown
