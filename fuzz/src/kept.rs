use std::path::Path;

use flanneld::files::{PeersFile, Saved};
use ipam::daemon_state::DaemonState;

use crate::text;

/// `state.json`, which the daemon writes and others read.
pub fn state_json(data: &[u8]) {
    let text = text(data);
    let Ok(state) = DaemonState::parse(&text) else { return };
    assert!(!state.phase.to_string().is_empty());
    let written = state.render().expect("text to text");
    assert_eq!(written.lines().count(), 1);
    let again = DaemonState::parse(&written).expect("our own");
    assert_eq!(again, state);
    let place = DaemonState::beside(Path::new(&state.subnet_file));
    assert_ne!(place, Path::new(&state.subnet_file));
}

/// The files in the state directory: the daemon's own memory, and the peers'.
pub fn state_dir(data: &[u8]) {
    match Saved::parse(data) {
        Ok(saved) => {
            let written = saved.render().expect("text to text");
            assert_eq!(Saved::parse(&written), Ok(saved));
        }
        Err(reason) => assert!(!reason.is_empty()),
    }
    match PeersFile::parse(data) {
        Ok(peers) => {
            let written = PeersFile::render(&peers);
            let again = PeersFile::parse(&written).expect("our own");
            assert!(again.keys().eq(peers.keys()));
            // what could not be kept the first time is not lost later
            assert_eq!(PeersFile::render(&again), written);
        }
        Err(reason) => assert!(!reason.is_empty()),
    }
}
