"""What every script needs and none should repeat: processes, checkpoints, the loader, the meter, the command line.

Each training loop stays in its own script; here is only what stands around it.
"""

import argparse
import atexit
import hashlib
import itertools
import json
import math
import os
import shutil
import sys
import tempfile
import time
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

import ovstad
from ovstad import focal_loss
from data import GlobalBatches, collate, normalise
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
            time.sleep(3)             # where all processes fail alike, torchrun ends this one before that
        print(line, file=sys.stderr)

    try:
        status = main()
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
    """What a person can do something about, in one line; None for an error that is a fault of the program."""
    text = str(error).strip()
    if text.startswith("Caught "):                           # a loader worker's: its traceback, then the error
        text = text.splitlines()[-1]
    text = " ".join(text.split())
    if isinstance(error, torch.OutOfMemoryError):
        return (f"out of GPU memory: {text.split('. ')[0]}; give a smaller --batch-size or, "
                "in training, --accumulate, --gradient-checkpointing or --amp")
    if isinstance(error, MemoryError) or "can't allocate memory" in text or "DataLoader worker" in text:
        return f"out of memory, it seems: {text[-200:]}; give a smaller --batch-size or fewer --workers"
    if isinstance(error, (ValueError, OSError)):
        return text
    if dist.is_initialized() and "onnection" in text and ("closed" in text or "reset" in text):
        return "another process ended; what it says stands elsewhere in this output"
    return None


