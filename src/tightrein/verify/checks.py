"""What is checked of every method, whatever it is: one definition on three libraries, and sound for any input.

A check takes a method's key, raises AssertionError where the method fails it, and returns what it found in a few
words.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..arrays import Array, compiled, constants_held, convert, installed, value_and_gradient
from ..decisions import Decisions
from ..errors import NotInstalled
from ..method import Method
from . import batches

SPREADS = (0.0, 0.3, 3.0)  # on the old policy, near it, and far from it
VALUES, GRADIENTS = 1e-10, 1e-8


class NotApplicable(Exception):
    """There is nothing to check, and why."""


def close(found: Any, expected: Any, tolerance: float, what: str) -> float:
    """The largest difference; AssertionError where it is above `tolerance`, absolute for small and relative for large.

    Raises AssertionError naming `what`.
    """
    found, expected = np.asarray(found, float), np.asarray(expected, float)
    assert found.shape == expected.shape, f"{what}: shape {found.shape}, not {expected.shape}"
    error = float(np.max(np.abs(found - expected) / np.maximum(1, np.abs(expected)), initial=0.0))
    assert error <= tolerance, f"{what}: off by {error:.1e}, more than {tolerance:g}"
    return error


def flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """The numbers in nested mappings, by path."""
    if not hasattr(tree, "items"):
        return {prefix: tree}
    return {path: x for name, inner in tree.items() for path, x in flat(inner, f"{prefix}/{name}").items()}


def outcome(method: Method, made: batches.Fields) -> dict[str, Any]:
    """Everything a method makes of a batch in NumPy: advantage, loss, statistics, next state."""
    return whole(method, "NumPy")(made)


def whole(method: Method, library: str) -> Callable[[batches.Fields], dict[str, Any]]:
    """`outcome` in a library, under jax.jit where it is JAX."""

    def run(d: Decisions, state: Any) -> dict[str, Any]:
        prepared = method.prepare(d, state)
        loss = method.loss(prepared, state)
        made: dict[str, Any] = {"loss": loss.value, "stats": dict(loss.stats)}
        made |= {n: getattr(prepared, n) for n in ("mask", "advantage", "returns") if getattr(prepared, n) is not None}
        made |= {} if loss.per_decision is None else {"per_decision": loss.per_decision}
        return made | {"state": method.update(state, prepared, 0.5)}

    step = compiled(run, library) if library == "JAX" else run
    state = batches.start(method, library)
    return lambda made: convert(step(batches.decisions(made, library), state), "NumPy")


def _others() -> tuple[str, ...]:
    batches.autodiff()
    return installed()[1:]


def _kinds(method: Method) -> tuple[bool, ...]:
    """Whether the distributions are Gaussian: both kinds where the method reads them whole on control tasks."""
    return (False, True) if method.home == "control" and "dist" in method.needs else (False,)


def arrays(key: str) -> str:
    """NumPy, PyTorch and compiled JAX agree on advantages, loss, statistics and next state."""
    method, worst = batches.method(key), 0.0
    others = {library: whole(method, library) for library in _others()}
    for spread, gaussian in [(spread, kind) for kind in _kinds(method) for spread in SPREADS]:
        made = batches.fields(0, method, spread=spread, gaussian=gaussian)
        oracle = flat(outcome(method, made))
        for library, run in others.items():
            found = flat(run(made))
            assert found.keys() == oracle.keys()
            worst = max(worst, *(close(found[n], x, VALUES, f"{library} {n}") for n, x in oracle.items()))
    return f"{worst:.0e}"


def gradients(key: str) -> str:
    """PyTorch and JAX agree on the gradient of the loss by log-probabilities, values, entropies and distributions."""
    if len(_others()) < 2:
        raise NotInstalled("two autodiffs are compared here", 'pip install "tightrein[all]"')
    method, worst = batches.method(key), 0.0
    for spread, gaussian in [(spread, kind) for kind in _kinds(method) for spread in SPREADS]:
        d = batches.batch(0, method, spread=spread, gaussian=gaussian)
        one, other = (batches.gradients(method, batches.convert_decisions(d, lib)) for lib in _others())
        worst = max(worst, *(close(one[n], other[n], GRADIENTS, f"gradient by {n}") for n in one))
    return f"{worst:.0e}"


def differences(key: str) -> str:
    """The gradient is that of the loss as a function, or of it with what it detaches held constant."""
    method = batches.method(key)
    oracle = batches.batch(1, method)
    state = batches.start(method)
    found = batches.gradients(method, oracle, convert(state, batches.autodiff()))
    if not any(g.any() for g in found.values()):
        raise AssertionError("the loss has no gradient at all")
    try:
        return f"{_differences(method, oracle, state, found, None):.0e}"
    except AssertionError:
        constants: list[Array] = []
        with constants_held(constants):
            method.loss(oracle, state)
        return f"{_differences(method, oracle, state, found, constants):.0e} held"


def _differences(method: Method, d: Decisions, state: Any, found: dict[str, Array], held: list[Array] | None) -> float:
    worst = 0.0

    def value(moved: dict[str, Array]) -> float:
        if held is None:
            return float(method.loss(batches.with_leaves(d, moved), state).value)
        with constants_held(held):
            return float(method.loss(batches.with_leaves(d, moved), state).value)

    at = batches.leaves(d)
    mask = np.asarray(d.weights())
    step = 1e-6
    for name, x in at.items():
        if not found[name].any():
            continue
        alive = mask if x.ndim == 2 else mask[..., None] * np.ones_like(x)
        for index in map(tuple, np.argwhere(alive)[:: 7 if x.ndim > 2 else 3]):
            sides = []
            for sign in (1, -1):
                moved = x.copy()
                moved[index] += sign * step
                sides.append(value({**at, name: moved}))
            expected = (sides[0] - sides[1]) / (2 * step)
            worst = max(worst, close(found[name][index], expected, 1e-7, f"gradient by {name} at {index}"))
    return worst


def compilation(key: str) -> str:
    """torch.compile takes the loss without a break in its graph."""
    if "PyTorch" not in installed():
        raise NotInstalled("torch.compile needs PyTorch", 'pip install "tightrein[language]"')
    method = batches.method(key)
    d, state = batches.batch(2, method, "PyTorch"), batches.start(method, "PyTorch")
    loss = compiled(lambda d, state: method.loss(d, state).value, "PyTorch")
    _, found = value_and_gradient(lambda moved: loss(batches.with_leaves(d, moved), state), batches.leaves(d))
    expected = batches.gradients(method, d, state)
    return f"{max(close(convert(found[n], 'NumPy'), x, 1e-12, n) for n, x in expected.items()):.0e}"
