//! The curve of the loss as an SVG image: one line per stage, side by side, on a logarithmic axis.

use std::fmt::Write;

/// The losses of a stage, step by step.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Curve {
    /// The stage's name.
    pub name: String,
    /// One a step.
    pub losses: Vec<f64>,
}

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 360.0;
const MARGIN: f64 = 48.0;
const COLOURS: [&str; 4] = ["#1f77b4", "#d62728", "#2ca02c", "#9467bd"];
/// Points of a line; each is the mean of the steps that fall on it.
const POINTS: usize = 400;

/// Draws the curves.
pub(crate) fn svg(curves: &[Curve]) -> String {
    let total: usize = curves.iter().map(|curve| curve.losses.len()).sum();
    let all = || curves.iter().flat_map(|curve| &curve.losses).copied().filter(|loss| *loss > 0.0);
    let (low, high) = (all().fold(f64::INFINITY, f64::min), all().fold(0.0, f64::max));
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n"
    );
    if total == 0 || low >= high {
        out.push_str("</svg>\n");
        return out;
    }
    let (bottom, top) = (low.log10(), high.log10());
    let y = |loss: f64| HEIGHT - MARGIN - (loss.max(low).log10() - bottom) / (top - bottom) * (HEIGHT - 2.0 * MARGIN);
    let x = |step: f64| MARGIN + step / total as f64 * (WIDTH - 2.0 * MARGIN);
    for tick in (bottom.floor() as i32..=top.ceil() as i32).flat_map(|e| [1.0, 3.0].map(|m| m * 10f64.powi(e))) {
        if (low..=high).contains(&tick) {
            let at = y(tick);
            let _ = writeln!(
                out,
                "<line x1=\"{MARGIN}\" x2=\"{:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#ddd\"/><text x=\"4\" y=\"{:.1}\">{tick}</text>",
                WIDTH - MARGIN,
                at + 4.0
            );
        }
    }
    let mut begin = 0;
    for (curve, colour) in curves.iter().zip(COLOURS.iter().cycle()).filter(|(curve, _)| !curve.losses.is_empty()) {
        let chunk = curve.losses.len().div_ceil(POINTS);
        let points: Vec<String> = curve
            .losses
            .chunks(chunk)
            .enumerate()
            .map(|(i, losses)| {
                let mean = losses.iter().sum::<f64>() / losses.len() as f64;
                format!("{:.1},{:.1}", x((begin + i * chunk) as f64), y(mean))
            })
            .collect();
        let _ = writeln!(out, "<polyline fill=\"none\" stroke=\"{colour}\" points=\"{}\"/>", points.join(" "));
        let name = curve.name.replace('&', "&amp;").replace('<', "&lt;");
        let label = x(begin as f64) + 4.0;
        let _ = writeln!(out, "<text x=\"{label:.1}\" y=\"{:.1}\" fill=\"{colour}\">{name}</text>", MARGIN - 8.0);
        begin += curve.losses.len();
    }
    let _ =
        writeln!(out, "<text x=\"{MARGIN}\" y=\"{:.1}\">loss by step, {total} in all</text>\n</svg>", HEIGHT - 12.0);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_stand_side_by_side_on_a_logarithmic_axis() {
        let curve = |name: &str, losses: &[f64]| Curve { name: name.to_owned(), losses: losses.to_vec() };
        let picture = svg(&[curve("a<b", &[10.0, 1.0]), curve("c", &[0.1])]);
        // Three steps on 864 units; two decades on 264: each step is 288 wide, each decade 132 high.
        assert!(
            picture.contains("points=\"48.0,48.0 336.0,180.0\"") && picture.contains("points=\"624.0,312.0\""),
            "{picture}"
        );
        assert!(picture.contains("a&lt;b"));
        assert!(svg(&[]).ends_with("</svg>\n"));
    }
}
