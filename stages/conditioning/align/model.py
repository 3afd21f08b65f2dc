"""The towers of `align`: CLIP's text and vision transformers and an audio spectrogram transformer, in one space.

All three are classes of `transformers`, saved by `save_pretrained`. The audio tower is AST with its head for
classification, whose outputs are the axes of the space: its config's `projection_dim` says so.

Shapes: b batch, n texts, s side of a picture, t tokens, f frames and m mel bands of a sound, e width of the shared
space, k exchanged captions, v values of all attributes.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from stages.conditioning.align.config import AlignConfig, TowerConfig
from stages.conditioning.align.loss import SWAPPED
from stages.images import picture_to_tensor, shown_to

HEAD = 32
MOST_SCALE = 100.0  # CLIP, section 2.5
FRAMES_APART = 4
"""Of 10 ms each, from the start of one patch of sound to that of the next."""


class Towers(nn.Module):
    """What the contrastive loss compares.

    Args:
        clip: a `CLIPModel`.
        audio: an `ASTForAudioClassification` with e outputs, or None.
        side: of the pictures CLIP sees.
        frozen: keep CLIP as it is.
        mean, deviation: three numbers each, of pictures in [0, 1], as CLIP's image processor has them.
        temperature: of the softmax at the start, where CLIP is frozen.
        values: how many values the attributes have, all together, that vectors are asked for.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        clip: Any,
        audio: Any | None,
        side: int,
        *,
        frozen: bool,
        mean: tuple[float, ...] = (0.5, 0.5, 0.5),
        deviation: tuple[float, ...] = (0.5, 0.5, 0.5),
        temperature: float = 0.07,
        values: int = 0,
    ) -> None:
        super().__init__()
        self.clip, self.audio, self.side, self.frozen = clip, audio, side, frozen
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("deviation", torch.tensor(deviation)[:, None, None], persistent=False)
        self.given_scale = clip.logit_scale.detach().clone()
        del clip.logit_scale  # a number without dimensions, which ZeRO cannot send; `whole_clip` puts it back
        # a frozen CLIP keeps its own, that of a model long trained
        start = math.log(1 / temperature) if frozen else float(self.given_scale)
        self.log_scale = nn.Parameter(torch.full((1,), start))
        self.tell = nn.Linear(clip.config.projection_dim, values) if values else None
        if frozen:
            clip.requires_grad_(False)

    def forward(
        self, images: Tensor, ids: Tensor, mask: Tensor, sounds: Tensor | None, swapped: Tensor | None = None
    ) -> tuple[dict[str, Float[Tensor, "b e"]], dict[str, Float[Tensor, "_ v"]]]:
        """Unit vectors of uint8 pictures (b 3 s s), of tokens (n t) and, with an audio tower, of sounds (b f m).

        The first b texts are the pictures'; behind them more of them may stand, and with `swapped` (k, numbers of rows)
        the last k are those rows' captions made wrong. Also what each says of the attributes.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            texts = self.read(ids, mask)
            found = {"image": self.see(images), "text": texts[: len(images)]}
        if swapped is not None:
            wrong = texts[len(texts) - len(swapped) :]
            found[SWAPPED] = torch.zeros_like(found["text"]).index_copy(0, swapped, wrong)
        if self.audio is not None and sounds is not None:
            found["audio"] = self.hear(sounds)
        if self.tell is None:
            return found, {}
        spread = math.sqrt(texts.shape[1])  # of a unit vector, to numbers around one
        vectors = {name: texts if name == "text" else found[name] for name in found if name != SWAPPED}
        with torch.autocast(texts.device.type, enabled=False):  # bf16 cannot tell near logits apart
            return found, {name: self.tell(spread * some) for name, some in vectors.items()}

    def see(self, images: Tensor) -> Float[Tensor, "b e"]:
        """Unit vectors of uint8 pictures."""
        pictures = shown_to(picture_to_tensor(images), self.side, self.mean, self.deviation)
        return F.normalize(self.clip.get_image_features(pixel_values=pictures).pooler_output.float(), dim=-1)

    def read(self, ids: Tensor, mask: Tensor) -> Float[Tensor, "b e"]:
        """Unit vectors of texts."""
        found = self.clip.get_text_features(input_ids=ids, attention_mask=mask).pooler_output
        return F.normalize(found.float(), dim=-1)

    def hear(self, sounds: Tensor) -> Float[Tensor, "b e"]:
        """Unit vectors of sounds."""
        assert self.audio is not None
        return F.normalize(self.audio(input_values=sounds).logits.float(), dim=-1)

    def scale(self) -> Tensor:
        """What similarities are multiplied with: the inverse of the learned temperature."""
        free = self.log_scale[0].exp()
        return free + (free.clamp(max=MOST_SCALE) - free).detach()  # at the limit it may still come back

    def whole_clip(self) -> Any:
        """The CLIP with its temperature, as it is saved."""
        clip = copy.deepcopy(self.clip)
        scale = self.given_scale if self.frozen else self.log_scale.detach()[0]
        clip.logit_scale = nn.Parameter(scale.clone())
        return clip


def build_clip(cfg: AlignConfig, tokenizer: Any) -> Any:
    """A small `CLIPModel` for this tokenizer; weights from torch's global generator."""
    from transformers import CLIPConfig, CLIPModel

    text = _sizes(cfg.text) | {
        "vocab_size": len(tokenizer), "max_position_embeddings": cfg.text_tokens, "projection_dim": cfg.embedding,
        "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    vision = _sizes(cfg.image) | {
        "image_size": cfg.image_side, "patch_size": cfg.patch, "projection_dim": cfg.embedding,
    }  # fmt: skip
    start = math.log(1 / cfg.temperature)
    return CLIPModel(
        CLIPConfig(
            text_config=text, vision_config=vision, projection_dim=cfg.embedding, logit_scale_init_value=start,
        )
    )  # fmt: skip


def build_audio(cfg: TowerConfig, embedding: int, prepare: Any) -> Any:
    """A small `ASTForAudioClassification` with one output per axis of the shared space."""
    import transformers

    library: Any = transformers
    return library.ASTForAudioClassification(
        library.ASTConfig(
            **_sizes(cfg), num_labels=embedding, patch_size=prepare.num_mel_bins, frequency_stride=prepare.num_mel_bins,
            time_stride=FRAMES_APART, max_length=prepare.max_length, num_mel_bins=prepare.num_mel_bins,
            projection_dim=embedding,  # says that its outputs are a place in the shared space, not classes
        )
    )  # fmt: skip


def _sizes(cfg: TowerConfig) -> dict[str, int]:
    return {
        "hidden_size": cfg.width,
        "intermediate_size": 4 * cfg.width,
        "num_hidden_layers": cfg.layers,
        "num_attention_heads": cfg.width // HEAD,
    }
