//! Frames one by one (RFC 9113, 4 to 6): which are taken, which cost their stream, which the connection.

use super::*;
use crate::h2::frame::{ACK, END_HEADERS, END_STREAM, PADDED, PREFACE, PRIORITY};

type Row<'a> = &'a [Vec<u8>];

/// What a server makes of these frames after the greeting.
#[track_caller]
fn server(frames: Row<'_>, expect: Result<&[Event], ConnectionError>) -> Vec<Frame> {
    let mut server = End::greeted_server();
    let told = server.take(&frames.concat());
    assert_eq!(told.as_deref().map_err(|error| *error), expect);
    let written = server.written();
    if let Err(error) = expect {
        let goaway = written.last().expect("GOAWAY was written");
        assert_eq!((goaway.kind, &goaway.payload[4..]), (Kind::GoAway, &error.code().0.to_be_bytes()[..]));
        assert_eq!(server.take(b""), Err(error), "told again");
    }
    written
}

/// What a client makes of these frames after it sent a GET on stream 1.
#[track_caller]
fn client(frames: Row<'_>, expect: Result<&[Event], ConnectionError>) {
    let mut client = End::greeted_client();
    client.request("GET", "/", BodyLength::None, true).unwrap();
    assert_eq!(client.take(&frames.concat()).as_deref().map_err(|error| *error), expect);
}

fn asked(stream: u32, end: bool) -> Event {
    Event::Head(stream, "GET cart/".into(), end)
}

fn refused(stream: u32, reason: Reason) -> Event {
    let reset = Reset { code: reason.code(), by: By::Us(reason), certainty: Certainty::Unknown };
    Event::Reset(stream, reset)
}

fn response(stream: u32, flags: u8, fields: &[(&str, &str)]) -> Vec<u8> {
    frame(Kind::Headers, END_HEADERS | flags, stream, &block(fields))
}

fn data(stream: u32, flags: u8, bytes: &[u8]) -> Vec<u8> {
    frame(Kind::Data, flags, stream, bytes)
}

#[test]
fn rfc_9113_3_4_both_begin_with_settings() {
    let mut client = End::client();
    assert!(client.out.starts_with(PREFACE));
    assert_eq!(client.written()[0].kind, Kind::Settings);
    let mut ours = End::server();
    assert_eq!(ours.written()[0].kind, Kind::Settings);
    let mut strange = End::server();
    assert_eq!(strange.take(b"PRI * HTTP/2.0\r\n\r\nSX"), Err(ConnectionError::InvalidPreface));
    let mut http1 = End::server();
    assert_eq!(http1.take(b"G"), Err(ConnectionError::InvalidPreface), "known at the first byte");
    for first in [frame(Kind::Ping, 0, 0, &[0; 8]), frame(Kind::Settings, ACK, 0, b""), get(1)] {
        let mut server = End::server();
        let told = server.take(&[&PREFACE[..], &first].concat());
        assert_eq!(told, Err(ConnectionError::FirstNotSettings));
    }
    let answer = End::client().take(b"HTTP/1.1 400 Bad Request\r\n");
    assert_eq!(answer, Err(ConnectionError::Http1), "an operator's most likely mistake is named");
}

#[test]
fn rfc_9113_4_1_unknown_frames_and_flags_are_skipped() {
    let unknown = [&[0, 0, 3, 0xbe, 0xff, 0, 0, 0, 9][..], b"xyz"].concat();
    let flags = frame(Kind::Ping, 0xfe, 0, &[1; 8]);
    let written = server(&[unknown, flags, get(1)], Ok(&[asked(1, true)]));
    assert_eq!(written[0], Frame { kind: Kind::Ping, flags: ACK, stream: 0, payload: vec![1; 8] });
}

