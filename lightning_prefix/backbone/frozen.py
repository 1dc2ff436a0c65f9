"""The frozen model as a prefix sees it: its sites, and keys and values to start from."""

from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from lightning_prefix.backbone import files
from lightning_prefix.backbone.attention import RecordedCall, recording_states
from lightning_prefix.backbone.load import load_tokenizer
from lightning_prefix.backbone.output import last_hidden_state
from lightning_prefix.backbone.sites import config_of, max_positions, record_calls, run_in_eval_mode, sample_tokens
from lightning_prefix.backbone.slot import StateSlot
from lightning_prefix.errors import InputError
from lightning_prefix.prefix import AttentionSite, OutputPrefix, Prefix, PrefixConfig, PrefixStates, PromptPrefix
from lightning_prefix.prefix.stored import from_tensors

_SAMPLE_TOKENS = 64


class FrozenBackbone:
    """A `FrozenModel` for prefixes.

    Args:
        backbone: a transformers model.
        sites: all its attention sites, in the order of their calls.
        slot: serves its attention modules.
        tokenizer: for `init: text`; the one stored beside the backbone when None.
    """

    def __init__(
        self, backbone: nn.Module, sites: tuple[AttentionSite, ...], slot: StateSlot, tokenizer: Any = None
    ) -> None:
        self.backbone, self.sites, self.slot, self.tokenizer = backbone, sites, slot, tokenizer
        self.embedding_dim: int = self._embedding_table().weight.shape[1]

    @cached_property
    def hidden(self) -> int:
        """Size of the last hidden state."""
        return last_hidden_state(self.backbone)[1].shape[-1]

    def start(self, config: PrefixConfig, lengths: dict[AttentionSite, int]) -> list[PrefixStates]:
        """Keys (kv_heads, length, key_dim) and values (kv_heads, length, value_dim) of these sites, float32.

        Raises:
            InputError: if `init: text` has no text, or the text no tokens; if a file does not fit.
        """
        if config.init == "file":
            return self._stored_states(config, lengths)
        if config.init == "zero":
            return [
                PrefixStates(torch.zeros(s.kv_heads, n, s.key_dim), torch.zeros(s.kv_heads, n, s.value_dim))
                for s, n in lengths.items()
            ]
        is_text = config.init == "text"
        calls = self._calls(self._text_tokens(config, max(lengths.values()))) if is_text else self._random_calls
        pick = _first if is_text else _random_like
        return [
            PrefixStates(pick(calls[site].keys[0].float(), n), pick(calls[site].values[0].float(), n))
            for site, n in lengths.items()
        ]

    @torch.no_grad()
    def score_deviations(self, keys: dict[AttentionSite, Tensor]) -> list[Tensor]:
        """(kv_heads,) of each site: how far the scores of these keys, for one query of the frozen model, lie apart.

        Args:
            keys: (kv_heads, length, key_dim), of each site.

        Returns:
            The standard deviation over the length, in the mean over the queries of random tokens.
        """
        deviations = []
        for site, own in keys.items():
            call = self._random_calls[site]
            queries = call.queries[0].float().reshape(site.kv_heads, -1, site.key_dim)
            scores = queries @ own.to(queries.device).transpose(1, 2) * (call.scaling or site.key_dim**-0.5)
            deviations.append(scores.std(2, correction=0).mean(1).to(own.device))
        return deviations

    @torch.no_grad()
    def start_embeddings(self, config: PrefixConfig, length: int) -> Tensor:
        """(length, embedding_dim), float32: of random tokens, of a text, zeros, or of a stored prompt.

        Raises:
            InputError: as `start`; if the prompt is longer than the model's positions, or the model reads no other
                embeddings than those of its tokens.
        """
        self._check_positions(length, "a prompt")
        try:
            self.encode(torch.full((length, self.embedding_dim), 0.5))
        except (RuntimeError, TypeError, ValueError) as error:
            raise InputError(
                f"{type(self.backbone).__name__} cannot read arbitrary embeddings, which a prompt needs; use another "
                f"variant, such as FlatPrefixConfig. It says: {str(error).strip().split(chr(10))[0]}"
            ) from error
        if config.init == "zero":
            return torch.zeros(length, self.embedding_dim)
        if config.init == "file":
            stored = self._stored(config)
            if not isinstance(stored, PromptPrefix) or stored.length != length:
                raise _unfit(config, stored, f"a prompt of length {length}")
            return stored.embeddings
        ids = self._text_tokens(config, length) if config.init == "text" else sample_tokens(self.backbone, length)
        table = self._embedding_table()
        return cast("Tensor", table(torch.tensor(ids, device=table.weight.device))).float()

    def start_output(self, config: PrefixConfig) -> tuple[Tensor, Tensor]:
        """Scale and shift (hidden), float32.

        Raises:
            InputError: if a file does not fit.
        """
        if config.init == "file":
            stored = self._stored(config)
            if not isinstance(stored, OutputPrefix):
                raise _unfit(config, stored, "an output prefix")
            return stored.output()
        return torch.ones(self.hidden), torch.zeros(self.hidden)

    def encode(self, embeddings: Tensor) -> tuple[PrefixStates, ...]:
        """Keys and values of all sites when the model reads (length, embedding_dim) alone; differentiable.

        An encoder-decoder reads the same on both sides, and its cross-attention the encoded prompt.
        """
        table = self._embedding_table().weight
        row = embeddings[None].to(table.device, table.dtype)
        inputs = {"inputs_embeds": row}
        if config_of(self.backbone).is_encoder_decoder:
            inputs["decoder_inputs_embeds"] = row
        with recording_states(self.slot) as states:
            run_in_eval_mode(self.backbone, inputs)
        return tuple(states)

    @cached_property
    def _random_calls(self) -> dict[AttentionSite, RecordedCall]:
        count = min(_SAMPLE_TOKENS, max_positions(self.backbone) or _SAMPLE_TOKENS)
        return self._calls(sample_tokens(self.backbone, count))

    def _calls(self, ids: list[int]) -> dict[AttentionSite, RecordedCall]:
        """What each site does when the model reads these tokens; an encoder-decoder reads them on both sides."""
        decoder_ids = ids if config_of(self.backbone).is_encoder_decoder else None
        return dict(zip(self.sites, record_calls(self.backbone, ids, decoder_ids), strict=True))

    def _embedding_table(self) -> nn.Embedding:
        return cast("nn.Embedding", cast("Any", self.backbone).get_input_embeddings())

    def _stored(self, config: PrefixConfig) -> Prefix:
        stored = files.read(Path(config.init_file or ""))
        stored.check_frozen(self.backbone)
        return from_tensors(self, stored.prefix_tensors, stored.variant)

    @torch.no_grad()
    def _stored_states(self, config: PrefixConfig, lengths: dict[AttentionSite, int]) -> list[PrefixStates]:
        stored = self._stored(config)
        states = dict(zip(stored.sites, stored.states(), strict=True))
        for site, length in lengths.items():
            if site not in states or states[site].keys.shape[1] != length:
                raise _unfit(config, stored, f"keys and values of length {length} at {site.key}")
        return [states[site] for site in lengths]

    def _text_tokens(self, config: PrefixConfig, length: int) -> list[int]:
        if not config.init_text:
            raise InputError(
                "init='text' is given without init_text; give the text whose keys and values the prefix starts from, "
                "for example the task's instruction, or use init='random'."
            )
        tokenizer = self.tokenizer or load_tokenizer(config_of(self.backbone)._name_or_path)
        ids: list[int] = tokenizer(config.init_text)["input_ids"]
        if not ids:
            raise InputError(f"init_text {config.init_text!r} has no tokens; give a text with words.")
        self._check_positions(length, "init='text'")
        return (ids * -(-length // len(ids)))[:length]

    def _check_positions(self, length: int, what: str) -> None:
        """The model itself reads what becomes the prefix."""
        if length > (limit := max_positions(self.backbone) or length):
            raise InputError(
                f"prefix length {length} is given with {what}, but {type(self.backbone).__name__} has positions for "
                f"{limit} tokens of text; use length <= {limit}, or a FlatPrefixConfig with init='random'."
            )


def _unfit(config: PrefixConfig, stored: Prefix, wanted: str) -> InputError:
    sites = f" at {', '.join(site.key for site in stored.sites)}" if stored.sites else ""
    return InputError(
        f"init_file {config.init_file!r} holds a {stored.variant} prefix of length {stored.length}{sites}; this one "
        f"needs {wanted}. Use the same length, layers and sites."
    )


def _first(tensor: Tensor, length: int) -> Tensor:
    return tensor[:, :length]


def _random_like(tensor: Tensor, length: int) -> Tensor:
    """Normal, with the mean and deviation over the tokens of each head and dimension: (kv_heads, length, dim)."""
    mean, deviation = tensor.mean(1, keepdim=True), tensor.std(1, keepdim=True)
    return mean + deviation * torch.randn(tensor.shape[0], length, tensor.shape[2]).to(tensor.device)
