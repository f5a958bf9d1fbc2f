"""Reads a dataset and says what is in it, what is missing and what is wrong."""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from data import ClipDataset, add_dataset_flags, novel_classes, read_dataset, read_names
from data import split_sentences
from draw import contact_sheet
from engine import HelpFormatter, check_folder, cli, number
from formats.ava import second_in_file
from formats.cvat import import_labels
from formats.files import check_split, parallel, read_text
from formats.hcstvg import read_descriptions
from metric import frame_map
from table import Annotations, Detections
from video import open_video, same_shape

HEAD = "faults that check_data.py found in "                 # tells that OUT's files are ours

# Table 1: descriptions or captions, before any is split into sentences, and pairs
PAPER_COUNTS = {"hcstvg": (13_613, 1_884_046), "vidstg": (23_165, 5_182_090)}


def samples_of(table: Annotations) -> int:
    """How many (video, text) pairs a table has: sentences of an alignment set on their tubes."""
    rows = table.text >= 0
    sample = table.video[rows].astype(np.int64) * len(table.texts) + table.text[rows]
    return len(np.unique(sample))


def print_report(table: Annotations, dataset: str) -> None:
    labelled = table.text >= 0
    counts = np.bincount(table.text[labelled], minlength=len(table.texts))
    there = sum(bool(file) for file in table.files)
    for name, count, words in (
            ("videos", len(table.videos), f"on disk {there:,}, missing "
                                          f"{len(table.videos) - there:,}"),
            ("keyframes", len(table.keyframe_starts()) - 1,
             f"with nobody {(~table.box.any(axis=1)).sum():,}"),
            ("pairs", labelled.sum(), "of a box and a text"),
            ("texts", len(table.texts), f"without a pair {(counts == 0).sum():,}"),
            ("samples", samples_of(table), "of a text in a video")):
        print(f"{name:<10} {count:>10,}   {words}")
    if dataset in PAPER_COUNTS:
        what, (described, pairs) = "descriptions captions".split(), PAPER_COUNTS[dataset]
        print(f"Table 1    {table.descriptions:>10,}   {what[dataset == 'vidstg']}; the paper has "
              f"{described:,} and {pairs:,} pairs, of all splits (--split all)")
    if len(table.texts) <= 100:
        for i, (text, count) in enumerate(zip(table.texts, counts)):
            print(f"{table.ids[i] if table.ids else i + 1:>4}  {count:>9,}  {text}")


def truth_scores_one(table: Annotations) -> float:
    """Frame mAP of the ground truth as predictions of score 1: exactly 1, or the table is wrong."""
    rows = table.text >= 0
    found = Detections(table.video[rows], table.keyframe[rows], table.box[rows],
                       np.ones(rows.sum()), table.text[rows])
    # two people in one and the same box: act allows it
    return frame_map(table, found, "ava" if table.size is None else "act")["mean_ap"]["all"]


def video_fault(job: tuple[str, float, str, bool, list[int], int]) -> str:
    """Why a video is not the annotated one or cannot be read up to its last keyframe, or "".

    job: its file, that keyframe, its unit, whether it is on AVA's clock; its size and number of
    frames, or zeros.
    """
    file, last, unit, ava_clock, size, frames = job
    try:
        reader = open_video(file)
        height, width = reader.clip(0, frames=1).shape[1:3]
        length, unit = (len(reader.times), "frames") if unit == "frame" else (reader.duration, unit)
        last = second_in_file(last, length) if ava_clock else last
        reader.close()
    except Exception as error:                                 # a broken file may raise anything
        return f"{file}: {type(error).__name__}: {error}".splitlines()[0]
    if last >= length:
        return f"{file}: {length:g} {unit.rstrip('s')}s long, but annotated at {last:g}"
    if frames and abs(frames - length) > max(2, 0.05 * frames):        # official counts err by 2
        return (f"{file}: {length} frames, but annotated as {frames}; boxes lie on other frames if "
                "it was cut, or converted to another rate")
    return "" if same_shape(size, (width, height)) else (
        f"{file}: its picture is {width}x{height}, but annotated as {size[0]}x{size[1]}; its boxes "
        "lie elsewhere if it was cropped, padded or turned")


def sample_keyframes(table: Annotations, count: int = 24, seed: int = 0) -> Image.Image | None:
    """A contact sheet of random keyframes with their boxes and texts; None if nobody is on any."""
    clips = ClipDataset(table, frames=1, stride=1, short_side=240, patch=1)
    pictures, boxes, texts = [], [], []
    for index in np.random.default_rng(seed).permutation(len(clips)):
        somebody = len(clips.boxes_and_labels(index)[1])
        if not somebody or "bad" in (item := clips[int(index)]):
            continue
        labels = item["labels"].tolist()
        pictures.append(item["video"][0])                      # (3, H, W)
        boxes.append(item["boxes"])
        texts.append(["; ".join(table.texts[text] for box, text in labels if box == i)
                      for i in range(len(item["boxes"]))])
        if len(pictures) == count:
            break
    return contact_sheet(pictures, boxes, texts) if pictures else None


