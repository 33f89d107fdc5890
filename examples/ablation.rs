//! The Dense Connector's ablation (arXiv 2405.13800, tables 1 and 5) at the scale of `vidense-mini`.
//!
//! For each seed and each connector a new projector is trained on the tower and the language model of `vidense-mini`,
//! in the paper's two stages and with equal steps, images and questions; then it is asked about pictures and clips of a
//! world of its own. It runs the program's own commands, so every arm can be repeated by hand from the recipe that it
//! leaves.
//!
//! ```sh
//! make ablation
//! ```
//!
//! What is done stays in `--out`, and is not done again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use serde_json::{Value, json};

#[derive(Parser)]
struct Ablation {
    /// Where recipes, models, worlds and scores go
    #[arg(long, default_value = "target/ablation")]
    out: PathBuf,
    /// Models of each connector
    #[arg(long, default_value_t = 3)]
    seeds: u64,
    /// Steps of stage 1: the projector alone
    #[arg(long, default_value_t = 40)]
    connector_steps: usize,
    /// Steps of stage 2: projector and language model
    #[arg(long, default_value_t = 100)]
    instruct_steps: usize,
    /// Pictures to learn from
    #[arg(long, default_value_t = 2400)]
    images: usize,
    /// Pictures, and as many clips, to be asked about, a seed
    #[arg(long, default_value_t = 100)]
    asked: usize,
    /// The program
    #[arg(long, default_value = "target/release/vidense")]
    vidense: PathBuf,
}

const CONNECTORS: [&str; 4] = ["none", "sti", "sci", "dci"];

/// What is asked about, and how: a column of the table.
struct Column {
    name: &'static str,
    of_clips: bool,
    flags: &'static [&'static str],
}

const COLUMNS: [Column; 5] = [
    Column { name: "pictures", of_clips: false, flags: &["--temporal", "concat"] },
    Column { name: "clips, one frame", of_clips: true, flags: &["--frames", "1", "--temporal", "concat"] },
    Column { name: "clips, S1 (8)", of_clips: true, flags: &["--frames", "8", "--temporal", "temporal_mean"] },
    Column { name: "clips, D1 (4)", of_clips: true, flags: &["--frames", "4", "--temporal", "concat"] },
    Column { name: "clips, D2 (8)", of_clips: true, flags: &["--frames", "8", "--temporal", "max_pool:2"] },
];

/// Worlds that nothing is trained on.
const FIRST_ASKED_WORLD: u64 = 900_000;
/// Worlds that these models are trained on.
const FIRST_LEARNED_WORLD: u64 = 800_000;

fn main() -> Result<()> {
    let ablation = Ablation::parse();
    fs::create_dir_all(&ablation.out)?;
    let mut scores: Vec<Vec<Vec<Score>>> = Vec::new(); // connector, column, seed
    for connector in CONNECTORS {
        let of_seeds = (1..=ablation.seeds).map(|seed| ablation.arm(connector, seed)).collect::<Result<Vec<_>>>()?;
        scores.push((0..COLUMNS.len()).map(|column| of_seeds.iter().map(|arm| arm[column]).collect()).collect());
    }
    let table = ablation.table(&scores);
    fs::write(ablation.out.join("table.md"), &table)?;
    std::io::Write::write_all(&mut std::io::stdout(), table.as_bytes())?;
    Ok(())
}

/// Exact answers among questions.
#[derive(Clone, Copy)]
struct Score {
    right: u64,
    questions: u64,
}

impl Score {
    fn percent(self) -> f64 {
        100.0 * self.right as f64 / self.questions as f64
    }
}

impl Ablation {
    /// Trains a connector under a seed and asks it: one score a column.
    fn arm(&self, connector: &str, seed: u64) -> Result<Vec<Score>> {
        let model = self.out.join(format!("{connector}-{seed}"));
        if !model.join("model.safetensors").is_file() {
            let recipe = self.out.join(format!("{connector}-{seed}.yaml"));
            fs::write(&recipe, serde_yaml::to_string(&self.recipe(connector, seed))?)?;
            let features = self.out.join("features").join(connector);
            let train: [&Path; 6] =
                [Path::new("train"), &recipe, Path::new("--out"), &model, Path::new("--features"), &features];
            self.run(Command::new(&self.vidense).args(train))?;
        }
        COLUMNS.iter().map(|column| self.ask(&model, seed, column)).collect()
    }

