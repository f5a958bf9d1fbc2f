"""Every reader, on real samples and on files in the official layouts written here."""

import collections
import gzip
import json
import os
import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from layouts import (BOX, SAMPLES, H, W, act_pickle, ava_folder, hcstvg_entries, make,
                     needs_samples, render, rows, square, vidor, vidstg_entry, write,
                     write_alignment_sets)

import data
from data import AVA_60, read_ava, read_csv
from formats.ava import AVA_80, AVA_IDS, AVA_TRAIN_COUNTS, AVA_TYPES
from formats.files import load_pickle, read_list
from formats.proposals import add_proposals, read_proposals, write_proposals
from formats.vidstg import vidstg_samples
from table import Detections, exclude_videos


# ---------------------------------------------------------------- classes

@needs_samples
def test_training_counts_are_the_public_ratios_over_their_denominator():
    ratios = json.loads((SAMPLES / "ava" / "ava_categories_ratio_yowo.json").read_text())
    assert [round(ratios[str(i)] * 332_353) for i in range(1, 81)] == AVA_TRAIN_COUNTS
    assert sum(AVA_TRAIN_COUNTS) == 862_663


def test_novel_classes_of_ava_follow_from_the_counts_one_in_four_of_each_type():
    assert [len(names) for names in (data.UCF101_24, data.JHMDB_21, set(AVA_80))] == [24, 21, 80]
    assert [sum(i in ids for i in AVA_IDS) for ids in AVA_TYPES.values()] == [13, 32, 15]
    novel = []
    for ids, ranks in (((1, 14), [2, 6, 10]), ((15, 63), [2, 6, 10, 14, 18, 22, 26, 30]),
                       ((64, 80), [1, 5, 9, 13])):
        counted = sorted([(AVA_TRAIN_COUNTS[i - 1], AVA_80[i - 1]) for i in AVA_IDS
                          if ids[0] <= i <= ids[1]], reverse=True)
        novel += [counted[rank][1] for rank in ranks]
    assert set(novel) == set(data.OV_AVA_NOVEL) and len(novel) == 15
    assert data.OV_AVA_NOVEL[:3] == ["dance", "fall down", "walk"]


# ---------------------------------------------------------------- the annotations CSV

def test_csv_with_header_people_and_an_empty_keyframe_becomes_the_table(tmp_path):
    write(tmp_path / "videos" / "-a_b.mp4")
    write(tmp_path / "videos" / "c d.mp4")
    path = write(tmp_path / "clips.csv", "video,keyframe,x1,y1,x2,y2,text,person\n"
                 "videos/c d.mp4,2.5,0.1,0.2,0.3,0.4,\"wave, then sit\",7\n\n"
                 "videos/-a_b.mp4,1,0,0,1,1,walk,\n"
                 "videos/c d.mp4,1\nvideos/-a_b.mp4,1\n"    # somebody is on the latter
                 "videos/c d.mp4,2.5,0.1,0.2,0.3,0.4,walk,7\n")
    a = read_csv(path)
    assert a.texts == ["walk", "wave, then sit"]
    assert a.files == [str(tmp_path / video) for video in a.videos]
    assert list(a.unit) == ["second"] * 2 and a.keyframe.dtype == np.float32
    assert rows(a, "person") == [("videos/c d.mp4", 1.0, None, -1),
                                 ("videos/c d.mp4", 2.5, "wave, then sit", 7),
                                 ("videos/c d.mp4", 2.5, "walk", 7),
                                 ("videos/-a_b.mp4", 1.0, "walk", -1)]
    assert a.box[:2] == pytest.approx(np.array([[0, 0, 0, 0], [0.1, 0.2, 0.3, 0.4]]))
    assert a.keyframe_starts().tolist() == [0, 1, 3, 4]
    other = write(tmp_path / "moved.csv", "c d.mp4,0,0,0,1,1,walk\n")
    assert read_csv(other, tmp_path / "videos").files == [str(tmp_path / "videos" / "c d.mp4")]


# ---------------------------------------------------------------- untrusted pickles

def test_pickle_that_would_run_code_is_refused_by_name(tmp_path):
    class Attack:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'pwned'}",)

    with pytest.raises(ValueError, match=r"attack.pkl: holds (posix|nt).system, which is neither"):
        load_pickle(write(tmp_path / "attack.pkl", {"labels": [Attack()]}))
    assert not (tmp_path / "pwned").exists()
    (tmp_path / "eval.pkl").write_bytes(b"c__builtin__\neval\n(S'1'\ntR.")       # Python 2's
    with pytest.raises(ValueError, match="__builtin__.eval"):
        load_pickle(tmp_path / "eval.pkl")


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_and_arrays_survive_the_safe_unpickler(tmp_path, protocol):
    value = {"a": [1, 2.5, "x", None, True], ("k", 1): np.arange(6, dtype=np.uint8).reshape(2, 3),
             "n": np.uint16(7), "f": np.asfortranarray(np.ones((2, 2), np.float32)),
             "nobody": np.zeros((0, 5))}
    (tmp_path / "v.pkl").write_bytes(pickle.dumps(value, protocol))
    back = load_pickle(tmp_path / "v.pkl")
    assert back["nobody"].shape == (0, 5) and back["a"] == value["a"] and back["n"] == 7 and back["n"].dtype == np.uint16
    assert (back["k", 1] == value["k", 1]).all() and (back["f"] == 1).all()


