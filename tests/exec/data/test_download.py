"""Downloads from a server on this computer, and where files are looked for."""

import gzip
import hashlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from exec.data.download import PublishedFile, fetch
from exec.data.locate import cache_dir, locate
from exec.data.reading import Checksum
from exec.errors import DataError


@dataclass
class Site:
    """What the server answers: for each path a promised length and a body, or None to hang up."""

    address: str
    pages: dict[str, tuple[int, bytes] | None] = field(default_factory=dict)


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """Serve ``Site.pages`` on 127.0.0.1, and 404 for everything else."""
    monkeypatch.setenv("no_proxy", "*")
    served: dict[str, tuple[int, bytes] | None] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path not in served:
                self.send_error(404)
                return
            page = served[self.path]
            if page is not None:
                promised, body = page
                self.send_response(200)
                self.send_header("Content-Length", str(promised))
                self.end_headers()
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Keep quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield Site(f"http://127.0.0.1:{server.server_port}", served)
        server.shutdown()
        thread.join()


INFLATED = b"abc" * 50_000
CONTENT = gzip.compress(INFLATED, 0)


def published(address: str) -> PublishedFile:
    return PublishedFile(
        name="set.gz",
        url=f"{address}/set.gz",
        nbytes=len(CONTENT),
        digest=hashlib.sha256(CONTENT).hexdigest(),
        digest_inflated=hashlib.sha256(INFLATED).hexdigest(),
    )


def test_a_download_is_stored_whole_and_logged_in_one_line(site: Site, tmp_path: Path) -> None:
    site.pages["/set.gz"] = (len(CONTENT), CONTENT)
    lines: list[str] = []
    path = fetch(published(site.address), tmp_path / "new" / "cache", lines.append)
    assert path.read_bytes() == CONTENT
    assert [file.name for file in path.parent.iterdir()] == ["set.gz"]
    assert len(lines) == 1
    assert site.address in lines[0]


WRONG = bytes(len(CONTENT))


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ((len(CONTENT), CONTENT[:1000]), f"expected {len(CONTENT)} bytes, got 1000|IncompleteRead"),
        ((len(CONTENT), b""), f"expected {len(CONTENT)} bytes, got 0|IncompleteRead"),
        ((1000, CONTENT[:1000]), f"expected {len(CONTENT)} bytes, got 1000"),
        ((len(CONTENT) + 9, CONTENT + b"and more."), f"expected {len(CONTENT)} bytes, got more"),
        ((len(WRONG), WRONG), f"expected SHA-256 .*, got {hashlib.sha256(WRONG).hexdigest()}"),
        (None, "Remote end closed connection"),
    ],
)
def test_a_bad_download_leaves_nothing_behind(
    site: Site, tmp_path: Path, page: tuple[int, bytes] | None, message: str
) -> None:
    site.pages["/set.gz"] = page
    with pytest.raises(DataError, match=message) as raised:
        fetch(published(site.address), tmp_path, lambda line: None)
    assert f"{site.address}/set.gz: " in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_a_file_may_be_published_with_its_md5_alone(site: Site, tmp_path: Path) -> None:
    file = PublishedFile(
        "set.mat", f"{site.address}/set.mat", 3, hashlib.md5(b"abc").hexdigest(),
        checksum=Checksum.MD5,
    )  # fmt: skip
    site.pages["/set.mat"] = (3, b"abc")
    assert fetch(file, tmp_path, lambda line: None).read_bytes() == b"abc"
    site.pages["/set.mat"] = (3, b"abd")
    wrong = hashlib.md5(b"abd").hexdigest()
    with pytest.raises(DataError, match=f"expected MD5 {file.digest}, got {wrong}"):
        fetch(file, tmp_path, lambda line: None)


def test_a_missing_page_is_named_by_its_status(site: Site, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="404 Not Found"):
        fetch(published(site.address), tmp_path, lambda line: None)
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_says_nothing_times_out(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        file = published(f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(DataError, match="timed out"):
            fetch(file, tmp_path, lambda line: None, timeout_s=0.05)


def test_a_cache_that_cannot_be_made_is_named(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot store set\.gz here"):
        fetch(published(site.address), tmp_path / "file" / "cache", lambda line: None)


def test_downloads_that_race_all_find_the_whole_file(site: Site, tmp_path: Path) -> None:
    site.pages["/set.gz"] = (len(CONTENT), CONTENT)
    file = published(site.address)
    found: list[bytes] = []

    def race() -> None:
        found.append(fetch(file, tmp_path, lambda line: None).read_bytes())

    threads = [threading.Thread(target=race) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [CONTENT] * 4
    assert [path.name for path in tmp_path.iterdir()] == ["set.gz"]


def closed_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    return f"http://127.0.0.1:{port}"


def test_without_a_network_one_line_says_what_where_and_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("STEPCAST_CACHE", str(tmp_path))
    address = closed_address()
    with pytest.raises(DataError) as raised:
        locate(published(address), "letters", None, lambda line: None)
    message = str(raised.value)
    assert f"letters needs set.gz, which is not in {tmp_path / 'data'}" in message
    assert f"{address}/set.gz: " in message
    assert "refused" in message
    assert message.endswith("pass --data-dir DIR or use --data drawn")
    assert "\n" not in message


def test_the_second_time_the_cache_serves(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEPCAST_CACHE", str(tmp_path))
    site.pages["/set.gz"] = (len(CONTENT), CONTENT)
    lines: list[str] = []
    first = locate(published(site.address), "letters", None, lines.append)
    site.pages.clear()
    assert locate(published(site.address), "letters", None, lines.append) == first
    assert len(lines) == 1


def test_a_damaged_file_in_the_cache_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEPCAST_CACHE", str(tmp_path))
    (tmp_path / "data").mkdir()
    cached = tmp_path / "data" / "set.gz"
    cached.write_bytes(CONTENT[:-1])
    with pytest.raises(DataError, match=r"expected SHA-256 .*; delete it"):
        locate(published("http://127.0.0.1:1"), "letters", None, lambda line: None)
    cached.unlink()
    (tmp_path / "data" / "set").write_bytes(INFLATED)
    found = locate(published("http://127.0.0.1:1"), "letters", None, lambda line: None)
    assert found.name == "set"


def test_a_file_is_found_in_the_folder_or_in_the_datasets_own(tmp_path: Path) -> None:
    file = replace(published("http://127.0.0.1:1"), nbytes=3)
    with pytest.raises(DataError, match=r"letters needs set\.gz or set in .*found neither"):
        locate(file, "letters", tmp_path, lambda line: None)
    nested = tmp_path / "letters" / "set"
    nested.parent.mkdir()
    nested.write_bytes(b"own")
    assert locate(file, "letters", tmp_path, lambda line: None) == nested
    direct = tmp_path / "set.gz"
    direct.write_bytes(b"own")
    assert locate(file, "letters", tmp_path, lambda line: None) == direct


def test_the_cache_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEPCAST_CACHE", "/own")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    monkeypatch.setenv("HOME", "/home/me")
    assert cache_dir() == Path("/own/data")
    monkeypatch.delenv("STEPCAST_CACHE")
    assert cache_dir() == Path("/xdg/stepcast/data")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_dir() == Path("/home/me/.cache/stepcast/data")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_dir() == Path("/home/me/.cache/stepcast/data")
