"""The whole paper in miniature: rendered worlds on disk, and every stage run on them.

    python toy.py              # about a quarter of an hour; --quick: 2 minutes, for the plumbing

The worlds (worlds.py) keep the paper's premises, in its own words where they are quoted:

    photos  what CLIP has seen before ViCLIP: one person each, and what the person does, one time in
            three in other words than its class's
    web     clips to pretrain on. "A large proportion of videos or text descriptions only involve
            scenes, objects, and appearances": four captions of ten tell an action
    films   boxes to align with. "The text descriptions are all about human actions and activities":
            two or three people do different things; a box and a sentence in free words tell of one
    sports  base classes, to finetune and test on: one person acts, others only stand about
    daily   novel classes, to test on: the same before other backgrounds, with its own classes
    crowd   (--table 6) two or three people, all labelled, base and novel in one list: AVA's part

Of 24 actions the seed draws 12 as novel: no box is labelled with one. "The recognition of some
action classes relies on the perception of the global context": an action is seen more often in its
home scene. Alignment has two variants: free, whose films show all 24 actions, told mostly in other
words; and strict, whose films show no novel action.

Each printed command can be run by hand. After Ctrl-C the same command goes on.
"""

import argparse
import contextlib
import csv
import json
import math
import shlex
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

import data
import detect_actions
import detect_humans
import engine
import evaluate
import ovstad
import train_align
import train_finetune
import training
from draw import COLOURS
from video import open_video
from worlds import ACTIONS, FPS, SIZE, compose, render, write_film, write_set

STRIDE = 1                                   # of clips: four frames, a second


# ---------------------------------------------------------------- pretraining

def read_captions(path: Path) -> tuple[torch.Tensor, list[str]]:
    """Clips (n, T, 3, S, S) uint8 of a captions CSV, all in memory, and their captions."""
    clips, captions, reader = [], [], None
    with open(path, newline="") as file:
        for row in csv.DictReader(file):
            video = str(path.parent / row["video"])
            if reader is None or reader.path != video:
                reader = open_video(video)
            middle = (float(row["start"]) + float(row["end"])) / 2
            clips.append(reader.clip_at(middle, ovstad.ARCHS["toy"].frames, STRIDE))
            captions.append(row["caption"])
    return torch.from_numpy(np.stack(clips)).permute(0, 1, 4, 2, 3).contiguous(), captions


def pretrain(captions: Path, out: Path, start: Path | None, steps: int, lr: float, seed: int,
             batch_size: int = 32, save_every: int = 100) -> None:
    """ViCLIP's pretraining: AdamW on the InfoNCE of clips and captions; resumes by itself."""
    done = torch.load(out, weights_only=True) if out.exists() else {"step": 0}
    if done["step"] == steps:
        return
    print(f"\npretraining: {steps} steps on {captions} -> {out}", flush=True)
    torch.manual_seed(seed)
    model = ovstad.build_model("toy", start).train()
    if start is None:
        model.temp.data.fill_(0.07)                          # CLIP's start, and CLIP's betas
    optimizer = torch.optim.AdamW(model.parameters(), lr, (0.9, 0.98), weight_decay=0.05,
                                  fused=True)
    if done["step"]:
        model.load_state_dict(done["model"])
        optimizer.load_state_dict(done["optimizer"])
    clips, texts = read_captions(captions)
    known = sorted(set(texts))
    tokens = ovstad.trim(ovstad.tokenize(known))
    text_id = torch.tensor([known.index(text) for text in texts])
    bar = tqdm(range(done["step"], steps), initial=done["step"], total=steps,
               desc=captions.parent.name, disable=None, dynamic_ncols=True)
    for step in bar:
        rng = np.random.default_rng([seed, step])
        chosen = torch.from_numpy(rng.integers(0, len(clips), batch_size))
        video, ids = clips[chosen], text_id[chosen]
        flipped = torch.from_numpy(rng.random(batch_size) < 0.5)
        video[flipped] = video[flipped].flip(-1)
        jitter = torch.from_numpy(rng.uniform(0.8, 1.2, (batch_size, 3)).astype(np.float32))

        f_global, _ = model.encode_video(data.normalise(video, jitter))
        f_text = model.text_encoder(tokens[ids])
        # equal captions are positives of each other
        loss = ovstad.info_nce(f_global, f_text, model.temp, ids[:, None] == ids)         # Eq. (1)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = training.learning_rate(step, lr, steps // 10, steps)
        optimizer.step()
        model.clamp_temperature()
        bar.set_postfix({"loss": f"{loss.item():.3f}", "tau": f"{model.temp.item():.3f}"})
        if (step + 1) % save_every == 0 or step + 1 == steps:
            engine.save_checkpoint(out, {
                "model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1,
                "stage": "pretrain", "arch": "toy", "beta": ovstad.BETA, "prompt": ovstad.PROMPT,
                "classes": [], "base": [], "novel": [], "frames": ovstad.ARCHS["toy"].frames,
                "stride": STRIDE, "short_side": SIZE, "args": {}})


