"""Trained policies afterwards: restored from their folders, recorded, and exported as files that compute the same."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import config, run

import tightrein as tr
from tightrein.cli.main import main
from tightrein.engines.control import environments, onnx_operations
from tightrein.engines.control.config import Plan
from tightrein.engines.control.export import export
from tightrein.engines.control.networks import Inputs
from tightrein.engines.control.onnx_graph import to_onnx
from tightrein.engines.control.play import play
from tightrein.engines.control.restore import Acting, Policy
from tightrein.engines.control.stages import TWINS, board, stage_of
from tightrein.engines.control.train import learner_of
from tightrein.errors import TightreinError

av = pytest.importorskip("av")
onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")

RUNS: dict[str, dict[str, Any]] = {
    "cartpole": {"seeds": 2},
    "memory": {"memory": 5},
    "pendulum": {"env": "Pendulum-v1", "squash": True},
    "hopper": {"env": "Hopper-v5", "backend": "envpool", "seeds": 2},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A function from a name in RUNS to the folder of that run; each is trained once."""
    root, made = tmp_path_factory.mktemp("runs"), {}

    def folder(name: str) -> Path:
        if name not in made:
            run(root / name, **RUNS[name])
            made[name] = root / name
        return made[name]

    return folder


def frames(path: Path) -> np.ndarray:
    """All pictures of a video [T, H, W, 3]."""
    with av.open(str(path)) as container:
        assert path.suffix == ".gif" or container.streams.video[0].codec_context.name == "h264"
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def pixel_policy(network: str) -> Policy:
    """An untrained policy for stacks of Atari's pictures."""
    spec = environments.find("Pong-v5", "envpool")
    given = config(env=spec.name, backend="envpool", network=network)
    method = tr.method("ppo_clip")
    learner = learner_of(method.objective, given, method, spec, Plan.of(given, method.training))
    return Policy(Path("pong"), 0, 0, {}, None, method, spec, Acting(learner.network(0), None))


def test_a_policy_does_what_its_network_says(trained: Any) -> None:
    policy = tr.load_policy(trained("cartpole"))
    seen = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)
    logits = np.asarray(policy.acting.network.policy(Inputs(jnp.asarray(seen))).logits)
    np.testing.assert_array_equal(policy.predict(seen), logits.argmax(-1))
    assert policy.predict(seen[0]) == logits[0].argmax()
    assert policy.predict(seen[0]).shape == ()
    drawn = policy.predict(np.repeat(seen[:1], 4000, 0), sample=True).mean()
    assert drawn == pytest.approx(np.exp(logits[0, 1]) / np.exp(logits[0]).sum(), abs=0.03)
    np.testing.assert_array_equal(policy.predict(seen, allowed=np.array([1, 0])), np.zeros(7))


def test_the_best_seed_is_taken_unless_one_is_named(trained: Any, tmp_path: Path) -> None:
    folder = trained("cartpole")
    best = tr.load_policy(folder)
    both = [tr.load_policy(folder, seed) for seed in (0, 1)]
    assert [policy.seed for policy in both] == [0, 1]
    assert best.evaluated == max(policy.evaluated for policy in both)
    weights = [np.asarray(policy.acting.network.policy_network.weights[0]) for policy in both]
    assert (weights[0] != weights[1]).any()
    earlier = sorted((folder / "checkpoints").iterdir())[0]
    assert tr.load_policy(earlier).step == int(earlier.name[5:]) < best.step
    before = shutil.copytree(folder, tmp_path / "before")  # as written before there were other networks
    saved = json.loads((before / "config.json").read_text())
    for name in ("network", "memory", "squash", "grid"):
        saved.pop(name, None)
    (before / "config.json").write_text(json.dumps(saved))
    (before / "summary.json").unlink()
    assert tr.load_policy(before).seed == best.seed


