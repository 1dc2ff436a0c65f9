"""The command `plot`, on folders of each kind, and what it refuses."""

import csv
import sys
from pathlib import Path

import pytest
import yaml
from every_task import CASES, case_backbone
from tiny_files import review, write_reviews

import lightning_prefix as lp
from lightning_prefix.cli import main


@pytest.fixture(autouse=True)
def _in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def fails(capsys, *args, code=1) -> str:
    with pytest.raises(SystemExit) as failure:
        main(["plot", *args])
    assert failure.value.code == code
    return capsys.readouterr().err


@pytest.fixture(scope="module")
def run(bert_folder, tmp_path_factory) -> str:
    """A finished run of `fit`."""
    folder = tmp_path_factory.mktemp("run")
    prefix = {"class_path": "FlatPrefixConfig", "init_args": {"length": 3}}
    logger = {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": str(folder)}}
    quiet = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}
    config = {
        "model": {"class_path": "TextClassification", "init_args": {"backbone": bert_folder, "prefix": prefix}},
        "data": {
            "class_path": "TextClassificationDataModule",
            "init_args": {"source": write_reviews(folder / "reviews"), "batch_size": 8},
        },
        "trainer": {"max_epochs": 1, "log_every_n_steps": 1, "logger": logger, **quiet},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(config))
    main(["fit", "--config", str(folder / "run.yaml"), "--test_after_fit", "false"])
    return str(folder / "lightning_logs/version_0")


@pytest.fixture
def saved(bert_folder, gpt2_folder, tmp_path):
    """The folder of a task that was never trained."""

    def save(name: str, prefix: lp.PrefixConfig | None = None, **options) -> str:
        case = CASES[name]
        backbone = case_backbone(case, bert_folder, gpt2_folder, tmp_path / "backbone")
        task = case.make_task(backbone, prefix or lp.FlatPrefixConfig(length=3), **options)
        task.configure_model()
        data = case.data(**case.data_options)
        data.serve(task)
        task.save_pretrained(tmp_path / "saved", data.description())
        return "saved"

    return save


def test_all_of_a_run(run, capsys, caplog):
    caplog.set_level("INFO", "lightning.pytorch")
    main(["plot", "--prefix", run])
    names = {"curves", "norms", "attention", "confusion", "reliability"}
    assert {path.name for path in Path("plots").iterdir()} == {f"{name}.png" for name in names}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in Path("plots").iterdir())
    assert "rows with labels: 17 of the 17 of the test split" in caplog.text
    assert "words           not drawn: the prefix is one of variant 'flat'" in caplog.text
    assert "loss_by_length  not drawn: the prefix was trained as TextClassification" in caplog.text

    given = ["--prefix", f"{run}/prefix", "--output", "some", "--rows", "5", "--split", "validation"]
    main(["plot", *given, "--what", "confusion", "curves", "--file_format", "svg"])
    assert {path.name for path in Path("some").iterdir()} == {"confusion.svg", "curves.svg"}
    assert "rows with labels: 5 of the 16 of the validation split" in caplog.text
    assert "5 rows" in lp.plots.Pictures(run, data=_data(run), rows=5).confusion()[1].get_title()


def _data(run: str) -> lp.TextDataModule:
    return lp.TextClassificationDataModule(
        yaml.safe_load(Path(run, "config.yaml").read_text())["data"]["init_args"]["source"]
    )


def test_confusion_and_reliability_are_those_of_the_predictor(run):
    pictures = lp.plots.Pictures(f"{run}/prefix", data=_data(run))
    predict = lp.Predictor.from_pretrained(f"{run}/prefix")
    rows = [review(200 + row) for row in range(17)]
    answers = predict([row["text"] for row in rows])
    wanted = {"negative": [0, 0], "positive": [0, 0]}
    for row, answer in zip(rows, answers, strict=True):
        wanted[row["label"]][answer["label"] == "positive"] += 1
    _, panel = pictures.confusion()
    assert [int(text.get_text()) for text in panel.texts] == [*wanted["negative"], *wanted["positive"]]
    confidences = [max(answer["probabilities"].values()) for answer in answers]
    right = [row["label"] == answer["label"] for row, answer in zip(rows, answers, strict=True)]
    error = lp.plots.calibration(confidences, right).error
    assert f"calibration error {error:.3f}" in pictures.reliability()[1][0].get_title()


def test_a_validation_split_that_was_cut_off(run):
    rows = [review(row) for row in range(60)]
    pictures = lp.plots.Pictures(run, data=lp.TextClassificationDataModule(rows, validation_fraction=0.2))
    _, panel = pictures.confusion()
    counts = [int(text.get_text()) for text in panel.texts]
    assert [sum(counts[:2]), sum(counts[2:])] == [6, 6]
    predict = lp.Predictor.from_pretrained(f"{run}/prefix")
    cut = pictures.data.val_dataloader().dataset.rows["index"][:]
    expected = [predict(rows[index]["text"])["label"] == rows[index]["label"] for index in cut]
    assert counts[0] + counts[3] == sum(expected)


def test_an_ensemble(run, capsys):
    main(["ensemble", "--members", f"{run}/prefix", "--directory", "ensemble"])
    main(["plot", "--prefix", "ensemble", "--config", f"{run}/config.yaml", "--what", "confusion", "reliability"])
    assert Path("plots/confusion.png").exists()
    assert "holds an ensemble; give the folder of one of its members" in fails(
        capsys, "--prefix", "ensemble", "--what", "norms"
    )


