"""VidSTG, whose boxes are VidOR's.

    train_annotations.json          a list of entries: {"vid": "2401075277", "subject/objects":
        [{"tid": 0, "category": "child"}, ...], "used_relation": {"predicate": "ride", ...},
        "temporal_gt": {"begin_fid": 2, "end_fid": 6}, "captions":
        [{"description": "a child rides a bike.", "target_id": 0, ...}], ...}
    0000/2401075277.json            VidOR: {"width": 640, "height": 360, "trajectories":
        [[{"tid": 0, "bbox": {"xmin": 1, "ymin": 2, "xmax": 30, "ymax": 40}, ...}, ...], ...], ...},
        a list for each frame

Frames count from 0, an end is exclusive.
"""

import filecmp
from bisect import bisect_left
from collections import defaultdict
from pathlib import Path

import numpy as np

from formats.files import check_kind, check_pixels, check_split, field, find_file, load_json
from formats.files import parallel, videos_on_disk, walk, whole
from table import Annotations, cached, clip_boxes, make_annotations, merge

VIDSTG_SOURCE = "https://github.com/Guaranteer/VidSTG-Dataset"
VIDOR_SOURCE = "https://xdshang.github.io/docs/vidor.html"
VIDOR_PEOPLE = {"adult", "child", "baby"}
VIDOR_SPATIAL = {"above", "towards", "behind", "away", "beneath", "next_to", "in_front_of",
                 "inside"}


def read_vidstg(data, vidor, split: str = "train") -> Annotations:
    """VidSTG's declarative captions of what people do, on the boxes of the person in VidOR.

    data: the folder with `{split}_annotations.json`; vidor: the folder with VidOR's JSON files and
    videos. split "all" is the three together: the paper chooses 23,165 captions from all 99,943.
    """
    check_split(split, ("train", "val", "test", "all"))
    if split == "all":
        return merge([read_vidstg(data, vidor, part) for part in ("train", "val", "test")])
    path = find_file(walk(data)[0], [f"{split}_annotations.json"], data, VIDSTG_SOURCE)
    files, _ = walk(vidor)
    jsons = {}
    for file in (file for file in files if file.suffix == ".json" and file.stem.isdigit()):
        first = jsons.setdefault(file.stem, file)
        if first != file and not filecmp.cmp(first, file, shallow=False):
            raise ValueError(f"{first} and {file}: which of them? They differ; move the wrong one "
                             f"out of {vidor}")
    if not jsons:
        raise FileNotFoundError(f"no VidOR annotation (<group>/<video>.json) is under {vidor}; "
                                f"get it from {VIDOR_SOURCE}")
    table = cached(data, "vidstg", [path, *jsons.values()], [split],
                   lambda: vidstg_table(path, jsons))
    table.files = videos_on_disk(table.videos, files, [])
    return table


def vidstg_samples(entries: list, path="") -> list[tuple[str, str, int, int, int]]:
    """(sentence, video, tid, begin, end) of the paper's choice: a person's action."""
    check_kind(entries, list, path, "VidSTG's list of entries")
    samples = []
    for i, entry in enumerate(entries):
        where = f"{path}: entry {i}"
        video = field(entry, "vid", str, where)
        kind = {field(thing, "tid", int, where): field(thing, "category", str, where)
                for thing in field(entry, "subject/objects", list, where)}
        span = field(entry, "temporal_gt", dict, where)
        begin = whole(span, "begin_fid", f"{where}: temporal_gt", 0, 2 ** 24)
        end = whole(span, "end_fid", f"{where}: temporal_gt", begin + 1, 2 ** 24)
        relation = field(entry, "used_relation", dict, where)
        predicate = field(relation, "predicate", str, f"{where}: used_relation")
        for caption in field(entry, "captions", list, where):
            target = field(caption, "target_id", int, f"{where}: a caption")
            sentence = field(caption, "description", str, f"{where}: a caption")
            if target not in kind or not sentence.strip():
                raise ValueError(f"{where}: caption {sentence!r} of target_id {target}; expected a "
                                 "sentence of one of its subject/objects")
            if predicate not in VIDOR_SPATIAL and kind[target] in VIDOR_PEOPLE:
                samples.append((" ".join(sentence.split()), video, target, begin, end))
    return samples


