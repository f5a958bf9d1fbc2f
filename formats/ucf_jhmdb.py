"""UCF101-24 and JHMDB-21, as ACT and MOC packed them, and gurkirt's own annotation of UCF101-24.

    UCF101v2-GT.pkl, JHMDB-GT.pkl       a pickle of Python 2: one dict of
        labels          ["Basketball", ...]
        train_videos    a list for each official split: [["Biking/v_Biking_g08_c01", ...], ...]
        test_videos     the same
        nframes         {video: 151}
        resolution      {video: (240, 320)}, height first
        gttubes         {video: {label: [array (n, 5) of frame from 1, x1, y1, x2, y2 in pixels]}}
    pyannot.pkl         {video: {"numf": 151, "annotations": [{"label": 9, "sf": 0, "ef": 151,
                        "boxes": array (n, 4) of x, y, w, h in uint8 or uint16}]}}, frames from 0
    testlist01.txt      a test video a line; the others are for training
"""

import re
from pathlib import Path

import numpy as np

from formats.files import array_of, check_kind, check_pixels, check_split, field, find_file
from formats.files import load_pickle, read_text, videos_on_disk, walk, whole
from table import Annotations, cached, clip_boxes, make_annotations

MOC = "https://github.com/MCG-NJU/MOC-Detector (its dataset section)"
GURKIRT = "https://github.com/gurkirt/corrected-UCF101-Annots"
UCF101_24 = [
    "basketball", "basketball dunk", "biking", "cliff diving", "cricket bowling", "diving",
    "fencing", "floor gymnastics", "golf swing", "horse riding", "ice dancing", "long jump",
    "pole vault", "rope climbing", "salsa spin", "skate boarding", "skiing", "skijet",
    "soccer juggling", "surfing", "tennis swing", "trampoline jumping", "volleyball spiking",
    "walking with dog"]
JHMDB_21 = [
    "brush hair", "catch", "clap", "climb stairs", "golf", "jump", "kick ball", "pick", "pour",
    "pull up", "push", "run", "shoot ball", "shoot bow", "shoot gun", "sit", "stand",
    "swing baseball", "throw", "walk", "wave"]


def read_ucf101_24(data, split: str = "train") -> Annotations:
    """UCF101-24 from MOC's `UCF101v2-GT.pkl`, or from gurkirt's `pyannot.pkl` and `testlist01.txt`.

    The test split lists every frame of its videos: where nobody is annotated, detections are false.
    """
    check_split(split, ("train", "test"))
    files, frames = walk(data)
    path = find_file(files, ["UCF101v2-GT.pkl", "pyannot.pkl"], data, f"{MOC} or {GURKIRT}")
    if path.name == "pyannot.pkl":
        listing = find_file(files, ["testlist01.txt"], data, GURKIRT)
        table = cached(data, "ucf101-24", [path, listing], [split],
                       lambda: gurkirt_table(path, listing, split))
    else:
        table = cached(data, "ucf101-24", [path], [split],
                       lambda: act_table(path, UCF101_24, split, 1))
    table.files = videos_on_disk(table.videos, files, frames)
    return table


def read_jhmdb_21(data, split: str = "train", division: int = 1) -> Annotations:
    """JHMDB-21 from MOC's `JHMDB-GT.pkl`, by one of its three divisions into train and test.

    Division 0 has the videos of all of them, each once.
    """
    check_split(split, ("train", "test"))
    files, frames = walk(data)
    path = find_file(files, ["JHMDB-GT.pkl"], data, MOC)
    table = cached(data, "jhmdb-21", [path], [split, division],
                   lambda: act_table(path, JHMDB_21, split, division))
    table.files = videos_on_disk(table.videos, files, frames)
    return table


def act_table(path, classes: list[str], split: str, division: int) -> Annotations:
    """ACT's ground truth: frames from 1, boxes x1 y1 x2 y2 in pixels, sizes (height, width)."""
    found = load_pickle(path)
    field(found, "gttubes", dict, path)
    parts = {part: [names_of(names, f"{path}: {part}") for names in field(found, part, list, path)]
             for part in ("train_videos", "test_videos")}
    lists = parts[f"{split}_videos"]
    if not 0 <= division <= len(lists):
        raise ValueError(f"{path}: there is no split {division} of {len(lists)}; give --split 1 "
                         f"(check_data.py, detect_humans.py: {split}1)")
    if division and (both := set.intersection(*(set(of[division - 1]) for of in parts.values()))):
        raise ValueError(f"{path}: {min(both)} is among both train_videos and test_videos")
    videos = lists[division - 1] if division else list(dict.fromkeys(sum(lists, [])))
    labels = [class_of(label, classes, path) for label in field(found, "labels", list, path)]
    if len(set(labels)) < len(labels):
        raise ValueError(f"{path}: labels: one is there twice")

    tubes, n_frames, size, faults = [], [], [], []
    for video in videos:
        where, n = f"{path}: {video}", len(labels)
        n_frames.append(whole(found.get("nframes"), video, f"{path}: nframes", 1))
        sides = field(found.get("resolution"), video, (tuple, list), f"{path}: resolution")
        size.append([whole(dict(enumerate(sides)), i, f"{where}: resolution (height, width)", 1)
                     for i in (1, 0)])
        by_label = field({video: {}} | found["gttubes"], video, dict, f"{path}: gttubes")
        known = {label: labels[whole({"label": label}, "label", f"{where}: gttubes", 0, n)]
                 for label in by_label}
        tubes.append([])
        for label in sorted(known):
            for tube in field(by_label, label, (list, tuple), f"{where}: gttubes"):
                rows = array_of(tube, 5, f"{where}: a tube of label {label}")
                frame, box = rows[:, 0], rows[:, 1:]
                if (frame % 1).any():
                    raise ValueError(f"{where}: a tube of label {label} has frame "
                                     f"{frame[(frame % 1).argmax()]:g}; expected whole numbers")
                tubes[-1].append((known[label], frame - 1, box))
    return tube_table(path, videos, classes, tubes, n_frames, size, split == "test", faults)


