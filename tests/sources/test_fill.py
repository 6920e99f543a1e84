"""Filling a folder: what is measured, what is not measured again, and how units fail."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from measurers_for_tests import Threads, Toy, Trouble, make_checkpoint, make_checkpoints, value_of

import polystab as ps
from polystab.cli import main
from polystab.cli_fill import parse_numbers, parse_size
from polystab.errors import ConflictError, OutputError, PolystabError, ReadError, SelectionError, UnknownNameError
from polystab.sources import registry
from polystab.sources.attempts import measure_checkpoint
from polystab.sources.checkpoints import open_checkpoint
from polystab.sources.fill import FillProgress, fill
from polystab.sources.joining import join_units
from polystab.sources.outputs import claimed
from polystab.sources.registry import Source, get_measurer, measurers, sources
from polystab.sources.runs import RunTable, write_runs
from polystab.sources.workers import WorkerError

HERE = Path(__file__).parent


@pytest.fixture
def runs(tmp_path: Path) -> RunTable:
    """2 seeds x 3 steps, whose value is 100 x seed + step."""
    return make_checkpoints(tmp_path / "checkpoints")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


def measured(log: Path) -> Counter[str]:
    """How often each unit was measured: source model seed step."""
    return Counter(line.rpartition(" ")[0] for line in log.read_text().splitlines()) if log.exists() else Counter()


def failures(result: Any) -> list[tuple[int, str]]:
    return [(failure.step, failure.reason) for failure in result.failed]


class TestFilling:
    def test_every_checkpoint_is_measured(self, runs: RunTable, out: Path) -> None:
        result = fill(Toy(), runs=runs, output=out)
        assert (result.planned, result.already_done, result.done, result.failed) == (6, 0, 6, ())
        cube = join_units(out).to_dataset()
        assert cube["value"].sel(model="toy-1m", metric="eval/toy/acc").values.tolist() == [[0, 1, 2], [100, 101, 102]]

    def test_nothing_is_measured_twice(self, runs: RunTable, out: Path, log: Path) -> None:
        fill(Toy(log=str(log)), runs=runs, output=out)
        result = fill(Toy(log=str(log)), runs=runs, output=out)
        assert (result.already_done, result.done) == (6, 0)
        assert set(measured(log).values()) == {1}

    def test_a_damaged_unit_is_measured_again(self, runs: RunTable, out: Path) -> None:
        fill(Toy(), runs=runs, output=out)
        path = out / "units/toy/toy-1m/seed1/step2.npz"
        content = path.read_bytes()
        path.write_bytes(content[:100])
        result = fill(Toy(), runs=runs, output=out)
        assert (result.already_done, result.done) == (5, 1)
        assert path.read_bytes() == content

    def test_a_part_of_the_runs_can_be_chosen(self, runs: RunTable, out: Path, log: Path) -> None:
        result = fill(Toy(log=str(log)), runs=runs, output=out, models="toy-1m", seeds=[1], steps=[0, 2])
        assert result.planned == 2
        assert set(measured(log)) == {"toy toy-1m 1 0", "toy toy-1m 1 2"}

    def test_a_choice_that_is_empty_is_an_error(self, runs: RunTable, out: Path) -> None:
        with pytest.raises(SelectionError, match="seed"):
            fill(Toy(), runs=runs, output=out, seeds=9)
        assert not out.exists()

    def test_several_sources_measure_a_checkpoint_that_is_opened_once(
        self, runs: RunTable, out: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        opened: list[tuple[int, int]] = []

        def counting(run: Any, step: int, **options: Any) -> Any:
            opened.append((run.seed, step))
            return open_checkpoint(run, step, **options)

        monkeypatch.setattr("polystab.sources.checkpoints.open_checkpoint", counting)
        fill([Toy(), Toy(name="other")], runs=runs, output=out)
        assert sorted(opened) == [(seed, step) for seed in range(2) for step in range(3)]

    def test_runs_may_be_a_table_on_disk(self, runs: RunTable, out: Path, tmp_path: Path) -> None:
        write_runs(runs, tmp_path / "runs.csv")
        assert fill(Toy(), runs=tmp_path / "runs.csv", output=out).done == 6

    def test_progress_counts_up_to_the_total(self, runs: RunTable, out: Path) -> None:
        said: list[FillProgress] = []
        fill(Trouble(when={1: "refuse"}), runs=runs, output=out, progress=said.append)
        assert [(p.done, p.failed) for p in said] == [(0, 0), (1, 0), (1, 1), (2, 1), (3, 1), (3, 2), (4, 2)]
        assert {p.total for p in said} == {6}
        assert said[0].seconds_left is None
        assert said[-1].seconds_left == 0

    def test_an_open_checkpoint_can_be_measured_into_the_same_folder(self, runs: RunTable, out: Path) -> None:
        with open_checkpoint(runs.runs[0], 1) as checkpoint:
            assert measure_checkpoint(out, checkpoint, [Toy(), Trouble(when={1: "error"})])[0].reason == "error"
        assert fill(Toy(), runs=runs, output=out).already_done == 1

    @pytest.mark.slow
    def test_where_checkpoints_lie_and_how_many_work_changes_nothing_in_the_cube(
        self, runs: RunTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
        moved = make_checkpoints(tmp_path / "else" / "where")
        fill(Toy(), runs=runs, output=tmp_path / "a")
        fill(Toy(), runs=moved, output=tmp_path / "b", jobs=2)
        for name in ("a", "b"):
            ps.save_cube(join_units(tmp_path / name), tmp_path / f"{name}.nc")
        assert (tmp_path / "a.nc").read_bytes() == (tmp_path / "b.nc").read_bytes()

    def test_fill_is_a_name_of_the_package(self) -> None:
        assert ps.fill is fill


class TestFailing:
    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("what", "reason", "detail", "jobs"),
        [
            ("refuse", "refused", "no such layer", 1),
            ("error", "error", "ZeroDivisionError: division by zero", 1),
            ("memory", "out-of-memory", "memory ran out", 1),
            ("exit", "error", "SystemExit: bye", 1),
            ("nonsense", "invalid-measurement", "metric id 'nonsense'", 1),
            ("error", "error", "ZeroDivisionError: division by zero", 2),
        ],
    )
    def test_one_unit_fails_with_its_reason_and_the_others_go_on(
        self, runs: RunTable, out: Path, what: str, reason: str, detail: str, jobs: int
    ) -> None:
        result = fill([Trouble(when={1: what}), Toy()], runs=runs, output=out, jobs=jobs, seeds=0)
        assert failures(result) == [(1, reason)]
        assert detail in result.failed[0].detail
        assert result.done == 5
        said = json.loads((out / "failed/trouble/toy-1m/seed0/step1.json").read_text())
        assert said["reason"] == reason

    def test_a_failed_unit_is_tried_again_and_its_record_removed(self, runs: RunTable, out: Path) -> None:
        fill(Trouble(when={1: "error"}), runs=runs, output=out)
        result = fill(Trouble(), runs=runs, output=out)
        assert (result.already_done, result.done, result.failed) == (4, 2, ())
        assert list((out / "failed").rglob("*.json")) == []

    def test_the_record_holds_the_end_of_the_traceback(self, runs: RunTable, out: Path) -> None:
        fill(Trouble(when={1: "error"}), runs=runs, output=out)
        said = json.loads((out / "failed/trouble/toy-1m/seed0/step1.json").read_text())
        assert said["traceback"].endswith("ZeroDivisionError: division by zero\n")

    def test_a_checkpoint_that_cannot_be_opened_fails_all_its_units(self, runs: RunTable, out: Path) -> None:
        (Path(runs.runs[0].place(1)) / "model.safetensors").write_bytes(b"half")
        result = fill([Toy(), Toy(name="other")], runs=runs, output=out)
        assert failures(result) == [(1, "damaged-weights"), (1, "damaged-weights")]
        assert result.done == 10

    def test_a_checkpoint_that_is_not_there_fails(self, runs: RunTable, out: Path) -> None:
        (Path(runs.runs[0].place(1)) / "config.json").unlink()
        (Path(runs.runs[0].place(1)) / "model.safetensors").unlink()
        Path(runs.runs[0].place(1)).rmdir()
        assert failures(fill(Toy(), runs=runs, output=out)) == [(1, "missing-checkpoint")]

    def test_a_failure_that_was_mended_elsewhere_is_forgotten(self, runs: RunTable, out: Path) -> None:
        fill(Trouble(when={1: "error"}), runs=runs, output=out, seeds=0)
        record = (out / "failed/trouble/toy-1m/seed0/step1.json").read_bytes()
        fill(Trouble(), runs=runs, output=out, seeds=0)
        (out / "failed/trouble/toy-1m/seed0/step1.json").write_bytes(record)  # killed before it was removed
        fill(Trouble(), runs=runs, output=out, seeds=0)
        assert not (out / "failed/trouble/toy-1m/seed0/step1.json").exists()

    def test_ctrl_c_says_how_to_go_on_and_leaves_nothing_half_done(self, runs: RunTable, out: Path) -> None:
        with pytest.raises(KeyboardInterrupt) as caught:
            fill(Trouble(when={2: "interrupt"}), runs=runs, output=out)
        assert "2 of 6 units done" in caught.value.__notes__[0]
        assert [
            path for path in out.rglob("*") if path.suffix in (".part", ".lock") and path.parent != out / "settings"
        ] == []
        assert fill(Trouble(), runs=runs, output=out).already_done == 2


class TestRefusing:
    def test_other_settings_are_refused_and_named(self, runs: RunTable, out: Path) -> None:
        fill(Toy(also={"shots": 0}), runs=runs, output=out, steps=0)
        with pytest.raises(ConflictError) as caught:
            fill(Toy(items=5, also={"version": "2"}), runs=runs, output=out)
        for text in (
            "items was 6, now 5",
            "shots was 0, now not set",
            'version was not set, now "2"',
            "another folder",
        ):
            assert text in str(caught.value)

    def test_equal_settings_in_another_form_are_the_same(self, runs: RunTable, out: Path) -> None:
        fill(Toy(also={"tasks": ("a", "b")}), runs=runs, output=out)
        assert fill(Toy(also={"tasks": ["a", "b"]}), runs=runs, output=out).already_done == 6

    def test_units_of_another_repository_are_refused(self, runs: RunTable, out: Path) -> None:
        from dataclasses import replace

        from polystab.sources.measuring import Measurement
        from polystab.sources.units import write_unit

        one = replace(runs.runs[0], location="org/one", revision="step{step}", steps=(0,))
        write_unit(out, "toy", one, 0, Measurement(values={"eval/a/acc": 1.0}), Toy().settings())
        with pytest.raises(ConflictError, match="from org/one at step"):
            fill(Toy(), runs=RunTable((replace(one, location="org/two"),)), output=out)

    def test_a_file_as_output_is_refused(self, runs: RunTable, out: Path) -> None:
        out.write_text("mine")
        with pytest.raises(OutputError, match="it is a file"):
            fill(Toy(), runs=runs, output=out)
        assert out.read_text() == "mine"

    def test_a_folder_that_cannot_be_written_is_refused(self, runs: RunTable) -> None:
        with pytest.raises(OutputError, match="cannot make the folder"):
            fill(Toy(), runs=runs, output="/proc/nothing/out")

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
    def test_a_read_only_folder_is_refused(self, runs: RunTable, out: Path) -> None:
        out.mkdir(mode=0o555)
        with pytest.raises(OutputError, match="cannot"):
            fill(Toy(), runs=runs, output=out)

    @pytest.mark.parametrize("jobs", [0, -1])
    def test_no_processes_are_refused(self, runs: RunTable, out: Path, jobs: int) -> None:
        with pytest.raises(ReadError, match="at least 1"):
            fill(Toy(), runs=runs, output=out, jobs=jobs)

    @pytest.mark.parametrize("given", [[], [object()], [Toy(), Toy()], "toi"])
    def test_what_is_no_source_is_refused(self, runs: RunTable, out: Path, given: Any) -> None:
        with pytest.raises((UnknownNameError, ConflictError)):
            fill(given, runs=runs, output=out)

    @pytest.mark.slow
    def test_a_full_disk_stops_the_fill_with_one_message(self, runs: RunTable, out: Path) -> None:
        def full() -> None:  # the next best thing to a full disk: no file may grow beyond 200 bytes
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))

        write_runs(runs, out.parent / "runs.csv")
        done = script(
            f"""
            import polystab as ps
            from measurers_for_tests import Toy
            try:
                ps.fill(Toy(), runs={str(out.parent / "runs.csv")!r}, output={str(out)!r})
            except ps.PolystabError as error:
                print(type(error).__name__, error)
            """,
            preexec_fn=full,
        )
        assert done.stdout.startswith("OutputError cannot write"), done.stderr
        assert list(out.rglob("*.part")) == []
        assert list(out.rglob("*.npz")) == []


def script(code: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter that finds the measurers of the tests."""
    return subprocess.run(
        [sys.executable, "-B", "-c", textwrap.dedent(code)],
        env={**os.environ, "PYTHONPATH": str(HERE)}, capture_output=True, text=True, check=False, timeout=120, **options,
    )  # fmt: skip


