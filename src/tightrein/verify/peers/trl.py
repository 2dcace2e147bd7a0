"""TRL: GRPO and RLOO trainers, from rewards to the loss, with our log-probabilities in the place of a model's."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from ...arrays import namespace
from ...decisions import Decisions
from ...errors import require
from ...method import Method
from ...objective.aggregate import Aggregation, SeqMeanTokenMean, SeqMeanTokenSum, SeqMeanTokenSumNorm, TokenMean
from ...objective.levels import BehaviourRatio
from ...objective.ratio import Ratio, SequenceMeanRatio, SequenceProductRatio, TokenRatio
from ..batches import WIDTH, method
from ..pin import peer
from .cases import cases, compare, prepared

NEAR = 18.0  # TRL cuts no log-ratio; here it is cut at 20
LOSSES: dict[str, Aggregation] = {  # loss types that differ in nothing but how they are averaged
    "grpo": SeqMeanTokenMean(),
    "bnpo": TokenMean(),
    "dapo": TokenMean(),
    "dr_grpo": SeqMeanTokenSumNorm(WIDTH),
    "luspo": SeqMeanTokenSum(),
}

LEVELS: dict[str, Ratio] = {"token": TokenRatio(), "sequence": SequenceMeanRatio()}


def trainer_of(name: str, **attributes: Any) -> tuple[Any, Any]:
    """A trainer's class, and what its loss reads of a trainer: one process, no accumulation, no mixture of experts."""

    def same(x: Any, **_: Any) -> Any:
        return x

    accelerator = SimpleNamespace(
        num_processes=1,
        process_index=0,
        device="cpu",
        sync_gradients=True,
        **dict.fromkeys(("gather", "gather_for_metrics", "reduce", "pad_across_processes"), same),
    )
    common = {
        "accelerator": accelerator,
        "model": SimpleNamespace(training=True, is_gradient_checkpointing=False),
        "aux_loss_enabled": False,
        "_metrics": defaultdict(lambda: defaultdict(list)),
    }
    kind = getattr(require("trl", "dev"), name) if "." not in name else _experimental(name)
    return kind, SimpleNamespace(**common | attributes)


def _experimental(name: str) -> Any:
    module, _, kind = name.rpartition(".")
    return getattr(require(f"trl.experimental.{module}", "dev"), kind)


# What the trainers read of themselves where no test says otherwise.
_DEFAULTS: dict[str, Any] = {
    "loss_type": "grpo",
    "importance_sampling_level": "token",
    "epsilon_low": 0.2,
    "epsilon_high": 0.2,
    "beta": 0.0,
    "delta": None,
    "use_bias_correction_kl": False,
    "off_policy_mask_threshold": None,
    "top_entropy_quantile": 1.0,
    "_entropy_bonus_enabled": False,
    "scale_rewards": "group",
    "multi_objective_aggregation": "sum_then_normalize",
    "normalize_advantages": False,
    "reward_clip_range": None,
    "use_vllm": False,
    "vllm_importance_sampling_correction": True,
    "vllm_importance_sampling_mode": "sequence_mask",
    "vllm_importance_sampling_clip_min": None,
    "vllm_importance_sampling_clip_max": 3.0,
    "max_completion_length": WIDTH,
    "steps_per_generation": 1,
    "gradient_accumulation_steps": 1,
    "current_gradient_accumulation_steps": 1,
    "num_iterations": 2,  # so that the old policy's log-probabilities are kept
    "per_device_train_batch_size": 1,
    "gradient_checkpointing_kwargs": None,
    "environment_factories": None,
    "environments": None,
    "tools": None,
    "ref_model": "reference",
    "pad_to_multiple_of": None,
    "mask_truncated_completions": False,
    "log_multimodal": False,
    "reward_func_names": ["reward"],
    "_tokenizer": SimpleNamespace(pad_token_id=0),
}


