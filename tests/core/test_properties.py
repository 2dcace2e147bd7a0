"""What must hold for any input: padding, order, extremes, empty masks, half precision."""

from __future__ import annotations

from typing import Any

import batches
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tightrein as tr

KEYS = tr.methods()
COMMON = settings(max_examples=15, deadline=None)


def loss_of(method: tr.Method, made: dict[str, Any]) -> float:
    return float(method.loss(method.prepare(tr.Decisions(**made))).value)


def padded(made: dict[str, Any], columns: int, rows: int) -> dict[str, Any]:
    """The fields with masked columns behind and masked rows below, all holding NaN."""

    def one(name: str, x: np.ndarray) -> np.ndarray:
        fill = 0 if name in ("mask", "group") else np.nan
        width = [(0, rows)] + [(0, columns)] * (x.ndim > 1) + [(0, 0)] * (x.ndim - 2)
        return np.pad(x, width, constant_values=fill)

    out = {n: one(n, x) for n, x in made.items() if isinstance(x, np.ndarray)}
    out |= {n: tr.Categorical(one(n, x.logits)) for n, x in made.items() if isinstance(x, tr.Categorical)}
    if rows:
        out["group"][-rows:] = made["group"][0]  # even in a living group
        out["reward"][-rows:] = 77.0
    return out


@pytest.mark.parametrize("key", KEYS)
@COMMON
@given(seed=st.integers(0, 999), columns=st.integers(0, 3), rows=st.integers(0, 2))
def test_padding_never_changes_a_loss(key: str, seed: int, columns: int, rows: int) -> None:
    method = batches.method(key)
    made = batches.fields(seed, values=method.home == "control")
    assert loss_of(method, padded(made, columns, rows)) == pytest.approx(loss_of(method, made), abs=1e-12)


@pytest.mark.parametrize("key", KEYS)
@COMMON
@given(seed=st.integers(0, 999))
def test_order_of_trajectories_never_changes_a_loss(key: str, seed: int) -> None:
    method = batches.method(key)
    made = batches.fields(seed, values=method.home == "control")
    order = np.random.default_rng(seed).permutation(8)
    moved = {n: x[order] if isinstance(x, np.ndarray) else tr.Categorical(x.logits[order]) for n, x in made.items()}
    assert loss_of(method, moved) == pytest.approx(loss_of(method, made), abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("key", KEYS)
def test_extremes_give_neither_nan_nor_infinite_gradients(key: str, dtype: torch.dtype) -> None:
    method = batches.method(key)
    top = 1e30 if dtype != torch.float64 else 1e200
    extremes = torch.tensor([-torch.inf, -top, -800.0, -50.0, -1e-30, 0.0, 90.0], dtype=dtype)
    rows = torch.stack([extremes.roll(k) for k in range(7)])
    logits = torch.stack([rows, rows * 0, rows * 0 + 1], dim=-1).nan_to_num(neginf=-1e30)
    d = tr.Decisions(
        logp=rows, logp_old=extremes.expand(7, 7), logp_ref=rows.T.contiguous(), mask=torch.ones(7, 7),
        reward=torch.tensor([0.0, 1, -1, 1e4, 0.5, 0.5, 1], dtype=dtype), group=torch.tensor([0, 0, 1, 1, 2, 2, 3]),
        value=torch.zeros(7, 7, dtype=dtype), value_old=torch.ones(7, 7, dtype=dtype),
        value_next=torch.ones(7, 7, dtype=dtype),
        dist_old=tr.Categorical(logits), entropy=torch.ones(7, 7, dtype=dtype),
    )  # fmt: skip
    d = method.prepare(d)
    logp = rows.clone().requires_grad_()
    moving = logits.flip(0).clone().requires_grad_()
    loss = method.loss(d.replace(logp=logp, dist=tr.Categorical(moving)))
    loss.value.backward()
    assert torch.isfinite(loss.value)
    assert torch.isfinite(logp.grad).all() if logp.grad is not None else True
    assert torch.isfinite(moving.grad).all() if moving.grad is not None else True
    for name, value in loss.stats.items():
        assert torch.isfinite(value), name


@pytest.mark.parametrize("key", KEYS)
@COMMON
@given(seed=st.integers(0, 999), spread=st.floats(0, 300))
def test_no_finite_input_gives_nan(key: str, seed: int, spread: float) -> None:
    method = batches.method(key)
    d = batches.batch(seed, "torch", method, spread=spread)
    assert torch.isfinite(batches.torch_gradient(method, d)).all()
    assert np.isfinite(float(method.loss(d).value))


@pytest.mark.parametrize("key", KEYS)
def test_an_empty_mask_gives_zero(key: str) -> None:
    method = batches.method(key)
    made = batches.fields(0, values=method.home == "control")
    made["mask"] = np.zeros_like(made["mask"])
    loss = method.loss(method.prepare(tr.Decisions(**made)))
    assert float(loss.value) == 0
    assert not loss.per_decision.any()
    assert all(np.isfinite(v) for v in loss.stats.values())


@pytest.mark.parametrize("key", KEYS)
def test_bfloat16_is_computed_in_float32(key: str) -> None:
    method = batches.method(key)
    full = batches.fields(0, values=method.home == "control")
    half = batches.convert(full, "torch")
    half = half.replace(**{n: getattr(half, n).bfloat16() for n in ("logp", "logp_old", "logp_ref")})
    loss = method.loss(method.prepare(half))
    assert loss.value.dtype in (torch.float32, torch.float64)
    assert float(loss.value) == pytest.approx(loss_of(method, full), abs=0.15)


def test_stats_cost_nothing_until_read() -> None:
    method = tr.method("ppo_clip")
    loss = method.loss(batches.batch(0, "numpy", method))
    assert "_values" not in vars(loss.stats)
    assert 0 <= float(loss.stats["clip_fraction"]) <= 1
    assert {"kl_k1", "kl_k3", "ratio_max", "ratio_deviation", "entropy", "ess", "value_loss"} <= loss.stats.keys()


@pytest.mark.parametrize("library", ["numpy", "torch", "jax"])
@pytest.mark.parametrize("kind", [bool, int])
@pytest.mark.parametrize("key", KEYS)
def test_rewards_may_be_counts_and_flags(key: str, kind: type, library: str) -> None:
    method = batches.method(key)
    made = batches.fields(0)
    whole = method.prepare(batches.convert({**made, "reward": (made["reward"] > 0.5).astype(float)}, library))
    given = method.prepare(batches.convert({**made, "reward": (made["reward"] > 0.5).astype(kind)}, library))
    np.testing.assert_allclose(given.advantage, whole.advantage, atol=1e-12)


def test_no_gradient_flows_into_the_old_policy() -> None:
    method = tr.method("gspo")
    d = batches.batch(0, "torch", method)
    logp = d.logp_old.clone().requires_grad_()
    method.loss(d.replace(logp=logp, logp_old=logp)).value.backward()  # somebody forgot to detach
    np.testing.assert_array_equal(logp.grad, batches.torch_gradient(method, d.replace(logp=d.logp_old)))
    assert logp.grad.any()
