//! The ioctls of controls and events: the copying of their structures, with the
//! pointers in them, and the rules of `v4l2-ctrls-api.c`.

use devmap_driver::{Errno, Platform, UserSlice, WaitQueue};
use zerocopy::IntoBytes;

use crate::{
    capture::State,
    controls::Changed,
    ioctl::{Context, fetch, store},
    uapi::{
        self, Control, EventSubscription, ExtControl, ExtControls, QueryCtrl, QueryExtCtrl,
        QueryMenu, ctrl, event,
    },
};

/// `VIDIOC_TRY_EXT_CTRLS` or `VIDIOC_S_EXT_CTRLS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Write {
    /// Only asks.
    Try,
    /// Sets.
    Set,
}

pub(crate) fn query<P: Platform>(context: &Context<'_, P>) -> Result<u32, Errno> {
    let asked: QueryCtrl = fetch(context.call)?;
    store(context.call, &context.state(|state| state.controls.query(asked.id))?)
}

pub(crate) fn query_ext<P: Platform>(context: &Context<'_, P>) -> Result<u32, Errno> {
    let asked: QueryExtCtrl = fetch(context.call)?;
    store(context.call, &context.state(|state| state.controls.query_ext(asked.id))?)
}

pub(crate) fn query_menu<P: Platform>(context: &Context<'_, P>) -> Result<u32, Errno> {
    let asked: QueryMenu = fetch(context.call)?;
    let name = context.state(|state| state.controls.menu_item(asked.id, asked.index))?;
    store(context.call, &QueryMenu { name: uapi::text(name), reserved: 0, ..asked })
}

pub(crate) fn get<P: Platform>(context: &Context<'_, P>) -> Result<u32, Errno> {
    let asked: Control = fetch(context.call)?;
    let value = context.state(|state| state.controls.get(asked.id))?;
    store(context.call, &Control { value, ..asked })
}

pub(crate) fn set<P: Platform>(context: &Context<'_, P>) -> Result<u32, Errno> {
    let asked: Control = fetch(context.call)?;
    let value = context.try_state(|state| {
        let value = state.controls.check(asked.id, asked.value)?;
        let changed = state.controls.set(asked.id, value);
        announce(state, context.file, &changed);
        Ok(value)
    })?;
    context.shared.changed.wake_all();
    store(context.call, &Control { value, ..asked })
}

/// Tells everybody who subscribed to these controls.
fn announce<P: Platform>(state: &mut State<P>, by: u64, changed: &[Changed]) {
    for Changed { id, changes } in changed {
        let Some(ctrl) = state.controls.event(*id, *changes) else { continue };
        for file in &mut state.files {
            file.events.queue_control(*id, ctrl, file.id == by);
        }
    }
}

/// The array that a call of extended controls points to.
struct List<'a> {
    header: ExtControls,
    controls: Vec<ExtControl>,
    user: UserSlice<'a>,
}

