"""What all scripts share: the command line, processes, checkpoints, resumable runs, progress.

What else the training loops share is in training.py.
"""

import argparse
import hashlib
import json
import math
import os
import shutil
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from tqdm import tqdm

from data import collate
from draw import draw_curves
from formats.files import load_json, replacing
from table import Annotations


# ---------------------------------------------------------------- the command line

# what Ctrl-C leaves behind and how to go on: a sentence, replaced while a run makes progress
kept = [""]


def cli(main) -> None:
    """Run a script's main(); a user's mistake becomes one line on stderr and exit status 2.

    Ctrl-C becomes a line that says what was kept, and status 130.
    """
    def say(line: str) -> None:
        if not is_main():
            time.sleep(3)                                    # where all fail alike, one speaks
        print(line, file=sys.stderr)

    try:
        status = main()
    except BrokenPipeError:                                  # `| head` has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)         # what Python still flushes at its end
        status = 141
    except KeyboardInterrupt:
        say("interrupted" + f": {kept[0]}" * bool(kept[0]))
        status = 130
    except Exception as error:
        line = one_line(error)
        if line is None:
            raise
        say(f"error: {line}")
        status = 2
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
    sys.exit(status)


def one_line(error: Exception) -> str | None:
    """What a person can mend, in one line; None for an error that is a fault of the program."""
    text = str(error).strip()
    if text.startswith("Caught "):                           # a loader worker's traceback
        text = text.splitlines()[-1]
    text = " ".join(text.split())
    if isinstance(error, torch.OutOfMemoryError):
        return (f"out of GPU memory: {text.split('. ')[0]}; give a smaller --batch-size or, "
                "in training, --accumulate, --gradient-checkpointing or --amp")
    if isinstance(error, MemoryError) or any(words in text for words in (
            "can't allocate memory", "Storage size calculation overflowed", "DataLoader worker")):
        return (f"out of memory, it seems: {text[-200:]}; "
                "give a smaller --batch-size or fewer --workers")
    if isinstance(error, (ValueError, OSError)):
        return text
    if dist.is_initialized() and "onnection" in text and ("closed" in text or "reset" in text):
        return "another process ended; what it says stands elsewhere in this output"
    return None


def number(low: float, high: float = math.inf, kind: type = float):
    """An argparse type: a finite number of the kind from low to high, else what was expected."""
    expected = f"a {'whole ' * (kind is int)}number " + (
        f"from {low} to {high}" if high < math.inf else f"of {low} or more")

    def convert(text: str):
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high or value == math.inf:    # NaN fails every comparison
            raise argparse.ArgumentTypeError(f"{text} is not {expected}")
        return value
    return convert


positive = number(1, kind=int)


