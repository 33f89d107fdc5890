"""Makes `text/chats.json`: the prompts that processors of transformers make of conversations about several media.

    pip install transformers==5.24.0 torch torchvision pillow num2words
    python tests/golden/make_chats.py FAMILIES      # a folder of checkpoints with processors: llava, llava_onevision, ...

Each family has the settings of its tokenizer, its chat template, and cases: `turns` [[question, answer], ...] whose
questions are lists of texts and of indices of `media`; `beginning` of the answer to be continued; `text`, the prompt
after the processor's replacements, in which `⟦i⟧` stands for each run of visual tokens of medium `i`. A medium is
`image`, or a video with the indices of its frames, and the number of frames and seconds of the whole.
"""

import json
import re
import sys
from pathlib import Path

import numpy
from PIL import Image
from transformers import AutoProcessor

OUT = Path(__file__).resolve().parent / "text" / "chats.json"
NAMES = ["llava", "llava_next-mistral", "llava_onevision", "smolvlm", "internvl"]
OF_VIDEOS = {"llava_onevision", "smolvlm", "internvl"}
IMAGE = "image"
# Processors batch videos of one length only.
CLIP = dict(frames=[0, 9, 20], total=24, seconds=8.0)
OTHER = dict(frames=[4, 37, 70], total=96, seconds=4.0)
CHATS = [
    dict(turns=[[["Who are you?"], None]], media=[]),
    dict(turns=[[[0, "What is it?"], None]], media=[IMAGE]),
    dict(turns=[[[0, 1, "Which one is red?"], None]], media=[IMAGE, IMAGE]),
    dict(turns=[[["First:", 0, "then:", 1, "Which one is red?"], None]], media=[IMAGE, IMAGE]),
    dict(turns=[[[0, "What is it?"], "A cat."], [[1, "And here?"], None]], media=[IMAGE, IMAGE]),
    dict(turns=[[["Hello."], "Hi."], [[0, "What is it?"], None]], media=[IMAGE]),
    dict(system="Be brief.", turns=[[[0, 1, "Which one is red?"], None]], media=[IMAGE, IMAGE]),
    dict(turns=[[[0, 1, "Which one is red?"], None]], media=[IMAGE, IMAGE], beginning="It is the"),
    dict(turns=[[[0, 1, "Which one moves?"], None]], media=[CLIP, OTHER]),
    dict(turns=[[[0, "Who?"], "A cat."], [["Look:", 1, "Who else?"], None]], media=[CLIP, OTHER]),
    dict(turns=[[[1, 0, "Is the image in the video?"], None]], media=[IMAGE, CLIP]),
    dict(turns=[[["Hello."], "Hi."], [[0, "What is it?"], None]], media=[CLIP], beginning="It"),
]


def messages(chat):
    text = lambda words: {"type": "text", "text": words}
    kind = lambda medium: {"type": "image" if medium == IMAGE else "video"}
    part = lambda content: text(content) if isinstance(content, str) else kind(chat["media"][content])
    out = [{"role": "system", "content": [text(chat["system"])]}] if "system" in chat else []
    for question, answer in chat["turns"]:
        out.append({"role": "user", "content": [part(content) for content in question]})
        if answer is not None:
            out.append({"role": "assistant", "content": [text(answer)]})
    if "beginning" in chat:
        out.append({"role": "assistant", "content": [text(chat["beginning"])]})
    return out


def shown(chat, is_image):
    """Indices of the media of a kind, in the order of the questions."""
    contents = [content for question, _ in chat["turns"] for content in question if not isinstance(content, str)]
    return [content for content in contents if (chat["media"][content] == IMAGE) == is_image]


def marked(processor, chat):
    """The prompt after the processor's replacements, with a mark for each run of visual tokens."""
    token = {name: getattr(processor, f"{name}_token", None) for name in ("image", "video")}
    context = getattr(processor.tokenizer, "context_image_token", None) or token["image"]
    runs = re.compile("|".join(f"(?:{re.escape(t)})+" for t in {context, *token.values()} if t))
    order = {"image": shown(chat, True), "video": shown(chat, False)}
    texts = []

    def wrap(name, replace):
        return lambda inputs, idx, **kwargs: runs.sub(f"⟦{order[name][idx]}⟧", replace(inputs, idx, **kwargs))

    for name in ("image", "video"):
        replace = getattr(type(processor), f"replace_{name}_token").__get__(processor)
        wrapped = wrap(name, replace)
        setattr(processor, f"replace_{name}_token",
                (lambda f, key: lambda inputs, **kw: f(inputs, kw.pop(key), **kw))(wrapped, f"{name}_idx"))
    replaced = type(processor).get_text_with_replacements.__get__(processor)

    def record(text, *args, **kwargs):
        out = replaced(text, *args, **kwargs)
        texts.append(out[0][0])
        raise StopIteration

    processor.get_text_with_replacements = record
    text = processor.apply_chat_template(messages(chat), add_generation_prompt="beginning" not in chat,
                                         continue_final_message="beginning" in chat, tokenize=False)
    images = [Image.new("RGB", (640, 480)) for _ in order["image"]]
    videos = [numpy.zeros((len(chat["media"][i]["frames"]), 64, 64, 3), numpy.uint8) for i in order["video"]]
    metadata = [dict(total_num_frames=chat["media"][i]["total"], fps=chat["media"][i]["total"] / chat["media"][i]["seconds"],
                     duration=chat["media"][i]["seconds"], frames_indices=chat["media"][i]["frames"]) for i in order["video"]]
    inputs = {}
    if images:
        inputs["images"] = images
        if "SmolVLM" in type(processor).__name__:
            inputs["do_image_splitting"] = False
        if "InternVL" in type(processor).__name__:
            inputs["crop_to_patches"] = False
    if videos:
        inputs.update(videos=videos, video_metadata=metadata, do_sample_frames=False, return_tensors="pt")
    if not inputs:
        return text
    try:
        processor(text=[text], **inputs)
    except StopIteration:
        pass
    return texts[0]


def family(root, name):
    out = dict(name=name, tokenizer=json.loads((root / name / "tokenizer_config.json").read_text()),
               template=(root / name / "chat_template.jinja").read_text(), cases=[])
    for chat in CHATS:
        if name not in OF_VIDEOS and any(medium != IMAGE for medium in chat["media"]):
            continue
        try:
            text = marked(AutoProcessor.from_pretrained(root / name), chat)
        except Exception as error:  # a processor or a template may refuse
            print("left out:", name, chat, type(error).__name__, str(error)[:200])
            continue
        assert all(f"⟦{i}⟧" in text for i in range(len(chat["media"]))), (name, text)
        out["cases"].append(chat | dict(text=text))
    return out


if __name__ == "__main__":
    made = [family(Path(sys.argv[1]), name) for name in NAMES]
    OUT.write_text(json.dumps(made, ensure_ascii=False, indent=1) + "\n")
