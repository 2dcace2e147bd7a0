"""The exact properties of the control methods, as their papers imply them."""

from __future__ import annotations

import batches
import numpy as np
import pytest
from batches import slope

import tightrein as tr
from tightrein.parts import GAE, SPO, AdaptiveKL, Clip, DriftDPO, Importance, PolicyGradient, ValueLoss, Widths


def value(surrogate: tr.parts.Surrogate, r: float, advantage: float) -> float:
    return float(surrogate(batches.one_decision(r, advantage))[0, 0])


@pytest.mark.parametrize(("a", "r", "loss"), [(1, 1.3, -1.2), (1, 0.7, -0.7), (-1, 1.3, 1.3), (-1, 0.7, 0.8)])
def test_ppo_numbers(a: float, r: float, loss: float) -> None:
    assert value(Clip(Widths(0.2, 0.2)), r, a) == pytest.approx(loss, abs=1e-12)


@pytest.mark.parametrize("a", [-2.0, 0.5, 3.0])
@pytest.mark.parametrize("r", [0.3, 0.79, 0.81, 1.0, 1.19, 1.21, 4.0])
def test_ppo_gradient_is_minus_a_or_exactly_zero(a: float, r: float) -> None:
    inside = r < 1.2 if a > 0 else r > 0.8
    assert slope(Clip(Widths(0.2, 0.2)), r, a) == pytest.approx(-a if inside else 0, abs=1e-12)
    if not inside:
        assert slope(Clip(Widths(0.2, 0.2)), r, a) == 0


def test_ppo_is_a_lower_bound() -> None:
    r = np.exp(np.random.default_rng(0).standard_normal((50, 4)))
    a = np.random.default_rng(1).standard_normal((50, 4))
    d = batches.convert({"logp": np.log(r), "logp_old": np.zeros_like(r), "advantage": a}, "numpy")
    assert np.all(Clip(Widths(0.2, 0.2))(d) >= -r * a - 1e-12)


SPO_NUMBERS = [(1, 1.1, -1.075), (1, 1.3, -1.075), (-1, 0.8, 0.9), (-1, 1.3, 1.525), (1, 0.7, -0.475)]


@pytest.mark.parametrize(("a", "r", "loss"), SPO_NUMBERS)
def test_spo_numbers(a: float, r: float, loss: float) -> None:
    assert value(SPO(0.2), r, a) == pytest.approx(loss, abs=1e-12)


def test_spo_slopes() -> None:
    assert slope(SPO(0.2), 1.0, 1.0) == pytest.approx(-1)
    assert value(SPO(0.2), 1.0, 1.0) == pytest.approx(-1)
    assert slope(SPO(0.2), 1.2, 1.0) == pytest.approx(0, abs=1e-12)
    assert slope(SPO(0.2), 0.8, -1.0) == pytest.approx(0, abs=1e-12)
    assert slope(SPO(0.2), 1.3, 1.0) == pytest.approx(0.5)
    assert slope(SPO(0.2), 0.7, -1.0) == pytest.approx(-0.5)
    assert slope(Clip(Widths(0.2, 0.2)), 1.3, 1.0) == 0  # where SPO turns back, PPO lets go


def test_spo_limits() -> None:
    r, a = np.array([[0.4, 1.7]]), np.array([[2.0, -1.0]])
    np.testing.assert_allclose(SPO(1e12).formula(r, a), Importance().formula(r, a), rtol=1e-10)
    np.testing.assert_allclose(SPO(0.2).formula(r, 3 * a), 3 * SPO(0.2).formula(r, a))


def test_dpo_drift_numbers() -> None:
    drift = DriftDPO(alpha=2.0, beta=0.6)
    assert float(drift.drift(np.array(1.5), np.array(1.0))) == pytest.approx(0.0101627, abs=1e-7)
    assert value(drift, 1.5, 1) == pytest.approx(-1.4898373, abs=1e-7)
    assert float(drift.drift(np.array(0.5), np.array(-1.0))) == pytest.approx(0.2014566, abs=1e-7)
    assert value(drift, 0.5, -1) == pytest.approx(0.7014566, abs=1e-7)
    assert value(drift, 0.5, 1) == pytest.approx(-0.5)


def test_dpo_drift_axioms_and_slopes() -> None:
    drift = DriftDPO()
    r = np.exp(np.random.default_rng(0).standard_normal((200, 1)))
    a = np.random.default_rng(1).standard_normal((200, 1))
    d = drift.drift(r, a)
    assert np.all(d >= 0)
    assert np.all(d[(r - 1) * a <= 0] == 0)
    for advantage in (1.0, -1.0):
        assert slope(drift, 1.0, advantage) == pytest.approx(-advantage, abs=1e-12)
    assert slope(drift, 1.5, 1.0) == pytest.approx(-0.940015, abs=1e-6)
    assert batches.coefficient(drift, 0.9, -1.0) == pytest.approx(0.86979, abs=1e-5)
    assert batches.coefficient(drift, 0.5, -1.0) == pytest.approx(-0.17155, abs=1e-5)


