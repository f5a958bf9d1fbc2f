"""Predictions and ground truth in the layout of AVA's official tools.

    predictions     1j20qq1JyX4,0902,0.0,0.021,0.998,0.998,12,0.503     and <stem>.pbtxt, their label map
    ground truth    -5KQ66BBWC4,0902,0.077,0.151,0.283,0.811,80,1       or a class name in place of the 80
    excluded        _7oWZq_s_Sk,1636

The second column is a second, or where the ground truth counts frames (ACT's pickles), a frame from 1.
"""

import csv
import re
from pathlib import Path

import numpy as np

from formats.files import (check_boxes, check_times, complain, find, read_columns, read_text, replacing,
                           whole_numbers, write_label_map)
from table import Annotations, Detections, keyframe_key, official_ids, six_decimals


LAYOUT = {"predictions": "video,keyframe,x1,y1,x2,y2,action_id,score or video,keyframe",
          "ground truth": "video,keyframe,x1,y1,x2,y2,action_id[,person_id] or video,keyframe",
          "excluded": "video,keyframe"}


def write_predictions(path, truth: Annotations, detections: Detections) -> None:
    """The predictions CSV in the AVA layout, in the order of `detections`, and its label map <stem>.pbtxt.

    Seconds have four digits there. The file scores exactly as the arrays do.
    """
    path, ids = Path(path), np.array(official_ids(truth))
    write_label_map(path.with_suffix(".pbtxt"), dict(zip(ids.tolist(), truth.texts)))
    score = "{:.9g}".format if detections.score.dtype == np.float32 else repr          # keeps the order
    with replacing(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        for start in range(0, len(detections.video), 2000):
            part = detections.select(slice(start, start + 2000))
            frames = truth.unit[part.video] == "frame"
            keyframe = [str(int(k) + 1) if frame else f"{int(k):04d}" if k == int(k) else str(k)
                        for k, frame in zip(part.keyframe.astype(np.float32), frames)]
            writer.writerows(zip([truth.videos[v] for v in part.video.tolist()], keyframe,
                                 *six_decimals(part.box).T.tolist(), ids[part.label].tolist(),
                                 map(score, part.score.tolist())))


def read_ground_truth(path, labels: dict[int, str] | None = None) -> Annotations:
    """Ground truth from a CSV in the AVA layout.

    labels: the label map; rows of other classes stay in the table as unlabelled people. Without it the
    classes are those of the file. Column 7 may hold class names, as in an annotations CSV. Boxes of a CSV
    stay float64, as the official tools read them.
    """
    lines, texts, numbers = read_columns(path, LAYOUT["ground truth"], ("video", "action_id"))
    check_not_empty(path, lines, "ground truth")
    (videos, video), (actions, action) = texts["video"], texts["action_id"]
    keyframe, box = numbers["keyframe"], numbers["box"]
    nobody = np.isnan(box[:, 0])
    check_times(path, lines, keyframe)
    check_boxes(path, lines[~nobody], box[~nobody], "<=")
    person = whole_numbers(path, lines, numbers["person_id"], "person id")
    if any(re.fullmatch(r"[+-]?[0-9.]+", name) for name in actions):
        ids = action_ids(path, lines[~nobody], actions, action[~nobody])
        labels = labels or {i: f"action {i}" for i in sorted(set(ids) - {0})}
        text = find(ids, list(labels))
    else:
        labels = labels or dict(enumerate(sorted(set(actions) - {""}), 1))
        text = find(actions, list(labels.values()))
        complain(path, lines, ~nobody & (text < 0)[action], lambda row: f"class {actions[action[row]]!r} is not one "
                 f"of the {len(labels)} of the label map")
    if not (text >= 0).any():
        raise ValueError(f"{path}: none of its classes ({', '.join(actions[:5])}) is in the label map")

    # a keyframe that rows of two columns alone name is one row without box and text
    key = keyframe_key(video, keyframe)
    alone = np.flatnonzero(nobody & ~np.isin(key, key[~nobody]))
    rows = np.concatenate([np.flatnonzero(~nobody), alone[np.unique(key[alone], return_index=True)[1]]])
    rows = rows[np.lexsort((keyframe[rows], video[rows]))]
    box = np.where(nobody[:, None], 0, box)
    return Annotations(videos, list(labels.values()), video[rows], keyframe[rows].astype(np.float32), box[rows],
                       np.where(nobody, -1, text[action])[rows].astype(np.int32), unit="second", ids=list(labels),
                       person=person[rows] if (person >= 0).any() else None)


def read_predictions(path, truth: Annotations, labels: dict[int, str] | None = None) -> tuple[Detections, dict]:
    """A predictions CSV as indices into `truth`, and how many rows were left out for what reason.

    labels: the file's label map; without it its ids are those of `truth`. Rows of other classes are
    left out. A video that the ground truth lacks is appended to truth.videos.
    """
    lines, texts, numbers = read_columns(path, LAYOUT["predictions"], ("video", "action_id"))
    (videos, video), (actions, action) = texts["video"], texts["action_id"]
    frames = bool((truth.unit == "frame").all())
    box, score = numbers["box"], numbers["score"]
    nobody = np.isnan(box[:, 0])
    check_times(path, lines, numbers["keyframe"], frames)
    if nobody.all():
        raise ValueError(f"{path}: no predictions; expected rows {LAYOUT['predictions']}")
    check_boxes(path, lines[~nobody], box[~nobody], "")
    names = labels or dict(zip(official_ids(truth), truth.texts))
    ids = action_ids(path, lines[~nobody], actions, action[~nobody])
    if frames:
        complain(path, lines, ~nobody & ~np.isin(ids, list(names))[action],
                 lambda row: f"action id {ids[action[row]]} is not one of the {len(names)} classes; "
                 f"expected {min(names)} to {max(names)}")

    label = find([names.get(i) for i in ids], truth.texts)[action]
    keep = ~nobody & (label >= 0)
    if not keep.any():
        raise ValueError(f"{path}: no row is of a class of the ground truth; it has the ids "
                         f"{', '.join(actions[:3])} ...")
    index = find(videos, truth.videos)
    new = np.flatnonzero(index < 0)
    index[new] = add_videos(truth, [videos[v] for v in new])
    keyframe = numbers["keyframe"][keep] - frames
    return (Detections(index[video[keep]], keyframe, box[keep], score[keep], label[keep]),
            {"of classes that are not evaluated": int((~nobody & ~keep).sum())})


def read_excluded(path, truth: Annotations) -> tuple[np.ndarray, np.ndarray]:
    """Videos and keyframes of a file of excluded timestamps, as `frame_map` takes them."""
    lines, texts, numbers = read_columns(path, LAYOUT["excluded"])
    check_not_empty(path, lines, "excluded")
    frames = bool((truth.unit == "frame").all())
    check_times(path, lines, numbers["keyframe"], frames)
    videos, video = texts["video"]
    index = find(videos, truth.videos)
    new = np.flatnonzero(index < 0)
    index[new] = add_videos(truth, [videos[v] for v in new])
    return index[video], numbers["keyframe"] - frames


def add_videos(truth: Annotations, names: list[str]) -> np.ndarray:
    """Append videos that predictions name and the ground truth lacks; returns their indices."""
    first = len(truth.videos)
    truth.videos += names
    truth.unit = np.append(truth.unit, truth.unit[:1].repeat(len(names)))
    return np.arange(first, len(truth.videos))


def action_ids(path, lines: np.ndarray, actions: list[str], action: np.ndarray) -> list[int]:
    """The id of each of the actions, texts of which the rows (n,) hold the `action`-th; 0 where no row does."""
    ids = [int(name) if re.fullmatch("[0-9]{1,9}", name) else 0 for name in actions]
    complain(path, lines, (np.array(ids) < 1)[action],
             lambda row: f"action id {actions[action[row]]!r} is not a whole number, 1 or more"
             + ("" if actions[action[row]] else " (is this a file of proposals?)"))
    return ids


def check_not_empty(path, lines: np.ndarray, role: str) -> None:
    if not len(lines):
        raise ValueError(f"{path}: is empty; expected rows {LAYOUT[role]}")


def read_novel(path, truth: Annotations) -> set[str]:
    """Names of the novel classes, one a line."""
    names = {name.strip(): line for line, name in enumerate(read_text(path).splitlines(), 1) if name.strip()}
    for name, line in names.items():
        if name not in truth.texts:
            raise ValueError(f"{path}:{line}: {name!r} is not one of the {len(truth.texts)} classes; "
                             f"expected names like {truth.texts[0]!r}, one a line")
    if not names:
        raise ValueError(f"{path}: is empty; expected the names of the novel classes, one a line")
    return set(names)
