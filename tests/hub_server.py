"""A small Hugging Face hub on the loopback address, which supports downloads and uploads.

It stores models and data sets as lists of commits, with branches and tags. As on the real hub, a request for a large
file is redirected to another host, to which clients must not send their token. Large files are also uploaded to that
host, before the commit that contains them. Clients find the hub through `HF_ENDPOINT`. The server does not support Xet,
the newer upload protocol.
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

LARGE_FILES = (".safetensors", ".parquet", ".bin", ".onnx")
"""Suffixes of files that are stored as large files."""


@dataclass
class Repository:
    """A model or a data set."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    """The commit of each branch and tag."""
    tags: set[str] = field(default_factory=set)
    gated: bool = False
    private: bool = False
    readers: set[str] = field(default_factory=set)
    """The tokens that may read the repository if it is gated or private."""
    titles: list[str] = field(default_factory=list)
    """The titles of the commits that were uploaded."""

    def commit(self, files: Mapping[str, bytes | str], branch: str = "main") -> str:
        """Add a commit with exactly these files, make it the head of a branch, and return its hash."""
        stored = {path: text.encode() if isinstance(text, str) else text for path, text in files.items()}
        listing = json.dumps([len(self.commits), *sorted((path, _blob(data)) for path, data in stored.items())])
        commit = hashlib.sha1(listing.encode()).hexdigest()
        self.commits[commit] = stored
        self.refs[branch] = commit
        return commit

    def tag(self, name: str, commit: str) -> None:
        """Tag a commit."""
        self.refs[name] = commit
        self.tags.add(name)

    def find(self, revision: str) -> str | None:
        """Return the commit of a branch, a tag or a hash; None if there is none."""
        return self.refs.get(revision, revision if revision in self.commits else None)


class Hub:
    """The server. It runs in a thread while this context manager is active."""

    def __init__(self) -> None:
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.tokens: set[str] = set()
        """The tokens of all accounts."""
        self.may_write: dict[str, str] = {}
        """For each token, the owner whose repositories it may create and write to."""
        self.uploaded: dict[str, bytes] = {}
        """Uploaded large files by their digests."""
        self.broken: int | None = None
        """If it is set, the status of the answer to every request."""
        self.page: bytes | None = None
        """If it is set, the answer to every GET request, like the page of a network that requires a login."""
        self.requests: list[str] = []
        """The method and path of each request, oldest first."""
        self.leaked: list[str] = []
        """Tokens that clients sent to the host of the large files, although they must not."""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def storage(self) -> str:
        """The address of the large files, which is this server under another host name."""
        return f"http://localhost:{self._server.server_port}/large"

    def __enter__(self) -> Hub:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop the server."""
        self._server.shutdown()
        self._server.server_close()

    def add(self, kind: str, name: str, files: Mapping[str, bytes | str], **settings: Any) -> Repository:
        """Add a `model` or `dataset` with one commit on its main branch."""
        repository = self.repositories[kind, name] = Repository(**settings)
        repository.commit(files)
        return repository

    def large(self, digest: str) -> bytes | None:
        """Return the content of a committed large file; None if no commit has it."""
        contents = (
            data
            for repository in self.repositories.values()
            for files in repository.commits.values()
            for data in files.values()
        )
        return next((data for data in contents if hashlib.sha256(data).hexdigest() == digest), None)

    def let_write(self, token: str, owner: str) -> None:
        """Create an account whose token may write to the repositories of an owner."""
        self.tokens.add(token)
        self.may_write[token] = owner


