"""Two more video-language models, the other zero-shot rows of the paper's Tables 5 and 6.

    model = build_baseline("open-vclip", weights=FOLDER)       # ViT-B-16.pt, swa_2_22.pth
    model = build_baseline("videoclip", weights=FOLDER)        # s3d_howto100m.pth, checkpoint_best.pt, vocab.txt

They stand off the method's path and answer as ViCLIP does, so that nobody asks which model it is:

    model.patch, model.frames, model.short_side     multiple of the frames' sides, T, pixels of the shorter side
    model.normalise(video)  -> float                uint8 (B, T, 3, H, W), as encode_video takes it
    model.encode_video(video)  -> f_global (B, D), f_map (B, T', h, w, M)
    model.region_features(f_map, boxes)  -> (N, D)  boxes: B tensors (N_b, 4), xyxy in [0, 1]
    model.encode_text(texts)  -> (C, D)             the texts as they are
    model.encode_classes(names)  -> (C, D)          class names in the model's own prompts
    model.logits(features, f_text)  -> (N, C)       as the official zero-shot test scores

The tables' rows are those of f_global, as far as one can tell (beta 0 in Eq. (2)): ViCLIP's row in Table 5 is
the global one of Table 3. Region features, other frame sizes and the reading of "8 x 8" are ours.
"""

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
    """The model that --ckpt names, and what is recorded of it: "open-vclip:FOLDER", or weights of ViCLIP."""
    name, _, folder = ckpt.partition(":")
    if name in NAMES:
        return build_baseline(name, folder), {"beta": 0.0, "stride": 8}          # the tables' rows: f_global, "8 x 8"
    return ovstad.load_model(ckpt)
