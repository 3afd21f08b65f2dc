"""Members decode explicitly, upright and in RGB; hostile bytes give one kind of error and run nothing."""

from __future__ import annotations

import contextlib
import io
import itertools
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from pipeline import samples
from pipeline.errors import DataError
from pipeline.samples import (
    Sample,
    decode_image,
    decode_member,
    encode_json,
    encode_npy,
    read_header,
    record_of,
    split_member,
)

FORMATS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}


def picture(height: int = 20, width: int = 30) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return np.stack([8 * rows, 8 * columns, 100 + 0 * rows], axis=2).astype(np.uint8)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


@pytest.mark.parametrize("extension", ["png", "webp"])
def test_lossless_pictures_come_back_exactly(extension: str) -> None:
    payload = encoded(Image.fromarray(picture()), FORMATS[extension], lossless=True)

    decoded = decode_member(extension, payload)

    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, picture())


def test_jpegs_decode_to_the_same_pixels_with_and_without_simplejpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("simplejpeg")
    payloads = [
        encoded(Image.fromarray(picture(*size)), "JPEG", quality=90) for size in ((97, 131), (1000, 1203), (9, 7))
    ]
    sides = (None, 2, 8, 72, 125, 288, 500, 576, 1000, 2000)
    fast = [decode_image(payload, min_side=side) for payload in payloads for side in sides]
    monkeypatch.setattr(samples, "simplejpeg", None)

    for pixels, (payload, side) in zip(fast, itertools.product(payloads, sides), strict=True):
        np.testing.assert_array_equal(decode_image(payload, min_side=side), pixels)


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_comes_out_upright(
    orientation: int, fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not fast:
        monkeypatch.setattr(samples, "simplejpeg", None)
    exif = Image.Exif()
    exif[0x0112] = orientation
    payload = encoded(Image.fromarray(picture()), "JPEG", quality=100, subsampling=0, exif=exif.tobytes())
    from PIL import ImageOps

    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(payload))))

    np.testing.assert_array_equal(decode_image(payload), upright)


def test_transparency_lies_on_white() -> None:
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[:2, :, 3] = 255
    decoded = decode_image(encoded(Image.fromarray(pixels, "RGBA"), "PNG"))

    assert (decoded[:2] == 0).all() and (decoded[2:] == 255).all()


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    grey = np.array([[0, 256 * 7, 256 * 255]], np.uint16)
    decoded = decode_image(encoded(Image.fromarray(grey), "PNG"))

    assert decoded[0, :, 0].tolist() == [0, 7, 255]


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "CMYK", "RGBA"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    kind = "JPEG" if mode == "CMYK" else "PNG"
    decoded = decode_image(encoded(Image.fromarray(picture()).convert(mode), kind))

    assert decoded.shape == (20, 30, 3) and decoded.dtype == np.uint8


@pytest.mark.parametrize("fast", [True, False])
def test_a_large_jpeg_may_come_smaller_but_never_below_min_side(fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not fast:
        monkeypatch.setattr(samples, "simplejpeg", None)
    payload = encoded(Image.fromarray(picture(600, 801)), "JPEG")
    for side in (20, 72, 75, 288, 599, 600, 700):
        short = min(decode_image(payload, min_side=side).shape[:2])
        assert min(side, 600) <= short <= 600
    assert min(decode_image(payload, min_side=72).shape[:2]) < 300


def bomb(width: int, height: int) -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    return b"\x89PNG\r\n\x1a\n" + chunk + b"\0\0\0\0IEND\xae\x42\x60\x82"


@pytest.mark.parametrize("side", [14_000, 60_000])
def test_a_decompression_bomb_is_refused_by_its_header(side: int) -> None:
    for read in (decode_image, read_header):
        with pytest.raises(DataError, match="at most 50,000,000"):
            read(bomb(side, side))


def test_formats_off_the_list_are_refused() -> None:
    for kind in ("TIFF", "PPM", "ICO"):
        with pytest.raises(DataError, match="not a picture"):
            decode_image(encoded(Image.fromarray(picture(32, 32)), kind))


def test_every_cut_of_a_picture_is_an_error_or_the_picture() -> None:
    for kind in FORMATS.values():
        payload = encoded(Image.fromarray(picture(40, 40)), kind)
        whole = decode_image(payload)
        for length in range(0, len(payload), max(1, len(payload) // 40)):
            try:
                assert decode_image(payload[:length]).shape == whole.shape
            except DataError as error:
                assert "0x" not in str(error)  # the address of a buffer would make reports differ


class Payload:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.canary,))


@pytest.mark.parametrize("extension", ["pkl", "pickle", "pyd", "pth", "pt", "x.pkl", "py", "sh", "exe"])
def test_members_that_could_run_code_are_refused_and_never_run(extension: str, tmp_path: Path) -> None:
    payload = pickle.dumps(Payload(tmp_path / "canary"))
    with pytest.raises(DataError, match="never executed"):
        decode_member(extension, payload)
    assert not (tmp_path / "canary").exists()


def test_arrays_of_objects_are_refused_and_never_run(tmp_path: Path) -> None:
    out = io.BytesIO()
    np.save(out, np.array([Payload(tmp_path / "canary")], dtype=object), allow_pickle=True)
    with pytest.raises(DataError):
        decode_member("level0.npy", out.getvalue())
    with pytest.raises(DataError):
        decode_member("npy", out.getvalue()[:50])
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("dtype", ["uint16", "uint32", "float32", "int64"])
def test_arrays_survive_and_have_one_set_of_bytes(dtype: str) -> None:
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)

    decoded = decode_member("level0.npy", encode_npy(array))

    assert decoded.dtype == array.dtype and (decoded == array).all()
    assert encode_npy(array.transpose(2, 1, 0).copy().transpose(2, 1, 0)) == encode_npy(array)


