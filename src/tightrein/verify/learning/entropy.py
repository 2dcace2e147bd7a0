"""What the methods that look at the entropy, or at what answers share, show when they run."""

from __future__ import annotations

import functools

import numpy as np

from ...arrays import Array, convert, namespace
from ...decisions import Decisions
from ...method import Method
from ..batches import autodiff, decisions, fields, gradient, method
from ..pin import Shown, shows
from .language import language_run
from .rollouts import Rollouts
from .solvers import column
from .tabular import Problem, Rows, Table, entropy, log_softmax, problem, sample

SHORT = {"prompts": 64, "group_size": 8, "eval_every": 24, "checkpoint_every": 1000}


@shows("hapo")
def hapo() -> Shown:
    """Widths by uncertainty, and advantages whose sum over a group's tokens is 0, in a run of the embedded model."""
    lines = language_run("hapo", updates=24, minibatches=4, **SHORT)
    start, end = lines[0]["eval_accuracy"], lines[-1]["eval_accuracy"]
    wide, narrow = column(lines, "width_uncertain"), column(lines, "width_certain")
    made = fields(0, method("hapo"), rows=64, width=32)
    prepared = method("hapo").prepare(decisions(made))
    sums = [float(np.abs(np.sum((prepared.advantage * made["mask"])[made["group"] == g]))) for g in set(made["group"])]
    return Shown(
        f"held-out accuracy {start:.2f} -> {end:.3f} in 24 updates; mean upper width {wide.mean():.3f} on the fifth of "
        f"the tokens that is most uncertain, {narrow.mean():.3f} on the rest; advantages of a group sum to at most "
        f"{max(sums):.0e} over its tokens",
        bool(end > 0.9 and (wide > narrow).all() and max(sums) < 1e-5),
    )


@shows("espo_entropy")
def espo_entropy() -> Shown:
    """Random batches with one outlier an answer: how many decisions are left without a gradient."""
    espo, gspo = method("espo_entropy"), method("gspo_token")
    idle = {"espo": 0.0, "gspo": 0.0}
    for seed in range(10):
        d = _with_outliers(espo, seed)
        kept = d.mask != 0
        idle["espo"] += float(np.mean(gradient(espo, d)[kept] == 0)) / 10
        idle["gspo"] += float(np.mean(gradient(gspo, d)[kept] == 0)) / 10
    lines = language_run("espo_entropy", updates=24, minibatches=4, **SHORT)
    start, end = lines[0]["eval_accuracy"], lines[-1]["eval_accuracy"]
    return Shown(
        f"with one certain decision an answer whose ratio is e, {idle['espo']:.0%} of the decisions have no gradient "
        f"(gspo_token {idle['gspo']:.0%}); held-out accuracy {start:.2f} -> {end:.3f} in 24 updates",
        idle["espo"] <= idle["gspo"] and end > start + 0.1,
    )


def _with_outliers(espo: Method, seed: int) -> Decisions:
    """Answers on the old policy but for the most certain decision of each, which has moved by one nat."""
    made = fields(seed, espo, rows=64, width=20)
    certain = np.where(made["mask"] != 0, made["entropy_old"], np.inf).argmin(axis=1)
    rng = np.random.default_rng(seed)
    made["logp"] = made["logp_old"] + 1e-4 * rng.standard_normal(made["logp_old"].shape)
    made["logp"][np.arange(64), certain] += rng.choice([-1.0, 1.0], 64)
    return espo.prepare(decisions(made))


@shows("erc")
def erc() -> Shown:
    """8 updates per rollout: how far a rollout moves the entropy, with and without the band."""
    rollouts = Rollouts(problem(16, 16), rounds=12)
    runs = {
        name: [_with_entropy(rollouts, method("erc", **changes), seed) for seed in range(5)]
        for name, changes in {"band": {}, "base": {"objective.correction": None}}.items()
    }
    moved = {name: float(np.mean([np.abs(np.diff(run)).mean() for run, _ in found])) for name, found in runs.items()}
    kept = float(np.mean([shares for _, shares in runs["band"]]))
    return Shown(
        f"mean |change of the mean entropy| per rollout {moved['band']:.3f} nats with the band, {moved['base']:.3f} "
        f"without (5 seeds); at the end of a rollout {kept:.0%} of the answers are still in the band",
        moved["band"] < moved["base"] and 0 < kept <= 1,
    )