# ---------------------------------------------------------------- the stages, as their commands

# scenes of each set, and steps of each stage
FULL = {"photos": 6000, "web": 6000, "films": 2400, "train": 1500, "test": 800,
        "photos_steps": 1000, "web_steps": 400, "align_steps": 500, "finetune_steps": 400,
        "detector_steps": 400}
QUICK = {"photos": 300, "web": 300, "films": 100, "train": 100, "test": 60, "photos_steps": 20,
         "web_steps": 20, "align_steps": 15, "finetune_steps": 15, "detector_steps": 15}
PHOTOS_LR, WEB_LR, ALIGN_LR, FINETUNE_LR = 1e-3, 3e-4, 1e-3, 4e-4
TRAINING = ("--optimizer adamw --lr {lr} --tau-lr 5e-3 --warmup {warmup} --batch-size 16 "
            "--scale 48 48 --short-side 48 --stride 1 --workers 0 --save-every 100 --seed {seed}")


def split(seed: int) -> tuple[list[str], list[str]]:
    """Base and novel actions, half of all each."""
    order = np.random.default_rng(seed).permutation(sorted(ACTIONS)).tolist()
    return sorted(order[:len(order) // 2]), sorted(order[len(order) // 2:])


def run_stage(script, flags: str) -> Path:
    """Run a training script, printing the command that does the same; a finished one is kept."""
    args = script.parse_args(shlex.split(flags + " --resume"))
    last = Path(args.out) / "last.pt"
    if last.exists() and torch.load(last, "cpu", weights_only=True)["step"] == args.iterations:
        return last
    print(f"\n$ python {script.__name__}.py {flags} --resume", flush=True)
    with engine.alone(f"{args.out}/run.lock"):
        return script.train(args)


class Toy:
    """The worlds of one seed in a folder, and checkpoints that are made when first asked for."""

    def __init__(self, out: Path, seed: int, sizes: dict):
        self.out, self.seed, self.sizes, self.data = out, seed, sizes, out / "data"
        self.base, self.novel = split(seed)
        everything = self.base + self.novel
        # CSV: its actions, and which size it has; its number seeds its scenes
        self.sets = {"photos/captions": (everything, "photos"), "web/captions": (everything, "web"),
                     "films/free": (everything, "films"), "films/strict": (self.base, "films"),
                     "sports/train": (self.base, "train"), "sports/test": (self.base, "test"),
                     "daily/test": (self.novel, "test"), "crowd/train": (self.base, "train"),
                     "crowd/test": (everything, "test"), "sports-mixed/test": (self.base, "test"),
                     "daily-mixed/test": (self.novel, "test")}

    def scene(self, name: str, number: int) -> dict:
        """A scene of a set, as it was drawn for the set's films."""
        rng = np.random.default_rng([self.seed, list(self.sets).index(name), number])
        return compose(rng, name.split("/")[0], self.sets[name][0])

    def make_data(self, worlds: list[str]) -> None:
        for number, (name, (actions, size)) in enumerate(self.sets.items()):
            world = name.split("/")[0]
            if world in worlds:
                path = self.data / f"{name}.csv"
                write_set(path, world, actions, self.sizes[size], [self.seed, number])
        if "crowd" in worlds:
            (self.data / "crowd/novel.txt").write_text("\n".join(self.novel) + "\n")

    def pretrained(self) -> Path:
        start = None
        for world, lr in (("photos", PHOTOS_LR), ("web", WEB_LR)):
            out, steps = self.out / f"{world}.pt", self.sizes[f"{world}_steps"]
            pretrain(self.data / world / "captions.csv", out, start, steps, lr, self.seed)
            start = out
        return start

    def trained(self, script, lr: float, flags: str, name: str) -> Path:
        """The last checkpoint of an alignment or a finetuning."""
        warmup = min(20, self.sizes["finetune_steps"] // 2)
        recipe = TRAINING.format(lr=lr, warmup=warmup, seed=self.seed)
        return run_stage(script, f"{flags} {recipe} --out {self.out}/{name}")

    def aligned(self, films: str, fraction: float = 1.0) -> Path:
        flags = (f"--weights {self.pretrained()} --csv {self.data}/films/{films}.csv --beta 0.3 "
                 f"--fraction {fraction:g} --iterations {self.sizes['align_steps']}")
        name = f"{films}-beta0.3" + (f"-fraction{fraction:g}" if fraction < 1 else "")
        return self.trained(train_align, ALIGN_LR, flags, name)

    def finetuned(self, start: Path, beta: float = 0.3, more=0, world: str = "sports") -> Path:
        steps = self.sizes["finetune_steps"] + more
        flags = (f"--weights {start} --dataset csv --data {self.data}/{world} --freeze-text "
                 f"--beta {beta:g} --iterations {steps}")
        name = "" if world == "sports" else f"{world}-"
        name += "" if start.stem == "web" else f"{start.parent.name}-"
        name += f"finetune-beta{beta:g}" + ("-longer" if more else "")
        return self.trained(train_finetune, FINETUNE_LR, flags, name)

    def evaluated(self, checkpoint: Path, world: str, beta: float, detector=None) -> dict:
        """evaluate.py's mean APs of a checkpoint in a world; its tables go to report.txt."""
        boxes = f"{self.proposals(detector, world)} --score 0.5" if detector else "ground-truth"
        out = checkpoint.parent / f"{checkpoint.stem}-{world}{'-detected' if detector else ''}"
        betas = [0, 1] if checkpoint.stem == "web" else [beta]          # zero-shot: both at once
        command = (f"--ckpt {checkpoint} --benchmark csv --data {self.data}/{world} "
                   f"--proposals {boxes} --beta {' '.join(f'{beta:g}' for beta in betas)} "
                   f"--workers 0 --out {out}")
        if not (out / "results.json").exists():
            print(f"\n$ python evaluate.py {command}", flush=True)
            args = evaluate.parse_args(shlex.split(command))
            out.mkdir(parents=True, exist_ok=True)
            with open(out / "report.txt", "w") as report, contextlib.redirect_stdout(report):
                process = engine.start_process(args.device)
                results = evaluate.score_checkpoint(str(checkpoint), args, process)
            evaluate.write_json(out / "results.json", results)
        return json.loads((out / "results.json").read_text())[betas.index(beta)]["mean_ap"]

    def score(self, checkpoint: Path, beta: float, suffix: str = "", detector=None) -> dict:
        """{"base", "novel"}: frame mAP in percent on sports and on daily."""
        return {half: 100 * self.evaluated(checkpoint, f"{world}{suffix}", beta, detector)["all"]
                for half, world in (("base", "sports"), ("novel", "daily"))}

    def score_crowd(self, checkpoint: Path, beta: float) -> dict:
        """The same on crowd, with base and novel in one list of classes."""
        result = self.evaluated(checkpoint, "crowd", beta)
        return {half: 100 * result[half] for half in ("base", "novel")}

    def detector(self) -> Path:
        """Stage 0: a person detector, from scratch, on boxes that do not say what people do."""
        return run_stage(detect_humans, "--finetune --detector toy --detector-weights random "
                         f"--dataset csv --csv {self.data}/films/free-people.csv --warmup 10 "
                         f"--iterations {self.sizes['detector_steps']} --workers 0 "
                         f"--seed {self.seed} --out {self.out}/humans")

    def proposals(self, detector: Path, world: str) -> Path:
        path = detector.parent / f"{world}.csv"
        if not path.exists():
            flags = (f"--dataset csv --data {self.data}/{world} --split test --detector toy "
                     f"--detector-weights {detector} --workers 0 --resume --out {path}")
            print(f"\n$ python detect_humans.py {flags}", flush=True)
            detect_humans.detect(detect_humans.parse_args(shlex.split(flags)))
        return path

    def probe(self, checkpoint: Path, world: str) -> tuple[float, float]:
        """Percent of a world's clips whose action whole-clip features tell, on every second clip.

        First by a least-squares read-out fitted on the other clips, then by the zero-shot words.
        """
        model, record = ovstad.load_model(str(checkpoint))
        table = data.read_dataset("csv", str(self.data / world), "test")
        clips = data.ClipDataset(table, record["frames"], STRIDE, SIZE, model.patch)
        features, labels = [], []
        with torch.inference_mode():
            for first in range(0, len(clips), 32):
                items = [clips[k] for k in range(first, min(first + 32, len(clips)))]
                video = data.normalise(torch.stack([one["video"] for one in items]))
                features.append(model.encode_video(video)[0])
                labels += [int(one["labels"][0, 1]) for one in items]
            x, y = torch.cat(features), torch.tensor(labels)
            ones = torch.cat([torch.nn.functional.normalize(x, dim=1), torch.ones(len(x), 1)], 1)
            ridge = ones[::2].T @ ones[::2] + 1e-2 * torch.eye(ones.shape[1])
            weights = torch.linalg.solve(ridge, ones[::2].T @ torch.eye(len(table.texts))[y[::2]])
            said = (ones @ weights, model.logits(x, model.encode_classes(table.texts)))
            return tuple(100 * (one.argmax(1) == y)[1::2].float().mean().item() for one in said)


# ---------------------------------------------------------------- the rows and directions

# table of the paper: (row, our result in it, the paper's base and novel mAP)
TABLES = {
    2: [("beta 0", "beta 0", (69.31, 56.99)), ("beta 0.3", "fused", (71.93, 57.19)),
        ("beta 0.5", "beta 0.5", (70.91, 56.23)), ("beta 0.7", "beta 0.7", (70.41, 53.74)),
        ("beta 1", "local", (70.03, 45.67))],
    3: [("zero-shot, global feature", "zero global", (13.55, 26.02)),
        ("zero-shot, region feature", "zero region", (5.08, 12.52)),
        ("finetuned, local only", "local", (70.03, 45.67)),
        ("finetuned, fused", "fused", (71.93, 57.19)),
        ("finetuned, the steps of both stages", "longer", None),
        ("aligned, fused", "free", (45.06, 60.67)),
        ("aligned, finetuned, both fused", "free fused", (71.63, 61.41)),
        ("  strict films: aligned", "strict", None),
        ("  strict films: aligned, finetuned", "strict fused", None),
        ("aligned, finetuned, detected", "detected", None)],
    4: [("no alignment", "fused", (71.93, 57.19)), ("25% of films", "free 0.25", (71.04, 58.43)),
        ("50%", "free 0.5", (71.43, 60.12)), ("all", "free fused", (71.63, 61.41))],
    6: [("zero-shot, global feature", "crowd zero", (4.3, 5.3)),
        ("aligned, finetuned, both fused", "crowd free fused", (27.8, 16.6))]}
# the control: Table 3 where scenes tell nothing about actions
TABLES[0] = [(name, f"mixed {key}", None) for name, key, _ in TABLES[3][:-1]]
# what the paper finds: the second result is above the first, on one half, by more than the number
DIRECTIONS = [
    ("1 zero-shot: a region is worth less than the clip", "zero region", "zero global", "base", 0),
    ("1", "zero region", "zero global", "novel", 0),
    ("2 finetuning on base beats zero-shot", "zero global", "fused", "base", 0),
    ("2", "zero global", "fused", "novel", 0),
    ("3 finetuned: fused beats local", "local", "fused", "novel", 0),
    ("3 the same where scenes tell nothing", "mixed local", "mixed fused", "novel", 0),
    ("4 alignment beats zero-shot: no box was labelled", "zero global", "free", "novel", 0),
    ("5 alignment helps finetuning", "fused", "free fused", "novel", 0),
    ("5 and costs base no more than a point", "fused", "free fused", "base", -1),
    ("5 alignment helps finetuning of as many steps", "longer", "free fused", "novel", 0),
    ("5 and costs base no more than a point", "longer", "free fused", "base", -1),
    ("5 aligned and finetuned beats zero-shot", "zero global", "free fused", "novel", 0),
    ("- free alignment beats strict", "strict", "free", "novel", 0),
    ("- free alignment beats strict, both finetuned", "strict fused", "free fused", "novel", 0),
    ("6 Table 2: beta 1 loses to the best beta", "local", "best beta", "novel", 0),
    ("6 Table 4: all films beat a quarter of them", "free 0.25", "free fused", "novel", 0)]


def result(toy: Toy, key: str) -> dict:
    """A result by its name, {"base", "novel"} in percent; trains what it needs."""
    suffix, key = ("-mixed", key[6:]) if key.startswith("mixed ") else ("", key)
    beta, start = 0.3, toy.pretrained()
    match key.split():
        case ["zero", feature]:
            model, beta = start, {"global": 0, "region": 1}[feature]
        case ["local"]:
            model, beta = toy.finetuned(start, 1), 1
        case ["fused"]:
            model = toy.finetuned(start)
        case ["longer"]:
            model = toy.finetuned(start, more=toy.sizes["align_steps"])
        case ["beta", number]:
            model, beta = toy.finetuned(start, float(number)), float(number)
        case ["free" | "strict" as films]:
            model = toy.aligned(films)
        case ["free" | "strict" as films, "fused"]:
            model = toy.finetuned(toy.aligned(films))
        case ["free", part]:
            model = toy.finetuned(toy.aligned("free", float(part)))
        case ["detected"]:
            return toy.score(toy.finetuned(toy.aligned("free")), beta, detector=toy.detector())
        case ["crowd", "zero"]:
            return toy.score_crowd(start, 0)
        case ["crowd", "free", "fused"]:
            return toy.score_crowd(toy.finetuned(toy.aligned("free"), world="crowd"), beta)
    return toy.score(model, beta, suffix)


def print_table(number: int, runs: list[dict]) -> None:
    """A table from one dict of results a seed: means and, of several seeds, standard deviations."""
    title = f"Table {number}" if number else "Table 3 where scenes tell nothing about actions"
    print(f"\n{title} in the toy worlds, frame mAP@0.5, {len(runs)} seed{'s' * (len(runs) > 1)}\n"
          f"{'':<39}   base         novel      {'  the paper' if number else ''}")
    for name, key, paper in TABLES[number]:
        known = [run[key] for run in runs if key in run]
        if not known:
            continue
        name += f" ({len(known)} of {len(runs)})" if len(known) < len(runs) else ""
        line = f"{name:<39}"
        for half in ("base", "novel"):
            values = [one[half] for one in known]
            spread = f" ±{np.std(values, ddof=1):4.1f}" if len(values) > 1 else ""
            line += f"{np.mean(values):7.1f}{spread:<6}"
        print(line + (f"  {paper[0]:6.2f} {paper[1]:6.2f}" if paper else ""))


def print_directions(runs: list[dict]) -> None:
    """What the paper finds, as paired differences of the seeds, and in how many it shows."""
    print(f"\n{'what the paper finds':<50}{'on':<8}mean difference (least to most)  shows in")
    for sentence, low, high, half, least in DIRECTIONS:
        differences = []
        for run in runs:
            betas = [run[key][half] for _, key, _ in TABLES[2] if key in run]
            known = run | ({"best beta": {half: max(betas)}} if "beta 0" in run else {})
            if low in known and high in known:
                differences.append(known[high][half] - known[low][half])
        if differences:
            spread = f"({min(differences):+.1f} to {max(differences):+.1f})"
            print(f"{sentence:<50}{half:<8}{np.mean(differences):+6.1f} {spread:<24}"
                  f"{sum(d > least for d in differences)} of {len(differences)}")


# ---------------------------------------------------------------- pictures

def draw_plot(runs: list[dict], path: Path, scale: int = 2) -> None:
    """Base and novel mAP of every row of Table 3: each seed as a tick, their mean as a dot."""
    rows = [(name, key) for name, key, _ in TABLES[3] if all(key in run for run in runs)]
    left, width, row = 235 * scale, 330 * scale, 24 * scale
    image = Image.new("RGB", (left + width + 20 * scale, row * (len(rows) + 2)), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(13 * scale)
    most = max(run[key][half] for run in runs for _, key in rows for half in run[key])
    most = 10 * math.ceil(most / 10)
    for mark in range(0, most + 1, 10):
        x = left + width * mark / most
        draw.line((x, row, x, row * (len(rows) + 1)), (225, 225, 225), scale)
        draw.text((x, row * (len(rows) + 1.1)), str(mark), "gray", font, "ma")
    for number, half in enumerate(("base", "novel")):
        colour = COLOURS[half]
        draw.text((left + 60 * scale * number, row * 0.2), half, colour, font)
        for k, (name, key) in enumerate(rows):
            y = row * (k + 1.5) + 4 * scale * (2 * number - 1)
            values = [left + width * run[key][half] / most for run in runs]
            draw.text((left - 10 * scale, row * (k + 1.5)), name, "black", font, "rm")
            draw.line((min(values), y, max(values), y), colour, scale)
            for x in values:
                draw.line((x, y - 3 * scale, x, y + 3 * scale), colour, scale)
            draw.circle((np.mean(values), y), 3.5 * scale, colour)
    image.save(path)


def draw_sheet(toy: Toy, checkpoint: Path, path: Path, columns: int = 4, side: int = 240) -> None:
    """A contact sheet PNG of sports, daily and films, drawn larger than the model sees them.

    Each acting person has the word that is ranked first, with its score: green where that is what
    the person does, red where not; a star marks a novel action.
    """
    model, record = ovstad.load_model(str(checkpoint))
    font, gap = ImageFont.load_default(15), 6
    sheet = Image.new("RGB", (columns * (side + gap) + gap, 3 * (side + gap) + gap), "white")
    for tile in range(3 * columns):
        row, column = divmod(tile, columns)
        name = ("sports/test", "daily/test", "films/free")[row]
        scene, classes = toy.scene(name, column), toy.sets[name][0]
        video, boxes = render(scene)
        people = [k for k, who in enumerate(scene["people"]) if who["action"] != "standing"]
        boxes = boxes[people, FPS // 2]
        with torch.inference_mode():
            clip = data.normalise(torch.from_numpy(video).permute(0, 3, 1, 2)[None])
            f_text = model.encode_classes(classes)
            logits = model(clip, [torch.from_numpy(boxes)], f_text, record["beta"])       # (N, C)
        picture = Image.fromarray(render(scene | {"noise": 0}, side)[0][FPS // 2])
        draw = ImageDraw.Draw(picture)
        for n, (k, box) in enumerate(zip(people, boxes * side)):
            said = classes[int(logits[n].argmax())]
            colour = (70, 220, 90) if said == scene["people"][k]["action"] else (255, 80, 70)
            draw.rectangle(tuple(box), outline=colour, width=2)
            word = f"{said}{'*' if said in toy.novel else ''} {logits[n].max().sigmoid():.2f}"
            left = min(max(box[0], 1), side - font.getlength(word) - 4)
            top = max(box[1] - 19, 1) if n % 2 == 0 else min(box[3] + 1, side - 19)
            draw.rectangle((left, top, left + font.getlength(word) + 3, top + 18), (20, 20, 20))
            draw.text((left + 2, top), word, colour, font)
        sheet.paste(picture, (gap + column * (side + gap), gap + row * (side + gap)))
    sheet.save(path)


def show(toy: Toy) -> None:
    """The pictures: a contact sheet, and a film with what detect_actions.py says of it."""
    final, film = toy.finetuned(toy.aligned("free")), toy.out / "demo.mp4"
    draw_sheet(toy, final, toy.out / "contact_sheet.png")
    if not film.exists():                    # twice the frames a second, three seconds a scene
        scenes = [render(toy.scene("films/free", k), 240, 2 * FPS, 3)[0] for k in range(4, 10)]
        write_film(film, scenes, 2 * FPS)
    words = " ".join(shlex.quote(name) for name in toy.base + toy.novel)
    # the toy's text encoder has no words for "none of these", so that nothing can be calibrated
    flags = (f"{film} --ckpt {final} --detector toy --detector-weights {toy.detector()} "
             f"--stride {2 * STRIDE} --every 0.5 --calibration none --threshold 0.4 --top 1 "
             f"--out {toy.out}/demo --actions {words}")
    print(f"\n$ python detect_actions.py {flags}")
    detect_actions.main(shlex.split(flags))
    print(f"\nlook at {toy.out}/contact_sheet.png (a star marks a novel action) and "
          f"{toy.out}/demo\nnext, your own video: "
          'python detect_actions.py VIDEO --ckpt CHECKPOINT --actions "wave" "ride a bike"')


# ---------------------------------------------------------------- one command

PLAN = """
{out}: the paper in rendered worlds, seed {seed}.
What follows, and after how many minutes of one core:
    render the worlds                                                  {minutes[0]:>3}
    pretrain on photos and on the web   -> zero-shot                   {minutes[1]:>3}
    finetune on sports                  -> local, fused, all steps     {minutes[2]:>3}
    align with free films, finetune     -> aligned                     {minutes[3]:>3}
    align with strict films, finetune   -> aligned, strict             {minutes[4]:>3}
    detect people, of the first seed    -> detected boxes, pictures    {minutes[5]:>3}
Base actions:  {base}
Novel actions: {novel}
Ctrl-C at any time: the same command goes on from there."""
MINUTES = [1, 7, 12, 14, 17, 18]


def print_sentences(toy: Toy) -> None:
    """How many sentences of the free films say what a novel class is, and how."""
    with open(toy.data / "films/free.csv", newline="") as file:
        texts = [row["text"] for row in csv.DictReader(file)]
    others = tuple(word for action in toy.novel for word in ACTIONS[action][2])
    own, other = (sum(text.endswith(ends) for text in texts) for ends in (tuple(toy.novel), others))
    print(f"{own + other:,} of {len(texts):,} sentences of the free films tell of a novel action, "
          f"{own:,} in its class's words, the others as in {others[0]!r}; of the strict films none")


def probes(toy: Toy) -> dict:
    """What the pretrained model knows of the actions of both worlds, printed."""
    found = {}
    for world in ("sports", "daily"):
        for stage in ("photos", "web"):
            linear, said = toy.probe(toy.out / f"{stage}.pt", world)
            found[f"{world} after {stage}"] = linear, said
            print(f"probe of {world} after {stage}, 12 actions from whole clips: a linear read-out "
                  f"is right in {linear:.0f}%, the zero-shot words in {said:.0f}%")
    return found


def run_seed(toy: Toy, tables: list[int], is_first: bool) -> dict:
    """All results of a seed that the tables need; a table is shown again with each new row."""
    toy.make_data(["photos", "web", "films", "sports", "daily"] + ["crowd"] * (6 in tables)
                  + ["sports-mixed", "daily-mixed"] * (0 in tables))
    print_sentences(toy)
    run = {}
    for number in tables:
        for _, key, _ in TABLES[number]:
            if key not in run and (is_first or key != "detected"):
                run[key] = result(toy, key)
                print_table(number, [run])
            if key == "zero region":
                run["probes"] = probes(toy)
    evaluate.write_json(toy.out / "rows.json", run)
    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=engine.HelpFormatter)
    add = parser.add_argument
    add("--out", type=Path, default=Path("runs/toy"), help="folder of everything that is made")
    add("--seed", type=int, default=0, help="of the worlds, the novel actions and every stage")
    add("--seeds", type=engine.positive, default=1,
        help="run that many, from --seed on, and sum them up: each takes as long as the first")
    add("--quick", action="store_true",
        help="tiny worlds and a few steps, for the plumbing: 2 minutes; its numbers mean nothing")
    add("--table", type=int, choices=[0, 2, 4, 6], nargs="+", default=[],
        help="also the paper's Table 2, the fusion ratio; 4, the alignment data; 6, the crowd; "
             "and 0, the control of Table 3 without home scenes")
    args = parser.parse_args()
    if shlex.quote(str(args.out)) != str(args.out):
        raise ValueError(f"--out {args.out}: give a path without spaces and shell characters")
    sizes, runs, tables = QUICK if args.quick else FULL, [], [3, *args.table]
    for seed in range(args.seed, args.seed + args.seeds):
        started, toy = time.perf_counter(), Toy(args.out / f"seed{seed}", seed, sizes)
        toy.out.mkdir(parents=True, exist_ok=True)
        settings, kept = json.dumps(sizes), toy.out / "toy.json"
        if kept.exists() and kept.read_text() != settings:
            raise ValueError(f"{toy.out}: holds a toy of other settings; choose another --out")
        kept.write_text(settings)
        print(PLAN.format(out=toy.out, seed=seed, minutes=["<1"] * 6 if args.quick else MINUTES,
                          base=", ".join(toy.base), novel=", ".join(toy.novel)), flush=True)
        runs.append(run_seed(toy, tables, seed == args.seed))
        if seed == args.seed:
            show(toy)
        print(f"\nseed {seed}: {(time.perf_counter() - started) / 60:.1f} minutes", flush=True)
    for number in tables:
        print_table(number, runs)
    print_directions(runs)
    draw_plot(runs, args.out / "rows.png")
    print(f"\nTable 3 as a picture: {args.out}/rows.png")
    if args.quick:
        print("--quick tries the plumbing: these numbers mean nothing")


if __name__ == "__main__":
    engine.cli(main)
