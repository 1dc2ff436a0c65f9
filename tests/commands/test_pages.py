"""The help on one class reads as a page; its YAML works."""

import re
import textwrap
from pathlib import Path

import pytest
import yaml

import lightning_prefix
from lightning_prefix.cli import main
from lightning_prefix.commands.parser import page
from lightning_prefix.commands.tasks import task_names


def printed(capsys, *args: str) -> str:
    with pytest.raises(SystemExit) as done:
        main(list(args))
    assert done.value.code in (0, None)
    return capsys.readouterr().out


@pytest.mark.parametrize("name", task_names())
def test_a_task_says_what_it_reads_and_measures(name, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shown = printed(capsys, "fit", "--model.help", name)
    text = page(getattr(lightning_prefix, name))
    assert text in shown
    assert shown.index("Data: ") < shown.index("A YAML for") < shown.index("Metrics") < shown.index("--model.backbone")
    assert "usage:" not in shown

    example = textwrap.dedent(re.search(r"(?:^    .*\n)+", text, re.MULTILINE).group())
    Path("example.yaml").write_text(example)
    parsed = yaml.safe_load(printed(capsys, "fit", "--config", "example.yaml", "--print_config"))
    assert parsed["model"]["class_path"].endswith(f".{name}")
    assert parsed["data"]["class_path"].endswith(f".{name}DataModule")
    columns = {
        word for word in re.findall(r"`(\w+)`", text.split("A YAML")[0]) if word.endswith(("_column", "_columns"))
    }
    assert columns <= set(parsed["data"]["init_args"])


def test_a_data_module_has_a_page_too(capsys):
    shown = printed(capsys, "fit", "--data.help", "DialogueDataModule")
    assert "A conversation is a list of" in shown
    assert "--data.messages_column" in shown
