"""The model: ViCLIP's encoders of video and text, features of video regions, and their comparison.

    video (B, T, 3, H, W) --ViT--> f_global (B, D) and f_map (B, T, h, w, M)      Section 3.1
    f_map, human boxes --RoIAlign--> f_region (N, D)                              Section 3.2
    fuse(f_region, f_global of the clip the box is in)                            Eq. (2)
    prompts "a person {action}" --text transformer--> f_text (C, D)               Section 3.2
    cosine(f_fused, f_text) / tau --> logits (N, C); their sigmoid is the score   Eq. (3) and (5)

The encoders are ViCLIP's, tensor for tensor, so that its published weights load with no renaming:

    model = build_model("ViT-B/16", weights="OpenGVLab/ViCLIP-B-16-hf")
    f_global, f_map = model.encode_video(video)
    f_region = model.region_features(f_map, [boxes])
    f_text = model.encode_text(["a person waving"])
    scores = model.logits(fuse(f_region, f_global, beta=0.3), f_text).sigmoid()     # of one box

Shapes, here and in every file: B clips, T frames, N boxes in the batch (N_b in clip b), C prompts,
L text tokens, D shared embedding, M encoder width, nh heads, h w patch grid, H W pixels. Boxes are
xyxy in [0, 1].
"""

import functools
import math
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from torchvision.ops import roi_align

from weights import read_weights

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PROMPT = "a person {}"                           # Section 3.2
BETA = 0.3                                       # Table 2: 30 % region, 70 % global
# not in the paper: two arguments that ViCLIP's code never uses; it clamps tau at 0.01 from below
TAU_RANGE = (0.001, 0.5)


@dataclass(frozen=True)
class Arch:
    """One size of ViCLIP; `grid` and `frames` are those of its positional embeddings."""

    patch: int
    grid: int                # patches a side: 224 / patch
    frames: int
    width: int               # M of the video encoder
    layers: int
    heads: int
    embed: int               # D
    text_width: int
    text_layers: int
    text_heads: int
    vocab: int = 49408
    context: int = 32        # L


ARCHS = {
    "ViT-B/16": Arch(16, 14, 8, 768, 12, 12, 512, 512, 12, 8),
    "ViT-L/14": Arch(14, 16, 8, 1024, 24, 16, 768, 768, 12, 12),
    "toy": Arch(8, 6, 4, 96, 3, 3, 64, 64, 2, 2),              # 48 x 48 pixels: trains on a laptop
}


# ---------------------------------------------------------------- the paper's equations

def fuse(f_region: Tensor, f_global: Tensor, beta: float) -> Tensor:
    """Region features with their clip's context; both (N, D): f_global has one row per box."""
    return beta * f_region + (1 - beta) * f_global                              # Eq. (2)


def info_nce(f_video: Tensor, f_text: Tensor, tau: Tensor | float,
             positives: Tensor | None = None) -> Tensor:
    """ViCLIP's pretraining loss over B pairs, both (B, D); the i-th text belongs to the i-th video.

    positives (B, B) bool marks further true pairs, such as equal captions in a batch; the target is
    then spread evenly over a row's positives. The symmetric loss is the mean of both directions.
    """
    sim = F.normalize(f_video.float(), dim=-1) @ F.normalize(f_text.float(), dim=-1).T / tau
    target = torch.eye(len(sim), device=sim.device) if positives is None else positives.float()
    video_to_text = F.cross_entropy(sim, target / target.sum(1, keepdim=True))          # Eq. (1)
    text_to_video = F.cross_entropy(sim.T, target.T / target.T.sum(1, keepdim=True))    # its mirror
    return (video_to_text + text_to_video) / 2


def focal_loss(logits: Tensor, targets: Tensor, gamma: float = 2.0,
               boxes: Tensor | float | None = None) -> Tensor:
    """Focal loss of N boxes against C texts, summed over both and divided by the number of boxes.

    logits, targets (N, C), targets 1 where the text is true of the box. `boxes` replaces N as the
    divisor, for a batch spread over processes. No boxes: 0, still attached to the graph. It is
    computed from logits: with tau = 0.01 a float32 sigmoid is exactly 1 beyond a cosine of 0.17.
    """
    logits, targets = logits.float(), targets.float()
    positive = torch.sigmoid(-logits) ** gamma * -F.logsigmoid(logits)       # -(1 - S)^gamma log S
    negative = torch.sigmoid(logits) ** gamma * -F.logsigmoid(-logits)       # -S^gamma log(1 - S)
    loss = (targets * positive + (1 - targets) * negative).sum()
    return loss / (max(len(logits), 1) if boxes is None else boxes)             # Eq. (4) and (6)


