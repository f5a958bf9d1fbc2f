r"""Stage 2, finetuning on base classes: pull each person's fused feature to the prompts of what they do.

Enter boxes labelled with base classes (Section 3.2), leaves the detector of Tables 5 and 6. The prompts
of all base classes, "a person {class}", are the texts; the focal loss takes one label a box (UCF101-24)
or several (AVA). Both encoders are trained unless --freeze-text. The recipe is Section 4.1's: batch 32, 70,000
iterations, lr 5e-5, stride 1; for AVA batch 8, 140,000 iterations, lr 1e-4, stride 8.

    torchrun --nproc_per_node 8 train_finetune.py --weights runs/align/last.pt \
        --dataset ucf101-24 --data DIR --out runs/ucf
    torchrun --nproc_per_node 8 train_finetune.py --weights runs/align/last.pt \
        --dataset ava --data DIR --out runs/ava
    python train_finetune.py --weights runs/align/last.pt --dataset csv --data DIR --out runs/mine
"""

import argparse
from pathlib import Path

import torch

import data
import engine
import ovstad

# Section 4.1; a set of your own is treated as UCF101-24
UCF_RECIPE = {"batch_size": 32, "iterations": 70_000, "lr": 5e-5, "stride": 1}
AVA_RECIPE = {"batch_size": 8, "iterations": 140_000, "lr": 1e-4, "stride": 8}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    recipe = ", ".join(f"--{name.replace('_', '-')} {value:g} (AVA {AVA_RECIPE[name]:g})"
                       for name, value in UCF_RECIPE.items())
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=engine.HelpFormatter,
                                     epilog=f"default {recipe}, --out runs/DATASET")
    data.add_finetuning_flags(parser)
    engine.add_training_flags(parser)
    group = parser.add_argument_group("text")
    group.add_argument("--prompt", default=ovstad.PROMPT, help="{} stands for the class name")
    group.add_argument("--freeze-text", action="store_true",
                       help="train the video encoder alone (the paper does not say)")
    args = parser.parse_args(argv)
    for name, value in (AVA_RECIPE if args.dataset == "ava" else UCF_RECIPE).items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    args.out = args.out or f"runs/{args.dataset}"
    if "{}" not in args.prompt:
        raise ValueError(f"--prompt {args.prompt!r}: write {{}} where the class name goes")
    return args


def train(args: argparse.Namespace) -> Path:
    """Run stage 2 and return the path of its checkpoint."""
    process = engine.start_process(args.device)
    out = Path(args.out)

    # data
    annotations, novel = data.read_finetuning(args)
    classes = annotations.texts
    model = engine.model_for(args)
    dataset = data.ClipDataset(annotations, args.frames, args.stride, patch=model.patch,
                               crop=args.crop, scale=args.scale, mirror_texts=False)

    # model and optimiser
    model.text_encoder.requires_grad_(not args.freeze_text)
    wrapped = engine.wrap(model, process)
    optimizer = engine.make_optimizer(model, args)
    start = engine.resume(args, model, optimizer)
    engine.check_agreement(process, start, dataset)
    prompts = [args.prompt.replace("{}", name) for name in classes]
    text = ovstad.trim(ovstad.tokenize(prompts)).to(process.device)                      # (C_b, L)
    if args.freeze_text:
        with torch.no_grad():
            text = model.text_encoder(text)                  # (C_b, D), once
    columns = {i: i for i in range(len(classes))}
    meter, bad = engine.Meter(args, process, start), engine.BadClips()

    def save(step: int) -> None:
        if process.is_main:
            engine.save_checkpoint(out / "last.pt", {
                "model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step,
                "stage": "finetune", "arch": model.arch, "beta": args.beta, "prompt": args.prompt,
                "classes": classes, "base": classes, "novel": novel, "frames": args.frames,
                "stride": args.stride, "short_side": args.short_side, "args": engine.plain(args)})

    # the loop
    loader = engine.training_loader(dataset, args, process, start)
    for step, batch in enumerate(meter.batches(loader), start + 1):
        shared = process.gather((sum(len(b) for b in batch["boxes"]), len(batch["boxes"]), batch["bad"]))
        bad.count(sum(clips for _, clips, _ in shared), [reason for *_, reasons in shared for reason in reasons])

        for group in optimizer.param_groups:
            group["lr"] = engine.learning_rate(step - 1, args.lr, args.warmup, args.iterations)
        optimizer.zero_grad()
        loss = engine.forward_backward(wrapped, batch, text, columns,                     # Eq. (4)
                                       sum(boxes for boxes, *_ in shared), args, process)
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
        print(f"stage 2 is done: {path}\nnext: python evaluate.py --ckpt {path}")


if __name__ == "__main__":
    engine.cli(main)
