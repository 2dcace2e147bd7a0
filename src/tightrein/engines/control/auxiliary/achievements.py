"""The phase of achievement distillation: matching across episodes, and prediction of what comes next."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import tightrein as tr
from tightrein.arrays import masked_mean
from tightrein.auxiliary import AchievementDistillation, AchievementMemory
from tightrein.auxiliary.achievements import contrast, film, unit
from tightrein.auxiliary.transport import partial_transport
from tightrein.engines.control.auxiliary.episodes import Episodes, Seen, shuffled
from tightrein.engines.control.config import Plan
from tightrein.engines.control.descent import Descent
from tightrein.engines.control.environments import EnvSpec
from tightrein.engines.control.networks import MLP, ActorCritic, Architecture, Inputs
from tightrein.engines.control.phases import After, Experience, phase
from tightrein.method import Method

Array = Any
_VALUE = "objective.value"  # where the method's state holds the moments of the value's targets


class Predictor(eqx.Module):
    """q(s, a, m): the embedding of the achievement that comes next."""

    action: MLP  # of an action, 1 at its number [A], to scale and shift of the features [2 F]
    next: MLP  # of what became of the features, and the memory [2 F], to the embedding [F]

    def __call__(self, features: Array, action: Array, memory: Array) -> Array:
        """Features and memory [..., F], actions [..., A] -> unit vectors [..., F]."""
        scale, shift = jnp.split(self.action(action), 2, axis=-1)
        return unit(self.next(jnp.concatenate([film(features, scale, shift), memory], axis=-1)))


class Kept(eqx.Module):
    """What the phase keeps: the predictor, an optimizer for each half, the newest rollouts, and its last figures."""

    predictor: Predictor
    matching: Any
    prediction: Any
    seen: Seen
    figures: dict[str, Array]


class Moving(NamedTuple):
    """What the steps of a phase change; sums: of the figures, and counts of what they are the sums of."""

    parameters: Any
    matching: Any
    prediction: Any
    method: Any
    sums: dict[str, Array]


FIGURES = {
    "match_loss": "matchings", "pred_loss": "predictions", "pred_accuracy": "predictions", "policy_distance": "steps",
    "value_distance": "steps",
}  # fmt: skip


@dataclass(frozen=True)
class AchievementPhase:
    """See Phase and AchievementDistillation."""

    part: AchievementDistillation
    method: Method
    plan: Plan
    spec: EnvSpec
    architecture: Architecture

    @property
    def descent(self) -> Descent:
        """The optimizer of either half, of the network and the predictor together."""
        decisions = self.part.every * self.plan.batch
        steps = self.plan.iterations // self.part.every * self.part.epochs * -(-decisions // self.part.batch)
        return Descent(self.part.step, max(1, steps))

    def build(self, rng: np.random.Generator) -> Predictor:
        """See Phase."""
        built = self.architecture.build(np.random.default_rng(0), self.spec.shape, self.spec.actions)
        features, actions = built.core.features, self.spec.actions.outputs  # type: ignore[union-attr]
        return Predictor(
            MLP(rng, [actions, features, 2 * features], 1.0), MLP(rng, [2 * features, features, features], 1.0)
        )

    def init(self, network: ActorCritic, own: Predictor) -> Kept:
        """See Phase."""
        shape = self.plan.envs, self.part.every, self.plan.rollout
        zero, core = jnp.zeros(shape), network.core
        seen = Seen(
            jnp.zeros((*shape, *self.spec.shape), self.spec.dtype), jnp.zeros((*shape, core.features)),  # type: ignore[union-attr]
            jnp.zeros(shape, jnp.int32), zero, zero, zero, zero, zero,
        )  # fmt: skip
        state = self.descent.init((network, own))
        return Kept(own, state, state, seen, {name: jnp.zeros(()) for name in FIGURES})

    def told(self, kept: Kept, inputs: Inputs) -> Inputs:
        """See Phase: nothing more than their memory."""
        return inputs

    def after(
        self, network: ActorCritic, method: Any, kept: Kept, experience: Experience, key: Array, iteration: Array
    ) -> After:
        """See Phase; figures: losses, share of predictions nearer to the achievement than one elsewhere, distances.

        They are those of the last phase.
        """
        place = iteration % self.part.every
        seen = jax.tree.map(
            lambda old, new: old.at[:, place].set(new.astype(old.dtype)), kept.seen, self._seen(network, experience)
        )
        kept = eqx.tree_at(lambda k: k.seen, kept, seen)
        network, method, kept = jax.lax.cond(
            place == self.part.every - 1,
            lambda: self._phase(network, method, kept, key),
            lambda: (network, method, kept),
        )
        return After(network, method, kept, kept.figures)

    def _seen(self, network: ActorCritic, experience: Experience) -> Seen:
        inputs, d = experience.whole.inputs, experience.whole.decisions
        assert inputs.begins is not None
        memory = network.core.embedding(inputs.memory) * (1 - inputs.begins[..., None])  # type: ignore[union-attr]
        done = jnp.maximum(d.terminated, d.truncated)
        achieved = experience.reward > network.core.threshold  # type: ignore[union-attr]
        return Seen(
            inputs.observation, memory, experience.whole.action, d.returns, inputs.begins, done, d.weights(), achieved
        )

    def _phase(self, network: ActorCritic, method: Any, kept: Kept, key: Array) -> tuple[ActorCritic, Any, Kept]:
        parameters, unpack = self.descent.pack((network, kept.predictor))
        steps = Steps(self, network, unpack, Episodes.of(kept.seen))
        zero = {name: jnp.zeros(()) for name in (*FIGURES, *FIGURES.values())}
        moving = Moving(parameters, kept.matching, kept.prediction, method, zero)

        def epoch(moving: Moving, key: Array) -> tuple[Moving, None]:
            match_key, predict_key = jax.random.split(key)
            return steps.prediction(steps.matching(moving, match_key), predict_key), None

        moving, _ = jax.lax.scan(epoch, moving, jax.random.split(key, self.part.epochs))
        network, predictor = unpack(moving.parameters)
        figures = {name: moving.sums[name] / jnp.maximum(moving.sums[count], 1) for name, count in FIGURES.items()}
        return network, moving.method, Kept(predictor, moving.matching, moving.prediction, kept.seen, figures)


@dataclass(frozen=True)
class Steps:
    """The steps of one phase, which began with the network `old`."""

    phase: AchievementPhase
    old: ActorCritic
    unpack: Callable[[Any], tuple[ActorCritic, Predictor]]
    episodes: Episodes

    @property
    def part(self) -> AchievementDistillation:
        """What was asked for."""
        return self.phase.part

    def matching(self, moving: Moving, key: Array) -> Moving:
        """A step for each episode with achievements, in a random order."""
        order_key, key = jax.random.split(key)
        order, count = shuffled(order_key, self.episodes.whole)

        def step(i: Array, moving: Moving) -> Moving:
            # The order is random, so those behind an episode in it are a random choice of others.
            each = jnp.arange(1, self.part.others + 1)
            others = order[(i + each) % jnp.maximum(count, 1)]
            return self._matched(moving, order[i], others, (each < count).astype(float), jax.random.fold_in(key, i))

        moved: Moving = jax.lax.fori_loop(0, count, step, moving)
        return moved

    def prediction(self, moving: Moving, key: Array) -> Moving:
        """A step for each minibatch of the decisions in episodes with achievements, in a random order."""
        order_key, key = jax.random.split(key)
        order, count = shuffled(order_key, self.episodes.live)
        size = min(self.part.batch, self.episodes.size)

        def step(i: Array, moving: Moving) -> Moving:
            place = i * size + jnp.arange(size)
            rows = order[jnp.minimum(place, self.episodes.size - 1)]
            return self._predicted(moving, rows, (place < count).astype(float), jax.random.fold_in(key, i))

        moved: Moving = jax.lax.fori_loop(0, -(-count // size), step, moving)
        return moved

    def _matched(self, moving: Moving, source: Array, others: Array, known: Array, key: Array) -> Moving:
        """A step on an episode against others [J]; known: 1 where there is one."""
        negative_key, where_key = jax.random.split(key)
        own, present = self.episodes.of_episode(source, self.part.most)
        theirs, there = self.episodes.of_episode(others, self.part.most)
        there = there * known[:, None]
        count = jnp.maximum(there.sum(-1, keepdims=True), 1)
        shape = len(others), self.part.most
        wrong = (jax.random.uniform(negative_key, shape) * count).astype(jnp.int32)
        misc = self.episodes.somewhere(where_key, jnp.broadcast_to(source, shape))

        def loss(network: ActorCritic, _: Predictor, method: Any) -> tuple[Array, Any]:
            anchor, found = self.embedded(network, own), jax.lax.stop_gradient(self.embedded(network, theirs))
            cost = 1 - jax.lax.stop_gradient(anchor) @ jnp.swapaxes(found, -1, -2)
            rows = jnp.broadcast_to(present, shape)
            plan = partial_transport(cost, rows, there, self.part.regularisation, self.part.rounds)
            weights = (plan.max(-1) > 0.5).astype(float)
            positive, negative = (_taken(found, x) for x in (plan.argmax(-1), wrong))
            each = contrast(anchor, positive, negative, self.part.temperature)
            matched = masked_mean(each, weights)
            held, method, figures = self._held(network, misc, weights, method)
            return matched + held, (weights.sum() > 0, method, {"match_loss": matched, "matchings": 1.0, **figures})

        parameters, state, method, sums = self._moved(moving, moving.matching, loss)
        return Moving(parameters, state, moving.prediction, method, sums)

    def _predicted(self, moving: Moving, rows: Array, weights: Array, key: Array) -> Moving:
        """A step on decisions [B]."""
        elsewhere = self.episodes.somewhere(key, self.episodes.number[rows])

        def loss(network: ActorCritic, predictor: Predictor, method: Any) -> tuple[Array, Any]:
            upcoming, more = self.episodes.next[rows], self.episodes.more[rows]
            anchor = jax.lax.stop_gradient(self.embedded(network, upcoming, more))
            here, there = (self.predicted(network, predictor, x) for x in (rows, elsewhere))
            missed = masked_mean(contrast(anchor, here, there, self.part.temperature), weights)
            nearer = masked_mean(((anchor * (here - there)).sum(-1) > 0).astype(float), weights)
            both, twice = jnp.concatenate([rows, elsewhere]), jnp.concatenate([weights, weights])
            held, method, figures = self._held(network, both, twice, method)
            told = {"pred_loss": missed, "pred_accuracy": nearer, "predictions": 1.0}
            return missed + held, (weights.sum() > 0, method, {**told, **figures})

        parameters, state, method, sums = self._moved(moving, moving.prediction, loss)
        return Moving(parameters, moving.matching, state, method, sums)

    def predicted(self, network: ActorCritic, predictor: Predictor, rows: Array) -> Array:
        """What the predictor makes of decisions [...]: [..., F]."""
        seen = self.episodes.seen
        action = jax.nn.one_hot(seen.action[rows], self.phase.spec.actions.outputs)
        return predictor(self._features(network, rows), action, seen.memory[rows])

    def _features(self, network: ActorCritic, rows: Array) -> Array:
        seen = self.episodes.seen
        memory = network.core.remembering(seen.memory[rows])  # type: ignore[union-attr]
        whole = network.advance(Inputs(seen.observation[rows], None, jnp.zeros(rows.shape), memory))
        return whole[..., : whole.shape[-1] // 2]

    def embedded(self, network: ActorCritic, rows: Array, more: Array | None = None) -> Array:
        """Embeddings of what decisions [...] achieved; where `more` is false of what never comes: [..., F]."""
        after = self._features(network, jnp.minimum(rows + 1, self.episodes.size - 1))
        if more is not None:
            after = jnp.where(more[..., None], after, 0.0)
        return unit(after - self._features(network, rows))

    def _held(
        self, network: ActorCritic, rows: Array, weights: Array, method: Any
    ) -> tuple[Array, Any, dict[str, Array]]:
        """What it costs to leave the old policy and the value's targets at decisions [...], and the method's state."""
        seen = self.episodes.seen
        rows, weights = rows.reshape(-1, 1), weights.reshape(-1, 1)
        memory = network.core.remembering(seen.memory[rows])  # type: ignore[union-attr]
        inputs = Inputs(seen.observation[rows], None, jnp.zeros(rows.shape), memory)
        dist, value, _ = network(inputs)
        policy = masked_mean(dist.kl(self.old.policy(inputs)), weights)
        d = tr.Decisions(value=value, returns=seen.returns[rows], mask=weights)
        fit, known = self.phase.method.objective.value, method.get(_VALUE)  # type: ignore[attr-defined]
        error = 2 * masked_mean(fit.given(known)(d), weights)
        if known is not None:
            method = {**method, _VALUE: fit.update(known, d, 0.0)}
        figures = {"policy_distance": policy, "value_distance": error, "steps": 1.0}
        return self.part.policy * policy + self.part.value * error, method, figures

    def _moved(self, moving: Moving, state: Any, loss: Any) -> tuple[Any, Any, Any, dict[str, Array]]:
        """A step down `loss`; none where nothing counts."""

        def objective(parameters: Any) -> tuple[Array, Any]:
            network, predictor = self.unpack(parameters)
            found: tuple[Array, Any] = loss(network, predictor, moving.method)
            return found

        parameters, after, _, (counts, method, figures) = self.phase.descent.step(objective, moving.parameters, state)
        sums = {name: x + figures.get(name, 0.0) for name, x in moving.sums.items()}
        new, old = (parameters, after, method, sums), (moving.parameters, state, moving.method, moving.sums)
        kept: tuple[Any, Any, Any, dict[str, Array]] = jax.tree.map(lambda a, b: jnp.where(counts, a, b), new, old)
        return kept


def _taken(embeddings: Array, place: Array) -> Array:
    """Of embeddings [J, K, F] those at `place` [J, R]: [J, R, F]."""
    return jnp.take_along_axis(embeddings, place[..., None], axis=1)


@phase.register
def _(
    part: AchievementDistillation, method: Method, plan: Plan, spec: EnvSpec, architecture: Architecture
) -> AchievementPhase:
    assert isinstance(method.heads, AchievementMemory)
    return AchievementPhase(part, method, plan, spec, architecture)
