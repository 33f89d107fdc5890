"""Make the golden files beside this script: small inputs and the results of the reference libraries for them.

Everything is random with a fixed seed or written below, tiny, and f32 unless stated otherwise; no trained weights, no
network.

    pip install torch==2.15.0 transformers==5.23.0 sentencepiece==0.2.3 safetensors==0.8.0 pillow==12.3.0 numpy==2.4.6
    python tests/golden/make.py              # everything
    python tests/golden/make.py image llama  # some parts

`versions.json` has the versions of the libraries. `sentencepiece/slow_llama.json` comes from `make_slow_llama.py`,
which requires another environment and runs after this script.

Letters: B batch, T frames, N patch tokens, D vision width, H language width, L layers, V vocabulary.

clip/          config.json, model.safetensors: a tiny CLIPVisionModel (names `vision_model.*`).
               expected.safetensors: `pixel_values` (2, 3, 28, 28); `hidden_states` (L+1, 2, 1+N, D), entry 0 after
               `pre_layrnorm`, no entry through `post_layernorm`.
siglip/        the same for SigLIP, 30 pixels in patches of 7 (16 patches, 2 pixels dropped). config.json is that of a
               SiglipModel; model.safetensors has the vision tower with its unused head. All 4 layers are in the file
               and in `hidden_states`.
connector/     expected.safetensors: `hidden_states` (25, 2, 19, 8) -> `none`, `sti`, `sci`, `dci`;
               `siglip_hidden_states` (27, 2, 19, 8) -> `siglip_dci`.
projector/     expected.safetensors: `input` (2, 19, 24); for `linear`, `mlp2x_gelu`, `mlp3x_gelu` the weights and
               `<type>.output`.
temporal/      expected.safetensors: `input` (3, 7, 4) and one output for each aggregation.
llama/<case>/  config.json (keys of transformers 4), model.safetensors, expected.safetensors: `input_ids` (1, 100)
               i64, `logits` (1, 100, V), `generated_ids` (16) i64, greedy. Cases: grouped, llama3_rope, linear_rope.
image/         *.png; expected.json describes the keys of expected.safetensors: u8 (height, width, 3), f32
               (3, height, width).
sentencepiece/ {a,b,c,d}.model and expected.json: ids of texts, texts of ids. `train_*` below describe the models.
"""

import copy
import json
import platform
import sys
from pathlib import Path

import numpy as np
import PIL
import safetensors
import sentencepiece
import torch
import torch.nn.functional as F
import transformers
from PIL import Image
from safetensors.torch import save_file

HERE = Path(__file__).resolve().parent


def folder(name):
    path = HERE / name
    path.mkdir(parents=True, exist_ok=True)
    return path


def save(path, tensors):
    save_file({k: v.detach().clone().contiguous() for k, v in tensors.items()}, str(path))
    path.chmod(0o644)


def save_json(path, value):
    path.write_text(json.dumps(value, indent=2) + "\n")


def rows(items):
    """Format a JSON list with one item per line, in ASCII, so that a diff shows unusual characters."""
    return "[\n" + ",\n".join("  " + json.dumps(item) for item in items) + "\n]"


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def randn(g, *shape, std=1.0, mean=0.0):
    return torch.randn(*shape, generator=g) * std + mean


# --- sentencepiece ---------------------------------------------------------------------------------------------------

