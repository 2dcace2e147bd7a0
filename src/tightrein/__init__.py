"""tightrein: policy optimization under a trust region, every published method by name.

>>> import tightrein as tr
>>> tr.method("spo", epsilon=0.1).objective.surrogate
SPO(epsilon=0.1, ratio=TokenRatio())
"""

from . import decisions, parts
from .catalogue import method, methods, register
from .decisions import Decisions, Loss
from .distributions import Categorical, DiagonalGaussian, MultiCategorical, SquashedGaussian
from .engines import load_policy, train
from .errors import TightreinError
from .method import Method, Source, Training

__version__ = "0.1.0"

__all__ = [
    "Categorical",
    "Decisions",
    "DiagonalGaussian",
    "Loss",
    "Method",
    "MultiCategorical",
    "Source",
    "SquashedGaussian",
    "TightreinError",
    "Training",
    "decisions",
    "load_policy",
    "method",
    "methods",
    "parts",
    "register",
    "train",
]
