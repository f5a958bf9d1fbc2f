"""HC-STVG: descriptions of film clips, split into sentences of one action each."""

import numpy as np

from formats.files import check_split, find_file, find_videos, load_json, walk
from formats.sentences import split_sentences
from table import Annotations, cached, clip_boxes, make_annotations, merge


HCSTVG_SOURCE = "https://github.com/tzhhhh123/HC-STVG"


def read_hcstvg(data, split: str = "train", version: int | None = None) -> Annotations:
    """HC-STVG v1 or v2 (by default v2 if it is there), original or cleaned: each sentence on its part of the tube.

    A description of k sentences cuts its tube into k parts of equal length, in order; the paper says no
    more than that they are matched in order. Frame indices count from 0, the official `st_frame` from 1.
    split "all" is train and val of v2, whose 10,131 + 3,482 descriptions are the 13,613 of the paper's Table 1.
    """
    check_split(split, ("train", "val", "test", "all"))
    if split == "all":
        return merge([read_hcstvg(data, part, version) for part in ("train", "val")])
    files, _ = walk(data)
    files = [file for file in files if not file.name.endswith(("_proc.json", "_annotations.json"))]
    patterns = {2: [f"*v2*/{split}*.json", f"{split}*v2*.json"], 1: [f"*v1*/{split}*.json", f"{split}.json"]}
    path = find_file(files, patterns[version] if version else patterns[2] + patterns[1], data,
                     HCSTVG_SOURCE)
    table = cached(data, "hcstvg", [path], [split], lambda: hcstvg_table(path))
    table.files = find_videos(table.videos, files, [])
    return table


def hcstvg_table(path) -> Annotations:
    entries, sentences, faults = load_json(path), {}, []
    if not isinstance(entries, dict):
        raise ValueError(f"{path}: a {type(entries).__name__}; HC-STVG's file is one object, clip name -> entry")
    parts = [(np.zeros((0, 4)), *[np.zeros(0, np.int64)] * 3)]
    for v, (clip, entry) in enumerate(entries.items()):
        try:
            size = (entry["width"], entry["height"]) if "width" in entry else entry["img_size"][::-1]
            text = entry["caption"] if "caption" in entry else entry["English"]
            xywh, first = np.array(entry["bbox"], np.float64).reshape(-1, 4), int(entry["st_frame"]) - 1
            scale = np.tile(np.array(size, np.float64), 2)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise ValueError(f"{path}: clip {clip}: expected bbox, st_frame, width and height "
                             "(or img_size), caption (or English); "
                             f"{type(error).__name__}: {error}") from None
        box, good = clip_boxes(np.hstack([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]]) / scale)
        good &= first + np.arange(len(box)) >= 0
        short = split_sentences(text)[:len(box)]               # never more sentences than frames
        if not good.all() or not short:
            faults.append(f"{path.name}: {clip}: {(~good).sum()} of {len(box)} boxes "
                          f"outside the picture or empty, dropped; {len(short)} sentences")
        if not short:
            continue
        ids = np.array([sentences.setdefault(sentence, len(sentences)) for sentence in short])
        text = ids[np.arange(len(box)) * len(short) // len(box)]              # equal shares
        rows = np.flatnonzero(good)
        parts.append((box[rows], first + rows, np.full(len(rows), v), text[rows]))
    box, frame, video, text = (np.concatenate(column) for column in zip(*parts))
    return make_annotations(entries, sentences, video, frame, box, text, faults=faults)
