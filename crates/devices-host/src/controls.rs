//! Controls: brightness and the like. What there are, their values, and the rules of
//! `v4l2-ctrls-core.c` about them.
//!
//! What does not live here: the copying of their structures (`ioctl`), and who is
//! told of a change (`events`).

mod webcam;

use devmap_driver::Errno;

pub use webcam::{
    AUTO_WHITE_BALANCE, BRIGHTNESS, CAPTION, CONTRAST, EXPOSURE, EXPOSURE_AUTO, GAIN, GAMMA, HFLIP,
    HUE, PIXEL_RATE, SATURATION, TEMPERATURE, VFLIP, WEBCAM,
};
pub(crate) use webcam::{CAPTION_LENGTH, EXPOSURE_MANUAL, USUAL_EXPOSURE};

use crate::uapi::{self, EventCtrl, QueryCtrl, QueryExtCtrl, ctrl};

/// What values a control takes.
#[derive(Clone, Copy, Debug)]
pub enum ControlKind {
    /// A number: minimum, maximum and step. Others are rounded (`INTEGER`).
    Integer(i32, i32, i32),
    /// The same with 64 bits (`INTEGER64`).
    Integer64(i64, i64, u32),
    /// 0 or 1 (`BOOLEAN`).
    Boolean,
    /// One of these, by its place; a place without a name cannot be chosen (`MENU`).
    Menu(&'static [&'static str]),
    /// One of these numbers, by its place (`INTEGER_MENU`).
    IntegerMenu(&'static [i64]),
    /// Any of these bits (`BITMASK`).
    Bitmask(u32),
    /// A text of so many bytes, at least and at most (`STRING`). It is empty at first.
    Text(u32, u32),
    /// Pushed, it has no value (`BUTTON`).
    Button,
    /// Not a control but the heading of a class (`CTRL_CLASS`).
    Class,
}

/// When a control can be set.
#[derive(Clone, Copy, Debug)]
pub enum Rule {
    /// Always.
    Free,
    /// Also while it changes nothing: another control has this value, such as automatic
    /// exposure (`V4L2_CTRL_FLAG_INACTIVE`).
    InactiveWhile(u32, i64),
    /// Not while frames are taken (`V4L2_CTRL_FLAG_GRABBED`): `EBUSY`.
    GrabbedWhileStreaming,
    /// Never (`V4L2_CTRL_FLAG_READ_ONLY`): `EACCES`.
    ReadOnly,
}

/// One control that a camera has.
#[derive(Clone, Copy, Debug)]
pub struct ControlSpec {
    /// `V4L2_CID_*`.
    pub id: u32,
    /// Its name, at most 31 characters.
    pub name: &'static str,
    /// What values it takes.
    pub kind: ControlKind,
    /// The value to start with.
    pub default: i64,
    /// When it can be set.
    pub rule: Rule,
}

/// What a control is set to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Number(i64),
    Text(Vec<u8>),
}

/// An item of a menu.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MenuItem {
    Name(&'static str),
    Number(i64),
}

impl ControlSpec {
    /// A control that can be set at any time.
    pub const fn new(id: u32, name: &'static str, kind: ControlKind, default: i64) -> ControlSpec {
        ControlSpec { id, name, kind, default, rule: Rule::Free }
    }

    /// The same by another rule.
    #[must_use]
    pub const fn rule(self, rule: Rule) -> ControlSpec {
        ControlSpec { rule, ..self }
    }

    /// `V4L2_CTRL_TYPE_*`.
    fn type_number(&self) -> u32 {
        match self.kind {
            ControlKind::Integer(..) => 1,
            ControlKind::Boolean => 2,
            ControlKind::Menu(_) => 3,
            ControlKind::Button => 4,
            ControlKind::Integer64(..) => 5,
            ControlKind::Class => 6,
            ControlKind::Text(..) => 7,
            ControlKind::Bitmask(_) => 8,
            ControlKind::IntegerMenu(_) => 9,
        }
    }

