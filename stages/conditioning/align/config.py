"""Settings of the stage `align`. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.hub import at_home
from pipeline.tracking import TrackingConfig
from pipeline.training_config import BackendConfig, DataConfig, LoopConfig, OptimizerConfig, identity


@dataclass(frozen=True, kw_only=True)
class TowerConfig:
    """Size of one transformer."""

    width: int = 128
    """Hidden width; a multiple of 32, the width of a head."""
    layers: int = 3
    """Layers."""

    def __post_init__(self) -> None:
        if self.width < 32 or self.width % 32 or self.layers < 1:
            raise ValueError(f"width is a multiple of 32 and layers positive; got {self.width} and {self.layers}.")


@dataclass(frozen=True, kw_only=True)
class AlignConfig:
    """Encoders of text, pictures and sounds that put what belongs together side by side (CLIP; Radford et al. 2021)."""

    pretrained: str = ""
    """A CLIP of `transformers` (folder or hub id) to keep as it is; only sounds are then aligned, to its
    pictures and captions."""
    embedding: int = 128
    """Width of the shared space; that of `pretrained` where one is given."""
    text: TowerConfig = field(default_factory=TowerConfig)
    """The text transformer."""
    image: TowerConfig = field(default_factory=TowerConfig)
    """The vision transformer."""
    audio: TowerConfig = field(default_factory=TowerConfig)
    """The audio spectrogram transformer."""
    vocabulary: int = 2048
    """Most entries of the byte-level BPE vocabulary that is trained on the captions; at least 600."""
    text_tokens: int = 64
    """Longest caption in tokens."""
    image_side: int = 64
    """Side of the pictures it sees; larger crops are scaled down."""
    patch: int = 8
    """Side of a patch of the vision transformer."""
    audio_seconds: float = 2.0
    """Window of a sound; of longer ones the loudest stretch."""
    audio_bands: int = field(default=32, metadata={"before": 0})
    """Mel bands of a sound. A patch of the audio transformer spans them all and as many frames of 10 ms, and one starts
    every 40 ms: from whole frames speech is learned sooner than from a grid of pieces (SSAST's frame-based patches;
    Gong et al. 2022, arXiv 2110.09784)."""
    sound_speeds: tuple[float, ...] = field(default=(0.9, 1.0, 1.1), metadata={"before": [1.0]})
    """Training plays each sound at one of these speeds, pitch and all (speed perturbation; Ko et al. 2015)."""
    sound_tempos: tuple[float, ...] = (1.0,)
    """Training plays each sound at one of these tempos beside, its pitch kept: where the two mean different things.
    Slower ones go only as far as the window has room."""
    transcripts: float = 0.5
    """How often the text of a sample that speaks is what it says; else one of its captions."""
    opposites: tuple[tuple[str, str], ...] = ()
    """Pairs of whole words, such as [left, right]: a caption with them exchanged is one more negative of its picture
    (NegCLIP; Yuksekgonul et al. 2023, arXiv 2210.01936, section 4), so that who is where is read, not only what."""
    attributes: float = field(default=1.0, metadata={"before": 0.0})
    """Weight of telling the attributes of a sample's JSON, and its class, from the vectors of its picture and of the
    captions and spoken sentences that name them (UniCL joins labels and captions likewise; Yang et al. 2022, arXiv
    2204.03610). 0: contrast alone, as beside `pretrained`."""
    more_captions: int = 0
    """Further captions of a sample whose text holds opposites, read for the attributes they name alone: who is where
    takes many sentences to learn."""
    temperature: float = 0.07
    """Of the softmax at the start; it is learned."""
    val_samples: int = identity(1000)
    """Samples of val among which an evaluation searches, at most."""
    data: DataConfig = field(default_factory=lambda: DataConfig(global_batch=192))
    loop: LoopConfig = field(default_factory=LoopConfig)
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(lr=4e-3, ema_decay=0.99))
    backend: BackendConfig = field(default_factory=BackendConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig, metadata={"identity": False})
    seed: int = 0

    def __post_init__(self) -> None:
        at_home(self, "pretrained")
        self.backend.check(self.optimizer)
        if self.vocabulary < 600:
            raise ValueError(f"vocabulary must be at least 600 (bytes, their word ends, marks); got {self.vocabulary}.")
        if self.patch < 1 or self.image_side % self.patch:
            raise ValueError(f"image_side must be a multiple of patch={self.patch}; got {self.image_side}.")
        if not 8 <= self.audio_bands <= 128:
            raise ValueError(f"audio_bands lies between 8 and 128; got {self.audio_bands}.")
        if self.audio_bands > 100 * self.audio_seconds:
            raise ValueError(
                f"a patch of sound is audio_bands={self.audio_bands} frames of 10 ms, longer than audio_seconds="
                f"{self.audio_seconds}. Set audio_bands={max(8, int(100 * self.audio_seconds))} or less."
            )
        if not 0 <= self.transcripts <= 1:
            raise ValueError(f"transcripts lies in [0, 1]; got {self.transcripts}.")
        for name in ("sound_speeds", "sound_tempos"):
            if not (given := getattr(self, name)) or not all(0.5 <= factor <= 2 for factor in given):
                raise ValueError(f"{name} lie between 0.5 and 2; got {list(given)}.")
        words = [word for pair in self.opposites for word in pair]
        if not all(words) or len({word.lower() for word in words}) < len(words):
            raise ValueError(f"opposites are pairs of different words, each in one pair; got {list(self.opposites)}.")
        if self.opposites and self.pretrained:
            raise ValueError("opposites teach a text tower, and one that is pretrained stays as it is. Leave one out.")
        if self.more_captions and not (self.opposites and self.attributes):
            raise ValueError(
                f"more_captions={self.more_captions} needs opposites, and attributes to be told from them."
            )
        if self.attributes < 0 or self.more_captions < 0:
            raise ValueError(
                f"attributes and more_captions are at least 0; got {self.attributes} and {self.more_captions}."
            )
        counts = self.embedding >= 1 and self.val_samples >= 1
        if self.audio_seconds < 0.2 or self.text_tokens < 4 or not counts or not 0 < self.temperature < 10:
            raise ValueError(
                "audio_seconds is at least 0.2, text_tokens at least 4, embedding and val_samples at least 1 and "
                f"temperature between 0 and 10; got {self.audio_seconds}, {self.text_tokens}, {self.embedding}, "
                f"{self.val_samples}, {self.temperature}."
            )