#[test]
fn rfc_9113_4_2_frames_have_the_length_of_their_kind() {
    server(&[data(1, 0, &[0; 16_385])], Err(ConnectionError::FrameTooLarge));
    let wrong = [
        (Kind::Ping, 0, 0, 7),
        (Kind::Settings, 0, 0, 5),
        (Kind::Settings, ACK, 0, 6),
        (Kind::RstStream, 0, 1, 5),
        (Kind::WindowUpdate, 0, 0, 3),
        (Kind::GoAway, 0, 0, 7),
        (Kind::Priority, 0, 3, 4),
        (Kind::Headers, END_HEADERS | PRIORITY, 3, 4),
        (Kind::Headers, END_HEADERS | PADDED, 3, 0),
    ];
    for (kind, flags, stream, length) in wrong {
        server(
            &[post(1), frame(kind, flags, stream, &vec![0; length])][1..],
            Err(ConnectionError::FrameSize),
        );
    }
    // A stream that is open costs only itself.
    let priority = frame(Kind::Priority, 0, 1, &[0; 4]);
    let written = server(&[post(1), priority], Ok(&[asked(1, false), refused(1, Reason::InvalidPriority)]));
    assert_eq!(written, [rst(1, ErrorCode::FRAME_SIZE_ERROR)]);
}

#[test]
fn rfc_9113_4_3_a_broken_block_ends_the_connection() {
    server(&[frame(Kind::Headers, END_HEADERS, 1, &[0xff; 20])], Err(ConnectionError::Compression));
}

#[test]
fn rfc_9113_5_1_idle_streams_take_only_heads_and_priority() {
    for bad in [
        data(1, 0, b"x"),
        frame(Kind::RstStream, 0, 1, &[0; 4]),
        frame(Kind::WindowUpdate, 0, 1, &[0, 0, 0, 1]),
    ] {
        server(&[bad], Err(ConnectionError::IdleStream));
    }
    server(&[frame(Kind::Priority, 0, 5, &[0; 5]), get(1)], Ok(&[asked(1, true)]));
    client(&[response(3, 0, &[(":status", "200")])], Err(ConnectionError::IdleStream));
    client(&[response(2, 0, &[(":status", "200")])], Err(ConnectionError::IdleStream));
}

#[test]
fn rfc_9113_5_1_a_half_closed_stream_takes_no_more() {
    let events = [asked(1, true), refused(1, Reason::AfterEnd)];
    assert_eq!(server(&[get(1), data(1, 0, b"x")], Ok(&events)), [rst(1, ErrorCode::STREAM_CLOSED)]);
    assert_eq!(server(&[get(1), get(1)], Ok(&events)), [rst(1, ErrorCode::STREAM_CLOSED)]);
    let window = frame(Kind::WindowUpdate, 0, 1, &[0, 0, 0, 1]);
    server(&[get(1), window], Ok(&[asked(1, true)]));
}

#[test]
fn rfc_9113_5_1_a_stream_that_its_peer_reset_takes_no_more() {
    let cancel = frame(Kind::RstStream, 0, 1, &ErrorCode::CANCEL.0.to_be_bytes());
    let reset = Reset { code: ErrorCode::CANCEL, by: By::Peer, certainty: Certainty::Unknown };
    let events = [asked(1, false), Event::Reset(1, reset)];
    let written = server(&[post(1), cancel.clone(), data(1, 0, b"x")], Ok(&events));
    assert_eq!(written, [rst(1, ErrorCode::STREAM_CLOSED)]);
    server(&[post(1), cancel.clone(), cancel.clone()], Ok(&events));
    server(&[post(1), cancel, get(1)], Err(ConnectionError::HeadersOnClosedStream));
}