def test_a2c_and_ppo_have_the_same_gradient_at_the_old_policy_but_not_the_same_value() -> None:
    ppo = tr.method("a2c_as_ppo")
    a2c = ppo.override({"objective.surrogate": PolicyGradient()})
    d = batches.batch(3, "torch", ppo)
    d = d.replace(logp=d.logp_old.clone())
    np.testing.assert_array_equal(batches.torch_gradient(ppo, d), batches.torch_gradient(a2c, d))
    assert float(ppo.loss(d).value) != pytest.approx(float(a2c.loss(d).value))


@pytest.mark.parametrize("epsilon", [1e-3, 0.2, 5.0])
def test_a2c_gradient_does_not_depend_on_the_clip_range(epsilon: float) -> None:
    for advantage in (1.0, -1.0):
        assert slope(Clip(Widths(epsilon, epsilon)), 1.0, advantage) == -advantage


def test_ppo_kl_has_the_policy_gradient_at_the_old_policy() -> None:
    kl = tr.method("ppo_kl")
    d = batches.batch(1, "torch", kl)
    logits = d.dist_old.logits.clone().requires_grad_()
    same = d.replace(logp=d.logp_old.clone(), dist=tr.Categorical(logits))
    kl.loss(same).value.backward()
    assert float(logits.grad.abs().max()) < 1e-15
    assert float(kl.loss(same).stats["kl_exact"]) == pytest.approx(0, abs=1e-15)


def test_ppo_kl_without_coefficient_is_the_plain_surrogate() -> None:
    off = tr.method("ppo_kl", **{"objective.trust.controller": tr.parts.Constant(coef=0.0)})
    plain = off.override({"objective.trust": tr.parts.SampledOldKL(controller=tr.parts.Constant(coef=0.0))})
    d = batches.batch(2, "numpy", off)
    per_decision = Importance()(d) * d.mask
    np.testing.assert_allclose(off.loss(d).per_decision, per_decision)
    np.testing.assert_allclose(plain.loss(d).per_decision, per_decision)


def test_ppo_kl_controller() -> None:
    control = AdaptiveKL(target=0.01)
    for factor, expected in [(1.6, 2.0), (0.6, 0.5), (1.0, 1.0), (1.4, 1.0), (0.7, 1.0)]:
        assert float(control.next(np.array(1.0), np.array(0.01 * factor), 0.0)) == expected


def test_ppo_kl_state_moves_by_powers_of_two() -> None:
    method = tr.method("ppo_kl")
    state = method.init()
    assert state == {"objective.trust": 1.0}
    assert method.stateful
    assert not tr.method("spo").stateful
    for seed in range(4):
        state = method.update(state, batches.batch(seed, "numpy", method))
        assert float(np.log2(state["objective.trust"])).is_integer()
    assert float(state["objective.trust"]) == 16  # random policies are far apart: it doubles every time
    d = batches.batch(0, "numpy", method)
    extra = method.loss(d, state).per_decision - method.loss(d, {"objective.trust": 0.0}).per_decision
    np.testing.assert_allclose(extra, 16 * d.dist_old.kl(d.dist) * d.mask, atol=1e-12)


def test_exact_kl_against_direct_sums() -> None:
    p, q = tr.Categorical(np.array([0.3, -1.0, 2.0])), tr.Categorical(np.array([0.0, 0.5, 1.0]))
    softmax = [np.exp(x.logits) / np.exp(x.logits).sum() for x in (p, q)]
    assert float(p.kl(q)) == pytest.approx(float(np.sum(softmax[0] * np.log(softmax[0] / softmax[1]))))
    g = tr.DiagonalGaussian(np.array([0.5]), np.array([0.1]))
    h = tr.DiagonalGaussian(np.array([-0.5]), np.array([0.4]))
    x = np.linspace(-15, 15, 200001)[:, None]
    direct = np.sum(np.exp(g.log_prob(x)) * (g.log_prob(x) - h.log_prob(x))) * (x[1, 0] - x[0, 0])
    assert float(g.kl(h)) == pytest.approx(direct, rel=1e-8)
    assert float(g.entropy()) == pytest.approx(-np.sum(np.exp(g.log_prob(x)) * g.log_prob(x)) * 1.5e-4, rel=1e-6)


VALUE = ValueLoss(clip_range=0.2)


