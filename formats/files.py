"""Reading files that may be wrong: CSV, JSON, pickles of strangers, and where official files lie."""

import csv
import gzip
import json
import os
import pickle
import re
import zlib
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from itertools import count, islice, zip_longest
from pathlib import Path

import numpy as np
from tqdm import tqdm


# ---------------------------------------------------------------- faults, in one line

def complain(path, lines, bad: np.ndarray, message) -> None:
    """ValueError "path:line: message(row)" if any of n rows is bad (n,), with the number of the others."""
    if bad.any():
        row, more = int(bad.argmax()), int(bad.sum()) - 1
        raise ValueError(f"{path}:{lines[row]}: {message(row)}" + (f" (and {more} rows more)" if more else ""))


def check_boxes(path, lines, box: np.ndarray, order: str = "<") -> None:
    """ValueError at the first of (n, 4) boxes outside [0, 1], or whose corners are not in order ("": in any)."""
    def words(row):
        return f"box {', '.join(f'{x:g}' for x in box[row])}"

    complain(path, lines, ~((0 <= box) & (box <= 1)).all(axis=1), lambda row: f"{words(row)} is outside [0, 1]; "
             "divide pixels by the picture's width and height, and cut boxes at its border")
    if order:
        compare = np.less if order == "<" else np.less_equal
        complain(path, lines, ~compare(box[:, :2], box[:, 2:]).all(axis=1),
                 lambda row: f"{words(row)} is not x1 {order} x2, y1 {order} y2")


def check_unit(path, lines, box: np.ndarray) -> None:
    """ValueError at the first of (n, 4) boxes that are in pixels: others overshoot [0, 1] by a little at most."""
    complain(path, lines, ((box < -0.5) | (box > 1.5)).any(axis=1),
             lambda row: f"box {box[row].tolist()} looks like pixels; expected xyxy in [0, 1]: "
             "divide x by the picture's width, y by its height")


def check_pixels(path, box: np.ndarray) -> None:
    """ValueError if (n, 4) boxes of a format that has pixels are all in [0, 1]."""
    if len(box) and box.max() > 0 and np.abs(box).max() <= 1.5:
        raise ValueError(f"{path}: its boxes are in [0, 1]; expected pixels")


def check_times(path, lines, keyframe: np.ndarray, frames: bool = False) -> None:
    """ValueError at the first of (n,) keyframes that is no second, or no frame number, which files count from 1."""
    good = (keyframe >= frames) & (keyframe < 2 ** 24)         # as float32 keeps whole numbers
    what = "a frame number, 1 or more" if frames else "a time in seconds, 0 or more"
    complain(path, lines, ~good | (frames and keyframe != np.rint(keyframe)),
             lambda row: f"keyframe {keyframe[row]:g} is not {what}")


def whole_numbers(path, lines, values: np.ndarray, what: str) -> np.ndarray:
    """Optional whole numbers (n,) float64, NaN where there is none, as (n,) int32, there -1."""
    good = (values == np.rint(values)) & (np.abs(values) < 2 ** 31) | np.isnan(values)
    complain(path, lines, ~good,
             lambda row: f"{what} {values[row]:.17g} is not a whole number of at most nine digits")
    return np.nan_to_num(values, nan=-1).astype(np.int32)


def listed(path, lines, bad: np.ndarray, reason: str) -> list[str]:
    """Faults "file:line: reason" of the bad rows (n,) of an official file: the first 100, and how many more."""
    rows = np.flatnonzero(bad)
    more = [f"{Path(path).name}: {len(rows) - 100} rows more: {reason}"] if len(rows) > 100 else []
    return [f"{Path(path).name}:{lines[row]}: {reason}" for row in rows[:100]] + more


# ---------------------------------------------------------------- CSV and lists

