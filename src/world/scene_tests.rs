//! Tests of scenes: their rules, their visibility and their seeds.

use super::*;

#[test]
fn scenes_keep_their_rules() {
    for index in 0..500 {
        let scene = Scene::still(&mut Draw::new(1, index), None);
        assert!((1..=3).contains(&scene.objects.len()));
        for (i, a) in scene.objects.iter().enumerate() {
            assert!(a.is_inside(scene.width, scene.height, 0.85), "{a:?}");
            for b in &scene.objects[..i] {
                assert!(a.colour != b.colour && a.distance(b) >= a.radius + b.radius, "{a:?} {b:?}");
            }
        }
    }
}

#[test]
fn loose_scenes_show_every_object_and_cut_some() {
    let (mut cut, mut touching, mut in_cells) = (0, 0, 0);
    for index in 0..500 {
        let scene = Scene::loose(&mut Draw::new(1, index));
        assert!((0..scene.objects.len()).all(|i| scene.shows(i)), "{scene:?}");
        for (i, a) in scene.objects.iter().enumerate() {
            cut += usize::from(!a.is_inside(scene.width, scene.height, 1.0));
            touching += scene.objects[..i].iter().filter(|b| a.distance(b) < a.radius + b.radius).count();
            let cell = Cell::at(a.centre.0, a.centre.1, scene.width, scene.height);
            assert!(a.cell.is_none_or(|named| named == cell), "{a:?}");
            in_cells += usize::from(a.cell.is_some());
        }
    }
    assert!(cut > 50 && touching > 20 && in_cells > 200, "{cut} {touching} {in_cells}");
}

#[test]
fn a_scene_is_its_seed_and_index() {
    let scene = |seed, index| Scene::still(&mut Draw::new(seed, index), None);
    assert_eq!(scene(5, 9), scene(5, 9));
    assert_ne!(scene(5, 9), scene(5, 10));
    assert_ne!(scene(5, 9), scene(6, 9));
}
