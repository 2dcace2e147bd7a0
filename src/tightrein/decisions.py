"""What the formulas read (`Decisions`) and what they return (`Loss`)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from .arrays import Array, at_least_float32, is_array, library, namespace, pytree, zero_where_masked
from .distributions import Distribution
from .errors import TightreinError, unknown

# name -> (shape, meaning); errors and the documentation are printed from this table.
FIELDS: dict[str, tuple[str, str]] = {
    "logp": (
        "[B, T]",
        "log-probability of each decision under the policy being trained; carries the gradient",
    ),
    "logp_old": ("[B, T]", "log-probability of each decision under the policy that is the centre of the trust region"),
    "logp_ref": ("[B, T]", "log-probability of each decision under the frozen reference policy"),
    "logp_behaviour": (
        "[B, T]",
        "log-probability of each decision under the policy that really sampled, where it differs from the old",
    ),
    "mask": ("[B, T]", "1 where a decision counts, 0 for padding and for what others wrote"),
    "advantage": ("[B, T] or [B, 1]", "credit of each decision"),
    "reward": ("[B, T] or [B]", "reward per decision, or one per trajectory"),
    "value": ("[B, T]", "value estimate of the network being trained; carries the gradient"),
    "value_logits": (
        "[B, T, K]",
        "logits of the K bins of a value estimate that is a distribution over bins; carry the gradient",
    ),
    "feature_norm": ("[B, T]", "norm of what the value estimate's last layer reads, where the network bounds it"),
    "value_old": ("[B, T]", "value estimate made when the decision was taken"),
    "value_next": ("[B, T]", "old value of the state that the decision led to, before any reset"),
    "bootstrap": ("[B]", "old value of the state behind the last decision"),
    "returns": ("[B, T]", "target of the value estimate"),
    "terminated": ("[B, T]", "1 where the task ended: nothing follows"),
    "truncated": ("[B, T]", "1 where a limit cut the trajectory: something would have followed"),
    "entropy": ("[B, T]", "entropy of the policy being trained, in nats; carries the gradient"),
    "group": ("[B]", "integer id shared by the trajectories that are compared with each other"),
    "prompt": ("[B]", "integer id of the prompt or start state, stable over training"),
    "turn": ("[B, T]", "index of the turn, or reasoning step, of a decision; never falls along a row"),
    "chosen": ("[B]", "1 for the preferred answer of a pair, 0 for the other; the two share a group"),
    "demonstration": ("[B]", "1 for a trajectory that an expert wrote, 0 for one of the policy"),
    "scores": ("[B, K]", "scores of K reward models"),
    "drift": (
        "[B]",
        "mean absolute change of log-probability on the answer given when the prompt was last drawn, 0 at first",
    ),
    "staleness": ("[B, T]", "how many updates the policy that made the decision lies behind the present one"),
    "entropy_old": ("[B, T]", "entropy of the old policy, in nats"),
    "random": ("[B, T]", "uniform numbers in [0, 1), for rules that choose at random"),
    "action": (
        "[B, T] or [B, T, D]",
        "the decision itself: the index of its alternative in `dist`, or an action vector",
    ),
    "token": ("[B, T]", "integer identity of each decision: equal where two decisions are the same"),
    "signature": ("[B]", "integer identity of each trajectory as a whole: equal where two count as the same answer"),
    "embedding": ("[B, E]", "a vector for each trajectory as a whole, near for trajectories that are alike"),
    "hidden": ("[B, T, H]", "what the last layer of the old policy reads at each decision"),
    "logp_masked": (
        "[B, T]",
        "log-probability of each decision under the policy being trained when part of what it was shown is masked",
    ),
    "logp_tempered": (
        "[B, T, K]",
        "log-probability of each decision under the old policy at the `temperatures` of the part that reads it",
    ),
    "formula": ("[B, F]", "integer identities of the formulas in each answer, each once; -1 where it has fewer"),
    "uncertainty": (
        "[B, T]",
        "how uncertain the old policy was, on the scale of the selection that makes it (UncertaintyScale)",
    ),
    "segment": (
        "[B, T, K]",
        "1 where a decision belongs to the k-th part of its answer, else 0; a selection makes it (EntropySegments)",
    ),
    "emphasis": ("[B]", "how much each answer weighs in a term of its own; a reward part makes it (DistinctAnswers)"),
    "q": ("[B, T, K]", "K estimates of the value of the action that was taken; carry the gradient"),
    "q_policy": (
        "[B, T, K]",
        "the same of an action that the policy being trained draws, to which `logp` belongs; carry its gradient",
    ),
    "parameters": (
        "[B, T, K]",
        "what makes up the policy's distribution, half of it means, half log deviations; carries the gradient",
    ),
    "dist": (
        "[B, T, ...]",
        "the whole distribution of the policy being trained (Categorical, DiagonalGaussian, MultiCategorical)",
    ),
    "dist_old": ("[B, T, ...]", "the whole distribution of the old policy"),
    "alternative": ("[B, T, K]", "integer identity of each of the K alternatives in `dist` and `dist_old`"),
}
_DISTRIBUTIONS = {"dist", "dist_old"}
_REAL = ("logp", "logp_old", "advantage", "reward", "value", "value_old")  # the first one's precision is the batch's
_ARRAYS = tuple(name for name in FIELDS if name not in _DISTRIBUTIONS)
_NOT_IN_TIME = {"scores", "embedding", "formula"}  # two axes, but the second is not T


@pytree
class Decisions:
    """B trajectories (answers, episodes, chains) of T decisions (tokens, steps) each.

    Every field is optional and an array of [B, T] unless `tightrein.decisions.FIELDS` says otherwise; all
    arrays come from one library (NumPy, PyTorch or JAX). Which fields a method reads stands in
    `method.needs` (its loss) and `method.prepare_needs` (reward, credit and selection).

    Raises TightreinError when shapes disagree or libraries are mixed.
    """

    logp: Array = None
    logp_old: Array = None
    logp_ref: Array = None
    logp_behaviour: Array = None
    mask: Array = None
    advantage: Array = None
    reward: Array = None
    value: Array = None
    value_logits: Array = None
    feature_norm: Array = None
    value_old: Array = None
    value_next: Array = None
    bootstrap: Array = None
    returns: Array = None
    terminated: Array = None
    truncated: Array = None
    entropy: Array = None
    group: Array = None
    prompt: Array = None
    turn: Array = None
    chosen: Array = None
    demonstration: Array = None
    scores: Array = None
    drift: Array = None
    staleness: Array = None
    entropy_old: Array = None
    random: Array = None
    action: Array = None
    token: Array = None
    signature: Array = None
    embedding: Array = None
    hidden: Array = None
    logp_masked: Array = None
    logp_tempered: Array = None
    formula: Array = None
    uncertainty: Array = None
    segment: Array = None
    emphasis: Array = None
    q: Array = None
    q_policy: Array = None
    parameters: Array = None
    dist: Distribution | None = None
    dist_old: Distribution | None = None
    alternative: Array = None

    def __new__(cls, **given: Any) -> Decisions:
        """Name the nearest field where one is misspelt; the fields themselves are set as in any dataclass."""
        for name in given:
            if name not in FIELDS:
                raise unknown("field of Decisions", name, FIELDS)
        return object.__new__(cls)

    def __post_init__(self) -> None:
        _check(self)

    def replace(self, **changes: Any) -> Decisions:
        """Return a copy with some fields changed.

        Raises TightreinError for a field that does not exist, naming the nearest.
        """
        for name in changes:
            if name not in FIELDS:
                raise unknown("field of Decisions", name, FIELDS)
        return replace(self, **changes)

    @property
    def shape(self) -> tuple[int, int]:
        """(B, T)."""
        shapes = [a.shape for _, a in _two_dimensional(self)]
        if not shapes:
            raise TightreinError("these Decisions hold no [B, T] array", "give at least one of logp, logp_old, mask")
        return int(shapes[0][0]), max(int(s[1]) for s in shapes)

    def weights(self) -> Array:
        """The mask as floating-point numbers, [B, T]; all ones when there is no mask."""
        shape = None if self.mask is not None else self.shape
        real = [a for a in (getattr(self, name) for name in _REAL) if a is not None and len(a.shape) == 2]
        like = at_least_float32(real[0] if real else self.mask)
        xp = namespace(like)
        if self.mask is None:
            return xp.broadcast_to(xp.ones_like(like), shape)
        return xp.astype(self.mask, like.dtype, copy=False)

    def alive(self) -> Array:
        """1 for a trajectory with at least one decision that counts, else 0: [B]."""
        mask = self.weights()
        xp = namespace(mask)
        return xp.astype(xp.any(mask != 0, axis=1), mask.dtype)

    def policies(self) -> tuple[Distribution, Distribution]:
        """(`dist`, `dist_old`) with parameters 0 where the mask is 0, so that what stands there reaches no gradient."""
        mask = self.weights()

        def spread(x: Array) -> Array:
            return namespace(mask).reshape(mask, (*mask.shape, *(1 for _ in x.shape[2:])))

        def kept(dist: Any) -> Distribution:
            return type(dist)(**{name: zero_where_masked(x, spread(x)) for name, x in vars(dist).items()})  # type: ignore[no-any-return]

        return kept(self.dist), kept(self.dist_old)

    def outcome(self) -> Array:
        """Reward of each trajectory: [B]."""
        reward = at_least_float32(self.reward)
        if reward.ndim == 1:
            return reward
        return namespace(reward).sum(zero_where_masked(reward, self.weights()), axis=1)

    def reward_per_decision(self) -> Array:
        """Reward of each decision, [B, T]; a trajectory's single reward falls on its last decision."""
        weights = self.weights()
        reward = at_least_float32(self.reward)
        if reward.ndim == 2:
            return zero_where_masked(reward, weights)
        return reward[:, None] * last_decision(weights)


