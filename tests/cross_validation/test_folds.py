"""Folds: every row is tested once, classes in shares, groups whole; data modules with the rows of a fold."""

import sys
from collections import Counter

import datasets
import pytest
from tiny_files import review

import lightning_prefix as lp
from lightning_prefix.cross_validation import leave_one_out, make_folds

ROWS = [{**review(row), "author": f"author {row % 7}", "stars": row % 5} for row in range(40)]
ROWS += [{**review(2 * row), "author": "author 7", "stars": 1} for row in range(20)]  # twice as many negative ones
LABELS = [row["label"] for row in ROWS]


def classification(source=ROWS, **options):
    return lp.TextClassificationDataModule(source, **options)


def test_every_row_is_tested_once_per_repeat():
    folds = make_folds(classification(), folds=4, repeats=3)
    assert [fold.name for fold in folds[3:6]] == ["repeat_0_fold_3", "repeat_1_fold_0", "repeat_1_fold_1"]
    assert [fold.repeat for fold in folds] == [0] * 4 + [1] * 4 + [2] * 4
    for fold in folds:
        assert sorted(fold.train + fold.test) == list(range(60))
        assert fold.train == sorted(fold.train)
    for repeat in range(3):
        assert sorted(row for fold in folds[4 * repeat : 4 * repeat + 4] for row in fold.test) == list(range(60))
    assert len({tuple(fold.test) for fold in folds}) == 12
    assert make_folds(classification(), folds=4, seed=1) == [
        type(fold)(fold.name.split("_", 2)[2], fold.train, fold.test) for fold in folds[4:8]
    ]


def test_classes_are_in_shares_unless_it_is_turned_off():
    def shares(**options):
        folds = make_folds(classification(), folds=5, **options)
        return [Counter(LABELS[row] for row in fold.test) for fold in folds]

    assert shares() == [{"negative": 8, "positive": 4}] * 5
    assert shares(stratify=True) == shares()
    assert shares(stratify=False) != shares()


@pytest.mark.parametrize("stratify", [None, False])
def test_groups_stay_whole(stratify):
    folds = make_folds(classification(), folds=3, group_column="author", stratify=stratify)
    for fold in folds:
        assert not {ROWS[row]["author"] for row in fold.train} & {ROWS[row]["author"] for row in fold.test}
    assert sorted(row for fold in folds for row in fold.test) == list(range(60))
    again = make_folds(classification(), folds=3, group_column="author", stratify=stratify, seed=3)
    assert [fold.test for fold in again] != [fold.test for fold in folds]


def test_contexts_of_questions_stay_whole():
    rows = [{"question": f"q{row}", "context": f"film {row % 6}", "answers": "film", "id": row} for row in range(24)]
    data = lp.ExtractiveQADataModule(rows)
    for fold in make_folds(data, folds=3):
        assert len({rows[row]["context"] for row in fold.test}) == 2
        assert len(fold.test) == 8
    folds = make_folds(data, folds=24, group_column="id")
    assert [len(fold.test) for fold in folds] == [1] * 24


def test_splits_can_be_put_together():
    data = classification({"train": ROWS[:30], "validation": ROWS[30:]}, train_split="train+validation")
    assert make_folds(data) == make_folds(classification())


def test_regression_and_multi_label_are_not_stratified():
    assert len(make_folds(lp.TextRegressionDataModule(ROWS, label_column="stars"), folds=20)) == 20
    rows = [{"text": "film", "label": ["a", "b"][: 1 + row % 2]} for row in range(12)]
    assert len(make_folds(classification(rows, multi_label=True), folds=12)) == 12


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"folds": 1}, "folds=1 was given; it must be at least 2"),
        ({"repeats": 0}, "repeats=0 was given"),
        (
            {"folds": 21},
            "class 'positive' has 20 rows, too few for 21 folds; use --folds 20 or fewer, --stratify false, or merge",
        ),
        ({"folds": 61, "stratify": False}, "folds=61 was given for 60 rows"),
        ({"folds": 9, "group_column": "author"}, "'author' has 8 different values, too few for 9 folds"),
        ({"group_column": "autor"}, "no column 'autor'.*Did you mean 'author'. Set group_column"),
    ],
)
def test_what_cannot_be_shared_out_is_refused(options, message):
    with pytest.raises(lp.InputError, match=message):
        make_folds(classification(), **options)


def test_rows_without_class_or_group_are_refused():
    """`fit` refuses the first row without a label, too, unless it is a blank one that is left out."""
    rows = [*ROWS[:11], {**ROWS[11], "label": None}, *ROWS[12:]]
    with pytest.raises(lp.InputError, match="row 12 of 'train' has the label None"):
        make_folds(classification(rows))
    rows[11]["text"] = ""
    assert len(make_folds(classification(rows, drop_empty=True))) == 5
    with pytest.raises(lp.InputError, match="row 12 of 'train' has no 'author'"):
        make_folds(classification([*ROWS[:11], {**ROWS[11], "author": None}]), group_column="author")
    with pytest.raises(lp.InputError, match="class 'rare' has 1 row, too few for 2 folds; use --stratify false, or"):
        make_folds(classification([*ROWS, {"text": "film", "label": "rare"}]), folds=2)
    with pytest.raises(lp.InputError, match="stratify=True was given for TextRegressionDataModule"):
        make_folds(lp.TextRegressionDataModule(ROWS), stratify=True)