def test_text_class_and_json_decode() -> None:
    assert decode_member("txt", "작은 새".encode()) == "작은 새"
    assert decode_member("cls", b"7\n") == 7
    value = {"b": 1, "a": {"z": None, "captions": ["작은 새"]}}
    assert decode_member("json", encode_json(value)) == value
    assert encode_json(value) == encode_json(dict(reversed(value.items())))
    for extension, payload in (("txt", b"\xff\xfe"), ("cls", b"cat"), ("json", b"{"), ("json", b"[" * 100_000)):
        with pytest.raises(DataError, match="cannot be decoded"):
            decode_member(extension, payload)


@pytest.mark.parametrize("extension", ["wav", "flac"])
def test_sounds_decode_to_channels_by_time(extension: str) -> None:
    sound = np.stack([np.sin(np.arange(400) / 9), np.cos(np.arange(400) / 9)]).astype(np.float32) / 2
    out = io.BytesIO()
    soundfile.write(out, sound.T, 16_000, format=extension.upper(), subtype="PCM_16")

    decoded, rate = decode_member(extension, out.getvalue())

    assert rate == 16_000 and decoded.shape == (2, 400) and decoded.dtype == np.float32
    np.testing.assert_allclose(decoded, sound, atol=1e-4)
    with pytest.raises(DataError):
        decode_member(extension, out.getvalue()[:30])


def test_a_sound_beyond_all_scale_is_no_sound() -> None:
    for loudest, taken in ((32768.0, True), (1e7, False)):  # some keep 16 bits in floats
        out = io.BytesIO()
        soundfile.write(out, np.array([0.0, -loudest], np.float32), 16_000, format="WAV", subtype="FLOAT")
        refused = pytest.raises(DataError, match=r"beyond 1e\+06, where 1 is full scale")
        with contextlib.nullcontext() if taken else refused:
            decode_member("wav", out.getvalue())


def test_a_sound_of_hours_in_tars_made_by_others_is_not_read() -> None:
    out = io.BytesIO()
    soundfile.write(out, np.zeros(3 * 3600 * 8, np.int16), 8, format="WAV")
    with pytest.raises(DataError, match="180 minutes long, at most 10 are read"):
        decode_member("wav", out.getvalue())


def test_names_split_at_the_first_dot_of_the_file_name() -> None:
    assert split_member("000001.source.png") == ("000001", "source.png")
    assert split_member("a.b/c/000001.JPG") == ("a.b/c/000001", "jpg")


@pytest.mark.parametrize("name", ["../a.jpg", "a/../b.jpg", "/etc/a.jpg", "a", ".jpg", "a.", "a\0.jpg", "a\n.jpg", ""])
def test_names_that_point_elsewhere_are_refused(name: str) -> None:
    with pytest.raises(DataError, match="not named"):
        split_member(name)


@pytest.mark.parametrize("record", [b"[1, 2]", b'"a bird"', b"null", b'{"captions": 3, "attributes": [1]}'])
def test_json_of_others_that_is_no_record_of_ours_says_nothing(record: bytes) -> None:
    from stages.attributes import attributes_of
    from stages.conditioning.said import captions_of, transcript_of

    sample = Sample("0", {"json": record, "cls": b"finch", "txt": b"a bird"})
    assert captions_of(sample) == ["a bird"] and transcript_of(sample) == "" and attributes_of(sample) == {}


def test_a_record_nested_too_deeply_is_an_unreadable_sample() -> None:
    sample = Sample("0", {"json": b"[" * 100_000, "txt": b"a bird"})
    with pytest.raises(ValueError, match="nested too deeply"):
        record_of(sample)


@pytest.mark.parametrize(
    "members",
    [{"text": b"a bird"}, {"caption": b"\xef\xbb\xbfa bird"}, {"json": b'{"caption": "a bird"}'}],
    ids=["text", "caption", "img2dataset's record"],
)
def test_captions_stand_where_others_write_them(members: dict[str, bytes]) -> None:
    from stages.conditioning.said import captions_of

    assert captions_of(Sample("0", members)) == ["a bird"]


def test_one_caption_in_a_record_need_not_be_a_list() -> None:
    from stages.conditioning.said import captions_of

    assert captions_of(Sample("0", {"json": b'{"captions": "a bird"}'})) == ["a bird"]
