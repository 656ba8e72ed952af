//! The areas of one address space, in order: a B+ tree that knows the widest gap below
//! each node, as the kernel's maple tree does. Look-ups, changes and the search for a
//! free range cost the logarithm of the number of areas. When areas merge or split,
//! `merge` knows.

use alloc::{boxed::Box, vec::Vec};

use crate::Area;

/// The most areas in a leaf.
const LEAF: usize = 16;
/// The most children of an inner node.
const FAN: usize = 32;

/// Areas ordered by address, none of which overlap.
pub struct AreaSet<F> {
    root: Node<F>,
    len: usize,
}

enum Node<F> {
    Leaf(Box<Leaf<F>>),
    Inner(Box<Inner<F>>),
}

/// `starts` and `ends` repeat what the areas say, side by side for the search.
struct Leaf<F> {
    starts: [u64; LEAF],
    ends: [u64; LEAF],
    areas: Vec<Area<F>>,
}

/// For each child: the start of its first area, the end of its last, and the widest
/// gap between two of its areas.
struct Inner<F> {
    firsts: [u64; FAN],
    lasts: [u64; FAN],
    gaps: [u64; FAN],
    children: Vec<Node<F>>,
}

/// What a parent keeps of a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Summary {
    first: u64,
    last: u64,
    gap: u64,
}

/// Makes room at `at` of the first `len` and puts `value` there.
fn put(keys: &mut [u64], len: usize, at: usize, value: u64) {
    keys.copy_within(at..len, at + 1);
    keys[at] = value;
}

/// Closes the place `at` of the first `len`.
fn cut(keys: &mut [u64], len: usize, at: usize) {
    keys.copy_within(at + 1..len, at);
}

/// The widest gap between neighbours.
fn widest(starts: &[u64], ends: &[u64]) -> u64 {
    starts.iter().skip(1).zip(ends).map(|(start, end)| start - end).max().unwrap_or(0)
}

impl<F> Leaf<F> {
    fn new() -> Leaf<F> {
        Leaf { starts: [0; LEAF], ends: [0; LEAF], areas: Vec::with_capacity(LEAF) }
    }

    fn push(&mut self, area: Area<F>) {
        self.insert(self.areas.len(), area);
    }

    fn insert(&mut self, at: usize, area: Area<F>) {
        let len = self.areas.len();
        put(&mut self.starts, len, at, area.start);
        put(&mut self.ends, len, at, area.end);
        self.areas.insert(at, area);
    }

    fn remove(&mut self, at: usize) -> Area<F> {
        let len = self.areas.len();
        cut(&mut self.starts, len, at);
        cut(&mut self.ends, len, at);
        self.areas.remove(at)
    }

    /// The place of the first area that ends past `address`.
    fn find(&self, address: u64) -> usize {
        self.ends[..self.areas.len()].partition_point(|end| *end <= address)
    }

    /// How many areas start below `address`.
    fn below(&self, address: u64) -> usize {
        self.starts[..self.areas.len()].partition_point(|start| *start < address)
    }
}

impl<F> Inner<F> {
    fn new() -> Inner<F> {
        Inner {
            firsts: [0; FAN],
            lasts: [0; FAN],
            gaps: [0; FAN],
            children: Vec::with_capacity(FAN),
        }
    }

    fn push(&mut self, child: Node<F>) {
        self.insert(self.children.len(), child);
    }

    fn insert(&mut self, at: usize, child: Node<F>) {
        let (len, summary) = (self.children.len(), child.summary());
        put(&mut self.firsts, len, at, summary.first);
        put(&mut self.lasts, len, at, summary.last);
        put(&mut self.gaps, len, at, summary.gap);
        self.children.insert(at, child);
    }

    fn remove(&mut self, at: usize) -> Node<F> {
        let len = self.children.len();
        cut(&mut self.firsts, len, at);
        cut(&mut self.lasts, len, at);
        cut(&mut self.gaps, len, at);
        self.children.remove(at)
    }

    /// Learns anew what stands below child `at`.
    fn refresh(&mut self, at: usize) {
        let summary = self.children[at].summary();
        self.firsts[at] = summary.first;
        self.lasts[at] = summary.last;
        self.gaps[at] = summary.gap;
    }

