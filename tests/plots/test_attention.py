"""Attention shares and norms, against the models' own weights, and by hand."""

import pytest
import torch
from every_task import CASES, case_backbone
from lightning.pytorch import Trainer
from tiny_backbones import BACKBONES, inputs_for

import lightning_prefix as lp
from lightning_prefix import plots

FAMILIES = [
    *("bert", "albert", "deberta_v2", "gpt2", "llama", "gemma2", "mistral_window", "gpt_oss", "deepseek_v3"),
    *("t5", "bart", "marian"),
]


def prefixed(family: str, config: lp.PrefixConfig | None = None) -> lp.PrefixedModel:
    """With a prefix whose keys differ between positions and heads."""
    model = lp.PrefixedModel(BACKBONES[family](), config or lp.FlatPrefixConfig(length=5)).eval()
    for parameter in model.prefix.parameters():
        torch.nn.init.normal_(parameter)
    return model


def padded(model: lp.PrefixedModel) -> dict[str, torch.Tensor]:
    """Rows of unequal lengths."""
    batch = inputs_for(model.backbone, rows=3)
    mask = torch.ones_like(batch["input_ids"])
    mask[1, 4:] = mask[2, 6:] = 0
    batch["attention_mask"] = mask
    if "decoder_input_ids" in batch:
        batch["decoder_attention_mask"] = mask[:, : batch["decoder_input_ids"].shape[1]]
    return batch


@pytest.mark.parametrize("family", FAMILIES)
def test_shares_are_those_of_the_models_own_weights(family):
    model = prefixed(family)
    batch = padded(model)
    before = model(**batch)[0]
    shares = plots.attention_shares(model, [batch])
    assert torch.equal(model(**batch)[0], before)

    model.backbone.set_attn_implementation("eager")
    output = model(**batch, output_attentions=True)
    of_kind = {"decoder": "decoder_attentions", "encoder": "encoder_attentions", "cross": "cross_attentions"}
    assert list(shares) == list(model.sites)
    for site, share in shares.items():
        weights = output["attentions" if "attentions" in output else of_kind[site.kind]][site.layer]
        is_decoder = "decoder_input_ids" in batch and site.kind != "encoder"
        real = batch["decoder_attention_mask" if is_decoder else "attention_mask"].bool()
        to_prefix = weights[..., :5].sum(-1).transpose(1, 2)[real]  # (real queries, heads)
        torch.testing.assert_close(share, to_prefix.mean(0))
        assert share.shape == (site.heads,)
        assert 0.01 < share.mean() < 0.99


def gpt2_by_hand(model, row):
    """Shares, norms of keys and norms of values of one row without padding: (layers, heads), (layers,), (layers,)."""
    projected = []
    hooks = [
        layer.attn.c_attn.register_forward_hook(lambda _, __, output: projected.append(output[0]))
        for layer in model.backbone.transformer.h
    ]
    model(input_ids=row)
    with model.disabled():
        model(input_ids=row)
    for hook in hooks:
        hook.remove()
    shares, norms = [], []
    for state, with_prefix, alone in zip(model.prefix.states(), projected[:2], projected[2:], strict=True):
        heads = [part.unflatten(-1, (2, 8)).transpose(0, 1) for part in with_prefix.split(16, -1)]
        scores = heads[0] @ torch.cat([state.keys, heads[1]], 1).transpose(1, 2) / 8**0.5
        tokens = row.shape[1]
        hidden = torch.ones(tokens, tokens).triu(1).bool()
        scores[:, :, 5:] = scores[:, :, 5:].masked_fill(hidden, float("-inf"))
        shares.append(scores.softmax(-1)[:, :, :5].sum(-1).sum(1))
        norms.append([part.unflatten(-1, (2, 8)).norm(dim=-1).mean(1).sum() for part in alone.split(16, -1)[1:]])
    return torch.stack(shares), torch.tensor(norms)


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
def test_shares_and_norms_by_hand(side):
    model = prefixed("gpt2")
    rows = [torch.randint(5, 90, (1, tokens)) for tokens in (4, 7, 5)]
    found = [gpt2_by_hand(model, row) for row in rows]

    def batch(some):
        width = max(row.shape[1] for row in some)
        pads = [(width - row.shape[1], 0) if side == "left" else (0, width - row.shape[1]) for row in some]
        ids = [torch.nn.functional.pad(row, pad, value=9) for row, pad in zip(some, pads, strict=True)]
        mask = [torch.nn.functional.pad(torch.ones_like(row), pad) for row, pad in zip(some, pads, strict=True)]
        positions = [(one.cumsum(1) - 1).clamp(min=0) for one in mask]
        names = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
        return {name: torch.cat(tensors) for name, tensors in names.items()}

    batches = [batch(rows[:2]), batch(rows[2:])]
    shares = torch.stack(list(plots.attention_shares(model, batches).values()))
    norms = torch.tensor(list(plots.text_norms(model, batches).values()))
    torch.testing.assert_close(shares, sum(share for share, _ in found) / 16)
    torch.testing.assert_close(norms, sum(norm for _, norm in found) / 16)


