"""Let `import torchaudio` work beside a CPU build of torch. Torch-free.

The torchaudio wheel of PyPI is linked against CUDA: its compiled part does not load beside a CPU torch, and since
transformers imports torchaudio wherever it is installed, even `from transformers import CLIPModel` fails. Everything
used here (mel filters, resampling, Kaldi features) is plain torch. So: run the module that loads the compiled part, and
where that raises OSError mark the part as missing. An installation that loads is left as it is.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

COMPILED = "torchaudio._extension"


class _Forgiving(Loader):
    """Executes the module as its own loader would, and survives a compiled part that does not load."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        made: ModuleType | None = self.inner.create_module(spec)
        return made

    def exec_module(self, module: ModuleType) -> None:
        try:
            self.inner.exec_module(module)
        except (OSError, RuntimeError):  # RuntimeError: built for another CUDA than torch
            module.__dict__.update(
                _IS_TORCHAUDIO_EXT_AVAILABLE=False,
                _IS_ALIGN_AVAILABLE=False,
                fail_if_no_align=lambda function: function,
            )


class _Finder(MetaPathFinder):
    """Wraps the loader of one module, and of no other."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != COMPILED:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Forgiving(spec.loader)
        return spec


def install() -> None:
    """Put the hook in place, once; must come before the first import of torchaudio or of a transformers model."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