def test_python_2_pickle_of_an_array_is_read(tmp_path):
    # what Python 2's numpy wrote: module numpy.core.multiarray, raw bytes as a latin-1 str
    text = (b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I2\n"
            b"tcnumpy\ndtype\n(S'u1'\nI0\nI1\ntR(I3\nS'|'\nNNNI-1\nI-1\nI0\ntbI00\n"
            b"S'\\x07\\xff'\ntb.")
    (tmp_path / "two.pkl").write_bytes(text)
    assert load_pickle(tmp_path / "two.pkl").tolist() == [7, 255]


# ---------------------------------------------------------------- UCF101-24 and JHMDB-21

@needs_samples
def test_ucf101_24_has_the_official_counts_and_agrees_with_acts_annotation_box_by_box(tmp_path):
    for name in ("pyannot.pkl", "testlist01.txt"):
        shutil.copyfile(SAMPLES / "ucf24" / name, tmp_path / name)
    train, test = data.read_ucf101_24(tmp_path, "train"), data.read_ucf101_24(tmp_path, "test")
    assert (len(train.videos), len(test.videos)) == (2284, 910)
    assert not set(train.videos) & set(test.videos)
    for table, tubes in ((train, 3143), (test, 1315)):
        labelled = table.text >= 0
        assert len(np.unique([table.video[labelled], table.person[labelled]], axis=1).T) == tubes
        assert table.texts == data.UCF101_24 and set(table.unit) == {"frame"} and not table.faults
    labelled = test.text >= 0
    assert labelled.sum() == 170_580 and (train.text >= 0).all()
    assert len(test.keyframe_starts()) - 1 == 159_289          # every frame of every test video
    assert len(test.select(labelled).keyframe_starts()) - 1 == 138_527

    act = np.load(SAMPLES / "eval" / "act_ucf24_gt.npz")       # x + w is beyond a uint8 at times
    assert test.videos == act["videos"].tolist()
    ours = np.column_stack([test.video, test.text, test.keyframe + 1,
                            np.round(test.box * [320, 240, 320, 240])])[labelled]
    tube = np.repeat(np.arange(len(act["tube_video"])), np.diff(act["tube_offset"]))
    theirs = np.column_stack([act["tube_video"][tube], act["tube_label"][tube], act["rows"]])
    assert (np.array(sorted(ours.tolist())) == np.array(sorted(theirs.tolist()))).all()


def test_act_pickle_counts_frames_from_one_and_gives_height_first(tmp_path, capsys):
    videos = ["Biking/v_Biking_g08_c01", "Biking/v_Biking_g01_c01",
              "WalkingWithDog/v_WalkingWithDog_g01_c02"]
    whole = [1, 0, 0, 320, 240]
    gt = act_pickle(["Biking", "WalkingWithDog"], videos, {
        videos[0]: {0: [np.array([[1, 0, 0, 160, 120]], np.float32)]},
        videos[1]: {0: [np.array([[2, 32, 24, 160, 120], [3, 32, 24, 321, 120]], np.float32),
                        np.float32([[3, *whole[1:]], [5, *whole[1:]], [4, 320, 0, 322, 240]])]},
        videos[2]: {1: [np.array([whole], np.float32)]}})
    write(tmp_path / "UCF101v2-GT.pkl", gt)
    write(tmp_path / "rgb-images" / videos[1] / "00001.jpg")
    write(tmp_path / "videos" / "WalkingWithDog" / "v_WalkingWithDog_g01_c02.avi")
    test = data.read_ucf101_24(tmp_path, "test")
    assert rows(test, "person") == [
        (videos[1], 0, None, -1), (videos[1], 1, "biking", 0), (videos[1], 2, "biking", 0),
        (videos[1], 2, "biking", 1), (videos[1], 3, None, -1),
        (videos[2], 0, "walking with dog", 0), *((videos[2], i, None, -1) for i in (1, 2, 3))]
    assert test.box[1] == pytest.approx([0.1, 0.1, 0.5, 0.5])
    assert test.box[2] == pytest.approx([0.1, 0.1, 1, 0.5])    # 321 is cut at the border
    assert test.size.tolist() == [[320, 240], [320, 240]]
    assert test.files == [str(tmp_path / "rgb-images" / videos[1]),
                          str(tmp_path / "videos" / (videos[2] + ".avi"))]
    assert test.faults == [
        f"UCF101v2-GT.pkl: {videos[1]}: 1 boxes of tube 1 outside {reason}, dropped"
        for reason in ("the picture or empty", "frames 1 to 4")]
    train = data.read_ucf101_24(tmp_path, "train")
    assert rows(train) == [(videos[0], 0, "biking")] and train.files == [""]
    write(tmp_path / "more" / (videos[2] + ".avi"), "another")
    data.read_ucf101_24(tmp_path, "test")
    assert re.search("1 videos are there twice and differ, such as .*more.*, which is read, and "
                     ".*videos", capsys.readouterr().err)
    write(tmp_path / "copy" / "UCF101v2-GT.pkl", gt)           # the same once more
    assert data.read_ucf101_24(tmp_path, "train").videos == train.videos
    write(tmp_path / "copy" / "UCF101v2-GT.pkl", gt | {"labels": []})
    with pytest.raises(ValueError, match="and .*copy.UCF101v2-GT.pkl: which of them"):
        data.read_ucf101_24(tmp_path, "train")


