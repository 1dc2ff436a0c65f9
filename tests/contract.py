"""The contract of a prefix: what must hold on every backbone, whoever puts the prefix there.

A property is a function of a `Case`; it passes, or raises. `lightning_prefix` and PEFT run the same functions.
"""

import copy
import inspect
import pickle
import tempfile
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import cache
from typing import Any, ClassVar

import torch
import transformers as hf
from tiny_backbones import BACKBONES, POSITIONS, VOCABULARY, inputs_for
from torch import Tensor, nn

import lightning_prefix as lp

NEW_TOKENS = 5
GREEDY = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
SCORES = {"output_logits": True, "return_dict_in_generate": True}


class NotApplicableError(Exception):
    """The property means nothing here; the message says why."""


# Who puts the prefix there.


class Ours:
    """`PrefixedModel`."""

    configs: ClassVar = {
        "flat": lp.FlatPrefixConfig(length=4),
        "mlp": lp.MLPPrefixConfig(length=3, embedding_dim=8, hidden_dim=8),
        "gated": lp.GatedPrefixConfig(length=5),
        "prompt": lp.PromptPrefixConfig(length=4),
        "output": lp.OutputPrefixConfig(),
    }

    def wrap(self, backbone: Any, variant: str) -> nn.Module:
        """The backbone with a prefix that has an effect."""
        try:
            model = lp.PrefixedModel(backbone, self.configs[variant])
        except lp.InputError as error:
            if variant == "prompt" and "arbitrary embeddings" in str(error):
                raise NotApplicableError(f"prompt: {str(error).split(';')[0]}") from error
            raise
        self._stir(model.prefix)
        return model

    def many(self, family: str) -> nn.Module:
        """One backbone with all variants, each under its name."""
        return _with_all_variants(family)

    def trained(self, model: Any) -> list[tuple[str, nn.Parameter]]:
        return list(model.prefix.named_parameters())

    def disabled(self, model: Any) -> Any:
        return model.disabled()

    def save(self, model: Any, folder: str) -> None:
        model.save_pretrained(folder)

    def load(self, folder: str, backbone: Any) -> Any:
        return lp.PrefixedModel.from_pretrained(folder, backbone)

    def with_text(self, backbone: Any, text: list[int], layers: Sequence[Any]) -> Any:
        """The backbone with these keys and values of a text as prefix of its decoder, positions shifted."""
        config = lp.FlatPrefixConfig(length=len(text), init="text", init_text="a text", sites=["decoder"])
        model = lp.PrefixedModel(backbone, config, positions="shift", tokenizer=lambda _: {"input_ids": text}).eval()
        if backbone.config.is_encoder_decoder:  # where a text start reads the text on both sides
            with torch.no_grad():
                for keys, values, layer in zip(model.prefix.keys, model.prefix.values, layers, strict=True):
                    keys.copy_(layer.keys[0])
                    values.copy_(layer.values[0])
        elif len(model.sites) != backbone.config.num_hidden_layers:
            raise NotApplicableError("the layers without softmax attention also remember the text")
        return model

    def _stir(self, prefix: nn.Module) -> None:
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for name, parameter in prefix.named_parameters():
                scale = 0.3 * (parameter.abs().mean() if "embeddings" in name else 1.0)
                parameter.add_(torch.randn(parameter.shape, generator=generator) * scale)


class Frozen:
    """No prefix: what the model itself can do, all parameters trained."""

    def wrap(self, backbone: Any, variant: str) -> Any:
        return backbone

    def trained(self, model: Any) -> list[tuple[str, nn.Parameter]]:
        return list(model.named_parameters())

    def disabled(self, model: Any) -> Any:
        return nullcontext()


@cache
def _with_all_variants(family: str) -> Any:
    ours = Ours()
    model = None
    for variant, config in ours.configs.items():
        if model is None:
            model = lp.PrefixedModel(make(family), config)
            model.rename_prefix("default", variant)
            ours._stir(model.prefixes[variant])
            continue
        try:
            model.add_prefix(variant, config)
        except lp.InputError as error:
            if "arbitrary embeddings" not in str(error):
                raise
            continue
        ours._stir(model.prefixes[variant])
    return model.eval()


