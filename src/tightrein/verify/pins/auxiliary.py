"""Pins of what is learned beside an objective: quantiles, achievements, and transport between episodes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.testing import assert_allclose, assert_array_equal

from ...arrays import Array, convert, installed, namespace, value_and_gradient
from ...auxiliary.achievements import contrast, film, unit
from ...auxiliary.quantiles import cosines, midpoints, modulated, quantile_huber, quantile_loss
from ...auxiliary.transport import partial_transport
from ...decisions import Decisions
from ...objective.value import NormalisedValueLoss, ValueLoss
from ..batches import autodiff, batch, gradients, method
from ..pin import pin


def plans(*given: Any) -> list[Array]:
    """Plans of transport for cost, rows and columns, on each array library."""
    return everywhere(lambda cost, rows, columns: partial_transport(cost, rows, columns, 0.05, 100), *given)


def everywhere(formula: Any, *given: Any) -> list[Array]:
    """A formula's result on each array library, as NumPy arrays."""
    return [
        convert(formula(*(convert(np.asarray(x, float), library) for x in given)), "NumPy") for library in installed()
    ]


@pin("pg_rainbow")
def quantile_huber_numbers() -> None:
    """Errors .5, -.5 and 2 at tau .9, .9 and .25: losses .1125, .0125 and .375 in every library."""
    for found in everywhere(quantile_huber, [0.5, -0.5, 2.0], [0.9, 0.9, 0.25]):
        assert_allclose(found, [0.1125, 0.0125, 0.375])


@pin("pg_rainbow")
def the_minimiser_is_the_quantile() -> None:
    """Of 1, 2, ..., 99 the loss of a small kappa is least at 25, 50 and 75 for the three quartiles."""
    targets, at = np.arange(1.0, 100.0), np.linspace(0, 100, 1001)
    for tau in (0.25, 0.5, 0.75):
        for found in everywhere(lambda x, t, y: quantile_loss(x, t, y, 1e-3), at[:, None], np.full((1001, 1), tau),
                                np.tile(targets, (1001, 1))):  # fmt: skip
            assert abs(at[found.argmin()] - 100 * tau) <= 0.1


@pin("pg_rainbow")
def quantiles_of_one_are_plain() -> None:
    """Where every quantile is 1 and f is the mean, V_psi = V_theta; and the loss is that of PPO."""
    value = np.array([[0.3, -2.0]])
    for found in everywhere(modulated, value, np.ones((1, 2, 8))):
        assert_array_equal(found.mean(-1), value)
    mine, theirs = method("pg_rainbow", entropy=0.0), method("ppo_clip", **{"objective.value.coef": 1.0})
    d = batch(0, mine)
    assert float(mine.loss(d).value) == float(theirs.loss(d).value)


@pin("pg_rainbow")
def quantiles_get_no_gradient() -> None:
    """The critic's loss moves the value that the quantiles modulate, and not the quantiles."""
    at = {name: convert(np.array([[0.5, 2.0]]), autodiff()) for name in ("value", "quantiles")}

    def loss(moved: dict[str, Array]) -> Array:
        product = modulated(moved["value"][0], moved["quantiles"] * namespace(moved["value"]).ones_like(moved["value"]))
        return (product.sum(-1) ** 2).sum()

    _, found = value_and_gradient(loss, at)
    assert_array_equal(convert(found["quantiles"], "NumPy"), 0)
    assert convert(found["value"], "NumPy").all()


@pin("pg_rainbow")
def features_of_tau() -> None:
    """cos(pi i tau) at tau = 1/2: 1, 0, -1, 0; the middles of four parts are 1/8, 3/8, 5/8, 7/8."""
    for found in everywhere(lambda tau: cosines(tau, 4), 0.5):
        assert_allclose(found, [1, 0, -1, 0], atol=1e-12)
    assert_allclose(midpoints(np.ones(1), 4), [0.125, 0.375, 0.625, 0.875])


