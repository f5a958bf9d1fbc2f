r"""Stage 1, video region-text alignment: teaches a video's patches the language of its sentences.

Trains the video encoder on 7 million (person box, sentence) pairs of HC-STVG2.0 and VidSTG (Section
3.3, Table 1) and writes a checkpoint whose region features lie near the sentences that are true of
them. The text encoder is frozen. Each region meets all sentences of the global batch (Eq. 5), and
the boxes that share its sentence are positives too, under a focal loss (Eq. 6). The recipe is
Section 4.1's: SGD, batch 16, 60,000 iterations, learning rate 1e-5.

    torchrun --nproc_per_node 8 train_align.py --weights ViT-B/16 \
        --hcstvg DIR --vidstg DIR --vidor DIR --out runs/align
    python train_align.py --csv pairs.csv --out runs/mine            # your own pairs, one process
"""

import argparse
import re
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import data
import engine
import ovstad
import training
from formats.files import read_list
from table import Annotations, cached, exclude_videos, merge, sample_fraction


# ---------------------------------------------------------------- the data

def add_alignment_flags(parser: argparse.ArgumentParser) -> None:
    """Stage 1's sources; `read_alignment(args)` reads them."""
    group = parser.add_argument_group(
        "data", "with none of --hcstvg, --vidstg and --csv: both official sets, under data/")
    group.add_argument("--hcstvg",
                       help="HC-STVG's folder (v1 or v2): annotation JSON and videos "
                            "(default: data/hcstvg)")
    group.add_argument("--vidstg", help="VidSTG's folder of annotations (default: data/vidstg)")
    group.add_argument("--vidor", default="data/vidor",
                       help="VidOR's folder: VidSTG's boxes and videos")
    group.add_argument("--csv", help="your own pairs: video,keyframe,x1,y1,x2,y2,text[,person]")
    group.add_argument("--data", help="where the CSV's video paths start (default: its folder)")
    group.add_argument("--split", choices=["all", "train"], default="all",
                       help="of the official sets: all parts (HC-STVG v2's train and val, VidSTG's "
                            "three), which Table 1 counts, or 'train' alone, to test grounding on "
                            "the others later")
    group.add_argument("--fraction", type=engine.number(0, 1), default=1.0,
                       help="share of the samples to train on (Table 4), chosen by --seed")
    group.add_argument("--novel", metavar="FILE",
                       help="class names, one a line: leave out the pairs whose sentence holds one")
    group.add_argument("--strict", action="store_true", help="stop if --novel finds such a pair")
    group.add_argument("--exclude-videos", metavar="FILE",
                       help="leave out the videos whose name holds an id of FILE's first column: "
                            "with AVA's validation CSV, the HC-STVG clips that were cut from "
                            "movies that OV-AVA tests on")


def read_alignment(args: argparse.Namespace) -> Annotations:
    """Stage 1's table: the sets that the flags name, as one, its rows shared like any set's."""
    hcstvg, vidstg = args.hcstvg, args.vidstg
    if args.data and not args.csv:
        raise ValueError(f"--data {args.data}: goes with --csv; the official sets' folders are "
                         "--hcstvg, --vidstg and --vidor")
    if not (hcstvg or vidstg or args.csv):
        hcstvg, vidstg = "data/hcstvg", "data/vidstg"
    if args.strict and not args.novel:
        raise ValueError("--strict: goes with --novel FILE, the names that no sentence may hold")
    parts = ("train", "val", "test") if args.split == "all" else ("train",)
    sets = []
    try:
        if hcstvg:                                           # v2's test part has no boxes
            sets += [data.read_dataset("hcstvg", hcstvg, part) for part in parts if part != "test"]
        if vidstg:
            sets += [data.read_dataset("vidstg", vidstg, part, vidor=args.vidor) for part in parts]
    except FileNotFoundError as error:
        hint = "; --split train does without the other parts" if args.split == "all" else ""
        raise FileNotFoundError(f"{error}{hint}") from None
    sets += [data.read_dataset("csv", args.data, csv=args.csv)] if args.csv else []

    def build() -> Annotations:
        table = merge(sets) if len(sets) > 1 else sets[0]
        if args.exclude_videos:
            before = len(np.unique(table.video))
            table = exclude_videos(table, read_list(args.exclude_videos))
            if engine.is_main():
                print(f"left out {before - len(np.unique(table.video)):,} of {before:,} videos, "
                      f"which {args.exclude_videos} names", file=sys.stderr)
        if args.novel:
            table = leave_out_novel(table, data.read_names(args.novel), args.strict)
        return sample_fraction(table, args.fraction, args.seed) if args.fraction < 1 else table

    sources = [one.cache for one in sets if one.cache]
    sources += [path for path in (args.csv, args.exclude_videos, args.novel) if path]
    if all(one.cache for one in (sets[:-1] if args.csv else sets)):
        table = cached(hcstvg or vidstg or Path(args.csv).parent, "alignment", sources,
                       [args.fraction, args.seed if args.fraction < 1 else 0, args.strict], build)
    else:                                                    # a full disk: no name tells them apart
        table = build()
    table.files = [file for one in sets for file in one.files]
    return data.present(table)


