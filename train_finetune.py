r"""Stage 2, finetuning on base classes: pulls a person's feature to the prompts of what they do.

Trains on boxes labelled with base classes (Section 3.2) and writes the detector of Tables 5 and 6.
The prompts of all base classes, "a person {class}", are the texts; the focal loss takes one label
per box (UCF101-24) or several (AVA), Eq. 4. Both encoders are trained unless --freeze-text (the
paper freezes the text encoder in alignment and does not say for this stage). The recipe is Section
4.1's: SGD, batch 32, 70,000 iterations, learning rate 5e-5, stride 1; for AVA batch 8, 140,000
iterations, 1e-4, stride 8.

    torchrun --nproc_per_node 8 train_finetune.py --weights runs/align/last.pt \
        --dataset ucf101-24 --data DIR --out runs/ucf
    torchrun --nproc_per_node 8 train_finetune.py --weights runs/align/last.pt \
        --dataset ava --data DIR --out runs/ava
    python train_finetune.py --weights runs/align/last.pt --dataset csv --data DIR --out runs/mine
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import data
import engine
import ovstad
import training
from formats.proposals import add_proposals, checked_proposals
from table import Annotations

# Section 4.1; a set of your own is treated as UCF101-24
UCF_RECIPE = {"batch_size": 32, "iterations": 70_000, "lr": 5e-5, "stride": 1}
AVA_RECIPE = {"batch_size": 8, "iterations": 140_000, "lr": 1e-4, "stride": 8}


# ---------------------------------------------------------------- the data

def add_finetuning_flags(parser: argparse.ArgumentParser) -> None:
    """Stage 2's sources; `read_finetuning(args)` reads them."""
    data.add_dataset_flags(parser, ("ucf101-24", "ava", "csv"))
    group = parser.add_argument_group("boxes and classes")
    group.add_argument("--proposals",
                       help="detected boxes to train on beside the annotated ones: a proposals "
                            "CSV, or another detector's file (Section 4.1, on UCF101-24)")
    group.add_argument("--unmatched", choices=["negative", "drop"], default="negative",
                       help="proposals that overlap nobody by half: negatives of all classes (the "
                            "paper does not say), or left out")
    group.add_argument("--score", type=engine.number(0, 1), default=0.3,
                       help="the lowest score of --proposals to use")
    group.add_argument("--novel", metavar="FILE",
                       help="classes to keep out of training, one a line (default: OV-AVA's 15 "
                            "with ava, JHMDB's 21 with ucf101-24, novel.txt in its folder, if "
                            "there is one, with csv)")


def read_finetuning(args: argparse.Namespace) -> tuple[Annotations, list[str]]:
    """Stage 2's table, whose texts are the base classes alone, and the names of the novel ones."""
    table = data.read_dataset(**vars(args))
    folder = args.data or (args.csv and Path(args.csv).parent)
    novel = data.novel_classes(args.dataset, table.texts, args.novel, folder)
    base = [i for i, name in enumerate(table.texts) if name not in novel]
    if not base:
        raise ValueError(f"{args.novel or 'novel.txt'}: makes every class of {args.dataset} novel; "
                         "some must be left to train on")
    label = np.full(len(table.texts) + 1, -1, np.int32)        # text -1, nobody's label, stays -1
    label[base] = np.arange(len(base))
    table = table.select((table.text == -1) | (label[table.text] >= 0))
    table = replace(table, texts=[table.texts[i] for i in base], text=label[table.text],
                    ids=None if table.ids is None else [table.ids[i] for i in base])
    if args.proposals:
        proposals = checked_proposals(args.proposals, table, args.score, args.dataset)
        table = add_proposals(table, proposals, keep_unmatched=args.unmatched == "negative")
    return data.present(table), novel


# ---------------------------------------------------------------- the training

