//! A cookie for a client that has none, so that it comes back to where its first request went; as Envoy gives one for
//! `hash_policy.cookie.ttl`.
//!
//! It says nothing of the endpoint: it is a number, and its hash the key. So it leads elsewhere when that endpoint leaves.

use std::time::Duration;

use meshwork_http::Head;

use crate::hash::xxh64;
use crate::model::HashKey;

/// Whatever the client asks for next belongs to its session.
pub const PATH: &str = "/";

/// A session that begins with this request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session<'a> {
    name: &'a str,
    /// Zero: for as long as the client runs.
    life: Duration,
    number: u64,
}

impl<'a> Session<'a> {
    /// `None`: clients that bring no such cookie are given none.
    pub fn begin(key: &'a HashKey, random: u64) -> Option<Self> {
        match key {
            HashKey::Cookie { name, given: Some(life) } => Some(Self { name, life: *life, number: random }),
            HashKey::Cookie { given: None, .. } | HashKey::Header(_) | HashKey::Source => None,
        }
    }

    /// What `key_of` will find in the requests that bring the cookie.
    pub fn key(&self) -> u64 {
        xxh64(self.value().as_bytes(), 0)
    }

    /// Gives the client its cookie with this answer, unless the application gives one of that name.
    pub fn give(&self, response: &mut Head) {
        let is_it = |value: &[u8]| {
            value
                .strip_prefix(self.name.as_bytes())
                .is_some_and(|rest| rest.trim_ascii_start().starts_with(b"="))
        };
        let mut given = response.fields().filter(|(name, _)| name.eq_ignore_ascii_case(b"set-cookie"));
        if given.any(|(_, value)| is_it(value.trim_ascii_start())) {
            return;
        }
        // Of less than a second it would be gone at once (RFC 6265, 5.2.2).
        let seconds = self.life.as_secs() + u64::from(self.life.subsec_nanos() > 0);
        let age = if seconds == 0 { String::new() } else { format!("; Max-Age={seconds}") };
        let cookie = format!("{}={}{age}; Path={PATH}; HttpOnly", self.name, self.value());
        response.append("set-cookie", cookie.as_bytes());
    }

    fn value(&self) -> String {
        format!("{:016x}", self.number)
    }
}

#[cfg(test)]
mod tests {
    use meshwork_http::{StatusCode, Version};

    use super::*;
    use crate::balance::key_of;

    const NUMBER: u64 = 0x0123_4567_89ab_cdef;

    fn cookie(given: Option<Duration>) -> HashKey {
        HashKey::Cookie { name: "session".to_owned(), given }
    }

    /// What an answer that has these cookies already says of cookies then.
    fn given(life: Duration, set: &[&str]) -> Vec<String> {
        let mut head = Head::default();
        head.start_response(Version::Http11, StatusCode::OK, b"");
        set.iter().for_each(|cookie| head.append("Set-Cookie", cookie.as_bytes()));
        Session::begin(&cookie(Some(life)), NUMBER).unwrap().give(&mut head);
        let cookies = head.fields().filter(|(name, _)| name.eq_ignore_ascii_case(b"set-cookie"));
        cookies.map(|(_, value)| String::from_utf8(value.to_vec()).unwrap()).collect()
    }

    #[test]
    fn who_comes_with_the_cookie_that_was_given_has_the_key_of_the_first_request() {
        let key = cookie(Some(Duration::ZERO));
        let session = Session::begin(&key, NUMBER).unwrap();
        let [set] = &given(Duration::ZERO, &[])[..] else { panic!("one cookie") };
        let mut head = Head::default();
        head.start_request(Version::Http11, "GET", "/");
        head.append("Cookie", set.split(';').next().unwrap().as_bytes());
        assert_eq!(key_of(&key, Some(&head), None), Some(session.key()));
    }

    #[test]
    fn a_cookie_is_given_for_as_long_as_it_is_said_and_never_beside_the_applications_own() {
        let of_run = "session=0123456789abcdef; Path=/; HttpOnly";
        assert_eq!(given(Duration::ZERO, &[]), [of_run]);
        let of_hour = "session=0123456789abcdef; Max-Age=3600; Path=/; HttpOnly";
        assert_eq!(given(Duration::from_secs(3_600), &["theme=dark"]), ["theme=dark", of_hour]);
        let of_second = "session=0123456789abcdef; Max-Age=1; Path=/; HttpOnly";
        assert_eq!(given(Duration::from_millis(1), &["sessions=1"]), ["sessions=1", of_second]);
        assert_eq!(
            given(Duration::ZERO, &["a=b", " session =own; Secure"]),
            ["a=b", " session =own; Secure"]
        );
        for key in [cookie(None), HashKey::Header("session".to_owned()), HashKey::Source] {
            assert_eq!(Session::begin(&key, NUMBER), None);
        }
    }
}
