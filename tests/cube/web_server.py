"""A web server on this machine that answers as it is told: whole, cut, slow, elsewhere, or not at all."""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Answer:
    """What a path answers.

    ``promised`` bytes more are announced than are sent, ``cut`` ends the body after so many bytes, and ``pause``
    seconds pass before each piece of ``piece`` bytes.
    """

    content: bytes = b""
    status: int = 200
    location: str = ""
    promised: int = 0
    cut: int = -1
    pause: float = 0.0
    piece: int = 2**16
    announce: bool = True
    length: str = ""


@dataclass
class Server:
    """Answers by path; a list is gone through, and its last answer stays."""

    address: str = ""
    answers: dict[str, Answer | list[Answer]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    authorizations: list[str] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)

    def answer(self, path: str) -> Answer | None:
        found = self.answers.get(path)
        if isinstance(found, list):
            return found.pop(0) if len(found) > 1 else found[0]
        return found

    @contextmanager
    def running(self) -> Iterator[Server]:
        state = self

        class Handler(_Handler):
            server_state = state

        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as web:
            web.daemon_threads = True
            self.address = f"http://127.0.0.1:{web.server_port}"
            thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            try:
                yield self
            finally:
                self.stopped.set()
                web.shutdown()
                thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
    server_state: Server

    def do_GET(self) -> None:
        state = self.server_state
        state.asked.append(self.path)
        state.authorizations.append(self.headers.get("Authorization", ""))
        answer = state.answer(self.path.partition("?")[0])
        if answer is None:
            self.send_error(404)
            return
        self.send_response(answer.status)
        if answer.location:
            self.send_header("Location", answer.location)
        if answer.announce:
            self.send_header("Content-Length", answer.length or str(len(answer.content) + answer.promised))
        self.end_headers()
        body = answer.content if answer.cut < 0 else answer.content[: answer.cut]
        try:
            for start in range(0, max(len(body), 1), answer.piece):
                if answer.pause and state.stopped.wait(answer.pause):
                    return
                self.wfile.write(body[start : start + answer.piece])
                self.wfile.flush()
        except OSError:
            pass  # the client went away

    def log_message(self, *_: object) -> None:
        pass


def wait_for(condition, seconds: float = 30.0) -> bool:
    """Whether a condition came true in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.01)
    return False
