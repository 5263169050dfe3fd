"""Series by their frequencies: a model that is asked about spectra, so that bands are removed in place of segments."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pnpxai.errors import InputError


def to_spectrum(series: Tensor) -> Tensor:
    """Series ``(n, c, t)`` as the coefficients of their frequencies, ``(n, 2, c, t // 2 + 1)``.

    The real discrete Fourier transform, orthonormal, its real and its imaginary part in dimension 1: what `InSpectrum`
    takes. Frequency ``k`` has ``k`` cycles in the series; 0 is its mean.

    Raises:
        InputError: no series.

    Example:
        >>> to_spectrum(torch.ones(1, 1, 4))[0, 0].tolist()
        [[2.0, 0.0, 0.0]]
    """
    if series.ndim != 3:
        raise InputError("series (n, c, t)", f"shape {tuple(series.shape)}", "Add the missing dimensions.")
    if series.is_complex() or not series.numel():
        raise InputError(
            "series (n, c, t) of real numbers",
            f"{series.dtype}, shape {tuple(series.shape)}",
            "Pass n ≥ 1 real series.",
        )
    coefficients = torch.fft.rfft(_precise(series), norm="ortho")
    spectrum = torch.view_as_real(coefficients).movedim(-1, 1).contiguous()
    return spectrum.to(series.dtype) if series.is_floating_point() else spectrum


def to_series(spectrum: Tensor, length: int) -> Tensor:
    """The series ``(n, c, t)`` of a length whose spectrum ``(n, 2, c, t // 2 + 1)`` this is.

    Raises:
        InputError: no spectrum of series of this length.

    Example:
        >>> to_series(to_spectrum(torch.tensor([[[1.0, 5.0, 3.0]]])), 3).round().tolist()
        [[[1.0, 5.0, 3.0]]]
    """
    if spectrum.ndim != 4 or spectrum.shape[1] != 2 or spectrum.shape[3] != length // 2 + 1:
        raise InputError(
            f"a spectrum (n, 2, c, {length // 2 + 1}) of series of {length} steps",
            f"shape {tuple(spectrum.shape)}",
            "Pass to_spectrum(series), and the series' own length.",
        )
    if not spectrum.is_floating_point() or not spectrum.numel():
        raise InputError(
            "a spectrum of floating-point numbers",
            f"{spectrum.dtype}, shape {tuple(spectrum.shape)}",
            "Pass to_spectrum(series).",
        )
    coefficients = torch.view_as_complex(_precise(spectrum).movedim(1, -1).contiguous())
    series: Tensor = torch.fft.irfft(coefficients, length, norm="ortho")
    return series.to(spectrum.dtype)


class InSpectrum(nn.Module):
    """A model of series that takes their spectra: every explainer of it says which frequencies of which channel count.

    To be explained with ``modality="spectrum"``: a feature is one frequency of one channel, its real and its imaginary
    part together, and zero is its absence. Maps are ``(n, 1, c, f)``, or ``(n, 2, c, f)`` before pooling; cells of
    `Grid` are bands of frequencies, of each channel alone where there are no more channels than cells.

    Args:
        model: takes series ``(n, c, t)``, and what else it is given.
        length: their steps ``t``.

    Example:
        >>> class Mean(nn.Module):
        ...     def forward(self, x):
        ...         return x.mean(2)
        >>> from pnpxai.explainers import KernelShap
        >>> x = torch.tensor([[[1.0, 5.0, 3.0, 3.0]]])
        >>> KernelShap(InSpectrum(Mean(), 4)).attribute(to_spectrum(x))[0, 0].round().abs().tolist()
        [[3.0, 0.0, 0.0]]
    """

    def __init__(self, model: nn.Module, length: int) -> None:
        super().__init__()
        self.model = model
        self.length = length

    def forward(self, spectrum: Tensor, *others: Any, **named: Any) -> Any:
        """What the model says of the series with this spectrum."""
        return self.model(to_series(spectrum, self.length), *others, **named)


def _precise(values: Tensor) -> Tensor:
    """In single precision at least: there is no Fourier transform of half."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
