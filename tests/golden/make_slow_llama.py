"""Make `sentencepiece/slow_llama.json`: ids of model a by the slow Llama tokenizer of transformers 4.36.2.

The released checkpoints have only `tokenizer.model`, which the released code reads with `LlamaTokenizer(legacy=True)`:
this class with its defaults. Requires an environment of its own (without torch) and the models trained by `make.py`:

    pip install transformers==4.36.2 tokenizers==0.15.2 sentencepiece==0.1.99 'protobuf<5'
    python tests/golden/make_slow_llama.py

slow_llama.json    a list of {text, ids}: `tokenizer(text).input_ids`, so every list begins with `<s>` (1).

Also compares this older sentencepiece with `sentencepiece/expected.json` and prints the differences.
"""

import json
import platform
from importlib.metadata import version
from pathlib import Path

import numpy as np
import sentencepiece
from transformers import LlamaTokenizer

HERE = Path(__file__).resolve().parent
OUT = HERE / "sentencepiece"

SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, and polite "
    "answers to the user's questions."
)

TEXTS = [
    "", " ", "  ", "   ", "\n", "\n\n", "\t", " \n", "\n ", "\r\n", "a", " a", "  a", "a ", "a  ", " a ", "Hello", " Hello", "  Hello", "\nHello",
    "Hello\n", "\n\nHello", "\tHello", "Hello world", "Hello  world", "Hello\nworld", " Hello world ", "the", " the", "\u2581", "\u2581the", " \u2581the",
    f"{SYSTEM} USER: ", "\nWhat is the person in the video doing? ASSISTANT:", " USER: ", "\nWhere is the cat? ASSISTANT:", "ASSISTANT:",
    f"{SYSTEM} USER: What is happening? ASSISTANT: A man is cooking.</s>USER: Where is he? ASSISTANT:",
    f"{SYSTEM} USER: What is happening? ASSISTANT: A man is cooking. </s> USER: Where is he? ASSISTANT:",
    "<s>", "</s>", "<unk>", "<s></s>", "<s> </s>", "<s>  </s>", " <s>", "<s> ", " <s> ", "  <s>  ", "\n<s>\n", "<s><s>", "<unk><unk>",
    "</s>a", "</s> a", "</s>  a", "a</s>", "a </s>", "a  </s>", "a</s>b", "a </s>b", "a</s> b", "a </s> b", "a  </s>  b", "a\n</s>\nb",
    "the</s>the", "the</s> the", "<s>the", "<s> the", "<unk>the", "<unk> the", "the <unk> the", "the<unk>the</s>", "</s>\u2581the", "</s>\nthe",
    "<s>[INST] What is this? [/INST]", "<s> [INST] What is this? [/INST]", "<<s>>", "<<s>s>", "</s></s>the", "</s</s>", "<</s>", "<s</s>", "<s>/s>",
    "< s>", "<S>", "<pad>", "<unk", "unk>", "<0x41>", "</s>\u00e9", "<s>\u732b\u304c", "\u732b\u304c<s>\u732b\u304c", "<image>", "<image>\nthe",
    "L'\u00e9t\u00e9 dernier, nous \u00e9tions \u00e0 la plage", "\u00e9", " \u00e9", "e\u0301", "fran\u00e7ais c\u0153ur na\u00efve", "fene\u0302tre",
    "\u65e5\u672c\u8a9e\u306e\u30c6\u30b9\u30c8", " \u65e5\u672c\u8a9e", "\u3053\u308c\u306f\u30d3\u30c7\u30aa\u3067\u3059\u3002", "\u6771\u4eac",
    "\U0001f600", " \U0001f600", "hello \U0001f600 world</s>\U0001f600", "\u00a0", "\u3000\u732b", "\ufeffthe", "a\x00b", "\x00", "</s>\x00",
    "aaaaaaaaa", "=" * 13, "." * 9, "    x", "def f(x):\n    return x\n", "abababab</s>abababab", "12345", "1,234.56", "it's they've",
    "The quick brown fox jumps over the lazy dog.", "UPPER lower MiXeD", "\u2047", "a\u2028b", "\ufffd",
]


def random_texts(rng, count):
    parts = ["<s>", "</s>", "<unk>", " ", "  ", "\n", "the", " the", "Hello", "\u00e9t\u00e9", "\u732b\u304c", "aaaa", "<", "s>", "/", "\u2581", "12", "="]
    return ["".join(parts[i] for i in rng.integers(0, len(parts), rng.integers(2, 9))) for _ in range(count)]


def check_the_older_library():
    """Print differences of sentencepiece 0.1.99, the version of the released code, from the files of a newer one."""
    expected = json.loads((OUT / "expected.json").read_text())
    for name in "abcd":
        sp = sentencepiece.SentencePieceProcessor(model_file=str(OUT / f"{name}.model"))
        for case in (c for c in expected["encode"] if c["model"] == name):
            if sp.encode(case["text"]) != case["ids"]:
                print("encode differs:", name, ascii(case["text"]), case["ids"], sp.encode(case["text"]))
        for case in (c for c in expected["decode"] if c["model"] == name):
            if sp.decode(case["ids"]) != case["decoded"]:
                print("decode differs:", name, case["ids"], ascii(case["decoded"]), ascii(sp.decode(case["ids"])))


def main():
    tokenizer = LlamaTokenizer(vocab_file=str(OUT / "a.model"))
    texts = TEXTS + random_texts(np.random.default_rng(10), 30)
    lines = [json.dumps({"text": text, "ids": tokenizer(text).input_ids}) for text in texts]
    (OUT / "slow_llama.json").write_text("[\n" + ",\n".join("  " + line for line in lines) + "\n]\n")
    check_the_older_library()
    path = HERE / "versions.json"
    names = ("transformers", "tokenizers", "sentencepiece", "protobuf", "numpy")
    mine = {"python": platform.python_version(), **{name: version(name) for name in names}}
    path.write_text(json.dumps({**json.loads(path.read_text()), "make_slow_llama.py": mine}, indent=2) + "\n")


if __name__ == "__main__":
    main()
