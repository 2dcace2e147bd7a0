"""The exact properties of the language methods' surrogates and of the KL estimators."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.testing import assert_allclose

from ...arrays import convert, value_and_gradient
from ...decisions import Decisions
from ...distributions import Categorical
from ...objective.estimators import K1, K2, K3, Estimator
from ...objective.policy import SAPO, Clip, Importance, RatioWeight, Score, Widths
from ...objective.ratio import SequenceMeanRatio, SequenceProductRatio
from ..batches import autodiff, batch, coefficient, gradient, loss_at, method
from ..pin import pin

FREE = {"objective.reference.coef": 0.0}


def answer(log_ratios: list[float]) -> Decisions:
    """One answer of advantage 1 with the given log-ratios."""
    n = len(log_ratios)
    return Decisions(logp=np.array([log_ratios]) - 1, logp_old=-np.ones((1, n)), advantage=np.ones((1, n)))


@pin("grpo")
def grpo_at_the_reference() -> None:
    """Where policy, old policy and reference agree, loss and gradient are -A per token and the KL is 0."""
    grpo = method("grpo")
    d = batch(0, grpo)
    d = d.replace(logp=d.logp_old.copy(), logp_ref=d.logp_old.copy())
    loss = grpo.loss(d)
    assert_allclose(loss.per_decision, -d.advantage * d.mask)
    assert_allclose(gradient(grpo, d), -d.advantage * grpo.objective.aggregate(d), atol=1e-15)  # type: ignore[attr-defined]
    assert float(loss.stats["kl_ref"]) == 0


@pin("dapo")
def dapo_with_equal_widths_is_grpo_per_decision() -> None:
    """Equal widths give grpo's loss per decision, but another sum of it."""
    dapo, grpo = method("dapo", low=0.2, high=0.2), method("grpo", **FREE)
    d = batch(4, grpo)
    assert_allclose(dapo.loss(d).per_decision, grpo.loss(d).per_decision, rtol=0, atol=0)
    assert not np.isclose(float(dapo.loss(d).value), float(grpo.loss(d).value))


@pin("gspo")
def gspo_numbers() -> None:
    """Loss and gradient of an answer of three tokens."""
    wide = method("gspo", low=0.9, high=9.0)
    d = answer([0.3, -0.1, 0.1])
    assert_allclose(wide.loss(d).value, -1.105171, atol=1e-6)
    assert_allclose(gradient(wide, d), [[-0.368390] * 3], atol=1e-6)


@pin("gspo")
def gspo_clips_whole_answers() -> None:
    """An answer is let go as a whole, or not at all."""
    gspo = method("gspo")
    assert not gradient(gspo, answer([0.0, 0.0, 0.5])).any()
    assert gradient(gspo, answer([0.0, 1e-4, 0.0])).all()
    fraction = 8 * float(gspo.loss(batch(1, gspo)).stats["clip_fraction"])
    assert_allclose(fraction, round(fraction))


@pin("cispo")
def cispo_coefficients() -> None:
    """The weight is cut at cap and floor, and without them is the ratio."""
    assert_allclose(coefficient(Score(RatioWeight(cap=1.28)), 2.0, 1.0), -1.28)
    assert_allclose(coefficient(Score(RatioWeight(cap=5, floor=0.8)), 0.5, -1.0), 0.8)
    assert_allclose(coefficient(Score(RatioWeight(cap=5)), 1e-8, -1.0), 1e-8)
    for r in (0.2, 1.0, 40.0):
        assert_allclose(coefficient(Score(RatioWeight(cap=1e9)), r, 2.0), -2 * r)


@pin("cispo")
def cispo_lets_go_of_no_token() -> None:
    """Every token keeps a gradient, where grpo's clip lets go of some."""
    cispo = method("cispo")
    d = batch(0, cispo, spread=1.5)
    live = (d.mask != 0) & (d.advantage != 0)
    assert (gradient(cispo, d)[live] != 0).all()
    assert (gradient(method("grpo", **FREE), d)[live] == 0).any()


@pin("sapo")
def sapo_numbers() -> None:
    """Loss and gradient at four points."""
    for a, r, loss, c in [
        (1, 0.5, -1.510163, -0.470007),
        (1, 1.5, -2.489837, -1.410022),
        (1, 2, -2.924234, -1.572895),
        (-1, 2, 2.822, 1.536220),
    ]:
        assert_allclose(loss_at(SAPO(), r, a), loss, atol=1e-6)
        assert_allclose(coefficient(SAPO(), r, a), c, atol=1e-6)