def positive(text: str) -> int:
    """A flag's whole number, 1 or more."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return int(text)


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
    group.add_argument("--workers", type=int, default=min(4, os.cpu_count() or 1),
                       help="loader processes for each process")
    group.add_argument("--seed", type=int, default=0, help="of data order, augmentation and initialisation")


REHEARSAL = 20                   # steps


def add_training_flags(parser: argparse.ArgumentParser,
                       batch_size=None, iterations=None, lr=None, stride=None) -> None:
    """The recipe of Section 4.1; both training scripts have it, each with its own numbers (None: set later)."""
    group = parser.add_argument_group("model")
    group.add_argument("--weights", default="ViT-B/16",
                       help="ViT-B/16 or ViT-L/14 (ViCLIP's official weights, from the Hub), any Hub id, an "
                            "official .pth or .safetensors, a checkpoint of ours, or 'random' with --arch")
    group.add_argument("--arch", choices=list(ovstad.ARCHS), help="only with --weights random")
    group.add_argument("--beta", type=float, default=ovstad.BETA,
                       help="fusion ratio, Eq. 2: 1 is region only, 0 global only")
    group.add_argument("--gamma", type=float, default=2.0, help="focal exponent, Eq. 4 and 6")
    group.add_argument("--tau-lr", type=float,
                       help="learning rate of the temperature tau; 0 keeps it; default: the base rate")
    group.add_argument("--gradient-checkpointing", action="store_true",
                       help="less memory, about a third more time")

    group = parser.add_argument_group("clips")
    group.add_argument("--frames", type=positive, help="T; by default what the weights were trained with (8)")
    group.add_argument("--stride", type=positive, default=stride,
                       help="frames from one of a clip to the next; the paper has 1 for UCF-JHMDB "
                            "and 8 for OV-AVA")
    group.add_argument("--scale", type=positive, nargs=2, metavar=("MIN", "MAX"),
                       help="range of the random short side, one for all clips of a step; the frame stays "
                            "whole, its sides rounded to the patch; default: 8/7 to 10/7 of the "
                            "pretraining size (256 320)")
    group.add_argument("--crop", type=positive,
                       help="train on random crops of that many pixels, each clip at a short side of its own: "
                            "less memory, but boxes are cut and lost (not in the paper)")
    group.add_argument("--short-side", type=positive,
                       help="of frames at test; remembered by the checkpoint, "
                            "by default 8/7 of the pretraining size (256)")
    group.add_argument("--accumulate", type=positive, default=1,
                       help="split each process's share of a batch into this many parts")
    add_optimisation_flags(parser, batch_size, iterations, lr, weight_decay=1e-7)
    add_run_flags(parser)
    group = parser.add_argument_group("output")
    group.add_argument("--out", help="folder of checkpoints and log")
    group.add_argument("--rehearse", action="store_true",
                       help=f"only the first {REHEARSAL} steps of the real command: write nothing, and print what "
                            "to check before spending a night")


def add_optimisation_flags(parser: argparse.ArgumentParser, batch_size: int, iterations: int, lr: float,
                           weight_decay: float, warmup: int = 1000) -> None:
    """Flags that mean the same in every script that trains."""
    group = parser.add_argument_group("optimisation")
    group.add_argument("--batch-size", type=positive, default=batch_size, help="clips a step, over all processes")
    group.add_argument("--iterations", type=positive, default=iterations, help="optimiser steps")
    group.add_argument("--optimizer", choices=["sgd", "adamw"], default="sgd",
                       help="adamw for models as small as the toy")
    group.add_argument("--lr", type=float, default=lr, help="base learning rate")
    group.add_argument("--warmup", type=int, default=warmup,
                       help="steps of linear warm-up (not in the paper); fewer than --iterations")
    group.add_argument("--schedule", choices=["cosine", "step", "constant"], default="cosine",
                       help="after the warm-up: a cosine to 0, a tenth at 5/9 and again at 7/9 of the run, or "
                            "the base rate (the paper gives none)")
    group.add_argument("--momentum", type=float, default=0.9, help="of SGD")
    group.add_argument("--weight-decay", type=float, default=weight_decay, help="of both optimisers")

    group = parser.add_argument_group("files")
    group.add_argument("--resume", action="store_true",
                       help="go on from OUT/last.pt if there is one; same result as uninterrupted "
                            "(on a GPU but for the order of its sums)")
    group.add_argument("--save-every", type=positive, default=1000, help="steps between checkpoints")
    group.add_argument("--log-every", type=positive, default=20, help="steps between lines of OUT/log.jsonl")


# ---------------------------------------------------------------- processes

@dataclass
class Process:
    """This process among the `world` ones that torchrun started. `cpu_group` connects their CPUs."""

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
        """Wait until every process has come here."""
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
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    name = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ValueError(f"--device {name}: no such device; give cpu, cuda or cuda:N")
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise ValueError(f"--device {name}: no CUDA GPU is visible here; leave the flag out to run on the CPU")
        if device.index is None:                             # plain "cuda": to each process of a machine its own
            device = torch.device("cuda", local_rank)
        if device.index >= torch.cuda.device_count():
            raise ValueError(f"{device}: only {torch.cuda.device_count()} GPUs are visible here; "
                             "start no more processes than that (--nproc_per_node), or give --device cpu")
        torch.cuda.set_device(device)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    if "RANK" not in os.environ:
        return Process(0, 1, device)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    # processes that finish early may wait long for the last one
    patient = dist.new_group(backend="gloo", timeout=timedelta(days=1))
    return Process(dist.get_rank(), dist.get_world_size(), device, patient)


# ---------------------------------------------------------------- model and checkpoint

def model_for(args: argparse.Namespace) -> ovstad.ViCLIP:
    """The model that --weights names.

    Fills in the flags whose default depends on the model: frames, crop, scale, short side.
    """
    if args.arch and args.weights != "random":
        raise ValueError(f"--arch {args.arch}: weights tell their own size; "
                         f"give --weights {args.arch}, or --weights random")
    if args.weights == "random":
        torch.manual_seed(args.seed)
        model, record = ovstad.build_model(args.arch or "ViT-B/16"), {}
    else:
        model, record = ovstad.load_model(args.weights)
    arch = ovstad.ARCHS[model.arch]
    args.frames = args.frames or record.get("frames") or arch.frames
    size = arch.grid * arch.patch                            # of pretraining: 224
    args.scale = args.scale or [round(size * 8 / 7), round(size * 10 / 7)]
    args.short_side = args.short_side or round(size * 8 / 7)
    if args.crop and args.crop % arch.patch:
        raise ValueError(f"--crop {args.crop}: must be a multiple of the patch of {model.arch}, {arch.patch}")
    if not (args.crop or 1) <= args.scale[0] <= args.scale[1]:
        raise ValueError(f"--scale {args.scale[0]} {args.scale[1]}: expected MIN <= MAX"
                         + (f", and MIN not below the crop of {args.crop} pixels" if args.crop else ""))
    model.set_gradient_checkpointing(args.gradient_checkpointing)
    model.temp.requires_grad_(args.tau_lr != 0)
    return model


def make_optimizer(model: torch.nn.Module, args: argparse.Namespace) -> torch.optim.Optimizer:
    """SGD as Section 4.1 has it, or AdamW, over the parameters that are trained; tau has a rate of its own."""
    tau = getattr(model, "temp", None)                       # a detector of people has none
    groups = [{"params": [p for p in model.parameters() if p.requires_grad and p is not tau], "base_lr": args.lr}]
    if tau is not None and tau.requires_grad:
        groups.append({"params": [tau], "base_lr": args.lr if args.tau_lr is None else args.tau_lr})
    if args.optimizer == "sgd":
        return torch.optim.SGD(groups, args.lr, momentum=args.momentum,
                               weight_decay=args.weight_decay, fused=True)
    # a short memory of squared gradients: the first steps, whose logits are all far too high, have huge ones
    return torch.optim.AdamW(groups, args.lr, betas=(0.9, 0.95), weight_decay=args.weight_decay, fused=True)


def learning_rate(step: int, base: float, warmup: int, iterations: int, schedule: str = "cosine") -> float:
    """Linear warm-up to `base`, then a cosine to 0, or steps, or neither (not in the paper, which gives none)."""
    if step < warmup:
        return base * (step + 1) / warmup
    if schedule == "constant":
        return base
    if schedule == "step":                                   # as the same laboratory's detectors divide it
        return base * 0.1 ** sum(step >= share * iterations for share in (5 / 9, 7 / 9))
    return base * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(iterations - warmup, 1)))


def set_learning_rate(optimizer: torch.optim.Optimizer, step: int, args: argparse.Namespace) -> None:
    """Give every parameter group its rate for a step, counted from 0."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(step, group["base_lr"], args.warmup, args.iterations, args.schedule)


