"""Open-VCLIP (Weng et al., ICML 2023): CLIP ViT-B/16 whose frames also attend to those beside them.

It has CLIP's 302 tensors and no other. In every block of the image encoder the queries of frame t
meet the keys of frames t+1, t-1 and t; so after twelve blocks each frame sees the clip. The clip's
feature is the mean of its frames' normalised class tokens, and a class's score exp(logit_scale)
times the mean cosine. The weights are finetuned on Kinetics-400, averaged over epochs and
interpolated with CLIP's.
"""

import warnings

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2.functional import normalize

from baselines.files import find_files, read_pickle, unreadable
from ovstad import (Arch, Attention, TextEncoder, Transformer, attention, load_state, patch_grid,
                    pool_regions, resize_positions, tokenize, trim)

ARCH = Arch(16, 14, 8, 768, 12, 12, 512, 512, 12, 8, context=77)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
SOURCES = {
    "ViT-B-16.pt": "CLIP, 351 MB, MIT licence: https://openaipublic.azureedge.net/clip/models/"
                   "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f/ViT-B-16.pt",
    "swa_2_22.pth": "about 598 MB, no licence stated: folder openvclip-b16 of "
                    "https://drive.google.com/drive/folders/1VhwPFESkrr9Ed40yU5NEPIkrGIf6WQ9N"}
# the 28 official prompts; "a example" stands there as it does here
TEMPLATES = [text.replace("KIND", kind) for kind in ("photo", "video", "example", "demonstration")
             for text in ("a KIND of {}.", "a KIND of a person {}.",
                          *(f"a KIND of a person {verb} {{}}."
                            for verb in ("using", "doing", "during", "performing", "practicing")))]


class NeighbourAttention(Attention):
    """Each frame's tokens attend to those of the next, the previous and their own frame."""

    def forward(self, x: Tensor, causal: bool = False) -> Tensor:
        """x (B, T, L, M), L tokens in each of T frames -> the same shape."""
        B, T, L, M = x.shape
        qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias).view(B, T, L, 3, self.heads, -1)
        q, k, v = qkv.permute(3, 0, 1, 4, 2, 5)                      # each (B, T, nh, L, M/nh)
        x = attention(q.flatten(0, 1), self.with_neighbours(k), self.with_neighbours(v))
        return self.out_proj(x.transpose(1, 2).reshape(B, T, L, M))

    @staticmethod
    def with_neighbours(x: Tensor) -> Tensor:
        """(B, T, nh, L, M/nh) -> (B*T, nh, 3L, M/nh).

        Beyond the clip's ends stand zeros, not masked: a zero key has logit 0 and so weight exp(0).
        """
        padded = F.pad(x, (0, 0, 0, 0, 0, 0, 1, 1))                  # (B, 1 + T + 1, nh, L, M/nh)
        return torch.cat([padded[:, 2:], padded[:, :-2], x], dim=3).flatten(0, 1)


class FrameEncoder(nn.Module):
    """CLIP's image encoder on all frames of a clip, with NeighbourAttention."""

    def __init__(self, arch: Arch):
        super().__init__()
        M, scale = arch.width, arch.width ** -0.5
        self.conv1 = nn.Conv2d(3, M, arch.patch, arch.patch, bias=False)
        self.class_embedding = nn.Parameter(scale * torch.randn(M))
        self.positional_embedding = nn.Parameter(scale * torch.randn(1 + arch.grid ** 2, M))
        self.ln_pre = nn.LayerNorm(M)
        self.transformer = Transformer(M, arch.layers, arch.heads, NeighbourAttention)
        self.ln_post = nn.LayerNorm(M)
        self.proj = nn.Parameter(scale * torch.randn(M, arch.embed))

    def forward(self, video: Tensor) -> tuple[Tensor, Tensor]:
        """video (B, T, 3, H, W) -> class tokens (B, T, M), patch tokens (B, T, h, w, M)."""
        B, T = video.shape[:2]
        h, w = patch_grid(video, self.conv1.stride[0])
        x = self.conv1(video.flatten(0, 1)).flatten(2).transpose(1, 2)           # (B * T, h * w, M)
        x = x.unflatten(0, (B, T))
        x = x + resize_positions(self.positional_embedding[1:], h, w)            # ours: any size
        class_token = self.class_embedding + self.positional_embedding[0]
        x = torch.cat([class_token.to(x.dtype).expand(B, T, 1, -1), x], dim=2)
        x = self.ln_post(self.transformer(self.ln_pre(x)))
        return x[:, :, 0], x[:, :, 1:].unflatten(2, (h, w))


