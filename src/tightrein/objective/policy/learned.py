"""A surrogate whose drift is a small network with fixed parameters, found by meta-learning."""

from __future__ import annotations

from dataclasses import dataclass

from ...arrays import Array, atleast, clip, like, namespace, tanh
from ...decisions import Decisions
from ...errors import TightreinError
from ...settings import setting
from .surrogate import Surrogate

Units = tuple[tuple[float, ...], ...]

# The published drift networks are not released. This one was fitted by least squares to the closed form that their
# authors distilled from theirs (dpo_drift), for log r of deviation 0.35 and standard normal advantages.
DISTILLED: Units = (
    (-0.74098, 0.87035, -0.99020, -0.82748, -0.40113, 0.32653, 1.01963, 0.83082, 0.53231),
    (-0.61708, 0.65951, 1.00699, -0.32856, -0.05212, -0.07649, -0.25162, 0.40339, 1.04896),
    (-0.78450, -0.01713, 0.33269, 0.15544, -0.73727, 0.35350, -0.33687, -0.32721, -1.48288),
    (0.64113, -0.75192, 0.90161, 0.74973, -0.46777, -1.81650, -0.32680, 0.08740, 0.32518),
)
SILENT: Units = ((0.0,) * 9,)


@dataclass(frozen=True)
class LearnedDrift(Surrogate):
    """What leaving the old policy costs is the output of a network. arXiv 2210.05639 (LPO).

    `units` is its hidden layer, one row of nine numbers a unit: the weights of x, those of A x, and that of the unit's
    output. There are no biases, so that the drift is 0 at r = 1, and `slack` keeps it so nearby. `warm` adds PPO's
    clip of that width: with SILENT units, where meta-learning starts, the surrogate is PPO's but for the slack.
    """

    equation = (
        "-( r A - D ),  D = relu( N(x, A x) - slack ),  N = w tanh( W . ),  x = (log r, log^2 r, 1 - r, (1 - r)^2)"
    )
    units: Units = DISTILLED
    slack: float = setting(1e-4, at_least=0)
    warm: float | None = setting(None, above=0)

    def check(self) -> None:
        """See Part: eight inputs and an output make nine numbers."""
        if not self.units or any(len(unit) != 9 for unit in self.units):
            raise TightreinError("a unit of the drift network has nine numbers", "give rows of 8 inputs and 1 output")

    def formula(self, r: Array, advantage: Array) -> Array:
        """See Surrogate."""
        return -(r * advantage - self.drift(r, advantage))

    def drift(self, r: Array, advantage: Array) -> Array:
        """What leaving r = 1 costs; never negative, elementwise."""
        raised = network(like(self.units, r * advantage), r, advantage) - self.slack
        if self.warm is not None:
            raised = raised + atleast((r - clip(r, 1 - self.warm, 1 + self.warm)) * advantage, 0)
        return atleast(raised, 0)

    def clipped(self, d: Decisions) -> Array:
        """1 where the drift is positive."""
        r, advantage = self.ratio(d), self.advantage(d)
        return namespace(r).astype(self.drift(r, advantage) > 0, r.dtype)


def network(units: Array, r: Array, advantage: Array) -> Array:
    """The network's output, in the shape of r. units: [H, 9], as LearnedDrift has them.

    It works in the precision of `units`.
    """
    xp = namespace(r)
    log_r, gap = xp.log(r), 1 - r
    x = xp.reshape(xp.stack([log_r, log_r**2, gap, gap**2]), (4, -1))
    both = xp.astype(xp.concat([x, xp.reshape(advantage, (1, -1)) * x]), units.dtype, copy=False)
    return xp.reshape(units[:, 8] @ tanh(units[:, :8] @ both), r.shape)
