"""A checkpoint and some words -> one file that runs without this library: ONNX, or PyTorch's .pt2.

    python export.py --ckpt runs/ucf101-24/last.pt --actions "wave" "ride a bike" --out model.onnx

    clip (1, T, 3, H, W) uint8 RGB, boxes (n, 4) float xyxy in [0, 1]
        ->  scores (n, C) of Eq. (3), logits (n, C)

Normalisation and the words' embeddings are inside; T, H, W and the words are fixed, n is free. The
file tells the words and sizes (ONNX: metadata "ovstad"; .pt2: extra file ovstad.json; it needs
`import torchvision`). It and the checkpoint are run on the same random input, and the largest
difference is printed. ONNX needs the packages onnx and onnxscript, to be compared also onnxruntime.
"""

import argparse
import importlib.util
import io
import json
import os
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import engine
import ovstad
from data import normalise
from video import scaled_size


class FixedWords(nn.Module):
    """The whole path of Figure 2 for one clip and words that were encoded before."""

    def __init__(self, model: ovstad.ViCLIP, words: list[str], prompt: str, beta: float):
        super().__init__()
        self.model, self.beta = model, beta
        with torch.no_grad():
            self.register_buffer("f_text", model.encode_text(ovstad.prompts_of(prompt, words)))
        model.text_encoder = None                            # its work is done

    def forward(self, clip: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.model(normalise(clip), [boxes], self.f_text, self.beta)              # (n, C)
        return logits.sigmoid(), logits                                                    # Eq. (3)


def example(T: int, H: int, W: int, n: int) -> tuple[Tensor, Tensor]:
    """A random clip and n random boxes."""
    corners = torch.rand(n, 2, 2).sort(dim=1).values         # two points, smaller coordinates first
    return torch.randint(0, 256, (1, T, 3, H, W), dtype=torch.uint8), corners.flatten(1)


def export(model: FixedWords, path: Path, size: tuple[int, int, int], record: dict) -> None:
    """Write the model for clips of (T, H, W), as ONNX or .pt2 by the path's suffix."""
    arguments = {"args": example(*size, n=3), "dynamic_shapes": ({}, {0: torch.export.Dim("n")})}
    part = path.with_suffix(f".part{path.suffix}")
    path.parent.mkdir(parents=True, exist_ok=True)
    part.touch()                                             # where none can be written, an OSError
    try:
        if path.suffix == ".pt2":
            program = torch.export.export(model, **arguments)
            content = io.BytesIO()                           # a full disk would end the process
            torch.export.save(program, content, extra_files={"ovstad.json": json.dumps(record)})
            part.write_bytes(content.getbuffer())
        else:                                                # opset 18: the first that torch writes
            with warnings.catch_warnings():                  # RoIAlign's ratio -1 is ONNX's 0
                warnings.filterwarnings("ignore", message="ONNX export for RoIAlign")
                program = torch.onnx.export(
                    model, **arguments, dynamo=True, opset_version=18, verbose=False,
                    input_names=["clip", "boxes"], output_names=["scores", "logits"])
            program.model.metadata_props["ovstad"] = json.dumps(record)
            program.save(part, external_data=False)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def run_exported(path: Path, clip: Tensor, boxes: Tensor) -> list[np.ndarray]:
    """Scores and logits of the file that was written."""
    if path.suffix == ".pt2":
        with torch.inference_mode():
            return [output.numpy() for output in torch.export.load(path).module()(clip, boxes)]
    import onnxruntime
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(["scores", "logits"], {"clip": clip.numpy(), "boxes": boxes.numpy()})


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=engine.HelpFormatter)
    add = parser.add_argument
    add("--ckpt", required=True,
        help="a checkpoint of ours or ViCLIP's official weights, as for detect_actions.py")
    add("--actions", nargs="+", required=True, metavar="WORD", help="the words, fixed in the file")
    add("--out", default="model.onnx", help="the file to write, .onnx or .pt2")
    add("--picture", type=engine.positive, nargs=2, default=[1280, 720], metavar=("W", "H"),
        help="width and height of the videos it is for; their shape is the clip's")
    add("--short-side", type=engine.positive, help="of the clip; by default the checkpoint's")
    add("--frames", type=engine.positive, help="T; by default the checkpoint's")
    add("--beta", type=engine.number(0, 1),
        help="fusion ratio, Eq. 2; by default the checkpoint's")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    path = Path(args.out)
    if path.suffix not in (".onnx", ".pt2"):
        raise ValueError(f"--out {path}: ends in {path.suffix!r}; expected .onnx or .pt2")
    if path.exists() and b'{"actions": ["' not in path.read_bytes():      # as `export` has it
        raise ValueError(f"{path}: is there, and no run of ours wrote it; move it, or choose "
                         "another --out")
    missing = [name for name in ("onnx", "onnxscript") if not importlib.util.find_spec(name)]
    if path.suffix == ".onnx" and missing:
        raise ValueError(f"--out {path}: needs pip install {' '.join(missing)}; or give a name "
                         "that ends in .pt2")
    if any(not word.strip() or ":" in word or "|" in word for word in args.actions):
        raise ValueError(f"--actions {' '.join(args.actions)}: empty words and phrasings (: and |) "
                         "are not exported; give one each")
    model, record = ovstad.load_model(args.ckpt)
    short_side = args.short_side or record.get("short_side") or model.short_side
    W, H = scaled_size(*args.picture, short_side, model.patch)
    T = args.frames or record.get("frames") or model.frames
    beta = record.get("beta", ovstad.BETA) if args.beta is None else args.beta
    model = FixedWords(model, args.actions, record.get("prompt", ovstad.PROMPT), beta).eval()
    export(model, path, (T, H, W), {
        "actions": args.actions, "frames": T, "stride": record.get("stride") or 1, "height": H,
        "width": W, "beta": beta})
    print(f"{path}: clip (1, {T}, 3, {H}, {W}) uint8, boxes (n, 4) -> scores, logits "
          f"(n, {len(args.actions)}); {path.stat().st_size / 1e6:.0f} MB")
    if path.suffix == ".onnx" and not importlib.util.find_spec("onnxruntime"):
        print("not compared with PyTorch: pip install onnxruntime to do so")
        return
    torch.manual_seed(0)
    for n in (1, 10):
        inputs = example(T, H, W, n)
        with torch.inference_mode():
            expected = model(*inputs)
        scores, logits = [float(np.abs(found - ours.numpy()).max())
                          for found, ours in zip(run_exported(path, *inputs), expected)]
        print(f"{n:>2} boxes: largest difference from PyTorch {scores:.1e} of scores, "
              f"{logits:.1e} of logits")


if __name__ == "__main__":
    engine.cli(main)
