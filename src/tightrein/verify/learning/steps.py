"""What the steps promise, shown on small problems in NumPy."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ...step import Adam, Muon, NTRMomentum, Spectral, Unscaled, ZClip
from ..pin import Shown, shows
from ..pins.steps import named_optimizers

STEPS = 2000
MOST = 2500  # steps until a run is given up


@shows("zclip")
def fewer_spikes() -> Shown:
    """A small network of which 1% of the batches are multiplied by 100."""
    fixed, _, fixed_end = np.mean([_trained(Adam(max_grad_norm=1.0), seed) for seed in range(3)], 0)
    rule = Adam(max_grad_norm=1.0, clipping=ZClip())
    spikes, clipped, end = np.mean([_trained(rule, seed) for seed in range(3)], 0)
    says = (
        f"{STEPS} steps, 1% of the batches times 100, mean of 3 seeds: {spikes:.0f} spikes in the loss against "
        f"{fixed:.0f} with a fixed norm of 1, final loss {end:.4f} against {fixed_end:.4f}, {clipped:.1%} of the steps "
        "clipped"
    )
    return Shown(says, bool(spikes < 0.7 * fixed and end < 1.05 * fixed_end and clipped < 0.1))


def _trained(step: Adam, seed: int) -> tuple[int, float, float]:
    """(spikes in the loss, share of steps clipped, final loss) of momentum SGD behind the clipping of `step`."""
    rng = np.random.default_rng(seed)
    network = [rng.standard_normal((16, 32)) / 4, np.zeros(32), rng.standard_normal((32, 1)) / 6, np.zeros(1)]
    teacher = rng.standard_normal((16, 1)) / 4
    probe = rng.standard_normal((256, 16))
    moments, losses = [np.zeros_like(p) for p in network], []
    state = step.clipping_state(np.asarray(0.0))
    for _ in range(STEPS):
        x = rng.standard_normal((64, 16))
        y = np.sin(2 * x @ teacher) + 0.1 * rng.standard_normal((64, 1))
        size = 100.0 if rng.uniform() < 0.01 else 1.0
        gradients = _regression(network, size * x, size * y)[1]
        norm = np.sqrt(sum(np.sum(g * g) for g in gradients))
        limit, state = step.limit(norm, state)
        moments = [0.9 * m + min(1.0, limit / (norm + 1e-6)) * g for m, g in zip(moments, gradients, strict=True)]
        network = [p - 0.02 * m for p, m in zip(network, moments, strict=True)]
        losses.append(_regression(network, probe, np.sin(2 * probe @ teacher))[0])
    clipped = 0.0 if step.clipping is None else float(step.clipping.figures(state)["spike_fraction"])
    return _spikes(np.array(losses)), clipped, float(np.mean(losses[-200:]))


def _regression(network: list[Any], x: Any, y: Any) -> tuple[float, list[Any]]:
    """Half the mean squared error of a tanh layer and a linear one, and its gradient."""
    w, b, v, c = network
    h = np.tanh(x @ w + b)
    error = (h @ v + c - y) / len(x)
    behind = (error @ v.T) * (1 - h * h)
    return float(np.sum(error**2) * len(x) / 2), [x.T @ behind, behind.sum(0), h.T @ error, error.sum(0)]


def _spikes(losses: Any) -> int:
    """How many losses lie above mean + 3 standard deviations of the 100 before."""
    windows = [losses[i - 100 : i] for i in range(100, len(losses))]
    return sum(int(x > w.mean() + 3 * w.std()) for w, x in zip(windows, losses[100:], strict=True))


@shows("muon")
def ill_conditioned() -> Shown:
    """Least squares in a 64 x 32 matrix, condition number 1e3, against SGD with momentum."""
    rates = 0.3, 1.0, 3.0, 10.0
    mine, median = min(_solved(_muon(rate), rate) for rate in rates)
    other, _ = min(_solved(_momentum(rate / 3), rate / 3) for rate in rates)  # beyond 3.9 it diverges
    says = (
        f"|A X - Y|^2 with a 64 x 32 matrix X, condition number of A 1e3: 1% is left after {mine} steps, with SGD with "
        f"momentum after {other if other < MOST else f'more than {MOST}'} (each the best of 4 learning rates); median "
        f"singular value of Muon's steps {median:.2f}"
    )
    return Shown(says, mine < other and 0.65 <= median <= 1.15)


Step = Callable[[Any, Any], Any]  # (point, gradient) -> what is added to the point


def _muon(rate: float) -> Step:
    rule = Muon(rate, scale=Unscaled())
    memories = [rule.memory(np.zeros((64, 32)))]

    def step(x: Any, gradient: Any) -> Any:
        moves, memories[:] = rule.move([gradient], memories, [x], [0], rate)
        return moves[0]

    return step


def _momentum(rate: float) -> Step:
    velocity = [np.zeros((64, 32))]

    def step(x: Any, gradient: Any) -> Any:
        velocity[0] = 0.95 * velocity[0] + gradient
        return -rate * velocity[0]

    return step


def _solved(step: Step, rate: float) -> tuple[int, float]:
    """(steps until 1% of the loss of X = 0 is left, median singular value of the steps over the learning rate)."""
    rng = np.random.default_rng(0)
    rotation = np.linalg.qr(rng.standard_normal((64, 64)))[0]
    a = rotation * np.geomspace(1, 1e-3, 64) @ rotation.T
    y, x, singular = rng.standard_normal((64, 32)), np.zeros((64, 32)), []
    for n in range(1, MOST):
        move = step(x, a.T @ (a @ x - y))
        x = x + move
        if n % 50 == 0:
            singular.append(np.linalg.svd(move, compute_uv=False) / rate)
        if not np.sum((a @ x - y) ** 2) > 0.01 * np.sum(y**2):
            return n, float(np.median(singular))
    return MOST, float(np.median(singular))


@shows("ntr_momentum")
def one_class() -> Shown:
    """Four norms are four named optimizers; the theorem's bound lies above what a noisy quadratic gives."""
    named_optimizers()
    pairs = [(a, *_noisy_quadratic(NTRMomentum(0.02, averaging=a, norm=Spectral()))) for a in (1.0, 0.3, 0.1)]
    shown = ", ".join(f"a = {a}: {found:.1f} <= {bound:.1f}" for a, found, bound in pairs)
    says = f"four norms are four named optimizers over 30 steps; smallest mean |grad|_dual and its bound: {shown}"
    return Shown(says, all(found <= bound for _, found, bound in pairs))


def _noisy_quadratic(rule: NTRMomentum, steps: int = 200, runs: int = 20, noise: float = 0.5) -> tuple[float, float]:
    """(min over steps of the mean dual norm of the gradient of |X - A|_F^2 / 2, the bound): L = 6, rho = sqrt(6)."""
    rng = np.random.default_rng(0)
    target = rng.standard_normal((8, 6))
    sizes = np.zeros(steps)
    for _ in range(runs):
        x, memories = np.zeros_like(target), [rule.memory(target)]
        for k in range(steps):
            sizes[k] += np.linalg.norm(x - target, "nuc") / runs
            gradient = x - target + noise / math.sqrt(48) * rng.standard_normal((8, 6))
            moves, memories = rule.move([gradient], memories, [x], [0], rule.learning_rate)
            x = x + moves[0]
    gap = float(np.sum(target**2) / 2)
    return float(sizes.min()), rule.bound(steps, gap, smoothness=6, noise=noise, rho=math.sqrt(6))
