import io
import os
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from anomaly_zoo.data.prepare import archives
from anomaly_zoo.data.prepare.archives import ArchiveError, unpack

FILES = {"set/train/good/000.png": b"a" * 700, "set/größe 傷.txt": b"hello", "readme": b""}
SUFFIXES = [".zip", ".tar", ".tar.gz", ".tar.bz2", ".tar.xz"]


def pack(path: Path, files: dict[str, bytes]) -> Path:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
            for name, data in files.items():
                opened.writestr(name, data)
        return path
    with tarfile.open(path, "w:" + (path.suffix[1:] if path.suffix != ".tar" else "")) as tar:  # type: ignore[call-overload]
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_nothing_left(folder: Path, archive: Path) -> None:
    assert sorted(folder.iterdir()) == [archive]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_kind(tmp_path: Path, suffix: str) -> None:
    archive = pack(tmp_path / f"set{suffix}", FILES)
    archive = archive.rename(archive.with_name("misnamed.zip"))  # the content decides
    unpack(archive, tmp_path / "out" / "set")
    assert content(tmp_path / "out" / "set") == FILES
    with pytest.raises(FileExistsError, match="is there already"):
        unpack(archive, tmp_path / "out" / "set")
    with pytest.raises(FileNotFoundError, match="there is no archive"):
        unpack(tmp_path / "missing.zip", tmp_path / "new")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    "name", ["../evil", "a/../../evil", "/tmp/evil", "\\evil", "..\\evil", "C:\\evil", "C:evil", "a\nb", "a/.."]
)
def test_paths_that_lead_out(tmp_path: Path, suffix: str, name: str) -> None:
    archive = pack(tmp_path / f"set{suffix}", {"fine.txt": b"1", name: b"2"})
    with pytest.raises(ArchiveError, match=r"set\..*leads out of its folder: not unpacked"):
        unpack(archive, tmp_path / "out")
    assert_nothing_left(tmp_path, archive)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_tar(tmp_path: Path, kind: bytes) -> None:
    archive = tmp_path / "set.tar"
    with tarfile.open(archive, "w") as tar:
        member = tarfile.TarInfo("innocent")
        member.type, member.linkname = kind, "/etc/passwd"
        tar.addfile(member)
    with pytest.raises(ArchiveError, match="'innocent', a link or device"):
        unpack(archive, tmp_path / "out")
    assert_nothing_left(tmp_path, archive)


def test_links_in_zip(tmp_path: Path) -> None:
    archive = tmp_path / "set.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        member = zipfile.ZipInfo("innocent")
        member.create_system, member.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        opened.writestr(member, "/etc/passwd")
    with pytest.raises(ArchiveError, match="'innocent', a link or device"):
        unpack(archive, tmp_path / "out")
    assert_nothing_left(tmp_path, archive)


@pytest.mark.parametrize("suffix", SUFFIXES[:1] + SUFFIXES[2:])
def test_bombs(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "_SPARE", 2**18)
    archive = pack(tmp_path / f"set{suffix}", {"zeros": bytes(8 * 2**20)})
    with pytest.raises(ArchiveError, match=r"set\..*looks like a bomb"):
        unpack(archive, tmp_path / "out")
    assert_nothing_left(tmp_path, archive)


def test_a_header_that_claims_everything(tmp_path: Path) -> None:
    archive = tmp_path / "set.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        member = tarfile.TarInfo("header")
        member.type, member.size = tarfile.XHDTYPE, 20 * 2**20
        tar.addfile(member, io.BytesIO(bytes(member.size)))
    with pytest.raises(ArchiveError, match=r"set\.tar\.gz is damaged.*header of"):
        unpack(archive, tmp_path / "out")
    assert_nothing_left(tmp_path, archive)


def test_two_files_of_one_name_and_a_file_that_is_a_folder(tmp_path: Path) -> None:
    archive = tmp_path / "set.zip"
    for names, message in ((["a", "A"], "'A' twice"), (["a", "a/b"], "as a file and as a folder")):
        pack(archive, dict.fromkeys(names, b"1"))
        with pytest.raises(ArchiveError, match=message):
            unpack(archive, tmp_path / "out")
        assert_nothing_left(tmp_path, archive)


@pytest.mark.parametrize("suffix", [".zip", ".tar"])
def test_too_many_files_or_folders(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_FILES", 2)
    with pytest.raises(ArchiveError, match="more than 2 files and folders"):
        unpack(pack(tmp_path / f"set{suffix}", FILES), tmp_path / "out")
    archive = tmp_path / "folders.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for _ in range(3):
            member = tarfile.TarInfo("folder")
            member.type = tarfile.DIRTYPE
            tar.addfile(member)
    with pytest.raises(ArchiveError, match=r"folders\.tar\.gz holds more than 2 files and folders"):
        unpack(archive, tmp_path / "out")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_folders_without_end(tmp_path: Path, suffix: str) -> None:
    archive = pack(tmp_path / f"set{suffix}", {"d/" * 1000 + "x.png": b"1"})
    with pytest.raises(ArchiveError, match=r"set\..* in more than 32 folders: not unpacked"):
        unpack(archive, tmp_path / "out")
    assert_nothing_left(tmp_path, archive)
    unpack(pack(tmp_path / f"fine{suffix}", {"d/" * 31 + "x.png": b"1"}), tmp_path / "out")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_zip_members_that_unpack_all_at_once(tmp_path: Path, method: int) -> None:
    archive = tmp_path / "set.zip"
    with zipfile.ZipFile(archive, "w", method) as opened:
        opened.writestr("zeros.png", bytes(2**20))
    with pytest.raises(ArchiveError, match=r"set\.zip holds 'zeros\.png', packed in a rare way: unpack it by hand"):
        unpack(archive, tmp_path / "out")
    assert_nothing_left(tmp_path, archive)


def test_no_archive_at_all(tmp_path: Path) -> None:
    archive = tmp_path / "set.zip"
    for data in (b"", b"<html>sign in first</html>", b"PK\x03\x04", os.urandom(2000)):
        archive.write_bytes(data)
        with pytest.raises(ArchiveError, match=r"set\.zip (is damaged or cut off .*download it again|holds no files)"):
            unpack(archive, tmp_path / "out")
        assert_nothing_left(tmp_path, archive)