def read_columns(path, layout: str, texts: tuple[str, ...] = ("video",)) -> tuple[np.ndarray, dict, dict]:
    """Columns of a CSV, plain or .gz, by the names in its layout: lines (n,), texts and numbers.

    The layout, which errors repeat, is such as "video,second,x1,y1,x2,y2,text[,person] or
    video,second": a row has one of its forms, a column in brackets may be left out, one without a
    name is skipped. A text column is its distinct cells and an index into them (n,) int32; a number
    is (n,) float64, and "box" (n, 4) holds x1,y1,x2,y2. What a row does not have is "" or NaN.
    """
    long, short = (layout.split(" or ") * 2)[:2]
    names, must = (re.sub(pattern, "", long).split(",") for pattern in (r"[\[\]]", r"\[.*\]"))
    widths, short = {len(names), len(must), short.count(",") + 1}, re.sub(r"\[.*\]", "", short).split(",")
    index = {name: defaultdict(count().__next__) for name in texts}
    numeric = [name for name in names if name and name not in texts]
    lines, labels = [no_lines := np.zeros(0, np.int64)], [np.zeros((len(texts), 0), np.int32)]
    numbers = [np.zeros((len(numeric), 0))]
    for line, rows in csv_rows(path):
        if lines[-1] is no_lines and is_header(rows[0], names, widths):
            line, rows = line[1:], rows[1:]
        if not set(map(len, rows)) <= widths:
            at, row = next((at, row) for at, row in zip(line, rows) if len(row) not in widths)
            raise ValueError(f"{path}:{at}: {len(row)} columns; expected {layout}")
        column = dict(zip_longest(names, zip_longest(*rows, fillvalue=""), fillvalue=("",) * len(rows)))
        lines.append(line)
        label = [list(map(index[name].__getitem__, map(str.strip, column[name]))) for name in texts]
        labels.append(np.array(label, np.int32).reshape(len(texts), len(rows)))
        try:
            numbers.append(np.array([column[name] for name in numeric], np.float64))
        except ValueError:
            numbers.append([[number_in(cell, path, at, layout) for cell, at in zip(column[name], line)]
                            for name in numeric])
    lines = np.concatenate(lines)
    labels, numbers = np.concatenate(labels, axis=1), np.concatenate(numbers, axis=1)

    # a row of the long form has all columns that no bracket makes optional, of texts only the first
    filled = {name: label != index[name].get("", -1) for name, label in zip(texts, labels)}
    filled |= {name: ~np.isnan(number) for name, number in zip(numeric, numbers)}
    is_long = np.any([filled[name] for name in must if name and name not in short], axis=0)
    for name in must:
        if name == names[0] or name in numeric:
            good = np.isfinite(numbers[numeric.index(name)]) if name in numeric else filled[name]
            complain(path, lines, ~good & (is_long | (name in short)),
                     lambda row: f"{name} is absent or not a finite number; expected {layout}")
    texts = {name: (list(index[name]), label) for name, label in zip(texts, labels)}
    box = {"box": numbers[numeric.index("x1"):][:4].T} if "x1" in numeric else {}
    return lines, texts, dict(zip(numeric, numbers)) | box


OTHER_NAMES = {"video_id": "video", "timestamp": "keyframe", "second": "keyframe", "action_id": "text",
               "person_id": "person"}


def is_header(row: list[str], names: list[str], widths: set[int]) -> bool:
    """Whether a first row names exactly the columns of a layout, in their order; a column without a name has any."""
    cells = [cell.strip().lower() for cell in row]
    return len(row) in widths and all(not name or OTHER_NAMES.get(cell, cell) == OTHER_NAMES.get(name, name)
                                      for cell, name in zip(cells, names))


def csv_rows(path):
    """Line numbers (n,) and n rows of a CSV without its blank lines, 512 at a time: these stay in the cache."""
    line, rows = 1, []
    try:
        opened = gzip.open if str(path).endswith(".gz") else open
        with opened(path, "rt", newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, skipinitialspace=True, strict=True)
            while True:
                rows = []
                rows.extend(islice(reader, 512))               # keeps those before a fault, which tell its line
                if not rows:
                    return
                if reader.line_num >= line + len(rows):
                    row = next(i for i, row in enumerate(rows) if re.search("[\r\n]", "".join(row)))
                    raise ValueError(f"{path}:{line + row}: a line break inside a cell; is a quote not closed?")
                lines, line = np.arange(line, line + len(rows)), line + len(rows)
                if not all(rows):
                    full = [i for i, row in enumerate(rows) if row]
                    lines, rows = lines[full], [rows[i] for i in full]
                if rows:
                    yield lines, rows
    except csv.Error as error:
        raise ValueError(f"{path}:{line + len(rows)}: not a row of a CSV ({error}); "
                         "is a quote not closed?") from None
    except (UnicodeDecodeError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path}: not a text file in UTF-8 with commas ({error})") from None


def number_in(cell: str, path, line: int, layout: str) -> float:
    """NaN where the cell is empty."""
    try:
        return float(cell.strip() or "nan")
    except ValueError:
        raise ValueError(f"{path}:{line}: {cell!r} is not a number; expected {layout}") from None


def find(names: list[str], known: list[str]) -> np.ndarray:
    """The index of each name among the known ones, or -1: (n,) int32."""
    index = {name: i for i, name in enumerate(known)}
    return np.array([index.get(name, -1) for name in names], np.int32)


def read_text(path) -> str:
    """A text in UTF-8; ValueError with its name if it is none."""
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text file in UTF-8 ({error})") from None


def read_list(path) -> set[str]:
    """The first column of a file of one video a line, such as AVA's ground truth or its lists."""
    return {line.split(",")[0].strip() for line in read_text(path).splitlines()} - {""}


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

TOKEN = re.compile(r"""\s+|\#.*|("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|[-+.\w]+|.)""")      # a comment is no group
ITEM = re.compile(r"(?:item|label)\n\{\n((?:\w+\n:\n.*\n)*)\}\n")                           # of one token a line


