"""Heads on a hyperboloid in float32, their value over bins, and what goes together with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_goes_on_bit_for_bit, config, run, trainer

from tightrein.engines.control.actions import DiscreteActions
from tightrein.engines.control.compose import compose
from tightrein.engines.control.environments import find
from tightrein.engines.control.networks import Architecture, Inputs
from tightrein.engines.control.networks.hyperbolic import HyperbolicHead
from tightrein.engines.control.train import normalisation
from tightrein.errors import TightreinError
from tightrein.heads import HyperbolicHeads
from tightrein.parts import CategoricalValueLoss

HEADS = HyperbolicHeads()


def head(**changes: Any) -> HyperbolicHead:
    made = HyperbolicHead(np.random.default_rng(0), [4, 16], 3, HEADS)
    return eqx.tree_at(lambda h: [getattr(h, name) for name in changes], made, list(changes.values()))


def test_features_stay_within_the_bound_in_float32() -> None:
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2000, 4)), jnp.float32)
    for scale in (0.0, 1e-20, 1.0, 1e4, 1e15):
        for open_gate in (0.0, 100.0):
            features = head(gate_bias=jnp.float32(open_gate)).features(scale * x)
            assert np.linalg.norm(np.asarray(features, np.float64), axis=-1).max() <= HEADS.longest


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"normals": jnp.zeros((3, 32))},
        {"normals": 1e10 * jnp.ones((3, 32))},
        {"shifts": jnp.asarray([1e9, -1e9, 5.0])},
        {"gate_bias": jnp.float32(1e6)},
        {"gate_bias": jnp.float32(-1e6)},  # every feature at the origin
    ],
)
def test_outputs_and_gradients_are_finite(changes: dict[str, Any]) -> None:
    made, x = head(**changes), jnp.asarray([[0.0] * 4, [1e-12] * 4, [1.0, -2.0, 3.0, 0.0], [1e15] * 4], jnp.float32)

    def total(made: HyperbolicHead, x: Any) -> Any:
        return jnp.sum(made(x))

    assert np.isfinite(made(x)).all()
    for gradient in jax.tree.leaves(jax.grad(total, (0, 1))(made, x)):
        assert np.isfinite(gradient).all()


def test_the_value_is_the_mean_over_the_bins() -> None:
    network = Architecture(hidden=(8,), heads=HEADS).build(np.random.default_rng(0), (4,), DiscreteActions(3))
    inputs = Inputs(jnp.asarray(np.random.default_rng(1).normal(size=(5, 2, 4)), jnp.float32))
    dist, value, more = network(inputs)
    assert dist.logits.shape == (5, 2, 3)
    assert more["value_logits"].shape == (5, 2, 51)
    edges = np.linspace(-10, 10, 52)
    expected = np.asarray(jax.nn.softmax(more["value_logits"])) @ ((edges[1:] + edges[:-1]) / 2)
    np.testing.assert_allclose(value, expected, atol=1e-5)
    features = network.value_network.head.features(inputs.observation)
    np.testing.assert_allclose(more["feature_norm"], np.linalg.norm(features, axis=-1), rtol=1e-5)


def test_targets_in_float32_are_those_of_float64() -> None:
    loss, returns = CategoricalValueLoss(), np.linspace(-12, 12, 101)
    found = loss.probabilities(jnp.asarray(returns, jnp.float32))
    np.testing.assert_allclose(found, loss.probabilities(returns), atol=1e-5)
    np.testing.assert_allclose(np.sum(found, -1), 1, atol=1e-5)


SLOW = [{"memory": 8}, {"variant": "regression"}, {"env": "Pendulum-v1"}]


@pytest.mark.parametrize("changes", [{}, *(pytest.param(changes, marks=pytest.mark.slow) for changes in SLOW)])
def test_it_trains(changes: dict[str, Any], tmp_path: Path) -> None:
    rows = run(tmp_path / "run", method="hyperpp", **changes)
    assert np.isfinite([x for row in rows for x in row.values()]).all()
    if "variant" not in changes:
        assert 0 < rows[-1]["feature_norm_max"] <= HEADS.longest


def test_it_goes_on_bit_for_bit_from_a_checkpoint() -> None:
    made = trainer(config(method="hyperpp", seeds=2))
    assert_goes_on_bit_for_bit(made, 2)


def test_rewards_are_scaled_into_the_range_of_the_bins() -> None:
    for method, scaled in (("hyperpp", True), ("ppo_clip", False)):
        given = config(method=method)
        assert normalisation(given, compose(given)[0], find(given.env, given.backend)) == (False, scaled)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"set": ("objective.value=CategoricalValueLoss",)}, r"value_logits(.|\n)*HyperbolicHeads"),
        ({"method": "hyperpp", "set": ("heads.bins.high=20",)}, r"told in Bins(.|\n)*objective.value.bins.high=20"),
        ({"method": "hyperpp", "set": ("objective.value.clip_range=0.2",)}, "no clipped form"),
        ({"method": "hyperpp", "set": ("heads.bins.high=-20", "objective.value.bins.high=-20")}, "are none"),
    ],
)
def test_what_does_not_fit_together_is_told(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TightreinError, match=message):
        compose(config(**changes))
