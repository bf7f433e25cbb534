//! Changes of nf_tables that follow from what is there. Others may make theirs
//! in between: then it is looked at again.

use netlink::nft::{Batch, NftSocket};

use crate::protocol::CniError;

/// How often it is looked at.
const ATTEMPTS: u32 = 5;

/// Commits what `fill` puts into a batch, once it has looked.
///
/// # Errors
/// Those of `fill`, and what the kernel refuses: code 999, or 11.
pub(crate) fn change(
    fill: impl Fn(&mut NftSocket, &mut Batch) -> Result<(), CniError>,
) -> Result<(), CniError> {
    change_by(&mut NftSocket::open()?, fill)
}

/// The same over a socket that is open already. After a removal, closing it
/// waits until no packet can be in what is gone, some milliseconds: what else
/// there is to do is best done before.
///
/// # Errors
/// As [`change`].
pub(crate) fn change_by(
    socket: &mut NftSocket,
    fill: impl Fn(&mut NftSocket, &mut Batch) -> Result<(), CniError>,
) -> Result<(), CniError> {
    let mut attempt = 1;
    loop {
        let mut batch = Batch::new();
        fill(socket, &mut batch)?;
        match socket.commit(&batch) {
            Ok(()) => return Ok(()),
            Err(e)
                if attempt < ATTEMPTS
                    && (e.is_outdated() || e.is_not_found()) =>
            {
                attempt += 1;
            }
            Err(e) => return Err(e.into()),
        }
    }
}
