"""Folders on a hub: pushed, fetched with revisions and tokens, and every way in which that fails."""

import threading
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
import transformers
from fake_hub import TOKEN, FakeHub
from huggingface_hub import ModelCard
from tiny_files import write_reviews

import lightning_prefix as lp

TEXTS = ["the good film", "the bad plot"]


@pytest.fixture
def hub(monkeypatch, tmp_path):
    server = FakeHub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name, value in {
        "ENDPOINT": server.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": server.url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(tmp_path / "hub_cache"),
        "HF_HUB_DISABLE_XET": True,
    }.items():
        monkeypatch.setattr(huggingface_hub.constants, name, value)
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def task(bert_folder) -> lp.PrefixTask:
    made = lp.TextClassification(bert_folder, lp.FlatPrefixConfig(length=3), labels=["negative", "positive"])
    made.configure_model()
    return made.eval()


@pytest.fixture
def description(bert_folder):
    return lp.TextClassificationDataModule(tokenizer=bert_folder).description()


def changed(task: lp.PrefixTask) -> lp.PrefixTask:
    for parameter in task.model.prefix.parameters():
        torch.nn.init.normal_(parameter)
    return task


def test_what_is_pushed_comes_back(hub, task, description, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    url = task.push_to_hub("me/reviews", description, token=TOKEN, private=True)
    assert url.startswith(f"{hub.url}/me/reviews/commit/")
    assert hub.repos["me/reviews"]["private"]
    assert set(hub.files("me/reviews")) == {"README.md", "prefix.json", "prefix.safetensors"}
    expected = lp.Predictor(task, lp.TextClassificationDataModule())(TEXTS)
    predict = lp.Predictor.from_pretrained("me/reviews", token=TOKEN)
    assert predict(TEXTS) == expected
    again = lp.PrefixTask.from_pretrained("me/reviews", token=TOKEN)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in task.state_dict().items())
    card = ModelCard(hub.files("me/reviews")["README.md"].decode())
    assert card.data.library_name == "lightning_prefix"
    assert 'lp.Predictor.from_pretrained("me/reviews")' in card.text


def test_a_revision_is_the_one_that_was_pushed(hub, task, description):
    task.push_to_hub("me/reviews", description, token=TOKEN)
    first = hub.repos["me/reviews"]["revisions"]["main"]
    changed(task).push_to_hub("me/reviews", description, token=TOKEN, revision="wide")
    by_revision = {
        revision: lp.PrefixTask.from_pretrained("me/reviews", revision=revision).state_dict()
        for revision in (None, first, "wide")
    }
    name = next(iter(name for name in by_revision[None] if "prefixes" in name))
    assert torch.equal(by_revision[None][name], by_revision[first][name])
    assert torch.equal(by_revision["wide"][name], task.state_dict()[name])
    assert not torch.equal(by_revision["wide"][name], by_revision[first][name])


def test_ensembles_and_prefixes_without_a_task(hub, task, description, tmp_path):
    for number in range(2):
        changed(task).save_pretrained(tmp_path / str(number), description)
    ensemble = lp.Ensemble([tmp_path / "0", tmp_path / "1"], weights=[3, 1])
    ensemble.push_to_hub("me/both", token=TOKEN)
    expected = lp.Predictor(ensemble, ensemble.readings[0])(TEXTS)
    assert lp.Predictor.from_pretrained("me/both")(TEXTS) == expected
    assert "| [member_0](member_0/README.md) | 0.75 |" in hub.files("me/both")["README.md"].decode()

    sizes = {"n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 32, "vocab_size": 50}
    backbone = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes)).eval()
    model = lp.PrefixedModel(backbone, lp.FlatPrefixConfig(length=3))
    model.save_pretrained(tmp_path / "plain")
    lp.push_to_hub(tmp_path / "plain", "me/plain", token=TOKEN)
    ids = torch.tensor([[1, 2, 3]])
    expected = model(ids).logits
    model.load_prefix("again", "me/plain")
    assert torch.equal(model(ids, prefix_names=["again"]).logits, expected)
    assert torch.equal(lp.PrefixedModel.from_pretrained("me/plain", model.unload())(ids).logits, expected)