def same_loss(
    ours: Method,
    name: str = "GRPOTrainer",
    far: float = NEAR,
    without: tuple[str, ...] = (),
    empty: bool = False,
    **given: Any,
) -> None:
    """A trainer's advantages, weights and loss, from rewards on, on every case but those in `without`.

    far: the extreme log-ratio. empty: also where an answer has no token, with our advantages, as TRL compares the
    others with it. given: the trainer's settings, or its configuration's, where they differ.
    """
    for case, raw in cases(ours, far, empty=empty):
        if case in without:
            continue
        kind, trainer = _stand_in(name, raw, given)
        with _in_float64():
            inputs = kind._generate_and_score_completions(trainer, [{"prompt": "?"}] * raw.shape[0])
        d = prepared(ours, raw)
        inputs |= {"advantages": d.advantage} if case == "an empty answer" else {}

        def theirs(logp: Any, kind: Any = kind, trainer: Any = trainer, inputs: Any = inputs, d: Any = d) -> Any:
            trainer._get_per_token_logps_and_entropies = _model(lambda _: logp, d)
            return kind._compute_loss(trainer, None, inputs)

        compare(ours, d, theirs, f"{name} {given}, {case}")


def _stand_in(name: str, d: Decisions, given: dict[str, Any]) -> tuple[Any, Any]:
    """The trainer's class, and one that has sampled `d`: what does not count was written by a tool."""
    xp, settings, rows = namespace(d.mask), _DEFAULTS | given, d.shape[0]
    ends = (d.mask * xp.cumulative_sum(xp.ones_like(d.mask), axis=1)).max(1).values.clamp(min=1)
    mask = [row[: int(end)].long().tolist() for row, end in zip(d.mask, ends, strict=True)]
    logps = [row[: int(end)].tolist() for row, end in zip(d.logp_behaviour, ends, strict=True)]
    ids, prompts, texts = [[1] * len(row) for row in mask], [[1]] * rows, [""] * rows
    sampled = (prompts, ids, texts) if name == "RLOOTrainer" else (prompts, ids, mask, texts, logps, {}, None, None)
    sizes = xp.sum(d.group[:, None] == d.group[None, :], axis=1)
    kind, trainer = trainer_of(
        name,
        args=SimpleNamespace(**settings),
        **settings,
        num_generations=int(sizes[0]),
        reward_weights=xp.ones(1),
        _generate=lambda prompts: sampled,
        _calculate_rewards=lambda *_: d.reward[:, None],
        _get_per_token_logps_and_entropies=_model(lambda m: d.logp_ref if m == "reference" else d.logp_old, d),
        _logs=defaultdict(list, rewards=defaultdict(list)),
        _pending_extra_logs={},
        _pending_metrics={},
    )
    for helper in ("get_off_policy_mask", "get_gamma_weights"):
        setattr(trainer, helper, getattr(kind, helper, None))
    return kind, trainer


def _model(logp: Callable[[Any], Any], d: Decisions) -> Callable[..., Any]:
    """What stands in for a forward pass: the log-probabilities of a model, and the entropies, of the last `keep`."""

    def forward(model: Any, ids: Any, seen: Any, keep: int, *_: Any, **__: Any) -> Any:
        return logp(model)[:, :keep], d.entropy[:, :keep], None

    return forward


@contextmanager
def _in_float64() -> Iterator[None]:
    """What a trainer makes of lists of numbers is float64 too."""
    torch = require("torch", "language")
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


EPS: dict[str, Any] = {"credit.eps": 1e-4}  # TRL's
FREE: dict[str, Any] = {"objective.reference.coef": 0.0}
ALONE = ("groups of one",)  # TRL gives such an answer no advantage, here and in verl it is the reward


@peer("TRL", "grpo", "dapo", "dr_grpo")
def clipped_loss() -> None:
    """GRPOTrainer loss_types grpo, bnpo, dapo, dr_grpo and luspo, token by token, from rewards: value and gradient."""
    for loss_type, aggregate in LOSSES.items():
        ours = method("grpo", **FREE, **EPS, **{"objective.aggregate": aggregate})
        same_loss(ours, loss_type=loss_type, without=ALONE)