def test_jhmdb_has_three_splits_and_names_with_any_character(tmp_path):
    videos = ["brush_hair/Trannydude___OhNOES!__those_knots!_brush_hair_u_nm_np1_fr_goo_2",
              "shoot_ball/a.b_shoot_ball_1"]
    labels = [name.replace("pull up", "pullup").replace(" ", "_") for name in data.JHMDB_21]
    box = np.array([[1, 0, 0, 160, 120]], np.float32)
    gt = act_pickle(labels, videos, {videos[0]: {0: [box]}, videos[1]: {12: [box]}}, parts=3)
    gt["train_videos"][1], gt["test_videos"][1] = videos[1:], videos[:1]
    write(tmp_path / "JHMDB-GT.pkl", gt)
    write(tmp_path / "Frames" / videos[1] / "00001.png")
    first, second = (data.read_jhmdb_21(tmp_path, "test", part) for part in (1, 2))
    assert rows(first)[0] == (videos[1], 0, "shoot ball")
    assert rows(second)[0] == (videos[0], 0, "brush hair")
    assert first.files == [str(tmp_path / "Frames" / videos[1])]
    assert data.read_jhmdb_21(tmp_path, "test", 0).videos == videos[::-1]
    with pytest.raises(ValueError, match="split 4 of 3"):
        data.read_jhmdb_21(tmp_path, "test", 4)


def test_what_is_missing_is_named_with_its_source(tmp_path):
    for read, says in (
            (data.read_ucf101_24, "UCF101v2-GT.pkl or pyannot.pkl is not under .*MOC-Detector"),
            (data.read_jhmdb_21, "JHMDB-GT.pkl is not under .*MOC-Detector"),
            (read_ava, "ava_train_v2.2.csv or ava_train_v2.1.csv is not under .*google.com/ava"),
            (data.read_hcstvg, "train.*json is not under .*HC-STVG"),
            (lambda root: data.read_vidstg(root, root), "train_annotations.json is not .*VidSTG-")):
        with pytest.raises(FileNotFoundError, match=says):
            read(tmp_path)
    write(tmp_path / "train_annotations.json", [])
    with pytest.raises(FileNotFoundError, match="no VidOR annotation .*xdshang"):
        data.read_vidstg(tmp_path, tmp_path)
    with pytest.raises(ValueError, match="split 'test' is not one of train, val"):
        read_ava(tmp_path, "test")


# ---------------------------------------------------------------- AVA

@needs_samples
def test_real_ava_rows_of_7_columns_without_padding(tmp_path):
    csv = (SAMPLES / "ava" / "ava_val_v2.1_pose_only_first2000.csv").read_text()
    excluded = "_7oWZq_s_Sk,1636\n_7oWZq_s_Sk,0950\n"
    table = read_ava(ava_folder(tmp_path, "val", "2.1", csv, excluded), "val")
    assert table.texts == AVA_60 and table.ids == AVA_IDS
    assert set(table.unit) == {"second"} and table.person is None and not table.faults
    slow = set()
    for line in csv.splitlines():
        movie, second, *box, action = line.split(",")
        if int(action) in AVA_IDS and (movie, int(second)) != ("_7oWZq_s_Sk", 1636):
            name, box = AVA_80[int(action) - 1], tuple(np.float32(box).tolist())
            slow.add((movie, float(second), name, box))
    assert {(*row[:3], tuple(row[3])) for row in rows(table, "box") if row[2]} == slow
    # every second but the excluded, with or without people
    assert len(table.keyframe_starts()) - 1 == 2 * 897 - 2


