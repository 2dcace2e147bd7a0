"""Other libraries' Muon, stepping beside ours on the same gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.testing import assert_allclose

from ...arrays import convert
from ...errors import require
from ...step import MatrixScale, Muon, RMSScale, WidthScale
from ..pin import peer

RATE, DECAY, STEPS = 0.02, 0.1, 10
SHAPES = (12, 5), (5, 12), (7, 7)
SCALES: tuple[tuple[str, MatrixScale], ...] = (("original", WidthScale()), ("match_rms_adamw", RMSScale()))


def _gradients(rng: Any) -> list[Any]:
    return [rng.standard_normal(shape).astype(np.float32) for shape in SHAPES]


def _in_float32(torch: Any) -> Any:
    """PyTorch's Muon iterates in bfloat16 and nothing else; here that request gives a float32 copy."""
    from unittest.mock import patch

    return patch.object(torch.Tensor, "bfloat16", lambda x: x.clone())


@peer("PyTorch", "muon")
def torch_muon() -> None:
    """torch.optim.Muon in float32: 10 steps with weight decay, both of its scales, with and without Nesterov."""
    torch = require("torch", "language")
    for name, scale in SCALES:
        for nesterov in (True, False):
            ours = Muon(RATE, nesterov=nesterov, weight_decay=DECAY, scale=scale)
            settings = {"lr": RATE, "weight_decay": DECAY, "nesterov": nesterov, "adjust_lr_fn": name}
            mine, theirs = _start(torch), _start(torch)
            optimizers = ours.torch(mine, STEPS, [0] * len(mine))[0], torch.optim.Muon(theirs, **settings)
            rng = np.random.default_rng(1)
            for _ in range(STEPS):
                for p, q, g in zip(mine, theirs, _gradients(rng), strict=True):
                    p.grad, q.grad = convert(g, "PyTorch"), convert(g, "PyTorch")
                with _in_float32(torch):
                    for optimizer in optimizers:
                        optimizer.step()
            for p, q in zip(mine, theirs, strict=True):
                assert_allclose(p.detach(), q.detach(), rtol=1e-6, atol=1e-6)


@peer("Optax", "muon")
def optax_muon() -> None:
    """optax.contrib.muon without Nesterov (its look ahead is corrected for bias, unlike PyTorch's): 10 steps."""
    optax = require("optax.contrib", "control")
    rng = np.random.default_rng(1)
    axes = [1] * len(SHAPES)  # Optax counts the last axis as the outputs
    start = convert(_gradients(np.random.default_rng(0)), "JAX")
    forms = (
        Muon(RATE, nesterov=False, weight_decay=DECAY).optax(STEPS, axes),
        optax.muon(RATE, nesterov=False, weight_decay=DECAY),
    )
    states, points = [form.init(start) for form in forms], [start, start]
    for _ in range(STEPS):
        gradients = convert(_gradients(rng), "JAX")
        for i, form in enumerate(forms):
            moves, states[i] = form.update(gradients, states[i], points[i])
            points[i] = [p + move for p, move in zip(points[i], moves, strict=True)]
    for p, q in zip(*points, strict=True):
        assert_allclose(p, q, rtol=1e-6, atol=1e-6)


def _start(torch: Any) -> list[Any]:
    return [torch.nn.Parameter(convert(g, "PyTorch")) for g in _gradients(np.random.default_rng(0))]