CORPUS = """
The quick brown fox jumps over the lazy dog.
A video shows a person who is opening a door and walking into a room.
What is the person in the video doing? The person is cooking in the kitchen.
How many people are there in the video? There are three people and two dogs.
A chat between a curious user and an artificial intelligence assistant.
The assistant gives helpful, detailed, and polite answers to the user's questions.
USER: What is happening in this video? ASSISTANT: A man is playing the guitar.
USER: Where is the cat? ASSISTANT: The cat is sitting on the table near the window.
In the first frame, the camera moves slowly; in the last frame, it stops.
She said: "I can't believe it's not the same; they've changed everything!"
On 12 May 2024 at 10:35 there were 1,234 frames (25 frames per second, 0.04 s each).
Question answering over video needs temporal reasoning, counting and common sense.
The connector takes features from many layers and puts them together.
Please describe the scene in detail, then answer the question with one word.
an on in at the then there their these those with within without
running runner runs ran walking walker walks walked cooking cooker cooks cooked
Le chat est assis près de la fenêtre et regarde les élèves dans la forêt.
Où est la clé ? La clé est déjà à côté de la boîte, là où tu l'as laissée.
L'été dernier, nous étions à la plage ; ça a été très agréable, même à Noël.
Qu'est-ce que la personne fait dans la vidéo ? Elle prépare le dîner à la française.
Cœur, sœur, naïve, maïs, garçon, leçon, français, où, dû, hôtel, être, élève.
これはビデオです。人がドアを開けています。
猫がテーブルの上に座っています。犬は外で走っています。
この動画では何が起きていますか。男の人が料理をしています。
日本語の文章を少しだけ書きます。これは日本語のテストです。
def forward(self, x):    return self.norm(x + self.attn(x))
    for i in range(10):        if x[i] == y[i]:            print(i, x[i])
        let mut total = 0;        for value in values.iter() {            total += value;        }
    return {"key": "value", "list": [1, 2, 3], "none": None}
fn main() -> Result<(), Box<dyn Error>> {    println!("{}", 42);    Ok(()) }
<html>  <body>    <p>text</p>  </body></html>
x = (a + b) * (c - d) / e;  // comment    with   spaces
hello world hello there hello again hello hello
banana bandana ananas mississippi abab ababab abababab abcabc abcabcabc
"""

RUNS = [c * n for c in "a=.-#" for n in (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16)]
RUNS += ["ab" * n for n in (2, 3, 4, 6)] + [" " * n + "x" for n in (1, 2, 3, 4, 5, 6, 8, 12, 16)]


def corpus():
    lines = [line for line in CORPUS.split("\n") if line]
    return lines * 2 + [r for r in RUNS for _ in range(2)]


def train(path, **changes):
    """Train with the settings of Llama 2 but for the size and `changes`."""
    settings = dict(
        model_type="bpe",
        vocab_size=600,
        character_coverage=1.0,
        byte_fallback=True,
        add_dummy_prefix=True,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        split_digits=True,
        allow_whitespace_only_pieces=True,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    settings.update(changes)
    with open(path, "wb") as out:
        sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(corpus()), model_writer=out, **settings)


def train_a(out):
    """Train with the settings of Llama 2."""
    train(out / "a.model")


USER_DEFINED = ["<image>", "<sep>", "<sep><sep>", "\u25b3x", "ing the", "fi", "2024", "\u2460", "\u00bdx"]


def train_b(out):
    """Train without a dummy prefix, with NFKC, extra spaces removed, user-defined symbols."""
    train(
        out / "b.model",
        add_dummy_prefix=False,
        normalization_rule_name="nmt_nfkc",
        remove_extra_whitespaces=True,
        user_defined_symbols=USER_DEFINED,
    )


def train_c(out):
    """Edit model a: two in five of its merged pieces UNUSED, `he`, `an`, `..` USER_DEFINED, as no trainer does.

    Appends a `type` to the pieces' messages; in protobuf the last value of a field holds.
    """
    data, edited = (out / "a.model").read_bytes(), b""
    index = at = 0
    while data[at] == 0x0A:  # field 1 of ModelProto, a piece of less than 128 bytes
        body = data[at + 2 : at + 2 + data[at + 1]]
        at += 2 + len(body)
        piece = body[2 : 2 + body[1]].decode()
        if piece in ("he", "an", ".."):
            body += b"\x18\x04"
        elif index >= 259 and len(piece) > 1 and index % 5 < 2:
            body += b"\x18\x05"
        edited += bytes([0x0A, len(body)]) + body
        index += 1
    (out / "c.model").write_bytes(edited + data[at:])


def train_d(out):
    """Train without byte fallback and with few characters, for unknown tokens; dummy prefix, extra spaces removed."""
    train(
        out / "d.model",
        vocab_size=160,
        character_coverage=0.98,
        byte_fallback=False,
        remove_extra_whitespaces=True,
    )


