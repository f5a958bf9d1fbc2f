"""Every reader, on real samples and on files in the official layouts written here."""

import collections
import gzip
import json
import os
import pickle
import re
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

import data
from data import AVA_60, read_ava, read_csv
from formats.ava import AVA_80, AVA_IDS, AVA_TRAIN_COUNTS, AVA_TYPES, ov_ava_novel
from formats.files import load_pickle, read_label_map, read_list
from formats.proposals import add_proposals, read_proposals, write_proposals
from formats.vidstg import vidstg_samples
from table import Detections, exclude_videos, make_annotations

SAMPLES = Path(__file__).resolve().parents[2] / "shared" / "samples"
needs_samples = pytest.mark.skipif(not SAMPLES.is_dir(), reason="the samples are not distributed")


def write(path: Path, content="") -> Path:
    """A text file, a JSON file (of a list or dict) or a pickle (by suffix), with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".pkl":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def rows(table: data.Annotations, *columns: str) -> list[tuple]:
    """The table as tuples: video key, keyframe, text or None, and further columns."""
    columns = [getattr(table, c).tolist() for c in ("video", "keyframe", "text", *columns)]
    return [(table.videos[v], k, table.texts[t] if t >= 0 else None, *more)
            for v, k, t, *more in zip(*columns)]


def make(rows, videos=2, unit="second", **fields) -> data.Annotations:
    """A table of (video, keyframe, box, text) rows with the classes walk and sit."""
    video, keyframe, box, text = zip(*rows)
    return make_annotations([f"v{i}" for i in range(videos)], ["walk", "sit"], video, keyframe, box,
                            text, unit=unit,
                                 files=["there"] * videos, **fields)


# ---------------------------------------------------------------- classes

def test_class_lists_have_the_official_lengths_and_order():
    assert len(data.UCF101_24) == 24 and data.UCF101_24 == sorted(data.UCF101_24)
    assert len(data.JHMDB_21) == 21 and data.JHMDB_21[9] == "pull up"
    assert data.JHMDB_21[12] == "shoot ball"
    assert len(AVA_80) == len(set(AVA_80)) == 80 and len(AVA_60) == 60
    assert [sum(i in ids for i in AVA_IDS) for ids in AVA_TYPES.values()] == [13, 32, 15]


@needs_samples
def test_training_counts_are_the_public_ratios_over_their_denominator():
    ratios = json.loads((SAMPLES / "ava" / "ava_categories_ratio_yowo.json").read_text())
    assert [round(ratios[str(i)] * 332_353) for i in range(1, 81)] == AVA_TRAIN_COUNTS
    assert sum(AVA_TRAIN_COUNTS) == 862_663


def test_novel_classes_of_ava_follow_from_the_counts_one_in_four_of_each_type():
    assert data.OV_AVA_NOVEL == ov_ava_novel()
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
                 "videos/c d.mp4,2.5,0.1,0.2,0.3,0.4,\"wave, then sit\",7\n"
                 "\n"
                 "videos/-a_b.mp4,1,0,0,1,1,walk,\n"
                 "videos/c d.mp4,1\n"
                 "videos/c d.mp4,2.5,0.1,0.2,0.3,0.4,walk,7\n")
    a = read_csv(path)
    assert a.texts == ["walk", "wave, then sit"]
    assert a.files == [str(tmp_path / video) for video in a.videos]
    assert list(a.unit) == ["second"] * 2 and a.keyframe.dtype == np.float32
    assert rows(a, "person") == [("videos/c d.mp4", 1.0, None, -1),
                                 ("videos/c d.mp4", 2.5, "wave, then sit", 7),
                                 ("videos/c d.mp4", 2.5, "walk", 7),
                                 ("videos/-a_b.mp4", 1.0, "walk", -1)]
    assert a.box[0].tolist() == [0, 0, 0, 0]
    assert a.box[1] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert a.keyframe_starts().tolist() == [0, 1, 3, 4]
    moved = tmp_path / "elsewhere"
    (tmp_path / "videos").rename(moved)
    assert read_csv(write(tmp_path / "moved.csv", "c d.mp4,0,0,0,1,1,walk\n"),
                    moved).files == [str(moved / "c d.mp4")]


# ---------------------------------------------------------------- untrusted pickles

def test_pickle_that_would_run_code_is_refused_by_name(tmp_path):
    class Attack:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'pwned'}",)

    for value in (Attack(), {"labels": [Attack()]}):
        with pytest.raises(ValueError,
                           match=r"attack.pkl: holds (posix|nt).system, which is neither"):
            load_pickle(write(tmp_path / "attack.pkl", value))
    assert not (tmp_path / "pwned").exists()
    path = tmp_path / "eval.pkl"
    path.write_bytes(b"c__builtin__\neval\n(S'1'\ntR.")        # Python 2's spelling
    with pytest.raises(ValueError, match="__builtin__.eval"):
        load_pickle(path)


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_and_arrays_survive_the_safe_unpickler(tmp_path, protocol):
    value = {"a": [1, 2.5, "x", None, True], ("k", 1): np.arange(6, dtype=np.uint8).reshape(2, 3),
             "n": np.uint16(7),
             "f": np.asfortranarray(np.ones((2, 2), np.float32))}
    (tmp_path / "v.pkl").write_bytes(pickle.dumps(value, protocol))
    back = load_pickle(tmp_path / "v.pkl")
    assert back["a"] == value["a"] and back["n"] == 7 and back["n"].dtype == np.uint16
    assert (back["k", 1] == value["k", 1]).all() and (back["f"] == 1).all()


def test_python_2_pickle_of_an_array_is_read(tmp_path):
    # what Python 2's numpy wrote: module numpy.core.multiarray, raw bytes as a latin-1 str
    text = (b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I2\n"
            b"tcnumpy\ndtype\n(S'u1'\nI0\nI1\ntR(I3\nS'|'\nNNNI-1\nI-1\nI0\ntbI00\nS'\\x07\\xff'\ntb.")
    (tmp_path / "two.pkl").write_bytes(text)
    assert load_pickle(tmp_path / "two.pkl").tolist() == [7, 255]


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
        assert len(set(zip(table.video[labelled].tolist(),
                           table.person[labelled].tolist()))) == tubes
        assert table.texts == data.UCF101_24 and set(table.unit) == {"frame"} and not table.faults
    assert (test.text >= 0).sum() == 170_580 and (train.text >= 0).all()
    assert len(test.keyframe_starts()) - 1 == 159_289          # every frame of every test video
    annotated = {(v, k) for v, k, t in zip(test.video.tolist(), test.keyframe.tolist(),
                                           test.text.tolist()) if t >= 0}
    assert len(annotated) == 138_527
    boxes = np.bincount(test.text[test.text >= 0]).tolist()
    assert boxes[:7] == [1323, 1409, 11911, 2232, 1562, 5168, 9564]


@needs_samples
def test_ucf101_24_boxes_are_those_of_a_slow_reading_with_python_integers(ucf):
    found = pickle.loads((ucf / "pyannot.pkl").read_bytes(), encoding="latin1")
    test = data.read_ucf101_24(ucf, "test")
    wrapped, seen = 0, collections.defaultdict(list)
    for v, k, t, p, b in zip(test.video, test.keyframe, test.text, test.person, test.box):
        if t >= 0:
            seen[test.videos[v]].append((int(k), int(t), int(p),
                                         *np.round(b * [320, 240, 320, 240]).astype(int).tolist()))
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
    ours = np.column_stack([test.video, test.text, test.keyframe + 1,
                            np.round(test.box * [320, 240, 320, 240])])[labelled]
    tube = np.repeat(np.arange(len(act["tube_video"])), np.diff(act["tube_offset"]))
    theirs = np.column_stack([act["tube_video"][tube], act["tube_label"][tube], act["rows"]])
    assert (np.array(sorted(ours.tolist())) == np.array(sorted(theirs.tolist()))).all()


def act_pickle(labels, videos, gttubes, parts=1):
    return {"labels": labels, "train_videos": [videos[:1]] * parts,
            "test_videos": [videos[1:]] * parts,
            "nframes": {v: 4 for v in videos}, "resolution": {v: (240, 320) for v in videos},
            "gttubes": gttubes}


def test_act_pickle_counts_frames_from_one_and_gives_height_first(tmp_path):
    videos = ["Biking/v_Biking_g08_c01", "Biking/v_Biking_g01_c01",
              "WalkingWithDog/v_WalkingWithDog_g01_c02"]
    gt = act_pickle(["Biking", "WalkingWithDog"], videos, {
        videos[0]: {0: [np.array([[1, 0, 0, 160, 120]], np.float32)]},
        videos[1]: {0: [np.array([[2, 32, 24, 160, 120], [3, 32, 24, 321, 120]], np.float32),
                        np.array([[3, 0, 0, 320, 240], [5, 0, 0, 320, 240], [4, 320, 0, 322, 240]],
                                 np.float32)]},
        videos[2]: {1: [np.array([[1, 0, 0, 320, 240]], np.float32)]}})
    write(tmp_path / "UCF101v2-GT.pkl", gt)
    write(tmp_path / "rgb-images" / videos[1] / "00001.jpg")
    write(tmp_path / "videos" / "WalkingWithDog" / "v_WalkingWithDog_g01_c02.avi")
    test = data.read_ucf101_24(tmp_path, "test")
    assert rows(test, "person") == [
        (videos[1], 0, None, -1), (videos[1], 1, "biking", 0), (videos[1], 2, "biking", 0),
        (videos[1], 2, "biking", 1),
        (videos[1], 3, None, -1),
        (videos[2], 0, "walking with dog", 0), (videos[2], 1, None, -1), (videos[2], 2, None, -1),
        (videos[2], 3, None, -1)]
    assert test.box[1] == pytest.approx([0.1, 0.1, 0.5, 0.5])
    assert test.box[2] == pytest.approx([0.1, 0.1, 1, 0.5])    # 321 is cut at the border
    assert test.size.tolist() == [[320, 240], [320, 240]]
    assert test.files == [str(tmp_path / "rgb-images" / videos[1]),
                          str(tmp_path / "videos" / (videos[2] + ".avi"))]
    assert test.faults == [f"UCF101v2-GT.pkl: {videos[1]}: 1 boxes of tube 1 outside {reason}, dropped"
                           for reason in ("the picture or empty", "frames 1 to 4")]
    train = data.read_ucf101_24(tmp_path, "train")
    assert rows(train) == [(videos[0], 0, "biking")] and train.files == [""]


def test_jhmdb_has_three_splits_and_names_with_any_character(tmp_path):
    videos = ["brush_hair/Trannydude___OhNOES!__those_knots!_brush_hair_u_nm_np1_fr_goo_2",
              "shoot_ball/a.b_shoot_ball_1"]
    labels = [name.replace("pull up", "pullup").replace(" ", "_") for name in data.JHMDB_21]
    box = np.array([[1, 0, 0, 160, 120]], np.float32)
    gt = act_pickle(labels, videos, {videos[0]: {0: [box]}, videos[1]: {12: [box]}}, parts=3)
    gt["train_videos"][1], gt["test_videos"][1] = videos[1:], videos[:1]
    write(tmp_path / "JHMDB-GT.pkl", gt)
    write(tmp_path / "Frames" / videos[0] / "00001.png")
    write(tmp_path / "Frames" / videos[1] / "00001.png")
    first, second = (data.read_jhmdb_21(tmp_path, "test", part) for part in (1, 2))
    assert rows(first)[0] == (videos[1], 0, "shoot ball")
    assert rows(second)[0] == (videos[0], 0, "brush hair")
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
    gttubes = {v: {k: [np.array(t[0], np.float32)] for k, t in tubes.items()}
               for v, tubes in gttubes.items()}
    gt = act_pickle([name.replace(" ", "_") for name in data.JHMDB_21], videos, gttubes)
    gt["nframes"] = {v: max((int(t[0][:, 0].max()) for t in gttubes.get(v, {}).values()),
                            default=1) for v in videos}
    write(tmp_path / "JHMDB-GT.pkl", gt)
    test = data.read_jhmdb_21(tmp_path, "test")
    assert len(test.videos) == 21 and len(test) == 741 and (np.bincount(test.text) > 0).sum() == 21
    whole = np.concatenate([t[0][:, 1:] for v in test.videos for t in gttubes[v].values()])
    assert np.round(test.box * [320, 240, 320, 240]).tolist() == whole.tolist()


def test_what_is_missing_is_named_with_its_source(tmp_path):
    for read, says in ((data.read_ucf101_24,
                        "UCF101v2-GT.pkl or pyannot.pkl is not under .*MOC-Detector"),
                       (data.read_jhmdb_21, "JHMDB-GT.pkl is not under .*MOC-Detector"),
                       (read_ava,
                        "ava_train_v2.2.csv or ava_train_v2.1.csv is not under .*google.com/ava"),
                       (data.read_hcstvg, "train.*json is not under .*HC-STVG"),
                       (lambda root: data.read_vidstg(root, root),
                        "train_annotations.json is not under .*VidSTG-Dataset")):
        with pytest.raises(FileNotFoundError, match=says):
            read(tmp_path)
    write(tmp_path / "train_annotations.json", [])
    with pytest.raises(FileNotFoundError, match="no VidOR annotation .*xdshang"):
        data.read_vidstg(tmp_path, tmp_path)
    with pytest.raises(ValueError, match="split 'dev' is not one of train, test"):
        data.read_jhmdb_21(tmp_path, "dev")


# ---------------------------------------------------------------- AVA

def ava_folder(root: Path, split: str, version: str, csv: str, excluded: str = "",
               included: str = "") -> Path:
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
    assert table.texts == AVA_60 and table.ids == AVA_IDS
    assert set(table.unit) == {"second"} and table.person is None
    slow = set()
    for line in csv.splitlines():
        movie, second, *box, action = line.split(",")
        if int(action) in AVA_IDS and (movie, int(second)) != ("_7oWZq_s_Sk", 1636):
            slow.add((movie, float(second), AVA_80[int(action) - 1],
                      tuple(np.float32(box).tolist())))
    assert {(*row[:3], tuple(row[3])) for row in rows(table, "box") if row[2]} == slow
    # every second but the excluded, with or without people
    assert len(table.keyframe_starts()) - 1 == 2 * 897 - 2
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
    twice = sum("twice" in fault for fault in table.faults)
    assert (table.text >= 0).sum() + dropped == len(kept) + twice


@needs_samples
def test_mmaction2s_ava_sample_keeps_several_labels_a_person(tmp_path):
    csv = (SAMPLES / "ava_mmaction2" / "ava_sample.csv").read_text()
    excluded = (SAMPLES / "ava_mmaction2" / "ava_excluded_timestamps_sample.csv").read_text()
    train = read_ava(ava_folder(tmp_path, "train", "2.2", csv, excluded))
    # 903, -Z..: excluded
    assert rows(train, "person") == [("0f39OWEqJ24", 902.0, AVA_80[i - 1], 0) for i in (12, 17, 79)]
    assert len(np.unique(train.box, axis=0)) == 1
    own = read_ava(tmp_path, label_map=SAMPLES / "ava_mmaction2" / "action_list.txt")
    assert own.texts == ["action1", "action2", "action3", "action3 (80)"]
    assert own.ids == [12, 17, 79, 80]
    assert [row[2] for row in rows(own)] == ["action1", "action2", "action3"]


def test_ava_reads_rows_of_2_columns_and_says_what_it_drops(tmp_path):
    csv = ("-5KQ66BBWC4,0902,0.1,0.1,0.5,0.5,12,0\n"
           "-5KQ66BBWC4,0903\n"
           # crawl: a class of AVA, not evaluated
           "-5KQ66BBWC4,0904,0.1,0.1,0.5,0.5,2,0\n"
           "-5KQ66BBWC4,0905,0.5,0.1,0.5,0.5,12,0\n"
           "-5KQ66BBWC4,0905,-0.01,0.1,0.5,1.02,12,1\n"
           "-5KQ66BBWC4,0906,0.1,0.1,0.5,0.5,81,0\n"
           "-5KQ66BBWC4,2000,0.1,0.1,0.5,0.5,12,0\n"
           "-5KQ66BBWC4,0902,0.100,0.1,0.5,0.5,12,0\n")
    ava_folder(tmp_path, "train", "2.1", csv)
    root = ava_folder(tmp_path, "val", "2.1", csv, "-5KQ66BBWC4,0906",
                      "0902\n0903\n0904\n0905\n0906\n")
    included = "ava_included_timestamps_v2.1.txt"
    (tmp_path / "annotations" / included).rename(tmp_path / included)
    val, train = read_ava(root, "val"), read_ava(root, "train", version="2.1")
    key = "-5KQ66BBWC4"
    assert rows(val, "person") == [(key, 902.0, "stand", 0), (key, 903.0, None, -1),
                                   (key, 904.0, None, -1),
                                   (key, 905.0, "stand", 1)]
    assert val.box[3] == pytest.approx([0, 0.1, 0.5, 1])
    assert rows(train) == [(key, 902.0, "stand"), (key, 905.0, "stand")]
    name = "ava_val_v2.1.csv"
    assert sorted(val.faults) == [f"{name}:4: the box is outside the picture or empty, dropped",
                                  f"{name}:6: the action id is not in the label map, dropped",
                                  f"{name}:7: not an annotated second (902-906), dropped",
                                  f"{name}:8: the row is there twice, dropped"]
    everything = read_ava(root, "train", all_classes=True)
    assert len(everything.texts) == 80 and everything.ids == list(range(1, 81))
    assert "crawl" in [r[2] for r in rows(everything)]


def test_ava_finds_movies_cuts_and_frames(tmp_path):
    ids = ["-aaaaaaaaaa", "_bbbbbbbbbb", "cccccccccc-", "dddddddddd_"]
    root = ava_folder(tmp_path, "train", "2.2", "".join(f"{i},0902,0.1,0.1,0.5,0.5,12,0\n"
                                                        for i in ids))
    write(root / "videos" / "trainval" / f"{ids[0]}.mkv")
    write(root / "videos_15min" / f"{ids[1]}.webm")
    write(root / "frames" / ids[2] / f"{ids[2]}_000001.jpg")
    table = read_ava(root)
    names = [Path(file).name for file in table.files]
    assert names == [f"{ids[0]}.mkv", f"{ids[1]}.webm", ids[2], ""]
    assert table.ava_clock
    assert table.on_disk().video.tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="split 'test' is not one of train, val"):
        read_ava(root, "test")


# ---------------------------------------------------------------- proposals

BOX, FAR = (0.1, 0.1, 0.5, 0.5), (0.6, 0.6, 0.9, 0.9)


def test_proposals_csv_matches_keyframes_and_drops_repeats(tmp_path):
    table = make([(0, 902, BOX, 0), (0, 904, BOX, 1), (1, 902, BOX, 0)])
    path = write(tmp_path / "p.csv", "v0,0902,0.1,0.1,0.5,0.5,,0.6\n"
                 # LFB's training file: one row a label
                 "v0,0902,0.2,0.2,0.5,1.001,12,0.9\n"
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
    found = read_proposals(write(tmp_path / "p.csv",
                                 "v0,1,0.1,0.1,0.5,0.5,,0.5\nv1,8,0.1,0.1,0.5,0.5,,0.5\n"
                                                     "v1,7,0.1,0.1,0.5,0.5,,0.5\n"), table)
    assert list(zip(found.video.tolist(), found.keyframe.tolist())) == [(0, 0), (1, 7)]
    with pytest.raises(ValueError, match="p0.csv: keyframe 0 is not a frame number; these count from 1"):
        read_proposals(write(tmp_path / "p0.csv", "v0,0,0.1,0.1,0.5,0.5,,0.5\nv1,7,0.1,0.1,0.5,0.5,,0.5\n"), table)
    write_proposals(tmp_path / "q.csv", table, found)
    second = (tmp_path / "q.csv").read_text().splitlines()[1]
    assert second == "v1,8,0.10000,0.10000,0.50000,0.50000,,0.500000"
    again = read_proposals(tmp_path / "q.csv", table)
    assert again.keyframe.tolist() == found.keyframe.tolist()
    assert again.box == pytest.approx(found.box)


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
    table = read_ava(ava_folder(tmp_path, "train", "2.2",
                                (SAMPLES / "ava_mmaction2" / "ava_sample.csv").read_text()))
    with pytest.raises(ValueError,
                       match=r"only 0 of its 1 videos are among the 2 .*; it has \['1j20qq1JyX4'\]"):
        read_proposals(SAMPLES / "ava" / "ava_results_sample.csv", table)


def test_openmixer_and_act_pickles_are_read_as_proposals(tmp_path):
    table = make([(0, 0, BOX, 0), (1, 1, BOX, 0)], unit="frame",
                 size=np.array([[320, 240], [320, 240]], np.int32))
    openmixer = {"v0": {"boxes": {1: np.array([BOX])}, "scores": {1: np.array([0.7])}},
                 # its stand-in for none
                 "v1": {"boxes": {2: np.array([[0, 0, 320, 240.0]])},
                        "scores": {2: np.array([0.0])}}}
    found = read_proposals(write(tmp_path / "o.pkl", openmixer), table)
    assert found.video.tolist() == [0] and found.score == pytest.approx([0.7])
    act = np.array([[1, 2, 0, 0.8, 32, 24, 160, 120], [0, 1, 3, 0.9, 0, 0, 320, 240]], np.float32)
    found = read_proposals(write(tmp_path / "act.pkl", act), table)
    assert found.video.tolist() == [0, 1] and found.keyframe.tolist() == [0, 1]
    assert found.box[1] == pytest.approx([0.1, 0.1, 0.5, 0.5])



def test_added_proposals_take_all_labels_of_the_box_they_overlap_by_half():
    table = make([(0, 902, BOX, 0), (0, 902, BOX, 1), (0, 902, FAR, 1), (1, 902, BOX, 0)])
    table.person = np.array([5, 5, 6, -1], np.int32)
    # IoU 0.75, 0.25, 0
    shifted, quarter, lone = (0.1, 0.1, 0.5, 0.4), (0.1, 0.1, 0.3, 0.3), (0.0, 0.0, 0.05, 0.05)
    found = Detections(np.array([0, 0, 0, 1], np.int32), np.full(4, 902, np.float32),
                           np.array([shifted, quarter, FAR, lone], np.float32),
                           np.ones(4, np.float32))
    both = add_proposals(table, found)
    new = [r for r in rows(both, "person", "box") if tuple(np.round(r[4], 3)) not in (BOX,)]
    assert sorted((r[0], r[2] or "", r[3], tuple(np.round(r[4], 3))) for r in new) == sorted([
        ("v0", "walk", 5, shifted), ("v0", "sit", 5, shifted), ("v0", "", -1, quarter),
        ("v0", "sit", 6, FAR),
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
        rng.integers(0, 2, 60), rng.integers(0, 4, 60), boxes(60), rng.integers(-1, 2, 60))],
        unit="frame")
    video, keyframe = (rng.integers(0, high, 80).astype(np.int32) for high in (2, 4))
    found = Detections(video, keyframe, boxes(80), np.ones(80, np.float32))
    slow = collections.Counter(zip(table.video.tolist(), table.keyframe.tolist(),
                                   table.text.tolist()))
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
    assert collections.Counter(zip(both.video.tolist(), both.keyframe.tolist(),
                                   both.text.tolist())) == slow


# ---------------------------------------------------------------- HC-STVG

def hcstvg_entries():
    tube = [[32, 24, 64, 48]] * 5
    return {"55_vfjywN5CN0Y.mp4": {
                "bbox": tube, "st_frame": 1, "st_time": 0.0, "ed_time": 0.24, "img_num": 500,
                "width": 320, "height": 240, "caption": "The man walks in and sits down."},
            "10__Gvp-cj3bmIY.mkv": {
                "bbox": [[-10, 0, 330, 240], [320, 0, 5, 5]], "st_frame": 41, "st_time": 1.6,
                "ed_time": 1.68,
                "img_num": 500, "img_size": [240, 320], "English": "A boy runs.", "Chinese": "..."}}


def test_hcstvg_cuts_a_tube_into_equal_parts_in_the_order_of_its_sentences(tmp_path):
    write(tmp_path / "anno_v2" / "train_v2.json", hcstvg_entries())
    write(tmp_path / "train.json", {})                         # v1 beside it: the newer is taken
    write(tmp_path / "video" / "7" / "55_vfjywN5CN0Y.mp4")
    write(tmp_path / "v2_video" / "10__Gvp-cj3bmIY.mp4")       # another suffix than the key's
    table = data.read_hcstvg(tmp_path)
    first, second = "55_vfjywN5CN0Y.mp4", "10__Gvp-cj3bmIY.mkv"
    assert rows(table) == [(first, 0, "The man walks in"), (first, 1, "The man walks in"),
                           (first, 2, "The man walks in"),
                           (first, 3, "The man sits down"), (first, 4, "The man sits down"),
                           (second, 40, "A boy runs")]
    assert table.box[0] == pytest.approx([0.1, 0.1, 0.3, 0.3])
    assert table.box[5] == pytest.approx([0, 0, 1, 1])
    assert [Path(file).parent.name for file in table.files] == ["7", "v2_video"]
    assert table.descriptions == 2 and table.faults == [
        f"train_v2.json: {second}: 1 of 2 boxes outside the picture or empty, dropped; 1 sentences"]
    assert len(data.read_hcstvg(tmp_path, version=1)) == 0
    assert len(data.read_hcstvg(write(tmp_path / "b" / "trainv2.json",
                                      hcstvg_entries()).parent)) == 6
    assert len(data.read_hcstvg(write(tmp_path / "c" / "annos" / "hcstvg_v1" / "test.json",
                                      hcstvg_entries()).parents[2], "test")) == 6


def test_hcstvg_names_entries_whose_boxes_and_times_differ_by_more_than_a_quarter(tmp_path):
    entries = hcstvg_entries()
    entries["55_vfjywN5CN0Y.mp4"]["ed_time"] = 0.28            # 7 frames at 25 a second, 5 boxes
    table = data.read_hcstvg(write(tmp_path / "train.json", entries).parent)
    assert table.faults[0] == ("train.json: 55_vfjywN5CN0Y.mp4: 5 boxes, but its times span 7 frames; kept")
    assert len(table) == 6


def test_all_splits_of_an_alignment_set_come_as_one_table(tmp_path):
    for split in ("train", "val"):
        write(tmp_path / "hc" / f"{split}v2.json", {f"{split}_{k}": v for k,
                                                    v in hcstvg_entries().items()})
    both = data.read_hcstvg(tmp_path / "hc", "all")
    assert len(both) == 12 and len(both.videos) == 4 and len(both.texts) == 3
    for i, split in enumerate(("train", "val", "test")):
        write(tmp_path / "vs" / f"{split}_annotations.json", [vidstg_entry("123", "ride", 0, i,
            i + 1, f"text {i}")])
    vidor(tmp_path / "vidor", "123", {0: {f: (0, 0, 320, 180) for f in range(3)}}, 3)
    whole = data.read_vidstg(tmp_path / "vs", tmp_path / "vidor", "all")
    assert rows(whole) == [("123", i, f"text {i}") for i in range(3)]


def test_clips_of_listed_movies_are_left_out(tmp_path):
    table = data.read_hcstvg(write(tmp_path / "train.json", hcstvg_entries()).parent)
    val = write(tmp_path / "ava_val_v2.2.csv",
                "_Gvp-cj3bmIY,0902,0.1,0.1,0.5,0.5,12,0\n_Gvp-cj3bmIY,0903\nxxxxxxxxxxx,0902\n")
    kept = exclude_videos(table, read_list(val))
    assert {row[0] for row in rows(kept)} == {"55_vfjywN5CN0Y.mp4"} and len(kept) == 5


# ---------------------------------------------------------------- VidSTG and VidOR

@needs_samples
def test_real_vidstg_captions_are_chosen_by_person_and_action():
    entries = json.loads((SAMPLES / "vidstg" / "val_annotations_first300.json").read_text())
    samples = vidstg_samples(entries)
    spatial = "above towards behind away beneath next_to in_front_of inside".split()
    slow = [(re.sub(r"\s+", " ", c["description"]), e["vid"], c["target_id"]) for e in entries
            for c in e["captions"]
            if c["type"] == "person" and e["used_relation"]["predicate"] not in spatial]
    # of 237 captions about people
    assert [sample[:3] for sample in samples] == slow and 0 < len(slow) < 237
    assert all(begin < end for *_, begin, end in samples)


def vidor(root: Path, video: str, tracks: dict, frames: int, size=(640, 360), group="0001") -> Path:
    """A VidOR file with tracks[tid] = {frame: (xmin, ymin, xmax, ymax)}."""
    sides = ("xmin", "ymin", "xmax", "ymax")
    items = [[{"tid": tid, "bbox": dict(zip(sides, track[frame])), "generated": 0,
               "tracker": "none"}
              for tid, track in tracks.items() if frame in track] for frame in range(frames)]
    return write(root / "annotation" / "training" / group / f"{video}.json", {
        "version": "VERSION 1.0", "video_id": video, "video_path": f"{group}/{video}.mp4",
        "fps": 25.0,
        "frame_count": frames, "width": size[0], "height": size[1], "subject/objects": [],
        "trajectories": items, "relation_instances": []})


@needs_samples
def test_real_vidstg_entries_join_vidors_boxes_frame_by_frame(tmp_path):
    shutil.copyfile(SAMPLES / "vidstg" / "val_annotations_first300.json",
                    tmp_path / "val_annotations.json")
    entries = json.loads((tmp_path / "val_annotations.json").read_text())
    samples = vidstg_samples(entries)
    # five frames of each sample have a box, 10 pixels further right for each tid, 1 lower a frame
    tracks = collections.defaultdict(lambda: collections.defaultdict(dict))
    for _, video, tid, begin, end in samples:
        for f in range(begin, min(end, begin + 5)):
            tracks[video][tid][f] = (10 * tid, f % 100, 10 * tid + 64, f % 100 + 36)
    for video, of_video in tracks.items():
        vidor(tmp_path / "vidor", video, of_video, 1 + max(f for track in of_video.values()
                                                           for f in track))
    write(tmp_path / "vidor" / "video" / "0001" / f"{samples[0][1]}.mp4")
    table = data.read_vidstg(tmp_path, tmp_path / "vidor", "val")
    slow = collections.Counter()
    for sentence, video, tid, begin, end in samples:
        for frame in set(range(begin, end)) & set(tracks[video][tid]):
            x1, y1, x2, y2 = tracks[video][tid][frame]
            slow[video, frame, sentence, round(x1 / 640, 5), round(y2 / 360, 5)] += 1
    assert collections.Counter((*row[:3], round(row[3][0], 5), round(row[3][3], 5))
                               for row in rows(table, "box")) == slow
    assert set(table.unit) == {"frame"}
    assert table.files[table.videos.index(samples[0][1])].endswith(f"0001/{samples[0][1]}.mp4")
    assert len(table.faults) == sum(not set(range(begin, end)) <= set(tracks[video][tid]) for _,
                                    video, tid, begin, end in samples)


def vidstg_entry(video, predicate, target, begin, end, description="a child  rides a\u00a0bike."):
    span = {"begin_fid": begin, "end_fid": end}
    return {"vid": video, "fps": 25.0, "frame_count": 10, "width": 640, "height": 360,
            "used_segment": {"begin_fid": 0, "end_fid": 9}, "temporal_gt": span, "questions": [],
            "subject/objects": [{"tid": 0, "category": "child"}, {"tid": 1, "category": "bicycle"}],
            "used_relation": {"subject_tid": 0, "object_tid": 1, "predicate": predicate, **span},
            "captions": [{"description": description, "type": "person", "target_id": target}]}


def test_vidstg_skips_absent_boxes_and_videos_and_says_so(tmp_path):
    write(tmp_path / "train_annotations.json", [vidstg_entry("123", "ride", 0, 2, 6),
                                                vidstg_entry("123", "behind", 0, 0, 9),
                                                vidstg_entry("123", "ride", 1, 0, 9),
                                                vidstg_entry("77", "ride", 0, 0, 3),
                                                vidstg_entry("9", "ride", 0, 0, 3)])
    vidor(tmp_path / "vidor", "123", {0: {2: (0, 0, 320, 180), 3: (5, 5, 5, 9),
                                          5: (64, 36, 640, 360)}, 1: {2: (0, 0, 1, 1)}}, 10)
    write(tmp_path / "vidor" / "training" / "0002" / "9.json", '{"width": 640,')
    table = data.read_vidstg(tmp_path, tmp_path / "vidor")
    assert rows(table) == [("123", 2, "a child rides a bike."), ("123", 5, "a child rides a bike.")]
    assert table.box.tolist() == [[0, 0, 0.5, 0.5], pytest.approx([0.1, 0.1, 1, 1])]
    assert table.faults[0] == "train_annotations.json: video 77: no VidOR annotation"
    assert table.faults[1] == ("123.json: object 0, frames 2 to 5: 1 without a box, "
                               "1 boxes outside the picture or empty, left out")
    assert "9.json:1: not JSON" in table.faults[2]


def test_vidor_files_are_parsed_in_parallel_to_the_same_table(tmp_path):
    write(tmp_path / "train_annotations.json", [vidstg_entry(str(i), "ride", 0, 0, 2,
        f"text {i % 3}") for i in range(40)])
    for i in range(40):
        vidor(tmp_path / "vidor", str(i), {0: {0: (i, 0, 320, 180), 1: (i, 0, 320, 180)}}, 2)
    table = data.read_vidstg(tmp_path, tmp_path / "vidor")
    assert rows(table) == [(str(i), f, f"text {i % 3}") for i in range(40) for f in range(2)]
    assert np.round(table.box[::2, 0] * 640).tolist() == list(range(40))


# ---------------------------------------------------------------- boxes are where people are

W, H = 320, 240


def square(i: int) -> tuple[int, int, int, int]:
    """A person: a white square (x1, y1, x2, y2) that moves 16 pixels right and 8 down a frame."""
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
    """Every box is white inside and black around, on the frame that the loader shows."""
    clips = data.ClipDataset(table, frames=1, stride=1, short_side=H, patch=1)
    seen = 0
    for place in range(len(clips)):
        boxes, _ = clips.boxes_and_labels(place)
        if len(boxes):
            image = clips[place]["video"][0].float().mean(0).numpy()
            x1, y1, x2, y2 = np.round(boxes[0] * [W, H, W, H]).astype(int)
            inside = image[y1:y2, x1:x2].mean()
            around = (image.sum() - image[y1:y2,
                                          x1:x2].sum()) / (image.size - (x2 - x1) * (y2 - y1))
            assert inside > 240 and around < 8, (clips.name(place), inside, around)
            seen += 1
    assert seen == count


@pytest.mark.parametrize("video", ["rgb-images/Biking/v_Biking_g01_c01",
                                   "UCF-101/Biking/v_Biking_g01_c01.avi"])
def test_ucf_boxes_of_both_annotations_lie_on_the_person(tmp_path, video):
    key = "Biking/v_Biking_g01_c01"
    act, gurkirt = tmp_path / "act", tmp_path / "gurkirt"
    for root in (act, gurkirt):
        render(root / video, 12)
    write(act / "UCF101v2-GT.pkl", act_pickle(["Biking"], ["Biking/other", key], {
        key: {0: [np.array([(i + 1, *square(i)) for i in range(3, 9)], np.float32)]}})
        | {"nframes": {key: 12, "Biking/other": 4}})
    boxes = np.array([(x1, y1, x2 - x1, y2 - y1) for x1, y1, x2, y2 in map(square, range(3, 9))],
                     np.uint8)
    write(gurkirt / "pyannot.pkl", {key: {"label": 2, "numf": np.uint8(12), "annotations": [
        {"sf": 3, "ef": 9, "label": 2, "boxes": boxes}]}})
    write(gurkirt / "splitfiles" / "testlist01.txt", f"{key}.avi\nBiking/not_annotated\n")
    tables = [data.read_ucf101_24(root, "test") for root in (act, gurkirt)]
    for table in tables:
        assert_boxes_hold_the_square(table, 6)
        assert len(table.keyframe_starts()) - 1 == 12
    assert rows(tables[0], "box", "person") == rows(tables[1], "box", "person")
    assert tables[1].faults == ["testlist01.txt: Biking/not_annotated is not in pyannot.pkl"]


@pytest.mark.parametrize("video, start", [("videos/-aaaaaaaaaa.mkv", 0),
                                          ("videos/-aaaaaaaaaa.mp4", 900),
                                          ("videos_15min/-aaaaaaaaaa.mp4", 900),
                                          ("videos_15min/-aaaaaaaaaa.mkv", 0),
                                          ("frames/-aaaaaaaaaa", 900)])
def test_ava_boxes_lie_on_the_person_in_movies_cuts_and_frame_folders(tmp_path, video, start):
    """A file of a quarter of an hour is a cut, a longer one a movie, whatever its folder's name."""
    # AVA's frame folders are 30 fps by definition
    fps = 30 if video.startswith("frames") else 1
    seconds = (902, 903, 905)
    if video.startswith("frames"):
        last = sorted(render(tmp_path / video, 6 * fps).iterdir())[-1]
        for i in range(6 * fps, 900 * fps):
            os.link(last, last.with_name(f"-aaaaaaaaaa_{i + 1:06d}.png"))
    else:
        render(tmp_path / video, 901 if start else 1900, fps)
    boxes = [np.array(square((second - start) * fps)) / [W, H, W, H] for second in seconds]
    csv = "".join(f"-aaaaaaaaaa,{s:04d},{','.join(f'{x:.5f}' for x in box)},12,0\n" for s,
                  box in zip(seconds, boxes))
    assert_boxes_hold_the_square(read_ava(ava_folder(tmp_path, "val", "2.2", csv),
                                          "val").on_disk().select(slice(0, 5)), 3)


