"""Every reader, on real samples where the development tree has them and on official-layout files written here."""

import argparse
import collections
import gzip
import json
import os
import pickle
import re
import shutil
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

import check_data
import data
from data import AVA_60, read_ava, read_csv  # noqa: E402
from check_data import samples_of  # noqa: E402
from formats.ava import AVA_80, AVA_IDS, AVA_TRAIN_COUNTS, AVA_TYPES, ov_ava_novel  # noqa: E402
from formats.files import load_json, load_pickle, read_label_map, read_list  # noqa: E402
from formats.proposals import add_proposals, read_proposals, write_proposals  # noqa: E402
from formats.vidstg import vidstg_samples  # noqa: E402
from table import Detections, ROW_ARRAYS, cached, exclude_videos, make_annotations, merge, sample_fraction  # noqa: E402
from train_align import add_alignment_flags, read_alignment  # noqa: E402

SAMPLES = Path(__file__).resolve().parents[2] / "shared" / "samples"
needs_samples = pytest.mark.skipif(not SAMPLES.is_dir(), reason="the real samples are not distributed")


def write(path: Path, content="") -> Path:
    """A text file, a JSON file (content is a list or dict) or a pickle (by suffix), with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".pkl":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def rows(table: data.Annotations, *columns: str) -> list[tuple]:
    """The table as tuples of readable values: video key, keyframe, text or None, and further columns."""
    return [(table.videos[v], k, table.texts[t] if t >= 0 else None, *more) for v, k, t, *more in zip(
        table.video.tolist(), table.keyframe.tolist(), table.text.tolist(), *(getattr(table, c).tolist() for c in columns))]


def make(rows, videos=2, unit="second", **fields) -> data.Annotations:
    """A table of (video, keyframe, box, text) rows with the classes walk and sit."""
    video, keyframe, box, text = zip(*rows)
    return make_annotations([f"v{i}" for i in range(videos)], ["walk", "sit"], video, keyframe, box, text, unit=unit,
                                 files=["there"] * videos, **fields)


# ---------------------------------------------------------------- classes

def test_class_lists_have_the_official_lengths_and_order():
    assert len(data.UCF101_24) == 24 and data.UCF101_24 == sorted(data.UCF101_24)
    assert len(data.JHMDB_21) == 21 and data.JHMDB_21[9] == "pull up" and data.JHMDB_21[12] == "shoot ball"
    assert len(AVA_80) == len(set(AVA_80)) == 80 and len(AVA_60) == 60
    assert [sum(i in ids for i in AVA_IDS) for ids in AVA_TYPES.values()] == [13, 32, 15]


@needs_samples
@pytest.mark.parametrize("name", ["ava/ava_action_list_v2.1_for_activitynet_2018.pbtxt.txt", "ava_mmaction2/label_map.txt",
                                  "ava/ava_action_list_v2.2_for_activitynet_2019.singleline.pbtxt.txt"])
def test_every_official_label_map_gives_the_60_classes(name):
    assert read_label_map(SAMPLES / name) == dict(zip(AVA_IDS, AVA_60))


@needs_samples
def test_label_maps_of_other_sets_are_read_in_both_styles():
    blocks = read_label_map(SAMPLES / "ava" / "custom_label_block_style.pbtxt")
    assert list(blocks) == list(range(1, 9)) and blocks[6] == "OffNest"
    assert read_label_map(SAMPLES / "ava_mmaction2" / "action_list.txt") == {
        12: "action1", 17: "action2", 79: "action3", 80: "action3 (80)"}


@needs_samples
def test_training_counts_are_the_public_ratios_over_their_denominator():
    ratios = json.loads((SAMPLES / "ava" / "ava_categories_ratio_yowo.json").read_text())
    assert [round(ratios[str(i)] * 332_353) for i in range(1, 81)] == AVA_TRAIN_COUNTS
    assert sum(AVA_TRAIN_COUNTS) == 862_663


def test_novel_classes_of_ava_follow_from_the_counts_one_in_four_of_each_type():
    assert data.OV_AVA_NOVEL == ov_ava_novel()
    novel = []
    for ids, ranks in (((1, 14), [2, 6, 10]), ((15, 63), [2, 6, 10, 14, 18, 22, 26, 30]), ((64, 80), [1, 5, 9, 13])):
        counted = sorted([(AVA_TRAIN_COUNTS[i - 1], AVA_80[i - 1]) for i in AVA_IDS if ids[0] <= i <= ids[1]], reverse=True)
        novel += [counted[rank][1] for rank in ranks]
    assert set(novel) == set(data.OV_AVA_NOVEL) and len(novel) == 15
    assert data.OV_AVA_NOVEL[:3] == ["dance", "fall down", "walk"]


# ---------------------------------------------------------------- the annotations CSV

def test_csv_with_header_people_and_an_empty_keyframe_becomes_the_table(tmp_path):
    write(tmp_path / "videos" / "-a_b.mp4")
    write(tmp_path / "videos" / "c d.mp4")
    path = write(tmp_path / "clips.csv", "video,keyframe,x1,y1,x2,y2,text,person\n"
                 "videos/c d.mp4,2.5,0.1,0.2,0.3,0.4,\"wave, then sit\",7\n"
                 "\n"
                 "videos/-a_b.mp4,1,0,0,1,1,walk,\n"
                 "videos/c d.mp4,1\n"
                 "videos/c d.mp4,2.5,0.1,0.2,0.3,0.4,walk,7\n")
    a = read_csv(path)
    assert a.texts == ["walk", "wave, then sit"]
    assert a.files == [str(tmp_path / video) for video in a.videos]
    assert list(a.unit) == ["second"] * 2 and a.keyframe.dtype == np.float32
    assert rows(a, "person") == [("videos/c d.mp4", 1.0, None, -1), ("videos/c d.mp4", 2.5, "wave, then sit", 7),
                                 ("videos/c d.mp4", 2.5, "walk", 7), ("videos/-a_b.mp4", 1.0, "walk", -1)]
    assert a.box[0].tolist() == [0, 0, 0, 0]
    assert a.box[1] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert a.keyframe_starts().tolist() == [0, 1, 3, 4]
    moved = tmp_path / "elsewhere"
    (tmp_path / "videos").rename(moved)
    assert read_csv(write(tmp_path / "moved.csv", "c d.mp4,0,0,0,1,1,walk\n"), moved).files == [str(moved / "c d.mp4")]


@pytest.mark.parametrize("line, says", [
    ("a.mp4,1,0.1,0.1,0.2,0.2", "6 columns; expected video,keyframe"),
    ("a.mp4,1,0.1,0.1,0.2,x,walk", "'x' is not a number"),
    ("a.mp4,1,0.5,0.1,0.2,0.2,walk", "box 0.5, 0.1, 0.2, 0.2 is not x1 < x2"),
    ("a.mp4,1,0.1,0.1,0.2,1.2,walk", "is outside [0, 1]"),
    ("a.mp4,1,10,10,200,120,walk", "divide pixels by the picture's width"),
    ("a.mp4,1,nan,0.1,0.2,0.2,walk", "x1 is absent or not a finite"),
    ("a.mp4,-1,0.1,0.1,0.2,0.2,walk", "keyframe -1 is not a time in seconds, 0 or more"),
    ("a.mp4,inf,0.1,0.1,0.2,0.2,walk", "keyframe is absent or not a finite"),
    ("a.mp4,1,0.1,0.1,0.2,0.2,", "the box has no text"),
    ("a.mp4,1,0.1,0.1,0.2,0.2,walk,1.5", "person 1.5 is not a whole number"),
    ("b.mp4,1,0.1,0.1,0.2,0.2,walk", "video 'b.mp4' is not in"),
    ("a.mp4,0,0,0,1,1,walk", "the row is there twice"),
])
def test_fault_in_a_users_csv_is_an_error_with_its_line(tmp_path, line, says):
    write(tmp_path / "a.mp4")
    path = write(tmp_path / "bad.csv", f"a.mp4,0,0,0,1,1,walk\n\n{line}\n")
    with pytest.raises(ValueError) as error:
        read_csv(path)
    assert f"{path}:3: " in str(error.value) and says in str(error.value)


def test_csv_that_is_empty_or_not_text_is_named(tmp_path):
    with pytest.raises(ValueError, match="no rows; expected video,keyframe"):
        read_csv(write(tmp_path / "empty.csv", "video,keyframe,x1,y1,x2,y2,text\n"))
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00a,b")
    with pytest.raises(ValueError, match="binary.csv: not a text file in UTF-8"):
        read_csv(tmp_path / "binary.csv")


# ---------------------------------------------------------------- untrusted pickles

def test_pickle_that_would_run_code_is_refused_by_name(tmp_path):
    class Attack:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'pwned'}",)

    for value in (Attack(), {"labels": [Attack()]}):
        with pytest.raises(ValueError, match=r"attack.pkl: holds (posix|nt).system, which is neither"):
            load_pickle(write(tmp_path / "attack.pkl", value))
    assert not (tmp_path / "pwned").exists()
    path = tmp_path / "eval.pkl"
    path.write_bytes(b"c__builtin__\neval\n(S'1'\ntR.")        # Python 2's spelling
    with pytest.raises(ValueError, match="__builtin__.eval"):
        load_pickle(path)


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_and_arrays_survive_the_safe_unpickler(tmp_path, protocol):
    value = {"a": [1, 2.5, "x", None, True], ("k", 1): np.arange(6, dtype=np.uint8).reshape(2, 3), "n": np.uint16(7),
             "f": np.asfortranarray(np.ones((2, 2), np.float32))}
    (tmp_path / "v.pkl").write_bytes(pickle.dumps(value, protocol))
    back = load_pickle(tmp_path / "v.pkl")
    assert back["a"] == value["a"] and back["n"] == 7 and back["n"].dtype == np.uint16
    assert (back["k", 1] == value["k", 1]).all() and (back["f"] == 1).all()


def test_python_2_pickle_of_an_array_is_read(tmp_path):
    # what Python 2's numpy wrote: module numpy.core.multiarray, raw bytes as a latin-1 str
    text = (b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I2\ntcnumpy\ndtype\n"
            b"(S'u1'\nI0\nI1\ntR(I3\nS'|'\nNNNI-1\nI-1\nI0\ntbI00\nS'\\x07\\xff'\ntb.")
    (tmp_path / "two.pkl").write_bytes(text)
    assert load_pickle(tmp_path / "two.pkl").tolist() == [7, 255]


def test_damaged_pickle_and_damaged_json_say_where(tmp_path):
    path = write(tmp_path / "cut.pkl", {"a": list(range(100))})
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ValueError, match="cut.pkl: damaged or not a pickle"):
        load_pickle(path)
    with pytest.raises(ValueError, match=r"cut.json:2: not JSON"):
        load_json(write(tmp_path / "cut.json", '{"a": 1,\n"b": [1, 2'))


# ---------------------------------------------------------------- UCF101-24 and JHMDB-21

@pytest.fixture(scope="module")
def ucf(tmp_path_factory):
    """The real annotation of gurkirt, in a folder where a cache may be written."""
    root = tmp_path_factory.mktemp("ucf")
    for name in ("pyannot.pkl", "testlist01.txt"):
        shutil.copyfile(SAMPLES / "ucf24" / name, root / name)
    return root


@needs_samples
def test_ucf101_24_has_the_official_counts(ucf):
    train, test = data.read_ucf101_24(ucf, "train"), data.read_ucf101_24(ucf, "test")
    assert (len(train.videos), len(test.videos)) == (2284, 910)
    assert not set(train.videos) & set(test.videos)
    for table, tubes in ((train, 3143), (test, 1315)):
        labelled = table.text >= 0
        assert len(set(zip(table.video[labelled].tolist(), table.person[labelled].tolist()))) == tubes
        assert table.texts == data.UCF101_24 and set(table.unit) == {"frame"} and not table.faults
    assert (test.text >= 0).sum() == 170_580 and (train.text >= 0).all()
    assert len(test.keyframe_starts()) - 1 == 159_289          # every frame of every test video
    annotated = {(v, k) for v, k, t in zip(test.video.tolist(), test.keyframe.tolist(), test.text.tolist()) if t >= 0}
    assert len(annotated) == 138_527
    assert np.bincount(test.text[test.text >= 0]).tolist()[:7] == [1323, 1409, 11911, 2232, 1562, 5168, 9564]


@needs_samples
def test_ucf101_24_boxes_are_those_of_a_slow_reading_with_python_integers(ucf):
    found = pickle.loads((ucf / "pyannot.pkl").read_bytes(), encoding="latin1")
    test = data.read_ucf101_24(ucf, "test")
    wrapped, seen = 0, collections.defaultdict(list)
    for v, k, t, p, b in zip(test.video, test.keyframe, test.text, test.person, test.box):
        if t >= 0:
            seen[test.videos[v]].append((int(k), int(t), int(p), *np.round(b * [320, 240, 320, 240]).astype(int).tolist()))
    for video in test.videos:
        slow = []
        for number, tube in enumerate(found[video]["annotations"]):
            for i, (x, y, w, h) in enumerate(tube["boxes"].tolist()):
                slow.append((tube["sf"] + i, tube["label"], number, x, y, x + w, y + h))
                wrapped += tube["boxes"].dtype == np.uint8 and x + w > 255
        assert sorted(seen[video]) == sorted(slow)
    assert wrapped > 10_000                                    # where uint8 sums would have wrapped


@needs_samples
def test_ucf101_24_agrees_with_the_act_annotation_frame_by_frame(ucf):
    act = np.load(SAMPLES / "eval" / "act_ucf24_gt.npz")
    test = data.read_ucf101_24(ucf, "test")
    assert test.videos == act["videos"].tolist()
    labelled = test.text >= 0
    ours = np.column_stack([test.video, test.text, test.keyframe + 1, np.round(test.box * [320, 240, 320, 240])])[labelled]
    tube = np.repeat(np.arange(len(act["tube_video"])), np.diff(act["tube_offset"]))
    theirs = np.column_stack([act["tube_video"][tube], act["tube_label"][tube], act["rows"]])
    assert (np.array(sorted(ours.tolist())) == np.array(sorted(theirs.tolist()))).all()


def act_pickle(labels, videos, gttubes, parts=1):
    return {"labels": labels, "train_videos": [videos[:1]] * parts, "test_videos": [videos[1:]] * parts,
            "nframes": {v: 4 for v in videos}, "resolution": {v: (240, 320) for v in videos}, "gttubes": gttubes}


def test_act_pickle_counts_frames_from_one_and_gives_height_first(tmp_path):
    videos = ["Biking/v_Biking_g08_c01", "Biking/v_Biking_g01_c01", "WalkingWithDog/v_WalkingWithDog_g01_c02"]
    gt = act_pickle(["Biking", "WalkingWithDog"], videos, {
        videos[0]: {0: [np.array([[1, 0, 0, 160, 120]], np.float32)]},
        videos[1]: {0: [np.array([[2, 32, 24, 160, 120], [3, 32, 24, 321, 120]], np.float32),
                        np.array([[3, 0, 0, 320, 240], [5, 0, 0, 320, 240], [4, 320, 0, 322, 240]], np.float32)]},
        videos[2]: {1: [np.array([[1, 0, 0, 320, 240]], np.float32)]}})
    write(tmp_path / "UCF101v2-GT.pkl", gt)
    write(tmp_path / "rgb-images" / videos[1] / "00001.jpg")
    write(tmp_path / "videos" / "WalkingWithDog" / "v_WalkingWithDog_g01_c02.avi")
    test = data.read_ucf101_24(tmp_path, "test")
    assert rows(test, "person") == [
        (videos[1], 0, None, -1), (videos[1], 1, "biking", 0), (videos[1], 2, "biking", 0), (videos[1], 2, "biking", 1),
        (videos[1], 3, None, -1),
        (videos[2], 0, "walking with dog", 0), (videos[2], 1, None, -1), (videos[2], 2, None, -1), (videos[2], 3, None, -1)]
    assert test.box[1] == pytest.approx([0.1, 0.1, 0.5, 0.5])
    assert test.box[2] == pytest.approx([0.1, 0.1, 1, 0.5])    # 321 is cut at the border
    assert test.size.tolist() == [[320, 240], [320, 240]]
    assert test.files == [str(tmp_path / "rgb-images" / videos[1]), str(tmp_path / "videos" / (videos[2] + ".avi"))]
    assert test.faults == [f"UCF101v2-GT.pkl: {videos[1]}: 1 boxes of tube 1 outside the picture or empty, dropped",
                           f"UCF101v2-GT.pkl: {videos[1]}: 1 boxes of tube 1 outside frames 1 to 4, dropped"]
    train = data.read_ucf101_24(tmp_path, "train")
    assert rows(train) == [(videos[0], 0, "biking")] and train.files == [""]


def test_jhmdb_has_three_splits_and_names_with_any_character(tmp_path):
    videos = ["brush_hair/Trannydude___OhNOES!__those_knots!_brush_hair_u_nm_np1_fr_goo_2", "shoot_ball/a.b_shoot_ball_1"]
    labels = [name.replace("pull up", "pullup").replace(" ", "_") for name in data.JHMDB_21]
    box = np.array([[1, 0, 0, 160, 120]], np.float32)
    gt = act_pickle(labels, videos, {videos[0]: {0: [box]}, videos[1]: {12: [box]}}, parts=3)
    gt["test_videos"][1] = videos[:1]
    write(tmp_path / "JHMDB-GT.pkl", gt)
    write(tmp_path / "Frames" / videos[0] / "00001.png")
    write(tmp_path / "Frames" / videos[1] / "00001.png")
    first, second = (data.read_jhmdb_21(tmp_path, "test", part) for part in (1, 2))
    assert rows(first)[0] == (videos[1], 0, "shoot ball") and rows(second)[0] == (videos[0], 0, "brush hair")
    assert first.files == [str(tmp_path / "Frames" / videos[1])]
    with pytest.raises(ValueError, match="split 4 of 3"):
        data.read_jhmdb_21(tmp_path, "test", 4)


@needs_samples
def test_jhmdb_boxes_of_real_clips_come_back_in_pixels(tmp_path):
    gttubes, videos = {}, []
    for line in (SAMPLES / "jhmdb" / "jhmdb_test_boxes_21clips.tsv").read_text().splitlines()[1:]:
        name, values = line.split("\t")
        clip, frame = name[:-4].rsplit("_", 1)
        label, *box = map(int, values.split())
        video = f"{data.JHMDB_21[label - 1].replace(' ', '_')}/{clip}"
        gttubes.setdefault(video, {label - 1: [[]]})[label - 1][0].append([int(frame), *box])
    videos = ["none", *gttubes]
    gttubes = {v: {k: [np.array(t[0], np.float32)] for k, t in tubes.items()} for v, tubes in gttubes.items()}
    gt = act_pickle([name.replace(" ", "_") for name in data.JHMDB_21], videos, gttubes)
    gt["nframes"] = {v: max((int(t[0][:, 0].max()) for t in gttubes.get(v, {}).values()), default=1) for v in videos}
    write(tmp_path / "JHMDB-GT.pkl", gt)
    test = data.read_jhmdb_21(tmp_path, "test")
    assert len(test.videos) == 21 and len(test) == 741 and (np.bincount(test.text) > 0).sum() == 21
    whole = np.concatenate([t[0][:, 1:] for v in test.videos for t in gttubes[v].values()])
    assert np.round(test.box * [320, 240, 320, 240]).tolist() == whole.tolist()


def test_act_pickle_of_other_classes_or_keys_is_refused(tmp_path):
    gt = act_pickle(["Biking", "Knitting"], ["a/b", "a/c"], {})
    with pytest.raises(ValueError, match="unknown class 'Knitting'; expected .*biking"):
        data.read_ucf101_24(write(tmp_path / "a" / "UCF101v2-GT.pkl", gt).parent)
    with pytest.raises(ValueError, match="not ACT's ground truth: gttubes missing"):
        data.read_ucf101_24(write(tmp_path / "b" / "UCF101v2-GT.pkl", {k: v for k, v in gt.items() if k != "gttubes"}).parent)


def test_what_is_missing_is_named_with_its_source(tmp_path):
    for read, says in ((data.read_ucf101_24, "UCF101v2-GT.pkl or pyannot.pkl is not under .*MOC-Detector"),
                       (data.read_jhmdb_21, "JHMDB-GT.pkl is not under .*MOC-Detector"),
                       (read_ava, "ava_train_v2.2.csv or ava_train_v2.1.csv is not under .*research.google.com/ava"),
                       (data.read_hcstvg, "train.*json is not under .*HC-STVG"),
                       (lambda root: data.read_vidstg(root, root), "train_annotations.json is not under .*VidSTG-Dataset")):
        with pytest.raises(FileNotFoundError, match=says):
            read(tmp_path)
    write(tmp_path / "train_annotations.json", [])
    with pytest.raises(FileNotFoundError, match="no VidOR annotation .*xdshang"):
        data.read_vidstg(tmp_path, tmp_path)
    with pytest.raises(ValueError, match="split 'dev' is not one of train, test"):
        data.read_jhmdb_21(tmp_path, "dev")


# ---------------------------------------------------------------- AVA

def ava_folder(root: Path, split: str, version: str, csv: str, excluded: str = "", included: str = "") -> Path:
    write(root / "annotations" / f"ava_{split}_v{version}.csv", csv)
    write(root / "annotations" / f"ava_{split}_excluded_timestamps_v{version}.csv", excluded)
    if included:
        write(root / "annotations" / f"ava_included_timestamps_v{version}.txt", included)
    return root


@needs_samples
def test_real_ava_rows_of_7_columns_without_padding(tmp_path):
    csv = (SAMPLES / "ava" / "ava_val_v2.1_pose_only_first2000.csv").read_text()
    excluded = "_7oWZq_s_Sk,1636\n_7oWZq_s_Sk,0950\n"
    table = read_ava(ava_folder(tmp_path, "val", "2.1", csv, excluded), "val")
    assert table.texts == AVA_60 and table.ids == AVA_IDS and set(table.unit) == {"second"} and table.person is None
    slow = set()
    for line in csv.splitlines():
        movie, second, *box, action = line.split(",")
        if int(action) in AVA_IDS and (movie, int(second)) != ("_7oWZq_s_Sk", 1636):
            slow.add((movie, float(second), AVA_80[int(action) - 1], tuple(np.float32(box).tolist())))
    assert {(*row[:3], tuple(row[3])) for row in rows(table, "box") if row[2]} == slow
    assert len(table.keyframe_starts()) - 1 == 2 * 897 - 2     # every second but the excluded, with or without people
    assert not table.faults


@needs_samples
def test_whole_pose_ground_truth_of_ava_val_has_every_keyframe_once(tmp_path):
    with gzip.open(SAMPLES / "eval" / "ava_val_pose_gt.csv.gz", "rt") as file:
        csv = file.read()
    excluded = (SAMPLES / "ava" / "ava_val_excluded_timestamps_v2.2.csv").read_text()
    table = read_ava(ava_folder(tmp_path, "val", "2.2", csv, excluded), "val")
    assert len(table.videos) == 64 and len(table.keyframe_starts()) - 1 == 64 * 897 - 37
    out = {tuple(line.split(",")) for line in excluded.split()}
    lines = {line for line in csv.splitlines()}
    kept = [line for line in lines if int(line.split(",")[6]) in AVA_IDS
            and (line.split(",")[0], line.split(",")[1].zfill(4)) not in out]
    dropped = sum("dropped" in fault for fault in table.faults)
    assert (table.text >= 0).sum() + dropped == len(kept) + sum("twice" in fault for fault in table.faults)


@needs_samples
def test_mmaction2s_ava_sample_keeps_several_labels_a_person(tmp_path):
    csv = (SAMPLES / "ava_mmaction2" / "ava_sample.csv").read_text()
    excluded = (SAMPLES / "ava_mmaction2" / "ava_excluded_timestamps_sample.csv").read_text()
    train = read_ava(ava_folder(tmp_path, "train", "2.2", csv, excluded))
    assert rows(train, "person") == [("0f39OWEqJ24", 902.0, AVA_80[i - 1], 0) for i in (12, 17, 79)]  # 903, -Z..: excluded
    assert len(np.unique(train.box, axis=0)) == 1
    own = read_ava(tmp_path, label_map=SAMPLES / "ava_mmaction2" / "action_list.txt")
    assert own.texts == ["action1", "action2", "action3", "action3 (80)"] and own.ids == [12, 17, 79, 80]
    assert [row[2] for row in rows(own)] == ["action1", "action2", "action3"]


def test_ava_reads_rows_of_2_columns_and_says_what_it_drops(tmp_path):
    csv = ("-5KQ66BBWC4,0902,0.1,0.1,0.5,0.5,12,0\n"
           "-5KQ66BBWC4,0903\n"
           "-5KQ66BBWC4,0904,0.1,0.1,0.5,0.5,2,0\n"            # crawl: a class of AVA, not evaluated
           "-5KQ66BBWC4,0905,0.5,0.1,0.5,0.5,12,0\n"
           "-5KQ66BBWC4,0905,-0.01,0.1,0.5,1.02,12,1\n"
           "-5KQ66BBWC4,0906,0.1,0.1,0.5,0.5,81,0\n"
           "-5KQ66BBWC4,2000,0.1,0.1,0.5,0.5,12,0\n"
           "-5KQ66BBWC4,0902,0.100,0.1,0.5,0.5,12,0\n")
    ava_folder(tmp_path, "train", "2.1", csv)
    root = ava_folder(tmp_path, "val", "2.1", csv, "-5KQ66BBWC4,0906", "0902\n0903\n0904\n0905\n0906\n")
    (tmp_path / "annotations" / "ava_included_timestamps_v2.1.txt").rename(tmp_path / "ava_included_timestamps_v2.1.txt")
    val, train = read_ava(root, "val"), read_ava(root, "train", version="2.1")
    key = "-5KQ66BBWC4"
    assert rows(val, "person") == [(key, 902.0, "stand", 0), (key, 903.0, None, -1), (key, 904.0, None, -1),
                                   (key, 905.0, "stand", 1)]
    assert val.box[3] == pytest.approx([0, 0.1, 0.5, 1])
    assert rows(train) == [(key, 902.0, "stand"), (key, 905.0, "stand")]
    name = "ava_val_v2.1.csv"
    assert sorted(val.faults) == [f"{name}:4: the box is outside the picture or empty, dropped",
                                  f"{name}:6: the action id is not in the label map, dropped",
                                  f"{name}:7: not an annotated second (902-906), dropped",
                                  f"{name}:8: the row is there twice, dropped"]
    everything = read_ava(root, "train", all_classes=True)
    assert len(everything.texts) == 80 and everything.ids == list(range(1, 81)) and "crawl" in [r[2] for r in rows(everything)]


@pytest.mark.parametrize("line, says", [("m,0902,0.1,0.1,0.5", "5 columns; expected video,second"),
                                        ("m,x,0.1,0.1,0.5,0.5,12", "'x' is not a number"), ("m,", "second is absent")])
def test_malformed_row_of_ava_is_an_error_with_its_line(tmp_path, line, says):
    root = ava_folder(tmp_path, "train", "2.2", f"m,0902,0.1,0.1,0.5,0.5,12,0\n{line}\n")
    with pytest.raises(ValueError, match=re.escape("ava_train_v2.2.csv:2: ") + ".*" + re.escape(says)):
        read_ava(root)


def test_ava_finds_movies_cuts_and_frames(tmp_path):
    ids = ["-aaaaaaaaaa", "_bbbbbbbbbb", "cccccccccc-", "dddddddddd_"]
    root = ava_folder(tmp_path, "train", "2.2", "".join(f"{i},0902,0.1,0.1,0.5,0.5,12,0\n" for i in ids))
    write(root / "videos" / "trainval" / f"{ids[0]}.mkv")
    write(root / "videos_15min" / f"{ids[1]}.webm")
    write(root / "frames" / ids[2] / f"{ids[2]}_000001.jpg")
    table = read_ava(root)
    assert [Path(file).name for file in table.files] == [f"{ids[0]}.mkv", f"{ids[1]}.webm", ids[2], ""]
    assert table.ava_clock
    assert table.on_disk().video.tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="split 'test' is not one of train, val"):
        read_ava(root, "test")


# ---------------------------------------------------------------- proposals

BOX, FAR = (0.1, 0.1, 0.5, 0.5), (0.6, 0.6, 0.9, 0.9)


def test_proposals_csv_matches_keyframes_and_drops_repeats(tmp_path):
    table = make([(0, 902, BOX, 0), (0, 904, BOX, 1), (1, 902, BOX, 0)])
    path = write(tmp_path / "p.csv", "v0,0902,0.1,0.1,0.5,0.5,,0.6\n"
                 "v0,0902,0.2,0.2,0.5,1.001,12,0.9\n"           # LFB's training file: one row a label
                 "v0,0902,0.2,0.2,0.5,1.001,17,0.9\n"
                 "v0,0903,0.1,0.1,0.5,0.5,,0.9\n"               # not a keyframe of the table
                 "v1,902,0.1,0.1,0.5,0.5,-1,0.2\n"
                 "v7,0902,0.1,0.1,0.5,0.5,,0.9\n")
    found = read_proposals(path, table, min_score=0.3)
    assert found.video.tolist() == [0, 0] and found.keyframe.tolist() == [902, 902]
    assert found.score == pytest.approx([0.9, 0.6])            # best first
    assert found.box[0] == pytest.approx([0.2, 0.2, 0.5, 1])
    assert read_proposals(path, table).score == pytest.approx([0.9, 0.6, 0.2])


def test_proposals_of_frame_sets_count_from_one_and_survive_a_round_trip(tmp_path):
    table = make([(0, 0, BOX, 0), (1, 7, BOX, 0)], unit="frame")
    found = read_proposals(write(tmp_path / "p.csv", "v0,1,0.1,0.1,0.5,0.5,,0.5\nv1,8,0.1,0.1,0.5,0.5,,0.5\n"
                                                     "v1,7,0.1,0.1,0.5,0.5,,0.5\n"), table)
    assert list(zip(found.video.tolist(), found.keyframe.tolist())) == [(0, 0), (1, 7)]
    write_proposals(tmp_path / "q.csv", table, found)
    assert (tmp_path / "q.csv").read_text().splitlines()[1] == "v1,8,0.10000,0.10000,0.50000,0.50000,,0.500000"
    again = read_proposals(tmp_path / "q.csv", table)
    assert again.keyframe.tolist() == found.keyframe.tolist() and again.box == pytest.approx(found.box)


@needs_samples
def test_mmaction2s_dense_proposals_are_read(tmp_path):
    csv = (SAMPLES / "ava_mmaction2" / "ava_sample.csv").read_text()
    table = read_ava(ava_folder(tmp_path, "train", "2.2", csv))
    found = read_proposals(SAMPLES / "ava_mmaction2" / "ava_proposals_sample.pkl", table, 0.9)
    assert [(table.videos[v], k) for v, k in zip(found.video, found.keyframe)] == [
        ("0f39OWEqJ24", 902), ("0f39OWEqJ24", 903), ("_-Z6wFjXtGQ", 902), ("_-Z6wFjXtGQ", 902)]
    assert found.score == pytest.approx([0.998163, 0.997048, 0.996238, 0.994488])
    assert found.box[0] == pytest.approx([0.011, 0.157, 0.655, 0.983])


@needs_samples
def test_a_result_file_of_another_movie_is_not_taken_for_proposals(tmp_path):
    table = read_ava(ava_folder(tmp_path, "train", "2.2", (SAMPLES / "ava_mmaction2" / "ava_sample.csv").read_text()))
    with pytest.raises(ValueError, match=r"only 0 of its 1 videos are among the 2 of the annotations; it has \['1j20qq1JyX4'\]"):
        read_proposals(SAMPLES / "ava" / "ava_results_sample.csv", table)


def test_openmixer_and_act_pickles_are_read_as_proposals(tmp_path):
    table = make([(0, 0, BOX, 0), (1, 1, BOX, 0)], unit="frame", size=np.array([[320, 240], [320, 240]], np.int32))
    openmixer = {"v0": {"boxes": {1: np.array([BOX])}, "scores": {1: np.array([0.7])}},
                 "v1": {"boxes": {2: np.array([[0, 0, 320, 240.0]])}, "scores": {2: np.array([0.0])}}}   # its stand-in for none
    found = read_proposals(write(tmp_path / "o.pkl", openmixer), table)
    assert found.video.tolist() == [0] and found.score == pytest.approx([0.7])
    act = np.array([[1, 2, 0, 0.8, 32, 24, 160, 120], [0, 1, 3, 0.9, 0, 0, 320, 240]], np.float32)
    found = read_proposals(write(tmp_path / "act.pkl", act), table)
    assert found.video.tolist() == [0, 1] and found.keyframe.tolist() == [0, 1]
    assert found.box[1] == pytest.approx([0.1, 0.1, 0.5, 0.5])
    with pytest.raises(ValueError, match="neither mmaction2's .* nor ACT's"):
        read_proposals(write(tmp_path / "x.pkl", [1, 2]), table)


@pytest.mark.parametrize("line, says", [
    ("v0,902,10,20,100,200,,0.9", r":2: box \[10.0, 20.0, 100.0, 200.0\] looks like pixels"),
    ("v0,902,0.1,0.1,0.5,0.5,12,965", ":2: score 965 is not in .* ground-truth file the last column is a person"),
    ("v0,902,0.1,0.1,0.5,0.5,,", ":2: score is absent"),
    ("v0,902,0.1,0.1,0.5,0.5,0.9", ":2: 7 columns; expected video,keyframe"),
])
def test_fault_in_proposals_is_an_error_with_its_line(tmp_path, line, says):
    path = write(tmp_path / "p.csv", f"v0,902,0.1,0.1,0.5,0.5,,0.9\n{line}\n")
    with pytest.raises(ValueError, match=says):
        read_proposals(path, make([(0, 902, BOX, 0)], videos=1))


def test_added_proposals_take_all_labels_of_the_box_they_overlap_by_half():
    table = make([(0, 902, BOX, 0), (0, 902, BOX, 1), (0, 902, FAR, 1), (1, 902, BOX, 0)])
    table.person = np.array([5, 5, 6, -1], np.int32)
    shifted, quarter, lone = (0.1, 0.1, 0.5, 0.4), (0.1, 0.1, 0.3, 0.3), (0.0, 0.0, 0.05, 0.05)      # IoU 0.75, 0.25, 0
    found = Detections(np.array([0, 0, 0, 1], np.int32), np.full(4, 902, np.float32),
                           np.array([shifted, quarter, FAR, lone], np.float32), np.ones(4, np.float32))
    both = add_proposals(table, found)
    new = [r for r in rows(both, "person", "box") if tuple(np.round(r[4], 3)) not in (BOX,)]
    assert sorted((r[0], r[2] or "", r[3], tuple(np.round(r[4], 3))) for r in new) == sorted([
        ("v0", "walk", 5, shifted), ("v0", "sit", 5, shifted), ("v0", "", -1, quarter), ("v0", "sit", 6, FAR),
        ("v0", "sit", 6, FAR), ("v1", "", -1, lone)])
    assert len(both) == len(table) + 5 and (np.diff(both.video) >= 0).all()
    nothing = Detections(*(x[:0] for x in (found.video, found.keyframe, found.box, found.score)))
    assert rows(add_proposals(table, nothing)) == rows(table)


def test_added_proposals_agree_with_loops_over_boxes():
    rng = np.random.default_rng(0)

    def boxes(n):
        low = rng.uniform(0, 0.5, (n, 2))
        return np.hstack([low, low + rng.uniform(0.1, 0.5, (n, 2))]).astype(np.float32)

    table = make([(int(v), int(k), b, int(t)) for v, k, b, t in zip(
        rng.integers(0, 2, 60), rng.integers(0, 4, 60), boxes(60), rng.integers(-1, 2, 60))], unit="frame")
    video, keyframe = rng.integers(0, 2, 80).astype(np.int32), rng.integers(0, 4, 80).astype(np.int32)
    found = Detections(video, keyframe, boxes(80), np.ones(80, np.float32))
    slow = collections.Counter(zip(table.video.tolist(), table.keyframe.tolist(), table.text.tolist()))
    for v, k, (x1, y1, x2, y2) in zip(video.tolist(), keyframe.tolist(), found.box.tolist()):
        best, label = 0.5, -1
        for row in range(len(table)):
            if (table.video[row], table.keyframe[row]) == (v, k) and table.text[row] >= 0:
                a1, b1, a2, b2 = table.box[row].tolist()
                inner = max(0, min(x2, a2) - max(x1, a1)) * max(0, min(y2, b2) - max(y1, b1))
                iou = inner / ((x2 - x1) * (y2 - y1) + (a2 - a1) * (b2 - b1) - inner)
                if iou >= best:
                    best, label = iou, int(table.text[row])
        slow[v, k, label] += 1
    both = add_proposals(table, found)
    assert collections.Counter(zip(both.video.tolist(), both.keyframe.tolist(), both.text.tolist())) == slow


# ---------------------------------------------------------------- HC-STVG

def hcstvg_entries():
    tube = [[32, 24, 64, 48]] * 5
    return {"55_vfjywN5CN0Y.mp4": {"bbox": tube, "st_frame": 1, "st_time": 0.0, "ed_time": 0.3, "img_num": 500,
                                   "width": 320, "height": 240, "caption": "The man walks in and sits down."},
            "10__Gvp-cj3bmIY.mkv": {"bbox": [[-10, 0, 330, 240], [320, 0, 5, 5]], "st_frame": 41, "st_time": 1.6,
                                    "ed_time": 2, "img_num": 500, "img_size": [240, 320], "English": "A boy runs.",
                                    "Chinese": "..."}}


def test_hcstvg_cuts_a_tube_into_equal_parts_in_the_order_of_its_sentences(tmp_path):
    write(tmp_path / "anno_v2" / "train_v2.json", hcstvg_entries())
    write(tmp_path / "train.json", {})                         # v1 beside it: the newer is taken
    write(tmp_path / "video" / "7" / "55_vfjywN5CN0Y.mp4")
    write(tmp_path / "v2_video" / "10__Gvp-cj3bmIY.mp4")       # another suffix than the key's
    table = data.read_hcstvg(tmp_path)
    first, second = "55_vfjywN5CN0Y.mp4", "10__Gvp-cj3bmIY.mkv"
    assert rows(table) == [(first, 0, "The man walks in"), (first, 1, "The man walks in"), (first, 2, "The man walks in"),
                           (first, 3, "The man sits down"), (first, 4, "The man sits down"), (second, 40, "A boy runs")]
    assert table.box[0] == pytest.approx([0.1, 0.1, 0.3, 0.3])
    assert table.box[5] == pytest.approx([0, 0, 1, 1])
    assert [Path(file).parent.name for file in table.files] == ["7", "v2_video"]
    assert table.faults == [f"train_v2.json: {second}: 1 of 2 boxes outside the picture or empty, dropped; 1 sentences"]
    assert len(data.read_hcstvg(tmp_path, version=1)) == 0
    assert len(data.read_hcstvg(write(tmp_path / "b" / "trainv2.json", hcstvg_entries()).parent)) == 6
    assert len(data.read_hcstvg(write(tmp_path / "c" / "annos" / "hcstvg_v1" / "test.json", hcstvg_entries()).parents[2], "test")) == 6


def test_all_splits_of_an_alignment_set_come_as_one_table(tmp_path):
    for split in ("train", "val"):
        write(tmp_path / "hc" / f"{split}v2.json", {f"{split}_{k}": v for k, v in hcstvg_entries().items()})
    both = data.read_hcstvg(tmp_path / "hc", "all")
    assert len(both) == 12 and len(both.videos) == 4 and len(both.texts) == 3
    for i, split in enumerate(("train", "val", "test")):
        write(tmp_path / "vs" / f"{split}_annotations.json", [vidstg_entry("123", "ride", 0, i, i + 1, f"text {i}")])
    vidor(tmp_path / "vidor", "123", {0: {f: (0, 0, 320, 180) for f in range(3)}}, 3)
    whole = data.read_vidstg(tmp_path / "vs", tmp_path / "vidor", "all")
    assert rows(whole) == [("123", i, f"text {i}") for i in range(3)]


def test_hcstvg_entry_without_boxes_is_named(tmp_path):
    entries = hcstvg_entries()
    del entries["55_vfjywN5CN0Y.mp4"]["bbox"]
    with pytest.raises(ValueError, match=r"train.json: clip 55_vfjywN5CN0Y.mp4: has no bbox"):
        data.read_hcstvg(write(tmp_path / "train.json", entries).parent)
    with pytest.raises(ValueError, match="train.json is a list; expected HC-STVG's one object"):
        data.read_hcstvg(write(tmp_path / "train.json", [1]).parent)


def test_clips_of_listed_movies_are_left_out(tmp_path):
    table = data.read_hcstvg(write(tmp_path / "train.json", hcstvg_entries()).parent)
    val = write(tmp_path / "ava_val_v2.2.csv", "_Gvp-cj3bmIY,0902,0.1,0.1,0.5,0.5,12,0\n_Gvp-cj3bmIY,0903\nxxxxxxxxxxx,0902\n")
    kept = exclude_videos(table, read_list(val))
    assert {row[0] for row in rows(kept)} == {"55_vfjywN5CN0Y.mp4"} and len(kept) == 5


# ---------------------------------------------------------------- VidSTG and VidOR

@needs_samples
def test_real_vidstg_captions_are_chosen_by_person_and_action():
    entries = json.loads((SAMPLES / "vidstg" / "val_annotations_first300.json").read_text())
    samples = vidstg_samples(entries)
    spatial = "above towards behind away beneath next_to in_front_of inside".split()
    slow = [(re.sub(r"\s+", " ", c["description"]), e["vid"], c["target_id"]) for e in entries for c in e["captions"]
            if c["type"] == "person" and e["used_relation"]["predicate"] not in spatial]
    assert [sample[:3] for sample in samples] == slow and 0 < len(slow) < 237      # of 237 captions about people
    assert all(begin < end for *_, begin, end in samples)


def vidor(root: Path, video: str, tracks: dict, frames: int, size=(640, 360), group="0001") -> Path:
    """A VidOR file with tracks[tid] = {frame: (xmin, ymin, xmax, ymax)}."""
    items = [[{"tid": tid, "bbox": dict(zip(("xmin", "ymin", "xmax", "ymax"), track[frame])), "generated": 0, "tracker": "none"}
              for tid, track in tracks.items() if frame in track] for frame in range(frames)]
    return write(root / "annotation" / "training" / group / f"{video}.json", {
        "version": "VERSION 1.0", "video_id": video, "video_path": f"{group}/{video}.mp4", "frame_count": frames, "fps": 25.0,
        "width": size[0], "height": size[1], "subject/objects": [], "trajectories": items, "relation_instances": []})


@needs_samples
def test_real_vidstg_entries_join_vidors_boxes_frame_by_frame(tmp_path):
    shutil.copyfile(SAMPLES / "vidstg" / "val_annotations_first300.json", tmp_path / "val_annotations.json")
    entries = json.loads((tmp_path / "val_annotations.json").read_text())
    samples = vidstg_samples(entries)
    # the first five frames of each sample have a box, 10 pixels further right for each tid and 1 lower for each frame
    tracks = collections.defaultdict(lambda: collections.defaultdict(dict))
    for _, video, tid, begin, end in samples:
        for f in range(begin, min(end, begin + 5)):
            tracks[video][tid][f] = (10 * tid, f % 100, 10 * tid + 64, f % 100 + 36)
    for video, of_video in tracks.items():
        vidor(tmp_path / "vidor", video, of_video, 1 + max(f for track in of_video.values() for f in track))
    write(tmp_path / "vidor" / "video" / "0001" / f"{samples[0][1]}.mp4")
    table = data.read_vidstg(tmp_path, tmp_path / "vidor", "val")
    slow = collections.Counter()
    for sentence, video, tid, begin, end in samples:
        for frame in set(range(begin, end)) & set(tracks[video][tid]):
            x1, y1, x2, y2 = tracks[video][tid][frame]
            slow[video, frame, sentence, round(x1 / 640, 5), round(y2 / 360, 5)] += 1
    assert collections.Counter((*row[:3], round(row[3][0], 5), round(row[3][3], 5)) for row in rows(table, "box")) == slow
    assert set(table.unit) == {"frame"} and table.files[table.videos.index(samples[0][1])].endswith(f"0001/{samples[0][1]}.mp4")
    assert len(table.faults) == sum(not set(range(begin, end)) <= set(tracks[video][tid]) for _, video, tid, begin, end in samples)


def vidstg_entry(video, predicate, target, begin, end, description="a child  rides a\u00a0bike."):
    return {"vid": video, "fps": 25.0, "frame_count": 10, "width": 640, "height": 360, "used_segment": {"begin_fid": 0, "end_fid": 9},
            "subject/objects": [{"tid": 0, "category": "child"}, {"tid": 1, "category": "bicycle"}],
            "used_relation": {"subject_tid": 0, "object_tid": 1, "predicate": predicate, "begin_fid": begin, "end_fid": end},
            "temporal_gt": {"begin_fid": begin, "end_fid": end}, "questions": [],
            "captions": [{"description": description, "type": "person", "target_id": target}]}


def test_vidstg_skips_absent_boxes_and_videos_and_says_so(tmp_path):
    write(tmp_path / "train_annotations.json", [vidstg_entry("123", "ride", 0, 2, 6), vidstg_entry("123", "behind", 0, 0, 9),
                                                vidstg_entry("123", "ride", 1, 0, 9), vidstg_entry("77", "ride", 0, 0, 3),
                                                vidstg_entry("9", "ride", 0, 0, 3)])
    vidor(tmp_path / "vidor", "123", {0: {2: (0, 0, 320, 180), 3: (5, 5, 5, 9), 5: (64, 36, 640, 360)}, 1: {2: (0, 0, 1, 1)}}, 10)
    write(tmp_path / "vidor" / "training" / "0002" / "9.json", '{"width": 640,')
    table = data.read_vidstg(tmp_path, tmp_path / "vidor")
    assert rows(table) == [("123", 2, "a child rides a bike."), ("123", 5, "a child rides a bike.")]
    assert table.box.tolist() == [[0, 0, 0.5, 0.5], pytest.approx([0.1, 0.1, 1, 1])]
    assert table.faults[0] == "train_annotations.json: video 77: no VidOR annotation"
    assert table.faults[1] == "123.json: object 0, frames 2 to 5: 1 without a box, 1 boxes outside the picture or empty, left out"
    assert "9.json:1: not JSON" in table.faults[2]


def test_vidor_files_are_parsed_in_parallel_to_the_same_table(tmp_path):
    write(tmp_path / "train_annotations.json", [vidstg_entry(str(i), "ride", 0, 0, 2, f"text {i % 3}") for i in range(40)])
    for i in range(40):
        vidor(tmp_path / "vidor", str(i), {0: {0: (i, 0, 320, 180), 1: (i, 0, 320, 180)}}, 2)
    table = data.read_vidstg(tmp_path, tmp_path / "vidor")
    assert rows(table) == [(str(i), f, f"text {i % 3}") for i in range(40) for f in range(2)]
    assert np.round(table.box[::2, 0] * 640).tolist() == list(range(40))


def test_vidstg_entry_without_captions_is_named(tmp_path):
    write(tmp_path / "vidor" / "0" / "1.json", {})
    entry = vidstg_entry("1", "ride", 0, 0, 3)
    del entry["captions"]
    write(tmp_path / "train_annotations.json", [vidstg_entry("1", "ride", 0, 0, 3), entry])
    with pytest.raises(ValueError, match="train_annotations.json: entry 1: has no captions"):
        data.read_vidstg(tmp_path, tmp_path / "vidor")


# ---------------------------------------------------------------- mixes, shares and the cache

def test_merged_sets_share_texts_and_keep_their_units(tmp_path):
    frames = make([(0, 3, BOX, 0), (1, 5, BOX, 1)], unit="frame")
    seconds = make_annotations(["own.mp4"], ["wave", "sit"], [0, 0], [1.5, 2], [BOX, FAR], [1, 0], unit="second",
                                    files=["own.mp4"])
    mixed = merge([frames, seconds])
    assert rows(mixed) == [("v0", 3.0, "walk"), ("v1", 5.0, "sit"), ("own.mp4", 1.5, "sit"), ("own.mp4", 2.0, "wave")]
    assert mixed.unit.tolist() == ["frame", "frame", "second"]
    assert mixed.files == ["there", "there", "own.mp4"]
    same = merge([frames, frames])
    assert same.keyframe.dtype == np.float32 and same.unit[3] == "frame" and len(same.texts) == 2


def test_fraction_takes_whole_samples_and_the_same_ones_for_a_seed():
    table = make([(v, k, BOX, t) for v in range(20) for k in range(3) for t in (0, 1)], videos=20, unit="frame")
    quarter = sample_fraction(table, 0.25, seed=1)
    counts = collections.Counter((row[0], row[2]) for row in rows(quarter))
    assert len(counts) == 10 and set(counts.values()) == {3}   # 10 of 40 samples, each with its 3 boxes
    assert rows(quarter) == rows(sample_fraction(table, 0.25, seed=1)) != rows(sample_fraction(table, 0.25, seed=2))
    assert len(sample_fraction(table, 1.0)) == len(table)
    with pytest.raises(ValueError, match="fraction 0 is not in"):
        sample_fraction(table, 0)


def test_alignment_table_is_built_from_any_mix(tmp_path):
    write(tmp_path / "hc" / "train.json", hcstvg_entries())
    write(tmp_path / "vs" / "train_annotations.json", [vidstg_entry("123", "ride", 0, 2, 4)])
    vidor(tmp_path / "vidor", "123", {0: {2: (0, 0, 320, 180), 3: (0, 0, 320, 180)}}, 10)
    for video in ("hc/video/55_vfjywN5CN0Y.mp4", "hc/video/10__Gvp-cj3bmIY.mkv", "vidor/video/0001/123.mp4", "own/a.mp4"):
        write(tmp_path / video)                                # a pair whose video is not there would be left out
    write(tmp_path / "own" / "a.csv", "a.mp4,1,0.1,0.1,0.5,0.5,A boy runs\n")
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    add_alignment_flags(parser)
    everything = ["--split", "train", "--hcstvg", tmp_path / "hc", "--vidstg", tmp_path / "vs", "--vidor", tmp_path / "vidor",
                  "--csv", tmp_path / "own" / "a.csv"]

    def read(*flags):
        return read_alignment(parser.parse_args([str(flag) for flag in (*everything, *flags)]))

    for _ in range(2):                                         # parsed, then from the cache
        table = read()
        assert len(table) == 6 + 2 + 1 and len(table.texts) == 4 and len(table.files) == 4
        assert rows(table)[-1] == ("a.mp4", 1.0, "A boy runs") and table.unit.tolist() == ["frame"] * 3 + ["second"]
    movies = write(tmp_path / "movies.txt", "_Gvp-cj3bmIY\n")
    assert len(read("--exclude-videos", movies)) == 8
    assert samples_of(read("--fraction", 0.4)) == 2
    with pytest.raises(ValueError, match="--fraction 1.5: a share"):
        read("--fraction", 1.5)


def test_two_alignment_files_of_a_folder_do_not_share_a_cache(tmp_path):
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    add_alignment_flags(parser)
    write(tmp_path / "v.mp4")
    for name in ("a", "b"):
        write(tmp_path / f"{name}.csv", f"v.mp4,1,0.1,0.1,0.5,0.5,a person of {name}\n")
    a, _ = (read_alignment(parser.parse_args(["--csv", str(tmp_path / f"{name}.csv")])) for name in ("a", "b"))
    again = pickle.loads(pickle.dumps(a))                      # as a loader's worker gets it
    assert again.texts == ["a person of a"] and rows(again) == rows(a)


def test_split_all_adds_the_other_parts_of_both_sets(tmp_path):
    write(tmp_path / "hc" / "trainv2.json", hcstvg_entries())
    write(tmp_path / "hc" / "valv2.json", {f"9{key}": entry for key, entry in hcstvg_entries().items()})
    for part, video in (("train", "123"), ("val", "124"), ("test", "125")):
        write(tmp_path / "vs" / f"{part}_annotations.json", [vidstg_entry(video, "ride", 0, 2, 4)])
        vidor(tmp_path / "vidor", video, {0: {2: (0, 0, 320, 180), 3: (0, 0, 320, 180)}}, 10)
        write(tmp_path / f"vidor/video/{video}.mp4")
    for key in hcstvg_entries():
        write(tmp_path / "hc" / "video" / key)
        write(tmp_path / "hc" / "video" / f"9{key}")
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    add_alignment_flags(parser)
    sets = ["--hcstvg", str(tmp_path / "hc"), "--vidstg", str(tmp_path / "vs"), "--vidor", str(tmp_path / "vidor")]
    train, both = (read_alignment(parser.parse_args([*sets, "--split", split])) for split in ("train", "all"))
    assert len(train) == 6 + 2 and len(both) == 2 * 6 + 3 * 2 and len(both.texts) == len(train.texts)


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
    return all(np.array_equal(getattr(a, k), getattr(b, k)) for k in ROW_ARRAYS) and (a.videos, a.texts) == (b.videos, b.texts)


def test_parsed_table_comes_from_the_cache_until_its_source_changes(counted):
    source, calls, read = counted
    first, again = read(), read()
    assert len(calls) == 1 and make_same(first, again) and again.faults == ["source.txt:1: odd"]
    assert isinstance(again.box.base, np.memmap) or isinstance(again.box, np.memmap)
    assert not again.box.flags.writeable
    read(("b",))
    assert len(calls) == 2                                     # other options, another file
    os.utime(source, ns=(1, 1))
    assert make_same(read(), first) and len(calls) == 3
    read(), read(("b",))
    assert len(calls) == 4
    assert len(list(source.parent.glob(".ovstad_cache/set-*/rest.json"))) == 2 and not list(source.parent.glob(".ovstad_cache/*.part"))


@pytest.mark.parametrize("name", ["box.npy", "video.npy", "rest.json"])
@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b"", lambda b: b"x" * len(b), None])
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


def test_workers_receive_the_name_of_the_mapped_file_and_not_its_rows(counted):
    table = counted[2]()
    table.files = ["a.mp4", ""]
    sent = pickle.dumps(table)
    back = pickle.loads(sent)
    assert make_same(back, table) and back.files == ["a.mp4", ""]
    assert b"ovstad_cache" in sent and table.box.tobytes() not in sent
    part = table.select(np.array([True, False]))               # a copy is not what the file holds
    assert part.cache == "" and len(pickle.loads(pickle.dumps(part))) == 1


def test_cache_goes_to_the_users_folder_where_the_data_cannot_be_written(counted, monkeypatch, tmp_path):
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


# ---------------------------------------------------------------- the boxes are where the people are

W, H = 320, 240


def square(i: int) -> tuple[int, int, int, int]:
    """A person: a white square (x1, y1, x2, y2) that moves 16 pixels right and 8 down a frame, so that any shift shows."""
    x, y = 16 * (i % 16), 8 * (i % 20)
    return x, y, x + 48, y + 48


def picture(i: int) -> np.ndarray:
    image = np.zeros((H, W, 3), np.uint8)
    x1, y1, x2, y2 = square(i)
    image[y1:y2, x1:x2] = 255
    return image


def render(path: Path, frames: int, fps: int = 25, codec: str = "mpeg4") -> Path:
    """A video of `picture`s, or a folder of them if the path has no suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.suffix:
        path.mkdir()
        for i in range(frames):
            Image.fromarray(picture(i)).save(path / f"{path.name}_{i + 1:06d}.png")
        return path
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = W, H, "yuv420p", 4_000_000
        for i in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(i), format="rgb24")))
        container.mux(stream.encode())
    return path


