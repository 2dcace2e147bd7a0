"""Distributions of actions: what PyTorch's own say, in every array library, and finite whatever they are given."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributions as td
from hypothesis import given, settings
from hypothesis import strategies as st

import tightrein as tr
from tightrein.arrays import convert, value_and_gradient
from tightrein.errors import TightreinError

LIBRARIES = ("NumPy", "PyTorch", "JAX")
SIZES = (3, 2, 5)
Arrays = dict[str, np.ndarray]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def choices(dist: tr.MultiCategorical) -> list[td.Categorical]:
    return [td.Categorical(logits=dist.logits[..., k, :size]) for k, size in enumerate(SIZES)]


def squashed(dist: tr.SquashedGaussian, centre: torch.Tensor) -> td.Distribution:
    normal = td.Independent(td.Normal(dist.mean, dist.log_std.exp()), 1)
    scaled = td.AffineTransform(centre, dist.log_scale.exp(), event_dim=1)
    return td.TransformedDistribution(normal, [td.TanhTransform(cache_size=1), scaled])


def gaussians() -> tuple[Arrays, np.ndarray]:
    r, shape = rng(1), (4, 6, 3)
    at = {"mean": r.normal(0, 1, shape), "log_std": r.normal(-0.5, 0.4, shape), "log_scale": r.normal(0, 1, shape)}
    return at, at["mean"] + np.exp(at["log_std"]) * r.standard_normal(shape)


def agree(function: Any, at: Arrays, expected: Any) -> None:
    """The values of `function` in all libraries, and its gradients, are those of `expected`, which is PyTorch's."""
    leaves = {name: torch.tensor(x, requires_grad=True) for name, x in at.items()}
    reference = expected(leaves)
    reference.sum().backward()
    for library in LIBRARIES:
        found = convert(function(convert(at, library)), "NumPy")
        np.testing.assert_allclose(found, reference.detach().numpy(), rtol=1e-9, atol=1e-9)
        if library != "NumPy":
            _, gradient = value_and_gradient(lambda x: function(x).sum(), convert(at, library))
            for name, leaf in leaves.items():
                wanted = np.zeros(leaf.shape) if leaf.grad is None else leaf.grad.numpy()
                np.testing.assert_allclose(convert(gradient[name], "NumPy"), wanted, rtol=1e-8, atol=1e-9)


def test_squashed_density_is_that_of_the_transformed_normal() -> None:
    at, u = gaussians()
    centre = torch.tensor(rng(2).standard_normal(3))

    def expected(x: dict[str, torch.Tensor]) -> torch.Tensor:
        dist = tr.SquashedGaussian(x["mean"], x["log_std"], x["log_scale"])
        return squashed(dist, centre).log_prob(centre + dist.log_scale.exp() * x["u"].tanh())

    def found(x: dict[str, Any]) -> Any:
        return tr.SquashedGaussian(x["mean"], x["log_std"], x["log_scale"]).log_prob(x["u"])

    agree(found, {**at, "u": u}, expected)


def test_squashed_divergence_is_that_of_the_normals() -> None:
    at, _ = gaussians()
    other = {f"other_{name}": x + 0.3 for name, x in at.items() if name != "log_scale"}

    def expected(x: dict[str, torch.Tensor]) -> torch.Tensor:
        pair = [td.Normal(x[f"{of}mean"], x[f"{of}log_std"].exp()) for of in ("", "other_")]
        return td.kl_divergence(*(td.Independent(normal, 1) for normal in pair)) + 0 * x["log_scale"].sum(-1)

    def found(x: dict[str, Any]) -> Any:
        one = tr.SquashedGaussian(x["mean"], x["log_std"], x["log_scale"])
        return one.kl(tr.SquashedGaussian(x["other_mean"], x["other_log_std"], x["log_scale"]))

    agree(found, at | other, expected)


