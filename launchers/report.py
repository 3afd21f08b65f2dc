"""`report.html` of a run: one self-contained page, samples first. Written after every run, and by `tessera report RUN`.

It reads what the stages left on disk and nothing else, so a run that was stopped half way has a report too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from html import escape
from pathlib import Path
from statistics import median
from typing import Any

from launchers.report_curves import FIRST, charts_of, draw, short
from launchers.report_page import bars, facts, folded, page, picture, section, soft, table
from launchers.report_run import Picture, RunFolder, StageFolder, flat, is_number, read_run
from pipeline.atomic_file import write_atomically

REPORT = "report.html"
RATE = "perf/images_per_second"
MEMORY = "perf/gpu_memory_gib"
EARLIER = 4
RECONSTRUCTED, ASKED, BY = "reconstruct", "asked_by_", "samples_"
"""How pictures are named that show reconstructions, all conditions of one sample, one condition."""
SHOWN_CLASSES = {"prior": 8, "evaluation": 16}
"""Rows of their pictures of classes, at most."""
_USE = re.compile(r"(?:^|[._/])level[_.]?(\d+)[._](usage|perplexity)$")
_TILES = (
    "psnr",
    "bits_per_image",
    "reconstruction.gain_over_baseline_db",
    "samples.class_accuracy",
    "samples.random.precision_of_ceiling",
    "samples.random.coverage_of_ceiling",
)


def write_report(run_dir: Path) -> Path:
    """Write `<run_dir>/report.html` and return its path.

    Raises:
        ConfigError: the folder is not the folder of a run.
    """
    path = run_dir / REPORT
    write_atomically(path, render(read_run(run_dir)).encode("utf-8", errors="replace"))
    return path


def render(run: RunFolder) -> str:
    """The page as text."""
    sections = (
        _samples(run),
        _reconstructions(run),
        _curves(run),
        _codebooks(run),
        _results(run),
        _throughput(run),
        section("recipe", "Recipe", f"<pre>{escape(run.recipe)}</pre>" if run.recipe else ""),
    )
    return page(run.name, _head(run), sections)


def _head(run: RunFolder) -> str:
    states = "".join(
        f'<li class="{"done" if stage.finished else "open"}" title="{escape(stage.note)}">'
        f"{escape(f'{stage.name}: {_state(stage)}')}</li>"
        for stage in run.stages
    )
    tiles = "".join(f"<div><dt>{escape(name)}</dt><dd>{short(value)}</dd></div>" for name, value in _headline(run))
    return f'<ul class="states">{states}</ul>\n' + (f'<dl class="tiles">{tiles}</dl>\n' if tiles else "")


def _state(stage: StageFolder) -> str:
    if stage.finished:
        return "finished"
    return "not finished" if stage.last_step is None else f"at step {stage.last_step:,}, not finished"


def _headline(run: RunFolder) -> Iterator[tuple[str, float]]:
    """A few figures worth reading first: '<stage> <figure>' of the finished stages."""
    for stage in run.stages:
        for name, value in flat(stage.results):
            if name in _TILES and is_number(value):
                yield f"{stage.name} {name.replace('_', ' ').replace('.', ' ')}", float(value)


def _samples(run: RunFolder) -> str:
    stages = [*run.of_kind("evaluation"), *reversed(run.of_kind("prior", "gan"))]
    by_class = [one.results for one in run.of_kind("prior") if "class" in one.results.get("conditions", ["class"])]
    classes = next((c for one in by_class if isinstance(c := one.get("classes"), list)), [])
    parts = [_pictures(stage, lambda name: not name.startswith(RECONSTRUCTED), classes) for stage in stages]
    return section("samples", "Samples", *parts, *([] if any(parts) else [soft("No samples were painted yet.")]))


def _reconstructions(run: RunFolder) -> str:
    said = soft(
        "Row by row: the pictures, their reconstructions and, with several levels, what the coarsest alone says."
    )
    parts = [_pictures(stage) for stage in run.of_kind("vqvae")]
    parts += [_pictures(stage, lambda name: name.startswith(RECONSTRUCTED)) for stage in run.of_kind("evaluation")]
    return section("reconstructions", "Reconstructions", *([said, *parts] if any(parts) else []))


def _pictures(
    stage: StageFolder, chosen: Callable[[str], bool] = lambda name: True, classes: Sequence[str] = ()
) -> str:
    """The newest picture of every chosen name, and a few earlier ones folded away."""
    by_name: dict[str, list[Picture]] = {}
    for one in stage.pictures:
        if chosen(one.name):
            by_name.setdefault(one.name, []).append(one)
    parts = []
    for painted in by_name.values():
        shown = [(one, html) for one in painted if (html := picture(one.path, _caption(stage, one, classes)))]
        if not shown:
            continue
        earlier = [html for _, html in _spread(shown[:-1], EARLIER)]
        strip = f'<div class="strip">{"".join(earlier)}</div>' if earlier else ""
        parts.append(shown[-1][1] + folded("Earlier in training", strip))
    return "\n".join(parts)


def _spread(items: list[Any], most: int) -> list[Any]:
    """At most `most` of the items, evenly spaced, the first among them."""
    return items if len(items) <= most else [items[i * len(items) // most] for i in range(most)]


def _caption(stage: StageFolder, one: Picture, classes: Sequence[str]) -> str:
    step = f", step {one.step:,}" if one.step is not None else ""
    legend = _legend(one.name, classes[: SHOWN_CLASSES.get(stage.kind)], stage.results.get("captions_shown"))
    return f"{stage.name}: {one.name.replace('_', ' ')}{step}" + (f". {legend}" if legend else "")


def _legend(name: str, classes: Sequence[str], captions: Any = None) -> str:
    """What the rows of a picture of samples are; its name says what it was painted by."""
    if name.startswith(ASKED):
        said = f" The captions, from the left: {'; '.join(map(str, captions))}." if captions else ""
        return f"Each column is one sample of val, painted by each of its conditions alone.{said}"
    if name.startswith(BY):
        how = name.removeprefix(BY)
        return f"Above, samples of val as their codes decode; below, two paintings of each by its {how} alone."
    if name == "samples" and classes:
        return f"A row per class, from above: {', '.join(map(str, classes))}."
    return ""


def _curves(run: RunFolder) -> str:
    titles = [name.replace("_", " ") for name in FIRST]
    parts = []
    for stage in run.stages:
        charts = charts_of({name: points for name, points in stage.series.items() if not name.startswith("perf/")})
        if not charts:
            continue
        first = [chart for chart in charts if chart.title in titles and not chart.flat] or charts[:1]
        rest = [draw(chart) for chart in charts if chart not in first]
        parts.append(f"<h3>{escape(stage.name)}</h3>{_row(list(map(draw, first)))}{folded('More curves', _row(rest))}")
    return section("curves", "Curves", *parts)


def _row(figures: list[str]) -> str:
    return f'<div class="charts">{"".join(figures)}</div>' if figures else ""


def _codebooks(run: RunFolder) -> str:
    said = soft("Usage: share of the codebook's rows that occur. Perplexity: how many equally likely rows say as much.")
    parts = []
    for stage in run.of_kind("vqvae", "codes", "evaluation"):
        if rows := bars(_use_bars(_codebook_figures(stage), _codebook_sizes(run))):
            parts += [f"<h3>{escape(stage.name)}</h3>", rows]
    return section("codebooks", "Codebook use", *([said, *parts] if parts else []))


def _codebook_figures(stage: StageFolder) -> dict[tuple[int, str], float]:
    """{(level, 'usage' or 'perplexity'): value} of the results, before them of the last evaluation."""
    last = {name: points[-1][1] for name, points in stage.series.items() if name.startswith("val/")}
    figures = {}
    for name, value in (*last.items(), *flat(stage.results)):
        if (found := _USE.search(name)) and is_number(value):
            figures[int(found[1]), found[2]] = float(value)
    return figures


def _codebook_sizes(run: RunFolder) -> list[int]:
    for stage in run.of_kind("vqvae"):
        sizes = stage.results.get("codebook_sizes")
        if isinstance(sizes, list) and all(is_number(size) and size > 0 for size in sizes):
            return sizes
    return []


def _use_bars(figures: dict[tuple[int, str], float], sizes: list[int]) -> Iterator[tuple[str, float, str]]:
    for (level, figure), value in sorted(figures.items(), key=lambda item: (item[0][0], item[0][1] != "usage")):
        size = sizes[level] if level < len(sizes) else None
        if figure == "usage":
            words = f"{value:.1%}" + (f" of {size:,} codes" if size else "")
            yield f"level {level} usage", value, words
        elif size:
            yield f"level {level} perplexity", value / size, f"{short(value)} of {size:,}"


def _results(run: RunFolder) -> str:
    parts = []
    for stage in run.stages:
        figures = facts((name.replace("_", " "), value) for name, value in flat(stage.results))
        note = soft(stage.note) if stage.note else ""
        tables = "".join(
            f"<h4>{escape(name.replace('_', ' '))}</h4>{table(columns, rows)}" for name, columns, rows in stage.tables()
        )
        if figures or tables or note:
            parts.append(f"<div><h3>{escape(stage.name)}</h3>{note}{figures}{tables}</div>")
    return section("results", "Results", f'<div class="tables">{"".join(parts)}</div>' if parts else "")


def _throughput(run: RunFolder) -> str:
    rows, figures = [], []
    for stage in run.stages:
        if not (rates := [value for _, value in stage.series.get(RATE, ())]):
            continue
        memory = max((value for _, value in stage.series.get(MEMORY, ())), default=None)
        rows.append([stage.name, median(rates), max(rates), "–" if memory is None else memory])
        figures += [draw(replace(chart, from_zero=True)) for chart in charts_of({stage.name: stage.series[RATE]})]
    columns = ["stage", "images per second, median", "best", "GPU memory, GiB"]
    return section("throughput", "Throughput", *([table(columns, rows), _row(figures)] if rows else []))
