"""The command `chat`: talk to a trained Dialogue prefix in the terminal."""

from typing import Any

from jsonargparse import ArgumentParser
from lightning.pytorch import seed_everything

from lightning_prefix.chat import Chat
from lightning_prefix.predictor import Predictor

_HELP = "Type a message; /reset begins a new conversation, /quit ends."


def chat(
    prefix: str,
    backbone: str | None = None,
    device: str = "cpu",
    system: str | None = None,
    generation: dict[str, Any] | None = None,
    seed: int = 0,
) -> None:
    """Talk to a trained Dialogue prefix in the terminal; replies appear word by word.

    Args:
        prefix: folder that `fit` or `save_pretrained` wrote, or its id on the Hugging Face hub.
        backbone: hub id or folder of the backbone, where it lies elsewhere now.
        device: where the model runs: cpu, cuda, cuda:1, mps.
        system: system message; the one of the training when null.
        generation: how replies are written, in the words of transformers' GenerationConfig, such as
            {do_sample: true, temperature: 0.8}; as in the training when null.
        seed: of sampling.
    """
    from transformers import TextStreamer

    overrides: dict[str, Any] = {} if backbone is None else {"backbone": backbone}
    conversation = Chat(Predictor.from_pretrained(prefix, device=device, **overrides))
    conversation.data.system = system or conversation.data.system
    conversation.task.add_generation(generation or {})
    seed_everything(seed, verbose=False)
    beams = conversation.task.generation.get("num_beams", 1) > 1
    print(_HELP)
    try:
        while (text := input("you> ").strip()) != "/quit":
            if text == "/reset":
                conversation.reset()
            elif text.startswith("/"):
                print(_HELP)
            elif text:
                print("bot> ", end="", flush=True)
                streamer = TextStreamer(conversation.task.tokenizer, skip_prompt=True, skip_special_tokens=True)
                reply = conversation.reply(text, None if beams else streamer)
                if beams:
                    print(reply)
    except (EOFError, KeyboardInterrupt):
        print()


def run(args: list[str]) -> None:
    """Run the command with these words."""
    parser = ArgumentParser(prog="lightning_prefix chat", description=chat.__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_function_arguments(chat)
    chat(**parser.parse_args(args).as_dict())
