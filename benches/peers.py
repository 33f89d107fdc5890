"""Compare vidense with PyTorch, llama.cpp, decord, torchcodec and PyAV; print medians and their ratios as JSON.

    python benches/peers.py tower [--tower clip-l-336|siglip-so400m] [--batch 4]
    python benches/peers.py llm [--quant q8_0|q4_k]
    python benches/peers.py sequences [--sequences 8]
    python benches/peers.py decode VIDEO [--frames 8] [--readers decord,torchcodec,pyav]

Requires target/release/vidense and the libraries of the measurement: torch and transformers; llama-cpp-python and gguf
for `sequences`; decord, torchcodec and av for `decode`. Each measurement is a separate process, vidense and its peers
alternate. Peers are the libraries' own modules and readers in their default settings, with random weights.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

RUNS_WITHIN = 3


def seconds(run):
    """Return the median seconds of the runs after a discarded first."""
    times = []
    for _ in range(RUNS_WITHIN + 1):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def torch_tower(arguments):
    """Measure a vision tower of transformers, and the GEMM rate of torch."""
    import torch
    import transformers as t

    torch.manual_seed(0)
    if arguments.tower == "clip-l-336":
        size = 336
        config = t.CLIPVisionConfig(hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16,
                                    image_size=size, patch_size=14, projection_dim=768)
        model = t.CLIPVisionModel(config)
    else:
        size = 384
        config = t.SiglipVisionConfig(hidden_size=1152, intermediate_size=4304, num_hidden_layers=26, num_attention_heads=16,
                                      image_size=size, patch_size=14)
        model = t.SiglipVisionModel(config)
    model.eval()
    x = torch.randn(arguments.batch, 3, size, size)
    m = torch.randn(2048, 2048)
    with torch.inference_mode():
        frame = seconds(lambda: model(x, output_hidden_states=True)) / arguments.batch
        product = seconds(lambda: [m @ m for _ in range(10)]) / 10
    return {"seconds_per_frame": frame, "gemm_peak_gflops": 2 * 2048**3 / product / 1e9}


def torch_llm(arguments):
    """Measure prefill and decode of a Llama of 1.1B in transformers."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(hidden_size=2048, intermediate_size=5632, num_hidden_layers=22, num_attention_heads=32,
                         num_key_value_heads=4, vocab_size=32000, max_position_embeddings=4096)
    model = LlamaForCausalLM(config).eval()
    x = torch.randn(1, 576, 2048) * 0.02
    result = {}

    def prefill():
        result["out"] = model(inputs_embeds=x, use_cache=True, logits_to_keep=1)

    with torch.inference_mode():
        prefill_seconds = seconds(prefill)
        cache, token = result["out"].past_key_values, result["out"].logits[:, -1].argmax(-1, keepdim=True)
        start = time.perf_counter()
        for _ in range(16):
            out = model(input_ids=token, past_key_values=cache, use_cache=True)
            cache, token = out.past_key_values, out.logits[:, -1].argmax(-1, keepdim=True)
        decode = 16 / (time.perf_counter() - start)
    return {"prefill_seconds": prefill_seconds, "decode_tokens_per_second": decode}


PROMPT, NEW = 64, 64