def pool_regions(feature_map: Tensor, boxes: list[Tensor], size: int = 7) -> Tensor:
    """One feature per box: RoIAlign on the patch grid, then the mean over its bins.

    feature_map (B, M, h, w), boxes: B tensors (N_b, 4), xyxy in [0, 1], N_b may be 0 -> (N, M).
    """
    if len(boxes) != len(feature_map):
        raise ValueError(f"{len(feature_map)} clips but boxes of {len(boxes)}; give one (N_b, 4) "
                         "tensor per clip, empty where nobody is")
    h, w = feature_map.shape[-2:]
    boxes_cat = torch.cat(boxes).float()
    cells = boxes_cat * boxes_cat.new_tensor([w, h, w, h])   # [0, 1] -> grid cells, only here
    rois = torch.cat([clip_of_box(boxes)[:, None].to(cells), cells], dim=1)     # (N, 5): clip, box
    rois = rois.to(feature_map.device, non_blocking=True)
    # not in the paper: 7 x 7 bins, aligned. CPUs have RoIAlign in float32 only.
    bins = roi_align(feature_map.float(), rois, size, aligned=True)             # (N, M, 7, 7)
    return bins.mean(dim=(2, 3))                                                # (N, M)


def clip_of_box(boxes: list[Tensor]) -> Tensor:
    """Which clip each of the N boxes is in: (N,) int64."""
    return torch.cat([torch.full((b.shape[0],), i) for i, b in enumerate(boxes)])


def standardise(video: Tensor) -> Tensor:
    """Frames in [0, 1] (..., 3, H, W) with ImageNet's mean and deviation taken out."""
    def on_device(values) -> Tensor:                         # without a host-GPU synchronisation
        return torch.tensor(values).to(video.device, non_blocking=True).view(3, 1, 1)
    return (video - on_device(IMAGENET_MEAN)) / on_device(IMAGENET_STD)


# ---------------------------------------------------------------- words to tokens

@functools.lru_cache
def _tokenizer():
    from open_clip.tokenizer import SimpleTokenizer          # late: it brings half of open_clip
    return SimpleTokenizer()


def tokenize(prompts: list[str], context_length: int = 32) -> Tensor:
    """CLIP's byte-pair tokens (C, L) int64: start, text (cut to fit), end, zeros."""
    if isinstance(prompts, str):
        raise ValueError(f"tokenize takes a list of texts, got the one text {prompts!r}")
    tokenizer = _tokenizer()
    tokens = torch.zeros(len(prompts), context_length, dtype=torch.long)
    for row, prompt in zip(tokens, prompts):
        text = tokenizer.encode(prompt)[:context_length - 2]
        ids = [tokenizer.sot_token_id, *text, tokenizer.eot_token_id]
        row[:len(ids)] = torch.tensor(ids)
    return tokens


def prompts_of(template: str, names: list[str]) -> list[str]:
    """The prompts of names; ValueError if two names are the same to the tokenizer, which cuts."""
    prompts, seen = [template.replace("{}", name) for name in names], {}
    for name, tokens in zip(names, tokenize(prompts).tolist()):
        if (other := seen.setdefault(tuple(tokens), name)) != name:
            raise ValueError(f"{other!r:.80} and {name!r:.80} are the same to the model, which "
                             "reads no capitals and 30 tokens at most; give one of them, or other "
                             "words")
    return prompts


def trim(tokens: Tensor) -> Tensor:
    """Tokens (C, L) up to the last end token; attention is causal, so this changes no embedding."""
    ends = tokens.argmax(dim=-1)                             # the end token's id is the largest
    return tokens[:, :int(ends.max()) + 1] if len(tokens) else tokens


# ---------------------------------------------------------------- transformer

class QuickGELU(nn.Module):
    """x * sigmoid(1.702 x), as a scaled SiLU, whose backward pass keeps one wide tensor less."""

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(1.702 * x).div_(1.702)


def attention(q: Tensor, k: Tensor, v: Tensor, causal: bool = False) -> Tensor:
    """softmax(q k^T / sqrt(width of a head)) v, all (B, nh, L, M / nh)."""
    shape = q.shape
    inference = not (causal or torch.is_grad_enabled())
    if inference and q.device.type == "cpu" and q.dtype == torch.bfloat16:
        # plain products use the processor's bfloat16 instructions, torch's attention on CPUs does
        # not; 512 rows of one head at a time, so that their weights (512, L) stay in the cache
        q, k, v = (q * q.shape[-1] ** -0.5).flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1)
        out = [torch.softmax(rows @ key.T, -1) @ value
               for query, key, value in zip(q, k, v) for rows in query.split(512)]
        return torch.cat(out).view(shape)
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal)