def main() -> int:
    parser = argparse.ArgumentParser(
        formatter_class=HelpFormatter,
        description="Read a dataset and say what is in it, what is missing and what is broken.")
    add_dataset_flags(parser)
    parser.add_argument("--split", default="train",
                        help="train, val, test, or all; of jhmdb-21 also train1 to test3")
    parser.add_argument("--novel", metavar="FILE",
                        help="novel classes, one a line (default: as in training)")
    parser.add_argument("--out", default="runs/check",
                        help="folder for SPLIT_faults.txt, SPLIT_contact_sheet.png and, of hcstvg, "
                             "SPLIT_sentences.tsv")
    group = parser.add_argument_group("labels of an annotation tool")
    group.add_argument("--import", nargs="+", metavar="FILE", dest="labels",
                       help="write OUT/train.csv (with --split test: OUT/test.csv) from exports "
                            "\"CVAT for video 1.1\" (.xml or .zip) or COCO's JSON of videos, and "
                            "check that; --data is then the folder of their videos (default: each "
                            "file's own)")
    group.add_argument("--every", type=number(0.01), default=0.5,
                       help="seconds between the keyframes written, at least")
    args = parser.parse_args()
    for name in ("dataset", "csv", "version") if args.labels else ("every",):
        if getattr(args, name) != parser.get_default(name):
            raise ValueError(f"--{name} means nothing {'with' if args.labels else 'without'} "
                             "--import; leave it out")
    if args.novel and args.dataset in PAPER_COUNTS:
        raise ValueError(f"--novel: {args.dataset} has sentences and no classes; train_align.py "
                         "--novel leaves out those that name one")
    check_folder(args.out)
    if args.novel:
        read_names(args.novel)
    out, left_out = Path(args.out), []
    report, sheet, split_into = (out / f"{args.split}_{name}" for name in (
        "faults.txt", "contact_sheet.png", "sentences.tsv"))
    for file in (report, sheet, split_into):
        if file.exists() and not (report.is_file() and read_text(report).startswith(HEAD)):
            raise ValueError(f"{file}: is there, and no run of ours wrote it; move it, or choose "
                             "another --out")
    if args.labels:
        check_split(args.split, ("train", "test"))
        args.dataset, args.csv = "csv", out / ("train.csv" if args.split == "train" else "test.csv")
        left_out = import_labels(args.labels, args.csv, args.data, args.every)
        args.data = None                                       # the CSV's paths begin at its folder
        train = "; how to train on a small set: docs/own-videos.md, section 4"
        print(f"written    {args.csv}{train if args.split == 'train' else ''}")

    table = read_dataset(**vars(args))
    faults = [*table.faults, *left_out]
    print_report(table, args.dataset)
    if args.dataset not in PAPER_COUNTS:
        folder = args.data or (args.csv and Path(args.csv).parent)
        novel = novel_classes(args.dataset, table.texts, args.novel, folder)
        base = [name for name in table.texts if name not in novel]
        print(f"base       {len(base):>10,}   {', '.join(base)}")
        print(f"novel      {len(novel):>10,}   {', '.join(novel)}")
    if len(table.texts) <= 100 and (table.text >= 0).any():
        score = truth_scores_one(table)
        print(f"the ground truth as predictions scores {score:.6f}" + (
            ", not 1: two people of one class share a box, or the table is wrong" * (score != 1)))
    missing = [f"{video}: no video" for video, file in zip(table.videos, table.files) if not file]
    first, last = table.keyframe_starts()[:-1], np.zeros(len(table.videos))
    np.maximum.at(last, table.video[first], table.keyframe[first])
    size = np.zeros((len(last), 2), int) if table.size is None else table.size
    frames = np.zeros(len(last), int) if table.lengths is None else table.lengths
    jobs = [(file, last[v], str(table.unit[v]), table.ava_clock, size[v].tolist(), int(frames[v]))
            for v, file in enumerate(table.files) if file]
    broken = [fault for fault in parallel(video_fault, jobs, "videos") if fault]
    out.mkdir(parents=True, exist_ok=True)
    if args.dataset == "hcstvg":
        version = args.version and int(args.version)
        described = read_descriptions(args.data or "data/hcstvg", args.split, version)
        split_into.write_text("".join(
            "\t".join([clip, " ".join(text.split()), *split_sentences(text)]) + "\n"
            for clip, text in described), encoding="utf-8")
        print(f"sentences  {split_into}: each description and what it was split into")
    lines = f"{HEAD}{args.dataset}", *faults, *missing, *broken
    report.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    print(f"faults     {len(faults):,} in the annotation, {len(missing):,} videos missing, "
          f"{len(broken):,} broken, too short or of another shape or length: {report}")
    if jobs and (pictures := sample_keyframes(table)):
        pictures.save(sheet)
        print(f"look at {sheet}: do the boxes hold the people, do the texts say what they do?")
    return 0


if __name__ == "__main__":
    cli(main)
