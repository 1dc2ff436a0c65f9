"""The command `tune`: one study with everything, and what is refused."""

import json
from pathlib import Path

import pandas as pd
import pytest
import yaml

from lightning_prefix.cli import main
from lightning_prefix.tuning.defaults import DEFAULT_SPACES, PREFIX_SPACE

CONFIGS = Path(__file__).parents[2] / "configs"


def fails(capsys, *args, code=1) -> str:
    """The error text of a command that must fail before anything is trained."""
    with pytest.raises(SystemExit) as failure:
        main(["tune", *args])
    assert failure.value.code == code
    assert not list(Path().rglob("trial_*"))
    return capsys.readouterr().err


@pytest.fixture
def variants(config) -> str:
    """The config with a space in it: classes, conditions, data, trainer."""
    given = yaml.safe_load(Path(config).read_text())
    mlp = {"model.prefix": "MLPPrefixConfig"}
    given["space"] = {
        "model.prefix": {"choices": ["FlatPrefixConfig", "MLPPrefixConfig"]},
        "model.prefix.length": {"low": 2, "high": 6},
        "model.prefix.hidden_dim": {"choices": [8, 16], "only_if": mlp},
        "model.prefix.layers": {"choices": [None, [0]]},
        "model.learning_rate": [
            {"low": 0.05, "high": 0.1, "only_if": {"model.prefix": "FlatPrefixConfig"}},
            {"low": 1e-4, "high": 1e-3, "log": True, "only_if": mlp},
        ],
        "data.batch_size": {"choices": [4, 8]},
        "trainer.max_epochs": {"low": 1, "high": 2},
        "model.label_smoothing": {"low": 0.0, "high": 0.5, "step": 0.25},
    }
    Path(config).write_text(yaml.safe_dump(given))
    return config


def test_one_study(variants, caplog):
    caplog.set_level("INFO", "lightning.pytorch")
    main(["tune", "--config", variants, "--trials", "6", "--metric", "val/loss", "--sampler", "RandomSampler"])
    trials = pd.read_csv("tuning/trials.csv")
    assert list(trials["number"]) == list(range(6))
    assert set(trials["state"]) <= {"COMPLETE", "PRUNED"}
    assert set(trials["model.prefix"]) == {"FlatPrefixConfig", "MLPPrefixConfig"}
    for row in trials.to_dict("records"):
        made = yaml.unsafe_load(Path(f"tuning/trial_{row['number']}/hparams.yaml").read_text())
        is_mlp = row["model.prefix"] == "MLPPrefixConfig"
        prefix = made["prefix"]["init_args"]
        assert made["prefix"]["class_path"].endswith(row["model.prefix"])
        assert prefix["length"] == row["model.prefix.length"]
        assert prefix["layers"] == json.loads(
            row["model.prefix.layers"] if row["model.prefix.layers"] == "[0]" else "null"
        )
        assert prefix.get("hidden_dim") == (row["model.prefix.hidden_dim"] if is_mlp else None)
        rate = row["model.learning_rate [MLPPrefixConfig]" if is_mlp else "model.learning_rate [FlatPrefixConfig]"]
        assert made["learning_rate"] == pytest.approx(rate)
        assert made["label_smoothing"] == row["model.label_smoothing"]
        metrics = pd.read_csv(f"tuning/trial_{row['number']}/metrics.csv")
        assert metrics["step"].max() + 1 == 4 * row["trainer.max_epochs"] or row["state"] == "PRUNED"
        if row["state"] == "COMPLETE":
            assert row["value"] == pytest.approx(metrics["val/loss"].min())

    best = trials[trials["state"] == "COMPLETE"].sort_values("value").iloc[0]
    assert [line for line in caplog.messages if line.startswith(f"trial {best['number']}: COMPLETE")]
    assert "next:\n  python -m lightning_prefix fit --config tuning/best.yaml" in caplog.text
    assert "GPU available" not in caplog.text
    for name in ("history.png", "parallel_coordinates.png", "importances.png"):
        assert Path("tuning", name).stat().st_size > 5000

    text = Path("tuning/best.yaml").read_text()
    assert f"# Trial {best['number']}, the best of the study tuning: val/loss" in text
    again = main(
        [
            "fit",
            "--config",
            "tuning/best.yaml",
            "--test_after_fit",
            "false",
            "--checkpoint.monitor",
            "val/loss",
            "--checkpoint.mode",
            "min",
        ]
    )
    assert again.datamodule.batch_size == best["data.batch_size"]
    assert again.trainer.checkpoint_callback.best_model_score.item() == best["value"]


def test_the_metric_of_the_task_and_the_best_config_again(config, space, capsys):
    given = ["--config", config, "--space", space]
    main(["tune", *given, "--trials", "2"])
    trials = pd.read_csv("tuning/trials.csv")
    again = main(["fit", "--config", "tuning/best.yaml", "--test_after_fit", "false"])
    assert again.trainer.checkpoint_callback.best_model_score.item() == trials["value"].max()

    with pytest.raises(SystemExit):
        main(["tune", *given, "--trials", "3"])
    assert "the study 'tuning' exists with 2 trials; give --resume true" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["tune", *given, "--trials", "3", "--resume", "true", "--direction", "minimize"])
    assert "was begun with maximize" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["tune", "--config", config, "--trials", "3", "--resume", "true"])  # the default space
    assert "was begun with another space" in capsys.readouterr().err
    main(["tune", *given, "--trials", "3", "--resume", "true"])
    after = pd.read_csv("tuning/trials.csv")
    assert list(after["number"]) == [0, 1, 2]
    assert list(after["value"][:2]) == list(trials["value"])


