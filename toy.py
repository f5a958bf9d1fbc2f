"""The whole paper in minutes on a laptop: a rendered world on disk, and every stage run on it.

    python toy.py              # minutes on a laptop's CPU; --quick: 2 minutes, for the plumbing alone

The world: films of stick people on changing backgrounds. Each person does one of 12 actions that only
pose and motion tell apart; 3 of them are novel: no stage trains on a box labelled with them. Up to three
people share a scene. In three scenes of ten they all do the same, as in a class of sport; else each does
something different, and a clip's global feature cannot say who does what.

The stages are those of Figure 2, run by the functions that the scripts run:
    pretrain    a toy ViCLIP by InfoNCE (Eq. 1) on clips and captions: all 12 actions, no boxes
    stage 0     a small person detector, from scratch, on boxes of people that do not say what they do
    stage 1     train_align.py on box-sentence pairs of the base actions
    stage 2     train_finetune.py on boxes labelled with the base actions
    evaluate    frame mAP on base and novel actions: the rows of Table 3
and detect_actions.py names the actions in a film. Everything lies in the formats of the real datasets,
so each printed command can be run again by hand.
"""

import argparse
import contextlib
import csv
import json
import math
import shlex
import time
from itertools import islice
from pathlib import Path

import av
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
from video import open_video

BASE = ["waving", "clapping", "kicking", "squatting", "bowing", "walking", "raising both arms", "running",
        "spinning"]
NOVEL = ["jumping", "lying down", "punching"]
# pixels a side; frames a second; frames a scene: one second; clip stride
SIZE, FPS, SCENE, STRIDE = 48, 8, 8, 2
TOGETHER = 0.3                               # the chance that all people of a scene do the same


# ---------------------------------------------------------------- the world

COLOURS = {"red": (255, 90, 80), "blue": (90, 150, 255), "green": (90, 230, 110), "yellow": (250, 225, 80),
           "purple": (210, 120, 250), "orange": (255, 165, 60), "white": (245, 245, 245), "pink": (255, 160, 200)}


def pose(action: str, phase: float) -> dict:
    """A person's pose at a phase of the action, in [0, 1).

    Arms and legs are (angle of the upper half, bend of the lower) in degrees from straight down, forwards
    positive; lean and roll turn the torso and the whole body; lift and crouch move it; turn -1..1 turns it
    about the vertical; move is its speed.
    """
    s, c = math.sin(2 * math.pi * phase), math.cos(2 * math.pi * phase)
    up = (1 - c) / 2                                         # 0, up to 1, back to 0
    still = {"lean": 0, "lift": 0, "crouch": 0, "turn": 1, "roll": 0, "move": 0,
             "arms": [(-12, 0), (12, 0)], "legs": [(-8, 0), (8, 0)]}
    return still | {
        "waving": {"arms": [(-12, 0), (150, 45 * s)]},
        "clapping": {"arms": [(-35 - 35 * c, 80 + 35 * c), (35 + 35 * c, -80 - 35 * c)]},
        "kicking": {"legs": [(-8, 0), (95 * up, -20 * (1 - up))], "lean": -12 * up},
        "squatting": {"crouch": up},
        "bowing": {"lean": 85 * up},
        "walking": {"legs": [(28 * s, -10), (-28 * s, -10)], "arms": [(-25 * s, 0), (25 * s, 0)], "move": 1},
        "raising both arms": {"arms": [(-20 - 150 * up, 0), (20 + 150 * up, 0)]},
        "running": {"legs": [(55 * s, -60), (-55 * s, -60)], "arms": [(-60 * s, 80), (60 * s, 80)],
                    "lean": 18, "lift": 0.06 * abs(c), "move": 2.2},
        "spinning": {"turn": c, "arms": [(-90, 0), (90, 0)]},
        "jumping": {"lift": 0.38 * up, "arms": [(-12 - 40 * up, 0), (12 + 40 * up, 0)]},
        "lying down": {"roll": 90},
        "punching": {"arms": [(30, 110), (90, 0) if up > 0.5 else (40 + 100 * up, 100 - 200 * up)]},
    }[action]


