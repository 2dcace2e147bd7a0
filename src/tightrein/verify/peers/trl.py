"""TRL: a stand-in for its trainers that goes from rewards to the loss, with our log-probabilities for a model's."""

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
from ..batches import WIDTH
from .cases import cases, compare, prepared

NEAR = 18.0  # TRL cuts no log-ratio; here it is cut at 20


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
    sampled: tuple[Any, ...] = (prompts, ids, texts)
    if name != "RLOOTrainer":
        sampled = (prompts, ids, mask, texts, logps, {}, None, None)
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
