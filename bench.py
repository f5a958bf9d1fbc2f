"""How fast, and how far from the limit of this machine.

    python bench.py                                   # on one core, or on a GPU where there is one
    python bench.py --only encoder decoding
    python bench.py --quick                           # smaller sizes, fewer repeats

Absolute times of a shared machine mean little, so each figure is a ratio to a limit that is
measured in the same run, in turn with it: dense matrix products of the model's shapes for whatever
computes, a bare decoding loop over the same frames for whatever reads video, a bare reading of the
same bytes for whatever reads files.
"""

import argparse
import contextlib
import csv
import json
import os
import platform
import tempfile
import time
import tracemalloc
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path

import av
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

import data
import engine
import ovstad
import train_align
import train_finetune
import training
from formats.predictions import read_predictions, write_predictions
from formats.ucf_jhmdb import UCF101_24
from metric import frame_map
from table import Annotations, Detections, load_table, make_annotations, save_table
from video import open_video, packet_index, scaled_size

PROMPTS = [ovstad.PROMPT.format(name) for name in UCF101_24]


# ---------------------------------------------------------------- measuring

@dataclass
class Figure:
    """One line of the table: a measured value, and its ratio to a limit measured beside it."""

    part: str
    what: str
    value: float
    unit: str
    ratio: float | None = None    # value over the limit's value
    limit: str = ""               # what the limit is
    aim: str = ""                 # such as ">= 0.80": of the ratio

    @property
    def met(self) -> bool | None:
        if not self.aim or self.ratio is None:
            return None
        sign, number = self.aim.split()
        return self.ratio >= float(number) if sign == ">=" else self.ratio <= float(number)


class Bench:
    """The settings of a run and the figures found so far."""

    def __init__(self, args: argparse.Namespace):
        self.args, self.figures, self.part, self.folder = args, [], "", Path()
        self.process = engine.start_process(args.device)
        self.device, self.gpu = self.process.device, self.process.device.type == "cuda"
        self.batch = 32 if self.gpu else 1
        # a third of ViT-B/16's equal layers on a CPU, where a clip takes seconds
        self.layers = min(ovstad.ARCHS[args.arch].layers, 100 if self.gpu else 4)

    def add(self, what: str, value: float, unit: str, ratio: float | None = None,
            limit: str = "", aim: str = "") -> None:
        figure = Figure(self.part, what, float(value), unit, ratio and float(ratio), limit, aim)
        self.figures.append(figure)
        compared = "" if ratio is None else f"{number(figure.ratio):>7} x {limit}"
        verdict = {None: "", True: f"  (aim {aim}: reached)", False: f"  (aim {aim}: MISSED)"}
        print(f"  {what:<52} {number(figure.value):>7} {unit:<9} {compared}{verdict[figure.met]}",
              flush=True)

    def seconds(self, function) -> float:
        """Time of one call, on a GPU until all its work is done."""
        if self.gpu:
            torch.cuda.synchronize()
        before = time.perf_counter()
        function()
        if self.gpu:
            torch.cuda.synchronize()
        return time.perf_counter() - before

    def in_turn(self, functions: dict, repeats: int = 3) -> dict[str, np.ndarray]:
        """Seconds (repeats,) of each function, called once per round; the first does not count."""
        repeats = 20 if self.gpu else 1 if self.args.quick else repeats
        rounds = [[self.seconds(function) for function in functions.values()]
                  for _ in range(repeats + 1)]
        return dict(zip(functions, np.array(rounds[1:]).T))

    def model(self, layers: int | None = None, arch: str | None = None) -> ovstad.ViCLIP:
        """A model of random weights on the device; layers: only so many of each encoder."""
        torch.manual_seed(0)
        model = ovstad.build_model(arch or self.args.arch).to(self.device)
        for encoder in (model.vision_encoder, model.text_encoder):
            encoder.transformer.resblocks = encoder.transformer.resblocks[:layers]
        return model


