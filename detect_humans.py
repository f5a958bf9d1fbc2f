"""Stage 0: finds the people on keyframes, whose boxes all other stages stand on.

Reads the keyframes of any dataset, or plain videos, and writes a proposals CSV: every box that may
be a person, with its score. The threshold is chosen where the file is used (--score: 0.3 for
UCF-JHMDB, 0.8 for AVA, Section 4.1). The detectors are torchvision's, trained on COCO. The paper
finetunes its detector (DINO) on the annotated frames of UCF101-24; --finetune does so with any of
these, on the training boxes of any dataset.

    torchrun --nproc_per_node 8 detect_humans.py --finetune --dataset ucf101-24 --out runs/humans
    python detect_humans.py --dataset ucf101-24 --detector-weights runs/humans/last.pt --out P.csv
    (the same with --split train --out T.csv: for train_finetune.py --proposals T.csv)
    python detect_humans.py film.mp4 --every 1 --out film.csv
    python detect_humans.py --dataset ava --measure P.csv       # any detector's boxes

Detection writes the same file with any number of processes, and an interrupted run goes on with
--resume. Finetuning on several processes equals one process for FCOS, RetinaNet and the toy's
detector; Faster R-CNN draws training samples at random in each process, which changes results.
"""

import argparse
import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.detection import FCOS
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.fcos import FCOSHead
from tqdm import tqdm

import data
import engine
import ovstad
import training
from formats.proposals import checked_proposals, write_proposals
from metric import box_report
from stream import LEAP
from table import Annotations, Detections, make_annotations
from video import open_video

DEFAULT = "fasterrcnn_resnet50_fpn_v2"
# optimiser and learning rate of torchvision's recipe, for 16 frames per step; the toy's: ours
RECIPES = {DEFAULT: ("sgd", 0.02), "fasterrcnn_mobilenet_v3_large_fpn": ("sgd", 0.02),
           "fasterrcnn_mobilenet_v3_large_320_fpn": ("sgd", 0.02),
           "retinanet_resnet50_fpn_v2": ("sgd", 0.01), "fcos_resnet50_fpn": ("sgd", 0.01),
           "toy": ("adamw", 2e-3)}
COCO_CLASSES = 91
PERSON = 1                           # COCO's label, and that of two classes, where 0 is background
LOW_SCORE = 0.05                     # boxes below are not kept
SCORES = (LOW_SCORE, 0.3, 0.5, 0.8)  # thresholds that are measured; Section 4.1 has 0.3 and 0.8


# ---------------------------------------------------------------- the detector

def toy_detector(classes: int, channels: int = 64) -> FCOS:
    """FCOS on a few convolutions, for people of 12 pixels and more on frames of 48 to 96."""
    def layer(enter: int, leave: int, stride: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(enter, leave, 3, stride, 1, bias=False),
                             nn.GroupNorm(8, leave), nn.ReLU())

    backbone = nn.Sequential(layer(3, 16, 2), layer(16, 32, 2), layer(32, channels, 2),
                             layer(channels, channels, 1), layer(channels, channels, 1))
    backbone.out_channels = channels
    head = FCOSHead(channels, 1, classes, num_convs=1)
    # distances to a box's sides go through a ReLU, which may die at a bias of 0 but not of 1
    nn.init.ones_(head.regression_head.bbox_reg.bias)
    cells = AnchorGenerator(((8,),), ((1.0,),))              # of 8 x 8 pixels
    return FCOS(backbone, classes, min_size=96, max_size=192, anchor_generator=cells, head=head,
                detections_per_img=20)


def new_detector(name: str, classes: int) -> nn.Module:
    """A detector without its weights. It answers with every box of score LOW_SCORE or more."""
    if name not in RECIPES:
        raise ValueError(f"there is no detector {name!r}; choose among {', '.join(RECIPES)}")
    if name == "toy":
        detector = toy_detector(classes)
    else:
        detector = torchvision.models.get_model(name, weights=None, weights_backbone=None,
                                                num_classes=classes)
    (detector.roi_heads if hasattr(detector, "roi_heads") else detector).score_thresh = LOW_SCORE
    detector.name, detector.classes = name, classes
    return detector