def check_folder(out) -> None:
    """ValueError unless --out is a folder to which files can be written, or can become one."""
    there = next(path for path in (Path(out).absolute(), *Path(out).absolute().parents)
                 if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise ValueError(f"--out {out}: {there} is no folder to which can be written")


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """--help shows the file's docstring as it is written, and every default that is a value."""

    def _get_help_string(self, action):
        return (action.help if action.default is None or action.default is False
                else super()._get_help_string(action))


def add_run_flags(parser: argparse.ArgumentParser) -> None:
    """Flags that mean the same in every script that runs the model."""
    group = parser.add_argument_group("run")
    group.add_argument("--device", help="cpu, cuda or cuda:1; by default a GPU where there is one")
    group.add_argument("--amp", action="store_true",
                       help="compute in bfloat16 where it is safe; weights stay float32")
    group.add_argument("--workers", type=number(0, kind=int), default=min(4, os.cpu_count() or 1),
                       help="loader processes for each process")
    group.add_argument("--seed", type=number(0, 2 ** 32 - 1, int), default=0,
                       help="of data order, augmentation and initialisation")


# ---------------------------------------------------------------- processes

@dataclass
class Process:
    """This process among the `world` ones of torchrun; `cpu_group` connects their CPUs."""

    rank: int
    world: int
    device: torch.device
    cpu_group: object = None

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def gather(self, value) -> list:
        """Every process's value, in rank order."""
        if self.world == 1:
            return [value]
        values = [None] * self.world
        dist.all_gather_object(values, value, group=self.cpu_group)
        return values

    def barrier(self) -> None:
        """Wait until every process has reached this point."""
        self.gather(None)

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor over all processes, in place."""
        if self.world > 1:
            dist.all_reduce(tensor)
        return tensor


def is_main() -> bool:
    """Whether this is the only process or the first one."""
    return int(os.environ.get("RANK", 0)) == 0


def start_process(device: str | None = None) -> Process:
    """Join the processes that torchrun started, or be the only one. nccl on GPUs, gloo on CPUs."""
    name = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ValueError(f"--device {name}: no such device; give cpu, cuda or cuda:N")
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise ValueError(f"--device {name}: no CUDA GPU is visible here; "
                             "leave the flag out to run on the CPU")
        if device.index is None:                             # to each process of a machine its own
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        if device.index >= torch.cuda.device_count():
            raise ValueError(f"{device}: only {torch.cuda.device_count()} GPUs are visible here; "
                             "give --device cpu, or start fewer processes (--nproc_per_node)")
        torch.cuda.set_device(device)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    if "RANK" not in os.environ:
        return Process(0, 1, device)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    # processes that finish early may wait long for the last one
    patient = dist.new_group(backend="gloo", timeout=timedelta(days=1))
    return Process(dist.get_rank(), dist.get_world_size(), device, patient)


# ---------------------------------------------------------------- one run in a folder

@contextmanager
def alone(path, when: bool = True):
    """Holds the lock `path`, a file beside what a run writes; ValueError where another run has it.

    A killed process frees it by itself. Nothing is locked where the system or the disk cannot.
    """
    if not when:
        yield
        return
    path = Path(path)
    check_folder(path.parent)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        for patience in range(30, -1, -1):                   # 3 seconds, for one that ends
            try:
                import fcntl                                 # not on Windows
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except (BlockingIOError, PermissionError):
                if not patience:
                    raise ValueError(f"{path}: another run is writing there; wait for it, or "
                                     "choose another --out") from None
                time.sleep(0.1)
            except (ImportError, OSError):
                break
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


# ---------------------------------------------------------------- checkpoints

def save_checkpoint(path: Path, checkpoint: dict) -> None:
    """Write a checkpoint; killed at any moment, the old file or the new one stands there whole."""
    if not all(tensor.isfinite().all() for tensor in checkpoint.get("model", {}).values()):
        raise ValueError(f"{path}: not written, as the weights are not finite "
                         f"after step {checkpoint['step']}; what may stand there is sound. "
                         "Try a lower --lr or a longer --warmup")
    with replacing(path, binary=True) as file:               # of a full disk: an OSError
        torch.save(checkpoint, file)
    kept[0] = f"{path} holds step {checkpoint['step']}; the same command with --resume goes on"
    if (log := path.with_name("log.jsonl")).exists():
        draw_curves(log, path.with_name("curve.png"))


def plain(args: argparse.Namespace) -> dict:
    """The arguments as plain values that torch.load(weights_only=True) accepts."""
    return json.loads(json.dumps(vars(args), default=str))


# these flags may differ between the parts of an interrupted run: they do not change its result
FREE_TO_CHANGE = {"device", "workers", "resume", "save_every", "log_every", "out", "accumulate",
                  "gradient_checkpointing", "tensorboard"}


def check_same_run(path: Path, before: dict, now: dict) -> None:
    """ValueError if a run cannot go on because a flag that affects its result has changed."""
    for name, value in before.items():
        if name == "table" and now[name] != value:
            raise ValueError(f"{path}: was started on other data (keyframes, boxes, texts or video "
                             "files have changed); go on with the same, or choose another --out")
        if name not in FREE_TO_CHANGE and now.get(name) != value:
            flag = f"--{name.replace('_', '-')}"
            raise ValueError(f"{path}: was started with {flag} {value}, not {now.get(name)}; "
                             "give the same flags to resume, or choose another --out")


def fingerprint(table: Annotations) -> str:
    """A digest of all rows, videos, texts and of the sizes of the video files, which may move.

    Of a folder of frames the size is how many there are.
    """
    sizes = [len(os.listdir(file)) if os.path.isdir(file) else os.path.getsize(file)
             for file in table.files if os.path.exists(file)]
    names = json.dumps([table.videos, table.texts, table.unit.tolist(), sizes])
    digest = hashlib.sha256(names.encode())
    for column in (table.video, table.keyframe, table.box, table.text):
        digest.update(np.ascontiguousarray(column))
    return digest.hexdigest()[:16]


# ---------------------------------------------------------------- one resumable run over chunks

class ChunksInOrder(torch.utils.data.IterableDataset):
    """Yields (chunk, batch of clips); each of W loader workers takes every W-th chunk.

    It reads a chunk in order, because keyframes that are close together share decoded frames.
    """

    def __init__(self, clips: torch.utils.data.Dataset, chunks: dict[int, list[range]]):
        self.clips, self.chunks = clips, chunks

    def __iter__(self):
        worker = torch.utils.data.get_worker_info()
        for number in list(self.chunks)[worker.id::worker.num_workers] if worker else self.chunks:
            for batch in self.chunks[number]:
                yield number, collate([self.clips[i] for i in batch])


def run_chunks(folder: Path, key: dict, clips: torch.utils.data.Dataset, compute, process: Process,
               batch_size: int, workers: int, resume: bool) -> list:
    """compute(batch) of all clips by all processes: one value a batch, in order, on process 0.

    The clips (a ClipDataset for testing) are cut into chunks of fixed size, which the processes
    take in turn; the values of a finished chunk are a file in `folder`. So an interrupted run loses
    at most a chunk of each loader worker, and no number of processes or workers changes the result.
    With `resume` finished chunks are kept, if the run was begun with the same `key`, clips and
    batch_size (else ValueError); a damaged chunk is computed again. Without, the folder is emptied.
    compute takes what `data.collate` returns; its value holds tensors and plain values only. Other
    processes return []. The caller removes the folder when it has written what it made of them.
    """
    size = min(max(len(clips) // 64, 16), 256)
    chunks = [[range(i, min(i + batch_size, start + size, len(clips)))
               for i in range(start, min(start + size, len(clips)), batch_size)]
              for start in range(0, len(clips), size)]
    key = key | {"batch_size": batch_size, "table": fingerprint(clips.table)}
    key, key_file = json.loads(json.dumps(key)), folder / "key.json"
    if resume and key_file.exists():
        before = load_json(key_file)
        if not isinstance(before, dict) or before.keys() != key.keys():
            raise ValueError(f"{key_file}: not as a run of ours writes it; choose another --out, "
                             f"or delete {folder}")
        check_same_run(folder, before, key)
    elif folder.is_dir() and any(folder.iterdir()) and not key_file.exists():
        raise ValueError(f"{folder}: holds files that no run of ours wrote; choose another --out")
    else:
        resume = False
    process.barrier()                                        # all have read the key
    if process.is_main and not resume:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        with replacing(key_file) as file:
            json.dump(key, file)
    process.barrier()

    paths = [folder / f"{number:05d}.pt" for number in range(len(chunks))]
    todo = [number for number in range(process.rank, len(chunks), process.world)
            if read_chunk(paths[number], len(chunks[number])) is None]
    mine = sorted(sum(process.gather(todo), []))[process.rank::process.world]
    loader = torch.utils.data.DataLoader(
        ChunksInOrder(clips, {number: chunks[number] for number in mine}), batch_size=None,
        num_workers=min(workers, len(mine)), pin_memory=process.device.type == "cuda")
    values = {number: [] for number in mine}
    kept[0] = f"{folder} holds what is finished; the same command with --resume goes on"
    progress = Progress(sum(len(batch) for number in mine for batch in chunks[number]), 0,
                        "clip", process)
    for number, batch in loader:
        values[number].append(compute(batch))
        progress.update(len(chunks[number][len(values[number]) - 1]))
        if len(values[number]) == len(chunks[number]):
            with replacing(paths[number], binary=True) as file:
                torch.save(values.pop(number), file)
    progress.close()
    process.barrier()                                        # all chunks are written
    if not process.is_main:
        return []
    finished = [read_chunk(path, len(batches)) for path, batches in zip(paths, chunks)]
    if None in finished:
        raise ValueError(f"{paths[finished.index(None)]}: cannot be read back; go on with --resume")
    return sum(finished, [])


def read_chunk(path: Path, batches: int) -> list | None:
    """The values of a finished chunk, or None if its file is missing or damaged."""
    try:
        values = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:                                        # a damaged file may raise anything
        return None
    return values if isinstance(values, list) and len(values) == batches else None


# ---------------------------------------------------------------- watching a run

class BadClips:
    """Counts the clips that cannot be read, names each once, and stops a run that has too many."""

    HOPELESS, PATIENCE = 0.25, 64        # our judgement: more than a quarter, once 64 were tried

    def __init__(self, args: argparse.Namespace, start: int):
        # the last clip of a short run is not too early to judge
        self.patience = min(self.PATIENCE, (args.iterations - start) * args.batch_size)
        self.tried, self.bad, self.named, self.last = 0, 0, set(), ""

    def count(self, clips: int, reasons: list[str]) -> None:
        self.tried, self.bad = self.tried + clips, self.bad + len(reasons)
        for self.last in reasons:
            if self.last not in self.named and is_main():
                tqdm.write(f"skipped {self.last}", file=sys.stderr)
            self.named.add(self.last)
        if self.tried >= self.patience and self.bad > self.HOPELESS * self.tried:
            raise ValueError(f"{self.bad} of {self.tried} clips could not be read, the last one "
                             f"being {self.last}; check the paths with: python check_data.py")


class Progress:
    """How far the first process is: a bar on a terminal, in a log file one line a minute."""

    PERIOD = 60                                              # seconds

    def __init__(self, total: int, start: int, unit: str, process: Process):
        self.bar = tqdm(total=total, initial=start, unit=unit, dynamic_ncols=True,
                        disable=None if process.is_main else True)
        self.total, self.start, self.count, self.unit = total, start, start, unit
        self.lines, self.note = process.is_main and self.bar.disable, {}
        self.began = self.said = time.monotonic()

    def update(self, count: int = 1) -> None:
        self.count += count
        self.bar.update(count)
        now = time.monotonic()
        if self.lines and now - self.said >= self.PERIOD:
            to_go = (self.total - self.count) * (now - self.began) / (self.count - self.start)
            note = "".join(f"  {name} {value}" for name, value in self.note.items())
            print(f"{self.unit} {self.count} of {self.total}{note}  {to_go / 3600:.1f} hours to go",
                  file=sys.stderr, flush=True)
            self.said = now

    def set_note(self, note: dict[str, str]) -> None:
        """What to show beside the count."""
        self.note = note
        self.bar.set_postfix(note)

    def close(self) -> None:
        self.bar.close()
