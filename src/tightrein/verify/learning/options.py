"""What goes with any surrogate, when it runs."""

from __future__ import annotations

import numpy as np

from ...decisions import Decisions
from ...objective.estimators import K1, K2, K3, StraightThrough
from ..batches import batch, gradient, method
from ..pin import Shown, shows
from ..pins.options import MODES, divergences, expected
from .rollouts import Rollouts, mean
from .tabular import log_softmax, problem


@shows("mis_icepop")
def mis_icepop() -> Shown:
    """One answer of 8 has a token that the sampling engine thought e^5 times less likely."""
    free = {"objective.reference.coef": 0.0}
    plain = method("tis", **free, cap=1e9)
    d = batch(0, plain)
    clean = d.replace(logp_behaviour=d.logp_old.copy(), logp=d.logp_old.copy())
    row = int(np.argmax(d.mask.sum(1)))
    corrupted = clean.logp_behaviour.copy()
    corrupted[row, 0] -= 5
    d = clean.replace(logp_behaviour=corrupted)
    norm = float(np.linalg.norm(gradient(plain, clean)))
    by_answer, by_token = (method("mis_icepop", variant=v, **free) for v in ("mis", "paper"))
    lost = {what: np.argwhere((gradient(what, d) == 0) & (gradient(plain, d) != 0)) for what in (by_answer, by_token)}
    whole = bool(np.all(lost[by_answer][:, 0] == row) and len(lost[by_answer]) == d.mask[row].sum())
    alone = lost[by_token].tolist() == [[row, 0]]
    grown = [float(np.linalg.norm(gradient(what, d))) / norm for what in (plain, by_token, by_answer)]
    return Shown(
        f"it multiplies the gradient's norm by {grown[0]:.1f}; by {grown[1]:.2f} where that token alone is masked "
        f"({alone}), by {grown[2]:.2f} where its answer is ({whole})",
        whole and alone and max(grown[1:]) < 1.01 < grown[0],
    )


@shows("kl_estimators")
def kl_estimators() -> Shown:
    """The table of biases on three tokens, and where each estimate holds a bandit."""
    rng = np.random.default_rng(0)
    logits, reference = rng.standard_normal(3), log_softmax(rng.standard_normal(3))
    value, reverse, forward = divergences(logits, reference)
    rows = [(K1(), 0 * reverse), (K2(), reverse), (K3(), forward), (StraightThrough(K1()), reverse)]
    off = max(float(np.max(np.abs(expected(k, logits, reference)[1] - slope))) for k, slope in rows)
    off = max(off, float(np.max(np.abs(expected(K1(), logits, reference)[2] - reverse))))
    off = max(off, *(abs(expected(k, logits, reference)[0] - value) for k in (K1(), K3())))
    rollouts, kl = Rollouts(problem(16, 16), rounds=15), {}
    for name, variant in {"k1": "k1", "k2": "k2", "k3_plus": "k3_plus", "k3": "paper"}.items():
        held = method("kl_estimators", variant=variant, **{"objective.reference.coef": 1.0})
        kl[name] = mean([rollouts.train(held)], "kl_ref", slice(-3, None))
    listed = ", ".join(f"{name} {x:.2f}" for name, x in kl.items())
    return Shown(
        f"expected values and gradients of 3 tokens as in the table, off by {off:.0e}; with coefficient 1 as a loss a "
        f"bandit ends at an estimate of KL(pi || pi_ref) of {listed}",
        off < 1e-10 and kl["k1"] > 2 * max(kl["k2"], kl["k3_plus"], kl["k3"]),
    )


@shows("loss_aggregation")
def loss_aggregation() -> Shown:
    """The gradient of a batch from 1 to 4 pieces, with the denominators of the whole batch and with their own."""
    rng, off, own = np.random.default_rng(0), 0.0, 0.0
    for pieces in range(1, 5):
        for mode, _ in MODES:
            what = method("loss_aggregation", **{"objective.aggregate": mode})
            d = batch(pieces, what, rows=12)
            d = d.replace(mask=(rng.random(d.mask.shape) < 0.7).astype(float))
            whole = gradient(what, d)
            each = [_rows(d, part) for part in np.array_split(np.arange(12), pieces)]
            # A sum's gradient per decision is what every mode multiplies by its weights.
            plain = method("loss_aggregation", variant="token_sum")
            pulls = np.concatenate([gradient(plain, piece) for piece in each])
            off = max(off, float(np.max(np.abs(pulls * mode.weights(d.weights()) - whole))))
            if pieces > 1:
                local = np.concatenate([gradient(what, piece) / pieces for piece in each])
                own = max(own, float(np.max(np.abs(local - whole))))
    return Shown(
        f"gradients from pieces off by {off:.0e} with the whole batch's denominators, by up to {own:.2f} with "
        "their own",
        off < 1e-6 < own,
    )


def _rows(d: Decisions, rows: np.ndarray) -> Decisions:
    """Some trajectories of a batch."""
    fields = {n: x for n, x in vars(d).items() if isinstance(x, np.ndarray)}
    return Decisions(**{n: x[rows] for n, x in fields.items()})
