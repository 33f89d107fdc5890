//! Report of an evaluation: `report.md`, `report.html` and the plot `scores.svg`, from the files of its directory
//! alone.
//!
//! `contents` collects what is reported, `examples` chooses wrong answers, `thumbnails` reads their frames, `tables`
//! and `judged` format, `markdown` and `html` render, `plot` draws. The same directory gives the same bytes. Called by
//! `eval --out`, `eval judge` and `eval report`.

mod contents;
mod examples;
mod html;
mod judged;
mod markdown;
mod plot;
mod tables;
mod thumbnails;

use std::path::{Path, PathBuf};

use self::contents::ReportContents;
use self::plot::{ScoreBar, scores_svg};
use crate::error::{Error, Result};
use crate::files::{Durability, output};

/// File names of the report and its plot.
const MARKDOWN: &str = "report.md";
const HTML: &str = "report.html";
const PLOT: &str = "scores.svg";

/// Writes the report of the evaluation in a directory, and returns the path of the page.
///
/// # Errors
/// A missing or unreadable record, file of scored or judged answers, or a file that cannot be written.
pub fn write(dir: &Path) -> Result<PathBuf> {
    let contents = ReportContents::read(dir)?;
    let svg = scores_svg(&ScoreBar::of(&contents))?;
    let page = dir.join(HTML);
    for (path, text) in [
        (dir.join(PLOT), svg.clone()),
        (dir.join(MARKDOWN), markdown::render(&contents)),
        (page.clone(), html::render(&contents, &svg)),
    ] {
        output::replace(&path, text.as_bytes(), Durability::Renamed).map_err(Error::io(&path))?;
    }
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::benchmark::{
        AnswerStatus, CoverageRecord, EvaluationFormat, EvaluationRecord, PlanRecord, SCORED, ScoredAnswer,
        read_benchmark, write_scored,
    };

    fn record(missing: &[&str]) -> EvaluationRecord {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("evals/egoschema-subset.yaml");
        let mut spec = read_benchmark(&path).expect("shipped");
        spec.questions = Some(4);
        EvaluationRecord {
            format: EvaluationFormat::default(),
            version: "1.0".to_owned(),
            description: "b.yaml".to_owned(),
            spec,
            spec_hash: "aa".to_owned(),
            split_hash: "bb".to_owned(),
            scored_hash: String::new(),
            questions: 4,
            coverage: CoverageRecord { videos: 3, missing: missing.iter().map(|&name| name.to_owned()).collect() },
            notes: Vec::new(),
            plan: PlanRecord { fingerprint: "cc".to_owned(), model: "m".to_owned(), yaml: "model: m\n".to_owned() },
            seconds: 2.0,
        }
    }

    fn answer(id: &str, kind: &str, status: AnswerStatus) -> ScoredAnswer {
        ScoredAnswer {
            question_id: id.to_owned(),
            video: format!("v/{id}"),
            question: "which | <b>one</b>?\n# no heading".to_owned(),
            options: vec!["x".to_owned(), "y".to_owned()],
            answer: vec!["A. x".to_owned()],
            rubric: None,
            kind: kind.to_owned(),
            task: String::new(),
            weight: 1.0,
            given: Some("B".to_owned()),
            parsed: Some("B".to_owned()),
            status,
            error: (status == AnswerStatus::Failed).then(|| "v: <damaged>".to_owned()),
            scores: [("choice".to_owned(), 0.0)].into(),
        }
    }

    /// Writes the files of an evaluation and its report, and returns Markdown and HTML.
    fn reported(dir: &Path, record: &EvaluationRecord, answers: &[ScoredAnswer]) -> (String, String) {
        let scored_hash = write_scored(dir, answers).expect("room");
        EvaluationRecord { scored_hash, ..record.clone() }.write(dir).expect("room");
        write(dir).expect("a report");
        let read = |name: &str| std::fs::read_to_string(dir.join(name)).expect("written");
        (read("report.md"), read("report.html"))
    }

    fn answers() -> Vec<ScoredAnswer> {
        let right =
            ScoredAnswer { scores: [("choice".to_owned(), 1.0)].into(), ..answer("4", "why", AnswerStatus::Answered) };
        vec![
            answer("1", "what", AnswerStatus::Answered),
            answer("2", "what", AnswerStatus::Unparsed),
            answer("3", "why", AnswerStatus::Failed),
            right,
        ]
    }

    #[test]
    fn a_report_counts_every_question_and_is_the_same_each_time() {
        let dir = tempfile::tempdir().expect("a directory");
        let (markdown, html) = reported(dir.path(), &record(&[]), &answers());
        assert!(markdown.contains("| all \\* | 4 | 1 | 1 | 0 | 25.0 % |"), "{markdown}");
        assert!(markdown.contains("| SlowFast-LLaVA 7B | choice | 47.2 |"), "{markdown}");
        assert!(markdown.contains("| v/3 | 1 | v: \\<damaged\\> |"), "{markdown}");
        for text in [&markdown, &html] {
            assert!(text.contains("cc") && text.contains("bb") && !text.contains("are missing"), "{text}");
        }
        assert_eq!(reported(dir.path(), &record(&[]), &answers()), (markdown, html));
    }

    #[test]
    fn scored_answers_of_another_evaluation_are_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        reported(dir.path(), &record(&[]), &answers());
        let path = dir.path().join(SCORED);
        let text = std::fs::read_to_string(&path).expect("ours");
        std::fs::write(&path, text.replace("v/1", "v/9")).expect("ours");
        let error = write(dir.path()).expect_err("other answers").to_string();
        assert!(error.contains("scored.jsonl: its hash is") && error.contains("with the same --out"), "{error}");
    }

    #[test]
    fn texts_of_a_data_set_are_escaped_in_both_formats() {
        let dir = tempfile::tempdir().expect("a directory");
        let (markdown, html) = reported(dir.path(), &record(&[]), &answers());
        assert!(markdown.contains("which \\| \\<b\\>one\\</b\\>?<br>\\# no heading"), "{markdown}");
        assert!(html.contains("which | &lt;b&gt;one&lt;/b&gt;?") && html.contains("v: &lt;damaged&gt;"), "{html}");
        assert!(!html.contains("<b>one") && !html.contains("http:") && !html.contains("https:"), "{html}");
        let is_described = |tag: &str| tag.contains(" alt=\"") && !tag.contains(" alt=\"\"");
        assert!(html.split("<img").skip(1).all(is_described) && html.contains("<th scope=\"col\">"), "{html}");
    }

    #[test]
    fn every_table_of_a_run_with_missing_videos_says_so_and_nothing_published_stands_beside_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut answers = answers();
        answers[2].status = AnswerStatus::Missing;
        let (markdown, html) = reported(dir.path(), &record(&["v/3"]), &answers);
        let note = "1 of 3 videos are missing (66.7 % are there)";
        for (text, table) in [(&markdown, "|---"), (&html, "<table")] {
            assert!(!text.contains("SlowFast-LLaVA 7B"), "{text}");
            assert_eq!(text.matches(note).count(), text.matches(table).count(), "{text}");
        }
    }

    #[test]
    fn thumbnails_of_the_run_stand_beside_wrong_answers() {
        let dir = tempfile::tempdir().expect("a directory");
        let run = dir.path().join("run");
        std::fs::create_dir(&run).expect("ours");
        let header = r#"{"format":"vidense-answers-1","version":"1","revision":1,"plan":"cc","arithmetic":"f32 on cpu","model":"m","choices":{},"model_files":[]}"#;
        let id = "ab000000000000000000000000000001";
        let line = format!(
            r#"{{"item":"{id}","video":"v/1","question_id":"1","question":"q","answer":"B","token_ids":[],"finish_reason":"stop","frames":[],"prompt_tokens":1,"visual_tokens":1}}"#
        );
        std::fs::write(run.join("answers.jsonl"), format!("{header}\n{line}\n")).expect("ours");
        // The second question has the prompt of the first about its video, and no record of its own.
        let again = ScoredAnswer { video: "v/1".to_owned(), ..answer("2", "what", AnswerStatus::Answered) };
        let answers = [answer("1", "what", AnswerStatus::Answered), again];
        std::fs::create_dir_all(run.join("thumbnails/ab")).expect("ours");
        std::fs::write(run.join(format!("thumbnails/ab/{id}.jpg")), "jpeg").expect("ours");
        let (markdown, html) = reported(dir.path(), &record(&[]), &answers);
        assert_eq!(markdown.matches(&format!("(run/thumbnails/ab/{id}.jpg)")).count(), 2, "{markdown}");
        // "jpeg" in base64.
        assert_eq!(html.matches("src=\"data:image/jpeg;base64,anBlZw==\"").count(), 2, "{html}");
        // A directory in the place of the image is no image, and the report says so.
        let path = run.join(format!("thumbnails/ab/{id}.jpg"));
        std::fs::remove_file(&path).expect("ours");
        std::fs::create_dir(&path).expect("ours");
        let (markdown, html) = reported(dir.path(), &record(&[]), &answers);
        assert!(markdown.contains("no frames: run/thumbnails/ab/"), "{markdown}");
        assert!(html.contains("no frames: run/thumbnails/ab/") && !html.contains("image/jpeg"), "{html}");
    }
}
