"""What the methods of pairs, of relative rewards and of reward models promise, on problems with known answers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ...arrays import Array, convert, double_precision
from ...catalogue import method
from ...method import Method
from ...objective.pair import PairObjective
from ..batches import autodiff
from ..pin import Shown, shows
from .language import language_run
from .tabular import Problem, Rows, Table, all_pairs, batch, kl, log_softmax, problem, sample

STEPS = 1000


def expected_pairs(objective: PairObjective, given: Problem, law: Array) -> Callable[[Array], Array]:
    """The expected loss over pairs of answers, each drawn by `law`, with labels of the preference model."""
    rows, group = all_pairs(*given.rewards.shape)
    count = len(group) // 2
    first, second = (Rows(rows.prompt[half], rows.answer[half]) for half in (slice(count), slice(count, None)))
    labels = given.preferences()[first.prompt, first.answer, second.answer]
    weights = convert(first.of(law) * second.of(law) * labels, autodiff())
    d = batch(rows, group, logp_ref=given.reference, chosen=np.repeat([1.0, 0.0], count))

    def loss(logp: Array) -> Array:
        margin, _ = objective.margins(d.replace(logp=rows.of(logp)[:, None]))
        return (weights * objective.link(margin[:count])).sum() / weights.sum()

    return loss


def fitted(loss: Callable[[Array], Array], start: Array, steps: int = STEPS) -> Array:
    """Log-probabilities after `steps` steps of Adam from `start`."""
    table = Table(start)
    for _ in range(steps):
        table.step(loss)
    return table.logp


@shows("dpo")
@double_precision()
def dpo() -> Shown:
    """Bradley-Terry labels lead to pi_ref exp(r / beta) / Z; a language model learns preferences it has not seen."""
    given, m = problem(), method("dpo", beta=0.5)
    assert isinstance(m.objective, PairObjective)
    found = fitted(expected_pairs(m.objective, given, np.exp(given.reference)), given.reference)
    distance = kl(given.optimum(given.rewards / 0.5), found)
    first, *_, last = language_run("dpo", updates=40)
    pairs, before, after = last["eval_pairs"], first["eval_accuracy"], last["eval_accuracy"]
    says = (
        f"KL to the optimal policy {distance:.0e} after {STEPS} steps; embedded model, 40 updates on pairs: held-out "
    )
    says += f"pairs {pairs:.0%} right, exact match {before:.0%} -> {after:.0%}"
    return Shown(says, distance < 1e-4 and pairs > 0.9 and after > before)


@shows("ipo")
@double_precision()
def ipo() -> Shown:
    """The optimum is pi_ref exp(p*(y > mu) / tau) / Z; a sure preference does not drive the margin away."""
    given, tau = problem(), 0.5
    m = method("ipo", beta=tau)
    assert isinstance(m.objective, PairObjective)
    wins = np.einsum("pij,pj->pi", given.preferences(), np.exp(given.reference))
    found = fitted(expected_pairs(m.objective, given, np.exp(given.reference)), given.reference)
    distance = kl(given.optimum(wins / tau), found)
    margins = {key: _margin_of_a_sure_preference(method(key, beta=tau)) for key in ("ipo", "dpo")}
    says = (
        f"KL to the closed form {distance:.0e}; one sure preference: margin {margins['ipo']:.3f} = 1 / (2 beta), DPO's "
    )
    holds = distance < 1e-5 and abs(margins["ipo"] - 1 / (2 * tau)) < 1e-3 and margins["dpo"] > 5
    return Shown(f"{says}{margins['dpo']:.1f} and growing", holds)


def _margin_of_a_sure_preference(m: Method) -> float:
    start = log_softmax(np.zeros((1, 2)))
    rows = Rows(np.zeros(2, int), np.arange(2))
    d = batch(rows, np.zeros(2, int), logp_ref=start, chosen=np.array([1.0, 0.0]))
    logp = fitted(lambda logp: m.loss(d.replace(logp=rows.of(logp)[:, None])).value, start, 1000)
    return float((logp - start)[0] @ [1, -1])


@shows("tr_dpo")
@double_precision()
def tr_dpo() -> Shown:
    """The moving reference lets the policy go further, for no loss of accuracy, and moves exactly when it should."""
    given, rng = problem(), np.random.default_rng(1)
    rows, group = sample(given.reference, 2, rng, np.repeat(np.arange(16), 60))
    one, other = rows.answer[::2], rows.answer[1::2]
    first = rng.random(len(one)) < given.preferences()[rows.prompt[::2], one, other]
    chosen = np.stack([first, ~first], axis=1).astype(float).ravel()
    ends = {}
    for alpha in (0.0, 0.6):
        m = method("tr_dpo", alpha=alpha, every=20, beta=0.5)
        ends[alpha] = _with_reference(m, rows, group, chosen, given)
    (still, exact, _), (moved, accuracy, moments) = ends[0.0], ends[0.6]
    further, near = kl(moved, given.reference), kl(still, given.reference)
    holds = further > near and accuracy > exact - 0.02 and moments == [20 * n for n in range(1, 11)]
    return Shown(f"KL from the start {further:.2f}, DPO's {near:.2f}; pair accuracy {accuracy:.0%}, {exact:.0%}", holds)


def _with_reference(
    m: Method, rows: Rows, group: Array, chosen: Array, given: Problem
) -> tuple[Array, float, list[int]]:
    """(log-probabilities, accuracy on all pairs, the steps after which the reference had moved) after 200 steps."""
    table, reference, moments = Table(given.reference, learning_rate=0.2), Table(given.reference), []
    for step in range(1, 201):
        d = batch(rows, group, logp_ref=reference.logp, chosen=chosen)
        table.step(lambda logp, d=d: m.loss(d.replace(logp=rows.of(logp)[:, None])).value)  # type: ignore[misc]
        before, weight = reference.logits, m.anchor.mix(step)
        reference.logits = weight * table.logits + (1 - weight) * before
        if (reference.logits != before).any():
            moments.append(step)
    ratio, (all_rows, _) = table.logp - given.reference, all_pairs(*given.rewards.shape)
    sides = [all_rows.of(x).reshape(2, -1) for x in (ratio, given.rewards)]
    right = [(side[0] > side[1]) for side in sides]
    return table.logp, float((right[0] == right[1]).mean()), moments


@shows("rebel")
@double_precision()
def rebel() -> Shown:
    """Ten exact solutions of its regression are ten steps of natural policy gradient."""
    given, eta = problem(), 0.2
    m = method("rebel", beta=1 / eta, **{"reward.kl_in_reward.coef": "0"})
    rows, group = all_pairs(*given.rewards.shape)
    policy = given.reference
    # Each pair counts twice: the loss is as curved in every direction of a prompt's centred logits.
    curvature = 2 * (1 / eta) ** 2 * 2 * given.rewards.shape[1] / (len(group) / 2)
    for _ in range(10):
        d = m.prepare(batch(rows, group, logp_old=policy, reward=rows.of(given.rewards)))
        table = Table(policy)
        for _ in range(2):
            table.logits -= table.gradient(lambda x, d=d: m.loss(d.replace(logp=rows.of(x)[:, None])).value) / curvature  # type: ignore[misc]
        policy = table.logp
    distance = kl(given.optimum(10 * eta * given.rewards), policy)
    return Shown(f"KL to pi_ref exp(10 eta r) / Z {distance:.0e} after 10 iterations", distance < 1e-10)
