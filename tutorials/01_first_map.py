"""A first map: where does a pretrained network see the coffee?

Run with: python tutorials/01_first_map.py
"""

from __future__ import annotations

from pnpxai.explainers import GradCam
from pnpxai.metrics import AbPC
from pnpxai.photographs import cropped, efficientnet_lite0, imagenet_names, photographs, standardized
from pnpxai.postprocess import PostProcessor


def main() -> dict[str, float]:
    # A network, and a photograph as the network takes it: (n, c, h, w).
    model = efficientnet_lite0()
    photograph = photographs(["A cup of coffee"])[0]
    inputs = standardized([cropped(photograph.open())])
    target = int(model(inputs).argmax(1))
    print(f"The network sees: {imagenet_names()[target]}")

    # An explainer holds the model and its own settings. Nothing is computed until it is asked.
    explainer = GradCam(model)
    maps = explainer.attribute(inputs, target)
    print(f"A map: {tuple(maps.shape)}, from {maps.min():.3f} to {maps.max():.3f}")

    # Settings are changed by making a new explainer; the model is shared, and never altered.
    early = explainer.set_kwargs(layer="_blocks.5")

    # Which of the two is more faithful? Remove pixels in the order of the map, most relevant first and last, and
    # measure the area between the two curves of the probability: 0 for a map that knows nothing, more is better.
    metric = AbPC(model)
    pool = PostProcessor("sum")
    scores = {
        "last layer": metric.evaluate(inputs, target, pool(maps)).item(),
        "block 5": metric.evaluate(inputs, target, pool(early.attribute(inputs, target))).item(),
    }
    for name, score in scores.items():
        print(f"{name:<12} AbPC {score:+.3f}")
    return scores


if __name__ == "__main__":
    main()
