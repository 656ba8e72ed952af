//! Controls: brightness and the like. What there are, their values, and the rules of
//! `v4l2-ctrls-core.c` about them.
//!
//! What does not live here: the copying of their structures (`ioctl`), and who is
//! told of a change (`events`).

use devmap_driver::Errno;

use crate::uapi::{self, EventCtrl, QueryCtrl, QueryExtCtrl, ctrl};

/// What values a control takes.
#[derive(Clone, Copy, Debug)]
pub enum ControlKind {
    /// A number: minimum, maximum and step. Others are rounded (`INTEGER`).
    Integer(i32, i32, i32),
    /// 0 or 1 (`BOOLEAN`).
    Boolean,
    /// One of these, by its place; a place without a name cannot be chosen (`MENU`).
    Menu(&'static [&'static str]),
    /// Pushed, it has no value (`BUTTON`).
    Button,
    /// Not a control but the heading of a class (`CTRL_CLASS`).
    Class,
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
    pub default: i32,
    /// Another control and a value of it that makes this one inactive, such as
    /// automatic exposure.
    pub inactive_while: Option<(u32, i32)>,
}

/// The first control of a class is its heading.
const fn class(id: u32, name: &'static str) -> ControlSpec {
    ControlSpec { id, name, kind: ControlKind::Class, default: 0, inactive_while: None }
}

const fn integer(
    id: u32,
    name: &'static str,
    (minimum, maximum, step): (i32, i32, i32),
    default: i32,
) -> ControlSpec {
    let kind = ControlKind::Integer(minimum, maximum, step);
    ControlSpec { id, name, kind, default, inactive_while: None }
}

const fn boolean(id: u32, name: &'static str, default: i32) -> ControlSpec {
    ControlSpec { id, name, kind: ControlKind::Boolean, default, inactive_while: None }
}

/// `V4L2_CID_BRIGHTNESS`.
pub const BRIGHTNESS: u32 = 0x0098_0900;
/// `V4L2_CID_CONTRAST`.
pub const CONTRAST: u32 = 0x0098_0901;
/// `V4L2_CID_SATURATION`.
pub const SATURATION: u32 = 0x0098_0902;
/// `V4L2_CID_HFLIP`.
pub const HFLIP: u32 = 0x0098_0914;
/// `V4L2_CID_VFLIP`.
pub const VFLIP: u32 = 0x0098_0915;
const AUTO_WHITE_BALANCE: u32 = 0x0098_090c;
const EXPOSURE_AUTO: u32 = 0x009a_0901;

/// The controls of a webcam, in the order of their numbers, as it must be.
/// Brightness, contrast, saturation and the flips change what is drawn.
pub const WEBCAM: &[ControlSpec] = &[
    class(0x0098_0001, "User Controls"),
    integer(BRIGHTNESS, "Brightness", (-128, 127, 1), 0),
    integer(CONTRAST, "Contrast", (0, 255, 1), 128),
    integer(SATURATION, "Saturation", (0, 255, 1), 128),
    integer(0x0098_0903, "Hue", (-180, 180, 1), 0),
    boolean(AUTO_WHITE_BALANCE, "White Balance, Automatic", 1),
    ControlSpec {
        id: 0x0098_090d,
        name: "Do White Balance",
        kind: ControlKind::Button,
        default: 0,
        inactive_while: None,
    },
    integer(0x0098_0913, "Gain", (0, 100, 1), 0),
    boolean(HFLIP, "Horizontal Flip", 0),
    boolean(VFLIP, "Vertical Flip", 0),
    ControlSpec {
        id: 0x0098_0918,
        name: "Power Line Frequency",
        kind: ControlKind::Menu(&["Disabled", "50 Hz", "60 Hz", "Auto"]),
        default: 1,
        inactive_while: None,
    },
    ControlSpec {
        inactive_while: Some((AUTO_WHITE_BALANCE, 1)),
        ..integer(0x0098_091a, "White Balance Temperature", (2800, 6500, 10), 4600)
    },
    integer(0x0098_091b, "Sharpness", (0, 7, 1), 2),
    integer(0x0098_091c, "Backlight Compensation", (0, 2, 1), 1),
    class(0x009a_0001, "Camera Controls"),
    ControlSpec {
        id: EXPOSURE_AUTO,
        name: "Auto Exposure",
        // As on most webcams: no automatic mode with a fixed iris or shutter alone.
        kind: ControlKind::Menu(&["", "Manual Mode", "", "Aperture Priority Mode"]),
        default: 3,
        inactive_while: None,
    },
    ControlSpec {
        inactive_while: Some((EXPOSURE_AUTO, 3)),
        ..integer(0x009a_0902, "Exposure Time, Absolute", (3, 2047, 1), 250)
    },
    boolean(0x009a_0903, "Exposure, Dynamic Framerate", 0),
];

