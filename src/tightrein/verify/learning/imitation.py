"""What the methods of demonstrations promise, on tables and on a policy too small for its data."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...arrays import Array, convert, double_precision, namespace, value_and_gradient
from ...catalogue import method
from ...decisions import Decisions
from ...method import Method
from ..batches import autodiff, decisions
from ..pin import Shown, shows
from .preference import fitted
from .tabular import Rows, Table, batch, entropy, log_softmax, sample


def _corpus(rng: np.random.Generator, contexts: int, words: int, size: int, sharpness: float) -> Rows:
    """What an expert said: a word after each of `size` contexts, by a law of its own."""
    law = log_softmax(sharpness * rng.standard_normal((contexts, words)))
    return sample(law, 1, rng, rng.integers(0, contexts, size))[0]


def _shown(m: Method, rows: Rows, logp_old: Array) -> Decisions:
    d = batch(rows, np.arange(len(rows.prompt)), logp_old=logp_old, demonstration=np.ones(len(rows.prompt)))
    return m.prepare(d)


@shows("sft")
@double_precision()
def sft() -> Shown:
    """A table reaches the corpus's conditional entropy, however the batch is cut."""
    m, start = method("sft"), log_softmax(np.zeros((6, 6)))
    rows = _corpus(np.random.default_rng(0), 6, 6, 2000, sharpness=1.5)
    d = _shown(m, rows, start)

    def loss(logp: Array, part: slice = slice(None)) -> Array:
        seen = Decisions(**{name: x[part] for name, x in vars(d).items() if x is not None})
        return m.loss(seen.replace(logp=rows.of(logp)[part, None])).value

    found = fitted(loss, start, 400)
    counts = np.zeros((6, 6))
    np.add.at(counts, (rows.prompt, rows.answer), 1.0)
    share = counts / counts.sum(1, keepdims=True)
    possible = float(-(counts * np.log(np.maximum(share, 1e-300))).sum() / counts.sum())
    there = convert(found, autodiff())
    whole, pieces = float(loss(there)), [float(loss(there, slice(k, k + 500))) for k in range(0, 2000, 500)]
    says = f"loss {whole:.4f}, conditional entropy of the corpus {possible:.4f}; cut in 4 it differs by "
    cut = abs(whole - float(np.mean(pieces)))
    return Shown(f"{says}{cut:.0e}", abs(whole - possible) < 0.01 and cut < 1e-9)


@shows("psft")
@double_precision()
def psft() -> Shown:
    """Within a batch no ratio runs far beyond the bound, and more entropy is left than by plain fine-tuning."""
    start = log_softmax(np.random.default_rng(1).standard_normal((16, 12)))
    ends = {key: _fine_tuned(method(key), start) for key in ("psft", "sft")}
    (held, kept), (free, left) = ends["psft"], ends["sft"]
    says = f"largest ratio in a batch {held:.2f} (bound 1.28; sft {free:.2f}), entropy {kept:.2f} (sft {left:.2f})"
    return Shown(says, held < 1.6 and held < free - 0.2 and kept > left)


def _fine_tuned(m: Method, start: Array) -> tuple[float, float]:
    """(largest ratio to the policy before the batch, mean of all; entropy at the end) of 10 batches of 8."""
    table, rng, largest = Table(start), np.random.default_rng(0), []
    for _ in range(10):
        rows = _corpus(np.random.default_rng(2), 16, 12, 512, sharpness=3.0)
        order, old = rng.permutation(512), table.logp
        for part in np.split(order, 8):
            mine = Rows(rows.prompt[part], rows.answer[part])
            d = _shown(m, mine, old)
            table.logits -= 2.0 * table.gradient(
                lambda logp, d=d, mine=mine: m.loss(d.replace(logp=mine.of(logp)[:, None])).value  # type: ignore[misc]
            )
        largest.append(float(np.exp(rows.of(table.logp) - rows.of(old)).max()))
    return float(np.mean(largest)), entropy(table.logp)


