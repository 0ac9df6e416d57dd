"""Who runs which cell, when several benches work on one store at once. Needs no torch.

A claim is a lock on one byte of the file `<store>/.claims`, at a position that follows from the cell's place in the
store. The kernel drops it when the process ends, however it ends, so that nothing has to be cleaned up. Locks of this
kind work across machines on NFS too. They do not keep two threads of one process apart.
"""

import errno
import fcntl
import hashlib
import os
from pathlib import Path

from anomaly_zoo.grid.cells import Cell


class Claims:
    """The claims of this process. At most one such object may be alive per process: closing one drops all its locks."""

    def __init__(self) -> None:
        self._files: dict[Path, int] = {}

    def take(self, cell: Cell) -> bool:
        """Claims a cell; False if another process has it.

        Raises:
            OSError: the store cannot be written, or its file system has no locks.
        """
        if cell.store not in self._files:
            cell.store.mkdir(parents=True, exist_ok=True)
            self._files[cell.store] = os.open(cell.store / ".claims", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.lockf(self._files[cell.store], fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _position(cell))
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                return False
            what = f"{cell.store} cannot be locked ({error.strerror}): choose --results on another file system"
            raise OSError(error.errno, what) from error
        return True

    def release(self, cell: Cell) -> None:
        """Lets others run the cell."""
        fcntl.lockf(self._files[cell.store], fcntl.LOCK_UN, 1, _position(cell))

    def close(self) -> None:
        """Releases all."""
        for file in self._files.values():
            os.close(file)
        self._files.clear()


def _position(cell: Cell) -> int:
    name = cell.path.relative_to(cell.store).as_posix()
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big")
