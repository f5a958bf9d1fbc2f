"""How fast, and how far from the limit of this machine:
every figure a ratio to something measured in the same run.

    python bench.py                        # under 10 minutes on 2 cores; on a GPU where there is one
    python bench.py --only encoder decoding
    python bench.py --quick                # three minutes: smaller sizes, fewer repeats
    python bench.py --arch ViT-L/14 --only encoder training --compile

Absolute times of a shared machine mean little. So what is compared runs in turn, round after round, and a
ratio is the median of the rounds' ratios. The limits: dense matrix products of the model's shapes for
whatever computes, a bare decoding loop over the same frames for whatever reads video, a bare
parser of the same bytes for whatever reads files, processes that exchange nothing for processes that do.
"""

import argparse
import contextlib
import csv
import ctypes
import json
import os
import platform
import tempfile
import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path

import av
import numpy as np
import torch
import torch.distributed as dist
import torch.nn as nn
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

import data
import engine
import ovstad
from formats.ava import AVA_80
from formats.predictions import read_predictions, write_predictions
from formats.ucf_jhmdb import JHMDB_21, UCF101_24
from metric import frame_map
from table import (Annotations, Detections, ROW_ARRAYS, load_table, make_annotations,
                   save_table, six_decimals)
from train_align import read_alignment
from video import FolderReader, VideoReader, numbered_frames, open_video, packet_index

FP32, BF16 = torch.float32, torch.bfloat16


# ---------------------------------------------------------------- measuring

@dataclass
class Figure:
    """One line of the table: a measured value, and its ratio to a limit that was measured beside it."""

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
        self.args, self.figures, self.part = args, [], ""
        self.process = engine.start_process(args.device)
        self.device, self.gpu = self.process.device, self.process.device.type == "cuda"
        self.repeats = 1 if args.quick else 20 if self.gpu else 3
        self.few = 1 if args.quick else 2                    # repeats of what takes seconds on any machine
        self.folder = Path()

    def add(self, what: str, value: float, unit: str, ratio: float | None = None,
            limit: str = "", aim: str = "") -> None:
        figure = Figure(self.part, what, float(value), unit, None if ratio is None else float(ratio), limit, aim)
        self.figures.append(figure)
        compared = "" if ratio is None else f"{number(figure.ratio):>7} x {limit}"
        verdict = "" if figure.met is None else f"  (aim {aim}: {'reached' if figure.met else 'MISSED'})"
        print(f"  {what:<52} {number(figure.value):>7} {unit:<9} {compared}{verdict}", flush=True)

    def seconds(self, function) -> float:
        """Time of one call; on a GPU between two events on its stream, when all work before them is done."""
        if not self.gpu:
            before = time.perf_counter()
            function()
            return time.perf_counter() - before
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        function()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1000

    def in_turn(self, functions: dict, repeats: int | None = None) -> dict[str, np.ndarray]:
        """Seconds (repeats,) of each function, all called once a round, after a round that does not count."""
        times = {name: [] for name in functions}
        for _ in range((repeats or self.repeats) + 1):
            for name, function in functions.items():
                times[name].append(self.seconds(function))
        return {name: np.array(values[1:]) for name, values in times.items()}

    def autocast(self, dtype: torch.dtype):
        return torch.autocast(self.device.type, BF16, enabled=dtype == BF16)


def ratio(a: np.ndarray, b: np.ndarray) -> float:
    """The typical ratio of two series that ran in turn: the median of the rounds' ratios."""
    return float(np.median(a / b))


def number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


# ---------------------------------------------------------------- what the model's parts cost on paper

def block_flops(tokens: int, batch: int, width: int) -> tuple[int, int]:
    """Floating-point operations of one transformer block: its four linear layers, and its attention."""
    return 24 * batch * tokens * width ** 2, 4 * batch * tokens ** 2 * width


