"""Cases of tensor names, types and shards (`layout`), LLaVA's layout (`orig`), checkpoints saved again (`resave5`)."""

import json
import shutil

import sentencepiece
import torch
import transformers as t

from cases_text import LLAVA_HF
from judge import QUESTION, Case, Peer, generated, vicuna
from tiny import copy, edit, image_processor_of, new_name, old_name, rename, tensors, write


def stored(w, name, change, **how):
    """Build a checkpoint and rewrite its weights."""
    d = w.build(name, **how)
    change(d)
    return d


def quantized(w, name, config, change=lambda d: None):
    """Build a checkpoint whose config.json declares quantized weights."""
    d = w.build(name)
    change(d)
    edit(d / "config.json", lambda c: c.update(quantization_config=config))
    return d


LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
LIMIT = 448.0
"""Largest finite value of F8_E4M3."""


def is_linear(name):
    return "language_model" in name and name.endswith(".weight") and name.split(".")[-2] in LINEAR


def fp8(d, scales):
    """Store the language model's linear layers in F8_E4M3.

    `scales` returns the scale of a weight, broadcast to its shape, and the tensors to store beside it.
    """
    found = {}
    for name, value in tensors(d).items():
        if not is_linear(name):
            found[name] = value
            continue
        scale, beside = scales(value.float())
        found[name] = (value.float() / scale).clamp(-LIMIT, LIMIT).to(torch.float8_e4m3fn)
        found.update({name.removesuffix("weight") + key: tensor for key, tensor in beside.items()})
    write(d, found)


def per_tensor(value):
    scale = value.abs().max() / LIMIT
    return scale, dict(weight_scale=scale.reshape(1))


def per_channel(value):
    scale = value.abs().amax(1, keepdim=True) / LIMIT
    return scale, dict(weight_scale=scale)


