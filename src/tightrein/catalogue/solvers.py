"""Methods whose update is more than a gradient step."""

from __future__ import annotations

from ..method import Method

METHODS: tuple[Method, ...] = ()
