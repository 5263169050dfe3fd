"""Layer-wise relevance propagation: four ways to choose the rules of layers with weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from optuna.distributions import CategoricalDistribution, FloatDistribution
from torch import Tensor, nn

from pnpxai.batches import Extractor
from pnpxai.errors import ParameterError
from pnpxai.explainers._lrp import LRPBase
from pnpxai.limits import Within
from pnpxai.modules import Convolution, Linear
from pnpxai.relevance import AttentionRule
from pnpxai.relevance.zennit_rules import alpha_beta_rule, box_rule, composite_of, epsilon_rule, gamma_rule

if TYPE_CHECKING:
    from zennit.canonizers import Canonizer
    from zennit.core import Composite

__all__ = ["LRPBase", "LRPEpsilonAlpha2Beta1", "LRPEpsilonGammaBox", "LRPEpsilonPlus", "LRPUniformEpsilon"]


class LRPUniformEpsilon(LRPBase):
    """The ε-rule on every layer with weights: ``R_i = Σ_j x_i w_ij / (z_j + ε · sign z_j) · R_j``.

    Bach et al., 2015 (doi 10.1371/journal.pone.0130140), equation 58, with the bias part of ``z``.

    The arguments are those of `LRPBase`.

    Presets: ε as small as zennit's, next to the plain rule; the attention rule of Achtibat et al., 2024, who use ε
    throughout on language models.

    Example:
        >>> model = nn.Linear(2, 1, bias=False)
        >>> _ = model.weight.data.copy_(torch.tensor([[2.0, -1.0]]))
        >>> LRPUniformEpsilon(model, epsilon=2.0).attribute(torch.tensor([[3.0, 4.0]])).tolist()
        [[3.0, -2.0]]
    """

    SUPPORTED_MODULES = (Linear, Convolution)
    PRESETS = ({"epsilon": 1e-6}, {"attention": "attnlrp"})

    def __init__(
        self,
        model: nn.Module,
        forward_arg_extractor: Extractor | None = None,
        additional_forward_arg_extractor: Extractor | None = None,
        epsilon: float = 0.25,
        stabilizer: float = 1e-6,
        zennit_canonizers: Sequence[Canonizer] | None = None,
        layer: str | nn.Module | None = None,
        n_classes: int | None = None,
        attention: AttentionRule = "constant",
        relative_epsilon: bool = False,
    ) -> None:
        super().__init__(
            model,
            forward_arg_extractor,
            additional_forward_arg_extractor,
            epsilon,
            stabilizer,
            zennit_canonizers,
            layer,
            n_classes,
            attention,
            relative_epsilon,
        )

    @property
    def zennit_composite(self) -> Composite:
        """ε everywhere."""
        everywhere = epsilon_rule(self.stabilized_by(self.epsilon))
        return composite_of(everywhere, everywhere)


class LRPEpsilonPlus(LRPBase):
    """The z⁺-rule on convolutions, the ε-rule on linear layers (zennit's ``EpsilonPlus``).

    z⁺ hands relevance down along positive contributions only (Montavon et al., 2017, arXiv 1512.02479).

    The arguments are those of `LRPBase`.

    Presets: the ε of Montavon et al., 2019 (section 10.3; there in standard deviations of the activations).

    Example:
        >>> model = nn.Sequential(nn.Conv1d(1, 1, 2, bias=False), nn.Flatten())
        >>> _ = model[0].weight.data.copy_(torch.tensor([[[2.0, -1.0]]]))
        >>> maps = LRPEpsilonPlus(model).attribute(torch.tensor([[[3.0, 4.0]]]))
        >>> [round(each, 3) for each in maps.flatten().tolist()]
        [2.0, 0.0]
    """

    SUPPORTED_MODULES = (Linear, Convolution)
    PRESETS = ({"epsilon": 0.25},)

    @property
    def zennit_composite(self) -> Composite:
        """z⁺ and ε."""
        plus = alpha_beta_rule(1.0, 0.0, self.stabilized_by(self.stabilizer))
        return composite_of(plus, epsilon_rule(self.stabilized_by(self.epsilon)))


class LRPEpsilonAlpha2Beta1(LRPBase):
    """The αβ-rule with α = 2, β = 1 on convolutions, the ε-rule on linear layers (zennit's ``EpsilonAlpha2Beta1``).

    Positive contributions get twice the relevance and negative ones minus once (Bach et al., 2015, equation 60).

    The arguments are those of `LRPBase`.

    Presets: the ε of Montavon et al., 2019, as of `LRPEpsilonPlus`.

    Example:
        >>> model = nn.Sequential(nn.Conv1d(1, 1, 2, bias=False), nn.Flatten())
        >>> _ = model[0].weight.data.copy_(torch.tensor([[[2.0, -1.0]]]))
        >>> maps = LRPEpsilonAlpha2Beta1(model).attribute(torch.tensor([[[3.0, 4.0]]]))
        >>> [round(each, 3) for each in maps.flatten().tolist()]
        [4.0, -2.0]
    """

    SUPPORTED_MODULES = (Linear, Convolution)
    PRESETS = ({"epsilon": 0.25},)

    @property
    def zennit_composite(self) -> Composite:
        """αβ and ε."""
        alpha_beta = alpha_beta_rule(2.0, 1.0, self.stabilized_by(self.stabilizer))
        return composite_of(alpha_beta, epsilon_rule(self.stabilized_by(self.epsilon)))


class LRPEpsilonGammaBox(LRPBase):
    """zB on the first convolution that runs, γ on the others, ε on linear layers (zennit's ``EpsilonGammaBox``).

    Montavon et al., 2019 (doi 10.1007/978-3-030-28954-6_10), table 10.1. In a model without convolutions only ε acts.

    Args, besides those of `LRPBase`:
        low: the lowest value an input element can have, a number or one a channel ``(1, c, 1, 1)``.
        high: the highest. The zB-rule keeps signs only for inputs between the two.
        gamma: of the γ-rule; larger favours positive contributions more.
        gamma_on_linear: the γ-rule on linear layers too, as is usual in vision transformers.

    Presets: the ε of Montavon et al., 2019, as of `LRPEpsilonPlus`; γ on linear layers, as small as Achtibat et al.,
    2024 (arXiv 2402.05602) take it there for vision transformers.

    Example:
        >>> model = nn.Sequential(nn.Conv1d(1, 1, 2, bias=False), nn.Flatten())
        >>> _ = model[0].weight.data.copy_(torch.tensor([[[2.0, -1.0]]]))
        >>> maps = LRPEpsilonGammaBox(model, low=0.0, high=4.0).attribute(torch.tensor([[[3.0, 4.0]]]))
        >>> [round(each, 3) for each in maps.flatten().tolist()]
        [2.0, 0.0]
    """

    SUPPORTED_MODULES = (Linear, Convolution)
    TUNABLES = {
        **LRPBase.TUNABLES,
        "gamma": FloatDistribution(1e-6, 1.0, log=True),
        "gamma_on_linear": CategoricalDistribution((False, True)),
    }
    PRESETS = ({"epsilon": 0.25}, {"gamma": 0.05, "gamma_on_linear": True})
    LIMITS = {**LRPBase.LIMITS, "gamma": Within(0.0)}

    def __init__(
        self,
        model: nn.Module,
        forward_arg_extractor: Extractor | None = None,
        additional_forward_arg_extractor: Extractor | None = None,
        low: float | Tensor = -3.0,
        high: float | Tensor = 3.0,
        epsilon: float = 1e-6,
        gamma: float = 0.25,
        stabilizer: float = 1e-6,
        zennit_canonizers: Sequence[Canonizer] | None = None,
        layer: str | nn.Module | None = None,
        n_classes: int | None = None,
        attention: AttentionRule = "constant",
        relative_epsilon: bool = False,
        gamma_on_linear: bool = False,
    ) -> None:
        super().__init__(
            model,
            forward_arg_extractor,
            additional_forward_arg_extractor,
            epsilon,
            stabilizer,
            zennit_canonizers,
            layer,
            n_classes,
            attention,
            relative_epsilon,
        )
        self.low = low
        self.high = high
        self.gamma = gamma
        self.gamma_on_linear = gamma_on_linear

    @property
    def zennit_composite(self) -> Composite:
        """zB, γ and ε.

        Raises:
            ParameterError: ``low`` is above ``high``.
        """
        low, high = torch.as_tensor(self.low), torch.as_tensor(self.high)
        if (low > high).any():
            raise ParameterError("low to be at most high", f"low={self.low}, high={self.high}", "Swap the two.")
        stabilizer = self.stabilized_by(self.stabilizer)
        gamma = gamma_rule(self.gamma, stabilizer)
        linear = gamma if self.gamma_on_linear else epsilon_rule(self.stabilized_by(self.epsilon))
        return composite_of(gamma, linear, first=box_rule(low, high, stabilizer))