TEXTS = [
    "", " ", "  ", "   ", " " * 7, " " * 16, " " * 33, "\n", "\n\n", "\r\n", "\t", "\t\t", " \n ", "\n \n", "\u00a0", "\u3000",
    "a", " a", "  a", "a ", "a  ", " a ", "  a  ", "a b", "a  b", "a   b", "a    b", "Hello", " Hello", "Hello ", "Hello  world",
    "hello world", "hello\nworld", "hello\n\nworld\n", "\nWhat is the person in the video doing?", "\thello\tworld", "hello \t world",
    "The quick brown fox jumps over the lazy dog.", "What is the person in the video doing?", "UNSEEN WORDS: zyxwvut QQQ",
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, and polite "
    "answers to the user's questions. USER: ", "\nWhat is happening in this video? ASSISTANT:", " ASSISTANT:", "USER:",
    "12345", "1 2 3", "1,234.56", "3.14159 2024-05-12", "x1y2z3", "v0.1.99", "\u0661\u0662\u0663", "\u00bd \u00b2 \u2460", "a\u2460b\u2461", "\u00bdx \u00bdy",
    "Le chat est assis pr\u00e8s de la fen\u00eatre.", "O\u00f9 est la cl\u00e9\u00a0?", "d\u00e9j\u00e0 vu \u00e0 No\u00ebl",
    "fran\u00e7ais c\u0153ur na\u00efve", "fenetre fen\u00eatre fene\u0302tre", "e\u0301", "cle\u0301", "a\u0300\u0301\u0302",
    "\u0301", " \u0301", "n\u0303o", "\u00c5\u212b\u00c5", "\u1e9b\u0323", "\uac00 \u1100\u1161",
    "\u3053\u308c\u306f\u30d3\u30c7\u30aa\u3067\u3059\u3002", "\u732b\u304c\u30c6\u30fc\u30d6\u30eb\u306e\u4e0a\u306b",
    "\u65e5\u672c\u8a9e\u306e\u30c6\u30b9\u30c8 with English", "\u6771\u4eac\u90fd", "\uff71\uff72\uff73 \uff21\uff22\uff23 \uff11\uff12",
    "\u30ac \u304b\u3099 \uff76\uff9e", "\u4e2d\u6587\u5b57\u7b26", "\ud55c\uad6d\uc5b4", "\u0420\u0443\u0441\u0441\u043a\u0438\u0439",
    "\u0627\u0644\u0639\u0631\u0628\u064a\u0629", "\U0001f600", "hello \U0001f600 world", "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "\U0001f1eb\U0001f1f7", "\u2764\ufe0f", "\U0001d54f\U0001d556", "\U00020000", "\U0010ffff", "\ufffd", "\ufeffhello", "\u200b", "a\u200bb",
    "\u00ad", "\x00", "a\x00b", "\x00\x00hello", "hello\x00", "\x01\x02\x1f\x7f", "\x80\x9f",
    "aaaaaaaaa", "a" * 17, "a" * 31, "a" * 64, " aaaa", "baaaaaaab", "aaa aaa", "========", "=" * 13, "=" * 40, "a==b===c", ". . . ...",
    "." * 9, "..................", "-" * 23, "#### title ####", "ababababa", "abababababab", "bababab", "abcabcabcabc", "bananananas",
    "mississississippi", "thethethe", "the the the", "nnnn", "ssss", "lllll", "ooooo", "0000000", "    x", "     x", "         x",
    "x                 y", "def f(x):\n    return x\n", "    for i in range(10):\n        print(i)\n", "if (a == b) { return; }",
    "println!(\"{}\", 42);", "<html>  <body>", "a\tb\t\tc",
    "\u2581", "\u2581\u2581", "\u2581Hello", " \u2581Hello", "Hello\u2581", "Hello\u2581world", "\u2581 \u2581", "a \u2581 b", "Hello \u2581",
    "<s>", "</s>", "<unk>", "<pad>", "a<s>b", "<0x41>", "<0x0A>", "<0xZZ>", " \u2047 ", "\u2585",
    "<image>", "<image>\nWhat?", "a<image>b", "a <image> b", "a  <image>  b", "<image><image>", "<imag<image>e>", " <image> ", "<image",
    "<sep>", "<sep><sep>", "<sep><sep><sep>", "<sep> <sep>", "<SEP>", "\uff1csep\uff1e", "\u25b3x", "a\u25b3xb", "\u25b3",
    "walking the dog", "walking  the dog", "walking\u2581the dog", "cook ing the", "fish", "\ufb01sh", "finance fifi", "2024 20242024 12024",
    "\u2026", "\u2122 \u2120", "\u2168", "a\u2028b\u2029c", "\u3000\u3000a\u3000b\u3000", "\u2003wide\u2003", "\u0000 \u0000", "a \n b",
    "She said: \"I can't believe it's not the same!\"", "it's they've", "\u2018quoted\u2019 \u201cquoted\u201d", "e-mail@example.org",
    "CamelCaseWordsAndSNAKE_CASE", "WITHIN without WiThIn", "the\u0000the", "  leading and trailing  ", "many     inner      spaces",
]

