"""Evaluation: scored boxes against annotated ones, as the official tools of the benchmarks do it.

Enter detections, one row a (box, class) pair, and the ground truth as the one table of data.py.
Leave frame mAP at IoU 0.5 for base, novel and all classes (the paper's Tables 2 to 6), under one of
two protocols: `ava`, the ActivityNet evaluator's (greedy argmax matching, precision envelope), or
`act`, that of ACT and MOC for UCF101-24 and JHMDB-21 (a matched person is removed, pixel-inclusive
IoU, trapezoid area). Beyond the paper: video mAP over linked tubes, and how well the boxes alone
find the people. A saved predictions file of any system is scored without a model:

    python evaluate.py --ckpt runs/ucf101-24/last.pt --proposals boxes.csv       # a checkpoint on its benchmark
    python evaluate.py --predictions P.csv --ground-truth ava_val_v2.2.csv --label-map M.pbtxt
    python evaluate.py --predictions P.csv --ground-truth UCF101v2-GT.pkl --protocol ava act

Ranking is by score alone and any real number will do. Equal scores keep the order of their rows
(the official tools sort unstably there, so that their result depends on the machine).
"""

import argparse
import json
import os
import platform
import shutil
import sys
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

import data
import engine
import ovstad
from draw import ap_bars
from formats.files import read_label_map, replacing
from formats.predictions import (LAYOUT, read_excluded, read_ground_truth, read_novel,
                                 read_predictions, write_predictions)
from formats.proposals import read_proposals
from formats.ucf_jhmdb import read_act_pickle
from metric import (box_report, check_protocol, check_tubes, distinct_boxes, frame_map, mean_of,
                    summarise, video_map)
from table import Annotations, Detections, keyframe_key, make_annotations


# ---------------------------------------------------------------- what it says

def print_table(result: dict) -> None:
    """Protocol, counts and what was left out; each class; the three means. AP in per cent."""
    entries = result["classes"]
    missing = [entry["name"] for entry in entries if not entry["gt"]]
    print(f"frame mAP  protocol {result['protocol']}  iou {result['iou']:g}  "
          f"max-per-keyframe {result['max_per_keyframe'] or 'off'}  "
          f"keyframes-without-gt {result['keyframes_without_gt']}")
    print(f"keyframes {result['keyframes']}  boxes {result['boxes']}  "
          f"ground truth {sum(entry['gt'] for entry in entries)}  predictions {result['predictions']}")
    if result.get("proposals") is not None:
        print(f"proposals {result['proposals']}"
              + ("" if result["min_score"] is None else f"  of score {result['min_score']:g} or more"))
    for reason, count in result["left_out"].items():
        if count:
            print(f"left out: {count} predictions {reason}")
    more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
    print(f"classes {len(entries) - len(missing)} of {len(entries)} counted"
          + (f"; without ground truth: {', '.join(missing[:5])}{more}" if missing else ""))
    width = max([len(entry["name"]) for entry in entries] + [5])
    print(f"{'id':>5}  {'class':<{width}}  {'split':<5}  {'AP':>6}  {'gt':>8}  {'predictions':>11}")
    for entry in entries:
        print(f"{entry['id']:>5}  {entry['name']:<{width}}  {entry['split'] or '':<5}  {percent(entry['ap']):>6}  "
              f"{entry['gt']:>8}  {entry['predictions']:>11}")
    print("mAP  " + means(result["mean_ap"]))


def percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"


def means(mean_ap: dict) -> str:
    """`base 71.63  novel 61.41  all 65.00`, without the sides that were not asked for."""
    shown = [split for split in ("base", "novel") if mean_ap[split] is not None] + ["all"]
    return "  ".join(f"{split} {percent(mean_ap[split])}" for split in shown)


def mean_and_spread(results: list[dict]) -> dict:
    """Mean and standard deviation of the three means over several splits, seeds or checkpoints."""
    rows = {split: [result["mean_ap"][split] for result in results] for split in ("base", "novel", "all")}
    whole = {split: None not in values for split, values in rows.items()}
    return {"protocol": results[0]["protocol"], "iou": results[0]["iou"], "mean_of": len(results),
            "mean_ap": {split: mean_of(values) if whole[split] else None for split, values in rows.items()},
            "spread": {split: float(np.std(values, ddof=1)) if whole[split] else None
                       for split, values in rows.items()}}