def test_memory_lasts_until_it_is_reset(trained: Any) -> None:
    policy = tr.load_policy(trained("memory"))
    seen = np.random.default_rng(1).normal(size=(3, 6, 4)).astype(np.float32)
    network = policy.acting.network
    rows = Inputs(jnp.asarray(seen), None, jnp.zeros((3, 6)).at[1, 3].set(1.0), jnp.zeros((3, 6, 5)))
    wanted = np.asarray(network.unrolled(rows).dist.logits).argmax(-1)
    policy.reset()
    for t in range(6):
        if t == 3:
            policy.reset(done=np.array([0, 1, 0]))
        np.testing.assert_array_equal(policy.predict(seen[:, t]), wanted[:, t])
    kept = np.asarray(policy._memory)
    policy.reset()
    policy.predict(seen[:, 5])
    assert (np.asarray(policy._memory) != kept).any()


def test_what_is_no_policy_is_told(trained: Any, tmp_path: Path) -> None:
    with pytest.raises(TightreinError, match=r"no folder(.|\n)*tightrein train"):
        tr.load_policy(tmp_path / "nowhere")
    with pytest.raises(TightreinError, match="is not a run, but holds"):
        tr.load_policy(trained("cartpole").parent)
    with pytest.raises(TightreinError, match="no seed 5"):
        tr.load_policy(trained("cartpole"), seed=5)
    copy = shutil.copytree(trained("cartpole"), tmp_path / "copy")
    saved = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**saved, "hidden": [9, 9]}))
    with pytest.raises(TightreinError, match=r"does not fit(.|\n)*tightrein 0"):
        tr.load_policy(copy)
    (copy / "config.json").write_text(json.dumps({**saved, "engine": "language"}))
    with pytest.raises(TightreinError, match="not a run of the control engine"):
        tr.load_policy(copy)
    (copy / "config.json").write_text(json.dumps(saved))
    shutil.rmtree(copy / "checkpoints")
    with pytest.raises(TightreinError, match="has no checkpoint"):
        tr.load_policy(copy)
    with pytest.raises(TightreinError, match=r"shape \(3,\); CartPole-v1 gives \(4,\)"):
        tr.load_policy(trained("cartpole")).predict(np.zeros(3))
    with pytest.raises(TightreinError, match="whole numbers"):
        pixel_policy("nature").predict(np.zeros((4, 84, 84)))


@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
def test_recordings_show_every_state(suffix: str, trained: Any, tmp_path: Path) -> None:
    out = tmp_path / f"video{suffix}"
    policy = tr.load_policy(trained("cartpole"))
    played = play(policy, out, episodes=2, sample=True)
    assert [episode.seed for episode in played] == [0, 1]
    assert all(episode.over and episode.total_reward == episode.length for episode in played)
    pictures = frames(out)
    states = sum(episode.length + 1 for episode in played)
    assert states * (1.0 if suffix == ".mp4" else 0.5) <= len(pictures) <= states  # a .gif joins those that are equal
    assert pictures.shape[1:] == (400, 600, 3)
    assert pictures.std() > 5
    assert [*tmp_path.iterdir()] == [out]
    assert play(policy, None, episodes=2, sample=True) == played


def test_mujoco_is_drawn_without_a_display(trained: Any, tmp_path: Path) -> None:
    policy = tr.load_policy(trained("hopper"))
    assert policy.acting.observations is not None
    try:
        played = play(policy, tmp_path / "hop.mp4")
    except TightreinError as error:
        if "OpenGL" in str(error):
            pytest.skip("no OpenGL here")
        raise
    assert len(frames(tmp_path / "hop.mp4")) == played[0].length + 1


def test_envpool_draws_atari_itself() -> None:
    stage = stage_of(pixel_policy("nature").spec)
    seen = stage.reset(0)
    seen, reward, over = stage.step(np.int32(1))
    assert (seen.observation.shape, reward, over) == ((4, 84, 84), 0.0, False)
    assert stage.picture().shape == (420, 320, 3)
    stage.close()


