"""Evaluation: scores boxes on a benchmark and prints frame mAP for base, novel and all classes.

Either a checkpoint is run on the keyframes of a benchmark, with a detector's proposals, or a saved
predictions file of any system is scored without a model. The metrics are those of the benchmarks'
official tools (metric.py): protocol `ava` is ActivityNet's evaluator, `act` is ACT's and MOC's for
UCF101-24 and JHMDB-21. The results are the rows of the paper's Tables 2 to 6.

    python evaluate.py --ckpt runs/ucf101-24/last.pt --proposals boxes.csv    # on its benchmark
    python evaluate.py --ckpt ViT-B/16 --benchmark ucf-jhmdb --beta 0         # zero-shot
    python evaluate.py --ckpt open-vclip:FOLDER --benchmark ov-ava            # another model
    python evaluate.py --predictions P.csv --ground-truth ava_val_v2.2.csv --label-map M.pbtxt
    python evaluate.py --predictions P.csv --ground-truth UCF101v2-GT.pkl --protocol ava act

A checkpoint's predictions are written in AVA's layout; their scores are logits: only order counts.
Any video-language model is evaluated that has these members; baselines/ holds two, and names them:

    patch, frames, short_side                multiple of a frame's sides, T, pixels of a short side
    normalise(video) -> float                uint8 (B, T, 3, H, W), as encode_video takes it
    encode_video(video) -> f_global (B, D), f_map (B, ...)
    region_features(f_map, boxes) -> (N, D)  boxes: B tensors (N_b, 4), xyxy in [0, 1], N_b may be 0
    encode_text(texts) -> (C, D)             the texts as they are
    encode_classes(names) -> (C, D)          class names in its own prompts: --prompts official
    logits(features, f_text) -> (N, C)       float32; any real numbers that rank
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

import data
import engine
import ovstad
from baselines import load_model
from benchmarks import BENCHMARKS, PROTOCOL, TestSet, read_benchmark, read_splits
from diagnosis import (check_names, diagnose, mean_and_spread, means, on_keyframes, percent,
                       print_table)
from draw import ap_bars
from formats.files import read_label_map, replacing
from formats.predictions import (LAYOUT, read_excluded, read_ground_truth, read_novel,
                                 read_predictions, write_predictions)
from formats.ucf_jhmdb import class_of, read_act_pickle
from metric import (check_detections, check_protocol, check_tubes, frame_map, mean_of, summarise,
                    video_map)
from table import Annotations, Detections, keyframe_key, make_annotations, merge


ZERO_SHOT_STRIDE = 8     # of weights that were not finetuned: "8 x 8" in Tables 5 and 6


# ---------------------------------------------------------------- results

def check_scorable(truth: Annotations, protocols: list[str], args: argparse.Namespace) -> None:
    """ValueError, before anything is encoded or printed, if the truth cannot be scored so.

    Says what its reader found wrong.
    """
    if not (truth.text >= 0).any():
        raise ValueError(f"nothing to score: none of the {len(truth)} rows of the annotations of "
                         f"{', '.join(truth.videos[:2])}, ... labels a person")
    for protocol in protocols:
        check_protocol(truth, protocol)
    if args.video_map:
        check_tubes(truth)
    data.say_faults(truth)


def score_set(one: TestSet, truth: Annotations, found: Detections, protocol: str,
              args: argparse.Namespace) -> dict:
    """frame_map of all or some of a set's videos as the flags have it, with base and novel."""
    excluded = one.excluded
    if args.annotated_frames_only:
        empty = ~truth.box.any(axis=1)
        nobody = truth.video[empty], truth.keyframe[empty]
        excluded = nobody if excluded is None else tuple(map(np.append, excluded, nobody))
    result = frame_map(truth, found, protocol, args.iou, excluded, args.max_per_keyframe,
                       args.keyframes_without_gt)
    return result if one.novel is None else summarise(result, set(one.novel))


