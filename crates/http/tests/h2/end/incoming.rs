//! What comes in: each step of the engine against the exchange that it belongs to.

use super::*;

impl End {
    pub(crate) fn receive(&mut self, bytes: &[u8], now: Instant) -> Result<(), ConnectionError> {
        self.input.extend_from_slice(bytes);
        let mut at = 0;
        let result = loop {
            let step = match self.engine.advance(&self.input[at..], &mut self.head, now, &mut self.out) {
                Ok(step) => step,
                Err(error) => break Err(error),
            };
            assert!(at + step.consumed() <= self.input.len(), "consumed more than was shown");
            let start = at;
            at += step.consumed();
            if let Step::NeedMore { .. } = step {
                break Ok(());
            }
            self.step(start, step);
        };
        self.input.drain(..at);
        if at > 0 {
            self.start = Start::AtOnce;
        }
        if let Err(error) = result {
            assert_eq!(*self.error.get_or_insert(error), error, "an error stays");
            self.tally.errors += 1;
            assert!(!self.engine.can_open());
        }
        result
    }

    fn step(&mut self, start: usize, step: Step) {
        match step {
            Step::NeedMore { .. } => {}
            Step::Head { stream, end, .. } => match self.side {
                Side::Client => self.response(stream, end),
                Side::Server => self.request(stream, end),
            },
            Step::Data { stream, data, end, .. } => {
                self.data(stream, start + data.start..start + data.end, end)
            }
            Step::Trailers { stream, .. } => self.trailers(stream),
            Step::Reset { stream, reset, .. } => self.reset(stream, reset),
            Step::Refused { reason, .. } => {
                assert_eq!(self.side, Side::Server);
                assert!(reason == Reason::TooManyStreams || self.wire == Wire::Corrupt, "{reason:?}");
                self.tally.refused += 1;
            }
            Step::Writable { stream, .. } => {
                let streams = self.streams.iter_mut().flatten();
                streams
                    .filter(|held| stream.is_none_or(|stream| stream == held.id))
                    .for_each(|held| held.room = Room::Perhaps);
            }
            Step::GoAway { .. } => {
                assert!(!self.engine.can_open());
                self.going_away = true;
            }
        }
    }

    fn request(&mut self, id: StreamId, end: bool) {
        assert!(self.told.insert(id.number()), "one stream twice");
        let exchange = match Exchange::number(self.head.path_and_query()) {
            Some(number) if number < self.exchanges.len() => number,
            _ => return self.unknown(id),
        };
        let expect = &self.exchanges[exchange];
        if self.wire == Wire::Faithful {
            assert_eq!(self.head.kind(), Kind::Request);
            assert_eq!((self.head.method(), self.head.protocol()), (expect.method, expect.protocol));
            assert_eq!(self.head.path_and_query(), expect.path);
            assert_eq!(self.head.authority(), Some(&*expect.authority));
            assert_eq!(self.head.scheme(), "http");
            let expect_fields = self.order.of(expect.request_seen().fields);
            assert_eq!(without_host(self.order.of(fields_seen(&self.head))), expect_fields);
            let declared = self.engine.body_length(id);
            check_declared(declared, &expect.request, end);
        }
        self.hold(Stream::new(id, exchange));
        self.stream(id).received.head = true;
        self.stream(id).received.ended = end;
    }

    fn response(&mut self, id: StreamId, end: bool) {
        let exchange = self.stream(id).exchange;
        let expect = &self.exchanges[exchange];
        let status = self.head.status().as_u16();
        let received = &mut self.streams[id.index()].as_mut().expect("held").received;
        if self.head.status().is_interim() {
            assert!(!end && !received.head);
            if self.wire == Wire::Faithful {
                assert_eq!(Some(&status), expect.interim.get(received.interim));
            }
            received.interim += 1;
            return;
        }
        assert!(!received.head, "a second final head");
        received.head = true;
        received.ended = end;
        if self.wire == Wire::Faithful {
            assert_eq!((received.interim, status), (expect.interim.len(), expect.status));
            let fields = self.order.of(fields_seen(&self.head));
            assert_eq!(fields, self.order.of(expect.response.fields.clone()));
            let declared = self.engine.body_length(id);
            if expect.has_response_body() {
                check_declared(declared, &expect.response, end);
            } else {
                assert!(end);
                check_absent(declared, expect);
            }
        }
    }