@pytest.mark.slow
class TestWorkers:
    def test_a_worker_that_is_killed_costs_its_unit_only(self, runs: RunTable, out: Path) -> None:
        result = fill([Toy(), Trouble(when={1: "kill"}), Toy(name="last")], runs=runs, output=out, jobs=2, seeds=0)
        assert failures(result) == [(1, "worker-died")]
        assert "SIGKILL" in result.failed[0].detail
        assert result.done == 8

    def test_a_unit_whose_worker_died_is_tried_again(self, runs: RunTable, out: Path, tmp_path: Path) -> None:
        trouble = Trouble(when={1: f"kill {tmp_path / 'mended'}"})
        assert failures(fill(trouble, runs=runs, output=out, jobs=2, seeds=0)) == [(1, "worker-died")]
        (tmp_path / "mended").touch()
        result = fill(trouble, runs=runs, output=out, jobs=2)
        assert (result.already_done, result.done, result.failed) == (2, 4, ())

    def test_threads_are_shared_out(self, runs: RunTable, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(7)))
        fill(Threads(), runs=runs, output=out, jobs=2)
        assert set(join_units(out)["value"].values.ravel().tolist()) == {3.0}
        assert "OMP_NUM_THREADS" not in os.environ

    def test_a_measurer_that_cannot_travel_is_refused(self, runs: RunTable, out: Path) -> None:
        with pytest.raises(WorkerError, match="cannot be sent to worker processes"):
            fill(Toy(also=_Unpicklable()), runs=runs, output=out, jobs=2)

    @pytest.mark.parametrize("defined", ["in a module", "in the script"])
    def test_a_script_needs_a_guard_only_if_it_defines_the_measurer(
        self, runs: RunTable, out: Path, tmp_path: Path, defined: str
    ) -> None:
        write_runs(runs, tmp_path / "runs.csv")
        own = "class Toy(Toy):\n    pass\n" if defined == "in the script" else ""
        (tmp_path / "unguarded.py").write_text(
            f"import polystab as ps\nfrom measurers_for_tests import Toy\n{own}"
            f"print(ps.fill(Toy(), runs={str(tmp_path / 'runs.csv')!r}, output={str(out)!r}, jobs=2).done)\n"
        )
        done = subprocess.run(
            [sys.executable, "-B", str(tmp_path / "unguarded.py")],
            env={**os.environ, "PYTHONPATH": str(HERE)}, capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        if defined == "in the script":
            assert "if __name__ == '__main__':" in done.stderr.splitlines()[-1]
        else:
            assert done.stdout == "6\n", done.stderr

    def test_a_claimed_checkpoint_is_waited_for(self, runs: RunTable, out: Path, log: Path) -> None:
        """Another process has one; it ends without having measured it."""
        code = f"""
            import sys, time
            from pathlib import Path
            from polystab.sources.outputs import claimed
            with claimed(Path({str(out)!r}), "toy-1m", 0, 0) as mine:
                print(mine, flush=True)
                sys.stdin.readline()
            """
        with subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as other:
            assert other.stdout is not None
            assert other.stdin is not None
            assert other.stdout.readline() == "True\n"

            def progress(now: FillProgress) -> None:
                if now.done == 5:  # all the others are done by now
                    assert "toy toy-1m 0 0" not in measured(log)
                    other.kill()

            assert fill(Toy(log=str(log)), runs=runs, output=out, progress=progress).done == 6

    def test_a_claim_ends_with_its_block(self, out: Path) -> None:
        for _ in range(2):
            with claimed(out, "m", 0, 0) as mine:
                assert mine
                with claimed(out, "m", 0, 0) as again:
                    assert not again
        assert list((out / "locks").rglob("*.lock")) == []


class _Unpicklable(dict[str, Any]):
    def __reduce__(self) -> Any:
        raise TypeError("stays here")


TOY = Source("toy", "numbers of toys", measurer="measurers_for_tests:Toy")
TROUBLE = Source("trouble", "what goes wrong", measurer="measurers_for_tests:Trouble")


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The toys as sources of another package."""
    points = EntryPoints(EntryPoint(n, f"{__name__}:{n.upper()}", "polystab.sources") for n in ("toy", "trouble"))
    monkeypatch.setattr(registry, "entry_points", lambda group: points.select(group=group))
    sources.cache_clear()
    yield
    sources.cache_clear()


BUILT_IN = ["evals", "weights", "activations", "directions", "embedding", "probes"]


@pytest.mark.usefixtures("registered")
class TestRegistry:
    def test_measurers_are_listed(self) -> None:
        assert measurers() == [*BUILT_IN, "toy", "trouble"]

    def test_a_measurer_is_made_with_its_options(self) -> None:
        assert get_measurer("toy", items=3) == Toy(items=3)

    @pytest.mark.parametrize(
        ("name", "options", "match"),
        [
            ("toi", {}, "Did you mean 'toy'"),
            ("lm-eval", {}, "does not measure"),
            ("toy", {"item": 3}, "Did you mean 'items'"),
        ],
    )
    def test_unknown_names_and_options_get_a_suggestion(self, name: str, options: Any, match: str) -> None:
        with pytest.raises(UnknownNameError, match=match):
            get_measurer(name, **options)

    def test_a_source_that_only_measures_reads_nothing(self, tmp_path: Path) -> None:
        assert "toy" not in CliRunner().invoke(main, ["read", "--help"]).output
        assert "toy" not in registry.guess_sources(tmp_path)
        with pytest.raises(PolystabError, match="polystab fill toy"):
            registry.get_source("toy").read(tmp_path)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.mark.usefixtures("registered")
class TestCommand:
    @pytest.fixture
    def table(self, runs: RunTable, tmp_path: Path) -> Path:
        write_runs(runs, tmp_path / "runs.csv")
        return tmp_path / "runs.csv"

    @pytest.mark.slow
    def test_it_measures_and_merges(self, table: Path, out: Path, tmp_path: Path) -> None:
        result = run("fill", "toy", "--runs", table, "-o", out, "--merge", tmp_path / "x.nc", "-O", "toy.items=3")
        assert result.exit_code == 0, result.output
        assert "measured 6 of 6 units" in result.output
        with ps.open_tree(tmp_path / "x.nc") as tree:
            assert tree["items"].sizes["item"] == 3

    @pytest.mark.slow
    def test_units_that_failed_are_counted_as_refused_when_joined(self, table: Path, out: Path, tmp_path: Path) -> None:
        fill(Trouble(when={1: "error"}), runs=table, output=out)
        result = run("fill", "-o", out, "--merge", tmp_path / "x.nc")
        assert result.exit_code == 0, result.output
        assert "joined 4 of 6 units, 8 values, 2 refused (see its audit)" in result.output

    def test_what_failed_is_said_with_counts(self, table: Path, out: Path, runs: RunTable) -> None:
        for seed in (0, 1):
            (Path(runs.runs[seed].place(1)) / "model.safetensors").write_bytes(b"half")
        result = run("fill", "toy", "--runs", table, "-o", out)
        assert result.exit_code == 1
        assert "failed 2 toy damaged-weights, first toy-1m seed 0 step 1" in result.output
        assert "run the same command again" in result.output

    @pytest.mark.slow
    def test_json_has_the_promised_keys(self, table: Path, out: Path, tmp_path: Path) -> None:
        result = run(
            "fill", "toy", "--runs", table, "-o", out, "--steps", "0:1", "--merge", tmp_path / "x.nc", "--json"
        )
        said = json.loads(result.stdout)
        assert (said["planned"], said["done"], said["already_done"], said["failed"]) == (4, 4, 0, [])
        assert said["cube"]["values"] == 8

    @pytest.mark.slow
    def test_merge_alone_joins_what_is_there(self, table: Path, out: Path, tmp_path: Path) -> None:
        run("fill", "toy", "--runs", table, "-o", out)
        result = run("fill", "-o", out, "--merge", tmp_path / "x.nc")
        assert result.exit_code == 0, result.output
        assert "joined 6 of 6 units" in result.output

    def test_ctrl_c_says_how_to_go_on(self, table: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupted(toy: Toy, checkpoint: Any) -> Any:
            raise KeyboardInterrupt

        monkeypatch.setattr(Toy, "measure", interrupted)
        result = run("fill", "toy", "--runs", table, "-o", out)
        assert result.exit_code == 1
        assert "0 of 6 units done" in result.stderr
        assert "The same command goes on from here" in result.stderr

    def test_an_existing_cube_survives_and_nothing_is_measured(self, table: Path, out: Path, tmp_path: Path) -> None:
        (tmp_path / "x.nc").write_text("mine")
        result = run("fill", "toy", "--runs", table, "-o", out, "--merge", tmp_path / "x.nc")
        assert result.exit_code == 2
        assert (tmp_path / "x.nc").read_text() == "mine"
        assert not out.exists()

    def test_it_lists_the_sources_that_measure(self) -> None:
        result = run("fill", "--list")
        assert result.exit_code == 0
        assert [line.split()[0] for line in result.output.splitlines()] == [*BUILT_IN, "toy", "trouble"]

    @pytest.mark.parametrize(
        ("arguments", "match"),
        [
            (["toy"], "-o DIR is missing"),
            (["-o", "x"], "name a source"),
            (["toy", "-o", "x"], "--runs is missing"),
            (["toy", "-o", "x", "--runs", "nothing.csv"], "nothing.csv"),
            (["toy", "-o", "x", "--runs", "t", "--tasks", "a"], "option of 'evals'"),
            (["evals", "-o", "x", "--runs", "t"], "--tasks is missing"),
            (["toy", "-o", "x", "--runs", "t", "-O", "toy.items"], "-O takes"),
            (["toy", "-o", "x", "--runs", "t", "-O", "toi.items=1"], "not measured here"),
            (["toy", "-o", "x", "--runs", "t", "-O", "toy.item=1"], "Did you mean 'items'"),
            (["toy", "-o", "x", "--runs", "t", "--seeds", "one"], "--seeds takes"),
            (["toy", "-o", "x", "--runs", "t", "--jobs", "0"], "jobs"),
            (["toi", "-o", "x", "--runs", "t"], "Did you mean 'toy'"),
            (["eval", "-o", "x", "--runs", "t", "--tasks", "a"], "Did you mean 'evals'"),
        ],
    )
    def test_wrong_usage_is_exit_code_2(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], match: str
    ) -> None:
        monkeypatch.chdir(tmp_path)
        result = run("fill", *arguments)
        assert result.exit_code == 2, result.output
        assert match in result.output
        assert not (tmp_path / "x").exists()

    def test_help_has_an_example(self) -> None:
        assert "Example: polystab fill evals" in run("fill", "--help").output


@pytest.mark.parametrize(
    ("text", "numbers"), [("0", [0]), ("0,5", [0, 5]), ("0:3", [0, 1, 2, 3]), ("0:9:4,7", [0, 4, 8, 7])]
)
def test_numbers_and_ranges_are_read(text: str, numbers: list[int]) -> None:
    assert parse_numbers("--seeds", text) == numbers


@pytest.mark.parametrize(("text", "size"), [("20GB", 20 * 10**9), ("1.5 MiB", 3 * 2**19), ("100", 100), ("7kb", 7000)])
def test_sizes_are_read(text: str, size: int) -> None:
    assert parse_size(text) == size


def test_the_made_checkpoints_hold_their_number(tmp_path: Path, runs: RunTable) -> None:
    make_checkpoint(tmp_path / "one", value=7.0)
    with open_checkpoint(runs.runs[1], 2) as checkpoint:
        assert value_of(checkpoint) == 102
