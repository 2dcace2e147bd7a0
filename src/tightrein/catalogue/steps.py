"""Methods whose contribution is the step."""

from __future__ import annotations

from ..method import Method

METHODS: tuple[Method, ...] = ()