    fn data(&mut self, id: StreamId, data: std::ops::Range<usize>, end: bool) {
        let (exchanges, side, wire) = (self.exchanges.clone(), self.side, self.wire);
        let length = data.len();
        assert!(length > 0 || end, "empty, and nothing ends");
        let stream = self.streams[id.index()].as_mut().expect("data of a stream that nobody holds");
        assert_eq!(stream.id, id);
        assert!(stream.received.head && !stream.received.ended && stream.reset.is_none());
        let expect = incoming(&exchanges[stream.exchange], side);
        let (from, bytes) = (stream.received.bytes, &self.input[data]);
        stream.received.bytes += length;
        stream.received.ended = end;
        stream.untaken += length;
        if wire == Wire::Faithful {
            assert!(expect.has(from, bytes), "exchange {}: not its bytes at {from}", stream.exchange);
            assert!(!end || (stream.received.bytes == expect.body.len() && expect.trailers.is_empty()));
        }
    }

    fn trailers(&mut self, id: StreamId) {
        let (exchanges, side, wire) = (self.exchanges.clone(), self.side, self.wire);
        let seen = fields_seen(&self.head);
        let kind = self.head.kind();
        let stream = self.stream(id);
        assert!(stream.received.head && !stream.received.ended && stream.reset.is_none());
        stream.received.ended = true;
        if wire == Wire::Faithful {
            let expect = incoming(&exchanges[stream.exchange], side);
            assert_eq!((kind, seen), (Kind::Trailers, expect.trailers.clone()));
            assert_eq!(stream.received.bytes, expect.body.len());
        }
    }

    fn reset(&mut self, id: StreamId, reset: Reset) {
        let (side, wire) = (self.side, self.wire);
        if reset.certainty == Certainty::NotProcessed {
            assert_eq!(side, Side::Client, "only a client asks what became of its request");
            self.not_processed.insert(id.number());
        }
        self.tally.resets += 1;
        self.tally.not_processed += usize::from(reset.certainty == Certainty::NotProcessed);
        if let (By::Us(reason), Wire::Faithful) = (reset.by, wire) {
            panic!("nothing was wrong: {reason:?}");
        }
        let stream = self.stream(id);
        assert!(
            stream.reset.is_none() && !(stream.sent.ended && stream.received.ended),
            "it was over before"
        );
        stream.reset = Some(reset);
    }

    /// A request that only a corrupted connection can have brought.
    fn unknown(&mut self, id: StreamId) {
        assert_eq!(self.wire, Wire::Corrupt, "{}", self.head.path_and_query());
        self.engine.release(id, &mut self.out);
    }
}

/// The message that this end reads.
fn incoming(exchange: &Exchange, side: Side) -> &Message {
    match side {
        Side::Client => &exchange.response,
        Side::Server => &exchange.request,
    }
}

fn without_host(mut fields: Fields) -> Fields {
    fields.retain(|(name, _)| name != "host");
    fields
}

fn check_declared(declared: BodyLength, message: &Message, end: bool) {
    let expect = match message.body {
        Body::Known(length) => BodyLength::Known(length as u64),
        _ if end => BodyLength::None,
        Body::None | Body::Chunked(_) => BodyLength::Chunked,
    };
    assert_eq!(declared, expect);
}

/// To HEAD and in a 304 the length that another answer would have had; in a 204 none.
fn check_absent(declared: BodyLength, exchange: &Exchange) {
    let expect = match exchange.response.body {
        Body::Known(length) if exchange.status != 204 => BodyLength::Known(length as u64),
        _ => BodyLength::None,
    };
    assert_eq!(declared, expect, "{exchange:?}");
}
