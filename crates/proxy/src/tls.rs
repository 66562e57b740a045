//! TLS for a connection, on rustls' unbuffered API: records are decrypted from the connection's own
//! input and a whole batch of plaintext is encrypted straight into its output.
//!
//! Sans-IO too: bytes come in as `cipher`, go out into `wire`. Reading and writing the socket is
//! `conn.rs`; who may be at the other end was settled by the configuration's verifier and is checked
//! again after every handshake (`connect.rs`, `inbound.rs`), because rustls asks no verifier when a
//! session is resumed.

use std::sync::Arc;

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};
use rustls::{ClientConfig, CommonState, Error, HandshakeKind, ServerConfig};

use crate::buffers::Buffers;

/// What encryption may add to a batch: 5 bytes of header, 1 of type, 16 of tag for each record, and
/// a key update now and then. Asking rustls costs an attempt, so the first guess is generous.
const RECORD_OVERHEAD: usize = 64;
const RECORD_BYTES: usize = 16 * 1024;

pub(crate) struct Tls {
    machine: Machine,
    /// Ciphertext that is no whole record yet.
    pub(crate) cipher: Vec<u8>,
    progress: Progress,
    /// `close_notify` was received.
    peer_closed: bool,
}

enum Machine {
    Client(Box<UnbufferedClientConnection>),
    Server(Box<UnbufferedServerConnection>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    Handshaking,
    Open,
}

impl Tls {
    /// Offers one ALPN protocol. The name keys the stored session and is never verified: who may answer
    /// is in the configuration's verifier.
    pub(crate) fn client(
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
        alpn: &[u8],
    ) -> Result<Self, Error> {
        let client = UnbufferedClientConnection::new_with_alpn(config, name, vec![alpn.to_vec()])?;
        Ok(Self::new(Machine::Client(Box::new(client))))
    }

    pub(crate) fn server(config: Arc<ServerConfig>) -> Result<Self, Error> {
        Ok(Self::new(Machine::Server(Box::new(UnbufferedServerConnection::new(config)?))))
    }

    fn new(machine: Machine) -> Self {
        Self { machine, cipher: Vec::new(), progress: Progress::Handshaking, peer_closed: false }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.progress == Progress::Open
    }

    pub(crate) fn peer_closed(&self) -> bool {
        self.peer_closed
    }

    pub(crate) fn peer_certificates(&self) -> &[CertificateDer<'static>] {
        self.common().peer_certificates().unwrap_or_default()
    }

    pub(crate) fn alpn(&self) -> Option<&[u8]> {
        self.common().alpn_protocol()
    }

    pub(crate) fn handshake_kind(&self) -> Option<HandshakeKind> {
        self.common().handshake_kind()
    }

    fn common(&self) -> &CommonState {
        match &self.machine {
            Machine::Client(client) => client,
            Machine::Server(server) => server,
        }
    }

    /// Works off `cipher`: plaintext is appended to `plain`, what must be sent to `wire`. On an error
    /// `wire` holds the alert that tells the peer.
    pub(crate) fn process(
        &mut self,
        plain: &mut Vec<u8>,
        wire: &mut Vec<u8>,
        buffers: &Buffers,
    ) -> Result<(), Error> {
        self.turn(plain, wire, Seal::Nothing, buffers)
    }

    /// Encrypts all of `data` into `wire`. Only once [`Tls::is_open`].
    pub(crate) fn seal(
        &mut self,
        data: &[u8],
        plain: &mut Vec<u8>,
        wire: &mut Vec<u8>,
        buffers: &Buffers,
    ) -> Result<(), Error> {
        self.turn(plain, wire, Seal::Data(data), buffers)
    }

    /// Appends `close_notify`: without it the peer must take our end for a truncation.
    pub(crate) fn close(
        &mut self,
        plain: &mut Vec<u8>,
        wire: &mut Vec<u8>,
        buffers: &Buffers,
    ) -> Result<(), Error> {
        self.turn(plain, wire, Seal::CloseNotify, buffers)
    }

