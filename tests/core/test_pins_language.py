"""The exact properties of the language methods, of the credit rules, and of the KL estimators."""

from __future__ import annotations

import batches
import numpy as np
import pytest
import torch
from batches import coefficient

import tightrein as tr
from tightrein.parts import (
    K1,
    K2,
    K3,
    SAPO,
    Cispo,
    Clip,
    DropTruncated,
    DynamicSampling,
    GroupCentred,
    GroupNormalised,
    Importance,
    KLInReward,
    LeaveOneOut,
    SequenceMeanRatio,
    SequenceProductRatio,
    SoftOverlong,
    Widths,
)


def credit(rule: tr.parts.Part, rewards: list[float], group: list[int] | None = None) -> np.ndarray:
    group = group or [0] * len(rewards)
    d = tr.Decisions(logp=np.zeros((len(rewards), 1)), reward=np.array(rewards, float), group=np.array(group))
    return rule(d).advantage[:, 0]


def test_group_normalised() -> None:
    np.testing.assert_allclose(
        credit(GroupNormalised(), [1, 0, 0, 1]), [0.866024, -0.866024, -0.866024, 0.866024], atol=1e-6
    )
    np.testing.assert_allclose(credit(GroupNormalised(eps=0), [1, 0, 0, 0]), [1.5, -0.5, -0.5, -0.5])
    rewards = [0.3, 0.1, 0.9, 0.4]
    moved = [3 * r - 7 for r in rewards]
    np.testing.assert_allclose(credit(GroupNormalised(0), moved), credit(GroupNormalised(0), rewards))
    assert credit(GroupNormalised(), rewards).sum() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("rule", [GroupNormalised(), GroupCentred(), LeaveOneOut()])
@pytest.mark.parametrize("reward", [0.1, 0.7, 1 / 3, 1e6 / 7])
def test_equal_rewards_give_exactly_zero(rule: tr.parts.Part, reward: float) -> None:
    assert np.all(credit(rule, [reward] * 7) == 0)


def test_group_centred_and_leave_one_out() -> None:
    np.testing.assert_allclose(credit(GroupCentred(), [1, 0, 0, 1]), [0.5, -0.5, -0.5, 0.5])
    np.testing.assert_allclose(credit(GroupCentred(), [1, 0, 0, 0]), [0.75, -0.25, -0.25, -0.25])
    np.testing.assert_allclose(credit(LeaveOneOut(), [1, 0, 0, 0]), [1, -1 / 3, -1 / 3, -1 / 3])
    np.testing.assert_allclose(credit(LeaveOneOut(), [0.9, 0.2]), [0.7, -0.7])
    rewards = [0.3, 0.1, 0.9, 0.4]
    np.testing.assert_allclose(credit(GroupCentred(), rewards), 0.75 * credit(LeaveOneOut(), rewards))
    np.testing.assert_allclose(credit(LeaveOneOut(), [r + 5 for r in rewards]), credit(LeaveOneOut(), rewards))


def test_groups_of_one() -> None:
    assert credit(GroupNormalised(), [0.4])[0] == pytest.approx(0.4)
    assert credit(GroupCentred(), [0.4])[0] == 0
    assert credit(LeaveOneOut(), [0.4])[0] == 0


@pytest.mark.parametrize("library", ["numpy", "torch", "jax"])
def test_group_ids_may_come_in_any_order(library: str) -> None:
    rewards, group = np.array([1.0, 0.2, 0.0, 0.7, 0.4, 0.9]), np.array([9, -4, 9, 2, -4, 2])
    made = {"logp": np.zeros((6, 2)), "reward": rewards, "group": group}
    found = np.asarray(GroupNormalised(0)(batches.convert(made, library)).advantage)
    for pair in ([0, 2], [1, 4], [3, 5]):
        np.testing.assert_allclose(found[pair, 0], credit(GroupNormalised(0), list(rewards[pair])))


