"""Losses of the control literature."""

from __future__ import annotations

from ..method import Method

METHODS: tuple[Method, ...] = ()
