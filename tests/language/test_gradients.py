"""The gradient of a batch is the same however many passes it takes, and however its tokens are laid out."""

import dataclasses

import pytest
import torch

import tightrein as tr
from tightrein.engines.language.config import Plan
from tightrein.engines.language.experience.batch import Batch
from tightrein.engines.language.passes import forward as passes
from tightrein.engines.language.passes.pieces import Pieces
from tightrein.engines.language.sampling.sampler import Decoding, sample
from tightrein.engines.language.training import gradients
from tightrein.engines.language.training.critic import Critic
from tightrein.engines.language.training.learner import Learner
from tightrein.errors import TightreinError

PLAN = Plan(1, 0, prompts=3, group_size=4, epochs=1, minibatches=1, eval_every=1, checkpoint_every=1)
METHODS = {"ppo_clip": {}, "gspo": {}, "dr_grpo": {"length": 6}, "dapo": {}, "cispo": {}, "troll": {}, "dpo": {}}


@pytest.fixture
def batch(policy) -> Batch:
    return answered(policy)


def answered(policy) -> Batch:
    prompts = [[4, 6], [7, 5, 6, 4, 4], [5]]
    samples = sample(
        policy.model, prompts, 4, Decoding(6, policy.eos_ids, policy.pad_id), torch.Generator().manual_seed(0)
    )
    if policy.model.config.model_type == "gpt2":
        policy.model.double()  # its weights are so large that single precision is not good to 1e-5
    group = torch.arange(3).repeat_interleave(4)
    moved = 0.2 * torch.sin(torch.arange(samples.mask.numel()).view_as(samples.mask))
    decisions = tr.Decisions(
        mask=samples.mask, logp_old=samples.logp + moved,
        group=group, prompt=group, reward=torch.arange(12.0) % 3, truncated=torch.zeros_like(samples.mask),
    )  # fmt: skip
    return Batch(samples, decisions, {})


def slope(policy, batch, key, at_once=8192):
    method = tr.method(key, **METHODS[key])
    if method.experience == "pairs":
        decisions = batch.decisions.replace(chosen=torch.arange(12.0) % 2, group=torch.arange(6).repeat_interleave(2))
        batch = dataclasses.replace(batch, decisions=decisions.replace(logp_old=None))
    torch.manual_seed(3)
    critic = Critic(policy, 1e-3, None) if "value" in method.needs else None
    if critic is not None:
        torch.nn.init.normal_(critic.head.weight)
    reference = policy.reference() if "logp_ref" in method.needs | method.prepare_needs else None
    plan = dataclasses.replace(PLAN, tokens_at_once=at_once)
    learner = Learner(policy, method, plan, 0.9, prompts=3, reference=reference, critic=critic)
    with torch.no_grad():
        for parameter in policy.model.parameters():  # no longer the policy that sampled
            parameter.add_(0.01 * torch.sin(torch.arange(parameter.numel()).view_as(parameter)))
    policy.model.zero_grad()
    loss, _ = learner._slope(learner._prepared(batch, torch.Generator().manual_seed(0)))
    found = [p.grad.clone() for p in policy.model.parameters() if p.grad is not None]
    if critic is not None:
        found += [p.grad.clone() for p in critic.head.parameters()]
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.sub_(0.01 * torch.sin(torch.arange(parameter.numel()).view_as(parameter)))
    return float(loss.value.detach()), found


def assert_same(ours, theirs):
    assert ours[0] == pytest.approx(theirs[0], rel=1e-5, abs=1e-6)
    assert len(ours[1]) == len(theirs[1]) > 0
    size = max(float(b.norm()) for b in theirs[1])
    assert size > 0
    for a, b in zip(ours[1], theirs[1], strict=True):
        assert float((a - b).norm()) <= 1e-5 * size


@pytest.mark.parametrize("key", METHODS)
def test_pieces_give_the_gradient_of_the_whole(policy, batch, key):
    whole = slope(policy, batch, key)
    for at_once in (40, 12):
        assert_same(slope(policy, batch, key, at_once), whole)


@pytest.mark.parametrize("key", METHODS)
def test_packing_gives_the_gradient_of_rows_alone(policy, batch, key, monkeypatch):
    assert passes.packs(policy.model, batch.samples.ids.shape[1])
    together = slope(policy, batch, key)
    monkeypatch.setattr(passes, "GAIN", 0.0)
    assert_same(together, slope(policy, batch, key))


def test_dropout_falls_as_it_did():
    """With dropout the pieces differ from the whole, but what is carried back is the gradient of what was read."""
    pieces = Pieces([torch.arange(6), torch.arange(6, 12), torch.arange(12, 18)], 0, torch.arange(18))
    drop, weight, passes_made = torch.nn.Dropout(0.5), torch.ones(4, requires_grad=True), []

    def now(some):
        said = drop(weight).sum() * torch.ones(len(some), 2)
        passes_made.append(float(said.detach()[0, 0]))
        return tr.Decisions(logp=said, mask=torch.ones(len(some), 2), logp_old=torch.zeros(len(some), 2))

    @dataclasses.dataclass
    class Loss:
        value: torch.Tensor

    gradients.backward(now, pieces, lambda d: Loss((d.logp**2).sum()))
    assert passes_made[:2] == passes_made[3:]  # of the last piece, the graph was kept


def test_out_of_memory_halves_the_tokens_and_says_so(policy, batch, monkeypatch):
    whole, forward, tried = slope(policy, batch, "ppo_clip"), type(policy.model).forward, []

    def scarce(self, **inputs):
        tried.append(inputs["input_ids"].numel())
        if torch.is_grad_enabled() and tried[-1] > 50:
            raise torch.OutOfMemoryError("out of memory")
        return forward(self, **inputs)

    monkeypatch.setattr(type(policy.model), "forward", scarce)
    monkeypatch.setattr(gradients, "LEAST", 8)
    with pytest.warns(UserWarning, match="out of memory; from here on at most"):
        found = slope(policy, batch, "ppo_clip")
    assert_same(found, whole)


def test_no_memory_at_all_is_an_error_that_says_what_to_do():
    with pytest.raises(TightreinError, match="not enough memory for 100 tokens"):
        gradients.halved(100)
