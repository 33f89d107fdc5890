//! Flags of a plan, for commands that refuse them beside a file in its place.

/// Ids of the flags of a plan, which a pipeline file or results stand in place of. A group cannot stand for its flags: a
/// default value in it hides that another of them is given.
pub const PLAN_FLAGS: [&str; 27] = [
    "model",
    "vision_tower",
    "llm",
    "quant",
    "kv_dtype",
    "device",
    "dtype",
    "vision_device",
    "vision_dtype",
    "frames",
    "sample",
    "access",
    "stream",
    "start",
    "end",
    "image_rate",
    "temporal",
    "single_image",
    "template",
    "system",
    "timestamps",
    "max_new_tokens",
    "temperature",
    "top_k",
    "top_p",
    "repetition_penalty",
    "seed",
];