class Case:
    """One family, one variant, and who puts the prefix there."""

    def __init__(self, subject: Any, family: str, variant: str) -> None:
        self.subject, self.family, self.variant = subject, family, variant

    @property
    def kind(self) -> str:
        config = make(self.family).config
        if config.is_encoder_decoder:
            return "encoder-decoder"
        return (
            "decoder" if hasattr(make(self.family), "generation_config") and _can_generate(self.family) else "encoder"
        )

    def model(self) -> Any:
        """For reading only."""
        return _shared(self.subject, self.family, self.variant)

    def own(self, prepare: Callable[[Any], None] = lambda _: None) -> Any:
        """Another model with the same weights, from a backbone to which `prepare` was done."""
        backbone = make(self.family)
        prepare(backbone)
        model = self.subject.wrap(backbone, self.variant).eval()
        model.load_state_dict(_own_state(self.subject, self.family, self.variant))
        return model

    def trained(self, model: Any) -> list[tuple[str, nn.Parameter]]:
        return self.subject.trained(model)


@cache
def _shared(subject: Any, family: str, variant: str) -> Any:
    torch.manual_seed(0)
    return subject.wrap(make(family), variant).eval()


def _own_state(subject: Any, family: str, variant: str) -> dict[str, Tensor]:
    return _shared(subject, family, variant).state_dict()


@cache
def _can_generate(family: str) -> bool:
    return bool(make(family).can_generate())


@cache
def _prototype(family: str) -> Any:
    torch.manual_seed(0)
    backbone = BACKBONES[family]()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in backbone.parameters():  # the default start of tiny models hides what the inputs do
            if parameter.ndim > 1 and parameter.std() < 0.1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return backbone


def make(family: str) -> Any:
    """A backbone, always with the same weights."""
    return copy.deepcopy(_prototype(family))


# Inputs and outputs.


def need(kind: str, *kinds: str) -> None:
    if kind not in kinds:
        raise NotApplicableError(f"only for {' and '.join(kinds)} models")


def first(output: Any) -> Tensor:
    """Logits, or the last hidden state of a model without a head."""
    return output[0]


def by_token(model: Any, **inputs: Any) -> Tensor:
    """Something for every token: logits, or hidden states."""
    if not isinstance(model, (lp.PrefixedModel, hf.PreTrainedModel)) and _is_pooled(model):
        return first(model(**inputs))[:, None]  # PEFT loses hidden states of classifiers
    output = model(**inputs, output_hidden_states=True)
    return output[0] if output[0].ndim == 3 else output.hidden_states[-1]


def _is_pooled(model: Any) -> bool:
    return type(base_of(model)).__name__.endswith("ForSequenceClassification")


def close(ours: Tensor, theirs: Tensor, tolerance: float = 1e-5) -> None:
    scale = max(1.0, theirs.detach().abs().max().item())
    torch.testing.assert_close(ours, theirs, atol=tolerance * scale, rtol=10 * tolerance)


def positions_of(mask: Tensor) -> Tensor:
    return (mask.cumsum(1) - 1).clamp(min=0)


def takes(model: Any, name: str) -> bool:
    return name in inspect.signature(base_of(model).forward).parameters


def cache_name(model: Any) -> str:
    """Renamed in transformers 5.24."""
    return "cache" if takes(model, "cache") else "past_key_values"


def base_of(model: Any) -> Any:
    """The transformers model inside."""
    if isinstance(model, lp.PrefixedModel):
        return model.backbone
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def pad_token(model: Any) -> int:
    return base_of(model).config.get_text_config().pad_token_id or 0


# Properties.