def joints(action: str, phase: float, x: float, y: float, height: float, face: int) -> tuple[dict, float]:
    """Pixel places of a person's joints, standing at (x, y), and the head's radius."""
    p = pose(action, phase)
    leg, torso, arm, head = 0.46 * height, 0.32 * height, 0.36 * height, 0.105 * height

    def limb(start, length, angle, bend):
        first, second = math.radians(angle), math.radians(angle + bend)
        middle = start + length / 2 * np.array([math.sin(first), math.cos(first)])
        return middle, middle + length / 2 * np.array([math.sin(second), math.cos(second)])

    hip = np.array([0.0, -leg * (1 - 0.55 * p["crouch"])])
    lean = math.radians(p["lean"])
    upwards = np.array([math.sin(lean), -math.cos(lean)])
    body = {"hip": hip, "neck": hip + torso * upwards, "head": hip + (torso + 1.2 * head) * upwards}
    for side, sign in ((0, -1), (1, 1)):
        angle, bend = p["arms"][side]
        body[f"elbow{side}"], body[f"hand{side}"] = limb(body["neck"], arm, angle + 0.6 * p["lean"], bend)
        angle, bend = p["legs"][side]
        crouch = sign * p["crouch"]
        body[f"knee{side}"], body[f"foot{side}"] = limb(hip, leg, angle + 70 * crouch, bend - 140 * crouch)
    if p["roll"]:
        body = {name: np.array([-v[1] - height / 2, v[0] - 0.06 * height]) for name, v in body.items()}
    shift = np.array([x, y - p["lift"] * height])
    return {name: v * np.array([face * p["turn"], 1]) + shift for name, v in body.items()}, head


