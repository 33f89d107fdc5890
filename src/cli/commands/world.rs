//! `vidense world`: synthetic clips and images of coloured shapes, with questions and answers.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use image::ImageFormat;
use rayon::prelude::*;
use serde::Serialize;
use vidense::error::{About as _, Error};
use vidense::files::output::create_directory;
use vidense::files::{self, Durability, OutputFile};
use vidense::video::{ClipFormat, write_clip};
use vidense::world::{Clip, Draw, Medium, Question, QuestionKind, Scene, questions};

use crate::cli::{output, progress};

/// Write clips and images of coloured shapes, with questions.jsonl (video, question, answer, type)
#[derive(Args)]
pub struct World {
    /// Seed of all clips and images
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Number of clips
    #[arg(long, value_name = "N", default_value_t = 0)]
    videos: usize,
    /// Number of images, as PNG
    #[arg(long, value_name = "N", default_value_t = 0)]
    images: usize,
    /// Directory of the clips, images and questions
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Format of the clips
    #[arg(long, default_value = "mp4")]
    format: Format,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Mp4,
    Webm,
    Gif,
    /// Each format in turn
    Mixed,
}

impl Format {
    fn of(self, index: usize) -> ClipFormat {
        match self {
            Self::Mp4 => ClipFormat::Mp4,
            Self::Webm => ClipFormat::Webm,
            Self::Gif => ClipFormat::Gif,
            Self::Mixed => ClipFormat::ALL[index % ClipFormat::ALL.len()],
        }
    }
}

/// Line of questions.jsonl.
#[derive(Serialize)]
struct QuestionLine<'a> {
    video: &'a str,
    question: &'a str,
    answer: &'a str,
    #[serde(rename = "type")]
    kind: QuestionKind,
}

/// Frame rate of clips.
const RATE: u32 = 16;
/// Random streams of images and of clips are disjoint under one seed, also from those of training.
const IMAGES: u64 = 1 << 60;
const CLIPS: u64 = 1 << 61;

impl World {
    /// Runs the command.
    ///
    /// # Errors
    /// When neither clips nor images are requested, or a file cannot be written.
    pub fn run(self) -> anyhow::Result<()> {
        if self.videos + self.images == 0 {
            return Err(Error::invalid("nothing to write").with_hint("--videos 10, or --images 10").into());
        }
        create_directory(&self.out).about(&self.out)?;
        let bar = progress::writing(self.videos + self.images);
        let made = |item: anyhow::Result<(String, Vec<Question>)>| {
            bar.inc(1);
            item
        };
        let mut items: Vec<(String, Vec<Question>)> =
            (0..self.images).into_par_iter().map(|i| made(self.image(i))).collect::<anyhow::Result<_>>()?;
        let clips: Vec<_> =
            (0..self.videos).into_par_iter().map(|i| made(self.clip(i))).collect::<anyhow::Result<_>>()?;
        items.extend(clips);
        bar.finish_and_clear();
        let path = self.out.join("questions.jsonl");
        write_questions(&path, &items)?;
        Ok(output::path(&path)?)
    }

    fn image(&self, index: usize) -> anyhow::Result<(String, Vec<Question>)> {
        let mut draw = Draw::new(self.seed, IMAGES + index as u64);
        let scene = Scene::still(&mut draw, None);
        let name = format!("image-{index:05}.png");
        let mut png = std::io::Cursor::new(Vec::new());
        scene.render().write_to(&mut png, ImageFormat::Png)?;
        let path = self.out.join(&name);
        files::output::replace(&path, png.get_ref(), Durability::Renamed).about(&path)?;
        Ok((name, questions(&scene, Medium::Image, &mut draw)))
    }

    fn clip(&self, index: usize) -> anyhow::Result<(String, Vec<Question>)> {
        let mut draw = Draw::new(self.seed, CLIPS + index as u64);
        let clip = Clip::draw(&mut draw);
        let format = self.format.of(index);
        let name = format!("clip-{index:05}.{}", format.extension());
        let mut frames = (0..clip.n_frames).map(|frame| clip.render(frame));
        write_clip(&self.out.join(&name), format, RATE, &mut frames)?;
        Ok((name, questions(&clip.scene, Medium::Video, &mut draw)))
    }
}

fn write_questions(path: &Path, items: &[(String, Vec<Question>)]) -> anyhow::Result<()> {
    let mut file = OutputFile::create(path).about(path)?;
    for (video, asked) in items {
        for Question { kind, question, answer } in asked {
            writeln!(file, "{}", serde_json::to_string(&QuestionLine { video, question, answer, kind: *kind })?)?;
        }
    }
    Ok(file.finish(Durability::Renamed)?)
}