impl ControlSpec {
    /// `V4L2_CTRL_TYPE_*`.
    fn type_number(&self) -> u32 {
        match self.kind {
            ControlKind::Integer(..) => 1,
            ControlKind::Boolean => 2,
            ControlKind::Menu(_) => 3,
            ControlKind::Button => 4,
            ControlKind::Class => 6,
        }
    }

    /// Minimum, maximum and step.
    fn range(&self) -> (i32, i32, i32) {
        match self.kind {
            ControlKind::Integer(minimum, maximum, step) => (minimum, maximum, step),
            ControlKind::Boolean => (0, 1, 1),
            ControlKind::Menu(names) => {
                let first = names.iter().position(|name| !name.is_empty()).unwrap_or(0);
                (first as i32, names.len() as i32 - 1, 1)
            }
            ControlKind::Button | ControlKind::Class => (0, 0, 0),
        }
    }

    /// What a value becomes (`std_validate`).
    ///
    /// # Errors
    /// `ERANGE` past a menu, `EINVAL` for an item without a name.
    fn validate(&self, value: i32) -> Result<i32, Errno> {
        let (minimum, maximum, step) = self.range();
        match self.kind {
            ControlKind::Integer(..) => {
                let clamped = i64::from(value.clamp(minimum, maximum));
                let (low, step) = (i64::from(minimum), i64::from(step));
                let rounded = low + (clamped - low + step / 2) / step * step;
                Ok(rounded.min(i64::from(maximum)) as i32)
            }
            ControlKind::Boolean => Ok(i32::from(value != 0)),
            ControlKind::Menu(_) if value < minimum || value > maximum => Err(Errno::ERANGE),
            ControlKind::Menu(names) if names[value as usize].is_empty() => Err(Errno::EINVAL),
            ControlKind::Menu(_) => Ok(value),
            ControlKind::Button | ControlKind::Class => Ok(0),
        }
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

/// The controls of a camera and their values.
pub(crate) struct Controls {
    specs: &'static [ControlSpec],
    values: Vec<i32>,
}

impl Controls {
    /// All at their defaults.
    pub(crate) fn new(specs: &'static [ControlSpec]) -> Controls {
        Controls { specs, values: specs.iter().map(|spec| spec.default).collect() }
    }

    /// The upper bits are no part of a number (`V4L2_CTRL_ID_MASK`).
    fn index(&self, id: u32) -> Option<usize> {
        let id = id & 0x0fff_ffff;
        self.specs.iter().position(|spec| spec.id == id)
    }

    /// The value of a control, if there is such a control.
    pub(crate) fn value(&self, id: u32) -> Option<i32> {
        self.index(id).map(|index| self.values[index])
    }

    fn flags(&self, spec: &ControlSpec) -> u32 {
        let mut flags = match spec.kind {
            ControlKind::Integer(..) => ctrl::SLIDER,
            ControlKind::Button => ctrl::WRITE_ONLY | ctrl::EXECUTE_ON_WRITE,
            ControlKind::Class => ctrl::READ_ONLY | ctrl::WRITE_ONLY,
            ControlKind::Boolean | ControlKind::Menu(_) => 0,
        };
        if self.specs.iter().any(|o| o.inactive_while.is_some_and(|(id, _)| id == spec.id)) {
            flags |= ctrl::UPDATE;
        }
        if spec.inactive_while.is_some_and(|(id, value)| self.value(id) == Some(value)) {
            flags |= ctrl::INACTIVE;
        }
        flags
    }

    /// The control with this number, or the next one after it (`VIDIOC_QUERYCTRL`).
    fn find(&self, id: u32) -> Result<&ControlSpec, Errno> {
        let next = id & (ctrl::NEXT_CTRL | ctrl::NEXT_COMPOUND);
        let id = id & 0x0fff_ffff;
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
            minimum: minimum.into(),
            maximum: maximum.into(),
            step: u64::from(step.unsigned_abs()),
            default: spec.default.into(),
            flags: self.flags(spec),
            elem_size: 4,
            elems: 1,
            dimensions: 0,
            dims: [0; 4],
            reserved: [0; 32],
        })
    }

