//! SETTINGS (RFC 9113, 6.5): what we announce, and what the peer did.

use super::frame::{self, LARGEST};
use super::window::WINDOW_BYTES_DEFAULT;
use super::{ConnectionError, Limits, Role, hpack};

const HEADER_TABLE_SIZE: u16 = 1;
const ENABLE_PUSH: u16 = 2;
const MAX_CONCURRENT_STREAMS: u16 = 3;
const INITIAL_WINDOW_SIZE: u16 = 4;
const MAX_FRAME_SIZE: u16 = 5;
const MAX_HEADER_LIST_SIZE: u16 = 6;
const ENABLE_CONNECT_PROTOCOL: u16 = 8; // RFC 8441, 3

/// What a frame may carry as long as nobody said otherwise; also the least that can be said.
pub(super) const FRAME_BYTES_DEFAULT: usize = 16_384;

/// Streams that a client opens before it has seen the server's SETTINGS: what RFC 9113, 6.5.2 recommends as the least to allow.
const STREAMS_BEFORE_SETTINGS_MAX: u32 = 100;

/// Appends our SETTINGS. What is the protocol's default is not said.
pub(super) fn announce(role: Role, limits: &Limits, out: &mut Vec<u8>) {
    let mut settings = [(0, 0); 6];
    let mut count = 0;
    let mut say = |name: u16, value: usize| {
        settings[count] = (name, u32::try_from(value).unwrap_or(u32::MAX));
        count += 1;
    };
    match role {
        Role::Client => say(ENABLE_PUSH, 0),
        Role::Server => {
            say(MAX_CONCURRENT_STREAMS, limits.streams_max);
            say(ENABLE_CONNECT_PROTOCOL, 1);
        }
    }
    say(MAX_HEADER_LIST_SIZE, limits.header_list_bytes_max);
    if limits.header_table_bytes_max != hpack::TABLE_BYTES_DEFAULT {
        say(HEADER_TABLE_SIZE, limits.header_table_bytes_max);
    }
    if limits.frame_bytes_max != FRAME_BYTES_DEFAULT {
        say(MAX_FRAME_SIZE, limits.frame_bytes_max);
    }
    frame::put_settings(&settings[..count], out);
}

/// What the peer announced. Its MAX_HEADER_LIST_SIZE is advice (6.5.2) and not kept: what it will not take it refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PeerSettings {
    /// Streams that we may have open.
    pub(super) streams_max: u32,
    /// A stream's first send window.
    pub(super) window_bytes: u32,
    pub(super) frame_bytes_max: u32,
    pub(super) connect_protocol: ConnectProtocol,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ConnectProtocol {
    Unsaid,
    Taken,
}

impl Default for PeerSettings {
    fn default() -> Self {
        Self {
            streams_max: STREAMS_BEFORE_SETTINGS_MAX,
            window_bytes: WINDOW_BYTES_DEFAULT,
            frame_bytes_max: FRAME_BYTES_DEFAULT as u32,
            connect_protocol: ConnectProtocol::Unsaid,
        }
    }
}

impl PeerSettings {
    /// These settings, changed as a SETTINGS frame says.
    pub(super) fn changed(mut self, payload: &[u8], ours: Role) -> Result<Self, ConnectionError> {
        let (settings, []) = payload.as_chunks::<6>() else { return Err(ConnectionError::FrameSize) };
        for &[n, o, a, b, c, d] in settings {
            self.change(u16::from_be_bytes([n, o]), u32::from_be_bytes([a, b, c, d]), ours)?;
        }
        Ok(self)
    }

    /// The server has spoken: what it did not bound is unbounded.
    pub(super) fn unbounded_streams(self) -> Self {
        Self { streams_max: u32::MAX, ..self }
    }

    fn change(&mut self, name: u16, value: u32, ours: Role) -> Result<(), ConnectionError> {
        const INVALID: Result<(), ConnectionError> = Err(ConnectionError::InvalidSetting);
        match name {
            HEADER_TABLE_SIZE => {} // see `header_table_sizes`
            // No server allows pushes to itself (6.5.2), and we never push.
            ENABLE_PUSH if value > 1 || (value == 1 && ours == Role::Client) => return INVALID,
            MAX_CONCURRENT_STREAMS => self.streams_max = value,
            INITIAL_WINDOW_SIZE if value > LARGEST => return Err(ConnectionError::InvalidWindowSetting),
            INITIAL_WINDOW_SIZE => self.window_bytes = value,
            MAX_FRAME_SIZE if !(FRAME_BYTES_DEFAULT as u32..1 << 24).contains(&value) => return INVALID,
            MAX_FRAME_SIZE => self.frame_bytes_max = value,
            // Once said it may not be taken back (RFC 8441, 3).
            ENABLE_CONNECT_PROTOCOL => match (value, self.connect_protocol) {
                (1, _) => self.connect_protocol = ConnectProtocol::Taken,
                (0, ConnectProtocol::Unsaid) => {}
                _ => return INVALID,
            },
            _ => {} // 6.5.2: unknown ones are ignored
        }
        Ok(())
    }
}

/// The sizes of its table that a SETTINGS frame announces, one after the other: one that falls and rises again within a frame
/// empties the peer's table, too (6.5.3).
pub(super) fn header_table_sizes(payload: &[u8]) -> impl Iterator<Item = usize> {
    let (settings, _) = payload.as_chunks::<6>();
    let sizes = settings.iter().filter(|[n, o, ..]| u16::from_be_bytes([*n, *o]) == HEADER_TABLE_SIZE);
    sizes.map(|[_, _, size @ ..]| u32::from_be_bytes(*size) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(settings: &[(u16, u32)], expect: Result<PeerSettings, ConnectionError>) {
        let mut frame = Vec::new();
        frame::put_settings(settings, &mut frame);
        assert_eq!(PeerSettings::default().changed(&frame[frame::HEAD_BYTES..], Role::Client), expect);
    }

    #[test]
    fn rfc_9113_6_5_2_settings_change_what_they_name() {
        let default = PeerSettings::default();
        check(&[], Ok(default));
        check(&[(3, 7), (3, 8)], Ok(PeerSettings { streams_max: 8, ..default }));
        check(&[(4, 0)], Ok(PeerSettings { window_bytes: 0, ..default }));
        check(&[(5, 0xff_ffff)], Ok(PeerSettings { frame_bytes_max: 0xff_ffff, ..default }));
        check(&[(1, 0), (6, 1), (2, 0)], Ok(default));
        check(&[(8, 1), (8, 1)], Ok(PeerSettings { connect_protocol: ConnectProtocol::Taken, ..default }));
        check(&[(0xff, 5)], Ok(default));
    }

    #[test]
    fn rfc_9113_6_5_2_values_out_of_range_are_refused() {
        for setting in [(2, 2), (2, 1), (5, 16_383), (5, 1 << 24), (8, 2)] {
            check(&[setting], Err(ConnectionError::InvalidSetting));
        }
        check(&[(8, 1), (8, 0)], Err(ConnectionError::InvalidSetting));
        check(&[(4, 1 << 31)], Err(ConnectionError::InvalidWindowSetting));
        assert_eq!(PeerSettings::default().changed(&[0; 5], Role::Server), Err(ConnectionError::FrameSize));
    }
    #[test]
    fn rfc_9113_6_5_3_each_size_of_the_table_is_told_in_order() {
        let mut frame = Vec::new();
        frame::put_settings(&[(1, 0), (4, 7), (1, 4_096)], &mut frame);
        assert!(header_table_sizes(&frame[frame::HEAD_BYTES..]).eq([0, 4_096]));
    }
}
