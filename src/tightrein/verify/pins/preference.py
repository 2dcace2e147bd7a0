"""Exact properties of the methods of pairs, of relative rewards, and of reward models."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ...arrays import Array
from ...catalogue import method
from ...decisions import Decisions
from ...method import Method
from ...reward import MeanScore, UncertaintyWeighted, WorstScore, best_of_n
from ..batches import gradient
from ..pin import pin

PAIR_METHODS = ("dpo", "ipo", "tr_dpo")


def answers(logp: Sequence[float], other: Sequence[float], lengths: Sequence[int] | None = None) -> Decisions:
    """Answers to one prompt with the given sums of log-probabilities, under the policy and under old and reference."""
    lengths = lengths or [1] * len(logp)
    mask = (np.arange(max(lengths)) < np.array(lengths)[:, None]).astype(float)
    each = [np.array(sums)[:, None] / np.array(lengths)[:, None] * mask for sums in (logp, other)]
    return Decisions(logp=each[0], logp_old=each[1], logp_ref=each[1], mask=mask, group=np.zeros(len(logp), int))


def pair(shift: float = 0.0) -> Decisions:
    """The pair of the specification's numbers: log-ratios 1 and -0.5, of 5 and 6 tokens."""
    return answers([-10.0 + shift, -12.0 + shift], [-11.0, -11.5], [5, 6]).replace(chosen=np.array([1, 0]))


def rewarded(log_ratio: Sequence[float], reward: Sequence[float]) -> Decisions:
    """Answers to one prompt with the given log-ratios, to the old policy and to the reference, and rewards."""
    start = np.full(len(log_ratio), -3.0)
    return answers(list(start + np.array(log_ratio)), list(start)).replace(reward=np.array(reward))


def value(m: Method, d: Decisions) -> float:
    """The loss."""
    return float(m.loss(d).value)


