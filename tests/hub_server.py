"""A stand-in of the Hugging Face Hub on loopback, with faults that tests switch on.

    with HubServer() as hub:
        hub.add("user/repo", {"model-Q4_K_M.gguf": b"…", "README.md": b"…"})
        hub.faults.cut_after = 1000  # the next body breaks off after 1000 bytes

The real client talks to it through HF_ENDPOINT or `endpoint=hub.url`. It knows nothing about Xet, pages of long
listings, and repositories of other kinds than models.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import re
import socket
import threading
import time
from collections.abc import Callable, Container, Iterable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote

LFS_ABOVE = 10_000_000  # bytes
BLOCK = 1 << 20
EPOCH = datetime(2026, 1, 1)  # UTC, of the first commit; each further one is a minute younger

REPO = r"(?P<repo>[^/]+/[^/]+)"
ROUTES = {
    r"/api/whoami-v2": "whoami",
    r"/api/models": "search",
    rf"/api/models/{REPO}(/revision/(?P<revision>[^/]+))?": "info",
    rf"/api/models/{REPO}/tree/(?P<revision>[^/]+)(/(?P<path>.+))?": "tree",
    rf"/{REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)": "resolve",
    r"/cdn/(?P<sha256>[0-9a-f]{64})": "cdn",
}


@dataclass(frozen=True)
class Request:
    """A request that was answered. It is on record before its last byte leaves, so before the client can be done."""

    method: str
    path: str  # as it came, without the query
    query: dict[str, list[str]]
    host: str  # the listener's: "127.0.0.1:PORT" or "localhost:PORT2"
    headers: dict[str, str]  # names in lower case
    range: str | None
    token: str | None
    status: int = 0
    sent: int = 0  # bytes of the body


@dataclass
class Faults:
    """What goes wrong with bodies from /cdn, each by itself.

    A fault with a count holds for so many requests that it changes, then switches itself off: a Range request that
    leaves out the flipped byte does not count, nor does a body that ends before `cut_after`.
    """

    cut_after: int | None = None  # bytes of the body, then the connection is closed
    cut_times: int = 1
    stall_after: int | None = None  # bytes of the body, then nothing more until the client goes or the server stops
    stall_times: int = 1
    flip: int | None = None  # offset in the file of a byte that is sent inverted
    flip_times: int = 1
    short: int | None = None  # bytes missing at the end, with a Content-Length that fits what is sent
    short_times: int = 1
    refuse_range: bool = False  # Range requests get 416
    refuse_times: int = 1
    status: int | None = None  # any request under `status_path` gets this status, HEAD too, with `Retry-After: 0`
    status_times: int = 1
    status_path: str = "/cdn"
    change_etag_after: int | None = None  # after so many bodies the file has inverted content in a new commit of main
    change_in_place: bool = False  # then addresses of the old content serve the new one too: a careless mirror
    ignore_range: bool = False  # Range requests get 200 and everything
    swap: bytes | Path | None = None  # sent in place of every file of the same length
    redirect_host: bool = False  # resolve redirects to the second listener, http://localhost:PORT2
    bytes_per_second: int | None = None  # of each body; may be changed while one is on its way

    def take(self, name: str, among: Container[Any]) -> Any:
        """The value of a fault with a count if it is among these, for one request; the last use switches it off."""
        value, times = getattr(self, name), f"{name.partition('_')[0]}_times"
        if value is None or value not in among:
            return None
        setattr(self, times, getattr(self, times) - 1)
        if getattr(self, times) <= 0:
            setattr(self, name, getattr(Faults, name))
            setattr(self, times, getattr(Faults, times))
        return value


def content(source: bytes | Path) -> memoryview:
    """A file's bytes; those on disk stay there."""
    if isinstance(source, bytes) or not source.stat().st_size:
        return memoryview(source if isinstance(source, bytes) else b"")
    with source.open("rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


class File:
    """What the Hub keeps of a file: .gguf files and large ones in Git LFS, others in Git itself."""

    def __init__(self, name: str, data: memoryview) -> None:
        self.data, self.size, self.sha256 = data, len(data), hashlib.sha256(data).hexdigest()
        self.lfs = name.lower().endswith(".gguf") or self.size > LFS_ABOVE
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {self.size}\n".encode()
        in_git, self.pointer_size = (pointer if self.lfs else data), len(pointer)
        self.oid = hashlib.sha1(b"".join([b"blob %d\0" % len(in_git), in_git])).hexdigest()

    def headers(self, commit: str) -> dict[str, str]:
        etag = f'"{self.sha256 if self.lfs else self.oid}"'
        linked = {"X-Linked-Etag": etag, "X-Linked-Size": str(self.size)}
        return {"X-Repo-Commit": commit, "ETag": etag, "Accept-Ranges": "bytes", **linked}

    def listed(self, oid: str, sha256: str) -> dict[str, Any]:
        """For a listing, under the names that it has for Git's hash and the content's."""
        lfs = {sha256: self.sha256, "size": self.size, "pointerSize": self.pointer_size}
        return {"size": self.size, oid: self.oid} | ({"lfs": lfs} if self.lfs else {})


@dataclass
class Repository:
    name: str
    gated: bool = False
    private: bool = False
    downloads: int = 0
    likes: int = 0
    tags: list[str] = field(default_factory=list)
    modified: str = ""
    revisions: dict[str, str] = field(default_factory=dict)  # main and tags → commit
    commits: dict[str, dict[str, File]] = field(default_factory=dict)

    @property
    def head(self) -> dict[str, File]:
        return self.commits.get(self.revisions.get("main", ""), {})

    def summary(self) -> dict[str, Any]:
        """What the API tells of a repository, without its files."""
        own = {key: getattr(self, key) for key in ("private", "downloads", "likes")}
        own |= {"gated": "manual" if self.gated else False, "lastModified": self.modified}
        gguf = ["gguf"] * any(name.lower().endswith(".gguf") for name in self.head)
        return {"id": self.name, "author": self.name.split("/")[0], "tags": [*gguf, *self.tags], **own}


@dataclass
class Reply:
    """An answer, and what faults make of it."""

    status: int
    data: bytes | memoryview
    headers: dict[str, str] = field(default_factory=dict)
    ranged: bool = False  # Range requests are heeded
    faulty: bool = False  # faults concern it
    start: int = 0
    declared: int = 0  # Content-Length
    count: int = 0  # bytes of it that are sent
    flip: int | None = None
    stall: bool = False


class Error(Exception):
    def __init__(self, status: int, message: str, code: str = "", **headers: str) -> None:
        headers |= {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self.reply = Reply(status, json.dumps({"error": message}).encode(), headers)


class Listener(ThreadingHTTPServer):
    """One port."""

    daemon_threads = False  # so that server_close waits for them
    request_queue_size = 128

    def __init__(self, hub: HubServer, name: str, port: int) -> None:
        self.hub, self.connections = hub, list[socket.socket]()
        super().__init__(("127.0.0.1", port), Handler)
        self.host = f"{name}:{self.server_port}"

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        self.connections.append(connection)
        return connection, address

    def run(self) -> None:
        while not self.hub.stopping.is_set():
            self.handle_request()


class HubServer(AbstractContextManager["HubServer"]):
    """The stand-in, listening from its construction on. Its methods may be called from any thread."""

    def __init__(self) -> None:
        self.lock = threading.Condition(threading.RLock())
        self.requests: list[Request] = []
        self.faults = Faults()
        self.tokens: set[str] = set()  # they open private and gated repositories
        self.repositories: dict[str, Repository] = {}
        self.answers: dict[str, bytes] = {}  # path → what is sent instead, as by somebody else's server
        self.blobs: dict[str, File] = {}  # sha256 → what /cdn sends
        self._ports = (0, 0)
        self.restart()

    def restart(self) -> None:
        """Listens; after `stop` on the same ports as before."""
        self.stopping = threading.Event()
        self._listeners = [Listener(self, *at) for at in zip(("127.0.0.1", "localhost"), self._ports, strict=True)]
        self._ports = (self._listeners[0].server_port, self._listeners[1].server_port)
        self.url, self.cdn_url = (f"http://{listener.host}" for listener in self._listeners)
        self._threads = [threading.Thread(target=listener.run) for listener in self._listeners]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Closes the listeners and all connections at once, and waits for their threads."""
        if self.stopping.is_set():
            return
        self.stopping.set()
        for port, thread in zip(self._ports, self._threads, strict=True):
            socket.create_connection(("127.0.0.1", port)).close()  # wakes it
            thread.join()
        for connection in (connection for listener in self._listeners for connection in listener.connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for listener in self._listeners:
            listener.server_close()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def add(self, repo: str, files: Mapping[str, bytes | Path], *, names: Iterable[str] = (), **settings: Any) -> str:
        """A commit of new or changed files; the others stay. Returns its hash.

        Files at a `Path` are hashed here and must not change later. Each of `names` becomes a small file of that name,
        however hostile. Settings: gated, private, downloads, likes, tags; they stay until given anew.
        """
        sources = {**files, **dict.fromkeys(names, b"hostile")}
        changed = {name: File(name, content(source)) for name, source in sources.items()}
        with self.lock:
            repository = self.repositories[repo] = replace(self.repositories.get(repo, Repository(repo)), **settings)
            count = sum(len(one.commits) for one in self.repositories.values())
            commit = hashlib.sha1(f"{repo} {count}".encode()).hexdigest()
            repository.commits[commit] = dict(sorted({**repository.head, **changed}.items()))
            repository.modified = f"{(EPOCH + timedelta(minutes=count)).isoformat()}.000Z"
            repository.revisions["main"] = commit
            self.blobs |= {file.sha256: file for file in changed.values()}
            return commit

    def tag(self, repo: str, name: str, revision: str = "main") -> None:
        """A name for the commit of a revision."""
        revisions = self.repositories[repo].revisions
        revisions[name] = revisions.get(revision, revision)

    def record(self, request: Request) -> None:
        with self.lock:
            self.requests.append(request)
            self.lock.notify_all()

    def wait(self, condition: Callable[[list[Request]], bool], timeout: float = 10) -> None:
        """Until the condition holds for the requests on record; an AssertionError after `timeout` seconds."""
        with self.lock:
            assert self.lock.wait_for(lambda: condition(self.requests), timeout), self.requests

    def reply(self, request: Request) -> Reply:
        """The answer to a request, before ranges and faults of its body."""
        try:
            if request.path.startswith(self.faults.status_path) and (status := self.faults.take("status", range(600))):
                raise Error(status, "A fault", **{"Retry-After": "0"})
            if (answer := self.answers.get(request.path)) is not None:
                return Reply(200, answer)
            for pattern, name in ROUTES.items():
                if match := re.fullmatch(pattern, request.path):
                    parts = {key: unquote(part) for key, part in match.groupdict().items() if part is not None}
                    answer = getattr(self, f"_{name}")(request, **parts)
                    return answer if isinstance(answer, Reply) else Reply(200, json.dumps(answer).encode())
            raise Error(404, "Sorry, we can't find the page you are looking for.")
        except Error as error:
            return error.reply

    def _find(self, request: Request, repo: str, revision: str) -> tuple[Repository, str, dict[str, File]]:
        """A repository that the request may see, a commit of it, and its files."""
        if (repository := self.repositories.get(repo)) is None:
            raise Error(404, "Repository not found", "RepoNotFound")
        if repository.private and request.token is None:
            raise Error(401, "Invalid username or password.", "RepoNotFound")
        if repository.private and request.token not in self.tokens:
            raise Error(401, "Invalid credentials in Authorization header")
        commit = repository.revisions.get(revision, revision)
        if commit not in repository.commits:
            raise Error(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return repository, commit, repository.commits[commit]

    def _whoami(self, request: Request) -> object:
        if request.token not in self.tokens:
            raise Error(401, "Invalid credentials in Authorization header")
        return {"type": "user", "name": "tester", "orgs": []}

    def _search(self, request: Request) -> object:
        words, tags = request.query.get("search", [""])[0].lower().split(), {*request.query.get("filter", [])}
        visible = [one for one in self.repositories.values() if not one.private or request.token in self.tokens]
        named = [one.summary() for one in visible if all(word in one.name.lower() for word in words)]
        found = [one for one in named if tags <= {*one["tags"]}]
        if (by := request.query.get("sort", [""])[0]) in ("downloads", "likes", "lastModified"):
            found.sort(key=lambda one: one[by], reverse=True)
        asked = {*request.query.get("expand", ["lastModified", "gated"] if "full" in request.query else [])}
        left_out = {"lastModified", "gated"} - asked
        found = [{key: value for key, value in one.items() if key not in left_out} for one in found]
        return found[: int(request.query.get("limit", ["1000"])[0])]

    def _info(self, request: Request, repo: str, revision: str = "main") -> object:
        repository, commit, files = self._find(request, repo, revision)
        blobs = request.query.get("blobs") == ["true"]
        told = {name: file.listed("blobId", "sha256") if blobs else {} for name, file in files.items()}
        siblings = [{"rfilename": name, **rest} for name, rest in told.items()]
        return {**repository.summary(), "sha": commit, "siblings": siblings}

    def _tree(self, request: Request, repo: str, revision: str, path: str = "") -> object:
        entries: dict[str, dict[str, Any]] = {}
        for name, file in self._find(request, repo, revision)[2].items():
            for folder in map(str, [*PurePosixPath(name).parents][-2::-1]):
                entries[folder] = {"type": "directory", "path": folder, "oid": "0" * 40}
            entries[name] = {"type": "file", "path": name, **file.listed("oid", "oid")}
        prefix, recursive = f"{path}/" if path else "", request.query.get("recursive") == ["true"]
        inside = [entry for name, entry in entries.items() if name.startswith(prefix)]
        if path and not inside:
            raise Error(404, f"{path} does not exist on {revision}", "EntryNotFound")
        return [entry for entry in inside if recursive or "/" not in entry["path"].removeprefix(prefix).strip("/")]

    def _resolve(self, request: Request, repo: str, revision: str, path: str) -> Reply:
        repository, commit, files = self._find(request, repo, revision)
        if repository.gated and request.token not in self.tokens:
            raise Error(403, f"Access to model {repo} is restricted.", "GatedRepo")
        if path not in files:
            raise Error(404, "Entry not found", "EntryNotFound", **{"X-Repo-Commit": commit})
        sha256 = files[path].sha256
        headers = self.blobs[sha256].headers(commit)
        if not files[path].lfs:
            return Reply(200, files[path].data, headers, ranged=True)
        # On the same host the client follows a HEAD too, and wants to be told the commit there; a CDN knows of none.
        other = self.faults.redirect_host
        headers["Location"] = f"{self.cdn_url}/cdn/{sha256}" if other else f"/cdn/{sha256}?commit={commit}"
        return Reply(302, f"Found. Redirecting to {headers['Location']}".encode(), headers)

    def _cdn(self, request: Request, sha256: str) -> Reply:
        file, after = self.blobs.get(sha256), self.faults.change_etag_after
        if file is None:
            raise Error(404, "NoSuchKey")
        if request.method == "GET" and after is not None:
            self.faults.change_etag_after = after - 1 if after > 1 else None
            if after <= 1:
                self._change(file)
            file = file if after else self.blobs[sha256]
        commit = request.query.get("commit", [""])[0]
        headers = {name: value for name, value in file.headers(commit).items() if commit or not name.startswith("X-")}
        return Reply(200, file.data, headers, ranged=True, faulty=True)

    def _change(self, old: File) -> None:
        inverted = bytes(old.data).translate(bytes(range(255, -1, -1)))
        for repo, repository in self.repositories.items():
            if names := [name for name, file in repository.head.items() if file.sha256 == old.sha256]:
                self.add(repo, dict.fromkeys(names, inverted))
        if self.faults.change_in_place:
            self.blobs[old.sha256] = File("x.gguf", memoryview(inverted))


def span(wanted: str | None, size: int) -> tuple[int, int] | None:
    """The bytes (from, until) that a Range header names; None if it names none that are valid."""
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", wanted or "")
    first, last = match.groups() if match else ("", "")
    if not first:
        return (max(0, size - int(last)), size) if last else None
    end = min(int(last or size) + 1, size)
    return (int(first), end) if not last or int(last) >= int(first) else None


class Handler(BaseHTTPRequestHandler):
    """The wire: headers, ranges, faults, and the record."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Listener

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        headers = {name.lower(): value for name, value in self.headers.items()}
        token = headers.get("authorization", "").removeprefix("Bearer ") or None
        about = (path, parse_qs(query), self.server.host, headers, headers.get("range"), token)
        request = Request(self.command, *about)
        with self.server.hub.lock:  # one request takes all its faults at once
            reply = self.server.hub.reply(request)
            reply.declared = reply.count = len(reply.data)
            if request.method == "HEAD":
                reply.count = 0
            elif reply.ranged:
                reply = self._shape(reply, request)
        self.send_response(reply.status)
        for name, value in {**reply.headers, "Content-Length": str(reply.declared)}.items():
            self.send_header(name, value)
        self._send(reply, replace(request, status=reply.status))
        if request.method == "GET" and reply.count < reply.declared:
            self.close_connection = True
            while reply.stall and self.connection.recv(BLOCK):
                pass

    do_HEAD = do_GET

    def handle(self) -> None:
        with suppress(ConnectionError):  # a client that went away is no error
            super().handle()

    def _shape(self, reply: Reply, request: Request) -> Reply:
        """The part of a file that is to be sent, after the Range header and the faults."""
        faults, size = self.server.hub.faults if reply.faulty else Faults(), reply.count
        valid = request.headers.get("if-range", reply.headers["ETag"]) == reply.headers["ETag"]
        wanted = request.range if valid and not faults.ignore_range else None
        part = span(wanted, size)
        if (wanted and faults.take("refuse_range", [True])) or (part and part[0] >= size):
            return Reply(416, b"", {"Content-Range": f"bytes */{size}"})
        if part:
            reply.status, reply.start, reply.count = 206, part[0], part[1] - part[0]
            reply.headers["Content-Range"] = f"bytes {part[0]}-{part[1] - 1}/{size}"
        if faults.swap is not None and len(other := content(faults.swap)) == size:
            reply.data = other
        reply.count -= faults.take("short", range(1, reply.count + 1)) or 0
        reply.declared = reply.count
        for name in ("stall_after", "cut_after"):
            if (after := faults.take(name, range(reply.count))) is not None:
                reply.count, reply.stall = after, name == "stall_after"
        reply.flip = faults.take("flip", range(reply.start, reply.start + reply.count))
        return reply

    def _send(self, reply: Reply, request: Request) -> None:
        """The headers and the body, throttled. The request goes on record before the last byte, or when it fails."""
        hub, sent, began = self.server.hub, 0, time.monotonic()
        if not reply.count:
            hub.record(request)
        self.end_headers()
        while sent < reply.count:
            left = reply.count - sent
            if left == 1:
                hub.record(replace(request, sent=reply.count))
            speed = hub.faults.bytes_per_second if reply.faulty else None
            first = reply.start + sent
            limit = min(left - 1 or 1, BLOCK, max(1, speed // 20) if speed else BLOCK)
            block = memoryview(reply.data)[first : first + limit]
            if reply.flip is not None and first <= reply.flip < first + limit:
                block = memoryview(bytearray(block))
                block[reply.flip - first] ^= 0xFF
            try:
                sent += self.connection.send(block)
                if speed and hub.stopping.wait(max(0.0, began + sent / speed - time.monotonic())):
                    raise ConnectionAbortedError("the server stops")
            except OSError:
                if left > 1:
                    hub.record(replace(request, sent=sent))
                raise

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: tests look at the record."""
