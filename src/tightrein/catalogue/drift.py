"""Surrogates with a drift or a divergence of their own."""

from __future__ import annotations

from ..method import Method

METHODS: tuple[Method, ...] = ()
