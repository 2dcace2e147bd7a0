"""Ratio surrogates that strain the common mould."""

from __future__ import annotations

from ..method import Method

METHODS: tuple[Method, ...] = ()
