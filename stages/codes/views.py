"""What is encoded of a sample: views of its picture and of its source pictures, the captions and the sound.

Views are the centre crop, then random crops, every other one mirrored. Source pictures (grey, sketch) are made of the
whole picture and cut at the same places. Reading them is the work of worker processes where it is much.

Shapes: v views, s side of a view, h w height and width of a picture.
"""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from pipeline.errors import DataError
from pipeline.randomness import numpy_rng
from pipeline.samples import Sample, decode_image, image_member, is_one_shape
from stages.codes.config import PAIR
from stages.conditioning.said import Said, say
from stages.conditioning.sources import source_picture
from stages.images import MARGIN, cut, fit_short_side

AT_ONCE = 16
Views = UInt8[np.ndarray, "v 3 s s"]
ReadAll = Callable[[Iterable[Sample]], Iterator["Read"]]


@dataclass(frozen=True)
class Read:
    """One sample as it was read; `error` says why it cannot be used."""

    sample: Sample
    views: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint8))
    sources: dict[str, np.ndarray] = field(default_factory=dict)
    """Views of each kind of source picture."""
    said: Said = field(default_factory=Said)
    error: str = ""


@dataclass(frozen=True)
class SampleReader:
    """Reads samples for one extraction.

    Attributes:
        side: s, the image size of the tokenizer.
        variants: v; view 0 is the centre crop, as evaluation sees it.
        flips: mirror views 1, 3, ...
        kinds: source pictures to make: grey, sketch. That of a pair (`.source.png`) is always read.
        modalities: whether an encoder wants captions (`text`) and sounds (`audio`).
    """

    side: int
    variants: int
    flips: bool
    kinds: tuple[str, ...] = ()
    modalities: tuple[str, ...] = ()

    def __call__(self, sample: Sample) -> Read:
        """Never raises for what is wrong with a sample."""
        try:
            picture = self.picture(sample, image_member(sample.members))
            sources = {kind: self.cut(sample, source_picture(picture, kind)) for kind in self.kinds}
            if PAIR in sample.members:
                sources["source"] = self.cut(sample, self.source_of(sample, picture))
            return Read(sample, self.cut(sample, picture), sources, say(sample, self.modalities))
        except DataError as error:
            return Read(sample, error=str(error))

    def picture(self, sample: Sample, member: str | None) -> UInt8[np.ndarray, "h w 3"]:
        """A picture of the sample, its short side from s to 1.125 s; DataError where it has none that is readable."""
        if member is None:
            raise DataError(f"sample '{sample.key}' has no picture (jpg, png or webp).")
        return fit_short_side(decode_image(sample.members[member], min_side=round(self.side * MARGIN)), self.side)

    def source_of(self, sample: Sample, picture: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "_h _w 3"]:
        """The source of a pair, at the size of its picture where both have one shape: they are cut alike."""
        own = self.picture(sample, PAIR)
        height, width = picture.shape[:2]
        if own.shape == picture.shape or not is_one_shape(own.shape, picture.shape):
            return own
        return np.asarray(Image.fromarray(own).resize((width, height), Image.Resampling.LANCZOS))

    def cut(self, sample: Sample, picture: UInt8[np.ndarray, "h w 3"]) -> Views:
        """The views of a picture; where they lie depends on the sample's key alone."""
        room = np.array(picture.shape[:2]) - self.side
        crops = []
        for variant in range(self.variants):
            drawn = numpy_rng("view", sample.key, variant).integers(0, room + 1)
            top, left = (room // 2 if variant == 0 else drawn).tolist()
            crops.append(cut(picture, top, left, self.side, mirrored=self.flips and variant % 2 == 1))
        return np.stack(crops)

    @contextmanager
    def reading(self, workers: int) -> Iterator[ReadAll]:
        """Reads in `workers` processes, in order; in this one where they are fewer than two."""
        if workers < 2:
            yield lambda samples: map(self, samples)
            return
        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
            yield lambda samples: self._ahead(pool, samples, 2 * workers)

    def _ahead(self, pool: Executor, samples: Iterable[Sample], chunks: int) -> Iterator[Read]:
        """At most so many chunks are read before they are asked for: pictures take memory."""
        samples = iter(samples)
        pending: deque[Future[list[Read]]] = deque()
        while True:
            while len(pending) < chunks and (chunk := list(islice(samples, AT_ONCE))):
                pending.append(pool.submit(self._read, chunk))
            if not pending:
                return
            yield from pending.popleft().result()

    def _read(self, chunk: list[Sample]) -> list[Read]:
        return [self(sample) for sample in chunk]