def test_grpo_at_the_reference() -> None:
    grpo = tr.method("grpo")
    d = batches.batch(0, "torch", grpo)
    d = d.replace(logp=d.logp_old.clone(), logp_ref=d.logp_old.clone())
    loss = grpo.loss(d)
    np.testing.assert_allclose(loss.per_decision, -d.advantage * d.mask)
    weights = grpo.objective.aggregate.weights(d.mask)
    np.testing.assert_allclose(batches.torch_gradient(grpo, d), -d.advantage * weights, atol=1e-15)
    assert float(loss.stats["kl_ref"]) == 0


def test_dapo_with_equal_widths_is_grpo_per_decision() -> None:
    dapo, grpo = tr.method("dapo", low=0.2, high=0.2), tr.method("grpo", **{"objective.reference.coef": 0.0})
    d = batches.batch(4, "numpy", grpo)
    np.testing.assert_array_equal(dapo.loss(d).per_decision, grpo.loss(d).per_decision)
    assert float(dapo.loss(d).value) != pytest.approx(float(grpo.loss(d).value))


def test_dapo_overlong_penalty() -> None:
    part = SoftOverlong(length=20480, buffer=4096)
    for length, expected in [(16000, 0), (16384, 0), (18432, -0.5), (20480, -1), (30000, -1)]:
        d = tr.Decisions(mask=np.ones((1, length)), reward=np.zeros(1), logp=np.zeros((1, length)))
        assert float(part(d).reward[0]) == pytest.approx(expected)
    steps = tr.Decisions(mask=np.array([[1.0, 1, 0]]), reward=np.zeros((1, 3)))
    np.testing.assert_allclose(SoftOverlong(length=2, buffer=1)(steps).reward, [[0, -1, 0]])


def test_dapo_dynamic_sampling_keeps_mixed_groups_only() -> None:
    d = tr.Decisions(logp=np.zeros((6, 2)), reward=np.array([1.0, 1, 0, 1, 0, 0]), group=np.array([0, 0, 1, 1, 2, 2]))
    np.testing.assert_array_equal(DynamicSampling().keep(d), [False, False, True, True, False, False])
    np.testing.assert_array_equal(DynamicSampling()(d).mask[:, 0], [0, 0, 1, 1, 0, 0])


def test_dapo_overlong_filtering() -> None:
    d = tr.Decisions(logp=np.zeros((2, 2)), truncated=np.array([[0.0, 1.0], [0, 0]]))
    np.testing.assert_array_equal(DropTruncated()(d).mask, [[0, 0], [1, 1]])


def answer(log_ratios: list[float], library: str = "torch") -> tr.Decisions:
    n = len(log_ratios)
    made = {"logp": np.array([log_ratios]) - 1, "logp_old": -np.ones((1, n)), "advantage": np.ones((1, n))}
    return batches.convert(made, library)


def test_gspo_numbers() -> None:
    wide = tr.method("gspo", low=0.9, high=9.0)
    d = answer([0.3, -0.1, 0.1])
    assert float(wide.loss(d).value) == pytest.approx(-1.105171, abs=1e-6)
    np.testing.assert_allclose(batches.torch_gradient(wide, d), [[-0.368390] * 3], atol=1e-6)


def test_gspo_clips_whole_answers() -> None:
    gspo = tr.method("gspo")
    assert not batches.torch_gradient(gspo, answer([0.0, 0.0, 0.5])).any()
    assert batches.torch_gradient(gspo, answer([0.0, 1e-4, 0.0])).all()
    d = batches.batch(1, "numpy", gspo)
    assert float(gspo.loss(d).stats["clip_fraction"]) * 8 == pytest.approx(
        round(float(gspo.loss(d).stats["clip_fraction"]) * 8)
    )


def test_gspo_on_policy_has_the_gradient_of_grpo() -> None:
    gspo, grpo = tr.method("gspo"), tr.method("grpo", **{"objective.reference.coef": 0.0})
    d = batches.batch(2, "torch", grpo)
    d = d.replace(logp=d.logp_old.clone())
    np.testing.assert_allclose(batches.torch_gradient(gspo, d), batches.torch_gradient(grpo, d), atol=1e-15)


