"""Data sets in their own layouts, a few drawn pictures each, for tests of data_prep."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import soundfile

from tests.source_folders import encoded, photo, save

ALBATROSS, BUNTING = "001.Black_footed_Albatross", "014.Indigo_Bunting"
SYNSETS = {
    "n01440764": "tench, Tinca tinca",
    "n02012849": "crane",
    "n03126707": "crane",
}


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def sound(path: Path, seconds: float = 0.1, kind: str = "FLAC") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.sin(np.arange(int(16_000 * seconds)) / 9) / 2, 16_000, format=kind)
    return path


def cub200(root: Path, captions: str = "text") -> Path:
    """Two species of two pictures each, one of them for testing; the last picture has no captions."""
    base = root / "CUB_200_2011"
    paths = [f"{ALBATROSS}/Albatross_0.jpg", f"{ALBATROSS}/Albatross_1.jpg", f"{BUNTING}/B_0.jpg", f"{BUNTING}/B_1.jpg"]
    for number, path in enumerate(paths):
        save(photo(number), base / "images" / path)
    for path in paths[:3]:
        lines = [f"{Path(path).stem} {i}" for i in range(10)]
        write((root / captions / path).with_suffix(".txt"), "\n".join(lines) + "\n")
    write(base / "images.txt", "".join(f"{i} {path}\n" for i, path in enumerate(paths, 1)))
    write(base / "classes.txt", f"1 {ALBATROSS}\n2 {BUNTING}\n")
    write(base / "image_class_labels.txt", "1 1\n2 1\n3 2\n4 2\n")
    write(base / "train_test_split.txt", "1 1\n2 0\n3 1\n4 0\n")
    return root


def imagenet(root: Path, *, packed: bool) -> Path:
    """Three classes, two pictures each in train and one in val; as Kaggle packs it, or with class folders in val."""
    base = root / "ILSVRC" / "Data" / "CLS-LOC" if packed else root
    solution = ["ImageId,PredictionString"]
    for number, wnid in enumerate(SYNSETS):
        for i in range(2):
            save(photo(10 * number + i), base / "train" / wnid / f"{wnid}_{i}.JPEG")
        name = f"ILSVRC2012_val_{9 - number:08d}"
        save(photo(10 * number + 5), base / "val" / ("" if packed else wnid) / f"{name}.JPEG")
        solution.append(f"{name},{wnid} 1 2 3 4 {wnid} 5 6 7 8 ")
    write(root / "LOC_synset_mapping.txt", "".join(f"{wnid} {names}\n" for wnid, names in SYNSETS.items()))
    if packed:
        save(photo(99), base / "test" / "ILSVRC2012_test_00000001.JPEG")
        write(root / "LOC_val_solution.csv", "\n".join(solution) + "\n")
    return root


def cc12m(root: Path, tars: int = 2) -> Path:
    """Tars as img2dataset leaves them, with what it puts beside them."""
    root.mkdir(parents=True, exist_ok=True)
    for number in range(tars):
        with tarfile.open(root / f"{number:05d}.tar", "w") as tar:
            for i in range(3):
                key = f"{number:05d}{i:04d}"
                record = {"caption": f"caption {key}", "url": "https://example.org", "key": key, "status": "success",
                          "error_message": None, "width": 48, "height": 40}  # fmt: skip
                members = {"jpg": encoded(photo(i), "JPEG"), "txt": f"caption {key}".encode(),
                           "json": json.dumps(record).encode()}  # fmt: skip
                for extension, payload in members.items():
                    info = tarfile.TarInfo(f"{key}.{extension}")
                    info.size = len(payload)
                    tar.addfile(info, io.BytesIO(payload))
        write(root / f"{number:05d}_stats.json", json.dumps({"count": 4, "successes": 3}))
        (root / f"{number:05d}.parquet").write_bytes(b"PAR1, never opened")
    return root


def vggsound(root: Path) -> Path:
    """Four clips of three labels: one without a sound, one whose video is gone."""
    lines = [
        "---g-f_I2yQ,1,people marching,test", '--0PQM4-hqg,30,"playing violin, fiddle",train',
        "_ab,123,people marching,train", "gone0000000,7,zebra braying,train",
    ]  # fmt: skip
    write(root / "vggsound.csv", "\n".join(lines) + "\n")
    for number, name in enumerate(("---g-f_I2yQ_000001", "--0PQM4-hqg_000030", "_ab_000123")):
        save(photo(number), root / "frames" / f"{name}.jpg")
    sound(root / "audio" / "---g-f_I2yQ_000001.flac")
    sound(root / "audio" / "--0PQM4-hqg_000030.wav", kind="WAV")
    return root