def coco_weights(name: str) -> dict[str, Tensor]:
    if name == "toy":
        raise ValueError("the toy detector has no COCO weights; give --detector-weights FILE, "
                         "of a finetuning from 'random'")
    entry = torchvision.models.get_model_weights(name).DEFAULT
    try:
        return entry.get_state_dict(progress=True, check_hash=True)
    except (OSError, RuntimeError) as error:                 # no network; or a file cut short
        raise FileNotFoundError(f"the COCO weights of {name} cannot be downloaded ({error}); get "
                                f"{entry.url} where there is a network, and give the file by "
                                "--detector-weights") from None


def build_detector(name: str = DEFAULT, weights: str | None = None, device="cpu",
                   amp: bool = False) -> nn.Module:
    """A detector of people by its name, in eval mode.

    weights: None for torchvision's COCO weights, downloaded once; a file of them; a checkpoint of
    --finetune, which knows its name; or "random". amp: its networks compute in bfloat16.
    """
    if weights == "random":
        detector = new_detector(name, classes=2)
    elif weights is None:
        detector = load(new_detector(name, COCO_CLASSES), coco_weights(name), "COCO weights")
    else:
        if not os.path.isfile(weights):
            raise FileNotFoundError(f"{weights}: no such file of detector weights")
        state, record = ovstad.read_weights(weights)
        if record and record["stage"] != "humans":
            raise ValueError(f"{weights}: a checkpoint of stage {record['stage']}, "
                             "not a detector of people")
        name = record.get("arch", name)
        detector = load(new_detector(name, 2 if record else COCO_CLASSES), state, weights)
    if amp:
        compute_in_bfloat16(detector, torch.device(device).type)
    return detector.to(device).eval()


def load(detector: nn.Module, state: dict[str, Tensor], path: str) -> nn.Module:
    try:
        detector.load_state_dict(state)                      # torchvision knows older names, too
    except RuntimeError as error:
        reason = " ".join(str(error).split("\n", 1)[-1].split())[:200]
        raise ValueError(f"{path}: not the weights of {detector.name} with {detector.classes} "
                         f"classes; name theirs by --detector ({reason} ...)") from None
    return detector


def compute_in_bfloat16(detector: nn.Module, device_type: str) -> None:
    """Let a detector's networks compute in bfloat16; its anchors and boxes stay float32."""
    def as_float(value):
        if isinstance(value, dict):
            return {name: as_float(item) for name, item in value.items()}
        return value.float() if isinstance(value, Tensor) else [as_float(item) for item in value]

    networks = [detector.backbone]
    if hasattr(detector, "roi_heads"):                       # two stages
        heads = detector.roi_heads
        networks += [detector.rpn.head, heads.box_head, heads.box_predictor]
    else:
        networks += [detector.head]
    for network in networks:
        network.forward = torch.autocast(device_type, torch.bfloat16)(network.forward)
        network.register_forward_hook(lambda module, inputs, output: as_float(output))


@torch.no_grad()
def detect_frames(detector: nn.Module, frames) -> list[tuple[np.ndarray, np.ndarray]]:
    """The people on each of F frames, best first: boxes (n, 4) float32 in [0, 1]; scores (n,).

    frames: uint8 (F, H, W, 3), or a list of (H, W, 3) of any sizes.
    """
    device = next(detector.parameters()).device
    # a picture that was turned upright has strides that torch does not take
    frames = [frame if isinstance(frame, Tensor) else torch.from_numpy(np.ascontiguousarray(frame))
              for frame in frames]
    images = [frame.to(device).permute(2, 0, 1).float() / 255 for frame in frames]
    people = []
    for image, found in zip(images, detector(images) if images else []):
        height, width = image.shape[1:]
        size = found["boxes"].new_tensor([width, height, width, height])
        boxes = (found["boxes"] / size).clamp(0, 1)
        good = (found["labels"] == PERSON) & (boxes[:, 2:] > boxes[:, :2]).all(1)
        people.append((boxes[good].cpu().numpy(), found["scores"][good].cpu().numpy()))
    return people


# ---------------------------------------------------------------- keyframes in, proposals out