def save_checkpoint(path: Path, checkpoint: dict) -> None:
    """Write a checkpoint so that, killed at any moment, the old file or the new one stands there whole."""
    if not all(tensor.isfinite().all() for tensor in checkpoint.get("model", {}).values()):
        raise ValueError(f"{path}: not written, as the weights are not finite "
                         f"after step {checkpoint['step']}; what may stand there is sound. "
                         "Try a lower --lr or a longer --warmup")
    with replacing(path, binary=True) as file:               # an open file: a full disk is an OSError
        torch.save(checkpoint, file)
    kept[0] = f"{path} holds step {checkpoint['step']}; the same command with --resume goes on"


def plain(args: argparse.Namespace) -> dict:
    """The arguments as plain values that torch.load(weights_only=True) accepts."""
    return json.loads(json.dumps(vars(args), default=str))


# these flags may differ between the parts of an interrupted run: they do not change its result
FREE_TO_CHANGE = {"device", "workers", "resume", "save_every", "log_every", "out", "accumulate",
                  "gradient_checkpointing"}


def check_same_run(path: Path, before: dict, now: dict) -> None:
    """ValueError if a run cannot go on because a flag that changes its result is another one now."""
    for name, value in before.items():
        if name == "table" and now[name] != value:
            raise ValueError(f"{path}: was started on other data (keyframes, boxes or texts have changed "
                             "since); go on with the same, or choose another --out")
        if name not in FREE_TO_CHANGE and now.get(name) != value:
            raise ValueError(f"{path}: was started with --{name.replace('_', '-')} {value}, "
                             f"not {now.get(name)}; give the same flags to resume, or choose another --out")


