"""One definition: values on three array libraries, gradients on two autodiffs and by finite differences."""

from __future__ import annotations

from typing import Any

import batches
import jax
import numpy as np
import pytest
import torch

import tightrein as tr

DETACHED_WEIGHTS = {"cispo"}  # the forward value does not show the gradient: no finite differences


def torch_results(method: tr.Method, d: tr.Decisions) -> dict[str, Any]:
    leaves = {
        n: getattr(d, n).clone().requires_grad_() for n in ("logp", "value", "entropy") if getattr(d, n) is not None
    }
    logits = d.dist.logits.clone().requires_grad_()
    loss = method.loss(d.replace(**leaves, dist=tr.Categorical(logits)))
    loss.value.backward()
    grads = {n: torch.zeros_like(x) if x.grad is None else x.grad for n, x in {**leaves, "logits": logits}.items()}
    return {"loss": loss.value.detach(), "stats": dict(loss.stats), **grads}


def jax_results(method: tr.Method, d: tr.Decisions) -> dict[str, Any]:
    leaves = {n: getattr(d, n) for n in ("logp", "value", "entropy") if getattr(d, n) is not None}

    def run(leaves: dict[str, Any], logits: Any, d: tr.Decisions) -> tuple[Any, Any]:
        loss = method.loss(d.replace(**leaves, dist=tr.Categorical(logits)))
        return loss.value, dict(loss.stats)

    graded = jax.jit(jax.value_and_grad(run, argnums=(0, 1), has_aux=True))
    (value, stats), (grads, logits) = graded(leaves, d.dist.logits, d)
    return {"loss": value, "stats": stats, **grads, "logits": logits}


@pytest.mark.parametrize("spread", [0.0, 0.3, 3.0])
@pytest.mark.parametrize("key", tr.methods())
def test_three_libraries_and_two_autodiffs(key: str, spread: float) -> None:
    method = batches.method(key, **({"entropy": 0.01} if key == "ppo_clip" else {}))
    oracle = batches.batch(0, "numpy", method, spread=spread)
    loss = method.loss(oracle)
    for results, d in [
        (torch_results, batches.batch(0, "torch", method, spread=spread)),
        (jax_results, batches.batch(0, "jax", method, spread=spread)),
    ]:
        np.testing.assert_allclose(d.advantage, oracle.advantage, rtol=0, atol=1e-10)
        found = results(method, d)
        assert float(found["loss"]) == pytest.approx(float(loss.value), abs=1e-10)
        for name, value in loss.stats.items():
            assert float(found["stats"][name]) == pytest.approx(float(value), abs=1e-10), name
    by_torch = torch_results(method, batches.batch(0, "torch", method, spread=spread))
    by_jax = jax_results(method, batches.batch(0, "jax", method, spread=spread))
    for name in by_torch.keys() - {"loss", "stats"}:
        np.testing.assert_allclose(by_torch[name], by_jax[name], rtol=0, atol=1e-8, err_msg=name)


@pytest.mark.parametrize("key", [k for k in tr.methods() if k not in DETACHED_WEIGHTS])
def test_finite_differences(key: str) -> None:
    method = batches.method(key)
    oracle = batches.batch(1, "numpy", method)
    gradient = np.asarray(batches.torch_gradient(method, batches.batch(1, "torch", method)))
    step = 1e-6
    for index in np.argwhere(oracle.mask)[::3]:
        shifted = []
        for sign in (1, -1):
            logp = oracle.logp.copy()
            logp[tuple(index)] += sign * step
            shifted.append(float(method.loss(oracle.replace(logp=logp)).value))
        assert gradient[tuple(index)] == pytest.approx((shifted[0] - shifted[1]) / (2 * step), abs=1e-7)


@pytest.mark.parametrize("key", tr.methods())
def test_jit_of_the_whole_method(key: str) -> None:
    method = batches.method(key)
    made = batches.convert(batches.fields(2, values=method.home == "control"), "jax")
    whole = jax.jit(lambda d, state: method.loss(method.prepare(d), state))(made, method.init())
    plain = method.loss(method.prepare(made))
    assert isinstance(whole, tr.Loss)
    assert float(whole.value) == pytest.approx(float(plain.value), abs=1e-12)
    assert whole.stats.keys() == plain.stats.keys()


@pytest.mark.filterwarnings("ignore:Dynamo detected")
@pytest.mark.parametrize("key", tr.methods())
def test_torch_compile_without_graph_breaks(key: str) -> None:
    torch._dynamo.reset()
    method = batches.method(key)
    d = batches.batch(2, "torch", method)
    expected = batches.torch_gradient(method, d)
    compiled = torch.compile(lambda d: method.loss(d).value, fullgraph=True, backend="aot_eager")
    logp = d.logp.clone().requires_grad_()
    compiled(d.replace(logp=logp)).backward()
    np.testing.assert_allclose(logp.grad, expected, atol=1e-12)


def test_methods_are_static_and_comparable() -> None:
    assert hash(tr.method("spo")) == hash(tr.method("spo"))
    assert tr.method("spo") == tr.method("spo", epsilon=0.2) != tr.method("spo", epsilon=0.1)