def print_boxes(report: dict) -> None:
    print(f"boxes alone  people {report['boxes']}  proposals {report['proposals']}  "
          f"recall {percent(report['recall'])}  AP {percent(report['ap'])}")


def print_video_map(result: dict) -> None:
    print("video mAP  " + "  ".join(f"@{key} {percent(value)}" for key, value in result["map"].items())
          + f"  tubes {result['tubes']}  ground truth {result['gt']}  min length {result['min_length']} frames")


def write_json(path, results: dict | list[dict]) -> None:
    """The results with the versions that made them, at full precision; one result, or a list of several."""
    versions = {"python": platform.python_version()}
    versions |= {name: sys.modules[name].__version__ for name in ("numpy", "torch", "torchvision", "av")
                 if name in sys.modules}
    if isinstance(results, dict):
        content = {**results, "versions": versions}
    else:
        content = [{**result, "versions": versions} for result in results]
    with replacing(path) as file:
        json.dump(content, file, indent=1, allow_nan=False)
        file.write("\n")


# ---------------------------------------------------------------- a checkpoint's scores of a benchmark

@dataclass
class TestSet:
    """One test set of a benchmark: its truth, the boxes to score, and which of its classes are novel."""

    name: str
    truth: Annotations
    proposals: Detections
    novel: list[str]
    boxes_from: str               # where the proposals come from, for the report
    min_score: float | None       # the lowest score of a proposal that was used
    protocol: str                 # the default one


BENCHMARKS = ("ucf-jhmdb", "ov-ava", "csv")
PROTOCOL = {"ucf-jhmdb": "act", "ov-ava": "ava", "csv": "ava"}      # what the papers of each benchmark use
MIN_SCORE = {"ucf-jhmdb": 0.3, "ov-ava": 0.8, "csv": 0.0}           # Section 4.1: proposals above this score


def read_benchmark(args: argparse.Namespace, record: dict, path: str) -> list[TestSet]:
    """The test sets of a benchmark; what the flags leave open, the record of the checkpoint at `path` tells."""
    trained = dict(record.get("args", {}))
    from_file = trained.get("csv") and not trained.get("data") and trained.get("dataset", "csv") == "csv"
    if from_file and (Path(trained["csv"]).parent / "test.csv").is_file():
        # trained on a CSV with a test set beside it
        trained |= {"dataset": "csv", "data": str(Path(trained["csv"]).parent)}
    trained_on = trained.get("dataset")
    benchmark = args.benchmark or {"ucf101-24": "ucf-jhmdb", "ava": "ov-ava", "csv": "csv"}.get(trained_on)
    if benchmark is None:
        raise ValueError(f"{path}: was not finetuned, so it names no benchmark; give --benchmark "
                         f"{'|'.join(BENCHMARKS)}")
    same = benchmark == {"ucf101-24": "ucf-jhmdb", "ava": "ov-ava"}.get(trained_on, trained_on)
    folder = args.data or (trained.get("data") if same else None)
    sets = []
    if benchmark == "ucf-jhmdb":
        ucf = data.read_dataset("ucf101-24", folder, "test")
        sets.append(("UCF101-24", ucf, [], folder or "data/ucf101-24"))
        for split in args.split:
            jhmdb = data.read_dataset("jhmdb-21", args.jhmdb, "test", part=split)
            sets.append((f"JHMDB-21 split {split}", jhmdb, jhmdb.texts, args.jhmdb))
    elif benchmark == "ov-ava":
        ava = data.read_dataset("ava", folder, "test", version=args.version)
        sets.append(("AVA", ava, data.novel_classes("ava", ava.texts, args.novel), folder or "data/ava"))
    else:
        own = data.read_dataset("csv", folder, "test", csv=args.csv)
        base = record.get("base") or own.texts
        named = data.novel_classes("csv", own.texts, args.novel, folder)
        sets.append(("csv", own, named or [name for name in own.texts if name not in base], folder or "data/csv"))

    min_score = MIN_SCORE[benchmark] if args.score is None else args.score
    result = []
    for i, (name, truth, novel, beside) in enumerate(sets):
        path = (args.proposals[min(i, len(args.proposals) - 1)] if args.proposals
                else boxes_beside(beside, benchmark))
        if path == "ground-truth":
            proposals, source, threshold = annotated_people(truth), "ground truth", None
        else:
            proposals = read_proposals(path, truth, min_score)
            source, threshold = path, min_score
        result.append(TestSet(name, truth, proposals, novel, source, threshold, PROTOCOL[benchmark]))
    return result


