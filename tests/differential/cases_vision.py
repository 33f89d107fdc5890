"""Cases of towers, projectors (`vis`), image processors (`proc`), frames (`frame`, `tv`), EOS (`eos`), `family`."""

import json

import torch
import transformers as t

from cases_llm import changed
from judge import QUESTION, Case, Peer, generated, vicuna
from tiny import CLIP_MEAN, CLIP_STD, edit, frames, split_processor, tensors, write

FULL = dict(vision_feature_select_strategy="full")
DEFAULT = dict(vision_feature_select_strategy="default")
SIGLIP = dict(tower="siglip", whole=FULL)
HALF = [0.5, 0.5, 0.5]

TOWERS = {
    "clip": {},
    "clip_full": dict(whole=FULL),
    "clip_last": dict(whole=dict(vision_feature_layer=-1)),
    "clip_first_of_all": dict(whole=dict(vision_feature_layer=1)),
    "clip_from_the_end": dict(whole=dict(vision_feature_layer=-5), vision=dict(num_hidden_layers=6)),
    "clip_gelu": dict(vision=dict(hidden_act="gelu")),
    "clip_eps": dict(vision=dict(layer_norm_eps=1e-3)),
    "clip_patch_7": dict(vision=dict(patch_size=7)),
    "clip_patch_8": dict(vision=dict(patch_size=8)),
    "clip_size_not_a_multiple": dict(vision=dict(image_size=60)),
    "siglip": SIGLIP,
    "siglip_last": dict(tower="siglip", whole=FULL | dict(vision_feature_layer=-1)),
    "siglip_default": dict(tower="siglip", whole=DEFAULT),
    "siglip_default_patch_8": dict(tower="siglip", whole=DEFAULT, vision=dict(patch_size=8)),
    "siglip_gelu": dict(SIGLIP, vision=dict(hidden_act="gelu")),
    "siglip_patch_16": dict(SIGLIP, vision=dict(patch_size=16, image_size=64)),
    "layers_one_in_a_list": dict(whole=dict(vision_feature_layer=[-2])),
    "layers_two": dict(whole=dict(vision_feature_layer=[-2, 1])),
    "layers_three": dict(whole=dict(vision_feature_layer=[1, -3, -1])),
    "layers_siglip": dict(tower="siglip", whole=FULL | dict(vision_feature_layer=[2, 3])),
    "projector_gelu_tanh": dict(whole=dict(projector_hidden_act="gelu_pytorch_tanh")),
    "projector_relu": dict(whole=dict(projector_hidden_act="relu")),
    "projector_silu": dict(whole=dict(projector_hidden_act="silu")),
    "projector_quick_gelu": dict(whole=dict(projector_hidden_act="quick_gelu")),
    "projector_without_bias": dict(whole=dict(multimodal_projector_bias=False)),
}

PROCESSORS = {
    "default": {},
    "pad": dict(image_processor="LlavaImageProcessor", processor=dict(do_pad=True)),
    "no_pad": dict(image_processor="LlavaImageProcessor", processor=dict(do_pad=False)),
    "squeeze": dict(processor=dict(size={"height": 56, "width": 56}, do_center_crop=False)),
    "crop_of_64": dict(processor=dict(size={"shortest_edge": 64})),
    "crop_larger_than_the_frame": dict(processor=dict(size={"shortest_edge": 40})),
    "bilinear": dict(processor=dict(resample=2)),
    "lanczos": dict(processor=dict(resample=1)),
    "nearest": dict(processor=dict(resample=0)),
    "box": dict(processor=dict(resample=4)),
    "hamming": dict(processor=dict(resample=5)),
    "other_mean": dict(processor=dict(image_mean=HALF, image_std=HALF)),
    "not_normalized": dict(processor=dict(do_normalize=False)),
    "not_rescaled": dict(processor=dict(do_rescale=False, do_normalize=False)),
    "rescale_factor": dict(processor=dict(rescale_factor=1 / 127.5)),
    "two_edges": dict(processor=dict(size={"shortest_edge": 56, "longest_edge": 70})),
    "within": dict(processor=dict(size={"max_height": 60, "max_width": 66})),
    "one_mean": dict(processor=dict(image_mean=0.4, image_std=0.3)),
    "vit": dict(image_processor="ViTImageProcessor", processor=dict(size={"height": 56, "width": 56}, crop_size=None)),
    "bit": dict(image_processor="BitImageProcessor"),
    "do_pad_of_clip": dict(processor=dict(do_pad=True)),
    "siglip": SIGLIP,
    "siglip_clip_mean": dict(SIGLIP, processor=dict(image_mean=CLIP_MEAN, image_std=CLIP_STD)),
    "siglip_bilinear": dict(SIGLIP, processor=dict(resample=2)),
    "siglip_clip_processor": dict(SIGLIP, image_processor="CLIPImageProcessor"),
    "clip_siglip_processor": dict(image_processor="SiglipImageProcessor", processor=dict(size={"height": 56, "width": 56})),
}

