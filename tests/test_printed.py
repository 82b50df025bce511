"""The rule by which what documents show is compared with what is printed now."""

import pytest
from printed import alike, differences


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        ("nats  2.391   ± 0.16 (200)", "nats 2.39 ± 0.16 (200)"),
        ("nats  2.391", "nats  2.43"),
        ("43% of predictions", "44% of predictions"),
        ("q .51 <.0001", "q .52 <.0001"),
        ("± 8.3e-06 (40)", "± 8.4e-06 (40)"),
        ("top10 ±0.033", "top10 ±0.031"),
        ("flips 0.472 ± 0.021", "flips 0.466 ± 0.019"),
        ("3.13 MB, written in 0.0 s; 72.0 GB free", "3.13 MB, written in 1.2 s; 8.1 GB free"),
        ("Run('m-1b-d4fd57a8', 1)", "Run('m-1b-01234567', 1)"),
        ("│ m-1b-d4f… ┆ 0.25 │", "│ m-1b-012… ┆ 0.25 │"),
    ],
)
def test_white_space_rounding_machine_and_versions_do_not_count(shown: str, printed: str) -> None:
    assert alike(shown, printed)


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        ("nats 2.391", "nats 2.59"),
        ("nats 2.391 (200)", "nats 2.391 (180)"),
        ("nats 2.391", "dims 2.391"),
        ("nats 2.391", "nats 2.391 *"),
        ("nats 2.391", "nats -2.391"),
        ("nats 2.391", "nats -"),
        ("± 8.3e-06", "± 8.3e-05"),
        ("0.472 ± 0.021", "0.472 ± 0.016"),
        ("43% flip", "48% flip"),
        ("120 items", "121 items"),
        ("3.13 MB", "3.14 MB"),
        ("run-d4fd57a8", "other-d4fd57a8"),
        ("prompt-12345", "prompt-12346"),
        ("bar ▎", "bar ▌"),
    ],
)
def test_values_names_counts_and_sizes_do(shown: str, printed: str) -> None:
    assert not alike(shown, printed)


def test_each_line_that_is_not_printed_is_found_beside_what_is() -> None:
    printed = "head\nentropy 0.22\nrank 9.9\nrank 5.0\n"
    assert differences("entropy 0.22\n\nrank 5.0\n", printed) == []
    assert differences("entropy 0.52\nother 1.0\nrank 9.9", printed) == [
        "shown:   entropy 0.52\nprinted: entropy 0.22",
        "shown:   other 1.0\nprinted: nothing like it",
    ]
    assert differences("rank 5.0\nentropy 0.22", printed) == [
        "shown:   entropy 0.22\nprinted: nothing like it"
    ]
