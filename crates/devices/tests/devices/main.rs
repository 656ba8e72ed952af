//! What each device answers, in a home made of ordinary memory and threads.

mod events;
mod mapped;
mod mock;
mod options;