def resume(args: argparse.Namespace, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """The step to go on from: 0, or where OUT/last.pt stands, which is then loaded."""
    if not 0 <= args.warmup < args.iterations:
        raise ValueError(f"--warmup {args.warmup}: the warm-up must be shorter than "
                         f"--iterations {args.iterations}, and 0 or more")
    path = Path(args.out) / "last.pt"
    if not path.exists():
        kept[0] = f"no checkpoint was written yet; the first comes at step {args.save_every} (--save-every)"
        return 0
    if not args.resume:
        raise ValueError(f"{path}: a run is already there; go on with --resume, or choose another --out")
    weights, checkpoint = ovstad.read_weights(path)
    if not {"optimizer", "args", "step"} <= set(checkpoint):
        raise ValueError(f"{path}: holds weights, but no run to go on with; choose another --out")
    check_same_run(path, checkpoint["args"], plain(args))
    try:
        model.load_state_dict(weights)
        optimizer.load_state_dict(checkpoint["optimizer"])
        remembers = args.optimizer == "adamw" or args.momentum > 0
        if remembers and checkpoint["step"] and not optimizer.state:
            raise ValueError("the optimiser's memory is empty")
        for parameter, state in optimizer.state.items():
            for tensor in (value for value in state.values() if isinstance(value, Tensor)):
                if tensor.shape not in (parameter.shape, ()) or not tensor.isfinite().all():
                    raise ValueError("the optimiser's memory does not fit the model or is not finite")
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"{path}: cannot be gone on with ({' '.join(str(error).split())[:200]}); "
                         "choose another --out") from None
    kept[0] = f"{path} holds step {checkpoint['step']}; the same command with --resume goes on"
    return checkpoint["step"]


def fingerprint(table: Annotations) -> str:
    """Tells whether two tables are the same: a digest of all rows, videos and texts; files may move."""
    digest = hashlib.sha256(json.dumps([table.videos, table.texts, table.unit.tolist()]).encode())
    for column in (table.video, table.keyframe, table.box, table.text):
        digest.update(np.ascontiguousarray(column))
    return digest.hexdigest()[:16]


def check_agreement(process: Process, step: int, dataset) -> None:
    """ValueError if the processes would not train on the same: a machine lacks the checkpoint, or some videos."""
    facts = process.gather((step, len(dataset), len(dataset.texts)))
    if len(set(facts)) > 1:
        raise ValueError(f"the processes disagree on (step, keyframes, texts): {sorted(set(facts))}; "
                         "every machine needs the same --out and the same videos")


# ---------------------------------------------------------------- one resumable run over chunks

class ChunksInOrder(torch.utils.data.IterableDataset):
    """Yields (chunk, batch of clips). Each loader worker takes every W-th chunk and reads it in order.

    In order, because keyframes that are close together share decoded frames.
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
    """compute(batch) for all clips by all processes together: one value a batch, in order, on process 0.

    The clips (a ClipDataset for testing) are cut into chunks of fixed size, which the processes take in
    turn; the values of a finished chunk are a file in `folder`. So an interrupted run loses at most a
    chunk of each loader worker, and the result does not depend on the number of processes or workers.
    With `resume` finished chunks are kept, if the run was begun with the same `key`, clips and
    batch_size (else ValueError); a damaged chunk is computed again. Without, the folder is emptied.
    compute takes what `data.collate` returns; its value holds tensors and plain values only. Values of
    the other processes: []. The caller removes the folder when it has written what it made of them.
    """
    size = min(max(len(clips) // 64, 16), 256)
    chunks = [[range(i, min(i + batch_size, start + size, len(clips)))
               for i in range(start, min(start + size, len(clips)), batch_size)]
              for start in range(0, len(clips), size)]
    key = json.loads(json.dumps(key | {"batch_size": batch_size, "table": fingerprint(clips.table)}))
    key_file = folder / "key.json"
    if resume and key_file.exists():
        check_same_run(folder, load_json(key_file), key)
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
    progress = Progress(sum(map(len, sum((chunks[number] for number in mine), []))), 0, "clip", process)
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


# ---------------------------------------------------------------- the training loop's surroundings

def wrap(model: torch.nn.Module, process: Process) -> torch.nn.Module:
    """The model on its device; with several processes, gradients are averaged over them."""
    model = model.to(process.device).train()
    if process.world == 1:
        return model
    return DistributedDataParallel(model, gradient_as_bucket_view=True)


def training_loader(dataset: torch.utils.data.Dataset, args: argparse.Namespace, process: Process,
                    start: int, collate=collate, scale: tuple[int, int] | None = None):
    """This process's batches, from step `start` on; with `scale`, a step's clips share a random short side."""
    sampler = GlobalBatches(len(dataset), args.batch_size, args.iterations, args.seed, start,
                            process.rank, process.world, scale)
    return torch.utils.data.DataLoader(
        dataset, batch_sampler=sampler, collate_fn=collate, num_workers=args.workers,
        pin_memory=process.device.type == "cuda", prefetch_factor=4 if args.workers else None)


def parts(groups: list[dict], clips: int) -> list[dict]:
    """A step's groups of equally large clips, cut into pieces of at most `clips` clips (gradient accumulation)."""
    pieces = []
    for group in groups:
        first_box = [0, *itertools.accumulate(len(b) for b in group["boxes"])]
        for start in range(0, len(group["boxes"]), clips):
            own = slice(start, start + clips)
            low, high = first_box[start], first_box[min(start + clips, len(group["boxes"]))]
            inside = (group["labels"][:, 0] >= low) & (group["labels"][:, 0] < high)
            pieces.append({"video": group["video"][own], "boxes": group["boxes"][own],
                           "jitter": group["jitter"][own],
                           "labels": group["labels"][inside] - torch.tensor([low, 0])})
    return pieces


