"""Reading files that may be wrong: CSV, JSON, pickles of strangers, and where official files lie."""

import csv
import json
import os
import pickle
import re
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import numpy as np
from tqdm import tqdm


# ---------------------------------------------------------------- faults, in one line

def complain(path, lines, bad: np.ndarray, message) -> None:
    """ValueError "path:line: message(i)" if any row i is bad (n,), with the number of the others."""
    if bad.any():
        i, more = int(bad.argmax()), int(bad.sum()) - 1
        raise ValueError(f"{path}:{lines[i]}: {message(i)}" + (f" (and {more} rows more)" if more else ""))


def check_boxes(boxes: np.ndarray, path, lines) -> None:
    """ValueError at the first of (n, 4) boxes that is not x1 < x2, y1 < y2 in [0, 1]; lines: (n,) of the file."""
    x1, y1, x2, y2 = np.asarray(boxes).T
    good = (0 <= x1) & (x1 < x2) & (x2 <= 1) & (0 <= y1) & (y1 < y2) & (y2 <= 1)
    pixels = ("; these look like pixels: divide x by the picture's width, y by its height"
              if (boxes > 2).any() else "")
    complain(path, lines, ~good, lambda i: f"box {', '.join(f'{v:g}' for v in boxes[i])} is not x1 < x2, y1 < y2 "
                                           f"in [0, 1]{pixels}")


def listed(path, lines, bad: np.ndarray, reason: str) -> list[str]:
    """Faults "file:line: reason" of the bad rows (n,) of an official file: the first 100, and how many more."""
    rows = np.flatnonzero(bad)
    more = [f"{Path(path).name}: {len(rows) - 100} rows more: {reason}"] if len(rows) > 100 else []
    return [f"{Path(path).name}:{lines[i]}: {reason}" for i in rows[:100]] + more


# ---------------------------------------------------------------- CSV

def csv_columns(path, widths: tuple[int, ...], texts: tuple[int, ...], numbers: tuple[int, ...], layout: str):
    """Columns of a CSV: line numbers (n,), one list of str a text column, numbers (n, k) float64.

    widths: how many columns a row may have; an absent or empty cell is "" or NaN. layout says in an
    error what a row should hold. Blank lines and a header (first cell "video") are skipped.
    """
    width, lines, columns, parts = max(widths), [], [[] for _ in texts], []
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            numbered = ((reader.line_num, row) for row in reader if row)
            while chunk := list(islice(numbered, 512)):        # short chunks: six times faster than long lists
                if not lines and chunk[0][1][0].strip().lower() in ("video", "video_id"):
                    chunk = chunk[1:]
                for line, row in chunk:
                    if len(row) not in widths:
                        raise ValueError(f"{path}:{line}: {len(row)} columns, expected {layout}")
                    lines.append(line)
                cells = list(zip(*(row + [""] * (width - len(row)) for _, row in chunk))) or [()] * width
                for column, c in zip(columns, texts):
                    column += map(str.strip, cells[c])
                try:
                    parts.append(np.array([[cell or "nan" for cell in cells[c]] for c in numbers], np.float64).T)
                except ValueError:
                    raise first_non_number(path, chunk, numbers, layout) from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: not a text file in UTF-8 with commas ({error})") from None
    return np.array(lines, np.int64), columns, np.concatenate(parts or [np.zeros((0, len(numbers)))])


def first_non_number(path, chunk, numbers, layout) -> ValueError:
    for line, row in chunk:
        for cell in (row[c] for c in numbers if c < len(row) and row[c]):
            try:
                float(cell)
            except ValueError:
                return ValueError(f"{path}:{line}: {cell!r} is not a number; expected {layout}")


def places(names: list[str], known: list[str] | None = None) -> tuple[list[str], np.ndarray]:
    """Distinct names in order of appearance, and each name's place among them (n,); known: fixed list, else -1."""
    if known is not None:
        place = {name: i for i, name in enumerate(known)}
        return known, np.array([place.get(name, -1) for name in names], np.int32)
    place = {}
    at = np.array([place.setdefault(name, len(place)) for name in names], np.int32)
    return list(place), at


def read_list(path) -> set[str]:
    """The first column of a file of one video a line, such as AVA's ground truth or its lists."""
    with open(path, encoding="utf-8-sig") as file:
        return {line.split(",")[0].strip() for line in file} - {""}


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


# ---------------------------------------------------------------- label maps

