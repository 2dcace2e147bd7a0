"""Exact properties of the losses of the control literature."""

from __future__ import annotations

import numpy as np
from numpy.testing import assert_allclose

from ...arrays import Array
from ...behaviour import PROPS
from ...credit import ReturnToGo
from ...decisions import Decisions
from ...distributions import Categorical, DiagonalGaussian
from ...objective.decoupled import DecoupledKL
from ...objective.dropout import PairDropout, pairwise
from ...objective.policy import DriftDPO, LearnedDrift, TopHalf
from ...objective.policy.learned import SILENT
from ..batches import batch, coefficient, decisions, fields, gradient, loss_at, method
from ..pin import pin

SOME = LearnedDrift(tuple(map(tuple, np.random.default_rng(0).normal(0, 0.5, (16, 9)))))


@pin("lpo_drift")
def the_drift_axioms() -> None:
    """D >= 0 everywhere; D = 0 and dD/dr = 0 at r = 1, for the default network and for a random one."""
    rng = np.random.default_rng(1)
    r, advantage = np.exp(rng.normal(0, 1.0, (50, 20))), rng.normal(0, 2.0, (50, 20))
    for surrogate in (LearnedDrift(), SOME, LearnedDrift(SILENT, warm=0.2)):
        assert np.all(surrogate.drift(r, advantage) >= 0)
        near_one = np.exp(1e-6 * rng.normal(0, 1, (50, 20)))
        assert np.all(surrogate.drift(near_one, advantage) == 0)
        for a in (1.0, -2.0):
            assert_allclose(coefficient(surrogate, 1.0, a), -a, atol=1e-12)
    assert np.any(SOME.drift(r, advantage) > 0.1)


@pin("lpo_drift")
def where_meta_learning_starts() -> None:
    """A silent network with PPO's width is PPO's surrogate, below it by at most the slack of 1e-4."""
    start = LearnedDrift(SILENT, warm=0.2)
    for r, advantage in ((1.5, 1.0), (0.5, -1.0), (0.5, 1.0), (1.1, 1.0), (1.2, 3.0)):
        ppo = max(-r * advantage, -float(np.clip(r, 0.8, 1.2)) * advantage)
        assert -1e-4 - 1e-12 <= loss_at(start, r, advantage) - ppo <= 1e-12
    assert_allclose(loss_at(start, 1.5, 1.0), -1.2 - 1e-4)
    assert_allclose(coefficient(start, 1.5, 1.0), 0.0, atol=1e-12)


@pin("lpo_drift")
def a_network_by_hand() -> None:
    """One unit that reads A (1 - r): at r = 1.5, A = 2 it says -tanh(1), and the drift of its negative is 0.7614942."""
    unit = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, -1.0)
    assert_allclose(loss_at(LearnedDrift((unit,)), 1.5, 2.0), -3 + np.tanh(1) - 1e-4)
    assert_allclose(loss_at(LearnedDrift((unit,)), 0.5, 2.0), -1.0)


@pin("lpo_drift")
def near_its_closed_form() -> None:
    """The default network is dpo_drift's closed form to 1e-3 on average where training goes."""
    rng = np.random.default_rng(2)
    r, advantage = np.exp(rng.normal(0, 0.3, (200, 100))), rng.normal(0, 1.0, (200, 100))
    error = np.abs(LearnedDrift().drift(r, advantage) - DriftDPO().drift(r, np.log(r), advantage))
    assert error.mean() < 1e-3
    assert np.quantile(error, 0.99) < 0.01


@pin("dppo_dropout")
def variance_by_pairs() -> None:
    """The population variance is (n - 1)/n^2 sum X^2 - 1/n^2 sum phi, for any X; phi = X (S - X)."""
    x = np.random.default_rng(3).normal(0.3, 2.0, (17, 1))
    phi = pairwise(x, np.ones_like(x))
    assert_allclose(phi, [[sum(x[i, 0] * x[j, 0] for j in range(17) if j != i)] for i in range(17)], rtol=1e-9)
    assert_allclose(x.var(), (16 * (x**2).sum() - phi.sum()) / 17**2)


