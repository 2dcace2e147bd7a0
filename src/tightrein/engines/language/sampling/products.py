"""Products with weights while tokens are drawn: a few rows at a time, and no gradient.

The weights are the model's own. On the processor, oneDNN is taken for the larger ones in float32: of 16 rows and a
matrix of 1536 x 576, on an AMD EPYC with AVX-512, it makes 90 billion operations a second, where torch's usual way
(MKL) makes 50; with the weights brought into its own order beforehand it makes 140.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

LARGE = 2**16  # numbers in a weight from which on oneDNN is worth its fixed price of about ten microseconds
PAYS_FROM = 24  # calls after which the new order has paid for itself


class Product:
    """x @ weight.T + bias of x [N, in]. weight: [out, in].

    calls: how many are to come before the weights move; for many of them the weight is copied in another order.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, calls: int) -> None:
        self._weight, self._bias = weight.detach(), None if bias is None else bias.detach()
        self._fast = _is_for_onednn(weight)
        if not self._fast:
            self._weight = self._weight.T  # a view
        elif calls >= PAYS_FROM:
            self._weight = torch.ops.mkldnn._reorder_linear_weight(self._weight.contiguous(), None)

    def __call__(self, x: Tensor) -> Tensor:
        """[N, out]."""
        if self._fast:
            made: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "none", [], "")
            return made
        return x @ self._weight if self._bias is None else torch.addmm(self._bias, x, self._weight)


@contextmanager
def as_threads_pay(model: Any) -> Iterator[None]:
    """With one thread on the processor where no weight is large: sharing such products costs more than it saves."""
    before = torch.get_num_threads()
    if all(weight.numel() < LARGE and weight.device.type == "cpu" for weight in model.parameters()):
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)


def _is_for_onednn(weight: Tensor) -> bool:
    return (
        hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and weight.numel() >= LARGE
    )
