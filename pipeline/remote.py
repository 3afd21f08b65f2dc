"""Shards behind a URL (http, https, s3, hf): fetched whole, one after another, into a local cache.

An unfinished download is a `.part` file, resumed at its end by offset after any kill. Size and sha256 are checked
against `dataset.json` before a shard appears in the cache, where its name is its sha256: a shard is fetched once,
whatever number of processes, runs or URLs ask for it. Nothing here starts a shell: there is no `pipe:`.
"""

from __future__ import annotations

import errno
import fcntl
import http.client
import queue
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pipeline.atomic_file import sync_folder, write_atomically
from pipeline.errors import DataError
from pipeline.shard_index import Shard, cache_folder, is_remote, sha256_of, sidecar_path

TIMEOUT_SECONDS = 60
"""A connection that gives nothing for so long is dropped and resumed."""
TRIES = 6
"""Attempts in a row that bring not one byte before a download is given up."""
_CHUNK = 1 << 20
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PASSING = (OSError, http.client.HTTPException)
_PERMANENT_STATUS = range(400, 500)
_RETRIED_STATUS = (408, 425, 429)


@dataclass
class Stream:
    """An open download: bytes from `offset` on, of a file of `total` bytes (None: the server does not say)."""

    file: Any
    offset: int
    total: int | None

    def chunk(self) -> bytes:
        """What has arrived, at most 1 MiB; b"" at the end."""
        read = getattr(self.file, "read1", self.file.read)
        data: bytes = read(_CHUNK)
        return data


def local_path(shard: Shard) -> Path:
    """Where the whole shard lies on this machine; a remote one is fetched first if it has to be.

    Raises:
        DataError: the remote file is missing, shorter or longer than its sidecar says, or has another sha256.
    """
    if not is_remote(shard.path):
        return Path(shard.path)
    target = _cached(shard, ".tar")
    if not _complete(target, shard):
        with _locked(target.with_suffix(".lock")):
            if not _complete(target, shard):
                _fetch(shard, target)
    return target


def local_sidecar(shard: Shard) -> Path:
    """Where the sidecar lies on this machine; a remote one is fetched first if it has to be."""
    if not is_remote(shard.path):
        return Path(sidecar_path(shard.path))
    target = _cached(shard, ".json")
    if not target.is_file():
        with _locked(target.with_suffix(".json.lock")):
            if not target.is_file():
                _fetch_sidecar(shard, target)
    return target


def read_remote(url: str) -> bytes:
    """All bytes of a small remote file.

    Raises:
        DataError: missing, forbidden, or out of reach after several attempts.
    """
    for attempt in range(TRIES):
        try:
            stream = open_stream(url)
            with stream.file:
                data: bytes = stream.file.read()
            if stream.total is None or len(data) == stream.total:
                return data
            reason = f"{len(data)} of {stream.total} bytes came"
        except _PASSING as error:
            reason = _reason(error, url)
        time.sleep(_pause(attempt))
    raise DataError(f"{shown(url)} cannot be read: {reason}, {TRIES} times.\nType the same line again once it answers.")


def open_stream(url: str, offset: int = 0) -> Stream:
    """Open a remote file at a byte offset; a server without ranges starts over: `Stream.offset` says 0."""
    if not url.startswith(("http://", "https://")):
        return _open_with_fsspec(url, offset)
    headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={offset}-"} if offset else {})}
    response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_SECONDS)
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range") or "")
    if response.status == 206 and found:
        return Stream(response, int(found[1]), int(found[2]))
    length = response.headers.get("Content-Length")
    return Stream(response, 0, int(length) if length else None)


