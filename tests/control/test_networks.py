"""Networks: torsos for images, deep dense layers, and the memory of a policy from rollouts to checkpoints."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from helpers import config, trainer
from jax.extend.core import ClosedJaxpr, Jaxpr

import tightrein as tr
from tightrein.engines.control.actions import DiscreteActions
from tightrein.engines.control.batch import Batch, evaluate
from tightrein.engines.control.config import ControlConfig
from tightrein.engines.control.learner import Learner
from tightrein.engines.control.networks import Architecture, Inputs, automatic, convolution, out_axes
from tightrein.engines.control.networks.memory import GRU
from tightrein.engines.control.rollout import Rollout, collect, turned
from tightrein.engines.control.snapshot import from_arrays, to_arrays
from tightrein.engines.control.train import train
from tightrein.errors import TightreinError

MEMORY: dict[str, Any] = {"memory": 5, "rollout": 48, "minibatches": 4, "seeds": 2}
SIDES = {"nature": 36, "impala": 16, "minatar": 5}


def images(rng: np.random.Generator, count: int, shape: tuple[int, ...]) -> np.ndarray:
    return rng.integers(0, 256, (count, *shape)).astype(np.uint8)


def torso(name: str, shape: tuple[int, ...]) -> tuple[Any, int]:
    return convolution.__dict__[name](np.random.default_rng(0), shape)


@pytest.mark.parametrize(
    ("shape", "pixels", "network"),
    [
        ((4, 84, 84), True, "nature"), ((3, 64, 64), True, "nature"), ((96, 96, 3), True, "nature"),
        ((84, 84), True, "nature"), ((10, 10, 4), False, "minatar"), ((10, 10, 10), False, "minatar"),
        ((10, 5), False, "mlp"), ((17,), False, "mlp"), ((128,), True, "mlp"), ((2, 2, 3), False, "mlp"),
    ],
)  # fmt: skip
def test_auto_chooses_by_the_shape(shape: tuple[int, ...], pixels: bool, network: str) -> None:
    assert automatic(shape, pixels) == network


@pytest.mark.parametrize(
    ("network", "shape", "message"),
    [
        ("nature", (4,), r"shape \(4,\) are no images(.|\n)*--network mlp"),
        ("nature", (3, 35, 64), r"35 x 64 with 3 channels, and nature needs 36 x 36(.|\n)*--network minatar"),
        ("impala", (7, 7, 2), "impala needs 8 x 8"),
        ("resnet", (3, 64, 64), "(?s)resnet.*impala"),
    ],
)
def test_what_is_no_image_for_a_torso(network: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(TightreinError, match=message):
        Architecture.of(network, (8,), 0, None, shape)


@pytest.mark.parametrize("name", SIDES)
def test_channels_first_and_last_are_the_same_image(name: str) -> None:
    side = SIDES[name]
    first, width = torso(name, (2, side, side + 1))
    last, _ = torso(name, (side, side + 1, 2))
    seen = images(np.random.default_rng(1), 6, (2, side, side + 1)).reshape(3, 2, 2, side, side + 1)
    features = first(jnp.asarray(seen))
    assert features.shape == (3, 2, width)
    np.testing.assert_array_equal(features, last(jnp.asarray(np.moveaxis(seen, 2, -1))))
    np.testing.assert_allclose(features, first(jnp.asarray(seen / np.float32(255))), atol=1e-5)
    if name == "minatar":
        grey, _ = torso(name, (side, side))
        assert grey(jnp.asarray(seen[:, :, 0, :, :side])).shape == (3, 2, width)


def kernel(layer: Any) -> Any:
    """A convolution's weights as PyTorch has them."""
    weight = np.asarray(layer.weight).reshape(layer.kernel, layer.kernel, -1, layer.weight.shape[-1])
    return torch.tensor(weight.transpose(3, 2, 0, 1))


def nature_in_torch(made: Any, x: Any) -> Any:
    for layer in made.convolutions.convolutions:
        x = torch.relu(torch.nn.functional.conv2d(x, kernel(layer), stride=layer.stride))
    return x


def impala_in_torch(made: Any, x: Any) -> Any:
    f = torch.nn.functional
    for stage in made.convolutions.stages:
        x = f.conv2d(x, kernel(stage.convolution), padding=1)
        x = f.max_pool2d(f.pad(x, (0, 1, 0, 1), value=-math.inf), 3, 2)
        for block in stage.blocks:
            y = f.conv2d(torch.relu(x), kernel(block.first), padding=1)
            x = x + f.conv2d(torch.relu(y), kernel(block.second), padding=1)
    return torch.relu(x)