def gradients(case: Case) -> None:
    """Every element of every trained tensor gets a gradient, nothing of the backbone does, or changes."""
    model = case.own().train()
    trained = case.trained(model)
    backbone = [(n, p) for n, p in model.named_parameters() if not p.requires_grad]
    if isinstance(model, lp.PrefixedModel):  # PEFT trains the head too
        assert len(backbone) + len(trained) == len(list(model.parameters()))
    before = [p.clone() for _, p in backbone]
    optimizer = torch.optim.SGD([p for _, p in trained], lr=1e-3)
    for _ in range(2):
        optimizer.zero_grad()
        output = first(model(**inputs_for(base_of(model), rows=4)))
        weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(2))
        (output * weights).sum().backward()
        optimizer.step()
    for name, parameter in trained:
        assert parameter.grad is not None, f"{name} has no gradient"
        dead = (parameter.grad == 0).float().mean().item()
        assert dead == 0, f"{dead:.0%} of {name} has no gradient"
    assert all(p.grad is None for _, p in backbone)
    assert all(torch.equal(p, q) for (_, p), q in zip(backbone, before, strict=True))


def effect(case: Case) -> None:
    """A change of any trained tensor changes the output."""
    model = case.own()
    inputs = inputs_for(base_of(model))
    with torch.no_grad():
        before = first(model(**inputs))
        for name, parameter in case.trained(model):
            old = parameter.clone()
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
            assert not torch.allclose(first(model(**inputs)), before, atol=1e-6), name
            parameter.copy_(old)


def right_padding(case: Case) -> None:
    """Padding on the right, a mask of ones and no mask give the same for the same tokens."""
    model = case.model()
    inputs = inputs_for(base_of(model))
    ids = inputs.pop("input_ids")
    alone = by_token(model, input_ids=ids, **inputs)
    close(by_token(model, input_ids=ids, attention_mask=torch.ones_like(ids), **inputs), alone)
    padded = nn.functional.pad(ids, (0, 3), value=pad_token(model))
    mask = nn.functional.pad(torch.ones_like(ids), (0, 3))
    close(by_token(model, input_ids=padded, attention_mask=mask, **inputs)[:, : alone.shape[1]], alone)


def left_padding(case: Case) -> None:
    """Padding on the left, with the positions that `generate` gives, changes nothing."""
    model = case.model()
    if not isinstance(model, (lp.PrefixedModel, hf.PreTrainedModel)) and _is_pooled(model):
        raise NotApplicableError("a classifier reads the first token, which is padding")
    inputs = inputs_for(base_of(model))
    ids = inputs.pop("input_ids")
    alone = by_token(model, input_ids=ids, **inputs)
    padded = nn.functional.pad(ids, (3, 0), value=pad_token(model))
    mask = nn.functional.pad(torch.ones_like(ids), (3, 0))
    if case.kind != "encoder-decoder" and takes(model, "position_ids"):
        inputs["position_ids"] = _text_positions(model, padded, mask)
    close(by_token(model, input_ids=padded, attention_mask=mask, **inputs)[:, -alone.shape[1] :], alone)


def _text_positions(model: Any, ids: Tensor, mask: Tensor) -> Tensor:
    table = getattr(getattr(base_of(model).base_model, "embeddings", None), "position_embeddings", None)
    offset = 0 if table is None or table.padding_idx is None else table.padding_idx + 1  # RoBERTa
    return positions_of(mask) + offset


def full_length(case: Case) -> None:
    """A text of all positions of the model fits beside the prefix, and the first tokens are as in a short text."""
    model = case.model()
    ids = torch.randint(5, VOCABULARY, (1, POSITIONS), generator=torch.Generator().manual_seed(1))
    if case.kind == "encoder-decoder":
        assert first(model(input_ids=ids, decoder_input_ids=ids)).isfinite().all()
        return
    whole = by_token(model, input_ids=ids)
    assert whole.isfinite().all()
    if case.kind == "decoder":
        close(whole[:, :7], by_token(model, input_ids=ids[:, :7]))


