//! What reads foreign bytes, for the fuzz targets. Nothing here touches the
//! kernel or a file. Not part of the interface.

use ipam::gojson::Object;

use crate::protocol::{Args, ValidAttachments, Version};
use crate::result::CniResult;

/// Reads `text` as a result of each version and writes it in each. How many
/// could be written.
pub fn result(text: &str) -> usize {
    let Ok(object) = Object::parse(text) else { return 0 };
    let results = Version::ALL
        .into_iter()
        .filter_map(|version| CniResult::read(&object, version).ok());
    results
        .map(|result| {
            let texts = Version::ALL.map(|to| result.render(to));
            texts.iter().filter(|text| text.is_ok()).count()
        })
        .sum()
}

/// Reads `text` as CNI_ARGS.
#[must_use]
pub fn args(text: &str) -> bool {
    Args::parse(text).is_ok()
}

/// Reads `text` as a GC call's configuration: how many attachments it says
/// are valid.
#[must_use]
pub fn valid_attachments(text: &str) -> usize {
    let Ok(object) = Object::parse(text) else { return 0 };
    let Ok(valid) = ValidAttachments::read(&object) else { return 0 };
    valid
        .iter()
        .filter(|(id, ifname)| {
            valid.contains(id, ifname) && valid.has_container(id)
        })
        .count()
}