def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    recipe = ", ".join(f"--{name.replace('_', '-')} {value:g} (AVA {AVA_RECIPE[name]:g})"
                       for name, value in UCF_RECIPE.items())
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=engine.HelpFormatter,
                                     epilog=f"default {recipe}, --out runs/DATASET")
    add_finetuning_flags(parser)
    training.add_training_flags(parser)
    group = parser.add_argument_group("text")
    group.add_argument("--prompt", default=ovstad.PROMPT, help="{} stands for the class name")
    group.add_argument("--freeze-text", action="store_true",
                       help="train the video encoder alone (the paper does not say)")
    args = parser.parse_args(argv)
    for name, value in (AVA_RECIPE if args.dataset == "ava" else UCF_RECIPE).items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    args.out = args.out or f"runs/{args.dataset}"
    for name in ("score", "unmatched"):
        if not args.proposals and getattr(args, name) != parser.get_default(name):
            raise ValueError(f"--{name} means nothing without --proposals; leave it out")
    if "{}" not in args.prompt:
        raise ValueError(f"--prompt {args.prompt!r}: write {{}} where the class name goes")
    return args


def train(args: argparse.Namespace) -> Path | None:
    """Run stage 2 and return the path of its checkpoint; None after a rehearsal."""
    process = engine.start_process(args.device)
    out = training.output_folder(args)

    # data
    annotations, novel = read_finetuning(args)
    classes = annotations.texts
    if process.is_main:
        print(f"{len(classes)} base classes: {', '.join(classes)}\n"
              f"{len(novel)} novel classes, kept out of training: {', '.join(novel) or 'none'}")
    args.table = engine.fingerprint(annotations)             # a run goes on only on the same data
    model = training.model_for(args)
    dataset = data.ClipDataset(annotations, args.frames, args.stride, patch=model.patch,
                               crop=args.crop, scale=args.scale, mirror_texts=False)

    # model and optimiser
    model.text_encoder.requires_grad_(not args.freeze_text)
    wrapped = training.wrap(model, process)
    optimizer = training.make_optimizer(model, args)
    start = training.resume(args, model, optimizer)
    training.check_agreement(process, start, dataset)
    text = ovstad.tokenize(ovstad.prompts_of(args.prompt, classes))
    text = ovstad.trim(text).to(process.device)              # (C_b, L)
    if args.freeze_text:
        with torch.no_grad():
            text = model.text_encoder(text)                  # (C_b, D), once
    columns = {i: i for i in range(len(classes))}
    meter, bad = training.Meter(args, process, start), engine.BadClips(args, start)

    def save(step: int) -> None:
        if process.is_main:
            engine.save_checkpoint(out / "last.pt", {
                "model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step,
                "stage": "finetune", "arch": model.arch, "beta": args.beta, "prompt": args.prompt,
                "classes": classes, "base": classes, "novel": novel, "frames": args.frames,
                "stride": args.stride, "short_side": args.short_side, "args": engine.plain(args)})

    # the loop
    scale, rehearsed = None if args.crop else args.scale, []
    loader = training.training_loader(dataset, args, process, start, scale=scale)
    for step, groups in enumerate(meter.batches(loader), start + 1):
        batch = training.gather_batch(process, groups)         # all processes divide by the same N
        bad.count(batch.clips, batch.bad)

        training.set_learning_rate(optimizer, step - 1, args)
        optimizer.zero_grad()
        loss = training.forward_backward(wrapped, groups, text, columns, batch.boxes, args,
                                         process)                                          # Eq. (4)
        optimizer.step()
        model.clamp_temperature()

        meter.update(step, loss, args.batch_size,
                     [dataset.name(index) for group in groups for index in group["keyframe"]],
                     lr=optimizer.param_groups[0]["lr"], tau=model.temp.detach().clone(),
                     grad_norm=training.gradient_norm(model.vision_encoder))
        if args.rehearse:
            rehearsed.append(batch)
            if len(rehearsed) == min(training.REHEARSAL, args.iterations):
                return training.report(args, process, rehearsed, len(classes))
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
        print(f"stage 2 is done: {path}\nnext: python evaluate.py --ckpt {path}")


if __name__ == "__main__":
    engine.cli(main)