def _with_entropy(rollouts: Rollouts, what: Method, seed: int) -> tuple[list[float], list[float]]:
    """The mean entropy after each rollout, and the share of the answers in the band at its end."""
    rng, table = np.random.default_rng(seed), Table(rollouts.problem.reference, rollouts.rate)
    measured, kept = [entropy(table.logp)], []
    for _ in range(rollouts.rounds):
        old = table.logp
        rows, group = sample(old, rollouts.size, rng)
        reward = rows.of(rollouts.problem.rewards)
        d = what.prepare(_answers(rows, group, reward, old, entropy_old=_entropies(old)[rows.prompt]))
        for _ in range(rollouts.updates):
            table.step(functools.partial(_loss, what, d, rows))
        now = _entropies(table.logp)[rows.prompt] / _entropies(old)[rows.prompt]
        kept.append(float(np.mean((now > 0.95) & (now < 1.05))))
        measured.append(entropy(table.logp))
    return measured, kept


def _answers(rows: Rows, group: Array, reward: Array, old: Array, **more: Array) -> Decisions:
    """Answers of one token, in the library of the gradients; more: fields as [B] that become [B, 1]."""
    made = {"logp_old": rows.of(old)[:, None], "logp": rows.of(old)[:, None], "mask": np.ones((len(group), 1))}
    made |= {name: x[:, None] for name, x in more.items()}
    return decisions({**made, "reward": reward, "group": group, "prompt": rows.prompt}, autodiff())


def _entropies(logp: Array) -> Array:
    return -(np.exp(logp) * logp).sum(-1)


def _loss(what: Method, d: Decisions, rows: Rows, logp: Array) -> Array:
    """The loss under a table of log-probabilities in the library of the gradients."""
    xp = namespace(logp)
    whole = xp.take(logp, convert(rows.prompt, autodiff()), axis=0)
    spread = -xp.sum(xp.exp(whole) * whole, axis=-1)
    return what.loss(d.replace(logp=rows.of(logp)[:, None], entropy=spread[:, None])).value


@shows("dcpo_distribution")
def dcpo_distribution() -> Shown:
    """A bandit started with more and with less entropy than the target: the distance after 100 updates."""
    rng = np.random.default_rng(0)
    arms = (np.arange(8) < 6).astype(float) * np.ones((16, 1))
    told, holds = [], True
    for name, sharpness in {"below": 8.0, "above": 0.1}.items():
        world = Problem(arms, log_softmax(sharpness * rng.standard_normal((16, 8))))
        start, end, alone = np.mean([_steered(world, seed) for seed in range(3)], axis=0)
        told.append(
            f"started {name}, entropy {start[0]:.2f} -> {end[0]:.2f} (target 1; {alone[0]:.2f} without it), reward "
            f"{start[1]:.2f} -> {end[1]:.2f}"
        )
        holds = holds and abs(end[0] - 1) < abs(start[0] - 1) and end[1] > start[1]
    return Shown(f"{'; '.join(told)} (3 seeds, 100 updates)", bool(holds))


def _steered(world: Problem, seed: int) -> Array:
    """Entropy and expected reward at the start, after 100 updates, and after as many of grpo: [3, 2]."""
    steered, alone = (_trained(world, method("dcpo_distribution", target=1.0, most=most), seed) for most in (0.1, 1e-9))
    return np.array([_measured(Table(world.reference), world), _measured(steered, world), _measured(alone, world)])


def _measured(table: Table, world: Problem) -> tuple[float, float]:
    return entropy(table.logp), float((np.exp(table.logp) * world.rewards).sum(-1).mean())


def _trained(world: Problem, what: Method, seed: int) -> Table:
    rng, table, state = np.random.default_rng(seed), Table(world.reference, 0.03), convert(what.init(), autodiff())
    for turn in range(100):
        old = table.logp
        rows, group = sample(old, 64, rng)
        hot, cold = (rows.of(log_softmax(old / t)) for t in what.credit.temperatures)  # type: ignore[union-attr]
        d = _answers(rows, group, rows.of(world.rewards), old)
        d = d.replace(logp_tempered=convert(np.stack([hot, cold], -1)[:, None], autodiff()))
        d = what.prepare(d, state)
        for _ in range(2):
            table.step(functools.partial(_loss, what, d, rows))
        now = convert(rows.of(table.logp)[:, None], autodiff())
        state = what.update(state, d.replace(logp=now), turn / 100)
    return table
