"""A small Hugging Face hub on the loopback address: what clients ask to find, download and upload files.

It keeps models and data sets as lists of commits, with branches and tags. Large files are served as the hub serves
them: by a redirect to another host, which must not be sent the token. They are uploaded there too, before the commit
that names them. Clients find the hub through `HF_ENDPOINT`. It does not speak Xet, the newer way of uploading.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

STORED_APART = (".safetensors", ".parquet", ".bin", ".onnx")
"""Endings of files that are kept in the large file storage."""


@dataclass
class Repository:
    """A model or a data set."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    """Commits by the names of branches and tags."""
    tags: set[str] = field(default_factory=set)
    gated: bool = False
    private: bool = False
    readers: set[str] = field(default_factory=set)
    """Tokens of those who may read it if it is gated or private."""
    titles: list[str] = field(default_factory=list)
    """Of the commits that were uploaded."""

    def commit(self, files: Mapping[str, bytes | str], branch: str = "main") -> str:
        """Make a commit that has just these files the head of a branch; returns its hash."""
        stored = {path: text.encode() if isinstance(text, str) else text for path, text in files.items()}
        listing = json.dumps([len(self.commits), *sorted((path, _blob(data)) for path, data in stored.items())])
        commit = hashlib.sha1(listing.encode()).hexdigest()
        self.commits[commit] = stored
        self.refs[branch] = commit
        return commit

    def tag(self, name: str, commit: str) -> None:
        """Name a commit for good."""
        self.refs[name] = commit
        self.tags.add(name)

    def find(self, revision: str) -> str | None:
        """The commit that a branch, tag or hash means."""
        return self.refs.get(revision, revision if revision in self.commits else None)


class Hub:
    """The server: in a thread of its own while it is entered."""

    def __init__(self) -> None:
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.tokens: set[str] = set()
        """Those of accounts."""
        self.may_write: dict[str, str] = {}
        """The owner, by token, whose repositories it may make and write to."""
        self.uploaded: dict[str, bytes] = {}
        """Large files that no commit has yet, by their digests."""
        self.broken: int | None = None
        """A status that every request is answered with."""
        self.page: bytes | None = None
        """What every request is answered with: the page of a network that wants a log-in, say."""
        self.requests: list[str] = []
        """Method and path of each request, oldest first."""
        self.leaked: list[str] = []
        """Tokens that were sent to the storage of large files."""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def storage(self) -> str:
        """The address of the large files: the same server under another name."""
        return f"http://localhost:{self._server.server_port}/large"

    def __enter__(self) -> Hub:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """From now on nobody answers."""
        self._server.shutdown()
        self._server.server_close()

    def add(self, kind: str, name: str, files: Mapping[str, bytes | str], **settings: Any) -> Repository:
        """A new `model` or `dataset` with one commit on its main branch."""
        found = self.repositories[kind, name] = Repository(**settings)
        found.commit(files)
        return found

    def large(self, digest: str) -> bytes | None:
        """The content of a large file."""
        contents = (
            data for found in self.repositories.values() for files in found.commits.values() for data in files.values()
        )
        return next((data for data in contents if hashlib.sha256(data).hexdigest() == digest), None)

    def let_write(self, token: str, owner: str) -> None:
        """Make an account that may write to the repositories of an owner."""
        self.tokens.add(token)
        self.may_write[token] = owner


def folder_files(folder: Path) -> dict[str, bytes]:
    """The files of a folder by their paths, as a commit has them."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class _Answer(Exception):
    """What is sent back."""

    def __init__(self, status: int, body: bytes = b"", **headers: str) -> None:
        super().__init__(status)
        self.status, self.body, self.headers = status, body, headers


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.0"  # no connection outlives a stopped server

    def log_message(self, *_: object) -> None:
        """Nothing is written to standard error."""

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        self.hub.requests.append(f"{self.command} {unquote(url.path)}")
        try:
            if self.hub.broken:
                raise _Answer(self.hub.broken)
            if self.hub.page is not None:
                raise _Answer(200, self.hub.page, Content_Type="text/html")
            self._answer(url.path.strip("/").split("/"), parse_qs(url.query))
        except _Answer as answer:
            self._send(answer)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        url = urlsplit(self.path)
        self.hub.requests.append(f"{self.command} {unquote(url.path)}")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)) or self._chunks()
        try:
            if self.hub.broken:
                raise _Answer(self.hub.broken)
            self._take(url.path.strip("/").split("/"), body)
        except _Answer as answer:
            self._send(answer)

    do_PUT = do_POST

    def _chunks(self) -> bytes:
        """A body that is sent in chunks."""
        found = b""
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                found += self.rfile.read(size)
                self.rfile.readline()
        return found

    def _take(self, parts: list[str], body: bytes) -> None:
        if parts[0] == "large":
            if token := self._token():
                self.hub.leaked.append(token)
            self.hub.uploaded[parts[1]] = body
            raise _Answer(200 if hashlib.sha256(body).hexdigest() == parts[1] else 400)
        if parts == ["api", "validate-yaml"]:
            raise _json({"errors": [], "warnings": []})
        if parts == ["api", "repos", "create"]:
            raise self._made(json.loads(body))
        if parts[-3:] == ["lfs", "objects", "batch"]:
            self._writable(unquote("/".join(parts[:-4])).removesuffix(".git"))
            raise _json({"transfer": "basic", "objects": [self._place(each) for each in json.loads(body)["objects"]]})
        _, name, rest = self._named("model", parts[2:], ("preupload", "commit"))
        found = self._writable(name)
        if rest[0] == "preupload":
            modes = {True: "lfs", False: "regular"}
            files = [
                {"path": path, "uploadMode": modes[path.endswith(STORED_APART)], "shouldIgnore": False}
                for path in (file["path"] for file in json.loads(body)["files"])
            ]
            raise _json({"files": files})
        commit = self._committed(found, [json.loads(line) for line in body.splitlines()])
        raise _json({"commitOid": commit, "commitUrl": f"{self.hub.endpoint}/{name}/commit/{commit}"})

    def _made(self, asked: dict[str, Any]) -> _Answer:
        owner = asked["organization"] or self.hub.may_write.get(self._token(), "")
        name = f"{owner}/{asked['name']}"
        self._account()
        if ("model", name) in self.hub.repositories:
            return _json({"url": f"{self.hub.endpoint}/{name}", "error": "You already created this model repo"}, 409)
        if self.hub.may_write.get(self._token()) != owner:
            return _Answer(403, X_Error_Message=f"You don't have the rights to create a model under {owner}")
        private = asked.get("visibility") == "private"
        files = {".gitattributes": "*.safetensors filter=lfs"}
        self.hub.add("model", name, files, private=private, readers={self._token()})
        return _json({"url": f"{self.hub.endpoint}/{name}", "name": name})

    def _account(self) -> None:
        if self._token() not in self.hub.tokens:
            raise _Answer(401, X_Error_Message="Invalid credentials in Authorization header")

    def _writable(self, name: str) -> Repository:
        self._account()
        found = self._readable("model", name)
        if self.hub.may_write.get(self._token()) != name.partition("/")[0]:
            raise _Answer(403, X_Error_Message="You don't have the rights to write to it")
        return found

    def _place(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Where a large file is uploaded; nowhere if it is there."""
        known = self.hub.large(asked["oid"]) is not None
        href = {"href": f"{self.hub.storage}/{asked['oid']}", "header": {}}
        return {"oid": asked["oid"], "size": asked["size"], **({} if known else {"actions": {"upload": href}})}

    def _committed(self, found: Repository, lines: list[dict[str, Any]]) -> str:
        files = dict(found.commits[found.refs["main"]])
        for value, key in ((line["value"], line["key"]) for line in lines):
            if key == "header":
                found.titles.append(value["summary"])
            elif key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "deletedFile":
                del files[value["path"]]
            else:
                assert key == "lfsFile", key
                data = self.hub.uploaded.get(value["oid"])
                files[value["path"]] = self.hub.large(value["oid"]) or b"" if data is None else data
        return found.commit(files)

    def _send(self, answer: _Answer) -> None:
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def _answer(self, parts: list[str], query: dict[str, list[str]]) -> None:
        if parts[0] == "large":
            if token := self._token():
                self.hub.leaked.append(token)
            data = self.hub.large(parts[1])
            raise _Answer(404) if data is None else _Answer(200, data)
        if parts[0] == "api":
            kind, name, rest = self._named(parts[1].removesuffix("s"), parts[2:], ("revision", "tree", "refs"))
            found = self._readable(kind, name)
            raise _json(self._about(found, name, rest, query))
        kind, parts = ("dataset", parts[1:]) if parts[0] == "datasets" else ("model", parts)
        kind, name, rest = self._named(kind, parts, ("resolve",))
        found = self._readable(kind, name)
        self._check_admitted(found)
        commit = self._commit(found, unquote(rest[1]))
        raise self._file(found, commit, unquote("/".join(rest[2:])))

    def _named(self, kind: str, parts: list[str], verbs: tuple[str, ...]) -> tuple[str, str, list[str]]:
        """The kind and the name of a repository, and what is asked of it."""
        at = next((number for number, part in enumerate(parts) if part in verbs), len(parts))
        return kind, unquote("/".join(parts[:at])), parts[at:]

    def _token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def _readable(self, kind: str, name: str) -> Repository:
        """A repository that whoever asks may know of. To others it is as if it were not there."""
        token, found = self._token(), self.hub.repositories.get((kind, name))
        if token and token not in self.hub.tokens:
            raise _Answer(401, X_Error_Message="Invalid credentials in Authorization header")
        if found is None or (found.private and token not in found.readers):
            status = 404 if token else 401
            raise _Answer(status, X_Error_Code="RepoNotFound", X_Error_Message="Repository not found")
        return found

    def _check_admitted(self, found: Repository) -> None:
        if found.gated and self._token() not in found.readers:
            status = 403 if self._token() else 401
            raise _Answer(status, X_Error_Code="GatedRepo", X_Error_Message="Access to it is restricted.")

    def _commit(self, found: Repository, revision: str) -> str:
        commit = found.find(revision)
        if commit is None:
            raise _Answer(404, X_Error_Code="RevisionNotFound", X_Error_Message=f"Invalid rev id: {revision}")
        return commit

    def _about(self, found: Repository, name: str, rest: list[str], query: dict[str, list[str]]) -> Any:
        verb = rest[0] if rest else "revision"
        if verb == "refs":
            refs: dict[str, list[dict[str, str]]] = {"branches": [], "tags": [], "converts": []}
            for ref, commit in found.refs.items():
                tagged = ref in found.tags
                full = f"refs/{'tags' if tagged else 'heads'}/{ref}"
                refs["tags" if tagged else "branches"].append({"name": ref, "ref": full, "targetCommit": commit})
            return refs
        commit = self._commit(found, unquote(rest[1]) if len(rest) > 1 else "main")
        files = found.commits[commit]
        if verb == "tree":
            assert query.get("recursive") == ["true"], query
            return [_entry(path, data) for path, data in sorted(files.items())]
        return {
            "_id": "0",
            "id": name,
            "sha": commit,
            "private": found.private,
            "gated": "auto" if found.gated else False,
            "siblings": [{"rfilename": path} for path in sorted(files)],
            "tags": [],
        }

    def _file(self, found: Repository, commit: str, path: str) -> _Answer:
        data = found.commits[commit].get(path)
        if data is None:
            return _Answer(404, X_Error_Code="EntryNotFound", X_Error_Message="Entry not found", X_Repo_Commit=commit)
        if not path.endswith(STORED_APART):
            return _Answer(200, data, ETag=f'"{_blob(data)}"', X_Repo_Commit=commit)
        digest = hashlib.sha256(data).hexdigest()
        linked = {"X_Linked_Etag": f'"{digest}"', "X_Linked_Size": str(len(data))}
        return _Answer(302, X_Repo_Commit=commit, Location=f"{self.hub.storage}/{digest}", **linked)


def _json(value: Any, status: int = 200) -> _Answer:
    return _Answer(status, json.dumps(value).encode(), Content_Type="application/json")


def _entry(path: str, data: bytes) -> dict[str, Any]:
    """A file of a listing."""
    entry = {"type": "file", "path": path, "oid": _blob(data), "size": len(data)}
    if path.endswith(STORED_APART):
        entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
    return entry


def _blob(data: bytes) -> str:
    """Git's name of a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
