"""Comparison of the answers of vidense and transformers to one case."""

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
    """Checkpoint, question and frames of one comparison."""

    group: str
    name: str
    make: callable
    """Builds the checkpoint: takes the directory's name, returns its path."""
    n_frames: int = 1
    size: tuple = (100, 72)
    mode: str = "RGB"
    seed: int = 0
    question: str = QUESTION
    arguments: list = field(default_factory=list)
    """Further arguments of vidense."""
    template: list = field(default_factory=lambda: ["--template", "vicuna_v1", "--system", SYSTEM])
    chat: bool = False
    """Whether the peer's prompt comes from the checkpoint's chat template."""
    backend: str = "pil"
    """Backend of the image processor in transformers; None is its default."""
    truth: callable = None
    """Replaces `Peer.answer` where AutoProcessor cannot read the checkpoint: takes directory and frames."""
    turns: list = field(default_factory=list)
    """Further questions of the same chat; the answer to the last is compared."""
    refused: str = None
    """Part of the expected message of a refusal; None where an answer is expected."""


class Peer:
    """Model and processor of a checkpoint in transformers."""

    def __init__(self, d, backend="pil", model=None, processor=None):
        config = t.AutoConfig.from_pretrained(d)
        kind = getattr(t, config.architectures[0])
        self.model = model or kind.from_pretrained(d, dtype=torch.float32).eval()
        how = {"backend": backend} if backend and int(t.__version__.split(".")[0]) >= 5 else {}
        self.processor = processor or t.AutoProcessor.from_pretrained(d, **how)

    def prompt(self, turns, n_frames):
        """Return the prompt that the chat template makes of turns (question, answer); the last answer is None."""
        messages = []
        for i, (question, answer) in enumerate(turns):
            images = [{"type": "image"}] * (0 if i else n_frames)
            messages.append({"role": "user", "content": [*images, {"type": "text", "text": question}]})
            if answer is not None:
                messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
        return self.processor.apply_chat_template(messages, add_generation_prompt=True)

    @torch.no_grad()
    def answer(self, text, frames):
        """Return the greedy ids, and the gap between the two best logits of each step."""
        # As apply_chat_template(tokenize=True): no second BOS after a template that writes BOS itself.
        bos = self.processor.tokenizer.bos_token
        adds = {"add_special_tokens": False} if bos is not None and text.startswith(bos) else {}
        inputs = self.processor(images=[frame.convert("RGB") for frame in frames], text=text, return_tensors="pt", **adds)
        inputs.pop("token_type_ids", None)
        n_visual = int((inputs["input_ids"] == self.processor.image_token_id).sum())
        return generated(self.model, inputs, n_visual, self.processor.tokenizer)


@torch.no_grad()
def generated(model, inputs, n_visual, tokenizer):
    """Generate greedily from prepared inputs and return ids, gaps, counts and text."""
    out = model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False, return_dict_in_generate=True, output_logits=True)
    n_prompt = inputs["input_ids"].shape[1] if "input_ids" in inputs else 0
    ids = out.sequences[0, n_prompt:].tolist()
    gaps = [float(best[0] - best[1]) for best in (logits[0].float().topk(2).values for logits in out.logits)]
    return dict(ids=ids, gaps=gaps, n_visual=n_visual, n_text=n_prompt - n_visual,
                decode=lambda ids: tokenizer.decode(ids, skip_special_tokens=True))


def vicuna(turns, n_frames):
    """Return the prompt of the template vicuna_v1."""
    text = f"{SYSTEM} "
    for i, (question, answer) in enumerate(turns):
        text += f"USER: {'' if i else '<image>' * n_frames + chr(10)}{question} ASSISTANT:"
        text += "" if answer is None else f" {answer}</s>"
    return text


def ask(binary, d, case):
    """Run `vidense ask` or `chat`; return the answer, or the verdict `crash`, `hang` or `refused` with the message."""
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
    """Return the verdict over two answers and the first difference."""
    counts = (found["n_text"], found["n_visual"]) == (truth["n_text"], truth["n_visual"])
    if found["ids"] == truth["ids"] and counts:
        # EOS is not part of the text.
        text = truth["decode"](truth["ids"][:-1] if found["finish"] == "stop" else truth["ids"]).strip()
        if found["text"] == text:
            return "equal", ""
        return "DIFFERENT", f"equal ids, text {found['text']!r}, expected {text!r}"
    first = next((i for i, pair in enumerate(zip(found["ids"], truth["ids"])) if pair[0] != pair[1]),
                 min(len(found["ids"]), len(truth["ids"])))
    gap = truth["gaps"][first] if first < len(truth["gaps"]) else None
    if counts and gap is not None and gap < NEAR_TIE:
        return "near tie", f"at token {first}, gap of the two best logits {gap:.1e}"
    return "DIFFERENT", (
        f"at token {first} of {len(found['ids'])}, expected {len(truth['ids'])} (gap {gap}); text tokens {found['n_text']}, "
        f"expected {truth['n_text']}; visual tokens {found['n_visual']}, expected {truth['n_visual']}; ids "
        f"{found['ids'][:6]}, expected {truth['ids'][:6]}")


def judge(binary, d, frames, case):
    """Return the verdict of a case, its detail, and the answer of vidense.

    All verdicts but `equal`, `near tie` and an expected `refused` are failures.
    """
    found = ask(binary, d, case)
    if case.refused:
        if found["verdict"] == "refused" and case.refused in found["detail"]:
            return "refused", case.refused, found
        return "NOT REFUSED", f"{found['verdict']}, expected a message with `{case.refused}`: {found['detail'][-400:]}", found
    if found["verdict"] != "answered":
        return found["verdict"].upper(), found["detail"][-600:], found
    try:
        if case.truth:
            truth = case.truth(d, frames)
        else:
            peer = Peer(d, case.backend)
            prompt = peer.prompt if case.chat else vicuna
            truth = peer.answer(prompt(found["turns"], len(frames)), frames)
    except Exception as error:  # any error of transformers for a checkpoint that vidense answered
        return "NO TRUTH", f"{type(error).__name__}: {str(error)[:300]}", found
    return *compare(found, truth), found