def table_of_videos(paths: list[str], every: float) -> tuple[Annotations, list[str]]:
    """Plain videos as a table of keyframes every so many seconds; why any are left out."""
    times, unreadable = [], []
    for path in paths:
        try:
            seen = open_video(path).times
            if np.diff(seen).max(initial=0) > LEAP:
                raise ValueError(f"{path}: its pictures leap by more than an hour; mend its time "
                                 "stamps, or cut it")
            times.append(np.arange(0, seen[-1] + 1e-6, every))
        except ValueError as error:
            times.append(np.zeros(0))
            unreadable.append(str(error))
    if len(unreadable) == len(paths):
        raise ValueError(f"none of {len(paths)} videos can be read: {'; '.join(unreadable[:5])}")
    video = np.repeat(np.arange(len(paths)), [len(t) for t in times])
    table = make_annotations(paths, [], video, np.concatenate(times), np.zeros((len(video), 4)),
                             np.full(len(video), -1), unit="second", files=paths)
    return table, unreadable


def find_people(table: Annotations, detector: nn.Module, folder: Path, key: dict,
                process: engine.Process, batch_size: int, workers: int,
                resume: bool = False) -> tuple[Detections, np.ndarray, list[str]]:
    """The people on all keyframes of a table, found by all processes (engine.run_chunks).

    On process 0: their boxes, which keyframes were read (k,) bool, and why the others were not.
    """
    clips = data.ClipDataset(table, frames=1, stride=1, short_side=None, patch=1)

    def people_of(groups: list[dict]) -> dict:               # of a batch, by size of frame
        people = []
        for group in (group for group in groups if group["video"] is not None):
            found = detect_frames(detector, group["video"][:, 0].permute(0, 2, 3, 1))
            people += [(keyframe, torch.from_numpy(boxes), torch.from_numpy(scores))
                       for keyframe, (boxes, scores) in zip(group["keyframe"], found)]
        return {"people": sorted(people, key=lambda one: one[0]), "bad": groups[0]["bad"]}

    batches = engine.run_chunks(folder, key, clips, people_of, process, batch_size, workers, resume)
    people = [one for batch in batches for one in batch["people"]]
    read = np.isin(np.arange(len(clips)), [keyframe for keyframe, *_ in people])
    row = np.repeat(table.keyframe_starts()[:-1][read], [len(scores) for *_, scores in people])
    box = torch.cat([torch.zeros(0, 4), *(boxes for _, boxes, _ in people)]).numpy()
    score = torch.cat([torch.zeros(0), *(scores for *_, scores in people)]).numpy()
    return (Detections(table.video[row], table.keyframe[row], box, score), read,
            [reason for batch in batches for reason in batch["bad"]])


def detect(args: argparse.Namespace) -> Path:
    """Write the proposals CSV and return its path; an interrupted run leaves chunks beside it."""
    process = engine.start_process(args.device)
    out = Path(args.out)
    folder = out.with_name(f"{out.name}.chunks")
    if out.exists():
        if not args.resume:
            raise ValueError(f"{out}: is already there; choose another --out, or delete it")
        if process.is_main:
            print(f"{out}: is already complete; to detect by other flags, choose another --out")
        return out
    if folder.exists() and not args.resume:
        raise ValueError(f"{folder}: an unfinished run is there; go on with --resume, choose "
                         "another --out, or delete it")

    if args.videos:
        table, left_out = table_of_videos(args.videos, args.every)
    else:
        table = data.read_dataset(**vars(args))
        left_out = [f"{video}: not on disk"
                    for video, file in zip(table.videos, table.files) if not file]
        table = table.on_disk()
    torch.manual_seed(args.seed)                             # of random weights, in all processes
    detector = build_detector(args.detector, args.detector_weights, process.device, args.amp)

    key = engine.plain(args)
    if args.detector_weights and os.path.isfile(args.detector_weights):
        key["detector_weights"] += f" of {time.ctime(os.path.getmtime(args.detector_weights))}"
    proposals, read, unread = find_people(table, detector, folder, key, process,
                                          args.batch_size, args.workers, args.resume)
    if process.is_main:
        if len(read) and not read.any():
            raise ValueError(f"no keyframe can be read; the first: {unread[0]}")
        write_proposals(out, table, proposals)
        shutil.rmtree(folder)
        video = table.video[table.keyframe_starts()[:-1]]
        seen = np.unique(video[read])
        print(f"{out}: {len(proposals)} boxes of score {LOW_SCORE} and more "
              f"on {read.sum()} keyframes of {len(seen)} videos")
        empty = np.setdiff1d(seen, proposals.video)
        print_some("nobody found in {} videos", [table.videos[v] for v in empty])
        print_some("left out {} videos", left_out)
        print_some(f"left out {{}} keyframes of {len(np.unique(video[~read]))} videos", unread)
        if table.box.any():
            print_measures(measure(table, proposals))
    return out


