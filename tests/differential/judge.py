"""Ask vidense and transformers the same, and say whether their tokens are equal."""

import json
import subprocess
from dataclasses import dataclass, field

import torch
import transformers as t

SYSTEM = "A chat between a user and an assistant."
QUESTION = "What is in the picture?"
NEW_TOKENS = 24
NEAR_TIE = 2e-3
"""Two best logits that are this close may change places by rounding."""


@dataclass
class Case:
    """One checkpoint, and how it is asked."""

    group: str
    name: str
    make: callable
    """Takes a folder's name, gives the folder."""
    n_frames: int = 1
    size: tuple = (100, 72)
    mode: str = "RGB"
    seed: int = 0
    question: str = QUESTION
    arguments: list = field(default_factory=list)
    """Further arguments of vidense."""
    template: list = field(default_factory=lambda: ["--template", "vicuna_v1", "--system", SYSTEM])
    chat: bool = False
    """Whether transformers is to make the prompt with the checkpoint's chat template."""
    backend: str = "pil"
    """The backend of transformers' image processor; None for its default."""
    truth: callable = None
    """Takes the folder and the frames, gives what `Peer.answer` gives; for what AutoProcessor cannot read."""
    turns: list = field(default_factory=list)
    """Questions that follow in the same chat; the last one's answer is compared."""
    refused: str = None
    """A part of the message with which vidense rightly refuses the checkpoint."""


class Peer:
    """transformers' own answer."""

    def __init__(self, d, backend="pil", model=None, processor=None):
        config = t.AutoConfig.from_pretrained(d)
        kind = getattr(t, config.architectures[0])
        self.model = model or kind.from_pretrained(d, dtype=torch.float32).eval()
        how = {"backend": backend} if backend and int(t.__version__.split(".")[0]) >= 5 else {}
        self.processor = processor or t.AutoProcessor.from_pretrained(d, **how)

    def prompt(self, turns, n_frames):
        """The text of the checkpoint's chat template for questions and answers, of which the last question has none."""
        messages = []
        for i, (question, answer) in enumerate(turns):
            images = [{"type": "image"}] * (0 if i else n_frames)
            messages.append({"role": "user", "content": [*images, {"type": "text", "text": question}]})
            if answer is not None:
                messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
        return self.processor.apply_chat_template(messages, add_generation_prompt=True)

    @torch.no_grad()
    def answer(self, text, frames):
        """The greedy ids, and how far the second best logit was each time."""
        # As apply_chat_template(tokenize=True): a template that writes BOS itself gets no second one.
        bos = self.processor.tokenizer.bos_token
        adds = {"add_special_tokens": False} if bos is not None and text.startswith(bos) else {}
        inputs = self.processor(images=[frame.convert("RGB") for frame in frames], text=text, return_tensors="pt", **adds)
        inputs.pop("token_type_ids", None)
        n_visual = int((inputs["input_ids"] == self.processor.image_token_id).sum())
        return generated(self.model, inputs, n_visual, self.processor.tokenizer)


@torch.no_grad()
def generated(model, inputs, n_visual, tokenizer):
    """The tokens that `generate` gives to prepared inputs."""
    out = model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False, return_dict_in_generate=True, output_logits=True)
    n_prompt = inputs["input_ids"].shape[1] if "input_ids" in inputs else 0
    ids = out.sequences[0, n_prompt:].tolist()
    gaps = [float(best[0] - best[1]) for best in (logits[0].float().topk(2).values for logits in out.logits)]
    return dict(ids=ids, gaps=gaps, n_visual=n_visual, n_text=n_prompt - n_visual,
                decode=lambda ids: tokenizer.decode(ids, skip_special_tokens=True))


def vicuna(turns, n_frames):
    """The prompt of vidense's template vicuna_v1."""
    text = f"{SYSTEM} "
    for i, (question, answer) in enumerate(turns):
        text += f"USER: {'' if i else '<image>' * n_frames + chr(10)}{question} ASSISTANT:"
        text += "" if answer is None else f" {answer}</s>"
    return text


def ask(binary, d, case):
    """vidense's answer; a word where it gave none."""
    words = ["chat", str(d / "frames")] if case.turns else ["ask", str(d / "frames"), case.question]
    command = [binary, *words, "--model", str(d), "--sample", "all", "--temporal", "concat", "--max-new-tokens", str(NEW_TOKENS),
               "--temperature", "0", "--device", "cpu", "--dtype", "f32", "--json", *case.template, *case.arguments]
    questions = [case.question, *case.turns]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=120, input="\n".join(questions))
    except subprocess.TimeoutExpired:
        return dict(verdict="hang", detail="", command=command)
    if run.returncode < 0 or run.returncode == 101 or "panicked" in run.stderr:
        return dict(verdict="crash", detail=run.stderr[-600:], command=command)
    if run.returncode:
        return dict(verdict="refused", detail=run.stderr.strip(), command=command)
    answers = [json.loads(line) for line in run.stdout.strip().split("\n")]
    if len(answers) != len(questions):
        return dict(verdict="refused", detail=run.stderr.strip(), command=command)
    answer, earlier = answers[-1], [answer["answer"] for answer in answers[:-1]]
    return dict(verdict="answered", turns=list(zip(questions, [*earlier, None])), ids=answer["token_ids"], text=answer["answer"], n_text=answer["prompt_tokens"],
                n_visual=answer["visual_tokens"], finish=answer["finish_reason"], detail=run.stderr.strip(), command=command)


def compare(found, truth):
    """The verdict over two answers, and where they part."""
    counts = (found["n_text"], found["n_visual"]) == (truth["n_text"], truth["n_visual"])
    if found["ids"] == truth["ids"] and counts:
        # The token that ends an answer is no part of its text.
        text = truth["decode"](truth["ids"][:-1] if found["finish"] == "stop" else truth["ids"]).strip()
        if found["text"] == text:
            return "equal", ""
        return "DIFFERENT", f"the same ids, but the text {found['text']!r} for {text!r}"
    first = next((i for i, pair in enumerate(zip(found["ids"], truth["ids"])) if pair[0] != pair[1]),
                 min(len(found["ids"]), len(truth["ids"])))
    gap = truth["gaps"][first] if first < len(truth["gaps"]) else None
    if counts and gap is not None and gap < NEAR_TIE:
        return "near tie", f"at token {first}, two logits {gap:.1e} apart"
    return "DIFFERENT", (
        f"at token {first} of {len(truth['ids'])} and {len(found['ids'])} (gap {gap}); text tokens {found['n_text']} for "
        f"{truth['n_text']}, visual {found['n_visual']} for {truth['n_visual']}; ids {found['ids'][:6]} for {truth['ids'][:6]}")


def judge(binary, d, frames, case):
    """The verdict: equal, near tie, refused (as the case expects), or what counts as a failure: all others."""
    found = ask(binary, d, case)
    if case.refused:
        if found["verdict"] == "refused" and case.refused in found["detail"]:
            return "refused", case.refused, found
        return "NOT REFUSED", f"{found['verdict']}; expected a message with `{case.refused}`: {found['detail'][-400:]}", found
    if found["verdict"] != "answered":
        return found["verdict"].upper(), found["detail"][-600:], found
    try:
        if case.truth:
            truth = case.truth(d, frames)
        else:
            peer = Peer(d, case.backend)
            prompt = peer.prompt if case.chat else vicuna
            truth = peer.answer(prompt(found["turns"], len(frames)), frames)
    except Exception as error:  # whatever transformers makes of a checkpoint that vidense answered
        return "NO TRUTH", f"{type(error).__name__}: {str(error)[:300]}", found
    return *compare(found, truth), found
