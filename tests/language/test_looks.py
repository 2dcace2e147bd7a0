from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

import tightrein as tr
from tightrein.engines.language.compose import with_sizes
from tightrein.engines.language.config import Plan
from tightrein.engines.language.experience.batch import Batch
from tightrein.engines.language.experience.masking import Masking, blank
from tightrein.engines.language.sampling.sampler import Decoding, sample
from tightrein.engines.language.training.learner import Learner
from tightrein.engines.language.training.observe import Observer, signatures
from tightrein.errors import TightreinError
from tightrein.selection.curvature import Gradient

PROMPTS = [[4, 6], [7, 5, 6], [5]]


@dataclass(frozen=True)
class Wanting(tr.parts.Term):
    """A term that reads what it is told to."""

    reads: tuple[str, ...] = ()
    temperatures: tuple[float, ...] = ()
    masking: float = 0.0
    through: bool = True

    @property
    def needs(self):
        return frozenset(self.reads)

    def __call__(self, d, weights):
        return (weights * d.logp_masked).sum() if "logp_masked" in self.reads else 0 * weights.sum()


@pytest.fixture
def batch(policy) -> Batch:
    decoding = Decoding(5, policy.eos_ids, policy.pad_id, temperature=2.0)
    samples = sample(policy.model, PROMPTS, 2, decoding, torch.Generator().manual_seed(0))
    group = torch.arange(3).repeat_interleave(2)
    decisions = tr.Decisions(
        mask=samples.mask, logp_old=samples.logp, group=group, prompt=group, reward=torch.arange(6.0) % 2
    )
    return Batch(samples, decisions, {})


def wanting(*reads: str, **settings) -> tr.Method:
    grpo = tr.method("grpo", **{"objective.reference.coef": 0.0})
    return grpo.replace(objective=grpo.objective.replace(terms=(Wanting(reads=reads, **settings),)))


def order() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def by_hand(policy, batch, row: int) -> tuple[torch.Tensor, torch.Tensor, int]:
    """(hidden states of all layers' last [L, H], logits [L, V], where the answer begins) of one row without padding."""
    s = batch.samples
    there = s.attention[row].bool()
    with torch.no_grad():
        out = policy.model(input_ids=s.ids[row][there][None], output_hidden_states=True)
    return out.hidden_states[-1][0], out.logits[0], int(s.prompt_mask[row].sum())


def test_the_states_of_the_last_layer_are_those_that_predict_each_token(policy, batch):
    method = wanting("hidden", "embedding", "token")
    d = Observer(policy, method, 2.0).before(batch, order()).decisions
    assert d.token is batch.samples.completions
    for row in range(6):
        states, _, begin = by_hand(policy, batch, row)
        length = int(d.mask[row].sum())
        torch.testing.assert_close(d.hidden[row, :length], states[begin - 1 : begin - 1 + length], atol=2e-5, rtol=0)
        torch.testing.assert_close(d.embedding[row], states[begin:].mean(0), atol=2e-5, rtol=0)
    assert not policy.model.get_output_embeddings()._forward_pre_hooks, "nothing is left behind on the model"


def test_the_old_policy_at_other_temperatures(policy, batch):
    """Relative to the run's own: at 1 it is what was sampled with."""
    method = wanting("logp_tempered", "token", temperatures=(1.0, 1.2, 0.8))
    d = Observer(policy, method, 2.0).before(batch, order()).decisions
    torch.testing.assert_close(d.logp_tempered[..., 0] * d.mask, batch.samples.logp * d.mask, atol=2e-5, rtol=0)
    for row in range(6):
        _, logits, begin = by_hand(policy, batch, row)
        for t in range(int(d.mask[row].sum())):
            for k, temperature in enumerate((1.0, 1.2, 0.8)):
                expected = torch.log_softmax(logits[begin - 1 + t] / (2.0 * temperature), -1)[d.token[row, t]]
                torch.testing.assert_close(d.logp_tempered[row, t, k], expected, atol=2e-5, rtol=0)


def test_parts_that_ask_for_different_looks_are_refused(policy):
    method = wanting("logp_tempered", temperatures=(1.2,))
    other = method.objective.terms[0].replace(temperatures=(0.8,))
    both = method.replace(objective=method.objective.replace(terms=(*method.objective.terms, other)))
    with pytest.raises(TightreinError, match="different temperatures"):
        Observer(policy, both, 1.0)


def test_answers_that_read_the_same_have_one_signature(policy, batch):
    tokenizer = policy.tokenizer
    rows = ["ab", " ab", "ba", "a b", "ab "] if " " in tokenizer.get_vocab() else ["ab", "ab", "ba", "aab", "ab"]
    ids = [tokenizer(row, add_special_tokens=False)["input_ids"] for row in rows]
    width = max(map(len, ids))
    s = batch.samples.take(torch.arange(5))
    completions = torch.tensor([[*row, *[7] * (width - len(row))] for row in ids])
    mask = torch.tensor([[1.0] * len(row) + [0.0] * (width - len(row)) for row in ids])
    made = type(s)(s.prompts, s.prompt_mask, completions, mask, torch.zeros_like(mask), s.ended)
    assert signatures(policy, made).tolist() == [0, 0, 1, 2, 0]