def folder_files(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder by their paths, in the form that `Repository.commit` expects."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class _Answer(Exception):
    """Raised to send a response to the client."""

    def __init__(self, status: int, body: bytes = b"", **headers: str) -> None:
        super().__init__(status)
        self.status, self.body, self.headers = status, body, headers


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.0"  # no connection outlives a stopped server

    def log_message(self, *_: object) -> None:
        """Write nothing to standard error."""

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        self.hub.requests.append(f"{self.command} {unquote(url.path)}")
        try:
            if self.hub.broken:
                raise _Answer(self.hub.broken)
            if self.hub.page is not None:
                raise _Answer(200, self.hub.page, Content_Type="text/html")
            self._handle_get(url.path.strip("/").split("/"), parse_qs(url.query))
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
            self._handle_post(url.path.strip("/").split("/"), body)
        except _Answer as answer:
            self._send(answer)

    do_PUT = do_POST

    def _chunks(self) -> bytes:
        """Return the body of a request that is sent in chunks."""
        body = b""
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
        return body

    def _handle_post(self, parts: list[str], body: bytes) -> None:
        if parts[0] == "large":
            if token := self._token():
                self.hub.leaked.append(token)
            self.hub.uploaded[parts[1]] = body
            raise _Answer(200 if hashlib.sha256(body).hexdigest() == parts[1] else 400)
        if parts == ["api", "validate-yaml"]:
            raise _json({"errors": [], "warnings": []})
        if parts == ["api", "repos", "create"]:
            raise self._create_repository(json.loads(body))
        if parts[-3:] == ["lfs", "objects", "batch"]:
            self._writable_repository(unquote("/".join(parts[:-4])).removesuffix(".git"))
            objects = [self._upload_action(each) for each in json.loads(body)["objects"]]
            raise _json({"transfer": "basic", "objects": objects})
        _, name, rest = self._split_path("model", parts[2:], ("preupload", "commit"))
        repository = self._writable_repository(name)
        if rest[0] == "preupload":
            modes = {True: "lfs", False: "regular"}
            files = [
                {"path": path, "uploadMode": modes[path.endswith(LARGE_FILES)], "shouldIgnore": False}
                for path in (file["path"] for file in json.loads(body)["files"])
            ]
            raise _json({"files": files})
        commit = self._apply_commit(repository, [json.loads(line) for line in body.splitlines()])
        raise _json({"commitOid": commit, "commitUrl": f"{self.hub.endpoint}/{name}/commit/{commit}"})

    def _create_repository(self, request: dict[str, Any]) -> _Answer:
        owner = request["organization"] or self.hub.may_write.get(self._token(), "")
        name = f"{owner}/{request['name']}"
        self._check_account()
        if ("model", name) in self.hub.repositories:
            return _json({"url": f"{self.hub.endpoint}/{name}", "error": "You already created this model repo"}, 409)
        if self.hub.may_write.get(self._token()) != owner:
            return _Answer(403, X_Error_Message=f"You don't have the rights to create a model under {owner}")
        private = request.get("visibility") == "private"
        files = {".gitattributes": "*.safetensors filter=lfs"}
        self.hub.add("model", name, files, private=private, readers={self._token()})
        return _json({"url": f"{self.hub.endpoint}/{name}", "name": name})

    def _check_account(self) -> None:
        if self._token() not in self.hub.tokens:
            raise _Answer(401, X_Error_Message="Invalid credentials in Authorization header")

    def _writable_repository(self, name: str) -> Repository:
        self._check_account()
        repository = self._readable_repository("model", name)
        if self.hub.may_write.get(self._token()) != name.partition("/")[0]:
            raise _Answer(403, X_Error_Message="You don't have the rights to write to it")
        return repository

    def _upload_action(self, file: dict[str, Any]) -> dict[str, Any]:
        """Return the address to which a large file is uploaded; no address if a commit has that file already."""
        known = self.hub.large(file["oid"]) is not None
        href = {"href": f"{self.hub.storage}/{file['oid']}", "header": {}}
        return {"oid": file["oid"], "size": file["size"], **({} if known else {"actions": {"upload": href}})}

    def _apply_commit(self, repository: Repository, lines: list[dict[str, Any]]) -> str:
        files = dict(repository.commits[repository.refs["main"]])
        for value, key in ((line["value"], line["key"]) for line in lines):
            if key == "header":
                repository.titles.append(value["summary"])
            elif key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "deletedFile":
                del files[value["path"]]
            else:
                assert key == "lfsFile", key
                data = self.hub.uploaded.get(value["oid"])
                files[value["path"]] = self.hub.large(value["oid"]) or b"" if data is None else data
        return repository.commit(files)

    def _send(self, answer: _Answer) -> None:
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def _handle_get(self, parts: list[str], query: dict[str, list[str]]) -> None:
        if parts[0] == "large":
            if token := self._token():
                self.hub.leaked.append(token)
            data = self.hub.large(parts[1])
            raise _Answer(404) if data is None else _Answer(200, data)
        if parts[0] == "api":
            kind, name, rest = self._split_path(parts[1].removesuffix("s"), parts[2:], ("revision", "tree", "refs"))
            repository = self._readable_repository(kind, name)
            raise _json(self._metadata(repository, name, rest, query))
        kind, parts = ("dataset", parts[1:]) if parts[0] == "datasets" else ("model", parts)
        kind, name, rest = self._split_path(kind, parts, ("resolve",))
        repository = self._readable_repository(kind, name)
        self._check_access(repository)
        commit = self._commit(repository, unquote(rest[1]))
        raise self._file(repository, commit, unquote("/".join(rest[2:])))

    def _split_path(self, kind: str, parts: list[str], verbs: tuple[str, ...]) -> tuple[str, str, list[str]]:
        """Return the kind and the name of a repository, and the rest of the path, which starts with a verb."""
        at = next((number for number, part in enumerate(parts) if part in verbs), len(parts))
        return kind, unquote("/".join(parts[:at])), parts[at:]

    def _token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def _readable_repository(self, kind: str, name: str) -> Repository:
        """Return a repository. The answer for a private one that the token may not read is "not found"."""
        token, repository = self._token(), self.hub.repositories.get((kind, name))
        if token and token not in self.hub.tokens:
            raise _Answer(401, X_Error_Message="Invalid credentials in Authorization header")
        if repository is None or (repository.private and token not in repository.readers):
            status = 404 if token else 401
            raise _Answer(status, X_Error_Code="RepoNotFound", X_Error_Message="Repository not found")
        return repository

    def _check_access(self, repository: Repository) -> None:
        if repository.gated and self._token() not in repository.readers:
            status = 403 if self._token() else 401
            raise _Answer(status, X_Error_Code="GatedRepo", X_Error_Message="Access to it is restricted.")

    def _commit(self, repository: Repository, revision: str) -> str:
        commit = repository.find(revision)
        if commit is None:
            raise _Answer(404, X_Error_Code="RevisionNotFound", X_Error_Message=f"Invalid rev id: {revision}")
        return commit

    def _metadata(self, repository: Repository, name: str, rest: list[str], query: dict[str, list[str]]) -> Any:
        verb = rest[0] if rest else "revision"
        if verb == "refs":
            refs: dict[str, list[dict[str, str]]] = {"branches": [], "tags": [], "converts": []}
            for ref, commit in repository.refs.items():
                tagged = ref in repository.tags
                full = f"refs/{'tags' if tagged else 'heads'}/{ref}"
                refs["tags" if tagged else "branches"].append({"name": ref, "ref": full, "targetCommit": commit})
            return refs
        commit = self._commit(repository, unquote(rest[1]) if len(rest) > 1 else "main")
        files = repository.commits[commit]
        if verb == "tree":
            assert query.get("recursive") == ["true"], query
            return [_entry(path, data) for path, data in sorted(files.items())]
        return {
            "_id": "0",
            "id": name,
            "sha": commit,
            "private": repository.private,
            "gated": "auto" if repository.gated else False,
            "siblings": [{"rfilename": path} for path in sorted(files)],
            "tags": [],
        }

    def _file(self, repository: Repository, commit: str, path: str) -> _Answer:
        data = repository.commits[commit].get(path)
        if data is None:
            return _Answer(404, X_Error_Code="EntryNotFound", X_Error_Message="Entry not found", X_Repo_Commit=commit)
        if not path.endswith(LARGE_FILES):
            return _Answer(200, data, ETag=f'"{_blob(data)}"', X_Repo_Commit=commit)
        digest = hashlib.sha256(data).hexdigest()
        linked = {"X_Linked_Etag": f'"{digest}"', "X_Linked_Size": str(len(data))}
        return _Answer(302, X_Repo_Commit=commit, Location=f"{self.hub.storage}/{digest}", **linked)


def _json(value: Any, status: int = 200) -> _Answer:
    return _Answer(status, json.dumps(value).encode(), Content_Type="application/json")


def _entry(path: str, data: bytes) -> dict[str, Any]:
    """Return the entry of a file in a listing."""
    entry = {"type": "file", "path": path, "oid": _blob(data), "size": len(data)}
    if path.endswith(LARGE_FILES):
        entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
    return entry


def _blob(data: bytes) -> str:
    """Return the hash by which Git names a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
