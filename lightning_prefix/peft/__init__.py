"""Prefixes of Hugging Face PEFT in our folders, and ours in PEFT's; PEFT itself is not needed."""

from lightning_prefix.peft.load import from_peft
from lightning_prefix.peft.save import to_peft

__all__ = ["from_peft", "to_peft"]