def test_the_same_seed_gives_the_same_points(config, space):
    given = ["tune", "--config", config, "--space", space, "--trials", "1", "--directory"]
    main([*given, "a"])
    main([*given, "b"])
    main([*given, "c", "--sampler_options", "{seed: 7}"])
    points = [list(pd.read_csv(f"{name}/trials.csv")["model.learning_rate"]) for name in "abc"]
    assert points[0] == points[1] != points[2]


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ("model.lerning_rate: {low: 1, high: 2}", "Did you mean model.learning_rate"),
        ("learning_rate: {low: 1, high: 2}", "learning_rate is in the space; the config has no such key"),
        ("trainer.max_epoch: {low: 1, high: 2}", "Did you mean trainer.max_epochs"),
        ("model.prefix.hidden_dim: {low: 1, high: 2}", "model.prefix.hidden_dim is in the space; the config has no"),
        (
            "model.prefix: {choices: [MLPPrefixConfig, FlatPrefixConfig]}\nmodel.prefix.hidden_dim: {low: 1, high: 2}",
            "no such key with model.prefix: FlatPrefixConfig",
        ),
        ("model.prefix: {choices: [FlatPrefix]}", "model.prefix: 'FlatPrefix' out of the space cannot be used"),
        ("data.batch_size: {choices: [8, many]}", "data.batch_size: 'many' out of the space cannot be used"),
        ("model.prefix.length: {low: 0, high: 3}", "prefix length 0 is given"),
        ("model.learning_rate: {low: 2, high: 1}", "low is larger than high"),
        ("just words", "is no YAML file with a mapping"),
    ],
)
def test_refused_before_the_first_trial(space, words, config, capsys):
    Path("space.yaml").write_text(space)
    text = fails(capsys, "--config", config, "--space", "space.yaml")
    assert words in text
    assert len(text.strip().splitlines()) == 1 + text.count("Seed set")


def test_other_refusals(config, space, capsys):
    given = ["--config", config, "--space", space]
    for args, words in {
        ("--space", "nowhere.yaml"): "--space nowhere.yaml is no YAML file",
        ("--trials", "0"): "trials 0 is given",
        ("--metric", "val/f1x"): "give --direction",
        ("--sampler", "TPESample"): "Did you mean TPESampler",
        ("--sampler_options", "{n_startup: 3}"): "n_startup_trials",
        ("--pruner", "MedianPrunr"): "Did you mean MedianPruner",
        ("--trainer.devices", "2"): "the Trainer has 2 processes",
        ("--model.prefix", "OutputPrefixConfig", "--space", "null"): "there is no default space for OutputPrefixConfig",
    }.items():
        assert words in fails(capsys, *given, *args), args


def test_an_unknown_metric_stops_at_once_and_names_those_that_are_logged(config, space, capsys):
    with pytest.raises(SystemExit):
        main(["tune", "--config", config, "--space", space, "--metric", "val/f2", "--direction", "maximize"])
    text = capsys.readouterr().err
    assert "the validation logs train/loss" not in text
    assert "metric 'val/f2' is given; the validation logs val/accuracy, val/f1" in text
    trials = pd.read_csv("tuning/trials.csv")
    assert list(trials["state"]) == ["FAIL"] * 3  # three failures of one kind, then the study ends


@pytest.mark.parametrize("name", ["flat", "mlp", "gated", "prefix"])
def test_default_spaces(name, config, bert_folder, reviews):
    """The YAMLs say what the code says, and the quickstart takes them."""
    from lightning_prefix.commands.experiment import ExperimentCLI
    from lightning_prefix.commands.space import check_space, read_space
    from lightning_prefix.commands.tune import tune

    file = CONFIGS / "tune" / f"{name}.yaml"
    args = ["--config", str(CONFIGS / "quickstart.yaml"), "--model.backbone", bert_folder, "--data.source", reviews]
    if name != "prefix":
        args += ["--config", str(CONFIGS / "prefix" / f"{name}.yaml")]
    cli = ExperimentCLI("tune", tune, args, {"cli"})
    space = read_space(str(file), cli.run_config())
    check_space(cli, cli.run_config(), space)
    if name == "prefix":
        assert space.given == PREFIX_SPACE
    else:
        classes = {"flat": "FlatPrefixConfig", "mlp": "MLPPrefixConfig", "gated": "GatedPrefixConfig"}
        assert space.given == DEFAULT_SPACES[classes[name]] == read_space(None, cli.run_config()).given
    header = [line for line in file.read_text().splitlines() if line.startswith("#")]
    assert any(f"--space configs/tune/{name}.yaml" in line for line in header)
