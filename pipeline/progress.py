"""Progress: a live bar on a terminal, a plain line every few seconds in a log file."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

_MEMORY = 0.8  # share of the old rate kept at each reading: a change of speed shows within a few readings


class Progress:
    """Steps done, metrics, items per second and time left of one long piece of work.

        with Progress(4000, title="vqvae", items_per_step=96) as progress:
            progress.update(20, {"loss": 0.31})

    Args:
        total: steps in all.
        title: first word of the line.
        items_per_step: images in one step; 0 leaves the rate out.
        start: steps already done before this process began (a resumed run): they do not count for the rate.
        every_seconds: time between plain lines where the stream is no terminal.
        stream: where to write; standard error by default.
        shown: False makes every call a no-op, for all processes but the first.
    """

    def __init__(
        self,
        total: int,
        *,
        title: str,
        items_per_step: int = 0,
        start: int = 0,
        every_seconds: float = 10.0,
        stream: TextIO | None = None,
        shown: bool = True,
    ) -> None:
        self.total, self.title, self.items_per_step = total, title, items_per_step
        self.every_seconds, self.stream, self.shown = every_seconds, stream or sys.stderr, shown
        self.step = start
        self._metrics: dict[str, float] = {}
        self._read_at, self._read_step, self._rate = time.monotonic(), start, 0.0
        self._line_at = time.monotonic()
        self._bar: RichProgress | None = None
        self._bar_id: TaskID | None = None
        if shown and self.stream.isatty():
            self._open_bar()

    def update(self, step: int, metrics: Mapping[str, Any] | None = None) -> None:
        """Say that `step` steps are done; `metrics` are shown until newer ones come."""
        self.step = step
        if not self.shown:
            return
        if metrics:
            self._metrics = {name: float(value) for name, value in metrics.items()}
        now = time.monotonic()
        if now - self._read_at >= min(1.0, self.every_seconds) or step >= self.total:
            self._read_rate(now)
        if self._bar is not None and self._bar_id is not None:
            self._bar.update(self._bar_id, completed=step, text=self.line(with_counts=False))
        elif now - self._line_at >= self.every_seconds or step >= self.total:
            self._line_at = now
            self.note(self.line())

    def line(self, *, with_counts: bool = True) -> str:
        """The state in one line: `vqvae  step 1200/4000  loss 0.0123  812 images/s  3:12 left`."""
        parts = [f"{self.title}  step {self.step}/{self.total}"] if with_counts else []
        parts += [f"{name} {value:.4g}" for name, value in list(self._metrics.items())[:5]]
        if self._rate > 0:
            if self.items_per_step:
                parts.append(f"{self._rate * self.items_per_step:.4g} images/s")
            if self.step < self.total:
                parts.append(f"{as_clock((self.total - self.step) / self._rate)} left")
        return "  ".join(parts)

    @property
    def images_per_second(self) -> float:
        """Images per second over the last readings; 0 before the first."""
        return self._rate * self.items_per_step

    def note(self, text: str) -> None:
        """A line of its own, above the bar."""
        if not self.shown:
            return
        if self._bar is not None:
            self._bar.console.print(text, highlight=False, markup=False)
        else:
            print(text, file=self.stream, flush=True)

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _read_rate(self, now: float) -> None:
        steps, seconds = self.step - self._read_step, now - self._read_at
        if steps <= 0 or seconds <= 0:
            return
        rate = steps / seconds
        self._rate = rate if self._rate == 0 else _MEMORY * self._rate + (1 - _MEMORY) * rate
        self._read_at, self._read_step = now, self.step

    def _open_bar(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
        from rich.progress import Progress as RichProgress

        columns = (
            TextColumn("[bold]{task.description}", markup=True),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[text]}", markup=False),
        )
        self._bar = RichProgress(*columns, console=Console(file=self.stream), refresh_per_second=4)
        self._bar.start()
        self._bar_id = self._bar.add_task(self.title, total=self.total, completed=self.step, text="")


def as_clock(seconds: float) -> str:
    """`3:12`, `1:03:12`, from seconds."""
    whole = max(0, round(seconds))
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
