"""Make mini/expected.json: answers of PyTorch and transformers with `samples/mini` about `samples/three_shapes.mp4`.

    pip install torch==2.15.0 transformers==5.24.0 safetensors==0.8.0 tokenizers pillow==13.0.0 numpy==2.4.6
    python tests/golden/make_mini.py          # requires ffmpeg

Computes all stages over all sampled frames: uniform sampling, padding, bicubic resize, CLIP, DCI, projector, temporal
aggregation, the prompt around the visual tokens, greedy generation in f32. `min_margin` is the smallest gap between the
two best logits of any step; answers below MARGIN are dropped, because rounding may change them.
"""

import json
import subprocess
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
MINI = ROOT / "samples/mini"
VIDEO = "samples/three_shapes.mp4"
WIDTH, HEIGHT, SIZE, MARGIN = 128, 96, 64, 0.05
PADDING = (122, 116, 104)
MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073])
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711])

QUESTIONS = [
    "What color is the circle?", "what color is the circle?", "What shape is the cyan object?", "How many objects are there?",
    "Where is the red one?", "What color is the background?", "Is there a red cross?", "Is there a green ring?",
    "Is there a purple square?", "Is there a purple circle?", "Is there a cyan star?", "What pattern does the red cross have?",
    "What pattern does the purple circle have?", "What size is the cyan square?", "How big is the purple circle?",
    "What size is the red cross?", "What color is the cross?", "What color is the square?", "What shape is the red object?",
    "What shape is the purple object?", "Count the objects.", "How many shapes are in the video?",
    "What pattern does the cyan square have?", "Where is the cross?", "Describe the video.",
]
OTHERS = ["What color is the circle?", "How many objects are there?", "What shape is the cyan object?", "Describe the video."]
VARIANTS = [("concat", 4), ("temporal_mean", 8), ("spatial_mean", 8), ("spatial_temporal_mean", 8), ("max_pool:3", 8), ("max_pool:2", 5)]


def load(model, weights):
    """Load weights, with or without the prefix `vision_model.`, and assert that all of the model's weights are set."""
    own = set(model.state_dict())
    if not own & set(weights):
        weights = {name.removeprefix("vision_model."): value for name, value in weights.items()}
    missing, unexpected = model.load_state_dict({name: value.float() for name, value in weights.items()}, strict=False)
    assert not unexpected and all("position_ids" in name for name in missing), (missing, unexpected)
    return model.float().eval()


def decode():
    command = ["ffmpeg", "-v", "error", "-i", str(ROOT / VIDEO), "-sws_flags", "bicubic+accurate_rnd+full_chroma_int"]
    raw = subprocess.run(command + ["-f", "rawvideo", "-pix_fmt", "rgb24", "-"], capture_output=True, check=True).stdout
    return np.frombuffer(raw, np.uint8).reshape(-1, HEIGHT, WIDTH, 3)


def uniform(total, want):
    n = min(total, want)
    step = (total - 1) / n
    return [(round(step * i) + round(step * (i + 1))) // 2 for i in range(n)]


def pixels(frame):
    square = Image.new("RGB", (WIDTH, WIDTH), PADDING)
    square.paste(Image.fromarray(frame), (0, (WIDTH - HEIGHT) // 2))
    image = np.array(square.resize((SIZE, SIZE), Image.BICUBIC))
    return ((torch.tensor(image).float() / 255 - MEAN) / STD).permute(2, 0, 1)


def aggregate(tokens, temporal):
    frames, _, width = tokens.shape
    if temporal.startswith("max_pool:"):
        stride = int(temporal.split(":")[1])
        return F.max_pool1d(tokens.transpose(1, 2), stride, stride).transpose(1, 2).reshape(-1, width)
    return {
        "concat": lambda: tokens.reshape(-1, width),
        "temporal_mean": lambda: tokens.mean(0),
        "spatial_mean": lambda: tokens.mean(1),
        "spatial_temporal_mean": lambda: torch.cat([tokens.mean(1), tokens.mean(0)]),
    }[temporal]()


class Mini:
    def __init__(self):
        config = json.loads((MINI / "config.json").read_text())
        vision = json.loads((MINI / "vision_tower/config.json").read_text())
        self.final = config["mm_vision_select_layer"]
        weights = load_file(MINI / "model.safetensors")
        self.projector = {k.split("mm_projector.")[1]: v.float() for k, v in weights.items() if "mm_projector" in k}
        self.tower = load(CLIPVisionModel(CLIPVisionConfig(**vision)), load_file(MINI / "vision_tower/model.safetensors"))
        names = "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads " \
                "max_position_embeddings rms_norm_eps hidden_act tie_word_embeddings rope_theta"
        language = LlamaForCausalLM(LlamaConfig(**{name: config[name] for name in names.split()}))
        self.language = load(language, {k: v for k, v in weights.items() if "mm_projector" not in k})
        self.tokenizer = Tokenizer.from_file(str(MINI / "tokenizer.json"))
        self.frames = decode()

    def visual(self, indices, temporal):
        states = self.tower(torch.stack([pixels(self.frames[i]) for i in indices]), output_hidden_states=True).hidden_states
        states = [state[:, 1:] for state in states]
        fused = torch.cat([states[self.final], torch.stack(states[0:3]).mean(0), torch.stack(states[3:6]).mean(0)], -1)
        p = self.projector
        return aggregate(F.gelu(fused @ p["0.weight"].T + p["0.bias"]) @ p["2.weight"].T + p["2.bias"], temporal)

    def answer(self, question, visual):
        embed = self.language.get_input_embeddings()
        encode = lambda text: self.tokenizer.encode(text, add_special_tokens=False).ids
        before, after = [1] + encode("USER: "), encode(f"\n{question} ASSISTANT:")
        x = torch.cat([embed(torch.tensor(before)), visual, embed(torch.tensor(after))])[None]
        ids, margin = [], float("inf")
        while len(ids) < 64 and ids[-1:] != [2]:
            logits = self.language(inputs_embeds=x).logits[0, -1]
            best = logits.topk(2).values
            margin = min(margin, (best[0] - best[1]).item())
            ids.append(int(logits.argmax()))
            x = torch.cat([x, embed(torch.tensor([[ids[-1]]]))], 1)
        text = self.tokenizer.decode(ids, skip_special_tokens=True).strip()
        return {"question": question, "answer": text, "prompt_ids_before": before, "prompt_ids_after": after, "ids": ids,
                "min_margin": round(margin, 3)}


@torch.no_grad()
def main():
    mini = Mini()
    total = len(mini.frames)
    visual = mini.visual(uniform(total, 8), "max_pool:2")
    answers = [mini.answer(question, visual) for question in QUESTIONS]
    for temporal, frames in VARIANTS:
        variant = mini.visual(uniform(total, frames), temporal)
        for question in OTHERS:
            entry = {"temporal": temporal, "frames": frames, "frame_indices": uniform(total, frames)}
            answers.append(entry | mini.answer(question, variant))
    kept = [answer for answer in answers if answer["min_margin"] > MARGIN]
    expected = {"video": VIDEO, "frame_indices": uniform(total, 8), "n_visual_tokens": len(visual), "answers": kept}
    (HERE / "mini").mkdir(exist_ok=True)
    (HERE / "mini/expected.json").write_text(json.dumps(expected, indent=1) + "\n")
    print(f"{len(kept)} of {len(answers)} answers kept")


if __name__ == "__main__":
    main()
