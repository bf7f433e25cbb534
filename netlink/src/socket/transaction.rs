//! Several requests that the kernel carries out all or none of: nf_tables'
//! batches.

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, setsockopt, sockopt};

use super::answer::answer;
use super::{DROPPED, LATE, Socket};
use crate::error::Error;
use crate::request::Request;
use crate::wire::Messages;
use crate::wire::uapi::{NLM_F_ACK, NLMSG_ERROR};

/// A default send buffer less the kernel's own needs: larger datagrams are
/// refused (`EMSGSIZE`) unless there is more room.
const DEFAULT_ROOM: usize = 64 * 1024;

/// A batch ready to be sent: opening message, requests, and the closing
/// message, without which the kernel checks everything and then forgets it.
pub(crate) struct Transaction<'a> {
    pub(crate) begin: &'a Request,
    pub(crate) requests: &'a [Request],
    pub(crate) end: Option<&'a Request>,
}

// === impl Socket ===

impl Socket {
    /// Sends the batch in one datagram and waits for the verdict: the first
    /// refused request's error, or the opening message's when the whole was
    /// refused.
    pub(crate) fn transact(
        &mut self,
        batch: &Transaction<'_>,
    ) -> Result<(), Error> {
        let Some(last) = batch.requests.len().checked_sub(1) else {
            return Ok(());
        };
        let first = self.next_seqs(batch.requests.len().saturating_add(2));
        let size: usize =
            batch.requests.iter().map(|r| r.message().len() + 4).sum();
        let mut out = Vec::with_capacity(size + 64);
        let mut seq = first;
        batch.begin.append_to(&mut out, seq, 0);
        for (i, request) in batch.requests.iter().enumerate() {
            seq = seq.wrapping_add(1);
            // An acknowledged closing message needs Linux 6.10.
            let flags = if i == last { NLM_F_ACK } else { 0 };
            request.append_to(&mut out, seq, flags);
        }
        if let Some(end) = batch.end {
            end.append_to(&mut out, seq.wrapping_add(1), 0);
        }
        self.room_for(out.len());
        self.send(&out).map_err(|source| Error::Socket {
            object: batch.begin.object(),
            operation: "send",
            source,
        })?;
        self.verdict(batch, first)
    }

    /// The kernel reports the failure of the whole under the opening
    /// message's number and before all else, then in order what was refused,
    /// at last the last request's acknowledgement. That one comes also when
    /// others were refused and nothing was done.
    fn verdict(
        &mut self,
        batch: &Transaction<'_>,
        first: u32,
    ) -> Result<(), Error> {
        let mut refused = None;
        let mut lost = None;
        loop {
            // After a loss, what is still queued is all that will come.
            let flags = match lost {
                Some(_) => MsgFlags::MSG_DONTWAIT,
                None => MsgFlags::empty(),
            };
            match self.receive(flags) {
                Ok(()) => {}
                Err(Errno::ENOBUFS) => {
                    lost = Some(DROPPED);
                    continue;
                }
                Err(errno) => {
                    let reason = match (lost, errno) {
                        (Some(reason), _) => reason,
                        (None, Errno::EAGAIN) => LATE,
                        (None, _) => "the netlink socket failed",
                    };
                    let object = batch.begin.object();
                    // One refusal is enough to know that nothing was done.
                    return Err(
                        refused.unwrap_or(Error::Unknown { object, reason })
                    );
                }
            }
            for message in Messages::new(&self.buf) {
                let Ok(message) = message else {
                    lost = Some("a malformed answer");
                    break;
                };
                // Answers to batches given up before have other numbers.
                let at = message.seq.wrapping_sub(first);
                let Ok(at) = usize::try_from(at) else { continue };
                if message.kind != NLMSG_ERROR || at > batch.requests.len() {
                    continue;
                }
                let request = match at.checked_sub(1) {
                    None => batch.begin,
                    Some(i) => batch.requests.get(i).unwrap_or(batch.begin),
                };
                match answer(&message) {
                    Ok(Ok(())) => {}
                    Ok(Err((errno, kernel))) => {
                        let object = request.object();
                        let error = Error::Refused { object, errno, kernel };
                        if at == 0 {
                            return Err(error);
                        }
                        refused.get_or_insert(error);
                    }
                    Err(_) => lost = Some("a malformed answer"),
                }
                if at == batch.requests.len() && lost.is_none() {
                    return refused.map_or(Ok(()), Err);
                }
            }
        }
    }

    /// Makes room for a datagram in the send buffer. Without `CAP_NET_ADMIN`
    /// the system's limit holds; then the kernel refuses the batch anyway.
    fn room_for(&self, bytes: usize) {
        if bytes > DEFAULT_ROOM
            && setsockopt(&self.inner, sockopt::SndBufForce, &bytes).is_err()
        {
            let _ = setsockopt(&self.inner, sockopt::SndBuf, &bytes);
        }
    }
}
