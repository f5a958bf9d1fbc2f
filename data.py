"""The data: every dataset as one table of (video, keyframe, box, text), and the clips around its keyframes.

A reader turns official files into `Annotations`; one `Dataset` serves them all. Boxes are xyxy in
[0, 1] of the picture from here on; classes travel as names, and ids exist only in official files.
"""

import csv
import gzip
import json
import os
import pickle
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import numpy as np


# ---------------------------------------------------------------- the table

@dataclass
class Annotations:
    """The table that the method learns from or is tested on: one entry a row, arrays of n rows.

    Rows are sorted by (video, keyframe). One row is one (box, text) pair: a person with three
    actions has three rows with the same box. A row with text -1 is a box that nobody labelled; if
    its box is empty as well (all zeros), it is a keyframe with nobody in it, kept because it counts
    in evaluation. A detection set lists all its classes in `texts`, in official order.
    """

    videos: list[str]             # keys, as official files and CSVs write them: "Basketball/v_Basketball_g01_c01"
    texts: list[str]              # sentences, or class names in words; distinct
    video: np.ndarray             # (n,) int32, place in `videos`
    keyframe: np.ndarray          # (n,) int32 frame_idx (0-based) or float32 seconds of the original, see `unit`
    box: np.ndarray               # (n, 4) float32, xyxy in [0, 1]
    text: np.ndarray              # (n,) int32, place in `texts`, or -1
    unit: str = "frame"           # "frame" or "second": what `keyframe` counts
    files: list[str] = field(default_factory=list)       # per video: a file or a folder of frames; "" if not on disk
    start_sec: np.ndarray | None = None                  # (videos,) float32, seconds cut off before the file begins (AVA's 15-minute cuts: 900)
    size: np.ndarray | None = None                       # (videos, 2) int32 width, height of pixel-annotated sets
    person: np.ndarray | None = None                     # (n,) int32, links the boxes of one person in a video, or -1
    ids: list[int] | None = None                         # official id of each text; default: its 1-based place
    in_seconds: np.ndarray | None = None                 # (videos,) bool, only where `merge` mixed the two units
    faults: list[str] = field(default_factory=list)      # what the official files got wrong, and what became of it

    def __len__(self) -> int:
        return len(self.video)

    def unit_of(self, video: int) -> str:
        """What the keyframes of one video count: "frame" or "second"."""
        if self.in_seconds is None:
            return self.unit
        return "second" if self.in_seconds[video] else "frame"

    def select(self, rows: np.ndarray) -> "Annotations":
        """The same videos and texts with only some rows: a mask (n,), or row numbers in ascending order."""
        person = None if self.person is None else self.person[rows]
        return replace(self, video=self.video[rows], keyframe=self.keyframe[rows], box=self.box[rows],
                       text=self.text[rows], person=person)

    def keyframe_starts(self) -> np.ndarray:
        """First row of each (video, keyframe), and n at the end: (keyframes + 1,) int64."""
        n = len(self)
        new = np.ones(n + 1, bool)
        new[1:n] = (np.diff(self.video) != 0) | (np.diff(self.keyframe) != 0)
        return np.flatnonzero(new) if n else np.zeros(1, np.int64)


def make_annotations(videos, texts, video, keyframe, box, text, person=None, **rest) -> Annotations:
    """The table in its types and order from rows in any order; `rest` are its other fields."""
    second = rest.get("unit", "frame") == "second"
    table = Annotations(list(videos), list(texts), np.asarray(video, np.int32),
                        np.asarray(keyframe, np.float32 if second else np.int32),
                        np.asarray(box, np.float32).reshape(-1, 4), np.asarray(text, np.int32),
                        person=None if person is None else np.asarray(person, np.int32), **rest)
    return table.select(np.lexsort((table.keyframe, table.video)))


# ---------------------------------------------------------------- class names, in words and in official order

UCF101_24 = [
    "basketball", "basketball dunk", "biking", "cliff diving", "cricket bowling", "diving", "fencing",
    "floor gymnastics", "golf swing", "horse riding", "ice dancing", "long jump", "pole vault", "rope climbing",
    "salsa spin", "skate boarding", "skiing", "skijet", "soccer juggling", "surfing", "tennis swing",
    "trampoline jumping", "volleyball spiking", "walking with dog"]

