"""VidSTG, whose boxes are VidOR's."""

from collections import defaultdict
from pathlib import Path

import numpy as np

from formats.files import check_split, find_file, find_videos, load_json, parallel, walk
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
    table.files = find_videos(table.videos, files, [])
    return table


def vidstg_samples(entries: list, path="") -> list[tuple[str, str, int, int, int]]:
    """(sentence, video, tid, begin, end) of the paper's choice: the target is a person, the relation an action."""
    samples = []
    for i, entry in enumerate(entries):
        try:
            kind = {thing["tid"]: thing["category"] for thing in entry["subject/objects"]}
            span = entry["temporal_gt"]["begin_fid"], entry["temporal_gt"]["end_fid"]
            if entry["used_relation"]["predicate"] not in VIDOR_SPATIAL:
                samples += [(" ".join(caption["description"].split()), entry["vid"], caption["target_id"], *span)
                            for caption in entry["captions"] if kind[caption["target_id"]] in VIDOR_PEOPLE]
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path}: entry {i}: {type(error).__name__}: {error}; expected VidSTG's "
                             "subject/objects, temporal_gt, used_relation, captions") from None
    return samples


def vidstg_table(path, jsons: dict[str, Path]) -> Annotations:
    entries, sentences, by_video = load_json(path), {}, defaultdict(list)
    for sentence, video, *span in vidstg_samples(entries, path):
        by_video[video].append((sentences.setdefault(sentence, len(sentences)), *span))
    videos, faults = list(by_video), []
    there = [video for video in videos if video in jsons]
    faults += [f"{path.name}: video {video}: no VidOR annotation" for video in videos if video not in jsons]
    jobs = [(jsons[video], by_video[video]) for video in there]
    place = {video: v for v, video in enumerate(videos)}
    parts = [(np.zeros((0, 4)), *[np.zeros(0, np.int64)] * 3)]
    for video, (box, frame, text, wrong) in zip(there, parallel(vidor_rows, jobs, "VidOR")):
        parts.append((box, frame, np.full(len(box), place[video]), text))
        faults += wrong
    box, frame, video, text = (np.concatenate(column) for column in zip(*parts))
    return make_annotations(videos, sentences, video, frame, box, text, faults=faults)


def vidor_rows(job) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """Boxes (n, 4), frame indices (n,), texts (n,) and faults of a VidOR file.

    job: its path, (text, tid, begin, end)s.
    """
    path, samples = job
    boxes, frames, texts, faults = [], [], [], []
    try:
        found = load_json(path)
        size = np.array([found["width"], found["height"]] * 2, np.float64)
        tracks = defaultdict(dict)                             # tid -> frame_idx -> pixel box
        for frame, items in enumerate(found["trajectories"]):
            for item in items:
                tracks[item["tid"]][frame] = [item["bbox"][k] for k in ("xmin", "ymin", "xmax", "ymax")]
    except (KeyError, TypeError, ValueError) as error:
        none = np.zeros(0, np.int64)
        return np.zeros((0, 4)), none, none, [f"{path.name}: left out: {type(error).__name__} {error}"]
    for text, tid, begin, end in samples:
        track = tracks[tid]
        at = [frame for frame in range(begin, end) if frame in track]
        box, good = clip_boxes(np.array([track[frame] for frame in at], np.float64).reshape(-1, 4) / size)
        if good.sum() < end - begin:
            faults.append(f"{path.name}: object {tid}, frames {begin} to {end - 1}: "
                          f"{end - begin - len(at)} without a box, "
                          f"{(~good).sum()} boxes outside the picture or empty, left out")
        boxes.append(box[good])
        frames.append(np.array(at, np.int64)[good])
        texts.append(np.full(good.sum(), text))
    return np.concatenate(boxes), np.concatenate(frames), np.concatenate(texts), faults