@needs_samples
def test_whole_pose_ground_truth_of_ava_val_has_every_keyframe_once(tmp_path):
    csv = gzip.decompress((SAMPLES / "eval" / "ava_val_pose_gt.csv.gz").read_bytes()).decode()
    excluded = (SAMPLES / "ava" / "ava_val_excluded_timestamps_v2.2.csv").read_text()
    table = read_ava(ava_folder(tmp_path, "val", "2.2", csv, excluded), "val")
    assert len(table.videos) == 64 and len(table.keyframe_starts()) - 1 == 64 * 897 - 37
    out = {tuple(line.split(",")) for line in excluded.split()}
    cells = [line.split(",") for line in set(csv.splitlines())]
    kept = sum(int(row[6]) in AVA_IDS and (row[0], row[1].zfill(4)) not in out for row in cells)
    dropped = sum("dropped" in fault and "twice" not in fault for fault in table.faults)
    assert (table.text >= 0).sum() + dropped == kept


@needs_samples
def test_mmaction2s_samples_of_ava_and_its_dense_proposals(tmp_path):
    sample = SAMPLES / "ava_mmaction2"
    csv = (sample / "ava_sample.csv").read_text()
    excluded = (sample / "ava_excluded_timestamps_sample.csv").read_text()
    train = read_ava(ava_folder(tmp_path, "train", "2.2", csv, excluded))    # 903, -Z..: excluded
    assert rows(train, "person") == [("0f39OWEqJ24", 902.0, AVA_80[i - 1], 0) for i in (12, 17, 79)]
    own = read_ava(tmp_path, label_map=sample / "action_list.txt")
    assert own.texts == ["action1", "action2", "action3", "action3 (80)"]
    assert own.ids == [12, 17, 79, 80]
    assert [row[2] for row in rows(own)] == ["action1", "action2", "action3"]
    table = read_ava(ava_folder(tmp_path / "all", "train", "2.2", csv))
    found = read_proposals(sample / "ava_proposals_sample.pkl", table, 0.9)
    assert [(table.videos[v], k) for v, k in zip(found.video, found.keyframe)] == [
        ("0f39OWEqJ24", 902), ("0f39OWEqJ24", 903), ("_-Z6wFjXtGQ", 902), ("_-Z6wFjXtGQ", 902)]
    assert found.score == pytest.approx([0.998163, 0.997048, 0.996238, 0.994488])
    assert found.box[0] == pytest.approx([0.011, 0.157, 0.655, 0.983])


def test_ava_reads_rows_of_2_columns_and_says_what_it_drops(tmp_path):
    key = "-5KQ66BBWC4"
    csv = "".join(f"{key},{row}\n" for row in (
        "0902,0.1,0.1,0.5,0.5,12,0", "0903",
        "0904,0.1,0.1,0.5,0.5,2,0",                            # crawl: not evaluated
        "0905,0.5,0.1,0.5,0.5,12,0", "0905,-0.01,0.1,0.5,1.02,12,1", "0906,0.1,0.1,0.5,0.5,81,0",
        "2000,0.1,0.1,0.5,0.5,12,0", "0902,0.100,0.1,0.5,0.5,12,0", "902.5,0,0.1,0.5,0.5,12,0"))
    ava_folder(tmp_path, "train", "2.1", csv)
    ava_folder(tmp_path, "val", "2.1", csv, f"{key},0906", "0902\n0903\n0904\n0905\n0906\n")
    val, train = read_ava(tmp_path, "val"), read_ava(tmp_path, "train", version="2.1")
    assert rows(val, "person") == [(key, 902.0, "stand", 0), (key, 903.0, None, -1),
                                   (key, 904.0, None, -1), (key, 905.0, "stand", 1)]
    assert val.box[3] == pytest.approx([0, 0.1, 0.5, 1])
    assert rows(train) == [(key, 902.0, "stand"), (key, 905.0, "stand")]
    assert sorted(val.faults) == [f"ava_val_v2.1.csv:{fault}, dropped" for fault in (
        "4: the box is outside the picture or empty", "6: the action id is not in the label map",
        "7: not an annotated second (902-906)", "8: the row is there twice",
        "9: not an annotated second (902-906)")]
    everything = read_ava(tmp_path, "train", all_classes=True)
    assert everything.ids == list(range(1, 81)) and (key, 904.0, "crawl") in rows(everything)
    ava_folder(tmp_path, "val", "2.1", csv, f"{key},0006\nother,0902\n")
    assert ("ava_val_excluded_timestamps_v2.1.csv: names no annotated second of ava_val_v2.1.csv"
            in read_ava(tmp_path, "val").faults)


# ---------------------------------------------------------------- proposals