def assert_boxes_hold_the_square(table: data.Annotations, count: int):
    """Every box is white inside and everything around it black, on the frame that the loader shows."""
    clips = data.ClipDataset(table, frames=1, stride=1, short_side=H, patch=1)
    seen = 0
    for place in range(len(clips)):
        boxes, _ = clips.boxes_and_labels(place)
        if len(boxes):
            image = clips[place]["video"][0].float().mean(0).numpy()
            x1, y1, x2, y2 = np.round(boxes[0] * [W, H, W, H]).astype(int)
            inside = image[y1:y2, x1:x2].mean()
            around = (image.sum() - image[y1:y2, x1:x2].sum()) / (image.size - (x2 - x1) * (y2 - y1))
            assert inside > 240 and around < 8, (clips.name(place), inside, around)
            seen += 1
    assert seen == count


@pytest.mark.parametrize("video", ["rgb-images/Biking/v_Biking_g01_c01", "UCF-101/Biking/v_Biking_g01_c01.avi"])
def test_ucf_boxes_of_both_annotations_lie_on_the_person(tmp_path, video):
    key = "Biking/v_Biking_g01_c01"
    act, gurkirt = tmp_path / "act", tmp_path / "gurkirt"
    for root in (act, gurkirt):
        render(root / video, 12)
    write(act / "UCF101v2-GT.pkl", act_pickle(["Biking"], ["Biking/other", key], {
        key: {0: [np.array([(i + 1, *square(i)) for i in range(3, 9)], np.float32)]}}) | {"nframes": {key: 12, "Biking/other": 4}})
    boxes = np.array([(x1, y1, x2 - x1, y2 - y1) for x1, y1, x2, y2 in map(square, range(3, 9))], np.uint8)
    write(gurkirt / "pyannot.pkl", {key: {"label": 2, "numf": np.uint8(12), "annotations": [
        {"sf": 3, "ef": 9, "label": 2, "boxes": boxes}]}})
    write(gurkirt / "splitfiles" / "testlist01.txt", f"{key}.avi\nBiking/not_annotated\n")
    tables = [data.read_ucf101_24(root, "test") for root in (act, gurkirt)]
    for table in tables:
        assert_boxes_hold_the_square(table, 6)
        assert len(table.keyframe_starts()) - 1 == 12
    assert rows(tables[0], "box", "person") == rows(tables[1], "box", "person")
    assert tables[1].faults == ["testlist01.txt: Biking/not_annotated is not in pyannot.pkl"]