def other_inputs(case: Case) -> None:
    """`token_type_ids`, `position_ids` and `inputs_embeds` reach the model."""
    model = case.model()
    backbone = base_of(model)
    inputs = inputs_for(backbone)
    ids = inputs["input_ids"]
    usual = first(model(**inputs))
    if takes(model, "token_type_ids") and getattr(backbone.config, "type_vocab_size", 0) > 1:
        close(first(model(**inputs, token_type_ids=torch.zeros_like(ids))), usual)
        assert not torch.allclose(first(model(**inputs, token_type_ids=torch.ones_like(ids))), usual, atol=1e-6)
    if takes(model, "position_ids") and case.kind != "encoder-decoder":
        positions = _text_positions(model, ids, torch.ones_like(ids))
        close(first(model(**inputs, position_ids=positions)), usual)
        if not _is_without_absolute_order(backbone):
            assert not torch.allclose(first(model(**inputs, position_ids=positions * 3)), usual, atol=1e-6)
    del inputs["input_ids"]
    embeddings = backbone.get_input_embeddings()(ids)
    close(first(model(inputs_embeds=embeddings, **inputs)), usual)


def _is_without_absolute_order(backbone: Any) -> bool:
    """DeBERTa-v3 takes `position_ids` and does not use them."""
    return not getattr(backbone.config, "position_biased_input", True)


def greedy(case: Case) -> None:
    """Generated logits equal one teacher-forced forward; left padding in the batch changes nothing."""
    need(case.kind, "decoder", "encoder-decoder")
    model = case.model()
    inputs = generation_inputs(model)
    result = model.generate(**inputs, **GREEDY, **SCORES)
    logits = torch.stack(result.logits, 1)
    close(logits, forced(model, inputs, result.sequences)[:, -NEW_TOKENS:], 1e-4)


def left_padded_generation(case: Case) -> None:
    """Rows of unlike lengths, padded on the left, generate what they generate alone."""
    need(case.kind, "decoder", "encoder-decoder")
    model = case.model()
    ids = generation_inputs(model)["input_ids"]
    alone = model.generate(input_ids=ids, **GREEDY, **SCORES)
    padded = nn.functional.pad(ids, (3, 0), value=pad_token(model))
    mask = nn.functional.pad(torch.ones_like(ids), (3, 0))
    together = model.generate(input_ids=padded, attention_mask=mask, **GREEDY, **SCORES)
    close(torch.stack(together.logits, 1), torch.stack(alone.logits, 1), 1e-4)


def generation_inputs(model: Any) -> dict[str, Tensor]:
    inputs = inputs_for(base_of(model))
    inputs.pop("decoder_input_ids", None)
    return inputs


def forced(model: Any, inputs: dict[str, Tensor], sequences: Tensor) -> Tensor:
    """Logits for the next token at each token of the sequences but the last, by one forward."""
    rows = sequences.shape[0] // len(inputs["input_ids"])
    if base_of(model).config.is_encoder_decoder:
        repeated = {name: tensor.repeat_interleave(rows, 0) for name, tensor in inputs.items()}
        return first(model(**repeated, decoder_input_ids=sequences[:, :-1]))
    return first(model(sequences))[:, :-1]


def beams(case: Case) -> None:
    """The scores of beam search are the log-probabilities of one teacher-forced forward."""
    need(case.kind, "decoder", "encoder-decoder")
    model = case.model()
    inputs = generation_inputs(model)
    options = {"num_beams": 3, "num_return_sequences": 2, "length_penalty": 0.0, "output_scores": True}
    result = model.generate(**inputs, **GREEDY, **options, return_dict_in_generate=True)
    log_probabilities = forced(model, inputs, result.sequences).log_softmax(-1)
    chosen = log_probabilities.gather(2, result.sequences[:, 1:, None])[..., 0][:, -NEW_TOKENS:]
    close(result.sequences_scores, chosen.sum(1), 1e-4)


def sampling(case: Case) -> None:
    """Several sampled sequences per row have the logits of one teacher-forced forward."""
    need(case.kind, "decoder", "encoder-decoder")
    model = case.model()
    inputs = generation_inputs(model)
    torch.manual_seed(0)
    options = GREEDY | {"do_sample": True, "top_k": 0, "num_return_sequences": 3}
    result = model.generate(**inputs, **options, **SCORES)
    assert result.sequences.shape[0] == 6
    logits = torch.stack(result.logits, 1)
    close(logits, forced(model, inputs, result.sequences)[:, -NEW_TOKENS:], 1e-4)