def shown(url: str) -> str:
    """A URL without what may be secret: user, password, query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


class Prefetch:
    """Fetches shards in the background, in the order asked for; `local_path` then finds them or waits for them.

    Its errors are dropped: whoever needs the shard meets the same error itself.
    """

    def __init__(self, threads: int = 4) -> None:
        self._wanted: queue.SimpleQueue[Shard] = queue.SimpleQueue()
        self._asked: set[str] = set()
        self._threads, self._started = threads, False

    def want(self, shard: Shard) -> None:
        """Fetch this shard soon; a local one needs nothing."""
        if not is_remote(shard.path) or shard.sha256 in self._asked:
            return
        self._asked.add(shard.sha256)
        self._wanted.put(shard)
        if not self._started:
            self._started = True
            for _ in range(self._threads):
                threading.Thread(target=self._work, name="shard-prefetch", daemon=True).start()

    def _work(self) -> None:
        while True:
            shard = self._wanted.get()
            try:
                local_path(shard)
                local_sidecar(shard)
            except Exception:
                self._asked.discard(shard.sha256)


def _open_with_fsspec(url: str, offset: int) -> Stream:
    import fsspec

    try:
        filesystem, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        scheme = urlsplit(url).scheme
        raise DataError(
            f"{shown(url)} needs a package that is not installed: {error}.\nType:  pip install 'fsspec[{scheme}]'"
        ) from None
    file = filesystem.open(path, "rb", cache_type="none")
    file.seek(offset)
    return Stream(file, offset, int(filesystem.size(path)))


def _cached(shard: Shard, suffix: str) -> Path:
    if not _SHA256.fullmatch(shard.sha256):
        raise DataError(
            f"dataset.json gives {shown(shard.path)} no valid sha256.\nMake the shards with `tessera shard`."
        )
    folder = cache_folder() / "shards"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{shard.sha256}{suffix}"


def _complete(path: Path, shard: Shard) -> bool:
    return path.is_file() and path.stat().st_size == shard.bytes


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a file lock; the kernel frees it when its holder dies."""
    with path.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fetch(shard: Shard, target: Path) -> None:
    part = target.with_suffix(".part")
    for attempt in ("resumed", "afresh"):
        _download(shard, part)
        if sha256_of(part) == shard.sha256:
            part.chmod(0o644)
            part.replace(target)
            sync_folder(target.parent)
            return
        part.unlink()  # a resumed file may join two versions: fetch it once more from the start
        if attempt == "afresh":
            break
    raise DataError(
        f"{shown(shard.path)} has another sha256 than dataset.json says: damaged or replaced.\n"
        "Check the original:  tessera verify SHARDS"
    )


def _fetch_sidecar(shard: Shard, target: Path) -> None:
    url = sidecar_path(shard.path)
    payload = read_remote(url)
    if f'"sha256":"{shard.sha256}"'.encode() not in payload.replace(b" ", b""):  # a log-in page, or another data set's
        raise DataError(f"{shown(url)} is not the sidecar of the shard that dataset.json lists.")
    write_atomically(target, payload)


def _download(shard: Shard, part: Path) -> None:
    """Append to `part` until it holds the whole shard."""
    if part.exists() and part.stat().st_size > shard.bytes:
        part.unlink()
    idle, reason = 0, ""
    while idle < TRIES:
        before = part.stat().st_size if part.exists() else 0
        if before == shard.bytes:
            return
        try:
            _append(shard, part, before)
            reason = "the connection ended early"
        except _PASSING as error:
            _refuse_full_disk(error, part)
            reason = _reason(error, shard.path)
        after = part.stat().st_size if part.exists() else 0
        if after != shard.bytes:
            time.sleep(_pause(idle))
        idle = 0 if after > before else idle + 1
    raise DataError(
        f"{shown(shard.path)} stopped at {before:,} of {shard.bytes:,} bytes: {reason}, {TRIES} times.\n"
        "Type the same line again once it answers; what was fetched is kept."
    )


def _append(shard: Shard, part: Path, offset: int) -> None:
    stream = open_stream(shard.path, offset)
    with stream.file, part.open("ab", buffering=0) as out:
        if stream.total is not None and stream.total != shard.bytes:
            longer = "shorter" if stream.total < shard.bytes else "longer"
            raise DataError(
                f"{shown(shard.path)} holds {stream.total:,} bytes, {longer} than the {shard.bytes:,} its sidecar "
                "says: cut off or replaced.\nUpload the shard again."
            )
        out.truncate(stream.offset)
        size = stream.offset
        while data := stream.chunk():
            size += out.write(data)
            if size > shard.bytes:
                raise DataError(f"{shown(shard.path)} is longer than the {shard.bytes:,} bytes its sidecar says.")


def _reason(error: BaseException, url: str) -> str:
    """One line; a status that will not change raises at once."""
    if isinstance(error, FileNotFoundError):
        raise DataError(f"{shown(url)} is missing.") from None
    if isinstance(error, urllib.error.HTTPError):
        error.close()
        if error.code in _PERMANENT_STATUS and error.code not in _RETRIED_STATUS:
            what = {401: "needs a password", 403: "is forbidden", 404: "is missing", 410: "is gone", 416: "is cut off"}
            raise DataError(f"{shown(url)} {what.get(error.code, 'is refused')} (HTTP {error.code}).") from None
    return f"{type(error).__name__}: {str(error)[:120]}"


def _refuse_full_disk(error: BaseException, part: Path) -> None:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        raise DataError(
            f"no space left in {part.parent}.\nFree some, or set TESSERA_CACHE to a larger disk."
        ) from error


def _pause(attempt: int) -> float:
    return float(min(0.2 * 3**attempt, 20.0))
