import io
import json
import tarfile

import pytest

from lightning_prefix.assets.movie_reviews import ARCHIVE, parse, write_ratings, write_reviews

# SHA-256 of the lower-cased text begins with 0x11, 0x20 and 0xe0;
# 10 % end at 0x19, 20 % at 0x33
TEST, VALIDATION, TRAIN = "An honest story.", "It drags on.", "The cast is great."

LINES = [
    f"1\t2.5\t{TEST}",
    f"2\t-1.25\t{VALIDATION}",
    f"3\t0.5\t{TRAIN}",
    f"4\t-0.5\t{TRAIN} ",
    f"5\t0.6\t{TRAIN.upper()}",
    "6\t-3.0\tLoud &amp; long; &quot;epic&quot;\u2014caf\u00e9",
]


@pytest.fixture
def unpacked(tmp_path):
    """The unpacked source archive, with the archive that holds the texts."""
    folder = tmp_path / "unpacked" / "package-1.0" / "additional_resources"
    folder.mkdir(parents=True)
    content = ("\n".join(LINES) + "\n").encode()
    with tarfile.open(folder / ARCHIVE, "w:gz") as archive:
        member = tarfile.TarInfo("hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return tmp_path / "unpacked"


def written(folder):
    return {path.name: [json.loads(line) for line in path.read_text("utf-8").splitlines()] for path in folder.glob("*")}


def test_parse_unescapes_and_keeps_one_of_exact_duplicates():
    snippets = parse("1\t-1.5\tso &quot;good&quot;\n1\t-1.5\tso &quot;good&quot;\n2\t-1.5\tso &quot;good&quot;\n")
    assert sorted(snippets) == [("1", 'so "good"', -1.5), ("2", 'so "good"', -1.5)]


def test_order_depends_on_the_rows_alone():
    assert parse("\n".join(LINES)) == parse("\n".join(reversed(LINES)))
    assert [snippet.id for snippet in parse("\n".join(LINES))] == ["5", "3", "1", "4", "6", "2"]


def test_ratings_hold_every_row_and_no_label(unpacked, tmp_path):
    target = tmp_path / "target"
    target.mkdir()
    write_ratings(unpacked, target)
    files = written(target)
    assert set(files) == {"train.jsonl", "validation.jsonl", "test.jsonl"}
    assert files["test.jsonl"] == [{"id": "1", "text": TEST, "rating": 2.5}]
    assert files["validation.jsonl"] == [{"id": "2", "text": VALIDATION, "rating": -1.25}]
    train = {row["id"]: row for row in files["train.jsonl"]}
    assert set(train) == {"3", "4", "5", "6"}
    assert train["6"] == {"id": "6", "text": 'Loud & long; "epic"\u2014caf\u00e9', "rating": -3.0}


def test_reviews_leave_out_what_is_neither(unpacked, tmp_path):
    target = tmp_path / "target"
    target.mkdir()
    write_reviews(unpacked, target)
    rows = [row for split in written(target).values() for row in split]
    assert {row["id"]: row["label"] for row in rows} == {
        "1": "positive",
        "2": "negative",
        "5": "positive",
        "6": "negative",
    }
    assert all(set(row) == {"id", "text", "rating", "label"} for row in rows)
