"""TRL: the losses of its DPO trainer, computed from our log-probabilities in the place of a model's."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from ...arrays import namespace
from ...method import Method
from ..batches import decisions, fields, method
from ..pin import peer
from .cases import compare
from .trl import trainer_of


def _dpo(ours: Method, loss_type: str, beta: float) -> None:
    """DPOTrainer's loss on rows in its order: the chosen answers, then the rejected ones."""
    for seed in range(3):
        made = fields(seed, ours.replace(experience="pairs"))
        order = np.lexsort((made["group"], -made["chosen"]))
        d = decisions({n: x[order] for n, x in made.items() if isinstance(x, np.ndarray)}, "PyTorch")
        kind, trainer = trainer_of(
            "DPOTrainer",
            beta=beta,
            loss_types=[loss_type],
            loss_weights=[1.0],
            f_divergence_type="reverse_kl",
            ld_alpha=None,
            precompute_ref_logps=True,
            use_weighting=False,
            label_smoothing=0.0,
            _total_train_tokens=0,
            _tp_size=1,
        )
        xp = namespace(d.mask)
        mask = xp.concat([xp.zeros_like(d.mask[:, :1]), d.mask], axis=1)  # the prompt is one token
        mask = xp.astype(mask, xp.int64)
        reference = (d.logp_ref * d.mask).sum(1)
        half = reference.shape[0] // 2
        inputs = {
            "input_ids": xp.ones_like(mask),
            "attention_mask": xp.ones_like(mask),
            "completion_mask": mask,
            "ref_chosen_logps": reference[:half],
            "ref_rejected_logps": reference[half:],
        }

        def theirs(logp: Any, kind: Any = kind, trainer: Any = trainer, inputs: Any = inputs, d: Any = d) -> Any:
            made = SimpleNamespace(
                log_probs=logp * d.mask, entropy=d.entropy, mean_logits=d.entropy, is_top1=d.mask != 0, aux_loss=None
            )
            return kind._compute_loss(trainer, lambda **_: made, inputs, False)

        seen = ours.prepare(d if ours.experience == "pairs" else d.replace(mask=d.mask * d.chosen[:, None]))
        compare(ours, seen, theirs, f"TRL {loss_type}")


@peer("TRL", "dpo", "tr_dpo")
def dpo_loss() -> None:
    """DPOTrainer loss_type sigmoid: value and gradient."""
    for key, beta in (("dpo", 0.1), ("tr_dpo", 0.05)):
        _dpo(method(key), "sigmoid", beta)


@peer("TRL", "ipo")
def ipo_loss() -> None:
    """DPOTrainer loss_type ipo (the released variant, a mean over tokens): value and gradient."""
    _dpo(method("ipo", variant="released"), "ipo", 0.1)


@peer("TRL", "sft")
def sft_loss() -> None:
    """DPOTrainer loss_type sft, the likelihood of the chosen answers: value and gradient."""
    _dpo(method("sft"), "sft", 0.1)