def ratio(a: np.ndarray, b: np.ndarray) -> float:
    """The typical ratio of two series that ran in turn: the median of the rounds' ratios."""
    return float(np.median(a / b))


def number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def memory_mb(key: str, file: str = "status") -> float:
    """A figure in MB that Linux keeps of this process; nan where there is no /proc."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/self/{file}").read_text().splitlines():
            if line.startswith(f"{key}:"):
                return int(line.split()[1]) / 1024
    return float("nan")


# ---------------------------------------------------------------- what the model costs on paper

def block_flops(tokens: int, batch: int, width: int) -> tuple[int, int]:
    """Floating-point operations of one block: its four linear layers, and its attention."""
    return 24 * batch * tokens * width ** 2, 4 * batch * tokens ** 2 * width


def tokens_of(arch: ovstad.Arch, height: int, width: int) -> int:
    return 1 + arch.frames * (height // arch.patch) * (width // arch.patch)


def encoder_flops(arch: ovstad.Arch, layers: int, batch: int, height: int, width: int) -> int:
    tokens = tokens_of(arch, height, width)
    embed = 2 * batch * (tokens - 1) * 3 * arch.patch ** 2 * arch.width
    return embed + layers * sum(block_flops(tokens, batch, arch.width))


def products(batch: int, tokens: int, width: int, dtype: torch.dtype, device: torch.device):
    """One block's linear layers as bare matrix products: the limit of the whole encoder."""
    x, wide = (torch.randn(batch * tokens, k * width, device=device, dtype=dtype) for k in (1, 4))
    weights = [torch.randn(n * width, k * width, device=device, dtype=dtype)
               for n, k in ((3, 1), (1, 1), (4, 1), (1, 4))]

    def run():
        with torch.no_grad():
            for weight in weights:
                F.linear(x if weight.shape[1] == width else wide, weight)
    return run


def frame_size(arch: str) -> tuple[int, int]:
    """(height, width) of a 340x256 film's frames at a short side of 256 pixels; the toy's own."""
    size = ovstad.ARCHS[arch]
    if arch == "toy":
        return size.grid * size.patch, size.grid * size.patch
    return scaled_size(340, 256, 256, size.patch)[::-1]


def boxes_for(batch: int, each: int) -> list[Tensor]:
    corner = torch.rand(batch, each, 2) * 0.6
    return list(torch.cat([corner, corner + 0.1 + 0.3 * torch.rand(batch, each, 2)], 2))


# ---------------------------------------------------------------- 1. the model

def encoder(bench: Bench) -> None:
    """The video encoder's forward pass in both precisions."""
    arch, (height, width) = ovstad.ARCHS[bench.args.arch], frame_size(bench.args.arch)
    model = bench.model(bench.layers)
    video = torch.randn(bench.batch, arch.frames, 3, height, width, device=bench.device)
    tokens = tokens_of(arch, height, width)

    def encode(amp: bool) -> None:
        with torch.inference_mode(), torch.autocast(bench.device.type, torch.bfloat16, enabled=amp):
            model.encode_video(video)

    t = bench.in_turn(
        {(name, "products"): products(bench.batch, tokens, arch.width, dtype, bench.device)
         for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16))}
        | {("fp32", "encoder"): lambda: encode(False), ("bf16", "encoder"): lambda: encode(True)})
    flops = encoder_flops(arch, bench.layers, bench.batch, height, width)
    linear, _ = block_flops(tokens, bench.batch, arch.width)
    aim = {"fp32": "" if bench.gpu else ">= 0.80", "bf16": ">= 0.60" if bench.gpu else ">= 0.80"}
    for name in ("fp32", "bf16"):
        bench.add(f"{name} {height}x{width}, batch {bench.batch}, {bench.layers} layers",
                  flops / np.median(t[name, "encoder"]) / 1e9, "GFLOP/s",
                  flops / linear * ratio(t[name, "products"], t[name, "encoder"]),
                  "matrix products", aim[name])
    times = ratio(t["fp32", "encoder"], t["bf16", "encoder"])
    bench.add("bf16 for fp32", times, "times", times, "fp32", "" if bench.gpu else ">= 1.80")


