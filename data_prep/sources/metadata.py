"""Hugging Face's imagefolder layout: `metadata.jsonl|csv|parquet` beside the images, at the root or in its folders.

Column `file_name` is required; `label` (name or number), `text`, `caption` and `captions` (one or a list of them),
`audio`, `source` (the condition picture) and `attributes` ({name: value}) are known, the others go into the sample's
`.json`. Paths are relative to the table.
"""

from __future__ import annotations

import csv
import json
import logging
import math
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from data_prep.config import ShardsConfig
from data_prep.file_members import FileMembers, finite
from data_prep.items import Item, Listing, Place, file_place, label_text, number_labels, printable
from data_prep.sources.folders import SPLIT_FOLDERS
from pipeline.errors import ConfigError, DataError

TABLES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
CAPTIONS = ("text", "caption", "captions")
MEANT_AS_LABEL = ("class", "cls", "class_name", "category", "labels")
KNOWN = ("file_name", "label", *CAPTIONS, "audio", "source", "attributes", "split")
Row = dict[str, Any]
log = logging.getLogger(__name__)


def find_tables(root: Path) -> list[Path]:
    """The metadata files at `root` or, if there is none, in the folders below it; one per folder."""
    for pattern in ("", "*/", "*/*/"):
        found = [path for name in TABLES for path in root.glob(pattern + name)]
        if found:
            return sorted({path.parent: path for path in reversed(found)}.values())
    return []


def list_metadata(cfg: ShardsConfig, root: Path, tables: list[Path]) -> Listing:
    """List every row of the tables, in their order.

    Raises:
        DataError: a line cannot be read or has no `file_name`; names file and line.
    """
    rows = [(f"{table.relative_to(root)}:{line}", table, row) for table in tables for line, row in read_table(table)]
    columns = {column for _, _, row in rows for column in row}
    if "label" not in columns and (meant := [column for column in MEANT_AS_LABEL if column in columns]):
        log.warning("%s: column '%s' is no class: that is read from 'label'", tables[0], meant[0])
    names, labels = number_labels([label_text(row.get("label")) for _, _, row in rows])
    items = [
        replace(_item(root, table, row, where), label=label)
        for (where, table, row), label in zip(rows, labels, strict=True)
    ]
    return Listing("metadata", names, items, FileMembers(cfg))


def _item(root: Path, table: Path, row: Row, where: str) -> Item:
    name = row.get("file_name")
    if not isinstance(name, str) or not name:
        raise DataError(f"{root}/{where}: no 'file_name'. Every line names an image relative to {table.name}.")
    folder = table.parent.relative_to(root).as_posix()
    path = name if folder == "." else f"{folder}/{name}"
    split = _split(row.get("split"), path, f"{root}/{where}")
    columns = {c: row[c] for c in ("file_name", "audio", "source") if _given(row.get(c))}
    for column in (*columns, "label"):
        _refuse_halves(row.get(column), column, f"{root}/{where}")
    outside = [c for c, value in columns.items() if not _inside(root, table.parent, value)]
    if outside:
        detail = f"{outside[0]} '{str(columns[outside[0]])[:100]}' at {where}"
        return Item(printable(path), split, refused=("outside_folder", detail))
    places = {c: _place(table.parent, value) for c, value in columns.items()}
    return Item(
        printable(path), split, image=places["file_name"], captions=_captions(row, f"{root}/{where}"),
        audio=places.get("audio"), pair=places.get("source"), facts=_facts(row, f"{root}/{where}"),
    )  # fmt: skip


def _split(said: Any, path: str, where: str) -> str | None:
    """The split a row names, else the first folder of its path that is called like one."""
    if _given(said):
        if str(said).lower() not in SPLIT_FOLDERS:
            raise DataError(f"{where}: no split '{said}'. Known: {', '.join(SPLIT_FOLDERS)}; or leave it out.")
        return SPLIT_FOLDERS[str(said).lower()]
    folders = (folder.lower() for folder in path.split("/")[:-1])
    return next((SPLIT_FOLDERS[folder] for folder in folders if folder in SPLIT_FOLDERS), None)


