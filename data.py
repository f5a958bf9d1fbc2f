"""The data: every dataset as one table of (video, keyframe, box, text), and clips around keyframes.

A reader turns official files into `Annotations`; one `Dataset` serves them all. Boxes are xyxy in
[0, 1] of the picture from here on; classes travel as names, and ids exist only in official files.
Scripts and other programs find the readers here too, wherever they are defined.
"""

import argparse
import os
import re
import sys
from pathlib import Path

import av
import numpy as np
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from formats.ava import (AVA_60, AVA_RATE, AVA_SOURCE, OV_AVA_NOVEL, read_ava,  # noqa: F401
                         second_in_file)
from formats.files import check_split, read_text
from formats.hcstvg import HCSTVG_SOURCE, read_hcstvg
from formats.own import read_csv
from formats.sentences import split_sentences  # noqa: F401
from formats.ucf_jhmdb import (GURKIRT, JHMDB_21, MOC, UCF101_24, read_jhmdb_21,  # noqa: F401
                               read_ucf101_24)
from formats.vidstg import VIDSTG_SOURCE, read_vidstg
from ovstad import standardise
from table import Annotations
from video import open_video, read_clip, scaled_size  # noqa: F401


# ---------------------------------------------------------------- clips and their transforms

def augment(video: np.ndarray, boxes: np.ndarray, crop: int | None, rng: np.random.Generator):
    """Horizontal flip of a clip, after a random crop if one is asked for; boxes follow the pixels.

    video (T, H, W, 3) uint8, boxes (N_b, 4) in [0, 1] -> video (T, 3, H, W), or (T, 3, crop, crop);
    boxes (N_b, 4); kept (N_b,) bool; and whether it was flipped. Without a crop every box is kept;
    with one, a box of which at least half the area stays in the picture (not in the paper).
    """
    T, H, W, _ = video.shape
    clip = tv_tensors.Video(torch.from_numpy(video).permute(0, 3, 1, 2))
    pixel = torch.from_numpy(boxes * np.float32([W, H, W, H]))
    pixel = tv_tensors.BoundingBoxes(pixel, format="XYXY", canvas_size=(H, W))
    area = (pixel[:, 2:] - pixel[:, :2]).prod(1)
    if crop:
        top, left = int(rng.integers(0, H - crop + 1)), int(rng.integers(0, W - crop + 1))
        clip = v2.functional.crop(clip, top, left, crop, crop)
        pixel = v2.functional.crop(pixel, top, left, crop, crop)
        H, W = crop, crop
    flipped = bool(rng.random() < 0.5)
    if flipped:
        clip, pixel = v2.functional.horizontal_flip(clip), v2.functional.horizontal_flip(pixel)
    size = torch.tensor([W, H, W, H])
    pixel = pixel.as_subclass(torch.Tensor).clamp(min=0).minimum(size)
    kept = (pixel[:, 2:] - pixel[:, :2]).prod(1) >= 0.5 * area
    clip = clip.as_subclass(torch.Tensor).contiguous()
    return clip, (pixel / size).numpy(), kept.numpy(), flipped


def normalise(video: torch.Tensor, jitter: torch.Tensor | None = None) -> torch.Tensor:
    """uint8 clips (B, T, 3, H, W) -> float, with ImageNet's mean and deviation taken out.

    jitter (B, 3): factors of brightness, contrast and saturation, one set per clip; v2.ColorJitter
    would draw one set per call.
    """
    def beside(values):                                      # without a host-GPU synchronisation
        return torch.as_tensor(values).to(video.device, non_blocking=True)

    x = video.float() / 255
    if jitter is not None:
        grey_weight = beside([0.299, 0.587, 0.114]).view(3, 1, 1)
        brightness, contrast, saturation = beside(jitter).view(-1, 3, 1, 1, 1, 1).unbind(1)
        x = (x * brightness).clamp(0, 1)
        mean_grey = (x * grey_weight).sum(2, keepdim=True).mean((1, 3, 4), keepdim=True)
        x = (mean_grey + (x - mean_grey) * contrast).clamp(0, 1)
        grey = (x * grey_weight).sum(2, keepdim=True)
        x = (grey + (x - grey) * saturation).clamp(0, 1)
    return standardise(x)


