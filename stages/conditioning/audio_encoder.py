"""Sounds to conditions by an audio model of `transformers` (CLAP, AST, wav2vec 2.0, HuBERT) or a plain log-mel.

Every encoder passes on at most `FEW_TOKENS` tokens: its own, averaged over neighbours in time.

Shapes: b sounds, t tokens, d width, f frequency bands, s samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from pipeline.errors import ConfigError
from stages.conditioning.condition import Condition
from stages.conditioning.pretrained import (
    FEW_TOKENS,
    fingerprint_of,
    load,
    load_weights,
    masked_mean,
    model_type,
    to_width,
)
from stages.conditioning.sounds import Sound, heard, padded

LOG_MEL = "log-mel"
SPEECH = ("wav2vec2", "hubert", "wavlm")
DECIDING = (
    "sampling_rate", "feature_size", "num_mel_bins", "max_length", "mean", "std", "do_normalize", "hop_length",
    "fft_window_size", "frequency_min", "frequency_max", "top_db", "return_attention_mask", "padding_value",
)  # fmt: skip
"""What of a feature extractor decides its output."""
SPEECH_SECONDS = 10.0
"""Window of an encoder that sets none itself."""


class AudioEncoder(nn.Module):
    """A frozen audio model and what prepares sounds for it.

    Attributes:
        name: folder or hub id, or `log-mel`.
        width: d of its conditions.
        rate, seconds: the window it hears.
        projection: width of the space of a CLIP that its pooled vectors lie in; 0: in none.
        speeds: those `align` played sounds at.
    """

    def __init__(self, name: str, family: str, model: nn.Module, prepare: Any) -> None:
        super().__init__()
        self.name, self.family, self.model, self.prepare = name, family, model, prepare
        config: Any = getattr(model, "config", None)
        self.speeds = tuple(getattr(config, "sound_speeds", ()))
        if family == LOG_MEL:
            self.rate, self.seconds, self.width = LogMel.rate, LogMel.seconds, 2 * LogMel.bands
            self.projection = 0
            return
        self.rate = int(prepare.sampling_rate)
        self.width = int(config.hidden_size)
        self.seconds = SPEECH_SECONDS
        self.projection = int(getattr(config, "projection_dim", 0) or 0) if family == "ast" else 0
        if family == "clap":
            self.width = max(self.width, int(config.projection_dim))
            self.seconds = float(prepare.max_length_s)
        elif family == "ast":
            self.width = max(self.width, self.projection)
            self.seconds = prepare.max_length * 0.01 + 0.015  # frames of 25 ms every 10 ms

    @classmethod
    def load(cls, where: str | Path, device: str | torch.device = "cpu") -> AudioEncoder:
        """From a folder, a hub id or the name `log-mel`; ConfigError where there is none, or one of another kind."""
        if str(where) == LOG_MEL:
            return cls(LOG_MEL, LOG_MEL, LogMel(), None).to(device)
        import transformers as library

        transformers: Any = library
        kind, _ = model_type(where, "audio")
        prepare = load(transformers.AutoFeatureExtractor, where, "audio")
        if kind in ("clap", "clap_audio_model"):
            family, architecture = "clap", transformers.ClapAudioModelWithProjection
        elif kind == "audio-spectrogram-transformer":
            config = load(transformers.AutoConfig, where, "audio")
            aligned = getattr(config, "projection_dim", 0)  # the head of any other AST names classes
            family = "ast"
            architecture = transformers.ASTForAudioClassification if aligned else transformers.ASTModel
        elif kind in SPEECH:
            family, architecture = "speech", transformers.AutoModel
        else:
            raise ConfigError(
                f"'{where}' holds a model of type '{kind}', which hears no sounds here. Known: CLAP, AST, wav2vec 2.0, "
                f"HuBERT, or the name '{LOG_MEL}'."
            )
        return cls(str(where), family, load_weights(architecture, where, "audio"), prepare).to(device)

    def fingerprint(self) -> str:
        """Of everything that decides the output."""
        if self.family == LOG_MEL:  # its filters are computed: another machine's last bits may differ
            return fingerprint_of(nn.Module(), LOG_MEL, LogMel.rate, LogMel.seconds, LogMel.bands)
        prepared = {name: getattr(self.prepare, name, None) for name in DECIDING}
        return fingerprint_of(self.model, self.family, self.seconds, prepared)

    @torch.no_grad()
    def forward(self, sounds: Sequence[Sound]) -> Condition:
        """Conditions of b sounds; each depends on that sound alone."""
        return self.encode(self.features(sounds))

    @torch.no_grad()
    def listen(self, sounds: Sequence[Sound]) -> Condition:
        """As `forward`, but the pooled vector is the mean over all the speeds its training played sounds at.

        What a user asks for is heard once and matters more than one row of training: of spoken captions in voices
        never heard, 0.83 are then understood instead of 0.76 (docs/log.md, 2026-11-26).
        """
        found: Condition = self(sounds)
        if len(self.speeds) < 2 or not self.projection:
            return found
        played = [[(samples, round(rate * speed)) for samples, rate in sounds] for speed in self.speeds]
        vectors = torch.stack([F.normalize(self(some).pooled[:, : self.projection], dim=-1) for some in played])
        return Condition(found.tokens, to_width(F.normalize(vectors.mean(dim=0), dim=-1), self.width), found.mask)

    def features(self, sounds: Sequence[Sound]) -> dict[str, Tensor]:
        """What `encode` takes, every entry with b rows, on the CPU; of one size whatever the sounds' lengths.

        Raises:
            ValueError: a sound is empty or not finite.
        """
        windows = [heard(sound, self.rate, self.seconds) for sound in sounds]
        count = round(self.seconds * self.rate)
        if self.family == "clap":
            config: Any = self.model.config
            found = self.prepare(
                windows,
                sampling_rate=self.rate,
                truncation="fusion" if config.enable_fusion else "rand_trunc",
                padding="repeatpad",
                return_tensors="pt",
            )
            return {"values": found["input_features"].float()}
        if self.family == "ast":
            return {"values": self.prepare(windows, sampling_rate=self.rate, return_tensors="pt")["input_values"]}
        there = torch.tensor([len(samples) for samples in windows])
        if self.family == "speech" and getattr(self.prepare, "do_normalize", False):
            windows = [(w - w.mean()) / np.sqrt(w.var() + 1e-7) for w in windows]
        stacked = np.stack([padded(w, count) for w in windows]).astype(np.float32)
        return {"values": torch.from_numpy(stacked), "samples": there}

    def encode(self, features: dict[str, Tensor]) -> Condition:
        """Conditions from `features`."""
        device = next((p.device for p in self.model.parameters()), None) or self.model.get_buffer("anchor").device
        values = features["values"].to(device)
        if self.family == "clap":
            return self._clap(values)
        if self.family == "ast":
            return self._ast(values)
        samples = features["samples"].to(device)
        if self.family == LOG_MEL:
            result: Condition = self.model(values, samples)
            return result
        return self._speech(values, samples)

    def _clap(self, values: Tensor) -> Condition:
        longer = torch.zeros(len(values), 1, dtype=torch.bool, device=values.device)  # the window is never cut again
        output = self.model(input_features=values, is_longer=longer)
        tokens = _few(rearrange(output.last_hidden_state, "b d f t -> b f t d"))
        return self._condition(tokens, output.audio_embeds)

    def _ast(self, values: Tensor) -> Condition:
        model: Any = self.model
        output = (model.audio_spectrogram_transformer if self.projection else model)(input_values=values)
        config = model.config
        bands = (config.num_mel_bins - config.patch_size) // config.frequency_stride + 1
        tokens = rearrange(output.last_hidden_state[:, 2:], "b (f t) d -> b f t d", f=bands)  # after two class tokens
        pooled = model.classifier(output.pooler_output) if self.projection else output.pooler_output
        return self._condition(_few(tokens), pooled)

    def _speech(self, values: Tensor, samples: Tensor) -> Condition:
        model: Any = self.model
        masks = {}
        if getattr(self.prepare, "return_attention_mask", False):
            masks["attention_mask"] = (torch.arange(values.shape[1], device=values.device) < samples[:, None]).long()
        hidden = model(values, **masks).last_hidden_state
        frames = model._get_feat_extract_output_lengths(samples).clamp(min=1)
        mask = torch.arange(hidden.shape[1], device=hidden.device) < frames[:, None]
        tokens, few = _few_masked(hidden, mask)
        return Condition(tokens, masked_mean(hidden, mask), few)

    def _condition(self, tokens: Tensor, pooled: Tensor) -> Condition:
        mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        return Condition(to_width(tokens, self.width), to_width(pooled, self.width), mask)


class LogMel(nn.Module):
    """Log-mel bands by torchaudio, without any weights: 32 stretches of time, and their mean and deviation."""

    rate, seconds, bands = 16_000, 5.0, 64

    def __init__(self) -> None:
        super().__init__()
        from torchaudio.transforms import MelSpectrogram

        self.mel = MelSpectrogram(self.rate, n_fft=1024, hop_length=320, n_mels=self.bands)
        self.register_buffer("anchor", torch.zeros(0), persistent=False)

    def forward(self, values: Tensor, samples: Tensor) -> Condition:
        """`values` (b, s), of which the first `samples` (b,) are there."""
        frames = rearrange((self.mel(values) + 1e-6).log(), "b f t -> b t f")
        there = (samples // 320 + 1).clamp(max=frames.shape[1])
        mask = torch.arange(frames.shape[1], device=frames.device) < there[:, None]
        tokens, few = _few_masked(frames / 4, mask)
        mean = masked_mean(frames / 4, mask)
        deviation = masked_mean((frames / 4 - mean[:, None]) ** 2, mask).sqrt()
        return Condition(to_width(tokens, 2 * self.bands), torch.cat([mean, deviation], dim=1), few)


def _few(grid: Tensor) -> Tensor:
    """(b, f, t, d) to at most `FEW_TOKENS` tokens, frequencies kept apart as far as they can be."""
    bands, steps = grid.shape[1:3]
    rows = min(bands, FEW_TOKENS)
    columns = min(steps, max(1, FEW_TOKENS // rows))
    pooled = F.adaptive_avg_pool2d(rearrange(grid, "b f t d -> b d f t"), (rows, columns))
    return rearrange(pooled, "b d f t -> b (f t) d")


def _few_masked(tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """(b, t, d) and who is there, averaged over equal stretches of time; a stretch counts where any of it is there."""
    weight = rearrange(mask, "b t -> b 1 t").float()
    count = min(FEW_TOKENS, tokens.shape[1])
    total = F.adaptive_avg_pool1d(rearrange(tokens, "b t d -> b d t") * weight, count)
    share = F.adaptive_avg_pool1d(weight, count)
    return rearrange(total / share.clamp(min=1e-6), "b d t -> b t d"), rearrange(share, "b 1 t -> b t") > 0