    /// `VIDIOC_QUERYCTRL`.
    ///
    /// # Errors
    /// `EINVAL`: there is none.
    pub(crate) fn query(&self, id: u32) -> Result<QueryCtrl, Errno> {
        let spec = self.find(id)?;
        let (minimum, maximum, step) = spec.range();
        Ok(QueryCtrl {
            id: spec.id,
            kind: spec.type_number(),
            name: uapi::text(spec.name),
            minimum,
            maximum,
            step,
            default: spec.default,
            flags: self.flags(spec),
            reserved: [0; 2],
        })
    }

    /// `VIDIOC_QUERYMENU`: the name of an item.
    ///
    /// # Errors
    /// `EINVAL`: no such control, no menu, no such item.
    pub(crate) fn menu_item(&self, id: u32, index: u32) -> Result<&'static str, Errno> {
        let spec = self.specs.iter().find(|spec| spec.id == id).ok_or(Errno::EINVAL)?;
        let ControlKind::Menu(names) = spec.kind else { return Err(Errno::EINVAL) };
        let name = names.get(index as usize).ok_or(Errno::EINVAL)?;
        if name.is_empty() { Err(Errno::EINVAL) } else { Ok(name) }
    }

    /// `VIDIOC_G_CTRL`.
    ///
    /// # Errors
    /// `EINVAL`: there is none. `EACCES`: it cannot be read.
    pub(crate) fn get(&self, id: u32) -> Result<i32, Errno> {
        let index = self.index(id).ok_or(Errno::EINVAL)?;
        if self.flags(&self.specs[index]) & ctrl::WRITE_ONLY != 0 {
            return Err(Errno::EACCES);
        }
        Ok(self.values[index])
    }

    /// The default of a control, as `V4L2_CTRL_WHICH_DEF_VAL` asks for it.
    pub(crate) fn default(&self, id: u32) -> Option<i32> {
        self.index(id).map(|index| self.specs[index].default)
    }

    /// What a control would be set to.
    ///
    /// # Errors
    /// `EINVAL`: there is none. `EACCES`: it cannot be written. `ERANGE`.
    pub(crate) fn check(&self, id: u32, value: i32) -> Result<i32, Errno> {
        let index = self.index(id).ok_or(Errno::EINVAL)?;
        let spec = &self.specs[index];
        if self.flags(spec) & ctrl::READ_ONLY != 0 {
            return Err(Errno::EACCES);
        }
        spec.validate(value)
    }

    /// Sets what [`Controls::check`] has passed; everything that it changed.
    pub(crate) fn set(&mut self, id: u32, value: i32) -> Vec<Changed> {
        let Some(index) = self.index(id) else { return Vec::new() };
        let before: Vec<_> = self.specs.iter().map(|spec| self.flags(spec)).collect();
        let is_button = matches!(self.specs[index].kind, ControlKind::Button);
        let is_changed = self.values[index] != value || is_button;
        self.values[index] = value;
        let mut changed = Vec::new();
        for (at, spec) in self.specs.iter().enumerate() {
            let mut changes = 0;
            if at == index && is_changed {
                changes |= uapi::event::CHANGE_VALUE;
            }
            if self.flags(spec) != before[at] {
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
            value: self.values[index].into(),
            flags: self.flags(spec),
            minimum,
            maximum,
            step,
            default: spec.default,
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
            assert_eq!(spec.validate(spec.default), Ok(spec.default), "{}", spec.name);
        }
    }

    #[test]
    fn values_are_held_to_what_there_is() {
        let controls = Controls::new(WEBCAM);
        assert_eq!(controls.check(BRIGHTNESS, 1000), Ok(127));
        assert_eq!(controls.check(BRIGHTNESS, i32::MIN), Ok(-128));
        assert_eq!(controls.check(0x0098_091a, 2804), Ok(2800));
        assert_eq!(controls.check(0x0098_091a, 2806), Ok(2810));
        assert_eq!(controls.check(HFLIP, 7), Ok(1));
        assert_eq!(controls.check(EXPOSURE_AUTO, 4), Err(Errno::ERANGE));
        assert_eq!(controls.check(EXPOSURE_AUTO, 2), Err(Errno::EINVAL));
        assert_eq!(controls.check(0x0098_0001, 2), Err(Errno::EACCES));
        assert_eq!(controls.check(1, 2), Err(Errno::EINVAL));
    }

    #[test]
    fn a_master_changes_the_flags_of_its_dependents() {
        let mut controls = Controls::new(WEBCAM);
        let changed = controls.set(EXPOSURE_AUTO, 1);
        let ids: Vec<_> = changed.iter().map(|changed| (changed.id, changed.changes)).collect();
        assert_eq!(ids, [(EXPOSURE_AUTO, 1), (0x009a_0902, 2)]);
        assert!(controls.set(EXPOSURE_AUTO, 1).is_empty());
    }
}