@pytest.mark.parametrize("video, start", [("videos/-aaaaaaaaaa.mkv", 0), ("videos/-aaaaaaaaaa.mp4", 900),
                                          ("videos_15min/-aaaaaaaaaa.mp4", 900), ("videos_15min/-aaaaaaaaaa.mkv", 0),
                                          ("frames/-aaaaaaaaaa", 900)])
def test_ava_boxes_lie_on_the_person_in_movies_cuts_and_frame_folders(tmp_path, video, start):
    """A file of a quarter of an hour is a cut and a longer one a movie, whatever its folder is called."""
    fps = 30 if video.startswith("frames") else 1              # AVA's frame folders are 30 fps by definition
    seconds = (902, 903, 905)
    if video.startswith("frames"):
        last = sorted(render(tmp_path / video, 6 * fps).iterdir())[-1]
        for i in range(6 * fps, 900 * fps):
            os.link(last, last.with_name(f"-aaaaaaaaaa_{i + 1:06d}.png"))
    else:
        render(tmp_path / video, 901 if start else 1900, fps)
    boxes = [np.array(square((second - start) * fps)) / [W, H, W, H] for second in seconds]
    csv = "".join(f"-aaaaaaaaaa,{s:04d},{','.join(f'{x:.5f}' for x in box)},12,0\n" for s, box in zip(seconds, boxes))
    assert_boxes_hold_the_square(read_ava(ava_folder(tmp_path, "val", "2.2", csv), "val").on_disk().select(slice(0, 5)), 3)


