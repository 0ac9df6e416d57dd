"""Downloads that survive a bad line: several addresses, resumed where they broke off, and checked by their SHA-256."""

import errno
import hashlib
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

Progress = Callable[[int, int], None]  # told how many bytes are there, and how many there will be (0: unknown)
TRIES = 4  # of an address, after the line broke
_TIMEOUT_S = 30.0
_MOST_BYTES = 2**38  # of a file whose size is unknown; the largest dataset has 33 GB
_NOT_THE_LINE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EISDIR)
_LOST = (OSError, http.client.HTTPException)  # urllib's errors and time-outs are OSErrors


@dataclass(frozen=True)
class Download:
    """A file that may be had from any of several addresses, the best first; of 0 bytes if its size is unknown."""

    name: str
    urls: tuple[str, ...]
    sha256: str
    num_bytes: int = 0


def fetch(wanted: Download, folder: Path, progress: Progress | None = None) -> Path:
    """Downloads a file into a folder, or finds it there; `<name>.part` keeps what came before the line broke."""
    path, part = folder / wanted.name, folder / f"{wanted.name}.part"
    if wrong := [url for url in wanted.urls if not url.startswith(("https://", "http://"))]:
        raise ValueError(f"{wrong[0]!r} is no http or https address")
    if path.is_file():
        check_sha256(path, wanted.sha256)
        return path
    folder.mkdir(parents=True, exist_ok=True)
    failures = []
    try:
        with FileLock(folder / f".{wanted.name}.lock", timeout=0):
            if part.is_symlink():  # never written through
                part.unlink()
            for url in wanted.urls:
                failure = _fetch_from(url, part, wanted, progress)
                if failure is None:
                    part.replace(path)
                    return path
                failures.append(f"{url}: {failure}")
    except Timeout as error:
        raise OSError(f"another process is downloading {part}: wait until it has finished") from error
    raise ConnectionError(f"could not download {wanted.name}. {'; '.join(failures)}")


def check_sha256(path: Path, sha256: str) -> None:
    """Refuses a file that is another one."""
    if (found := file_sha256(path)) != sha256:
        raise ValueError(f"{path} has SHA-256 {found}, not {sha256}: it is damaged or another file; delete it")


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):  # hashlib.file_digest came with Python 3.11
            digest.update(block)
    return digest.hexdigest()


def _fetch_from(url: str, part: Path, wanted: Download, progress: Progress | None) -> str | None:
    """Completes `part` from one address; says what went wrong, None if nothing did."""
    failure = "no answer"
    for _ in range(TRIES):
        have = part.stat().st_size if part.is_file() else 0
        try:
            _receive(url, part, have, wanted, progress)
        except urllib.error.HTTPError as error:
            if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE or not have:
                return f"{error.code} {error.reason}"
            failure = "what was there already is not the beginning of the file"
        except _LOST as error:
            if isinstance(error, OSError) and error.errno in _NOT_THE_LINE:
                raise OSError(f"cannot write {part}: {error.strerror}; what is there already is kept") from error
            failure = f"the line broke ({str(error) or type(error).__name__})"
            continue
        else:
            failure = "the file's SHA-256 is wrong"
        if file_sha256(part) == wanted.sha256:
            return None
        part.unlink()
        if not have:
            return failure  # all of it came from this address, which has another file
    return failure


def _receive(url: str, part: Path, have: int, wanted: Download, progress: Progress | None) -> None:
    """Appends to `part` whatever comes until the end of the file."""
    headers = {"User-Agent": "anomaly_zoo", **({"Range": f"bytes={have}-"} if have else {})}
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - fetch has checked the scheme
    with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310
        resumed = answer.status == http.client.PARTIAL_CONTENT
        if resumed and not answer.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            raise http.client.HTTPException("the server sent another part than it was asked for")
        have = have if resumed else 0
        length = int(answer.headers.get("Content-Length") or 0)
        total = have + length if length else wanted.num_bytes
        most = wanted.num_bytes or _MOST_BYTES
        with part.open("ab" if resumed else "wb") as file:
            while block := answer.read1(2**20):
                have += len(block)
                if have > most:
                    part.unlink()
                    raise http.client.HTTPException(f"it sends more than the {most} bytes of the file")
                file.write(block)
                if progress is not None:
                    progress(have, total)
            file.flush()
            os.fsync(file.fileno())
        if have < total:
            raise http.client.IncompleteRead(b"", total - have)