@pin("dppo_dropout")
def four_samples() -> None:
    """X = (1, 1, 1, -1): phi = (1, 1, 1, -3); without the smallest quarter the -1 is gone, and with it all variance."""
    x, mask = np.array([[1.0, 1.0, 1.0, -1.0]]), np.ones((1, 4))
    assert_allclose(pairwise(x, mask), [[1.0, 1.0, 1.0, -3.0]])
    assert_allclose(PairDropout(0.25, by_sign=False).kept(x, mask), [[1, 1, 1, 0]])
    assert_allclose(PairDropout(0.25, by_sign=False).kept(x, np.array([[1.0, 1.0, 1.0, 0.0]])), [[1, 1, 1, 0]])


@pin("dppo_dropout")
def a_share_of_each_sign() -> None:
    """A share of 0.4 of five positive and of five negative terms drops two of each, the smallest ones."""
    x, mask = np.array([[0.1, 0.21, 0.3, 0.42, 0.5, -0.1, -0.2, -0.3, -0.05, -0.15]]), np.ones((1, 10))
    phi = pairwise(x, mask)
    for part in (phi >= 0, phi < 0):
        assert part.sum() == 5
        dropped = part & (PairDropout(0.4).kept(x, mask) == 0)
        assert set(phi[dropped]) == set(np.sort(phi[part])[:2])


@pin("dppo_dropout")
def mean_over_what_is_kept() -> None:
    """The policy's loss is the mean of PPO's over the kept decisions; values are learned from all."""
    dropped = method("dppo_dropout")
    d = batch(5, dropped)
    surrogate = dropped.objective.surrogate  # type: ignore[attr-defined]
    kept = PairDropout().kept(surrogate.ratio(d) * surrogate.advantage(d), d.weights())
    assert 0 < kept.sum() < d.weights().sum()
    ppo = method("ppo_clip")
    policy = (ppo.loss(d).per_decision * kept).sum() / kept.sum()
    value = ppo.loss(d).value - ppo.override({"objective.value.coef": 0.0}).loss(d).value
    assert_allclose(dropped.loss(d).value, policy + value)


def four(shift: float = 0.0) -> Decisions:
    """Four decisions of probability 1/2 with advantages 2, 1, 0, -1, all shifted."""
    logp = np.full((4, 1), np.log(0.5))
    return Decisions(logp=logp, logp_old=logp, advantage=np.array([[2.0], [1.0], [0.0], [-1.0]]) + shift)


@pin("vmpo")
def the_better_half() -> None:
    """A = (2, 1, 0, -1), eta = 1: weights (.731059, .268941, 0, 0), dual 1.630115 at bound .01."""
    psi, better = TopHalf().weights(four(), np.asarray(1.0))
    assert_allclose(better[:, 0], [1, 1, 0, 0])
    assert_allclose(psi[:, 0], [0.7310586, 0.2689414, 0, 0], atol=1e-7)
    assert_allclose(TopHalf().dual(four(), np.asarray(1.0), 0.01), 1.630115, atol=1e-6)
    mean = TopHalf()(four().replace(logp=np.array([[-1.0], [-2.0], [-3.0], [-4.0]]))).mean()
    assert_allclose(mean, 0.7310586 + 2 * 0.2689414, atol=1e-6)


@pin("vmpo")
def hot_and_cold() -> None:
    """eta to infinity: uniform on the better half; eta to 0: all on the largest advantage."""
    for eta, expected in ((1e9, [0.5, 0.5, 0, 0]), (1e-9, [1, 0, 0, 0])):
        assert_allclose(TopHalf().weights(four(), np.asarray(eta))[0][:, 0], expected, atol=1e-8)


@pin("vmpo")
def shifted_advantages() -> None:
    """A constant added to all advantages changes no weight, and the dual by that constant."""
    eta = np.asarray(0.7)
    for shift in (-3.0, 10.0):
        assert_allclose(TopHalf().weights(four(shift), eta)[0], TopHalf().weights(four(), eta)[0], atol=1e-12)
        assert_allclose(TopHalf().dual(four(shift), eta, 0.01) - TopHalf().dual(four(), eta, 0.01), shift)