def swap_left_right(text: str) -> str:
    """The text as it is true of the mirrored picture: the whole words left and right exchanged."""
    swap = {"left": "right", "Left": "Right", "LEFT": "RIGHT"}
    swap |= {right: left for left, right in swap.items()}
    return re.sub(r"\b(left|right)\b", lambda word: swap.get(word[0], word[0]), text,
                  flags=re.IGNORECASE)


class ClipDataset(torch.utils.data.Dataset):
    """One item a keyframe of the table: the clip around it, its boxes and each box's texts.

    In testing an item is asked for by its index. In training it is asked for as (index, seed,
    short_side): frames are scaled to that short side, and everything random follows from the seed;
    with `crop`, the short side is drawn from `scale` too. An item is a dict: video uint8
    (T, 3, H, W); boxes (N_b, 4) float32; labels (P, 2) int64 pairs (box, text); keyframe, its
    index; in training jitter (3,), and boxes_before, how many there were before the crop. A clip
    that cannot be read is {"bad": "video: reason"}.
    """

    def __init__(self, annotations: Annotations, frames: int, stride: int, short_side: int = 256,
                 patch: int = 16, crop: int | None = None, scale: tuple[int, int] = (256, 320),
                 mirror_texts: bool = True):
        self.table, self.frames, self.stride = annotations, frames, stride
        self.short_side, self.patch, self.crop, self.scale = short_side, patch, crop, scale
        self.first_row = annotations.keyframe_starts()
        self.mirrored = np.arange(len(annotations.texts), dtype=np.int32)
        index = {text: i for i, text in enumerate(annotations.texts)}
        for i, text in enumerate(annotations.texts):         # "left" gets a mirrored twin, "right"
            twin = swap_left_right(text)
            if twin != text and (mirror_texts or twin in index):
                self.mirrored[i] = index.setdefault(twin, len(index))
        self.texts = list(index)
        self.reader, self.reader_path = None, None           # of the last video, kept in testing

    def __len__(self) -> int:
        return len(self.first_row) - 1

    def name(self, index: int) -> str:
        row = self.first_row[index]
        video, keyframe = self.table.video[row], self.table.keyframe[row]
        time = f"frame {int(keyframe)}" if self.table.unit[video] == "frame" else f"{keyframe:g} s"
        return f"{self.table.videos[video]} {time}"

    def boxes_and_labels(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Distinct boxes (N_b, 4) of a keyframe, and (P, 2) pairs of a box and a true text."""
        rows = slice(self.first_row[index], self.first_row[index + 1])
        box, text = self.table.box[rows], self.table.text[rows]
        real = (box[:, 2] > box[:, 0]) & (box[:, 3] > box[:, 1])
        box, which = np.unique(box[real], axis=0, return_inverse=True)
        labels = np.stack([which.reshape(-1), text[real]], 1)
        return box, labels[labels[:, 1] >= 0]

    def read(self, index: int, short_side: int, multiple: int = 1,
             keep_open: bool = False) -> np.ndarray:
        """The clip (T, H, W, 3) around a keyframe."""
        row = self.first_row[index]
        video, keyframe = self.table.video[row], self.table.keyframe[row]
        path = self.table.files[video]
        if not path:
            raise FileNotFoundError(f"{self.table.videos[video]}: no such video on disk")
        if path != self.reader_path:
            self.reader, self.reader_path = open_video(path, short_side, multiple), path
        if self.table.ava_clock:
            second = second_in_file(float(keyframe), self.reader.duration)
            clip = self.reader.clip_at(second, self.frames, self.stride, AVA_RATE)
        elif self.table.unit[video] == "second":
            clip = self.reader.clip_at(float(keyframe), self.frames, self.stride)
        else:
            clip = self.reader.clip(int(keyframe), self.frames, self.stride)
        if not keep_open:
            self.reader.close()
            self.reader, self.reader_path = None, None
        return clip

    def __getitem__(self, item: int | tuple[int, int, int | None]) -> dict:
        if isinstance(item, tuple):
            return self.training_item(*item)
        try:
            clip = self.read(item, self.short_side, self.patch, keep_open=True)
        except (ValueError, OSError, av.error.FFmpegError) as error:
            return self.bad_item(item, error)
        boxes, labels = self.boxes_and_labels(item)
        return {"video": torch.from_numpy(clip).permute(0, 3, 1, 2).contiguous(), "keyframe": item,
                "boxes": torch.from_numpy(boxes), "labels": torch.from_numpy(labels)}

    def training_item(self, index: int, seed: int, short_side: int | None) -> dict:
        """A randomly transformed clip; one that cannot be read is black and without boxes."""
        boxes, labels = self.boxes_and_labels(index)
        rng = np.random.default_rng(seed)
        if self.crop:
            short_side, multiple = int(rng.integers(self.scale[0], self.scale[1] + 1)), 1
        else:
            multiple = self.patch                            # the whole frame, in whole patches
        try:
            clip = self.read(index, short_side, multiple)
        except (ValueError, OSError, av.error.FFmpegError) as error:
            side = self.crop or scaled_size(short_side, short_side, None, multiple)[0]
            return self.bad_item(index, error) | {
                "video": torch.zeros(self.frames, 3, side, side, dtype=torch.uint8),
                "boxes": torch.zeros(0, 4), "labels": torch.zeros(0, 2, dtype=torch.long),
                "jitter": torch.ones(3), "boxes_before": 0}
        before = len(boxes)
        video, boxes, kept, flipped = augment(clip, boxes, self.crop, rng)
        labels = labels[kept[labels[:, 0]]]
        labels[:, 0] = (np.cumsum(kept) - 1)[labels[:, 0]]   # index among the kept boxes
        if flipped:
            labels[:, 1] = self.mirrored[labels[:, 1]]
        jitter = rng.uniform(0.8, 1.2, 3).astype(np.float32)  # not in the paper: 20 % either way
        return {"video": video, "keyframe": index, "boxes": torch.from_numpy(boxes[kept]),
                "labels": torch.from_numpy(labels), "jitter": torch.from_numpy(jitter),
                "boxes_before": before}

    def bad_item(self, index: int, error: Exception) -> dict:
        self.reader, self.reader_path = None, None
        return {"bad": f"{self.name(index)}: {error}", "keyframe": index}


def collate(items: list[dict]) -> list[dict]:
    """Batches of items, one for each size of clip; the first names the bad ones.

    A batch: video (B, T, 3, H, W) uint8, boxes B tensors (N_b, 4), labels (P, 2) pairs of an index
    into the batch's N boxes and a text, jitter (B, 3) or None, keyframe (B,), boxes_before, bad
    list of str. If no clip of a test batch can be read, its video is None.
    """
    sizes: dict = {}
    for item in items:
        if "video" in item:
            sizes.setdefault(item["video"].shape, []).append(item)
    batches = []
    for group in sizes.values():
        first_box = np.cumsum([0] + [len(item["boxes"]) for item in group])
        batches.append({
            "video": torch.stack([item["video"] for item in group]),
            "boxes": [item["boxes"] for item in group],
            "labels": torch.cat([item["labels"] + torch.tensor([first, 0])
                                 for item, first in zip(group, first_box)]),
            "jitter": (torch.stack([item["jitter"] for item in group])
                       if "jitter" in group[0] else None),
            "keyframe": [item["keyframe"] for item in group], "bad": [],
            "boxes_before": sum(item.get("boxes_before", 0) for item in group)})
    if not batches:
        batches = [{"video": None, "boxes": [], "labels": torch.zeros(0, 2, dtype=torch.long),
                    "jitter": None, "keyframe": [], "boxes_before": 0}]
    batches[0]["bad"] = [item["bad"] for item in items if "bad" in item]
    return batches


class GlobalBatches(torch.utils.data.Sampler):
    """This process's share of every global batch from step `start` on: (index, seed, short_side).

    Which sample comes when, its seed, and the short side of a step's clips (drawn from `scale`,
    else None) depend on nothing but the seed: not on the number of processes, of workers, or of
    interruptions. One short side for all clips of a step (not in the paper), so that they stack.
    """

    def __init__(self, samples: int, batch_size: int, steps: int, seed: int = 0, start: int = 0,
                 rank: int = 0, world: int = 1, scale: tuple[int, int] | None = None):
        if samples == 0:
            raise ValueError("there is no keyframe to train on: all selections leave no annotation")
        if batch_size % world:
            raise ValueError(f"--batch-size {batch_size} is global and must divide among {world} "
                             "processes")
        self.samples, self.batch_size, self.steps, self.scale = samples, batch_size, steps, scale
        self.seed, self.start, self.rank, self.share = seed, start, rank, batch_size // world

    def __len__(self) -> int:
        return self.steps - self.start

    def __iter__(self):
        epoch, order = -1, None
        for step in range(self.start, self.steps):
            short_side = None
            if self.scale:
                rng = np.random.default_rng([self.seed, 1, step])
                short_side = int(rng.integers(self.scale[0], self.scale[1] + 1))
            first = step * self.batch_size + self.rank * self.share
            batch = []
            for number in range(first, first + self.share):  # of the samples of the whole run
                if number // self.samples != epoch:
                    epoch = number // self.samples
                    order = np.random.default_rng([self.seed, epoch]).permutation(self.samples)
                index = int(order[number % self.samples])
                batch.append((index, hash_seed(self.seed, number), short_side))
            yield batch


def hash_seed(seed: int, number: int) -> int:
    """A well mixed 64-bit seed for one sample of the whole run."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0])