def test_only_the_files_of_a_prefix_travel(hub, task, description, tmp_path):
    task.save_pretrained(tmp_path / "prefix", description)
    (tmp_path / "prefix" / "secret.txt").write_text("mine")
    lp.push_to_hub(tmp_path / "prefix", "me/reviews", token=TOKEN)
    assert "secret.txt" not in hub.files("me/reviews")
    hub.commit("me/reviews", {**hub.files("me/reviews"), "evil.py": b"print()", "x/pickle.bin": b"."})
    lp.Predictor.from_pretrained("me/reviews")
    fetched = {path.name for path in (tmp_path / "hub_cache").rglob("*")}
    assert "prefix.json" in fetched
    assert not {"evil.py", "pickle.bin"} & fetched


def test_a_local_folder_wins(hub, task, description, tmp_path, monkeypatch):
    hub.create("me/reviews")
    monkeypatch.chdir(tmp_path)
    task.save_pretrained("me/reviews", description)
    lp.Predictor.from_pretrained("me/reviews")
    assert hub.requests == []


def test_a_card_of_a_person_stays_on_the_hub(hub, task, description, tmp_path):
    folder = tmp_path / "prefix"
    task.save_pretrained(folder, description)
    lp.push_to_hub(folder, "me/reviews", token=TOKEN)
    hub.commit("me/reviews", {**hub.files("me/reviews"), "README.md": b"by hand"})
    with pytest.warns(UserWarning, match=r"the card of me/reviews .* stays as it is"):
        lp.push_to_hub(folder, "me/reviews", token=TOKEN)
    assert hub.files("me/reviews")["README.md"] == b"by hand"
    (folder / "README.md").write_text("by another hand")
    lp.push_to_hub(folder, "me/reviews", token=TOKEN)
    assert hub.files("me/reviews")["README.md"] == b"by another hand"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"'me/private' is no folder here, and could not be had .*RepositoryNotFoundError.* token=, or `hf auth"),
        ({"token": "hf_wrong"}, "'me/private' is no folder here"),
        ({"token": TOKEN, "revision": "v9"}, r"hub at the revision 'v9' \(RevisionNotFoundError"),
    ],
)
@pytest.mark.parametrize("load", [lp.Predictor, lp.PrefixTask, lp.PrefixedModel, lp.Ensemble])
def test_what_cannot_be_had(load, options, message, hub):
    hub.create("me/private", private=True)
    with pytest.raises(lp.InputError, match=message) as caught:
        load.from_pretrained("me/private", **options)
    assert "\n" not in str(caught.value)


def test_a_repository_without_a_prefix(hub):
    hub.create("me/empty")
    hub.commit("me/empty", {"README.md": b"nothing"})
    with pytest.raises(lp.InputError, match=r"has no prefix.safetensors; a folder written by save_pretrained has"):
        lp.Predictor.from_pretrained("me/empty")


@pytest.mark.parametrize("name", ["nowhere", "a/b/c", "/nowhere/at/all", "../up", Path("me/reviews")])
def test_names_that_are_no_ids_are_not_looked_for(name, hub):
    with pytest.raises(lp.InputError, match="there is no folder"):
        lp.Predictor.from_pretrained(name)
    assert hub.requests == []


def test_without_a_connection(hub, task, description, tmp_path, monkeypatch):
    task.save_pretrained(tmp_path / "prefix", description)
    lp.push_to_hub(tmp_path / "prefix", "me/reviews", token=TOKEN)
    lp.Predictor.from_pretrained("me/reviews")
    hub.shutdown()
    hub.server_close()
    lp.Predictor.from_pretrained("me/reviews")  # from the cache
    with pytest.raises(lp.InputError, match="'me/others' is no folder here, and could not be had"):
        lp.Predictor.from_pretrained("me/others")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(lp.InputError, match="'me/others' is no folder here, and could not be had"):
        lp.Predictor.from_pretrained("me/others")


def test_what_cannot_be_pushed(hub, task, description, tmp_path):
    with pytest.raises(lp.InputError, match=r"could not be pushed to 'me/reviews' \(.*`hf auth login`, HF_TOKEN or"):
        task.push_to_hub("me/reviews", description, token="hf_wrong")
    with pytest.raises(lp.InputError, match=r"has none of prefix\.json, ensemble\.json; push"):
        lp.push_to_hub(write_reviews(tmp_path / "reviews"), "me/reviews", token=TOKEN)
    task.model = None
    with pytest.raises(lp.InputError, match="no weights yet"):
        task.push_to_hub("me/reviews")
    assert hub.repos == {}