impl<'a> List<'a> {
    fn fetch<P: Platform>(context: &Context<'a, P>) -> Result<List<'a>, Errno> {
        let mut header: ExtControls = fetch(context.call)?;
        if header.count > ctrl::MAX_COUNT {
            return Err(Errno::EINVAL);
        }
        let size = header.count as usize * size_of::<ExtControl>();
        let user = context.call.at(header.controls, size)?;
        let empty = ExtControl { id: 0, size: 0, reserved: 0, value: 0, upper: 0 };
        let mut controls = vec![empty; header.count as usize];
        if !controls.is_empty() {
            user.copy_in(controls.as_mut_bytes())?;
        }
        header.error_idx = header.count;
        Ok(List { header, controls, user })
    }

    /// Copies out what there is, also when the call fails: so the program learns which
    /// control it was (`INFO_FL_ALWAYS_COPY`).
    fn store<P: Platform>(
        &self,
        context: &Context<'_, P>,
        result: Result<(), Errno>,
    ) -> Result<u32, Errno> {
        if !self.controls.is_empty() {
            self.user.copy_out(self.controls.as_bytes())?;
        }
        store(context.call, &self.header)?;
        result.map(|()| 0)
    }

    /// Whether all controls are there, and in the class asked for
    /// (`prepare_ext_ctrls`).
    fn check<P: Platform>(&mut self, state: &State<P>) -> Result<(), Errno> {
        let which = self.header.which;
        let class = if which == ctrl::WHICH_DEFAULT { 0 } else { which };
        if self.controls.is_empty() {
            let is_class = class == 0 || state.controls.has_class(class);
            return if is_class { Ok(()) } else { Err(Errno::EINVAL) };
        }
        for (index, control) in (0..).zip(&self.controls) {
            self.header.error_idx = index;
            if !state.controls.is_in(control.id, class) {
                return Err(Errno::EINVAL);
            }
        }
        self.header.error_idx = self.header.count;
        Ok(())
    }

    /// Nothing failed: the index is where the kernel's loop over the controls ended.
    fn succeed(&mut self) {
        self.header.error_idx = self.header.count.saturating_sub(1);
    }
}

pub(crate) fn get_ext<P: Platform>(context: &Context<'_, P>) -> Result<u32, Errno> {
    let mut list = List::fetch(context)?;
    let result = context.state(|state| {
        if list.header.which == ctrl::WHICH_REQUEST {
            return Err(Errno::EINVAL);
        }
        let checked = list.check(state);
        // The kernel tells no index when reading.
        list.header.error_idx = list.header.count;
        checked?;
        let is_default = list.header.which == ctrl::WHICH_DEFAULT;
        let controls =
            list.controls.iter().try_for_each(|control| state.controls.get(control.id).map(drop));
        controls?;
        for control in &mut list.controls {
            let default = is_default.then(|| state.controls.default(control.id)).flatten();
            control.value = match default {
                Some(default) => default,
                None => state.controls.get(control.id)?,
            };
        }
        list.succeed();
        Ok(())
    });
    list.store(context, result)
}

pub(crate) fn try_or_set_ext<P: Platform>(
    context: &Context<'_, P>,
    write: Write,
) -> Result<u32, Errno> {
    let mut list = List::fetch(context)?;
    let result = context.state(|state| {
        if [ctrl::WHICH_DEFAULT, ctrl::WHICH_REQUEST].contains(&list.header.which) {
            return Err(Errno::EINVAL);
        }
        let checked = list.check(state).and_then(|()| {
            for (index, control) in (0..).zip(&mut list.controls) {
                list.header.error_idx = index;
                control.value = state.controls.check(control.id, control.value)?;
            }
            Ok(())
        });
        if write == Write::Set {
            // A set that fails has touched nothing, and says so.
            list.header.error_idx = list.header.count;
        }
        checked?;
        if write == Write::Set {
            for control in &list.controls {
                let changed = state.controls.set(control.id, control.value);
                announce(state, context.file, &changed);
            }
        }
        list.succeed();
        Ok(())
    });
    context.shared.changed.wake_all();
    list.store(context, result)
}

pub(crate) fn subscribe<P: Platform>(context: &Context<'_, P>) -> Result<u32, Errno> {
    let asked: EventSubscription = fetch(context.call)?;
    if asked.kind != event::CTRL {
        return Err(Errno::EINVAL);
    }
    context.try_state(|state| {
        let about = state.controls.query_ext(asked.id)?;
        let mut changes = event::CHANGE_FLAGS;
        if about.flags & ctrl::WRITE_ONLY == 0 {
            changes |= event::CHANGE_VALUE;
        }
        let is_class = about.flags & ctrl::READ_ONLY != 0;
        let initial = state.controls.event(asked.id, changes);
        let file = state.file(context.file).ok_or(Errno::EINVAL)?;
        let is_new = file.events.subscribe(asked);
        if is_new && !is_class && asked.flags & event::SUB_SEND_INITIAL != 0 {
            initial.into_iter().for_each(|ctrl| file.events.queue_control(asked.id, ctrl, false));
        }
        Ok(())
    })?;
    context.shared.changed.wake_all();
    Ok(0)
}

pub(crate) fn unsubscribe<P: Platform>(context: &Context<'_, P>) -> Result<u32, Errno> {
    let asked: EventSubscription = fetch(context.call)?;
    context.state(|state| {
        if let Some(file) = state.file(context.file) {
            file.events.unsubscribe(asked.kind, asked.id);
        }
    });
    Ok(0)
}

pub(crate) fn take_event<P: Platform>(context: &Context<'_, P>) -> Result<u32, Errno> {
    let attempt = || {
        context.state(|state| {
            if state.is_gone {
                return Some(Err(Errno::ENODEV));
            }
            state.file(context.file)?.events.take().map(Ok)
        })
    };
    let taken = if context.call.flags().nonblocking {
        attempt().ok_or(Errno::ENOENT)?
    } else {
        context.shared.changed.wait(attempt)?
    }?;
    store(context.call, &taken)
}