def regions(bench: Bench) -> None:
    """From a clip's feature map and boxes to their scores for 60 classes, beside encoding it."""
    model, arch = bench.model(bench.layers), ovstad.ARCHS[bench.args.arch]
    share = bench.layers / arch.layers                       # of the encoder that is timed
    video = torch.randn(bench.batch, arch.frames, 3, *frame_size(bench.args.arch),
                        device=bench.device)
    f_text = torch.randn(60, arch.embed, device=bench.device)

    @torch.inference_mode()
    def encode() -> tuple[Tensor, Tensor]:
        with torch.autocast(bench.device.type, torch.bfloat16, enabled=bench.gpu):
            return model.encode_video(video)

    @torch.inference_mode()
    def score(boxes: list[Tensor]) -> None:
        beside = f_global.float()[ovstad.clip_of_box(boxes).to(bench.device)]
        fused = ovstad.fuse(model.region_features(f_map, boxes), beside, ovstad.BETA)
        model.logits(fused, f_text)

    f_global, f_map = encode()
    score(boxes_for(bench.batch, 1))
    t = bench.in_turn({"encoder": encode} | {
        each: lambda boxes=boxes_for(bench.batch, each): score(boxes) for each in (1, 10, 100)}, 2)
    for each in (1, 10, 100):
        bench.add(f"{each} boxes per clip", np.median(t[each]) / bench.batch * 1000, "ms/clip",
                  ratio(t[each], t["encoder"]) * share, "the encoder",
                  "<= 0.03" if each == 10 else "")


# ---------------------------------------------------------------- 2. training steps

def batch_for(batch: int, size: tuple[int, int], frames: int, each=3, texts=8) -> dict:
    """A training batch as the loader makes it, of noise; size: (height, width)."""
    n = batch * each
    return {"video": torch.randint(0, 256, (batch, frames, 3, *size), dtype=torch.uint8),
            "boxes": boxes_for(batch, each), "jitter": torch.full((batch, 3), 1.1),
            "labels": torch.stack([torch.arange(n), torch.arange(n) % texts], 1)}


def training_step(bench: Bench, model: ovstad.ViCLIP, stage: int, amp: bool,
                  checkpointing: bool = False):
    """A training script's step on groups of clips: its own recipe, without loader and log."""
    args = (train_align if stage == 1 else train_finetune).parse_args(["--amp"] * amp)
    model.train().set_gradient_checkpointing(checkpointing)
    model.text_encoder.requires_grad_(stage == 2)
    columns = {i: i for i in range(len(PROMPTS))}
    if stage == 1:
        text = train_align.SentenceFeatures(model, PROMPTS)(list(columns))
    else:
        text = ovstad.trim(ovstad.tokenize(PROMPTS)).to(bench.device)
    optimizer = training.make_optimizer(model, args)

    def step(groups: list[dict]) -> None:
        args.batch_size = sum(len(group["video"]) for group in groups)
        boxes = sum(len(boxes) for group in groups for boxes in group["boxes"])
        optimizer.zero_grad()
        training.forward_backward(model, groups, text, columns, boxes, args, bench.process)
        optimizer.step()
        model.clamp_temperature()
    return step