def test_gspo_on_answers_of_one_decision_is_grpo() -> None:
    gspo = tr.method("gspo", low=0.2, high=0.2)
    grpo = tr.method("grpo", **{"objective.reference.coef": 0.0})
    d = batches.batch(2, "torch", grpo, width=1)
    assert float(gspo.loss(d).value) == pytest.approx(float(grpo.loss(d).value))


def test_cispo_coefficients() -> None:
    assert coefficient(Cispo(cap=1.28), 2.0, 1.0) == pytest.approx(-1.28)
    assert coefficient(Cispo(cap=5, floor=0.8), 0.5, -1.0) == pytest.approx(0.8)
    assert coefficient(Cispo(), 1e-8, -1.0) == pytest.approx(1e-8)
    for r in (0.2, 1.0, 40.0):
        assert coefficient(Cispo(cap=1e9), r, 2.0) == pytest.approx(-2 * r)


def test_cispo_lets_go_of_no_token() -> None:
    cispo, grpo = tr.method("cispo"), tr.method("grpo", **{"objective.reference.coef": 0.0})
    d = batches.batch(0, "torch", cispo)
    live = d.mask != 0
    assert (batches.torch_gradient(cispo, d)[live] != 0).all()
    assert (batches.torch_gradient(grpo, d)[live] == 0).any()


@pytest.mark.parametrize(
    ("a", "r", "loss", "c"),
    [
        (1, 0.5, -1.510163, -0.470007),
        (1, 1.5, -2.489837, -1.410022),
        (1, 2, -2.924234, -1.572895),
        (-1, 2, 2.822, 1.536220),
    ],
)
def test_sapo_numbers(a: float, r: float, loss: float, c: float) -> None:
    assert float(SAPO()(batches.one_decision(r, a))[0, 0]) == pytest.approx(loss, abs=1e-6)
    assert coefficient(SAPO(), r, a) == pytest.approx(c, abs=1e-6)


def test_sapo_limits_and_bounds() -> None:
    assert float(SAPO()(batches.one_decision(1.0, 1.0))[0, 0]) == pytest.approx(-2)
    assert float(SAPO()(batches.one_decision(1.0, -1.0))[0, 0]) == pytest.approx(1.904762, abs=1e-6)
    assert coefficient(SAPO(), 1.0, 1.0) == pytest.approx(-1)
    for r in (0.3, 1.4, 3.0):
        assert coefficient(SAPO(tau_pos=1e-6), r, 1.0) == pytest.approx(-r, rel=1e-6)
    steepest = [abs(coefficient(SAPO(), r, a)) for r in np.linspace(0.1, 10, 400) for a in (1.0, -1.0)]
    assert max(steepest) == pytest.approx(1.574675, abs=1e-4)
    assert min(steepest) > 0


def test_rloo_released_has_the_papers_gradient_at_the_old_policy() -> None:
    paper, released = tr.method("rloo"), tr.method("rloo", variant="released")
    assert released.objective.surrogate == Clip(Widths(0.2, 0.2), ratio=SequenceProductRatio())
    d = batches.batch(0, "torch", paper)
    d = d.replace(logp=d.logp_old.clone())
    np.testing.assert_allclose(batches.torch_gradient(paper, d), batches.torch_gradient(released, d), atol=1e-15)


def test_rloo_counts_longer_answers_more() -> None:
    rloo = tr.method("rloo")
    d = tr.Decisions(
        logp=torch.zeros((2, 4)), mask=torch.tensor([[1.0, 1, 1, 1], [1, 0, 0, 0]]), advantage=torch.ones((2, 1))
    )
    pulled = batches.torch_gradient(rloo, d).sum(dim=1)
    assert float(pulled[0]) == pytest.approx(4 * float(pulled[1]))


def test_rloo_takes_the_kl_off_the_reward() -> None:
    d = tr.Decisions(
        logp_old=np.array([[-1.0, -2.0]]), logp_ref=np.array([[-1.5, -1.0]]), mask=np.ones((1, 2)), reward=np.ones(1)
    )
    assert float(KLInReward(coef=0.1)(d).reward[0]) == pytest.approx(1 - 0.1 * (0.5 - 1.0))
    steps = KLInReward(coef=0.1)(d.replace(reward=np.zeros((1, 2)))).reward
    np.testing.assert_allclose(steps, [[-0.05, 0.1]])


