r"""Stage 1, video region-text alignment: teach the patches of a video to speak the language of its sentences.

Enter 7 million (person box, sentence) pairs of HC-STVG2.0 and VidSTG (Section 3.3, Table 1), leaves a
checkpoint whose region features lie near the sentences that are true of them. The video encoder is
trained, the text encoder is frozen. Each region meets all sentences of the global batch (Eq. 5), the
boxes that share its sentence being positives too, under a focal loss (Eq. 6).

    torchrun --nproc_per_node 8 train_align.py --weights ViT-B/16 \
        --hcstvg DIR --vidstg DIR --vidor DIR --out runs/align
    python train_align.py --csv pairs.csv --out runs/mine            # your own pairs, one process
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import data
import engine
import ovstad
from data import present, read_dataset
from formats.files import read_list
from table import Annotations, cached, exclude_videos, merge, sample_fraction


class SentenceFeatures:
    """Embeddings of sentences by their place in `texts`: each is encoded once in a run, when it is first needed.

    It is encoded together with the neighbours in its block, always the same ones: a matrix product's last
    bits depend on its size, and a resumed run must see the bits that the interrupted one saw.
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
        return self.table[torch.tensor(ids, dtype=torch.long).to(self.table.device, non_blocking=True)]


def add_alignment_flags(parser: argparse.ArgumentParser) -> None:
    """Stage 1's sources; `read_alignment(args)` reads them."""
    group = parser.add_argument_group(
        "data", "with none of --hcstvg, --vidstg and --csv: both official sets, under data/")
    group.add_argument("--hcstvg",
                       help="HC-STVG's folder (v1 or v2): annotation JSON and videos "
                            "(default: data/hcstvg)")
    group.add_argument("--vidstg", help="VidSTG's folder of annotation JSONs (default: data/vidstg)")
    group.add_argument("--vidor", default="data/vidor", help="VidOR's folder: VidSTG's boxes and videos")
    group.add_argument("--csv", help="your own pairs: video,keyframe,x1,y1,x2,y2,text[,person]")
    group.add_argument("--data", help="the folder that --csv's video paths start from (default: the CSV's own)")
    group.add_argument("--split", choices=["train", "all"], default="train",
                       help="of the official sets: their training part, or all parts (HC-STVG v2's train and "
                            "val, VidSTG's three), which the 7 million pairs of Table 1 seem to be")
    group.add_argument("--fraction", type=float, default=1.0,
                       help="share of the samples to train on (Table 4), chosen by --seed")
    group.add_argument("--exclude-videos", metavar="FILE",
                       help="leave out the videos whose name holds an id of FILE's first column: "
                            "with AVA's validation CSV, the HC-STVG clips that were cut from movies "
                            "that OV-AVA tests on")


def read_alignment(args: argparse.Namespace) -> Annotations:
    """Stage 1's table: the sets that the flags name, as one, its rows shared like any set's."""
    if not 0 < args.fraction <= 1:
        raise ValueError(f"--fraction {args.fraction:g}: a share of the samples is above 0 and at most 1")
    hcstvg, vidstg = args.hcstvg, args.vidstg
    if not (hcstvg or vidstg or args.csv):
        hcstvg, vidstg = "data/hcstvg", "data/vidstg"
    parts = ("train", "val", "test") if args.split == "all" else ("train",)
    # v2's test has no boxes
    sets = [read_dataset("hcstvg", hcstvg, part) for part in parts if part != "test"] if hcstvg else []
    sets += [read_dataset("vidstg", vidstg, part, vidor=args.vidor) for part in parts] if vidstg else []
    sets += [read_dataset("csv", args.data, csv=args.csv)] if args.csv else []

    def build():
        table = merge(sets) if len(sets) > 1 else sets[0]
        table = exclude_videos(table, read_list(args.exclude_videos)) if args.exclude_videos else table
        return sample_fraction(table, args.fraction, args.seed) if args.fraction < 1 else table

    sources = [one.cache for one in sets if one.cache] + [path for path in (args.csv, args.exclude_videos) if path]
    table = cached(hcstvg or vidstg or Path(args.csv).parent, "alignment", sources,
                   [args.fraction, args.seed if args.fraction < 1 else 0], build)
    table.files = [file for one in sets for file in one.files]
    return present(table)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=engine.HelpFormatter)
    add_alignment_flags(parser)
    engine.add_training_flags(parser, batch_size=16, iterations=60_000, lr=1e-5, stride=1)        # Section 4.1
    parser.set_defaults(out="runs/align")
    return parser.parse_args(argv)


def train(args: argparse.Namespace) -> Path:
    """Run stage 1 and return the path of its checkpoint."""
    process = engine.start_process(args.device)
    out = Path(args.out)

    # data
    annotations = read_alignment(args)
    model = engine.model_for(args)
    dataset = data.ClipDataset(annotations, args.frames, args.stride, patch=model.patch,
                               crop=args.crop, scale=args.scale)

    # model and optimiser
    # Section 3.3: the text encoder is frozen; tau is learned
    model.text_encoder.requires_grad_(False)
    wrapped = engine.wrap(model, process)
    optimizer = engine.make_optimizer(model, args)
    start = engine.resume(args, model, optimizer)
    engine.check_agreement(process, start, dataset)
    sentences = SentenceFeatures(model, dataset.texts)
    meter, bad = engine.Meter(args, process, start), engine.BadClips()

    def save(step: int) -> None:
        if process.is_main:
            engine.save_checkpoint(out / "last.pt", {
                "model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step,
                "stage": "align", "arch": model.arch, "beta": args.beta, "prompt": ovstad.PROMPT,
                "classes": [], "base": [], "novel": [], "frames": args.frames, "stride": args.stride,
                "short_side": args.short_side, "args": engine.plain(args)})

    # the loop
    loader = engine.training_loader(dataset, args, process, start)
    for step, batch in enumerate(meter.batches(loader), start + 1):
        # every region meets the sentences of all processes, and all count the same boxes;
        # not in the paper: equal sentences are one column, a box with several sentences is one row
        own = sorted({text for _, text in batch["labels"].tolist()})
        shared = process.gather((own, sum(len(b) for b in batch["boxes"]), len(batch["boxes"]), batch["bad"]))
        ids = sorted({text for texts, *_ in shared for text in texts})
        bad.count(sum(clips for *_, clips, _ in shared), [reason for *_, reasons in shared for reason in reasons])

        for group in optimizer.param_groups:
            group["lr"] = engine.learning_rate(step - 1, args.lr, args.warmup, args.iterations)
        optimizer.zero_grad()
        loss = engine.forward_backward(wrapped, batch, sentences(ids),                           # Eq. (6)
                                       {text: i for i, text in enumerate(ids)},
                                       sum(boxes for _, boxes, *_ in shared), args, process)
        optimizer.step()
        model.clamp_temperature()

        meter.update(step, loss, args.batch_size, [dataset.name(place) for place in batch["keyframe"]],
                     lr=optimizer.param_groups[0]["lr"], tau=model.temp.detach().clone())
        if step % args.save_every == 0 and step < args.iterations:
            meter.settle()
            save(step)
    meter.close()
    save(args.iterations)
    return out / "last.pt"


def main() -> None:
    path = train(parse_args())
    if engine.is_main():
        print(f"stage 1 is done: {path}\n"
              f"next: python train_finetune.py --weights {path} --dataset ucf101-24 --data DIR")


if __name__ == "__main__":
    engine.cli(main)
