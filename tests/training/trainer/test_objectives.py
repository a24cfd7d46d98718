"""Objectives: targets, inputs, and independence of the division into batches."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from support import music, noise, training_config

torch = pytest.importorskip("torch")
pytest.importorskip("soxr")

from torch import Tensor  # noqa: E402

from stemwire.model.layers import Past  # noqa: E402
from stemwire.model.separator import Separator, planes  # noqa: E402
from stemwire.training.examples.examples import Example  # noqa: E402
from stemwire.training.examples.settings import ExampleSettings  # noqa: E402
from stemwire.training.trainer.objectives import (  # noqa: E402
    OBJECTIVES,
    Batch,
    Denoising,
    Objective,
    Separation,
    Unmasking,
    collate,
    compress,
    expand,
    freeze_encoder,
    renew_head,
)
from stemwire.training.trainer.settings import RunSettings  # noqa: E402
from stemwire.training.trainer.spectra import DISTORTION  # noqa: E402

CONFIG = training_config()
SETTINGS = RunSettings(network=CONFIG, examples=ExampleSettings(seconds=0.5), seed=5)
N = 4000


def network() -> Separator:
    torch.manual_seed(0)
    return Separator(CONFIG)


def batch(count: int = 3, bandwidth: float = 4000.0) -> Batch:
    examples = [
        Example(music(N, 8000, seed=k), noise(N, seed=k + 50), bandwidth) for k in range(count)
    ]
    return collate(examples, list(range(7, 7 + count)))


def make(kind: str, **changes: Any) -> Objective:
    settings = dataclasses.replace(SETTINGS, objective=kind, **changes)
    torch.manual_seed(0)
    return OBJECTIVES[kind](Separator(settings.network), settings)


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_losses_are_those_of_each_example_alone(kind: str) -> None:
    objective, whole = make(kind), batch()
    losses = objective(whole)
    assert losses.shape == (3,) and torch.isfinite(losses).all()
    for k in range(3):
        alone = objective(Batch(*(part[k : k + 1] for part in whole)))
        torch.testing.assert_close(alone, losses[k : k + 1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["ddep", "masked"])
def test_noise_depends_on_seed_and_number_alone(kind: str) -> None:
    objective, one = make(kind), batch()
    assert torch.equal(objective(one), objective(one))
    other = one._replace(numbers=one.numbers + 1)
    assert not torch.allclose(objective(one), objective(other), rtol=1e-3)
    assert not torch.allclose(objective(one), make(kind, seed=6)(one), rtol=1e-3)


@pytest.mark.parametrize("kind", OBJECTIVES)
@pytest.mark.parametrize(("lookahead", "taps"), [(0, 1), (3, 1), (3, 2)])
def test_every_weight_learns(kind: str, lookahead: int, taps: int) -> None:
    network = dataclasses.replace(
        CONFIG, lookahead=lookahead, taps=1 if kind != "separation" else taps
    )
    objective = make(kind, network=network)
    objective(batch()).mean().backward()
    grads = {n: p.grad for n, p in objective.network.named_parameters()}
    silent = [n for n, g in grads.items() if g is None or not g.abs().max() > 0]
    assert silent == []


class Oracle(Separator):
    """A network that answers `answer(body)` in place of its head's output."""

    answer: Any

    def predict(self, spec: Tensor, past: Past) -> tuple[Tensor, Tensor]:
        return self.answer(spec[..., : self.config.bins]).unsqueeze(2), spec