def test_without_scikit_learn_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.model_selection", None)
    with pytest.raises(lp.InputError, match=r"pip install 'lightning-prefix\[cross-validation\]'"):
        make_folds(classification())


def test_a_fold_keeps_the_names_and_cuts_nothing_off_unless_asked(bert_folder):
    data = classification(batch_size=8, tokenizer=bert_folder)
    data.setup("fit")
    rows = data.splits["train"]
    train, test = rows.filter(lambda row: row["label"] == "negative"), rows.select(range(10))
    fold = data.fold(train, test)
    fold.setup("fit")
    fold.setup("test")
    assert fold.labels == ("negative", "positive")
    assert sum(len(batch["labels"]) for batch in fold.train_dataloader()) == 40
    assert sum(len(batch["labels"]) for batch in fold.test_dataloader()) == 10
    with pytest.raises(lp.InputError, match="validation rows are not ready"):
        fold.val_dataloader()

    fold = data.fold(train, test, validation=True)
    fold.setup("fit")
    assert sum(len(batch["labels"]) for batch in fold.train_dataloader()) == 36
    assert sum(len(batch["labels"]) for batch in fold.val_dataloader()) == 4
    assert sum(len(batch["labels"]) for batch in data.train_dataloader()) == 54  # as it was


def test_a_fold_finds_out_by_itself_whether_questions_have_no_answer(bert_folder):
    rows = [{"question": "the", "context": f"a film {row}", "answers": "film" if row else ""} for row in range(6)]
    data = lp.ExtractiveQADataModule(rows, tokenizer=bert_folder, max_length=16)
    data.setup("fit")
    fold = data.fold(data.splits["train"].select(range(1, 6)), data.splits["train"].select([0, 1]))
    fold.setup("fit")
    assert (data.has_no_answers, fold.has_no_answers) == (True, False)


def declared(names, labels):
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)})
    return datasets.Dataset.from_dict({"text": ["film"] * len(labels), "label": labels}, features=features)


def test_leave_one_data_set_out():
    """Names count, not the numbers that a source has for them."""
    sources = {
        "a": declared(["good", "bad"], [0, 1, 1]),
        "b": declared(["bad", "good"], [0, 1]),
        "c": [{"label": "fair", "text": "plot", "more": 1}],
        "d": {"train": [{"text": 3, "label": "good"}], "test": ROWS},
    }
    whole, folds = leave_one_out(classification(), sources)
    assert whole.find_labels() == ("bad", "fair", "good")
    assert [fold.name for fold in folds] == ["without_a", "without_b", "without_c", "without_d"]
    assert [fold.test for fold in folds] == [[0, 1, 2], [3, 4], [5], [6]]
    assert folds[1].train == [0, 1, 2, 5, 6]
    assert whole.splits["train"]["label"][:] == ["good", "bad", "bad", "bad", "good", "fair", "good"]
    assert whole.splits["train"]["text"][:] == ["film"] * 5 + ["plot", "3"]


def test_numbers_as_classes_are_sorted_as_numbers():
    def source(labels):
        return [{"text": "film", "label": label} for label in labels]

    whole, _ = leave_one_out(classification(), {"a": source([10, 9]), "b": source(["2", "10"])})
    assert whole.find_labels() == ("2", "9", "10")
    whole, _ = leave_one_out(classification(labels=["x", "y"]), {"a": source([0, 1]), "b": source(["y", "x"])})
    assert whole.find_labels() == ("x", "y")


def test_leave_one_out_of_other_kinds():
    words = [
        [{"tokens": ["good", "film"], "tags": ["B-X", "O"]}],
        datasets.Dataset.from_dict(
            {"tokens": [["bad"]], "tags": [[1]]},
            features=datasets.Features(
                {
                    "tokens": datasets.List(datasets.Value("string")),
                    "tags": datasets.List(datasets.ClassLabel(names=["O", "B-Y"])),
                }
            ),
        ),
    ]
    whole, _ = leave_one_out(lp.TokenClassificationDataModule(), dict(zip("ab", words, strict=True)))
    assert whole.find_labels() == ("O", "B-X", "B-Y")
    pairs = {"a": [{"en": "film", "de": "Film"}], "b": [{"translation": {"en": "plot", "de": "Handlung"}}]}
    whole, _ = leave_one_out(lp.TranslationDataModule(source_language="en", target_language="de"), pairs)
    assert whole.splits["train"]["de"][:] == ["Film", "Handlung"]
    numbers = {"a": [{"text": "film", "label": 1.5}], "b": [{"text": "plot", "label": "2.5"}]}
    whole, _ = leave_one_out(lp.TextRegressionDataModule(), numbers)
    assert [whole.label_reader(None)(cell) for cell in whole.splits["train"]["label"]] == [1.5, 2.5]


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ({"a": ROWS}, "needs two or more named sources"),
        ({"a": ROWS, "b/c": ROWS}, "names a source 'b/c'"),
        ({"a": ROWS, "mine": [{"text": "film"}]}, "'mine' has no column 'label'"),
        ({"a": ROWS, "mine": [{"text": ["film"], "label": "x"}]}, r"'text' differs .*in 'a', .*in 'mine'"),
        ({"a": ROWS, "mine": {"test": ROWS}}, "no split 'train'"),
    ],
)
def test_sources_that_do_not_fit_are_refused(sources, message):
    with pytest.raises(lp.InputError, match=message):
        leave_one_out(classification(), sources)