JHMDB_21 = [
    "brush hair", "catch", "clap", "climb stairs", "golf", "jump", "kick ball", "pick", "pour", "pull up", "push",
    "run", "shoot ball", "shoot bow", "shoot gun", "sit", "stand", "swing baseball", "throw", "walk", "wave"]

# AVA's id of a name is its 1-based place: 1-14 pose, 15-63 person-object, 64-80 person-person
AVA_80 = [
    "bend/bow (at the waist)", "crawl", "crouch/kneel", "dance", "fall down", "get up", "jump/leap", "lie/sleep",
    "martial art", "run/jog", "sit", "stand", "swim", "walk", "answer phone", "brush teeth",
    "carry/hold (an object)", "catch (an object)", "chop", "climb (e.g., a mountain)", "clink glass",
    "close (e.g., a door, a box)", "cook", "cut", "dig", "dress/put on clothing", "drink",
    "drive (e.g., a car, a truck)", "eat", "enter", "exit", "extract", "fishing", "hit (an object)",
    "kick (an object)", "lift/pick up", "listen (e.g., to music)", "open (e.g., a window, a car door)", "paint",
    "play board game", "play musical instrument", "play with pets", "point to (an object)", "press",
    "pull (an object)", "push (an object)", "put down", "read", "ride (e.g., a bike, a car, a horse)", "row boat",
    "sail boat", "shoot", "shovel", "smoke", "stir", "take a photo", "text on/look at a cellphone", "throw",
    "touch (an object)", "turn (e.g., a screwdriver)", "watch (e.g., TV)", "work on a computer", "write",
    "fight/hit (a person)", "give/serve (an object) to (a person)", "grab (a person)", "hand clap", "hand shake",
    "hand wave", "hug (a person)", "kick (a person)", "kiss (a person)", "lift (a person)",
    "listen to (a person)", "play with kids", "push (another person)",
    "sing to (e.g., self, a person, a group)", "take (an object) from (a person)",
    "talk to (e.g., self, a person, a group)", "watch (a person)"]
AVA_NOT_EVALUATED = {2, 16, 18, 19, 21, 23, 25, 31, 32, 33, 35, 39, 40, 42, 44, 50, 53, 55, 71, 75}   # too rare
AVA_IDS = [i for i in range(1, 81) if i not in AVA_NOT_EVALUATED]      # official ids of the 60 evaluated classes
AVA_60 = [AVA_80[i - 1] for i in AVA_IDS]
AVA_TYPES = {"pose": range(1, 15), "object": range(15, 64), "person": range(64, 81)}
AVA_TRAIN_COUNTS = [   # (box, action) pairs of each of the 80 in AVA v2.2's training set, 862,663 in all
    8349, 157, 2321, 3267, 291, 1124, 245, 5356, 2117, 3337, 100323, 166357, 111, 40771, 3279, 20, 80451, 80, 36,
    268, 53, 786, 65, 184, 41, 342, 2335, 1188, 3025, 225, 53, 7, 79, 177, 35, 519, 668, 1251, 67, 118, 1297, 138,
    97, 94, 344, 387, 533, 2146, 4808, 62, 719, 222, 67, 2991, 60, 181, 415, 249, 17133, 137, 1993, 176, 777, 2695,
    1073, 2003, 1187, 619, 351, 1103, 50, 714, 400, 106816, 127, 355, 1643, 608, 110267, 168148]

# not in the paper: its list of novel classes is a picture (Figure 4), so this one is rebuilt by `ov_ava_novel`
OV_AVA_NOVEL = [
    "dance", "fall down", "walk", "climb (e.g., a mountain)", "cut", "drink", "open (e.g., a window, a car door)",
    "ride (e.g., a bike, a car, a horse)", "sail boat", "text on/look at a cellphone",
    "turn (e.g., a screwdriver)", "kiss (a person)", "push (another person)",
    "sing to (e.g., self, a person, a group)", "talk to (e.g., self, a person, a group)"]


