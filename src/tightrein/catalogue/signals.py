"""Methods that read more than log-probabilities: a masked input, the inside of the model."""

from __future__ import annotations

from ..method import Method

METHODS: tuple[Method, ...] = ()
