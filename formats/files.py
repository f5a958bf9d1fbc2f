"""Reading files that may be wrong: label maps, JSON, strangers' pickles; finding files."""

import filecmp
import json
import os
import pickle
import re
import sys
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from tqdm import tqdm


# ---------------------------------------------------------------- texts

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
    """A file that replaces `path` once it is complete; a failure leaves nothing behind."""
    part = Path(f"{path}.part")
    part.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open(part, "wb") if binary else open(part, "w", newline="", encoding="utf-8") as file:
            yield file
        os.replace(part, path)
    except (OSError, RuntimeError) as error:                   # torch's writer hides a full disk
        hidden = error if isinstance(error, OSError) else error.__context__        # and Ctrl-C
        if not isinstance(hidden, (OSError, KeyboardInterrupt)):
            raise
        if isinstance(hidden, OSError):
            hidden.filename = hidden.filename or str(path)
        raise hidden from None
    finally:
        part.unlink(missing_ok=True)


# ---------------------------------------------------------------- label maps

TOKEN = re.compile(r"""\s+|\#.*|("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|[-+.\w]+|.)""")
ITEM = re.compile(r"(?:item|label)\n\{\n((?:\w+\n:\n.*\n)*)\}\n")          # of one token a line


def read_label_map(path) -> dict[int, str]:
    """{action id: class name} of a pbtxt in any layout, also on one line, or of lines `id: name`.

    ValueError at the first item or line that is neither: no class may get lost.
    """
    lines = [(number, line.strip()) for number, line in enumerate(read_text(path).split("\n"), 1)
             if line.strip() and not line.lstrip().startswith("#")]
    expected = 'expected items like item { name: "stand" id: 12 }, or lines like 12: stand'
    if not lines:
        raise ValueError(f"{path}: holds no classes; {expected}")
    if re.match(r"(item|label)\b", lines[0][1]):
        found = pbtxt_items(lines)
    else:
        found = [(at, line, *map(str.strip, line.partition(":")[::2])) for at, line in lines]
    labels, names = {}, set()
    for at, text, i, name in found:
        if not re.fullmatch("[0-9]{1,9}", i) or int(i) < 1 or not name or int(i) in labels:
            raise ValueError(f"{path}:{at}: {text[:60]!r} is no class with a name and an id of its "
                             f"own, 1 or more; {expected}")
        labels[int(i)] = f"{name} ({i})" if name in names else name     # two ids stay two
        names.add(name)
    return labels


def pbtxt_items(lines: list[tuple[int, str]]) -> list[tuple[int, str, str, str]]:
    """(line, item, id, name) of a pbtxt's items up to a wrong one, whose id or name is ""."""
    number, words = zip(*[(number, word) for number, line in lines
                          for word in TOKEN.findall(line) if word])
    text, end, at, found, item = "\n".join(words) + "\n", 0, 0, [], True
    while item and at < len(words):
        item = ITEM.match(text, end)
        fields = re.findall(r"(?:label_)?(\w+)\n:\n(.*)\n", item[1] if item else "")
        i, name = (" ".join(value for key, value in fields if key == wanted)
                   for wanted in ("id", "name"))
        try:                                                   # escapes stand for bytes of UTF-8
            name = TOKEN.fullmatch(name)[1][1:-1] if name[:1] in ("'", '"') else ""
            name = name.encode().decode("unicode_escape").encode("latin1").decode()
        except (UnicodeError, TypeError):                      # or two names
            name = ""
        found.append((number[at], " ".join(words[at:at + 12]), i, name))
        at, end = (at + item[0].count("\n"), item.end()) if item else (at, end)
    return found


def write_label_map(path, labels: dict[int, str]) -> None:
    """A pbtxt in the layout of the official 60-class AVA files."""
    with replacing(path) as file:
        for number, name in labels.items():
            quoted = name.replace("\\", "\\\\").replace('"', '\\"')
            file.write(f'item {{\n  name: "{quoted}"\n  id: {number}\n}}\n')


# ---------------------------------------------------------------- pickles and JSON

