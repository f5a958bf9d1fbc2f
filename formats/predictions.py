"""Predictions and ground truth in the layout of AVA's official tools.

    predictions     1j20qq1JyX4,0902,0.0,0.021,0.998,0.998,12,0.503     and <stem>.pbtxt, their map
    ground truth    -5KQ66BBWC4,0902,0.077,0.151,0.283,0.811,80,1       or a class name for the 80
    excluded        _7oWZq_s_Sk,1636

The second column is a second, or where the ground truth counts frames (ACT's), a frame from 1.
"""

import csv
import re
from pathlib import Path

import numpy as np

from formats.files import read_text, replacing, write_label_map
from formats.rows import find, read_rows
from table import Annotations, Detections, keyframe_key, official_ids, six_decimals

LAYOUT = {"predictions": "video,keyframe,x1,y1,x2,y2,action_id,score or video,keyframe",
          "ground truth": "video,keyframe,x1,y1,x2,y2,action_id[,person_id] or video,keyframe",
          "excluded": "video,keyframe"}


def write_predictions(path, truth: Annotations, detections: Detections) -> None:
    """The predictions CSV, in the order of `detections`, and its label map <stem>.pbtxt.

    Seconds have four digits there. The file scores exactly as the arrays do.
    """
    path, ids = Path(path), np.array(official_ids(truth))
    write_label_map(path.with_suffix(".pbtxt"), dict(zip(ids.tolist(), truth.texts)))
    score = "{:.9g}".format if detections.score.dtype == np.float32 else repr      # keeps the order
    with replacing(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        for start in range(0, len(detections.video), 2000):
            part = detections.select(slice(start, start + 2000))
            times = zip(part.keyframe.astype(np.float32), truth.unit[part.video] == "frame")
            keyframe = [str(int(k) + 1) if frame else f"{int(k):04d}" if k == int(k) else str(k)
                        for k, frame in times]
            writer.writerows(zip([truth.videos[v] for v in part.video.tolist()], keyframe,
                                 *six_decimals(part.box).T.tolist(), ids[part.label].tolist(),
                                 map(score, part.score.tolist())))


def read_ground_truth(path, labels: dict[int, str] | None = None) -> Annotations:
    """Ground truth from a CSV in the AVA layout.

    labels: the label map; rows of ids outside it stay in the table as unlabelled people. Without it
    the classes are the ids of the file. Column 7 may hold class names of the map instead.
    Boxes of a CSV stay float64, as the official tools read them.
    """
    rows = read_rows(path, LAYOUT["ground truth"])
    rows.check_boxes("<=")
    if any(re.fullmatch(r"[+-]?[0-9.]+", text) for text in rows.texts):
        ids = rows.action_ids()
        labels = labels or {i: f"action {i}" for i in sorted(set(ids) - {0})}
        text = find(ids, list(labels))
    else:
        if not labels:
            raise ValueError(f"{path}: its classes are names, such as {rows.texts[0]!r}; which ids "
                             "are they in the predictions? give --label-map")
        text = find(rows.texts, list(labels.values()))
        rows.complain(~rows.nobody & (text < 0)[rows.text], lambda row: f"class "
                      f"{rows.texts[rows.text[row]]!r} is not one of the {len(labels)} of the map")
    if rows.nobody.all():
        raise ValueError(f"{path}: nobody is annotated: every row names a keyframe alone")
    if not (text >= 0).any():
        raise ValueError(f"{path}: none of its classes ({', '.join(rows.texts[:5])}) is in the "
                         "label map")

    # a keyframe that rows of two columns alone name is one row without box and text
    key = keyframe_key(rows.video, rows.keyframe)
    alone = np.flatnonzero(rows.nobody & ~np.isin(key, key[~rows.nobody]))
    alone = alone[np.unique(key[alone], return_index=True)[1]]
    kept = np.concatenate([np.flatnonzero(~rows.nobody), alone])
    kept = kept[np.lexsort((rows.keyframe[kept], rows.video[kept]))]
    text = np.where(rows.nobody, -1, text[rows.text]).astype(np.int32)
    return Annotations(rows.videos, list(labels.values()), rows.video[kept],
                       rows.keyframe[kept].astype(np.float32), rows.box[kept], text[kept],
                       unit="second", ids=list(labels),
                       person=None if rows.person is None else rows.person[kept])


def read_predictions(path, truth: Annotations,
                     labels: dict[int, str] | None = None) -> tuple[Detections, dict]:
    """A predictions CSV as indices into `truth`, and how many rows were left out for what reason.

    labels: the file's label map; without it its ids are those of `truth`. Rows of other classes are
    left out. A video that the ground truth lacks is appended to truth.videos.
    """
    frames = bool((truth.unit == "frame").all())
    rows = read_rows(path, LAYOUT["predictions"], frames)
    if rows.nobody.all():
        raise ValueError(f"{path}: no predictions; expected rows {LAYOUT['predictions']}")
    rows.check_boxes("")
    names, ids = labels or dict(zip(official_ids(truth), truth.texts)), rows.action_ids()
    if frames:
        rows.complain(~rows.nobody & ~np.isin(ids, list(names))[rows.text], lambda row:
                      f"action id {ids[rows.text[row]]} is not one of the {len(names)} classes; "
                      f"expected {min(names)} to {max(names)}")
    label = find([names.get(i) for i in ids], truth.texts)[rows.text]
    keep = ~rows.nobody & (label >= 0)
    if not keep.any():
        raise ValueError(f"{path}: no row is of a class of the ground truth; it has the ids "
                         f"{', '.join(rows.texts[:3])} ...")
    video = index_videos(truth, rows.videos)[rows.video]
    found = Detections(video, rows.keyframe - frames, rows.box, rows.score, label).select(keep)
    return (found, {"of classes that are not evaluated": int((~rows.nobody & ~keep).sum())})


def read_excluded(path, truth: Annotations) -> tuple[np.ndarray, np.ndarray]:
    """Videos and keyframes of a file of excluded timestamps, as `frame_map` takes them."""
    frames = bool((truth.unit == "frame").all())
    rows = read_rows(path, LAYOUT["excluded"], frames)
    return index_videos(truth, rows.videos)[rows.video], rows.keyframe - frames


def index_videos(truth: Annotations, names: list[str]) -> np.ndarray:
    """The index of each name in truth.videos (n,), to which those that it lacks are appended."""
    known = set(truth.videos)
    new = [name for name in names if name not in known]
    truth.videos += new
    truth.unit = np.append(truth.unit, truth.unit[:1].repeat(len(new)))
    return find(names, truth.videos)


def read_novel(path, truth: Annotations) -> set[str]:
    """Names of the novel classes, one a line."""
    lines = enumerate(read_text(path).splitlines(), 1)
    names = {name.strip(): line for line, name in lines if name.strip()}
    for name, line in names.items():
        if name not in truth.texts:
            raise ValueError(f"{path}:{line}: {name!r} is not one of the {len(truth.texts)} "
                             f"classes; expected names like {truth.texts[0]!r}, one a line")
    if not names:
        raise ValueError(f"{path}: is empty; expected the names of the novel classes, one a line")
    return set(names)