@pytest.mark.parametrize(("name", "reference"), [("nature", nature_in_torch), ("impala", impala_in_torch)])
def test_torsos_are_those_of_pytorch(name: str, reference: Any) -> None:
    side = SIDES[name]
    made, _ = torso(name, (3, side, side))
    seen = images(np.random.default_rng(1), 4, (3, side, side))
    maps = reference(made, torch.tensor(seen / np.float32(255)))
    flat = maps.numpy().transpose(0, 2, 3, 1).reshape(4, -1)
    expected = np.maximum(flat @ np.asarray(made.dense.weights[0]), 0)
    np.testing.assert_allclose(made(jnp.asarray(seen)), expected, atol=2e-5)


def test_images_in_pieces_are_those_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made, _ = torso("minatar", (5, 5, 2))
    seen = jnp.asarray(images(np.random.default_rng(1), 10, (5, 5, 2)))

    def both(made: Any) -> tuple[Any, Any]:
        return eqx.filter_value_and_grad(lambda m: jnp.sin(m(seen)).sum())(made)

    whole = both(made)
    monkeypatch.setattr(convolution, "PIECE", 4)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(both(made)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4)


def arrays_in(jaxpr: Jaxpr) -> Any:
    """Every array that a computation makes."""
    for equation in jaxpr.eqns:
        yield from (out.aval for out in equation.outvars)
        for value in equation.params.values():
            for inner in value if isinstance(value, (tuple, list)) else (value,):
                if isinstance(inner, (ClosedJaxpr, Jaxpr)):
                    yield from arrays_in(getattr(inner, "jaxpr", inner))


def test_pixels_of_a_rollout_never_are_floats_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolution, "PIECE", 8)
    given = config(env="Pong-v5", rollout=128, minibatches=8, network="nature")
    made = trainer(given)
    learner: Learner = made._learner
    state = jax.tree.map(lambda x: x[0], made.state)
    flags = jnp.zeros((128, 2))
    seen = jax.ShapeDtypeStruct((128, 2, 4, 84, 84), jnp.uint8)
    rollout = Rollout(seen, flags.astype(int), flags, flags, flags, seen, flags)

    def learn(rollout: Rollout) -> Any:
        return learner.learn(state, rollout, jax.random.key(0), jnp.int32(0), jnp.asarray(True))

    arrays = [a for a in arrays_in(jax.make_jaxpr(learn)(rollout).jaxpr) if hasattr(a, "shape")]
    assert any(a.dtype == jnp.uint8 and math.prod(a.shape) == 256 * 4 * 84 * 84 for a in arrays)
    largest = max(math.prod(a.shape) for a in arrays if a.dtype == jnp.float32)
    assert largest < 256 * 4 * 84 * 84 / 4  # a minibatch has 32 images, the network 1.7 million parameters


@pytest.mark.parametrize("hidden", [(), (8,), (256, 256), (16, 8, 16, 8, 16)])
@pytest.mark.parametrize("memory", [0, 4])
def test_any_depth(hidden: tuple[int, ...], memory: int) -> None:
    network = Architecture(hidden=hidden, memory=memory).build(np.random.default_rng(0), (2, 3), DiscreteActions(3))
    seen = Inputs(jnp.ones((7, 2, 3)), begins=jnp.ones(7), memory=network.nothing(7))
    assert network(seen).value.shape == (7,)
    layers = network.policy_network.weights if not memory else network.torso.layers.layers.weights if hidden else ()
    assert len(layers) == len(hidden) + (not memory)
    for weight in layers[: len(hidden)]:
        product = weight @ weight.T if weight.shape[0] <= weight.shape[1] else weight.T @ weight
        np.testing.assert_allclose(product, 2 * np.eye(len(product)), atol=1e-5)
    matrices = sum(axis is not None for axis in out_axes(network))
    assert matrices == max(len(hidden) - 1, 0) * (1 if memory else 2)


def test_matrices_of_torsos_are_hidden_ones() -> None:
    for name, count in {"nature": 3, "impala": 15, "minatar": 1}.items():
        network = Architecture(name).build(np.random.default_rng(0), (40, 40, 3), DiscreteActions(3))
        moved = [leaf for leaf, axis in zip(jax.tree.leaves(network), out_axes(network), strict=True) if axis == 1]
        assert len(moved) == count
        assert all(leaf.ndim == 2 for leaf in moved)