FRAMES = {
    "wide": dict(size=(300, 40)), "tall": dict(size=(30, 200)), "tiny": dict(size=(9, 7)), "exact": dict(size=(56, 56)),
    "big": dict(size=(640, 480)), "odd": dict(size=(101, 57)), "gray": dict(mode="L"), "palette": dict(mode="P"),
    "rgba": dict(mode="RGBA"), "gray_alpha": dict(mode="LA"), "three": dict(n_frames=3),
}


def built(w, name, how):
    """Build a checkpoint with the named image processor class."""
    kind = how.get("image_processor")
    return w.build(name, **(how | dict(image_processor=getattr(t, kind) if kind else None)))


def version_4(w, name, how, **keys):
    d = built(w, name, how)
    split_processor(d, **keys)
    return d


def both_files(w, name):
    """Build a checkpoint whose two processor files disagree."""
    d = w.build(name, processor=dict(image_mean=HALF, image_std=HALF))
    images = json.loads((d / "processor_config.json").read_text())["image_processor"]
    (d / "preprocessor_config.json").write_text(json.dumps(images | dict(image_mean=CLIP_MEAN, image_std=CLIP_STD)))
    return d


def processor_cases(w):
    found = []
    for name, how in PROCESSORS.items():
        found.append(Case("proc", f"v5_{name}", lambda n, how=how: built(w, n, how)))
        found.append(Case("proc", f"v4_{name}", lambda n, how=how: version_4(w, n, how)))
    for kind in ("CLIPImageProcessorFast", "LlavaImageProcessorFast"):
        found.append(Case("proc", f"v4_{kind}", lambda n, kind=kind: version_4(w, n, {}, kind=kind)))
    found.append(Case("proc", "v4_sizes_as_numbers", lambda n: version_4(w, n, {}, size=56, crop_size=56)))
    found.append(Case("proc", "files_disagree", lambda n: both_files(w, n)))
    found.append(Case("proc", "unknown_class", refused="image_processor_type",
                      make=lambda n: version_4(w, n, {}, kind="EfficientNetImageProcessor")))
    return found


def frame_cases(w):
    padded = dict(image_processor="LlavaImageProcessor", processor=dict(do_pad=True))
    found = []
    for name, how in FRAMES.items():
        found.append(Case("frame", f"clip_{name}", lambda n: w.build(n), **how))
        found.append(Case("frame", f"pad_{name}", lambda n: version_4(w, n, padded), **how))
        found.append(Case("frame", f"siglip_{name}", lambda n: w.build(n, **SIGLIP), **how))
    for seed in range(6):
        found.append(Case("tv", f"torchvision_{seed}", lambda n, seed=seed: w.build(n, seed=seed), backend=None, seed=seed,
                          size=(640, 480)))
    return found


