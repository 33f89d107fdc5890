"""Make `text/*.json`: prompts, chat templates and answers by transformers, for many kinds of tokenizers.

    pip install transformers==5.24.0 tokenizers==0.23.3 sentencepiece protobuf jinja2
    python tests/golden/make_text.py            # text/base.json, text/tokenizers.json, text/templates.json
    pip install transformers==4.57.6            # in another environment
    python tests/golden/make_text.py slow       # text/slow.json

base.json        two small tokenizer.json: `pieces` (sentencepiece/a.model, converted) and `bytes` (byte-level BPE).
tokenizers.json  cases: `base` with `patch` (replaced keys of tokenizer.json) or a `model`, `config`
                 (tokenizer_config.json), other `files`; `prompts`: [text before the image, text after it, ids before,
                 ids after] by `AutoTokenizer` and `LlavaProcessor` for model_type llava; `answers`: [ids, text] by
                 `decode(ids, skip_special_tokens=True).strip()`.
templates.json   chat templates, conversations, and the prompts by `apply_chat_template`.
slow.json        the slow LlamaTokenizer of 4.57 (`use_fast=False`): settings, texts, ids.
"""

import json
import random
import shutil
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
OUT = HERE / "text"
MODEL = HERE / "sentencepiece" / "a.model"
TEXTS = [
    ("USER: ", "\nWhat is in the picture? ASSISTANT:"),
    ("", "\nthe  cat\tand é"),
    ("A chat. USER:", "What?</s>USER: and  then? "),
    ("<s>USER: ", "\nthe cat</s>"),
    ("  the \n ", "  the</s> the"),
]


def token(content, **flags):
    base = dict(content=content, single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)
    return base | flags


def write(path, value):
    path.write_text(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n")


def build(directory, case, bases):
    directory.mkdir()
    write(directory / "config.json", {"model_type": "llava", "text_config": {"model_type": "llama"}})
    if case["config"] is not None:
        write(directory / "tokenizer_config.json", case["config"])
    for name, value in case.get("files", {}).items():
        write(directory / name, value)
    if "base" in case:
        write(directory / "tokenizer.json", bases[case["base"]] | case["patch"])
    else:
        shutil.copy(MODEL, directory / "tokenizer.model")


def make_bases():
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory() as root:
        directory = Path(root) / "a"
        build(directory, {"config": {"add_bos_token": True, "legacy": False}}, {})
        tokenizer = AutoTokenizer.from_pretrained(directory)
        tokenizer.add_tokens([AddedToken("<image>", special=True, normalized=False)], special_tokens=True)
        pieces = json.loads(tokenizer.backend_tokenizer.to_str())
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    words = ["USER: What is in the picture? ASSISTANT: the cat and then the user", "A chat. and  then?\nthe"] * 3
    specials = ["<s>", "</s>", "<unk>", "<image>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=specials, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(words, trainer)
    return {"pieces": pieces, "bytes": json.loads(tokenizer.to_str())}


def processor(ids, begin=None, end=None):
    special = lambda name, kind: [{"SpecialToken": {"id": name, "type_id": kind}}] if name else []
    body = lambda name, kind: special(begin, kind) + [{"Sequence": {"id": name, "type_id": kind}}] + special(end, kind)
    tokens = {name: {"id": name, "ids": [ids[name]], "tokens": [name]} for name in (begin, end) if name}
    return {
        "type": "TemplateProcessing", "single": body("A", 0), "pair": body("A", 0) + body("B", 1), "special_tokens": tokens,
    }


def metaspace(scheme):
    return {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": False}


def cases(bases):
    pieces, level = {"<s>": 1, "</s>": 2}, {"<s>": 0, "</s>": 1}
    image = lambda base, **flags: {
        "added_tokens": [
            (token | flags if token["content"] == "<image>" else token) for token in bases[base]["added_tokens"]
        ]
    }
    named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    prepend = {
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "pre_tokenizer": None,
    }
    image_token = {str(len(bases["pieces"]["model"]["vocab"])): token("<image>")}
    spaced = {str(len(bases["pieces"]["model"]["vocab"])): token("<image>", rstrip=True, lstrip=True)}
    lower = {"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Lowercase"}]}}
    json_case = lambda name, base, patch, config=named: dict(name=name, base=base, patch=patch, config=config)
    yield json_case("first", "pieces", {"pre_tokenizer": metaspace("first")})
    yield json_case("always", "pieces", {"pre_tokenizer": metaspace("always")})
    yield json_case("never", "pieces", {"pre_tokenizer": metaspace("never")})
    yield json_case("prepend", "pieces", prepend)
    yield json_case("lstrip_rstrip", "pieces", image("pieces", lstrip=True, rstrip=True))
    yield json_case("eos_at_the_end", "pieces", {"post_processor": processor(pieces, "<s>", "</s>")})
    yield json_case("no_bos", "pieces", {"post_processor": processor(pieces)}, named | {"add_bos_token": True})
    yield json_case("config_cannot_take_bos", "pieces", {}, named | {"add_bos_token": False, "add_eos_token": True})
    yield json_case("no_tokenizer_config", "pieces", {}, None)
    yield json_case("image_named_by_config_alone", "pieces",
                    {"added_tokens": [t for t in bases["pieces"]["added_tokens"] if t["content"] != "<image>"]},
                    named | {"added_tokens_decoder": image_token})
    yield json_case("config_changes_flags", "pieces", {}, named | {"added_tokens_decoder": spaced})
    # transformers up to 4.33: the flags in tokenizer.json take precedence over added_tokens.json.
    image_id = next(t["id"] for t in bases["pieces"]["added_tokens"] if t["content"] == "<image>")
    yield json_case("image_in_added_tokens_file", "pieces", {}) | {"files": {"added_tokens.json": {"<image>": image_id}}}
    yield json_case("image_in_added_tokens_file_strips", "pieces", image("pieces", lstrip=True, rstrip=True)) | {
        "files": {"added_tokens.json": {"<image>": image_id}}}
    yield json_case("image_by_extra_token", "pieces",
                    {"added_tokens": [t for t in bases["pieces"]["added_tokens"] if t["content"] != "<image>"]},
                    named | {"extra_special_tokens": {"image_token": "<image>"}})
    yield json_case("saved_truncation_and_padding", "pieces", {
        "truncation": {"direction": "Right", "max_length": 5, "strategy": "LongestFirst", "stride": 0},
        "padding": {"strategy": {"Fixed": 99}, "direction": "Left", "pad_to_multiple_of": None, "pad_id": 0,
                    "pad_type_id": 0, "pad_token": "<unk>"}})
    yield json_case("byte_level", "bytes", {})
    yield json_case("byte_level_with_bos", "bytes", {"post_processor": processor(level, "<s>")})
    yield json_case("byte_level_prefix_space", "bytes", {
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}})
    yield json_case("normalized", "bytes", lower)
    added = {"added_tokens_decoder": image_token}
    for name, config in {
        "model_alone": added, "model_legacy": added | {"legacy": True}, "model_not_legacy": added | {"legacy": False},
        "model_legacy_null": added | {"legacy": None}, "model_adds_bos": added | {"add_bos_token": True},
        "model_adds_both": added | {"add_bos_token": True, "add_eos_token": True, "legacy": False},
        "model_own_flags": {"added_tokens_decoder": spaced, "legacy": False},
    }.items():
        yield dict(name=name, config=config)