    /// Minimum, maximum and step.
    fn range(&self) -> (i64, i64, u32) {
        match self.kind {
            ControlKind::Integer(minimum, maximum, step) => {
                (minimum.into(), maximum.into(), step.unsigned_abs())
            }
            ControlKind::Integer64(minimum, maximum, step) => (minimum, maximum, step),
            ControlKind::Boolean => (0, 1, 1),
            ControlKind::Menu(names) => {
                let first = names.iter().position(|name| !name.is_empty()).unwrap_or(0);
                (first as i64, names.len() as i64 - 1, 1)
            }
            ControlKind::IntegerMenu(numbers) => (0, numbers.len() as i64 - 1, 1),
            ControlKind::Bitmask(bits) => (0, bits.into(), 0),
            ControlKind::Text(minimum, maximum) => (minimum.into(), maximum.into(), 1),
            ControlKind::Button | ControlKind::Class => (0, 0, 0),
        }
    }

    /// Bytes of a value.
    fn size(&self) -> u32 {
        match self.kind {
            ControlKind::Integer64(..) => 8,
            ControlKind::Text(_, maximum) => maximum + 1,
            _ => 4,
        }
    }

    /// Whether a value is 32 bits (`is_int`); others need the extended calls.
    fn is_word(&self) -> bool {
        !matches!(self.kind, ControlKind::Integer64(..) | ControlKind::Text(..))
    }

    /// Bytes of a text at most, for controls that are one.
    pub(crate) fn text_limit(&self) -> Option<u32> {
        match self.kind {
            ControlKind::Text(_, maximum) => Some(maximum),
            _ => None,
        }
    }

    fn first(&self) -> Value {
        match self.kind {
            ControlKind::Text(..) => Value::Text(Vec::new()),
            _ => Value::Number(self.default),
        }
    }

    /// What a value becomes (`std_validate`).
    ///
    /// # Errors
    /// `ERANGE` past a menu and for a text that is too short or too long, `EINVAL` for an
    /// item without a name.
    fn validate(&self, value: Value) -> Result<Value, Errno> {
        let (minimum, maximum, step) = self.range();
        let value = match value {
            Value::Number(value) => value,
            Value::Text(text) => {
                let is_within = (minimum..=maximum).contains(&(text.len() as i64));
                return if is_within { Ok(Value::Text(text)) } else { Err(Errno::ERANGE) };
            }
        };
        let is_within = (minimum..=maximum).contains(&value);
        Ok(Value::Number(match self.kind {
            ControlKind::Integer(..) | ControlKind::Integer64(..) => {
                let above = i128::from(value.clamp(minimum, maximum)) - i128::from(minimum);
                let step = i128::from(step.max(1));
                let rounded = i128::from(minimum) + (above + step / 2) / step * step;
                rounded.min(maximum.into()) as i64
            }
            ControlKind::Boolean => i64::from(value != 0),
            ControlKind::Menu(_) | ControlKind::IntegerMenu(_) if !is_within => {
                return Err(Errno::ERANGE);
            }
            ControlKind::Menu(names) if names[value as usize].is_empty() => {
                return Err(Errno::EINVAL);
            }
            ControlKind::Menu(_) | ControlKind::IntegerMenu(_) => value,
            ControlKind::Bitmask(bits) => value & i64::from(bits),
            ControlKind::Button | ControlKind::Class | ControlKind::Text(..) => 0,
        }))
    }

    /// The class that it belongs to (`V4L2_CTRL_ID2WHICH`).
    fn which(&self) -> u32 {
        self.id & 0x0fff_0000
    }
}

/// A control that has changed, and how (`V4L2_EVENT_CTRL_CH_*`).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Changed {
    pub(crate) id: u32,
    pub(crate) changes: u32,
}

/// Whether frames are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Streaming {
    Off,
    On,
}

/// The controls of a camera and their values.
pub(crate) struct Controls {
    specs: &'static [ControlSpec],
    values: Vec<Value>,
    streaming: Streaming,
}

impl Controls {
    /// All at their defaults.
    pub(crate) fn new(specs: &'static [ControlSpec]) -> Controls {
        let values = specs.iter().map(ControlSpec::first).collect();
        Controls { specs, values, streaming: Streaming::Off }
    }

    /// The upper bits are no part of a number (`V4L2_CTRL_ID_MASK`).
    fn index(&self, id: u32) -> Option<usize> {
        let id = id & ctrl::ID_MASK;
        self.specs.iter().position(|spec| spec.id == id)
    }

    /// The number that a control has, if there is such a control.
    pub(crate) fn number(&self, id: u32) -> Option<i64> {
        match &self.values[self.index(id)?] {
            Value::Number(value) => Some(*value),
            Value::Text(_) => None,
        }
    }

    /// As [`Controls::number`], of 32 bits.
    pub(crate) fn value(&self, id: u32) -> Option<i32> {
        self.number(id).map(|value| value as i32)
    }