def end_cases(w):
    """Return cases of EOS ids and keys of generation_config.json; the EOS ids are taken from the plain answer."""
    plain = {}

    def probe():
        if not plain:
            d = w.build("eos-probe")
            plain.update(Peer(d).answer(vicuna([(QUESTION, None)], 1), frames(d)))
        return plain["ids"]

    def make(name, generation=None, config=None, absent=False):
        d = w.build(name)
        if generation:
            edit(d / "generation_config.json", generation)
        if config:
            edit(d / "config.json", config)
        if absent:
            (d / "generation_config.json").unlink()
        return d

    def text(**keys):
        return lambda config: config["text_config"].update(keys)

    def key(**keys):
        return lambda generation: generation.update(keys)

    def top(config):
        config["text_config"]["eos_token_id"] = None
        config["eos_token_id"] = probe()[7]

    def id_two(name):
        """Build a checkpoint without EOS in text_config, with EOS 704 in generation_config, that generates id 2."""
        d = make(name, key(eos_token_id=704), text(eos_token_id=None))
        weights, head = tensors(d), "language_model.lm_head.weight"
        weights[head][2] = weights[head][probe()[7]]
        weights[head][probe()[7]] = 0
        write(d, weights)
        return d

    def mark_is_a_word(name):
        """Build a checkpoint that generates `</s>` as an ordinary token, with another EOS."""
        d = w.as_version_4(w.build(name, tokenizer="sp legacy"))
        weights, head = tensors(d), "language_model.lm_head.weight"
        ids = Peer(d).answer(vicuna([(QUESTION, None)], 1), frames(d))["ids"]
        weights[head][2] = weights[head][ids[5]] * 1.01
        write(d, weights)
        edit(d / "generation_config.json", key(eos_token_id=3))
        edit(d / "config.json", text(eos_token_id=3))
        return d

    ends = {
        "list": lambda n: make(n, key(eos_token_id=[3, probe()[7]])),
        "number": lambda n: make(n, key(eos_token_id=probe()[7])),
        "of_text_config": lambda n: make(n, config=text(eos_token_id=probe()[7]), absent=True),
        "list_of_text_config": lambda n: make(n, config=text(eos_token_id=[probe()[7], 5]), absent=True),
        "at_top_level": lambda n: make(n, config=top, absent=True),
        "generation_config_decides": lambda n: make(n, key(eos_token_id=probe()[12]), text(eos_token_id=probe()[7])),
        "null": lambda n: make(n, key(eos_token_id=None), text(eos_token_id=probe()[7])),
        "id_2_is_a_word": id_two,
        "mark_is_a_word": mark_is_a_word,
        "repetition_penalty": lambda n: make(n, key(repetition_penalty=1.3)),
        "no_repeat_ngram": lambda n: make(n, key(no_repeat_ngram_size=2)),
        "suppress_tokens": lambda n: make(n, key(suppress_tokens=[probe()[0]])),
        "min_new_tokens": lambda n: make(n, key(eos_token_id=probe()[7], min_new_tokens=12)),
        "begin_suppress_tokens": lambda n: make(n, key(begin_suppress_tokens=[probe()[0]])),
        "bad_words_ids": lambda n: make(n, key(bad_words_ids=[[probe()[1]], [probe()[4], probe()[5]]])),
        "sequence_bias": lambda n: make(n, key(sequence_bias=[[[probe()[0]], -2.0], [[probe()[1], probe()[2]], -5.0]])),
        "min_length": lambda n: make(n, key(eos_token_id=probe()[7], min_length=80)),
        "no_id_twice": lambda n: make(n, key(no_repeat_ngram_size=1)),
        "strong_penalty": lambda n: make(n, key(repetition_penalty=3.0)),
        "penalty_of_text_config": lambda n: make(n, config=text(repetition_penalty=1.5, eos_token_id=probe()[7]), absent=True),
        "no_end_anywhere": lambda n: make(n, config=lambda config: config["text_config"].pop("eos_token_id"), absent=True),
        "sampling": lambda n: make(n, key(do_sample=True, temperature=0.2, top_p=0.9)),
    }
    refused = {
        "beams": dict(num_beams=3),
        "contrastive_search": dict(penalty_alpha=0.6, top_k=4),
        "guidance_scale": dict(guidance_scale=1.5),
        "encoder_repetition_penalty": dict(encoder_repetition_penalty=1.5),
    }
    return [Case("eos", name, how) for name, how in ends.items()] + [
        Case("eos", name, lambda n, keys=keys: make(n, key(**keys)), refused=next(iter(keys))) for name, keys in refused.items()]


