"""Learning from a replay buffer: what is kept, what teaches whom, and that a run goes on where it stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import config, lines, run, trainer
from safetensors.numpy import load_file

import tightrein as tr
from tightrein.engines.control import environments
from tightrein.engines.control.compose import compose
from tightrein.engines.control.config import Plan
from tightrein.engines.control.device import DeviceEnv
from tightrein.engines.control.device_trainer import DeviceTrainer
from tightrein.engines.control.networks import Inputs
from tightrein.engines.control.replay import ReplayLearner
from tightrein.engines.control.replay.buffer import Buffer, Transitions
from tightrein.engines.control.rollout import Rollout
from tightrein.engines.control.train import train, trainer_of
from tightrein.errors import TightreinError

FEW = ("replay.learning_starts=16", "replay.batch=8", "objective.actor.every=20")
BASE: dict[str, Any] = {
    "method": "mdpo_off", "env": "Pendulum-v1", "envs": 1, "rollout": 1, "epochs": None, "minibatches": None,
    "set": FEW, "total_steps": 60,
}  # fmt: skip


def given(**changes: Any) -> Any:
    """A run of a moment."""
    return config(**{**BASE, **changes})


def learner_and_batch(**changes: Any) -> tuple[ReplayLearner, Any, Transitions, Any]:
    """A learner, its state at the start with another previous policy, a random batch, and noise."""
    made = trainer(given(**changes))
    learner = made._learner
    rng = np.random.default_rng(0)
    n = learner.replay.batch
    arrays = [rng.standard_normal((n, 3)), rng.standard_normal((n, 3)), rng.standard_normal((n, 1))]
    batch = Transitions(*map(jnp.float32, [*arrays, rng.standard_normal(n), np.zeros(n)]))
    return learner, learner.network(0), batch, jnp.float32(rng.standard_normal((n, 1)))


def steps(values: list[float], mask: list[float] | None = None) -> Rollout:
    """A rollout of one environment whose observations, actions and rewards are these numbers."""
    column = jnp.float32(values)[:, None]
    vector = column[..., None]
    kept = jnp.ones_like(column) if mask is None else jnp.float32(mask)[:, None]
    return Rollout(vector, -vector, column, 0 * column, 0 * column, vector + 1, kept)


def test_the_buffer_keeps_the_newest_and_leaves_out_what_is_no_decision() -> None:
    buffer = Buffer.empty(4, 1, 1)
    buffer = buffer.kept(steps([1.0, 2.0, 3.0], [1, 0, 1]))
    assert int(buffer.count) == 2
    drawn = buffer.drawn(jax.random.key(0), 50)
    assert set(np.asarray(drawn.reward).tolist()) == {1.0, 3.0}
    buffer = buffer.kept(steps([4.0, 5.0, 6.0]))
    assert int(buffer.count) == 5
    drawn = buffer.drawn(jax.random.key(1), 200)
    assert set(np.asarray(drawn.reward).tolist()) == {3.0, 4.0, 5.0, 6.0}
    np.testing.assert_array_equal(drawn.following[:, 0], drawn.reward + 1)
    np.testing.assert_array_equal(drawn.action[:, 0], -drawn.reward)


def test_a_limit_is_kept_as_no_end() -> None:
    rollout = steps([1.0, 2.0])
    ended = rollout.__class__(**{**vars(rollout), "terminated": jnp.float32([[0], [1]])})
    cut = rollout.__class__(**{**vars(rollout), "truncated": jnp.float32([[0], [1]])})
    flags = [set(np.asarray(Buffer.empty(2, 1, 1).kept(x).rows[:, -1]).tolist()) for x in (ended, cut)]
    assert flags == [{0.0, 1.0}, {0.0}]


def test_gradients_reach_each_network_from_its_own_loss_alone() -> None:
    learner, networks, batch, noise = learner_and_batch()
    other = learner.network(1)

    def loss(networks: Any, target: Any, previous: Any, method: Any = learner.method) -> Any:
        return method.loss(learner.decisions(networks, target, previous, batch, noise)).value

    found = jax.grad(loss, argnums=(0, 1, 2))(networks, other.critic, other.policy)
    moved = [max(float(jnp.abs(x).max()) for x in jax.tree.leaves(part)) for part in found]
    assert moved[0] > 1e-3
    assert moved[1:] == [0, 0]  # neither target nor previous policy

    def part(name: str) -> Any:
        def of(networks: Any) -> Any:
            d, objective = (
                learner.decisions(networks, other.critic, other.policy, batch, noise),
                learner.method.objective,
            )
            losses = {
                "actor": objective.actor(d, 0.2),
                "q": objective.critics.q_loss(d),
                "value": objective.critics.value_loss(d, 0.2),
            }
            return losses[name].mean()

        return jax.grad(of)(networks)

    own = {"actor": "policy", "q": "twins", "value": "critic"}
    for name, mine in own.items():
        gradient = part(name)
        for field in own.values():
            largest = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(getattr(gradient, field)))
            assert (largest > 0) == (field == mine), (name, field)


def test_the_actor_is_that_of_soft_actor_critic_as_stable_baselines3_has_it() -> None:
    torch = pytest.importorskip("torch")
    spaces = pytest.importorskip("gymnasium.spaces")
    policies = pytest.importorskip("stable_baselines3.sac.policies")
    shape = spaces.Box(-1, 1, (3,), np.float32), spaces.Box(-1, 1, (2,), np.float32)
    peer = policies.SACPolicy(*shape, lambda _: 3e-4, net_arch=[8], n_critics=1)
    peer.actor.action_dist.epsilon = 0.0  # theirs adds 1e-6 in a logarithm: much, where an action is at its bound
    seen = torch.randn(64, 3)
    action, logp = peer.actor.action_log_prob(seen)
    q = peer.critic(seen, action)[0]
    alpha = 0.2
    expected = (alpha * logp.reshape(-1, 1) - q).mean()
    mine = tr.parts.MirrorActor(coef=alpha, regularisation=0.0)
    d = tr.Decisions(logp=logp[:, None], logp_old=torch.randn(64, 1), q_policy=q[..., None])
    found = mine(d, alpha).mean()
    assert abs(float((found - expected).detach())) <= 1e-6
    ours, theirs = (torch.autograd.grad(x, list(peer.actor.parameters()), retain_graph=True) for x in (found, expected))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)
    mean, log_std, _ = peer.actor.get_action_dist_params(seen)
    dist = tr.SquashedGaussian(mean, log_std, torch.zeros_like(mean))
    before = peer.actor.action_dist.gaussian_actions
    torch.testing.assert_close(dist.log_prob(before), logp, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("backend", ["gymnax", "envpool"])
def test_what_happens_when(backend: str) -> None:
    made = trainer(given(backend=backend, seeds=2))
    state = lambda: getattr(made.state, "learner", made.state)  # noqa: E731
    start = jax.tree.map(np.asarray, state().networks)
    made.run(0, 15)
    assert (np.asarray(state().random) == 1).all()
    assert (np.asarray(state().buffer.count) == 15).all()
    made.run(15, 1)  # 16 steps: the policy acts from here on, and learns after the next
    assert (np.asarray(state().random) == 0).all()
    same = jax.tree.map(lambda a, b: bool((np.asarray(a) == b).all()), state().networks, start)
    assert jax.tree.all(same)
    made.run(16, 3)
    previous = jax.tree.map(np.asarray, state().previous)
    np.testing.assert_array_equal(previous.weights[0], start.policy.weights[0])
    assert np.abs(np.asarray(state().networks.policy.weights[0]) - start.policy.weights[0]).max() > 1e-4
    made.run(19, 1)  # 20 steps: the previous policy becomes the present one
    for a, b in zip(jax.tree.leaves(state().previous), jax.tree.leaves(state().networks.policy), strict=True):
        np.testing.assert_array_equal(a, b)
    rows = np.asarray(state().buffer.rows)[:, :20]
    assert (np.abs(np.tanh(rows[..., 6])) <= 1).all()
    assert np.std(np.tanh(rows[:, :16, 6])) > 0.4  # uniform


def test_a_seed_among_others_and_chunks() -> None:
    together, alone = trainer(given(seeds=2)), trainer(given(seed=1))
    together.run(0, 30)
    for first, count in ((0, 1), (1, 20), (21, 9)):
        alone.run(first, count)
    for a, b in zip(jax.tree.leaves(together.state.learner.networks), jax.tree.leaves(alone.state.learner.networks),
                    strict=True):  # fmt: skip
        np.testing.assert_allclose(a[1], b[0], atol=1e-4)


@pytest.mark.parametrize("backend", ["gymnax", "envpool"])
def test_a_run_that_was_stopped_goes_on_bit_for_bit(backend: str, tmp_path: Path) -> None:
    from tightrein.engines.control import train as module

    changes = {**BASE, "backend": backend, "seeds": 2, "checkpoint_every": 20, "log_every": 10, "eval_every": 20}
    whole = run(tmp_path / "whole", **changes)
    made = module._Training._save

    def save_and_die(self: Any) -> None:
        made(self)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module._Training, "_save", save_and_die)
        with pytest.raises(KeyboardInterrupt):
            train(config(out=tmp_path / "cut", **changes))
    first = load_file(next((tmp_path / "cut" / "checkpoints").iterdir()) / "arrays.safetensors")
    rows = next(array for name, array in first.items() if name.endswith("buffer.rows"))
    assert rows.shape == (2, 20, 9)  # what is empty still is not written
    assert run(tmp_path / "cut", resume=True, **changes) == whole
    ends = [load_file(tmp_path / name / "checkpoints/step-000000060/arrays.safetensors") for name in ("whole", "cut")]
    assert ends[0].keys() == ends[1].keys()
    for name, array in ends[0].items():
        np.testing.assert_array_equal(array, ends[1][name], err_msg=name)


def test_the_budget_may_be_raised(tmp_path: Path) -> None:
    run(tmp_path / "run", **BASE)
    assert lines(tmp_path / "run")[-1]["step"] == 60
    assert run(tmp_path / "run", resume=True, **{**BASE, "total_steps": 90})[-1]["step"] == 90


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"env": "CartPole-v1"}, "vectors between finite bounds"),
        ({"memory": 4}, "neither images nor memory"),
        ({"normalise_obs": True}, "as they are"),
        ({"set": ("replay.size=1",), "envs": 2}, "holds no rollout"),
        ({"set": ("replay.batch=0",)}, "must be >= 1"),
    ],
)
def test_what_cannot_work_is_told_before_anything_is_written(changes: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(TightreinError, match=message):
        train(given(out=tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()


def test_epochs_and_minibatches_are_said_to_change_nothing() -> None:
    method, notes = compose(given(epochs=3, minibatches=7))
    assert (method.training.epochs, method.training.minibatches) == (1, 1)
    assert "change nothing" in notes[0]


def test_deterministic_acting_is_the_mode() -> None:
    for variant, same in (("paper", False), ("released", True)):
        network = trainer(given(variant=variant)).state.learner.network
        one = jax.tree.map(lambda x: x[0], network)
        choice, _ = one.act(Inputs(jnp.ones((4, 3))))
        choice = choice._replace(random=jnp.float32(0))
        noise = one.actions.noise(jax.random.key(0), (4,))
        drawn = one.actions.sample(choice, noise)
        assert bool((drawn == one.actions.mode(choice)).all()) == same
        assert (jnp.abs(one.actions.bounded(100 * drawn)) <= 2).all()


class Bandit:
    """One step of reward -(a - 1)^2, whatever is seen."""

    def reset_env(self, key: Any, params: Any) -> tuple[Any, Any]:
        return jnp.zeros(3), jnp.zeros(())

    def step_env(self, key: Any, state: Any, action: Any, params: Any) -> tuple[Any, ...]:
        return jnp.zeros(3), state, -((action[0] - 1.0) ** 2), jnp.asarray(True), {}

    def is_truncated(self, state: Any, params: Any) -> Any:
        return jnp.asarray(False)

    def observation_space(self, params: Any) -> Any:
        return environments.make_gymnax("Pendulum-v1")[0].observation_space(params)


class Params:
    max_speed = 8.0
    max_steps_in_episode = 1


def test_the_best_arm_of_a_bandit_is_found() -> None:
    few = ("replay.learning_starts=100", "replay.batch=64", "objective.actor.every=50")
    asked = given(set=few, total_steps=3000, hidden=(32, 32), learning_rate=1e-3)
    method, _ = compose(asked)
    spec = environments.find("Pendulum-v1")  # whose actions lie in [-2, 2]
    learner = trainer_of(asked, method, spec, Plan.of(asked, method.training))._learner
    made = DeviceTrainer(learner, DeviceEnv(Bandit(), Params()), trainer_rows(2), episodes=1)
    made.run(0, 3000)
    best = -made.evaluate(3000)
    assert (np.sqrt(best) <= 0.08).all(), best  # distance of the mode from 1, one gradient step being the last


def trainer_rows(count: int) -> Any:
    from tightrein.engines.control.trainer import Rows

    return Rows(range(count))
