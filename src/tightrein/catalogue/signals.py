"""Methods that read more than log-probabilities: a masked input, the inside of the model."""

from __future__ import annotations

from ..method import Method, Source
from ..objective.aggregate import TokenMean
from ..objective.divergence import ReferenceKL
from ..objective.perception import Perception
from ..objective.policy import Clip, Widths
from ..relations import Equals
from .language import GRPO

_PERCEPTION = "objective.terms.perception"

PAPO_PERCEPTION = GRPO.replace(
    key="papo_perception",
    title="PAPO: learn from what the prompt changes",
    source=Source(
        paper="Perception-Aware Policy Optimization for Multimodal Reasoning",
        year=2025,
        arxiv="2507.06448",
        code="MikeWangWZHL/PAPO verl/workers/actor/dp_actor.py; an experimental trainer of TRL",
        differences="the paper masks image patches; here it is prompt tokens. Its objective, read in a figure, "
        "differentiates the masked look; the code takes it once, of the old policy, averages over tokens and cuts the "
        "divergence at 10: variant 'released'. The figure's r - log r - 1 leaves r undefined; that of the code, "
        "pi_masked / pi, estimates the divergence that is named. Coefficients and the absence of a reference are "
        "those of the authors' best runs; 'reference' and 'dapo' are those of others. Weights by sample, a share of "
        "the tokens and annealing, which the code can do too, are off there and not here.",
    ),
    objective=GRPO.objective.replace(reference=ReferenceKL(), terms=(Perception(),)),
    training=GRPO.training.replace(group_size=5, minibatches=3),
    variants=(
        (
            "released",
            (
                ("objective.surrogate", Clip(Widths(0.2, 0.3), dual=3.0)),
                ("objective.aggregate", TokenMean()),
                (f"{_PERCEPTION}.through", False),
                (f"{_PERCEPTION}.cap", 10.0),
            ),
        ),
        (
            "reference",
            (
                ("objective.reference.coef", 0.01),
                (f"{_PERCEPTION}.coef", 0.02),
                (f"{_PERCEPTION}.entropy", 0.05),
            ),
        ),
        ("dapo", (("objective.surrogate.bounds.high", 0.28), ("objective.aggregate", TokenMean()))),
    ),
    relations=(
        Equals("grpo", "loss", mine={f"{_PERCEPTION}.coef": 0.0}, theirs={"objective.reference.coef": 0.0}),
        Equals("grpo", theirs={"objective.reference.coef": 0.0}),
    ),
)

METHODS: tuple[Method, ...] = (PAPO_PERCEPTION,)