def boxes_beside(folder: str, benchmark: str) -> str:
    """Where a test set's human boxes lie if --proposals does not say.

    proposals.csv in its folder; AVA's may be LFB's.
    """
    lfb = ["annotations/ava_val_predicted_boxes.csv", "ava_val_predicted_boxes.csv"]
    names = ["proposals.csv"] + lfb * (benchmark == "ov-ava")
    for path in (Path(folder) / name for name in names):
        if path.is_file():
            return str(path)
    if benchmark == "csv":
        return "ground-truth"
    raise ValueError(f"--proposals is missing, and {Path(folder) / names[0]} is not there: human boxes "
                     "on the test keyframes, from detect_humans.py or another detector's file; "
                     "or 'ground-truth', for the annotated people")


def annotated_people(truth: Annotations) -> Detections:
    """The distinct annotated boxes of each keyframe, as if a detector had found them all."""
    rows = np.flatnonzero(truth.box.any(axis=1))
    keys = keyframe_key(truth.video, truth.keyframe)[rows]
    _, first = np.unique(np.column_stack([keys, truth.box[rows]]), axis=0, return_index=True)
    rows = rows[np.sort(first)]
    return Detections(truth.video[rows], truth.keyframe[rows], truth.box[rows].astype(np.float32),
                          np.ones(len(rows), np.float32))


class ChunksInOrder(torch.utils.data.IterableDataset):
    """Batches of test clips: each loader worker takes every W-th chunk of keyframes and reads it in order.

    In order, so that keyframes that are close together share their decoded frames.
    """

    def __init__(self, clips: data.ClipDataset, chunks: list[range], batch_size: int):
        self.clips, self.chunks, self.batch_size = clips, chunks, batch_size

    def __iter__(self):
        worker = torch.utils.data.get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        for number in range(first, len(self.chunks), step):
            chunk = self.chunks[number]
            for start in range(chunk.start, chunk.stop, self.batch_size):
                places = range(start, min(start + self.batch_size, chunk.stop))
                yield number, places.stop == chunk.stop, data.collate([self.clips[place] for place in places])