    /// The text that a control has, if there is such a control.
    pub(crate) fn text(&self, id: u32) -> Option<&[u8]> {
        match &self.values[self.index(id)?] {
            Value::Text(text) => Some(text),
            Value::Number(_) => None,
        }
    }

    fn flags(&self, spec: &ControlSpec) -> u32 {
        // As v4l2_ctrl_fill has them.
        const SLIDERS: [u32; 6] = [BRIGHTNESS, CONTRAST, SATURATION, HUE, GAMMA, webcam::SHARPNESS];
        let mut flags = match spec.kind {
            ControlKind::Button => ctrl::WRITE_ONLY | ctrl::EXECUTE_ON_WRITE,
            ControlKind::Class => ctrl::READ_ONLY | ctrl::WRITE_ONLY,
            ControlKind::Text(..) => ctrl::HAS_PAYLOAD,
            _ if SLIDERS.contains(&spec.id) => ctrl::SLIDER,
            _ => 0,
        };
        let follows =
            |other: &ControlSpec| matches!(other.rule, Rule::InactiveWhile(id, _) if id == spec.id);
        if self.specs.iter().any(follows) {
            flags |= ctrl::UPDATE;
        }
        flags |= match spec.rule {
            Rule::InactiveWhile(id, value) if self.number(id) == Some(value) => ctrl::INACTIVE,
            Rule::GrabbedWhileStreaming if self.streaming == Streaming::On => ctrl::GRABBED,
            Rule::ReadOnly => ctrl::READ_ONLY,
            _ => 0,
        };
        flags
    }

    /// The control with this number, or the next one after it (`VIDIOC_QUERYCTRL`).
    fn find(&self, id: u32) -> Result<&ControlSpec, Errno> {
        let next = id & (ctrl::NEXT_CTRL | ctrl::NEXT_COMPOUND);
        let id = id & ctrl::ID_MASK;
        let found = if next == 0 {
            self.specs.iter().find(|spec| spec.id == id)
        } else if next & ctrl::NEXT_CTRL != 0 {
            self.specs.iter().find(|spec| spec.id > id)
        } else {
            None
        };
        found.ok_or(Errno::EINVAL)
    }

    /// `VIDIOC_QUERY_EXT_CTRL`.
    ///
    /// # Errors
    /// `EINVAL`: there is none.
    pub(crate) fn query_ext(&self, id: u32) -> Result<QueryExtCtrl, Errno> {
        let spec = self.find(id)?;
        let (minimum, maximum, step) = spec.range();
        Ok(QueryExtCtrl {
            id: spec.id,
            kind: spec.type_number(),
            name: uapi::text(spec.name),
            minimum,
            maximum,
            step: step.into(),
            default: spec.default,
            flags: self.flags(spec),
            elem_size: spec.size(),
            elems: 1,
            dimensions: 0,
            dims: [0; 4],
            reserved: [0; 32],
        })
    }

    /// `VIDIOC_QUERYCTRL`: a number of 64 bits has no range there.
    ///
    /// # Errors
    /// `EINVAL`: there is none.
    pub(crate) fn query(&self, id: u32) -> Result<QueryCtrl, Errno> {
        let spec = self.find(id)?;
        let (minimum, maximum, step) = match spec.kind {
            ControlKind::Integer64(..) => (0, 0, 0),
            _ => spec.range(),
        };
        let has_default = !matches!(spec.kind, ControlKind::Integer64(..));
        Ok(QueryCtrl {
            id: spec.id,
            kind: spec.type_number(),
            name: uapi::text(spec.name),
            minimum: minimum as i32,
            maximum: maximum as i32,
            step: step as i32,
            default: if has_default { spec.default as i32 } else { 0 },
            flags: self.flags(spec),
            reserved: [0; 2],
        })
    }

    /// `VIDIOC_QUERYMENU`: an item.
    ///
    /// # Errors
    /// `EINVAL`: no such control, no menu, no such item.
    pub(crate) fn menu_item(&self, id: u32, index: u32) -> Result<MenuItem, Errno> {
        let index = index as usize;
        let spec = self.specs.iter().find(|spec| spec.id == id).ok_or(Errno::EINVAL)?;
        let item = match spec.kind {
            ControlKind::Menu(names) => {
                let name = names.get(index).filter(|name| !name.is_empty());
                name.map(|name| MenuItem::Name(name))
            }
            ControlKind::IntegerMenu(numbers) => {
                numbers.get(index).map(|number| MenuItem::Number(*number))
            }
            _ => None,
        };
        item.ok_or(Errno::EINVAL)
    }

