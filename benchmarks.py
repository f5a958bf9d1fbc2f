"""The benchmarks: UCF-JHMDB and OV-AVA (Section 4.1), and a set of one's own.

A benchmark is one or two test sets. Each has its annotated boxes, which of its classes are novel,
and the human boxes that a checkpoint scores: a detector's, or the annotated people themselves.
"""

import argparse
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import data
import engine
from formats.proposals import checked_proposals
from formats.ucf_jhmdb import JHMDB_21
from table import Annotations, Detections, people_of


@dataclass
class TestSet:
    """What detections are scored on: the truth, its splits, and which of its classes are novel."""

    name: str
    truth: Annotations                                       # of the test videos of all splits
    splits: dict[int, np.ndarray] = field(default_factory=dict)     # split -> indices of its videos
    novel: list[str] | None = None                           # None: not told from base
    excluded: tuple[np.ndarray, np.ndarray] | None = None    # (video, keyframe) that do not count
    left_out: dict[str, int] = field(default_factory=dict)   # reason -> rows not even scored
    proposals: Detections | None = None                      # the boxes that a checkpoint scores,
    boxes_from: str = ""                                     # their file,
    min_score: float | None = None                           # and the lowest score of those used


BENCHMARKS = ("ucf-jhmdb", "ov-ava", "csv")
BENCHMARK_OF = {"ucf101-24": "ucf-jhmdb", "ava": "ov-ava", "csv": "csv"}     # of a set to train on
PROTOCOL = {"ucf-jhmdb": "act", "ov-ava": "ava", "csv": "ava"}      # what the papers of each use
MIN_SCORE = {"ucf-jhmdb": 0.3, "ov-ava": 0.8, "csv": 0.0}           # of proposals: Section 4.1
# flags that one benchmark reads, and that others would ignore without a word
READ_BY = {"split": "ucf-jhmdb", "jhmdb": "ucf-jhmdb", "joint": "ucf-jhmdb", "version": "ov-ava",
           "csv": "csv", "novel": "ov-ava and csv"}


def read_benchmark(args: argparse.Namespace, record: dict, ckpt: str) -> tuple[str, list[TestSet]]:
    """A benchmark and its test sets; what the flags leave open, the checkpoint's record tells."""
    trained = dict(record.get("args", {}))
    if trained.get("csv") and not trained.get("data") and trained.get("dataset", "csv") == "csv":
        beside = Path(trained["csv"]).parent                 # of the file it was trained on
        if (beside / "test.csv").is_file():
            trained |= {"dataset": "csv", "data": str(beside)}
    own = BENCHMARK_OF.get(trained.get("dataset"))
    benchmark = args.benchmark or own
    if benchmark is None:
        raise ValueError(f"{ckpt}: was not finetuned, so it names no benchmark; give --benchmark "
                         f"{'|'.join(BENCHMARKS)}")
    for flag, readers in READ_BY.items():
        if getattr(args, flag) and benchmark not in readers:
            raise ValueError(f"--{flag} means nothing to {benchmark}, only to {readers}; "
                             "leave it out")
    folder = args.data or (trained.get("data") if benchmark == own else None)
    if benchmark == "ucf-jhmdb":
        ucf = data.read_dataset("ucf101-24", folder, "test")
        jhmdb, splits = read_splits(
            lambda split: data.read_dataset("jhmdb-21", args.jhmdb, f"test{split or ''}"),
            args.split)
        if len(splits) == 1:                                 # ACT's detections count its videos
            split, = splits
            jhmdb = data.read_dataset("jhmdb-21", args.jhmdb, f"test{split}")
            splits = {split: np.arange(len(jhmdb.videos))}
        sets = [(folder or "data/ucf101-24", TestSet("UCF101-24", ucf, novel=[])),
                (args.jhmdb or "data/jhmdb-21", TestSet("JHMDB-21", jhmdb, splits, jhmdb.texts))]
    elif benchmark == "ov-ava":
        ava = data.read_dataset("ava", folder, "test", version=args.version)
        novel = data.novel_classes("ava", ava.texts, args.novel)
        if benchmark == own and not args.novel:              # it may have had other novel classes
            novel = record.get("novel") or novel
        sets = [(folder or "data/ava", TestSet("AVA", ava, novel=novel))]
    else:
        truth = data.read_dataset("csv", folder, "test", csv=args.csv)
        novel = data.novel_classes("csv", truth.texts, args.novel, folder)
        if record.get("base") and not args.novel:            # what it was trained on is base
            listed = set(novel) & set(truth.texts)
            novel = [name for name in truth.texts if name not in record["base"]]
            if listed and listed != set(novel) and engine.is_main():
                print(f"novel.txt names {', '.join(sorted(listed))}, but {ckpt} was trained "
                      f"without {', '.join(novel) or 'leaving out any class'}, which decides what "
                      "is novel; --novel FILE decides otherwise", file=sys.stderr)
        beside = folder or (Path(args.csv).parent if args.csv else "data/csv")
        sets = [(beside, TestSet("csv", truth, novel=novel))]

    paths = args.proposals or [boxes_beside(beside, benchmark) for beside, _ in sets]
    if len(paths) > len(sets):
        raise ValueError(f"--proposals {' '.join(paths)}: {len(paths)} files, but {benchmark} has "
                         f"{len(sets)} test set{'s' * (len(sets) > 1)}")
    if args.score is not None and set(paths) == {"ground-truth"}:
        raise ValueError(f"--score {args.score:g}: annotated boxes have no score; leave it out, or "
                         "give --proposals")
    min_score = MIN_SCORE[benchmark] if args.score is None else args.score
    for (_, one), path in zip(sets, paths * (len(sets) // len(paths))):
        one.boxes_from = path
        if one.boxes_from == "ground-truth":                 # as if a detector had found everybody
            rows, one.boxes_from = people_of(one.truth), "ground truth"
            one.proposals = Detections(one.truth.video[rows], one.truth.keyframe[rows],
                                       one.truth.box[rows].astype(np.float32),
                                       np.ones(len(rows), np.float32))
        else:
            one.proposals = checked_proposals(path, one.truth, min_score, one.name)
            one.min_score = min_score
    return benchmark, [one for _, one in sets]


def read_splits(read, wanted: list[int] | None) -> tuple[Annotations, dict[int, np.ndarray]]:
    """The test videos of JHMDB's wanted splits, and the indices of each one's; {} for another set.

    read: the table of one split, or for 0 of all. None wanted: all three, as the paper names none.
    """
    truth = read(1)
    if truth.texts != JHMDB_21:
        return truth, {}
    truth = read(0)
    splits = {split: np.flatnonzero(np.isin(truth.videos, read(split).videos))
              for split in wanted or (1, 2, 3)}
    return truth.select(np.isin(truth.video, np.concatenate([*splits.values()]))), splits


def boxes_beside(folder: str, benchmark: str) -> str:
    """Where human boxes lie without --proposals: in the set's folder; AVA's may be LFB's."""
    lfb = ["annotations/ava_val_predicted_boxes.csv", "ava_val_predicted_boxes.csv"]
    for name in ["proposals.csv"] + lfb * (benchmark == "ov-ava"):
        if (Path(folder) / name).is_file():
            return str(Path(folder) / name)
    if benchmark == "csv":
        return "ground-truth"
    raise ValueError(f"--proposals is missing, and {Path(folder) / 'proposals.csv'} is not there: "
                     "human boxes on the test keyframes, of detect_humans.py or another detector; "
                     "or 'ground-truth', for the annotated people")
