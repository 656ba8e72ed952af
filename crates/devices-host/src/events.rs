//! Events of one open file (`v4l2-event.c`): what it subscribed to, and what it has
//! not taken yet.

use crate::uapi::{self, Event, EventCtrl, EventSubscription, Time};

/// The events of one open file.
#[derive(Default)]
pub(crate) struct Events {
    subscriptions: Vec<EventSubscription>,
    /// At most one for each subscription: a newer one takes the place of an older.
    queue: Vec<Event>,
    sequence: u32,
}

impl Events {
    /// Adds a subscription, once; whether it is new.
    pub(crate) fn subscribe(&mut self, subscription: EventSubscription) -> bool {
        let is_new = !self.has(subscription.kind, subscription.id);
        if is_new {
            self.subscriptions.push(subscription);
        }
        is_new
    }

    fn has(&self, kind: u32, id: u32) -> bool {
        self.subscriptions.iter().any(|other| (other.kind, other.id) == (kind, id))
    }

    /// Removes a subscription, or all, with what is queued for it.
    pub(crate) fn unsubscribe(&mut self, kind: u32, id: u32) {
        let is_it = |a, b| kind == uapi::event::ALL || (a, b) == (kind, id);
        self.subscriptions.retain(|other| !is_it(other.kind, other.id));
        self.queue.retain(|event| !is_it(event.kind, event.id));
    }

    /// Queues a change of a control, if subscribed. `own`: this file made it.
    pub(crate) fn queue_control(&mut self, id: u32, mut ctrl: EventCtrl, own: bool) {
        let kind = uapi::event::CTRL;
        let Some(subscription) =
            self.subscriptions.iter().find(|other| (other.kind, other.id) == (kind, id))
        else {
            return;
        };
        if own && subscription.flags & uapi::event::SUB_ALLOW_FEEDBACK == 0 {
            return;
        }
        if let Some(at) = self.queue.iter().position(|event| (event.kind, event.id) == (kind, id)) {
            ctrl.changes |= self.queue.remove(at).ctrl.changes;
        }
        let event = Event {
            kind,
            pad: 0,
            ctrl,
            pending: 0,
            sequence: self.sequence,
            timestamp: Time::now(),
            id,
            reserved: [0; 8],
            pad2: 0,
        };
        self.sequence = self.sequence.wrapping_add(1);
        self.queue.push(event);
    }

    /// Whether there is an event to take.
    pub(crate) fn is_pending(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Takes the oldest event (`VIDIOC_DQEVENT`).
    pub(crate) fn take(&mut self) -> Option<Event> {
        if self.queue.is_empty() {
            return None;
        }
        let mut event = self.queue.remove(0);
        event.pending = self.queue.len() as u32;
        Some(event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controls::{BRIGHTNESS, Controls, WEBCAM};

    #[test]
    fn a_newer_change_replaces_an_older_and_keeps_what_changed() {
        let controls = Controls::new(WEBCAM);
        let mut events = Events::default();
        let subscription = EventSubscription {
            kind: uapi::event::CTRL,
            id: BRIGHTNESS,
            flags: 0,
            reserved: [0; 5],
        };
        assert!(events.subscribe(subscription));
        assert!(!events.subscribe(subscription));
        events.queue_control(BRIGHTNESS, controls.event(BRIGHTNESS, 1).unwrap(), true);
        assert!(!events.is_pending());
        events.queue_control(BRIGHTNESS, controls.event(BRIGHTNESS, 1).unwrap(), false);
        events.queue_control(BRIGHTNESS, controls.event(BRIGHTNESS, 2).unwrap(), false);
        let event = events.take().unwrap();
        assert_eq!((event.ctrl.changes, event.sequence, event.pending), (3, 1, 0));
        assert!(events.take().is_none());
    }
}
