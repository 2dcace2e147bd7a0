"""Action spaces: several choices at once, masks, bounds kept by tanh; and observations that are numbers."""

from __future__ import annotations

import dataclasses
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple
from helpers import config, trainer

from tightrein.engines.control import environments, evaluate
from tightrein.engines.control.actions import DiscreteActions, MultiDiscreteActions, SquashedActions
from tightrein.engines.control.config import ControlConfig
from tightrein.engines.control.device import DeviceEnv
from tightrein.engines.control.host import HostEnvs
from tightrein.engines.control.rollout import collect, start
from tightrein.engines.control.train import train
from tightrein.errors import TightreinError

FIRST, STATES = 5, 3  # the tiny task's states are 5, 6 and 7


class Match(gymnasium.Env):
    """A state in 5 .. 7; the reward is the share of choices that are the state's own. Slips are errors."""

    def __init__(self, actions: Any, masks: str = "", observations: Any = None) -> None:
        self.action_space, self.masks = actions, masks
        states = Discrete(STATES, start=FIRST)
        shown = Dict({"observation": states, "action_mask": MultiBinary(3)}) if masks == "observation" else states
        self.observation_space = observations or shown

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self.shown()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), (action, self.action_space)
        assert not self.masks or self.mask()[action - getattr(self.action_space, "start", 0)]
        reward = float(np.mean(np.asarray(action) == self.right()))
        shown, info = self.shown()
        return shown, reward, False, False, info

    def shown(self) -> tuple[Any, dict[str, Any]]:
        self.state = FIRST + int(self.np_random.integers(STATES))
        if self.masks == "observation":
            return {"observation": self.state, "action_mask": self.mask().astype(np.int8)}, {}
        return self.state, ({"action_mask": self.mask().astype(np.int8)} if self.masks else {})

    def mask(self) -> np.ndarray:
        """Of three actions the state's own and the next one may be taken; nothing at all where masks are "none"."""
        return np.isin(np.arange(3), [self.state % 3, (self.state + 1) % 3]) & (self.masks != "none")

    def right(self) -> Any:
        """The action of each state."""
        space, state = self.action_space, self.state - FIRST
        if isinstance(space, MultiBinary):
            return (np.arange(space.shape[0]) == state).astype(int)
        if isinstance(space, MultiDiscrete):
            return state % space.nvec + space.start
        return self.state % 3 + getattr(space, "start", 0)


KINDS = {
    "Several": lambda: Match(MultiDiscrete([3, 4, 2], start=[1, 0, -2])),
    "Table": lambda: Match(MultiDiscrete(np.array([[3, 4], [2, 3]]))),
    "Switches": lambda: Match(MultiBinary(3)),
    "Told": lambda: Match(Discrete(3, start=7), "info"),
    "Shown": lambda: Match(Discrete(3), "observation"),
    "Stuck": lambda: Match(Discrete(3), "none"),
    "Short": lambda: Match(Discrete(4), "info"),
    "Smooth": lambda: Match(Box(-1, 1, (3,)), "info"),
    "Unbounded": lambda: Match(Box(-1, np.inf, (2,))),
    "Parts": lambda: Match(Discrete(3), observations=Tuple([Discrete(2), Discrete(2)])),
    "Named": lambda: Match(Discrete(3), observations=Dict({"a": Discrete(2), "b": Discrete(2)})),
}
for name, kind in KINDS.items():
    gymnasium.register(f"{name}-v0", entry_point=kind, max_episode_steps=8, disable_env_checker=True)
TAXI = max(name for name in gymnasium.registry if name.startswith("Taxi-v"))


@pytest.mark.parametrize("env", ["Several-v0", "Table-v0", "Switches-v0", "Told-v0", "Shown-v0"])
def test_every_kind_of_action_is_learned(env: str, tmp_path: Any) -> None:
    given = {"rollout": 64, "envs": 8, "hidden": (32,), "learning_rate": 1e-2, "epochs": 4, "minibatches": 8}
    summary = train(ControlConfig(env=env, total_steps=15_360, out=tmp_path / "run", quiet=True, **given))
    untrained = {"Several-v0": 8 * (1 / 3 + 1 / 4 + 1 / 2) / 3, "Switches-v0": 4}.get(env, 4)
    assert summary["eval_return_mean"] > 7.5 > untrained