def last_decision(weights: Array) -> Array:
    """1 at the last position of each row whose mask is 1, else 0: [B, T]."""
    xp = namespace(weights)
    position = xp.cumulative_sum(xp.ones_like(weights), axis=1) * weights
    return xp.astype(position == xp.max(position, axis=1, keepdims=True), weights.dtype) * weights


def by_origin(d: Decisions) -> tuple[Decisions, Decisions]:
    """The same Decisions twice: with the demonstrations masked, and with all but them masked."""
    mask = d.weights()
    shown = namespace(mask).astype(d.demonstration != 0, mask.dtype)[:, None]
    return d.replace(mask=mask * (1 - shown)), d.replace(mask=mask * shown)


class Stats(Mapping[str, Array]):
    """Named scalars about a batch, computed when first read and never before."""

    def __init__(self, compute: Callable[[], dict[str, Array]]) -> None:
        self._compute = compute

    @functools.cached_property
    def _values(self) -> dict[str, Array]:
        return self._compute()

    def __getitem__(self, name: str) -> Array:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return repr({k: float(v) for k, v in self._values.items()})


@pytree
class Loss:
    """What an objective returns.

    value: scalar to minimise, with its gradient. per_decision: [B, T], the policy's part before aggregation
    (0 where masked). stats: named scalars without gradient, computed only when read.
    """

    value: Array
    per_decision: Array = None
    stats: Mapping[str, Array] = None  # type: ignore[assignment]