@peer("TRL", "grpo")
def grpo_loss() -> None:
    """GRPOTrainer loss_type grpo, with its KL term, from rewards: value and gradient."""
    same_loss(method("grpo", **EPS), beta=0.04, without=ALONE)


@peer("TRL", "dapo")
def dapo_loss() -> None:
    """GRPOTrainer loss_type dapo, wider above, from rewards: value and gradient."""
    same_loss(method("dapo", **EPS).replace(reward=()), loss_type="dapo", epsilon_high=0.28, without=ALONE)


@peer("TRL", "dr_grpo")
def dr_grpo_loss() -> None:
    """GRPOTrainer loss_type dr_grpo with rewards that are not scaled: value and gradient."""
    same_loss(method("dr_grpo"), loss_type="dr_grpo", scale_rewards="none")


@peer("TRL", "gspo")
def gspo_loss() -> None:
    """GRPOTrainer with importance_sampling_level sequence in five averages, from rewards: value and gradient."""
    for loss_type, aggregate in LOSSES.items():
        ours = method("gspo", **EPS, **{"objective.aggregate": aggregate})
        narrow: dict[str, Any] = {"epsilon_low": 3e-4, "epsilon_high": 4e-4}
        same_loss(ours, loss_type=loss_type, importance_sampling_level="sequence", without=ALONE, **narrow)


@peer("TRL", "luspo")
def luspo_loss() -> None:
    """GRPOTrainer loss_type luspo with ratios of answers, from rewards: value and gradient."""
    widths: dict[str, Any] = {"epsilon_low": 2e-3, "epsilon_high": 2.5e-3}
    same_loss(method("luspo", **EPS), loss_type="luspo", importance_sampling_level="sequence", without=ALONE, **widths)


@peer("TRL", "gmpo")
def gmpo_loss() -> None:
    """The experimental GMPOTrainer, from rewards: value and gradient."""
    same_loss(method("gmpo", **EPS), "gmpo.GMPOTrainer", epsilon_low=0.4, epsilon_high=0.4, without=ALONE)


@peer("TRL", "vespo")
def vespo_loss() -> None:
    """GRPOTrainer loss_type vespo, also with the weights of another sampler in its ratio: value and gradient."""
    shapes: dict[str, Any] = {"vespo_k_pos": 2.0, "vespo_lambda_pos": 3.0, "vespo_k_neg": 3.0, "vespo_lambda_neg": 2.0}
    same_loss(method("vespo", **EPS), far=30.0, loss_type="vespo", without=ALONE, **shapes)
    sampled = method("vespo", **EPS, **{"surrogate.ratio": BehaviourRatio(SequenceProductRatio())})
    untruncated: dict[str, Any] = {
        "vllm_importance_sampling_mode": "token_truncate",
        "vllm_importance_sampling_clip_max": 1e9,
    }
    same_loss(sampled, far=15.0, loss_type="vespo", use_vllm=True, without=ALONE, **shapes, **untruncated)


@peer("TRL", "kl_estimators")
def corrected_divergence() -> None:
    """GRPOTrainer's use_bias_correction_kl, with ratios of tokens and of answers: value and gradient."""
    for level, ratio in LEVELS.items():
        changes: dict[str, Any] = {"objective.surrogate.ratio": ratio, "objective.reference.ratio": ratio}
        ours = method("kl_estimators", variant="off_policy", **EPS).override(changes)
        theirs: dict[str, Any] = {"use_bias_correction_kl": True, "importance_sampling_level": level, "beta": 0.04}
        same_loss(ours, far=9.0, without=ALONE, **theirs)


@peer("TRL", "mis_icepop")
def off_policy_mask() -> None:
    """GRPOTrainer's off_policy_mask_threshold (the variant opsm), from rewards: value and gradient."""
    ours = method("mis_icepop", variant="opsm", limit=0.1, **EPS)
    same_loss(ours, beta=0.04, off_policy_mask_threshold=0.1, without=ALONE)