def near(found: float | Array, expected: float | Array | Sequence[float], tolerance: float = 1e-7) -> None:
    """Assert that numbers are those expected."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)


@pin("dpo")
def dpo_number() -> None:
    """A pair with log-ratios 1 and -1/2 at beta 0.1 has loss 0.6209570."""
    near(value(method("dpo"), pair()), 0.6209570)
    stats = method("dpo").loss(pair()).stats
    near([float(stats[f"rewards_{side}"]) for side in ("chosen", "rejected", "margin")], [0.1, -0.05, 0.15])
    assert stats["rewards_accuracy"] == 1


@pin("dpo", "tr_dpo")
def at_the_reference() -> None:
    """At pi = pi_ref the loss is log 2 and its gradient -beta/2 for the chosen, +beta/2 for the rejected answer."""
    for key in ("dpo", "tr_dpo"):
        beta = method(key).settings()["objective.link.beta"]
        d = answers([-3.0, -5.0], [-3.0, -5.0]).replace(chosen=np.array([1, 0]))
        near(value(method(key), d), math.log(2), 1e-12)
        near(gradient(method(key), d)[:, 0], [-beta / 2, beta / 2], 1e-12)


@pin(*PAIR_METHODS)
def only_the_margin_counts() -> None:
    """A constant added to the log-probabilities of both answers changes nothing."""
    for key in PAIR_METHODS:
        near(value(method(key), pair(shift=3.0)), value(method(key), pair()), 1e-12)


@pin(*PAIR_METHODS)
def incomplete_pairs_do_not_count() -> None:
    """An answer without its counterpart, and a group of three, leave the loss as it is."""
    whole = answers([-10.0, -12.0], [-11.0, -11.5]).replace(chosen=np.array([1, 0]))
    more = answers([-10.0, -12.0, -1, -2, -3, -4], [-11.0, -11.5, -2, -2, -2, -2]).replace(
        chosen=np.array([1, 0, 1, 1, 0, 0]), group=np.array([0, 0, 1, 2, 2, 2])
    )
    for key in PAIR_METHODS:
        near(value(method(key), more), value(method(key), whole), 1e-12)


@pin("ipo")
def ipo_numbers() -> None:
    """The same pair at beta 0.1: 12.25 with sums over tokens, 22.2469444 with means (TRL)."""
    near(value(method("ipo"), pair()), 12.25)
    near(value(method("ipo").variant("released"), pair()), 22.2469444)


@pin("ipo")
def ipo_does_not_overshoot() -> None:
    """The gradient is exactly 0 at Delta = 1 / (2 beta) and turns around there."""
    slopes = [
        gradient(method("ipo"), answers([delta, 0.0], [0.0, 0.0]).replace(chosen=np.array([1, 0])))[0, 0]
        for delta in (4.9, 5.0, 5.1)
    ]
    assert slopes[0] < 0 == slopes[1] < slopes[2]


@pin("tr_dpo")
def reference_moves_on_time() -> None:
    """The reference moves after every `every` gradient steps and never between."""
    anchor = method("tr_dpo", alpha=0.6, every=20).anchor
    assert [step for step in range(1, 101) if anchor.mix(step)] == [20, 40, 60, 80, 100]
    assert method("tr_dpo").variant("hard").anchor.mix(512) == 1
    assert all(method("tr_dpo").variant("soft").anchor.mix(step) == 0.6 for step in range(1, 9))


@pin("tr_dpo")
def reference_approaches_geometrically() -> None:
    """After k soft updates towards a constant policy the distance is (1 - alpha)^k of what it was."""
    anchor, reference = method("tr_dpo", alpha=0.3, every=1).anchor, 1.0
    for step in range(1, 8):
        reference += anchor.mix(step) * (0.0 - reference)
    near(reference, 0.7**7, 1e-12)


@pin("tr_dpo")
def still_reference_is_dpo() -> None:
    """alpha = 0 is DPO bit for bit."""
    still = method("tr_dpo", alpha=0.0, beta=0.1)
    assert value(still, pair()) == value(method("dpo"), pair())
    assert not any(still.anchor.mix(step) for step in range(1, 2000))


@pin("rebel")
def rebel_numbers() -> None:
    """Log-ratio gap 0.3 and reward gap 1: 0.49 at eta = 1; off the optimum only what is off counts."""
    near(value(method("rebel"), rewarded([0.3, 0.0], [1.0, 0.0])), 0.49)


@pin("rebel")
def rebel_starts_as_pairwise_policy_gradient() -> None:
    """On-policy: loss (R1 - R2)^2 and gradient -2 (R1 - R2) / eta for the first answer, its opposite for the other."""
    for eta in (1.0, 4.0):
        m = method("rebel", beta=1 / eta)
        d = rewarded([0.0, 0.0], [0.9, 0.2])
        near(value(m, d), 0.49)
        near(gradient(m, d)[:, 0], [-2 * 0.7 / eta, 2 * 0.7 / eta])


@pin("rebel", "gvpo", "copg")
def a_reward_for_all_changes_nothing() -> None:
    """R -> R + c(prompt) leaves loss and gradient as they are."""
    for key in ("rebel", "gvpo", "copg"):
        d, moved = (rewarded([0.4, -0.2, 0.1], [c + 1.0, c + 0.0, c + 0.5]) for c in (0.0, 7.0))
        near(value(method(key), moved), value(method(key), d), 1e-10)
        near(gradient(method(key), moved), gradient(method(key), d), 1e-10)


@pin("rebel", "gvpo", "copg")
def zero_at_the_tilted_policy() -> None:
    """Loss and gradient are 0 just where the policy is the other one times exp(R / beta) / Z."""
    reward = [1.0, 0.2, -0.5]
    for key in ("rebel", "gvpo", "copg"):
        beta = method(key).settings()["objective.beta"]
        d = rewarded([r / beta - 2.0 for r in reward], reward)
        near(value(method(key), d), 0.0, 1e-12)
        near(gradient(method(key), d), np.zeros((3, 1)), 1e-12)
        assert value(method(key), rewarded([0.1, 0.0, 0.0], reward)) > 1e-3


@pin("gvpo", "copg")
def gvpo_and_copg_numbers() -> None:
    """R = (1, 0, 0, 1), log-ratios (1, -1, 0, 2), beta 0.1: GVPO 0.1083333, CoPG 0.8666667 = 2k times as much."""
    d = rewarded([1.0, -1.0, 0.0, 2.0], [1.0, 0.0, 0.0, 1.0])
    near([value(method("gvpo"), d), value(method("copg"), d)], [0.1083333, 0.8666667])


@pin("gvpo")
def gvpo_pair_number() -> None:
    """Two answers: (beta Delta - (R1 - R2))^2 / 4, which is 0.180625 at Delta = 1.5 and reward gap 1."""
    near(value(method("gvpo"), rewarded([1.0, -0.5], [1.0, 0.0])), 0.180625)


@pin("gvpo")
def gvpo_is_covariance_and_variances() -> None:
    """L = -Cov(s, R) + (Var(s) + Var(R)) / 2 with s = beta log-ratio, all unbiased."""
    log_ratio, reward = [0.7, -1.3, 2.1, 0.2, 0.9], [0.3, 1.0, 0.0, 0.6, -0.4]
    covariance = np.cov(0.1 * np.array(log_ratio), reward)
    expected = -covariance[0, 1] + (covariance[0, 0] + covariance[1, 1]) / 2
    near(value(method("gvpo"), rewarded(log_ratio, reward)), expected, 1e-12)


@pin("gvpo")
def gvpo_gradient() -> None:
    """Its gradient is beta / (k - 1) times the centred residual, as if the group's mean were held constant."""
    log_ratio, reward = np.array([0.7, -1.3, 2.1, 0.2]), np.array([0.3, 1.0, 0.0, 0.6])
    residual = 0.1 * log_ratio - reward
    found = gradient(method("gvpo"), rewarded(log_ratio.tolist(), reward.tolist()))[:, 0]
    near(found, 0.1 / 3 * (residual - residual.mean()), 1e-12)


