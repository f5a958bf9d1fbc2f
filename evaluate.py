"""Evaluation: scores boxes on a benchmark and prints frame mAP for base, novel and all classes.

Either a checkpoint is run on the keyframes of a benchmark, with a detector's proposals, or a saved
predictions file of any system is scored without a model. The metrics are those of the benchmarks' official
tools (metric.py): protocol `ava` is ActivityNet's evaluator, `act` is ACT's and MOC's for UCF101-24 and
JHMDB-21. The results are the rows of the paper's Tables 2 to 6.

    python evaluate.py --ckpt runs/ucf101-24/last.pt --proposals boxes.csv       # a checkpoint on its benchmark
    python evaluate.py --ckpt ViT-B/16 --benchmark ucf-jhmdb --beta 0            # zero-shot: official weights
    python evaluate.py --predictions P.csv --ground-truth ava_val_v2.2.csv --label-map M.pbtxt
    python evaluate.py --predictions P.csv --ground-truth UCF101v2-GT.pkl --protocol ava act
    python evaluate.py --ckpt open-vclip:FOLDER --benchmark ov-ava               # another model: baselines/

A checkpoint's predictions are written in AVA's layout, with logits as scores: only their order counts.
Any video-language model is evaluated here that has these members; baselines/ holds two, and names them:

    patch, frames, short_side                  multiple of a frame's sides, T, pixels of its shorter side
    normalise(video)  -> float                 uint8 (B, T, 3, H, W), as encode_video takes it
    encode_video(video)  -> f_global (B, D), f_map (B, ...)
    region_features(f_map, boxes)  -> (N, D)   boxes: B tensors (N_b, 4), xyxy in [0, 1], N_b may be 0
    encode_text(texts)  -> (C, D)              the texts as they are
    encode_classes(names)  -> (C, D)           class names in the model's own prompts: --prompts official
    logits(features, f_text)  -> (N, C)        float32; any real numbers that rank
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

import data
import engine
import ovstad
from baselines import load_model
from diagnosis import check_names, diagnose
from draw import ap_bars
from formats.files import read_label_map, replacing
from formats.predictions import (LAYOUT, read_excluded, read_ground_truth, read_novel,
                                 read_predictions, write_predictions)
from formats.proposals import read_proposals
from formats.ucf_jhmdb import JHMDB_21, read_act_pickle
from metric import (check_detections, check_protocol, check_tubes, frame_map, mean_of, people_of,
                    summarise, video_map)
from table import Annotations, Detections, keyframe_key, make_annotations, merge


# ---------------------------------------------------------------- what it says

def print_table(result: dict) -> None:
    """Prints protocol, counts, what was left out, each class and the three means. AP in per cent."""
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
    if result["false_on_empty_keyframes"]:
        print(f"false detections {result['false']}, of which {result['false_on_empty_keyframes']} "
              "on keyframes without annotated people")
    more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
    print(f"classes {len(entries) - len(missing)} of {len(entries)} counted"
          + (f"; without ground truth: {', '.join(missing[:5])}{more}" if missing else ""))
    width = max([len(entry["name"]) for entry in entries] + [5])
    print(f"{'id':>5}  {'class':<{width}}  {'split':<5}  {'AP':>6}  {'gt':>8}  {'predictions':>11}")
    for entry in entries:
        print(f"{entry['id']:>5}  {entry['name']:<{width}}  {entry['split'] or '':<5}  "
              f"{percent(entry['ap']):>6}  {entry['gt']:>8}  {entry['predictions']:>11}")
    print("mAP  " + means(result["mean_ap"]))


def say(line: str) -> None:
    """A note on stderr, once, of all processes."""
    if engine.is_main():
        print(line, file=sys.stderr)


def beta_text(beta: float) -> str:
    """0, 0.3, 1: as many digits as tell two betas apart."""
    return repr(float(beta)).removesuffix(".0")


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


def print_video_map(result: dict) -> None:
    print("video mAP  " + "  ".join(f"@{key} {percent(value)}" for key, value in result["map"].items())
          + f"  tubes {result['tubes']}  ground truth {result['gt']}  min length {result['min_length']} frames")


def explain(truth: Annotations, found: Detections, result: dict, args: argparse.Namespace) -> None:
    """With --why, or where the mAP is under 1 %: prints what may be wrong, and keeps it in the result."""
    mean = result["mean_ap"]["all"]
    if args.why or mean is not None and mean < 0.01:
        result["why"] = diagnose(truth, found, result["protocol"], args.iou)
        for line in result["why"]:
            print(f"why: {line}")


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


# ---------------------------------------------------------------- the sets of a benchmark

@dataclass
class TestSet:
    """One test set of a benchmark: its truth, the boxes to score, and which of its classes are novel."""

    name: str
    truth: Annotations            # of the test videos of all splits
    splits: dict[int, np.ndarray]                            # split -> indices of its videos; {}: no splits
    proposals: Detections
    novel: list[str]
    boxes_from: str               # where the proposals come from, for the report
    min_score: float | None       # the lowest score of a proposal that was used


BENCHMARKS = ("ucf-jhmdb", "ov-ava", "csv")
BENCHMARK_OF = {"ucf101-24": "ucf-jhmdb", "ava": "ov-ava", "csv": "csv"}     # of a model trained on that set
PROTOCOL = {"ucf-jhmdb": "act", "ov-ava": "ava", "csv": "ava"}      # what the papers of each benchmark use
MIN_SCORE = {"ucf-jhmdb": 0.3, "ov-ava": 0.8, "csv": 0.0}           # Section 4.1: proposals above this score
ZERO_SHOT_STRIDE = 8              # of weights that were not finetuned: "8 x 8" in Tables 5 and 6


def read_benchmark(args: argparse.Namespace, record: dict, ckpt: str) -> tuple[str, list[TestSet]]:
    """A benchmark and its test sets; what the flags leave open, the record of the checkpoint tells."""
    trained = dict(record.get("args", {}))
    from_file = trained.get("csv") and not trained.get("data") and trained.get("dataset", "csv") == "csv"
    if from_file and (Path(trained["csv"]).parent / "test.csv").is_file():
        # trained on a CSV with a test set beside it
        trained |= {"dataset": "csv", "data": str(Path(trained["csv"]).parent)}
    benchmark = args.benchmark or BENCHMARK_OF.get(trained.get("dataset"))
    if benchmark is None:
        raise ValueError(f"{ckpt}: was not finetuned, so it names no benchmark; give --benchmark "
                         f"{'|'.join(BENCHMARKS)}")
    if args.split and benchmark != "ucf-jhmdb":
        raise ValueError(f"--split {args.split[0]}: {benchmark} has no splits; they are JHMDB-21's")
    same = BENCHMARK_OF.get(trained.get("dataset")) == benchmark
    folder = args.data or (trained.get("data") if same else None)
    sets = []                                                # (name, truth, splits, novel classes, folder)
    if benchmark == "ucf-jhmdb":
        ucf = data.read_dataset("ucf101-24", folder, "test")
        jhmdb, splits = read_splits(lambda split: data.read_dataset("jhmdb-21", args.jhmdb, "test", part=split),
                                    args.split)
        sets = [("UCF101-24", ucf, {}, [], folder or "data/ucf101-24"),
                ("JHMDB-21", jhmdb, splits, jhmdb.texts, args.jhmdb)]
    elif benchmark == "ov-ava":
        ava = data.read_dataset("ava", folder, "test", version=args.version)
        sets = [("AVA", ava, {}, data.novel_classes("ava", ava.texts, args.novel), folder or "data/ava")]
    else:
        own = data.read_dataset("csv", folder, "test", csv=args.csv)
        base = record.get("base") or own.texts
        novel = (data.novel_classes("csv", own.texts, args.novel, folder)
                 or [name for name in own.texts if name not in base])
        sets = [("csv", own, {}, novel, folder or "data/csv")]

    min_score = MIN_SCORE[benchmark] if args.score is None else args.score
    result = []
    for i, (name, truth, splits, novel, beside) in enumerate(sets):
        path = (args.proposals[min(i, len(args.proposals) - 1)] if args.proposals
                else boxes_beside(beside, benchmark))
        if path == "ground-truth":
            result.append(TestSet(name, truth, splits, annotated_people(truth), novel, "ground truth", None))
            continue
        proposals = read_people(path, name, truth, min_score)
        result.append(TestSet(name, truth, splits, proposals, novel, path, min_score))
    return benchmark, result


def read_splits(read, wanted: list[int] | None) -> tuple[Annotations, dict[int, np.ndarray]]:
    """The test videos of the wanted splits of a set, each once, and of each split the indices of its videos.

    read: the table of one split; of split 0 that of all. None wanted: the three of JHMDB-21, or as many as
    are there, since the paper names none; of another set the first.
    """
    tables = {split: read(split) for split in wanted or [1]}
    if wanted is None and tables[1].texts == JHMDB_21:
        for split in (2, 3):
            try:
                tables[split] = read(split)
            except ValueError:                               # a file of fewer splits
                break
    truth = read(0) if len(tables) > 1 else tables[min(tables)]
    splits = {split: np.flatnonzero(np.isin(truth.videos, table.videos)) for split, table in tables.items()}
    return truth.select(np.isin(truth.video, np.concatenate([*splits.values()]))), splits


def read_people(path: str, name: str, truth: Annotations, min_score: float) -> Detections:
    """The proposals of a test set above the score; ValueError if there are none, or none for many videos."""
    everything = read_proposals(path, truth)
    proposals = everything.select(everything.score >= min_score)
    if not len(proposals):
        raise ValueError(f"{path}: no box of score {min_score:g} or more on a keyframe of {name}; "
                         "give a lower --score")
    videos, without = np.unique(truth.video), np.setdiff1d(truth.video, everything.video)
    if len(without):
        lack = (f"{name}: {len(without)} of {len(videos)} videos have no row in {path}, "
                f"such as {truth.videos[without[0]]}")
        if len(without) > len(videos) / 4:                   # our judgement: the file is of other videos
            raise ValueError(f"{lack}; find the people in all of them, or choose fewer splits (--split)")
        say(f"{lack}; whoever is in them is missed")
    return proposals


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
    rows = people_of(truth)
    return Detections(truth.video[rows], truth.keyframe[rows], truth.box[rows].astype(np.float32),
                      np.ones(len(rows), np.float32))


# ---------------------------------------------------------------- a checkpoint's scores

def score_boxes(model: torch.nn.Module, f_text: torch.Tensor, one: TestSet, settings: dict, folder: Path,
                args: argparse.Namespace, process: engine.Process) -> dict:
    """Logits of all proposals of a test set; every keyframe with proposals goes through the encoder once.

    All processes work together, and an interrupted run goes on (engine.run_chunks). settings: all that the
    logits depend on. On process 0, of n boxes in the order of their keyframes: video, keyframe (n,), box
    (n, 4), logits (n, betas, C), norm (n, 2) of f^R and f^G; and `bad`, why each of the other clips could
    not be read. {} on the other processes.
    """
    boxes = make_annotations(one.truth.videos, ["person"], one.proposals.video, one.proposals.keyframe,
                             one.proposals.box, np.zeros(len(one.proposals), np.int32),
                             unit=one.truth.unit, files=one.truth.files, ava_clock=one.truth.ava_clock)
    clips = data.ClipDataset(boxes, settings["frames"], settings["stride"], settings["short_side"], model.patch)

    @torch.inference_mode()
    def score(batches: list[dict]) -> list[dict]:            # of one batch, one for each size of frame
        parts = []
        for batch in batches:
            part = {"bad": batch["bad"]}
            if batch["video"] is not None:
                video = model.normalise(batch["video"].to(process.device, non_blocking=True))
                with torch.autocast(process.device.type, torch.bfloat16, enabled=args.amp):
                    f_global, f_map = model.encode_video(video)
                f_region = model.region_features(f_map, batch["boxes"]).float()           # (N, D)
                clip = ovstad.clip_of_box(batch["boxes"])
                f_global = f_global.float()[clip.to(process.device)]                      # (N, D)
                part["norm"] = torch.stack([f_region.norm(dim=1), f_global.norm(dim=1)], 1).cpu()
                if args.normalise:                           # not in the paper
                    f_region, f_global = F.normalize(f_region, dim=1), F.normalize(f_global, dim=1)
                part["logits"] = torch.stack([model.logits(ovstad.fuse(f_region, f_global, beta), f_text)
                                              for beta in settings["beta"]], 1).cpu()     # (N, betas, C)
                part["box"] = torch.cat(batch["boxes"])
                part["row"] = torch.from_numpy(clips.first_row[batch["keyframe"]])[clip]
            parts.append(part)
        return parts

    values = engine.run_chunks(folder, settings, clips, score, process, args.batch_size, args.workers,
                               args.resume)
    if not process.is_main:
        return {}
    parts = sum(values, [])
    bad = sum((part["bad"] for part in parts), [])
    if len(bad) > engine.BadClips.HOPELESS * len(clips):
        raise ValueError(f"{one.name}: {len(bad)} of {len(clips)} keyframes could not be read, "
                         f"such as {bad[0]}; check the videos with: python check_data.py")
    if bad:
        say(f"{one.name}: {len(bad)} keyframes could not be read, such as {bad[0]}")
    row, box, logits, norm = (torch.cat([part[name] for part in parts if name in part]).numpy()
                              for name in ("row", "box", "logits", "norm"))
    # the lengths of what Eq. 2 adds up: the shorter one weighs less than its share
    print(f"{one.name}: mean norm of f^R {norm[:, 0].mean():.3g}, of f^G {norm[:, 1].mean():.3g}")
    order = np.argsort(row, kind="stable")                   # frames of one size came together
    row = row[order]
    return {"video": boxes.video[row], "keyframe": boxes.keyframe[row], "box": box[order],
            "logits": logits[order], "norm": norm[order], "bad": bad}


def sum_of(model: torch.nn.Module) -> int:
    """A number that tells the weights of a model on the CPU from others, whatever files they came from."""
    total = 0
    for tensor in model.state_dict().values():
        total = zlib.crc32(tensor.reshape(-1).numpy(), total)
    return total


def score_checkpoint(path: str, args: argparse.Namespace, process: engine.Process) -> list[dict]:
    """One result for each beta and protocol, each printed; writes the predictions into --out."""
    model, record = load_model(path)
    benchmark, sets = read_benchmark(args, record, path)
    protocols = args.protocol or [PROTOCOL[benchmark]]
    check_sets(sets, protocols, args)
    out = Path(args.out or (Path(path).parent / "eval" if os.path.exists(path) else "runs/eval"))
    out = out / str(args.ckpt.index(path)) if len(args.ckpt) > 1 else out              # all are called last.pt

    classes = list(dict.fromkeys(name for one in sets for name in one.truth.texts))
    # Table 2 chose beta 0.3 for UCF-JHMDB; not in the paper: the same for OV-AVA, for which it names none
    betas = list(dict.fromkeys(args.beta or [record.get("beta", ovstad.BETA)]))
    settings = {"frames": args.frames or record.get("frames") or model.frames,
                "stride": args.stride or record.get("stride") or ZERO_SHOT_STRIDE,
                "short_side": args.short_side or record.get("short_side") or model.short_side,
                "ckpt": f"weights of sum {sum_of(model)}", "beta": betas, "classes": classes, "amp": args.amp,
                "normalise": args.normalise, "prompts": args.prompts, "prompt": record.get("prompt", ovstad.PROMPT),
                "files": [os.path.getsize(file) if os.path.isfile(file) else 0
                          for one in sets for file in one.truth.files]}
    model = model.to(process.device)
    prompt = record.get("prompt", ovstad.PROMPT)
    with torch.inference_mode():                             # the words once: (C, D)
        f_text = (model.encode_classes(classes) if args.prompts == "official" else
                  model.encode_text([prompt.replace("{}", name) for name in classes]))
    if args.rehearse:
        rehearse(model, f_text, sets, settings, args, process)
        return []
    scored = [score_boxes(model, f_text, one, settings, out / f"parts-{number}", args, process)
              for number, one in enumerate(sets)]
    if not process.is_main:
        return []

    results = []
    for number, beta in enumerate(betas):
        name = "predictions" + (f"_beta{beta_text(beta)}" if len(betas) > 1 else "")
        files = [out / f"{name}-{i}.csv" for i in range(len(sets))] if len(sets) > 1 else [out / f"{name}.csv"]
        found = [detections_of(logits, [classes.index(name) for name in one.truth.texts], number)
                 for one, logits in zip(sets, scored)]
        for one, detections, file in zip(sets, found, files):
            check_detections(one.truth, detections)
            write_predictions(file, one.truth, detections)
        about = {"beta": beta, "ckpt": path, "prompts": args.prompts}
        for protocol in protocols:
            rows = [score_splits(one, detections, protocol, args, about | {
                        "unreadable": len(logits["bad"]), "predictions_file": str(file)})
                    for one, detections, logits, file in zip(sets, found, scored, files)]
            results.append(combine(rows, about) if len(rows) > 1 else rows[0][0])
            if len(rows) > 1:
                print(f"mAP  {means(results[-1]['mean_ap'])}")
            if args.joint:
                results.append(score_joint(sets, scored, number, protocol, args) | about)
    if len(betas) > 1:
        print(f"\n{'beta':>6}  {'base':>6}  {'novel':>6}  {'all':>6}")
        for result in results:
            aps = (result["mean_ap"][split] for split in ("base", "novel", "all"))
            print(f"{beta_text(result['beta']):>6}  " + "  ".join(f"{percent(ap):>6}" for ap in aps)
                  + f"  {result['protocol']}" + ("  joint" if result.get("joint") else ""))
    return results


def rehearse(model, f_text: torch.Tensor, sets: list[TestSet], settings: dict, args: argparse.Namespace,
             process: engine.Process) -> None:
    """The first keyframes of each test set, and what to check before all of them; writes nothing."""
    if process.world > 1:
        raise ValueError("--rehearse goes through the first keyframes on one process; start it without torchrun")
    for one in sets:
        key = keyframe_key(one.proposals.video, one.proposals.keyframe)
        keyframes = np.unique(key)
        first = keyframes[:20 * args.batch_size]
        some = replace(one, proposals=one.proposals.select(np.isin(key, first)))
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            scored = score_boxes(model, f_text, some, settings, Path(folder), args, process)
        seconds = time.perf_counter() - began
        low, middle, high = np.quantile(scored["logits"], [0, 0.5, 1])
        print(f"rehearsal of {one.name}; nothing was written\n"
              f"keyframes  {len(first):,} of {len(keyframes):,} with boxes, {len(scored['bad'])} unreadable; "
              f"{len(scored['video']) / len(first):.1f} boxes a keyframe   (normal: 0 unreadable; 1 to 10 boxes)\n"
              f"logits     {low:.1f} to {high:.1f}, half of them below {middle:.1f}, for {len(f_text)} prompts   "
              "(normal: 10 to 30 at tau 0.01 before training, around 0 and below after it)\n"
              f"speed      {len(first) / seconds:.1f} clips/s on one process   (normal: steady, --workers busy)\n"
              f"to go      {seconds / len(first) * len(keyframes) / 3600:.2f} hours on one process")


def check_sets(sets: list[TestSet], protocols: list[str], args: argparse.Namespace) -> None:
    """ValueError for what would show only after all clips are encoded."""
    for one in sets:
        for protocol in protocols:
            check_protocol(one.truth, protocol, args.keyframes_without_gt)
        if args.video_map:
            check_tubes(one.truth)
        videos = np.unique(one.proposals.video)
        missing = [one.truth.videos[v] for v in videos if not one.truth.files[v]]
        if len(missing) > engine.BadClips.HOPELESS * len(videos):
            raise FileNotFoundError(f"{one.name}: {len(missing)} of {len(videos)} videos are not on disk, the "
                                    f"first one being {missing[0]}; check the paths with: python check_data.py")


def detections_of(scored: dict, columns: list[int], beta: int) -> Detections:
    """All pairs of a box and one of the classes (columns of the logits), at one beta (its index)."""
    logits = scored["logits"][:, beta, columns]                                           # (n, C)
    n, C = logits.shape
    return Detections(*(scored[name].repeat(C, 0) for name in ("video", "keyframe", "box")),
                      logits.reshape(-1), np.tile(np.arange(C, dtype=np.int32), n))


def score_set(truth: Annotations, found: Detections, protocol: str, args: argparse.Namespace,
              excluded: tuple[np.ndarray, np.ndarray] | None = None) -> dict:
    """frame_map as the flags have it; excluded: keyframes (video, keyframe) that count nowhere."""
    if args.annotated_frames_only:
        empty = ~truth.box.any(axis=1)
        videos, keyframes = excluded or (truth.video[:0], truth.keyframe[:0])
        excluded = np.append(videos, truth.video[empty]), np.append(keyframes, truth.keyframe[empty])
    return frame_map(truth, found, protocol, args.iou, excluded, args.max_per_keyframe,
                     args.keyframes_without_gt)


def score_splits(one: TestSet, found: Detections, protocol: str, args: argparse.Namespace,
                 about: dict) -> list[dict]:
    """The result of each split of a test set, each printed; `about` becomes part of it."""
    rows = []
    for split in one.splits or [None]:
        truth, own = part_of(one.truth, found, one.splits.get(split))
        name = one.name if split is None else f"{one.name} split {split}"
        result = {"test_set": name, "boxes_from": one.boxes_from, "proposals": len(own) // len(truth.texts),
                  "min_score": one.min_score,
                  **summarise(score_set(truth, own, protocol, args), set(one.novel)), **about}
        print(f"\n{name}, beta {beta_text(about['beta'])}: boxes of {one.boxes_from}; "
              f"predictions in {about['predictions_file']}")
        print_table(result)
        explain(truth, own, result, args)
        if args.video_map:
            result["video_map"] = video_map(truth, own)
            print_video_map(result["video_map"])
        rows.append(result)
    if len(rows) > 1:
        print(f"\n{one.name}, mean of {len(rows)} splits: {means(mean_and_spread(rows)['mean_ap'])}")
    return rows


def part_of(truth: Annotations, found: Detections, videos: np.ndarray | None) -> tuple[Annotations, Detections]:
    """Truth and detections of some of the videos (None: of all)."""
    if videos is None:
        return truth, found
    return truth.select(np.isin(truth.video, videos)), found.select(np.isin(found.video, videos))


def combine(sets: list[list[dict]], about: dict) -> dict:
    """One result of several test sets, each class counted where it was tested; splits are averaged."""
    def mean_over_sets(side: str) -> float | None:
        return mean_of(mean_of(row["mean_ap"][side] for row in rows) for rows in sets)

    classes = []
    for rows in sets:
        for entries in zip(*(row["classes"] for row in rows)):
            classes.append(entries[0] | {"test_set": rows[0]["test_set"].split(" split ")[0],
                                         "ap": mean_of(entry["ap"] for entry in entries),
                                         "gt": sum(entry["gt"] for entry in entries),
                                         "predictions": sum(entry["predictions"] for entry in entries)})
    values = {"base": mean_over_sets("base"), "novel": mean_over_sets("novel"),
              "all": mean_of(entry["ap"] for entry in classes)}
    return {"protocol": sets[0][0]["protocol"], "iou": sets[0][0]["iou"], **about,
            "mean_ap": values, "classes": classes, "sets": sum(sets, [])}


def score_joint(sets: list[TestSet], scored: list[dict], beta: int, protocol: str,
                args: argparse.Namespace) -> dict:
    """All classes asked of all test sets at once: separate lists hide confusions between base and novel."""
    truth = merge([one.truth for one in sets])               # its texts are the columns of the logits
    if all(one.truth.size is not None for one in sets):
        truth.size = np.concatenate([one.truth.size for one in sets])
    parts, videos = [], 0
    for one, logits in zip(sets, scored):
        found = detections_of(logits, list(range(len(truth.texts))), beta)
        parts.append(replace(found, video=found.video + np.int32(videos)))
        videos += len(one.truth.videos)
    found = Detections(*map(np.concatenate, zip(*(vars(part).values() for part in parts))))
    result = summarise(score_set(truth, found, protocol, args), {name for one in sets for name in one.novel})
    print(f"joint, all {len(truth.texts)} classes on all test sets: {means(result['mean_ap'])}")
    return {"joint": True, **result}


# ---------------------------------------------------------------- the command line

# flags that make the result of one of the two ways to score, and that the other would ignore without a word
ONLY_CKPT = ("benchmark", "data", "jhmdb", "csv", "version", "proposals", "score", "beta", "joint",
             "normalise", "prompts", "frames", "stride", "short_side", "out", "resume", "rehearse")
ONLY_FILES = ("predictions", "ground_truth", "label_map", "exclude")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=engine.HelpFormatter)
    group = parser.add_argument_group("a checkpoint")
    group.add_argument("--ckpt", nargs="+",
                       help="checkpoints of train_finetune.py or train_align.py, ViCLIP's weights by Hub id, "
                            "or open-vclip:FOLDER or videoclip:FOLDER of their weights; several give mean "
                            "and spread")
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
                       help="fusion ratios, for one pass of the encoder; default: the checkpoint's, 0 for "
                            "a baseline")
    group.add_argument("--prompts", choices=["paper", "official"], default="paper",
                       help="the checkpoint's prompt, 'a person {}'; or the class names as the model's own "
                            "zero-shot tests put them: 28 prompts of Open-VCLIP, bare names for VideoCLIP")
    group.add_argument("--joint", action="store_true",
                       help="also all classes of ucf-jhmdb asked of both test sets at once")
    group.add_argument("--normalise", action="store_true",
                       help="Eq. 2 on unit vectors: f^R is shorter than f^G, so that as printed it weighs less "
                            "than beta (not in the paper)")
    group.add_argument("--frames", type=engine.positive, help="T; default: the checkpoint's")
    group.add_argument("--stride", type=engine.positive,
                       help=f"default: the checkpoint's; {ZERO_SHOT_STRIDE} for official weights, as in "
                            "Tables 5 and 6")
    group.add_argument("--short-side", type=engine.positive, help="pixels; default: the checkpoint's (256)")
    group.add_argument("--batch-size", type=engine.positive, default=16,
                       help="clips at a time, for each process")
    group.add_argument("--out", help="folder of the predictions; default: eval/ beside the checkpoint")
    group.add_argument("--rehearse", action="store_true",
                       help="only the first 20 batches of each test set: write nothing, and print what to check")
    group.add_argument("--resume", action="store_true",
                       help="keep what an earlier run encoded: one that was interrupted, or one to be scored "
                            "by another protocol")
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
    group.add_argument("--novel", metavar="TXT",
                       help="names of the novel classes, one a line; the rest is base")
    group.add_argument("--split", nargs="+", type=engine.positive,
                       help="test splits of JHMDB-21; several give each and the mean; default: 1 2 3, or as "
                            "many as the file has (the paper names none)")
    group = parser.add_argument_group("protocol")
    group.add_argument("--protocol", nargs="+", choices=["ava", "act"],
                       help="default: act for a pickle, UCF101-24 and JHMDB-21, else ava; or both")
    group.add_argument("--iou", type=float, default=0.5, help="overlap that a true detection needs")
    group.add_argument("--max-per-keyframe", type=int, default=0, metavar="N", help="best rows of a keyframe "
                       "that count; the official AVA script takes 50, others have no limit (0)")
    group.add_argument("--keyframes-without-gt", choices=["false", "ignore"], default="false",
                       help="detections on keyframes that the ground truth does not name: false as in AVA "
                            "2019, or ignored as in AVA 2020")
    group.add_argument("--annotated-frames-only", action="store_true",
                       help="leave out keyframes without any annotated person, where the ACT protocol counts "
                            "every detection as false (20,762 frames of UCF101-24's test videos)")
    group = parser.add_argument_group("more")
    group.add_argument("--video-map", action="store_true",
                       help="also video mAP at 0.2, 0.5 and 0.5:0.95 (pickles)")
    group.add_argument("--why", action="store_true",
                       help="what may be wrong: names, times, boxes, labels; always told under a mAP of "
                            "1 per cent")
    group.add_argument("--json", metavar="FILE", help="write everything that was found, to be cited")
    group.add_argument("--plot", metavar="PNG", help="draw the AP of each class; of several results the first")
    args = parser.parse_args(argv)
    for name in ONLY_FILES if args.ckpt else ONLY_CKPT:
        if getattr(args, name) != parser.get_default(name):
            raise ValueError(f"--{name.replace('_', '-')} means nothing "
                             f"{'with' if args.ckpt else 'without'} --ckpt; leave it out")
    if not 0 < args.iou <= 1:
        raise ValueError(f"--iou {args.iou:g} is not in (0, 1]")
    if args.max_per_keyframe < 0:
        raise ValueError(f"--max-per-keyframe {args.max_per_keyframe} is negative; 0 is no limit")
    for beta in args.beta or []:
        if not 0 <= beta <= 1:
            raise ValueError(f"--beta {beta:g} is not in [0, 1]: 1 is region only, 0 global only")
    return args


def score_files(args: argparse.Namespace) -> list[dict]:
    """One result for each predictions file, split and protocol, each printed."""
    pickled = Path(args.ground_truth).suffix in (".pkl", ".pickle")
    if args.split and not pickled:
        raise ValueError(f"--split {args.split[0]}: {args.ground_truth} has no splits; they are those of "
                         "JHMDB-GT.pkl")
    protocols = args.protocol or ["act" if pickled else "ava"]
    for path in (args.ground_truth, *args.predictions):
        if not Path(path).is_file():
            raise FileNotFoundError(f"{path}: no such file")
    results = []
    for path in args.predictions:
        beside = Path(path).with_suffix(".pbtxt")
        map_path = args.label_map or (beside if beside.exists() else None)
        labels = read_label_map(map_path) if map_path else None
        if pickled:
            truth, splits = read_splits(lambda split: read_act_pickle(args.ground_truth, split), args.split)
        else:
            truth, splits = read_ground_truth(args.ground_truth, labels), {None: None}
        for protocol in protocols:                           # before anything is printed
            check_protocol(truth, protocol, args.keyframes_without_gt)
        if args.video_map:
            check_tubes(truth)
        detections, left_out = read_predictions(path, truth, labels)
        check_names(path, truth, detections)
        if pickled:                                          # it lists all test videos
            known = np.isin(detections.video, truth.video)
            left_out["on videos that the ground truth lacks"] = int((~known).sum())
            detections = detections.select(known)
        excluded = read_excluded(args.exclude, truth) if args.exclude else None
        novel = read_novel(args.novel, truth) if args.novel else None
        for split, videos in splits.items():
            some, found = part_of(truth, detections, videos)
            others = {"on videos of other splits": len(detections) - len(found)}
            for protocol in protocols:
                result = score_set(some, found, protocol, args, excluded)
                result = summarise(result, novel) if novel else result
                result["left_out"] = left_out | others | result["left_out"]
                result = {"predictions_file": str(path), "ground_truth_file": str(args.ground_truth),
                          "label_map": map_path and str(map_path), "test_split": split, **result}
                print(f"{path}" + (f"  split {split}" if pickled else ""))
                print_table(result)
                explain(some, found, result, args)
                results.append(result)
            if args.video_map:
                results[-1]["video_map"] = video_map(some, found)
                print_video_map(results[-1]["video_map"])
            print()
    return results


def main() -> None:
    args = parse_args()
    if args.ckpt:
        process = engine.start_process(args.device)
        results = [result for path in args.ckpt for result in score_checkpoint(path, args, process)]
        if not process.is_main or args.rehearse:
            return
    elif args.predictions and args.ground_truth:
        results = score_files(args)
    else:
        raise ValueError("nothing to score; give --ckpt, or --predictions CSV and --ground-truth CSV|PKL")

    # several splits, seeds or checkpoints: the mean of each protocol and beta
    alike = {}
    for result in results:
        key = result["protocol"], result.get("beta"), result.get("joint", False)
        alike.setdefault(key, []).append(result)
    for (protocol, beta, _), group in alike.items():
        if len(group) > 1:
            results.append(mean_and_spread(group))
            print(f"mean of {len(group)}, {protocol}" + ("" if beta is None else f", beta {beta_text(beta)}") +
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
