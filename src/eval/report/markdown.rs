//! Report as Markdown. Texts of the data set are escaped; thumbnails and the plot are linked by relative paths.

use super::PLOT;
use super::contents::ReportContents;
use super::examples::ExampleGroup;
use super::tables::{ReportTable, report_tables};
use super::thumbnails::Thumbnail;
use crate::eval::benchmark::ScoredAnswer;

/// Renders a report.
pub(super) fn render(contents: &ReportContents) -> String {
    let spec = &contents.record.spec;
    let mut text = format!("# {}, {}\n\n", escaped(&spec.name), escaped(&spec.split));
    for table in report_tables(contents) {
        text += &rendered(&table);
        if table.title == "Scores" {
            text += &format!("![Scores by type and task, with 95 % intervals]({PLOT})\n\n");
        }
    }
    if !contents.examples.is_empty() {
        text += "## Wrong answers\n\n";
        contents.examples.iter().for_each(|group| text += &examples(contents, group));
    }
    text += "## Plan\n\n";
    text.extend(contents.record.plan.yaml.lines().map(|line| format!("    {line}\n")));
    text
}

fn rendered(table: &ReportTable) -> String {
    let line = |cells: &[String]| {
        let cells: Vec<String> = cells.iter().map(|cell| escaped(cell)).collect();
        format!("| {} |\n", cells.join(" | "))
    };
    let mut text =
        format!("## {}\n\n{}|---{}\n", table.title, line(&table.head), "|:--".repeat(table.head.len() - 1) + "|");
    table.rows.iter().for_each(|row| text += &line(row));
    text.push('\n');
    table.notes.iter().for_each(|note| text += &format!("- {}\n", escaped(note)));
    text += if table.notes.is_empty() { "" } else { "\n" };
    text
}

fn examples(contents: &ReportContents, group: &ExampleGroup) -> String {
    let name = if group.name.is_empty() { "all" } else { &group.name };
    let mut text = format!("### {}: {} wrong\n\n", escaped(name), group.n_wrong);
    group.examples.iter().for_each(|answer| text += &example(contents, answer));
    text
}

fn example(contents: &ReportContents, answer: &ScoredAnswer) -> String {
    let mut text = String::new();
    match contents.thumbnails.get(&answer.question_id) {
        Some(Thumbnail::Image { path, .. }) => {
            let path = path.to_string_lossy().replace('\\', "/");
            text += &format!("![Frames of {}]({path})\n\n", escaped(&answer.video));
        }
        Some(Thumbnail::Unreadable(cause)) => text += &format!("no frames: {}\n\n", escaped(cause)),
        None => {}
    }
    text += &format!(
        "**{}** ({}, {})\n\n",
        escaped(&answer.question),
        escaped(&answer.question_id),
        escaped(&answer.video)
    );
    answer.options.iter().for_each(|option| text += &format!("- {}\n", escaped(option)));
    text += if answer.options.is_empty() { "" } else { "\n" };
    for (name, value) in example_facts(answer) {
        text += &format!("- {name}: {}\n", escaped(&value));
    }
    text + "\n"
}

/// Returns reference, given and parsed answer.
pub(super) fn example_facts(answer: &ScoredAnswer) -> [(&'static str, String); 3] {
    [
        ("reference", answer.answer.join(" / ")),
        ("given", answer.given.clone().unwrap_or_default()),
        ("parsed", answer.parsed.clone().unwrap_or_else(|| "-".to_owned())),
    ]
}

/// Escapes the characters that Markdown and HTML give a meaning; a line break becomes `<br>`.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.trim().chars() {
        match c {
            '\n' => out += "<br>",
            '\\' | '`' | '*' | '_' | '[' | ']' | '<' | '>' | '|' | '#' | '&' | '~' | '$' => out.extend(['\\', c]),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}
