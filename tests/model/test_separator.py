"""The separator network: `step` equals `forward`, stems sum, nothing looks ahead."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import VARIANTS, partitions, random_separator, tiny_config

torch = pytest.importorskip("torch")

from torch import Tensor  # noqa: E402

from stemwire.model import SeparatorConfig  # noqa: E402
from stemwire.model.layers import State  # noqa: E402
from stemwire.model.separator import Separator  # noqa: E402
from stemwire.training.trainer.warm_start import with_lookahead, without_lookahead  # noqa: E402

FRAMES = 19
every_variant = pytest.mark.parametrize("variant", VARIANTS)
ahead = pytest.mark.parametrize(("lookahead", "taps"), [(0, 1), (3, 1), (0, 3), (2, 2)])


def spectra(frames: int = FRAMES, batch: int = 2, channels: int = 2, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(200 + seed)
    shape = (batch, channels, 33, frames)
    return torch.randn(shape, dtype=torch.complex64, generator=generator)


@torch.no_grad()
def in_parts(separator: Separator, spec: Tensor, sizes: list[int]) -> tuple[Tensor, State]:
    state, outputs = separator.initial_state(len(spec)), []
    for part in spec.split(sizes, -1):
        stems, state = separator.run(part, state)
        outputs.append(stems)
    return torch.cat(outputs, -1), state


@torch.no_grad()
@every_variant
@ahead
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("seed", range(2))
def test_step_equals_forward(
    variant: str, lookahead: int, taps: int, channels: int, seed: int
) -> None:
    config = tiny_config(variant, channels=channels, lookahead=lookahead, taps=taps)
    separator = random_separator(config, seed)
    spec = spectra(channels=channels, seed=seed)
    whole, state, steps = separator(spec), separator.initial_state(2), []
    for frame in spec.unbind(-1):
        stems, state = separator.step(frame, state)
        assert stems.shape == (2, 2, channels, 33)
        steps.append(stems)
    assert (torch.stack(steps, -1) - whole).abs().max() <= 1e-4
    vocals, rest = whole.abs().mean((0, 2, 3, 4))
    assert vocals > 0.05 and rest > 0.05  # a mask that is neither nothing nor everything


@every_variant
@given(sizes=partitions(FRAMES, smallest=1), seed=st.integers(0, 99))
def test_any_parts_with_carried_state_equal_forward(
    variant: str, sizes: list[int], seed: int
) -> None:
    config = tiny_config(variant, lookahead=seed % 4, taps=1 + seed % 3)
    separator, spec = random_separator(config, seed), spectra(seed=seed)
    with torch.no_grad():
        assert (in_parts(separator, spec, sizes)[0] - separator(spec)).abs().max() <= 1e-4


@torch.no_grad()
@every_variant
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nan_in_the_future_never_reaches_the_past(variant: str, bad: float) -> None:
    separator, spec = random_separator(tiny_config(variant)), spectra()
    clean = separator(spec)
    for at in (0, 1, 4, 5, 6, 11, FRAMES - 1):
        dirty = spec.clone()
        dirty[..., at:] = bad
        stems = separator(dirty)
        torch.testing.assert_close(stems[..., :at], clean[..., :at], atol=1e-5, rtol=0)
        assert not torch.isfinite(stems[..., at].abs()).all()


@torch.no_grad()
@every_variant
def test_the_past_matters(variant: str) -> None:
    separator, spec = random_separator(tiny_config(variant)), spectra()
    changed = spec.clone()
    changed[..., 5] *= 3
    moved = (separator(changed) - separator(spec)).abs().amax((0, 1, 2, 3)) > 1e-5
    assert not moved[:5].any()
    assert moved[5:9].all()


@torch.no_grad()
@every_variant
@ahead
@pytest.mark.parametrize("channels", [1, 2])
def test_stems_sum_to_the_mixture(variant: str, lookahead: int, taps: int, channels: int) -> None:
    config = tiny_config(variant, channels=channels, lookahead=lookahead, taps=taps)
    separator, spec = random_separator(config), 20 * spectra(channels=channels)
    stems = separator(spec)
    assert stems.shape == (2, 2, channels, 33, FRAMES)
    late = torch.nn.functional.pad(spec, (lookahead, 0))[..., :FRAMES]
    torch.testing.assert_close(stems.sum(1), late, atol=1e-5, rtol=1e-6)
    assert (stems[:, 0, :, -1] == 0).all()  # half the sample rate: no vocals there


@torch.no_grad()
@every_variant
@pytest.mark.parametrize("level", [1e-6, 1.0, 1e4])
def test_a_factor_is_bounded(variant: str, level: float) -> None:
    separator, spec = random_separator(tiny_config(variant)), level * spectra()
    factor = separator(spec)[:, 0, :, :32] / spec[:, :, :32]
    parts = torch.view_as_real(factor).abs()
    assert parts.max() < 1.0
    assert parts.min() < 0.5 * parts.max()  # it does tell bins apart
    for weight in separator.head.weights:  # far beyond what tanh can tell from one
        weight.mul_(1e4)
    factor = separator(spec)[:, 0, :, :32] / spec[:, :, :32]
    assert torch.view_as_real(factor).abs().max() <= 1.0 + 1e-5


@torch.no_grad()
@every_variant
def test_silence_stays_silent_and_finite(variant: str) -> None:
    stems = random_separator(tiny_config(variant))(torch.zeros_like(spectra()))
    assert (stems == 0).all()


@torch.no_grad()
@every_variant
def test_state_keeps_shape_and_type_for_ever(variant: str) -> None:
    separator = random_separator(tiny_config(variant))
    named = list(separator.state_shapes())
    names = [name for name, _ in named]
    assert len(set(names)) == len(names)
    state = separator.initial_state(3)
    expected = [(3, *shape) for _, shape in named]
    for frames in [1] * 20 + [2, 30, 1]:
        assert [tuple(s.shape) for s in state] == expected
        assert {s.dtype for s in state} == {torch.float32}
        stems, state = separator.run(spectra(frames, batch=3), state)
        assert stems.dtype == torch.complex64
    assert {p.dtype for p in separator.parameters()} == {torch.float32}
    assert all(s.abs().max() > 0 for s in state)


@torch.no_grad()
@every_variant
def test_items_of_a_batch_do_not_mix(variant: str) -> None:
    separator, spec = random_separator(tiny_config(variant)), spectra(batch=3)
    together = separator(spec)
    for item in range(3):
        assert (together[item] - separator(spec[item : item + 1])[0]).abs().max() <= 1e-5


@torch.no_grad()
@every_variant
def test_nothing_is_hidden_in_the_module(variant: str) -> None:
    separator, spec = random_separator(tiny_config(variant)), spectra()
    before = separator(spec)
    separator(spectra(seed=9))
    assert torch.equal(separator(spec), before)
    assert not list(separator.buffers())


@every_variant
@pytest.mark.parametrize("channels", [1, 2])
def test_gradient_reaches_every_parameter(variant: str, channels: int) -> None:
    separator = random_separator(tiny_config(variant, channels=channels))
    separator(spectra(channels=channels))[:, 0].abs().square().sum().backward()
    for name, parameter in separator.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradient_is_finite_for_silence(variant: str) -> None:
    separator = random_separator(tiny_config(variant))
    spec = spectra()
    spec[..., 5:] = 0
    separator(spec)[:, 0].abs().square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in separator.parameters())


def test_variants_differ_as_designed() -> None:
    stack, unet, bridge = (Separator(tiny_config(variant)) for variant in VARIANTS)
    assert [len(s.encoders) for s in (stack, unet, bridge)] == [0, 2, 2]
    assert [len(s.decoders) for s in (stack, unet, bridge)] == [0, 2, 2]
    assert [len(s.bottom) for s in (stack, unet, bridge)] == [2, 2, 2]
    assert all(part.primer is None for part in (*bridge.encoders, *bridge.decoders))
    assert all(not part.primer.decoder for part in unet.encoders)
    assert all(part.primer.decoder for part in unet.decoders)  # they attend to the encoder, too
    # In the order in which they run: the coarsest decoder first.
    firsts = [name.split("_")[0] for name, _ in unet.state_shapes()]
    assert list(dict.fromkeys(firsts)) == [
        "encoder0", "encoder1", "bottom", "bottom0", "bottom1", "decoder1", "decoder0", "head",
    ]  # fmt: skip
    for separator in (stack, bridge):
        windows = {n.split("_")[0] for n, _ in separator.state_shapes() if n.endswith("_keys")}
        assert windows == {"bottom0", "bottom1"}
    assert stack.bottom[0].norm.weight.shape == (16, 4)  # the finest resolution
    assert bridge.bottom[0].norm.weight.shape == (4, 8)  # the coarsest


@torch.no_grad()
@every_variant
def test_step_equals_forward_at_full_size(variant: str) -> None:
    separator = random_separator(SeparatorConfig(variant=variant), scale=0.02)
    generator = torch.Generator().manual_seed(1)
    spec = torch.randn((1, 2, 1025, 80), dtype=torch.complex64, generator=generator)
    steps, _ = in_parts(separator, spec, [1] * 80)  # more frames than the window of attention
    assert (steps - separator(spec)).abs().max() <= 1e-4


@torch.no_grad()
@pytest.mark.parametrize("bands", [((32, 1),), ((4, 8),), ((2, 1), (1, 4), (1, 26))])
@every_variant
def test_bands_are_as_many_and_as_wide_as_asked(
    variant: str, bands: tuple[tuple[int, int], ...]
) -> None:
    separator, spec = random_separator(tiny_config(variant, bands=bands, heads=1)), spectra()
    stems = separator(spec)
    assert stems.shape == (2, 2, 2, 33, FRAMES)
    assert separator.head_norm.weight.shape == (sum(count for count, _ in bands), 4)
    assert (in_parts(separator, spec, [1] * FRAMES)[0] - stems).abs().max() <= 1e-4


@torch.no_grad()
@every_variant
@pytest.mark.parametrize("ahead", [1, 3])
def test_look_ahead_hears_what_comes_after(variant: str, ahead: int) -> None:
    """The stems of frame t come at step t + k, and know the frames up to that."""
    separator, spec = random_separator(tiny_config(variant, lookahead=ahead)), spectra()
    changed = spec.clone()
    changed[..., 9] *= 3
    moved = (separator(changed) - separator(spec)).abs().amax((0, 1, 2, 3)) > 1e-5
    assert not moved[:9].any() and moved[9 : 9 + ahead].all()  # before the frame itself comes


@torch.no_grad()
@every_variant
def test_any_weights_go_on_with_look_ahead(variant: str) -> None:
    """They do as before, k frames later, to items that are not shown what is ahead of them."""
    plain = random_separator(tiny_config(variant))
    late = Separator(tiny_config(variant, lookahead=2)).eval()
    late.load_state_dict(with_lookahead(plain.state_dict(), late))
    back = without_lookahead(late.state_dict(), 2)
    assert back.keys() == plain.state_dict().keys()
    assert all(torch.equal(back[name], weight) for name, weight in plain.state_dict().items())
    for after in (late.after, *(decoder.after for decoder in late.decoders)):
        torch.nn.init.normal_(after.linear.weight)
    spec = torch.cat([spectra(seed=k) for k in range(8)], -1)
    stems, _ = late.run(spec, late.initial_state(2), torch.tensor([False, True]))
    torch.testing.assert_close(stems[1], late(spec)[1])
    torch.testing.assert_close(stems.sum(1)[..., 2:], spec[..., :-2])
    # Decoders have begun with two frames of nothing; in the end that is forgotten.
    differ = (stems[..., 2:] - plain(spec)[..., :-2]).abs().amax((1, 2, 3))[:, -FRAMES:]
    assert differ[0].max() < 1e-4 and differ[1].min() > 1e-3
    spec, stems = spec[..., :FRAMES], stems[..., :FRAMES]
    state, alone = late.initial_state(2), []
    for frame in spec.unbind(-1):  # and frame by frame
        one, state = late.run(frame.unsqueeze(-1), state, torch.tensor([False, True]))
        alone.append(one)
    torch.testing.assert_close(torch.cat(alone, -1), stems, atol=1e-4, rtol=1e-4)