@shows("trsft")
@double_precision()
def trsft() -> Shown:
    """A policy with one mode settles on one of the expert's two, where maximum likelihood spreads over the void."""
    places = np.arange(-6.0, 7.0)
    expert = np.exp(log_softmax(np.logaddexp(-((places + 4) ** 2) / 0.5 + np.log(0.4), -((places - 4) ** 2) / 0.5)))
    void = {key: float(_one_mode(method(key), places, expert)[np.abs(places) < 2].sum()) for key in ("trsft", "sft")}
    says = f"mass between the modes {void['trsft']:.1%}, of sft {void['sft']:.1%}"
    return Shown(says, void["trsft"] < 0.01 < void["sft"])


def _one_mode(m: Method, places: Array, expert: Array) -> Array:
    """Probabilities of a bell-shaped policy after learning from the expert's, in expectation."""
    there, weight = convert(places, autodiff()), convert(expert, autodiff())
    d = m.prepare(decisions({"mask": np.ones((len(places), 1)), "demonstration": np.ones(len(places))}, autodiff()))

    def logp(at: dict[str, Array]) -> Array:
        return log_softmax(-((there - at["mean"]) ** 2) * namespace(there).exp(-at["spread"]))

    def loss(at: dict[str, Array]) -> Array:
        return (weight * m.loss(d.replace(logp=logp(at)[:, None])).per_decision[:, 0]).sum()

    at = convert({"mean": 1.0, "spread": 3.0}, autodiff())
    for _ in range(3000):
        _, g = value_and_gradient(loss, at)
        at = {name: x - 0.05 * g[name] for name, x in at.items()}
    return np.exp(np.asarray(logp(at)))


@shows("hpt")
@double_precision()
def hpt() -> Shown:
    """Demonstrations start it where rollouts find nothing, and give way; it beats either alone on as many samples."""
    rng = np.random.default_rng(0)
    right = np.eye(500)[rng.integers(0, 500, 40)]  # one right answer in 500 to each of 40 prompts
    start = log_softmax(0.1 * rng.standard_normal(right.shape))
    runs = {key: _post_trained(method(key, **extra), right, start) for key, extra in _HYBRID.items()}
    (share, accuracy), others = runs["hpt"], {key: runs[key][1] for key in ("sft", "grpo")}
    rivals = ", ".join(f"{key} {found:.0%}" for key, found in others.items())
    holds = share[0] > 0.8 and share[-1] < 0.1 and accuracy > max(others.values())
    return Shown(f"demonstrated prompts {share[0]:.0%} -> {share[-1]:.0%}; accuracy {accuracy:.0%}, {rivals}", holds)


_HYBRID: dict[str, dict[str, Any]] = {"hpt": {"length": 1}, "sft": {}, "grpo": {}}


def _post_trained(m: Method, right: Array, start: Array, updates: int = 300) -> tuple[list[float], float]:
    """(share of prompts that fell back on the expert at each update, accuracy at the end).

    Each update has eight rollouts for each prompt and one answer of an expert who is right seven times out of ten.
    """
    table, rng, shares, prompts = Table(start), np.random.default_rng(1), [], len(right)
    expert = np.log(0.7 * right + 0.3 / right.shape[1])
    for _ in range(updates):
        (own, groups), (theirs, same) = sample(table.logp, 8, rng), sample(expert, 1, rng)
        rows = Rows(np.concatenate([own.prompt, theirs.prompt]), np.concatenate([own.answer, theirs.answer]))
        written = np.repeat([0.0, 1.0], [8 * prompts, prompts])
        alone = {"demonstrations": written == 1, "rollouts": written == 0}.get(m.experience, written >= 0)
        mine = Rows(rows.prompt[alone], rows.answer[alone])
        tables = dict.fromkeys(("logp_old", "logp_ref"), table.logp)
        d = m.prepare(
            batch(
                mine, np.concatenate([groups, same])[alone], reward=mine.of(right), demonstration=written[alone],
                entropy=np.zeros_like(start), **tables,
            )
        )  # fmt: skip
        kept = np.asarray(convert(d.weights(), "NumPy"))[:, 0] * written[alone]
        shares.append(float(kept.sum() / prompts))
        table.step(lambda logp, d=d, mine=mine: m.loss(d.replace(logp=mine.of(logp)[:, None])).value)  # type: ignore[misc]
    return shares, float((np.exp(table.logp) * right).sum() / prompts)
