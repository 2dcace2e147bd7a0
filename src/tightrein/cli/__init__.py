"""The command `tightrein`."""

from tightrein.cli.main import main

__all__ = ["main"]
