"""What the engines give to the steps and keep of them: which parameters are hidden matrices, and every statistic."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest
import torch
import transformers

from tightrein import TightreinError
from tightrein.engines.control import environments
from tightrein.engines.control.compose import compose
from tightrein.engines.control.config import ControlConfig, Plan
from tightrein.engines.control.networks import out_axes
from tightrein.engines.control.snapshot import from_arrays, to_arrays
from tightrein.engines.control.train import train, trainer_of
from tightrein.engines.language.config import LanguageConfig
from tightrein.engines.language.models.embedded import make_model, make_tokenizer
from tightrein.engines.language.models.policy import Policy, finished
from tightrein.engines.language.training import checkpointing
from tightrein.step import Muon, NTRMomentum, ZClip

SPIKES = ("step.clipping=ZClip", "step.clipping.collect=3")


@pytest.fixture(autouse=True)
def _engines_run_in_float32():
    jax.config.update("jax_enable_x64", False)


def trainer(method: str, settings: tuple[str, ...]):
    given = ControlConfig(
        method=method, seeds=2, envs=2, rollout=16, epochs=1, minibatches=2, hidden=(8, 8), total_steps=320,
        eval_episodes=2, set=settings,
    )  # fmt: skip
    composed, _ = compose(given)
    spec = environments.find(given.env, given.backend, given.squash)
    return trainer_of(given, composed, spec, Plan.of(given, composed.training))


@pytest.mark.parametrize("method", ["zclip", "muon"])
def test_a_control_checkpoint_holds_all_that_a_step_keeps(method):
    settings = SPIKES + (("step.clipping.z=0.1",) if method == "zclip" else ())
    made = trainer(method, settings)
    start = to_arrays(made.state)
    made.run(0, 6)
    whole = to_arrays(made.state)
    made.state = from_arrays(made.state, start)
    made.run(0, 3)
    saved = to_arrays(made.state)
    assert any(name.endswith("clipping.variance") for name in saved)
    made.state = from_arrays(made.state, saved)
    figures = made.run(3, 3)
    resumed = to_arrays(made.state)
    for name in (name for name in whole if name.startswith("learner.")):
        np.testing.assert_array_equal(resumed[name], whole[name], err_msg=name)
    assert {"grad_norm", "grad_norm_applied", "spike_fraction"} <= figures.stats.keys()
    assert method != "zclip" or (figures.stats["spike_fraction"] > 0).all()


def test_hidden_matrices_of_a_control_network_are_those_between_hidden_layers():
    network = trainer("muon", ()).state.learner.network
    shapes = [leaf.shape for leaf in jax.tree.leaves(network)]
    assert [shape for shape, axis in zip(shapes, out_axes(network), strict=True) if axis == 1] == [(2, 8, 8)] * 2
    assert out_axes(network.value_network) == (None, 1, None, None, None, None)


def test_a_network_without_hidden_matrices_is_refused_before_anything_is_written(tmp_path: Path):
    with pytest.raises(TightreinError, match="two hidden layers or more"):
        train(ControlConfig(method="muon", hidden=(8,), out=tmp_path / "run", quiet=True))
    assert not (tmp_path / "run").exists()


def llama(vocabulary: int):
    shape = transformers.LlamaConfig(
        vocab_size=vocabulary, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        tie_word_embeddings=False,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(shape)


def test_hidden_matrices_of_language_models():
    tokenizer = make_tokenizer(["ab"], ["ba"])
    for model, layers, axis in ((llama(len(tokenizer)), 7, 0), (make_model(tokenizer, 64), 8, 1)):
        policy = Policy(model, tokenizer)
        names = [name for name, p in model.named_parameters() if p.requires_grad]
        found = {name: a for name, a in zip(names, policy.out_axes, strict=True) if a is not None}
        assert set(found.values()) == {axis}
        assert len(found) == layers
        assert not any(word in name for name in found for word in ("embed", "wte", "wpe", "lm_head", "norm", "bias"))
    adapted = finished(make_model(tokenizer, 64), tokenizer, LanguageConfig(lora_rank=2))
    assert adapted.out_axes == [0] * len(adapted.trained)
    assert adapted.trained


@pytest.mark.parametrize("rule", [Muon(clipping=ZClip(collect=3)), NTRMomentum(clipping=ZClip(collect=3))])
def test_a_language_checkpoint_holds_all_that_a_step_keeps(rule):
    tokenizer = make_tokenizer(["ab"], ["ba"])

    def run(policy: Policy, optimizer, schedule, first: int, last: int):
        for k in range(first, last):
            optimizer.zero_grad()
            ids = torch.tensor([[k % 3 + 3, 4, 5]])
            policy.model(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
            schedule.step()

    def begin():
        torch.manual_seed(0)
        policy = Policy(make_model(tokenizer, 64), tokenizer)
        return policy, *rule.torch(policy.trained, 10, policy.out_axes)

    whole, cut, resumed = begin(), begin(), begin()
    run(*whole, 0, 8)
    run(*cut, 0, 4)
    arrays = checkpointing.to_arrays(cut[0], cut[1], whole=True)
    assert arrays["optimizer.clipping.norms"].shape == (3,)
    checkpointing.restore(arrays, *resumed, 4)
    run(*resumed, 4, 8)
    for name, array in checkpointing.to_arrays(whole[0], whole[1], whole=True).items():
        np.testing.assert_array_equal(array, checkpointing.to_arrays(*resumed[:2], whole=True)[name], err_msg=name)
