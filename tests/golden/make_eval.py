#!/usr/bin/env python3
"""Make the goldens of evaluation from the public scripts of the benchmarks.

    python3 make_eval.py CLONES WORDNET [OUT]

CLONES holds checkouts: lmms-eval (EvolvingLMMs-Lab), slowfast (apple/ml-slowfast-llava), video-mme
(thanku-all/parse_answer), ask-anything (OpenGVLab), mlvu (JUNJIE99/MLVU), tempcompass (llyx97/TempCompass), next-oe
(doc-doc/NExT-OE). WORDNET is the directory `dict` of WordNet 3.0 with its exception files and NLTK's `lexnames`; needs
`pip install nltk`, and NLTK_DATA set to a directory above it.

- choice_scripts.json: for every answer of choice_answers.jsonl what each script makes of it. Scripts that draw an option
  at random for an answer that they do not parse are recorded as "random".
- wups.json: 500 pairs of word lists with the WUPS of NExT-OE's metrics.py over NLTK; tokens are split at spaces.
- wordnet/: the part of WordNet that these words need, with its licence.
"""
import ast, json, random, re, string, sys, types
from pathlib import Path


def functions(path, names, **globals_):
    """Return functions of a script, executed without the rest of it."""
    text = Path(path).read_text()
    if path.suffix == ".ipynb":
        cells = [c for c in json.loads(text)["cells"] if c["cell_type"] == "code"]
        text = next("".join(c["source"]) for c in cells if f"def {names[0]}" in "".join(c["source"]))
    space = {"re": re, "string": string, "random": random, **globals_}
    from typing import List, Optional
    space |= {"List": List, "Optional": Optional}
    for node in ast.parse(text).body:
        keep = isinstance(node, ast.FunctionDef) and node.name in names
        keep |= isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "").startswith("_")
        if keep:
            exec(compile(ast.Module([node], []), str(path), "exec"), space)
    return [space[name] for name in names]


class Random(Exception):
    pass


def random_choice(_):
    raise Random


def scripts(clones):
    """Return the parsers, each from (answer, labels, texts) to a label or None."""
    lmms = clones / "lmms-eval/lmms_eval/tasks"
    fake = types.SimpleNamespace(choice=random_choice)
    np = types.SimpleNamespace(argmax=lambda v: v.index(max(v)), argmin=lambda v: v.index(min(v)))
    (extract,) = functions(lmms / "_task_utils/mcq_extract.py", ["extract_mcq_answer"])
    (nextqa,) = functions(lmms / "nextqa/utils.py", ["parse_multi_choice_response"], random=fake, np=np)
    (ego,) = functions(lmms / "egoschema/utils.py", ["parse_multi_choice_response"], random=fake, np=np)
    (lvb,) = functions(lmms / "longvideobench/utils.py", ["parse_multi_choice_response"], random=fake)
    (mvbench,) = functions(lmms / "mvbench/utils.py", ["mcq_acc"])
    (slowfast,) = functions(clones / "slowfast/eval/eval_multiple_choice_qa.py", ["map_prediction_to_option"])
    (mme,) = functions(clones / "video-mme/eval_your_results.py", ["extract_characters_regex"])
    (videochat,) = functions(clones / "ask-anything/video_chat2/mvbench.ipynb", ["check_ans"])
    (mlvu,) = functions(clones / "mlvu/evaluation/multiple_choice_evaluation/choice_bench.py", ["check_ans"])

    def accepted(check, labels, texts, gold):
        """Return the labels for which a script that only checks says that the answer is right."""
        return [label for label, text in zip(labels, texts) if check(gold(label, text))]

    def one(labels):
        return labels[0] if len(labels) == 1 else ("several" if labels else None)

    return {
        "lmms_eval.extract_mcq_answer": lambda a, l, t: extract(a, choices=l) or None,
        "lmms_eval.nextqa": lambda a, l, t: nextqa(a, l, dict(zip(l, t))),
        "lmms_eval.egoschema": lambda a, l, t: ego(a, l, dict(zip(l, t)))[0],
        "lmms_eval.longvideobench": lambda a, l, t: lvb(a, l, dict(zip(l, t))),
        "lmms_eval.mvbench": lambda a, l, t: one(accepted(lambda g: mvbench(g, a), l, t, lambda x, _: x)),
        "lmms_eval.perceptiontest": lambda a, l, t: (re.search(r"\b([A-D])\b", a.strip()) or [None, None])[1],
        "slowfast_llava": lambda a, l, t: {"none": None}.get(slowfast(a), slowfast(a).upper()),
        "video_mme": lambda a, l, t: mme(a) or None,
        "videochat2.mvbench": lambda a, l, t: one(
            accepted(lambda g: videochat(a, g), l, t, lambda x, y: f"({x}) {y}")),
        "mlvu": lambda a, l, t: one(accepted(lambda g: mlvu(a, g), l, t, lambda x, y: f"({x}) {y}")),
    }