class SafeUnpickler(pickle.Unpickler):
    """Builds dicts, lists, tuples, strings, numbers and numpy arrays; refuses everything else."""

    # numpy's own rebuilding functions, taken from arrays so that no private module is imported
    allowed = {"ndarray": np.ndarray, "dtype": np.dtype} | {
        function.__name__: function for function in (
            np.zeros(1).__reduce__()[0], np.float32(0).__reduce__()[0],
            np.zeros(1).__reduce_ex__(5)[0])}

    def find_class(self, module: str, name: str):
        if re.fullmatch(r"numpy(\._?core\.(multiarray|numeric))?", module) and name in self.allowed:
            return self.allowed[name]
        if (module, name) == ("_codecs", "encode"):            # Python 2's bytes of an array
            return lambda text, encoding: text.encode("latin1")
        if name == "bytes" and module in ("__builtin__", "builtins"):
            return lambda: b""                                 # of an empty array, protocol 2
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        raise ValueError(f"holds {module}.{name}, which is neither data nor a numpy array; not "
                         "loaded, because a pickle can run code. If you trust where it came from, "
                         "save it again as plain arrays")


def load_pickle(path):
    """The value in a pickle (also Python 2's) of plain values and arrays; else ValueError."""
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
        twice = next(key for i, (key, _) in enumerate(pairs) if key in dict(pairs[:i]))
        raise ValueError(f"{twice!r:.60} is there twice in one object")
    return found


def load_json(path):
    """The value in a JSON file; ValueError with the line where it is not one."""
    text = read_text(path)
    try:
        return json.loads(text, object_pairs_hook=without_repeats)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}:{error.lineno}: not JSON ({error.msg}); "
                         "download it again") from None
    except (RecursionError, ValueError) as error:              # 50,000 brackets, 5,000 digits
        raise ValueError(f"{path}: not JSON that an annotation would hold ({error}); "
                         "download it again") from None


# ---------------------------------------------------------------- what a format promises

def field(entry, key: str, kind, where: str, form: str = ""):
    """entry[key] if entry is a dict and the value of the kind; else ValueError, as `check_kind`."""
    if not isinstance(entry, dict):
        raise ValueError(f"{where}: a {type(entry).__name__}, expected an object with {key}")
    if key not in entry:
        raise ValueError(f"{where}: has no {key}")
    check_kind(entry[key], kind, f"{where}: {key}", form)
    return entry[key]


def whole(entry, key: str, where: str, low: int = 0, high: int = 2 ** 31) -> int:
    """entry[key], a whole number, low <= n < high, as an int: a uint8 would wrap in sums."""
    value = int(field(entry, key, (int, np.integer), where))
    if not low <= value < high:
        raise ValueError(f"{where}: {key} is {value}; expected {low} to {high - 1}")
    return value


def check_kind(value, kind, where: str, form: str = "") -> None:
    """ValueError unless a value is of the kind; numbers are finite, below 2^31 and no bool.

    where: the file, the entry and the field; form: how the value looks, if its kind does not tell.
    """
    if not isinstance(value, kind) or isinstance(value, bool):
        names = " or ".join(one.__name__ for one in (kind if isinstance(kind, tuple) else (kind,)))
        raise ValueError(f"{where} is a {type(value).__name__}; expected {form or names}")
    if isinstance(value, (int, float, np.number)) and not abs(value) < 2 ** 31:
        raise ValueError(f"{where} is no number of at most nine digits")


def four_numbers(value, where: str, form: str) -> list[float]:
    """A box; form: which four numbers it has."""
    check_kind(value, list, where, form)
    for number in value:
        check_kind(number, (int, float), f"{where}: a side")
    if len(value) != 4:
        raise ValueError(f"{where} has {len(value)} numbers; expected {form}")
    return value


