"""A fill on a Dask cluster: workers that die, cannot take part, or come without a folder; the units are as from one process."""

from __future__ import annotations

import importlib
import os
import pickle
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from measurers_for_tests import Toy, Trouble, make_checkpoints

import polystab as ps
from polystab.cli import main
from polystab.errors import OutputError, PolystabError, ReadError
from polystab.sources import scheduled_jobs, schedulers
from polystab.sources.attempts import Event, Plan
from polystab.sources.checkpoints import Checkpoint
from polystab.sources.fill import FillProgress, fill
from polystab.sources.joining import join_units
from polystab.sources.measuring import Measurement
from polystab.sources.outputs import claimed
from polystab.sources.runs import RunTable, write_runs
from polystab.sources.scheduled_jobs import Journal, Order, fitness
from polystab.sources.schedulers import SchedulerWarning
from polystab.sources.workers import WorkerError

HERE = Path(__file__).parent


@dataclass
class DiesOnce(Toy):
    """A :class:`Toy` that ends its process at a step, unless the file ``marker`` says that it did so before."""

    name: str = "dies"
    marker: str = ""
    step: int = 1

    def measure(self, checkpoint: Checkpoint) -> Measurement:
        if checkpoint.step == self.step and not Path(self.marker).exists():
            Path(self.marker).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().measure(checkpoint)


@pytest.fixture
def runs(tmp_path: Path) -> RunTable:
    """2 seeds x 3 steps."""
    return make_checkpoints(tmp_path / "checkpoints")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