@pin("copg")
def copg_of_preferences_is_ipo() -> None:
    """Rewards that differ by 1/2 make the loss beta^2 times IPO's, whatever the log-ratios."""
    d = pair()
    for beta in (0.1, 0.7):
        copg = value(method("copg", beta=beta), d.replace(reward=np.array([0.5, 0.0])))
        near(copg, beta**2 * value(method("ipo", beta=beta), d), 1e-12)


@pin("copg")
def copg_gradient_is_contrastive() -> None:
    """Its gradient over 2 beta is the policy gradient with the mean of the others' regularised reward as baseline."""
    log_ratio, reward = np.array([1.0, -1.0, 0.0, 2.0]), np.array([1.0, 0.0, 0.0, 1.0])
    regularised = reward - 0.1 * log_ratio
    baseline = (regularised.sum() - regularised) / 3
    found = gradient(method("copg"), rewarded(log_ratio.tolist(), reward.tolist()))[:, 0]
    near(found / 0.2, -(regularised - baseline), 1e-12)


@pin("rm_ensemble")
def ensemble_numbers() -> None:
    """Scores 1, 2, 3: mean 2, worst 1, uncertainty-weighted (0.1) 1.9333, or 1.9 with the unbiased variance."""
    scores = np.array([[1.0, 2.0, 3.0]])
    rules = (MeanScore(), WorstScore(), UncertaintyWeighted(0.1), UncertaintyWeighted(0.1, unbiased=True))
    near([float(rule(scores)[0]) for rule in rules], [2, 1, 2 - 0.2 / 3, 1.9])
    near(UncertaintyWeighted(0.0)(scores), MeanScore()(scores), 1e-12)


@pin("rm_ensemble")
def one_model_is_itself() -> None:
    """One reward model: every rule gives its score, the unbiased variance included."""
    scores = np.array([[0.7], [-2.0]])
    for rule in (MeanScore(), WorstScore(), UncertaintyWeighted(), UncertaintyWeighted(unbiased=True)):
        near(rule(scores), [0.7, -2.0], 1e-12)


@pin("rm_ensemble")
def best_of_n_weights() -> None:
    """Best of 2 from 4: weights 1/6, 1/3, 1/2 on ranks 2, 3, 4; best of 1 is the mean, best of 4 the top answer."""
    proxy, gold = np.array([0.3, 0.1, 0.9, 0.4]), np.array([2.0, 1.0, 8.0, 4.0])
    near(float(best_of_n(proxy, gold, 2)), 2 / 6 + 4 / 3 + 8 / 2, 1e-12)
    near([float(best_of_n(proxy, gold, n)) for n in (1, 4)], [gold.mean(), 8.0], 1e-12)
