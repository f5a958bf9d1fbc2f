"""UCF101-24 and JHMDB-21."""

import re
from pathlib import Path

import numpy as np

from formats.files import check_split, find_file, find_videos, load_pickle, walk
from table import Annotations, cached, clip_boxes, make_annotations


MOC = "https://github.com/MCG-NJU/MOC-Detector (its dataset section)"
GURKIRT = "https://github.com/gurkirt/corrected-UCF101-Annots"
UCF101_24 = [
    "basketball", "basketball dunk", "biking", "cliff diving", "cricket bowling", "diving", "fencing",
    "floor gymnastics", "golf swing", "horse riding", "ice dancing", "long jump", "pole vault", "rope climbing",
    "salsa spin", "skate boarding", "skiing", "skijet", "soccer juggling", "surfing", "tennis swing",
    "trampoline jumping", "volleyball spiking", "walking with dog"]
JHMDB_21 = [
    "brush hair", "catch", "clap", "climb stairs", "golf", "jump", "kick ball", "pick", "pour", "pull up", "push",
    "run", "shoot ball", "shoot bow", "shoot gun", "sit", "stand", "swing baseball", "throw", "walk", "wave"]


def read_ucf101_24(data, split: str = "train") -> Annotations:
    """UCF101-24 from `UCF101v2-GT.pkl` (MOC's package), or from gurkirt's `pyannot.pkl` and `testlist01.txt`.

    The test split lists every frame of its videos: detections where nobody is annotated count as false.
    """
    check_split(split, ("train", "test"))
    files, frames = walk(data)
    path = find_file(files, ["UCF101v2-GT.pkl", "pyannot.pkl"], data, f"{MOC} or {GURKIRT}")
    if path.name == "pyannot.pkl":
        listing = find_file(files, ["testlist01.txt"], data, GURKIRT)
        table = cached(data, "ucf101-24", [path, listing], [split], lambda: gurkirt_table(path, listing, split))
    else:
        table = cached(data, "ucf101-24", [path], [split], lambda: act_table(path, UCF101_24, split, 1))
    table.files = find_videos(table.videos, files, frames)
    return table


def read_jhmdb_21(data, split: str = "train", part: int = 1) -> Annotations:
    """JHMDB-21 from `JHMDB-GT.pkl` (MOC's package); part: which of its three official divisions, from 1."""
    check_split(split, ("train", "test"))
    files, frames = walk(data)
    path = find_file(files, ["JHMDB-GT.pkl"], data, MOC)
    table = cached(data, "jhmdb-21", [path], [split, part], lambda: act_table(path, JHMDB_21, split, part))
    table.files = find_videos(table.videos, files, frames)
    return table


def act_table(path, classes: list[str], split: str, part: int) -> Annotations:
    """ACT's ground truth: frames count from 1, boxes are x1 y1 x2 y2 in pixels, sizes are (height, width)."""
    found = load_pickle(path)
    keys = ("labels", "train_videos", "test_videos", "nframes", "resolution", "gttubes")
    missing = [key for key in keys if not isinstance(found, dict) or key not in found]
    if missing:
        raise ValueError(f"{path}: not ACT's ground truth: {', '.join(missing)} missing")
    parts = found[f"{split}_videos"]
    if not 1 <= part <= len(parts):
        raise ValueError(f"{path}: part {part} of {len(parts)}")
    # BasketballDunk, brush_hair -> place
    place = {re.sub(r"\W", "", name): i for i, name in enumerate(classes)}
    labels = [place.get(re.sub(r"[\W_]", "", str(label)).lower()) for label in found["labels"]]
    if None in labels:
        raise ValueError(f"{path}: unknown class {found['labels'][labels.index(None)]!r}; expected {classes}")
    videos, tubes, faults = list(parts[part - 1]), [], []
    for video in videos:
        by_label = found["gttubes"].get(video, {})
        tubes.append([(labels[int(label)], rows[:, 0].astype(int) - 1, rows[:, 1:5].astype(np.float64))
                      for label in sorted(by_label) for rows in map(np.asarray, by_label[label])])
        if not by_label:
            faults.append(f"{path.name}: {video}: listed, but has no boxes")
    size = [found["resolution"][video][::-1] for video in videos]
    return tube_table(path, videos, classes, tubes, [int(found["nframes"][video]) for video in videos], size,
                      split == "test", faults)


