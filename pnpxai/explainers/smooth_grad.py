"""Gradients under noise: their mean and their variance."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import ClassVar

from optuna.distributions import FloatDistribution, IntDistribution
from torch import Tensor, nn

from pnpxai.batches import Extractor
from pnpxai.explainers._base import ANY_MODULE, Explainer
from pnpxai.explainers._noise import GradientMoments, noisy_gradient_moments
from pnpxai.forward import Request
from pnpxai.limits import Limit, WholeWithin, Within


class SmoothGrad(Explainer):
    """The mean gradient at noisy copies of the input (Smilkov et al., 2017, arXiv 1706.03825, section 3).

    ``M(x) = 1/N · Σ_i ∂f(x + ε_i)/∂x`` with ``ε_i ~ N(0, σ²)`` and ``σ = noise_level · (max x − min x)``, by sample.
    Every image gets the same ``N`` noises. Signed, of the inputs' shape.

    Args:
        model: as for `Explainer`.
        forward_arg_extractor: as for `Explainer`.
        additional_forward_arg_extractor: as for `Explainer`.
        n_samples: noises ``N``; more is smoother (the error falls with ``√N``) and costs as many gradients.
        noise_level: the noise's standard deviation as a share of each input's range; more is smoother and coarser.
        seed: of the noises.

    Presets: both ends of the 10 to 20 % of noise that the paper recommends.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(2, 1)
        >>> _ = model.weight.data.copy_(torch.tensor([[2.0, -1.0]]))
        >>> SmoothGrad(model).attribute(torch.tensor([[0.0, 1.0]])).tolist()
        [[2.0, -1.0]]
    """

    SUPPORTED_MODULES = ANY_MODULE
    TUNABLES = {"n_samples": IntDistribution(5, 200, log=True), "noise_level": FloatDistribution(0.02, 0.5, log=True)}
    PRESETS = ({"noise_level": 0.1}, {"noise_level": 0.2})
    BUDGET = ("n_samples",)
    NESTED = True
    LIMITS: ClassVar[Mapping[str, Limit]] = {
        "n_samples": WholeWithin(1),
        "noise_level": Within(0.0, low_open=True),
        "seed": WholeWithin(0),
    }

    def __init__(
        self,
        model: nn.Module,
        forward_arg_extractor: Extractor | None = None,
        additional_forward_arg_extractor: Extractor | None = None,
        n_samples: int = 25,
        noise_level: float = 0.15,
        seed: int = 0,
    ) -> None:
        super().__init__(model, forward_arg_extractor, additional_forward_arg_extractor)
        self.n_samples = n_samples
        self.noise_level = noise_level
        self.seed = seed

    def work(self) -> Hashable:
        """Gradients under these noises, which `VarGrad` takes, too."""
        return GradientMoments, self.noise_level, self.seed

    def explain_further(
        self, request: Request, budget: int, state: GradientMoments | None
    ) -> tuple[tuple[Tensor, ...], GradientMoments]:
        """The means."""
        found = noisy_gradient_moments(request, budget, self.noise_level, self.seed, state)
        return tuple(each.clone() for each in found.means), found


class VarGrad(Explainer):
    """The variance of the gradient at noisy copies of the input (Adebayo et al., 2018, arXiv 1810.03307).

    ``V(x) = 1/N · Σ_i g_i² − (1/N · Σ_i g_i)²`` with ``g_i = ∂f(x + ε_i)/∂x`` and the noises of `SmoothGrad`: where
    the gradient is unsteady, whichever way it points. Not negative, of the inputs' shape; zero for a linear model.

    Args:
        model: as for `Explainer`.
        forward_arg_extractor: as for `Explainer`.
        additional_forward_arg_extractor: as for `Explainer`.
        n_samples: noises ``N``; more is steadier and costs as many gradients.
        noise_level: the noise's standard deviation as a share of each input's range; more looks further around.
        seed: of the noises.

    Presets: those of `SmoothGrad`, whose noise it shares.

    Example:
        >>> import torch
        >>> VarGrad(torch.nn.Linear(2, 1)).attribute(torch.tensor([[0.0, 1.0]])).tolist()
        [[0.0, 0.0]]
    """

    SUPPORTED_MODULES = ANY_MODULE
    TUNABLES = SmoothGrad.TUNABLES
    PRESETS = SmoothGrad.PRESETS
    BUDGET = SmoothGrad.BUDGET
    NESTED = True
    LIMITS = {**SmoothGrad.LIMITS, "n_samples": WholeWithin(2)}

    def __init__(
        self,
        model: nn.Module,
        forward_arg_extractor: Extractor | None = None,
        additional_forward_arg_extractor: Extractor | None = None,
        n_samples: int = 25,
        noise_level: float = 0.15,
        seed: int = 0,
    ) -> None:
        super().__init__(model, forward_arg_extractor, additional_forward_arg_extractor)
        self.n_samples = n_samples
        self.noise_level = noise_level
        self.seed = seed

    def work(self) -> Hashable:
        """That of `SmoothGrad`."""
        return GradientMoments, self.noise_level, self.seed

    def explain_further(
        self, request: Request, budget: int, state: GradientMoments | None
    ) -> tuple[tuple[Tensor, ...], GradientMoments]:
        """The variances."""
        found = noisy_gradient_moments(request, budget, self.noise_level, self.seed, state)
        return found.variances, found