def score_splits(one: TestSet, found: Detections, protocol: str, args: argparse.Namespace,
                 about: dict) -> list[dict]:
    """The result of each split of a test set, each printed; `about` becomes part of it."""
    results = []
    for split, videos in (one.splits or {None: np.arange(len(one.truth.videos))}).items():
        truth, own = (rows.select(np.isin(rows.video, videos)) for rows in (one.truth, found))
        result = score_set(one, truth, own, protocol, args)
        others = {"on videos of other splits": len(found) - len(own)} if split else {}
        result |= about | {"test_split": split,
                           "left_out": one.left_out | others | result["left_out"]}
        title = f"{one.name} split {split}" if split else one.name
        if one.proposals is not None:
            result |= {"test_set": one.name, "boxes_from": one.boxes_from,
                       "min_score": one.min_score, "proposals": len(own) // len(truth.texts)}
            title += (f", beta {result['beta']:g}: boxes of {one.boxes_from}; "
                      f"predictions in {result['predictions_file']}")
        else:
            title += f"; label map: {result['label_map'] or 'none, ids as in the ground truth'}"
        print(f"\n{title}")
        print_table(result)
        mean = result["mean_ap"]["all"]
        if args.why or mean is not None and mean < 0.01:
            result["why"] = diagnose(truth, own, protocol, args.iou)
            print("\n".join(f"why: {line}" for line in result["why"]))
        if args.video_map:
            tubes = result["video_map"] = video_map(truth, own)
            print("video mAP", *(f" @{key} {percent(ap)}" for key, ap in tubes["map"].items()),
                  f" tubes {tubes['tubes']}  ground truth {tubes['gt']}"
                  f"  min length {tubes['min_length']} frames")
        results.append(result)
    return results


def combine(sets: list[list[dict]]) -> dict:
    """One result of several test sets: each class where it was tested, the mean over its splits."""
    classes = []
    for rows in sets:
        for entries in zip(*(row["classes"] for row in rows)):
            classes.append(entries[0] | {
                "test_set": rows[0]["test_set"], "ap": mean_of(entry["ap"] for entry in entries),
                "gt": sum(entry["gt"] for entry in entries),
                "predictions": sum(entry["predictions"] for entry in entries)})
    mean_ap = {side: mean_of(mean_of(row["mean_ap"][side] for row in rows) for rows in sets)
               for side in ("base", "novel")}
    mean_ap["all"] = mean_of(entry["ap"] for entry in classes)
    return {"protocol": sets[0][0]["protocol"], "iou": sets[0][0]["iou"], "mean_ap": mean_ap,
            "classes": classes, "sets": sum(sets, [])}


def write_json(path, results: dict | list[dict]) -> None:
    """Results at full precision, one or a list of several, each with the versions that made it."""
    versions = {"python": platform.python_version()}
    for name in ("numpy", "torch", "torchvision", "av"):
        versions[name] = sys.modules[name].__version__
    if isinstance(results, list):
        content = [result | {"versions": versions} for result in results]
    else:
        content = results | {"versions": versions}
    with replacing(path) as file:
        json.dump(content, file, indent=1, allow_nan=False)
        file.write("\n")


# ---------------------------------------------------------------- a checkpoint's scores

def score_boxes(model: torch.nn.Module, f_text: torch.Tensor, one: TestSet, settings: dict,
                folder: Path, args: argparse.Namespace, process: engine.Process) -> dict:
    """Logits of a test set's proposals; each keyframe that has any goes through the encoder once.

    All processes work together, and an interrupted run goes on (engine.run_chunks). settings: all
    that the logits depend on. On process 0, of n boxes in the order of their keyframes: video,
    keyframe (n,), box (n, 4), logits (n, betas, C); and `bad`, why each of the other clips could
    not be read. On the other processes {}.
    """
    truth, people = one.truth, one.proposals
    boxes = make_annotations(truth.videos, ["person"], people.video, people.keyframe, people.box,
                             np.zeros(len(people), np.int32), unit=truth.unit, files=truth.files,
                             ava_clock=truth.ava_clock)
    clips = data.ClipDataset(boxes, settings["frames"], settings["stride"], settings["short_side"],
                             model.patch)

    @torch.inference_mode()
    def score(batches: list[dict]) -> list[dict]:            # one for each size of frame
        parts = []
        for batch in batches:
            part = {"bad": batch["bad"]}
            if batch["video"] is not None:
                video = model.normalise(batch["video"].to(process.device, non_blocking=True))
                with torch.autocast(process.device.type, torch.bfloat16, enabled=args.amp):
                    f_global, f_map = model.encode_video(video)
                f_region = model.region_features(f_map, batch["boxes"]).float()     # (N, D)
                clip = ovstad.clip_of_box(batch["boxes"])
                f_global = f_global.float()[clip.to(process.device)]                # (N, D)
                part["norm"] = torch.stack([f_region.norm(dim=1), f_global.norm(dim=1)], 1).cpu()
                if args.normalise:                           # not in the paper
                    f_region, f_global = F.normalize(f_region, dim=1), F.normalize(f_global, dim=1)
                logits = [model.logits(ovstad.fuse(f_region, f_global, beta), f_text)
                          for beta in settings["beta"]]
                part["logits"] = torch.stack(logits, 1).cpu()                       # (N, betas, C)
                part["box"] = torch.cat(batch["boxes"])
                part["row"] = torch.from_numpy(clips.first_row[batch["keyframe"]])[clip]
            parts.append(part)
        return parts

    with engine.alone(f"{folder}.lock", process.is_main):
        values = engine.run_chunks(folder, settings, clips, score, process, args.batch_size,
                                   args.workers, args.resume)
    if not process.is_main:
        return {}
    parts = sum(values, [])
    bad = sum((part["bad"] for part in parts), [])
    if bad:
        unread = (f"{one.name}: {len(bad)} of {len(clips)} keyframes could not be read, "
                  f"such as {bad[0]}")
        if len(bad) > engine.BadClips.HOPELESS * len(clips):
            raise ValueError(f"{unread}; check the videos with: python check_data.py")
        print(unread, file=sys.stderr)
    row, box, logits, norm = (torch.cat([part[name] for part in parts if name in part]).numpy()
                              for name in ("row", "box", "logits", "norm"))
    # the lengths of what Eq. 2 adds up: the shorter one weighs less than its share
    print(f"{one.name}: mean norm of f^R {norm[:, 0].mean():.3g}, of f^G {norm[:, 1].mean():.3g}")
    order = np.argsort(row, kind="stable")                   # frames of one size came together
    row = row[order]
    return {"video": boxes.video[row], "keyframe": boxes.keyframe[row], "box": box[order],
            "logits": logits[order], "bad": bad}


def detections_of(scored: dict, columns: list[int], beta: int) -> Detections:
    """All pairs of a box and one of the classes, columns of the logits; beta: an index."""
    logits = scored["logits"][:, beta, columns]                                     # (n, C)
    n, C = logits.shape
    return Detections(*(scored[name].repeat(C, 0) for name in ("video", "keyframe", "box")),
                      logits.reshape(-1), np.tile(np.arange(C, dtype=np.int32), n))


def score_checkpoint(path: str, args: argparse.Namespace, process: engine.Process) -> list[dict]:
    """One result for each beta and protocol, each printed; writes the predictions into --out."""
    model, record = load_model(path)
    benchmark, sets = read_benchmark(args, record, path)
    protocols = args.protocol or [PROTOCOL[benchmark]]
    for one in sets:
        check_scorable(one.truth, protocols, args)
        videos = np.unique(one.proposals.video)
        missing = [one.truth.videos[v] for v in videos if not one.truth.files[v]]
        if len(missing) > engine.BadClips.HOPELESS * len(videos):
            raise FileNotFoundError(f"{one.name}: {len(missing)} of {len(videos)} videos are not "
                                    f"on disk, such as {missing[0]}; check the paths with: "
                                    "python check_data.py")

    # Table 2 chose beta 0.3 for UCF-JHMDB; not in the paper: the same for OV-AVA
    betas = args.beta or [record.get("beta", ovstad.BETA)]
    out = Path(args.out or (Path(path).parent / "eval" if os.path.exists(path) else "runs/eval"))
    if len(args.ckpt) > 1:                                   # all are called last.pt
        out = out / str(args.ckpt.index(path))
    files = [[out / ("predictions" + f"_beta{beta:.15g}" * (len(betas) > 1)
                     + f"-{number}" * (len(sets) > 1) + ".csv") for number in range(len(sets))]
             for beta in betas]
    ours = (out / "parts-0" / "key.json").exists() or args.rehearse
    for file in sum(files, []) + [file.with_suffix(".pbtxt") for file in sum(files, [])]:
        if file.exists() and not ours:
            raise ValueError(f"{file}: no run of ours wrote it, as there is no {out / 'parts-0'}; "
                             "move it away, or choose another --out")

    classes = list(dict.fromkeys(name for one in sets for name in one.truth.texts))
    prompt = record.get("prompt", ovstad.PROMPT)
    weights = 0                                              # tells them from others
    for tensor in model.state_dict().values():
        weights = zlib.crc32(tensor.reshape(-1).numpy(), weights)
    settings = {"frames": args.frames or record.get("frames") or model.frames,
                "stride": args.stride or record.get("stride") or ZERO_SHOT_STRIDE,
                "short_side": args.short_side or record.get("short_side") or model.short_side,
                "ckpt": f"weights of sum {weights}", "beta": betas, "classes": classes,
                "amp": args.amp, "normalise": args.normalise,
                "prompts": args.prompts, "prompt": prompt}
    model = model.to(process.device)
    with torch.inference_mode():                             # the words once: (C, D)
        f_text = (model.encode_classes(classes) if args.prompts == "official" else
                  model.encode_text(ovstad.prompts_of(prompt, classes)))
    if args.rehearse:
        rehearse(model, f_text, sets, settings, args, process)
        return []
    scored = [score_boxes(model, f_text, one, settings, out / f"parts-{number}", args, process)
              for number, one in enumerate(sets)]
    if not process.is_main:
        return []

    results = []
    for number, beta in enumerate(betas):
        found = [detections_of(logits, [classes.index(name) for name in one.truth.texts], number)
                 for one, logits in zip(sets, scored)]
        for one, detections, file in zip(sets, found, files[number]):
            check_detections(one.truth, detections)
            write_predictions(file, one.truth, detections)
        about = {"beta": beta, "ckpt": path, "prompts": args.prompts}
        for protocol in protocols:
            rows = [score_splits(one, detections, protocol, args, about | {
                        "unreadable": len(logits["bad"]), "predictions_file": str(file)})
                    for one, detections, logits, file in zip(sets, found, scored, files[number])]
            results.append(combine(rows) | about if len(rows) > 1 else rows[0][0])
            if len(rows) > 1:
                print(f"mAP  {means(results[-1]['mean_ap'])}")
            if args.joint:
                results.append(score_joint(sets, scored, number, protocol, args) | about)
    if len(betas) > 1:
        print(f"\n{'beta':>6}  {'base':>6}  {'novel':>6}  {'all':>6}")
        for result in results:
            aps = "  ".join(f"{percent(ap):>6}" for ap in result["mean_ap"].values())
            print(f"{result['beta']:>6g}  {aps}  {result['protocol']}"
                  + ("  joint" if result.get("joint") else ""))
    return results


def score_joint(sets: list[TestSet], scored: list[dict], beta: int, protocol: str,
                args: argparse.Namespace) -> dict:
    """All classes asked of all test sets: separate lists hide confusions between base and novel."""
    truth = merge([one.truth for one in sets])               # its texts: columns of the logits
    parts, videos = [], 0
    for one, logits in zip(sets, scored):
        found = detections_of(logits, list(range(len(truth.texts))), beta)
        parts.append(replace(found, video=found.video + np.int32(videos)))
        videos += len(one.truth.videos)
    found = Detections(*map(np.concatenate, zip(*(vars(part).values() for part in parts))))
    both = TestSet("joint", truth, novel=sum((one.novel for one in sets), []))
    result = score_set(both, truth, found, protocol, args)
    print(f"joint, all {len(truth.texts)} classes on all test sets: {means(result['mean_ap'])}")
    return {"joint": True, **result}


def rehearse(model: torch.nn.Module, f_text: torch.Tensor, sets: list[TestSet], settings: dict,
             args: argparse.Namespace, process: engine.Process) -> None:
    """Scores the first keyframes of each test set, prints what to check, and writes nothing."""
    if process.world > 1:
        raise ValueError("--rehearse runs on one process; start it without torchrun")
    for one in sets:
        key = keyframe_key(one.proposals.video, one.proposals.keyframe)
        keyframes = np.unique(key)
        first = keyframes[:20 * args.batch_size]
        some = replace(one, proposals=one.proposals.select(np.isin(key, first)))
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            scored = score_boxes(model, f_text, some, settings, Path(folder), args, process)
        seconds = (time.perf_counter() - began) / len(first)
        low, middle, high = np.quantile(scored["logits"], [0, 0.5, 1])
        print(f"rehearsal of {one.name}; nothing was written\n"
              f"keyframes  {len(first):,} of {len(keyframes):,} with boxes, {len(scored['bad'])} "
              f"unreadable; {len(scored['video']) / len(first):.1f} boxes a keyframe   "
              "(normal: 0 unreadable; 1 to 10 boxes)\n"
              f"logits     {low:.1f} to {high:.1f}, half of them below {middle:.1f}, for "
              f"{len(f_text)} prompts   (normal: 10 to 30 at tau 0.01 before training, around 0 "
              "and below after it)\n"
              f"speed      {1 / seconds:.1f} clips/s on one process   (normal: steady)\n"
              f"to go      {seconds * len(keyframes) / 3600:.2f} hours on one process")


# ---------------------------------------------------------------- saved files

def score_files(args: argparse.Namespace) -> list[dict]:
    """One result for each predictions file, protocol and split, each printed."""
    pickled = Path(args.ground_truth).suffix.lower() in (".pkl", ".pickle")
    protocols = args.protocol or ["act" if pickled else "ava"]
    results = []
    for path in args.predictions:
        if not path or os.path.isdir(path):
            raise FileNotFoundError(f"--predictions {path!r}: no file")
        beside = [Path(path.removesuffix(".gz")).with_suffix(end) for end in (".pbtxt", ".PBTXT")]
        map_path = args.label_map or next((str(one) for one in beside if one.exists()), None)
        labels = read_label_map(map_path) if map_path else None
        if pickled:
            truth, splits = read_splits(lambda split: read_act_pickle(args.ground_truth, split),
                                        args.split)
            labels = labels and {i: truth.texts[class_of(name, truth.texts, map_path)]
                                 for i, name in labels.items()}
        else:
            truth, splits = read_ground_truth(args.ground_truth, labels), {}
        if args.split and not splits:
            raise ValueError(f"--split {args.split[0]}: {args.ground_truth} has no splits; "
                             "they are those of JHMDB-GT.pkl")
        check_scorable(truth, protocols, args)
        found, left_out = read_predictions(path, truth, labels)
        people, rows = truth.select(truth.text >= 0), np.lexsort((found.keyframe, found.video))
        if np.array_equal(found.box[rows], people.box) and people.person is not None and (
                found.score[rows] == people.person).all():
            raise ValueError(f"{path}: is the ground truth, whose last column is a person, not a "
                             "score")
        one = TestSet(path, truth, splits, args.novel and read_novel(args.novel, truth),
                      args.exclude and read_excluded(args.exclude, truth), left_out)
        check_names(path, truth, found)
        if pickled:                                          # it lists all frames of test videos
            known = np.isin(found.video, truth.video)
            there = on_keyframes(truth, found)
            left_out["on videos that the ground truth lacks"] = int((~known).sum())
            left_out["on frames beyond their video's end"] = int((known & ~there).sum())
            found = found.select(there)
        named = np.append(*(keyframe_key(rows.video, rows.keyframe) for rows in (truth, found)))
        if args.exclude and not np.isin(keyframe_key(*one.excluded), named).any():
            print(f"{args.exclude}: none of its keyframes is in the ground truth or the "
                  "predictions: other names, or another clock?", file=sys.stderr)
        about = {"predictions_file": path, "ground_truth_file": args.ground_truth,
                 "label_map": map_path}
        for protocol in protocols:
            results += score_splits(one, found, protocol, args, about)
    return results


# ---------------------------------------------------------------- the command line

# flags of one of the two ways to score, that the other would ignore without a word
ONLY_CKPT = ("benchmark", "data", "jhmdb", "csv", "version", "proposals", "score", "beta", "joint",
             "normalise", "prompts", "frames", "stride", "short_side", "out", "resume", "rehearse")
ONLY_FILES = ("predictions", "ground_truth", "label_map", "exclude")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=engine.HelpFormatter)
    add = parser.add_argument_group("a checkpoint").add_argument
    add("--ckpt", nargs="+", help="checkpoints of train_finetune.py or train_align.py, ViCLIP's "
        "weights by Hub id, open-vclip:FOLDER or videoclip:FOLDER; several give mean and spread")
    add("--benchmark", choices=BENCHMARKS, help="default: that of the set it was trained on")
    add("--data", help="folder of UCF101-24, AVA or your own test.csv; default: where the "
        "checkpoint was trained, or data/ and its name")
    add("--jhmdb", help="folder of JHMDB-21; default: data/jhmdb-21")
    add("--csv", help="with --benchmark csv: the test annotations, in place of DATA/test.csv")
    add("--version", help="AVA's 2.1 or 2.2; default: the newest there")
    add("--proposals", nargs="+", metavar="FILE", help="human boxes; two files for ucf-jhmdb if "
        "they are apart; 'ground-truth' for the annotated people; default: proposals.csv in each "
        "set's folder (ov-ava: or LFB's ava_val_predicted_boxes.csv; csv: or ground-truth)")
    add("--score", type=engine.number(0, 1), help="lowest proposal score; default: 0.3 for "
        "ucf-jhmdb, 0.8 for ov-ava (Section 4.1)")
    add("--beta", type=float, nargs="+", help="fusion ratios, for one pass of the encoder; "
        "default: the checkpoint's, 0 for a baseline")
    add("--prompts", choices=["paper", "official"], default="paper", help="the checkpoint's "
        "prompt, 'a person {}'; or the class names as the model's own zero-shot tests put them")
    add("--joint", action="store_true", help="also all classes of ucf-jhmdb asked of both sets")
    add("--normalise", action="store_true", help="Eq. 2 on unit vectors: f^R is shorter than f^G, "
        "so that as printed it weighs less than beta (not in the paper)")
    add("--frames", type=engine.positive, help="T; default: the checkpoint's")
    add("--stride", type=engine.positive, help="default: the checkpoint's; "
        f"{ZERO_SHOT_STRIDE} for official weights, as in Tables 5 and 6")
    add("--short-side", type=engine.positive, help="pixels; default: the checkpoint's (256)")
    add("--batch-size", type=engine.positive, default=16, help="clips at a time, for each process")
    add("--out", help="folder of the predictions; default: eval/ beside the checkpoint")
    add("--rehearse", action="store_true", help="only the first 20 batches of each test set: write "
        "nothing, and print what to check")
    add("--resume", action="store_true", help="keep what an earlier run encoded: one that was "
        "interrupted, or one to be scored by another protocol")
    engine.add_run_flags(parser)
    add = parser.add_argument_group("a saved file").add_argument
    add("--predictions", nargs="+", metavar="CSV", help=f"rows {LAYOUT['predictions']}; several "
        "files (seeds, checkpoints) give mean and spread")
    add("--ground-truth", metavar="CSV|PKL", help="AVA's CSV, an annotations CSV, or the pickle of "
        "UCF101-24 or JHMDB-21")
    add("--label-map", metavar="PBTXT", help="names of the ids in the CSVs; others are left out; "
        "default: the .pbtxt beside the predictions, if there is one")
    add("--exclude", metavar="CSV", help="keyframes that do not count: video,keyframe")
    add = parser.add_argument_group("scoring").add_argument
    add("--novel", metavar="TXT", help="names of the novel classes, one a line; the rest is base")
    add("--split", nargs="+", type=engine.positive, help="test splits of JHMDB-21; several give "
        "each and the mean; default: 1 2 3 (the paper names none)")
    add("--protocol", nargs="+", choices=["ava", "act"], help="default: act for UCF101-24 and "
        "JHMDB-21, else ava; or both")
    add("--iou", type=float, default=0.5, help="overlap that a true detection needs")
    add("--max-per-keyframe", type=int, default=0, metavar="N", help="best rows of a keyframe that "
        "count; the official AVA script takes 50, others have no limit (0)")
    add("--keyframes-without-gt", choices=["false", "ignore"], default="false", help="detections "
        "on keyframes that the truth does not name: false as in AVA 2019, ignored as in AVA 2020")
    add("--annotated-frames-only", action="store_true", help="leave out frames without people, "
        "where ACT counts every detection as false (20,762 frames of UCF101-24's test videos)")
    add("--video-map", action="store_true", help="also video mAP at 0.2, 0.5, 0.5:0.95 (pickles)")
    add("--why", action="store_true", help="what may be wrong: names, times, boxes, labels; always "
        "told under a mAP of 1 per cent")
    add("--json", metavar="FILE", help="write everything that was found, to be cited; an earlier "
        "FILE is replaced")
    add("--plot", metavar="PNG", help="draw the AP of each class, of several results the first; an "
        "earlier PNG is replaced")
    args = parser.parse_args(argv)
    for name in ONLY_FILES if args.ckpt else ONLY_CKPT:
        if getattr(args, name) != parser.get_default(name):
            raise ValueError(f"--{name.replace('_', '-')} means nothing "
                             f"{'with' if args.ckpt else 'without'} --ckpt; leave it out")
    for name, suffix in (("json", ".json"), ("plot", ".png")):     # nothing else is overwritten
        if (path := getattr(args, name)) is not None and not path.endswith(suffix):
            raise ValueError(f"--{name} {path}: expected a name that ends in {suffix}")
    if not 0 < args.iou <= 1:
        raise ValueError(f"--iou {args.iou:g} is not in (0, 1]")
    if args.max_per_keyframe < 0:
        raise ValueError(f"--max-per-keyframe {args.max_per_keyframe} is negative; 0 is no limit")
    for beta in args.beta or []:
        if not 0 <= beta <= 1:
            raise ValueError(f"--beta {beta:g} is not in [0, 1]: 1 is region only, 0 global only")
    betas = [f"{beta:.15g}" for beta in args.beta or []]     # as names of files have them
    paths = [os.path.realpath(path) for path in args.predictions or []]
    ckpts = [os.path.realpath(path) if os.path.exists(path) else path for path in args.ckpt or []]
    for name, values in (("beta", betas), ("ckpt", ckpts), ("predictions", paths),
                         ("protocol", args.protocol or [])):
        if len(set(values)) < len(values):
            raise ValueError(f"--{name} {' '.join(values)}: one is there twice")
    if args.video_map and (args.exclude or args.max_per_keyframe):
        raise ValueError("--video-map knows no --exclude and no --max-per-keyframe: tubes are "
                         "linked from all detections; leave it or these out")
    for path in filter(None, (args.json, args.plot)):        # before hours, not after
        part = Path(f"{path}.part")
        part.parent.mkdir(parents=True, exist_ok=True)
        part.touch()
        part.unlink(missing_ok=True)
    return args


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
        raise ValueError("nothing to score; give --ckpt, or --predictions CSV and "
                         "--ground-truth CSV|PKL")

    # several splits, seeds or checkpoints: the mean of each protocol, beta and set of classes
    alike = {}
    for result in results:
        classes = tuple(entry["name"] for entry in result["classes"])
        key = result["protocol"], result.get("beta"), result.get("joint"), classes
        alike.setdefault(key, []).append(result)
    for (protocol, beta, *_), group in alike.items():
        if len(group) > 1:
            results.append(mean_and_spread(group))
            print(f"mean of {len(group)}, {protocol}" + ("" if beta is None else f", beta {beta:g}")
                  + f": {means(results[-1]['mean_ap'])}"
                  f"  standard deviation {means(results[-1]['spread'])}")
    if args.json:
        write_json(args.json, results[0] if len(results) == 1 else results)
    if args.plot:
        best = results[0]
        title = f"frame mAP@{best['iou']:g}, {best['protocol']}: {means(best['mean_ap'])}"
        with replacing(args.plot, binary=True) as file:
            ap_bars(title, best["classes"]).save(file, "PNG")


if __name__ == "__main__":
    engine.cli(main)