# ---------------------------------------------------------------- datasets by name

DATASETS = ("ucf101-24", "jhmdb-21", "ava", "hcstvg", "vidstg", "csv")
SOURCES = {"ucf101-24": GURKIRT, "jhmdb-21": MOC, "ava": AVA_SOURCE,
           "hcstvg": HCSTVG_SOURCE, "vidstg": VIDSTG_SOURCE}


def add_dataset_flags(parser: argparse.ArgumentParser, datasets=DATASETS) -> None:
    """--dataset and where its files are; `read_dataset(**vars(args))` takes them."""
    group = parser.add_argument_group("data")
    group.add_argument("--dataset", choices=datasets, default=datasets[0], help="what to read")
    group.add_argument("--data",
                       help="its folder (default: data/ and its name); with csv: the folder with "
                            "train.csv and test.csv (video,keyframe,x1,y1,x2,y2,text[,person]), "
                            "where video paths start; folders of frames in it are taken as 30 per "
                            "second")
    group.add_argument("--csv", help="with --dataset csv: one file in place of the two")
    if "vidstg" in datasets:
        group.add_argument("--vidor", default="data/vidor",
                           help="VidOR's annotation and videos, for vidstg")
    group.add_argument("--version", help="AVA's 2.1 or 2.2, HC-STVG's 1 or 2 (default: the newest)")