ALPHABETS = [
    (0x20, 0x7F), (0x20, 0x7F), (0x61, 0x65), (0x61, 0x7B), (0x00, 0x80), (0x80, 0x250), (0x300, 0x370), (0x3040, 0x3100),
    (0x2000, 0x2070), (0x2580, 0x2590), (0x4E00, 0x4E40), (0xFF00, 0xFFF0), (0xFB00, 0xFB07), (0x1F600, 0x1F620), (0x800, 0xD800),
    (0x10000, 0x110000),
]


def random_texts(rng, count):
    """Draw texts of spaces, words of the corpus, repeated characters and words of one alphabet each."""
    words = " ".join(corpus()).split(" ")
    out = []
    for _ in range(count):
        text = ""
        for _ in range(rng.integers(1, 7)):
            kind = rng.integers(0, 4)
            if kind == 0:
                text += " " * rng.integers(0, 4)
            elif kind == 1:
                text += str(words[rng.integers(0, len(words))])
            elif kind == 2:
                text += chr(rng.integers(0x20, 0x7F)) * rng.integers(1, 12)
            else:
                low, high = ALPHABETS[rng.integers(0, len(ALPHABETS))]
                text += "".join(chr(c) for c in rng.integers(low, high, rng.integers(1, 6)) if not 0xD800 <= c < 0xE000)
        out.append(text)
    return out


def random_ids(rng, sp):
    """Draw sequences of all kinds of ids, some mostly of byte tokens, which are rarely valid UTF-8."""
    n = sp.get_piece_size()
    space = [i for i in range(n) if sp.id_to_piece(i).startswith("\u2581")]
    out = [[], [0], [1], [2], [0, 0], [1, 2], [1, 0, 2], space[:1], space[:1] * 3, [1] + space[:2], [2, 2] + space[1:3]]
    out += [[0] + space[:2], [space[0], 0, space[0]], [n - 1], [space[-1], 1, space[-1]]]
    byte_0 = next((i for i in range(n) if sp.is_byte(i)), None)
    if byte_0 is not None:
        ids = lambda data: [byte_0 + b for b in data]
        for data in (
            "\u00e9\u3042\U0001f600 a".encode(), b"\xff", b"\xc3", b"\xc3(", b"\xe3\x81", b"\xe3\x81\x82\xe3", b"\xf0\x9f\x98", b"\x80\x80",
            b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xf0\x80\x80\x80", b"\xe0\x80\x80", b"\x00", b" ", b"  a", b"\xef\xbf\xbd",
            b"\xe2\x96\x81", b"\xef\xbb\xbfa", b"\n",
        ):
            out.append(ids(data))
            out.append([1] + space[:1] + ids(data) + space[:1] + ids(data))
        out.append(ids(b"\xe3\x81") + [1] + ids(b"\x82"))
        out.append(ids(b"\xe3\x81") + space[:1] + ids(b"\x82"))
        out.append(ids(b"a") + space[:1])
    for _ in range(40):
        share = rng.choice([0.0, 0.3, 0.9])
        sequence = []
        for _ in range(rng.integers(1, 14)):
            low, high = (3, n)
            if byte_0 is not None:
                low, high = (byte_0, byte_0 + 256) if rng.random() < share else (byte_0 + 256, n)
            if rng.random() < 0.06:
                low, high = (0, byte_0 or 3)  # unknown, control and user-defined
            sequence.append(int(rng.integers(low, high)))
        out.append(sequence)
    return out