def gurkirt_table(path, listing, split: str) -> Annotations:
    """gurkirt's annotation: frames count from 0, boxes are x y w h in unsigned 8 or 16 bits."""
    found = load_pickle(path)
    with open(listing) as file:
        test = [re.sub(r"\.avi.*", "", line.strip()) for line in file if line.strip()]
    absent = [f"{listing.name}: {video} is not in {path.name}" for video in test if video not in found]
    test = [video for video in test if video in found]
    videos = test if split == "test" else sorted(map(str, set(found) - set(test)))
    tubes = []
    for video in videos:
        tubes.append([])
        for tube in found[video]["annotations"]:
            # cast first: uint8 x + w wraps
            xy, wh = np.split(np.asarray(tube["boxes"]).astype(np.float64), 2, axis=1)
            tubes[-1].append((int(tube["label"]), int(tube["sf"]) + np.arange(len(xy)), np.hstack([xy, xy + wh])))
    return tube_table(path, videos, UCF101_24, tubes, [int(found[video]["numf"]) for video in videos],
                      [(320, 240)] * len(videos), split == "test", absent if split == "test" else [])


def tube_table(path, videos, classes, tubes, n_frames, size, every_frame: bool, faults: list[str]) -> Annotations:
    """Rows from tubes[video] = [(class, frame_idx (n,), pixel boxes (n, 4)), ...].

    A tube's number is its person.
    """
    parts = [(np.zeros((0, 4)), *[np.zeros(0, np.int64)] * 4)]
    for v, video in enumerate(videos):
        empty = np.ones(n_frames[v], bool)
        for person, (label, frame, box) in enumerate(tubes[v]):
            box, good = clip_boxes(box / np.tile(np.asarray(size[v], np.float64), 2))
            inside = (frame >= 0) & (frame < n_frames[v])
            for bad, reason in ((~good, "outside the picture or empty"),
                                (~inside, f"outside frames 1 to {n_frames[v]}")):
                if bad.any():
                    faults.append(f"{path.name}: {video}: {bad.sum()} boxes of tube {person} {reason}, dropped")
            keep = good & inside
            parts.append((box[keep], frame[keep], *np.full((3, keep.sum()), [[v], [label], [person]])))
            empty[frame[keep]] = False
        if every_frame:
            n = empty.sum()
            parts.append((np.zeros((n, 4)), np.flatnonzero(empty), *np.full((3, n), [[v], [-1], [-1]])))
    box, frame, video, text, person = (np.concatenate(column) for column in zip(*parts))
    return make_annotations(videos, classes, video, frame, box, text, person, faults=faults,
                            size=np.array(size, np.int32).reshape(-1, 2))


def read_act_pickle(path, split: int = 1) -> Annotations:
    """Test videos of UCF101v2-GT.pkl or JHMDB-GT.pkl, or of gurkirt's pyannot.pkl beside its testlist01.txt."""
    path = Path(path)
    content = load_pickle(path)
    count = len(content["labels"]) if isinstance(content, dict) and "labels" in content else 0
    if count in (24, 21):
        return act_table(path, UCF101_24 if count == 24 else JHMDB_21, "test", split)
    if path.name == "pyannot.pkl":
        return gurkirt_table(path, path.with_name("testlist01.txt"), "test")
    raise ValueError(f"{path}: has {count} labels; expected UCF101v2-GT.pkl with 24, JHMDB-GT.pkl with 21, "
                     "or pyannot.pkl")
