"""The only place that knows which array library it is holding.

Formulas are written once in the Array API and run on NumPy, PyTorch and JAX. Whatever the Array API does not have
(stopping a gradient, a linear recurrence, sums over groups, registration with JAX) is here, and what one of the
libraries does many times faster in a way of its own.
"""

from .autodiff import compiled, constants_held, double_precision, stop_gradient, value_and_gradient
from .elementwise import (
    LOG_RATIO_LIMIT,
    atleast,
    atmost,
    choose,
    clip,
    erf,
    log_sigmoid,
    masked_extreme,
    masked_mean,
    sigmoid,
    sign,
    spread,
    tanh,
    zero_where_masked,
)
from .library import (
    MODULES,
    Array,
    at_hand,
    at_least_float32,
    convert,
    finite,
    holds,
    installed,
    is_array,
    is_floating,
    is_traced,
    library,
    like,
    namespace,
)
from .loops import repeated
from .ordered import at_rank, columns, group_sum, largest, linear_recurrence, log_softmax, scatter_sum
from .tree import pytree

__all__ = [
    "LOG_RATIO_LIMIT",
    "MODULES",
    "Array",
    "at_hand",
    "at_least_float32",
    "at_rank",
    "atleast",
    "atmost",
    "choose",
    "clip",
    "columns",
    "compiled",
    "constants_held",
    "convert",
    "double_precision",
    "erf",
    "finite",
    "group_sum",
    "holds",
    "installed",
    "is_array",
    "is_floating",
    "is_traced",
    "largest",
    "library",
    "like",
    "linear_recurrence",
    "log_sigmoid",
    "log_softmax",
    "masked_extreme",
    "masked_mean",
    "namespace",
    "pytree",
    "repeated",
    "scatter_sum",
    "sigmoid",
    "sign",
    "spread",
    "stop_gradient",
    "tanh",
    "value_and_gradient",
    "zero_where_masked",
]