@pytest.mark.parametrize("name", TWINS)
def test_gymnasium_draws_the_state_that_gymnax_is_in(name: str) -> None:
    stage = stage_of(environments.find(name, "gymnax"))
    seen = stage.reset(3)
    rng = np.random.default_rng(0)
    for _ in range(5):
        stage.picture()
        bare = stage._twin.unwrapped
        shown = next((getattr(bare, name)() for name in ("_get_obs", "_get_ob") if hasattr(bare, name)), bare.state)
        np.testing.assert_allclose(shown, seen.observation, atol=1e-5)
        spec = environments.find(name, "gymnax")
        drawn = rng.integers(spec.actions.n) if hasattr(spec.actions, "n") else rng.uniform(-1, 1, 1)
        seen = stage.step(np.asarray(drawn, "int32" if hasattr(spec.actions, "n") else "float32"))[0]
    assert stage.picture().std() > 0


def test_a_window_shows_it_until_it_is_closed(trained: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    policy = tr.load_policy(trained("cartpole"))
    played = play(policy, show=True)
    assert played == play(policy)
    pygame = pytest.importorskip("pygame")
    monkeypatch.setattr(pygame.event, "get", lambda: [pygame.event.Event(pygame.QUIT)])
    assert play(policy, show=True) == []


def test_boards_are_drawn_from_observations() -> None:
    stage = stage_of(environments.find("Breakout-MinAtar"))
    stage.reset(0)
    assert stage.picture().shape == (260, 260, 3)
    layers = np.zeros((2, 2, 3))
    layers[0, 0, 0] = layers[1, 1, 2] = 1
    picture = board(layers)
    assert (picture[0, 1] == 0).all()
    assert (picture[0, 0] != picture[1, 1]).any()
    stack = np.arange(4 * 2 * 2, dtype=np.uint8).reshape(4, 2, 2)
    np.testing.assert_array_equal(board(stack)[..., 0], stack[-1])


def test_what_cannot_be_played_is_told(trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = tr.load_policy(trained("cartpole"))
    with pytest.raises(TightreinError, match=r"\.mp4 or \.gif"):
        play(policy, tmp_path / "video.avi")
    with pytest.raises(TightreinError, match="there is no picture of SimpleBandit-bsuite"):
        stage_of(environments.find("SimpleBandit-bsuite"))
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(TightreinError, match="no display"):
        play(policy, show=True)
    monkeypatch.setattr(Policy, "predict", lambda *given, **more: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        play(policy, tmp_path / "video.mp4")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("name", RUNS)
def test_the_file_computes_what_the_policy_does(name: str, trained: Any, tmp_path: Path) -> None:
    policy = tr.load_policy(trained(name))
    assert max(export(policy, tmp_path / "policy.onnx").values()) < 1e-4
    session = runtime.InferenceSession(tmp_path / "policy.onnx", providers=["CPUExecutionProvider"])
    kinds = {output.name for output in session.get_outputs()}
    assert kinds >= {"action", "value"} | ({"logits"} if policy.spec.actions.options else {"mean", "log_std"})
    about = session.get_modelmeta().custom_metadata_map
    assert (about["method"], about["environment"]) == ("ppo_clip", policy.spec.name)
    memory = {"memory": np.zeros((5, 5), np.float32)} if name == "memory" else {}
    rng = np.random.default_rng(2)
    policy.reset()
    for _ in range(4):
        seen = rng.normal(size=(5, *policy.spec.shape)).astype(np.float32)
        action, *after = session.run(["action", *(["next_memory"] if memory else [])], {"observation": seen, **memory})
        memory = {"memory": after[0]} if memory else {}
        wanted = policy.predict(seen)
        assert action.dtype == wanted.dtype
        np.testing.assert_allclose(action, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("network", ["nature", "impala"])
def test_policies_for_images_are_exported(network: str, tmp_path: Path) -> None:
    found = export(pixel_policy(network), tmp_path / "pong.onnx")
    assert max(found.values()) < 1e-4
    session = runtime.InferenceSession(tmp_path / "pong.onnx", providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].type == "tensor(uint8)"


def test_a_file_that_is_wrong_is_not_left_behind(trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = tr.load_policy(trained("cartpole"))
    monkeypatch.setitem(onnx_operations.SAME, "tanh", "Sin")
    with pytest.raises(TightreinError, match="is off by"):
        export(policy, tmp_path / "policy.onnx")
    monkeypatch.delitem(onnx_operations.OPERATIONS, "tanh")
    with pytest.raises(TightreinError, match="needs the operation 'tanh'"):
        export(policy, tmp_path / "policy.onnx")
    assert not [*tmp_path.iterdir()]


def _pooled(x: Any, window: tuple[int, ...], strides: tuple[int, ...]) -> Any:
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, strides, "SAME")


MATRIX, KERNEL = np.linspace(-1, 1, 30, dtype=np.float32).reshape(6, 5), np.ones((7, 3, 3, 3), np.float32) / 9
FUNCTIONS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "activations": (lambda x: jax.nn.softplus(x) + jax.nn.gelu(x) + jax.nn.silu(x) + jax.nn.elu(x), (6,)),
    "softmax": (lambda x: jax.nn.softmax(x) + jax.nn.log_softmax(x) + jax.nn.logsumexp(x, -1, keepdims=True), (6,)),
    "layer norm": (lambda x: (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-5), (6,)),
    "parts": (lambda x: jnp.concatenate([x[..., 0:1], x[..., jnp.array([3, 1])], x[:, ::-1], x[..., -1:]], -1), (6,)),
    "rows": (lambda x: x[:, jnp.array([1, 0]), :] + x[:, 1, 1:3].sum(-1)[:, None, None], (3, 4)),
    "products": (lambda x: jnp.einsum("nij,kj->nki", x, MATRIX[:, :4]) @ jnp.einsum("nij,nkj->nik", x, x), (6, 4)),
    "first axes": (lambda x: jax.nn.relu(jax.lax.conv(x, KERNEL, (2, 2), "SAME")).reshape(x.shape[0], -1), (3, 9, 8)),
    "last axes": (lambda x: _pooled(x, (1, 3, 3, 1), (1, 2, 2, 1)), (9, 8, 3)),
    "means": (lambda x: jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 1, 2, 2), (1, 1, 2, 2), "VALID"), (3, 8, 8)),
    "choices": (lambda x: jnp.where((x > 0) & ~(x > 1), x, -1e9) + jnp.clip(x, -0.5, 0.5), (6,)),
    "sums": (lambda x: jnp.cumsum(x, -1) + jnp.sign(x) * jnp.log1p(jnp.abs(x)) + jnp.expm1(x) + x**3 + x**2, (6,)),
    "best": (lambda x: jax.nn.one_hot(jnp.argmax(x, -1), 6) + jnp.max(x, -1, keepdims=True), (6,)),
    "spread": (lambda x: jnp.pad(x @ MATRIX, ((0, 0), (1, 2))) + jnp.broadcast_to(MATRIX[0, 0], (x.shape[0], 8)), (6,)),
    "flags": (lambda x: (x > -1).all(-1) | (x > 2).any(-1), (6,)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_jax_functions_become_graphs(name: str) -> None:
    function, shape = FUNCTIONS[name]
    model = to_onnx(lambda x: {"result": function(x)}, {"x": (shape, "float32")}, {}, {"made": "here"})
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for count in (1, 5):
        x = np.random.default_rng(count).normal(size=(count, *shape)).astype(np.float32)
        (made,), wanted = session.run(None, {"x": x}), np.asarray(function(jnp.asarray(x)))
        assert (made.shape, made.dtype) == (wanted.shape, wanted.dtype)
        np.testing.assert_allclose(made, wanted, rtol=1e-5, atol=1e-5)


def test_the_commands(trained: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(trained("cartpole"))
    assert main(["play", folder, "--out", str(tmp_path / "a.gif"), "--seed", "1", "--episodes", "2"]) == 0
    told = capsys.readouterr().out
    assert "seed 1, step 320" in told
    assert "episode 1: return" in told
    assert main(["export", folder, "--out", str(tmp_path / "a.onnx")]) == 0
    assert "agrees to" in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {"a.gif", "a.onnx"}
    assert main(["export", folder, "--out", str(tmp_path / "a.bin")]) == 2
    assert main(["play", str(tmp_path)]) == 2
    assert "error:" in capsys.readouterr().err
