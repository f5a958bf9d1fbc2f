"""Evaluation: scored boxes against annotated ones, as the official tools of the benchmarks do it.

Enter detections, one row a (box, class) pair, and the ground truth as the one table of data.py.
Leave frame mAP at IoU 0.5 for base, novel and all classes (the paper's Tables 2 to 6), under one of
two protocols: `ava`, the ActivityNet evaluator's (greedy argmax matching, precision envelope), or
`act`, that of ACT and MOC for UCF101-24 and JHMDB-21 (a matched person is removed, pixel-inclusive
IoU, trapezoid area). Beyond the paper: video mAP over linked tubes, and how well the boxes alone
find the people. A saved predictions file of any system is scored without a model:

    python evaluate.py --ckpt runs/ucf101-24/last.pt --proposals boxes.csv       # a checkpoint on its benchmark
    python evaluate.py --predictions P.csv --ground-truth ava_val_v2.2.csv --label-map M.pbtxt
    python evaluate.py --predictions P.csv --ground-truth UCF101v2-GT.pkl --protocol ava act

Ranking is by score alone and any real number will do. Equal scores keep the order of their rows
(the official tools sort unstably there, so that their result depends on the machine).
"""

import argparse
import csv
import gzip
import json
import os
import platform
import re
import shutil
import sys
import zlib
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

import data
import engine
import ovstad
from data import Annotations


@dataclass
class Detections:
    """What a model says about the keyframes of a ground truth: one row a (box, class) pair, m rows."""

    video: np.ndarray             # (m,) int32, place in the ground truth's `videos`
    keyframe: np.ndarray          # (m,) the ground truth's unit: 0-based frame_idx, or seconds
    box: np.ndarray               # (m, 4) float32 or float64, xyxy in [0, 1]
    label: np.ndarray             # (m,) int32, place in the ground truth's `texts`
    score: np.ndarray             # (m,) float, any real number; a logit keeps more order than a sigmoid


# ---------------------------------------------------------------- files in and out

LAYOUT = {"predictions": "video,keyframe,x1,y1,x2,y2,action_id,score",
          "ground truth": "video,keyframe,x1,y1,x2,y2,action_id[,person_id], or video,keyframe",
          "excluded": "video,keyframe"}
WIDTHS = {"predictions": (2, 7, 8), "ground truth": (2, 7, 8), "excluded": (2,)}


@contextmanager
def replacing(path, binary: bool = False):
    """A file that takes the place of `path` once it is complete; a failure leaves nothing behind."""
    part = Path(f"{path}.part")
    part.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open(part, "wb") if binary else open(part, "w", newline="", encoding="utf-8") as file:
            yield file
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_label_map(path, labels: dict[int, str]) -> None:
    """A pbtxt in the layout of the official 60-class AVA files."""
    with replacing(path) as file:
        for number, name in labels.items():
            quoted = name.replace("\\", "\\\\").replace('"', '\\"')
            file.write(f'item {{\n  name: "{quoted}"\n  id: {number}\n}}\n')