@dataclass
class GlobalBatch:
    """What all processes together train on in one step."""

    texts: list[int]                 # ids of the texts that are true of any box, ascending
    boxes: int                       # N
    pairs: int                       # of a box and a text that is true of it
    boxes_before: int                # before the crop
    clips: int
    bad: list[str]                   # clips that could not be read, with the reason


def gather_batch(process: Process, groups: list[dict]) -> GlobalBatch:
    """The global batch of a step, from the groups of clips that this process read."""
    texts = sorted({text for group in groups for _, text in group["labels"].tolist()})
    counts = [(sum(map(len, group["boxes"])), len(group["labels"]), group["boxes_before"], len(group["boxes"]))
              for group in groups]
    counts = [sum(column) for column in zip(*counts)]
    shared = process.gather((texts, counts, [reason for group in groups for reason in group["bad"]]))
    return GlobalBatch(sorted({text for own, *_ in shared for text in own}),
                       *(sum(column) for column in zip(*(counts for _, counts, _ in shared))),
                       [reason for *_, reasons in shared for reason in reasons])


class BadClips:
    """Counts the clips that could not be read, names each once, and stops a run that has too many."""

    HOPELESS, PATIENCE = 0.25, 64        # our judgement: more than a quarter of the clips, once 64 were tried

    def __init__(self, args: argparse.Namespace, start: int):
        # the last clip of a short run is not too early to judge
        self.patience = min(self.PATIENCE, (args.iterations - start) * args.batch_size)
        self.tried, self.bad, self.named, self.last = 0, 0, set(), ""

    def count(self, clips: int, reasons: list[str]) -> None:
        self.tried, self.bad = self.tried + clips, self.bad + len(reasons)
        for reason in reasons:
            self.last = reason
            if reason not in self.named and is_main():
                tqdm.write(f"skipped {reason}", file=sys.stderr)
                self.named.add(reason)
        if self.tried >= self.patience and self.bad > self.HOPELESS * self.tried:
            raise ValueError(f"{self.bad} of {self.tried} clips could not be read, "
                             f"the last one being {self.last}; check the paths with: python check_data.py")


class Progress:
    """How far the first process is: a bar on a terminal, elsewhere (in a log file) one line a minute."""

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
            hours = (now - self.began) / (self.count - self.start) * (self.total - self.count) / 3600
            note = "".join(f"  {name} {value}" for name, value in self.note.items())
            print(f"{self.unit} {self.count} of {self.total}{note}  {hours:.1f} hours to go",
                  file=sys.stderr, flush=True)
            self.said = now

    def set_note(self, note: dict[str, str]) -> None:
        """What to show beside the count."""
        self.note = note
        self.bar.set_postfix(note)

    def close(self) -> None:
        self.bar.close()


