//! What goes out: exchanges begun, bodies sent, credit given, as it is drawn.

use super::*;

/// What goes out. Each returns whether there was anything to do.
impl End {
    /// One small thing on one stream.
    pub(crate) fn act(&mut self, random: &mut Random, now: Instant) -> bool {
        if self.error.is_some() {
            return false;
        }
        let index = random.below(self.streams.len() + 1);
        match self.streams.get(index) {
            None => self.open(random),
            Some(None) => false,
            Some(Some(stream)) => {
                let id = stream.id;
                match random.below(4) {
                    0 => self.take(id, 1 + random.below(5_000), now),
                    1 => self.finish(id),
                    _ => self.send(id, random),
                }
            }
        }
    }

    /// Everything that can be done at once, on all streams.
    pub(crate) fn act_all(&mut self, random: &mut Random, now: Instant) -> bool {
        if self.error.is_some() {
            return false;
        }
        let mut acted = false;
        for index in 0..self.streams.len() {
            let id = |end: &Self| end.streams[index].as_ref().map(|stream| stream.id);
            while id(self).is_some_and(|id| self.send(id, random)) {
                acted = true;
            }
            acted |= id(self).is_some_and(|id| self.take(id, usize::MAX, now));
            acted |= id(self).is_some_and(|id| self.finish(id));
        }
        while self.open(random) {
            acted = true;
        }
        acted
    }

    /// Client: the next request.
    fn open(&mut self, random: &mut Random) -> bool {
        let Some(&exchange) = self.waiting.front().filter(|_| self.start == Start::AtOnce) else {
            return false;
        };
        let request = &self.exchanges[exchange].request;
        self.exchanges[exchange].request_head(&mut self.head);
        let end = request.body.len() == 0
            && request.trailers.is_empty()
            && (request.body == Body::None || random.once_in(2));
        let can_open = self.engine.can_open();
        match self.engine.request(&self.head, request.body.declared(), end, &mut self.out) {
            Ok(id) => {
                assert!(can_open && id.number() % 2 == 1);
                self.waiting.pop_front();
                self.hold(Stream::new(id, exchange));
                self.stream(id).sent = Sent { head: true, ended: end, ..Sent::default() };
                true
            }
            // It may be that the server has not said yet what it takes.
            Err(NotOpened::NoConnectProtocol) if !self.engine.peer_takes_connect_protocol() => false,
            Err(error) => {
                assert!(!can_open, "{error}");
                false
            }
        }
    }

    fn send(&mut self, id: StreamId, random: &mut Random) -> bool {
        let side = self.side;
        let exchanges = self.exchanges.clone();
        let stream = self.streams[id.index()].as_mut().expect("held");
        let exchange = &exchanges[stream.exchange];
        if stream.reset.is_some() || stream.sent.ended || stream.room == Room::None {
            return false;
        }
        if !stream.sent.head {
            if stream.sent.interim < exchange.interim.len() {
                let status = StatusCode::new(exchange.interim[stream.sent.interim]).unwrap();
                self.head.start_response(Version::Http11, status, b"");
                self.engine.response(id, &self.head, BodyLength::None, false, &mut self.out).unwrap();
                stream.sent.interim += 1;
                return true;
            }
            let response = &exchange.response;
            exchange.response_head(&mut self.head);
            let is_empty = response.body.len() == 0 && response.trailers.is_empty();
            let end = is_empty && (response.body == Body::None || random.once_in(2));
            self.engine.response(id, &self.head, response.body.declared(), end, &mut self.out).unwrap();
            // Where no body can be a driver may say it all the same; its bytes are dropped.
            stream.sent.head = true;
            stream.sent.ended = end || (!exchange.has_response_body() && random.once_in(2));
            return true;
        }
        let message = outgoing(exchange, side);
        let piece = message.piece(stream.sent.bytes, piece_length(random));
        let is_last = stream.sent.bytes + piece.len() == message.body.len();
        let is_bare = exchange.has_response_body() || side == Side::Client;
        let capacity = self.engine.capacity(id);
        if piece.is_empty() {
            trailers_head(&message.trailers, &mut self.head);
            let trailers = (!message.trailers.is_empty() || random.once_in(2)).then_some(&self.head);
            self.engine.trailers(id, trailers, &mut self.out).unwrap();
            stream.sent.ended = true;
            return true;
        }
        let end = is_last && message.trailers.is_empty() && random.once_in(2);
        let taken = self.engine.data(id, piece, end, &mut self.out).unwrap();
        if is_bare {
            assert_eq!(taken, piece.len().min(capacity), "what fits the windows is taken");
        }
        stream.sent.bytes += taken;
        if taken < piece.len() {
            stream.room = Room::None;
            self.tally.out_of_room += 1;
        } else {
            stream.sent.ended = end;
        }
        taken > 0
    }

