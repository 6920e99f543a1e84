"""Numbers, steps and names as text."""

from __future__ import annotations

import pytest

from polystab.words import count, decimals_for, listed, number, percent, plural, short_name, step_label


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (float("nan"), ""),
        (0.0, "0"),
        (0.71234, "0.7123"),
        (12345.678, "12,346"),
        (-0.5, "−0.5000"),
        (1.3e-6, "1.3e−6"),
        (1e300, "1e300"),
        (float("inf"), "∞"),
        (float("-inf"), "−∞"),
    ],
)
def test_numbers(value: float | None, text: str) -> None:
    assert number(value) == text


def test_a_mean_has_the_decimals_of_its_spread() -> None:
    assert number(0.712345, decimals=decimals_for(0.0168)) == "0.712"
    assert number(45007.3, decimals=decimals_for(1063.0)) == "45,007"
    assert decimals_for(None) is decimals_for(0.0) is decimals_for(float("nan")) is None


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0, "0 %"),
        (1, "100 %"),
        (0.0004, "< 0.1 %"),
        (0.9996, "> 99.9 %"),
        (0.0163, "1.6 %"),
        (0.26, "26 %"),
        (None, ""),
    ],
)
def test_shares_never_round_to_nothing_or_everything(share: float | None, text: str) -> None:
    assert percent(share).replace("\N{NO-BREAK SPACE}", " ") == text


@pytest.mark.parametrize(
    ("step", "text"),
    [
        (0, "0"),
        (512, "512"),
        (1000, "1k"),
        (1500, "1.5k"),
        (1620, "1,620"),
        (143000, "143k"),
        (2e6, "2M"),
        (1e15, "1e15"),
    ],
)
def test_step_labels(step: float, text: str) -> None:
    assert step_label(step) == text


def test_counts_and_lists() -> None:
    assert (count(12345), plural(1, "run"), plural(2, "run"), plural(2, "trajectory", "trajectories")) == (
        "12,345",
        "1 run",
        "2 runs",
        "2 trajectories",
    )
    assert [listed([]), listed(["a"]), listed(["a", "b"]), listed(["a", "b", "c"], 2)] == [
        "",
        "a",
        "a and b",
        "a, b and 1 more",
    ]


def test_names_in_pictures_are_one_short_line() -> None:
    assert short_name("a" * 100, 11) == "aaaaa…aaaaa"
    assert short_name("a\nb\x07") == "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}"
