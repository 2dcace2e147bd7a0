"""Methods whose contribution is credit or selection."""

from __future__ import annotations

from ..method import Method

METHODS: tuple[Method, ...] = ()
