"""Properties of the library that belong to no single method."""

from __future__ import annotations

import numpy as np

import tightrein as tr
from tightrein.arrays import convert
from tightrein.verify import batches


def test_methods_are_static_and_comparable() -> None:
    assert hash(tr.method("spo")) == hash(tr.method("spo"))
    assert tr.method("spo") == tr.method("spo", epsilon=0.2) != tr.method("spo", epsilon=0.1)


def test_stats_cost_nothing_until_read() -> None:
    method = tr.method("ppo_clip")
    loss = method.loss(batches.batch(0, method))
    assert "_values" not in vars(loss.stats)
    assert 0 <= float(loss.stats["clip_fraction"]) <= 1
    assert {"kl_k1", "kl_k3", "ratio_max", "ratio_deviation", "entropy", "ess", "value_loss"} <= loss.stats.keys()


def test_no_gradient_flows_into_the_old_policy() -> None:
    method = tr.method("gspo")
    d = batches.convert_decisions(batches.batch(0, method), "PyTorch")
    logp = d.logp_old.clone().requires_grad_()
    method.loss(d.replace(logp=logp, logp_old=logp)).value.backward()  # somebody forgot to detach
    expected = batches.gradient(method, d.replace(logp=d.logp_old))
    np.testing.assert_array_equal(convert(logp.grad, "NumPy"), expected)
    assert expected.any()
