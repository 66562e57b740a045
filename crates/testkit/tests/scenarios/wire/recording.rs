//! What was said, as text: for each conversation a heading and a line for all that one end said in one go, in hexadecimal
//! digits; before them, facts that a reader needs to know of the mesh that it was said in.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Who said it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum By {
    /// Whoever connected.
    Client,
    Server,
}

pub(crate) type Said = Vec<(By, Vec<u8>)>;

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Conversation {
    /// Accounts; a control plane's is `control`, and who has none yet is `nobody`.
    pub(crate) client: String,
    pub(crate) server: String,
    /// A gRPC method's path, whose messages are the lines; else what TLS agreed on, and the lines are bytes.
    pub(crate) about: String,
    pub(crate) said: Said,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Recording {
    pub(crate) facts: BTreeMap<String, String>,
    pub(crate) conversations: Vec<Conversation>,
}

impl Recording {
    pub(crate) fn parse(text: &str) -> Self {
        let mut recording = Self::default();
        for line in text.lines() {
            let (sign, rest) = line.split_once(' ').unwrap_or((line, ""));
            match sign {
                "#" | "" => {}
                "@" => {
                    let (name, value) = rest.split_once(' ').expect("a fact has a name and a value");
                    recording.facts.insert(name.to_owned(), value.to_owned());
                }
                "==" => {
                    let [client, server, about] = rest.split(' ').collect::<Vec<_>>()[..] else {
                        panic!("no heading: {line}")
                    };
                    let (client, server) = (client.to_owned(), server.to_owned());
                    let about = about.to_owned();
                    recording.conversations.push(Conversation { client, server, about, said: Vec::new() });
                }
                ">" | "<" => {
                    let by = if sign == ">" { By::Client } else { By::Server };
                    let last = recording.conversations.last_mut().expect("a heading comes first");
                    last.said.push((by, bytes(rest)));
                }
                _ => panic!("no line of a recording: {line}"),
            }
        }
        recording
    }

    pub(crate) fn fact(&self, name: &str) -> &str {
        self.facts.get(name).unwrap_or_else(|| panic!("{name} was not recorded"))
    }

    /// All that were about it, in their order.
    pub(crate) fn all<'r>(&'r self, client: &str, server: &str, about: &str) -> Vec<&'r Conversation> {
        let wanted =
            |one: &&Conversation| (&*one.client, &*one.server, &*one.about) == (client, server, about);
        self.conversations.iter().filter(wanted).collect()
    }

    /// The first.
    #[track_caller]
    pub(crate) fn one<'r>(&'r self, client: &str, server: &str, about: &str) -> &'r Conversation {
        let all = self.all(client, server, about);
        all.first().unwrap_or_else(|| panic!("nothing of {client} to {server} about {about} was recorded"))
    }

    /// With other bytes in place of some, wherever they are said. As long, since lengths are said, too.
    #[track_caller]
    pub(crate) fn replace(&mut self, these: impl AsRef<[u8]>, with: impl AsRef<[u8]>) {
        let (these, with) = (these.as_ref(), with.as_ref());
        let said = self.conversations.iter_mut().flat_map(|one| &mut one.said);
        let count: usize = said.map(|(_, bytes)| replace(bytes, these, with)).sum();
        assert!(count > 0, "{:?} is not said", String::from_utf8_lossy(these));
    }
}

impl std::fmt::Display for Recording {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (name, value) in &self.facts {
            writeln!(f, "@ {name} {value}")?;
        }
        for Conversation { client, server, about, said } in &self.conversations {
            writeln!(f, "== {client} {server} {about}")?;
            for (by, bytes) in said {
                let sign = if *by == By::Client { '>' } else { '<' };
                writeln!(f, "{sign} {}", digits(bytes))?;
            }
        }
        Ok(())
    }
}

impl Conversation {
    pub(crate) fn of(&self, by: By) -> Vec<&[u8]> {
        self.said.iter().filter(|(who, _)| *who == by).map(|(_, bytes)| &bytes[..]).collect()
    }
}

/// Replaces each, and says how many they were.
#[track_caller]
pub(crate) fn replace(bytes: &mut [u8], these: &[u8], with: &[u8]) -> usize {
    assert_eq!(these.len(), with.len(), "{:?}", String::from_utf8_lossy(with));
    let places: Vec<usize> = bytes
        .windows(these.len())
        .enumerate()
        .filter(|(_, window)| *window == these)
        .map(|(place, _)| place)
        .collect();
    for place in &places {
        bytes[*place..place + with.len()].copy_from_slice(with);
    }
    places.len()
}

pub(crate) fn says(bytes: &[u8], these: &[u8]) -> bool {
    bytes.windows(these.len()).any(|window| window == these)
}

fn digits(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut digits, byte| {
        // A String takes everything.
        let _ = write!(digits, "{byte:02x}");
        digits
    })
}

fn bytes(digits: &str) -> Vec<u8> {
    let digits: Vec<u32> = digits.chars().map(|digit| digit.to_digit(16).expect("hexadecimal")).collect();
    digits.chunks(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect()
}
