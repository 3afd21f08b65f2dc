"""The report of a run: everything on one page, whatever state the run is in."""

from __future__ import annotations

import base64
import io
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from launchers.report import write_report
from launchers.report_curves import charts_of
from launchers.report_run import flat, read_run
from pipeline import artifacts
from pipeline.errors import ConfigError
from pipeline.tracking import Tracker, TrackingConfig

VOID = {"meta", "img", "br", "path", "circle", "hr", "link"}
SIZES = [64, 256]
USE = {"level0_usage": 0.25, "level0_perplexity": 12.0, "level1_usage": 1.0, "level1_perplexity": 128.0}


class Page(HTMLParser):
    """Checks that tags nest, and keeps what the tests ask about."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data if "style" not in self.open else ""

    @property
    def sections(self) -> list[str]:
        return [str(values["id"]) for tag, values in self.tags if tag == "section"]

    @property
    def pictures(self) -> list[Image.Image]:
        sources = [str(values["src"]).partition("base64,")[2] for tag, values in self.tags if tag == "img"]
        return [Image.open(io.BytesIO(base64.b64decode(source))) for source in sources]


def finish(stage: Path, results: dict[str, Any]) -> None:
    (stage / "model").mkdir(parents=True, exist_ok=True)
    (stage / "model" / "weights").write_bytes(b"abc")
    artifacts.write_manifest(stage, stage=stage.name, config={}, inputs={}, results=results, makes=("model",))


def paint(path: Path, colour: int, size: tuple[int, int] = (24, 16)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((size[1], size[0], 3), colour, np.uint8)).save(path)


def measure(stage: Path, rows: list[dict[str, Any]]) -> None:
    stage.mkdir(parents=True, exist_ok=True)
    (stage / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run as the stages leave it."""
    run = tmp_path / "sparrow"
    finish(run / "shards", {"splits": {"train": {"samples": 475}}, "classes": 8})
    finish(run / "vqvae", {"codebook_sizes": SIZES, "psnr": 24.5, **USE})
    rows: list[dict[str, Any]] = [
        {"step": s, "train/loss": 9 / s, "perf/images_per_second": 100.0 + s} for s in range(10, 60, 10)
    ]
    measure(run / "vqvae", [*rows, {"step": 30, "val/psnr": 20.0}, {"step": 50, "val/psnr": 24.5}])
    paint(run / "vqvae" / "samples" / "step-00000050-reconstructions.png", 90)
    finish(run / "prior", {"bits_per_image": 333.7})
    measure(run / "prior", [{"step": s, "train/loss": 4 / s, "val/bits_per_image": 900 / s} for s in (10, 20)])
    for step in (10, 20):
        paint(run / "prior" / "samples" / f"step-{step:08d}-samples.png", step)
    finish(run / "evaluation", {"reconstruction": {"psnr": 24.25}, "tokenizer": "ab" * 32})
    paint(run / "evaluation" / "nearest.png", 200)
    (run / "recipe.yaml").write_text("seed: 7\nvqvae: {levels: [8, 4]}\n", encoding="utf-8")
    return run


def written(run: Path) -> Page:
    return Page(write_report(run).read_text(encoding="utf-8"))


def test_a_finished_run_has_every_section_and_samples_come_first(run: Path) -> None:
    assert write_report(run) == run / "report.html"

    assert written(run).sections == [
        "samples", "reconstructions", "curves", "codebooks", "results", "throughput", "recipe"
    ]  # fmt: skip


def test_the_newest_sample_is_the_first_picture_and_earlier_ones_follow(run: Path) -> None:
    pictures = written(run).pictures

    colours = [np.asarray(picture)[0, 0, 0] for picture in pictures]
    assert colours == [200, 20, 10, 90]
    assert pictures[1].size == (24, 16)


def test_the_page_refers_to_nothing_outside_and_has_no_script(run: Path) -> None:
    page = written(run)

    for tag, values in page.tags:
        assert tag not in ("script", "link", "iframe")
        assert all(str(values.get(name, "data:")).startswith("data:") for name in ("src", "href"))
    assert not re.search(r"url\(|@import", (run / "report.html").read_text(encoding="utf-8"))


