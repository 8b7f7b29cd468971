//! Writes that have to wait for what admission webhooks say.

use std::sync::Arc;

use jiff::Timestamp;

use super::Call;
use crate::admission::{Requester, call};
use crate::status_error::StatusError;
use crate::store::{Context, Store};

/// How often the objects may change while webhooks are being asked about them.
const ROUNDS_MAX: usize = 8;

/// A part of a request that is used once, or again if webhooks have to be asked in between.
pub(super) struct Repeated<T> {
    value: Option<T>,
    kept: bool,
}

impl<T: Clone> Repeated<T> {
    /// Keeps the value for more than one use only if there are any webhooks.
    pub(super) fn new(call: &Call, value: T) -> Self {
        Self { value: Some(value), kept: call.state.read(|store| store.admission().has_webhooks()) }
    }

    fn next(&mut self) -> Option<T> {
        if self.kept { self.value.clone() } else { self.value.take() }
    }
}

/// Writes to the store, and asks webhooks as often as it takes.
pub(super) async fn write<B: Clone, T>(
    call: &Call,
    requester: Option<&Arc<Requester>>,
    mut body: Repeated<B>,
    write: impl Fn(&mut Store, &mut Context<'_>, B) -> Result<T, StatusError>,
) -> Result<T, StatusError> {
    let (Some(requester), true) = (requester, body.kept) else {
        let body = body.next().ok_or_else(used_up)?;
        return call.state.write(|store, context| write(store, context, body));
    };
    // Each round has to make the same object, or no answer would ever be about it.
    let (now, seed) = (Timestamp::now(), [call.state.draw(), call.state.draw()]);
    for _ in 0..ROUNDS_MAX {
        let given = body.next().ok_or_else(used_up)?;
        let mut drawn = 0;
        let mut rng = || {
            drawn += 1;
            mixed(seed, drawn)
        };
        let outcome = call.state.write_at(now, &mut rng, |store, context| write(store, context, given));
        let Some(pending) = requester.take_pending() else { return outcome };
        call::settle(&call.state, requester, &pending).await?;
    }
    let why = "the object changed each time that its admission webhooks were asked, please try again";
    Err(StatusError::new(409, "Conflict", why))
}

fn used_up() -> StatusError {
    StatusError::internal("a request's body is used up")
}

/// The n-th number of a seed.
fn mixed(seed: [u64; 2], n: u64) -> u64 {
    let [first, second] = seed;
    let mut value = first.wrapping_add(n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (value ^ (value >> 31)) ^ second.rotate_left(u32::try_from(n % 64).unwrap_or(0))
}