def read_dataset(dataset: str, data=None, split: str = "train", csv=None, vidor="data/vidor",
                 version: str | None = None, **_) -> Annotations:
    """A dataset by its name; split "train" or "test", of AVA val: its test labels are not public.

    JHMDB-21 has three splits: "test1" is the first one's test part, "test" that of all three.
    """
    folder = data or f"data/{dataset}"
    if csv and dataset != "csv":
        raise ValueError(f"--csv {csv}: goes with --dataset csv, not {dataset}")
    if version not in {"hcstvg": (None, "1", "2"), "ava": (version,)}.get(dataset, (None,)):
        raise ValueError(f"--version {version}: HC-STVG has 1 and 2, AVA 2.1 and 2.2, others none")
    if dataset == "csv":
        check_split(split, ("train", "val", "test", "all") if csv else ("train", "test"))
        path = Path(csv or f"{folder}/{split}.csv")
        if not path.is_file():
            raise FileNotFoundError(f"{path}: not there; --data names the folder with train.csv "
                                    "and test.csv, --csv one file")
        return read_csv(path, data)
    if not Path(folder).is_dir():
        own = f", or in train_align.py --{dataset}" * (dataset in ("hcstvg", "vidstg"))
        raise FileNotFoundError(f"there is no folder {folder}; get {dataset}'s files from "
                                f"{SOURCES[dataset]}, and name their folder by --data{own}")
    if dataset == "ucf101-24":
        return read_ucf101_24(folder, split)
    if dataset == "jhmdb-21":
        part = re.fullmatch("(train|test)([123]?)", split)
        if not part:
            raise ValueError(f"split {split!r} is not train or test, or of one of JHMDB-21's three "
                             "splits, such as test1")
        return read_jhmdb_21(folder, part[1], int(part[2] or 0))
    if dataset == "ava":
        return read_ava(folder, "val" if split == "test" else split, version)
    if dataset == "hcstvg":
        return read_hcstvg(folder, split, int(version) if version else None)
    if dataset == "vidstg":
        return read_vidstg(folder, vidor, split)
    raise ValueError(f"dataset {dataset!r} is not one of {', '.join(DATASETS)}")