def test_an_illegal_action_never_occurs(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    step, seen = HostEnvs.step, []

    def watched(self: HostEnvs, actions: Any) -> Any:
        assert self.allowed is not None
        going = ~getattr(self, "over", np.zeros(self.size, bool))
        seen.extend(self.allowed[np.arange(self.size), actions][going])
        given = step(self, actions)
        self.over = given[2] | given[3]
        return given

    monkeypatch.setattr(HostEnvs, "step", watched)
    given = {"rollout": 128, "seeds": 2, "eval_episodes": 3, "memory": 4}
    train(config(env=TAXI, total_steps=1024, out=tmp_path / "run", **given))
    assert len(seen) > 2 * 1024 + 3 * 200
    assert all(seen)


def test_a_mask_belongs_to_its_observation_also_after_resets() -> None:
    spec = environments.find(TAXI)
    assert spec.masked
    assert spec.shape == (500,)
    taxi = gymnasium.make(TAXI).unwrapped
    envs, resets = HostEnvs(spec, [0, 1, 2]), 0
    seen, over = envs.reset(), np.zeros(3, bool)
    for t in range(420):
        expected = np.stack([taxi.action_mask(int(state)) for state in seen.argmax(-1)])
        np.testing.assert_array_equal(envs.allowed[~over], expected[~over])
        resets += int(over.sum())
        action = np.array([np.flatnonzero(row)[t % row.sum()] for row in expected])
        seen, _, ended, cut = envs.step(action)
        over = ended | cut
    assert resets


def test_rollouts_keep_their_masks_and_learning_reads_them() -> None:
    made = trainer(config(env=TAXI, rollout=32))
    noise, _ = made._draw(made._keys.train, 0)
    rollout = made._collect(made.state, np.asarray(noise), np.zeros((3, 1)))
    assert rollout.allowed.shape == (32, 1, 2, 6)
    one = jax.tree.map(lambda x: jnp.asarray(x)[:, 0], rollout)
    network = jax.tree.map(lambda x: x[0], made.state.network)
    dist = network(one.inputs(None)).dist
    probability = np.exp(dist.log_probs())
    assert (probability[rollout.allowed[:, 0] == 0] == 0).all()
    open_to = np.log(rollout.allowed[:, 0].sum(-1))
    assert (np.asarray(dist.entropy()) <= open_to + 1e-5).all()
    np.testing.assert_allclose(dist.entropy(), open_to, atol=1e-2)  # at first all that may be done is as likely


@pytest.mark.parametrize("method", ["ppo_clip", "trpo", "ppo_kl", "props", "troll"])
def test_methods_learn_under_masks_and_from_several_choices(method: str) -> None:
    for env in (TAXI, "Several-v0"):
        if (method, env) == ("troll", "Several-v0"):
            with pytest.raises(TightreinError, match="not MultiCategorical"):
                trainer(config(method=method, env=env)).run(0, 1)
            continue
        made = trainer(config(method=method, env=env, rollout=32))
        figures = made.run(0, 2)
        assert figures.broken.tolist() == [-1]
        assert all(np.isfinite(value).all() for value in figures.stats.values())


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ("Short-v0", "tells of 3 actions whether they are allowed, and its actions are 4"),
        ("Smooth-v0", "its actions are continuous"),
        ("Parts-v0", r"type Tuple are not supported\n.*FlattenObservation"),
        ("Named-v0", r"type Dict with a, b are not supported\n.*FlattenObservation"),
        ("Blackjack-v1", "type Tuple are not supported"),
    ],
)
def test_spaces_that_make_no_sense_are_refused(env: str, message: str) -> None:
    with pytest.raises(TightreinError, match=message):
        environments.find(env, "gymnasium")


def test_a_state_in_which_nothing_is_allowed_is_an_error() -> None:
    with pytest.raises(TightreinError, match="Stuck-v0 allows no action in a state that goes on"):
        HostEnvs(environments.find("Stuck-v0"), [0, 1]).reset()


@pytest.mark.parametrize("env", ["CartPole-v1", "Several-v0", "Unbounded-v0"])
def test_only_bounded_vectors_can_be_squashed(env: str) -> None:
    with pytest.raises(TightreinError, match="squash"):
        environments.find(env, squash=True)


def test_squashed_actions_stay_within_their_bounds() -> None:
    actions = SquashedActions((-2.0, 0.0), (2.0, 10.0))
    dist = actions.distribution(jnp.array([[50.0, -50.0], [0.0, 0.0]]), jnp.zeros(2))
    sent = actions.bounded(actions.mode(dist))
    np.testing.assert_allclose(sent, [[2, 0], [0, 5]])
    np.testing.assert_allclose(dist.log_scale, np.log([[2, 5], [2, 5]]), rtol=1e-6)
    drawn = actions.sample(dist, actions.noise(jax.random.key(0), (2,)))
    assert np.isfinite(dist.log_prob(drawn)).all()
    spec = environments.find("Pendulum-v1", squash=True)
    assert spec.actions == SquashedActions((-2.0,), (2.0,))


def test_a_squashed_rollout_is_sent_within_the_bounds_and_learned_from() -> None:
    for backend in ("gymnax", "gymnasium"):
        made = trainer(config(env="Pendulum-v1", backend=backend, squash=True))
        figures = made.run(0, 2)
        assert figures.broken.tolist() == [-1]
        assert np.isfinite(made.evaluate(2)).all()


