"""Sounds as they are stored: FLAC and WAV byte for byte once they decode, anything else soundfile reads as FLAC."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np

from data_prep.items import Place
from data_prep.rejects import RejectedError
from pipeline.samples import MAX_MEMBER_BYTES, MAX_SOUND_SECONDS, decode_sound

MAX_SOUND_BYTES = 256 << 20
"""Of a file: ten minutes of two channels at 96 kHz and 16 bit. What is stored is a member like any other."""


def read_sound(place: Place) -> bytes:
    """The bytes of a sound file; of one that is too long nothing is read but its length.

    Raises:
        RejectedError: as `Place.read`, and too_long_sound.
    """
    import soundfile

    if place.offset is None and place.size > MAX_MEMBER_BYTES:
        with contextlib.suppress(OSError, RuntimeError):  # no sound: what is wrong is found when it is read
            _check_length(soundfile.info(place.path))
    return place.read(MAX_SOUND_BYTES)


def stored_sound(payload: bytes) -> tuple[str, bytes]:
    """(extension, bytes) of a checked sound.

    Raises:
        RejectedError: too_long_sound; too_large_file, where even FLAC does not make it small enough for a shard; or
            damaged_sound when it does not decode, is empty or not finite.
    """
    import soundfile

    try:
        facts = soundfile.info(io.BytesIO(payload))
        _check_length(facts)
        samples, rate = decode_sound(payload)
        if facts.format in ("FLAC", "WAV") and len(payload) <= MAX_MEMBER_BYTES:
            return facts.format.lower(), payload
        coded = encode_flac(samples, rate)
        if len(coded) > MAX_MEMBER_BYTES:
            raise RejectedError("too_large_file", f"{len(coded) >> 20} MiB as FLAC")
        return "flac", coded
    except RejectedError:
        raise
    except Exception as error:  # hostile bytes: decoders raise nearly any type
        raise RejectedError("damaged_sound", f"{type(error).__name__}: {_steady(error)}") from None


def _check_length(facts: Any) -> None:
    if facts.frames > MAX_SOUND_SECONDS * facts.samplerate:
        raise RejectedError("too_long_sound", f"{facts.frames / facts.samplerate / 60:.0f} minutes")


def resampled(samples: np.ndarray, given: int, rate: int) -> np.ndarray:
    """(t,) at another rate, up to its loudness: the spectrum, cut or filled with zeros."""
    count = round(len(samples) * rate / given)
    spectrum = np.fft.rfft(samples)
    kept = np.zeros(count // 2 + 1, complex)
    shared = min(len(kept), len(spectrum))
    kept[:shared] = spectrum[:shared]
    return np.asarray(np.fft.irfft(kept, count))


def encode_flac(samples: np.ndarray, rate: int) -> bytes:
    """16-bit FLAC of float (channels, t) in [-1, 1]."""
    import soundfile

    out = io.BytesIO()
    soundfile.write(out, samples.T, rate, format="FLAC", subtype="PCM_16")
    return out.getvalue()


def _steady(error: Exception) -> str:
    """The message without the address of the buffer, which differs from run to run."""
    return str(error).rpartition(">: ")[2]