def make_sentencepiece():
    out = folder("sentencepiece")
    for step in (train_a, train_b, train_c, train_d):
        step(out)
    models, encode, decode = {}, [], []
    for name in "abcd":
        sp = sentencepiece.SentencePieceProcessor(model_file=str(out / f"{name}.model"))
        n = sp.get_piece_size()
        models[name] = {
            "n_pieces": n,
            "unused": sum(sp.is_unused(i) for i in range(n)),
            "control": sum(sp.is_control(i) for i in range(n)),
            "bytes": sum(sp.is_byte(i) for i in range(n)),
            "every_37th": [[i, sp.id_to_piece(i), sp.get_score(i)] for i in range(0, n, 37)],
        }
        texts = TEXTS + random_texts(np.random.default_rng(8), 40)
        texts = texts if name in "ab" else texts[::2] + [t for t in texts[1::2] if "the" in t]
        encode += [{"model": name, "text": t, "ids": sp.encode(t)} for t in texts]
        decode += [{"model": name, "ids": i, "decoded": sp.decode(i)} for i in random_ids(np.random.default_rng(9), sp)]
    text = f'{{"models": {json.dumps(models)},\n"encode": {rows(encode)},\n"decode": {rows(decode)}}}\n'
    json.loads(text)
    (out / "expected.json").write_text(text)


# --- image -----------------------------------------------------------------------------------------------------------

SIZES = [(37, 53), (64, 48), (200, 31), (20, 20), (91, 91), (1, 1), (5, 300), (28, 28)]
RESIZE_TO = [(28, 28), (45, 30)]
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
HALF = (0.5, 0.5, 0.5)
SIDE = 28


def synthetic(width, height, seed):
    """Draw one gradient per channel, hard edges, and noise that reaches 0 and 255."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    planes = [255 * x / max(width - 1, 1), 255 * y / max(height - 1, 1), 128 + 127 * np.sign(np.sin(x / 3.0) * np.cos(y / 5.0))]
    noisy = np.stack(planes, -1) + rng.normal(0, 40, (height, width, 3))
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def pad_to_square(image, colour):
    """Pad as LLaVA's `expand2square`."""
    width, height = image.size
    side = max(width, height)
    square = Image.new("RGB", (side, side), colour)
    square.paste(image, ((side - width) // 2, (side - height) // 2))
    return square


def shortest_edge_and_crop(image):
    width, height = image.size
    short, long = min(width, height), max(width, height)
    long = int(SIDE * long / short)
    image = image.resize((SIDE, long) if width <= height else (long, SIDE), Image.BICUBIC)
    top, left = (image.height - SIDE) // 2, (image.width - SIDE) // 2
    return np.asarray(image)[top : top + SIDE, left : left + SIDE]


def normalize(pixels, mean, std):
    """Normalize u8 (height, width, 3) to f32 (3, height, width): scaled in f64, the other steps in f32."""
    scaled = (pixels.astype(np.float64) * (1 / 255)).astype(np.float32)
    return ((scaled - np.array(mean, np.float32)) / np.array(std, np.float32)).transpose(2, 0, 1)


def make_image():
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    out = folder("image")
    clip = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    siglip = SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE})
    tensors, listed = {}, []
    for seed, (width, height) in enumerate(SIZES):
        name = f"{width}x{height}"
        image = synthetic(width, height, seed)
        image.save(out / f"{name}.png", optimize=True)
        for w, h in RESIZE_TO:
            tensors[f"{name}.resize_{w}x{h}"] = np.asarray(image.resize((w, h), Image.BICUBIC))
        padded = pad_to_square(image, tuple(int(m * 255) for m in CLIP_MEAN))
        padded_siglip = pad_to_square(image, tuple(int(m * 255) for m in HALF))
        steps = {
            "clip_pad": (shortest_edge_and_crop(padded), CLIP_MEAN, CLIP_STD, clip, padded),
            "clip_crop": (shortest_edge_and_crop(image), CLIP_MEAN, CLIP_STD, clip, image),
            "siglip_pad": (np.asarray(padded_siglip.resize((SIDE, SIDE), Image.BICUBIC)), HALF, HALF, siglip, padded_siglip),
        }
        for step, (pixels, mean, std, processor, source) in steps.items():
            values = normalize(pixels, mean, std)
            theirs = np.asarray(processor(images=source, return_tensors="np")["pixel_values"][0])
            assert np.abs(values - theirs).max() < 1e-6, (name, step, np.abs(values - theirs).max())
            tensors[f"{name}.{step}.u8"], tensors[f"{name}.{step}.f32"] = pixels, values
        listed.append({"name": name, "file": f"{name}.png", "width": width, "height": height})
    save(out / "expected.safetensors", {k: torch.from_numpy(np.array(v)) for k, v in tensors.items()})
    keys = {
        "<name>.resize_28x28": "u8 (28, 28, 3): bicubic to 28 wide, 28 high",
        "<name>.resize_45x30": "u8 (30, 45, 3): bicubic to 45 wide, 30 high",
        "<name>.clip_pad.u8": "padded with (122, 116, 104) to a square, shortest edge to 28, centre crop; u8 (28, 28, 3)",
        "<name>.clip_crop.u8": "the same without padding",
        "<name>.siglip_pad.u8": "padded with (127, 127, 127) to a square, straight to 28 x 28",
        "<name>.<step>.f32": "the same normalised, f32 (3, 28, 28): CLIP's mean and std, or 0.5 and 0.5",
    }
    save_json(out / "expected.json", {"side": SIDE, "keys": keys, "images": listed})