def present(table: Annotations) -> Annotations:
    """What to train on: the rows whose video is on disk, with a note on stderr about the rest."""
    missing = [video for video, file in zip(table.videos, table.files) if not file]
    if missing and os.environ.get("RANK", "0") == "0":       # once, of all processes
        print(f"{len(missing):,} of {len(table.videos):,} videos are not on disk and left out, "
              f"such as {missing[0]}; python check_data.py lists them", file=sys.stderr)
    say_faults(table)
    table = table.on_disk()
    if not table.box.any():
        raise ValueError("there is nobody to train on: no keyframe that is left has a box")
    return table


def say_faults(table: Annotations) -> None:
    """A note on stderr of what the official files got wrong, which a reader dropped or mended."""
    if table.faults and os.environ.get("RANK", "0") == "0":
        print(f"{len(table.faults):,} faults in the annotation, such as {table.faults[0]}; "
              "python check_data.py lists them", file=sys.stderr)


def read_names(path) -> list[str]:
    """A file of class names, one a line; ValueError if it holds none."""
    names = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    if not names:
        raise ValueError(f"{path}: is empty; expected names of classes, one a line")
    return names


def novel_classes(dataset: str, texts: list[str], file=None, data=None) -> list[str]:
    """Names of the classes that training must not see."""
    folder = Path(data or "data/csv")
    if file is None and dataset == "csv" and (folder / "novel.txt").is_file():
        file = folder / "novel.txt"
    if file is None:
        return {"ava": list(OV_AVA_NOVEL), "ucf101-24": list(JHMDB_21)}.get(dataset, [])
    novel, known = read_names(file), set(texts)
    if dataset == "csv" and set(novel) - known:              # it may stand in the other file alone
        others = [folder / f"{split}.csv" for split in ("train", "test")]
        known |= {text for path in others if path.is_file() for text in read_csv(path, data).texts}
    for number, name in enumerate(novel, 1):
        if name not in known:
            raise ValueError(f"{file}:{number}: {name!r} is not a class of {dataset}; "
                             f"its classes are {', '.join(sorted(known)[:5])}, ...")
    return novel
