//! Plot of a report: a horizontal bar for each row of the scores with its 95 % interval, published results below.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::contents::ReportContents;
use super::tables::row_name;
use crate::error::{Error, Kind, Result};

/// Layout in pixels: the column of names, the width of 100 %, the column of values, a row, the margins.
const NAMES: i32 = 260;
const SCALE: i32 = 440;
const VALUES: i32 = 60;
const ROW: i32 = 24;
const MARGIN: i32 = 12;
/// Height of the letters.
const FONT: i32 = 13;
/// Maximum number of characters of a name.
const MAX_NAME: usize = 36;
const OWN: RGBColor = RGBColor(53, 120, 186);
const PUBLISHED: RGBColor = RGBColor(160, 160, 160);

/// Bar of a plot, in percent.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ScoreBar {
    pub(super) name: String,
    pub(super) value: f64,
    /// 95 % interval; none of a published result.
    pub(super) interval: Option<(f64, f64)>,
}

impl ScoreBar {
    /// Returns the bars of a report: the first metric of each row, then published results.
    pub(super) fn of(contents: &ReportContents) -> Vec<Self> {
        let metric = contents.record.spec.metrics.first().map_or("", |metric| metric.name());
        let own = contents.rows.iter().filter_map(|row| {
            let score = row.scores.get(metric)?;
            let (low, high) = score.interval_95;
            let name = row_name(row, contents.reported());
            Some(Self { name, value: 100.0 * score.mean, interval: Some((100.0 * low, 100.0 * high)) })
        });
        let published = contents.published.iter().map(|result| Self {
            name: format!("published: {}", result.model),
            value: result.value,
            interval: None,
        });
        own.chain(published).collect()
    }
}

/// Draws the bars as SVG.
///
/// # Errors
/// Never for a drawing in memory.
pub(super) fn scores_svg(bars: &[ScoreBar]) -> Result<String> {
    let mut svg = String::new();
    draw(bars, &mut svg).map_err(|error| Error::new(Kind::Invalid, error.to_string()).about("plot of the scores"))?;
    Ok(svg + "\n")
}

fn draw(bars: &[ScoreBar], svg: &mut String) -> std::result::Result<(), Box<dyn std::error::Error>> {
    let bottom = MARGIN + ROW * bars.len() as i32;
    let (width, height) = (2 * MARGIN + NAMES + SCALE + VALUES, bottom + ROW + MARGIN);
    let root = SVGBackend::with_string(svg, (width as u32, height as u32)).into_drawing_area();
    root.fill(&WHITE)?;
    let style = |h, v| ("sans-serif", FONT).into_font().color(&BLACK).pos(Pos::new(h, v));
    for percent in (0..=100).step_by(20) {
        let x = x_of(f64::from(percent));
        root.draw(&PathElement::new(vec![(x, MARGIN), (x, bottom)], RGBColor(220, 220, 220)))?;
        root.draw(&Text::new(format!("{percent} %"), (x, bottom + ROW / 2), style(HPos::Center, VPos::Center)))?;
    }
    for (bar, row) in bars.iter().zip(0..) {
        let y = MARGIN + ROW * row + ROW / 2;
        let color = if bar.interval.is_some() { OWN } else { PUBLISHED };
        let corners = [(x_of(0.0), y - ROW / 4), (x_of(bar.value), y + ROW / 4)];
        root.draw(&Rectangle::new(corners, color.filled()))?;
        root.draw(&Text::new(short(&bar.name), (MARGIN + NAMES - 8, y), style(HPos::Right, VPos::Center)))?;
        let end = bar.interval.map_or(bar.value, |(_, high)| high);
        if let Some((low, high)) = bar.interval {
            root.draw(&PathElement::new(vec![(x_of(low), y), (x_of(high), y)], BLACK.stroke_width(1)))?;
            for x in [x_of(low), x_of(high)] {
                root.draw(&PathElement::new(vec![(x, y - 4), (x, y + 4)], BLACK.stroke_width(1)))?;
            }
        }
        let value = format!("{:.1}", bar.value);
        root.draw(&Text::new(value, (x_of(end.max(bar.value)) + 8, y), style(HPos::Left, VPos::Center)))?;
    }
    root.present()?;
    Ok(())
}

/// Returns the position of a share in percent.
fn x_of(percent: f64) -> i32 {
    MARGIN + NAMES + (f64::from(SCALE) * percent.clamp(0.0, 100.0) / 100.0).round() as i32
}

/// Shortens a name to its column.
fn short(name: &str) -> String {
    match name.char_indices().nth(MAX_NAME) {
        Some((end, _)) => format!("{}...", &name[..end]),
        None => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_end_at_their_values_and_names_are_escaped() {
        let own = ScoreBar { name: "<why> & how".to_owned(), value: 50.0, interval: Some((25.0, 75.0)) };
        let published = ScoreBar { name: "published: x".to_owned(), value: 100.0, interval: None };
        let svg = scores_svg(&[own, published]).expect("in memory");
        let document = roxmltree::Document::parse(&svg).expect("well-formed XML");
        let widths: Vec<&str> = document
            .descendants()
            .filter(|node| node.has_tag_name("rect"))
            .filter_map(|node| node.attribute("width"))
            .collect();
        // The background, 50 % and 100 % of the scale of 440 pixels.
        assert_eq!(widths, ["784", "220", "440"]);
        assert!(svg.contains("&lt;why&gt; &amp; how") && svg.contains("published: x"), "{svg}");
    }
}
