"""What an environment's spaces say: how its observations become arrays, which actions it has, and what it allows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tightrein.arrays import namespace
from tightrein.engines.control.actions import Actions, ContinuousActions, DiscreteActions, MultiDiscreteActions
from tightrein.errors import TightreinError

Array = Any

MASKS = ("action_mask", "legal_action_mask")  # what environments call the actions that may be taken


@dataclass(frozen=True)
class Observations:
    """How what an environment shows becomes an array [..., *shape] of `dtype`.

    key: the entry of a Dict that is observed, where the other is a mask. first: the number that a Discrete space counts
    from, where each number becomes a vector that is 1 in its place, else 0.
    """

    shape: tuple[int, ...]
    dtype: str
    key: str | None = None
    first: int | None = None

    @classmethod
    def of(cls, name: str, space: Any) -> Observations:
        """Those of the environment `name`.

        Raises:
            TightreinError: they are no arrays, and do not become one.
        """
        key = _observed(space)
        inside = space if key is None else space.spaces[key]
        kind = type(inside).__name__
        if kind == "Discrete":
            return cls((int(inside.n),), "float32", key, int(getattr(inside, "start", 0)))
        if kind not in ("Box", "MultiBinary"):
            held = f" with {', '.join(inside.spaces)}" if kind == "Dict" else ""
            raise TightreinError(
                f"{name}: observations of type {kind}{held} are not supported",
                "register it wrapped in gymnasium.wrappers.FlattenObservation, with a mask of actions, if there is "
                "one, in info['action_mask']",
            )
        image = kind == "Box" and inside.dtype == np.uint8
        return cls(tuple(inside.shape), "uint8" if image else "float32", key)

    def seen(self, shown: Any) -> Array:
        """An array [..., *shape] of what environments show, of any number of them."""
        return self.placed(shown if self.key is None else shown[self.key]).astype(self.dtype, copy=False)

    def placed(self, value: Array) -> Array:
        """Numbers [...] of a Discrete space as vectors [..., n]; anything else as it is."""
        if self.first is None:
            return value
        return value[..., None] == self.first + namespace(value).arange(self.shape[0])


def actions_of(name: str, space: Any) -> Actions:
    """The actions of the environment `name`.

    Raises:
        TightreinError: they are of a kind that is not supported.
    """
    kind = type(space).__name__
    if kind == "Discrete":
        return DiscreteActions(int(space.n), int(getattr(space, "start", 0)))
    if kind == "MultiDiscrete":
        start = np.broadcast_to(getattr(space, "start", 0), space.shape)
        return MultiDiscreteActions(_integers(space.nvec), _integers(start), tuple(space.shape))
    if kind == "MultiBinary":
        choices = int(np.prod(space.shape))
        return MultiDiscreteActions((2,) * choices, (0,) * choices, tuple(space.shape))
    if kind == "Box" and len(space.shape) == 1:
        low, high = (np.broadcast_to(np.asarray(b, np.float32), space.shape) for b in (space.low, space.high))
        return ContinuousActions(tuple(map(float, low)), tuple(map(float, high)))
    raise TightreinError(
        f"{name}: actions {space} are not supported",
        "use Discrete, MultiDiscrete or MultiBinary actions or a vector Box",
    )


def masked(name: str, actions: Actions, shown: Any, info: Mapping[str, Any]) -> bool:
    """Whether an environment tells what may be done, from what its reset gave.

    Raises:
        TightreinError: its masks do not fit its actions.
    """
    mask = _given(shown, info)[0]
    if mask is None:
        return False
    if len(_flat(mask)) != sum(actions.options):
        what = " + ".join(map(str, actions.options)) or "continuous"
        raise TightreinError(
            f"{name} tells of {len(_flat(mask))} actions whether they are allowed, and its actions are {what}",
            "give a mask with one entry for each alternative of each choice, or none",
        )
    return True


def allowed(name: str, actions: Actions, shown: Any, info: Mapping[str, Any], over: Array) -> Array:
    """The actions that may be taken now in each of N environments: booleans [N, A].

    over: [N], whose episodes have ended, where nothing need be allowed.

    Raises:
        TightreinError: nothing is allowed in a state that goes on.
    """
    masks, told = _given(shown, info)
    everything = np.ones((len(over), sum(actions.options)), bool)
    if masks is None:
        return everything
    flat = [_flat(mask) if there else row for mask, there, row in zip(masks, told, everything, strict=True)]
    found = np.stack(flat).astype(bool)
    choices = np.split(found, np.cumsum(actions.options)[:-1], axis=-1)
    stuck = ~np.stack([choice.any(-1) for choice in choices]).all(0) & ~over
    if stuck.any():
        raise TightreinError(
            f"{name} allows no action in a state that goes on",
            "end the episode there (terminated), or allow an action that does nothing",
        )
    return found


def _given(shown: Any, info: Mapping[str, Any]) -> tuple[Any, Any]:
    """The mask of each environment, where there is one, and which of them gave one."""
    for source in (shown, info) if isinstance(shown, Mapping) else (info,):
        for name in MASKS:
            if name in source:
                return source[name], source.get(f"_{name}", np.ones(len(source[name]), bool))
    return None, None


def _flat(mask: Any) -> Array:
    """A mask as one vector, also where it has one for each choice."""
    return np.concatenate([np.ravel(part) for part in mask])


def _observed(space: Any) -> str | None:
    """The key of what is observed in a Dict that otherwise holds a mask only."""
    keys = list(getattr(space, "spaces", ())) if type(space).__name__ == "Dict" else []
    rest = [key for key in keys if key not in MASKS]
    return str(rest[0]) if len(rest) == 1 < len(keys) else None


def _integers(x: Any) -> tuple[int, ...]:
    return tuple(int(value) for value in np.ravel(x))
