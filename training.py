"""What the training loops share: the recipe's flags, optimiser, schedule, global batch and log.

Each loop stays visible in its own script; this file holds only the code around it.
"""

import argparse
import atexit
import itertools
import json
import math
import shutil
import tempfile
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

import ovstad
from data import GlobalBatches, collate, normalise
from engine import Process, Progress, add_run_flags, check_same_run, kept, number, plain, positive
from ovstad import focal_loss


# ---------------------------------------------------------------- the recipe, as flags

REHEARSAL = 20                   # steps


def add_training_flags(parser: argparse.ArgumentParser,
                       batch_size=None, iterations=None, lr=None, stride=None) -> None:
    """Section 4.1's recipe; each training script has its own numbers (None: set later)."""
    group = parser.add_argument_group("model")
    group.add_argument("--weights", default="ViT-B/16",
                       help="ViT-B/16 or ViT-L/14 (ViCLIP's official weights, from the Hub), any "
                            "Hub id, an official .pth or .safetensors, a checkpoint of ours, or "
                            "'random' with --arch")
    group.add_argument("--arch", choices=list(ovstad.ARCHS), help="only with --weights random")
    group.add_argument("--beta", type=number(0, 1), default=ovstad.BETA,
                       help="fusion ratio, Eq. 2: 1 is region only, 0 global only")
    group.add_argument("--gamma", type=number(0), default=2.0, help="focal exponent, Eq. 4 and 6")
    group.add_argument("--tau-lr", type=number(0),
                       help="learning rate of the temperature tau; 0 keeps it; default: --lr")
    group.add_argument("--gradient-checkpointing", action="store_true",
                       help="less memory, about a third more time")

    group = parser.add_argument_group("clips")
    group.add_argument("--frames", type=positive,
                       help="T; by default what the weights were trained with (8)")
    group.add_argument("--stride", type=positive, default=stride,
                       help="frames from one of a clip to the next; the paper has 1 for UCF-JHMDB "
                            "and 8 for OV-AVA")
    group.add_argument("--scale", type=positive, nargs=2, metavar=("MIN", "MAX"),
                       help="range of the random short side, one for all clips of a step; frames "
                            "stay whole, their sides rounded to the patch; default: 8/7 to 10/7 of "
                            "the pretraining size (256 320)")
    group.add_argument("--crop", type=positive,
                       help="train on random crops of that many pixels, each clip at a short "
                            "side of its own: less memory, but boxes are cut and lost (not in the "
                            "paper)")
    group.add_argument("--short-side", type=positive,
                       help="of frames at test; remembered by the checkpoint, "
                            "by default 8/7 of the pretraining size (256)")
    group.add_argument("--accumulate", type=positive, default=1,
                       help="split each process's share of a batch into this many parts")
    add_optimisation_flags(parser, batch_size, iterations, lr, weight_decay=1e-7)
    add_run_flags(parser)
    group = parser.add_argument_group("output")
    group.add_argument("--out", help="folder of checkpoints and log")
    group.add_argument("--tensorboard", action="store_true",
                       help="also write the log for TensorBoard, if it is installed")
    group.add_argument("--rehearse", action="store_true",
                       help=f"only the first {REHEARSAL} steps of the real command: write nothing, "
                            "and print what to check before spending a night")


def add_optimisation_flags(parser: argparse.ArgumentParser, batch_size: int, iterations: int,
                           lr: float, weight_decay: float, warmup: int = 1000,
                           batch: str = "clips per step, over all processes") -> None:
    """Flags that mean the same in every script that trains; batch: what --batch-size counts."""
    group = parser.add_argument_group("optimisation")
    group.add_argument("--batch-size", type=positive, default=batch_size, help=batch)
    group.add_argument("--iterations", type=positive, default=iterations, help="optimiser steps")
    group.add_argument("--optimizer", choices=["sgd", "adamw"], default="sgd",
                       help="adamw for models as small as the toy")
    group.add_argument("--lr", type=number(0), default=lr, help="base learning rate")
    group.add_argument("--warmup", type=number(0, kind=int), default=warmup,
                       help="steps of linear warm-up (not in the paper); fewer than --iterations")
    group.add_argument("--schedule", choices=["cosine", "step", "constant"], default="cosine",
                       help="after the warm-up: a cosine to 0, a tenth at 5/9 and again at 7/9 of "
                            "the run, or the base rate (the paper gives none)")
    group.add_argument("--momentum", type=number(0, 1), default=0.9, help="of SGD")
    group.add_argument("--weight-decay", type=number(0), default=weight_decay,
                       help="of both optimisers")

    group = parser.add_argument_group("files")
    group.add_argument("--resume", action="store_true",
                       help="go on from OUT/last.pt if there is one; same result as uninterrupted "
                            "(on a GPU but for the order of its sums)")
    group.add_argument("--save-every", type=positive, default=1000,
                       help="steps between checkpoints")
    group.add_argument("--log-every", type=positive, default=20,
                       help="steps between lines of OUT/log.jsonl")


