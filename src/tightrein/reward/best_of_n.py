"""What picking the best of n answers by one score does to another. arXiv 2310.02743, appendix."""

from __future__ import annotations

import math

from ..arrays import Array, namespace
from ..errors import TightreinError


def best_of_n(proxy: Array, gold: Array, n: int) -> Array:
    """Expected gold score of the answer that `proxy` likes best among n drawn from N: a scalar.

    proxy, gold: [N]. Exact over all ways to draw n different answers, so that one set of N serves every n <= N.

    Raises TightreinError unless 1 <= n <= N.
    """
    total = proxy.shape[0]
    if not 1 <= n <= total:
        raise TightreinError(f"best of {n} from {total} answers", f"give n between 1 and {total}")
    xp = namespace(gold)
    weights = xp.asarray(_weights(total, n), dtype=gold.dtype)
    return xp.sum(weights * xp.take(gold, xp.argsort(proxy)))


def _weights(total: int, n: int) -> list[float]:
    """Probability that rank i = 1 ... total (lowest first) is the best of n: C(i-1, n-1) / C(total, n)."""
    weights, weight = [0.0] * total, n / total
    for rank in range(total, n - 1, -1):
        weights[rank - 1] = weight
        weight *= (rank - n) / max(rank - 1, 1)
    return weights


def best_of_n_kl(n: int) -> float:
    """KL of the best of n from the policy that answered, in nats: log n - (n - 1) / n."""
    return math.log(n) - (n - 1) / n