def test_rloo_gradient_on_a_bandit_is_unbiased() -> None:
    """Mean of the estimated gradient over many groups against the exact policy gradient of a softmax bandit."""
    rng = np.random.default_rng(0)
    logits, payoff = np.array([0.3, -0.2, 0.5]), np.array([1.0, 0.0, 0.4])
    p = np.exp(logits) / np.exp(logits).sum()
    exact = -p * (payoff - p @ payoff)
    groups, size = 5000, 4
    action = rng.choice(3, (groups * size, 1), p=p)
    d = tr.Decisions(
        logp=np.zeros((groups * size, 1)), reward=payoff[action[:, 0]], group=np.repeat(np.arange(groups), size)
    )
    advantage = LeaveOneOut()(d).advantage
    each = (-advantage * (np.eye(3)[action[:, 0]] - p)).reshape(groups, size, 3).mean(axis=1)
    error = each.std(axis=0) / np.sqrt(groups)
    assert np.all(np.abs(each.mean(axis=0) - exact) < 3.5 * error)


def test_kl_estimator_numbers() -> None:
    for x, expected in [(np.log(2), (0.693147, 0.240227, 0.193147)), (-np.log(2), (-0.693147, 0.240227, 0.306853))]:
        found = [float(k(np.array(x))) for k in (K1(), K2(), K3())]
        np.testing.assert_allclose(found, expected, atol=1e-6)


def expectation(estimator: tr.parts.Part, as_loss: bool) -> tuple[float, float]:
    """Value, and gradient on the first logit, of a KL estimate enumerated over pi = (0.7, 0.3), ref = (0.5, 0.5)."""
    logits = torch.log(torch.tensor([0.7, 0.3], dtype=torch.float64)).requires_grad_()
    logp = torch.log_softmax(logits, 0)
    probability = logp.exp().detach()
    estimate = estimator(logp - torch.log(torch.tensor([0.5, 0.5], dtype=torch.float64)))
    objective = estimate if as_loss else estimate.detach() * logp
    (probability * objective).sum().backward()
    return float((probability * estimate.detach()).sum()), float(logits.grad[0])


def test_kl_estimators_in_expectation() -> None:
    for estimator, value, as_loss, in_reward in [
        (K1(), 0.0822829, 0.0, 0.177933),
        (K2(), 0.0787662, 0.177933, None),
        (K3(), 0.0822829, 0.2, -0.0220674),
    ]:
        assert expectation(estimator, True) == pytest.approx((value, as_loss), abs=1e-6)
        if in_reward is not None:
            assert expectation(estimator, False)[1] == pytest.approx(in_reward, abs=1e-6)


def test_k2_k3_are_never_negative_and_flat_at_zero() -> None:
    x = torch.linspace(-5, 5, 101, dtype=torch.float64)
    for estimator in (K2(), K3()):
        assert bool((estimator(x) >= 0).all())
        zero = torch.zeros(1, dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(estimator(zero).sum(), zero)
        assert float(slope) == 0


def test_sequence_ratios() -> None:
    d = answer([0.3, 0.3, 0.3], "numpy")
    assert float(SequenceProductRatio()(d)[0, 0]) == pytest.approx(2.459603, abs=1e-6)
    assert float(SequenceMeanRatio()(d)[0, 0]) == pytest.approx(1.349859, abs=1e-6)


def test_any_surrogate_runs_on_whole_answers() -> None:
    spo = tr.method(
        "spo",
        **{"objective.surrogate.ratio": "SequenceMeanRatio", "objective.standardise": False, "objective.value.coef": 0},
    )
    d = answer([0.3, -0.1, 0.1])
    assert float(spo.loss(d).value) == pytest.approx(-(1.105171 - 0.105171**2 / 0.4), abs=1e-6)
    assert float(Importance(ratio=SequenceMeanRatio())(d)) == pytest.approx(-1.105171, abs=1e-6)
