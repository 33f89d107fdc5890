"""Cases of random combinations of supported options (`random`), for faults of their interaction."""

import random

from judge import Case
from tiny import split_processor

N = 160


def combination(r):
    """Draw the options of one checkpoint."""
    heads = r.choice([2, 4, 8])
    text = dict(num_attention_heads=heads, num_key_value_heads=r.choice([k for k in (1, 2, 4, 8) if k <= heads]),
                num_hidden_layers=r.randint(1, 4), intermediate_size=r.choice([48, 96, 160]), rms_norm_eps=r.choice([1e-6, 1e-5, 1e-3]),
                attention_bias=r.random() < 0.3, mlp_bias=r.random() < 0.3,
                rope_parameters=r.choice([
                    dict(rope_type="default", rope_theta=10000.0), dict(rope_type="default", rope_theta=1e6),
                    dict(rope_type="linear", rope_theta=10000.0, factor=2.0),
                    dict(rope_type="llama3", rope_theta=5e5, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                         original_max_position_embeddings=64),
                    dict(rope_type="yarn", rope_theta=10000.0, factor=4.0, original_max_position_embeddings=64)]))
    siglip = r.random() < 0.4
    layers = r.randint(2, 5)
    vision = dict(num_hidden_layers=layers, num_attention_heads=r.choice([2, 4]), patch_size=r.choice([7, 8, 14]))
    whole = dict(vision_feature_layer=r.choice([-1, -2, 1, layers]), vision_feature_select_strategy=r.choice(["default", "full"]))
    return dict(text=text, vision=vision, whole=whole, tower="siglip" if siglip else "clip",
                tokenizer=r.choice(["llama3", "sp legacy", "sp", "smol"]), seed=r.randint(0, 1000))


def make(w, name, how, is_old):
    d = w.build(name, **how)
    if is_old:
        split_processor(d)
    return d


def cases(w):
    r, found = random.Random(2024), []
    for i in range(N):
        how, is_old = combination(r), r.random() < 0.5
        size = (r.randint(20, 200), r.randint(20, 200))
        found.append(Case("random", f"{i:03}", lambda n, how=how, is_old=is_old: make(w, n, how, is_old), n_frames=r.randint(1, 3),
                          size=size, seed=i))
    return found