@pytest.mark.parametrize(
    ("old", "new", "target", "loss", "gradient"),
    [(0, 1, 2, 1.62, 0), (0, 0.1, 2, 0.5 * 1.9**2, -1.9), (0, -1, 2, 4.5, -3), (0, 1, -2, 4.5, 3)],
)
def test_value_clip(old: float, new: float, target: float, loss: float, gradient: float) -> None:
    import torch

    value = torch.tensor([[float(new)]], dtype=torch.float64, requires_grad=True)
    one = torch.ones((1, 1), dtype=torch.float64)
    d = tr.Decisions(logp=one, value=value, value_old=one * old, returns=one * target)
    out = VALUE(d).sum()
    out.backward()
    assert float(out.detach()) == pytest.approx(loss)
    assert float(value.grad) == pytest.approx(gradient, abs=1e-12)
    plain = 0.5 * (new - target) ** 2
    assert float(out.detach()) >= plain - 1e-12
    if abs(new - old) <= 0.2:
        assert float(out.detach()) == pytest.approx(plain)


def gae(reward: list[float], values: list[float], **options: float) -> np.ndarray:
    d = tr.Decisions(reward=np.array([reward]), value_old=np.array([values[: len(reward)]]))
    if len(values) > len(reward):
        d = d.replace(bootstrap=np.array([values[-1]]))
    return GAE(**options)(d).advantage[0]


def test_gae_numbers() -> None:
    found = gae([1, 1, 1], [0.5, 0.5, 0.5, 0.5], gamma=0.9, lam=0.8)
    np.testing.assert_allclose(found, [2.12648, 1.634, 0.95])
    for lam, expected in [(0.95, [0.4705, 0.39, 0.2]), (1.0, [0.5, 0.4, 0.2]), (0.0, [0.1, 0.2, 0.2])]:
        np.testing.assert_allclose(gae([0, 0, 1], [0.5, 0.6, 0.8], gamma=1.0, lam=lam), expected, atol=1e-12)
    d = tr.Decisions(reward=np.array([[0.0, 0, 1]]), value_old=np.array([[0.5, 0.6, 0.8]]))
    np.testing.assert_allclose(GAE(gamma=1.0, lam=1.0)(d).returns, [[1, 1, 1]])


def brute_force_gae(d: tr.Decisions, gamma: float, lam: float) -> np.ndarray:
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


@pytest.mark.parametrize("library", ["numpy", "torch", "jax"])
def test_gae_matches_a_double_sum_with_random_ends(library: str) -> None:
    rng = np.random.default_rng(0)
    made = {name: rng.standard_normal((6, 20)) for name in ("reward", "value_old", "value_next")}
    made["terminated"] = (rng.random((6, 20)) < 0.1).astype(float)
    made["truncated"] = (rng.random((6, 20)) < 0.1).astype(float)
    expected = brute_force_gae(tr.Decisions(**made), 0.97, 0.9)
    found = GAE(gamma=0.97, lam=0.9)(batches.convert(made, library)).advantage
    np.testing.assert_allclose(np.asarray(found), expected, atol=1e-10)


def test_gae_steps_over_masked_positions() -> None:
    reward, value = np.array([[1.0, 2.0, 3.0]]), np.array([[0.3, -0.2, 0.5]])
    plain = GAE(gamma=0.9, lam=0.7)(tr.Decisions(reward=reward, value_old=value, bootstrap=np.array([0.4])))
    at = [0, 3, 5]
    wide = {n: np.full((1, 7), np.nan) for n in ("reward", "value_old")}
    wide["mask"] = np.zeros((1, 7))
    for name, a in (("reward", reward), ("value_old", value), ("mask", np.ones((1, 3)))):
        wide[name][0, at] = a
    spread = GAE(gamma=0.9, lam=0.7)(tr.Decisions(**wide, bootstrap=np.array([0.4])))
    np.testing.assert_allclose(spread.advantage[0, at], plain.advantage[0])
    assert np.all(spread.advantage[0, [1, 2, 4, 6]] == 0)


def test_gae_is_unchanged_by_potential_shaping() -> None:
    rng = np.random.default_rng(0)
    reward, value, phi = rng.random((1, 5)), rng.random((1, 6)), rng.random((1, 6))
    shaped = reward + 0.9 * phi[:, 1:] - phi[:, :-1]
    old = GAE(gamma=0.9)(tr.Decisions(reward=reward, value_old=value[:, :5], bootstrap=value[:, 5]))
    v = value - phi
    new = GAE(gamma=0.9)(tr.Decisions(reward=shaped, value_old=v[:, :5], bootstrap=v[:, 5]))
    np.testing.assert_allclose(old.advantage, new.advantage)