@torch.inference_mode()
def score_boxes(model: ovstad.ViCLIP, boxes: Annotations, f_text: torch.Tensor, betas: list[float], settings: dict,
                folder: Path, args: argparse.Namespace, process: engine.Process) -> dict:
    """Logits of all boxes of a table, every keyframe with boxes encoded once, by all processes together.

    The keyframes are cut into chunks of fixed size, which processes take in turn; a finished chunk is a
    file in `folder`. So an interrupted run loses at most a chunk, and the result does not depend on the
    number of processes or workers. Returns, on process 0, arrays of n rows (sorted by keyframe):
    row (n,) a row of `boxes` with that video and keyframe, box (n, 4), kind (n, kinds) bool, logits
    (n, betas, C); and the list of unreadable clips; {} on the others.
    """
    clips = data.ClipDataset(boxes, settings["frames"], settings["stride"], settings["short_side"], model.patch)
    size = min(max(len(clips) // 64, 16), 256)
    chunks = [range(start, min(start + size, len(clips))) for start in range(0, len(clips), size)]
    paths = [folder / f"{chunk.start:08d}-{chunk.stop:08d}.pt" for chunk in chunks]
    todo = [i for i, path in enumerate(paths) if not path.exists()]
    process.gather(None)                                     # nobody starts before all have looked
    mine = todo[process.rank::process.world]
    loader = torch.utils.data.DataLoader(
        ChunksInOrder(clips, [chunks[i] for i in mine], args.batch_size), batch_size=None,
        num_workers=min(args.workers, len(mine)), pin_memory=process.device.type == "cuda")
    bar = tqdm(total=sum(len(chunks[i]) for i in mine), unit="clip",
               disable=None if process.is_main else True, dynamic_ncols=True)
    done: dict[int, list[dict]] = {}
    for number, last, batches in loader:
        parts = done.setdefault(number, [])
        for batch in batches:
            part = {"bad": batch["bad"], "row": torch.zeros(0, dtype=torch.long), "box": torch.zeros(0, 4),
                    "kind": torch.zeros(0, len(boxes.texts), dtype=torch.bool),
                    "logits": torch.zeros(0, len(betas), len(f_text))}
            if batch["video"] is not None:
                video = data.normalise(batch["video"].to(process.device, non_blocking=True))
                with torch.autocast(process.device.type, torch.bfloat16, enabled=args.amp):
                    f_global, f_map = model.encode_video(video)
                f_region = model.region_features(f_map, batch["boxes"])                   # (N, D)
                clip = ovstad.clip_of_box(batch["boxes"])
                f_global = f_global.float()[clip.to(process.device)]                      # (N, D)
                part["logits"] = torch.stack([model.logits(ovstad.fuse(f_region, f_global, beta), f_text)
                                              for beta in betas], 1).cpu()                # (N, betas, C)
                part["box"] = torch.cat(batch["boxes"])
                part["row"] = torch.from_numpy(clips.first_row[batch["keyframe"]])[clip]
                part["kind"] = torch.zeros(len(clip), len(boxes.texts), dtype=torch.bool)
                part["kind"][batch["labels"][:, 0], batch["labels"][:, 1]] = True
            parts.append(part)
            bar.update(len(batch["keyframe"]) + len(batch["bad"]))
        if last:
            parts = done.pop(number)
            chunk = {name: torch.cat([part[name] for part in parts]) for name in ("row", "box", "kind", "logits")}
            order = torch.argsort(chunk["row"], stable=True)
            chunk = {name: value[order] for name, value in chunk.items()}
            engine.save_checkpoint(paths[mine[number]], chunk | {"bad": sum((part["bad"] for part in parts), [])})
    bar.close()
    process.gather(None)                                     # all chunks are on disk
    if not process.is_main:
        return {}
    parts = [torch.load(path, weights_only=True) for path in paths]
    result = {name: torch.cat([part[name] for part in parts]).numpy() for name in ("row", "box", "kind", "logits")}
    return result | {"bad": sum((part["bad"] for part in parts), [])}


def detections_of(scored: dict, boxes: Annotations, kind: int, place: int) -> Detections:
    """The rows (box, class) of one kind of box at one beta, by its place among them."""
    chosen = np.flatnonzero(scored["kind"][:, kind])
    logits = scored["logits"][chosen, place]                                              # (n, C)
    n, C = logits.shape
    row = scored["row"][chosen].repeat(C)
    return Detections(boxes.video[row], boxes.keyframe[row], scored["box"][chosen].repeat(C, 0),
                      logits.reshape(-1), np.tile(np.arange(C, dtype=np.int32), n))


def score_checkpoint(path: str, args: argparse.Namespace, process: engine.Process) -> list[dict]:
    """One result for each beta and protocol, each printed; leaves the predictions under --out."""
    model, record = ovstad.load_model(path)
    arch = ovstad.ARCHS[model.arch]
    settings = {"frames": args.frames or record.get("frames") or arch.frames,
                "stride": args.stride or record.get("stride") or 1,
                "short_side": args.short_side or record.get("short_side") or round(arch.grid * arch.patch * 8 / 7)}
    betas = args.beta or [record.get("beta", ovstad.BETA)]
    sets = read_benchmark(args, record, path)
    # mistakes that would show only after all clips are encoded
    for one in sets:
        for protocol in args.protocol or [one.protocol]:
            check_protocol(one.truth, protocol, args.keyframes_without_gt)
        if args.video_map:
            check_tubes(one.truth)
    out = Path(args.out or (Path(path).parent / "eval" if os.path.exists(path) else "runs/eval"))
    out = out / str(args.ckpt.index(path)) if len(args.ckpt) > 1 else out              # all are called last.pt
    model = model.to(process.device)

    # every box of a test set once: proposals, and with --localisation also the annotated people
    prompt = record.get("prompt", ovstad.PROMPT)
    classes = list(dict.fromkeys(name for one in sets for name in one.truth.texts))
    with torch.inference_mode():
        f_text = model.encode_text([prompt.replace("{}", name) for name in classes])             # (C, D), once
    scored = []
    for number, one in enumerate(sets):
        kinds = [one.proposals] + ([annotated_people(one.truth)] if args.localisation else [])
        boxes = make_annotations(
            one.truth.videos, ["proposal", "annotated"][:len(kinds)],
            np.concatenate([k.video for k in kinds]), np.concatenate([k.keyframe for k in kinds]),
            np.concatenate([k.box for k in kinds]),
            np.repeat(range(len(kinds)), [len(k.video) for k in kinds]),
            unit=one.truth.unit, files=one.truth.files, start_sec=one.truth.start_sec)
        missing = sorted({one.truth.videos[v] for v in np.unique(boxes.video) if not one.truth.files[v]})
        if len(missing) > engine.BadClips.HOPELESS * len(np.unique(boxes.video)):
            raise FileNotFoundError(f"{one.name}: {len(missing)} of {len(np.unique(boxes.video))} videos "
                                    f"are not on disk, the first one being {missing[0]}; "
                                    "check the paths with: python check_data.py")
        folder = out / f"parts-{number}"
        key = json.dumps([os.path.abspath(path), os.path.getmtime(path) if os.path.exists(path) else 0,
                          settings, betas, classes, args.amp, args.batch_size, len(boxes),
                          zlib.crc32(boxes.box), zlib.crc32(boxes.keyframe)])
        if process.is_main:
            kept = folder / "key.json"
            if not (args.resume and kept.exists() and kept.read_text() == key):
                shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True, exist_ok=True)
            kept.write_text(key)
        process.gather(None)
        scored.append((one, boxes, score_boxes(model, boxes, f_text, betas, settings, folder, args, process)))
    if not process.is_main:
        return []

    for one, boxes, logits in scored:
        bad, keyframes = logits["bad"], len(boxes.keyframe_starts()) - 1
        if len(bad) > engine.BadClips.HOPELESS * keyframes:
            raise ValueError(f"{one.name}: {len(bad)} of {keyframes} keyframes could not be read, "
                             f"such as {bad[0]}; check the videos with: python check_data.py")
        if bad:
            print(f"{one.name}: {len(bad)} keyframes could not be read, such as {bad[0]}", file=sys.stderr)

    results = []
    for place, beta in enumerate(betas):
        for protocol in args.protocol or [sets[0].protocol]:
            rows = []
            for number, (one, boxes, logits) in enumerate(scored):
                columns = [classes.index(name) for name in one.truth.texts]
                own = logits | {"logits": logits["logits"][:, :, columns]}
                found = detections_of(own, boxes, 0, place)
                result = score_set(one, found, protocol, args) | {
                    "beta": beta, "ckpt": path, "unreadable": len(logits["bad"])}
                if args.localisation:
                    found_on_truth = detections_of(own, boxes, 1, place)
                    result["with_ground_truth_boxes"] = score_set(one, found_on_truth, protocol, args)["mean_ap"]
                    result["box_report"] = box_report(one.truth, one.proposals, protocol, args.iou)
                if args.video_map:
                    result["video_map"] = video_map(one.truth, found)
                rows.append(result)
                name = ("predictions" + (f"-{number}" if len(scored) > 1 else "")
                        + (f"_beta{beta:g}" if len(betas) > 1 else ""))
                write_predictions(out / f"{name}.csv", one.truth, found)
                report_set(one, result, out / f"{name}.csv")
            results.append(combine(rows) if len(rows) > 1 else rows[0])
            if len(rows) > 1:
                print(f"mAP  {means(results[-1]['mean_ap'])}")
            if args.joint:
                results.append(score_joint(scored, classes, place, protocol, args) | {"beta": beta, "ckpt": path})
                print(f"joint, all {len(classes)} classes on all test sets: {means(results[-1]['mean_ap'])}")
    if len(betas) > 1:
        print(f"\n{'beta':>6}  {'base':>6}  {'novel':>6}  {'all':>6}")
        for result in results:
            aps = (result["mean_ap"][split] for split in ("base", "novel", "all"))
            print(f"{result['beta']:>6g}  " + "  ".join(f"{percent(ap):>6}" for ap in aps))
    return results


def score_set(one: TestSet, found: Detections, protocol: str, args: argparse.Namespace) -> dict:
    result = frame_map(one.truth, found, protocol, args.iou, None, args.max_per_keyframe,
                       args.keyframes_without_gt)
    result = summarise(result, set(one.novel))
    return {"test_set": one.name, "boxes_from": one.boxes_from, "proposals": len(one.proposals.video),
            "min_score": one.min_score, **result}


def report_set(one: TestSet, result: dict, path: Path) -> None:
    print(f"\n{one.name}, beta {result['beta']:g}: boxes of {one.boxes_from}; predictions in {path}")
    print_table(result)
    if "box_report" in result:
        print_boxes(result["box_report"])
        print(f"with ground-truth boxes in place of proposals: mAP  {means(result['with_ground_truth_boxes'])}")
    if "video_map" in result:
        print_video_map(result["video_map"])


def combine(rows: list[dict]) -> dict:
    """One result of several test sets, each class counted where it was tested.

    Several splits of a set are averaged.
    """
    sets = {name: mean_and_spread(group)["mean_ap"] if len(group) > 1 else group[0]["mean_ap"] for name, group in
            ((name, [row for row in rows if row["test_set"].split(" split ")[0] == name])
             for name in dict.fromkeys(row["test_set"].split(" split ")[0] for row in rows))}
    values = {split: mean_of([ap[split] for ap in sets.values()]) for split in ("base", "novel")}
    classes = [entry | {"test_set": row["test_set"]} for row in rows for entry in row["classes"]]
    values["all"] = mean_of([entry["ap"] for entry in classes])
    return {"protocol": rows[0]["protocol"], "iou": rows[0]["iou"], "beta": rows[0]["beta"],
            "ckpt": rows[0]["ckpt"], "mean_ap": values, "classes": classes, "sets": rows}


def score_joint(scored: list, classes: list[str], place: int, protocol: str, args: argparse.Namespace) -> dict:
    """All classes asked of all test sets at once: separate lists hide confusions between base and novel."""
    truths, found = [], []
    first = 0
    for one, boxes, logits in scored:
        # splits of one set share videos: the first stands for all
        if " split " in one.name and not one.name.endswith(f" {args.split[0]}"):
            continue
        rows = detections_of(logits, boxes, 0, place)
        found.append(replace(rows, video=rows.video + first))
        column = np.array([classes.index(name) for name in one.truth.texts] + [-1], np.int32)
        truths.append(replace(one.truth, video=one.truth.video + np.int32(first), text=column[one.truth.text]))
        first += len(one.truth.videos)
    join = lambda name, parts: np.concatenate([getattr(part, name) for part in parts])
    truth = Annotations(sum((t.videos for t in truths), []), classes,
                        *(join(name, truths) for name in ("video", "keyframe", "box", "text")),
                        unit=truths[0].unit, size=join("size", truths) if truths[0].size is not None else None)
    everything = Detections(*(join(name, found) for name in ("video", "keyframe", "box", "score", "label")))
    result = frame_map(truth, everything, protocol, args.iou, None, args.max_per_keyframe,
                       args.keyframes_without_gt)
    return {"joint": True, **summarise(result, {name for one, *_ in scored for name in one.novel})}


# ---------------------------------------------------------------- the command line

# flags that make the result of one of the two ways to score, and that the other would ignore without a word
ONLY_CKPT = ("benchmark", "data", "jhmdb", "csv", "version", "proposals", "score", "beta", "joint",
             "localisation", "frames", "stride", "short_side", "out", "resume")
ONLY_FILES = ("predictions", "ground_truth", "label_map", "exclude", "box_report")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=engine.HelpFormatter)
    group = parser.add_argument_group("a checkpoint")
    group.add_argument("--ckpt", nargs="+",
                       help="checkpoints of train_finetune.py or train_align.py, or ViCLIP's weights "
                            "by Hub id; several give mean and spread")
    group.add_argument("--benchmark", choices=BENCHMARKS,
                       help="default: that of the set the checkpoint was trained on")
    group.add_argument("--data", help="folder of UCF101-24, AVA or your own test.csv; default: where the "
                       "checkpoint was trained, or data/ and its name")
    group.add_argument("--jhmdb", default="data/jhmdb-21", help="folder of JHMDB-21")
    group.add_argument("--csv", help="with --benchmark csv: the test annotations, in place of DATA/test.csv")
    group.add_argument("--version", help="AVA's 2.1 or 2.2; default: the newest there")
    group.add_argument("--proposals", nargs="+", metavar="FILE",
                       help="human boxes; two files for ucf-jhmdb if they are apart; 'ground-truth' for "
                            "the annotated people; default: proposals.csv in the folder of each test set "
                            "(ov-ava: or LFB's ava_val_predicted_boxes.csv; csv: or ground-truth)")
    group.add_argument("--score", type=float,
                       help="lowest proposal score; default: 0.3 for ucf-jhmdb, 0.8 for ov-ava "
                            "(Section 4.1)")
    group.add_argument("--beta", type=float, nargs="+",
                       help="fusion ratios, for one pass of the encoder; default: the checkpoint's")
    group.add_argument("--joint", action="store_true",
                       help="also all classes of ucf-jhmdb asked of both test sets at once")
    group.add_argument("--localisation", action="store_true",
                       help="also how good the boxes are, and the mAP on annotated boxes")
    group.add_argument("--frames", type=engine.positive, help="T; default: the checkpoint's")
    group.add_argument("--stride", type=engine.positive, help="default: the checkpoint's")
    group.add_argument("--short-side", type=engine.positive, help="pixels; default: the checkpoint's (256)")
    group.add_argument("--batch-size", type=engine.positive, default=16, help="clips at a time, for each process")
    group.add_argument("--out", help="folder of the predictions; default: eval/ beside the checkpoint")
    group.add_argument("--resume", action="store_true", help="keep the finished part of an interrupted run")
    engine.add_run_flags(parser)
    group = parser.add_argument_group("a saved file")
    group.add_argument("--predictions", nargs="+", metavar="CSV", help=f"rows {LAYOUT['predictions']}; "
                       "several files (seeds, checkpoints) give mean and spread")
    group.add_argument("--ground-truth", metavar="CSV|PKL",
                       help="AVA's CSV, an annotations CSV, or the pickle of UCF101-24 or JHMDB-21")
    group.add_argument("--label-map", metavar="PBTXT",
                       help="names of the ids in the CSVs; other ids are left out. Default: the .pbtxt "
                            "beside the predictions, if there is one")
    group.add_argument("--exclude", metavar="CSV", help="keyframes that do not count: video,keyframe")
    group.add_argument("--novel", metavar="TXT", help="names of the novel classes, one a line; the rest is base")
    group.add_argument("--split", nargs="+", type=int, default=[1],
                       help="test splits of JHMDB-21 (1 2 3); several give each and the mean")
    group = parser.add_argument_group("protocol")
    group.add_argument("--protocol", nargs="+", choices=["ava", "act"],
                       help="default: act for a pickle, UCF101-24 and JHMDB-21, else ava; or both")
    group.add_argument("--iou", type=float, default=0.5, help="overlap that a true detection needs")
    group.add_argument("--max-per-keyframe", type=int, default=0, metavar="N", help="best rows of a keyframe "
                       "that count; the official AVA script takes 50, others have no limit (0)")
    group.add_argument("--keyframes-without-gt", choices=["false", "ignore"], default="false",
                       help="detections on keyframes that the ground truth does not name: false as in AVA 2019, "
                       "or ignored as in AVA 2020")
    group = parser.add_argument_group("more")
    group.add_argument("--box-report", action="store_true", help="also recall and AP of the boxes alone")
    group.add_argument("--video-map", action="store_true",
                       help="also video mAP at 0.2, 0.5 and 0.5:0.95 (pickles)")
    group.add_argument("--json", metavar="FILE", help="write everything that was found, to be cited")
    group.add_argument("--plot", metavar="PNG", help="draw the AP of each class; of several results the first")
    args = parser.parse_args(argv)
    for name in ONLY_FILES if args.ckpt else ONLY_CKPT:
        if getattr(args, name) != parser.get_default(name):
            raise ValueError(f"--{name.replace('_', '-')} means nothing "
                             f"{'with' if args.ckpt else 'without'} --ckpt; leave it out")
    return args


