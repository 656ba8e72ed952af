//! The ioctls of controls and events: the copying of their structures, with the
//! pointers in them, and the rules of `v4l2-ctrls-api.c`.

use devmap_driver::{Errno, Platform, UserSlice, WaitQueue};
use zerocopy::IntoBytes;

use crate::{
    capture::State,
    controls::{Changed, MenuItem, Value},
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
    let name = match context.state(|state| state.controls.menu_item(asked.id, asked.index))? {
        MenuItem::Name(name) => uapi::text(name),
        MenuItem::Number(number) => {
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&number.to_ne_bytes());
            bytes
        }
    };
    store(context.call, &QueryMenu { name, reserved: 0, ..asked })
}

pub(crate) fn get<P: Platform>(context: &Context<'_, P>) -> Result<u32, Errno> {
    let asked: Control = fetch(context.call)?;
    let value = context.try_state(|state| {
        state.controls.check_word(asked.id)?;
        state.controls.get(asked.id).map(word)
    })?;
    store(context.call, &Control { value, ..asked })
}

pub(crate) fn set<P: Platform>(context: &Context<'_, P>) -> Result<u32, Errno> {
    let asked: Control = fetch(context.call)?;
    let value = context.try_state(|state| {
        state.controls.check_word(asked.id)?;
        state.controls.check_writable(asked.id, true)?;
        let value = state.controls.check(asked.id, Value::Number(asked.value.into()))?;
        let answer = word(&value);
        let changed = state.controls.set(asked.id, value);
        announce(state, context.file, &changed);
        Ok(answer)
    })?;
    context.shared.changed.wake_all();
    store(context.call, &Control { value, ..asked })
}

/// A value as the plain calls know it.
fn word(value: &Value) -> i32 {
    match value {
        Value::Number(value) => *value as i32,
        Value::Text(_) => 0,
    }
}

/// Tells everybody who subscribed to these controls, but the file `by` that changed them;
/// 0: none did.
pub(crate) fn announce<P: Platform>(state: &mut State<P>, by: u64, changed: &[Changed]) {
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
    /// Texts that the program shall get, and for which of the controls.
    texts: Vec<(usize, Vec<u8>)>,
}

/// The two halves of a value of 64 bits.
fn halves(value: i64) -> (i32, i32) {
    (value as i32, (value >> 32) as i32)
}