def entropy_by_integral(mean: torch.Tensor, log_std: torch.Tensor, log_scale: torch.Tensor) -> torch.Tensor:
    z = torch.linspace(-12, 12, 20_001, dtype=torch.float64)
    u = mean[..., None] + log_std.exp()[..., None] * z
    slope = 2 * (math.log(2) - u - torch.nn.functional.softplus(-2 * u))
    weight = torch.exp(-0.5 * z**2) * (z[1] - z[0]) / math.sqrt(2 * math.pi)
    return (0.5 * math.log(2 * math.pi * math.e) + log_std + log_scale + (weight * slope).sum(-1)).sum(-1)


@pytest.mark.parametrize(("widest", "error"), [(2.0, 1e-5), (3.5, 1e-3)])
def test_squashed_entropy_is_the_integral_with_its_gradient(widest: float, error: float) -> None:
    shape = (200, 1)
    at = {
        "mean": rng(3).uniform(-6, 6, shape),
        "log_std": np.log(rng(4).uniform(0.01, widest, shape)),
        "log_scale": rng(5).standard_normal(shape),
    }
    leaves = {name: torch.tensor(x, requires_grad=True) for name, x in at.items()}
    exact = entropy_by_integral(**leaves)
    exact.sum().backward()
    for library in LIBRARIES:
        found = tr.SquashedGaussian(**convert(at, library)).entropy()
        np.testing.assert_allclose(convert(found, "NumPy"), exact.detach().numpy(), atol=error)
    for library in LIBRARIES[1:]:
        _, slopes = value_and_gradient(lambda x: tr.SquashedGaussian(**x).entropy().sum(), convert(at, library))
        for name, leaf in leaves.items():
            np.testing.assert_allclose(convert(slopes[name], "NumPy"), leaf.grad.numpy(), atol=10 * error)


def test_drawn_actions_have_the_entropy_in_the_mean_but_not_its_gradient() -> None:
    leaves = {name: torch.tensor([[x]], dtype=torch.float64) for name, x in (("mean", 0.4), ("log_std", -0.3))}
    noise = torch.tensor(rng(6).standard_normal((400_000, 1)))

    def policy(x: dict[str, torch.Tensor]) -> tr.SquashedGaussian:
        return tr.SquashedGaussian(x["mean"], x["log_std"], torch.zeros(1, 1))

    drawn = (leaves["mean"] + leaves["log_std"].exp() * noise).detach()
    sampled, plain = value_and_gradient(lambda x: -policy(x).log_prob(drawn).mean(), leaves)
    exact, right = value_and_gradient(lambda x: policy(x).entropy().sum(), leaves)
    assert float(sampled - exact) == pytest.approx(0, abs=5e-3)
    assert float(plain["log_std"].abs()) < 1e-2
    assert abs(float(right["log_std"])) > 0.2


def test_choices_are_independent_categoricals() -> None:
    logits, action = rng().standard_normal((2, 4, sum(SIZES))), np.array([[2, 0, 4], [0, 1, 0], [1, 1, 3], [2, 1, 1]])
    other = logits[::-1].copy()

    def split(x: torch.Tensor) -> list[td.Categorical]:
        return choices(tr.MultiCategorical.of(x, SIZES))

    def expected_log_prob(x: dict[str, torch.Tensor]) -> torch.Tensor:
        taken = torch.tensor(action)
        return sum(dist.log_prob(taken[..., k]) for k, dist in enumerate(split(x["logits"])))

    def expected_kl(x: dict[str, torch.Tensor]) -> torch.Tensor:
        return sum(td.kl_divergence(p, q) for p, q in zip(split(x["logits"]), split(x["other"]), strict=True))

    def found(name: str, *more: str) -> Any:
        def function(x: dict[str, Any]) -> Any:
            dist = tr.MultiCategorical.of(x["logits"], SIZES)
            return getattr(dist, name)(*(tr.MultiCategorical.of(x[m], SIZES) for m in more))

        return function

    def log_prob(x: dict[str, Any]) -> Any:
        taken = convert(action, {"numpy": "NumPy", "torch": "PyTorch"}.get(type(x["logits"]).__module__, "JAX"))
        return tr.MultiCategorical.of(x["logits"], SIZES).log_prob(taken)

    agree(log_prob, {"logits": logits}, expected_log_prob)
    agree(found("entropy"), {"logits": logits}, lambda x: sum(dist.entropy() for dist in split(x["logits"])))
    agree(found("kl", "other"), {"logits": logits, "other": other}, expected_kl)
    modes = tr.MultiCategorical.of(logits, SIZES).mode()
    np.testing.assert_array_equal(modes, np.stack([d.logits.argmax(-1) for d in split(torch.tensor(logits))], -1))
    same = tr.MultiCategorical.of(logits[..., :4], (2, 2))
    np.testing.assert_array_equal(same.logits.shape, (2, 4, 2, 2))