def tokenizers(bases):
    from transformers import AutoTokenizer

    out = []
    for case in cases(bases):
        with tempfile.TemporaryDirectory() as root:
            directory = Path(root) / "case"
            build(directory, case, bases)
            tokenizer = AutoTokenizer.from_pretrained(directory)
        image = tokenizer.convert_tokens_to_ids("<image>")
        case["prompts"] = []
        for before, after in TEXTS:
            text = f"{before}<image>{after}"
            writes_bos = tokenizer.bos_token is not None and text.startswith(tokenizer.bos_token)
            # As LlavaProcessor and apply_chat_template: the placeholder is repeated for each visual token.
            repeated = text.replace("<image>", "<image>" * 4)
            ids = tokenizer(repeated, add_special_tokens=not writes_bos)["input_ids"]
            at = ids.index(image)
            assert ids[at:at + 4] == [image] * 4 and ids.count(image) == 4, (case["name"], text, ids)
            case["prompts"].append([before, after, ids[:at], ids[at + 4:]])
        draw = random.Random(case["name"])
        vocabulary = len(tokenizer)
        some_bytes = [i for i in map(tokenizer.convert_tokens_to_ids, [f"<0x{b:02X}>" for b in range(256)]) if i]
        case["answers"] = []
        for n in (1, 2, 3, 9, 30):
            for kind in range(3):
                pick = lambda: draw.choice(some_bytes) if some_bytes and kind and draw.random() < 0.7 else draw.randrange(vocabulary)
                ids = [pick() for _ in range(n)]
                case["answers"].append([ids, tokenizer.decode(ids, skip_special_tokens=True).strip()])
        out.append(case)
    return out