@peer("TRL", "loss_aggregation")
def all_averages() -> None:
    """GRPOTrainer's loss types grpo, dr_grpo, luspo, bnpo and dapo, also of an empty answer: value and gradient."""
    kinds = {"trl_grpo": "grpo", "trl_dr_grpo": "dr_grpo", "trl_luspo": "luspo", "paper": "bnpo"}
    for variant, loss_type in (*kinds.items(), ("paper", "dapo")):
        ours = method("loss_aggregation", variant=variant, **EPS)
        same_loss(ours, loss_type=loss_type, without=ALONE, empty=True)


@peer("TRL", "grpo")
def entropy_bonus() -> None:
    """GRPOTrainer's entropy bonus, which is a mean over tokens: value and gradient."""
    ours = method("grpo", **FREE, **EPS, **{"objective.aggregate": TokenMean(), "objective.entropy": 0.01})
    bonus: dict[str, Any] = {"_entropy_bonus_enabled": True, "use_adaptive_entropy": False, "entropy_coef": 0.01}
    same_loss(ours, loss_type="bnpo", without=ALONE, **bonus)


@peer("TRL", "dual_clip_ppo")
def two_sided_loss() -> None:
    """GRPOTrainer's delta, the second clip, for ratios of tokens and of answers: value and gradient."""
    for level, ratio in LEVELS.items():
        changes: dict[str, Any] = {**FREE, **EPS, "objective.surrogate.dual": 3.0, "objective.surrogate.ratio": ratio}
        same_loss(method("grpo", **changes), far=30.0, delta=3.0, importance_sampling_level=level, without=ALONE)


@peer("TRL", "cispo")
def cispo_loss() -> None:
    """GRPOTrainer loss_type cispo, with ratios of tokens and of answers, from rewards: value and gradient."""
    for level, ratio in LEVELS.items():
        ours = method("cispo", **EPS, **{"objective.surrogate.ratio": ratio})
        theirs: dict[str, Any] = {"loss_type": "cispo", "epsilon_high": 5.0, "importance_sampling_level": level}
        same_loss(ours, far=30.0, without=ALONE, **theirs)


@peer("TRL", "sapo")
def sapo_loss() -> None:
    """GRPOTrainer loss_type sapo, with ratios of tokens and of answers, from rewards: value and gradient."""
    temperatures: dict[str, Any] = {"sapo_temperature_pos": 1.0, "sapo_temperature_neg": 1.05}
    for level, ratio in LEVELS.items():
        ours = method("sapo", **EPS, **{"objective.surrogate.ratio": ratio})
        same_loss(ours, far=30.0, loss_type="sapo", importance_sampling_level=level, without=ALONE, **temperatures)


@peer("TRL", "tis")
def truncated_importance() -> None:
    """GRPOTrainer's four vllm_importance_sampling_modes, from rewards: value and gradient."""
    for level, ratio in (("token", "TokenRatio"), ("sequence", "SequenceProductRatio")):
        for way, drop in (("truncate", False), ("mask", True)):
            limits: dict[str, Any] = {"objective.correction.cap": 3.0, "objective.correction.floor": 0.5}
            changes: dict[str, Any] = {"objective.correction.level": ratio, "objective.correction.drop": drop}
            theirs: dict[str, Any] = {
                "vllm_importance_sampling_mode": f"{level}_{way}",
                "vllm_importance_sampling_clip_min": 0.5,
            }
            same_loss(method("tis", **EPS, **limits, **changes), use_vllm=True, beta=0.04, without=ALONE, **theirs)


@peer("TRL", "rloo")
def rloo_loss() -> None:
    """RLOOTrainer (the released variant), from rewards and the KL penalty in them: value and gradient."""
    same_loss(method("rloo", variant="released"), "RLOOTrainer", beta=0.05, without=("gaps",))
