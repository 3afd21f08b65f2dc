"""Pictures row under row on one sheet, for the eye."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw

MARGIN, LETTER_WIDTH, MOST_LETTERS, SHOWN_SIDE = 2, 6, 40, 128


def paint_grid(rows: Sequence[Sequence[Image.Image]], labels: Sequence[str] | None = None) -> Image.Image:
    """Pictures of one size, row under row on white; `labels` names the rows.

    Small ones are shown larger, by the whole factor that brings their shorter side nearest to `SHOWN_SIDE` from below.
    """
    if not rows or not rows[0]:
        raise ValueError("a grid needs at least one picture.")
    factor = max(1, SHOWN_SIDE // min(rows[0][0].size))
    width, height = (factor * side for side in rows[0][0].size)
    shown = [label if len(label) <= MOST_LETTERS else f"{label[: MOST_LETTERS - 2]}.." for label in labels or []]
    left = 8 + LETTER_WIDTH * max(map(len, shown)) if any(shown) else 0
    columns = max(len(row) for row in rows)
    sheet = Image.new("RGB", (left + columns * (width + MARGIN), len(rows) * (height + MARGIN)), "white")
    pen = ImageDraw.Draw(sheet)
    for r, row in enumerate(rows):
        if labels:
            pen.text((4, r * (height + MARGIN) + height // 2 - 6), shown[r], fill="black")
        for c, picture in enumerate(row):
            larger = picture.resize((width, height), Image.Resampling.BICUBIC) if factor > 1 else picture
            sheet.paste(larger, (left + c * (width + MARGIN), r * (height + MARGIN)))
    return sheet
