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


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=engine.HelpFormatter)
    data.add_alignment_flags(parser)
    engine.add_training_flags(parser, batch_size=16, iterations=60_000, lr=1e-5, stride=1)        # Section 4.1
    parser.set_defaults(out="runs/align")
    return parser.parse_args(argv)


def train(args: argparse.Namespace) -> Path:
    """Run stage 1 and return the path of its checkpoint."""
    process = engine.start_process(args.device)
    out = Path(args.out)

    # data
    annotations = data.read_alignment(args)
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
