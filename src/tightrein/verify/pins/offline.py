"""Exact properties of the policy gradients with a penalty for what another policy sampled."""

from __future__ import annotations

import numpy as np
from numpy.testing import assert_allclose, assert_array_equal

from ...decisions import Decisions
from ..batches import batch, gradient, method
from ..pin import pin
from .score import PENALTY, plain


@pin("opmd", "dro")
def quadratic_on_the_old_policy() -> None:
    """On the old policy penalty and its gradient are 0: REINFORCE."""
    for key in ("opmd", "dro"):
        made = method(key)
        d = batch(0, made)
        d = d.replace(logp=d.logp_old)
        assert float(made.loss(d).stats["kl_trust"]) == 0
        assert_array_equal(gradient(made, d), plain(made, d))


@pin("opmd")
def opmd_stationary() -> None:
    """The pull of A ends at log r = A / (2 coef): 5 for A = 1 and coef = 0.1; the loss there is worked out."""
    for advantage, coef in [(1.0, 0.1), (-1.0, 0.1), (2.0, 0.5)]:
        opmd, rest = method("opmd", **{PENALTY: 2 * coef}), advantage / (2 * coef)
        d = Decisions(logp=np.array([[rest - 7.0]]), logp_old=np.array([[-7.0]]), advantage=np.array([[advantage]]))
        assert_allclose(gradient(opmd, d), 0, atol=1e-12)
        assert_allclose(float(opmd.loss(d).value), -advantage * (rest - 7) + coef * rest**2)


@pin("opmd")
def opmd_penalty_is_the_reverse_kl() -> None:
    """Its coefficient at 1/2, the penalty's expected gradient under the policy is that of KL(pi || pi_old)."""
    rng = np.random.default_rng(0)
    logits, old = rng.standard_normal((2, 5))
    logp, logp_old = (x - np.log(np.exp(x).sum()) for x in (logits, old))
    p, gap = np.exp(logp), logp - logp_old
    exact = p * (gap - p @ gap)
    d = Decisions(logp=logp[:, None], logp_old=logp_old[:, None], advantage=np.zeros((5, 1)))
    each = 5 * gradient(method("opmd", **{PENALTY: 1.0}), d)[:, 0]  # d penalty / d logp of each outcome
    score = np.eye(5) - p
    assert_allclose((p * each) @ score, exact, atol=1e-12)


@pin("opmd")
def opmd_whole_answers() -> None:
    """Variant answer: mean over the answers of -A sum logp + coef (sum log r)^2."""
    opmd = method("opmd").variant("answer")
    d = batch(0, opmd)
    mask, total = d.mask, np.sum(d.mask * (d.logp - d.logp_old), axis=1)
    expected = np.mean(np.sum(-d.advantage * d.logp * mask, axis=1) + 0.1 * total**2)
    assert_allclose(float(opmd.loss(d).value), expected, rtol=1e-12)


@pin("opmd_trinity")
def opmd_trinity_values() -> None:
    """-A logp / (1 + tau): half of REINFORCE at tau = 1."""
    made = method("opmd_trinity")
    d = batch(0, made)
    for tau in (0.0, 1.0, 3.0):
        assert_allclose(gradient(method("opmd_trinity", tau=tau), d) * (1 + tau), plain(made, d), rtol=1e-12)
    assert_allclose(made.loss(d).per_decision, -d.advantage * d.logp * d.mask / 2)


@pin("asymre")
def asymre_two_forms() -> None:
    """The likelihood term is a baseline lower by its coefficient; a coefficient of 0 is REINFORCE with the mean."""
    for coef in (0.0, 0.1, 0.7):
        made = method("asymre", **{PENALTY: coef})
        d = batch(0, made)
        assert_allclose(gradient(made, d), plain(made, d, coef), atol=1e-12)
        assert_allclose(made.loss(d).per_decision, -(d.advantage + coef) * d.logp * d.mask, atol=1e-12)


@pin("asymre")
def asymre_failures() -> None:
    """With rewards 0 and 1 and a share p of successes a failure weighs -(p - dv): not pushed down at dv >= p."""
    for successes, dv in [(1, 0.1), (1, 0.25), (2, 0.7)]:
        reward = np.array([1.0] * successes + [0.0] * (4 - successes))
        made = method("asymre", **{PENALTY: dv})
        d = made.prepare(Decisions(logp=np.zeros((4, 1)), reward=reward, group=np.zeros(4, int)))
        p = successes / 4
        assert_allclose(-4 * gradient(made, d)[:, 0], np.where(reward > 0, 1 - p + dv, dv - p), atol=1e-12)


@pin("asymre")
def asymre_tends_to_cloning() -> None:
    """With a large coefficient its direction is that of the likelihood of the whole batch."""
    made = method("asymre", **{PENALTY: 1e6})
    d = batch(0, made)
    found, cloning = gradient(made, d), -d.mask / d.mask.sum()
    cosine = np.sum(found * cloning) / np.linalg.norm(found) / np.linalg.norm(cloning)
    assert_allclose(cosine, 1, atol=1e-9)


@pin("dro")
def dro_is_opmd() -> None:
    """-( A logp - beta/2 (log r)^2 ): opmd at coef = beta / 2, and at rest at log r = A / beta."""
    dro = method("dro", **{PENALTY: 0.5})
    d = batch(0, dro)
    expected = -(d.logp * d.advantage - 0.25 * (d.logp - d.logp_old) ** 2)
    assert_allclose(dro.loss(d).per_decision, expected * d.mask)
    assert_array_equal(gradient(dro, d), gradient(method("opmd", **{PENALTY: 0.5}), d))


@pin("dro")
def dro_towards_the_reference() -> None:
    """Variant reference: the same penalty towards the frozen policy."""
    dro, other = method("dro"), method("dro").variant("reference")
    d = batch(0, dro)
    assert "logp_old" not in other.needs
    swapped = d.replace(logp_old=d.logp_ref)
    assert_allclose(other.loss(d).per_decision, dro.loss(swapped).per_decision, atol=1e-15)