    /// The first child with an area that ends past `address`.
    fn find(&self, address: u64) -> usize {
        self.lasts[..self.children.len()].partition_point(|last| *last <= address)
    }

    /// The child in which an area that starts at `address` is, or belongs.
    fn holding(&self, address: u64) -> usize {
        let firsts = &self.firsts[..self.children.len()];
        firsts.partition_point(|first| *first <= address).saturating_sub(1)
    }

    /// Gives a child that has become small to a neighbour with room.
    fn tidy(&mut self, at: usize) {
        if self.children[at].len() == 0 {
            drop(self.remove(at));
            return;
        }
        if self.children[at].len() > self.children[at].capacity() / 4 {
            return;
        }
        let left = if at > 0 { at - 1 } else { 0 };
        let Some(right) = self.children.get(left + 1) else { return };
        if self.children[left].len() + right.len() > right.capacity() {
            return;
        }
        let right = self.remove(left + 1);
        self.children[left].append(right);
        self.refresh(left);
    }
}

impl<F> Node<F> {
    fn len(&self) -> usize {
        match self {
            Node::Leaf(leaf) => leaf.areas.len(),
            Node::Inner(inner) => inner.children.len(),
        }
    }

    fn capacity(&self) -> usize {
        match self {
            Node::Leaf(_) => LEAF,
            Node::Inner(_) => FAN,
        }
    }

    /// Of an empty node: nothing useful.
    fn summary(&self) -> Summary {
        match self {
            Node::Leaf(leaf) => {
                let len = leaf.areas.len();
                let (starts, ends) = (&leaf.starts[..len], &leaf.ends[..len]);
                let (first, last) = (leaf.starts[0], ends.last().copied().unwrap_or(0));
                Summary { first, last, gap: widest(starts, ends) }
            }
            Node::Inner(inner) => {
                let len = inner.children.len();
                let (firsts, lasts) = (&inner.firsts[..len], &inner.lasts[..len]);
                let inside = inner.gaps[..len].iter().copied().max().unwrap_or(0);
                let gap = widest(firsts, lasts).max(inside);
                Summary { first: firsts[0], last: lasts[len - 1], gap }
            }
        }
    }

    /// Takes the content of the next node of the same level.
    fn append(&mut self, right: Node<F>) {
        match (self, right) {
            (Node::Leaf(left), Node::Leaf(right)) => {
                right.areas.into_iter().for_each(|area| left.push(area));
            }
            (Node::Inner(left), Node::Inner(right)) => {
                right.children.into_iter().for_each(|child| left.push(child));
            }
            _ => unreachable!("the nodes of a level are of a kind"),
        }
    }

    /// Inserts; when the node is full, its upper half comes back as a new node.
    fn insert(&mut self, area: Area<F>) -> Option<Node<F>> {
        match self {
            Node::Leaf(leaf) => {
                let at = leaf.below(area.start);
                if leaf.areas.len() < LEAF {
                    leaf.insert(at, area);
                    return None;
                }
                // At the upper end, as when areas are made upwards, the new leaf
                // begins with the new area, so that leaves stay full.
                let cut = if at == LEAF { LEAF } else { LEAF / 2 };
                let mut upper = Leaf::new();
                leaf.areas.drain(cut..).for_each(|area| upper.push(area));
                if at < cut {
                    leaf.insert(at, area)
                } else {
                    upper.insert(at - cut, area)
                }
                Some(Node::Leaf(Box::new(upper)))
            }
            Node::Inner(inner) => {
                let at = inner.holding(area.start);
                let new = inner.children[at].insert(area);
                inner.refresh(at);
                let new = new?;
                if inner.children.len() < FAN {
                    inner.insert(at + 1, new);
                    return None;
                }
                let cut = if at + 1 == FAN { FAN } else { FAN / 2 };
                let mut upper = Inner::new();
                inner.children.drain(cut..).for_each(|child| upper.push(child));
                if cut != FAN && at < cut {
                    inner.insert(at + 1, new);
                } else {
                    upper.insert(at + 1 - cut, new);
                }
                Some(Node::Inner(Box::new(upper)))
            }
        }
    }