def read_label_map(path) -> dict[int, str]:
    """{action id: class name} of a pbtxt in any of its layouts, also without newlines, or of lines `id: name`."""
    text = Path(path).read_text(encoding="utf-8-sig")
    names, pairs, labels = [], [], {}

    def number(match) -> str:                                  # a name may hold anything, even "item {"
        names.append(re.sub(r"\\(.)", r"\1", match[1][1:-1]))
        return f'"{len(names) - 1}"'

    plain = re.sub(r"""(?<=:)\s*("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')""", number, text)
    for block in re.split(r"\b(?:item|label)\s*\{", plain)[1:]:
        name, i = re.search(r'\bname\s*:\s*"(\d+)"', block), re.search(r"\b(?:label_)?id\s*:\s*(\d+)", block)
        if not name or not i:
            raise ValueError(f"{path}: item {len(pairs) + 1} lacks a name or an id; expected items like "
                             'item { name: "stand" id: 12 }')
        pairs.append((int(i[1]), names[int(name[1])]))
    pairs = pairs or [(int(i), name) for i, name in
                      re.findall(r"^[ \t]*(\d+)[ \t]*:[ \t]*(.*\S)", text, re.MULTILINE)]
    for i, name in pairs:
        if i in labels or i < 1:
            raise ValueError(f"{path}: action id {i} {'is there twice' if i in labels else 'is not 1 or more'}")
        labels[i] = f"{name} ({i})" if name in labels.values() else name       # two ids of one name stay two
    if not labels:
        raise ValueError(f'{path}: holds no classes; expected items like item {{ name: "stand" id: 12 }}')
    return labels


def write_label_map(path, labels: dict[int, str]) -> None:
    """A pbtxt in the layout of the official 60-class AVA files."""
    with replacing(path) as file:
        for number, name in labels.items():
            quoted = name.replace("\\", "\\\\").replace('"', '\\"')
            file.write(f'item {{\n  name: "{quoted}"\n  id: {number}\n}}\n')


# ---------------------------------------------------------------- pickles and JSON

class SafeUnpickler(pickle.Unpickler):
    """Builds dicts, lists, tuples, strings, numbers and numpy arrays; refuses everything else by name."""

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


# ---------------------------------------------------------------- finding official files

VIDEO_SUFFIXES = {".avi", ".mp4", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".mpeg"}
FRAME_FOLDERS = {"rgb-images", "Frames", "frames", "rawframes"}              # one folder of pictures a video below
SKIPPED_FOLDERS = {"brox-images", "FlowBrox04", "labels", ".ovstad_cache"}


def walk(root) -> tuple[list[Path], list[Path]]:
    """Every file below root, and every folder that holds frame folders.

    These are not entered: millions of files.
    """
    files, frames = [], []
    for folder, below, names in os.walk(root, followlinks=True):
        deep = len(Path(folder).relative_to(root).parts) >= 5
        frames += [Path(folder, name) for name in sorted(below) if name in FRAME_FOLDERS]
        below[:] = [] if deep else sorted(set(below) - FRAME_FOLDERS - SKIPPED_FOLDERS)
        files += [Path(folder, name) for name in sorted(names)]
    return files, frames


def find_file(files: list[Path], patterns: list[str], root, source: str) -> Path:
    """The first file that matches the earliest pattern (of `Path.match`); else what is missing and its source."""
    for pattern in patterns:
        for path in files:
            if path.match(pattern):
                return path
    raise FileNotFoundError(f"{' or '.join(patterns)} is not under {root}; get it from {source}")


def find_videos(keys: list[str], files: list[Path], frames: list[Path]) -> list[str]:
    """For each video key its frame folder, or the video file of that name in whichever folder; "" if neither."""
    stems = {path.stem: str(path) for path in reversed(files) if path.suffix.lower() in VIDEO_SUFFIXES}
    found = []
    for key in keys:
        name = key.rsplit("/", 1)[-1]
        name = name[: -len(Path(name).suffix)] if Path(name).suffix.lower() in VIDEO_SUFFIXES else name
        folders = (folder / key for folder in frames)
        found.append(next((str(folder) for folder in folders if folder.is_dir()), stems.get(name, "")))
    return found


def check_split(split: str, known: tuple[str, ...]) -> None:
    if split not in known:
        raise ValueError(f"split {split!r} is not one of {', '.join(known)}")


def parallel(function, jobs: list, label: str, workers: int = 8) -> list:
    """function(job) of every job, in order, in a few processes, with a progress bar."""
    workers = min(workers, os.cpu_count() or 1, len(jobs) // 8)
    if workers < 2:
        return [function(job) for job in tqdm(jobs, label, disable=len(jobs) < 8)]
    with ProcessPoolExecutor(workers) as pool:
        return list(tqdm(pool.map(function, jobs, chunksize=4), label, total=len(jobs)))
