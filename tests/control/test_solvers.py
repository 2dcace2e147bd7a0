"""Solvers: the bound of FixPO, the schedule of MDPO, state in checkpoints, and what control refuses."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_goes_on_bit_for_bit, config, trainer

import tightrein as tr
from tightrein.engines.control.batch import Batch, evaluate
from tightrein.engines.control.compose import compose
from tightrein.engines.control.networks import Inputs
from tightrein.errors import TightreinError

AGGRESSIVE = {"method": "fixpo", "learning_rate": 0.1, "rollout": 64, "minibatches": 4, "epochs": 3, "seeds": 2}


class Watched:
    """A learner on random states, to look at the policies before and after its iteration."""

    def __init__(self, made: Any) -> None:
        self.learner = made._learner
        self.solve = jax.jit(self.learner.solver.solve)
        self.state = jax.tree.map(lambda x: x[0], made.state.learner)

    def once(self, rows: int, seed: int, progress: float = 0.5) -> tuple[Any, Any, Batch]:
        """One iteration: (state before, what the solver gave, the batch)."""
        rng = np.random.default_rng(seed)
        network = self.state.network
        inputs = Inputs(jnp.asarray(rng.normal(size=(rows, 1, 4)), jnp.float32))
        action = jnp.asarray(rng.integers(0, 2, (rows, 1)))
        dist = network.policy(inputs)
        d = tr.Decisions(
            logp_old=dist.log_prob(action), dist_old=dist, mask=jnp.ones((rows, 1)), value_old=network.value(inputs),
            advantage=jnp.asarray(rng.normal(size=(rows, 1)), jnp.float32),
            returns=jnp.asarray(rng.normal(size=(rows, 1)), jnp.float32),
        )  # fmt: skip
        batch = Batch(d, inputs, action)
        solved = self.solve(network, self.state.optimizer, self.state.method, batch, jax.random.key(seed), progress)
        return self.state, solved, batch

    def largest(self, network: Any, batch: Batch) -> float:
        d = evaluate(network, batch)
        return float(d.dist_old.kl(d.dist).max())


def test_fixpo_keeps_every_state_within_the_bound() -> None:
    weak = "objective.trust.controller.coef=0.1"  # so that the second phase has something to do
    held = Watched(trainer(config(**AGGRESSIVE, set=(weak,))))
    for seed in range(4):
        _, solved, batch = held.once(128, seed)
        stats = {name: float(value) for name, value in solved.stats.items()}
        assert held.largest(solved.network, batch) <= 0.2 + 1e-6
        assert stats["kl_max"] == pytest.approx(held.largest(solved.network, batch), abs=1e-6)
        assert stats["fixup_failed"] == 0
        assert stats["fixup_steps"] > 0
        assert stats["beta"] > 0.1  # it grows while states are beyond the bound


def test_fixpo_mends_each_seed_as_long_as_it_needs() -> None:
    made = Watched(trainer(config(**AGGRESSIVE, set=("objective.trust.controller.coef=0.1",))))
    runs = [made.once(128, seed) for seed in range(2)]
    alone, batches = [solved for _, solved, _ in runs], [batch for *_, batch in runs]
    keys = jax.vmap(jax.random.key)(jnp.arange(2))
    both = jax.tree.map(lambda *x: jnp.stack(x), *batches)
    state = made.state
    solve = jax.jit(jax.vmap(made.learner.solver.solve, (None, None, None, 0, 0, None)))
    together = solve(state.network, state.optimizer, state.method, both, keys, 0.5)
    steps = [float(solved.stats["fixup_steps"]) for solved in alone]
    assert together.stats["fixup_steps"].tolist() == steps
    assert steps[0] != steps[1]
    for seed, solved in enumerate(alone):
        for mine, theirs in zip(*(jax.tree.leaves(s.network) for s in (together, solved)), strict=True):
            np.testing.assert_allclose(mine[seed], theirs, atol=1e-4)


def test_fixpo_that_cannot_mend_puts_the_old_policy_back() -> None:
    hopeless = Watched(trainer(config(**AGGRESSIVE, set=("step.passes=1", "bound=1e-7"))))
    before, solved, batch = hopeless.once(128, 0)
    assert float(solved.stats["fixup_failed"]) == 3
    assert hopeless.largest(solved.network, batch) < 1e-7
    for new, old in zip(jax.tree.leaves(solved.network.actor), jax.tree.leaves(before.network.actor), strict=True):
        np.testing.assert_array_equal(new, old)
    assert np.abs(solved.network.value_network.weights[0] - before.network.value_network.weights[0]).max() > 0


def test_fixpo_counts_the_multipliers_steps_and_may_wait_for_the_last_epoch() -> None:
    late = Watched(trainer(config(**AGGRESSIVE, set=("step.every_epoch=false",))))
    _, solved, batch = late.once(128, 1)
    assert late.largest(solved.network, batch) <= 0.2 + 1e-6
    assert float(solved.method["objective.trust"]["count"]) == 3 * 4 + float(solved.stats["fixup_steps"])


def test_trpo_leaves_the_value_network_to_its_critic() -> None:
    watched = Watched(trainer(config(method="trpo")))
    before, solved, batch = watched.once(64, 0)
    assert {"kl_step", "accepted", "step_size", "surrogate_gain", "value_loss"} <= solved.stats.keys()
    assert float(solved.stats["kl_step"]) <= 0.01
    d = evaluate(solved.network, batch)
    assert float(d.dist_old.kl(d.dist).mean()) == pytest.approx(float(solved.stats["kl_step"]), rel=1e-3)
    alone = watched.learner.solver.policy  # the natural step without the critic's fit
    moved = jax.jit(alone.solve)(before.network, (), before.method, batch, jax.random.key(0), 0.5).network
    for new, old in zip(*(jax.tree.leaves(n.value_network) for n in (moved, before.network)), strict=True):
        np.testing.assert_array_equal(new, old)
    assert np.abs(solved.network.value_network.weights[0] - before.network.value_network.weights[0]).max() > 0


@pytest.mark.parametrize("backend", ["gymnax", "gymnasium"])
def test_the_step_size_of_mdpo_follows_the_share_of_training_done(backend: str) -> None:
    made = trainer(config(method="mdpo_on", backend=backend, minibatches=1))  # 10 iterations
    for first, count, expected in ((0, 1, 1 / 0.9), (1, 4, 2.0), (5, 4, 10.0)):
        made.run(first, count)
        learner = getattr(made.state, "learner", made.state)
        np.testing.assert_allclose(learner.method["objective.trust"], expected, rtol=1e-4)


def test_a_longer_budget_goes_on_by_the_new_schedule() -> None:
    made = trainer(
        config(method="mdpo_on", minibatches=1, total_steps=640)
    )  # 20 iterations, of which 9 are taken as done
    made.run(9, 1)
    np.testing.assert_allclose(made.state.learner.method["objective.trust"], 2.0, rtol=1e-4)


@pytest.mark.parametrize("method", [pytest.param("trpo", marks=pytest.mark.slow), "fixpo"])
def test_solvers_go_on_bit_for_bit_from_a_checkpoint(method: str) -> None:
    made = trainer(config(method=method, seeds=2, rollout=32))
    arrays = assert_goes_on_bit_for_bit(made, 3)
    kept = {"fixpo": "learner.method.objective.trust.beta", "trpo": "learner.optimizer.1"}  # optimizer 1: the critic's
    assert any(name.startswith(kept[method]) for name in arrays), sorted(arrays)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "dpo"}, r"compares or imitates whole answers(.|\n)*train language"),
        ({"method": "psft"}, "learning from demonstrations"),
        ({"method": "disco"}, "DiscriminativeObjective"),
        ({"method": "turn_ppo"}, "needs turn"),
        ({"method": "ppo_clip", "set": ("step=NaturalGradient",)}, r"nothing trains the value network(.|\n)*trpo"),
        ({"method": "ppo_kl", "set": ("step=FixUp",)}, r"whose controller has a bound(.|\n)*AdamDual"),
    ],
)
def test_what_control_cannot_do_is_told_before_training(changes: dict, message: str) -> None:
    with pytest.raises(TightreinError, match=message):
        compose(config(**changes))


def test_the_learning_rate_is_found_where_the_step_has_it() -> None:
    for method, path in (("ppo_clip", "step"), ("fixpo", "step.optimizer"), ("trpo", "critic.step")):
        assert compose(config(method=method, learning_rate=0.123))[0].settings()[f"{path}.learning_rate"] == 0.123


def test_selection_by_advantage_and_entropy_stays() -> None:
    method, notes = compose(config(method="d3s"))
    assert len(method.selection) == 2
    assert not any("left out" in note for note in notes)
    assert any("on-policy" in note for note in compose(config(method="tis"))[1])
