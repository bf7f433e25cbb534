//! The kernel's verdict on a request.

use nix::errno::Errno;

use crate::wire::uapi::{NLM_F_ACK_TLVS, NLM_F_CAPPED, NLMSGERR_ATTR_MSG};
use crate::wire::{
    Attrs, HEADER, Malformed, RawMessage, i32_at, string, u32_at,
};

/// The kernel's verdict on one request.
pub(super) type Answer = Result<(), (Errno, Option<String>)>;

/// Reads an `NLMSG_ERROR`: a negative errno or 0, the request's header, and
/// attributes with the reason.
pub(super) fn answer(message: &RawMessage<'_>) -> Result<Answer, Malformed> {
    const WHAT: Malformed = Malformed("error message");
    let code = i32_at(message.payload, 0).ok_or(WHAT)?;
    if code == 0 {
        return Ok(Ok(()));
    }
    let errno = Errno::from_raw(code.saturating_neg());
    let request = if message.flags & NLM_F_CAPPED != 0 {
        HEADER
    } else {
        let len = u32_at(message.payload, 4).ok_or(WHAT)?;
        usize::try_from(len).map_err(|_| WHAT)?
    };
    Ok(Err((errno, text_after(message, 4usize.saturating_add(request)))))
}

/// The kernel's explanation in the attributes from `offset` on.
pub(super) fn text_after(
    message: &RawMessage<'_>,
    offset: usize,
) -> Option<String> {
    if message.flags & NLM_F_ACK_TLVS == 0 {
        return None;
    }
    Attrs::after(message.payload, offset)
        .ok()?
        .filter_map(Result::ok)
        .find(|(kind, _)| *kind == NLMSGERR_ATTR_MSG)
        .map(|(_, text)| string(text))
}
