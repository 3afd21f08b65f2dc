"""Birds: what is drawn, said and sung is true, repeatable and the same at every size."""

from __future__ import annotations

import dataclasses
import io
import re
import subprocess
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
import soundfile
from PIL import Image

from data_prep import birds
from data_prep.birds import wordings
from data_prep.birds.call import CALLS, pitch_of
from data_prep.birds.captions import told
from data_prep.birds.scene import EXTENT
from pipeline.samples import decode_member


@pytest.fixture(scope="module")
def scenes() -> list[birds.Scene]:
    return [birds.describe(0, index) for index in range(4000)]


def _shrunk(picture: np.ndarray, side: int) -> np.ndarray:
    cell = len(picture) // side
    return picture.astype(np.float64).reshape(side, cell, side, cell, 3).mean((1, 3))


def test_a_sample_is_the_same_in_any_process_and_order() -> None:
    here = [birds.sample(3, index, 72) for index in range(6)]
    np.random.seed(5)

    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        there = list(pool.map(birds.sample, [3] * 6, reversed(range(6)), [72] * 6))

    assert there[::-1] == here
    assert birds.sample(4, 0, 72).members["png"] != here[0].members["png"]


def test_members_decode_to_what_the_scene_says() -> None:
    stored = birds.sample(0, 7, 64, extension="jpg").members
    scene = birds.describe(0, 7)
    record = decode_member("json", stored["json"])
    sound, rate = soundfile.read(io.BytesIO(stored["flac"]), dtype="float32")

    assert set(stored) == {"jpg", "cls", "txt", "json", "flac"}
    assert birds.SPECIES[decode_member("cls", stored["cls"])] == scene.species
    assert record["attributes"] == birds.attributes(scene)
    assert record["captions"][0] == stored["txt"].decode()
    assert rate == 16_000
    np.testing.assert_allclose(sound, birds.call(scene), atol=1e-4)
    assert "flac" not in birds.sample(0, 7, 64, with_sound=False).members


def test_attributes_are_uniform(scenes: list[birds.Scene]) -> None:
    one = [scene for scene in scenes if len(scene.birds) == 1]
    counts = {
        "species": (Counter(scene.species for scene in scenes), 8),
        "background": (Counter(scene.background for scene in scenes), 4),
        "size": (Counter(scene.size for scene in one), 3),
        "wing": (Counter(scene.birds[0].wing for scene in scenes), 8),
        "body": (Counter(scene.birds[0].body for scene in scenes), 8),
        "heading": (Counter(scene.birds[0].heading for scene in scenes), 2),
    }

    for name, (count, values) in counts.items():
        expected = count.total() / values
        assert len(count) == values, name
        assert max(abs(n - expected) for n in count.values()) < 5 * expected**0.5, (name, count)
    assert 0.17 < 1 - len(one) / len(scenes) < 0.23


def test_colours_of_a_picture_can_be_told_apart(scenes: list[birds.Scene]) -> None:
    for scene in scenes:
        assert all(bird.wing != bird.body for bird in scene.birds)
        if len(scene.birds) == 2:
            left, right = scene.birds
            assert left.x < right.x and left.body != right.body and left.wing != right.wing


def test_unseen_are_exactly_the_scenes_with_a_held_out_pair(scenes: list[birds.Scene]) -> None:
    pairs = {(kind, (kind + shift) % 8) for kind in range(8) for shift in (0, 3)}
    for scene in scenes:
        own = {(birds.SPECIES.index(scene.species), birds.COLOURS.index(bird.wing)) for bird in scene.birds}
        assert birds.is_unseen(scene) == bool(own & pairs)
    assert 0.24 < sum(map(birds.is_unseen, scenes)) / len(scenes) < 0.36


@pytest.mark.parametrize("index", range(8))
def test_a_large_picture_shrunk_is_the_small_one(index: int) -> None:
    scene = birds.describe(0, index)
    small, large = birds.draw(scene, 64), birds.draw(scene, 256)

    assert small.shape == (64, 64, 3) and small.dtype == np.uint8
    error = ((_shrunk(large, 64) - small) ** 2).mean()
    assert 10 * np.log10(255**2 / error) > 30


def test_a_large_picture_shows_what_a_small_one_cannot() -> None:
    added = []
    for index in range(8):
        scene = birds.describe(0, index)
        bicubic = Image.fromarray(birds.draw(scene, 64)).resize((256, 256), Image.Resampling.BICUBIC)
        added.append(((birds.draw(scene, 256) - np.asarray(bicubic, float)) ** 2).mean() ** 0.5)
    assert np.mean(added) > 8


def test_eight_pixels_are_not_enough() -> None:
    """The bound that makes reconstruction mean something: the best of three ways back stays at or below 21.5 dB."""
    best = []
    for way in (Image.Resampling.NEAREST, Image.Resampling.BILINEAR, Image.Resampling.BICUBIC):
        psnr = []
        for index in range(120):
            picture = birds.draw(birds.describe(9, index), 64)
            small = Image.fromarray(np.rint(_shrunk(picture, 8)).astype(np.uint8))
            back = np.asarray(small.resize((64, 64), way), float)
            psnr.append(10 * np.log10(255**2 / ((back - picture) ** 2).mean()))
        best.append(np.mean(psnr))
    assert max(best) <= 21.5