#[test]
fn rfc_9113_5_1_what_comes_after_our_reset_is_ignored_but_accounted_for() {
    let mut server = End::greeted_server();
    server.take(&post(1)).unwrap();
    server.connection.reset(server.id(1), ErrorCode::CANCEL, &mut server.out);
    assert_eq!(server.written(), [rst(1, ErrorCode::CANCEL)]);
    // A late head that adds to the table: the next one refers to it.
    let (mut encoder, mut late, mut next) = (Encoder::default(), Vec::new(), Vec::new());
    encoder.field(b"x-a", b"1", Indexing::Incremental, &mut late);
    GET.iter().for_each(|(n, v)| encoder.field(n.as_bytes(), v.as_bytes(), Indexing::Usual, &mut next));
    encoder.field(b"x-a", b"1", Indexing::Usual, &mut next);
    let frames = [
        data(1, 0, &[0; 16_384]),
        frame(Kind::Headers, END_HEADERS | END_STREAM, 1, &late),
        frame(Kind::WindowUpdate, 0, 1, &[0, 0, 0, 9]),
        frame(Kind::RstStream, 0, 1, &[0; 4]),
        frame(Kind::Headers, END_HEADERS | END_STREAM, 3, &next),
    ];
    let told = server.take(&frames.concat());
    assert_eq!(told, Ok(vec![Event::Head(3, "GET cart/ x-a=1".into(), true)]));
    // 16 MiB in all, of which 16 KiB were used on the stream that is over.
    let mut credit = 0;
    while credit == 0 {
        server.take(&data(1, 0, &[0; 16_384])).unwrap();
        let updates = server.written().into_iter().filter(|frame| frame.kind == Kind::WindowUpdate);
        credit = updates.map(|frame| u32::from_be_bytes(frame.payload.try_into().unwrap())).sum();
    }
    assert_eq!(credit, 8 * 1024 * 1024);
}

#[test]
fn rfc_9113_5_1_1_numbers_are_odd_and_count_up() {
    server(&[get(2)], Err(ConnectionError::InvalidStreamNumber));
    let told = [get(5), get(3)];
    server(&told, Err(ConnectionError::InvalidStreamNumber));
    server(&[get(1), get(7)], Ok(&[asked(1, true), asked(7, true)]));
}

#[test]
fn rfc_9113_5_1_2_a_stream_too_many_is_refused() {
    let mut server = End::greeted_server();
    for n in 0..256 {
        server.take(&get(2 * n + 1)).unwrap();
    }
    assert_eq!(server.take(&get(513)), Ok(vec![Event::Refused(Reason::TooManyStreams)]));
    assert_eq!(server.written(), [rst(513, ErrorCode::REFUSED_STREAM)]);
    server.respond(1, 200, BodyLength::None, true).unwrap();
    assert_eq!(server.take(&get(515)), Ok(vec![asked(515, true)]), "one has ended");
    server.out.clear();
    // Also when all have ended, but the driver holds on to them.
    let mut slow = End::greeted_server();
    for n in 0..512 {
        slow.take(&get(2 * n + 1)).unwrap();
        slow.respond(2 * n + 1, 200, BodyLength::None, true).unwrap();
    }
    assert_eq!(slow.take(&get(1_025)), Ok(vec![Event::Refused(Reason::TooManyStreams)]));
    slow.release(1);
    assert_eq!(slow.take(&get(1_027)), Ok(vec![asked(1_027, true)]));
}

#[test]
fn rfc_9113_6_1_data_may_be_padded() {
    let padded = data(1, PADDED | END_STREAM, &[&[4][..], b"hello", &[0; 4]].concat());
    server(&[post(1), padded], Ok(&[asked(1, false), Event::Data(1, b"hello".into(), true)]));
    let all_padding = data(1, PADDED | END_STREAM, &[3, 0, 0, 0]);
    server(&[post(1), all_padding], Ok(&[asked(1, false), Event::Data(1, vec![], true)]));
    server(&[post(1), data(1, PADDED, &[4, 0, 0, 0])], Err(ConnectionError::PaddingTooLong));
    server(&[post(1), data(1, PADDED, &[])], Err(ConnectionError::FrameSize));
    server(&[data(0, 0, b"x")], Err(ConnectionError::NotOnStreamZero));
}

