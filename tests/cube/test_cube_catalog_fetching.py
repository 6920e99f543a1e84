"""Fetching: what is not whole is not there, what hangs ends, and no password is told to anyone else."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from web_server import Answer, Server, wait_for

from polystab.cube import fetching
from polystab.cube.addresses import holds_secrets, public_address
from polystab.cube.fetching import FetchError, fetch_bytes, fetch_file
from polystab.errors import ReadError
from polystab.redaction import without_secrets

CONTENT = bytes(range(256)) * 40
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("NETRC", os.devnull)
    monkeypatch.setattr(fetching, "FIRST_WAIT", 0.0)
    with Server().running() as server:
        yield server


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "cube.nc"


def fetch(server: Server, target: Path, path: str = "/x.nc") -> None:
    fetch_file(f"{server.address}{path}", target, sha256=SHA256, size=len(CONTENT))


def assert_nothing_there(target: Path) -> None:
    assert list(target.parent.iterdir()) == []


class TestWhole:
    def test_a_file_is_fetched_with_its_folder(self, server: Server, target: Path) -> None:
        server.answers["/x.nc"] = Answer(CONTENT)
        fetch(server, target)
        assert target.read_bytes() == CONTENT
        assert [path.name for path in target.parent.iterdir()] == ["cube.nc"]

    def test_a_file_of_unannounced_length_is_fetched(self, server: Server, target: Path) -> None:
        server.answers["/x.nc"] = Answer(CONTENT, announce=False)
        fetch(server, target)
        assert target.read_bytes() == CONTENT

    def test_a_redirect_is_followed(self, server: Server, target: Path) -> None:
        server.answers["/x.nc"] = Answer(status=302, location="/y.nc")
        server.answers["/y.nc"] = Answer(CONTENT)
        fetch(server, target)
        assert target.read_bytes() == CONTENT

    def test_an_old_file_is_there_until_the_new_one_is_whole(self, server: Server, target: Path) -> None:
        target.parent.mkdir()
        target.write_bytes(b"old")
        server.answers["/x.nc"] = Answer(CONTENT, cut=100)
        with pytest.raises(FetchError):
            fetch(server, target)
        assert target.read_bytes() == b"old"

    def test_two_at_once_both_get_it(self, server: Server, target: Path) -> None:
        server.answers["/x.nc"] = Answer(CONTENT, pause=0.001, piece=1024)
        threads = [threading.Thread(target=fetch, args=(server, target)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert target.read_bytes() == CONTENT
        assert len(list(target.parent.iterdir())) == 1


class TestNotWhole:
    @pytest.mark.parametrize("announce", [True, False])
    def test_a_truncated_answer_is_tried_again_and_then_refused(
        self, server: Server, target: Path, announce: bool
    ) -> None:
        server.answers["/x.nc"] = Answer(CONTENT, cut=5000, announce=announce)
        with pytest.raises(FetchError, match=r"broke off after 5,000 of 10,240 bytes\. Tried 3 times"):
            fetch(server, target)
        assert len(server.asked) == 3
        assert_nothing_there(target)

    def test_an_answer_that_breaks_off_once_is_fetched_the_second_time(self, server: Server, target: Path) -> None:
        server.answers["/x.nc"] = [Answer(CONTENT, cut=5000), Answer(CONTENT)]
        fetch(server, target)
        assert target.read_bytes() == CONTENT

    def test_a_corrupted_answer_is_refused_at_once(self, server: Server, target: Path) -> None:
        server.answers["/x.nc"] = Answer(CONTENT[:-1] + b"x")
        with pytest.raises(FetchError, match=r"its SHA-256 is .*, not .* as the registry says"):
            fetch(server, target)
        assert len(server.asked) == 1
        assert_nothing_there(target)

    @pytest.mark.parametrize("announce", [True, False])
    def test_a_longer_answer_is_another_file(self, server: Server, target: Path, announce: bool) -> None:
        server.answers["/x.nc"] = Answer(CONTENT * 1000, announce=announce)
        with pytest.raises(FetchError, match=r"should have 10,240: it is another file"):
            fetch(server, target)
        assert_nothing_there(target)

    def test_an_endless_text_is_given_up(self, server: Server) -> None:
        server.answers["/r.json"] = Answer(b" " * 10_000, announce=False)
        with pytest.raises(FetchError, match="longer than 1,000 bytes"):
            fetch_bytes(f"{server.address}/r.json", limit=1000)

    def test_a_shorter_text_than_announced_is_refused(self, server: Server) -> None:
        server.answers["/r.json"] = Answer(b"{}", promised=5)
        with pytest.raises(FetchError, match="broke off after 2 of 7 bytes"):
            fetch_bytes(f"{server.address}/r.json", limit=1000)

    def test_an_interrupt_leaves_nothing(self, server: Server, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupted(*_: object, **__: object) -> Iterator[bytes]:
            yield CONTENT[:100]
            raise KeyboardInterrupt

        monkeypatch.setattr(fetching, "_pieces", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fetch(server, target)
        assert_nothing_there(target)

    def test_a_disk_without_room_is_said_before_the_download(
        self, server: Server, target: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Usage:
            free = 1000

        monkeypatch.setattr(fetching.shutil, "disk_usage", lambda _: Usage)
        with pytest.raises(FetchError, match=r"takes 10,240 bytes, and .* has 1,000 left"):
            fetch(server, target)
        assert server.asked == []

    @pytest.mark.slow
    def test_a_killed_fetch_leaves_no_file_of_that_name_and_the_next_one_succeeds(
        self, server: Server, target: Path
    ) -> None:
        server.answers["/x.nc"] = [Answer(CONTENT, pause=0.2, piece=512), Answer(CONTENT)]
        code = (
            "import sys; from pathlib import Path; from polystab.cube.fetching import fetch_file\n"
            f"fetch_file({server.address + '/x.nc'!r}, Path({str(target)!r}), sha256={SHA256!r}, size={len(CONTENT)})"
        )
        process = subprocess.Popen([sys.executable, "-c", code])
        assert wait_for(lambda: any(path.stat().st_size for path in target.parent.glob(".*.part")))
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not target.exists()
        fetch(server, target)
        assert target.read_bytes() == CONTENT

    def test_what_a_killed_fetch_left_is_removed_when_it_is_old(self, server: Server, target: Path) -> None:
        target.parent.mkdir()
        old, young = (target.parent / f".cube.nc.{name}.part" for name in ("old", "young"))
        for path in (old, young):
            path.touch()
        os.utime(old, (time.time() - 90_000,) * 2)
        server.answers["/x.nc"] = Answer(CONTENT)
        fetch(server, target)
        assert sorted(path.name for path in target.parent.iterdir()) == [".cube.nc.young.part", "cube.nc"]


class TestSlow:
    def test_silence_before_the_answer_ends(
        self, server: Server, target: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(fetching, "TIMEOUT", 0.05)
        server.answers["/x.nc"] = Answer(CONTENT, pause=5.0)
        with pytest.raises(FetchError, match=r"no answer for 0\.05 s\. Tried 3 times"):
            fetch(server, target)
        assert_nothing_there(target)

    def test_silence_within_the_answer_ends(
        self, server: Server, target: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(fetching, "TIMEOUT", 0.05)
        server.answers["/x.nc"] = [Answer(CONTENT, pause=0.3, piece=9000), Answer(CONTENT)]
        fetch(server, target)
        assert len(server.asked) == 2

    def test_a_trickle_ends_though_it_never_stops(
        self, server: Server, target: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(fetching, "GRACE", 0.05)
        server.answers["/x.nc"] = Answer(CONTENT, pause=0.02, piece=1)
        with pytest.raises(FetchError, match=r"came in .* less than 10,000 a second"):
            fetch(server, target)
        assert_nothing_there(target)


class TestRefused:
    @pytest.mark.parametrize(
        ("status", "said", "times"),
        [(401, "netrc", 1), (403, "not open to you", 1), (404, "no such file", 1), (410, "removed", 1),
         (418, "refuses", 1), (429, "refuses", 3), (503, "in trouble", 3)],
    )  # fmt: skip
    def test_a_status_says_what_it_means(
        self, server: Server, target: Path, status: int, said: str, times: int
    ) -> None:
        server.answers["/x.nc"] = Answer(status=status)
        with pytest.raises(FetchError, match=f"status {status}: .*{said}"):
            fetch(server, target)
        assert len(server.asked) == times
        assert_nothing_there(target)

    def test_trouble_that_passes_is_waited_for(self, server: Server, target: Path) -> None:
        server.answers["/x.nc"] = [Answer(status=503), Answer(status=429), Answer(CONTENT)]
        fetch(server, target)
        assert target.read_bytes() == CONTENT

    @pytest.mark.parametrize("location", ["http://[::1/x", "http://host:port/x", "http://\xff\xfe/x"])
    def test_a_redirect_to_what_is_no_address_is_refused(self, server: Server, target: Path, location: str) -> None:
        server.answers["/x.nc"] = Answer(status=302, location=location)
        with pytest.raises(FetchError):
            fetch(server, target)
        assert_nothing_there(target)

    def test_a_length_of_thousands_of_digits_is_not_believed(self, server: Server, target: Path) -> None:
        server.answers["/x.nc"] = Answer(CONTENT, length="9" * 5000)
        fetch(server, target)
        assert target.read_bytes() == CONTENT

    @pytest.mark.parametrize("location", ["/x.nc", "file:///etc/passwd", "ftp://127.0.0.1/x", "gopher://x", ""])
    def test_a_redirect_in_a_circle_or_out_of_the_web_is_not_followed(
        self, server: Server, target: Path, location: str
    ) -> None:
        server.answers["/x.nc"] = Answer(status=302, location=location)
        with pytest.raises(FetchError, match="redirects"):
            fetch(server, target)
        assert_nothing_there(target)

    def test_a_redirect_from_https_to_http_is_not_followed(self) -> None:
        request = urllib.request.Request("https://example.org/x.nc")
        with pytest.raises(urllib.error.URLError, match="from https to http"):
            fetching._Redirects().redirect_request(request, None, 302, "", {}, "http://example.org/x.nc")

    def test_no_server_is_said(self, server: Server, target: Path) -> None:
        with pytest.raises(FetchError, match="refused"):
            fetch_file("http://127.0.0.1:9/x.nc", target, sha256=SHA256, size=5)

    @pytest.mark.parametrize(
        "address",
        ["file:///etc/passwd", "ftp://host/x", "x.nc", "http:///x", "http://host:port/x", "http://[::1/x",
         "http://host/a b", "http://host/\n", "http://host/ü", "https://host/" + "x" * 3000],
    )  # fmt: skip
    def test_what_is_no_address_of_the_web_is_not_asked_for(self, server: Server, target: Path, address: str) -> None:
        with pytest.raises(ReadError, match=r"https://|percent-encode"):
            fetch_file(address, target, sha256=SHA256, size=5)
        assert_nothing_there(target)


class TestPasswords:
    def test_those_of_the_address_go_to_its_host(self, server: Server, target: Path) -> None:
        server.answers["/x.nc"] = Answer(CONTENT)
        fetch_file(server.address.replace("//", "//me:hunter%202@") + "/x.nc", target, sha256=SHA256, size=len(CONTENT))
        assert server.authorizations == ["Basic bWU6aHVudGVyIDI="]  # me:hunter 2

    def test_those_of_netrc_go_to_its_host(
        self, server: Server, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password hunter2\n")
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
        server.answers["/x.nc"] = Answer(CONTENT)
        fetch(server, target)
        assert server.authorizations == ["Basic bWU6aHVudGVyMg=="]

    def test_a_damaged_netrc_is_said_without_what_is_in_it(
        self, server: Server, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "netrc").write_text("machine 127.0.0.1 login me\nhunter2 hunter2\n")
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
        with pytest.raises(FetchError, match=r"line \d+ of .*netrc cannot be read") as caught:
            fetch(server, target)
        assert "hunter2" not in "".join(traceback.format_exception(caught.value))

    def test_none_goes_where_the_host_redirects(self, server: Server, target: Path) -> None:
        with Server().running() as other:
            server.answers["/x.nc"] = Answer(status=302, location=f"{other.address}/y.nc")
            other.answers["/y.nc"] = Answer(CONTENT)
            fetch_file(
                server.address.replace("//", "//me:hunter2@") + "/x.nc", target, sha256=SHA256, size=len(CONTENT)
            )
            assert other.authorizations == [""]

    @pytest.mark.parametrize(
        "answer",
        [
            Answer(status=401), Answer(status=503), Answer(CONTENT, cut=10), Answer(CONTENT * 2),
            Answer(CONTENT[::-1]), Answer(status=302, location="file:///hunter2"), None,
        ],
    )  # fmt: skip
    def test_none_is_in_an_error(self, server: Server, target: Path, answer: Answer | None) -> None:
        if answer is not None:
            server.answers["/x.nc"] = answer
        address = server.address.replace("//", "//me:hunter2@") + "/x.nc?token=hunter2"
        with pytest.raises(FetchError) as caught:
            fetch_file(address, target, sha256=SHA256, size=len(CONTENT))
        assert "hunter2" not in "".join(traceback.format_exception(caught.value))


class TestAddresses:
    @pytest.mark.slow
    @given(st.text())
    def test_cleaning_any_text_twice_is_cleaning_it_once(self, text: str) -> None:
        once = without_secrets(text)
        assert without_secrets(once) == once

    @pytest.mark.parametrize(
        ("text", "clean"),
        [
            ("s3://key:secret@bucket/x", "s3://bucket/x"),
            ("https://tok@host/x", "https://host/x"),
            ("https://host/x?X-Amz-Signature=ab12&v=1", "https://host/x?X-Amz-Signature=[removed]&v=1"),
            ("https://host/x?api_key=ab12", "https://host/x?api_key=[removed]"),
            ("with hf_abcdefghijklmnopqrstuvwx here", "with [removed] here"),
            ("Authorization: Bearer abcdefghijklmnop1234", "Authorization: [removed]"),
        ],
    )
    def test_secrets_are_taken_out(self, text: str, clean: str) -> None:
        assert without_secrets(text) == clean

    @pytest.mark.parametrize(
        "text",
        ["me@example.org", "acc@5shot", "mlp.dense@layer3, see https://host/x?page=2&key2=a", "pythia@step1000", "a: b@c",
         "https://host/@user/x", "keys=3, tokens=2"],
    )  # fmt: skip
    def test_other_texts_stay(self, text: str) -> None:
        assert without_secrets(text) == text

    def test_cleaning_twice_changes_nothing_more(self) -> None:
        once = without_secrets("https://me:x@host/a?token=abc&b=1")
        assert without_secrets(once) == once

    def test_an_address_without_secrets_holds_none(self) -> None:
        assert not holds_secrets("https://zenodo.example/records/1/files/x.nc?download=1")

    @pytest.mark.parametrize("address", ["https://me@h/x", "https://h/x?token=", "https://h/x?a=1&Signature=b"])
    def test_an_address_with_secrets_is_told(self, address: str) -> None:
        assert holds_secrets(address)

    def test_a_public_address_keeps_port_and_path(self) -> None:
        assert public_address("http://me:x@h:81/a/b?c#d") == "http://h:81/a/b"