def score_files(args: argparse.Namespace) -> list[dict]:
    """One result for each split, predictions file and protocol, each printed."""
    pickled = Path(args.ground_truth).suffix in (".pkl", ".pickle")
    results = []
    for split in args.split if pickled else [None]:
        for path in args.predictions:
            beside = Path(path).with_suffix(".pbtxt")
            map_path = args.label_map or (beside if beside.exists() else None)
            labels = read_label_map(map_path) if map_path else None
            truth = (read_act_pickle(args.ground_truth, split) if pickled
                     else read_ground_truth(args.ground_truth, labels))
            detections, left_out = read_predictions(path, truth, labels)
            excluded = read_excluded(args.exclude, truth) if args.exclude else None
            novel = read_novel(args.novel, truth) if args.novel else None
            for protocol in args.protocol or ["act" if pickled else "ava"]:
                result = frame_map(truth, detections, protocol, args.iou, excluded, args.max_per_keyframe,
                                   args.keyframes_without_gt)
                result = summarise(result, novel) if novel else result
                result["left_out"] = left_out | result["left_out"]
                result = {"predictions_file": str(path), "ground_truth_file": str(args.ground_truth),
                          "label_map": map_path and str(map_path), "test_split": split, **result}
                print(f"{path}" + (f"  split {split}" if pickled else ""))
                print_table(result)
                if args.box_report:
                    boxes = distinct_boxes(truth, detections)
                    result["box_report"] = box_report(truth, boxes, protocol, args.iou)
                    print_boxes(result["box_report"])
                results.append(result)
            if args.video_map:
                results[-1]["video_map"] = video_map(truth, detections)
                print_video_map(results[-1]["video_map"])
            print()
    return results


