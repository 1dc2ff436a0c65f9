"""Curves, calibration, confusion, lengths and words: their numbers, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import sklearn.metrics
import torch
from tiny_backbones import BACKBONES
from torchmetrics.classification import MulticlassCalibrationError

import lightning_prefix as lp
from lightning_prefix import plots

LOG = """epoch,step,train/loss,val/accuracy,val/loss,test/loss
0,4,0.9,,,
0,9,0.7,,,
0,9,,0.5,0.8,
1,19,,0.75,0.6,
1,19,,,,0.65
"""


def test_curves(tmp_path):
    (tmp_path / "metrics.csv").write_text(LOG)
    expected = {
        "loss": {"train": [(4, 0.9), (9, 0.7)], "val": [(9, 0.8), (19, 0.6)]},
        "accuracy": {"val": [(9, 0.5), (19, 0.75)]},
    }
    assert plots.read_curves(tmp_path) == plots.read_curves(tmp_path / "metrics.csv") == expected
    figure, axes = plots.plot_learning_curves(tmp_path)
    figure.canvas.draw()
    assert [panel.get_ylabel() for panel in axes.flat] == ["loss", "accuracy"]
    lines = {line.get_label(): line.get_xydata().tolist() for line in axes[0, 0].lines}
    assert lines == {"training": [[4, 0.9], [9, 0.7]], "validation": [[9, 0.8], [19, 0.6]]}
    assert plots.plot_learning_curves(tmp_path, ["accuracy"])[1].shape == (1, 1)


def test_many_steps_are_averaged(tmp_path):
    values = np.random.default_rng(0).normal(size=50)
    rows = "".join(f"{step},{value}\n" for step, value in enumerate(values))
    (tmp_path / "metrics.csv").write_text("step,train/loss\n" + rows)
    line = plots.plot_learning_curves(tmp_path)[1][0, 0].lines[1]
    assert line.get_label() == "training, mean of 5 logged steps"
    np.testing.assert_allclose(line.get_xdata(), range(4, 50))
    np.testing.assert_allclose(line.get_ydata(), [values[i - 4 : i + 1].mean() for i in range(4, 50)])


@pytest.mark.parametrize(
    ("log", "message"),
    [
        (None, "metrics.csv does not exist, so there are no curves"),
        ("", "holds no metric of training or validation yet"),
        ("epoch,step,test/loss\n0,1,0.5\n", "holds no metric of training or validation yet"),
        ("step,train/loss\n0,low\n", "is no log of CSVLogger, or damaged"),
        ("train/loss\n0.5\n", "is no log of CSVLogger, or damaged"),
        (b"\xff\xfe\x00", "is no log of CSVLogger, or damaged"),
    ],
)
def test_bad_logs(log, message, tmp_path):
    if log is not None:
        (tmp_path / "metrics.csv").write_bytes(log if isinstance(log, bytes) else log.encode())
    with pytest.raises(lp.InputError, match=message):
        plots.plot_learning_curves(tmp_path)


def test_unknown_metric(tmp_path):
    (tmp_path / "metrics.csv").write_text(LOG)
    with pytest.raises(lp.InputError, match=r"metrics \['f1'\] are asked for; the log has \['accuracy', 'loss'\]"):
        plots.plot_learning_curves(tmp_path, ["f1"])


@pytest.fixture
def predictions():
    """Labels and probabilities of three classes, badly calibrated."""
    probabilities = (3 * torch.randn(200, 3)).softmax(1)
    return torch.randint(3, (200,)), probabilities


def test_confusion(predictions):
    labels, probabilities = predictions
    predicted = probabilities.argmax(1)
    found = plots.confusion_matrix(labels.tolist(), predicted.tolist(), 3)
    assert found.tolist() == sklearn.metrics.confusion_matrix(labels, predicted).tolist()
    figure, panel = plots.plot_confusion_matrix(labels.tolist(), predicted.tolist(), ["a", "b", "c"])
    figure.canvas.draw()
    assert [int(text.get_text()) for text in panel.texts] == found.flatten().tolist()
    assert f"accuracy {(labels == predicted).float().mean():.3f}, 200 rows" == panel.get_title()


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_calibration(bins, predictions):
    labels, probabilities = predictions
    confidence, predicted = probabilities.max(1)
    found = plots.calibration(confidence.tolist(), (predicted == labels).tolist(), bins)
    expected = MulticlassCalibrationError(3, n_bins=bins)(probabilities, labels)
    assert found.error == pytest.approx(expected.item(), abs=1e-6)
    assert found.error > 0.2
    assert found.rows.sum() == 200
    figure, axes = plots.plot_reliability(confidence.tolist(), (predicted == labels).tolist(), bins)
    figure.canvas.draw()
    assert f"calibration error {found.error:.3f}, 200" in axes[0].get_title()


def test_intervals_of_a_reliability_diagram():
    from scipy.stats import binomtest

    _, axes = plots.plot_reliability([0.75] * 20, [True] * 15 + [False] * 5)
    (bar,) = axes[0].containers[0].lines[2]
    expected = binomtest(15, 20).proportion_ci(method="wilson")
    np.testing.assert_allclose(bar.get_segments()[0][:, 1], [expected.low, expected.high])


def test_lengths():
    lengths = [*range(1, 81)]
    values = [length / 10 + length % 2 for length in lengths]
    found = plots.by_length(lengths, values, bins=4)
    assert found.rows.tolist() == [20] * 4
    np.testing.assert_allclose(found.length, [10.5, 30.5, 50.5, 70.5])
    np.testing.assert_allclose(found.mean, [np.mean(values[i : i + 20]) for i in range(0, 80, 20)])
    errors = [np.std(values[i : i + 20], ddof=1) / 20**0.5 for i in range(0, 80, 20)]
    np.testing.assert_allclose(found.half_interval, 1.96 * np.array(errors))
    assert plots.by_length([7, 7, 7], [1, 2, 3]).mean.tolist() == [2]
    assert plots.by_length([7, 7, 7, 9], [1, 2, 3, 5]).mean.tolist() == [2, 5]
    figure, panel = plots.plot_by_length(lengths, values, "loss (nats)", bins=4)
    figure.canvas.draw()
    assert (panel.get_xlabel(), panel.get_ylabel()) == ("length of the source (tokens)", "loss (nats)")


def test_nothing_to_draw():
    for draw in (
        lambda: plots.plot_confusion_matrix([], [], ["a", "b"]),
        lambda: plots.plot_reliability([], []),
        lambda: plots.plot_reliability([0.5, 0.5], [True]),
        lambda: plots.plot_by_length([], [], "loss"),
    ):
        with pytest.raises(lp.InputError, match="give one or more rows"):
            draw()


class Words:
    def decode(self, tokens):
        return f" word{tokens[0]}$\n"


def test_words():
    model = lp.PrefixedModel(BACKBONES["gpt2"](), lp.PromptPrefixConfig(length=3))
    table = model.backbone.get_input_embeddings().weight
    model.prefix.embeddings.data = torch.stack([3 * table[7], table[20] + 0.01 * table[21], -table[5]])
    found = plots.nearest_words(model, Words(), count=4)
    assert [row[0].token for row in found[:2]] == ["␣word7$\\n", "␣word20$\\n"]
    for row, embedding in zip(found, model.prefix.embeddings.detach(), strict=True):
        cosines = torch.nn.functional.cosine_similarity(embedding[None], table.detach())
        assert [word.similarity for word in row] == pytest.approx(cosines.sort(descending=True).values[:4].tolist())
    figure, panel = plots.plot_nearest_words(found)
    figure.canvas.draw()
    assert len(panel.texts) == 12
    flat = lp.PrefixedModel(BACKBONES["gpt2"](), lp.FlatPrefixConfig(length=3))
    with pytest.raises(lp.InputError, match="one of variant 'flat'; words are near to the embeddings of a prompt"):
        plots.nearest_words(flat, Words())


@pytest.mark.parametrize("lengths", [1, [0, 3], {"encoder": 2, "decoder.1": 4}])
def test_norms_of_unequal_lengths(lengths, tmp_path):
    """Layers without a prefix, and with a shorter one, are empty cells."""
    family = "bart" if isinstance(lengths, dict) else "gpt2"
    model = lp.PrefixedModel(BACKBONES[family](), lp.FlatPrefixConfig(length=lengths))
    norms = plots.prefix_norms(model.prefix)
    figure, axes = plots.plot_norms(norms, dict.fromkeys(norms, (1.0, 2.0)))
    figure.savefig(Path(tmp_path) / "norms.png")
    kinds = dict.fromkeys(site.kind for site in norms)
    for line, kind in zip(axes, kinds, strict=True):
        of_kind = [pair for site, pair in norms.items() if site.kind == kind]
        for number, panel in enumerate(line):
            expected = sum(float(pair[number].sum()) + (1.0, 2.0)[number] for pair in of_kind)
            assert np.nansum(panel.images[0].get_array().filled(np.nan)) == pytest.approx(expected, rel=1e-5)