def test_proposals_csv_matches_keyframes_and_drops_repeats(tmp_path):
    table = make([(0, 902, BOX, 0), (0, 904, BOX, 1), (1, 902, BOX, 0)])
    path = write(tmp_path / "p.csv", "v0,0902,0.1,0.1,0.5,0.5,,0.6\n"
                 "v0,0902,0.2,0.2,0.5,1.001,12,0.9\n"          # LFB's file: one row a label
                 "v0,0902,0.2,0.2,0.5,1.001,17,0.9\n"
                 "v0,0903,0.1,0.1,0.5,0.5,,0.9\n"              # not a keyframe of the table
                 "v1,902,0.1,0.1,0.5,0.5,-1,0.2\n"
                 "v7,0902,0.1,0.1,0.5,0.5,,0.9\n")
    found = read_proposals(path, table, min_score=0.3)
    assert found.video.tolist() == [0, 0] and found.keyframe.tolist() == [902, 902]
    assert found.score == pytest.approx([0.9, 0.6])            # best first
    assert found.box[0] == pytest.approx([0.2, 0.2, 0.5, 1])
    assert read_proposals(path, table).score == pytest.approx([0.9, 0.6, 0.2])


def test_proposals_of_frame_sets_count_from_one_and_survive_a_round_trip(tmp_path):
    table = make([(0, 0, BOX, 0), (1, 7, BOX, 0)], unit="frame")
    path = write(tmp_path / "p.csv", "".join(f"{key},0.1,0.1,0.5,0.5,,0.5\n"
                                             for key in ("v0,1", "v1,8", "v1,7")))
    found = read_proposals(path, table)
    assert list(zip(found.video.tolist(), found.keyframe.tolist())) == [(0, 0), (1, 7)]
    write_proposals(tmp_path / "q.csv", table, found)
    second = (tmp_path / "q.csv").read_text().splitlines()[1]
    assert second == "v1,8,0.10000,0.10000,0.50000,0.50000,,0.500000"
    again = read_proposals(tmp_path / "q.csv", table)
    assert again.keyframe.tolist() == [0, 7] and again.box == pytest.approx(found.box)


def test_openmixer_and_act_pickles_are_read_as_proposals(tmp_path):
    table = make([(0, 0, BOX, 0), (1, 1, BOX, 0)], unit="frame", size=np.int32([[320, 240]] * 2))
    openmixer = {"v0": {"boxes": {1: np.array([BOX])}, "scores": {1: np.array([0.7])}},
                 "v1": {"boxes": {2: np.array([[0, 0, 320, 240.0]])},        # stands for none
                        "scores": {2: np.array([0.0])}}}
    found = read_proposals(write(tmp_path / "o.pkl", openmixer), table)
    assert found.video.tolist() == [0] and found.score == pytest.approx([0.7])
    act = np.array([[1, 2, 0, 0.8, 32, 24, 160, 120], [0, 1, 3, 0.9, 0, 0, 320, 240]], np.float32)
    found = read_proposals(write(tmp_path / "act.pkl", act), table)
    assert found.video.tolist() == [0, 1] and found.keyframe.tolist() == [0, 1]
    assert found.box[1] == pytest.approx([0.1, 0.1, 0.5, 0.5])


def test_added_proposals_take_all_labels_of_the_box_they_overlap_most_by_half_or_more():
    rng = np.random.default_rng(0)
    low = rng.uniform(0, 0.5, (100, 2))
    boxes = np.hstack([low, low + rng.uniform(0.1, 0.5, (100, 2))]).astype(np.float32)
    people = [(int(rng.integers(2)), int(rng.integers(4)), box) for box in boxes[:40]]
    table = make([(*person, text) for person in people
                  for text in rng.permutation(2)[:rng.integers(3)]] + [(0, 0, boxes[0], -1)],
                 unit="frame")
    table.person = np.arange(len(table), dtype=np.int32) // 2
    video, keyframe = (rng.integers(0, high, 60).astype(np.int32) for high in (2, 4))
    found = Detections(video, keyframe, boxes[40:], np.ones(60, np.float32))

    def as_tuples(table):
        names = ("video", "keyframe", "box", "text", "person")
        columns = zip(*(getattr(table, name).tolist() for name in names))
        return [(v, k, tuple(box), text, person) for v, k, box, text, person in columns]

    truth = as_tuples(table)
    slow = collections.Counter(truth)
    for v, k, box in zip(video.tolist(), keyframe.tolist(), found.box.tolist()):
        (x1, y1, x2, y2), best, like = box, 0.5, None
        for row in truth:
            if row[:2] == (v, k) and row[3] >= 0:
                a1, b1, a2, b2 = row[2]
                inner = max(0, min(x2, a2) - max(x1, a1)) * max(0, min(y2, b2) - max(y1, b1))
                iou = inner / ((x2 - x1) * (y2 - y1) + (a2 - a1) * (b2 - b1) - inner)
                best, like = (iou, row[2]) if iou >= best else (best, like)
        labels = [row[3:] for row in truth if (*row[:3],) == (v, k, like) and row[3] >= 0]
        slow.update((v, k, tuple(box), *label) for label in labels or [(-1, -1)])
    both = add_proposals(table, found)
    assert collections.Counter(as_tuples(both)) == slow
    assert (np.diff(both.video) >= 0).all() and len(both) > len(table) + 60
    nothing = Detections(*(x[:0] for x in (video, keyframe, found.box, found.score)))
    assert rows(add_proposals(table, nothing)) == rows(table)


