"""Tessera's Python face.

import tessera

paint = tessera.load("runs/birds")
images = paint(cls="robin", n=4)
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stages.generate import Painter

__all__ = ["load"]


def load(run: str | Path, with_: str = "prior", device: str | None = None) -> Painter:
    """A painter from a finished run.

    Args:
        run: a run folder, or the name of one in runs/.
        with_: the stage that paints.
        device: 'cpu' or 'cuda'; a GPU where there is one.
    """
    from launchers.run_folders import run_folder
    from stages.generate import Painter

    return Painter.load(run_folder(str(run)), with_=with_, device=device)
