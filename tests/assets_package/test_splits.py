import json

import pytest

from lightning_prefix.assets.splits import in_hash_order, split_of, write_splits

# SHA-256 of the lower-cased text begins with 0x11, 0x20 and 0xe0;
# 10 % end at 0x19, 20 % at 0x33
TEST, VALIDATION, TRAIN = "An honest story.", "It drags on.", "The cast is great."


@pytest.mark.parametrize(("text", "split"), [(TEST, "test"), (VALIDATION, "validation"), (TRAIN, "train")])
def test_split_is_that_of_the_hash_whatever_case_and_white_space(text, split):
    assert split_of(text) == split
    assert split_of("  " + text.upper().replace(" ", " \t ")) == split


def test_shares_of_the_splits():
    splits = [split_of(f"sentence {number}") for number in range(5000)]
    assert splits.count("test") == pytest.approx(500, abs=70)
    assert splits.count("validation") == pytest.approx(500, abs=70)


def test_order_depends_on_the_rows_alone_and_each_comes_once():
    rows = [{"text": f"sentence {number}"} for number in range(20)]
    ordered = in_hash_order(rows)
    assert ordered != rows
    assert in_hash_order([*reversed(rows), dict(rows[0])]) == ordered
    assert sorted(map(json.dumps, ordered)) == sorted(map(json.dumps, rows))


def test_rows_of_a_group_go_into_one_split_in_the_order_given(tmp_path):
    rows = [{"group": group, "text": text} for text in ("b", "é") for group in (TEST, VALIDATION, TRAIN)]
    write_splits(tmp_path, rows, group=lambda row: row["group"])
    for split, group in [("test", TEST), ("validation", VALIDATION), ("train", TRAIN)]:
        lines = (tmp_path / f"{split}.jsonl").read_text("utf-8").splitlines()
        assert lines == [f'{{"group": "{group}", "text": "b"}}', f'{{"group": "{group}", "text": "é"}}']
