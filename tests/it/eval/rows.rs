//! Rows of data sets that lack something, or contradict others: refused by file, row and column.

use vidense::eval::dataset::QuestionReference;

use super::Replica;

#[test]
fn a_missing_option_is_refused_by_its_row_and_column() {
    let header = "video,question,answer,qid,type,a0,a1,a2,a3\n";
    let table = |row: &str| format!("{header}1,why?,0,1,CW,r,g,b,y\n{row}\n");
    let list = |options: &str| {
        format!(
            r#"[{{"id": "q", "q_uid": "q", "video_path": "x.mp4", "question": "?", "duration_group": 15, {options}}}]"#
        )
    };
    let files = [
        ("gap.csv", table("1,why?,0,2,CW,r,g,,y")),
        ("end.csv", table("1,why?,0,2,CW,r,g,b,")),
        ("null.json", list(r#""option 0": "x", "option 1": null, "option 2": "z""#)),
        ("blank.json", list(r#""option 0": "x", "option 1": " ""#)),
        ("hole.json", list(r#""option 0": "x", "option 2": "z""#)),
        ("lvb.json", list(r#""option0": "x", "option1": "N/A", "option2": "z", "option3": "N/A""#)),
        ("ends.json", list(r#""option0": "x", "option1": "z", "option2": "N/A", "option3": "N/A""#)),
    ];
    let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
    let replica = Replica::new(&files);
    for (format, expected) in [
        ("next_qa: { questions: gap.csv, videos: v }", "gap.csv: line 3: `a2` is empty"),
        ("next_qa: { questions: end.csv, videos: v }", "end.csv: line 3: `a3` is empty"),
        ("ego_schema: { questions: null.json, videos: v }", "null.json: entry 1: `option 1` is empty"),
        ("ego_schema: { questions: blank.json, videos: v }", "blank.json: entry 1: `option 1` is empty"),
        (
            "ego_schema: { questions: hole.json, videos: v }",
            "hole.json: entry 1: missing field `option 1` before `option 2`",
        ),
        (
            "long_video_bench: { questions: lvb.json, videos: v }",
            "lvb.json: entry 1: `option1` is N/A, and `option2` is not",
        ),
    ] {
        assert_eq!(replica.read(format).unwrap_err(), expected, "{format}");
    }
    let found = replica.read("long_video_bench: { questions: ends.json, videos: v }").unwrap();
    assert_eq!(found[0].options.texts(), ["x", "z"]);
}

#[test]
fn a_column_of_answers_is_read_as_most_of_it_and_the_odd_row_is_named() {
    let header = "video,question,answer,qid,type,a0,a1,a2\n";
    let table = |answers: [&str; 4]| {
        let row = |(number, answer): (usize, &&str)| format!("1,how many?,{answer},{number},CW,1,red,3\n");
        format!("{header}{}", answers.iter().enumerate().map(row).collect::<String>())
    };
    let files = [
        ("indices.csv", table(["0", "1", "0", "2"])),
        ("high.csv", table(["0", "1", "0", "5"])),
        ("blank.csv", table(["0", "1", "", "2"])),
        ("texts.csv", table(["red", "1", "3", "red"])),
        ("other.csv", table(["red", "1", "red", "0"])),
    ];
    let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
    let replica = Replica::new(&files);
    let read = |file: &str| {
        let found = replica.read(&format!("next_qa: {{ questions: {file}, videos: v }}"))?;
        Ok(found.into_iter().map(|question| question.reference).collect::<Vec<_>>())
    };
    let choices = |indices: [usize; 4]| Ok(indices.map(QuestionReference::Choice).to_vec());
    let error = |text: &str| Err(text.to_owned());
    assert_eq!(read("indices.csv"), choices([0, 1, 0, 2]));
    assert_eq!(read("texts.csv"), choices([1, 0, 2, 1]));
    assert_eq!(read("high.csv"), error("high.csv: line 5: `answer` is `5`; expected an index below 3"));
    assert_eq!(read("blank.csv"), error("blank.csv: line 4: missing field `answer`"));
    assert_eq!(read("other.csv"), error("other.csv: line 5: the answer `0` is none of the options"));
}

#[test]
fn an_id_that_comes_twice_is_refused_with_both_positions() {
    let rows = "1,why?,0,1,CW,x,y\n1,who?,0,2,CW,x,y\n1,how?,0,1,CW,x,y\n";
    let table = format!("video,question,answer,qid,type,a0,a1\n{rows}");
    let replica = Replica::new(&[("twice.csv", &table)]);
    let error = replica.read("next_qa: { questions: twice.csv, videos: v }").unwrap_err();
    assert_eq!(error, "twice.csv: questions 1 and 3: the id `1_1` comes twice");
}
