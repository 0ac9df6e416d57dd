"""Unpacking archives of strangers: nothing is written outside the target, and no more than was agreed on."""

import bz2
import gzip
import io
import lzma
import shutil
import stat
import tarfile
import uuid
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
"""File name endings, in lower case, that count as archives; the content decides how they are read."""

MAX_FILES = 500_000
"""Archives with more members are refused (the largest dataset supported has about 310,000 files)."""

_MAX_DEPTH = 32  # folders in folders: their number is not bounded by the size of the archive
_RATIO, _SPARE = 50, 100 * 2**20  # images hardly compress, so that only bombs unpack to more
_MAX_HEADER = 2**24  # tar reads its extended headers at once
_COMPRESSED: tuple[tuple[bytes, Any], ...] = ((b"\x1f\x8b", gzip), (b"BZh", bz2), (b"\xfd7zXZ", lzma))
_DAMAGED = (tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, EOFError, OSError, ValueError,
            NotImplementedError, RuntimeError, KeyError, IndexError, OverflowError, UnicodeError)  # fmt: skip


class ArchiveError(ValueError):
    """An archive that is damaged, or that asks for something it may not have; the message names it."""


def unpack(archive: Path, target: Path) -> None:
    """Unpacks a zip or tar archive into a new folder; nothing is left if that fails.

    Links, devices, absolute paths, `..`, encrypted members, more than `MAX_FILES` members, folders nested without end,
    and contents much larger than the archive are refused. Permissions and owners are not taken over.

    Args:
        archive: the file.
        target: the folder to create.

    Raises:
        FileNotFoundError: there is no such archive.
        FileExistsError: `target` is there already.
        ArchiveError: the archive is damaged, of an unknown kind, or not harmless.
        OSError: there is no room left, or a name is too long for this system.
    """
    if not archive.is_file():
        raise FileNotFoundError(f"there is no archive {archive}")
    if target.exists():
        raise FileExistsError(f"{target} is there already: delete it, or unpack somewhere else")
    limit = _RATIO * archive.stat().st_size + _SPARE
    target.parent.mkdir(parents=True, exist_ok=True)
    building = target.parent / f".{target.name}.{uuid.uuid4().hex}.tmp"
    try:
        building.mkdir()
        _write_all(archive, building, limit)
        building.replace(target)
    except OSError as error:
        raise OSError(f"cannot unpack {archive}: {error}") from error
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _write_all(archive: Path, building: Path, limit: int) -> None:
    left = limit
    names: set[str] = set()
    members = _members(archive, limit)
    while True:
        try:
            name, stream = next(members)
        except StopIteration:
            break
        except ArchiveError:
            raise
        except _DAMAGED as error:
            raise ArchiveError(f"{archive} is damaged or cut off ({error}): download it again") from error
        path = building / _harmless(name, archive)
        if name.casefold() in names:
            raise ArchiveError(f"{archive} holds {name!r} twice: not unpacked")
        names.add(name.casefold())
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("xb")
        except (FileExistsError, NotADirectoryError) as error:
            raise ArchiveError(f"{archive} holds {name!r} as a file and as a folder: not unpacked") from error
        with file:
            while block := _read(stream, archive):
                left -= len(block)
                if left < 0:
                    raise ArchiveError(
                        f"{archive} unpacks to more than {limit} bytes, {_RATIO} times its size: it looks like a bomb"
                    )
                file.write(block)
    if not names:
        raise ArchiveError(f"{archive} holds no files")


def _read(stream: io.BufferedIOBase, archive: Path) -> bytes:
    try:
        return stream.read(2**20)
    except _DAMAGED as error:
        raise ArchiveError(f"{archive} is damaged or cut off ({error}): download it again") from error


def _members(archive: Path, limit: int) -> Iterator[tuple[str, io.BufferedIOBase]]:
    """Name and content of every file in the archive."""
    with archive.open("rb") as file:
        magic = file.read(6)
        file.seek(0)
        if magic.startswith(b"PK"):
            yield from _zip_members(file, archive)
            return
        module = next((module for start, module in _COMPRESSED if magic.startswith(start)), None)
        content = module.open(file) if module else file
        with tarfile.open(fileobj=cast(IO[bytes], _Bounded(content, limit)), mode="r:") as tar:
            for number, member in enumerate(tar):
                _check_number(number + 1, archive)
                cast(Any, tar).members.clear()  # else it remembers them all
                if member.isdir():
                    _harmless(member.name, archive)
                elif member.isreg() and (stream := tar.extractfile(member)) is not None:
                    yield member.name, cast(io.BufferedIOBase, stream)
                else:
                    raise ArchiveError(f"{archive} holds {member.name!r}, a link or device: not unpacked")
        if module is None:
            return
        while content.read(2**20):  # the checksum of a compressed archive is at its very end
            if content.tell() > limit:
                raise ArchiveError(f"{archive} goes on after its end: it looks like a bomb")


def _zip_members(file: io.BufferedReader, archive: Path) -> Iterator[tuple[str, io.BufferedIOBase]]:
    with zipfile.ZipFile(file) as opened:
        _check_number(len(opened.infolist()), archive)
        for member in opened.infolist():
            mode = member.external_attr >> 16
            if mode and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)) and stat.S_IFMT(mode):
                raise ArchiveError(f"{archive} holds {member.filename!r}, a link or device: not unpacked")
            if member.is_dir():
                _harmless(member.filename, archive)
                continue
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                # zipfile unpacks a block of these at once, however large: 1 kB can become gigabytes of memory
                raise ArchiveError(f"{archive} holds {member.filename!r}, packed in a rare way: unpack it by hand")
            with opened.open(member) as stream:
                yield member.filename, cast(io.BufferedIOBase, stream)


def _check_number(members: int, archive: Path) -> None:
    if members > MAX_FILES:  # folders too, since each takes memory
        raise ArchiveError(f"{archive} holds more than {MAX_FILES} files and folders: not unpacked")


def _harmless(name: str, archive: Path) -> PurePosixPath:
    """A member's path, if it stays inside the folder it is unpacked into."""
    parts = name.replace("\\", "/").split("/")
    if ".." in parts or parts[0] == "" or ":" in parts[0] or any(ord(mark) < 32 for mark in name):
        raise ArchiveError(f"{archive} holds {name!r}, which leads out of its folder: not unpacked")
    if len(parts) > _MAX_DEPTH:
        raise ArchiveError(f"{archive} holds {name[:40]!r}..., in more than {_MAX_DEPTH} folders: not unpacked")
    return PurePosixPath(*parts)


class _Bounded(io.RawIOBase):
    """A decompressed archive of which no more can be had than the limit, and no header of a size beyond reason."""

    def __init__(self, file: Any, limit: int) -> None:
        super().__init__()
        self.file = file
        self.limit = limit

    def read(self, size: int = -1) -> bytes:
        if size < 0 or size > _MAX_HEADER:
            raise ValueError(f"a header of {size} bytes")
        self._check(self.file.tell() + size)
        data: bytes = self.file.read(size)
        return data

    def seek(self, position: int, whence: int = 0) -> int:
        self._check(position)
        return int(self.file.seek(position, whence))

    def tell(self) -> int:
        return int(self.file.tell())

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def _check(self, position: int) -> None:
        if position > self.limit + 2**20:
            raise ValueError(f"it unpacks to more than {self.limit} bytes: it looks like a bomb")
