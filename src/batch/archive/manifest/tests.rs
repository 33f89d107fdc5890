//! Manifests in every format, their errors and the detection of formats.

use std::path::{Path, PathBuf};

use super::super::tests::names;
use super::super::{ArchiveEntry, ArchiveUrls, ManifestFormat};
use super::text::MAX_LINE;
use super::{ManifestPaths, first_line, list};
use crate::batch::item::ArchiveItem;
use crate::batch::questions::BatchQuestion;
use crate::units::Seconds;
use crate::video::Window;

fn listed(ending: &str, text: &[u8]) -> Vec<ArchiveEntry> {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join(format!("m.{ending}"));
    std::fs::write(&path, text).expect("a small file");
    list(Some(&path), paths(ArchiveUrls::Paths), ManifestFormat::from_extension(ending)).expect("a manifest").collect()
}

fn paths(urls: ArchiveUrls) -> ManifestPaths {
    ManifestPaths { root: PathBuf::from("/root"), urls }
}

fn item(listed: &ArchiveEntry) -> &ArchiveItem {
    match listed {
        ArchiveEntry::Item(item) => item,
        other => panic!("no item: {other:?}"),
    }
}

fn cause(listed: &ArchiveEntry) -> String {
    match listed {
        ArchiveEntry::Failed(failed) => {
            let line = failed.video.rsplit(':').next().expect("a number");
            let hint = failed.hint.as_ref().map(|hint| format!("; hint: {hint}")).unwrap_or_default();
            format!("{line}: {}{hint}", failed.cause)
        }
        other => panic!("no failure: {other:?}"),
    }
}

#[test]
fn a_path_may_have_any_bytes() {
    let found = listed("txt", b"a b.mp4\r\n\n#1.mp4\n\xff.mp4");
    assert_eq!(names(found.iter().cloned()), ["a b.mp4", "#1.mp4", "\\xff.mp4"]);
    assert_eq!(item(&found[0]).path, Path::new("/root/a b.mp4"));
}

#[test]
fn objects_have_windows_and_questions_and_invalid_ones_fail_by_line() {
    let text = br#"{"video": "a.mp4", "start": "1:00", "end": 61.5, "questions": ["x?", {"id": "y", "question": "y?"}], "note": 1}
{"path": "/b.mp4", "question": "z?"}
{"video": []}
{"video": "c.mp4", "start": 2, "end": 1}
not json
{"video": "d.mp4", "question": " "}
"#;
    let found = listed("jsonl", text);
    let first = item(&found[0]);
    assert_eq!(first.window, Some(Window { start: Some(Seconds(60.0)), end: Some(Seconds(61.5)) }));
    assert_eq!(
        first.questions,
        [BatchQuestion::new("x?"), BatchQuestion { id: Some("y".into()), question: "y?".into() }]
    );
    assert_eq!(found[1], ArchiveEntry::Ignored(vec!["note".to_owned()]));
    assert_eq!((item(&found[2]).path.as_path(), item(&found[2]).window), (Path::new("/b.mp4"), None));
    assert_eq!(cause(&found[3]), "3: invalid type: sequence, expected a string at line 1 column 10");
    assert_eq!(cause(&found[4]), "4: start 0:02.000 is not before end 0:01.000");
    assert!(cause(&found[5]).starts_with("5: expected"), "{:?}", found[5]);
    assert_eq!(cause(&found[6]), "6: a question is empty");
}

#[test]
fn images_of_directories_have_rates() {
    let rates = |found: &[ArchiveEntry]| {
        found.iter().map(|entry| item(entry).image_rate.map(|rate| rate.per_second())).collect::<Vec<_>>()
    };
    let lines = b"{\"video\": \"a\", \"image_rate\": 3, \"start\": 1}\n{\"video\": \"a\", \"start\": 1}\n{\"video\": \"a\", \"image_rate\": 0}\n";
    let found = listed("jsonl", lines);
    assert_eq!(rates(&found[..2]), [Some(3.0), None]);
    assert_ne!(item(&found[0]).id, item(&found[1]).id, "a rate is part of the identity");
    assert!(cause(&found[2]).starts_with("3: invalid image rate `0`"), "{:?}", found[2]);
    let found = listed("csv", b"video,image_rate,question\na,3,x?\na,3,y?\na,2.5,x?\na,,x?\na,x,x?\n");
    assert_eq!(rates(&found[..3]), [Some(3.0), Some(2.5), None]);
    assert_eq!(item(&found[0]).questions.len(), 2);
    assert!(cause(&found[3]).starts_with("6: invalid image rate `x`"), "{:?}", found[3]);
    let found = listed(
        "jsonl",
        b"{\"video\": \"a\", \"image_rate\": 3, \"image_rate\": 4}\n{\"video\": \"a\", \"x\": 3, \"x\": 4}\n",
    );
    assert!(cause(&found[0]).contains("image_rate"), "{:?}", found[0]);
    assert!(cause(&found[1]).contains("the key `x` comes twice"), "{:?}", found[1]);
}