def test_hcstvg_boxes_lie_on_the_person(tmp_path):
    render(tmp_path / "video" / "1" / "1_abcdefghijk.mp4", 30)
    tube = [[x1, y1, x2 - x1, y2 - y1] for x1, y1, x2, y2 in map(square, range(5, 20))]
    write(tmp_path / "trainv2.json", {"1_abcdefghijk.mp4": {"bbox": tube, "st_frame": 6, "img_size": [H, W], "img_num": 30,
                                                            "English": "The man walks to the door and opens it."}})
    assert_boxes_hold_the_square(data.read_hcstvg(tmp_path), 15)


def test_vidstg_boxes_lie_on_the_person(tmp_path):
    write(tmp_path / "train_annotations.json", [vidstg_entry("123", "ride", 0, 4, 10)])
    vidor(tmp_path, "123", {0: {i: square(i) for i in range(12)}, 1: {i: (0, 0, 9, 9) for i in range(12)}}, 12, (W, H))
    render(tmp_path / "video" / "0001" / "123.mp4", 12)
    assert_boxes_hold_the_square(data.read_vidstg(tmp_path, tmp_path), 6)


def test_boxes_of_a_users_csv_lie_on_the_person(tmp_path):
    render(tmp_path / "a.mp4", 30, fps=10)
    lines = [f"a.mp4,{second}," + ",".join(f"{x:.5f}" for x in np.array(square(round(second * 10))) / [W, H, W, H]) + ",walk\n"
             for second in (0.0, 0.5, 1.2, 2.9)]
    assert_boxes_hold_the_square(read_csv(write(tmp_path / "a.csv", "".join(lines))), 4)


