"""What every stage is: one frozen, torch-free value. No base class, no registry, no look-up by string.

`run` imports what it needs inside, so that the list of all stages costs nothing to import and a wrong recipe answers
at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.config import Recipe

Results = dict[str, Any]
Run = Callable[[Any, dict[str, Path], Path], Results]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A step of the pipeline that turns finished folders into one finished folder."""

    name: str
    """The section of the recipe and the folder under runs/<name>/."""
    config: type
    """A frozen dataclass; fields marked `identity=False` never make a finished stage 'changed'."""
    needs: Callable[[Recipe], tuple[str, ...]]
    """Names of the stages whose folders `run` receives as `inputs`; `recipe.has(name)` tells what a recipe provides."""
    makes: tuple[str, ...]
    """Files or folders under the stage folder that must exist for it to be finished; they are fingerprinted."""
    run: Run
    """`run(cfg, inputs, out)` returns JSON results for the manifest; raises `Stopped` when stopped before the end."""
    distributed: bool = False
    """Whether several processes may enter `run` together (RANK and WORLD_SIZE set)."""
    check: Callable[[Any, Recipe], None] | None = None
    """`check(cfg, recipe)` raises ValueError for what a config alone cannot know, such as the shards' size."""
    check_data: Callable[[Any, Recipe, Path], None] | None = None
    """`check_data(cfg, recipe, shards)`, asked as soon as the shards are finished, before any later stage trains for
    hours: ValueError for what only the data can say."""
