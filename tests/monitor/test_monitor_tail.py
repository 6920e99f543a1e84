"""Reading logs that grow: partial lines, rotation, restarts, and what cannot be used."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from live_cubes import LOSS, NORM

from polystab.errors import ReadError
from polystab.monitor import LogTail, RunWatcher, watch_log

VALIDATION = "loss/validation/cross_entropy"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log.csv"


def given(tail: LogTail, **arguments: bool) -> list[tuple[int, dict[str, float]]]:
    return [(row.step, row.values) for row in tail.read(**arguments)]


def append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


class TestFormats:
    @pytest.mark.parametrize(
        "text",
        [
            "step,loss,grad_norm\n1,3.5,0.5\n",
            "global_step;train/loss;grad_norm\n1;3.5;0.5\n",
            "\ufeffstep\tloss\tgrad_norm\r\n1\t3.5\t0.5\r\n",
            '{"step": 1, "loss": 3.5, "grad_norm": 0.5}\n',
            '{"step": 1, "train": {"loss": 3.5, "grad_norm": 0.5}, "note": "text", "lr": null}\n',
        ],
    )
    def test_all_say_the_same(self, log: Path, text: str) -> None:
        log.write_text(text, encoding="utf-8")
        assert given(LogTail(log)) == [(1, {LOSS: 3.5, NORM: 0.5})]

    def test_a_trainer_state_is_read_without_its_closing_mean(self, tmp_path: Path) -> None:
        path = tmp_path / "trainer_state.json"
        history = [{"step": 1, "loss": 3.5}, {"step": 2, "train_loss": 9.0, "train_runtime": 1.0}]
        path.write_text(json.dumps({"log_history": history}))
        tail = LogTail(path)
        assert (given(tail), tail.ended) == ([(1, {LOSS: 3.5})], True)

    def test_a_folder_stands_for_its_last_checkpoint(self, tmp_path: Path) -> None:
        tail = LogTail(tmp_path)
        found = []
        for step in (5, 10):
            state = tmp_path / f"checkpoint-{step}" / "trainer_state.json"
            state.parent.mkdir()
            state.write_text(
                json.dumps({"log_history": [{"step": s, "loss": float(s)} for s in range(5, step + 1, 5)]})
            )
            found.append(given(tail))
        assert found == [[(5, {LOSS: 5.0})], [(10, {LOSS: 10.0})]]

    def test_a_folder_stands_for_the_log_that_the_callback_writes(self, tmp_path: Path) -> None:
        (tmp_path / "polystab_log.jsonl").write_text('{"step": 3, "loss": 2.0}\n{"step": 3, "said": "ended"}\n')
        tail = LogTail(tmp_path)
        assert (given(tail), tail.ended) == ([(3, {LOSS: 2.0})], True)

    def test_columns_and_metrics_can_be_named(self, log: Path) -> None:
        log.write_text("when,how_bad\n7,1.5\n")
        assert given(LogTail(log, columns={"step": "when"}, metrics={"how_bad": LOSS})) == [(7, {LOSS: 1.5})]

    def test_nan_is_told_from_nothing(self, log: Path) -> None:
        log.write_text("step,loss,val_loss,grad_norm\n1,nan,,inf\n")
        ((_, values),) = given(LogTail(log))
        assert math.isnan(values[LOSS])
        assert (values[NORM], VALIDATION in values) == (math.inf, False)


class TestGrowth:
    def test_only_what_is_new_is_given(self, log: Path) -> None:
        log.write_text("step,loss\n1,3.0\n")
        tail = LogTail(log)
        first = given(tail)
        append(log, "2,2.9\n")
        assert (first, given(tail), given(tail)) == ([(1, {LOSS: 3.0})], [(2, {LOSS: 2.9})], [])

    @pytest.mark.parametrize("cut", range(1, 16))
    def test_a_line_waits_until_it_has_an_end(self, tmp_path: Path, cut: int) -> None:
        path, line = tmp_path / "log.jsonl", '{"step": 2, "loss": 12.5}\n'
        path.write_text('{"step": 1, "loss": 3.0}\n' + line[:cut])
        tail = LogTail(path)
        first = given(tail)
        append(path, line[cut:])
        assert (first, given(tail), tail.n_broken) == ([(1, {LOSS: 3.0})], [(2, {LOSS: 12.5})], 0)

    def test_the_last_line_is_taken_at_the_end(self, log: Path) -> None:
        log.write_text("step,loss\n1,3.0\n2,2.5")
        assert given(LogTail(log), last=True) == [(1, {LOSS: 3.0}), (2, {LOSS: 2.5})]

    def test_a_file_that_is_not_there_yet_is_waited_for(self, log: Path) -> None:
        tail = LogTail(log)
        before = given(tail)
        log.write_text("step,loss\n1,3.0\n")
        assert (before, given(tail)) == ([], [(1, {LOSS: 3.0})])

    def test_broken_lines_are_counted_and_passed_over(self, log: Path) -> None:
        log.write_bytes(b'step,loss\n1,3.0\n2,"3\n\xff\xfe\n3,2.0,9\n4,2.0\n')
        tail = LogTail(log)
        assert ([step for step, _ in given(tail)], tail.n_broken) == ([1, 4], 3)

    @pytest.mark.parametrize("header", ["step,loss\n", ""])
    def test_after_rotation_both_files_are_read_to_their_ends(self, log: Path, header: str) -> None:
        log.write_text("step,loss\n1,3.0\n")
        tail = LogTail(log)
        given(tail)
        append(log, "2,2.9\n")
        log.rename(log.with_suffix(".1"))
        log.write_text(f"{header}3,2.8\n")
        assert ([step for step, _ in given(tail)], tail.n_rotated) == ([2, 3], 1)

    def test_a_file_that_is_cut_and_begun_again_is_read_from_its_start(self, log: Path) -> None:
        log.write_text("step,loss\n1,3.0\n2,2.9\n")
        tail = LogTail(log)
        given(tail)
        log.write_text("step,loss\n3,2.8\n")
        assert given(tail) == [(3, {LOSS: 2.8})]

    def test_a_file_that_is_written_anew_with_more_columns_brings_what_is_new(self, log: Path) -> None:
        log.write_text("step,loss\n1,3.0\n")
        tail = LogTail(log)
        given(tail)
        log.write_text("step,loss,val_loss\n1,3.0,3.3\n2,2.9,\n")
        assert given(tail) == [(1, {VALIDATION: 3.3}), (2, {LOSS: 2.9})]

    def test_a_trainer_state_saved_again_at_the_same_time_and_size_is_read_again(self, tmp_path: Path) -> None:
        path = tmp_path / "trainer_state.json"
        tail = LogTail(path)
        for step, loss in ((10, 1.25), (20, 1.75)):
            path.write_text(json.dumps({"log_history": [{"step": step, "loss": loss}]}))
            os.utime(path, ns=(10**18, 10**18))
            assert given(tail) == [(step, {LOSS: loss})]

    def test_a_trainer_state_that_did_not_change_is_not_taken_apart_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "trainer_state.json"
        path.write_text(json.dumps({"log_history": [{"step": 1, "loss": 2.0}]}))
        tail = LogTail(path)
        tail.read()
        monkeypatch.setattr(json, "loads", lambda content: pytest.fail("it was"))
        os.utime(path)
        assert given(tail) == []

    def test_a_trainer_state_that_is_being_written_is_waited_for(self, tmp_path: Path) -> None:
        path = tmp_path / "trainer_state.json"
        path.write_text('{"log_history": [{"step": 1, "lo')
        tail = LogTail(path)
        before = given(tail)
        path.write_text('{"log_history": [{"step": 1, "loss": 3.0}]}')
        assert (before, given(tail)) == ([], [(1, {LOSS: 3.0})])

    def test_a_restarted_run_is_given_from_where_it_differs(self, log: Path) -> None:
        log.write_text("step,loss\n1,3.0\n2,2.9\n3,2.8\n2,2.9\n3,2.7\n")
        assert [step for step, _ in given(LogTail(log))] == [1, 2, 3, 3]


class TestRefuses:
    def test_several_runs_in_one_log(self, log: Path) -> None:
        log.write_text("run,step,loss\na,1,3.0\nb,1,3.0\n")
        with pytest.raises(ReadError, match="several runs, 'a' and 'b'"):
            LogTail(log).read()

    def test_a_table_without_names(self, log: Path) -> None:
        log.write_text("1,3.0\n2,2.9\n")
        with pytest.raises(ReadError, match="begins with numbers"):
            LogTail(log).read()

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("step,colour\n" + "1,2\n" * 30, "no column that is known"),
            ("epoch,loss\n" + "1,2\n" * 30, "no column with a step"),
            ("a,b\n" + "x" * 5 + "\n" + "nonsense,1,2,3\n" * 30, "neither JSON nor a row"),
        ],
    )
    def test_what_has_nothing_to_use(self, log: Path, text: str, said: str) -> None:
        log.write_text(text)
        with pytest.raises(ReadError, match=said):
            LogTail(log).read()

    def test_bytes_that_are_no_text(self, log: Path) -> None:
        log.write_bytes(b"PK\0\1\n" * 9)
        with pytest.raises(ReadError, match="not text"):
            LogTail(log).read()

    def test_a_file_with_nothing_in_it(self, log: Path) -> None:
        log.write_text("")
        with pytest.raises(ReadError, match="there is nothing in"):
            LogTail(log).check_used()

    def test_a_packed_file(self, tmp_path: Path) -> None:
        with pytest.raises(ReadError, match="compressed"):
            LogTail(tmp_path / "log.csv.gz")

    def test_a_json_file_that_is_no_trainer_state(self, tmp_path: Path) -> None:
        (tmp_path / "trainer_state.json").write_text("[]")
        with pytest.raises(ReadError, match="no 'log_history'"):
            LogTail(tmp_path / "trainer_state.json").read()

    def test_a_label_that_does_not_exist(self, log: Path) -> None:
        with pytest.raises(ReadError, match="Did you mean 'step'"):
            LogTail(log, columns={"steps": "a"})


class TestWatching:
    def watched(
        self, log: Path, growth: list[str], watcher: RunWatcher | None = None, **arguments: float
    ) -> tuple[list[str], float]:
        """Rules said, and seconds waited, while a log grows by one text at each wait."""
        waited = []

        def sleep(seconds: float) -> None:
            waited.append(seconds)
            if len(waited) <= len(growth):
                append(log, growth[len(waited) - 1])

        pause: Callable[[float], None] = sleep
        found = watch_log(LogTail(log), watcher or RunWatcher(), sleep=pause, **arguments)  # type: ignore[arg-type]
        return [finding.rule for finding in found], sum(waited)

    def test_ends_after_it_was_idle(self, log: Path) -> None:
        assert self.watched(log, ["step,loss\n", "1,3.0\n"], interval=10, idle=25) == ([], 45)

    def test_takes_a_last_line_without_end_when_it_was_idle(self, log: Path) -> None:
        assert self.watched(log, ["step,loss\n1,3.0\n", "2,inf"], interval=10, idle=25)[0] == ["non-finite"]

    def test_ends_at_a_step(self, log: Path) -> None:
        assert self.watched(log, ["step,loss\n1,3.0\n", "2,3.0\n", "3,3.0\n"], until=2)[1] == 20

    def test_ends_when_the_log_says_so(self, log: Path) -> None:
        growth = ['{"step": 1, "loss": 3.0}\n', '{"step": 1, "train_runtime": 5.0}\n']
        assert self.watched(log, growth)[1] == 20

    def test_says_findings_as_they_come(self, log: Path) -> None:
        growth = ["step,loss\n1,3.0\n2,2.9\n", "3,inf\n", "2,2.8\n"]
        assert self.watched(log, growth, idle=20)[0] == ["non-finite", "restart"]

    def test_a_log_that_never_came_is_an_error(self, log: Path) -> None:
        with pytest.raises(ReadError, match="there is no log"):
            self.watched(log, [], idle=20)

    @pytest.mark.parametrize("arguments", [{"interval": 0.0}, {"idle": -1.0}, {"interval": math.nan}])
    def test_refuses_times_that_make_no_sense(self, log: Path, arguments: dict[str, float]) -> None:
        with pytest.raises(ReadError, match="above 0"):
            self.watched(log, [], **arguments)
