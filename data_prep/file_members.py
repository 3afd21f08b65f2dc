"""From an item of a folder or a foreign tar to the members of a sample. Runs in the worker processes."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from data_prep.config import ShardsConfig
from data_prep.images import stored_image, stored_pair
from data_prep.items import Item, Members
from data_prep.rejects import RejectedError
from data_prep.sounds import read_sound, stored_sound
from pipeline.samples import captions_in, encode_json

MAX_CAPTION_BYTES = 64 << 10
OURS = ("named", "spoken", "spoken_named")
"""What our own shards say of captions and sounds, kept where it is when they are sharded anew."""


@dataclass(frozen=True)
class FileMembers:
    """Read, check and convert everything an item points at."""

    cfg: ShardsConfig

    def __call__(self, item: Item) -> Members:
        """Members in the order image, cls, txt, sound, source picture, json.

        Raises:
            RejectedError: the item cannot be used, and why.
        """
        if item.refused is not None:
            raise RejectedError(*item.refused)
        if item.image is None:
            raise RejectedError("no_image", "no jpg, png or webp member")
        image = stored_image(item.image.read(), self.cfg)
        record = _record(item)
        captions = item.captions or _captions(item, record)
        encoded = [_encoded(caption) for caption in captions]
        members = {image.extension: image.payload}
        if item.label is not None:
            members["cls"] = str(item.label).encode()
        if encoded:
            members["txt"] = encoded[0]
        if item.audio is not None and self.cfg.with_sounds:
            extension, sound = stored_sound(read_sound(item.audio))
            members[extension] = sound
        if item.pair is not None:
            members["source.png"] = stored_pair(item.pair.read(), self.cfg, image)
        members["json"] = _json(item, captions, record)
        return members


def _encoded(caption: str) -> bytes:
    try:
        payload = caption.encode()
    except UnicodeEncodeError as error:
        raise RejectedError("bad_caption", str(error)) from None
    if len(payload) > MAX_CAPTION_BYTES:
        raise RejectedError("bad_caption", f"{len(payload)} bytes")
    return payload


def _captions(item: Item, record: dict[str, Any]) -> tuple[str, ...]:
    """Captions of a file or a tar's member, then what the sample's JSON adds."""
    first: list[str] = []
    if item.text is not None and item.text.size > 0:
        try:
            text = item.text.read().decode("utf-8-sig")
            first = [line.strip() for line in (text.split("\n") if item.one_per_line else [text])]
        except UnicodeDecodeError as error:
            raise RejectedError("bad_caption", str(error)) from None
    texts = [*first, *(text.strip() for text in captions_in(record))]
    return tuple(dict.fromkeys(text for text in texts if text))


def _record(item: Item) -> dict[str, Any]:
    if item.record is None:
        return {}
    try:
        value = json.loads(item.record.read())
    except (ValueError, RecursionError) as error:
        raise RejectedError("bad_record", f"{type(error).__name__}: {error}") from None
    return value if isinstance(value, dict) else {"value": value}


def _json(item: Item, captions: tuple[str, ...], record: dict[str, Any]) -> bytes:
    value: dict[str, Any] = {"source": item.source, **item.facts}
    if captions:
        value["captions"] = list(captions)
    attributes = record.pop("attributes", None)
    if isinstance(attributes, dict):
        value["attributes"] = attributes
    value |= {key: record.pop(key) for key in OURS if key in record}
    record = {key: inner for key, inner in record.items() if key not in ("caption", "captions", "source")}
    if record:
        value["metadata"] = record.get("metadata", record) if set(record) == {"metadata"} else record
    try:
        return encode_json(finite(value))
    except (UnicodeEncodeError, RecursionError) as error:
        raise RejectedError("bad_record", f"{type(error).__name__}: {error}") from None


def finite(value: Any) -> Any:
    """What JSON can hold: NaN and infinities become null, other types text."""
    if isinstance(value, dict):
        return {str(key): finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int | bool) else str(value)