def test_hcstvg_boxes_lie_on_the_person(tmp_path):
    render(tmp_path / "video" / "1" / "1_abcdefghijk.mp4", 30)
    tube = [[x1, y1, x2 - x1, y2 - y1] for x1, y1, x2, y2 in map(square, range(5, 20))]
    write(tmp_path / "trainv2.json", {"1_abcdefghijk.mp4": {
        "bbox": tube, "st_frame": 6, "img_size": [H, W], "img_num": 30,
        "English": "The man walks to the door and opens it."}})
    assert_boxes_hold_the_square(data.read_hcstvg(tmp_path), 15)


def test_vidstg_boxes_lie_on_the_person(tmp_path):
    write(tmp_path / "train_annotations.json", [vidstg_entry("123", "ride", 0, 4, 10)])
    vidor(tmp_path, "123", {0: {i: square(i) for i in range(12)},
                            1: {i: (0, 0, 9, 9) for i in range(12)}}, 12, (W, H))
    render(tmp_path / "video" / "0001" / "123.mp4", 12)
    assert_boxes_hold_the_square(data.read_vidstg(tmp_path, tmp_path), 6)


def test_boxes_of_a_users_csv_lie_on_the_person(tmp_path):
    render(tmp_path / "a.mp4", 30, fps=10)
    lines = [f"a.mp4,{second}," + ",".join(f"{x:.5f}"
                                           for x in np.array(square(round(second * 10))) / [W, H, W,
                                               H]) + ",walk\n"
             for second in (0.0, 0.5, 1.2, 2.9)]
    assert_boxes_hold_the_square(read_csv(write(tmp_path / "a.csv", "".join(lines))), 4)