#[test]
fn adjacent_rows_about_one_video_are_one_item() {
    let text = b"video, start,end,question,score\na.mp4,,,\"x, y?\",1\na.mp4,,,z?,2\na.mp4,1,2,z?,3\nb.mp4,x,,z?,4\n\nc.mp4\n,,,q,5\n";
    let found = listed("csv", text);
    assert_eq!(found[0], ArchiveEntry::Ignored(vec!["score".to_owned()]));
    assert_eq!(item(&found[1]).questions, [BatchQuestion::new("x, y?"), BatchQuestion::new("z?")]);
    assert_eq!(item(&found[2]).window, Some(Window { start: Some(Seconds(1.0)), end: Some(Seconds(2.0)) }));
    assert!(cause(&found[3]).starts_with("5: invalid time `x`"), "{:?}", found[3]);
    assert_eq!((item(&found[4]).video.as_str(), item(&found[4]).questions.len()), ("c.mp4", 0));
    assert_eq!(cause(&found[5]), "8: the video has no name");
    // An unclosed quote fails its line alone; one that is closed later makes a cell of several lines.
    let found = listed("csv", b"video,question\na.mp4,\"x\nb.mp4,y\nc.mp4,z\n");
    assert_eq!(cause(&found[0]), "2: a quote is not closed");
    assert_eq!(names(found[1..].iter().cloned()), ["b.mp4", "c.mp4"]);
    let found = listed("csv", b"video,question\na.mp4,\"x\ny\"\nb.mp4,z\n");
    assert_eq!(item(&found[0]).questions, [BatchQuestion::new("x\ny")]);
    let error = list_error("csv", b"name,start\na,1\n");
    assert!(error.ends_with("no column `video` among name, start; hint: the first line names the columns, between commas, semicolons or tabs"));
}

fn list_error(ending: &str, text: &[u8]) -> String {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join(format!("m.{ending}"));
    std::fs::write(&path, text).expect("a small file");
    let listed = list(Some(&path), paths(ArchiveUrls::Paths), ManifestFormat::from_extension(ending));
    listed.err().expect("no manifest").to_string()
}

#[test]
fn the_format_of_a_stream_follows_its_beginning() {
    let guess = |text: &[u8]| first_line(&mut &text[..], None).expect("memory").1;
    assert_eq!(guess(b"{\"video\": 1}\n"), ManifestFormat::Jsonl);
    assert_eq!(guess(b"\xef\xbb\xbfid,Video\n1,a"), ManifestFormat::Csv);
    assert_eq!(guess(b"id;Video\n1;a"), ManifestFormat::Csv);
    assert_eq!(guess(b"[{\"video\": \"a\"}]"), ManifestFormat::Json);
    assert_eq!(guess(b"[\n"), ManifestFormat::Json);
    assert_eq!(guess(b"[group] a.mp4\n"), ManifestFormat::Lines);
    assert_eq!(guess(b"videos/a,b.mp4\n"), ManifestFormat::Lines);
    assert_eq!(guess(b""), ManifestFormat::Lines);
    let long = [b"a".repeat(MAX_LINE + 10), b"\nb.mp4\n".to_vec()].concat();
    let found = listed("txt", &long);
    assert_eq!(cause(&found[0]), "1: a line of more than 1048576 bytes");
    assert_eq!(item(&found[1]).video, "b.mp4");
}

