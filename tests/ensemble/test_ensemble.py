"""Ensembles: the members' own scores, combined; one batch or several backbones; files, commands and refusals."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from every_task import CASES, case_backbone
from tiny_files import review, write_backbone, write_reviews

import lightning_prefix as lp
from lightning_prefix.cli import main
from lightning_prefix.ensemble.ensemble import Ensemble
from lightning_prefix.tasks.spans import Span, SpanScores
from lightning_prefix.training import train, trainer_factory

QUIET = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False, "logger": False}
TRAINING = {name: value for name, value in QUIET.items() if name != "logger"}
PREFIXES = [
    lp.FlatPrefixConfig(length=3),
    lp.GatedPrefixConfig(length=5),
    lp.MLPPrefixConfig(length=2, init="random"),
]
ROWS = {"train": range(12), "validation": range(12, 21), "test": range(30, 41)}


def write_member(case, backbone, prefix, folder: Path, seed: int = 0, **options) -> Path:
    """A prefix that was hardly trained, and is far from its start."""
    torch.manual_seed(seed)
    task, data = case.make_task(backbone, prefix, learning_rate=0.3, **options), case.make_data(ROWS)
    train(task, data, trainer_factory({**TRAINING, "max_steps": 3}), folder, seed)
    task.save_pretrained(folder / "prefix", data.description())
    return folder / "prefix"


@pytest.fixture(scope="session", params=CASES)
def members(request, bert_folder, gpt2_folder, tmp_path_factory):
    case = CASES[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    backbone = case_backbone(case, bert_folder, gpt2_folder, folder / "backbone")
    return case, [write_member(case, backbone, p, folder / str(i), seed=i) for i, p in enumerate(PREFIXES)]


def raw(case, rows):
    """Inputs as a Predictor takes them."""
    return [case.row(row) for row in rows]


def test_members_in_one_batch_say_what_they_say_alone(members):
    case, folders = members
    inputs = raw(case, ROWS["test"])
    ensemble = Ensemble(folders, rule="rerank" if case.task is lp.TextGeneration else None)
    assert len(ensemble.groups) == 1
    assert len(ensemble.readings) == 1
    reading = ensemble.readings[0]
    together = ensemble.member_scores(reading.collator()(reading.encode_inputs(inputs)))
    for folder, scores in zip(folders, together, strict=True):
        alone = lp.Predictor.from_pretrained(folder, batch_size=len(inputs))
        batch = alone.data.collator()(alone.data.encode_inputs(inputs))
        expected = alone.task.write(batch) if case.task is lp.TextGeneration else None
        if expected is None:
            with torch.inference_mode():
                expected = alone.task.scores(alone.task.outputs(batch), batch)
        if hasattr(expected, "spans"):
            expected, scores = ([span for found in s.spans for span in found] for s in (expected, scores))
            assert [(s.start, s.end) for s in expected] == [(s.start, s.end) for s in scores]
            expected, scores = ([s.score for s in one] for one in (expected, scores))
        if case.task is lp.TextGeneration:
            assert scores == expected
        else:
            torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-5, equal_nan=True)
    assert str(together[0]) != str(together[1])


def test_the_folder_answers_as_the_ensemble(members, tmp_path):
    case, folders = members
    inputs = raw(case, ROWS["test"])
    ensemble = Ensemble(folders)
    ensemble.save_pretrained(tmp_path / "ensemble")
    loaded = lp.Predictor.from_pretrained(tmp_path / "ensemble")(inputs)
    assert loaded == lp.Predictor(ensemble, ensemble.readings[0])(inputs)
    single = lp.Predictor.from_pretrained(folders[0])(inputs)
    assert loaded[0].keys() >= single[0].keys()
    # one member three times is that member
    same = lp.Predictor.from_pretrained(folders[1])
    thrice = Ensemble([folders[1]] * 3)
    for one, three in zip(same(inputs), lp.Predictor(thrice, thrice.readings[0])(inputs), strict=True):
        for key in ("label", "tags", "answer", "generated_text"):
            assert one.get(key) == three.get(key)


def test_trainer_counts_what_the_predictor_says(members, tmp_path):
    case, folders = members
    data = case.make_data(ROWS)
    ensemble = Ensemble(folders)
    trainer = trainer_factory(QUIET)
    (results,) = trainer().test(ensemble, data, verbose=False)
    names = {name.removeprefix("test/") for name in results}
    predictions = [row for batch in trainer().predict(ensemble, data) for row in batch]
    assert [row.pop("index") for row in predictions] == list(range(len(ROWS["test"])))
    answers = lp.Predictor(ensemble, ensemble.readings[0], batch_size=4)(raw(case, ROWS["test"]))
    for row, answer in zip(predictions, answers, strict=True):
        for key in ("label", "tags", "answer", "generated_text"):
            assert row.get(key) == answer.get(key)
    if case.task is lp.TextClassification:
        right = [row["label"] == case.row(i)["label"] for row, i in zip(predictions, ROWS["test"], strict=True)]
        assert results["test/accuracy"] == pytest.approx(sum(right) / len(right))
        assert {"loss", "member_mean/accuracy"} <= names
    alone = [Ensemble([folder], ensemble.rule) for folder in folders]
    each = [trainer().test(one, case.make_data(ROWS), verbose=False)[0] for one in alone]
    for name in names:
        if name.startswith("member_mean/"):
            own = [one[f"test/{name.removeprefix('member_mean/')}"] for one in each]
            # outputs that are hardly trained differ by little beside the mean of the labels, which costs digits
            close = 5e-3 if name.endswith("pearson") else 1e-4
            assert results[f"test/{name}"] == pytest.approx(sum(own) / 3, abs=close)


LOGITS = [torch.tensor([[2.0, 0.0, 1.0], [0.0, 0.1, -1.0]]), torch.tensor([[0.0, 1.0, 0.9], [3.0, 0.0, 0.0]])]


def classifier(**options):
    return lp.TextClassification("unused", num_labels=3, **options)


def test_rules_of_classification():
    weights = [0.25, 0.75]
    p, q = (logits.softmax(1) for logits in LOGITS)
    mean = classifier().combine(LOGITS, weights, "mean")
    torch.testing.assert_close(mean.softmax(1), 0.25 * p + 0.75 * q)
    torch.testing.assert_close(classifier().combine(LOGITS, weights, "logits"), 0.25 * LOGITS[0] + 0.75 * LOGITS[1])
    votes = classifier().combine([*LOGITS, LOGITS[0]], [1 / 3] * 3, "vote").softmax(1)
    torch.testing.assert_close(votes, torch.tensor([[2 / 3, 1 / 3, 0], [1 / 3, 2 / 3, 0]]), atol=2e-3, rtol=0)
    tie = classifier().combine(LOGITS, [0.5, 0.5], "vote").argmax(1)
    assert tie.tolist() == ((p + q) / 2).argmax(1).tolist()
    many = classifier(multi_label=True).combine(LOGITS, weights, "mean")
    torch.testing.assert_close(many.sigmoid(), 0.25 * LOGITS[0].sigmoid() + 0.75 * LOGITS[1].sigmoid())


def test_rules_of_regression():
    values = [torch.tensor([[value]]) for value in (1.0, 9.0, 2.0, 4.0)]
    task = lp.TextRegression("unused")
    assert task.combine(values, [0.25] * 4, "mean").item() == 4
    assert task.combine(values, [0.25] * 4, "median").item() == 3  # between 2 and 4
    assert task.combine(values[:3], [1 / 3] * 3, "median").item() == 2
    assert task.combine(values[:3], [0.2, 0.6, 0.2], "median").item() == 9


def test_rules_of_spans():
    members = [
        SpanScores([[Span(2.0, 0, 3), Span(1.0, 4, 6)]], torch.tensor([0.0])),
        SpanScores([[Span(5.0, 4, 6), Span(4.0, 7, 9)]], torch.tensor([6.0])),
    ]
    task = lp.ExtractiveQA("unused", no_answer=True)
    combined = task.combine(members, [0.5, 0.5], "mean")
    first, second = torch.tensor([2.0, 1.0, 0.0]).softmax(0), torch.tensor([5.0, 4.0, 6.0]).softmax(0)
    expected = {(0, 3): first[0], (4, 6): first[1] + second[0], (7, 9): second[1], None: first[2] + second[2]}
    found = {(span.start, span.end): span.score for span in combined.spans[0]} | {None: combined.null.item()}
    assert found == pytest.approx({key: float((value / 2).log()) for key, value in expected.items()})
    assert [span.score for span in combined.spans[0]] == sorted((s.score for s in combined.spans[0]), reverse=True)
    voted = task.combine([*members, members[0]], [1 / 3] * 3, "vote")
    assert (voted.spans[0][0].start, voted.margins().item() < 0) == (0, True)


def test_thresholds_of_members_count(monkeypatch):
    task = lp.ExtractiveQA("unused", no_answer=True)
    known = SpanScores([[Span(1.0, 0, 3)]], torch.tensor([2.5]))
    monkeypatch.setattr(task, "scores", lambda *_: known)
    scores = task.member_scores(None, {}, {"head.no_answer_threshold": torch.tensor(2.0)})
    assert scores.null.item() == 0.5


def test_tokens_are_those_of_the_mean_of_log_probabilities(gpt2_folder, tmp_path):
    """Greedy and beams against a search by hand over whole forward passes."""
    case = CASES["decoder"]
    folders = [write_member(case, gpt2_folder, p, tmp_path / str(i), seed=i) for i, p in enumerate(PREFIXES)]
    weights = [0.5, 0.3, 0.2]
    ensemble = Ensemble(folders, "tokens", weights)
    singles = [lp.Predictor.from_pretrained(folder) for folder in folders]
    data, tokenizer = singles[0].data, singles[0].task.tokenizer
    inputs = raw(case, range(40, 44))

    def mean(ids):
        with torch.inference_mode():
            each = [one.task.model(torch.tensor([ids])).logits[0, -1].log_softmax(-1) for one in singles]
        return sum(weight * scores for weight, scores in zip(weights, each, strict=True))

    written = lp.Predictor(ensemble, ensemble.readings[0])(inputs)
    for row, result in zip(data.encode_inputs(inputs), written, strict=True):
        ids = list(row["input_ids"])
        for _ in range(6):
            ids.append(int(mean(ids).argmax()))
            if ids[-1] == tokenizer.eos_token_id:
                break
        expected = tokenizer.decode(ids[len(row["input_ids"]) :], skip_special_tokens=True).strip()
        assert result["generated_text"] == expected

    ensemble.lead.add_generation({"num_beams": 3, "length_penalty": 0.0, "max_new_tokens": 3})
    written = lp.Predictor(ensemble, ensemble.readings[0])(inputs)
    for row, result in zip(data.encode_inputs(inputs), written, strict=True):
        start = list(row["input_ids"])
        beams, done = [(0.0, start)], []
        for _ in range(3):
            grown = [
                (score + value, [*ids, token]) for score, ids in beams for token, value in enumerate(mean(ids).tolist())
            ]
            grown = sorted(grown, reverse=True, key=lambda one: one[0])[:6]
            done += [one for one in grown[:3] if one[1][-1] == tokenizer.eos_token_id]
            beams = [one for one in grown if one[1][-1] != tokenizer.eos_token_id][:3]
        best = max([*done, *beams], key=lambda one: one[0])[1][len(start) :]
        assert result["generated_text"] == tokenizer.decode(best, skip_special_tokens=True).strip()


def test_sampling_token_by_token_is_refused(gpt2_folder, tmp_path):
    case = CASES["decoder"]
    folder = write_member(case, gpt2_folder, PREFIXES[0], tmp_path / "0", generation={"do_sample": True})
    ensemble = Ensemble([folder, folder])
    with pytest.raises(lp.InputError, match="do_sample=True, with which members that write token by token"):
        lp.Predictor(ensemble, ensemble.readings[0])("a film")


@pytest.fixture(scope="module")
def classifiers(bert_folder, tmp_path_factory):
    """Members on two backbones, with heads of two kinds, and one that reads texts in another way."""
    folder = tmp_path_factory.mktemp("classifiers")
    torch.manual_seed(7)
    other = write_backbone(folder / "other")
    case = CASES["classification"]
    made = [
        write_member(case, bert_folder, PREFIXES[0], folder / "0", 0),
        write_member(case, other, PREFIXES[1], folder / "1", 1),
        write_member(case, bert_folder, PREFIXES[1], folder / "2", 2, head="mean"),
        write_member(case, bert_folder, PREFIXES[2], folder / "3", 3, head="cls"),
    ]
    changed = json.loads((made[3] / "prefix.json").read_text())
    changed["task"]["data"]["init_args"]["template"] = "label: {text}"
    (made[3] / "prefix.json").write_text(json.dumps(changed))
    return made


def test_backbones_heads_and_readings_may_differ(classifiers):
    inputs = [review(row)["text"] for row in range(9)]
    ensemble = Ensemble(classifiers, weights=[1, 2, 3, 4])
    assert [len(ensemble.groups), len(ensemble.readings)] == [4, 4]
    each = [lp.Predictor.from_pretrained(folder)(inputs) for folder in classifiers]
    shares = [0.1, 0.2, 0.3, 0.4]
    for row, result in enumerate(lp.Predictor(ensemble, ensemble.readings[0], batch_size=4)(inputs)):
        own = [one[row]["probabilities"]["positive"] for one in each]
        expected = sum(share * value for share, value in zip(shares, own, strict=True))
        assert result["probabilities"]["positive"] == pytest.approx(expected, abs=1e-5)
    data = CASES["classification"].make_data(ROWS)
    predicted = [row for batch in trainer_factory(QUIET)().predict(ensemble, data) for row in batch]
    again = lp.Predictor(ensemble, ensemble.readings[0])([review(row)["text"] for row in ROWS["test"]])
    for row, answer in zip(predicted, again, strict=True):
        assert row["probabilities"] == pytest.approx(answer["probabilities"], abs=1e-5)


def test_tokens_of_another_tokenizer_are_not_read(classifiers, bert_folder, tmp_path):
    """A member whose options are those of the data, but whose backbone has other numbers for the words."""
    folder = Path(write_backbone(tmp_path / "other"))
    text = (folder / "tokenizer.json").read_text()
    for old, new in (("good", "?"), ("bad", "good"), ("?", "bad")):
        text = text.replace(f'"{old}":', f'"{new}":')
    (folder / "tokenizer.json").write_text(text)
    other = write_member(CASES["classification"], str(folder), PREFIXES[0], tmp_path / "member")
    ensemble, data = (
        Ensemble([classifiers[3], other]),
        CASES["classification"].make_data(ROWS),
    )  # the first has a template
    predicted = [row for batch in trainer_factory(QUIET)().predict(ensemble, data) for row in batch]
    alone = lp.Predictor(ensemble, ensemble.readings[0])([review(row)["text"] for row in ROWS["test"]])
    for row, answer in zip(predicted, alone, strict=True):
        assert row["probabilities"] == pytest.approx(answer["probabilities"], abs=1e-5)


def test_data_loaders_are_enough_for_one_reading(classifiers):
    data = CASES["classification"].make_data(ROWS)
    single = Ensemble(classifiers[:1])
    (expected,) = trainer_factory(QUIET)().test(single, data, verbose=False)
    (found,) = trainer_factory(QUIET)().test(single, data.test_dataloader(), verbose=False)
    assert found == expected
    with pytest.raises(lp.InputError, match="members read texts in several ways"):
        trainer_factory(QUIET)().test(Ensemble(classifiers), data.test_dataloader(), verbose=False)


def test_fitted_weights_find_the_good_members(classifiers, monkeypatch):
    """Members that are right on other rows, one that is wrong on all, and one that knows nothing."""
    ensemble, data = Ensemble(classifiers), CASES["classification"].make_data(ROWS)

    def scores(batch):
        right = torch.nn.functional.one_hot(batch["labels"], 2).float()
        knows = (batch["index"] % 2 == 0)[:, None]
        return [right * knows * 4, right * ~knows * 4, (1 - right) * 4, torch.zeros_like(right)]

    monkeypatch.setattr(ensemble, "member_scores", scores)
    before = trainer_factory(QUIET)().validate(ensemble, data, verbose=False)[0]
    weights = lp.fit_weights(ensemble, data)
    after = trainer_factory(QUIET)().validate(ensemble, data, verbose=False)[0]
    assert weights == ensemble.weights
    assert sum(weights) == pytest.approx(1)
    assert weights[2:] == [0, 0]
    assert min(weights[:2]) > 0.3
    assert after["val/accuracy"] == 1 > before["val/accuracy"]


def test_a_soup_is_the_mean_of_what_was_trained(members, tmp_path):
    case, folders = members
    lp.average_folders([folders[0], folders[0]], tmp_path / "same")
    inputs = raw(case, range(30, 33))
    assert lp.Predictor.from_pretrained(tmp_path / "same")(inputs) == lp.Predictor.from_pretrained(folders[0])(inputs)
    with pytest.raises(lp.InputError, match="a mean needs the same"):
        lp.average_folders(folders[:2], tmp_path / "mixed")


def test_weights_of_a_soup(bert_folder, tmp_path):
    case = CASES["classification"]
    folders = [write_member(case, bert_folder, PREFIXES[0], tmp_path / str(seed), seed) for seed in (0, 1)]
    lp.average_folders(folders, tmp_path / "soup", [1, 3])
    first, second, soup = (lp.TextClassification.from_pretrained(f).state_dict() for f in (*folders, tmp_path / "soup"))
    for name, tensor in soup.items():
        torch.testing.assert_close(tensor, first[name] / 4 + second[name] * 3 / 4)


def fails(capsys, *args) -> str:
    with pytest.raises(SystemExit):
        main(list(args))
    return capsys.readouterr().err


def test_commands(classifiers, tmp_path, monkeypatch, capsys, bert_folder):
    monkeypatch.chdir(tmp_path)
    source = write_reviews(tmp_path / "reviews")
    Path("run.yaml").write_text(
        f"model: {{class_path: TextClassification, init_args: {{backbone: {bert_folder}}}}}\n"
        f"data: {{class_path: TextClassificationDataModule, init_args: {{source: {source}, batch_size: 8}}}}\n"
        "trainer: {accelerator: cpu, enable_progress_bar: false}\n"
    )
    for number, folder in enumerate(classifiers):
        shutil.copytree(folder, f"cv/fold_{number}/prefix")
    main(["ensemble", "--members", "cv/*/prefix", "--directory", "all", "--weights", "fit", "--config", "run.yaml"])
    stored = json.loads(Path("all/ensemble.json").read_text())
    assert sum(stored["weights"]) == pytest.approx(1)
    tested = main(["test", "--config", "run.yaml", "--ckpt_path", "all"]).trainer.callback_metrics
    main(["predict", "--config", "run.yaml", "--ckpt_path", "all", "--predictions.path", "out.jsonl"])
    lines = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    right = [line["label"] == review(200 + line["index"])["label"] for line in lines]
    assert len(right) == 17
    assert tested["test/accuracy"] == pytest.approx(sum(right) / 17)
    single = main(["validate", "--config", "run.yaml", "--ckpt_path", "cv/fold_0/prefix"]).trainer.callback_metrics
    assert "val/accuracy" in single
    main(["ensemble", "--members", "cv/fold_0/prefix", "cv/fold_0/prefix", "--rule", "soup", "--directory", "soup"])
    assert lp.Predictor.from_pretrained("soup")("a film") == lp.Predictor.from_pretrained("cv/fold_0/prefix")("a film")

    assert "holds an ensemble already" in fails(capsys, "ensemble", "--members", "cv/*/prefix", "--directory", "all")
    assert "names no folder" in fails(capsys, "ensemble", "--members", "no/*")
    assert "no data are given" in fails(capsys, "ensemble", "--members", "cv/*/prefix", "--weights", "fit")
    assert "rule='median' is given; TextClassification has 'mean', 'logits', 'vote'" in fails(
        capsys, "ensemble", "--members", "cv/*/prefix", "--rule", "median"
    )
    assert "for 4 members; give one number >= 0" in fails(
        capsys, "ensemble", "--members", "cv/*/prefix", "--weights", "[1, 2]"
    )
    assert "cv/fold_0/prefix is a folder; `fit` goes on from a .ckpt" in fails(
        capsys, "fit", "--config", "run.yaml", "--ckpt_path", "cv/fold_0/prefix"
    )


def test_members_that_do_not_fit_are_refused(classifiers, bert_folder, tmp_path):
    case = CASES["classification"]
    task = lp.TextClassification(bert_folder, PREFIXES[0], labels=["bad", "fine", "good"])
    task.configure_model()
    task.save_pretrained(tmp_path / "three", case.make_data(ROWS).description())
    with pytest.raises(lp.InputError, match=r"three has labels=\['bad', 'fine', 'good'\], .*labels=\['negative'"):
        Ensemble([classifiers[0], tmp_path / "three"])
    rated = CASES["regression"]
    number = write_member(rated, bert_folder, PREFIXES[0], tmp_path / "number")
    with pytest.raises(lp.InputError, match=r"is a lightning_prefix.TextRegression, .* have one task"):
        Ensemble([classifiers[0], number])
    task.model.save_pretrained(tmp_path / "bare")
    with pytest.raises(lp.InputError, match="holds a prefix without a task"):
        Ensemble([tmp_path / "bare"])
    with pytest.raises(lp.InputError, match="no members"):
        Ensemble([])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "cannot be read"),
        ('{"format": 2}', "has format 2; this version reads format 1"),
        ('{"format": 1, "rule": "mean", "members": ["../x"], "weights": [1]}', "is not as this program writes it"),
        ('{"format": 1, "rule": "mean", "members": ["a"], "weights": [NaN]}', "is not as this program writes it"),
        ('{"format": 1, "rule": "mean", "members": ["gone"], "weights": [1]}', "names members that are missing"),
    ],
)
def test_damaged_folders(content, words, tmp_path):
    (tmp_path / "ensemble.json").write_text(content)
    with pytest.raises(lp.InputError, match=words):
        lp.Predictor.from_pretrained(tmp_path)
