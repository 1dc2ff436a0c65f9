"""`python -m lightning_prefix`."""

from lightning_prefix.cli import main

if __name__ == "__main__":
    main()