@contextmanager
def cluster(n_workers: int = 1, **options: Any) -> Iterator[Any]:
    """A client of a cluster on this machine; of threads in this process unless ``processes`` is said."""
    distributed = pytest.importorskip("distributed", reason="Dask is not installed")
    settings = {
        "threads_per_worker": 1,
        "processes": False,
        "memory_limit": 0,
        "dashboard_address": "127.0.0.1:0",
        **options,
    }
    # A worker that is killed must not take the words of its death to the output of the tests.
    with (
        distributed.LocalCluster(n_workers=n_workers, silence_logs=50, **settings) as made,
        distributed.Client(made, set_as_default=False) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    with cluster() as client:
        yield client


def units(folder: Path) -> dict[str, bytes]:
    """Every unit by its place."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted((folder / "units").rglob("*.npz"))}


def cube_bytes(folder: Path) -> bytes:
    ps.save_cube(join_units(folder), folder.parent / f"{folder.name}.nc", overwrite=True)
    return (folder.parent / f"{folder.name}.nc").read_bytes()


def measured(log: Path) -> Counter[str]:
    return Counter(line.rpartition(" ")[0] for line in log.read_text().splitlines())


def wait_for(condition: Any, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


class TestWorkersThatDie:
    @pytest.mark.slow
    def test_a_worker_killed_in_the_middle_changes_no_byte(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
        runs = make_checkpoints(tmp_path / "checkpoints", steps=tuple(range(15)))
        toys = [Toy(seconds=0.05), Toy(name="other")]
        serial = fill(toys, runs=runs, output=tmp_path / "serial")
        killed: list[int] = []
        with cluster(2, processes=True) as client:
            victim = next(iter(client.run(os.getpid).values()))

            def kill_at_a_third(progress: FillProgress) -> None:
                if progress.done >= 20 and not killed:
                    killed.append(victim)
                    os.kill(victim, signal.SIGKILL)

            result = fill(toys, runs=runs, output=tmp_path / "cluster", scheduler=client, progress=kill_at_a_third)
        assert killed
        assert (result.planned, result.already_done, result.done, result.failed) == (60, 0, 60, ())
        assert result.planned == serial.planned
        assert units(tmp_path / "cluster") == units(tmp_path / "serial")
        assert cube_bytes(tmp_path / "cluster") == cube_bytes(tmp_path / "serial")

    @pytest.mark.slow
    def test_units_that_a_dead_worker_had_written_are_neither_measured_nor_counted_again(
        self, runs: RunTable, out: Path, log: Path, tmp_path: Path
    ) -> None:
        dies = DiesOnce(marker=str(tmp_path / "marker"))
        result = fill([Toy(log=str(log)), dies], runs=runs, output=out, scheduler="local", jobs=1)
        assert (result.planned, result.already_done, result.done, result.failed) == (12, 0, 12, ())
        assert set(measured(log).values()) == {1}

    @pytest.mark.slow
    def test_a_unit_that_ends_every_worker_fails_and_costs_no_other(self, out: Path, tmp_path: Path) -> None:
        runs = make_checkpoints(tmp_path / "checkpoints", seeds=1)
        toys = [Trouble(when={1: "kill"}), Toy()]
        with cluster(1, processes=True) as client:
            client.run_on_scheduler(_give_up_after, 1)
            result = fill(toys, runs=runs, output=out, scheduler=client)
        assert [(f.source, f.step, f.reason) for f in result.failed] == [("trouble", 1, "worker-died")]
        assert "2 of them while" in result.failed[0].detail
        assert (result.done, result.already_done) == (5, 0)
        assert fill(Trouble(), runs=runs, output=out).done == 1, "the same call tries it again"
        assert not list((out / "failed").rglob("*.json"))

    @pytest.mark.slow
    def test_units_are_not_blamed_for_workers_that_died_of_others(
        self, out: Path, tmp_path: Path, client: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The cluster gives a job up, too, that only waited at a worker that died."""
        killed = importlib.import_module("distributed").KilledWorker
        monkeypatch.setattr(schedulers, "do_job", _GivenUp(tmp_path / "tries", killed))
        runs = make_checkpoints(tmp_path / "checkpoints", seeds=1, steps=(0,))
        result = fill(Toy(), runs=runs, output=out, scheduler=client)
        assert (result.done, result.failed) == (1, ())


@dataclass
class _GivenUp:
    """Does a job as ever, but for the first two times, which end as if the cluster had given it up unbegun."""

    tries: Path
    killed: type[Exception]

    def __call__(self, *args: Any) -> Any:
        with self.tries.open("a") as file:
            file.write("x")
        if len(self.tries.read_text()) <= 2:
            raise self.killed("job", SimpleNamespace(address="tcp://worker"), 3)
        return scheduled_jobs.do_job(*args)


def _give_up_after(deaths: int, dask_scheduler: Any = None) -> None:
    dask_scheduler.allowed_failures = deaths


class TestFilling:
    @pytest.mark.slow
    def test_a_client_is_used_and_stays_open(self, runs: RunTable, out: Path, client: Any) -> None:
        assert fill(Toy(), runs=runs, output=out, scheduler=client).done == 6
        assert client.submit(sum, [1, 2], pure=False).result() == 3

    @pytest.mark.slow
    def test_nothing_is_left_in_the_folder_but_units_and_settings(self, runs: RunTable, out: Path, client: Any) -> None:
        fill(Toy(), runs=runs, output=out, scheduler=client)
        assert {path.relative_to(out).parts[0] for path in out.rglob("*") if path.is_file()} == {"units", "settings"}

    @pytest.mark.slow
    def test_units_that_fail_are_reported_with_their_reasons(self, runs: RunTable, out: Path, client: Any) -> None:
        result = fill(Trouble(when={1: "refuse", 2: "error"}), runs=runs, output=out, scheduler=client)
        assert [(f.step, f.reason) for f in result.failed] == [(1, "refused"), (2, "error")] * 2
        assert result.done == 2

    @pytest.mark.slow
    def test_what_another_fill_has_claimed_is_waited_for(self, runs: RunTable, out: Path, client: Any) -> None:
        (out / "locks").mkdir(parents=True)
        with claimed(out, "toy-1m", 0, 1) as mine:
            assert mine
            said: list[int] = []
            begun = threading.Thread(
                target=lambda: said.append(fill(Toy(), runs=runs, output=out, scheduler=client).done)
            )
            begun.start()
            wait_for(lambda: len(units(out)) == 5)
        begun.join(30)
        assert said == [6]

    @pytest.mark.slow
    def test_workers_with_several_threads_measure_one_checkpoint_at_a_time(
        self, runs: RunTable, out: Path, tmp_path: Path
    ) -> None:
        with cluster(1, threads_per_worker=4) as client:
            result = fill(Alone(folder=str(tmp_path)), runs=runs, output=out, scheduler=client)
        assert (result.done, result.failed) == (6, ())

    @pytest.mark.slow
    def test_workers_that_come_later_are_waited_for(self, runs: RunTable, out: Path) -> None:
        with cluster(0) as client:
            threading.Timer(1.0, client.cluster.scale, args=[1]).start()
            with pytest.warns(SchedulerWarning, match="no worker yet"):
                assert fill(Toy(), runs=runs, output=out, scheduler=client).done == 6

    def test_a_finished_folder_needs_no_cluster(self, runs: RunTable, out: Path) -> None:
        pytest.importorskip("distributed", reason="Dask is not installed")
        fill(Toy(), runs=runs, output=out)
        assert fill(Toy(), runs=runs, output=out, scheduler=f"tcp://127.0.0.1:{free_port()}").already_done == 6


@dataclass
class Alone(Toy):
    """Refuses to measure beside another one of its kind."""

    name: str = "alone"
    folder: str = ""

    def measure(self, checkpoint: Checkpoint) -> Measurement:
        here = Path(self.folder) / "busy"
        here.touch(exist_ok=False)
        time.sleep(0.05)
        here.unlink()
        return super().measure(checkpoint)


class TestRefusing:
    @pytest.mark.parametrize("scheduler", ["nonsense", "host:8786", "tcp://", "", "://host", 8786, True])
    def test_what_is_no_scheduler(self, runs: RunTable, out: Path, scheduler: Any) -> None:
        pytest.importorskip("distributed", reason="Dask is not installed")
        with pytest.raises(ReadError, match=r"address|not int|not bool"):
            fill(Toy(), runs=runs, output=out, scheduler=scheduler)
        assert not out.exists()

    def test_without_dask_the_extra_is_named(self, runs: RunTable, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "distributed", None)
        with pytest.raises(ReadError, match=r"pip install 'polystab\[distributed\]'"):
            fill(Toy(), runs=runs, output=out, scheduler="local")
        assert not out.exists()

    def test_jobs_beside_the_address_of_a_cluster(self, runs: RunTable, out: Path) -> None:
        pytest.importorskip("distributed", reason="Dask is not installed")
        with pytest.raises(ReadError, match="jobs=4 is the number of processes on this machine"):
            fill(Toy(), runs=runs, output=out, scheduler="tcp://host:8786", jobs=4)

    @pytest.mark.slow
    def test_a_client_that_is_closed(self, runs: RunTable, out: Path) -> None:
        with cluster(0) as client:
            pass
        with pytest.raises(ReadError, match="the client is closed, not connected"):
            fill(Toy(), runs=runs, output=out, scheduler=client)

    @pytest.mark.slow
    def test_an_address_where_nobody_answers(self, runs: RunTable, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("distributed", reason="Dask is not installed")
        monkeypatch.setattr(schedulers, "_CONNECT_SECONDS", 0.5)
        with pytest.raises(WorkerError, match=r"no scheduler answers at tcp://127\.0\.0\.1:\d+"):
            fill(Toy(), runs=runs, output=out, scheduler=f"tcp://127.0.0.1:{free_port()}")

    @pytest.mark.slow
    def test_an_address_of_an_unknown_kind(self, runs: RunTable, out: Path) -> None:
        pytest.importorskip("distributed", reason="Dask is not installed")
        with pytest.raises(WorkerError, match="gopher://host:1 cannot be used"):
            fill(Toy(), runs=runs, output=out, scheduler="gopher://host:1")

    @pytest.mark.slow
    def test_a_worker_that_does_not_see_the_folder_is_named(
        self, runs: RunTable, out: Path, client: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(schedulers, "_journals", _elsewhere)
        address = next(iter(client.scheduler_info()["workers"]))
        with pytest.raises(WorkerError, match=r"does not see the output folder .*out that is to be filled") as error:
            fill(Toy(), runs=runs, output=out, scheduler=client)
        assert address in str(error.value)
        assert "1 of 1 workers cannot take part" in str(error.value)

    @pytest.mark.slow
    def test_a_worker_that_comes_later_and_does_not_see_the_folder_stops_the_fill(
        self, runs: RunTable, out: Path, client: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(schedulers, "_journals", _elsewhere)
        monkeypatch.setattr(schedulers._Dispatcher, "_check_workers", lambda self: None)
        with pytest.raises(
            WorkerError, match=r"worker inproc://.* cannot take part: it does not see the output folder"
        ):
            fill(Toy(), runs=runs, output=out, scheduler=client)

    @pytest.mark.slow
    def test_a_worker_of_another_polystab(
        self, runs: RunTable, out: Path, client: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(schedulers, "versions", lambda: {**scheduled_jobs.versions(), "polystab": "9.9"})
        with pytest.raises(WorkerError, match=rf"has polystab {ps.__version__} instead of 9\.9\. Install the same"):
            fill(Toy(), runs=runs, output=out, scheduler=client)

    @pytest.mark.slow
    def test_another_numpy_is_said_once_and_stops_nothing(
        self, runs: RunTable, out: Path, client: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(schedulers, "versions", lambda: {**scheduled_jobs.versions(), "numpy": "1.0", "torch": ""})
        with pytest.warns(SchedulerWarning, match=r"has numpy \S+ instead of 1\.0.*last digits") as said:
            assert fill(Toy(), runs=runs, output=out, scheduler=client).done == 6
        assert len(said) == 1

    @pytest.mark.slow
    def test_a_measurer_that_cannot_be_sent(self, runs: RunTable, out: Path, client: Any) -> None:
        with pytest.raises(WorkerError, match="sources toy cannot be sent to workers"):
            fill(Toy(also={"limit": 1}, log=threading.Lock()), runs=runs, output=out, scheduler=client)  # type: ignore[arg-type]

    def test_the_command_line_says_it_too(self, runs: RunTable, out: Path, tmp_path: Path) -> None:
        pytest.importorskip("distributed", reason="Dask is not installed")
        write_runs(runs, tmp_path / "runs.csv")
        result = CliRunner().invoke(
            main, ["fill", "weights", "--runs", str(tmp_path / "runs.csv"), "-o", str(out), "--scheduler", "host:8786"]
        )
        assert result.exit_code == 2
        assert "is no address such as tcp://host:8786" in result.output


@contextmanager
def _elsewhere(folder: Path) -> Iterator[Path]:
    yield folder / "locks" / "fill-of-another-machine"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class TestOrders:
    """What a worker finds, and what it writes down."""

    def order(self, journals: Path, packed: bytes = b"", **others: str) -> Order:
        return Order(packed, journals, tuple({**scheduled_jobs.versions(), **others}.items()))

    def test_a_folder_that_cannot_be_written(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "out/locks/fill-1").mkdir(parents=True)

        def refused(path: Path, *args: Any, **options: Any) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "touch", refused)
        found = fitness(self.order(tmp_path / "out/locks/fill-1"))
        assert found.problem == f"it cannot write into the output folder {tmp_path / 'out'}: Permission denied."

    def test_sources_that_are_not_installed_there(self, tmp_path: Path) -> None:
        (tmp_path / "out/locks/fill-1").mkdir(parents=True)
        packed = pickle.dumps(Plan(tmp_path, {}, {})).replace(
            b"polystab.sources.attempts", b"polystab.sources.attemptz"
        )
        assert (
            "No module named 'polystab.sources.attemptz'"
            in fitness(self.order(tmp_path / "out/locks/fill-1", packed)).problem
        )

    def test_another_python(self, tmp_path: Path) -> None:
        assert "instead of 2.7. Install the same there." in fitness(self.order(tmp_path / "2.7", python="2.7")).problem

    def test_a_journal_keeps_what_whole_lines_say(self, tmp_path: Path) -> None:
        journal = Journal(tmp_path / "1.jsonl")
        for event in (Event("opening"), Event("measuring", "a"), Event("done", "a"), Event("measuring", "b")):
            journal.write(event)
        with journal.path.open("a") as file:
            file.write('["done", "b')
        assert (journal.attempts(), journal.done(), journal.at()) == (1, {"a"}, "b")

    def test_a_worker_stops_when_the_fill_has_ended(self, tmp_path: Path) -> None:
        with pytest.raises(PolystabError, match="has ended"):
            Journal(tmp_path / "gone" / "1.jsonl").write(Event("opening"))

    def test_a_journal_that_cannot_be_written(self, tmp_path: Path) -> None:
        with pytest.raises(OutputError, match="cannot write"):
            Journal(tmp_path).write(Event("opening"))


# The command line of a cluster, as a person starts it.
FILL = """
    import sys
    import polystab as ps
    from measurers_for_tests import Toy
    ps.fill(Toy(seconds=600, log=sys.argv[3]), runs=sys.argv[1], output=sys.argv[2], scheduler="local", jobs=2)
    """


def started(*command: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-B", *map(str, command)],
        env={**os.environ, "PYTHONPATH": str(HERE)}, start_new_session=True, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=hear_ctrl_c,
    )  # fmt: skip


def hear_ctrl_c() -> None:
    """What a shell starts in the background, and all that it starts, is deaf to it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class TestEnds:
    @pytest.mark.slow
    def test_ctrl_c_ends_a_local_cluster_without_a_word_of_its_workers(
        self, runs: RunTable, out: Path, log: Path, tmp_path: Path
    ) -> None:
        pytest.importorskip("distributed", reason="Dask is not installed")
        write_runs(runs, tmp_path / "runs.csv")
        (tmp_path / "script.py").write_text(textwrap.dedent(FILL))  # without a guard: workers do not run it again
        with started(tmp_path / "script.py", tmp_path / "runs.csv", out, log) as process:
            wait_for(lambda: log.exists() and len(log.read_text().splitlines()) == 2)
            workers = [int(line.split()[-1]) for line in log.read_text().splitlines()]
            os.killpg(process.pid, signal.SIGINT)
            try:
                said = process.communicate(timeout=30)[1]
            finally:
                process.kill()
        assert not any(Path(f"/proc/{worker}").exists() for worker in workers)
        assert said.count("Traceback") == 1
        assert "stopped with 0 of 6 units done; nothing is half done" in said
        assert not list(out.rglob("fill-*"))

    @pytest.mark.slow
    def test_a_scheduler_that_goes_away_is_said_and_the_fill_can_go_on(
        self, tmp_path: Path, out: Path, log: Path
    ) -> None:
        pytest.importorskip("distributed", reason="Dask is not installed")
        runs = make_checkpoints(tmp_path / "checkpoints", steps=tuple(range(20)))
        address = f"tcp://127.0.0.1:{free_port()}"
        host, _, port = address.removeprefix("tcp://").rpartition(":")
        dask = ("-m", "dask")
        with (
            started(*dask, "scheduler", "--host", host, "--port", port, "--no-dashboard") as scheduler,
            started(*dask, "worker", address, "--nthreads", 1, "--no-nanny", "--no-dashboard") as worker,
        ):
            try:

                def kill(progress: FillProgress) -> None:
                    if progress.done >= 3:
                        scheduler.kill()

                with pytest.raises(WorkerError, match="the scheduler has gone away"):
                    fill(Toy(log=str(log), seconds=0.1), runs=runs, output=out, scheduler=address, progress=kill)
            finally:
                for process in (scheduler, worker):
                    process.kill()
                    process.communicate()
        result = fill(Toy(log=str(log)), runs=runs, output=out)
        assert result.already_done >= 3
        assert result.done == 40 - result.already_done
