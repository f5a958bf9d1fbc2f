"""Predictions and ground truth in the layout of AVA's official tools."""

import csv
import gzip
import re
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from formats.files import replacing, write_label_map
from table import Annotations, Detections, exact, official_ids


LAYOUT = {"predictions": "video,keyframe,x1,y1,x2,y2,action_id,score",
          "ground truth": "video,keyframe,x1,y1,x2,y2,action_id[,person_id], or video,keyframe",
          "excluded": "video,keyframe"}
WIDTHS = {"predictions": (2, 7, 8), "ground truth": (2, 7, 8), "excluded": (2,)}


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


def read_ground_truth(path, labels: dict[int, str] | None = None) -> Annotations:
    """Ground truth from a CSV in the AVA layout.

    labels: the label map; rows of other classes stay in the table as unlabelled people. Without it the
    classes are those of the file. Column 7 may hold class names, as in an annotations CSV. Boxes of a CSV
    stay float64, as the official tools read them.
    """
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
    return (Detections(table.video[row], table.time[row], number[:, :4], number[:, 4], label),
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
