//! DASH manifests (ISO 23009-1): names of their segments, by arithmetic on the text, and an end for live manifests.
//!
//! FFmpeg opens segments without a callback and skips missing segments silently, so `linked` checks the files
//! beforehand. Manifests that FFmpeg would read without end are refused. No file is opened here.

use roxmltree::{Document, Node, ParsingOptions};

use crate::error::{Error, Result};

/// Number of segments of a manifest at most.
const MAX_FILES: usize = 200_000;
/// Number of XML nodes of a manifest at most.
const MAX_NODES: u32 = 4_000_000;

/// Returns the names of all segments of a manifest, relative to the manifest.
///
/// # Errors
/// For a text that is not such a manifest, and for byte ranges.
pub(super) fn segment_names(text: &str) -> Result<Vec<String>> {
    let manifest = parse(text)?;
    let root = manifest.root_element();
    refuse_byte_ranges(root)?;
    let mut names = Vec::new();
    for period in children(root, "Period") {
        let duration = period.attribute("duration").or_else(|| root.attribute("mediaPresentationDuration"));
        let seconds = duration.and_then(whole_seconds);
        for set in children(period, "AdaptationSet") {
            for representation in children(set, "Representation") {
                let scope = SegmentScope { nodes: [representation, set, period, root], seconds };
                names.extend(scope.names());
                if names.len() > MAX_FILES {
                    return Err(Error::invalid(format!("a DASH manifest of more than {MAX_FILES} segments")));
                }
            }
        }
    }
    Ok(names)
}

/// Converts a live manifest (`type="dynamic"`) to a static one of the segments so far; `None` for a static manifest.
///
/// # Errors
/// For a live manifest that does not list its segments.
pub(super) fn ended(text: &str) -> Result<Option<String>> {
    let manifest = parse(text)?;
    let root = manifest.root_element();
    let Some(kind) = root.attribute_node("type").filter(|kind| kind.value().eq_ignore_ascii_case("dynamic")) else {
        return Ok(None);
    };
    let lists_segments =
        root.descendants().any(|node| is_named(node, "SegmentTimeline") || is_named(node, "SegmentURL"));
    if !lists_segments && root.attribute("mediaPresentationDuration").is_none() {
        return Err(Error::invalid("a live DASH manifest (type=\"dynamic\") that does not list its segments"));
    }
    let value = kind.range_value();
    Ok(Some([&text[..value.start], "static", &text[value.end..]].concat()))
}

/// Parses a manifest. A document type is allowed, as in FFmpeg.
fn parse(text: &str) -> Result<Document<'_>> {
    let options = ParsingOptions { allow_dtd: true, nodes_limit: MAX_NODES, ..ParsingOptions::default() };
    Document::parse_with_options(text, options).map_err(|error| Error::invalid(format!("a DASH manifest: {error}")))
}

/// Refuses segments that are byte ranges of one file: FFmpeg's demuxer reads them in a loop that ends neither with the
/// file nor at an interrupt.
fn refuse_byte_ranges(root: Node) -> Result<()> {
    let has_file = |node: &Node| node.attribute("media").is_some_and(|name| !name.is_empty());
    let is_range = |node: &Node| node.has_attribute("mediaRange") || !has_file(node);
    let Some(segment) = root.descendants().find(|node| is_named(*node, "SegmentURL") && is_range(node)) else {
        return Ok(());
    };
    let range = segment.attribute("mediaRange").map_or(String::new(), |range| format!("=\"{range}\""));
    let mut bases = segment.ancestors().filter_map(|node| child(node, "BaseURL")?.text()).map(str::trim);
    let file = segment.attribute("media").or_else(|| bases.next());
    let named = file.map_or(String::new(), |file| format!(": {file}"));
    let rule = format!("a DASH manifest whose segments are byte ranges of one file (mediaRange{range})");
    Err(Error::invalid(rule).with_hint(format!("name the media file itself{named}")))
}

