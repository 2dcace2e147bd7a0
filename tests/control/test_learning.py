"""Learning: seeds are independent, A2C is PPO, and policies get better."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers import config, run, trainer

import tightrein as tr
from tightrein.engines.control.compose import compose
from tightrein.engines.control.config import ControlConfig
from tightrein.engines.control.train import train
from tightrein.errors import TightreinError


def parameters(made, seed: int) -> np.ndarray:
    learner = getattr(made.state, "learner", made.state)
    return np.concatenate([np.ravel(leaf[seed]) for leaf in jax.tree.leaves(learner.network)])


@pytest.mark.parametrize("changes", [{}, {"env": "Pendulum-v1", "backend": "envpool"}])
def test_a_seed_among_others_learns_what_it_learns_alone(changes: dict) -> None:
    together = trainer(config(seeds=2, **changes))
    alone = trainer(config(seed=1, **changes))
    for made in (together, alone):
        made.run(0, 3)
    np.testing.assert_allclose(parameters(together, 1), parameters(alone, 0), atol=1e-5)
    assert np.abs(parameters(together, 0) - parameters(together, 1)).max() > 1e-2
    np.testing.assert_allclose(together.evaluate(3)[1], alone.evaluate(3)[0], rtol=1e-3)


def test_chunks_do_not_matter() -> None:
    whole, parts = trainer(config()), trainer(config())
    whole.run(0, 5)
    for first, count in ((0, 1), (1, 3), (4, 1)):
        parts.run(first, count)
    np.testing.assert_array_equal(parameters(whole, 0), parameters(parts, 0))


def test_a2c_is_ppo_with_one_epoch_and_one_minibatch() -> None:
    given = ControlConfig(method="a2c_as_ppo", seeds=2)
    ppo, _ = compose(given)
    surrogate = tr.parts.PolicyGradient()
    a2c = dataclasses.replace(ppo, objective=dataclasses.replace(ppo.objective, surrogate=surrogate))
    first, second = trainer(given, ppo), trainer(given, a2c)
    start = parameters(first, 0)
    for made in (first, second):
        made.run(0, 10)
    for seed in range(2):
        assert np.abs(parameters(first, seed) - parameters(second, seed)).max() <= 1e-7
    assert np.abs(parameters(first, 0) - start).max() > 1e-3


REFUSED = {key for key in tr.methods() if tr.method(key).experience not in ("rollouts", "replay")} | {
    "rebel", "gvpo", "copg", "disco", "adpo_anchored",  # sets and pairs of whole answers
    "turn_ppo",  # turns
    "etr",  # groups
}  # fmt: skip


@pytest.mark.parametrize("method", tr.methods())
def test_every_method_can_be_composed_and_traced_or_is_refused(method: str) -> None:
    if method in REFUSED:
        with pytest.raises(TightreinError, match=f"{method} (needs|compares)"):
            compose(config(method=method))
        return
    keeps = tr.method(method).replay is not None
    env = "Pendulum-v1" if keeps else "CartPole-v1"
    made = trainer(config(method=method, env=env, minibatches=1, hidden=(8, 8)))
    _, figures = jax.eval_shape(made._iterations, made.state, made._keys, made._values, 0, 1)
    told = {"kl_previous", "q_loss"} if keeps else {"kl_k3", "clip_fraction"}
    assert told | {"entropy", "policy_loss", "value_loss"} <= figures.stats.keys()


def test_a_method_of_language_models_trains(tmp_path: Path) -> None:
    rows = run(tmp_path / "run", method="dr_grpo")
    assert rows[0].keys() == {"step", "seed", "eval_return"}  # of the untrained policy
    assert np.isfinite([v for row in rows for v in row.values()]).all()
    assert {"seed", "kl_k3", "clip_fraction", "entropy", "eval_return"} <= rows[-1].keys()


def test_the_adaptive_coefficient_of_ppo_kl_moves() -> None:
    made = trainer(config(method="ppo_kl", seeds=2))
    made.run(0, 10)
    (coefficient,) = made.state.learner.method.values()
    assert coefficient.shape == (2,)
    assert (np.log2(coefficient) % 1 == 0).all()
    assert (np.asarray(coefficient) != 1).any()


def test_cartpole_improves(tmp_path: Path) -> None:
    summary = train(ControlConfig(seeds=2, total_steps=40_960, out=tmp_path / "run", quiet=True))
    assert summary["eval_return_mean"] > 300
