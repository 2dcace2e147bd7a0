"""What the surrogates with a drift or a divergence of their own show when they run."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from ...arrays import Array, convert, namespace
from ...decisions import Decisions
from ...method import Method
from ..batches import autodiff, gradient, method
from ..pin import Shown, shows
from .rollouts import Rollouts, mean
from .tabular import Problem, Rows, Table, batch, log_softmax, problem

LAST = slice(-1, None)
FORMS = ("", "_reinforce")


def _rpg(variant: str, beta: float) -> Method:
    made = method("rpg_kl", variant=variant)
    return made.override({next(p for p in made.settings() if p.endswith("controller.coef")): beta})


@shows("rpg_kl")
def rpg_kl() -> Shown:
    """The loss on every answer of four prompts, weighed by the old policy: where it ends, and where it should."""
    world = problem(4, 6)
    exact = {"rkl": world.optimum(world.rewards), "fkl": _forward_optimum(world)}
    names = [f"{u}{name}{form}" for name, u, form in itertools.product(exact, ("", "u"), FORMS)]
    found = {name: _descend(_rpg(name, 1.0), world) for name in names}
    gap = max(float(np.abs(np.exp(x) - np.exp(exact[name.lstrip("u")[:3]])).max()) for name, x in found.items())
    runs = {
        beta: [Rollouts(problem(16, 16), rounds=20, updates=16).train(_rpg("ufkl_reinforce_clip", beta), seed)
               for seed in range(2)]
        for beta in (1e-4, 1.0)
    }  # fmt: skip
    moved = {beta: mean(run, "kl_k3") for beta, run in runs.items()}
    reward = [mean(runs[1e-4], "reward", end) for end in (slice(0, 1), LAST)]
    return Shown(
        f"four directions, either form: probabilities end within {gap:.0e} of the exact optimum at beta = 1; with the "
        f"clip, 16 updates per rollout: reward {reward[0]:.2f} -> {reward[1]:.2f}; KL of a rollout {moved[1e-4]:.3f}, "
        f"and {moved[1.0]:.3f} at beta = 1",
        gap < 1e-3 and reward[1] > reward[0] + 0.5 and moved[1.0] < moved[1e-4],
    )


def _descend(what: Method, world: Problem) -> Array:
    """Log-probabilities after 400 steps of Adam on the expected loss under the reference."""
    rows = Rows(*np.indices(world.rewards.shape).reshape(2, -1))
    weights = convert(np.exp(rows.of(world.reference)), autodiff())
    d = batch(rows, rows.prompt, advantage=world.rewards, logp=world.reference, logp_old=world.reference)
    table = Table(world.reference, 0.05)

    def loss(logp: Array) -> Any:
        each = what.loss(d.replace(logp=rows.of(logp)[:, None])).per_decision[:, 0]
        return namespace(each).sum(each * weights)

    for _ in range(400):
        table.step(loss)
    return table.logp


def _forward_optimum(world: Problem) -> Array:
    """argmax of E_pi[R] - KL(ref || pi): pi = ref / (m - R), with the m > max R that normalises it, by halving."""
    low = world.rewards.max(-1, keepdims=True)
    high = low + 1.0
    for _ in range(60):
        middle = (low + high) / 2
        over = (np.exp(world.reference) / (middle - world.rewards)).sum(-1, keepdims=True) > 1
        low, high = np.where(over, middle, low), np.where(over, high, middle)
    return log_softmax(world.reference - np.log(high - world.rewards))


@shows("gpg")
def gpg() -> Shown:
    """One group of right and wrong answers, joined by up to three in which all are right; and a training."""
    norms = {
        name: [_norm(method("gpg", **changes), silent) for silent in range(4)]
        for name, changes in {"factor": {}, "without": {"credit.cap": 1.0}}.items()
    }
    same = max(norms["factor"]) / min(norms["factor"]) - 1
    run = Rollouts(problem(16, 16), rounds=30, updates=1, rate=0.2).train(method("gpg"))
    return Shown(
        f"the gradient's norm stays within {same:.0e} as groups without a signal join; without the factor it falls to "
        f"{norms['without'][-1] / norms['without'][0]:.2f} of itself; reward {run[0]['reward']:.2f} -> "
        f"{run[-1]['reward']:.2f}",
        same < 1e-6 and norms["without"][-1] < 0.3 * norms["without"][0] and run[-1]["reward"] > 1.0,
    )


def _norm(what: Method, silent: int) -> float:
    rng = np.random.default_rng(0)
    rewards = np.concatenate([np.array([1.0, 0, 0, 1]), np.ones(4 * silent)])
    d = Decisions(
        logp=-rng.random((len(rewards), 5)),
        mask=np.ones((len(rewards), 5)),
        reward=rewards,
        group=np.arange(len(rewards)) // 4,
    )
    return float(np.linalg.norm(gradient(what, what.prepare(d))))


@shows("cpgd")
def cpgd() -> Shown:
    """One bad decision of ratio 50; then 16 large steps per rollout from noisy rewards."""
    d = Decisions(logp=np.log([[50.0, 1.0]]), logp_old=np.zeros((1, 2)), advantage=-np.ones((1, 2)))
    pull = {key: float(np.abs(gradient(method(key, **TOKENS[key]), d)).max()) for key in TOKENS}
    rollouts = Rollouts(problem(16, 16), rounds=20, updates=16, size=16, rate=0.2, noise=1.0)
    changes = {"cpgd": {}, "unclipped": {"objective.surrogate": "PolicyGradient", "objective.trust": None}}
    runs = {name: [rollouts.train(method("cpgd", **c), seed) for seed in range(2)] for name, c in changes.items()}
    reward = {name: mean(run, "reward", LAST) for name, run in runs.items()}
    moved = {name: mean(run, "kl_k3", slice(0, 1)) for name, run in runs.items()}
    return Shown(
        f"a ratio of 50 pulls by {pull['cpgd']:.2f} (ppo: {pull['ppo_clip']:.0f}); 16 updates per rollout: KL of the "
        f"first rollout {moved['cpgd']:.2f}, {moved['unclipped']:.2f} without clip and drift; reward "
        f"{reward['cpgd']:.2f}, {reward['unclipped']:.2f}",
        pull["cpgd"] <= 1.01 and moved["cpgd"] < moved["unclipped"] and reward["cpgd"] > reward["unclipped"],
    )


TOKENS: dict[str, dict[str, Any]] = {
    "cpgd": {"objective.aggregate": "TokenSum"},
    "ppo_clip": {"objective.aggregate": "TokenSum", "objective.value.coef": 0.0, "objective.standardise": False},
}


@shows("minirl")
def minirl() -> Shown:
    """All answers of two tokens out of three, sampled from a perturbed policy: the gradient of the whole answers.

    And two experts, one for each token, whose router is computed a little otherwise where answers are sampled.
    """
    gaps = [_first_order_gap(size) for size in (0.0, 0.01, 0.02)]
    replayed, free = (_largest_log_ratio(replay) for replay in (True, False))
    run = Rollouts(problem(16, 16), rounds=30, updates=2, rate=0.1).train(method("minirl"))
    return Shown(
        f"the gradient by tokens misses that by answers by {gaps[2]:.1e}, with half the perturbation by "
        f"{gaps[1]:.1e}, a ratio of {gaps[2] / gaps[1]:.2f}, without any by {gaps[0]:.0e}; of two experts the largest "
        f"|log r| is {replayed:.2f} with the sampler's choice replayed, {free:.2f} without; reward "
        f"{run[0]['reward']:.2f} -> {run[-1]['reward']:.2f}",
        gaps[0] < 1e-12 and 1.6 < gaps[2] / gaps[1] < 2.4 and replayed < 0.5 * free and run[-1]["reward"] > 1.0,
    )


def _largest_log_ratio(replay: bool) -> float:
    """Largest |log pi - log mu| over 500 tokens, mu's router having noise; replay: pi takes the expert that mu took."""
    rng = np.random.default_rng(0)
    x, experts, router = rng.standard_normal((500, 4)), rng.standard_normal((2, 6, 4)), rng.standard_normal((2, 4))
    scores = x @ router.T
    noisy = scores + 0.05 * rng.standard_normal(scores.shape)
    token = rng.integers(0, 6, 500)

    def logp(scores: Array, chosen: Array) -> Array:
        gate = np.exp(log_softmax(scores))[np.arange(500), chosen]
        logits = gate[:, None] * np.einsum("nvh,nh->nv", experts[chosen], x)
        return log_softmax(logits)[np.arange(500), token]

    taken = noisy.argmax(1)
    own = logp(scores, taken if replay else scores.argmax(1))
    return float(np.abs(own - logp(noisy, taken)).max())