    /// All that is equal between the arms, and the one key that is not. The images are the same under every seed: the
    /// connector's features are computed once.
    fn recipe(&self, connector: &str, seed: u64) -> Value {
        let stage = |name: &str, frozen: &[&str], steps: usize| {
            json!({
                "name": name, "stage": name, "frozen": frozen, "steps": steps, "batch": 16, "micro_batch": 8,
                "data": { "shapes_world": { "seed": FIRST_LEARNED_WORLD, "images": self.images, "loose": 0.4 } },
                "optimizer": { "rule": "muon", "muon_learning_rate": 0.02, "learning_rate": 0.002 },
                "schedule": { "warmup": 10, "plateau": 0.4, "decay": "linear", "end": 0.02 },
                "stretch": { "gap": 0.5, "max_gap": 199 },
            })
        };
        json!({
            "seed": seed,
            "model": {
                "from": "vidense-mini", "projector": "new", "feature_scale": 0.0455,
                "config": { "mm_dense_connector_type": connector },
            },
            "stages": [
                stage("connector", &["vision_tower", "language_model"], self.connector_steps),
                stage("instruct", &["vision_tower"], self.instruct_steps),
            ],
        })
    }

    fn ask(&self, model: &Path, seed: u64, column: &Column) -> Result<Score> {
        let scores = model.join(format!("{}.json", column.name.replace([' ', ',', '(', ')'], "")));
        if !scores.is_file() {
            let questions = self.world(seed, column.of_clips)?;
            let mut eval = Command::new(&self.vidense);
            eval.arg("eval").arg(questions).arg("--model").arg(model).args(column.flags).arg("--json");
            fs::write(&scores, self.run(&mut eval)?)?;
        }
        let rows: Value = serde_json::from_slice(&fs::read(&scores)?)?;
        let all = rows.as_array().and_then(|rows| rows.iter().find(|row| row["type"] == "all"));
        let count = |key: &str| all.and_then(|row| row[key].as_u64()).context("a row of all questions");
        Ok(Score { right: count("right")?, questions: count("questions")? })
    }

    /// The questions of a seed's world, the same for all connectors.
    fn world(&self, seed: u64, of_clips: bool) -> Result<PathBuf> {
        let kind = if of_clips { "videos" } else { "images" };
        let dir = self.out.join(format!("{kind}-{seed}"));
        let questions = dir.join("questions.jsonl");
        if !questions.is_file() {
            let (seed, asked) = ((FIRST_ASKED_WORLD + seed).to_string(), self.asked.to_string());
            let world = ["world", "--seed", &seed, &format!("--{kind}"), &asked, "--out"];
            self.run(Command::new(&self.vidense).args(world).arg(&dir))?;
        }
        Ok(questions)
    }

    fn run(&self, command: &mut Command) -> Result<Vec<u8>> {
        let output = command.stderr(std::process::Stdio::inherit()).output();
        let output = output.with_context(|| format!("{}: cannot be run", self.vidense.display()))?;
        ensure!(output.status.success(), "{command:?}: {}", output.status);
        Ok(output.stdout)
    }

    /// Markdown: the mean over the seeds with its 95 % interval, and below each connector its difference to `none`.
    fn table(&self, scores: &[Vec<Vec<Score>>]) -> String {
        let mut table = String::from("| connector |");
        COLUMNS.iter().for_each(|column| table += &format!(" {} |", column.name));
        table += &format!("\n|---|{}\n", "---|".repeat(COLUMNS.len()));
        for (connector, columns) in CONNECTORS.iter().zip(scores) {
            table += &format!("| {connector} |");
            for of_seeds in columns {
                let (mean, half) = interval(&of_seeds.iter().map(|score| score.percent()).collect::<Vec<_>>());
                table += &format!(" {mean:.1} ± {half:.1} |");
            }
            table.push('\n');
        }
        for (connector, columns) in CONNECTORS.iter().zip(scores).skip(1) {
            table += &format!("| {connector} − none |");
            for (of_seeds, without) in columns.iter().zip(&scores[0]) {
                let pairs = of_seeds.iter().zip(without).map(|(with, without)| with.percent() - without.percent());
                let (mean, half) = interval(&pairs.collect::<Vec<_>>());
                table += &format!(" {mean:+.1} ± {half:.1} |");
            }
            table.push('\n');
        }
        let count = |column: usize| scores[0][column].iter().map(|score| score.questions).sum::<u64>();
        table += &format!(
            "\n{} seeds; {} questions about pictures and {} about clips, no world twice; {} + {} steps a model.\n",
            self.seeds,
            count(0),
            count(1),
            self.connector_steps,
            self.instruct_steps
        );
        table
    }
}

/// The mean, and half of its 95 % interval by Student's t: what a new seed, of training and of the world, would change.
fn interval(values: &[f64]) -> (f64, f64) {
    /// Quantiles of 0.975 for 1, 2, ... degrees of freedom.
    const T: [f64; 9] = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262];
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let Some(t) = values.len().checked_sub(2).map(|i| T.get(i).copied().unwrap_or(1.96)) else {
        return (mean, f64::NAN);
    };
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (n - 1.0);
    (mean, t * (variance / n).sqrt())
}