def no_cache(case: Case) -> None:
    """Generation without a cache equals generation with one."""
    _other_cache(case, use_cache=False)


def static_cache(case: Case) -> None:
    """Generation with a static cache equals generation with the dynamic one."""
    _other_cache(case, cache_implementation="static")


def _other_cache(case: Case, **options: Any) -> None:
    need(case.kind, "decoder", "encoder-decoder")
    model = case.model()
    inputs = generation_inputs(model)
    usual = model.generate(**inputs, **GREEDY, **SCORES)
    other = model.generate(**inputs, **GREEDY, **SCORES, **options)
    close(torch.stack(other.logits, 1), torch.stack(usual.logits, 1), 1e-4)


def own_cache(case: Case) -> None:
    """A caller's cache is continued, in forward and, as in a dialogue of several turns, in `generate`."""
    need(case.kind, "decoder", "encoder-decoder")
    model = case.model()
    inputs = inputs_for(base_of(model))
    name = "decoder_input_ids" if case.kind == "encoder-decoder" else "input_ids"
    ids = inputs[name]
    whole = first(model(**inputs))
    cache = cache_name(model)
    start = model(**inputs | {name: ids[:, :3]}, use_cache=True)
    rest = model(**inputs | {name: ids[:, 3:], cache: start[cache]}, use_cache=True)
    close(first(rest), whole[:, 3:], 1e-4)
    if case.kind == "decoder":
        turn = model.generate(input_ids=ids, **GREEDY, return_dict_in_generate=True)
        text = torch.cat((turn.sequences, ids.flip(1)), 1)
        options = GREEDY | SCORES | {"attention_mask": torch.ones_like(text)}  # else a generated 0 is taken for padding
        alone = model.generate(input_ids=text, **options)
        continued = model.generate(input_ids=text, **options, **{cache: turn[cache]})
        close(torch.stack(continued.logits, 1), torch.stack(alone.logits, 1), 1e-4)


def checkpointing_before(case: Case) -> None:
    """Gradient checkpointing that was on before wrapping gives the same gradients."""
    _checkpointed(case, case.own(enable_checkpointing).train())


def checkpointing_after(case: Case) -> None:
    """Gradient checkpointing that is turned on after wrapping gives the same gradients."""
    model = case.own()
    enable_checkpointing(base_of(model))
    _checkpointed(case, model.train())


def _checkpointed(case: Case, model: Any) -> None:
    plain = case.own().train()
    calls: list[int] = []
    if isinstance(model, lp.PrefixedModel):
        site = model.all_sites[0].name.split("#")[0]
        model.backbone.get_submodule(site).register_forward_pre_hook(lambda *_: calls.append(1))
    gradients = []
    for each in (plain, model):
        without_dropout(each)
        losses = []
        for rows in (2, 3):  # two passes before one backward
            output = first(each(**inputs_for(base_of(each), rows=rows), **_without_cache(each)))
            losses.append((output * torch.randn(output.shape, generator=torch.Generator().manual_seed(2))).sum())
        forward_calls = len(calls)
        parameters = [p for _, p in case.trained(each)]
        gradients.append(torch.autograd.grad(sum(losses), parameters, allow_unused=True))
    if calls and case.variant != "output":
        assert len(calls) > forward_calls, "nothing was repeated in the backward pass"
    for ours, theirs in zip(*gradients[::-1], strict=True):
        if theirs is None:
            assert ours is None
            continue
        close(ours, theirs)


def _without_cache(model: Any) -> dict[str, bool]:
    return {"use_cache": False} if takes(model, "use_cache") else {}


def enable_checkpointing(backbone: Any) -> None:
    # renamed in transformers 5.2x
    enable = getattr(backbone, "activation_checkpointing_enable", None) or backbone.gradient_checkpointing_enable
    enable()