    /// The application takes some of what came.
    fn take(&mut self, id: StreamId, bytes: usize, now: Instant) -> bool {
        let stream = self.streams[id.index()].as_mut().expect("held");
        let bytes = bytes.min(stream.untaken);
        stream.untaken -= bytes;
        if bytes > 0 {
            self.engine.consumed(id, bytes, now, &mut self.out);
        }
        bytes > 0
    }

    /// Lets a stream go that is over, or that this end wants no more of.
    fn finish(&mut self, id: StreamId) -> bool {
        let stream = self.streams[id.index()].as_ref().expect("held");
        let exchange = &self.exchanges[stream.exchange];
        let trouble = exchange.trouble;
        let is_over = stream.sent.ended && stream.received.ended && stream.untaken == 0;
        let gives_up = match (self.side, trouble) {
            (Side::Client, Trouble::ClientCancels { received }) => stream.received.bytes >= received,
            (Side::Server, Trouble::ServerResets { received }) => stream.received.bytes >= received,
            (Side::Server, Trouble::ServerAnswersEarly) => stream.sent.ended,
            _ => false,
        };
        if !is_over && !gives_up && stream.reset.is_none() {
            return false;
        }
        let stream = self.streams[id.index()].take().expect("held");
        let resets = gives_up && !is_over && stream.reset.is_none() && trouble != Trouble::ServerAnswersEarly;
        if resets && id.number() % 4 == 1 {
            self.engine.reset(id, ErrorCode::CANCEL, &mut self.out);
            let late = self.engine.data(id, b"late", false, &mut self.out);
            // Bytes of a body that cannot be are dropped, also late.
            let has_body = self.side == Side::Client || exchange.has_response_body();
            assert!(late == Err(SendError::Closed) || !has_body);
        }
        self.engine.release(id, &mut self.out);
        self.settle(&stream);
        true
    }

    fn settle(&mut self, stream: &Stream) {
        let is_unprocessed = stream.reset.is_some_and(|reset| reset.certainty == Certainty::NotProcessed);
        if is_unprocessed && !self.going_away && self.wire == Wire::Faithful {
            self.waiting.push_back(stream.exchange);
            return;
        }
        let progress = |ended| if ended { Progress::Whole } else { Progress::Cut };
        let outcome = Outcome {
            sent: progress(stream.sent.ended),
            received: progress(stream.received.ended),
            reset: stream.reset,
        };
        let place = &mut self.outcomes[stream.exchange];
        assert!(place.is_none() || self.wire == Wire::Corrupt, "one exchange was carried out twice");
        *place = Some(outcome);
        self.tally.whole +=
            usize::from((outcome.sent, outcome.received) == (Progress::Whole, Progress::Whole));
    }
}

fn outgoing(exchange: &Exchange, side: Side) -> &Message {
    match side {
        Side::Client => &exchange.request,
        Side::Server => &exchange.response,
    }
}

fn piece_length(random: &mut Random) -> usize {
    match random.below(6) {
        0 => 1 + random.below(60_000),
        1 => 1,
        _ => 1 + random.below(2_000),
    }
}