def array_of(value, columns: int, where: str) -> np.ndarray:
    """An array (n, columns) of finite numbers, as float64: in uint8, x + w would wrap."""
    check_kind(value, np.ndarray, where)
    numbers = value.shape[1:] == (columns,) and value.dtype.kind in "iuf"
    if not numbers or not np.isfinite(value).all():
        raise ValueError(f"{where} is {value.dtype} {value.shape}; "
                         f"expected finite numbers (n, {columns})")
    return value.astype(np.float64)


def check_pixels(path, boxes: list[np.ndarray], sizes=()) -> None:
    """ValueError if boxes, arrays (n, 4) of corners, are in [0, 1] where a format has pixels.

    sizes: of each array's picture, (width, height): more than one box in ten that is empty or far
    beyond it is a ValueError too.
    """
    largest = max((np.abs(box).max() for box in boxes if len(box)), default=0)
    if 0 < largest <= 1.5:
        raise ValueError(f"{path}: its boxes are in [0, 1]; expected pixels")
    wrong = [(box[:, :2] >= box[:, 2:]) | (box[:, 2:] > 1.1 * np.asarray(size))
             for box, size in zip(boxes, sizes)]
    wrong, n = sum(int(box.any(axis=1).sum()) for box in wrong), sum(map(len, boxes))
    if 10 * wrong > n:
        raise ValueError(f"{path}: {wrong:,} of {n:,} boxes are empty or reach far beyond the "
                         "picture; are they x, y, width, height instead of corners, or corners "
                         "instead of those?")


# ---------------------------------------------------------------- finding official files

VIDEO_SUFFIXES = {".avi", ".mp4", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".mpeg"}
FRAME_FOLDERS = {"rgb-images", "Frames", "frames", "rawframes"}         # of a folder a video
SKIPPED_FOLDERS = {"brox-images", "FlowBrox04", "labels", ".ovstad_cache"}


def walk(root) -> tuple[list[Path], list[Path]]:
    """Every file below root, and every folder of frame folders, which is not entered."""
    files, frames = [], []
    for folder, below, names in os.walk(root, followlinks=True):
        deep = len(Path(folder).relative_to(root).parts) >= 5
        frames += [Path(folder, name) for name in sorted(below) if name in FRAME_FOLDERS]
        below[:] = [] if deep else sorted(set(below) - FRAME_FOLDERS - SKIPPED_FOLDERS)
        files += [Path(folder, name) for name in sorted(names)]
    return files, frames


def find_file(files: list[Path], patterns: list[str], root, source: str) -> Path:
    """The file that matches the earliest pattern, of Path.match; FileNotFoundError if none does.

    ValueError where two match that differ.
    """
    for pattern in patterns:
        found = [path for path in files if path.match(pattern)]
        for other in found[1:]:
            if not filecmp.cmp(found[0], other, shallow=False):
                raise ValueError(f"{found[0]} and {other}: which of them? They differ; move the "
                                 f"wrong one out of {root}")
        if found:
            return found[0]
    raise FileNotFoundError(f"{' or '.join(patterns)} is not under {root}; get it from {source}")


def videos_on_disk(keys: list[str], files: list[Path], frames: list[Path]) -> list[str]:
    """For each video key its frame folder, or the video file of that name in any folder, or ""."""
    stems, twice = {}, []
    for path in (path for path in files if path.suffix.lower() in VIDEO_SUFFIXES):
        first = stems.setdefault(path.stem, path)
        if first.suffix == path.suffix and first.stat().st_size != path.stat().st_size:
            twice.append(f"{first}, which is read, and {path}")
    if twice and os.environ.get("RANK", "0") == "0":
        print(f"{len(twice)} videos are there twice and differ, such as {twice[0]}",
              file=sys.stderr)
    found = []
    for key in keys:
        name = Path(key.rsplit("/", 1)[-1])
        name = name.stem if name.suffix.lower() in VIDEO_SUFFIXES else name.name
        folders = (folder / key for folder in frames)
        found.append(next((str(folder) for folder in folders if folder.is_dir()),
                          str(stems.get(name, ""))))
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
        found = pool.map(function, jobs, chunksize=4)
        return list(tqdm(found, label, total=len(jobs), disable=None))
