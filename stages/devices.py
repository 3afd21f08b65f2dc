"""Where a finished model runs."""

from __future__ import annotations

import torch

from pipeline.errors import ConfigError


def place_of(device: str | torch.device | None = None) -> torch.device:
    """A device by its name; without one a GPU where there is one.

    Raises:
        ConfigError: torch knows no such device, or it is not here.
    """
    try:
        place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(1, device=place)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch raises each of them
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise ConfigError(f"no device '{device}' here ({reason}). Write cpu or cuda, or leave it out.") from error
    return place