def _first_order_gap(size: float) -> float:
    """|gradient weighed by answers - gradient weighed by tokens| in expectation over the sampling policy."""
    rng = np.random.default_rng(0)
    policy = log_softmax(rng.standard_normal((4, 3)))  # the first token from row 0, the second from row 1 + first
    sampler = log_softmax(policy + size * rng.standard_normal((4, 3)))
    first, second = np.divmod(np.arange(9), 3)
    place = (np.stack([np.zeros(9, int), 1 + first], 1), np.stack([first, second], 1))
    logp, behaviour = policy[place], sampler[place]
    reward = rng.standard_normal(9)
    chance = np.exp(behaviour.sum(1))
    what = method("minirl", **{"objective.aggregate": "TokenSum"})
    d = Decisions(
        logp=logp, logp_old=logp, logp_behaviour=behaviour, advantage=np.broadcast_to(reward[:, None], (9, 2)).copy()
    )
    by_tokens = -gradient(what, d) * chance[:, None]
    by_answers = (np.exp(logp.sum(1)) * reward)[:, None] * np.ones((1, 2))
    return float(np.linalg.norm(_by_logits(by_tokens - by_answers, place, policy)))


def _by_logits(pull: Array, place: tuple[Array, Array], policy: Array) -> Array:
    """Gradient by the logits of the table, from that by the log-probabilities of the tokens."""
    total = np.zeros_like(policy)
    np.add.at(total, place, pull)
    return total - np.exp(policy) * total.sum(1, keepdims=True)
