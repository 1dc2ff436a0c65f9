"""A new user with a CSV of two columns: every message, default and hint."""

import csv
import json
import sys
from pathlib import Path

import pytest
from tiny_files import review

from lightning_prefix.callbacks.progress import EpochLines
from lightning_prefix.cli import main
from lightning_prefix.commands import next_steps
from lightning_prefix.errors import hub_advice
from lightning_prefix.training import EPOCHS, limited, trainer_factory


@pytest.fixture(autouse=True)
def _in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def own_data(bert_folder) -> list[str]:
    """The words of the README's command, on a file of 40 rows."""
    rows = [review(number) for number in range(40)]
    write("reviews.csv", [(row["text"], row["label"]) for row in rows])
    words = f"--model TextClassification --model.backbone {bert_folder} --data TextClassificationDataModule"
    return [
        *words.split(),
        "--data.source",
        "reviews.csv",
        "--data.text_column",
        "review",
        "--data.label_column",
        "stars",
    ]


def write(name: str, rows: list[tuple[str, ...]]) -> None:
    with Path(name).open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("review", "stars"), *rows])


def fails(capsys, *args: str) -> str:
    with pytest.raises(SystemExit) as failure:
        main(list(args))
    assert failure.value.code == 1
    return capsys.readouterr().err


def test_from_a_csv_to_predictions(own_data, capsys, caplog, recwarn):
    caplog.set_level("INFO", "lightning.pytorch")
    cli = main(["fit", *own_data, "--data.batch_size", "8"])
    assert cli.trainer.current_epoch == EPOCHS == 5
    assert "training takes 5 epochs" in caplog.text
    assert "labels: negative, positive, in the column 'stars'" in caplog.text
    assert "rows:   train 36, validation 4, of `reviews.csv`" in caplog.text
    assert "max_epochs: 5" in Path("lightning_logs/version_0/config.yaml").read_text()

    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch ")]
    assert [line.split(":")[0] for line in lines] == [f"epoch {number}/5" for number in range(1, 6)]
    assert "train/loss" in lines[0]
    assert "val/accuracy" in lines[0]

    end = caplog.text[caplog.text.rindex("\nlabels  ") :]
    assert "negative, positive" in end.splitlines()[1]
    best = cli.trainer.checkpoint_callback.best_model_score
    assert f"accuracy {float(best):.4g}" in next(line for line in end.splitlines() if line.startswith("validation"))
    assert "lightning_prefix validate --config" in end  # there is no test split
    assert "lightning_prefix test" not in end
    steps = Path("lightning_logs/version_0/metrics.csv").read_text()
    assert steps.count("\n") > 20  # five batches an epoch are logged

    Path("new.txt").write_text("the good film\na bad plot\n")
    trained = "--config lightning_logs/version_0/config.yaml --ckpt_path lightning_logs/version_0/checkpoints/best.ckpt"
    main(["predict", *trained.split(), "--data.predict", "new.txt"])
    folder = trained.replace("checkpoints/best.ckpt", "prefix")
    main(["predict", *folder.split(), "--data.predict", "new.txt"])
    assert [path.name for path in Path("lightning_logs").iterdir()] == ["version_0"]
    assert not Path("config.yaml").exists()
    answers = Path("lightning_logs/version_0/predictions.jsonl").read_text().splitlines()
    assert Path("lightning_logs/version_0/predictions-2.jsonl").read_text().splitlines() == answers  # of the folder
    assert [json.loads(line)["review"] for line in answers] == ["the good film", "a bad plot"]
    main(["validate", *trained.split()])
    said = [str(warning.message) for warning in recwarn]
    for words in ("dirpath has changed", "smaller than the logging interval", "`max_epochs` was not set"):
        assert not [message for message in said if words in message]


