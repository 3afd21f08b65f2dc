"""Sounds as they are stored: FLAC and WAV byte for byte once they decode, anything else soundfile reads as FLAC."""

from __future__ import annotations

import io

import numpy as np

from data_prep.rejects import RejectedError
from pipeline.samples import MAX_SOUND_SECONDS, decode_sound


def stored_sound(payload: bytes) -> tuple[str, bytes]:
    """(extension, bytes) of a checked sound.

    Raises:
        RejectedError: too_long_sound, or damaged_sound when it does not decode, is empty or not finite.
    """
    import soundfile

    try:
        facts = soundfile.info(io.BytesIO(payload))
        if facts.frames > MAX_SOUND_SECONDS * facts.samplerate:
            minutes = facts.frames / facts.samplerate / 60
            raise RejectedError("too_long_sound", f"{minutes:.0f} minutes")
        samples, rate = decode_sound(payload)
        if facts.format in ("FLAC", "WAV"):
            return facts.format.lower(), payload
        return "flac", encode_flac(samples, rate)
    except RejectedError:
        raise
    except Exception as error:  # hostile bytes: decoders raise nearly any type
        raise RejectedError("damaged_sound", f"{type(error).__name__}: {_steady(error)}") from None


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