# ---------------------------------------------------------------- model, optimiser, schedule

def model_for(args: argparse.Namespace) -> ovstad.ViCLIP:
    """The model that --weights names.

    Fills in the flags whose default depends on the model: frames, scale, short side.
    """
    if args.arch and args.weights != "random":
        raise ValueError(f"--arch {args.arch}: weights tell their own size; "
                         f"give --weights {args.arch}, or --weights random")
    if args.weights == "random":
        torch.manual_seed(args.seed)
        model, record = ovstad.build_model(args.arch or "ViT-B/16"), {}
    else:
        model, record = ovstad.load_model(args.weights)
    size = ovstad.ARCHS[model.arch].grid * model.patch       # of pretraining: 224
    args.frames = args.frames or record.get("frames") or model.frames
    args.scale = args.scale or [round(size * 8 / 7), round(size * 10 / 7)]
    args.short_side = args.short_side or model.short_side
    if args.crop and args.crop % model.patch:
        raise ValueError(f"--crop {args.crop}: must be a multiple of the patch of {model.arch}, "
                         f"{model.patch}")
    if not (args.crop or 1) <= args.scale[0] <= args.scale[1]:
        raise ValueError("--scale {} {}: expected MIN <= MAX".format(*args.scale) + (
            f", and MIN not below the crop of {args.crop} pixels" if args.crop else ""))
    model.set_gradient_checkpointing(args.gradient_checkpointing)
    model.temp.requires_grad_(args.tau_lr != 0)
    return model


def wrap(model: torch.nn.Module, process: Process) -> torch.nn.Module:
    """The model on its device; with several processes, gradients are averaged over them."""
    model = model.to(process.device).train()
    if process.world == 1:
        return model
    return DistributedDataParallel(model, gradient_as_bucket_view=True)


def make_optimizer(model: torch.nn.Module, args: argparse.Namespace) -> torch.optim.Optimizer:
    """Section 4.1's SGD, or AdamW, over all that is trained; tau has a rate of its own."""
    tau = getattr(model, "temp", None)                       # a detector of people has none
    weights = [p for p in model.parameters() if p.requires_grad and p is not tau]
    groups = [{"params": weights, "base_lr": args.lr}]
    if tau is not None and tau.requires_grad:
        groups.append({"params": [tau], "base_lr": args.lr if args.tau_lr is None else args.tau_lr})
    if args.optimizer == "sgd":
        return torch.optim.SGD(groups, args.lr, momentum=args.momentum,
                               weight_decay=args.weight_decay, fused=True)
    # a short memory of squared gradients: in the first steps, whose logits are high, they are huge
    return torch.optim.AdamW(groups, args.lr, betas=(0.9, 0.95), weight_decay=args.weight_decay,
                             fused=True)


def learning_rate(step: int, base: float, warmup: int, iterations: int,
                  schedule: str = "cosine") -> float:
    """Linear warm-up, then a cosine to 0, step decay, or constant (the paper gives none)."""
    if step < warmup:
        return base * (step + 1) / warmup
    if schedule == "constant":
        return base
    if schedule == "step":                                   # as the same laboratory's detectors
        return base * 0.1 ** sum(step >= share * iterations for share in (5 / 9, 7 / 9))
    return base * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(iterations - warmup, 1)))


