"""Experiments with everything chosen, for each kind of data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, ClassVar

from torch import Tensor

from pnpxai.batches import Extractor
from pnpxai.callables import Model
from pnpxai.errors import ParameterError
from pnpxai.experiment._experiment import Experiment
from pnpxai.experiment._parts import first_two
from pnpxai.experiment._two_inputs import Kind, OneOfTwo, TheOther, arguments_of
from pnpxai.forward import TokenIds
from pnpxai.metrics import AbPC, Complexity, MuFidelity, Sensitivity
from pnpxai.modality import Image, Modality, Tabular, Text, TimeSeries
from pnpxai.postprocess import PostProcessor
from pnpxai.targets import Target
from pnpxai.tokenizers import Tokenizer, special_ids_of


class AutoExplanation(Experiment):
    """An experiment with everything chosen: recommended explainers, all post-processors, the usual metrics."""

    DEFAULT_METRICS = (MuFidelity, AbPC, Sensitivity, Complexity)
    MODALITY: ClassVar[type[Modality] | None] = None

    def __init__(
        self,
        model: Model,
        data: Any,
        modality: str | type[Modality] | Modality | None = None,
        input_extractor: Extractor | None = None,
        label_extractor: Extractor | None = None,
        target_extractor: Callable[[Tensor], Tensor | Target] | None = None,
        target_labels: bool = False,
        channel_dim: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(
            model,
            data,
            modality if modality is not None or self.MODALITY is None else self.MODALITY,
            input_extractor=input_extractor,
            label_extractor=label_extractor,
            target_extractor=target_extractor,
            target_labels=target_labels,
            **options,
        )
        self.channel_dim = channel_dim

    @cached_property
    def modality(self) -> Modality:
        """The kind of data, with the channel dimension if one was given."""
        found = super().modality
        return found if self.channel_dim is None else found.set_kwargs(channel_dim=self.channel_dim)

    @cached_property
    def postprocessors(self) -> list[PostProcessor]:
        """Every pooling with every normalisation, the usual one first."""
        return self.modality.postprocessors


class AutoExplanationForImageClassification(AutoExplanation):
    """`AutoExplanation` for images ``(n, c, h, w)``."""

    MODALITY = Image


class AutoExplanationForTSClassification(AutoExplanation):
    """`AutoExplanation` for series ``(n, c, t)``."""

    MODALITY = TimeSeries


class AutoExplanationForTabularClassification(AutoExplanation):
    """`AutoExplanation` for feature vectors ``(n, d)``."""

    MODALITY = Tabular


class AutoExplanationForTextClassification(AutoExplanation):
    """`AutoExplanation` for token ids ``(n, t)``, explained by their embeddings, or what a tokenizer returns of them.

    Args:
        model: looks the ids up in an embedding.
        data: as for `Experiment`: mappings with ``"input_ids"``, as a tokenizer returns them, or ids.
        special_ids: ids that are never perturbed and whose maps are zero, such as those of a tokenizer's ``[CLS]``,
            ``[SEP]`` and ``[PAD]`` (``tokenizer.all_special_ids``). Padding is found by an ``"attention_mask"``.
        tokenizer: how ids become words, as for `pnpxai.modality.Text`; the ids it adds itself are special, too.
        **options: as for `AutoExplanation`; a ``forward_arg_extractor`` takes the place of ``special_ids``.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 2))
        >>> data = torch.tensor([[1, 5, 2], [1, 7, 2]])
        >>> experiment = AutoExplanationForTextClassification(model, data, special_ids=(1, 2))
        >>> experiment.explain("Gradient").abs().sum(1).count_nonzero(0).tolist()
        [0, 2, 0]
    """

    MODALITY = Text

    def __init__(
        self, model: Model, data: Any, special_ids: Sequence[int] = (), tokenizer: Tokenizer = None, **options: Any
    ) -> None:
        special = (*special_ids, *special_ids_of(tokenizer))
        options["forward_arg_extractor"] = options.get("forward_arg_extractor") or TokenIds(special)
        if options.get("modality") is None:
            options["modality"] = Text(tokenizer=tokenizer)
        super().__init__(model, data, **options)
        self.special_ids = special_ids
        self.tokenizer = tokenizer


class AutoExplanationForVisualQuestionAnswering(AutoExplanation):
    """`AutoExplanation` for models of an image and a text: one of the two is explained, the other passed on.

    Args:
        model: takes an image ``(n, c, h, w)`` and token ids ``(n, t)``, which it looks up in an embedding.
        data: as for `Experiment`: mappings by the names of the model's arguments, as a processor returns them, or
            tuples that begin with the two in the model's order.
        explained: ``"image"`` or ``"text"``.
        special_ids: as for `AutoExplanationForTextClassification`.
        tokenizer: likewise.
        **options: as for `AutoExplanation`.

    Raises:
        ParameterError: another kind of input to be explained.
    """

    def __init__(
        self,
        model: Model,
        data: Any,
        explained: Kind = "image",
        special_ids: Sequence[int] = (),
        tokenizer: Tokenizer = None,
        **options: Any,
    ) -> None:
        if explained not in ("image", "text"):
            raise ParameterError("explained='image' or 'text'", f"{explained!r}", "Choose one; explain both in turn.")
        arguments = arguments_of(model)
        chosen: dict[str, Any] = {
            "modality": Image if explained == "image" else Text(tokenizer=tokenizer),
            "input_extractor": first_two,
            "forward_arg_extractor": OneOfTwo(explained, arguments, (*special_ids, *special_ids_of(tokenizer))),
            "additional_forward_arg_extractor": TheOther(explained, arguments),
        }
        super().__init__(
            model, data, **{**chosen, **{name: each for name, each in options.items() if each is not None}}
        )
        self.explained = explained
        self.special_ids = special_ids
        self.tokenizer = tokenizer
