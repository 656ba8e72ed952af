//! The tests. Each begins with a fresh file, and panics when something is not as on Linux.

use crate::{Gone, Home, Kind, Map, Mode, PAGES, Permission, TAIL, content};

/// Pages that the content reaches into.
const USED: usize = PAGES + 1;

/// A test.
pub type Body = fn(&dyn Home);

/// The tests by name.
pub const BODIES: &[(&str, Body)] = &[
    ("loads_see_the_content", loads_see_the_content),
    ("stores_are_seen_by_every_map", stores_are_seen_by_every_map),
    ("private_stores_stay_private", private_stores_stay_private),
    ("synced_stores_are_in_the_file", synced_stores_are_in_the_file),
    ("there_is_nothing_past_the_end", there_is_nothing_past_the_end),
    ("a_cut_takes_pages_away", a_cut_takes_pages_away),
    ("growth_gives_zeros", growth_gives_zeros),
    ("maps_are_refused_as_they_should", maps_are_refused_as_they_should),
    ("a_map_outlives_its_descriptor", a_map_outlives_its_descriptor),
    ("random_stores_agree_with_a_model", random_stores_agree_with_a_model),
    ("protection_is_heeded", protection_is_heeded),
    ("a_child_shares_what_is_shared", a_child_shares_what_is_shared),
    ("private_copies_can_be_dropped", private_copies_can_be_dropped),
];

fn map(home: &dyn Home, kind: Kind, first: usize, pages: usize) -> Box<dyn Map> {
    let file = home.open(Mode::ReadWrite).expect("the file opens");
    let (offset, len) = ((first * home.page()) as u64, pages * home.page());
    file.map(kind, offset, len).expect("it can be mapped")
}

fn byte(map: &dyn Map, at: usize) -> Result<u8, Gone> {
    let mut byte = [0];
    map.load(at, &mut byte).map(|()| byte[0])
}

fn loads_see_the_content(home: &dyn Home) {
    let (page, mut expected) = (home.page(), content(home.page()));
    expected.resize(USED * page, 0);
    for kind in [Kind::SharedRead, Kind::Shared, Kind::Private] {
        let map = map(home, kind, 0, USED);
        for (at, len) in [(0, 8), (page - 3, 7), (PAGES * page + TAIL - 4, 8), (2 * page + 1, 1)] {
            let mut bytes = vec![0; len];
            map.load(at, &mut bytes).expect("it is mapped");
            assert_eq!(bytes, expected[at..at + len], "{kind:?}, {len} bytes at {at}");
        }
        let mut all = vec![0; USED * page];
        map.load(0, &mut all).expect("it is mapped");
        assert!(all == expected, "{kind:?}");
    }
}

fn stores_are_seen_by_every_map(home: &dyn Home) {
    let page = home.page();
    let (one, two) = (map(home, Kind::Shared, 0, USED), map(home, Kind::SharedRead, 2, 2));
    assert_eq!(byte(&*two, 5), Ok(content(page)[2 * page + 5]));
    one.store(2 * page + 5, b"word").expect("it is mapped");
    let mut bytes = [0; 4];
    two.load(5, &mut bytes).expect("it is mapped");
    assert_eq!(&bytes, b"word");
    let late = map(home, Kind::Private, 2, 1);
    late.load(5, &mut bytes).expect("it is mapped");
    assert_eq!(&bytes, b"word", "a private map shows the file until it is written");
}

fn private_stores_stay_private(home: &dyn Home) {
    let page = home.page();
    let (private, shared) = (map(home, Kind::Private, 0, USED), map(home, Kind::Shared, 0, USED));
    private.store(page, b"mine").expect("it is mapped");
    shared.store(page + 8, b"ours").expect("it is mapped");
    let mut bytes = [0; 12];
    private.load(page, &mut bytes).expect("it is mapped");
    assert_eq!(&bytes[..4], b"mine");
    assert_eq!(bytes[8..], content(page)[page + 8..page + 12], "the copy is of before");
    shared.load(page, &mut bytes).expect("it is mapped");
    assert_eq!(bytes[..4], content(page)[page..page + 4]);
    private.sync().expect("there is nothing to do");
    shared.sync().expect("it is written");
    let mut expected = content(page);
    expected[page + 8..page + 12].copy_from_slice(b"ours");
    assert!(home.stored() == expected);
}

