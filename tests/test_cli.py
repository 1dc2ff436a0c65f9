"""The command line in one process: the main job, and each known trap of LightningCLI."""

import importlib.metadata
import json
from pathlib import Path

import pytest
import torch
import yaml
from tiny_files import review, write_backbone

import lightning_prefix as lp
from lightning_prefix.cli import main


@pytest.fixture(autouse=True)
def _in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def config(tmp_path, bert_folder, reviews) -> str:
    path = tmp_path / "run.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "model": {
                    "class_path": "TextClassification",
                    "init_args": {
                        "backbone": bert_folder,
                        "prefix": {"class_path": "FlatPrefixConfig", "init_args": {"length": 5}},
                    },
                },
                "data": {
                    "class_path": "TextClassificationDataModule",
                    "init_args": {"source": reviews, "batch_size": 8},
                },
                "trainer": {
                    "max_epochs": 2,
                    "accelerator": "cpu",
                    "enable_progress_bar": False,
                    "enable_model_summary": False,
                },
            }
        )
    )
    return str(path)


@pytest.fixture
def checkpoint(config, _in_folder) -> str:
    main(["fit", "--config", config, "--test_after_fit", "false"])
    return "lightning_logs/version_0/checkpoints/best.ckpt"


def fails(capsys, *args, code=1) -> str:
    """The error text of a command that must fail."""
    with pytest.raises(SystemExit) as failure:
        main(list(args))
    assert failure.value.code == code
    return capsys.readouterr().err


def test_main_job(config, capsys):
    cli = main(["fit", "--config", config])
    assert {"test/accuracy", "test/f1", "test/loss"} <= set(cli.trainer.callback_metrics)
    run = Path("lightning_logs/version_0")
    assert {p.name for p in (run / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert {p.name for p in (run / "prefix").iterdir()} == {"README.md", "prefix.safetensors", "prefix.json"}

    trained = ["--config", str(run / "config.yaml"), "--ckpt_path", str(run / "checkpoints/best.ckpt")]
    validated = main(["validate", *trained]).trainer.callback_metrics
    tested = main(["test", *trained]).trainer.callback_metrics
    assert validated["val/accuracy"] == cli.trainer.checkpoint_callback.best_model_score
    assert tested["test/accuracy"] == cli.trainer.callback_metrics["test/accuracy"]

    main(
        [
            "predict",
            *trained,
            "--data.predict",
            '["the good film", "a bad plot", "the film"]',
            "--predictions.path",
            "out.jsonl",
        ]
    )
    lines = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert [line["text"] for line in lines] == ["the good film", "a bad plot", "the film"]
    for line in lines:
        assert set(line["probabilities"]) == {"negative", "positive"}
        assert sum(line["probabilities"].values()) == pytest.approx(1)
        assert line["label"] == max(line["probabilities"], key=line["probabilities"].get)

    predict = lp.Predictor.from_pretrained(run / "prefix")
    for line, result in zip(lines, predict(["the good film", "a bad plot", "the film"]), strict=True):
        assert result["label"] == line["label"]
        assert result["probabilities"] == pytest.approx(line["probabilities"], abs=1e-5)


def test_predict_reads_a_text_file_in_order(checkpoint, config):
    Path("in.txt").write_text("".join(review(row)["text"] + "\n" for row in range(37)))
    main(["predict", "--config", config, "--ckpt_path", checkpoint, "--data.predict", "in.txt"])
    (file,) = Path("lightning_logs").rglob("predictions.jsonl")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["text"] for line in lines] == [review(row)["text"] for row in range(37)]


def test_print_config_round_trips(config, capsys):
    def printed(*args) -> str:
        with pytest.raises(SystemExit) as done:
            main(["fit", *args, "--print_config"])
        assert done.value.code == 0
        return capsys.readouterr().out

    first = printed("--config", config)
    Path("again.yaml").write_text(first)
    assert printed("--config", "again.yaml") == first
    assert yaml.safe_load(first)["model"]["init_args"]["prefix"]["init_args"]["length"] == 5


def test_configs_compose(config):
    Path("prefix.yaml").write_text(
        "model: {class_path: TextClassification, init_args: {prefix: {class_path: GatedPrefixConfig, "
        "init_args: {length: 3}}}}"
    )
    Path("trainer.yaml").write_text("trainer: {max_steps: 2}")
    cli = main(["fit", "--config", config, "--config", "prefix.yaml", "--config", "trainer.yaml"])
    assert cli.trainer.global_step == 2
    assert isinstance(cli.model.model.prefix, lp.GatedPrefix)
    assert cli.model.model.prefix.keys[0].shape == (2, 3, 8)


def test_optimizer_and_scheduler_from_yaml(config, tmp_path):
    Path("sgd.yaml").write_text(
        """
model:
  class_path: TextClassification
  init_args:
    head_learning_rate: 0.5
    optimizer: {class_path: torch.optim.SGD, init_args: {lr: 0.25, momentum: 0.9}}
    lr_scheduler: {class_path: torch.optim.lr_scheduler.StepLR, init_args: {step_size: 4, gamma: 0.1}}
"""
    )
    cli = main(
        [
            "fit",
            "--config",
            config,
            "--config",
            "sgd.yaml",
            "--trainer.max_steps",
            "5",
            "--trainer.limit_val_batches",
            "1",
        ]
    )
    (optimizer,) = cli.trainer.optimizers
    assert isinstance(optimizer, torch.optim.SGD)
    assert [g["name"] for g in optimizer.param_groups] == ["prefix", "head"]
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.025, 0.05])  # one decay after 4 steps
    again = lp.TextClassification.load_from_checkpoint("lightning_logs/version_0/checkpoints/last.ckpt")
    assert again.optimization.optimizer is not None
    assert again.hparams["optimizer"]["init_args"]["lr"] == 0.25