    fn turn(
        &mut self,
        plain: &mut Vec<u8>,
        wire: &mut Vec<u8>,
        seal: Seal<'_>,
        buffers: &Buffers,
    ) -> Result<(), Error> {
        let turned = match &mut self.machine {
            Machine::Client(client) => turn(&mut **client, &mut self.cipher, plain, wire, seal),
            Machine::Server(server) => turn(&mut **server, &mut self.cipher, plain, wire, seal),
        };
        if turned.used == self.cipher.len() {
            buffers.give(std::mem::take(&mut self.cipher));
        } else {
            self.cipher.drain(..turned.used);
        }
        self.peer_closed |= turned.peer_closed;
        if turned.open {
            self.progress = Progress::Open;
        }
        turned.result
    }
}

/// What is to be encrypted once the machine has nothing of its own to do.
#[derive(Clone, Copy)]
enum Seal<'a> {
    Nothing,
    Data(&'a [u8]),
    CloseNotify,
}

struct Turned {
    used: usize,
    open: bool,
    peer_closed: bool,
    result: Result<(), Error>,
}

/// rustls has the same method on two types and no trait over them.
trait Records {
    type Data;
    fn records<'c, 'i>(&'c mut self, cipher: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
}

impl Records for UnbufferedClientConnection {
    type Data = ClientConnectionData;
    fn records<'c, 'i>(&'c mut self, cipher: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(cipher)
    }
}

impl Records for UnbufferedServerConnection {
    type Data = ServerConnectionData;
    fn records<'c, 'i>(&'c mut self, cipher: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(cipher)
    }
}

/// Runs the machine until it needs more bytes or may write, which is when `seal` is done.
///
/// The same leftover is always passed again, as rustls remembers positions in it between calls.
fn turn<R: Records>(
    machine: &mut R,
    cipher: &mut [u8],
    plain: &mut Vec<u8>,
    wire: &mut Vec<u8>,
    seal: Seal<'_>,
) -> Turned {
    let mut turned = Turned { used: 0, open: false, peer_closed: false, result: Ok(()) };
    loop {
        let UnbufferedStatus { mut discard, state, .. } = machine.records(&mut cipher[turned.used..]);
        let step = match state {
            Ok(state) => advance(state, plain, wire, seal, &mut discard),
            Err(error) => Err(error),
        };
        turned.used += discard;
        match step {
            Ok(Step::More) => {}
            Ok(Step::PeerClosed) => turned.peer_closed = true,
            Ok(Step::Blocked) => return turned,
            Ok(Step::Open) => {
                turned.open = true;
                return turned;
            }
            Err(error) => {
                // The alert waits in the machine, behind the error and behind what was to be said before it.
                while let UnbufferedStatus { state: Ok(state), .. } =
                    machine.records(&mut cipher[turned.used..])
                {
                    let said = match state {
                        ConnectionState::EncodeTlsData(data) => encode(data, wire),
                        ConnectionState::TransmitTlsData(transmit) => {
                            transmit.done();
                            Ok(())
                        }
                        _ => break,
                    };
                    if said.is_err() {
                        break;
                    }
                }
                turned.result = Err(error);
                return turned;
            }
        }
    }
}

enum Step {
    More,
    PeerClosed,
    Blocked,
    Open,
}

fn advance<D>(
    state: ConnectionState<'_, '_, D>,
    plain: &mut Vec<u8>,
    wire: &mut Vec<u8>,
    seal: Seal<'_>,
    discard: &mut usize,
) -> Result<Step, Error> {
    Ok(match state {
        ConnectionState::ReadTraffic(mut traffic) => {
            while let Some(record) = traffic.next_record() {
                let record = record?;
                plain.extend_from_slice(record.payload);
                *discard += record.discard;
            }
            Step::More
        }
        ConnectionState::EncodeTlsData(data) => {
            encode(data, wire)?;
            Step::More
        }
        ConnectionState::TransmitTlsData(transmit) => {
            // It is in `wire`, which is written in order before anything else.
            transmit.done();
            Step::More
        }
        ConnectionState::PeerClosed => Step::PeerClosed,
        ConnectionState::BlockedHandshake | ConnectionState::Closed => Step::Blocked,
        ConnectionState::WriteTraffic(mut traffic) => {
            match seal {
                Seal::Nothing => {}
                Seal::Data(data) => {
                    let records = data.len() / RECORD_BYTES + 1;
                    let room = data.len() + records * RECORD_OVERHEAD;
                    append(wire, room, |space| traffic.encrypt(data, space))?;
                }
                Seal::CloseNotify => {
                    append(wire, RECORD_OVERHEAD, |space| traffic.queue_close_notify(space))?
                }
            }
            Step::Open
        }
        // Early data is switched off, and rustls may add states that we did not ask for.
        _ => return Err(Error::General("the TLS machine entered a state that was never enabled".to_owned())),
    })
}

fn encode<D>(mut data: rustls::unbuffered::EncodeTlsData<'_, D>, wire: &mut Vec<u8>) -> Result<(), Error> {
    let start = wire.len();
    let mut room = 4 * 1024; // most flights fit; a chain of large certificates asks once more
    loop {
        wire.resize(start + room, 0);
        match data.encode(&mut wire[start..]) {
            Ok(written) => {
                wire.truncate(start + written);
                return Ok(());
            }
            Err(EncodeError::InsufficientSize(needed)) => room = needed.required_size,
            Err(EncodeError::AlreadyEncoded) => {
                wire.truncate(start);
                return Ok(());
            }
        }
    }
}

fn append(
    wire: &mut Vec<u8>,
    mut room: usize,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, EncryptError>,
) -> Result<(), Error> {
    let start = wire.len();
    loop {
        wire.resize(start + room, 0);
        match write(&mut wire[start..]) {
            Ok(written) => {
                wire.truncate(start + written);
                return Ok(());
            }
            Err(EncryptError::InsufficientSize(needed)) => room = needed.required_size,
            Err(EncryptError::EncryptExhausted) => return Err(Error::EncryptError),
        }
    }
}