def test_what_a_run_says_is_escaped_everywhere(run: Path) -> None:
    evil = '<script>alert("x")</script>&'
    (run / "recipe.yaml").write_text(f"# {evil}\n", encoding="utf-8")
    finish(run / "prior@<b>", {evil: evil, "list": [evil], "nested": {evil: [{evil: 1}]}})
    measure(run / "prior@<b>", [{"step": s, f"train/{evil}": s} for s in (1, 2)])
    paint(run / "prior@<b>" / "samples" / 'step-00000001-<u>" onerror="x.png', 3)
    (run / "prior" / "tables").mkdir()
    artifacts.write_json(run / "prior" / "tables" / "<u>.json", {"columns": [evil], "rows": [[evil], [None]]})

    text = write_report(run).read_text(encoding="utf-8")
    page = Page(text)
    assert not {"script", "u"} & {tag for tag, _ in page.tags}
    assert not any("onerror" in values for _, values in page.tags)
    assert page.words.count('alert("x")') >= 6
    assert "<script" not in text


def test_curves_show_the_values_of_metrics_jsonl(run: Path) -> None:
    page = written(run)

    spoken = [str(values["aria-label"]) for tag, values in page.tags if tag == "svg" and "aria-label" in values]
    assert "loss: train ends at 0.18" in spoken
    assert "psnr: val ends at 24.5" in spoken
    assert "bits per image: val ends at 45" in spoken


def test_codebook_use_is_given_per_level_with_the_size_of_the_codebook(run: Path) -> None:
    page = written(run)

    widths = [str(values["style"]) for tag, values in page.tags if tag == "i"]
    assert widths == ["width:25.0%", "width:18.8%", "width:100.0%", "width:50.0%"]
    assert "25.0% of 64 codes" in page.words
    assert "128 of 256" in page.words


def test_codebook_use_of_an_unfinished_autoencoder_comes_from_its_last_evaluation(run: Path) -> None:
    (run / "vqvae" / "manifest.json").unlink()
    measure(run / "vqvae", [{"step": 1, "val/level0_usage": 0.1}, {"step": 2, "val/level0_usage": 0.75}])

    assert "level 0 usage75.0%" in written(run).words


def test_a_page_says_how_far_an_unfinished_stage_got(run: Path) -> None:
    (run / "prior" / "manifest.json").unlink()
    (run / "vqvae" / "manifest.json").write_text("{half", encoding="utf-8")

    words = written(run).words
    assert "prior: at step 20, not finished" in words
    assert "--redo vqvae" in words
    assert "shards: finished" in words


def test_damaged_lines_pictures_and_tables_are_passed_over(run: Path) -> None:
    with (run / "prior" / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 30, "train/loss": NaN, "train/text": "x", "train/flag": true, "train/none": null}\n')
        file.write(b'[1, 2]\n\xff\xfe\n{"step": "a"}\n{"step": 40, "train/lo')
    newest = run / "prior" / "samples" / "step-00000020-samples.png"
    newest.write_bytes(newest.read_bytes()[:60])
    (run / "prior" / "tables").mkdir()
    (run / "prior" / "tables" / "bad.json").write_text('{"columns": 3}', encoding="utf-8")
    (run / "recipe.yaml").write_bytes(b"a: [\xff")

    page = written(run)
    assert [np.asarray(picture)[0, 0, 0] for picture in page.pictures] == [200, 10, 90]
    assert not {"text", "flag", "none"} & {chart.title for chart in charts_of(read_run(run).stages[2].series)}
    assert "a: [" in page.words


@pytest.mark.parametrize("left", ["recipe.yaml", "shards", "vqvae", "prior", "evaluation"])
def test_any_part_of_a_run_alone_makes_a_page(run: Path, left: str, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    alone.mkdir()
    (run / left).rename(alone / left)

    assert written(alone).sections[0] == "samples"


def test_a_stage_of_another_run_is_shown_with_its_origin(run: Path, tmp_path: Path) -> None:
    small = tmp_path / "second"
    small.mkdir()
    (small / "recipe.yaml").write_text(f"use: {{vqvae: {run / 'vqvae'}}}\n", encoding="utf-8")

    page = written(small)
    assert "reconstructions" in page.sections
    assert f"from {run / 'vqvae'}" in page.words


@pytest.mark.parametrize("made", [True, False])
def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, made: bool) -> None:
    folder = tmp_path / "photos"
    if made:
        (folder / "pictures").mkdir(parents=True)

    with pytest.raises(ConfigError, match="not a run folder"):
        write_report(folder)
    assert not (folder / "report.html").exists()