def test_stored_model_is_the_default_and_the_command_line_counts_more(checkpoint, config, capsys):
    capsys.readouterr()
    cli = main(
        [
            "validate",
            "--data",
            "TextClassificationDataModule",
            "--data.source",
            "reviews",
            "--ckpt_path",
            checkpoint,
        ]
    )
    assert cli.model.prefix_config.length == 5
    cli = main(["validate", "--config", config, "--ckpt_path", checkpoint, "--model.label_smoothing", "0.25"])
    assert cli.model.label_smoothing == 0.25


def test_a_differing_value_is_said(checkpoint, config, caplog):
    caplog.set_level("INFO", "lightning.pytorch")
    main(["validate", "--config", config, "--ckpt_path", checkpoint, "--model.label_smoothing", "0.25"])
    assert "model.label_smoothing: 0.25 as given; the checkpoint was trained with 0.0" in caplog.text


def test_another_prefix_shape_is_refused(checkpoint, config, capsys):
    args = ["validate", "--config", config, "--ckpt_path", checkpoint, "--model.prefix.length", "7"]
    text = fails(capsys, *args)
    assert "model.prefixes.default.keys.0 is (2, 5, 8) there and (2, 7, 8) here" in text


def test_arguments_as_a_dict(config, checkpoint):
    given = yaml.safe_load(Path(config).read_text())
    given["model"]["init_args"]["label_smoothing"] = 0.125
    cli = main({"subcommand": "validate", "validate": {**given, "ckpt_path": checkpoint}})
    assert cli.model.label_smoothing == 0.125
    assert cli.model.labels == ["negative", "positive"]


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_an_untrained_prefix_is_refused(command, config, capsys):
    text = fails(capsys, command, "--config", config)
    assert f"`{command}` needs a trained prefix" in text
    cli = main([command, "--config", config, "--untrained", "true", "--model.labels", "[negative, positive]"])
    assert cli.trainer.state.finished


def test_typed_labels_are_never_dropped(config, capsys):
    text = fails(capsys, "fit", "--config", config, "--model.labels", "[minus, plus]")
    assert "the model has the labels ['minus', 'plus'], the data has ['negative', 'positive']" in text
    text = fails(capsys, "fit", "--config", config, "--model.num_labels", "5")
    assert "the model has the labels ['0', '1', '2', '3', '4'], the data has" in text
    cli = main(["fit", "--config", config, "--data.labels", "[positive, negative]", "--trainer.max_steps", "1"])
    assert cli.model.labels == ["positive", "negative"]


def test_typed_tokenizer_is_used(config, tmp_path):
    other = write_backbone(tmp_path / "other")
    cli = main(["fit", "--config", config, "--data.tokenizer", other, "--trainer.max_steps", "1"])
    assert cli.datamodule.tokenizer_name == other


