"""Rows of a CSV in AVA's layout, video,keyframe,x1,y1,x2,y2,...: ours, AVA's and LFB's files."""

import csv
import gzip
import re
import zlib
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count, islice, zip_longest
from pathlib import Path

import numpy as np


@dataclass
class Rows:
    """n rows of a file such as video,keyframe,x1,y1,x2,y2,text,person, in its order."""

    path: Path
    lines: np.ndarray                       # (n,) where each stands in the file
    videos: list[str]
    video: np.ndarray                       # (n,) int32, index into `videos`
    keyframe: np.ndarray                    # (n,) float64, as the file counts
    box: np.ndarray                         # (n, 4) float64, zeros where nobody is
    score: np.ndarray                       # (n,) float64, the last column
    nobody: np.ndarray | None = None        # (n,) bool: a keyframe without a box
    texts: list[str] | None = None
    text: np.ndarray | None = None          # (n,) int32, index into `texts`
    person: np.ndarray | None = None        # (n,) int32 or -1, the last column; None: there is none

    def complain(self, bad: np.ndarray, message: Callable[[int], str]) -> None:
        """ValueError "path:line: message(row)" at the first bad row, with the number of others."""
        if bad.any():
            row, more = int(bad.argmax()), int(bad.sum()) - 1
            raise ValueError(f"{self.path}:{self.lines[row]}: {message(row)}"
                             + f" (and {more} rows more)" * bool(more))

    def box_in_words(self, row: int) -> str:
        return f"box {', '.join(f'{x:g}' for x in self.box[row])}"

    def check_boxes(self, order: str = "<") -> None:
        """ValueError where a box is not in [0, 1], or its corners not in order ("": in any)."""
        # the table keeps float32
        box, people = self.box.astype(np.float32) if order == "<" else self.box, ~self.nobody
        self.complain(people & ~((0 <= box) & (box <= 1)).all(axis=1), lambda row:
                      f"{self.box_in_words(row)} is outside [0, 1]; divide pixels by the picture's "
                      "width and height, and cut boxes at its border")
        if order:
            compare = np.less if order == "<" else np.less_equal
            self.complain(people & ~compare(box[:, :2], box[:, 2:]).all(axis=1), lambda row:
                          f"{self.box_in_words(row)} is not x1 {order} x2, y1 {order} y2")

    def check_unit(self) -> None:
        """ValueError where a box is in pixels, or if more than one in ten have swapped corners.

        Others overshoot [0, 1] by a little at most.
        """
        self.complain(((self.box < -0.5) | (self.box > 1.5)).any(axis=1), lambda row:
                      f"{self.box_in_words(row)} looks like pixels; expected xyxy in [0, 1]: "
                      "divide x by the picture's width, y by its height")
        wrong = (self.box[:, :2] > self.box[:, 2:]).any(axis=1)
        if 10 * wrong.sum() > len(wrong):
            self.complain(wrong, lambda row: f"{self.box_in_words(row)} is not x1 < x2, y1 < y2; "
                          "are its corners swapped, or is it x, y, width, height?")

    def check_times(self, frames: bool = False) -> None:
        """ValueError where a keyframe is no second, or no frame number (these count from 1)."""
        time = self.keyframe                                   # float32 keeps whole numbers to 2^24
        bad = ~((time >= frames) & (time < 2 ** 24)) | frames & (time != np.rint(time))
        what = "a frame number, 1 or more" if frames else "a time in seconds, 0 or more"
        self.complain(bad, lambda row: f"keyframe {time[row]:g} is not {what}")

    def action_ids(self) -> list[int]:
        """The id that each of the `texts` is, 0 for "" where nobody is."""
        ids = [int(text) if re.fullmatch("[0-9]{1,9}", text) else 0 for text in self.texts]
        self.complain(~self.nobody & (np.array(ids, int) < 1)[self.text], lambda row:
                      f"action id {self.texts[self.text[row]]!r} is not a whole number, 1 or more"
                      + " (is this a file of proposals?)" * (not self.texts[self.text[row]]))
        return ids