# --- towers ----------------------------------------------------------------------------------------------------------


def randomize(model, seed, std, std_bias=0.2, std_norm=0.3):
    """Draw weights large enough to reveal a wrong layer, axis or bias. Norm weights have a mean of 1."""
    g = seeded(seed)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            parameter.data = randn(g, *parameter.shape, std=std)
        elif name.endswith("bias"):
            parameter.data = randn(g, *parameter.shape, std=std_bias)
        else:
            parameter.data = randn(g, *parameter.shape, std=std_norm, mean=1.0)


def layer_by_layer(vision, hidden):
    """Compute `hidden_states` layer by layer: versions of the library disagree about the last entry."""
    states = [hidden]
    for layer in vision.encoder.layers:
        hidden = layer(hidden, None)
        states.append(hidden[0] if isinstance(hidden, tuple) else hidden)
        hidden = states[-1]
    return torch.stack(states)


def check_hidden_states(model, pixel_values, states):
    """Compare with the library's `hidden_states`, whose last entry is after the final norm in some versions."""
    listed = model(pixel_values, output_hidden_states=True).hidden_states
    assert len(listed) == len(states)
    for index, (theirs, ours) in enumerate(zip(listed[:-1], states)):
        assert torch.allclose(theirs, ours, atol=1e-5), index
    print(f"  last entry equals the library's: {torch.allclose(listed[-1], states[-1], atol=1e-5)}")


def vision_weights(model):
    """Return the weights under their released names `vision_model.*`, independent of the installed version."""
    return {n if n.startswith("vision_model.") else f"vision_model.{n}": p for n, p in model.named_parameters()}


@torch.no_grad()
def make_clip():
    out = folder("clip")
    config = dict(hidden_size=24, num_hidden_layers=5, num_attention_heads=3, intermediate_size=40, image_size=28, patch_size=7)
    config.update(num_channels=3, hidden_act="quick_gelu", layer_norm_eps=1e-5, projection_dim=16)
    model = transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**config, attn_implementation="eager")).eval()
    randomize(model, 1, std=0.35)
    vision = getattr(model, "vision_model", model)
    pixel_values = randn(seeded(2), 2, 3, 28, 28)
    states = layer_by_layer(vision, vision.pre_layrnorm(vision.embeddings(pixel_values)))
    check_hidden_states(model, pixel_values, states)
    save_json(out / "config.json", {"architectures": ["CLIPVisionModel"], "model_type": "clip_vision_model", **config})
    save(out / "model.safetensors", vision_weights(model))
    save(out / "expected.safetensors", {"pixel_values": pixel_values, "hidden_states": states})


