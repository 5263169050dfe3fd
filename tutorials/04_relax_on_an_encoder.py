"""RELAX: explain an embedding, where there is no class to ask about, and see where the explanation is unsure.

Run with: python tutorials/04_relax_on_an_encoder.py
"""

from __future__ import annotations

from torch import Tensor, nn

from pnpxai.explainers import RELAX
from pnpxai.photographs import cropped, efficientnet_lite0, photographs, standardized


class Encoder(nn.Module):
    """A classifier's pooled features ``(n, 1280)``: an image embedding."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network.extract_features(x).mean((2, 3))


def main(n_masks: int = 300) -> dict[str, float]:
    encoder = Encoder(efficientnet_lite0())
    photograph = photographs(["A rocket on its pad"])[0]
    inputs = standardized([cropped(photograph.open())])

    # How similar is the embedding of the masked picture to that of the whole? Pixels that are present when the two
    # are similar are important (Wickstrøm et al., 2023); where masks disagree, the importance is uncertain.
    explanation = RELAX(encoder, n_masks=n_masks).explain(inputs)
    importance, uncertainty, filtered = explanation.importance, explanation.uncertainty, explanation.filtered
    print(f"importance  {importance.min():.3f} to {importance.max():.3f}")
    print(f"uncertainty {uncertainty.min():.5f} to {uncertainty.max():.5f}")
    print(f"U-RELAX keeps {(filtered != 0).float().mean():.0%} of the pixels")

    # A sanity check by hand: keep only the half that is called important, then only the other half.
    middle = importance.median()
    whole = encoder(inputs)
    similarities = {
        "important half": nn.functional.cosine_similarity(whole, encoder(inputs * (importance >= middle))).item(),
        "other half": nn.functional.cosine_similarity(whole, encoder(inputs * (importance < middle))).item(),
    }
    for name, similarity in similarities.items():
        print(f"{name:<15} similarity to the whole {similarity:.3f}")
    return similarities


if __name__ == "__main__":
    main()
