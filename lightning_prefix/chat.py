"""Conversations with a trained `Dialogue` prefix, which keep what was computed in earlier turns."""

import inspect
from itertools import takewhile
from typing import Any

import torch

from lightning_prefix.data import DialogueDataModule
from lightning_prefix.data.messages import Message
from lightning_prefix.errors import InputError
from lightning_prefix.predictor import Predictor
from lightning_prefix.tasks import TextGeneration


class Chat:
    """One conversation.

    Args:
        predictor: of a prefix that was trained by `Dialogue` on a `DialogueDataModule`.

    Raises:
        InputError: if it is another one.

    Example:
        >>> import lightning_prefix as lp
        >>> chat = lp.Chat(lp.Predictor.from_pretrained("lightning_logs/version_0/prefix"))  # doctest: +SKIP
        >>> chat.reply("Hello, how is it going?")  # doctest: +SKIP
        'Good, how are you?'
    """

    def __init__(self, predictor: Predictor) -> None:
        if not isinstance(predictor.task, TextGeneration) or not isinstance(predictor.data, DialogueDataModule):
            raise InputError(
                f"the prefix was trained as {type(predictor.task).__name__} with {type(predictor.data).__name__}; to "
                "chat it must be a Dialogue with a DialogueDataModule. Ask others with a Predictor."
            )
        self.task, self.data = predictor.task, predictor.data
        self.messages: list[Message] = []
        self.computed_tokens = 0
        """Tokens of the last prompt that earlier turns had left in the cache."""
        self._cache: Any = None
        self._seen: list[int] = []

    def reset(self) -> None:
        """Begin anew."""
        self.messages, self._cache = [], None

    @torch.inference_mode()
    def reply(self, text: str, streamer: Any = None, **generation: Any) -> str:
        """The reply to the next message.

        Args:
            text: what the user says, not blank.
            streamer: gets the tokens as they are made, as in transformers' `generate`.
            generation: options of `generate` that differ from those of the task.
        """
        if not text.strip():
            raise InputError("the message is blank; say something.")
        messages = [*self.messages, {"role": "user", "content": text}]
        (row,) = self.data.encode_inputs([messages])
        inputs = torch.tensor([row["input_ids"]], device=self.task.device)
        options: dict[str, Any] = {"attention_mask": torch.ones_like(inputs), "streamer": streamer, **generation}
        if self.task.is_encoder_decoder:
            written = self.task.generate(inputs, **options).sequences[0]
        else:
            written = self._continue(inputs, options)
        reply: str = self.task.tokenizer.decode(written, skip_special_tokens=True).strip()
        self.messages = [*messages, {"role": "assistant", "content": reply or "..."}]
        return reply

    def _continue(self, inputs: torch.Tensor, options: dict[str, Any]) -> torch.Tensor:
        """The new tokens; the cache holds what is common to this prompt and the last conversation."""
        prompt = inputs[0].tolist()
        pairs = zip(prompt[:-1], self._seen, strict=False)  # the last token is always read
        common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        given = {**self.task.generation, **options}
        is_kept = given.get("num_beams", 1) == given.get("num_return_sequences", 1) == 1
        is_kept = is_kept and not given.get("cache_implementation")  # transformers takes no such cache back
        cache, self._cache = self._cache if is_kept else None, None  # none remains if this is interrupted
        if cache is not None and cache.get_seq_length() > common:
            try:
                cache.crop(common - cache.get_seq_length())
            except (AttributeError, RuntimeError):  # sliding windows and linear attention forget
                cache = None
        self.computed_tokens = 0 if cache is None else cache.get_seq_length()
        name = self._cache_name()
        output = self.task.generate(inputs, **options, **({name: cache} if self.computed_tokens else {}))
        self._cache, self._seen = output.get(name) if is_kept else None, output.sequences[0].tolist()
        new: torch.Tensor = output.sequences[0, len(prompt) :]
        return new

    def _cache_name(self) -> str:
        forward = self.task.model.backbone.forward  # type: ignore[union-attr]
        return "cache" if "cache" in inspect.signature(forward).parameters else "past_key_values"