    /// Bytes of a value of a control.
    pub(crate) fn size(&self, id: u32) -> u32 {
        self.index(id).map_or(4, |index| self.specs[index].size())
    }

    /// Refuses a control that the calls for plain ones do not reach.
    ///
    /// # Errors
    /// `EINVAL`: there is none, or its value is not 32 bits.
    pub(crate) fn check_word(&self, id: u32) -> Result<(), Errno> {
        let index = self.index(id).ok_or(Errno::EINVAL)?;
        if self.specs[index].is_word() { Ok(()) } else { Err(Errno::EINVAL) }
    }

    /// The value of a control.
    ///
    /// # Errors
    /// `EINVAL`: there is none. `EACCES`: it cannot be read.
    pub(crate) fn get(&self, id: u32) -> Result<&Value, Errno> {
        let index = self.index(id).ok_or(Errno::EINVAL)?;
        if self.flags(&self.specs[index]) & ctrl::WRITE_ONLY != 0 {
            return Err(Errno::EACCES);
        }
        Ok(&self.values[index])
    }

    /// The default of a control, as `V4L2_CTRL_WHICH_DEF_VAL` asks for it.
    pub(crate) fn default(&self, id: u32) -> Option<Value> {
        self.index(id).map(|index| self.specs[index].first())
    }

    /// Refuses a control that cannot be written now. `set`: it is not only tried.
    ///
    /// # Errors
    /// `EINVAL`: there is none. `EACCES`: it cannot be written. `EBUSY`: not now.
    pub(crate) fn check_writable(&self, id: u32, set: bool) -> Result<(), Errno> {
        let index = self.index(id).ok_or(Errno::EINVAL)?;
        let flags = self.flags(&self.specs[index]);
        if flags & ctrl::READ_ONLY != 0 {
            return Err(Errno::EACCES);
        }
        if set && flags & ctrl::GRABBED != 0 { Err(Errno::EBUSY) } else { Ok(()) }
    }

    /// What a control would be set to.
    ///
    /// # Errors
    /// `EINVAL`: there is none. `ERANGE`.
    pub(crate) fn check(&self, id: u32, value: Value) -> Result<Value, Errno> {
        let index = self.index(id).ok_or(Errno::EINVAL)?;
        self.specs[index].validate(value)
    }

    /// Sets what [`Controls::check`] has passed; everything that it changed.
    pub(crate) fn set(&mut self, id: u32, value: Value) -> Vec<Changed> {
        let Some(index) = self.index(id) else { return Vec::new() };
        let is_button = matches!(self.specs[index].kind, ControlKind::Button);
        let is_changed = self.values[index] != value || is_button;
        self.changing(|controls| {
            controls.values[index] = value;
            is_changed.then_some(id)
        })
    }

    /// A stream begins or ends.
    pub(crate) fn stream(&mut self, streaming: Streaming) -> Vec<Changed> {
        self.changing(|controls| {
            controls.streaming = streaming;
            None
        })
    }

    /// Makes a change, which gives the control whose value it was; all that is other now.
    fn changing(&mut self, change: impl FnOnce(&mut Controls) -> Option<u32>) -> Vec<Changed> {
        let before: Vec<_> = self.specs.iter().map(|spec| self.flags(spec)).collect();
        let id = change(self);
        let mut changed = Vec::new();
        for (spec, before) in self.specs.iter().zip(before) {
            let mut changes = 0;
            if Some(spec.id) == id {
                changes |= uapi::event::CHANGE_VALUE;
            }
            if self.flags(spec) != before {
                changes |= uapi::event::CHANGE_FLAGS;
            }
            if changes != 0 {
                changed.push(Changed { id: spec.id, changes });
            }
        }
        changed
    }

    /// Whether a control, or any of a class (`V4L2_CTRL_ID2WHICH`), is there.
    pub(crate) fn has_class(&self, which: u32) -> bool {
        self.specs.iter().any(|spec| spec.which() == which)
    }

    /// Whether a control is there, and in this class unless that is 0.
    pub(crate) fn is_in(&self, id: u32, which: u32) -> bool {
        self.index(id).is_some_and(|index| which == 0 || self.specs[index].which() == which)
    }

