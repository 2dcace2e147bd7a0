"""Methods that look at the entropy, or at what answers share."""

from __future__ import annotations

from ..method import Method

METHODS: tuple[Method, ...] = ()