def set_learning_rate(optimizer, step: int, args: argparse.Namespace) -> None:
    """Give every parameter group its rate for a step, counted from 0."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(step, group["base_lr"], args.warmup, args.iterations,
                                    args.schedule)


# ---------------------------------------------------------------- going on after an interruption

def output_folder(args: argparse.Namespace) -> Path:
    """Where a run writes: OUT, or for a rehearsal a folder that vanishes with it."""
    if args.rehearse:
        args.out, args.log_every = tempfile.mkdtemp(), 1
        atexit.register(shutil.rmtree, args.out, ignore_errors=True)
    return Path(args.out)


def resume(args: argparse.Namespace, model: torch.nn.Module, optimizer) -> int:
    """The step to go on from: 0, or where OUT/last.pt stands, which is then loaded."""
    if args.warmup >= args.iterations:
        raise ValueError(f"--warmup {args.warmup}: the warm-up must be shorter than "
                         f"--iterations {args.iterations}")
    path = Path(args.out) / "last.pt"
    if not path.exists():
        log, curve = path.with_name("log.jsonl"), path.with_name("curve.png")
        ours = log.exists() and log.read_bytes()[:8] in (b"", b'{"step":')
        if not ours and (curve.exists() or log.exists()):
            raise ValueError(f"{path.parent}: holds {curve.name if curve.exists() else log.name}, "
                             "and no run of ours; choose another --out")
        kept[0] = (f"no checkpoint was written yet; the first comes at step {args.save_every} "
                   "(--save-every)")
        return 0
    if not args.resume:
        raise ValueError(f"{path}: a run is already there; go on with --resume, or choose another "
                         "--out")
    try:
        weights, checkpoint = ovstad.read_weights(path)
    except ValueError as error:
        raise ValueError(str(error).replace("download it", "delete it, and begin")) from None
    if not {"optimizer", "args", "step"} <= set(checkpoint):
        raise ValueError(f"{path}: holds weights, but no run to go on with; choose another --out")
    if set(checkpoint["args"]) - set(plain(args)):
        raise ValueError(f"{path}: is a run of stage {checkpoint['stage']}, not of this script; "
                         "choose another --out")
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
                    raise ValueError("the optimiser's memory does not fit or is not finite")
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"{path}: cannot be resumed ({' '.join(str(error).split())[:200]}); "
                         "choose another --out") from None
    kept[0] = f"{path} holds step {checkpoint['step']}; the same command with --resume goes on"
    return checkpoint["step"]


def check_agreement(process: Process, step: int, dataset) -> None:
    """ValueError if a machine lacks the checkpoint, or some videos: all must train on the same."""
    facts = process.gather((step, len(dataset), len(dataset.texts)))
    if len(set(facts)) > 1:
        raise ValueError("the processes disagree on (step, keyframes, texts): "
                         f"{sorted(set(facts))}; every machine needs the same --out and videos")


# ---------------------------------------------------------------- the global batch

def training_loader(dataset: torch.utils.data.Dataset, args: argparse.Namespace, process: Process,
                    start: int, collate=collate, scale: tuple[int, int] | None = None):
    """This process's batches from step `start` on; scale: range of a step's random short side."""
    sampler = GlobalBatches(len(dataset), args.batch_size, args.iterations, args.seed, start,
                            process.rank, process.world, scale)
    return torch.utils.data.DataLoader(
        dataset, batch_sampler=sampler, collate_fn=collate, num_workers=args.workers,
        pin_memory=process.device.type == "cuda", prefetch_factor=4 if args.workers else None)


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
    own = [(group["labels"][:, 1].tolist(), group["bad"], sum(map(len, group["boxes"])),
            len(group["labels"]), group["boxes_before"], len(group["boxes"])) for group in groups]
    texts, bad, *counts = zip(*sum(process.gather(own), []))
    boxes, pairs, before, clips = map(sum, counts)
    return GlobalBatch(sorted(set(sum(texts, []))), boxes, pairs, before, clips, sum(bad, []))


def parts(groups: list[dict], clips: int) -> list[dict]:
    """A step's groups of equally large clips, cut into pieces of at most `clips` clips."""
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


def forward_backward(model: torch.nn.Module, groups: list[dict], text: Tensor,
                     columns: dict[int, int], boxes: int, args: argparse.Namespace,
                     process: Process) -> Tensor:
    """Gradients of the focal loss of the global batch; returns this process's share of that loss.

    groups: the clips of this process, those of one shape together; they go through the model group
    by group. text: embeddings (C, D) or tokens (C, L); columns: text id -> its column among the C;
    boxes: N over all processes.
    """
    total = torch.zeros((), device=process.device)
    share = args.batch_size // process.world
    pieces = parts(groups, math.ceil(share / args.accumulate))
    for i, piece in enumerate(pieces):
        # DDP adds up the processes once a step
        synchronise = i + 1 == len(pieces) or process.world == 1
        with nullcontext() if synchronise else model.no_sync():
            targets = torch.zeros(sum(len(b) for b in piece["boxes"]), len(text))
            for box, label in piece["labels"].tolist():
                targets[box, columns[label]] = 1
            video = normalise(piece["video"].to(process.device, non_blocking=True), piece["jitter"])
            with torch.autocast(process.device.type, torch.bfloat16, enabled=args.amp):
                logits = model(video, piece["boxes"], text, args.beta)                    # (N, C)
            loss = focal_loss(logits, targets.to(process.device, non_blocking=True), args.gamma,
                              boxes=max(boxes, 1))
            (loss * process.world).backward()                # DDP takes the mean; the loss is a sum
            total += loss.detach()
    return total


def gradient_norm(module: torch.nn.Module) -> Tensor:
    """Length of the gradient of a module, a tensor that may still be computing; 0 without any."""
    norms = [p.grad.norm() for p in module.parameters() if p.grad is not None]
    return torch.stack(norms).norm() if norms else torch.zeros(())


# ---------------------------------------------------------------- watching a run