def test_texts_alone(saved, capsys, caplog):
    caplog.set_level("INFO", "lightning.pytorch")
    folder = saved("decoder", lp.PromptPrefixConfig(length=4))
    Path("texts.txt").write_text("the good film\nthe bad plot a film\n")
    main(["plot", "--prefix", folder, "--texts", "texts.txt", "--output", "pictures"])
    names = {"norms.png", "attention.png", "words.png", "words.csv"}
    assert {path.name for path in Path("pictures").iterdir()} == names
    assert "loss_by_length  not drawn: no rows with labels are given; give --config FILE" in caplog.text
    assert "curves          not drawn: saved/metrics.csv does not exist" in caplog.text
    with Path("pictures/words.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["position"]) for row in rows] == [place for place in range(4) for _ in range(5)]
    assert float(rows[0]["cosine_similarity"]) == pytest.approx(1)  # it starts from a token
    _, axes = lp.plots.Pictures(folder, texts=["film"]).attention()  # one token
    assert 0 < axes[0, 0].images[0].get_array().mean() < 1


@pytest.mark.parametrize("name", ["decoder", "encoder_decoder"])
def test_losses_and_scores_of_what_is_written(name, saved, caplog):
    folder, case = saved(name, data_generation={"max_new_tokens": 6}), CASES[name]
    data = case.make_data({split: range(9) for split in ("train", "validation", "test")})
    pictures = lp.plots.Pictures(folder, data=data)
    _, losses = pictures.loss_by_length()
    _, scores = pictures.chrf_by_length()
    drawn = [sorted(panel.collections[0].get_offsets().tolist()) for panel in (losses, scores)]

    task = lp.PrefixTask.from_pretrained(folder)
    data.serve(task)
    expected = [[], []]
    for index in range(9):  # one by one
        rows = case.data([case.row(index)], **case.data_options, test_split="train")
        rows.serve(task)
        rows.setup("test")
        (batch,) = rows.test_dataloader()
        length = int(batch["prompt_length"] if "prompt_length" in batch else batch["attention_mask"].sum())
        expected[0].append([length, task.loss(task(batch), batch).item()])
        (text,) = task.write(batch)[0]
        expected[1].append([length, lp.metrics.sentence_chrf(text, case.row(index)["target"])])
    for found, wanted in zip(drawn, expected, strict=True):
        assert found == [pytest.approx(pair, abs=1e-4) for pair in sorted(wanted)]


def test_several_labels_a_row(saved, capsys):
    folder = saved("classification", labels=["a", "b"], multi_label=True)
    rows = [{"text": review(row)["text"], "label": ["a", "b"][: row % 3]} for row in range(7)]
    data = lp.TextClassificationDataModule({"train": rows, "test": rows}, multi_label=True)
    pictures = lp.plots.Pictures(folder, data=data)
    assert "14 predictions" in pictures.reliability()[1][0].get_title()
    with pytest.raises(lp.InputError, match="a row has any number of labels, so there is no confusion matrix"):
        pictures.confusion()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--prefix", "nowhere"], "error: nowhere is no folder; give the one that `fit` wrote"),
        (["--prefix", "saved", "--texts", "none.txt"], "none.txt"),
        (["--prefix", "saved", "--rows", "0"], "rows 0 is given; it is >= 1"),
        (["--prefix", "saved", "--what", "words"], "the prefix is one of variant 'flat'"),
        (["--prefix", "saved", "--what", "confusion"], "trained as TextRegression; this picture is for TextClassif"),
        (["--prefix", "saved", "--what", "chrf_by_length"], "are for tasks that write texts: TextGeneration"),
        (["--prefix", "saved", "--what", "attention"], "no texts are given; give --texts FILE, or --config FILE"),
        (["--prefix", "saved", "--config", "none.yaml"], "none.yaml has no data as a YAML of `fit` has (FileNotFound"),
        (["--prefix", "empty"], "no picture could be drawn; see above"),
    ],
)
def test_bad_arguments(words, message, saved, capsys):
    saved("regression")
    Path("empty").mkdir()
    assert message in fails(capsys, *words)


def test_other_labels(run, capsys):
    rows = "text,label\n" + "the good film,great\nthe bad film,awful\n" * 3
    Path("other").mkdir()
    for split in ("train", "test"):
        Path(f"other/{split}.csv").write_text(rows)
    error = fails(capsys, "--prefix", run, "--what", "confusion", "--data.source", "other")
    assert "the model has the labels ['negative', 'positive'], the data has ['awful', 'great']" in error


def test_unknown_picture(capsys):
    error = fails(capsys, "--prefix", "saved", "--what", "confusoin", code=2)
    assert "'confusion', 'reliability'" in error
    assert "Got value: confusoin" in error


def test_without_matplotlib(saved, capsys, monkeypatch):
    saved("regression")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert "Run: pip install 'lightning-prefix[plot]'" in fails(capsys, "--prefix", "saved")
    assert not Path("plots").exists()


def test_help(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["plot", "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    for name in ("curves", "attention", "chrf_by_length", "--texts", "--file_format", "--data.help"):
        assert name in shown
