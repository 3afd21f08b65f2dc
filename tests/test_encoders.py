"""Encoders of text and sound, loaded from folders as a user's own would be, offline."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.errors import ConfigError
from stages.conditioning.audio_encoder import LOG_MEL, AudioEncoder
from stages.conditioning.pretrained import FEW_TOKENS
from stages.conditioning.sounds import window
from stages.conditioning.text_encoder import TextEncoder
from tests import tiny_encoders

RATE = 16_000


def tone(hertz: float, seconds: float, rate: int = RATE, channels: int = 1) -> tuple[np.ndarray, int]:
    time = np.arange(round(seconds * rate)) / rate
    return np.tile(np.sin(2 * np.pi * hertz * time).astype(np.float32) * 0.5, (channels, 1)), rate


@pytest.fixture(scope="module", params=list(tiny_encoders.TEXT))
def text(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TextEncoder:
    folder = tmp_path_factory.mktemp(request.param)
    return TextEncoder.load(tiny_encoders.TEXT[request.param](folder))


@pytest.fixture(scope="module", params=[*tiny_encoders.AUDIO, LOG_MEL])
def audio(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AudioEncoder:
    if request.param == LOG_MEL:
        return AudioEncoder.load(LOG_MEL)
    return AudioEncoder.load(tiny_encoders.AUDIO[request.param](tmp_path_factory.mktemp(request.param)))


def test_a_text_does_not_depend_on_its_neighbours(text: TextEncoder) -> None:
    both = text(["a red bird", "작은 새가 검은 날개를 가졌다 and a long english tail"])
    alone = text(["a red bird"])
    count = int(alone.mask.sum())

    assert both.tokens.shape[-1] == both.pooled.shape[-1] == text.width
    assert both.mask[0].sum() == count
    torch.testing.assert_close(both.tokens[0, :count], alone.tokens[0, :count], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(both.pooled[0], alone.pooled[0], atol=1e-5, rtol=1e-4)
    assert (both.pooled[0] - both.pooled[1]).abs().max() > 1e-4


def test_a_long_text_is_cut_and_what_is_lost_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    encoder = TextEncoder.load(tiny_encoders.clip(tmp_path, longest=12))
    long = "a red bird on a green hill " * 6 + "and a heron"

    with caplog.at_level(logging.WARNING):
        condition = encoder([long])

    assert condition.mask.sum() == 12
    assert "heron" in encoder.cut_off(long)
    assert encoder.cut_off("a red bird") == ""
    assert "longer than the 12 tokens" in caplog.text


def test_a_script_no_caption_used_is_read_byte_by_byte(text: TextEncoder) -> None:
    one, other = text(["เธอ"]), text(["дом"])
    assert one.mask.sum() > 2
    assert (one.pooled - other.pooled).abs().max() > 1e-4


def test_any_sound_becomes_a_few_tokens(audio: AudioEncoder) -> None:
    sounds = [tone(440, 0.3), tone(880, 30.0, rate=44_100, channels=2), tone(440, 1.0, rate=8000)]
    silence = (np.zeros((1, RATE), np.float32), RATE)
    found = audio([*sounds, silence])

    assert found.tokens.shape[0] == 4
    assert found.tokens.shape[1] <= FEW_TOKENS
    assert found.tokens.shape[2] == found.pooled.shape[1] == audio.width
    assert torch.isfinite(found.tokens).all()
    assert torch.isfinite(found.pooled).all()
    assert found.present().all()
    alone = audio([sounds[0]])
    torch.testing.assert_close(found.pooled[0], alone.pooled[0], atol=1e-4, rtol=1e-3)


def test_a_sound_says_what_its_model_of_transformers_says_of_it_alone(audio: AudioEncoder) -> None:
    short, long = tone(440, 0.3), tone(440, 30.0)
    found, model = audio([short, long]), audio.model
    rows = found.mask.sum(dim=1).tolist()
    samples = short[0][0]
    if audio.family in (
        "clap",
        "ast",
    ):  # a window of one length, filled up
        assert rows[0] == rows[1] == found.tokens.shape[1]
        cut = "fusion" if getattr(model.config, "enable_fusion", False) else "rand_trunc"
        more = {"truncation": cut, "padding": "repeatpad"} if audio.family == "clap" else {}
        given = dict(audio.prepare(samples, sampling_rate=RATE, return_tensors="pt", **more))
        if audio.family == "clap":
            given["is_longer"] = torch.zeros(1, 1, dtype=torch.bool)
        with torch.no_grad():
            said = model(**given)
        pooled = said.audio_embeds if audio.family == "clap" else said.pooler_output
        torch.testing.assert_close(found.pooled[:1, : pooled.shape[1]], pooled, atol=1e-4, rtol=1e-3)
        return
    assert 0 < rows[0] < rows[1], "what is not there is masked"
    if audio.family == "speech":
        count = round(audio.seconds * RATE)
        alone = audio.prepare(samples, sampling_rate=RATE, return_tensors="pt").input_values
        values = torch.nn.functional.pad(alone, (0, count - len(samples)))
        there = (torch.arange(count) < len(samples))[None].long()
        prepared = {"input_values": values} | ({"attention_mask": there} if audio.prepare.return_attention_mask else {})
        frames = len(samples)
        for kernel, stride in zip(model.config.conv_kernel, model.config.conv_stride, strict=True):
            frames = (frames - kernel) // stride + 1
        with torch.no_grad():
            hidden = model(**prepared).last_hidden_state
        torch.testing.assert_close(found.pooled[0], hidden[0, :frames].mean(dim=0), atol=1e-4, rtol=1e-3)


def test_a_text_says_what_its_model_of_transformers_says_of_it_alone(text: TextEncoder) -> None:
    words = "a red bird"
    found = text([words, "a far longer sentence about a small blue heron in the snow"])
    given = text.tokenizer([words], return_tensors="pt")
    there = int(found.mask[0].sum())
    assert there == given["input_ids"].shape[1] < found.tokens.shape[1]
    with torch.no_grad():
        said = text.model(input_ids=given["input_ids"], output_hidden_states=True)
    if text.family == "clip":
        tokens, pooled = said.hidden_states[-2][0], said.text_embeds[0]
    else:
        tokens, pooled = said.last_hidden_state[0], said.last_hidden_state[0].mean(dim=0)
    torch.testing.assert_close(found.tokens[0, :there, : tokens.shape[1]], tokens, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(found.pooled[0, : len(pooled)], pooled, atol=1e-4, rtol=1e-3)


def test_sounds_differ(audio: AudioEncoder) -> None:
    found = audio([tone(300, 1.0), tone(3000, 1.0)])
    assert (found.tokens[0] - found.tokens[1]).abs().max() > 1e-3


@pytest.mark.parametrize("bad", [np.full((1, 100), np.nan, np.float32), np.zeros((1, 0), np.float32)])
def test_a_sound_that_is_none_is_refused(bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match="empty or holds numbers that are not finite"):
        AudioEncoder.load(LOG_MEL)([(bad, RATE)])


def test_of_a_long_sound_the_loudest_stretch_is_heard() -> None:
    samples = np.zeros((1, 10 * RATE), np.float32)
    samples[:, 6 * RATE : 7 * RATE] = 0.5
    heard = window((samples, RATE), RATE, 1.0)
    assert len(heard) == RATE
    assert heard.mean() > 0.45


@pytest.mark.parametrize("kind", [*tiny_encoders.TEXT, *tiny_encoders.AUDIO])
def test_the_fingerprint_is_the_model_and_not_its_place(kind: str, tmp_path: Path) -> None:
    make = {**tiny_encoders.TEXT, **tiny_encoders.AUDIO}[kind]
    load = TextEncoder.load if kind in tiny_encoders.TEXT else AudioEncoder.load
    first, second = load(make(tmp_path / "a")), load(make(tmp_path / "b"))
    assert first.fingerprint() == second.fingerprint()
    with torch.no_grad():
        next(second.model.parameters()).add_(1e-3)
    assert first.fingerprint() != second.fingerprint()


@pytest.mark.parametrize("load", [TextEncoder.load, AudioEncoder.load])
def test_a_hub_id_without_network_says_what_to_give(load: object, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="give a local folder"):
        load("openai/no-such-model")  # type: ignore[operator]
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="encoder at"):
        load(tmp_path)  # type: ignore[operator]


def test_a_text_model_is_no_audio_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"encoder at|hears no sounds"):
        AudioEncoder.load(tiny_encoders.clip(tmp_path))