def per_block(value, side=128):
    rows, columns = -(-value.shape[0] // side), -(-value.shape[1] // side)
    scales = torch.zeros(rows, columns)
    full = torch.zeros_like(value)
    for i in range(rows):
        for j in range(columns):
            block = (slice(i * side, (i + 1) * side), slice(j * side, (j + 1) * side))
            scales[i, j] = value[block].abs().max() / LIMIT
            full[block] = scales[i, j]
    return full, dict(weight_scale_inv=scales)


def compressed(strategy):
    """Return the quantization_config of compressed-tensors for weights in F8_E4M3."""
    weights = dict(num_bits=8, type="float", strategy=strategy, symmetric=True, dynamic=False, group_size=None, block_structure=None)
    group = dict(targets=["Linear"], weights=weights, input_activations=None, output_activations=None)
    return dict(quant_method="compressed-tensors", format="float-quantized", quantization_status="compressed",
                config_groups=dict(group_0=group), kv_cache_scheme=None, global_compression_ratio=1.0,
                ignore=["re:.*vision_tower.*", "re:.*multi_modal_projector.*", "lm_head", "language_model.lm_head"])


FINE_GRAINED = dict(quant_method="fp8", activation_scheme="dynamic", weight_block_size=[128, 128],
                    modules_to_not_convert=["vision_tower", "multi_modal_projector", "lm_head"])


def dequantized(d, frames):
    """Answer with transformers over the stored weights times their scales."""
    twin = copy(d, "dequantized")
    weights, found = tensors(d), {}
    for name, value in weights.items():
        if "weight_scale" in name:
            continue
        if value.dtype == torch.float8_e4m3fn:
            stem = name.removesuffix("weight")
            if stem + "weight_scale_inv" in weights:
                scale = weights[stem + "weight_scale_inv"].repeat_interleave(128, 0).repeat_interleave(128, 1)
                scale = scale[: value.shape[0], : value.shape[1]]
            else:
                scale = weights[stem + "weight_scale"].float()
            value = value.float() * scale
        found[name] = value
    write(twin, found)
    edit(twin / "config.json", lambda c: c.pop("quantization_config"))
    return Peer(twin).answer(vicuna([(QUESTION, None)], len(frames)), frames)


def old_buffers(d):
    """Add the buffers that old files hold beside their weights."""
    weights = tensors(d)
    weights["language_model.model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
    embedding = "patch_embedding.weight"
    tower = next(name for name in weights if name.endswith(embedding)).removesuffix(embedding)
    weights[f"{tower}position_ids"] = torch.arange(17)[None]
    write(d, weights)


def extra_weight(d):
    write(d, tensors(d) | {"language_model.model.layers.0.mlp.router.weight": torch.ones(4, 64)})


def lost_weight(d):
    write(d, {name: value for name, value in tensors(d).items() if "layers.1.mlp.up_proj" not in name})


def layout_cases(w):
    made = {
        "v5_names": lambda n: w.build(n),
        "v5_inner_names": lambda n: stored(w, n, lambda d: rename(d, new_name)),
        "v4_names": lambda n: stored(w, n, lambda d: rename(d, old_name)),
        "shards": lambda n: stored(w, n, lambda d: write(d, tensors(d), shards=3)),
        "bin": lambda n: stored(w, n, lambda d: write(d, tensors(d), form="bin")),
        "bin_shards": lambda n: stored(w, n, lambda d: write(d, tensors(d), form="bin", shards=3)),
        "bin_before_1_6": lambda n: stored(w, n, lambda d: write(d, tensors(d), form="bin", zipped=False)),
        "old_buffers": lambda n: stored(w, n, old_buffers),
        "bf16": lambda n: w.build(n, dtype=torch.bfloat16),
        "f16": lambda n: w.build(n, dtype=torch.float16),
        "v4_whole": lambda n: w.as_version_4(w.build(n, tokenizer="sp legacy")),
        "v4_mistral": lambda n: w.as_version_4(w.build(n, tokenizer="sp legacy", llm="mistral")),
        "v4_siglip": lambda n: w.as_version_4(w.build(n, tokenizer="sp legacy", tower="siglip",
                                                      whole=dict(vision_feature_select_strategy="full"))),
    }
    found = [Case("layout", name, how) for name, how in made.items()]
    for name, scales, config in (("fp8_tensor", per_tensor, compressed("tensor")), ("fp8_channel", per_channel, compressed("channel")),
                                 ("fp8_fine_grained", per_block, FINE_GRAINED)):
        found.append(Case("layout", name, truth=dequantized, make=lambda n, scales=scales, config=config: quantized(
            w, n, config, lambda d: fp8(d, scales))))
    for method, config in {
        "gptq": dict(quant_method="gptq", bits=4, group_size=128), "awq": dict(quant_method="awq", bits=4, group_size=128),
        "bitsandbytes": dict(quant_method="bitsandbytes", load_in_8bit=True), "hqq": dict(quant_method="hqq"),
        "something_new": dict(quant_method="something_new"),
    }.items():
        found.append(Case("layout", f"quantized_{method}", lambda n, config=config: quantized(w, n, config), refused=method))
    found.append(Case("layout", "fp8_without_a_word", refused="stored in FP8", make=lambda n: stored(w, n, lambda d: fp8(d, per_tensor))))
    found.append(Case("layout", "a_weight_too_many", lambda n: stored(w, n, extra_weight), refused="mlp.router.weight"))
    found.append(Case("layout", "a_weight_too_few", lambda n: stored(w, n, lost_weight), refused="mlp.up_proj.weight"))
    return found


def original(w, name, tower="inside", siglip=False, keys={}, **how):
    """Build a checkpoint in LLaVA's layout, and the same in Hugging Face's beside it (suffix -twin)."""
    whole = dict(vision_feature_select_strategy="full") if siglip else {}
    processor = dict(image_processor=t.LlavaImageProcessor, processor=dict(do_pad=True)) if keys.get("image_aspect_ratio") == "pad" else {}
    if keys.get("image_aspect_ratio") == "anyres":
        processor = dict(processor=dict(size={"height": 56, "width": 56}, do_center_crop=False))
    twin = w.build(f"{name}-twin", tokenizer="sp legacy", tower="siglip" if siglip else "clip", whole=whole, **processor, **how)
    d = twin.parent / name
    shutil.rmtree(d, ignore_errors=True)
    d.mkdir()
    config = json.loads((twin / "config.json").read_text())
    text, vision = config["text_config"], config["vision_config"]
    rope = text.pop("rope_parameters", text)
    mistral = text["model_type"] == "mistral"
    llava = text | dict(
        model_type="llava_mistral" if mistral else "llava_llama", rope_theta=rope.get("rope_theta", 10000.0), rope_scaling=None,
        architectures=["LlavaMistralForCausalLM" if mistral else "LlavaLlamaForCausalLM"], mm_vision_tower="tower",
        mm_hidden_size=64, mm_projector_type="mlp2x_gelu", mm_vision_select_layer=-2, mm_vision_select_feature="patch",
        mm_use_im_start_end=False, mm_use_im_patch_token=False, image_aspect_ratio="square", tokenizer_model_max_length=512,
        use_mm_proj=True, tune_mm_mlp_adapter=False, freeze_mm_mlp_adapter=False, unfreeze_mm_vision_tower=True)
    (d / "config.json").write_text(json.dumps(llava | keys, indent=1))
    shutil.copy(w.tokenizers / "sp.model", d / "tokenizer.model")
    (d / "tokenizer_config.json").write_text(json.dumps(dict(
        add_bos_token=True, add_eos_token=False, bos_token="<s>", eos_token="</s>", unk_token="<unk>", legacy=True,
        tokenizer_class="LlamaTokenizer", model_max_length=512)))
    parts = {"language_model.model.": "model.", "language_model.lm_head.": "lm_head.",
             "multi_modal_projector.linear_1.": "model.mm_projector.0.", "multi_modal_projector.linear_2.": "model.mm_projector.2.",
             "vision_tower.": "model.vision_tower.vision_tower.vision_model."}
    weights, beside = {}, {}
    for key, value in tensors(twin).items():
        old = next(part for part in parts if key.startswith(part))
        rest = key[len(old):].removeprefix("vision_model.")
        if old == "vision_tower." and tower == "beside":
            beside["vision_model." + rest] = value
        else:
            weights[parts[old] + rest] = value
    write(d, weights)
    (d / "tower").mkdir()
    (d / "tower/config.json").write_text(json.dumps(vision))
    images = image_processor_of(twin)
    images.pop("do_pad", None)
    images["image_processor_type"] = "SiglipImageProcessor" if siglip else "CLIPImageProcessor"
    (d / "tower/preprocessor_config.json").write_text(json.dumps(images))
    if beside:
        write(d / "tower", beside)
    return d


def chunk_by_chunk(d, frames):
    """Answer with the twin for the ids of LLaVA's code: BOS, then each side of the placeholder encoded alone."""
    peer = Peer(d.parent / f"{d.name}-twin")
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(d / "tokenizer.model"))
    before, after = vicuna([(QUESTION, None)], 1).split("<image>")
    pixels = peer.processor.image_processor(images=[frame.convert("RGB") for frame in frames], return_tensors="pt")
    side = peer.model.config.vision_config.image_size // peer.model.config.vision_config.patch_size
    n_visual = len(frames) * side * side
    ids = [1, *pieces.encode(before), *[peer.processor.image_token_id] * n_visual, *pieces.encode(after)]
    inputs = dict(input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long), **pixels)
    found = generated(peer.model, inputs, n_visual, peer.processor.tokenizer)
    return found | dict(decode=lambda ids: pieces.decode([i for i in ids if 2 < i < pieces.vocab_size()]))


