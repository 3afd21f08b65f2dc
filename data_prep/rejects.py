"""Files that cannot be used: each gets a line with a reason code; too many of them stop the work."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from pipeline.atomic_file import write_atomically
from pipeline.errors import DataError

REPORT = "rejects.jsonl"
CHECKED_FROM = 20
"""Items seen before the share of rejects can stop the work early; it is always checked at the end."""
REASONS = {
    "missing_file": "the data set names a file that is not there",
    "outside_folder": "the metadata names a file outside the source folder",
    "unreadable_file": "the system refuses to read it, or it is no regular file",
    "empty_file": "0 bytes",
    "too_large_file": "more than 64 MiB (of a sound file 256)",
    "not_an_image": "no picture of a known format, whatever its name says",
    "unsupported_format": "a picture format that is not read",
    "too_many_pixels": "more than 50 million pixels",
    "too_small": "the short side is below half the training size",
    "too_long_picture": "too long or too large for the format it is stored in",
    "damaged_image": "cut off or damaged",
    "damaged_sound": "empty, damaged or of an unknown format",
    "too_long_sound": "longer than ten minutes: cut out the part that is meant",
    "bad_caption": "not UTF-8, or longer than 64 KiB",
    "bad_record": "its JSON cannot be read",
    "no_image": "a sample without a picture",
    "no_label": "the data set does not give its class",
}

Reject = dict[str, str]


class RejectedError(Exception):
    """One item cannot be used: a code of `REASONS`, and what exactly."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail

    def line(self, source: str) -> Reject:
        """As it stands in sidecars and in the report."""
        return {"source": source, "reason": self.reason, "detail": self.detail[:300]}


def write_report(out: Path, rejects: list[Reject]) -> None:
    """One JSON line per rejected file, in the order of the shards."""
    lines = [json.dumps(reject, ensure_ascii=False, sort_keys=True) + "\n" for reject in rejects]
    write_atomically(out / REPORT, "".join(lines).encode())


def counts(rejects: list[Reject]) -> dict[str, int]:
    """Reason -> how many, most frequent first."""
    return dict(sorted(Counter(r["reason"] for r in rejects).items(), key=lambda item: (-item[1], item[0])))


def check_rate(rejects: list[Reject], seen: int, limit: float, out: Path, *, at_end: bool = False) -> None:
    """Stop when more than `limit` of the items seen were rejected.

    Raises:
        DataError: names the share, the top three reasons, the report and how to go on.
    """
    rate = len(rejects) / max(1, seen)
    if rate <= limit or (seen < CHECKED_FROM and not at_end):
        return
    top = ", ".join(f"{n} x {reason} ({REASONS[reason]})" for reason, n in list(counts(rejects).items())[:3])
    write_report(out, rejects)
    allowed = min(1.0, rate * 1.2 + 0.01)
    raise DataError(
        f"{len(rejects)} of {seen} files cannot be used ({rate:.1%}, the limit is {limit:.1%}): {top}.\n"
        f"Each is listed in {out / REPORT}. To go on without them:  max_reject_rate={allowed:.2f}  "
        "(in `tessera run` with shards. in front)"
    )