def family_cases(w):
    """Return cases of other families: equal answers, or refusals by name."""
    return [
        Case("family", "next", lambda n: w.build(n, family="next"), truth=base_view),
        Case("family", "next_wide", lambda n: w.build(n, family="next"), truth=base_view, size=(300, 90)),
        Case("family", "next_without_pad", lambda n: w.build(n, family="next", processor=dict(do_pad=False)), truth=base_view),
        Case("family", "next_siglip", lambda n: w.build(n, family="next", tower="siglip", whole=FULL), truth=base_view),
        Case("family", "vip", lambda n: w.build(n, family="vip", whole=dict(vision_feature_layers=[-2, -3, 1]))),
        Case("family", "qwen2", lambda n: w.build(n, llm=lambda keys: t.Qwen2Config(num_key_value_heads=2, **keys))),
        Case("family", "qwen3", lambda n: w.build(n, llm=lambda keys: t.Qwen3Config(num_key_value_heads=2, head_dim=16, **keys))),
        Case("family", "phi3", lambda n: w.build(n, llm=lambda keys: t.Phi3Config(pad_token_id=0, **keys)), refused="phi3"),
        Case("family", "gemma", lambda n: w.build(n, llm=lambda keys: t.GemmaConfig(head_dim=16, **keys)), refused="gemma"),
        Case("family", "granite", lambda n: w.build(n, llm=lambda keys: t.GraniteConfig(**keys)), refused="granite"),
        Case("family", "olmo", lambda n: w.build(n, llm=lambda keys: t.OlmoConfig(**keys)), refused="olmo"),
        Case("family", "dinov2", lambda n: w.build(n, tower=lambda keys: t.Dinov2Config(**keys)), refused="dinov2"),
        Case("family", "llava_next_video", lambda n: changed(
            w, n, lambda c: c.update(model_type="llava_next_video", architectures=["LlavaNextVideoForConditionalGeneration"])),
            refused="llava_next_video"),
        Case("family", "vision_config_without_model_type", lambda n: changed(w, n, lambda c: c["vision_config"].pop("model_type"))),
        Case("family", "text_config_without_model_type", lambda n: changed(w, n, lambda c: c["text_config"].pop("model_type"))),
    ]


def base_view(d, images):
    """Answer with LLaVA-NeXT over the base view of each frame: the first patch of the processor, at the placeholder."""
    peer = Peer(d)
    pixels = peer.processor.image_processor(images=[image.convert("RGB") for image in images], return_tensors="pt")["pixel_values"][:, 0]
    with torch.no_grad():
        states = peer.model.model.vision_tower(pixels, output_hidden_states=True).hidden_states[-2]
        if peer.model.config.vision_feature_select_strategy == "default":
            states = states[:, 1:]
        visual = peer.model.model.multi_modal_projector(states)
        text = vicuna([(QUESTION, None)], 1)
        ids = peer.processor.tokenizer(text, return_tensors="pt")["input_ids"][0]
        at = int((ids == peer.processor.image_token_id).nonzero()[0])
        embed = peer.model.get_input_embeddings()
        spliced = torch.cat([embed(ids[:at]), visual.flatten(0, 1), embed(ids[at + 1:])])[None]
        inputs = dict(inputs_embeds=spliced, attention_mask=torch.ones(spliced.shape[:2], dtype=torch.long))
        found = generated(peer.model, inputs, visual.shape[0] * visual.shape[1], peer.processor.tokenizer)
    return found | dict(n_text=len(ids) - 1)


def cases(w):
    vis = [Case("vis", name, lambda n, how=how: w.build(n, **how)) for name, how in TOWERS.items()]
    vis += [Case("vis", f"frames_{k}", lambda n: w.build(n), n_frames=k) for k in (2, 3, 4)]
    return vis + processor_cases(w) + frame_cases(w) + end_cases(w) + family_cases(w)
