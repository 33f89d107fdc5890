"""Small tokenizers of the kinds of released checkpoints, trained on this repository's text.

sp.model     SentencePiece BPE with byte fallback, as Llama 1 and 2, Vicuna, Mistral and Yi have it (`tokenizer.model`)
llama3.json  byte-level BPE with the pattern and the special tokens of Llama 3; its post-processor adds BOS
smol.json    byte-level BPE as GPT-2, Qwen and SmolLM have it: no BOS
"""

import json
import shutil
from pathlib import Path

import sentencepiece
import transformers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

ROOT = Path(__file__).resolve().parents[2]
VOCABULARY = 700
IMAGE = AddedToken("<image>", special=True, normalized=False)
LLAMA_3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
LLAMA_3_SPECIAL = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]


def corpus(out):
    """Write the training text."""
    lines = []
    for path in sorted(ROOT.glob("*.md")) + sorted((ROOT / "docs").glob("*.md")) + sorted((ROOT / "src").rglob("*.rs"))[:80]:
        lines += [line.strip() for line in path.read_text().splitlines() if 5 < len(line.strip()) < 400]
    lines += ["USER: What is in the picture? ASSISTANT: a red circle and two blue squares."] * 20
    out.write_text("\n".join(lines))


def train(folder):
    """Train the three tokenizers into `folder` unless they exist."""
    if (folder / "smol.json").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    text = folder / "corpus.txt"
    corpus(text)
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(folder / "sp"), vocab_size=VOCABULARY, model_type="bpe", byte_fallback=True,
        character_coverage=0.9995, normalization_rule_name="identity", add_dummy_prefix=True, remove_extra_whitespaces=False,
        split_digits=True, allow_whitespace_only_pieces=True, unk_id=0, bos_id=1, eos_id=2, pad_id=-1, num_threads=1,
        minloglevel=2)

    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(LLAMA_3), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train([str(text)], trainers.BpeTrainer(vocab_size=VOCABULARY, initial_alphabet=alphabet, show_progress=False))
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in LLAMA_3_SPECIAL])
    bos = LLAMA_3_SPECIAL[0]
    tokenizer.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single=f"{bos} $A", pair=f"{bos} $A {bos} $B:1",
                                      special_tokens=[(bos, tokenizer.token_to_id(bos))])])
    tokenizer.save(str(folder / "llama3.json"))

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer.train([str(text)], trainers.BpeTrainer(vocab_size=VOCABULARY, initial_alphabet=alphabet, special_tokens=special,
                                                     show_progress=False))
    tokenizer.save(str(folder / "smol.json"))


def load(folder, kind):
    """Load the tokenizer `kind`: `llama3`, `smol`, or `sp` with optional words `legacy` and `nobos`."""
    if kind.startswith("sp"):
        alone = folder / "sp"
        alone.mkdir(exist_ok=True)
        shutil.copy(folder / "sp.model", alone / "tokenizer.model")
        # Version 5 has only the fast tokenizer of version 4.
        kind_of = transformers.LlamaTokenizerFast if transformers.__version__.startswith("4.") else transformers.LlamaTokenizer
        tokenizer = kind_of.from_pretrained(alone, add_bos_token="nobos" not in kind, legacy="legacy" in kind)
        tokenizer.add_tokens([IMAGE], special_tokens=True)
        tokenizer.add_special_tokens({"pad_token": "<pad>"})
        return tokenizer
    marks = {"llama3": ("<|begin_of_text|>", "<|eot_id|>", "<|end_of_text|>"), "smol": ("<|im_start|>", "<|im_end|>", "<|im_end|>")}
    bos, eos, pad = marks[kind]
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(folder / f"{kind}.json"), bos_token=bos, eos_token=eos, pad_token=pad)
    tokenizer.add_tokens([IMAGE], special_tokens=True)
    return tokenizer


def as_version_4(d, folder, legacy=True, first=False, model=True, kind="LlamaTokenizer"):
    """Rewrite the tokenizer files in `d` as transformers 4 saved them: normalizers, or Metaspace if `first`."""
    path = d / "tokenizer.json"
    saved = json.loads(path.read_text())
    if first:
        saved["normalizer"] = None
        saved["pre_tokenizer"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
    else:
        saved["normalizer"] = {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]}
        saved["pre_tokenizer"] = None
    saved["model"]["unk_token"] = "<unk>"
    begin, a = {"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    again, b = {"SpecialToken": {"id": "<s>", "type_id": 1}}, {"Sequence": {"id": "B", "type_id": 1}}
    saved["post_processor"] = {"type": "TemplateProcessing", "single": [begin, a], "pair": [begin, a, again, b],
                               "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}}
    path.write_text(json.dumps(saved, ensure_ascii=False, indent=1))
    facts = ("content", "lstrip", "normalized", "rstrip", "single_word", "special")
    added = {str(token["id"]): {key: token[key] for key in facts} for token in saved["added_tokens"]}
    config = dict(add_bos_token=True, add_eos_token=False, added_tokens_decoder=added, bos_token="<s>",
                  clean_up_tokenization_spaces=False, eos_token="</s>", legacy=legacy,
                  model_max_length=1000000000000000019884624838656, pad_token="<pad>", padding_side="left",
                  processor_class="LlavaProcessor", sp_model_kwargs={}, tokenizer_class=kind, unk_token="<unk>",
                  use_default_system_prompt=False)
    (d / "tokenizer_config.json").write_text(json.dumps(config, indent=1))
    if model:
        shutil.copy(folder / "sp.model", d / "tokenizer.model")
