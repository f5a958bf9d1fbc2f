"""check_data.py: what it says of sets that are whole, of sets with faults, and of no set at all."""

import json
import re
import shutil
import sys

import check_data
import data
import pytest
from formats.vidstg import vidstg_samples
from layouts import (H, SAMPLES, W, ava_folder, hcstvg_entries, needs_samples, render, square,
                     vidor, write)


@pytest.fixture
def check(tmp_path, monkeypatch, capsys):
    """check_data.py with flags; what it prints. It writes to tmp_path / "out"."""
    def run(*flags) -> str:
        flags = [*flags, "--out", tmp_path / "out"]
        monkeypatch.setattr(sys, "argv", ["check_data.py", *map(str, flags)])
        assert check_data.main() == 0
        return capsys.readouterr().out

    return run


@needs_samples
def test_check_of_a_users_csv_opens_its_videos_and_draws_the_boxes(tmp_path, check):
    for name in ("test.avi", "demo.mp4"):
        shutil.copyfile(SAMPLES / "video" / name, tmp_path / name)
    write(tmp_path / "broken.mp4", "not a video")
    write(tmp_path / "train.csv",
          "demo.mp4,1,0.1,0.1,0.5,0.9,wrestle\nbroken.mp4,1,0.1,0.1,0.5,0.9,sit\n"
          "test.avi,2,0.2,0.2,0.8,0.8,make-up\ntest.avi,90,0.2,0.2,0.8,0.8,make-up\n")
    write(tmp_path / "test.csv", "demo.mp4,3,0.1,0.1,0.5,0.9,jump\n")
    write(tmp_path / "novel.txt", "jump\n")
    out = check("--dataset", "csv", "--data", tmp_path)
    assert re.search(r"videos +3 +on disk 3, missing 0", out) and "scores 1.000000\n" in out
    assert re.search(r"1 +2  make-up", out) and "2 broken, too short or of" in out
    assert re.search(r"base +3 +make-up, sit, wrestle\nnovel +1 +jump\n", out)
    faults = (tmp_path / "out" / "train_faults.txt").read_text()
    assert "broken.mp4: " in faults and "test.avi: 6.56 seconds long, but annotated at 90" in faults
    assert (tmp_path / "out" / "train_contact_sheet.png").stat().st_size > 10_000


@needs_samples
def test_check_of_real_ava_rows_with_a_rendered_movie(tmp_path, check):
    csv = (SAMPLES / "ava" / "ava_val_v2.1_pose_only_first2000.csv").read_text()
    root = ava_folder(tmp_path / "ava", "val", "2.1", csv)
    render(root / "videos_15min" / "_7oWZq_s_Sk.mp4", 901, fps=1)
    out = check("--dataset", "ava", "--data", root, "--split", "val")
    assert "on disk 1, missing 1" in out and "scores 1.000000\n" in out
    assert re.search(r"12 +\d+  stand", out)
    assert (tmp_path / "out" / "val_contact_sheet.png").is_file()


@needs_samples
def test_check_of_real_vidstg_entries_with_a_rendered_video(tmp_path, check):
    shutil.copyfile(SAMPLES / "vidstg" / "val_annotations_first300.json",
                    tmp_path / "val_annotations.json")
    samples = vidstg_samples(json.loads((tmp_path / "val_annotations.json").read_text()))
    _, video, tid, begin, end = min(samples, key=lambda sample: sample[-1])
    vidor(tmp_path / "vidor", video, {tid: {i: square(i) for i in range(end)}}, end, (W, H))
    render(tmp_path / "vidor" / "video" / "0001" / f"{video}.mp4", end)
    flags = "--dataset", "vidstg", "--data", tmp_path, "--vidor", tmp_path / "vidor"
    out = check(*flags, "--split", "val")
    assert "on disk 1, missing" in out and "0 broken, too short or of" in out
    assert "captions; the paper has 23,165 and 5,182,090 pairs" in out
    assert (tmp_path / "out" / "val_contact_sheet.png").is_file()
    vidor(tmp_path / "vidor", video, {tid: {i: square(i) for i in range(end)}}, end, (W, 2 * H))
    assert "1 broken, too short or of another shape" in check(*flags, "--split", "val")
    faults = (tmp_path / "out" / "val_faults.txt").read_text()
    assert f"its picture is {W}x{H}, but annotated as {W}x{2 * H}" in faults
    render(tmp_path / "vidor" / "video" / "0001" / f"{video}.mp4", 2 * end)      # twice the rate
    vidor(tmp_path / "vidor", video, {tid: {i: square(i) for i in range(end)}}, end, (W, H))
    check(*flags, "--split", "val")
    faults = (tmp_path / "out" / "val_faults.txt").read_text()
    assert f"{2 * end} frames, but annotated as {end}; boxes lie on other frames" in faults