def write_predictions(path, truth: Annotations, detections: Detections) -> None:
    """The predictions CSV in the AVA layout, in the order of `detections`, and its label map <stem>.pbtxt.

    Frames count from 1 there and seconds have four digits. The file scores exactly as the arrays do.
    """
    path, ids = Path(path), np.array(official_ids(truth))
    write_label_map(path.with_suffix(".pbtxt"), dict(zip(ids.tolist(), truth.texts)))
    score = "{:.9g}".format if detections.score.dtype == np.float32 else repr          # keeps the order
    with replacing(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        for start in range(0, len(detections.video), 2000):
            part = slice(start, start + 2000)
            keyframe = detections.keyframe[part]
            if truth.unit == "frame":
                keyframe = (keyframe + 1).tolist()
            else:
                keyframe = [f"{int(k):04d}" if k == int(k) else str(k) for k in keyframe.astype(np.float32)]
            writer.writerows(zip([truth.videos[v] for v in detections.video[part].tolist()], keyframe,
                                 *exact(detections.box[part]).T.tolist(), ids[detections.label[part]].tolist(),
                                 map(score, detections.score[part].tolist())))


class Places(dict):
    """The place of each key in order of appearance: asking for a new key gives it the next number."""

    def __missing__(self, key):
        place = self[key] = len(self)
        return place


@dataclass
class Table:
    """A CSV of one of the roles in LAYOUT by columns: n rows with a box, and the keyframes they stand in."""

    video: np.ndarray             # (keyframes,) int32, place among the videos
    time: np.ndarray              # (keyframes,) float64 seconds, or int32 frame_idx
    actions: list[str]            # distinct action ids, as written
    row: np.ndarray               # (n,) int32, place in video and time
    action: np.ndarray            # (n,) int32, place in actions
    number: np.ndarray            # (n, 4) float64 box; predictions (n, 5), with the score
    person: np.ndarray            # (n,) int32, -1 where the file has none


def read_table(path, role: str, videos: Places, frames: bool = False, known: set[int] | None = None) -> Table:
    """A file of the given role; `videos` are added to.

    frames: keyframes are 1-based frame numbers; known: the ids that may occur, None for any. Rows are
    read by columns, a million in two seconds; only a file with a fault is read again, row by row, for
    a ValueError with its line.
    """
    keyframes, actions = Places(), Places()
    parts = [(np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros((0, 4 + (role == "predictions"))),
              np.zeros(0, np.int32))]
    try:
        for chunk in chunks(path):
            for width in sorted(set(map(len, chunk))):
                if width not in WIDTHS[role]:
                    raise ValueError
                columns = list(zip(*(row for row in chunk if len(row) == width)))
                key = 1 if role == "predictions" and width == 7 else 2
                row = np.array(list(map(keyframes.__getitem__, zip(*columns[:key]))), np.int32)
                if width == 2:                               # a keyframe without people
                    continue
                *box, action, last = (*columns[key:], ()) if width - key == 5 else columns[key:]
                number = np.array([*box, last] if role == "predictions" else box, np.float64).T
                x1, y1, x2, y2 = number[:, :4].T
                inside = (number[:, :4] >= 0) & (number[:, :4] <= 1)
                if not (np.isfinite(number).all() and inside.all()
                        and (role == "predictions" or ((x1 <= x2) & (y1 <= y2)).all())):
                    raise ValueError
                person = [int(p or -1) for p in last] if role == "ground truth" and last else [-1] * len(row)
                parts.append((row, np.array(list(map(actions.__getitem__, action)), np.int32), number,
                              np.array(person, np.int32)))
        if role == "predictions" and not all(int(a) in known if known else int(a) > 0 for a in actions):
            raise ValueError
        stamps = [parse_key(key, frames) for key in keyframes]
    except ValueError as error:
        explain(path, role, frames, known)
        raise ValueError(f"{path}: cannot be read ({error})") from error
    if not keyframes:
        raise ValueError(f"{path}: is empty; expected rows {LAYOUT[role]}")
    return Table(np.array([videos[video] for video, _ in stamps], np.int32),
                 np.array([time for _, time in stamps], np.int32 if frames else np.float64),
                 [action.strip() for action in actions], *map(np.concatenate, zip(*parts)))


@contextmanager
def csv_reader(path):
    """Rows of a CSV, plain or .gz; ValueError if it is not text in UTF-8."""
    opener = gzip.open if str(path).endswith(".gz") else open
    try:
        with opener(path, "rt", newline="", encoding="utf-8-sig") as file:
            yield csv.reader(file, skipinitialspace=True)
    except (UnicodeDecodeError, csv.Error, EOFError, gzip.BadGzipFile) as error:
        raise ValueError(f"{path}: is not a CSV in UTF-8 ({error})") from None


def is_header(row: list[str]) -> bool:
    return bool(row) and row[0].lower() in ("video", "video_id")


def chunks(path):
    """The rows of a CSV, 500 at a time: they stay in the cache, and the garbage collector out of the way."""
    with csv_reader(path) as reader:
        first = True
        while rows := list(islice(reader, 500)):
            rows = [row for row in rows[first and is_header(rows[0]):] if row]
            first = False
            if rows:
                yield rows


def parse_key(key: tuple, frames: bool) -> tuple[str, float]:
    """(video, second or 0-based frame) of ("video", "0902"), ("video_0902",) or ("video,0902",)."""
    video, time = key if len(key) == 2 else re.split(r"[_,](?=[\d.]+$)", key[0])
    time = float(time)
    if not video or not 0 <= time < np.inf or frames and (time < 1 or time != int(time)):
        raise ValueError
    return video, int(time) - 1 if frames else time


def explain(path, role: str, frames: bool, known: set[int] | None) -> None:
    """ValueError for the first row that `read_table` cannot take, with its line and what was expected."""
    with csv_reader(path) as reader:
        for i, row in enumerate(reader):
            if row and not (i == 0 and is_header(row)) and (fault := fault_of(row, role, frames, known)):
                raise ValueError(f"{path}:{reader.line_num}: {fault}")


def fault_of(row: list[str], role: str, frames: bool, known: set[int] | None) -> str | None:
    """What is wrong with one row, in words; None if nothing is."""
    if len(row) not in WIDTHS[role]:
        return f"{len(row)} columns; expected {LAYOUT[role]}"
    key = 1 if role == "predictions" and len(row) == 7 else 2
    try:
        parse_key(tuple(row[:key]), frames)
    except ValueError:
        stamp = "a frame number, 1 or more" if frames else "a time in seconds, 0 or more"
        return f"{','.join(row[:key])!r} is not a video and {stamp}; expected {LAYOUT[role]}"
    if len(row) == 2:
        return None
    action, last = row[key + 4].strip(), row[key + 5:]
    for cell in row[key:key + 4] + (last if role == "predictions" else []):
        try:
            if not np.isfinite(float(cell)):
                return f"{cell!r} is not a finite number; expected {LAYOUT[role]}"
        except ValueError:
            return f"{cell!r} is not a number; expected {LAYOUT[role]}"
    x1, y1, x2, y2 = box = [float(cell) for cell in row[key:key + 4]]
    if min(box) < 0 or max(box) > 1:
        if key == 1:
            return (f"7 columns, and {row[1]!r} is no x1; expected {LAYOUT[role]}, "
                    "or video_timestamp in one column")
        return (f"box {','.join(row[key:key + 4])} is outside [0, 1]; divide pixels by the frame's width and "
                "height, and cut boxes at its border")
    if role == "predictions":
        if not action.isdigit() or int(action) < 1:
            return f"action id {action!r} is not a whole number, 1 or more" + (
                   "" if action else " (is this a file of proposals?)")
        if known and int(action) not in known:
            return (f"action id {action} is not one of the {len(known)} classes; "
                    f"expected {min(known)} to {max(known)}")
    else:
        if x1 > x2 or y1 > y2:
            return f"box {','.join(row[key:key + 4])} of the ground truth is not x1 <= x2, y1 <= y2"
        try:
            int(last[0] or -1) if last else None
        except ValueError:
            return f"person id {last[0]!r} is not a whole number; expected {LAYOUT[role]}"
    return None


def read_ground_truth(path, labels: dict[int, str] | None = None, split: int = 1) -> Annotations:
    """Ground truth from a CSV in the AVA layout, or from an ACT pickle (the test videos of `split`).

    labels: the label map; rows of other classes stay in the table as unlabelled people. Without it the
    classes are those of the file. Column 7 may hold class names, as in an annotations CSV. Boxes of a CSV
    stay float64, as the official tools read them.
    """
    if Path(path).suffix in (".pkl", ".pickle"):
        return read_pickle(path, split)
    videos = Places()
    table = read_table(path, "ground truth", videos)
    if all(re.fullmatch(r"[+-]?\d*", action) for action in table.actions):
        actions = [int(action or -1) for action in table.actions]
        labels = labels or {i: f"action {i}" for i in sorted(set(actions)) if i > 0}
        place_of = {i: place for place, i in enumerate(labels)}
    else:
        actions = table.actions
        labels = labels or dict(enumerate(sorted(set(actions) - {""}), 1))
        place_of = {name: place for place, name in enumerate(labels.values())}
    place = np.array([place_of.get(action, -1) for action in actions], np.int32)
    if not (place >= 0).any():
        raise ValueError(f"{path}: none of its classes ({', '.join(table.actions[:5])}) is in the label map")

    # a keyframe of 2-column rows alone gets a row without box and text; then rows by video and keyframe
    alone = np.setdiff1d(np.arange(len(table.video)), table.row)
    row = np.concatenate([table.row, alone])
    text = np.concatenate([place[table.action], np.full(len(alone), -1)])
    person = np.concatenate([table.person, np.full(len(alone), -1)])
    box = np.concatenate([table.number, np.zeros((len(alone), 4))])
    order = np.lexsort((table.time[row], table.video[row]))
    row = row[order]
    return Annotations(list(videos), list(labels.values()), table.video[row], table.time[row].astype(np.float32),
                       box[order], text[order].astype(np.int32), unit="second", ids=list(labels),
                       person=person[order].astype(np.int32) if (person >= 0).any() else None)


def read_pickle(path, split: int) -> Annotations:
    """Test videos of UCF101v2-GT.pkl or JHMDB-GT.pkl, or of gurkirt's pyannot.pkl beside its testlist01.txt."""
    path = Path(path)
    content = data.load_pickle(path)
    count = len(content["labels"]) if isinstance(content, dict) and "labels" in content else 0
    if count in (24, 21):
        return data.act_table(path, data.UCF101_24 if count == 24 else data.JHMDB_21, "test", split)
    if path.name == "pyannot.pkl":
        return data.gurkirt_table(path, path.with_name("testlist01.txt"), "test")
    raise ValueError(f"{path}: has {count} labels; expected UCF101v2-GT.pkl with 24, JHMDB-GT.pkl with 21, "
                     "or pyannot.pkl")


def read_predictions(path, truth: Annotations, labels: dict[int, str] | None = None) -> tuple[Detections, dict]:
    """A predictions CSV as places in `truth`, and how many rows were left out for what reason.

    labels: the file's label map; without it its ids are those of `truth`. Rows of other classes are
    left out. A video that an AVA ground truth lacks is appended to truth.videos, since its detections count
    as false; one that an ACT pickle lacks belongs to another split, and is left out.
    """
    known = {name: place for place, name in enumerate(truth.texts)}
    labels_of = labels or dict(zip(official_ids(truth), truth.texts))
    frames = truth.unit == "frame"
    videos = Places({video: place for place, video in enumerate(truth.videos)})
    table = read_table(path, "predictions", videos, frames, set(labels_of) if frames else None)
    if not len(table.row):
        raise ValueError(f"{path}: no predictions; expected rows {LAYOUT['predictions']}")
    label = np.array([known.get(labels_of.get(int(i)), -1) for i in table.actions], np.int32)[table.action]
    other_class = label < 0
    other_video = (table.video >= len(truth.videos))[table.row] & ~other_class & frames
    keep = ~other_class & ~other_video
    if not keep.any():
        raise ValueError(f"{path}: no row is of a class and a video of the ground truth; it has the ids "
                         f"{', '.join(table.actions[:3])} ... and videos like {list(videos)[-1]!r}")
    if not frames:
        truth.videos.extend(list(videos)[len(truth.videos):])
    row, number, label = table.row[keep], table.number[keep], label[keep]
    return (Detections(table.video[row], table.time[row], number[:, :4], label, number[:, 4]),
            {"of classes that are not evaluated": int(other_class.sum()),
             "on videos that the ground truth lacks": int(other_video.sum())})


def read_excluded(path, truth: Annotations) -> tuple[np.ndarray, np.ndarray]:
    """Videos and keyframes of a file of excluded timestamps, as `frame_map` takes them."""
    videos = Places({video: place for place, video in enumerate(truth.videos)})
    table = read_table(path, "excluded", videos, truth.unit == "frame")
    if truth.unit == "second":                               # predictions may name a video that the truth lacks
        truth.videos.extend(list(videos)[len(truth.videos):])
    return table.video, table.time


def read_novel(path, truth: Annotations) -> set[str]:
    """Names of the novel classes, one a line."""
    names = {}
    for line, name in enumerate(Path(path).read_text(encoding="utf-8-sig").splitlines(), 1):
        names[name.strip()] = line
    names.pop("", None)
    for name, line in names.items():
        if name not in truth.texts:
            raise ValueError(f"{path}:{line}: {name!r} is not one of the {len(truth.texts)} classes; "
                             f"expected names like {truth.texts[0]!r}, one a line")
    if not names:
        raise ValueError(f"{path}: is empty; expected the names of the novel classes, one a line")
    return set(names)


# ---------------------------------------------------------------- frame mAP

def frame_map(truth: Annotations, detections: Detections, protocol: str = "ava", iou: float = 0.5,
              excluded: tuple[np.ndarray, np.ndarray] | None = None, max_per_keyframe: int = 0,
              keyframes_without_gt: str = "false") -> dict:
    """Average precision of each class, and their mean: the results JSON, base and novel not yet divided.

    excluded: (videos, keyframes) as in Detections; these keyframes leave everything, counts too.
    max_per_keyframe: keep a keyframe's best rows over all classes (the official AVA script: 50); 0: all.
    keyframes_without_gt: detections on a keyframe that the ground truth does not name are "false"
    (AVA 2019, ACT), or "ignore"d (AVA 2020). Rows of the ground truth without a text match nothing
    but name their keyframe. A class without ground truth has ap None and does not count in the mean.
    """
    check_protocol(truth, protocol, keyframes_without_gt)
    check_detections(truth, detections)
    true_key = keyframe_key(truth, truth.video, truth.keyframe)                  # (n,) int64
    found_key = keyframe_key(truth, detections.video, detections.keyframe)       # (m,) int64
    keys, true_place = np.unique(true_key, return_inverse=True)
    found_place = np.minimum(np.searchsorted(keys, found_key), max(len(keys) - 1, 0))
    if len(keys):                                            # place len(keys): not in the ground truth
        found_place[keys[found_place] != found_key] = len(keys)

    # what does not take part: rows over the limit, excluded keyframes, keyframes without ground truth
    keep = np.ones(len(found_key), bool)                     # (m,)
    true_keep = truth.text >= 0                              # (n,)
    left_out, counted_keyframes = {}, len(keys)
    if max_per_keyframe:
        keep = best_of_keyframe(found_key, detections, official_ids(truth), max_per_keyframe)
        left_out["over the limit of a keyframe"] = int((~keep).sum())
    if excluded is not None:
        banned = np.unique(keyframe_key(truth, *map(np.asarray, excluded)))
        gone = np.isin(found_key, banned)
        left_out["on excluded keyframes"] = int((keep & gone).sum())
        keep &= ~gone
        true_keep &= ~np.isin(true_key, banned)
        counted_keyframes -= int(np.isin(keys, banned).sum())
    if keyframes_without_gt == "ignore":
        gone = found_place == len(keys)
        left_out["on keyframes without ground truth"] = int((keep & gone).sum())
        keep &= ~gone
    if protocol == "ava":
        x1, y1, x2, y2 = detections.box.T
        gone = ~((x1 < x2) & (y1 < y2))
        left_out["degenerate"] = int((keep & gone).sum())
        keep &= ~gone

    # class by class; within a class, rows of the ground truth by keyframe. The official AVA script reads
    # the person id as a score and takes the highest first, which decides between two boxes of equal IoU
    last = -truth.person if protocol == "ava" and truth.person is not None else np.zeros(len(true_place))
    true_rows = np.lexsort((last, true_place, truth.text))
    true_rows = true_rows[true_keep[true_rows]]
    few = np.min_scalar_type(len(truth.texts))               # a sort of one or two bytes is linear in time
    found_rows = np.argsort(detections.label.astype(few), kind="stable")
    found_rows = found_rows[keep[found_rows]]
    classes = np.arange(len(truth.texts) + 1)
    true_bounds = np.searchsorted(truth.text[true_rows], classes)
    found_bounds = np.searchsorted(detections.label[found_rows], classes)

    entries = []
    for label, (name, official_id) in enumerate(zip(truth.texts, official_ids(truth))):
        rows_t = true_rows[true_bounds[label]:true_bounds[label + 1]]
        rows_d = found_rows[found_bounds[label]:found_bounds[label + 1]]
        rows_d = rows_d[np.argsort(-detections.score[rows_d], kind="stable")]     # descending score
        starts = np.zeros(len(keys) + 2, np.int64)           # of each keyframe in rows_t; the last is empty
        np.cumsum(np.bincount(true_place[rows_t], minlength=len(keys) + 1), out=starts[1:])
        pairs = find_pairs(boxes_of(truth, truth.video[rows_t], truth.box[rows_t]), starts,
                       boxes_of(truth, detections.video[rows_d], detections.box[rows_d]),
                       found_place[rows_d], iou, pixel=int(protocol == "act"))
        true = match(*pairs, found_place[rows_d], len(rows_t), remove=protocol == "act")
        entries.append({"id": official_id, "name": name, "split": None,
                        "ap": average_precision(true, len(rows_t), protocol) if len(rows_t) else None,
                        "gt": len(rows_t), "predictions": len(rows_d),
                        "recall": int(true.sum()) / len(rows_t) if len(rows_t) else None})
    person = np.column_stack([true_place[true_rows], truth.box[true_rows]])
    return {"protocol": protocol, "iou": iou, "max_per_keyframe": max_per_keyframe,
            "keyframes_without_gt": keyframes_without_gt, "keyframes": counted_keyframes,
            "boxes": len(np.unique(person, axis=0)), "predictions": len(found_rows), "left_out": left_out,
            "mean_ap": {"base": None, "novel": None, "all": mean_of(entry["ap"] for entry in entries)},
            "classes": entries}


def summarise(result: dict, novel: set[str]) -> dict:
    """The result with every class marked base or novel, and the mean of each side beside that of all."""
    entries = [{**entry, "split": "novel" if entry["name"] in novel else "base"} for entry in result["classes"]]
    mean_ap = {split: mean_of(entry["ap"] for entry in entries if entry["split"] == split)
               for split in ("base", "novel")}
    return {**result, "mean_ap": {**mean_ap, "all": result["mean_ap"]["all"]}, "classes": entries}


def average_precision(true: np.ndarray, n_true: int, protocol: str) -> float:
    """Area under precision over recall. true: (m,) bool by descending score; n_true: people to find.

    In float64; the official ACT script rounds the points to float32, which moves the seventh digit.
    """
    precision = np.cumsum(true) / np.arange(1, len(true) + 1)
    if protocol == "ava":                                    # precision made non-increasing from the right
        heights = np.maximum.accumulate(precision[::-1])[::-1]
    else:                                                    # trapezoid, from precision 1 at recall 0
        heights = (precision + np.concatenate([[1.0], precision[:-1]])) / 2
    return float(heights[true].sum() / n_true)               # every true detection is one step of 1 / n_true


def mean_of(values) -> float | None:
    """The mean of those that are not None; None if there are none."""
    values = [value for value in values if value is not None]
    return float(np.mean(values)) if values else None


def official_ids(truth: Annotations) -> list[int]:
    return truth.ids if truth.ids is not None else list(range(1, len(truth.texts) + 1))


def check_protocol(truth: Annotations, protocol: str, keyframes_without_gt: str) -> None:
    """ValueError if this truth cannot be scored so."""
    if protocol not in ("ava", "act"):
        raise ValueError(f"protocol {protocol!r} is not known; use 'ava' or 'act'")
    if keyframes_without_gt not in ("false", "ignore"):
        raise ValueError(f"keyframes_without_gt {keyframes_without_gt!r}: use 'false' or 'ignore'")
    if protocol == "act" and truth.size is None:
        raise ValueError("protocol act measures in pixels, but the ground truth has no frame sizes; "
                         "use protocol ava")


def check_detections(truth: Annotations, detections: Detections) -> None:
    """Refuse what would give a number without meaning."""
    m = len(detections.video)
    for name in ("keyframe", "box", "label", "score"):
        if getattr(detections, name).shape != ((m, 4) if name == "box" else (m,)):
            raise ValueError(f"detections.{name} has shape {getattr(detections, name).shape}, "
                             f"detections.video ({m},)")
    if m and not np.isfinite(detections.score).all():
        row = int(np.flatnonzero(~np.isfinite(detections.score))[0])
        raise ValueError(f"score {detections.score[row]} of detection {row} is not a finite number")
    if m and not 0 <= detections.label.min() <= detections.label.max() < len(truth.texts):
        raise ValueError(f"labels {detections.label.min()}..{detections.label.max()} are not places in the "
                         f"{len(truth.texts)} classes")


def keyframe_key(truth: Annotations, video: np.ndarray, keyframe: np.ndarray) -> np.ndarray:
    """(n,) int64, equal where video and keyframe are equal. Seconds are compared in float32."""
    exact = keyframe.astype(np.int32 if truth.unit == "frame" else np.float32) + 0       # -0.0 becomes 0.0
    return video.astype(np.int64) << 32 | exact.view(np.uint32)


def exact(box: np.ndarray) -> np.ndarray:
    """float64; a float32 box is brought back to the six decimals it was read from, for an exact IoU of 0.5."""
    box64 = box.astype(np.float64, copy=False)
    return np.round(box64, 6) if box.dtype == np.float32 else box64


def boxes_of(truth: Annotations, video: np.ndarray, box: np.ndarray) -> np.ndarray:
    """(n, 4) float64 in the unit of the set's own annotation: pixels, to a thousandth, if sizes are known."""
    if truth.size is None:
        return exact(box)
    return np.round(exact(box) * np.tile(truth.size, 2)[video], 3)


def best_of_keyframe(key: np.ndarray, detections: Detections, ids: list[int], limit: int) -> np.ndarray:
    """(m,) bool, the official script's choice of at most `limit` rows of a keyframe over all classes.

    It reads the file into a heap: a later row gets in if it scores strictly higher than the lowest one
    kept, and pushes out, of equal lowest scores, the one with the smallest (id, y1, x1, y2, x2). So with s
    the limit-th best score, the first `limit` rows that score s or more get in, in the order of the file,
    and each later one above s pushes out one that scores s.
    """
    keep = np.ones(len(key), bool)
    rows = np.lexsort((-detections.score, key))              # by keyframe, then descending score
    start, length = runs(key[rows])
    start, length = start[length > limit], length[length > limit]
    lowest = np.repeat(detections.score[rows[start + limit - 1]], length)    # s of each row's keyframe
    rows = rows[np.repeat(start, length) + count_up(length)]
    keep[rows[detections.score[rows] < lowest]] = False
    candidates = detections.score[rows] >= lowest
    rows, lowest = rows[candidates], lowest[candidates]

    order = np.lexsort((rows, key[rows]))                    # by keyframe, then the order of the file
    rows, lowest = rows[order], lowest[order]
    start, length = runs(key[rows])
    tied, late = detections.score[rows] == lowest, count_up(length) >= limit
    keep[rows[tied & late]] = False
    pushes = np.add.reduceat(~tied & late, start) if len(start) else start               # of each keyframe
    group = np.repeat(np.arange(len(start)), length)[tied & ~late]
    rows = rows[tied & ~late]
    x1, y1, x2, y2 = detections.box[rows].T
    order = np.lexsort((x2, y2, x1, y1, np.asarray(ids)[detections.label[rows]], group))
    _, length = runs(group)
    keep[rows[order[count_up(length) < pushes[group]]]] = False
    return keep


def runs(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Start and length of each run of equal values."""
    new = np.ones(len(values), bool)
    new[1:] = values[1:] != values[:-1]
    start = np.flatnonzero(new)
    return start, np.diff(np.append(start, len(values)))


def count_up(lengths: np.ndarray) -> np.ndarray:
    """0, 1, ... lengths[0]-1, 0, 1, ... lengths[1]-1, ..."""
    return np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)


def box_iou(a: np.ndarray, b: np.ndarray, pixel: int = 0) -> np.ndarray:
    """IoU of each row of a with the same row of b, (n, 4) float64. pixel 1: x2 and y2 belong to the box.

    The order of the additions is the official tools': another one moves exact halves.
    """
    sides = np.minimum(a[:, 2:], b[:, 2:]) + pixel - np.maximum(a[:, :2], b[:, :2])
    overlap = np.maximum(sides, 0).prod(axis=1)
    area_a, area_b = ((box[:, 2:] - box[:, :2] + pixel).prod(axis=1) for box in (a, b))
    with np.errstate(invalid="ignore", divide="ignore"):     # two empty boxes: nan, which matches nothing
        return overlap / (area_a + area_b - overlap)


def find_pairs(true_box, starts, found_box, place, iou, pixel) -> tuple[np.ndarray, np.ndarray]:
    """(detection, ground truth) places of all pairs in one keyframe with IoU at or above the threshold.

    starts: of each keyframe in true_box. Pairs come by detection, the highest IoU first, of equals the first.
    """
    n = starts[place + 1] - starts[place]                    # ground truth of each detection's keyframe
    found = np.repeat(np.arange(len(place)), n)
    true = np.repeat(starts[place], n) + count_up(n)
    overlap = box_iou(found_box[found], true_box[true], pixel)
    enough = overlap >= iou
    found, true, overlap = found[enough], true[enough], overlap[enough]
    order = np.lexsort((-overlap, found))
    return found[order], true[order]


def match(found, true, place, n_true, remove) -> np.ndarray:
    """(m,) bool: which detections are true. found, true: of each pair; place: (m,) keyframe of a detection.

    AVA: a detection asks for the box with the highest IoU, whether it is free or not; the first to
    ask gets it. ACT (remove): it asks for the highest among those still free.
    """
    hit = np.zeros(len(place), bool)
    if not remove:
        first = runs(found)[0]
        _, winner = np.unique(true[first], return_index=True)
        hit[found[first][winner]] = True
        return hit
    # keyframes do not disturb each other: the k-th detection of every keyframe is matched at once
    asking = found[runs(found)[0]]
    order = np.argsort(place[asking], kind="stable")
    turn = np.zeros(len(place), np.int64)
    turn[asking[order]] = count_up(runs(place[asking][order])[1])
    order = np.argsort(turn[found], kind="stable")
    found, true = found[order], true[order]
    free = np.ones(n_true, bool)
    for start, length in zip(*runs(turn[found])):
        part = slice(start, start + length)
        still = free[true[part]]
        f, t = found[part][still], true[part][still]
        first = runs(f)[0]
        hit[f[first]], free[t[first]] = True, False
    return hit


# ---------------------------------------------------------------- where: boxes alone, and tubes

def box_report(truth: Annotations, proposals, protocol: str = "ava", iou: float = 0.5) -> dict:
    """How well boxes find people, whatever these do: recall at the IoU, and AP by the boxes' own scores.

    proposals: anything with video, keyframe, box and score, as Proposals or Detections. Every annotated
    person counts once: one with three labels is one box, one without a label is a box like the others.
    """
    real = np.flatnonzero(truth.box.any(axis=1))             # rows without a box only name their keyframe
    rows = np.column_stack([truth.video, truth.keyframe, truth.box])[real]
    people = truth.select(np.sort(real[np.unique(rows, axis=0, return_index=True)[1]]))
    people = replace(people, texts=["person"], ids=None, person=None, text=np.zeros(len(people), np.int32))
    found = Detections(proposals.video, proposals.keyframe, proposals.box,
                       np.zeros(len(proposals.video), np.int32), proposals.score)
    entry = frame_map(people, found, protocol, iou)["classes"][0]
    return {"protocol": protocol, "iou": iou, "boxes": entry["gt"], "proposals": entry["predictions"],
            "recall": entry["recall"], "ap": entry["ap"]}


def distinct_boxes(truth: Annotations, detections: Detections) -> Detections:
    """Each box of a keyframe once, with the best score of its classes: all that predictions tell of proposals."""
    key = keyframe_key(truth, detections.video, detections.keyframe)
    order = np.lexsort((-detections.score, *detections.box.T, key))
    new = np.ones(len(order), bool)
    new[1:] = key[order][1:] != key[order][:-1]
    new[1:] |= (detections.box[order][1:] != detections.box[order][:-1]).any(axis=1)
    rows = np.sort(order[new])
    return Detections(*(column[rows] for column in vars(detections).values()))


def video_map(truth: Annotations, detections: Detections, ious: dict[str, list[float]] | None = None,
              min_length: int = 15) -> dict:
    """Video mAP: boxes linked into tubes, a tube true if it covers an annotated one in space and time.

    ious: the thresholds averaged under each name; default 0.2, 0.5 and 0.5:0.95. Linking, matching and
    area are those of ACT and MOC: see `link_tubes`; of tubes of a class in a video that overlap by
    more than 0.3 the best stays; the mean runs over classes that have annotated tubes. IoU of two tubes:
    sum of the IoUs of their boxes over the number of frames in which either is (pixel-inclusive where
    the truth has frame sizes). Ground-truth tubes are the boxes of one person and class in a video.
    """
    check_tubes(truth)
    ious = ious or {"0.2": [0.2], "0.5": [0.5], "0.5:0.95": [0.5 + 0.05 * i for i in range(10)]}
    pixel, classes = int(truth.size is not None), len(truth.texts)

    labelled = np.flatnonzero(truth.text >= 0)
    person = np.column_stack([truth.video, truth.text, truth.person])[labelled]
    _, tube = np.unique(person, axis=0, return_inverse=True)
    group = truth.video[labelled].astype(np.int64) * classes + truth.text[labelled]      # class in a video
    true = Tubes.build(tube.ravel(), truth.keyframe[labelled], group,
                       boxes_of(truth, truth.video[labelled], truth.box[labelled]))
    group = detections.video.astype(np.int64) * classes + detections.label
    box = boxes_of(truth, detections.video, detections.box)
    found, score = link_tubes(group, detections.keyframe, box, detections.score, pixel, min_length)
    keep = suppress(found.group, score, lambda a, b: tube_iou(found, a, found, b, pixel), 0.3)
    order = keep[np.argsort(-score[keep], kind="stable")]

    # pairs of a found and a true tube of one class in one video, as in a frame
    true_order = np.argsort(true.group, kind="stable")
    low, high = (np.searchsorted(true.group[true_order], found.group[order], side)
                 for side in ("left", "right"))
    f = np.repeat(np.arange(len(order)), high - low)
    t = true_order[np.repeat(low, high - low) + count_up(high - low)]
    overlap = tube_iou(found, order[f], true, t, pixel)
    entries = []
    for label, (name, number) in enumerate(zip(truth.texts, official_ids(truth))):
        mine, n_true = found.group[order] % classes == label, int((true.group % classes == label).sum())
        of_class, place_of = mine[f], np.cumsum(mine) - 1
        ap = {}
        for key, thresholds in ious.items():
            aps = []
            for threshold in thresholds:
                rows = np.flatnonzero(of_class & (overlap >= threshold))
                rows = rows[np.lexsort((-overlap[rows], f[rows]))]
                hit = match(place_of[f[rows]], t[rows], found.group[order][mine], len(true.group), remove=True)
                aps.append(average_precision(hit, n_true, "act") if n_true else None)
            ap[key] = mean_of(aps)
        entries.append({"id": number, "name": name, "ap": ap, "gt": n_true, "tubes": int(mine.sum())})
    return {"min_length": min_length, "tubes": len(order), "gt": len(true.group), "classes": entries,
            "map": {key: mean_of(entry["ap"][key] for entry in entries) for key in ious}}


def check_tubes(truth: Annotations) -> None:
    if truth.unit != "frame" or truth.person is None:
        raise ValueError("video mAP needs ground truth by frames, with the boxes of a person linked: "
                         "UCF101-24 or JHMDB-21")


@dataclass
class Tubes:
    """Tubes with a box for every frame from the first to the last, all in one array."""

    group: np.ndarray             # (tubes,) int64: video * classes + label
    first: np.ndarray             # (tubes,) first frame_idx
    start: np.ndarray             # (tubes + 1,) place of the first frame in box
    box: np.ndarray               # (frames of all tubes, 4) float64, nan where a tube has no box

    @staticmethod
    def build(tube, frame, group, box, interpolate: bool = False) -> "Tubes":
        """tube: (n,) number of the tube that each box belongs to, 0 ..; the other arguments: of each box."""
        order = np.lexsort((frame, tube))
        tube, frame, group, box = tube[order], frame[order], group[order], box[order]
        at, length = runs(tube)
        first, frames = frame[at], frame[at + length - 1] - frame[at] + 1
        start = np.concatenate([[0], np.cumsum(frames)])
        place = start[:-1].repeat(length) + frame - first.repeat(length)
        dense = np.full((start[-1], 4), np.nan)
        dense[place] = box
        if interpolate and len(place):                       # every tube has its first and last box
            dense = np.column_stack([np.interp(np.arange(start[-1]), place, side) for side in box.T])
        return Tubes(group[at], first, start, dense)


def tube_iou(a: Tubes, i: np.ndarray, b: Tubes, j: np.ndarray, pixel: int) -> np.ndarray:
    """IoU in space and time of tube i[k] of a with tube j[k] of b: (k,)."""
    n_a, n_b = np.diff(a.start)[i], np.diff(b.start)[j]
    low = np.maximum(a.first[i], b.first[j])
    shared = np.maximum(np.minimum(a.first[i] + n_a, b.first[j] + n_b) - low, 0)
    step, pair = count_up(shared), np.repeat(np.arange(len(i)), shared)
    box_a = a.box[(a.start[i] + low - a.first[i])[pair] + step]
    box_b = b.box[(b.start[j] + low - b.first[j])[pair] + step]
    overlap = np.nan_to_num(box_iou(box_a, box_b, pixel))
    either = counts(a)[i] + counts(b)[j] - np.bincount(pair, ~np.isnan(box_a[:, 0] + box_b[:, 0]), len(i))
    return np.bincount(pair, overlap, len(i)) / either


def counts(tubes: Tubes) -> np.ndarray:
    """Frames with a box of each tube: (tubes,)."""
    boxes = np.concatenate([[0], np.cumsum(~np.isnan(tubes.box[:, 0]))])
    return boxes[tubes.start[1:]] - boxes[tubes.start[:-1]]


def suppress(group, score, overlap, threshold: float, top: int | None = None) -> np.ndarray:
    """Rows that non-maximum suppression keeps within each group, best first, at most `top` a group.

    overlap(i, j): IoU of rows i[k] and j[k]. The k-th best of all groups suppress at once.
    """
    rows = np.lexsort((-score, group))
    start, length = runs(group[rows])
    rank, end = count_up(length), np.repeat(start + length, length)
    alive = np.ones(len(rows), bool)
    for k in range(length.max(initial=1) - 1):
        pivot = start[length > k + 1] + k
        pivot = pivot[alive[pivot]]
        n = end[pivot] - pivot - 1
        pivot, other = np.repeat(pivot, n), np.repeat(pivot + 1, n) + count_up(n)
        pivot, other = pivot[alive[other]], other[alive[other]]
        alive[other[overlap(rows[pivot], rows[other]) > threshold]] = False
    rows, kept = rows[alive], runs(group[rows[alive]])[1]
    return rows if top is None else rows[count_up(kept) < top]


def link_tubes(group, frame, box, score, pixel: int, min_length: int) -> tuple[Tubes, np.ndarray]:
    """Frame detections linked as ACT does: tubes of a class in a video, and their scores (tubes,).

    Of a frame the ten best boxes after suppression at IoU 0.3 take part. Frame by frame each live tube, the
    one with the highest mean score first, takes the best-scored free box with IoU >= 0.2 to its last one;
    boxes left over begin tubes; a tube without a box for more than five frames has ended. Its score is the
    mean of its boxes' (ACT also drops low scores, which a logit has no scale for); gaps are interpolated;
    tubes shorter than min_length frames are dropped. All arguments: of each detection, (m,).
    """
    rows = suppress(group * 2 ** 24 + frame, score, lambda i, j: box_iou(box[i], box[j], pixel), 0.3, top=10)
    rows = rows[np.lexsort((-score[rows], group[rows], frame[rows]))]
    group, frame, box, score = group[rows], frame[rows], box[rows], score[rows]
    tube = np.full(len(rows), -1)                            # of each box
    total, count, last = np.zeros(len(rows)), np.zeros(len(rows), int), np.zeros(len(rows), int)     # of each tube
    live, tubes = np.zeros(0, int), 0                        # tubes that may go on; how many there are
    for start, length in zip(*runs(frame)):                  # all videos and classes go through a frame together
        here = np.arange(start, start + length)
        live = live[frame[start] - frame[last[live]] <= 5]
        live = live[np.lexsort((-total[live] / count[live], group[last[live]]))]
        turn = count_up(runs(group[last[live]])[1])
        low, high = (np.searchsorted(group[here], group[last[live]], side) for side in ("left", "right"))
        for k in range(turn.max(initial=-1) + 1):            # the k-th best tube of every video and class
            mine = np.flatnonzero((turn == k) & (high > low))
            n = high[mine] - low[mine]
            t, d = np.repeat(mine, n), here[np.repeat(low[mine], n) + count_up(n)]
            good = (tube[d] < 0) & (box_iou(box[d], box[last[live[t]]], pixel) >= 0.2)
            t, d = t[good], d[good]
            first = runs(t)[0]                               # boxes come by descending score
            tube[d[first]], last[live[t[first]]] = live[t[first]], d[first]
        matched = here[tube[here] >= 0]
        total[tube[matched]] += score[matched]
        count[tube[matched]] += 1
        new = here[tube[here] < 0]
        born = np.arange(tubes, tubes + len(new))
        tube[new], last[born], total[born], count[born] = born, new, score[new], 1
        live, tubes = np.concatenate([live, born]), tubes + len(new)
    first = frame[np.unique(tube, return_index=True)[1]]     # rows are in the order of frames
    long = frame[last[:tubes]] - first + 1 >= min_length     # (tubes,)
    keep = long[tube]
    return (Tubes.build(tube[keep], frame[keep], group[keep], box[keep], interpolate=True),
            (total[:tubes] / count[:tubes])[long])


# ---------------------------------------------------------------- what it says

def print_table(result: dict) -> None:
    """Protocol, counts and what was left out; each class; the three means. AP in per cent."""
    entries = result["classes"]
    missing = [entry["name"] for entry in entries if not entry["gt"]]
    print(f"frame mAP  protocol {result['protocol']}  iou {result['iou']:g}  "
          f"max-per-keyframe {result['max_per_keyframe'] or 'off'}  "
          f"keyframes-without-gt {result['keyframes_without_gt']}")
    print(f"keyframes {result['keyframes']}  boxes {result['boxes']}  "
          f"ground truth {sum(entry['gt'] for entry in entries)}  predictions {result['predictions']}")
    if result.get("proposals") is not None:
        print(f"proposals {result['proposals']}"
              + ("" if result["min_score"] is None else f"  of score {result['min_score']:g} or more"))
    for reason, count in result["left_out"].items():
        if count:
            print(f"left out: {count} predictions {reason}")
    more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
    print(f"classes {len(entries) - len(missing)} of {len(entries)} counted"
          + (f"; without ground truth: {', '.join(missing[:5])}{more}" if missing else ""))
    width = max([len(entry["name"]) for entry in entries] + [5])
    print(f"{'id':>5}  {'class':<{width}}  {'split':<5}  {'AP':>6}  {'gt':>8}  {'predictions':>11}")
    for entry in entries:
        print(f"{entry['id']:>5}  {entry['name']:<{width}}  {entry['split'] or '':<5}  {percent(entry['ap']):>6}  "
              f"{entry['gt']:>8}  {entry['predictions']:>11}")
    print("mAP  " + means(result["mean_ap"]))


def percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"


def means(mean_ap: dict) -> str:
    """`base 71.63  novel 61.41  all 65.00`, without the sides that were not asked for."""
    shown = [split for split in ("base", "novel") if mean_ap[split] is not None] + ["all"]
    return "  ".join(f"{split} {percent(mean_ap[split])}" for split in shown)


def mean_and_spread(results: list[dict]) -> dict:
    """Mean and standard deviation of the three means over several splits, seeds or checkpoints."""
    rows = {split: [result["mean_ap"][split] for result in results] for split in ("base", "novel", "all")}
    whole = {split: None not in values for split, values in rows.items()}
    return {"protocol": results[0]["protocol"], "iou": results[0]["iou"], "mean_of": len(results),
            "mean_ap": {split: mean_of(values) if whole[split] else None for split, values in rows.items()},
            "spread": {split: float(np.std(values, ddof=1)) if whole[split] else None
                       for split, values in rows.items()}}


def print_boxes(report: dict) -> None:
    print(f"boxes alone  people {report['boxes']}  proposals {report['proposals']}  "
          f"recall {percent(report['recall'])}  AP {percent(report['ap'])}")


def print_video_map(result: dict) -> None:
    print("video mAP  " + "  ".join(f"@{key} {percent(value)}" for key, value in result["map"].items())
          + f"  tubes {result['tubes']}  ground truth {result['gt']}  min length {result['min_length']} frames")


def write_json(path, results: dict | list[dict]) -> None:
    """The results with the versions that made them, at full precision; one result, or a list of several."""
    versions = {"python": platform.python_version()}
    versions |= {name: sys.modules[name].__version__ for name in ("numpy", "torch", "torchvision", "av")
                 if name in sys.modules}
    if isinstance(results, dict):
        content = {**results, "versions": versions}
    else:
        content = [{**result, "versions": versions} for result in results]
    with replacing(path) as file:
        json.dump(content, file, indent=1, allow_nan=False)
        file.write("\n")


COLOURS = {"base": (55, 110, 180), "novel": (225, 120, 40), None: (55, 110, 180)}


def plot_classes(result: dict, path) -> None:
    """A PNG of each class's AP as a bar, the best on top, base and novel in two colours."""
    font, row, top = ImageFont.load_default(13), 20, 54
    entries = [entry for entry in result["classes"] if entry["ap"] is not None]
    entries.sort(key=lambda entry: -entry["ap"])
    left = 20 + max([int(font.getlength(entry["name"])) for entry in entries] + [60])
    image = Image.new("RGB", (left + 560, top + row * len(entries) + 30), "white")
    draw = ImageDraw.Draw(image)
    title = f"frame mAP@{result['iou']:g}, {result['protocol']}: {means(result['mean_ap'])}"
    draw.text((10, 8), title, "black", font)
    for i, split in enumerate(split for split in ("base", "novel") if result["mean_ap"][split] is not None):
        draw.rectangle((left + 80 * i, 32, left + 80 * i + 12, 44), COLOURS[split])
        draw.text((left + 80 * i + 18, 30), split, "black", font)
    bottom = top + row * len(entries)
    for tick in range(0, 101, 20):
        draw.line((left + 5 * tick, top - 4, left + 5 * tick, bottom), (215, 215, 215))
        draw.text((left + 5 * tick, bottom + 4), str(tick), "black", font, anchor="ma")
    for i, entry in enumerate(entries):
        y = top + row * i
        draw.text((left - 8, y + row // 2), entry["name"], "black", font, anchor="rm")
        right = left + 500 * entry["ap"]
        draw.rectangle((left, y + 2, right, y + row - 3), COLOURS[entry["split"]])
        draw.text((right + 6, y + row // 2), percent(entry["ap"]), "black", font, anchor="lm")
    with replacing(path, binary=True) as file:
        image.save(file, "PNG")


# ---------------------------------------------------------------- a checkpoint's scores of a benchmark

@dataclass
class TestSet:
    """One test set of a benchmark: its truth, the boxes to score, and which of its classes are novel."""

    name: str
    truth: Annotations
    proposals: data.Proposals
    novel: list[str]
    boxes_from: str               # where the proposals come from, for the report
    min_score: float | None       # the lowest score of a proposal that was used
    protocol: str                 # the default one


BENCHMARKS = ("ucf-jhmdb", "ov-ava", "csv")
PROTOCOL = {"ucf-jhmdb": "act", "ov-ava": "ava", "csv": "ava"}      # what the papers of each benchmark use
MIN_SCORE = {"ucf-jhmdb": 0.3, "ov-ava": 0.8, "csv": 0.0}           # Section 4.1: proposals above this score


def read_benchmark(args: argparse.Namespace, record: dict, path: str) -> list[TestSet]:
    """The test sets of a benchmark; what the flags leave open, the record of the checkpoint at `path` tells."""
    trained = dict(record.get("args", {}))
    from_file = trained.get("csv") and not trained.get("data") and trained.get("dataset", "csv") == "csv"
    if from_file and (Path(trained["csv"]).parent / "test.csv").is_file():
        # trained on a CSV with a test set beside it
        trained |= {"dataset": "csv", "data": str(Path(trained["csv"]).parent)}
    trained_on = trained.get("dataset")
    benchmark = args.benchmark or {"ucf101-24": "ucf-jhmdb", "ava": "ov-ava", "csv": "csv"}.get(trained_on)
    if benchmark is None:
        raise ValueError(f"{path}: was not finetuned, so it names no benchmark; give --benchmark "
                         f"{'|'.join(BENCHMARKS)}")
    same = benchmark == {"ucf101-24": "ucf-jhmdb", "ava": "ov-ava"}.get(trained_on, trained_on)
    folder = args.data or (trained.get("data") if same else None)
    sets = []
    if benchmark == "ucf-jhmdb":
        ucf = data.read_dataset("ucf101-24", folder, "test")
        sets.append(("UCF101-24", ucf, [], folder or "data/ucf101-24"))
        for split in args.split:
            jhmdb = data.read_dataset("jhmdb-21", args.jhmdb, "test", part=split)
            sets.append((f"JHMDB-21 split {split}", jhmdb, jhmdb.texts, args.jhmdb))
    elif benchmark == "ov-ava":
        ava = data.read_dataset("ava", folder, "test", version=args.version)
        sets.append(("AVA", ava, data.novel_classes("ava", ava.texts, args.novel), folder or "data/ava"))
    else:
        own = data.read_dataset("csv", folder, "test", csv=args.csv)
        base = record.get("base") or own.texts
        named = data.novel_classes("csv", own.texts, args.novel, folder)
        sets.append(("csv", own, named or [name for name in own.texts if name not in base], folder or "data/csv"))

    min_score = MIN_SCORE[benchmark] if args.score is None else args.score
    result = []
    for i, (name, truth, novel, beside) in enumerate(sets):
        path = (args.proposals[min(i, len(args.proposals) - 1)] if args.proposals
                else boxes_beside(beside, benchmark))
        if path == "ground-truth":
            proposals, source, threshold = annotated_people(truth), "ground truth", None
        else:
            proposals = data.read_proposals(path, truth, min_score)
            source, threshold = path, min_score
        result.append(TestSet(name, truth, proposals, novel, source, threshold, PROTOCOL[benchmark]))
    return result


def boxes_beside(folder: str, benchmark: str) -> str:
    """Where a test set's human boxes lie if --proposals does not say.

    proposals.csv in its folder; AVA's may be LFB's.
    """
    lfb = ["annotations/ava_val_predicted_boxes.csv", "ava_val_predicted_boxes.csv"]
    names = ["proposals.csv"] + lfb * (benchmark == "ov-ava")
    for path in (Path(folder) / name for name in names):
        if path.is_file():
            return str(path)
    if benchmark == "csv":
        return "ground-truth"
    raise ValueError(f"--proposals is missing, and {Path(folder) / names[0]} is not there: human boxes "
                     "on the test keyframes, from detect_humans.py or another detector's file; "
                     "or 'ground-truth', for the annotated people")


def annotated_people(truth: Annotations) -> data.Proposals:
    """The distinct annotated boxes of each keyframe, as if a detector had found them all."""
    rows = np.flatnonzero(truth.box.any(axis=1))
    keys = keyframe_key(truth, truth.video, truth.keyframe)[rows]
    _, first = np.unique(np.column_stack([keys, truth.box[rows]]), axis=0, return_index=True)
    rows = rows[np.sort(first)]
    return data.Proposals(truth.video[rows], truth.keyframe[rows], truth.box[rows].astype(np.float32),
                          np.ones(len(rows), np.float32))


class ChunksInOrder(torch.utils.data.IterableDataset):
    """Batches of test clips: each loader worker takes every W-th chunk of keyframes and reads it in order.

    In order, so that keyframes that are close together share their decoded frames.
    """

    def __init__(self, clips: data.ClipDataset, chunks: list[range], batch_size: int):
        self.clips, self.chunks, self.batch_size = clips, chunks, batch_size

    def __iter__(self):
        worker = torch.utils.data.get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        for number in range(first, len(self.chunks), step):
            chunk = self.chunks[number]
            for start in range(chunk.start, chunk.stop, self.batch_size):
                places = range(start, min(start + self.batch_size, chunk.stop))
                yield number, places.stop == chunk.stop, data.collate([self.clips[place] for place in places])


@torch.inference_mode()
def score_boxes(model: ovstad.ViCLIP, boxes: Annotations, f_text: torch.Tensor, betas: list[float], settings: dict,
                folder: Path, args: argparse.Namespace, process: engine.Process) -> dict:
    """Logits of all boxes of a table, every keyframe with boxes encoded once, by all processes together.

    The keyframes are cut into chunks of fixed size, which processes take in turn; a finished chunk is a
    file in `folder`. So an interrupted run loses at most a chunk, and the result does not depend on the
    number of processes or workers. Returns, on process 0, arrays of n rows (sorted by keyframe):
    row (n,) a row of `boxes` with that video and keyframe, box (n, 4), kind (n, kinds) bool, logits
    (n, betas, C); and the list of unreadable clips; {} on the others.
    """
    clips = data.ClipDataset(boxes, settings["frames"], settings["stride"], settings["short_side"], model.patch)
    size = min(max(len(clips) // 64, 16), 256)
    chunks = [range(start, min(start + size, len(clips))) for start in range(0, len(clips), size)]
    paths = [folder / f"{chunk.start:08d}-{chunk.stop:08d}.pt" for chunk in chunks]
    todo = [i for i, path in enumerate(paths) if not path.exists()]
    process.gather(None)                                     # nobody starts before all have looked
    mine = todo[process.rank::process.world]
    loader = torch.utils.data.DataLoader(
        ChunksInOrder(clips, [chunks[i] for i in mine], args.batch_size), batch_size=None,
        num_workers=min(args.workers, len(mine)), pin_memory=process.device.type == "cuda")
    bar = tqdm(total=sum(len(chunks[i]) for i in mine), unit="clip",
               disable=None if process.is_main else True, dynamic_ncols=True)
    done: dict[int, list[dict]] = {}
    for number, last, batches in loader:
        parts = done.setdefault(number, [])
        for batch in batches:
            part = {"bad": batch["bad"], "row": torch.zeros(0, dtype=torch.long), "box": torch.zeros(0, 4),
                    "kind": torch.zeros(0, len(boxes.texts), dtype=torch.bool),
                    "logits": torch.zeros(0, len(betas), len(f_text))}
            if batch["video"] is not None:
                video = data.normalise(batch["video"].to(process.device, non_blocking=True))
                with torch.autocast(process.device.type, torch.bfloat16, enabled=args.amp):
                    f_global, f_map = model.encode_video(video)
                f_region = model.region_features(f_map, batch["boxes"])                   # (N, D)
                clip = ovstad.clip_of_box(batch["boxes"])
                f_global = f_global.float()[clip.to(process.device)]                      # (N, D)
                part["logits"] = torch.stack([model.logits(ovstad.fuse(f_region, f_global, beta), f_text)
                                              for beta in betas], 1).cpu()                # (N, betas, C)
                part["box"] = torch.cat(batch["boxes"])
                part["row"] = torch.from_numpy(clips.first_row[batch["keyframe"]])[clip]
                part["kind"] = torch.zeros(len(clip), len(boxes.texts), dtype=torch.bool)
                part["kind"][batch["labels"][:, 0], batch["labels"][:, 1]] = True
            parts.append(part)
            bar.update(len(batch["keyframe"]) + len(batch["bad"]))
        if last:
            parts = done.pop(number)
            chunk = {name: torch.cat([part[name] for part in parts]) for name in ("row", "box", "kind", "logits")}
            order = torch.argsort(chunk["row"], stable=True)
            chunk = {name: value[order] for name, value in chunk.items()}
            engine.save_checkpoint(paths[mine[number]], chunk | {"bad": sum((part["bad"] for part in parts), [])})
    bar.close()
    process.gather(None)                                     # all chunks are on disk
    if not process.is_main:
        return {}
    parts = [torch.load(path, weights_only=True) for path in paths]
    result = {name: torch.cat([part[name] for part in parts]).numpy() for name in ("row", "box", "kind", "logits")}
    return result | {"bad": sum((part["bad"] for part in parts), [])}


def detections_of(scored: dict, boxes: Annotations, kind: int, place: int) -> Detections:
    """The rows (box, class) of one kind of box at one beta, by its place among them."""
    chosen = np.flatnonzero(scored["kind"][:, kind])
    logits = scored["logits"][chosen, place]                                              # (n, C)
    n, C = logits.shape
    row = scored["row"][chosen].repeat(C)
    return Detections(boxes.video[row], boxes.keyframe[row], scored["box"][chosen].repeat(C, 0),
                      np.tile(np.arange(C, dtype=np.int32), n), logits.reshape(-1))


def score_checkpoint(path: str, args: argparse.Namespace, process: engine.Process) -> list[dict]:
    """One result for each beta and protocol, each printed; leaves the predictions under --out."""
    model, record = ovstad.load_model(path)
    arch = ovstad.ARCHS[model.arch]
    settings = {"frames": args.frames or record.get("frames") or arch.frames,
                "stride": args.stride or record.get("stride") or 1,
                "short_side": args.short_side or record.get("short_side") or round(arch.grid * arch.patch * 8 / 7)}
    betas = args.beta or [record.get("beta", ovstad.BETA)]
    sets = read_benchmark(args, record, path)
    # mistakes that would show only after all clips are encoded
    for one in sets:
        for protocol in args.protocol or [one.protocol]:
            check_protocol(one.truth, protocol, args.keyframes_without_gt)
        if args.video_map:
            check_tubes(one.truth)
    out = Path(args.out or (Path(path).parent / "eval" if os.path.exists(path) else "runs/eval"))
    out = out / str(args.ckpt.index(path)) if len(args.ckpt) > 1 else out              # all are called last.pt
    model = model.to(process.device)

    # every box of a test set once: proposals, and with --localisation also the annotated people
    prompt = record.get("prompt", ovstad.PROMPT)
    classes = list(dict.fromkeys(name for one in sets for name in one.truth.texts))
    with torch.inference_mode():
        f_text = model.encode_text([prompt.replace("{}", name) for name in classes])             # (C, D), once
    scored = []
    for number, one in enumerate(sets):
        kinds = [one.proposals] + ([annotated_people(one.truth)] if args.localisation else [])
        boxes = data.make_annotations(
            one.truth.videos, ["proposal", "annotated"][:len(kinds)],
            np.concatenate([k.video for k in kinds]), np.concatenate([k.keyframe for k in kinds]),
            np.concatenate([k.box for k in kinds]),
            np.repeat(range(len(kinds)), [len(k.video) for k in kinds]),
            unit=one.truth.unit, files=one.truth.files, start_sec=one.truth.start_sec)
        missing = sorted({one.truth.videos[v] for v in np.unique(boxes.video) if not one.truth.files[v]})
        if len(missing) > engine.BadClips.HOPELESS * len(np.unique(boxes.video)):
            raise FileNotFoundError(f"{one.name}: {len(missing)} of {len(np.unique(boxes.video))} videos "
                                    f"are not on disk, the first one being {missing[0]}; "
                                    "check the paths with: python data.py check")
        folder = out / f"parts-{number}"
        key = json.dumps([os.path.abspath(path), os.path.getmtime(path) if os.path.exists(path) else 0,
                          settings, betas, classes, args.amp, args.batch_size, len(boxes),
                          zlib.crc32(boxes.box), zlib.crc32(boxes.keyframe)])
        if process.is_main:
            kept = folder / "key.json"
            if not (args.resume and kept.exists() and kept.read_text() == key):
                shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True, exist_ok=True)
            kept.write_text(key)
        process.gather(None)
        scored.append((one, boxes, score_boxes(model, boxes, f_text, betas, settings, folder, args, process)))
    if not process.is_main:
        return []

    for one, boxes, logits in scored:
        bad, keyframes = logits["bad"], len(boxes.keyframe_starts()) - 1
        if len(bad) > engine.BadClips.HOPELESS * keyframes:
            raise ValueError(f"{one.name}: {len(bad)} of {keyframes} keyframes could not be read, "
                             f"such as {bad[0]}; check the videos with: python data.py check")
        if bad:
            print(f"{one.name}: {len(bad)} keyframes could not be read, such as {bad[0]}", file=sys.stderr)

    results = []
    for place, beta in enumerate(betas):
        for protocol in args.protocol or [sets[0].protocol]:
            rows = []
            for number, (one, boxes, logits) in enumerate(scored):
                columns = [classes.index(name) for name in one.truth.texts]
                own = logits | {"logits": logits["logits"][:, :, columns]}
                found = detections_of(own, boxes, 0, place)
                result = score_set(one, found, protocol, args) | {
                    "beta": beta, "ckpt": path, "unreadable": len(logits["bad"])}
                if args.localisation:
                    found_on_truth = detections_of(own, boxes, 1, place)
                    result["with_ground_truth_boxes"] = score_set(one, found_on_truth, protocol, args)["mean_ap"]
                    result["box_report"] = box_report(one.truth, one.proposals, protocol, args.iou)
                if args.video_map:
                    result["video_map"] = video_map(one.truth, found)
                rows.append(result)
                name = ("predictions" + (f"-{number}" if len(scored) > 1 else "")
                        + (f"_beta{beta:g}" if len(betas) > 1 else ""))
                write_predictions(out / f"{name}.csv", one.truth, found)
                report_set(one, result, out / f"{name}.csv")
            results.append(combine(rows) if len(rows) > 1 else rows[0])
            if len(rows) > 1:
                print(f"mAP  {means(results[-1]['mean_ap'])}")
            if args.joint:
                results.append(score_joint(scored, classes, place, protocol, args) | {"beta": beta, "ckpt": path})
                print(f"joint, all {len(classes)} classes on all test sets: {means(results[-1]['mean_ap'])}")
    if len(betas) > 1:
        print(f"\n{'beta':>6}  {'base':>6}  {'novel':>6}  {'all':>6}")
        for result in results:
            aps = (result["mean_ap"][split] for split in ("base", "novel", "all"))
            print(f"{result['beta']:>6g}  " + "  ".join(f"{percent(ap):>6}" for ap in aps))
    return results


def score_set(one: TestSet, found: Detections, protocol: str, args: argparse.Namespace) -> dict:
    result = frame_map(one.truth, found, protocol, args.iou, None, args.max_per_keyframe,
                       args.keyframes_without_gt)
    result = summarise(result, set(one.novel))
    return {"test_set": one.name, "boxes_from": one.boxes_from, "proposals": len(one.proposals.video),
            "min_score": one.min_score, **result}


def report_set(one: TestSet, result: dict, path: Path) -> None:
    print(f"\n{one.name}, beta {result['beta']:g}: boxes of {one.boxes_from}; predictions in {path}")
    print_table(result)
    if "box_report" in result:
        print_boxes(result["box_report"])
        print(f"with ground-truth boxes in place of proposals: mAP  {means(result['with_ground_truth_boxes'])}")
    if "video_map" in result:
        print_video_map(result["video_map"])


def combine(rows: list[dict]) -> dict:
    """One result of several test sets, each class counted where it was tested.

    Several splits of a set are averaged.
    """
    sets = {name: mean_and_spread(group)["mean_ap"] if len(group) > 1 else group[0]["mean_ap"] for name, group in
            ((name, [row for row in rows if row["test_set"].split(" split ")[0] == name])
             for name in dict.fromkeys(row["test_set"].split(" split ")[0] for row in rows))}
    values = {split: mean_of([ap[split] for ap in sets.values()]) for split in ("base", "novel")}
    classes = [entry | {"test_set": row["test_set"]} for row in rows for entry in row["classes"]]
    values["all"] = mean_of([entry["ap"] for entry in classes])
    return {"protocol": rows[0]["protocol"], "iou": rows[0]["iou"], "beta": rows[0]["beta"],
            "ckpt": rows[0]["ckpt"], "mean_ap": values, "classes": classes, "sets": rows}


def score_joint(scored: list, classes: list[str], place: int, protocol: str, args: argparse.Namespace) -> dict:
    """All classes asked of all test sets at once: separate lists hide confusions between base and novel."""
    truths, found = [], []
    first = 0
    for one, boxes, logits in scored:
        # splits of one set share videos: the first stands for all
        if " split " in one.name and not one.name.endswith(f" {args.split[0]}"):
            continue
        rows = detections_of(logits, boxes, 0, place)
        found.append(replace(rows, video=rows.video + first))
        column = np.array([classes.index(name) for name in one.truth.texts] + [-1], np.int32)
        truths.append(replace(one.truth, video=one.truth.video + np.int32(first), text=column[one.truth.text]))
        first += len(one.truth.videos)
    join = lambda name, parts: np.concatenate([getattr(part, name) for part in parts])
    truth = Annotations(sum((t.videos for t in truths), []), classes,
                        *(join(name, truths) for name in ("video", "keyframe", "box", "text")),
                        unit=truths[0].unit, size=join("size", truths) if truths[0].size is not None else None)
    everything = Detections(*(join(name, found) for name in ("video", "keyframe", "box", "label", "score")))
    result = frame_map(truth, everything, protocol, args.iou, None, args.max_per_keyframe,
                       args.keyframes_without_gt)
    return {"joint": True, **summarise(result, {name for one, *_ in scored for name in one.novel})}


# ---------------------------------------------------------------- the command line

# flags that make the result of one of the two ways to score, and that the other would ignore without a word
ONLY_CKPT = ("benchmark", "data", "jhmdb", "csv", "version", "proposals", "score", "beta", "joint",
             "localisation", "frames", "stride", "short_side", "out", "resume")
ONLY_FILES = ("predictions", "ground_truth", "label_map", "exclude", "box_report")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=engine.HelpFormatter)
    group = parser.add_argument_group("a checkpoint")
    group.add_argument("--ckpt", nargs="+",
                       help="checkpoints of train_finetune.py or train_align.py, or ViCLIP's weights "
                            "by Hub id; several give mean and spread")
    group.add_argument("--benchmark", choices=BENCHMARKS,
                       help="default: that of the set the checkpoint was trained on")
    group.add_argument("--data", help="folder of UCF101-24, AVA or your own test.csv; default: where the "
                       "checkpoint was trained, or data/ and its name")
    group.add_argument("--jhmdb", default="data/jhmdb-21", help="folder of JHMDB-21")
    group.add_argument("--csv", help="with --benchmark csv: the test annotations, in place of DATA/test.csv")
    group.add_argument("--version", help="AVA's 2.1 or 2.2; default: the newest there")
    group.add_argument("--proposals", nargs="+", metavar="FILE",
                       help="human boxes; two files for ucf-jhmdb if they are apart; 'ground-truth' for "
                            "the annotated people; default: proposals.csv in the folder of each test set "
                            "(ov-ava: or LFB's ava_val_predicted_boxes.csv; csv: or ground-truth)")
    group.add_argument("--score", type=float,
                       help="lowest proposal score; default: 0.3 for ucf-jhmdb, 0.8 for ov-ava "
                            "(Section 4.1)")
    group.add_argument("--beta", type=float, nargs="+",
                       help="fusion ratios, for one pass of the encoder; default: the checkpoint's")
    group.add_argument("--joint", action="store_true",
                       help="also all classes of ucf-jhmdb asked of both test sets at once")
    group.add_argument("--localisation", action="store_true",
                       help="also how good the boxes are, and the mAP on annotated boxes")
    group.add_argument("--frames", type=engine.positive, help="T; default: the checkpoint's")
    group.add_argument("--stride", type=engine.positive, help="default: the checkpoint's")
    group.add_argument("--short-side", type=engine.positive, help="pixels; default: the checkpoint's (256)")
    group.add_argument("--batch-size", type=engine.positive, default=16, help="clips at a time, for each process")
    group.add_argument("--out", help="folder of the predictions; default: eval/ beside the checkpoint")
    group.add_argument("--resume", action="store_true", help="keep the finished part of an interrupted run")
    engine.add_run_flags(parser)
    group = parser.add_argument_group("a saved file")
    group.add_argument("--predictions", nargs="+", metavar="CSV", help=f"rows {LAYOUT['predictions']}; "
                       "several files (seeds, checkpoints) give mean and spread")
    group.add_argument("--ground-truth", metavar="CSV|PKL",
                       help="AVA's CSV, an annotations CSV, or the pickle of UCF101-24 or JHMDB-21")
    group.add_argument("--label-map", metavar="PBTXT",
                       help="names of the ids in the CSVs; other ids are left out. Default: the .pbtxt "
                            "beside the predictions, if there is one")
    group.add_argument("--exclude", metavar="CSV", help="keyframes that do not count: video,keyframe")
    group.add_argument("--novel", metavar="TXT", help="names of the novel classes, one a line; the rest is base")
    group.add_argument("--split", nargs="+", type=int, default=[1],
                       help="test splits of JHMDB-21 (1 2 3); several give each and the mean")
    group = parser.add_argument_group("protocol")
    group.add_argument("--protocol", nargs="+", choices=["ava", "act"],
                       help="default: act for a pickle, UCF101-24 and JHMDB-21, else ava; or both")
    group.add_argument("--iou", type=float, default=0.5, help="overlap that a true detection needs")
    group.add_argument("--max-per-keyframe", type=int, default=0, metavar="N", help="best rows of a keyframe "
                       "that count; the official AVA script takes 50, others have no limit (0)")
    group.add_argument("--keyframes-without-gt", choices=["false", "ignore"], default="false",
                       help="detections on keyframes that the ground truth does not name: false as in AVA 2019, "
                       "or ignored as in AVA 2020")
    group = parser.add_argument_group("more")
    group.add_argument("--box-report", action="store_true", help="also recall and AP of the boxes alone")
    group.add_argument("--video-map", action="store_true",
                       help="also video mAP at 0.2, 0.5 and 0.5:0.95 (pickles)")
    group.add_argument("--json", metavar="FILE", help="write everything that was found, to be cited")
    group.add_argument("--plot", metavar="PNG", help="draw the AP of each class; of several results the first")
    args = parser.parse_args(argv)
    for name in ONLY_FILES if args.ckpt else ONLY_CKPT:
        if getattr(args, name) != parser.get_default(name):
            raise ValueError(f"--{name.replace('_', '-')} means nothing "
                             f"{'with' if args.ckpt else 'without'} --ckpt; leave it out")
    return args


def score_files(args: argparse.Namespace) -> list[dict]:
    """One result for each split, predictions file and protocol, each printed."""
    pickled = Path(args.ground_truth).suffix in (".pkl", ".pickle")
    results = []
    for split in args.split if pickled else [None]:
        for path in args.predictions:
            beside = Path(path).with_suffix(".pbtxt")
            map_path = args.label_map or (beside if beside.exists() else None)
            labels = data.read_label_map(map_path) if map_path else None
            truth = read_ground_truth(args.ground_truth, None if pickled else labels, split)
            detections, left_out = read_predictions(path, truth, labels)
            excluded = read_excluded(args.exclude, truth) if args.exclude else None
            novel = read_novel(args.novel, truth) if args.novel else None
            for protocol in args.protocol or ["act" if pickled else "ava"]:
                result = frame_map(truth, detections, protocol, args.iou, excluded, args.max_per_keyframe,
                                   args.keyframes_without_gt)
                result = summarise(result, novel) if novel else result
                result["left_out"] = left_out | result["left_out"]
                result = {"predictions_file": str(path), "ground_truth_file": str(args.ground_truth),
                          "label_map": map_path and str(map_path), "test_split": split, **result}
                print(f"{path}" + (f"  split {split}" if pickled else ""))
                print_table(result)
                if args.box_report:
                    boxes = distinct_boxes(truth, detections)
                    result["box_report"] = box_report(truth, boxes, protocol, args.iou)
                    print_boxes(result["box_report"])
                results.append(result)
            if args.video_map:
                results[-1]["video_map"] = video_map(truth, detections)
                print_video_map(results[-1]["video_map"])
            print()
    return results


def main() -> None:
    args = parse_args()
    if not 0 < args.iou <= 1:
        raise ValueError(f"--iou {args.iou:g} is not in (0, 1]")
    if args.max_per_keyframe < 0:
        raise ValueError(f"--max-per-keyframe {args.max_per_keyframe} is negative; 0 is no limit")
    if args.ckpt:
        process = engine.start_process(args.device)
        results = [result for path in args.ckpt for result in score_checkpoint(path, args, process)]
        if not process.is_main:
            return
    elif args.predictions and args.ground_truth:
        results = score_files(args)
    else:
        raise ValueError("nothing to score; give --ckpt, or --predictions CSV and --ground-truth CSV|PKL")

    # several splits, seeds or checkpoints: the mean of each protocol and beta
    alike = {}
    for result in results:
        alike.setdefault((result["protocol"], result.get("beta"), result.get("joint", False)), []).append(result)
    for (protocol, beta, _), group in alike.items():
        if len(group) > 1:
            results.append(mean_and_spread(group))
            print(f"mean of {len(group)}, {protocol}" + ("" if beta is None else f", beta {beta:g}") +
                  f": {means(results[-1]['mean_ap'])}  standard deviation {means(results[-1]['spread'])}")
    if args.json:
        write_json(args.json, results[0] if len(results) == 1 else results)
    if args.plot:
        plot_classes(results[0], args.plot)


if __name__ == "__main__":
    engine.cli(main)