def without_dropout(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in list(vars(module).items()):
            if "drop" in name and isinstance(value, float):
                setattr(module, name, 0.0)


def compiled(case: Case) -> None:
    """`torch.compile` takes the forward and its backward as one graph."""
    model = case.own()
    inputs = inputs_for(base_of(model))
    parameters = [p for _, p in case.trained(model)][:4]
    plain = first(model(**inputs))
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        output = first(torch.compile(model, backend="eager", fullgraph=True)(**inputs))
    close(output, plain)
    for ours, theirs in zip(
        torch.autograd.grad(output.square().sum(), parameters, allow_unused=True),
        torch.autograd.grad(plain.square().sum(), parameters, allow_unused=True),
        strict=True,
    ):
        if theirs is not None:
            close(ours, theirs, 1e-4)


def half_precision(case: Case) -> None:
    """A bfloat16 backbone with the prefix in float32."""
    model = case.own(lambda backbone: backbone.to(torch.bfloat16))
    output = first(model(**inputs_for(base_of(model))))
    assert output.dtype == torch.bfloat16
    assert output.isfinite().all()
    output.float().square().sum().backward()
    for name, parameter in case.trained(model):
        assert parameter.dtype == torch.float32, name
        assert parameter.grad.dtype == torch.float32, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


def implementations(case: Case) -> None:
    """Eager and sdpa attention agree, also when the implementation is changed under the prefix."""
    model = case.own(lambda backbone: backbone.set_attn_implementation("eager"))
    inputs = inputs_for(base_of(model))
    mask = torch.ones_like(inputs["input_ids"])
    mask[0, -2:] = 0
    with_mask = {**inputs, "attention_mask": mask}
    eager = [by_token(model, **inputs), by_token(model, **with_mask)[:, :5]]
    other = case.own(lambda backbone: _use_sdpa(backbone))
    close(by_token(other, **inputs), eager[0])
    close(by_token(other, **with_mask)[:, :5], eager[1])
    _use_sdpa(base_of(model))
    close(by_token(model, **inputs), eager[0])


def _use_sdpa(backbone: Any) -> None:
    try:
        backbone.set_attn_implementation("sdpa")
    except ValueError as error:
        raise NotApplicableError("the model has no sdpa") from error
    if "sdpa" not in backbone.config.get_text_config()._attn_implementation:
        raise NotApplicableError("the model has no sdpa")


def attentions(case: Case) -> None:
    """`output_attentions` and `output_hidden_states` work and change nothing."""
    model = case.own(lambda backbone: backbone.set_attn_implementation("eager"))
    inputs = inputs_for(base_of(model))
    usual = first(model(**inputs))
    output = model(**inputs, output_attentions=True, output_hidden_states=True)
    close(first(output), usual)
    weights = output.get("attentions") or output.decoder_attentions
    states = output.get("hidden_states") or output.decoder_hidden_states
    assert weights
    assert states
    assert all(w is None or w.shape[:1] == (2,) for w in weights)


def disabled(case: Case) -> None:
    """Without the prefix the model is the frozen one, bit for bit."""
    frozen, model = make(case.family), case.model()
    inputs = inputs_for(frozen)
    expected = first(frozen.requires_grad_(False)(**inputs))
    changed = first(model(**inputs))
    with case.subject.disabled(model):
        assert torch.equal(first(model(**inputs)), expected)
    assert not torch.equal(changed, expected)
    assert torch.equal(first(model(**inputs)), changed)
    if isinstance(model, lp.PrefixedModel):
        changed.sum().backward()
        assert torch.equal(first(model.backbone(**inputs)), expected)  # so is a direct call
        assert torch.equal(first(case.own().unload()(**inputs)), expected)


def closed_gate(case: Case) -> None:
    """A gated prefix at step 0, with zero values or closed gates, is the frozen model, bit for bit."""
    for zero in ("values", "gates"):
        frozen = make(case.family).requires_grad_(False)
        inputs = inputs_for(frozen)
        expected = first(frozen(**inputs))
        assert torch.equal(
            first(lp.PrefixedModel(frozen, lp.GatedPrefixConfig(length=5, zero=zero))(**inputs)), expected
        )


def copies(case: Case) -> None:
    """Deep copies and pickles are equal and independent; a state dict round trip too."""
    model = case.own()
    inputs = inputs_for(base_of(model))
    expected = first(model(**inputs))
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):  # noqa: S301
        assert torch.equal(first(other(**inputs)), expected)
        for _, parameter in case.trained(other):
            nn.init.normal_(parameter)
        assert not torch.equal(first(other(**inputs)), expected)
        assert torch.equal(first(model(**inputs)), expected)
        other.load_state_dict(model.state_dict())
        assert torch.equal(first(other(**inputs)), expected)


