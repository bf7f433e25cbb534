//! The last things that happened, in memory, for a person who looks: `/events`
//! on the health port. Bounded in number and size; gone with the process.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

/// Events kept.
const KEPT: usize = 256;
/// Bytes of text kept of each.
const LONGEST: usize = 400;

/// The ring. Clones share one.
#[derive(Clone, Debug, Default)]
pub struct Recent(Arc<Mutex<VecDeque<Event>>>);

/// Something that happened.
#[derive(Debug, Serialize)]
struct Event {
    /// When, in milliseconds since 1970.
    at_ms: u64,
    /// Of what sort: `phase`, `repair`, `lease`, `underlay`, `pass`, `config`.
    kind: &'static str,
    /// In words.
    text: String,
}

// === impl Recent ===

impl Recent {
    /// Keeps an event of `kind` at `now`; the oldest makes room for it.
    pub fn add(&self, now: SystemTime, kind: &'static str, text: &str) {
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let event = Event {
            at_ms: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
            kind,
            text: shortened(text),
        };
        let mut events = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if events.len() >= KEPT {
            events.pop_front();
        }
        events.push_back(event);
    }

    /// All of them as JSON, one object a line, the oldest first.
    #[must_use]
    pub fn render(&self) -> String {
        let events = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut out = String::new();
        for line in events.iter().filter_map(|e| serde_json::to_string(e).ok())
        {
            // Writing to a String cannot fail.
            let _ = writeln!(out, "{line}");
        }
        out
    }
}

/// At most [`LONGEST`] bytes of `text`, cut between characters.
fn shortened(text: &str) -> String {
    let Some(end) =
        (LONGEST < text.len()).then(|| text.floor_char_boundary(LONGEST))
    else {
        return text.to_owned();
    };
    format!("{}…", text.get(..end).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_oldest_make_room() {
        let recent = Recent::default();
        for n in 0..=KEPT {
            let at = UNIX_EPOCH + Duration::from_millis(n as u64);
            recent.add(at, "repair", &format!("number {n}\n\"quoted\""));
        }
        let text = recent.render();
        assert_eq!(text.lines().count(), KEPT);
        assert_eq!(
            text.lines().next(),
            Some(
                r#"{"at_ms":1,"kind":"repair","text":"number 1\n\"quoted\""}"#
            )
        );
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        let recent = Recent::default();
        recent.add(UNIX_EPOCH, "pass", &"ä".repeat(10_000));
        let text = recent.render();
        assert!(text.len() < LONGEST + 60, "{}", text.len());
        assert!(text.contains("ä…"));
    }
}