def main() -> None:
    args = parse_args()
    if not 0 < args.iou <= 1:
        raise ValueError(f"--iou {args.iou:g} is not in (0, 1]")
    if args.max_per_keyframe < 0:
        raise ValueError(f"--max-per-keyframe {args.max_per_keyframe} is negative; 0 is no limit")
    if args.ckpt:
        process = engine.start_process(args.device)
        results = [result for path in args.ckpt for result in score_checkpoint(path, args, process)]
        if not process.is_main:
            return
    elif args.predictions and args.ground_truth:
        results = score_files(args)
    else:
        raise ValueError("nothing to score; give --ckpt, or --predictions CSV and --ground-truth CSV|PKL")

    # several splits, seeds or checkpoints: the mean of each protocol and beta
    alike = {}
    for result in results:
        alike.setdefault((result["protocol"], result.get("beta"), result.get("joint", False)), []).append(result)
    for (protocol, beta, _), group in alike.items():
        if len(group) > 1:
            results.append(mean_and_spread(group))
            print(f"mean of {len(group)}, {protocol}" + ("" if beta is None else f", beta {beta:g}") +
                  f": {means(results[-1]['mean_ap'])}  standard deviation {means(results[-1]['spread'])}")
    if args.json:
        write_json(args.json, results[0] if len(results) == 1 else results)
    if args.plot:
        best = results[0]
        title = f"frame mAP@{best['iou']:g}, {best['protocol']}: {means(best['mean_ap'])}"
        with replacing(args.plot, binary=True) as file:
            ap_bars(title, best["classes"]).save(file, "PNG")


if __name__ == "__main__":
    engine.cli(main)