@pin("vmpo")
def slopes_of_the_duals() -> None:
    """The temperature's dual falls by bound - KL(psi, uniform), the multiplier's by bound - mean KL."""
    eta, step = 0.7, 1e-6
    sides = [TopHalf().dual(four(), np.asarray(eta + sign * step), 0.01) for sign in (1, -1)]
    slope = 0.01 - TopHalf().divergence(four(), np.asarray(eta))
    assert_allclose((sides[0] - sides[1]) / (2 * step), slope, atol=1e-8)
    moved = TopHalf().update({**TopHalf().init(0), "beta": eta}, four(), 0.0)
    assert_allclose([moved["mean"], moved["beta"]], [0.1 * slope, eta - 3e-4 * np.sign(slope)], atol=1e-8)
    d = gaussian(0.3, 0.2)
    mean, spread = (part.mean() for part in DecoupledKL().parts(d))
    state = DecoupledKL().update(DecoupledKL().init(0), d, 0.0)
    assert_allclose([state["mean"]["mean"], state["spread"]["mean"]], [0.1 * (0.01 - mean), 0.1 * (5e-5 - spread)])
    assert_allclose(DecoupledKL().penalty(d, None), 5 * DecoupledKL().parts(d)[0] + DecoupledKL().parts(d)[1])


def gaussian(shift: float, wider: float) -> Decisions:
    """Two decisions of a Gaussian policy of two dimensions, its means shifted and its log-deviations raised."""
    old = DiagonalGaussian(np.zeros((2, 1, 2)), np.full((2, 1, 2), np.log(0.5)))
    new = DiagonalGaussian(old.mean + shift, old.log_std + wider)
    zero: Array = np.zeros((2, 1))
    return Decisions(logp=zero, logp_old=zero, mask=zero + 1, dist=new, dist_old=old)


@pin("vmpo")
def a_gaussian_has_two_regions() -> None:
    """Mean part (mu - mu')^2 / 2 sigma'^2, spread part (sigma'^2/sigma^2 - 1 + 2 log sigma/sigma')/2, per dimension."""
    mean, spread = DecoupledKL().parts(gaussian(0.3, 0.2))
    assert_allclose(mean[:, 0], 2 * 0.5 * (0.3 / 0.5) ** 2)
    assert_allclose(spread[:, 0], 2 * 0.5 * (np.exp(-0.4) - 1 + 0.4))
    assert_allclose(DecoupledKL().parts(gaussian(0.3, 0.0))[1], 0, atol=1e-12)
    assert_allclose(DecoupledKL().parts(gaussian(0.0, 0.2))[0], 0, atol=1e-12)


@pin("pg_guide")
def a2c_and_ppo_begin_alike() -> None:
    """On the old policy the policy gradients of the variants a2c (without its entropy bonus) and ppo coincide."""
    d = batch(6, method("pg_guide"), spread=0.0)
    d = d.replace(logp=d.logp_old)
    ppo, a2c = (gradient(method("pg_guide", variant=v, **{"objective.entropy": 0.0}), d) for v in ("ppo", "a2c"))
    assert_allclose(a2c, ppo, atol=1e-12)
    assert np.any(ppo)


@pin("pg_guide")
def reinforce_is_a2c_without_values() -> None:
    """REINFORCE is A2C with V = 0, lambda = 1, no standardising and no value loss; truncation ends a return."""
    reinforce = method("pg_guide", variant="reinforce")
    a2c = method(
        "pg_guide",
        variant="a2c",
        **{"objective.entropy": 0.0, "objective.value.coef": 0.0, "objective.standardise": False, "credit.lam": 1.0},
    )
    made = fields(7, reinforce) | {"value_old": np.zeros((8, 7)), "value_next": np.zeros((8, 7))}
    one, other = (m.prepare(decisions(made)) for m in (reinforce, a2c))
    assert_allclose(one.advantage, other.advantage, atol=1e-12)
    assert_allclose(reinforce.loss(one).value, a2c.loss(other).value)
    d = Decisions(logp_old=np.zeros((1, 3)), reward=np.array([[1.0, 2.0, 4.0]]), truncated=np.array([[0.0, 1.0, 0.0]]))
    assert_allclose(ReturnToGo(gamma=0.5)(d).advantage, [[2.0, 2.0, 4.0]])


