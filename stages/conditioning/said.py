"""What a stored sample says beside its picture: its captions and its sound."""

from __future__ import annotations

import json

from pipeline.samples import SOUND_MEMBERS, Sample, decode_sound
from stages.conditioning.sounds import Sound


def captions_of(sample: Sample) -> list[str]:
    """Every caption of a sample, the one in `.txt` first; empty where it has none.

    Raises:
        UnicodeDecodeError: a caption is not UTF-8; the reader counts the sample as unreadable.
    """
    first = [sample.members["txt"].decode("utf-8")] if "txt" in sample.members else []
    more = json.loads(sample.members["json"]).get("captions", []) if "json" in sample.members else []
    texts = [*first, *(text for text in more if isinstance(text, str))]
    return list(dict.fromkeys(text.strip() for text in texts if text.strip()))


def sound_of(sample: Sample) -> Sound | None:
    """The sound of a sample, decoded; None where it has none."""
    name = next((e for e in SOUND_MEMBERS if e in sample.members), None)
    return None if name is None else decode_sound(sample.members[name])
