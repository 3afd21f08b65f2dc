"""The page around the report's content: style sheet, sections, pictures, tables. What is given as text is escaped."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from launchers.report_curves import short
from launchers.report_run import as_json

SHOWN_WIDTH = 1040
"""Small pictures are enlarged by a whole factor up to about this many CSS pixels."""
LARGEST_SIDE = 2400
"""Larger pictures are scaled down before they enter the page."""
MAX_LISTED = 12
_HASH = re.compile(r"[0-9a-f]{40,64}")

STYLE = """
:root{color-scheme:light dark;--bg:#fbfaf7;--fg:#1d1c1a;--soft:#6d6a64;--line:#dfdbd2;--panel:#fff;--good:#2c7a4b;
--wait:#a06a10;--c0:#2563a8;--c1:#c2571a;--c2:#2c7a4b;--c3:#8a3fa0;--c4:#a8324a;--c5:#5b6470}
@media(prefers-color-scheme:dark){:root{--bg:#161618;--fg:#e9e6e0;--soft:#9b978f;--line:#34333a;--panel:#1e1e22;
--good:#6cc08b;--wait:#e0aa55;--c0:#6ea8e8;--c1:#f0955c;--c2:#6cc08b;--c3:#c58ad8;--c4:#ec7f95;--c5:#a5adb8}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--fg);font:16px/1.55 system-ui,-apple-system,"Segoe UI",sans-serif}
main{max-width:1120px;margin:0 auto;padding:2.5rem 1.25rem 5rem}
h1{font-size:2.1rem;line-height:1.15;letter-spacing:-.02em;margin:0;overflow-wrap:anywhere}
h2{font-size:1.3rem;letter-spacing:-.01em;margin:3.2rem 0 1rem;padding-top:1.1rem;border-top:1px solid var(--line)}
h3{font-size:1rem;margin:1.6rem 0 .6rem}
p{margin:.4rem 0;max-width:46rem}.soft,figcaption{color:var(--soft);font-size:.88rem}
.states{list-style:none;display:flex;flex-wrap:wrap;gap:.45rem;padding:0;margin:1rem 0 0}
.states li{border:1px solid var(--line);
background:var(--panel);border-radius:99px;padding:.12rem .75rem;font-size:.86rem}
.states li::before{content:"";display:inline-block;width:.5rem;height:.5rem;border-radius:50%;margin-right:.45rem;
background:var(--wait)}.states li.done::before{background:var(--good)}
.tiles{display:flex;flex-wrap:wrap;gap:.4rem 2.4rem;margin:1.5rem 0 0}.tiles div{min-width:5rem}
.tiles dt{color:var(--soft);font-size:.82rem}.tiles dd{margin:0;font-size:1.45rem;font-weight:600;line-height:1.2;
font-variant-numeric:tabular-nums}
figure{margin:0 0 1.4rem}figcaption{margin:.35rem 0}
.picture img{display:block;max-width:100%;height:auto;border-radius:4px}
.picture img.small{image-rendering:pixelated}
.strip{display:grid;grid-template-columns:repeat(auto-fill,minmax(220px,1fr));gap:1rem}.strip img{width:100%}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,400px),1fr));gap:1rem 1.4rem}
.chart{background:var(--panel);border:1px solid var(--line);border-radius:8px;padding:.7rem .8rem .5rem;margin:0}
.chart figcaption{color:var(--fg);font-weight:600;margin:0 0 .3rem}.chart>svg{width:100%;height:auto;display:block}
.chart text{fill:var(--soft);font-size:13px;font-variant-numeric:tabular-nums}
.grid{stroke:var(--line);fill:none}.line{fill:none;stroke-width:2;stroke-linejoin:round;stroke:var(--k)}
.dashed{stroke-dasharray:6 4}.dot{fill:var(--k)}
.c0{--k:var(--c0)}.c1{--k:var(--c1)}.c2{--k:var(--c2)}.c3{--k:var(--c3)}.c4{--k:var(--c4)}.c5{--k:var(--c5)}
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:.1rem 1.1rem;padding:0;margin:.4rem 0 0;font-size:.82rem;
color:var(--soft)}.legend svg{width:22px;height:8px;margin-right:.4rem}.legend b{color:var(--fg);font-weight:600}
.wide{overflow-x:auto;margin-bottom:1.2rem}.tables .wide>table{width:100%}
table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums}
th,td{text-align:left;vertical-align:top;padding:.28rem 1.4rem .28rem 0;border-bottom:1px solid var(--line)}
th{font-weight:500;color:var(--soft);overflow-wrap:break-word}td{overflow-wrap:break-word;min-width:4rem}
td.number,.tables th+td{text-align:right}
th:last-child,td:last-child{padding-right:0}
.tables{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,330px),1fr));gap:0 2.2rem}
.bars td{vertical-align:middle}.bar{width:min(22rem,38vw);height:.72rem;border-radius:3px;background:var(--line)}
.bar i{display:block;height:100%;border-radius:3px;background:var(--c0)}
pre{background:var(--panel);border:1px solid var(--line);border-radius:8px;padding:1rem;overflow-x:auto;
font:.84rem/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
details{margin:1rem 0}summary{cursor:pointer;color:var(--soft);font-size:.9rem;margin-bottom:.8rem}
@media print{:root{color-scheme:light}h2{break-after:avoid}figure,.chart{break-inside:avoid}}
"""


def page(title: str, head: str, sections: Iterable[str]) -> str:
    """A whole document; `head` and `sections` are HTML."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"<header><h1>{escape(title)}</h1>\n{head}</header>\n{''.join(sections)}"
        "</main>\n</body>\n</html>\n"
    )