class Attention(nn.Module):
    """Multi-head self-attention with nn.MultiheadAttention's parameter names."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, causal: bool = False) -> Tensor:
        B, L, M = x.shape
        qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias).view(B, L, 3, self.heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)                 # each (B, nh, L, M/nh)
        x = attention(q, k, v, causal)
        return self.out_proj(x.transpose(1, 2).reshape(B, L, M))


class Block(nn.Module):
    def __init__(self, width: int, heads: int, attend: type[nn.Module] = Attention):
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = attend(width, heads)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(width, 4 * width))
        self.mlp.add_module("gelu", QuickGELU())
        self.mlp.add_module("c_proj", nn.Linear(4 * width, width))

    def forward(self, x: Tensor, causal: bool = False) -> Tensor:
        x = x + self.attn(self.ln_1(x), causal)
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    def __init__(self, width: int, layers: int, heads: int, attend: type[nn.Module] = Attention):
        super().__init__()
        self.resblocks = nn.ModuleList(Block(width, heads, attend) for _ in range(layers))
        self.gradient_checkpointing = False
        for block in self.resblocks:                         # CLIP's initialisation
            nn.init.normal_(block.attn.in_proj_weight, std=width ** -0.5)
            nn.init.normal_(block.attn.out_proj.weight, std=width ** -0.5 * (2 * layers) ** -0.5)
            nn.init.normal_(block.mlp.c_fc.weight, std=(2 * width) ** -0.5)
            nn.init.normal_(block.mlp.c_proj.weight, std=width ** -0.5 * (2 * layers) ** -0.5)
            for linear in (block.attn.out_proj, block.mlp.c_fc, block.mlp.c_proj):
                nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor, causal: bool = False) -> Tensor:
        for block in self.resblocks:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, causal, use_reentrant=False)
            else:
                x = block(x, causal)
        return x


# ---------------------------------------------------------------- the two encoders

def patch_grid(video: Tensor, patch: int) -> tuple[int, int]:
    """Rows and columns of patches in the frames of a video (..., H, W)."""
    H, W = video.shape[-2:]
    if H % patch or W % patch:
        raise ValueError(f"frames of {H} x {W} pixels do not divide into patches of {patch}; "
                         f"resize to {max(H // patch, 1) * patch} x {max(W // patch, 1) * patch}")
    return H // patch, W // patch


def resize_positions(positions: Tensor, h: int, w: int) -> Tensor:
    """Embeddings of a square grid of patches (grid * grid, M) for another (h * w, M), bicubic."""
    grid = math.isqrt(len(positions))
    if (h, w) == (grid, grid):
        return positions
    square = positions.view(1, grid, grid, -1).permute(0, 3, 1, 2).float()      # (1, M, grid, grid)
    resized = F.interpolate(square, (h, w), mode="bicubic", align_corners=False)
    return resized.flatten(2)[0].T.to(positions.dtype)


class VideoEncoder(nn.Module):
    """ViCLIP's video transformer: attention among all patches of all frames and one class token."""

    def __init__(self, arch: Arch):
        super().__init__()
        M, scale = arch.width, arch.width ** -0.5
        patch = (1, arch.patch, arch.patch)
        self.conv1 = nn.Conv3d(3, M, kernel_size=patch, stride=patch, bias=False)
        self.class_embedding = nn.Parameter(scale * torch.randn(M))
        self.positional_embedding = nn.Parameter(scale * torch.randn(1 + arch.grid ** 2, M))
        self.temporal_positional_embedding = nn.Parameter(torch.zeros(1, arch.frames, M))
        self.ln_pre = nn.LayerNorm(M)
        self.transformer = Transformer(M, arch.layers, arch.heads)
        self.ln_post = nn.LayerNorm(M)
        self.proj = nn.Parameter(scale * torch.randn(M, arch.embed))

    def positions(self, T: int, h: int, w: int) -> tuple[Tensor, Tensor]:
        """Embeddings of the patches (h * w, M) and, resized linearly, of the frames (T, M)."""
        space = resize_positions(self.positional_embedding[1:], h, w)
        time = self.temporal_positional_embedding                               # (1, T, M)
        if T != time.shape[1]:
            time = F.interpolate(time.mT.float(), T, mode="linear", align_corners=False)
            time = time.mT.to(space.dtype)
        return space, time[0]

    def forward(self, video: Tensor) -> tuple[Tensor, Tensor]:
        """video (B, T, 3, H, W) -> class token (B, M), patches (B, T, h, w, M), after ln_post."""
        B, T = video.shape[:2]
        p = self.conv1.kernel_size[1]
        h, w = patch_grid(video, p)
        # the stride-p convolution of disjoint patches, as the one matrix product that it is
        x = video.reshape(B, T, 3, h, p, w, p)
        x = x.permute(0, 3, 5, 1, 2, 4, 6)                   # (B, h, w, T, 3, p, p)
        x = F.linear(x.reshape(B, h * w, T, 3 * p ** 2), self.conv1.weight.flatten(1))
        space, time = self.positions(T, h, w)
        x = (x + space[:, None] + time).flatten(1, 2)        # (B, h*w*T, M): a patch in all frames
        class_token = self.class_embedding + self.positional_embedding[0]       # no temporal one
        x = torch.cat([class_token.to(x.dtype).expand(B, 1, -1), x], dim=1)     # (B, 1 + h*w*T, M)
        x = self.ln_post(self.transformer(self.ln_pre(x)))
        return x[:, 0], x[:, 1:].view(B, h, w, T, -1).permute(0, 3, 1, 2, 4)


