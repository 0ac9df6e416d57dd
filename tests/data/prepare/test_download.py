"""Downloads from a server of this machine that behaves badly on demand."""

import errno
import hashlib
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from anomaly_zoo.data.prepare import download
from anomaly_zoo.data.prepare.archives import ArchiveError, unpack
from anomaly_zoo.data.prepare.download import TRIES, Download, fetch
from tests.data.prepare.test_archives import FILES, content, pack

DATA = np.random.default_rng(0).bytes(300_000)
SHA256 = hashlib.sha256(DATA).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Serves `files`; the path's first part says how badly."""

    files: ClassVar[dict[str, bytes]] = {"data.bin": DATA}
    asked: ClassVar[list[tuple[str, str | None]]] = []

    def do_GET(self) -> None:
        _, manner, name = self.path.split("/")
        wanted = self.headers.get("Range")
        self.asked.append((manner, wanted))
        if manner == "missing":
            self.send_error(404)
            return
        data = self.files[name] if manner != "wrong" else self.files[name][::-1]
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and "range" not in manner else 0
        if wanted and start >= len(data):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start:
            first = 0 if manner == "liar" else start
            self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        rest = data[start:]
        if manner == "norange-once":  # drops, then sends everything anew
            manner = "fine" if wanted else "drops"
        self.wfile.write(
            rest[: len(rest) // 2] if manner in ("drops", "liar", "norange") and len(rest) > 50_000 else rest
        )
        if manner == "endless":
            self.wfile.write(bytes(10**6))

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    Handler.asked.clear()
    served = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{served.server_port}"
    served.shutdown()
    thread.join()
    served.server_close()


def visible(folder: Path) -> list[str]:
    """The files in a folder; the lock, which stays, is hidden."""
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def wanted(server: str, *manners: str, num_bytes: int = len(DATA)) -> Download:
    return Download("data.bin", tuple(f"{server}/{manner}/data.bin" for manner in manners), SHA256, num_bytes)


def test_a_file_is_fetched_once(server: str, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    path = fetch(wanted(server, "fine"), tmp_path / "new", lambda have, total: told.append((have, total)))
    assert path == tmp_path / "new" / "data.bin"
    assert path.read_bytes() == DATA
    assert told[-1] == (len(DATA), len(DATA))
    assert fetch(wanted(server, "missing"), tmp_path / "new") == path
    assert Handler.asked == [("fine", None)]
    path.write_bytes(b"other")
    with pytest.raises(ValueError, match=r"data\.bin has SHA-256 .*delete it"):
        fetch(wanted(server, "fine"), tmp_path / "new")


def test_a_dropped_line_is_taken_up_where_it_broke(server: str, tmp_path: Path) -> None:
    assert fetch(wanted(server, "drops"), tmp_path).read_bytes() == DATA
    starts = [int(part.removeprefix("bytes=").removesuffix("-")) for _, part in Handler.asked if part]
    assert starts == [150_000, 225_000, 262_500]
    assert visible(tmp_path) == ["data.bin"]


def test_what_an_earlier_call_left_is_used(server: str, tmp_path: Path) -> None:
    (tmp_path / "data.bin.part").write_bytes(DATA[:200_000])
    assert fetch(wanted(server, "fine"), tmp_path).read_bytes() == DATA
    assert Handler.asked == [("fine", "bytes=200000-")]
    (tmp_path / "data.bin").rename(tmp_path / "data.bin.part")  # whole, but killed before the renaming
    assert fetch(wanted(server, "fine"), tmp_path).read_bytes() == DATA


def test_a_part_of_something_else_is_thrown_away(server: str, tmp_path: Path) -> None:
    for junk in (b"x" * 1000, b"x" * 400_000):
        (tmp_path / "data.bin").unlink(missing_ok=True)
        (tmp_path / "data.bin.part").write_bytes(junk)
        assert fetch(wanted(server, "fine"), tmp_path).read_bytes() == DATA


def test_the_next_address_is_asked(server: str, tmp_path: Path) -> None:
    assert fetch(wanted(server, "missing", "wrong", "fine"), tmp_path).read_bytes() == DATA
    assert [manner for manner, _ in Handler.asked] == ["missing", "wrong", "fine"]


def test_a_server_without_ranges_or_with_wrong_ones(server: str, tmp_path: Path) -> None:
    for manner in ("norange", "liar"):
        with pytest.raises(ConnectionError, match=rf"{manner}/data\.bin: the line broke"):
            fetch(wanted(server, manner), tmp_path)
        assert not (tmp_path / "data.bin").exists()
        assert fetch(wanted(server, manner, "fine"), tmp_path / manner).read_bytes() == DATA


def test_a_server_that_begins_anew_is_not_appended(server: str, tmp_path: Path) -> None:
    assert fetch(wanted(server, "norange-once"), tmp_path).read_bytes() == DATA
    assert [part for _, part in Handler.asked] == [None, "bytes=150000-"]


def test_all_addresses_fail(server: str, tmp_path: Path) -> None:
    with pytest.raises(ConnectionError, match=r"data\.bin\. .*missing/data\.bin: 404 .*wrong/.*SHA-256 is wrong"):
        fetch(wanted(server, "missing", "wrong"), tmp_path)
    assert not (tmp_path / "data.bin").exists()
    nobody = Download("data.bin", ("http://127.0.0.1:9/data.bin",), SHA256)
    with pytest.raises(ConnectionError, match="the line broke"):
        fetch(nobody, tmp_path)
    with pytest.raises(ValueError, match="is no http or https address"):
        fetch(Download("data.bin", (f"file://{tmp_path}",), SHA256), tmp_path)


def test_more_bytes_than_expected_are_not_written(server: str, tmp_path: Path) -> None:
    with pytest.raises(ConnectionError, match="it sends more than the 1000 bytes"):
        fetch(wanted(server, "fine", num_bytes=1000), tmp_path)
    assert len(Handler.asked) <= TRIES
    assert not (tmp_path / "data.bin.part").exists()


def test_a_link_is_not_written_through(server: str, tmp_path: Path) -> None:
    for name in ("precious", "new"):
        folder, other = tmp_path / name, tmp_path / f"{name}.txt"
        folder.mkdir()
        if name == "precious":
            other.write_text("keep me")
        (folder / "data.bin.part").symlink_to(other)
        assert fetch(wanted(server, "fine"), folder).read_bytes() == DATA
        assert not (folder / "data.bin").is_symlink()
    assert (tmp_path / "precious.txt").read_text() == "keep me"
    assert not (tmp_path / "new.txt").exists()


def test_two_processes_do_not_write_one_file(server: str, tmp_path: Path) -> None:
    def meanwhile(have: int, total: int) -> None:
        with pytest.raises(OSError, match=r"another process is downloading .*data\.bin\.part: wait until"):
            fetch(wanted(server, "fine"), tmp_path)

    assert fetch(wanted(server, "wrong", "drops"), tmp_path, meanwhile).read_bytes() == DATA
    assert visible(tmp_path) == ["data.bin"]


def test_a_full_disk_is_not_the_line(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"cannot write .*data\.bin\.part: No space left on device; what"):
        fetch(wanted(server, "fine", "fine"), tmp_path)
    assert len(Handler.asked) == 1
    monkeypatch.undo()
    assert fetch(wanted(server, "fine"), tmp_path).read_bytes() == DATA


def test_a_file_of_unknown_size_has_an_end(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_MOST_BYTES", 200_000)
    with pytest.raises(ConnectionError, match="it sends more than the 200000 bytes"):
        fetch(wanted(server, "fine", num_bytes=0), tmp_path)
    assert visible(tmp_path) == []


def test_a_truncated_archive_is_named(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = pack(tmp_path / "whole.tar.gz", FILES).read_bytes()
    cut = whole[: len(whole) // 2]
    monkeypatch.setitem(Handler.files, "set.tar.gz", cut)
    cut_off = Download("set.tar.gz", (f"{server}/fine/set.tar.gz",), hashlib.sha256(cut).hexdigest())
    archive = fetch(cut_off, tmp_path / "downloads")
    with pytest.raises(ArchiveError, match=r"set\.tar\.gz is damaged or cut off .*download it again"):
        unpack(archive, tmp_path / "set")
    assert not (tmp_path / "set").exists()
    unpack(tmp_path / "whole.tar.gz", tmp_path / "set")
    assert content(tmp_path / "set") == FILES
