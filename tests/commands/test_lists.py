"""`tasks`, `prefixes`, `backbones`, `completion`, and the overview."""

import subprocess
from contextlib import redirect_stdout
from dataclasses import replace

import pytest
import yaml
from jsonschema import Draft7Validator
from tiny_backbones import BACKBONES
from tiny_files import write_language_model
from transformers import GPTNeoConfig

import lightning_prefix as lp
from lightning_prefix.backbone.survey import model_types, survey
from lightning_prefix.cli import main
from lightning_prefix.commands.overview import all_commands
from lightning_prefix.commands.prefixes import variants
from lightning_prefix.commands.schema import config_schema
from lightning_prefix.commands.tasks import task_names


def printed(capsys, *words: str) -> str:
    main(list(words))
    return capsys.readouterr().out


def test_tasks(capsys):
    """Each that there is, with the YAML that it starts from."""
    text = printed(capsys, "tasks")
    assert set(task_names()) == {name for name in lp.__all__ if f"{name}DataModule" in lp.__all__}
    for name in task_names():
        assert f"\n{name}\n  " in f"\n{text}"
        assert f"{name}DataModule" in text
        config = yaml.safe_load(printed(capsys, "tasks", name))
        assert config["model"]["class_path"] == name
        Draft7Validator(config_schema()).validate(config)


def test_an_unknown_task(capsys):
    with pytest.raises(SystemExit) as failure:
        main(["tasks", "Translate"])
    assert failure.value.code == 2
    assert "Translation" in capsys.readouterr().err


def test_prefixes(capsys):
    text = printed(capsys, "prefixes")
    for cls in variants():
        assert f"{cls.__name__}\n  " in text
        assert cls.parameters in text


def nameless(sites: tuple[lp.AttentionSite, ...]) -> list[lp.AttentionSite]:
    """Names are those of modules, which a head moves."""
    return [replace(site, name="") for site in sites]


@pytest.mark.parametrize("family", ["bert", "llama", "t5", "deberta_v2", "deepseek_v3", "qwen3_next"])
@pytest.mark.filterwarnings("ignore:layers .* have no softmax attention")
def test_the_survey_is_what_a_loaded_model_says(family, tmp_path):
    """Sites, numbers of each variant, and the formula that `prefixes` prints."""
    backbone = BACKBONES[family]()
    backbone.config.save_pretrained(tmp_path)
    prefixes = [cls(length=3) if cls is not lp.OutputPrefixConfig else cls() for cls in variants()]
    found = survey(str(tmp_path), prefixes)
    assert found.parameters == sum(p.numel() for p in backbone.base_model.parameters())
    for prefix, trained in zip(prefixes, found.trained, strict=True):
        model = lp.PrefixedModel(backbone, prefix)
        assert nameless(found.sites) == nameless(model.all_sites)
        sizes = {name: getattr(prefix, name, None) for name in ("length", "embedding_dim", "hidden_dim")} | {
            "per_position": sum(site.kv_heads * (site.key_dim + site.value_dim) for site in model.all_sites),
            "heads": sum(site.heads for site in model.all_sites),
            "input_dim": backbone.get_input_embeddings().weight.shape[1],
            "output_dim": backbone.config.hidden_size,
        }
        assert trained == sum(p.numel() for p in model.prefix.parameters()) == eval(prefix.parameters, sizes)  # noqa: S307
        model.unload()


def test_backbones(capsys, bert_folder, gpt2_folder, tmp_path):
    text = printed(capsys, "backbones", bert_folder)
    assert "prefixes" in text
    assert "FlatPrefixConfig" in text
    assert "asset:minilm-l6" in printed(capsys, "backbones")
    marian = write_language_model(tmp_path, "bart")
    text = printed(capsys, "backbones", marian)
    assert all(kind in text for kind in ("encoder sites", "decoder sites", "cross sites"))


def test_a_backbone_that_carries_none(capsys, tmp_path):
    GPTNeoConfig(hidden_size=8, num_layers=2, num_heads=2, attention_types=[[["global"], 2]]).save_pretrained(tmp_path)
    with pytest.raises(SystemExit) as failure:
        main(["backbones", str(tmp_path)])
    assert failure.value.code == 1
    assert "never calls transformers' attention interface" in capsys.readouterr().err


def test_what_needs_its_weights_to_run_is_not_built_when_it_is_large(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("lightning_prefix.backbone.survey._BUILT", 100)
    BACKBONES["deberta_v2"]().config.save_pretrained(tmp_path)
    with pytest.raises(SystemExit):
        main(["backbones", str(tmp_path)])
    assert "cannot run without its" in capsys.readouterr().err


def test_model_types():
    """Those of the tested families, and none of those that are known not to call the interface."""
    types = model_types()
    assert {"bert", "roberta", "deberta-v2", "modernbert"} <= set(types["encoders"])
    assert {"gpt2", "llama", "qwen3", "gemma3"} <= set(types["decoders"])
    assert {"t5", "bart", "marian"} <= set(types["encoder-decoders"])
    assert not {"bloom", "mpt", "mpnet", "led", "mamba"} & {name for names in types.values() for name in names}


def test_overview(capsys):
    with pytest.raises(SystemExit) as done:
        main(["--help"])
    assert done.value.code == 0
    text = capsys.readouterr().out
    for name, line in all_commands().items():
        assert line
        assert f"  {name:16}{line}\n" in text


def test_every_command_has_help(capsys):
    for name in all_commands():
        with pytest.raises(SystemExit) as done:
            main([name, "--help"])
        assert done.value.code == 0
        assert "usage:" in capsys.readouterr().out


def test_an_unknown_command(capsys):
    with pytest.raises(SystemExit) as failure:
        main(["tnue"])
    assert failure.value.code == 2
    assert "did you mean tune?" in capsys.readouterr().err
    with pytest.raises(SystemExit) as failure:
        main([])
    assert failure.value.code == 2


COMPLETED = {
    "lightning-prefix ba": {"backbones"},
    "lightning-prefix fit --model.learning": {"--model.learning_rate"},
    "lightning-prefix fit --model.prefix ": {cls.__name__ for cls in variants()},
    "lightning-prefix fit --model.positions ": {"keep", "shift"},
    "lightning-prefix test --trainer.enable_progress_bar ": {"true", "false"},
    "lightning-prefix tune --model.prefix.hid": {"--model.prefix.hidden_dim"},
    "lightning-prefix tune --tri": {"--trials"},
    "lightning-prefix cross-validate --select ": {"last", "best"},
    "lightning-prefix tasks Te": {name for name in task_names() if name.startswith("Te")},
    "lightning-prefix fit --config qu": {"quick.yaml"},
}


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    pytest.importorskip("shtab")
    path = tmp_path_factory.mktemp("completion") / "lightning-prefix"
    with path.open("w") as file, redirect_stdout(file):
        main(["completion", "bash"])
    return path


@pytest.mark.parametrize(("words", "found"), COMPLETED.items(), ids=COMPLETED)
def test_completion_in_bash(words, found, script, tmp_path):
    (tmp_path / "quick.yaml").touch()
    code = """
    source "$0"
    IFS=' ' read -ra COMP_WORDS <<< "$1"
    [[ $1 == *' ' ]] && COMP_WORDS+=("")
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
    function=$(complete -p lightning-prefix | sed 's/.*-F \\([^ ]*\\) .*/\\1/')
    $function
    printf '%s\\n' "${COMPREPLY[@]}"
    """
    done = subprocess.run(["bash", "-c", code, script, words], cwd=tmp_path, capture_output=True, text=True)  # noqa: S607
    assert set(done.stdout.split()) == found, done.stderr