#[test]
fn rfc_9113_6_2_heads_may_be_padded_and_have_a_priority() {
    let fields = block(&GET);
    let payload = [&[2][..], &[0x80, 0, 0, 1, 7], &fields, &[0, 0]].concat();
    let flags = END_HEADERS | END_STREAM | PADDED | PRIORITY;
    // It even depends on itself, which RFC 9113 no longer cares about.
    server(&[frame(Kind::Headers, flags, 1, &payload)], Ok(&[asked(1, true)]));
    let long = [&[255][..], &fields].concat();
    server(&[frame(Kind::Headers, END_HEADERS | PADDED, 1, &long)], Err(ConnectionError::PaddingTooLong));
    server(&[frame(Kind::Headers, END_HEADERS, 0, &fields)], Err(ConnectionError::NotOnStreamZero));
}

#[test]
fn rfc_9113_6_4_6_5_6_7_6_8_frames_stand_where_they_belong() {
    for kind in [Kind::Settings, Kind::Ping, Kind::GoAway] {
        server(&[frame(kind, 0, 1, &[0; 8])], Err(ConnectionError::OnlyOnStreamZero));
    }
    for kind in [Kind::RstStream, Kind::Priority] {
        server(&[frame(kind, 0, 0, &[0; 5])], Err(ConnectionError::NotOnStreamZero));
    }
}

#[test]
fn rfc_9113_6_5_3_settings_are_acknowledged_once_they_hold() {
    let written = server(&[frame(Kind::Settings, 0, 0, &[0, 5, 0, 1, 0, 0])], Ok(&[]));
    assert_eq!(written, [Frame { kind: Kind::Settings, flags: ACK, stream: 0, payload: vec![] }]);
    server(&[frame(Kind::Settings, 0, 0, &[0, 5, 0, 0, 0, 0])], Err(ConnectionError::InvalidSetting));
}

#[test]
fn rfc_9113_6_5_2_our_blocks_keep_to_the_peers_table() {
    let mut client = End::greeted_client();
    client.request("GET", "/", BodyLength::None, true).unwrap();
    client.out.clear();
    client.take(&frame(Kind::Settings, 0, 0, &[0, 1, 0, 0, 0, 0])).unwrap();
    client.out.clear();
    let mut decoder = Decoder::default();
    decoder.set_limit(0); // it wants to be told so, and takes nothing from a table
    for _ in 0..3 {
        client.request("GET", "/", BodyLength::None, true).unwrap();
        let mut fields = 0;
        decoder.decode(&client.written_tail().payload, |_| fields += 1).unwrap();
        assert_eq!(fields, 4);
    }
}

#[test]
fn rfc_9113_6_5_3_a_table_that_fell_and_rose_in_one_frame_is_emptied() {
    let mut client = End::greeted_client();
    client.request("GET", "/", BodyLength::None, true).unwrap();
    client.out.clear();
    let settings = [[0, 1, 0, 0, 0, 0], [0, 1, 0, 0, 16, 0]].concat();
    client.take(&frame(Kind::Settings, 0, 0, &settings)).unwrap();
    client.out.clear();
    client.request("GET", "/", BodyLength::None, true).unwrap();
    let block = client.written_tail().payload;
    assert_eq!(block[..4], [0x20, 0x3f, 0xe1, 0x1f], "to nothing, then to 4,096 bytes");
    Decoder::default().decode(&block, |_| {}).unwrap(); // nothing of before is referred to
}

#[test]
fn rfc_9113_6_6_pushes_are_refused() {
    server(&[frame(Kind::PushPromise, END_HEADERS, 1, &[0; 4])], Err(ConnectionError::Push));
    client(&[frame(Kind::PushPromise, END_HEADERS, 1, &[0, 0, 0, 2])], Err(ConnectionError::Push));
}