# ---------------------------------------------------------------- HC-STVG

def test_hcstvg_cuts_a_tube_into_equal_parts_in_the_order_of_its_sentences(tmp_path):
    write(tmp_path / "anno_v2" / "train_v2.json", hcstvg_entries())
    write(tmp_path / "train.json", {})                         # v1 beside it: the newer is taken
    write(tmp_path / "video" / "7" / "55_vfjywN5CN0Y.mp4")
    write(tmp_path / "v2_video" / "10__Gvp-cj3bmIY.mp4")       # another suffix than the key's
    table = data.read_hcstvg(tmp_path)
    first, second = "55_vfjywN5CN0Y.mp4", "10__Gvp-cj3bmIY.mkv"
    assert rows(table) == [*((first, i, "The man walks in") for i in (0, 1, 2)),
                           *((first, i, "The man sits down") for i in (3, 4)),
                           (second, 40, "A boy runs")]
    assert table.box[[0, 5]] == pytest.approx(np.array([[0.1, 0.1, 0.3, 0.3], [0, 0, 1, 1]]))
    assert [Path(file).parent.name for file in table.files] == ["7", "v2_video"]
    assert table.descriptions == 2 and table.faults == [
        f"train_v2.json: {second}: 1 of 2 boxes outside the picture or empty, dropped; 1 sentences"]
    assert len(data.read_hcstvg(tmp_path, version=1)) == 0
    write(tmp_path / "b" / "trainv2.json", hcstvg_entries())
    write(tmp_path / "c" / "annos" / "hcstvg_v1" / "test.json", hcstvg_entries())
    assert len(data.read_hcstvg(tmp_path / "b")) == 6
    write(tmp_path / "c" / "valv2.json", hcstvg_entries())      # "all" is of v2, not of both
    write(tmp_path / "c" / "train.json", hcstvg_entries())
    with pytest.raises(FileNotFoundError, match="v2.* is not under"):
        data.read_hcstvg(tmp_path / "c", "all")
    write(tmp_path / "b" / "trainv2 (1).json", {})
    with pytest.raises(ValueError, match="trainv2 .1..json and .*trainv2.json: which of them"):
        data.read_hcstvg(tmp_path / "b")
    assert len(data.read_hcstvg(tmp_path / "c", "test")) == 6
    val = write(tmp_path / "ava_val_v2.2.csv", "_Gvp-cj3bmIY,0902,0.1,0.1,0.5,0.5,12,0\nxxxxxxxx\n")
    assert {row[0] for row in rows(exclude_videos(table, read_list(val)))} == {first}


def test_hcstvg_names_entries_whose_boxes_and_times_do_not_agree(tmp_path):
    entries = hcstvg_entries()
    # 7 frames at 25 a second, 5 boxes; and two boxes from frame 41 on
    entries["55_vfjywN5CN0Y.mp4"]["ed_time"], entries["10__Gvp-cj3bmIY.mkv"]["img_num"] = 0.28, 41
    table = data.read_hcstvg(write(tmp_path / "train.json", entries).parent)
    assert table.faults[0] == ("train.json: 55_vfjywN5CN0Y.mp4: 5 boxes, but its times span 7 "
                               "frames; kept")
    assert "train.json: 10__Gvp-cj3bmIY.mkv: boxes to frame 42 of 41; kept" in table.faults
    assert len(table) == 6


def test_all_splits_of_an_alignment_set_come_as_one_table(tmp_path):
    for split in ("train", "val"):
        write(tmp_path / "hc" / f"{split}v2.json",
              {f"{split}_{k}": v for k, v in hcstvg_entries().items()})
    both = data.read_hcstvg(tmp_path / "hc", "all")
    assert len(both) == 12 and len(both.videos) == 4 and len(both.texts) == 3
    for i, split in enumerate(("train", "val", "test")):
        entry = vidstg_entry("123", "ride", 0, i, i + 1, f"text {i}")
        write(tmp_path / "vs" / f"{split}_annotations.json", [entry])
    vidor(tmp_path / "vidor", "123", {0: {f: (0, 0, 320, 180) for f in range(3)}}, 3)
    whole = data.read_vidstg(tmp_path / "vs", tmp_path / "vidor", "all")
    assert rows(whole) == [("123", i, f"text {i}") for i in range(3)]