def read_rows(path, layout: str, frames: bool = False, may_be_empty: bool = False) -> Rows:
    """The rows of a CSV, plain or .gz; ValueError with the line of what is wrong.

    layout: a row's forms, such as "video,keyframe,x1,y1,x2,y2,text[,person] or video,keyframe";
    the column in brackets may be left out. A header names exactly these columns.
    frames: keyframes are frame numbers.
    """
    long, _, short = layout.partition(" or ")
    names = re.sub(r"[\[\]]", "", long).split(",")
    widths = {len(names), *(form.count(",") + 1 for form in (long.split("[")[0], short or long))}
    videos, texts = defaultdict(count().__next__), defaultdict(count().__next__)
    parts = [(np.zeros(0, np.int64), np.zeros((2, 0), np.int32), np.zeros((6, 0)))]
    for line, rows in csv_rows(path):
        if rows[0][0].startswith("sep="):
            raise ValueError(f"{path}:{line[0]}: {rows[0][0]!r} is a line for Excel; delete it")
        if len(parts) == 1 and is_header(rows[0], names, widths):
            line, rows = line[1:], rows[1:]
        if not set(map(len, rows)) <= widths:
            at, row = next((at, row) for at, row in zip(line, rows) if len(row) not in widths)
            raise ValueError(f"{path}:{at}: {len(row)} columns; expected {layout}")
        cells = list(zip_longest(*rows, fillvalue=""))
        cells += [("" if i == 6 else "nan",) * len(rows) for i in range(len(cells), 8)]
        label = [list(map(index.__getitem__, map(str.strip, cells[i])))
                 for index, i in ((videos, 0), (texts, 6))]
        columns = [*cells[1:6], cells[7]]
        try:
            if any("_" in "".join(column) for column in columns):
                raise ValueError                               # Python reads 1_0 as 10
            number = np.array(columns, np.float64)
        except ValueError:                                     # of an empty cell, or of a word
            number = np.array([[number_in(cell, path, at, layout) for cell, at in zip(column, line)]
                               for column in columns])
        parts.append((line, np.array(label, np.int32), number))
    lines, (video, text), number = (np.concatenate(part, axis=-1) for part in zip(*parts))
    if not len(lines) and not may_be_empty:
        raise ValueError(f"{path}: no rows; expected {layout}")

    box, last = number[1:5].T, number[5]
    nobody = np.isnan(box).all(axis=1) & (text == texts.get("", -1)) & np.isnan(last)
    found = Rows(path, lines, list(videos), video, number[0], box, last, nobody, list(texts), text)
    found.complain(video == videos.get("", -1), lambda row: "video is absent")
    found.check_times(frames)
    wanted = ~nobody | (not short and len(names) > 2)
    found.complain(wanted & ~np.isfinite(box).all(axis=1), lambda row:
                   f"{found.box_in_words(row)} is not four finite numbers; expected {layout}")
    if names[-1] == "score":
        found.complain(wanted & ~np.isfinite(last), lambda row: "score is absent or not a finite "
                       f"number; expected {layout}")
    elif not np.isnan(last).all():
        good = (last == np.rint(last)) & (np.abs(last) < 2 ** 31) | np.isnan(last)
        found.complain(~good, lambda row: f"person {last[row]:.17g} is not a whole number of at "
                       "most nine digits")
        found.person = np.nan_to_num(last, nan=-1).astype(np.int32)
    box[nobody] = 0
    return found


OTHER_NAMES = {"video_id": "video", "timestamp": "keyframe", "second": "keyframe",
               "action_id": "text", "person_id": "person"}


def is_header(row: list[str], names: list[str], widths: set[int]) -> bool:
    """Whether a first row names exactly the columns of a layout, in their order."""
    cells = [cell.strip().lower() for cell in row]
    return len(row) in widths and all(
        not name or OTHER_NAMES.get(cell, cell) == OTHER_NAMES.get(name, name)
        for cell, name in zip(cells, names))


def csv_rows(path):
    """Line numbers (n,) and n rows of a CSV without blank lines; 512 fit a processor's cache."""
    line, rows = 1, []
    try:
        opened = gzip.open if str(path).endswith(".gz") else open
        with opened(path, "rt", newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, skipinitialspace=True, strict=True)
            while True:
                rows = []
                rows.extend(islice(reader, 512))               # keeps those before a fault
                if not rows:
                    return
                if reader.line_num >= line + len(rows):
                    row = next(i for i, row in enumerate(rows) if re.search("[\r\n]", "".join(row)))
                    raise ValueError(f"{path}:{line + row}: a line break inside a cell; "
                                     "is a quote not closed?")
                lines, line = np.arange(line, line + len(rows)), line + len(rows)
                if not all(rows):
                    full = [i for i, row in enumerate(rows) if row]
                    lines, rows = lines[full], [rows[i] for i in full]
                if rows:
                    yield lines, rows
    except csv.Error as error:
        raise ValueError(f"{path}:{line + len(rows)}: not a row of a CSV ({error}); "
                         "is it JSON, or is a quote not closed?") from None
    except (UnicodeDecodeError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path}: not a text file in UTF-8 with commas ({error})") from None


def number_in(cell: str, path, line: int, layout: str) -> float:
    """NaN where the cell is empty."""
    try:
        return float(cell.strip().replace("_", "?") or "nan")
    except ValueError:
        raise ValueError(f"{path}:{line}: {cell!r} is not a number; expected {layout}") from None


def find(names: list[str], known: list[str]) -> np.ndarray:
    """The index of each name among the known ones, or -1: (n,) int32."""
    index = {name: i for i, name in enumerate(known)}
    return np.array([index.get(name, -1) for name in names], np.int32)
