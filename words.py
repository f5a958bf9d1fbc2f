"""A video-language model asked for some words: from actions to prompts, from logits to scores.

What a score means stands at the top of detect_actions.py.
"""

import numpy as np
import torch
import torch.nn.functional as F

import draw
import ovstad
from baselines import load_model

BACKGROUND = ("a person", "a person standing still", "a person in a room", "a person outdoors",
              "a photo of a person", "a person doing nothing", "people")


def parse_actions(texts: list[tuple[str, str]]) -> dict[str, list[str]]:
    """{name: its phrasings} of `wave` or `wave: waving a hand | hand wave`; # begins a comment.

    texts: (where it stands, text). ValueError where a name is there twice or there is none at all.
    """
    actions = {}
    for where, text in texts:
        if text.strip() and not text.lstrip().startswith("#"):
            name, colon, rest = (part.strip() for part in text.partition(":"))
            phrasings = [part.strip() for part in (rest if colon else name).split("|")]
            twice, broken = name.casefold() in map(str.casefold, actions), text.splitlines()[1:]
            if twice or broken or not name or not all(phrasings):
                fault = ("is there twice" if twice else "holds a line break" if broken else
                         "names no action")
                raise ValueError(f"{where}: {text.strip()!r} {fault}; expected `wave` or "
                                 "`wave: waving a hand | hand wave`, each name once")
            actions[name] = phrasings
    if not actions:
        raise ValueError('no words to look for; give --actions "wave" "sit" or --actions-file FILE')
    return actions


def scores_of(logits: torch.Tensor, words: int, calibration: str) -> torch.Tensor:
    """(N, words) in [0, 1] from logits (N, words + K), float64, the last K the background's."""
    own, background = logits[:, :words], logits[:, words:]
    if calibration == "background":          # softmax over one word and the background, each alone
        own = own - background.logsumexp(dim=1, keepdim=True)
    return own.sigmoid()                     # Eq. (3)


def is_foreign(text: str) -> bool:
    """Whether CLIP's tokenizer, made for English, cuts a text into single letters or nearly so."""
    letters = len(text.replace(" ", ""))
    tokens = int((ovstad.tokenize([text]) != 0).sum()) - 2
    return not text.isascii() or letters > 4 and 2 * tokens > letters


class Words:
    """A video-language model asked for some words, `names`; notes: what to expect of it."""

    def __init__(self, actions: dict[str, list[str]], ckpt, settings, device):
        """ckpt: as `detect` takes it; settings: the `Settings` of detect_actions.py."""
        is_model = isinstance(ckpt, torch.nn.Module)
        model, record = (ckpt.eval(), {}) if is_model else load_model(ckpt)
        self.model, self.device = model.to(device), device
        self.names, self.settings = list(actions), settings
        self.beta = record.get("beta", ovstad.BETA) if settings.beta is None else settings.beta
        self.frames = settings.frames or record.get("frames") or model.frames
        self.stride = settings.stride or record.get("stride") or 1
        self.short_side = settings.short_side or record.get("short_side") or model.short_side
        self.novel = [name for name in self.names if name not in record.get("base", self.names)]
        self.font, missing = draw.choose_font(" ".join(self.names), settings.font)
        self.legend = f"from {settings.threshold:g} on: {' · '.join(self.names)}"

        self.prompt = prompt = record.get("prompt", ovstad.PROMPT)
        prompts = [[prompt.replace("{}", text) for text in texts] for texts in actions.values()]
        foreign = [name for name, texts in actions.items() if any(map(is_foreign, texts))]
        full = [name for name, own in zip(self.names, prompts) if isinstance(model, ovstad.ViCLIP)
                and (ovstad.tokenize(own)[:, -1] > 0).any()]
        stage, kind = record.get("stage"), f"the original {type(model).__name__}"
        kind = f"a model of stage {stage}" if stage else kind
        self.notes = [note for applies, note in (
            (stage != "finetune", f"{kind}, not finetuned on actions of people: its scores rank, "
             "but separate less; train_finetune.py makes a better one"),
            (foreign, f"the model was trained on English; {', '.join(foreign[:3])} may mean little "
             "to it. Give an English phrase behind the name, as in 'winken: waving'"),
            (full, f"the model may not read the end of {', '.join(full[:3])!r}: a prompt has room "
             "for some 25 words"),
            (missing, f"no font here has {missing[:20]}; name one by --font")) if applies]

        prompts += [[text] for text in BACKGROUND if not any(text in own for own in prompts)]
        with torch.inference_mode():
            embeddings = [model.encode_text(some).float() for some in prompts]
            # of several phrasings the mean direction, and the mean length, as some models use it
            self.f_text = torch.stack([F.normalize(e, dim=-1).mean(dim=0) * e.norm(dim=-1).mean()
                                       for e in embeddings])                           # (C + K, D)

    @torch.inference_mode()
    def score(self, clips: np.ndarray, boxes: list[torch.Tensor]) -> list[np.ndarray]:
        """clips (B, T, H, W, 3) uint8, B boxes (N_b, 4) -> B arrays (N_b, C) float64 in [0, 1]."""
        video = torch.from_numpy(clips).to(self.device).permute(0, 1, 4, 2, 3)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.amp):
            f_global, f_map = self.model.encode_video(self.model.normalise(video))
        f_region = self.model.region_features(f_map, boxes).float()                    # (N, D)
        f_global = f_global.float()[ovstad.clip_of_box(boxes).to(self.device)]
        fused = ovstad.fuse(f_region, f_global, self.beta)
        logits = self.model.logits(fused, self.f_text).double()                        # (N, C + K)
        scores = scores_of(logits, len(self.names), self.settings.calibration).cpu()
        return [part.numpy() for part in scores.split([len(b) for b in boxes])]
