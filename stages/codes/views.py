"""The views of a picture that are encoded: the centre crop, then random crops, every other one mirrored.

Shapes: v views, s side of a view.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import UInt8

from pipeline.errors import DataError
from pipeline.randomness import numpy_rng
from pipeline.samples import Sample, decode_image, image_member
from stages.images import MARGIN, cut, fit_short_side


def views(
    sample: Sample, side: int, variants: int, *, flips: bool, member: str | None = None
) -> UInt8[np.ndarray, "v 3 s s"]:
    """Cut the views of one stored picture; which ones depends on the sample's key alone.

    Args:
        sample: with a picture among its members.
        side: s, the image size of the tokenizer.
        variants: v; view 0 is the centre crop, as evaluation sees it.
        flips: mirror views 1, 3, ...
        member: which picture of the sample; its own by default.

    Raises:
        DataError: no readable picture.
    """
    name = member or image_member(sample.members)
    if name is None:
        raise DataError(f"sample '{sample.key}' has no picture (jpg, png or webp).")
    picture = fit_short_side(decode_image(sample.members[name], min_side=round(side * MARGIN)), side)
    room = np.array(picture.shape[:2]) - side
    crops = []
    for variant in range(variants):
        drawn = numpy_rng("view", sample.key, variant).integers(0, room + 1)
        top, left = (room // 2 if variant == 0 else drawn).tolist()
        crops.append(cut(picture, top, left, side, mirrored=flips and variant % 2 == 1))
    return np.stack(crops)
