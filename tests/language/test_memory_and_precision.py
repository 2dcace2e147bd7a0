"""Layers that are run again, and passes in bfloat16."""

import copy

import pytest
import torch
from test_gradients import answered, assert_same, slope
from tiny import tiny

import tightrein as tr
from tightrein.engines.language.config import LanguageConfig
from tightrein.engines.language.models import modes
from tightrein.engines.language.models.modes import evaluating, recompute, with_precision
from tightrein.engines.language.passes.views import view
from tightrein.errors import TightreinError

IDS = torch.arange(3, 15).view(2, 6)


def seen(model):
    return view(model, IDS, torch.ones_like(IDS), 4)


def parts_run(model):
    """How often the products inside the layers have been run."""
    count = []
    for name, module in model.named_modules():
        if name.endswith("o_proj"):
            module.register_forward_hook(lambda *_: count.append(1))
    return count


def test_layers_that_are_run_again_give_the_same_gradient(policy):
    batch = answered(policy)
    plain = slope(policy, batch, "ppo_clip")
    recompute(policy.model)
    assert_same(slope(policy, batch, "ppo_clip"), plain)


def test_layers_are_run_again_for_a_gradient_and_only_then():
    model = tiny("Llama", attention_dropout=0.9)  # which stays off: it is not what the layers are run again for
    once = seen(model).logp
    recompute(model)
    count = parts_run(model)
    with torch.no_grad(), evaluating(model):
        torch.testing.assert_close(seen(model).logp, once)
    assert len(count) == 2
    found = seen(model).logp
    torch.testing.assert_close(found, once)
    found.sum().backward()
    assert len(count) == 6
    assert copy.deepcopy(model).eval().requires_grad_(False) is not model


def test_evaluation_puts_the_mode_of_each_part_back():
    model = tiny("Llama").train()
    model.lm_head.eval()
    with evaluating(model):
        assert not any(module.training for module in model.modules())
    assert [name for name, module in model.named_modules() if not module.training] == ["lm_head"]


def test_bfloat16_moves_the_numbers_by_its_rounding_and_no_more():
    model = tiny("Qwen3")
    exact = seen(model)
    slopes = torch.autograd.grad(exact.logp.sum(), list(model.parameters()))
    rough = seen(with_precision(model, "bfloat16"))
    assert rough.logp.dtype == torch.float32
    rougher = torch.autograd.grad(rough.logp.sum(), list(model.parameters()))
    assert 0 < float((rough.logp - exact.logp).detach().abs().max()) < 0.02
    for ours, theirs in zip(rougher, slopes, strict=True):
        assert ours.dtype == torch.float32
        assert float((ours - theirs).norm()) < 0.1 * float(theirs.norm()) + 1e-3


def test_what_cannot_be_done_is_refused(monkeypatch):
    monkeypatch.setattr(modes, "_supported", lambda _: False)
    with pytest.raises(TightreinError, match="no arithmetic in bfloat16"):
        with_precision(tiny("Llama"), "bfloat16")
    with pytest.raises(TightreinError, match="would be free"):
        LanguageConfig(gradient_checkpointing=True, routing="old")


def test_a_run_with_both_and_adapters(tmp_path, model_folder, jsonl):
    (tmp_path / "rewards.py").write_text("def size(completions, **_):\n    return [len(c) / 9 for c in completions]\n")
    told = {
        "method": "grpo", "model": str(model_folder), "dataset": str(jsonl), "reward": f"{tmp_path}/rewards.py:size",
        "updates": 2, "prompts": 2, "max_new_tokens": 4, "lora_rank": 2, "quiet": True, "out": tmp_path / "run",
    }  # fmt: skip
    tr.train("language", precision="bfloat16", gradient_checkpointing=True, **told)
    lines = (tmp_path / "run/metrics.jsonl").read_text()
    assert '"logp_gap"' in lines
    assert '"logp_check"' not in lines