def section(anchor: str, title: str, *content: str) -> str:
    """A section of the page, or nothing where it has no content."""
    inside = "\n".join(filter(None, content))
    return f'<section id="{escape(anchor)}">\n<h2>{escape(title)}</h2>\n{inside}\n</section>\n' if inside else ""


def folded(summary: str, content: str) -> str:
    """Content behind a line to click, or nothing."""
    return f"<details><summary>{escape(summary)}</summary>\n{content}\n</details>" if content else ""


def soft(text: str) -> str:
    """A quiet paragraph."""
    return f'<p class="soft">{escape(text)}</p>'


def picture(path: Path, caption: str) -> str:
    """A figure with the PNG inside; nothing where the file is not a whole picture (a stop can cut it off)."""
    loaded = _png(path)
    if loaded is None:
        return ""
    payload, (width, _) = loaded
    factor = max(1, SHOWN_WIDTH // width) if width <= SHOWN_WIDTH // 2 else 1
    factor = min(factor, 4)
    small = ' class="small"' if factor > 1 else ""
    data = base64.b64encode(payload).decode()
    return (
        f'<figure class="picture"><img{small} width="{width * factor}" alt="{escape(caption)}" '
        f'src="data:image/png;base64,{data}"><figcaption>{escape(caption)}</figcaption></figure>'
    )


def _png(path: Path) -> tuple[bytes, tuple[int, int]] | None:
    from PIL import Image

    try:
        payload = path.read_bytes()
        with Image.open(io.BytesIO(payload), formats=("PNG",)) as image:
            image.load()
            if max(image.size) > LARGEST_SIDE:
                image.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
                buffer = io.BytesIO()
                image.save(buffer, "PNG", optimize=True)
                payload = buffer.getvalue()
            return payload, image.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def facts(rows: Iterable[tuple[str, Any]]) -> str:
    """A table of names and values, or nothing."""
    lines = "".join(f"<tr><th>{escape(name)}</th>{_cell(value)}</tr>" for name, value in rows)
    return f'<div class="wide"><table>{lines}</table></div>' if lines else ""


def table(columns: Sequence[Any], rows: Sequence[Sequence[Any]], most: int = 60) -> str:
    """A table with a head; the rows beyond `most` are counted, not shown."""
    head = "".join(f"<th>{escape(str(column))}</th>" for column in columns)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows[:most])
    more = soft(f"and {len(rows) - most:,} more rows") if len(rows) > most else ""
    return f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>{more}'


def bars(rows: Iterable[tuple[str, float, str]]) -> str:
    """Name, share of the full bar in [0, 1], and what it says in words; nothing without rows."""
    lines = "".join(
        f'<tr><th>{escape(name)}</th><td><div class="bar"><i style="width:{100 * min(1.0, max(0.0, share)):.1f}%">'
        f"</i></div></td><td>{escape(words)}</td></tr>"
        for name, share, words in rows
    )
    return f'<div class="wide"><table class="bars">{lines}</table></div>' if lines else ""


def _cell(value: Any) -> str:
    number = ' class="number"' if isinstance(value, int | float) and not isinstance(value, bool) else ""
    return f"<td{number}>{escape(in_words(value))}</td>"


def in_words(value: Any) -> str:
    """A result as a person reads it; of a long list its beginning and its length."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return short(value)
    if isinstance(value, list):
        beginning = ", ".join(map(in_words, value[:MAX_LISTED])) or "–"
        return beginning + (f", … ({len(value):,} in all)" if len(value) > MAX_LISTED else "")
    if isinstance(value, str):
        return f"{value[:12]}…" if _HASH.fullmatch(value) else value
    return as_json(value)