class Meter:
    """Losses, rates and waiting time of a run: its progress, and a JSON line every `log_every` steps.

    Losses stay on the device until a line is due, so that the GPU never waits for the host.
    """

    def __init__(self, args: argparse.Namespace, process: Process, start: int):
        self.process, self.every, self.log = process, args.log_every, Path(args.out) / "log.jsonl"
        self.progress = Progress(args.iterations, start, "step", process)
        self.unread: list[tuple[int, Tensor, list[str]]] = []              # (step, loss, names of its clips)
        self.losses, self.waited, self.clips, self.since = [], 0.0, 0, time.perf_counter()
        if process.is_main:                                  # steps after the checkpoint will be logged again
            self.log.parent.mkdir(parents=True, exist_ok=True)
            lines = self.log.read_text().splitlines() if self.log.exists() and start else []
            kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= start]
            self.log.write_text("".join(line + "\n" for line in kept))

    def batches(self, loader):
        """The loader's batches, with the time spent waiting for each counted."""
        iterator = iter(loader)
        while True:
            before = time.perf_counter()
            batch = next(iterator, None)
            self.waited += time.perf_counter() - before
            if batch is None:
                return
            yield batch

    def update(self, step: int, loss: Tensor, clips: int, names: list[str], **values) -> None:
        """Count a step; loss: this process's share of the global one, a tensor that may still be computing."""
        self.unread.append((step, loss.detach().float(), names))
        self.clips += clips
        if step % self.every == 0:
            self.settle()
            self.write(step, values)
        self.progress.update()

    def settle(self) -> None:
        """Read the losses of the steps since the last time; stop everywhere if one is not finite."""
        if not self.unread:
            return
        own = torch.stack([loss for _, loss, _ in self.unread])
        every = self.process.sum(own.clone()).tolist()
        for (step, loss, names), total in zip(self.unread, every):
            if not math.isfinite(total):
                clips = sum(self.process.gather([] if loss.isfinite() else names), [])
                raise ValueError(f"the loss is {total} at step {step}, on these clips: {', '.join(clips)}; "
                                 "the last checkpoint is whole. Try a lower --lr or a longer --warmup")
        self.losses += every
        self.unread = []

    def write(self, step: int, values: dict) -> None:
        elapsed = time.perf_counter() - self.since
        line = {"step": step, "loss": sum(self.losses) / len(self.losses),
                **{name: float(value) for name, value in values.items()},
                "clips_per_s": self.clips / elapsed, "data_wait": self.waited / elapsed}
        self.losses, self.waited, self.clips, self.since = [], 0.0, 0, time.perf_counter()
        if self.process.is_main:
            with open(self.log, "a") as file:
                file.write(json.dumps(line) + "\n")
            self.progress.set_note({
                "loss": f"{line['loss']:.4f}", **{name: f"{line[name]:.2g}" for name in values},
                "clips/s": f"{line['clips_per_s']:.1f}", "wait": f"{line['data_wait']:.0%}"})

    def close(self) -> None:
        self.settle()
        self.progress.close()


# ---------------------------------------------------------------- one step, forward and backward

def forward_backward(model: torch.nn.Module, groups: list[dict], text: Tensor, columns: dict[int, int], boxes: int,
                     args: argparse.Namespace, process: Process) -> Tensor:
    """Gradients of the focal loss of the global batch; returns this process's share of that loss.

    groups: the clips of this process, those of one shape together; they go through the model group by group.
    text: embeddings (C, D) or tokens (C, L); columns: text id -> its column among the C;
    boxes: N over all processes.
    """
    total = torch.zeros((), device=process.device)
    share = args.batch_size // process.world
    pieces = parts(groups, math.ceil(share / args.accumulate))
    for i, piece in enumerate(pieces):
        synchronise = i + 1 == len(pieces) or process.world == 1     # DDP adds up the processes once a step
        with nullcontext() if synchronise else model.no_sync():
            targets = torch.zeros(sum(len(b) for b in piece["boxes"]), len(text))
            for box, label in piece["labels"].tolist():
                targets[box, columns[label]] = 1
            video = normalise(piece["video"].to(process.device, non_blocking=True), piece["jitter"])
            with torch.autocast(process.device.type, torch.bfloat16, enabled=args.amp):
                logits = model(video, piece["boxes"], text, args.beta)                    # (N, C)
            loss = focal_loss(logits, targets.to(process.device, non_blocking=True), args.gamma,
                              boxes=max(boxes, 1))
            (loss * process.world).backward()                # DDP takes the mean over processes; the loss is a sum
            total += loss.detach()
    return total


