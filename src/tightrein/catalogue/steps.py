"""Methods whose contribution is the step."""

from __future__ import annotations

from ..method import Method, Source
from ..relations import Equals
from ..step import Adam, Muon, NTRMomentum, ZClip
from .classic import PPO_CLIP

_HOST = "An optimizer has no objective of its own: it is hosted by ppo_clip's, and joins any other with --set step="
_SAME_OBJECTIVE = Equals("ppo_clip", "loss per decision")

ZCLIP = PPO_CLIP.replace(
    key="zclip",
    title="ZClip: gradient clipping by z-score",
    source=Source(
        paper="ZClip: Adaptive Spike Mitigation for LLM Pre-Training",
        year=2025,
        arxiv="2504.02507",
        code="bluorion-com/ZClip zclip/zclip.py",
        differences=f"{_HOST}Adam --set step.clipping=ZClip. The other two rules of the code are ZClipMean and "
        "ZClipPercentile.",
    ),
    step=Adam(learning_rate=3e-4, eps=1e-5, max_grad_norm=1.0, clipping=ZClip()),
    variants=(),
    relations=(_SAME_OBJECTIVE,),
)

MUON = PPO_CLIP.replace(
    key="muon",
    title="Muon: momentum, orthogonalised by Newton-Schulz",
    source=Source(
        paper="Muon: An optimizer for hidden layers in neural networks",
        year=2024,
        code="KellerJordan/Muon muon.py; torch.optim.Muon; optax.contrib.muon",
        differences=f"{_HOST}Muon. The code iterates in bfloat16 (variant 'released'; here in the parameters' own "
        "precision) and scales a square convolution kernel by 1. Moonlight (arXiv 2502.16982) is step.scale=RMSScale, "
        "Scion's scale OperatorScale. optax.contrib.muon corrects the Nesterov average for its bias; PyTorch and "
        "Jordan do not.",
    ),
    step=Muon(),
    variants=(("released", (("step.polar.bfloat16", True),)),),
    relations=(_SAME_OBJECTIVE,),
)

NTR_MOMENTUM = PPO_CLIP.replace(
    key="ntr_momentum",
    title="Non-Euclidean trust-region gradient method with momentum",
    source=Source(
        paper="Understanding Gradient Orthogonalization for Deep Learning via Non-Euclidean Trust-Region Optimization",
        year=2025,
        arxiv="2503.12645",
        read="excerpt",
        confidence="medium",
        differences=f"{_HOST}NTRMomentum. The abstract was read, and Lemma 3 and Theorem 2 as others quote them; "
        "the extrapolated form and weight decay are filled in. The paper leaves the norm and all numbers open: the "
        "defaults (Moonlight's scale on hidden matrices, signs elsewhere) are ours.",
        reconstruction=True,
    ),
    step=NTRMomentum(),
    variants=(),
    relations=(_SAME_OBJECTIVE,),
)

METHODS: tuple[Method, ...] = (ZCLIP, MUON, NTR_MOMENTUM)
