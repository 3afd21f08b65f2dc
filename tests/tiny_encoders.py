"""Tiny, randomly initialised models of `transformers`, saved as folders: what a user's own encoder looks like."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import (
    ASTConfig,
    ASTFeatureExtractor,
    ASTModel,
    BertConfig,
    BertModel,
    ClapAudioConfig,
    ClapAudioModelWithProjection,
    ClapConfig,
    ClapFeatureExtractor,
    ClapModel,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    HubertConfig,
    HubertModel,
    MT5Config,
    MT5EncoderModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
)

from stages.conditioning.align.tokenizer import train_tokenizer

WORDS = ["a small bird with black wings", "a red bird on a green hill", "작은 새가 검은 날개를 가졌다"]


def save(folder: Path, *parts: Any) -> Path:
    for part in parts:
        part.save_pretrained(str(folder))
    return folder


def clip(folder: Path, longest: int = 24) -> Path:
    torch.manual_seed(0)
    tokenizer = train_tokenizer(WORDS, 700, longest)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = sizes | {
        "vocab_size": len(tokenizer), "max_position_embeddings": longest, "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": tokenizer.bos_token_id, "pad_token_id": tokenizer.pad_token_id, "projection_dim": 48,
    }  # fmt: skip
    vision = sizes | {"image_size": 32, "patch_size": 8, "projection_dim": 48}
    return save(folder, CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=48)), tokenizer)


def image_processor(folder: Path) -> None:
    """Of the tiny CLIP's vision tower."""
    square = {"height": 32, "width": 32}
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=square).save_pretrained(str(folder))


def t5(folder: Path, config: type[Any] = T5Config, model: type[Any] = T5EncoderModel) -> Path:
    torch.manual_seed(0)
    tokenizer = _tokenizer()
    small = config(vocab_size=len(tokenizer), d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
    return save(folder, model(small), tokenizer)


def sentence(folder: Path) -> Path:
    """A BERT, as most sentence encoders are."""
    torch.manual_seed(0)
    tokenizer = _tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=64, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return save(folder, BertModel(config), tokenizer)


def _tokenizer() -> PreTrainedTokenizerFast:
    inner = train_tokenizer(WORDS, 700, 64).backend_tokenizer
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<|endoftext|>", pad_token="<|pad|>", unk_token="<|endoftext|>",
        model_max_length=64,
    )  # fmt: skip


def clap(folder: Path, *, fused: bool = False, whole: bool = False) -> Path:
    """Of `whole` ones the text tower is there too, as in what laion publishes."""
    torch.manual_seed(0)
    config = ClapAudioConfig(
        spec_size=64, window_size=4, num_mel_bins=16, hidden_size=64, patch_embeds_hidden_size=16, depths=[1, 1, 1],
        num_attention_heads=[2, 2, 2], num_hidden_layers=3, projection_dim=48, enable_fusion=fused,
    )  # fmt: skip
    prepare = ClapFeatureExtractor(
        feature_size=16, sampling_rate=16_000, hop_length=160, max_length_s=2, fft_window_size=512,
        frequency_max=8000, truncation="fusion" if fused else "rand_trunc",
    )  # fmt: skip
    if not whole:
        return save(folder, ClapAudioModelWithProjection(config), prepare)
    text = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 99,
        "projection_dim": 48,
    }  # fmt: skip
    both = ClapConfig(text_config=text, audio_config=config.to_dict(), projection_dim=48)
    return save(folder, ClapModel(both), prepare)


def ast(folder: Path) -> Path:
    torch.manual_seed(0)
    config = ASTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, max_length=64, num_mel_bins=32
    )
    return save(folder, ASTModel(config), ASTFeatureExtractor(num_mel_bins=32, max_length=64))


def wav2vec2(folder: Path) -> Path:
    torch.manual_seed(0)
    return save(folder, Wav2Vec2Model(Wav2Vec2Config(**_speech())), Wav2Vec2FeatureExtractor())


def hubert(folder: Path) -> Path:
    torch.manual_seed(0)
    return save(folder, HubertModel(HubertConfig(**_speech())), Wav2Vec2FeatureExtractor(return_attention_mask=True))


def _speech() -> dict[str, Any]:
    return {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
        "conv_dim": (16, 16, 16), "conv_stride": (10, 8, 4), "conv_kernel": (10, 8, 4), "num_feat_extract_layers": 3,
        "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4, "vocab_size": 8,
    }  # fmt: skip


TEXT = {"clip": clip, "t5": t5, "mt5": partial(t5, config=MT5Config, model=MT5EncoderModel), "sentence": sentence}
AUDIO = {
    "clap": clap,
    "clap_fused": partial(clap, fused=True),
    "clap_whole": partial(clap, whole=True),
    "ast": ast,
    "wav2vec2": wav2vec2,
    "hubert": hubert,
}
