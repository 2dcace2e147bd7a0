"""Exact properties of the methods of demonstrations."""

from __future__ import annotations

import math

import numpy as np

from ...arrays import Array, convert, value_and_gradient
from ...catalogue import method
from ...credit import Demonstrated
from ...decisions import Decisions
from ...distributions import Categorical
from ...method import Method
from ...objective.policy import Clip, PolicyGradient, PolicyObjective, TrustedLikelihood, Widths
from .. import batches
from ..batches import autodiff, coefficient, convert_decisions, gradient, loss_at
from ..pin import pin
from .preference import near, value


def shown(logp: Array, logp_old: Array | None = None, mask: Array | None = None) -> Decisions:
    """Demonstrations with the given log-probabilities."""
    d = Decisions(logp=logp, logp_old=logp if logp_old is None else logp_old, mask=np.ones_like(logp))
    return Demonstrated()(d if mask is None else d.replace(mask=mask))


def likely(p: float) -> Decisions:
    """One decision of probability p."""
    return shown(np.log([[p]]))


@pin("sft")
def averages() -> None:
    """Rows of one and three tokens with losses 1 and 2, 2, 2: token mean 1.75, sequence mean 1.5."""
    d = shown(-np.array([[1.0, 9, 9], [2, 2, 2]]), mask=np.array([[1.0, 0, 0], [1, 1, 1]]))
    near(value(method("sft"), d), 1.75, 1e-12)
    near(value(method("sft").variant("sequence_mean"), d), 1.5, 1e-12)


@pin("sft")
def softmax_minus_one_hot() -> None:
    """By the logits the gradient is softmax - one-hot: its rows sum to 0."""
    logits, action = np.array([[[0.3, -1.0, 2.0]]]), np.array([[1]])
    d = convert_decisions(shown(np.zeros((1, 1))), autodiff())

    def loss(moved: dict[str, Array]) -> Array:
        return method("sft").loss(d.replace(logp=Categorical(moved["logits"]).log_prob(there))).value

    there = convert(action, autodiff())
    _, found = value_and_gradient(loss, {"logits": convert(logits, autodiff())})
    near(convert(found["logits"], "NumPy"), np.exp(logits) / np.exp(logits).sum() - [[[0, 1, 0]]], 1e-12)


@pin("sft", "psft", "trsft")
def demonstrations_are_worth_one() -> None:
    """Every token of a demonstration has advantage 1, whatever the reward, and every masked one 0."""
    for key in ("sft", "psft", "trsft"):
        made = batches.fields(0, method(key))
        d = method(key).prepare(batches.decisions(made))
        near(d.advantage, made["mask"], 0)


@pin("psft")
def psft_numbers() -> None:
    """Ratio e^0.3: loss -1.28 without gradient; ratio 0.5: loss -0.5 with gradient, for the lower bound never acts."""
    surrogate = Clip(Widths(0.2, 0.28))
    near([loss_at(surrogate, r, 1.0) for r in (math.exp(0.3), 0.5)], [-1.28, -0.5], 1e-12)
    near([coefficient(surrogate, r, 1.0) for r in (math.exp(0.3), 0.5)], [0.0, -0.5], 1e-12)


@pin("psft")
def psft_starts_as_sft() -> None:
    """At the snapshot its gradient is that of plain fine-tuning; far bounds leave only the ratio as a weight."""
    d = shown(-np.random.default_rng(0).random((3, 4)))
    near(gradient(method("psft"), d), gradient(method("sft"), d), 1e-12)
    free = method("psft", high=1e6)
    moved = d.replace(logp_old=d.logp - 0.5)
    near(gradient(free, moved), gradient(method("sft"), moved) * math.exp(0.5), 1e-12)


@pin("psft")
def psft_is_bounded() -> None:
    """No decision's loss falls below -(1 + high)."""
    made = batches.fields(0, method("psft"), spread=5.0)
    loss = method("psft").loss(method("psft").prepare(batches.decisions(made)))
    assert loss.per_decision.min() >= -1.28


@pin("trsft")
def trsft_weights() -> None:
    """At alpha 0.1 decisions of probability 0.5, 0.05, 0.01 pull with weights 1, 0.5, 0.1."""
    near([gradient(method("trsft"), likely(p))[0, 0] for p in (0.5, 0.05, 0.01)], [-1, -0.5, -0.1], 1e-12)


@pin("trsft")
def trsft_between_sft_and_dft() -> None:
    """alpha = 0 has the gradient of the log-likelihood, alpha = 1 that of the likelihood."""
    logp = np.log(np.array([[0.9, 0.3, 0.02, 1e-12]]))
    near(gradient(method("trsft", alpha=0.0), shown(logp)), gradient(method("sft"), shown(logp)), 1e-12)
    near(gradient(method("trsft", alpha=1.0), shown(logp)), -np.exp(logp) / 4, 1e-12)


