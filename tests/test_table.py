"""Tables joined, sampled and cached, and the rows that are told apart."""

import argparse
import collections
import os
import pickle
import time
from pathlib import Path

import numpy as np
import pytest
from check_data import samples_of
from conftest import in_processes
from layouts import BOX, FAR, hcstvg_entries, make, rows, vidor, vidstg_entry, write

from table import ROW_ARRAYS, cached, distinct, make_annotations, merge, sample_fraction
from train_align import add_alignment_flags, read_alignment


def test_distinct_marks_the_first_of_equal_rows_as_a_set_of_tuples_does():
    rng = np.random.default_rng(0)
    key, box = rng.integers(0, 3, 200), rng.integers(0, 2, (200, 4)) / 2
    seen, first = set(), []
    for row in zip(key.tolist(), map(tuple, box.tolist())):
        first.append(row not in seen)
        seen.add(row)
    assert distinct(key, box).tolist() == first and distinct(key[:0], box[:0]).tolist() == []


def test_merged_sets_share_texts_and_keep_the_unit_of_each_video():
    frames = make([(0, 3, BOX, 0), (1, 5, BOX, 1)], unit="frame", descriptions=2)
    seconds = make_annotations(["own.mp4"], ["wave", "sit"], [0, 0], [1.5, 2], [BOX, FAR], [1, 0],
                               unit="second", files=["own.mp4"])
    mixed = merge([frames, seconds])
    assert rows(mixed) == [("v0", 3.0, "walk"), ("v1", 5.0, "sit"), ("own.mp4", 1.5, "sit"),
                           ("own.mp4", 2.0, "wave")]
    assert mixed.unit.tolist() == ["frame", "frame", "second"] and mixed.descriptions == 2
    assert mixed.files == ["there", "there", "own.mp4"]
    same = merge([frames, frames])
    assert same.keyframe.dtype == np.float32 and same.unit[3] == "frame" and len(same.texts) == 2
    assert sum(getattr(same, name).nbytes for name in ("video", "keyframe", "box",
                                                       "text")) == 28 * len(same)


def test_fraction_takes_whole_samples_and_the_same_ones_for_a_seed():
    table = make([(v, k, BOX, t) for v in range(20) for k in range(3) for t in (0, 1)], videos=20,
                 unit="frame")
    quarter, again, other = (sample_fraction(table, 0.25, seed) for seed in (1, 1, 2))
    counts = collections.Counter((row[0], row[2]) for row in rows(quarter))
    # 10 of 40 samples, each with its 3 boxes
    assert len(counts) == 10 and set(counts.values()) == {3}
    assert rows(quarter) == rows(again) != rows(other)
    assert len(sample_fraction(table, 1.0)) == len(table)
    with pytest.raises(ValueError, match="fraction 0 is not in"):
        sample_fraction(table, 0)


# ---------------------------------------------------------------- alignment sets as one table

def alignment(*flags):
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    add_alignment_flags(parser)
    return read_alignment(parser.parse_args([str(flag) for flag in flags]))


def test_alignment_table_is_built_from_any_mix(tmp_path):
    write(tmp_path / "hc" / "train.json", hcstvg_entries())
    write(tmp_path / "vs" / "train_annotations.json", [vidstg_entry("123", "ride", 0, 2, 4)])
    vidor(tmp_path / "vidor", "123", {0: {2: (0, 0, 320, 180), 3: (0, 0, 320, 180)}}, 10)
    for video in ("hc/video/55_vfjywN5CN0Y.mp4", "hc/video/10__Gvp-cj3bmIY.mkv",
                  "vidor/video/0001/123.mp4", "own/a.mp4"):
        # a pair without its video would be left out
        write(tmp_path / video)
    write(tmp_path / "own" / "a.csv", "a.mp4,1,0.1,0.1,0.5,0.5,A boy runs\n")
    sets = ["--split", "train", "--hcstvg", tmp_path / "hc", "--vidstg", tmp_path / "vs",
            "--vidor", tmp_path / "vidor", "--csv", tmp_path / "own" / "a.csv"]
    for _ in range(2):                                         # parsed, then from the cache
        table = alignment(*sets)
        assert len(table) == 6 + 2 + 1 and len(table.texts) == 4 and len(table.files) == 4
        assert rows(table)[-1] == ("a.mp4", 1.0, "A boy runs")
        assert table.unit.tolist() == ["frame"] * 3 + ["second"] and table.descriptions == 3
    movies = write(tmp_path / "movies.txt", "_Gvp-cj3bmIY\n")
    assert len(alignment(*sets, "--exclude-videos", movies)) == 8
    assert samples_of(alignment(*sets, "--fraction", 0.4)) == 2


