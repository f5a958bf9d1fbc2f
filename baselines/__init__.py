"""Two more video-language models, the other zero-shot rows of the paper's Tables 5 and 6.

    build_baseline("open-vclip", FOLDER)     # of ViT-B-16.pt, swa_2_22.pth
    build_baseline("videoclip", FOLDER)      # of s3d_howto100m.pth, checkpoint_best.pt, vocab.txt

They stand off the method's path and have the members that evaluate.py lists, so that nobody asks
which model it is. `logits` are those of their official zero-shot tests. The tables' rows are those
of f_global, as far as one can tell (beta 0 in Eq. (2)): ViCLIP's row in Table 5 is the global one
of Table 3. Region features, other frame sizes and the reading of "8 x 8" are ours.
"""

import os

from torch import nn

import ovstad
from baselines import open_vclip, videoclip

NAMES = ("open-vclip", "videoclip")


def build_baseline(name: str, weights: str | None = None) -> nn.Module:
    """The named model in evaluation mode, on the CPU.

    weights: a folder with the official files under their official names; None: random.
    """
    if name == "open-vclip":
        model, load_weights = open_vclip.OpenVCLIP(open_vclip.ARCH), open_vclip.load_weights
    elif name == "videoclip":
        model, load_weights = videoclip.VideoCLIP(videoclip.SIZE), videoclip.load_weights
    else:
        raise ValueError(f"there is no baseline {name!r}; choose one of {', '.join(NAMES)}")
    if weights is not None:
        load_weights(model, weights)
    return model.eval()


def load_model(ckpt: str) -> tuple[nn.Module, dict]:
    """The model that --ckpt names and its record: weights of ViCLIP, or "open-vclip:FOLDER"."""
    name, _, folder = os.fspath(ckpt).partition(":")
    if name in NAMES:
        return build_baseline(name, folder), {"beta": 0.0}   # the tables' rows: f_global alone
    return ovstad.load_model(ckpt)