def random_gguf(directory):
    """Write a Llama of 1.1B with random weights, all matrices quantized to Q4_K by llama.cpp, and return its path."""
    import ctypes

    import gguf
    import llama_cpp
    import numpy as np

    full, quantized = (os.path.join(directory, name) for name in ["f16.gguf", "q4_k.gguf"])
    h, wide, layers, heads, kv_heads, vocabulary = 2048, 5632, 22, 32, 4, 32000
    random = np.random.default_rng(0)
    values = random.standard_normal(1 << 22).astype(np.float16)

    def matrix(d_out, d_in):
        rolled = np.roll(values, int(random.integers(1 << 22)))
        return (np.resize(rolled, d_out * d_in) * np.float16(d_in**-0.5)).reshape(d_out, d_in).astype(np.float16)

    w = gguf.GGUFWriter(full, "llama")
    w.add_context_length(4096)
    w.add_embedding_length(h)
    w.add_block_count(layers)
    w.add_feed_forward_length(wide)
    w.add_head_count(heads)
    w.add_head_count_kv(kv_heads)
    w.add_rope_dimension_count(h // heads)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_rope_freq_base(10000.0)
    w.add_vocab_size(vocabulary)
    w.add_tokenizer_model("llama")
    w.add_token_list([f"<t{i}>".encode() for i in range(vocabulary)])
    w.add_token_scores([0.0] * vocabulary)
    w.add_token_types([1] * vocabulary)
    for name in ["token_embd", "output"]:
        w.add_tensor(f"{name}.weight", matrix(vocabulary, h))
    w.add_tensor("output_norm.weight", np.ones(h, np.float32))
    shapes = {"attn_q": (h, h), "attn_k": (h // heads * kv_heads, h), "attn_v": (h // heads * kv_heads, h),
              "attn_output": (h, h), "ffn_gate": (wide, h), "ffn_up": (wide, h), "ffn_down": (h, wide)}
    for i in range(layers):
        for name in ["attn_norm", "ffn_norm"]:
            w.add_tensor(f"blk.{i}.{name}.weight", np.ones(h, np.float32))
        for name, shape in shapes.items():
            w.add_tensor(f"blk.{i}.{name}.weight", matrix(*shape))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    options = llama_cpp.llama_model_quantize_default_params()
    options.ftype, options.pure = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_S, True
    if llama_cpp.llama_model_quantize(full.encode(), quantized.encode(), ctypes.byref(options)) != 0:
        sys.exit("llama_model_quantize failed")
    return quantized


def llama_cpp_sequences(arguments):
    """Measure the tokens per second of all sequences, one `llama_decode` of one token each per step."""
    import llama_cpp as lib

    n, threads = arguments.sequences, len(os.sched_getaffinity(0))
    lib.llama_backend_init()
    with tempfile.TemporaryDirectory() as directory:
        path = random_gguf(directory)
        model = lib.llama_model_load_from_file(path.encode(), lib.llama_model_default_params())
        params = lib.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_seq_max = 2 * (PROMPT + NEW) * n, 2048, n
        params.n_threads = params.n_threads_batch = threads
        context = lib.llama_init_from_model(model, params)
        batch = lib.llama_batch_init(2048, 0, n)

        def decode(rows):
            batch.n_tokens = len(rows)
            for i, (token, position, sequence, wanted) in enumerate(rows):
                batch.token[i], batch.pos[i], batch.n_seq_id[i] = token, position, 1
                batch.seq_id[i][0], batch.logits[i] = sequence, wanted
            if lib.llama_decode(context, batch) != 0:
                sys.exit("llama_decode failed")

        for sequence in range(n):
            decode([(37 * i % 32000, i, sequence, i == PROMPT - 1) for i in range(PROMPT)])
        start = time.perf_counter()
        for step in range(NEW):
            decode([((5 + step) % 32000, PROMPT + step, sequence, 1) for sequence in range(n)])
        return {"decode_tokens_per_second": n * NEW / (time.perf_counter() - start)}


def uniform(total, wanted):
    """Return the midpoints of equal segments, as `--sample uniform`."""
    n = min(total, wanted)
    step = (total - 1) / n
    edges = [round(step * i) for i in range(n + 1)]
    return [(a + b) // 2 for a, b in zip(edges, edges[1:])]


def read_decord(path, n):
    from decord import VideoReader

    reader = VideoReader(path)
    indices = uniform(len(reader), n)
    return indices, reader.get_batch(indices).asnumpy()


def read_torchcodec(path, n):
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(path, seek_mode="exact")
    indices = uniform(len(decoder), n)
    return indices, decoder.get_frames_at(indices).data.permute(0, 2, 3, 1).numpy()


def read_pyav(path, n):
    import av

    def frames():
        container = av.open(path)
        container.streams.video[0].thread_type = "AUTO"
        return container.decode(video=0)

    indices = uniform(sum(1 for _ in frames()), n)
    wanted = set(indices)
    return indices, [f.to_ndarray(format="rgb24") for i, f in enumerate(frames()) if i in wanted]


def reader(arguments):
    """Measure a video reader, and return the indices and mean values of its frames."""
    run = {"decord": read_decord, "torchcodec": read_torchcodec, "pyav": read_pyav}[arguments.peer]
    indices, frames = run(arguments.video, arguments.frames)
    means = [float(frame.mean()) for frame in frames]
    elapsed = seconds(lambda: run(arguments.video, arguments.frames))
    return {"seconds": elapsed, "indices": [int(i) for i in indices], "mean_rgb": means}


def process(command):
    """Run a command and return its JSON, with the peak resident memory of its process."""
    with tempfile.TemporaryFile() as out:
        child = subprocess.Popen(command, stdout=out, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        text = out.read()
    if child.returncode != 0:
        sys.exit(f"{' '.join(command)}: exit code {child.returncode}")
    # A command's own value takes precedence: `bench` measures the machine after its network.
    return {"memory_peak_bytes": usage.ru_maxrss * 1024} | json.loads(text)


def vidense(arguments):
    """Return the command of `vidense bench` for the measurement."""
    ours = [arguments.vidense, "bench", "--runs", str(RUNS_WITHIN)]
    if arguments.what == "tower":
        return ours + ["tower", "--tower", arguments.tower, "--batch", str(arguments.batch)]
    if arguments.what == "llm":
        return ours + ["llm"] + (["--quant", arguments.quant] if arguments.quant else [])
    if arguments.what == "sequences":
        ours += ["llm", "--quant", "q4_k", "--tokens", str(PROMPT), "--new", str(NEW)]
        return ours + ["--sequences", str(arguments.sequences)]
    return ours + ["decode", arguments.video, "--frames", str(arguments.frames)]


def medians(results):
    """Return the median of each numeric value over the rounds."""
    keys = {k for r in results for k, v in r.items() if isinstance(v, (int, float))}
    return {k: statistics.median(r[k] for r in results if k in r) for k in sorted(keys)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["tower", "llm", "sequences", "decode"])
    parser.add_argument("video", nargs="?")
    parser.add_argument("--tower", choices=["clip-l-336", "siglip-so400m"], default="clip-l-336")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--quant")
    parser.add_argument("--sequences", type=int, default=8)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--readers", default="decord,torchcodec")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--vidense", default="target/release/vidense")
    parser.add_argument("--peer", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.what == "decode" and not arguments.video:
        parser.error("decode requires VIDEO")
    if arguments.peer:
        run = {"tower": torch_tower, "llm": torch_llm, "sequences": llama_cpp_sequences, "decode": reader}[arguments.what]
        print(json.dumps(run(arguments)))
        return
    peers = {"decode": arguments.readers.split(","), "sequences": ["llama.cpp"]}.get(arguments.what, ["torch"])
    results = {name: [] for name in ["vidense", *peers]}
    for _ in range(arguments.rounds):
        results["vidense"].append(process(vidense(arguments)))
        for peer in peers:
            results[peer].append(process([sys.executable, *sys.argv, "--peer", peer]))
    table = {name: medians(found) for name, found in results.items()}
    ours = table["vidense"]
    for peer in peers:
        theirs = table[peer]
        table[f"vidense / {peer}"] = {k: ours[k] / v for k, v in theirs.items() if k in ours and v}
    if arguments.what == "decode":
        first = results["vidense"][0]
        for peer in peers:
            other = results[peer][0]
            table[f"same frames as {peer}"] = first["indices"] == other["indices"] and all(
                abs(x - y) < 0.01 for x, y in zip(first["mean_rgb"], other["mean_rgb"]))
    print(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
