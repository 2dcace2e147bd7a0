"""Proof that the methods are what they claim to be: `tightrein verify`."""