def read_label_map(path) -> dict[int, str]:
    """{action id: class name} of a pbtxt in any of its layouts, also without newlines, or of lines `id: name`.

    ValueError at the first item or line that is neither: no class may get lost.
    """
    lines = [(number, line.strip()) for number, line in enumerate(read_text(path).split("\n"), 1)
             if line.strip() and not line.lstrip().startswith("#")]
    if lines and re.match(r"(item|label)\b", lines[0][1]):
        found = pbtxt_items(lines)
    else:
        found = [(number, line, *map(str.strip, line.partition(":")[::2])) for number, line in lines]
    expected, labels = 'expected items like item { name: "stand" id: 12 }, or lines like 12: stand', {}
    if not found:
        raise ValueError(f"{path}: holds no classes; {expected}")
    for line, text, i, name in found:
        if not re.fullmatch("[0-9]{1,9}", i) or int(i) < 1 or not name or int(i) in labels:
            raise ValueError(f"{path}:{line}: {text[:60]!r} is no class with a name and an id of its own, 1 or more; "
                             + expected)
        labels[int(i)] = f"{name} ({i})" if name in labels.values() else name       # two ids of one name stay two
    return labels


def pbtxt_items(lines: list[tuple[int, str]]) -> list[tuple[int, str, str, str]]:
    """(line, item, id, name) of a pbtxt, id and name "" in an item that is wrong, which is the last one."""
    number, words = zip(*[(number, word) for number, line in lines for word in TOKEN.findall(line) if word])
    text, end, at, found = "\n".join(words) + "\n", 0, 0, []
    while at < len(words):
        item = ITEM.match(text, end)
        fields = re.findall(r"(?:label_)?(\w+)\n:\n(.*)\n", item[1] if item else "")
        ids, names = ([value for key, value in fields if key == wanted] for wanted in ("id", "name"))
        try:                                                   # escapes stand for bytes of UTF-8
            name = re.sub(r"^(['\"])(.*)\1$|.*", r"\2", names[0] if len(names) == 1 else "")
            name = name.encode().decode("unicode_escape").encode("latin1").decode()
        except UnicodeError:
            name = ""
        found.append((number[at], " ".join(words[at:at + 12]), ids[0] if len(ids) == 1 else "", name))
        if not item:
            break
        at, end = at + item[0].count("\n"), item.end()
    return found


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
    except FileNotFoundError:
        raise
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    except Exception as error:                                 # damaged bytes may raise anything
        raise ValueError(f"{path}: damaged or not a pickle ({type(error).__name__}: {error}); "
                         "download it again") from None


def without_repeats(pairs: list[tuple[str, object]]) -> dict:
    """A JSON object's dict; ValueError if a key is there twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        seen = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"{twice!r:.60} is there twice in one object")
    return found


def load_json(path):
    """The value in a JSON file; ValueError with the line where it is not one."""
    text = read_text(path)
    try:
        return json.loads(text, object_pairs_hook=without_repeats)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}:{error.lineno}: not JSON ({error.msg}); download it again") from None
    except (RecursionError, ValueError) as error:              # 50,000 brackets, a number of 5,000 digits
        raise ValueError(f"{path}: not JSON that an annotation would hold ({error}); download it again") from None


# ---------------------------------------------------------------- what a format promises

def field(entry, key: str, kind, where: str, form: str = ""):
    """entry[key] if entry is a dict and the value of the kind (bool is no number); else ValueError.

    where: the file and the entry, for the error; form: how the value looks, where its kind does not tell.
    """
    if not isinstance(entry, dict):
        raise ValueError(f"{where}: a {type(entry).__name__}, expected an object with {key}")
    if key not in entry:
        raise ValueError(f"{where}: has no {key}")
    check_kind(entry[key], kind, f"{where}: {key}", form)
    return entry[key]


def check_kind(value, kind, where: str, form: str = "") -> None:
    """ValueError unless the value is of the kind; a bool is no number, and numbers are finite and below 2^31."""
    if not isinstance(value, kind) or isinstance(value, bool):
        names = " or ".join(one.__name__ for one in (kind if isinstance(kind, tuple) else (kind,)))
        raise ValueError(f"{where} is a {type(value).__name__}; expected {form or names}")
    if isinstance(value, (int, float, np.number)) and not abs(value) < 2 ** 31:          # nor is NaN
        raise ValueError(f"{where} is no number of at most nine digits")


def numbers_of(value, where: str, form: str) -> list[float]:
    """A list of four finite numbers, a box; form: which four."""
    check_kind(value, list, where, form)
    for number in value:
        check_kind(number, (int, float), f"{where}: a side")
    if len(value) != 4:
        raise ValueError(f"{where} has {len(value)} numbers; expected {form}")
    return value


def array_of(value, columns: int, where: str) -> np.ndarray:
    """An array (n, columns) of finite numbers, as float64: in uint8, x + w would wrap."""
    check_kind(value, np.ndarray, where)
    if value.shape[1:] != (columns,) or value.dtype.kind not in "iuf" or not np.isfinite(value).all():
        raise ValueError(f"{where} is {value.dtype} {value.shape}; expected finite numbers (n, {columns})")
    return value.astype(np.float64)


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


def videos_on_disk(keys: list[str], files: list[Path], frames: list[Path]) -> list[str]:
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
        return [function(job) for job in tqdm(jobs, label, disable=len(jobs) < 8 or None)]
    with ProcessPoolExecutor(workers) as pool:
        return list(tqdm(pool.map(function, jobs, chunksize=4), label, total=len(jobs), disable=None))
