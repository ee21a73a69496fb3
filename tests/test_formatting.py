"""Numbers as people read them."""

import pytest

from orchestrator.formatting import compression, distinct_names, duration, size


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (compression(1), "1.0x"), (compression(4.76), "4.8x"), (compression(1.25), "1.3x"),
        (compression(100.5), "101x"), (compression(99.94), "99.9x"),
        (compression(99.96), "100x"),
        (duration(0), "0.0 s"), (duration(59.94), "59.9 s"), (duration(59.96), "1 m 00 s"),
        (duration(3599.6), "1 h 00 m"), (duration(7530), "2 h 05 m"), (duration(187.2), "3 m 07 s"),
        (size(0), "0 B"), (size(999), "999 B"), (size(1000), "1.00 kB"), (size(9996), "10.0 kB"),
        (size(76_190), "76.2 kB"), (size(999_600), "1.00 MB"), (size(102_400_000), "102 MB"),
        (size(1_200_000_000), "1.20 GB"), (size(5_000_000_000_000), "5000 GB"),
    ],
)  # fmt: skip
def test_numbers_for_people(shown, expected):
    assert shown == expected


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (["fine-tuning", "lr"], ["fine-tuning", "lr"]),
        (["digits_compare-fine-tuning", "digits_compare-lr"], ["fine-tuning", "lr"]),
        (["encoder.layers.0.attention.weight", "encoder.layers.1.attention.weight"], ["0", "1"]),
        (["encoder.layers.0.attention.weight", "encoder.layers.10.linear.weight"], ["0.attention", "10.linear"]),
        (["one-experiment-with-a-very-long-name"], ["…ery-long-name"]),
        (["prefix-of-many-words", "prefix-of-many-words-and-more"], ["words", "words-and-more"]),
        (["x" + "a" * 20, "y" + "a" * 20], ["xaaaaaa…aaaaaa", "yaaaaaa…aaaaaa"]),
        ([], []),
    ],
)
def test_names_lose_what_they_share_before_they_are_cut(names, shown):
    assert distinct_names(names, 14) == dict(zip(names, shown, strict=True))