    fn remove(&mut self, start: u64) -> Option<Area<F>> {
        match self {
            Node::Leaf(leaf) => {
                let at = leaf.below(start);
                (at < leaf.areas.len() && leaf.starts[at] == start).then(|| leaf.remove(at))
            }
            Node::Inner(inner) => {
                let at = inner.holding(start);
                let area = inner.children[at].remove(start)?;
                if inner.children[at].len() > 0 {
                    inner.refresh(at);
                }
                inner.tidy(at);
                Some(area)
            }
        }
    }

    /// The end of the highest gap of at least `len` within `low..right`; `right` is
    /// free up to the node's last area. After the node, `right` is its first area.
    fn gap_below(&self, low: u64, right: &mut u64, len: u64) -> Option<u64> {
        let fits = |from: u64, to: u64| to.checked_sub(from.max(low)).is_some_and(|gap| gap >= len);
        match self {
            Node::Leaf(leaf) => {
                for at in (0..leaf.areas.len()).rev() {
                    if fits(leaf.ends[at], *right) {
                        return Some(*right);
                    }
                    *right = (*right).min(leaf.starts[at]);
                }
            }
            Node::Inner(inner) => {
                for (at, child) in inner.children.iter().enumerate().rev() {
                    if fits(inner.lasts[at], *right) {
                        return Some(*right);
                    }
                    if inner.gaps[at] >= len && inner.firsts[at] < *right {
                        let found = child.gap_below(low, right, len);
                        if found.is_some() {
                            return found;
                        }
                    }
                    *right = (*right).min(inner.firsts[at]);
                }
            }
        }
        None
    }
}

impl<F> Default for AreaSet<F> {
    fn default() -> Self {
        AreaSet { root: Node::Leaf(Box::new(Leaf::new())), len: 0 }
    }
}

impl<F> AreaSet<F> {
    /// How many areas there are (`map_count`).
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The first area that ends past `address` (`find_vma`). It holds the address if
    /// it starts at or below it.
    pub fn find(&self, address: u64) -> Option<&Area<F>> {
        let mut node = &self.root;
        loop {
            match node {
                Node::Leaf(leaf) => return leaf.areas.get(leaf.find(address)),
                Node::Inner(inner) => node = inner.children.get(inner.find(address))?,
            }
        }
    }

    /// The area that holds `address` (`vma_lookup`).
    pub fn lookup(&self, address: u64) -> Option<&Area<F>> {
        self.find(address).filter(|area| area.start <= address)
    }

    /// The last area that starts below `address`.
    pub fn previous(&self, address: u64) -> Option<&Area<F>> {
        let mut node = &self.root;
        loop {
            match node {
                Node::Leaf(leaf) => return leaf.areas.get(leaf.below(address).checked_sub(1)?),
                Node::Inner(inner) => {
                    let firsts = &inner.firsts[..inner.children.len()];
                    let below = firsts.partition_point(|first| *first < address);
                    node = &inner.children[below.checked_sub(1)?];
                }
            }
        }
    }

    /// The areas that end past `address`, in order.
    pub fn from(&self, address: u64) -> impl Iterator<Item = &Area<F>> {
        let mut at = address;
        core::iter::from_fn(move || {
            let area = self.find(at)?;
            at = area.end;
            Some(area)
        })
    }

    /// The area that starts at `start`, to change what is not its range.
    pub(crate) fn get_mut(&mut self, start: u64) -> Option<&mut Area<F>> {
        let mut node = &mut self.root;
        loop {
            match node {
                Node::Leaf(leaf) => {
                    let at = leaf.below(start);
                    return leaf.areas.get_mut(at).filter(|area| area.start == start);
                }
                Node::Inner(inner) => {
                    let at = inner.holding(start);
                    node = &mut inner.children[at];
                }
            }
        }
    }

    /// Adds an area, which overlaps none.
    pub(crate) fn insert(&mut self, area: Area<F>) {
        self.len += 1;
        if let Some(upper) = self.root.insert(area) {
            let mut root = Inner::new();
            let lower = core::mem::replace(&mut self.root, Node::Leaf(Box::new(Leaf::new())));
            root.push(lower);
            root.push(upper);
            self.root = Node::Inner(Box::new(root));
        }
    }