/// A representation with the elements around it, from the inside out: attributes are inherited from outer elements.
struct SegmentScope<'a, 'd> {
    nodes: [Node<'a, 'd>; 4],
    /// Duration of the period in whole seconds.
    seconds: Option<u64>,
}

impl<'a, 'd> SegmentScope<'a, 'd> {
    fn names(&self) -> Vec<String> {
        let base: String =
            self.nodes.iter().rev().filter_map(|node| child(*node, "BaseURL")?.text()).map(str::trim).collect();
        let names = match (self.find("SegmentTemplate"), self.find("SegmentList")) {
            (Some(_), _) => self.by_template(),
            (None, Some(list)) => {
                let first = child(list, "Initialization").and_then(|node| node.attribute("sourceURL"));
                let media = children(list, "SegmentURL").filter_map(|segment| segment.attribute("media"));
                first.into_iter().chain(media).map(str::to_owned).collect()
            }
            // One file, or no file.
            (None, None) => vec![String::new()],
        };
        let joined = names.into_iter().map(|name| if name.contains("://") { name } else { format!("{base}{name}") });
        joined.filter(|name| !name.is_empty()).collect()
    }

    /// Returns the innermost element of a name.
    fn find(&self, name: &str) -> Option<Node<'a, 'd>> {
        self.nodes.iter().find_map(|node| child(*node, name))
    }

    /// Returns an attribute of the innermost template that has it.
    fn template(&self, attribute: &str) -> Option<&'a str> {
        self.nodes.iter().find_map(|node| child(*node, "SegmentTemplate")?.attribute(attribute))
    }

    fn by_template(&self) -> Vec<String> {
        let number = |attribute: &str| self.template(attribute).and_then(|text| text.parse::<u64>().ok());
        let (scale, first) = (number("timescale").unwrap_or(1).max(1), number("startNumber").unwrap_or(1));
        let timeline = self.nodes.iter().find_map(|node| child(child(*node, "SegmentTemplate")?, "SegmentTimeline"));
        let times = match (timeline, number("duration").filter(|&duration| duration > 0)) {
            (Some(timeline), _) => self.times(timeline, scale),
            (None, Some(duration)) => {
                let n = (self.seconds.unwrap_or(0) * scale).div_ceil(duration).min(MAX_FILES as u64 + 1);
                (0..n).map(|i| i * duration).collect()
            }
            (None, None) => Vec::new(),
        };
        let fill = |template: &str, number: u64, time: u64| self.fill(template, number, time);
        let initialization = self.template("initialization").map(|template| fill(template, first, 0));
        let media = self
            .template("media")
            .into_iter()
            .flat_map(|template| times.iter().zip(first..).map(move |(&time, number)| fill(template, number, time)));
        initialization.into_iter().chain(media).collect()
    }

    /// Returns the times of the segments of a timeline, in ticks.
    fn times(&self, timeline: Node<'a, 'd>, scale: u64) -> Vec<u64> {
        let mut times = Vec::new();
        let mut time = 0;
        for run in children(timeline, "S") {
            let number = |attribute: &str| run.attribute(attribute).and_then(|text| text.parse::<i64>().ok());
            time = number("t").and_then(|time| u64::try_from(time).ok()).unwrap_or(time);
            let duration = number("d").and_then(|duration| u64::try_from(duration).ok()).unwrap_or(0).max(1);
            // A negative repetition lasts until the end of the period.
            let to_end = || (self.seconds.unwrap_or(0) * scale).saturating_sub(time).div_ceil(duration);
            let n = number("r").map_or(1, |r| u64::try_from(r).map_or_else(|_| to_end(), |r| r.saturating_add(1)));
            for _ in 0..n.min((MAX_FILES + 1).saturating_sub(times.len()) as u64) {
                times.push(time);
                time = time.saturating_add(duration);
            }
        }
        times
    }

    /// Replaces the identifiers of a template (5.3.9.4.4): `$Number$`, `$Time%05d$`, `$$`.
    fn fill(&self, template: &str, number: u64, time: u64) -> String {
        let mut filled = String::new();
        for (i, part) in template.split('$').enumerate() {
            let (identifier, width) = part.split_once("%0").unwrap_or((part, "1d"));
            let width = width.trim_end_matches(['d', 'x', 'u']).parse().unwrap_or(1);
            match (i % 2, identifier) {
                (0, _) => filled += part,
                (_, "") => filled.push('$'),
                (_, "Number") => filled += &format!("{number:0width$}"),
                (_, "Time") => filled += &format!("{time:0width$}"),
                (_, "RepresentationID") => filled += self.nodes[0].attribute("id").unwrap_or_default(),
                (_, "Bandwidth") => filled += self.nodes[0].attribute("bandwidth").unwrap_or_default(),
                _ => filled += part,
            }
        }
        filled
    }
}