class OpenVCLIP(nn.Module):
    def __init__(self, arch: Arch):
        super().__init__()
        self.arch, self.patch, self.frames = "open-vclip", arch.patch, arch.frames
        self.short_side, self.context = arch.grid * arch.patch, arch.context
        self.visual = FrameEncoder(arch)
        self.text = TextEncoder(arch)
        self.logit_scale = nn.Parameter(torch.tensor(100.0).log())

    @staticmethod
    def normalise(video: Tensor) -> Tensor:
        """uint8 clips (B, T, 3, H, W) -> float in [0, 1], as encode_video takes them."""
        return video.float() / 255

    def encode_video(self, video: Tensor) -> tuple[Tensor, Tensor]:
        """video (B, T, 3, H, W) in [0, 1] -> f_global (B, D), f_map (B, T, h, w, M).

        f_global is the mean of unit vectors, not normalised again: its length is part of the score.
        """
        class_tokens, f_map = self.visual(normalize(video, CLIP_MEAN, CLIP_STD))
        return F.normalize((class_tokens @ self.visual.proj).float(), dim=-1).mean(dim=1), f_map

    def region_features(self, f_map: Tensor, boxes: list[Tensor]) -> Tensor:
        """Features (N, D) of boxes, of length 1. Ours: no patch token was trained for it."""
        with torch.autocast(f_map.device.type, enabled=False):
            pooled = pool_regions(f_map.float().mean(dim=1).permute(0, 3, 1, 2), boxes)
            return F.normalize(pooled @ self.visual.proj.float(), dim=-1)

    def encode_text(self, texts: list[str]) -> Tensor:
        """Embeddings (C, D) of a list of texts; those beyond 77 tokens are cut."""
        return self.text(trim(tokenize(texts, self.context)).to(self.logit_scale.device))

    def encode_classes(self, names: list[str]) -> Tensor:
        """Embeddings (C, D) of class names: the mean direction of the 28 prompts, of length 1."""
        prompts = [[template.replace("{}", name) for template in TEMPLATES] for name in names]
        means = [F.normalize(self.encode_text(texts).float(), dim=-1).mean(dim=0)
                 for texts in prompts]
        return F.normalize(torch.stack(means), dim=-1)

    def logits(self, features: Tensor, f_text: Tensor) -> Tensor:
        """exp(logit_scale) x the frames' mean cosine: (N, D) against (C, D) -> (N, C), float32."""
        with torch.autocast(features.device.type, enabled=False):
            return self.logit_scale.exp() * features.float() @ F.normalize(f_text.float(), dim=-1).T


def own_name(name: str) -> str:
    """CLIP names its text side as if it were the whole model; here it is the part `text`."""
    return name if name.startswith(("visual.", "logit_scale")) else f"text.{name}"


def load_weights(model: OpenVCLIP, folder: str, ratio: float = 0.5) -> None:
    """The official interpolation of all tensors: ratio x CLIP + (1 - ratio) x finetuned; strict."""
    clip_path, finetuned_path = find_files(folder, SOURCES)
    try:
        with warnings.catch_warnings():                      # of torch, against TorchScript
            warnings.simplefilter("ignore")
            clip = dict(torch.jit.load(clip_path, map_location="cpu").state_dict())
    except Exception as error:
        raise unreadable(clip_path, error) from None
    for unused in ("input_resolution", "context_length", "vocab_size"):
        clip.pop(unused, None)
    content = read_pickle(finetuned_path)
    finetuned = content.get("model_state", content)
    mean = {}
    for path, state, share in ((clip_path, clip, ratio), (finetuned_path, finetuned, 1 - ratio)):
        state = {own_name(name.removeprefix("model.")): tensor for name, tensor in state.items()}
        load_state(model, state, path)
        mean = {name: mean.get(name, 0) + share * tensor.float() for name, tensor in state.items()}
    model.load_state_dict(mean)