def ov_ava_novel(counts: list[int] = AVA_TRAIN_COUNTS) -> list[str]:
    """AVA's 15 novel classes by the paper's principles: 3:1 overall and in each type, both equally long-tailed.

    counts: training pairs of the 80 classes. The k novel classes of a type's n, sorted from the most
    frequent, stand at ranks floor((i + 0.5) * n / k); names come back in official order.
    """
    novel = []
    for name, k in (("pose", 3), ("object", 8), ("person", 4)):
        ranked = sorted((i for i in AVA_TYPES[name] if i in AVA_IDS), key=lambda i: -counts[i - 1])
        novel += [ranked[(2 * i + 1) * len(ranked) // (2 * k)] for i in range(k)]
    return [AVA_80[i - 1] for i in sorted(novel)]


# ---------------------------------------------------------------- reading files that may be wrong

def clip_boxes(boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (n, 4) cut to [0, 1], and a mask (n,) of those of which something is left."""
    boxes = np.clip(np.asarray(boxes, np.float64), 0, 1)       # NaN stays, and fails the comparison
    return boxes, (boxes[:, 0] < boxes[:, 2]) & (boxes[:, 1] < boxes[:, 3])


def check_boxes(boxes: np.ndarray, path, lines) -> None:
    """ValueError at the first of (n, 4) boxes that is not x1 < x2, y1 < y2 in [0, 1]; lines: (n,) of the file."""
    x1, y1, x2, y2 = np.asarray(boxes).T
    good = (0 <= x1) & (x1 < x2) & (x2 <= 1) & (0 <= y1) & (y1 < y2) & (y2 <= 1)
    pixels = "; these look like pixels: divide x by the picture's width, y by its height" if (boxes > 2).any() else ""
    complain(path, lines, ~good, lambda i: f"box {', '.join(f'{v:g}' for v in boxes[i])} is not x1 < x2, y1 < y2 "
                                           f"in [0, 1]{pixels}")


def complain(path, lines, bad: np.ndarray, message) -> None:
    """ValueError "path:line: message(i)" if any row i is bad (n,), with the number of the others."""
    if bad.any():
        i, more = int(bad.argmax()), int(bad.sum()) - 1
        raise ValueError(f"{path}:{lines[i]}: {message(i)}" + (f" (and {more} rows more)" if more else ""))


def csv_columns(path, widths: tuple[int, ...], texts: tuple[int, ...], numbers: tuple[int, ...], layout: str):
    """Columns of a CSV: line numbers (n,), one list of str a text column, numbers (n, k) float64.

    widths: how many columns a row may have; an absent or empty cell is "" or NaN. layout says in an
    error what a row should hold. Blank lines and a header (first cell "video") are skipped; .gz is read too.
    """
    lines, columns, parts = [], [[] for _ in texts], []
    opener = gzip.open if str(path).endswith(".gz") else open
    try:
        with opener(path, "rt", newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            numbered = ((reader.line_num, row) for row in reader if any(row))
            while chunk := list(islice(numbered, 65536)):          # chunks: a million rows of str would be heavy
                if not lines and chunk[0][1][0].strip().lower() in ("video", "video_id"):
                    chunk = chunk[1:]
                for line, row in chunk:
                    if len(row) not in widths:
                        raise ValueError(f"{path}:{line}: {len(row)} columns, expected {layout}")
                cells = [[row[c] if c < len(row) and row[c].strip() else "nan" for c in numbers] for _, row in chunk]
                try:
                    parts.append(np.array(cells, np.float64).reshape(-1, len(numbers)))
                except ValueError:
                    raise ValueError(first_non_number(path, chunk, cells, layout)) from None
                lines += [line for line, _ in chunk]
                for column, c in zip(columns, texts):
                    column += [row[c].strip() if c < len(row) else "" for _, row in chunk]
    except (UnicodeDecodeError, csv.Error, EOFError, gzip.BadGzipFile) as error:
        raise ValueError(f"{path}: not a text file in UTF-8 with commas ({error})") from None
    return np.array(lines, np.int64), columns, np.concatenate(parts or [np.zeros((0, len(numbers)))])


def first_non_number(path, chunk, cells, layout) -> str:
    for (line, _), row in zip(chunk, cells):
        for cell in row:
            try:
                float(cell)
            except ValueError:
                return f"{path}:{line}: {cell!r} is not a number; expected {layout}"


def places(names: list[str], known: list[str] | None = None) -> tuple[list[str], np.ndarray]:
    """Distinct names in order of appearance, and each name's place among them (n,); known: fixed list, else -1."""
    if known is not None:
        place = {name: i for i, name in enumerate(known)}
        return known, np.array([place.get(name, -1) for name in names], np.int32)
    place = {}
    at = np.array([place.setdefault(name, len(place)) for name in names], np.int32)
    return list(place), at


def duplicates(*columns: np.ndarray) -> np.ndarray:
    """Mask (n,) of rows that repeat an earlier one in all columns, each (n,)."""
    order = np.lexsort(columns)                               # stable: the first of equal rows stays first
    same = np.zeros(len(order), bool)
    same[1:] = np.all([column[order][1:] == column[order][:-1] for column in columns], axis=0)
    repeated = np.zeros(len(order), bool)
    repeated[order] = same
    return repeated


class SafeUnpickler(pickle.Unpickler):
    """Builds dicts, lists, tuples, sets of plain values and numpy arrays; refuses everything else by name."""

    # numpy's own rebuilding functions, taken from arrays so that no private module is imported
    rebuild = {function.__name__: function for function in (
        np.zeros(1).__reduce__()[0], np.float32(0).__reduce__()[0], np.zeros(1).__reduce_ex__(5)[0])}

    def find_class(self, module: str, name: str):
        if module in ("numpy", "numpy.core.multiarray", "numpy._core.multiarray", "numpy.core.numeric",
                      "numpy._core.numeric"):
            allowed = {"ndarray": np.ndarray, "dtype": np.dtype, **self.rebuild}
            if name in allowed:
                return allowed[name]
        if (module, name) == ("_codecs", "encode"):            # how Python 2 wrote the bytes of an array
            return lambda text, encoding: text.encode("latin1")
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        raise ValueError(f"holds {module}.{name}, which is neither data nor a numpy array; not loaded, because a "
                         "pickle can run code. If you trust where it came from, save it again as plain arrays")


def load_pickle(path):
    """The value in a pickle (also of Python 2) of plain values and arrays; ValueError on anything else in it."""
    try:
        with open(path, "rb") as file:
            return SafeUnpickler(file, encoding="latin1").load()
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    except (pickle.UnpicklingError, EOFError, AttributeError, IndexError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: damaged or not a pickle ({error}); download it again") from None


def load_json(path):
    """The value in a JSON file; ValueError with the line where it is not one."""
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}:{error.lineno}: not JSON ({error.msg}); download it again") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text file in UTF-8 ({error})") from None


# ---------------------------------------------------------------- a user's own: the annotations CSV

def read_csv(path, root=None) -> Annotations:
    """A CSV of `video,keyframe,x1,y1,x2,y2,text[,person]`: seconds, boxes in [0, 1]; a header line is optional.

    Videos are paths relative to `root`, by default the CSV's folder. `video,keyframe` alone is a
    keyframe with nobody in it. Texts are listed in alphabetical order, so that the training and the
    test file of one set agree. Any fault is a ValueError with its line.
    """
    path = Path(path)
    root = path.parent if root is None else Path(root)
    layout = "video,keyframe,x1,y1,x2,y2,text[,person] or video,keyframe"
    lines, (names, texts), numbers = csv_columns(path, (2, 7, 8), (0, 6), (1, 2, 3, 4, 5, 7), layout)
    keyframe, box, person = numbers[:, 0], numbers[:, 1:5], numbers[:, 5]
    if not len(lines):
        raise ValueError(f"{path}: no rows; expected {layout}")
    nobody = np.isnan(box).all(axis=1) & np.array([not text for text in texts])
    complain(path, lines, ~(np.isfinite(keyframe) & (keyframe >= 0)),
             lambda i: f"keyframe {keyframe[i]:g} is not a time in the video; expected seconds, 0 or more")
    check_boxes(box[~nobody], path, lines[~nobody])
    complain(path, lines, ~nobody & np.array([not text for text in texts]), lambda i: "the box has no text")
    complain(path, lines, ~np.isnan(person) & (person != np.rint(person)), lambda i: f"person {person[i]:g} is not a whole number")

    videos, video = places(names)
    files = [str(root / name) for name in videos]
    absent = np.array([not os.path.exists(file) for file in files])
    complain(path, lines, absent[video], lambda i: f"video {names[i]!r} is not in {root}; write paths relative "
             f"to it, or name another folder ({absent.sum()} of {len(videos)} videos are absent)")
    known = sorted({text for text in texts if text})
    text = places(texts, known)[1]
    box = np.where(nobody[:, None], 0, box)
    complain(path, lines, duplicates(text, *box.T, keyframe, video),
             lambda i: f"the row is there twice: {names[i]}, {keyframe[i]:g}, {texts[i]!r}")
    return make_annotations(videos, known, video, keyframe, box, text, unit="second", files=files,
                            person=np.nan_to_num(person, nan=-1) if np.isfinite(person).any() else None)


# ---------------------------------------------------------------- proposals: boxes that a detector found

@dataclass
class Proposals:
    """Detected human boxes in the places of an annotation table, sorted by (video, keyframe), best first."""

    video: np.ndarray             # (n,) int32, place in the table's `videos`
    keyframe: np.ndarray          # (n,) as the table's
    box: np.ndarray               # (n, 4) float32, xyxy in [0, 1]
    score: np.ndarray             # (n,) float32


def keyframe_keys(video: np.ndarray, keyframe: np.ndarray) -> np.ndarray:
    """One int64 for each (video, keyframe), in the table's order: seconds are told apart to the millisecond."""
    return (video.astype(np.int64) << 40) + np.rint(np.asarray(keyframe, np.float64) * 1000).astype(np.int64)


def read_proposals(path, annotations: Annotations, min_score: float = 0.0) -> Proposals:
    """Proposals of score >= min_score on the keyframes of `annotations`; those on other keyframes are left out.

    Reads our CSV (`video,keyframe,x1,y1,x2,y2,,score`, which is LFB's), mmaction2's dense pickle
    ("movie,second" -> (n, 5)), OpenMixer's pickle (video -> boxes and scores by frame) and ACT's
    detections (rows of video, frame, label, score, box in pixels). ValueError where boxes are in pixels
    but the format has them in [0, 1], or where the videos are not those of `annotations`.
    """
    if Path(path).suffix in (".pkl", ".pickle"):
        names, keyframe, box, score, lines = pickled_proposals(path, annotations)
    else:
        layout = "video,keyframe,x1,y1,x2,y2,,score"
        lines, (names,), numbers = csv_columns(path, (8,), (0,), (1, 2, 3, 4, 5, 7), layout)
        keyframe, box, score = numbers[:, 0], numbers[:, 1:5], numbers[:, 5]
        complain(path, lines, ~np.isfinite(numbers).all(axis=1), lambda i: f"a number is missing; expected {layout}")
    complain(path, lines, (score < 0) | (score > 1), lambda i: f"score {score[i]:g} is not in [0, 1]; in a "
             "ground-truth file the last column is a person, in proposals it is the detector's score")
    # detectors overshoot the border by a little; more than that means another unit
    complain(path, lines, ((box < -0.5) | (box > 1.5)).any(axis=1), lambda i: f"box {box[i].tolist()} looks like "
             "pixels; expected xyxy in [0, 1]: divide x by the picture's width, y by its height")
    videos, place = places(names)
    video = places(videos, annotations.videos)[1]
    covered, total = int((video >= 0).sum()), len(set(annotations.video.tolist()))
    if 2 * covered < min(len(videos), total) or not covered:
        raise ValueError(f"{path}: only {covered} of its {len(videos)} videos are among the {total} of the "
                         f"annotations; it has {videos[:1]}, they have {annotations.videos[:1]}. "
                         "Proposals of another dataset or split?")
    video = video[place]

    box, good = clip_boxes(box)
    rows = np.flatnonzero(good & (video >= 0) & (score >= min_score))
    known = keyframe_keys(annotations.video, annotations.keyframe)
    key = keyframe_keys(video[rows], keyframe[rows] - (annotations.unit == "frame"))   # files count frames from 1
    at = np.searchsorted(known, key).clip(max=len(known) - 1)
    rows, at = rows[known[at] == key], at[known[at] == key]
    rows, at = (x[np.lexsort((-score[rows], at))] for x in (rows, at))
    once = ~duplicates(*box[rows].T, at)                       # LFB repeats a box for each of its labels
    rows, at = rows[once], at[once]
    return Proposals(annotations.video[at], annotations.keyframe[at], box[rows].astype(np.float32),
                     score[rows].astype(np.float32))


def pickled_proposals(path, annotations: Annotations):
    """Names, keyframes (n,) as the file counts them, boxes (n, 4), scores (n,), places in the file (n,)."""
    found = load_pickle(path)
    table = found[0] if isinstance(found, (tuple, list)) and found else found
    if isinstance(table, np.ndarray) and table.ndim == 2 and table.shape[1] == 8 and annotations.size is not None:
        index = table[:, 0].astype(int)
        if len(index) and not 0 <= index.min() <= index.max() < len(annotations.videos):
            raise ValueError(f"{path}: video number {index.max()} of {len(annotations.videos)}; another split?")
        box = table[:, 4:8] / np.tile(annotations.size[index], 2)
        return [annotations.videos[i] for i in index], table[:, 1], box, table[:, 3], np.arange(len(table))
    names, keyframe, arrays = [], [], []
    try:
        for key, value in found.items():
            if isinstance(value, dict):                        # OpenMixer: one entry a video
                frames = [(key, frame, np.column_stack([boxes, value["scores"][frame]]))
                          for frame, boxes in value["boxes"].items() if len(boxes)]
            else:                                              # mmaction2: one entry a keyframe
                frames = [(*key.rsplit(",", 1), np.asarray(value))]
            for name, frame, rows in frames:
                names += [name] * len(rows)
                keyframe += [float(frame)] * len(rows)
                arrays.append(rows.astype(np.float64).reshape(-1, 5))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: neither mmaction2's ('movie,second' -> (n, 5)), OpenMixer's (video -> boxes and "
                         f"scores) nor ACT's proposals, (n, 8) ({type(error).__name__}: {error})") from None
    rows = np.concatenate(arrays or [np.zeros((0, 5))])
    # OpenMixer marks a frame without detections by one box in pixels of score 0
    real = (rows[:, 4] > 0) | (rows[:, :4] <= 1.5).all(axis=1)
    names = [name for name, keep in zip(names, real) if keep]
    return names, np.array(keyframe)[real], rows[real, :4], rows[real, 4], np.flatnonzero(real)


def write_proposals(path, annotations: Annotations, proposals: Proposals) -> None:
    """The proposals CSV that `read_proposals` and AVA's tools read; the file appears complete or not at all."""
    first = 1 if annotations.unit == "frame" else 0
    part = Path(f"{path}.part")
    with open(part, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        for v, k, box, score in zip(proposals.video, proposals.keyframe, proposals.box, proposals.score):
            writer.writerow([annotations.videos[v], f"{k + first:g}", *(f"{x:.5f}" for x in box), "", f"{score:.6f}"])
    os.replace(part, path)


def add_proposals(annotations: Annotations, proposals: Proposals, iou: float = 0.5) -> Annotations:
    """Training boxes: the ground truth and the proposals, each with the labels of the truth that it overlaps.

    A proposal takes every label (and the person) of the box of highest IoU in its keyframe if that is
    at least `iou`, else none: it becomes a row of text -1.
    """
    truth = annotations.select(annotations.text >= 0)
    keys = keyframe_keys(truth.video, truth.keyframe)
    key = keyframe_keys(proposals.video, proposals.keyframe)
    first, last = np.searchsorted(keys, key, "left"), np.searchsorted(keys, key, "right")
    count = last - first
    p = np.repeat(np.arange(len(key)), count)                  # every (proposal, row of its keyframe) pair
    row = np.arange(len(p)) - np.repeat(np.cumsum(count) - count, count) + np.repeat(first, count)
    overlap = pair_iou(proposals.box[p], truth.box[row])
    order = np.lexsort((-overlap, p))
    best = order[np.unique(p[order], return_index=True)[1]]    # the pair of highest IoU of each proposal with any
    best_row = np.full(len(key), -1)
    best_row[p[best]] = np.where(overlap[best] >= iou, row[best], -1)
    taken = (best_row[p] >= 0) & (truth.box[row] == truth.box[best_row[p]]).all(axis=1)
    none = np.flatnonzero(best_row < 0)

    p, row = np.concatenate([p[taken], none]), np.concatenate([row[taken], np.full(len(none), -1)])
    def extended(old, new):
        return None if old is None else np.concatenate([old, new])

    def label(column):                                         # of row -1: -1
        return None if column is None else np.append(column, np.int32(-1))[row]

    table = replace(annotations, video=extended(annotations.video, proposals.video[p]),
                    keyframe=extended(annotations.keyframe, proposals.keyframe[p]),
                    box=extended(annotations.box, proposals.box[p]),
                    text=extended(annotations.text, label(truth.text)),
                    person=extended(annotations.person, label(truth.person)))
    return table.select(np.lexsort((table.keyframe, table.video)))


def pair_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """IoU of each a[i] with b[i], both (n, 4) xyxy: (n,)."""
    side = np.clip(np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]), 0, None)
    area = [np.prod(x[:, 2:] - x[:, :2], axis=1) for x in (a, b)]
    inner = side[:, 0] * side[:, 1]
    return inner / np.maximum(area[0] + area[1] - inner, 1e-12)
