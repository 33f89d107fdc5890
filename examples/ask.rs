//! Asks a question about a video: `cargo run --release --example ask -- samples/three_shapes.mp4 "What color is the
//! circle?"`
#![allow(clippy::print_stdout, reason = "the answer goes to standard output")]

use std::{io::Write, ops::ControlFlow, path::Path};

use vidense::{pipeline, spec::Plan};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, video, question] = &arguments[..] else { return Err("usage: ask VIDEO QUESTION".into()) };
    let model = pipeline::open(Plan::default())?;
    let encoded = pipeline::encode_video(&model.vlm, Path::new(video), &model.plan, &|_| {})?;
    let mut chat = pipeline::VideoChat::new(model.asking(), &encoded, &pipeline::Limits::default())?;
    chat.ask(question, &mut |text| {
        print!("{text}");
        std::io::stdout().flush().map_or(ControlFlow::Break(()), ControlFlow::Continue)
    })?;
    println!();
    Ok(())
}
