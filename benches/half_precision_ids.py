"""Count the greedy ids that transformers preserves in bf16 and f16, compared with its own answers in f32.

    python3 benches/half_precision_ids.py [CHECKPOINT]     default: tests/golden/checkpoints/hf-4

Prints one line per precision: the share of equal ids at the same index of 64 answers of 32 tokens, and the share of
equal next ids after the same prefix of the f32 answer (teacher forcing). Pixels and questions are seeded and random.
"""

import sys
from pathlib import Path

import torch
from transformers import LlavaForConditionalGeneration

N_SEEDS, N_NEW, N_FRAMES, N_WORDS = 64, 32, 3, 10

torch.set_grad_enabled(False)


def random_prompt(model, seed):
    """Return ids and pixels (frames, 3, height, width) of a random question about random frames."""
    config, draw = model.config, torch.Generator().manual_seed(seed)
    vision = config.vision_config
    pixels = torch.randn(N_FRAMES, 3, vision.image_size, vision.image_size, generator=draw)
    n_visual = N_FRAMES * (vision.image_size // vision.patch_size) ** 2
    words = torch.randint(3, config.text_config.vocab_size - 100, (N_WORDS,), generator=draw).tolist()
    return torch.tensor([[1] + [config.image_token_index] * n_visual + words]), pixels


def answer(model, ids, pixels):
    """Generate greedily and return the new ids."""
    new = {"max_new_tokens": N_NEW, "min_new_tokens": N_NEW, "do_sample": False}
    ids_out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=pixels.to(model.dtype), **new)
    return ids_out[0, ids.shape[1] :]


def next_ids(model, ids, pixels, prefix):
    """Return the most probable id after each prefix of an answer."""
    whole = torch.cat([ids, prefix[None]], 1)
    logits = model(input_ids=whole, attention_mask=torch.ones_like(whole), pixel_values=pixels.to(model.dtype)).logits
    return logits[0, ids.shape[1] - 1 : -1].float().argmax(-1)


def main():
    default = Path(__file__).parent.parent / "tests/golden/checkpoints/hf-4"
    path = sys.argv[1] if len(sys.argv) > 1 else default
    load = lambda dtype: LlavaForConditionalGeneration.from_pretrained(path, dtype=dtype).eval()
    full = load(torch.float32)
    prompts = [random_prompt(full, seed) for seed in range(N_SEEDS)]
    expected = [answer(full, *prompt) for prompt in prompts]
    for dtype in (torch.bfloat16, torch.float16):
        model, n = load(dtype), N_SEEDS * N_NEW
        free = sum((answer(model, *prompt) == ids).sum().item() for prompt, ids in zip(prompts, expected))
        forced = sum((next_ids(model, *prompt, ids) == ids).sum().item() for prompt, ids in zip(prompts, expected))
        print(f"{dtype}: of {n} ids {100 * free / n:.1f} % equal, {100 * forced / n:.1f} % equal after the same prefix")


if __name__ == "__main__":
    main()