def test_ddep_corrupts_by_the_formula_and_asks_for_the_noise() -> None:
    gamma, sigma = 0.7, 0.25
    settings = dataclasses.replace(SETTINGS, objective="ddep", gamma=gamma, sigma=sigma)
    oracle = Oracle(CONFIG)
    objective, given = Denoising(oracle, settings), batch(1)
    spec = objective.transform(given.vocals + given.music)
    clean, scale = compress(objective.body(spec), CONFIG.compression)
    assert clean.square().sum(-2).sqrt().max() == pytest.approx(1.0, abs=1e-4)
    seen = {}

    def solve(body: Tensor) -> Tensor:
        """The noise, from x' and the clean x: only right if x' is as the paper has it."""
        raw = body * (body.square().sum(-2, keepdim=True) + 1e-10) ** (CONFIG.compression / 2 - 0.5)
        noisy = raw / scale
        seen["noise"] = (noisy - math.sqrt(gamma) * clean) / math.sqrt(1 - gamma)
        return seen["noise"]

    oracle.answer = solve
    assert objective(given).item() < 1e-3 < sigma * 0.1
    assert seen["noise"].std().item() == pytest.approx(sigma, rel=0.02)
    assert abs(seen["noise"].mean().item()) < 0.01
    oracle.answer = torch.zeros_like
    assert objective(given).item() == pytest.approx(sigma * math.sqrt(2 / math.pi), rel=0.03)


def test_compress_and_expand_undo_each_other() -> None:
    body = torch.randn(2, 5, 2, 2, 16) * 3
    small, scale = compress(body, 0.4)
    torch.testing.assert_close(expand(small, scale, 0.4), body, rtol=1e-3, atol=1e-3)


def test_masking_hides_what_it_asks_for_and_asks_for_nothing_else() -> None:
    settings = dataclasses.replace(SETTINGS, objective="masked", mask_share=0.3, mask_span=3)
    oracle = Oracle(CONFIG)
    objective, given = Unmasking(oracle, settings), batch(1)
    body = objective.body(objective.transform(given.vocals + given.music))
    target, _ = compress(body, CONFIG.compression)
    target = target.square().sum(-2).sqrt()
    shown: list[Tensor] = []

    def answer(seen: Tensor) -> Tensor:
        shown.append(seen)
        right = torch.stack((target, torch.randn_like(target)), -2)  # the second half is not asked
        changed = (seen != body).flatten(2).any(2)[0]
        right[:, ~changed] += torch.randn_like(right[:, ~changed]) * 0  # left as it is
        return right

    oracle.answer = answer
    assert objective(given).item() < 1e-6
    hidden = (shown[0] == 0).flatten(2).all(2)[0]
    share = hidden.float().mean().item()
    assert 0.08 < share < 0.4  # spans overlap, and a fifth of them is not blanked
    oracle.answer = lambda seen: torch.where(
        ((seen != body).flatten(2).any(2))[:, :, None, None, None],
        torch.stack((target, target), -2),
        torch.full_like(body, 1e3),
    )
    wrong_elsewhere = objective(given).item()
    plan, source = objective._plan(body.shape[1], objective.generators(given)[0])
    kept = ((source == torch.arange(len(source))) & (plan > 0)).sum() / plan.sum()
    assert wrong_elsewhere == pytest.approx(float(kept) * 1e3, rel=0.05, abs=1e-3)


def test_a_perfect_separation_has_no_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    objective, given = make("separation"), batch(2)
    truth = planes(objective.transform(given.vocals))
    monkeypatch.setattr(Separator, "estimate", lambda self, spec, *_: (truth, spec))
    perfect = objective(given)
    assert (perfect < DISTORTION * -3.5).all()  # dB / 10: nothing is left but what keeps it finite
    monkeypatch.setattr(Separator, "estimate", lambda self, spec, *_: (0.99 * truth, spec))
    assert (objective(given) > perfect).all()