FAMILIES = {
    "llava_1_5": "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': '}}{% endif %}{# Render all images first #}{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}{# Render all text next #}{% if message['role'] != 'assistant' %}{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] + ' '}}{% endfor %}{% else %}{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{% generation %}{{ content['text'] + ' '}}{% endgeneration %}{% endfor %}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}",
    "llava_next_mistral": "{% for message in messages %}{% if message['role'] == 'system' %}{{ '<<SYS>>\n' + message['content'][0]['text'] + '\n<</SYS>>\n\n' }}{% elif message['role'] == 'user' %}{{ '[INST] ' }}{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] }}{% endfor %}{{' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'][0]['text'] + '</s> '}}{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}",
    "llava_next_llama": "{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] | trim }}{% endfor %}{{ '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
    "video_parts": "{%- for message in messages -%}\n{{ '<|im_start|>' ~ message.role ~ '\n' }}{% for part in message.content %}{% if part.type == 'video' %}<image>{% elif part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}{{ '<|im_end|>\n' }}\n{%- endfor -%}\n{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
}
TEXT_TEMPLATES = {
    "llama_3": "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
    "chatml": "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a helpful AI assistant<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "llama_2": "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}{% for message in loop_messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% if loop.index0 == 0 and system_message != false %}{% set content = '<<SYS>>\n' + system_message + '\n<</SYS>>\n\n' + message['content'] %}{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}",
    "indented": "{%- set ns = namespace(n=0) %}\n{%- for message in messages %}\n    {%- if message.role == 'user' %}\n        {%- set ns.n = ns.n + 1 %}\n    {%- endif %}\n    {% if message['role'] == 'system' %}\n[S] {{ message['content'] }}\n    {% else %}\n{{ loop.index }}/{{ ns.n }} {{ message['role'].title() }}: {{ message['content'].split('</think>')[-1].lstrip('\n') }}\n    {% endif %}\n{%- endfor %}\n{% if add_generation_prompt is defined and add_generation_prompt %}\nAnswer:\n{%- endif %}",
    "dumped": "{{ bos_token }}{% for m in messages %}{% if not loop.first %}{{ messages[loop.index0 - 1] | tojson }}{% endif %}{% if m.content is string and m.role in ['user', 'system', 'assistant'] %}[{{ m.role | upper }}]{{ m['content'] | replace('\t', ' ') }}{{ loop.last }}{% endif %}{% endfor %}",
}
CHATS = [
    dict(system=None, turns=[["What is it?", None]], primed=""),
    dict(system="Be brief.", turns=[["What is it?", None]], primed=""),
    dict(system=None, turns=[["  What\nis it? ", "A cat."], ["And é?", "Two."], ["Why?", None]], primed=""),
    dict(system=None, turns=[["What is it?", None]], primed="It is"),
    dict(system=None, turns=[["What?", "It is a"], ["How?", None]], primed="It is "),
]


def templates():
    from transformers.utils.chat_template_utils import render_jinja_template

    out = []
    for name, source in (FAMILIES | TEXT_TEMPLATES).items():
        for chat in CHATS:
            is_text = name in TEXT_TEMPLATES
            words = lambda text: text if is_text else [{"type": "text", "text": text}]
            messages = [{"role": "system", "content": words(chat["system"])}] if chat["system"] else []
            for i, (question, answer) in enumerate(chat["turns"]):
                kind = "video" if name == "video_parts" else "image"
                first = f"<image>\n{question}" if is_text else [{"type": kind}] + words(question)
                messages.append({"role": "user", "content": words(question) if i else first})
                if answer is not None:
                    messages.append({"role": "assistant", "content": words(answer)})
            if chat["primed"]:
                messages.append({"role": "assistant", "content": words(chat["primed"])})
            try:
                text = render_jinja_template(
                    [messages], chat_template=source, add_generation_prompt=not chat["primed"],
                    continue_final_message=bool(chat["primed"]), bos_token="<s>", eos_token="</s>",
                )[0][0]
            except Exception as error:  # A template may raise an exception.
                print("skipped:", name, chat, type(error).__name__, str(error)[:90])
                continue
            if text.count("<image>") == 1:
                out.append(dict(name=name, template=source, chat=chat, text=text))
            else:
                print("skipped:", name, chat, text.count("<image>"), "images")
    return out


def slow():
    from transformers import AutoTokenizer

    texts = [text for pair in TEXTS for text in pair] + [
        "", " ", "  ", "\n", "a", " a", "a</s>b", "a </s> b", "</s>", "</s>a", "</s> a", "</s>  a", "<s>", "<s> a", "<unk>", "<unk>the",
        "the<unk> the", "▁", "▁the", "a▁b", "</s>▁the", "the <new> cat", "the<new>cat", "<new> cat", " </s>", "  </s>a", "<left>  the",
        "the  <right>  cat", "né 日本", "</s>né", "</s> né",
    ]
    out = []
    added = {"600": token("<new>", special=False), "601": token("<left>", rstrip=True), "602": token("<right>", lstrip=True)}
    for config in [{}, {"legacy": True}, {"legacy": False}, {"legacy": None}, {"legacy": False, "add_bos_token": False},
                   {"legacy": False, "add_eos_token": True}, {"legacy": False, "add_prefix_space": False}, {"add_bos_token": False}]:
        config = {"tokenizer_class": "LlamaTokenizer", "added_tokens_decoder": added} | config
        with tempfile.TemporaryDirectory() as root:
            directory = Path(root) / "case"
            build(directory, {"config": config}, {})
            write(directory / "config.json", {"model_type": "llama"})
            tokenizer = AutoTokenizer.from_pretrained(directory, use_fast=False)
        assert not tokenizer.is_fast
        out.append(dict(config=config, texts=[[text, tokenizer(text).input_ids] for text in texts]))
    return out


if __name__ == "__main__":
    OUT.mkdir(exist_ok=True)
    if sys.argv[1:] == ["slow"]:
        write(OUT / "slow.json", slow())
    else:
        bases = make_bases()
        write(OUT / "base.json", bases)
        write(OUT / "tokenizers.json", tokenizers(bases))
        write(OUT / "templates.json", templates())