def _bird_alone(scene: birds.Scene, size: int = 64) -> np.ndarray:
    """Where the picture with the bird differs from the one without: bool (size, size)."""
    empty = dataclasses.replace(scene, birds=())
    return np.abs(birds.draw(scene, size).astype(int) - birds.draw(empty, size)).max(2) > 12


@pytest.mark.parametrize("species", birds.SPECIES)
def test_sizes_are_three_and_birds_stay_in_the_picture(species: str) -> None:
    seen: dict[str, list[float]] = {size: [] for size in birds.SIZES}
    for index in range(6):
        scene = next(s for s in (birds.describe(index, i) for i in range(99)) if len(s.birds) == 1)
        for size in birds.SIZES:
            bird = dataclasses.replace(scene.birds[0], extent=EXTENT[size] * scene.birds[0].extent / EXTENT[scene.size])
            mask = _bird_alone(dataclasses.replace(scene, species=species, birds=(bird,)))
            assert not (mask[:, 0].any() or mask[:, -1].any() or mask[0].any())
            seen[size].append(mask.sum() ** 0.5)
    assert max(seen["small"]) < min(seen["medium"]) and max(seen["medium"]) < min(seen["large"])


def test_silhouettes_differ() -> None:
    scene = dataclasses.replace(birds.describe(0, 1), background="hill")
    bird = dataclasses.replace(scene.birds[0], extent=0.6, x=0.5, heading="right", tilt=0.0, nod=0.0)
    masks = [_bird_alone(dataclasses.replace(scene, species=kind, birds=(bird,))) for kind in birds.SPECIES]
    for a in range(8):
        for b in range(a):
            assert (masks[a] & masks[b]).sum() / (masks[a] | masks[b]).sum() < 0.8


def test_heading_mirrors_the_bird() -> None:
    scene = birds.describe(0, 1)
    masks = []
    for heading in birds.HEADINGS:
        bird = dataclasses.replace(scene.birds[0], x=0.5, heading=heading)
        masks.append(_bird_alone(dataclasses.replace(scene, birds=(bird,))))
    overlap = (masks[0] & masks[1][:, ::-1]).sum() / (masks[0] | masks[1][:, ::-1]).sum()
    assert overlap > 0.9


def test_backgrounds_differ_in_sixteen_blurred_cells() -> None:
    means = {kind: [] for kind in birds.BACKGROUNDS}
    for index in range(160):
        scene = birds.describe(2, index)
        means[scene.background].append(_shrunk(birds.draw(scene, 64), 4).ravel())
    centres = {kind: np.mean(cells[::2], 0) for kind, cells in means.items()}
    for kind, cells in means.items():
        nearest = [min(centres, key=lambda other: float(((cell - centres[other]) ** 2).sum())) for cell in cells[1::2]]
        assert nearest.count(kind) / len(nearest) > 0.95


def test_captions_are_filled_bilingual_and_keep_wordings_apart(scenes: list[birds.Scene]) -> None:
    usual, held_out = set(), set()
    for scene in scenes[:600]:
        sentences = birds.captions(scene)
        assert sentences == birds.captions(scene)
        assert sum(any("가" <= letter <= "힣" for letter in sentence) for sentence in sentences) == 5
        assert len(sentences) == 10 and not any(mark in s for s in sentences for mark in "{}[]|+/")
        usual.update(sentences)
        held_out.update(birds.captions(scene, held_out=True))
    assert not usual & held_out
    assert not any(f" a {vowel}" in f" {sentence}" for sentence in usual for vowel in "aeio")


def test_what_a_caption_names_stands_in_it(scenes: list[birds.Scene]) -> None:
    for scene in scenes[:200]:
        truth = birds.attributes(scene)
        for sentence, names in told(scene):
            assert ("class" in names) == ("species" in names) and set(names) <= {*truth, "class"}
            table = wordings.ENGLISH if sentence.isascii() else wordings.KOREAN
            for name in {"size", "species"} & set(names):
                assert any(word in sentence for word in table.get(name, {}).get(truth[name], (truth[name],)))
            for name in {"wing", "body"} & set(names) if sentence.isascii() else ():
                assert truth[name] in sentence


def test_captions_name_only_what_is_true(scenes: list[birds.Scene]) -> None:
    english = {colour: (colour,) for colour in birds.COLOURS}
    for scene in scenes[:800]:
        truth = set(birds.attributes(scene).values())
        for sentence in birds.captions(scene) + birds.captions(scene, held_out=True):
            plain = sentence
            for table in (wordings.ENGLISH, wordings.KOREAN):
                for words in table["background"][scene.background]:
                    plain = plain.replace(words, "")
            for colour in birds.COLOURS:
                korean = {word.removesuffix("빛") for word in wordings.KOREAN["colour"][colour]}
                if any(f" {word}" in f" {plain}" for word in {*english[colour], *korean}):
                    assert colour in truth, (sentence, truth)
            for kind in birds.SPECIES:
                if f" {kind}" in plain or f" {wordings.KOREAN['species'][kind][0]}" in f" {plain}":
                    assert kind == scene.species


