#!/usr/bin/env python3
"""Make the goldens of judges.

    python3 make_judge.py VIDEO_CHATGPT TEMPCOMPASS MLVU [OUT]

Checkouts of mbzuai-oryx/Video-ChatGPT (659e04b), llyx97/TempCompass (e1b4631) and JUNJIE99/MLVU (fd060c1).

- judge_prompts.json: the messages of each script of their evaluations, with the values below filled in, and the scoring
  points as Python writes their list.
- judge_replies.json: replies of judges with the verdict that is meant (None: none), and what `ast.literal_eval` makes of
  the whole reply, as the scripts read it ("error" where it raises).
"""
import ast, json, sys
from pathlib import Path

SCRIPTS = {
    "video-chatgpt-qa": "evaluate_activitynet_qa",
    "video-chatgpt-correctness": "evaluate_benchmark_1_correctness",
    "video-chatgpt-detail": "evaluate_benchmark_2_detailed_orientation",
    "video-chatgpt-context": "evaluate_benchmark_3_context",
    "video-chatgpt-temporal": "evaluate_benchmark_4_temporal",
    "video-chatgpt-consistency": "evaluate_benchmark_5_consistency",
}
VALUES = {
    "question": "who is {answer} to \"her\"?", "answer": "the man's\nson", "pred": "{question} \u00e9",
    "choices": "What {prediction}?\nA. a\nB. b",
    "scoring_points": ["plain", "the man's hat", 'he says "go"', "both ' and \"", "a\\b\tc", "\u00e9\u00a0\u2019"],
    "question1": "what is he doing?", "question2": "which {answer}?", "pred1": "running", "pred2": "he {runs}",
}


def value_of(node, path, names):
    """Evaluate an expression of a script."""
    return eval(compile(ast.Expression(node), str(path), "eval"), {}, dict(names))


def messages(path):
    """Return the messages of the only request of a script."""
    calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call) and getattr(n.func, "attr", "") == "create"]
    (call,) = calls
    value = next(k.value for k in call.keywords if k.arg == "messages")
    return value_of(value, path, VALUES)


def tempcompass(checkout):
    """Return the messages about a caption."""
    templates = {}
    exec((checkout / "prompt_templates.py").read_text(), templates)
    path = checkout / "eval_captioning.py"
    nodes = list(ast.walk(ast.parse(path.read_text())))
    (prompt,) = [n.value for n in nodes if isinstance(n, ast.Assign) and isinstance(n.value, ast.JoinedStr) and n.targets[0].id == "prompt"]
    (data,) = [n for n in nodes if isinstance(n, ast.Dict) and any(getattr(k, "value", "") == "messages" for k in n.keys)]
    names = {"base_prompt": templates["caption_evaluation_prompt"], "pred": {"prediction": VALUES["pred"]}, "id": 0, "dim": 0}
    names["mc_questions"] = [[[{"question": VALUES["choices"]}]]]
    return value_of(data, path, {"prompt": value_of(prompt, path, names)})["messages"]