@pytest.mark.parametrize("context", [0, 12])
def test_look_ahead_is_learned_from_the_frames_it_separates(
    monkeypatch: pytest.MonkeyPatch, context: int
) -> None:
    """Vocals that come k frames late are compared with those of k frames ago, and none else."""
    late = 3
    network = dataclasses.replace(CONFIG, lookahead=late)
    objective = make("separation", network=network, context=context * CONFIG.hop / 8000)
    given = batch(2)
    truth = planes(objective.transform(given.vocals))
    delayed = torch.nn.functional.pad(truth, (0, 0) * 3 + (late, 0))[:, context : truth.shape[1]]

    def answer(
        self: Separator, spec: Tensor, past: Past, ahead: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        return delayed[:, : spec.shape[1]], spec

    monkeypatch.setattr(Separator, "estimate", answer)
    assert (objective(given) < DISTORTION * -3.5).all()


def test_a_share_of_the_examples_is_shown_what_comes_after() -> None:
    network = dataclasses.replace(CONFIG, lookahead=2)
    numbers = torch.arange(7, 27)
    given = batch(1)._replace(numbers=numbers)
    for share, most in ((0.0, 0), (0.25, 5), (0.5, 10), (0.8, 16)):
        objective = make("separation", network=network, ahead_share=share)
        shown = objective.sees_ahead(given)
        assert shown.sum() == most
        parts = [objective.sees_ahead(given._replace(numbers=n)) for n in numbers.split(3)]
        assert torch.equal(torch.cat(parts), shown)  # however a batch is divided
    assert make("separation", network=network).sees_ahead(given) is None
    some = make("separation", network=network, ahead_share=0.5, context=0.1)
    both = batch(2)
    torch.nn.init.normal_(some.network.after.linear.weight)
    shown = some.sees_ahead(both)
    all_of_them, none = (
        make("separation", network=network, context=0.1),
        make("separation", network=network, ahead_share=0.0, context=0.1),
    )
    for other in (all_of_them, none):
        other.network.load_state_dict(some.network.state_dict())
    expected = torch.where(shown, all_of_them(both), none(both))
    assert (all_of_them(both) != none(both)).all()
    torch.testing.assert_close(some(both), expected)


def test_what_lies_above_the_bandwidth_is_not_learned() -> None:
    objective = make("separation")
    time = torch.arange(N) / 8000
    hiss = 0.5 * torch.sin(2 * math.pi * 3500 * time)
    plain = batch(1, bandwidth=2000.0)
    hissing = plain._replace(vocals=plain.vocals + hiss, music=plain.music - hiss)  # same mixture
    torch.testing.assert_close(objective(plain), objective(hissing), rtol=2e-2, atol=1e-3)
    wide = plain._replace(bandwidth=torch.tensor([4000.0]))
    wide_hissing = hissing._replace(bandwidth=torch.tensor([4000.0]))
    assert (objective(wide) - objective(wide_hissing)).abs().item() > 0.1


def test_context_sets_the_state_but_is_not_trained_on() -> None:
    context = 20 * CONFIG.hop / CONFIG.sample_rate
    objective = make("separation", context=context)
    assert objective.context == 20
    given = batch(2)
    muted = given._replace(
        vocals=torch.cat(
            (torch.zeros(2, 2, 20 * CONFIG.hop), given.vocals[..., 20 * CONFIG.hop :]), 2
        )
    )
    # Other vocals in the context change the state, hence the loss, but no error is counted there.
    assert not torch.allclose(objective(given), objective(muted), rtol=1e-5)
    same = Separation(objective.network, dataclasses.replace(SETTINGS, context=context))
    spec = objective.transform(given.vocals + given.music)
    rest, state = same.skip_context(spec)
    torch.testing.assert_close(
        same.network.run(rest, state)[0], same.network(spec)[..., 20:], rtol=1e-3, atol=1e-4
    )


def test_a_frozen_encoder_leaves_decoders_and_head() -> None:
    net = network()
    freeze_encoder(net)
    learning = {n.split(".")[0] for n, p in net.named_parameters() if p.requires_grad}
    assert learning == {"decoders", "head", "head_norm", "head_unit"}


def test_a_renewed_head_forgets() -> None:
    net, old = network(), network()
    renew_head(net)
    changed = {n for n, p in net.state_dict().items() if not torch.equal(p, old.state_dict()[n])}
    assert changed == {"head.weights.0", "head.weights.1", "head.weights.2"}


def test_mono_networks_hear_the_mean() -> None:
    settings = dataclasses.replace(SETTINGS, network=training_config(channels=1))
    objective = Separation(Separator(settings.network), settings)
    assert torch.isfinite(objective(batch(2))).all()
    assert np.allclose(objective.audio(torch.tensor([[[1.0], [3.0]]])), 2.0)