def require(d: Decisions, names: frozenset[str], who: str) -> None:
    """Raise TightreinError naming the fields of `names` that `d` lacks, with their shapes and meaning."""
    missing = sorted(n for n in names if getattr(d, n) is None)
    if missing:
        lines = "; ".join(f"{n} {FIELDS[n][0]}: {FIELDS[n][1]}" for n in missing)
        raise TightreinError(
            f"{who} needs {', '.join(missing)}, which the Decisions do not have",
            f"add {lines}{_hint(missing)}",
        )


def _hint(missing: list[str]) -> str:
    if "advantage" in missing:
        return " (or let method.prepare(decisions) compute it from rewards)"
    return " (or set objective.value.coef=0 and train the critic elsewhere)" if "value" in missing else ""


def _check(d: Decisions) -> None:
    arrays = _arrays(d)
    for name, a in arrays:
        if not is_array(a):
            raise TightreinError(
                f"{name} is a {type(a).__name__}, not an array",
                "pass a NumPy, PyTorch or JAX array of shape " + FIELDS[name][0],
            )
    _check_libraries(arrays)
    _check_shapes(d, arrays)


def _check_libraries(arrays: list[tuple[str, Array]]) -> None:
    kinds = {library(a): name for name, a in arrays}
    if len(kinds) > 1:
        found = ", ".join(f"{name} is {kind}" for kind, name in kinds.items())
        raise TightreinError(f"array libraries are mixed: {found}", "convert all fields to one library")


def _check_shapes(d: Decisions, arrays: list[tuple[str, Array]]) -> None:
    for name, a in arrays:
        allowed = {shape.count(",") + 1 for shape in FIELDS[name][0].split(" or ")}  # "[B, T] or [B]": 2 or 1
        if len(a.shape) not in allowed:
            raise TightreinError(
                f"{name} has shape {tuple(a.shape)}, but should be {FIELDS[name][0]}",
                "B is the number of trajectories, T the number of decisions in each",
            )
    if not _two_dimensional(d):
        return
    rows, width = d.shape
    reference = next(name for name, a in _two_dimensional(d) if a.shape[1] == width)
    for name, a in arrays:
        fits = a.shape[0] == rows and (len(a.shape) == 1 or name in _NOT_IN_TIME or a.shape[1] in (1, width))
        if not fits:
            raise TightreinError(
                f"{name} has shape {tuple(a.shape)}, but {reference} has shape {(rows, width)}",
                f"make {name} {FIELDS[name][0]} with B = {rows} and T = {width}",
            )


def _two_dimensional(d: Decisions) -> list[tuple[str, Array]]:
    return [(name, a) for name, a in _arrays(d) if len(a.shape) == 2 and name not in _NOT_IN_TIME]


def _arrays(d: Decisions) -> list[tuple[str, Array]]:
    named = [(name, getattr(d, name)) for name in _ARRAYS]
    return [(name, a) for name, a in named if a is not None]