def gradient_norm(module: torch.nn.Module | torch.nn.Parameter) -> Tensor:
    """Length of the gradient of a module's parameters, a tensor that may still be computing; 0 without any."""
    parameters = [module] if isinstance(module, torch.nn.Parameter) else list(module.parameters())
    norms = [p.grad.norm() for p in parameters if p.grad is not None]
    return torch.stack(norms).norm() if norms else torch.zeros(())


def output_folder(args: argparse.Namespace) -> Path:
    """Where a run writes: OUT, or for a rehearsal a folder that vanishes with it."""
    if args.rehearse:
        args.out = tempfile.mkdtemp()
        atexit.register(shutil.rmtree, args.out, ignore_errors=True)
    return Path(args.out)


class Rehearsal:
    """The first steps of the real command, and what a person should look at before the rest.

    `done(...)` is called after every step; once it has printed its lines it answers True.
    """

    def __init__(self, args: argparse.Namespace, process: Process, model: ovstad.ViCLIP):
        self.args, self.process, self.model, self.losses, self.batches = args, process, model, [], []
        self.tau, self.began, self.norms = model.temp.item(), None, {}

    def done(self, batch: GlobalBatch, loss: Tensor, C: int, meter: "Meter") -> bool:
        """batch: this step's; loss: this process's share; C: the texts that its boxes met."""
        self.losses.append(self.process.sum(loss.clone()).item())
        self.batches.append((batch, C))
        if len(self.losses) == 1:                            # the first step warms up: its time does not count
            self.norms = {name: gradient_norm(part).item() for name, part in (
                ("video encoder", self.model.vision_encoder), ("text encoder", self.model.text_encoder),
                ("tau", self.model.temp))}
            self.began, self.waited = time.perf_counter(), meter.waited
        if len(self.losses) < min(REHEARSAL, self.args.iterations):
            return False
        if self.process.is_main:
            self.report(meter)
        return True

    def report(self, meter: "Meter") -> None:
        n, args = len(self.losses), self.args
        seconds = (time.perf_counter() - self.began) / max(n - 1, 1)
        batches, texts = zip(*self.batches)
        boxes = sum(b.boxes for b in batches)
        uniform = 0.5 ** args.gamma * math.log(2) * texts[0]                       # every score 0.5
        if self.process.device.type == "cuda":
            memory = f"{torch.cuda.max_memory_allocated() / 2 ** 30:.1f} GiB of the GPU"
        else:
            import resource
            memory = f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2 ** 20:.1f} GiB of this process"
        wait = (meter.waited - self.waited) / max(seconds * (n - 1), 1e-9)
        print(f"rehearsal of {n} steps; nothing was written\n"
              f"loss       {self.losses[0]:.2f} at the start, {self.losses[-1]:.2f} now; a uniform guess has {uniform:.2f}   "
              "(normal: far above it at tau 0.01, falling within the first steps)\n"
              f"tau        {self.tau:.4f} at the start, {self.model.temp.item():.4f} now   "
              "(normal: it rises in the warm-up and comes down slowly)\n"
              f"gradients  {', '.join(f'{name} {norm:.3g}' for name, norm in self.norms.items())} at the start   "
              "(normal: finite, above 0 where something is trained)\n"
              f"data       {boxes / n:.1f} boxes a step, {boxes / max(sum(b.boxes_before for b in batches), 1):.0%} of those "
              f"annotated; {sum(texts) / n:.1f} texts a step, {sum(b.pairs for b in batches) / max(sum(texts), 1):.1f} positives a text; "
              f"{sum(len(b.bad) for b in batches)} clips unreadable   (normal: 100 % without --crop, none unreadable)\n"
              f"speed      {args.batch_size / seconds:.1f} clips/s, {wait:.0%} of the time waiting for data; {memory}   "
              "(normal: below 5 % with enough --workers)\n"
              f"to go      {seconds * args.iterations / 3600:.1f} hours for {args.iterations:,} steps")
