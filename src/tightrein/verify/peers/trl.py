"""TRL: the losses of its GRPO, RLOO and DPO trainers, computed from our log-probabilities in the place of a model's."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import numpy as np

from ...arrays import namespace, value_and_gradient
from ...decisions import Decisions
from ...errors import require
from ...method import Method
from ..batches import WIDTH, convert_decisions, decisions, fields, method
from ..checks import close
from ..pin import peer

TOLERANCE = 1e-6


def _trainer(name: str, **attributes: Any) -> Any:
    """What a trainer's loss reads of itself: one process, no accumulation, no mixture of experts."""

    def same(x: Any, **_: Any) -> Any:
        return x

    accelerator = SimpleNamespace(
        num_processes=1, device="cpu", sync_gradients=True, gather=same, gather_for_metrics=same, reduce=same
    )
    common = {
        "accelerator": accelerator,
        "model": SimpleNamespace(training=True),
        "aux_loss_enabled": False,
        "_metrics": defaultdict(lambda: defaultdict(list)),
    }
    kind = getattr(require("trl", "dev"), name)
    return kind, SimpleNamespace(**common, **attributes)


def _batch(ours: Method, seed: int) -> Decisions:
    """Prepared Decisions in PyTorch, with ragged rows."""
    return convert_decisions(ours.prepare(decisions(fields(seed, ours))), "PyTorch")


def _compare(ours: Method, d: Decisions, theirs: Any, what: str) -> None:
    """Value and gradient by logp of our loss and of `theirs`, a function of the log-probabilities."""
    found = value_and_gradient(lambda leaf: ours.loss(d.replace(**leaf)).value, {"logp": d.logp})
    expected = value_and_gradient(lambda leaf: theirs(leaf["logp"]), {"logp": d.logp})
    close(found[0], expected[0], TOLERANCE, f"{what}: loss")
    close(found[1]["logp"], expected[1]["logp"], TOLERANCE, f"{what}: gradient")


def _grpo(ours: Method, loss_type: str, level: str = "token", seeds: int = 3, **given: Any) -> None:
    """GRPOTrainer's loss. given: its settings, where they are not those of plain clipping at 0.2."""
    arguments = {
        "delta": None,
        "use_bias_correction_kl": False,
        "sapo_temperature_pos": 1.0,
        "sapo_temperature_neg": 1.05,
        "steps_per_generation": 1,
    }
    settings = {"epsilon_low": 0.2, "epsilon_high": 0.2, "beta": 0.0, "use_vllm": False} | given
    corrected = settings.pop("importance_sampling_ratio", None)
    for seed in range(seeds):
        d = _batch(ours, seed)
        kind, trainer = _trainer(
            "GRPOTrainer",
            args=SimpleNamespace(**arguments),
            loss_type=loss_type,
            importance_sampling_level=level,
            top_entropy_quantile=1.0,
            off_policy_mask_threshold=None,
            vllm_importance_sampling_correction=True,
            current_gradient_accumulation_steps=1,
            max_completion_length=WIDTH,
            _entropy_bonus_enabled=False,
            **settings,
        )
        inputs = _completions(d) | {
            "advantages": d.advantage,
            "old_per_token_logps": d.logp_old,
            "ref_per_token_logps": d.logp_ref,
            "num_items_in_batch": d.mask.sum(),
        }
        inputs |= {} if corrected is None else {"importance_sampling_ratio": corrected(d)}

        def theirs(logp: Any, kind: Any = kind, trainer: Any = trainer, inputs: Any = inputs, d: Any = d) -> Any:
            trainer._get_per_token_logps_and_entropies = lambda *_, **__: (logp, d.entropy, None)
            return kind._compute_loss(trainer, None, inputs)

        _compare(ours, d, theirs, f"TRL {loss_type}")


def _completions(d: Decisions) -> dict[str, Any]:
    xp = namespace(d.mask)
    ids = xp.astype(xp.ones_like(d.mask), xp.int64)
    return {
        "prompt_ids": ids[:, :1],
        "prompt_mask": ids[:, :1],
        "completion_ids": ids,
        "completion_mask": xp.astype(d.mask, xp.int64),
    }


@peer("TRL", "grpo")
def grpo_loss() -> None:
    """GRPOTrainer loss_type grpo, with its KL term: value and gradient."""
    _grpo(method("grpo"), "grpo", beta=0.04)


@peer("TRL", "dapo")
def dapo_loss() -> None:
    """GRPOTrainer loss_type dapo, wider above: value and gradient."""
    _grpo(method("dapo"), "dapo", epsilon_high=0.28)


@peer("TRL", "dr_grpo")
def dr_grpo_loss() -> None:
    """GRPOTrainer loss_type dr_grpo: value and gradient."""
    _grpo(method("dr_grpo"), "dr_grpo")


@peer("TRL", "gspo")
def gspo_loss() -> None:
    """GRPOTrainer with importance_sampling_level sequence: value and gradient."""
    _grpo(method("gspo"), "grpo", "sequence", epsilon_low=3e-4, epsilon_high=4e-4)


@peer("TRL", "cispo")
def cispo_loss() -> None:
    """GRPOTrainer loss_type cispo: value and gradient."""
    _grpo(method("cispo"), "cispo", epsilon_high=5.0)


@peer("TRL", "sapo")
def sapo_loss() -> None:
    """GRPOTrainer loss_type sapo: value and gradient."""
    _grpo(method("sapo"), "sapo")


@peer("TRL", "ppo_clip", "a2c_as_ppo")
def clipped_loss() -> None:
    """GRPOTrainer's clip, averaged over all tokens (loss_type bnpo): value and gradient."""
    _grpo(method("ppo_clip", **{"objective.value.coef": 0.0}), "bnpo")


@peer("TRL", "tis")
def truncated_importance() -> None:
    """GRPOTrainer's loss with a sampler's importance weights cut at 2: value and gradient."""

    def ratio(d: Decisions) -> Any:
        xp = namespace(d.logp_old)
        return xp.clip((d.logp_old - d.logp_behaviour) * d.mask, max=float(np.log(2.0))).exp()

    _grpo(method("tis"), "grpo", beta=0.04, use_vllm=True, importance_sampling_ratio=ratio)


@peer("TRL", "rloo")
def rloo_loss() -> None:
    """RLOOTrainer's loss (the released variant): value and gradient."""
    ours = method("rloo", variant="released")
    for seed in range(3):
        d = _batch(ours, seed)
        kind, trainer = _trainer("RLOOTrainer", epsilon_low=0.2, epsilon_high=0.2)
        inputs = _completions(d) | {
            "old_logps": (d.logp_old * d.mask).sum(1),
            "advantages": (d.advantage * d.mask).sum(1) / d.mask.sum(1),
        }

        def theirs(logp: Any, kind: Any = kind, trainer: Any = trainer, inputs: Any = inputs, d: Any = d) -> Any:
            trainer._get_per_token_logps_and_entropies = lambda *_, **__: (logp, d.entropy, None)
            return kind._compute_loss(trainer, None, inputs)

        _compare(ours, d, theirs, "TRL rloo")


def _dpo(ours: Method, loss_type: str, beta: float) -> None:
    """DPOTrainer's loss on rows in its order: the chosen answers, then the rejected ones."""
    for seed in range(3):
        made = fields(seed, ours.replace(experience="pairs"))
        order = np.lexsort((made["group"], -made["chosen"]))
        d = decisions({n: x[order] for n, x in made.items() if isinstance(x, np.ndarray)}, "PyTorch")
        kind, trainer = _trainer(
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
        _compare(ours, seen, theirs, f"TRL {loss_type}")


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
