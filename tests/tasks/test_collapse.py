"""A task that answers the same for every row says so."""

import pytest
import torch
from lightning.pytorch import Trainer

import lightning_prefix as lp
from lightning_prefix.tasks.collapse import OutputSpread


def spread(outputs, references) -> bool:
    found = OutputSpread()
    for start in range(0, len(outputs), 5):
        found.update(torch.tensor(outputs[start : start + 5]), torch.tensor(references[start : start + 5]))
    return bool(found.compute())


def test_what_counts_as_collapsed():
    mixed, alike = [0, 1] * 10, [1] * 20
    assert spread(alike, mixed)
    assert not spread(mixed, mixed)
    assert not spread(alike, alike)  # as the labels are
    assert not spread(alike[:10], mixed[:10])  # may be chance
    assert spread([3.0001, 3.0002] * 10, [0.0, 5.0] * 10)
    assert not spread([3.0, 3.1] * 10, [0.0, 5.0] * 10)


@pytest.fixture
def trainer(tmp_path, monkeypatch) -> Trainer:
    monkeypatch.chdir(tmp_path)
    return Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)


@pytest.mark.parametrize("kind", ["classification", "regression", "generation"])
def test_validation_warns(kind, bert_folder, gpt2_folder, trainer):
    texts = [{"text": f"the {word} film", "label": word, "value": row} for row, word in enumerate(["good", "bad"] * 10)]
    splits = {"train": texts, "validation": texts}
    if kind == "classification":
        task, data = lp.TextClassification(bert_folder), lp.TextClassificationDataModule(splits)
    elif kind == "regression":
        task, data = lp.TextRegression(bert_folder), lp.TextRegressionDataModule(splits, label_column="value")
    else:
        task = lp.TextGeneration(gpt2_folder, generation={"max_new_tokens": 2})
        options = {"text_column": "text", "target_column": "label", "max_length": 16, "max_target_length": 8}
        data = lp.TextGenerationDataModule(splits, **options)
    trainer.validate(task, data, verbose=False)
    with torch.no_grad():  # the answer is that of the bias
        head = task.model.backbone.get_output_embeddings() if kind == "generation" else task.model.backbone.classifier
        head.weight.zero_()
    with pytest.warns(UserWarning, match="the answer is the same for every row"):
        trainer.validate(task, data, verbose=False)
