"""Which kind of source is it? One file per kind; each lists items in a fixed order."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from data_prep.config import ShardsConfig
from data_prep.items import Listing, printable
from data_prep.plan import take
from data_prep.sources import birds, cub200, folders, imagenet, metadata, tars, vggsound
from data_prep.sources.beside import first_picture
from pipeline.errors import ConfigError, DataError


def list_source(cfg: ShardsConfig) -> Listing:
    """List `cfg.source`: `birds`, a metadata file, a data set in its own layout, tars, class folders or a bare folder.

    The first of these that fits, in this order.

    Raises:
        ConfigError: nothing is there.
        DataError: nothing in it can be listed.
    """
    if cfg.source == birds.NAME:
        return birds.list_birds(cfg)
    root = Path(cfg.source).expanduser()
    if not root.exists():
        raise ConfigError(
            f"no folder at {root}.\nGive a folder of images or of tars, or `birds`:  tessera shard birds OUT"
        )
    listing = _list_files(cfg, root)
    if not listing.items:
        raise DataError(
            f"{root} holds no images (nor tars): {_what_is_there(root)}.\n"
            "Give the folder the images lie in; it may hold one folder per class."
        )
    return replace(listing, items=take(cfg, listing.items))


def _list_files(cfg: ShardsConfig, root: Path) -> Listing:
    if root.is_file() and root.suffix != ".tar":
        raise ConfigError(f"{root} is a file.\nGive the folder it lies in:  {root.parent}")
    if root.is_dir():
        tables = metadata.find_tables(root)
        if tables:
            return metadata.list_metadata(cfg, root, tables)
        if (base := cub200.find_cub200(root)) is not None:
            return cub200.list_cub200(cfg, base)
        if (base := imagenet.find_imagenet(root)) is not None:
            return imagenet.list_imagenet(cfg, base)
        if (base := vggsound.find_vggsound(root)) is not None:
            return vggsound.list_vggsound(cfg, base)
    archives = tars.find_tars(root)
    ours = (root / "dataset.json").is_file()  # shards of a run have pictures for the eye beside them
    if archives and not (root.is_file() or ours):
        _refuse_both(root, archives[0])
    if archives:
        return tars.list_tars(cfg, root, archives)
    return folders.list_folders(cfg, root)


def _refuse_both(root: Path, tar: Path) -> None:
    """DataError where pictures lie beside the tars: which of them is the data set, nobody can tell."""
    if (picture := first_picture(root)) is not None:
        raise DataError(
            f"{root} holds tars ({tar.relative_to(root)}) and pictures ({printable(picture)}).\n"
            f"Give the folder of one kind, such as {tar.parent if tar.parent != root else tar}, or take the other away."
        )


def _what_is_there(root: Path) -> str:
    names = sorted(entry.name for entry in root.iterdir()) if root.is_dir() else []
    if not names:
        return "the folder is empty"
    return f"it has {len(names)} entries, {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
