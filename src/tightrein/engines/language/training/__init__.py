"""Gradient steps, the loop around them, and what a run needs to go on."""