def test_limits_that_are_given_count(own_data):
    cli = main(["fit", *own_data, "--trainer.max_steps", "2"])
    assert (cli.trainer.global_step, cli.trainer.max_epochs) == (2, -1)
    cli = main(["fit", *own_data, "--trainer.max_epochs", "1", "--trainer.log_every_n_steps", "7"])
    assert (cli.trainer.current_epoch, cli.trainer.log_every_n_steps) == (1, 7)


@pytest.mark.parametrize(
    "options", [{"max_epochs": 2}, {"max_steps": 3}, {"max_time": "00:00:01:00"}, {"fast_dev_run": True}]
)
def test_other_commands_take_five_epochs_too_unless_limited(options):
    assert trainer_factory({})(logger=False).max_epochs == EPOCHS
    assert trainer_factory({})(logger=False, **options).max_epochs != EPOCHS
    assert limited(options) == options


def test_help_does_not_speak_of_a_thousand_epochs(capsys):
    for command in ("fit", "cross-validate", "tune"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        shown = capsys.readouterr().out
        assert "1000" not in shown
        assert "5 where neither this" in shown


def test_on_a_terminal_there_is_a_bar_and_no_lines(own_data, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    cli = main(["fit", *own_data, "--trainer.max_steps", "1"])
    assert cli.trainer.progress_bar_callback is not None
    assert not [callback for callback in cli.trainer.callbacks if isinstance(callback, EpochLines)]


def test_plot_is_proposed_with_what_it_needs(own_data, monkeypatch, caplog):
    caplog.set_level("INFO", "lightning.pytorch")
    main(["fit", *own_data, "--trainer.max_steps", "1"])
    assert "pip install" not in caplog.text
    monkeypatch.setattr(next_steps.importlib.util, "find_spec", lambda _: None)
    main(["fit", *own_data, "--trainer.max_steps", "1"])
    assert "plot --prefix lightning_logs/version_1/prefix  # first: pip install '.[plot]'" in caplog.text


def test_up_to_five_bad_rows_are_named(own_data, capsys):
    write("reviews.csv", [("good film", "positive"), ("", "negative"), ("bad film", "negative"), (" ", "negative")])
    text = fails(capsys, "fit", *own_data)
    assert "row 2 of 'train' has no text in the column 'review'; row 4 of 'train' has no text" in text
    assert "may be more" not in text
    labels = ["positive", "bad", "awful", "negative", "poor", "sad", "dull", "grim"]
    write("reviews.csv", [("good film", label) for label in labels])
    text = fails(capsys, "fit", *own_data, "--data.labels", "[negative, positive]")
    assert [f"row {number} of" in text for number in range(1, 9)] == [False, True, True, False, True, True, True, False]
    assert "There may be more. the allowed ones" not in text
    assert text.count("negative, positive") == 1 + 4  # beside each label, and not again as advice


def test_up_to_five_broken_lines_are_named(own_data, capsys):
    lines = ["review,stars", *["fine, I think,positive"] * 3, "good,positive"]
    Path("reviews.csv").write_text("\n".join(lines))
    text = fails(capsys, "fit", *own_data)
    assert "reviews.csv (line 2) has 3 fields, row 2 (line 3) has 3 fields, row 3 (line 4) has 3 fields; the" in text
    assert "the header names 2 columns: review, stars. Put fields that contain ',' in double quotes" in text
    Path("reviews.csv").write_text("\n".join([lines[0], *[lines[1]] * 9]))
    assert fails(capsys, "fit", *own_data).count("has 3 fields") == 5


def test_the_hub_is_out_of_reach(own_data, capsys, monkeypatch):
    def from_pretrained(name, **_):
        raise OSError("We couldn't connect to 'https://huggingface.co' to load the files.")

    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", from_pretrained)
    text = fails(capsys, "fit", *own_data, "--model.backbone", "some/model")
    for words in ("cannot be reached", "a folder", "an asset", "HF_ENDPOINT"):
        assert words in text
    assert hub_advice(ValueError("some/model is gated")) == ""