def test_logits_of_another_number_are_refused() -> None:
    with pytest.raises(TightreinError, match="there are 9 logits for choices among 3, 2, 5"):
        tr.MultiCategorical.of(np.zeros((1, 9)), SIZES)


@pytest.mark.parametrize("allowed", [[1, 0, 1, 1, 0, 1], [0, 0, 0, 1, 0, 0], [0, 1]])
def test_a_masked_choice_is_one_among_what_is_allowed(allowed: list[int]) -> None:
    may, kept = np.array(allowed), np.flatnonzero(allowed)
    logits, other = rng().standard_normal((2, 5, len(allowed)))
    action = kept[rng(1).integers(0, len(kept), 5)]
    place = np.searchsorted(kept, action)

    def masked(x: dict[str, Any], name: str = "logits") -> Any:
        return tr.Categorical(x[name]).among(convert(may, "PyTorch") if torch.is_tensor(x[name]) else may)

    def within(x: dict[str, torch.Tensor], name: str = "logits") -> td.Categorical:
        return td.Categorical(logits=x[name][..., kept])

    def log_prob(x: dict[str, Any]) -> Any:
        return masked(x).log_prob(convert(action, "PyTorch") if torch.is_tensor(x["logits"]) else action)

    at = {"logits": logits}
    agree(log_prob, at, lambda x: within(x).log_prob(torch.tensor(place)))
    agree(lambda x: masked(x).entropy(), at, lambda x: within(x).entropy())
    both = {"logits": logits, "other": other}
    agree(lambda x: masked(x).kl(masked(x, "other")), both, lambda x: td.kl_divergence(within(x), within(x, "other")))
    probability = np.exp(masked(at).log_probs())
    assert (probability[:, may == 0] == 0).all()
    assert (may[masked(at).mode()] == 1).all()


def test_masked_choices_of_several_are_masked_one_by_one() -> None:
    logits, may = rng().standard_normal((4, sum(SIZES))), np.array([1, 0, 1, 0, 0, 0, 1, 1, 1, 0])
    dist = tr.MultiCategorical.of(logits, SIZES).among(may, SIZES)
    parts = [tr.Categorical(logits[:, a:b]).among(may[a:b]) for a, b in ((0, 3), (3, 5), (5, 10))]
    np.testing.assert_allclose(dist.entropy(), sum(part.entropy() for part in parts))
    np.testing.assert_allclose(parts[1].log_probs(), tr.Categorical(logits[:, 3:5]).log_probs())  # all, as none is
    assert np.isfinite(dist.kl(tr.MultiCategorical.of(-logits, SIZES).among(may, SIZES))).all()


numbers = st.sampled_from([0.0, 1.0, -1.0, 30.0, -30.0, 1e4, -1e4, 1e12, -1e12, 1e30, -1e30])


@settings(max_examples=25, deadline=None)
@given(st.lists(numbers, min_size=7, max_size=7), st.integers(0, 2**7 - 1), st.sampled_from([2, 7]))
def test_masked_choices_are_finite_for_any_logits(values: list[float], bits: int, size: int) -> None:
    logits, may = np.array([values[:size]], np.float32), np.array([bits >> k & 1 for k in range(size)])
    action = np.array([int(np.argmax(may))])
    for library in LIBRARIES[1:]:
        given_mask, taken = convert(may, library), convert(action, library)

        def figures(x: dict[str, Any], given_mask: Any = given_mask, taken: Any = taken) -> Any:
            dist, other = (tr.Categorical(x[name]).among(given_mask) for name in ("logits", "other"))
            return (dist.log_prob(taken) + dist.entropy() + dist.kl(other)).sum()

        at = convert({"logits": logits, "other": np.roll(logits, 1)}, library)
        value, gradient = value_and_gradient(figures, at)
        assert math.isfinite(float(value))
        for slope in gradient.values():
            found = convert(slope, "NumPy")
            assert np.isfinite(found).all()
            assert not may.any() or (found[:, may == 0] == 0).all()