@needs_samples
def test_check_of_the_real_ucf_annotation_scores_one_against_itself(tmp_path, check):
    root = shutil.copytree(SAMPLES / "ucf24", tmp_path / "ucf")
    out = check("--dataset", "ucf101-24", "--data", root, "--split", "test")
    assert "scores 1.000000\n" in out and "on disk 0, missing 910" in out
    assert re.search(r"3 +11,911  biking", out)
    assert re.search(r"keyframes +159,289 +with nobody 20,762", out)


def test_check_of_hcstvg_writes_what_each_description_was_split_into(tmp_path, check):
    write(tmp_path / "hc" / "trainv2.json", hcstvg_entries())
    out = check("--dataset", "hcstvg", "--data", tmp_path / "hc")
    assert re.search(r"Table 1 +2 +descriptions; the paper has 13,613 and 1,884,046 pairs", out)
    assert (tmp_path / "out" / "train_sentences.tsv").read_text() == (
        "55_vfjywN5CN0Y.mp4\tThe man walks in and sits down.\tThe man walks in\tThe man sits down\n"
        "10__Gvp-cj3bmIY.mkv\tA boy runs.\tA boy runs\n")


@pytest.mark.parametrize("name", ["train_faults.txt", "train_sentences.tsv"])
def test_a_file_that_check_data_did_not_write_is_left_alone(tmp_path, check, name):
    write(tmp_path / "hc" / "trainv2.json", hcstvg_entries())
    path = write(tmp_path / "out" / name, "mine")
    with pytest.raises(ValueError, match=f"{name}: is there, and no run of ours wrote it"):
        check("--dataset", "hcstvg", "--data", tmp_path / "hc")
    assert path.read_text() == "mine"
    path.unlink()
    for _ in range(2):                                       # its own are replaced
        check("--dataset", "hcstvg", "--data", tmp_path / "hc")


@pytest.mark.parametrize("flags, says", [
    ("--dataset hcstvg --novel n.txt", "hcstvg has sentences and no classes"),
    ("--every 2", "--every means nothing without --import"),
    *((f"--import a.xml {flags}", says) for flags, says in (
        ("--dataset ava", "--dataset means nothing with --import"),
        ("--csv a.csv", "--csv means nothing with --import"),
        ("--version 2", "--version means nothing with --import"),
        ("--split val", "split 'val' is not one of train, test"),
        ("--novel nosuch.txt", "nosuch.txt"))),
    ("--dataset csv --csv a.csv --split a/b", "split 'a/b' is not one of train, val, test, all"),
    (f"--dataset csv --out {__file__}/a", "--out .*a: .*test_check_data.py is no folder")])
def test_flags_that_would_be_ignored_or_fail_late_are_refused_first(monkeypatch, flags, says):
    monkeypatch.setattr(sys, "argv", ["check_data.py", *flags.split()])
    with pytest.raises((ValueError, FileNotFoundError), match=says):
        check_data.main()


def test_missing_folder_or_flag_is_one_line(tmp_path):
    with pytest.raises(FileNotFoundError,
                       match="there is no folder .*nowhere; get ava's files from http.* by --data"):
        data.read_dataset("ava", tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="train.csv: not there; --data names the folder"):
        data.read_dataset("csv", tmp_path)
