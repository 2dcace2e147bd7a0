"""Meta-training of a drift as the LPO paper does it, on bandits: an evolution strategy around a training."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tightrein.objective.policy.learned import network

Array = Any


def meta_learned(generations: int = 30, members: int = 32, spread: float = 0.3) -> tuple[float, float]:
    """Reward that a policy ends with when trained down the surrogate: before and after the evolution of its drift."""
    rng = np.random.default_rng(0)
    train = jax.jit(jax.vmap(_trained, (0, None)))
    units = np.concatenate([rng.normal(0, 0.5, (8, 8)), np.zeros((8, 1))], axis=1)
    for _ in range(generations):
        noise = rng.standard_normal((members // 2, *units.shape))
        noise = np.concatenate([noise, -noise])
        rank = np.argsort(np.argsort(train(units + spread * noise, _bandits(rng))))
        units = units + np.tensordot(rank / (members - 1) - 0.5, noise, 1) / members
    unseen = _bandits(np.random.default_rng(1), 2048)
    return float(_trained(0 * units, unseen)), float(_trained(units, unseen))


def _bandits(rng: np.random.Generator, count: int = 64) -> dict[str, Array]:
    """Bandits of five arms, rewards from 0 to 1 with noise of deviation 1, and all randomness of 4 rollouts of 16."""
    reward = rng.random((count, 5))
    reward = (reward - reward.min(1, keepdims=True)) / np.ptp(reward, axis=1, keepdims=True)
    shape = (4, count, 16)
    return {"reward": reward, "draw": rng.gumbel(size=(*shape, 5)), "noise": rng.standard_normal(shape)}


def _trained(units: Any, bandits: dict[str, Any]) -> Any:
    """Mean reward of softmax policies after 4 rollouts of 16 pulls and 10 steps of rate 2 on each."""

    def loss(logits: Any, old: Any, arm: Any, advantage: Any) -> Any:
        log_r = jnp.take_along_axis(jax.nn.log_softmax(logits) - old, arm, axis=1)
        r = jnp.exp(log_r)
        clip = jax.nn.relu((r - jnp.clip(r, 0.8, 1.2)) * advantage)
        return -(r * advantage - jax.nn.relu(clip + network(units, r, advantage) - 1e-4)).mean(1).sum()

    def rollout(logits: Any, given: tuple[Any, Any]) -> tuple[Any, None]:
        draw, noise = given
        old = jax.nn.log_softmax(logits)
        arm = jnp.argmax(old[:, None, :] + draw, axis=-1)
        gain = jnp.take_along_axis(bandits["reward"], arm, axis=1) + noise
        advantage = (gain - gain.mean(1, keepdims=True)) / (gain.std(1, keepdims=True) + 1e-8)
        steps = jax.lax.fori_loop(0, 10, lambda _, x: x - 2.0 * jax.grad(loss)(x, old, arm, advantage), logits)
        return steps, None

    logits, _ = jax.lax.scan(rollout, jnp.zeros_like(bandits["reward"]), (bandits["draw"], bandits["noise"]))
    return (jax.nn.softmax(logits) * bandits["reward"]).sum(1).mean()
