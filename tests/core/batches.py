"""Batches for the tests of the core: one set of random numbers, as any of the three array libraries."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import torch

import tightrein as tr

LIBRARIES = {"numpy": np.asarray, "torch": torch.as_tensor, "jax": jnp.asarray}
SETTINGS: dict[str, dict[str, Any]] = {"dr_grpo": {"length": 7}}  # what has no default


def method(key: str, **overrides: Any) -> tr.Method:
    return tr.method(key, **{**SETTINGS.get(key, {}), **overrides})


def fields(seed: int, rows: int = 8, width: int = 7, spread: float = 0.5, values: bool = False) -> dict[str, Any]:
    """Random fields of Decisions in NumPy: ragged masks, two groups, ratios of about e^spread."""
    rng = np.random.default_rng(seed)
    logp_old = -rng.gamma(2.0, 0.5, (rows, width))
    lengths = rng.integers(1, width + 1, rows)
    made = {
        "logp": logp_old + spread * rng.standard_normal((rows, width)),
        "logp_old": logp_old,
        "logp_ref": logp_old + spread * rng.standard_normal((rows, width)),
        "mask": (np.arange(width) < lengths[:, None]).astype(float),
        "reward": rng.random(rows),
        "group": np.arange(rows) % 2 + 5,
        "value_old": rng.standard_normal((rows, width)),
        "entropy": rng.random((rows, width)),
        "dist": tr.Categorical(rng.standard_normal((rows, width, 3))),
        "dist_old": tr.Categorical(rng.standard_normal((rows, width, 3))),
    }
    if values:
        made["value"] = rng.standard_normal((rows, width))
    return made


def convert(made: dict[str, Any], to: str) -> tr.Decisions:
    """The fields as Decisions of one library."""
    make = LIBRARIES[to]

    def one(x: Any) -> Any:
        return type(x)(**{n: make(a) for n, a in vars(x).items()}) if hasattr(x, "log_prob") else make(x)

    return tr.Decisions(**{name: one(x) for name, x in made.items()})


def batch(seed: int, to: str, method: tr.Method, **options: Any) -> tr.Decisions:
    """Prepared Decisions of one library, with a value head where the method estimates values."""
    return method.prepare(convert(fields(seed, values=method.home == "control", **options), to))


def one_decision(r: float, advantage: float, to: str = "numpy") -> tr.Decisions:
    """A single decision with the given ratio and advantage."""
    made = {"logp": np.log([[r]]) - 1.0, "logp_old": np.array([[-1.0]]), "advantage": np.array([[advantage]])}
    return convert(made, to)


def torch_gradient(method: tr.Method, d: tr.Decisions) -> Any:
    """Gradient of the loss with respect to logp, in PyTorch."""
    logp = d.logp.clone().requires_grad_()
    method.loss(d.replace(logp=logp)).value.backward()
    return logp.grad


def coefficient(surrogate: tr.parts.Surrogate, r: float, advantage: float) -> float:
    """d loss / d logp of one decision."""
    d = one_decision(r, advantage, "torch")
    logp = d.logp.clone().requires_grad_()
    surrogate(d.replace(logp=logp)).sum().backward()
    return float(logp.grad)


def slope(surrogate: tr.parts.Surrogate, r: float, advantage: float) -> float:
    """d loss / d r of one decision."""
    return coefficient(surrogate, r, advantage) / r