@pin("pg_guide")
def squashing_cancels() -> None:
    """The ratio of two densities of tanh(u) is that of the densities of u: their log(1 - tanh(u)^2) is the same."""
    rng = np.random.default_rng(4)
    u = rng.normal(0, 0.8, (20, 3))
    new, old = (DiagonalGaussian(rng.normal(0, 0.5, (20, 3)), rng.normal(-0.3, 0.2, (20, 3))) for _ in range(2))

    def squashed(policy: DiagonalGaussian) -> Array:
        """Log-density of a = tanh(u), from the distribution function of its dimensions by differences."""
        a, step = np.tanh(u), 1e-5
        z = [(np.arctanh(a + side) - policy.mean) / np.exp(policy.log_std) for side in (-step, step)]
        inside = np.exp(-0.5 * ((np.arctanh(a) - policy.mean) / np.exp(policy.log_std)) ** 2) / np.sqrt(2 * np.pi)
        return np.log(inside * (z[1] - z[0]) / (2 * step)).sum(-1)

    assert_allclose(squashed(new) - squashed(old), new.log_prob(u) - old.log_prob(u), atol=1e-6)


@pin("pg_guide")
def nothing_to_learn() -> None:
    """With A = 0 everywhere no variant has a policy gradient but V-MPO, which imitates what it kept, each alike."""
    d = batch(8, method("pg_guide"))
    d = d.replace(advantage=np.zeros_like(d.advantage))
    for variant in ("reinforce", "a2c", "trpo", "ppo"):
        assert not np.any(gradient(method("pg_guide", variant=variant), d))
    found = gradient(method("pg_guide", variant="vmpo"), d)
    assert_allclose(found, -d.weights() / d.weights().sum())


def behaving(rho: Array) -> Decisions:
    """Decisions [B, 1] of which the behaviour policy takes each with rho times the policy's probability."""
    old = np.log(np.full_like(rho, 0.4))
    dist = Categorical(np.log(np.stack([0.4 * rho, 1 - 0.4 * rho], axis=-1)))
    still = Categorical(np.log(np.stack([np.full_like(rho, 0.4), np.full_like(rho, 0.6)], axis=-1)))
    return Decisions(logp=old + np.log(rho), logp_old=old, dist=dist, dist_old=still)


PLAIN_PROPS = PROPS().override({"objective.trust": None})


@pin("props")
def down_until_the_bound() -> None:
    """rho = 1.5 costs 1.5 and rho = .5 costs .7 (eps .3); d loss / d rho is 1 above 1 - eps, else 0."""
    for rho, cost, slope in ((1.5, 1.5, 1.0), (0.5, 0.7, 0.0), (0.8, 0.8, 1.0), (0.69, 0.7, 0.0)):
        assert_allclose(float(PLAIN_PROPS.loss(behaving(np.array([[rho]])))), cost)
        assert_allclose(coefficient(PLAIN_PROPS.objective.surrogate, rho, -1.0) / rho, slope, atol=1e-12)


@pin("props")
def away_from_what_was_done() -> None:
    """Where phi = theta the loss is 1 and its gradient that of the mean of logp: what was done becomes less likely."""
    d = behaving(np.ones((5, 1)))
    assert_allclose(float(PROPS().loss(d)), 1.0)
    assert_allclose([coefficient(PROPS().objective.surrogate, 1.0, -1.0)], [1.0])


@pin("props")
def nothing_to_mend() -> None:
    """Where the counts n_a / N are the policy's probabilities, the mean of grad logp by the logits is 0."""
    policy = np.array([0.5, 0.3, 0.2])
    scores = np.eye(3) - policy
    assert_allclose(np.array([5, 3, 2]) / 10 @ scores, 0, atol=1e-12)
    step = np.array([6, 3, 1]) / 10 @ scores
    assert step[0] > 0 > step[2]
