"""The stand-in of the Hub: the real client takes it for the Hub, and each fault does what it says."""

from __future__ import annotations

import hashlib
import http.client
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import huggingface_hub.constants
import pytest
from hub_server import LFS_ABOVE, Faults, HubServer
from huggingface_hub import HfApi, close_session, get_hf_file_metadata, hf_hub_download, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

REPO, FILE = "user/repo", "model-Q4_K_M.gguf"
DATA = bytes(range(256)) * 20
README = b"# A model\n"
SHA256 = hashlib.sha256(DATA).hexdigest()
CDN = f"/cdn/{SHA256}"
INVERTED = bytes(255 - byte for byte in DATA)


@pytest.fixture(autouse=True)
def _client(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The client asks huggingface.co for nothing and leaves no connection open."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_TELEMETRY", True)
    yield
    close_session()


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        server.add(REPO, {FILE: DATA, "README.md": README}, downloads=10, likes=2, tags=["text-generation"])
        yield server
    assert not [thread for thread in threading.enumerate() if "process_request_thread" in thread.name]


@pytest.fixture
def api(hub: HubServer) -> HfApi:
    return HfApi(endpoint=hub.url, token=False)


class Answer:
    """What http.client got: `body` is all that came, and `whole` whether that was all that was promised."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status, self.headers, self.whole = response.status, response.headers, True
        try:
            self.body = response.read()
        except http.client.IncompleteRead as error:
            self.body, self.whole = error.partial, False


def connect(hub: HubServer) -> closing[http.client.HTTPConnection]:
    return closing(http.client.HTTPConnection(hub.url.removeprefix("http://"), timeout=10))


def ask(hub: HubServer, path: str = CDN, *, method: str = "GET", **headers: str) -> Answer:
    with connect(hub) as connection:
        connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        return Answer(connection.getresponse())


def test_model_info_lists_sizes_and_hashes(hub: HubServer, api: HfApi) -> None:
    info = api.model_info(REPO, files_metadata=True)
    readme, model = info.siblings or []
    assert (info.id, info.downloads, info.likes, info.gated, info.private) == (REPO, 10, 2, False, False)
    assert info.tags == ["gguf", "text-generation"]
    assert (readme.rfilename, readme.size, readme.lfs) == ("README.md", len(README), None)
    assert readme.blob_id == hashlib.sha1(b"blob %d\0" % len(README) + README).hexdigest()
    assert (model.rfilename, model.size) == (FILE, len(DATA))
    assert model.lfs is not None
    assert (model.lfs.sha256, model.lfs.size, model.lfs.pointer_size) == (SHA256, len(DATA), 129)
    assert [sibling.size for sibling in api.model_info(REPO).siblings or []] == [None, None]


def test_model_info_of_a_revision(hub: HubServer, api: HfApi) -> None:
    first = api.model_info(REPO).sha
    hub.tag(REPO, "v1/α")
    second = hub.add(REPO, {"new.txt": b""})
    assert api.model_info(REPO).sha == second != first
    assert api.model_info(REPO, revision="v1/α").sha == api.model_info(REPO, revision=first).sha == first
    assert [file.rfilename for file in api.model_info(REPO).siblings or []] == ["README.md", FILE, "new.txt"]
    assert [file.rfilename for file in api.model_info(REPO, revision=first).siblings or []] == ["README.md", FILE]


def test_tree(hub: HubServer, api: HfApi) -> None:
    hub.add(REPO, {"a/b/c.gguf": DATA, "a/d.txt": b"d"})

    def paths(path: str | None = None, recursive: bool = False) -> list[str]:
        return [entry.path for entry in api.list_repo_tree(REPO, path, recursive=recursive)]

    assert paths() == ["README.md", "a", FILE]
    assert paths("a") == ["a/b", "a/d.txt"]
    assert paths("a/b") == ["a/b/c.gguf"]
    assert paths(recursive=True) == ["README.md", "a", "a/b", "a/b/c.gguf", "a/d.txt", FILE]
    assert paths("a", recursive=True) == ["a/b", "a/b/c.gguf", "a/d.txt"]
    file = list(api.list_repo_tree(REPO))[-1]
    assert (file.size, file.lfs.sha256) == (len(DATA), SHA256)  # type: ignore[union-attr]
    with pytest.raises(RemoteEntryNotFoundError):
        paths("b")


def test_search(hub: HubServer, api: HfApi) -> None:
    hub.add("user/Tiny-Repo-GGUF", {"a.GGUF": b"a"}, downloads=30, likes=1)
    hub.add("user/tiny-weights", {"a.safetensors": b"a"}, downloads=20)
    hub.add("other/tiny-private", {"a.gguf": b"a"}, private=True)

    def names(**how: object) -> list[str]:
        return [model.id for model in api.list_models(**how)]  # type: ignore[arg-type]

    assert names(search="tiny", filter="gguf") == ["user/Tiny-Repo-GGUF"]
    assert names(search="tiny") == ["user/Tiny-Repo-GGUF", "user/tiny-weights"]
    assert names(search="gguf TINY") == ["user/Tiny-Repo-GGUF"]
    assert names(filter=["gguf", "text-generation"]) == [REPO]
    assert names(sort="downloads") == ["user/Tiny-Repo-GGUF", "user/tiny-weights", REPO]
    assert names(sort="likes", limit=1) == [REPO]
    assert names(sort="last_modified", limit=1) == ["user/tiny-weights"]
    assert names(search="nothing") == []
    hub.tokens.add("hf_good")
    found = list(api.list_models(search="private", token="hf_good", full=True))
    assert [(model.id, model.downloads, model.tags) for model in found] == [("other/tiny-private", 0, ["gguf"])]
    assert found[0].last_modified is not None
    assert next(iter(api.list_models())).last_modified is None  # it is told to those who ask


@pytest.mark.parametrize("redirect_host", [False, True])
def test_metadata(hub: HubServer, redirect_host: bool) -> None:
    hub.faults.redirect_host = redirect_host
    commit = next(iter(hub.repositories[REPO].commits))
    model = get_hf_file_metadata(hf_hub_url(REPO, FILE, endpoint=hub.url))
    assert (model.commit_hash, model.etag, model.size) == (commit, SHA256, len(DATA))
    assert model.location == (f"{hub.cdn_url}{CDN}" if redirect_host else f"{hub.url}{CDN}?commit={commit}")
    readme = get_hf_file_metadata(hf_hub_url(REPO, "README.md", endpoint=hub.url))
    assert (readme.commit_hash, readme.size) == (commit, len(README))
    assert readme.etag == hashlib.sha1(b"blob %d\0" % len(README) + README).hexdigest()


@pytest.mark.parametrize("redirect_host", [False, True])
def test_download(hub: HubServer, tmp_path: Path, redirect_host: bool) -> None:
    hub.faults.redirect_host = redirect_host
    hub.tag(REPO, "v1")
    commit = next(iter(hub.repositories[REPO].commits))
    hub.add(REPO, {FILE: INVERTED})
    for revision, data in [("main", INVERTED), ("v1", DATA), (commit, DATA)]:
        path = hf_hub_download(REPO, FILE, revision=revision, cache_dir=tmp_path, endpoint=hub.url, token=False)
        assert Path(path).read_bytes() == data
        assert Path(path).resolve().name == hashlib.sha256(data).hexdigest()
    assert f"snapshots/{commit}/" in path
    readme = hf_hub_download(REPO, "README.md", cache_dir=tmp_path, endpoint=hub.url, token=False)
    assert Path(readme).read_bytes() == README


def test_download_through_the_environment(hub: HubServer, tmp_path: Path) -> None:
    code = f"from huggingface_hub import hf_hub_download as get; print(get({REPO!r}, {FILE!r}), end='')"
    proxies = dict.fromkeys(("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"), "")
    env = {**os.environ, **proxies, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, check=True, text=True)
    assert Path(done.stdout).read_bytes() == DATA


def test_large_files_come_from_disk_and_by_redirect(hub: HubServer, tmp_path: Path) -> None:
    data = os.urandom(4096) * (LFS_ABOVE // 4096 + 1)
    (tmp_path / "weights").write_bytes(data)
    (tmp_path / "empty").touch()
    hub.add(
        REPO, {"weights.bin": tmp_path / "weights", "limit.bin": data[:LFS_ABOVE], "empty.gguf": tmp_path / "empty"}
    )
    for name, status in [("weights.bin", 302), ("limit.bin", 200), ("empty.gguf", 302)]:
        assert ask(hub, f"/{REPO}/resolve/main/{name}").status == status
    assert ask(hub, f"/cdn/{hashlib.sha256(data).hexdigest()}").body == data
    assert ask(hub, f"/cdn/{hashlib.sha256().hexdigest()}").body == b""


def test_what_is_not_there(hub: HubServer, api: HfApi) -> None:
    def metadata(*of: str, revision: str | None = None) -> None:
        get_hf_file_metadata(hf_hub_url(*of, revision=revision, endpoint=hub.url))

    with pytest.raises(RepositoryNotFoundError):
        api.model_info("user/none")
    with pytest.raises(RepositoryNotFoundError):
        metadata("user/none", FILE)
    with pytest.raises(RevisionNotFoundError):
        api.model_info(REPO, revision="none")
    with pytest.raises(RevisionNotFoundError):
        metadata(REPO, FILE, revision="none")
    with pytest.raises(RemoteEntryNotFoundError) as caught:
        metadata(REPO, "none.gguf")
    assert caught.value.response.headers["X-Repo-Commit"] == api.model_info(REPO).sha
    assert [request.status for request in hub.requests] == [404, 404, 404, 404, 404, 200]
    assert ask(hub, "/elsewhere").status == ask(hub, f"/cdn/{'0' * 64}").status == 404


def test_private_and_gated(hub: HubServer, api: HfApi) -> None:
    hub.tokens.add("hf_good")
    hub.add("user/private", {FILE: DATA}, private=True)
    hub.add("user/gated", {FILE: DATA}, gated=True)
    gated = hf_hub_url("user/gated", FILE, endpoint=hub.url)
    with pytest.raises(RepositoryNotFoundError) as caught:
        api.model_info("user/private")
    assert caught.value.response.status_code == 401
    with pytest.raises(HfHubHTTPError, match="Invalid credentials"):
        api.model_info("user/private", token="hf_bad")
    assert api.model_info("user/private", token="hf_good").private
    assert api.model_info("user/gated", files_metadata=True).gated == "manual"  # listed to everybody
    for token in (False, "hf_bad"):
        with pytest.raises(GatedRepoError):
            get_hf_file_metadata(gated, token=token)
    assert get_hf_file_metadata(gated, token="hf_good").etag == SHA256
    assert api.whoami("hf_good")["name"] == "tester"
    with pytest.raises(HfHubHTTPError, match="Invalid user token"):
        api.whoami("hf_bad")
    hub.add("user/private", {}, private=False)
    assert api.model_info("user/private").private is False


def test_hostile_names_are_listed_as_they_are(hub: HubServer, api: HfApi) -> None:
    names = ["../x", "..\\x", "C:\\x", "/x", "a\0b", "a/../../x.gguf", "\\\\host\\x"]
    hub.add("user/hostile", {}, names=names)
    assert {file.rfilename for file in api.model_info("user/hostile").siblings or []} == {*names}
    assert {*names} <= {entry.path for entry in api.list_repo_tree("user/hostile", recursive=True)}
    assert ask(hub, "/user/hostile/resolve/main/../x").body == b"hostile"
    assert ask(hub, "/user/hostile/resolve/main//x").body == b"hostile"
    assert ask(hub, "/user/hostile/resolve/main/a%00b").body == b"hostile"


@pytest.mark.parametrize("path", [CDN, f"/{REPO}/resolve/main/README.md"], ids=["cdn", "resolve"])
def test_ranges(hub: HubServer, path: str) -> None:
    data = DATA if path == CDN else README
    size = len(data)
    for wanted, start, end in [
        ("bytes=0-0", 0, 1),
        ("bytes=2-5", 2, 6),
        ("bytes=5-", 5, size),
        (f"bytes=3-{size + 100}", 3, size),
        ("bytes=-4", size - 4, size),
        (f"bytes=-{size + 1}", 0, size),
    ]:
        answer = ask(hub, path, Range=wanted)
        assert (answer.status, answer.body, answer.whole) == (206, data[start:end], True), wanted
        assert answer.headers["Content-Range"] == f"bytes {start}-{end - 1}/{size}"
        assert hub.requests[-1].range == wanted
    for wanted in (f"bytes={size}-", "bytes=-0"):
        answer = ask(hub, path, Range=wanted)
        assert (answer.status, answer.body, answer.headers["Content-Range"]) == (416, b"", f"bytes */{size}")
    for wanted in ("bytes=5-2", "bytes=0-1,3-4", "lines=1-2", "bytes=-"):
        answer = ask(hub, path, Range=wanted)
        assert (answer.status, answer.body) == (200, data)
    etag = ask(hub, path).headers["ETag"]
    assert ask(hub, path, Range="bytes=1-", If_Range=etag).status == 206
    assert ask(hub, path, Range="bytes=1-", If_Range='"other"').status == 200


def test_the_record(hub: HubServer) -> None:
    ask(hub, f"/{REPO}/resolve/main/{FILE}?a=b", method="HEAD", Authorization="Bearer hf_t", X_Thing="1")
    ask(hub, Range="bytes=0-9")
    first, second = hub.requests
    assert (first.method, first.path, first.query) == ("HEAD", f"/{REPO}/resolve/main/{FILE}", {"a": ["b"]})
    assert (first.status, first.sent, first.range, first.token) == (302, 0, None, "hf_t")
    assert (first.host, first.headers["x-thing"]) == (hub.url.removeprefix("http://"), "1")
    assert (second.method, second.path, second.range) == ("GET", CDN, "bytes=0-9")
    assert (second.status, second.sent, second.token) == (206, 10, None)


def test_one_connection_serves_many_requests(hub: HubServer) -> None:
    with connect(hub) as connection:
        connection.connect()
        socket = connection.sock
        for path in (CDN, "/elsewhere", f"/{REPO}/resolve/main/{FILE}", "/api/models", CDN):
            connection.request("GET", path)
            assert Answer(connection.getresponse()).whole
            assert connection.sock is socket
        connection.request("HEAD", CDN)
        assert Answer(connection.getresponse()).headers["Content-Length"] == str(len(DATA))
        assert connection.sock is socket


# Faults. Each one with a count switches itself off.


def test_cut(hub: HubServer) -> None:
    hub.faults.cut_after, hub.faults.cut_times = 1000, 2
    assert ask(hub, Range="bytes=0-9").whole  # too short to be cut, so it does not count
    for _ in range(2):
        answer = ask(hub)
        assert (answer.status, answer.body, answer.whole) == (200, DATA[:1000], False)
        assert hub.requests[-1].sent == 1000
    assert hub.faults == Faults()
    assert ask(hub).body == DATA
    hub.faults.cut_after = 0
    assert (ask(hub).body, hub.requests[-1].sent) == (b"", 0)


def test_stall_until_the_client_goes(hub: HubServer) -> None:
    hub.faults.stall_after = 1000
    with connect(hub) as connection:
        connection.request("GET", CDN)
        response = connection.getresponse()
        assert response.read(1000) == DATA[:1000]
        assert hub.requests[-1].sent == 1000
        connection.sock.settimeout(0.05)
        with pytest.raises(TimeoutError):
            response.read(1)
        response.close()
    assert ask(hub).body == DATA


def test_stall_until_the_server_stops(hub: HubServer) -> None:
    hub.faults.stall_after = 1000
    with connect(hub) as connection:
        connection.request("GET", CDN)
        response = connection.getresponse()
        assert response.read(1000) == DATA[:1000]
        hub.stop()
        assert Answer(response).body == b""


@pytest.mark.parametrize("on_disk", [False, True])
def test_flip(hub: HubServer, tmp_path: Path, on_disk: bool) -> None:
    (tmp_path / "model").write_bytes(DATA)
    hub.add(REPO, {FILE: tmp_path / "model" if on_disk else DATA})
    for offset in (0, 100, len(DATA) - 1):
        damaged = DATA[:offset] + bytes([DATA[offset] ^ 0xFF]) + DATA[offset + 1 :]
        hub.faults.flip, hub.faults.flip_times = offset, 2
        assert ask(hub, Range="bytes=200-300").body == DATA[200:301]  # leaves it out, so it does not count
        assert ask(hub).body == damaged
        assert ask(hub, Range=f"bytes={offset}-{offset}").body == damaged[offset : offset + 1]
        assert ask(hub).body == DATA
    assert hub.faults == Faults()


def test_short(hub: HubServer) -> None:
    hub.faults.short, hub.faults.short_times = 10, 2
    answer = ask(hub)
    assert (answer.status, answer.body, answer.whole) == (200, DATA[:-10], True)
    answer = ask(hub, Range="bytes=100-199")
    assert (answer.status, answer.body, answer.whole) == (206, DATA[100:190], True)
    assert answer.headers["Content-Range"] == f"bytes 100-199/{len(DATA)}"
    assert ask(hub).body == DATA
    assert hub.faults == Faults()


def test_swap(hub: HubServer) -> None:
    hub.faults.swap = INVERTED
    assert ask(hub).body == INVERTED
    answer = ask(hub, Range="bytes=1-2")
    assert (answer.body, answer.headers["ETag"]) == (INVERTED[1:3], f'"{SHA256}"')
    hub.faults.swap = INVERTED[1:]
    assert ask(hub).body == DATA


def test_ignored_and_refused_ranges(hub: HubServer) -> None:
    hub.faults.ignore_range = True
    answer = ask(hub, Range="bytes=1-2")
    assert (answer.status, answer.body, answer.headers["Content-Range"]) == (200, DATA, None)
    hub.faults = Faults(refuse_range=True, refuse_times=2)
    assert ask(hub).status == 200
    assert [ask(hub, Range="bytes=1-2").status for _ in range(3)] == [416, 416, 206]
    assert hub.faults == Faults()


@pytest.mark.parametrize(
    "path", [CDN, f"/api/models/{REPO}", f"/{REPO}/resolve/main/{FILE}"], ids=["cdn", "api", "resolve"]
)
def test_status(hub: HubServer, path: str) -> None:
    hub.faults.status, hub.faults.status_times, hub.faults.status_path = 429, 2, path[:5]
    assert ask(hub, "/elsewhere").status == 404
    answer = ask(hub, path)
    assert (answer.status, answer.headers["Retry-After"]) == (429, "0")
    assert ask(hub, path, method="HEAD").status == 429
    assert ask(hub, path).status in (200, 302)


def test_the_real_client_sees_a_status(hub: HubServer, api: HfApi) -> None:
    hub.faults.status, hub.faults.status_path = 503, "/api"
    with pytest.raises(HfHubHTTPError, match="503"):
        api.model_info(REPO)
    assert api.model_info(REPO).id == REPO


@pytest.mark.parametrize("after", [1, 2])
def test_change(hub: HubServer, api: HfApi, after: int) -> None:
    before = api.model_info(REPO).sha
    hub.faults.change_etag_after = after
    assert [ask(hub).body for _ in range(after)] == [DATA] * after
    location = ask(hub, f"/{REPO}/resolve/main/{FILE}").headers["Location"]
    assert (ask(hub, location).body, ask(hub, CDN).body) == (INVERTED, DATA)
    metadata = get_hf_file_metadata(hf_hub_url(REPO, FILE, endpoint=hub.url))
    assert metadata.etag == hashlib.sha256(INVERTED).hexdigest()
    assert metadata.commit_hash == api.model_info(REPO).sha != before
    assert get_hf_file_metadata(hf_hub_url(REPO, FILE, revision=before, endpoint=hub.url)).etag == SHA256


@pytest.mark.parametrize("after", [0, 1])
def test_change_in_place(hub: HubServer, after: int) -> None:
    hub.faults.change_etag_after, hub.faults.change_in_place = after, True
    etag = f'"{hashlib.sha256(INVERTED).hexdigest()}"'
    assert [ask(hub).body for _ in range(after + 1)] == [DATA] * after + [INVERTED]
    assert ask(hub).headers["ETag"] == ask(hub, f"/{REPO}/resolve/main/{FILE}").headers["X-Linked-Etag"] == etag
    assert ask(hub, Range="bytes=1-", If_Range=f'"{SHA256}"').status == 200


@pytest.mark.parametrize("redirect_host", [False, True])
def test_the_token_on_its_way_to_another_host(hub: HubServer, tmp_path: Path, redirect_host: bool) -> None:
    hub.faults.redirect_host = redirect_host
    path = hf_hub_download(REPO, FILE, cache_dir=tmp_path, endpoint=hub.url, token="hf_t")
    assert Path(path).read_bytes() == DATA
    here, there = hub.url.removeprefix("http://"), hub.cdn_url.removeprefix("http://")
    assert there.startswith("localhost:")
    seen = [(request.method, request.path[:5], request.host, request.token) for request in hub.requests]
    if redirect_host:
        assert seen == [("HEAD", "/user", here, "hf_t"), ("GET", CDN[:5], there, None)]
    else:
        assert seen == [
            ("HEAD", "/user", here, "hf_t"),
            ("HEAD", "/cdn/", here, "hf_t"),
            ("GET", "/cdn/", here, "hf_t"),
        ]


def test_throttle(hub: HubServer) -> None:
    hub.faults.bytes_per_second = 20 * len(DATA)
    began = time.monotonic()
    assert ask(hub).body == DATA
    assert time.monotonic() - began > 0.04
    hub.faults.bytes_per_second = 1
    with connect(hub) as connection:
        connection.request("GET", CDN)
        response = connection.getresponse()
        assert response.read(1) == DATA[:1]
        hub.stop()  # does not wait for the rest
        assert not Answer(response).whole
    assert 1 <= hub.requests[-1].sent < 5


def test_a_client_that_goes_is_on_record(hub: HubServer, tmp_path: Path) -> None:
    size = 64 << 20
    with (tmp_path / "sparse.gguf").open("wb") as file:
        file.truncate(size)
    hub.add(REPO, {"sparse.gguf": tmp_path / "sparse.gguf"})
    with connect(hub) as connection:
        connection.request("GET", ask(hub, f"/{REPO}/resolve/main/sparse.gguf").headers["Location"])
        response = connection.getresponse()
        assert response.read(1) == b"\0"
        response.close()
    hub.wait(lambda requests: len(requests) == 2)
    assert 1 <= hub.requests[-1].sent < size


@pytest.mark.parametrize("address", ["url", "cdn_url"])
def test_stop_and_restart(hub: HubServer, address: str) -> None:
    def where() -> str:
        return str(getattr(hub, address)).removeprefix("http://")

    before = where()
    with closing(http.client.HTTPConnection(where(), timeout=10)) as idle:
        idle.request("GET", CDN)
        assert Answer(idle.getresponse()).body == DATA
        hub.stop()
        hub.stop()
        assert idle.sock.recv(1) == b""
    with closing(http.client.HTTPConnection(where(), timeout=10)) as refused, pytest.raises(ConnectionRefusedError):
        refused.connect()
    hub.restart()
    assert where() == before
    with closing(http.client.HTTPConnection(where(), timeout=10)) as again:
        again.request("GET", CDN)
        assert Answer(again.getresponse()).body == DATA
