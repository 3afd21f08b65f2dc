"""The settings of the stage `vqvae`: presets that build, and errors that say what to write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from data_prep.stage import STAGE as SHARDS
from pipeline.config import check, load_recipe
from pipeline.errors import ConfigError, DataError, MissingInputError
from pipeline.schema import build as build_config
from stages.vqvae.config import DEFAULT_SIZES, PRESETS, VQVAEConfig
from stages.vqvae.load import save_autoencoder
from stages.vqvae.settings import CodebookSettings, LossSettings
from stages.vqvae.stage import STAGE, check_data
from stages.vqvae.train import build


@pytest.fixture
def configured(tmp_path: Path) -> Any:
    def configure(section: str, *overrides: str, shards: str = "{path: .}") -> VQVAEConfig:
        path = tmp_path / "mine.yaml"
        path.write_text(f"shards: {shards}\nvqvae: {section}\n", encoding="utf-8")
        cfg = check(load_recipe(path, overrides), (SHARDS, STAGE))["vqvae"]
        assert isinstance(cfg, VQVAEConfig)
        return cfg

    return configure


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_describes_a_model(preset: str, configured: Any) -> None:
    cfg = configured(f"{{preset: '{preset}', channels: 4}}")  # narrow, so that building is quick

    model = build(cfg)

    assert model.levels == cfg.levels == tuple(PRESETS[preset]["levels"])
    assert model.codebook_sizes == cfg.codebook_sizes == tuple(PRESETS[preset]["codebook_sizes"])
    assert model.widths == cfg.code_widths
    assert cfg.channels == 4
    if preset.partition("_")[0].isdigit():
        cfg.check_size(int(preset.partition("_")[0]))


def test_the_paper_preset_is_the_papers() -> None:
    cfg = build_config(VQVAEConfig, PRESETS["vqvae2_paper"])

    assert (cfg.levels, cfg.codebook_sizes, cfg.code_widths) == ((8, 4), (512, 512), (64, 64))
    assert cfg.codebook == CodebookSettings(metric="euclidean")
    assert cfg.loss.mse == 1 and cfg.loss.l1 == cfg.loss.multiscale == cfg.loss.adversarial == 0
    assert cfg.optimizer.lr == 3e-4 and cfg.optimizer.schedule == "constant"


def test_codebooks_follow_the_number_of_levels() -> None:
    for levels in ((8,), (16, 8), (32, 16, 8)):
        cfg = VQVAEConfig(levels=levels)
        assert cfg.codebook_sizes == DEFAULT_SIZES[len(levels)]
        assert cfg.code_widths == (8,) * len(levels)
    assert len(VQVAEConfig(levels=(64, 32, 16, 8)).codebook_sizes) == 4


@pytest.mark.parametrize("bottleneck", ["none", "gaussian", "vq", "fsq"])
def test_every_bottleneck_builds_with_the_defaults(bottleneck: str) -> None:
    model = build(VQVAEConfig(bottleneck=bottleneck, channels=4))

    assert bool(model.codebooks()) == (bottleneck in ("vq", "fsq"))


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ("{bottleneck: vg}", r"bottleneck is one of none, gaussian, vq, fsq; got 'vg'"),
        ("{levels: [8, 16]}", r"coarsest first, such as \[16, 8\]; got \[8, 16\]"),
        ("{levels: [24, 8]}", r"powers of two.*got \[24, 8\]"),
        ("{levels: [8, 8]}", r"levels are falling.*got \[8, 8\]"),
        ("{levels: []}", r"levels are falling"),
        ("{levels: 16}", r"'levels' must be a list, as in \[16\]"),
        ("{codebook_sizes: [64]}", r"codebook_sizes needs one number per level, 2 in all; got \[64\]"),
        ("{code_widths: [8, 8, 8]}", r"code_widths needs one number per level, 2 in all"),
        ("{image_size: 100}", r"image_size must be a multiple of 16.*got 100. Nearest: 96"),
        ("{image_size: 8}", r"got 8. Nearest: 16"),
        ("{codebook: {metric: cosin}}", r"metric is one of cosine, euclidean; got 'cosin'"),
        ("{codebook: {gradient: none}}", r"gradient is one of straight_through, rotation"),
        ("{codebook: {decay: 1.0}}", r"decay is in \(0, 1\)"),
        ("{loss: {l1: -1}}", r"loss.l1 must not be negative; got -1"),
        ("{loss: {l1: 0, mse: 0, multiscale: 0}}", r"nothing asks for a reconstruction"),
        ("{loss: {adversarial: 0.1}, backend: {zero_stage: 2}}", r"Set loss.adversarial=0, or backend.zero_stage=0"),
        ("{bottlneck: vq}", r"unknown key 'bottlneck'. Did you mean 'bottleneck'"),
        ("{codebook: {metrc: cosine}}", r"unknown key 'metrc'. Did you mean 'metric'"),
        ("{preset: '255'}", r"no preset '255'"),
        ("{codebook_sizes: [0, 8192]}", r"codebook_sizes are positive; got \[0, 8192\]"),
        ("{code_widths: [8, -1]}", r"code_widths are positive"),
        ("{bottleneck: fsq, codebook_sizes: [1000, 8192]}", r"fsq has codebooks of 64, 128, .* rows; got 1000"),
        ("{init_from: runs/none/vqvae}", r"vqvae.init_from=runs/none/vqvae is no finished stage"),
    ],
)
def test_what_cannot_be_says_what_to_write(section: str, said: str, configured: Any) -> None:
    with pytest.raises(ConfigError, match=said):
        configured(section)


def test_shards_of_this_recipe_must_divide_into_the_coarsest_patches(configured: Any) -> None:
    with pytest.raises(ConfigError, match=r"multiple of 16.*got 72. Nearest: 64"):
        configured("{}", shards="{source: birds, size: 72}")
    assert configured("{levels: [8, 4]}", shards="{source: birds, size: 72}").levels == (8, 4)


def test_shards_that_lie_there_must_divide_too_before_anything_is_trained(tmp_path: Path, configured: Any) -> None:
    (tmp_path / "dataset.json").write_text('{"image_size": 72}')
    with pytest.raises(ValueError, match=r"multiple of 16.*got 72"):
        check_data(VQVAEConfig(), None, tmp_path)  # type: ignore[arg-type]
    check_data(VQVAEConfig(image_size=64), None, tmp_path)  # type: ignore[arg-type]
    check_data(VQVAEConfig(), None, tmp_path / "tars of others")  # type: ignore[arg-type]


def test_adding_a_weight_to_the_command_line_keeps_the_presets_others(configured: Any) -> None:
    cfg = configured("{preset: '256'}", "vqvae.loss.mse=3")

    assert cfg.loss == LossSettings(adversarial=0.1, mse=3.0)


def test_a_model_starts_from_the_weights_of_another_run(tmp_path: Path) -> None:
    first = build(VQVAEConfig(channels=4, codebook_sizes=(8, 16)))
    first.decoder.pixels[0].bias.data.fill_(0.5)
    save_autoencoder(first, tmp_path / "model", {"image_size": 32})

    second = build(VQVAEConfig(channels=4, codebook_sizes=(8, 16), init_from=str(tmp_path)))

    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )
    with pytest.raises(ConfigError, match="another shape"):
        build(VQVAEConfig(channels=8, codebook_sizes=(8, 16), init_from=str(tmp_path)))
    assert (tmp_path / "model" / "model.safetensors").stat().st_mode & 0o777 == 0o644, "others may start from it"
    (tmp_path / "model" / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(DataError, match="is damaged"):
        build(VQVAEConfig(channels=4, codebook_sizes=(8, 16), init_from=str(tmp_path)))
    with pytest.raises(MissingInputError, match="no trained autoencoder"):
        build(VQVAEConfig(init_from=str(tmp_path / "nowhere")))
