//! Report as one HTML page without scripts and outside addresses: plot and thumbnails are inside, maud escapes texts.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::contents::ReportContents;
use super::markdown::example_facts;
use super::tables::{ReportTable, report_tables};
use super::thumbnails::Thumbnail;
use crate::eval::benchmark::ScoredAnswer;

const STYLE: &str = include_str!("style.css");

/// Renders a report.
pub(super) fn render(contents: &ReportContents, svg: &str) -> String {
    let spec = &contents.record.spec;
    let title = format!("{}, {}", spec.name, spec.split);
    let plot = format!("data:image/svg+xml;base64,{}", STANDARD.encode(svg));
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { (title) }
                @for table in report_tables(contents) {
                    (rendered(&table))
                    @if table.title == "Scores" {
                        p { img.plot src=(plot) alt="Scores by type and task with 95 % intervals, as in the table above"; }
                    }
                }
                @if !contents.examples.is_empty() { h2 { "Wrong answers" } }
                @for group in &contents.examples {
                    h3 { (if group.name.is_empty() { "all" } else { &group.name }) ": " (group.n_wrong) " wrong" }
                    @for answer in &group.examples {
                        (example(answer, contents.thumbnails.get(&answer.question_id)))
                    }
                }
                h2 { "Plan" }
                pre { (contents.record.plan.yaml) }
            }
        }
    };
    page.into_string() + "\n"
}

fn rendered(table: &ReportTable) -> Markup {
    html! {
        h2 { (table.title) }
        table {
            thead { tr { @for cell in &table.head { th scope="col" { (cell) } } } }
            tbody {
                @for row in &table.rows {
                    tr {
                        @for (column, cell) in row.iter().enumerate() {
                            @if column == 0 { th scope="row" { (cell) } } @else { td { (cell) } }
                        }
                    }
                }
            }
        }
        @if !table.notes.is_empty() { ul { @for note in &table.notes { li { (note) } } } }
    }
}

fn example(answer: &ScoredAnswer, thumbnail: Option<&Thumbnail>) -> Markup {
    html! {
        article {
            @match thumbnail {
                Some(Thumbnail::Image { jpeg, .. }) => {
                    img src={ "data:image/jpeg;base64," (STANDARD.encode(jpeg)) } alt={ "Frames of " (answer.video) };
                }
                Some(Thumbnail::Unreadable(cause)) => p { small { "no frames: " (cause) } },
                None => {}
            }
            div {
                h4 { (answer.question) }
                p { small { (answer.question_id) ", " (answer.video) } }
                @if !answer.options.is_empty() { ul { @for option in &answer.options { li { (option) } } } }
                dl { @for (name, value) in example_facts(answer) { dt { (name) } dd { (value) } } }
            }
        }
    }
}