fn synced_stores_are_in_the_file(home: &dyn Home) {
    let page = home.page();
    let map = map(home, Kind::Shared, 0, USED);
    let mut expected = content(page);
    for at in [3 * page + 9, 4, 2 * page - 2] {
        map.store(at, b"stored").expect("it is mapped");
        expected[at..at + 6].copy_from_slice(b"stored");
    }
    // The last page is written as far as the file goes.
    map.store(PAGES * page + TAIL - 2, b"end and more").expect("it is mapped");
    expected[PAGES * page + TAIL - 2..].copy_from_slice(b"en");
    map.sync().expect("it is written");
    assert!(home.stored() == expected);
}

fn there_is_nothing_past_the_end(home: &dyn Home) {
    let page = home.page();
    for kind in [Kind::Shared, Kind::Private] {
        let map = map(home, kind, 0, USED + 2);
        assert_eq!(byte(&*map, USED * page - 1), Ok(0), "{kind:?}: the rest of the last page");
        assert_eq!(byte(&*map, USED * page), Err(Gone::Bus), "{kind:?}");
        assert_eq!(map.store((USED + 1) * page + 7, &[1]), Err(Gone::Bus), "{kind:?}");
    }
    assert!(home.stored() == content(page));
}

fn a_cut_takes_pages_away(home: &dyn Home) {
    let page = home.page();
    let file = home.open(Mode::ReadWrite).expect("the file opens");
    let (shared, private) = (map(home, Kind::Shared, 0, USED), map(home, Kind::Private, 0, USED));
    shared.store(page + 2, b"kept and cut").expect("it is mapped");
    private.store(3 * page, b"mine").expect("it is mapped");
    file.truncate((page + 6) as u64).expect("it can be cut");
    let mut bytes = [1; 12];
    shared.load(page + 2, &mut bytes).expect("it is still there");
    assert_eq!(&bytes, b"kept\0\0\0\0\0\0\0\0");
    for map in [&shared, &private] {
        assert_eq!(byte(&**map, 2 * page), Err(Gone::Bus));
        assert_eq!(map.store(3 * page, &[1]), Err(Gone::Bus), "copies went too");
    }
    shared.sync().expect("it is written");
    let mut expected = content(page);
    expected.truncate(page + 6);
    expected[page + 2..].copy_from_slice(b"kept");
    assert!(home.stored() == expected);
}

fn growth_gives_zeros(home: &dyn Home) {
    let page = home.page();
    let file = home.open(Mode::ReadWrite).expect("the file opens");
    let map = map(home, Kind::Shared, 0, USED + 2);
    assert_eq!(byte(&*map, USED * page), Err(Gone::Bus));
    file.truncate(((USED + 1) * page) as u64).expect("it can grow");
    assert_eq!(byte(&*map, USED * page), Ok(0), "what was refused is there now");
    assert_eq!(byte(&*map, PAGES * page + TAIL), Ok(0));
    assert_eq!(byte(&*map, (USED + 1) * page), Err(Gone::Bus));
    map.store(USED * page + 1, b"new").expect("it is mapped");
    map.sync().expect("it is written");
    let mut expected = content(page);
    expected.resize((USED + 1) * page, 0);
    expected[USED * page + 1..][..3].copy_from_slice(b"new");
    assert!(home.stored() == expected);
}

fn maps_are_refused_as_they_should(home: &dyn Home) {
    const EACCES: i32 = 13;
    const EINVAL: i32 = 22;
    let page = home.page();
    let file = home.open(Mode::Read).expect("the file opens");
    assert_eq!(file.map(Kind::Shared, 0, page).err(), Some(EACCES));
    assert_eq!(file.map(Kind::Private, 0, 0).err(), Some(EINVAL));
    assert_eq!(file.map(Kind::SharedRead, 1, page).err(), Some(EINVAL));
    let private = file.map(Kind::Private, page as u64, page).expect("copies are no changes");
    private.store(0, &[9]).expect("it is mapped");
    let shared = file.map(Kind::SharedRead, 0, page).expect("it is only read");
    assert_eq!(byte(&*shared, 0), Ok(content(page)[0]));
}