def _refuse_halves(value: Any, column: str, where: str) -> None:
    """JSON may hold half of a letter, which no file and no class is called by."""
    if isinstance(value, str):
        try:
            value.encode() if column == "label" else os.fsencode(value)  # a file's name may be no UTF-8
        except UnicodeEncodeError as error:
            raise DataError(f"{where}: '{column}' holds half of a letter: {value!a}.") from error


def _given(value: Any) -> bool:
    return value is not None and value != "" and not (isinstance(value, float) and math.isnan(value))


def _inside(root: Path, folder: Path, name: Any) -> bool:
    path = os.path.normpath(folder.absolute() / str(name))
    return (
        isinstance(name, str) and "\0" not in name and path.startswith(f"{os.path.normpath(root.absolute())}{os.sep}")
    )


def _place(folder: Path, name: str) -> Place:
    return file_place(f"{folder}/{name}")


def _captions(row: Row, where: str) -> tuple[str, ...]:
    texts: list[str] = []
    for column in CAPTIONS:
        value = _listed(row.get(column))
        found = list(value) if isinstance(value, list | tuple) else [value] if _given(value) else []
        if any(not isinstance(text, str) for text in found):
            raise DataError(f"{where}: '{column}' must be a text or a list of texts.")
        texts += found
    return tuple(dict.fromkeys(text.strip() for text in texts if text.strip()))


def _listed(value: Any) -> Any:
    """A list where a cell holds one as JSON, as columns of CSV must; anything else as it is."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            found = json.loads(value)
        except (ValueError, RecursionError):  # a caption that opens with a bracket
            return value
        return found if all(isinstance(one, str) for one in found) else value
    return value


def _facts(row: Row, where: str) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    attributes = row.get("attributes")
    if isinstance(attributes, str) and attributes:
        try:
            attributes = json.loads(attributes)
        except (ValueError, RecursionError):
            raise DataError(f"{where}: 'attributes' is not a JSON mapping.") from None
    if _given(attributes) and not isinstance(attributes, dict):
        raise DataError(f"{where}: 'attributes' must be a mapping {{name: value}}.")
    if attributes:
        facts["attributes"] = {str(name): str(value) for name, value in attributes.items() if _given(value)}
    rest = {name: value for name, value in row.items() if name not in KNOWN and _given(value)}
    if rest:
        facts["metadata"] = finite(rest)
    return facts


def read_table(path: Path) -> Iterator[tuple[int, Row]]:
    """(line number, row) of a metadata file; DataError names the line that cannot be read."""
    readers = {".jsonl": _read_jsonl, ".csv": _read_csv, ".parquet": _read_parquet}
    try:
        yield from readers[path.suffix](path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error


def _read_jsonl(path: Path) -> Iterator[tuple[int, Row]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except UnicodeDecodeError as error:
                raise DataError(f"{path}:{number}: not UTF-8 ({error.reason}). Save it as UTF-8.") from None
            except (ValueError, RecursionError) as error:
                raise DataError(f"{path}:{number}: not a line of JSON ({error}). Correct or remove the line.") from None
            if not isinstance(row, dict):
                raise DataError(f"{path}:{number}: not a JSON object {{...}}. Correct or remove the line.")
            yield number, row


def _read_csv(path: Path) -> Iterator[tuple[int, Row]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            for row in reader:
                if None in row or None in row.values():
                    raise DataError(
                        f"{path}:{reader.line_num}: {'more' if None in row else 'fewer'} fields than the header's "
                        f"{len(reader.fieldnames or [])}. Quote fields that hold commas."
                    )
                yield reader.line_num, dict(row)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 ({error.reason} at byte {error.start}). Save it as UTF-8.") from None
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: {error}.") from None


def _read_parquet(path: Path) -> Iterator[tuple[int, Row]]:
    try:
        from pyarrow import parquet
    except ImportError:
        raise ConfigError(f"{path} needs pyarrow.\nInstall it:  pip install pyarrow") from None
    try:
        rows = parquet.read_table(path).to_pylist()
    except Exception as error:  # pyarrow raises its own types and plain ones for damaged files
        raise DataError(f"{path}: not a readable parquet file ({type(error).__name__}: {str(error)[:120]}).") from None
    yield from enumerate(rows, 1)
