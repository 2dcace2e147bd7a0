"""What the language engine does for the methods that look at entropies and at formulas."""

from __future__ import annotations

import math

import torch

import tightrein as tr
from tightrein.engines.language.experience.rollouts import warmth_of
from tightrein.engines.language.experience.texts import formulas_in
from tightrein.engines.language.sampling.decoding import Decoding, pick


def test_each_token_has_its_own_temperature() -> None:
    """Rows of high entropy are drawn warmer, and their log-probabilities stay those of the run's temperature."""
    method = tr.method("hapo", tau=0.5)
    state = {"selection.uncertainty_scale": {"pivot": math.log(0.5), "above": 10.0, "below": 10.0}}
    warmth = warmth_of(method, state)
    assert warmth is not None
    torch.testing.assert_close(warmth(torch.tensor([0.01, 0.5, 2.0])), torch.tensor([0.5, 1.0, 1.5]))
    logits = torch.tensor([[2.0, 0.0, 0.0], [4.0, -2.0, -2.0]]).repeat_interleave(20000, 0)
    decoding = Decoding(1, frozenset(), 0, warmth=warmth)
    numbers = torch.rand(len(logits), generator=torch.Generator().manual_seed(0))
    tokens, logp = pick(logits, decoding, numbers)
    torch.testing.assert_close(logp, torch.log_softmax(logits, -1).gather(1, tokens[:, None])[:, 0])
    likely = (tokens == 0).float().reshape(2, -1).mean(1)
    expected = torch.softmax(logits[::20000] / torch.tensor([[1.5], [0.5]]), -1)[:, 0]
    torch.testing.assert_close(likely, expected, atol=0.01, rtol=0)


def test_the_first_batch_is_drawn_at_the_temperature_of_the_run() -> None:
    """Nothing is known of entropies yet; without tau, and with other methods, nothing ever is."""
    method = tr.method("hapo")
    warmth = warmth_of(method, method.init())
    assert warmth is not None
    assert (warmth(torch.tensor([0.01, 3.0])) == 1).all()
    assert warmth_of(tr.method("hapo", tau=0.0), {}) is None
    assert warmth_of(tr.method("dapo"), {}) is None


def test_formulas_of_a_text() -> None:
    """Marked mathematics, and joined terms with a digit or a comparison, each once and without white space."""
    assert formulas_in(r"As $x^2 + 1$ and \(a = b\), 3 + 4 = 7 (3+4=7).") == ["x^2+1", "a=b", "3+4=7"]
    assert formulas_in("a well-read answer") == []
    assert formulas_in("") == []