def draw_scene(rng: np.random.Generator, actions: list[str], frames: int = SCENE, size: int = SIZE):
    """Render one scene.

    -> frames (F, S, S, 3) uint8, boxes (people, F, 4) xyxy in [0, 1], and the people's colours
    """
    S, n = 2 * size, len(actions)                            # drawn at twice the size, then averaged
    base = np.clip(rng.integers(25, 95) + rng.integers(-25, 25, 3), 0, 255)
    slope = np.linspace(0, 1, S)[:, None, None] * rng.integers(-25, 25)
    background = Image.fromarray((np.clip(base + slope, 0, 255) * np.ones((S, S, 1))).astype(np.uint8))
    draw = ImageDraw.Draw(background)
    for _ in range(rng.integers(1, 5)):
        (x, y), (w, h) = rng.integers(0, S, 2), rng.integers(S // 10, S // 2, 2)
        shape = draw.rectangle if rng.random() < 0.5 else draw.ellipse
        shape([x, y, x + w, y + h], fill=tuple(np.clip(base + rng.integers(-25, 25, 3), 0, 255).tolist()))

    places = rng.permutation((np.arange(n) + 0.5) / n + rng.uniform(-0.06, 0.06, n))
    people = [{"action": action, "x": S * place, "y": S * rng.uniform(0.8, 0.97),
               "height": S * rng.uniform(0.62, 0.78) * (0.9 if n == 3 else 1), "face": int(rng.choice([-1, 1])),
               "phase": rng.random(), "period": rng.uniform(7, 10), "thick": rng.uniform(0.07, 0.10),
               "colour": str(rng.choice(list(COLOURS))),
               "skin": tuple(rng.integers([170, 120, 90], [250, 200, 160]).tolist())}
              for action, place in zip(actions, places)]

    video, boxes = np.empty((frames, size, size, 3), np.uint8), np.zeros((n, frames, 4), np.float32)
    for f in range(frames):
        image = background.copy()
        draw = ImageDraw.Draw(image)
        for k, who in enumerate(people):
            step = pose(who["action"], 0)["move"] * 0.022 * who["height"] * who["face"] * (f - frames // 2)
            body, head = joints(who["action"], (who["phase"] + f / who["period"]) % 1, who["x"] + step, who["y"],
                                who["height"], who["face"])
            width = max(round(who["thick"] * who["height"]), 2)
            near = COLOURS[who["colour"]]
            far = tuple(int(0.7 * v) for v in near)

            def line(colour, *names, width=width):
                draw.line([tuple(body[name]) for name in names], fill=colour, width=width, joint="curve")

            line(far, "neck", "elbow0", "hand0")
            line(far, "hip", "knee0", "foot0")
            line(near, "hip", "neck", width=round(1.8 * width))
            line(near, "hip", "knee1", "foot1")
            line(near, "neck", "elbow1", "hand1")
            draw.ellipse([*(body["head"] - head), *(body["head"] + head)], fill=who["skin"])
            points = np.array([*body.values(), body["head"] - head, body["head"] + head])
            boxes[k, f] = np.clip([*(points.min(0) - width / 2) / S, *(points.max(0) + width / 2) / S], 0, 1)
        video[f] = np.asarray(image.resize((size, size), Image.Resampling.BOX))
    return video, boxes, [who["colour"] for who in people]


def write_film(path: Path, scenes: list[np.ndarray]) -> None:
    """One H.264 file of many scenes, a key frame at each cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": "15", "preset": "veryfast", "bf": "0"})
        stream.width = stream.height = scenes[0].shape[1]
        stream.pix_fmt, stream.codec_context.gop_size = "yuv420p", SCENE
        for frame in (frame for scene in scenes for frame in scene):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def caption(actions: list[str], colours: list[str], rng: np.random.Generator) -> str:
    """What a web video's text would say: everybody, in any order, rarely by colour, and nobody's place."""
    people = [f"a {colour} person {action}" if rng.random() < 0.2 else f"a person {action}"
              for action, colour in zip(actions, colours)]
    return " and ".join(rng.permutation(people))


def write_set(folder: Path, name: str, scenes: int, people: list[float], actions: list[str],
              seed: int | list[int], together: float = TOGETHER) -> None:
    """Films FOLDER/NAME/*.mp4 of a minute each; captions NAME_captions.csv and boxes NAME.csv.

    people: chances of one, two and three people in a scene; together: that all do the same.
    Captions: video,start,end,caption. Boxes: the annotations CSV, at the middle of each scene.
    """
    rng = np.random.default_rng(seed)
    captions, rows, film = [], [], []
    for scene in tqdm(range(scenes), desc=f"render {name}", leave=False, disable=None, dynamic_ncols=True):
        chosen = rng.choice(actions, rng.choice([1, 2, 3], p=people), replace=False).tolist()
        chosen = [chosen[0]] * len(chosen) if together and rng.random() < together else chosen
        frames, boxes, colours = draw_scene(rng, chosen)
        second, video = scene % 60, f"{name}/{scene // 60:04d}.mp4"
        film.append(frames)
        if second == 59 or scene == scenes - 1:
            write_film(folder / video, film)
            film = []
        captions.append([video, second, second + 1, caption(chosen, colours, rng)])
        rows += [[video, second + 0.5, *(f"{v:.4f}" for v in box[SCENE // 2]), action, k]
                 for k, (action, box) in enumerate(zip(chosen, boxes))]
    for suffix, header, table in (("_captions", "video,start,end,caption", captions),
                                  ("", "video,keyframe,x1,y1,x2,y2,text,person", rows)):
        with open(folder / f"{name}{suffix}.csv", "w", newline="") as file:
            csv.writer(file).writerows([header.split(","), *table])


# ---------------------------------------------------------------- pretraining

def read_captions(folder: Path, name: str) -> tuple[torch.Tensor, list[str]]:
    """Clips (n, T, 3, S, S) uint8 of a captions CSV, all in memory, and their captions."""
    frames, clips, captions, reader = ovstad.ARCHS["toy"].frames, [], [], None
    with open(folder / f"{name}_captions.csv", newline="") as file:
        for row in csv.DictReader(file):
            path = str(folder / row["video"])
            if reader is None or reader.path != path:
                reader = open_video(path)
            clips.append(reader.clip_at((float(row["start"]) + float(row["end"])) / 2, frames, STRIDE))
            captions.append(row["caption"])
    return torch.from_numpy(np.stack(clips)).permute(0, 1, 4, 2, 3).contiguous(), captions


def same_actions(captions: list[str]) -> torch.Tensor:
    """(B, B) bool: captions that say the same are positives of each other.

    They may differ in who is named first and in what colour.
    """
    said = [frozenset(part.split(" person ")[1] for part in caption.split(" and ")) for caption in captions]
    return torch.tensor([[a == b for b in said] for a in said])


def pretrain(folder: Path, out: Path, steps: int, seed: int, batch_size: int = 64, lr: float = 2e-3) -> None:
    """ViCLIP's pretraining in miniature: AdamW on the InfoNCE of whole clips and captions."""
    torch.manual_seed(seed)
    rng = np.random.default_rng([seed, 1])
    clips, captions = read_captions(folder, "pretrain")
    model = ovstad.ViCLIP("toy").train()
    model.temp.data.fill_(0.07)                              # CLIP's start; ViCLIP starts from a trained CLIP
    optimizer = torch.optim.AdamW(model.parameters(), lr, weight_decay=0.05, fused=True)
    bar = tqdm(range(steps), desc="pretrain", disable=None, dynamic_ncols=True)
    for step in bar:
        chosen = rng.integers(0, len(clips), batch_size)
        video = clips[chosen]
        flipped = torch.from_numpy(rng.random(batch_size) < 0.5)
        video[flipped] = video[flipped].flip(-1)
        video = data.normalise(video, torch.from_numpy(rng.uniform(0.7, 1.3, (batch_size, 3)).astype(np.float32)))
        texts = [captions[i] for i in chosen]

        f_global, _ = model.encode_video(video)
        loss = ovstad.info_nce(f_global, model.encode_text(texts), model.temp, same_actions(texts))     # Eq. (1)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = engine.learning_rate(step, lr, steps // 10, steps)
        optimizer.step()
        model.clamp_temperature()
        bar.set_postfix({"loss": f"{loss.item():.3f}", "tau": f"{model.temp.item():.3f}"})
    engine.save_checkpoint(out, {
        "model": model.state_dict(), "step": steps, "stage": "pretrain", "arch": "toy", "beta": ovstad.BETA,
        "prompt": ovstad.PROMPT, "classes": [], "base": [], "novel": [], "frames": ovstad.ARCHS["toy"].frames,
        "stride": STRIDE, "short_side": SIZE, "args": {"dataset": "csv", "data": str(folder)}})


# ---------------------------------------------------------------- the stages, as their commands

def run_stage(script, flags: str) -> Path:
    """Run a training script on the toy, printing the command that does the same.

    A finished one is not run again.
    """
    args = script.parse_args(shlex.split(flags + " --resume"))
    checkpoint = Path(args.out) / "last.pt"
    if (checkpoint.exists()
            and torch.load(checkpoint, map_location="cpu", weights_only=True)["step"] == args.iterations):
        return checkpoint
    print(f"\n$ python {script.__name__}.py {flags} --resume", flush=True)
    return script.train(args)


def mean_aps(checkpoint: Path, betas: list[float], boxes: str = "--proposals ground-truth",
             name: str = "eval") -> list[dict]:
    """{"base", "novel", "all"} of a checkpoint for each beta.

    evaluate.py's tables go to NAME/report.txt beside it.
    """
    out = checkpoint.parent / (name if checkpoint.stem == "last" else f"{name}-{checkpoint.stem}")
    data_folder = (checkpoint.parent / "data" if checkpoint.stem == "pretrained"
                   else checkpoint.parent.parent / "data")
    command = (f"--ckpt {checkpoint} --benchmark csv --data {data_folder} {boxes} "
               f"--beta {' '.join(map(str, betas))} --workers 1 --out {out}")
    print(f"\n$ python evaluate.py {command}", flush=True)
    args = evaluate.parse_args(shlex.split(command))
    out.mkdir(parents=True, exist_ok=True)
    with open(out / "report.txt", "w") as report, contextlib.redirect_stdout(report):
        results = evaluate.score_checkpoint(str(checkpoint), args, engine.start_process(args.device))
    evaluate.write_json(out / "results.json", results)
    return [result["mean_ap"] for result in results]


def draw_sheet(folder: Path, checkpoint: Path, path: Path, count: int = 12, zoom: int = 5) -> None:
    """A contact sheet PNG of test keyframes: each annotated person with the word that the checkpoint ranks first.

    Green where that is what the person does, red where not; a novel action is marked with a star.
    """
    truth = data.read_dataset("csv", str(folder), "test")
    model, record = ovstad.load_model(str(checkpoint))
    clips = data.ClipDataset(truth, record["frames"], record["stride"], SIZE, model.patch)
    side, font = SIZE * zoom, ImageFont.load_default(15)
    sheet = Image.new("RGB", (4 * (side + 6) + 6, (count + 3) // 4 * (side + 6) + 6), "white")
    with torch.inference_mode():
        f_text = model.encode_text([record["prompt"].replace("{}", name) for name in truth.texts])
        for k in range(count):
            item = clips[k * len(clips) // count]
            video = data.normalise(item["video"][None])
            logits = model(video, [item["boxes"]], f_text, record["beta"])                   # (N, C)
            frame = item["video"][len(item["video"]) // 2].permute(1, 2, 0).numpy()
            tile = Image.fromarray(frame).resize((side, side), Image.Resampling.BICUBIC)
            draw = ImageDraw.Draw(tile)
            true = dict(item["labels"].tolist())
            for n, box in enumerate((item["boxes"] * side).tolist()):
                said = int(logits[n].argmax())
                colour = (70, 220, 90) if said == true[n] else (255, 80, 70)
                draw.rectangle(box, outline=colour, width=2)
                word = truth.texts[said] + ("*" if truth.texts[said] in NOVEL else "")
                left = min(max(box[0], 1), side - font.getlength(word) - 4)
                top = max(box[1] - 19, 1) if n % 2 == 0 else min(box[3] + 1, side - 19)
                draw.rectangle((left, top, left + font.getlength(word) + 3, top + 18), fill=(20, 20, 20))
                draw.text((left + 2, top), word, colour, font)
            sheet.paste(tile, (6 + k % 4 * (side + 6), 6 + k // 4 * (side + 6)))
    sheet.save(path)


def write_demo(path: Path, seed: int, scenes: int = 6, seconds: int = 3) -> None:
    """A larger film for detect_actions.py: two people a scene, who by turns do the same and different things."""
    rng = np.random.default_rng(seed)
    actions = [[NOVEL[k // 2 % len(NOVEL)], NOVEL[k // 2 % len(NOVEL)] if k % 2 == 0 else str(rng.choice(BASE))]
               for k in range(scenes)]
    write_film(path, [draw_scene(rng, pair, seconds * FPS, size=240)[0] for pair in actions])


# ---------------------------------------------------------------- the paper's tables on the toy

# scenes of each set, and steps of each stage
FULL = {"pretrain_scenes": 8000, "people": 3000, "align_scenes": 1500, "train_scenes": 1000, "test_scenes": 400,
        "pretrain_steps": 1200, "align_steps": 400, "finetune_steps": 400, "detector_steps": 600}
QUICK = {"pretrain_scenes": 600, "people": 300, "align_scenes": 120, "train_scenes": 120, "test_scenes": 60,
         "pretrain_steps": 40, "align_steps": 15, "finetune_steps": 15, "detector_steps": 15}
TRAINING = ("--optimizer adamw --lr 5e-4 --warmup 20 --batch-size 32 --scale 48 54 --short-side 48 --stride 2 "
            "--workers 1 --save-every 50")


class Toy:
    """The toy world under one folder: its data, and checkpoints that are made when they are first asked for."""

    def __init__(self, out: Path, seed: int, sizes: dict):
        self.out, self.seed, self.sizes, self.data = out, seed, sizes, out / "data"

    def make_data(self) -> None:
        """Render the four sets.

        Captions tell all actions, boxes are labelled with base actions, tests have all.
        """
        everything = BASE + NOVEL
        for number, (name, people, actions) in enumerate([
                ("pretrain", [0.6, 0.25, 0.15], everything), ("align", [0.2, 0.4, 0.4], BASE),
                ("train", [0.2, 0.4, 0.4], BASE), ("test", [0, 0.5, 0.5], everything)]):
            if not (self.data / f"{name}.csv").exists():
                write_set(self.data, name, self.sizes[f"{name}_scenes"], people, actions, [self.seed, number])
        (self.data / "novel.txt").write_text("\n".join(NOVEL) + "\n")
        with open(self.data / "pretrain.csv") as boxes, open(self.data / "people.csv", "w") as people:
            # as COCO has them: all poses, no actions
            for row in islice(csv.reader(boxes), 1, 1 + self.sizes["people"]):
                people.write(",".join(row[:6]) + ",person\n")
        if not (self.data / "demo.mp4").exists():
            write_demo(self.data / "demo.mp4", self.seed)

    def pretrained(self) -> Path:
        path = self.out / "pretrained.pt"
        if not path.exists():
            pretrain(self.data, path, self.sizes["pretrain_steps"], self.seed)
        return path

    def aligned(self, beta: float, fraction: float = 1.0) -> Path:
        name = f"align-beta{beta:g}" + (f"-fraction{fraction:g}" if fraction < 1 else "")
        return run_stage(train_align, f"--weights {self.pretrained()} --csv {self.data}/align.csv "
                         f"--beta {beta} --fraction {fraction} --iterations {self.sizes['align_steps']} "
                         f"--seed {self.seed} {TRAINING} --out {self.out}/{name}")

    def finetuned(self, start: Path, beta: float) -> Path:
        name = "" if start.stem == "pretrained" else f"{start.parent.name}-"
        return run_stage(train_finetune, f"--weights {start} --dataset csv --data {self.data} "
                         f"--freeze-text --beta {beta} --iterations {self.sizes['finetune_steps']} "
                         f"--seed {self.seed} {TRAINING} --out {self.out}/{name}finetune-beta{beta:g}")

    def detected(self) -> Path:
        """Stage 0: proposals on the test keyframes by a detector that was trained on people without labels."""
        detector = run_stage(detect_humans, f"--finetune --detector toy --detector-weights random --dataset csv "
                             f"--csv {self.data}/people.csv --iterations {self.sizes['detector_steps']} "
                             f"--warmup 20 --workers 1 --seed {self.seed} --out {self.out}/humans")
        proposals = self.out / "humans" / "proposals.csv"
        if not proposals.exists():
            flags = (f"--dataset csv --data {self.data} --split test --detector toy "
                     f"--detector-weights {detector} --workers 1 --out {proposals}")
            print(f"\n$ python detect_humans.py {flags}")
            detect_humans.detect(detect_humans.parse_args(shlex.split(flags)))
        return proposals


def table_2(toy: Toy) -> list[tuple]:
    """The fusion ratio, without alignment: rows of (name, ours, the paper's base and novel)."""
    paper = {0: (69.31, 56.99), 0.1: (71.48, 57.01), 0.3: (71.93, 57.19), 0.5: (70.91, 56.23), 0.7: (70.41, 53.74),
             0.9: (69.64, 48.79), 1: (70.03, 45.67)}
    return [(f"beta {beta:g}", mean_aps(toy.finetuned(toy.pretrained(), beta), [beta])[0], numbers)
            for beta, numbers in paper.items()]


def table_3(toy: Toy, whole: bool = True) -> list[tuple]:
    """The training process; not whole: without the two rows that finetune a locally aligned model."""
    start = toy.pretrained()
    zero_shot = mean_aps(start, [0, 1])
    rows = [("zero-shot, global feature", zero_shot[0], (13.55, 26.02)),
            ("zero-shot, region feature", zero_shot[1], (5.08, 12.52)),
            ("finetuned, local only", mean_aps(toy.finetuned(start, 1), [1])[0], (70.03, 45.67)),
            ("finetuned, fused", mean_aps(toy.finetuned(start, 0.3), [0.3])[0], (71.93, 57.19))]
    local = toy.aligned(1)
    rows += [("aligned, local only", mean_aps(local, [1])[0], (32.47, 50.46)),
             ("aligned, fused", mean_aps(toy.aligned(0.3), [0.3])[0], (45.06, 60.67))]
    if whole:
        rows += [("aligned local, finetuned local", mean_aps(toy.finetuned(local, 1), [1])[0], (71.62, 54.88)),
                 ("aligned local, finetuned fused", mean_aps(toy.finetuned(local, 0.3), [0.3])[0], (71.86, 60.81))]
    final = toy.finetuned(toy.aligned(0.3), 0.3)
    return rows + [("aligned fused, finetuned fused", mean_aps(final, [0.3])[0], (71.63, 61.41)),
                   ("the same on detected boxes",
                    mean_aps(final, [0.3], f"--proposals {toy.detected()} --score 0.5", "detected")[0], None)]


def table_4(toy: Toy) -> list[tuple]:
    """The amount of alignment data."""
    paper = {0.25: (71.04, 58.43), 0.5: (71.43, 60.12), 0.75: (71.65, 60.98), 1: (71.63, 61.41)}
    rows = [("no alignment", mean_aps(toy.finetuned(toy.pretrained(), 0.3), [0.3])[0], (71.93, 57.19))]
    return rows + [(f"{fraction:.0%} of the pairs",
                    mean_aps(toy.finetuned(toy.aligned(0.3, fraction), 0.3), [0.3])[0], numbers)
                   for fraction, numbers in paper.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=engine.HelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/toy"), help="folder of everything that is made")
    parser.add_argument("--seed", type=int, default=0, help="of the world and of every stage")
    parser.add_argument("--quick", action="store_true",
                        help="a tiny world and a few steps: the plumbing in 2 minutes")
    parser.add_argument("--table", type=int, choices=[2, 3, 4],
                        help="a whole table of the paper: 2, the fusion ratio; 3, the training process; "
                             "4, the alignment data. By default the main rows of 3, and pictures")
    args = parser.parse_args()
    if shlex.quote(str(args.out)) != str(args.out):
        raise ValueError(f"--out {args.out}: give a path without spaces and shell characters")
    sizes, started = QUICK if args.quick else FULL, time.perf_counter()
    args.out.mkdir(parents=True, exist_ok=True)
    settings, kept = json.dumps({"seed": args.seed, **sizes}), args.out / "toy.json"
    if kept.exists() and kept.read_text() != settings:
        raise ValueError(f"{args.out}: holds a toy world of other settings; choose another --out, or delete it")
    kept.write_text(settings)

    toy = Toy(args.out, args.seed, sizes)
    toy.make_data()
    number = args.table or 3
    rows = table_3(toy, whole=False) if args.table is None else {2: table_2, 3: table_3, 4: table_4}[number](toy)

    print(f"\nTable {number} on the toy world, frame mAP@0.5 (seed {args.seed})            "
          "the paper's, on UCF-JHMDB")
    print(f"{'':<34}{'base':>8}{'novel':>8}          {'base':>8}{'novel':>8}")
    for name, ours, paper in rows:
        print(f"{name:<34}{100 * ours['base']:>8.1f}{100 * ours['novel']:>8.1f}          "
              + ("" if paper is None else f"{paper[0]:>8.2f}{paper[1]:>8.2f}"))
    evaluate.write_json(args.out / f"table{number}.json",
                        {"seed": args.seed, "rows": [{"name": name, **ours} for name, ours, _ in rows]})
    if args.table is None:
        show(toy)
    print(f"\n{time.perf_counter() - started:.0f} s in all")


def show(toy: Toy) -> None:
    """The pictures: a contact sheet of the test set, and a film with what detect_actions.py says of it."""
    final = toy.out / "align-beta0.3-finetune-beta0.3" / "last.pt"
    draw_sheet(toy.data, final, toy.out / "contact_sheet.png")
    words = " ".join(shlex.quote(name) for name in BASE + NOVEL)
    # the toy's text encoder knows no words for "none of these", so that nothing can be calibrated against them
    flags = (f"{toy.data}/demo.mp4 --ckpt {final} --detector toy --detector-weights {toy.out}/humans/last.pt "
             f"--every 0.5 --calibration none --threshold 0.4 --top 1 --out {toy.out}/demo --actions {words}")
    print(f"\n$ python detect_actions.py {flags}")
    detect_actions.main(shlex.split(flags))
    print(f"\nlook at {toy.out}/contact_sheet.png (a star marks a novel action) and {toy.out}/demo/demo.mp4\n"
          "next, your own video: "
          f"python detect_actions.py VIDEO --ckpt CHECKPOINT --actions \"wave\" \"ride a bike\"\n"
          f"or another table: python toy.py --table 2")


if __name__ == "__main__":
    engine.cli(main)