# ---------------------------------------------------------------- VidSTG and VidOR

@needs_samples
def test_real_vidstg_captions_of_people_and_actions_join_vidors_boxes_frame_by_frame(tmp_path):
    shutil.copyfile(SAMPLES / "vidstg" / "val_annotations_first300.json",
                    tmp_path / "val_annotations.json")
    entries = json.loads((tmp_path / "val_annotations.json").read_text())
    samples = vidstg_samples(entries)
    spatial = "above towards behind away beneath next_to in_front_of inside".split()
    slow = [(re.sub(r"\s+", " ", c["description"]), e["vid"], c["target_id"]) for e in entries
            for c in e["captions"]
            if c["type"] == "person" and e["used_relation"]["predicate"] not in spatial]
    assert [sample[:3] for sample in samples] == slow and 0 < len(slow) < 237     # about people

    # five frames of each sample have a box, 10 pixels further right for each tid, 1 lower a frame
    tracks = collections.defaultdict(lambda: collections.defaultdict(dict))
    for _, video, tid, begin, end in samples:
        for f in range(begin, min(end, begin + 5)):
            tracks[video][tid][f] = (10 * tid, f % 100, 10 * tid + 64, f % 100 + 36)
    for video, of_video in tracks.items():
        frames = 1 + max(f for track in of_video.values() for f in track)
        vidor(tmp_path / "vidor", video, of_video, frames)
    write(tmp_path / "vidor" / "video" / "0001" / f"{samples[0][1]}.mp4")
    table = data.read_vidstg(tmp_path, tmp_path / "vidor", "val")
    slow, partial = collections.Counter(), 0
    for sentence, video, tid, begin, end in samples:
        there = set(range(begin, end)) & set(tracks[video][tid])
        partial += len(there) < end - begin
        for frame in there:
            x1, y1, x2, y2 = tracks[video][tid][frame]
            slow[video, frame, sentence, round(x1 / 640, 5), round(y2 / 360, 5)] += 1
    assert collections.Counter((*row[:3], round(row[3][0], 5), round(row[3][3], 5))
                               for row in rows(table, "box")) == slow
    assert set(table.unit) == {"frame"} and len(table.faults) == partial
    assert table.files[table.videos.index(samples[0][1])].endswith(f"0001/{samples[0][1]}.mp4")


def test_vidstg_skips_absent_boxes_and_videos_and_says_so(tmp_path):
    write(tmp_path / "train_annotations.json", [
        vidstg_entry("123", "ride", 0, 2, 6), vidstg_entry("123", "behind", 0, 0, 9),
        vidstg_entry("123", "ride", 1, 0, 9), vidstg_entry("77", "ride", 0, 0, 3),
        vidstg_entry("9", "ride", 0, 0, 3)])
    track = {2: (0, 0, 320, 180), 3: (5, 5, 5, 9), 5: (64, 36, 640, 360)}
    vidor(tmp_path / "vidor", "123", {0: track, 1: {2: (0, 0, 1, 1)}}, 10)
    write(tmp_path / "vidor" / "training" / "0002" / "9.json", '{"width": 640,')
    table = data.read_vidstg(tmp_path, tmp_path / "vidor")
    assert rows(table) == [("123", 2, "a child rides a bike."), ("123", 5, "a child rides a bike.")]
    assert table.box.tolist() == [[0, 0, 0.5, 0.5], pytest.approx([0.1, 0.1, 1, 1])]
    assert table.faults[:2] == ["train_annotations.json: video 77: no VidOR annotation",
                                "123.json: object 0, frames 2 to 5: 1 without a box, "
                                "1 boxes outside the picture or empty, left out"]
    assert "9.json:1: not JSON" in table.faults[2]


def test_vidor_files_are_parsed_in_parallel_to_the_same_table(tmp_path):
    write(tmp_path / "train_annotations.json",
          [vidstg_entry(str(i), "ride", 0, 0, 2, f"text {i % 3}") for i in range(40)])
    for i in range(40):
        vidor(tmp_path / "vidor", str(i), {0: {0: (i, 0, 320, 180), 1: (i, 0, 320, 180)}}, 2)
    table = data.read_vidstg(tmp_path, tmp_path / "vidor")
    assert rows(table) == [(str(i), f, f"text {i % 3}") for i in range(40) for f in range(2)]
    assert np.round(table.box[::2, 0] * 640).tolist() == list(range(40))


# ---------------------------------------------------------------- boxes are where people are

