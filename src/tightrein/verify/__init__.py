"""Verification: for every method what must hold of it, checked, and what its runs showed, recorded."""