/// Returns whether an element has a name, in any namespace and case, as FFmpeg compares names.
fn is_named(node: Node, name: &str) -> bool {
    node.is_element() && node.tag_name().name().eq_ignore_ascii_case(name)
}

fn children<'a, 'd>(node: Node<'a, 'd>, name: &str) -> impl Iterator<Item = Node<'a, 'd>> {
    node.children().filter(move |child| is_named(*child, name))
}

fn child<'a, 'd>(node: Node<'a, 'd>, name: &str) -> Option<Node<'a, 'd>> {
    node.children().find(|child| is_named(*child, name))
}

/// Reads a duration such as `PT1H2M3.5S`, in whole seconds as FFmpeg does.
fn whole_seconds(text: &str) -> Option<u64> {
    let mut rest = text.strip_prefix('P')?.trim_start_matches('T');
    if let Some((days, time)) = text.strip_prefix('P')?.split_once('T') {
        rest = time;
        if !days.is_empty() {
            return None;
        }
    }
    let mut seconds = 0;
    for (unit, each) in [('H', 3600), ('M', 60), ('S', 1)] {
        if let Some((number, others)) = rest.split_once(unit) {
            seconds += number.split('.').next()?.parse::<u64>().ok()? * each;
            rest = others;
        }
    }
    Some(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(body: &str) -> Vec<String> {
        segment_names(&format!("<MPD mediaPresentationDuration='PT4.3S'>{body}</MPD>")).expect("a manifest")
    }

    #[test]
    fn templates_lists_and_single_files_name_their_segments() {
        let timeline = "<Period><AdaptationSet><SegmentTemplate timescale='10' startNumber='7' initialization='i$RepresentationID$.m4s' \
                        media='$Number%03d$-$Time$.m4s'><SegmentTimeline><S t='5' d='10' r='1'/><S d='20'/></SegmentTimeline>\
                        </SegmentTemplate><Representation id='v'/></AdaptationSet></Period>";
        assert_eq!(names(timeline), ["iv.m4s", "007-5.m4s", "008-15.m4s", "009-25.m4s"]);
        // Whole seconds by the duration of a segment: 4 s by 1.5 s.
        let by_duration = "<Period><AdaptationSet><Representation id='1' bandwidth='9'><BaseURL>a/</BaseURL><SegmentTemplate \
                           duration='3' timescale='2' media='$Bandwidth$$$.$Number$'/></Representation></AdaptationSet></Period>";
        assert_eq!(names(by_duration), ["a/9$.1", "a/9$.2", "a/9$.3"]);
        let list = "<BaseURL>b/</BaseURL><Period><AdaptationSet><Representation><SegmentList><Initialization sourceURL='i'/>\
                    <SegmentURL media='http://x/y'/></SegmentList></Representation></AdaptationSet></Period>";
        assert_eq!(names(list), ["b/i", "http://x/y"]);
        let single = "<Period><AdaptationSet><Representation><BaseURL> a.mp4 </BaseURL></Representation></AdaptationSet></Period>";
        assert_eq!(names(single), ["a.mp4"]);
        let to_end = timeline.replace("r='1'", "r='-1'");
        assert_eq!(names(&to_end).len(), 1 + 4 + 1);
    }

    #[test]
    fn segments_that_are_byte_ranges_are_refused_and_one_file_is_not() {
        let refused = |segments: &str| {
            segment_names(&format!(
                "<MPD><Period><AdaptationSet><Representation><BaseURL>v.mp4</BaseURL><SegmentList>{segments}</SegmentList>\
                 </Representation></AdaptationSet></Period></MPD>"
            ))
            .map_err(|error| error.to_string())
        };
        let rule = |range: &str| {
            let cause = format!("a DASH manifest whose segments are byte ranges of one file (mediaRange{range})");
            Err(format!("{cause}; hint: name the media file itself: v.mp4"))
        };
        assert_eq!(refused("<Initialization range='0-9'/><SegmentURL mediaRange='10-19'/>"), rule("=\"10-19\""));
        assert_eq!(refused("<SegmentURL media='v.mp4' mediaRange='1-2'/>"), rule("=\"1-2\""));
        assert_eq!(refused("<SegmentURL media='a.mp4'/><SegmentURL indexRange='10-19'/>"), rule(""));
        assert_eq!(refused("<SegmentURL media='a.mp4'/>"), Ok(vec!["v.mp4a.mp4".to_owned()]));
        let one_file = "<Period><AdaptationSet><Representation><BaseURL>v.mp4</BaseURL><SegmentBase indexRange='5-9'>\
                        <Initialization range='0-4'/></SegmentBase></Representation></AdaptationSet></Period>";
        assert_eq!(names(one_file), ["v.mp4"]);
    }

    #[test]
    fn a_live_manifest_is_known_by_its_type_and_gets_an_end() {
        let ended = |tag: &str| {
            let text = format!("<!DOCTYPE MPD>\n<MPD {tag}><SegmentTimeline/></MPD>");
            ended(&text).expect("it lists segments")
        };
        let expected = |tag: &str| Some(format!("<!DOCTYPE MPD>\n<MPD {tag}><SegmentTimeline/></MPD>"));
        assert_eq!(ended("a='1' type=\"dynamic\""), expected("a='1' type=\"static\""));
        assert_eq!(ended("type = 'dynamic' b='>'"), expected("type = 'static' b='>'"));
        assert_eq!(ended("type\n=\n\"dyn&#97;mic\""), expected("type\n=\n\"static\""));
        assert_eq!(ended("type='static' note='type=\"dynamic\"'"), None);
        // Only the manifest's own type counts.
        assert_eq!(super::ended("<MPD><!-- <MPD type='dynamic'> --><Period type='dynamic'/></MPD>").ok(), Some(None));
        let error = super::ended("<MPD type='dynamic'><SegmentTemplate media='$Number$.m4s' duration='2'/></MPD>");
        let rule = "a live DASH manifest (type=\"dynamic\") that does not list its segments";
        assert_eq!(error.expect_err("endless").to_string(), rule);
    }

    #[test]
    fn other_texts_and_endless_manifests_are_refused() {
        assert!(segment_names("<MPD>").expect_err("cut off").to_string().contains("DASH manifest"));
        let endless = "<MPD><Period><AdaptationSet><SegmentTemplate media='$Number$'><SegmentTimeline><S d='1' r='9999999999'/>\
                       </SegmentTimeline></SegmentTemplate><Representation/></AdaptationSet></Period></MPD>";
        let error = segment_names(endless).expect_err("endless").to_string();
        assert_eq!(error, "a DASH manifest of more than 200000 segments");
        assert_eq!(whole_seconds("PT1H1M1.9S"), Some(3661));
        assert_eq!(whole_seconds("P1DT1S"), None);
    }
}