def leave_out_novel(table: Annotations, names: list[str], strict: bool) -> Annotations:
    """The table without pairs whose text holds a name as whole words; strict: then ValueError."""
    pattern = re.compile(rf"(?<!\w)({'|'.join(map(re.escape, names))})(?!\w)", re.IGNORECASE)
    told = np.array([bool(pattern.search(text)) for text in table.texts] + [False])
    rows = told[table.text]
    if rows.any() and strict:
        text = table.texts[int(table.text[rows][0])]
        raise ValueError(f"{rows.sum()} pairs name a novel class, the first being {text!r}; "
                         "leave out --strict to train without them")
    if engine.is_main():
        print(f"left out {rows.sum():,} of {len(rows):,} pairs, whose text names a novel class",
              file=sys.stderr)
    return table.select(~rows)


class SentenceFeatures:
    """Embeddings of sentences by their index in `texts`, each encoded once, when first needed.

    It is encoded together with the neighbours in its block, always the same ones: the last bits of
    a matrix product depend on its size, and a resumed run must see those of the interrupted one.
    """

    BLOCK = 16

    def __init__(self, model: ovstad.ViCLIP, texts: list[str]):
        self.model, self.texts = model, texts
        self.known = np.zeros(len(texts), bool)
        embed = ovstad.ARCHS[model.arch].embed
        self.table = torch.zeros(len(texts), embed, device=model.temp.device)    # (texts, D)

    @torch.no_grad()
    def __call__(self, ids: list[int]) -> Tensor:
        """(C, D) embeddings of C sentences."""
        for first in sorted({i - i % self.BLOCK for i in ids if not self.known[i]}):
            block = slice(first, first + self.BLOCK)
            self.table[block] = self.model.encode_text(self.texts[block])
            self.known[block] = True
        ids = torch.tensor(ids, dtype=torch.long)
        return self.table[ids.to(self.table.device, non_blocking=True)]


# ---------------------------------------------------------------- the training

def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=engine.HelpFormatter)
    add_alignment_flags(parser)
    training.add_training_flags(parser, batch_size=16, iterations=60_000, lr=1e-5,    # Section 4.1
                                stride=1)
    parser.set_defaults(out="runs/align")
    return parser.parse_args(argv)


def train(args: argparse.Namespace) -> Path | None:
    """Run stage 1 and return the path of its checkpoint; None after a rehearsal."""
    process = engine.start_process(args.device)
    out = training.output_folder(args)

    # data
    annotations = read_alignment(args)
    args.table = engine.fingerprint(annotations)             # a run goes on only on the same data
    model = training.model_for(args)
    dataset = data.ClipDataset(annotations, args.frames, args.stride, patch=model.patch,
                               crop=args.crop, scale=args.scale)

    # model and optimiser: the text encoder is frozen (Section 3.3), tau is learned
    model.text_encoder.requires_grad_(False)
    wrapped = training.wrap(model, process)
    optimizer = training.make_optimizer(model, args)
    start = training.resume(args, model, optimizer)
    training.check_agreement(process, start, dataset)
    sentences = SentenceFeatures(model, dataset.texts)
    meter, bad = training.Meter(args, process, start), engine.BadClips(args, start)

    def save(step: int) -> None:
        if process.is_main:
            engine.save_checkpoint(out / "last.pt", {
                "model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step,
                "stage": "align", "arch": model.arch, "beta": args.beta, "prompt": ovstad.PROMPT,
                "classes": [], "base": [], "novel": [], "frames": args.frames,
                "stride": args.stride, "short_side": args.short_side, "args": engine.plain(args)})

    # the loop
    scale, rehearsed = None if args.crop else args.scale, []
    loader = training.training_loader(dataset, args, process, start, scale=scale)
    for step, groups in enumerate(meter.batches(loader), start + 1):
        # every region meets the sentences of all processes, and all divide by the same N boxes;
        # not in the paper: equal sentences are one column, a box with several sentences is one row
        batch = training.gather_batch(process, groups)
        bad.count(batch.clips, batch.bad)

        training.set_learning_rate(optimizer, step - 1, args)
        optimizer.zero_grad()
        columns = {text: i for i, text in enumerate(batch.texts)}
        loss = training.forward_backward(wrapped, groups, sentences(batch.texts), columns,
                                         batch.boxes, args, process)                  # Eq. (5), (6)
        optimizer.step()
        model.clamp_temperature()

        meter.update(step, loss, args.batch_size,
                     [dataset.name(index) for group in groups for index in group["keyframe"]],
                     lr=optimizer.param_groups[0]["lr"], tau=model.temp.detach().clone(),
                     grad_norm=training.gradient_norm(model.vision_encoder))
        if args.rehearse:
            rehearsed.append(batch)
            if len(rehearsed) == min(training.REHEARSAL, args.iterations):
                return training.report(args, process, rehearsed, len(rehearsed[0].texts))
        if step % args.save_every == 0 and step < args.iterations:
            meter.settle()
            save(step)
    meter.close()
    save(args.iterations)
    return out / "last.pt"


def main() -> None:
    args = parse_args()
    with engine.alone(Path(args.out, "run.lock"), engine.is_main() and not args.rehearse):
        path = train(args)
    if path and engine.is_main():
        own = Path(args.csv or "data/csv/train.csv").parent
        there = [f"csv --data {own}"] * (own / "train.csv").is_file() + [
            name for name in ("ucf101-24", "ava") if Path("data", name).is_dir()]
        print(f"stage 1 is done: {path}\nnext: python train_finetune.py --weights {path} --dataset "
              + (there[0] if there else "ucf101-24|ava|csv --data DIR"))


if __name__ == "__main__":
    engine.cli(main)