def test_where_videos_lie_is_refused_without_their_csv(tmp_path):
    with pytest.raises(ValueError, match="--data .*: goes with --csv; the official sets' folders"):
        alignment("--data", tmp_path)


# ---------------------------------------------------------------- the cache

@pytest.fixture
def counted(tmp_path):
    """A source file, and a reader of it that counts its calls."""
    source, calls = write(tmp_path / "source.txt", "1"), []

    def read(options=("a",)):
        def build():
            calls.append(options)
            table = make([(0, 902, BOX, 0), (1, 903, FAR, -1)], person=[4, -1])
            table.faults = ["source.txt:1: odd"]
            return table
        return cached(tmp_path, "set", [source], list(options), build)

    return source, calls, read


def make_same(a, b):
    return (a.videos, a.texts) == (b.videos, b.texts) and all(
        np.array_equal(getattr(a, name), getattr(b, name)) for name in (*ROW_ARRAYS, "unit"))


def test_parsed_table_comes_from_the_cache_until_its_source_changes(counted):
    source, calls, read = counted
    first, again = read(), read()
    assert len(calls) == 1 and make_same(first, again) and again.faults == ["source.txt:1: odd"]
    assert isinstance(again.box, np.memmap) and not again.box.flags.writeable
    read(("b",))
    assert len(calls) == 2                                     # other options, another folder
    os.utime(source, ns=(1, 1))
    assert make_same(read(), first) and len(calls) == 3
    read(), read(("b",))
    assert len(calls) == 4                                     # and the old ones are gone
    folders = [path for path in source.parent.glob(".ovstad_cache/*") if path.is_dir()]
    assert len(folders) == 2 and all((folder / "rest.json").is_file() for folder in folders)


def test_processes_that_ask_at_the_same_time_parse_a_table_once(tmp_path):
    source, calls = write(tmp_path / "source.txt", "1"), tmp_path / "calls"

    def build():
        with open(calls, "a") as file:
            file.write("parsed\n")
        time.sleep(0.5)                                        # the others come meanwhile
        return make([(0, 902, BOX, 0)])

    in_processes(3, cached, tmp_path, "set", [source], [], build)
    assert calls.read_text() == "parsed\n"


@pytest.mark.parametrize("name", ["box.npy", "person.npy", "rest.json"])
@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b"", lambda b: b"x" * len(b), None,
                                    lambda b: b[:-len(b[128:]) // 2].replace(b"(2,", b"(1,")])
def test_damaged_cache_is_rebuilt_not_trusted(counted, name, damage):
    source, calls, read = counted
    first = read()
    path = next(source.parent.glob(f".ovstad_cache/set-*/{name}"))
    content = path.read_bytes()
    path.unlink()
    if damage:
        path.write_bytes(damage(content))
    assert make_same(read(), first) and len(calls) == 2
    assert path.read_bytes() == content


def test_a_full_disk_costs_the_cache_and_not_the_run(counted, monkeypatch, capsys):
    source, calls, read = counted

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    assert make_same(read(), read()) and len(calls) == 2
    assert "not kept for the next time (No space left on device)" in capsys.readouterr().err
    assert not [path for path in source.parent.glob(".ovstad_cache/*") if path.is_dir()]


def test_workers_receive_the_name_of_the_cache_and_not_its_rows(counted):
    table = counted[2]()
    table.files = ["a.mp4", ""]
    sent = pickle.dumps(table)
    back = pickle.loads(sent)
    assert make_same(back, table) and back.files == ["a.mp4", ""]
    assert b"ovstad_cache" in sent and table.box.tobytes() not in sent
    part = table.select(np.array([True, False]))               # a copy is not what the folder holds
    assert part.cache == "" and len(pickle.loads(pickle.dumps(part))) == 1


def test_cache_goes_to_the_users_folder_where_the_data_cannot_be_written(counted, monkeypatch,
    tmp_path):
    source, calls, read = counted
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    mkdir = Path.mkdir

    def refuse(self, *args, **kwargs):
        if self.name == ".ovstad_cache":
            raise PermissionError(13, "read-only")
        mkdir(self, *args, **kwargs)

    monkeypatch.setattr(Path, "mkdir", refuse)
    read(), read()
    assert len(calls) == 1 and len(list((tmp_path / "home" / "ovstad").glob("set-*/box.npy"))) == 1
