"""Results of every kind of task have the keys and types that they are said to have."""

import types
import typing

import pytest
from every_task import CASES, case_backbone

import lightning_prefix as lp

INPUTS = {
    "tokens": {"tokens": ["the", "good", "film"]},
    "spans": {"question": "the good", "context": "a good film and a bad plot the review"},
}


def fits(value: object, kind: typing.Any) -> bool:
    if typing.is_typeddict(kind):
        hints = typing.get_type_hints(kind)
        return kind.__required_keys__ <= value.keys() <= hints.keys() and all(
            fits(item, hints[key]) for key, item in value.items()
        )
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return any(fits(value, part) for part in parts)
    if origin is list:
        return isinstance(value, list) and all(fits(item, parts[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(fits(k, parts[0]) and fits(v, parts[1]) for k, v in value.items())
    return isinstance(value, kind)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("several", [False, True])
def test_results_are_of_their_type(name, several, bert_folder, gpt2_folder, tmp_path):
    case = CASES[name]
    backbone = case_backbone(case, bert_folder, gpt2_folder, tmp_path / "backbone")
    options = {"labels": ["O", "B-X"]} if name == "tokens" else {}
    if case.task is lp.TextClassification:
        options = {"labels": ["a", "b"], "multi_label": several}
    elif case.task is lp.TextGeneration:
        options = {"generation": {"num_beams": 2, "num_return_sequences": 2 if several else 1, "max_new_tokens": 4}}
    elif name == "spans":
        options = {"no_answer": several}
    task = case.make_task(backbone, lp.FlatPrefixConfig(length=3), **options)
    predict = lp.Predictor(task, case.data(tokenizer=backbone, **case.data_options))
    result = predict([INPUTS.get(name, "the good film")])[0]
    (kind,) = typing.get_args(typing.get_type_hints(type(task).describe)["return"])
    assert fits(result, kind), (result, kind)
    assert not fits({**result, "more": 1}, kind)
    assert getattr(lp, kind.__name__) is kind
