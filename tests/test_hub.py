"""Models that a recipe names are looked for before anything is trained: in folders, in the cache, on the hub."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import RepositoryNotFoundError

from pipeline.hub import check_model


def answer(error: Exception | None) -> object:
    def model_info(self: HfApi, hub_id: str, timeout: float) -> None:
        assert hub_id == "some/clip" and 0 < timeout < 60
        if error is not None:
            raise error

    return model_info


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (None, ""),
        (httpx.ConnectError("no route"), r"some/clip is not in the local cache, and the hub cannot be reached"),
        (OSError("proxy"), r"the hub cannot be reached \(OSError\). Give a folder"),
        (
            RepositoryNotFoundError("404", response=httpx.Response(404, request=httpx.Request("GET", "https://hub"))),
            "the hub has no such model",
        ),
    ],
)
def test_the_hub_is_asked_for_what_is_not_cached(
    error: Exception | None, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(HfApi, "model_info", answer(error))
    if error is None:
        check_model("codes.conditions.text", "some/clip")
        return
    with pytest.raises(ValueError, match=message):
        check_model("codes.conditions.text", "some/clip")
    monkeypatch.setattr("pipeline.hub._is_cached", lambda hub_id: True)
    check_model("codes.conditions.text", "some/clip")


@pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline_nobody_is_asked(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(HfApi, "model_info", answer(AssertionError("asked")))
    monkeypatch.setenv(name, "1")
    with pytest.raises(ValueError, match="HF_HUB_OFFLINE is set"):
        check_model("codes.conditions.text", "some/clip")
