import json

import datasets
import pytest

from lightning_prefix.data.sources import load_splits

ROWS = [
    {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}], "topic": "a"},
    {"messages": [{"role": "user", "content": "bye\n"}], "topic": None},
]


@pytest.mark.parametrize("kind", ["list", "json", "jsonl", "parquet"])
def test_lists_of_messages(write, tmp_path, kind):
    if kind == "parquet":
        path = tmp_path / "a.parquet"
        datasets.Dataset.from_list(ROWS).to_parquet(path)
    else:
        lines = "".join(json.dumps(row) + "\n" for row in ROWS)
        path = write(
            "a.json" if kind == "list" else f"a.{kind}", json.dumps(ROWS, indent=1) if kind == "list" else lines
        )
    rows = load_splits(str(path))["train"]
    assert rows.to_list() == ROWS
    text = datasets.Value("string")
    assert rows.features["messages"] == datasets.List({"role": text, "content": text})


def test_text_file_with_one_conversation_a_line(write):
    path = write("a.txt", "Hi . __eou__ Hello ! __eou__\nBye . __eou__\n")
    texts = ["Hi . __eou__ Hello ! __eou__", "Bye . __eou__"]
    assert load_splits(str(path))["train"].to_list() == [{"text": text} for text in texts]
    assert load_splits({"test": str(path)})["test"]["text"][:] == texts