@torch.no_grad()
def make_siglip():
    out = folder("siglip")
    config = dict(hidden_size=24, num_hidden_layers=4, num_attention_heads=2, intermediate_size=40, image_size=30, patch_size=7)
    config.update(num_channels=3, hidden_act="gelu_pytorch_tanh", layer_norm_eps=1e-6)
    model = transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**config, attn_implementation="eager")).eval()
    randomize(model, 3, std=0.35)
    vision = getattr(model, "vision_model", model)
    pixel_values = randn(seeded(4), 2, 3, 30, 30)
    states = layer_by_layer(vision, vision.embeddings(pixel_values))
    check_hidden_states(model, pixel_values, states)
    text = dict(model_type="siglip_text_model", hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=40)
    vision_config = {"model_type": "siglip_vision_model", **config}
    whole = {"architectures": ["SiglipModel"], "model_type": "siglip", "text_config": text, "vision_config": vision_config}
    save_json(out / "config.json", whole)
    save(out / "model.safetensors", vision_weights(model))
    save(out / "expected.safetensors", {"pixel_values": pixel_values, "hidden_states": states})


# --- connector, projector, temporal ----------------------------------------------------------------------------------


def pool_tokens(frames):
    """Apply AvgPool1d(8, 8) to the tokens of (T, N, D); a remainder of less than 8 tokens is dropped."""
    return F.avg_pool1d(frames.transpose(1, 2), 8, 8).transpose(1, 2)


def make_connector():
    out = folder("connector")
    g = seeded(5)
    hs, siglip = randn(g, 25, 2, 19, 8), randn(g, 27, 2, 19, 8)
    final = hs[23]
    tensors = {
        "hidden_states": hs,
        "none": final,
        "sti": torch.cat([final, pool_tokens(hs[7]), pool_tokens(hs[15])], 1),
        "sci": torch.cat([final, hs[7], hs[15]], -1),
        "dci": torch.cat([final, hs[0:12].mean(0), hs[12:24].mean(0)], -1),
        "siglip_hidden_states": siglip,
        "siglip_dci": torch.cat([siglip[26], siglip[0:13].mean(0), siglip[13:26].mean(0)], -1),
    }
    save(out / "expected.safetensors", tensors)


def make_projector():
    out = folder("projector")
    g = seeded(6)
    x = randn(g, 2, 19, 24)
    tensors = {"input": x}
    for name, depth in (("linear", 1), ("mlp2x_gelu", 2), ("mlp3x_gelu", 3)):
        y = x
        for i in range(depth):
            weight, bias = randn(g, 16, y.shape[-1], std=0.3), randn(g, 16, std=0.3)
            prefix = name if depth == 1 else f"{name}.{2 * i}"
            tensors[f"{prefix}.weight"], tensors[f"{prefix}.bias"] = weight, bias
            y = F.linear(F.gelu(y) if i else y, weight, bias)
        tensors[f"{name}.output"] = y
    save(out / "expected.safetensors", tensors)


def max_pool_and_concat(frames, stride):
    """Apply MaxPool1d(s, s) to each frame's tokens, dropping a remainder, and concatenate the frames."""
    return F.max_pool1d(frames.transpose(1, 2), stride, stride).transpose(1, 2).flatten(0, 1)


def make_temporal():
    out = folder("temporal")
    x = randn(seeded(7), 3, 7, 4)
    tensors = {
        "input": x,
        "temporal_mean": x.mean(0),
        "spatial_mean": x.mean(1),
        "spatial_temporal_mean": torch.cat([x.mean(1), x.mean(0)], 0),
        "concat": x.flatten(0, 1),
        "max_pool_2": max_pool_and_concat(x, 2),
        "max_pool_3": max_pool_and_concat(x, 3),
    }
    save(out / "expected.safetensors", tensors)


# --- llama -----------------------------------------------------------------------------------------------------------

