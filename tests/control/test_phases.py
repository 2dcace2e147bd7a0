"""Phases of learning beside the objective: what they see, what they move and what they leave alone."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import config, run, trainer

import tightrein as tr
from tightrein.auxiliary.quantiles import quantile_loss
from tightrein.engines.control.actions import DiscreteActions
from tightrein.engines.control.auxiliary.episodes import Episodes, Seen
from tightrein.engines.control.auxiliary.iqn import IQN
from tightrein.engines.control.auxiliary.trial import Chain, chained
from tightrein.engines.control.descent import Descent
from tightrein.engines.control.networks import MLP, Architecture, Inputs
from tightrein.engines.control.networks.layers import Features
from tightrein.engines.control.snapshot import from_arrays, to_arrays
from tightrein.errors import TightreinError

SHORT = {
    "pg_rainbow": ("auxiliary.updates=4", "auxiliary.batch=8", "auxiliary.capacity=64", "auxiliary.every=2"),
    "achievement_distillation": ("auxiliary.every=2", "auxiliary.epochs=2", "auxiliary.most=4", "auxiliary.others=2"),
}


def leaves(tree: object) -> np.ndarray:
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


@pytest.mark.parametrize("backend", ["gymnax", "envpool"])
@pytest.mark.parametrize("method", SHORT)
def test_what_a_phase_keeps_is_in_the_checkpoint_and_goes_on_bit_for_bit(method: str, backend: str) -> None:
    made = trainer(config(method=method, set=SHORT[method], backend=backend))

    def go_on() -> dict[str, np.ndarray]:
        made.cut(3)
        made.run(3, 3)
        return {name: x.copy() for name, x in to_arrays(made.state).items()}

    made.run(0, 3)
    saved = {name: x.copy() for name, x in to_arrays(made.state).items()}
    assert any("phase." in name for name in saved)
    whole = go_on()
    made.state = from_arrays(made.state, saved)
    resumed = go_on()
    assert whole.keys() == resumed.keys() == saved.keys()
    for name, array in whole.items():
        np.testing.assert_array_equal(array, resumed[name], err_msg=name)
    assert any(not np.array_equal(array, saved[name]) for name, array in whole.items() if "phase." in name)


def test_the_objective_leaves_the_quantile_network_alone() -> None:
    given = {"method": "pg_rainbow", "minibatches": 1, "epochs": 1}
    off = "auxiliary.every=1000"
    made = trainer(config(set=(off, "step.weight_decay=0.1", "step.max_grad_norm=1e-3"), **given))
    before, critic = (leaves(x).copy() for x in (made.state.learner.phase.network, made.state.learner.network))
    figures = made.run(0, 2).stats
    np.testing.assert_array_equal(leaves(made.state.learner.phase.network), before)
    assert np.abs(leaves(made.state.learner.network) - critic).max() > 0
    assert figures["grad_norm_applied"] <= 1e-3 * (1 + 1e-4)
    size = leaves(made.state.learner.network).size
    moments = [x for x in jax.tree.leaves(made.state.learner.optimizer) if x.size == size]
    assert len(moments) == 2  # the optimizer holds the policy and its critic, and no more


def test_quantiles_are_constant_for_a_rollout_and_new_after_it() -> None:
    made = trainer(config(method="pg_rainbow", set=SHORT["pg_rainbow"]))
    phase = made._learner.phase
    inputs = Inputs(jnp.ones((3, 5, 4)))
    kept = jax.tree.map(lambda x: x[0], made.state.learner.phase)
    told = phase.told(kept, inputs)
    assert told.told.shape == (3, 5, 8)
    made.run(0, 2)
    later = phase.told(jax.tree.map(lambda x: x[0], made.state.learner.phase), inputs)
    assert np.abs(later.told - told.told).max() > 0
    assert int(made.state.learner.phase.steps[0]) == 4


def test_the_replay_holds_the_newest_rollouts() -> None:
    made = trainer(config(method="pg_rainbow", set=SHORT["pg_rainbow"]))
    assert made.state.learner.phase.replay.reward.shape == (1, 2, 32)  # 64 transitions are two rollouts of 32
    assert not made.state.learner.phase.replay.mask.any()
    made.run(0, 1)
    assert made.state.learner.phase.replay.mask[0].sum(1).tolist() == [32, 0]
    first = np.asarray(made.state.learner.phase.replay.observation[0, 0])
    made.run(1, 2)
    assert np.abs(made.state.learner.phase.replay.observation[0, 0] - first).max() > 0
    assert made.state.learner.phase.replay.mask.all()


def test_it_finds_the_quartiles_of_a_known_distribution() -> None:
    rng = np.random.default_rng(0)
    layers = Features(MLP(rng, [1, 32], 1.0))
    network = IQN(None, layers, MLP(rng, [64, 32], 2.0**0.5), MLP(rng, [32, 32, 1], 1.0), 1, 64)
    descent = Descent(tr.parts.Adam(learning_rate=1e-3), 1500)
    parameters, unpack = descent.pack(network)

    def step(carry: tuple, key: jax.Array) -> tuple:
        draw, tau_key = jax.random.split(key)
        target = 10 + 4 * jax.random.normal(draw, (64, 8))
        tau = jax.random.uniform(tau_key, (64, 8))

        def objective(p: jax.Array) -> tuple:
            return quantile_loss(unpack(p)(jnp.ones((64, 1)), tau)[..., 0], tau, target, 0.1).mean(), None

        parameters, state, _, _ = descent.step(objective, *carry)
        return (parameters, state), None

    begin = parameters, descent.init(network)
    (parameters, _), _ = jax.jit(lambda c: jax.lax.scan(step, c, jax.random.split(jax.random.key(0), 1500)))(begin)
    found = unpack(parameters)(jnp.ones(1), jnp.asarray([0.25, 0.75]))[:, 0]
    np.testing.assert_allclose(found, [10 - 4 * 0.6745, 10 + 4 * 0.6745], rtol=0.05)


def kept(begins: list, done: list, achieved: list) -> Seen:
    """Two environments of two rollouts of four steps each, [2, 2, 4]."""
    shape = 2, 2, 4
    begins, done, achieved = (jnp.asarray(x, float).reshape(shape) for x in (begins, done, achieved))
    index = jnp.arange(16.0).reshape(shape)
    return Seen(index[..., None], index[..., None], index, index, begins, done, jnp.ones(shape), achieved)


def test_whole_episodes_and_their_achievements() -> None:
    found = Episodes.of(
        kept(
            begins=[1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 1, 0, 0],
            done=[0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 1, 0, 0, 1],
            achieved=[0, 1, 0, 1, 1, 1, 0, 0, 1, 0, 0, 1, 0, 0, 0, 1],
        )
    )
    # whole: steps 0-4, 10-12 and 13-15; cut: 5-7 (by the end), 8-9 (begun before). The last step achieves nothing
    # that could be seen, and 13-15 has nothing else.
    assert np.flatnonzero(found.live).tolist() == [0, 1, 2, 3, 4, 10, 11, 12]
    assert np.flatnonzero(found.whole).tolist() == [0, 3]
    assert found.next[:5].tolist() == [1, 1, 3, 3, 4]
    assert found.more[:5].tolist() == [True, True, True, True, False]
    assert found.next[10:13].tolist() == [11, 11, 12]
    places, there = found.of_episode(jnp.asarray([0, 3]), 3)
    assert (places * there).tolist() == [[1, 3, 0], [11, 0, 0]]
    assert there.tolist() == [[1, 1, 0], [1, 0, 0]]
    drawn = np.unique(found.somewhere(jax.random.key(0), jnp.full(200, 3)))
    assert drawn.tolist() == [10, 11, 12]


def test_an_achievement_is_remembered_until_the_next_and_forgotten_with_its_episode() -> None:
    rng = np.random.default_rng(0)
    heads = tr.parts.AchievementMemory()
    network = Architecture(hidden=(8,), heads=heads).build(rng, (3,), DiscreteActions(2))
    first, second = jnp.ones((1, 3)), 2 * jnp.ones((1, 3))
    _, memory = network.act(Inputs(first, None, jnp.zeros(1), network.nothing(1)))
    assert network.remembered(memory, second, jnp.zeros(1))[0, 8:].tolist() == [0.0] * 8
    known = network.remembered(memory, second, jnp.ones(1))
    moved = (network.torso(second) - network.torso(first))[0]
    np.testing.assert_allclose(known[0, 8:], moved / jnp.linalg.norm(moved), rtol=1e-5)
    _, later = network.act(Inputs(second, None, jnp.zeros(1), known))
    np.testing.assert_array_equal(later[0, 8:], known[0, 8:])
    _, anew = network.act(Inputs(second, None, jnp.ones(1), known))
    assert not anew[0, 8:].any()


def test_the_policy_is_where_it_was_when_the_phase_begins() -> None:
    """With a step of no length the distance to the old policy stays 0: it is measured from where the phase began."""
    settings = {"auxiliary.step.learning_rate": 1e-30, "auxiliary.every": 2, "auxiliary.epochs": 1}
    made, learner = chained(tr.method("achievement_distillation", **settings), 1, 1024, envs=4, rollout=128)
    figures = made.run(0, learner.plan.iterations).stats
    assert float(figures["pred_loss"][0]) > 0
    assert abs(float(figures["policy_distance"][0])) < 1e-6
    assert 0.3 < float(figures["value_distance"][0]) < 3


def test_a_phase_that_never_comes_is_ppo() -> None:
    """Its settings do not matter before it begins, and without it nothing else is done."""

    def network(**settings: object) -> np.ndarray:
        changes = tuple(f"{path}={value}" for path, value in settings.items())
        made = trainer(config(method="achievement_distillation", set=changes))
        made.run(0, 3)
        return leaves(made.state.learner.network)

    np.testing.assert_array_equal(network(auxiliary="none"), network(**{"auxiliary.every": 4}))


def test_the_chain_gives_each_station_once_and_in_order() -> None:
    env = Chain()
    observation, state = env.reset(jax.random.key(1))
    assert observation.shape == (16,)
    for k in range(5):
        early = env.step(jax.random.key(0), state._replace(agent=state.stations[(k + 1) % 5]), jnp.int32(4))
        assert float(early[2]) == 0
        here = state._replace(agent=state.stations[k])
        _, state, reward, terminated, truncated = env.step(jax.random.key(0), here, jnp.int32(4))
        assert float(reward) == 1
        assert bool(terminated) == (k == 4)
        assert not truncated


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "pg_rainbow", "env": "Pendulum-v1"}, "tells actions by their number"),
        ({"method": "achievement_distillation", "env": "Pendulum-v1"}, "tells actions by their number"),
        ({"method": "pg_rainbow", "set": ("heads=none",)}, "heads=QuantileCritic"),
        ({"method": "pg_rainbow", "set": ("auxiliary=none",)}, "nothing learns them"),
        ({"method": "achievement_distillation", "memory": 8}, "leave out --memory"),
        ({"method": "achievement_distillation", "set": ("objective.value.clip_range=0.2",)}, "clip_range none"),
    ],
)
def test_what_does_not_go_together_is_refused(changes: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(TightreinError, match=message):
        run(tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()
