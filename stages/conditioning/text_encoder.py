"""Sentences to conditions by a text model of `transformers`: CLIP, T5, or any sentence encoder.

CLIP gives the tokens of its penultimate layer and the projected vector of its last (as Stable Diffusion and its kin
take them); T5 and others their last layer and its mean over the tokens.

Shapes: b sentences, t tokens, d width.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.errors import ConfigError
from stages.conditioning.condition import Condition
from stages.conditioning.pretrained import fingerprint_of, load, load_weights, masked_mean, model_type, to_width

log = logging.getLogger(__name__)
CLIP = ("clip", "clip_text_model")
T5 = ("t5", "mt5", "umt5")
OFFSET = ("roberta", "xlm-roberta", "camembert")
"""Models whose first two positions are taken."""
UNLIMITED = 1_000_000
MOST_TOKENS = 128
"""Longest sequence of an encoder that sets no limit of its own."""


def longest_of(config: Any, tokenizer: Any) -> int:
    """Most tokens a text model and its tokenizer take; `MOST_TOKENS` where neither sets a limit."""
    places = getattr(config, "max_position_embeddings", None)
    if places and config.model_type in OFFSET:
        places -= 2
    limits = [places, getattr(tokenizer, "model_max_length", None)]
    usable = [int(limit) for limit in limits if limit and limit < UNLIMITED]
    return min(usable, default=MOST_TOKENS)


class TextEncoder(nn.Module):
    """A frozen text model and its tokenizer.

    Attributes:
        name: folder or hub id it was loaded from.
        width: d of its conditions.
        projection: width of the space of a CLIP that its pooled vectors lie in; 0: in none.
        longest: most tokens of a sentence, special ones included; what is longer is cut, with a warning.
    """

    def __init__(self, name: str, model: nn.Module, tokenizer: Any, family: str) -> None:
        super().__init__()
        self.name, self.model, self.tokenizer, self.family = name, model, tokenizer, family
        config: Any = model.config
        self.token_width = int(getattr(config, "hidden_size", None) or config.d_model)
        self.projection = int(getattr(config, "projection_dim", 0) or 0) if family == "clip" else 0
        self.width = max(self.token_width, self.projection)
        self.longest = longest_of(config, tokenizer)
        self.warned = False

    @classmethod
    def load(cls, where: str | Path, device: str | torch.device = "cpu") -> TextEncoder:
        """From a folder or hub id; ConfigError where there is none, or one of another kind."""
        import transformers as library

        transformers: Any = library
        kind, architectures = model_type(where, "text")
        if kind in CLIP:
            if "CLIPTextModel" in architectures:
                raise ConfigError(
                    f"'{where}' holds a CLIPTextModel without its projection. Save a CLIPModel or a "
                    "CLIPTextModelWithProjection there."
                )
            family, architecture = "clip", transformers.CLIPTextModelWithProjection
        elif kind in T5:
            encoders = {
                "t5": transformers.T5EncoderModel,
                "mt5": transformers.MT5EncoderModel,
                "umt5": transformers.UMT5EncoderModel,
            }
            family, architecture = "t5", encoders[kind]
        else:
            config = load(transformers.AutoConfig, where, "text")
            if getattr(config, "is_encoder_decoder", False) or not hasattr(config, "hidden_size"):
                raise ConfigError(
                    f"'{where}' holds a '{kind}', which reads no sentences here. Take a CLIP, T5 or BERT."
                )
            family, architecture = "sentence", transformers.AutoModel
        tokenizer = load(transformers.AutoTokenizer, where, "text")
        return cls(str(where), load_weights(architecture, where, "text"), tokenizer, family).to(device)

    def fingerprint(self) -> str:
        """Of everything that decides the output."""
        return fingerprint_of(self.model, self.family, self.longest, self.tokenizer.get_vocab())

    @torch.no_grad()
    def forward(self, texts: Sequence[str]) -> Condition:
        """Conditions of b sentences, tokens padded to the longest of them."""
        tokens = self.tokenize(texts)
        ids, mask = tokens["input_ids"], tokens["attention_mask"].bool()
        if self.family == "clip":
            output = self.model(input_ids=ids, attention_mask=mask, output_hidden_states=True)
            hidden, pooled = output.hidden_states[-2], output.text_embeds
        else:
            hidden = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
            pooled = masked_mean(hidden, mask)
        return Condition(to_width(hidden, self.width), to_width(pooled, self.width), mask)

    def tokenize(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """`input_ids` and `attention_mask`, (b, t), on the model's device; warns once of a sentence that is cut."""
        if not self.warned and (lost := next((cut for text in texts if (cut := self.cut_off(text))), "")):
            self.warned = True
            log.warning("a text is longer than the %d tokens of %s; cut off: '%s'", self.longest, self.name, lost[:80])
        found = self.tokenizer(list(texts), padding=True, truncation=True, max_length=self.longest, return_tensors="pt")
        device = next(self.model.parameters()).device
        return {name: found[name].to(device) for name in ("input_ids", "attention_mask")}

    def cut_off(self, text: str) -> str:
        """The end of a text that does not fit; empty where all of it does."""
        if len(text.encode()) <= self.longest - 2:  # a token is at least a byte
            return ""
        ids = self.tokenizer(text, truncation=False, verbose=False)["input_ids"]
        if len(ids) <= self.longest:
            return ""
        return str(self.tokenizer.decode(ids[self.longest - 1 :], skip_special_tokens=True)).strip() or "..."