LLAMA = dict(
    architectures=["LlamaForCausalLM"],
    model_type="llama",
    hidden_size=32,
    intermediate_size=56,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=96,
    max_position_embeddings=256,
    rms_norm_eps=1e-5,
    hidden_act="silu",
    rope_theta=10000.0,
    rope_scaling=None,
    attention_bias=False,
    mlp_bias=False,
    tie_word_embeddings=False,
    bos_token_id=1,
    eos_token_id=2,
    torch_dtype="float32",
)
LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64)
CASES = {
    "grouped": {},
    # Heads of 16: one of the 8 frequencies lies between the two bounds, where llama3 interpolates.
    "llama3_rope": dict(hidden_size=64, num_key_value_heads=1, rope_theta=500000.0, rope_scaling=LLAMA3, tie_word_embeddings=True),
    "linear_rope": dict(head_dim=16, rope_scaling=dict(type="linear", factor=4.0)),
}


def llama(config, seed):
    """Build the model of a config with the keys of transformers 4; assert that the installed version reads its rope."""
    spelled = dict(config)
    theta, scaling = spelled.pop("rope_theta"), spelled.pop("rope_scaling") or {}
    spelled.pop("torch_dtype"), spelled.pop("architectures"), spelled.pop("model_type")
    scaling = {"rope_type": scaling.get("type", "default"), **{k: v for k, v in scaling.items() if k != "type"}}
    spelled["rope_parameters"] = {"rope_theta": theta, **scaling}
    built = transformers.LlamaConfig(**spelled, attn_implementation="eager")
    read = transformers.LlamaConfig.from_dict(copy.deepcopy(config))
    assert {k: v for k, v in read.rope_parameters.items() if k != "type"} == built.rope_parameters, read.rope_parameters
    model = transformers.LlamaForCausalLM(built).eval()
    randomize(model, seed, std=0.25)
    if config["tie_word_embeddings"]:
        model.tie_weights()
    return model


def greedy(model, input_ids, count):
    """Generate greedily without a cache; return the ids and the smallest gap between the two best logits."""
    ids, gap = input_ids, float("inf")
    for _ in range(count):
        best = model(ids, use_cache=False).logits[0, -1].topk(2)
        gap = min(gap, (best.values[0] - best.values[1]).item())
        ids = torch.cat([ids, best.indices[:1][None]], 1)
    return ids[0, input_ids.shape[1] :], gap


@torch.no_grad()
def make_llama():
    for case, changes in CASES.items():
        out = folder(f"llama/{case}")
        config = {**LLAMA, **changes}
        for seed in range(100, 200):
            model = llama(config, seed)
            input_ids = torch.randint(3, config["vocab_size"], (1, 100), generator=seeded(seed))
            generated, gap = greedy(model, input_ids, 16)
            if gap > 1e-2 and 2 not in generated and len(set(generated.tolist())) >= 8:
                break
        else:
            raise SystemExit(f"{case}: no seed gives a greedy path without near-ties")
        cached = model.generate(input_ids, max_new_tokens=16, do_sample=False, eos_token_id=None, pad_token_id=0)[0, 100:]
        assert torch.equal(cached, generated), case
        print(f"  {case}: seed {seed}, smallest gap {gap:.4f}, {generated.tolist()}")
        weights = {n: p for n, p in model.named_parameters() if not (config["tie_word_embeddings"] and n == "lm_head.weight")}
        save_json(out / "config.json", config)
        save(out / "model.safetensors", weights)
        logits = model(input_ids, use_cache=False).logits
        save(out / "expected.safetensors", {"input_ids": input_ids, "logits": logits, "generated_ids": generated})


# --- all -------------------------------------------------------------------------------------------------------------

PARTS = {
    "sentencepiece": make_sentencepiece,
    "image": make_image,
    "clip": make_clip,
    "siglip": make_siglip,
    "connector": make_connector,
    "projector": make_projector,
    "temporal": make_temporal,
    "llama": make_llama,
}


def note_versions():
    path = HERE / "versions.json"
    versions = json.loads(path.read_text()) if path.exists() else {}
    modules = (torch, transformers, sentencepiece, safetensors, PIL, np)
    names = {"PIL": "pillow"}
    mine = {names.get(m.__name__, m.__name__): m.__version__.split("+")[0] for m in modules}
    save_json(path, {**versions, "make.py": {"python": platform.python_version(), **mine}})


def main():
    torch.manual_seed(0)
    torch.set_num_threads(1)
    for part in sys.argv[1:] or PARTS:
        print(part)
        PARTS[part]()
    note_versions()


if __name__ == "__main__":
    main()
