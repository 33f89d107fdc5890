"""Measure PyTorch and transformers on this machine's GPU in bf16: peak rates, towers, prefill and decode of a 7B model.

Prints one JSON object. The models have the released geometries and random weights. Called by gpu.sh where PyTorch is
installed.
"""

import json
import time

import torch
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM, SiglipVisionConfig, SiglipVisionModel

torch.set_grad_enabled(False)
torch.set_default_dtype(torch.bfloat16)


def median_seconds(run, runs=7, warm=2):
    """Return the median seconds of `runs` calls after `warm` discarded ones, the device synchronized around each."""
    for _ in range(warm):
        run()
    seconds = []
    for _ in range(runs):
        torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return sorted(seconds)[len(seconds) // 2]


def limits():
    """Return the GEMM and copy rates that the device reaches."""
    a, b = (torch.randn(8192, 8192, device="cuda") for _ in range(2))
    x = torch.empty(1 << 30, device="cuda", dtype=torch.uint8)
    y = torch.empty_like(x)
    return {
        "gemm_peak_gflops": 2 * 8192**3 / median_seconds(lambda: a @ b) / 1e9,
        "copy_gb_per_second": 2 * (1 << 30) / median_seconds(lambda: y.copy_(x)) / 1e9,
    }


def tower(model_class, config):
    """Return milliseconds per frame of a vision tower for several batch sizes."""
    with torch.device("cuda"):
        model = model_class(config).eval()
    found = {}
    for batch in (1, 8, 32):
        pixels = torch.randn(batch, 3, config.image_size, config.image_size, device="cuda")
        seconds = median_seconds(lambda: model(pixels, output_hidden_states=True))
        found[f"batch_{batch}_ms_per_frame"] = 1e3 * seconds / batch
    return found


def language():
    """Return prefill milliseconds and decode tokens per second of a Llama of 7B."""
    config = LlamaConfig(vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32, max_position_embeddings=4096)
    with torch.device("cuda"):
        model = LlamaForCausalLM(config).eval()

    def prompts(n, positions):
        return torch.randn(n, positions, config.hidden_size, device="cuda") * 0.02

    def tokens_per_second(n, positions, new):
        embeds, mask = prompts(n, positions), torch.ones(n, positions, device="cuda", dtype=torch.long)

        def generate(k):
            return model.generate(inputs_embeds=embeds, attention_mask=mask, max_new_tokens=k, min_new_tokens=k, do_sample=False)

        short, long = (median_seconds(lambda k=k: generate(k), runs=3, warm=1) for k in (1, 1 + new))
        return n * new / (long - short)

    found = {}
    for positions in (600, 2304, 2960):
        embeds = prompts(1, positions)
        found[f"prefill_{positions}_ms"] = 1e3 * median_seconds(lambda: model(inputs_embeds=embeds, logits_to_keep=1), runs=5)
    found["decode_1_after_2960_tokens_per_second"] = tokens_per_second(1, 2960, 64)
    for n in (8, 32):
        found[f"decode_{n}_after_600_tokens_per_second"] = tokens_per_second(n, 600, 32)
    return found


def main():
    siglip = SiglipVisionConfig(hidden_size=1152, intermediate_size=4304, num_hidden_layers=26, num_attention_heads=16, image_size=384, patch_size=14)
    clip = CLIPVisionConfig(hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, image_size=336, patch_size=14)
    result = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, **limits()}
    result["siglip-so400m"] = tower(SiglipVisionModel, siglip)
    result["clip-l-336"] = tower(CLIPVisionModel, clip)
    result["llama-7b"] = language()
    print(json.dumps(result))


if __name__ == "__main__":
    main()
