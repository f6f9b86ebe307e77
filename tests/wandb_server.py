"""A small imitation of the W&B server, for tests over loopback, with the faults of real ones.

It answers what the W&B client asks while it logs or syncs a run, and keeps the rows of the history.
A row has a line number, and a later row with the same number takes its place. Nothing here says
what the pages of the real service show.
"""

from __future__ import annotations

import gzip
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

REFUSAL = {"errors": [{"message": "not today"}]}

STATUS = {"unauthorized": 401, "broken": 500}


class Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, *_: Any) -> None:
        """Say nothing of clients that were killed."""


class WandbServer:
    """A server in threads of this process.

    Attributes:
        behaviour: "works"; "unauthorized" answers 401; "broken" answers 500; "slow" answers after
            minutes, except that it is there; "without artifacts" answers nothing of use to whoever
            asks for one; "frozen" never answers; "gone" closes connections. It can be changed at
            any time.
        rows: the history of each run by its id, as line number -> row.
        about: of each run, its name, group, tags, config, summary and what else its page shows.
        artifacts: name -> type.
        views: the workspaces by their names.
        finished: the runs whose client said that they are complete.
    """

    def __init__(self, behaviour: str = "works") -> None:
        self.behaviour = behaviour
        self.rows: dict[str, dict[int, dict[str, Any]]] = {}
        self.finished: set[str] = set()
        self.about: dict[str, dict[str, Any]] = {}
        self.artifacts: dict[str, str] = {}
        self.views: dict[str, dict[str, Any]] = {}
        self.closing = threading.Event()
        self.http = Server(("127.0.0.1", 0), handler_of(self))
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def __enter__(self) -> WandbServer:
        threading.Thread(target=self.http.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self.http.shutdown()
        self.http.server_close()

    def history(self, run_id: str) -> list[dict[str, Any]]:
        """Return the rows of a run in the order of their lines, without W&B's own columns."""
        lines = self.rows[run_id]
        assert sorted(lines) == list(range(len(lines))), "lines are missing"
        return [without_own_columns(lines[number]) for number in range(len(lines))]

    def answers(self, path: str) -> bool:
        """Wait as long as the behaviour says; return whether there is an answer at all."""
        if self.behaviour == "frozen":
            self.closing.wait()
        if self.behaviour == "slow" and path != "/":
            self.closing.wait(300)
        return self.behaviour not in ("frozen", "gone") and not self.closing.is_set()

    def answer(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Return what the server answers to a request that it accepts."""
        stream = re.search(r"/([^/]+)/file_stream$", path)
        if stream:
            self._keep(stream[1], body)
            return {"limits": {}}
        if path.startswith("/graphql"):
            return {"data": self._data(operation(body), body.get("variables") or {})}
        return {}

    def _keep(self, run_id: str, body: dict[str, Any]) -> None:
        chunk = (body.get("files") or {}).get("wandb-history.jsonl")
        if chunk:
            lines = self.rows.setdefault(run_id, {})
            for number, line in enumerate(chunk["content"], chunk["offset"]):
                lines[number] = json.loads(line)
        summary = (body.get("files") or {}).get("wandb-summary.json")
        if summary:
            self.about.setdefault(run_id, {})["summary"] = json.loads(summary["content"][-1])
        if body.get("complete"):
            self.finished.add(run_id)

    def _data(self, name: str, variables: dict[str, Any]) -> dict[str, Any]:
        project = {"id": "project", "name": "p", "entity": {"id": "entity", "name": "someone"}}
        if name == "Viewer":
            return {"viewer": {"id": "user", "entity": "someone", "username": "someone"}}
        if name == "UpsertBucket":
            self._describe(variables)
            return {"upsertBucket": self._upsert(variables["name"], project)}
        if name == "RunResumeStatus":
            return {"model": {**project, "bucket": self._resume_status(variables["name"])}}
        if name == "ArtifactType" and self.behaviour != "without artifacts":
            return {"project": None}
        if name == "UpsertView2":
            self.views[variables["displayName"]] = json.loads(variables["spec"])
            return {"upsertView": {"view": {"id": "view", "name": "view"}, "inserted": True}}
        if name == "CreateArtifact":
            return {"createArtifact": {"artifact": self._keep_artifact(variables["input"])}}
        if name == "CreateRunFiles":
            files = [{"name": file, "uploadUrl": self.url} for file in variables["files"]]
            return {"createRunFiles": {"runID": "run", "uploadHeaders": [], "files": files}}
        return {}

    def _describe(self, variables: dict[str, Any]) -> None:
        """Keep what a client says of a run; what it does not mention stays."""
        about = self.about.setdefault(variables["name"], {})
        for key in ("displayName", "groupName", "jobType", "tags"):
            if variables.get(key):
                about[key] = variables[key]
        if variables.get("config"):
            config = json.loads(variables["config"])
            about["charts"] = config.pop("_wandb")["value"]["m"]
            about["config"] = {key: entry["value"] for key, entry in config.items()}

    def _upsert(self, run_id: str, project: dict[str, Any]) -> dict[str, Any]:
        is_new = run_id not in self.rows
        self.rows.setdefault(run_id, {})
        bucket = {"id": run_id, "name": run_id, "displayName": run_id, "project": project}
        return {"bucket": bucket, "inserted": is_new}

    def _keep_artifact(self, given: dict[str, Any]) -> dict[str, Any]:
        """Return an artifact whose files, as it says, are there already."""
        self.artifacts[given["artifactCollectionName"]] = given["artifactTypeName"]
        sequence = {"id": "sequence", "latestArtifact": {"id": "artifact", "versionIndex": 0}}
        return {"id": "artifact", "state": "COMMITTED", "artifactSequence": sequence}

    def _resume_status(self, run_id: str) -> dict[str, Any] | None:
        """Return how far a run has come, for a client that wants to append to it."""
        lines = self.rows.get(run_id)
        if not lines:
            return None
        last = json.dumps(lines[max(lines)])
        return {
            "id": run_id,
            "name": run_id,
            "displayName": run_id,
            "historyLineCount": len(lines),
            "eventsLineCount": 0,
            "logLineCount": 0,
            "historyTail": json.dumps([last]),
            "eventsTail": "[]",
            "summaryMetrics": last,
            "config": "{}",
            "tags": [],
            "wandbConfig": "{}",
        }


def handler_of(server: WandbServer) -> type[BaseHTTPRequestHandler]:
    """Return the class whose objects handle the server's connections."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            """Print nothing."""

        def respond(self) -> None:
            body = read_body(self)
            if not server.answers(self.path):
                self.close_connection = True
                return
            status = STATUS.get(server.behaviour, 200)
            content = server.answer(self.path, body) if status == 200 else REFUSAL
            encoded = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(encoded)))
            self.end_headers()
            self.wfile.write(encoded)

        do_GET = do_PUT = do_POST = respond  # noqa: N815

    return Handler


def read_body(handler: BaseHTTPRequestHandler) -> dict[str, Any]:
    """Return a request's JSON object, or {} if it has none."""
    if handler.headers.get("Transfer-Encoding") == "chunked":
        content = b"".join(iter(lambda: read_chunk(handler), b""))
    else:
        content = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
    if handler.headers.get("Content-Encoding") == "gzip":
        content = gzip.decompress(content)
    try:
        body = json.loads(content)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def read_chunk(handler: BaseHTTPRequestHandler) -> bytes:
    size = int(handler.rfile.readline(), 16)
    chunk = handler.rfile.read(size)
    handler.rfile.readline()
    return chunk


def operation(body: dict[str, Any]) -> str:
    """Return the name of a GraphQL request."""
    named = re.search(r"(?:query|mutation)\s+(\w+)", body.get("query", ""))
    return body.get("operationName") or (named[1] if named else "")


def without_own_columns(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if not key.startswith("_")}