    /// Takes out the area that starts at `start`.
    pub(crate) fn remove(&mut self, start: u64) -> Option<Area<F>> {
        let area = self.root.remove(start)?;
        self.len -= 1;
        if let Node::Inner(inner) = &mut self.root {
            match inner.children.len() {
                0 => self.root = Node::Leaf(Box::new(Leaf::new())),
                1 => self.root = inner.children.remove(0),
                _ => {}
            }
        }
        Some(area)
    }

    /// The start of the highest free range of `len` bytes within `low..high`
    /// (`unmapped_area_topdown`).
    pub fn highest_gap(&self, low: u64, high: u64, len: u64) -> Option<u64> {
        let mut right = high;
        let end = self
            .root
            .gap_below(low, &mut right, len)
            .or_else(|| right.checked_sub(low).is_some_and(|gap| gap >= len).then_some(right))?;
        Some(end - len)
    }

    /// Panics unless the tree is what it says: see [`Engine::invariants`](crate::Engine::invariants).
    pub(crate) fn check(&self) {
        let areas: Vec<&Area<F>> = self.from(0).collect();
        assert_eq!(areas.len(), self.len, "the tree counts its areas");
        for pair in areas.windows(2) {
            assert!(pair[0].end <= pair[1].start, "{:?} overlaps {:?}", pair[0], pair[1]);
        }
        check_node(&self.root);
    }
}

fn check_node<F>(node: &Node<F>) {
    match node {
        Node::Leaf(leaf) => {
            for (at, area) in leaf.areas.iter().enumerate() {
                assert_eq!((area.start, area.end), (leaf.starts[at], leaf.ends[at]));
            }
        }
        Node::Inner(inner) => {
            assert!(!inner.children.is_empty(), "no inner node is empty");
            for (at, child) in inner.children.iter().enumerate() {
                assert!(child.len() > 0, "no child is empty");
                let kept =
                    Summary { first: inner.firsts[at], last: inner.lasts[at], gap: inner.gaps[at] };
                assert_eq!(child.summary(), kept, "a parent knows its children");
                check_node(child);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::collections::{BTreeMap, btree_map::Entry};

    use super::*;
    use crate::Flags;

    fn area(start: u64, end: u64) -> Area<()> {
        Area { start, end, flags: Flags::NONE, page_offset: 0, file: None, anon: None }
    }

    /// The same by the plainest means.
    fn highest_gap(map: &BTreeMap<u64, u64>, low: u64, high: u64, len: u64) -> Option<u64> {
        let mut right = high;
        for (start, end) in map.iter().rev() {
            if *end <= right && right - end.max(&low).min(&right) >= len {
                return Some(right - len);
            }
            right = right.min(*start);
        }
        (right >= low && right - low >= len).then(|| right - len)
    }

    #[test]
    fn agrees_with_a_plain_map() {
        let mut seed = 1_u64;
        let mut random = |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) % below
        };
        let (mut set, mut map) = (AreaSet::default(), BTreeMap::new());
        const STEPS: u64 = if cfg!(miri) { 400 } else { 20_000 };
        for step in 0..STEPS {
            let start = random(5000) * 10;
            // First it grows, then it shrinks.
            if random(10) < if step < STEPS / 2 { 7 } else { 2 } {
                let end = start + 1 + random(10);
                if let Entry::Vacant(free) = map.entry(start) {
                    free.insert(end);
                    set.insert(area(start, end));
                }
            } else {
                assert_eq!(set.remove(start).map(|area| area.end), map.remove(&start));
            }
            let at = random(51_000);
            let next = map.iter().find(|(_, end)| **end > at).map(|(start, _)| *start);
            let before = map.range(..at).next_back().map(|(start, _)| *start);
            assert_eq!(set.find(at).map(Area::start), next, "find");
            assert_eq!(set.previous(at).map(Area::start), before, "previous");
            let (high, len) = (at + random(9000), 1 + random(200));
            assert_eq!(
                set.highest_gap(at, high, len),
                highest_gap(&map, at, high, len),
                "gap of {len} in {at}..{high}"
            );
            if step % 100 == 0 {
                set.check();
            }
        }
    }
}
