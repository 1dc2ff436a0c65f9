"""Conversations to rows: what is written, what is learnt, what is left out, and what is refused."""

import datasets
import lightning
import pytest
import torch
from tiny_backbones import BACKBONES
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

import lightning_prefix as lp
from lightning_prefix.data.messages import read_messages
from lightning_prefix.data.tokenize import load_tokenizer

CHATML = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA = (
    "{{ bos_token }}{% for message in messages %}<|head|>{{ message['role'] }}<|/head|>\n\n"
    "{{ message['content'] | trim }}<|im_end|>{% endfor %}{% if add_generation_prompt %}<|head|>assistant<|/head|>\n\n"
    "{% endif %}"
)
MISTRAL = (  # no generation prompt; the system message stands in the first turn
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set head = messages[0]['content'] + '\n' %}"
    "{% set messages = messages[1:] %}{% endif %}{% for message in messages %}{% if message['role'] == 'user' %}[INST] "
    "{{ (head or '') if loop.first else '' }}{{ message['content'] }} [/INST]{% else %} {{ message['content'] }}"
    "{{ eos_token }}{% endif %}{% endfor %}"
)
QWEN3 = CHATML.replace(  # thinks in the last turn only
    "{{ message['content'] }}",
    "{{ '<think></think>' if loop.last and message['role'] == 'assistant' else '' }}{{ message['content'] }}",
)
FROM_THE_END = CHATML.replace("{{ message['content'] }}", "{{ loop.revindex }} {{ message['content'] }}")
FROM_THE_START = CHATML.replace("{{ message['content'] }}", "{{ loop.index }} {{ message['content'] }}")

TURNS = ["Hi!", "Hello.", "How are you?", "Fine, and you?", "Well.", "Good."]
REPLIES = TURNS[1::2]


def messages(turns=TURNS, system=None):
    head = [] if system is None else [{"role": "system", "content": system}]
    return head + [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(turns)]


@pytest.fixture(scope="session")
def make_tokenizer(tmp_path_factory):
    """Of bytes, with special tokens; named by its folder."""

    def make(template: "str | None") -> str:
        special = ["<s>", "<|im_end|>", "<|im_start|>", "<|head|>", "<|/head|>", "<pad>"]
        letters = sorted(pre_tokenizers.ByteLevel.alphabet())
        tokenizer = Tokenizer(models.BPE({token: n for n, token in enumerate([*special, *letters])}, []))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
        loaded = PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, bos_token="<s>", eos_token="<|im_end|>", pad_token="<pad>"
        )
        loaded.chat_template = template
        folder = tmp_path_factory.mktemp("tokenizer")
        loaded.save_pretrained(folder)
        return str(folder)

    return make


@pytest.fixture(scope="session")
def byte_tokenizer(make_tokenizer):
    return make_tokenizer(CHATML)


@pytest.fixture
def rows_of(byte_tokenizer):
    """Encoded rows of a split."""

    def encode(*conversations, role="train", column="messages", **options):
        source = {split: [{column: one} for one in conversations] for split in ("train", "validation", "test")}
        options = {"tokenizer": byte_tokenizer, "is_encoder_decoder": False, "max_length": 400, **options}
        data = lp.DialogueDataModule(source, messages_column=column, **options)
        data.setup({"train": "fit", "validation": "validate"}.get(role, role))
        return list(data._ready[role])

    return encode


@pytest.fixture
def decode(byte_tokenizer):
    return load_tokenizer(byte_tokenizer).decode


def learnt(row, decode):
    """The labelled stretches of a row."""
    stretches = [[]]
    for token, label in zip(row["input_ids"], row["labels"], strict=True):
        assert label in (-100, token)
        stretches = [*stretches, []] if label == -100 else [*stretches[:-1], [*stretches[-1], label]]
    return [decode(stretch) for stretch in stretches if stretch]


def written(template, conversation, tokenizer, **options):
    return load_tokenizer(tokenizer).apply_chat_template(
        conversation, chat_template=template, tokenize=False, **options
    )


