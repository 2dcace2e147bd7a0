"""What must hold for any input: padding, order, extremes, empty masks, half precision, counts for rewards."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arrays import Array, convert, namespace
from ..decisions import Decisions
from ..distributions import Categorical
from ..method import Method
from . import batches
from .batches import PROMPTS, Fields
from .checks import close, flat, outcome

EXACT = 1e-11
MOST = {"float64": 308.0, "float32": 38.5, "bfloat16": 38.5}  # digits before the point
_INDICES = ("group", "prompt", "turn", "action", "token", "signature", "formula", "alternative")
_BOUNDED = ("mask", "terminated", "truncated", "random", "staleness", "chosen", "demonstration", "entropy_old", "drift")
_WHOLE = (*_INDICES, "mask", "chosen", "demonstration")  # numbers that cannot be NaN


def inputs(key: str) -> str:
    """All that this module checks, on a few batches."""
    for seed in range(2):
        padding(key, seed, columns=2, rows=1)
        order(key, seed)
        any_spread(key, seed, spread=50.0)
    declared(key)
    empty(key)
    counts(key)
    lonely(key)
    for dtype in MOST:
        extremes(key, dtype)
        anything(key, 0, dtype, digits=MOST[dtype])
    half(key)
    return "all"


def padding(key: str, seed: int, columns: int, rows: int) -> None:
    """Masked columns and rows that hold NaN change nothing, and have a gradient of 0."""
    method = batches.method(key)
    made = batches.fields(seed, method)
    padded = _padded(made, columns, rows)
    _same(outcome(method, padded), outcome(method, made), range(batches.ROWS), "padding")
    found, expected = (_gradients(method, x) for x in (padded, made))
    for name, g in expected.items():
        whole = np.pad(g, [(0, after - before) for before, after in zip(g.shape, found[name].shape, strict=True)])
        close(found[name], whole, EXACT, f"padding: gradient by {name}")


def _gradients(method: Method, made: Fields) -> dict[str, Array]:
    library = batches.autodiff()
    state = batches.start(method, library)
    return batches.gradients(method, method.prepare(batches.decisions(made, library), state), state)


def order(key: str, seed: int) -> None:
    """The order of the trajectories changes nothing."""
    method = batches.method(key)
    made = batches.fields(seed, method)
    moved = np.random.default_rng(seed).permutation(batches.ROWS)
    shuffled = {n: Categorical(x.logits[moved]) if isinstance(x, Categorical) else x[moved] for n, x in made.items()}
    _same(outcome(method, shuffled), outcome(method, made), np.argsort(moved), "order")


def _same(found: dict[str, Any], expected: dict[str, Any], rows: Any, what: str) -> None:
    for name, x in flat(expected).items():
        other = np.asarray(flat(found)[name])
        x = np.asarray(x)
        if x.ndim == 2 and not name.startswith("/state/"):  # what is remembered has no rows
            other = other[np.asarray(rows), : x.shape[1]]
        close(other, x, EXACT, f"{what}: {name}")


def _padded(made: Fields, columns: int, rows: int) -> Fields:
    def one(name: str, x: Array) -> Array:
        # scores, embeddings and formulas have an axis of their own in the place of time
        across = 0 if name in ("scores", "embedding", "formula") else columns
        width = [(0, rows)] + [(0, across)] * (x.ndim > 1) + [(0, 0)] * (x.ndim - 2)
        return np.pad(x, width, constant_values=0 if name in _WHOLE else np.nan)

    out = {n: one(n, x) for n, x in made.items() if isinstance(x, np.ndarray)}
    out |= {n: Categorical(one(n, x.logits)) for n, x in made.items() if isinstance(x, Categorical)}
    if rows:
        out["group"][-rows:] = made["group"][0]  # even in a living group
        out["prompt"][-rows:] = made["prompt"][0]
        out["reward"][-rows:] = 77.0
    return out


def any_spread(key: str, seed: int, spread: float) -> None:
    """No finite input gives a NaN."""
    method = batches.method(key)
    d = batches.batch(seed, method, spread=spread)
    _finite(method, d, convert(batches.start(method), batches.autodiff()))


def _finite(method: Method, d: Decisions, state: Any) -> None:
    loss = method.loss(d, state if not isinstance(d.logp, np.ndarray) else convert(state, "NumPy"))
    assert np.isfinite(float(loss.value)), "the loss is not finite"
    for name, x in loss.stats.items():
        assert np.isfinite(float(x)), f"the statistic {name} is not finite"
    for name, g in batches.gradients(method, d, state).items():
        assert np.isfinite(g).all(), f"the gradient by {name} is not finite"


def declared(key: str) -> None:
    """The fields that a method says it needs are all that it needs."""
    method = batches.method(key)
    made = batches.fields(0, method)
    state = batches.start(method)
    prepared = method.prepare(
        batches.decisions({n: x for n, x in made.items() if n in {*method.prepare_needs, "logp", "mask"}}), state
    )
    made_here = frozenset[str]().union(*(part.provides for _, part in method._preparation()))
    filled = {n: getattr(prepared, n) for n in {"mask", "advantage", "returns", "reward"} | made_here}
    known = made | {n: x for n, x in filled.items() if x is not None}
    given = {n: x for n, x in known.items() if n in {*method.needs, "mask"}}
    loss = method.loss(batches.decisions(given), state)
    assert np.isfinite(float(loss.value))
    assert dict(loss.stats) is not None


def empty(key: str) -> None:
    """A batch without a decision has loss 0 and finite statistics."""
    method = batches.method(key)
    made = batches.fields(0, method)
    made["mask"] = np.zeros_like(made["mask"])
    found = outcome(method, made)
    assert float(found["loss"]) == 0, f"the loss of an empty batch is {float(found['loss'])}"
    assert not np.any(found.get("per_decision", 0)), "an empty batch has losses per decision"
    for name, x in flat(found).items():
        assert np.isfinite(x).all(), f"{name} of an empty batch is not finite"
    before = flat(convert(method.init(PROMPTS), "NumPy"))
    assert flat(found["state"]).keys() == before.keys(), "an update changes the shape of the state"


def lonely(key: str) -> None:
    """Groups of one and pairs without their other half give numbers."""
    method = batches.method(key)
    made = batches.fields(0, method)
    made["group"] = np.arange(batches.ROWS)
    _finite_outcome(method, made, "groups of one")
    made = batches.fields(0, method)
    made["mask"][::3] = 0
    _finite_outcome(method, made, "groups with masked rows")


def _finite_outcome(method: Method, made: Fields, what: str) -> None:
    for name, x in flat(outcome(method, made)).items():
        assert np.isfinite(x).all(), f"{what}: {name} is not finite"


def counts(key: str) -> None:
    """Rewards may be whole numbers and flags."""
    method = batches.method(key)
    made = batches.fields(0, method)
    whole = np.round(made["reward"])
    expected = outcome(method, {**made, "reward": whole})
    for kind in (bool, int):
        _same(outcome(method, {**made, "reward": whole.astype(kind)}), expected, range(batches.ROWS), "counts")


def extremes(key: str, dtype: str) -> None:
    """Log-probabilities of minus infinity, huge ones, positive ones give neither NaN nor infinite gradients."""
    method = batches.method(key)
    top = 1e200 if dtype == "float64" else 1e30
    values = np.array([-np.inf, -top, -800.0, -50.0, -1e-30, 0.0, 90.0])
    rows = np.stack([np.roll(values, k) for k in range(7)])
    flat_rows = np.zeros_like(rows)
    logits = np.stack([np.maximum(rows, -1e30), flat_rows, flat_rows + 1, flat_rows - 1], axis=-1)
    made = batches.fields(0, method, rows=7, width=7) | {
        "logp": rows,
        "logp_old": np.tile(values, (7, 1)),
        "logp_ref": rows.T,
        "logp_behaviour": rows[::-1].copy(),
        "mask": np.ones((7, 7)),
        "reward": np.array([0.0, 1, -1, 1e4, 0.5, 0.5, 1]),
        "dist_old": Categorical(logits),
        "dist": Categorical(logits[::-1].copy()),
    }
    library = batches.autodiff()
    d = batches.decisions({n: _cast(x, dtype, library) for n, x in made.items()}, library)
    state = batches.start(method, library)
    _finite(method, method.prepare(d, state), state)


def anything(key: str, seed: int, dtype: str, digits: float) -> None:
    """Finite numbers of any size give a finite gradient.

    digits: of the largest log-probabilities and logits, up to all that `dtype` has. What a gradient is proportional to
    (rewards, advantages, values) has up to four, for its product with a ratio of e^20 must fit in float32.
    """
    method = batches.method(key)
    library = batches.autodiff()
    rng = np.random.default_rng(seed)
    made = batches.fields(seed, method)

    def drawn(name: str, x: Any) -> Any:
        if isinstance(x, Categorical):
            return Categorical(_any_size(rng, x.logits.shape, digits))
        if name in _INDICES or x.dtype.kind != "f" or name in _BOUNDED:
            return x
        return _any_size(rng, x.shape, digits if name.startswith("logp") else 4.0)

    def filled(made: Fields) -> Fields:
        return {name: _cast(drawn(name, x), dtype, library) for name, x in made.items()}

    state = batches.start(method, library)
    d = method.prepare(batches.decisions(filled(made), library), state)
    _finite_gradient(method, d, state)
    if d.advantage is not None:
        _finite_gradient(method, d.replace(**filled({"advantage": convert(d.advantage, "NumPy")})), state)


def _any_size(rng: np.random.Generator, shape: tuple[int, ...], digits: float) -> Array:
    """Numbers of either sign with up to `digits` digits before the point or 30 behind it; some are 0."""
    size = 10.0 ** rng.uniform(-30, digits, shape)
    return rng.choice([-1.0, -1.0, 0.0, 1.0], shape) * np.where(rng.random(shape) < 0.3, 10.0**digits, size)


def _finite_gradient(method: Method, d: Decisions, state: Any) -> None:
    for name, g in batches.gradients(method, d, state).items():
        assert np.isfinite(g).all(), f"the gradient by {name} is not finite"


def half(key: str) -> None:
    """Half-precision log-probabilities are computed with in float32 at least."""
    method = batches.method(key)
    library = batches.autodiff()
    made = batches.fields(0, method)
    halved = {n: _cast(made[n], "bfloat16", library) for n in made if n.startswith("logp")}
    state = batches.start(method, library)
    loss = method.loss(method.prepare(batches.decisions({**made, **halved}, library), state), state)
    assert loss.value.dtype.itemsize >= 4, "the loss is in half precision"
    expected = float(outcome(method, made)["loss"])
    assert abs(float(loss.value) - expected) <= 0.15 * max(1, abs(expected)), "half precision changes the loss"


def _cast(x: Any, dtype: str, library: str) -> Any:
    if isinstance(x, Categorical):
        return Categorical(_cast(x.logits, dtype, library))
    if x.dtype.kind != "f":
        return x
    there = convert(x, library)
    xp = namespace(there)
    return xp.astype(there, getattr(xp, dtype))
