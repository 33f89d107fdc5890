"""Makes `text/chat_answers.json`: answers of transformers to questions about two media, by tiny checkpoints in families/.

    pip install transformers==5.24.0 torch torchvision pillow num2words
    python tests/golden/make_chat_answers.py

`media` are file names and, for a video, the indices of frames. `input_ids` are the prompt's, with one placeholder for each run
of visual tokens; `gap` is the least distance between the two best logits of a step. In f32 on the CPU.
"""

import itertools
import json
from pathlib import Path

import torch
from make_family_answers import HERE, RATE, decode
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.video_utils import VideoMetadata

OUT = Path(__file__).resolve().parent / "text" / "chat_answers.json"
N_NEW = 12
VIDEO = "video.mkv"
CASES = [
    ("smolvlm", [[VIDEO, [0, 9, 19]], [VIDEO, [38, 57, 67]]], [[[0, "and", 1, "Which one is red?"], None]]),
    ("smolvlm", [[VIDEO, [0, 9]], [VIDEO, [38, 57]]], [[[0, "What is it?"], "A cat."], [["And here?", 1], None]]),
    ("llava_onevision", [[VIDEO, [0, 10]], [VIDEO, [30, 50]]], [[[0, 1, "Which one is red?"], None]]),
    ("llava_onevision", [[VIDEO, [0, 10]], ["single_image/wide/image.png", None]], [[[0, 1, "Is it in the video?"], None]]),
    ("llava_next", [["single_image/wide/image.png", None], ["single_image/square/image.png", None]],
     [[[0, "What is it?"], "A cat."], [[1, "And here?"], None]]),
]


def messages(media, turns):
    kind = lambda medium: {"type": "image" if medium[1] is None else "video"}
    part = lambda content: {"type": "text", "text": content} if isinstance(content, str) else kind(media[content])
    for question, answer in turns:
        yield {"role": "user", "content": [part(content) for content in question]}
        if answer is not None:
            yield {"role": "assistant", "content": [{"type": "text", "text": answer}]}


@torch.no_grad()
def make(case, media, turns):
    directory = HERE / case
    processor = AutoProcessor.from_pretrained(directory)
    model = AutoModelForImageTextToText.from_pretrained(directory, dtype=torch.float32).eval()
    text = processor.apply_chat_template(list(messages(media, turns)), add_generation_prompt=True, tokenize=False)
    inputs = {}
    images = [Image.open(directory / name).convert("RGB") for name, indices in media if indices is None]
    clips = [(decode(directory / name), indices) for name, indices in media if indices is not None]
    if images:
        inputs["images"] = images
    if clips:
        inputs["videos"] = [torch.from_numpy(frames[indices].copy()).permute(0, 3, 1, 2) for frames, indices in clips]
        inputs["video_metadata"] = [VideoMetadata(total_num_frames=len(frames), fps=RATE, duration=len(frames) / RATE,
                                                  frames_indices=indices) for frames, indices in clips]
        inputs["do_sample_frames"] = False
    inputs = processor(text=[text], **inputs, return_tensors="pt")
    ids = inputs["input_ids"][0].tolist()
    out = model.generate(**inputs, max_new_tokens=N_NEW, do_sample=False, output_logits=True, return_dict_in_generate=True)
    best = [step[0].topk(2).values for step in out.logits]
    tokens = {model.config.image_token_id, getattr(model.config, "video_token_id", None)} - {None}
    collapsed = [group for key, group in itertools.groupby(ids) for group in ([key] if key in tokens else list(group))]
    made = dict(
        family=case, media=[[name, indices and [i / RATE for i in indices]] for name, indices in media], turns=turns,
        input_ids=collapsed, n_visual_tokens=sum(ids.count(token) for token in tokens),
        generated_ids=out.sequences[0, len(ids):].tolist(), gap=min(float(a - b) for a, b in best),
    )
    print(case, made["generated_ids"], made["gap"])
    return made


if __name__ == "__main__":
    torch.set_num_threads(1)
    OUT.write_text("[\n" + ",\n".join(json.dumps(make(*case)) for case in CASES) + "\n]\n")