def encoder_flops(arch: ovstad.Arch, layers: int, batch: int, height: int, width: int) -> int:
    patches = arch.frames * (height // arch.patch) * (width // arch.patch)
    embed = 2 * batch * patches * 3 * arch.patch ** 2 * arch.width
    return embed + layers * sum(block_flops(1 + patches, batch, arch.width))


def products(batch: int, tokens: int, width: int, dtype: torch.dtype, device: torch.device):
    """One block's linear layers as bare matrix products: the rate that the whole encoder is held against."""
    x, wide = (torch.randn(batch * tokens, k * width, device=device, dtype=dtype) for k in (1, 4))
    weights = [torch.randn(n, k, device=device, dtype=dtype)
               for n, k in ((3 * width, width), (width, width), (4 * width, width), (width, 4 * width))]

    def run():
        with torch.no_grad():
            for weight in weights:
                F.linear(x if weight.shape[1] == width else wide, weight)
    return run


class PlainBlock(nn.Module):
    """What one writes without a second thought: nn.MultiheadAttention between the same layers."""

    def __init__(self, block: ovstad.Block):
        super().__init__()
        width = block.ln_1.normalized_shape[0]
        self.ln_1, self.ln_2, self.mlp = block.ln_1, block.ln_2, block.mlp
        self.attn = nn.MultiheadAttention(width, block.attn.heads, batch_first=True)
        self.attn.load_state_dict(block.attn.state_dict())

    def forward(self, x: Tensor, causal: bool) -> Tensor:
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


def model_of(bench: Bench, layers: int | None = None, arch: str | None = None) -> ovstad.ViCLIP:
    """A model of random weights on the device; layers: only so many of the equal layers of each encoder."""
    torch.manual_seed(0)
    model = ovstad.build_model(arch or bench.args.arch).to(bench.device)
    for encoder in (model.vision_encoder, model.text_encoder):
        encoder.transformer.resblocks = encoder.transformer.resblocks[:layers]
    return model


def some_layers(bench: Bench) -> int | None:
    """All layers on a GPU; a third of ViT-B/16's on a CPU, where a clip takes seconds: layers are alike."""
    return None if bench.gpu else 4


def clips(bench: Bench, batch: int, height: int = 224, width: int = 224) -> Tensor:
    return torch.randn(batch, ovstad.ARCHS[bench.args.arch].frames, 3, height, width, device=bench.device)


# ---------------------------------------------------------------- 1. the encoder

def encoder(bench: Bench) -> None:
    arch, batch = ovstad.ARCHS[bench.args.arch], 32 if bench.gpu else 1
    model = model_of(bench, some_layers(bench))
    layers = len(model.vision_encoder.transformer.resblocks)
    plain = model_of(bench, layers).vision_encoder
    blocks = nn.ModuleList(map(PlainBlock, plain.transformer.resblocks))
    plain.transformer.resblocks = blocks.to(bench.device).eval()
    sizes = [(224, 224)] if bench.args.quick else [(224, 224), (256, 336)]
    for height, width in sizes:
        video = clips(bench, batch, height // arch.patch * arch.patch, width // arch.patch * arch.patch)
        tokens = 1 + arch.frames * (height // arch.patch) * (width // arch.patch)
        flops = encoder_flops(arch, layers, batch, height, width)
        linear, attention = block_flops(tokens, batch, arch.width)

        def run(module, dtype):
            with torch.inference_mode(), bench.autocast(dtype):
                module(video)

        def attend(dtype):
            q = torch.randn(batch, tokens, 3, arch.heads, arch.width // arch.heads,
                            device=bench.device, dtype=dtype)
            def run():
                with torch.inference_mode():
                    ovstad.attention(*q.permute(2, 0, 3, 1, 4))
            return run

        functions = {}
        for name, dtype in (("fp32", FP32), ("bf16", BF16)):
            functions |= {f"{name} products": products(batch, tokens, arch.width, dtype, bench.device),
                          f"{name} attention": attend(dtype),
                          f"{name} encoder": lambda dtype=dtype: run(model.vision_encoder, dtype),
                          f"{name} plain": lambda dtype=dtype: run(plain, dtype)}
        if bench.args.compile:
            fast = torch.compile(model.vision_encoder)
            functions |= {"fp32 compiled": lambda: run(fast, FP32), "bf16 compiled": lambda: run(fast, BF16)}
        t = bench.in_turn(functions)

        aim = {"fp32": "" if bench.gpu else ">= 0.80", "bf16": ">= 0.60" if bench.gpu else ">= 0.80"}
        for name in ("fp32", "bf16"):
            what = f"{name} {height}x{width}, batch {batch}, {layers} layers"
            rate = flops / np.median(t[f"{name} encoder"])
            share = flops / linear * ratio(t[f"{name} products"], t[f"{name} encoder"])
            bench.add(what, rate / 1e9, "GFLOP/s", share, "matrix products", aim[name])
            share = attention / linear * ratio(t[f"{name} products"], t[f"{name} attention"])
            bench.add("  its attention alone", attention / np.median(t[f"{name} attention"]) / 1e9,
                      "GFLOP/s", share, "matrix products")
            for other, limit in (("plain", "1.00"), ("compiled", "")):
                if f"{name} {other}" in t:
                    title = "nn.MultiheadAttention encoder" if other == "plain" else "compiled"
                    bench.add(f"  against a {title}", np.median(t[f"{name} encoder"]) * 1000, "ms",
                              ratio(t[f"{name} encoder"], t[f"{name} {other}"]), title,
                              f"<= {limit}" if limit else "")
        bench.add(f"bf16 for fp32, {height}x{width}", np.median(t["fp32 encoder"] / t["bf16 encoder"]), "times",
                  ratio(t["fp32 encoder"], t["bf16 encoder"]), "fp32", "" if bench.gpu else ">= 1.80")
    side = 8192 if bench.gpu else 1536
    for name, dtype in (("fp32", FP32), ("bf16", BF16)):
        a = torch.randn(side, side, device=bench.device, dtype=dtype)
        t = bench.in_turn({"square": lambda: a @ a, "products": functions[f"{name} products"]})
        bench.add(f"{name} matrix products of these shapes", linear / np.median(t["products"]) / 1e9, "GFLOP/s",
                  linear / (2 * side ** 3) * ratio(t["square"], t["products"]), f"one of {side} x {side}")


# ---------------------------------------------------------------- 2. regions and texts

def boxes_for(batch: int, each: int) -> list[Tensor]:
    corner = torch.rand(batch, each, 2) * 0.6
    return list(torch.cat([corner, corner + 0.1 + 0.3 * torch.rand(batch, each, 2)], 2))


def regions(bench: Bench) -> None:
    model, batch = model_of(bench), 32 if bench.gpu else 1
    arch = ovstad.ARCHS[bench.args.arch]
    side = arch.grid * arch.patch
    video = clips(bench, batch, side, side)
    for dtype in (BF16,) if bench.gpu else (FP32,):
        with torch.inference_mode(), bench.autocast(dtype):
            f_global, f_map = model.encode_video(video)
        f_text = torch.randn(60, arch.embed, device=bench.device)

        def encode():
            with torch.inference_mode(), bench.autocast(dtype):
                model.encode_video(video)

        def score(boxes):
            with torch.inference_mode():
                f_region = model.region_features(f_map, boxes)
                clip = ovstad.clip_of_box(boxes).to(bench.device)
                model.logits(ovstad.fuse(f_region, f_global.float()[clip], 0.3), f_text)

        functions = {each: lambda boxes=boxes_for(batch, each): score(boxes) for each in (1, 10, 100)}
        t = bench.in_turn({"encoder": encode} | functions)
        for each in (1, 10, 100):
            bench.add(f"{each} boxes a clip, RoIAlign to 60 logits", np.median(t[each]) / batch * 1000, "ms/clip",
                      ratio(t[each], t["encoder"]), "the encoder", "<= 0.03" if each == 10 else "")


def text(bench: Bench) -> None:
    model, arch = model_of(bench), ovstad.ARCHS[bench.args.arch]
    names = [*AVA_80, *JHMDB_21]
    for count in (21, 80, 1000):
        prompts = [ovstad.PROMPT.format(names[i % len(names)]) for i in range(count)]
        if bench.args.quick and count == 1000:
            prompts = prompts[:200]
        length = int((ovstad.tokenize(prompts) > 0).sum(1).max())
        linear, attention = block_flops(length, len(prompts), arch.text_width)
        bare = products(len(prompts), length, arch.text_width, FP32, bench.device)

        def run():
            with torch.inference_mode():
                model.encode_text(prompts)
        t = bench.in_turn({"text": run, "products": bare, "words": lambda: ovstad.tokenize(prompts)},
                          bench.few if count < 1000 else 1)
        flops = arch.text_layers * (linear + attention)
        bench.add(f"{len(prompts)} prompts of up to {length} tokens", len(prompts) / np.median(t["text"]),
                  "texts/s", flops / linear * ratio(t["products"], t["text"]), "matrix products")
    bench.add("  of which tokenizing", np.median(t["words"]) * 1000, "ms",
              ratio(t["words"], t["text"]), "the whole")


# ---------------------------------------------------------------- 3. training steps

class PeakMemory:
    """Peak of the memory that a `with` block takes beyond what was taken before it, in MB.

    On a GPU what torch allocated; on Linux CPUs the process's resident pages; nan elsewhere.
    """

    def __init__(self, device: torch.device):
        self.device, self.mb = device, float("nan")

    def now(self, peak: bool) -> float:
        if self.device.type == "cuda":
            allocated = torch.cuda.max_memory_allocated if peak else torch.cuda.memory_allocated
            return allocated(self.device) / 2 ** 20
        return proc_mb("self", "VmHWM" if peak else "VmRSS")

    def __enter__(self) -> "PeakMemory":
        if self.device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats(self.device)
        # glibc: what was and will be freed goes back to the system
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)
            ctypes.CDLL(None).mallopt(-3, 2 ** 16)           # M_MMAP_THRESHOLD
        self.before = self.now(peak=False)
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")                       # Linux: VmHWM starts anew
        return self

    def __exit__(self, *_) -> None:
        self.mb = self.now(peak=True) - self.before
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).mallopt(-3, 2 ** 25)           # where glibc's own threshold ends up


def proc_mb(pid, key: str, file: str = "status") -> float:
    """A figure in MB that Linux keeps of a process; nan where there is no /proc."""
    try:
        lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
    except OSError:
        return float("nan")
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{key}:")), float("nan"))


def batch_for(batch: int, side: int, frames: int, each: int = 3, texts: int = 8) -> dict:
    """A training batch as the loader makes it, of noise."""
    n = batch * each
    return {"video": torch.randint(0, 256, (batch, frames, 3, side, side), dtype=torch.uint8),
            "boxes": boxes_for(batch, each), "jitter": torch.full((batch, 3), 1.1),
            "labels": torch.stack([torch.arange(n), torch.arange(n) % texts], 1)}


def training(bench: Bench) -> None:
    arch, batch_size = ovstad.ARCHS[bench.args.arch], 32 if bench.gpu else 1
    layers, classes = some_layers(bench), UCF101_24
    side, dtypes = arch.grid * arch.patch, (BF16, FP32) if bench.gpu else (FP32, BF16)
    batch = batch_for(batch_size, side, arch.frames)
    if bench.gpu:
        batch |= {name: batch[name].pin_memory() for name in ("video", "jitter")}           # as the loader does
    tokens = 1 + arch.frames * arch.grid ** 2
    for dtype in dtypes[:1] if bench.args.quick else dtypes:
        steps = {}
        for stage in (1, 2):
            for checkpointing in (False, True):
                for compiled in (False, True) if bench.args.compile and not checkpointing else (False,):
                    step = training_step(bench, model_of(bench, layers), stage, checkpointing, compiled,
                                         classes, dtype == BF16)
                    steps[stage, checkpointing, compiled] = lambda step=step: step(batch)
        bare = products(batch_size, tokens, arch.width, dtype, bench.device)
        t = bench.in_turn(steps | {"products": bare})
        linear, _ = block_flops(tokens, batch_size, arch.width)
        count = layers or arch.layers
        useful = 3 * encoder_flops(arch, count, batch_size, side, side)        # backward costs two forwards
        for name in steps:
            stage, checkpointing, compiled = name
            what = (f"stage {stage} {'bf16' if dtype == BF16 else 'fp32'}, batch {batch_size}, {count} layers"
                    + ", checkpointing" * checkpointing + ", compiled" * compiled)
            aim = ">= 0.50" if bench.gpu and dtype == BF16 and not checkpointing and not compiled else ""
            own = useful + 3 * text_flops(arch, count, classes) * (stage == 2)
            bench.add(what, batch_size / np.median(t[name]), "clips/s",
                      own / linear * ratio(t["products"], t[name]), "matrix products", aim)

    # memory, with all layers: of a few, the gradients of the weights would hide what checkpointing saves
    count, first = layers if bench.args.quick and layers else arch.layers, None
    for checkpointing in (False, True):
        step = training_step(bench, model_of(bench, count), 1, checkpointing, False, classes, dtypes[0] == BF16)
        step(batch)                                          # the optimiser's state is there
        with PeakMemory(bench.device) as peak:
            step(batch)
        first = first or peak.mb
        bench.add(f"stage 1, batch {batch_size}, {count} layers: memory beyond weights"
                  + ", checkpointing" * checkpointing,
                  peak.mb, "MB", peak.mb / first, "without checkpointing")


def text_flops(arch: ovstad.Arch, layers: int, names: list[str]) -> int:
    length = int((ovstad.tokenize([ovstad.PROMPT.format(name) for name in names]) > 0).sum(1).max())
    return layers * sum(block_flops(length, len(names), arch.text_width))


def training_step(bench: Bench, model: ovstad.ViCLIP, stage: int, checkpointing: bool, compiled: bool,
                  classes: list[str], amp: bool):
    """The step that the training scripts run on a batch, without their loader and log."""
    model.train().set_gradient_checkpointing(checkpointing)
    model.text_encoder.requires_grad_(stage == 2)
    prompts = [ovstad.PROMPT.format(name) for name in classes]
    with torch.no_grad():
        words = (model.encode_text(prompts) if stage == 1
                 else ovstad.trim(ovstad.tokenize(prompts)).to(bench.device))
    args = argparse.Namespace(lr=1e-5, tau_lr=None, momentum=0.9, weight_decay=1e-7, optimizer="sgd", accumulate=1,
                              batch_size=1, gamma=2.0, beta=ovstad.BETA, amp=amp)
    optimizer = engine.make_optimizer(model, args)
    if compiled:
        model.vision_encoder.compile()
    columns = {i: i for i in range(len(classes))}

    def step(batch: dict) -> None:
        args.batch_size = len(batch["video"])
        engine.forward_backward(model, [batch], words, columns, len(batch["labels"]), args, bench.process)
        optimizer.step()
        model.clamp_temperature()
        optimizer.zero_grad()
    return step


# ---------------------------------------------------------------- 4. decoding

VIDEOS = {"340x256": (340, 256), "1280x720": (1280, 720)}


def render(path: Path, width: int, height: int, frames: int, group: int) -> None:
    """An H.264 film of a moving, noisy texture; group: frames from one key frame to the next."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (height // 16 + 2, (width + 2 * frames) // 16 + 2, 3), np.uint8)
    picture = np.asarray(Image.fromarray(coarse).resize((width + 2 * frames, height), Image.Resampling.BICUBIC))
    grain = rng.integers(-6, 7, (8, height, width, 3))
    with av.open(str(path), "w") as container:
        options = {"preset": "veryfast", "crf": "23", "sc_threshold": "0", "keyint_min": str(group)}
        stream = container.add_stream("libx264", rate=30, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.gop_size = group
        for i in range(frames):
            image = np.clip(picture[:, 2 * i:2 * i + width] + grain[i % 8], 0, 255).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def render_folder(film: Path, folder: Path, frames: int) -> None:
    """The first frames of a film as JPEG files, as rgb-images/ and rawframes/ hold them."""
    folder.mkdir()
    with av.open(str(film)) as container:
        for i, frame in zip(range(frames), container.decode(video=0)):
            frame.to_image().save(folder / f"{i + 1:05d}.jpg", quality=92)


def bare_decode(path: str, first: int, last: int) -> int:
    """The plain loop that yields frames first to last: one seek, then decode and keep nothing.

    -> frames decoded
    """
    pts, decoded = packet_index(path)[0], 0
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        container.seek(int(pts[first]), stream=stream, backward=True)
        for frame in container.decode(stream):
            decoded += 1
            if frame.pts >= pts[last]:
                break
    return decoded


def bare_pictures(files: list[str]) -> int:
    for file in files:
        with Image.open(file) as image:
            image.load()
    return len(files)


def films(bench: Bench) -> dict[tuple[str, str], Path]:
    """The rendered films by size and kind; a long group is 250 frames, what x264 does by default."""
    frames, result = 330 if bench.args.quick else 530, {}
    for size, (width, height) in VIDEOS.items():
        for kind, group in (("groups of 30", 30), ("groups of 250", 250)):
            path = bench.folder / f"{size}-{group}.mp4"
            if not path.exists():
                render(path, width, height, frames, group)
            result[size, kind] = path
        folder = bench.folder / f"{size}-jpg"
        if not folder.exists():
            render_folder(result[size, "groups of 30"], folder, 120)
        result[size, "JPEG folder"] = folder
    return result


def decoding(bench: Bench) -> None:
    """Test clips of 8 frames at a short side of 256 pixels, on one core.

    Opening the file is part of a random clip.
    """
    rng = np.random.default_rng(1)
    for (size, kind), path in films(bench).items():
        folder = path.is_dir()
        length = len(numbered_frames(str(path)) if folder else packet_index(str(path))[0])
        for stride in (8,) if folder else (1, 8):
            places = rng.integers(4 * stride, length - 4 * stride, 4 if bench.args.quick else 12)
            ours, bare, decoded, converted, in_loop = [], [], 0, 0, 0
            for place in places.tolist():
                first, last = place - 4 * stride, place + 3 * stride
                before = time.perf_counter()
                reader = open_video(path, 256)
                reader.clip(place, 8, stride)
                reader.close()
                between = time.perf_counter()
                in_loop += (bare_pictures(reader.files[first:last + 1:stride]) if folder
                            else bare_decode(str(path), first, last))
                ours, bare = ours + [between - before], bare + [time.perf_counter() - between]
                decoded, converted = decoded + reader.decoded, converted + reader.converted
            what = f"{size} {kind}, random, stride {stride}"
            bench.add(what, len(places) / sum(ours), "clips/s", ratio(np.array(bare), np.array(ours)),
                      "opening the pictures alone" if folder else "a bare decoding loop")
            bench.add("  decoded for a frame that is used", decoded / converted, "frames",
                      decoded / in_loop, "the loop's", "<= 1.00")
        consecutive(bench, size, kind, path, length)


def consecutive(bench: Bench, size: str, kind: str, path: Path, length: int) -> None:
    """Every keyframe of a film in order, one a second, as evaluation reads them: stride 8, 64 frames a clip."""
    def ours() -> VideoReader | FolderReader:
        reader = open_video(path, 256)
        for place in range(0, length, 30):
            reader.clip(place, 8, 8)
        reader.close()
        return reader

    whole = (lambda: bare_pictures(numbered_frames(str(path)))) if path.is_dir() else \
        (lambda: bare_decode(str(path), 0, length - 1))
    t = bench.in_turn({"ours": ours, "whole": whole}, 1 if bench.args.quick else 2)
    keyframes, reader = len(range(0, length, 30)), ours()
    bench.add(f"{size} {kind}, a keyframe a second, stride 8", keyframes / np.median(t["ours"]), "clips/s",
              ratio(t["whole"], t["ours"]), "decoding every frame once")
    bench.add("  decoded, of the film's frames", reader.decoded, "frames",
              reader.decoded / length, "each once", "<= 1.00")


# ---------------------------------------------------------------- 5. the loader

def loader(bench: Bench) -> None:
    """Clips from the training loader, alone and into a training step, with more and more workers."""
    sources = [path for (size, kind), path in films(bench).items() if size == "340x256" and not path.is_dir()]
    arch = "toy" if not bench.gpu else bench.args.arch
    size, batch_size = ovstad.ARCHS[arch], 32 if bench.gpu else 8
    crop, rng = size.grid * size.patch, np.random.default_rng(2)
    n = 400                                                  # keyframes; a worker's index of a film is made once
    table = make_annotations(
        [path.name for path in sources], UCF101_24, rng.integers(0, len(sources), n), rng.integers(0, 330, n),
        np.tile([0.3, 0.2, 0.7, 0.9], (n, 1)), rng.integers(0, 24, n), files=[str(path) for path in sources])
    dataset = data.ClipDataset(table, size.frames, 1, patch=size.patch, crop=crop,
                               scale=(round(crop * 8 / 7), round(crop * 10 / 7)), mirror_texts=False)

    before, count = time.perf_counter(), 32
    for place in rng.integers(0, len(dataset), count).tolist():
        dataset[place, place]
    alone = (time.perf_counter() - before) / count
    bench.add(f"{crop}x{crop} training clips, {size.frames} frames, in this process", 1 / alone, "clips/s")
    cores = min(os.cpu_count() or 1, 8)
    # more workers than cores are meant to be
    warnings.filterwarnings("ignore", "This DataLoader will create")
    for workers in (1, 2) if bench.args.quick else (1, 2, 4, 8):
        args = argparse.Namespace(batch_size=batch_size, seed=0, workers=workers, iterations=4 * workers + 30)
        skipped = 4 * workers                                # what the workers had ready before the clock started
        for consume in (False, True):
            step = training_step(bench, model_of(bench, arch=arch), 1, False, False, UCF101_24, bench.gpu)
            waited, start = 0.0, 0.0
            batches = iter(engine.training_loader(dataset, args, bench.process, 0))
            for i in range(args.iterations):
                if i == skipped:
                    start, waited = time.perf_counter(), 0.0
                before = time.perf_counter()
                batch = next(batches)[0]
                waited += time.perf_counter() - before
                if consume:
                    step(batch)
            total = time.perf_counter() - start
            rate = (args.iterations - skipped) * batch_size / total
            if consume:
                bench.add(f"  into a training step of {arch}: waiting", 100 * waited / total, "%",
                          waited / total, "the step", "<= 0.05" if bench.gpu and workers == 8 else "")
            else:
                bench.add(f"{workers} workers", rate, "clips/s",
                          rate * alone / min(workers, cores), f"{min(workers, cores)} cores")


# ---------------------------------------------------------------- 6. evaluation and tables at full size

MOVIE = 891                       # annotated seconds of a movie


def ava_like(keyframes: int, rows: int, classes: int = 60) -> tuple[Annotations, Detections]:
    """A validation set of AVA's shape.

    People with a few labels each, and every class's score of every proposal.
    """
    rng = np.random.default_rng(3)
    corner = rng.uniform(0, 0.5, (keyframes, 2, 2))
    # two a keyframe
    people = np.concatenate([corner, corner + rng.uniform(0.2, 0.5, (keyframes, 2, 2))], 2).round(3)
    keyframe = np.arange(keyframes)
    at, who = np.repeat(keyframe, 4), np.tile([0, 0, 1, 1], keyframes)              # two labels each
    text = (rng.pareto(1.0, len(at)) * 3).astype(int) % classes
    text[1::2] += text[1::2] == text[::2]
    truth = make_annotations([f"movie{v:03d}" for v in range(keyframes // MOVIE + 1)],
                                  [f"action {i}" for i in range(classes)],
                                  at // MOVIE, 902 + at % MOVIE, people[at, who], text % classes,
                                  unit="second")
    boxes = rows // classes
    place = np.sort(rng.integers(0, keyframes, boxes))
    box = np.clip(people[place, rng.integers(0, 2, boxes)] + rng.normal(0, 0.03, (boxes, 4)), 0, 1).round(3)
    return truth, Detections(
        np.repeat(place // MOVIE, classes).astype(np.int32),
        np.repeat(902 + place % MOVIE, classes).astype(np.float32),
        np.repeat(box, classes, 0), rng.normal(size=boxes * classes),
        np.tile(np.arange(classes, dtype=np.int32), boxes))


def plain_average_precisions(truth: Annotations, found: Detections) -> list[float | None]:
    """Frame AP of each class as one would write it down.

    Loops over detections and the people of their keyframe.
    """
    people, rows = {}, [[] for _ in truth.texts]
    annotated = truth.video, truth.keyframe, six_decimals(truth.box), truth.text
    for v, k, box, label in zip(*(column.tolist() for column in annotated)):
        people.setdefault((label, v, k), []).append(box)
    for v, k, box, score, label in zip(*(column.tolist() for column in vars(found).values())):
        rows[label].append((score, (label, v, k), box))
    aps = []
    for label in range(len(truth.texts)):
        total = sum(len(boxes) for (of, *_), boxes in people.items() if of == label)
        taken, hits, precision = set(), [], []
        for _, key, (x1, y1, x2, y2) in sorted(rows[label], key=lambda row: -row[0]):
            best, which = 0.0, None
            for place, (a1, b1, a2, b2) in enumerate(people.get(key, [])):
                inner = max(min(x2, a2) - max(x1, a1), 0) * max(min(y2, b2) - max(y1, b1), 0)
                iou = inner / ((x2 - x1) * (y2 - y1) + (a2 - a1) * (b2 - b1) - inner)
                if iou > best:
                    best, which = iou, place
            hits.append(best >= 0.5 and (key, which) not in taken)
            if hits[-1]:
                taken.add((key, which))
            precision.append(len(taken) / len(hits))
        aps.append(sum(max(precision[i:]) for i, hit in enumerate(hits) if hit) / total if total else None)
    return aps


def rows_of(found: Detections, rows: np.ndarray | slice) -> Detections:
    return found.select(rows)


def evaluation(bench: Bench) -> None:
    keyframes, rows = (5_700, 600_000) if bench.args.quick else (57_000, 6_000_000)
    truth, found = ava_like(keyframes, rows)
    with PeakMemory(torch.device("cpu")) as peak:
        t = bench.in_turn({"ours": lambda: frame_map(truth, found),
                           "sort": lambda: np.argsort(found.score, kind="stable")}, bench.few)
    in_memory = np.median(t["ours"]) * 6e6 / rows
    bench.add(f"{keyframes:,} keyframes, {rows / 1e6:g}M rows, in memory", np.median(t["ours"]), "s",
              ratio(t["ours"], t["sort"]), "sorting the scores")
    bench.add("  6M rows", in_memory, "s", in_memory / 15, "the aim", "<= 1.00")
    bench.add("  memory beyond its arguments", peak.mb, "MB")

    part = keyframes // 10
    some = truth.select(np.flatnonzero(truth.video * MOVIE + truth.keyframe - 902 < part))
    few = rows_of(found, found.video * MOVIE + found.keyframe - 902 < part)
    t = bench.in_turn({"ours": lambda: frame_map(some, few),
                       "plain": lambda: plain_average_precisions(some, few)}, bench.few)
    ours = [entry["ap"] for entry in frame_map(some, few)["classes"]]
    plain = plain_average_precisions(some, few)
    if not np.allclose([ap or 0 for ap in ours], [ap or 0 for ap in plain], atol=1e-9):
        raise ValueError("evaluate.frame_map and the plain loops disagree")
    bench.add(f"  {len(few.score):,} rows of it", np.median(t["ours"]), "s",
              ratio(t["ours"], t["plain"]), "plain Python, same APs")

    path = bench.folder / "predictions.csv"
    written = rows if bench.args.full else rows // 10
    write_predictions(path, truth, rows_of(found, slice(written)))

    def bare_csv() -> None:
        with open(path, newline="") as file:
            for _ in csv.reader(file):
                pass

    t = bench.in_turn({"read": lambda: read_predictions(path, truth), "bare": bare_csv}, bench.few)
    bench.add(f"{written / 1e6:g}M rows from a CSV of {path.stat().st_size / 1e6:.0f} MB",
              np.median(t["read"]), "s", ratio(t["read"], t["bare"]), "csv.reader alone")
    total = np.median(t["read"]) / written * 6e6 + in_memory
    bench.add("  6M rows, read and scored", total, "s", total / 60, "the aim", "<= 1.00")


def write_alignment_sets(folder: Path, scale: float) -> tuple[int, int]:
    """HC-STVG's and VidSTG's training JSONs at `scale` of their real size, 7 million pairs at 1. -> pairs, bytes

    Their videos are empty files, which are looked for and never opened.
    """
    rng, pairs, hcstvg, vidstg = np.random.default_rng(4), 0, {}, []
    for name in ("hcstvg", "vidstg", "vidor/annotation/training/0000"):
        (folder / name).mkdir(parents=True)
    for i in range(round(10_131 * scale)):
        n = int(rng.integers(100, 272))
        pairs += n
        (folder / f"hcstvg/{i}_{i:011d}.mp4").touch()
        hcstvg[f"{i}_{i:011d}.mp4"] = {"bbox": [[10 + j % 50, 20, 100, 150] for j in range(n)], "st_frame": 5,
                                       "img_size": [360, 640],
                                       "English": f"The man number {i} walks to the door, opens it."}
    for video in range(round(1545 * scale)):
        trajectories = [[{"tid": person,
                          "bbox": {"xmin": frame % 100 + person, "ymin": 5, "xmax": 300, "ymax": 200},
                          "generated": 1, "tracker": "kcf"} for person in range(4)]
                        for frame in range(900)]
        (folder / f"vidor/annotation/training/0000/{video}.json").write_text(json.dumps(
            {"video_id": str(video), "width": 640, "height": 360, "trajectories": trajectories}))
        (folder / f"vidor/{video}.mp4").touch()
        for k, begin in enumerate(rng.integers(0, 650, 15).tolist()):
            pairs += 224
            vidstg.append({"vid": str(video), "used_relation": {"predicate": "ride"},
                           "subject/objects": [{"tid": person, "category": "adult"} for person in range(4)],
                           "temporal_gt": {"begin_fid": begin, "end_fid": begin + 224},
                           "captions": [{"description": f"an adult {video} rides thing {k}", "type": "person",
                                         "target_id": k % 4}]})
    (folder / "hcstvg/trainv2.json").write_text(json.dumps(hcstvg))
    (folder / "vidstg/train_annotations.json").write_text(json.dumps(vidstg))
    return pairs, sum(path.stat().st_size for path in folder.rglob("*.json"))


class Rows(torch.utils.data.Dataset):
    """Random keyframes of a table, read without their videos; an item is the worker's process and its memory."""

    def __init__(self, clips: data.ClipDataset):
        self.clips = clips

    def __len__(self) -> int:
        return 64

    def __getitem__(self, item: int) -> tuple[int, float]:
        for place in np.random.default_rng(item).integers(0, len(self.clips), 10_000):
            self.clips.boxes_and_labels(place)
        return os.getpid(), proc_mb("self", "Pss", "smaps_rollup")


def resident_mb(table: Annotations, workers: int) -> float:
    """Memory of this process and all loader workers after they read the table.

    Pages that they share are counted once.
    """
    each = {}
    rows = Rows(data.ClipDataset(table, 8, 1))
    for pid, mb in torch.utils.data.DataLoader(rows, batch_size=None, num_workers=workers):
        each |= {pid: mb, os.getpid(): proc_mb("self", "Pss", "smaps_rollup")}
    return sum(each.values())


def table(bench: Bench) -> None:
    """Parsing is timed on a tenth of the official files, unless --full.

    The table that is mapped and shared has all rows.
    """
    folder = bench.folder / "alignment"
    pairs, size = write_alignment_sets(folder, 1.0 if bench.args.full else 0.02 if bench.args.quick else 0.1)
    args = argparse.Namespace(hcstvg=folder / "hcstvg", vidstg=folder / "vidstg", vidor=folder / "vidor",
                              csv=None, data=None, split="train", fraction=1.0, exclude_videos=None,
                              seed=0)

    def bare_json() -> None:
        for path in folder.rglob("*.json"):
            json.loads(path.read_bytes())

    limit, first, again = map(bench.seconds, (bare_json, lambda: read_alignment(args),
                                              lambda: read_alignment(args)))
    bench.add(f"{pairs / 1e6:.2f}M pairs from {size / 1e6:.0f} MB of JSON, once", first, "s",
              first / limit, "json.loads alone")
    bench.add("  and again, from the cache", again, "s", again / first, "the first time")

    n, videos, texts = 7_066_136, 25_000, 36_778             # Table 1
    rng = np.random.default_rng(5)
    corner = rng.random((n, 2), np.float32) * 0.5
    made = make_annotations([f"{v}.mp4" for v in range(videos)],
                                 [f"The man number {i} walks to the door." for i in range(texts)],
                                 rng.integers(0, videos, n), rng.integers(0, 900, n),
                                 np.hstack([corner, corner + 0.3]), rng.integers(0, texts, n))
    row = sum(getattr(made, name).nbytes for name in ROW_ARRAYS if getattr(made, name) is not None) / n
    path = bench.folder / "seven-million.table"
    save_table(made, path)
    del made, corner
    t = bench.in_turn({"load": lambda: load_table(path), "read": lambda: [part.read_bytes() for part in path.iterdir()]}, bench.few)
    bench.add(f"{n / 1e6:.2f}M rows, {row:g} bytes each, from the cache", np.median(t["load"]), "s",
              ratio(t["load"], t["read"]), "reading the file")
    bench.add("  loaded", np.median(t["load"]), "s", np.median(t["load"]) / 10, "the aim", "<= 1.00")
    whole, workers = load_table(path), 2 if bench.args.quick else 8
    mb = resident_mb(whole, workers) - resident_mb(whole.select(np.arange(1000)), workers)
    bench.add(f"  resident, with {workers} workers", mb, "MB", mb / 400, "the aim", "<= 1.00")


# ---------------------------------------------------------------- 7. several processes

def scaling(bench: Bench) -> None:
    """Stage 1's step on 1 and 2 processes: one batch divided among them (strong), and a batch each (weak).

    Two processes that exchange nothing are the limit: they show what the machine has left for a second one.
    """
    gpus, batch = torch.cuda.device_count() > 1, 32
    arch = bench.args.arch if gpus else "toy"
    steps = 4 if bench.args.quick else 20
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(scaling_process, (folder, gpus, arch, batch, steps), 2)
        t = {name: np.array(values) for name, values in json.loads(Path(folder, "times.json").read_text()).items()}
    bench.add(f"{arch}, 1 process, batch {batch}", batch / np.median(t["one"]), "clips/s")
    for kind, clips_a_step, what in (("strong", batch, "divided by 2 (strong)"),
                                     ("weak", 2 * batch, "for each of 2 (weak)")):
        rate = clips_a_step / np.median(t[kind])
        bench.add(f"  the batch {what}", rate, "clips/s",
                  clips_a_step / batch * ratio(t["one"], t[kind]), "1 process")
        bench.add("    against exchanging nothing", rate, "clips/s", ratio(t[f"{kind} apart"], t[kind]), "2 apart")
    bench.add("  the all-gather of sentences and counts", 1000 * np.median(t["gather"]), "ms",
              ratio(t["gather"], t["weak"]), "the weak step")
    parameters = sum(p.numel() for p in ovstad.ViCLIP(bench.args.arch).vision_encoder.parameters())
    bench.add(f"gradients of {bench.args.arch}'s video encoder", 4 * parameters / 1e6, "MB/step")


def scaling_process(rank: int, folder: str, gpus: bool, arch: str, batch: int, steps: int) -> None:
    """One of two processes: every kind of step in turn, both starting each one together."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    dist.init_process_group("nccl" if gpus else "gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
    process = engine.start_process(None if gpus else "cpu")
    alone = engine.Process(0, 1, process.device)
    size, sentences = ovstad.ARCHS[arch], 16
    texts = torch.randn(sentences, size.embed, device=process.device)
    args = argparse.Namespace(lr=1e-5, momentum=0.9, weight_decay=1e-7, optimizer="sgd", accumulate=1,
                              gamma=2.0, beta=ovstad.BETA, amp=gpus)
    models, optimizers = {}, {}
    for among in (process, alone):
        torch.manual_seed(0)
        model = ovstad.ViCLIP(arch)
        model.text_encoder.requires_grad_(False)
        models[among.world] = engine.wrap(model, among)
        optimizers[among.world] = engine.make_optimizer(model, args)
    whole, share = (batch_for(n, size.grid * size.patch, size.frames) for n in (batch, batch // 2))

    def step(own: dict, among: engine.Process) -> float:
        """-> seconds of the all-gather."""
        before = time.perf_counter()
        shared = among.gather((list(range(sentences)), len(own["labels"])))
        waited = time.perf_counter() - before
        optimizers[among.world].zero_grad()
        engine.forward_backward(models[among.world], own, texts, {i: i for i in range(sentences)},
                                sum(boxes for _, boxes in shared), args, among)
        optimizers[among.world].step()
        if gpus:
            torch.cuda.synchronize()
        return waited

    kinds = {"one": (whole, alone), "strong": (share, process), "strong apart": (share, alone),
             "weak": (whole, process), "weak apart": (whole, alone)}
    times = {name: [] for name in [*kinds, "gather"]}
    for _ in range(steps + 2):
        for name, (own, among) in kinds.items():
            process.gather(None)
            before, waited = time.perf_counter(), 0.0
            if name != "one" or process.is_main:
                waited = step(own, among)
            process.gather(None)                             # a step has taken as long as the slower process
            times[name].append(time.perf_counter() - before)
            if name == "weak":
                times["gather"].append(waited)
    if process.is_main:
        Path(folder, "times.json").write_text(json.dumps({name: values[2:] for name, values in times.items()}))
    dist.destroy_process_group()


# ---------------------------------------------------------------- the command line

PARTS = {"encoder": encoder, "regions": regions, "text": text, "training": training, "decoding": decoding,
         "loader": loader, "evaluation": evaluation, "table": table, "scaling": scaling}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=engine.HelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(PARTS), metavar="PART",
                        help=f"some of: {', '.join(PARTS)}")
    parser.add_argument("--quick", action="store_true",
                        help="smaller sizes and fewer repeats, to see that everything runs")
    parser.add_argument("--full", action="store_true",
                        help="the official files and the CSV of predictions at their full size")
    parser.add_argument("--arch", choices=list(ovstad.ARCHS), default="ViT-B/16")
    parser.add_argument("--compile", action="store_true",
                        help="also torch.compile's encoder, in inference and training")
    parser.add_argument("--device", help="cpu, cuda or cuda:1; by default a GPU where there is one")
    parser.add_argument("--threads", type=int, default=1,
                        help="of CPU arithmetic; 1 gives the figures of one core")
    parser.add_argument("--json", metavar="FILE", help="write all figures, and what they were measured on")
    return parser.parse_args(argv)


def machine(bench: Bench) -> dict:
    """What the figures were measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if os.path.exists("/proc/cpuinfo") else []
    cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")),
               platform.processor())
    return {"cpu": cpu, "cores": os.cpu_count(), "threads": bench.args.threads,
            "instructions": torch.backends.cpu.get_cpu_capability(),
            "gpu": torch.cuda.get_device_name(bench.device) if bench.gpu else "none",
            "python": platform.python_version(), "torch": torch.__version__, "av": av.__version__,
            "numpy": np.__version__}


def main() -> None:
    args = parse_args()
    if args.json:
        Path(args.json).parent.mkdir(parents=True, exist_ok=True)
        Path(args.json).touch()                              # an unwritable place is told now, not after minutes
    torch.set_num_threads(args.threads)
    bench, start = Bench(args), time.perf_counter()
    print("  ".join(f"{key} {value}" for key, value in machine(bench).items()))
    with tempfile.TemporaryDirectory() as folder:
        bench.folder = Path(folder)
        for part in args.only or PARTS:
            bench.part = part
            print(f"\n{part}")
            PARTS[part](bench)
    missed = [f for f in bench.figures if f.met is False]
    print(f"\naims reached {sum(f.met is True for f in bench.figures)}, missed {len(missed)}; "
          f"took {time.perf_counter() - start:.0f} s")
    if args.json:
        figures = [asdict(f) | {"met": f.met} for f in bench.figures]
        Path(args.json).write_text(json.dumps({"machine": machine(bench), "figures": figures}, indent=1) + "\n")


if __name__ == "__main__":
    engine.cli(main)