#[test]
fn rfc_9113_6_10_a_block_may_come_in_pieces_and_nothing_between() {
    let fields = block(&GET);
    let (first, rest) = fields.split_at(3);
    let (second, third) = rest.split_at(5);
    let start = frame(Kind::Headers, END_STREAM, 1, first);
    let middle = frame(Kind::Continuation, 0, 1, second);
    let last = frame(Kind::Continuation, END_HEADERS, 1, third);
    server(&[start.clone(), middle, last.clone()], Ok(&[asked(1, true)]));
    for between in
        [frame(Kind::Ping, 0, 0, &[0; 8]), data(1, 0, b"x"), get(3), vec![0, 0, 0, 99, 0, 0, 0, 0, 1]]
    {
        server(&[start.clone(), between, last.clone()], Err(ConnectionError::Interleaved));
    }
    let elsewhere = frame(Kind::Continuation, END_HEADERS, 3, rest);
    server(&[start, elsewhere], Err(ConnectionError::Interleaved));
    server(&[last], Err(ConnectionError::UnaskedContinuation));
}

#[test]
fn a_blocks_buffer_is_kept_unless_it_grew_large() {
    let mut server = End::greeted_server();
    let ask = |server: &mut End, number, value: &str| {
        let fields = block(&[&GET[..], &[("x-a", value)]].concat());
        let start = frame(Kind::Headers, END_STREAM, number, &fields[..4]);
        server.take(&[start, frame(Kind::Continuation, END_HEADERS, number, &fields[4..])].concat()).unwrap();
        server.connection.block.capacity()
    };
    assert!((1..=4_096).contains(&ask(&mut server, 1, "1")));
    assert_eq!(ask(&mut server, 3, &"x".repeat(10_000)), 0);
}

#[test]
fn rfc_9113_8_1_a_message_has_one_head_and_ends_with_its_trailers() {
    let trailers =
        |flags, fields: &[(&str, &str)]| frame(Kind::Headers, END_HEADERS | flags, 1, &block(fields));
    let sum = [("x-sum", "1")];
    let told = [asked(1, false), Event::Trailers(1, " x-sum=1".into())];
    server(&[post(1), trailers(END_STREAM, &sum)], Ok(&told));
    let told = [asked(1, false), refused(1, Reason::TrailersWithoutEnd)];
    server(&[post(1), trailers(0, &sum)], Ok(&told));
    let told = [asked(1, false), refused(1, Reason::LatePseudoField)];
    server(&[post(1), trailers(END_STREAM, &[(":path", "/")])], Ok(&told));
    // Fields that may not stand there are left out; if none is left it is a plain end.
    let told = [asked(1, false), Event::Data(1, vec![], true)];
    server(&[post(1), trailers(END_STREAM, &[("host", "x")])], Ok(&told));
}

#[test]
fn rfc_9113_8_1_1_bytes_are_as_many_as_declared() {
    let declared = |stream| {
        let fields = [&GET[..], &[("content-length", "5")]].concat();
        frame(Kind::Headers, END_HEADERS, stream, &block(&fields))
    };
    let asked = Event::Head(1, "GET cart/ content-length=5".into(), false);
    let mismatch = refused(1, Reason::LengthMismatch);
    let hello = Event::Data(1, b"hello".into(), true);
    server(&[declared(1), data(1, END_STREAM, b"hello")], Ok(&[asked.clone(), hello]));
    server(&[declared(1), data(1, END_STREAM, b"hell")], Ok(&[asked.clone(), mismatch.clone()]));
    server(&[declared(1), data(1, 0, b"hello!")], Ok(&[asked.clone(), mismatch.clone()]));
    let trailers = frame(Kind::Headers, END_HEADERS | END_STREAM, 1, &block(&[("x", "1")]));
    server(&[declared(1), trailers], Ok(&[asked, mismatch]));
    let fields = [&GET[..], &[("content-length", "5")]].concat();
    let ended = frame(Kind::Headers, END_HEADERS | END_STREAM, 1, &block(&fields));
    server(&[ended], Ok(&[Event::Refused(Reason::LengthMismatch)]));
}

#[test]
fn rfc_9113_8_1_1_a_malformed_request_never_becomes_a_stream() {
    let fields = [&GET[..], &[("Upper", "1")]].concat();
    let bad = frame(Kind::Headers, END_HEADERS, 1, &block(&fields));
    // The encoder writes lower case: the name is made upper by hand.
    let bad: Vec<u8> = String::from_utf8_lossy(&bad).contains("upper").then(|| replace(&bad)).unwrap();
    let written = server(
        &[bad, data(1, END_STREAM, b"late"), get(3)],
        Ok(&[Event::Refused(Reason::InvalidFieldName), asked(3, true)]),
    );
    assert_eq!(written, [rst(1, ErrorCode::PROTOCOL_ERROR)]);
}

