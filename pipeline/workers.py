"""Reader processes beside a training process: batch i comes from worker i mod workers, so their number changes nothing.

Torch's DataLoader carries the batches (shared memory, death of a worker noticed); what to read stays in the plan.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from pipeline.batch import Batch, Unreadable
from pipeline.errors import TesseraError

Piece = tuple[Batch, list[Unreadable]]
Read = Callable[[int, int], Iterator[Piece]]
"""(start, stride) -> the pieces start, start + stride, ... without end."""
TIMEOUT_SECONDS = 300
TIMEOUT_SECONDS_REMOTE = 3600
"""The first batch waits for the first block of every lane to be fetched."""
_REQUESTS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


def read_with_workers(read: Read, start: int, workers: int, *, patient: bool = False) -> Iterator[Piece]:
    """All pieces from `start` on, in order, read in this process or by workers.

    Raises:
        TesseraError: what a worker raised, or that it died or hung.
    """
    if workers == 0:
        yield from read(start, 1)
        return
    loader = DataLoader(
        _Pieces(read, start),
        batch_size=None,
        num_workers=workers,
        collate_fn=_unchanged,
        worker_init_fn=_prepare_worker,
        timeout=TIMEOUT_SECONDS_REMOTE if patient else TIMEOUT_SECONDS,
        generator=torch.Generator(),  # else the loader draws from torch's global generator
    )
    try:
        for piece in _started(loader):
            if isinstance(piece, TesseraError):
                raise piece
            yield piece
    except RuntimeError as error:
        if "DataLoader" not in str(error):
            raise
        raise TesseraError(
            f"a reader worker died or hung: {str(error).splitlines()[0]}\nSee why with data.workers=0; few workers and "
            "a larger /dev/shm help where memory is short."
        ) from error


def _started(loader: DataLoader[Any]) -> Iterator[Any]:
    """Start the workers with the requests blocked: one that came before `_prepare_worker` ran would end a worker."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _REQUESTS)
    try:
        return iter(loader)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Pieces(IterableDataset[Any]):
    def __init__(self, read: Read, start: int) -> None:
        self._read, self._start = read, start

    def __iter__(self) -> Iterator[Piece | TesseraError]:
        info = get_worker_info()
        number, workers = (info.id, info.num_workers) if info else (0, 1)
        try:
            yield from self._read(self._start + number, workers)
        except TesseraError as error:  # as a value: the loader would wrap its text in a traceback
            yield error


def _unchanged(piece: Any) -> Any:
    return piece


def _prepare_worker(_: int) -> None:
    """One thread; a request to stop (Ctrl-C, Slurm's signals reach all processes) is the training process's matter.

    A worker that died of it would take the last checkpoint with it. Only the parent's own SIGTERM ends a worker.
    """
    torch.set_num_threads(1)
    signal.pthread_sigmask(signal.SIG_BLOCK, _REQUESTS)
    threading.Thread(target=_obey_parent, args=(os.getppid(),), daemon=True).start()


def _obey_parent(parent: int) -> None:
    while True:
        request = signal.sigwaitinfo(_REQUESTS)
        if request.si_signo == signal.SIGTERM and request.si_pid == parent:
            os._exit(0)
