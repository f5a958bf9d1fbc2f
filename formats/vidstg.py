"""VidSTG, whose boxes are VidOR's.

    train_annotations.json          a list of entries: {"vid": "2401075277", "subject/objects": [{"tid": 0,
        "category": "child"}, ...], "used_relation": {"predicate": "ride", ...}, "temporal_gt": {"begin_fid": 2,
        "end_fid": 6}, "captions": [{"description": "a child rides a bike.", "target_id": 0, ...}], ...}
    0000/2401075277.json            VidOR: {"width": 640, "height": 360, "trajectories": [[{"tid": 0, "bbox":
        {"xmin": 1, "ymin": 2, "xmax": 30, "ymax": 40}, ...}, ...], ...], ...}, a list for each frame

Frames count from 0, an end is exclusive.
"""

from bisect import bisect_left
from collections import defaultdict
from pathlib import Path

import numpy as np

from formats.files import check_kind, check_split, field, find_file, load_json, parallel, videos_on_disk, walk
from table import Annotations, cached, clip_boxes, make_annotations, merge


VIDSTG_SOURCE = "https://github.com/Guaranteer/VidSTG-Dataset"
VIDOR_PEOPLE = {"adult", "child", "baby"}
VIDOR_SPATIAL = {"above", "towards", "behind", "away", "beneath", "next_to", "in_front_of", "inside"}


def read_vidstg(data, vidor, split: str = "train") -> Annotations:
    """VidSTG's declarative captions of what people do, on the boxes of the person in VidOR's annotation.

    data: the folder with `{split}_annotations.json`; vidor: the folder with VidOR's JSON files and videos.
    split "all" is the three together: the paper chooses its 23,165 captions from all 99,943 pairs.
    """
    check_split(split, ("train", "val", "test", "all"))
    if split == "all":
        return merge([read_vidstg(data, vidor, part) for part in ("train", "val", "test")])
    path = find_file(walk(data)[0], [f"{split}_annotations.json"], data, VIDSTG_SOURCE)
    files, _ = walk(vidor)
    jsons = {file.stem: file for file in files if file.suffix == ".json" and file.stem.isdigit()}
    if not jsons:
        raise FileNotFoundError(f"no VidOR annotation (<group>/<video>.json) is under {vidor}; get it from "
                                "https://xdshang.github.io/docs/vidor.html")
    table = cached(data, "vidstg", [path, *jsons.values()], [split], lambda: vidstg_table(path, jsons))
    table.files = videos_on_disk(table.videos, files, [])
    return table


def vidstg_samples(entries: list, path="") -> list[tuple[str, str, int, int, int]]:
    """(sentence, video, tid, begin, end) of the paper's choice: the target is a person, the relation an action."""
    check_kind(entries, list, path, "VidSTG's list of entries")
    samples = []
    for i, entry in enumerate(entries):
        where = f"{path}: entry {i}"
        video, things = field(entry, "vid", str, where), field(entry, "subject/objects", list, where)
        kind = {field(thing, "tid", int, where): field(thing, "category", str, where) for thing in things}
        span = field(entry, "temporal_gt", dict, where)
        begin, end = (field(span, key, int, f"{where}: temporal_gt") for key in ("begin_fid", "end_fid"))
        if not 0 <= begin < end < 2 ** 24:
            raise ValueError(f"{where}: temporal_gt is frames {begin} to {end}; expected 0 <= begin_fid < end_fid")
        predicate = field(field(entry, "used_relation", dict, where), "predicate", str, f"{where}: used_relation")
        for caption in field(entry, "captions", list, where):
            target = field(caption, "target_id", int, f"{where}: a caption")
            sentence = " ".join(field(caption, "description", str, f"{where}: a caption").split())
            if target not in kind:
                raise ValueError(f"{where}: target_id {target} is not among its subject/objects")
            if predicate not in VIDOR_SPATIAL and kind[target] in VIDOR_PEOPLE:
                samples.append((sentence, video, target, begin, end))
    return samples


def vidstg_table(path, jsons: dict[str, Path]) -> Annotations:
    samples, sentences, by_video = vidstg_samples(load_json(path), path), {}, defaultdict(list)
    for sentence, video, *span in samples:
        by_video[video].append((sentences.setdefault(sentence, len(sentences)), *span))
    faults = [f"{path.name}: video {video}: no VidOR annotation" for video in by_video if video not in jsons]
    there = [(v, video) for v, video in enumerate(by_video) if video in jsons]
    jobs = [(jsons[video], by_video[video]) for _, video in there]
    parts = [(np.zeros((0, 4)), *[np.zeros(0, np.int64)] * 3)]
    for (v, _), (box, frame, text, wrong) in zip(there, parallel(vidor_rows, jobs, "VidOR")):
        parts.append((box, frame, np.full(len(box), v), text))
        faults += wrong
    box, frame, video, text = (np.concatenate(column) for column in zip(*parts))
    return make_annotations(by_video, sentences, video, frame, box, text, faults=faults,
                            descriptions=len(samples))


def vidor_rows(job) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """Boxes (n, 4), frame indices (n,), texts (n,) and faults of a VidOR file.

    job: its path, (text, tid, begin, end)s.
    """
    path, samples = job
    boxes, frames, texts, faults = [np.zeros((0, 4))], [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], []
    try:
        size, tracks = vidor_tracks(path)
    except ValueError as error:                                # one file of thousands
        return boxes[0], frames[0], texts[0], [f"{path.name}: left out: {error}"]
    of_track = {}
    for text, tid, begin, end in samples:
        track = tracks[tid]
        known = of_track.setdefault(tid, list(track))
        at = known[bisect_left(known, begin):bisect_left(known, end)]
        box, good = clip_boxes(np.array([track[frame] for frame in at], np.float64).reshape(-1, 4) / size)
        if good.sum() < end - begin:
            faults.append(f"{path.name}: object {tid}, frames {begin} to {end - 1}: "
                          f"{end - begin - len(at)} without a box, "
                          f"{(~good).sum()} boxes outside the picture or empty, left out")
        boxes.append(box[good])
        frames.append(np.array(at, np.int64)[good])
        texts.append(np.full(good.sum(), text))
    return np.concatenate(boxes), np.concatenate(frames), np.concatenate(texts), faults


def vidor_tracks(path) -> tuple[np.ndarray, dict[int, dict[int, list[float]]]]:
    """The picture's size (w, h, w, h), and tracks[tid][frame_idx] = pixel box (4), by ascending frame."""
    found, tracks = load_json(path), defaultdict(dict)
    size = [field(found, key, int, path) for key in ("width", "height")]
    if min(size) < 1:
        raise ValueError(f"{path}: width and height are {size}")
    for frame, items in enumerate(field(found, "trajectories", list, path)):
        where = f"{path}: trajectories, frame {frame}"
        check_kind(items, list, where)
        for item in items:
            box = field(item, "bbox", dict, where)
            corners = [field(box, key, (int, float), f"{where}: bbox") for key in ("xmin", "ymin", "xmax", "ymax")]
            tracks[field(item, "tid", int, where)][frame] = corners
    return np.array(size * 2, np.float64), tracks