@pin("sapo")
def sapo_limits_and_bounds() -> None:
    """Values at r = 1, the plain ratio as tau -> 0, and a gradient that is bounded and never 0."""
    assert_allclose(loss_at(SAPO(), 1.0, 1.0), -2)
    assert_allclose(loss_at(SAPO(), 1.0, -1.0), 1.904762, atol=1e-6)
    assert_allclose(coefficient(SAPO(), 1.0, 1.0), -1)
    for r in (0.3, 1.4, 3.0):
        assert_allclose(coefficient(SAPO(tau_pos=1e-6), r, 1.0), -r, rtol=1e-6)
    steepest = [abs(coefficient(SAPO(), r, a)) for r in np.linspace(0.1, 10, 100) for a in (1.0, -1.0)]
    assert_allclose(max(steepest), 1.574675, atol=1e-3)
    assert min(steepest) > 0


@pin("rloo")
def rloo_released_has_the_papers_gradient_at_the_old_policy() -> None:
    """TRL's clipped form has the gradient of plain REINFORCE while nothing has moved."""
    paper, released = method("rloo"), method("rloo", variant="released")
    assert released.objective.surrogate == Clip(Widths(0.2, 0.2), ratio=SequenceProductRatio())  # type: ignore[attr-defined]
    d = batch(0, paper)
    d = d.replace(logp=d.logp_old.copy())
    assert_allclose(gradient(paper, d), gradient(released, d), atol=1e-15)


@pin("rloo")
def rloo_counts_longer_answers_more() -> None:
    """An answer of four tokens is pulled four times as hard as an answer of one."""
    d = Decisions(logp=np.zeros((2, 4)), mask=np.array([[1.0, 1, 1, 1], [1, 0, 0, 0]]), advantage=np.ones((2, 1)))
    pulled = gradient(method("rloo"), d).sum(axis=1)
    assert_allclose(pulled[0], 4 * pulled[1])


@pin("grpo")
def kl_estimator_numbers() -> None:
    """The three estimates at x = +- log 2."""
    for x, expected in [(np.log(2), (0.693147, 0.240227, 0.193147)), (-np.log(2), (-0.693147, 0.240227, 0.306853))]:
        assert_allclose([float(k(np.array(x))) for k in (K1(), K2(), K3())], expected, atol=1e-6)


def _expectation(estimator: Estimator, as_loss: bool) -> tuple[float, float]:
    """Value, and gradient on the first logit, of an estimate enumerated over pi = (0.7, 0.3), ref = (0.5, 0.5)."""
    fixed = convert({"p": np.array([0.7, 0.3]), "ref": np.log([0.5, 0.5]), "logp": np.log([0.7, 0.3])}, autodiff())
    estimate = estimator(fixed["logp"] - fixed["ref"])

    def objective(leaf: dict[str, Any]) -> Any:
        logp = Categorical(leaf["logits"]).log_probs()
        return (fixed["p"] * (estimator(logp - fixed["ref"]) if as_loss else estimate * logp)).sum()

    _, found = value_and_gradient(objective, {"logits": fixed["logp"]})
    return float((fixed["p"] * estimate).sum()), float(found["logits"][0])


@pin("grpo", "rloo")
def kl_estimators_in_expectation() -> None:
    """Their exact expectations, and the gradients of those as a loss and in the reward."""
    for estimator, value, as_loss, in_reward in [
        (K1(), 0.0822829, 0.0, 0.177933),
        (K2(), 0.0787662, 0.177933, None),
        (K3(), 0.0822829, 0.2, -0.0220674),
    ]:
        assert_allclose(_expectation(estimator, True), (value, as_loss), atol=1e-6)
        if in_reward is not None:
            assert_allclose(_expectation(estimator, False)[1], in_reward, atol=1e-6)


@pin("grpo")
def k2_k3_are_never_negative_and_flat_at_zero() -> None:
    """k2 and k3 are at least 0, and their gradient is exactly 0 where the policies agree."""
    for estimator in (K2(), K3()):
        assert np.all(estimator(np.linspace(-5, 5, 101)) >= 0)
        zero = convert(np.zeros(1), autodiff())

        def total(leaf: dict[str, Any], estimator: Estimator = estimator) -> Any:
            return estimator(leaf["x"]).sum()

        _, found = value_and_gradient(total, {"x": zero})
        assert float(found["x"][0]) == 0


@pin("gspo", "rloo")
def sequence_ratios() -> None:
    """The product and the geometric mean of an answer's ratios."""
    d = answer([0.3, 0.3, 0.3])
    assert_allclose(SequenceProductRatio()(d), 2.459603, atol=1e-6)
    assert_allclose(SequenceMeanRatio()(d), 1.349859, atol=1e-6)


@pin("spo", "gspo")
def any_surrogate_runs_on_whole_answers() -> None:
    """SPO and the plain ratio with GSPO's ratio of the whole answer."""
    changes = {
        "objective.surrogate.ratio": "SequenceMeanRatio",
        "objective.standardise": False,
        "objective.value.coef": 0,
    }
    d = answer([0.3, -0.1, 0.1])
    assert_allclose(method("spo", **changes).loss(d).value, -(1.105171 - 0.105171**2 / 0.4), atol=1e-6)
    assert_allclose(Importance(ratio=SequenceMeanRatio())(d), -1.105171, atol=1e-6)