@settings(max_examples=25, deadline=None)
@given(numbers, st.floats(-12, 12), st.floats(-8, 8))
def test_squashed_policies_are_finite_at_their_bounds(mean: float, log_std: float, z: float) -> None:
    one = np.ones((1, 1), np.float32)
    u = np.float32(mean) * one + np.exp(np.float32(log_std)) * np.float32(z)
    for library in LIBRARIES[1:]:
        drawn = convert(u, library)

        def figures(x: dict[str, Any], drawn: Any = drawn) -> Any:
            dist = tr.SquashedGaussian(x["mean"], x["log_std"], 0 * x["mean"])
            return (dist.log_prob(drawn) + dist.entropy()).sum()

        value, gradient = value_and_gradient(figures, convert({"mean": mean * one, "log_std": log_std * one}, library))
        assert math.isfinite(float(value))
        assert all(np.isfinite(convert(slope, "NumPy")).all() for slope in gradient.values())


def policies(kind: str) -> tuple[Any, Any, np.ndarray]:
    """An old and a new policy over [4, 6], the last decisions of rows without meaning, and actions."""
    r = rng(7)
    if kind == "choices":
        old = r.standard_normal((4, 6, sum(SIZES)))
        made = [tr.MultiCategorical.of(x, SIZES) for x in (old, old + 0.1 * r.standard_normal(old.shape))]
        return made[0], made[1], np.stack([r.integers(0, size, (4, 6)) for size in SIZES], axis=-1)
    at, u = gaussians()
    moved = {**at, "mean": at["mean"] + 0.1, "log_std": at["log_std"] + 0.05}
    return tr.SquashedGaussian(**at), tr.SquashedGaussian(**moved), u


@pytest.mark.parametrize("kind", ["choices", "squashed"])
@pytest.mark.parametrize("key", ["ppo_kl", "vmpo", "fixpo", "ppo_clip"])
def test_methods_know_these_distributions(key: str, kind: str) -> None:
    method, values = tr.method(key), []
    old, new, action = policies(kind)
    mask = np.ones((4, 6))
    mask[:, 4:] = 0
    for library in LIBRARIES:
        made = {"value": rng(8).standard_normal((4, 6)), "returns": rng(9).standard_normal((4, 6)), "mask": mask}
        made |= {"logp": new.log_prob(action), "logp_old": old.log_prob(action), "value_old": made["value"] + 0.1}
        made |= {"advantage": rng(10).standard_normal((4, 6)), "entropy": new.entropy(), "action": action}
        d = tr.Decisions(**convert(made, library), dist=convert(new, library), dist_old=convert(old, library))
        loss = method.loss(d)
        values.append([float(loss.value), *(float(x) for x in loss.stats.values())])
    np.testing.assert_allclose(values[1:], [values[0]] * 2, rtol=1e-6, atol=1e-9)


def test_a_squashed_policy_has_two_regions() -> None:
    old, new, _ = policies("squashed")
    one = np.zeros((4, 6))
    mean, spread = tr.parts.DecoupledKL().parts(tr.Decisions(logp=one, dist=new, dist_old=old))
    plain = [tr.DiagonalGaussian(x.mean, x.log_std) for x in (new, old)]
    expected = tr.parts.DecoupledKL().parts(tr.Decisions(logp=one, dist=plain[0], dist_old=plain[1]))
    np.testing.assert_allclose([mean, spread], expected)
    assert (spread > 0).all()


def test_projections_of_one_choice_refuse_several() -> None:
    old, new, action = policies("choices")
    d = tr.Decisions(advantage=np.ones((4, 6)), action=action, dist=new, dist_old=old)
    with pytest.raises(TightreinError, match="TROLL projects categorical distributions, not MultiCategorical"):
        tr.parts.TROLL()(d)
