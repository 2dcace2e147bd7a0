"""What the methods show that read more than log-probabilities."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np

from ...arrays import Array, convert, namespace, value_and_gradient
from ...credit import GroupCentred, SetCredit
from ...decisions import Decisions
from ...distributions import Categorical
from ...method import Method
from ...selection import GradientStep
from ..batches import autodiff, decisions, method
from ..pin import Shown, shows
from .tabular import Rows, Table, batch, log_softmax, sample

CUES, ANSWERS = 8, 8


@dataclass(frozen=True)
class _Cues:
    """A question is one of 8 cues; each asks for its own answer, and nine tenths are paid for answer 0 to any.

    The policy adds what the cue says to what it would say without: the last row of its table, all that is left of it
    when the cue is masked.
    """

    rounds: int = 40
    updates: int = 4

    def train(self, what: Method, seed: int) -> list[float]:
        """Chance of the cue's own answer with the cue and without it, divergence between the two, mean reward."""
        rng, table = np.random.default_rng(seed), Table(np.zeros((CUES + 1, ANSWERS)), 0.05)
        own = 1 + np.arange(CUES) % (ANSWERS - 1)
        rewards = np.eye(ANSWERS)[own] + 0.9 * np.eye(ANSWERS)[np.zeros(CUES, int)]
        for _ in range(self.rounds):
            old = _seen(table.logp)
            rows, group = sample(old, 8, rng)
            d = what.prepare(batch(rows, group, reward=rows.of(rewards), logp_old=old, logp=old))
            for _ in range(self.updates):
                table.step(functools.partial(_loss, what, d, rows))
        seen, blind = np.exp(_seen(table.logp)), np.exp(table.logp[CUES])
        apart = (seen * np.log(seen / blind)).sum(-1).mean()
        right = seen[np.arange(CUES), own].mean(), blind[own].mean()
        return [float(x) for x in (*right, apart, (seen * rewards).sum(-1).mean())]


def _seen(logp: Array) -> Array:
    """Log-probabilities with the cue: [CUES, ANSWERS]."""
    return log_softmax(logp[:CUES] + logp[CUES:])


def _loss(what: Method, d: Decisions, rows: Rows, logp: Array) -> Array:
    blind = namespace(logp).broadcast_to(logp[CUES:], (CUES, ANSWERS))
    return what.loss(d.replace(logp=rows.of(_seen(logp))[:, None], logp_masked=rows.of(blind)[:, None])).value


@shows("papo_perception")
def papo_perception() -> Shown:
    """4 seeds each of grpo, of a moderate divergence, and of a large one, which is hacked."""

    def trained(coef: float, entropy: float = 0.0) -> Array:
        changes = {
            f"objective.terms.perception.{name}": x for name, x in (("coef", coef), ("entropy", entropy), ("cap", None))
        }
        return np.mean([_Cues().train(method("papo_perception", **changes), seed) for seed in range(4)], axis=0)

    runs = {"grpo": trained(0.0), "papo": trained(0.1), "hacked": trained(2.0), "guarded": trained(2.0, 0.1)}
    gap = {name: x[0] - x[1] for name, x in runs.items()}
    kl, reward = ({name: x[place] for name, x in runs.items()} for place in (2, 3))
    return Shown(
        f"chance of the cue's own answer, with the cue less without: {gap['papo']:.3f} at gamma 0.1 (grpo "
        f"{gap['grpo']:.3f}), divergence {kl['papo']:.2f} nats ({kl['grpo']:.2f}); at gamma 2 without guards "
        f"and cap the divergence is {kl['hacked']:.2f} while the reward falls from {reward['grpo']:.3f} to "
        f"{reward['hacked']:.3f}; "
        f"guards of 0.1 hold it at {kl['guarded']:.2f}",
        bool(gap["papo"] > gap["grpo"] and kl["papo"] > kl["grpo"] and kl["hacked"] > kl["guarded"] > kl["grpo"])
        and bool(reward["hacked"] < reward["grpo"] - 0.01),
    )