def original_cases(w):
    made = {
        "inside": {}, "beside": dict(tower="beside"), "pad": dict(keys=dict(image_aspect_ratio="pad")),
        "pad_beside": dict(tower="beside", keys=dict(image_aspect_ratio="pad")), "anyres": dict(keys=dict(image_aspect_ratio="anyres")),
        "siglip": dict(siglip=True), "siglip_beside": dict(siglip=True, tower="beside"),
        "grouped_heads": dict(text=dict(num_key_value_heads=2)), "mistral": dict(llm="mistral"),
        "eps": dict(text=dict(rms_norm_eps=1e-6)),
    }
    found = [Case("orig", name, lambda n, how=how: original(w, n, **how), truth=chunk_by_chunk) for name, how in made.items()]
    found.append(Case("orig", "three_frames", lambda n: original(w, n), truth=chunk_by_chunk, n_frames=3))
    found.append(Case("orig", "resampler", lambda n: original(w, n, keys=dict(mm_resampler_type="qformer")), refused="mm_resampler_type"))
    return found


def saved_again(d):
    """Load a checkpoint of version 4 with the installed transformers and save it."""
    model = t.LlavaForConditionalGeneration.from_pretrained(d)
    processor = t.AutoProcessor.from_pretrained(d)
    for path in d.iterdir():
        if path.is_file():
            path.unlink()
    model.save_pretrained(d)
    processor.save_pretrained(d)


def again_cases(w):
    def make(name, **how):
        d = w.as_version_4(w.build(name, tokenizer="sp legacy", **how))
        saved_again(d)
        return d

    padded = dict(image_processor=t.LlavaImageProcessor, processor=dict(do_pad=True))
    return [
        Case("resave5", "llava15", lambda n: make(n)),
        Case("resave5", "llava15_do_pad", lambda n: make(n, **padded), size=(120, 50)),
        Case("resave5", "mistral", lambda n: make(n, llm="mistral")),
        Case("resave5", "siglip", lambda n: make(n, tower="siglip", whole=dict(vision_feature_select_strategy="full"))),
        Case("resave5", "chat_template", lambda n: make(n, chat_template=LLAVA_HF), chat=True, template=[]),
    ]


def cases(w):
    return layout_cases(w) + original_cases(w) + again_cases(w)