def vidstg_table(path, jsons: dict[str, Path]) -> Annotations:
    samples = vidstg_samples(load_json(path), path)
    sentences, by_video = {}, defaultdict(list)
    for sentence, video, *span in samples:
        by_video[video].append((sentences.setdefault(sentence, len(sentences)), *span))
    faults = [f"{path.name}: video {video}: no VidOR annotation" for video in by_video
              if video not in jsons]
    there = [(v, video) for v, video in enumerate(by_video) if video in jsons]
    jobs = [(jsons[video], by_video[video]) for _, video in there]
    parts = [(np.zeros((0, 4)), *[np.zeros(0, np.int64)] * 3)]
    shapes = np.zeros((len(by_video), 3), np.int32)            # width, height, frames
    for (v, _), found in zip(there, parallel(vidor_rows, jobs, "VidOR")):
        box, frame, text, shapes[v], wrong = found
        parts.append((box, frame, np.full(len(box), v), text))
        faults += wrong
    box, frame, video, text = (np.concatenate(column) for column in zip(*parts))
    return make_annotations(by_video, sentences, video, frame, box, text, faults=faults,
                            descriptions=len(samples), size=shapes[:, :2].copy(),
                            lengths=shapes[:, 2].astype(np.int64))


def vidor_rows(job) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """Boxes (n, 4), frame indices and texts (n,), (width, height, frames), faults of a VidOR file.

    job: its path, (text, tid, begin, end)s.
    """
    path, samples = job
    parts, faults = [(np.zeros((0, 4)), *[np.zeros(0, np.int64)] * 2)], []
    try:
        shape, tracks = vidor_tracks(path)
    except ValueError as error:                                # one file of thousands
        shape, samples, faults = np.zeros(3), [], [f"{path.name}: left out: {error}"]
    for text, tid, begin, end in samples:
        frames, boxes = tracks.get(tid, ([], []))
        first, last = bisect_left(frames, begin), bisect_left(frames, end)
        box = np.array(boxes[first:last], np.float64).reshape(-1, 4)
        box, good = clip_boxes(box / np.tile(shape[:2], 2))
        if good.sum() < end - begin:
            faults.append(f"{path.name}: object {tid}, frames {begin} to {end - 1}: "
                          f"{end - begin - (last - first)} without a box, "
                          f"{(~good).sum()} boxes outside the picture or empty, left out")
        parts.append((box[good], np.array(frames[first:last], np.int64)[good],
                      np.full(good.sum(), text)))
    return *(np.concatenate(column) for column in zip(*parts)), shape, faults


def vidor_tracks(path) -> tuple[np.ndarray, dict[int, tuple[list[int], list[list[float]]]]]:
    """(width, height, number of frames), and the frames and pixel boxes (4) of each tid."""
    found, tracks = load_json(path), defaultdict(dict)
    size = [whole(found, key, path, 1) for key in ("width", "height")]
    trajectories = field(found, "trajectories", list, path)
    for frame, items in enumerate(trajectories):
        where = f"{path}: trajectories, frame {frame}"
        check_kind(items, list, where)
        for item in items:
            box = field(item, "bbox", dict, where)
            corners = [field(box, key, (int, float), f"{where}: bbox")
                       for key in ("xmin", "ymin", "xmax", "ymax")]
            tid = field(item, "tid", int, where)
            if tracks[tid].setdefault(frame, corners) != corners:
                raise ValueError(f"{where}: two boxes of tid {tid}")
    boxes = [box for track in tracks.values() for box in track.values()]
    check_pixels(path, [np.array(boxes).reshape(-1, 4)])
    shape = np.array([*size, len(trajectories)], np.float64)
    return shape, {tid: (list(track), list(track.values())) for tid, track in tracks.items()}