@pytest.mark.parametrize(
    ("args", "near"),
    [
        (["--model", "TextClasification"], "TextClassification"),
        (["--model.prefix", "FlatPrefix"], "FlatPrefixConfig"),
        (["--model.lerning_rate", "1"], "learning_rate"),
        (["--data", "TextClassificationDatamodul"], "TextClassificationDataModule"),
        (["--trainr.max_epochs", "1"], "trainer"),
    ],
)
def test_unknown_names_suggest_near_ones(args, near, config, capsys):
    text = fails(capsys, "fit", "--config", config, *args, code=2)
    assert near in text.split("did you mean")[1]
    assert len(text.splitlines()) < 10


def test_unknown_commands_suggest_near_ones(capsys):
    assert "did you mean predict" in fails(capsys, "predct", code=2)


def test_an_own_head_of_a_trained_checkpoint_is_kept(tmp_path, reviews):
    """A checkpoint that brings its head: nothing but the prefix is trained."""
    import transformers as hf

    folder = write_backbone(tmp_path / "backbone")
    hf.BertForSequenceClassification.from_pretrained(folder, num_labels=2).save_pretrained(folder)
    task = lp.TextClassification(folder, num_labels=2)
    task.configure_model()
    assert {name.split(".")[1] for name in task.state_dict()} == {"prefixes"}


def test_bad_data_is_one_paragraph(config, tmp_path, capsys):
    """The data module's own tests cover each kind; here: one paragraph, code 1."""
    Path("wrong.csv").write_text("sentence,label\ngood film,positive\n")
    Path("broken.csv").write_bytes(b"text,label\n\xff\xfe caf\xe9,positive\n")
    Path("nothing.csv").write_text("text,label\n")
    Path("blank.csv").write_text("text,label\ngood film,positive\n ,negative\n")
    Path("label.csv").write_text("text,label\ngood film,positive\nbad film,terrible\n")
    for file, words in {
        "missing.csv": ["missing.csv"],
        "wrong.csv": ["'text'", "sentence"],
        "broken.csv": ["UTF-8"],
        "nothing.csv": ["nothing.csv is empty"],
        "blank.csv": ["row 2", "no text"],
        "label.csv": ["row 2", "terrible", "negative"],
    }.items():
        text = fails(capsys, "fit", "--config", config, "--data.source", file, "--data.labels", "[negative, positive]")
        paragraph = text[text.index("error: ") :].strip()
        assert "\n" not in paragraph, paragraph
        for word in words:
            assert word in paragraph, paragraph


def test_bad_numbers_are_one_paragraph(config, capsys):
    for args, words in {
        ("--model.prefix.length", "0"): "prefix length 0 is given",
        ("--data.max_length", "65"): "positions for 64 tokens",
        ("--model.learning_rate", "-1"): "learning_rate -1.0 is given",
        ("--model.class_weights", "[1, 2, 3]"): "3 class_weights [1.0, 2.0, 3.0] are given for the 2 labels",
        ("--model.backbone", "./nowhere"): "'./nowhere' could not be loaded",
    }.items():
        text = fails(capsys, "fit", "--config", config, *args)
        assert words in text, text