def print_some(title: str, lines: list[str]) -> None:
    if lines:
        print(f"{title.format(len(lines))}: {'; '.join(lines[:5])}" + "; ..." * (len(lines) > 5))


# ---------------------------------------------------------------- measuring

def measure(truth: Annotations, proposals: Detections) -> dict:
    """How well boxes find the annotated people.

    "ap50": AP at IoU 0.5; "ap": its mean over 0.5:0.95; "at": for each threshold of SCORES, at IoU
    0.5, recall (the share of people that a box finds), precision (the share of boxes that find one)
    and boxes per keyframe.
    """
    keyframes, at = len(truth.keyframe_starts()) - 1, {}
    for score in SCORES:
        kept = proposals.score >= score
        report = box_report(truth, proposals.select(kept))
        at[score] = {"recall": report["recall"], "boxes": int(kept.sum()) / keyframes,
                     "precision": report["recall"] * report["boxes"] / max(int(kept.sum()), 1)}
    aps = [box_report(truth, proposals, iou=0.5 + 0.05 * i)["ap"] for i in range(10)]
    return {"ap50": aps[0], "ap": sum(aps) / len(aps), "at": at}


def print_measures(measures: dict) -> None:
    print(f"box AP  0.5: {100 * measures['ap50']:.2f}  0.5:0.95: {100 * measures['ap']:.2f}")
    for score, at in measures["at"].items():
        print(f"score >= {score:<4g}  recall {100 * at['recall']:6.2f}  "
              f"precision {100 * at['precision']:6.2f}  boxes per keyframe {at['boxes']:.2f}")


# ---------------------------------------------------------------- finetuning

class Keyframes(torch.utils.data.Dataset):
    """Keyframes with the distinct boxes of their people; half of them come mirrored.

    An item, asked for as (index, seed, _), is a dict: image uint8 (3, H, W), boxes (N_b, 4) in
    [0, 1], name, bad. A frame that cannot be read is black, without people; bad holds the reason.
    """

    def __init__(self, table: Annotations):
        self.clips = data.ClipDataset(table, frames=1, stride=1, short_side=None, patch=1)

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, item: tuple) -> dict:
        index, seed, _ = item
        found = {"video": torch.zeros(1, 3, 64, 64, dtype=torch.uint8), "boxes": torch.zeros(0, 4),
                 **self.clips[index]}
        image, boxes = found["video"][0], found["boxes"]
        if np.random.default_rng(seed).random() < 0.5:
            x1, y1, x2, y2 = boxes.unbind(1)
            image, boxes = image.flip(-1), torch.stack([1 - x2, y1, 1 - x1, y2], 1)
        return {"image": image, "boxes": boxes, "name": self.clips.name(index),
                "bad": [found["bad"]] if "bad" in found else []}


def one_class(detector: nn.Module) -> nn.Module:
    """A detector of people alone that begins as COCO's: background and person of its 91 classes."""
    if detector.classes == 2:
        return detector
    state = detector.state_dict()
    for name, tensor in state.items():
        if name.startswith("roi_heads.box_predictor.bbox_pred"):       # four rows for each class
            state[name] = tensor.unflatten(0, (COCO_CLASSES, 4))[:PERSON + 1].flatten(0, 1)
        elif "box_predictor.cls_score" in name or "classification_head.cls_logits" in name:
            by_anchor = tensor.unflatten(0, (-1, COCO_CLASSES))
            state[name] = by_anchor[:, :PERSON + 1].flatten(0, 1)
    return load(new_detector(detector.name, classes=2), state, "COCO weights")


def share_foreground(detector: nn.Module, process: engine.Process) -> None:
    """Let FCOS divide its losses by the foreground cells of all processes, not of its own alone.

    RetinaNet divides picture by picture, so there the mean over processes is right already.
    """
    if not isinstance(detector, FCOS) or process.world == 1:
        return
    own_loss = detector.head.compute_loss

    def compute_loss(targets, outputs, anchors, matched: list[Tensor]) -> dict[str, Tensor]:
        foreground = torch.stack([(cells >= 0).sum() for cells in matched]).sum().float()
        share = foreground.clamp(min=1) / process.sum(foreground.clone()).clamp(min=1)
        losses = own_loss(targets, outputs, anchors, matched)
        # DDP takes the mean
        return {name: loss * share * process.world for name, loss in losses.items()}

    detector.head.compute_loss = compute_loss