# ---------------------------------------------------------------- python check_data.py

def check(monkeypatch, capsys, *args) -> str:
    monkeypatch.setattr(sys, "argv", ["check_data.py", *map(str, args)])
    assert check_data.main() in (0, None)
    return capsys.readouterr().out


@needs_samples
def test_check_of_a_users_csv_opens_its_videos_and_draws_the_boxes(tmp_path, monkeypatch, capsys):
    for name in ("test.avi", "demo.mp4"):
        shutil.copyfile(SAMPLES / "video" / name, tmp_path / name)
    write(tmp_path / "broken.mp4", "not a video")
    csv = write(tmp_path / "a.csv", "test.avi,2,0.2,0.2,0.8,0.8,apply make-up\ntest.avi,90,0.2,0.2,0.8,0.8,apply make-up\n"
                "demo.mp4,1,0.1,0.1,0.5,0.9,wrestle\nbroken.mp4,1,0.1,0.1,0.5,0.9,wrestle\n")
    out = check(monkeypatch, capsys, "--dataset", "csv", "--csv", csv, "--out", tmp_path / "out")
    assert re.search(r"videos +3 +on disk 3, missing 0", out) and "scores 1.000000\n" in out
    assert re.search(r"1 +2  apply make-up", out) and "2 broken or too short" in out
    faults = (tmp_path / "out" / "faults.txt").read_text()
    assert "broken.mp4: " in faults and "test.avi: 6.56 seconds long, but annotated at 90" in faults
    assert (tmp_path / "out" / "contact_sheet.png").stat().st_size > 10_000


