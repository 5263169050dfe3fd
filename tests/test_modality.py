from __future__ import annotations

import pytest
import torch

from pnpxai.errors import InputError, UnknownNameError
from pnpxai.modality import MODALITIES, Image, Tabular, Text, TimeSeries, Volume, modality_for
from pnpxai.tunable import Role


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((2, 3, 4, 8, 8), Volume), ((2, 3, 8, 8), Image), ((2, 3, 8), TimeSeries), ((2, 8), Tabular)],
)
def test_guessed_from_dimensions(shape: tuple[int, ...], expected: type) -> None:
    assert modality_for(None, torch.zeros(shape)) == expected()


def test_named_given_or_refused() -> None:
    assert modality_for("text", None) == Text()
    assert modality_for(Image, None) == Image()
    mine = Image(channel_dim=3)
    assert modality_for(mine, None) is mine
    with pytest.raises(UnknownNameError, match="time_series"):
        modality_for("series", None)
    with pytest.raises(InputError, match="modality="):
        modality_for(None, torch.zeros(2, 3, 4, 5, 6, 7))


@pytest.mark.parametrize("kind", MODALITIES.values())
def test_candidates_fill_their_role_on_data_of_the_kind(kind: type) -> None:
    modality = kind()
    shapes = {5: (2, 3, 8, 8, 8), 4: (2, 3, 16, 16), 3: (2, 3, 16), 2: (2, 6)}
    inputs = torch.rand(shapes[kind.NDIM], generator=torch.Generator().manual_seed(0))
    for role, objects in modality.CANDIDATES.items():
        assert issubclass(role, Role)
        assert len({each.NAME for each in objects}) == len(objects)
        for each in objects:
            assert isinstance(each, role)
            if role.__name__ == "BaselineFunction":
                assert each(inputs).shape == inputs.shape
    positions = list(inputs.shape)
    if modality.channel_dim is not None:
        del positions[modality.channel_dim]
    for postprocessor in modality.postprocessors:
        assert list(postprocessor(inputs).shape) == positions
    assert modality.postprocessors[0] == modality.postprocessors[0].copy()
