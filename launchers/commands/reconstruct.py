"""Send pictures of any size through a run's autoencoder and back."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launchers.run_folders import finished_stage, run_folder
from pipeline.errors import ConfigError, DataError

if TYPE_CHECKING:
    import torch

    from stages.vqvae.model import Autoencoder

EXAMPLE = "tessera reconstruct runs/tiny photo.jpg --out reconstructed"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """RUN, pictures and where to put the results."""
    parser.add_argument("run", metavar="RUN", help="a run folder, or the name of one in runs/")
    parser.add_argument("images", metavar="IMAGE", nargs="+", type=Path, help="pictures, any size")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for the results (default: RUN/reconstructed)")
    parser.add_argument("--with", dest="with_", default="vqvae", metavar="STAGE", help="the autoencoder's stage")
    parser.add_argument(
        "--tile", type=int, default=512, metavar="PX", help="side of a tile; 0: no tiles (default: 512)"
    )
    parser.add_argument("--device", metavar="DEVICE", help="cpu or cuda (default: cuda where there is one)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def call(arguments: argparse.Namespace) -> int:
    """Exit code 0 when every picture is written as a PNG of its own size; one line each with its PSNR."""
    if arguments.tile < 0:
        raise ConfigError(f"--tile must be at least 0; got {arguments.tile}.")
    run = run_folder(arguments.run)
    folder = finished_stage(run, arguments.with_)
    if missing := [path for path in arguments.images if not path.is_file()]:
        raise ConfigError(f"no picture at {missing[0]}.")
    from stages.devices import place_of
    from stages.vqvae.load import load_autoencoder

    device = place_of(arguments.device)
    model, _ = load_autoencoder(folder, device)
    out = arguments.out or run / "reconstructed"
    out.mkdir(parents=True, exist_ok=True)
    found = []
    for number, path in enumerate(arguments.images):
        found.append(_reconstruct(model, path, out / f"{number:02d}-{path.stem}.png", device, arguments.tile))
        if not arguments.json:
            print("{picture} -> {file}  {width} x {height}, PSNR {psnr} dB".format(**found[-1]), flush=True)
    if arguments.json:
        print(json.dumps(found, indent=1, ensure_ascii=False))
    return 0


def _reconstruct(model: Autoencoder, path: Path, to: Path, device: torch.device, tile: int) -> dict[str, Any]:
    import numpy as np
    import torch
    from einops import rearrange
    from PIL import Image

    from pipeline.samples import decode_image
    from stages.images import picture_to_tensor, tensor_to_picture
    from stages.vqvae.tiling import reconstruct

    try:
        pixels = decode_image(path.read_bytes())
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    images = picture_to_tensor(rearrange(torch.from_numpy(pixels.copy()), "h w c -> 1 c h w").to(device))
    result = tensor_to_picture(reconstruct(model, images, tile=tile))[0]
    Image.fromarray(result).save(to)
    squared = float(np.mean((pixels.astype(np.float32) - result) ** 2))
    psnr = round(10 * np.log10(255**2 / max(squared, 1e-10)), 2)
    return {"picture": str(path), "file": str(to), "width": pixels.shape[1], "height": pixels.shape[0], "psnr": psnr}