@needs_samples
def test_check_of_real_ava_rows_and_real_vidstg_entries_with_rendered_videos(tmp_path, monkeypatch, capsys):
    csv = (SAMPLES / "ava" / "ava_val_v2.1_pose_only_first2000.csv").read_text()
    root = ava_folder(tmp_path / "ava", "val", "2.1", csv)
    render(root / "videos_15min" / "_7oWZq_s_Sk.mp4", 901, fps=1)
    out = check(monkeypatch, capsys, "--dataset", "ava", "--data", root, "--split", "val", "--out", tmp_path / "a")
    assert "on disk 1, missing 1" in out and "scores 1.000000\n" in out and re.search(r"12 +\d+  stand", out)
    assert (tmp_path / "a" / "contact_sheet.png").is_file()

    shutil.copyfile(SAMPLES / "vidstg" / "val_annotations_first300.json", tmp_path / "val_annotations.json")
    samples = vidstg_samples(json.loads((tmp_path / "val_annotations.json").read_text()))
    sentence, video, tid, begin, end = min(samples, key=lambda sample: sample[-1])
    vidor(tmp_path / "vidor", video, {tid: {i: square(i) for i in range(end)}}, end, (W, H))
    render(tmp_path / "vidor" / "video" / "0001" / f"{video}.mp4", end)
    out = check(monkeypatch, capsys, "--dataset", "vidstg", "--data", tmp_path, "--vidor", tmp_path / "vidor", "--split", "val",
                "--out", tmp_path / "b")
    assert "on disk 1, missing" in out and "captions; the paper has 23,165 and 5,182,090 pairs" in out
    assert re.search(r"0 broken or too short", out) and (tmp_path / "b" / "contact_sheet.png").is_file()