class TextEncoder(nn.Module):
    """CLIP's text transformer: causal, pooled at the end-of-text token."""

    def __init__(self, arch: Arch):
        super().__init__()
        M = arch.text_width
        self.token_embedding = nn.Embedding(arch.vocab, M)
        self.positional_embedding = nn.Parameter(0.01 * torch.randn(arch.context, M))
        self.transformer = Transformer(M, arch.text_layers, arch.text_heads)
        self.ln_final = nn.LayerNorm(M)
        self.text_projection = nn.Parameter(M ** -0.5 * torch.randn(M, arch.embed))
        nn.init.normal_(self.token_embedding.weight, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens (C, L) int -> (C, D)."""
        end = tokens.argmax(dim=-1)                          # the end token has the largest id
        x = self.token_embedding(tokens) + self.positional_embedding[:tokens.shape[1]]
        x = self.transformer(x, causal=True)                 # (C, L, M)
        x = self.ln_final(x[torch.arange(len(x), device=x.device), end])
        return x @ self.text_projection


class ViCLIP(nn.Module):
    """Both encoders, the temperature tau (`temp`), and the features of video regions."""

    def __init__(self, arch: str = "ViT-B/16"):
        super().__init__()
        if arch not in ARCHS:
            raise ValueError(f"there is no architecture {arch!r}; choose one of {', '.join(ARCHS)}")
        self.arch, self.patch, self.frames = arch, ARCHS[arch].patch, ARCHS[arch].frames
        self.short_side = round(ARCHS[arch].grid * self.patch * 8 / 7)          # 256 pixels for 224
        self.temp = nn.Parameter(torch.tensor(0.01))         # tau
        self.vision_encoder = VideoEncoder(ARCHS[arch])
        self.text_encoder = TextEncoder(ARCHS[arch])

    def set_gradient_checkpointing(self, on: bool) -> None:
        """Recompute the video encoder's blocks in backward: less memory, a third more time."""
        self.vision_encoder.transformer.gradient_checkpointing = on

    @torch.no_grad()
    def clamp_temperature(self) -> None:
        """Keep the learnable tau within TAU_RANGE; call it after each optimiser step."""
        self.temp.clamp_(*TAU_RANGE)

    @staticmethod
    def normalise(video: Tensor) -> Tensor:
        """uint8 clips (B, T, 3, H, W) -> float, as encode_video takes them."""
        return standardise(video.float() / 255)

    def encode_video(self, video: Tensor) -> tuple[Tensor, Tensor]:
        """Global features and the map of a batch of clips; deterministic, every token used.

        video (B, T, 3, H, W), float, normalised with ImageNet's mean and std, H and W multiples of
        the patch -> f_global (B, D), f_map (B, T, h, w, M): patch tokens, not yet projected to D.
        """
        class_token, f_map = self.vision_encoder(video)
        return class_token @ self.vision_encoder.proj, f_map

    def region_features(self, f_map: Tensor, boxes: list[Tensor]) -> Tensor:
        """Features (N, D) of B tensors of boxes (N_b, 4), xyxy in [0, 1], in the space of f_global.

        The mean over time, RoIAlign, the mean over its bins and `proj` are all linear, so their
        order is free: pooling first and projecting N vectors equals projecting every token.
        """
        feature_map = f_map.float().mean(dim=1).permute(0, 3, 1, 2)             # (B, M, h, w)
        with torch.autocast(f_map.device.type, enabled=False):                  # N is small
            return pool_regions(feature_map, boxes) @ self.vision_encoder.proj.float()

    def encode_text(self, prompts: list[str]) -> Tensor:
        """Embeddings (C, D) of a list of texts."""
        tokens = trim(tokenize(prompts, ARCHS[self.arch].context))
        return self.text_encoder(tokens.to(self.temp.device))

    def encode_classes(self, names: list[str]) -> Tensor:
        """Embeddings (C, D) of class names in the paper's prompt."""
        return self.encode_text([PROMPT.replace("{}", name) for name in names])

    def logits(self, features: Tensor, f_text: Tensor) -> Tensor:
        """Cosine over tau: (N, D) against (C, D) -> (N, C), float32. Their sigmoid is the score."""
        # bfloat16 resolves cosines only to about 0.002, which would create ties
        with torch.autocast(features.device.type, enabled=False):
            cosine = F.normalize(features.float(), dim=-1) @ F.normalize(f_text.float(), dim=-1).T
        return cosine / self.temp                            # Eq. (3) and (5), before the sigmoid

    def forward(self, video: Tensor, boxes: list[Tensor], text: Tensor,
                beta: float = BETA) -> Tensor:
        """The whole path of Figure 2: logits (N, C) of every box against every text.

        text: tokens (C, L) int, encoded here, or finished embeddings (C, D).
        """
        f_global, f_map = self.encode_video(video)
        f_region = self.region_features(f_map, boxes)
        f_text = text if text.is_floating_point() else self.text_encoder(text)
        clip = clip_of_box(boxes).to(video.device, non_blocking=True)           # (N,)
        fused = fuse(f_region, f_global.float()[clip], beta)
        return self.logits(fused, f_text)


# ---------------------------------------------------------------- weights in

def build_model(arch: str = "ViT-B/16", weights: str | None = None) -> ViCLIP:
    """A ViCLIP of the named size, in evaluation mode, on the CPU.

    weights: as load_weights takes them; None: random.
    """
    model = ViCLIP(arch)
    if weights is not None:
        load_weights(model, weights)
    return model.eval()


def load_weights(model: ViCLIP, path: str) -> None:
    """Load every tensor by name and shape, or raise a ValueError that lists what differs.

    path: an official .pth ({'model': ...} or flat) or .safetensors, our checkpoint, or a Hub id.
    """
    load_state(model, read_weights(path)[0], path)


def load_model(path: str) -> tuple[ViCLIP, dict]:
    """The model in a weights file, its size told by its shapes, and our checkpoint's record."""
    state, record = read_weights(path)
    arch = arch_of(state)
    if record.get("stage") == "humans":
        raise ValueError(f"{path}: a detector of people, of detect_humans.py; expected a model of "
                         "train_align.py or train_finetune.py")
    if arch is None:
        raise ValueError(f"{path}: not ViCLIP weights of a size we know ({', '.join(ARCHS)}); "
                         f"its tensors begin with {', '.join(list(state)[:3])}")
    model = ViCLIP(arch)
    load_state(model, state, path)
    if model.temp <= 0:
        raise ValueError(f"{path}: its tau (temp) is {model.temp.item():g}, not above 0")
    return model.eval(), record


def load_state(model: ViCLIP, state: dict[str, Tensor], path: str) -> None:
    own = model.state_dict()
    differences = ([f"missing {name}" for name in own if name not in state]
                   + [f"unexpected {name}" for name in state if name not in own]
                   + [f"{name} is {tuple(state[name].shape)}, not {tuple(own[name].shape)}"
                      for name in own if name in state and state[name].shape != own[name].shape])
    if differences:
        shown = "; ".join(differences[:8])
        shown += f"; and {len(differences) - 8} more" if len(differences) > 8 else ""
        fits = arch_of(state)
        hint = f" (these weights fit {fits})" if fits and fits != model.arch else ""
        raise ValueError(f"{path}: not the weights of {model.arch}{hint}: {shown}")
    model.load_state_dict(state)


def arch_of(state: dict[str, Tensor]) -> str | None:
    """The named architecture whose video encoder has these weights' shapes, or None."""
    for name, arch in ARCHS.items():
        conv = state.get("vision_encoder.conv1.weight")
        if conv is not None and conv.shape == (arch.width, 3, 1, arch.patch, arch.patch):
            return name
    return None