def gru_by_hand(core: GRU, features: np.ndarray, begins: np.ndarray, memory: np.ndarray) -> np.ndarray:
    """Memory after each step of [T, E, F], one step after the other, in float64."""
    into, within, bias, candidate_bias = (np.asarray(x, float) for x in jax.tree.leaves(core))
    size, after = memory.shape[-1], []
    for f, begin in zip(features, begins, strict=True):
        memory = np.where(begin[:, None] > 0, 0.0, memory)
        x, h = f @ into + bias, memory @ within
        reset, update = (1 / (1 + np.exp(-(x + h)[:, i * size : (i + 1) * size])) for i in (0, 1))
        candidate = np.tanh(x[:, 2 * size :] + reset * (h[:, 2 * size :] + candidate_bias))
        memory = (1 - update) * candidate + update * memory
        after.append(memory)
    return np.stack(after)


def some_gru() -> GRU:
    """With biases that are not 0."""
    rng = np.random.default_rng(0)
    core = GRU(rng, 3, 4)
    biases = [jnp.asarray(rng.normal(size=n), jnp.float32) for n in (12, 4)]
    return eqx.tree_at(lambda c: (c.bias, c.candidate_bias), core, biases)


def test_gru_is_that_of_a_plain_loop_of_equinox_and_of_pytorch() -> None:
    core, rng = some_gru(), np.random.default_rng(1)
    features, start = rng.normal(size=(9, 2, 3)), rng.normal(size=(2, 4))
    begins = (rng.random((9, 2)) < 0.3).astype(float)
    row = jnp.asarray(features.swapaxes(0, 1), jnp.float32)
    unrolled = core.unrolled(row, jnp.asarray(begins.T), jnp.asarray(start, jnp.float32))
    np.testing.assert_allclose(unrolled.swapaxes(0, 1), gru_by_hand(core, features, begins, start), atol=1e-5)

    whole = gru_by_hand(core, features, 0 * begins, start)
    cell = eqx.nn.GRUCell(3, 4, key=jax.random.key(0))
    parts = core.into.T, core.within.T, core.bias, core.candidate_bias
    cell = eqx.tree_at(lambda c: (c.weight_ih, c.weight_hh, c.bias, c.bias_n), cell, parts)
    memory = jnp.asarray(start[0], jnp.float32)
    for t in range(9):
        memory = cell(row[0, t], memory)
        np.testing.assert_allclose(memory, whole[t, 0], atol=1e-5)

    theirs = torch.nn.GRU(3, 4)
    own = dict(theirs.named_parameters())
    within_bias = np.concatenate([np.zeros(8), core.candidate_bias])
    with torch.no_grad():
        for name, value in zip(own, (core.into.T, core.within.T, core.bias, within_bias), strict=True):
            own[name].copy_(torch.tensor(np.array(value)))
        found, _ = theirs(torch.tensor(features, dtype=torch.float32), torch.tensor(start[None], dtype=torch.float32))
    np.testing.assert_allclose(found, whole, atol=1e-5)


def collected(backend: str) -> tuple[Learner, Any, Rollout, Any, Any]:
    """Two rollouts, the second of which begins within episodes: (learner, state, the second, its start, its end)."""
    made = trainer(config(backend=backend, **MEMORY))
    learner = made._learner
    if backend == "gymnax":
        state, envs = (jax.tree.map(lambda x: x[0], s) for s in (made.state.learner, made.state.envs))
        gather = jax.jit(lambda envs, key: collect(made._env, state.network, None, envs, key, 48))
        envs, _ = gather(envs, jax.random.key(1))
        after, rollout = gather(envs, jax.random.key(2))
        return learner, state, rollout, envs.memory, after.memory
    made._collect(made.state, np.asarray(made._draw(made._keys.train, 0)[0]), np.zeros((3, 2)))
    start = np.asarray(made._memory)[1]
    rollout = made._collect(made.state, np.asarray(made._draw(made._keys.train, 1)[0]), np.zeros((3, 2)))
    state = jax.tree.map(lambda x: x[1], made.state)
    return learner, state, jax.tree.map(lambda x: jnp.asarray(x[:, 1]), rollout), start, np.asarray(made._memory)[1]


