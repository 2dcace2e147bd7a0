"""Trains rejax's PPO when asked to, in an environment of its own: JSON lines in, JSON lines out.

The first line is the setting; the answer tells how long compilation took. Every further line is an empty object and
trains for the setting's `steps` once more, from where the last ended; the answer holds steps per second. rejax
evaluates inside `train`: its initial evaluation is skipped, and the callback of the only other one returns nothing.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import jax
from flax import linen as nn
from rejax import PPO


def trainer(setting: dict[str, Any]) -> tuple[Any, Any]:
    """(the compiled function state -> state that trains for `steps` steps, the first state)."""
    batch = setting["envs"] * setting["rollout"]
    algo = PPO.create(
        env=setting["env"], total_timesteps=setting["steps"], eval_freq=setting["steps"], skip_initial_evaluation=True,
        num_envs=setting["envs"], num_steps=setting["rollout"], num_minibatches=batch // setting["minibatch"],
        num_epochs=setting["epochs"], learning_rate=3e-4, gamma=0.99, gae_lambda=0.95, clip_eps=0.2, vf_coef=0.5,
        ent_coef=0.0, agent_kwargs={"activation": "tanh", "hidden_layer_sizes": (64, 64)},
    )  # fmt: skip
    assert algo.actor.activation is nn.tanh
    algo = algo.replace(eval_callback=lambda algo, state, key: ())
    state = algo.init_state(jax.random.PRNGKey(0))
    train = jax.jit(lambda state: algo.train(train_state=state)[0], donate_argnums=0)
    return train.lower(state).compile(), state


def main() -> None:
    """Answers until the input ends."""
    setting = json.loads(sys.stdin.readline())
    began = time.perf_counter()
    train, state = trainer(setting)
    answer: dict[str, Any] = {"compile_seconds": time.perf_counter() - began, "jax": jax.__version__}
    print(json.dumps(answer), flush=True)
    for _ in sys.stdin:
        began = time.perf_counter()
        state = jax.block_until_ready(train(state))
        print(json.dumps({"per_second": setting["steps"] / (time.perf_counter() - began)}), flush=True)


if __name__ == "__main__":
    main()