@pin("trsft")
def trsft_value_is_no_likelihood() -> None:
    """Its value is -1 wherever p >= alpha; the negative log-likelihood is in the statistics."""
    for p in (0.1, 0.4, 1.0):
        loss = method("trsft").loss(likely(p))
        near([float(loss.value), float(loss.stats["nll"])], [-1, -math.log(p)], 1e-12)


def mixed(right: list[int]) -> Decisions:
    """One prompt with rollouts of two tokens, right or wrong, and a demonstration as the last row."""
    rows = len(right) + 1
    logp = -np.random.default_rng(0).random((rows, 2)) - 0.1
    return Decisions(
        logp=logp, logp_old=logp, mask=np.ones((rows, 2)), group=np.zeros(rows, int), entropy=np.zeros((rows, 2)),
        reward=np.array([*right, 0], float), demonstration=np.array([0.0] * len(right) + [1.0]),
    )  # fmt: skip


def hpt(gate: float) -> Method:
    """HPT without its entropy bonus, for answers of up to two tokens."""
    return method("hpt", gate=gate, length=2).override({"objective.rollouts.entropy": 0.0})


@pin("hpt")
def the_gate_itself_asks_for_help() -> None:
    """A share of right answers at the gate exactly gives way to the demonstration; above it the rollouts stay."""
    kept = [hpt(0.25).prepare(mixed([1] * n + [0] * (8 - n))).mask[:, 0] for n in (1, 2, 3)]
    near(kept[0], [0] * 8 + [1], 0)
    near(kept[1], [0] * 8 + [1], 0)
    near(kept[2], [1] * 8 + [0], 0)


@pin("hpt")
def gates_at_the_ends() -> None:
    """gate = 1 is plain fine-tuning on the demonstrations; gate = -1 and all above any gate is Dr. GRPO."""
    d = mixed([1, 0, 1, 0])
    only = hpt(1.0).prepare(d)
    near(gradient(hpt(1.0), only)[-1:], gradient(method("sft"), shown(d.logp[-1:])), 0)
    assert not gradient(hpt(1.0), only)[:-1].any()
    own = Decisions(**{name: x[:-1] for name, x in vars(d).items() if x is not None})
    dr_grpo = method("dr_grpo", length=2)
    for gate in (-1.0, 0.0, 0.25):
        found = gradient(hpt(gate), hpt(gate).prepare(d))
        near(found[:-1], gradient(dr_grpo, dr_grpo.prepare(own)), 0)
        assert not found[-1].any()


@pin("hpt")
def demonstrations_do_not_shift_the_baseline() -> None:
    """The demonstration's reward takes no part in the mean of the rollouts."""
    d = mixed([1, 0, 1, 0])
    rewards = [d.replace(reward=np.array([1.0, 0, 1, 0, last])) for last in (0.0, 50.0)]
    near(hpt(0.0).prepare(rewards[0]).advantage, hpt(0.0).prepare(rewards[1]).advantage, 0)
    near(hpt(0.0).prepare(d).advantage[:, 0], [0.5, -0.5, 0.5, -0.5, 1], 1e-12)


@pin("hpt")
def unified_estimator() -> None:
    """Of every row of its table the gradient is -mask (p / p_ref) A: SFT, REINFORCE, PPO, PSFT, TrSFT, DFT."""
    rng = np.random.default_rng(0)
    logp, old = np.log(rng.uniform(0.02, 1, (6, 5))), np.log(rng.uniform(0.02, 1, (6, 5)))
    advantage, p, ones = rng.standard_normal((6, 5)), np.exp(logp), np.ones((6, 5))
    r = np.exp(logp - old)
    stable = 1.0 - (((advantage > 0) & (r > 1.2)) | ((advantage < 0) & (r < 0.8)))
    table = (
        (PolicyGradient(), ones, p),
        (PolicyGradient(), advantage, p),
        (Clip(Widths(0.2, 0.2)), advantage * stable, np.exp(old)),
        (Clip(Widths(0.2, 0.28)), ones * (r <= 1.28), np.exp(old)),
        (TrustedLikelihood(0.1), ones, np.maximum(p, 0.1)),
        (TrustedLikelihood(1.0), ones, ones),
    )
    given = (ones, advantage, advantage, ones, ones, ones)
    for (surrogate, weight, reference), credit in zip(table, given, strict=True):
        m = method("sft").replace(objective=PolicyObjective(surrogate))
        d = Decisions(logp=logp, logp_old=old, advantage=credit, mask=ones)
        near(30 * gradient(m, d), -weight * p / reference, 1e-9)
