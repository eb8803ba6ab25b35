"""The history of a run: appended to, cut, repaired, and thinned for drawing."""

import os

import pytest

from dcganlib.runs import history
from dcganlib.runs.history import COLUMNS, History
from dcganlib.runtime import files

HEAD = ",".join(COLUMNS) + "\n"


def rows(first, last):
    """A row for each step; the losses are numbers of more than six digits."""
    values = {"d_loss": 1 / 3, "g_loss": 2 / 3, "d_real": 0.5, "d_fake": 0.25}
    return [
        {"step": step, "epoch": 1 + step // 5, **values, "g_loss": step / 7}
        for step in range(first, last + 1)
    ]


def line(step):
    return f"{step},{1 + step // 5},0.333333,{step / 7:.6g},0.5,0.25\n"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "history.csv"


def test_rows_are_added_at_the_end_and_what_is_there_is_not_written_again(path, monkeypatch):
    log = History(path)
    log.append(rows(1, 3))
    before = os.stat(path)
    monkeypatch.setattr(files, "write_atomically", lambda *args, **options: pytest.fail("written anew"))
    log.append([])
    log.append(rows(4, 5))
    assert os.stat(path).st_ino == before.st_ino
    assert path.read_bytes().decode() == HEAD + "".join(map(line, range(1, 6)))
    assert [row["step"] for row in history.read(path)] == [1, 2, 3, 4, 5]


def test_rows_that_do_not_fit_on_the_disk_leave_the_file_as_long_as_it_was(path, monkeypatch):
    log = History(path)
    log.append(rows(1, 3))
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=rf"no room for {path}: \d+ bytes are needed"):
        log.append(rows(4, 9))
    assert path.read_bytes() == before


def test_a_file_that_is_gone_is_begun_anew_with_its_columns(path):
    log = History(path)
    log.append(rows(1, 2))
    path.unlink()
    log.append(rows(3, 4))
    assert path.read_text(encoding="utf-8") == HEAD + line(3) + line(4)


@pytest.mark.parametrize(
    "tail", ["", line(5), line(5) + line(6), line(5) + "6,2,0.3", line(5)[:-9], "\0\0\0"]
)
def test_what_lies_beyond_the_checkpoint_is_cut_in_silence(path, tail):
    whole = HEAD + "".join(map(line, range(1, 5)))
    path.write_text(whole + tail, encoding="utf-8", newline="\n")
    log = history.resume(path, 4)
    assert path.read_text(encoding="utf-8") == whole
    assert [row["step"] for row in log.points] == [1, 2, 3, 4]
    assert os.listdir(path.parent) == [path.name]


def test_at_step_0_nothing_is_left(path):
    path.write_text(HEAD + line(1), encoding="utf-8", newline="\n")
    assert history.resume(path, 0).points == []
    assert not path.exists()


@pytest.mark.parametrize(
    ("content", "kept"),
    [
        (HEAD + line(1) + "2,1,0.3\n" + line(3), [1, 3]),
        (HEAD + line(1) + line(2)[:-9], [1]),
        (HEAD + line(1) + line(2).replace("2", "nan", 1) + line(3), [1, 3]),
        (HEAD + line(1) + line(2).replace("2", "2.5", 1) + line(3), [1, 3]),
        (HEAD + line(1) + line(1).replace("0.", "1.") + line(3), [1, 3]),
        (HEAD + line(3) + line(2), [3]),
        ("a,b\n1,2\n", []),
        ("", []),
    ],
)
def test_a_damaged_file_is_set_aside_and_its_sound_rows_are_kept(path, content, kept):
    path.write_text(content, encoding="utf-8", newline="\n")
    with pytest.warns(UserWarning, match=rf"{path} has {len(kept)} rows for the 3 steps so far; the others"):
        log = history.resume(path, 3)
    assert [row["step"] for row in log.points] == kept
    assert path.with_name("history-damaged.csv").read_text(encoding="utf-8") == content
    assert path.exists() == bool(kept)
    log.append(rows(4, 4))
    assert [row["step"] for row in history.read(path)] == [*kept, 4]


def test_a_missing_file_is_a_warning(path):
    with pytest.warns(UserWarning, match="has 0 rows for the 3 steps so far"):
        assert history.resume(path, 3).points == []


@pytest.mark.parametrize("there", ["nothing", "another", "the same"])
def test_rows_that_an_older_checkpoint_holds_go_before_the_file(path, there):
    whole = HEAD + "".join(map(line, range(1, 4)))
    if there != "nothing":
        path.write_text(whole if there == "the same" else HEAD + line(7), encoding="utf-8", newline="\n")
    log = history.resume(path, 3, rows(1, 3))
    assert path.read_text(encoding="utf-8") == whole
    assert [row["step"] for row in log.points] == [1, 2, 3]


def test_a_long_history_is_drawn_by_means_of_equal_length_however_it_was_written(path, monkeypatch):
    monkeypatch.setattr(history, "POINTS", 4)
    log = History(path)
    for first in range(1, 44, 3):  # to step 45
        log.append(rows(first, first + 2))
    assert log.stride == 8
    steps = [(1 + 8) / 2 + 8 * k for k in range(5)] + [(41 + 45) / 2]
    assert [row["step"] for row in log.points] == steps
    for row in log.points:
        assert row["g_loss"] == pytest.approx(row["step"] / 7, rel=1e-5)
    again = history.resume(path, 45)
    assert again.points == log.points
    assert len(History(path, rows(1, 1000)).points) <= 8
