"""VGGSound: `vggsound.csv` as it is published, and a picture and a sound cut out of every clip that could be fetched.

vggsound.csv                  YouTube id, start in seconds, label, train or test; no header
frames/<id>_<start>.jpg       start with six digits, as in frames/---g-f_I2yQ_000001.jpg
audio/<id>_<start>.flac       or .wav, .mp3, .ogg, .opus; a clip without a sound is kept, one without a picture is not

From clips of ten seconds, `clips/<id>_<start>.mp4`:

    for clip in clips/*.mp4; do name=$(basename "$clip" .mp4)
      ffmpeg -nostdin -ss 5 -i "$clip" -frames:v 1 -q:v 2 "frames/$name.jpg"
      ffmpeg -nostdin -i "$clip" -vn -ac 1 -ar 48000 "audio/$name.flac"
    done

From whole videos, `-ss $((start + 5))` before the first `-i`, and `-ss $start -t 10` before the second.

The label is the class, numbered over the whole table whatever could be fetched, and the caption. Split test becomes
val.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from data_prep.config import ShardsConfig
from data_prep.file_members import FileMembers
from data_prep.items import Item, Listing, Place, file_place, number_labels
from data_prep.sources.beside import READ_SUFFIXES, SOUNDS
from data_prep.sources.text_lines import read_rows
from pipeline.errors import DataError

TABLE, FRAMES, AUDIO = "vggsound.csv", "frames", "audio"
_SPLITS = {"train": "train", "test": "val"}


class _Clip(NamedTuple):
    name: str
    label: str
    split: str


def find_vggsound(root: Path) -> Path | None:
    """The folder, where `vggsound.csv` lies in it; None if not."""
    return root if (root / TABLE).is_file() else None


def list_vggsound(cfg: ShardsConfig, root: Path) -> Listing:
    """List every clip whose picture is there, in the order of the table: many videos are gone from YouTube.

    Raises:
        DataError: a line cannot be read, or there are no pictures.
    """
    clips = [_clip(root / TABLE, line, row) for line, row in read_rows(root / TABLE)]
    classes, labels = number_labels([clip.label for clip in clips])
    frames, sounds = _files(root / FRAMES, tuple(READ_SUFFIXES)), _files(root / AUDIO, SOUNDS)
    items = [
        Item(
            f"{FRAMES}/{frames[clip.name]}", clip.split, image=file_place(f"{root}/{FRAMES}/{frames[clip.name]}"),
            label=label, captions=(clip.label,), audio=_sound(root, sounds.get(clip.name)),
        )
        for clip, label in zip(clips, labels, strict=True) if clip.name in frames
    ]  # fmt: skip
    if not items:
        example = f"{clips[0].name}.jpg" if clips else "ID_000000.jpg"
        raise DataError(
            f"{root} has no picture of any clip in {TABLE}, such as {FRAMES}/{example}.\n"
            "Cut them out of the videos with the lines of ffmpeg in data_prep/sources/vggsound.py."
        )
    return Listing("VGGSound", classes, items, FileMembers(cfg))


def _clip(path: Path, line: int, row: list[str]) -> _Clip:
    if len(row) != 4 or not row[1].isdecimal() or not row[2].strip() or row[3].strip() not in _SPLITS:
        raise DataError(f"{path}:{line}: not id,start,label,split, as in '---g-f_I2yQ,1,people marching,test'.")
    return _Clip(f"{row[0]}_{int(row[1]):06d}", row[2].strip(), _SPLITS[row[3].strip()])


def _files(folder: Path, suffixes: tuple[str, ...]) -> dict[str, str]:
    """Stem -> name of the files with one of these suffixes."""
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    return {name.rpartition(".")[0]: name for name in names if name.rpartition(".")[2].lower() in suffixes}


def _sound(root: Path, name: str | None) -> Place | None:
    return None if name is None else file_place(f"{root}/{AUDIO}/{name}")