fn a_map_outlives_its_descriptor(home: &dyn Home) {
    let page = home.page();
    // `map` drops the open file.
    let map = map(home, Kind::Shared, 1, 2);
    assert_eq!(byte(&*map, 0), Ok(content(page)[page]));
    map.store(page, b"late").expect("it is mapped");
    map.sync().expect("it is written");
    assert_eq!(&home.stored()[2 * page..][..4], b"late");
}

fn random_stores_agree_with_a_model(home: &dyn Home) {
    let page = home.page();
    let mut model = content(page);
    let maps = [map(home, Kind::Shared, 0, USED), map(home, Kind::Shared, 1, USED - 1)];
    let mut state = 1_u64;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 33) as usize % below
    };
    for step in 0..120 {
        let which = random(2);
        let len = 1 + random(300);
        let first = which * page;
        let at = random(model.len() - first - len);
        let in_file = first + at..first + at + len;
        if random(2) == 0 {
            let bytes = vec![step as u8; len];
            maps[which].store(at, &bytes).expect("it is mapped");
            model[in_file].copy_from_slice(&bytes);
        } else {
            let mut bytes = vec![0; len];
            maps[which].load(at, &mut bytes).expect("it is mapped");
            assert!(bytes == model[in_file], "step {step}: {len} bytes at {at}");
        }
        if random(20) == 0 {
            maps[0].sync().expect("it is written");
            assert!(home.stored() == model, "step {step}");
        }
    }
}

fn protection_is_heeded(home: &dyn Home) {
    for kind in [Kind::Shared, Kind::Private] {
        let map = map(home, kind, 0, 3);
        let Some(space) = map.space() else { return };
        let at = home.page();
        map.store(at, b"a").expect("it is mapped");
        space.protect(1, Permission::Read).expect("the map allows it");
        assert_eq!(map.store(at, b"b"), Err(Gone::Segv), "{kind:?}");
        assert_eq!(byte(&*map, at), Ok(b'a'));
        space.protect(1, Permission::Nothing).expect("the map allows it");
        assert_eq!(byte(&*map, at), Err(Gone::Segv));
        map.store(0, b"c").expect("the neighbour stays");
        space.protect(1, Permission::ReadWrite).expect("the map allows it");
        map.store(at, b"d").expect("it is permitted again");
        assert_eq!(byte(&*map, at), Ok(b'd'));
    }
}

fn a_child_shares_what_is_shared(home: &dyn Home) {
    let page = home.page();
    for (kind, other) in [(Kind::Shared, page + 1), (Kind::Private, page + 2)] {
        let map = map(home, kind, 0, 2);
        let Some(space) = map.space() else { return };
        map.store(0, b"parent").expect("it is mapped");
        let well = space.fork(&mut |map| {
            let mut bytes = [0; 6];
            map.load(0, &mut bytes).is_ok()
                && bytes == *b"parent"
                && map.store(0, b"child ").is_ok()
                // A page that was not there in the parent.
                && map.store(other, b"x").is_ok()
                && byte(map, other) == Ok(b'x')
        });
        assert!(well, "{kind:?}");
        let mut bytes = [0; 6];
        map.load(0, &mut bytes).expect("it is mapped");
        let (expected, there) = match kind {
            Kind::Private => (b"parent", content(page)[other]),
            _ => (b"child ", b'x'),
        };
        assert_eq!((&bytes, byte(&*map, other)), (expected, Ok(there)), "{kind:?}");
    }
}

fn private_copies_can_be_dropped(home: &dyn Home) {
    for (kind, after) in [(Kind::Private, content(home.page())[3]), (Kind::Shared, b'!')] {
        let map = map(home, kind, 0, 1);
        let Some(space) = map.space() else { return };
        map.store(3, b"!").expect("it is mapped");
        space.dont_need().expect("it is mapped");
        assert_eq!(byte(&*map, 3), Ok(after), "{kind:?}");
    }
}