def files(case: Case) -> None:
    """Saved and loaded on a fresh backbone, the outputs are the same."""
    model = case.model()
    inputs = inputs_for(base_of(model))
    with tempfile.TemporaryDirectory() as folder:
        case.subject.save(model, folder)
        again = case.subject.load(folder, make(case.family)).eval()
    assert torch.equal(first(again(**inputs)), first(model(**inputs)))


def mixed_rows(case: Case) -> None:
    """Each row of a batch has its own prefix, of another variant and length, or none, and gives what it gives alone."""
    model = case.subject.many(case.family)
    names = [*model.prefix_names, None]
    inputs = inputs_for(base_of(model), rows=len(names))
    mask = torch.ones_like(inputs["input_ids"])
    mask[0, -2:] = 0
    inputs["attention_mask"] = mask
    together = first(model(**inputs, prefix_names=names))
    for row, name in enumerate(names):
        single = {key: tensor[row : row + 1] for key, tensor in inputs.items()}
        close(together[row : row + 1], first(model(**single, prefix_names=[name])))


def mixed_generation(case: Case) -> None:
    """Mixed rows in beam search give what they give alone."""
    need(case.kind, "decoder", "encoder-decoder")
    model = case.subject.many(case.family)
    names = [*model.prefix_names, None]
    ids = inputs_for(base_of(model), rows=len(names))["input_ids"]
    options = GREEDY | {"num_beams": 2, "num_return_sequences": 2, "output_scores": True}
    together = model.generate(ids, prefix_names=names, **options, return_dict_in_generate=True)
    for row, name in enumerate(names):
        alone = model.generate(ids[row : row + 1], prefix_names=[name], **options, return_dict_in_generate=True)
        close(together.sequences_scores[2 * row : 2 * row + 2], alone.sequences_scores, 1e-4)


def packing(case: Case) -> None:
    """Several texts in a row, together longer than the model's positions, give what they give alone; gradients too."""
    need(case.kind, "decoder")
    model = case.own()
    generator = torch.Generator().manual_seed(1)
    lengths = [(29, 1, 37, 13), (40, 11)]
    texts = [[torch.randint(5, VOCABULARY, (length,), generator=generator) for length in row] for row in lengths]
    ids = nn.utils.rnn.pad_sequence([torch.cat(row) for row in texts], True, pad_token(model))
    numbers = [torch.arange(1, len(row) + 1).repeat_interleave(torch.tensor(row)) for row in lengths]
    try:
        output = by_token(model, input_ids=ids, sequence_ids=nn.utils.rnn.pad_sequence(numbers, True))
    except lp.InputError as error:
        if "mixes texts" not in str(error):
            raise
        raise NotApplicableError("the layers without softmax attention mix texts of a row, which is refused") from error
    together = torch.cat([row[: len(own)] for row, own in zip(output, numbers, strict=True)])
    alone = torch.cat([by_token(model, input_ids=text[None])[0] for row in texts for text in row])
    close(together, alone)
    weights = torch.randn(alone.shape, generator=generator)
    parameters = [parameter for _, parameter in case.trained(model)]
    ours, theirs = (torch.autograd.grad((states * weights).sum(), parameters) for states in (together, alone))
    for one, other in zip(ours, theirs, strict=True):
        close(one, other, 1e-4)


def no_graph_below(case: Case) -> None:
    """Layers below the first prefix layer run without building a graph."""
    backbone = make(case.family)
    model = lp.PrefixedModel(backbone, lp.FlatPrefixConfig(length=4, layers=1))
    if len(model.all_sites) == len(model.sites):
        raise NotApplicableError("one layer with attention")
    output = model(**inputs_for(backbone), output_hidden_states=True)
    states = output.get("hidden_states") or output.encoder_hidden_states
    needs = [state.requires_grad for state in states]
    # the last state is behind the last layer
    assert not any(needs[:-1]), needs
    assert first(output).requires_grad


