"""Captions said aloud: the same bytes every time, voices that are kept out, a clear word where nobody can speak."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from data_prep.birds import captions, describe, sample
from data_prep.birds import spoken as speech
from data_prep.birds.call import RATE
from data_prep.config import ShardsConfig
from data_prep.sources import list_source
from pipeline.errors import ConfigError
from pipeline.samples import decode_sound
from stages.conditioning.said import transcript_of

speaking = pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="needs espeak-ng")


def test_no_voice_is_both_heard_and_held_out() -> None:
    throats = [{voice.partition("+")[2] for voice in voices} for voices in (speech.VOICES, speech.HELD_OUT_VOICES)]
    assert not throats[0] & throats[1]


@speaking
def test_a_sentence_is_said_alike_every_time_and_differently_by_another_voice() -> None:
    said = [
        speech.speak("a red bird", speech.Voicing(voice, 50, 220)) for voice in ("en-us+m1", "en-us+m1", "en-us+f2")
    ]
    assert np.array_equal(said[0], said[1])
    assert said[0].shape != said[2].shape or np.abs(said[0] - said[2]).max() > 0.05
    assert 0.3 * RATE < len(said[0]) < 2 * RATE
    assert np.abs(said[0]).max() == pytest.approx(speech.PEAK, abs=1e-3)


@speaking
def test_every_voice_speaks() -> None:
    throats = [*speech.THROATS, *(voice.partition("+")[2] for voice in speech.HELD_OUT_VOICES)]
    said = [speech.speak("an owl", speech.Voicing(f"en-us+{throat}", 40, 230)) for throat in throats]
    assert all(len(sound) > 0.2 * RATE for sound in said)
    plain = speech.speak("an owl", speech.Voicing("en-us", 40, 230))  # what espeak-ng says for a voice it has not
    assert len({sound.tobytes() for sound in (*said, plain)}) == len(throats) + 1


@speaking
def test_a_share_of_the_samples_speaks_one_of_its_captions() -> None:
    made = [sample(0, index, 16, share_spoken=0.5) for index in range(16)]
    told = [transcript_of(one) for one in made]
    assert 2 <= sum(map(bool, told)) <= 14
    for index, (one, transcript) in enumerate(zip(made, told, strict=True)):
        assert not transcript or any(said.startswith(transcript) for said in captions(describe(0, index)))
        sound, rate = decode_sound(one.members["flac"])
        assert rate == RATE and np.isfinite(sound).all()
        assert ("voice" in json.loads(one.members["json"])) == bool(transcript)
    assert all(not transcript_of(sample(0, index, 16)) for index in range(4))


@speaking
def test_one_bird_is_spoken_of_in_a_few_words_and_two_are_not() -> None:
    for index in range(12):
        transcript = transcript_of(sample(0, index, 16, share_spoken=1.0, pairs=0.5))
        assert bool(transcript) == (len(describe(0, index, 0.5).birds) == 1)
        assert len(transcript.split()) <= speech.MOST_WORDS


def test_without_a_speaker_the_line_to_type_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speech.shutil, "which", lambda name: None)
    with pytest.raises(ConfigError, match="apt-get install -y espeak-ng"):
        list_source(ShardsConfig(source="birds", count=4, spoken=0.3))
    list_source(ShardsConfig(source="birds", count=4, spoken=0.3, with_sounds=False))