REPLIES = [
    # As asked for.
    ("{'pred': 'yes', 'score': 5}", ["yes", 5]),
    ("{'pred': 'no', 'score': 0}", ["no", 0]),
    ("{'pred': 'yes', 'score': 4.8}", ["yes", 4.8]),
    ('{"pred": "no", "score": 2}', ["no", 2]),
    ("{'score': 3, 'pred': 'yes'}", ["yes", 3]),
    ("{ 'pred' : 'yes' , 'score' : 4 }", ["yes", 4]),
    ("{'pred': 'yes', 'score': 4,}", ["yes", 4]),
    ("{\n  'pred': 'yes',\n  'score': 4\n}", ["yes", 4]),
    ("  {'pred': 'yes', 'score': 4}  ", ["yes", 4]),
    ("{'pred': \"yes\", 'score': 4.0}", ["yes", 4]),
    ("{'pred': 'yes', 'score': 4.}", ["yes", 4]),
    ("{'pred': 'no', 'score': .5}", ["no", 0.5]),
    ("{'pred': 'no', 'score': 5e-1}", ["no", 0.5]),
    ("{'pred': 'no', 'score': +1}", ["no", 1]),
    ("{'pred': 'Yes', 'score': 5}", ["yes", 5]),
    ("{'pred': 'YES', 'score': 5}", ["yes", 5]),
    ("{'pred': ' no ', 'score': 1}", ["no", 1]),
    ("{'pred': 'No', 'score': 1}\n", ["no", 1]),
    # Further keys.
    ("{'pred': 'yes', 'score': 4, 'reason': 'It\\'s the same man.'}", ["yes", 4]),
    ("{'question': 'who?', 'pred': 'no', 'score': 1}", ["no", 1]),
    ("{'pred': 'yes', 'score': 4, 'sure': True}", ["yes", 4]),
    ('{"pred": "yes", "score": 4, "why": null}', ["yes", 4]),
    ('{"pred": "yes", "score": 4, "sure": true}', ["yes", 4]),
    ("{'pred': 'yes', 'score': 4, 'why': None}", ["yes", 4]),
    # Text around.
    ("{'pred': 'yes', 'score': 4.8}.", ["yes", 4.8]),
    ("```python\n{'pred': 'yes', 'score': 4}\n```", ["yes", 4]),
    ("```json\n{\"pred\": \"no\", \"score\": 1}\n```", ["no", 1]),
    ("```\n{'pred': 'no', 'score': 2}\n```", ["no", 2]),
    ("Evaluation: {'pred': 'yes', 'score': 3}", ["yes", 3]),
    ("Here is the evaluation:\n\n{'pred': 'no', 'score': 0}\n\nThe answers differ.", ["no", 0]),
    ("result = {'pred': 'yes', 'score': 5}", ["yes", 5]),
    ("\"{'pred': 'yes', 'score': 5}\"", ["yes", 5]),
    ("<think>Is it {the same}?</think>{'pred': 'yes', 'score': 5}", ["yes", 5]),
    ("{'pred': 'yes', 'score': 4} {'pred': 'yes', 'score': 4}", ["yes", 4]),
    ("[{'pred': 'yes', 'score': 4}]", ["yes", 4]),
    ("({'pred': 'no', 'score': 1},)", ["no", 1]),
    # Not understood.
    ("", None),
    ("yes", None),
    ("4", None),
    ("yes, 4", None),
    ("pred: yes, score: 4", None),
    ("'pred': 'yes', 'score': 4", None),
    ("{'pred': 'yes', 'score': 4", None),
    ("{'pred': 'yes'", None),
    ("{'pred': 'yes', 'sco", None),
    ("{pred: yes, score: 4}", None),
    ("{'pred': yes, 'score': 4}", None),
    ("{'pred': 'yes' 'score': 4}", None),
    ("{'pred': 'yes'; 'score': 4}", None),
    ("{'pred', 'yes', 'score', 4}", None),
    ("{}", None),
    ("{'pred': 'yes'}", None),
    ("{'score': 4}", None),
    ("{''score': 4.8}", None),
    ("{'pred': 'yes', 'score': '4'}", None),
    ("{'pred': 'yes', 'score': 'four'}", None),
    ("{'pred': 'yes', 'score': None}", None),
    ("{'pred': 'yes', 'score': True}", None),
    ("{'pred': 'yes', 'score': 4/5}", None),
    ("{'pred': 'yes', 'score': 04}", None),
    ("{'pred': 'yes', 'score': nan}", None),
    ("{'pred': 'yes', 'score': [4]}", None),
    ("{'pred': 'yes', 'score': 6}", None),
    ("{'pred': 'yes', 'score': -1}", None),
    ("{'pred': 'yes', 'score': 5.01}", None),
    ("{'pred': 'yes', 'score': 1e400}", None),
    ("{'pred': True, 'score': 4}", None),
    ("{'pred': 1, 'score': 4}", None),
    ("{'pred': 'maybe', 'score': 3}", None),
    ("{'pred': 'yes/no', 'score': 3}", None),
    ("{'pred': 'yes.', 'score': 4}", None),
    ("{'pred': '', 'score': 4}", None),
    ("{'Pred': 'yes', 'Score': 4}", None),
    ("{'pred': 'yes', 'score': 4} or {'pred': 'no', 'score': 2}", None),
    ("{'pred': 'yes', 'score': 4, 'score': 2}", None),
    ("{'pred': 'yes', 'pred': 'no', 'score': 2}", None),
    ("{'a': {'pred': 'yes', 'score': 4}, 'b': {'pred': 'no', 'score': 2}}", None),
    ("I'm sorry, but I can't assist with that.", None),
]


def literal(text):
    """Return what the scripts read, as JSON can hold it: an infinite number counts as an error."""
    try:
        value = ast.literal_eval(text)
        return json.loads(json.dumps(value, allow_nan=False))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return "error"


if __name__ == "__main__":
    chatgpt, temp_compass, mlvu = (Path(name) for name in sys.argv[1:4])
    out = Path(sys.argv[4] if len(sys.argv) > 4 else Path(__file__).parent / "eval")
    prompts = {name: messages(chatgpt / f"quantitative_evaluation/{script}.py") for name, script in SCRIPTS.items()}
    prompts["tempcompass-captioning"] = tempcompass(temp_compass)
    for name, script in [("mlvu-sub-scene", "evaluate_ssc"), ("mlvu-summary", "evaluate_summary")]:
        prompts[name] = messages(mlvu / f"evaluation/generation_evaluation/{script}.py")
    VALUES["rubric"] = str(VALUES["scoring_points"])
    (out / "judge_prompts.json").write_text(json.dumps({"values": VALUES, "messages": prompts}, indent=1) + "\n")
    rows = [{"reply": reply, "verdict": verdict, "python": literal(reply)} for reply, verdict in REPLIES]
    (out / "judge_replies.json").write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")
