"""A trained policy as an ONNX file, checked by running it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tightrein.engines.control import environments
from tightrein.engines.control.device import DeviceEnv
from tightrein.engines.control.evaluate import first_memory
from tightrein.engines.control.host import HostEnvs
from tightrein.engines.control.networks import Inputs
from tightrein.engines.control.onnx_graph import to_onnx
from tightrein.engines.control.restore import Acting, Policy, drawn_action
from tightrein.engines.control.rollout import collect, observe, start
from tightrein.errors import TightreinError, require
from tightrein.runs.files import written_beside

Array = Any

TOLERANCE = 1e-4  # of the largest of an output's numbers
ENVS, STEPS = 4, 32  # from which the observations come that the file is tried on


def export(policy: Policy, out: Path) -> dict[str, float]:
    """Writes the policy to the ONNX file `out`, and returns of each output the largest difference found in trying it.

    Inputs: observation [N, *shape], raw, as the environment gives it; of a policy with memory also memory [N, H],
    zeros where an episode begins. Outputs: action [N, ...], the most probable one, as the environment wants it; the
    numbers of the distribution it was taken from, by their names (logits, or mean and log_std); value [N]; next_memory
    [N, H]. Normalisation and the bounds of actions are inside. The file is tried on random and on real observations.

    Raises:
        TightreinError: a package is missing, the network cannot be translated, the file cannot be written, or it does
            not compute what the policy does; then there is no file.
    """
    runtime = require("onnxruntime", "export")
    network = policy.acting.network
    if network.nothing() is not None and network.heeds_rewards:
        raise TightreinError(
            f"{policy.method.key} remembers rewards, which a function of observations does not see",
            "use it in Python with tightrein.load_policy",
        )
    function, inputs = _function(policy)
    metadata = {name: value if isinstance(value, str) else json.dumps(value) for name, value in _about(policy).items()}
    model = to_onnx(function, inputs, {"action": str(policy.action_dtype)}, metadata)
    with written_beside(out) as beside:
        beside.write_bytes(model.SerializeToString())
        session = runtime.InferenceSession(str(beside), providers=["CPUExecutionProvider"])
        return _tried(policy, function, session)


def _function(policy: Policy) -> tuple[Any, dict[str, tuple[tuple[int, ...], str]]]:
    """Arrays to arrays, and what it is given: name -> (shape, dtype)."""
    network, moments = policy.acting
    inputs = {"observation": (policy.spec.shape, policy.spec.dtype)}
    nothing = network.nothing(1)
    if nothing is not None:
        inputs["memory"] = nothing.shape[1:], "float32"

    def function(observation: Array, memory: Array | None = None) -> dict[str, Array]:
        begins = None if memory is None else jnp.zeros(observation.shape[:1])
        seen = Inputs(observe(observation, moments), None, begins, memory)
        dist, after = network.act(seen)
        outputs = {"action": network.actions.bounded(network.actions.mode(dist)), **_numbers(dist)}
        if hasattr(network, "value"):
            outputs["value"] = network.value(seen)
        return outputs if after is None else {**outputs, "next_memory": after}

    return function, inputs


def _numbers(dist: Any) -> dict[str, Array]:
    """The arrays that a distribution is made of, by their names; constants of the action space are left out."""
    leaves = jax.tree_util.tree_flatten_with_path(dist)[0]
    names = [jax.tree_util.keystr(path[-1:], simple=True) for path, _ in leaves]
    return {name: x for name, (_, x) in zip(names, leaves, strict=True) if name in ("logits", "mean", "log_std")}


def _about(policy: Policy) -> dict[str, Any]:
    """What the file says of itself."""
    actions = policy.spec.actions
    low, high = getattr(actions, "low", None), getattr(actions, "high", None)
    meaning = f"numbers between {low} and {high}" if low is not None else f"choices among {actions.options}"
    return {
        "method": policy.method.key, "environment": policy.spec.name, "backend": policy.spec.backend,
        "run": policy.run.resolve().name, "seed": policy.seed, "step": policy.step, "point": dict(policy.point),
        "evaluated_return": policy.evaluated, "action": f"the most probable; {meaning}",
        "settings": policy.method.settings(),
        "versions": {name: version(name) for name in ("tightrein", "jax", "onnx", "onnxruntime")},
    }  # fmt: skip


def _tried(policy: Policy, function: Any, session: Any) -> dict[str, float]:
    """The largest difference of each output, relative to its size.

    Raises TightreinError where one is too large.
    """
    worst: dict[str, float] = {}
    names = [output.name for output in session.get_outputs()]
    compiled = jax.jit(function)
    for given in _trials(policy):
        made = dict(zip(names, session.run(names, given), strict=True))
        with jax.default_matmul_precision("highest"):
            wanted = {name: np.asarray(x) for name, x in compiled(**given).items()}
        for name, apart in _apart(made, wanted).items():
            worst[name] = max(worst.get(name, 0.0), apart)
    for name, apart in worst.items():
        if not apart <= TOLERANCE:
            raise TightreinError(
                f"the ONNX file does not compute what the policy does: its {name} is off by {apart:.1e}, and "
                f"{TOLERANCE:g} is allowed; it was removed",
                "report it with the config.json of the run, and use tightrein.load_policy meanwhile",
            )
    return worst


def _apart(made: Mapping[str, Array], wanted: Mapping[str, Array]) -> dict[str, float]:
    """Of each output the largest difference relative to its largest number; of choices, the share that differs.

    A choice between logits that are the same within the tolerance may fall either way.
    """
    found = {}
    for name, right in wanted.items():
        if made[name].shape != right.shape:
            return {name: np.inf}
        if right.dtype.kind == "f":
            size = max(1e-3, float(np.abs(right).max()))
            found[name] = float(np.abs(made[name].astype(np.float64) - right).max()) / size
        else:
            differs = made[name] != right
            found[name] = float((differs & ~_tied(wanted["logits"])).mean()) if "logits" in wanted else differs.mean()
    return found


def _tied(logits: Array) -> Array:
    """Whether the two best of the last axis are the same within the tolerance."""
    if logits.shape[-1] < 2:
        return np.ones(logits.shape[:-1], bool)
    second, first = np.moveaxis(np.sort(logits, axis=-1)[..., -2:], -1, 0)
    return np.asarray(first - second <= TOLERANCE * np.maximum(1e-3, np.abs(first)))


def _trials(policy: Policy) -> list[dict[str, Array]]:
    """Inputs to try: random ones for batches of several sizes, and those of real episodes."""
    rng, spec = np.random.default_rng(0), policy.spec
    memory = policy.acting.network.nothing(1)
    trials = []
    for count in (1, 3, 64):
        drawn = rng.integers(0, 256, (count, *spec.shape)) if spec.pixels else rng.normal(0, 2, (count, *spec.shape))
        given = {"observation": drawn.astype(spec.dtype)}
        if memory is not None:
            given["memory"] = rng.uniform(-1, 1, (count, *memory.shape[1:])).astype(np.float32)
        trials.append(given)
    return [*trials, *(_from_device(policy) if spec.on_device else _from_host(policy))]


def _from_device(policy: Policy) -> list[dict[str, Array]]:
    network, moments = policy.acting
    env = DeviceEnv(*environments.make_gymnax(policy.spec.name))

    @jax.jit
    def visited(acting: Acting) -> Any:
        begin = start(env, acting.network, jax.random.key(0), ENVS)
        return collect(env, acting.network, moments, begin, jax.random.key(1), STEPS)[1]

    rollout = jax.tree.map(np.asarray, visited(Acting(network, moments)))
    return [
        {"observation": rollout.observation[t]} | ({} if rollout.memory is None else {"memory": rollout.memory[t]})
        for t in range(STEPS)
    ]


def _from_host(policy: Policy) -> list[dict[str, Array]]:
    envs = HostEnvs(policy.spec, range(ENVS))
    act = jax.jit(drawn_action)
    observation = envs.reset()
    _, memory = first_memory(policy.acting, ENVS)  # type: ignore[arg-type]
    trials = []
    for t in range(STEPS):
        given = {"observation": observation} | ({} if memory is None else {"memory": np.asarray(memory)})
        trials.append(given)
        begins = None if memory is None else jnp.zeros(ENVS)
        seen = Inputs(observation, envs.allowed, begins, memory)
        action, memory = act(policy.acting, seen, jax.random.key(t))
        observation = envs.step(np.asarray(action))[0]
    envs.close()
    return trials