def oracle(case: Case) -> None:
    """With `positions: shift`, a prefix with the keys and values of a text is the frozen model on text + input."""
    need(case.kind, "decoder", "encoder-decoder")
    backbone = make(case.family)
    text = [11, 23, 42, 7, 60]
    inputs = inputs_for(backbone, tokens=3)  # text and input fit into the sliding windows: the prefix never leaves one
    name = "decoder_input_ids" if case.kind == "encoder-decoder" else "input_ids"
    # what the decoder holds of the text depends on what the encoder reads, so all rows read the same
    rest = {key: tensor[:1].expand_as(tensor) for key, tensor in inputs.items() if key != name}
    joined = torch.cat((torch.tensor([text]).expand(2, -1), inputs[name]), 1)
    with torch.no_grad():
        expected = first(backbone(**rest, **{name: joined}))[:, len(text) :]
        one = {key: tensor[:1] for key, tensor in rest.items()}
        cache = backbone(**one, **{name: torch.tensor([text])}, use_cache=True)[cache_name(backbone)]
    model = case.subject.with_text(backbone, text, getattr(cache, "self_attention_cache", cache).layers)
    close(first(model(**rest, **{name: inputs[name]})), expected)


PROPERTIES: dict[str, Callable[[Case], None]] = {
    "gradients": gradients,
    "effect": effect,
    "right padding": right_padding,
    "left padding": left_padding,
    "full length": full_length,
    "other inputs": other_inputs,
    "greedy": greedy,
    "left-padded generation": left_padded_generation,
    "beams": beams,
    "sampling": sampling,
    "no cache": no_cache,
    "static cache": static_cache,
    "caller's cache": own_cache,
    "checkpointing before": checkpointing_before,
    "checkpointing after": checkpointing_after,
    "compile": compiled,
    "bfloat16": half_precision,
    "eager = sdpa": implementations,
    "attentions": attentions,
    "disabled": disabled,
    "closed gate": closed_gate,
    "copies": copies,
    "files": files,
    "mixed rows": mixed_rows,
    "mixed beams": mixed_generation,
    "packing": packing,
    "no graph below": no_graph_below,
    "oracle": oracle,
}
# these are not about what a model can do without a prefix
WITHOUT_CONTROL = (
    *(
        "gradients",
        "effect",
        "bfloat16",
        "disabled",
        "copies",
        "files",
        "closed gate",
        "mixed rows",
        "packing",
        "no graph below",
        "oracle",
    ),
)
_CONTROLS = {"mixed beams": "beams"}
ONCE = ("compile", "closed gate", "mixed rows", "mixed beams", "no graph below", "oracle")
"""Properties that look at all variants, or at one, by themselves, or take long."""


def judge(subject: Any, family: str, name: str, variants: Sequence[str]) -> str:
    """`ok`, or why the property means nothing here.

    Raises:
        AssertionError, Exception: what the property raises, unless the frozen model alone fails it too.
    """
    reasons = {_judge_one(Case(subject, family, variant), name) for variant in variants}
    return min(reasons, key=lambda reason: (not reason.startswith("ok"), -len(reason)))


def _judge_one(case: Case, name: str) -> str:
    try:
        PROPERTIES[name](case)
    except NotApplicableError as error:
        return f"ok ({error})" if str(error).startswith("prompt: ") else str(error)  # one variant among others
    except Exception:
        if name not in WITHOUT_CONTROL and frozen_fails(case.family, _CONTROLS.get(name, name)):
            return "the frozen model alone does not either"
        raise
    return "ok"


@cache
def frozen_fails(family: str, name: str) -> bool:
    try:
        PROPERTIES[name](Case(Frozen(), family, "none"))
    except NotApplicableError:
        return False
    except Exception:
        return True
    return False


hf.logging.set_verbosity_error()
