from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

import tightrein as tr
from tightrein.engines.language.config import Plan
from tightrein.engines.language.experience.batch import Batch
from tightrein.engines.language.passes.views import Keeping, Kept, view, view_all
from tightrein.engines.language.sampling.sampler import Decoding, sample
from tightrein.engines.language.training import state as states
from tightrein.engines.language.training.critic import Critic
from tightrein.engines.language.training.learner import Learner
from tightrein.engines.language.training.minibatches import minibatches
from tightrein.engines.language.training.observe import Observer
from tightrein.errors import TightreinError

PLAN = Plan(1, 0, prompts=3, group_size=2, epochs=1, minibatches=1, eval_every=1, checkpoint_every=1)


@pytest.fixture
def batch(policy) -> Batch:
    prompts = [[4, 6], [7, 5, 6], [5]]
    decoding = Decoding(4, policy.eos_ids, policy.pad_id)
    samples = sample(policy.model, prompts, 2, decoding, torch.Generator().manual_seed(2))
    group = torch.arange(3).repeat_interleave(2)
    decisions = tr.Decisions(
        mask=samples.mask, logp_old=samples.logp, group=group, prompt=group, reward=torch.arange(6.0) % 2,
        truncated=torch.zeros_like(samples.mask),
    )  # fmt: skip
    return Batch(samples, decisions, {})


def pairs(batch: Batch) -> Batch:
    return dataclasses.replace(batch, decisions=batch.decisions.replace(chosen=torch.arange(6.0) % 2, logp_old=None))


def order() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_old_log_probabilities_are_told_apart_from_the_samplers(policy, batch):
    """With tis the sampler's are what was sampled with (here: made up), the old ones those of the present policy."""
    other = dataclasses.replace(batch, samples=dataclasses.replace(batch.samples, logp=batch.samples.logp - 1))
    d = Observer(policy, tr.method("tis"), 1.0, reference=policy.reference()).before(other, order()).decisions
    torch.testing.assert_close(d.logp_behaviour * d.mask, (batch.samples.logp - 1) * d.mask)
    torch.testing.assert_close(d.logp_old * d.mask, batch.samples.logp * d.mask, atol=2e-5, rtol=0)
    d = Observer(policy, tr.method("gspo"), 1.0).before(batch, order()).decisions
    assert d.logp_old is batch.samples.logp, "nothing is computed that nobody reads"


def test_rows_that_the_policy_did_not_sample_get_log_probabilities(policy, batch):
    shown = torch.tensor([0.0, 1, 0, 0, 0, 1])
    samples = dataclasses.replace(batch.samples, logp=batch.samples.logp * (1 - shown)[:, None])
    mixed = Batch(samples, batch.decisions.replace(demonstration=shown, logp_old=samples.logp), {})
    d = Observer(policy, tr.method("hpt"), 1.0).before(mixed, order()).decisions
    torch.testing.assert_close(d.logp_old * d.mask, batch.samples.logp * d.mask, atol=2e-5, rtol=0)


def test_kept_tokens_hold_the_mass_and_the_one_chosen():
    everything = torch.log_softmax(torch.randn(2, 3, 20, generator=order()) * 3, -1)
    chosen = everything.argmin(-1)
    kept = Kept.of(*everything.topk(5), chosen, 0.9)
    assert kept.index.shape == (2, 3, 5)
    assert torch.equal(kept.index.gather(2, kept.action[..., None])[..., 0], chosen)
    assert kept.held.gather(2, kept.action[..., None]).all()
    mass = (everything.gather(2, kept.index).exp() * kept.held).sum(-1)
    assert ((mass >= 0.9 - 1e-6) | kept.held.all(-1)).all()


def test_troll_compares_the_same_tokens_before_and_after(policy, batch):
    observer = Observer(policy, tr.method("troll"), 1.0)
    work = observer.before(batch, order())
    now = observer.now(work)
    torch.testing.assert_close(now.dist.logits, work.decisions.dist_old.logits, atol=2e-5, rtol=0)
    rows = torch.tensor([4, 1])
    part = observer.now(work.take(rows))
    torch.testing.assert_close(part.dist.logits, now.dist.logits[rows], atol=2e-5, rtol=0)
    assert part.dist.logits.requires_grad


def test_values_are_those_of_the_state_before_each_token(policy, batch):
    critic = Critic(policy, 1e-3, None)
    torch.nn.init.normal_(critic.head.weight)
    s = batch.samples
    value = view_all(policy.model, s, head=critic).value
    states_ = policy.model(input_ids=s.ids[:1], attention_mask=s.attention[:1], output_hidden_states=True,
                           position_ids=(s.attention[:1].cumsum(1) - 1).clamp(min=0)).hidden_states[-1]  # fmt: skip
    first = s.prompts.shape[1] - 1  # the last token of the prompt
    torch.testing.assert_close(value[0, 0], critic(states_)[0, first], atol=2e-5, rtol=0)


