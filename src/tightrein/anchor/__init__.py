"""Anchors: what a policy is held to, and the coefficients that say how tightly."""