def run_scripts(clones, out):
    lines = [json.loads(line) for line in (out / "choice_answers.jsonl").read_text().splitlines()]
    sets = {line["set"]: line for line in lines if "set" in line}
    answers = [line for line in lines if "answer" in line]
    results = {}
    for name, script in scripts(clones).items():
        results[name] = []
        for line in answers:
            options = sets[line["options"]]
            if options["labels"][0] != "A":
                results[name].append("not run")
                continue
            try:
                results[name].append(script(line["answer"], options["labels"], options["texts"]))
            except Random:
                results[name].append("random")
            except IndexError:
                results[name].append("crash")
    (out / "choice_scripts.json").write_text(json.dumps(results, indent=0) + "\n")


NOUNS = """man men woman women boy girl baby babies dog dogs puppy cat cats horse sheep bird person people child children
 lady guy car cars truck bus bicycle bikes skateboard board ball balls toy toys book books table chair sofa bed floor
 wall door window house room kitchen garden park street road beach sea river lake water snow mountain forest tree trees
 flower grass leaf leaves hand hands finger arm leg legs foot feet head face hair eye eyes mouth hat shirt trousers
 jacket shoes glasses camera phone guitar piano drum music stage cup glass bottle plate knife spoon cake bread apple
 meat fish egg food milk rope stick stone fire light sun shadow box bag paper pen computer screen keyboard mouse""".split()
VERBS = """run runs running walk walks walking sit sits sitting sat stand standing jump jumps jumping climb climbing
 fall fell falling throw throws throwing threw catch catches kick kicking hit hits hold holding held carry carries
 carried push pushes pull pulling open opens close closed eat eats eating drink drinking cook cooking cut cutting wash
 washing clean cleaning write writes read reading look looks looking watch watches see saw hear listen talk talking
 speak sing singing dance dancing play plays playing laugh laughing smile smiling cry cries sleep sleeping wake kiss
 hug touch wave waving clap clapping swim swimming ride riding drive driving fly flies turn turned move moves bend""".split()
OTHERS = """red blue green white black brown yellow big small tall happy sad tired excited fast slow wet dry cold warm
 old young two three four five yes no not quickly slowly up down away outdoors forwards bigger happiest xyzzy""".split()


def phrases():
    """Return 500 pairs of word lists, a third of which share words."""
    draw = random.Random(20)
    words = lambda: [draw.choice(draw.choice([NOUNS, VERBS, OTHERS])) for _ in range(draw.randint(1, 4))]
    pairs = []
    while len(pairs) < 500:
        a, b = words(), words()
        if draw.random() < 0.33:
            b[draw.randrange(len(b))] = draw.choice(a)
        pairs.append((a, b))
    return pairs


def wordnet_reader(directory):
    from nltk.corpus.reader.wordnet import WordNetCorpusReader
    from nltk.data import FileSystemPathPointer
    return WordNetCorpusReader(FileSystemPathPointer(str(directory)), None)


def wups_golden(clones, directory, out):
    wordnet = wordnet_reader(directory)
    space = functions(clones / "next-oe/metrics.py", ["wup", "wups", "get_wups"], wordnet=wordnet, word_tokenize=str.split)
    pairs = phrases()
    rows = [{"a": a, "b": b, "wups_0": space[2](" ".join(a), " ".join(b), 0),
             "wups_0.9": space[2](" ".join(a), " ".join(b), 0.9)} for a, b in pairs]
    (out / "wups.json").write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")
    extract(wordnet, directory, sorted({w for pair in pairs for side in pair for w in side}), out / "wordnet")


def extract(wordnet, directory, words, out):
    """Write the lines of WordNet's files that `words` need."""
    out.mkdir(exist_ok=True)
    parts = {"n": "noun", "v": "verb", "a": "adj", "r": "adv"}
    synsets, lemmas, forms = set(), {p: set() for p in parts}, {p: set() for p in parts}
    for word in words:
        for p in parts:
            for form in wordnet._morphy(word, p):
                lemmas[p].add(form)
            if word in wordnet._exception_map[p]:
                forms[p].add(word)
        for synset in wordnet.synsets(word)[:1]:
            for path in synset.hypernym_paths():
                synsets.update(path)
            synsets.add(synset)
    for synset in synsets:
        lemmas["a" if synset.pos() == "s" else synset.pos()].add(synset.name().rsplit(".", 2)[0])
    for p, name in parts.items():
        keep = lambda line, known: line.startswith("  ") or known(line)
        offsets = {f"{s.offset():08d}" for s in synsets if ("a" if s.pos() == "s" else s.pos()) == p}
        copy = lambda file, known: (out / file).write_text("".join(
            (line if line.startswith("  ") else line.split(" | ")[0].rstrip() + "\n")
            for line in (directory / file).read_text().splitlines(keepends=True) if keep(line, known)))
        copy(f"index.{name}", lambda line: line.split(" ")[0] in lemmas[p])
        copy(f"data.{name}", lambda line: line[:8] in offsets)
        copy(f"{name}.exc", lambda line: line.split(" ")[0] in forms[p])


if __name__ == "__main__":
    clones, directory = Path(sys.argv[1]), Path(sys.argv[2])
    out = Path(sys.argv[3] if len(sys.argv) > 3 else Path(__file__).parent / "eval")
    run_scripts(clones, out)
    wups_golden(clones, directory, out)