class Meter:
    """A run's losses, rates and waiting time: progress, and a JSON line every `log_every` steps.

    Losses stay on the device until a line is due, so that the GPU never waits for the host.
    """

    def __init__(self, args: argparse.Namespace, process: Process, start: int):
        self.process, self.every, self.log = process, args.log_every, Path(args.out) / "log.jsonl"
        self.progress = Progress(args.iterations, start, "step", process)
        self.unread: list[tuple[int, Tensor, list[str]]] = []        # (step, loss, clips' names)
        self.losses, self.waited, self.clips, self.since = [], 0.0, 0, time.perf_counter()
        self.board = None
        if process.is_main and getattr(args, "tensorboard", False):
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                raise ValueError("--tensorboard: the package tensorboard is not installed; "
                                 "pip install tensorboard") from None
            self.board = SummaryWriter(args.out)
        if process.is_main:                                  # steps after the checkpoint come again
            self.log.parent.mkdir(parents=True, exist_ok=True)
            lines = self.log.read_text().splitlines() if self.log.exists() and start else []
            self.log.write_text("".join(
                line + "\n" for line in lines
                if line.endswith("}") and json.loads(line)["step"] <= start))

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
        """Count a step; loss: this process's share of it, a tensor that may still be computing."""
        self.unread.append((step, loss.detach().float(), names))
        self.clips += clips
        if step % self.every == 0:
            self.settle()
            self.write(step, values)
        self.progress.update()

    def settle(self) -> None:
        """Read the losses since the last time; stop everywhere if one is not finite."""
        if not self.unread:
            return
        own = torch.stack([loss for _, loss, _ in self.unread])
        every = self.process.sum(own.clone()).tolist()
        for (step, loss, names), total in zip(self.unread, every):
            if not math.isfinite(total):
                clips = sum(self.process.gather([] if loss.isfinite() else names), [])
                raise ValueError(f"the loss is {total} at step {step}, on these clips: "
                                 f"{', '.join(clips)}; the last checkpoint is whole. "
                                 "Try a lower --lr or a longer --warmup")
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
            for name in line if self.board else ():
                self.board.add_scalar(name, line[name], step)
            self.progress.set_note({
                "loss": f"{line['loss']:.4f}", **{name: f"{line[name]:.2g}" for name in values},
                "clips/s": f"{line['clips_per_s']:.1f}", "wait": f"{line['data_wait']:.0%}"})

    def close(self) -> None:
        self.settle()
        self.progress.close()


def report(args: argparse.Namespace, process: Process, batches: list[GlobalBatch], C: int) -> None:
    """Print what a person should look at in a rehearsal; C: texts that the boxes met at first."""
    if not process.is_main:
        return
    log = [json.loads(line) for line in (Path(args.out) / "log.jsonl").read_text().splitlines()]
    first, last, n = log[0], log[-1], len(log)
    later = log[1:] or log                                   # the first step warms up
    seconds = sum(args.batch_size / line["clips_per_s"] for line in later) / len(later)
    wait = sum(line["data_wait"] for line in later) / len(later)
    boxes, pairs, before = (sum(getattr(batch, name) for batch in batches)
                            for name in ("boxes", "pairs", "boxes_before"))
    texts, bad = (sum(len(getattr(batch, name)) for batch in batches) for name in ("texts", "bad"))
    uniform = 0.5 ** args.gamma * math.log(2) * C                              # every score 0.5
    memory = (f"; {torch.cuda.max_memory_allocated() / 2 ** 30:.1f} GiB of the GPU"
              if process.device.type == "cuda" else "")
    print(f"rehearsal of {n} steps; nothing was written\n"
          f"loss       {first['loss']:.2f} at the start, {last['loss']:.2f} now; a uniform guess "
          f"has {uniform:.2f}   (normal: far above it at tau 0.01, falling in the first steps)\n"
          f"tau        {first['tau']:.4f} after a step, {last['tau']:.4f} now   "
          "(normal: it rises in the warm-up and comes down slowly)\n"
          f"gradient   {first['grad_norm']:.3g} of the video encoder at the start   "
          "(normal: finite, above 0)\n"
          f"data       {boxes / n:.1f} boxes per step, {boxes / max(before, 1):.0%} of those "
          f"annotated; {texts / n:.1f} texts per step, {pairs / max(texts, 1):.1f} positives per "
          f"text; {bad} clips unreadable   (normal: 100 % without --crop, none unreadable)\n"
          f"speed      {args.batch_size / seconds:.1f} clips/s, {wait:.0%} of the time waiting for "
          f"data{memory}   (normal: below 5 % with enough --workers)\n"
          f"to go      {seconds * args.iterations / 3600:.1f} hours for {args.iterations:,} steps")