@needs_samples
def test_check_of_the_real_ucf_annotation_scores_one_against_itself(ucf, tmp_path, monkeypatch, capsys):
    out = check(monkeypatch, capsys, "--dataset", "ucf101-24", "--data", ucf, "--split", "test", "--out", tmp_path)
    assert "scores 1.000000\n" in out and "on disk 0, missing 910" in out
    assert re.search(r"3 +11,911  biking", out) and re.search(r"keyframes +159,289 +with nobody 20,762", out)


def test_check_of_hcstvg_counts_descriptions_and_writes_what_each_was_split_into(tmp_path, monkeypatch, capsys):
    write(tmp_path / "hc" / "trainv2.json", hcstvg_entries())
    out = check(monkeypatch, capsys, "--dataset", "hcstvg", "--data", tmp_path / "hc", "--out", tmp_path / "c")
    assert re.search(r"Table 1 +2 +descriptions; the paper has 13,613 and 1,884,046 pairs", out)
    assert (tmp_path / "c" / "sentences.tsv").read_text() == (
        "55_vfjywN5CN0Y.mp4\tThe man walks in and sits down.\tThe man walks in\tThe man sits down\n"
        "10__Gvp-cj3bmIY.mkv\tA boy runs.\tA boy runs\n")


def test_check_prints_base_and_novel_classes(tmp_path, monkeypatch, capsys):
    write(tmp_path / "v.mp4")
    write(tmp_path / "train.csv", "v.mp4,1,0.1,0.1,0.5,0.9,wave\nv.mp4,2,0.1,0.1,0.5,0.9,sit\n")
    write(tmp_path / "test.csv", "v.mp4,3,0.1,0.1,0.5,0.9,jump\n")
    write(tmp_path / "novel.txt", "jump\n")
    out = check(monkeypatch, capsys, "--dataset", "csv", "--data", tmp_path, "--out", tmp_path / "c")
    assert re.search(r"base +2 +sit, wave\nnovel +1 +jump\n", out)


def test_missing_folder_or_flag_is_one_line(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder .*nowhere; get ava's files from https.* by --data"):
        data.read_dataset("ava", tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="train.csv: not there; --data names the folder"):
        data.read_dataset("csv", tmp_path)