    /// What an event says of a control (`fill_event`).
    pub(crate) fn event(&self, id: u32, changes: u32) -> Option<EventCtrl> {
        let index = self.index(id)?;
        let spec = &self.specs[index];
        let (minimum, maximum, step) = spec.range();
        Some(EventCtrl {
            changes,
            kind: spec.type_number(),
            value: self.number(id).unwrap_or(0),
            flags: self.flags(spec),
            minimum: minimum as i32,
            maximum: maximum as i32,
            step: step as i32,
            default: spec.default as i32,
            pad: 0,
            rest: [0; 24],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controls_are_in_order_and_start_within_their_range() {
        assert!(WEBCAM.is_sorted_by(|a, b| a.id < b.id));
        for spec in WEBCAM {
            assert_eq!(spec.validate(spec.first()), Ok(spec.first()), "{}", spec.name);
        }
    }

    #[test]
    fn values_are_held_to_what_there_is() {
        let controls = Controls::new(WEBCAM);
        let check = |id, value| match controls.check(id, Value::Number(value)) {
            Ok(Value::Number(value)) => Ok(value),
            Ok(Value::Text(_)) => Ok(-1),
            Err(errno) => Err(errno),
        };
        assert_eq!(check(BRIGHTNESS, 1000), Ok(127));
        assert_eq!(check(BRIGHTNESS, i32::MIN.into()), Ok(-128));
        assert_eq!(check(TEMPERATURE, 2804), Ok(2800));
        assert_eq!(check(TEMPERATURE, 2806), Ok(2810));
        assert_eq!(check(HFLIP, 7), Ok(1));
        assert_eq!(check(EXPOSURE_AUTO, 4), Err(Errno::ERANGE));
        assert_eq!(check(EXPOSURE_AUTO, 2), Err(Errno::EINVAL));
        assert_eq!(check(0x009a_0913, 5), Err(Errno::ERANGE));
        assert_eq!(check(0x009a_091b, -1), Ok(7));
        assert_eq!(check(PIXEL_RATE, i64::MAX), Ok(1 << 40));
        assert_eq!(check(1, 2), Err(Errno::EINVAL));
        let text = |len| controls.check(CAPTION, Value::Text(vec![b'x'; len]));
        assert_eq!(text(18), Ok(Value::Text(vec![b'x'; 18])));
        assert_eq!(text(19), Err(Errno::ERANGE));
    }

    #[test]
    fn what_is_no_word_is_out_of_reach_of_the_plain_calls() {
        let controls = Controls::new(WEBCAM);
        assert_eq!(controls.check_word(BRIGHTNESS), Ok(()));
        assert_eq!(controls.check_word(CAPTION), Err(Errno::EINVAL));
        assert_eq!(controls.check_word(PIXEL_RATE), Err(Errno::EINVAL));
        assert_eq!(controls.check_writable(PIXEL_RATE, false), Err(Errno::EACCES));
        assert_eq!(controls.check_writable(0x0098_0001, false), Err(Errno::EACCES));
        assert_eq!(controls.menu_item(0x009a_0913, 1), Ok(MenuItem::Number(-1000)));
        assert_eq!(controls.menu_item(EXPOSURE_AUTO, 2), Err(Errno::EINVAL));
    }

    #[test]
    fn a_master_changes_the_flags_of_its_dependents() {
        let mut controls = Controls::new(WEBCAM);
        let changed = controls.set(EXPOSURE_AUTO, Value::Number(1));
        let ids: Vec<_> = changed.iter().map(|changed| (changed.id, changed.changes)).collect();
        assert_eq!(ids, [(EXPOSURE_AUTO, 1), (EXPOSURE, 2)]);
        assert!(controls.set(EXPOSURE_AUTO, Value::Number(1)).is_empty());
    }

    #[test]
    fn a_stream_grabs_what_it_depends_on() {
        const DYNAMIC: u32 = 0x009a_0903;
        let mut controls = Controls::new(WEBCAM);
        let changed = controls.stream(Streaming::On);
        assert_eq!((changed.len(), changed[0].id, changed[0].changes), (1, DYNAMIC, 2));
        assert_eq!(controls.check_writable(DYNAMIC, true), Err(Errno::EBUSY));
        assert_eq!(controls.check_writable(DYNAMIC, false), Ok(()));
        assert_eq!(controls.stream(Streaming::Off).len(), 1);
        assert_eq!(controls.check_writable(DYNAMIC, true), Ok(()));
    }
}
