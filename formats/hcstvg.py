"""HC-STVG: descriptions of film clips, split into sentences of one action each.

    train.json, test.json (v1), trainv2.json, valv2.json      boxes are x, y, w, h in pixels
        {"55_vfjywN5CN0Y.mp4": {"bbox": [[32, 24, 64, 48], ...], "st_frame": 1, "st_time": 0.0,
         "ed_time": 4.2, "img_num": 500, "width": 320, "height": 240,
         "caption": "The man walks in and sits down."}, ...}

`st_frame` counts from 1, a clip lasts 20 s. Original files of v2 have "img_size": [height, width]
and "English".
"""

import numpy as np

from formats.files import check_kind, check_pixels, check_split, field, find_file, four_numbers
from formats.files import load_json, videos_on_disk, walk
from formats.sentences import split_sentences
from table import Annotations, cached, clip_boxes, make_annotations, merge

HCSTVG_SOURCE = "https://github.com/tzhhhh123/HC-STVG"
NUMBER = int, float


def read_hcstvg(data, split: str = "train", version: int | None = None) -> Annotations:
    """HC-STVG v1 or v2 (by default v2 if it is there), original or cleaned.

    A description of k sentences cuts its tube into k parts of equal length, in order; the paper
    says no more than that they are matched in order. Frame indices count from 0, `st_frame` from 1.
    split "all" is train and val of v2: their 10,131 + 3,482 descriptions are Table 1's 13,613.
    """
    check_split(split, ("train", "val", "test", "all"))
    if split == "all":
        return merge([read_hcstvg(data, part, version or 2) for part in ("train", "val")])
    files, _ = walk(data)
    path = find_json(files, data, split, version)
    table = cached(data, "hcstvg", [path], [split], lambda: hcstvg_table(path))
    table.files = videos_on_disk(table.videos, files, [])
    return table


def find_json(files: list, data, split: str, version: int | None):
    """The annotation file of a split, of v2 if it is there."""
    files = [file for file in files if not file.name.endswith(("_proc.json", "_annotations.json"))]
    patterns = {2: [f"*v2*/{split}*.json", f"{split}*v2*.json"],
                1: [f"*v1*/{split}*.json", f"{split}.json"]}
    patterns = patterns[version] if version else patterns[2] + patterns[1]
    return find_file(files, patterns, data, HCSTVG_SOURCE)


def read_descriptions(data, split: str = "train",
                      version: int | None = None) -> list[tuple[str, str]]:
    """(clip, description) of a split, as they stand in the official file."""
    parts, files = ("train", "val") if split == "all" else (split,), walk(data)[0]
    version = version or (2 if split == "all" else None)
    paths = [find_json(files, data, part, version) for part in parts]
    return [(clip, hcstvg_entry(entry, f"{path}: clip {clip}")[3])
            for path in paths for clip, entry in load_json(path).items()]


def hcstvg_table(path) -> Annotations:
    entries, sentences, faults, sizes, lengths = load_json(path), {}, [], [], []
    check_kind(entries, dict, path, "HC-STVG's one object, clip name -> entry")
    parts, tubes = [(np.zeros((0, 4)), *[np.zeros(0, np.int64)] * 3)], []
    for v, (clip, entry) in enumerate(entries.items()):
        where = f"{path}: clip {clip}"
        tube, first, size, text = hcstvg_entry(entry, where)
        tubes.append(tube)
        sizes.append(size)
        box, good = clip_boxes(tube / np.tile(size, 2))
        good &= first + np.arange(len(box)) >= 0
        short = split_sentences(text)[:len(box)]               # never more sentences than frames
        start, end, frames = (field({key: 0} | entry, key, NUMBER, where)
                              for key in ("st_time", "ed_time", "img_num"))
        lengths.append(int(frames))
        said = (end - start) * frames / 20                     # 0 where one of them is not said
        if said and abs(said - len(box)) > said / 4:
            faults.append(f"{path.name}: {clip}: {len(box)} boxes, but its times span {said:.0f} "
                          "frames; kept")
        if frames and first + len(box) > frames:
            faults.append(f"{path.name}: {clip}: boxes to frame {first + len(box)} of {frames}; "
                          "kept")
        if not good.all() or not short:
            faults.append(f"{path.name}: {clip}: {(~good).sum()} of {len(box)} boxes outside the "
                          f"picture or empty, dropped; {len(short)} sentences")
        if short:
            ids = np.array([sentences.setdefault(sentence, len(sentences)) for sentence in short])
            text = ids[np.arange(len(box)) * len(short) // len(box)]         # equal shares
            rows = np.flatnonzero(good)
            parts.append((box[rows], first + rows, np.full(len(rows), v), text[rows]))
    check_pixels(path, tubes, sizes)
    box, frame, video, text = (np.concatenate(column) for column in zip(*parts))
    return make_annotations(entries, sentences, video, frame, box, text, faults=faults,
                            descriptions=len(parts) - 1,
                            size=np.array(sizes, np.int32).reshape(-1, 2),
                            lengths=np.array(lengths, np.int64))


def hcstvg_entry(entry, where: str) -> tuple[np.ndarray, int, np.ndarray, str]:
    """Boxes (n, 4) xyxy in pixels, the first's 0-based frame, (width, height), description."""
    check_kind(entry, dict, where, "an object with bbox, st_frame, width, height and caption")
    boxes = [four_numbers(box, f"{where}: bbox: a box", "[x, y, w, h]")
             for box in field(entry, "bbox", list, where)]
    first = field(entry, "st_frame", NUMBER, where) - 1
    if "width" in entry:
        size = [field(entry, side, NUMBER, where) for side in ("width", "height")]
    else:
        size = field(entry, "img_size", list, where, "[height, width]")[::-1]
    for side in size:
        check_kind(side, NUMBER, f"{where}: img_size")
    if len(size) != 2 or min(size) < 1 or first % 1 or not -2 < first + len(boxes) < 2 ** 24:
        raise ValueError(f"{where}: size {size}, st_frame {first + 1} and {len(boxes)} boxes "
                         "are no tube in a picture")
    box = np.array(boxes, np.float64).reshape(-1, 4)
    box[:, 2:] += box[:, :2]
    text = field(entry, "caption" if "caption" in entry else "English", str, where)
    return box, int(first), np.array(size, np.float64), text
