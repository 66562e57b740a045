//! Our end over an async stream, and messages of the h2 crate as plain values.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use meshwork_http::{BodyLength, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use crate::end::{End, Side};
use crate::exchange::{Fields, Message};
use crate::random::Random;

/// A connection takes milliseconds; one that takes this long waits for what never comes.
pub(crate) const STUCK: Duration = Duration::from_secs(60);

/// Carries on until the stream ends, or, as a client, until all is done.
pub(crate) async fn drive(end: &mut End, side: Side, io: DuplexStream, random: &mut Random) {
    exchange_bytes(end, side, io, random).await;
    // Streams that were over are let go; nobody reads what is still written.
    while end.act_all(random, Instant::from_millis(1_000_000)) {}
}

async fn exchange_bytes(end: &mut End, side: Side, io: DuplexStream, random: &mut Random) {
    let (mut read, mut write) = tokio::io::split(io);
    let mut piece = vec![0; 1 + random.below(20_000)];
    let (mut out, mut written) = (Vec::new(), 0);
    let mut time = 1_000_000;
    loop {
        time += random.below(100_000) as u64;
        let now = Instant::from_nanos(time);
        let acts = random.below(20);
        let acted = (0..acts).filter(|_| end.act(random, now)).count();
        let has_more = acted > 0 || end.act_all(random, now);
        if written == out.len() {
            (written, out) = (0, std::mem::take(&mut end.out));
        }
        if side == Side::Client && end.is_idle() && out.is_empty() {
            return;
        }
        tokio::select! {
            biased; // in the order of a seed alone
            length = read.read(&mut piece) => match length.expect("memory cannot fail") {
                0 => return,
                length => end.receive(&piece[..length], now).expect("the other end is well-behaved"),
            },
            length = write.write(&out[written..]), if written < out.len() => match length {
                Ok(length) => written += length,
                Err(_) => return, // the other end has gone: what it was told is compared there
            },
            () = tokio::task::yield_now(), if has_more => {}
        }
    }
}

/// The message as the crate's headers; the length is declared as ours is.
pub(crate) fn headers(message: &Message) -> HeaderMap {
    let mut headers = map(&message.fields);
    if let BodyLength::Known(length) = message.body.declared() {
        headers.insert("content-length", length.into());
    }
    headers
}

pub(crate) fn map(fields: &Fields) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(HeaderName::try_from(name).unwrap(), HeaderValue::from_bytes(value).unwrap());
    }
    headers
}

/// Fields by name, in order within each name, without the declared length.
pub(crate) fn grouped(mut fields: Fields) -> Fields {
    fields.retain(|(name, _)| name != "content-length");
    fields.sort_by(|one, other| one.0.cmp(&other.0));
    fields
}

pub(crate) fn fields(headers: &HeaderMap) -> Fields {
    headers.iter().map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec())).collect()
}

/// Sends body and trailers; the crate waits for the windows.
pub(crate) fn send_body(
    message: &Message,
    stream: &mut h2::SendStream<Bytes>,
    random: &mut Random,
) -> Result<(), h2::Error> {
    let mut sent = 0;
    while sent < message.body.len() {
        let piece = message.piece(sent, 1 + random.below(30_000));
        sent += piece.len();
        let end = sent == message.body.len() && message.trailers.is_empty();
        stream.send_data(Bytes::from_static(piece), end)?;
    }
    match (message.trailers.is_empty(), message.body.len()) {
        (false, _) => stream.send_trailers(map(&message.trailers)),
        (true, 0) => stream.send_data(Bytes::new(), true),
        (true, _) => Ok(()),
    }
}

/// Reads a body and its trailers to the end.
pub(crate) async fn read_body(stream: &mut h2::RecvStream) -> Result<(Vec<u8>, Fields), h2::Error> {
    let mut body = Vec::new();
    while let Some(piece) = stream.data().await {
        let piece = piece?;
        body.extend_from_slice(&piece);
        stream.flow_control().release_capacity(piece.len())?;
    }
    let trailers = stream.trailers().await?;
    Ok((body, trailers.map(|trailers| fields(&trailers)).unwrap_or_default()))
}