def gurkirt_table(path, listing, split: str) -> Annotations:
    """gurkirt's annotation: frames count from 0, boxes are x y w h in unsigned 8 or 16 bits."""
    found = load_pickle(path)
    check_kind(found, dict, path)
    names_of(list(found), path)
    lines = [line.strip() for line in read_text(listing).splitlines() if line.strip()]
    listed = names_of([re.sub(r"\.avi.*", "", line) for line in lines], listing)
    test = [video for video in listed if video in found]
    if not test:
        raise ValueError(f"{listing}: none of its {len(listed)} videos is in {path.name}; "
                         "expected lines like Biking/v_Biking_g01_c01")
    videos = test if split == "test" else sorted(map(str, set(found) - set(test)))
    tubes, n_frames = [], []
    for video in videos:
        where = f"{path}: {video}"
        n_frames.append(whole(found[video], "numf", where, 1))
        tubes.append([])
        for tube in field(found[video], "annotations", list, where):
            label = whole(tube, "label", where, 0, len(UCF101_24))
            first = int(field(tube, "sf", (int, np.integer), where))
            box = array_of(field(tube, "boxes", np.ndarray, where), 4, f"{where}: boxes")
            box[:, 2:] += box[:, :2]
            whole(tube, "ef", f"{where}: {len(box)} boxes from sf {first}", first + len(box),
                  first + len(box) + 1)
            tubes[-1].append((label, first + np.arange(len(box)), box))
    absent = [f"{listing.name}: {video} is not in {path.name}"
              for video in listed if video not in found]
    return tube_table(path, videos, UCF101_24, tubes, n_frames, [(320, 240)] * len(videos),
                      split == "test", absent)


def names_of(videos, where) -> list[str]:
    """The videos of a list; ValueError unless they are distinct strings."""
    check_kind(videos, (list, tuple), f"{where}: a split")
    seen = set()
    for video in videos:
        check_kind(video, str, f"{where}: a video's name")
        if video in seen:
            raise ValueError(f"{where}: {video} is listed twice")
        seen.add(video)
    return list(videos)


def class_of(label, classes: list[str], path) -> int:
    """The index of an official label's class: BasketballDunk -> "basketball dunk"."""
    check_kind(label, str, f"{path}: labels: a name")
    plain = [name.replace(" ", "") for name in classes]
    if (name := re.sub(r"[\W_]", "", label).lower()) not in plain:
        raise ValueError(f"{path}: unknown class {label!r}; expected {classes}")
    return plain.index(name)


def tube_table(path, videos, classes, tubes, n_frames, size, every: bool, faults) -> Annotations:
    """Rows from tubes[video] = [(class, frame_idx (n,), pixel boxes (n, 4))], one a person.

    every: keep frames without a box.
    """
    if sum(n_frames) > 10 ** 7:                                # UCF101-24 has 555,157
        raise ValueError(f"{path}: its videos have {sum(n_frames):,} frames, up to "
                         f"{max(n_frames):,}; is that their number?")
    check_pixels(path, [box for of_video in tubes for *_, box in of_video],
                 [size[v] for v, of_video in enumerate(tubes) for _ in of_video])
    parts = [(np.zeros((0, 4)), *[np.zeros(0, np.int64)] * 4)]
    for v, video in enumerate(videos):
        empty = np.ones(n_frames[v], bool)
        for person, (label, frame, box) in enumerate(tubes[v]):
            box, good = clip_boxes(box / np.tile(np.asarray(size[v], np.float64), 2))
            inside = (frame >= 0) & (frame < n_frames[v])
            for bad, reason in ((~good, "outside the picture or empty"),
                                (~inside, f"outside frames 1 to {n_frames[v]}")):
                if bad.any():
                    faults.append(f"{path.name}: {video}: {bad.sum()} boxes of tube {person} "
                                  f"{reason}, dropped")
            keep = good & inside
            same = np.full((3, keep.sum()), [[v], [label], [person]])
            parts.append((box[keep], frame[keep].astype(int), *same))
            empty[parts[-1][1]] = False
        if empty.all():
            faults.append(f"{path.name}: {video}: listed, but has no boxes")
        if every:
            n = empty.sum()
            same = np.full((3, n), [[v], [-1], [-1]])
            parts.append((np.zeros((n, 4)), np.flatnonzero(empty), *same))
    box, frame, video, text, person = (np.concatenate(column) for column in zip(*parts))
    return make_annotations(videos, classes, video, frame, box, text, person, faults=faults,
                            size=np.array(size, np.int32).reshape(-1, 2),
                            lengths=np.array(n_frames, np.int64))


def read_act_pickle(path, split: int = 1) -> Annotations:
    """Test videos of UCF101v2-GT.pkl, JHMDB-GT.pkl, or of pyannot.pkl beside its testlist01.txt."""
    path = Path(path)
    if path.name == "pyannot.pkl":
        listing = find_file([*path.parent.iterdir()], ["testlist01.txt"], path.parent, GURKIRT)
        return gurkirt_table(path, listing, "test")
    count = len(field(load_pickle(path), "labels", list, path))
    if count not in (24, 21):
        raise ValueError(f"{path}: has {count} labels; expected UCF101v2-GT.pkl with 24, "
                         "JHMDB-GT.pkl with 21, or pyannot.pkl")
    return act_table(path, UCF101_24 if count == 24 else JHMDB_21, "test", split)
