"""What each word after `python -m lightning_prefix` does, one file a command."""