class Walled:
    """CartPole on the device, where pushing right is not allowed to the right of the middle; nothing far left."""

    def __init__(self) -> None:
        self._env, self.params = environments.make_gymnax("CartPole-v1")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)

    def action_mask(self, state: Any, params: Any) -> Any:
        left = jnp.where(state.x < -0.02, 0, 1)
        return jnp.stack([left, left * (state.x < 0)])


def test_device_environments_may_have_masks() -> None:
    walled = Walled()
    device = DeviceEnv(walled, walled.params.replace(max_steps_in_episode=20))
    made = trainer(config())
    network = made._learner.network(0)
    begin = start(device, network, jax.random.key(0), 4)
    _, rollout = collect(device, network, None, begin, jax.random.key(1), 100)
    x, action = np.asarray(rollout.observation[..., 0]), np.asarray(rollout.action)
    np.testing.assert_array_equal(rollout.allowed[..., 1], ((x >= -0.02) & (x < 0)).astype(int))
    assert (action[x >= 0] == 0).all()
    assert 0 < action[x < -0.02].mean() < 1  # where nothing is allowed, all is
    learner = made._learner
    part = jax.tree.map(lambda x: x[:16, :2], rollout)
    state, figures = learner.learn(learner.init(*learner.networks(0)), part, jax.random.key(2), 0, jnp.asarray(True))
    assert float(figures["finite"]) == 1
    states, keys = jax.tree.map(lambda leaf: leaf[None], state), jax.random.split(jax.random.key(3), 1)
    assert np.isfinite(evaluate.on_device(device, 2)(states, keys)).all()


@pytest.mark.parametrize(("env", "backend"), [("FrozenLake-v1", "envpool"), ("FrozenLake-v1", "gymnasium")])
def test_numbers_are_observed_as_vectors(env: str, backend: str) -> None:
    spec = environments.find(env, backend)
    assert (spec.shape, spec.dtype, spec.pixels) == ((16,), "float32", False)
    first = HostEnvs(spec, [0, 1]).reset()
    np.testing.assert_array_equal(first, np.eye(16, dtype=np.float32)[[0, 0]])


def test_numbers_are_observed_as_vectors_on_the_device() -> None:
    made = trainer(config(env="FrozenLake-misc"))
    seen = np.asarray(made.state.envs.observation)
    assert seen.shape == (1, 2, 16)
    assert (seen.sum(-1) == 1).all()
    assert made.run(0, 1).broken.tolist() == [-1]


def test_draws_of_several_choices_have_the_right_frequencies() -> None:
    actions = MultiDiscreteActions((2, 3), (0, 0), (2,))
    probabilities = [np.array([0.3, 0.7]), np.array([0.2, 0.5, 0.3])]
    dist = actions.distribution(jnp.log(jnp.concatenate([jnp.asarray(p) for p in probabilities])), None)
    drawn = np.asarray(actions.sample(dist, actions.noise(jax.random.key(0), (20_000,))))
    for k, p in enumerate(probabilities):
        np.testing.assert_allclose(np.bincount(drawn[:, k]) / 20_000, p, atol=0.015)
    both = np.mean((drawn[:, 0] == 1) & (drawn[:, 1] == 1))
    assert both == pytest.approx(0.35, abs=0.015)
    only = actions.distribution(jnp.zeros(5), None, jnp.array([0, 1, 1, 0, 0]))
    np.testing.assert_array_equal(actions.sample(only, actions.noise(jax.random.key(1), (50,))), [[1, 0]] * 50)


def test_vectors_of_choices_have_identities() -> None:
    small = MultiDiscreteActions((2, 3), (0, 0), (2,))
    every = jnp.array([[[a, b] for b in range(3)] for a in range(2)])
    np.testing.assert_array_equal(small.identity(every), [[0, 1, 2], [3, 4, 5]])
    assert small.n == 6
    many = MultiDiscreteActions((10,) * 12, (0,) * 12, (12,))
    taken = jax.random.randint(jax.random.key(0), (4, 5, 12), 0, 2).at[0, 0].set(0).at[3, 4].set(0)
    found = np.asarray(jax.jit(many.identity)(taken))
    same = (np.asarray(taken)[:, :, None, None] == np.asarray(taken)).all(-1)
    np.testing.assert_array_equal(found[:, :, None, None] == found, same)
    assert found[0, 0] == found[3, 4]


def test_what_the_environment_is_sent_is_counted_as_it_counts() -> None:
    assert int(DiscreteActions(3, 7).bounded(jnp.array(2))) == 9
    table = MultiDiscreteActions((2, 2, 3, 4), (0, 1, 0, 2), (2, 2))
    np.testing.assert_array_equal(table.bounded(jnp.array([[1, 1, 2, 3]])), [[[1, 2], [2, 5]]])
    spec = environments.find("Several-v0")
    assert dataclasses.astuple(spec.actions) == ((3, 4, 2), (1, 0, -2), (3,))