#[test]
fn numeric_ids_and_names_keep_their_spelling() {
    let big = "340282366920938463463374607431768211456";
    let lines = format!(
        "{{\"video\": \"a.mp4\", \"question\": \"x?\", \"question_id\": {big}}}\n\
         {{\"video\": 12, \"questions\": [{{\"id\": 007, \"question\": \"y?\"}}], \"start\": 1.5}}\n"
    );
    let array = format!("[{}]", lines.trim().replace('\n', ",\n"));
    let table = format!("video;question;question_id\r\na.mp4;x?;{big}\r\n12;\"y?\";007\r\n");
    let (semicolons, tabs) = (format!("\u{feff}{table}"), table.replace(';', "\t"));
    for (ending, text) in
        [("jsonl", &lines), ("json", &array), ("json", &lines), ("csv", &semicolons), ("tsv", &tabs), ("csv", &tabs)]
    {
        let found = listed(ending, text.as_bytes());
        let question = |i: usize| item(&found[i]).questions[0].clone();
        assert_eq!(question(0), BatchQuestion { id: Some(big.to_owned()), question: "x?".to_owned() }, "{ending}");
        assert_eq!(question(1), BatchQuestion { id: Some("007".to_owned()), question: "y?".to_owned() }, "{ending}");
        assert_eq!((item(&found[0]).video.as_str(), item(&found[1]).video.as_str()), ("a.mp4", "12"));
        assert_eq!(found.len(), 2, "{ending}");
    }
}

#[test]
fn ambiguous_rows_are_refused() {
    let table = b"video,question,id\na.mp4,Is it red, or blue?,7\nb.mp4,\"x\"y,1\nc.mp4,a 5\" disk,c\nd.mp4,\"z?\n";
    let found = listed("csv", table);
    assert_eq!(cause(&found[0]), "2: 4 cells, 3 columns; hint: quote a cell that contains the delimiter");
    assert!(cause(&found[1]).starts_with("3: text after a closing quote"), "{:?}", found[1]);
    let named = BatchQuestion { id: Some("c".to_owned()), question: "a 5\" disk".to_owned() };
    assert_eq!(item(&found[2]).questions, [named]);
    assert_eq!(cause(&found[3]), "5: a quote is not closed");
    assert!(list_error("csv", b"video,question\ra.mp4,x\r").contains("a carriage return without a line feed"));
    assert!(list_error("csv", b"sep=;\nvideo;question\na.mp4;x\n").ends_with("only spreadsheets read"));
    let found = listed(
        "jsonl",
        b"{\"video\": \"a.mp4\", \"question\": \"x?\", \"id\": 7}\n{\"video\": \"b.mp4\", \"id\": 8}\n",
    );
    assert_eq!(item(&found[0]).questions[0].id.as_deref(), Some("7"));
    assert_eq!(names(found.iter().cloned()), ["a.mp4", "b.mp4", "ignored id"]);
}

#[test]
fn each_invalid_record_of_an_array_fails_alone() {
    let text = br#"["a.mp4", {"video": "b.mp4", "label": 1}, {"question": "x?"}, {"video": "c.mp4", "label": 2}]"#;
    let found = listed("json", text);
    assert_eq!(names(found.iter().cloned()), ["a.mp4", "b.mp4", "ignored label", "m.json:3 (manifest)", "c.mp4"]);
    assert!(cause(&found[3]).starts_with("3: missing field `video`"), "{:?}", found[3]);
    assert!(
        list_error("json", b"{\n\"video\": 1\n}")
            .contains("a single JSON object, not a list; hint: an array of objects")
    );
    assert!(list_error("json", b"[{]").contains("key must be a string at line 1 column 3"));
    assert!(list_error("csv", b"\xff\xfev\0").ends_with("UTF-16, not UTF-8; hint: save it as UTF-8"));
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 12\n";
    for ending in ["txt", "jsonl", "csv"] {
        assert!(list_error(ending, pointer).contains("a Git LFS pointer, not the file itself; hint: "));
    }
}

#[test]
fn urls_are_videos_where_they_may_be_downloaded_and_paths_elsewhere() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("m.csv");
    let text =
        b"video,question\nhttps://a.org//b.mp4?x=1,q?\nHTTP://user:secret@a.org/,q?\nhttp://127.1/,q?\nc.mp4,q?\n";
    std::fs::write(&path, text).expect("a small file");
    let listed =
        |urls| list(Some(&path), paths(urls), Some(ManifestFormat::Csv)).expect("a manifest").collect::<Vec<_>>();
    let found = listed(ArchiveUrls::Videos);
    assert_eq!(item(&found[0]).path.as_os_str(), "https://a.org//b.mp4?x=1");
    assert_eq!(item(&found[0]).video, "https://a.org//b.mp4?x=1");
    assert_eq!(cause(&found[1]), "3: HTTP://a.org/: a URL with a user name or a password, which is not fetched");
    assert!(cause(&found[2]).starts_with("4: http://127.1/: invalid host `127.1`"), "{:?}", found[2]);
    assert_eq!(item(&found[3]).path, Path::new("/root/c.mp4"));
    let found = listed(ArchiveUrls::Paths);
    assert_eq!(item(&found[0]).path, Path::new("/root/https://a.org/b.mp4?x=1"));
}
