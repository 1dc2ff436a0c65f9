"""`TextRegression`: labels of any size."""

import lightning
import pytest
import torch

import lightning_prefix as lp

ROWS = [{"text": f"{'good ' * (i % 5 + 1)}film", "label": 5000.0 + 1000 * (i % 5)} for i in range(40)]


def fitted(bert_folder, tmp_path, **options):
    task = lp.TextRegression(bert_folder, lp.FlatPrefixConfig(length=2))
    data = lp.TextRegressionDataModule({"train": ROWS, "validation": ROWS[:5]}, batch_size=8, tokenizer=bert_folder)
    trainer = lightning.Trainer(
        max_epochs=1, logger=False, default_root_dir=tmp_path, enable_progress_bar=False, enable_model_summary=False
    )
    trainer.fit(task, data, **options)
    return task, trainer


def test_outputs_start_on_the_scale_of_the_train_labels(bert_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    task, trainer = fitted(bert_folder, tmp_path)
    assert task.head.label_scale.mean == pytest.approx(7000)
    assert task.head.label_scale.deviation == pytest.approx(2**0.5 * 1000)
    assert trainer.callback_metrics["val/mse"] < 3 * 2e6  # from zero it would be about 5e7

    trainer.save_checkpoint(tmp_path / "a.ckpt")
    task.save_pretrained(tmp_path / "prefix")
    for again in (
        lp.TextRegression.load_from_checkpoint(tmp_path / "a.ckpt"),
        lp.PrefixTask.from_pretrained(tmp_path / "prefix"),
    ):
        assert again.head.label_scale.mean == pytest.approx(7000)


def test_a_resumed_run_keeps_its_scale(bert_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    task, trainer = fitted(bert_folder, tmp_path)
    with torch.no_grad():
        task.head.label_scale.mean.fill_(1.0)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    again, _ = fitted(bert_folder, tmp_path, ckpt_path=str(tmp_path / "a.ckpt"))
    assert again.head.label_scale.mean == 1.0


def test_equal_labels_have_no_deviation():
    data = lp.TextRegressionDataModule([{"text": "film", "label": 3}] * 4, tokenizer="unused")
    data._ready["train"] = {"labels": [3.0] * 4}
    assert data.label_statistics() == (3.0, 1.0)