@pytest.mark.parametrize("backend", ["gymnax", "envpool"])
def test_memory_in_rollouts_is_that_of_an_unroll_with_resets(backend: str) -> None:
    learner, state, rollout, start, end = collected(backend)
    done, begins = np.asarray(rollout.done), np.asarray(rollout.begins)
    assert done[:-2].any()
    if backend == "gymnax":
        np.testing.assert_array_equal(begins[1:], done[:-1])
    else:  # the step after an end only resets
        np.testing.assert_array_equal(begins[2:], done[:-2])
        np.testing.assert_array_equal(np.asarray(rollout.mask)[1:], 1 - done[:-1])
    features = np.asarray(state.network.torso(rollout.observation), float)
    after = gru_by_hand(state.network.core, features, begins, np.asarray(start, float))
    np.testing.assert_allclose(rollout.memory[1:], after[:-1], atol=1e-5)
    np.testing.assert_allclose(rollout.memory[0], start, atol=1e-6)
    np.testing.assert_allclose(end, after[-1], atol=1e-5)

    inputs, action = turned(rollout.inputs(None)), turned(rollout.action)
    width = learner._width(2, 48)
    assert width == 24  # the longest of which four minibatches are made
    by_itself = state.network(inputs)
    decisions = tr.Decisions(logp_old=by_itself.dist.log_prob(action))
    rows = evaluate(state.network, Batch(decisions, inputs, action).cut(width))
    np.testing.assert_allclose(rows.logp, rows.logp_old, atol=1e-5)
    np.testing.assert_allclose(rows.value, by_itself.value.reshape(4, 24), atol=1e-5)

    seen = np.asarray(state.network.torso(rollout.next_observation), float)
    steps = zip(seen, begins, after, strict=True)
    reached = np.stack([gru_by_hand(state.network.core, s[None], 0 * b[None], m)[0] for s, b, m in steps])
    expected = state.network.value_network(jnp.asarray(reached, jnp.float32))[..., 0]
    found = state.network.value(rollout.following(None, state.network))
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("backend", ["gymnax", "envpool"])
def test_a_run_with_memory_goes_on_bit_for_bit_and_beside_other_seeds(backend: str) -> None:
    given = config(backend=backend, **MEMORY)
    whole, resumed, alone = trainer(given), trainer(given), trainer(config(backend=backend, **{**MEMORY, "seeds": 1}))
    whole.run(0, 2)
    alone.run(0, 2)
    resumed.state = from_arrays(resumed.state, to_arrays(whole.state))
    for made in (whole, resumed):
        made.cut(2)
        made.run(2, 1)
    ours, theirs = to_arrays(whole.state), to_arrays(resumed.state)
    assert any("core.within" in name for name in ours)
    for name, array in ours.items():
        np.testing.assert_array_equal(array, theirs[name], err_msg=name)
    np.testing.assert_array_equal(whole.evaluate(3), resumed.evaluate(3))
    alone.cut(2)
    alone.run(2, 1)
    for name, array in to_arrays(alone.state).items():
        if "network" in name:
            np.testing.assert_allclose(array[0], ours[name][0], atol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "trpo", "memory": 4}, "(?s)share layers.*--network mlp --memory 0"),
        ({"method": "trpo", "env": "Breakout-MinAtar"}, "share layers"),
        ({"method": "props", "memory": 4}, "share layers"),
        ({"network": "nature"}, "no images"),
        ({"network": "conv"}, "(?s)conv.*minatar"),
        ({"network": "impala", "env": "Catch-bsuite"}, "10 x 5 with 1 channels, and impala needs 8"),
        ({"memory": -1}, "memory is -1"),
        ({"env": "Pong-v5", "normalise_obs": True}, "leave out --normalise-obs"),
    ],
)
def test_networks_that_cannot_be_are_told_before_anything_is_written(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(TightreinError, match=message):
        train(config(**{"out": tmp_path / "run", **changes}))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_bit_seen_five_steps_ago_is_remembered(tmp_path: Path) -> None:
    """Returns are 1 where the bit is told, else -1; without memory nothing is better than guessing."""
    given = {
        "env": "MemoryChain-bsuite", "envs": 32, "rollout": 48, "minibatches": 8, "epochs": 4, "hidden": (32,),
        "learning_rate": 3e-3, "total_steps": 100_000, "seeds": 2, "eval_episodes": 50, "quiet": True,
    }  # fmt: skip
    with_memory = train(ControlConfig(**given, memory=32, out=tmp_path / "with"))
    without = train(ControlConfig(**given, out=tmp_path / "without"))
    assert min(with_memory["eval_return"]) > 0.9
    assert max(without["eval_return"]) < 0.5
