"""The report as a whole: files, formats, marks, determinism, weight."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from cubes_to_report import hostile_tree, plain_cube, single_runs, spoiled_tree

import polystab as ps
import polystab.report
from polystab.errors import InvalidCubeError, NotACubeError, OutputError, UnknownNameError
from polystab.report.page import is_report, report
from polystab.report.sections import SECTIONS
from polystab.report.summary import summarise


@pytest.fixture(scope="module", name="cube")
def _cube() -> xr.Dataset:
    return plain_cube()


@pytest.fixture(scope="module", name="tree")
def _tree() -> xr.DataTree:
    return spoiled_tree()


@pytest.fixture(scope="module", name="single")
def _single() -> xr.Dataset:
    return single_runs()


@pytest.fixture(scope="module", name="hostile")
def _hostile() -> xr.DataTree:
    return hostile_tree()


class Page(HTMLParser):
    """What a test wants to know of a page: tags with attributes, and visible text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(scope="module")
def html(tree: xr.DataTree) -> str:
    return report(tree)


@pytest.mark.slow
@pytest.mark.parametrize("format", ["html", "md", "json"])
def test_the_same_cube_gives_the_same_bytes(tree: xr.DataTree, format: str) -> None:
    assert report(tree, format=format) == report(tree.copy(deep=True), format=format)  # type: ignore[call-overload]


@pytest.mark.slow
def test_another_process_gives_the_same_bytes(tmp_path: Path) -> None:
    code = (
        "import sys, polystab.testing, polystab.report.page as p;"
        "p.report(polystab.testing.synthetic_cube(n_models=2, n_seeds=5, rng=3).isel(step=slice(None, None, 3)), sys.argv[1])"
    )
    for name, seed in (("a.html", "1"), ("b.html", "2")):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", code, str(tmp_path / name)], check=True, env=environment)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


@pytest.mark.slow
def test_the_page_is_self_contained_and_runs_nothing(html: str) -> None:
    page = Page(html)
    names = Counter(tag for tag, _ in page.tags)
    assert not {"script", "link", "img", "iframe", "object", "embed", "base", "form"} & set(names)
    for _, attrs in page.tags:
        assert not any(name.startswith("on") for name in attrs)
        for name in ("src", "srcset", "action", "background"):
            assert name not in attrs
        for name in ("href", "xlink:href"):
            assert (attrs.get(name) or "#").startswith("#")
    assert "url(" not in re.sub(r"url\(#\w+\)", "", html)
    assert "@import" not in html


@pytest.mark.slow
def test_every_anchor_leads_somewhere_and_identifiers_are_unique(html: str) -> None:
    page = Page(html)
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    wanted = {str(attrs["href"])[1:] for attrs in page.all("a")}
    for _, attrs in page.tags:
        for name in ("aria-labelledby", "aria-describedby"):
            wanted |= set((attrs.get(name) or "").split())
    assert wanted <= set(ids)


@pytest.mark.slow
def test_headings_tables_and_pictures_can_be_followed_without_eyes(html: str) -> None:
    page = Page(html)
    assert len(page.all("h1")) == 1
    assert page.all("html") == [{"lang": "en"}]
    assert [tag for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)] == [
        "h1",
        *["h2"] * len([name for name in SECTIONS if name != "comparison"]),
    ]
    assert all(attrs.get("scope") in ("col", "row", "rowgroup") for attrs in page.all("th"))
    drawn = [attrs for attrs in page.all("svg") if attrs.get("aria-hidden") != "true"]
    assert drawn
    assert all(attrs["role"] == "img" and attrs["aria-labelledby"] for attrs in drawn)
    assert len(page.all("title")) == len(drawn) + 1
    for attrs in page.all("div"):
        if attrs.get("class") == "scroll":
            assert attrs["tabindex"] == "0"
            assert attrs["role"] == "region"
    assert "#main" in [attrs["href"] for attrs in page.all("a")]


