"""What a credit rule remembers of each prompt."""

from __future__ import annotations

from collections.abc import Mapping

from ..arrays import Array, holds, like, namespace
from ..decisions import Decisions
from ..errors import TightreinError


def known(state: Mapping[str, Array] | None, d: Decisions) -> dict[str, Array]:
    """The memory, arrays of [P], in the library and the precision of `d`.

    Raises TightreinError when there is none, and for a prompt that it has no place for.
    """
    if state is None:
        raise TightreinError(
            "this credit rule remembers something of every prompt, and was given no state",
            "pass what its init(prompts) returned, or use it in a Method, which does",
        )
    size = next(iter(state.values())).shape[0]
    xp = namespace(d.prompt)
    if not holds(xp.all((d.prompt >= 0) & (d.prompt < size))):
        raise TightreinError(
            f"there is a prompt outside 0..{size - 1}",
            f"number the prompts from 0, and make the state with init(prompts=N) for all N of them, not {size}",
        )
    weights = d.weights()
    return {name: like(array, weights) for name, array in state.items()}