def test_bad_checkpoints_are_one_paragraph(checkpoint, config, tmp_path, capsys):
    whole = Path(checkpoint).read_bytes()
    Path("half.ckpt").write_bytes(whole[: len(whole) // 2])
    assert "it is truncated, damaged" in fails(capsys, "test", "--config", config, "--ckpt_path", "half.ckpt")
    assert "there is no checkpoint at no.ckpt" in fails(capsys, "test", "--config", config, "--ckpt_path", "no.ckpt")
    torch.save({"state_dict": {}}, "foreign.ckpt")
    assert "not written by lightning_prefix" in fails(capsys, "test", "--config", config, "--ckpt_path", "foreign.ckpt")
    torch.manual_seed(1)
    other = write_backbone(tmp_path / "other")
    text = fails(capsys, "test", "--config", config, "--ckpt_path", checkpoint, "--model.backbone", other)
    assert "it has the same sizes but other weights" in text


def test_a_loss_that_is_not_a_number_stops(config, capsys):
    args = [
        "--model.optimizer",
        "torch.optim.SGD",
        "--model.learning_rate",
        "1e38",
        "--checkpoint.every_n_train_steps",
        "1",
    ]
    text = fails(capsys, "fit", "--config", config, *args)
    assert "at step" in text or "after step" in text
    assert "Lower the learning_rate" in text
    for file in Path("lightning_logs").rglob("*.ckpt"):
        state = torch.load(file, weights_only=True)["state_dict"]
        assert all(tensor.isfinite().all() for tensor in state.values())


@pytest.mark.parametrize("precision", ["bf16-mixed", "32-true"])
def test_the_prefix_and_its_optimizer_state_stay_in_float32(precision, config):
    cli = main(["fit", "--config", config, "--trainer.precision", precision, "--test_after_fit", "false"])
    assert all(parameter.dtype == torch.float32 for parameter in cli.model.model.prefix.parameters())
    states = cli.trainer.optimizers[0].state.values()
    assert all(state["exp_avg"].dtype == torch.float32 for state in states)


def test_assets_command(capsys):
    main(["assets"])
    assert "minilm-l6" in capsys.readouterr().out


def fit_tiny(kind: str, backbone: str, *args: str):
    return main(["fit", "--model", kind, "--model.backbone", backbone, "--data", f"{kind}DataModule", *args])


def test_multi_label(tmp_path, bert_folder):
    rows = [{"text": review(i)["text"], "label": ["a"] * (i % 2) + ["b"] * (i % 3 == 0)} for i in range(40)]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    args = ["--data.source", "rows.jsonl", "--data.multi_label", "true", "--trainer.max_epochs", "1"]
    cli = fit_tiny("TextClassification", bert_folder, *args)
    assert cli.trainer.checkpoint_callback.monitor == "val/f1"
    assert "val/exact_match" in cli.trainer.callback_metrics
    predict = lp.Predictor.from_pretrained("lightning_logs/version_0/prefix")
    assert set(predict("good film")["probabilities"]) == {"a", "b"}


@pytest.mark.parametrize("head", ["auto", "cls", "mean", "last"])
def test_regression_on_pairs(head, tmp_path, bert_folder):
    rows = [{"text": "good film", "other": review(i)["text"], "label": float(i % 2)} for i in range(40)]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    args = ["--data.source", "rows.jsonl", "--data.pair_column", "other", "--trainer.max_epochs", "1"]
    cli = fit_tiny("TextRegression", bert_folder, *args, "--model.head", head)
    assert cli.trainer.checkpoint_callback.monitor == "val/pearson"
    predict = lp.Predictor.from_pretrained("lightning_logs/version_0/prefix")
    (result,) = predict([("good film", "bad film")])
    assert isinstance(result["value"], float)
    with pytest.raises(lp.InputError, match="reads text and other per input"):
        predict(["one text only"])


def test_verbalizer_trains_the_prefix_only(gpt2_folder, reviews):
    args = ["--model.head", "verbalizer", "--model.label_words", "[bad, good]", "--data.source", reviews]
    args += ["--data.template", "the review : {text} film :", "--trainer.max_epochs", "2"]
    cli = fit_tiny("TextClassification", gpt2_folder, *args)
    assert all(name.startswith("model.prefixes.default.") for name in cli.model.state_dict())
    predict = lp.Predictor.from_pretrained("lightning_logs/version_0/prefix")
    assert set(predict("good film")["probabilities"]) == {"negative", "positive"}
    with pytest.raises(lp.InputError, match="must begin with different tokens"):
        lp.TextClassification(
            gpt2_folder, num_labels=2, head="verbalizer", label_words=["zzz", "yyy"]
        ).configure_model()


def test_without_a_validation_the_last_checkpoint_is_tested_and_exported(config, caplog):
    caplog.set_level("INFO", "lightning.pytorch")
    cli = main(["fit", "--config", config, "--trainer.max_steps", "3"])  # stops within the first epoch
    assert "test/accuracy" in cli.trainer.callback_metrics
    assert "no validation ran" in caplog.text
    assert Path("lightning_logs/version_0/prefix/prefix.json").exists()


def test_checkpoints_can_be_turned_off(config):
    cli = main(["fit", "--config", config, "--trainer.max_steps", "3", "--trainer.enable_checkpointing", "false"])
    assert cli.trainer.state.finished
    assert not list(Path().rglob("*.ckpt"))


def test_the_installed_program_ends_with_zero(monkeypatch):
    (program,) = importlib.metadata.entry_points(group="console_scripts", name="lightning-prefix")
    monkeypatch.setattr("lightning_prefix.cli.main", lambda: "a CLI")
    assert program.load()() is None
