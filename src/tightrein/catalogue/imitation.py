"""Methods that learn from demonstrations."""

from __future__ import annotations

from ..method import Method

METHODS: tuple[Method, ...] = ()