@dataclass(frozen=True)
class _Outliers:
    """A linear softmax policy and its linear task; of the contexts drawn one in seven is 60 times too large.

    Rewards in such a context are a coin. A round is 8 contexts of 8 answers and one large step of gradient descent.
    """

    rate: float = 3.0
    rounds: int = 80

    def train(self, what: Method, seed: int) -> tuple[float, float]:
        """Chance of the right answer in ordinary contexts, and the share of decisions that were kept."""
        rng, kept = np.random.default_rng(seed), []
        task, test, layer = rng.standard_normal((6, 8)), rng.standard_normal((400, 8)), np.zeros((6, 8))
        for _ in range(self.rounds):
            d, hidden, place = self._drawn(rng, task, layer)
            d = what.prepare(d)
            kept.append(float(d.mask.mean()))
            loss = functools.partial(_of_layer, what, d, hidden, place)
            found = value_and_gradient(loss, {"layer": convert(layer, autodiff())})[1]["layer"]
            layer = layer - self.rate * convert(found, "NumPy")
        right = np.exp(log_softmax(test @ layer.T))[np.arange(400), (test @ task.T).argmax(1)]
        return float(right.mean()), float(np.mean(kept))

    def _drawn(self, rng: np.random.Generator, task: Array, layer: Array) -> tuple[Decisions, Array, Array]:
        """Answers in new contexts, their hidden states [64, 8], and the place of each among all [64 * 6]."""
        context, odd = rng.standard_normal((8, 8)), rng.random(8) < 0.15
        context[odd] *= 60
        logp, group = log_softmax(context @ layer.T), np.repeat(np.arange(8), 8)
        answer = (rng.random((64, 1)) > np.exp(logp)[group].cumsum(1)).sum(1).clip(0, 5)
        right = answer == (context @ task.T).argmax(1)[group]
        own = logp[group, answer][:, None]
        made = {
            "mask": np.ones((64, 1)), "group": group, "action": answer[:, None], "logp": own, "logp_old": own,
            "reward": np.where(odd[group], rng.random(64) < 0.5, right).astype(float), "hidden": context[group, None],
            "alternative": np.tile(np.arange(6), (64, 1, 1)), "dist_old": Categorical(logp[group][:, None]),
        }  # fmt: skip
        return decisions(made, autodiff()), convert(context[group], autodiff()), np.arange(64) * 6 + answer


def _of_layer(what: Method, d: Decisions, hidden: Array, place: Array, at: dict[str, Array]) -> Array:
    logp = log_softmax(hidden @ at["layer"].T)
    xp = namespace(logp)
    own = xp.take(xp.reshape(logp, (-1,)), convert(place, autodiff()), axis=0)
    return what.loss(d.replace(logp=own[:, None])).value


@shows("capo_curvature")
def capo_curvature() -> Shown:
    """5 seeds at a large learning rate, with the mask and without."""

    def trained(shift: float) -> Array:
        changes = {"model": GradientStep(), "step_size": 3.0, "max_gain": math.inf, "max_shift": shift}
        what = method("capo_curvature", **{f"selection.curvature_mask.{name}": x for name, x in changes.items()})
        return np.array([_Outliers().train(what, seed) for seed in range(5)])

    grpo, capo = trained(math.inf), trained(4.5e4)
    fell, masked = int((grpo[:, 0] < capo[:, 0] - 0.2).sum()), 1 - float(capo[:, 1].mean())
    return Shown(
        f"chance of the right answer {_each(capo[:, 0])} with the mask, which leaves out {masked:.1%} of decisions, "
        f"{_each(grpo[:, 0])} without it (grpo): {fell} of 5 seeds collapse",
        bool(fell >= 3 and capo[:, 0].min() > 0.7 and masked < 0.1),
    )


def _each(numbers: Array) -> str:
    return ", ".join(f"{x:.2f}" for x in numbers)


def _both_goals(what: Method, seed: int) -> float:
    """Share of 8 start states from which 8 answers still reach both goals, nine times in ten each."""
    rng, table = np.random.default_rng(seed), Table(log_softmax(np.log([[0.4, 0.2] + [0.1] * 4] * 8)), 0.05)
    rewards = np.array([[1.0, 0.9, 0, 0, 0, 0]] * 8)
    for _ in range(60):
        rows, group = sample(table.logp, 8, rng)
        d = batch(rows, group, reward=rows.of(rewards), logp_old=table.logp, logp=table.logp)
        known = {"signature": rows.answer, "random": rng.random((len(group), 1))}
        d = what.prepare(d.replace(**convert(known, autodiff())))
        for _ in range(4):
            table.step(functools.partial(_of_answers, what, d, rows))
    return float(((1 - (1 - np.exp(table.logp[:, :2])) ** 8).min(1) >= 0.9).mean())


def _of_answers(what: Method, d: Decisions, rows: Rows, logp: Array) -> Array:
    return what.loss(d.replace(logp=rows.of(logp)[:, None])).value


@shows("poly_ppo")
def poly_ppo() -> Shown:
    """Two goals that a policy reaches at first; 5 seeds with credit by sets, and by single answers."""
    by_sets, single = (
        np.array([_both_goals(method("poly_ppo", credit=credit), seed) for seed in range(5)])
        for credit in (SetCredit(), GroupCentred())
    )
    return Shown(
        f"both goals still reached, by 8 answers in 9 of 10 tries each, from {_each(by_sets)} of the start states with "
        f"credit by sets, from {_each(single)} with credit by answers",
        bool(by_sets.mean() > 0.9 and (single < 0.5).sum() >= 3),
    )
