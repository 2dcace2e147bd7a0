"""The same step many times over."""

from __future__ import annotations

from collections.abc import Callable

from .library import Array, is_jax

State = tuple[Array, ...]


def repeated(step: Callable[[State], State], start: State, times: int) -> State:
    """`step` applied `times` times to a tuple of arrays; a loop of the compiled program where they are JAX's."""
    if is_jax(start[0]):
        import jax

        return jax.lax.fori_loop(0, times, lambda _, state: step(state), start)  # type: ignore[no-any-return]
    for _ in range(times):
        start = step(start)
    return start