def test_large_pictures_are_scaled_down_and_small_ones_enlarged_without_blur(run: Path) -> None:
    paint(run / "evaluation" / "nearest.png", 200, (3000, 30))

    page = written(run)
    assert max(picture.size[0] for picture in page.pictures) == 2400
    images = [values for tag, values in page.tags if tag == "img"]
    assert (images[1]["class"], images[1]["width"]) == ("small", "96")
    assert "class" not in images[0]


def test_writing_twice_gives_the_same_page(run: Path) -> None:
    first = write_report(run).read_bytes()

    assert write_report(run).read_bytes() == first
    assert [path.name for path in run.glob(".*")] == []


def test_nested_results_become_rows() -> None:
    values = {"a": {"b": 1, "c": {"d": [1, 2]}}, "levels": [{"k": 4}, {"k": 8}], "none": None, "empty": {}}

    assert list(flat(values)) == [("a.b", 1), ("a.c.d", [1, 2]), ("levels.0.k", 4), ("levels.1.k", 8), ("none", None)]


def test_the_report_needs_no_torch(run: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from launchers.report import write_report; "
        f"write_report(Path({str(run)!r})); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_what_a_tracker_wrote_is_in_the_page(tmp_path: Path) -> None:
    tracker = Tracker.start(tmp_path / "wren" / "prior", TrackingConfig(mode="disabled"), "prior", {})
    for step in (20, 40):
        tracker.log({"train/loss": 10 / step, "perf/images_per_second": 250.0}, step)
    tracker.log({"train/loss": float("nan")}, 60)
    tracker.images({"grid": np.full((6, 9, 3), 77, np.uint8)}, 40)
    tracker.table("classes", ["class", "accuracy"], [["owl", 0.9375], ["wren", float("nan")]])
    tracker.finish()

    page = written(tmp_path / "wren")
    assert page.sections == ["samples", "curves", "results", "throughput"]
    assert np.asarray(page.pictures[0])[0, 0, 0] == 77
    assert "owl0.9375" in page.words


@pytest.mark.parametrize(
    "damage", ["metrics.jsonl", "samples/step-00000050-reconstructions.png", "manifest.json", "tables/x.json"]
)
def test_a_damaged_file_costs_no_more_than_itself(run: Path, damage: str) -> None:
    target = run / "vqvae" / damage
    target.parent.mkdir(exist_ok=True)
    target.write_bytes((target.read_bytes() if target.is_file() else b"{")[:25] + b"\xff{")

    assert {"samples", "curves", "results", "recipe"} <= set(written(run).sections)


def test_a_run_that_has_just_begun_has_a_page(tmp_path: Path) -> None:
    (tmp_path / "new" / "vqvae").mkdir(parents=True)
    (tmp_path / "new" / "recipe.yaml").write_text("seed: 0\n", encoding="utf-8")

    assert "No samples were painted yet" in written(tmp_path / "new").words


def test_pictures_say_what_their_rows_are(run: Path) -> None:
    finish(run / "prior", {"classes": ["robin", "wren"]})
    finish(run / "evaluation", {"captions_shown": ["a robin", "작은 새"]})
    paint(run / "prior" / "samples" / "step-00009000-samples_text.png", 5)
    paint(run / "evaluation" / "samples" / "step-00000000-asked_by_class_text_grey.png", 6)

    words = re.sub(r"\s+", " ", written(run).words)

    assert "painted by each of its conditions alone. The captions, from the left: a robin; 작은 새." in words
    assert "two paintings of each by its text alone" in words
    assert "A row per class, from above: robin, wren." in words


def test_reconstructions_are_no_samples(run: Path) -> None:
    paint(run / "evaluation" / "samples" / "step-00000000-reconstructions.png", 7)

    text = write_report(run).read_text(encoding="utf-8")

    assert text.index("evaluation: reconstructions") > text.index('<section id="reconstructions">')
