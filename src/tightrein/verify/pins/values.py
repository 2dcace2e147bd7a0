"""The exact properties of value losses, of advantages from values, and of exact divergences."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.testing import assert_allclose

from ...arrays import convert, value_and_gradient
from ...credit import GAE
from ...decisions import Decisions
from ...distributions import Categorical, DiagonalGaussian
from ...objective.value import ValueLoss
from ..batches import autodiff
from ..pin import pin

CONTROL = ("ppo_clip", "ppo_kl", "a2c_as_ppo", "spo", "dpo_drift")


@pin("spo", "dpo_drift", "ppo_clip")
def value_clip() -> None:
    """The clipped value loss is at least the plain one, equal within the range, and flat where it gains beyond it."""
    loss = ValueLoss(clip_range=0.2)
    for old, new, target, expected, slope in [
        (0, 1, 2, 1.62, 0),
        (0, 0.1, 2, 0.5 * 1.9**2, -1.9),
        (0, -1, 2, 4.5, -3),
        (0, 1, -2, 4.5, 3),
    ]:
        one = convert(np.ones((1, 1)), autodiff())
        d = Decisions(logp=one, value=one * new, value_old=one * old, returns=one * target)

        def total(leaf: dict[str, Any], d: Decisions = d) -> Any:
            return loss(d.replace(**leaf)).sum()

        found, moved = value_and_gradient(total, {"value": d.value})
        assert_allclose(float(found), expected)
        assert_allclose(float(moved["value"][0, 0]), slope, atol=1e-12)
        plain = 0.5 * (new - target) ** 2
        assert float(found) >= plain - 1e-12
        if abs(new - old) <= 0.2:
            assert_allclose(float(found), plain)


@pin("ppo_kl")
def exact_kl_against_direct_sums() -> None:
    """KL and entropy of both distributions are those of direct sums and integrals."""
    p, q = Categorical(np.array([0.3, -1.0, 2.0])), Categorical(np.array([0.0, 0.5, 1.0]))
    softmax = [np.exp(x.logits) / np.exp(x.logits).sum() for x in (p, q)]
    assert_allclose(p.kl(q), np.sum(softmax[0] * np.log(softmax[0] / softmax[1])))
    g = DiagonalGaussian(np.array([0.5]), np.array([0.1]))
    h = DiagonalGaussian(np.array([-0.5]), np.array([0.4]))
    x = np.linspace(-15, 15, 200001)[:, None]
    density = np.exp(g.log_prob(x))
    direct = np.sum(density * (g.log_prob(x) - h.log_prob(x))) * (x[1, 0] - x[0, 0])
    assert_allclose(g.kl(h), direct, rtol=1e-8)
    assert_allclose(g.entropy(), -np.sum(density * g.log_prob(x)) * 1.5e-4, rtol=1e-6)


def _gae(reward: list[float], values: list[float], **options: Any) -> Any:
    d = Decisions(reward=np.array([reward], float), value_old=np.array([values[: len(reward)]]))
    if len(values) > len(reward):
        d = d.replace(bootstrap=np.array([values[-1]]))
    return GAE(**options)(d).advantage[0]


@pin(*CONTROL)
def gae_numbers() -> None:
    """Advantages of three steps, with and without a bootstrap, for several lambdas."""
    assert_allclose(_gae([1, 1, 1], [0.5, 0.5, 0.5, 0.5], gamma=0.9, lam=0.8), [2.12648, 1.634, 0.95])
    for lam, expected in [(0.95, [0.4705, 0.39, 0.2]), (1.0, [0.5, 0.4, 0.2]), (0.0, [0.1, 0.2, 0.2])]:
        assert_allclose(_gae([0, 0, 1], [0.5, 0.6, 0.8], gamma=1.0, lam=lam), expected, atol=1e-12)
    d = Decisions(reward=np.array([[0.0, 0, 1]]), value_old=np.array([[0.5, 0.6, 0.8]]))
    assert_allclose(GAE(gamma=1.0, lam=1.0)(d).returns, [[1, 1, 1]])


def _double_sum(d: Decisions, gamma: float, lam: float) -> Any:
    out = np.zeros(d.shape)
    rows, width = d.shape
    for b in range(rows):
        for t in range(width):
            weight = 1.0
            for k in range(t, width):
                follows = d.value_next[b, k] * (1 - d.terminated[b, k])
                out[b, t] += weight * (d.reward[b, k] + gamma * follows - d.value_old[b, k])
                if d.terminated[b, k] or d.truncated[b, k]:
                    break
                weight *= gamma * lam
    return out


@pin(*CONTROL)
def gae_matches_a_double_sum_with_random_ends() -> None:
    """Advantages are those of the definition's double sum, with ends and cuts in the middle of rows."""
    rng = np.random.default_rng(0)
    made: dict[str, Any] = {name: rng.standard_normal((6, 20)) for name in ("reward", "value_old", "value_next")}
    made["terminated"] = (rng.random((6, 20)) < 0.1).astype(float)
    made["truncated"] = (rng.random((6, 20)) < 0.1).astype(float)
    d = Decisions(**made)
    assert_allclose(GAE(gamma=0.97, lam=0.9)(d).advantage, _double_sum(d, 0.97, 0.9), atol=1e-10)


@pin(*CONTROL)
def gae_steps_over_masked_positions() -> None:
    """Masked positions in the middle of a row change nothing, whatever they hold."""
    reward, value = np.array([[1.0, 2.0, 3.0]]), np.array([[0.3, -0.2, 0.5]])
    plain = GAE(gamma=0.9, lam=0.7)(Decisions(reward=reward, value_old=value, bootstrap=np.array([0.4])))
    at = [0, 3, 5]
    wide: dict[str, Any] = {n: np.full((1, 7), np.nan) for n in ("reward", "value_old")}
    wide["mask"] = np.zeros((1, 7))
    for name, a in (("reward", reward), ("value_old", value), ("mask", np.ones((1, 3)))):
        wide[name][0, at] = a
    spread = GAE(gamma=0.9, lam=0.7)(Decisions(**wide, bootstrap=np.array([0.4])))
    assert_allclose(spread.advantage[0, at], plain.advantage[0])
    assert np.all(spread.advantage[0, [1, 2, 4, 6]] == 0)


@pin(*CONTROL)
def gae_is_unchanged_by_potential_shaping() -> None:
    """A potential added to the rewards, and taken off the values, leaves the advantages as they are."""
    rng = np.random.default_rng(0)
    reward, value, phi = rng.random((1, 5)), rng.random((1, 6)), rng.random((1, 6))
    shaped = reward + 0.9 * phi[:, 1:] - phi[:, :-1]
    old = GAE(gamma=0.9)(Decisions(reward=reward, value_old=value[:, :5], bootstrap=value[:, 5]))
    v = value - phi
    new = GAE(gamma=0.9)(Decisions(reward=shaped, value_old=v[:, :5], bootstrap=v[:, 5]))
    assert_allclose(old.advantage, new.advantage)
