"""The stage `align`: exact gradients however a batch is cut, no false negatives, models that load as OpenAI's would."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from data_prep.images import encode_image
from data_prep.sounds import encode_flac
from pipeline.batch import Draw
from pipeline.errors import DataError
from pipeline.samples import Sample
from stages.attributes import in_words, named_by_caption, says
from stages.conditioning.align.config import AlignConfig, TowerConfig
from stages.conditioning.align.loss import SWAPPED, Bank, contrastive_loss, recalls, told_loss, told_rightly
from stages.conditioning.align.model import build_audio
from stages.conditioning.align.read import AlignDecode, Opposite, at_tempo, exchanged
from stages.conditioning.align.task import labels_of, texts_of
from stages.images import CropDecode

ROWS, WIDTH = 12, 5


def make_bank(seed: int = 0, captions: torch.Tensor | None = None) -> Bank:
    generator = torch.Generator().manual_seed(seed)
    vectors = {
        name: F.normalize(torch.randn(ROWS, WIDTH, generator=generator, dtype=torch.float64), dim=1)
        for name in ("image", "text", "audio")
    }
    everywhere = torch.ones(ROWS, dtype=torch.bool)
    some = torch.arange(ROWS) % 3 != 0
    return Bank(vectors, {"image": everywhere, "text": everywhere, "audio": some}, _captions(captions))


def _captions(given: torch.Tensor | None) -> torch.Tensor:
    return torch.arange(ROWS) if given is None else given


def brute_force(bank: Bank, scale: float) -> float:
    """The definition, row by row."""
    losses = []
    swapped = bank.vectors.get(SWAPPED)
    for a, b in (("audio", "image"), ("audio", "text"), ("image", "text")):
        rows = [i for i in range(ROWS) if bank.present[a][i] and bank.present[b][i]]
        terms = []
        for i in rows:
            for x, y in ((a, b), (b, a)):
                others = [j for j in rows if j == i or not same_words(bank, i, j)]
                against = [bank.vectors[y][j] for j in others]
                if swapped is not None and (x, y) == ("image", "text") and bank.present[SWAPPED][i]:
                    against.append(swapped[i])
                logits = torch.stack([scale * bank.vectors[x][i] @ vector for vector in against])
                terms.append(torch.logsumexp(logits, 0) - scale * bank.vectors[x][i] @ bank.vectors[y][i])
        losses.append(torch.stack(terms).mean())
    return float(torch.stack(losses).mean())


def same_words(bank: Bank, i: int, j: int) -> bool:
    return bool(bank.present["text"][i] and bank.present["text"][j] and bank.caption[i] == bank.caption[j])


@pytest.mark.parametrize("mute", [0, 5], ids=["all have captions", "five have none"])
@pytest.mark.parametrize("captions", [torch.arange(ROWS), torch.arange(ROWS) // 4])
def test_the_loss_is_its_definition(captions: torch.Tensor, mute: int) -> None:
    bank = make_bank(captions=captions.where(torch.arange(ROWS) >= mute, 99))  # those of the mute are all alike
    bank.present["text"] = torch.arange(ROWS) >= mute
    loss, _ = contrastive_loss(bank, torch.tensor(7.0, dtype=torch.float64))
    assert float(loss) == pytest.approx(brute_force(bank, 7.0), abs=1e-9)


def test_a_caption_made_wrong_is_a_negative_of_its_own_picture() -> None:
    plain, bank = make_bank(), with_swapped(make_bank())
    loss, _ = contrastive_loss(bank, torch.tensor(7.0, dtype=torch.float64))
    assert float(loss) == pytest.approx(brute_force(bank, 7.0), abs=1e-9)
    assert loss > contrastive_loss(plain, torch.tensor(7.0, dtype=torch.float64))[0]


def with_swapped(bank: Bank) -> Bank:
    """Every second row has a caption made wrong."""
    wrong = F.normalize(bank.vectors["text"] + bank.vectors["image"], dim=1)
    rows = torch.arange(ROWS) % 2 == 0
    return Bank(bank.vectors | {SWAPPED: wrong}, bank.present | {SWAPPED: rows}, bank.caption)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("A red bird to the Left of a bright blue one", "A red bird to the right of a bright blue one"),
        ("왼쪽에 빨간 새, 오른쪽은 파란 새", "오른쪽에 빨간 새, 왼쪽은 파란 새"),
        ("a leftover, left_body or LEFT", "a leftover, right_body or right"),
        ("left-hand", "right-hand"),
        ("a bright bird", "a bright bird"),
    ],
)
def test_words_are_exchanged_both_ways(text: str, wrong: str) -> None:
    assert exchanged(text, [("left", "right"), ("왼쪽", "오른쪽")]) == wrong
    assert exchanged(text, []) == text


def test_letters_that_match_but_are_others_stay() -> None:
    assert exchanged("ALTINDA altında", [("altında", "üstünde")]) == "ALTINDA üstünde"


def test_opposites_are_refused_where_they_mean_nothing() -> None:
    with pytest.raises(ValueError, match="each in one pair"):
        AlignConfig(opposites=(("left", "right"), ("Left", "up")))
    with pytest.raises(ValueError, match="stays as it is"):
        AlignConfig(opposites=(("left", "right"),), pretrained="somewhere")
    with pytest.raises(ValueError, match="needs opposites"):
        AlignConfig(more_captions=1)


def test_identical_captions_do_not_push_each_other_away() -> None:
    apart, _ = contrastive_loss(make_bank(), torch.tensor(7.0))
    alike, each = contrastive_loss(make_bank(captions=torch.zeros(ROWS, dtype=torch.int64)), torch.tensor(7.0))
    assert alike < apart
    assert float(each["loss_audio_image"]) == 0  # of one kind, pictures and sounds too


def test_rows_without_a_caption_are_negatives_as_ever() -> None:
    whole = make_bank(captions=torch.zeros(ROWS, dtype=torch.int64))
    deaf = Bank(
        {name: whole.vectors[name] for name in ("audio", "image")},
        {name: whole.present[name] for name in ("audio", "image")},
        whole.caption,
    )
    assert contrastive_loss(deaf, torch.tensor(7.0))[0] > 0.5


@pytest.mark.parametrize("pieces", [1, 2, 4])
def test_gradients_are_those_of_the_whole_batch(pieces: int) -> None:
    torch.manual_seed(1)
    inputs = torch.randn(ROWS, WIDTH, dtype=torch.float64)
    names = ("image", "text", "audio", SWAPPED)
    weight = {name: torch.randn(WIDTH, WIDTH, dtype=torch.float64) for name in names}
    like = with_swapped(make_bank())

    def vectors(w: dict[str, torch.Tensor], rows: slice) -> dict[str, torch.Tensor]:
        return {name: F.normalize(inputs[rows] @ w[name], dim=1) for name in w}

    whole = {name: w.clone().requires_grad_() for name, w in weight.items()}
    scale = torch.tensor(5.0, dtype=torch.float64, requires_grad=True)
    contrastive_loss(Bank(vectors(whole, slice(0, ROWS)), like.present, like.caption), scale)[0].backward()

    cut = {name: w.clone().requires_grad_() for name, w in weight.items()}
    cut_scale = torch.tensor(5.0, dtype=torch.float64, requires_grad=True)
    numbers = Bank({k: v.detach() for k, v in vectors(cut, slice(0, ROWS)).items()}, like.present, like.caption)
    size = ROWS // pieces
    for first in range(0, ROWS, size):
        shared = cut_scale.detach() + (cut_scale - cut_scale.detach()) / pieces
        bank = numbers.with_rows(vectors(cut, slice(first, first + size)), first)
        contrastive_loss(bank, shared)[0].backward()

    for name in weight:
        torch.testing.assert_close(cut[name].grad, whole[name].grad)
    torch.testing.assert_close(cut_scale.grad, scale.grad)


def test_recall_counts_the_own_row_and_those_alike() -> None:
    queries = torch.eye(6)
    shifted = queries.roll(1, 0)  # the nearest of row i is row i + 1
    own = torch.eye(6, dtype=torch.bool)
    assert recalls(queries, queries, own) == {"R@1": 1.0, "R@5": 1.0}
    assert recalls(queries, shifted, own)["R@1"] == 0.0
    assert recalls(queries, shifted, own | own.roll(1, 1))["R@1"] == 1.0


@pytest.mark.parametrize(
    ("share", "heard"), [(0.0, {"a small bird"}), (1.0, {"an owl"}), (0.5, {"a small bird", "an owl"})]
)
def test_what_is_said_aloud_is_the_text_as_often_as_asked(share: float, heard: set[str]) -> None:
    picture = encode_image(np.zeros((8, 8, 3), np.uint8), "png", 95)
    sample = Sample("0", {"png": picture, "txt": b"a small bird", "json": b'{"spoken": "an owl"}'})
    decode = AlignDecode(CropDecode(8), transcripts=share)
    from transformers import ASTFeatureExtractor

    assert {decode(sample, Draw(0, 0, 0, row))["text"] for row in range(20)} == heard
    spoken = replace(
        sample, members={**sample.members, "flac": encode_flac(np.ones((1, 4000), np.float32) * 0.1, 16_000)}
    )
    speaking = replace(decode, prepare=ASTFeatureExtractor(max_length=32, num_mel_bins=16), seconds=0.3)
    for row in range(20):
        fields = speaking(spoken, Draw(0, 0, 0, row))
        assert fields["speaks"] == int(fields["text"] == "an owl")
        assert speaking(sample, Draw(0, 0, 0, row))["speaks"] == 0
    with pytest.raises(ValueError, match="transcripts lies in"):
        AlignConfig(transcripts=1.5)


VALUES = {
    "heading": ["left", "right"],
    "left_body": ["red", "blue", "black"],
    "right_body": ["black", "red", "blue"],
    "wing": ["red", "blue"],
}
SIZES = [len(values) for values in VALUES.values()]


def test_attributes_that_are_absent_are_not_asked_for() -> None:
    answers = torch.randn(3, sum(SIZES), dtype=torch.float64)
    labels = torch.tensor([[0, 2, -1, -1], [-1, -1, -1, -1], [1, 0, 1, 1]])
    parts = torch.split(answers.float(), SIZES, dim=1)
    rows = []
    for i, row in enumerate(labels.tolist()):
        each = [-float(parts[j][i].log_softmax(0)[label]) for j, label in enumerate(row) if label >= 0]
        rows.append(sum(each) / len(each) if each else 0.0)
    assert float(told_loss(answers, labels, SIZES, 3)) == pytest.approx(sum(rows) / 3, abs=1e-6)
    certain = torch.cat([F.one_hot(labels[:, j].clamp(min=0), size) for j, size in enumerate(SIZES)], dim=1).float()
    assert told_rightly(certain, labels, SIZES) == 1.0
    assert told_rightly(certain.flip(0), labels, SIZES) < 1.0


def test_what_is_told_of_the_pieces_of_a_batch_adds_up() -> None:
    answers, labels = torch.randn(8, sum(SIZES)), torch.randint(-1, 2, (8, len(SIZES)))
    whole = told_loss(answers, labels, SIZES, 8)
    halves = [told_loss(answers[part], labels[part], SIZES, 4) for part in (slice(0, 4), slice(4, 8))]
    torch.testing.assert_close(sum(halves) / 2, whole)


def test_attributes_are_exchanged_with_their_opposites() -> None:
    opposite = Opposite(VALUES, [("left", "right")])
    #                      heading left, left red, right blue, wing blue; nothing but the right one, black
    labels = torch.tensor([[0, 0, 2, 1], [-1, -1, 0, -1]])
    assert opposite(labels).tolist() == [[1, 1, 1, 1], [-1, 2, -1, -1]]
    assert Opposite(VALUES, [])(labels).tolist() == labels.tolist()
    alone = Opposite({"left_wing": ["red", "blue"], "size": ["big"]}, [("left", "right")])
    assert alone(torch.tensor([[1, 0]])).tolist() == [[-1, 0]]  # nothing is known of the right wing
    uneven = Opposite({"left": ["red"], "right": ["red", "blue", "black"]}, [("left", "right")])
    assert uneven(torch.tensor([[0, 2], [-1, -1]])).tolist() == [[-1, 0], [-1, -1]]


def test_labels_stand_beside_the_texts_they_are_of() -> None:
    batch = {
        "text": ["left is red", "a bird", "right is black", "left"],
        "also0": ["right is blue", "", "", "red left"],
        "also1": ["", "a bird", "left is blue", ""],
        "attributes": torch.tensor([[-1, 0, 2, -1], [-1, -1, -1, 1], [-1, 1, 0, -1], [-1, 0, 0, 1]]),
        "named": torch.tensor(
            [
                [[0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]],
                [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]],
                [[0, 0, 1, 0], [0, 0, 0, 0], [0, 1, 0, 0]],
                [[0, 0, 0, 1], [0, 1, 0, 0], [0, 0, 0, 0]],
            ],
            dtype=torch.uint8,
        ),
        "speaks": torch.tensor([1, 0, 0, 0]),
    }
    pair = [("left", "right")]
    texts, rows = texts_of(batch, pair, lambda text: [len(text)] if text in ("left", "right") else [hash(text)])
    assert rows == [0, 2, 3]
    cut = texts_of(batch, pair, lambda text: [ord(letter) for letter in text[:1]])[1]
    assert cut == [0, 2, 3]
    assert texts_of(batch, pair, lambda text: [1])[1] == []  # cut before the word: the exchanged one is the same
    many = {"text": ["left"]} | {f"also{i}": [f"caption {i}"] for i in reversed(range(12))}
    read = texts_of(many, pair, lambda text: [hash(text)])[0]
    assert read == ["left", *(f"caption {i}" for i in range(12)), "right"]  # in the order of their labels
    wrong = ["right is red", "left is black", "right"]
    assert texts == [*batch["text"], "right is blue", "", "red left", "", "left is blue", "", *wrong]
    labels = labels_of(batch, rows, Opposite(VALUES, pair))
    assert labels["image"] is batch["attributes"]
    none, asked = [-1, -1, -1, -1], labels["text"].tolist()
    assert asked[:4] == [[-1, 0, -1, -1], none, [-1, -1, 0, -1], [-1, -1, -1, 1]]
    assert asked[4:10] == [[-1, -1, 2, -1], none, [-1, 0, -1, -1], none, [-1, 1, -1, -1], none]
    assert asked[10:] == [
        [-1, -1, 1, -1],
        [-1, 2, -1, -1],
        [-1, -1, -1, 1],
    ]  # as the other side has them
    assert labels["audio"].tolist() == [[-1, 0, -1, -1], none, none, none]
    assert texts_of(batch, [], lambda text: [1]) == ([*batch["text"]], [])


def test_captions_are_held_to_the_attributes_they_name() -> None:
    picture = encode_image(np.zeros((8, 8, 3), np.uint8), "png", 95)
    record = {
        "attributes": {"left_body": "blue", "wing": "red", "heading": "up"},
        "captions": ["a red wing", "left is blue", "a bird"],
        "named": [["wing"], ["left_body"], []],
    }
    sample = Sample("0", {"png": picture, "txt": b"a red wing", "json": json.dumps(record).encode()})
    assert named_by_caption(sample) == {
        "a red wing": {"wing"}, "left is blue": {"left_body"}, "a bird": frozenset(),
    }  # fmt: skip
    decode = AlignDecode(CropDecode(8), values=VALUES, words=VALUES, more=3)
    seen = set()
    for row in range(12):
        fields = decode(sample, Draw(0, 0, 0, row))
        texts = [fields["text"], *(fields[f"also{i}"] for i in range(3))]
        assert sorted(texts[:3]) == sorted(record["captions"])
        assert texts[3] == ""
        assert fields["attributes"].tolist() == [-1, 1, -1, 0]
        for text, named in zip(texts, fields["named"].tolist(), strict=True):
            assert named == [0, int(text == "left is blue"), 0, int(text == "a red wing")]
        seen.add(fields["text"])
    assert seen == set(record["captions"])


def test_without_lists_a_caption_names_what_its_words_say() -> None:
    picture = encode_image(np.zeros((8, 8, 3), np.uint8), "png", 95)
    record = {"attributes": {"wing": "red", "left_body": "black"}, "spoken": "a Red-winged blackbird"}
    sample = Sample("0", {"png": picture, "cls": b"1", "json": json.dumps(record).encode()})
    values = {"class": ["0", "1"], "left_body": ["black", "blue"], "wing": ["blue", "red"]}
    decode = AlignDecode(CropDecode(8), values=values, words=in_words(values, ["owl", "blackbird"]))
    fields = decode(sample, Draw(0, 0, 0, 0))
    assert fields["attributes"].tolist() == [1, 0, 1]
    assert fields["named"].tolist() == [[1, 0, 1]]
    assert says("a photo of a tench", "tench, Tinca tinca") and says(
        "a black footed albatross", "Black_footed_Albatross"
    )
    assert not says("a photo", "") and not says("a stench", "tench, Tinca tinca")


@pytest.mark.parametrize("record", [{"captions": ["cut \ud83d"]}, {"captions": ["a bird"], "spoken": "\ud83d"}])
def test_half_of_a_letter_is_an_unreadable_sample_and_not_the_end(record: dict[str, object]) -> None:
    picture = encode_image(np.zeros((8, 8, 3), np.uint8), "png", 95)
    sample = Sample("0", {"png": picture, "json": json.dumps(record).encode()})
    with pytest.raises((DataError, ValueError)):
        AlignDecode(CropDecode(8))(sample, Draw(0, 0, 0, 0))


def test_a_tempo_moves_what_is_heard_in_time_and_not_in_pitch() -> None:
    frames = np.full((40, 3), -1.0, np.float32)  # silence, and behind it nothing
    frames[:30] = 0.0
    frames[[4, 14, 24], 1] = 5.0  # three beats of one pitch

    faster = at_tempo(frames, 30, 2.0, -1.0)
    assert faster.shape == frames.shape and faster.dtype == np.float32
    assert np.flatnonzero(faster[:, 1] == 5).tolist() == [2, 7, 12]
    assert (faster[15:] == -1).all() and (faster[:15, [0, 2]] == 0).all()

    slower = at_tempo(frames, 30, 0.5, -1.0)  # as slow as forty frames allow: three quarters
    assert slower[-1, 0] == pytest.approx(0.0)
    peaks = [i for i in range(1, 39) if slower[i, 1] > slower[i - 1, 1] and slower[i, 1] >= slower[i + 1, 1]]
    assert peaks == pytest.approx([4 / 0.75, 14 / 0.75, 24 / 0.75], abs=1)
    np.testing.assert_array_equal(at_tempo(frames, 30, 1.0, -1.0), frames)


def test_a_sound_is_read_at_a_tempo_that_its_row_draws() -> None:
    from transformers import ASTFeatureExtractor

    rate = 16_000
    beats = np.zeros((1, rate // 2), np.float32)
    beats[0, [1600, 4800]] = 0.9  # 0.2 seconds apart
    prepare = ASTFeatureExtractor(sampling_rate=rate, num_mel_bins=16, max_length=80, mean=-4.0, std=4.0)
    picture = encode_image(np.zeros((16, 16, 3), np.uint8), "png", 90)
    sample = Sample("one", {"png": picture, "flac": encode_flac(beats, rate)})

    def apart(tempo: float) -> int:
        heard = AlignDecode(CropDecode(16), prepare, 0.75, tempos=(tempo,))(sample, Draw(0, 0, 0, 0))["sound"]
        assert heard[-1].tolist() == [0.5] * 16  # behind the sound, as the extractor writes it
        loud = heard[: round(48 / tempo)].mean(axis=1)
        first = int(loud[: round(20 / tempo)].argmax())
        second = int(loud[round(20 / tempo) :].argmax()) + round(20 / tempo)
        return second - first

    assert apart(1.0) == pytest.approx(20, abs=1)
    assert apart(1.25) == pytest.approx(16, abs=1)


def test_a_patch_of_sound_is_of_whole_frames() -> None:
    from transformers import ASTFeatureExtractor

    prepare = ASTFeatureExtractor(sampling_rate=16_000, num_mel_bins=24, max_length=104)
    tower = build_audio(TowerConfig(width=32, layers=1), 8, prepare)
    patches = tower.audio_spectrogram_transformer.embeddings.patch_embeddings(torch.zeros(2, 104, 24))
    assert patches.shape == (2, (104 - 24) // 4 + 1, 32)  # one row of them, every 40 ms


@pytest.mark.parametrize(("bands", "seconds"), [(7, 3.0), (129, 3.0), (32, 0.3)])
def test_bands_that_make_no_patch_are_refused(bands: int, seconds: float) -> None:
    with pytest.raises(ValueError, match="audio_bands"):
        AlignConfig(audio_bands=bands, audio_seconds=seconds)