def set_training(detector: nn.Module, from_scratch: bool) -> None:
    """Training mode; pretrained batch norms keep their statistics: a few frames give poor ones."""
    detector.train()
    for module in detector.modules():
        if isinstance(module, nn.BatchNorm2d) and not from_scratch:
            module.eval()


def some_keyframes(table: Annotations, count: int) -> Annotations:
    """The rows of `count` keyframes, evenly spread over the table."""
    starts = table.keyframe_starts()
    chosen = np.linspace(0, len(starts) - 2, min(count, len(starts) - 1)).round()
    return table.select(np.isin(np.repeat(np.arange(len(starts) - 1), np.diff(starts)), chosen))


def train(args: argparse.Namespace) -> Path:
    """Finetune the detector and return the path of its checkpoint."""
    process = engine.start_process(args.device)
    out = Path(args.out)

    # data
    table = data.present(data.read_dataset(**vars(args) | {"split": "train"}))
    dataset, args.table = Keyframes(table), engine.fingerprint(table)
    held_out = None
    if args.validate and not args.csv:
        held_out = data.read_dataset(**vars(args) | {"split": "test"}).on_disk()
        held_out = some_keyframes(held_out, args.validate) if held_out.box.any() else None

    # detector and optimiser
    torch.manual_seed(args.seed)
    detector = one_class(build_detector(args.detector, args.detector_weights))
    if args.amp:
        compute_in_bfloat16(detector, process.device.type)
    optimizer, lr = RECIPES[detector.name]
    args.optimizer, args.lr = args.optimizer or optimizer, lr if args.lr is None else args.lr
    from_scratch = args.detector_weights == "random"
    share_foreground(detector, process)
    wrapped = training.wrap(detector, process)
    set_training(detector, from_scratch)
    optimizer = training.make_optimizer(detector, args)
    start = training.resume(args, detector, optimizer)
    training.check_agreement(process, start, dataset.clips)
    meter, bad = training.Meter(args, process, start), engine.BadClips(args, start)

    def save(step: int) -> None:
        """Validate, and write the checkpoint."""
        if held_out is not None:
            detector.eval()
            found, *_ = find_people(held_out, detector, out / "validation", {}, process,
                                    max(args.batch_size // process.world, 1), args.workers)
            set_training(detector, from_scratch)
        if not process.is_main:
            return
        if held_out is not None:
            measures = measure(held_out, found)
            shutil.rmtree(out / "validation")
            line = {"step": step, "box_ap50": measures["ap50"], "box_ap": measures["ap"]}
            tqdm.write("  ".join(f"{name} {value:.4g}" for name, value in line.items()))
            with open(meter.log, "a") as file:
                file.write(json.dumps(line) + "\n")
        engine.save_checkpoint(out / "last.pt", {
            "model": detector.state_dict(), "optimizer": optimizer.state_dict(), "step": step,
            "stage": "humans", "arch": detector.name, "args": engine.plain(args)})

    # the loop
    loader = training.training_loader(dataset, args, process, start, collate=list)
    for step, items in enumerate(meter.batches(loader), start + 1):
        own = [reason for item in items for reason in item["bad"]]
        bad.count(args.batch_size, sum(process.gather(own), []))

        training.set_learning_rate(optimizer, step - 1, args)
        optimizer.zero_grad()
        # Faster R-CNN draws
        torch.manual_seed(data.hash_seed(args.seed, step * process.world + process.rank))
        images = [item["image"].to(process.device).float() / 255 for item in items]
        targets = [{"boxes": item["boxes"].to(image) * image.new_tensor(image.shape[:0:-1] * 2),
                    "labels": torch.full((len(item["boxes"]),), PERSON, device=process.device)}
                   for item, image in zip(items, images)]
        loss = sum(wrapped(images, targets).values()) / process.world
        (loss * process.world).backward()                    # DDP takes the mean over processes
        optimizer.step()

        meter.update(step, loss, args.batch_size, [item["name"] for item in items],
                     lr=optimizer.param_groups[0]["lr"])
        if step % args.save_every == 0 and step < args.iterations:
            meter.settle()
            save(step)
    meter.close()
    save(args.iterations)
    return out / "last.pt"


# ---------------------------------------------------------------- the command line

def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=engine.HelpFormatter)
    parser.add_argument("videos", nargs="*",
                        help="video files or folders of frames, in place of a dataset")
    parser.add_argument("--every", type=engine.number(0.01), default=1.0,
                        help="seconds between the keyframes of plain videos")
    data.add_dataset_flags(parser)
    parser.set_defaults(dataset=None)                        # to tell whether one is named
    parser.add_argument("--split", default="test",
                        help="train or test, of jhmdb-21 also train1 to test3, to detect or "
                             "measure on; finetuning takes train and validates on test")
    group = parser.add_argument_group("detector")
    group.add_argument("--detector", choices=list(RECIPES), default=DEFAULT,
                       help="of torchvision; fasterrcnn_mobilenet_v3_large_320_fpn for a laptop, "
                            "toy for the toy world")
    group.add_argument("--detector-weights", metavar="FILE",
                       help="torchvision's COCO weights of that detector (downloaded once by "
                            "default), a checkpoint of --finetune, or 'random'")
    group = parser.add_argument_group("what to do, if not detect")
    either = group.add_mutually_exclusive_group()
    either.add_argument("--finetune", action="store_true",
                        help="train on the dataset's people, and write OUT/last.pt")
    either.add_argument("--measure", metavar="CSV",
                        help="measure these proposals against the dataset's boxes")
    group.add_argument("--validate", type=engine.number(0, kind=int), default=1000,
                       help="keyframes of the test split to measure box AP on at each checkpoint; "
                            "0, and with --csv: none")
    training.add_optimisation_flags(
        parser, batch_size=16, iterations=10_000, lr=None, weight_decay=1e-4,
        batch="frames: of a detection at a time in each process, of finetuning per step over all")
    parser.set_defaults(optimizer=None)
    engine.add_run_flags(parser)
    parser.add_argument("--out",
                        help="the CSV (default: proposals.csv); of finetuning the folder "
                             "(default: runs/humans)")
    args = parser.parse_args(argv)
    if args.videos and (args.finetune or args.measure):
        purpose = "finetune" if args.finetune else "measure"
        raise ValueError(f"{args.videos[0]}: plain videos have no boxes to {purpose} on; "
                         "name a --dataset")
    of_datasets = "dataset", "data", "csv", "vidor", "version", "split"
    for name in of_datasets if args.videos else ("every",):
        if getattr(args, name) != parser.get_default(name):
            raise ValueError(f"--{name} means nothing {'with' if args.videos else 'without'} plain "
                             "videos; leave it out")
    of_finetuning = ("validate", "iterations", "optimizer", "lr", "warmup", "schedule", "momentum",
                     "weight_decay", "save_every", "log_every")
    for name in ("split",) if args.finetune else of_finetuning:
        if getattr(args, name) != parser.get_default(name):
            raise ValueError(f"--{name.replace('_', '-')} means nothing "
                             f"{'with' if args.finetune else 'without'} --finetune; leave it out")
    args.dataset = args.dataset or data.DATASETS[0]
    args.videos = list({os.path.realpath(video): video for video in args.videos}.values())
    args.out = args.out or ("runs/humans" if args.finetune else "proposals.csv")
    return args


def main() -> None:
    args = parse_args()
    if args.finetune:
        with engine.alone(f"{args.out}/run.lock", engine.is_main()):
            path = train(args)
        if engine.is_main():
            source = "".join(f" --{name} {value}" for name, value in vars(args).items()
                             if name in ("dataset", "data", "csv") and value)
            print(f"the detector is finetuned: {path}\n"
                  f"next: python detect_humans.py{source} --detector-weights {path} "
                  "--out proposals.csv")
    elif args.measure:
        table = data.read_dataset(**vars(args))
        print_measures(measure(table, checked_proposals(args.measure, table, 0, args.dataset)))
    else:
        with engine.alone(f"{args.out}.lock", engine.is_main()):
            detect(args)


if __name__ == "__main__":
    engine.cli(main)