/// What stands in a control, of 64 bits: a value, or where a text is.
fn whole(control: &ExtControl) -> i64 {
    i64::from(control.upper) << 32 | i64::from(control.value.cast_unsigned())
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
        Ok(List { header, controls, user, texts: Vec::new() })
    }

    /// Copies out what there is, also when the call fails: so the program learns which
    /// control it was (`INFO_FL_ALWAYS_COPY`).
    fn store<P: Platform>(
        &self,
        context: &Context<'_, P>,
        result: Result<(), Errno>,
    ) -> Result<u32, Errno> {
        let texts = self.store_texts(context);
        if !self.controls.is_empty() {
            self.user.copy_out(self.controls.as_bytes())?;
        }
        let result = result.and(texts);
        store(context.call, &self.header)?;
        result.map(|()| 0)
    }

    /// Copies out texts (`ptr_to_user`).
    fn store_texts<P: Platform>(&self, context: &Context<'_, P>) -> Result<(), Errno> {
        self.texts.iter().try_for_each(|(index, text)| {
            let address = whole(&self.controls[*index]).cast_unsigned();
            context.call.at(address, text.len() + 1)?.copy_out(&[text, &b"\0"[..]].concat())
        })
    }

    /// A text of the program's (`user_to_new`); `limit`: its bytes at most.
    fn fetch_text<P: Platform>(
        context: &Context<'_, P>,
        control: &ExtControl,
        limit: u32,
    ) -> Result<Vec<u8>, Errno> {
        if control.size == 0 {
            return Err(Errno::ERANGE);
        }
        let size = control.size.min(limit + 1) as usize;
        let mut text = vec![0; size];
        context.call.at(whole(control).cast_unsigned(), size)?.copy_in(&mut text)?;
        let last = text.pop();
        text.truncate(text.iter().position(|byte| *byte == 0).unwrap_or(text.len()));
        let is_cut = text.len() == limit as usize && last != Some(0);
        if is_cut { Err(Errno::ERANGE) } else { Ok(text) }
    }

    /// Puts a value into a control. A text goes to where the control points, which the
    /// caller of this does later.
    ///
    /// # Errors
    /// `ENOSPC`: there is no room for it; the control says how much it needs.
    fn put(&mut self, index: usize, value: &Value, size: u32) -> Result<(), Errno> {
        const ENOSPC: i32 = 28;
        let control = &mut self.controls[index];
        match value {
            Value::Number(number) if size == 8 => {
                (control.value, control.upper) = halves(*number);
            }
            Value::Number(number) => control.value = *number as i32,
            Value::Text(text) if (control.size as usize) < text.len() + 1 => {
                control.size = size;
                return Err(Errno::from_raw(ENOSPC).unwrap_or(Errno::EINVAL));
            }
            Value::Text(text) => self.texts.push((index, text.clone())),
        }
        Ok(())
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
        for control in &list.controls {
            state.controls.get(control.id)?;
        }
        for index in 0..list.controls.len() {
            let id = list.controls[index].id;
            let default = is_default.then(|| state.controls.default(id)).flatten();
            let value = match default {
                Some(default) => default,
                None => state.controls.get(id)?.clone(),
            };
            list.header.error_idx = index as u32;
            list.put(index, &value, state.controls.size(id))?;
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
    let specs = context.shared.about.controls;
    // Not with the state locked: the program's memory may be slow to come.
    let texts: Vec<Option<Result<Vec<u8>, Errno>>> = list
        .controls
        .iter()
        .map(|control| {
            let spec = specs.iter().find(|spec| spec.id == control.id & ctrl::ID_MASK)?;
            Some(List::fetch_text(context, control, spec.text_limit()?))
        })
        .collect();
    let is_set = write == Write::Set;
    let result = context.state(|state| {
        if [ctrl::WHICH_DEFAULT, ctrl::WHICH_REQUEST].contains(&list.header.which) {
            return Err(Errno::EINVAL);
        }
        let mut values = Vec::new();
        let checked = list.check(state).and_then(|()| {
            for (index, control) in (0..).zip(&list.controls) {
                list.header.error_idx = index;
                state.controls.check_writable(control.id, is_set)?;
                let number = match state.controls.size(control.id) {
                    8 => whole(control),
                    _ => control.value.into(),
                };
                let number = Value::Number(number);
                values.push(match texts[index as usize] {
                    Some(_) => number,
                    None => state.controls.check(control.id, number)?,
                });
            }
            Ok(())
        });
        if is_set || checked.is_ok() {
            // A set that fails has touched nothing, and says so.
            list.header.error_idx = list.header.count;
        }
        checked?;
        // Texts come after all else.
        for (index, text) in texts.into_iter().enumerate() {
            let Some(text) = text else { continue };
            let id = list.controls[index].id;
            match text.and_then(|text| state.controls.check(id, Value::Text(text))) {
                Ok(text) => values[index] = text,
                Err(errno) => {
                    list.header.error_idx = index as u32;
                    return Err(errno);
                }
            }
        }
        for (index, value) in values.into_iter().enumerate() {
            let id = list.controls[index].id;
            list.put(index, &value, state.controls.size(id))?;
            if is_set {
                let changed = state.controls.set(id, value);
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
    /// `V4L2_CTRL_TYPE_CTRL_CLASS`.
    const CLASS: u32 = 6;
    let asked: EventSubscription = fetch(context.call)?;
    if asked.kind != event::CTRL {
        return Err(Errno::EINVAL);
    }
    context.try_state(|state| {
        // The bits above the number ask for no other control here, as they do in a query.
        let id = asked.id & ctrl::ID_MASK;
        let about = state.controls.query_ext(id)?;
        let mut changes = event::CHANGE_FLAGS;
        if about.flags & ctrl::WRITE_ONLY == 0 {
            changes |= event::CHANGE_VALUE;
        }
        let is_class = about.kind == CLASS;
        let initial = state.controls.event(id, changes);
        let file = state.file(context.file).ok_or(Errno::EINVAL)?;
        let is_new = file.events.subscribe(asked);
        if is_new && !is_class && asked.flags & event::SUB_SEND_INITIAL != 0 {
            initial.into_iter().for_each(|ctrl| file.events.queue_control(id, ctrl, false));
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
            if state.is_gone() {
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
