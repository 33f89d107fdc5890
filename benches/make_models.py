"""Make full-size checkpoints with random weights, to measure time and memory without a download.

    python benches/make_models.py smolvlm-256m|smolvlm-500m|onevision-0.5b DIRECTORY [--dtype float32|bfloat16]
    vidense bench ask clip.mp4 "What is happening?" --model DIRECTORY

Requires torch, transformers and tokenizers. Geometry, special tokens and the files beside the weights are those of the
released checkpoints. The vocabulary consists of bytes and unused entries, so a text has about three times as many
tokens as with the released tokenizer.
"""

import argparse
import json
from pathlib import Path

SMOL_TEXT = dict(model_type="llama", vocab_size=49280, max_position_embeddings=8192, rms_norm_eps=1e-5, rope_theta=100000.0,
                 bos_token_id=1, eos_token_id=2, pad_token_id=2, head_dim=64)
SMOL_TOWER = dict(hidden_size=768, intermediate_size=3072, image_size=512, patch_size=16, num_hidden_layers=12, num_attention_heads=12,
                  hidden_act="gelu_pytorch_tanh", layer_norm_eps=1e-6)
SMOL_SPECIAL_IDS = {"<|endoftext|>": 0, "<|im_start|>": 1, "<|im_end|>": 2, "<fake_token_around_image>": 49189, "<image>": 49190,
              "<global-img>": 49152, "<end_of_utterance>": 49279}
QWEN_SPECIAL_IDS = {"<|endoftext|>": 151643, "<|im_start|>": 151644, "<|im_end|>": 151645, "<image>": 151646, "<video>": 151647}


def smolvlm(d_model, d_ff, layers, heads, kv_heads):
    """Describe a SmolVLM: configuration, processor, template, tokenizer."""
    text = SMOL_TEXT | dict(hidden_size=d_model, intermediate_size=d_ff, num_hidden_layers=layers, num_attention_heads=heads,
                            num_key_value_heads=kv_heads)
    config = dict(model_type="smolvlm", image_token_id=49190, scale_factor=4, tie_word_embeddings=False, text_config=text,
                  vision_config=SMOL_TOWER)
    processor = dict(image_processor_type="SmolVLMImageProcessor", processor_class="SmolVLMProcessor", do_convert_rgb=True,
                     do_image_splitting=True, do_normalize=True, do_pad=True, do_rescale=True, do_resize=True, image_mean=[0.5] * 3,
                     image_std=[0.5] * 3, max_image_size={"longest_edge": 512}, resample=1, rescale_factor=1 / 255,
                     size={"longest_edge": 2048}, video_sampling=dict(fps=1, max_frames=64, video_size={"longest_edge": 2048}))
    template = ("<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}{% if message['content'][0]['type'] == 'image' %}"
                "{{':'}}{% else %}{{': '}}{% endif %}{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}"
                "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
                "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}")
    special = dict(bos="<|im_start|>", eos="<end_of_utterance>", pad="<|im_end|>")
    return dict(family="SmolVLM", config=config, processor=processor, template=template,
                special_ids=SMOL_SPECIAL_IDS, vocab_size=49280, special=special, processor_config=dict(processor_class="SmolVLMProcessor", image_seq_len=64))


def onevision():
    """Describe LLaVA-OneVision 0.5B: configuration, processor, template, tokenizer."""
    text = dict(model_type="qwen2", hidden_size=896, intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14,
                num_key_value_heads=2, vocab_size=152000, max_position_embeddings=32768, rms_norm_eps=1e-6, rope_theta=1000000.0,
                tie_word_embeddings=True, bos_token_id=151643, eos_token_id=151645)
    tower = dict(model_type="siglip_vision_model", hidden_size=1152, intermediate_size=4304, image_size=384, patch_size=14,
                 num_hidden_layers=26, num_attention_heads=16, vision_use_head=False)
    config = dict(model_type="llava_onevision", image_token_index=151646, video_token_index=151647, tie_word_embeddings=True,
                  text_config=text, vision_config=tower)
    processor = dict(image_processor_type="LlavaOnevisionImageProcessor", processor_class="LlavaOnevisionProcessor", do_convert_rgb=True,
                     do_normalize=True, do_pad=True, do_rescale=True, do_resize=True, image_mean=[0.5] * 3, image_std=[0.5] * 3, resample=3,
                     rescale_factor=1 / 255, size={"height": 384, "width": 384})
    template = ("{% for message in messages %}{{'<|im_start|>' + message['role'] + ' '}}{% for content in message['content'] | "
                "selectattr('type', 'equalto', 'image') %}{{ '<image>' }}{% endfor %}{% for content in message['content'] | "
                "selectattr('type', 'equalto', 'video') %}{{ '<video>' }}{% endfor %}{% for content in message['content'] | "
                "selectattr('type', 'equalto', 'text') %}{{ '\n' + content['text'] }}{% endfor %}{{'<|im_end|>'}}{% endfor %}"
                "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
    special = dict(eos="<|im_end|>", pad="<|endoftext|>")
    processor_config = dict(processor_class="LlavaOnevisionProcessor", image_token="<image>", video_token="<video>",
                            num_image_tokens=729, vision_feature_select_strategy="full")
    return dict(family="LlavaOnevision", config=config, processor=processor, template=template,
                special_ids=QWEN_SPECIAL_IDS, vocab_size=151648, special=special, processor_config=processor_config)


MODELS = {
    "smolvlm-256m": lambda: smolvlm(576, 1536, 30, 9, 3),
    "smolvlm-500m": lambda: smolvlm(960, 2560, 32, 15, 5),
    "onevision-0.5b": onevision,
}


def tokenizer(model, out):
    """Write a tokenizer of bytes, with the special tokens at their released ids and unused entries between."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    special = {id: token for token, id in model["special_ids"].items()}
    letters = iter(sorted(pre_tokenizers.ByteLevel.alphabet()))
    vocab = {}
    for id in range(model["vocab_size"]):
        vocab[special.get(id) or next(letters, f"<unused_{id}>")] = id
    made = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in model["special_ids"]])
    made.save(str(out / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 32768}
    config |= {f"{name}_token": token for name, token in model["special"].items()}
    (out / "tokenizer_config.json").write_text(json.dumps(config, indent=1))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    arguments = parser.parse_args()
    import torch
    import transformers

    model, out = MODELS[arguments.model](), arguments.directory
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    config = getattr(transformers, f"{model['family']}Config")(**model["config"])
    made = getattr(transformers, f"{model['family']}ForConditionalGeneration")(config).to(getattr(torch, arguments.dtype))
    made.save_pretrained(out)
    eos_id = model["special_ids"][model["special"]["eos"]]
    (out / "generation_config.json").write_text(json.dumps({"eos_token_id": eos_id}))
    (out / "preprocessor_config.json").write_text(json.dumps(model["processor"], indent=1))
    (out / "processor_config.json").write_text(json.dumps(model["processor_config"], indent=1))
    (out / "chat_template.json").write_text(json.dumps({"chat_template": model["template"]}, indent=1))
    tokenizer(model, out)
    print(f"{out}: {sum(p.numel() for p in made.parameters()) / 1e6:.0f}M parameters")


if __name__ == "__main__":
    main()
