"""Methods that learn from pairs and from relative rewards."""

from __future__ import annotations

from ..method import Method

METHODS: tuple[Method, ...] = ()