def test_masked_prompts_hide_their_share_and_nothing_else(policy, batch):
    many = batch.samples.take(torch.arange(6).repeat(500))
    masked = Masking(0.6, True)(many, policy, order())
    changed = masked.prompts != many.prompts
    assert (masked.prompts[changed] == blank(policy)).all()
    assert not changed[many.prompt_mask == 0].any(), "padding stays"
    assert abs(float(changed[many.prompt_mask == 1].float().mean()) - 0.6) < 0.02
    assert masked.completions is many.completions
    assert torch.equal(Masking(1.0, True)(batch.samples, policy, order()).prompts[0, -2:], torch.tensor([2, 2]))


@pytest.mark.parametrize("through", [True, False])
def test_a_masked_look_is_the_policys_own_on_the_masked_prompt(policy, batch, through):
    method = wanting("logp_masked", masking=1.0, through=through)
    observer = Observer(policy, method, 1.0)
    work = observer.before(batch, order())
    assert (work.decisions.logp_masked is None) is through
    d = observer.now(work.take(torch.tensor([3, 0])))
    assert d.logp_masked.requires_grad is through
    for place, row in enumerate((3, 0)):
        s = batch.samples
        prompt, length = [2] * int(s.prompt_mask[row].sum()), int(s.mask[row].sum())
        ids = torch.tensor([[*prompt, *s.completions[row, :length].tolist()]])
        with torch.no_grad():
            logp = torch.log_softmax(policy.model(input_ids=ids).logits[0, len(prompt) - 1 : -1], -1)
        expected = logp.gather(1, ids[0, len(prompt) :, None])[:, 0]
        torch.testing.assert_close(d.logp_masked[place, :length].detach(), expected, atol=2e-5, rtol=0)


def test_a_masked_look_moves_the_parameters(policy, batch):
    plan = Plan(1, 0, prompts=3, group_size=2, epochs=1, minibatches=2, eval_every=1, checkpoint_every=1)
    method = wanting("logp_masked", masking=0.6).override({"step.learning_rate": 1e-3})
    equal = Batch(batch.samples, batch.decisions.replace(reward=torch.zeros(6)), {})
    before = [p.detach().clone() for p in policy.trained]
    Learner(policy, method, plan, 1.0).update(equal, order())
    assert any(not torch.equal(a, b) for a, b in zip(before, policy.trained, strict=True))


def test_what_only_the_model_knows_is_filled_in(policy):
    method = with_sizes(tr.method("capo_curvature"), policy.model)
    settings = method.settings()
    rows, width = policy.model.get_output_embeddings().weight.shape
    assert settings["selection.curvature_mask.model.tokens"] == rows
    assert settings["selection.curvature_mask.model.width"] == width
    assert settings["selection.curvature_mask.step_size"] == settings["step.learning_rate"]
    given = tr.method("capo_curvature").override({"selection.curvature_mask.step_size": 0.5})
    assert with_sizes(given, policy.model).settings()["selection.curvature_mask.step_size"] == 0.5


def test_curvature_is_predicted_from_the_models_own_states_and_alternatives(policy, batch):
    """The change of the logits by a plain step on one token, against that of its output layer moved by hand."""
    gradient = {"selection.curvature_mask.model": "GradientStep", "selection.curvature_mask.top_k": 100}
    method = with_sizes(tr.method("capo_curvature", **gradient), policy.model)
    d = Observer(policy, method, 1.0).before(batch, order()).decisions.replace(advantage=torch.ones(6, 1))
    assert torch.equal(d.alternative.gather(2, d.action[..., None])[..., 0], batch.samples.completions)
    g = Gradient.of(d)
    states, logits, begin = by_hand(policy, batch, 0)
    h, chosen = states[begin - 1], int(batch.samples.completions[0, 0])
    v = torch.nn.functional.one_hot(torch.tensor(chosen), len(logits[0])) - logits[begin - 1].softmax(-1)
    found = method.selection[0].model.logits(g, None)[0, 0]
    torch.testing.assert_close(found, (v * (h @ h))[d.alternative[0, 0]], atol=1e-3, rtol=1e-3)


def test_adams_moments_outlive_an_update(policy, batch):
    plan = Plan(1, 0, prompts=3, group_size=2, epochs=1, minibatches=1, eval_every=1, checkpoint_every=1)
    learner = Learner(policy, with_sizes(tr.method("capo_curvature"), policy.model), plan, 1.0)
    figures = learner.update(batch, order())
    assert 0 <= figures["selected"] <= 1
    kept = learner.state["selection.curvature_mask"]
    assert kept["mean"].shape == policy.model.get_output_embeddings().weight.shape
    assert float(kept["steps"]) == 1
    assert learner.update(batch, order())["selected"] <= 1
