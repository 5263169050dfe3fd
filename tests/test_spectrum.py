"""Models asked about spectra: maps by frequency in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import pnpxai
from pnpxai.errors import InputError
from pnpxai.explainers import RISE, Gradient, GradientXInput, IntegratedGradients, KernelShap, Occlusion
from pnpxai.feature_masks import Grid
from pnpxai.modality import Spectrum
from pnpxai.spectrum import InSpectrum, to_series, to_spectrum
from tests.harm import untouched
from tests.nets import TimeCNN, batch, seeded

STEPS, CHANNELS, READ, BAND = 20, 3, 1, 4
"""The model below reads frequency 4 of channel 1."""


class OneBand(nn.Module):
    """Two outputs from one frequency of one channel: what its cosine says, and its energy."""

    def __init__(self) -> None:
        super().__init__()
        angles = 2 * math.pi * BAND * torch.arange(STEPS, dtype=torch.float64) / STEPS
        self.register_buffer("waves", torch.stack([angles.cos(), angles.sin()]))

    def forward(self, x: Tensor) -> Tensor:
        cosine, sine = (x[:, READ] @ self.waves.T).T
        return torch.stack([cosine, cosine**2 + sine**2], 1)


def series(n: int = 3) -> Tensor:
    return batch(n, CHANNELS, STEPS, dtype=torch.float64)


@pytest.mark.parametrize("steps", [1, 2, 7, 20])
def test_there_and_back_and_by_another_transform(steps: int) -> None:
    x = batch(2, 3, steps, dtype=torch.float64)
    made = to_spectrum(x)
    expected = np.fft.rfft(x.numpy()) / math.sqrt(steps)
    assert made.shape == (2, 2, 3, steps // 2 + 1)
    np.testing.assert_allclose(made[:, 0].numpy() + 1j * made[:, 1].numpy(), expected, atol=1e-12)
    torch.testing.assert_close(to_series(made, steps), x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_transformed_in_single(dtype: torch.dtype) -> None:
    x = batch(2, 3, 7).to(dtype)
    made = to_spectrum(x)
    assert made.dtype == to_series(made, 7).dtype == dtype
    torch.testing.assert_close(made, to_spectrum(x.float()).to(dtype), rtol=0, atol=0)
    torch.testing.assert_close(to_series(made, 7), to_series(made.float(), 7).to(dtype), rtol=0, atol=0)
    net = seeded(TimeCNN()).to(torch.bfloat16)
    maps = Occlusion(InSpectrum(net, 24)).attribute(to_spectrum(batch(2, 2, 24)), 0)
    assert bool(maps.isfinite().all())


@pytest.mark.parametrize(
    "wrong", [torch.ones(1, 2, 8, dtype=torch.complex64), torch.ones(1, 2, 0), torch.ones(0, 2, 8)]
)
def test_what_has_no_spectrum_is_refused(wrong: Tensor) -> None:
    with pytest.raises(InputError, match="real numbers"):
        to_spectrum(wrong)
    with pytest.raises(InputError, match="floating-point"):
        to_series(torch.ones(1, 2, 2, 5, dtype=torch.int64), 8)


def test_the_model_says_of_a_spectrum_what_it_says_of_the_series() -> None:
    net, x = seeded(TimeCNN()), batch(2, 2, 24)
    torch.testing.assert_close(InSpectrum(net, 24)(to_spectrum(x)), net(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("output", [0, 1])
@pytest.mark.parametrize("cls", [KernelShap, IntegratedGradients, Occlusion])
def test_one_frequency_has_all_of_the_output_of_a_model_that_reads_it_alone(cls: type, output: int) -> None:
    x, net = series(1), OneBand()
    options = {
        KernelShap: {"feature_mask_fn": Grid(11)},
        IntegratedGradients: {"n_steps": 2000},
        Occlusion: {"window": (1, 1), "score": "logit"},
    }
    explainer = cls(InSpectrum(net, STEPS), **options.get(cls, {}))
    spectrum = to_spectrum(x)
    with untouched(explainer.model, spectrum):
        maps = explainer.attribute(spectrum, output).sum(1)
    expected = torch.zeros(1, CHANNELS, STEPS // 2 + 1, dtype=torch.float64)
    expected[:, READ, BAND] = net(x)[:, output]  # of zeros it says 0
    torch.testing.assert_close(maps, expected, rtol=1e-6, atol=1e-6)


def test_the_gradient_of_the_cosine_in_closed_form() -> None:
    maps = Gradient(InSpectrum(OneBand(), STEPS)).attribute(to_spectrum(series()), 0)
    expected = torch.zeros_like(maps)
    expected[:, 0, READ, BAND] = math.sqrt(STEPS)  # Σ x_t cos(2πkt/T) = √T Re X_k
    torch.testing.assert_close(maps, expected)


def test_bands_of_each_channel_by_masks() -> None:
    explainer = RISE(InSpectrum(OneBand(), STEPS), n_masks=2000, grid_size=(CHANNELS, 11))
    maps = explainer.attribute(to_spectrum(series()), lambda outputs: outputs[:, 1])
    assert maps.flatten(1).argmax(1).tolist() == [READ * 11 + BAND] * 3


def test_what_is_no_spectrum() -> None:
    with pytest.raises(InputError, match=r"series \(n, c, t\)"):
        to_spectrum(torch.zeros(2, 5))
    for wrong in (torch.zeros(2, 3, 11), torch.zeros(2, 1, 3, 11), torch.zeros(2, 2, 3, 10)):
        with pytest.raises(InputError, match=r"\(n, 2, c, 11\)"):
            to_series(wrong, STEPS)


def test_recommended_and_tuned(tmp_path) -> None:
    x, model = to_spectrum(series(12)), InSpectrum(OneBand(), STEPS)
    found = pnpxai.recommend(model, x, modality="spectrum")
    names = {type(each).__name__ for each in found.explainers}
    assert {"RISE", "KernelShap", "Lime", "Occlusion", "SobolAttribution", "IntegratedGradients"} <= names
    result = pnpxai.tune(
        model,
        x,
        torch.ones(12, dtype=torch.long),
        modality="spectrum",
        explainers=[GradientXInput, KernelShap(model, n_samples=64)],
        n_trials=4,
        progress=False,
    )
    assert result.modality == Spectrum()
    maps = result.explain(x, 1)
    assert maps.shape == (12, CHANNELS, STEPS // 2 + 1)
    assert result.report(tmp_path / "report.html").stat().st_size > 10_000