def test_many_rows_are_seen_in_pieces(policy, batch, monkeypatch):
    whole = view_all(policy.model, batch.samples, kept=Keeping(4, 1.0))
    monkeypatch.setattr("tightrein.engines.language.passes.views.AT_ONCE", 1)
    pieces = view_all(policy.model, batch.samples, kept=Keeping(4, 1.0))
    torch.testing.assert_close(pieces.logp, whole.logp, atol=2e-5, rtol=0)
    assert torch.equal(pieces.kept.index, whole.kept.index)


def test_a_critic_is_fitted_alone_and_then_with_the_policy(policy, batch):
    method = tr.method("vapo").override({"step.learning_rate": 1e-3})
    critic = Critic(policy, 1e-2, 1.0)
    learner = Learner(policy, method, PLAN, 1.0, critic=critic)
    before = [p.detach().clone() for p in policy.trained]
    losses = [learner.fit_values(batch, order())["value_loss"] for _ in range(30)]
    assert losses[-1] < 0.8 * losses[0]
    assert all(torch.equal(a, b) for a, b in zip(before, policy.trained, strict=True))
    head = critic.head.weight.detach().clone()
    learner.update(batch, order())
    assert not torch.equal(head, critic.head.weight)
    assert any(not torch.equal(a, b) for a, b in zip(before, policy.trained, strict=True))


def test_a_value_head_stays_with_its_model_folder(policy, tmp_path):
    critic, again = Critic(policy, 1e-3, None), Critic(policy, 1e-3, None)
    torch.nn.init.normal_(critic.head.weight)
    critic.save(tmp_path)
    again.begin_from(tmp_path)
    assert torch.equal(again.head.weight, critic.head.weight)
    with pytest.raises(TightreinError, match="does not fit"):
        again.load({"weight": torch.zeros(1, 3), "bias": torch.zeros(1)}, "there")


def test_a_reference_moves_exactly_when_its_method_says(policy, batch):
    method = tr.method("tr_dpo").override({"anchor.every": 2, "anchor.alpha": 0.5, "step.learning_rate": 1e-2})
    reference = policy.reference(follows=True)
    learner = Learner(policy, method, dataclasses.replace(PLAN, updates=4), 1.0, reference=reference)
    for step in range(1, 5):
        before = [p.clone() for p in reference.parameters()]
        learner.update(pairs(batch), order())
        for old, new, present in zip(before, reference.parameters(), policy.model.parameters(), strict=True):
            expected = (old + present.detach()) / 2 if step % 2 == 0 else old
            torch.testing.assert_close(new, expected, atol=1e-6, rtol=0)


def test_a_reference_that_is_the_policy_sees_no_margin(policy, batch):
    """alpha = 1 at every step: tr_dpo's loss is ln 2 at each."""
    method = tr.method("tr_dpo").override({"anchor.every": 1, "anchor.alpha": 1.0, "step.learning_rate": 1e-2})
    learner = Learner(policy, method, PLAN, 1.0, reference=policy.reference(follows=True))
    for _ in range(3):
        assert learner.update(pairs(batch), order())["loss"] == pytest.approx(np.log(2), abs=1e-5)


def test_minibatches_keep_groups_whole_where_that_is_wanted():
    group = torch.tensor([3, 1, 2, 3, 1, 2, 7, 7])
    parts = minibatches(group, 2, order(), whole=True)
    assert sorted(torch.cat(parts).tolist()) == list(range(8))
    assert not set(group[parts[0]].tolist()) & set(group[parts[1]].tolist())
    assert len(parts) == 2
    loose = minibatches(group, 4, order(), whole=False)
    assert [len(rows) for rows in loose] == [2, 2, 2, 2]


@pytest.mark.parametrize("key", ["dcpo_dynamic_clip", "single_stream_spo", "ppo_kl", "r2vpo"])
def test_a_state_survives_a_checkpoint_bit_for_bit(key):
    device = torch.device("cpu")
    state = states.start(tr.method(key), 5, device)
    arrays = states.to_arrays(state)
    again = states.from_arrays(state, arrays, device)
    assert states.to_arrays(again).keys() == arrays.keys()
    for name, array in states.to_arrays(again).items():
        assert array.dtype == arrays[name].dtype
        assert np.array_equal(array, arrays[name])


def test_a_state_of_other_prompts_is_refused():
    device = torch.device("cpu")
    method = tr.method("single_stream_spo")
    arrays = states.to_arrays(states.start(method, 5, device))
    with pytest.raises(TightreinError, match=r"(?s)\(5,\), not \(6,\).*number of prompts"):
        states.from_arrays(states.start(method, 6, device), arrays, device)


def test_the_entropy_carries_a_gradient_only_where_it_is_read(policy, batch):
    s = batch.samples
    for gradient in (False, True):
        seen = view(policy.model, s.ids, s.attention, s.mask.shape[1], entropy_gradient=gradient)
        assert seen.entropy.requires_grad is gradient
