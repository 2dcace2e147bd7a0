"""One batch of random numbers that holds everything any method reads, in any of the three array libraries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..arrays import Array, convert, installed, value_and_gradient
from ..catalogue import method as named
from ..decisions import Decisions
from ..distributions import Categorical, DiagonalGaussian
from ..errors import NotInstalled
from ..method import Method
from ..objective.base import MOVING
from ..objective.policy import Surrogate

ROWS, WIDTH, PROMPTS = 8, 7, 9
ACTIONS, HIDDEN, BINS = 4, 3, 51
# What has no default, by the end of its path: a run's engine knows it.
SIZES = {
    "aggregate.length": WIDTH,
    ".step_size": 1e-3,
    ".model.tokens": ACTIONS,
    "bounds.tokens": ACTIONS,
    ".model.width": HIDDEN,
}
Fields = dict[str, Any]


def method(key: str, **overrides: Any) -> Method:
    """The method `key` as tr.method makes it, with the sizes that have no default set to those of the batch.

    key: "rpg_kl", or "rpg_kl:rkl" for one of its variants.
    """
    key, _, variant = key.partition(":")
    made = named(key, **{"variant": variant or "paper"} | overrides)
    unset = [path for path, value in made.settings().items() if value is None]
    sizes = {path: size for path in unset for end, size in SIZES.items() if path.endswith(end)}
    return made.override(sizes)


def fields(
    seed: int, like: Method, rows: int = ROWS, width: int = WIDTH, spread: float = 0.5, gaussian: bool = False
) -> Fields:
    """Random fields of Decisions in NumPy, with ragged masks, for a method like `like`.

    spread: the deviation of the log-ratios, about. The rows are pairs, or groups of four, or stand alone, as the
    method compares them; of mixed experience the first row of each group is a demonstration.
    """
    rng = np.random.default_rng(seed)
    made = _policies(rng, rows, width, spread, gaussian)
    made |= _per_decision(rng, rows, width, like.home == "control")
    made["group"], made["prompt"], made["chosen"] = _groups(rng, like, rows)
    coin = rng.integers(0, 2, rows).astype(float)
    made["reward"] = np.where(rng.random(rows) < 0.5, coin, rng.random(rows))
    first = np.unique(made["group"], return_index=True)[1]
    expert = {"demonstrations": np.ones(rows), "mixed": np.isin(np.arange(rows), first).astype(float)}
    made["demonstration"] = expert.get(like.experience, np.zeros(rows))
    made["scores"] = rng.standard_normal((rows, 3))
    made["drift"] = rng.random(rows)
    made["signature"] = rng.integers(0, 3, rows)
    made["embedding"] = rng.standard_normal((rows, 5))
    made["bootstrap"] = rng.standard_normal(rows)
    if like.experience == "replay":
        made |= {name: rng.standard_normal((rows, width, 2)) for name in ("q", "q_policy", "parameters")}
    made |= _shown_otherwise(rng, made)
    if "value_logits" in like.needs:
        made["value_logits"] = rng.standard_normal((rows, width, BINS))
    return made


def _shown_otherwise(rng: np.random.Generator, made: Fields) -> Fields:
    """What only a few methods read: the policy when it sees less, or at another temperature, and inside it."""
    shape = made["logp"].shape
    tokens = made["action"] if made["action"].ndim == 2 else rng.integers(0, ACTIONS, shape)
    return {
        "token": tokens,
        "hidden": rng.standard_normal((*shape, HIDDEN)),
        "alternative": rng.permuted(np.tile(np.arange(ACTIONS), (*shape, 1)), axis=-1),
        "logp_masked": made["logp_behaviour"],
        "logp_tempered": np.stack([made["logp_old"] + 0.1, made["logp_old"] - 0.1], axis=-1),
        "formula": rng.permuted(np.tile(np.arange(-1, 5), (len(tokens), 1)), axis=1)[:, :3],
    }


def _policies(rng: np.random.Generator, rows: int, width: int, spread: float, gaussian: bool) -> Fields:
    """The log-probabilities of the actions under distributions that lie `spread` apart."""
    shape = (rows, width, 2 if gaussian else ACTIONS)

    def distribution(near: Any) -> Any:
        step = (0 if near is None else spread) * rng.standard_normal(shape)
        if gaussian:
            mean, log_std = (rng.standard_normal(shape), 0.3 * rng.standard_normal(shape))
            return DiagonalGaussian(*((mean, log_std) if near is None else (near.mean + step, near.log_std)))
        return Categorical(1.5 * rng.standard_normal(shape) if near is None else near.logits + step)

    old = distribution(None)
    now, reference, behaviour = (distribution(old) for _ in range(3))
    action = rng.standard_normal(shape) if gaussian else rng.integers(0, shape[-1], shape[:2])
    of = {"logp": now, "logp_old": old, "logp_ref": reference, "logp_behaviour": behaviour}
    return {
        **{name: np.asarray(policy.log_prob(action)) for name, policy in of.items()},
        "action": action,
        "dist": now,
        "dist_old": old,
        "entropy": np.asarray(now.entropy()),
        "entropy_old": np.asarray(old.entropy()),
    }


def _per_decision(rng: np.random.Generator, rows: int, width: int, anywhere: bool) -> Fields:
    """Mask, values, ends (`anywhere` in a row, or only at its end), turns, and the rest that has a column per t."""
    lengths = rng.integers(1, width + 1, rows)
    position = np.arange(width)
    ends = rng.random((rows, width)) * (1 if anywhere else position == lengths[:, None] - 1)
    made: Fields = {name: rng.standard_normal((rows, width)) for name in ("value", "value_old")}
    if anywhere:
        made["value_next"] = rng.standard_normal((rows, width))
    return made | {
        "mask": (position < lengths[:, None]).astype(float),
        "terminated": (ends > 0.9).astype(float),
        "truncated": ((ends > 0.8) & (ends <= 0.9)).astype(float),
        "turn": np.cumsum(rng.random((rows, width)) < 0.4, axis=1),
        "staleness": rng.integers(0, 4, (rows, width)).astype(float),
        "random": rng.random((rows, width)),
    }


def _groups(rng: np.random.Generator, like: Method, rows: int) -> tuple[Array, Array, Array]:
    """(group, prompt, chosen): ids in any order; rows of a group answer the same prompt."""
    alone = like.experience in ("rollouts", "replay", "demonstrations") and like.training.group_size == 1
    size = 1 if alone else 2 if like.experience == "pairs" else 4
    order = rng.permutation(rows)
    slot = order // size
    chosen = (order % 2 == 0).astype(float)
    return slot + 5, (slot * 3) % (PROMPTS - 1) if not alone else slot % 5, chosen


def decisions(made: Fields, library: str = "NumPy") -> Decisions:
    """The fields as Decisions of one library."""
    return Decisions(**{name: convert(x, library) for name, x in made.items()})


def start(method: Method, library: str = "NumPy") -> Any:
    """The state at the start, as arrays of one library."""
    return convert(method.init(PROMPTS), library)


def batch(seed: int, method: Method, library: str = "NumPy", **options: Any) -> Decisions:
    """Prepared Decisions of one library; options: those of `fields`."""
    return method.prepare(decisions(fields(seed, method, **options), library), start(method, library))


def autodiff() -> str:
    """The library whose gradients are taken where any will do.

    Raises NotInstalled when neither is installed.
    """
    if len(installed()) == 1:
        raise NotInstalled("gradients need PyTorch or JAX, which are not installed", 'pip install "tightrein[all]"')
    return installed()[1]


def leaves(d: Decisions) -> dict[str, Array]:
    """What carries a gradient, by name: these fields, and the parameters of `dist`."""
    found = {name: getattr(d, name) for name in MOVING if getattr(d, name) is not None}
    return found | ({f"dist.{name}": x for name, x in vars(d.dist).items()} if d.dist is not None else {})


def with_leaves(d: Decisions, moved: dict[str, Array]) -> Decisions:
    """`d` with other arrays in the place of its leaves."""
    inside = {name.removeprefix("dist."): x for name, x in moved.items() if name.startswith("dist.")}
    plain = {name: x for name, x in moved.items() if not name.startswith("dist.")}
    return d.replace(**plain, **({"dist": type(d.dist)(**inside)} if inside and d.dist is not None else {}))


def gradients(method: Method, d: Decisions, state: Any = None) -> dict[str, Array]:
    """Gradient of the loss by each leaf, as NumPy arrays; taken in the library of `d`, or in any where it has none."""
    library = autodiff()
    d = d if _differentiable(d) else convert_decisions(d, library)

    def value(moved: dict[str, Array]) -> Array:
        return method.loss(with_leaves(d, moved), state).value

    return convert(value_and_gradient(value, leaves(d))[1], "NumPy")  # type: ignore[no-any-return]


def gradient(method: Method, d: Decisions, state: Any = None) -> Array:
    """Gradient of the loss by logp, [B, T], as a NumPy array."""
    return gradients(method, d, state)["logp"]


def convert_decisions(d: Decisions, library: str) -> Decisions:
    """The same Decisions in another library."""
    return decisions({name: x for name, x in vars(d).items() if x is not None}, library)


def _differentiable(d: Decisions) -> bool:
    return not isinstance(next(iter(leaves(d).values())), np.ndarray)


def one_decision(r: float, advantage: float) -> Decisions:
    """A single decision with the given ratio and advantage."""
    return Decisions(logp=np.log([[r]]) - 1.0, logp_old=np.array([[-1.0]]), advantage=np.array([[advantage]]))


def loss_at(surrogate: Surrogate, r: float, advantage: float) -> float:
    """Loss of one decision."""
    return float(surrogate(one_decision(r, advantage))[0, 0])


def coefficient(surrogate: Surrogate, r: float, advantage: float) -> float:
    """d loss / d logp of one decision."""
    return _derivative(surrogate, one_decision(r, advantage))


def slope(surrogate: Surrogate, r: float, advantage: float) -> float:
    """d loss / d r of one decision."""
    return coefficient(surrogate, r, advantage) / r


def _derivative(formula: Callable[[Decisions], Array], d: Decisions) -> float:
    d = convert_decisions(d, autodiff())
    _, found = value_and_gradient(lambda moved: formula(d.replace(**moved)).sum(), {"logp": d.logp})
    return float(found["logp"][0, 0])
