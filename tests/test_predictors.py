"""Prefixes of different tasks, asked by name in one batch, answer as each alone."""

import pytest
import torch
from every_task import CASES, PLAIN, case_backbone, question, text, written

import lightning_prefix as lp
from lightning_prefix.tasks.members import Members

FIVE = {"max_new_tokens": 5}
TEXTS = [text(row, 3 + row % 5) for row in range(6)]


def stored(case, backbone, folder, length=3, seed=0, **options):
    """A prefix and head that are far from their start."""
    torch.manual_seed(seed)
    kind = CASES[case]
    task = kind.make_task(backbone, lp.FlatPrefixConfig(length=length), **options)
    data = kind.make_data({"train": range(12)})
    data.serve(task)
    if case == "classification" or case == "pooled":
        task.labels = options.get("labels") or ["negative", "positive"]
    if case == "tokens":
        task.labels = ["O", "B-X"]
    task.configure_model()
    with torch.no_grad():
        for parameter in task.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter))
    task.hparams.update({"labels": task.labels} if hasattr(task, "labels") else {})
    task.save_pretrained(folder, data.description())
    return folder


def same(ours, theirs):
    if isinstance(ours, dict):
        return ours.keys() == theirs.keys() and all(same(ours[key], theirs[key]) for key in ours)
    if isinstance(ours, list):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    return ours == pytest.approx(theirs, abs=1e-5) if isinstance(ours, float) else ours == theirs


@pytest.fixture
def passes(monkeypatch):
    """How many rows each pass had."""
    counts = []
    reading = Members.reading
    monkeypatch.setattr(Members, "reading", lambda self, each: counts.append(sum(each)) or reading(self, each))
    return counts


def test_classes_and_a_rating_in_one_pass(bert_folder, tmp_path, passes):
    folders = {
        "mood": stored("classification", bert_folder, tmp_path / "mood"),
        "topic": stored("classification", bert_folder, tmp_path / "topic", 5, 1, labels=list("abcd")),
        "rating": stored("regression", bert_folder, tmp_path / "rating", 2, 2),
    }
    alone = {name: lp.Predictor.from_pretrained(folder) for name, folder in folders.items()}
    ask = lp.Predictors(folders)
    names = ["topic", "mood", "rating", "mood", "topic", "rating"]
    requests = list(zip(names, TEXTS, strict=True))
    answers = ask(requests)
    assert passes == [6]
    for (name, given), answer in zip(requests, answers, strict=True):
        assert same(answer, alone[name](given)), name
    assert list(answers[0]["probabilities"]) == list("abcd")
    assert len(ask(requests * 7)) == 42
    assert passes[1:] == [32, 10]
    assert ask([]) == []


def test_one_backbone_is_in_memory(bert_folder, gpt2_folder, tmp_path):
    folders = {
        "mood": stored("classification", bert_folder, tmp_path / "mood"),
        "words": stored("tokens", bert_folder, tmp_path / "words", seed=1),
    }
    ask = lp.Predictors(folders)
    models = [ask.named[name].group.members.model.backbone for name in folders]
    first, second = ({p.data_ptr() for p in model.base_model.encoder.parameters()} for model in models)
    assert first == second
    rows = [("mood", TEXTS[0]), ("words", PLAIN[:4])]
    alone = [lp.Predictor.from_pretrained(folders[name])([given])[0] for name, given in rows]
    assert same(ask(rows), alone)


def test_texts_of_several_tasks(gpt2_folder, tmp_path, passes):
    folders = {
        name: stored("decoder", gpt2_folder, tmp_path / name, length, length, generation=generation)
        for name, length, generation in (("long", 5, FIVE), ("short", 2, FIVE), ("other", 3, {"max_new_tokens": 3}))
    }
    folders["head"] = stored("pooled", gpt2_folder, tmp_path / "head")
    alone = {name: lp.Predictor.from_pretrained(folder) for name, folder in folders.items()}
    ask = lp.Predictors(folders)
    requests = [(name, TEXTS[row]) for row, name in enumerate(["long", "short", "head", "other", "long", "short"])]
    answers = ask(requests)
    assert sorted(passes) == [1, 1, 4]
    for (name, given), answer in zip(requests, answers, strict=True):
        assert same(answer, alone[name](given)), name


@pytest.mark.parametrize("case", ["spans", "encoder_decoder"])
def test_other_kinds(case, bert_folder, gpt2_folder, tmp_path):
    backbone = case_backbone(CASES[case], bert_folder, gpt2_folder, tmp_path / "backbone")
    options = {"generation": FIVE} if case == "encoder_decoder" else {}
    folders = {str(seed): stored(case, backbone, tmp_path / str(seed), 3 + seed, seed, **options) for seed in (0, 1)}
    alone = {name: lp.Predictor.from_pretrained(folder) for name, folder in folders.items()}
    make = question if case == "spans" else written
    rows = [{k: v for k, v in make(row).items() if k not in ("answers", "target")} for row in range(4)]
    requests = [(str(row % 2), given) for row, given in enumerate(rows)]
    for (name, given), answer in zip(requests, lp.Predictors(folders)(requests), strict=True):
        assert same(answer, alone[name]([given])[0])


def test_bad_input(bert_folder, tmp_path):
    folder = stored("classification", bert_folder, tmp_path / "mood")
    with pytest.raises(lp.InputError, match="no prefix is given"):
        lp.Predictors({})
    with pytest.raises(lp.InputError, match="batch_size 0 is given"):
        lp.Predictors({"mood": folder}, batch_size=0)
    ask = lp.Predictors({"mood": folder})
    with pytest.raises(lp.InputError, match="there is no prefix 'mod'; there are 'mood'"):
        ask([("mod", "a film")])
    with pytest.raises(lp.InputError, match="text"):
        ask([("mood", "  ")])
    model = lp.PrefixTask.from_pretrained(folder).model
    model.save_pretrained(tmp_path / "bare")
    with pytest.raises(lp.InputError, match="holds a prefix without a task"):
        lp.Predictors({"bare": tmp_path / "bare"})
