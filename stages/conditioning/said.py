"""What a stored sample says beside its picture: its captions and its sound."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, field

from pipeline.errors import DataError
from pipeline.samples import CAPTION_MEMBERS, SOUND_MEMBERS, Sample, captions_in, decode_sound, record_of
from stages.conditioning.sounds import Sound


def captions_of(sample: Sample) -> list[str]:
    """Every caption of a sample; empty where it has none.

    First the one in `.txt` (of tars made by others `.text` or `.caption`), then those of its JSON under `captions` or
    `caption`.

    Raises:
        UnicodeDecodeError: a caption is not UTF-8; the reader counts the sample as unreadable.
    """
    member = next((name for name in CAPTION_MEMBERS if name in sample.members), None)
    first = [] if member is None else [sample.members[member].decode("utf-8-sig")]
    texts = [*first, *captions_in(record_of(sample))]
    return list(dict.fromkeys(text.strip() for text in texts if text.strip()))


def sound_of(sample: Sample) -> Sound | None:
    """The sound of a sample, decoded; None where it has none."""
    name = next((e for e in SOUND_MEMBERS if e in sample.members), None)
    return None if name is None else decode_sound(sample.members[name])


def transcript_of(sample: Sample) -> str:
    """What is spoken in a sample's sound, where its JSON says so under `spoken`; else empty.

    Raises:
        UnicodeEncodeError: it holds half a surrogate pair, which is JSON, but no text.
    """
    said = record_of(sample).get("spoken", "")
    if not isinstance(said, str):
        return ""
    said.encode()
    return said.strip()


@dataclass(frozen=True)
class Said:
    """The captions and the sound of one sample, where somebody listens to them."""

    captions: list[str] = field(default_factory=list)
    sound: Sound | None = None


def say(sample: Sample, modalities: Container[str]) -> Said:
    """What a sample says, of `text` and `audio` what is wanted.

    Raises:
        DataError: a caption is not UTF-8, or the sound does not decode or is not finite.
    """
    try:
        captions = captions_of(sample) if "text" in modalities else []
        for caption in captions:
            caption.encode()  # half a surrogate pair is JSON, but no text
        return Said(captions, sound_of(sample) if "audio" in modalities else None)
    except DataError:
        raise
    except Exception as error:  # hostile bytes: decoders raise nearly any type
        raise DataError(f"caption or sound unreadable ({type(error).__name__}: {str(error)[:100]})") from error