def test_other_variants():
    gated = prefixed("llama", lp.GatedPrefixConfig(length=3))
    for site, share in plots.attention_shares(gated, []).items():
        gate = gated.prefix.gates[site.layer].detach().tanh().abs()
        torch.testing.assert_close(share, gate / (1 + gate))

    prompt = prefixed("bart", lp.PromptPrefixConfig(length=4))
    flat = lp.PrefixedModel(BACKBONES["bart"](), lp.FlatPrefixConfig(length=4))
    flat.backbone.load_state_dict(prompt.backbone.state_dict())
    flat.add_prefix("same", prompt.prefix.flatten())
    flat.set_prefix("same")
    batch = padded(prompt)
    ours, theirs = plots.attention_shares(prompt, [batch]), plots.attention_shares(flat, [batch])
    for site, share in ours.items():
        torch.testing.assert_close(share, theirs[site])
    norms = plots.prefix_norms(prompt.prefix)
    for site, state in zip(flat.sites, flat.prefix.states(), strict=True):
        torch.testing.assert_close(norms[site][0], state.keys.norm(dim=-1).mean(0))
        torch.testing.assert_close(norms[site][1], state.values.norm(dim=-1).mean(0))


def test_what_cannot_be_measured():
    output = prefixed("bert", lp.OutputPrefixConfig())
    with pytest.raises(lp.InputError, match="a prefix of variant 'output' has no keys, so no attention"):
        plots.attention_shares(output, [padded(output)])
    with pytest.raises(lp.InputError, match="a prefix of variant 'output' has no keys and values"):
        plots.prefix_norms(output.prefix)
    model = prefixed("bert")
    with pytest.raises(lp.InputError, match="no text was read; give one or more"):
        plots.attention_shares(model, [])
    with pytest.raises(lp.InputError, match="no text was read; give one or more"):
        plots.text_norms(model, [{**padded(model), "attention_mask": torch.zeros(3, 7, dtype=torch.long)}])
    task = lp.TextClassification("nowhere", labels=["a", "b"])
    with pytest.raises(lp.InputError, match="the task has no weights yet"):
        plots.attention_shares(task, [])


def test_the_model_is_left_as_it_was():
    model = prefixed("llama", lp.FlatPrefixConfig(length=5, dropout=0.5)).train()
    batch = padded(model)
    once = plots.attention_shares(model, [batch])
    assert model.training
    assert model.prefix.training
    assert not model.backbone.training
    assert model.config._attn_implementation == "sdpa"
    with pytest.raises(ValueError, match="input_ids"):
        plots.attention_shares(model, [{"nothing": batch["input_ids"]}])
    assert model.config._attn_implementation == "sdpa"
    for site, share in plots.attention_shares(model, [batch]).items():
        assert torch.equal(share, once[site])


@pytest.mark.parametrize("name", CASES)
def test_every_task(name, bert_folder, gpt2_folder, tmp_path):
    """Of a split with targets, and of texts without."""
    case = CASES[name]
    backbone, prefix = case_backbone(case, bert_folder, gpt2_folder, tmp_path), lp.FlatPrefixConfig(length=3)
    data = case.make_data({split: range(6) for split in ("train", "validation", "test")})
    data.serve(case.make_task(backbone, prefix))
    data.setup("test")
    task = case.make_task(backbone, prefix, **({"labels": list(data.labels)} if data.labels else {}))
    task.configure_model()
    task.save_pretrained(tmp_path / "prefix", data.description())
    texts = [{column: row[column] for column in data.columns} for row in map(case.row, range(5))]
    of_rows = plots.Pictures(tmp_path / "prefix", data=data)
    of_texts = plots.Pictures(tmp_path / "prefix", texts=texts)
    for pictures in (of_rows, of_texts):
        for draw in (pictures.attention, pictures.norms):
            figure, axes = draw()
            assert len(axes.flat) == len({site.kind for site in task.model.sites}) * (
                2 if draw == pictures.norms else 1
            )
            figure.canvas.draw()


def test_layers_that_an_activation_cache_leaves_out(bert_folder, tmp_path):
    """In a notebook, after training."""
    task = lp.TextClassification(
        bert_folder, lp.FlatPrefixConfig(length=3, layers=1), activation_cache=lp.ActivationCacheOptions()
    )
    case = CASES["classification"]
    data = case.make_data({split: range(6) for split in ("train", "validation")})
    Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False).fit(task, data)
    assert "activations" in task.model._hooks
    task.save_pretrained(tmp_path)
    loaded = lp.PrefixTask.from_pretrained(tmp_path)
    batches = list(data.val_dataloader())
    for measure in (plots.attention_shares, plots.text_norms):
        found, expected = measure(task, batches), measure(loaded, batches)
        assert list(found) == list(expected)
        for site, value in found.items():
            torch.testing.assert_close(torch.as_tensor(value), torch.as_tensor(expected[site]))
