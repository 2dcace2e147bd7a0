"""What equals, bounds or tends to what, as data: `tightrein show` prints it and `tightrein verify` tests it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from .settings import Part

Settings = Mapping[str, Any] | tuple[tuple[str, Any], ...]
What = Literal["advantage", "loss", "loss per decision", "gradient"]
On = Literal[
    "the old policy",  # logp = logp_old, everywhere in the batch
    "the reference",  # logp = logp_old = logp_ref
    "the old policy sampled",  # logp_behaviour = logp_old
    "one decision per answer",
    "equal lengths",
    "groups of two",
    "pairs",  # groups of two with reward 1 for the chosen and 0 for the rejected
]
Scale = float | Literal["(G-1)/G", "G/(G-1)", "1/G", "G"]  # G is the size of the groups


@dataclass(frozen=True)
class Relation:
    """Something that holds of a method and can be tested. `str()` is its sentence."""


@dataclass(frozen=True)
class Comparison(Relation):
    """Base of what relates a method to an `other` by its key, or to itself under other settings.

    mine, theirs: settings to be changed, by path. on: the batches on which it holds; all if none is named.
    whole: each method makes its own advantages from the rewards; otherwise both read the same, made by this one.
    `gradient` is that by the log-probabilities and the distributions' parameters.
    """

    other: str
    what: What = "loss per decision"
    mine: Settings = ()
    theirs: Settings = ()
    on: On | tuple[On, ...] = ()
    whole: bool = False

    def __post_init__(self) -> None:
        # Hashable, because a Method is static under jax.jit.
        object.__setattr__(self, "mine", tuple(dict(self.mine).items()))
        object.__setattr__(self, "theirs", tuple(dict(self.theirs).items()))
        object.__setattr__(self, "on", (self.on,) if isinstance(self.on, str) else tuple(self.on))

    def _sentence(self, relation: str, before: str = "") -> str:
        subject = f"{before or _with(self.mine, after=' ')}its {self.what}{' from rewards' if self.whole else ''}"
        where = f", on {' and '.join(self.on)}" if self.on else ""
        return f"{subject} {relation} that of {self.other}{_with(self.theirs, before=' ')}{where}"


@dataclass(frozen=True)
class Equals(Comparison):
    """Mine is `scale` times theirs."""

    scale: Scale = 1.0

    def __str__(self) -> str:
        return self._sentence("is" if self.scale == 1 else f"is {self.scale} times")


@dataclass(frozen=True, kw_only=True)
class Limit(Comparison):
    """As my `setting` goes to `to` (a number, or infinity), mine tends to theirs."""

    setting: str
    to: float

    def __str__(self) -> str:
        with_these = _with(self.mine, after=" ")
        return self._sentence("tends to", f"{with_these}as {self.setting} -> {self.to:g} ")


@dataclass(frozen=True)
class Bound(Comparison):
    """Mine is never below theirs."""

    def __str__(self) -> str:
        return self._sentence("is never below")


@dataclass(frozen=True)
class Stationary(Relation):
    """A decision's gradient is exactly 0 at r = 1 + sign(A) width, forward before and backward beyond.

    width: the path of the setting that holds it.
    """

    width: str

    def __str__(self) -> str:
        return f"its gradient is exactly 0 at r = 1 + sign(A) {self.width}, and turns back beyond"


def _with(settings: Settings, before: str = "", after: str = "") -> str:
    """`with a=1, b=Name`, or nothing."""
    if not settings:
        return ""
    named = [f"{path}={_named(value)}" for path, value in dict(settings).items()]
    return f"{before}with {', '.join(named)}{after}"


def _named(value: Any) -> str:
    """A part by its class, with its settings only where they are not those it has by itself."""
    if not isinstance(value, Part):
        return str(value)
    own = {f.name: f.default for f in fields(value)}
    given = [f"{name}={_named(part)}" for name, part in value.children() if part != own.get(name)]
    return type(value).__name__ + (f"({', '.join(given)})" if given else "")