@pytest.mark.parametrize("count", [2, 4, 6])
@pytest.mark.parametrize(
    ("template", "system"),
    [(CHATML, None), (CHATML, "Be brief."), (LLAMA, None), (LLAMA, "Be brief."), (MISTRAL, None)],
)
def test_rows_are_what_the_template_writes(template, count, system, rows_of, decode, byte_tokenizer):
    conversation = messages(TURNS[:count], system)
    (row,) = rows_of(conversation, chat_template=template)
    assert decode(row["input_ids"]) == written(template, conversation, byte_tokenizer)
    blank = " " if template == MISTRAL else ""
    assert learnt(row, decode) == [f"{blank}{reply}<|im_end|>" for reply in REPLIES[: count // 2]]
    (test,) = rows_of(conversation, role="test", chat_template=template)
    prompt = written(template, conversation[:-1], byte_tokenizer, add_generation_prompt=True)
    assert decode(test["input_ids"][: test["prompt_length"]]) == prompt
    assert test["references"] == [conversation[-1]["content"]]
    (asked,) = rows_of(conversation, role="predict", chat_template=template)
    assert decode(asked["input_ids"]) == prompt
    assert "labels" not in asked


def test_without_a_template_turns_are_lines(make_tokenizer, rows_of, decode, caplog):
    plain = make_tokenizer(None)
    (row,) = rows_of(messages(TURNS[:4], "Be brief."), tokenizer=plain)
    assert decode(row["input_ids"]) == (
        "System: Be brief.\nUser: Hi!\nAssistant: Hello.<|im_end|>\n"
        "User: How are you?\nAssistant: Fine, and you?<|im_end|>\n"
    )
    assert learnt(row, decode) == [" Hello.<|im_end|>", " Fine, and you?<|im_end|>"]
    rows_of(messages(), role="test", tokenizer=plain)
    assert caplog.text.count("has no chat template; conversations are written as lines") == 1
    assert plain in caplog.text


@pytest.mark.parametrize("count", [2, 6])
@pytest.mark.parametrize("template", [QWEN3, FROM_THE_END, FROM_THE_START, MISTRAL])
def test_where_turns_change_later_each_reply_is_a_row(template, count, rows_of, decode, byte_tokenizer):
    system, blank = ("Be brief.", " ") if template == MISTRAL else (None, "")
    conversation = messages(TURNS[:count], system)
    rows = rows_of(conversation, role="test", chat_template=template)
    assert [learnt(row, decode) for row in rows] == [[f"{blank}{reply}<|im_end|>"] for reply in REPLIES[: count // 2]]
    for place, row in enumerate(rows):
        before = conversation[: 2 * place + 1 + len(conversation) - count]
        prompt = written(template, before, byte_tokenizer, add_generation_prompt=True)
        assert decode(row["input_ids"]) == f"{prompt}{blank}{REPLIES[place]}<|im_end|>"
        assert row["prompt_length"] == len(row["input_ids"]) - len(blank + REPLIES[place]) - 1
        (asked,) = rows_of(before, role="predict", chat_template=template)
        assert decode(asked["input_ids"]) == prompt
    assert not any(row["cut"] for row in rows)


LONG = messages([f"{word} {'x' * (n * 7 % 12)}" for n, word in enumerate("abcdefghijklmn")], "Be brief.")


@pytest.mark.parametrize("role", ["train", "test"])
@pytest.mark.parametrize("template", [CHATML, LLAMA, FROM_THE_END])
@pytest.mark.parametrize("max_length", [120, 200, 1000])
def test_long_conversations_are_several_rows(max_length, template, role, rows_of, decode):
    rows = rows_of(LONG, role=role, chat_template=template, max_length=max_length, max_target_length=30)
    replies = [f"{message['content']}<|im_end|>" for message in LONG if message["role"] == "assistant"]
    assert [reply for row in rows for reply in learnt(row, decode)] == replies
    assert all(len(row["input_ids"]) <= max_length for row in rows)
    bos, number = ("<s>", "") if template == LLAMA else ("", "{n} " if template == FROM_THE_END else "")
    for row in rows:
        text = decode(row["input_ids"])
        system, user, *_ = text.removeprefix(bos).replace("<|/head|>", "").split("<|im_end|>")
        assert system.endswith("Be brief.")
        assert "user" in user
        if not number:  # else there are rows whose turns were left out
            assert not row["cut"]
        if role == "test":  # room to write
            assert row["prompt_length"] + 30 <= max_length
    if template != FROM_THE_END:
        assert (len(rows) == 1) is (max_length == 1000)
        longest = rows_of(LONG, role=role, chat_template=template, max_length=max_length + 1, max_target_length=30)
        assert len(longest) <= len(rows)


@pytest.mark.parametrize("template", [CHATML, QWEN3])
def test_a_pair_that_is_too_long_is_cut(template, rows_of, decode):
    first, *_, last = rows_of(
        messages(["Hi!", "Hello.", "y" * 100, "z"]), chat_template=template, max_length=80, max_target_length=8
    )
    assert (first["cut"], last["cut"], len(last["input_ids"])) == (False, True, 80)
    assert decode(last["input_ids"]).startswith("yyyy")
    assert learnt(last, decode) == ["z<|im_end|>"]
    (row,) = rows_of(messages(["Hi!", "z" * 100]), chat_template=template, max_length=40, max_target_length=8)
    assert row["cut"]
    assert len(row["input_ids"]) == 40
    assert set("".join(learnt(row, decode))) == {"z"}
    (row,) = rows_of(messages(["Hi!", "z" * 100]), chat_template=template, max_length=100, max_target_length=8)
    assert row["cut"]


@pytest.mark.parametrize("template", [CHATML, FROM_THE_END])
def test_what_is_predicted_loses_its_oldest_turns(template, rows_of, decode, byte_tokenizer):
    head, turns = LONG[:1], LONG[1:-1]
    (row,) = rows_of([*head, *turns], role="predict", chat_template=template, max_length=160, max_target_length=40)
    fits = [written(template, [*head, *turns[n:]], byte_tokenizer, add_generation_prompt=True) for n in range(0, 13, 2)]
    lengths = [len(load_tokenizer(byte_tokenizer)(text)["input_ids"]) for text in fits]
    assert decode(row["input_ids"]) == next(text for text, n in zip(fits, lengths, strict=True) if n <= 120)
    assert row["cut"]
    long = messages(["y" * 300])
    (row,) = rows_of(long, role="predict", chat_template=template, max_length=160, max_target_length=40)
    assert (len(row["input_ids"]), row["cut"]) == (120, True)
    assert decode(row["input_ids"]).endswith("yyy<|im_end|>\n<|im_start|>assistant\n")


def test_a_reply_leaves_room(rows_of):
    with pytest.raises(lp.InputError, match=r"max_target_length=64 leaves too little of max_length=64 .* >= 72"):
        rows_of(messages(), max_length=64)


def test_forms_of_a_conversation(rows_of, byte_tokenizer, write):
    (expected,) = rows_of(messages())
    roles = {"user": "human", "assistant": "gpt"}
    text = " __eou__ ".join(TURNS)
    forms = [
        {"one": [{"from": roles[m["role"]], "value": m["content"]} for m in messages()]},
        {"one": TURNS},
        {"one": text, "turn_separator": "__eou__"},
        {"one": f"{text} __eou__\n", "turn_separator": "__eou__"},
    ]
    for form in forms:
        assert rows_of(form.pop("one"), **form) == [expected]
    path = str(write("a.txt", f"{text} __eou__\n{text}\n"))
    data = lp.DialogueDataModule(
        {"train": path, "test": path},
        messages_column="text",
        turn_separator="__eou__",
        tokenizer=byte_tokenizer,
        is_encoder_decoder=False,
        max_length=400,
    )
    data.setup("test")
    assert [row["input_ids"] for row in data._ready["test"]] == [expected["input_ids"]] * 2


def test_columns_of_turns_as_older_datasets_have_them():
    columns = {"role": ["user", "assistant"], "content": ["Hi!", "Hello."]}
    assert read_messages(columns) == messages(TURNS[:2])
    features = datasets.Features({"messages": {name: datasets.List(datasets.Value("string")) for name in columns}})
    stored = datasets.Dataset.from_list([{"messages": columns}], features=features)
    assert read_messages(stored[0]["messages"]) == messages(TURNS[:2])


def test_a_system_message_for_conversations_without(rows_of):
    own, given = messages(system="Be brief."), rows_of(messages(), system="Be brief.")
    assert given == rows_of(own) == rows_of(own, system="Be rude.")
    assert given != rows_of(messages())


USER, ASSISTANT, SYSTEM = ({"role": role, "content": "a"} for role in ("user", "assistant", "system"))


@pytest.mark.parametrize(
    ("conversation", "message"),
    [
        ([USER], r"row 2 of 'validation' has no reply: it holds only user\. Set turn_separator .* or drop_empty=True"),
        ([SYSTEM, USER], "has no reply: it holds only system and user"),
        ([SYSTEM], "row 2 of 'validation' has a system message only"),
        ([ASSISTANT, USER], "has the role 'assistant' in message 1, where 'user' is due"),
        ([SYSTEM, USER, USER], "has the role 'user' after 'user' in message 3, where 'assistant' is due: user and"),
        ([USER, SYSTEM, ASSISTANT], "has the role 'system' after 'user' in message 2"),
        ([USER, {"role": "tool", "content": "a"}], "has the role 'tool' in message 2; the roles are system, user"),
        ([USER, {"role": "assistant", "content": " "}], "has no text in message 2, of the assistant"),
        ([USER, {"role": "assistant", "content": None}], "has no text in message 2, of the assistant"),
        ([], "has no conversation: a list of messages"),
        (None, "has no conversation: a list of messages"),
    ],
)
def test_bad_conversations(conversation, message, rows_of):
    with pytest.raises(lp.InputError, match=message):
        rows_of(messages(), conversation)


@pytest.mark.parametrize("value", [7, {"role": "user", "content": "a"}, {"role": 1}, [7], [["a"]]])
def test_other_values_are_no_conversations(value):
    with pytest.raises(ValueError, match=r"has (no conversation|a (int|list) as message 1)"):
        read_messages(value)


def test_conversations_without_a_reply_can_be_left_out(rows_of):
    assert [row["row"] for row in rows_of([USER], messages(), drop_empty=True)] == [1]
    with pytest.raises(lp.InputError, match="has the role 'assistant' in message 1"):
        rows_of([ASSISTANT], messages(), drop_empty=True)
    (row,) = rows_of([*messages(), USER])  # which is not used
    assert [row] == rows_of(messages())


def test_bad_options(rows_of, make_tokenizer, byte_tokenizer):
    with pytest.raises(lp.InputError, match="a template is given; conversations are written by a chat_template"):
        lp.DialogueDataModule(template="{text}")
    for stage, split in {"fit": "train", "predict": "predict"}.items():
        source = {name: [{"message": messages()}] for name in ("train", "test")}
        data = lp.DialogueDataModule(source, tokenizer=byte_tokenizer, is_encoder_decoder=False, max_length=400)
        message = rf"'{split}' has no column 'messages'; .* 'message'. Did you mean 'message'\? Set messages_column"
        with pytest.raises(lp.InputError, match=message):
            data.setup(stage)
    strict = "{{ raise_exception('no system message') if messages[0]['role'] == 'system' else '' }}" + CHATML
    with pytest.raises(lp.InputError, match=r"the chat template cannot write .*no system message\)\. Give another"):
        rows_of(messages(system="a"), tokenizer=make_tokenizer(strict))


def test_a_message_that_preprocessing_empties_is_refused(rows_of):
    emptied = messages()
    emptied[1]["content"] = "\u200b"
    with pytest.raises(lp.InputError, match=r"row 1 .* leaves nothing: .*Use fewer steps"):
        rows_of(emptied, preprocess=lp.Preprocessing(whitespace=True))


def test_preprocessing_reaches_every_message(rows_of):
    assert rows_of(messages(), preprocess=lp.Preprocessing(lower_case=True)) == rows_of(
        messages([turn.lower() for turn in TURNS])
    )


@pytest.mark.parametrize("template", [CHATML, QWEN3])
def test_an_encoder_reads_what_comes_before_each_reply(template, rows_of, decode, byte_tokenizer):
    rows = rows_of(messages(), role="test", is_encoder_decoder=True, chat_template=template)
    for place, (row, reply) in enumerate(zip(rows, REPLIES, strict=True)):
        prompt = written(template, messages()[: 2 * place + 1], byte_tokenizer, add_generation_prompt=True)
        assert decode(row["input_ids"]) == prompt
        assert decode(row["labels"]) == f"{reply}<|im_end|>"
        assert row["references"] == [reply]
        assert "prompt_length" not in row


def test_validation_is_cut_between_conversations(byte_tokenizer):
    data = lp.DialogueDataModule(
        [{"messages": LONG}] * 10, tokenizer=byte_tokenizer, is_encoder_decoder=False, max_length=160
    )
    data.setup("fit")
    train, validation = data._ready["train"], data._ready["validation"]
    assert len(set(train["row"])) == 9
    assert len(train) == 2 * 9
    assert set(validation["row"]) == {0}  # of those that were cut off
    assert "references" in validation.column_names


def test_a_predictor_reads_messages_texts_and_rows(byte_tokenizer):
    data = lp.DialogueDataModule(tokenizer=byte_tokenizer, is_encoder_decoder=False, max_length=200)
    asked = [messages(TURNS[:3]), TURNS[:3], {"messages": TURNS[:3]}]
    first, *others = data.encode_inputs(asked)
    assert others == [first] * 2
    assert data.encode_inputs(["Hi!"]) == data.encode_inputs([messages(["Hi!"])])


def dialogue(folder, family, **options):
    config = BACKBONES[family]().config
    config.update({"vocab_size": 300, "max_position_embeddings": 256})
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    task = lp.Dialogue(str(folder), lp.FlatPrefixConfig(length=3), **options)
    task.configure_model()
    return task.eval()


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_loss_of_a_row_is_that_of_its_replies(family, byte_tokenizer, tmp_path):
    task = dialogue(tmp_path, family, loss="example_sum")
    rows = [{"messages": messages(TURNS[:count])} for count in (2, 4, 6)]
    data = lp.DialogueDataModule({"validation": rows}, tokenizer=byte_tokenizer, max_target_length=8)
    data.serve(task)
    data.setup("validate")
    collate, apart = data.collator(), 0

    def loss(row, labels):
        batch = collate([{**row, "labels": labels}])
        return task.loss(task(batch), batch)

    for row in data._ready["validation"]:
        row = {name: row[name] for name in ("input_ids", "attention_mask", "labels", "prompt_length")}
        last = [-100] * row["prompt_length"] + row["labels"][row["prompt_length"] :]
        apart += loss(row, last)
        torch.testing.assert_close(loss(row, row["labels"]), apart)


def test_conversations_longer_than_the_positions(byte_tokenizer, tmp_path):
    """Training, and evaluation without a validation split; the replies are written within the positions."""
    task = dialogue(tmp_path, "gpt2")
    data = lp.DialogueDataModule([{"messages": LONG}] * 10, tokenizer=byte_tokenizer, max_target_length=100)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = lightning.Trainer(
        max_steps=1, val_check_interval=1, logger=False, accelerator="cpu", default_root_dir=tmp_path, **quiet
    )
    trainer.fit(task, data)
    assert data.max_length == 256
    assert {"val/loss", "val/perplexity", "val/distinct_1", "val/distinct_2"} <= set(trainer.callback_metrics)
    assert max(row["prompt_length"] for row in data._ready["validation"]) > 100