def test_the_page_is_well_formed(html: str) -> None:
    void = {"meta", "wbr", "br", "hr"}
    stack: list[str] = []

    class Checker(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            if tag not in void:
                stack.append(tag)

        def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            pass

        def handle_endtag(self, tag: str) -> None:
            assert stack.pop() == tag

    Checker().feed(html)
    assert stack == []


@pytest.mark.slow
@pytest.mark.parametrize("format", ["html", "md"])
def test_markup_in_names_stays_text(hostile: xr.DataTree, format: str) -> None:
    text = report(hostile, format=format)  # type: ignore[call-overload]
    if format == "html":
        page = Page(text)
        assert not page.all("script")
        assert "alert('1')" in "".join(page.text)
        assert "�" in text
    else:
        outside = re.sub(r"(`+).*?(?<!`)\1(?!`)", "", text)  # what is not in a code span
        assert "<script" not in outside
    assert "\x07" not in text


@pytest.mark.slow
def test_hostile_names_survive_in_json(hostile: xr.DataTree) -> None:
    summary = json.loads(report(hostile, format="json"))
    assert summary["contents"]["models"][0]["model"] == str(hostile["model"].values[0])
    assert summary["audit"]["refused"][0]["entries"][0]["path"].startswith("<script>")


@pytest.mark.slow
def test_json_is_strict_and_is_the_summary(tree: xr.DataTree) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    assert json.loads(report(tree, format="json"), parse_constant=refuse) == summarise(tree)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["r.html", "r.HTM", "r.md", "r.markdown", "r.json", "r"])
def test_every_format_carries_the_mark_of_a_report(single: xr.Dataset, tmp_path: Path, name: str) -> None:
    path = report(single, tmp_path / name)
    assert path == tmp_path / name
    assert is_report(path)
    head = path.read_bytes()[:2000]
    assert b"polystab report" in head.replace(b"_", b" ")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<!doctype html><title>polystab report</title>",
        b'{"title": "polystab_report"}',
        b"# On the polystab report\n",
        b"\xff\xfe\x00polystab report",
        b" " * 3000 + b"<!-- polystab report 1 -->",
    ],
)
def test_other_files_are_not_taken_for_reports(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "mine.html"
    path.write_bytes(content)
    assert not is_report(path)


def test_missing_files_and_folders_are_no_reports(tmp_path: Path) -> None:
    assert not is_report(tmp_path)
    assert not is_report(tmp_path / "none.html")


@pytest.mark.slow
def test_the_format_is_taken_from_the_argument_before_the_ending(single: xr.Dataset, tmp_path: Path) -> None:
    path = report(single, tmp_path / "page.txt", format="md")
    assert path.read_text(encoding="utf-8").startswith("<!-- polystab report")


def test_an_ending_that_says_nothing_and_an_unknown_format_are_refused(single: xr.Dataset, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"'\.pdf'"):
        report(single, tmp_path / "page.pdf")
    with pytest.raises(UnknownNameError, match="html"):
        report(single, format="htlm")  # type: ignore[call-overload]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_an_old_file_survives_a_refused_overwrite(single: xr.Dataset, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text("mine")
    with pytest.raises(OutputError, match="exists"):
        report(single, path, overwrite=False)
    assert path.read_text() == "mine"
    assert [entry.name for entry in tmp_path.iterdir()] == ["page.html"]


@pytest.mark.slow
def test_the_title_can_be_chosen(single: xr.Dataset) -> None:
    assert "<h1>Mine &amp; yours</h1>" in report(single, title="Mine & yours")


def test_what_is_no_cube_is_refused(cube: xr.Dataset) -> None:
    with pytest.raises(NotACubeError):
        report("cube.nc")  # type: ignore[call-overload]
    with pytest.raises(InvalidCubeError, match="family"):
        report(cube.drop_vars("family"))


@pytest.mark.slow
def test_the_subpackage_is_the_public_function(single: xr.Dataset) -> None:
    assert polystab.report(single, format="md") == report(single, format="md")
    assert ps.report(single, format="md") == report(single, format="md")
    import polystab.report.page as page

    assert page.report is report


@pytest.mark.slow
def test_a_cube_on_disk_is_read_and_left_open(single: xr.Dataset, tmp_path: Path) -> None:
    ps.save_cube(single, tmp_path / "cube.nc")
    with ps.open_cube(tmp_path / "cube.nc") as lazy:
        assert report(lazy, format="json") == report(single, format="json")
        assert not lazy["value"].variable._in_memory


@pytest.mark.slow
def test_json_and_markdown_need_no_matplotlib() -> None:
    code = (
        "import sys, polystab.testing; from polystab.report.page import report\n"
        "c = polystab.testing.synthetic_cube(n_models=1, rng=0)\n"
        "report(c, format='json'); report(c, format='md')\n"
        "print([m for m in ('matplotlib', 'torch', 'statsmodels') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_a_large_cube_gives_a_page_that_can_be_sent(tmp_path: Path) -> None:
    from polystab.cube.build import finished
    from polystab.cube.specs import DIMS

    shape = (40, 3, 20, 60)
    value = np.random.default_rng(0).normal(size=shape)
    large = xr.Dataset(
        {"value": (DIMS, value)},
        coords={
            "model": [f"a-model-with-a-rather-long-name-{i}m" for i in range(shape[0])],
            "seed": np.arange(shape[1]),
            "step": np.arange(shape[2]) ** 3,
            "metric": [f"eval/some_task_with_a_name_{i}/acc_norm" for i in range(shape[3])],
        },
    )
    path = report(finished(large), tmp_path / "large.html")
    assert path.stat().st_size < 3_000_000
    text = path.read_text(encoding="utf-8")
    assert "900 more rows are left out of this page" in text
    assert "10 of 40 models are drawn" in text


@pytest.mark.slow
def test_many_refused_files_are_capped_and_counted(single: xr.Dataset) -> None:
    from polystab.cube.audit import AuditLog

    log = AuditLog()
    for i in range(5000):
        log.refuse(f"runs/{i}.json", "label-mismatch", "x" * 5000)
    page = report(xr.DataTree.from_dict({"/": single, "/audit": log.dataset()}))
    assert len(page) < 1_500_000
    assert "All refused files (5,000)" in page
    assert "3,500 more rows are left out" in page


@pytest.mark.slow
def test_real_training_maps_name_seed_3_and_4(shared_data: Path) -> None:
    table = pd.read_csv(shared_data / "pythia-training-maps" / "training_maps.tsv", sep="\t")
    frame = pd.DataFrame({"model": "pythia-410m", "seed": table["seed"], "step": table["step"], "metric": "eval/average/score", "value": table["score"]})  # fmt: skip
    summary = summarise(ps.cube_from_records(frame))
    listed = [(run["seed"], run["first_step"]) for run in summary["outliers"]["runs"] if run["first_step"] >= 0]
    assert listed == [(3, 83000), (4, 123000)]
    said = [item["text"] for item in summary["takeaways"] if item["level"] == "bad"]
    assert sorted(text.split(" to ")[0] for text in said) == [
        "pythia-410m seed 3 is an outlier from step 83,000",
        "pythia-410m seed 4 is an outlier from step 123,000",
    ]
    restarts = [row["seed"] for row in summary["findings"]["rows"] if row["kind"] == "restart"]
    assert restarts == [3, 4]