def test_left_and_right_are_told_as_painted(scenes: list[birds.Scene]) -> None:
    seen = 0
    for scene in scenes:
        if len(scene.birds) == 2:
            left, right = (bird.body for bird in scene.birds)
            for sentence in birds.captions(scene):
                words = sentence.split()
                if "wings" in sentence or ". " in sentence or sentence.startswith("to the"):
                    continue
                if " left of a" in sentence:
                    assert words.index(left) < words.index(right)
                    seen += 1
                if " right of a" in sentence:
                    assert words.index(right) < words.index(left)
                    seen += 1
    assert seen > 60


def test_every_construction_of_two_birds_comes_in_both_orders() -> None:
    other = {"left": "right", "right": "left", "왼쪽": "오른쪽", "오른쪽": "왼쪽"}
    every = (wordings.TWO_ENGLISH, wordings.TWO_KOREAN, wordings.TWO_ENGLISH_HELD_OUT, wordings.TWO_KOREAN_HELD_OUT)
    for templates in every:
        mirrored = [re.sub("|".join(other), lambda found: other[found[0]], template) for template in templates]
        assert sorted(mirrored) == sorted(templates)


def test_korean_species_end_in_the_vowel_their_particles_expect() -> None:
    for species in birds.SPECIES:
        (word,) = wordings.KOREAN["species"][species]
        assert (ord(word[-1]) - ord("가")) % 28 == 0


def _pitch(sound: np.ndarray, low: float = 500.0) -> float:
    power = np.abs(np.fft.rfft(sound)) ** 2
    hertz = np.fft.rfftfreq(len(sound), 1 / 16_000)
    power[hertz < low] = 0
    return float(np.exp((np.log(hertz + 1e-9) * power).sum() / power.sum()))


def test_larger_birds_call_lower() -> None:
    scene = next(s for s in (birds.describe(0, i) for i in range(50)) if len(s.birds) == 1)
    for species in birds.SPECIES:
        heard = []
        for extent in (0.36, 0.52, 0.71):
            bird = dataclasses.replace(scene.birds[0], extent=extent)
            heard.append(_pitch(birds.call(dataclasses.replace(scene, species=species, birds=(bird,), noise=0.0))))
        assert heard[0] > 1.15 * heard[1] > 1.15**2 * heard[2], (species, heard)
    assert pitch_of(dataclasses.replace(scene, pitch=1.0), bird) == pytest.approx(
        2 * pitch_of(dataclasses.replace(scene, pitch=0.0), bird)
    )


def test_calls_are_told_apart_by_their_rhythm_and_sweep() -> None:
    """A nearest-centroid listener on envelopes and sweeps, at pitches and noises drawn by the scenes."""

    def heard(scene: birds.Scene) -> np.ndarray:
        frames = np.abs(np.fft.rfft(birds.call(scene)[:24_000].reshape(150, 160) * np.hanning(160)))[:, 3:]
        energy = np.log1p(20 * frames.sum(1))
        centre = (frames * np.arange(frames.shape[1])).sum(1) / (frames.sum(1) + 1e-6)
        return np.concatenate([np.abs(np.fft.rfft(energy)) / 10, [centre.std(), frames.std()]])

    scenes = [s for s in (birds.describe(1, i) for i in range(420)) if len(s.birds) == 1]
    features = np.stack([heard(scene) for scene in scenes])
    features = (features - features.mean(0)) / features.std(0)
    kinds = np.array([scene.species for scene in scenes])
    half = len(scenes) // 2
    distance = ((features[half:, None] - features[None, :half]) ** 2).sum(-1)
    assert (kinds[:half][distance.argmin(1)] == kinds[half:]).mean() > 0.7
    assert set(CALLS) == set(birds.SPECIES)


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050])
def test_a_call_lasts_a_second_and_a_half_at_any_rate(rate: int) -> None:
    for index in range(4):
        sound = birds.call(birds.describe(0, index), rate)
        assert sound.dtype == np.float32 and sound.shape == (round(1.5 * rate),)
        assert np.isfinite(sound).all() and 0.1 < np.abs(sound).max() <= 1


def test_the_share_of_pairs_is_as_asked_and_changes_no_scene_of_one_bird() -> None:
    often = [birds.describe(0, index, 0.4) for index in range(1000)]
    usual = [birds.describe(0, index) for index in range(1000)]
    assert sum(len(scene.birds) == 2 for scene in often) == pytest.approx(400, abs=45)
    assert all(scene == usual[scene.index] for scene in often if len(scene.birds) == 1)


def test_places_sound_different() -> None:
    scene = birds.describe(0, 0)
    centres = []
    for background in birds.BACKGROUNDS:
        silent = dataclasses.replace(scene, background=background, birds=())
        centres.append(_pitch(birds.call(silent), low=20.0))
    assert min(b / a for a, b in zip(sorted(centres), sorted(centres)[1:], strict=False)) > 1.3


def test_birds_need_no_torch() -> None:
    code = "import sys, data_prep.birds; sys.exit('torch' in sys.modules or 'scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