fn replace(bytes: &[u8]) -> Vec<u8> {
    let at = bytes.windows(5).position(|window| window == b"upper").unwrap();
    [&bytes[..at], b"Upper", &bytes[at + 5..]].concat()
}

#[test]
fn a_request_that_is_too_long_hears_431_and_the_connection_goes_on() {
    let long = "x".repeat(9_000);
    let fields: Vec<(&str, &str)> = GET.into_iter().chain([("x-a", &*long); 9]).collect();
    let fields = block(&fields);
    let mut frames = vec![frame(Kind::Headers, END_STREAM, 1, &fields[..16_384])];
    let pieces: Vec<_> = fields[16_384..].chunks(16_384).collect();
    let (last, middle) = pieces.split_last().unwrap();
    frames.extend(middle.iter().map(|piece| frame(Kind::Continuation, 0, 1, piece)));
    frames.push(frame(Kind::Continuation, END_HEADERS, 1, last));
    let mut server = End::new(|out| {
        Connection::server(Limits { header_block_bytes_max: 100_000, ..Limits::default() }, out)
    });
    server.take(&[&PREFACE[..], &frame(Kind::Settings, 0, 0, b"")].concat()).unwrap();
    server.out.clear();
    assert_eq!(server.take(&frames.concat()), Ok(vec![Event::Refused(Reason::HeaderListTooLarge)]));
    let written = server.written();
    assert_eq!((written.len(), written[0].flags), (1, END_HEADERS | END_STREAM), "its request had ended");
    assert_eq!(decode(&written[0].payload), [":status=431", "content-length=0"]);
    assert_eq!(server.take(&get(3)), Ok(vec![asked(3, true)]));
}

#[test]
fn rfc_9113_8_3_2_responses_come_after_their_interims() {
    let interim = response(1, 0, &[(":status", "103"), ("link", "</a>")]);
    let last = response(1, END_STREAM, &[(":status", "200")]);
    let told = [Event::Head(1, "103 link=</a>".into(), false), Event::Head(1, "200".into(), true)];
    client(&[interim, last], Ok(&told));
    let ended = response(1, END_STREAM, &[(":status", "103")]);
    client(&[ended], Ok(&[refused(1, Reason::InterimWithEnd)]));
    client(&[data(1, 0, b"x")], Ok(&[refused(1, Reason::DataBeforeHead)]));
    let many = vec![response(1, 0, &[(":status", "102")]); 33];
    let mut told = vec![Event::Head(1, "102".into(), false); 32];
    told.push(refused(1, Reason::TooManyInterim));
    client(&many, Ok(&told));
}

#[test]
fn rfc_9110_6_4_1_a_204_with_a_body_is_malformed() {
    let told = [Event::Head(1, "204".into(), false), refused(1, Reason::UnexpectedBody)];
    client(&[response(1, 0, &[(":status", "204")]), data(1, END_STREAM, b"x")], Ok(&told));
    let told = [Event::Head(1, "304 content-length=5".into(), false), Event::Data(1, vec![], true)];
    let not_modified = response(1, 0, &[(":status", "304"), ("content-length", "5")]);
    client(&[not_modified, data(1, END_STREAM, b"")], Ok(&told));
}

#[test]
fn rfc_9113_8_7_a_refused_stream_was_not_processed() {
    let rst = frame(Kind::RstStream, 0, 1, &ErrorCode::REFUSED_STREAM.0.to_be_bytes());
    let reset = Reset { code: ErrorCode::REFUSED_STREAM, by: By::Peer, certainty: Certainty::NotProcessed };
    client(&[rst], Ok(&[Event::Reset(1, reset)]));
}
