"""Score surrogates: the gradient of the log-probability, with a weight that is held constant."""

from __future__ import annotations

from ..method import Method

METHODS: tuple[Method, ...] = ()
