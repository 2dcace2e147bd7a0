"""Clipped ratios: other levels, other bounds, other gradients beyond them, other aggregations."""

from __future__ import annotations

from ..method import Method

METHODS: tuple[Method, ...] = ()
