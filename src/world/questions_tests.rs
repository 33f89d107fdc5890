//! Tests of the questions about scenes: their answers, chances and wordings.

use super::*;
use std::collections::BTreeMap;

#[test]
fn every_reference_means_one_object() {
    for index in 0..300 {
        let mut draw = Draw::new(2, index);
        let scene = Scene::still(&mut draw, None);
        for Question { kind, question, answer } in questions(&scene, Medium::Any, &mut draw) {
            let by_shape = |shape: &Shape| question.contains(&format!("the {}", shape.word()));
            if let (QuestionKind::Color, Some(shape)) = (kind, Shape::ALL.iter().find(|shape| by_shape(shape))) {
                let meant: Vec<&Object> = scene.objects.iter().filter(|o| o.shape == *shape).collect();
                assert_eq!(meant.len(), 1, "{question}");
                assert_eq!(answer, meant[0].colour.word());
            }
            assert!(!answer.is_empty() && question.ends_with(['?', '.']), "{question} {answer}");
        }
    }
}

#[test]
fn existence_is_told_truly_and_evenly() {
    let mut yes = 0;
    for index in 0..1000 {
        let mut draw = Draw::new(3, index);
        let scene = Scene::still(&mut draw, None);
        let asked = ask(QuestionKind::Exist, &scene, Medium::Image, &mut draw).expect("always asked");
        let shown = |o: &Object| asked.question.contains(&format!("a {} {}", o.colour.word(), o.shape.word()));
        assert_eq!(asked.answer == "yes", scene.objects.iter().any(shown), "{}", asked.question);
        yes += usize::from(asked.answer == "yes");
    }
    assert!((450..550).contains(&yes), "{yes}");
}

#[test]
fn chance_is_what_the_likeliest_answer_reaches() {
    let mut counts: BTreeMap<QuestionKind, BTreeMap<String, usize>> = BTreeMap::new();
    for index in 0..6000 {
        let mut draw = Draw::new(4, index);
        let scene = Scene::still(&mut draw, None);
        for asked in questions(&scene, Medium::Image, &mut draw) {
            *counts.entry(asked.kind).or_default().entry(asked.answer).or_default() += 1;
        }
    }
    for (kind, answers) in counts {
        let total: usize = answers.values().sum();
        let best = answers.values().max().copied().unwrap_or_default() as f64 / total as f64;
        // Large objects fit fewer cells, so positions and sizes are not quite even.
        let uneven = matches!(kind, QuestionKind::Position | QuestionKind::Size);
        let slack = if uneven { 0.06 } else { 0.03 };
        assert!((best - kind.chance()).abs() < slack, "{kind:?}: {best}");
    }
}

#[test]
fn listings_follow_the_order_of_shapes() {
    for index in 0..50 {
        let mut draw = Draw::new(4, index);
        let scene = Scene::still(&mut draw, Some(3));
        let listed = ask(QuestionKind::Listing, &scene, Medium::Any, &mut draw).expect("always asked").answer;
        let shapes: Vec<&str> = listed.split(", ").filter_map(|pair| pair.split(' ').next()).collect();
        let place = |word: &&str| Shape::ALL.iter().position(|shape| shape.word() == *word);
        assert!(shapes.len() == 3 && shapes.windows(2).all(|two| place(&two[0]) <= place(&two[1])), "{listed}");
        assert!(scene.objects.iter().all(|o| listed.contains(&format!("{} {}", o.shape.word(), o.colour.word()))));
    }
}

#[test]
fn captions_follow_the_order_of_colours() {
    let scene = Scene::still(&mut Draw::new(2, 11), Some(3));
    let caption = caption(&scene);
    let at = |o: &Object| caption.find(o.colour.word()).expect("named");
    let mut objects: Vec<&Object> = scene.objects.iter().collect();
    objects.sort_by_key(|o| o.colour);
    assert!(at(objects[0]) < at(objects[1]) && at(objects[1]) < at(objects[2]), "{caption}");
    assert!(caption.ends_with(&format!(" on a {} background", scene.background.word())));
}
