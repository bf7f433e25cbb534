//! What a dump returns, and putting one together from datagrams.

use nix::errno::Errno;

use super::answer::{answer, text_after};
use crate::error::Error;
use crate::wire::uapi::{NLM_F_DUMP_INTR, NLMSG_DONE, NLMSG_ERROR};
use crate::wire::{Malformed, Messages, RawMessage, i32_at};

/// Reads one message of a dump. `None`: not one of those asked for.
pub(crate) type Decode<T> = fn(&RawMessage<'_>) -> Result<Option<T>, Malformed>;

/// What a dump returned. The kernel's list was read to its end without
/// interruption, but messages may have been among it that this program could
/// not read: nothing may be deleted because it is missing from `items` unless
/// [`Dump::complete`] agrees.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Dump<T> {
    /// The objects, in the kernel's order.
    pub items: Vec<T>,
    /// How many messages could not be read.
    pub undecodable: usize,
    /// What was dumped.
    object: String,
    /// What was wrong with the first unreadable message.
    reason: Option<Malformed>,
}

/// How one attempt at a dump ended.
pub(super) enum Attempt<T> {
    Complete(Dump<T>),
    Interrupted,
}

/// Puts one dump together from datagrams.
pub(super) struct DumpReader<'a, T> {
    seq: u32,
    decode: Decode<T>,
    object: &'a str,
    dump: Dump<T>,
    interrupted: bool,
}

// === impl Dump ===

impl<T> Dump<T> {
    pub(crate) fn empty(object: &str) -> Self {
        Self {
            items: Vec::new(),
            undecodable: 0,
            object: object.to_owned(),
            reason: None,
        }
    }

    /// The objects, if every message could be read.
    ///
    /// # Errors
    /// [`Error::Undecodable`] otherwise.
    pub fn complete(self) -> Result<Vec<T>, Error> {
        match self.reason {
            None => Ok(self.items),
            Some(reason) => Err(Error::Undecodable {
                object: self.object,
                count: self.undecodable,
                reason: reason.to_string(),
            }),
        }
    }

    /// Reads one datagram as a dump's answer, and says how many objects there
    /// were: for the fuzz targets.
    pub(crate) fn read(datagram: &[u8], decode: Decode<T>) -> usize {
        let seq = Messages::new(datagram).flatten().next().map(|m| m.seq);
        let mut reader = DumpReader::new("fuzz", seq.unwrap_or(0), decode);
        match reader.datagram(datagram) {
            Ok(Some(Attempt::Complete(dump))) => dump.items.len(),
            Ok(None | Some(Attempt::Interrupted)) => reader.dump.items.len(),
            Err(_) => 0,
        }
    }

    /// The objects for which `keep` holds. A kernel that is too old to filter
    /// a dump itself sends everything.
    pub(crate) fn filtered(mut self, keep: impl FnMut(&T) -> bool) -> Self {
        self.items.retain(keep);
        self
    }
}

// === impl DumpReader ===

impl<'a, T> DumpReader<'a, T> {
    pub(super) fn new(object: &'a str, seq: u32, decode: Decode<T>) -> Self {
        let dump = Dump::empty(object);
        Self { seq, decode, object, dump, interrupted: false }
    }

    /// Takes one datagram in; `Some` at the dump's end.
    pub(super) fn datagram(
        &mut self,
        buf: &[u8],
    ) -> Result<Option<Attempt<T>>, Error> {
        for message in Messages::new(buf) {
            let message = match message {
                Ok(message) if message.seq == self.seq => message,
                Ok(_) => continue,
                Err(e) => {
                    self.undecodable(e);
                    continue;
                }
            };
            self.interrupted |= message.flags & NLM_F_DUMP_INTR != 0;
            match message.kind {
                NLMSG_ERROR => {
                    let (errno, kernel) = match answer(&message) {
                        Ok(Err(refusal)) => refusal,
                        Ok(Ok(())) => continue,
                        Err(e) => {
                            self.undecodable(e);
                            continue;
                        }
                    };
                    return Err(self.refused(errno, kernel));
                }
                NLMSG_DONE => {
                    let code = i32_at(message.payload, 0).unwrap_or(0);
                    if code < 0 {
                        let errno = Errno::from_raw(code.saturating_neg());
                        let text = text_after(&message, 4);
                        return Err(self.refused(errno, text));
                    }
                    return Ok(Some(self.finish()));
                }
                _ => match (self.decode)(&message) {
                    Ok(item) => self.dump.items.extend(item),
                    Err(e) => self.undecodable(e),
                },
            }
        }
        Ok(None)
    }

    fn undecodable(&mut self, reason: Malformed) {
        self.dump.undecodable += 1;
        self.dump.reason.get_or_insert(reason);
    }

    fn refused(&self, errno: Errno, kernel: Option<String>) -> Error {
        Error::Refused { object: self.object.to_owned(), errno, kernel }
    }

    fn finish(&mut self) -> Attempt<T> {
        if self.interrupted {
            return Attempt::Interrupted;
        }
        let empty = Dump::empty(self.object);
        Attempt::Complete(std::mem::replace(&mut self.dump, empty))
    }
}

#[cfg(test)]
mod tests;
