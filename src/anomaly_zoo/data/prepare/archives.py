"""Unpacking archives of strangers: nothing is written outside the target, and no more than was agreed on."""

import bz2
import errno
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
from pathlib import Path
from typing import IO, Any, cast

ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
MAX_FILES = 500_000  # the largest dataset has about 310,000

_MAX_DEPTH = 32  # folders in folders: their number is not bounded by the size of the archive
_RATIO, _SPARE = 50, 100 * 2**20  # images hardly compress, so that only bombs unpack to more
_MAX_HEADER = 2**24  # tar reads its extended headers at once
_COMPRESSED: tuple[tuple[bytes, Any], ...] = ((b"\x1f\x8b", gzip), (b"BZh", bz2), (b"\xfd7zXZ", lzma))
_CLASH = (FileExistsError, NotADirectoryError, IsADirectoryError)
_OF_DAMAGE = (None, errno.EINVAL)  # of decompressors, and of seeking to where nothing can be
_DAMAGED = (tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, EOFError, OSError, ValueError,
            NotImplementedError, RuntimeError, KeyError, IndexError, OverflowError, UnicodeError)  # fmt: skip


class ArchiveError(ValueError):
    """An archive that is damaged, or that asks for something it may not have; the message names it."""


def unpack(archive: Path, target: Path) -> None:
    """Unpacks a zip or tar archive into a new folder; nothing is left if that fails."""
    if not archive.is_file():
        raise FileNotFoundError(f"there is no archive {archive}")
    if target.exists():
        raise FileExistsError(f"{target} is there already: delete it, or unpack somewhere else")
    target.parent.mkdir(parents=True, exist_ok=True)
    building = target.parent / f".{target.name}.{uuid.uuid4().hex}.tmp"
    try:
        building.mkdir()
        with archive.open("rb") as file:
            magic = file.read(6)
            file.seek(0)
            members = _Members(archive)
            if magic.startswith(b"PK"):
                _unpack_zip(file, building, members)
            else:
                module = next((module for start, module in _COMPRESSED if magic.startswith(start)), None)
                _unpack_tar(module.open(file) if module else file, building, members)
        if not members.names:
            raise ArchiveError(f"{archive} holds no files")
        building.replace(target)
    except ArchiveError:
        raise
    except _CLASH as error:
        raise ArchiveError(f"{archive} holds {members.last!r} as a file and as a folder: not unpacked") from error
    except _DAMAGED as error:
        if isinstance(error, OSError) and error.errno not in _OF_DAMAGE:
            raise OSError(f"cannot unpack {archive}: {error}") from error
        raise ArchiveError(f"{archive} is damaged or cut off ({error}): download it again") from error
    finally:
        shutil.rmtree(building, ignore_errors=True)


class _Members:
    """Checks the members of an archive one by one, before they are written."""

    def __init__(self, archive: Path) -> None:
        self.archive = archive
        self.limit = _RATIO * archive.stat().st_size + _SPARE
        self.left = self.limit
        self.number = 0
        self.names: set[str] = set()
        self.last = ""

    def check(self, name: str, num_bytes: int, is_file: bool, is_folder: bool) -> str:
        """The path to write a member to, without the archive's backslashes and empty parts."""
        self.number += 1
        self.left -= max(num_bytes, 0)
        self.last = name
        parts = name.replace("\\", "/").split("/")
        path = "/".join(part for part in parts if part not in ("", "."))
        leads_out = ".." in parts or parts[0] == "" or ":" in parts[0] or any(ord(mark) < 32 for mark in name)
        for is_wrong, what in (
            (self.number > MAX_FILES, f"more than {MAX_FILES} files and folders"),  # folders too: each takes memory
            (not is_file and not is_folder, f"{name!r}, a link or device"),
            (leads_out, f"{name!r}, which leads out of its folder"),
            (len(parts) > _MAX_DEPTH, f"{name[:40]!r}..., in more than {_MAX_DEPTH} folders"),
            (self.left < 0, f"more than {self.limit} bytes, {_RATIO} times its size, and looks like a bomb"),
            (is_file and path.casefold() in self.names, f"{name!r} twice"),
        ):
            if is_wrong:
                raise ArchiveError(f"{self.archive} holds {what}: not unpacked")
        self.names |= {path.casefold()} if is_file else set()
        return path


def _unpack_zip(file: io.BufferedReader, folder: Path, members: _Members) -> None:
    with zipfile.ZipFile(file) as opened:
        files = []
        for member in opened.infolist():
            kind, is_folder = stat.S_IFMT(member.external_attr >> 16), member.is_dir()
            is_file = not is_folder and kind in (0, stat.S_IFREG, stat.S_IFDIR)
            path = members.check(member.filename, member.file_size, is_file, is_folder)
            if is_folder:
                continue
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                # zipfile unpacks a block of these at once, however large: 1 kB can become gigabytes of memory
                what = f"{members.archive} holds {member.filename!r}, packed in a rare way"
                raise ArchiveError(f"{what}: unpack it by hand")
            member.filename = path
            files.append(member)
        for member in files:
            members.last = member.filename
            opened.extract(member, folder)  # no more than file_size, which was counted


def _unpack_tar(content: io.BufferedIOBase, folder: Path, members: _Members) -> None:
    def checked(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
        for member in tar:
            cast(Any, tar).members.clear()  # else it remembers them all
            member.name = members.check(member.name, member.size, member.isreg(), member.isdir())
            member.mode = 0o644
            if member.isreg():
                yield member

    with tarfile.open(fileobj=cast(IO[bytes], _Bounded(content, members.limit)), mode="r:") as tar:
        tar.extraction_filter = getattr(tarfile, "data_filter", None)  # no owners
        tar.extractall(folder, members=checked(tar))  # noqa: S202 - checked
    while content.read(2**20):  # the checksum of a compressed archive is at its very end
        if content.tell() > members.limit:
            raise ArchiveError(f"{members.archive} goes on after its end: it looks like a bomb")


class _Bounded(io.RawIOBase):
    """A decompressed archive of which no more can be had than the limit, and no header of a size beyond reason."""

    def __init__(self, file: io.BufferedIOBase, limit: int) -> None:
        super().__init__()
        self.file = file
        self.limit = limit + 2**20

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _MAX_HEADER or self.file.tell() + size > self.limit:
            raise ValueError(f"a header of {size} bytes, or more than {self.limit} in all: it looks like a bomb")
        return self.file.read(size)

    def seek(self, position: int, whence: int = 0) -> int:
        if position > self.limit:
            raise ValueError(f"it unpacks to more than {self.limit} bytes: it looks like a bomb")
        return self.file.seek(position, whence)