@pin("achievement_distillation")
def contrast_numbers() -> None:
    """At equal products the cross-entropy is log 2, and its slope by the positive one is -0.5 / T."""
    anchor = np.array([[1.0, 0.0]])
    for found in everywhere(lambda a: contrast(a, a, a, 0.1), anchor):
        assert_allclose(found, np.log(2.0))
    fixed = convert(anchor, autodiff())
    _, found = value_and_gradient(lambda at: contrast(fixed, at["x"], fixed, 0.1).sum(), {"x": fixed})
    assert_allclose(convert(found["x"], "NumPy"), [[-5.0, 0.0]])


@pin("achievement_distillation")
def equal_embeddings_match_themselves() -> None:
    """Between an episode and itself the plan of transport is the identity, and where nothing is it is 0."""
    rng = np.random.default_rng(0)
    embedding = unit(rng.standard_normal((5, 16)))
    cost = np.ones((7, 7))
    cost[:5, :5] = 1 - embedding @ embedding.T
    there = (np.arange(7) < 5).astype(float)
    for plan in plans(cost, there, there):
        assert_array_equal(plan[:5, :5] > 0.5, np.eye(5, dtype=bool))
        assert_array_equal(plan[5:], 0)
        assert_array_equal(plan[:, 5:], 0)


@pin("achievement_distillation")
def transport_is_partial() -> None:
    """Of 3 achievements and 6 others as much is matched as there is room for: 3, none of them more than once."""
    cost = 1 - np.random.default_rng(1).uniform(-1, 1, (3, 6))
    for plan in plans(cost, np.ones(3), np.ones(6)):
        assert_allclose(plan.sum(), 3.0, rtol=1e-6)
        assert plan.sum(0).max() <= 1.02  # what 100 rounds leave
        assert plan.sum(1).max() <= 1.02
        assert (plan >= 0).all()


@pin("achievement_distillation")
def no_achievements_no_plan() -> None:
    """An episode without achievements is matched with nothing, in numbers."""
    for plan in plans(np.ones((3, 3)), np.zeros(3), np.ones(3)):
        assert_array_equal(plan, 0)


@pin("achievement_distillation")
def what_an_action_makes_of_a_state() -> None:
    """Features 2 and 3 with scale 1 and 0 and shift 0 and -1 become 4 and 2; the zero vector stays 0."""
    for found in everywhere(film, [2.0, 3.0], [1.0, 0.0], [0.0, -1.0]):
        assert_allclose(found, [4.0, 2.0])
    for found in everywhere(unit, [[3.0, 4.0], [0.0, 0.0]]):
        assert_allclose(found, [[0.6, 0.8], [0.0, 0.0]])


@pin("achievement_distillation")
def moments_of_targets() -> None:
    """Targets 1 and 3 make mean 2 and deviation 1, at first at once and then slowly; an empty batch changes nothing."""
    fit = NormalisedValueLoss()
    d = Decisions(value=np.zeros((1, 3)), returns=np.array([[1.0, 3.0, 9.0]]), mask=np.array([[1.0, 1.0, 0.0]]))
    state = fit.update(fit.init(0), d, 0.0)
    assert_allclose([state["mean"], state["square"], state["weight"]], [0.02, 0.05, 0.01])
    assert_allclose(fit.raw(np.array([0.0, 1.0, -1.0]), state), [2.0, 3.0, 1.0])
    assert_allclose(fit(d), [[0.5, 0.5, 0.0]])
    nothing = fit.update(state, d.replace(mask=np.zeros((1, 3))), 0.0)
    assert_allclose(list(nothing.values()), list(state.values()))
    flat = fit.update(fit.init(0), d.replace(returns=np.ones((1, 3))), 0.0)
    assert_allclose(fit.raw(np.array([1.0]), flat), [1.1])  # the variance counts as 0.01 at least


@pin("achievement_distillation")
def without_its_parts_ppo() -> None:
    """With a plain value loss it has the gradient of PPO."""
    mine = method("achievement_distillation", **{"objective.value": ValueLoss(coef=2.0), "objective.entropy": 0.0})
    d = batch(0, mine)
    found, expected = gradients(mine, d), gradients(method("ppo_clip"), d)
    for name in ("logp", "value"):
        assert_allclose(found[name], expected[name], atol=1e-12)