def training_steps(bench: Bench) -> None:
    """Both stages' steps on whole frames, and the memory of a step."""
    arch, (height, width) = ovstad.ARCHS[bench.args.arch], frame_size(bench.args.arch)
    layers = bench.layers if bench.gpu else min(bench.layers, 2)
    batch = batch_for(bench.batch, (height, width), arch.frames)
    if bench.gpu:                                            # as the loader does
        batch |= {key: batch[key].pin_memory() for key in ("video", "jitter")}
    tokens = tokens_of(arch, height, width)
    linear, _ = block_flops(tokens, bench.batch, arch.width)
    video = encoder_flops(arch, layers, bench.batch, height, width)
    length = ovstad.trim(ovstad.tokenize(PROMPTS)).shape[1]
    text = layers * sum(block_flops(length, len(PROMPTS), arch.text_width))
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        steps = {}
        for stage, checkpointing in ((1, False), (1, True), (2, False)):
            step = training_step(bench, bench.model(layers), stage, name == "bf16", checkpointing)
            steps[stage, checkpointing] = lambda step=step: step([batch])
        bare = products(bench.batch, tokens, arch.width, dtype, bench.device)
        t = bench.in_turn(steps | {"products": bare}, 1)
        for stage, checkpointing in steps:
            useful = 3 * (video + text * (stage == 2))       # backward costs two forwards
            bench.add(f"stage {stage} {name}, batch {bench.batch}, {layers} layers"
                      + ", checkpointing" * checkpointing,
                      bench.batch / np.median(t[stage, checkpointing]), "clips/s",
                      useful / linear * ratio(t["products"], t[stage, checkpointing]),
                      "matrix products",
                      ">= 0.50" if bench.gpu and name == "bf16" and not checkpointing else "")
    first = None
    for checkpointing in (False, True):                      # in processes with memory of their own
        with torch.multiprocessing.get_context("spawn").Pool(1) as pool:
            mb = pool.apply(step_memory, (bench.args, checkpointing))
        first = first or mb
        bench.add(f"stage 1, {bench.layers} layers" + ", checkpointing" * checkpointing
                  + ": beside weights", mb, "MB", mb / first if first else 1.0,
                  "without checkpointing")


def step_memory(args: argparse.Namespace, checkpointing: bool) -> float:
    """Peak of what a step of stage 1 takes beside weights and the optimiser's state, in MB.

    On a GPU what torch allocates, with --amp; elsewhere the pages of this process.
    """
    torch.set_num_threads(args.threads)
    bench, arch = Bench(args), ovstad.ARCHS[args.arch]
    step = training_step(bench, bench.model(bench.layers), 1, bench.gpu, checkpointing)
    # makes the optimiser's state
    step([batch_for(1, (4 * arch.patch, 4 * arch.patch), arch.frames)])
    batch = batch_for(bench.batch, frame_size(args.arch), arch.frames)
    if bench.gpu:
        torch.cuda.reset_peak_memory_stats(bench.device)
        before = torch.cuda.memory_allocated(bench.device)
        step([batch])
        return (torch.cuda.max_memory_allocated(bench.device) - before) / 2 ** 20
    before = memory_mb("VmRSS")
    step([batch])
    return memory_mb("VmHWM") - before                       # the peak of VmRSS


# ---------------------------------------------------------------- 3. decoding

