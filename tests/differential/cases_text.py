"""Cases of tokenizers (`tok`), prompts and chat templates (`prompt`), several turns (`chat`)."""

import json

import tokens
from cases_llm import changed
from judge import QUESTION, Case, Peer, vicuna
from tiny import copy, edit

LLAVA_HF = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': '}}{% endif %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% if message['role'] != 'assistant' %}{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ content['text'] + ' '}}{% endfor %}{% else %}{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{% generation %}{{ content['text'] + ' '}}{% endgeneration %}{% endfor %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}")
LLAMA_3 = (
    "{{ bos_token }}{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{% for content in message['content'] %}{% if content['type'] == 'image' %}{{ '<image>\n' }}{% else %}{{ content['text'] | trim }}"
    "{% endif %}{% endfor %}{{ '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}")
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}<image>{% elif content['type'] == 'text' %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")
MISTRAL = (
    "{% for message in messages %}{% if message['role'] == 'user' %}[INST] {% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}<image>\n{% else %}{{ content['text'] }}{% endif %}{% endfor %} [/INST]"
    "{% elif message['role'] == 'assistant' %} {{ message['content'][0]['text'] }}</s>"
    "{% else %}{{ raise_exception('unknown role ' + message['role']) }}{% endif %}{% endfor %}")
TEMPLATES = {"llava": ("sp legacy", LLAVA_HF), "llava_first": ("sp", LLAVA_HF), "llama3": ("llama3", LLAMA_3),
             "chatml": ("smol", CHATML), "mistral": ("sp legacy", MISTRAL)}
PLACES = {
    "jinja_file": lambda d, text: (d / "chat_template.jinja").write_text(text),
    "json_file": lambda d, text: (d / "chat_template.json").write_text(json.dumps(dict(chat_template=text))),
    "processor_config": lambda d, text: edit(d / "processor_config.json", lambda c: c.update(chat_template=text)),
}
FIXED_LENGTH = dict(strategy={"Fixed": 80}, direction="Right", pad_to_multiple_of=None, pad_id=701, pad_type_id=0,
                    pad_token="<|end_of_text|>")
LONGEST = dict(strategy="BatchLongest", direction="Left", pad_to_multiple_of=16, pad_id=701, pad_type_id=0,
               pad_token="<|end_of_text|>")


def saved(w, name, change, **how):
    """Build a checkpoint and change its tokenizer.json."""
    d = w.build(name, **how)
    edit(d / "tokenizer.json", change)
    return d


def old(w, name, **how):
    """Build a checkpoint of transformers 4; `how` are options of its tokenizer files."""
    d = w.as_version_4(w.build(name, tokenizer="sp legacy"), rewrite_tokenizer=False)
    tokens.as_version_4(d, w.tokenizers, **how)
    return d


def model_only(w, name, legacy, add_bos=True):
    """Build a checkpoint with tokenizer.model and tokenizer_config.json only."""
    d = old(w, name)
    (d / "tokenizer.json").unlink()
    edit(d / "tokenizer_config.json", lambda c: c.update(legacy=legacy, add_bos_token=add_bos))
    return d


def image_token(w, name, **flags):
    """Build a checkpoint whose `<image>` token strips the adjacent space."""
    def change(tokenizer):
        for token in tokenizer["added_tokens"]:
            if token["content"] == "<image>":
                token.update(flags)
    return saved(w, name, change)


def added_tokens_file(w, name, **how):
    """Build the layout of transformers up to 4.33: `<image>` in added_tokens.json, no added_tokens_decoder."""
    d = w.build(name, **how)
    saved_tokens = json.loads((d / "tokenizer.json").read_text())["added_tokens"]
    image = next(token["id"] for token in saved_tokens if token["content"] == "<image>")
    (d / "added_tokens.json").write_text(json.dumps({"<image>": image}))
    edit(d / "tokenizer_config.json", lambda c: c.pop("added_tokens_decoder", None))
    return d


def adds_end(tokenizer):
    """Set a post-processor that appends EOS."""
    post = tokenizer["post_processor"]["processors"][1]
    post["single"].append({"SpecialToken": {"id": "<|end_of_text|>", "type_id": 0}})
    post["special_tokens"]["<|end_of_text|>"] = {"id": "<|end_of_text|>", "ids": [701], "tokens": ["<|end_of_text|>"]}


def untruncated(d, frames):
    """Answer with transformers without the saved truncation, with which its processor refuses every prompt."""
    twin = copy(d, "untruncated")
    edit(twin / "tokenizer.json", lambda j: j.update(truncation=None))
    return Peer(twin).answer(vicuna([(QUESTION, None)], len(frames)), frames)


def tokenizer_cases(w):
    def bos(value):
        return lambda n, **how: changed(w, n, lambda c: c["text_config"].update(bos_token_id=value), **how)

    made = {
        "v5": lambda n: w.build(n, tokenizer="sp"),
        "v5_legacy": lambda n: w.build(n, tokenizer="sp legacy"),
        "v5_nobos": lambda n: w.build(n, tokenizer="sp nobos"),
        "v5_legacy_nobos": lambda n: w.build(n, tokenizer="sp legacy nobos"),
        "v4_legacy": lambda n: old(w, n),
        "v4_first": lambda n: old(w, n, first=True, legacy=False),
        "v4_prepend_not_legacy": lambda n: old(w, n, legacy=False),
        "v4_LlamaTokenizerFast": lambda n: old(w, n, kind="LlamaTokenizerFast", model=False),
        "v4_PreTrainedTokenizerFast": lambda n: old(w, n, kind="PreTrainedTokenizerFast", model=False),
        "v4_first_PreTrainedTokenizerFast": lambda n: old(w, n, kind="PreTrainedTokenizerFast", model=False, first=True),
        "model_only_legacy": lambda n: model_only(w, n, True),
        "model_only_not_legacy": lambda n: model_only(w, n, False),
        "model_only_nobos": lambda n: model_only(w, n, True, add_bos=False),
        "truncation": lambda n: saved(w, n, lambda j: j.update(
            truncation=dict(direction="Right", max_length=20, strategy="LongestFirst", stride=0))),
        "padding_fixed": lambda n: saved(w, n, lambda j: j.update(padding=FIXED_LENGTH)),
        "padding_longest": lambda n: saved(w, n, lambda j: j.update(padding=LONGEST)),
        "image_token_rstrip": lambda n: image_token(w, n, rstrip=True),
        "image_token_lstrip": lambda n: image_token(w, n, lstrip=True),
        "image_token_both": lambda n: image_token(w, n, lstrip=True, rstrip=True),
        "added_tokens_file": lambda n: added_tokens_file(w, n, tokenizer="sp"),
        "added_tokens_file_legacy": lambda n: added_tokens_file(w, n, tokenizer="sp legacy"),
        "added_tokens_file_llama3": lambda n: added_tokens_file(w, n),
        "post_processor_adds_end": lambda n: saved(w, n, adds_end),
        "bos_null": bos(None),
        "bos_other": bos(5),
        "bos_absent": lambda n: changed(w, n, lambda c: c["text_config"].pop("bos_token_id")),
        "bos_null_smol": lambda n: bos(None)(n, tokenizer="smol"),
        "smol": lambda n: w.build(n, tokenizer="smol"),
        "llama3": lambda n: w.build(n),
    }
    found = [Case("tok", name, how, truth=untruncated if name == "truncation" else None) for name, how in made.items()]
    questions = ["Où est le café? 何が起きていますか。", "  two  spaces and\ttab", "emoji 🎬🎞️ here", "1234567 and 3.14", "x" * 60]
    for kind in ("sp", "sp legacy", "llama3", "smol"):
        found += [Case("tok", f"question_{i}_{kind.replace(' ', '_')}", lambda n, kind=kind: w.build(n, tokenizer=kind), question=question)
                  for i, question in enumerate(questions)]
    found.append(Case("tok", "two_frames_first", lambda n: w.build(n, tokenizer="sp"), n_frames=2))
    return found


def with_template(w, name, kind, place=None):
    tokenizer, text = TEMPLATES[kind]
    if place is None:
        return w.build(name, tokenizer=tokenizer, chat_template=text)
    d = w.build(name, tokenizer=tokenizer)
    PLACES[place](d, text)
    return d


def prompt_cases(w):
    """Return cases of the default prompt and of chat templates, with one placeholder for all frames."""
    found = []
    for kind in TEMPLATES:
        found.append(Case("prompt", kind, lambda n, kind=kind: with_template(w, n, kind), chat=True, template=[]))
    for place in PLACES:
        found.append(Case("prompt", f"llava_in_{place}", lambda n, place=place: with_template(w, n, "llava", place), chat=True, template=[]))
    found.append(Case("prompt", "built_in_by_name", lambda n: with_template(w, n, "llava")))
    found.append(Case("prompt", "by_the_name_of_the_checkpoint", lambda n: with_template(w, n, "llama3"), chat=True,
                      template=["--template", "checkpoint"]))
    return found


def chat_cases(w):
    """Return cases of three turns of one chat."""
    later = ["Why?", "What else is there?"]
    found = [Case("chat", f"vicuna_{kind.replace(' ', '_')}", lambda n, kind=kind: w.build(n, tokenizer=kind), turns=later)
             for kind in ("sp", "sp legacy", "llama3", "smol")]
    found += [Case("chat", f"template_{kind}", lambda n, kind=kind: with_template(w, n, kind), turns=later, chat=True, template=[])
              for kind in TEMPLATES]
    found.append(Case("chat", "model_only_not_legacy", lambda n: model_only(w, n, False), turns=later))
    return found


def cases(w):
    return tokenizer_cases(w) + prompt_cases(w) + chat_cases(w)