def assert_boxes_hold_the_square(table: data.Annotations, count: int):
    """Every box is white inside and black around, on the frame that the loader shows."""
    clips = data.ClipDataset(table, frames=1, stride=1, short_side=H, patch=1)
    seen = 0
    for index in range(len(clips)):
        boxes, _ = clips.boxes_and_labels(index)
        if len(boxes):
            image = clips[index]["video"][0].float().mean(0).numpy()
            x1, y1, x2, y2 = np.round(boxes[0] * [W, H, W, H]).astype(int)
            inside = image[y1:y2, x1:x2]
            around = (image.sum() - inside.sum()) / (image.size - inside.size)
            assert inside.mean() > 240 and around < 8, (clips.name(index), inside.mean(), around)
            seen += 1
    assert seen == count


@pytest.mark.parametrize("video", ["rgb-images/Biking/v_Biking_g01_c01",
                                   "UCF-101/Biking/v_Biking_g01_c01.avi"])
def test_ucf_boxes_of_both_annotations_lie_on_the_person(tmp_path, video):
    key, act, gurkirt = "Biking/v_Biking_g01_c01", tmp_path / "act", tmp_path / "gurkirt"
    for root in (act, gurkirt):
        render(root / video, 12)
    tube = np.array([(i + 1, *square(i)) for i in range(3, 9)], np.float32)
    write(act / "UCF101v2-GT.pkl", act_pickle(["Biking"], ["Biking/other", key], {key: {0: [tube]}})
          | {"nframes": {key: 12, "Biking/other": 4}})
    boxes = np.hstack([tube[:, 1:3], tube[:, 3:] - tube[:, 1:3]]).astype(np.uint8)
    write(gurkirt / "pyannot.pkl", {key: {"label": 2, "numf": np.uint8(12), "annotations": [
        {"sf": 3, "ef": 9, "label": 2, "boxes": boxes}]}})
    write(gurkirt / "splitfiles" / "testlist01.txt", f"{key}.avi\nBiking/not_annotated\n")
    tables = [data.read_ucf101_24(root, "test") for root in (act, gurkirt)]
    for table in tables:
        assert_boxes_hold_the_square(table, 6)
        assert len(table.keyframe_starts()) - 1 == 12
    assert rows(tables[0], "box", "person") == rows(tables[1], "box", "person")
    assert tables[1].faults == ["testlist01.txt: Biking/not_annotated is not in pyannot.pkl"]
    assert data.read_ucf101_24(gurkirt, "train").faults == tables[1].faults     # it may be misspelt


@pytest.mark.parametrize("video, start", [("videos/-aaaaaaaaaa.mkv", 0),
                                          ("videos_15min/-aaaaaaaaaa.mp4", 900),
                                          ("frames/-aaaaaaaaaa", 900)])
def test_ava_boxes_lie_on_the_person_in_movies_cuts_and_frame_folders(tmp_path, video, start):
    """A file of a quarter of an hour is a cut, a longer one a movie."""
    # AVA's frame folders are 30 fps by definition
    fps, seconds = 30 if video.startswith("frames") else 1, (902, 903, 905)
    if video.startswith("frames"):
        last = sorted(render(tmp_path / video, 6 * fps).iterdir())[-1]
        for i in range(6 * fps, 900 * fps):
            os.link(last, last.with_name(f"-aaaaaaaaaa_{i + 1:06d}.png"))
    else:
        render(tmp_path / video, 901 if start else 1900, fps)
    boxes = [np.array(square((second - start) * fps)) / [W, H, W, H] for second in seconds]
    csv = "".join(f"-aaaaaaaaaa,{second:04d},{','.join(f'{x:.5f}' for x in box)},12,0\n"
                  for second, box in zip(seconds, boxes))
    table = read_ava(ava_folder(tmp_path, "val", "2.2", csv), "val").on_disk()
    assert_boxes_hold_the_square(table.select(slice(0, 5)), 3)


def test_boxes_of_alignment_sets_and_of_a_users_csv_lie_on_the_person(tmp_path):
    write_alignment_sets(tmp_path)
    assert_boxes_hold_the_square(data.read_hcstvg(tmp_path / "hcstvg"), 15)
    vidstg = data.read_vidstg(tmp_path / "vidstg", tmp_path / "vidor")
    assert_boxes_hold_the_square(vidstg, 6)

    render(tmp_path / "a.mp4", 30, fps=10)
    boxes = [(second, np.array(square(round(second * 10))) / [W, H, W, H])
             for second in (0.0, 0.5, 1.2, 2.9)]
    csv = "".join(f"a.mp4,{second},{','.join(f'{x:.5f}' for x in box)},walk\n"
                  for second, box in boxes)
    assert_boxes_hold_the_square(read_csv(write(tmp_path / "a.csv", csv)), 4)