def render(path: Path, width: int, height: int, frames: int, group: int) -> None:
    """An H.264 film of a moving, noisy texture; group: frames from one key frame to the next."""
    rng, whole = np.random.default_rng(0), width + 2 * frames
    coarse = rng.integers(0, 256, (height // 16 + 2, whole // 16 + 2, 3), np.uint8)
    picture = Image.fromarray(coarse).resize((whole, height), Image.Resampling.BICUBIC)
    picture, grain = np.asarray(picture), rng.integers(-6, 7, (8, height, width, 3))
    with av.open(str(path), "w") as container:
        options = {"preset": "veryfast", "crf": "23", "sc_threshold": "0", "keyint_min": str(group)}
        stream = container.add_stream("libx264", rate=30, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.gop_size = group
        for i in range(frames):
            image = np.clip(picture[:, 2 * i:2 * i + width] + grain[i % 8], 0, 255).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def bare_decode(path: str, first: int, last: int) -> int:
    """The plain loop that yields frames first to last and keeps nothing -> frames decoded."""
    times, decoded = packet_index(path)[0], 0
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        container.seek(int(times[first]), stream=stream, backward=True)
        for frame in container.decode(stream):
            decoded += 1
            if frame.pts >= times[last]:
                break
    return decoded


def films(bench: Bench) -> dict[str, str]:
    """The rendered films by name, made once; a long group is 250 frames, x264's default."""
    result = {}
    for width, height in ((340, 256), (1280, 720)):
        for group in (30, 250):
            path = bench.folder / f"{width}x{height}-{group}.mp4"
            if not path.exists():
                render(path, width, height, 330 if bench.args.quick else 530, group)
            result[f"{width}x{height} groups of {group}"] = str(path)
    return result


def decoding(bench: Bench) -> None:
    """Test clips of 8 frames at a short side of 256 pixels; a random clip opens its file."""
    rng = np.random.default_rng(1)
    for name, path in films(bench).items():
        length = len(packet_index(path)[0])
        for stride in (1, 8):
            ours, limit, decoded, in_loop = [], [], 0, 0
            count = 4 if bench.args.quick else 12
            for index in rng.integers(4 * stride, length - 4 * stride, count).tolist():
                start = time.perf_counter()
                reader = open_video(path, 256)
                reader.clip(index, 8, stride)
                reader.close()
                between = time.perf_counter()
                in_loop += bare_decode(path, index - 4 * stride, index + 3 * stride)
                ours, limit = [*ours, between - start], [*limit, time.perf_counter() - between]
                decoded += reader.decoded
            bench.add(f"{name}, random, stride {stride}", len(ours) / sum(ours), "clips/s",
                      ratio(np.array(limit), np.array(ours)), "a bare decoding loop")
            bench.add("  decoded", decoded, "frames", decoded / in_loop, "the loop's", "<= 1.00")
        start, reader = time.perf_counter(), open_video(path, 256)
        for index in range(0, length, 30):                   # a keyframe a second, as in evaluation
            reader.clip(index, 8, 8)
        between = time.perf_counter()
        bare_decode(path, 0, length - 1)
        bench.add(f"{name}, in order, stride 8", len(range(0, length, 30)) / (between - start),
                  "clips/s", (time.perf_counter() - between) / (between - start),
                  "decoding every frame once")
        bench.add("  decoded", reader.decoded, "frames", reader.decoded / length, "each once",
                  "<= 1.00")


def loader(bench: Bench) -> None:
    """Training clips from the loader into a training step, with more and more workers."""
    sources = [path for name, path in films(bench).items() if name.startswith("340x256")]
    arch, clips = (bench.args.arch, 32) if bench.gpu else ("toy", 8)
    rng = np.random.default_rng(2)
    table = make_annotations(sources, UCF101_24, rng.integers(0, 2, 400), rng.integers(0, 330, 400),
                             np.tile([0.3, 0.2, 0.7, 0.9], (400, 1)), rng.integers(0, 24, 400),
                             files=sources)
    args, size = train_align.parse_args(["--batch-size", str(clips)]), ovstad.ARCHS[arch]
    scale = args.scale if bench.gpu else (48, 60)
    dataset = data.ClipDataset(table, size.frames, 1, patch=size.patch, mirror_texts=False)
    start = time.perf_counter()
    for seed in range(32):
        dataset[seed, seed, scale[0]]
    bench.add("training clips, in this process", 32 / (time.perf_counter() - start), "clips/s")
    # more workers than cores are meant
    warnings.filterwarnings("ignore", "This DataLoader will create")
    for workers in (1, 2) if bench.args.quick else (1, 2, 4):
        args.workers, args.iterations = workers, 4 * workers + 30
        step = training_step(bench, bench.model(arch=arch), 1, bench.gpu)
        batches = iter(training.training_loader(dataset, args, bench.process, 0, scale=scale))
        waited = 0.0
        for i in range(args.iterations):
            if i == 4 * workers:                             # what they had ready is used up
                start, waited = time.perf_counter(), 0.0
            before = time.perf_counter()
            groups = next(batches)
            waited += time.perf_counter() - before
            bench.seconds(lambda: step(groups))
        total = time.perf_counter() - start
        bench.add(f"{workers} workers into a training step of {arch}: waiting",
                  100 * waited / total, "%", waited / total, "the step",
                  "<= 0.05" if bench.gpu and workers == 4 else "")


# ---------------------------------------------------------------- 4. evaluation and tables

MOVIE = 891                       # annotated seconds of a movie


def ava_like(keyframes: int, rows: int, classes: int = 60) -> tuple[Annotations, Detections]:
    """A set of AVA's shape: two people per keyframe, and all classes' scores of all proposals."""
    rng = np.random.default_rng(3)
    corner = rng.uniform(0, 0.5, (keyframes, 2, 2))
    people = np.concatenate([corner, corner + rng.uniform(0.2, 0.5, (keyframes, 2, 2))], 2).round(3)
    # two labels each
    at, who = np.repeat(np.arange(keyframes), 4), np.tile([0, 0, 1, 1], keyframes)
    text = (rng.pareto(1.0, len(at)) * 3).astype(int) % classes
    text[1::2] += text[1::2] == text[::2]
    truth = make_annotations([f"movie{v:03d}" for v in range(keyframes // MOVIE + 1)],
                             [f"action {i}" for i in range(classes)],
                             at // MOVIE, 902 + at % MOVIE, people[at, who], text % classes,
                             unit="second")
    boxes = rows // classes
    at = np.sort(rng.integers(0, keyframes, boxes))
    box = people[at, rng.integers(0, 2, boxes)] + rng.normal(0, 0.03, (boxes, 4))
    return truth, Detections(
        np.repeat(at // MOVIE, classes).astype(np.int32),
        np.repeat(902 + at % MOVIE, classes).astype(np.float32),
        np.repeat(np.clip(box, 0, 1).round(3), classes, 0), rng.normal(size=boxes * classes),
        np.tile(np.arange(classes, dtype=np.int32), boxes))


def evaluation(bench: Bench) -> None:
    """Frame mAP from memory, and from a CSV of a tenth of the rows."""
    keyframes, rows = (5_700, 600_000) if bench.args.quick else (57_000, 6_000_000)
    truth, found = ava_like(keyframes, rows)
    tracemalloc.start()
    frame_map(truth, found)
    mb = tracemalloc.get_traced_memory()[1] / 2 ** 20        # its peak
    tracemalloc.stop()
    t = bench.in_turn({"ours": lambda: frame_map(truth, found),
                       "sort": lambda: np.argsort(found.score, kind="stable")}, 2)
    in_memory = np.median(t["ours"]) * 6e6 / rows
    bench.add(f"{keyframes:,} keyframes, {rows / 1e6:g}M rows, in memory", np.median(t["ours"]),
              "s", ratio(t["ours"], t["sort"]), "sorting the scores")
    bench.add("  6M rows", in_memory, "s", in_memory / 15, "the limit", "<= 1.00")
    bench.add("  memory beside its arguments", mb, "MB", mb / 4000, "the limit", "<= 1.00")
    path, written = bench.folder / "predictions.csv", rows // 10
    write_predictions(path, truth, found.select(slice(written)))

    def bare_csv() -> None:
        with open(path, newline="") as file:
            for _ in csv.reader(file):
                pass

    t = bench.in_turn({"read": lambda: read_predictions(path, truth), "bare": bare_csv}, 2)
    bench.add(f"{written / 1e6:g}M rows from a CSV", np.median(t["read"]), "s",
              ratio(t["read"], t["bare"]), "csv.reader alone")
    total = np.median(t["read"]) / written * 6e6 + in_memory
    bench.add("  6M rows, read and scored", total, "s", total / 20, "the limit", "<= 1.00")


class Rows(torch.utils.data.Dataset):
    """Random keyframes of a table, without their videos; an item is the worker and its memory."""

    def __init__(self, table: Annotations):
        self.clips = data.ClipDataset(table, 8, 1)

    def __len__(self) -> int:
        return 64

    def __getitem__(self, item: int) -> tuple[int, float]:
        for index in np.random.default_rng(item).integers(0, len(self.clips), 10_000):
            self.clips.boxes_and_labels(index)
        return os.getpid(), memory_mb("Pss", "smaps_rollup")


def resident_mb(table: Annotations, workers: int) -> float:
    """Memory of this process and its loader workers that read the table, shared pages once."""
    each = {}
    loader = torch.utils.data.DataLoader(Rows(table), batch_size=None, num_workers=workers)
    for pid, mb in loader:
        each |= {pid: mb, os.getpid(): memory_mb("Pss", "smaps_rollup")}
    return sum(each.values())


def table(bench: Bench) -> None:
    """The alignment table at its full size, from the cache and in the hands of workers."""
    n, videos, texts = 7_066_136, 25_000, 36_778             # Table 1
    rng, folder = np.random.default_rng(5), bench.folder / "seven-million"
    corner = rng.random((n, 2), np.float32) * 0.5
    save_table(make_annotations([f"{v}.mp4" for v in range(videos)],
                                [f"The man number {i} walks to the door." for i in range(texts)],
                                rng.integers(0, videos, n), rng.integers(0, 900, n),
                                np.hstack([corner, corner + 0.3]), rng.integers(0, texts, n)),
               folder)
    t = bench.in_turn({"load": lambda: load_table(folder),
                       "read": lambda: [path.read_bytes() for path in folder.iterdir()]}, 2)
    seconds = np.median(t["load"])
    bench.add(f"{n / 1e6:.2f}M rows from the cache", seconds, "s", ratio(t["load"], t["read"]),
              "reading its files")
    bench.add("  loaded", seconds, "s", seconds / 10, "the limit", "<= 1.00")
    whole, workers = load_table(folder), 2 if bench.args.quick else 8
    mb = resident_mb(whole, workers) - resident_mb(whole.select(np.arange(1000)), workers)
    bench.add(f"  resident, with {workers} workers", mb, "MB", mb / 400, "the limit", "<= 1.00")


# ---------------------------------------------------------------- the command line

PARTS = {"encoder": encoder, "regions": regions, "training": training_steps, "decoding": decoding,
         "loader": loader, "evaluation": evaluation, "table": table}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=engine.HelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(PARTS), metavar="PART",
                        help=f"some of: {', '.join(PARTS)}")
    parser.add_argument("--quick", action="store_true",
                        help="smaller sizes and fewer repeats, to see that everything runs")
    parser.add_argument("--arch", choices=list(ovstad.ARCHS), default="ViT-B/16")
    parser.add_argument("--device", help="cpu, cuda or cuda:1; by default a GPU where there is one")
    parser.add_argument("--threads", type=engine.positive, default=1, help="of CPU arithmetic")
    parser.add_argument("--json", metavar="FILE",
                        help="write all figures, and what they were measured on")
    return parser.parse_args(argv)


def machine(bench: Bench) -> dict:
    """What the figures were measured on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")),
               platform.processor())
    return {"cpu": cpu, "cores": os.cpu_count(), "threads": bench.args.threads,
            "instructions": torch.backends.cpu.get_cpu_capability(),
            "gpu": torch.cuda.get_device_name(bench.device) if bench.gpu else "none",
            "torch": torch.__version__, "av": av.__version__, "numpy": np.__version__}


def main() -> None:
    args = parse_args()
    if args.json:
        Path(args.json).parent.mkdir(parents=True, exist_ok=True)
        Path(args.json).touch()                              # what cannot be written is told now
    torch.set_num_threads(args.threads)
    bench, start = Bench(args), time.perf_counter()
    print("  ".join(f"{key} {value}" for key, value in machine(bench).items()))
    with tempfile.TemporaryDirectory() as folder:
        bench.folder = Path(folder)
        for bench.part in args.only or PARTS:
            print(f"\n{bench.part}")
            PARTS[bench.part](bench)
    missed = [f for f in bench.figures if f.met is False]
    print(f"\naims reached {sum(f.met is True for f in bench.figures)}, missed {len(missed)}; "
          f"took {time.perf_counter() - start:.0f} s")
    if args.json:
        figures = [asdict(f) | {"met": f.met} for f in bench.figures]
        content = {"machine": machine(bench), "figures": figures}
        Path(args.json).write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    engine.cli(main)
